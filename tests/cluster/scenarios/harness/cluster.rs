//! The cluster that the scenarios run in: by kubectl where a user would, by the API where time counts.

use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use kube::api::{Api, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::core::ApiResource;
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::{eventually, setting};

pub struct Cluster {
    pub runtime: Runtime,
    pub client: Client,
    deployed: Mutex<Vec<&'static str>>,
}

/// The cluster, once for all scenarios.
pub fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        setting("PORTUNUS_CLUSTER_STATE").expect("these run in a cluster of their own: make scenarios");
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let client = runtime.block_on(async {
            let config = Config::infer().await.expect("the kubeconfig of the test cluster");
            Client::try_from(config).expect("a client")
        });
        Cluster { runtime, client, deployed: Mutex::default() }
    })
}

impl Cluster {
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// What `kubectl` prints. Fails if it fails.
    #[track_caller]
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        self.run("kubectl", arguments, "")
    }

    /// Runs a program on the node with `input`, from the project's folder; returns what it prints.
    #[track_caller]
    pub fn run(&self, program: &str, arguments: &[&str], input: &str) -> String {
        let (ok, output) = self.try_run(program, arguments, input);
        assert!(ok, "{program} {arguments:?}: {output}");
        output
    }

    #[expect(clippy::unused_self, reason = "there is nothing to run on before there is a cluster")]
    pub fn try_run(&self, program: &str, arguments: &[&str], input: &str) -> (bool, String) {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{program}: {error}"));
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
        let output = child.wait_with_output().expect("it ends");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// Runs a command that a document of the project prints, as whoever reads it does.
    #[track_caller]
    pub fn documented(&self, document: &str, command: &str) -> String {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(document)).expect("the document");
        let text = text.replace(" \\\n  ", " ");
        assert!(text.lines().any(|line| line == command), "{document} doesn't print: {command}");
        self.run("bash", &["-c", command], "")
    }

    /// Applies manifests as a user does.
    #[track_caller]
    pub fn apply(&self, manifests: impl AsRef<str>) {
        self.run("kubectl", &["apply", "-f", "-"], manifests.as_ref());
    }

    /// Applies one of the folders of `deploy/`, once for all scenarios, and waits until its Pods are ready.
    pub fn deploy(&self, folder: &'static str, namespace: &str, deployment: &str) {
        let mut deployed = self.deployed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if deployed.contains(&folder) {
            return;
        }
        self.kubectl(&["apply", "-k", folder]);
        self.kubectl(&["rollout", "status", "-n", namespace, &format!("deployment/{deployment}"), "--timeout=120s"]);
        deployed.push(folder);
    }

    /// The outer instance, from `deploy/base`; returns the address of its load balancer.
    pub fn portunus(&self) -> std::net::SocketAddr {
        self.deploy("deploy/base", "portunus", "portunus");
        let address = eventually("the load balancer's address", || {
            let service = self.get("v1", "Service", "portunus", "portunus")?;
            service["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().map(str::to_owned)
        });
        format!("{address}:80").parse().expect("an address")
    }

    /// The outer instance's ready replicas, asked without a Service between: each has a table of its own.
    pub fn replicas(&self) -> Vec<IpAddr> {
        self.portunus();
        let pods = self.list("v1", "Pod", "portunus");
        let ready = pods.iter().filter(|pod| is_ready(pod) && pod["metadata"]["deletionTimestamp"].is_null());
        let addresses = ready.filter_map(|pod| pod["status"]["podIP"].as_str()?.parse().ok());
        addresses.collect()
    }

    /// Waits until every replica of the outer instance answers for the host: a load meets all of them.
    pub fn routed(&self, host: &str) {
        for replica in self.replicas() {
            super::client::becomes((replica, 8080).into(), host, "/", 200);
        }
    }

    /// The instance for calls inside, from `deploy/internal`; returns the address of its Service.
    pub fn internal(&self) -> std::net::SocketAddr {
        self.deploy("deploy/internal", "portunus-internal", "portunus-internal");
        let service = self.get("v1", "Service", "portunus-internal", "portunus-internal").expect("the Service");
        format!("{}:80", service["spec"]["clusterIP"].as_str().expect("text")).parse().expect("an address")
    }

    /// An API for any kind.
    pub fn api(&self, version: &str, kind: &str, namespace: &str) -> Api<DynamicObject> {
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        match namespace {
            "" => Api::all_with(self.client.clone(), &resource),
            namespace => Api::namespaced_with(self.client.clone(), namespace, &resource),
        }
    }

    pub fn get(&self, version: &str, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let found = self.block_on(self.api(version, kind, namespace).get_opt(name)).expect("the API server answers");
        found.map(|found| serde_json::to_value(found).expect("JSON"))
    }

    pub fn list(&self, version: &str, kind: &str, namespace: &str) -> Vec<Value> {
        let api = self.api(version, kind, namespace);
        let found = self.block_on(api.list(&kube::api::ListParams::default())).expect("the API server answers");
        found.items.into_iter().map(|found| serde_json::to_value(found).expect("JSON")).collect()
    }

    /// Merges `patch` into an object.
    pub fn patch(&self, version: &str, kind: &str, namespace: &str, name: &str, patch: &Value) {
        let api = self.api(version, kind, namespace);
        let patched = self.block_on(api.patch(name, &PatchParams::default(), &Patch::Merge(patch)));
        patched.unwrap_or_else(|error| panic!("{kind} {namespace}/{name}: {error}"));
    }

    /// Makes an object, or makes it what it is here, and returns once the API server has it.
    pub fn put(&self, object: &Value) {
        self.block_on(self.put_later(object));
    }

    /// Makes an object that isn't there, which costs the API server less than [`Cluster::put_later`].
    pub async fn create_later(&self, object: &Value) {
        let (api, name) = self.api_of(object);
        let object: DynamicObject = serde_json::from_value(object.clone()).expect("an object");
        let created = api.create(&kube::api::PostParams::default(), &object).await;
        created.unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    fn api_of<'a>(&self, object: &'a Value) -> (Api<DynamicObject>, &'a str) {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        (self.api(text("/apiVersion"), text("/kind"), text("/metadata/namespace")), text("/metadata/name"))
    }

    pub async fn put_later(&self, object: &Value) {
        let (api, name) = self.api_of(object);
        let applied = api.patch(name, &PatchParams::apply("scenarios").force(), &Patch::Apply(object)).await;
        applied.unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    pub fn delete(&self, version: &str, kind: &str, namespace: &str, name: &str) {
        let api = self.api(version, kind, namespace);
        self.block_on(api.delete(name, &kube::api::DeleteParams::default())).expect("it was there");
    }

    /// A namespace for one scenario; gone with it.
    pub fn namespace(&self, name: &str) -> Namespace {
        let namespace = self.namespace_to_be(name);
        self.put(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } }));
        // Pods need it to be there.
        eventually("the namespace's ServiceAccount", || self.get("v1", "ServiceAccount", name, "default"));
        namespace
    }

    /// The same for a namespace that the scenario's manifests make. One of that name that is going is waited for.
    pub fn namespace_to_be(&self, name: &str) -> Namespace {
        eventually(&format!("the end of the former {name}"), || {
            let former = self.get("v1", "Namespace", "", name);
            former.is_none_or(|former| former["metadata"]["deletionTimestamp"].is_null()).then_some(())
        });
        Namespace(name.to_owned())
    }

    /// A class of its own for a scenario's instance; its controller is `scenarios/NAME`.
    pub fn class(&self, name: &str) {
        self.put(&json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "IngressClass",
            "metadata": { "name": name },
            "spec": { "controller": format!("scenarios/{name}") },
        }));
    }

    /// Waits until every Pod of the namespace with the label `app` is ready, and there are `count`.
    pub fn ready(&self, namespace: &str, app: &str, count: usize) {
        eventually(&format!("{count} ready Pods of {app}"), || {
            let pods = self.list("v1", "Pod", namespace);
            let pods = pods.iter().filter(|pod| pod["metadata"]["labels"]["app"] == *app);
            let (ready, other): (Vec<_>, Vec<_>) = pods.partition(|pod| is_ready(pod));
            (ready.len() == count && other.is_empty()).then_some(())
        });
    }

    /// Does something to a component of the control plane: `stop`, `kill`, `start`, `pause`, `resume`.
    pub fn component(&self, verb: &str, component: &str) {
        self.run("cluster", &["ctl", verb, component], "");
    }

    /// What the Events of an object say: type, reason and note.
    pub fn events(&self, namespace: &str, kind: &str, name: &str) -> Vec<String> {
        let events = self.list("events.k8s.io/v1", "Event", namespace);
        let of_object = |event: &&Value| event["regarding"]["kind"] == *kind && event["regarding"]["name"] == *name;
        let text = |event: &Value| {
            let field = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
            format!("{} {}: {}", field("type"), field("reason"), field("note"))
        };
        events.iter().filter(of_object).map(text).collect()
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
}

/// Deleted, without waiting for it, when the scenario is over.
pub struct Namespace(String);

impl std::ops::Deref for Namespace {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let api = cluster().api("v1", "Namespace", "");
        let deleted = async { api.delete(&self.0, &kube::api::DeleteParams::default()).await };
        let _ = cluster().block_on(async { tokio::time::timeout(Duration::from_secs(5), deleted).await });
    }
}
