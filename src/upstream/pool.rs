//! One worker's connections to endpoints, by slot: idle HTTP/1.1 connections, last used first, and one shared
//! HTTP/2 connection each; requests in flight and latency, for balancing. Lives on one thread, needs no lock.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::budget::{Budget, BudgetSettings};
use super::connect::{Connected, connect};
use super::outcomes::Outcomes;
use super::{ConnectError, Endpoint, Http1, Http2, Rounds, Slot, SlotId, Upstream};
use crate::balance::{Latency, Load, Request};
use crate::clock::Clock;
use crate::metrics::WorkerCells;
use crate::model::Protocol;
use crate::tls::EndpointTls;

#[derive(Debug, Clone)]
pub struct PoolSettings {
    pub connect_timeout: Duration,
    /// Idle connections are closed after so many ticks.
    pub idle_ticks: u64,
    /// Most idle connections kept for one endpoint by one worker; those beyond go when they were idle for
    /// [`SPARE_TICKS`]. None are kept at 0.
    pub idle_max: usize,
    pub retry_budget: BudgetSettings,
}

/// Connections beyond those that are kept: under load they are soon wanted again, and closing each only to make it
/// anew costs more than the request did.
const SPARE_TICKS: u64 = 10;

/// Requests on one HTTP/2 connection before another is made; most servers allow 100 or more.
const STREAMS_MAX: usize = 100;

pub struct Pools {
    settings: PoolSettings,
    clock: Rc<Clock>,
    rounds: Rc<Rounds>,
    cells: Arc<WorkerCells>,
    endpoints: RefCell<Vec<Pool>>,
    /// By the backend's slot.
    backends: RefCell<Vec<Count>>,
}

/// What a worker counts of one backend.
#[derive(Default)]
struct Count {
    epoch: u64,
    /// Endpoints that were picked in turn.
    turn: u32,
    requests: u64,
    retries: Budget,
}

/// What a worker has of one endpoint.
#[derive(Default)]
struct Pool {
    epoch: u64,
    /// In the order of `since`.
    idle: Vec<Idle>,
    http2: Vec<Http2>,
    /// A TLS endpoint chose HTTP/1.1 the last time.
    plain: bool,
    /// When the last request of the endpoint ended, in ticks.
    used: u64,
    /// Held while an HTTP/2 connection is being made, so that a burst makes one and shares it.
    connecting: Rc<tokio::sync::Mutex<()>>,
    in_flight: u32,
    latency: Option<Latency>,
    outcomes: Outcomes,
}

struct Idle {
    connection: Box<Http1>,
    since: u64,
}

/// A connection to send a request over.
pub enum Acquired {
    Http1 { connection: Box<Http1>, reused: bool },
    Http2 { connection: Http2, reused: bool },
}

impl Pools {
    pub fn new(settings: PoolSettings, clock: Rc<Clock>, rounds: Rc<Rounds>, cells: Arc<WorkerCells>) -> Self {
        Self { settings, clock, rounds, cells, endpoints: RefCell::default(), backends: RefCell::default() }
    }

    /// Picks an endpoint by the backend's policy: its index, unless all were tried.
    pub fn pick(&self, upstream: &Upstream, key: u64, tried: &[usize]) -> Option<usize> {
        let turn = self.turn(&upstream.slot);
        if let [_] = upstream.endpoints[..] {
            return tried.is_empty().then_some(0);
        }
        let now = upstream.balancer.wants_latency().then(Instant::now);
        let load = |index: usize| self.load(&upstream.endpoints[index].slot, now);
        upstream.balancer.pick(&Request { turn, random: fastrand::u64(..), key, tried, load: &load })
    }

    /// A new connection, or one that another request makes meanwhile, where the protocol allows to share it.
    pub async fn share(
        &self,
        upstream: &Upstream,
        endpoint: &Endpoint,
        limit: Duration,
    ) -> Result<Acquired, ConnectError> {
        let multiplexes = matches!(upstream.protocol, Protocol::H2c | Protocol::Tls);
        let (connecting, plain) = self.with(&endpoint.slot, |pool| (pool.connecting.clone(), pool.plain));
        if !multiplexes || plain {
            return self.connect(upstream, endpoint, limit).await;
        }
        let Ok(one_at_a_time) = tokio::time::timeout(limit, connecting.lock()).await else {
            return Err(ConnectError::TimedOut(limit));
        };
        if let Some(acquired) = self.open(&endpoint.slot) {
            return Ok(acquired);
        }
        // Whoever was first may have found that there is nothing to share: then nobody waits for another.
        let waits = (!self.with(&endpoint.slot, |pool| pool.plain)).then_some(one_at_a_time);
        let connected = self.connect(upstream, endpoint, limit).await;
        drop(waits);
        connected
    }

    /// An open connection, if there is one.
    pub fn open(&self, slot: &Slot) -> Option<Acquired> {
        self.with(slot, |pool| {
            if let Some(idle) = pool.idle.pop() {
                return Some(Acquired::Http1 { connection: idle.connection, reused: true });
            }
            pool.http2.retain(|http2| !http2.sender.is_closed());
            let free = pool.http2.iter().find(|http2| Rc::strong_count(&http2.stream) <= STREAMS_MAX);
            free.cloned().map(|connection| Acquired::Http2 { connection, reused: true })
        })
    }

    /// A new connection, with HTTP/1.1 where the endpoint speaks it, for a request that must have its own.
    pub async fn connect_alone(
        &self,
        upstream: &Upstream,
        endpoint: &Endpoint,
        limit: Duration,
    ) -> Result<Acquired, ConnectError> {
        let plain = self.with(&endpoint.slot, |pool| pool.plain);
        let made = self.make(upstream, endpoint, upstream.tls.as_ref().map(|tls| &tls.http1), limit).await;
        // It was not asked what it would choose.
        self.with(&endpoint.slot, |pool| pool.plain = plain);
        made
    }

    /// A new connection.
    pub async fn connect(
        &self,
        upstream: &Upstream,
        endpoint: &Endpoint,
        limit: Duration,
    ) -> Result<Acquired, ConnectError> {
        self.make(upstream, endpoint, upstream.tls.as_ref().map(|tls| &tls.any), limit).await
    }

    async fn make(
        &self,
        upstream: &Upstream,
        endpoint: &Endpoint,
        tls: Option<&EndpointTls>,
        limit: Duration,
    ) -> Result<Acquired, ConnectError> {
        let connected = connect(endpoint, upstream.protocol, tls, limit, (&self.rounds, &self.cells)).await;
        match connected {
            Ok(Connected::Http1(connection)) => {
                self.with(&endpoint.slot, |pool| pool.plain = upstream.protocol == Protocol::Tls);
                Ok(Acquired::Http1 { connection, reused: false })
            }
            Ok(Connected::Http2(connection)) => {
                self.with(&endpoint.slot, |pool| {
                    pool.http2.push(connection.clone());
                    pool.plain = false;
                    pool.used = self.clock.now();
                });
                Ok(Acquired::Http2 { connection, reused: false })
            }
            Err(error) => {
                self.cells.upstream_connect_failures.add(1);
                Err(error)
            }
        }
    }

    /// Takes back an HTTP/1.1 connection that is ready for the next request, and closes any other.
    pub fn release(&self, endpoint: SlotId, connection: Box<Http1>) {
        if !connection.is_ready() {
            return;
        }
        // The next request, or the sweep, looks again.
        connection.leave();
        let since = self.clock.now();
        if self.settings.idle_max > 0 {
            self.with_living(endpoint, |pool| pool.idle.push(Idle { connection, since }));
        }
    }

    /// Has the endpoint's HTTP/2 connections, or one of them, end with the requests that are on it.
    pub fn forget_http2(&self, endpoint: SlotId, one: Option<&Http2>) {
        let kept = |http2: &Http2| one.is_some_and(|one| !Rc::ptr_eq(&one.stream, &http2.stream));
        self.with_living(endpoint, |pool| pool.http2.retain(kept));
    }

    /// Counts a request to the endpoint until it is told to have ended.
    pub fn begin(&self, slot: &Slot) {
        self.with(slot, |pool| pool.in_flight += 1);
    }

    /// `answered` is whether the endpoint did, with more than word of a failure.
    pub fn end(&self, endpoint: SlotId, answered: bool) {
        let now = self.clock.now();
        self.with_living(endpoint, |pool| {
            pool.in_flight -= 1;
            pool.used = now;
            if answered {
                pool.outcomes.answered();
            }
        });
    }

    /// The endpoint failed: it could not be reached, or did not answer, or said that it could not. Where this is once
    /// too often, or was its trial, all workers leave it alone for a while.
    pub fn failed(&self, upstream: &Upstream, endpoint: &Endpoint, on_trial: bool) {
        let now = self.clock.now();
        let row_max = upstream.outliers.failures;
        let too_often = self.with(&endpoint.slot, |pool| pool.outcomes.failed(now, row_max));
        if too_often || on_trial {
            upstream.eject(endpoint, on_trial);
        }
    }

    /// Notes how long an endpoint took to answer.
    pub fn observe(&self, endpoint: SlotId, latency: Duration) {
        let now = Instant::now();
        self.with_living(endpoint, |pool| {
            pool.latency.get_or_insert_with(|| Latency::new(now)).observe(latency, now);
        });
    }

    /// Closes connections that were idle too long, are too many unless such are kept, or that the endpoint has closed.
    pub fn sweep(&self, keeps_spare: bool) {
        let now = self.clock.now();
        for pool in self.endpoints.borrow_mut().iter_mut() {
            let spare = if keeps_spare { 0 } else { pool.idle.len().saturating_sub(self.settings.idle_max) };
            let mut nth = 0;
            pool.idle.retain_mut(|idle| {
                nth += 1;
                let kept = self.settings.idle_ticks;
                let ticks = if nth <= spare { kept.min(SPARE_TICKS) } else { kept };
                now - idle.since < ticks && idle.connection.poll_drive().is_pending()
            });
            let idle = pool.in_flight == 0 && now - pool.used >= self.settings.idle_ticks;
            pool.http2.retain(|http2| !idle && !http2.sender.is_closed());
        }
    }

    /// Closes what the table does not name: `epochs` are those of its endpoints, by slot. Requests that are under
    /// way keep what they hold.
    pub fn retain(&self, epochs: &[u64]) {
        for (index, pool) in self.endpoints.borrow_mut().iter_mut().enumerate() {
            if epochs.get(index) != Some(&pool.epoch) {
                pool.idle = Vec::new();
                pool.http2 = Vec::new();
            }
        }
    }

    fn load(&self, slot: &Slot, now: Option<Instant>) -> Load {
        self.with(slot, |pool| Load {
            in_flight: pool.in_flight,
            latency: now.zip(pool.latency).map_or(0.0, |(now, latency)| latency.microseconds(now)),
        })
    }

    fn turn(&self, slot: &Slot) -> u32 {
        self.with_count(slot, |count| {
            count.turn = count.turn.wrapping_add(1);
            count.turn
        })
    }

    /// Counts a request to the backend.
    pub fn came(&self, upstream: &Upstream) {
        self.with_count(&upstream.slot, |count| count.requests += 1);
    }

    /// Takes one of the backend's requests that may be sent once more.
    pub fn takes_retry(&self, upstream: &Upstream) -> bool {
        let under_way =
            upstream.endpoints.iter().map(|endpoint| self.with(&endpoint.slot, |pool| pool.in_flight)).sum();
        let (settings, now) = (self.settings.retry_budget, self.clock.now());
        let left =
            self.with_count(&upstream.slot, |count| count.retries.take(settings, now, count.requests, under_way));
        if !left {
            self.cells.retry_budget_exhausted.add(1);
        }
        left
    }

    fn with_count<T>(&self, slot: &Slot, act: impl FnOnce(&mut Count) -> T) -> T {
        let mut backends = self.backends.borrow_mut();
        if backends.len() <= slot.index {
            backends.resize_with(slot.index + 1, Count::default);
        }
        let count = &mut backends[slot.index];
        if count.epoch != slot.epoch {
            // Each worker starts at a place of its own, so that together they don't favour the first endpoint.
            *count = Count { epoch: slot.epoch, turn: fastrand::u32(..), ..Count::default() };
        }
        act(count)
    }

    /// The pool of a slot, unless it has begun another life.
    fn with_living(&self, slot: SlotId, act: impl FnOnce(&mut Pool)) {
        let mut endpoints = self.endpoints.borrow_mut();
        if let Some(pool) = endpoints.get_mut(slot.index).filter(|pool| pool.epoch == slot.epoch) {
            act(pool);
        }
    }

    /// The pool of a slot; an earlier life's is emptied first.
    fn with<T>(&self, slot: &Slot, act: impl FnOnce(&mut Pool) -> T) -> T {
        let mut endpoints = self.endpoints.borrow_mut();
        if endpoints.len() <= slot.index {
            endpoints.resize_with(slot.index + 1, Pool::default);
        }
        let pool = &mut endpoints[slot.index];
        if pool.epoch != slot.epoch {
            *pool = Pool { epoch: slot.epoch, ..Pool::default() };
        }
        act(pool)
    }
}
