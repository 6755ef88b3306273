//! The API server goes away, hangs, and comes back: traffic goes on, and what changed takes effect.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::access::{Kubeconfig, Relay, grant, reading};
use crate::harness::client::{becomes, echo, outside, status};
use crate::harness::load::{Load, Target};
use crate::harness::{Instance, Namespace, cluster, eventually, manifests, scale};

const PAUSE: Duration = Duration::from_millis(5);

/// The API server is killed, and is there again when this ends.
struct Outage;

impl Outage {
    fn begin() -> Self {
        cluster().component("kill", "kube-apiserver");
        Self
    }

    #[expect(clippy::unused_self, reason = "only what has begun can end")]
    fn end(&self) {
        cluster().component("start", "kube-apiserver");
    }
}

impl Drop for Outage {
    /// Also after a scenario that failed in the middle. The others wait longer and longer before they try again;
    /// the next scenario should not.
    fn drop(&mut self) {
        cluster().try_run("cluster", &["ctl", "start", "kube-apiserver"], "");
        for component in ["kube-controller-manager", "kube-scheduler", "kube-proxy"] {
            for verb in ["kill", "start"] {
                cluster().try_run("cluster", &["ctl", verb, component], "");
            }
        }
    }
}

/// Echo Pods, and Ingresses of a class `name` for hosts `first.NAME.test` and `second.NAME.test` to them.
fn serve(name: &str) -> Namespace {
    let cluster = cluster();
    let namespace = cluster.namespace(name);
    cluster.class(name);
    cluster.apply(manifests::echo(&namespace, "app", 2));
    cluster.ready(&namespace, "app", 2);
    add(&namespace, "first");
    add(&namespace, "second");
    namespace
}

fn host(namespace: &str, ingress: &str) -> String {
    format!("{ingress}.{namespace}.test")
}

fn add(namespace: &str, name: &str) {
    let rules: [(&str, &[manifests::Path]); 1] = [(&host(namespace, name), &[("Prefix", "/", "app")])];
    cluster().put(&manifests::ingress(namespace, name, namespace, &rules));
}

fn remove(namespace: &str, name: &str) {
    cluster().delete("networking.k8s.io/v1", "Ingress", namespace, name);
}

fn load(instance: &Instance, namespace: &str) -> Load {
    let address = instance.http();
    let target = Target { address, host: host(namespace, "first"), path: "/".into(), outside: false };
    Load::start(&target, 4, PAUSE)
}

fn readiness(instance: &Instance) -> (u16, String) {
    let response = instance.admin("/readyz?verbose").expect("the admin port answers");
    (response.status, response.text())
}

/// Waits until the replica says whether its table may be behind: by metric and by `/readyz?verbose`.
#[track_caller]
fn is_stale(instance: &Instance, stale: bool) {
    let wanted = if stale { 1.0 } else { 0.0 };
    eventually(&format!("stale: {stale}"), || (instance.metric("portunus_stale") == wanted).then_some(()));
    let (status, text) = readiness(instance);
    assert!(status == 200 && text.contains(&format!("stale: {stale}\n")), "{status} {text}");
}

/// What changes right when the API server is back: one Ingress goes, another comes.
fn change_and_see(what: &str, instance: &Instance, namespace: &str) {
    let begun = Instant::now();
    add(namespace, "third");
    remove(namespace, "second");
    becomes(instance.http(), &host(namespace, "third"), "/", 200);
    becomes(instance.http(), &host(namespace, "second"), "/", 404);
    if scale(false, true) {
        println!("proof: changes live after {what}: {:.1?}, goal 10 s", begun.elapsed());
    }
}

#[test]
fn the_api_server_dies_and_no_request_fails() {
    let cluster = cluster();
    let namespace = serve("outage-killed");
    let deployed = cluster.portunus();
    let rules: [(&str, &[manifests::Path]); 1] = [("deployed.outage.test", &[("Prefix", "/", "app")])];
    cluster.put(&manifests::ingress(&namespace, "deployed", "portunus", &rules));
    cluster.routed("deployed.outage.test");
    let instance = Instance::ready(&namespace, &[]);
    let through = Target { address: deployed, host: "deployed.outage.test".into(), path: "/".into(), outside: true };
    let loads = [load(&instance, &namespace), Load::start(&through, 4, PAUSE), Load::anew(&through, 2, PAUSE)];
    is_stale(&instance, false);
    let time = scale(Duration::from_secs(3), Duration::from_secs(60));
    let outage = Outage::begin();
    loads[0].go_on(time);
    is_stale(&instance, true);
    let (_, text) = readiness(&instance);
    assert!(text.contains("Ingress: ") && !text.contains("Ingress: synced"), "which watch fails, and why: {text}");
    outage.end();
    change_and_see("an API server killed", &instance, &namespace);
    is_stale(&instance, false);
    outside(|| becomes(deployed, "deployed.outage.test", "/", 200));
    let tallies = loads.map(Load::stop);
    tallies.iter().for_each(crate::harness::load::Tally::assert_none_failed);
    let requests: u64 = tallies.iter().map(|tally| tally.requests).sum();
    if scale(false, true) {
        println!("proof: failed requests, API server killed for {time:.0?}: 0 of {requests}, goal 0");
    }
}

#[test]
fn a_replica_that_was_away_longer_than_the_servers_memory_lists_anew() {
    let cluster = cluster();
    let namespace = serve("outage-gone");
    let instance = Instance::ready(&namespace, &[]);
    becomes(instance.http(), &host(&namespace, "second"), "/", 200);
    let version = || {
        let list = cluster.kubectl(&["get", "--raw", "/apis/networking.k8s.io/v1/ingresses?limit=1"]);
        let list: serde_json::Value = serde_json::from_str(&list).expect("JSON");
        list["metadata"]["resourceVersion"].as_str().expect("a version").to_owned()
    };
    let before = version();
    instance.signal("STOP");
    add(&namespace, "third");
    remove(&namespace, "second");
    forget_history(&version());
    let outage = Outage::begin();
    outage.end();
    let path = format!("/apis/networking.k8s.io/v1/ingresses?watch=1&timeoutSeconds=1&resourceVersion={before}");
    let (_, watched) = cluster.try_run("kubectl", &["get", "--raw", &path], "");
    assert!(watched.contains("\"code\":410"), "{watched}");
    instance.signal("CONT");
    becomes(instance.http(), &host(&namespace, "third"), "/", 200);
    becomes(instance.http(), &host(&namespace, "second"), "/", 404);
    is_stale(&instance, false);
}

/// Has etcd forget what was before a version, as it does after some minutes; the API server's own memory is gone
/// when it is started anew.
fn forget_history(version: &str) {
    let body = json!({ "revision": version, "physical": true }).to_string();
    let etcd = "127.0.0.1:2379".parse().expect("an address");
    let mut connection = crate::harness::h1::Connection::open(etcd);
    let head = format!("POST /v3/kv/compaction HTTP/1.1\r\nHost: etcd\r\nContent-Length: {}\r\n\r\n", body.len());
    let answer = connection.ask(head + &body);
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[test]
fn a_broken_connection_is_made_anew_and_the_replica_is_stale_no_longer() {
    let namespace = serve("outage-cut");
    let relay = Relay::start();
    let kubeconfig = Kubeconfig::over(&relay);
    let instance = Instance::ready(&namespace, &["--kubeconfig", kubeconfig.path()]);
    let load = load(&instance, &namespace);
    is_stale(&instance, false);
    relay.cut();
    is_stale(&instance, true);
    add(&namespace, "third");
    relay.mend();
    becomes(instance.http(), &host(&namespace, "third"), "/", 200);
    // Nothing happens to most kinds of objects now, and still their watches are known to be back.
    is_stale(&instance, false);
    load.stop().assert_none_failed();
}

#[test]
fn the_api_server_hangs_and_no_request_fails() {
    let cluster = cluster();
    let namespace = serve("outage-hangs");
    let instance = Instance::ready(&namespace, &[]);
    let load = load(&instance, &namespace);
    cluster.component("pause", "kube-apiserver");
    let begun = Instant::now();
    // A watch that says nothing for 75 s hangs.
    load.go_on(scale(Duration::from_secs(2), Duration::from_secs(45)));
    if scale(false, true) {
        is_stale(&instance, true);
        println!("proof: a watch that hangs is noticed: {:.1?}, goal 75 s", begun.elapsed());
    }
    cluster.component("resume", "kube-apiserver");
    change_and_see("an API server that hung", &instance, &namespace);
    is_stale(&instance, false);
    load.stop().assert_none_failed();
}

#[test]
fn a_replica_without_the_api_server_is_ready_only_with_a_snapshot_file() {
    let cluster = cluster();
    let namespace = serve("outage-start");
    let identity = crate::harness::certificates::Authority::new().leaf(&[&host(&namespace, "first")]);
    cluster.put(&manifests::tls_secret(&namespace, "tls", &identity.chain_pem, &identity.key_pem));
    let both = json!({ "nginx.ingress.kubernetes.io/ssl-redirect": "false" });
    let tls = json!([{ "hosts": [host(&namespace, "first")], "secretName": "tls" }]);
    let tls = json!({ "metadata": { "annotations": both }, "spec": { "tls": tls } });
    cluster.patch("networking.k8s.io/v1", "Ingress", &namespace, "first", &tls);
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("letters").to_owned();
    let (good, damaged) = (path("good"), path("damaged"));
    let answers = |instance: &Instance| {
        let (mut connection, handshake) = tls_client(instance, &namespace);
        assert_eq!(handshake.leaf(), &identity.leaf);
        let over_tls = connection.get(&host(&namespace, "first"), "/a").status;
        let of = |name: &str| status(instance.http(), &host(&namespace, name), "/a");
        (over_tls, of("first"), of("second"), of("third"))
    };

    let instance = Instance::ready(&namespace, &["--snapshot-file", &good]);
    let before = answers(&instance);
    assert_eq!(before, (200, 200, 200, 404));
    let written = eventually("the snapshot file", || std::fs::metadata(&good).ok());
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&written) & 0o777, 0o600, "it holds keys");
    assert_eq!(instance.stop(), Some(0));
    let mut bytes = std::fs::read(&good).expect("the file");
    bytes.truncate(bytes.len() / 2);
    std::fs::write(&damaged, bytes).expect("the damaged file");

    let outage = Outage::begin();
    let without = Instance::start(&namespace, &[]);
    let refused = Instance::start(&namespace, &["--snapshot-file", &damaged]);
    let begun = Instant::now();
    let instance = Instance::ready(&namespace, &["--snapshot-file", &good]);
    let time = begun.elapsed();
    assert!(time < Duration::from_secs(15), "ready after {time:?}");
    assert_eq!(answers(&instance), before);
    is_stale(&instance, true);
    // The others began before it, and wait.
    assert!(refused.log().contains("the snapshot file can't be used"), "{}", refused.log());
    for other in [&without, &refused] {
        let (status, text) = readiness(other);
        assert!(status == 503 && text.contains("no table yet"), "{status} {text}");
        assert_eq!(other.admin("/livez").expect("an answer").status, 200);
    }
    if scale(false, true) {
        println!("proof: ready from the snapshot file: {time:.1?}, goal 10 s");
    }

    outage.end();
    remove(&namespace, "second");
    for other in [&instance, &without, &refused] {
        eventually("a ready replica", || (readiness(other).0 == 200).then_some(()));
        becomes(other.http(), &host(&namespace, "second"), "/", 404);
        assert_eq!(echo(other.http(), &host(&namespace, "first"), "/").text("name"), "app");
        is_stale(other, false);
    }
}

fn tls_client(
    instance: &Instance,
    namespace: &str,
) -> (crate::harness::h1::Connection<crate::harness::tls::Stream>, crate::harness::tls::Handshake) {
    crate::harness::tls::Client::new().connect(instance.https(), &host(namespace, "first"))
}

#[test]
fn a_replica_is_not_ready_before_every_watch_has_listed() {
    let namespace = serve("outage-rights");
    let kubeconfig = Kubeconfig::of_account(&namespace, "poor");
    let mut rules = vec![
        reading("networking.k8s.io", &["ingresses", "ingressclasses"]),
        reading("", &["services"]),
        reading("discovery.k8s.io", &["endpointslices"]),
    ];
    grant(&namespace, "poor", true, &json!(rules));
    let flags = ["--kubeconfig", kubeconfig.path(), "--pod-namespace", &namespace];
    let instance = Instance::start(&namespace, &flags);
    let text = eventually("the reason", || {
        let (status, text) = readiness(&instance);
        assert_eq!(status, 503, "{text}");
        (text.contains("Secret: ") && text.matches(": synced").count() == 4).then_some(text)
    });
    assert!(text.contains("secrets is forbidden"), "{text}");
    assert!(text.contains("no table yet") && text.contains("Ingress: synced"), "{text}");
    assert_eq!(instance.admin("/livez").expect("an answer").status, 200);
    rules.push(reading("", &["secrets"]));
    grant(&namespace, "poor", true, &json!(rules));
    eventually("a ready replica", || (readiness(&instance).0 == 200).then_some(()));
    assert_eq!(status(instance.http(), &host(&namespace, "first"), "/"), 200);
}
