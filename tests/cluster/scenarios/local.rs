//! `--deny-local-endpoints`, which is on in a cluster: nobody who may write Services and EndpointSlices gets requests
//! sent to the node, its link or the API server. Some of it the API server refuses by itself, in slices that have it
//! plainly; the rest, and external names, are Portunus's to refuse.

use serde_json::{Value, json};

use crate::harness::client::{becomes, echo, status};
use crate::harness::manifests::{self, ingress};
use crate::harness::{Cluster, Instance, cluster, eventually};

const CLASS: &str = "local";

/// Where the API server is, as its own slice says.
fn api_server(cluster: &Cluster) -> (String, Value) {
    let slice = cluster.get("discovery.k8s.io/v1", "EndpointSlice", "default", "kubernetes").expect("its slice");
    let address = slice["endpoints"][0]["addresses"][0].as_str().expect("an address");
    (address.to_owned(), slice["ports"][0]["port"].clone())
}

/// A Service without selector, with such a slice, and an Ingress for `NAME.local.test`. Says whether the API server
/// takes the slice.
fn serve_at(cluster: &Cluster, namespace: &str, name: &str, kind: &str, addresses: &[&str], port: &Value) -> bool {
    let endpoints: Vec<Value> = addresses.iter().map(|address| json!({ "addresses": [address] })).collect();
    let [service, mut slice] = manifests::selectorless(namespace, name, &json!(endpoints));
    slice["addressType"] = json!(kind);
    slice["ports"][0]["port"] = port.clone();
    cluster.put(&service);
    let host = format!("{name}.local.test");
    cluster.put(&ingress(namespace, name, CLASS, &[(&host, &[("Prefix", "/", name)])]));
    let (taken, said) = cluster.try_run("kubectl", &["apply", "-f", "-"], &slice.to_string());
    println!("{name}: {addresses:?} {}", if taken { "is taken by the API server" } else { said.trim() });
    taken
}

/// What is wrong in the namespace, as `/debug/problems` has it.
fn problems(portunus: &Instance, namespace: &str) -> Vec<String> {
    let all = portunus.admin("/debug/problems").expect("an answer").json();
    let all = all.as_array().expect("a list").iter();
    all.filter(|problem| problem["object"]["namespace"] == *namespace).map(ToString::to_string).collect()
}

#[test]
fn what_is_local_gets_no_requests_whoever_writes_it() {
    let cluster = cluster();
    let namespace = cluster.namespace("local");
    cluster.class(CLASS);
    cluster.apply(manifests::echo(&namespace, "app", 1));
    cluster.ready(&namespace, "app", 1);
    cluster.put(&ingress(&namespace, "app", CLASS, &[("app.local.test", &[("Prefix", "/", "app")])]));
    let portunus = Instance::ready(CLASS, &["--allow-external-names", "--resolver", "10.96.0.10:53"]);
    let (api_server, api_port) = api_server(cluster);
    let pods = cluster.list("v1", "Pod", &namespace);
    let pod = pods[0]["status"]["podIP"].as_str().expect("its address");

    // Which of them the API server takes is its affair, and another version's may be another.
    let own = json!(portunus.http().port());
    let rows: [(&str, &str, &[&str], &Value, &str); 6] = [
        ("loopback", "IPv4", &["127.0.0.1"], &own, "a loopback address"),
        ("metadata", "IPv4", &["169.254.169.254"], &json!(80), "a link-local address"),
        ("azure", "IPv4", &["168.63.129.16"], &json!(80), "cloud's metadata"),
        ("translated", "IPv6", &["64:ff9b::7f00:1"], &own, "a loopback address"),
        ("api-server", "IPv4", &[&api_server], &api_port, "the API server's address"),
        ("api-service", "IPv4", &["10.96.0.1"], &json!(443), "the API server's address"),
    ];
    let mut refused = 0;
    for (name, kind, addresses, port, nature) in rows {
        if serve_at(cluster, &namespace, name, kind, addresses, port) {
            refused += 1;
            eventually(&format!("the Problem of {name}"), || {
                let is_told = |problem: &String| problem.contains(&format!("{name}-1")) && problem.contains(nature);
                problems(&portunus, &namespace).iter().any(is_told).then_some(())
            });
            let told = eventually("its Event", || {
                cluster.events(&namespace, "EndpointSlice", &format!("{name}-1")).into_iter().next()
            });
            assert!(told.starts_with("Warning") && told.contains("--deny-local-endpoints"), "{told}");
        }
        becomes(portunus.http(), &format!("{name}.local.test"), "/", 503);
    }
    assert!(refused >= 3, "the API server left nothing to refuse");

    // A good address beside a denied one is served, and it alone.
    let port = json!(8080);
    assert!(serve_at(cluster, &namespace, "mixed", "IPv4", &["168.63.129.16", pod], &port));
    assert_eq!(echo(portunus.http(), "mixed.local.test", "/").text("name"), "app");
    for _ in 0..10 {
        assert_eq!(status(portunus.http(), "mixed.local.test", "/"), 200);
    }

    for (name, external, nature) in [
        ("external", "localhost", "a loopback address"),
        ("external-api", "kubernetes.default.svc.cluster.local", "the API server's address"),
    ] {
        let spec = json!({ "type": "ExternalName", "externalName": external, "ports": [{ "port": 443 }] });
        let metadata = json!({ "namespace": &*namespace, "name": name });
        cluster.put(&json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec }));
        let backend = json!({ "service": { "name": name, "port": { "number": 443 } } });
        let host = format!("{name}.local.test");
        let mut ingress = ingress(&namespace, name, CLASS, &[(&host, &[("Prefix", "/", name)])]);
        ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"] = backend;
        cluster.put(&ingress);
        let told = eventually("the Event of an external name", || {
            let events = cluster.events(&namespace, "Service", name);
            events.into_iter().find(|event| event.contains(nature))
        });
        assert!(told.contains("spec.externalName") && told.contains(external), "{told}");
        assert_eq!(status(portunus.http(), &host, "/"), 503);
    }

    // The process goes on, and follows changes.
    assert_eq!(echo(portunus.http(), "app.local.test", "/").text("name"), "app");
    cluster.put(&ingress(&namespace, "later", CLASS, &[("later.local.test", &[("Prefix", "/", "app")])]));
    assert_eq!(echo(portunus.http(), "later.local.test", "/").text("name"), "app");
    assert!(!portunus.log().contains("panicked"), "{}", portunus.log());
    assert_eq!(portunus.stop(), Some(0));
}
