//! What a rule does with a request and its answer beside sending it on, one file a filter. All of it is pure: a
//! filter looks at the request, may change its head, and passes it on or answers it; what needs a clock, a store or
//! a wait ([`Verdict`]) is left to the caller. Settings are parsed before they come here, so that nothing can fail.

mod basic_auth;
mod canary;
mod cors;
mod limit;
mod password;
mod path_pattern;
mod path_program;
mod pattern;
mod redirect;
mod response_headers;
mod rewrite;
mod source_range;
mod template;
mod text;

use std::net::IpAddr;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;

pub use basic_auth::{BasicAuth, Login, Users};
pub use canary::{Canary, CanaryHeader, CanaryValue};
pub use cors::{Cors, Origin, Origins};
pub use limit::{Bucket, Excess, Limits, RATES_MAX, Rate};
pub use password::{Hash, InvalidHash};
pub use path_pattern::{PathPattern, PathPatterns, sweep_searchers};
pub use pattern::{InvalidPattern, Pattern};
pub use redirect::{HttpsRedirect, Redirect, RedirectTarget};
pub use response_headers::{Hsts, ResponseHeaders};
pub use rewrite::{Captures, Rewrite};
pub use source_range::SourceRange;
pub use template::{Template, VARIABLES};

/// One filter. A rule's filters stand in the order of these variants, which is nginx's order of phases; translation
/// sorts them by [`Filter::phase`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum Filter {
    /// Answers with another place: the application's root, a URL, the host with or without `www.`.
    Redirect(Redirect),
    /// Who may read answers in a browser; answers preflights.
    Cors(Cors),
    /// From http to https.
    HttpsRedirect(HttpsRedirect),
    /// How much one client may ask for.
    Limits(Limits),
    /// Which clients' addresses pass.
    SourceRange(SourceRange),
    /// Who passes, by name and password.
    BasicAuth(Arc<BasicAuth>),
    /// Another path for the endpoint.
    Rewrite(Rewrite),
    /// `Host` for the endpoint.
    UpstreamHost(#[serde(serialize_with = "text::value")] HeaderValue),
    /// Fields that all answers get.
    ResponseHeaders(ResponseHeaders),
    /// `Strict-Transport-Security`.
    Hsts(Hsts),
}

/// A request as filters see it.
#[derive(Debug)]
pub struct Request<'r> {
    /// Its target is what the endpoint gets.
    pub head: &'r mut Parts,
    /// The host's name in lower case, without a port.
    pub host: &'r str,
    /// The host as the client wrote it.
    pub authority: &'r HeaderValue,
    /// The path in normal form, by which the rule was found.
    pub path: &'r str,
    /// The client speaks TLS, with us or with a proxy in front that we trust.
    pub https: bool,
    /// The client's address: the connection's, or what a trusted proxy says.
    pub client: IpAddr,
    /// `Host` for the endpoint, if it is another than the client's.
    pub upstream_host: Option<HeaderValue>,
    /// The path for the endpoint, if it is another than the target's; to be checked before it is used.
    pub rewritten: Option<String>,
}

/// What an answer's filters need to know of its request.
#[derive(Debug, Clone)]
pub struct Asked {
    /// TLS ends here.
    pub secure: bool,
    pub origin: Option<HeaderValue>,
}

/// An answer that a filter gives instead of an endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// A line for whoever reads it; none for a status that has no content.
    pub text: &'static str,
    /// Why there is no endpoint's answer, as the access log names it.
    pub reason: &'static str,
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Verdict<'f> {
    Pass,
    Answer(Box<Answer>),
    /// It passes unless its client has asked for too much.
    Count(&'f Limits),
    /// It passes if this is somebody.
    Check(Box<Login>),
}

impl Filter {
    /// Its place among a rule's filters.
    pub fn phase(&self) -> u8 {
        match self {
            Self::Redirect(_) => 10,
            Self::Cors(_) => 20,
            Self::HttpsRedirect(_) => 30,
            Self::Limits(_) => 40,
            Self::SourceRange(_) => 50,
            Self::BasicAuth(_) => 60,
            Self::Rewrite(_) => 70,
            Self::UpstreamHost(_) => 80,
            Self::ResponseHeaders(_) => 90,
            Self::Hsts(_) => 91,
        }
    }

    /// Looks at a request on its way to the endpoint.
    pub fn request(&self, request: &mut Request) -> Verdict<'_> {
        let answer = match self {
            Self::Redirect(redirect) => redirect.answer(request),
            Self::Cors(cors) => cors.preflight(&request.head.method, &request.head.headers),
            Self::HttpsRedirect(redirect) => redirect.answer(request),
            Self::Limits(limits) => {
                if limits.concern(request.client) {
                    return Verdict::Count(limits);
                }
                None
            }
            Self::SourceRange(range) => range.answer(request.client),
            Self::BasicAuth(auth) => match auth.login(&mut request.head.headers) {
                Ok(login) => return Verdict::Check(Box::new(login)),
                Err(refusal) => Some(refusal),
            },
            Self::Rewrite(rewrite) => {
                rewrite.apply(request);
                None
            }
            Self::UpstreamHost(host) => {
                request.upstream_host = Some(host.clone());
                None
            }
            // These are for answers.
            Self::ResponseHeaders(_) | Self::Hsts(_) => None,
        };
        answer.map_or(Verdict::Pass, |answer| Verdict::Answer(Box::new(answer)))
    }

    /// Changes the head of an answer, whoever gave it.
    pub fn response(&self, asked: &Asked, headers: &mut HeaderMap) {
        match self {
            Self::Cors(cors) => cors.response(asked.origin.as_ref(), headers),
            Self::ResponseHeaders(fields) => fields.response(headers),
            Self::Hsts(hsts) => hsts.response(asked.secure, headers),
            // These are for requests.
            Self::Redirect(_)
            | Self::HttpsRedirect(_)
            | Self::Limits(_)
            | Self::SourceRange(_)
            | Self::BasicAuth(_)
            | Self::Rewrite(_)
            | Self::UpstreamHost(_) => {}
        }
    }
}

impl Asked {
    pub fn of(secure: bool, headers: &HeaderMap) -> Self {
        Self { secure, origin: headers.get(header::ORIGIN).cloned() }
    }
}
