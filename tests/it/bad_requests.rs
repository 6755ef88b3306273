//! Malformed requests are refused, their connection is closed, and no byte of them goes upstream.

use crate::harness::h1;
use crate::harness::*;

/// A name, a request as it is sent, and the statuses of which one must be the answer.
type Row = (&'static str, Vec<u8>, &'static [u16]);

fn with(line: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: a.test\r\n{line}\r\n\r\n").into_bytes()
}

fn posting(lines: &str, body: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n\r\n{body}").into_bytes()
}

fn start(line: &str) -> Vec<u8> {
    format!("{line}\r\nHost: a.test\r\n\r\n").into_bytes()
}

fn host(line: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\n{line}\r\n\r\n").into_bytes()
}

fn hosts() -> Vec<Row> {
    vec![
        ("no host", b"GET / HTTP/1.1\r\n\r\n".to_vec(), &[400]),
        ("two hosts", host("Host: a.test\r\nHost: b.test"), &[400]),
        ("the same host twice", host("Host: a.test\r\nHost: a.test"), &[400]),
        ("a host list", host("Host: a.test, b.test"), &[400]),
        ("a space in the host", host("Host: a test"), &[400]),
        ("a slash in the host", host("Host: a.test/x"), &[400]),
        ("userinfo in the host", host("Host: user@a.test"), &[400]),
        ("a port that is a word", host("Host: a.test:http"), &[400]),
        ("a port that is too large", host("Host: a.test:65536"), &[400]),
        ("a broken address", host("Host: [::1"), &[400]),
        ("letters beyond ASCII in the host", host("Host: m\u{fc}nchen.test"), &[400]),
        ("userinfo in the target", start("GET http://user@a.test/ HTTP/1.1"), &[400]),
        ("a bad port in the target", start("GET http://a.test:x/ HTTP/1.1"), &[400]),
        ("no host in the target", start("GET http:/// HTTP/1.1"), &[400]),
    ]
}

fn start_lines() -> Vec<Row> {
    vec![
        ("GET *", start("GET * HTTP/1.1"), &[400]),
        ("GET with an authority", start("GET a.test:80 HTTP/1.1"), &[400]),
        ("CONNECT", start("CONNECT a.test:80 HTTP/1.1"), &[400, 405, 501]),
        ("a relative target", start("GET x HTTP/1.1"), &[400]),
        ("no target", start("GET HTTP/1.1"), &[400]),
        ("no version", start("GET /"), &[400, 505]),
        ("an empty target", start("GET  HTTP/1.1"), &[400]),
        ("a space in the target", start("GET /a b HTTP/1.1"), &[400]),
        ("a control character in the target", start("GET /a\u{1}b HTTP/1.1"), &[400]),
        ("a bad method", start("GE(T / HTTP/1.1"), &[400]),
        ("HTTP/2.0 in a start line", start("GET / HTTP/2.0"), &[400, 505]),
        ("HTTP/1.2", start("GET / HTTP/1.2"), &[400, 505]),
        ("HTTP/0.9", start("GET / HTTP/0.9"), &[400, 505]),
        ("another protocol", start("GET / ICY/1.1"), &[400]),
        ("not HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), &[400]),
        ("a target that is too long", start(&format!("GET /{} HTTP/1.1", "a".repeat(16_400))), &[414]),
    ]
}

fn fields() -> Vec<Row> {
    vec![
        ("no colon", with("no colon here"), &[400]),
        ("a space before the colon", with("X-A : b"), &[400]),
        ("a space in the name", with("X A: b"), &[400]),
        ("no name", with(": b"), &[400]),
        ("a folded line", with("X-A: b\r\n c"), &[400]),
        ("a folded first line", host(" X: b\r\nHost: a.test"), &[400]),
        ("NUL in a value", with("X-A: b\0c"), &[400]),
        ("CR in a value", with("X-A: b\rc"), &[400]),
        ("a field of 50 KB", with(&format!("X-A: {}", "b".repeat(50_000))), &[431]),
        ("many fields of 41 KB together", with(&vec![format!("X-A: {}", "b".repeat(500)); 82].join("\r\n")), &[431]),
        ("101 fields", with(&vec!["X-A: b"; 100].join("\r\n")), &[431]),
        ("a name of 50 KB", with(&format!("{}: b", "a".repeat(50_000))), &[431]),
    ]
}

fn framing() -> Vec<Row> {
    vec![
        ("a length that is a word", posting("Content-Length: five", "hello"), &[400]),
        ("a negative length", posting("Content-Length: -5", "hello"), &[400]),
        ("a signed length", posting("Content-Length: +5", "hello"), &[400]),
        ("a length in hex", posting("Content-Length: 0x5", "hello"), &[400]),
        ("a fraction as length", posting("Content-Length: 5.0", "hello"), &[400]),
        ("an empty length", posting("Content-Length:", "hello"), &[400]),
        ("a length beyond 64 bits", posting("Content-Length: 18446744073709551621", "hello"), &[400, 413]),
        ("two lengths", posting("Content-Length: 5\r\nContent-Length: 6", "hello!"), &[400]),
        ("a list of lengths", posting("Content-Length: 5, 6", "hello!"), &[400]),
        ("an unknown coding", posting("Transfer-Encoding: gzip", "0\r\n\r\n"), &[400, 501]),
        ("chunked twice", posting("Transfer-Encoding: chunked, chunked", "0\r\n\r\n"), &[400, 501]),
        ("an empty coding first", posting("Transfer-Encoding: ,chunked", "0\r\n\r\n"), &[400, 501]),
        ("gzip, then chunked", posting("Transfer-Encoding: gzip, chunked", "0\r\n\r\n"), &[400, 501]),
        ("chunked, then gzip", posting("Transfer-Encoding: chunked, gzip", "0\r\n\r\n"), &[400, 501]),
        (
            "chunked on two lines",
            posting("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "0\r\n\r\n"),
            &[400, 501],
        ),
        ("almost chunked", posting("Transfer-Encoding: xchunked", "0\r\n\r\n"), &[400, 501]),
        ("chunked with a control character", posting("Transfer-Encoding: \u{b}chunked", "0\r\n\r\n"), &[400, 501]),
        ("chunked with a parameter", posting("Transfer-Encoding: chunked;q=1", "0\r\n\r\n"), &[400, 501]),
        (
            "a coding in HTTP/1.0",
            b"POST / HTTP/1.0\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(),
            &[400],
        ),
    ]
}

/// Sends the request in pieces of `step` bytes with a good one right behind it: the answer must be
/// one refusal, and the connection must be closed before the good one is looked at.
fn refused(portunus: &Portunus, request: &[u8], allowed: &[u16], step: usize) -> Result<(), String> {
    let behind = b"GET /behind HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let answer = h1::raw_in_steps(portunus.http, &[request, behind].concat(), step);
    let statuses: Vec<u16> = h1::responses(&answer).iter().map(|answer| answer.status).collect();
    match &statuses[..] {
        [status] if allowed.contains(status) => Ok(()),
        _ => Err(format!("expected one of {allowed:?}, got {statuses:?}")),
    }
}

#[track_caller]
fn all_refused(rows: &[Row]) {
    let backend = Backend::named("a");
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve_with(&folder, &["--idle-timeout", "10s", "--request-head-timeout", "10s"]);
    // Every row is tried, so that one run names all that are wrong.
    let mut failures = Vec::new();
    for (name, request, allowed) in rows {
        for step in [usize::MAX, 3, 1] {
            let before = backend.bytes().concat().len();
            if let Err(what) = refused(&portunus, request, allowed, step) {
                failures.push(format!("{name}, in steps of {step}: {what}"));
            }
            if backend.bytes().concat().len() > before {
                failures.push(format!("{name}, in steps of {step}: reached the backend"));
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
    assert_eq!(portunus.get("a.test", "/").status, 200, "still serving");
}

#[test]
fn bad_hosts_are_refused() {
    all_refused(&hosts());
}

#[test]
fn bad_start_lines_are_refused() {
    all_refused(&start_lines());
}

#[test]
fn bad_fields_are_refused() {
    all_refused(&fields());
}

#[test]
fn bad_framing_is_refused() {
    all_refused(&framing());
}

#[test]
fn a_body_that_turns_bad_is_400_and_never_a_whole_request_upstream() {
    let backend = Backend::new(|exchange| {
        exchange.read_body();
        exchange.close();
    });
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve(&folder);
    let head = "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    for bad in [
        "zz\r\nhello\r\n0\r\n\r\n",
        "-1\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "0\r\nno colon\r\n\r\n",
    ] {
        let answers = h1::responses(&h1::raw(portunus.http, format!("{head}{bad}{head}")));
        let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
        assert_eq!(statuses, [400], "{bad:?}");
    }
    eventually("the end of the upstream connections", || (backend.open() == 0).then_some(()));
    let whole = |request: &backend::Received| request.body.as_ref().is_some_and(|body| body.complete);
    let requests = backend.requests();
    assert!(!requests.iter().any(whole), "{requests:#?}");
}

#[test]
fn a_body_that_breaks_off_is_never_a_whole_request_upstream() {
    let backend = Backend::new(|exchange| {
        exchange.read_body();
        exchange.close();
    });
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve(&folder);
    for framing in ["Content-Length: 10\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"] {
        let mut client = h1::Connection::open(portunus.http);
        client.send(format!("POST / HTTP/1.1\r\nHost: a.test\r\n{framing}"));
        client.finish();
        let answers = h1::responses(&client.read_to_end());
        assert!(answers.iter().all(|answer| answer.status == 400), "{answers:?}");
    }
    eventually("the end of the upstream connections", || (backend.open() == 0).then_some(()));
    let whole = |request: &backend::Received| request.body.as_ref().is_some_and(|body| body.complete);
    assert!(!backend.requests().iter().any(whole));
}

#[test]
fn what_may_be_forgiven_goes_upstream_in_its_normal_form() {
    let backend = Backend::new(Exchange::echo);
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve(&folder);
    for request in [
        "POST / HTTP/1.1\nHost: a.test\nContent-Length: 5\n\nhello",
        "\r\n\r\nPOST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "POST /#fragment HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: \ta.test \r\nContent-Length:   5 \r\n\r\nhello",
    ] {
        let before = backend.count();
        let mut client = h1::Connection::open(portunus.http);
        client.send(request);
        let response = client.response();
        if response.status == 400 {
            assert_eq!(backend.count(), before, "{request:?}");
            continue;
        }
        assert_eq!((response.status, response.text().as_str()), (200, "hello"), "{request:?}");
        let received = backend.last();
        assert_eq!(received.head.start, "POST / HTTP/1.1", "{request:?}");
        assert_eq!(received.header("host"), Some("a.test"), "{request:?}");
        let framings = (received.header("content-length"), received.header("transfer-encoding"));
        assert!(matches!(framings, (Some("5"), None) | (None, Some("chunked"))), "{request:?}: {framings:?}");
        let bare = received.head.raw.windows(2).any(|pair| pair[1] == b'\n' && pair[0] != b'\r');
        assert!(!bare, "{request:?}");
    }
}
