//! What the operator's objects ask for, as plain values in the Gateway API's words. Nothing here knows
//! Kubernetes, sockets or clocks; every value compares with `==`, so that "did anything change?" is a question
//! about data. [`Snapshot`] is the whole of it: `translate` writes it, `Table` is compiled from it.

mod affinity;
mod authorities;
mod backend;
mod backend_tls;
mod certificate;
mod client_certificates;
mod forwarding;
mod host;
mod host_map;
mod name;
mod path;
mod priority;
mod resilience;
mod rule;
mod shared;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

pub use affinity::{Affinity, SameSite, Seed, Sessions};
pub use authorities::Authorities;
pub use backend::{Backend, BackendKey, BackendOptions, Endpoint, PortRef, Protocol};
pub use backend_tls::{BackendTls, BackendTlsOptions, TlsVersions};
pub use certificate::{Certificate, PrivateKey};
pub use client_certificates::{ClientCertificates, VerifyClient};
pub use forwarding::{DefaultBackend, Failure, Forwarding, Retry};
pub use host::{Host, HostPattern, InvalidHost};
pub use host_map::{HostMap, HostName};
pub use name::ObjectName;
pub use path::{Normalization, NormalizedPath, PathError, normalize};
pub use priority::Priority;
pub use resilience::{Check, CheckKind, Outliers, Resilience};
pub use rule::{BackendRef, Canary, PathKind, PathMatch, Rule};
pub use shared::{Chunks, Shards};

/// The desired configuration: what every request and every handshake is decided by.
///
/// Each part stands behind its own `Arc`, so that two snapshots share what did not change and comparing them
/// compares pointers first.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Snapshot {
    /// Rules and certificate by host.
    pub hosts: BTreeMap<HostPattern, Arc<Host>>,
    /// Endpoints and how to reach them, for every Service port that a rule names.
    pub backends: BTreeMap<BackendKey, Arc<Backend>>,
    /// Certificate chains and keys, by the Secret they come from.
    pub certificates: BTreeMap<ObjectName, Arc<Certificate>>,
    /// The certificate for names that no host answers to; `None` is the self-signed one of the process.
    pub default_certificate: Option<ObjectName>,
}

/// Which parts of a [`Snapshot`] are not what they were in the one before.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changed {
    pub hosts: Vec<HostPattern>,
    pub backends: Vec<BackendKey>,
    pub certificates: Vec<ObjectName>,
    /// Another Secret is the default now, or none.
    pub default_certificate: bool,
}

impl Changed {
    /// Adds what changed after this.
    pub fn add(&mut self, later: Self) {
        fn add<T: Ord>(all: &mut Vec<T>, later: Vec<T>) {
            let grows = !all.is_empty() && !later.is_empty();
            all.extend(later);
            if grows {
                all.sort_unstable();
                all.dedup();
            }
        }
        let Self { hosts, backends, certificates, default_certificate } = self;
        add(hosts, later.hosts);
        add(backends, later.backends);
        add(certificates, later.certificates);
        *default_certificate |= later.default_certificate;
    }

    pub fn is_empty(&self) -> bool {
        let Self { hosts, backends, certificates, default_certificate } = self;
        hosts.is_empty() && backends.is_empty() && certificates.is_empty() && !default_certificate
    }
}
