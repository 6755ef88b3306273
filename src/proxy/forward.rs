//! Sends a request to an endpoint and brings back the head of its answer. A request that never reached an
//! endpoint, because it could not be connected or a kept-alive connection was gone, is sent to another, whatever
//! its method; that is no retry. One that an endpoint took and did not answer is sent once more where
//! [`super::retry`] allows it.
#![expect(clippy::result_large_err, reason = "an exchange is moved in both cases; a box would be an allocation")]

use std::net::IpAddr;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Version, header};

use super::body::{Exchange, ResponseBody};
use super::error::Error;
use super::headers;
use super::retry::Kept;
use super::send::{Answer, Outgoing, SendError, send};
use super::session::Session;
use super::upgrade::Pending;
use super::worker::{Held, Worker};
use crate::clock::Timer;
use crate::filter::Login;
use crate::model::Protocol;
use crate::upstream::{Acquired, BodyFault, ConnectError, Endpoint, Http1, Pools, RequestBody, SlotId, Upstream};

/// Most times that one request meets a connection that turns out to be closed before a new one is made for it.
const STALE_MAX: usize = 3;

/// Most endpoints that one request waits for in vain to connect; refusals are cheap, and not counted.
const CONNECT_TIMEOUTS_MAX: usize = 3;

type Failed = (Error, Exchange);

/// Where a request goes: not the backend itself, so that a request that waits holds no table.
pub struct Plan {
    pub backend: SlotId,
    pub protocol: Protocol,
    /// The host that the client asked for, and `Host` for the endpoint, if that is another.
    pub host: HeaderValue,
    pub upstream_host: Option<HeaderValue>,
    /// What balances the request; the client's address without it.
    pub key: Option<u64>,
    /// The protocol that the connection is to be upgraded to.
    pub upgrade: Option<HeaderValue>,
    /// Only if the route has affinity.
    pub session: Option<Box<Session>>,
    /// Who has to be somebody first.
    pub login: Option<Box<Login>>,
}

/// What a request has been through.
struct Attempts {
    /// What balances it: the client's address.
    client: u64,
    session: Option<Box<Session>>,
    /// Endpoints that could not be reached.
    tried: Vec<SlotId>,
    /// Kept-alive connections that were gone.
    stale: usize,
    /// Endpoints that did not answer within the time to connect.
    timeouts: usize,
    /// The request, in case that it may be sent once more; gone once it was.
    kept: Option<Kept>,
    /// The endpoint that took the request and did not answer.
    broke: Option<Carrier>,
    failure: Error,
}

/// A connection, and whose it is.
struct Reached {
    acquired: Acquired,
    wants_latency: bool,
    carrier: Carrier,
}

/// What is known of a connection once a request has it.
#[derive(Clone, Copy)]
struct Carrier {
    endpoint: SlotId,
    reused: bool,
    multiplexed: bool,
}

pub async fn forward(
    table: Held,
    mut plan: Plan,
    request: &mut Outgoing,
    mut exchange: Exchange,
) -> Result<Response<ResponseBody>, Failed> {
    let connection = exchange.connection.clone();
    let worker = &connection.worker;
    let client = request.as_mut().map_or(0, |request| prepare(request, &plan, &mut exchange));
    let upgrade = plan.upgrade.as_ref().filter(|_| plan.protocol != Protocol::H2c);
    let timer = worker.clock.timer();
    let kept = request.as_ref().and_then(|request| worker.heads.keep(request));
    let mut attempts = Attempts::new(client, plan.session.take(), kept);
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
            Ok(answer) => {
                let latency = sent.map(|sent| sent.elapsed());
                if let Some(latency) = latency.filter(|_| wants_latency) {
                    worker.pools.observe(carrier.endpoint, latency);
                }
                if let Some(record) = &mut exchange.record {
                    record.upstream_head = latency;
                }
                if let Some(kept) = attempts.kept {
                    worker.heads.put_back(kept);
                }
                let secure = connection.secure;
                let cookie = attempts.session.and_then(|session| session.set_cookie(secure));
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

impl Attempts {
    fn new(client: u64, session: Option<Box<Session>>, kept: Option<Kept>) -> Self {
        let (tried, failure) = (Vec::new(), Error::NoEndpoint);
        Self { client, session, tried, stale: 0, timeouts: 0, kept, broke: None, failure }
    }

    /// Makes the request ready to be sent again, or says why it ends here.
    fn again(
        &mut self,
        failed: &SendError,
        carrier: Carrier,
        request: &mut Outgoing,
        exchange: &mut Exchange,
    ) -> Result<(), Error> {
        let worker = &exchange.connection.worker;
        let kept = self.kept.take_if(|kept| kept.may_follow(failed));
        let failure = match failed {
            SendError::Unsent => {
                exchange.leave_endpoint();
                // A kept-alive connection that was closed meanwhile says nothing of its endpoint.
                if carrier.reused {
                    self.stale += 1;
                } else {
                    self.tried.push(carrier.endpoint);
                }
                self.failure = Error::UpstreamFailed;
                return Ok(());
            }
            SendError::Refused => Error::UpstreamReset(h2::Reason::REFUSED_STREAM),
            SendError::Reset(reason) => Error::UpstreamReset(*reason),
            SendError::Broken | SendError::Invalid => Error::UpstreamFailed,
            SendError::TimedOut => Error::UpstreamTimeout,
        };
        if let Some(message) = kept.and_then(Kept::restore) {
            worker.cells.upstream_retries.add(1);
            if let Some(record) = &mut exchange.record {
                record.retried = true;
            }
            exchange.leave_endpoint();
            (self.broke, self.failure) = (Some(carrier), failure);
            *request = Some(message);
            return Ok(());
        }
        let error = blame(exchange, failure);
        if carrier.multiplexed && error == Error::UpstreamTimeout {
            // The connection may be dead without a word; those that are on it keep it.
            worker.pools.forget_http2(carrier.endpoint, None);
        }
        Err(error)
    }

    /// An endpoint that was not tried: that of the session, or any. The one that broke comes last.
    fn pick<'u>(&mut self, upstream: &'u Upstream, pools: &Pools) -> Option<&'u Endpoint> {
        let Some(session) = &self.session else { return self.balance(upstream, pools) };
        let broke = self.broke.map(|carrier| carrier.endpoint);
        let passed = |slot: SlotId| self.tried.contains(&slot) || broke == Some(slot);
        let own = session.endpoint(upstream).filter(|endpoint| !passed(endpoint.slot.id()));
        let endpoint = own.or_else(|| self.balance(upstream, pools))?;
        self.session.iter_mut().for_each(|session| session.goes_to(upstream, endpoint));
        Some(endpoint)
    }

    fn balance<'u>(&self, upstream: &'u Upstream, pools: &Pools) -> Option<&'u Endpoint> {
        let without = |broke: Option<SlotId>| -> Vec<usize> {
            let passed = |slot: SlotId| self.tried.contains(&slot) || broke == Some(slot);
            match (&self.tried[..], broke) {
                ([], None) => Vec::new(),
                _ => (0..upstream.endpoints.len()).filter(|at| passed(upstream.endpoints[*at].slot.id())).collect(),
            }
        };
        let broke = self.broke.map(|carrier| carrier.endpoint);
        let other = pools.pick(upstream, self.client, &without(broke));
        let index = other.or_else(|| broke.and_then(|_| pools.pick(upstream, self.client, &without(None))))?;
        Some(&upstream.endpoints[index])
    }

    /// Whether the request gets a new connection. There is but one more try, and one that is kept alive may be
    /// about to break like the one before; a shared one that broke is out of the pool.
    fn wants_fresh(&self) -> bool {
        self.stale >= STALE_MAX || self.broke.is_some_and(|carrier| !carrier.multiplexed)
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
        let Some(upstream) = table.upstream(backend) else { return Err(attempts.failure) };
        let Some(endpoint) = attempts.pick(upstream, &worker.pools) else { return Err(attempts.failure) };
        let begun = exchange.record.is_some().then(Instant::now);
        let acquired = match (alone, attempts.wants_fresh()) {
            (true, _) => worker.pools.connect_alone(upstream, endpoint).await,
            (false, true) => worker.pools.connect(upstream, endpoint).await,
            (false, false) => worker.pools.acquire(upstream, endpoint).await,
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
                attempts.tried.push(endpoint.slot.id());
                attempts.failure = Error::ConnectFailed;
                if let ConnectError::TimedOut(_) = error {
                    attempts.timeouts += 1;
                    attempts.failure = Error::ConnectTimeout;
                    if attempts.timeouts == CONNECT_TIMEOUTS_MAX {
                        return Err(attempts.failure);
                    }
                }
                table = worker.table();
            }
        }
    }
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
        record.request_id = Some(id);
        record.client = client;
    }
    fields.insert(header::HOST, plan.upstream_host.as_ref().unwrap_or(&plan.host).clone());
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
        record.endpoint = Some((*endpoint.label).into());
        record.connect = begun.filter(|_| !reused).map(|begun| begun.elapsed());
    }
    reused
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
    let timeout = exchange.connection.worker.settings.upstream_read_timeout;
    Ok(Response::from_parts(head, ResponseBody::endpoint(incoming, (connection, stream), timer, timeout, exchange)))
}

/// A short answer has been read whole with its head: its connection is free before the client has the answer.
fn release_early(connection: Option<Http1>, exchange: &Exchange) -> Option<Http1> {
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
    let Some((io, read, open)) = connection.into_parts() else { return Err((Error::UpstreamFailed, exchange)) };
    *client.tunnel.borrow_mut() = Some(Pending { io, read, exchange, _open: open });
    Ok(Response::from_parts(head, ResponseBody::whole(Bytes::new(), None)))
}
