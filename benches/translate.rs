//! What a change costs among 10,000 Ingresses, each with a host, a Service and its endpoints: one endpoint, one
//! path of one host, one certificate; and what everything costs from nothing. Measured from the object that
//! arrives to the table that is published, without reading it from a file or from the API server. And what the
//! admission webhook's review of one Ingress costs, with hosts of its own and with a host that all 10,000 name.

use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::Ingress;
use portunus::metrics::Metrics;
use portunus::model::{Changed, Outliers, Snapshot};
use portunus::table::Publisher;
use portunus::translate::{Object, Resources, Settings, Translator, review};
use portunus::upstream::SessionKey;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const INGRESSES: usize = 10_000;
/// The one that changes.
const CHANGED: usize = 4_711;

fn object<T: DeserializeOwned + Into<Object>>(value: Value) -> Object {
    serde_json::from_value::<T>(value).expect("an object of its kind").into()
}

fn ingress(index: usize, path: &str) -> Object {
    object::<Ingress>(ingress_value(index, path))
}

fn ingress_value(index: usize, path: &str) -> Value {
    let name = format!("app-{index}");
    let host = format!("{name}.verona.example");
    let rule = |path: &str| {
        let service = json!({ "name": name, "port": { "number": 80 } });
        json!({ "path": path, "pathType": "Prefix", "backend": { "service": service } })
    };
    json!({
        "metadata": { "namespace": "default", "name": name, "creationTimestamp": "2026-01-01T00:00:00Z" },
        "spec": {
            "rules": [{ "host": host, "http": { "paths": [rule("/"), rule(path)] } }],
            "tls": [{ "hosts": [host], "secretName": "shared" }],
        },
    })
}

fn service(index: usize) -> Object {
    let name = format!("app-{index}");
    object::<Service>(json!({
        "metadata": { "namespace": "default", "name": name },
        "spec": { "ports": [{ "port": 80, "targetPort": 8080 }] },
    }))
}

fn slice(index: usize, last: usize) -> Object {
    let name = format!("app-{index}");
    let address = |last: usize| format!("10.{}.{}.{last}", index / 250, index % 250);
    let endpoint = |last| json!({ "addresses": [address(last)], "conditions": { "ready": true } });
    let labels = json!({ "kubernetes.io/service-name": name });
    object::<EndpointSlice>(json!({
        "metadata": { "namespace": "default", "name": format!("{name}-1"), "labels": labels },
        "addressType": "IPv4",
        "ports": [{ "port": 8080 }],
        "endpoints": [endpoint(1), endpoint(2), endpoint(last)],
    }))
}

fn secret(more: &[&str]) -> Object {
    let names = [&["*.verona.example"], more].concat();
    let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    let pair = json!({ "tls.crt": made.cert.pem(), "tls.key": made.signing_key.serialize_pem() });
    let secret = json!({
        "metadata": { "namespace": "default", "name": "shared" },
        "type": "kubernetes.io/tls",
        "stringData": pair,
    });
    let secret: Secret = serde_json::from_value(secret).expect("a Secret");
    Object::from_secret(secret, 1_800_000_000)
}

fn resources() -> Resources {
    let mut resources = Resources::default();
    resources.apply(secret(&[]));
    for index in 0..INGRESSES {
        for object in [ingress(index, "/static"), service(index), slice(index, 3)] {
            resources.apply(object);
        }
    }
    resources
}

/// The control side, as it is after its first table.
struct Control {
    resources: Resources,
    translator: Translator,
    publisher: Publisher,
    /// Counts the objects that took their turn, so that the next is always another than the last.
    turn: usize,
}

impl Control {
    fn new() -> Self {
        let mut control = Self {
            resources: resources(),
            translator: Translator::new(Settings::default()),
            publisher: Publisher::new(Metrics::new(), SessionKey::default(), Outliers::default()),
            turn: 0,
        };
        assert_eq!(control.publish().hosts.len(), INGRESSES);
        control
    }

    fn publish(&mut self) -> Changed {
        let changed = self.translator.update(&mut self.resources);
        self.publisher.publish(self.translator.snapshot(), &changed);
        changed
    }

    /// The time to publish these two versions of an object in turn, `count` times in all.
    fn take_turns(&mut self, versions: &[Object; 2], count: u64) -> Duration {
        let mut total = Duration::ZERO;
        for _ in 0..count {
            let object = versions[self.turn % 2].clone();
            self.turn += 1;
            let start = Instant::now();
            self.resources.apply(object);
            let changed = self.publish();
            total += start.elapsed();
            assert!(!changed.is_empty());
        }
        total
    }
}

fn from_nothing(count: u64) -> Duration {
    let mut resources = resources();
    let mut total = Duration::ZERO;
    for _ in 0..count {
        resources.mark_all();
        let mut translator = Translator::new(Settings::default());
        let mut publisher = Publisher::new(Metrics::new(), SessionKey::default(), Outliers::default());
        let start = Instant::now();
        let changed = translator.update(&mut resources);
        publisher.publish(translator.snapshot(), &changed);
        total += start.elapsed();
    }
    total
}

/// 10,000 Ingresses, and one that is asked about: as a new one, and as another version of one that is there.
fn reviews(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group(format!("review/{INGRESSES}"));
    let shared = |index: usize, path: &str| {
        let backend = json!({ "service": { "name": "app-0", "port": { "number": 80 } } });
        let path = json!({ "path": path, "pathType": "Prefix", "backend": backend });
        let rule = json!({ "host": "shared.verona.example", "http": { "paths": [path] } });
        let metadata = json!({ "namespace": "default", "name": format!("app-{index}") });
        json!({ "metadata": metadata, "spec": { "rules": [rule] } })
    };
    let settings = Settings { strict_host_ownership: true, ..Settings::default() };
    for (world, share) in [("hosts of their own", false), ("one host for all", true)] {
        let mut resources = resources();
        if share {
            (0..INGRESSES).for_each(|index| resources.apply(object::<Ingress>(shared(index, &format!("/{index}")))));
        }
        let mut translator = Translator::new(settings.clone());
        translator.update(&mut resources);
        for (case, index) in [("new", INGRESSES), ("update", CHANGED)] {
            let candidate = if share { shared(index, "/new") } else { ingress_value(index, "/new") };
            let candidate: Ingress = serde_json::from_value(candidate).expect("an Ingress");
            assert_eq!(review(&translator, &resources, candidate.clone()).refused, []);
            group.bench_function(format!("{case}, {world}"), |bencher| {
                let review = |candidate| review(&translator, &resources, candidate);
                bencher.iter_batched(|| candidate.clone(), review, BatchSize::SmallInput);
            });
        }
    }
    group.finish();
}

fn changes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group(format!("translate/{INGRESSES}"));
    let mut control = Control::new();
    let snapshot = control.translator.snapshot();
    let Snapshot { hosts, backends, certificates, .. } = snapshot;
    assert_eq!((hosts.len(), backends.len(), certificates.len()), (INGRESSES, INGRESSES, 1));
    let cases = [
        ("one endpoint", [slice(CHANGED, 4), slice(CHANGED, 3)]),
        ("one host", [ingress(CHANGED, "/assets"), ingress(CHANGED, "/static")]),
        ("one certificate for all hosts", [secret(&[]), secret(&[])]),
        ("the same with other names", [secret(&["verona.example"]), secret(&[])]),
    ];
    for (name, versions) in cases {
        control.turn = 0;
        group.bench_function(name, |bencher| bencher.iter_custom(|count| control.take_turns(&versions, count)));
    }
    group.sample_size(10);
    group.bench_function("from nothing", |bencher| bencher.iter_custom(from_nothing));
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = changes, reviews
}
criterion_main!(benches);
