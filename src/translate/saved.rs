//! Resources as bytes and back, for a start without the API server. The form is ours alone: a version that
//! doesn't know it refuses it.

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;
use zeroize::Zeroizing;

use super::object::{EndpointSlice, Ingress, IngressClass, Object, Service};
use super::resources::{Resources, Secret};
use super::secret::{self, Content};
use crate::model::{Authorities, ObjectName};

/// Changes with every change of the objects' form.
const MAGIC: &[u8] = b"portunus resources 4\n";
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
    ingresses: Vec<&'a Arc<Ingress>>,
    classes: NamedRef<'a, &'a IngressClass>,
    services: Vec<&'a Arc<Service>>,
    slices: Vec<&'a Arc<EndpointSlice>>,
    secrets: NamedRef<'a, SavedSecret<'a>>,
    config_maps: NamedRef<'a, &'a BTreeMap<String, String>>,
    namespaces: Vec<&'a ObjectName>,
}

/// The same, owned.
#[derive(Deserialize)]
struct Loaded {
    ingresses: Vec<Arc<Ingress>>,
    classes: Named<IngressClass>,
    services: Vec<Arc<Service>>,
    slices: Vec<Arc<EndpointSlice>>,
    secrets: Named<LoadedSecret>,
    config_maps: Named<BTreeMap<String, String>>,
    namespaces: Vec<ObjectName>,
}

/// What is in service of a Secret.
#[derive(Serialize)]
struct SavedSecret<'a> {
    pair: Option<(&'a [Vec<u8>], &'a [u8])>,
    authorities: Option<&'a [Vec<u8>]>,
    data: Option<&'a BTreeMap<String, Vec<u8>>>,
}

#[derive(Deserialize)]
struct LoadedSecret {
    pair: Option<Pair>,
    authorities: Option<Vec<Vec<u8>>>,
    data: Option<BTreeMap<String, Vec<u8>>>,
}

impl LoadedSecret {
    fn content(self, now: i64) -> Content {
        let pair = self.pair.map(|(chain, key)| secret::read_der(chain, key));
        match self.data {
            // What else there is of it was read from its data, but for a certificate from before.
            Some(data) => {
                let content = Content::of(false, data, now);
                Content { pair: pair.or(content.pair), ..content }
            }
            None => {
                let authorities = self.authorities.map(|all| Box::new(Ok(Authorities(all.into()))));
                Content { tls: true, pair, authorities, data: None, now }
            }
        }
    }
}

impl<'a> SavedSecret<'a> {
    /// `None` if nothing of it is of use.
    fn new(secret: &'a Secret) -> Option<Self> {
        let pair = secret.certificate.as_ref().map(|certificate| (&*certificate.chain, certificate.key.der()));
        let good = secret.authorities.as_deref().filter(|_| secret.tls).and_then(|read| read.as_ref().ok());
        let authorities = good.map(|authorities| &*authorities.0);
        let data = secret.data.as_deref().map(|data| &data.0);
        let in_use = if secret.tls { pair.is_some() || authorities.is_some() } else { data.is_some() };
        in_use.then_some(Self { pair, authorities, data })
    }
}

impl Resources {
    /// All objects, with the certificates that are in service. Holds private keys.
    pub fn save(&self) -> Zeroizing<Vec<u8>> {
        let saved = Saved {
            ingresses: self.ingresses.values().collect(),
            classes: self.classes.iter().collect(),
            services: self.services.values().collect(),
            slices: self.slices.values().flatten().collect(),
            secrets: self.secrets.iter().filter_map(|(name, secret)| Some((name, SavedSecret::new(secret)?))).collect(),
            config_maps: self.config_maps.iter().collect(),
            namespaces: self.namespaces.iter().collect(),
        };
        let mut bytes = postcard::to_extend(&saved, MAGIC.to_vec()).expect("plain values can be written to memory");
        let sum = sum(&bytes);
        bytes.extend(sum);
        Zeroizing::new(bytes)
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
            .chain(secrets.map(|(name, secret)| Object::Secret(name, secret.content(now))))
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
    use crate::translate::object::{
        BackendSpec, IngressPath, IngressRule, IngressTls, PathType, SliceEndpoint, SlicePort,
    };
    use crate::translate::{Settings, translate};

    fn resources() -> Resources {
        let mut resources = Resources::default();
        let backend = BackendSpec::Service { name: "juliet".into(), port: PortRef::Number(80) };
        let path = IngressPath { path: Some("/".into()), path_type: PathType::Prefix, backend };
        resources.apply(Object::Ingress(Arc::new(Ingress {
            name: ObjectName::new("verona", "juliet"),
            created: Some(1),
            class: Some("portunus".into()),
            legacy_class: None,
            annotations: [("affinity".into(), "cookie".into()), ("limit-rps".into(), "5".into())].into(),
            default_backend: None,
            rules: [IngressRule { host: "verona.example".into(), paths: [path].into() }].into(),
            tls: [IngressTls { hosts: [].into(), secret: Some("cert".into()) }].into(),
        })));
        let class = IngressClass { controller: "portunus.dev/ingress-controller".to_owned(), default: true };
        resources.apply(Object::IngressClass(ObjectName::new("", "portunus"), class));
        resources.apply(Object::EndpointSlice(Arc::new(EndpointSlice {
            name: ObjectName::new("verona", "juliet-1"),
            service: "juliet".to_owned(),
            ports: vec![SlicePort { name: String::new(), port: Some(8080) }],
            endpoints: vec![SliceEndpoint {
                addresses: vec!["10.0.0.1".to_owned()],
                ready: true,
                serving: true,
                terminating: false,
            }],
        })));
        let made = rcgen::generate_simple_self_signed(["verona.example".to_owned()]).unwrap();
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let (certificate, key) = (certificate.into_bytes(), key.into_bytes());
        let data = |parts: &[(&str, &[u8])]| -> BTreeMap<String, Vec<u8>> {
            parts.iter().map(|(key, value)| ((*key).to_owned(), value.to_vec())).collect()
        };
        let tls = data(&[("tls.crt", &certificate), ("tls.key", &key), ("ca.crt", &certificate)]);
        let users = data(&[("auth", b"romeo:$apr1$"), ("tls.crt", &certificate), ("tls.key", &key)]);
        for (name, is_tls, data) in [("cert", true, tls), ("users", false, users)] {
            let content = Content::of(is_tls, data, 1_800_000_000);
            resources.apply(Object::Secret(ObjectName::new("verona", name), content));
        }
        let fields = BTreeMap::from([("x-frame-options".to_owned(), "DENY".to_owned())]);
        resources.apply(Object::ConfigMap(ObjectName::new("verona", "fields"), fields));
        resources
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let mut before = resources();
        let bytes = before.save();
        let mut after = Resources::load(&bytes, 1_800_000_000).unwrap();
        let settings = Settings::default();
        assert_eq!(translate(&mut after, &settings), translate(&mut before, &settings));
        assert_eq!((&after.secrets, &after.config_maps), (&before.secrets, &before.config_maps));
        assert_eq!(after.save(), bytes);
    }

    #[test]
    fn what_is_damaged_or_foreign_is_refused() {
        let bytes = resources().save();
        assert_eq!(Resources::load(b"", 0).unwrap_err(), LoadError::Foreign);
        assert_eq!(Resources::load(b"portunus resources 3\n", 0).unwrap_err(), LoadError::Foreign);
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
