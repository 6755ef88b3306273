//! The status of Ingresses, and the replica that writes it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Instance, Namespace, cluster, eventually, manifests, scale};

const NETWORKING: &str = "networking.k8s.io/v1";

fn namespace_with_class(name: &str) -> Namespace {
    cluster().class(name);
    cluster().namespace(name)
}

fn put_ingress(namespace: &str, name: &str, class: &str) {
    let host = format!("{name}.{namespace}.test");
    let rules: [(&str, &[manifests::Path]); 1] = [(&host, &[("Prefix", "/", "app")])];
    cluster().put(&manifests::ingress(namespace, name, class, &rules));
}

fn ingress(namespace: &str, name: &str) -> Value {
    cluster().get(NETWORKING, "Ingress", namespace, name).expect("the Ingress")
}

/// What the status of an Ingress says.
fn addresses(namespace: &str, name: &str) -> Vec<String> {
    let ingress = ingress(namespace, name);
    let entries = ingress["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
    let text = |entry: &Value| entry["ip"].as_str().or(entry["hostname"].as_str()).map(str::to_owned);
    entries.iter().filter_map(text).collect()
}

#[track_caller]
fn shows(namespace: &str, name: &str, expected: &[&str]) {
    eventually(&format!("{expected:?} as status"), || (addresses(namespace, name) == expected).then_some(()));
}

/// Who wrote an object's status.
fn writers(ingress: &Value) -> Vec<(&str, &str)> {
    let managed = ingress["metadata"]["managedFields"].as_array().expect("managed fields").iter();
    let of_status = managed.filter(|entry| entry["subresource"] == "status");
    of_status
        .map(|entry| (entry["manager"].as_str().unwrap_or_default(), entry["operation"].as_str().unwrap_or_default()))
        .collect()
}

/// A replica that has a name, and its Lease in the namespace.
fn replica(namespace: &str, name: &str, lease_duration: &str, flags: &[&str]) -> Instance {
    let own = ["--pod-namespace", namespace, "--pod-name", name, "--lease-duration", lease_duration];
    Instance::ready(namespace, &[&own, flags].concat())
}

#[track_caller]
fn leads(instance: &Instance) {
    eventually("the lead", || (instance.metric("portunus_leader") == 1.0).then_some(()));
}

/// Who holds a Lease.
fn holder(namespace: &str) -> Option<String> {
    let lease = cluster().get("coordination.k8s.io/v1", "Lease", namespace, namespace).expect("the Lease");
    lease["spec"]["holderIdentity"].as_str().map(str::to_owned)
}

#[test]
fn an_ingress_shows_the_load_balancers_address() {
    let cluster = cluster();
    let address = cluster.portunus().ip().to_string();
    let namespace = cluster.namespace("status-balancer");
    put_ingress(&namespace, "app", "portunus");
    shows(&namespace, "app", &[&address]);
    let shown = cluster.kubectl(&["get", "ingress", "-n", &namespace, "app", "--no-headers"]);
    assert!(shown.split_whitespace().any(|word| word == address), "{shown}");
    // Server-side apply, of the status and nothing else.
    let ingress = ingress(&namespace, "app");
    assert_eq!(writers(&ingress), [("portunus", "Apply")]);
    let managed = ingress["metadata"]["managedFields"].as_array().expect("managed fields");
    let ours = managed.iter().find(|entry| entry["manager"] == "portunus").expect("ours");
    let fields: Vec<_> = ours["fieldsV1"].as_object().expect("fields").keys().collect();
    assert_eq!(fields, ["f:status"]);
}

#[test]
fn addresses_are_those_of_the_nodes_or_what_the_operator_says() {
    let cluster = cluster();
    let namespace = namespace_with_class("status-addresses");
    let mut service = manifests::service(&namespace, "edge");
    service["spec"]["type"] = json!("NodePort");
    cluster.put(&service);
    put_ingress(&namespace, "app", &namespace);
    let edge = format!("{}/edge", &*namespace);
    let instance = replica(&namespace, "one", "2s", &["--publish-service", &edge]);
    let nodes = cluster.list("v1", "Node", "");
    let of_nodes = nodes.iter().filter_map(|node| node["status"]["addresses"].as_array()).flatten();
    let mut of_nodes: Vec<_> = of_nodes
        .filter(|address| address["type"] == "InternalIP")
        .filter_map(|address| address["address"].as_str())
        .collect();
    of_nodes.sort_unstable();
    shows(&namespace, "app", &of_nodes);
    assert_eq!(instance.stop(), Some(0));
    // It stays when the replica goes, and another says something else.
    assert_eq!(addresses(&namespace, "app"), of_nodes);
    let fixed = ["--publish-status-address", "192.0.2.7,edge.example"];
    let _instance = replica(&namespace, "two", "2s", &fixed);
    shows(&namespace, "app", &["192.0.2.7", "edge.example"]);
    let entries = &ingress(&namespace, "app")["status"]["loadBalancer"]["ingress"];
    assert_eq!(*entries, json!([{ "ip": "192.0.2.7" }, { "hostname": "edge.example" }]));
}

#[test]
fn nobody_elses_status_is_touched() {
    let cluster = cluster();
    let (north, south) = (namespace_with_class("status-north"), namespace_with_class("status-south"));
    // Each namespace has an Ingress of each class, and one of a third controller, who wrote its status.
    cluster.class("status-foreign");
    for namespace in [&north, &south] {
        for class in ["status-north", "status-south", "status-foreign"] {
            put_ingress(namespace, class, class);
        }
        let status = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": "192.0.2.99" }] } } }).to_string();
        let patch = ["--subresource=status", "--type=merge", "--patch", &status];
        cluster.kubectl(&[&["patch", "ingress", "-n", namespace, "status-foreign"], &patch[..]].concat());
    }
    let foreign = || [&north, &south].map(|namespace| ingress(namespace, "status-foreign"));
    let before = foreign();
    let _northern = replica(&north, "one", "2s", &["--publish-status-address", "192.0.2.1"]);
    let _southern = replica(&south, "one", "2s", &["--publish-status-address", "192.0.2.2"]);
    let both = || {
        for namespace in [&north, &south] {
            shows(namespace, "status-north", &["192.0.2.1"]);
            shows(namespace, "status-south", &["192.0.2.2"]);
        }
    };
    both();
    // A change has both look again.
    put_ingress(&north, "more", "status-north");
    put_ingress(&north, "most", "status-south");
    shows(&north, "more", &["192.0.2.1"]);
    shows(&north, "most", &["192.0.2.2"]);
    both();
    assert_eq!(foreign(), before);
}

#[test]
fn a_leader_that_dies_is_followed_by_another() {
    let namespace = namespace_with_class("status-leader");
    let publish = ["--publish-status-address", "192.0.2.1"];
    let one = replica(&namespace, "one", "2s", &publish);
    leads(&one);
    let two = replica(&namespace, "two", "2s", &publish);
    put_ingress(&namespace, "first", &namespace);
    shows(&namespace, "first", &["192.0.2.1"]);
    assert_eq!((holder(&namespace).as_deref(), two.metric("portunus_leader")), (Some("one"), 0.0));
    one.signal("KILL");
    let begun = Instant::now();
    put_ingress(&namespace, "second", &namespace);
    shows(&namespace, "second", &["192.0.2.1"]);
    let time = begun.elapsed();
    assert_eq!((holder(&namespace).as_deref(), two.metric("portunus_leader")), (Some("two"), 1.0));
    assert!(time < Duration::from_secs(20), "after {time:?}");
    if scale(false, true) {
        println!("proof: status again after the leader was killed, with a Lease of 2 s: {time:.1?}, goal 4 s");
    }
}

#[test]
fn a_leader_that_ends_frees_the_lease() {
    let namespace = namespace_with_class("status-resigns");
    let one = replica(&namespace, "one", "40s", &[]);
    leads(&one);
    let two = replica(&namespace, "two", "40s", &[]);
    assert_eq!(two.metric("portunus_leader"), 0.0);
    let begun = Instant::now();
    assert_eq!(one.stop(), Some(0));
    assert_ne!(holder(&namespace).as_deref(), Some("one"));
    leads(&two);
    // It looks seven times within the Lease's time, which it need not wait for.
    assert!(begun.elapsed() < Duration::from_secs(20), "after {:?}", begun.elapsed());
}

#[test]
fn the_last_replica_clears_the_status_if_the_operator_wants_that() {
    let namespace = namespace_with_class("status-cleared");
    let flags = ["--publish-status-address", "192.0.2.1", "--update-status-on-shutdown"];
    put_ingress(&namespace, "app", &namespace);
    let one = replica(&namespace, "one", "2s", &flags);
    leads(&one);
    let two = replica(&namespace, "two", "2s", &flags);
    shows(&namespace, "app", &["192.0.2.1"]);
    assert_eq!(one.stop(), Some(0));
    assert_eq!(addresses(&namespace, "app"), ["192.0.2.1"]);
    leads(&two);
    assert_eq!(addresses(&namespace, "app"), ["192.0.2.1"]);
    assert_eq!(two.stop(), Some(0));
    assert!(addresses(&namespace, "app").is_empty());
}
