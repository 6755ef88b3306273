//! Each limit has a flag, and an answer beyond it. Time limits are set short here and waited for by what they
//! cause, never measured.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::harness::backend::Silent;
use crate::harness::h1::{Connection, connect_from};
use crate::harness::h2_raw::{END_STREAM, Outcome, RawH2};
use crate::harness::manifests::app;
use crate::harness::reach::{assert_reaches, assert_status, ingress, one_worker};
use crate::harness::*;

fn get(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n")
}

#[test]
fn heads_beyond_the_limits_are_refused_and_those_within_pass() {
    let backend = Backend::named("a");
    let folder = Folder::to(&backend);
    let flags = ["--header-bytes-max", "2000", "--header-count-max", "10", "--uri-bytes-max", "100"];
    let portunus = Portunus::serve_with(&folder, &flags);
    let status = |request: String| Connection::open(portunus.http).ask(request).status;
    assert_eq!(status(get("/", &format!("Cookie: {}\r\n", "c".repeat(1900)))), 200);
    assert_eq!(status(get("/", &format!("Cookie: {}\r\n", "c".repeat(2000)))), 431);
    assert_eq!(status(get("/", &"X-A: b\r\n".repeat(9))), 200);
    assert_eq!(status(get("/", &"X-A: b\r\n".repeat(10))), 431);
    assert_eq!(status(get(&format!("/{}", "p".repeat(99)), "")), 200);
    assert_eq!(status(get(&format!("/{}", "p".repeat(100)), "")), 414);
    assert_eq!(backend.count(), 3);
}

#[test]
fn large_cookies_pass_by_default() {
    let backend = Backend::named("a");
    let (_folder, portunus) = one_worker(&backend);
    let cookie = "c".repeat(32 << 10);
    let response = Connection::open(portunus.http).ask(get("/", &format!("Cookie: {cookie}\r\n")));
    assert_eq!(response.status, 200);
    assert_eq!(backend.only().header("cookie"), Some(cookie.as_str()));
}

#[test]
fn a_connection_beyond_the_limit_is_told_and_counted() {
    let backend = Backend::named("a");
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve_with(&folder, &["--max-connections", "2"]);
    let mut open = [(); 2].map(|()| Connection::open(portunus.http));
    for connection in &mut open {
        assert_eq!(connection.get("a.test", "/").status, 200);
    }
    let mut beyond = Connection::open(portunus.http);
    let told = beyond.get("a.test", "/");
    let fields = (told.header("retry-after"), told.header("connection"));
    assert_eq!((told.status, fields), (503, (Some("1"), Some("close"))));
    beyond.assert_closed();
    // A handshake would be more work than the answer is worth, and HTTP/2 could not read it.
    Connection::open(portunus.https).assert_closed();
    let mut http2 = Connection::open(portunus.http);
    http2.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    http2.assert_closed();
    portunus.wait_metric("portunus_connections_refused_total", &["reason=\"total\""], |refused| refused == 3.0);
    assert_eq!(open[0].get("a.test", "/").status, 200, "those within the limit go on");
    let [first, _second] = open;
    drop(first);
    eventually("a place", || {
        let mut connection = Connection::open(portunus.http);
        let _ = connection.wire.write(get("/", "").as_bytes());
        connection.try_response(false).is_ok_and(|answer| answer.status == 200).then_some(())
    });
}

#[test]
fn one_client_has_so_many_connections_and_leaves_the_others_theirs() {
    let backend = Backend::named("a");
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve_with(&folder, &["--max-connections-per-client", "2"]);
    let [here, there] = [[127, 0, 0, 1], [127, 0, 0, 2]];
    let mut open = [here, here, there, there].map(|address| connect_from(address, portunus.http));
    for connection in &mut open {
        assert_eq!(connection.get("a.test", "/").status, 200);
    }
    let mut beyond = connect_from(here, portunus.http);
    let told = beyond.get("a.test", "/");
    assert_eq!((told.status, told.header("retry-after")), (503, Some("1")));
    beyond.assert_closed();
    connect_from(there, portunus.https).assert_closed();
    portunus.wait_metric("portunus_connections_refused_total", &["reason=\"client\""], |refused| refused == 2.0);
    let [first, ..] = open;
    drop(first);
    eventually("a place", || (connect_from(here, portunus.http).get("a.test", "/").status == 200).then_some(()));
}

#[test]
fn behind_a_load_balancer_the_client_counts_and_not_the_load_balancer() {
    let backend = Backend::named("a");
    let folder = Folder::to(&backend);
    let flags = ["--max-connections-per-client", "1", "--trusted-proxies", "127.0.0.1"];
    let portunus = Portunus::serve_with(&folder, &[&flags[..], &["--proxy-protocol", "http"]].concat());
    let ask = |connection: &mut Connection<_>, client: &str| {
        connection.ask(format!("PROXY TCP4 {client} 192.0.2.9 4000 80\r\n{}", get("/", ""))).status
    };
    let mut open = [(); 3].map(|()| Connection::open(portunus.http));
    let clients = ["192.0.2.1", "192.0.2.2", "192.0.2.1"];
    let statuses: Vec<_> = open.iter_mut().zip(clients).map(|(connection, client)| ask(connection, client)).collect();
    assert_eq!(statuses, [200, 200, 503]);
    // Without the header it is the load balancer that brings all clients.
    let portunus = Portunus::serve_with(&folder, &flags);
    let mut open = [(); 3].map(|()| Connection::open(portunus.http));
    assert!(open.iter_mut().all(|connection| connection.get("a.test", "/").status == 200));
}

#[test]
fn a_request_beyond_those_in_flight_is_503_with_retry_after() {
    let (arrived, go) = (Gate::new(), Gate::new());
    let gates = (arrived.clone(), go.clone());
    let backend = Backend::new(move |exchange| {
        if exchange.head.word(1) == "/slow" {
            gates.0.open();
            gates.1.wait("the test");
        }
        exchange.ok("done");
    });
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve_with(&folder, &["--workers", "1", "--max-in-flight", "1"]);
    let mut slow = Connection::open(portunus.http);
    slow.send(get("/slow", ""));
    arrived.wait("the slow request");
    let refused = portunus.get("a.test", "/");
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    go.open();
    assert_eq!(slow.response().text(), "done");
    assert_eq!(portunus.get("a.test", "/").status, 200);
}

#[test]
fn an_endpoint_that_accepts_no_connection_in_time_is_504_or_passed_over() {
    let silent = Silent::new();
    let folder = Folder::to_addresses(&[silent.address()]);
    let portunus = Portunus::serve_with(&folder, &["--workers", "1", "--connect-timeout", "200ms"]);
    assert_status(&portunus, "a.test", "/", 504);
    let backend = Backend::named("fine");
    portunus.after(|| folder.write("app.yaml", app("default", "app", &[silent.address(), backend.address()])));
    for _ in 0..4 {
        assert_reaches(&portunus, "a.test", "/", "fine");
    }
}

#[test]
fn a_request_that_waits_for_endpoints_that_went_goes_to_those_that_came() {
    let silent = [(); 4].map(|()| Silent::new());
    let folder = Folder::to_addresses(&silent.each_ref().map(Silent::address));
    let portunus = Portunus::serve_with(&folder, &["--workers", "1", "--connect-timeout", "1h"]);
    let mut client = Connection::open(portunus.http);
    client.send(get("/", ""));
    // Nobody waits that hour for an endpoint that the table does not name any more.
    let backend = Backend::named("fine");
    portunus.after(|| folder.write("app.yaml", app("default", "app", &[backend.address()])));
    assert_eq!(client.response().status, 200);
    assert_eq!(backend.count(), 1);
}

/// A backend whose answer has no end, and a gate that opens when nobody takes it any more.
fn endless() -> (Backend, Gate) {
    let closed = Gate::new();
    let gate = closed.clone();
    let backend = Backend::new(move |exchange| {
        exchange.stop_recording();
        exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
        let piece = vec![b'x'; 1 << 16];
        while exchange.write(&piece) {}
        gate.open();
        exchange.close();
    });
    (backend, closed)
}

#[test]
fn a_client_that_reads_nothing_is_cut_off() {
    let (backend, closed) = endless();
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve_with(&folder, &["--response-write-timeout", "300ms"]);
    let mut client = Connection::open(portunus.http);
    client.send(get("/", ""));
    closed.wait("the end of the upload");
    portunus.wait_metric("portunus_connections", &["listener=\"http\""], |open| open == 0.0);
}

#[test]
fn an_http_2_client_whose_window_stays_shut_is_cut_off() {
    let (backend, closed) = endless();
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve_with(&folder, &["--response-write-timeout", "300ms"]);
    let mut client = RawH2::open(portunus.http);
    let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a.test")];
    client.headers(1, END_STREAM, &fields);
    assert_eq!(client.outcome(1), Outcome::Status(200));
    // The window of 65,535 bytes is never opened again, while the connection itself is lively.
    for _ in 0..3 {
        client.frame(6, 0, 0, b"a ping..");
    }
    closed.wait("the end of the upload");
    portunus.wait_metric("portunus_connections", &["listener=\"http\""], |open| open == 0.0);
}

#[test]
fn an_endpoint_that_takes_no_body_is_504() {
    let over = Gate::new();
    let gate = over.clone();
    let backend = Backend::new(move |exchange| {
        gate.wait("the test");
        exchange.close();
    });
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve_with(&folder, &["--upstream-write-timeout", "300ms"]);
    let mut client = Connection::open(portunus.http);
    let length = 64 << 20;
    client.send(format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {length}\r\n\r\n"));
    let mut sender = client.wire.stream.try_clone().expect("a second handle");
    let sending = std::thread::spawn(move || {
        let piece = vec![b'x'; 1 << 16];
        // Until the buffers on the way are full and the connection is closed.
        while std::io::Write::write_all(&mut sender, &piece).is_ok() {}
    });
    assert_eq!(client.response().status, 504);
    over.open();
    drop(client);
    sending.join().expect("the sender");
}

#[test]
fn idle_connections_to_endpoints_are_bounded_in_number_and_time() {
    let waiting = Arc::new(AtomicUsize::new(0));
    let turn = Arc::new(Mutex::new(()));
    let (count, lock) = (waiting.clone(), turn.clone());
    let backend = Backend::new(move |exchange| {
        count.fetch_add(1, Ordering::SeqCst);
        drop(lock.lock());
        exchange.ok("a");
    });
    let folder = Folder::to(&backend);
    let flags = ["--workers", "1", "--upstream-idle-max", "2", "--upstream-idle-timeout", "1s"];
    let portunus = Portunus::serve_with(&folder, &flags);
    let held = turn.lock().expect("lock");
    let mut clients: Vec<_> = (0..6).map(|_| Connection::open(portunus.http)).collect();
    for client in &mut clients {
        client.send(get("/", ""));
    }
    eventually("six at once", || (waiting.load(Ordering::SeqCst) == 6).then_some(()));
    assert_eq!(backend.open(), 6);
    drop(held);
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
    portunus.wait_metric("portunus_upstream_connections_open", &[], |open| open <= 2.0);
    portunus.wait_metric("portunus_upstream_connections_open", &[], |open| open == 0.0);
    assert_eq!(portunus.get("a.test", "/").status, 200);
}

#[test]
fn an_annotation_that_restricts_access_closes_its_routes_unless_told_otherwise() {
    let backend = Backend::named("a");
    let folder = Folder::new();
    folder.write("app.yaml", app("default", "app", &[backend.address()]));
    let key = |name: &str| format!("nginx.ingress.kubernetes.io/{name}");
    let closed = ingress("closed").annotation(&key("auth-url"), "https://a.test/");
    folder.write("closed.yaml", closed.host("closed.test").prefix("/", "app", 80));
    let open = ingress("open").annotation(&key("mirror-target"), "https://a.test/");
    folder.write("open.yaml", open.host("open.test").prefix("/", "app", 80));
    let portunus = Portunus::serve(&folder);
    assert_status(&portunus, "closed.test", "/", 503);
    assert_status(&portunus, "open.test", "/", 200);
    portunus.wait_problem(&["auth-url", "--unsupported-annotations"]);
    portunus.wait_problem(&["mirror-target", "not supported"]);
    let ignoring = Portunus::serve_with(&folder, &["--unsupported-annotations", "ignore"]);
    assert_status(&ignoring, "closed.test", "/", 200);
    ignoring.wait_problem(&["auth-url", "open"]);
}

#[test]
fn ingresses_without_a_class_are_taken_beside_classes_when_asked_for() {
    let backend = Backend::named("a");
    let folder = Folder::to(&backend);
    folder.write("class.yaml", manifests::ingress_class("other", "example.test/other", false));
    let flags: [&[&str]; 2] = [&[], &["--watch-ingress-without-class"]];
    for (flags, status) in flags.into_iter().zip([404, 200]) {
        assert_status(&Portunus::serve_with(&folder, flags), "a.test", "/", status);
    }
}
