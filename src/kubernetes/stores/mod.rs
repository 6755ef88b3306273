//! Watches. Each kind of object is listed and then followed; every object becomes a small value of our own at
//! once and is dropped. What a watch missed while it was away is found when it lists again.

mod failures;
mod named;
mod statuses;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Debug;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{BoxStream, SelectAll, abortable};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout, timeout_at};

use self::failures::{Pause, is_refused, is_unsupported, sentence};
use self::named::{Follows, Named};
pub use self::statuses::Statuses;
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
/// Least time from one to the next, so that many changes that follow each other are taken up together: each table costs
/// something of its own, and so do the workers' caches. Longer, and what is done at once is what requests wait for.
const PACE: Duration = Duration::from_millis(20);
/// Only Secrets of this type are read without somebody's naming them.
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
    client: Client,
    scope: Scope,
    changes: SelectAll<BoxStream<'static, (u64, Change)>>,
    /// By number, in the order in which they began.
    sources: BTreeMap<u64, Source>,
    /// How many there have been.
    begun: u64,
    named: Named,
    pub statuses: Rc<RefCell<Statuses>>,
    /// Something has been applied that [`Stores::changed`] has not told of yet.
    pending: bool,
    /// When it told of something last.
    taken: Option<Instant>,
    /// Watches that failed, since the process began.
    pub failures: u64,
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
    /// It is an annotation that wants it.
    follows: Option<Follows>,
}

/// Why a watch can't be had now.
#[derive(Debug)]
struct Failure {
    why: String,
    /// As they were counted then.
    answers: u64,
    /// The server answers, and forbids it.
    refused: bool,
}

/// The objects that a watch is about.
#[derive(Debug, Clone)]
enum Covers {
    All,
    Namespace(String),
    One(ObjectName),
    /// What an annotation names; if it is a Secret, then of another type than those that are watched anyhow.
    Named(ObjectName),
}

enum Change {
    ListBegins,
    Listed(Item),
    ListEnds,
    Applied(Item),
    Removed(ObjectName),
    Failed { why: String, refused: bool },
}

/// An object, and what its status says, if it is an Ingress.
struct Item {
    name: ObjectName,
    object: Object,
    status: Vec<Address>,
}

impl Stores {
    /// Begins to watch; nothing happens before [`Stores::changed`] is awaited.
    pub fn new(client: &Client, scope: &Scope) -> Self {
        let mut stores = Self {
            client: client.clone(),
            scope: scope.clone(),
            changes: SelectAll::new(),
            sources: BTreeMap::new(),
            begun: 0,
            named: Named::default(),
            statuses: Rc::default(),
            pending: false,
            taken: None,
            failures: 0,
        };
        stores.watch_all::<IngressClass>(client, Kind::IngressClass, config(), Object::from);
        stores.watch_namespaced::<Ingress>(client, scope, Kind::Ingress, &config(), Object::from);
        stores.watch_namespaced::<Service>(client, scope, Kind::Service, &config(), Object::from);
        stores.watch_namespaced::<EndpointSlice>(client, scope, Kind::EndpointSlice, &config(), Object::from);
        let tls = config().fields(TLS);
        stores.watch_namespaced::<Secret>(client, scope, Kind::Secret, &tls, secret);
        for name in scope.secrets.iter().filter(|name| !scope.covers(name)) {
            let fields = format!("{TLS},metadata.name={}", name.name);
            let covers = Covers::One(name.clone());
            stores.watch_one::<Secret>(client, Kind::Secret, covers, config().fields(&fields), secret);
        }
        if let Some(name) = &scope.config_map {
            let one = config().fields(&format!("metadata.name={}", name.name));
            let covers = Covers::One(name.clone());
            stores.watch_one::<ConfigMap>(client, Kind::ConfigMap, covers, one, Object::from);
        }
        if let Some(selector) = &scope.selector {
            let selected = config().labels(selector);
            stores.watch_all::<Namespace>(client, Kind::Namespace, selected, Object::from);
        }
        stores
    }

    /// Returns once something has arrived, and then nothing for a moment; all of it is in `resources` then. May be
    /// dropped and called again.
    pub async fn changed(&mut self, resources: &RefCell<Resources>) {
        if !self.pending {
            self.next(resources).await;
        }
        if let Some(taken) = self.taken {
            let all = async {
                loop {
                    self.next(resources).await;
                }
            };
            let _: Result<(), _> = timeout_at(taken + PACE, all).await;
        }
        let more = async { while timeout(QUIET, self.next(resources)).await.is_ok() {} };
        let _ = timeout(QUIET_MAX, more).await;
        self.pending = false;
        self.taken = Some(Instant::now());
    }

    /// Removes what no watch is about, as a snapshot file of other settings may have it.
    pub fn prune(&self, resources: &mut Resources) {
        for kind in Kind::ALL {
            for name in resources.names(kind) {
                if !self.sources.values().any(|source| source.kind == kind && source.is_about(&name, resources)) {
                    resources.remove(&ObjectRef { kind, name });
                }
            }
        }
    }

    /// Whether every watch has listed all there was, but for those of [`Stores::follow`].
    pub fn synced(&self) -> bool {
        self.sources.values().all(|source| source.synced || source.follows.is_some())
    }

    /// How each watch stands, a line each; of those that annotations want, the ones that aren't synced.
    pub fn report(&self) -> Vec<String> {
        let line = |source: &Source| {
            let of = match &source.covers {
                Covers::All => String::new(),
                Covers::Namespace(namespace) => format!(" of {namespace}"),
                Covers::One(name) | Covers::Named(name) => format!(" {name}"),
            };
            let state = match (&source.failure, source.synced) {
                (Some(failure), _) => failure.why.as_str(),
                (None, true) => "synced",
                (None, false) => "not listed yet",
            };
            format!("{:?}{of}: {state}", source.kind)
        };
        let told = |source: &&Source| source.follows.is_none() || source.failure.is_some() || !source.synced;
        self.sources.values().filter(told).map(line).collect()
    }

    /// Whether a watch can't reach the server now.
    pub fn is_failing(&self) -> bool {
        self.sources.values().any(|source| source.failure.is_some())
    }

    /// Forgets the failures of watches that the server has answered since.
    pub fn recover(&mut self) {
        self.sources.values_mut().for_each(Source::recover);
    }

    async fn next(&mut self, resources: &RefCell<Resources>) {
        let Some((source, change)) = self.changes.next().await else { return std::future::pending().await };
        self.apply(source, change, &mut resources.borrow_mut());
        self.pending = true;
    }

    fn apply(&mut self, number: u64, change: Change, resources: &mut Resources) {
        // What a watch that has ended had on its way concerns nobody.
        let Some(source) = self.sources.get_mut(&number) else { return };
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
                for name in source.known(resources).into_iter().filter(|name| !listed.contains(name)) {
                    resources.remove(&ObjectRef { kind, name });
                }
                if kind == Kind::Ingress {
                    self.statuses.borrow_mut().all.retain(|name, _| !covers.has(name) || listed.contains(name));
                }
            }
            Change::Applied(item) => self.take(item, resources),
            Change::Removed(name) => {
                let kind = source.kind;
                if !source.is_about(&name, resources) {
                    return;
                }
                if kind == Kind::Ingress {
                    self.statuses.borrow_mut().all.remove(&name);
                }
                resources.remove(&ObjectRef { kind, name });
            }
            Change::Failed { why, refused } => {
                self.failures += 1;
                if source.failure.is_none() {
                    tracing::warn!(kind = ?source.kind, failure = why, "a watch has failed, it is tried again; what is known is served");
                }
                source.failure = Some(Failure { why, answers: source.answers.load(Ordering::Relaxed), refused });
            }
        }
    }

    fn take(&mut self, item: Item, resources: &mut Resources) {
        if let Object::Ingress(_) = &item.object {
            self.statuses.borrow_mut().set(item.name, &item.status);
        }
        resources.apply(item.object);
    }

    fn watch_namespaced<K>(
        &mut self,
        client: &Client,
        scope: &Scope,
        kind: Kind,
        config: &watcher::Config,
        convert: fn(K) -> Object,
    ) where
        K: Watched + Resource<Scope = NamespaceResourceScope>,
    {
        if scope.namespaces.is_empty() {
            self.watch(client, Api::all, kind, Covers::All, config.clone(), convert);
        }
        for namespace in &scope.namespaces {
            let api = |client| Api::namespaced(client, namespace);
            self.watch(client, api, kind, Covers::Namespace(namespace.clone()), config.clone(), convert);
        }
    }

    fn watch_all<K>(&mut self, client: &Client, kind: Kind, config: watcher::Config, convert: fn(K) -> Object)
    where
        K: Watched + Resource<Scope = ClusterResourceScope>,
    {
        self.watch(client, Api::all, kind, Covers::All, config, convert);
    }

    fn watch_one<K>(
        &mut self,
        client: &Client,
        kind: Kind,
        covers: Covers,
        config: watcher::Config,
        convert: fn(K) -> Object,
    ) -> u64
    where
        K: Watched + Resource<Scope = NamespaceResourceScope>,
    {
        let namespace = match &covers {
            Covers::One(name) | Covers::Named(name) => name.namespace.clone(),
            Covers::Namespace(namespace) => namespace.as_str().into(),
            Covers::All => Arc::default(),
        };
        self.watch(client, |client| Api::namespaced(client, &namespace), kind, covers, config, convert)
    }

    fn watch<K: Watched>(
        &mut self,
        client: &Client,
        api: impl FnOnce(Client) -> Api<K>,
        kind: Kind,
        covers: Covers,
        config: watcher::Config,
        convert: fn(K) -> Object,
    ) -> u64 {
        let number = self.begun;
        self.begun += 1;
        let answers = Arc::default();
        let api = api(counting(client, &answers));
        let change = move |event: Result<Event<K>, watcher::Error>| match event {
            Ok(Event::Init) => Change::ListBegins,
            Ok(Event::InitApply(object)) => Change::Listed(item(object, convert)),
            Ok(Event::InitDone) => Change::ListEnds,
            Ok(Event::Apply(object)) => Change::Applied(item(object, convert)),
            Ok(Event::Delete(object)) => Change::Removed(name(&object)),
            Err(error) => Change::Failed { why: sentence(&error), refused: is_refused(&error) },
        };
        // An object at a time where the server can, a page at a time where it can't.
        let streamed = watch(api.clone(), config.clone().streaming_lists());
        let streamed = streamed.take_while(|event| std::future::ready(!is_unsupported(event)));
        let all = streamed.chain(watch(api, config));
        let (stream, end) = abortable(all.backoff(Pause::default()).map(move |event| (number, change(event))));
        self.changes.push(stream.boxed());
        let follows = matches!(covers, Covers::Named(_)).then(|| Follows::new(end));
        let source = Source { kind, covers, synced: false, listed: None, failure: None, answers, follows };
        self.sources.insert(number, source);
        number
    }
}

impl Source {
    /// Whether it is this watch that knows whether there is such an object.
    fn is_about(&self, name: &ObjectName, resources: &Resources) -> bool {
        let by_name = matches!(self.covers, Covers::Named(_));
        self.covers.has(name) && (self.kind != Kind::Secret || resources.has_tls_secret(name) != by_name)
    }

    /// What there is of its objects.
    fn known(&self, resources: &Resources) -> Vec<ObjectName> {
        let name = match &self.covers {
            Covers::One(name) | Covers::Named(name) => Some(name),
            Covers::All | Covers::Namespace(_) => None,
        };
        let names = name.map_or_else(|| resources.names(self.kind), |name| vec![name.clone()]);
        names.into_iter().filter(|name| self.is_about(name, resources)).collect()
    }

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
            Self::One(one) | Self::Named(one) => one == name,
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

fn secret(secret: Secret) -> Object {
    Object::from_secret(secret, unix_seconds())
}

fn item<K: Watched>(object: K, convert: fn(K) -> Object) -> Item {
    let (name, status) = (name(&object), object.status());
    Item { name, object: convert(object), status }
}

fn name<K: ResourceExt>(object: &K) -> ObjectName {
    ObjectName::new(&object.namespace().unwrap_or_default(), &object.name_any())
}
