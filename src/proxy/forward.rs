//! Sends a request to an endpoint and brings back the head of its answer. A request that never reached an
//! endpoint, because it could not be connected or a kept-alive connection was gone, is sent to another, whatever
//! its method; that is no retry.
#![expect(clippy::result_large_err, reason = "an exchange is moved in both cases; a box would be an allocation")]

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Request, Response, StatusCode, Uri, Version, header};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;

use super::body::{Exchange, ResponseBody};
use super::error::Error;
use super::handle::Plan;
use super::headers;
use super::upgrade::Pending;
use super::worker::Worker;
use crate::clock::Timer;
use crate::model::Protocol;
use crate::upstream::{Acquired, BodyFault, ConnectError, Endpoint, Http1, Http2, RequestBody, Upstream};

/// Most times that one request meets a connection that turns out to be closed before a new one is made for it.
const STALE_MAX: usize = 3;

type Failed = (Error, Exchange);

/// An answer's head, and the connection that its body still comes over.
struct Answer {
    response: Response<Incoming>,
    connection: Option<Http1>,
}

/// How sending failed.
enum SendError {
    /// Nothing was sent: here is the request again.
    Unsent(Box<Request<RequestBody>>),
    Broken,
    Reset(h2::Reason),
    TimedOut,
}

pub async fn forward(
    plan: Plan<'_>,
    mut request: Request<RequestBody>,
    mut exchange: Exchange,
) -> Result<Response<ResponseBody>, Failed> {
    let connection = exchange.connection.clone();
    let worker = &connection.worker;
    let upstream = plan.upstream;
    let client = prepare(&mut request, &plan, &mut exchange);
    let upgrading = plan.upgrade.is_some() && upstream.protocol != Protocol::H2c;
    let timer = worker.clock.timer();
    let mut tried: Vec<usize> = Vec::new();
    let mut stale = 0;
    let mut failure = Error::NoEndpoint;
    loop {
        let Some(index) = worker.pools.pick(upstream, client, &tried) else { return Err((failure, exchange)) };
        let endpoint = &upstream.endpoints[index];
        let begun = Instant::now();
        let acquired = match acquire(worker, upstream, endpoint, upgrading || stale >= STALE_MAX).await {
            Ok(acquired) => acquired,
            Err(error) => {
                tracing::debug!(endpoint = %endpoint.label, %error, "not connected");
                failure = if matches!(error, ConnectError::TimedOut(_)) {
                    Error::ConnectTimeout
                } else {
                    Error::ConnectFailed
                };
                tried.push(index);
                continue;
            }
        };
        let reused = note(&acquired, endpoint, begun, &mut exchange, worker);
        let sent = Instant::now();
        match send(acquired, request, &timer, &exchange).await {
            Ok(answer) => {
                if upstream.balancer.wants_latency() {
                    let now = Instant::now();
                    worker.pools.observe(&endpoint.slot, now - sent, now);
                }
                if let Some(record) = &mut exchange.record {
                    record.upstream_head = Some(sent.elapsed());
                }
                return answered(answer, plan.upgrade.as_ref().filter(|_| upgrading), timer, exchange);
            }
            Err(SendError::Unsent(back)) => {
                request = *back;
                exchange.leave_endpoint();
                // A kept-alive connection that was closed meanwhile says nothing of its endpoint.
                if reused {
                    stale += 1;
                } else {
                    tried.push(index);
                }
                failure = Error::UpstreamFailed;
            }
            Err(SendError::Reset(reason)) => return Err((blame(&exchange, Error::UpstreamReset(reason)), exchange)),
            Err(SendError::Broken) => return Err((blame(&exchange, Error::UpstreamFailed), exchange)),
            Err(SendError::TimedOut) => return Err((blame(&exchange, Error::UpstreamTimeout), exchange)),
        }
    }
}

/// Writes the request as the endpoint gets it. Returns what balances it: a hash of the client's address.
fn prepare(request: &mut Request<RequestBody>, plan: &Plan, exchange: &mut Exchange) -> u64 {
    let connection = &exchange.connection;
    let multiplexed = plan.upstream.protocol == Protocol::H2c;
    let fields = request.headers_mut();
    let client =
        headers::add_forwarding(fields, &connection.peer, &plan.host, &connection.worker.settings.trusted_proxies);
    let id = headers::request_id(fields);
    if let Some(record) = &mut exchange.record {
        record.request_id = Some(id);
        record.client = client;
    }
    fields.insert(header::HOST, plan.host.clone());
    if let Some(protocol) = &plan.upgrade
        && !multiplexed
    {
        headers::ask_upgrade(fields, protocol.clone());
    }
    if fields.contains_key(header::TE) && plan.upgrade.is_none() {
        // Over HTTP/1.1 it concerns this connection only (RFC 9110, 10.1.4).
        fields.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
    *request.version_mut() = Version::HTTP_11;
    client_key(client)
}

/// The same for a client in every worker and every replica; the balancer hashes it.
fn client_key(client: IpAddr) -> u64 {
    match client {
        IpAddr::V4(address) => u64::from(u32::from(address)),
        IpAddr::V6(address) => {
            let (network, host) = (u128::from(address) >> 64, u128::from(address) & u128::from(u64::MAX));
            u64::try_from(network ^ host).expect("both halves have 64 bits")
        }
    }
}

async fn acquire(
    worker: &Worker,
    upstream: &Upstream,
    endpoint: &Endpoint,
    fresh: bool,
) -> Result<Acquired, ConnectError> {
    if fresh {
        worker.pools.connect_alone(upstream, endpoint).await
    } else {
        worker.pools.acquire(upstream, endpoint).await
    }
}

/// Counts the request where it goes now; returns whether the connection had been open.
fn note(acquired: &Acquired, endpoint: &Endpoint, begun: Instant, exchange: &mut Exchange, worker: &Worker) -> bool {
    let (Acquired::Http1 { reused, .. } | Acquired::Http2 { reused, .. }) = *acquired;
    worker.cells.upstream_requests.add(1);
    if reused {
        worker.cells.upstream_reused.add(1);
    }
    worker.pools.begin(&endpoint.slot);
    exchange.endpoint = Some((endpoint.slot.index, endpoint.slot.epoch));
    if let Some(record) = &mut exchange.record {
        record.endpoint = Some((*endpoint.label).into());
        record.connect = (!reused).then(|| begun.elapsed());
    }
    reused
}

async fn send(
    acquired: Acquired,
    request: Request<RequestBody>,
    timer: &Timer,
    exchange: &Exchange,
) -> Result<Answer, SendError> {
    match acquired {
        Acquired::Http1 { connection, .. } => send_http1(connection, request, timer, exchange).await,
        Acquired::Http2 { connection, .. } => send_http2(connection, request, timer, exchange).await,
    }
}

/// Sends over a connection that nobody else drives: each time this task is woken, the connection reads and
/// writes what it can.
async fn send_http1(
    mut connection: Http1,
    request: Request<RequestBody>,
    timer: &Timer,
    exchange: &Exchange,
) -> Result<Answer, SendError> {
    let wait = Wait::begin(timer, exchange);
    let mut sending = pin!(connection.sender.try_send_request(request));
    let sent = poll_fn(|context| {
        let over = connection.poll_drive(context).is_ready();
        let mut polled = sending.as_mut().poll(context);
        if over && polled.is_pending() {
            // hyper keeps a request that it has not begun to write until its connection is dropped.
            connection.close();
            polled = sending.as_mut().poll(context);
        }
        match polled {
            Poll::Ready(sent) => Poll::Ready(Some(sent)),
            Poll::Pending if wait.is_over(context) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    match sent {
        None => Err(SendError::TimedOut),
        Some(Ok(response)) => Ok(Answer { response, connection: Some(connection) }),
        Some(Err(error)) => Err(unsent_or_broken(error)),
    }
}

async fn send_http2(
    mut connection: Http2,
    mut request: Request<RequestBody>,
    timer: &Timer,
    exchange: &Exchange,
) -> Result<Answer, SendError> {
    let wait = Wait::begin(timer, exchange);
    let ready = poll_fn(|context| match connection.sender.poll_ready(context) {
        Poll::Ready(ready) => Poll::Ready(Some(ready)),
        Poll::Pending if wait.is_over(context) => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    });
    match ready.await {
        None => return Err(SendError::TimedOut),
        Some(Err(_)) => return Err(SendError::Unsent(Box::new(request))),
        Some(Ok(())) => {}
    }
    to_http2(&mut request, exchange.connection.secure);
    let mut sending = pin!(connection.sender.try_send_request(request));
    let sent = poll_fn(|context| match sending.as_mut().poll(context) {
        Poll::Ready(sent) => Poll::Ready(Some(sent)),
        Poll::Pending if wait.is_over(context) => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
    .await;
    match sent {
        None => Err(SendError::TimedOut),
        Some(Ok(response)) => Ok(Answer { response, connection: None }),
        Some(Err(error)) => Err(unsent_or_broken(error)),
    }
}

fn unsent_or_broken(mut error: TrySendError<Request<RequestBody>>) -> SendError {
    match error.take_message() {
        Some(request) => SendError::Unsent(Box::new(request)),
        None => {
            tracing::debug!(error = %error.error(), "the endpoint did not answer");
            let stream = std::error::Error::source(error.error()).and_then(|source| source.downcast_ref::<h2::Error>());
            let reason = stream.filter(|error| error.is_reset()).and_then(h2::Error::reason);
            reason.map_or(SendError::Broken, SendError::Reset)
        }
    }
}

/// HTTP/2 has the host in `:authority` and the scheme beside it.
fn to_http2(request: &mut Request<RequestBody>, secure: bool) {
    request.headers_mut().remove(header::CONNECTION);
    let Some(host) = request.headers_mut().remove(header::HOST) else { return };
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    if let Ok(authority) = Authority::try_from(host.as_bytes()) {
        parts.scheme = Some(if secure { Scheme::HTTPS } else { Scheme::HTTP });
        parts.authority = Some(authority);
    }
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    *request.version_mut() = Version::HTTP_2;
}

/// The wait for an answer's head. A request body on its way puts it off, as long as it moves.
struct Wait<'a> {
    timer: &'a Timer,
    exchange: &'a Exchange,
    read_timeout: u64,
    write_timeout: u64,
    seen: std::cell::Cell<u64>,
}

impl<'a> Wait<'a> {
    fn begin(timer: &'a Timer, exchange: &'a Exchange) -> Self {
        let settings = &exchange.connection.worker.settings;
        let wait = Self {
            timer,
            exchange,
            read_timeout: settings.upstream_read_timeout,
            write_timeout: settings.upstream_write_timeout,
            seen: std::cell::Cell::new(0),
        };
        timer.set(wait.timeout());
        wait
    }

    fn sending(&self) -> bool {
        self.exchange.watch.as_ref().is_some_and(|watch| !watch.ended.get())
    }

    fn timeout(&self) -> u64 {
        if self.sending() { self.write_timeout } else { self.read_timeout }
    }

    fn is_over(&self, context: &std::task::Context<'_>) -> bool {
        self.timer.register(context);
        if !self.timer.has_passed() {
            return false;
        }
        if let Some(watch) = &self.exchange.watch {
            let bytes = watch.bytes.get();
            let moved = self.seen.replace(bytes) != bytes;
            // While the client is asked for more, its own time limit counts.
            if moved || (self.sending() && watch.waiting.get()) {
                self.timer.set(self.timeout());
                return false;
            }
        }
        true
    }
}

/// A client's broken body is not the endpoint's fault.
fn blame(exchange: &Exchange, error: Error) -> Error {
    match exchange.watch.as_ref().and_then(|watch| watch.fault.get()) {
        Some(BodyFault::Broken) => Error::ClientBodyBroken,
        Some(BodyFault::TimedOut) => Error::ClientBodyTimeout,
        None => error,
    }
}

/// The answer as the client gets it.
fn answered(
    answer: Answer,
    upgrade: Option<&HeaderValue>,
    timer: Timer,
    mut exchange: Exchange,
) -> Result<Response<ResponseBody>, Failed> {
    let Answer { response, connection } = answer;
    let (mut head, incoming) = response.into_parts();
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        return switched(head, connection, upgrade, exchange);
    }
    exchange.status = head.status.as_u16();
    headers::clean_response(&mut head.headers);
    head.version = Version::HTTP_11;
    head.extensions.clear();
    let connection = release_early(connection, &exchange);
    let timeout = exchange.connection.worker.settings.upstream_read_timeout;
    Ok(Response::from_parts(head, ResponseBody::endpoint(incoming, connection, timer, timeout, exchange)))
}

/// A short answer has been read whole with its head: its connection is free before the client has the answer.
fn release_early(connection: Option<Http1>, exchange: &Exchange) -> Option<Http1> {
    let connection = connection?;
    match exchange.endpoint {
        Some((slot, epoch)) if connection.is_ready() => {
            exchange.connection.worker.pools.release(slot, epoch, connection);
            None
        }
        _ => Some(connection),
    }
}

/// The endpoint agreed to upgrade: the tunnel begins when hyper has passed the 101 on.
fn switched(
    mut head: http::response::Parts,
    connection: Option<Http1>,
    upgrade: Option<&HeaderValue>,
    mut exchange: Exchange,
) -> Result<Response<ResponseBody>, Failed> {
    let protocol = head.headers.get(header::UPGRADE).cloned();
    let asked = |protocol: &HeaderValue| {
        upgrade.is_some_and(|asked| asked.as_bytes().eq_ignore_ascii_case(protocol.as_bytes()))
    };
    // A switch that nobody asked for, or to something else, would leave both sides with different ideas of
    // what the bytes mean.
    let (Some(connection), Some(protocol)) = (connection, protocol.filter(asked)) else {
        return Err((Error::UpstreamFailed, exchange));
    };
    exchange.status = 101;
    headers::clean_response(&mut head.headers);
    headers::ask_upgrade(&mut head.headers, protocol);
    head.version = Version::HTTP_11;
    let client = exchange.connection.clone();
    let Some((io, read)) = connection.into_parts() else { return Err((Error::UpstreamFailed, exchange)) };
    *client.tunnel.borrow_mut() = Some(Pending { io, read, exchange });
    Ok(Response::from_parts(head, ResponseBody::whole(Bytes::new(), None)))
}
