//! One rule of a host: what it matches, what it does with a request, and where it sends it.

use std::sync::Arc;

use serde::Serialize;
use thin_vec::ThinVec;

use super::{Affinity, BackendKey, Forwarding, ObjectName, Priority};
use crate::filter::{self, Filter, PathPattern, Template};

/// How a path is compared (Ingress `pathType`, Gateway API `PathMatchType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum PathKind {
    /// The whole path, to the byte.
    Exact,
    /// By whole elements: `/foo` is a prefix of `/foo`, `/foo/` and `/foo/bar`, and not of `/foobar`.
    Prefix,
    /// As ingress-nginx has it: without regard to case, anchored at the start only. All rules of a host or none.
    Regex,
}

/// A path to match, in the normal form of [`super::normalize`]; a regular expression, as it is written. A prefix has no
/// trailing slash, but for `/`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct PathMatch {
    pub kind: PathKind,
    pub value: Box<str>,
}

impl PathMatch {
    pub fn new(kind: PathKind, path: &str) -> Self {
        let value = match (kind, path.trim_end_matches('/')) {
            (PathKind::Exact | PathKind::Regex, _) => path,
            (PathKind::Prefix, "") => "/",
            (PathKind::Prefix, trimmed) => trimmed,
        };
        Self { kind, value: value.into() }
    }

    /// Whether nothing but an authority's look for proof (RFC 8555, 8.3) matches. What is there is meant for everybody.
    pub fn is_acme_challenge(&self) -> bool {
        let Some(rest) = self.value.strip_prefix("/.well-known/acme-challenge") else { return false };
        match self.kind {
            PathKind::Exact => rest.starts_with('/'),
            PathKind::Prefix => rest.is_empty() || rest.starts_with('/'),
            // One that is more than a token could match anything.
            PathKind::Regex => {
                let token = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
                rest.strip_prefix('/').is_some_and(|rest| rest.bytes().all(token))
            }
        }
    }
}

/// A share of a rule's requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackendRef {
    pub backend: BackendKey,
    /// Requests in proportion to the sum of the rule's weights; 0 takes none.
    pub weight: u32,
    /// The backend for requests that came over TLS, if that is another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secure: Option<Box<BackendKey>>,
}

impl Rule {
    /// A rule that sends nowhere: its requests get 503.
    pub fn new(source: ObjectName, path: Option<PathMatch>) -> Self {
        Self {
            source,
            path,
            pattern: None,
            backends: vec![],
            filters: ThinVec::new(),
            affinity: None,
            forwarding: None,
            canary: None,
            hash_by: None,
            priority: Priority::Normal,
        }
    }
}

/// Where some of a rule's requests go instead.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Canary {
    /// The object that asked for it.
    pub source: ObjectName,
    pub choice: filter::Canary,
    pub backends: Vec<BackendRef>,
    /// Sessions that came there stay there; without it, they have none.
    pub sticky: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rule {
    /// The object that asked for it: `namespace/name` of an Ingress. Metrics and logs name the route so.
    pub source: ObjectName,
    /// `None` takes what no other rule of the host matched (an Ingress's `defaultBackend`).
    pub path: Option<PathMatch>,
    /// The path, compiled, if it is a regular expression.
    #[serde(skip)]
    pub pattern: Option<Arc<PathPattern>>,
    pub backends: Vec<BackendRef>,
    /// What is done with requests and answers, in this order.
    #[serde(skip_serializing_if = "ThinVec::is_empty")]
    pub filters: ThinVec<Filter>,
    /// Sessions stay with their endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Box<Affinity>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forwarding: Option<Box<Forwarding>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<Box<Canary>>,
    /// What a request is balanced by, where its backends hash; the client's address without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash_by: Option<Box<Template>>,
    /// Which of its requests go first when there is too much to do.
    #[serde(skip_serializing_if = "Priority::is_normal")]
    pub priority: Priority,
}
