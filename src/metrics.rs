//! What is counted. Each worker counts in cells of its own, which no other thread writes; a scrape adds them up
//! (OpenMetrics 1.0). The number of series is bounded: routes beyond the limit share one, `route="other"`.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Most routes with a series of their own, one an Ingress.
pub const ROUTES_MAX: usize = 4096;
const CHUNK: usize = 256;
/// Status classes: 1xx to 5xx.
const CLASSES: usize = 5;
/// Upper bounds of the duration histogram, in seconds.
const BOUNDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// A counter that one thread writes and any thread reads: no locked instruction.
#[derive(Debug, Default)]
pub struct Cell(AtomicU64);

impl Cell {
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A route's place in the cells. 0 is `other`: requests without a route, and routes beyond the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteId(u32);

impl RouteId {
    pub const OTHER: Self = Self(0);
}

type RouteCells = [Cell; CLASSES];

/// The cells of one worker.
#[derive(Debug, Default)]
pub struct WorkerCells {
    /// Milliseconds from the start of the process to the worker's last tick.
    beat: AtomicU64,
    started: Option<Instant>,
    routes: Vec<OnceLock<Box<[RouteCells]>>>,
    buckets: [Cell; BOUNDS.len() + 1],
    duration_nanoseconds: Cell,
    pub accepted: [Cell; 2],
    pub closed: [Cell; 2],
    pub refused: [Cell; REFUSALS.len()],
    /// Requests that were turned away, by priority.
    pub shed: [Cell; PRIORITIES.len()],
    pub exhausted: [Cell; SIDES.len()],
    /// How late the worker's last tick was, and how much it turns away.
    lag_microseconds: AtomicU64,
    pressure: AtomicU64,
    pub handshakes_failed: Cell,
    pub proxy_protocol_failed: Cell,
    pub upstream_connections: Cell,
    pub upstream_connections_closed: Cell,
    pub upstream_connect_failures: Cell,
    pub upstream_requests: Cell,
    pub upstream_reused: Cell,
    pub upstream_retries: Cell,
    pub retry_budget_exhausted: Cell,
    pub circuit_refused: Cell,
    pub request_timeouts: Cell,
    pub panics: Cell,
    pub tunnels_opened: Cell,
    pub tunnels_closed: Cell,
    pub request_bytes: Cell,
    pub response_bytes: Cell,
    /// By [`SIDES`].
    pub floods: [Cell; 2],
}

/// Which kind of listener a connection came through: an index of [`WorkerCells::accepted`].
pub const LISTENERS: [&str; 2] = ["http", "https"];

/// Why a connection was refused: an index of [`WorkerCells::refused`].
pub const REFUSALS: [&str; 3] = ["total", "client", "overload"];

/// An index of [`WorkerCells::shed`].
const PRIORITIES: [&str; 3] = ["low", "normal", "high"];

/// Whose connection it is: an index of [`WorkerCells::floods`] and [`WorkerCells::exhausted`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Client,
    Endpoint,
}

const SIDES: [&str; 2] = ["client", "endpoint"];

/// Why a line of the access log is missing: an index of [`Metrics::log_dropped`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    QueueFull,
    NotWritten,
}

const DROPPED: [&str; 2] = ["queue_full", "not_written"];

/// Where to the system's time was set.
const DIRECTIONS: [&str; 2] = ["ahead", "back"];

impl WorkerCells {
    fn new() -> Self {
        Self {
            started: Some(Instant::now()),
            routes: (0..ROUTES_MAX.div_ceil(CHUNK)).map(|_| OnceLock::new()).collect(),
            ..Self::default()
        }
    }

    /// Notes that the worker moves.
    pub fn beat(&self) {
        self.beat.store(self.milliseconds(), Ordering::Relaxed);
    }

    /// Notes what a tick found.
    pub fn weighed(&self, lag: Duration, pressure: u64) {
        self.lag_microseconds.store(u64::try_from(lag.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.pressure.store(pressure, Ordering::Relaxed);
    }

    fn milliseconds(&self) -> u64 {
        self.started.map_or(0, |started| u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// Counts a request that is over.
    pub fn request(&self, route: RouteId, status: u16, duration: Duration) {
        let index = route.0 as usize;
        let chunk = self.routes[index / CHUNK].get_or_init(|| (0..CHUNK).map(|_| RouteCells::default()).collect());
        let class = usize::from(status / 100).clamp(1, CLASSES) - 1;
        chunk[index % CHUNK][class].add(1);
        let seconds = duration.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.buckets[bucket].add(1);
        self.duration_nanoseconds.add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }
}

/// Everything that is counted in the process.
#[derive(Debug, Default)]
pub struct Metrics {
    workers: Mutex<Vec<Arc<WorkerCells>>>,
    route_ids: Mutex<HashMap<String, u32>>,
    pub generation: AtomicU64,
    pub tables_alive: AtomicI64,
    pub problems: AtomicU64,
    pub log_dropped: [AtomicU64; DROPPED.len()],
    /// 1 if the table may be behind the cluster.
    pub stale: AtomicU64,
    /// 1 if this replica writes status and Events.
    pub leader: AtomicU64,
    pub watch_failures: AtomicU64,
    pub panics: AtomicU64,
    /// Endpoints that are left out now because they failed, and how often one was.
    pub endpoints_ejected: AtomicI64,
    pub ejections: AtomicU64,
    /// Endpoints whose checks fail now, and checks.
    pub endpoints_failing: AtomicI64,
    /// Endpoints in their slow start, at the last scrape.
    pub endpoints_warming: AtomicU64,
    pub health_checks: AtomicU64,
    pub health_checks_failed: AtomicU64,
    /// Of the memory limit, what is in use; 0 without one.
    pub memory_percent: AtomicU64,
    /// Look-ups of external names that failed.
    pub name_failures: AtomicU64,
    clock_jumps: [AtomicU64; DIRECTIONS.len()],
}

impl Metrics {
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Cells for one more worker.
    pub fn worker(&self) -> Arc<WorkerCells> {
        let cells = Arc::new(WorkerCells::new());
        self.workers.lock().expect("no holder panics").push(cells.clone());
        cells
    }

    /// Counts that the system's time was set.
    pub fn clock_jumped(&self, ahead: bool) {
        self.clock_jumps[usize::from(!ahead)].fetch_add(1, Ordering::Relaxed);
    }

    /// The place of a route, which stays the same for as long as the process lives.
    pub fn route(&self, label: &str) -> RouteId {
        let mut ids = self.route_ids.lock().expect("no holder panics");
        if let Some(id) = ids.get(label) {
            return RouteId(*id);
        }
        let next = ids.len() + 1;
        if next >= ROUTES_MAX {
            return RouteId::OTHER;
        }
        let id = u32::try_from(next).expect("below the limit");
        ids.insert(label.to_owned(), id);
        RouteId(id)
    }

    /// Whether a worker has stood still for longer than that.
    pub fn stalled(&self, longest: Duration) -> bool {
        let still = |cells: &Arc<WorkerCells>| {
            let silent = cells.milliseconds().saturating_sub(cells.beat.load(Ordering::Relaxed));
            Duration::from_millis(silent) > longest
        };
        self.workers.lock().expect("no holder panics").iter().any(still)
    }

    fn sum(&self, read: impl Fn(&WorkerCells) -> u64) -> u64 {
        self.workers.lock().expect("no holder panics").iter().map(|cells| read(cells)).sum()
    }

    fn requests(&self) -> Vec<(String, usize, u64)> {
        let ids = self.route_ids.lock().expect("no holder panics");
        let mut labels: Vec<(&str, usize)> = ids.iter().map(|(label, id)| (label.as_str(), *id as usize)).collect();
        labels.push(("other", 0));
        labels.sort_unstable();
        let mut rows = Vec::new();
        for (label, index) in labels {
            for class in 0..CLASSES {
                let cell = |cells: &WorkerCells| {
                    cells.routes[index / CHUNK].get().map_or(0, |chunk| chunk[index % CHUNK][class].read())
                };
                let count = self.sum(cell);
                if count > 0 {
                    rows.push((label.to_owned(), class + 1, count));
                }
            }
        }
        rows
    }
}

/// Name, help and value of a counter.
type Row = (&'static str, &'static str, fn(&WorkerCells) -> u64);

/// What a scrape reads.
#[derive(Debug)]
pub struct Exposition(pub Arc<Metrics>);

impl Exposition {
    /// The text of a scrape.
    pub fn text(metrics: &Arc<Metrics>) -> Result<String, fmt::Error> {
        let mut registry = prometheus_client::registry::Registry::with_prefix("portunus");
        registry.register_collector(Box::new(Self(metrics.clone())));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let metrics = &*self.0;
        let mut family =
            encoder.encode_descriptor("requests", "Requests by Ingress and status class", None, MetricType::Counter)?;
        for (route, class, count) in metrics.requests() {
            let labels = [("route", route), ("class", format!("{class}xx"))];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        let help = "From the request's head to the end of its answer";
        let histogram = encoder.encode_descriptor("request_duration_seconds", help, None, MetricType::Histogram)?;
        durations(metrics, histogram)?;

        connections(metrics, &mut encoder)?;
        wants(metrics, &mut encoder)?;
        loads(metrics, &mut encoder)?;
        totals(metrics, &mut encoder)?;
        gauges(metrics, &mut encoder)
    }
}

fn connections(metrics: &Metrics, encoder: &mut DescriptorEncoder) -> fmt::Result {
    let mut family =
        encoder.encode_descriptor("connections", "Open connections by kind of listener", None, MetricType::Gauge)?;
    for (index, listener) in LISTENERS.iter().enumerate() {
        let open = metrics.sum(|cells| cells.accepted[index].read().saturating_sub(cells.closed[index].read()));
        ConstGauge::new(open).encode(family.encode_family(&[("listener", *listener)])?)?;
    }
    let mut family = encoder.encode_descriptor(
        "connections_accepted",
        "Connections by kind of listener",
        None,
        MetricType::Counter,
    )?;
    for (index, listener) in LISTENERS.iter().enumerate() {
        let accepted = metrics.sum(|cells| cells.accepted[index].read());
        ConstCounter::new(accepted).encode(family.encode_family(&[("listener", *listener)])?)?;
    }
    let help = "Open client connections by worker";
    let mut family = encoder.encode_descriptor("worker_connections", help, None, MetricType::Gauge)?;
    for (worker, cells) in metrics.workers.lock().expect("no holder panics").iter().enumerate() {
        let of = |cells: &[Cell]| cells.iter().map(Cell::read).sum::<u64>();
        let open = of(&cells.accepted).saturating_sub(of(&cells.closed));
        ConstGauge::new(open).encode(family.encode_family(&[("worker", worker.to_string())])?)?;
    }
    Ok(())
}

/// What went wrong for want of something, with the want as a label.
fn wants(metrics: &Metrics, encoder: &mut DescriptorEncoder) -> fmt::Result {
    type Cells = fn(&WorkerCells) -> &[Cell];
    let families: [(&str, &str, &str, &[&str], Cells); 3] = [
        ("connections_refused", "Connections refused at once", "reason", &REFUSALS, |cells| &cells.refused),
        ("requests_shed", "Requests turned away under overload", "priority", &PRIORITIES, |cells| &cells.shed),
        ("descriptors_exhausted", "Connections that found no descriptor or memory", "side", &SIDES, |cells| {
            &cells.exhausted
        }),
    ];
    for (name, help, label, values, read) in families {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (index, value) in values.iter().enumerate() {
            let count = metrics.sum(|cells| read(cells)[index].read());
            ConstCounter::new(count).encode(family.encode_family(&[(label, *value)])?)?;
        }
    }
    let families = [
        ("access_log_dropped", "Access log lines that were lost", "reason", DROPPED, &metrics.log_dropped),
        ("clock_jumps", "Times that the system's clock was set", "direction", DIRECTIONS, &metrics.clock_jumps),
    ];
    for (name, help, label, values, counts) in families {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (value, count) in values.iter().zip(counts) {
            let count = ConstCounter::new(count.load(Ordering::Relaxed));
            count.encode(family.encode_family(&[(label, *value)])?)?;
        }
    }
    Ok(())
}

/// How loaded each worker is.
fn loads(metrics: &Metrics, encoder: &mut DescriptorEncoder) -> fmt::Result {
    type Read = fn(&WorkerCells) -> f64;
    let families: [(&str, &str, Read); 2] = [
        ("worker_lag_seconds", "How long a task that is ready waits for its turn", |cells| {
            Duration::from_micros(cells.lag_microseconds.load(Ordering::Relaxed)).as_secs_f64()
        }),
        (
            "worker_pressure",
            "Share of each priority's requests that is turned away, low, normal and high added up",
            |cells| {
                // Three thousand at the most: a float has it exactly.
                f64::from(u32::try_from(cells.pressure.load(Ordering::Relaxed)).unwrap_or(u32::MAX)) / 1000.0
            },
        ),
    ];
    for (name, help, read) in families {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (worker, cells) in metrics.workers.lock().expect("no holder panics").iter().enumerate() {
            ConstGauge::new(read(cells)).encode(family.encode_family(&[("worker", worker.to_string())])?)?;
        }
    }
    Ok(())
}

fn totals(metrics: &Metrics, encoder: &mut DescriptorEncoder) -> fmt::Result {
    let counters: [Row; 14] = [
        ("tls_handshakes_failed", "TLS handshakes that failed", |cells| cells.handshakes_failed.read()),
        ("proxy_protocol_failed", "Connections closed for want of a PROXY protocol header", |cells| {
            cells.proxy_protocol_failed.read()
        }),
        ("request_bytes", "Bytes of request bodies", |cells| cells.request_bytes.read()),
        ("response_bytes", "Bytes of response bodies", |cells| cells.response_bytes.read()),
        ("upstream_connections", "Connections made to endpoints", |cells| cells.upstream_connections.read()),
        ("upstream_connect_failures", "Connections to endpoints that failed", |cells| {
            cells.upstream_connect_failures.read()
        }),
        ("upstream_requests", "Requests sent to endpoints", |cells| cells.upstream_requests.read()),
        ("upstream_reused", "Requests sent over a connection that was open", |cells| cells.upstream_reused.read()),
        ("upstream_retries", "Requests sent once more because an endpoint took them and did not answer", |cells| {
            cells.upstream_retries.read()
        }),
        ("retry_budget_exhausted", "Requests not sent once more because too many were", |cells| {
            cells.retry_budget_exhausted.read()
        }),
        ("circuit_refused", "Requests refused because their backend had too many", |cells| {
            cells.circuit_refused.read()
        }),
        ("request_timeouts", "Requests without an answer in the time that their rule has for all of it", |cells| {
            cells.request_timeouts.read()
        }),
        ("panic_picks", "Requests sent to any endpoint because so few were well", |cells| cells.panics.read()),
        ("tunnels_opened", "WebSockets and other upgrades", |cells| cells.tunnels_opened.read()),
    ];
    for (name, help, read) in counters {
        let counter = ConstCounter::new(metrics.sum(read));
        counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
    }
    let help = "HTTP/2 connections closed because their peer sent more frames than it had use for";
    let mut family = encoder.encode_descriptor("http2_floods", help, None, MetricType::Counter)?;
    for (index, side) in SIDES.iter().enumerate() {
        let floods = ConstCounter::new(metrics.sum(|cells| cells.floods[index].read()));
        floods.encode(family.encode_family(&[("side", *side)])?)?;
    }
    let shared = [
        ("watch_failures", "Watches of the API server that failed and were tried again", &metrics.watch_failures),
        ("name_failures", "Look-ups of external names that failed", &metrics.name_failures),
        ("endpoint_ejections", "Endpoints left out for a while because they failed", &metrics.ejections),
        ("panics", "Bugs that were met", &metrics.panics),
        ("health_checks", "Endpoints asked whether they are well", &metrics.health_checks),
        ("health_checks_failed", "Endpoints that did not say so", &metrics.health_checks_failed),
    ];
    for (name, help, counter) in shared {
        let counter = ConstCounter::new(counter.load(Ordering::Relaxed));
        counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
    }
    Ok(())
}

fn gauges(metrics: &Metrics, encoder: &mut DescriptorEncoder) -> fmt::Result {
    let open = |opened: fn(&WorkerCells) -> u64, closed: fn(&WorkerCells) -> u64| {
        metrics.sum(opened).saturating_sub(metrics.sum(closed))
    };
    let gauges = [
        (
            "upstream_connections_open",
            "Open connections to endpoints",
            open(|cells| cells.upstream_connections.read(), |cells| cells.upstream_connections_closed.read()),
        ),
        (
            "tunnels",
            "Open WebSockets and other upgrades",
            open(|cells| cells.tunnels_opened.read(), |cells| cells.tunnels_closed.read()),
        ),
        ("table_generation", "Number of the table in use", metrics.generation.load(Ordering::Relaxed)),
        ("tables_alive", "Tables in memory", metrics.tables_alive.load(Ordering::Relaxed).unsigned_abs()),
        (
            "endpoints_ejected",
            "Endpoints that are left out because they failed",
            metrics.endpoints_ejected.load(Ordering::Relaxed).unsigned_abs(),
        ),
        (
            "endpoints_failing_checks",
            "Endpoints whose health checks fail",
            metrics.endpoints_failing.load(Ordering::Relaxed).unsigned_abs(),
        ),
        (
            "endpoints_warming",
            "Endpoints that get less than their share because they are new, or back",
            metrics.endpoints_warming.load(Ordering::Relaxed),
        ),
        ("stale", "1 if the table may be behind the cluster", metrics.stale.load(Ordering::Relaxed)),
        ("leader", "1 if this replica writes status and Events", metrics.leader.load(Ordering::Relaxed)),
        ("memory_percent", "Share of the memory limit in use", metrics.memory_percent.load(Ordering::Relaxed)),
        ("problems", "Problems in the objects read", metrics.problems.load(Ordering::Relaxed)),
    ];
    for (name, help, value) in gauges {
        ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
    }
    Ok(())
}

fn durations(metrics: &Metrics, mut encoder: MetricEncoder) -> fmt::Result {
    let bounds = BOUNDS.iter().copied().chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> =
        bounds.enumerate().map(|(index, bound)| (bound, metrics.sum(|cells| cells.buckets[index].read()))).collect();
    let count = buckets.iter().map(|(_, count)| count).sum();
    let sum = Duration::from_nanos(metrics.sum(|cells| cells.duration_nanoseconds.read())).as_secs_f64();
    encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_of_all_workers_add_up() {
        let metrics = Metrics::new();
        let (one, two) = (metrics.worker(), metrics.worker());
        let route = metrics.route("verona/romeo");
        assert_eq!(route, metrics.route("verona/romeo"));
        one.request(route, 200, Duration::from_millis(3));
        two.request(route, 204, Duration::from_millis(30));
        two.request(RouteId::OTHER, 404, Duration::from_secs(60));
        two.accepted[1].add(3);
        one.closed[1].add(0);
        let text = Exposition::text(&metrics).unwrap();
        for line in [
            r#"portunus_requests_total{route="verona/romeo",class="2xx"} 2"#,
            r#"portunus_requests_total{route="other",class="4xx"} 1"#,
            r#"portunus_request_duration_seconds_bucket{le="0.005"} 1"#,
            r#"portunus_request_duration_seconds_bucket{le="+Inf"} 3"#,
            "portunus_request_duration_seconds_count 3",
            r#"portunus_connections{listener="https"} 3"#,
            "# EOF",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }

    #[test]
    fn routes_beyond_the_limit_share_a_series() {
        let metrics = Metrics::new();
        let cells = metrics.worker();
        for index in 0..ROUTES_MAX + 100 {
            cells.request(metrics.route(&format!("a/{index}")), 200, Duration::ZERO);
        }
        let rows = metrics.requests();
        assert_eq!(rows.len(), ROUTES_MAX);
        assert_eq!(rows.iter().map(|row| row.2).sum::<u64>(), (ROUTES_MAX + 100) as u64);
        assert!(rows.contains(&("other".to_owned(), 2, 101)));
    }
}
