//! Other ways to the API server than the administrator's: as a ServiceAccount with rights of its own, and over a
//! relay that can be cut.

use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::cluster;

/// A kubeconfig in a file, which is gone with it.
pub struct Kubeconfig(NamedTempFile);

impl Kubeconfig {
    /// For a ServiceAccount, which is made.
    pub fn of_account(namespace: &str, name: &str) -> Self {
        let cluster = cluster();
        let metadata = json!({ "namespace": namespace, "name": name });
        cluster.put(&json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata }));
        let token = cluster.kubectl(&["create", "token", "-n", namespace, name]);
        let mut config = administrators();
        config["users"][0]["user"] = json!({ "token": token.trim() });
        Self::write(&config)
    }

    /// The administrator's, but by another way.
    pub fn over(relay: &Relay) -> Self {
        let mut config = administrators();
        config["clusters"][0]["cluster"]["server"] = json!(format!("https://{}", relay.address));
        Self::write(&config)
    }

    pub fn path(&self) -> &str {
        self.0.path().to_str().expect("a path of letters")
    }

    fn write(config: &Value) -> Self {
        let mut file = NamedTempFile::new().expect("a file");
        file.write_all(config.to_string().as_bytes()).expect("it is written");
        Self(file)
    }
}

fn administrators() -> Value {
    let config = cluster().kubectl(&["config", "view", "--raw", "--minify", "--output=json"]);
    serde_json::from_str(&config).expect("JSON")
}

/// Gives rights to a ServiceAccount: in its own namespace, or everywhere.
pub fn grant(namespace: &str, account: &str, everywhere: bool, rules: &Value) {
    let (prefix, name) = if everywhere { ("Cluster", format!("{namespace}-{account}")) } else { ("", account.into()) };
    let mut metadata = json!({ "name": name });
    if !everywhere {
        metadata["namespace"] = json!(namespace);
    }
    let (version, kind) = ("rbac.authorization.k8s.io/v1", format!("{prefix}Role"));
    cluster().put(&json!({ "apiVersion": version, "kind": kind, "metadata": metadata, "rules": rules }));
    cluster().put(&json!({
        "apiVersion": version,
        "kind": format!("{kind}Binding"),
        "metadata": metadata,
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name },
        "subjects": [{ "kind": "ServiceAccount", "namespace": namespace, "name": account }],
    }));
}

/// The right to read these.
pub fn reading(group: &str, resources: &[&str]) -> Value {
    json!({ "apiGroups": [group], "resources": resources, "verbs": ["get", "list", "watch"] })
}

/// Passes connections on to the API server, until it is cut and from when it is mended.
pub struct Relay {
    pub address: SocketAddr,
    cut: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Relay {
    pub fn start() -> Self {
        let config = administrators();
        let server = config["clusters"][0]["cluster"]["server"].as_str().expect("the API server's URL");
        let server = server.trim_start_matches("https://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (cut, open) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<Vec<TcpStream>>>::default());
        let (is_cut, opened) = (cut.clone(), open.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().filter_map(Result::ok) {
                let mut opened = opened.lock().unwrap_or_else(PoisonError::into_inner);
                if is_cut.load(Ordering::SeqCst) {
                    continue;
                }
                if let Ok(streams) = pass_on(&client, &server) {
                    opened.extend(streams);
                }
            }
        });
        Self { address, cut, open }
    }

    /// Ends all connections, and takes no new ones.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        for stream in self.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub fn mend(&self) {
        self.cut.store(false, Ordering::SeqCst);
    }
}

fn pass_on(client: &TcpStream, server: &str) -> io::Result<[TcpStream; 2]> {
    let server = TcpStream::connect(server)?;
    for (from, to) in [(client, &server), (&server, client)] {
        let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
        std::thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Both);
        });
    }
    Ok([client.try_clone()?, server])
}
