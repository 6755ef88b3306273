//! Watches. Each kind of object is listed and then followed; every object becomes a small value of our own at
//! once and is dropped. What a watch missed while it was away is found when it lists again.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Debug;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{BoxStream, SelectAll};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::client::{WATCH_SECONDS, counting};
use super::status::Address;
use crate::clock::unix_seconds;
use crate::model::ObjectName;
use crate::translate::{Kind, Object, ObjectRef, Resources};

/// Objects of a page, where the server doesn't stream.
const PAGE: u32 = 500;
/// A change is taken up once nothing has arrived for this long …
const QUIET: Duration = Duration::from_millis(2);
/// … but no later than this.
const QUIET_MAX: Duration = Duration::from_millis(20);
/// Pause after a watch has failed: twice as long each time, within these, and half of it by chance.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Only Secrets of this type are ever read.
const TLS: &str = "type=kubernetes.io/tls";

/// What is watched.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// Empty: all.
    pub namespaces: Vec<String>,
    /// Labels of the namespaces whose Ingresses are served.
    pub selector: Option<String>,
    pub config_map: Option<ObjectName>,
    /// Secrets that the operator names, wherever they are.
    pub secrets: Vec<ObjectName>,
}

/// All watches together.
pub struct Stores {
    changes: SelectAll<BoxStream<'static, (usize, Change)>>,
    sources: Vec<Source>,
    pub statuses: Rc<RefCell<Statuses>>,
    /// Something has been applied that [`Stores::changed`] has not told of yet.
    pending: bool,
    /// Watches that failed, since the process began.
    pub failures: u64,
}

/// What the status of each Ingress says: its addresses. Most say the same, and one that says nothing isn't here.
#[derive(Debug, Default)]
pub struct Statuses {
    all: BTreeMap<ObjectName, Rc<[Address]>>,
    last: Rc<[Address]>,
}

impl Statuses {
    pub fn of(&self, ingress: &ObjectName) -> &[Address] {
        self.all.get(ingress).map_or(&[], |addresses| addresses)
    }

    fn set(&mut self, ingress: ObjectName, addresses: &[Address]) {
        if addresses.is_empty() {
            self.all.remove(&ingress);
            return;
        }
        if *self.last != *addresses {
            self.last = addresses.into();
        }
        self.all.insert(ingress, self.last.clone());
    }
}

/// One watch.
#[derive(Debug)]
struct Source {
    kind: Kind,
    covers: Covers,
    synced: bool,
    /// What a list in progress has had so far.
    listed: Option<HashSet<ObjectName>>,
    failure: Option<Failure>,
    /// How often the server has answered it: most watches that are back have nothing to tell for long.
    answers: Arc<AtomicU64>,
}

/// Why a watch can't be had now.
#[derive(Debug)]
struct Failure {
    why: String,
    /// As they were counted then.
    answers: u64,
}

/// The objects that a watch is about.
#[derive(Debug, Clone)]
enum Covers {
    All,
    Namespace(String),
    One(ObjectName),
}

enum Change {
    ListBegins,
    Listed(Item),
    ListEnds,
    Applied(Item),
    Removed(ObjectName),
    Failed(String),
}

/// An object, and what its status says, if it is an Ingress.
struct Item {
    name: ObjectName,
    object: Option<Object>,
    status: Vec<Address>,
}

impl Stores {
    /// Begins to watch; nothing happens before [`Stores::changed`] is awaited.
    pub fn new(client: &Client, scope: &Scope) -> Self {
        let mut stores = Self {
            changes: SelectAll::new(),
            sources: Vec::new(),
            statuses: Rc::default(),
            pending: false,
            failures: 0,
        };
        stores.watch_all::<IngressClass>(client, Kind::IngressClass, config(), |class| Some(class.into()));
        stores.watch_namespaced::<Ingress>(client, scope, Kind::Ingress, &config(), |ingress| Some(ingress.into()));
        stores.watch_namespaced::<Service>(client, scope, Kind::Service, &config(), |service| Some(service.into()));
        stores.watch_namespaced::<EndpointSlice>(client, scope, Kind::EndpointSlice, &config(), |slice| {
            Some(slice.into())
        });
        let tls = config().fields(TLS);
        stores.watch_namespaced::<Secret>(client, scope, Kind::Secret, &tls, secret);
        for name in scope.secrets.iter().filter(|name| !scope.covers(name)) {
            let fields = format!("{TLS},metadata.name={}", name.name);
            stores.watch_one::<Secret>(client, Kind::Secret, name, config().fields(&fields), secret);
        }
        if let Some(name) = &scope.config_map {
            let one = config().fields(&format!("metadata.name={}", name.name));
            stores.watch_one::<ConfigMap>(client, Kind::ConfigMap, name, one, |map| Some(map.into()));
        }
        if let Some(selector) = &scope.selector {
            let selected = config().labels(selector);
            stores.watch_all::<Namespace>(client, Kind::Namespace, selected, |namespace| Some(namespace.into()));
        }
        stores
    }

    /// Returns once something has arrived, and then nothing for a moment; all of it is in `resources` then. May be
    /// dropped and called again.
    pub async fn changed(&mut self, resources: &RefCell<Resources>) {
        if !self.pending {
            self.next(resources).await;
        }
        let more = async { while tokio::time::timeout(QUIET, self.next(resources)).await.is_ok() {} };
        let _ = tokio::time::timeout(QUIET_MAX, more).await;
        self.pending = false;
    }

    /// Removes what no watch is about, as a snapshot file of other settings may have it.
    pub fn prune(&self, resources: &mut Resources) {
        for kind in Kind::ALL {
            let watched =
                |name: &ObjectName| self.sources.iter().any(|source| source.kind == kind && source.covers.has(name));
            for name in resources.names(kind).into_iter().filter(|name| !watched(name)) {
                resources.remove(&ObjectRef { kind, name });
            }
        }
    }

    /// Whether every watch has listed all there was.
    pub fn synced(&self) -> bool {
        self.sources.iter().all(|source| source.synced)
    }

    /// How each watch stands, a line each.
    pub fn report(&self) -> Vec<String> {
        let line = |source: &Source| {
            let of = match &source.covers {
                Covers::All => String::new(),
                Covers::Namespace(namespace) => format!(" of {namespace}"),
                Covers::One(name) => format!(" {name}"),
            };
            let state = match (&source.failure, source.synced) {
                (Some(failure), _) => failure.why.as_str(),
                (None, true) => "synced",
                (None, false) => "not listed yet",
            };
            format!("{:?}{of}: {state}", source.kind)
        };
        self.sources.iter().map(line).collect()
    }

    /// Whether a watch can't reach the server now.
    pub fn is_failing(&self) -> bool {
        self.sources.iter().any(|source| source.failure.is_some())
    }

    /// Forgets the failures of watches that the server has answered since.
    pub fn recover(&mut self) {
        self.sources.iter_mut().for_each(Source::recover);
    }

    async fn next(&mut self, resources: &RefCell<Resources>) {
        let Some((source, change)) = self.changes.next().await else { return std::future::pending().await };
        self.apply(source, change, &mut resources.borrow_mut());
        self.pending = true;
    }

    fn apply(&mut self, index: usize, change: Change, resources: &mut Resources) {
        let source = &mut self.sources[index];
        source.recover();
        match change {
            Change::ListBegins => source.listed = Some(HashSet::new()),
            Change::Listed(item) => {
                source.listed.get_or_insert_default().insert(item.name.clone());
                self.take(item, resources);
            }
            Change::ListEnds => {
                source.synced = true;
                let (kind, covers) = (source.kind, source.covers.clone());
                let listed = source.listed.take().unwrap_or_default();
                for name in resources.names(kind).into_iter().filter(|name| covers.has(name) && !listed.contains(name))
                {
                    resources.remove(&ObjectRef { kind, name });
                }
                if kind == Kind::Ingress {
                    self.statuses.borrow_mut().all.retain(|name, _| !covers.has(name) || listed.contains(name));
                }
            }
            Change::Applied(item) => self.take(item, resources),
            Change::Removed(name) => {
                let kind = source.kind;
                if kind == Kind::Ingress {
                    self.statuses.borrow_mut().all.remove(&name);
                }
                resources.remove(&ObjectRef { kind, name });
            }
            Change::Failed(why) => {
                self.failures += 1;
                if source.failure.is_none() {
                    tracing::warn!(kind = ?source.kind, failure = why, "a watch has failed, it is tried again; what is known is served");
                }
                source.failure = Some(Failure { why, answers: source.answers.load(Ordering::Relaxed) });
            }
        }
    }

    fn take(&mut self, item: Item, resources: &mut Resources) {
        let Some(object) = item.object else { return };
        if let Object::Ingress(_) = &object {
            self.statuses.borrow_mut().set(item.name, &item.status);
        }
        resources.apply(object);
    }

    fn watch_namespaced<K>(
        &mut self,
        client: &Client,
        scope: &Scope,
        kind: Kind,
        config: &watcher::Config,
        convert: fn(K) -> Option<Object>,
    ) where
        K: Watched + Resource<Scope = NamespaceResourceScope>,
    {
        if scope.namespaces.is_empty() {
            return self.watch(client, Api::all, kind, Covers::All, config.clone(), convert);
        }
        for namespace in &scope.namespaces {
            let api = |client| Api::namespaced(client, namespace);
            self.watch(client, api, kind, Covers::Namespace(namespace.clone()), config.clone(), convert);
        }
    }

    fn watch_all<K>(&mut self, client: &Client, kind: Kind, config: watcher::Config, convert: fn(K) -> Option<Object>)
    where
        K: Watched + Resource<Scope = ClusterResourceScope>,
    {
        self.watch(client, Api::all, kind, Covers::All, config, convert);
    }

    fn watch_one<K>(
        &mut self,
        client: &Client,
        kind: Kind,
        name: &ObjectName,
        config: watcher::Config,
        convert: fn(K) -> Option<Object>,
    ) where
        K: Watched + Resource<Scope = NamespaceResourceScope>,
    {
        let api = |client| Api::namespaced(client, &name.namespace);
        self.watch(client, api, kind, Covers::One(name.clone()), config, convert);
    }

    fn watch<K: Watched>(
        &mut self,
        client: &Client,
        api: impl FnOnce(Client) -> Api<K>,
        kind: Kind,
        covers: Covers,
        config: watcher::Config,
        convert: fn(K) -> Option<Object>,
    ) {
        let index = self.sources.len();
        let answers = Arc::default();
        let api = api(counting(client, &answers));
        self.sources.push(Source { kind, covers, synced: false, listed: None, failure: None, answers });
        let change = move |event: Result<Event<K>, watcher::Error>| match event {
            Ok(Event::Init) => Change::ListBegins,
            Ok(Event::InitApply(object)) => Change::Listed(item(object, convert)),
            Ok(Event::InitDone) => Change::ListEnds,
            Ok(Event::Apply(object)) => Change::Applied(item(object, convert)),
            Ok(Event::Delete(object)) => Change::Removed(name(&object)),
            Err(error) => Change::Failed(sentence(&error)),
        };
        // An object at a time where the server can, a page at a time where it can't.
        let streamed = watch(api.clone(), config.clone().streaming_lists());
        let streamed = streamed.take_while(|event| std::future::ready(!is_unsupported(event)));
        let all = streamed.chain(watch(api, config));
        let stream = all.backoff(Pause::default()).map(move |event| (index, change(event)));
        self.changes.push(stream.boxed());
    }
}

impl Source {
    fn recover(&mut self) {
        if self.failure.as_ref().is_some_and(|failure| failure.answers < self.answers.load(Ordering::Relaxed)) {
            self.failure = None;
            tracing::info!(kind = ?self.kind, "the watch is back");
        }
    }
}

impl Scope {
    fn covers(&self, name: &ObjectName) -> bool {
        self.namespaces.is_empty() || self.namespaces.iter().any(|namespace| **namespace == *name.namespace)
    }
}

impl Covers {
    fn has(&self, name: &ObjectName) -> bool {
        match self {
            Self::All => true,
            Self::Namespace(namespace) => **namespace == *name.namespace,
            Self::One(one) => one == name,
        }
    }
}

/// What can be watched.
trait Watched: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static {
    /// What the object's status says, where it concerns us.
    fn status(&self) -> Vec<Address> {
        Vec::new()
    }
}

impl Watched for Ingress {
    fn status(&self) -> Vec<Address> {
        super::status::of(self)
    }
}
impl Watched for IngressClass {}
impl Watched for Service {}
impl Watched for EndpointSlice {}
impl Watched for Secret {}
impl Watched for ConfigMap {}
impl Watched for Namespace {}

fn config() -> watcher::Config {
    watcher::Config::default().page_size(PAGE).timeout(WATCH_SECONDS)
}

/// Whether the server refuses to stream a list (before Kubernetes 1.34, or by its feature gate).
fn is_unsupported<K>(event: &Result<Event<K>, watcher::Error>) -> bool {
    let Err(watcher::Error::WatchStartFailed(kube::Error::Api(status))) = event else { return false };
    matches!(status.code, 400 | 422)
}

fn secret(secret: Secret) -> Option<Object> {
    Some(Object::from_secret(secret, unix_seconds()))
}

fn item<K: Watched>(object: K, convert: fn(K) -> Option<Object>) -> Item {
    let (name, status) = (name(&object), object.status());
    Item { name, object: convert(object), status }
}

fn name<K: ResourceExt>(object: &K) -> ObjectName {
    ObjectName::new(&object.namespace().unwrap_or_default(), &object.name_any())
}

/// The error with its causes, once each.
fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// How long to wait after each failure in a row.
#[derive(Debug, Default)]
struct Pause(u32);

impl Iterator for Pause {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let most = PAUSE_MIN.saturating_mul(1 << self.0.min(10)).min(PAUSE_MAX);
        self.0 = self.0.saturating_add(1);
        Some(most.mul_f64(fastrand::f64().midpoint(1.0)))
    }
}

impl Backoff for Pause {
    fn reset(&mut self) {
        self.0 = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded_and_begin_anew() {
        let mut pause = Pause::default();
        let pauses: Vec<Duration> = pause.by_ref().take(100).collect();
        assert!(pauses[0] <= PAUSE_MIN && pauses[0] >= PAUSE_MIN / 2);
        assert!(pauses.iter().all(|pause| *pause <= PAUSE_MAX));
        assert!(pauses[50..].iter().all(|pause| *pause >= PAUSE_MAX / 2));
        pause.reset();
        assert!(pause.next().is_some_and(|pause| pause <= PAUSE_MIN));
    }
}
