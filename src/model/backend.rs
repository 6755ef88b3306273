//! A Service port that rules send to: its endpoints, the protocol they speak, and how requests are spread.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use super::{BackendTls, BackendTlsOptions, ObjectName, Resilience, Sessions};
use crate::balance::Policy;

/// A port of a Service as an Ingress names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PortRef {
    Number(u16),
    Name(Arc<str>),
    /// Whichever the Service lists first.
    First,
}

impl fmt::Display for PortRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Name(name) => f.write_str(name),
            Self::First => f.write_str("first"),
        }
    }
}

/// Names a backend: `namespace/service:port`, and what is asked of it beside what its Service says. One Service port
/// is as many backends as there are different things asked of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendKey {
    pub service: ObjectName,
    pub port: PortRef,
    pub options: Option<Arc<BackendOptions>>,
}

/// What a rule asks of its backends; what is left open is the Service's or the operator's to say.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct BackendOptions {
    pub protocol: Option<Protocol>,
    pub policy: Option<Policy>,
    /// Send to the Service's own address, and leave the balancing to the cluster.
    pub service_address: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Arc<BackendTlsOptions>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resilience: Option<Arc<Resilience>>,
}

impl BackendOptions {
    /// `None` if nothing is asked.
    pub fn any(self) -> Option<Arc<Self>> {
        (self != Self::default()).then(|| Arc::new(self))
    }
}

impl fmt::Display for BackendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.port)
    }
}

impl Serialize for BackendKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.options {
            None => serializer.collect_str(self),
            Some(options) => serializer.collect_str(&format_args!("{self} ({options})")),
        }
    }
}

impl fmt::Display for BackendOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, policy, service_address, tls, resilience } = self;
        let said = [
            protocol.map(|protocol| format!("{protocol:?}")),
            policy.map(|policy| format!("{policy:?}")),
            service_address.then(|| "service address".to_owned()),
            tls.as_ref().map(ToString::to_string),
            resilience.as_ref().map(ToString::to_string),
        ];
        f.write_str(&said.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

/// What is spoken to the endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Protocol {
    Http1,
    /// HTTP/2 in cleartext by prior knowledge (RFC 9113, 3.3).
    H2c,
    /// TLS, with HTTP/2 or HTTP/1.1 as ALPN decides.
    Tls,
    /// TLS with HTTP/1.1 only, as WebSockets need it.
    TlsHttp1,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Endpoint {
    pub address: SocketAddr,
    /// Requests in proportion to the sum of the backend's weights; at least 1.
    pub weight: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Backend {
    pub key: BackendKey,
    pub protocol: Protocol,
    /// What was asked of TLS, if anything was; otherwise certificates of endpoints are not verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Arc<BackendTls>>,
    pub policy: Policy,
    /// Sorted by address, each address once. Empty: requests get 503.
    pub endpoints: Vec<Endpoint>,
    /// Only if a rule asks for affinity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions: Option<Box<Sessions>>,
}
