//! Objects as tenants and operators may write them, out of raw bytes: few names, so that they meet, and any text where
//! text may stand. They go the way of all objects: JSON, the types of the API, and ours.

use std::sync::LazyLock;

use arbitrary::Arbitrary;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use portunus::model::ObjectName;
use portunus::translate::{ANNOTATIONS, Annotation, AnnotationStatus, Kind, Object, ObjectRef, Resources, Settings};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// 2026; only certificates ask what time it is.
const NOW: i64 = 1_800_000_000;

/// Good values and bad ones that are worth meeting each other.
const TEXTS: [&str; 24] = [
    "",
    "a.test",
    "b.test",
    "*.a.test",
    "*.test",
    "a.test.",
    "A.TEST",
    "xn--a",
    "/",
    "/a",
    "/a/",
    "/a/b",
    "/a%2fb",
    "/a/../b",
    "/(.*)",
    "/a(/|$)(.*)",
    "s1",
    "s2",
    "o1",
    "http",
    "kubernetes.io/h2c",
    "portunus",
    "10.0.0.1",
    "true",
];

/// One of a few texts, or any.
#[derive(Arbitrary, Clone, Debug)]
pub enum Text {
    Known(u8),
    Any(String),
}

impl Text {
    pub fn get(&self) -> &str {
        match self {
            Self::Known(index) => TEXTS[usize::from(*index) % TEXTS.len()],
            Self::Any(text) => text,
        }
    }
}

/// One of two namespaces, and of three names.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Name(u8);

impl Name {
    fn namespace(self) -> &'static str {
        ["x", "y"][usize::from(self.0 & 1)]
    }

    fn name(self, letter: char) -> String {
        format!("{letter}{}", 1 + (self.0 >> 1) % 3)
    }

    fn metadata(self, letter: char) -> Value {
        json!({ "namespace": self.namespace(), "name": self.name(letter) })
    }
}

#[derive(Arbitrary, Clone, Debug)]
pub enum Event {
    Ingress(Name, AnIngress),
    Class { name: Name, controller: Text, default: bool },
    Service { name: Name, external: Option<Text>, ports: Vec<(Text, u16, Text, Option<Text>)> },
    Slice { name: Name, service: Name, ports: Vec<(Text, Option<u16>)>, endpoints: Vec<(Text, bool, bool)> },
    Secret { name: Name, pair: Pair, data: Vec<(Text, Vec<u8>)> },
    ConfigMap { name: Name, data: Vec<(Text, Text)> },
    Namespace(bool),
    Remove(u8, Name),
    Resolve(Text, Vec<[u8; 4]>),
}

#[derive(Arbitrary, Clone, Debug)]
pub struct AnIngress {
    pub created: Option<u8>,
    pub class: Option<Text>,
    pub annotations: Vec<AnAnnotation>,
    pub default: Option<Text>,
    pub rules: Vec<(Option<Text>, Vec<(Option<Text>, u8, Text)>)>,
    pub tls: Vec<(Vec<Text>, Option<Name>)>,
}

/// Any of those that are known, with a value that is good, almost good, or any; or any other.
#[derive(Arbitrary, Clone, Debug)]
pub struct AnAnnotation {
    key: u16,
    value: AValue,
}

#[derive(Arbitrary, Clone, Debug)]
enum AValue {
    Good,
    Edited { at: u8, cut: u8, insert: String },
    Known(u8),
    Any(String),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Pair {
    None,
    Good,
    Other,
    Broken,
}

static ROWS: LazyLock<Vec<&Annotation>> = LazyLock::new(|| ANNOTATIONS.iter().flat_map(|(_, rows)| *rows).collect());

impl AnAnnotation {
    pub fn key(&self) -> String {
        let row = self.row();
        let names = row.aliases.len() + 1;
        let index = usize::from(self.key) / ROWS.len() % names;
        let name = index.checked_sub(1).map_or(row.name, |index| row.aliases[index]);
        Annotation { name, ..*row }.key()
    }

    fn row(&self) -> &'static Annotation {
        ROWS[usize::from(self.key) % ROWS.len()]
    }

    fn value(&self) -> String {
        let good = match self.row().status {
            AnnotationStatus::Supported { example } => example,
            AnnotationStatus::Planned | AnnotationStatus::Never => "true",
        };
        match &self.value {
            AValue::Good => good.to_owned(),
            AValue::Edited { at, cut, insert } => {
                let characters: Vec<char> = good.chars().collect();
                let at = usize::from(*at).min(characters.len());
                let end = (at + usize::from(*cut)).min(characters.len());
                characters[..at]
                    .iter()
                    .copied()
                    .chain(insert.chars())
                    .chain(characters[end..].iter().copied())
                    .collect()
            }
            AValue::Known(index) => Text::Known(*index).get().to_owned(),
            AValue::Any(text) => text.clone(),
        }
    }
}

impl Event {
    /// `None`: no such object can be, as a field has no such type.
    pub fn happen(&self, resources: &mut Resources) -> Option<()> {
        let object = match self {
            Self::Ingress(name, ingress) => Object::from(ingress.object(*name)?),
            Self::Class { name, controller, default } => {
                let default = json!({ "ingressclass.kubernetes.io/is-default-class": default.to_string() });
                let name = if name.0 & 1 == 0 { "portunus".to_owned() } else { name.name('c') };
                let metadata = json!({ "name": name, "annotations": default });
                typed::<IngressClass>(json!({ "metadata": metadata, "spec": { "controller": controller.get() } }))?
                    .into()
            }
            Self::Service { name, external, ports } => service(*name, external.as_ref(), ports)?.into(),
            Self::Slice { name, service, ports, endpoints } => slice(*name, *service, ports, endpoints)?.into(),
            Self::Secret { name, pair, data } => Object::from_secret(secret(*name, *pair, data)?, NOW),
            Self::ConfigMap { name, data } => {
                let data: Map<String, Value> =
                    data.iter().map(|(key, value)| (key.get().into(), value.get().into())).collect();
                typed::<ConfigMap>(json!({ "metadata": name.metadata('o'), "data": data }))?.into()
            }
            Self::Namespace(first) => {
                typed::<Namespace>(json!({ "metadata": { "name": if *first { "x" } else { "y" } } }))?.into()
            }
            Self::Remove(kind, name) => {
                let kind = Kind::ALL[usize::from(*kind) % Kind::ALL.len()];
                resources.remove(&ObjectRef::new(kind, &reference(kind, *name)));
                return Some(());
            }
            Self::Resolve(name, addresses) => {
                resources.resolve(name.get(), addresses.iter().map(|address| (*address).into()).collect());
                return Some(());
            }
        };
        resources.apply(object);
        Some(())
    }
}

fn reference(kind: Kind, name: Name) -> ObjectName {
    let named = |letter| ObjectName::new(name.namespace(), &name.name(letter));
    match kind {
        Kind::Ingress => named('i'),
        Kind::IngressClass => ObjectName::new("", &name.name('c')),
        Kind::Service => named('s'),
        Kind::EndpointSlice => named('e'),
        Kind::Secret => named('t'),
        Kind::ConfigMap => named('o'),
        Kind::Namespace => ObjectName::new("", name.namespace()),
    }
}

fn typed<T: DeserializeOwned>(value: Value) -> Option<T> {
    serde_json::from_value(value).ok()
}

impl AnIngress {
    pub fn object(&self, name: Name) -> Option<Ingress> {
        let mut metadata = name.metadata('i');
        if let Some(day) = self.created {
            metadata["creationTimestamp"] = format!("2026-01-{:02}T00:00:00Z", 1 + day % 28).into();
        }
        let annotation = |annotation: &AnAnnotation| (annotation.key(), Value::from(annotation.value()));
        metadata["annotations"] = self.annotations.iter().map(annotation).collect::<Map<_, _>>().into();
        let path = |(path, kind, service): &(Option<Text>, u8, Text)| {
            let kind = ["Prefix", "Exact", "ImplementationSpecific", "Other"][usize::from(*kind) % 4];
            json!({ "path": path.as_ref().map(Text::get), "pathType": kind, "backend": backend(service) })
        };
        let rule = |(host, paths): &(Option<Text>, Vec<_>)| json!({ "host": host.as_ref().map(Text::get), "http": { "paths": paths.iter().map(path).collect::<Vec<_>>() } });
        let tls = |(hosts, secret): &(Vec<Text>, Option<Name>)| {
            let hosts: Vec<&str> = hosts.iter().map(Text::get).collect();
            json!({ "hosts": hosts, "secretName": secret.map(|secret| secret.name('t')) })
        };
        typed(json!({
            "metadata": metadata,
            "spec": {
                "ingressClassName": self.class.as_ref().map(Text::get),
                "defaultBackend": self.default.as_ref().map(backend),
                "rules": self.rules.iter().map(rule).collect::<Vec<_>>(),
                "tls": self.tls.iter().map(tls).collect::<Vec<_>>(),
            },
        }))
    }
}

fn backend(service: &Text) -> Value {
    json!({ "service": { "name": service.get(), "port": { "number": 80 } } })
}

fn service(name: Name, external: Option<&Text>, ports: &[(Text, u16, Text, Option<Text>)]) -> Option<Service> {
    let port = |(name, port, target, protocol): &(Text, u16, Text, Option<Text>)| {
        let protocol = protocol.as_ref().map(Text::get);
        // Most are the port that Ingresses name.
        let port = if *port > 1000 { 80 } else { *port };
        json!({ "name": name.get(), "port": port, "targetPort": target.get(), "appProtocol": protocol })
    };
    let ports: Vec<Value> = ports.iter().map(port).collect();
    let mut spec = json!({ "ports": ports });
    if let Some(external) = external {
        spec["type"] = "ExternalName".into();
        spec["externalName"] = external.get().into();
    }
    typed(json!({ "metadata": name.metadata('s'), "spec": spec }))
}

fn slice(
    name: Name,
    service: Name,
    ports: &[(Text, Option<u16>)],
    endpoints: &[(Text, bool, bool)],
) -> Option<EndpointSlice> {
    let mut metadata = name.metadata('e');
    metadata["labels"] = json!({ "kubernetes.io/service-name": service.name('s') });
    let port = |(name, port): &(Text, Option<u16>)| json!({ "name": name.get(), "port": port });
    let endpoint = |(address, ready, terminating): &(Text, bool, bool)| json!({ "addresses": [address.get()], "conditions": { "ready": ready, "terminating": terminating } });
    typed(json!({
        "metadata": metadata,
        "addressType": "IPv4",
        "ports": ports.iter().map(port).collect::<Vec<_>>(),
        "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
    }))
}

fn secret(name: Name, pair: Pair, data: &[(Text, Vec<u8>)]) -> Option<Secret> {
    static PAIRS: LazyLock<[(String, String); 2]> = LazyLock::new(|| {
        ["a.test", "*.test"].map(|name| {
            let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
            (made.cert.pem(), made.signing_key.serialize_pem())
        })
    });
    let (certificate, key) = match pair {
        Pair::None => ("", ""),
        Pair::Good => (&*PAIRS[0].0, &*PAIRS[0].1),
        Pair::Other => (&*PAIRS[1].0, &*PAIRS[1].1),
        Pair::Broken => (&*PAIRS[0].0, &*PAIRS[1].1),
    };
    let kind = if matches!(pair, Pair::None) { "Opaque" } else { "kubernetes.io/tls" };
    let mut all = Map::new();
    if !certificate.is_empty() {
        all.insert("tls.crt".to_owned(), certificate.into());
        all.insert("tls.key".to_owned(), key.into());
    }
    let names = ["auth", "ca.crt", "tls.crt", "tls.key"];
    for (index, (key, value)) in data.iter().enumerate() {
        let key = if key.get().is_empty() { names[index % names.len()] } else { key.get() };
        all.insert(key.to_owned(), String::from_utf8_lossy(value).into_owned().into());
    }
    typed(json!({ "metadata": name.metadata('t'), "type": kind, "stringData": all }))
}

/// Settings that change what translation does.
pub fn settings(bits: u8) -> Settings {
    let bit = |number: u8| bits >> number & 1 == 1;
    Settings {
        allow_external_names: bit(0),
        without_any_class: !bit(1),
        strict_host_ownership: bit(2),
        ignore_unsupported_annotations: bit(3),
        select_namespaces: bit(4),
        config_map: bit(5).then(|| ObjectName::new("x", "o1")),
        default_certificate: bit(6).then(|| ObjectName::new("x", "t1")),
        without_class: bit(7),
        allowed_response_headers: vec!["x-b".parse().expect("a name")],
        ..Settings::default()
    }
}
