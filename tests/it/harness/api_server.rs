//! An API server as far as watches go: it streams what there is and what changes, and refuses all else. For scenarios
//! of ten thousand objects, in which a real one (tests/cluster) would take the processors that are measured.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::wire::Wire;

/// A watch that has nothing to say says so.
const BOOKMARKS: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Objects {
    /// By collection and then by namespace and name, with their version.
    all: BTreeMap<&'static str, BTreeMap<String, (u64, Value)>>,
    watches: Vec<(&'static str, Sender<String>)>,
    version: u64,
}

/// Listens until the test process ends.
pub struct ApiServer {
    address: SocketAddr,
    objects: Arc<Mutex<Objects>>,
    folder: tempfile::TempDir,
}

impl ApiServer {
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("kubeconfig"), kubeconfig(address)).expect("a kubeconfig");
        let this = Self { address, objects: Arc::default(), folder };
        let objects = this.objects.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let objects = objects.clone();
                std::thread::spawn(move || serve(stream, &objects));
            }
        });
        this
    }

    pub fn kubeconfig(&self) -> String {
        self.folder.path().join("kubeconfig").to_str().expect("a path").to_owned()
    }

    /// Watches a kind as a client does that makes nothing of what it reads.
    pub fn watch(&self, kind: &str) {
        let mut stream = TcpStream::connect(self.address).expect("connect");
        stream
            .write_all(format!("GET {}?watch=true HTTP/1.1\r\n\r\n", collection(kind)).as_bytes())
            .expect("a request");
        std::thread::spawn(move || std::io::copy(&mut stream, &mut std::io::sink()));
    }

    /// Makes or changes an object.
    pub fn put(&self, mut object: Value) {
        let collection = collection(object["kind"].as_str().expect("a kind"));
        let mut objects = self.objects.lock().expect("objects");
        objects.version += 1;
        let version = objects.version;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let name = format!("{}/{}", object["metadata"]["namespace"], object["metadata"]["name"]);
        let line = event("MODIFIED", &object);
        objects.watches.retain(|(of, watch)| *of != collection || watch.send(line.clone()).is_ok());
        objects.all.entry(collection).or_default().insert(name, (version, object));
    }
}

fn kubeconfig(server: SocketAddr) -> String {
    let cluster = json!({ "name": "it", "cluster": { "server": format!("http://{server}") } });
    let context = json!({ "name": "it", "context": { "cluster": "it", "user": "it" } });
    let all = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "it",
        "clusters": [cluster], "contexts": [context], "users": [{ "name": "it", "user": {} }],
    });
    all.to_string()
}

/// Where objects of a kind are asked for.
fn collection(kind: &str) -> &'static str {
    match kind {
        "Ingress" => "/apis/networking.k8s.io/v1/ingresses",
        "IngressClass" => "/apis/networking.k8s.io/v1/ingressclasses",
        "Service" => "/api/v1/services",
        "EndpointSlice" => "/apis/discovery.k8s.io/v1/endpointslices",
        "Secret" => "/api/v1/secrets",
        other => panic!("{other} is not served"),
    }
}

const KINDS: [&str; 5] = ["Ingress", "IngressClass", "Service", "EndpointSlice", "Secret"];

fn event(what: &str, object: &Value) -> String {
    format!("{}\n", json!({ "type": what, "object": object }))
}

fn serve(mut stream: TcpStream, objects: &Mutex<Objects>) -> Option<()> {
    let head = Wire::new(stream.try_clone().ok()?).head().ok()??;
    let (path, query) = head.word(1).split_once('?').unwrap_or((head.word(1), ""));
    let kind = KINDS.into_iter().find(|kind| collection(kind) == path && query.contains("watch=true"));
    let Some(kind) = kind else {
        let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403 }).to_string();
        let head = format!("HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", status.len());
        return stream.write_all(format!("{head}{status}").as_bytes()).ok();
    };
    let since = query.split('&').find_map(|pair| pair.strip_prefix("resourceVersion=")?.parse::<u64>().ok());
    let (first, watch) = begin(kind, since.unwrap_or(0), objects);
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n";
    stream.write_all(format!("{head}{first}").as_bytes()).ok()?;
    loop {
        let line = match watch.recv_timeout(BOOKMARKS) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => bookmark(kind, objects.lock().expect("objects").version, &json!({})),
            Err(RecvTimeoutError::Disconnected) => return None,
        };
        stream.write_all(line.as_bytes()).ok()?;
    }
}

/// What there is that is younger than a version, and what comes after it.
fn begin(kind: &'static str, since: u64, objects: &Mutex<Objects>) -> (String, Receiver<String>) {
    let (sender, watch) = channel();
    let mut objects = objects.lock().expect("objects");
    let younger = objects.all.get(collection(kind)).into_iter().flat_map(BTreeMap::values);
    let younger = younger.filter(|(version, _)| *version > since);
    let mut first: String = younger.map(|(_, object)| event("ADDED", object)).collect();
    first += &bookmark(kind, objects.version, &json!({ "k8s.io/initial-events-end": "true" }));
    objects.watches.push((collection(kind), sender));
    (first, watch)
}

fn bookmark(kind: &str, version: u64, annotations: &Value) -> String {
    let version = version.max(1).to_string();
    let metadata = json!({ "resourceVersion": version, "annotations": annotations });
    let api = collection(kind).trim_start_matches("/apis/").trim_start_matches("/api/");
    let api = api.rsplit_once('/').map_or(api, |(api, _)| api);
    event("BOOKMARK", &json!({ "kind": kind, "apiVersion": api, "metadata": metadata }))
}
