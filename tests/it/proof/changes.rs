//! Many Ingresses from an API server: two hundred changes a second among ten thousand, as when all is rolled out anew.
//! What they cost is theirs, and not the cluster's, and who sends requests meanwhile sees nothing of it. And how much
//! memory each takes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::api_server::ApiServer;
use crate::harness::h1::Connection;
use crate::harness::process::Threads;
use crate::harness::*;

/// Time from one change to the next: 200 a second.
const PACE: Duration = Duration::from_millis(5);
/// Least time from one table to the next (`kubernetes/stores`).
const TABLES_PACE: Duration = Duration::from_millis(20);
const CLIENTS: usize = 4;
/// Most hosts that are asked. Each has an endpoint of its own, and so a connection, of which the test has two ends.
const ASKED_MAX: usize = 1_000;

fn object(api: &str, kind: &str, name: &str, rest: &Value) -> Value {
    let mut object = json!({ "apiVersion": api, "kind": kind, "metadata": { "namespace": "default", "name": name } });
    for (field, value) in rest.as_object().into_iter().flatten() {
        object[field] = value.clone();
    }
    object
}

fn slice(name: &str, backend: &Backend) -> Value {
    let address = backend.address();
    let endpoint = json!({ "addresses": [address.ip().to_string()], "conditions": { "ready": true } });
    let rest = json!({ "addressType": "IPv4", "ports": [{ "port": address.port() }], "endpoints": [endpoint] });
    let mut slice = object("discovery.k8s.io/v1", "EndpointSlice", &format!("{name}-1"), &rest);
    slice["metadata"]["labels"] = json!({ "kubernetes.io/service-name": name });
    slice
}

fn service(name: &str) -> Value {
    object("v1", "Service", name, &json!({ "spec": { "ports": [{ "port": 80 }] } }))
}

fn ingress(index: usize, service: &str) -> Value {
    let backend = json!({ "service": { "name": service, "port": { "number": 80 } } });
    let path = json!({ "path": "/", "pathType": "Prefix", "backend": backend });
    let rule = json!({ "host": host(index), "http": { "paths": [path] } });
    let spec = json!({ "ingressClassName": "portunus", "rules": [rule] });
    object("networking.k8s.io/v1", "Ingress", &app(index), &json!({ "spec": spec }))
}

fn app(index: usize) -> String {
    format!("app-{index}")
}

fn host(index: usize) -> String {
    format!("{}.verona.test", app(index))
}

/// What each Ingress leads to: its own Service, whose endpoint is one backend or the other, or a third.
struct World {
    api: ApiServer,
    /// Where the same changes are made when Portunus is to see none: who makes them takes of the same processors.
    elsewhere: ApiServer,
    backends: [Backend; 3],
    /// Which backend the Service has, and whether the Ingress names another Service.
    all: Vec<(usize, bool)>,
    changes: usize,
}

impl World {
    /// Each Ingress has a Service and an EndpointSlice of its own, or all name the third one.
    fn new(ingresses: usize, own: bool) -> Self {
        let [api, elsewhere] = [ApiServer::new(), ApiServer::new()];
        for kind in ["Ingress", "EndpointSlice"] {
            elsewhere.watch(kind);
        }
        let backends = ["a", "b", "third"].map(Backend::named);
        let class = json!({ "spec": { "controller": "portunus.dev/ingress-controller" } });
        api.put(object("networking.k8s.io/v1", "IngressClass", "portunus", &class));
        for object in [service("third"), slice("third", &backends[2])] {
            api.put(object);
        }
        for index in 0..ingresses {
            let name = app(index);
            if own {
                api.put(service(&name));
                api.put(slice(&name, &backends[0]));
            }
            api.put(ingress(index, if own { &name } else { "third" }));
        }
        Self { api, elsewhere, backends, all: vec![(0, !own); ingresses], changes: 0 }
    }

    fn serve(&self) -> Portunus {
        // Its backends are on this machine.
        let flags = ["--workers", "1", "--deny-local-endpoints=false"];
        Portunus::serve_with_flags(&["--kubeconfig", &self.api.kubeconfig()], &flags)
    }

    /// Which Ingress a change is about: all over the cluster.
    fn index(&self, number: usize) -> usize {
        number * 7919 % self.all.len()
    }

    /// The next change where Portunus doesn't see it.
    fn change_elsewhere(&self, number: usize) {
        let index = self.index(number);
        self.elsewhere.put(if number.is_multiple_of(2) {
            slice(&app(index), &self.backends[0])
        } else {
            ingress(index, "third")
        });
    }

    /// Endpoints that move and Ingresses that name another Service, in turn.
    fn change(&mut self) {
        let index = self.index(self.changes);
        let (backend, third) = &mut self.all[index];
        if self.changes.is_multiple_of(2) {
            *backend = 1 - *backend;
            self.api.put(slice(&app(index), &self.backends[*backend]));
        } else {
            *third = !*third;
            let name = if *third { "third".to_owned() } else { app(index) };
            self.api.put(ingress(index, &name));
        }
        self.changes += 1;
    }

    fn expected(&self, index: usize) -> &'static str {
        match self.all[index] {
            (_, true) => "third",
            (0, false) => "a",
            (_, false) => "b",
        }
    }
}

/// What was seen from outside during some time.
struct Seen {
    requests: usize,
    seconds: f64,
    /// 99th percentile, in milliseconds.
    p99: f64,
    cpu: Threads,
}

impl Seen {
    fn rate(&self) -> f64 {
        self.requests as f64 / self.seconds
    }

    fn worker_microseconds(&self) -> f64 {
        self.cpu.others.as_secs_f64() * 1e6 / self.requests as f64
    }

    /// Of a core.
    fn control_share(&self) -> f64 {
        self.cpu.main.as_secs_f64() / self.seconds
    }
}

/// Requests to hosts, as many as there is time for, while something else happens.
fn under_load(portunus: &Portunus, hosts: usize, during: impl FnOnce()) -> Seen {
    let (hosts, done) = (hosts.min(ASKED_MAX), AtomicBool::new(false));
    let (before, begun) = (portunus.threads(), Instant::now());
    let mut times: Vec<f64> = std::thread::scope(|scope| {
        let over = Over(&done);
        let client = |number: usize| {
            let (done, address) = (&done, portunus.http);
            move || {
                let (mut client, mut turn, mut times) = (Connection::open(address), number, Vec::new());
                while !done.load(Ordering::SeqCst) || times.is_empty() {
                    turn += 104_729;
                    let begun = Instant::now();
                    let response = client.get(&host(turn % hosts), "/");
                    assert_eq!(response.status, 200, "{}", response.text());
                    times.push(begun.elapsed().as_secs_f64() * 1e3);
                }
                times
            }
        };
        let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(client(number))).collect();
        during();
        drop(over);
        clients.into_iter().flat_map(|client| client.join().expect("a client")).collect()
    });
    times.sort_by(f64::total_cmp);
    Seen {
        requests: times.len(),
        seconds: begun.elapsed().as_secs_f64(),
        p99: times[(times.len() - 1) * 99 / 100],
        cpu: portunus.threads().since(&before),
    }
}

fn paced(changes: usize, mut change: impl FnMut(usize)) {
    let begun = Instant::now();
    for number in 0..changes {
        std::thread::sleep((PACE * number as u32).saturating_sub(begun.elapsed()));
        change(number);
    }
}

#[test]
fn changes_cost_what_is_changed() {
    let (ingresses, changes, rounds) = (scale(200, 10_000), scale(60, 800), scale(1, 15));
    let mut world = World::new(ingresses, true);
    let portunus = world.serve();
    assert_eq!(portunus.get(&host(ingresses - 1), "/").text(), "a");
    let before = portunus.generation();
    let (mut rates, mut p99s, mut workers) = (Vec::new(), Vec::new(), Vec::new());
    let (mut quiet_share, mut share, mut each, mut seconds) = (Vec::new(), Vec::new(), Vec::new(), 0.0);
    for _ in 0..rounds {
        let quiet = under_load(&portunus, ingresses, || paced(changes, |number| world.change_elsewhere(number)));
        let changing = under_load(&portunus, ingresses, || paced(changes, |_| world.change()));
        seconds += changing.seconds;
        rates.push(changing.rate() / quiet.rate() * 100.0);
        p99s.push(changing.p99 / quiet.p99 * 100.0);
        workers.push(changing.worker_microseconds() / quiet.worker_microseconds() * 100.0);
        quiet_share.push(quiet.control_share());
        share.push(changing.control_share());
        each.push(changing.cpu.main.as_secs_f64() * 1e6 / changes as f64);
    }
    // Each is seen in the end, several by one table.
    let mut client = Connection::open(portunus.http);
    for number in 0..world.changes.min(500) {
        let index = world.index(number);
        let expected = world.expected(index);
        eventually(&host(index), || (client.get(&host(index), "/").text() == expected).then_some(()));
    }
    let tables = portunus.generation() - before;
    // In each round, one more than fit into its time, and one for the last change.
    let tables_max = (seconds / TABLES_PACE.as_secs_f64()) as u64 + 2 * rounds;
    assert!((1..=tables_max).contains(&tables), "{tables} tables in {seconds} s");
    portunus.wait_metric("portunus_tables_alive", &[], |tables| tables <= 2.0);
    portunus.wait_metric("portunus_problems", &[], |problems| problems == 0.0);

    println!("{} changes among {ingresses} Ingresses, {tables} tables", world.changes);
    let report = super::report;
    report("control thread per change", &each, "µs", "1000 µs");
    report("control thread, without changes", &quiet_share, "core", "");
    report("control thread, at 200 changes a second", &share, "core", "below 0.2 core");
    report("requests, at 200 changes a second", &rates, "% of those without", "above 97 %");
    report("CPU of the worker per request", &workers, "% of that without", "");
    report("p99, at 200 changes a second", &p99s, "% of that without", "below 110 %");
}

#[test]
fn an_ingress_takes_little_memory() {
    let (few, many) = (scale(100, 1_000), scale(1_000, 20_000));
    // What a start leaves is given back after a while; the least that is seen counts.
    let resident = |ingresses: usize, own: bool| {
        let world = World::new(ingresses, own);
        let portunus = world.serve();
        assert_eq!(portunus.get(&host(ingresses - 1), "/").text(), world.expected(ingresses - 1));
        let look = |_| {
            std::thread::sleep(Duration::from_millis(scale(20, 300)));
            portunus.memory("VmRSS:")
        };
        (0..10).map(look).min().expect("ten")
    };
    for (what, own) in [("with a Service and an EndpointSlice of its own", true), ("of one Service", false)] {
        let [less, more] = [few, many].map(|ingresses| resident(ingresses, own));
        let each = more.saturating_sub(less) / (many - few) as u64;
        println!("an Ingress {what}: {each} bytes ({:.1} MiB with {many})", super::mebibytes(more));
        assert!(each < 24 << 10, "{each} bytes each");
    }
}
