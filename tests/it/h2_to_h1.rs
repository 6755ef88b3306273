//! Requests over HTTP/2 as an HTTP/1.1 backend gets them, read by the letter: what HTTP/2 may say and HTTP/1.1 can't is
//! refused, and the rest arrives as one request with one meaning (RFC 9113 §8). `bad_http2` has what HTTP/2 itself forbids.

use crate::harness::h2_raw::{END_STREAM, Outcome, RawH2};
use crate::harness::strict::Request;
use crate::harness::strict_backend::{Seen, StrictBackend};
use crate::harness::*;

type Fields = Vec<(&'static str, &'static str)>;

const PSEUDO: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "http"), (":authority", "a.test"), (":path", "/")];

fn with(fields: &[(&'static str, &'static str)]) -> Fields {
    [&PSEUDO[..], fields].concat()
}

/// A request with these pseudo fields instead of the usual ones of their names.
fn replaced(others: &[(&'static str, &'static str)]) -> Fields {
    let value = |name: &str| others.iter().find(|(other, _)| *other == name).map(|(_, value)| *value);
    PSEUDO.iter().map(|(name, usual)| (*name, value(name).unwrap_or(usual))).collect()
}

/// Portunus in front of a strict backend; what it saw comes back when Portunus has ended.
fn served(test: impl FnOnce(&Portunus)) -> Seen {
    let backend = StrictBackend::new();
    let folder = Folder::to_addresses(&[backend.address()]);
    let portunus = Portunus::serve(&folder);
    test(&portunus);
    drop(portunus);
    let seen = backend.finish();
    assert!(seen.violations.is_empty(), "{:#?}", seen.violations);
    seen
}

fn get(portunus: &Portunus, fields: &Fields) -> Outcome {
    let mut connection = RawH2::open(portunus.http);
    connection.headers(1, END_STREAM, fields);
    connection.outcome(1)
}

/// Sends a body in these pieces, and trailers if there are some.
fn post(portunus: &Portunus, fields: &Fields, pieces: &[&[u8]], trailers: &[(&str, &str)]) -> Outcome {
    let mut connection = RawH2::open(portunus.http);
    connection.headers(1, 0, fields);
    for (index, piece) in pieces.iter().enumerate() {
        let last = index + 1 == pieces.len() && trailers.is_empty();
        connection.data(1, if last { END_STREAM } else { 0 }, piece);
    }
    if !trailers.is_empty() {
        connection.headers(1, END_STREAM, trailers);
    }
    connection.outcome(1)
}

fn value<'r>(request: &'r Request, name: &str) -> Vec<&'r str> {
    request.all(name).into_iter().map(|value| std::str::from_utf8(value).expect("text")).collect()
}

#[test]
fn what_http_1_1_can_not_say_is_refused() {
    let rows: Vec<(&str, Fields)> = vec![
        ("a space before a value", with(&[("x-a", " b")])),
        ("a space behind a value", with(&[("x-a", "b ")])),
        ("a tab before a value", with(&[("x-a", "\tb")])),
        ("a tab behind a value", with(&[("x-a", "b\t")])),
        ("a value of a space", with(&[("x-a", " ")])),
        ("a space before a length", with(&[("content-length", " 0")])),
        ("DEL in a value", with(&[("x-a", "b\u{7f}c")])),
        ("CRLF and a request in a value", with(&[("x-a", "b\r\n\r\nGET /evil HTTP/1.1\r\nhost: a.test")])),
        ("CRLF in a cookie", with(&[("cookie", "a=b"), ("cookie", "c=d\r\nx: y")])),
        ("an absolute path", replaced(&[(":path", "http://b.test/")])),
        ("an authority as path", replaced(&[(":path", "a.test:80")])),
        ("a query alone as path", replaced(&[(":path", "?a=b")])),
        ("a control byte in the path", replaced(&[(":path", "/\u{1}")])),
        ("NUL in the path", replaced(&[(":path", "/a\0b")])),
        ("a tab in the path", replaced(&[(":path", "/a\tb")])),
        ("a space in the query", replaced(&[(":path", "/?a b")])),
        ("a quotation mark in the query", replaced(&[(":path", "/?\"")])),
        ("angle brackets in the query", replaced(&[(":path", "/?<a>")])),
        ("a backslash in the path", replaced(&[(":path", "/a\\b")])),
        ("an escaped NUL in the path", replaced(&[(":path", "/%00")])),
        ("OPTIONS *", replaced(&[(":method", "OPTIONS"), (":path", "*")])),
        ("an odd scheme", replaced(&[(":scheme", "ftp")])),
        ("a scheme of its own", replaced(&[(":scheme", "x")])),
        ("a scheme with a space", replaced(&[(":scheme", "http ")])),
        ("a scheme with a request", replaced(&[(":scheme", "http://evil.test/ HTTP/1.1\r\nx: y")])),
        ("an empty scheme", replaced(&[(":scheme", "")])),
        ("a tab in the method", replaced(&[(":method", "GET\t")])),
        ("NUL in the method", replaced(&[(":method", "GE\0T")])),
        ("a colon in the method", replaced(&[(":method", "GET:")])),
        ("CONNECT with a path", replaced(&[(":method", "CONNECT")])),
        ("a port that is a word", replaced(&[(":authority", "a.test:x")])),
        ("a port that is too large", replaced(&[(":authority", "a.test:65536")])),
        ("a signed port", replaced(&[(":authority", "a.test:+80")])),
        ("a password in the authority", replaced(&[(":authority", "user:pw@a.test")])),
        ("an escape in the authority", replaced(&[(":authority", "a%2etest")])),
        ("a list of authorities", replaced(&[(":authority", "a.test,b.test")])),
        ("a host with another port", with(&[("host", "a.test:81")])),
        ("an empty host", with(&[("host", "")])),
        ("te: trailers, gzip", with(&[("te", "trailers, gzip")])),
        ("chunked", with(&[("transfer-encoding", "chunked"), ("content-length", "0")])),
    ];
    let seen = served(|portunus| {
        let passed = |(name, fields): &(&str, Fields)| {
            let outcome = get(portunus, fields);
            matches!(outcome, Outcome::Status(..400 | 500..)).then(|| format!("{name}: {outcome:?}"))
        };
        let passed: Vec<String> = rows.iter().filter_map(passed).collect();
        assert!(passed.is_empty(), "{passed:#?}");
        assert_eq!(get(portunus, &with(&[])), Outcome::Status(200));
    });
    assert_eq!(seen.requests.len(), 1, "{:#?}", seen.requests);
}

#[test]
fn what_both_can_say_arrives_in_the_words_of_http_1_1() {
    let long = "b".repeat(30_000);
    let long: &'static str = long.leak();
    let seen = served(|portunus| {
        for fields in [
            with(&[("x-a", "b c"), ("x-a", "d"), ("x-empty", "")]),
            replaced(&[(":path", "/a/../b/./c?d=e#f")]),
            replaced(&[(":path", "/\u{e9}{}?a={}|[]\u{e9}")]),
            replaced(&[(":method", "VERONA")]),
            replaced(&[(":method", "get")]),
            replaced(&[(":authority", "A.test:8080"), (":scheme", "https")]),
            [&[(":method", "GET"), (":scheme", "http"), (":path", "/")][..], &[("host", "a.test")]].concat(),
            with(&[("host", "a.test")]),
            with(&[("host", "A.TEST:80")]),
            with(&[("cookie", "a=b"), ("x-a", "b"), ("cookie", "c=d"), ("cookie", "e=f")]),
            with(&[("cookie", long)]),
            with(&[("te", "trailers"), ("expect", "100-continue"), ("content-length", "0")]),
            with(&[
                ("proxy", "6.6.6.6"),
                ("x_a", "6.6.6.6"),
                ("x-forwarded-for", "6.6.6.6"),
                ("forwarded", "for=6.6.6.6"),
            ]),
        ] {
            assert_eq!(get(portunus, &fields), Outcome::Status(200), "{fields:?}");
        }
    });
    let requests = &seen.requests;
    assert_eq!(value(&requests[0], "x-a"), ["b c", "d"]);
    assert_eq!(value(&requests[0], "x-empty"), [""]);
    assert_eq!(requests[1].target, "/b/c?d=e");
    assert_eq!(requests[2].target, "/%C3%A9%7B%7D?a={}|[]%C3%A9");
    assert_eq!((requests[3].method.as_str(), requests[4].method.as_str()), ("VERONA", "get"));
    assert_eq!(value(&requests[5], "host"), ["A.test:8080"]);
    assert_eq!((value(&requests[6], "host"), value(&requests[7], "host")), (vec!["a.test"], vec!["a.test"]));
    assert_eq!(value(&requests[9], "cookie"), ["a=b; c=d; e=f"]);
    assert_eq!(value(&requests[10], "cookie"), [long]);
    assert_eq!((value(&requests[11], "te"), value(&requests[11], "connection")), (vec!["trailers"], vec!["te"]));
    assert!(requests[11].all("expect").is_empty());
    assert!(!format!("{:?}", requests[12]).contains("6.6.6.6"), "{:?}", requests[12]);
}

#[test]
fn bodies_arrive_framed_once() {
    let method = |method: &'static str, fields: &[(&'static str, &'static str)]| {
        [&replaced(&[(":method", method)])[..], fields].concat()
    };
    let five = [("content-length", "5")];
    let smuggled: &[u8] = b"0\r\n\r\nGET /evil HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let seen = served(|portunus| {
        for (fields, pieces) in [
            (method("POST", &five), &[&b"he"[..], b"llo"][..]),
            (method("POST", &five), &[b"", b"hello", b""]),
            (method("GET", &five), &[b"hello"]),
            (method("POST", &[]), &[b"he", b"llo"]),
            (method("GET", &[]), &[b"hello"]),
            (method("DELETE", &[]), &[b"hello"]),
            (method("VERONA", &[]), &[b"hello"]),
        ] {
            assert_eq!(post(portunus, &fields, pieces, &[]), Outcome::Status(200), "{fields:?}");
        }
        for fields in [method("POST", &[]), method("HEAD", &[]), method("OPTIONS", &[])] {
            assert_eq!(post(portunus, &fields, &[smuggled], &[]), Outcome::Status(200), "{fields:?}");
        }
        assert_eq!(post(portunus, &method("POST", &[]), &[b""], &[]), Outcome::Status(200));
    });
    let bodies: Vec<&[u8]> = seen.requests.iter().map(|request| request.body.as_slice()).collect();
    assert_eq!(bodies[..7], [b"hello"; 7]);
    assert_eq!(bodies[7..10], [smuggled; 3]);
    assert_eq!(bodies[10..], [b""]);
}

#[test]
fn trailers_that_were_announced_arrive_and_no_others() {
    let fields = [&replaced(&[(":method", "POST")])[..], &[("trailer", "x-a, host, content-length, x_b")]].concat();
    let seen = served(|portunus| {
        let trailers = [("x-a", "b"), ("x-c", "d"), ("host", "b.test"), ("x_b", "c"), ("if-match", "*")];
        assert_eq!(post(portunus, &fields, &[b"hello"], &trailers), Outcome::Status(200));
    });
    assert_eq!(seen.requests[0].trailers, [("x-a".to_owned(), b"b".to_vec())]);
}

#[test]
fn more_fields_than_the_limits_allow_are_431() {
    let seen = served(|portunus| {
        assert_eq!(get(portunus, &with(&[("x-a", "b"); 98])), Outcome::Status(200));
        assert_eq!(get(portunus, &with(&[("x-a", "b"); 101])), Outcome::Status(431));
        assert_eq!(get(portunus, &with(&vec![("x-a", "b"); 600])), Outcome::Status(431));
        let long: &'static str = "b".repeat(3_000).leak();
        assert_eq!(get(portunus, &with(&[("x-a", long); 14])), Outcome::Status(431));
        let path: &'static str = format!("/{}", "a".repeat(16_400)).leak();
        assert_eq!(get(portunus, &replaced(&[(":path", path)])), Outcome::Status(414));
    });
    assert_eq!(seen.requests.len(), 1, "{:#?}", seen.requests);
}

#[test]
fn crumbs_of_a_cookie_count_as_one_field() {
    let crumbs: Fields = (0..150).map(|_| ("cookie", "a=b")).collect();
    let seen = served(|portunus| assert_eq!(get(portunus, &with(&crumbs)), Outcome::Status(200)));
    assert_eq!(value(&seen.requests[0], "cookie"), [["a=b"; 150].join("; ").as_str()]);
}

#[test]
fn interim_answers_of_the_backend_are_consumed() {
    let backend = Backend::new(|exchange| {
        exchange.write("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n");
        exchange.ok("fine");
    });
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve(&folder);
    assert_eq!(get(&portunus, &with(&[])), Outcome::Status(200));
}

#[test]
fn a_stream_that_is_reset_ends_its_upstream_connection_and_no_other_stream() {
    let (begun, over) = (Gate::new(), Gate::new());
    let gates = (begun.clone(), over.clone());
    let backend = Backend::new(move |exchange| match exchange.head.word(1) {
        "/endless" => {
            exchange.stop_recording();
            exchange.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            gates.0.open();
            let piece = format!("10000\r\n{}\r\n", "x".repeat(1 << 16));
            while exchange.write(&piece) {}
            gates.1.open();
            exchange.close();
        }
        _ => exchange.ok("good"),
    });
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve_with(&folder, &["--workers", "1"]);
    let mut connection = RawH2::open(portunus.http);
    connection.headers(1, END_STREAM, &replaced(&[(":path", "/endless")]));
    assert_eq!(connection.outcome(1), Outcome::Status(200));
    begun.wait("the answer's begin");
    connection.reset(1, 8);
    over.wait("the end of the upstream connection");
    connection.headers(3, END_STREAM, &with(&[]));
    assert_eq!(connection.outcome(3), Outcome::Status(200));
    assert_eq!(backend.last().target(), "/");
}

#[test]
fn a_body_that_is_reset_is_never_a_whole_request() {
    let seen = served(|portunus| {
        for length in [&[][..], &[("content-length", "10")]] {
            let mut connection = RawH2::open(portunus.http);
            connection.headers(1, 0, &[&replaced(&[(":method", "POST")])[..], length].concat());
            connection.data(1, 0, b"hello");
            connection.reset(1, 8);
            connection.headers(3, END_STREAM, &with(&[]));
            assert_eq!(connection.outcome(3), Outcome::Status(200));
        }
    });
    let methods: Vec<&str> = seen.requests.iter().map(|request| request.method.as_str()).collect();
    assert_eq!(methods, ["GET", "GET"]);
}
