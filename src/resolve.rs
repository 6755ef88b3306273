//! Addresses of external names (Services of type ExternalName), asked for again when their TTL is over. The last
//! good answer stays while a name server is away, however long; that is counted, and said once until it is back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{ResolverBuilder, TokioResolver};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::metrics::Metrics;

/// Bounds for the time until a name is asked for again, whatever its TTL.
const TTL_MIN: Duration = Duration::from_secs(1);
const TTL_MAX: Duration = Duration::from_secs(300);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(5);
/// Answers that may wait to be taken up.
const QUEUE: usize = 64;

/// A name and its addresses, sorted.
pub type Resolved = (String, Vec<IpAddr>);

/// Keeps names resolved. Lives on the control thread.
pub struct Names {
    tasks: BTreeMap<String, JoinHandle<()>>,
    sender: mpsc::Sender<Resolved>,
    resolver: Option<TokioResolver>,
    /// Asked instead of the system's name servers.
    server: Option<SocketAddr>,
    metrics: Arc<Metrics>,
}

impl Names {
    /// The receiver gets every answer that differs from the one before.
    pub fn new(server: Option<SocketAddr>, metrics: Arc<Metrics>) -> (Self, mpsc::Receiver<Resolved>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self { tasks: BTreeMap::new(), sender, resolver: None, server, metrics }, receiver)
    }

    /// Resolves these names from now on, and no others.
    pub fn want(&mut self, names: &BTreeSet<String>) {
        self.tasks.retain(|name, task| {
            let wanted = names.contains(name);
            if !wanted {
                task.abort();
            }
            wanted
        });
        for name in names {
            if self.tasks.contains_key(name) {
                continue;
            }
            let Some(resolver) = self.resolver() else { return };
            let task =
                tokio::task::spawn_local(follow(resolver, name.clone(), self.sender.clone(), self.metrics.clone()));
            self.tasks.insert(name.clone(), task);
        }
    }

    /// Made when the first name is wanted; reads the system's configuration.
    fn resolver(&mut self) -> Option<TokioResolver> {
        if self.resolver.is_none() {
            let builder = match self.server {
                Some(server) => Ok(TokioResolver::builder_with_config(only(server), TokioRuntimeProvider::default())),
                None => TokioResolver::builder_tokio(),
            };
            match builder.and_then(ResolverBuilder::build) {
                Ok(resolver) => self.resolver = Some(resolver),
                Err(error) => tracing::warn!(%error, "external names can't be resolved"),
            }
        }
        self.resolver.clone()
    }
}

fn only(server: SocketAddr) -> ResolverConfig {
    let mut config = NameServerConfig::udp_and_tcp(server.ip());
    for connection in &mut config.connections {
        connection.port = server.port();
    }
    ResolverConfig::from_name_servers(vec![config])
}

async fn follow(resolver: TokioResolver, name: String, sender: mpsc::Sender<Resolved>, metrics: Arc<Metrics>) {
    let mut last: Option<Vec<IpAddr>> = None;
    let mut failures = 0u64;
    loop {
        let pause = match resolver.lookup_ip(name.as_str()).await {
            Ok(answer) => {
                let mut addresses: Vec<IpAddr> = answer.iter().collect();
                addresses.sort_unstable();
                if failures > 0 {
                    tracing::info!(name, failures, "an external name can be resolved again");
                    failures = 0;
                }
                if last.as_ref() != Some(&addresses) {
                    last = Some(addresses.clone());
                    if sender.send((name.clone(), addresses)).await.is_err() {
                        return;
                    }
                }
                answer.valid_until().saturating_duration_since(Instant::now()).clamp(TTL_MIN, TTL_MAX)
            }
            Err(error) => {
                if failures == 0 {
                    tracing::warn!(name, %error, "an external name can't be resolved; its last addresses stay");
                }
                failures += 1;
                metrics.name_failures.fetch_add(1, Ordering::Relaxed);
                RETRY
            }
        };
        tokio::time::sleep(pause).await;
    }
}
