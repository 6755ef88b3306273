//! Limits of what one client may ask for: exact over all workers, kept whatever else changes, and by the address that
//! a trusted proxy names.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::harness::h1::{Connection, Response};
use crate::harness::manifests::app;
use crate::harness::websocket::{self, WebSocket, upgrade_request};
use crate::harness::*;

const TRUSTED: [&str; 2] = ["--trusted-proxies", "127.0.0.0/8"];

fn limited(name: &str, host: &str, keys: &[(&str, &str)]) -> Ingress {
    let begin = Ingress::new("default", name).host(host);
    let key = |ingress: Ingress, (key, value): &(&str, &str)| {
        ingress.annotation(&format!("nginx.ingress.kubernetes.io/{key}"), value)
    };
    keys.iter().fold(begin, key).prefix("/", "app", 80)
}

fn folder(backend: &Backend, keys: &[(&str, &str)]) -> Folder {
    let folder = Folder::new();
    folder.write("app.yaml", app("default", "app", &[backend.address()]));
    folder.write("ingress.yaml", limited("all", "a.test", keys));
    folder
}

fn request(host: &str, client: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-For: {client}\r\n\r\n")
}

/// One request of a client on a connection of its own: its worker is any.
fn ask(address: SocketAddr, client: &str) -> Response {
    Connection::open(address).ask(request("a.test", client))
}

fn status(portunus: &Portunus, client: &str) -> u16 {
    ask(portunus.http, client).status
}

#[test]
fn the_burst_and_one_pass_and_the_next_is_told_when_to_come_again() {
    let backend = Backend::named("a");
    let folder = folder(&backend, &[("limit-rpm", "1"), ("limit-burst-multiplier", "3")]);
    let portunus = Portunus::serve_with(&folder, &TRUSTED);
    let all: Vec<u16> = (0..6).map(|_| status(&portunus, "192.0.2.1")).collect();
    assert_eq!(all, [200, 200, 200, 200, 503, 503]);
    let refused = ask(portunus.http, "192.0.2.1");
    let wait: u64 = refused.header("retry-after").expect("when").parse().expect("seconds");
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!(refused.header("cache-control"), Some("no-store"));
    // Another client, and another address of the same network, is counted by itself.
    for other in ["192.0.2.2", "2001:db8::1", "2001:db8::2"] {
        assert_eq!(status(&portunus, other), 200);
    }
    assert_eq!(backend.count(), 7, "who is refused never gets to an endpoint");
}

#[test]
fn clients_over_many_connections_get_no_more_than_is_allowed() {
    const CLIENTS: usize = 8;
    let backend = Backend::named("a");
    let folder = folder(&backend, &[("limit-rpm", "4"), ("limit-burst-multiplier", "5")]);
    let portunus = Portunus::serve_with(&folder, &[&TRUSTED[..], &["--workers", "3"]].concat());
    let began = std::time::Instant::now();
    let passed: Vec<AtomicUsize> = (0..CLIENTS).map(|_| AtomicUsize::new(0)).collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..4 {
                    let mut connection = Connection::open(portunus.http);
                    for (number, passed) in passed.iter().enumerate() {
                        for _ in 0..3 {
                            let answer = connection.ask(request("a.test", &format!("192.0.2.{number}")));
                            assert!([200, 503].contains(&answer.status), "{answer:?}");
                            passed.fetch_add(usize::from(answer.status == 200), Ordering::SeqCst);
                        }
                    }
                }
            });
        }
    });
    // What leaked meanwhile may have let more through: four a minute.
    let more = (began.elapsed().as_secs() as usize / 15) + 1;
    for passed in &passed {
        let passed = passed.load(Ordering::SeqCst);
        assert!((21..21 + more).contains(&passed), "{passed} of 48, and {more} more may pass");
    }
}

#[test]
fn counts_are_kept_when_other_objects_change_and_the_rules_of_an_ingress_share_them() {
    let backend = Backend::named("a");
    let folder = folder(&backend, &[("limit-rpm", "1"), ("limit-burst-multiplier", "1")]);
    let portunus = Portunus::serve_with(&folder, &TRUSTED);
    assert_eq!([(); 3].map(|()| status(&portunus, "192.0.2.1")), [200, 200, 503]);
    let other = Backend::named("b");
    portunus.after(|| folder.write("app.yaml", app("default", "app", &[other.address()])));
    assert_eq!(status(&portunus, "192.0.2.1"), 503);
    assert_eq!(ask(portunus.http, "192.0.2.2").text(), "b");
    // Its host is made again, with one more path and one more host.
    let keys = [("limit-rpm", "1"), ("limit-burst-multiplier", "1")];
    let more = limited("all", "a.test", &keys).prefix("/more", "app", 80).host("b.test").prefix("/", "app", 80);
    portunus.after(|| folder.write("ingress.yaml", more));
    for host in ["a.test", "b.test"] {
        assert_eq!(Connection::open(portunus.http).ask(request(host, "192.0.2.1")).status, 503, "{host}");
    }
    // An Ingress that is made anew counts from nothing, and one without a limit counts nothing.
    portunus.after(|| folder.write("second.yaml", limited("second", "c.test", &keys)));
    assert_eq!(Connection::open(portunus.http).ask(request("c.test", "192.0.2.1")).status, 200);
    portunus.after(|| folder.write("ingress.yaml", limited("all", "a.test", &[("limit-rps", "0")])));
    assert_eq!(status(&portunus, "192.0.2.1"), 200);
}

#[test]
fn who_is_in_the_allowlist_is_not_counted() {
    let backend = Backend::named("a");
    let keys = [
        ("limit-rpm", "1"),
        ("limit-connections", "1"),
        ("limit-burst-multiplier", "1"),
        ("limit-allowlist", "192.0.2.0/24, 2001:db8::1"),
    ];
    let folder = folder(&backend, &keys);
    let portunus = Portunus::serve_with(&folder, &TRUSTED);
    for client in ["192.0.2.7", "2001:db8::1"] {
        assert!((0..9).all(|_| status(&portunus, client) == 200), "{client}");
    }
    assert_eq!([(); 3].map(|()| status(&portunus, "2001:db8::2")), [200, 200, 503]);
    // Who isn't a trusted proxy names nobody else.
    drop(portunus);
    let portunus = Portunus::serve(&folder);
    assert_eq!([(); 3].map(|()| status(&portunus, "192.0.2.7")), [200, 200, 503]);
}

#[test]
fn requests_at_once_are_counted_until_the_body_of_the_answer_has_gone() {
    let go = Gate::new();
    let gate = go.clone();
    let backend = Backend::new(move |exchange| {
        if exchange.head.word(1) != "/slow" {
            return exchange.ok("done");
        }
        exchange.read_body();
        exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nbegi");
        gate.wait("the test");
        exchange.write("nend");
    });
    let folder = folder(&backend, &[("limit-connections", "2")]);
    let portunus = Portunus::serve_with(&folder, &TRUSTED);
    let slow = || {
        let mut connection = Connection::open(portunus.http);
        connection.send("GET /slow HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n");
        assert_eq!(connection.response_head().word(1), "200");
        connection
    };
    let (first, second) = (slow(), slow());
    let refused = ask(portunus.http, "192.0.2.1");
    assert_eq!((refused.status, refused.header("retry-after")), (503, None));
    assert_eq!(status(&portunus, "192.0.2.2"), 200);
    // A client that leaves is no longer counted.
    drop(first);
    eventually("a place", || (status(&portunus, "192.0.2.1") == 200).then_some(()));
    let third = slow();
    assert_eq!(status(&portunus, "192.0.2.1"), 503);
    go.open();
    for mut connection in [second, third] {
        assert_eq!(connection.wire.up_to(8).expect("a body"), b"beginend");
    }
    eventually("both places", || (status(&portunus, "192.0.2.1") == 200).then_some(()));
}

#[test]
fn a_websocket_counts_for_as_long_as_it_lives() {
    let backend = Backend::new(|exchange| {
        if exchange.head.get("upgrade").is_some() {
            websocket::echo(exchange);
        } else {
            exchange.ok("done");
        }
    });
    let folder = folder(&backend, &[("limit-connections", "1")]);
    let portunus = Portunus::serve(&folder);
    let mut socket = WebSocket::open(portunus.http, "a.test", "/");
    socket.echo("one");
    // Changes of the table don't end the count, and a change of the limit counts for the tunnels that there are.
    portunus.after(|| folder.write("other.yaml", limited("other", "b.test", &[("limit-rps", "1")])));
    assert_eq!(portunus.get("a.test", "/").status, 503);
    assert_eq!(Connection::open(portunus.http).ask(upgrade_request("a.test", "/")).status, 503);
    socket.echo("two");
    portunus.after(|| folder.write("ingress.yaml", limited("all", "a.test", &[("limit-connections", "2")])));
    assert_eq!(portunus.get("a.test", "/").status, 200);
    let second = WebSocket::open(portunus.http, "a.test", "/");
    assert_eq!(portunus.get("a.test", "/").status, 503);
    socket.close();
    eventually("a place", || (portunus.get("a.test", "/").status == 200).then_some(()));
    second.close();
}

#[test]
fn what_many_addresses_cost_is_bounded() {
    const CLIENTS: u32 = 100_000;
    let backend = Backend::named("a");
    let keys = [("limit-rpm", "1"), ("limit-burst-multiplier", "1"), ("denylist-source-range", "::/0")];
    let folder = folder(&backend, &keys);
    let portunus = Portunus::serve_with(&folder, &TRUSTED);
    let connection = &mut Connection::open(portunus.http);
    let mut ask_all = |clients: std::ops::Range<u32>| {
        for batch in clients.collect::<Vec<_>>().chunks(100) {
            let requests = batch
                .iter()
                .map(|number| request("a.test", &format!("2001:db8::{:x}:{:x}", number >> 16, number & 0xffff)));
            connection.send(requests.collect::<String>());
            for _ in batch {
                // They are counted before they are refused by their address.
                assert_eq!(connection.response().status, 403);
            }
        }
        portunus.memory("VmRSS:")
    };
    let few = ask_all(0..1_000);
    let many = ask_all(1_000..CLIENTS);
    assert!(many < few + (16 << 20), "{few} bytes with a thousand clients, {many} with {CLIENTS}");
    // Those who come as there is no room are counted all the same.
    assert_eq!([(); 3].map(|()| status(&portunus, "2001:db9::1")), [403, 403, 503]);
}

#[test]
fn the_operator_says_how_a_refusal_is_called() {
    let backend = Backend::named("a");
    let folder = folder(&backend, &[("limit-rpm", "1"), ("limit-burst-multiplier", "1")]);
    folder.write("connections.yaml", limited("connections", "b.test", &[("limit-connections", "1")]));
    folder.write(
        "settings.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings, namespace: edge}\n\
         data: {limit-req-status-code: \"429\", limit-conn-status-code: \"430\"}\n",
    );
    let flags = [&TRUSTED[..], &["--configmap", "edge/settings"]].concat();
    let portunus = Portunus::serve_with(&folder, &flags);
    assert_eq!([(); 3].map(|()| status(&portunus, "192.0.2.1")), [200, 200, 429]);
}

#[test]
fn a_limit_that_cannot_be_read_closes_its_route() {
    let backend = Backend::named("a");
    let folder = folder(&backend, &[("limit-rps", "ten")]);
    let portunus = Portunus::serve(&folder);
    assert_eq!((portunus.get("a.test", "/").status, backend.count()), (503, 0));
}
