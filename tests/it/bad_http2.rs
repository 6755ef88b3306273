//! What HTTP/2 can carry and HTTP/1.1 must not: refused before a byte of it goes to an HTTP/1.1
//! backend (RFC 9113 §8.2 and §8.3).

use crate::harness::h2_raw::{END_STREAM, Outcome, RawH2};
use crate::harness::*;

type Fields = Vec<(&'static str, &'static str)>;

const PSEUDO: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "http"), (":authority", "a.test"), (":path", "/")];

/// A good request with these fields behind it.
fn with(fields: &[(&'static str, &'static str)]) -> Fields {
    [&PSEUDO[..], fields].concat()
}

/// A good request with one pseudo field replaced, or left out if the value is the word `none`.
fn replaced(name: &str, value: &'static str) -> Fields {
    let all = PSEUDO.iter().map(|(n, v)| (*n, if *n == name { value } else { *v }));
    all.filter(|(_, value)| *value != "none").collect()
}

fn get(portunus: &Portunus, fields: &Fields) -> Outcome {
    let mut connection = RawH2::open(portunus.http);
    connection.headers(1, END_STREAM, fields);
    connection.outcome(1)
}

fn is_refused(outcome: Outcome) -> bool {
    match outcome {
        Outcome::Status(status) => matches!(status, 400 | 405 | 431 | 501),
        Outcome::Reset(_) | Outcome::GoAway(_) | Outcome::Closed => true,
    }
}

#[test]
fn good_requests_by_hand_pass() {
    let backend = Backend::new(Exchange::echo);
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve(&folder);
    for fields in [
        with(&[]),
        with(&[("te", "trailers"), ("x-a", "b c")]),
        with(&[("host", "a.test")]),
        with(&[("content-length", "0")]),
        [&[(":path", "/"), (":method", "GET"), (":scheme", "http")][..], &[("host", "a.test")]].concat(),
    ] {
        assert_eq!(get(&portunus, &fields), Outcome::Status(200), "{fields:?}");
        assert_eq!(backend.last().header("host"), Some("a.test"), "{fields:?}");
    }
    let mut connection = RawH2::open(portunus.http);
    connection.headers(1, 0, &with(&[("content-length", "5")]));
    connection.data(1, 0, b"he");
    connection.data(1, END_STREAM, b"llo");
    assert_eq!(connection.outcome(1), Outcome::Status(200));
    assert_eq!(backend.last().body(), b"hello");
}

#[test]
fn malformed_fields_never_reach_an_http_1_1_backend() {
    let backend = Backend::new(Exchange::echo);
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve(&folder);
    let rows: Vec<(&str, Fields)> = vec![
        ("transfer-encoding", with(&[("transfer-encoding", "chunked")])),
        ("connection", with(&[("connection", "close")])),
        ("keep-alive", with(&[("keep-alive", "timeout=5")])),
        ("proxy-connection", with(&[("proxy-connection", "close")])),
        ("upgrade", with(&[("upgrade", "websocket")])),
        ("te other than trailers", with(&[("te", "gzip")])),
        ("CR in a value", with(&[("x-a", "b\rc")])),
        ("LF in a value", with(&[("x-a", "b\nc")])),
        ("CRLF and a field in a value", with(&[("x-a", "b\r\nx-evil: 1")])),
        ("NUL in a value", with(&[("x-a", "b\0c")])),
        ("a colon in a name", with(&[("x:a", "b")])),
        ("a space in a name", with(&[("x a", "b")])),
        ("CRLF in a name", with(&[("x-a\r\nx-evil", "b")])),
        ("an upper-case name", with(&[("X-A", "b")])),
        ("an empty name", with(&[("", "b")])),
        ("a space in the method", replaced(":method", "GET /evil HTTP/1.1")),
        ("CRLF in the method", replaced(":method", "GET\r\nX-Evil: 1")),
        ("an empty method", replaced(":method", "")),
        ("no method", replaced(":method", "none")),
        ("CONNECT", vec![(":method", "CONNECT"), (":authority", "a.test:80")]),
        ("a space in the path", replaced(":path", "/ HTTP/1.1")),
        ("CRLF in the path", replaced(":path", "/ HTTP/1.1\r\nX-Evil: 1")),
        ("an empty path", replaced(":path", "")),
        ("no path", replaced(":path", "none")),
        ("a star as path", replaced(":path", "*")),
        ("a relative path", replaced(":path", "a/b")),
        ("no scheme", replaced(":scheme", "none")),
        ("CRLF in the scheme", replaced(":scheme", "http\r\nx: y")),
        ("no authority and no host", replaced(":authority", "none")),
        ("an empty authority", replaced(":authority", "")),
        ("userinfo in the authority", replaced(":authority", "user@a.test")),
        ("a space in the authority", replaced(":authority", "a test")),
        ("CRLF in the authority", replaced(":authority", "a.test\r\nX-Evil: 1")),
        ("a path in the authority", replaced(":authority", "a.test/evil")),
        ("two authorities", with(&[(":authority", "b.test")])),
        ("another host", with(&[("host", "b.test")])),
        ("two hosts", with(&[("host", "a.test"), ("host", "b.test")])),
        ("a pseudo field behind a field", [&[("x-a", "b")][..], &PSEUDO].concat()),
        ("the path twice", with(&[(":path", "/evil")])),
        ("an unknown pseudo field", with(&[(":evil", "1")])),
        ("a pseudo field of answers", with(&[(":status", "200")])),
        (
            "extended CONNECT that nobody offered",
            [&replaced(":method", "CONNECT")[..], &[(":protocol", "websocket")]].concat(),
        ),
        ("two lengths", with(&[("content-length", "0"), ("content-length", "5")])),
        ("a length without a body", with(&[("content-length", "5")])),
        ("a length that is a word", with(&[("content-length", "five")])),
    ];
    let mut failures = Vec::new();
    for (name, fields) in &rows {
        let before = backend.count();
        let outcome = get(&portunus, fields);
        let whole = backend.requests().split_off(before);
        if !is_refused(outcome) || !whole.is_empty() {
            failures.push(format!("{name}: {outcome:?}, upstream {whole:?}"));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
    assert_eq!(portunus.get("a.test", "/").status, 200);
}

#[test]
fn a_body_unlike_its_length_is_never_a_whole_request_upstream() {
    let backend = Backend::new(|exchange| {
        exchange.read_body();
        exchange.close();
    });
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve(&folder);
    for body in [&b"hell"[..], b"hello!"] {
        let mut connection = RawH2::open(portunus.http);
        connection.headers(1, 0, &with(&[("content-length", "5")]));
        connection.data(1, END_STREAM, body);
        assert!(is_refused(connection.outcome(1)), "{body:?}");
    }
    eventually("the end of the upstream connections", || (backend.open() == 0).then_some(()));
    let whole = |request: &backend::Received| request.body.as_ref().is_some_and(|body| body.complete);
    assert!(!backend.requests().iter().any(whole), "{:?}", backend.requests());
}

#[test]
fn trailers_that_http_1_1_must_not_carry_are_left_out_or_refused() {
    let backend = Backend::new(Exchange::echo);
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve(&folder);
    let fields = ["content-length", "transfer-encoding", "x-evil", "host", ":path"];
    for trailer in
        [(":path", "/evil"), ("content-length", "7"), ("transfer-encoding", "chunked"), ("x-evil", "1\r\nHost: b.test")]
    {
        let mut connection = RawH2::open(portunus.http);
        connection.headers(1, 0, &with(&[("trailer", "content-length, transfer-encoding, x-evil")]));
        connection.data(1, 0, b"hello");
        connection.headers(1, END_STREAM, &[trailer]);
        assert_ne!(connection.outcome(1), Outcome::Closed);
        for request in backend.requests() {
            let trailers = request.body.unwrap_or_default().trailers;
            assert!(!trailers.iter().any(|(name, _)| fields.contains(&name.to_lowercase().as_str())), "{trailers:?}");
        }
    }
}
