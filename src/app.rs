//! The composition root: the only file that knows every module. Binds all sockets before anything runs, starts
//! the workers, and then is the control side: it follows the folder, translates, publishes, and drains.

use std::cell::RefCell;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::LocalSet;

use crate::admin;
use crate::config::{Objects, Serve, Unsupported, addresses};
use crate::drain::{Drain, Phase};
use crate::file::{self, Finding, Folder, Watch};
use crate::metrics::Metrics;
use crate::model::Changed;
use crate::proxy::{self, AccessLog, Destination, Limits, Listeners};
use crate::resolve::{Names, Resolved};
use crate::table::{Publisher, describe};
use crate::tls;
use crate::translate::{Resources, Settings, Translator};
use crate::upstream::PoolSettings;

/// How often replaced tables are looked through.
const HOUSEKEEPING: Duration = Duration::from_millis(200);
/// How often certificates in service are looked at for their last day, and files that could not be read again.
const EXPIRY: Duration = Duration::from_secs(10);
/// How often a draining process looks whether it is done.
const DRAIN_POLL: Duration = Duration::from_millis(20);

/// What decides how objects are read.
pub fn settings(objects: &Objects) -> Settings {
    Settings {
        controller: objects.controller_class.clone(),
        class: objects.ingress_class.clone(),
        without_class: objects.watch_ingress_without_class,
        without_any_class: true,
        allow_external_names: objects.allow_external_names,
        policy: objects.load_balance.into(),
        default_certificate: objects.default_tls_certificate.clone(),
        ignore_unsupported_annotations: objects.unsupported_annotations == Unsupported::Ignore,
        strict_host_ownership: objects.strict_host_ownership,
    }
}

/// Runs until a signal ends it.
pub fn run(config: &Serve) -> Result<()> {
    // As many sockets as the system allows; where it doesn't, --max-connections is the operator's affair.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let folder = Folder::open(&config.manifests)
        .with_context(|| format!("the folder of manifests {} can't be read", config.manifests.display()))?;
    let watch = Watch::start(&config.manifests)
        .with_context(|| format!("the folder of manifests {} can't be watched", config.manifests.display()))?;
    let workers = config.workers.map_or_else(default_workers, Into::into);
    let sockets = Sockets::bind(config, workers)?;
    let metrics = Metrics::new();
    let drain = Drain::new();
    let (log, writer) = match destination(&config.process.access_log) {
        None => (None, None),
        Some(destination) => {
            let started = AccessLog::start(&destination, metrics.clone());
            let (log, writer) =
                started.with_context(|| format!("the access log {} can't be opened", config.process.access_log))?;
            (Some(log), Some(writer))
        }
    };

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let mut control = Control::new(settings(&config.objects), folder, config.endpoints.resolver, metrics.clone());
        // The first table is in before the first connection is accepted.
        control.follow();
        let threads = start_workers(config, &control, &metrics, &drain, log.as_ref(), sockets.workers)?;
        // Only the workers hold the log now; its writer ends with the last of them.
        drop(log);
        let state = control.admin(metrics, drain.clone());
        for listener in sockets.admin {
            tokio::task::spawn_local(admin::serve(listener, state.clone()));
        }
        state.borrow_mut().ready = true;
        tracing::info!(workers, generation = control.generation, problems = control.problems.borrow().len(), "serving");
        let mut signals = Signals::new()?;
        let ending = async {
            signals.any().await;
            drain_all(&drain, config.process.drain_timeout, &mut signals, threads).await;
        };
        // Changes are followed to the end: who still comes while the process drains is served as of now.
        tokio::select! {
            never = control.run(watch) => match never {},
            () = ending => {}
        }
        anyhow::Ok(())
    })?;
    if let Some(writer) = writer {
        let _ = writer.join();
    }
    Ok(())
}

fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

fn destination(text: &str) -> Option<Destination> {
    match text {
        "off" => None,
        "stdout" => Some(Destination::Stdout),
        path => Some(Destination::File(path.into())),
    }
}

/// All sockets, bound before anything is started.
struct Sockets {
    workers: Vec<Listeners>,
    admin: Vec<TcpListener>,
}

impl Sockets {
    fn bind(config: &Serve, workers: usize) -> Result<Self> {
        let mut sockets = Self { workers: (0..workers).map(|_| Listeners::default()).collect(), admin: Vec::new() };
        let mut bound = Vec::new();
        let mut bind = |kind: &'static str, address, count| {
            let listeners =
                proxy::bind(address, count).with_context(|| format!("can't listen for {kind} on {address}"))?;
            bound.extend(
                listeners.first().and_then(|listener| listener.local_addr().ok()).map(|address| (kind, address)),
            );
            anyhow::Ok(listeners)
        };
        for address in addresses(&config.http_listen) {
            let listeners = bind("http", address, workers)?;
            sockets.workers.iter_mut().zip(listeners).for_each(|(worker, listener)| worker.http.push(listener));
        }
        for address in addresses(&config.https_listen) {
            let listeners = bind("https", address, workers)?;
            sockets.workers.iter_mut().zip(listeners).for_each(|(worker, listener)| worker.https.push(listener));
        }
        for address in addresses(&config.admin_listen) {
            sockets.admin.extend(bind("admin", address, 1)?);
        }
        for (kind, address) in bound {
            tracing::info!("listening for {kind} on {address}");
        }
        Ok(sockets)
    }
}

fn start_workers(
    config: &Serve,
    control: &Control,
    metrics: &Metrics,
    drain: &Arc<Drain>,
    log: Option<&AccessLog>,
    listeners: Vec<Listeners>,
) -> Result<Vec<JoinHandle<()>>> {
    let current = control.publisher.current.clone();
    let certificates = current.clone();
    let tls = tls::server_config(Box::new(move |name| certificates.load().certificates.find(name).clone()))
        .context("TLS can't be set up")?;
    let settings = Arc::new(worker_settings(config, listeners.len()));
    let start = |(index, listeners)| {
        let start = proxy::Start {
            settings: settings.clone(),
            current: current.clone(),
            cells: metrics.worker(),
            tls: tls.clone(),
            log: log.cloned(),
            drain: drain.clone(),
            listeners,
        };
        let thread = std::thread::Builder::new().name(format!("worker-{index}"));
        thread.spawn(move || proxy::run(start)).context("a worker can't be started")
    };
    listeners.into_iter().enumerate().map(start).collect()
}

fn worker_settings(config: &Serve, workers: usize) -> proxy::Settings {
    let (clients, endpoints) = (&config.clients, &config.endpoints);
    let ticks = crate::clock::ticks;
    let in_flight_max = clients.max_in_flight.div_ceil(u32::try_from(workers).unwrap_or(1).max(1));
    proxy::Settings {
        limits: Limits {
            header_bytes_max: clients.header_bytes_max,
            header_count_max: clients.header_count_max,
            target_bytes_max: clients.uri_bytes_max,
        },
        trusted_proxies: clients.trusted_proxies.clone(),
        request_head_timeout: ticks(clients.request_head_timeout),
        idle_timeout: ticks(clients.idle_timeout),
        handshake_timeout: clients.tls_handshake_timeout,
        request_body_timeout: ticks(clients.request_body_timeout),
        response_write_timeout: ticks(clients.response_write_timeout),
        upstream_read_timeout: ticks(endpoints.upstream_read_timeout),
        upstream_write_timeout: ticks(endpoints.upstream_write_timeout),
        tunnel_idle_timeout: ticks(clients.tunnel_idle_timeout),
        pools: PoolSettings {
            connect_timeout: endpoints.connect_timeout,
            idle_ticks: ticks(endpoints.upstream_idle_timeout),
            idle_max: endpoints.upstream_idle_max,
        },
        connections_max: clients.max_connections,
        in_flight_max,
        generation_header: config.process.generation_header,
    }
}

/// The control side: one thread, which owns everything that makes tables.
struct Control {
    folder: Folder,
    resources: Resources,
    translator: Rc<RefCell<Translator>>,
    publisher: Publisher,
    names: Names,
    resolved: tokio::sync::mpsc::Receiver<Resolved>,
    problems: Rc<RefCell<Vec<Finding>>>,
    metrics: Arc<Metrics>,
    generation: u64,
    shown_generation: Rc<std::cell::Cell<u64>>,
}

impl Control {
    fn new(settings: Settings, folder: Folder, name_server: Option<SocketAddr>, metrics: Arc<Metrics>) -> Self {
        let (names, resolved) = Names::new(name_server);
        Self {
            folder,
            resources: Resources::default(),
            translator: Rc::new(RefCell::new(Translator::new(settings))),
            publisher: Publisher::new(metrics.clone()),
            names,
            resolved,
            problems: Rc::default(),
            metrics,
            generation: 0,
            shown_generation: Rc::default(),
        }
    }

    /// Follows the folder and the names for ever.
    async fn run(&mut self, mut watch: Watch) -> std::convert::Infallible {
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        let mut expiry = tokio::time::interval(EXPIRY);
        loop {
            tokio::select! {
                () = watch.changed() => self.follow(),
                Some((name, addresses)) = self.resolved.recv() => {
                    self.resources.resolve(&name, addresses);
                    self.update();
                }
                _ = housekeeping.tick() => self.publisher.free_retired(),
                _ = expiry.tick() => {
                    if self.folder.is_incomplete() {
                        self.follow();
                    }
                    if self.resources.expire(file::now()) {
                        self.update();
                    }
                }
            }
        }
    }

    /// Takes up what changed in the folder.
    fn follow(&mut self) {
        self.folder.scan(&mut self.resources);
        self.update();
    }

    fn update(&mut self) {
        let changed = self.translator.borrow_mut().update(&mut self.resources);
        self.publish(&changed);
        let translator = self.translator.borrow();
        self.names.want(&translator.external_names(&self.resources));
        let mut problems = self.folder.findings();
        problems.extend(self.folder.locate(&translator.problems()));
        problems.sort();
        let known = self.problems.borrow();
        for problem in problems.iter().filter(|problem| known.binary_search(problem).is_err()) {
            tracing::warn!("{problem}");
        }
        drop(known);
        self.metrics.problems.store(problems.len() as u64, Ordering::Relaxed);
        *self.problems.borrow_mut() = problems;
    }

    fn publish(&mut self, changed: &Changed) {
        if changed.is_empty() && self.generation > 0 {
            return;
        }
        self.generation = self.publisher.publish(self.translator.borrow().snapshot(), changed);
        self.shown_generation.set(self.generation);
        let Changed { hosts, backends, certificates } = changed;
        let (hosts, backends, certificates) = (hosts.len(), backends.len(), certificates.len());
        tracing::info!(generation = self.generation, hosts, backends, certificates, "published");
    }

    fn admin(&self, metrics: Arc<Metrics>, drain: Arc<Drain>) -> admin::Shared {
        let (problems, translator, generation) =
            (self.problems.clone(), self.translator.clone(), self.shown_generation.clone());
        Rc::new(RefCell::new(admin::State {
            metrics,
            drain,
            ready: false,
            problems: Rc::new(move || problems.borrow().iter().map(described).collect()),
            table: Rc::new(move || describe(generation.get(), translator.borrow().snapshot())),
        }))
    }
}

fn described(finding: &Finding) -> Value {
    json!(finding)
}

/// SIGTERM and SIGINT, told apart from nothing else.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Lets running requests end, for as long as the operator allows, and stops the workers.
async fn drain_all(drain: &Drain, timeout: Duration, signals: &mut Signals, threads: Vec<JoinHandle<()>>) {
    let connections = drain.connections.count();
    tracing::info!(connections, ?timeout, "draining; a second signal stops at once");
    drain.advance(Phase::Draining);
    let empty = async {
        while drain.connections.count() > 0 {
            tokio::time::sleep(DRAIN_POLL).await;
        }
    };
    tokio::select! {
        () = empty => tracing::info!("drained"),
        () = tokio::time::sleep(timeout) => tracing::info!("the drain's time is up"),
        () = signals.any() => tracing::info!("stopping at once"),
    }
    drain.advance(Phase::Stopping);
    let joined = tokio::task::spawn_blocking(|| threads.into_iter().for_each(|thread| drop(thread.join())));
    let _ = joined.await;
}
