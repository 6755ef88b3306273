//! Fields that a rule's answers get, whoever gives them; what the endpoint says under these names doesn't count.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde::Serialize;

use super::text;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ResponseHeaders(#[serde(serialize_with = "text::fields")] pub Vec<(HeaderName, HeaderValue)>);

impl ResponseHeaders {
    pub(super) fn response(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.0 {
            headers.insert(name.clone(), value.clone());
        }
    }
}

/// `Strict-Transport-Security`: only over TLS, as browsers ignore it otherwise (RFC 6797, 7.2).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hsts(#[serde(serialize_with = "text::value")] pub HeaderValue);

impl Hsts {
    pub(super) fn response(&self, secure: bool, headers: &mut HeaderMap) {
        if secure {
            headers.insert(header::STRICT_TRANSPORT_SECURITY, self.0.clone());
        }
    }
}
