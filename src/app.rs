//! The composition root: the only file that knows every module. Binds all sockets before anything runs, has the
//! first table made, starts the workers, and drains in the end.

use std::cell::RefCell;
use std::io::Read;
use std::net::TcpListener;
use std::num::NonZeroU32;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::{self, LocalSet};
use zeroize::Zeroizing;

use crate::admin;
use crate::config::{Cluster, Objects, Serve, Underscores, Unsupported, Webhook};
use crate::control::{Control, Provider};
use crate::drain::Drain;
use crate::ending::{self, Signals};
use crate::file::{Folder, Watch};
use crate::kubernetes::client::connect;
use crate::kubernetes::controller::{Addresses, Writing};
use crate::kubernetes::{Client, Scope, status, webhook};
use crate::memory::{Memory, Source};
use crate::metrics::Metrics;
use crate::model::{Forwarding, ObjectName};
use crate::proxy::{self, AccessLog, Destination, Limits, Seats, Socket, Thresholds};
use crate::sockets::{Given, Sockets};
use crate::table::describe;
use crate::takeover;
use crate::telemetry;
use crate::tls;
use crate::translate::{Hsts, Settings, review};
use crate::upstream::{BudgetSettings, Checker, Logins, Pace, PoolSettings, SessionKey};

/// 128 bits, as the cookies have; a whole page of text is no key but a mistake.
const SESSION_KEY_BYTES_MIN: usize = 16;
const SESSION_KEY_BYTES_MAX: u64 = 4096;

/// What decides how objects are read.
pub fn settings(objects: &Objects) -> Settings {
    Settings {
        controller: objects.controller_class.clone(),
        class: objects.ingress_class.clone(),
        without_class: objects.watch_ingress_without_class,
        without_any_class: true,
        allow_external_names: objects.allow_external_names,
        deny_local_endpoints: objects.deny_local_endpoints.unwrap_or(false),
        normalization: objects.path_normalization.into(),
        policy: objects.load_balance.into(),
        outliers: objects.ejection.outliers(),
        forwarding: Forwarding { retry: objects.next_upstream.retry(), ..Forwarding::default() },
        default_certificate: objects.default_tls_certificate.clone(),
        ignore_unsupported_annotations: objects.unsupported_annotations == Unsupported::Ignore,
        ssl_redirect: objects.ssl_redirect,
        hsts: Hsts { on: objects.hsts, ..Hsts::default() },
        allowed_response_headers: objects.global_allowed_response_headers.clone(),
        config_map: objects.configmap.clone(),
        strict_host_ownership: objects.strict_host_ownership,
        ..Settings::default()
    }
}

/// Runs until a signal ends it, or the next process. `inherited` are the sockets that systemd opened, by name.
pub fn run(config: &Serve, inherited: Vec<(String, TcpListener)>) -> Result<()> {
    // As many sockets as the system allows; where it doesn't, --max-connections is the operator's affair.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let metrics = Metrics::new();
    let counted = metrics.clone();
    telemetry::note_panics(move || {
        counted.panics.fetch_add(1, Ordering::Relaxed);
    });
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
    let local = LocalSet::new();
    local.block_on(&runtime, serve(config, inherited, metrics, log))?;
    if let Some(writer) = writer {
        let _ = writer.join();
    }
    Ok(())
}

async fn serve(
    config: &Serve,
    inherited: Vec<(String, TcpListener)>,
    metrics: Arc<Metrics>,
    log: Option<AccessLog>,
) -> Result<()> {
    let (provider, client, settings) = match &config.manifests {
        Some(path) => (folder(path)?, None, settings(&config.objects)),
        None => {
            let (provider, client, settings) = cluster(&config.cluster, &config.objects, &config.webhook).await?;
            (provider, Some(client), settings)
        }
    };
    let workers = config.workers.map_or_else(default_workers, Into::into);
    let path = config.process.takeover_socket.as_deref();
    let (predecessor, by_predecessor) = path.map(takeover::ask).transpose()?.flatten().unzip();
    let given = Given { by_systemd: inherited, by_predecessor: by_predecessor.unwrap_or_default() };
    let mut sockets = Sockets::bind(config, workers, given, path.is_some())?;
    let drain = Drain::new();
    let key = session_key(config.endpoints.session_key_file.as_deref())?;
    let mut control = Control::new(settings, provider, config.endpoints.resolver, key, metrics.clone());
    control.checker = Some(Checker::new(metrics.clone()));
    #[cfg(debug_assertions)]
    control.clock_shift_file.clone_from(&config.process.clock_shift_file);
    let state = admin_state(&control, metrics.clone(), drain.clone());
    // A process that follows another is silent until it can serve: that one answers meanwhile.
    let mut listening = match predecessor {
        None => listen(config, &mut sockets, &state, &control),
        Some(_) => Vec::new(),
    };
    let mut signals = Signals::new()?;
    // The first table is in before the first connection is accepted.
    tokio::select! {
        () = control.begin() => {}
        () = signals.any() => return Ok(()),
    }
    let taken = Arc::new(Notify::new());
    if let Some(path) = path {
        takeover::offer(path, std::mem::take(&mut sockets.offered), taken.clone())?;
    }
    let memory = watch_memory(config.process.overload.memory_limit, metrics.clone());
    let for_workers = std::mem::take(&mut sockets.workers);
    let threads = start(workers_of(config, &control, &metrics, &drain, log.as_ref(), &memory, for_workers)?)?;
    // Only the workers hold the log now; its writer ends with the last of them.
    drop(log);
    state.borrow_mut().ready = true;
    if let Some(predecessor) = predecessor {
        listening = listen(config, &mut sockets, &state, &control);
        predecessor.relieve();
    }
    ending::follow(&drain, taken, listening);
    let (generation, problems) = (control.publisher.generation(), control.problems.borrow().len());
    tracing::info!(workers, generation, problems, "serving");
    let resignation = client.and_then(|client| control.write(&client, &writing(config)));
    let ending = async {
        ending::begins(&drain, &mut signals).await;
        if let Some(resignation) = &resignation {
            resignation.begin();
        }
        ending::drain_all(&drain, &config.process, &mut signals, threads).await;
    };
    // Changes are followed to the end: who still comes while the process drains is served as of now.
    tokio::select! {
        never = control.run() => match never {},
        () = ending => {}
    }
    control.stop();
    if let Some(resignation) = resignation {
        resignation.done().await;
    }
    Ok(())
}

/// Answers on the control side's sockets from now on.
fn listen(
    config: &Serve,
    sockets: &mut Sockets,
    state: &admin::Shared,
    control: &Control,
) -> Vec<task::JoinHandle<()>> {
    let admin = std::mem::take(&mut sockets.admin).into_iter();
    let mut listening: Vec<_> = admin.map(|one| task::spawn_local(admin::serve(one, state.clone()))).collect();
    listening.extend(serve_webhook(&config.webhook, std::mem::take(&mut sockets.webhook), control));
    listening
}

/// The operator's key for the cookies of sessions, if there is one. A line's end behind it is no part of it.
fn session_key(path: Option<&Path>) -> Result<SessionKey> {
    let Some(path) = path else { return Ok(SessionKey::default()) };
    let file = std::fs::File::open(path);
    let mut bytes = Zeroizing::new(Vec::new());
    let read = file.and_then(|file| file.take(SESSION_KEY_BYTES_MAX + 1).read_to_end(&mut bytes));
    read.with_context(|| format!("the session key {} can't be read", path.display()))?;
    let key = bytes.trim_ascii_end();
    let fits = bytes.len() as u64 <= SESSION_KEY_BYTES_MAX && key.len() >= SESSION_KEY_BYTES_MIN;
    anyhow::ensure!(
        fits,
        "the session key {} has {}; write {SESSION_KEY_BYTES_MIN} to {SESSION_KEY_BYTES_MAX} random bytes",
        path.display(),
        if key.len() < SESSION_KEY_BYTES_MIN { "too few bytes" } else { "too many bytes" }
    );
    Ok(SessionKey::new(key))
}

pub fn folder(path: &Path) -> Result<Provider> {
    let folder =
        Folder::open(path).with_context(|| format!("the folder of manifests {} can't be read", path.display()))?;
    let watch =
        Watch::start(path).with_context(|| format!("the folder of manifests {} can't be watched", path.display()))?;
    Ok(Provider::Folder { folder, watch })
}

/// The objects of a cluster, the client by which they are watched, and how they are read.
pub async fn cluster(cluster: &Cluster, objects: &Objects, webhook: &Webhook) -> Result<(Provider, Client, Settings)> {
    let Cluster { kubeconfig, watch_namespace, watch_namespace_selector, snapshot_file } = cluster;
    let (client, api_server) = connect(kubeconfig.as_deref()).await?;
    let secrets = objects.default_tls_certificate.iter().chain(&webhook.webhook_certificate);
    let scope = Scope {
        namespaces: watch_namespace.clone(),
        selector: watch_namespace_selector.clone(),
        config_map: objects.configmap.clone(),
        secrets: secrets.cloned().collect(),
    };
    let settings = Settings {
        // A cluster has its classes; only a folder may do without.
        without_any_class: false,
        select_namespaces: watch_namespace_selector.is_some(),
        // Who writes objects here may not be who runs this machine.
        deny_local_endpoints: objects.deny_local_endpoints.unwrap_or(true),
        api_server,
        ..settings(objects)
    };
    Ok((Provider::cluster(&client, &scope, snapshot_file.clone()), client, settings))
}

/// Answers the API server's questions on these sockets from now on.
pub fn serve_webhook(config: &Webhook, listeners: Vec<TcpListener>, control: &Control) -> Vec<task::JoinHandle<()>> {
    let (resources, translator, standing) =
        (control.resources.clone(), control.translator.clone(), control.standing.clone());
    let review: webhook::ReviewIngress = Rc::new(move |ingress| {
        // Before the first table not all objects are known.
        let known = standing.borrow().generation > 0;
        known.then(|| review(&translator.borrow(), &resources.borrow(), ingress))
    });
    let (resources, name) = (control.resources.clone(), config.webhook_certificate.clone());
    let certificate: webhook::CurrentCertificate =
        Rc::new(move || name.as_ref().and_then(|name| resources.borrow().certificate(name)));
    let serve = |listener| {
        let serving = webhook::serve(listener, webhook::Limits::default(), review.clone(), certificate.clone());
        task::spawn_local(serving)
    };
    listeners.into_iter().map(serve).collect()
}

fn writing(config: &Serve) -> Writing {
    let publishing = &config.publishing;
    let addresses = match (&publishing.publish_service, &publishing.publish_status_address[..]) {
        (Some(service), _) => Addresses::Service(service.clone()),
        (None, []) => Addresses::None,
        (None, addresses) => Addresses::Fixed(status::fixed(addresses)),
    };
    Writing {
        lease: ObjectName::new(&publishing.pod_namespace, &publishing.election_id),
        lease_duration: publishing.lease_duration,
        identity: publishing.pod_name.clone().unwrap_or_else(|| format!("portunus-{}", std::process::id())),
        controller: config.objects.controller_class.clone(),
        addresses,
        clear: publishing.update_status_on_shutdown,
    }
}

pub fn admin_state(control: &Control, metrics: Arc<Metrics>, drain: Arc<Drain>) -> admin::Shared {
    let (problems, translator, standing) =
        (control.problems.clone(), control.translator.clone(), control.standing.clone());
    let (generation, current) = (standing.clone(), control.publisher.current.clone());
    Rc::new(RefCell::new(admin::State {
        metrics,
        drain,
        ready: false,
        standing,
        warming: Rc::new(move || current.load().warming()),
        problems: Rc::new(move || json!(&*problems.borrow())),
        table: Rc::new(move || describe(generation.borrow().generation, translator.borrow().snapshot())),
    }))
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

/// What each worker is given; it has these sockets.
pub fn workers_of(
    config: &Serve,
    control: &Control,
    metrics: &Metrics,
    drain: &Arc<Drain>,
    log: Option<&AccessLog>,
    memory: &Arc<Memory>,
    sockets: Vec<Vec<Socket>>,
) -> Result<Vec<proxy::Start>> {
    let current = control.publisher.current.clone();
    let certificates = current.clone();
    let tls = tls::server_config(Box::new(move |name| certificates.load().certificates.find(name).clone()))
        .context("TLS can't be set up")?;
    let settings = Arc::new(worker_settings(config, sockets.len()));
    let logins = Arc::new(Logins::default());
    let seats = NonZeroU32::new(config.clients.max_connections_per_client).map(Seats::new).map(Arc::new);
    let worker = |sockets| proxy::Start {
        settings: settings.clone(),
        current: current.clone(),
        cells: metrics.worker(),
        tls: tls.clone(),
        log: log.cloned(),
        drain: drain.clone(),
        logins: logins.clone(),
        memory: memory.clone(),
        seats: seats.clone(),
        sockets,
    };
    Ok(sockets.into_iter().map(worker).collect())
}

/// Looks at what memory is in use from now on, if there is a limit.
fn watch_memory(limit: Option<u64>, metrics: Arc<Metrics>) -> Arc<Memory> {
    let memory = Memory::new();
    if let Some(source) = Source::find(limit) {
        let watched = memory.clone();
        let note = move |percent| metrics.memory_percent.store(percent, Ordering::Relaxed);
        task::spawn_local(async move { watched.watch(source, note).await });
    }
    memory
}

fn start(workers: Vec<proxy::Start>) -> Result<Vec<JoinHandle<()>>> {
    let start = |(index, worker)| {
        let thread = std::thread::Builder::new().name(format!("worker-{index}"));
        thread.spawn(move || proxy::run(worker)).context("a worker can't be started")
    };
    workers.into_iter().enumerate().map(start).collect()
}

fn worker_settings(config: &Serve, workers: usize) -> proxy::Settings {
    let (clients, endpoints) = (&config.clients, &config.endpoints);
    let ticks = crate::clock::ticks;
    let retries = &endpoints.retries;
    let of_one = |all: u32| all.div_ceil(u32::try_from(workers).unwrap_or(1).max(1));
    proxy::Settings {
        limits: Limits {
            header_bytes_max: clients.header_bytes_max,
            header_count_max: clients.header_count_max,
            target_bytes_max: clients.uri_bytes_max,
            keeps_underscores: clients.underscores_in_headers == Underscores::Keep,
        },
        normalization: config.objects.path_normalization.into(),
        trusted_proxies: clients.trusted_proxies.clone(),
        request_head_timeout: ticks(clients.request_head_timeout),
        idle_timeout: ticks(clients.idle_timeout),
        handshake_timeout: clients.tls_handshake_timeout,
        request_body: Pace {
            timeout: ticks(clients.request_body_timeout),
            bytes_per_second_min: clients.request_body_rate_min,
        },
        response_write: Pace {
            timeout: ticks(clients.response_write_timeout),
            bytes_per_second_min: clients.response_write_rate_min,
        },
        upstream_read_timeout: ticks(endpoints.upstream_read_timeout),
        upstream_write_timeout: ticks(endpoints.upstream_write_timeout),
        tunnel_idle_timeout: ticks(clients.tunnel_idle_timeout),
        pools: PoolSettings {
            connect_timeout: endpoints.connect_timeout,
            idle_ticks: ticks(endpoints.upstream_idle_timeout),
            idle_max: endpoints.upstream_idle_max,
            retry_budget: BudgetSettings { percent: retries.retry_budget, floor: of_one(retries.retry_floor) },
        },
        whole_body_bytes_max: retries.request_buffer_bytes_max,
        connections_max: clients.max_connections,
        in_flight_max: of_one(clients.max_in_flight),
        thresholds: Thresholds {
            lag: config.process.overload.overload_lag,
            memory_percent: config.process.overload.overload_memory_percent,
            memory_close_percent: config.process.overload.overload_memory_close_percent,
        },
        generation_header: config.process.generation_header,
        #[cfg(debug_assertions)]
        panic_at: config.process.panic_at.clone(),
        #[cfg(debug_assertions)]
        panic_for: config.process.panic_for,
        #[cfg(debug_assertions)]
        stall_at: config.process.stall_at.clone(),
    }
}
