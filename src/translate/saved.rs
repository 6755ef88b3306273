//! Resources as bytes and back, for a start without the API server. The form is ours alone: a version that
//! doesn't know it refuses it.

use std::collections::BTreeMap;
use std::hash::Hasher;

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

use super::object::{EndpointSlice, Ingress, IngressClass, Object, Service};
use super::resources::Resources;
use super::secret;
use crate::model::ObjectName;

/// Changes with every change of the objects' form.
const MAGIC: &[u8] = b"portunus resources 2\n";
const SUM_BYTES: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    #[error("it is no snapshot of this version")]
    Foreign,
    #[error("it is damaged")]
    Damaged,
}

/// Chain and key, DER.
type Pair = (Vec<Vec<u8>>, Vec<u8>);
type Named<T> = Vec<(ObjectName, T)>;
/// Borrowed: the same bytes.
type NamedRef<'a, T> = Vec<(&'a ObjectName, T)>;

#[derive(Serialize)]
struct Saved<'a> {
    ingresses: Vec<&'a Ingress>,
    classes: NamedRef<'a, &'a IngressClass>,
    services: Vec<&'a Service>,
    slices: Vec<&'a EndpointSlice>,
    secrets: NamedRef<'a, (&'a [Vec<u8>], &'a [u8])>,
    config_maps: NamedRef<'a, &'a BTreeMap<String, String>>,
    namespaces: Vec<&'a ObjectName>,
}

/// The same, owned.
#[derive(Deserialize)]
struct Loaded {
    ingresses: Vec<Ingress>,
    classes: Named<IngressClass>,
    services: Vec<Service>,
    slices: Vec<EndpointSlice>,
    secrets: Named<Pair>,
    config_maps: Named<BTreeMap<String, String>>,
    namespaces: Vec<ObjectName>,
}

impl Resources {
    /// All objects, with the certificates that are in service. Holds private keys.
    pub fn save(&self) -> Vec<u8> {
        let saved = Saved {
            ingresses: self.ingresses.values().collect(),
            classes: self.classes.iter().collect(),
            services: self.services.values().collect(),
            slices: self.slices.values().flatten().collect(),
            secrets: self
                .secrets
                .iter()
                .filter_map(|(name, secret)| {
                    let certificate = secret.certificate.as_ref()?;
                    Some((name, (&*certificate.chain, &*certificate.key.0)))
                })
                .collect(),
            config_maps: self.config_maps.iter().collect(),
            namespaces: self.namespaces.iter().collect(),
        };
        let mut bytes = postcard::to_extend(&saved, MAGIC.to_vec()).expect("plain values can be written to memory");
        let sum = sum(&bytes);
        bytes.extend(sum);
        bytes
    }

    /// What [`Resources::save`] wrote, all of it changed as far as translation is concerned. `now` is in seconds
    /// since the epoch.
    pub fn load(bytes: &[u8], now: i64) -> Result<Self, LoadError> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(LoadError::Foreign)?;
        let body = rest.len().checked_sub(SUM_BYTES).map(|end| &rest[..end]).ok_or(LoadError::Damaged)?;
        if sum(&bytes[..bytes.len() - SUM_BYTES]) != bytes[bytes.len() - SUM_BYTES..] {
            return Err(LoadError::Damaged);
        }
        let loaded: Loaded = postcard::from_bytes(body).map_err(|_| LoadError::Damaged)?;
        let mut resources = Self::default();
        let secrets = loaded.secrets.into_iter();
        let objects = (loaded.ingresses.into_iter().map(Object::Ingress))
            .chain(loaded.classes.into_iter().map(|(name, class)| Object::IngressClass(name, class)))
            .chain(loaded.services.into_iter().map(Object::Service))
            .chain(loaded.slices.into_iter().map(Object::EndpointSlice))
            .chain(secrets.map(|(name, (chain, key))| Object::Secret(name, secret::read_der(chain, key, now))))
            .chain(loaded.config_maps.into_iter().map(|(name, data)| Object::ConfigMap(name, data)))
            .chain(loaded.namespaces.into_iter().map(Object::Namespace));
        objects.for_each(|object| resources.apply(object));
        Ok(resources)
    }
}

fn sum(bytes: &[u8]) -> [u8; SUM_BYTES] {
    let mut hasher = SipHasher13::new();
    hasher.write(bytes);
    hasher.finish().to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PortRef;
    use crate::translate::object::{BackendSpec, IngressPath, IngressRule, IngressTls, SliceEndpoint, SlicePort};
    use crate::translate::{Settings, translate};

    fn resources() -> Resources {
        let mut resources = Resources::default();
        let backend = BackendSpec::Service { name: "juliet".to_owned(), port: PortRef::Number(80) };
        let path = IngressPath { path: Some("/".to_owned()), path_type: "Prefix".to_owned(), backend };
        resources.apply(Object::Ingress(Ingress {
            name: ObjectName::new("verona", "juliet"),
            created: Some(1),
            class: Some("portunus".to_owned()),
            legacy_class: None,
            annotations: vec![("affinity".into(), "cookie".into()), ("limit-rps".into(), "5".into())],
            default_backend: None,
            rules: vec![IngressRule { host: "verona.example".to_owned(), paths: vec![path] }],
            tls: vec![IngressTls { hosts: vec![], secret: Some("cert".to_owned()) }],
        }));
        let class = IngressClass { controller: "portunus.dev/ingress-controller".to_owned(), default: true };
        resources.apply(Object::IngressClass(ObjectName::new("", "portunus"), class));
        resources.apply(Object::EndpointSlice(EndpointSlice {
            name: ObjectName::new("verona", "juliet-1"),
            service: "juliet".to_owned(),
            ports: vec![SlicePort { name: String::new(), port: Some(8080) }],
            endpoints: vec![SliceEndpoint {
                addresses: vec!["10.0.0.1".to_owned()],
                ready: true,
                serving: true,
                terminating: false,
            }],
        }));
        let made = rcgen::generate_simple_self_signed(["verona.example".to_owned()]).unwrap();
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let read = secret::read(Some(certificate.as_bytes()), Some(key.as_bytes()), 1_800_000_000);
        resources.apply(Object::Secret(ObjectName::new("verona", "cert"), read));
        resources
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let mut before = resources();
        let bytes = before.save();
        let mut after = Resources::load(&bytes, 1_800_000_000).unwrap();
        let settings = Settings::default();
        assert_eq!(translate(&mut after, &settings), translate(&mut before, &settings));
        assert_eq!(after.save(), bytes);
    }

    #[test]
    fn what_is_damaged_or_foreign_is_refused() {
        let bytes = resources().save();
        assert_eq!(Resources::load(b"", 0).unwrap_err(), LoadError::Foreign);
        assert_eq!(Resources::load(b"portunus resources 1\n", 0).unwrap_err(), LoadError::Foreign);
        for length in MAGIC.len()..bytes.len() {
            assert_eq!(Resources::load(&bytes[..length], 0).unwrap_err(), LoadError::Damaged, "{length}");
        }
        for at in MAGIC.len()..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert_eq!(Resources::load(&flipped, 0).unwrap_err(), LoadError::Damaged, "{at}");
        }
    }
}
