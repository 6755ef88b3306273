//! Many objects: how fast a start is, how fast a change is live, and how much memory it takes. Small in `make test`,
//! which asserts counts and generous bounds of memory; `make proof` has 10,000 Ingresses and prints times.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::harness::certificates::Authority;
use crate::harness::h1::Connection;
use crate::harness::manifests::{ingress, selectorless, slice, tls_secret};
use crate::harness::{Cluster, Instance, cluster, eventually, percentiles, scale};

/// Writes to the API server at once.
const WRITERS: usize = 16;
const CLASS: &str = "scale";
/// The node's own address: endpoints may not be on loopback.
const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 2);

/// A server that answers everything with its name, until the test ends.
fn backend(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((NODE, 0)).expect("the node's address");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || answer(stream, name));
        }
    });
    address
}

/// One request after another; heads only, and each in one piece.
fn answer(mut stream: TcpStream, name: &str) -> Option<()> {
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer).ok().filter(|count| *count > 0)?;
        assert!(buffer[..count].ends_with(b"\r\n\r\n"), "a head in one piece");
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
        stream.write_all(answer.as_bytes()).ok()?;
    }
}

/// Object number `index` lies in one of twenty namespaces.
fn namespace(index: usize) -> String {
    format!("scale-{}", index % 20)
}

fn endpoints(address: SocketAddr) -> Value {
    json!([{ "addresses": [address.ip().to_string()], "conditions": { "ready": true } }])
}

/// The slice of a Service, with the one endpoint that it has now.
fn slice_of(index: usize, address: SocketAddr) -> Value {
    let mut slice = slice(&namespace(index), &format!("app-{index}"), &endpoints(address));
    slice["ports"][0]["port"] = json!(address.port());
    slice
}

fn ingress_of(index: usize, service: usize, secret: bool) -> Value {
    let (host, service) = (format!("host-{index}.test"), format!("app-{service}"));
    let mut ingress =
        ingress(&namespace(index), &format!("app-{index}"), CLASS, &[(&host, &[("Prefix", "/", &service)])]);
    if secret {
        ingress["spec"]["tls"] = json!([{ "hosts": [host], "secretName": format!("tls-{index}") }]);
        ingress["metadata"]["annotations"] = json!({ "nginx.ingress.kubernetes.io/ssl-redirect": "false" });
    }
    ingress
}

/// Makes or changes all objects; the API server is asked by several at once.
fn write(cluster: &Cluster, objects: impl Iterator<Item = Value>, there: bool) {
    let one = |object: Value| async move {
        if there { cluster.put_later(&object).await } else { cluster.create_later(&object).await }
    };
    cluster.block_on(futures_util::stream::iter(objects).for_each_concurrent(WRITERS, one));
}

/// Ingresses `from..to`, each with a Service and a slice of its own.
fn populate(cluster: &Cluster, from: usize, to: usize, address: SocketAddr) {
    let of = |index: usize| {
        let name = format!("app-{index}");
        let [service, _] = selectorless(&namespace(index), &name, &json!([]));
        [service, slice_of(index, address), ingress_of(index, index, false)]
    };
    write(cluster, (from..to).flat_map(of), false);
}

/// TLS Secrets for the first `count` Ingresses.
fn secure(cluster: &Cluster, count: usize) {
    let authority = Authority::new();
    let of = |index: usize| {
        let identity = authority.leaf(&[&format!("host-{index}.test")]);
        let secret = tls_secret(&namespace(index), &format!("tls-{index}"), &identity.chain_pem, &identity.key_pem);
        (secret, ingress_of(index, index, true))
    };
    let (secrets, ingresses): (Vec<_>, Vec<_>) = (0..count).map(of).unzip();
    write(cluster, secrets.into_iter(), false);
    write(cluster, ingresses.into_iter(), true);
}

/// Starts Portunus; returns it with the time until it was ready.
fn start() -> (Instance, Duration) {
    let begun = Instant::now();
    let portunus = Instance::start(CLASS, &[]);
    loop {
        if portunus.admin("/readyz").is_ok_and(|response| response.status == 200) {
            return (portunus, begun.elapsed());
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "not ready: {}", portunus.log());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Asks over one connection until the answer is `expected`.
fn ask_until(connection: &mut Connection<TcpStream>, host: &str, expected: &str) {
    let begun = Instant::now();
    while connection.get(host, "/").text() != expected {
        assert!(begun.elapsed() < Duration::from_secs(30), "{host} is never answered by {expected}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn proof(what: &str, value: &str, goal: &str) {
    println!("proof: {what}: {value}, goal {goal}");
}

#[test]
fn ten_thousand_ingresses() {
    let cluster = cluster();
    let (first, all, secrets, samples, changes) = scale((100, 200, 40, 20, 400), (5_000, 10_000, 2_000, 200, 10_000));
    let (one, two) = (backend("one"), backend("two"));
    cluster.class(CLASS);
    for index in 0..20 {
        let name = namespace(index);
        cluster.put(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } }));
    }

    populate(cluster, 0, first, one);
    let (portunus, _) = start();
    assert_eq!(crate::harness::client::echo_text(portunus.http(), &format!("host-{}.test", first - 1)), "one");
    let resident = portunus.resident();
    proof(&format!("resident with {first} Ingresses"), &format!("{resident:.1} MiB"), "40 MiB of 5,000");
    assert!(resident < 100.0, "{resident} MiB");
    drop(portunus);

    populate(cluster, first, all, one);
    secure(cluster, secrets);
    let starts: Vec<Duration> = (0..scale(1, 3)).map(|_| start().1).collect();
    let (portunus, begun) = start();
    assert!(portunus.metric("portunus_problems") < 1.0, "{}", portunus.log());
    assert_eq!(crate::harness::client::echo_text(portunus.http(), &format!("host-{}.test", all - 1)), "one");
    let median = percentiles([starts, vec![begun]].concat()).0;
    proof(&format!("start with {all} Ingresses, {secrets} Secrets"), &format!("ready in {median:.0?}"), "3 s");
    let resident = portunus.resident();
    proof(&format!("resident with {all} Ingresses, {secrets} Secrets"), &format!("{resident:.1} MiB"), "120 MiB");
    assert!(resident < 180.0, "{resident} MiB");

    endpoints_to_traffic(cluster, &portunus, samples, all, [one, two]);
    ingresses_to_traffic(cluster, &portunus, samples, all, two);
    memory_after_changes(cluster, &portunus, changes, all, [one, two]);
}

/// From the API server's word that a slice is written to an answer of the new endpoint.
fn endpoints_to_traffic(cluster: &Cluster, portunus: &Instance, samples: usize, all: usize, to: [SocketAddr; 2]) {
    let mut connection = Connection::open(portunus.http());
    let mut times = Vec::new();
    for sample in 0..samples {
        let index = sample * 31 % all;
        let host = format!("host-{index}.test");
        for (address, name) in [(to[1], "two"), (to[0], "one")] {
            cluster.put(&slice_of(index, address));
            let written = Instant::now();
            ask_until(&mut connection, &host, name);
            times.push(written.elapsed());
        }
    }
    let (median, p99) = percentiles(times);
    proof(
        &format!("EndpointSlice to traffic among {all}"),
        &format!("median {median:.1?}, p99 {p99:.1?}"),
        "p99 50 ms",
    );
}

/// From the API server's word that an Ingress is written to an answer of its new backend.
fn ingresses_to_traffic(cluster: &Cluster, portunus: &Instance, samples: usize, all: usize, two: SocketAddr) {
    let mut connection = Connection::open(portunus.http());
    let mut times = Vec::new();
    for sample in 0..samples {
        // Its Service is that of the next in its namespace, which has another endpoint.
        let index = sample * 20 % all;
        let other = (index + 20) % all;
        cluster.put(&slice_of(other, two));
        ask_until(&mut connection, &format!("host-{other}.test"), "two");
        cluster.put(&ingress_of(index, other, false));
        let written = Instant::now();
        ask_until(&mut connection, &format!("host-{index}.test"), "two");
        times.push(written.elapsed());
        cluster.put(&ingress_of(index, index, false));
    }
    let (median, p99) = percentiles(times);
    proof(&format!("one Ingress to live among {all}"), &format!("median {median:.1?}, p99 {p99:.1?}"), "p99 100 ms");
}

/// The same memory after many changes as before: what a table leaves behind is freed.
fn memory_after_changes(cluster: &Cluster, portunus: &Instance, changes: usize, all: usize, to: [SocketAddr; 2]) {
    let change = |from: usize, count: usize| {
        write(cluster, (from..from + count).map(|at| slice_of(at * 7 % all, to[(at / all + at) % 2])), true);
        eventually("an end of the changes", || {
            let before = portunus.metric("portunus_table_generation");
            std::thread::sleep(Duration::from_millis(200));
            (portunus.metric("portunus_table_generation") == before).then_some(())
        });
    };
    // What a process keeps for its own use is there after the first of them.
    change(0, changes / 10);
    let before = portunus.resident();
    change(changes / 10, changes);
    let after = portunus.resident();
    let tables = portunus.metric("portunus_tables_alive");
    proof(&format!("resident after {changes} changes"), &format!("{before:.1} to {after:.1} MiB"), "the same");
    assert!(after < before * 1.2 + 8.0, "{before} MiB became {after} MiB");
    assert!(tables <= 2.0, "{tables} tables are alive");
}
