//! `--strict-host-ownership`: a host belongs to the namespace that named it first.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::harness::client::{becomes, echo, status};
use crate::harness::manifests::{self, ingress};
use crate::harness::{Instance, cluster, eventually};

const CLASS: &str = "ownership";

#[test]
fn a_host_stays_with_its_first_namespace_until_it_lets_go() {
    let cluster = cluster();
    // By name the younger would win.
    let older = cluster.namespace("ownership-verona");
    let younger = cluster.namespace("ownership-mantua");
    cluster.class(CLASS);
    cluster.apply(manifests::echo(&older, "romeo", 1));
    cluster.apply(manifests::echo(&younger, "juliet", 1));
    let all = |service| [("Prefix", "/", service)];
    cluster.put(&ingress(&older, "first", CLASS, &[("balcony.test", &all("romeo"))]));
    // Ages are in whole seconds.
    let second = || SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
    let made = second();
    eventually("the next second", || (second() > made + 1).then_some(()));

    let portunus = Instance::ready(CLASS, &["--strict-host-ownership"]);
    assert_eq!(echo(portunus.http(), "balcony.test", "/").text("name"), "romeo");
    // The same host with a path that nobody has, and a host of its own.
    let elsewhere: [(&str, &[manifests::Path]); 2] =
        [("balcony.test", &[("Prefix", "/letter", "juliet")]), ("garden.test", &all("juliet"))];
    cluster.put(&ingress(&younger, "second", CLASS, &elsewhere));
    assert_eq!(echo(portunus.http(), "garden.test", "/").text("name"), "juliet");
    assert_eq!(echo(portunus.http(), "balcony.test", "/letter").text("name"), "romeo");
    let refusal = eventually("a Warning for the younger", || {
        cluster.events(&younger, "Ingress", "second").into_iter().find(|event| event.starts_with("Warning Problem: "))
    });
    assert!(refusal.contains("balcony.test"), "{refusal}");
    assert!(refusal.contains("ownership-verona"), "the owner isn't named: {refusal}");
    // Nobody tells the owner that something was wrong.
    let told = cluster.events(&older, "Ingress", "first");
    assert!(!told.iter().any(|event| event.starts_with("Warning")), "{told:?}");

    // Another Ingress of the owner's namespace has its part of the host, young as it is.
    cluster.put(&ingress(&older, "third", CLASS, &[("balcony.test", &[("Exact", "/letter/urgent", "romeo")])]));
    cluster.delete("networking.k8s.io/v1", "Ingress", &older, "first");
    becomes(portunus.http(), "balcony.test", "/", 404);
    assert_eq!(echo(portunus.http(), "garden.test", "/").text("name"), "juliet");
    // It is younger than the other namespace's, which therefore has the host now.
    assert_eq!(echo(portunus.http(), "balcony.test", "/letter").text("name"), "juliet");
    assert_eq!(echo(portunus.http(), "balcony.test", "/letter/urgent").text("name"), "juliet");
    cluster.delete("networking.k8s.io/v1", "Ingress", &younger, "second");
    eventually("the host's return", || {
        (status(portunus.http(), "balcony.test", "/letter") == 404).then_some(())?;
        (echo(portunus.http(), "balcony.test", "/letter/urgent").text("name") == "romeo").then_some(())
    });
}
