//! A panic is a bug, and costs no more than the request that met it: that one is answered 500, others on the same
//! connection and worker go on, a counter says so, and the log names the place and nothing of the request. One outside
//! of requests costs its connection. Debug builds have flags that make requests and connections panic; release builds
//! don't.

use crate::harness::h1::Connection;
use crate::harness::*;
use crate::harness::{h1, h2};

/// Panics at `/panic`, in its only worker.
fn panicky(backend: &Backend, flags: &[&str]) -> (Folder, Portunus) {
    let folder = Folder::to(backend);
    let flags = [&["--workers", "1", "--panic-at", "/panic"], flags].concat();
    let mut portunus = Portunus::serve_with(&folder, &flags);
    portunus.panics = true;
    (folder, portunus)
}

#[test]
fn a_panic_is_the_500_of_one_request_over_http_1() {
    let backend = Backend::named("a");
    let (_folder, mut portunus) = panicky(&backend, &["--access-log", "stdout"]);
    let mut other = Connection::open(portunus.http);
    assert_eq!(other.get("a.test", "/").status, 200);
    for _ in 0..3 {
        let mut client = Connection::open(portunus.http);
        assert_eq!(client.get("a.test", "/").status, 200);
        client.send(
            "POST /panic HTTP/1.1\r\nHost: a.test\r\nAuthorization: Basic c2VjcmV0\r\nContent-Length: 6\r\n\r\nsecret",
        );
        let answer = client.response();
        assert_eq!((answer.status, answer.header("connection")), (500, Some("close")));
        assert!(!answer.text().contains("panic"), "{}", answer.text());
        client.assert_closed();
        assert_eq!(other.get("a.test", "/").status, 200);
    }
    assert!(portunus.is_running());
    assert_eq!(portunus.metric("portunus_panics_total", &[]), 3.0);
    portunus.wait_metric("portunus_requests_total", &["5xx"], |count| count == 3.0);
    let line = portunus.stderr.wait_for("panicked at");
    assert!(line.contains("src/proxy/guard.rs:"), "{line}");
    let log = portunus.stderr.text();
    assert!(!log.contains("c2VjcmV0") && !log.contains("secret"), "{log}");
    let line: serde_json::Value = serde_json::from_str(&portunus.stdout.wait_for("panicked")).expect("a line of JSON");
    assert_eq!((line["status"].as_u64(), line["termination"].as_str()), (Some(500), Some("panicked")));
    portunus.wait_metric("portunus_connections", &[], |open| open == 1.0);
}

#[test]
fn a_panic_is_the_500_of_one_stream_over_http_2() {
    let held = Gate::new();
    let gate = held.clone();
    let backend = Backend::new(move |exchange| {
        if exchange.head.word(1) == "/held" {
            gate.wait("the test");
        }
        exchange.ok("a");
    });
    let (_folder, portunus) = panicky(&backend, &[]);
    run(async {
        let mut connection = h2::Connection::cleartext(portunus.http).await;
        let mut other = connection.clone();
        let slow = tokio::spawn(async move { other.get("http://a.test/held").await });
        for _ in 0..3 {
            let answer = connection.get("http://a.test/panic").await;
            assert_eq!(answer.status, 500);
            assert_eq!(connection.get("http://a.test/").await.text(), "a");
        }
        held.open();
        assert_eq!(slow.await.expect("the other stream").text(), "a");
    });
    assert_eq!(portunus.metric("portunus_panics_total", &[]), 3.0);
    assert_eq!(backend.count(), 4);
}

#[test]
fn a_panic_while_a_connection_is_accepted_costs_that_connection() {
    let backend = Backend::named("a");
    let folder = Folder::to(&backend);
    let flags = ["--workers", "1", "--panic-for", "127.0.0.9", "--max-connections", "3"];
    let mut portunus = Portunus::serve_with(&folder, &flags);
    portunus.panics = true;
    let mut other = Connection::open(portunus.http);
    assert_eq!(other.get("a.test", "/").status, 200);
    for _ in 0..5 {
        for address in [portunus.http, portunus.https] {
            h1::connect_from([127, 0, 0, 9], address).assert_closed();
        }
        assert_eq!(other.get("a.test", "/").status, 200);
    }
    assert_eq!(portunus.metric("portunus_panics_total", &[]), 10.0);
    // Nor do they count as open.
    portunus.wait_metric("portunus_connections", &[], |open| open == 1.0);
    assert_eq!(portunus.get("a.test", "/").status, 200);
    assert!(portunus.is_running());
}
