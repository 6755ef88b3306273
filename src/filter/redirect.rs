//! Answers that name another place for the same thing (RFC 9110, 15.4).

use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

use super::{Answer, Request, text};

/// Where certificate authorities look for proof (RFC 8555, 8.3): never sent to https, which may have no certificate
/// yet.
const ACME_CHALLENGE: &str = "/.well-known/acme-challenge/";

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Redirect {
    pub to: RedirectTarget,
    #[serde(serialize_with = "text::status")]
    pub status: StatusCode,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum RedirectTarget {
    /// From `/`, and from nowhere else, to this path; `relative`, without scheme and host.
    AppRoot {
        path: Box<str>,
        relative: bool,
    },
    Url(#[serde(serialize_with = "text::value")] HeaderValue),
    /// The same of another host.
    Host(Box<str>),
}

/// From http to the same of https.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HttpsRedirect {
    #[serde(serialize_with = "text::status")]
    pub status: StatusCode,
    /// A slash at the path's end stays.
    pub preserve_trailing_slash: bool,
}

impl Redirect {
    pub(super) fn answer(&self, request: &Request) -> Option<Answer> {
        let location = match &self.to {
            RedirectTarget::AppRoot { .. } if request.path != "/" => return None,
            RedirectTarget::AppRoot { path, relative: true } => value(path.to_string())?,
            RedirectTarget::AppRoot { path, relative: false } => {
                value(format!("{}://{}{path}", scheme(request), request.authority.to_str().ok()?))?
            }
            RedirectTarget::Url(url) => url.clone(),
            RedirectTarget::Host(host) => value(format!("{}://{host}{}", scheme(request), target(request)))?,
        };
        Some(to(self.status, location))
    }
}

impl HttpsRedirect {
    pub(super) fn answer(&self, request: &Request) -> Option<Answer> {
        if request.https || request.path.starts_with(ACME_CHALLENGE) {
            return None;
        }
        let mut target = target(request);
        // As ingress-nginx has it, so that clients end up where they did.
        if !self.preserve_trailing_slash && target.len() > 1 && request.head.uri.query().is_none() {
            target = target.strip_suffix('/').unwrap_or(target);
        }
        Some(to(self.status, value(format!("https://{}{target}", request.host))?))
    }
}

fn scheme(request: &Request) -> &'static str {
    if request.https { "https" } else { "http" }
}

/// Path and query.
fn target<'r>(request: &'r Request) -> &'r str {
    request.head.uri.path_and_query().map_or("/", |target| target.as_str())
}

/// `None` for bytes that no field may have; a target that came over the wire has none.
fn value(text: String) -> Option<HeaderValue> {
    HeaderValue::try_from(text).ok()
}

fn to(status: StatusCode, location: HeaderValue) -> Answer {
    Answer {
        status,
        headers: vec![(header::LOCATION, location)],
        text: "it is found at the place that Location names",
        reason: "redirected",
    }
}
