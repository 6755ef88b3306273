//! One rule of a host: what it matches, what it does with a request, and where it sends it.

use std::sync::Arc;

use serde::Serialize;

use super::{Affinity, BackendKey, ObjectName};
use crate::filter::{Filter, PathPattern};

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
}

/// A share of a rule's requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackendRef {
    pub backend: BackendKey,
    /// Requests in proportion to the sum of the rule's weights; 0 takes none.
    pub weight: u32,
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
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<Filter>,
    /// Sessions stay with their endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Box<Affinity>>,
}
