//! The same with endpoints that speak HTTP/2 in cleartext. Those that share the faulty connection lose it with the one
//! who met the fault, so that here each has it alone.

use ::h2::Reason;
use http::{Request, StatusCode};
use http_body_util::BodyExt;

use super::{Town, reason};
use crate::harness::h1::Connection;
use crate::harness::h2_raw::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, RawH2, RawH2Backend, WINDOW_UPDATE, block,
};
use crate::harness::*;

const H2C: &str = "kubernetes.io/h2c";

type Fault = fn(&mut RawH2, u32);

fn failing(fault: Fault) -> RawH2Backend {
    RawH2Backend::new(move |connection, stream, _| fault(connection, stream))
}

fn reset(connection: &mut RawH2, stream: u32, reason: Reason) {
    connection.reset(stream, reason.into());
}

#[test]
fn what_fails_before_the_end_of_an_answers_head_is_502_or_504_or_the_same_reset() {
    // What a GET gets over HTTP/1.1, the code of the reset that it is over HTTP/2, and how often the endpoint sees it.
    let faults: [(&str, u16, Option<Reason>, usize, Fault); 13] = [
        ("silence", 504, None, 1, |_, _| {}),
        ("the end of the connection", 502, None, 2, |connection, _| connection.close()),
        ("half a head and the end", 502, None, 2, |connection, stream| {
            connection.frame(HEADERS, 0, stream, &[0x88]);
            connection.close();
        }),
        ("half a head and silence", 504, None, 1, |connection, stream| connection.frame(HEADERS, 0, stream, &[0x88])),
        ("a failure", 502, Some(Reason::INTERNAL_ERROR), 1, |connection, stream| {
            reset(connection, stream, Reason::INTERNAL_ERROR);
        }),
        ("a cancellation", 502, Some(Reason::CANCEL), 1, |connection, stream| {
            reset(connection, stream, Reason::CANCEL);
        }),
        ("a refusal", 502, Some(Reason::REFUSED_STREAM), 2, |connection, stream| {
            reset(connection, stream, Reason::REFUSED_STREAM);
        }),
        ("another protocol", 502, None, 1, |connection, _| {
            connection.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }),
        ("a body without a head", 502, None, 1, |connection, stream| connection.data(stream, END_STREAM, b"body")),
        ("fields that nobody can decode", 502, None, 1, |connection, stream| {
            connection.frame(HEADERS, END_HEADERS | END_STREAM, stream, &[0xff; 16]);
        }),
        ("no status", 502, None, 1, |connection, stream| connection.headers(stream, END_STREAM, &[("x-a", "b")])),
        ("an odd status", 502, None, 1, |connection, stream| {
            connection.headers(stream, END_STREAM, &[(":status", "fine")]);
        }),
        ("a head that is too large", 502, None, 1, |connection, stream| {
            connection.headers(stream, END_STREAM, &[(":status", "200"), ("x-large", &"v".repeat(1 << 20))]);
        }),
    ];
    for (what, status, code, tries, fault) in faults {
        let backend = failing(fault);
        let town = Town::speaking(H2C, &[backend.address]);
        town.while_another_is_served(|| {
            town.assert_status_or_reset("GET", status, code, what);
            assert_eq!(backend.count(), 2 * tries, "{what}: tries of two requests");
        });
    }
}

#[test]
fn a_head_that_comes_for_ever_is_no_answer() {
    // More frames than such a head can need.
    let backend = failing(|connection, stream| {
        connection.frame(HEADERS, 0, stream, &[0x88]);
        let field = block(&[("x-slow", &"v".repeat(1000))]);
        for byte in field {
            if !connection.send(&h2_raw::frame(CONTINUATION, 0, stream, &[byte])) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    });
    let town = Town::speaking(H2C, &[backend.address]);
    town.while_another_is_served(|| {
        assert_eq!(Connection::open(town.portunus.http).get("a.test", "/").status, 502);
    });
    assert_eq!(backend.count(), 1);
}

/// What an endpoint does behind a head that promises 100 bytes and the first four of them, and the code of the reset
/// that it is for an HTTP/2 client; any, where it is the endpoint that broke the protocol.
const BEHIND_THE_HEAD: [(&str, Option<Reason>, Fault); 8] = [
    ("the end of the connection", Some(Reason::INTERNAL_ERROR), |connection, _| connection.close()),
    ("a failure", Some(Reason::INTERNAL_ERROR), |connection, stream| {
        reset(connection, stream, Reason::INTERNAL_ERROR);
    }),
    ("a cancellation", Some(Reason::CANCEL), |connection, stream| reset(connection, stream, Reason::CANCEL)),
    ("an end that comes early", None, |connection, stream| {
        connection.data(stream, END_STREAM, b"half");
    }),
    ("more than was promised", None, |connection, stream| {
        connection.data(stream, END_STREAM, &[b'x'; 200]);
    }),
    ("garbage", None, |connection, _| {
        connection.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    }),
    ("a window beyond all bounds", None, |connection, _| {
        connection.frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffffu32.to_be_bytes());
    }),
    ("silence", Some(Reason::INTERNAL_ERROR), |_, _| {}),
];

fn beginning(fault: Fault, gate: Gate) -> RawH2Backend {
    RawH2Backend::new(move |connection, stream, _| {
        connection.headers(stream, 0, &[(":status", "200"), ("content-length", "100")]);
        connection.frame(DATA, 0, stream, b"half");
        gate.wait("the client to have the beginning");
        fault(connection, stream);
    })
}

#[test]
fn what_fails_within_a_body_is_truncated_and_closed_over_http_1() {
    for (what, _, fault) in BEHIND_THE_HEAD {
        let gate = Gate::new();
        let backend = beginning(fault, gate.clone());
        let town = Town::speaking(H2C, &[backend.address]);
        town.while_another_is_served(|| {
            let mut client = Connection::open(town.portunus.http);
            client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
            assert_eq!(client.response_head().word(1), "200", "{what}");
            assert_eq!(client.wire.up_to(4).expect("the beginning"), b"half", "{what}");
            gate.open();
            // What came before the fault may have been passed on; never as many bytes as were promised.
            let rest = client.read_to_end();
            assert!(rest.len() < 96, "{what}: {} bytes", rest.len());
        });
        assert_eq!(backend.count(), 1, "{what}: what has begun is not asked again");
    }
}

#[test]
fn what_fails_within_a_body_is_a_reset_of_its_stream_over_http_2() {
    for (what, code, fault) in BEHIND_THE_HEAD {
        let gate = Gate::new();
        let backend = beginning(fault, gate.clone());
        let town = Town::speaking(H2C, &[backend.address]);
        town.while_another_is_served(|| {
            run(async {
                let mut connection = h2::Connection::cleartext(town.portunus.http).await;
                let request = Request::get("http://a.test/").body(h2::empty()).expect("a request");
                let mut answer = connection.start(request).await.expect("a head");
                assert_eq!(answer.status(), StatusCode::OK, "{what}");
                gate.open();
                let error = loop {
                    match answer.body_mut().frame().await.unwrap_or_else(|| panic!("{what}: an end that is none")) {
                        Ok(frame) => assert!(frame.into_data().expect("data").len() < 100, "{what}"),
                        Err(error) => break error,
                    }
                };
                let told = reason(&error).expect("a reset");
                assert_eq!(told, code.unwrap_or(told), "{what}: {error:?}");
                assert_eq!(connection.get("http://other.test/").await.text(), "other", "{what}: the same connection");
            });
        });
    }
}

#[test]
fn an_answer_that_comes_slowly_but_comes_is_whole() {
    let slow = RawH2Backend::new(|connection, stream, _| {
        connection.headers(stream, 0, &[(":status", "200"), ("content-length", "26")]);
        for letter in b'a'..=b'z' {
            connection.data(stream, if letter == b'z' { END_STREAM } else { 0 }, &[letter]);
            std::thread::sleep(std::time::Duration::from_millis(25));
        }
    });
    let town = Town::speaking(H2C, &[slow.address]);
    town.while_another_is_served(|| {
        let answer = town.portunus.get("a.test", "/");
        assert_eq!((answer.text().as_str(), answer.complete), ("abcdefghijklmnopqrstuvwxyz", true));
    });
}
