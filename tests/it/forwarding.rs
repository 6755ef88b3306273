//! What a rule says of its time limits and of its requests' bodies. Time limits are set short and waited for by what
//! they cause.

use std::net::SocketAddr;

use crate::harness::backend::Silent;
use crate::harness::h1::Connection;
use crate::harness::h2_raw::RawH2Backend;
use crate::harness::manifests::{app, app_with};
use crate::harness::websocket::WebSocket;
use crate::harness::wire::Framing;
use crate::harness::*;

/// Everything goes to these by a rule with these keys, and by one without at `plain.test`.
fn ruled(addresses: &[SocketAddr], keys: &[(&str, &str)]) -> (Folder, Portunus) {
    let folder = Folder::new();
    folder.write("app.yaml", app("default", "app", addresses));
    folder.write("ingress.yaml", Ingress::new("default", "all").asks(keys).prefix("/", "app", 80));
    folder.write("plain.yaml", Ingress::new("default", "plain").host("plain.test").prefix("/", "app", 80));
    let portunus = Portunus::serve_with(&folder, &["--workers", "1"]);
    portunus.wait_no_problems();
    (folder, portunus)
}

fn post(body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n";

#[test]
fn an_endpoint_that_is_silent_for_longer_than_the_rule_says_is_504() {
    let over = Gate::new();
    let gate = over.clone();
    let backend = Backend::new(move |exchange| {
        if exchange.head.word(1) == "/body" {
            exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
        }
        gate.wait("the test");
        exchange.close();
    });
    let (_folder, portunus) = ruled(&[backend.address()], &[("proxy-read-timeout", "1")]);
    assert_eq!(portunus.get("a.test", "/").status, 504);
    let mut client = Connection::open(portunus.http);
    client.send("GET /body HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let answer = client.response();
    assert!(answer.status == 200 && !answer.complete, "{answer:?}");
    over.open();
}

#[test]
fn an_endpoint_that_takes_no_more_of_a_body_is_504() {
    let over = Gate::new();
    let gate = over.clone();
    let backend = Backend::new(move |exchange| {
        gate.wait("the test");
        exchange.close();
    });
    let (_folder, portunus) = ruled(&[backend.address()], &[("proxy-send-timeout", "1")]);
    let mut client = Connection::open(portunus.http);
    let piece = vec![b'x'; 64 << 10];
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000000000\r\n\r\n");
    std::thread::scope(|scope| {
        let mut writing = client.wire.stream.try_clone().expect("a copy");
        scope.spawn(move || while std::io::Write::write_all(&mut writing, &piece).is_ok() {});
        assert_eq!(client.response().status, 504);
        // The other side may have ended it already.
        let _ = client.wire.stream.shutdown(std::net::Shutdown::Both);
    });
    over.open();
}

#[test]
fn an_endpoint_that_accepts_no_connection_within_the_rules_time_is_504() {
    let silent = Silent::new();
    let (_folder, portunus) = ruled(&[silent.address()], &[("proxy-connect-timeout", "1")]);
    assert_eq!(portunus.get("a.test", "/").status, 504);
}

#[test]
fn a_body_that_says_it_is_too_long_reaches_nobody() {
    let backend = Backend::named("a");
    let (_folder, portunus) = ruled(&[backend.address()], &[("proxy-body-size", "1k")]);
    let mut client = Connection::open(portunus.http);
    assert_eq!(client.ask(post(&"x".repeat(1024))).status, 200);
    let response = client.ask(post(&"x".repeat(1025)));
    assert_eq!((response.status, response.header("connection")), (413, Some("close")));
    client.assert_closed();
    assert_eq!(backend.count(), 1);
    let long = post(&"x".repeat(100_000)).replace("a.test", "plain.test");
    assert_eq!(Connection::open(portunus.http).ask(long).status, 200);
    run(async {
        let mut client = h2::Connection::cleartext(portunus.http).await;
        let request = http::Request::post("http://a.test/").header("content-length", "1025");
        let body = http_body_util::Full::new(bytes::Bytes::from(vec![b'x'; 1025]));
        let response =
            client.start(request.body(http_body_util::BodyExt::boxed_unsync(body)).expect("a request")).await;
        assert_eq!(response.expect("an answer").status(), 413);
    });
    assert_eq!(backend.count(), 2);
}

#[test]
fn a_body_that_turns_out_too_long_is_413_and_the_endpoints_connection_ends() {
    let backend = Backend::named("a");
    let (_folder, portunus) = ruled(&[backend.address()], &[("proxy-body-size", "1k")]);
    let chunk = |length: usize| format!("{length:x}\r\n{}\r\n", "x".repeat(length));
    let fits = format!("{CHUNKED}{}{}0\r\n\r\n", chunk(512), chunk(512));
    assert_eq!(Connection::open(portunus.http).ask(fits).status, 200);
    let mut client = Connection::open(portunus.http);
    let response = client.ask(format!("{CHUNKED}{}{}", chunk(512), chunk(513)));
    assert_eq!((response.status, response.header("connection")), (413, Some("close")));
    eventually("no connection", || (backend.open() == 0).then_some(()));
    assert_eq!(portunus.get("a.test", "/").status, 200);
}

#[test]
fn a_body_that_turns_out_too_long_behind_the_answers_head_ends_both() {
    let backend = Backend::new(|exchange| {
        exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
        exchange.read_body();
        exchange.close();
    });
    let (_folder, portunus) = ruled(&[backend.address()], &[("proxy-body-size", "1k")]);
    let mut client = Connection::open(portunus.http);
    client.send(format!("{CHUNKED}1\r\nx\r\n"));
    assert_eq!(client.response_head().word(1), "200");
    client.send(format!("800\r\n{}\r\n", "x".repeat(0x800)));
    assert!(client.read_to_end().len() <= 4, "half an answer, and no more");
    eventually("no connection", || (backend.open() == 0).then_some(()));
}

#[test]
fn a_body_is_read_whole_before_an_endpoint_is_chosen_and_has_its_length_then() {
    let backend = Backend::new(Exchange::echo);
    let (_folder, portunus) = ruled(&[backend.address()], &[("proxy-request-buffering", "on")]);
    let mut client = Connection::open(portunus.http);
    client.send(format!("{CHUNKED}3\r\nabc\r\n"));
    // The same worker answers another one meanwhile: what it did not send for the first it holds back.
    assert_eq!(portunus.get("a.test", "/other").status, 200);
    assert_eq!(backend.only().target(), "/other");
    client.send("3\r\ndef\r\n0\r\nX-Trailer: 1\r\n\r\n");
    assert_eq!(client.response().text(), "abcdef");
    let last = backend.last();
    assert_eq!((last.header("content-length"), last.header("transfer-encoding")), (Some("6"), None));
    // Trailers end the client's connection.
    let mut client = Connection::open(portunus.http);
    assert_eq!(client.ask(format!("{CHUNKED}0\r\n\r\n")).text(), "");
    assert_eq!(backend.last().header("content-length"), Some("0"));
    assert_eq!(client.ask(post("xyz")).text(), "xyz");
}

#[test]
fn what_is_too_long_to_be_read_whole_and_what_is_a_conversation_streams() {
    const MIB: usize = 1 << 20;
    let backend = Backend::new(Exchange::echo);
    let keys = [("proxy-request-buffering", "on"), ("proxy-body-size", "4m")];
    let (_folder, portunus) = ruled(&[backend.address()], &keys);
    let long = "x".repeat(2 * MIB);
    let answer = Connection::open(portunus.http).ask(post(&long));
    assert!(answer.text() == long && answer.framing == Framing::Length(2 * MIB));
    // Without a length it shows only when the room is full.
    let mut client = Connection::open(portunus.http);
    client.send(format!("{CHUNKED}{:x}\r\n{long}\r\n", long.len()));
    backend.wait_count(2);
    assert_eq!(backend.last().header("transfer-encoding"), Some("chunked"));
    client.send("3\r\nend\r\n0\r\n\r\n");
    assert!(client.response().text() == format!("{long}end"));
    let grpc = CHUNKED.replace("\r\n\r\n", "\r\nContent-Type: application/grpc+proto\r\n\r\n");
    let mut client = Connection::open(portunus.http);
    client.send(grpc);
    backend.wait_count(3);
}

#[test]
fn a_body_that_was_read_whole_is_sent_once_more() {
    let broken = Backend::new(|exchange| {
        exchange.read_body();
        exchange.close();
    });
    let fine = Backend::new(Exchange::echo);
    let (_folder, portunus) = ruled(&[broken.address(), fine.address()], &[("proxy-request-buffering", "on")]);
    for _ in 0..4 {
        let put = post("a body").replace("POST", "PUT");
        assert_eq!(Connection::open(portunus.http).ask(put).text(), "a body");
    }
    assert_eq!((fine.count(), broken.last().body().to_vec()), (4, b"a body".to_vec()));
    assert!(portunus.metric("portunus_upstream_retries_total", &[]) >= 1.0);
}

#[test]
fn a_client_that_stops_sending_what_is_read_whole_is_408() {
    let backend = Backend::named("a");
    let folder = Folder::new();
    folder.write("app.yaml", app("default", "app", &[backend.address()]));
    let keys = [("proxy-request-buffering", "on")];
    folder.write("ingress.yaml", Ingress::new("default", "all").asks(&keys).prefix("/", "app", 80));
    let portunus = Portunus::serve_with(&folder, &["--request-body-timeout", "300ms"]);
    assert_eq!(Connection::open(portunus.http).ask(format!("{CHUNKED}3\r\nabc\r\n")).status, 408);
    assert_eq!(backend.count(), 0);
}

/// Requests to these have 300 ms for all of it, and these keys and flags beside.
fn in_time(addresses: &[SocketAddr], keys: &[(&str, &str)], flags: &[&str]) -> (Folder, Portunus) {
    in_time_of(Folder::to_addresses(addresses), keys, flags)
}

fn in_time_of(folder: Folder, keys: &[(&str, &str)], flags: &[&str]) -> (Folder, Portunus) {
    let (whole, asked): (Vec<_>, Vec<_>) = keys.iter().copied().partition(|(key, _)| key.contains('/'));
    let ingress = Ingress::new("default", "all").asks(&asked).annotation("portunus.dev/request-timeout", "300ms");
    let ingress = whole.iter().fold(ingress, |ingress, (key, value)| ingress.annotation(key, value));
    folder.write("ingress.yaml", ingress.prefix("/", "app", 80));
    let portunus = Portunus::serve_with(&folder, &[&["--workers", "1", "--access-log", "stdout"], flags].concat());
    portunus.wait_no_problems();
    (folder, portunus)
}

fn late(portunus: &Portunus) -> f64 {
    portunus.metric("portunus_request_timeouts_total", &[])
}

/// Says nothing before the gate is open.
fn silent(over: &Gate) -> Backend {
    let over = over.clone();
    Backend::new(move |exchange| {
        over.wait("the test");
        exchange.close();
    })
}

#[test]
fn the_time_for_all_of_a_request_cuts_off_the_try_that_runs() {
    let over = Gate::new();
    let backend = silent(&over);
    let (_folder, portunus) = in_time(&[backend.address()], &[], &[]);
    let mut client = Connection::open(portunus.http);
    for _ in 0..2 {
        let answer = client.get("a.test", "/");
        assert_eq!((answer.status, answer.complete), (504, true));
        assert!(answer.text().contains("no answer in time"), "{}", answer.text());
    }
    run(async {
        let mut connection = h2::Connection::cleartext(portunus.http).await;
        assert_eq!(connection.get("http://a.test/").await.status, 504);
    });
    assert_eq!((late(&portunus), backend.count()), (3.0, 3), "nobody is asked twice");
    let line: serde_json::Value = serde_json::from_str(&portunus.stdout.wait_for("{")).expect("a line");
    assert_eq!((&line["termination"], &line["status"]), (&"request_timeout".into(), &504.into()), "{line}");
    over.open();
    eventually("the end of the connections that were waited on", || (backend.open() == 0).then_some(()));
}

#[test]
fn the_time_for_all_of_a_request_is_that_of_all_tries() {
    let over = Gate::new();
    let backends = [(); 3].map(|()| silent(&over));
    let keys = [("proxy-next-upstream", "timeout"), ("proxy-next-upstream-tries", "16")];
    let keys = [keys[0], keys[1], ("portunus.dev/try-timeout", "100ms")];
    let (_folder, portunus) = in_time(&backends.each_ref().map(Backend::address), &keys, &["--outlier-failures", "0"]);
    assert_eq!((portunus.get("a.test", "/").status, late(&portunus)), (504, 1.0));
    let tries: usize = backends.iter().map(Backend::count).sum();
    assert!((1..=3).contains(&tries), "{tries}");
    // Connecting counts, and so does a body that is read whole.
    let nobody = Silent::new();
    let (_folder, portunus) = in_time(&[nobody.address()], &[("proxy-next-upstream", "timeout")], &[]);
    assert_eq!((portunus.get("a.test", "/").status, late(&portunus)), (504, 1.0));
    let fine = Backend::named("fine");
    let (_folder, portunus) = in_time(&[fine.address()], &[("proxy-request-buffering", "on")], &[]);
    let mut client = Connection::open(portunus.http);
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nx");
    assert_eq!((client.response().status, late(&portunus), fine.count()), (504, 1.0, 0));
    assert_eq!(portunus.get("a.test", "/").text(), "fine");
    over.open();
}

#[test]
fn an_http_2_endpoint_is_cut_off_likewise() {
    let backend = RawH2Backend::new(|_, _, _| {});
    let (folder, portunus) = in_time(&[], &[], &[]);
    portunus.after(|| folder.write("app.yaml", app_with("default", "app", &[backend.address], "kubernetes.io/h2c")));
    assert_eq!((portunus.get("a.test", "/").status, late(&portunus)), (504, 1.0));
    assert_eq!(backend.count(), 1);
}

#[test]
fn an_answer_that_has_begun_in_time_goes_on_and_so_does_a_tunnel() {
    let (over, silence) = (Gate::new(), Gate::new());
    let gates = (over.clone(), silence.clone());
    let backend = Backend::new(move |exchange| match exchange.head.word(1) {
        "/begun" => {
            exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf");
            gates.0.wait("the time to be over");
            exchange.write("half");
        }
        "/socket" => drop(websocket::echo(exchange)),
        _ => {
            gates.1.wait("the test");
            exchange.close();
        }
    });
    let (_folder, portunus) = in_time(&[backend.address()], &[], &[]);
    let mut client = Connection::open(portunus.http);
    client.send("GET /begun HTTP/1.1\r\nHost: a.test\r\n\r\n");
    backend.wait_count(1);
    let mut socket = WebSocket::open(portunus.http, "a.test", "/socket");
    // One that begins later has had its time.
    assert_eq!(portunus.get("a.test", "/silence").status, 504);
    over.open();
    assert_eq!(client.response().text(), "halfhalf");
    socket.echo("still here");
    silence.open();
}

#[test]
fn who_had_most_of_the_time_has_failed_and_who_had_not_all_of_the_request_has_not() {
    let over = Gate::new();
    let backends = [(); 2].map(|()| silent(&over));
    let flags = ["--outlier-failures", "2", "--outlier-ejection-time", "1h"];
    let all = backends.each_ref().map(Backend::address);
    let (_folder, portunus) = in_time(&all, &[], &flags);
    let ejections = || portunus.metric("portunus_endpoint_ejections_total", &[]);
    for _ in 0..4 {
        let mut client = Connection::open(portunus.http);
        client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nx");
        assert_eq!(client.response().status, 504);
    }
    assert_eq!((late(&portunus), ejections()), (4.0, 0.0), "the clients were slow");
    for _ in 0..4 {
        assert_eq!(portunus.get("a.test", "/").status, 504);
    }
    assert_eq!(ejections(), 1.0);
    over.open();
}

#[test]
fn who_has_waited_for_all_of_the_time_waits_for_no_page() {
    let over = Gate::new();
    let (backend, page) = (silent(&over), Backend::named("page"));
    let folder = Folder::to(&backend);
    folder.write("page.yaml", app("default", "page", &[page.address()]));
    let keys = [("default-backend", "page"), ("custom-http-errors", "504")];
    let (_folder, portunus) = in_time_of(folder, &keys, &[]);
    assert_eq!((portunus.get("a.test", "/").status, page.count()), (504, 0));
    over.open();
}
