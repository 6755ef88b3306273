//! What a request has been through on its way to an endpoint, and what follows from it: which endpoint is next, whether
//! there is a next one, and what it tells of the endpoints that it met. A rule's own `proxy-next-upstream` counts each
//! endpoint that was asked, or could not be; without one there is one more try for what an endpoint took and did not
//! answer.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, Response, StatusCode, header};

use super::error::{Error, blame};
use super::exchange::{Exchange, is_failure};
use super::retry::Kept;
use super::send::{Outgoing, SendError};
use super::session::Session;
use super::worker::Worker;
use crate::clock::ticks;
use crate::metrics::Side;
use crate::model::{Failure, Retry};
use crate::upstream::{Advice, ConnectError, Endpoint, SlotId, Upstream};

/// Most times that one request meets a connection that turns out to be closed before a new one is made for it.
const STALE_MAX: u8 = 3;

/// Most endpoints that one request waits for in vain to connect, unless its rule counts tries; refusals are cheap,
/// and not counted.
const CONNECT_TIMEOUTS_MAX: u8 = 3;

/// Most tries, if there are not more endpoints, whatever a rule says: those that failed are asked again at once.
const TRIES_MAX: u32 = 16;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// What is known of a connection once a request has it.
#[derive(Clone, Copy)]
pub struct Carrier {
    pub endpoint: SlotId,
    pub reused: bool,
    pub multiplexed: bool,
}

pub struct Attempts {
    /// What balances the request: the client's address.
    client: u64,
    backend: SlotId,
    pub session: Option<Box<Session>>,
    /// Endpoints that could not be reached.
    unreached: Vec<SlotId>,
    /// Endpoints that took the request, and whose answer was none, or not wanted.
    asked: Vec<SlotId>,
    /// Kept-alive connections that were gone.
    stale: u8,
    /// Endpoints that did not answer within the time to connect.
    timeouts: u8,
    /// Endpoints that failed, as a rule counts them.
    tries: u32,
    /// How many there are.
    endpoints: u32,
    /// When the first try began, and the last, in ticks.
    begun: u64,
    picked: u64,
    /// The request, in case that it may be sent once more.
    kept: Option<Kept>,
    /// The endpoint that had been left out, if this request finds out whether it is well again.
    trial: Option<Arc<Endpoint>>,
    wants_fresh: bool,
    pub failure: Error,
}

impl Attempts {
    pub fn new(
        client: u64,
        backend: SlotId,
        session: Option<Box<Session>>,
        request: &Outgoing,
        worker: &Worker,
    ) -> Self {
        Self {
            client,
            backend,
            session,
            unreached: Vec::new(),
            asked: Vec::new(),
            stale: 0,
            timeouts: 0,
            tries: 0,
            endpoints: 0,
            begun: worker.clock.now(),
            picked: worker.clock.now(),
            kept: request.as_ref().and_then(|request| worker.heads.keep(request)),
            trial: None,
            wants_fresh: false,
            failure: Error::NoEndpoint,
        }
    }

    /// An endpoint could not be reached: nothing was sent, so that any method may go elsewhere.
    pub fn not_reached(
        &mut self,
        upstream: &Upstream,
        endpoint: &Endpoint,
        error: &ConnectError,
        exchange: &Exchange,
    ) -> Result<(), Error> {
        let worker = &exchange.connection.worker;
        self.unreached.push(endpoint.slot.id());
        let failure = match error {
            ConnectError::Crowded => {
                worker.cells.circuit_refused.add(1);
                return Err(Error::CircuitOpen);
            }
            ConnectError::TimedOut(_) => Failure::Timeout,
            // It isn't the endpoint's fault, and no other could be reached either.
            ConnectError::Exhausted(error) => {
                worker.note_exhausted(Side::Endpoint, error);
                return Err(Error::Exhausted);
            }
            ConnectError::Gone | ConnectError::Tcp(_) | ConnectError::Tls(_) | ConnectError::Http(_) => Failure::Error,
        };
        let on_trial = self.ends_trial(endpoint.slot.id());
        self.failure = if failure == Failure::Timeout { Error::ConnectTimeout } else { Error::ConnectFailed };
        self.timeouts = self.timeouts.saturating_add((failure == Failure::Timeout).into());
        if matches!(error, ConnectError::Gone) {
            return Ok(());
        }
        let late = failure == Failure::Timeout && exchange.is_late();
        if !late || self.had_its_time(exchange) {
            worker.pools.failed(upstream, endpoint, on_trial);
        }
        if late {
            return Err(Error::RequestTimeout);
        }
        let goes_on = match retry(exchange) {
            Some(retry) => self.may_try(retry, failure, exchange),
            None => self.timeouts < CONNECT_TIMEOUTS_MAX,
        };
        if goes_on { Ok(()) } else { Err(self.failure) }
    }

    /// Makes the request ready to be sent again, or says why it ends here.
    pub fn again(
        &mut self,
        failed: &SendError,
        carrier: Carrier,
        request: &mut Outgoing,
        exchange: &mut Exchange,
    ) -> Result<(), Error> {
        let (failure, error) = match failed {
            SendError::Unsent => return self.unsent(carrier, exchange),
            SendError::Refused => (Failure::Error, Error::UpstreamReset(h2::Reason::REFUSED_STREAM)),
            SendError::Reset(reason) => (Failure::Error, Error::UpstreamReset(*reason)),
            SendError::Broken => (Failure::Error, Error::UpstreamFailed),
            SendError::Invalid => (Failure::InvalidHeader, Error::UpstreamFailed),
            SendError::TimedOut if exchange.is_late() => (Failure::Timeout, Error::RequestTimeout),
            SendError::TimedOut => (Failure::Timeout, Error::UpstreamTimeout),
        };
        let blamed = blame(exchange, error);
        let late = error == Error::RequestTimeout;
        // Then an endpoint that ends the connection need not be at fault.
        let stalls = exchange.watch.as_ref().is_some_and(|watch| watch.waiting.get());
        let sent = || exchange.watch.as_ref().is_none_or(|watch| watch.ended.get());
        if blamed == error && says_failure(failed, stalls) && (!late || sent() && self.had_its_time(exchange)) {
            self.note_failure(carrier.endpoint, &exchange.connection.worker);
        }
        let error = blamed;
        if carrier.multiplexed && matches!(error, Error::UpstreamTimeout | Error::RequestTimeout) {
            // The connection may be dead without a word; those that are on it keep it.
            exchange.connection.worker.pools.forget_http2(carrier.endpoint, None);
        }
        if late {
            return Err(error);
        }
        // What an endpoint did nothing with goes on like what never reached one.
        let harmless = matches!(failed, SendError::Refused);
        let kept = match retry(exchange) {
            Some(retry) => {
                let goes_on = self.may_try(retry, failure, exchange);
                self.kept.take_if(|kept| goes_on && (harmless || retry.non_idempotent || kept.is_idempotent()))
            }
            None => self.kept.take_if(|kept| kept.may_follow(failed)),
        };
        let kept = kept.filter(|_| harmless || self.takes_retry(&exchange.connection.worker)).ok_or(error)?;
        self.failure = error;
        // One that is kept alive may be about to break like this one; a shared one that broke is out of the pool.
        self.wants_fresh |= !carrier.multiplexed;
        exchange.leave_endpoint();
        self.send_again(kept, carrier, request, exchange).ok_or(error)
    }

    /// The same after an answer that the rule does not want; says whether it may be dropped.
    pub fn passes_over(
        &mut self,
        status: StatusCode,
        carrier: Carrier,
        request: &mut Outgoing,
        exchange: &mut Exchange,
    ) -> bool {
        let Some(retry) = retry(exchange).filter(|_| status.is_client_error() || status.is_server_error()) else {
            return false;
        };
        let goes_on = self.may_try(retry, Failure::Status(status.as_u16()), exchange);
        let kept = self.kept.take_if(|kept| goes_on && (retry.non_idempotent || kept.is_idempotent()));
        let Some(kept) = kept.filter(|_| self.takes_retry(&exchange.connection.worker)) else { return false };
        self.failure = Error::Answered(status);
        self.send_again(kept, carrier, request, exchange).is_some()
    }

    fn unsent(&mut self, carrier: Carrier, exchange: &mut Exchange) -> Result<(), Error> {
        exchange.leave_endpoint();
        self.failure = Error::UpstreamFailed;
        // A kept-alive connection that was closed meanwhile says nothing of its endpoint.
        if carrier.reused {
            self.stale = self.stale.saturating_add(1);
            return Ok(());
        }
        self.note_failure(carrier.endpoint, &exchange.connection.worker);
        self.unreached.push(carrier.endpoint);
        match retry(exchange) {
            Some(retry) if !self.may_try(retry, Failure::Error, exchange) => Err(self.failure),
            Some(_) | None => Ok(()),
        }
    }

    /// Counts a try that failed and says whether the rule allows another.
    fn may_try(&mut self, retry: &Retry, failure: Failure, exchange: &Exchange) -> bool {
        self.tries += 1;
        let max = match retry.tries {
            0 => self.endpoints,
            tries => tries.min(self.endpoints.max(TRIES_MAX)),
        };
        let since = exchange.connection.worker.clock.now() - self.begun;
        let in_time = retry.timeout_seconds.is_none_or(|seconds| since < ticks(Duration::from_secs(seconds.into())));
        retry.on.contains(&failure) && self.tries < max && in_time
    }

    fn send_again(
        &mut self,
        kept: Kept,
        carrier: Carrier,
        request: &mut Outgoing,
        exchange: &mut Exchange,
    ) -> Option<()> {
        let worker = &exchange.connection.worker;
        let message = kept.restore()?;
        worker.cells.upstream_retries.add(1);
        if retry(exchange).is_some() {
            self.kept = worker.heads.keep(&message);
        }
        if let Some(record) = &mut exchange.record {
            record.facts.retried = true;
        }
        self.asked.push(carrier.endpoint);
        *request = Some(message);
        Some(())
    }

    /// An answer's head came: what it says of the endpoint.
    pub fn heard<B>(&mut self, response: &Response<B>, carrier: Carrier, exchange: &mut Exchange) {
        let unavailable = carrier.multiplexed && is_unavailable(response.headers());
        if unavailable {
            // That was all of its answer, and is none that speaks for it.
            exchange.leave_endpoint();
        }
        if unavailable || is_failure(response.status().as_u16()) {
            self.note_failure(carrier.endpoint, &exchange.connection.worker);
        } else if let Some(endpoint) = self.trial.take() {
            tracing::info!(endpoint = %endpoint.label, "is well again");
            endpoint.health.passed();
        }
    }

    /// Whether an endpoint that was waited for until the request's time was over had half of it at the least. Else that
    /// says nothing of it.
    fn had_its_time(&self, exchange: &Exchange) -> bool {
        let had = exchange.connection.worker.clock.now() - self.picked;
        exchange.request_timeout().is_none_or(|limit| 2 * had >= ticks(limit))
    }

    /// An endpoint that took the request failed. Nothing waits with a table, so that it is looked up in that of now.
    fn note_failure(&mut self, endpoint: SlotId, worker: &Worker) {
        let on_trial = self.ends_trial(endpoint);
        let table = worker.table();
        if let Some(upstream) = table.upstream(self.backend)
            && let Some(endpoint) = upstream.endpoint(endpoint)
        {
            worker.pools.failed(upstream, endpoint, on_trial);
        }
    }

    /// Whether the backend may be sent one more request once more.
    fn takes_retry(&self, worker: &Worker) -> bool {
        worker.table().upstream(self.backend).is_some_and(|upstream| worker.pools.takes_retry(upstream))
    }

    /// Whether this was the endpoint's trial, which is over.
    fn ends_trial(&mut self, endpoint: SlotId) -> bool {
        self.trial.take_if(|trial| trial.slot.id() == endpoint).is_some()
    }

    /// The next endpoint: that of the session, or any. Those that were asked come last.
    pub fn pick<'u>(&mut self, upstream: &'u Upstream, worker: &Worker) -> Option<&'u Endpoint> {
        if self.endpoints == 0 {
            worker.pools.came(upstream);
        }
        self.endpoints = u32::try_from(upstream.endpoints.len()).unwrap_or(u32::MAX);
        self.picked = worker.clock.now();
        let Some(session) = &self.session else { return self.balance(upstream, worker) };
        let own = session.endpoint(upstream).filter(|endpoint| !self.passed(endpoint.slot.id()));
        let own = own.filter(|endpoint| self.takes(upstream, endpoint));
        let endpoint = own.or_else(|| self.balance(upstream, worker))?;
        self.session.iter_mut().for_each(|session| session.goes_to(upstream, endpoint));
        Some(endpoint)
    }

    /// Whether a session's endpoint is well enough for it.
    fn takes(&mut self, upstream: &Upstream, endpoint: &Endpoint) -> bool {
        let (takes, on_trial) = upstream.takes(endpoint);
        if on_trial {
            self.trial = upstream.endpoint(endpoint.slot.id()).cloned();
        }
        takes
    }

    fn balance<'u>(&mut self, upstream: &'u Upstream, worker: &Worker) -> Option<&'u Endpoint> {
        let pools = &worker.pools;
        let without = |passed: &dyn Fn(SlotId) -> bool| -> Vec<usize> {
            (0..upstream.endpoints.len()).filter(|at| passed(upstream.endpoints[*at].slot.id())).collect()
        };
        let passed = match (&self.unreached[..], &self.asked[..]) {
            ([], []) => Vec::new(),
            _ => without(&|slot| self.passed(slot)),
        };
        if !upstream.is_at_rest()
            && let Some(index) = self.advised(upstream, &passed, worker)
        {
            return Some(&upstream.endpoints[index]);
        }
        // Of those that are not well, where they are all that is left.
        let other = pools.pick(upstream, self.client, &passed);
        let index = other.or_else(|| {
            let unreached = || without(&|slot| self.unreached.contains(&slot));
            (!self.asked.is_empty()).then(|| pools.pick(upstream, self.client, &unreached()))?
        })?;
        Some(&upstream.endpoints[index])
    }

    /// One of those that are well.
    fn advised(&mut self, upstream: &Upstream, passed: &[usize], worker: &Worker) -> Option<usize> {
        let Advice { avoid, trial, panics } = upstream.advise(passed);
        if panics {
            worker.cells.panics.add(1);
        }
        if let Some(index) = trial {
            self.trial = Some(upstream.endpoints[index].clone());
            return trial;
        }
        worker.pools.pick(upstream, self.client, &[passed, &avoid].concat())
    }

    fn passed(&self, slot: SlotId) -> bool {
        self.unreached.contains(&slot) || self.asked.contains(&slot)
    }

    /// Whether the request gets a new connection.
    pub fn wants_fresh(&self) -> bool {
        self.stale >= STALE_MAX || self.wants_fresh
    }

    /// The request is answered.
    pub fn end(self, worker: &Worker) -> Option<Box<Session>> {
        if let Some(kept) = self.kept {
            worker.heads.put_back(kept);
        }
        self.session
    }
}

/// Whether a gRPC server says in the head of its answer, which is all of it then, that it can't serve now: status 14
/// (gRPC over HTTP/2, "Trailers-Only"). A proxy in front of it would have said 503.
fn is_unavailable(fields: &HeaderMap) -> bool {
    fields.get(GRPC_STATUS).is_some_and(|status| status == "14")
        && fields.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Whether an error tells of an endpoint that is not well. One that refuses a stream, or resets it for a reason of
/// its own, is; and so is one that has had enough of a request whose client `stalls`.
fn says_failure(error: &SendError, stalls: bool) -> bool {
    match error {
        SendError::Broken => !stalls,
        SendError::Invalid | SendError::TimedOut => true,
        SendError::Reset(reason) => *reason == h2::Reason::INTERNAL_ERROR,
        SendError::Unsent | SendError::Refused => false,
    }
}

fn retry(exchange: &Exchange) -> Option<&Retry> {
    exchange.forwarding.as_ref()?.rule.retry.as_ref()
}
