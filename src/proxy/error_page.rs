//! A rule's default backend: it gets the requests that no endpoint is there for, and answers instead of an endpoint,
//! or of us, where the status is one of the rule's `custom-http-errors`. It is told what happened by fields, as
//! ingress-nginx has them; what it answers is passed on, whatever its status. Other routes never come here.

use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};

use super::access_log::Text;
use super::body::ResponseBody;
use super::error::Error;
use super::exchange::Exchange;
use super::forward::{Plan, forward};
use super::headers;
use super::session::Session;
use crate::table::{Forwarding, Table};
use crate::upstream::{RequestBody, SlotId, Upstream};

const X_CODE: HeaderName = HeaderName::from_static("x-code");
const X_FORMAT: HeaderName = HeaderName::from_static("x-format");
const X_ORIGINAL_URI: HeaderName = HeaderName::from_static("x-original-uri");

/// A request as the default backend is to get it, should it come to that.
pub struct Page {
    method: Method,
    headers: HeaderMap,
    target: Option<PathAndQuery>,
    host: HeaderValue,
    /// How the client may prove who it is: the `WWW-Authenticate` of an answer that was let go.
    pub challenge: Option<HeaderValue>,
    asked: bool,
}

impl Page {
    /// Of a request whose head is checked, before filters change it; only if the rule has statuses to replace.
    pub fn of(forwarding: &Forwarding, head: &mut Parts, host: &HeaderValue) -> Option<Box<Self>> {
        forwarding.rule.default_backend.as_ref().filter(|default| !default.errors.is_empty())?;
        // The endpoint and the page are told the same.
        headers::request_id(&mut head.headers);
        let (method, headers, target) = (head.method.clone(), head.headers.clone(), head.uri.path_and_query().cloned());
        Some(Box::new(Self { method, headers, target, host: host.clone(), challenge: None, asked: false }))
    }
}

/// A backend that a request goes to, and its session there.
type Destination<'t> = (SlotId, &'t Upstream, Option<Box<Session>>);

/// Where a request goes: as the rule has it, or to the default backend while there is no endpoint and that has one.
/// The request tells it so.
pub fn destination<'t>(
    table: &'t Table,
    forwarding: &Forwarding,
    own: Option<Destination<'t>>,
    (head, exchange): (&mut Parts, &mut Exchange),
) -> Option<Destination<'t>> {
    let serves = |upstream: &Upstream| upstream.all_endpoints().next().is_some();
    if own.as_ref().is_some_and(|(_, upstream, _)| serves(upstream)) {
        return own;
    }
    let upstream = |slot| Some((slot, table.upstream(slot).filter(|upstream| serves(upstream))?, None));
    let Some(default) = forwarding.default_backend.and_then(upstream) else { return own };
    // What it says counts.
    exchange.page = None;
    tell(&mut head.headers, forwarding, StatusCode::SERVICE_UNAVAILABLE);
    Some(default)
}

/// Whether an endpoint's answer is let go for the default backend's. What it says of credentials is kept.
pub fn replaces<B>(response: &mut Response<B>, exchange: &mut Exchange) -> bool {
    let (Some(page), Some(forwarding)) = (&mut exchange.page, &exchange.forwarding) else { return false };
    let replaces = !page.asked && forwarding.replaces(response.status(), false);
    if replaces {
        page.challenge = response.headers_mut().remove(header::WWW_AUTHENTICATE);
    }
    replaces
}

/// The default backend's answer instead of an error, if the rule wants one and there is one.
pub async fn instead(
    error: Error,
    mut exchange: Box<Exchange>,
) -> Result<Response<ResponseBody>, (Error, Box<Exchange>)> {
    let worker = exchange.connection.worker.clone();
    let Some((forwarding, page)) = exchange.forwarding.clone().zip(exchange.page.as_mut()) else {
        return Err((error, exchange));
    };
    let status = error.status();
    let table = worker.table();
    // Who has waited for as long as he may does not wait for a page.
    let asks = !page.asked && error != Error::RequestTimeout && forwarding.replaces(status, true);
    let slot = forwarding.default_backend.filter(|_| asks);
    let Some((backend, upstream)) = slot.and_then(|slot| Some((slot, table.upstream(slot)?))) else {
        return Err((error, exchange));
    };
    page.asked = true;
    let (host, protocol) = (page.host.clone(), upstream.protocol);
    let challenge = page.challenge.clone();
    let mut request = Some(request(page, &forwarding, status));
    exchange.leave_endpoint();
    // Nobody reads on in the client's body.
    exchange.unread = exchange.ends_connection();
    if let Some(watch) = exchange.watch.take() {
        exchange.request_bytes += watch.bytes.get();
    }
    if let Some(record) = &mut exchange.record {
        record.set(Text::Upstream, upstream.label.as_bytes());
    }
    // Who had to be somebody was asked before.
    let (upstream_host, key, upgrade, session, login) = (None, None, None, None, None);
    let plan = Plan { backend, protocol, host, upstream_host, key, upgrade, session, login };
    match forward(table, plan, &mut request, exchange).await {
        Ok(mut response) => {
            let fields = response.headers_mut();
            if let Some(challenge) = challenge {
                fields.entry(header::WWW_AUTHENTICATE).or_insert(challenge);
            }
            if error.closes() {
                fields.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response)
        }
        Err((_, exchange)) => Err((error, exchange)),
    }
}

fn request(page: &mut Page, forwarding: &Forwarding, status: StatusCode) -> Request<RequestBody> {
    let mut request = Request::new(RequestBody::Empty);
    *request.method_mut() = page.method.clone();
    *request.uri_mut() = Uri::from_static("/");
    let mut headers = std::mem::take(&mut page.headers);
    for name in [header::CONTENT_LENGTH, header::CONTENT_TYPE, header::CONTENT_ENCODING, header::TE] {
        headers.remove(name);
    }
    tell(&mut headers, forwarding, status);
    if let Some(target) = page.target.as_ref().and_then(|target| HeaderValue::from_str(target.as_str()).ok()) {
        headers.insert(X_ORIGINAL_URI, target);
    }
    *request.headers_mut() = headers;
    request
}

/// Writes what happened, and nothing that the client says of it.
fn tell(headers: &mut HeaderMap, forwarding: &Forwarding, status: StatusCode) {
    headers.insert(X_CODE, HeaderValue::from(status.as_u16()));
    match headers.get(header::ACCEPT).cloned() {
        Some(accept) => headers.insert(X_FORMAT, accept),
        None => headers.remove(X_FORMAT),
    };
    headers.remove(X_ORIGINAL_URI);
    for (name, value) in &forwarding.error_fields {
        headers.insert(name.clone(), value.clone());
    }
}
