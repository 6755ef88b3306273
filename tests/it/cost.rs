//! What a request costs, in counts that no clock decides: system calls of the real process's worker, and allocations
//! of a worker in this one. The bounds stand a little above what there is; a change that costs more says why here,
//! and one that costs less lowers them. Time and instructions are measured by `benches/load`.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use clap::Parser;
use portunus::app;
use portunus::clock::TICK;
use portunus::config::{self, Config};
use portunus::control::Control;
use portunus::drain::{Drain, Phase};
use portunus::memory::Memory;
use portunus::metrics::Metrics;
use portunus::proxy::{self, AccessLog, Destination};
use portunus::sockets::{Given, Sockets};
use portunus::upstream::SessionKey;
use tokio::task::LocalSet;

use crate::harness::command::command;
use crate::harness::h1;
use crate::harness::manifests::app;
use crate::harness::tls::Client;
use crate::harness::*;

/// Requests before those that are counted: connections are open, buffers have their size.
const WARM: usize = 100;
const REQUESTS: usize = 1000;

/// How a client asks.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Http1,
    Tls,
    Http2,
}

/// Every path goes to the backend, through no filter.
fn plain(backend: &Backend) -> Folder {
    Folder::to(backend)
}

/// What a busy Ingress may ask for, as in `benches/load`.
fn filtered(backend: &Backend) -> Folder {
    let folder = Folder::new();
    folder.write("app.yaml", app("default", "app", &[backend.address()]));
    let keys = [
        ("use-regex", "true"),
        ("rewrite-target", "/app/$1"),
        ("enable-cors", "true"),
        ("cors-allow-origin", "https://*.a.test"),
        ("affinity", "cookie"),
    ];
    let ingress = Ingress::new("default", "all").asks(&keys).host("a.test");
    folder.write("ingress.yaml", ingress.path("ImplementationSpecific", "/app/(.*)", "app", 80));
    folder
}

/// Asks one by one over one connection, and calls `edge` before and behind those that are counted.
fn ask(kind: Kind, (http, https): (SocketAddr, SocketAddr), requests: usize, edge: &mut dyn FnMut()) {
    let mut each = |ask: &mut dyn FnMut() -> u16| {
        (0..WARM).for_each(|_| assert_eq!(ask(), 200));
        edge();
        (0..requests).for_each(|_| assert_eq!(ask(), 200));
        edge();
    };
    match kind {
        Kind::Http1 => {
            let mut connection = h1::Connection::open(http);
            each(&mut || connection.get("a.test", "/app/").status);
        }
        Kind::Tls => {
            let (mut connection, _) = Client::new().connect(https, "a.test");
            each(&mut || connection.get("a.test", "/app/").status);
        }
        Kind::Http2 => run(async {
            let (mut connection, _) = h2::Connection::tls(https, &Client::new().alpn(&["h2"]), "a.test").await;
            for number in 0..WARM + requests {
                if number == WARM {
                    edge();
                }
                assert_eq!(connection.get("https://a.test/app/").await.status, 200);
            }
            edge();
        }),
    }
}

/// The allocations of a worker that answers these requests, by the test's own allocator: those of its thread from its
/// first to its last instruction.
fn allocations_of(folder: &Folder, kind: Kind, log: bool, requests: usize) -> u64 {
    let path = folder.path();
    let listeners = ["--http-listen", "--https-listen", "--admin-listen"];
    let listen = listeners.iter().flat_map(|flag| [flag, "127.0.0.1:0"]);
    let flags = ["portunus", "serve", "--manifests"].into_iter().chain(path.to_str()).chain(listen);
    let config = Config::try_parse_from(flags).expect("flags");
    let config::Command::Serve(config) = config.command else { panic!("serve") };
    let (metrics, drain) = (Metrics::new(), Drain::new());
    let provider = app::folder(&path).expect("the folder");
    let control = run(LocalSet::new().run_until(async {
        let settings = app::settings(&config.objects);
        let mut control = Control::new(settings, provider, None, SessionKey::default(), metrics.clone());
        control.begin().await;
        control
    }));
    let sockets = Sockets::bind(&config, 1, Given::default(), false).expect("sockets");
    let address = |secure| {
        let socket = sockets.workers[0].iter().find(|socket| socket.listener.secure == secure);
        socket.and_then(|socket| socket.socket.local_addr().ok()).expect("an address")
    };
    let addresses = (address(false), address(true));
    let log = log.then(|| AccessLog::start(&Destination::File("/dev/null".into()), metrics.clone()).expect("a log").0);
    let worker = app::workers_of(&config, &control, &metrics, &drain, log.as_ref(), &Memory::new(), sockets.workers);
    let worker = worker.expect("a worker").remove(0);
    let thread = std::thread::spawn(move || allocation_counter::measure(|| proxy::run(worker)).count_total);
    ask(kind, addresses, requests, &mut || {});
    drain.advance(Phase::Stopping);
    thread.join().expect("the worker")
}

/// Allocations per request. What is made once, for a worker or a connection, is in both counts.
fn allocations(folder: &Folder, kind: Kind, log: bool) -> f64 {
    let (more, fewer) = (allocations_of(folder, kind, log, REQUESTS), allocations_of(folder, kind, log, 0));
    (more - fewer) as f64 / REQUESTS as f64
}

/// Holds what each kind of request costs against its bound.
#[track_caller]
fn hold(what: &str, bounds: [f64; 4], backend: &Backend, cost: impl Fn(&str, &Folder, Kind) -> f64) {
    let kinds = [
        ("HTTP/1.1", plain(backend), Kind::Http1),
        ("HTTP/1.1 over TLS", plain(backend), Kind::Tls),
        ("HTTP/2 over TLS", plain(backend), Kind::Http2),
        ("HTTP/1.1 through filters", filtered(backend), Kind::Http1),
    ];
    let costs = kinds.iter().zip(bounds).map(|((name, folder, kind), bound)| (*name, cost(name, folder, *kind), bound));
    let dearer: Vec<_> = costs.filter(|(_, cost, bound)| cost > bound).collect();
    assert!(dearer.is_empty(), "{what} per request, and how many there may be: {dearer:#?}");
}

#[test]
fn a_request_allocates_no_more_than_it_did() {
    let backend = Backend::named("a");
    hold("allocations", [8.1, 11.1, 14.1, 14.1], &backend, |name, folder, kind| {
        let count = allocations(folder, kind, false);
        println!("{name}: {count:.2} allocations per request");
        count
    });
}

#[test]
fn the_access_log_allocates_nothing() {
    let backend = Backend::named("a");
    let folder = plain(&backend);
    let (without, with) = (allocations(&folder, Kind::Http1, false), allocations(&folder, Kind::Http1, true));
    assert!((with - without).abs() < 0.1, "{with:.2} allocations per request with the log, {without:.2} without it");
}

/// Portunus, with every system call of its threads written down: by a tracer that is nobody's parent, so that what is
/// started here is Portunus itself.
fn traced(folder: &Folder) -> (Portunus, File) {
    let path = folder.beside("strace");
    let portunus = command();
    let mut strace = Command::new("strace");
    strace.args(["-D", "-f", "-qq", "-s", "0", "-o"]).arg(&path).arg(portunus.get_program());
    for (name, value) in portunus.get_envs() {
        match value {
            Some(value) => strace.env(name, value),
            None => strace.env_remove(name),
        };
    }
    strace.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let portunus = Portunus::serve_by(strace, folder, &["--workers", "1"]);
    (portunus, File::open(path).expect("what strace writes"))
}

/// Whether this machine lets anybody look at a process's system calls.
fn can_trace() -> bool {
    let traced = Command::new("strace").args(["-D", "-f", "-qq", "-o", "/dev/null", "true"]).output();
    let traced = traced.expect("strace, which scripts/setup.sh installs");
    let refused = String::from_utf8_lossy(&traced.stderr).contains("not permitted");
    assert!(traced.status.success() || refused, "strace: {}", String::from_utf8_lossy(&traced.stderr));
    !refused
}

/// The thread that answers requests, once it has its name.
fn worker(portunus: &Portunus) -> String {
    let is_worker = |path: &PathBuf| std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name == "worker-0\n");
    let task = eventually("a worker", || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", portunus.pid())).expect("tasks");
        tasks.flatten().map(|entry| entry.path()).find(is_worker)
    });
    task.file_name().expect("a name").to_string_lossy().into_owned()
}

/// System calls of the worker by name, and how often it may have ticked meanwhile.
fn calls(folder: &Folder, kind: Kind) -> (BTreeMap<String, usize>, usize) {
    let (portunus, trace) = traced(folder);
    let worker = worker(&portunus);
    let mut edges = Vec::new();
    let mut edge = || edges.push((trace.metadata().expect("its size").len(), Instant::now()));
    ask(kind, (portunus.http, portunus.https), REQUESTS, &mut edge);
    let [(begin, from), (end, to)] = edges[..] else { panic!("a beginning and an end") };
    let mut text = vec![0; usize::try_from(end - begin).expect("a size")];
    trace.read_exact_at(&mut text, begin).expect("the trace");
    let mut calls = BTreeMap::new();
    for line in String::from_utf8_lossy(&text).lines() {
        // The end of a call that another thread's interrupted begins with `<...`.
        let call = line.strip_prefix(&worker).and_then(|line| line.trim_start().split_once('('));
        if let Some((name, _)) = call.filter(|(name, _)| !name.starts_with('<')) {
            *calls.entry(name.to_owned()).or_default() += 1;
        }
    }
    (calls, (to - from).as_millis() as usize / TICK.as_millis() as usize + 1)
}

#[test]
fn a_request_is_two_reads_two_writes_and_two_waits() {
    if !can_trace() {
        println!("SKIPPED: this machine forbids ptrace, so nobody can count system calls");
        return;
    }
    let backend = Backend::named("a");
    // Once in a while an answer over HTTP/2 waits some rounds of the event loop for others to leave with it.
    hold("system calls", [6.0, 6.0, 6.3, 6.0], &backend, |name, folder, kind| {
        let (calls, ticks) = calls(folder, kind);
        let per_request = |count: usize| count as f64 / REQUESTS as f64;
        let shown: BTreeMap<_, _> = calls.iter().map(|(name, count)| (name, per_request(*count))).collect();
        println!("{name}: {shown:.3?} system calls per request, and {ticks} ticks of the worker");
        // A tick is a wake-up and a wait or two, however many requests there are between two.
        per_request(calls.values().sum::<usize>().saturating_sub(3 * ticks))
    });
}
