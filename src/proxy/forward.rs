//! Sends a request to an endpoint and brings back the head of its answer. A request that never reached an
//! endpoint, because it could not be connected or a kept-alive connection was gone, is sent to another, whatever
//! its method; that is no retry. One that an endpoint took and did not answer is sent once more where
//! [`super::attempts`] allows it.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Version, header};

use super::access_log::Text;
use super::attempts::{Attempts, Carrier};
use super::body::ResponseBody;
use super::error::Error;
use super::error_page;
use super::exchange::Exchange;
use super::headers;
use super::send::{Answer, Outgoing, send};
use super::session::Session;
use super::upgrade::Pending;
use super::worker::{Held, Worker};
use crate::clock::Timer;
use crate::filter::Login;
use crate::model::Protocol;
use crate::upstream::{Acquired, ConnectError, Endpoint, Http1, RequestBody, SlotId, Upstream};

pub type Failed = (Error, Box<Exchange>);

/// Where a request goes: not the backend itself, so that a request that waits holds no table.
pub struct Plan {
    pub backend: SlotId,
    pub protocol: Protocol,
    /// The host that the client asked for, and `Host` for the endpoint, if that is another.
    pub host: HeaderValue,
    pub upstream_host: Option<Box<HeaderValue>>,
    /// What balances the request; the client's address without it.
    pub key: Option<u64>,
    /// The protocol that the connection is to be upgraded to.
    pub upgrade: Option<Box<HeaderValue>>,
    /// Only if the route has affinity.
    pub session: Option<Box<Session>>,
    /// Who has to be somebody first.
    pub login: Option<Box<Login>>,
}

/// A connection, and whose it is.
struct Reached {
    acquired: Acquired,
    wants_latency: bool,
    carrier: Carrier,
}

#[expect(clippy::manual_async_fn, reason = "an async fn keeps its arguments twice, and hyper moves them every time")]
pub fn forward(
    table: Held,
    mut plan: Plan,
    request: &mut Outgoing,
    mut exchange: Box<Exchange>,
) -> impl Future<Output = Result<Response<ResponseBody>, Failed>> {
    async move {
        let connection = exchange.connection.clone();
        let worker = &connection.worker;
        let client = request.as_mut().map_or(0, |request| prepare(request, &plan, &mut exchange));
        let timer = worker.clock.timer();
        let mut attempts = Attempts::new(client, plan.backend, plan.session.take(), request, worker);
        // An error page's backend is another one.
        exchange.circuit = None;
        let upgrade = plan.upgrade.as_deref().filter(|_| plan.protocol != Protocol::H2c);
        let mut table = Some(table);
        loop {
            // A request that comes back goes by the table of then.
            let now = table.take().unwrap_or_else(|| worker.table());
            let reached = match reach(now, plan.backend, upgrade.is_some(), &mut attempts, &mut exchange).await {
                Ok(reached) => reached,
                Err(error) => return Err((error, exchange)),
            };
            let Reached { acquired, wants_latency, carrier } = reached;
            let sent = (wants_latency || exchange.record.is_some()).then(Instant::now);
            match send(acquired, request, &timer, &exchange).await {
                Ok(mut answer) => {
                    let latency = sent.map(|sent| sent.elapsed());
                    if let Some(latency) = latency.filter(|_| wants_latency) {
                        worker.pools.observe(carrier.endpoint, latency);
                    }
                    attempts.heard(&answer.response, carrier, &mut exchange);
                    if let Some(record) = &mut exchange.record {
                        record.facts.upstream_head = latency;
                    }
                    if exchange.forwarding.is_some() {
                        let status = answer.response.status();
                        if attempts.passes_over(status, carrier, request, &mut exchange) {
                            discard(answer, &mut exchange);
                            continue;
                        }
                        if error_page::replaces(&mut answer.response, &mut exchange) {
                            discard(answer, &mut exchange);
                            return Err((Error::Answered(status), exchange));
                        }
                    }
                    let cookie = attempts.end(worker).and_then(|session| session.set_cookie(connection.secure));
                    let mut response = answered(answer, upgrade, timer, exchange)?;
                    if let Some(cookie) = cookie {
                        response.headers_mut().append(header::SET_COOKIE, cookie);
                    }
                    return Ok(response);
                }
                Err(failed) => {
                    if let Err(error) = attempts.again(&failed, carrier, request, &mut exchange) {
                        return Err((error, exchange));
                    }
                }
            }
        }
    }
}

/// Picks endpoints until one can be reached. After each that can't, the table of then says which there are: what
/// does not answer has often just gone, and others with it.
async fn reach(
    mut table: Held,
    backend: SlotId,
    alone: bool,
    attempts: &mut Attempts,
    exchange: &mut Exchange,
) -> Result<Reached, Error> {
    let connection = exchange.connection.clone();
    let worker = &connection.worker;
    loop {
        if exchange.is_late() {
            return Err(Error::RequestTimeout);
        }
        let Some(upstream) = table.upstream(backend) else { return Err(attempts.failure) };
        enter(upstream, exchange)?;
        let Some(endpoint) = attempts.pick(upstream, worker) else { return Err(attempts.failure) };
        let fresh = attempts.wants_fresh();
        let open = if alone || fresh { None } else { worker.pools.open(&endpoint.slot) };
        let begun = (open.is_none() && exchange.record.is_some()).then(Instant::now);
        let acquired = match open {
            Some(acquired) => Ok(acquired),
            // Boxed: a future is moved with all that it may ever hold, and most requests find a connection.
            None => Box::pin(connect(upstream, endpoint, (alone, fresh), exchange)).await,
        };
        match acquired {
            Ok(acquired) => {
                let reused = note(&acquired, endpoint, begun, exchange, worker);
                let wants_latency = upstream.balancer.wants_latency();
                let multiplexed = matches!(acquired, Acquired::Http2 { .. });
                let carrier = Carrier { endpoint: endpoint.slot.id(), reused, multiplexed };
                return Ok(Reached { acquired, wants_latency, carrier });
            }
            Err(error) => {
                tracing::debug!(endpoint = %endpoint.label, %error, "not connected");
                attempts.not_reached(upstream, endpoint, &error, exchange)?;
                table = worker.table();
            }
        }
    }
}

/// Takes a place among the backend's requests, where a rule limits them.
fn enter(upstream: &Upstream, exchange: &mut Exchange) -> Result<(), Error> {
    if let Some(circuit) = &upstream.circuit
        && exchange.circuit.is_none()
    {
        exchange.circuit = circuit.enter();
        if exchange.circuit.is_none() {
            exchange.connection.worker.cells.circuit_refused.add(1);
            return Err(Error::CircuitOpen);
        }
    }
    Ok(())
}

/// Makes a connection, or gives up when the table does not name the endpoint any more: looked at by the worker's
/// ticks, so that nobody waits for a Pod that has gone until the time to connect is over.
async fn connect(
    upstream: &Upstream,
    endpoint: &Endpoint,
    (alone, fresh): (bool, bool),
    exchange: &Exchange,
) -> Result<Acquired, ConnectError> {
    let worker = &exchange.connection.worker;
    let limit = exchange.connect_timeout();
    let waits = upstream.circuit.as_ref().map(|circuit| circuit.wait().ok_or(ConnectError::Crowded));
    let _waits = waits.transpose()?;
    let making = async {
        match (alone, fresh) {
            (true, _) => worker.pools.connect_alone(upstream, endpoint, limit).await,
            (false, true) => worker.pools.connect(upstream, endpoint, limit).await,
            (false, false) => worker.pools.share(upstream, endpoint, limit).await,
        }
    };
    let mut making = pin!(making);
    let timer = worker.clock.timer();
    timer.set(1);
    poll_fn(|context| {
        let made = making.as_mut().poll(context);
        if made.is_pending() {
            timer.register(context);
            if timer.has_passed() {
                let epochs = worker.table();
                if epochs.endpoint_epochs().get(endpoint.slot.index) != Some(&endpoint.slot.epoch) {
                    return Poll::Ready(Err(ConnectError::Gone));
                }
                timer.set(1);
            }
        }
        made
    })
    .await
}

/// Lets go of an answer that the client doesn't get: its connection is free if the body has come with the head, and
/// closed if not.
fn discard(answer: Answer, exchange: &mut Exchange) {
    drop(release_early(answer.connection, exchange));
    exchange.leave_endpoint();
}

/// Writes the request as the endpoint gets it. Returns what balances it.
fn prepare(request: &mut Request<RequestBody>, plan: &Plan, exchange: &mut Exchange) -> u64 {
    let connection = &exchange.connection;
    let multiplexed = plan.protocol == Protocol::H2c;
    let fields = request.headers_mut();
    let client =
        headers::add_forwarding(fields, &connection.peer, &plan.host, &connection.worker.settings.trusted_proxies);
    let id = headers::request_id(fields);
    if let Some(record) = &mut exchange.record {
        record.set(Text::RequestId, id.as_bytes());
        record.facts.client = client;
    }
    fields.insert(header::HOST, plan.upstream_host.as_deref().unwrap_or(&plan.host).clone());
    if let Some(protocol) = &plan.upgrade
        && !multiplexed
    {
        headers::ask_upgrade(fields, (**protocol).clone());
    }
    if fields.contains_key(header::TE) && plan.upgrade.is_none() {
        // Over HTTP/1.1 it concerns this connection only (RFC 9110, 10.1.4).
        fields.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
    *request.version_mut() = Version::HTTP_11;
    plan.key.unwrap_or_else(|| client_key(client))
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

/// Counts the request where it goes now; returns whether the connection had been open.
fn note(
    acquired: &Acquired,
    endpoint: &Endpoint,
    begun: Option<Instant>,
    exchange: &mut Exchange,
    worker: &Worker,
) -> bool {
    let (Acquired::Http1 { reused, .. } | Acquired::Http2 { reused, .. }) = *acquired;
    worker.cells.upstream_requests.add(1);
    if reused {
        worker.cells.upstream_reused.add(1);
    }
    worker.pools.begin(&endpoint.slot);
    exchange.endpoint = Some(endpoint.slot.id());
    if let Some(record) = &mut exchange.record {
        record.set(Text::Endpoint, endpoint.label.as_bytes());
        record.facts.connect = begun.filter(|_| !reused).map(|begun| begun.elapsed());
    }
    reused
}

/// The answer as the client gets it.
fn answered(
    answer: Answer,
    upgrade: Option<&HeaderValue>,
    timer: Timer,
    mut exchange: Box<Exchange>,
) -> Result<Response<ResponseBody>, Failed> {
    let Answer { response, connection, stream } = answer;
    let (mut head, incoming) = response.into_parts();
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        return switched(head, connection, upgrade, exchange);
    }
    exchange.status = head.status.as_u16();
    headers::clean_response(&mut head.headers);
    head.version = Version::HTTP_11;
    head.extensions.clear();
    let connection = release_early(connection, &exchange);
    let timeout = exchange.read_timeout();
    Ok(Response::from_parts(head, ResponseBody::endpoint(incoming, (connection, stream), timer, timeout, exchange)))
}

/// A short answer has been read whole with its head: its connection is free before the client has the answer.
fn release_early(connection: Option<Box<Http1>>, exchange: &Exchange) -> Option<Box<Http1>> {
    let connection = connection?;
    match exchange.endpoint {
        Some(endpoint) if connection.is_ready() => {
            exchange.connection.worker.pools.release(endpoint, connection);
            None
        }
        _ => Some(connection),
    }
}

/// The endpoint agreed to upgrade: the tunnel begins when hyper has passed the 101 on.
fn switched(
    mut head: http::response::Parts,
    connection: Option<Box<Http1>>,
    upgrade: Option<&HeaderValue>,
    mut exchange: Box<Exchange>,
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
    let websocket = protocol.as_bytes().eq_ignore_ascii_case(b"websocket");
    headers::ask_upgrade(&mut head.headers, protocol);
    head.version = Version::HTTP_11;
    let client = exchange.connection.clone();
    let Some((io, read, open)) = connection.into_parts() else { return Err((Error::UpstreamFailed, exchange)) };
    *client.tunnel.borrow_mut() = Some(Pending { io, read, exchange, websocket, _open: open });
    Ok(Response::from_parts(head, ResponseBody::whole(Bytes::new(), None)))
}
