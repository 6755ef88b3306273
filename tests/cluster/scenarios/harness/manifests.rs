//! Manifests of what the scenarios need, as JSON, which is YAML.

use serde_json::{Value, json};

/// A Deployment of echo servers with a Service of the same name in front, port 80 to 8080.
pub fn echo(namespace: &str, name: &str, replicas: usize) -> String {
    let [deployment, service] = [deployment(namespace, name, replicas), service(namespace, name)];
    format!("{deployment}\n---\n{service}\n")
}

pub fn deployment(namespace: &str, name: &str, replicas: usize) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "namespace": namespace, "name": name },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": name } },
            "template": { "metadata": { "labels": { "app": name } }, "spec": pod(name) },
        },
    })
}

/// The Pod of an echo server that is called `name`.
pub fn pod(name: &str) -> Value {
    json!({
        "terminationGracePeriodSeconds": 10,
        "containers": [{
            "name": "echo",
            "image": "echo",
            "args": ["--listen", ":8080", "--name", name],
            "ports": [{ "name": "http", "containerPort": 8080 }],
            "readinessProbe": { "httpGet": { "path": "/healthz", "port": 8080 }, "periodSeconds": 1 },
        }],
    })
}

pub fn service(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "namespace": namespace, "name": name },
        "spec": { "selector": { "app": name }, "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] },
    })
}

/// A rule's path: type, path and the Service that gets it, at its port 80.
pub type Path<'a> = (&'a str, &'a str, &'a str);

/// An Ingress of a class with rules by host; an empty host means all.
pub fn ingress(namespace: &str, name: &str, class: &str, rules: &[(&str, &[Path])]) -> Value {
    let path = |(kind, path, service): &Path| {
        json!({
            "pathType": kind,
            "path": path,
            "backend": { "service": { "name": service, "port": { "number": 80 } } },
        })
    };
    let rule = |(host, paths): &(&str, &[Path])| {
        let mut rule = json!({ "http": { "paths": paths.iter().map(path).collect::<Vec<_>>() } });
        if !host.is_empty() {
            rule["host"] = json!(host);
        }
        rule
    };
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": { "namespace": namespace, "name": name },
        "spec": { "ingressClassName": class, "rules": rules.iter().map(rule).collect::<Vec<_>>() },
    })
}

/// A Service without selector and its one slice, as scenarios fill them by hand.
pub fn selectorless(namespace: &str, name: &str, endpoints: &Value) -> [Value; 2] {
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "namespace": namespace, "name": name },
        "spec": { "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] },
    });
    [service, slice(namespace, name, endpoints)]
}

/// `endpoints` as in discovery.k8s.io/v1; their port is 8080.
pub fn slice(namespace: &str, service: &str, endpoints: &Value) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": namespace,
            "name": format!("{service}-1"),
            "labels": { "kubernetes.io/service-name": service },
        },
        "addressType": "IPv4",
        "ports": [{ "name": "http", "port": 8080 }],
        "endpoints": endpoints,
    })
}

/// A Secret of a certificate and its key, PEM.
pub fn tls_secret(namespace: &str, name: &str, certificate: &str, key: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "namespace": namespace, "name": name },
        "type": "kubernetes.io/tls",
        "stringData": { "tls.crt": certificate, "tls.key": key },
    })
}
