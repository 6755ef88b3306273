//! SIGTERM lets what runs finish; a second one does not wait.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::harness::certificates::Authority;
use crate::harness::h1::Connection;
use crate::harness::h2::{self, Answer, empty};
use crate::harness::h2_raw::{END_STREAM, Outcome, RawH2};
use crate::harness::manifests::app;
use crate::harness::websocket::{self, WebSocket};
use crate::harness::*;
use http::Request;

/// `/held` is answered when the gate opens; everything else at once.
fn holding() -> (Backend, Gate) {
    let release = Gate::new();
    let gate = release.clone();
    let backend = Backend::new(move |exchange| {
        if exchange.head.has("upgrade") {
            websocket::echo(exchange);
            return;
        }
        if exchange.head.word(1) == "/held" {
            gate.wait("the release");
        }
        exchange.ok("done");
    });
    (backend, release)
}

/// Tells the process to end and waits until it says that it is no longer ready.
#[track_caller]
fn drain(portunus: &Portunus) {
    portunus.terminate();
    eventually("not ready", || {
        let Ok(stream) = std::net::TcpStream::connect(portunus.admin) else { return Some(()) };
        drop(stream);
        (portunus.admin("/readyz").status == 503).then_some(())
    });
}

/// The last stream that a GOAWAY names when none is left out (RFC 9113, 6.8).
const EVERY_STREAM: u32 = u32::MAX >> 1;
const GET: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a.test")];

/// An HTTP/2 connection that was answered once.
#[track_caller]
fn idle_http2(portunus: &Portunus) -> RawH2 {
    let mut client = RawH2::open(portunus.http);
    client.headers(1, END_STREAM, &GET);
    assert_eq!(client.outcome(1), Outcome::Status(200));
    client
}

fn says_close(response: &h1::Response) -> bool {
    response.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
}

#[test]
fn requests_that_run_are_answered_and_the_exit_code_is_0() {
    let (backend, release) = holding();
    let folder = Folder::to(&backend);
    let mut portunus = Portunus::serve(&folder);
    let mut running: Vec<_> = (0..8).map(|_| Connection::open(portunus.http)).collect();
    for client in &mut running {
        client.send("GET /held HTTP/1.1\r\nHost: a.test\r\n\r\n");
    }
    backend.wait_count(8);
    drain(&portunus);
    assert!(portunus.is_running());
    release.open();
    for client in &mut running {
        let response = client.response();
        assert_eq!((response.status, response.text().as_str()), (200, "done"));
        assert!(says_close(&response), "{:?}", response.head);
        client.assert_closed();
    }
    assert_eq!(portunus.wait_exit(), 0);
}

#[test]
fn an_idle_connection_is_answered_once_more_with_connection_close() {
    let (backend, release) = holding();
    let folder = Folder::to(&backend);
    let mut portunus = Portunus::serve(&folder);
    // Keeps the drain open.
    let mut running = Connection::open(portunus.http);
    running.send("GET /held HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let mut idle: Vec<_> = (0..8).map(|_| Connection::open(portunus.http)).collect();
    for client in &mut idle {
        assert!(!says_close(&client.get("a.test", "/")));
    }
    backend.wait_count(9);
    drain(&portunus);
    for client in &mut idle {
        let response = client.get("a.test", "/");
        assert_eq!(response.text(), "done");
        assert!(says_close(&response), "{:?}", response.head);
        client.assert_closed();
    }
    release.open();
    assert_eq!(running.response().text(), "done");
    assert_eq!(portunus.wait_exit(), 0);
}

#[test]
fn streams_of_http_2_finish() {
    let (backend, release) = holding();
    let identity = Authority::new().leaf(&["a.test"]);
    let folder = Folder::new();
    folder.write("app.yaml", app("default", "app", &[backend.address()]));
    folder.write("secret.yaml", manifests::tls_secret("default", "a", &identity.chain_pem, &identity.key_pem));
    let ingress = Ingress::new("default", "a").host("a.test").prefix("/", "app", 80);
    folder.write("ingress.yaml", ingress.tls(&["a.test"], "a"));
    let mut portunus = Portunus::serve(&folder);
    run(async {
        let client = tls::Client::new().alpn(&["h2"]);
        let (connection, _) = h2::Connection::tls(portunus.https, &client, "a.test").await;
        let streams = (0..8).map(|_| {
            let mut connection = connection.clone();
            tokio::spawn(async move { connection.get("https://a.test/held").await })
        });
        let streams: Vec<_> = streams.collect();
        let count = backend.count_handle();
        let reached = move || eventually("all streams at the backend", || (count() == 8).then_some(()));
        tokio::task::spawn_blocking(reached).await.expect("all streams");
        drain(&portunus);
        release.open();
        for stream in streams {
            let answer: Answer = stream.await.expect("a stream");
            assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "done"));
        }
        // The connection takes no more.
        let mut connection = connection;
        let request = Request::get("https://a.test/").body(empty()).expect("a request");
        assert!(connection.start(request).await.is_err());
    });
    assert_eq!(portunus.wait_exit(), 0);
}

#[test]
fn tunnels_go_on_until_their_ends_close_them() {
    let (backend, _release) = holding();
    let folder = Folder::to(&backend);
    let mut portunus = Portunus::serve(&folder);
    let mut sockets: Vec<_> = (0..4).map(|_| WebSocket::open(portunus.http, "a.test", "/")).collect();
    drain(&portunus);
    for socket in &mut sockets {
        socket.echo("still here");
    }
    assert!(portunus.is_running());
    for socket in sockets {
        socket.close();
    }
    assert_eq!(portunus.wait_exit(), 0);
}

#[test]
fn the_drain_ends_at_its_limit() {
    let (backend, release) = holding();
    let folder = Folder::to(&backend);
    let mut portunus = Portunus::serve_with(&folder, &["--drain-timeout", "500ms"]);
    let mut running = Connection::open(portunus.http);
    running.send("GET /held HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let mut socket = WebSocket::open(portunus.http, "a.test", "/");
    socket.echo("hello");
    backend.wait_count(2);
    portunus.terminate();
    portunus.wait_exit();
    assert!(!release.is_open(), "it did not wait for the backend");
    running.assert_closed();
    assert_eq!(socket.next(), Some(going_away()));
    socket.connection.assert_closed();
    release.open();
}

/// What a WebSocket's client is told that is to come back elsewhere: a close frame with 1001 (RFC 6455, 7.4.1).
fn going_away() -> (u8, Vec<u8>) {
    (8, 1001u16.to_be_bytes().to_vec())
}

#[test]
fn websockets_are_told_at_the_drains_end_and_may_say_goodbye() {
    let (backend, _release) = holding();
    let folder = Folder::to(&backend);
    let mut portunus = Portunus::serve_with(&folder, &["--drain-timeout", "300ms"]);
    let mut plain = WebSocket::open(portunus.http, "a.test", "/");
    let (tls, _) = tls::Client::new().connect(portunus.https, "a.test");
    let mut secure = WebSocket::over(tls, "a.test", "/");
    plain.echo("hello");
    secure.echo("hello");
    portunus.terminate();
    assert_eq!((plain.next(), secure.next()), (Some(going_away()), Some(going_away())));
    plain.connection.send(websocket::frame(8, &1001u16.to_be_bytes(), true));
    plain.connection.assert_closed();
    secure.connection.assert_closed();
    assert_eq!(portunus.wait_exit(), 0);
}

#[test]
fn a_frame_on_its_way_is_whole_before_the_close_frame_and_none_is_begun_behind_it() {
    let rest = Gate::new();
    let gate = rest.clone();
    let backend = Backend::new(move |exchange| {
        websocket::accept(exchange);
        let frame = websocket::frame(1, b"a long message", false);
        exchange.write(&frame[..9]);
        gate.wait("the drain's end");
        exchange.write([&frame[9..], &websocket::frame(1, b"too late", false)].concat());
        exchange.close();
    });
    let folder = Folder::to(&backend);
    let mut portunus = Portunus::serve_with(&folder, &["--drain-timeout", "100ms"]);
    let mut socket = WebSocket::open(portunus.http, "a.test", "/");
    portunus.terminate();
    portunus.stderr.wait_for("the drain's time is up");
    rest.open();
    assert_eq!(socket.next(), Some((1, b"a long message".to_vec())));
    assert_eq!(socket.next(), Some(going_away()));
    socket.connection.assert_closed();
    assert_eq!(portunus.wait_exit(), 0);
}

#[test]
fn who_is_idle_at_the_drains_end_is_closed_in_order() {
    let (backend, _release) = holding();
    let folder = Folder::to(&backend);
    let mut portunus = Portunus::serve_with(&folder, &["--drain-timeout", "300ms"]);
    let mut plain = Connection::open(portunus.http);
    let (mut secure, _) = tls::Client::new().connect(portunus.https, "a.test");
    assert_eq!((plain.get("a.test", "/").status, secure.get("a.test", "/").status), (200, 200));
    portunus.terminate();
    plain.assert_closed();
    assert_eq!(secure.wire.fill().ok(), Some(0), "TLS says goodbye too");
    drop((plain, secure));
    assert_eq!(portunus.wait_exit(), 0);
}

#[test]
fn a_second_signal_stops_at_once() {
    let (backend, release) = holding();
    let folder = Folder::to(&backend);
    for second in ["TERM", "INT"] {
        let mut portunus = Portunus::serve_with(&folder, &["--drain-timeout", "10m"]);
        let mut running = Connection::open(portunus.http);
        let before = backend.count();
        running.send("GET /held HTTP/1.1\r\nHost: a.test\r\n\r\n");
        backend.wait_count(before + 1);
        drain(&portunus);
        portunus.signal(second);
        portunus.wait_exit();
        running.assert_closed();
    }
    release.open();
}

#[test]
fn in_the_delay_everything_is_served_as_before() {
    let (backend, _release) = holding();
    let folder = Folder::to(&backend);
    let mut portunus = Portunus::serve_with(&folder, &["--pre-stop-delay", "10m", "--drain-timeout", "10m"]);
    let mut kept = Connection::open(portunus.http);
    assert_eq!(kept.get("a.test", "/").text(), "done");
    let mut http2 = idle_http2(&portunus);
    drain(&portunus);
    for _ in 0..3 {
        let response = kept.get("a.test", "/");
        assert_eq!((response.text().as_str(), says_close(&response)), ("done", false));
        let response = Connection::open(portunus.http).get("a.test", "/");
        assert_eq!((response.text().as_str(), says_close(&response)), ("done", false));
    }
    http2.headers(3, END_STREAM, &GET);
    assert_eq!(http2.outcome(3), Outcome::Status(200));
    // The second signal stops at once, and nothing had been said before it.
    portunus.terminate();
    assert_eq!(portunus.wait_exit(), 0);
    assert_eq!(http2.outcome(5), Outcome::Closed, "no GOAWAY");
    kept.assert_closed();
}

#[test]
fn after_the_delay_the_drain_begins() {
    let (backend, release) = holding();
    let folder = Folder::to(&backend);
    let mut portunus = Portunus::serve_with(&folder, &["--pre-stop-delay", "300ms", "--drain-timeout", "10m"]);
    let mut running = Connection::open(portunus.http);
    running.send("GET /held HTTP/1.1\r\nHost: a.test\r\n\r\n");
    backend.wait_count(1);
    let mut http2 = idle_http2(&portunus);
    drain(&portunus);
    assert_eq!(http2.going_away(), EVERY_STREAM, "who was idle all along is told as well");
    // Balancers have not noticed yet: who still comes is served, once.
    let mut late = Connection::open(portunus.http);
    let response = late.get("a.test", "/");
    assert_eq!((response.text().as_str(), says_close(&response)), ("done", true));
    late.assert_closed();
    release.open();
    let response = running.response();
    assert_eq!((response.text().as_str(), says_close(&response)), ("done", true));
    running.assert_closed();
    drop((running, http2));
    assert_eq!(portunus.wait_exit(), 0);
    portunus.stderr.wait_for("drained");
}

#[test]
fn the_drain_has_its_own_time_behind_the_delay() {
    let (backend, release) = holding();
    let folder = Folder::to(&backend);
    // Were its limit counted from the signal, it would be over with the delay, and nobody would be told.
    let mut portunus = Portunus::serve_with(&folder, &["--pre-stop-delay", "2s", "--drain-timeout", "2s"]);
    let mut running = Connection::open(portunus.http);
    running.send("GET /held HTTP/1.1\r\nHost: a.test\r\n\r\n");
    backend.wait_count(1);
    let mut http2 = idle_http2(&portunus);
    portunus.terminate();
    assert_eq!(http2.going_away(), EVERY_STREAM);
    assert_eq!(portunus.wait_exit(), 0);
    portunus.stderr.wait_for("the drain's time is up");
    running.assert_closed();
    release.open();
}

#[test]
fn a_request_on_its_way_when_http_2_is_told_to_go_is_answered() {
    let (backend, release) = holding();
    let folder = Folder::to(&backend);
    let mut portunus = Portunus::serve(&folder);
    let mut running = Connection::open(portunus.http);
    running.send("GET /held HTTP/1.1\r\nHost: a.test\r\n\r\n");
    backend.wait_count(1);
    let mut client = idle_http2(&portunus);
    portunus.terminate();
    // The first GOAWAY leaves no stream out: those that were sent before it arrived are still taken.
    assert_eq!(client.going_away(), EVERY_STREAM);
    client.headers(3, END_STREAM, &GET);
    assert_eq!(client.outcome(3), Outcome::Status(200));
    release.open();
    assert_eq!(running.response().text(), "done");
    drop(client);
    assert_eq!(portunus.wait_exit(), 0);
}

#[test]
fn kept_alive_clients_never_see_a_reset_around_the_signal() {
    let (backend, _release) = holding();
    let folder = Folder::to(&backend);
    let mut portunus = Portunus::serve(&folder);
    let (address, asked) = (portunus.http, AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = Connection::open(address);
                // As fast as it goes, until it is told to go elsewhere: no request may be lost.
                loop {
                    let response = client.get("a.test", "/");
                    assert_eq!(response.text(), "done");
                    asked.fetch_add(1, Ordering::SeqCst);
                    if says_close(&response) {
                        return client.assert_closed();
                    }
                }
            });
        }
        eventually("traffic", || (asked.load(Ordering::SeqCst) > 200).then_some(()));
        portunus.terminate();
    });
    assert_eq!(portunus.wait_exit(), 0);
}

#[test]
fn without_traffic_the_end_comes_at_once() {
    let (backend, _release) = holding();
    let folder = Folder::to(&backend);
    for signal in ["TERM", "INT"] {
        let mut portunus = Portunus::serve_with(&folder, &["--drain-timeout", "10m"]);
        assert_eq!(portunus.get("a.test", "/").text(), "done");
        portunus.signal(signal);
        assert_eq!(portunus.wait_exit(), 0, "{signal}");
    }
}
