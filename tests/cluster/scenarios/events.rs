//! What users are told by Events: what is wrong, once, and that an Ingress is live.

use serde_json::{Value, json};

use crate::harness::client::echo;
use crate::harness::manifests::{self, ingress};
use crate::harness::{Instance, cluster, eventually};

const CLASS: &str = "events";

/// The Events of an Ingress whose reason is this.
fn events(namespace: &str, ingress: &str, reason: &str) -> Vec<Value> {
    let mut events = cluster().list("events.k8s.io/v1", "Event", namespace);
    events.retain(|event| event["regarding"]["name"] == *ingress && event["reason"] == *reason);
    events
}

/// An instance that writes Events.
fn leader() -> Instance {
    let portunus = Instance::ready(CLASS, &[]);
    eventually("the Lease", || (portunus.metric("portunus_leader") > 0.0).then_some(()));
    portunus
}

#[test]
fn a_problem_is_told_once_and_a_good_ingress_beside_it_is_live() {
    let cluster = cluster();
    let namespace = cluster.namespace("events");
    cluster.class(CLASS);
    cluster.apply(manifests::echo(&namespace, "app", 1));
    let portunus = leader();
    // Bad in all its parts but one, and there before the good one.
    let rules: [(&str, &[manifests::Path]); 2] = [
        ("good-part.events.test", &[("Prefix", "/", "app")]),
        ("bad.events.test", &[("Prefix", "/", "nowhere"), ("Prefix", "/a/%2e%2e/%2e%2e/b", "app")]),
    ];
    let mut bad = ingress(&namespace, "bad", CLASS, &rules);
    bad["spec"]["tls"] = json!([{ "hosts": ["bad.events.test"], "secretName": "nowhere" }]);
    cluster.put(&bad);
    cluster.put(&ingress(&namespace, "good", CLASS, &[("good.events.test", &[("Prefix", "/", "app")])]));
    echo(portunus.http(), "good.events.test", "/");
    echo(portunus.http(), "good-part.events.test", "/");

    let words = eventually("a Warning for each Problem", || {
        let words = cluster.events(&namespace, "Ingress", "bad");
        let warnings: Vec<_> = words.into_iter().filter(|words| words.starts_with("Warning Problem: ")).collect();
        (warnings.len() == 3).then_some(warnings)
    });
    let says = |parts: [&str; 2]| words.iter().any(|words| parts.iter().all(|part| words.contains(part)));
    assert!(
        says(["spec.rules[1].http.paths[0].backend.service.name: ", "there is no Service events/nowhere"]),
        "{words:?}"
    );
    assert!(says(["spec.rules[1].http.paths[1].path: ", "; "]), "{words:?}");
    assert!(says(["spec.tls[0]", "events/nowhere"]), "{words:?}");
    eventually("Normal Sync for the good one", || {
        let words = cluster.events(&namespace, "Ingress", "good");
        (words == ["Normal Sync: its routes are live"]).then_some(())
    });
    // `kubectl events` is what docs/kubernetes.md tells users to look at.
    let told = cluster.kubectl(&["events", "--for", "ingress/bad", "--namespace", &namespace]);
    assert!(told.contains("Warning") && told.contains("there is no Service events/nowhere"), "{told}");

    // The same Problems, whatever else of the Ingress changes, are no news.
    for change in 0..20 {
        let annotation = json!({ "metadata": { "annotations": { "events.test/change": change.to_string() } } });
        cluster.patch("networking.k8s.io/v1", "Ingress", &namespace, "bad", &annotation);
    }
    // A Problem that comes last is told behind what else there was to tell.
    let late = ingress(&namespace, "late", CLASS, &[("late.events.test", &[("Prefix", "/", "nowhere")])]);
    cluster.put(&late);
    eventually("a Warning for the last", || (events(&namespace, "late", "Problem").len() == 1).then_some(()));
    let warnings = events(&namespace, "bad", "Problem");
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(warnings.iter().all(|event| event["series"].is_null()), "{warnings:?}");

    // Another process finds them again: counted, not written anew.
    assert_eq!(portunus.stop(), Some(0));
    let portunus = leader();
    eventually("a count of two", || {
        let warnings = events(&namespace, "bad", "Problem");
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        warnings.iter().all(|event| event["series"]["count"] == 2).then_some(())
    });
    echo(portunus.http(), "good.events.test", "/");
}
