//! Objects as nobody should write them, as far as the API server takes them: random changes of good Ingresses,
//! Services, EndpointSlices and Secrets. Whatever they are, Portunus lives, and every other host keeps its answers.

mod mutants;

use std::collections::BTreeMap;
use std::time::Duration;

use kube::api::{DeleteParams, DynamicObject, ListParams, PostParams};
use serde_json::{Value, json};

use crate::harness::certificates::Authority;
use crate::harness::client::{becomes, get, status};
use crate::harness::load::Target;
use crate::harness::manifests::{self, ingress, tls_secret};
use crate::harness::{Cluster, Instance, Load, Namespace, cluster, eventually, scale, tls};
use mutants::{KINDS, LABEL, Mutants};

const CLASS: &str = "bad-objects";
/// Objects between two looks at the healthy hosts.
const BATCH: usize = 25;
/// The healthy hosts, by namespace: one is alone in its own, the other lives among the mutants.
const HEALTHY: &str = "bad-objects-healthy";
const MUTANTS: &str = "bad-objects-mutants";
const HOSTS: [&str; 2] = ["alone.healthy.test", "among-mutants.healthy.test"];

/// Writes a mutant, as a new object or over that of its name; says whether the API server took it.
fn write(cluster: &Cluster, mutant: &Value) -> bool {
    let text = |pointer: &str| mutant.pointer(pointer).and_then(Value::as_str).expect("mutants keep their names");
    let api = cluster.api(text("/apiVersion"), text("/kind"), MUTANTS);
    let Ok(object) = serde_json::from_value::<DynamicObject>(mutant.clone()) else { return false };
    cluster.block_on(async {
        let params = PostParams::default();
        match api.create(&params, &object).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {
                api.replace(text("/metadata/name"), &params, &object).await.is_ok()
            }
            created => created.is_ok(),
        }
    })
}

/// The healthy hosts' objects.
fn make_healthy(cluster: &Cluster, authority: &Authority) -> [Namespace; 2] {
    cluster.class(CLASS);
    let namespaces = [HEALTHY, MUTANTS].map(|name| cluster.namespace(name));
    for (namespace, host) in namespaces.iter().zip(HOSTS) {
        cluster.apply(manifests::echo(namespace, "app", 1));
        let identity = authority.leaf(&[host]);
        cluster.put(&tls_secret(namespace, "app-tls", &identity.chain_pem, &identity.key_pem));
        let mut ingress = ingress(namespace, "app", CLASS, &[(host, &[("Prefix", "/", "app")])]);
        ingress["spec"]["tls"] = json!([{ "hosts": [host], "secretName": "app-tls" }]);
        // It answers over http too.
        ingress["metadata"]["annotations"] = json!({ "nginx.ingress.kubernetes.io/ssl-redirect": "false" });
        cluster.put(&ingress);
    }
    namespaces
}

/// The Problems of objects in the two namespaces.
fn problems(portunus: &Instance) -> Vec<Value> {
    let all = portunus.admin("/debug/problems").expect("an answer").json();
    let mut all = all.as_array().expect("a list").clone();
    all.retain(|problem| [HEALTHY, MUTANTS].iter().any(|name| problem["object"]["namespace"] == **name));
    all
}

/// What the healthy hosts answer now, and that changes still take effect.
fn look(cluster: &Cluster, portunus: &Instance, authority: &Authority, round: usize) {
    let path = format!("/round-{round}");
    let fresh = ingress(HEALTHY, "fresh", CLASS, &[("fresh.healthy.test", &[("Exact", &path, "app")])]);
    cluster.put(&fresh);
    becomes(portunus.http(), "fresh.healthy.test", &path, 200);
    let client = tls::Client::trusting(authority);
    for host in HOSTS {
        assert_eq!(status(portunus.http(), host, "/"), 200, "{host} in round {round}");
        let (response, _) = client.get(portunus.https(), host, host, "/");
        assert_eq!(response.status, 200, "{host} in round {round}, by HTTPS");
    }
    // The mutants' own hosts may answer what they like, and so may a handshake for one.
    for number in 0..mutants::NAMES {
        let host = mutants::host(number);
        let _ = get(portunus.http(), &host, "/");
    }
    let _ = tls::Client::new().try_connect(portunus.https(), &mutants::host(round % mutants::NAMES));
    assert_eq!(portunus.admin("/livez").expect("an answer").status, 200, "after round {round}");
    assert!(!portunus.log().contains("panicked"), "a panic:\n{}", portunus.log());
}

#[test]
fn random_mutants_hurt_nobody_else() {
    let cluster = cluster();
    let wanted = scale(150, 1000);
    let authority = Authority::new();
    let namespaces = make_healthy(cluster, &authority);
    for namespace in &namespaces {
        cluster.ready(namespace, "app", 1);
    }
    let portunus = Instance::ready(CLASS, &["--allow-external-names", "--resolver", "10.96.0.10:53"]);
    let load = HOSTS.map(|host| {
        let target = Target { address: portunus.http(), host: host.to_owned(), path: "/".to_owned(), outside: false };
        Load::start(&target, 2, Duration::from_millis(5))
    });

    let mut mutants = Mutants::new(MUTANTS, CLASS, &authority);
    let (mut accepted, mut refused) = (BTreeMap::<String, usize>::new(), 0_usize);
    for number in 1.. {
        let mutant = mutants.next_one();
        if !write(cluster, &mutant) {
            refused += 1;
            assert!(refused < 10 * wanted, "the API server takes hardly any: {accepted:?}");
            continue;
        }
        *accepted.entry(mutant["kind"].as_str().expect("a kind").to_owned()).or_default() += 1;
        let sum: usize = accepted.values().sum();
        if sum.is_multiple_of(BATCH) {
            look(cluster, &portunus, &authority, number);
        }
        if sum == wanted {
            break;
        }
    }
    println!("mutants accepted by the API server: {accepted:?}, refused: {refused}");
    // Each kind had its share.
    assert!(
        KINDS.iter().all(|(_, kind)| accepted.get(*kind).is_some_and(|count| *count >= wanted / 20)),
        "{accepted:?}"
    );
    assert!(!problems(&portunus).is_empty(), "the mutants were all good");

    for (version, kind) in KINDS {
        let mutants = ListParams::default().labels(LABEL);
        let gone = cluster.api(version, kind, MUTANTS);
        cluster.block_on(gone.delete_collection(&DeleteParams::default(), &mutants)).expect("they can be deleted");
    }
    eventually("no Problem of what is left", || problems(&portunus).is_empty().then_some(()));
    for tally in load.map(Load::stop) {
        tally.assert_none_failed();
    }
    look(cluster, &portunus, &authority, 0);
    assert_eq!(portunus.stop(), Some(0));
}
