//! The conditions of endpoints: which of them are asked, and which only when there is no other.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::client::{becomes, echo, get, status};
use crate::harness::{Instance, cluster, eventually, manifests, scale};

/// Conditions of an endpoint as `ready`, `serving`, `terminating`: `+` true, `-` false, `?` not said.
fn conditions(signs: &str) -> Value {
    let mut conditions = json!({});
    for (name, sign) in ["ready", "serving", "terminating"].into_iter().zip(signs.chars()) {
        match sign {
            '?' => {}
            sign => conditions[name] = json!(sign == '+'),
        }
    }
    conditions
}

/// Each endpoint's conditions alone, and whether it is asked when no other is ready.
const TABLE: [(&str, bool); 11] = [
    ("+++", true), // publishNotReadyAddresses: ready even while it terminates
    ("++-", true),
    ("+-+", true),
    ("+--", true),
    ("-++", true), // still serves, and there is none better
    ("-+-", false),
    ("--+", false),
    ("---", false),
    ("???", true), // unknown means ready
    ("-??", false),
    ("-?+", true), // unknown means serving
];

#[test]
fn ready_endpoints_are_asked_and_without_any_those_that_serve_while_they_terminate() {
    let cluster = cluster();
    let namespace = cluster.namespace("conditions-table");
    cluster.class("conditions-table");
    for name in ["this", "other"] {
        cluster.apply(manifests::deployment(&namespace, name, 1).to_string());
        cluster.ready(&namespace, name, 1);
    }
    let address = |name: &str| {
        let pods = cluster.list("v1", "Pod", &namespace);
        let pod = pods.into_iter().find(|pod| pod["metadata"]["labels"]["app"] == *name).expect("its Pod");
        pod["status"]["podIP"].clone()
    };
    let (this, other) = (address("this"), address("other"));
    // The other endpoint is absent, not ready, serving while it terminates, or ready.
    let others: [Option<&str>; 4] = [None, Some("---"), Some("-++"), Some("++-")];
    let rows = TABLE.iter().flat_map(|(signs, asked)| others.map(|other| (*signs, *asked, other)));
    let rows: Vec<_> = rows
        .enumerate()
        .map(|(index, (signs, asked, beside))| {
            let ready = signs.starts_with(['+', '?']);
            let expected: BTreeSet<&str> = match beside {
                Some("++-") if ready => ["this", "other"].into(),
                Some("-++") if ready => ["this"].into(),
                Some("-++") if asked => ["this", "other"].into(),
                Some("++-" | "-++") => ["other"].into(),
                _ if asked => ["this"].into(),
                _ => [].into(),
            };
            let mut endpoints = vec![json!({ "addresses": [this], "conditions": conditions(signs) })];
            endpoints.extend(beside.map(|signs| json!({ "addresses": [other], "conditions": conditions(signs) })));
            let (service, host) = (format!("row-{index}"), format!("row-{index}.conditions.test"));
            let [object, slice] = manifests::selectorless(&namespace, &service, &json!(endpoints));
            let rules: [(&str, &[manifests::Path]); 1] = [(&host, &[("Prefix", "/", &service)])];
            let ingress = manifests::ingress(&namespace, &service, &namespace, &rules);
            cluster.block_on(async {
                for object in [object, slice, ingress] {
                    cluster.put_later(&object).await;
                }
            });
            (host, expected, format!("{signs} beside {beside:?}"))
        })
        .collect();
    // It starts with all of it in its first table, so there is nothing to wait for.
    let instance = Instance::ready(&namespace, &[]);
    for (host, expected, what) in &rows {
        if expected.is_empty() {
            assert_eq!(status(instance.http(), host, "/"), 503, "{what}");
            continue;
        }
        let seen: Vec<_> = (0..scale(8, 100)).map(|_| echo(instance.http(), host, "/")).collect();
        let seen: BTreeSet<_> = seen.iter().map(|seen| seen.text("name")).collect();
        assert_eq!(seen, *expected, "{what}");
    }
    if scale(false, true) {
        println!("proof: rows of conditions whose endpoints are asked as they should be: {0}, goal {0}", rows.len());
    }
}

#[test]
fn the_last_pod_serves_until_it_is_gone() {
    let cluster = cluster();
    let namespace = cluster.namespace("conditions-last");
    cluster.class("conditions-last");
    // It goes on serving for a while after SIGTERM, and its probe takes longer to notice.
    let mut lingers = manifests::deployment(&namespace, "app", 1);
    let container = &mut lingers["spec"]["template"]["spec"]["containers"][0];
    container["args"] = json!(["--listen", ":8080", "--name", "app", "--linger", "2500"]);
    container["readinessProbe"]["failureThreshold"] = json!(10);
    cluster.apply(format!("{lingers}\n---\n{}", manifests::service(&namespace, "app")));
    cluster.ready(&namespace, "app", 1);
    let rules: [(&str, &[manifests::Path]); 1] = [("last.test", &[("Prefix", "/", "app")])];
    cluster.put(&manifests::ingress(&namespace, "app", &namespace, &rules));
    let instance = Instance::ready(&namespace, &[]);
    becomes(instance.http(), "last.test", "/", 200);
    cluster.kubectl(&["scale", "-n", &namespace, "deployment/app", "--replicas=0"]);
    let ends = || {
        let slices = cluster.list("discovery.k8s.io/v1", "EndpointSlice", &namespace);
        slices.first().map(|slice| slice["endpoints"][0]["conditions"].clone())
    };
    let leaving = json!({ "ready": false, "serving": true, "terminating": true });
    eventually("the Pod's end in its EndpointSlice", || (ends()? == leaving).then_some(()));
    let mut served = 0;
    eventually("its end", || {
        let answer = get(instance.http(), "last.test", "/").expect("an answer");
        served += u32::from(answer.status == 200);
        (answer.status == 503).then_some(())
    });
    assert!(served > 10, "{served} answers while it was on its way out");
}
