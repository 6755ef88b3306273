//! The live side of backends: what outlives tables. [`Upstream`] is what a table holds of a backend, settings
//! only; connections, counts and latencies live with each worker, in [`Pools`], by the endpoint's slot.

mod body;
mod connect;
mod counters;
mod join;
mod logins;
mod pool;
mod sessions;
mod slots;
mod socket;
mod whole;

use std::net::SocketAddr;
use std::sync::Arc;

pub use body::{BodyError, BodyFault, BodyWatch, RequestBody};
pub use connect::{ConnectError, Http1, Http2, LocalExecutor, Open, UpstreamIo, is_exhausted};
pub use counters::{Counters, Counts, Permit};
pub use join::{Join, Rounds};
pub use logins::{Checked, Logins};
pub use pool::{Acquired, PoolSettings, Pools};
pub use sessions::{SessionKey, Token};
pub use slots::{Slot, SlotId, Slots};
pub use socket::Socket;

use crate::balance::Balancer;
use crate::model::{self, Backend, BackendTls, Protocol};
use crate::tls::EndpointTls;
use sessions::Sessions;

/// A backend, compiled.
#[derive(Debug)]
pub struct Upstream {
    /// `namespace/service:port`
    pub label: Arc<str>,
    pub protocol: Protocol,
    pub balancer: Balancer,
    /// Sorted by address.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Only if a route has affinity.
    sessions: Option<Box<Sessions>>,
    /// Counts this backend's requests in each worker.
    pub slot: Arc<Slot>,
    tls: Option<Tls>,
}

/// TLS to a backend's endpoints.
#[derive(Debug, Clone)]
struct Tls {
    /// What was asked for.
    settings: Option<Arc<BackendTls>>,
    /// HTTP/2 or HTTP/1.1, as the endpoint chooses.
    any: EndpointTls,
    /// HTTP/1.1, for requests that upgrade.
    http1: EndpointTls,
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
#[derive(Debug)]
pub struct Registry {
    key: SessionKey,
    backends: Arc<Slots>,
    endpoints: Arc<Slots>,
}

impl Upstream {
    /// Those that get requests, and those that only keep their sessions.
    pub fn all_endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.endpoints.iter().chain(self.sessions.iter().flat_map(|sessions| &sessions.leaving))
    }

    /// Whether connections to it are made as the backend asks.
    fn is_for(&self, backend: &Backend) -> bool {
        self.tls.as_ref().is_none_or(|tls| tls.settings == backend.tls)
    }

    /// The endpoint of a session, if it still serves.
    pub fn session(&self, token: Token) -> Option<&Endpoint> {
        let sessions = self.sessions.as_ref()?;
        let index = sessions.find(token)?;
        let leaving = || sessions.leaving.get(index - self.endpoints.len());
        self.endpoints.get(index).or_else(leaving).map(|endpoint| &**endpoint)
    }

    /// What names the sessions of an endpoint that gets requests.
    pub fn token(&self, endpoint: &Endpoint) -> Option<Token> {
        let sessions = self.sessions.as_ref()?;
        let index = self.endpoints.binary_search_by_key(&endpoint.address, |endpoint| endpoint.address).ok()?;
        sessions.tokens.get(index).copied()
    }
}

impl Tls {
    fn new(backend: &Backend, http2: bool) -> Self {
        let speak = |http2| EndpointTls::new(&backend.key.service, backend.tls.as_deref(), http2);
        let http1 = speak(false);
        let any = if http2 { speak(true) } else { http1.clone() };
        Self { settings: backend.tls.clone(), any, http1 }
    }
}

impl Registry {
    pub fn new(key: SessionKey) -> Self {
        Self { key, backends: Arc::default(), endpoints: Arc::default() }
    }

    /// A place for a backend that no table has named yet.
    pub fn backend_slot(&self) -> Arc<Slot> {
        Arc::new(self.backends.take())
    }

    /// Compiles a backend. Endpoints that `previous` has in common with it are kept, and so their connections.
    pub fn reconcile(&self, backend: &Backend, slot: Arc<Slot>, previous: Option<&Upstream>) -> Upstream {
        // Connections made for another protocol must not be used again, nor those made by other settings: they were
        // not verified as it is asked now, or went out under another name.
        let previous = previous.filter(|previous| previous.protocol == backend.protocol && previous.is_for(backend));
        let kept = |address: SocketAddr| {
            let previous = previous?;
            let within = |endpoints: &[Arc<Endpoint>]| {
                let index = endpoints.binary_search_by_key(&address, |endpoint| endpoint.address).ok()?;
                Some(endpoints[index].clone())
            };
            within(&previous.endpoints).or_else(|| within(&previous.sessions.as_ref()?.leaving))
        };
        let made = |address: SocketAddr| {
            Arc::new(Endpoint { address, label: address.to_string().into(), slot: self.endpoints.take() })
        };
        let compiled = |endpoint: &model::Endpoint| kept(endpoint.address).unwrap_or_else(|| made(endpoint.address));
        let endpoints: Vec<Arc<Endpoint>> = backend.endpoints.iter().map(compiled).collect();
        let sessions = backend.sessions.as_ref().map(|sessions| {
            let leaving = sessions.leaving.iter().map(compiled).collect();
            Box::new(Sessions::new(&self.key.of(&backend.key.service, &sessions.seed), &endpoints, leaving))
        });
        let named: Vec<(String, u32)> =
            backend.endpoints.iter().map(|endpoint| (endpoint.address.to_string(), endpoint.weight)).collect();
        Upstream {
            label: backend.key.to_string().into(),
            protocol: backend.protocol,
            balancer: Balancer::new(backend.policy, &named),
            endpoints,
            sessions,
            slot,
            tls: match (previous, backend.protocol) {
                (Some(previous), _) => previous.tls.clone(),
                (None, Protocol::Tls) => Some(Tls::new(backend, true)),
                (None, Protocol::TlsHttp1) => Some(Tls::new(backend, false)),
                (None, Protocol::Http1 | Protocol::H2c) => None,
            },
        }
    }
}
