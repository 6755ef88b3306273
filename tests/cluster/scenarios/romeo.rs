//! The story of examples/romeo-and-juliet, told by its README's commands: calls inside of the cluster by names.

use std::net::SocketAddr;

use serde_json::Value;

use crate::harness::client::{echo, get};
use crate::harness::manifests::{self, ingress};
use crate::harness::{Echo, cluster, eventually};

const README: &str = "examples/romeo-and-juliet/README.md";
/// The internal instance's name, as callers use it.
const INTERNAL: &str = "portunus-internal.portunus-internal";

/// The answers in a Pod's log, each behind a line with its status and URL.
fn answers(log: &str) -> Vec<(&str, Echo)> {
    let mut lines = log.lines();
    let mut all = Vec::new();
    while let Some(line) = lines.next() {
        let url = line.strip_prefix("200 ").unwrap_or_else(|| panic!("no answer with 200 in `{line}` of\n{log}"));
        let body = lines.next().unwrap_or_else(|| panic!("no body for {url}"));
        all.push((url, Echo(serde_json::from_str(body).unwrap_or_else(|error| panic!("{error} in {body}")))));
    }
    all
}

/// The address part of `ADDR:PORT`.
fn address(text: &str) -> &str {
    text.rsplit_once(':').unwrap_or_else(|| panic!("no address: `{text}`")).0
}

fn pod_address(namespace: &str, pod: &str) -> String {
    let pod = cluster().get("v1", "Pod", namespace, pod).expect("the Pod");
    pod["status"]["podIP"].as_str().expect("its address").to_owned()
}

/// Waits until the Pod has done what it had to.
fn is_done(pod: &str) {
    eventually(&format!("{pod}'s end"), || {
        let pod = cluster().get("v1", "Pod", "verona", pod)?;
        (pod["status"]["phase"] == "Succeeded").then_some(())
    });
}

#[test]
fn romeo_calls_juliet_and_benvolio_carries_the_letters() {
    let cluster = cluster();
    cluster.portunus();
    // Each says that it is deployed so; `internal` runs the same commands, once for all scenarios.
    let internal = cluster.internal();
    cluster.documented(README, "kubectl apply -k deploy/internal");
    cluster.documented(README, "kubectl rollout status deployment/portunus-internal --namespace portunus-internal");
    let _verona = cluster.namespace_to_be("verona");
    let _mantua = cluster.namespace_to_be("mantua");
    cluster.documented(README, "kubectl apply -k examples/romeo-and-juliet");
    let deployments =
        [("verona", "juliet", 2), ("verona", "service-a", 1), ("verona", "service-b", 1), ("verona", "post-office", 1)];
    for (namespace, app, count) in deployments.into_iter().chain([("mantua", "post-office", 1)]) {
        cluster.ready(namespace, app, count);
    }
    let live =
        [(INTERNAL, "/romeo-please-call-me"), (INTERNAL, "/service-a"), ("gate.verona", "/"), ("gate.mantua", "/")];
    for (host, path) in live {
        echo(internal, host, path);
    }
    // If they were faster than the rest, send them again.
    cluster.documented(README, "kubectl delete pod romeo benvolio --namespace verona");
    cluster.documented(README, "kubectl apply -k examples/romeo-and-juliet");
    is_done("romeo");
    is_done("benvolio");

    romeos_calls();
    benvolios_letters();
    nothing_of_it_is_outside();
    cluster.documented(README, "kubectl delete -k examples/romeo-and-juliet");
}

fn romeos_calls() {
    let log = cluster().documented(README, "kubectl logs romeo --namespace verona");
    let answers = answers(&log);
    let [(straight, first), (through, second)] = &*answers else { panic!("two answers, not\n{log}") };
    let romeo = pod_address("verona", "romeo");
    // Straight to the Service: its port 80 is 8080 of the Pod, and nobody is between.
    assert_eq!(*straight, "http://juliet-service/romeo-please-call-me");
    assert_eq!((first.text("name"), first.text("path")), ("juliet", "/romeo-please-call-me"));
    assert_eq!((first.text("host"), address(first.text("remote"))), ("juliet-service", &*romeo));
    assert!(first.text("local").ends_with(":8080"), "{first:?}");
    assert_eq!(first.header("x-forwarded-for"), "");
    // Through the internal instance: one of its Pods asks, and says for whom.
    assert_eq!(*through, format!("http://{INTERNAL}/romeo-please-call-me"));
    assert_eq!((second.text("name"), second.text("path")), ("juliet", "/romeo-please-call-me"));
    assert_eq!((second.text("host"), second.header("x-forwarded-for")), (INTERNAL, romeo));
    assert!(second.text("local").ends_with(":8080"), "{second:?}");
    let replicas = cluster().list("v1", "Pod", "portunus-internal");
    let remote = address(second.text("remote"));
    assert!(replicas.iter().any(|pod| pod["status"]["podIP"] == *remote), "{remote} is no Pod of Portunus");
}

fn benvolios_letters() {
    let log = cluster().documented(README, "kubectl logs benvolio --namespace verona");
    let answers = answers(&log);
    let told: Vec<_> = answers.iter().map(|(url, seen)| (*url, seen.text("name"), seen.text("path"))).collect();
    let through = |path: &str| format!("http://{INTERNAL}{path}");
    let expected = [
        ("http://service-a/straight", "service-a", "/straight"),
        ("http://service-b/straight", "service-b", "/straight"),
        ("http://post-office.verona/straight", "verona", "/straight"),
        ("http://post-office.mantua/straight", "mantua", "/straight"),
        (&through("/service-a"), "service-a", "/service-a"),
        (&through("/service-b"), "service-b", "/service-b"),
        ("http://gate.verona/letter", "verona", "/letter"),
        ("http://gate.mantua/letter", "mantua", "/letter"),
    ];
    assert_eq!(told, expected);
    let benvolio = pod_address("verona", "benvolio");
    let (straight, through) = answers.split_at(4);
    assert!(straight.iter().all(|(_, seen)| address(seen.text("remote")) == benvolio), "{straight:?}");
    assert!(through.iter().all(|(_, seen)| seen.header("x-forwarded-for") == benvolio), "{through:?}");
}

/// The outer instance serves none of it, and has no part in these Ingresses' status.
fn nothing_of_it_is_outside() {
    let cluster = cluster();
    // It has seen all that came before this one.
    let namespace = cluster.namespace("romeo-outside");
    cluster.apply(manifests::echo(&namespace, "app", 1));
    cluster.put(&ingress(&namespace, "outside", "portunus", &[("outside.test", &[("Prefix", "/", "app")])]));
    for replica in cluster.replicas() {
        let replica = SocketAddr::new(replica, 8080);
        echo(replica, "outside.test", "/");
        for (host, path) in [(INTERNAL, "/service-a"), ("gate.verona", "/letter"), ("gate.mantua", "/letter")] {
            let response = get(replica, host, path).expect("an answer");
            assert_eq!(response.status, 404, "{host}{path} is served outside");
        }
    }
    let status = |namespace: &str, name: &str| -> Value {
        let ingress = cluster.get("networking.k8s.io/v1", "Ingress", namespace, name).expect("the Ingress");
        ingress["status"]["loadBalancer"]["ingress"].clone()
    };
    eventually("the outer instance's status", || status(&namespace, "outside")[0]["ip"].as_str().map(drop));
    for (namespace, name) in [("verona", "verona"), ("verona", "post-office"), ("mantua", "post-office")] {
        let addresses = eventually("the internal instance's status", || {
            Some(status(namespace, name)).filter(|addresses| !addresses.is_null())
        });
        let own = serde_json::json!([{ "hostname": format!("{INTERNAL}.svc") }]);
        assert_eq!(addresses, own, "{namespace}/{name}");
    }
}
