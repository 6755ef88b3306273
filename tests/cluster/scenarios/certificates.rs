//! Certificates come from Secrets, and a renewed one is served at once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use serde_json::json;

use crate::harness::certificates::{Authority, Identity};
use crate::harness::tls::Client;
use crate::harness::{Instance, Namespace, cluster, eventually, manifests, percentiles, scale};

/// An Ingress of a class `name` for the host `NAME.test` with the certificate of a Secret `first`, which isn't there.
fn serve(name: &str) -> (Namespace, String, Instance) {
    let cluster = cluster();
    let (namespace, host) = (cluster.namespace(name), format!("{name}.test"));
    cluster.class(name);
    let rules: [(&str, &[manifests::Path]); 1] = [(&host, &[("Prefix", "/", "app")])];
    cluster.put(&manifests::ingress(&namespace, "app", name, &rules));
    let instance = Instance::ready(name, &["--pod-namespace", name, "--lease-duration", "2s"]);
    name_secret(&namespace, &host, "first");
    (namespace, host, instance)
}

fn name_secret(namespace: &str, host: &str, secret: &str) {
    let tls = json!({ "spec": { "tls": [{ "hosts": [host], "secretName": secret }] } });
    cluster().patch("networking.k8s.io/v1", "Ingress", namespace, "app", &tls);
}

fn put(namespace: &str, name: &str, chain: &str, key: &str) {
    cluster().put(&manifests::tls_secret(namespace, name, chain, key));
}

/// What a new client is shown.
fn leaf(instance: &Instance, host: &str) -> Result<CertificateDer<'static>, String> {
    let connected = Client::new().try_connect(instance.https(), host);
    connected.map(|(_, handshake)| handshake.leaf().clone()).map_err(|error| error.to_string())
}

/// Waits until a certificate is served; returns how long that took.
#[track_caller]
fn becomes(instance: &Instance, host: &str, identity: &Identity) -> Duration {
    let begun = Instant::now();
    while begun.elapsed() < crate::harness::PATIENCE {
        if leaf(instance, host).expect("a handshake") == identity.leaf {
            return begun.elapsed();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("the certificate for {host} was never served");
}

/// Waits for a Warning about a Secret.
#[track_caller]
fn warned(namespace: &str, secret: &str, words: &str) {
    eventually(&format!("a Warning: {words}"), || {
        let events = cluster().events(namespace, "Secret", secret);
        events.iter().any(|event| event.starts_with("Warning Problem: ") && event.contains(words)).then_some(())
    });
}

#[test]
fn a_secret_may_come_after_its_ingress_and_a_broken_one_changes_nothing() {
    let (namespace, host, instance) = serve("certificates-story");
    let (authority, cluster) = (Authority::new(), cluster());
    let [one, two, three] = [(); 3].map(|()| authority.leaf(&[&host]));
    let default = leaf(&instance, &host).expect("a handshake");

    put(&namespace, "first", &one.chain_pem, &one.key_pem);
    let created = becomes(&instance, &host, &one);

    // The Ingress names another Secret, which is there, and then one which comes later.
    put(&namespace, "second", &two.chain_pem, &two.key_pem);
    name_secret(&namespace, &host, "second");
    let renamed = becomes(&instance, &host, &two);
    name_secret(&namespace, &host, "third");
    eventually("the default certificate", || (leaf(&instance, &host).ok()? == default).then_some(()));
    put(&namespace, "third", &three.chain_pem, &three.key_pem);
    becomes(&instance, &host, &three);

    // Neither a key of another certificate nor something that is none takes the place of the last good one.
    put(&namespace, "third", &three.chain_pem, &one.key_pem);
    warned(&namespace, "third", "does not belong to the certificate");
    assert_eq!(leaf(&instance, &host).as_ref(), Ok(&three.leaf));
    put(&namespace, "third", "no certificate", &three.key_pem);
    warned(&namespace, "third", "has no PEM certificate");
    assert_eq!(leaf(&instance, &host).as_ref(), Ok(&three.leaf));
    put(&namespace, "third", &two.chain_pem, &two.key_pem);
    becomes(&instance, &host, &two);

    cluster.delete("v1", "Secret", &namespace, "third");
    eventually("the default certificate", || (leaf(&instance, &host).ok()? == default).then_some(()));
    put(&namespace, "third", &one.chain_pem, &one.key_pem);
    becomes(&instance, &host, &one);
    if scale(false, true) {
        println!("proof: a Secret created after its Ingress, served: {created:.1?}, goal 50 ms");
        println!("proof: another Secret named by an Ingress, served: {renamed:.1?}, goal 50 ms");
    }
}

#[test]
fn renewals_fail_no_handshake() {
    let (namespace, host, instance) = serve("certificates-renewal");
    let authority = Authority::new();
    let first = authority.leaf(&[&host]);
    put(&namespace, "first", &first.chain_pem, &first.key_pem);
    becomes(&instance, &host, &first);
    let (over, handshakes, address) = (AtomicBool::new(false), AtomicU64::new(0), instance.https());
    let mut times = Vec::new();
    let failures: Vec<String> = std::thread::scope(|scope| {
        let client = |resumes: bool| {
            let (over, handshakes, authority, host) = (&over, &handshakes, &authority, &host);
            scope.spawn(move || {
                let mut failures = Vec::new();
                let mut client = Client::trusting(authority);
                while !over.load(Ordering::Relaxed) {
                    if !resumes {
                        client = Client::trusting(authority);
                    }
                    // An answer too: tickets come with it. There is nobody behind.
                    let answered = client
                        .try_connect(address, host)
                        .map(|(mut connection, _)| connection.get(host, "/").status)
                        .map_err(|error| error.to_string());
                    if answered != Ok(503) {
                        failures.push(format!("{answered:?}"));
                    }
                    handshakes.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(2));
                }
                failures
            })
        };
        let clients = [client(false), client(false), client(true)];
        for _ in 0..scale(30, 1000) {
            let renewed = authority.leaf(&[&host]);
            put(&namespace, "first", &renewed.chain_pem, &renewed.key_pem);
            times.push(becomes(&instance, &host, &renewed));
        }
        over.store(true, Ordering::Relaxed);
        clients.into_iter().flat_map(|client| client.join().expect("a client doesn't panic")).collect()
    });
    let (handshakes, renewals) = (handshakes.into_inner(), times.len());
    assert!(failures.is_empty(), "{} of {handshakes} failed: {:?}", failures.len(), failures.first());
    if scale(false, true) {
        let (middle, high) = percentiles(times);
        println!("proof: failed handshakes during {renewals} renewals: 0 of {handshakes}, goal 0");
        println!(
            "proof: a renewed certificate, from written to served, p50 and p99: {middle:.1?} {high:.1?}, goal 50 ms"
        );
    }
}
