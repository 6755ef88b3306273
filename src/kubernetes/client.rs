//! The way to the API server, as the Pod's ServiceAccount or a kubeconfig has it.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

const HTTPS: u16 = 443;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest watch, in seconds: the server ends it then, and the next goes on from where it was.
pub(super) const WATCH_SECONDS: u32 = 60;
/// A connection that says nothing for so long hangs: every watch says something before.
const READ_TIMEOUT: Duration = Duration::from_secs(75);

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("the kubeconfig can't be used: {0}")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    #[error("this is no Pod, and there is no kubeconfig; write --kubeconfig, or --manifests for a folder: {0}")]
    Nothing(#[from] kube::config::InferConfigError),
    #[error("no client for the API server can be made: {0}")]
    Client(#[source] kube::Error),
}

/// A client, and the server's address if it is known by that; nothing is asked of the server yet. Must be called on the
/// runtime that will use it.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<(Client, Option<SocketAddr>), ConnectError> {
    let mut config = match kubeconfig {
        Some(path) => {
            Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &KubeConfigOptions::default()).await?
        }
        // A Pod is what it is, whatever lies in its home.
        None => match Config::incluster() {
            Ok(config) => config,
            Err(_) => Config::infer().await?,
        },
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    let host = config.cluster_url.host().unwrap_or_default();
    let address: Option<IpAddr> = host.trim_start_matches('[').trim_end_matches(']').parse().ok();
    let port = config.cluster_url.port_u16().unwrap_or(HTTPS);
    let address = address.map(|address| SocketAddr::new(address, port));
    Ok((Client::try_from(config).map_err(ConnectError::Client)?, address))
}

/// The same client, which counts the answers that are no refusal.
pub(super) fn counting(client: &Client, answers: &Arc<AtomicU64>) -> Client {
    let (inner, answers) = (client.clone(), answers.clone());
    let service = tower::service_fn(move |request| {
        let (inner, answers) = (inner.clone(), answers.clone());
        async move {
            let response = inner.send(request).await?;
            if response.status().is_success() {
                answers.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<_, kube::Error>(response)
        }
    });
    Client::new(service, client.default_namespace())
}
