//! What a look-up costs: a host and a path to a route, among 10 to 100,000 rules. It has to stay flat.
//!
//! `hosts` are many hosts with ten paths each, `paths` one host with all the paths. `hot` asks for the same 64
//! targets again and again; `cold` asks for all rules in random order, so that what grows there is the share of
//! memory that the processor's caches don't hold. `miss` asks for a host or a path that nobody has.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use portunus::balance::Policy;
use portunus::metrics::Metrics;
use portunus::model::{
    Backend, BackendKey, BackendRef, Changed, Host, HostPattern, ObjectName, Outliers, PathKind, PathMatch, PortRef,
    Protocol, Rule, Snapshot,
};
use portunus::table::{Publisher, Table};
use portunus::upstream::SessionKey;

const SIZES: [usize; 4] = [10, 1_000, 10_000, 100_000];
const PATHS_PER_HOST: usize = 10;
const HOT: usize = 64;

/// Where rule number `rule` stands.
type Place = fn(rule: usize) -> (String, String);

fn in_hosts(rule: usize) -> (String, String) {
    let (host, path) = (rule / PATHS_PER_HOST, rule % PATHS_PER_HOST);
    (format!("shop-{host}.verona.example"), format!("/api/v1/service-{path}"))
}

fn in_paths(rule: usize) -> (String, String) {
    ("verona.example".to_owned(), format!("/api/team-{}/service-{rule}", rule % 100))
}

fn table(size: usize, place: Place) -> Arc<Table> {
    let service = ObjectName::new("default", "app");
    let key = BackendKey { service: service.clone(), port: PortRef::Number(80), options: None };
    let mut hosts: BTreeMap<HostPattern, Vec<Arc<Rule>>> = BTreeMap::new();
    for rule in 0..size {
        let (host, path) = place(rule);
        let pattern = HostPattern::parse(&host).expect("a name");
        let backends = vec![BackendRef { backend: key.clone(), weight: 1, secure: None }];
        let path = PathMatch::new(PathKind::Prefix, &path);
        hosts.entry(pattern).or_default().push(Arc::new(Rule { backends, ..Rule::new(service.clone(), Some(path)) }));
    }
    let host = |(pattern, rules): (HostPattern, Vec<Arc<Rule>>)| {
        (pattern.clone(), Arc::new(Host { pattern, rules, certificate: None, client_certificates: None }))
    };
    let backend = Backend {
        key: key.clone(),
        protocol: Protocol::Http1,
        policy: Policy::default(),
        endpoints: Vec::new(),
        sessions: None,
        tls: None,
    };
    let snapshot = Snapshot {
        hosts: hosts.into_iter().map(host).collect(),
        backends: [(key.clone(), Arc::new(backend))].into(),
        ..Snapshot::default()
    };
    let changed =
        Changed { hosts: snapshot.hosts.keys().cloned().collect(), backends: vec![key], ..Changed::default() };
    let mut publisher = Publisher::new(Metrics::new(), SessionKey::default(), Outliers::default());
    publisher.publish(&snapshot, &changed);
    publisher.current.load_full()
}

/// Requests below the paths of rules.
fn requests(rules: impl Iterator<Item = usize>, place: Place) -> Vec<(String, String)> {
    let below = |(host, path)| (host, format!("{path}/items/7"));
    rules.map(|rule| below(place(rule))).collect()
}

fn look_up(criterion: &mut Criterion) {
    for (shape, place) in [("hosts", in_hosts as Place), ("paths", in_paths)] {
        let mut group = criterion.benchmark_group(format!("router/{shape}"));
        for size in SIZES {
            let table = table(size, place);
            let mut random = fastrand::Rng::with_seed(7);
            let mut all: Vec<usize> = (0..size).collect();
            random.shuffle(&mut all);
            let repeated = requests(all.iter().copied().take(HOT), place);
            let cold = requests(all.iter().copied(), place);
            let miss: Vec<_> = requests(size..size + PATHS_PER_HOST * HOT, place);
            assert!(cold.iter().all(|(host, path)| table.find(host, path).is_some()));
            assert!(miss.iter().all(|(host, path)| table.find(host, path).is_none()));
            for (name, requests) in [("hot", repeated), ("cold", cold), ("miss", miss)] {
                let mut next = requests.iter().cycle();
                group.bench_function(BenchmarkId::new(name, size), |bencher| {
                    bencher.iter(|| {
                        let (host, path) = next.next().expect("it goes round for ever");
                        table.find(black_box(host), black_box(path)).is_some()
                    });
                });
            }
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = look_up
}
criterion_main!(benches);
