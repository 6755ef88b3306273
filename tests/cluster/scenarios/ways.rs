//! The ways of a request: from outside through the load balancer's address and a node's port, from inside through
//! a ClusterIP, and on to Pods of every kind.

use serde_json::json;

use crate::harness::client::{becomes, echo, outside};
use crate::harness::manifests::{self, deployment, ingress, pod, service};
use crate::harness::{cluster, eventually};

/// The address of the client outside.
const CLIENT: &str = "198.51.100.10";

#[test]
fn a_clients_address_arrives_through_the_load_balancer() {
    let cluster = cluster();
    let portunus = cluster.portunus();
    let namespace = cluster.namespace("ways-outside");
    cluster.apply(manifests::echo(&namespace, "app", 1));
    cluster.put(&ingress(&namespace, "app", "portunus", &[("ways.test", &[("Prefix", "/", "app")])]));
    let seen = outside(|| echo(portunus, "ways.test", "/hello?a=b"));
    // kube-proxy keeps the client's address (externalTrafficPolicy: Local), and Portunus hands it on.
    assert_eq!(seen.header("x-real-ip"), CLIENT);
    assert_eq!(seen.header("x-forwarded-for"), CLIENT);
    assert_eq!((seen.text("path"), seen.text("host")), ("/hello?a=b", "ways.test"));
    // The endpoint is the Pod itself, asked by a Pod of Portunus, and no Service is between them.
    let pods: Vec<_> = cluster.list("v1", "Pod", "portunus");
    let from = seen.text("remote").rsplit_once(':').expect("an address and a port").0;
    assert!(pods.iter().any(|pod| pod["status"]["podIP"] == *from), "{from} is no Pod of Portunus");
    let to = cluster.list("v1", "Pod", &namespace)[0]["status"]["podIP"].as_str().expect("its address").to_owned();
    assert_eq!(seen.text("local"), format!("{to}:8080"));
}

#[test]
fn a_nodes_port_and_a_cluster_ip_lead_there_too() {
    let cluster = cluster();
    cluster.portunus();
    let namespace = cluster.namespace("ways-ports");
    cluster.apply(manifests::echo(&namespace, "app", 1));
    cluster.put(&ingress(&namespace, "app", "portunus", &[("ports.test", &[("Prefix", "/", "app")])]));
    let service = cluster.get("v1", "Service", "portunus", "portunus").expect("the Service");
    let node = &cluster.list("v1", "Node", "")[0]["status"]["addresses"];
    let node = node.as_array().expect("addresses").iter().find(|address| address["type"] == "InternalIP");
    let node = node.expect("an address")["address"].as_str().expect("text");
    let node_port = format!("{node}:{}", service["spec"]["ports"][0]["nodePort"]).parse().expect("an address");
    let cluster_ip =
        format!("{}:80", service["spec"]["clusterIP"].as_str().expect("text")).parse().expect("an address");
    assert_eq!(outside(|| echo(node_port, "ports.test", "/")).header("x-real-ip"), CLIENT);
    assert_eq!(echo(cluster_ip, "ports.test", "/").text("name"), "app");
}

#[test]
fn a_headless_service_of_a_stateful_set_has_its_pods_as_endpoints() {
    let cluster = cluster();
    let portunus = cluster.portunus();
    let namespace = cluster.namespace("ways-headless");
    let mut headless = service(&namespace, "db");
    headless["spec"]["clusterIP"] = json!("None");
    let mut set = deployment(&namespace, "db", 3);
    set["kind"] = json!("StatefulSet");
    set["spec"]["serviceName"] = json!("db");
    set["spec"]["podManagementPolicy"] = json!("Parallel");
    cluster.apply(format!("{headless}\n---\n{set}"));
    cluster.put(&ingress(&namespace, "db", "portunus", &[("db.test", &[("Prefix", "/", "db")])]));
    cluster.ready(&namespace, "db", 3);
    let mut seen = std::collections::BTreeSet::new();
    eventually("an answer of each Pod", || {
        seen.insert(echo(portunus, "db.test", "/").text("pod").to_owned());
        (seen.len() == 3).then_some(())
    });
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["db-0", "db-1", "db-2"]);
}

#[test]
fn an_external_name_is_resolved_by_the_clusters_dns() {
    let cluster = cluster();
    let namespace = cluster.namespace("ways-external");
    cluster.class("external");
    let external = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "namespace": &*namespace, "name": "elsewhere" },
        "spec": { "type": "ExternalName", "externalName": "inside.ways-external.svc.cluster.local", "ports": [{ "port": 80 }] },
    });
    cluster.apply(manifests::echo(&namespace, "inside", 1));
    cluster.put(&external);
    cluster.put(&ingress(&namespace, "elsewhere", "external", &[("external.test", &[("Prefix", "/", "elsewhere")])]));
    cluster.ready(&namespace, "inside", 1);
    let flags = ["--allow-external-names", "--resolver", "10.96.0.10:53"];
    let portunus = crate::harness::Instance::ready("external", &flags);
    // The name is that of another Service, whose ClusterIP answers on its port.
    assert_eq!(echo(portunus.http(), "external.test", "/").text("name"), "inside");
    drop(portunus);
    // Without the operator's word it is not followed.
    let portunus = crate::harness::Instance::ready("external", &[]);
    becomes(portunus.http(), "external.test", "/", 503);
}

#[test]
fn a_sidecar_and_network_policies_are_in_nobodys_way() {
    let cluster = cluster();
    let portunus = cluster.portunus();
    let namespace = cluster.namespace("ways-sidecar");
    // The sidecar takes what comes to the Pod's port; the application listens behind it.
    let mut with_sidecar = deployment(&namespace, "app", 1);
    let mut containers = pod("app")["containers"].clone();
    let mut sidecar = containers[0].clone();
    sidecar["name"] = json!("sidecar");
    sidecar["args"] = json!(["--listen", ":8080", "--name", "sidecar"]);
    containers[0]["args"] = json!(["--listen", "127.0.0.1:9090", "--name", "app"]);
    containers[0].as_object_mut().expect("a container").remove("readinessProbe");
    containers.as_array_mut().expect("containers").push(sidecar);
    with_sidecar["spec"]["template"]["spec"]["containers"] = containers;
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "namespace": &*namespace, "name": "from-portunus" },
        "spec": {
            "podSelector": {},
            "policyTypes": ["Ingress"],
            "ingress": [{ "from": [{ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": "portunus" } } }] }],
        },
    });
    cluster.apply(format!("{with_sidecar}\n---\n{}\n---\n{policy}", service(&namespace, "app")));
    cluster.put(&ingress(&namespace, "app", "portunus", &[("sidecar.test", &[("Prefix", "/", "app")])]));
    assert_eq!(echo(portunus, "sidecar.test", "/").text("name"), "sidecar");
    // Both containers must be ready for the Pod to be an endpoint.
    cluster.ready(&namespace, "app", 1);
}
