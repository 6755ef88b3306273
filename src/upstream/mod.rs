//! The live side of backends: what outlives tables. [`Upstream`] is what a table holds of a backend, settings
//! only; connections, counts and latencies live with each worker, in [`Pools`], by the endpoint's slot.

mod body;
mod connect;
mod pool;
mod slots;

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;

pub use body::{BodyError, BodyFault, BodyWatch, RequestBody};
pub use connect::{ConnectError, Http1, Http2, LocalExecutor, Open, UpstreamIo};
pub use pool::{Acquired, PoolSettings, Pools};
pub use slots::{Slot, SlotId, Slots};

use crate::balance::Balancer;
use crate::model::{Backend, Protocol};
use crate::tls::client_config;

/// A backend, compiled.
#[derive(Debug)]
pub struct Upstream {
    /// `namespace/service:port`
    pub label: Arc<str>,
    pub protocol: Protocol,
    pub balancer: Balancer,
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Counts this backend's requests in each worker.
    pub slot: Arc<Slot>,
    tls: Option<Tls>,
}

/// TLS to a backend's endpoints.
#[derive(Debug, Clone)]
struct Tls {
    /// HTTP/2 or HTTP/1.1, as the endpoint chooses.
    any: Arc<ClientConfig>,
    /// HTTP/1.1, for requests that upgrade.
    http1: Arc<ClientConfig>,
}

/// An endpoint and its place in each worker's pools, which it keeps for as long as any table names it.
#[derive(Debug)]
pub struct Endpoint {
    pub address: SocketAddr,
    /// The address as logs write it.
    pub label: Arc<str>,
    pub slot: Slot,
}

/// Gives backends and endpoints their slots.
#[derive(Debug, Default)]
pub struct Registry {
    backends: Arc<Slots>,
    endpoints: Arc<Slots>,
}

impl Registry {
    /// A place for a backend that no table has named yet.
    pub fn backend_slot(&self) -> Arc<Slot> {
        Arc::new(self.backends.take())
    }

    /// Compiles a backend. Endpoints that `previous` has in common with it are kept, and so their connections.
    pub fn reconcile(&self, backend: &Backend, slot: Arc<Slot>, previous: Option<&Upstream>) -> Upstream {
        // Connections made for another protocol must not be used again.
        let previous = previous.filter(|previous| previous.protocol == backend.protocol);
        let kept = |address: SocketAddr| {
            let endpoints = &previous?.endpoints;
            let index = endpoints.binary_search_by_key(&address, |endpoint| endpoint.address).ok()?;
            Some(endpoints[index].clone())
        };
        let made = |address: SocketAddr| {
            Arc::new(Endpoint { address, label: address.to_string().into(), slot: self.endpoints.take() })
        };
        let endpoints: Vec<Arc<Endpoint>> = backend
            .endpoints
            .iter()
            .map(|endpoint| kept(endpoint.address).unwrap_or_else(|| made(endpoint.address)))
            .collect();
        let named: Vec<(String, u32)> =
            backend.endpoints.iter().map(|endpoint| (endpoint.address.to_string(), endpoint.weight)).collect();
        Upstream {
            label: backend.key.to_string().into(),
            protocol: backend.protocol,
            balancer: Balancer::new(backend.policy, &named),
            endpoints,
            slot,
            tls: match (previous, backend.protocol) {
                (Some(previous), _) => previous.tls.clone(),
                (None, Protocol::Tls) => Some(Tls { any: client_config(true), http1: client_config(false) }),
                (None, Protocol::TlsHttp1) => {
                    let http1 = client_config(false);
                    Some(Tls { any: http1.clone(), http1 })
                }
                (None, Protocol::Http1 | Protocol::H2c) => None,
            },
        }
    }
}
