//! One worker: a thread with a runtime, sockets, connections to endpoints and counters of its own. With the
//! others it shares the table's pointer, which it looks at once a request, and the drain.

use std::cell::{Cell, RefCell};
use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::Cache;
use http::HeaderValue;
use ipnet::IpNet;
use rustls::ServerConfig;
use tokio::runtime::{Builder, LocalOptions};

use super::access_log::{AccessLog, WorkerLog};
use super::headers::Limits;
use super::listener::{self, Socket};
use super::overload::{Load, Pressure, Thresholds};
use super::retry::Buffers;
use super::seats::Seats;
use crate::clock::{Clock, TICK};
use crate::drain::{Drain, Phase};
use crate::filter::sweep_searchers;
use crate::memory::Memory;
use crate::metrics::{Side, WorkerCells};
use crate::model::Normalization;
use crate::table::{Current, Table};
use crate::upstream::{Logins, Pace, PoolSettings, Pools, Rounds};

/// How often a worker looks through its idle connections, and what it searches with, in ticks.
const SWEEP_TICKS: u64 = 10;

/// Pause between two warnings of a worker about the same, in ticks.
const WARNING_TICKS: u64 = 100;

/// More than mimalloc puts on one page with others.
const OWN_PAGE_BYTES: usize = 1024 * 1024;

/// What the operator decides for the hot path. Durations in ticks of the worker's clock.
#[derive(Debug, Clone)]
pub struct Settings {
    pub limits: Limits,
    pub normalization: Normalization,
    pub trusted_proxies: Vec<IpNet>,
    pub request_head_timeout: u64,
    pub idle_timeout: u64,
    pub handshake_timeout: Duration,
    pub request_body: Pace,
    pub response_write: Pace,
    pub upstream_read_timeout: u64,
    pub upstream_write_timeout: u64,
    pub tunnel_idle_timeout: u64,
    pub pools: PoolSettings,
    /// Most bytes of a request's body that are read before an endpoint is chosen, where a rule asks for it.
    pub whole_body_bytes_max: usize,
    /// Of the whole process.
    pub connections_max: usize,
    /// Of one worker.
    pub in_flight_max: u32,
    pub thresholds: Thresholds,
    pub generation_header: bool,
    /// A path whose requests panic, for tests.
    #[cfg(debug_assertions)]
    pub panic_at: Option<String>,
    /// A client whose connections do.
    #[cfg(debug_assertions)]
    pub panic_for: Option<std::net::IpAddr>,
    /// A path whose requests keep the worker from everything else.
    #[cfg(debug_assertions)]
    pub stall_at: Option<String>,
}

/// What a worker is given.
pub struct Start {
    pub settings: Arc<Settings>,
    pub current: Arc<Current>,
    pub cells: Arc<WorkerCells>,
    pub tls: Arc<ServerConfig>,
    pub log: Option<AccessLog>,
    pub drain: Arc<Drain>,
    /// One for all workers.
    pub logins: Arc<Logins>,
    pub memory: Arc<Memory>,
    /// Only if connections are limited by client.
    pub seats: Option<Arc<Seats>>,
    pub sockets: Vec<Socket>,
}

/// A table as a request holds it.
pub type Held = Rc<Arc<Table>>;

/// A worker's own things. Everything that runs on its thread holds this.
pub struct Worker {
    pub settings: Arc<Settings>,
    pub cells: Arc<WorkerCells>,
    pub tls: Arc<ServerConfig>,
    pub log: Option<WorkerLog>,
    pub drain: Arc<Drain>,
    pub logins: Arc<Logins>,
    pub clock: Rc<Clock>,
    pub rounds: Rc<Rounds>,
    pub pools: Pools,
    pub in_flight: Cell<u32>,
    /// Bodies that are read in large pieces.
    pub large_bodies: Cell<u32>,
    /// How much of what comes is turned away.
    pub pressure: Cell<Pressure>,
    /// What nobody uses is kept for a while longer.
    pub keeps_spare: Cell<bool>,
    /// Connections without a request end now.
    pub closes_idle: Cell<bool>,
    pub seats: Option<Arc<Seats>>,
    /// Connections beyond a limit that are being told so.
    pub told: Cell<u32>,
    /// When descriptors had run out and it was said.
    warned: Cell<Option<u64>>,
    /// For heads of requests that may be sent again.
    pub heads: Buffers,
    cache: RefCell<Cache<Arc<Current>, Arc<Table>>>,
    table: RefCell<Held>,
    generation: RefCell<(u64, HeaderValue)>,
}

/// Runs a worker on this thread until the process has drained.
pub fn run(start: Start) {
    let runtime = Builder::new_current_thread()
        .enable_io()
        .enable_time()
        // A worker with many ready connections still looks at its sockets often enough.
        .event_interval(31)
        .build_local(LocalOptions::default())
        .expect("a runtime needs only an epoll descriptor");
    runtime.block_on(async {
        let worker = Worker::new(&start);
        let rounds = worker.rounds.clone();
        tokio::task::spawn_local(async move { rounds.count().await });
        let accepting = listener::accept(worker.clone(), start.sockets);
        tokio::select! {
            () = accepting => {}
            () = tick(&worker, &start.memory) => {}
        }
    });
}

/// Moves the clock on, until the worker has nothing left to do.
async fn tick(worker: &Rc<Worker>, memory: &Memory) {
    let mut interval = tokio::time::interval(TICK);
    let (mut generation, mut load, mut turn) = (0, Load::default(), Turn::default());
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    interval.tick().await;
    loop {
        interval.tick().await;
        worker.clock.tick();
        worker.cells.beat();
        worker.weigh(&mut load, turn.lag(), memory.percent());
        if let Some(log) = &worker.log {
            log.tick();
        }
        // An idle worker takes up a new table too, or it would keep the old one alive.
        let table = worker.table();
        if table.generation != generation {
            generation = table.generation;
            worker.pools.retain(table.endpoint_epochs());
        }
        drop(table);
        if worker.clock.now().is_multiple_of(SWEEP_TICKS) {
            worker.pools.sweep(worker.keeps_spare.get());
            sweep_searchers();
            if !worker.keeps_spare.get() {
                give_memory_back();
            }
        }
        if worker.drain.phase() == Phase::Stopping {
            return;
        }
    }
}

/// How long a task that is ready waits for its turn. This thread's first future, which ticks, doesn't: the runtime
/// looks at it before all tasks, so that timeouts keep their time.
#[derive(Default)]
struct Turn {
    /// Since when a task waits.
    since: Rc<Cell<Option<Instant>>>,
    /// How long the last one did.
    last: Rc<Cell<Duration>>,
}

impl Turn {
    /// What the last task waited, or the one that still does; has another one wait.
    fn lag(&mut self) -> Duration {
        if let Some(since) = self.since.get() {
            return since.elapsed();
        }
        let begun = Instant::now();
        self.since.set(Some(begun));
        let (since, last) = (self.since.clone(), self.last.clone());
        tokio::task::spawn_local(async move {
            last.set(begun.elapsed());
            since.set(None);
        });
        self.last.get()
    }
}

/// Lets the system have what was freed a while ago. mimalloc looks for that when it frees a page, which a worker
/// whose clients have all become idle would not do again: so this takes one, of which nothing is touched, and frees
/// it.
fn give_memory_back() {
    drop(black_box(Vec::<u8>::with_capacity(OWN_PAGE_BYTES)));
}

impl Worker {
    fn new(start: &Start) -> Rc<Self> {
        let clock = Rc::new(Clock::default());
        let rounds = Rc::new(Rounds::default());
        let mut cache = Cache::new(start.current.clone());
        let table = Rc::new(cache.load().clone());
        Rc::new(Self {
            settings: start.settings.clone(),
            cells: start.cells.clone(),
            tls: start.tls.clone(),
            log: start.log.as_ref().map(AccessLog::worker),
            drain: start.drain.clone(),
            logins: start.logins.clone(),
            pools: Pools::new(start.settings.pools.clone(), clock.clone(), rounds.clone(), start.cells.clone()),
            clock,
            rounds,
            in_flight: Cell::new(0),
            large_bodies: Cell::new(0),
            pressure: Cell::default(),
            keeps_spare: Cell::new(false),
            closes_idle: Cell::new(false),
            seats: start.seats.clone(),
            told: Cell::new(0),
            warned: Cell::new(None),
            heads: Buffers::default(),
            cache: RefCell::new(cache),
            table: RefCell::new(table),
            generation: RefCell::new((0, HeaderValue::from_static("0"))),
        })
    }

    /// The table of now. Costs a look at one pointer; the count that clones of it share is this worker's own.
    pub fn table(&self) -> Held {
        let mut cache = self.cache.borrow_mut();
        let current = cache.load();
        let mut held = self.table.borrow_mut();
        if !Arc::ptr_eq(current, &held) {
            *held = Rc::new(current.clone());
        }
        held.clone()
    }

    /// Decides once a tick how much new work there is to be, and whether connections without any are to end: all
    /// look up then.
    fn weigh(&self, load: &mut Load, lag: Duration, memory: Option<u32>) {
        let verdict = load.observe(&self.settings.thresholds, lag, memory);
        let before = self.pressure.replace(verdict.pressure);
        match (before.is_none(), verdict.pressure.is_none()) {
            (true, false) => tracing::warn!(?lag, memory_percent = memory, "overloaded: new requests are turned away"),
            (false, true) => tracing::info!("no longer overloaded"),
            (true, true) | (false, false) => {}
        }
        self.keeps_spare.set(verdict.keeps_spare);
        self.cells.weighed(lag, verdict.pressure.thousandths());
        let at_end = self.drain.phase() >= Phase::Closing;
        let sweeps = verdict.closes_idle && self.clock.now().is_multiple_of(SWEEP_TICKS);
        let closed = self.closes_idle.replace(at_end || sweeps);
        if sweeps || at_end && !closed {
            self.clock.wake_all();
        }
    }

    /// Counts that no descriptor is free, and says so now and then.
    pub fn note_exhausted(&self, side: Side, error: &std::io::Error) {
        self.cells.exhausted[side as usize].add(1);
        let now = self.clock.now();
        if self.warned.get().is_none_or(|warned| now - warned >= WARNING_TICKS) {
            self.warned.set(Some(now));
            tracing::warn!(%error, "the process has no descriptor or memory left for a connection; what is open goes on");
        }
    }

    /// The table's number as a field value.
    pub fn generation_value(&self, generation: u64) -> HeaderValue {
        let mut value = self.generation.borrow_mut();
        if value.0 != generation {
            *value = (generation, HeaderValue::from(generation));
        }
        value.1.clone()
    }

    pub fn is_draining(&self) -> bool {
        self.drain.phase() >= Phase::Draining
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_what_a_task_waits_for_its_turn() {
        let busy = Duration::from_millis(20);
        let runtime = Builder::new_current_thread().build_local(LocalOptions::default()).expect("a runtime");
        runtime.block_on(async {
            let mut turn = Turn::default();
            tokio::task::spawn_local(async move { std::thread::sleep(busy) });
            assert_eq!(turn.lag(), Duration::ZERO, "the first look has nothing to go by");
            std::thread::sleep(busy);
            let waiting = turn.lag();
            assert!(waiting >= busy, "{waiting:?}, while it still waits");
            tokio::task::yield_now().await;
            let waited = turn.lag();
            assert!(waited >= 2 * busy, "{waited:?}, behind a task that took {busy:?}");
        });
    }
}
