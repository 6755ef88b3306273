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
mod host;
mod ingress;
mod object;
mod ownership;
mod paths;
mod problem;
mod resources;
mod review;
mod saved;
mod secret;
mod service;
mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

pub use annotations::{ANNOTATIONS, Annotation, PREFIX as ANNOTATION_PREFIX, Status as AnnotationStatus};
pub use object::Object;
pub use problem::{Kind, ObjectRef, Problem};
pub use resources::{Dirty, Resources};
pub use review::{Review, review};
pub use settings::{Hsts, Settings, response_header};

use crate::model::{BackendKey, Changed, HostPattern, ObjectName, Snapshot};
use few::Few;
use ingress::Parts;
use ownership::{Before, Claim, Owner, Wildcards};

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
    settings_problems: Vec<Problem>,
    /// The ConfigMap has been looked for.
    configured: bool,
    ingresses: BTreeMap<ObjectName, Parts>,
    /// The Ingresses that name a host, oldest first.
    by_host: BTreeMap<HostPattern, Few<Claim>>,
    /// The Ingresses that have a host as an alias, oldest first.
    by_alias: BTreeMap<HostPattern, Few<Claim>>,
    /// Filled only if hosts have owners.
    wildcards: Wildcards,
    by_backend: BTreeMap<BackendKey, Few<ObjectName>>,
    /// By a Secret that a TLS block names.
    by_secret: BTreeMap<ObjectName, Few<ObjectName>>,
    /// By what an annotation names.
    by_reference: BTreeMap<ObjectRef, Few<ObjectName>>,
    references_changed: bool,
    snapshot: Snapshot,
    host_problems: BTreeMap<HostPattern, Vec<Problem>>,
    backend_problems: BTreeMap<BackendKey, Vec<Problem>>,
    secret_problems: BTreeMap<ObjectName, Vec<Problem>>,
    updated: BTreeSet<ObjectName>,
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
            settings_problems: Vec::new(),
            configured: false,
            ingresses: BTreeMap::new(),
            by_host: BTreeMap::new(),
            by_alias: BTreeMap::new(),
            wildcards: Wildcards::default(),
            by_backend: BTreeMap::new(),
            by_secret: BTreeMap::new(),
            by_reference: BTreeMap::new(),
            references_changed: true,
            snapshot: Snapshot::default(),
            host_problems: BTreeMap::new(),
            backend_problems: BTreeMap::new(),
            secret_problems: BTreeMap::new(),
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
        for service in &dirty.services {
            let keys = self.by_backend.range(first_key(service)..).map(|(key, _)| key);
            work.backends.extend(keys.take_while(|key| key.service == *service).cloned());
        }
        // A Secret decides which certificate a host gets, by whether it is usable and by the names in it. Who else
        // names it does not matter: a change of one Ingress must not make the hosts of all others again.
        for ingress in dirty.secrets.iter().filter_map(|name| self.by_secret.get(name)).flat_map(Few::iter) {
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
        changed
    }

    /// Everything that is wrong, in the order of objects and fields.
    pub fn problems(&self) -> Vec<Problem> {
        let of_ingresses = self.ingresses.values().flat_map(|parts| parts.problems.iter().chain(&parts.warnings));
        let of_hosts = self.host_problems.values().flatten();
        let of_backends = self.backend_problems.values().flatten();
        let of_secrets = self.secret_problems.values().flatten();
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
        let of_settings = &self.settings_problems;
        let all =
            of_ingresses.chain(of_hosts).chain(of_backends).chain(of_secrets).chain(&no_default).chain(of_settings);
        all.cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Host names that Services of type ExternalName want resolved.
    pub fn external_names(&self, resources: &Resources) -> BTreeSet<String> {
        if !self.settings.allow_external_names {
            return BTreeSet::new();
        }
        let services = self.by_backend.keys().filter_map(|key| resources.services.get(&key.service));
        services.filter_map(|service| service.external_name.clone()).collect()
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

    /// The Ingresses of ours that came or changed since the last call.
    pub fn take_updated(&mut self) -> BTreeSet<ObjectName> {
        std::mem::take(&mut self.updated)
    }

    /// Takes up the operator's ConfigMap. Says whether anything is different, and then has all made again.
    fn configure(&mut self, resources: &Resources, work: &mut Work) -> bool {
        let (settings, problems) = self.flags.with_config_map(resources);
        self.settings_problems = problems;
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
        let ours = |ingress: &&object::Ingress| class::is_ours(ingress, resources, &self.settings);
        let parts =
            resources.ingresses.get(name).filter(ours).map(|ingress| Parts::new(ingress, &self.settings, resources));
        if self.ingresses.get(name) == parts.as_ref() {
            return;
        }
        if let Some(old) = self.ingresses.remove(name) {
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
        for (key, _) in &parts.backends {
            enter(&mut self.by_backend, key, parts.name.clone(), present);
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

    fn is_wanted(&self, secret: &ObjectName) -> bool {
        self.by_secret.contains_key(secret) || self.settings.default_certificate.as_ref() == Some(secret)
    }

    fn make_backend(&mut self, key: &BackendKey, resources: &Resources) -> bool {
        let names = self.by_backend.get(key).filter(|names| !names.is_empty());
        let Some(names) = names else {
            self.by_backend.remove(key);
            self.backend_problems.remove(key);
            return self.snapshot.backends.remove(key).is_some();
        };
        let referrer = |name: &ObjectName| (ObjectRef::new(Kind::Ingress, name), self.ingresses[name].field_of(key));
        let referrers: Vec<_> = names.iter().map(referrer).collect();
        let sessions = names.iter().any(|name| self.ingresses[name].affinity);
        let (mut backend, problems) = service::backend(key, &referrers, sessions, resources, &self.settings);
        // Whoever asks for the same names the same Secret.
        let wanted = key.options.as_ref().and_then(|options| options.tls.as_deref());
        let asked = |name: &ObjectName| self.ingresses[name].backend_tls.clone();
        backend.tls = wanted.and_then(|wanted| names.iter().filter_map(asked).find(|tls| tls.options == *wanted));
        keep(&mut self.backend_problems, key, problems);
        put(&mut self.snapshot.backends, key, backend)
    }

    /// Those that name the host and may; what to say to the others.
    fn admitted(&self, host: &HostPattern) -> (Vec<&Parts>, Vec<Problem>) {
        let claims = self.by_host.get(host).into_iter().flat_map(Few::iter);
        let mut ingresses: Vec<&Parts> = claims.map(|(_, name)| &self.ingresses[name]).collect();
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
            self.host_problems.remove(pattern);
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
        keep(&mut self.host_problems, pattern, problems);
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
        let referrers = self.by_secret.get(name).into_iter().flat_map(Few::iter);
        for parts in referrers.map(|ingress| &self.ingresses[ingress]) {
            let blocks = parts.tls.iter().filter(|tls| tls.secret == *name);
            problems.extend(blocks.filter_map(|tls| ingress::secret_problem(parts, tls, resources)));
        }
        keep(&mut self.secret_problems, name, problems);

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

fn keep<K: Ord + Clone>(all: &mut BTreeMap<K, Vec<Problem>>, key: &K, problems: Vec<Problem>) {
    if problems.is_empty() {
        all.remove(key);
    } else {
        all.insert(key.clone(), problems);
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
