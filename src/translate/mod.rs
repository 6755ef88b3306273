//! From Kubernetes objects to a [`Snapshot`]: pure, total, and at the cost of what changed. Translation never
//! fails and never awaits; what is wrong in an object becomes a [`Problem`] and stops nothing else.
//!
//! A [`Translator`] keeps the parts it has made: one per Ingress, per backend and per host. A change makes the
//! parts again that depend on it, and no others; from nothing or step by step, the result is the same (held by
//! a property test).

mod aliases;
mod annotations;
mod class;
mod few;
mod field;
mod host;
mod ingress;
mod local;
mod object;
mod ownership;
mod paths;
mod problem;
mod problems;
mod resources;
mod review;
mod saved;
mod secret;
mod service;
mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

pub use annotations::{ANNOTATIONS, Annotation, Status as AnnotationStatus};
pub use object::Object;
pub use problem::{Kind, ObjectRef, Problem};
pub use resources::{Dirty, Resources};
pub use review::{Review, review};
pub use settings::{Hsts, Settings, next_upstream, response_header};

use crate::model::{BackendKey, Changed, HostPattern, ObjectName, Snapshot};
use few::Few;
use ingress::Parts;
use local::ApiServer;
use ownership::{Before, Claim, Owner, Wildcards};
use problems::Problems;
use service::World;

/// A translation from nothing, as `check` and tests want it.
#[derive(Debug, PartialEq, Serialize)]
pub struct Translation {
    pub snapshot: Snapshot,
    pub problems: Vec<Problem>,
}

/// Translates everything at once.
pub fn translate(resources: &mut Resources, settings: &Settings) -> Translation {
    let mut translator = Translator::new(settings.clone());
    translator.update(resources);
    Translation { problems: translator.problems(), snapshot: translator.snapshot }
}

#[derive(Debug)]
pub struct Translator {
    /// As the flags have them; a ConfigMap may say otherwise.
    flags: Settings,
    settings: Settings,
    /// The ConfigMap has been looked for.
    configured: bool,
    /// Apart from the map, as in [`Resources`].
    ingresses: BTreeMap<ObjectName, Box<Parts>>,
    /// The Ingresses that name a host, oldest first.
    by_host: BTreeMap<HostPattern, Few<Claim>>,
    /// The Ingresses that have a host as an alias, oldest first.
    by_alias: BTreeMap<HostPattern, Few<Claim>>,
    /// Filled only if hosts have owners.
    wildcards: Wildcards,
    by_backend: BTreeMap<BackendKey, Referrers>,
    /// What the Services of backends resolve to, of those that have an external name.
    external_names: BTreeMap<BackendKey, String>,
    api_server: ApiServer,
    /// By a Secret that a TLS block names.
    by_secret: BTreeMap<ObjectName, Few<ObjectName>>,
    /// By what an annotation names.
    by_reference: BTreeMap<ObjectRef, Few<ObjectName>>,
    references_changed: bool,
    snapshot: Snapshot,
    problems: Problems,
    updated: BTreeSet<ObjectName>,
}

/// Who names a backend. Many may name the same one, and its endpoints come and go.
#[derive(Debug, Default)]
struct Referrers {
    names: Few<ObjectName>,
    /// How many of them have their sessions stay with an endpoint.
    with_sessions: usize,
}

/// What must be made again.
#[derive(Default)]
struct Work {
    hosts: BTreeSet<HostPattern>,
    backends: BTreeSet<BackendKey>,
    secrets: BTreeSet<ObjectName>,
    wildcards: Before,
}

impl Translator {
    pub fn new(settings: Settings) -> Self {
        Self {
            flags: settings.clone(),
            settings,
            configured: false,
            ingresses: BTreeMap::new(),
            by_host: BTreeMap::new(),
            by_alias: BTreeMap::new(),
            wildcards: Wildcards::default(),
            by_backend: BTreeMap::new(),
            external_names: BTreeMap::new(),
            api_server: ApiServer::default(),
            by_secret: BTreeMap::new(),
            by_reference: BTreeMap::new(),
            references_changed: true,
            snapshot: Snapshot::default(),
            problems: Problems::default(),
            updated: BTreeSet::new(),
        }
    }

    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Takes up what changed in `resources` and says which parts of the snapshot are different now.
    pub fn update(&mut self, resources: &mut Resources) -> Changed {
        let dirty = resources.take_dirty();
        let mut work = Work::default();
        let default_certificate = self.snapshot.default_certificate.clone();
        let unread = !std::mem::replace(&mut self.configured, true);
        let dirty_settings = self.flags.config_map.as_ref().is_some_and(|name| dirty.config_maps.contains(name));
        let all = (unread || dirty_settings) && self.configure(resources, &mut work);
        for name in self.dirty_ingresses(&dirty, all, resources) {
            self.update_ingress(&name, resources, &mut work);
        }
        work.hosts.extend(self.wildcards.moved(&work.wildcards).cloned());
        if unread || all || dirty.services.contains(&ApiServer::service()) {
            self.look_for_api_server(resources, &mut work);
        }
        for service in &dirty.services {
            let keys = self.by_backend.range(first_key(service)..).map(|(key, _)| key);
            work.backends.extend(keys.take_while(|key| key.service == *service).cloned());
        }
        // A Secret decides which certificate a host gets, by whether it is usable and by the names in it. Who else
        // names it does not matter: a change of one Ingress must not make the hosts of all others again, nor does a
        // certificate that is renewed.
        let decisive = dirty.secrets.iter().filter(|name| self.decides_otherwise(name, resources));
        for ingress in decisive.filter_map(|name| self.by_secret.get(name)).flat_map(Few::iter) {
            work.hosts.extend(self.ingresses[ingress].hosts());
        }
        work.hosts.extend(self.aliases_of(&work.hosts));
        work.secrets.extend(dirty.secrets.iter().filter(|name| self.is_wanted(name)).cloned());
        let mut changed = Changed {
            backends: work.backends.into_iter().filter(|key| self.make_backend(key, resources)).collect(),
            hosts: work.hosts.into_iter().filter(|host| self.make_host(host, resources)).collect(),
            certificates: work.secrets.into_iter().filter(|name| self.make_certificate(name, resources)).collect(),
            default_certificate: false,
        };
        changed.default_certificate = self.snapshot.default_certificate != default_certificate;
        if changed.default_certificate || all {
            self.problems.ask_again();
        }
        changed
    }

    /// Everything that is wrong, in the order of objects and fields.
    pub fn problems(&self) -> Vec<Problem> {
        let of_ingresses = self.problems.troubled.iter().flat_map(|name| problems::own(&self.ingresses[name]));
        let default =
            self.settings.default_certificate.as_ref().filter(|_| self.snapshot.default_certificate.is_none());
        let no_default = default.map(|name| {
            let what = "the default certificate is missing or broken";
            Problem::new(
                ObjectRef::new(Kind::Secret, name),
                "data",
                what,
                "create it; a self-signed one is served meanwhile",
            )
        });
        let all = of_ingresses.chain(self.problems.of_others()).chain(&no_default);
        all.cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Whether [`Translator::problems`] may say something else than at the last call.
    pub fn take_problems_changed(&mut self) -> bool {
        self.problems.take_changed()
    }

    /// Host names that Services of type ExternalName want resolved.
    pub fn external_names(&self) -> BTreeSet<String> {
        if !self.settings.allow_external_names {
            return BTreeSet::new();
        }
        self.external_names.values().cloned().collect()
    }

    /// What annotations of our Ingresses name, Secrets and `ConfigMap`s: what must be watched by name.
    pub fn references(&self) -> impl Iterator<Item = &ObjectRef> {
        self.by_reference.keys()
    }

    /// Whether they may be others than at the last call.
    pub fn take_references_changed(&mut self) -> bool {
        std::mem::take(&mut self.references_changed)
    }

    /// The Ingresses that are ours.
    pub fn ingresses(&self) -> impl Iterator<Item = &ObjectName> {
        self.ingresses.keys()
    }

    /// Whether an Ingress is ours.
    pub fn has_ingress(&self, name: &ObjectName) -> bool {
        self.ingresses.contains_key(name)
    }

    /// The Ingresses of ours that came or changed since the last call.
    pub fn take_updated(&mut self) -> BTreeSet<ObjectName> {
        std::mem::take(&mut self.updated)
    }

    /// Takes up the operator's ConfigMap. Says whether anything is different, and then has all made again.
    fn configure(&mut self, resources: &Resources, work: &mut Work) -> bool {
        let (settings, problems) = self.flags.with_config_map(resources);
        self.problems.of_settings(problems);
        if settings == self.settings {
            return false;
        }
        let before = std::mem::replace(&mut self.settings, settings);
        work.hosts.extend(self.by_host.keys().cloned());
        work.backends.extend(self.by_backend.keys().cloned());
        work.secrets
            .extend([before.default_certificate, self.settings.default_certificate.clone()].into_iter().flatten());
        self.snapshot.default_certificate = None;
        true
    }

    /// No backend may be where the API server is.
    fn look_for_api_server(&mut self, resources: &Resources, work: &mut Work) {
        let now = ApiServer::find(resources, &self.settings);
        if self.api_server != now {
            self.api_server = now;
            work.backends.extend(self.by_backend.keys().cloned());
        }
    }

    fn dirty_ingresses(&self, dirty: &Dirty, all: bool, resources: &Resources) -> BTreeSet<ObjectName> {
        if all || dirty.classes {
            return self.ingresses.keys().chain(resources.ingresses.keys()).cloned().collect();
        }
        let of_kind = |kind, names: &BTreeSet<ObjectName>| -> Vec<ObjectRef> {
            if self.by_reference.is_empty() {
                return Vec::new();
            }
            names.iter().map(|name| ObjectRef::new(kind, name)).collect()
        };
        let named = [of_kind(Kind::Secret, &dirty.secrets), of_kind(Kind::ConfigMap, &dirty.config_maps)].concat();
        let readers = named.iter().filter_map(|object| self.by_reference.get(object)).flat_map(Few::iter);
        dirty.ingresses.iter().chain(readers).cloned().collect()
    }

    fn update_ingress(&mut self, name: &ObjectName, resources: &Resources, work: &mut Work) {
        let ours = |ingress: &&Arc<object::Ingress>| class::is_ours(ingress, resources, &self.settings);
        let parts = resources.ingresses.get(name).filter(ours);
        let parts = parts.map(|ingress| Box::new(Parts::new(ingress, &self.settings, resources)));
        if self.ingresses.get(name) == parts.as_ref() {
            return;
        }
        let old = self.ingresses.remove(name);
        self.problems.of_ingress(name, old.as_deref(), parts.as_deref());
        if let Some(old) = old {
            self.index(&old, work, false);
        }
        if let Some(new) = parts {
            self.index(&new, work, true);
            self.updated.insert(name.clone());
            self.ingresses.insert(name.clone(), new);
        }
    }

    /// Enters the Ingress under all that depends on it, or takes it out.
    fn index(&mut self, parts: &Parts, work: &mut Work, present: bool) {
        for host in parts.hosts() {
            enter(&mut self.by_host, &host, parts.age(), present);
            work.hosts.insert(host);
        }
        for alias in &parts.aliases {
            enter(&mut self.by_alias, alias, parts.age(), present);
            work.hosts.insert(alias.clone());
        }
        for (key, _) in &*parts.backends() {
            self.by_backend.entry(key.clone()).or_default().enter(parts, present);
            work.backends.insert(key.clone());
        }
        for secret in parts.secrets() {
            enter(&mut self.by_secret, secret, parts.name.clone(), present);
            work.secrets.insert(secret.clone());
        }
        for object in &parts.references {
            let known = self.by_reference.len();
            enter(&mut self.by_reference, object, parts.name.clone(), present);
            if self.by_reference.get(object).is_some_and(Few::is_empty) {
                self.by_reference.remove(object);
            }
            self.references_changed |= self.by_reference.len() != known;
        }
        if self.settings.strict_host_ownership {
            self.wildcards.index(parts, present, &mut work.wildcards);
        }
    }

    /// Who has the host; nobody in particular unless the operator wants it so.
    fn owner(&self, host: &HostPattern) -> Option<Owner<'_>> {
        let named = self.by_host.get(host).and_then(Few::first);
        self.wildcards.owner(host, named).filter(|_| self.settings.strict_host_ownership)
    }

    /// Whether hosts may get another certificate than the one that they have of this Secret, or none.
    fn decides_otherwise(&self, secret: &ObjectName, resources: &Resources) -> bool {
        let now = resources.tls_secret(secret).and_then(|secret| secret.certificate.as_ref());
        let known = self.snapshot.certificates.get(secret);
        now.map(|certificate| &certificate.names) != known.map(|certificate| &certificate.names)
    }

    fn is_wanted(&self, secret: &ObjectName) -> bool {
        self.by_secret.contains_key(secret) || self.settings.default_certificate.as_ref() == Some(secret)
    }

    fn make_backend(&mut self, key: &BackendKey, resources: &Resources) -> bool {
        let Some(Referrers { names, with_sessions }) = self.by_backend.get(key).filter(|all| !all.names.is_empty())
        else {
            self.by_backend.remove(key);
            self.external_names.remove(key);
            self.problems.of_backend(key, Vec::new());
            return self.snapshot.backends.remove(key).is_some();
        };
        match resources.services.get(&key.service).and_then(|service| service.external_name.clone()) {
            Some(name) => drop(self.external_names.insert(key.clone(), name)),
            None => drop(self.external_names.remove(key)),
        }
        let referrer = |name| (ObjectRef::new(Kind::Ingress, name), self.ingresses[name].field_of(key));
        let referrers = names.iter().map(referrer);
        let world = World { resources, settings: &self.settings, api_server: &self.api_server };
        let (mut backend, problems) = service::backend(key, referrers, *with_sessions > 0, world);
        // Whoever asks for the same names the same Secret.
        let wanted = key.options.as_ref().and_then(|options| options.tls.as_deref());
        let asked = |name: &ObjectName| self.ingresses[name].backend_tls.clone();
        backend.tls = wanted.and_then(|wanted| names.iter().filter_map(asked).find(|tls| tls.options == *wanted));
        self.problems.of_backend(key, problems);
        put(&mut self.snapshot.backends, key, backend)
    }

    /// Those that name the host and may; what to say to the others.
    fn admitted(&self, host: &HostPattern) -> (Vec<&Parts>, Vec<Problem>) {
        let claims = self.by_host.get(host).into_iter().flat_map(Few::iter);
        let mut ingresses: Vec<&Parts> = claims.map(|(_, name)| &*self.ingresses[name]).collect();
        let Some(owner) = self.owner(host) else { return (ingresses, Vec::new()) };
        let refused = ingresses.extract_if(.., |parts| !owner.admits(&parts.name));
        let problems = refused.flat_map(|parts| owner.refusals(host, parts)).collect();
        (ingresses, problems)
    }

    fn make_host(&mut self, pattern: &HostPattern, resources: &Resources) -> bool {
        let without = |claims: &BTreeMap<_, Few<Claim>>| claims.get(pattern).is_none_or(Few::is_empty);
        let (unnamed, no_alias) = (without(&self.by_host), without(&self.by_alias));
        if unnamed {
            self.by_host.remove(pattern);
        }
        if no_alias {
            self.by_alias.remove(pattern);
        }
        if unnamed && no_alias {
            self.wildcards.forget(pattern);
            self.problems.of_host(pattern, Vec::new());
            return self.snapshot.hosts.remove(pattern).is_some();
        }
        let (mut ingresses, mut problems) = self.admitted(pattern);
        let alias_of = if no_alias { None } else { self.alias_of(pattern, &ingresses, &mut problems) };
        // A host that is somebody's who does not name it is as if nobody did: his wildcard takes it.
        let unnamed = ingresses.is_empty() && alias_of.is_none();
        let (host, conflicts) = match &alias_of {
            None => host::merge(pattern, &ingresses, resources, &self.settings),
            Some(other) => {
                let (of_other, _) = self.admitted(other);
                ingresses.extend(&of_other);
                ingresses.sort_by_key(|parts| parts.age());
                ingresses.dedup_by(|one, other| one.name == other.name);
                host::alias(pattern, other, &of_other, &ingresses, resources, &self.settings)
            }
        };
        problems.extend(conflicts);
        self.problems.of_host(pattern, problems);
        if unnamed {
            self.snapshot.hosts.remove(pattern).is_some()
        } else {
            put(&mut self.snapshot.hosts, pattern, host)
        }
    }

    fn make_certificate(&mut self, name: &ObjectName, resources: &Resources) -> bool {
        if self.by_secret.get(name).is_some_and(Few::is_empty) {
            self.by_secret.remove(name);
        }
        let secret = resources.tls_secret(name).filter(|_| self.is_wanted(name));
        let mut problems = Vec::new();
        if let Some(invalid) = secret.and_then(|secret| secret.invalid.as_ref()) {
            let object = ObjectRef::new(Kind::Secret, name);
            problems.push(Problem::new(object, invalid.field, invalid.what.clone(), invalid.fix));
        }
        // Of one that can be used nothing is to be said to the many that may name it.
        let unusable = secret.is_none_or(|secret| secret.certificate.is_none());
        let referrers = self.by_secret.get(name).filter(|_| unusable).into_iter().flat_map(Few::iter);
        for parts in referrers.map(|ingress| &self.ingresses[ingress]) {
            let blocks = parts.tls.iter().filter(|tls| tls.secret == *name);
            problems.extend(blocks.filter_map(|tls| ingress::secret_problem(parts, tls, resources)));
        }
        self.problems.of_secret(name, problems);

        let certificate = secret.and_then(|secret| secret.certificate.clone());
        let default = self.settings.default_certificate.as_ref() == Some(name);
        if default {
            self.snapshot.default_certificate = certificate.is_some().then(|| name.clone());
        }
        match certificate {
            Some(certificate) if self.snapshot.certificates.get(name) == Some(&certificate) => false,
            Some(certificate) => {
                self.snapshot.certificates.insert(name.clone(), certificate);
                true
            }
            None => self.snapshot.certificates.remove(name).is_some(),
        }
    }
}

impl Referrers {
    fn enter(&mut self, parts: &Parts, present: bool) {
        if present {
            self.names.insert(parts.name.clone());
            self.with_sessions += usize::from(parts.affinity);
        } else {
            self.names.remove(&parts.name);
            self.with_sessions -= usize::from(parts.affinity);
        }
    }
}

/// Sorts before every key of the service.
fn first_key(service: &ObjectName) -> BackendKey {
    BackendKey { service: service.clone(), port: crate::model::PortRef::Number(0), options: None }
}

/// Adds to the set of a key, or takes out of it; who makes what depends on the key removes an empty one.
fn enter<K: Ord + Clone, V: Ord>(all: &mut BTreeMap<K, Few<V>>, key: &K, value: V, present: bool) {
    let set = all.entry(key.clone()).or_default();
    if present {
        set.insert(value);
    } else {
        set.remove(&value);
    }
}

/// Puts the part into the snapshot and says whether it is another one.
fn put<K: Ord + Clone, V: PartialEq>(all: &mut BTreeMap<K, Arc<V>>, key: &K, part: V) -> bool {
    if all.get(key).is_some_and(|old| **old == part) {
        return false;
    }
    all.insert(key.clone(), Arc::new(part));
    true
}
