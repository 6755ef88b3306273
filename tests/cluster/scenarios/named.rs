//! What annotations name is watched by its name, for as long as it is named: it may come later, change and go.

use serde_json::{Value, json};

use crate::harness::manifests::{self, ingress};
use crate::harness::{Cluster, Instance, Namespace, cluster, eventually};

const CLASS: &str = "named";
const FLAGS: [&str; 2] = ["--global-allowed-response-headers", "x-frame-options,x-verona"];

/// What is wrong with the Ingress.
fn problems(portunus: &Instance, namespace: &str) -> Vec<String> {
    let all = portunus.admin("/debug/problems").expect("an answer").json();
    let all = all.as_array().expect("a list").iter();
    let ours = all.filter(|problem| problem["object"]["namespace"] == *namespace);
    ours.map(|problem| problem["what"].as_str().expect("a text").to_owned()).collect()
}

/// Waits until the Ingress has this Problem, or none.
#[track_caller]
fn becomes(portunus: &Instance, namespace: &str, expected: Option<&str>) {
    let is_so = || (problems(portunus, namespace) == expected.into_iter().collect::<Vec<_>>()).then_some(());
    eventually(&format!("the Problem {expected:?}"), is_so);
}

fn annotate(cluster: &Cluster, namespace: &Namespace, value: &Value) {
    let annotations = json!({ "nginx.ingress.kubernetes.io/custom-headers": value });
    let patch = json!({ "metadata": { "annotations": annotations } });
    cluster.patch("networking.k8s.io/v1", "Ingress", namespace, "app", &patch);
}

#[test]
fn a_config_map_that_an_annotation_names_may_come_later_change_and_go() {
    let cluster = cluster();
    let namespace = cluster.namespace("named");
    cluster.class(CLASS);
    cluster.apply(manifests::echo(&namespace, "app", 1));
    cluster.ready(&namespace, "app", 1);
    cluster.put(&ingress(&namespace, "app", CLASS, &[("named.test", &[("Prefix", "/", "app")])]));
    let config_map = |name: &str, data: Value| {
        let metadata = json!({ "namespace": &*namespace, "name": name });
        cluster.put(&json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data }));
    };
    let portunus = Instance::ready(CLASS, &FLAGS);
    becomes(&portunus, &namespace, None);

    annotate(cluster, &namespace, &json!("named/fields"));
    becomes(&portunus, &namespace, Some("there is no ConfigMap named/fields"));
    config_map("fields", json!({ "x-frame-options": "DENY" }));
    becomes(&portunus, &namespace, None);
    config_map("fields", json!({ "x-frame-options": "DENY", "x-other": "1" }));
    becomes(&portunus, &namespace, Some("data[x-other] of ConfigMap named/fields is not allowed"));
    config_map("fields", json!({ "x-verona": "1" }));
    becomes(&portunus, &namespace, None);

    // Who begins now reads it before anybody is told that it isn't there.
    let second = Instance::ready(CLASS, &FLAGS);
    assert_eq!(problems(&second, &namespace), Vec::<String>::new());
    assert!(!second.log().contains("there is no ConfigMap"), "{}", second.log());

    // Nor is anybody told when the annotation names another one that is there.
    config_map("more-fields", json!({ "x-more": "1" }));
    annotate(cluster, &namespace, &json!("more-fields"));
    becomes(&portunus, &namespace, Some("data[x-more] of ConfigMap named/more-fields is not allowed"));
    assert!(!portunus.log().contains("there is no ConfigMap named/more-fields"), "{}", portunus.log());
    cluster.delete("v1", "ConfigMap", &namespace, "more-fields");
    becomes(&portunus, &namespace, Some("there is no ConfigMap named/more-fields"));
    annotate(cluster, &namespace, &Value::Null);
    becomes(&portunus, &namespace, None);
    assert!(!portunus.log().contains("a watch has failed"), "{}", portunus.log());
}
