//! Backends that fail in every way that one can: what the client gets is exact, over HTTP/1.1 and HTTP/2, and another
//! client of another backend notices nothing. Whoever fails is the only endpoint of its Service. Those that speak
//! HTTP/2 have ways of their own to fail: `http2`.

mod http2;

use std::error::Error;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use ::h2::Reason;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Frame;

use crate::echo::Echo;
use crate::harness::backend::Silent;
use crate::harness::h1::Connection;
use crate::harness::h2_raw::RawH2Backend;
use crate::harness::manifests::{app, app_with};
use crate::harness::*;

/// How long an endpoint may be silent here.
const TIMEOUT: &str = "400ms";

/// `a.test` goes to these endpoints, and `other.test` to another backend.
struct Town {
    portunus: Portunus,
    _other: Backend,
    _folder: Folder,
}

impl Town {
    #[track_caller]
    fn with(addresses: &[std::net::SocketAddr]) -> Self {
        Self::speaking("", addresses)
    }

    /// Endpoints of an `appProtocol`.
    #[track_caller]
    fn speaking(protocol: &str, addresses: &[std::net::SocketAddr]) -> Self {
        let other = Backend::named("other");
        let folder = Folder::new();
        folder.write("app.yaml", app_with("default", "app", addresses, protocol));
        folder.write("other.yaml", app("default", "other", &[other.address()]));
        let ingress = Ingress::new("default", "all").host("a.test").prefix("/", "app", 80);
        folder.write("ingress.yaml", ingress.host("other.test").prefix("/", "other", 80));
        let flags = ["--upstream-read-timeout", TIMEOUT, "--connect-timeout", TIMEOUT, "--workers", "1"];
        let portunus = Portunus::serve_with(&folder, &flags);
        Self { portunus, _other: other, _folder: folder }
    }

    /// Runs this while somebody else asks the other backend, over one connection, and gets each answer whole.
    #[track_caller]
    fn while_another_is_served(&self, act: impl FnOnce()) {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let mut client = Connection::open(self.portunus.http);
                let mut count = 0;
                while !over.load(Ordering::SeqCst) || count < 3 {
                    let answer = client.get("other.test", "/");
                    assert_eq!((answer.status, answer.text().as_str(), answer.complete), (200, "other", true));
                    count += 1;
                }
            });
            {
                let _over = Over(&over);
                act();
            }
            asking.join().expect("the other client is served");
        });
    }

    /// The status that a request gets over each protocol; its connection serves on.
    #[track_caller]
    fn assert_status(&self, method: &str, status: u16, what: &str) {
        self.assert_status_or_reset(method, status, None, what);
    }

    /// Over HTTP/2 it may be a reset with this code in place of the status.
    #[track_caller]
    fn assert_status_or_reset(&self, method: &str, status: u16, reset: Option<Reason>, what: &str) {
        let mut client = Connection::open(self.portunus.http);
        let answer = client.ask(format!("{method} / HTTP/1.1\r\nHost: a.test\r\n\r\n"));
        assert_eq!((answer.status, answer.complete), (status, true), "{what}: {method} over HTTP/1.1");
        assert_eq!(client.get("other.test", "/").text(), "other", "{what}: the same connection");
        run(async {
            let mut connection = h2::Connection::cleartext(self.portunus.http).await;
            let request = Request::builder().method(method).uri("http://a.test/").body(h2::empty());
            let answer = connection.start(request.expect("a request")).await;
            match (answer, reset) {
                (Ok(answer), None) => {
                    let answer = h2::Answer::of(answer).await.expect("a whole answer");
                    assert_eq!(answer.status, status, "{what}: {method} over HTTP/2");
                }
                (Err(error), Some(_)) => assert_eq!(reason(&error), reset, "{what}: {method}: {error:?}"),
                (answer, _) => panic!("{what}: {method} over HTTP/2: {answer:?}"),
            }
            assert_eq!(connection.get("http://other.test/").await.text(), "other", "{what}: the same connection");
        });
    }
}

/// The code that a stream was reset with.
fn reason(error: &hyper::Error) -> Option<Reason> {
    error.source().and_then(|source| source.downcast_ref::<::h2::Error>()).and_then(::h2::Error::reason)
}

type Fault = fn(&mut Exchange);

fn close_behind(exchange: &mut Exchange, bytes: &str) {
    exchange.write(bytes);
    exchange.close();
}

/// One byte now and then, for ever: never silent, and never done.
fn dribble(exchange: &mut Exchange, bytes: &str) {
    for byte in bytes.bytes().chain(std::iter::repeat(b'x')) {
        if !exchange.write([byte]) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    exchange.close();
}

#[test]
fn what_fails_before_the_end_of_an_answers_head_is_502_or_504() {
    // What a GET gets, and how often the endpoint sees it; anything else is sent once.
    let faults: [(&str, u16, usize, Fault); 13] = [
        ("silence", 504, 1, |exchange| drop(exchange.wire.rest())),
        ("a reset", 502, 2, Exchange::reset),
        ("an end", 502, 2, Exchange::close),
        ("half a head and the end", 502, 2, |exchange| close_behind(exchange, "HTTP/1.1 200 OK\r\nContent-Le")),
        ("half a head and a reset", 502, 2, |exchange| {
            exchange.write("HTTP/1.1 200 OK\r\nContent-Le");
            exchange.reset();
        }),
        ("a slow head", 504, 1, |exchange| dribble(exchange, "HTTP/1.1 200 OK\r\nX-Slow: ")),
        ("another protocol", 502, 1, |exchange| close_behind(exchange, "SSH-2.0-OpenSSH_9.2\r\n\r\n")),
        ("no head at all", 502, 1, |exchange| close_behind(exchange, "<html>It works!</html>\r\n\r\n")),
        ("a TLS alert", 502, 1, |exchange| close_behind(exchange, "\u{15}\u{3}\u{1}\0\u{2}\u{2}F\r\n\r\n")),
        ("an odd length", 502, 1, |exchange| {
            close_behind(exchange, "HTTP/1.1 200 OK\r\nContent-Length: four\r\n\r\nbody");
        }),
        ("another protocol than was asked for", 502, 1, |exchange| {
            close_behind(exchange, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n");
        }),
        ("a head that is too large", 502, 1, |exchange| {
            let value = "v".repeat(1 << 20);
            close_behind(exchange, &format!("HTTP/1.1 200 OK\r\nX-Large: {value}\r\nContent-Length: 0\r\n\r\n"));
        }),
        ("too many fields", 502, 1, |exchange| {
            let fields = "X-A: b\r\n".repeat(500);
            close_behind(exchange, &format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 0\r\n\r\n"));
        }),
    ];
    for (what, status, tries, fault) in faults {
        let backend = Backend::new(fault);
        let town = Town::with(&[backend.address()]);
        town.while_another_is_served(|| {
            town.assert_status("GET", status, what);
            assert_eq!(backend.count(), 2 * tries, "{what}: tries of two requests");
            town.assert_status("POST", status, what);
            assert_eq!(backend.count(), 2 * tries + 2, "{what}: a POST is sent once");
        });
    }
}

#[test]
fn an_endpoint_that_takes_no_connection_is_504_and_one_that_refuses_it_502() {
    let (silent, refusing) = (Silent::new(), backend::Refusing::new());
    for (address, status) in [(silent.address(), 504), (refusing.address(), 502)] {
        let town = Town::with(&[address]);
        town.while_another_is_served(|| {
            town.assert_status("GET", status, "no connection");
            town.assert_status("POST", status, "no connection");
        });
    }
}

#[test]
fn an_endpoint_that_does_not_shake_hands_is_504_and_one_that_speaks_something_else_502() {
    // Both wait for a head in cleartext; the second has said something by then.
    let (silent, other) = (Backend::named("silent"), RawH2Backend::new(|_, _, _| {}));
    for (address, status) in [(silent.address(), 504), (other.address, 502)] {
        let town = Town::speaking("https", &[address]);
        town.while_another_is_served(|| {
            town.assert_status("GET", status, "no handshake");
            town.assert_status("POST", status, "no handshake");
        });
    }
    assert_eq!(silent.count(), 0);
}

/// What an endpoint does behind the head and the first part of a body, once the client has both.
const BEHIND_THE_HEAD: [(&str, bool, Fault); 6] = [
    ("the end within a length", false, Exchange::close),
    ("a reset within a length", false, Exchange::reset),
    ("the end within chunks", true, Exchange::close),
    ("a reset within chunks", true, Exchange::reset),
    ("no chunk", true, |exchange| close_behind(exchange, "chunk\r\n")),
    ("silence", false, |exchange| drop(exchange.wire.rest())),
];

/// An endpoint that begins well, and what comes once the gate is open.
fn beginning(chunked: bool, fault: Fault, gate: Gate) -> Backend {
    let begin =
        if chunked { "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n" } else { "Content-Length: 100\r\n\r\nhalf" };
    Backend::new(move |exchange| {
        exchange.write(format!("HTTP/1.1 200 OK\r\n{begin}"));
        gate.wait("the client to have the beginning");
        fault(exchange);
    })
}

#[test]
fn what_fails_within_a_body_is_truncated_and_closed_over_http_1() {
    for (what, chunked, fault) in BEHIND_THE_HEAD {
        let gate = Gate::new();
        let backend = beginning(chunked, fault, gate.clone());
        let town = Town::with(&[backend.address()]);
        town.while_another_is_served(|| {
            let mut client = Connection::open(town.portunus.http);
            client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
            assert_eq!(client.response_head().word(1), "200", "{what}");
            let begin = if chunked { "4\r\nhalf\r\n" } else { "half" };
            let got = client.wire.up_to(begin.len()).expect("the beginning");
            assert_eq!(String::from_utf8_lossy(&got), begin, "{what}");
            gate.open();
            client.assert_closed();
        });
        assert_eq!(backend.count(), 1, "{what}: what has begun is not asked again");
    }
}

#[test]
fn what_fails_within_a_body_is_a_reset_of_its_stream_over_http_2() {
    for (what, chunked, fault) in BEHIND_THE_HEAD {
        let gate = Gate::new();
        let backend = beginning(chunked, fault, gate.clone());
        let town = Town::with(&[backend.address()]);
        town.while_another_is_served(|| {
            run(async {
                let mut connection = h2::Connection::cleartext(town.portunus.http).await;
                let request = Request::get("http://a.test/").body(h2::empty()).expect("a request");
                let mut answer = connection.start(request).await.expect("a head");
                assert_eq!(answer.status(), StatusCode::OK, "{what}");
                let begin = answer.body_mut().frame().await.expect("a frame").expect("the beginning");
                assert_eq!(&begin.into_data().expect("data")[..], b"half", "{what}");
                gate.open();
                let error = answer.body_mut().frame().await.expect("an end that is none").expect_err(what);
                assert_eq!(reason(&error), Some(Reason::INTERNAL_ERROR), "{what}: {error:?}");
                assert_eq!(connection.get("http://other.test/").await.text(), "other", "{what}: the same connection");
            });
        });
    }
}

#[test]
fn an_answer_that_comes_slowly_but_comes_is_whole() {
    let slow = Backend::new(|exchange| {
        exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 26\r\n\r\n");
        for letter in b'a'..=b'z' {
            exchange.write([letter]);
            std::thread::sleep(Duration::from_millis(25));
        }
    });
    let town = Town::with(&[slow.address()]);
    town.while_another_is_served(|| {
        let answer = town.portunus.get("a.test", "/");
        assert_eq!((answer.text().as_str(), answer.complete), ("abcdefghijklmnopqrstuvwxyz", true));
    });
}

/// What comes of a request whose endpoint has its head and the first part of its body, and fails.
#[test]
fn an_endpoint_that_fails_within_a_requests_body_is_502_and_the_request_is_not_repeated() {
    let faults: [(&str, Fault); 3] = [
        ("a reset", Exchange::reset),
        ("an end", Exchange::close),
        ("garbage", |exchange| close_behind(exchange, "SSH-2.0-OpenSSH_9.2\r\n\r\n")),
    ];
    for (what, fault) in faults {
        let backend = Backend::new(move |exchange| {
            assert!(exchange.wire.unread.len() >= 4 || exchange.wire.fill().is_ok(), "the first part");
            fault(exchange);
        });
        let town = Town::with(&[backend.address()]);
        town.while_another_is_served(|| {
            let mut client = Connection::open(town.portunus.http);
            client.send("PUT / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100\r\n\r\nhalf");
            let answer = client.response();
            assert_eq!((answer.status, answer.complete), (502, true), "{what}");
            // Nobody reads the rest as another request.
            let _ = client.wire.write(b"GET /evil HTTP/1.1\r\nHost: other.test\r\n\r\n");
            client.assert_closed();
            run(async {
                let mut connection = h2::Connection::cleartext(town.portunus.http).await;
                let (sender, body) = h2::fed();
                sender.send(Frame::data(Bytes::from("half"))).await.expect("the first part");
                let request = Request::put("http://a.test/").body(body).expect("a request");
                assert_eq!(connection.send(request).await.status, 502, "{what} over HTTP/2");
                assert_eq!(connection.get("http://other.test/").await.text(), "other", "{what}: the same connection");
            });
        });
        assert_eq!(backend.count(), 2, "{what}: nothing is sent twice");
    }
}

#[test]
fn a_backend_that_is_killed_under_load_costs_no_request_that_may_be_sent_again() {
    for protocol in ["", "kubernetes.io/h2c"] {
        killed_under_load(protocol);
    }
}

fn killed_under_load(protocol: &str) {
    const CLIENTS: usize = 8;
    let mut backends = vec![Echo::start(&["--name", "one"]), Echo::start(&["--name", "two"])];
    let addresses: Vec<_> = backends.iter().map(|backend| backend.address).collect();
    let town = Town::speaking(protocol, &addresses);
    let (over, answered, lost) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let note = |method: &str, status: u16| match (method, status) {
        (_, 200) => drop(answered.fetch_add(1, Ordering::SeqCst)),
        ("POST", 502) => drop(lost.fetch_add(1, Ordering::SeqCst)),
        (method, status) => panic!("{protocol}: {method}: {status}"),
    };
    let over_http1 = |method: &str| {
        let mut client = Connection::open(town.portunus.http);
        while !over.load(Ordering::SeqCst) {
            let answer = client.ask(format!("{method} / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n"));
            assert!(answer.complete);
            note(method, answer.status);
        }
    };
    let over_http2 = |method: &str| {
        run(async {
            let mut connection = h2::Connection::cleartext(town.portunus.http).await;
            while !over.load(Ordering::SeqCst) {
                let request = Request::builder().method(method).uri("http://a.test/").body(h2::empty());
                note(method, connection.send(request.expect("a request")).await.status.as_u16());
            }
        });
    };
    let client = |number: usize| {
        let method = if number.is_multiple_of(2) { "GET" } else { "POST" };
        if number < CLIENTS / 2 { over_http1(method) } else { over_http2(method) }
    };
    town.while_another_is_served(|| {
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(move || client(number))).collect();
            {
                let _over = Over(&over);
                let wait = |more: usize| {
                    let goal = answered.load(Ordering::SeqCst) + more;
                    eventually("answers", || (answered.load(Ordering::SeqCst) >= goal).then_some(()));
                };
                wait(200);
                // By SIGKILL.
                drop(backends.pop());
                wait(200);
            }
            for client in clients {
                client.join().expect("exact answers only");
            }
        });
    });
    let lost = lost.into_inner();
    // One that is under way for each client that posts, and one more where the dying process still took a connection.
    assert!(lost <= CLIENTS, "{protocol}: {lost} POSTs were lost");
}
