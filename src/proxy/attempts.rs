//! What a request has been through on its way to an endpoint, and what follows from it: which endpoint is next, and
//! whether there is a next one. A rule's own `proxy-next-upstream` counts each endpoint that was asked, or could not
//! be; without one there is one more try for what an endpoint took and did not answer.

use std::time::Duration;

use http::StatusCode;

use super::body::Exchange;
use super::error::{Error, blame};
use super::retry::Kept;
use super::send::{Outgoing, SendError};
use super::session::Session;
use super::worker::Worker;
use crate::clock::ticks;
use crate::metrics::Side;
use crate::model::{Failure, Retry};
use crate::upstream::{ConnectError, Endpoint, Pools, SlotId, Upstream};

/// Most times that one request meets a connection that turns out to be closed before a new one is made for it.
const STALE_MAX: u8 = 3;

/// Most endpoints that one request waits for in vain to connect, unless its rule counts tries; refusals are cheap,
/// and not counted.
const CONNECT_TIMEOUTS_MAX: u8 = 3;

/// Most tries, if there are not more endpoints, whatever a rule says: those that failed are asked again at once.
const TRIES_MAX: u32 = 16;

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
    /// When the first try began, in ticks.
    begun: u64,
    /// The request, in case that it may be sent once more.
    kept: Option<Kept>,
    wants_fresh: bool,
    pub failure: Error,
}

impl Attempts {
    pub fn new(client: u64, session: Option<Box<Session>>, request: &Outgoing, worker: &Worker) -> Self {
        Self {
            client,
            session,
            unreached: Vec::new(),
            asked: Vec::new(),
            stale: 0,
            timeouts: 0,
            tries: 0,
            endpoints: 0,
            begun: worker.clock.now(),
            kept: request.as_ref().and_then(|request| worker.heads.keep(request)),
            wants_fresh: false,
            failure: Error::NoEndpoint,
        }
    }

    /// An endpoint could not be reached: nothing was sent, so that any method may go elsewhere.
    pub fn not_reached(&mut self, endpoint: SlotId, error: &ConnectError, exchange: &Exchange) -> Result<(), Error> {
        self.unreached.push(endpoint);
        let failure = match error {
            ConnectError::TimedOut(_) => Failure::Timeout,
            // It isn't the endpoint's fault, and no other could be reached either.
            ConnectError::Exhausted(error) => {
                exchange.connection.worker.note_exhausted(Side::Endpoint, error);
                return Err(Error::Exhausted);
            }
            ConnectError::Gone | ConnectError::Tcp(_) | ConnectError::Tls(_) | ConnectError::Http(_) => Failure::Error,
        };
        self.failure = if failure == Failure::Timeout { Error::ConnectTimeout } else { Error::ConnectFailed };
        self.timeouts = self.timeouts.saturating_add((failure == Failure::Timeout).into());
        if matches!(error, ConnectError::Gone) {
            return Ok(());
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
            SendError::TimedOut => (Failure::Timeout, Error::UpstreamTimeout),
        };
        let error = blame(exchange, error);
        if carrier.multiplexed && error == Error::UpstreamTimeout {
            // The connection may be dead without a word; those that are on it keep it.
            exchange.connection.worker.pools.forget_http2(carrier.endpoint, None);
        }
        let kept = match retry(exchange) {
            Some(retry) => {
                let goes_on = self.may_try(retry, failure, exchange);
                let harmless = matches!(failed, SendError::Refused);
                self.kept.take_if(|kept| goes_on && (harmless || retry.non_idempotent || kept.is_idempotent()))
            }
            None => self.kept.take_if(|kept| kept.may_follow(failed)),
        };
        let kept = kept.ok_or(error)?;
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
        let Some(kept) = self.kept.take_if(|kept| goes_on && (retry.non_idempotent || kept.is_idempotent())) else {
            return false;
        };
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

    /// The next endpoint: that of the session, or any. Those that were asked come last.
    pub fn pick<'u>(&mut self, upstream: &'u Upstream, pools: &Pools) -> Option<&'u Endpoint> {
        self.endpoints = u32::try_from(upstream.endpoints.len()).unwrap_or(u32::MAX);
        let Some(session) = &self.session else { return self.balance(upstream, pools) };
        let own = session.endpoint(upstream).filter(|endpoint| !self.passed(endpoint.slot.id()));
        let endpoint = own.or_else(|| self.balance(upstream, pools))?;
        self.session.iter_mut().for_each(|session| session.goes_to(upstream, endpoint));
        Some(endpoint)
    }

    fn balance<'u>(&self, upstream: &'u Upstream, pools: &Pools) -> Option<&'u Endpoint> {
        let without = |passed: &dyn Fn(SlotId) -> bool| -> Vec<usize> {
            (0..upstream.endpoints.len()).filter(|at| passed(upstream.endpoints[*at].slot.id())).collect()
        };
        let passed = match (&self.unreached[..], &self.asked[..]) {
            ([], []) => Vec::new(),
            _ => without(&|slot| self.passed(slot)),
        };
        let other = pools.pick(upstream, self.client, &passed);
        let index = other.or_else(|| {
            let unreached = || without(&|slot| self.unreached.contains(&slot));
            (!self.asked.is_empty()).then(|| pools.pick(upstream, self.client, &unreached()))?
        })?;
        Some(&upstream.endpoints[index])
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

fn retry(exchange: &Exchange) -> Option<&Retry> {
    exchange.forwarding.as_ref()?.rule.retry.as_ref()
}
