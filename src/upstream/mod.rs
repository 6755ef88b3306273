//! The live side of backends: what outlives tables. [`Upstream`] is what a table holds of a backend: settings, and
//! health, which all workers share and rarely write; connections, counts and latencies live with each worker, in
//! [`Pools`], by the endpoint's slot.

mod body;
mod budget;
mod check;
mod circuit;
mod connect;
mod counters;
mod health;
mod io;
mod join;
mod logins;
mod meter;
mod outcomes;
mod pool;
mod sessions;
mod slots;
mod socket;
mod whole;

use std::net::SocketAddr;
use std::sync::Arc;

pub use body::{BodyError, BodyFault, BodyWatch, Pace, RequestBody};
pub use budget::BudgetSettings;
pub use check::Checker;
pub use circuit::{Circuit, InFlight};
pub use connect::{ConnectError, Http1, Http2, LocalExecutor, Open, is_exhausted};
pub use counters::{Counters, Counts, Permit};
pub use health::{Advice, Health};
pub use io::{Flow, Reads, UpstreamIo};
pub use join::{Join, Rounds};
pub use logins::{Checked, Logins};
pub use meter::Meter;
pub use pool::{Acquired, PoolSettings, Pools};
pub use sessions::{SessionKey, Token};
pub use slots::{Slot, SlotId, Slots};
pub use socket::{Socket, Stream, keep_alive};

use crate::balance::Balancer;
use crate::metrics::Metrics;
use crate::model::{self, Backend, BackendTls, Check, Outliers, Protocol};
use crate::tls::EndpointTls;
use health::Ward;
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
    /// Only if a rule limits what it is asked at once.
    pub circuit: Option<Arc<Circuit>>,
    outliers: Outliers,
    /// How long endpoints that are new, or back, warm up, in milliseconds; 0 is not at all.
    slow_start: u64,
    /// How its endpoints are asked, if they are.
    check: Option<Arc<Check>>,
    ward: Arc<Ward>,
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
    pub health: Health,
}

/// Gives backends and endpoints their slots.
#[derive(Debug)]
pub struct Registry {
    key: SessionKey,
    backends: Arc<Slots>,
    endpoints: Arc<Slots>,
    /// What counts where a rule says nothing.
    outliers: Outliers,
    metrics: Arc<Metrics>,
}

impl Upstream {
    /// Those that get requests, and those that only keep their sessions.
    pub fn all_endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.endpoints.iter().chain(self.sessions.iter().flat_map(|sessions| &sessions.leaving))
    }

    /// The endpoint in a slot, as long as it is one of this backend's.
    pub fn endpoint(&self, slot: SlotId) -> Option<&Arc<Endpoint>> {
        self.all_endpoints().find(|endpoint| endpoint.slot.id() == slot)
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
    pub fn new(key: SessionKey, outliers: Outliers, metrics: Arc<Metrics>) -> Self {
        Self { key, backends: Arc::default(), endpoints: Arc::default(), outliers, metrics }
    }

    /// A place for a backend that no table has named yet.
    pub fn backend_slot(&self) -> Arc<Slot> {
        Arc::new(self.backends.take())
    }

    /// Compiles a backend. Endpoints that `previous` has in common with it are kept, and so their connections.
    pub fn reconcile(&self, backend: &Backend, slot: Arc<Slot>, previous: Option<&Upstream>) -> Upstream {
        let asked = backend.key.options.as_ref().and_then(|options| options.resilience.as_deref());
        let slow_start = asked.and_then(|asked| asked.slow_start_milliseconds).unwrap_or(0);
        let ward = previous.map_or_else(|| Ward::new(&self.metrics), |previous| previous.ward.clone());
        // What a rule asks is a part of the backend's name: limits stay as they are.
        let circuit = previous.map_or_else(|| Circuit::new(asked), |previous| previous.circuit.clone());
        // Where all are new, nobody has more than his share.
        let warms = slow_start > 0 && previous.is_some_and(|previous| !previous.endpoints.is_empty());
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
            let (label, slot) = (address.to_string().into(), self.endpoints.take());
            Arc::new(Endpoint { address, label, slot, health: Health::new(ward.clone(), warms) })
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
            circuit,
            outliers: self.outliers.with(asked),
            slow_start: slow_start.into(),
            check: asked.and_then(|asked| asked.check.clone()),
            ward: ward.clone(),
            tls: match (previous, backend.protocol) {
                (Some(previous), _) => previous.tls.clone(),
                (None, Protocol::Tls) => Some(Tls::new(backend, true)),
                (None, Protocol::TlsHttp1) => Some(Tls::new(backend, false)),
                (None, Protocol::Http1 | Protocol::H2c) => None,
            },
        }
    }
}
