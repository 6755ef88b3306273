//! Sessions that stay with an endpoint by a cookie: what a rule says of the cookie, and what a backend needs to
//! know its sessions by. How a cookie is read and written is the proxy's affair.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::Endpoint;

/// A rule's session cookie (RFC 6265). Every value can stand in a `Set-Cookie` as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Affinity {
    /// Name of the cookie.
    pub cookie: Box<str>,
    pub path: Box<str>,
    pub domain: Option<Box<str>>,
    /// In seconds, counted from the answer that sets the cookie.
    pub expires: Option<u32>,
    /// In seconds.
    pub max_age: Option<u32>,
    /// `Secure` also over a connection without TLS.
    pub secure: bool,
    pub same_site: Option<SameSite>,
    /// Leave `SameSite=None` out for browsers that take it for something else.
    pub conditional_none: bool,
    /// A session whose endpoint can't be reached stays with the one that answered instead.
    pub change_on_failure: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum SameSite {
    None,
    Lax,
    Strict,
}

impl SameSite {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Lax => "Lax",
            Self::Strict => "Strict",
        }
    }
}

/// What a backend needs whose sessions stay.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sessions {
    #[serde(skip)]
    pub seed: Seed,
    /// Endpoints that serve on while they terminate: they keep their sessions and get no new ones. Sorted by
    /// address, each once, and none that the backend's `endpoints` have.
    pub leaving: Vec<Endpoint>,
}

/// What clients don't know and all replicas do: it makes the cookies of a backend hard to guess where the operator
/// gives no key. The UID of the Service, or nothing. Neither `Debug` nor serde show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Seed(pub Arc<str>);

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(secret)")
    }
}
