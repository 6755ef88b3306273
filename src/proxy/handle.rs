//! A request, from its head to its answer's head: load the table once, decide, act. [`decide`] is pure; all
//! that touches a socket is in `forward`.

use std::borrow::Cow;
use std::rc::Rc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::body::{Body, Incoming};
use ipnet::IpNet;

use super::access_log::{Record, Text};
use super::body::ResponseBody;
use super::client_certificate::{Presented, admit};
use super::connection::Connection;
use super::error::Error;
use super::error_page::{self, Page};
use super::exchange::Exchange;
use super::filters::{Applied, Outcome, apply};
use super::forward::{Failed, Plan, forward};
#[cfg(debug_assertions)]
use super::guard::{panic_if_told, stall_if_told};
use super::headers::{self, Limits, Peer, X_GENERATION};
use super::intake::{Waits, accept_body};
use super::overload::Pressure;
use super::reading;
use super::session::Session;
use super::worker::Worker;
use crate::filter::Answer;
use crate::model::Normalization;
use crate::table::{Route, Table};
use crate::upstream::{SlotId, Upstream};

/// The host of an HTTP/1.0 request that names none.
static NO_HOST: HeaderValue = HeaderValue::from_static("");

/// What of a connection a decision depends on.
pub(super) struct Facts<'c> {
    limits: Limits,
    normalization: Normalization,
    /// How much of what comes is turned away now.
    pressure: Pressure,
    pub(super) peer: &'c Peer,
    pub(super) trusted_proxies: &'c [IpNet],
    /// TLS ends here.
    pub(super) secure: bool,
    /// The name that the TLS handshake asked for; `None` in cleartext or without SNI.
    server_name: Option<&'c str>,
    /// Only if the handshake asked for a certificate.
    presented: Option<&'c Presented>,
}

/// Why a request goes to no endpoint.
pub(super) enum Refusal {
    Error(Error),
    /// A filter has answered it.
    Answer(Box<Answer>),
}

impl Refusal {
    fn answer(self, wants_body: bool, exchange: Box<Exchange>) -> Result<Response<ResponseBody>, Failed> {
        match self {
            Self::Error(error) => Err((error, exchange)),
            Self::Answer(answer) => respond(*answer, wants_body, exchange),
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<Box<Answer>> for Refusal {
    fn from(answer: Box<Answer>) -> Self {
        Self::Answer(answer)
    }
}

/// Instead of an answer.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// The stream is reset, as the endpoint reset ours.
    #[error("the endpoint reset the stream")]
    Reset(#[source] h2::Error),
    /// The connection is closed: an answer could be taken for that of another request.
    #[error("what follows the last request on this connection need not be one")]
    Doubtful,
}

/// Answers a request. Whatever goes wrong becomes an answer too, but for a stream that the endpoint reset, and what may
/// be none.
pub async fn handle(
    connection: Rc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Unanswered> {
    if connection.ends.get() {
        return Err(Unanswered::Doubtful);
    }
    let worker = connection.worker.clone();
    let table = worker.table();
    let generation = table.generation;
    let mut exchange = Exchange::begin(&connection, !request.body().is_end_stream());
    let (mut head, body) = request.into_parts();
    if let Some(log) = &worker.log {
        let record = log.begin(exchange.started);
        exchange.record = Some(begin(record, &connection, &mut head, generation));
    }
    #[cfg(debug_assertions)]
    panic_if_told(worker.settings.panic_at.as_deref(), &head);
    #[cfg(debug_assertions)]
    stall_if_told(worker.settings.stall_at.as_deref(), &head);
    let (version, wants_body) = (head.version, head.method != Method::HEAD);
    let facts = Facts {
        limits: worker.settings.limits,
        normalization: worker.settings.normalization,
        pressure: worker.pressure.get(),
        peer: &connection.peer,
        trusted_proxies: &worker.settings.trusted_proxies,
        secure: connection.secure,
        server_name: connection.server_name.as_deref(),
        presented: connection.presented.as_deref(),
    };
    // Taken along for the answer: a request that waits holds no table.
    let mut applied = None;
    let decided = if worker.in_flight.get() > worker.settings.in_flight_max {
        Err(Error::Overloaded.into())
    } else {
        decide(&table, &facts, &mut head, &mut exchange, &mut applied)
    };
    let ready = decided.and_then(|plan| Ok((plan, accept_body(body, &mut exchange)?)));
    let answered = match ready {
        Ok((mut plan, body)) => {
            let mut request = Some(Request::from_parts(head, body));
            match Waits::of(&mut plan, request.as_ref(), &exchange) {
                None => forward(table, plan, &mut request, exchange).await,
                Some(waits) => {
                    // Nobody waits with a table in hand. In a box, as few requests come here and all would pay for
                    // its size.
                    drop(table);
                    Box::pin(waits.forward(plan, &mut request, wants_body, exchange)).await
                }
            }
        }
        Err(refusal) => match refusal.answer(wants_body, exchange) {
            Err((error, exchange)) if exchange.page.is_some() => {
                drop((head, table));
                Box::pin(error_page::instead(error, exchange)).await
            }
            answered => answered,
        },
    };
    let mut response = match answered {
        Ok(response) => response,
        Err((Error::UpstreamReset(reason), mut exchange)) if version == Version::HTTP_2 => {
            exchange.status = Error::UpstreamReset(reason).status().as_u16();
            exchange.reason = Some(Error::UpstreamReset(reason).reason());
            return Err(Unanswered::Reset(reason.into()));
        }
        Err((error, exchange)) => refuse(error, wants_body, exchange),
    };
    if let Some(applied) = applied {
        applied.response(response.headers_mut());
    }
    finish(&worker, version, generation, &mut response);
    Ok(response)
}

/// Says whether the connection ends, and what decided.
fn finish(worker: &Worker, version: Version, generation: u64, response: &mut Response<ResponseBody>) {
    let ends = worker.is_draining() || response.body().ends_connection();
    if version < Version::HTTP_2 && ends && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if worker.settings.generation_header {
        response.headers_mut().insert(X_GENERATION, worker.generation_value(generation));
    }
}

/// Checks the request and finds where it goes. Changes its head to what the endpoint gets, but for what is
/// added of the client.
fn decide(
    table: &Table,
    facts: &Facts,
    head: &mut Parts,
    exchange: &mut Exchange,
    applied: &mut Option<Box<Applied>>,
) -> Result<Plan, Refusal> {
    if head.version == Version::HTTP_2 {
        exchange.head_bytes = headers::weight(&head.headers);
    }
    let (host, upgrade) = reading::check(head, facts.limits, facts.peer.trusted)?;
    let name = reading::host_name(host.as_ref())?;
    if facts.secure && !table.may_share(facts.server_name, facts.presented.is_some(), name.as_str()) {
        return Err(Error::Misdirected.into());
    }
    let verifier = table.clients.find(name.as_str());
    if let Some(verifier) = verifier.filter(|_| facts.secure) {
        admit(verifier, facts.presented, &mut head.headers)?;
    }
    let (route, path) = find(table, facts.normalization, name.as_str(), head)?;
    exchange.route = route.id;
    if let Some(record) = &mut exchange.record {
        let source = &route.source;
        record.set_parts(Text::Route, &[source.namespace.as_bytes(), b"/", source.name.as_bytes()]);
    }
    if !facts.pressure.is_none() && facts.pressure.sheds(route.priority, fastrand::u32(..)) {
        exchange.connection.worker.cells.shed[route.priority as usize].add(1);
        return Err(Error::Shed.into());
    }
    if let Some(forwarding) = &route.forwarding {
        exchange.forwarding = Some(forwarding.clone());
        exchange.page = Page::of(forwarding, head, host.as_ref().unwrap_or(&NO_HOST));
    }
    let Outcome { upstream_host, key, login } = if route.filters.is_some() || route.hash_by.is_some() {
        let authority = host.as_ref().unwrap_or(&NO_HOST);
        let names = (name.as_str(), authority, path.as_deref());
        apply(route, facts, head, names, applied, exchange)?
    } else {
        Outcome::default()
    };
    // In cleartext the way to https comes first, and so does what proves to an authority whose the host is.
    if let Some(verifier) = verifier.filter(|_| !facts.secure && !route.is_challenge) {
        admit(verifier, None, &mut head.headers)?;
    }
    let mut found = destination(table, route, &head.headers, facts.secure);
    if let Some(forwarding) = &route.forwarding {
        found = error_page::destination(table, forwarding, found, (head, exchange));
    }
    let (backend, upstream, session) = found.ok_or(Error::NoEndpoint)?;
    if let Some(record) = &mut exchange.record {
        record.set(Text::Upstream, upstream.label.as_bytes());
    }
    let host = host.unwrap_or_else(|| NO_HOST.clone());
    Ok(Plan {
        backend,
        protocol: upstream.protocol,
        host,
        upstream_host,
        key,
        upgrade: upgrade.map(Box::new),
        session,
        login,
    })
}

/// The backend that a request goes to, and its session there. A session stays with the side that it is on; who has
/// none is asked whether it goes to the canary, which takes nothing without an endpoint.
fn destination<'t>(
    table: &'t Table,
    route: &Route,
    headers: &HeaderMap,
    secure: bool,
) -> Option<(SlotId, &'t Upstream, Option<Box<Session>>)> {
    let begin = |upstream: &Upstream| {
        route.affinity.as_ref().map(|affinity| Box::new(Session::begin(affinity, upstream, headers)))
    };
    let known = |session: &Option<Box<Session>>| session.as_ref().is_some_and(|session| session.is_known());
    let backend = route.backend(secure)?;
    let upstream = table.upstream(backend)?;
    let session = begin(upstream);
    let Some(canary) = route.canary.as_ref().filter(|_| !known(&session)) else {
        return Some((backend, upstream, session));
    };
    let other = canary.backend(secure).and_then(|backend| Some((backend, table.upstream(backend)?)));
    if let Some((other, of_canary)) = other.filter(|(_, upstream)| !upstream.endpoints.is_empty()) {
        let there = if canary.sticky { begin(of_canary) } else { None };
        if known(&there) || canary.choice.takes(headers, fastrand::u32(..)) {
            return Some((other, of_canary, there));
        }
    }
    Some((backend, upstream, session))
}

/// The route by host and path. What was matched is what is sent; the path in normal form comes along if that is
/// another one, and the route's filters want it.
fn find<'t>(
    table: &'t Table,
    normalization: Normalization,
    host: &str,
    head: &mut Parts,
) -> Result<(&'t Route, Option<String>), Error> {
    let path = reading::path(&head.uri, normalization)?;
    let route = table.find(host, &path.matched).ok_or(Error::NoRoute)?;
    let same = |path: &String| table.find(host, path).is_some_and(|found| std::ptr::eq(found, route));
    if !path.readings().is_ok_and(|readings| readings.iter().all(same)) {
        return Err(Error::Malformed("the path has another route if its escapes or parameters are read otherwise"));
    }
    let matched = match &path.matched {
        Cow::Owned(matched) if route.filters.is_some() => Some(matched.clone()),
        Cow::Owned(_) | Cow::Borrowed(_) => None,
    };
    if let Some(target) = reading::target(&head.uri, path.sent)? {
        head.uri = target;
    }
    Ok((route, matched))
}

/// A filter's answer, or the error page that the rule has for its status.
pub(super) fn respond(
    answer: Answer,
    wants_body: bool,
    mut exchange: Box<Exchange>,
) -> Result<Response<ResponseBody>, Failed> {
    let Answer { status, headers, text, reason } = answer;
    exchange.status = status.as_u16();
    exchange.reason = Some(reason);
    if let (Some(page), Some(forwarding)) = (&mut exchange.page, &exchange.forwarding)
        && forwarding.replaces(status, true)
    {
        page.challenge = headers.into_iter().find(|(name, _)| *name == header::WWW_AUTHENTICATE).map(|field| field.1);
        return Err((Error::Answered(status), exchange));
    }
    let mut response = own(status, text, wants_body, exchange);
    for (name, value) in headers {
        response.headers_mut().append(name, value);
    }
    Ok(response)
}

/// The answer that says what went wrong; to a HEAD, without its body.
fn refuse(error: Error, wants_body: bool, mut exchange: Box<Exchange>) -> Response<ResponseBody> {
    exchange.status = error.status().as_u16();
    exchange.reason.get_or_insert(error.reason());
    let connection = &exchange.connection;
    if error == Error::RequestTimeout {
        connection.worker.cells.request_timeouts.add(1);
    }
    if error == Error::Shed {
        // Others may be behind a trusted peer's connection.
        connection.shed.set(connection.activity.may_wait() && !connection.peer.trusted);
    }
    let challenge = exchange.page.as_mut().and_then(|page| page.challenge.take());
    let mut response = own(error.status(), error.message(), wants_body, exchange);
    let fields = response.headers_mut();
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(challenge) = challenge {
        fields.insert(header::WWW_AUTHENTICATE, challenge);
    }
    if matches!(error, Error::Overloaded | Error::CircuitOpen | Error::Shed | Error::Exhausted) {
        fields.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if error.closes() {
        fields.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// An answer of our own: a line of text, but for a status that has no content (RFC 9110, 15.3.5).
fn own(status: StatusCode, text: &str, wants_body: bool, exchange: Box<Exchange>) -> Response<ResponseBody> {
    if status == StatusCode::NO_CONTENT {
        let mut response = Response::new(ResponseBody::whole(Bytes::new(), Some(exchange)));
        *response.status_mut() = status;
        return response;
    }
    let text = Bytes::from(format!("{status}: {text}\n"));
    let length = HeaderValue::from(text.len());
    let body = if wants_body { text } else { Bytes::new() };
    let mut response = Response::new(ResponseBody::whole(body, Some(exchange)));
    *response.status_mut() = status;
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_LENGTH, length);
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Notes what is known of a request from its head, before anything can go wrong with it.
fn begin(mut record: Box<Record>, connection: &Connection, head: &mut Parts, generation: u64) -> Box<Record> {
    let facts = &mut record.facts;
    facts.client = connection.peer.address;
    facts.version = head.version;
    facts.secure = connection.secure;
    facts.generation = generation;
    // A request that is refused has an id in the log too.
    record.set(Text::RequestId, headers::request_id(&mut head.headers).as_bytes());
    record.set(Text::Method, head.method.as_str().as_bytes());
    if let Ok(Some(host)) = reading::authority(head) {
        record.set(Text::Host, host.as_bytes());
    }
    if let Some(target) = head.uri.path_and_query() {
        record.set(Text::Path, target.as_str().as_bytes());
    }
    record
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::guard::answer;

    fn size<F>(_: impl Fn(Rc<Connection>, Request<Incoming>) -> F) -> usize {
        size_of::<F>()
    }

    /// hyper moves the future of every request, so its size is paid for every time.
    #[test]
    fn a_request_is_small() {
        assert!(size(answer) <= 3072 + 64, "{} bytes", size(answer));
    }
}
