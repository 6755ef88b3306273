//! What every ingress controller is expected to do, scenario by scenario as the public conformance suite of
//! Ingress has them (github.com/kubernetes-sigs/ingress-controller-conformance), against the deployed replicas.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use crate::harness::certificates::Authority;
use crate::harness::client::{ask, becomes, echo, get, outside};
use crate::harness::manifests::{self, ingress, tls_secret};
use crate::harness::{Echo, cluster, eventually, tls};

/// A name, what is asked for (host, path), and the Service that answers; without one the answer is 404.
type Case = (&'static str, &'static str, &'static str, Option<&'static str>);

const PATH_RULES: [Case; 16] = [
    ("exact /foo takes /foo", "exact-path-rules", "/foo", Some("foo-exact")),
    ("exact /foo leaves /foo/ alone", "exact-path-rules", "/foo/", None),
    ("exact is case sensitive", "exact-path-rules", "/FOO", None),
    ("exact /foo leaves another label alone", "exact-path-rules", "/bar", None),
    ("prefix /foo takes /foo", "prefix-path-rules", "/foo", Some("foo-prefix")),
    ("prefix /foo takes /foo/", "prefix-path-rules", "/foo/", Some("foo-prefix")),
    ("prefix is case sensitive", "prefix-path-rules", "/FOO", None),
    ("prefix /aaa/bbb is longer than /aaa", "prefix-path-rules", "/aaa/bbb", Some("aaa-slash-bbb-prefix")),
    ("prefix /aaa/bbb takes what is below it", "prefix-path-rules", "/aaa/bbb/ccc", Some("aaa-slash-bbb-prefix")),
    ("prefix /aaa takes the rest below it", "prefix-path-rules", "/aaa/ccc", Some("aaa-prefix")),
    ("prefix /aaa takes whole labels only", "prefix-path-rules", "/aaaccc", None),
    ("prefix /aaa/bbb takes /aaa/bbb/", "prefix-path-rules", "/aaa/bbb/", Some("aaa-slash-bbb-prefix")),
    ("exact /foo goes before prefix /foo", "mixed-path-rules", "/foo", Some("foo-exact")),
    ("prefix /aaa/bbb/ takes /aaa/bbb", "trailing-slash-path-rules", "/aaa/bbb", Some("aaa-slash-bbb-slash-prefix")),
    ("prefix /aaa/bbb/ takes /aaa/bbb/", "trailing-slash-path-rules", "/aaa/bbb/", Some("aaa-slash-bbb-slash-prefix")),
    ("exact /foo/ leaves /foo alone", "trailing-slash-path-rules", "/foo", None),
];

/// The first is asked by HTTPS too, which is the sixth of the suite.
const HOST_RULES: [Case; 5] = [
    ("a host takes its name", "foo.bar.com", "/", Some("foo-bar-com")),
    ("a host takes no other name", "subdomain.bar.com", "/", None),
    ("a wildcard takes a label in its place", "bar.foo.com", "/", Some("wildcard-foo-com")),
    ("a wildcard takes no two labels", "baz.bar.foo.com", "/", None),
    ("a wildcard takes no name without a label in its place", "foo.com", "/", None),
];

/// Beyond the suite: what the API's documentation says of hosts.
const MORE_HOST_RULES: [Case; 4] = [
    ("an exact host goes before a wildcard", "exact.foo.com", "/", Some("foo-bar-com")),
    ("the port in the request is none of the host's", "foo.bar.com:8080", "/", Some("foo-bar-com")),
    ("hosts don't differ by case", "Foo.Bar.COM", "/", Some("foo-bar-com")),
    ("a host that nobody names", "nobody.example", "/", None),
];

/// The class, or none at all, of an Ingress that has only a default backend.
fn default_backend(namespace: &str, class: &str, service: &str) -> Value {
    let mut all = ingress(namespace, "default-backend", class, &[]);
    all["spec"] = json!({
        "ingressClassName": class,
        "defaultBackend": { "service": { "name": service, "port": { "number": 80 } } },
    });
    all
}

/// The address in the status of an Ingress.
fn published(namespace: &str, name: &str) -> Option<String> {
    let ingress = cluster().get("networking.k8s.io/v1", "Ingress", namespace, name).expect("the Ingress");
    ingress["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().map(str::to_owned)
}

/// Waits until the status shows where the Ingress is to be had, and every replica answers for this host.
fn is_exposed(namespace: &str, name: &str, host: &str, target: &str) -> SocketAddr {
    let portunus = cluster().portunus();
    let address = eventually("an address in the Ingress's status", || published(namespace, name));
    assert_eq!(address, portunus.ip().to_string(), "the load balancer's");
    for replica in cluster().replicas() {
        becomes(SocketAddr::new(replica, 8080), host, target, 200);
    }
    portunus
}

#[track_caller]
fn check(portunus: SocketAddr, cases: &[Case]) {
    outside(|| {
        for (name, host, path, service) in cases {
            let response = get(portunus, host, path).unwrap_or_else(|error| panic!("{name}: {error}"));
            let Some(service) = service else {
                assert_eq!(response.status, 404, "{name}: {}", response.text());
                continue;
            };
            assert_eq!(response.status, 200, "{name}: {}", response.text());
            let seen = Echo(response.json());
            assert_eq!((seen.text("name"), seen.text("path"), seen.text("host")), (*service, *path, *host), "{name}");
        }
    });
}

#[test]
fn paths_of_rules() {
    let cluster = cluster();
    let namespace = cluster.namespace("conformance-paths");
    let services = [
        "foo-exact",
        "foo-prefix",
        "aaa-slash-bbb-prefix",
        "aaa-prefix",
        "aaa-slash-bbb-slash-prefix",
        "foo-slash-exact",
    ];
    cluster.apply(services.map(|service| manifests::echo(&namespace, service, 1)).join("---\n"));
    let rules: [(&str, &[manifests::Path]); 4] = [
        ("exact-path-rules", &[("Exact", "/foo", "foo-exact")]),
        (
            "prefix-path-rules",
            &[
                ("Prefix", "/foo", "foo-prefix"),
                ("Prefix", "/aaa/bbb", "aaa-slash-bbb-prefix"),
                ("Prefix", "/aaa", "aaa-prefix"),
            ],
        ),
        ("mixed-path-rules", &[("Prefix", "/foo", "foo-prefix"), ("Exact", "/foo", "foo-exact")]),
        (
            "trailing-slash-path-rules",
            &[("Prefix", "/aaa/bbb/", "aaa-slash-bbb-slash-prefix"), ("Exact", "/foo/", "foo-slash-exact")],
        ),
    ];
    cluster.put(&ingress(&namespace, "path-rules", "portunus", &rules));
    for service in services {
        cluster.ready(&namespace, service, 1);
    }
    for (_, host, path, _) in PATH_RULES.iter().filter(|(_, _, _, service)| service.is_some()) {
        is_exposed(&namespace, "path-rules", host, path);
    }
    check(is_exposed(&namespace, "path-rules", "trailing-slash-path-rules", "/foo/"), &PATH_RULES);
}

#[test]
fn hosts_of_rules() {
    let cluster = cluster();
    let namespace = cluster.namespace("conformance-hosts");
    let services = ["wildcard-foo-com", "foo-bar-com"];
    cluster.apply(services.map(|service| manifests::echo(&namespace, service, 1)).join("---\n"));
    let authority = Authority::new();
    let identity = authority.leaf(&["foo.bar.com"]);
    cluster.put(&tls_secret(&namespace, "conformance-tls", &identity.chain_pem, &identity.key_pem));
    let all = |service| [("Prefix", "/", service)];
    let (wild, exact) = (all(services[0]), all(services[1]));
    let rules: [(&str, &[manifests::Path]); 3] =
        [("*.foo.com", &wild), ("foo.bar.com", &exact), ("exact.foo.com", &exact)];
    let mut host_rules = ingress(&namespace, "host-rules", "portunus", &rules);
    host_rules["spec"]["tls"] = json!([{ "hosts": ["foo.bar.com"], "secretName": "conformance-tls" }]);
    // The specification knows no way from http to https.
    host_rules["metadata"]["annotations"] = json!({ "nginx.ingress.kubernetes.io/ssl-redirect": "false" });
    // A port by its name.
    host_rules["spec"]["rules"][1]["http"]["paths"][0]["backend"]["service"]["port"] = json!({ "name": "http" });
    cluster.put(&host_rules);
    for host in ["foo.bar.com", "bar.foo.com", "exact.foo.com"] {
        is_exposed(&namespace, "host-rules", host, "/");
    }
    let portunus = is_exposed(&namespace, "host-rules", "foo.bar.com", "/");
    check(portunus, &HOST_RULES);
    check(portunus, &MORE_HOST_RULES);

    // By HTTPS, with a certificate that the client verifies for the host's name.
    let client = tls::Client::trusting(&authority);
    for replica in cluster.replicas() {
        let address = SocketAddr::new(replica, 8443);
        eventually("the host's certificate", || client.try_connect(address, "foo.bar.com").ok());
    }
    let https = SocketAddr::new(portunus.ip(), 443);
    let (response, handshake) = outside(|| client.get(https, "foo.bar.com", "foo.bar.com", "/secure"));
    assert_eq!(*handshake.leaf(), identity.leaf);
    let seen = Echo(response.json());
    assert_eq!((seen.text("name"), seen.text("path"), seen.text("host")), ("foo-bar-com", "/secure", "foo.bar.com"));
    assert_eq!(seen.header("x-forwarded-proto"), "https");
    // Another host has not got it.
    assert!(outside(|| client.try_connect(https, "bar.foo.com").is_err()));
}

#[test]
fn a_default_backend_takes_every_host_path_and_method() {
    let cluster = cluster();
    let namespace = cluster.namespace("conformance-default");
    cluster.apply(manifests::echo(&namespace, "echo-service", 1));
    cluster.put(&default_backend(&namespace, "portunus", "echo-service"));
    let portunus = is_exposed(&namespace, "default-backend", "my-host", "/");
    let requests = [
        ("GET", "my-host", "/"),
        ("GET", "my-host", "/sub-path"),
        ("POST", "some-host", "/"),
        ("PUT", "", "/resource"),
        ("DELETE", "some-host", "/resource"),
        ("PATCH", "my-host", "/resource"),
    ];
    outside(|| {
        for (method, host, path) in requests {
            let address = portunus.ip().to_string();
            let host = if host.is_empty() { &*address } else { host };
            let response = ask(portunus, method, host, path).unwrap_or_else(|error| panic!("{method} {path}: {error}"));
            assert_eq!((response.status, response.head.word(0)), (200, "HTTP/1.1"), "{method} {host}{path}");
            for field in ["content-length", "content-type", "date"] {
                assert!(response.header(field).is_some_and(|value| !value.is_empty()), "{method}: no {field}");
            }
            let seen = Echo(response.json());
            assert_eq!(seen.text("name"), "echo-service");
            let request = (seen.text("method"), seen.text("host"), seen.text("path"), seen.text("proto"));
            assert_eq!(request, (method, host, path, "HTTP/1.1"));
        }
    });
    // Other scenarios have no use for it.
    cluster.delete("networking.k8s.io/v1", "Ingress", &namespace, "default-backend");
    for replica in cluster.replicas() {
        becomes(SocketAddr::new(replica, 8080), "my-host", "/", 404);
    }
}

#[test]
fn an_ingress_of_another_class_is_left_alone() {
    let cluster = cluster();
    cluster.portunus();
    let namespace = cluster.namespace("conformance-class");
    cluster.class("somebody-elses");
    cluster.apply(manifests::echo(&namespace, "app", 1));
    let classes = [("unknown", "some-invalid-class-name"), ("foreign", "somebody-elses"), ("ours", "portunus")];
    for (name, class) in classes {
        let host = format!("{name}.class.test");
        cluster.put(&ingress(&namespace, name, class, &[(&host, &[("Prefix", "/", "app")])]));
    }
    // Ours came last, so the others have been seen when it is served.
    let portunus = is_exposed(&namespace, "ours", "ours.class.test", "/");
    check(portunus, &[("ours", "ours.class.test", "/", Some("app"))]);
    for (name, host) in [("unknown", "unknown.class.test"), ("foreign", "foreign.class.test")] {
        check(portunus, &[("not ours", host, "/", None)]);
        assert_eq!(published(&namespace, name), None, "{name}");
    }
}

#[test]
fn an_ingress_without_a_class_is_of_the_default_class() {
    let cluster = cluster();
    let portunus = cluster.portunus();
    let namespace = cluster.namespace("conformance-default-class");
    cluster.put(&json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IngressClass",
        "metadata": {
            "name": "conformance-default",
            "annotations": { "ingressclass.kubernetes.io/is-default-class": "true" },
        },
        "spec": { "controller": "portunus.dev/ingress-controller" },
    }));
    cluster.apply(manifests::echo(&namespace, "app", 1));
    let mut classless = ingress(&namespace, "classless", "", &[("classless.test", &[("Prefix", "/", "app")])]);
    classless["spec"].as_object_mut().expect("a spec").remove("ingressClassName");
    // The API server knows of a new class a moment later.
    eventually("the default class in the Ingress", || {
        cluster.put(&classless);
        let stored = cluster.get("networking.k8s.io/v1", "Ingress", &namespace, "classless").expect("the Ingress");
        if stored["spec"]["ingressClassName"] == "conformance-default" {
            return Some(());
        }
        cluster.delete("networking.k8s.io/v1", "Ingress", &namespace, "classless");
        None
    });
    is_exposed(&namespace, "classless", "classless.test", "/");
    // Without its class it is nobody's.
    cluster.delete("networking.k8s.io/v1", "IngressClass", "", "conformance-default");
    for replica in cluster.replicas() {
        becomes(SocketAddr::new(replica, 8080), "classless.test", "/", 404);
    }
    check(portunus, &[("without its class", "classless.test", "/", None)]);
}

#[test]
fn load_is_spread_over_all_endpoints() {
    const PODS: usize = 10;
    const REQUESTS: usize = 1000;
    let cluster = cluster();
    let namespace = cluster.namespace("conformance-balance");
    cluster.apply(manifests::echo(&namespace, "app", 1));
    cluster.put(&ingress(&namespace, "balance", "portunus", &[("balance.test", &[("Prefix", "/", "app")])]));
    let portunus = is_exposed(&namespace, "balance", "balance.test", "/");
    cluster.kubectl(&["scale", "-n", &namespace, "deployment/app", &format!("--replicas={PODS}")]);
    cluster.ready(&namespace, "app", PODS);
    let pod =
        |address: IpAddr, port: u16| echo(SocketAddr::new(address, port), "balance.test", "/").text("pod").to_owned();
    for replica in cluster.replicas() {
        let mut seen = BTreeMap::<String, usize>::new();
        eventually("an answer of each Pod", || {
            *seen.entry(pod(replica, 8080)).or_default() += 1;
            (seen.len() == PODS).then_some(())
        });
    }
    let mut answers = BTreeMap::<String, usize>::new();
    outside(|| {
        for _ in 0..REQUESTS {
            *answers.entry(pod(portunus.ip(), 80)).or_default() += 1;
        }
    });
    // Each worker of each replica takes turns for itself.
    let share = REQUESTS / PODS;
    let even = answers.values().all(|count| (share / 2..=share * 3 / 2).contains(count));
    assert!(even && answers.len() == PODS, "{answers:?}");
}
