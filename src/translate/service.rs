//! One backend from a Service port and its EndpointSlices: which addresses get requests, and what they speak.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::Settings;
use super::field::Field;
use super::local::{self, ApiServer};
use super::object::{Service, ServicePort};
use super::problem::{Kind, ObjectRef, Problem};
use super::resources::Resources;
use crate::model::{Backend, BackendKey, Endpoint, PortRef, Protocol, Seed, Sessions};

/// Most endpoints of one backend; balancers number them with 16 bits.
const ENDPOINTS_MAX: usize = 65_535;

/// Someone who names a backend: an Ingress and the field.
pub(super) type Referrer = (ObjectRef, Field);

/// What all backends are made of.
#[derive(Clone, Copy)]
pub(super) struct World<'a> {
    pub(super) resources: &'a Resources,
    pub(super) settings: &'a Settings,
    pub(super) api_server: &'a ApiServer,
}

/// `sessions` is whether some of them keep theirs.
pub(super) fn backend(
    key: &BackendKey,
    referrers: impl Iterator<Item = Referrer>,
    sessions: bool,
    world: World,
) -> (Backend, Vec<Problem>) {
    let World { resources, settings, .. } = world;
    let options = key.options.as_deref().cloned().unwrap_or_default();
    let mut backend = Backend {
        key: key.clone(),
        protocol: Protocol::Http1,
        tls: None,
        policy: options.policy.unwrap_or(settings.policy),
        endpoints: Vec::new(),
        sessions: None,
    };
    let mut problems = Vec::new();
    let (service, port) = match find(key, resources) {
        Ok(found) => found,
        Err(missing) => return (backend, referrers.map(|referrer| missing.at(&referrer)).collect()),
    };
    let object = ObjectRef::new(Kind::Service, &service.name);
    match options.protocol.or_else(|| protocol(port.app_protocol.as_deref())) {
        Some(protocol) => backend.protocol = protocol,
        None => {
            let what = format!(
                "appProtocol `{}` is unknown, HTTP/1.1 is spoken",
                port.app_protocol.as_deref().unwrap_or_default()
            );
            let fix = "write http, https, grpc, kubernetes.io/h2c, kubernetes.io/ws or kubernetes.io/wss";
            problems.push(Problem::new(object.clone(), format!("spec.ports[{}].appProtocol", port.index), what, fix));
        }
    }
    let Addresses { used, leaving } = match &service.external_name {
        Some(name) => external(name, service, &port, world, &mut problems),
        None if options.service_address => own(service, &port, world, &mut problems),
        None => endpoints(service, &port, world, &mut problems),
    };
    if used.len() > ENDPOINTS_MAX {
        let what = format!("{} endpoints are more than {ENDPOINTS_MAX}", used.len());
        let object = ObjectRef::new(Kind::Service, &service.name);
        problems.push(Problem::new(object, "spec", what, "split the Service; the rest gets no requests"));
    }
    let listed = |addresses: BTreeSet<SocketAddr>| {
        addresses.into_iter().take(ENDPOINTS_MAX).map(|address| Endpoint { address, weight: 1 }).collect()
    };
    backend.endpoints = listed(used);
    if sessions {
        let seed = Seed((*service.uid).into());
        backend.sessions = Some(Box::new(Sessions { seed, leaving: listed(leaving) }));
    }
    (backend, problems)
}

/// A Service or a port of it that is named and isn't there.
pub(super) struct Missing {
    /// Below the field that names the backend.
    field: &'static str,
    what: String,
    fix: &'static str,
}

impl Missing {
    pub(super) fn at(&self, (object, at): &Referrer) -> Problem {
        // An annotation has no fields below it.
        let field = match at {
            Field::ErrorBackend => at.to_string(),
            Field::Rule(_) | Field::Path(..) | Field::DefaultBackend | Field::Tls(_) => {
                format!("{}.{}", at.backend(), self.field)
            }
        };
        Problem::new(object.clone(), field, self.what.clone(), self.fix)
    }
}

pub(super) fn find<'a>(key: &BackendKey, resources: &'a Resources) -> Result<(&'a Service, ServicePort), Missing> {
    let service = resources.services.get(&key.service).ok_or_else(|| Missing {
        field: "service.name",
        what: format!("there is no Service {}", key.service),
        fix: "create it, or correct the name; requests get 503",
    })?;
    let port = find_port(service, &key.port).ok_or_else(|| Missing {
        field: "service.port",
        what: match &key.port {
            PortRef::Number(_) | PortRef::Name(_) => format!("Service {} has no TCP port `{}`", key.service, key.port),
            PortRef::First => format!("Service {} has no TCP port", key.service),
        },
        fix: "write a port of the Service; requests get 503",
    })?;
    Ok((service, port))
}

fn find_port(service: &Service, port: &PortRef) -> Option<ServicePort> {
    let named = |candidate: &&ServicePort| match port {
        PortRef::Number(number) => candidate.port == *number,
        PortRef::Name(name) => *candidate.name == **name,
        PortRef::First => true,
    };
    // The ports of an ExternalName are for information only; a number stands for itself.
    let own =
        |number: u16| ServicePort { index: 0, name: String::new(), port: number, target: number, app_protocol: None };
    service.ports.iter().find(named).cloned().or(match port {
        PortRef::Number(number) if service.external_name.is_some() => Some(own(*number)),
        PortRef::Number(_) | PortRef::Name(_) | PortRef::First => None,
    })
}

/// KEP-3726 and the names in use before it; `None` for what is unknown.
fn protocol(app_protocol: Option<&str>) -> Option<Protocol> {
    match app_protocol {
        None | Some("" | "http" | "HTTP" | "kubernetes.io/ws" | "tcp" | "TCP") => Some(Protocol::Http1),
        Some("kubernetes.io/h2c" | "grpc" | "GRPC" | "h2c" | "http2") => Some(Protocol::H2c),
        Some("https" | "HTTPS" | "grpcs" | "GRPCS") => Some(Protocol::Tls),
        Some("kubernetes.io/wss") => Some(Protocol::TlsHttp1),
        Some(_) => None,
    }
}

/// Where a Service's requests go.
#[derive(Default)]
struct Addresses {
    used: BTreeSet<SocketAddr>,
    /// Those that go on to serve who knows them already.
    leaving: BTreeSet<SocketAddr>,
}

/// Where an external name is now.
fn external(name: &str, service: &Service, port: &ServicePort, world: World, problems: &mut Vec<Problem>) -> Addresses {
    let object = ObjectRef::new(Kind::Service, &service.name);
    if !world.settings.allow_external_names {
        let what = format!("ExternalName `{name}` is not followed");
        let fix = "start with --allow-external-names if tenants may name any host; requests get 503";
        problems.push(Problem::new(object, "spec.externalName", what, fix));
        return Addresses::default();
    }
    let addresses = world.resources.resolved.get(name).into_iter().flatten();
    let all = addresses.map(|address| SocketAddr::new(*address, port.target));
    let used = all.filter(|address| match local::denied(*address, world.api_server, world.settings) {
        None => true,
        Some(nature) => {
            let what = format!("ExternalName `{name}` is at {}, {nature}", address.ip());
            problems.push(Problem::new(object.clone(), "spec.externalName", what, local::FIX));
            false
        }
    });
    Addresses { used: used.collect(), leaving: BTreeSet::new() }
}

/// The Service's own addresses.
fn own(service: &Service, port: &ServicePort, world: World, problems: &mut Vec<Problem>) -> Addresses {
    let object = ObjectRef::new(Kind::Service, &service.name);
    if service.addresses.is_empty() {
        let what = "it has no address of its own, which service-upstream sends to";
        let fix = "give it a clusterIP, or remove the annotation; requests get 503";
        problems.push(Problem::new(object.clone(), "spec.clusterIP", what, fix));
    }
    let all = service.addresses.iter().map(|address| SocketAddr::new(*address, port.port));
    let used = all.filter(|address| match local::denied(*address, world.api_server, world.settings) {
        None => true,
        Some(nature) => {
            let what = format!("`{}` is {nature}", address.ip());
            problems.push(Problem::new(object.clone(), "spec.clusterIP", what, local::FIX));
            false
        }
    });
    Addresses { used: used.collect(), leaving: BTreeSet::new() }
}

/// Ready endpoints; without any, those that still serve while they terminate (KEP-1672).
fn endpoints(service: &Service, port: &ServicePort, world: World, problems: &mut Vec<Problem>) -> Addresses {
    let mut ready = BTreeSet::new();
    let mut leaving = BTreeSet::new();
    let mut misnamed = None;
    for slice in world.resources.slices.get(&service.name).into_iter().flatten() {
        let Some(slice_port) = slice.ports.iter().find(|candidate| candidate.name == port.name) else {
            misnamed = misnamed.or((!slice.ports.is_empty()).then_some(slice));
            continue;
        };
        let number = slice_port.port.unwrap_or(port.target);
        for (index, endpoint) in slice.endpoints.iter().enumerate() {
            let group = match (endpoint.ready, endpoint.serving && endpoint.terminating) {
                (true, _) => &mut ready,
                (false, true) => &mut leaving,
                (false, false) => continue,
            };
            for (address_index, text) in endpoint.addresses.iter().enumerate() {
                let (what, fix) = match text.parse::<IpAddr>().map(|address| SocketAddr::new(address, number)) {
                    Err(_) => (format!("`{text}` is no IP address"), "write an IPv4 or IPv6 address"),
                    Ok(address) => match local::denied(address, world.api_server, world.settings) {
                        Some(nature) => (format!("`{text}` is {nature}"), local::FIX),
                        None => {
                            group.insert(address);
                            continue;
                        }
                    },
                };
                let object = ObjectRef::new(Kind::EndpointSlice, &slice.name);
                let field = format!("endpoints[{index}].addresses[{address_index}]");
                problems.push(Problem::new(object, field, what, fix));
            }
        }
    }
    if ready.is_empty()
        && leaving.is_empty()
        && let Some(slice) = misnamed
    {
        let what =
            format!("no port is named `{}`, as the port {} of Service {} is", port.name, port.port, service.name);
        let object = ObjectRef::new(Kind::EndpointSlice, &slice.name);
        problems.push(Problem::new(object, "ports", what, "give the slice's port the name of the Service's port"));
    }
    if ready.is_empty() {
        return Addresses { used: leaving, leaving: BTreeSet::new() };
    }
    leaving.retain(|address| !ready.contains(address));
    Addresses { used: ready, leaving }
}
