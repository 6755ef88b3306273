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
    /// What is served: the certificate, or the last good one if what arrived is broken.
    pub certificate: Option<Arc<Certificate>>,
    pub invalid: Option<InvalidSecret>,
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

    /// Finds the certificates that have expired in service since they were read. They stay: there is none better.
    /// Returns whether there were any.
    pub fn expire(&mut self, now: i64) -> bool {
        let mut found = false;
        for (name, secret) in &mut self.secrets {
            let Some(certificate) = secret.certificate.as_ref().filter(|_| secret.invalid.is_none()) else { continue };
            if certificate.not_after < now {
                secret.invalid = Some(secret::expired(certificate, now));
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
        let Content { tls, pair, authorities, data } = content;
        let before = self.secrets.get(&name).filter(|secret| secret.tls == tls);
        let before = before.and_then(|secret| secret.certificate.clone());
        let (certificate, invalid) = match pair {
            Some(Ok(certificate)) => (Some(Arc::new(certificate)), None),
            Some(Err(mut invalid)) => {
                // An expired certificate is told apart by clients; the self-signed default only confuses them.
                let expired = invalid.expired.take().map(|certificate| Arc::new(*certificate));
                (before.or(expired), Some(invalid))
            }
            None => (None, None),
        };
        if put(&mut self.secrets, &name, Secret { tls, certificate, invalid, authorities, data }) {
            self.dirty.secrets.insert(name);
        }
    }
}

impl Secret {
    /// Whether it is what arrives now. One that is broken is looked at again, as it may have been good before.
    fn is(&self, content: &Content) -> bool {
        let Content { tls, pair, authorities, data } = content;
        let same_pair = match pair {
            Some(Ok(read)) => self.invalid.is_none() && self.certificate.as_deref() == Some(read),
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
