//! Builders of Services and their EndpointSlices.

use std::fmt::{self, Display, Formatter, Write};
use std::net::IpAddr;

use super::manifests::{metadata, quoted};

/// A Service.
#[derive(Clone, Default)]
pub struct Service {
    namespace: String,
    name: String,
    spec: String,
    ports: String,
}

impl Service {
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into(), ..Self::default() }
    }

    /// `target` is a number or a port's name. An unnamed port has the empty name.
    pub fn port(mut self, name: &str, port: u16, target: &str) -> Self {
        let target = target.parse::<u16>().map_or_else(|_| quoted(target), |n| n.to_string());
        let _ = writeln!(self.ports, "  - port: {port}\n    targetPort: {target}\n    protocol: TCP");
        if !name.is_empty() {
            let _ = writeln!(self.ports, "    name: {}", quoted(name));
        }
        self
    }

    /// Of the port named last.
    pub fn app_protocol(mut self, protocol: &str) -> Self {
        let _ = writeln!(self.ports, "    appProtocol: {}", quoted(protocol));
        self
    }

    pub fn headless(mut self) -> Self {
        self.spec.push_str("  clusterIP: None\n");
        self
    }

    pub fn external_name(mut self, name: &str) -> Self {
        let _ = writeln!(self.spec, "  type: ExternalName\n  externalName: {}", quoted(name));
        self
    }
}

impl Display for Service {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        metadata(out, "v1", "Service", &self.namespace, &self.name)?;
        write!(out, "spec:\n{}", self.spec)?;
        if !self.ports.is_empty() {
            write!(out, "  ports:\n{}", self.ports)?;
        }
        Ok(())
    }
}

/// An EndpointSlice of a Service.
#[derive(Clone, Default)]
pub struct Slice {
    namespace: String,
    service: String,
    name: String,
    ipv6: bool,
    ports: String,
    endpoints: String,
}

impl Slice {
    pub fn new(namespace: &str, service: &str, name: &str) -> Self {
        let (namespace, service) = (namespace.into(), service.into());
        Self { namespace, service, name: name.into(), ..Self::default() }
    }

    pub fn port(mut self, name: &str, port: u16) -> Self {
        let name = quoted(name);
        let _ = writeln!(self.ports, "- {{name: {name}, port: {port}, protocol: TCP}}");
        self
    }

    pub fn ready(self, address: &str) -> Self {
        self.endpoint(address, true, true, false)
    }

    pub fn endpoint(mut self, address: &str, ready: bool, serving: bool, terminating: bool) -> Self {
        let ip: IpAddr = address.parse().expect("an address");
        self.ipv6 = ip.is_ipv6();
        let conditions = format!("ready: {ready}, serving: {serving}, terminating: {terminating}");
        let address = quoted(address);
        let _ = writeln!(self.endpoints, "- addresses: [{address}]\n  conditions: {{{conditions}}}");
        self
    }
}

impl Display for Slice {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        metadata(out, "discovery.k8s.io/v1", "EndpointSlice", &self.namespace, &self.name)?;
        writeln!(out, "  labels:\n    kubernetes.io/service-name: {}", self.service)?;
        writeln!(out, "addressType: {}", if self.ipv6 { "IPv6" } else { "IPv4" })?;
        let list = |name, items: &str| match items {
            "" => format!("{name}: []\n"),
            items => format!("{name}:\n{items}"),
        };
        write!(out, "{}{}", list("ports", &self.ports), list("endpoints", &self.endpoints))
    }
}
