//! Clients that say nothing for a while. After about a second an HTTP/1 connection gives its buffers back, which no
//! client may notice. Here clients pause for a little longer than that: it is what they do, not a wait for anything.
//! What it saves is in proof.rs.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::{scope, sleep};
use std::time::Duration;

use crate::harness::h1::{Connection, connect};
use crate::harness::hyper_backend::HyperBackend;
use crate::harness::manifests::app_with;
use crate::harness::reach::one_worker;
use crate::harness::tls::Client;
use crate::harness::websocket::{self, WebSocket};
use crate::harness::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// Longer than a connection keeps its buffers.
const PAUSE: Duration = Duration::from_millis(1300);

fn post(body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A backend that echoes, and speaks WebSockets.
fn echo() -> Backend {
    Backend::new(|exchange| {
        if exchange.head.has("upgrade") {
            websocket::echo(exchange);
        } else {
            exchange.echo();
        }
    })
}

/// What a client does that pauses again and again; the last thing is a WebSocket.
#[track_caller]
fn pauses<S: Read + Write>(mut client: Connection<S>) {
    assert_eq!(client.ask(post("before")).text(), "before");
    sleep(PAUSE);
    assert_eq!(client.ask(post("after a pause")).text(), "after a pause");
    assert_eq!(client.ask(post("and at once")).text(), "and at once");
    sleep(PAUSE);
    // Larger than what is taken at once; the head alone, too.
    let (cookie, body) = ("c".repeat(20 << 10), "b".repeat(200 << 10));
    let fields = format!("Cookie: {cookie}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    assert!(client.ask(format!("POST / HTTP/1.1\r\nHost: a.test\r\n{fields}")).text() == body);
    sleep(PAUSE);
    client.send([post("one"), post("two"), post("three")].concat());
    for text in ["one", "two", "three"] {
        assert_eq!(client.response().text(), text);
    }
    sleep(PAUSE);
    // In pieces, and more slowly than buffers are kept.
    for (number, piece) in post("slowly").as_bytes().chunks(40).enumerate() {
        if number > 0 {
            sleep(PAUSE);
        }
        client.send(piece);
    }
    assert_eq!(client.response().text(), "slowly");
    // The half of a head right behind a request.
    client.send([post("whole"), GET[..20].to_owned()].concat());
    assert_eq!(client.response().text(), "whole");
    sleep(PAUSE);
    client.send(&GET[20..]);
    assert_eq!(client.response().status, 200);
    sleep(PAUSE);
    let mut socket = WebSocket::over(client, "a.test", "/");
    socket.echo("at once");
    sleep(PAUSE);
    socket.echo("after a pause");
    socket.close();
}

#[test]
fn a_client_that_pauses_is_answered_as_if_it_had_not() {
    let backend = echo();
    let (_folder, portunus) = one_worker(&backend);
    scope(|scope| {
        scope.spawn(|| pauses(Connection::open(portunus.http)));
        scope.spawn(|| pauses(Client::new().connect(portunus.https, "a.test").0));
        scope.spawn(|| pauses(Client::version(&rustls::version::TLS12).connect(portunus.https, "a.test").0));
    });
}

#[test]
fn bytes_that_come_while_buffers_are_given_back_are_not_lost() {
    let backend = echo();
    let (_folder, portunus) = one_worker(&backend);
    let tls = Client::new();
    // Each a little later than the one before: some before that moment, some after it, and some at it.
    let later = |number: usize| sleep(Duration::from_millis(940 + 8 * number as u64));
    scope(|scope| {
        for number in 0..32 {
            let (portunus, tls) = (&portunus, &tls);
            scope.spawn(move || pounce(Connection::open(portunus.http), || later(number)));
            scope.spawn(move || pounce(tls.connect(portunus.https, "a.test").0, || later(number)));
        }
    });
}

#[track_caller]
fn pounce<S: Read + Write>(mut client: Connection<S>, later: impl Fn()) {
    for turn in ["first", "second", "third"] {
        assert_eq!(client.ask(post(turn)).text(), turn);
        later();
        client.send([post("whole"), post("half")[..50].to_owned()].concat());
        client.send(&post("half")[50..]);
        assert_eq!((client.response().text(), client.response().text()), ("whole".to_owned(), "half".to_owned()));
    }
}

#[test]
fn half_a_record_is_no_request_yet() {
    let backend = echo();
    let (_folder, portunus) = one_worker(&backend);
    let (mut client, _) = Client::new().connect(portunus.https, "a.test");
    assert_eq!(client.ask(GET).status, 200);
    sleep(PAUSE);
    let stream = &mut client.wire.stream;
    stream.conn.writer().write_all(GET.as_bytes()).expect("a record");
    let mut record = Vec::new();
    stream.conn.write_tls(&mut record).expect("a record");
    for piece in record.chunks(record.len() / 2) {
        stream.sock.write_all(piece).expect("send");
        sleep(PAUSE);
    }
    assert_eq!(client.response().status, 200);
}

#[test]
fn a_client_that_goes_while_it_pauses_leaves_nothing() {
    let backend = echo();
    let (_folder, portunus) = one_worker(&backend);
    let tls = Client::new();
    let (mut plain, mut finished, mut reset) =
        (Connection::open(portunus.http), Connection::open(portunus.http), Connection::open(portunus.http));
    let (mut secure, _) = tls.connect(portunus.https, "a.test");
    let (mut told, _) = tls.connect(portunus.https, "a.test");
    let answers = [plain.ask(GET), finished.ask(GET), reset.ask(GET), secure.ask(GET), told.ask(GET)];
    assert!(answers.iter().all(|answer| answer.status == 200));
    sleep(PAUSE);
    assert_eq!(portunus.metric("portunus_connections", &[]), 5.0);
    finished.finish();
    finished.assert_closed();
    told.wire.stream.conn.send_close_notify();
    told.wire.stream.flush().expect("an alert");
    told.assert_closed();
    reset.reset();
    drop((plain, secure, finished, told));
    portunus.wait_metric("portunus_connections", &[], |open| open == 0.0);
}

#[test]
fn the_idle_timeout_counts_the_whole_pause() {
    let backend = echo();
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve_with(&folder, &["--workers", "1", "--idle-timeout", "4s"]);
    let mut plain = Connection::open(portunus.http);
    let (mut secure, _) = Client::new().connect(portunus.https, "a.test");
    for _ in 0..2 {
        assert_eq!((plain.ask(GET).status, secure.ask(GET).status), (200, 200));
        sleep(2 * PAUSE);
    }
    assert_eq!((plain.ask(GET).status, secure.ask(GET).status), (200, 200));
    plain.assert_closed();
    secure.assert_closed();
}

#[test]
fn half_a_head_after_a_pause_is_waited_for_as_any() {
    let backend = echo();
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve_with(&folder, &["--workers", "1", "--request-head-timeout", "300ms"]);
    let mut client = Connection::open(portunus.http);
    assert_eq!(client.ask(GET).status, 200);
    sleep(PAUSE);
    client.send(&GET[..20]);
    client.assert_closed();
}

#[test]
fn who_pauses_during_the_drain_is_told_with_the_next_answer() {
    let backend = echo();
    let folder = Folder::to(&backend);
    let mut portunus = Portunus::serve(&folder);
    let mut plain = Connection::open(portunus.http);
    let (mut secure, _) = Client::new().connect(portunus.https, "a.test");
    assert_eq!((plain.ask(GET).status, secure.ask(GET).status), (200, 200));
    sleep(PAUSE);
    portunus.terminate();
    sleep(PAUSE);
    for answer in [plain.ask(GET), secure.ask(GET)] {
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    }
    plain.assert_closed();
    secure.assert_closed();
    assert_eq!(portunus.wait_exit(), 0);
}

#[test]
fn a_body_that_outlasts_its_answer_is_never_read_as_a_request() {
    let backend = HyperBackend::h2c();
    let folder = Folder::new();
    folder.write("app.yaml", app_with("default", "app", &[backend.address()], "kubernetes.io/h2c"));
    folder.write("ingress.yaml", Ingress::new("default", "all").prefix("/", "app", 80));
    let portunus = Portunus::serve_with(&folder, &["--workers", "1"]);
    let body = format!("{}{}", GET.replace("/ ", "/smuggled "), "the end");
    let mut client = Connection::<TcpStream>::over(connect(portunus.http));
    client.send(format!("POST /at-once HTTP/1.1\r\nHost: a.test\r\nContent-Length: {}\r\n\r\n", body.len()));
    assert_eq!(client.response().status, 200);
    sleep(PAUSE);
    for piece in [&body[..4], &body[4..]] {
        client.send(piece);
        sleep(PAUSE);
    }
    let received = eventually("the whole request", || backend.requests().pop());
    assert_eq!((received.uri.path(), &*received.body), ("/at-once", body.as_bytes()));
    drop(client);
    portunus.wait_metric("portunus_connections", &[], |open| open == 0.0);
    assert_eq!(backend.requests().len(), 1);
}
