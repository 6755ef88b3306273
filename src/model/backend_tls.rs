//! How a backend's endpoints are spoken to over TLS: whom to believe them to be, and who we say we are.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::{Authorities, Certificate, ObjectName};

/// What a rule asks of the TLS to its backends. Tells backends apart, and holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct BackendTlsOptions {
    /// Where authorities and identity come from.
    pub secret: Option<ObjectName>,
    /// Endpoints must have a certificate of an authority's, for the name.
    pub verify: bool,
    /// Most certificates between the endpoint's and the authority's; 1 where nothing is verified.
    pub depth: u8,
    /// Whom endpoints are; `None` is the Service's own name, `service.namespace.svc`.
    pub name: Option<Box<str>>,
    /// Tell endpoints the name (SNI).
    pub server_name: bool,
    pub versions: TlsVersions,
}

impl fmt::Display for BackendTlsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { secret, verify, depth, name, server_name, versions } = self;
        let said = [
            secret.as_ref().map(|secret| format!("TLS by {secret}")),
            verify.then(|| format!("verified to depth {depth}")),
            name.as_ref().map(|name| format!("as {name}")),
            server_name.then(|| "server name".to_owned()),
            (*versions != TlsVersions::All).then(|| format!("{versions:?}")),
        ];
        f.write_str(&said.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum TlsVersions {
    #[default]
    All,
    Only12,
    Only13,
}

/// The same, with what the Secret has. `Debug` and serde show no key.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BackendTls {
    pub options: BackendTlsOptions,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorities: Option<Authorities>,
    /// Our certificate, for endpoints that ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<Arc<Certificate>>,
}
