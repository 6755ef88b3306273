//! The Helm chart, from its first installation to its end: a request, an upgrade that adds the webhook, what the
//! webhook says through the API server, and nothing that is left behind.

use std::net::SocketAddr;

use serde_json::Value;

use crate::harness::client::{echo, outside};
use crate::harness::manifests::{self, ingress};
use crate::harness::{Cluster, cluster, eventually};

const DOCUMENT: &str = "docs/kubernetes.md";
const CHART: &str = "deploy/helm/portunus";
/// The release's namespace; the documents' is `portunus`, which is taken.
const RELEASE: &str = "helm-portunus";
/// A class of its own, and what makes it quick.
const VALUES: &str = "ingressClass.name=helm,ingressClass.controller=scenarios/helm,autoscaling.enabled=false,\
                      replicas=1,preStopDelaySeconds=0";

/// Runs a documented command for the release's namespace, and with more arguments.
fn documented(cluster: &Cluster, document: &str, command: &str, more: &str) -> String {
    let text = std::fs::read_to_string(format!("{}/{document}", env!("CARGO_MANIFEST_DIR"))).expect("the document");
    assert!(text.lines().any(|line| line == command), "{document} doesn't print: {command}");
    let namespace = |word| if word == "portunus" { RELEASE } else { word };
    let (before, after) = command.split_once("namespace ").expect("a namespace");
    let (name, rest) = after.split_once(' ').unwrap_or((after, ""));
    cluster.run("bash", &["-c", &format!("{before}namespace {} {rest} {more}", namespace(name))], "")
}

/// The certificate in the webhook's Secret, and the authority in its configuration.
fn webhook_certificate(cluster: &Cluster) -> (Value, Value) {
    let secret = cluster.get("v1", "Secret", RELEASE, "portunus-webhook-tls").expect("the Secret");
    let name = format!("{RELEASE}-portunus");
    let version = "admissionregistration.k8s.io/v1";
    let webhook = cluster.get(version, "ValidatingWebhookConfiguration", "", &name).expect("the configuration");
    assert_eq!(webhook["webhooks"][0]["clientConfig"]["caBundle"], secret["data"]["ca.crt"]);
    (secret["data"].clone(), webhook["webhooks"][0]["clientConfig"]["caBundle"].clone())
}

fn is_rolled_out(cluster: &Cluster) {
    documented(cluster, DOCUMENT, "kubectl rollout status deployment/portunus --namespace portunus", "--timeout=120s");
}

#[test]
fn the_chart_has_no_faults() {
    let cluster = cluster();
    cluster.run("helm", &["lint", "--strict", CHART], "");
    let values = std::fs::read_dir(format!("{}/{CHART}/ci", env!("CARGO_MANIFEST_DIR"))).expect("a folder");
    for file in values {
        let file = file.expect("an entry").path();
        cluster.run("helm", &["lint", "--strict", CHART, "--values", file.to_str().expect("text")], "");
    }
    let misspelt = ["lint", "--strict", CHART, "--set", "webhook.enable=true"];
    let (ok, words) = cluster.try_run("helm", &misspelt, "");
    assert!(!ok && words.contains("enable"), "{words}");
}

#[test]
fn a_release_serves_reviews_and_leaves_nothing() {
    let cluster = cluster();
    let _release = cluster.namespace_to_be(RELEASE);
    let install = "helm install portunus deploy/helm/portunus --namespace portunus --create-namespace";
    documented(cluster, DOCUMENT, install, &format!("--set {VALUES}"));
    // From now on its Pods keep to the standard, or aren't made.
    let label = "kubectl label namespace portunus pod-security.kubernetes.io/enforce=restricted";
    documented(cluster, "deploy/helm/portunus/README.md", label, "");
    let namespace = cluster.namespace("helm-app");
    cluster.apply(manifests::echo(&namespace, "app", 1));
    cluster.put(&ingress(&namespace, "app", "helm", &[("helm.test", &[("Prefix", "/", "app")])]));
    let address = eventually("the load balancer's address", || {
        let service = cluster.get("v1", "Service", RELEASE, "portunus")?;
        service["status"]["loadBalancer"]["ingress"][0]["ip"].as_str()?.parse().ok()
    });
    let portunus = SocketAddr::new(address, 80);
    assert_eq!(outside(|| echo(portunus, "helm.test", "/")).text("name"), "app");
    eventually("the address in the Ingress's status", || {
        let ingress = cluster.get("networking.k8s.io/v1", "Ingress", &namespace, "app")?;
        (ingress["status"]["loadBalancer"]["ingress"][0]["ip"] == address.to_string()).then_some(())
    });

    // The webhook comes with a certificate, which an upgrade keeps.
    let upgrade =
        format!("helm upgrade portunus {CHART} --namespace {RELEASE} --reuse-values --set webhook.enabled=true");
    cluster.run("bash", &["-c", &upgrade], "");
    let made = webhook_certificate(cluster);
    cluster.run("bash", &["-c", &upgrade], "");
    assert_eq!(webhook_certificate(cluster), made);
    is_rolled_out(cluster);
    what_the_webhook_says(cluster, &namespace);
    assert_eq!(outside(|| echo(portunus, "helm.test", "/")).text("name"), "app");

    let manifest = cluster.run("helm", &["get", "manifest", "portunus", "--namespace", RELEASE], "");
    let left = || {
        let get = ["get", "--filename", "-", "--ignore-not-found", "--output", "name"];
        cluster.run("kubectl", &get, &manifest)
    };
    assert!(left().contains("deployment.apps/portunus"), "{}", left());
    documented(cluster, "deploy/helm/portunus/README.md", "helm uninstall portunus --namespace portunus", "");
    eventually("nothing of the manifest", || left().is_empty().then_some(()));
    for kind in ["Pod", "Service", "Secret"] {
        eventually(&format!("no {kind}"), || cluster.list("v1", kind, RELEASE).is_empty().then_some(()));
    }
}

/// By kubectl, as users see it.
fn what_the_webhook_says(cluster: &Cluster, namespace: &str) {
    let apply = |manifest: &Value, more: &[&str]| {
        cluster.try_run("kubectl", &[&["apply", "--filename", "-"], more].concat(), &manifest.to_string())
    };
    let path = |name: &str, class: &str, path: &str, service: &str| {
        let host = format!("{name}.helm.test");
        ingress(namespace, name, class, &[(&host, &[("Exact", path, service)])])
    };
    let bad = path("bad", "helm", "/a/%2e%2e/%2e%2e/b", "app");
    eventually("a review", || (!apply(&bad, &["--dry-run=server"]).0).then_some(()));
    let (ok, words) = apply(&bad, &[]);
    let expected = "admission webhook \"ingress.portunus.dev\" denied the request: spec.rules[0].http.paths[0].path: ";
    assert!(!ok && words.contains(expected), "{words}");
    assert_eq!(cluster.get("networking.k8s.io/v1", "Ingress", namespace, "bad"), None);
    // A path that another Ingress has.
    let mut taken = path("taken", "helm", "/", "app");
    taken["spec"]["rules"][0]["host"] = "helm.test".into();
    taken["spec"]["rules"][0]["http"]["paths"][0]["pathType"] = "Prefix".into();
    let (ok, words) = apply(&taken, &[]);
    assert!(!ok && words.contains("helm-app/app"), "{words}");
    // A good one passes without a word, one whose Service is missing with a warning.
    let (ok, words) = apply(&path("good", "helm", "/a", "app"), &[]);
    assert!(ok && words == "ingress.networking.k8s.io/good created\n", "{words}");
    let (ok, words) = apply(&path("early", "helm", "/a", "later"), &[]);
    let warning = "Warning: spec.rules[0].http.paths[0].backend.service.name: there is no Service helm-app/later";
    assert!(ok && words.contains(warning) && words.contains("early created"), "{words}");
    // Others' Ingresses are none of its business.
    let (ok, words) = apply(&path("others", "somebody-elses", "/a/%2e%2e/%2e%2e/b", "app"), &[]);
    assert!(ok && words == "ingress.networking.k8s.io/others created\n", "{words}");
}
