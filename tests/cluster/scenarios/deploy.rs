//! `deploy/` by kustomize: every folder is taken by the API server, the rights are enough and no more, the Pods
//! keep to the strictest standard, and the webhook works with its script's certificate.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use futures_util::StreamExt;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;
use serde_json::json;

use crate::harness::manifests::ingress;
use crate::harness::{Cluster, cluster, eventually};

const DOCUMENT: &str = "docs/kubernetes.md";
const ACCOUNT: &str = "system:serviceaccount:portunus:portunus";
const VERBS: [&str; 11] = [
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
    "impersonate",
    "bind",
    "escalate",
];
/// What `kubectl api-resources` doesn't show.
const SUBRESOURCES: [&str; 14] = [
    "ingresses/status.networking.k8s.io",
    "services/status",
    "services/proxy",
    "pods/exec",
    "pods/log",
    "pods/portforward",
    "pods/proxy",
    "pods/eviction",
    "nodes/proxy",
    "serviceaccounts/token",
    "deployments/scale.apps",
    "namespaces/finalize",
    "users",
    "groups",
];

/// The folders of kustomizations of this kind, by their paths from the project's folder.
fn folders(kind: &str) -> Vec<String> {
    fn walk(folder: &Path, kind: &str, all: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, kind, all);
            } else if path.ends_with("kustomization.yaml") {
                let text = fs::read_to_string(&path).expect("text");
                all.extend(text.lines().any(|line| line == format!("kind: {kind}")).then(|| folder.to_owned()));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = Vec::new();
    walk(&root.join("deploy"), kind, &mut all);
    walk(&root.join("examples"), kind, &mut all);
    all.sort();
    all.iter().map(|folder| folder.strip_prefix(root).expect("within").display().to_string()).collect()
}

#[test]
fn every_folder_is_taken_by_the_api_server() {
    let cluster = cluster();
    // What the folders make themselves isn't there for the rest of them in a dry run.
    cluster.portunus();
    cluster.internal();
    let _watched = ["verona", "mantua"].map(|name| cluster.namespace(name));
    let folders = folders("Kustomization");
    assert!(folders.iter().any(|folder| folder == "examples/romeo-and-juliet"), "{folders:?}");
    for folder in folders {
        let taken = cluster.kubectl(&["apply", "-k", &folder, "--dry-run=server"]);
        assert!(taken.contains("(server dry run)"), "{folder}: {taken}");
    }
}

#[test]
fn every_component_fits_the_base() {
    let cluster = cluster();
    cluster.portunus();
    let overlay = tempfile::tempdir().expect("a folder");
    let depth = overlay.path().canonicalize().expect("a path").components().count() - 1;
    let root = format!("{}{}", "../".repeat(depth), env!("CARGO_MANIFEST_DIR").trim_start_matches('/'));
    let folder = overlay.path().to_str().expect("text");
    let components = folders("Component");
    assert!(components.len() >= 5, "{components:?}");
    for component in components {
        let also = match &*component {
            "deploy/components/webhook-cert-manager" => vec!["deploy/components/webhook", &component],
            _ => vec![&*component],
        };
        let paths: Vec<_> = also.iter().map(|path| format!("{root}/{path}")).collect();
        let overlay = json!({
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [format!("{root}/deploy/base")],
            "components": paths,
        });
        fs::write(format!("{folder}/kustomization.yaml"), overlay.to_string()).expect("written");
        let (ok, taken) = cluster.try_run("kubectl", &["apply", "-k", folder, "--dry-run=server"], "");
        // There is no cert-manager here: its two kinds are all that is missing.
        let unknown = taken.matches("no matches for kind").count();
        let others = if component.ends_with("cert-manager") { 2 } else { 0 };
        assert!(ok == (others == 0) && unknown == others, "{component}: {taken}");
    }
}

/// What the ServiceAccount may do in a namespace by its own bindings: resource (with its group) to verbs.
fn rights(cluster: &Cluster, namespace: &str, name: &str) -> BTreeMap<String, BTreeSet<&'static str>> {
    let listed = cluster.kubectl(&["api-resources", "--output", "name"]);
    let resources: Vec<&str> = listed.lines().chain(SUBRESOURCES).collect();
    assert!(resources.contains(&"pods") && resources.contains(&"deployments.apps"), "{listed}");
    let reviews: Api<SubjectAccessReview> = Api::all(cluster.client.clone());
    let asked = resources.iter().flat_map(|resource| VERBS.map(|verb| (*resource, verb)));
    let may = |(resource, verb): (&str, &'static str)| {
        let (reviews, shown) = (reviews.clone(), resource.to_owned());
        let (path, group) = resource.split_once('.').unwrap_or((resource, ""));
        let (resource, subresource) = path.split_once('/').map_or((path, None), |(path, sub)| (path, Some(sub)));
        let attributes = ResourceAttributes {
            group: Some(group.to_owned()),
            resource: Some(resource.to_owned()),
            subresource: subresource.map(str::to_owned),
            verb: Some(verb.to_owned()),
            namespace: Some(namespace.to_owned()),
            name: Some(name.to_owned()).filter(|name| !name.is_empty()),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            user: Some(ACCOUNT.to_owned()),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        async move {
            let answer = reviews.create(&PostParams::default(), &review).await.expect("an answer");
            answer.status.is_some_and(|status| status.allowed).then_some((shown, verb))
        }
    };
    let all = futures_util::stream::iter(asked.map(may)).buffer_unordered(32).collect::<Vec<_>>();
    let mut rights = BTreeMap::<_, BTreeSet<_>>::new();
    for (resource, verb) in cluster.block_on(all).into_iter().flatten() {
        rights.entry(resource).or_default().insert(verb);
    }
    rights
}

fn expected(rows: &[(&str, &[&'static str])]) -> BTreeMap<String, BTreeSet<&'static str>> {
    rows.iter().map(|(resource, verbs)| ((*resource).to_owned(), verbs.iter().copied().collect())).collect()
}

#[test]
fn its_account_may_do_what_it_needs_and_nothing_else() {
    const READ: &[&str] = &["get", "list", "watch"];
    let cluster = cluster();
    cluster.portunus();
    let everywhere: [(&str, &[&str]); 8] = [
        ("ingresses.networking.k8s.io", READ),
        ("ingresses/status.networking.k8s.io", &["patch"]),
        ("ingressclasses.networking.k8s.io", READ),
        ("services", READ),
        ("endpointslices.discovery.k8s.io", READ),
        ("secrets", READ),
        ("configmaps", READ),
        ("events.events.k8s.io", &["create", "get", "patch"]),
    ];
    let elsewhere = expected(&everywhere);
    assert_eq!(rights(cluster, "kube-system", ""), elsewhere);
    // The names of its own Lease, Service and ConfigMap are worth nothing in other namespaces.
    assert_eq!(rights(cluster, "kube-system", "portunus-leader"), elsewhere);
    assert_eq!(rights(cluster, "kube-system", "portunus"), elsewhere);
    let at_home = |more: &[(&str, &[&'static str])]| expected(&[&everywhere, more].concat());
    assert_eq!(rights(cluster, "portunus", ""), at_home(&[("leases.coordination.k8s.io", &["create"])]));
    let lease: (&str, &[&str]) = ("leases.coordination.k8s.io", &["create", "get", "update"]);
    assert_eq!(rights(cluster, "portunus", "portunus-leader"), at_home(&[lease]));
    assert_eq!(rights(cluster, "portunus", "portunus"), at_home(&[("leases.coordination.k8s.io", &["create"])]));

    // As an operator would ask.
    let can_i = |words: &str| {
        let arguments: Vec<&str> = ["auth", "can-i", "--as", ACCOUNT].into_iter().chain(words.split(' ')).collect();
        cluster.try_run("kubectl", &arguments, "").1
    };
    assert_eq!(can_i("list ingresses --all-namespaces"), "yes\n");
    for refused in ["create pods -n portunus", "update ingresses -A", "list nodes", "delete secrets -n portunus"] {
        assert!(can_i(refused).starts_with("no\n"), "{refused}: {}", can_i(refused));
    }
    // And it is enough: nothing that the replicas asked for was refused.
    for pod in cluster.list("v1", "Pod", "portunus") {
        let log = cluster.kubectl(&["logs", "-n", "portunus", pod["metadata"]["name"].as_str().expect("a name")]);
        assert!(log.contains("listening for http") && !log.to_lowercase().contains("forbidden"), "{log}");
    }
}

#[test]
fn its_pods_keep_to_the_restricted_standard() {
    let cluster = cluster();
    cluster.portunus();
    let namespace = cluster.get("v1", "Namespace", "", "portunus").expect("the namespace");
    assert_eq!(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted");
    // So Pods that don't are refused there.
    let run = ["run", "odd", "--image=echo", "--namespace=portunus", "--dry-run=server"];
    let (ok, refusal) = cluster.try_run("kubectl", &run, "");
    assert!(!ok && refusal.contains("violates PodSecurity \"restricted:"), "{refusal}");
    let pods = cluster.list("v1", "Pod", "portunus");
    assert!(!pods.is_empty());
    for pod in pods {
        assert_eq!(pod["spec"]["serviceAccountName"], "portunus");
        assert_eq!(pod["spec"]["securityContext"]["runAsUser"], 65532);
        let security = &pod["spec"]["containers"][0]["securityContext"];
        assert_eq!(
            (&security["readOnlyRootFilesystem"], &security["capabilities"]["add"]),
            (&json!(true), &json!(null))
        );
    }
    // The account's token goes to Pods that ask for it only.
    let account = cluster.get("v1", "ServiceAccount", "portunus", "portunus").expect("the account");
    assert_eq!(account["automountServiceAccountToken"], false);
}

#[test]
fn the_webhook_of_the_overlay_refuses_with_its_scripts_certificate() {
    let cluster = cluster();
    cluster.portunus();
    let namespace = cluster.namespace("deploy-webhook");
    cluster.documented(DOCUMENT, "kubectl apply -k deploy/webhook");
    cluster.documented(DOCUMENT, "deploy/webhook/certificate.sh");
    let bad =
        ingress(&namespace, "bad", "portunus", &[("bad.test", &[("Exact", "/a/%2e%2e/%2e%2e/b", "app")])]).to_string();
    let apply = ["apply", "-f", "-", "--dry-run=server"];
    // Until a replica with the webhook is ready, what can't be reviewed is stored: its policy is Ignore.
    let refusal = eventually("a refusal", || {
        let (ok, words) = cluster.try_run("kubectl", &apply, &bad);
        (!ok).then_some(words)
    });
    let expected = "admission webhook \"ingress.portunus.dev\" denied the request: spec.rules[0].http.paths[0].path: ";
    assert!(refusal.contains(expected), "{refusal}");
    // Renewed by the same script, without a restart: Portunus has it as soon as the API server trusts it.
    cluster.documented(DOCUMENT, "deploy/webhook/certificate.sh");
    eventually("a refusal with the renewed certificate", || {
        (!cluster.try_run("kubectl", &apply, &bad).0).then_some(())
    });
    // The way out.
    cluster.kubectl(&["delete", "validatingwebhookconfiguration", "portunus"]);
    cluster.kubectl(&["rollout", "status", "deployment/portunus", "--namespace", "portunus", "--timeout=120s"]);
}
