//! The compiled form of a snapshot: what a request is decided by. A table is never changed; the next one shares
//! with it whatever did not change, and one swap publishes all of it: routes, endpoints and certificates.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;
use http::{HeaderName, HeaderValue, StatusCode};
use rustls::sign::CertifiedKey;
use serde_json::{Value, json};

use crate::filter::{Canary, Filter, Template};
use crate::metrics::{Metrics, RouteId};
use crate::model::{
    self, Affinity, BackendKey, BackendRef, Changed, Chunks, HostPattern, ObjectName, Outliers, PathMatch, Priority,
    Rule, Snapshot,
};
use crate::router::{HostRoutes, Routes};
use crate::tls::{Certificates, ClientVerifiers, default_certificate};
use crate::upstream::{Counters, Counts, Registry, SessionKey, Slot, SlotId, Upstream};

/// Where a rule sends to.
#[derive(Debug)]
pub struct Route {
    /// The object that asked for it.
    pub source: ObjectName,
    pub id: RouteId,
    pub affinity: Option<Arc<Affinity>>,
    /// In their order; none for most routes.
    pub filters: Option<Arc<[Filter]>>,
    /// It is for a certificate authority alone, which looks here for proof.
    pub is_challenge: bool,
    /// What its clients have asked for, if there is a limit to it.
    pub counts: Option<Arc<Counts>>,
    /// None for most routes.
    pub forwarding: Option<Arc<Forwarding>>,
    /// What a request is balanced by, where its backends hash.
    pub hash_by: Option<Box<Template>>,
    pub priority: Priority,
    pub canary: Option<Box<CanaryRoute>>,
    backends: Backends,
}

/// The alternative of a route.
#[derive(Debug)]
pub struct CanaryRoute {
    pub choice: Canary,
    /// Sessions that came there stay there.
    pub sticky: bool,
    backends: Backends,
}

/// Backends by weight.
#[derive(Debug)]
struct Backends {
    all: Box<[Target]>,
    weight: u32,
}

#[derive(Debug)]
struct Target {
    slot: Arc<Slot>,
    weight: u32,
    /// For requests that came over TLS, if it is another.
    secure: Option<Arc<Slot>>,
}

impl Route {
    /// The place of the backend that takes this request, by weight; `None` if no backend takes any. `secure` is
    /// whether it came over TLS.
    pub fn backend(&self, secure: bool) -> Option<SlotId> {
        self.backends.pick(secure)
    }
}

impl CanaryRoute {
    /// Likewise.
    pub fn backend(&self, secure: bool) -> Option<SlotId> {
        self.backends.pick(secure)
    }
}

impl Backends {
    fn pick(&self, secure: bool) -> Option<SlotId> {
        if let [target @ Target { weight: 1.., .. }] = &self.all[..] {
            return Some(target.slot(secure));
        }
        let mut at = if self.weight == 0 { return None } else { fastrand::u32(..self.weight) };
        for target in &self.all {
            match at.checked_sub(target.weight) {
                Some(rest) => at = rest,
                None => return Some(target.slot(secure)),
            }
        }
        None
    }
}

impl Target {
    fn slot(&self, secure: bool) -> SlotId {
        self.secure.as_ref().filter(|_| secure).unwrap_or(&self.slot).id()
    }
}

/// How a route's requests are sent on, where it isn't as the operator's flags have it.
#[derive(Debug)]
pub struct Forwarding {
    pub rule: model::Forwarding,
    /// Who answers when the endpoints don't, or with an error.
    pub default_backend: Option<SlotId>,
    /// What it is told of the route.
    pub error_fields: Vec<(HeaderName, HeaderValue)>,
}

impl Forwarding {
    /// Whether the default backend answers instead of an answer with this status: an endpoint's, or our own.
    pub fn replaces(&self, status: StatusCode, own: bool) -> bool {
        let default = self.rule.default_backend.as_ref();
        default.is_some_and(|default| default.errors.contains(&status.as_u16()) && (own || !default.passes_errors))
    }
}

/// `X-Namespace` and the like, as ingress-nginx has them.
fn error_fields(rule: &Rule) -> Vec<(HeaderName, HeaderValue)> {
    let ingress = &rule.source;
    let mut fields = vec![("x-namespace", ingress.namespace.to_string()), ("x-ingress-name", ingress.name.to_string())];
    if let Some(BackendRef { backend, .. }) = rule.backends.first() {
        fields.push(("x-service-name", backend.service.name.to_string()));
        fields.push(("x-service-port", backend.port.to_string()));
    }
    // The API server lets nothing through that could not stand in a field; a folder might.
    let field = |(name, text)| Some((HeaderName::from_static(name), HeaderValue::try_from(text).ok()?));
    fields.into_iter().filter_map(field).collect()
}

#[derive(Debug)]
pub struct Table {
    /// Counts the tables of the process, from 1; 0 is the empty one before the first.
    pub generation: u64,
    pub certificates: Certificates,
    /// What hosts ask of their clients' certificates.
    pub clients: ClientVerifiers,
    routes: Routes<Route>,
    /// By the backend's slot.
    upstreams: Chunks<Option<Arc<Upstream>>>,
    endpoint_epochs: Vec<u64>,
    metrics: Arc<Metrics>,
}

impl Table {
    /// The route for a host in lower case and a path in normal form.
    pub fn find(&self, host: &str, path: &str) -> Option<&Route> {
        self.routes.find(host)?.find(path)
    }

    /// Whether a request for `host` may come over a TLS connection whose handshake asked for `server_name`, and for a
    /// certificate if `asked`. Else the answer is 421 (RFC 9110, 15.5.20). Both names are looked up here, so that what
    /// counts is what their hosts ask for now.
    pub fn may_share(&self, server_name: Option<&str>, asked: bool, host: &str) -> bool {
        let greeted = server_name.and_then(|name| self.clients.find(name));
        match (greeted, self.clients.find(host)) {
            (None, None) => self.certificates.may_share(server_name, host),
            // Whatever the client showed, the host does not want it.
            (Some(_), None) => self.certificates.may_share(server_name, host) && self.gets_default(server_name),
            // Nobody was asked for what the host wants.
            (None, Some(_)) => false,
            (Some(greeted), Some(wanted)) => {
                let same = server_name == Some(host)
                    || (greeted.settings.same_handshake(&wanted.settings)
                        && self.certificates.are_same(server_name, host));
                asked && same
            }
        }
    }

    fn gets_default(&self, server_name: Option<&str>) -> bool {
        server_name.is_none_or(|name| self.certificates.is_default(name))
    }

    /// The backend in a slot, if it is still the one that was meant.
    pub fn upstream(&self, backend: SlotId) -> Option<&Upstream> {
        self.upstreams.get(backend.index)?.as_deref().filter(|upstream| upstream.slot.epoch == backend.epoch)
    }

    /// How many endpoints are in their slow start.
    pub fn warming(&self) -> u64 {
        self.upstreams.iter().flatten().map(|upstream| upstream.warming()).sum()
    }

    /// The epochs of all endpoints, by slot; 0 where there is none.
    pub fn endpoint_epochs(&self) -> &[u64] {
        &self.endpoint_epochs
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.metrics.tables_alive.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The table in use, which workers watch.
pub type Current = ArcSwap<Table>;

/// Makes tables and publishes them. One of it, on the control thread.
#[derive(Debug)]
pub struct Publisher {
    pub current: Arc<Current>,
    registry: Registry,
    counters: Counters,
    slots: HashMap<BackendKey, Arc<Slot>>,
    self_signed: Arc<CertifiedKey>,
    metrics: Arc<Metrics>,
    /// Replaced tables that a worker may still hold. They are freed here, so that no worker pays for it.
    retired: Vec<Arc<Table>>,
}

impl Publisher {
    /// `key` is what the cookies of sessions are made with.
    pub fn new(metrics: Arc<Metrics>, key: SessionKey, outliers: Outliers) -> Self {
        let self_signed = default_certificate();
        metrics.tables_alive.fetch_add(1, Ordering::Relaxed);
        let empty = Table {
            generation: 0,
            certificates: Certificates::new(self_signed.clone()),
            clients: ClientVerifiers::default(),
            routes: Routes::default(),
            upstreams: Chunks::default(),
            endpoint_epochs: Vec::new(),
            metrics: metrics.clone(),
        };
        let current = Arc::new(Current::from_pointee(empty));
        Self {
            current,
            registry: Registry::new(key, outliers, metrics.clone()),
            counters: Counters::default(),
            slots: HashMap::new(),
            self_signed,
            metrics,
            retired: Vec::new(),
        }
    }

    /// Compiles what changed and publishes the whole as the next generation.
    pub fn publish(&mut self, snapshot: &Snapshot, changed: &Changed) -> u64 {
        let previous = self.current.load_full();
        let (upstreams, endpoint_epochs) = self.upstreams(&previous, snapshot, changed);
        let routes = self.routes(&previous, snapshot, changed);
        let certificates = self.certificates(&previous, snapshot, changed);
        let mut clients = previous.clients.clone();
        clients.update(&snapshot.hosts, &changed.hosts);
        let generation = previous.generation + 1;
        self.metrics.tables_alive.fetch_add(1, Ordering::Relaxed);
        let table = Table {
            generation,
            certificates,
            clients,
            routes,
            upstreams,
            endpoint_epochs,
            metrics: self.metrics.clone(),
        };
        drop(previous);
        self.retired.push(self.current.swap(Arc::new(table)));
        self.metrics.generation.store(generation, Ordering::Relaxed);
        self.free_retired();
        self.counters.sweep();
        generation
    }

    /// A backend, as the table in use has it.
    pub fn upstream(&self, key: &BackendKey) -> Option<Arc<Upstream>> {
        self.current.load().upstreams.get(self.slots.get(key)?.index)?.clone()
    }

    /// The number of the table in use; 0 before the first.
    pub fn generation(&self) -> u64 {
        self.current.load().generation
    }

    /// Frees replaced tables that nobody holds any more.
    pub fn free_retired(&mut self) {
        self.retired.retain(|table| Arc::strong_count(table) > 1);
    }

    /// The backends by slot, and the epochs of their endpoints.
    fn upstreams(
        &mut self,
        previous: &Table,
        snapshot: &Snapshot,
        changed: &Changed,
    ) -> (Chunks<Option<Arc<Upstream>>>, Vec<u64>) {
        let mut upstreams = previous.upstreams.clone();
        let mut epochs = previous.endpoint_epochs.clone();
        for key in &changed.backends {
            let Some(backend) = snapshot.backends.get(key) else {
                if let Some(slot) = self.slots.remove(key) {
                    forget(&mut epochs, upstreams.get(slot.index));
                    upstreams.set(slot.index, None);
                }
                continue;
            };
            let slot = self.slots.entry(key.clone()).or_insert_with(|| self.registry.backend_slot()).clone();
            let before = upstreams.get(slot.index);
            let compiled = self.registry.reconcile(backend, slot.clone(), before.and_then(Option::as_deref));
            forget(&mut epochs, before);
            note(&mut epochs, &compiled);
            upstreams.set(slot.index, Some(Arc::new(compiled)));
        }
        (upstreams, epochs)
    }

    fn routes(&mut self, previous: &Table, snapshot: &Snapshot, changed: &Changed) -> Routes<Route> {
        let mut routes = previous.routes.clone();
        for pattern in &changed.hosts {
            // A host without rules is only named in a TLS block, and takes nothing from a wildcard.
            match snapshot.hosts.get(pattern).filter(|host| !host.rules.is_empty()) {
                Some(host) => routes.insert(pattern, Arc::new(HostRoutes::new(host, |rule| self.route(rule)))),
                None => routes.remove(pattern),
            }
        }
        routes
    }

    fn route(&mut self, rule: &Rule) -> Route {
        let affinity = rule.affinity.as_deref().cloned().map(Arc::new);
        let backends = self.backends(&rule.backends);
        let hash_by = rule.hash_by.clone();
        let canary = rule.canary.as_deref().map(|canary| {
            let (choice, backends) = (canary.choice.clone(), self.backends(&canary.backends));
            Box::new(CanaryRoute { choice, sticky: canary.sticky, backends })
        });
        let filters = (!rule.filters.is_empty()).then(|| Arc::from(&rule.filters[..]));
        let is_challenge = rule.path.as_ref().is_some_and(PathMatch::is_acme_challenge);
        let limited = rule.filters.iter().any(|filter| matches!(filter, Filter::Limits(_)));
        // By the object, as ingress-nginx does: its rules share what a client may ask for.
        let counts = limited.then(|| self.counters.of(&rule.source));
        // What sends nowhere may be closed to somebody, and has no default backend either.
        let forwarding = rule.forwarding.as_deref().filter(|_| !rule.backends.is_empty()).map(|forwarding| {
            let default = forwarding.default_backend.as_ref();
            Arc::new(Forwarding {
                rule: forwarding.clone(),
                default_backend: default.and_then(|default| self.slots.get(&default.backend)).map(|slot| slot.id()),
                error_fields: if default.is_some() { error_fields(rule) } else { Vec::new() },
            })
        });
        let id = self.metrics.route(&rule.source.to_string());
        Route {
            source: rule.source.clone(),
            id,
            affinity,
            filters,
            is_challenge,
            counts,
            forwarding,
            hash_by,
            priority: rule.priority,
            canary,
            backends,
        }
    }

    fn backends(&self, refs: &[BackendRef]) -> Backends {
        let target = |backend: &BackendRef| {
            let secure = backend.secure.as_deref().and_then(|key| self.slots.get(key)).cloned();
            Some(Target { slot: self.slots.get(&backend.backend)?.clone(), weight: backend.weight, secure })
        };
        let all: Box<[Target]> = refs.iter().filter_map(target).collect();
        let weight = all.iter().fold(0u32, |sum, target| sum.saturating_add(target.weight));
        Backends { all, weight }
    }

    fn certificates(&self, previous: &Table, snapshot: &Snapshot, changed: &Changed) -> Certificates {
        let mut certificates = previous.certificates.clone();
        for secret in &changed.certificates {
            match snapshot.certificates.get(secret) {
                Some(certificate) => certificates.load(secret, certificate),
                None => certificates.unload(secret),
            }
        }
        for pattern in changed.hosts.iter().filter(|pattern| **pattern != HostPattern::Any) {
            let secret = snapshot.hosts.get(pattern).and_then(|host| host.certificate.as_ref());
            certificates.assign(pattern, secret);
        }
        // The operator's default goes before that of an Ingress without hosts.
        let of_any = snapshot.hosts.get(&HostPattern::Any).and_then(|host| host.certificate.as_ref());
        certificates.assign_default(snapshot.default_certificate.as_ref().or(of_any), &self.self_signed);
        certificates
    }
}

/// No slot is another endpoint's as long as a table names it, the one before this at least.
fn forget(epochs: &mut [u64], upstream: Option<&Option<Arc<Upstream>>>) {
    let endpoints = upstream.into_iter().flatten().flat_map(|upstream| upstream.all_endpoints());
    endpoints.for_each(|endpoint| epochs[endpoint.slot.index] = 0);
}

fn note(epochs: &mut Vec<u64>, upstream: &Upstream) {
    for endpoint in upstream.all_endpoints() {
        let slot = &endpoint.slot;
        if epochs.len() <= slot.index {
            epochs.resize(slot.index + 1, 0);
        }
        epochs[slot.index] = slot.epoch;
    }
}

/// The snapshot as it was compiled, for `/debug/table`: names and numbers, no keys.
pub fn describe(generation: u64, snapshot: &Snapshot) -> Value {
    let certificate = |(secret, certificate): (&ObjectName, &Arc<model::Certificate>)| {
        json!({
            "secret": secret,
            "names": certificate.names,
            "not_before": certificate.not_before,
            "not_after": certificate.not_after,
        })
    };
    json!({
        "generation": generation,
        "hosts": snapshot.hosts.values().collect::<Vec<_>>(),
        "backends": snapshot.backends.values().collect::<Vec<_>>(),
        "certificates": snapshot.certificates.iter().map(certificate).collect::<Vec<_>>(),
        "default_certificate": snapshot.default_certificate,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::{Backend, Endpoint, ObjectName, PortRef, Protocol};

    /// Workers close what has no epoch here.
    #[test]
    #[expect(clippy::default_trait_access, reason = "balancing is nothing that tables know")]
    fn epochs_are_those_of_all_endpoints_and_no_others() {
        let mut random = fastrand::Rng::with_seed(12);
        let (mut snapshot, mut publisher) =
            (Snapshot::default(), Publisher::new(Metrics::new(), SessionKey::default(), Outliers::default()));
        let service = |number: u8| ObjectName::new("verona", &format!("app-{number}"));
        let key = |number| BackendKey { service: service(number), port: PortRef::First, options: None };
        for _ in 0..500 {
            let key = key(random.u8(..5));
            let numbers = (0..random.u8(..8)).map(|_| random.u8(..10));
            let addresses: std::collections::BTreeSet<u8> = numbers.collect();
            let endpoint = |last: &u8| Endpoint { address: ([192, 0, 2, *last], 80).into(), weight: 1 };
            let backend = Backend {
                key: key.clone(),
                protocol: if random.u8(..10) == 0 { Protocol::H2c } else { Protocol::Http1 },
                policy: Default::default(),
                endpoints: addresses.iter().map(endpoint).collect(),
                sessions: None,
                tls: None,
            };
            if random.u8(..4) == 0 {
                snapshot.backends.remove(&key);
            } else {
                snapshot.backends.insert(key.clone(), Arc::new(backend));
            }
            publisher.publish(&snapshot, &Changed { backends: vec![key], ..Changed::default() });
            let table = publisher.current.load_full();
            let upstreams = (0..10).filter_map(|slot| table.upstreams.get(slot)?.as_ref());
            let slots = upstreams.flat_map(|upstream| upstream.all_endpoints()).map(|endpoint| &endpoint.slot);
            let wanted: BTreeMap<usize, u64> = slots.map(|slot| (slot.index, slot.epoch)).collect();
            let has = table.endpoint_epochs().iter().copied().enumerate().filter(|(_, epoch)| *epoch > 0);
            assert_eq!(has.collect::<BTreeMap<_, _>>(), wanted);
            let listed: usize = snapshot.backends.values().map(|backend| backend.endpoints.len()).sum();
            assert_eq!(wanted.len(), listed);
        }
    }
}
