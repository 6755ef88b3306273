//! What the operator decides while Portunus runs: settings by a ConfigMap, and the namespaces that are served.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::access::{Kubeconfig, grant, reading};
use crate::harness::certificates::Authority;
use crate::harness::client::{becomes, echo, status};
use crate::harness::tls::Client;
use crate::harness::{Instance, cluster, eventually, manifests};

fn put_ingress(namespace: &str, class: &str, host: &str) {
    let rules: [(&str, &[manifests::Path]); 1] = [(host, &[("Prefix", "/", "app")])];
    cluster().put(&manifests::ingress(namespace, "app", class, &rules));
}

#[test]
fn settings_of_a_config_map_take_effect_at_once() {
    let cluster = cluster();
    let namespace = cluster.namespace("scope-settings");
    cluster.class(&namespace);
    cluster.apply(manifests::echo(&namespace, "app", 2));
    cluster.ready(&namespace, "app", 2);
    put_ingress(&namespace, &namespace, "settings.test");
    let authority = Authority::new();
    let identities = ["one", "two"].map(|name| {
        let identity = authority.leaf(&[&format!("{name}.test")]);
        cluster.put(&manifests::tls_secret(&namespace, name, &identity.chain_pem, &identity.key_pem));
        identity
    });
    let set = |data: &Value| {
        let metadata = json!({ "namespace": &*namespace, "name": "settings" });
        cluster.put(&json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data }));
    };
    let certificate = |name: &str| format!("{}/{name}", &*namespace);
    set(&json!({ "default-tls-certificate": certificate("one") }));
    let map = certificate("settings");
    let instance = Instance::ready(&namespace, &["--configmap", &map, "--pod-namespace", &namespace]);
    let default = || Client::new().connect(instance.https(), "unknown.test").1.leaf().clone();
    let asked = || -> BTreeSet<String> {
        (0..20).map(|_| echo(instance.http(), "settings.test", "/").text("pod").to_owned()).collect()
    };
    assert_eq!((default(), asked().len()), (identities[0].leaf.clone(), 2));

    set(&json!({ "default-tls-certificate": certificate("two"), "load-balance": "consistent_hash" }));
    eventually("the other certificate", || (default() == identities[1].leaf).then_some(()));
    // One client's address leads to one Pod.
    assert_eq!(asked().len(), 1);

    set(&json!({ "default-tls-certificate": certificate("one"), "worker-processes": "4", "load-balance": "best" }));
    eventually("Warnings", || {
        let events = cluster.events(&namespace, "ConfigMap", "settings");
        let about =
            |key: &str| events.iter().any(|event| event.starts_with("Warning Problem: ") && event.contains(key));
        (about("data[worker-processes]") && about("data[load-balance]")).then_some(())
    });
    // What is right in it counts; for the rest the flags do.
    assert_eq!((default(), asked().len()), (identities[0].leaf.clone(), 2));
}

#[test]
fn named_namespaces_are_served_with_rights_in_these_alone() {
    let cluster = cluster();
    let (watched, other) = (cluster.namespace("scope-watched"), cluster.namespace("scope-other"));
    cluster.class(&watched);
    for namespace in [&watched, &other] {
        cluster.apply(manifests::echo(namespace, "app", 1));
        cluster.ready(namespace, "app", 1);
        put_ingress(namespace, &watched, &format!("{}.test", &**namespace));
    }
    let kubeconfig = Kubeconfig::of_account(&watched, "portunus");
    grant(&watched, "portunus", true, &json!([reading("networking.k8s.io", &["ingressclasses"])]));
    // As in deploy/namespaced.
    let rules = json!([
        reading("networking.k8s.io", &["ingresses"]),
        reading("", &["services", "secrets"]),
        reading("discovery.k8s.io", &["endpointslices"]),
        { "apiGroups": ["networking.k8s.io"], "resources": ["ingresses/status"], "verbs": ["patch"] },
        { "apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "get", "patch"] },
        { "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create", "get", "update"] },
    ]);
    grant(&watched, "portunus", false, &rules);
    let account = format!("--as=system:serviceaccount:{}:portunus", &*watched);
    let (allowed, _) = cluster.try_run("kubectl", &["auth", "can-i", "list", "secrets", "-n", &other, &account], "");
    assert!(!allowed, "there would be nothing to see");

    let flags = ["--kubeconfig", kubeconfig.path(), "--watch-namespace", &watched, "--pod-namespace", &watched];
    let instance = Instance::ready(&watched, &[&flags[..], &["--publish-status-address", "192.0.2.1"]].concat());
    assert_eq!(echo(instance.http(), "scope-watched.test", "/").text("name"), "app");
    assert_eq!(status(instance.http(), "scope-other.test", "/"), 404);
    assert!(!instance.log().contains("forbidden"), "{}", instance.log());
    eventually("its status", || {
        let ingress = cluster.get("networking.k8s.io/v1", "Ingress", &watched, "app")?;
        (ingress["status"]["loadBalancer"]["ingress"][0]["ip"] == "192.0.2.1").then_some(())
    });
    eventually("an Event", || {
        cluster.events(&watched, "Ingress", "app").iter().any(|event| event.starts_with("Normal Sync")).then_some(())
    });
    let ingress = cluster.get("networking.k8s.io/v1", "Ingress", &other, "app").expect("the other Ingress");
    assert_eq!(ingress["status"]["loadBalancer"], json!({}));
}

#[test]
fn namespaces_are_served_while_they_have_the_label() {
    let cluster = cluster();
    let (one, two) = (cluster.namespace("scope-one"), cluster.namespace("scope-two"));
    cluster.class("scope-labels");
    let label = |namespace: &str, label: &Value| {
        cluster.patch("v1", "Namespace", "", namespace, &json!({ "metadata": { "labels": { "served": label } } }));
    };
    label(&one, &json!("yes"));
    for namespace in [&one, &two] {
        cluster.apply(manifests::echo(namespace, "app", 1));
        cluster.ready(namespace, "app", 1);
        put_ingress(namespace, "scope-labels", &format!("{}.test", &**namespace));
    }
    let flags = ["--watch-namespace-selector", "served=yes", "--pod-namespace", &one];
    let instance = Instance::ready("scope-labels", &flags);
    assert_eq!(status(instance.http(), "scope-one.test", "/"), 200);
    assert_eq!(status(instance.http(), "scope-two.test", "/"), 404);
    label(&two, &json!("yes"));
    becomes(instance.http(), "scope-two.test", "/", 200);
    label(&one, &json!("no"));
    becomes(instance.http(), "scope-one.test", "/", 404);
    label(&two, &Value::Null);
    becomes(instance.http(), "scope-two.test", "/", 404);
    label(&one, &json!("yes"));
    becomes(instance.http(), "scope-one.test", "/", 200);
}
