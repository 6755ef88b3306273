//! Backends that misbehave: that refuse, fall silent, break off, or close a connection too early.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::harness::backend::Refusing;
use crate::harness::h1::Connection;
use crate::harness::reach::one_worker;
use crate::harness::wire::Framing;
use crate::harness::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

fn post(target: &str, body: &str) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: a.test\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn an_early_answer_comes_through_before_the_body_is_sent() {
    let backend = Backend::new(|exchange| {
        exchange.write("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
        exchange.close();
    });
    let (_folder, portunus) = one_worker(&backend);
    let mut client = Connection::open(portunus.http);
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000000\r\n\r\nonly a start");
    let response = client.response();
    assert_eq!((response.status, response.text().as_str()), (403, "no"));
}

/// The backend closes each connection right behind its first answer. `closed` opens once it did.
fn closing_backend() -> (Backend, Arc<AtomicU64>) {
    let closed = Arc::new(AtomicU64::new(0));
    let count = closed.clone();
    let backend = Backend::new(move |exchange| {
        exchange.echo();
        exchange.close();
        count.fetch_add(1, Ordering::SeqCst);
    });
    (backend, closed)
}

#[test]
fn a_request_given_to_a_stale_connection_is_sent_again_whatever_its_method() {
    let (backend, closed) = closing_backend();
    let (_folder, portunus) = one_worker(&backend);
    let mut client = Connection::open(portunus.http);
    for number in 0..50 {
        let body = format!("body {number}");
        let response = client.ask(post("/", &body));
        assert_eq!((response.status, response.text()), (200, body), "request {number}");
        let behind = || (closed.load(Ordering::SeqCst) > number).then_some(());
        eventually("the backend's close", behind);
    }
    assert_eq!((backend.count(), backend.connections()), (50, 50), "each was sent once");
}

#[test]
fn a_connection_that_fails_moves_the_request_on_to_another_endpoint() {
    let refusing = [Refusing::new(), Refusing::new()];
    let backend = Backend::new(Exchange::echo);
    let addresses = [refusing[0].address(), backend.address(), refusing[1].address()];
    let folder = Folder::to_addresses(&addresses);
    let portunus = Portunus::serve_with(&folder, &["--workers", "1"]);
    for number in 0..12 {
        let body = format!("body {number}");
        let response = Connection::open(portunus.http).ask(post("/", &body));
        assert_eq!((response.status, response.text()), (200, body));
    }
    assert_eq!(backend.count(), 12);
}

#[test]
fn when_no_endpoint_takes_the_connection_it_is_502() {
    let refusing = [Refusing::new(), Refusing::new()];
    let folder = Folder::to_addresses(&[refusing[0].address(), refusing[1].address()]);
    let portunus = Portunus::serve(&folder);
    let mut client = Connection::open(portunus.http);
    for _ in 0..3 {
        assert_eq!(client.get("a.test", "/").status, 502, "and the connection stays");
    }
}

#[test]
fn a_backend_that_is_silent_for_too_long_is_504() {
    let release = Gate::new();
    let gate = release.clone();
    let backend = Backend::new(move |_| gate.wait("the end of the test"));
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve_with(&folder, &["--upstream-read-timeout", "300ms"]);
    let response = portunus.get("a.test", "/");
    release.open();
    assert_eq!(response.status, 504);
    assert_eq!(backend.count(), 1, "a request that was sent is not sent again");
}

#[test]
fn a_backend_that_ends_without_an_answer_is_502_and_a_post_is_not_repeated() {
    let backend = Backend::new(|exchange| {
        exchange.read_body();
        match exchange.head.word(1) {
            "/close" => exchange.close(),
            "/reset" => exchange.reset(),
            "/garbage" => {
                exchange.write("SSH-2.0-OpenSSH_9.2\r\n\r\n");
                exchange.close();
            }
            "/half" => {
                exchange.write("HTTP/1.1 200 OK\r\nContent-Le");
                exchange.close();
            }
            target => panic!("{target}"),
        }
    });
    let (_folder, portunus) = one_worker(&backend);
    for (number, target) in ["/close", "/reset", "/garbage", "/half"].into_iter().enumerate() {
        let mut client = Connection::open(portunus.http);
        assert_eq!(client.ask(post(target, "x")).status, 502, "{target}");
        assert_eq!(backend.count(), number + 1, "{target}");
    }
}

#[test]
fn a_body_that_ends_with_the_connection_arrives_whole() {
    let backend = Backend::new(|exchange| {
        exchange.write("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nuntil ");
        exchange.write("the end");
        exchange.close();
    });
    let (_folder, portunus) = one_worker(&backend);
    let mut client = Connection::open(portunus.http);
    for _ in 0..3 {
        let response = client.get("a.test", "/");
        assert_eq!((response.text().as_str(), response.framing), ("until the end", Framing::Chunked));
        assert!(response.complete);
    }
}

#[test]
fn a_body_that_breaks_off_upstream_breaks_off_downstream() {
    let halves = [Gate::new(), Gate::new()];
    let gates = halves.clone();
    let backend = Backend::new(move |exchange| {
        let (framing, gate) = match exchange.head.word(1) {
            "/length" => ("Content-Length: 100\r\n\r\nhalf", &gates[0]),
            _ => ("Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", &gates[1]),
        };
        exchange.write(format!("HTTP/1.1 200 OK\r\n{framing}"));
        if !exchange.head.has("at-once") {
            gate.wait("the client to have the head");
        }
        exchange.close();
    });
    let (_folder, portunus) = one_worker(&backend);
    for (target, half) in ["/length", "/chunked"].into_iter().zip(halves) {
        let mut client = Connection::open(portunus.http);
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
        assert_eq!(client.response_head().word(1), "200");
        half.open();
        let body = client.read_to_end();
        let expected = if target == "/length" { "half" } else { "4\r\nhalf\r\n" };
        assert_eq!(String::from_utf8_lossy(&body), expected, "{target}: the client must be able to tell");
        // At once: nothing at all, or the start, or 502; but never a whole answer.
        let mut client = Connection::open(portunus.http);
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a.test\r\nAt-Once: yes\r\n\r\n"));
        let answer = client.try_response(false);
        assert!(!answer.is_ok_and(|answer| answer.status == 200 && answer.complete), "{target}");
    }
}

#[test]
fn a_connection_that_the_backend_closes_while_it_is_idle_costs_no_request() {
    let backend = Backend::new(Exchange::echo);
    let (_folder, portunus) = one_worker(&backend);
    let mut client = Connection::open(portunus.http);
    for number in 0..20 {
        let body = format!("body {number}");
        let response = client.ask(post("/", &body));
        assert_eq!((response.status, response.text()), (200, body), "request {number}");
        backend.close_connections();
        eventually("the end of the connection", || (backend.open() == 0).then_some(()));
    }
    assert_eq!(backend.count(), 20, "each was sent once");
}

#[test]
fn a_client_that_goes_away_takes_its_upstream_request_with_it() {
    let gone = Gate::new();
    let gate = gone.clone();
    let backend = Backend::new(move |exchange| {
        // Ends when Portunus closes the connection, which carries an unfinished exchange.
        if exchange.wire.rest().is_empty() {
            gate.open();
        }
        exchange.close();
    });
    let (_folder, portunus) = one_worker(&backend);
    let mut client = Connection::open(portunus.http);
    client.send(GET);
    backend.wait_count(1);
    client.reset();
    gone.wait("the end of the upstream connection");
}
