//! The objects that translation reads, as small values of our own. Each Kubernetes object becomes one at the
//! border, by `From`, and is dropped there.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::{Deserialize, Serialize};

use super::annotations;
use super::problem::{Kind, ObjectRef};
use super::secret::Content;
use crate::model::{ObjectName, PortRef};

const LEGACY_CLASS: &str = "kubernetes.io/ingress.class";
const DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";
const SLICE_SERVICE: &str = "kubernetes.io/service-name";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ingress {
    pub name: ObjectName,
    /// Seconds since the epoch; `None` (a manifest that was never applied) counts as oldest.
    pub created: Option<i64>,
    pub class: Option<Box<str>>,
    pub legacy_class: Option<Box<str>>,
    /// ingress-nginx's annotations by name, without the prefix, and ours, with it. Values that nobody reads are left out.
    pub annotations: Box<[(Box<str>, Box<str>)]>,
    pub default_backend: Option<Box<BackendSpec>>,
    pub rules: Box<[IngressRule]>,
    pub tls: Box<[IngressTls]>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IngressRule {
    pub host: Arc<str>,
    pub paths: Box<[IngressPath]>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IngressPath {
    pub path: Option<Box<str>>,
    pub path_type: PathType,
    pub backend: BackendSpec,
}

/// As it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathType {
    Exact,
    Prefix,
    ImplementationSpecific,
    /// None that there is.
    Unknown(Box<str>),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum BackendSpec {
    Service {
        name: Arc<str>,
        port: PortRef,
    },
    /// `resource`, or neither a service nor a port: what is wrong with it.
    Unusable {
        field: Box<str>,
        what: Box<str>,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IngressTls {
    pub hosts: Box<[Arc<str>]>,
    pub secret: Option<Box<str>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IngressClass {
    pub controller: String,
    pub default: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Service {
    pub name: ObjectName,
    /// What the API server tells the lives of a name apart by; empty in a folder.
    pub uid: Box<str>,
    pub external_name: Option<String>,
    /// Its own; none if it is headless.
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<ServicePort>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServicePort {
    /// Its place in `spec.ports`.
    pub index: usize,
    pub name: String,
    pub port: u16,
    /// The number to use where a slice leaves it open.
    pub target: u16,
    pub app_protocol: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndpointSlice {
    pub name: ObjectName,
    pub service: String,
    pub ports: Vec<SlicePort>,
    pub endpoints: Vec<SliceEndpoint>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlicePort {
    pub name: String,
    pub port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SliceEndpoint {
    pub addresses: Vec<String>,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
}

/// One object that a provider has seen, on its way into [`Resources`]. Whoever keeps it shares it.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    Ingress(Arc<Ingress>),
    IngressClass(ObjectName, IngressClass),
    Service(Arc<Service>),
    EndpointSlice(Arc<EndpointSlice>),
    Secret(ObjectName, Content),
    /// The operator's settings, or what an annotation names.
    ConfigMap(ObjectName, BTreeMap<String, String>),
    /// One of the namespaces whose Ingresses are served, where the operator selects them.
    Namespace(ObjectName),
}

/// Metadata's name; objects without a namespace are in `default`, as `kubectl` has it.
fn name(metadata: &ObjectMeta) -> ObjectName {
    ObjectName::new(
        metadata.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or("default"),
        metadata.name.as_deref().unwrap_or_default(),
    )
}

fn annotation(metadata: &ObjectMeta, key: &str) -> Option<String> {
    metadata.annotations.as_ref()?.get(key).cloned()
}

fn annotations_of(metadata: &ObjectMeta) -> Box<[(Box<str>, Box<str>)]> {
    let all = metadata.annotations.iter().flatten();
    let named = all.filter_map(|(key, value)| {
        let own = || key.starts_with(annotations::OWN_PREFIX).then_some(&**key);
        Some((key.strip_prefix(annotations::PREFIX).or_else(own)?, &**value))
    });
    named.map(|(name, value)| (name.into(), if annotations::is_read(name) { value } else { "" }.into())).collect()
}

impl From<networking::Ingress> for Object {
    fn from(object: networking::Ingress) -> Self {
        let spec = object.spec.unwrap_or_default();
        let rule = |rule: networking::IngressRule| IngressRule {
            host: rule.host.unwrap_or_default().into(),
            paths: exactly(rule.http.map(|http| http.paths), Into::into).into(),
        };
        let tls = |tls: networking::IngressTLS| IngressTls {
            hosts: exactly(tls.hosts, Into::into).into(),
            secret: tls.secret_name.filter(|name| !name.is_empty()).map(Into::into),
        };
        Self::Ingress(Arc::new(Ingress {
            name: name(&object.metadata),
            created: object.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second()),
            class: spec.ingress_class_name.map(Into::into),
            legacy_class: annotation(&object.metadata, LEGACY_CLASS).map(Into::into),
            annotations: annotations_of(&object.metadata),
            default_backend: spec.default_backend.map(|backend| Box::new(backend.into())),
            rules: exactly(spec.rules, rule).into(),
            tls: exactly(spec.tls, tls).into(),
        }))
    }
}

impl From<networking::HTTPIngressPath> for IngressPath {
    fn from(path: networking::HTTPIngressPath) -> Self {
        Self {
            path: path.path.map(Into::into),
            path_type: PathType::from(path.path_type),
            backend: path.backend.into(),
        }
    }
}

impl From<String> for PathType {
    fn from(text: String) -> Self {
        match &*text {
            "Exact" => Self::Exact,
            "Prefix" => Self::Prefix,
            "ImplementationSpecific" => Self::ImplementationSpecific,
            _ => Self::Unknown(text.into()),
        }
    }
}

impl From<networking::IngressBackend> for BackendSpec {
    fn from(backend: networking::IngressBackend) -> Self {
        let unusable = |field: &str, what: String| Self::Unusable { field: field.into(), what: what.into() };
        if let Some(resource) = backend.resource {
            let what = format!("a backend of kind {} can't be sent requests", resource.kind);
            return unusable("resource", what);
        }
        let Some(service) = backend.service else {
            return unusable("service", "the backend names no Service".to_owned());
        };
        let port = service.port.unwrap_or_default();
        match (port.name.filter(|name| !name.is_empty()), port.number) {
            (Some(port), _) => Self::Service { name: service.name.into(), port: PortRef::Name(port.into()) },
            (None, Some(number)) => match port_number(number) {
                Some(port) => Self::Service { name: service.name.into(), port: PortRef::Number(port) },
                None => unusable("service.port.number", format!("{number} is no port number")),
            },
            (None, None) => unusable("service.port", "the backend names no port".to_owned()),
        }
    }
}

impl From<networking::IngressClass> for Object {
    fn from(object: networking::IngressClass) -> Self {
        let default = annotation(&object.metadata, DEFAULT_CLASS).as_deref() == Some("true");
        let controller = object.spec.and_then(|spec| spec.controller).unwrap_or_default();
        let name = ObjectName::new("", object.metadata.name.as_deref().unwrap_or_default());
        Self::IngressClass(name, IngressClass { controller, default })
    }
}

impl From<core::ConfigMap> for Object {
    fn from(object: core::ConfigMap) -> Self {
        Self::ConfigMap(name(&object.metadata), object.data.unwrap_or_default())
    }
}

impl From<core::Namespace> for Object {
    fn from(object: core::Namespace) -> Self {
        Self::Namespace(ObjectName::new("", object.metadata.name.as_deref().unwrap_or_default()))
    }
}

impl From<core::Service> for Object {
    fn from(object: core::Service) -> Self {
        let spec = object.spec.unwrap_or_default();
        let port = |(index, port): (usize, core::ServicePort)| {
            let number = port_number(port.port)?;
            let target = match port.target_port {
                Some(IntOrString::Int(target)) => port_number(target).unwrap_or(number),
                Some(IntOrString::String(_)) | None => number,
            };
            let tcp = matches!(port.protocol.as_deref(), None | Some("TCP" | ""));
            tcp.then(|| ServicePort {
                index,
                name: port.name.unwrap_or_default(),
                port: number,
                target,
                app_protocol: port.app_protocol,
            })
        };
        let external = spec.type_.as_deref() == Some("ExternalName");
        let single = spec.cluster_ip.iter();
        let addresses = spec.cluster_ips.iter().flatten().chain(single.filter(|_| spec.cluster_ips.is_none()));
        Self::Service(Arc::new(Service {
            name: name(&object.metadata),
            uid: object.metadata.uid.as_deref().unwrap_or_default().into(),
            addresses: exactly(Some(addresses.filter_map(|address| address.parse().ok()).collect()), |address| address),
            external_name: external.then(|| spec.external_name.unwrap_or_default()),
            ports: exactly(
                Some(spec.ports.unwrap_or_default().into_iter().enumerate().filter_map(port).collect()),
                |port| port,
            ),
        }))
    }
}

impl From<discovery::EndpointSlice> for Object {
    fn from(object: discovery::EndpointSlice) -> Self {
        let labels = object.metadata.labels.clone().unwrap_or_default();
        let endpoint = |endpoint: discovery::Endpoint| {
            let conditions = endpoint.conditions.unwrap_or_default();
            // discovery.k8s.io/v1, EndpointConditions: unknown means ready and serving, and not terminating.
            SliceEndpoint {
                addresses: exactly(Some(endpoint.addresses), |address| address),
                ready: conditions.ready.unwrap_or(true),
                serving: conditions.serving.unwrap_or(true),
                terminating: conditions.terminating.unwrap_or(false),
            }
        };
        let port = |port: discovery::EndpointPort| SlicePort {
            name: port.name.unwrap_or_default(),
            port: port.port.and_then(port_number),
        };
        Self::EndpointSlice(Arc::new(EndpointSlice {
            name: name(&object.metadata),
            service: labels.get(SLICE_SERVICE).cloned().unwrap_or_default(),
            ports: exactly(object.ports, port),
            endpoints: exactly(object.endpoints, endpoint),
        }))
    }
}

impl Object {
    /// `now` is in seconds since the epoch.
    pub fn from_secret(object: core::Secret, now: i64) -> Self {
        Self::Secret(name(&object.metadata), Content::new(object, now))
    }

    pub fn reference(&self) -> ObjectRef {
        match self {
            Self::Ingress(ingress) => ObjectRef::new(Kind::Ingress, &ingress.name),
            Self::IngressClass(name, _) => ObjectRef::new(Kind::IngressClass, name),
            Self::Service(service) => ObjectRef::new(Kind::Service, &service.name),
            Self::EndpointSlice(slice) => ObjectRef::new(Kind::EndpointSlice, &slice.name),
            Self::Secret(name, _) => ObjectRef::new(Kind::Secret, name),
            Self::ConfigMap(name, _) => ObjectRef::new(Kind::ConfigMap, name),
            Self::Namespace(name) => ObjectRef::new(Kind::Namespace, name),
        }
    }
}

/// As long as it must be. What is read from JSON has room for more, and `collect` would keep that room.
fn exactly<A, B>(items: Option<Vec<A>>, convert: impl FnMut(A) -> B) -> Vec<B> {
    let items = items.unwrap_or_default();
    let mut all = Vec::with_capacity(items.len());
    all.extend(items.into_iter().map(convert));
    all
}

fn port_number(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port != 0)
}
