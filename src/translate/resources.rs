//! All objects that there are, as translation reads them, and what changed among them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::object::{EndpointSlice, Ingress, IngressClass, Object, Service};
use super::problem::{Kind, ObjectRef};
use super::secret::{self, Content, InvalidSecret, SecretData};
use crate::model::{Authorities, Certificate, ObjectName};

/// A Secret, read when it arrives.
#[derive(Debug, Clone, PartialEq)]
pub struct Secret {
    /// It is of type `kubernetes.io/tls`. No other is served to clients.
    pub tls: bool,
    /// What is served: the certificate, or the last good one if what arrived is broken, or not for this time.
    pub certificate: Option<Arc<Certificate>>,
    pub invalid: Option<InvalidSecret>,
    /// What arrived, whatever its dates; `None` if it is broken.
    held: Option<Arc<Certificate>>,
    /// What was served before that, as long as that is not for this time.
    before: Option<Arc<Certificate>>,
    /// The CA bundle in `ca.crt`, if there is one. Most have none.
    pub authorities: Option<Box<Result<Authorities, InvalidSecret>>>,
    /// All that is in a Secret of another type; `None` if that is too much.
    pub data: Option<Arc<SecretData>>,
}

/// What changed since translation last looked.
#[derive(Debug, Default)]
pub struct Dirty {
    /// Which Ingresses are ours may be another question now: a class or a namespace has changed.
    pub(super) classes: bool,
    pub(super) ingresses: BTreeSet<ObjectName>,
    pub(super) services: BTreeSet<ObjectName>,
    pub(super) secrets: BTreeSet<ObjectName>,
    pub(super) config_maps: BTreeSet<ObjectName>,
}

/// All objects that there are. The large ones are apart from the maps, whose nodes have room for eleven and are half
/// empty where names came in their order; and a folder shares them.
#[derive(Debug, Default)]
pub struct Resources {
    pub(super) ingresses: BTreeMap<ObjectName, Arc<Ingress>>,
    pub(super) classes: BTreeMap<ObjectName, IngressClass>,
    pub(super) services: BTreeMap<ObjectName, Arc<Service>>,
    /// By Service; sorted by the slice's own name.
    pub(super) slices: BTreeMap<ObjectName, Vec<Arc<EndpointSlice>>>,
    slice_services: BTreeMap<ObjectName, ObjectName>,
    pub(super) secrets: BTreeMap<ObjectName, Secret>,
    pub(super) config_maps: BTreeMap<ObjectName, BTreeMap<String, String>>,
    /// The selected ones, where the operator selects.
    pub(super) namespaces: BTreeSet<ObjectName>,
    /// Addresses of external names, by name.
    pub(super) resolved: BTreeMap<String, Vec<IpAddr>>,
    dirty: Dirty,
}

impl Resources {
    /// Adds the object or replaces the one of its name. One that is there already, as it is, changes nothing.
    pub fn apply(&mut self, object: Object) {
        match object {
            Object::Ingress(ingress) => {
                let name = ingress.name.clone();
                if put(&mut self.ingresses, &name, ingress) {
                    self.dirty.ingresses.insert(name);
                }
            }
            Object::IngressClass(name, class) => self.dirty.classes |= put(&mut self.classes, &name, class),
            Object::Service(service) => {
                let name = service.name.clone();
                if put(&mut self.services, &name, service) {
                    self.dirty.services.insert(name);
                }
            }
            Object::EndpointSlice(slice) => self.apply_slice(slice),
            Object::Secret(name, content) => self.apply_secret(name, content),
            Object::ConfigMap(name, data) => {
                if put(&mut self.config_maps, &name, data) {
                    self.dirty.config_maps.insert(name);
                }
            }
            Object::Namespace(name) => self.dirty.classes |= self.namespaces.insert(name),
        }
    }

    /// Whether the object is there as it is.
    pub fn holds(&self, object: &Object) -> bool {
        match object {
            Object::Ingress(ingress) => self.ingresses.get(&ingress.name) == Some(ingress),
            Object::IngressClass(name, class) => self.classes.get(name) == Some(class),
            Object::Service(service) => self.services.get(&service.name) == Some(service),
            Object::EndpointSlice(slice) => self.slice(&slice.name) == Some(slice),
            Object::Secret(name, content) => self.secrets.get(name).is_some_and(|secret| secret.is(content)),
            Object::ConfigMap(name, data) => self.config_maps.get(name) == Some(data),
            Object::Namespace(name) => self.namespaces.contains(name),
        }
    }

    fn slice(&self, name: &ObjectName) -> Option<&Arc<EndpointSlice>> {
        let slices = self.slices.get(self.slice_services.get(name)?)?;
        slices.iter().find(|slice| slice.name == *name)
    }

    /// The names of all objects of a kind.
    pub fn names(&self, kind: Kind) -> Vec<ObjectName> {
        match kind {
            Kind::Ingress => self.ingresses.keys().cloned().collect(),
            Kind::IngressClass => self.classes.keys().cloned().collect(),
            Kind::Service => self.services.keys().cloned().collect(),
            Kind::EndpointSlice => self.slice_services.keys().cloned().collect(),
            Kind::Secret => self.secrets.keys().cloned().collect(),
            Kind::ConfigMap => self.config_maps.keys().cloned().collect(),
            Kind::Namespace => self.namespaces.iter().cloned().collect(),
        }
    }

    pub fn remove(&mut self, object: &ObjectRef) {
        let name = &object.name;
        match object.kind {
            Kind::Ingress => {
                self.dirty.ingresses.insert(name.clone());
                self.ingresses.remove(name);
            }
            Kind::IngressClass => self.dirty.classes |= self.classes.remove(name).is_some(),
            Kind::Service => {
                self.dirty.services.insert(name.clone());
                self.services.remove(name);
            }
            Kind::EndpointSlice => self.remove_slice(name),
            Kind::Secret => {
                self.dirty.secrets.insert(name.clone());
                self.secrets.remove(name);
            }
            Kind::ConfigMap => {
                self.dirty.config_maps.insert(name.clone());
                self.config_maps.remove(name);
            }
            Kind::Namespace => self.dirty.classes |= self.namespaces.remove(name),
        }
    }

    /// Judges all certificates by the time that it is now, in seconds since the epoch: those that have expired since
    /// they were read, those whose time has come, and whatever a clock that was set makes of them. Returns whether
    /// anything is another than before.
    pub fn judge(&mut self, now: i64) -> bool {
        let mut found = false;
        for (name, secret) in &mut self.secrets {
            if secret.judge(now) {
                self.dirty.secrets.insert(name.clone());
                found = true;
            }
        }
        found
    }

    /// Sets what an external name resolves to.
    pub fn resolve(&mut self, name: &str, addresses: Vec<IpAddr>) {
        if self.resolved.get(name) == Some(&addresses) {
            return;
        }
        self.resolved.insert(name.to_owned(), addresses);
        let named = |service: &&Arc<Service>| service.external_name.as_deref() == Some(name);
        self.dirty.services.extend(self.services.values().filter(named).map(|service| service.name.clone()));
    }

    /// The certificate that is served out of a Secret, whoever names it.
    pub fn certificate(&self, secret: &ObjectName) -> Option<Arc<Certificate>> {
        self.tls_secret(secret)?.certificate.clone()
    }

    /// A Secret of type `kubernetes.io/tls`, which others may not be taken for.
    pub(super) fn tls_secret(&self, name: &ObjectName) -> Option<&Secret> {
        self.secrets.get(name).filter(|secret| secret.tls)
    }

    /// Whether there is a Secret of type `kubernetes.io/tls`.
    pub fn has_tls_secret(&self, name: &ObjectName) -> bool {
        self.tls_secret(name).is_some()
    }

    /// Has everything looked at again, as a translator that begins now must.
    pub fn mark_all(&mut self) {
        self.dirty.classes = true;
        self.dirty.ingresses.extend(self.ingresses.keys().cloned());
        self.dirty.services.extend(self.services.keys().cloned());
        self.dirty.secrets.extend(self.secrets.keys().cloned());
        self.dirty.config_maps.extend(self.config_maps.keys().cloned());
    }

    /// What changed since the last call.
    pub fn take_dirty(&mut self) -> Dirty {
        std::mem::take(&mut self.dirty)
    }

    fn apply_slice(&mut self, slice: Arc<EndpointSlice>) {
        if self.slice(&slice.name) == Some(&slice) {
            return;
        }
        self.remove_slice(&slice.name);
        let service = ObjectName { namespace: slice.name.namespace.clone(), name: slice.service.as_str().into() };
        self.dirty.services.insert(service.clone());
        self.slice_services.insert(slice.name.clone(), service.clone());
        let slices = self.slices.entry(service).or_default();
        let at = slices.partition_point(|other| other.name < slice.name);
        // Most Services have one.
        slices.reserve_exact(1);
        slices.insert(at, slice);
    }

    fn remove_slice(&mut self, name: &ObjectName) {
        let Some(service) = self.slice_services.remove(name) else { return };
        if let Some(slices) = self.slices.get_mut(&service) {
            slices.retain(|slice| slice.name != *name);
            if slices.is_empty() {
                self.slices.remove(&service);
            }
        }
        self.dirty.services.insert(service);
    }

    /// A broken Secret takes nothing out of service: the certificate that was there stays.
    fn apply_secret(&mut self, name: ObjectName, content: Content) {
        let Content { tls, pair, authorities, data, now } = content;
        let known = self.secrets.get(&name).filter(|secret| secret.tls == tls);
        let mut secret = Secret { tls, certificate: None, invalid: None, held: None, before: None, authorities, data };
        match pair {
            Some(Ok(read)) => {
                // The same once more, as after a watch that was made anew, is not what was there before it.
                let again = known.filter(|known| known.held.as_deref() == Some(&read));
                secret.before = again
                    .map_or_else(|| known.and_then(|known| known.certificate.clone()), |known| known.before.clone());
                secret.held = Some(Arc::new(read));
                secret.judge(now);
            }
            Some(Err(invalid)) => {
                secret.certificate = known.and_then(|known| known.certificate.clone());
                secret.invalid = Some(invalid);
            }
            None => {}
        }
        if put(&mut self.secrets, &name, secret) {
            self.dirty.secrets.insert(name);
        }
    }
}

impl Secret {
    /// Decides what is served at this time. What it holds is, unless it is not for this time and what was there before
    /// is: with neither, clients can at least tell an expired certificate from a stranger's, and where it is our clock
    /// that is wrong, they find nothing amiss. Returns whether that is news.
    fn judge(&mut self, now: i64) -> bool {
        // Of what is broken the date is the least fault.
        let Some(held) = &self.held else { return false };
        let invalid = secret::untimely(held, now);
        if invalid.is_none() {
            self.before = None;
        }
        let better = self.before.as_ref().filter(|before| secret::untimely(before, now).is_none());
        let certificate = better.unwrap_or(held).clone();
        let same = self.certificate.as_ref().is_some_and(|served| Arc::ptr_eq(served, &certificate));
        let news = !same || self.invalid != invalid;
        (self.certificate, self.invalid) = (Some(certificate), invalid);
        news
    }

    /// Whether it is what arrives now. One that is broken is looked at again, as it may have been good before.
    fn is(&self, content: &Content) -> bool {
        // What is not for this time is judged again without being read.
        let Content { tls, pair, authorities, data, now: _ } = content;
        let same_pair = match pair {
            Some(Ok(read)) => self.held.as_deref() == Some(read),
            Some(Err(_)) => false,
            None => self.invalid.is_none() && self.certificate.is_none(),
        };
        same_pair && self.tls == *tls && self.authorities == *authorities && self.data == *data
    }
}

/// Says whether it is another one than before.
fn put<T: PartialEq>(all: &mut BTreeMap<ObjectName, T>, name: &ObjectName, object: T) -> bool {
    if all.get(name) == Some(&object) {
        return false;
    }
    all.insert(name.clone(), object);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;
    const DAY: i64 = 86_400;

    fn certificate(name: &str, not_before: i64, not_after: i64) -> Certificate {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let read = secret::read(Some(chain.as_bytes()), Some(key.as_bytes())).unwrap();
        Certificate { not_before, not_after, ..read }
    }

    fn name() -> ObjectName {
        ObjectName::new("verona", "cert")
    }

    fn apply(resources: &mut Resources, pair: Result<&Certificate, &str>, now: i64) {
        let broken = |what: &str| InvalidSecret { field: "data[tls.crt]", what: what.to_owned(), fix: "mend it" };
        let pair = Some(pair.cloned().map_err(broken));
        let content = Content { tls: true, pair, authorities: None, data: None, now };
        resources.apply(Object::Secret(name(), content));
    }

    /// Who is served, and what is wrong.
    fn served(resources: &Resources) -> (String, String) {
        let secret = &resources.secrets[&name()];
        let served = secret.certificate.as_ref().map(|certificate| certificate.names[0].to_string());
        let what = secret.invalid.as_ref().map(|invalid| invalid.what.clone());
        (served.unwrap_or_default(), what.unwrap_or_default())
    }

    #[track_caller]
    fn assert_served(resources: &Resources, name: &str, what: &str) {
        let (served, wrong) = served(resources);
        assert_eq!(served, name, "{wrong}");
        assert!(wrong.starts_with(what) && wrong.is_empty() == what.is_empty(), "{wrong}, not {what}");
    }

    /// Our clock is behind, and the authority's isn't.
    #[test]
    fn a_renewal_that_is_not_valid_yet_is_served_when_its_time_has_come() {
        let (old, new) = (certificate("a", NOW - DAY, NOW + DAY), certificate("b", NOW + 10, NOW + 90 * DAY));
        let mut resources = Resources::default();
        apply(&mut resources, Ok(&old), NOW);
        assert_served(&resources, "a", "");
        apply(&mut resources, Ok(&new), NOW);
        assert_served(&resources, "a", "is valid only from 2027-01-15T08:00:10Z");
        apply(&mut resources, Ok(&new), NOW);
        assert_served(&resources, "a", "is valid only from");
        resources.take_dirty();
        assert!(!resources.judge(NOW + 9) && resources.take_dirty().secrets.is_empty());
        assert!(resources.judge(NOW + 11) && resources.take_dirty().secrets.contains(&name()));
        assert_served(&resources, "b", "");
        assert!(!resources.judge(NOW + 12));
    }

    #[test]
    fn a_clock_that_goes_ahead_and_back_leaves_nothing_behind() {
        let only = certificate("a", NOW - DAY, NOW + DAY);
        let mut resources = Resources::default();
        apply(&mut resources, Ok(&only), NOW);
        assert!(resources.judge(NOW + 1_000 * DAY));
        assert_served(&resources, "a", "expired on");
        assert!(resources.judge(NOW));
        assert_served(&resources, "a", "");
        assert!(resources.judge(0));
        assert_served(&resources, "a", "is valid only from");
        assert!(resources.judge(NOW));
        assert_served(&resources, "a", "");
        // With a renewal that waits, too.
        let next = certificate("b", NOW + 10, NOW + 2 * DAY);
        apply(&mut resources, Ok(&next), NOW);
        assert!(resources.judge(NOW + 1_000 * DAY));
        assert_served(&resources, "b", "expired on");
        assert!(resources.judge(NOW));
        assert_served(&resources, "a", "is valid only from");
        assert!(resources.judge(NOW + DAY + 1));
        assert_served(&resources, "b", "");
    }

    #[test]
    fn what_is_not_for_this_time_is_served_if_there_is_nothing_better() {
        let (early, over) = (certificate("early", NOW + DAY, NOW + 2 * DAY), certificate("over", 0, NOW - DAY));
        let mut resources = Resources::default();
        apply(&mut resources, Ok(&early), NOW);
        assert_served(&resources, "early", "is valid only from");
        apply(&mut resources, Ok(&over), NOW);
        assert_served(&resources, "over", "expired on");
        apply(&mut resources, Ok(&early), NOW);
        assert_served(&resources, "early", "is valid only from");
        // One that was good goes before either, also if another was broken between them.
        apply(&mut resources, Ok(&certificate("good", 0, NOW + DAY)), NOW);
        apply(&mut resources, Err("is broken"), NOW);
        assert_served(&resources, "good", "is broken");
        assert!(!resources.judge(NOW + 2 * DAY), "what is broken is not mended by time");
        apply(&mut resources, Ok(&over), NOW);
        assert_served(&resources, "good", "expired on");
    }
}
