//! Rolling updates under load: of the Pods behind, and of Portunus's own. No request fails.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::load::{Load, Tally, Target};
use crate::harness::{Namespace, cluster, eventually, manifests, scale};

/// Pause of a client between two requests.
const PAUSE: Duration = Duration::from_millis(5);

/// Echo Pods behind the deployed instance, and what a client outside asks for to reach them. They close their
/// listener and idle connections at once at SIGTERM, and there is no preStop hook.
fn serve(name: &str, replicas: usize) -> (Namespace, Target) {
    let cluster = cluster();
    let (address, namespace) = (cluster.portunus(), cluster.namespace(name));
    let host = format!("{name}.test");
    cluster.apply(manifests::echo(&namespace, "app", replicas));
    let rules: [(&str, &[manifests::Path]); 1] = [(&host, &[("Prefix", "/", "app")])];
    cluster.put(&manifests::ingress(&namespace, "app", "portunus", &rules));
    cluster.ready(&namespace, "app", replicas);
    cluster.routed(&host);
    (namespace, Target { address, host, path: "/".into(), outside: true })
}

/// Clients that stay connected, clients that connect for each request, and requests that take their time.
fn loads(target: &Target) -> [Load; 3] {
    let slow = Target { path: "/?delay=200".into(), ..target.clone() };
    [Load::start(target, 4, PAUSE), Load::anew(target, 2, PAUSE), Load::start(&slow, 4, PAUSE)]
}

#[track_caller]
fn assert_none_failed(what: &str, loads: [Load; 3]) {
    let tallies = loads.map(Load::stop);
    let requests: u64 = tallies.iter().map(|tally| tally.requests).sum();
    let slowest = tallies.iter().map(|tally| tally.slowest).max().unwrap_or_default();
    tallies.iter().for_each(Tally::assert_none_failed);
    if scale(false, true) {
        println!("proof: failed requests, {what}: 0 of {requests} (slowest {slowest:.1?}), goal 0");
    }
}

fn restart(namespace: &str, deployment: &str) {
    let deployment = format!("deployment/{deployment}");
    // kubectl refuses a second one within a second.
    eventually("a restart", || {
        cluster().try_run("kubectl", &["rollout", "restart", "-n", namespace, &deployment], "").0.then_some(())
    });
    cluster().kubectl(&["rollout", "status", "-n", namespace, &deployment, "--timeout=180s"]);
}

#[test]
fn restarts_of_a_deployment_lose_no_request() {
    let (namespace, target) = serve("rolling-app", 3);
    let loads = loads(&target);
    let (restarts, begun) = (scale(3, 50), Instant::now());
    for _ in 0..restarts {
        restart(&namespace, "app");
    }
    let time = begun.elapsed();
    assert_none_failed(&format!("{restarts} restarts of a Deployment in {time:.0?}"), loads);
}

#[test]
fn fewer_and_more_pods_lose_no_request() {
    let (namespace, target) = serve("rolling-scale", 10);
    // Nine of ten that end in one moment leave an idempotent request's one more try nowhere to go. Here they serve
    // on for a second after SIGTERM, as those do that have a preStop hook.
    let linger = json!({ "spec": { "template": { "spec": { "containers": [
        { "name": "echo", "args": ["--listen", ":8080", "--name", "app", "--linger", "1000"] },
    ] } } } });
    cluster().kubectl(&["patch", "-n", &namespace, "deployment/app", "--patch", &linger.to_string()]);
    cluster().kubectl(&["rollout", "status", "-n", &namespace, "deployment/app", "--timeout=120s"]);
    cluster().ready(&namespace, "app", 10);
    let loads = loads(&target);
    for _ in 0..scale(1, 10) {
        for replicas in [1, 5, 10] {
            cluster().kubectl(&["scale", "-n", &namespace, "deployment/app", &format!("--replicas={replicas}")]);
            cluster().ready(&namespace, "app", replicas);
        }
    }
    assert_none_failed("10 → 1 → 5 → 10 Pods", loads);
}

/// Waits until three Pods of Portunus are ready, and none is on its way out.
fn three_of_portunus() -> Vec<String> {
    eventually("three Pods of Portunus", || {
        let pods = cluster().list("v1", "Pod", "portunus");
        let ready = pods.iter().filter(|pod| {
            let conditions = pod["status"]["conditions"].as_array();
            conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
        });
        let names: Vec<_> = ready.map(|pod| pod["metadata"]["name"].as_str().expect("a name").to_owned()).collect();
        (names.len() == 3 && pods.len() == 3).then_some(names)
    })
}

#[test]
fn portunus_itself_is_updated_without_a_failed_request() {
    let (_namespace, target) = serve("rolling-self", 2);
    // What the HorizontalPodAutoscaler would do within 15 s.
    cluster().kubectl(&["scale", "-n", "portunus", "deployment/portunus", "--replicas=3"]);
    let before = three_of_portunus();
    // A cloud's load balancer takes seconds to take up a node; there is none to be waited for here.
    let ready_seconds = |seconds: u32| {
        let patch = json!({ "spec": { "minReadySeconds": seconds } });
        cluster().patch("apps/v1", "Deployment", "portunus", "portunus", &patch);
    };
    ready_seconds(scale(0, 5));
    let loads = loads(&target);
    let updates = scale(1, 3);
    for _ in 0..updates {
        restart("portunus", "portunus");
    }
    let after = three_of_portunus();
    assert_none_failed(&format!("{updates} updates of 3 replicas of Portunus"), loads);
    assert!(after.iter().all(|name| !before.contains(name)), "{before:?} {after:?}");
    ready_seconds(5);
}

#[test]
fn pods_of_portunus_are_deleted_without_a_failed_request() {
    let (_namespace, target) = serve("rolling-delete", 2);
    cluster().kubectl(&["scale", "-n", "portunus", "deployment/portunus", "--replicas=3"]);
    let pods = three_of_portunus();
    let loads = loads(&target);
    let deleted = scale(1, 3);
    for pod in &pods[..deleted] {
        cluster().kubectl(&["delete", "pod", "-n", "portunus", pod, "--wait=false"]);
        eventually("the end of a Pod", || (!three_of_portunus().contains(pod)).then_some(()));
    }
    assert_none_failed(&format!("{deleted} Pods of Portunus deleted"), loads);
}
