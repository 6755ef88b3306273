//! Endpoints whose answers could be read in two ways, or that say more or earlier than they were asked: the client gets
//! a 502 or an answer that visibly breaks off, and no other request ever meets what is left of it.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::h1::Connection;
use crate::harness::h2_raw::{END_STREAM, Outcome, RawH2, RawH2Backend};
use crate::harness::manifests::app_with;
use crate::harness::reach::one_worker;
use crate::harness::*;

fn request(method: &str, target: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: a.test\r\n\r\n")
}

/// A backend that answers `/N` with the Nth of these, whatever it is, and keeps the connection; and `/good` as one does.
fn answering(rows: &[(&str, Vec<u8>)]) -> Backend {
    let answers: Vec<Vec<u8>> = rows.iter().map(|(_, answer)| answer.clone()).collect();
    Backend::new(move |exchange| match exchange.head.word(1)[1..].parse::<usize>() {
        Ok(index) => {
            exchange.write(&answers[index]);
        }
        Err(_) => exchange.ok("good"),
    })
}

fn head(lines: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\nhello").into_bytes()
}

fn chunked(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}").into_bytes()
}

/// Answers whose heads have two readings, or none.
fn heads() -> Vec<(&'static str, Vec<u8>)> {
    let both = "5\r\nhello\r\n0\r\n\r\n";
    let start = |line: &str| format!("{line}\r\nContent-Length: 5\r\n\r\nhello").into_bytes();
    let coded = |coding: &str| format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: {coding}\r\n\r\n{both}").into_bytes();
    vec![
        ("both, the length first", {
            format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n{both}").into_bytes()
        }),
        ("both, the length last", {
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n{both}").into_bytes()
        }),
        ("both in a 503", {
            format!("HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n{both}").into_bytes()
        }),
        ("two lengths", head("Content-Length: 5\r\nContent-Length: 6")),
        ("a list of lengths", head("Content-Length: 5, 6")),
        ("a list of equal lengths", head("Content-Length: 5, 5")),
        ("a signed length", head("Content-Length: +5")),
        ("a negative length", head("Content-Length: -5")),
        ("a length in hexadecimal", head("Content-Length: 0x5")),
        ("an empty length", head("Content-Length:")),
        ("a length beyond 64 bits", head("Content-Length: 18446744073709551621")),
        ("gzip, then chunked", coded("gzip, chunked")),
        ("chunked, then gzip", coded("chunked, gzip")),
        ("chunked twice", coded("chunked, chunked")),
        ("chunked on two lines", coded("chunked\r\nTransfer-Encoding: chunked")),
        ("almost chunked", coded("xchunked")),
        ("identity", coded("identity")),
        ("gzip", coded("gzip")),
        ("chunked in HTTP/1.0", format!("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{both}").into_bytes()),
        ("a space before the colon", head("Content-Length: 5\r\nX-A : b")),
        ("a folded line", head("Content-Length: 5\r\nX-A: b\r\n c")),
        ("NUL in a value", head("Content-Length: 5\r\nX-A: b\0c")),
        ("CR in a value", head("Content-Length: 5\r\nX-A: b\rc")),
        ("no colon", head("Content-Length: 5\r\nno colon")),
        ("no name", head("Content-Length: 5\r\n: b")),
        ("CR in the reason", start("HTTP/1.1 200 O\rK")),
        ("two digits", start("HTTP/1.1 20 OK")),
        ("four digits", start("HTTP/1.1 2000 OK")),
        ("a status below 100", start("HTTP/1.1 099 Low")),
        ("two spaces", start("HTTP/1.1  200 OK")),
        ("another version", start("HTTP/2.0 200 OK")),
        ("another protocol", start("ICY 200 OK")),
        ("no head at all", b"hello\r\n\r\n".to_vec()),
        ("a request", b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n".to_vec()),
        ("101 fields", head(&["X-A: b"; 101].join("\r\n"))),
        ("a head of 300 KB", head(&format!("X-A: {}", "b".repeat(300_000)))),
        (
            "a switch that nobody asked for",
            b"HTTP/1.1 101 Yes\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n".to_vec(),
        ),
    ]
}

#[test]
fn an_answer_with_two_readings_is_502_and_ends_its_connection() {
    let rows = heads();
    let backend = answering(&rows);
    let (_folder, portunus) = one_worker(&backend);
    let mut wrong = Vec::new();
    for (index, (name, _)) in rows.iter().enumerate() {
        let before = backend.connections();
        // A POST is sent once.
        let answer = Connection::open(portunus.http).ask(request("POST", &format!("/{index}")));
        let good = portunus.get("a.test", "/good");
        if (answer.status, good.status, good.text().as_str()) != (502, 200, "good") {
            wrong.push(format!(
                "{name}: {} {:?}, then {} {:?}",
                answer.status,
                answer.text(),
                good.status,
                good.text()
            ));
        }
        if backend.connections() > before + 2 || backend.count() != 2 * index + 2 {
            wrong.push(format!("{name}: {} connections, {} requests", backend.connections() - before, backend.count()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    eventually("the end of all but one connection", || (backend.open() == 1).then_some(()));
}

#[test]
fn a_head_without_a_body_is_read_as_strictly() {
    let rows: Vec<(&str, Vec<u8>)> = ["5\r\nContent-Length: 6", "+5", "5\r\nTransfer-Encoding: chunked"]
        .map(|length| ("", format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes()))
        .into();
    let backend = answering(&rows);
    let (_folder, portunus) = one_worker(&backend);
    for (index, row) in rows.iter().enumerate() {
        let mut client = Connection::open(portunus.http);
        client.send(request("HEAD", &format!("/{index}")));
        assert_eq!(client.response_to_head().status, 502, "{row:?}");
        assert_eq!(portunus.get("a.test", "/good").text(), "good", "{row:?}");
    }
}

#[test]
fn what_may_be_forgiven_of_an_answer_passes_in_its_normal_form() {
    let rows: Vec<(&str, Vec<u8>)> = vec![
        ("LF", b"HTTP/1.1 200 OK\nContent-Length: 5\nX-A: b\n\nhello".to_vec()),
        ("equal lengths", head("Content-Length: 5\r\nContent-Length: 5\r\nX-A: b")),
        ("zeros in front", head("Content-Length: 005\r\nX-A: b")),
        ("white space", head("Content-Length: \t5 \r\nX-A:  b\t")),
        ("no reason", b"HTTP/1.1 200\r\nContent-Length: 5\r\nX-A: b\r\n\r\nhello".to_vec()),
        ("an odd reason", b"HTTP/1.1 200 \xff<script>\r\nContent-Length: 5\r\nX-A: b\r\n\r\nhello".to_vec()),
    ];
    let backend = answering(&rows);
    let (_folder, portunus) = one_worker(&backend);
    for (index, (name, _)) in rows.iter().enumerate() {
        let answer = portunus.get("a.test", &format!("/{index}"));
        assert_eq!((answer.head.start.as_str(), answer.text().as_str()), ("HTTP/1.1 200 OK", "hello"), "{name}");
        assert_eq!((answer.header("content-length"), answer.header("x-a")), (Some("5"), Some("b")), "{name}");
        assert!(!answer.head.raw.windows(2).any(|pair| pair[1] == b'\n' && pair[0] != b'\r'), "{name}");
    }
}

#[test]
fn a_body_that_turns_bad_breaks_off_and_ends_both_connections() {
    let rows: Vec<(&str, Vec<u8>)> = [
        "zz\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nno colon\r\n\r\n",
        "5\r\nhello\r\n0\r\nX-A : b\r\n\r\n",
    ]
    .into_iter()
    .map(|body| (body, chunked(body)))
    .chain([("too many extensions", chunked(&format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(20_000))))])
    .collect();
    let backend = answering(&rows);
    let (_folder, portunus) = one_worker(&backend);
    for (index, (name, _)) in rows.iter().enumerate() {
        let mut client = Connection::open(portunus.http);
        client.send(request("POST", &format!("/{index}")));
        match client.try_response(false) {
            Ok(answer) => assert!(answer.status == 502 || !answer.complete, "{name}: {answer:?}"),
            Err(error) => assert!(error.get_ref().is_none(), "{name}: {error}"),
        }
        client.read_to_end();
        assert_eq!(portunus.get("a.test", "/good").text(), "good", "{name}");
    }
    eventually("the end of all but one connection", || (backend.open() == 1).then_some(()));
}

/// An answer that says more than its length; the rest looks like the next one.
fn poisoned(head: &str) -> Vec<u8> {
    format!("{head}HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison").into_bytes()
}

#[test]
fn what_an_endpoint_says_behind_an_answer_is_nobodys() {
    let rows = [
        ("GET", poisoned("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")),
        ("GET", poisoned("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")),
        ("GET", poisoned("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")),
        ("GET", poisoned("HTTP/1.1 204 No Content\r\n\r\n")),
        ("GET", poisoned("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello")),
        ("GET", poisoned("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello")),
        ("HEAD", poisoned("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")),
        ("HEAD", poisoned("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")),
    ];
    let backend = answering(&rows.clone());
    let (_folder, portunus) = one_worker(&backend);
    for (index, (method, row)) in rows.iter().enumerate() {
        let mut client = Connection::open(portunus.http);
        client.send(request(method, &format!("/{index}")));
        let answer = client.try_response(*method == "HEAD").expect("an answer");
        assert!(answer.status < 400 && !answer.text().contains("poison"), "{row:?}: {answer:?}");
        let before = backend.connections();
        for _ in 0..3 {
            assert_eq!(portunus.get("a.test", "/good").text(), "good", "{:?}", String::from_utf8_lossy(row));
        }
        assert!(backend.connections() > before || index == 0, "a connection of its own");
        // The next turn finds none that is idle.
        backend.close_connections();
        eventually("no connection", || (backend.open() == 0).then_some(()));
    }
}

#[test]
fn what_an_endpoint_says_while_nobody_asks_is_nobodys() {
    let (asked, said) = (Gate::new(), Gate::new());
    let gates = (asked.clone(), said.clone());
    let backend = Backend::new(move |exchange| {
        exchange.ok("good");
        if exchange.head.word(1) == "/late" {
            gates.0.wait("the answer to be read");
            exchange.write(poisoned(""));
            gates.1.open();
        }
    });
    let (_folder, portunus) = one_worker(&backend);
    assert_eq!(portunus.get("a.test", "/late").text(), "good");
    asked.open();
    said.wait("the poison");
    for _ in 0..4 {
        assert_eq!(portunus.get("a.test", "/good").text(), "good");
    }
}

#[test]
fn what_an_endpoint_says_before_it_is_asked_is_nobodys() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    let folder = Folder::to_addresses(&[address]);
    let portunus = Portunus::serve_with(&folder, &["--workers", "1"]);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for stream in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let mut wire = wire::Wire::new(stream.expect("a connection"));
                let _ = wire.write(b"hasty\r\n\r\n");
                let _ = wire.head();
            }
        });
        let statuses: Vec<u16> =
            (0..4).map(|_| Connection::open(portunus.http).ask(request("POST", "/")).status).collect();
        over.store(true, Ordering::SeqCst);
        let _ = std::net::TcpStream::connect(address);
        assert_eq!(statuses, [502; 4]);
    });
}

#[test]
fn interim_answers_without_an_end_are_502() {
    let over = Gate::new();
    let gate = over.clone();
    let backend = Backend::new(move |exchange| match exchange.head.word(1) {
        "/good" => exchange.ok("good"),
        "/some" => {
            (0..1000).for_each(|_| assert!(exchange.write("HTTP/1.1 102 Processing\r\n\r\n")));
            exchange.ok("good");
        }
        _ => {
            exchange.stop_recording();
            let many = "HTTP/1.1 100 Continue\r\n\r\n".repeat(1000);
            while exchange.write(&many) {}
            gate.open();
            exchange.close();
        }
    });
    let (_folder, portunus) = one_worker(&backend);
    assert_eq!(portunus.get("a.test", "/some").text(), "good");
    let mut client = Connection::open(portunus.http);
    client.send(request("GET", "/flood"));
    // Another client on the same worker meanwhile.
    assert_eq!(portunus.get("a.test", "/good").text(), "good");
    assert_eq!(client.response().status, 502);
    over.wait("the connection's end");
    assert_eq!(portunus.get("a.test", "/good").text(), "good");
    assert_eq!(backend.requests().iter().filter(|request| request.target() == "/flood").count(), 1, "sent once");
}

#[test]
fn a_flood_of_interim_answers_over_http_2_is_502() {
    let backend = RawH2Backend::new(|connection, stream, number| {
        if number > 0 {
            return connection.ok(stream);
        }
        for _ in 0..20_000 {
            connection.headers(stream, 0, &[(":status", "103"), ("link", "</style.css>")]);
        }
    });
    let folder = Folder::new();
    folder.write("app.yaml", app_with("default", "app", &[backend.address], "kubernetes.io/h2c"));
    folder.write("ingress.yaml", Ingress::new("default", "all").prefix("/", "app", 80));
    let portunus = Portunus::serve_with(&folder, &["--workers", "1"]);
    assert_eq!(Connection::open(portunus.http).ask(request("POST", "/")).status, 502);
    assert_eq!(Connection::open(portunus.http).ask(request("POST", "/")).status, 200);
}

#[test]
fn an_early_answer_reaches_its_client_and_its_connection_is_not_used_again() {
    let backend = Backend::new(|exchange| match exchange.head.word(1) {
        // Keeps the connection open, and takes what comes for requests, as it may.
        "/early" => {
            exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly");
            exchange.wire.rest();
            exchange.close();
        }
        _ => exchange.ok("good"),
    });
    let (_folder, portunus) = one_worker(&backend);
    let smuggled = "GET /evil HTTP/1.1\r\nHost: a.test\r\n\r\n";
    for framing in ["Content-Length: 1000000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\nffff\r\n"] {
        let mut client = Connection::open(portunus.http);
        client.send(format!("POST /early HTTP/1.1\r\nHost: a.test\r\n{framing}{smuggled}"));
        let answer = client.response();
        assert_eq!((answer.status, answer.text().as_str()), (200, "early"));
        for _ in 0..4 {
            assert_eq!(portunus.get("a.test", "/good").text(), "good");
        }
        // What is left of the body is not taken for requests, here either.
        let _ = client.wire.write(smuggled.as_bytes());
        assert!(client.read_to_end().is_empty(), "nothing but the end follows");
    }
    let targets: Vec<String> = backend.requests().iter().map(|request| request.target().to_owned()).collect();
    assert!(!targets.iter().any(|target| target == "/evil"), "{targets:?}");
    eventually("the end of the early connections", || (backend.open() <= 1).then_some(()));
}

#[test]
fn an_http_2_endpoint_that_answers_what_http_1_1_must_not_carry_has_failed() {
    // The request's number says which.
    let rows: Vec<Vec<(&str, &str)>> = vec![
        vec![("transfer-encoding", "chunked")],
        vec![("connection", "x-a"), ("x-a", "b")],
        vec![("content-length", "5"), ("content-length", "6")],
        vec![("content-length", "+0")],
        vec![("content-length", "0, 0")],
        vec![("X-A", "b")],
        vec![("x a", "b")],
        vec![("x-a", "b\r\nx-evil: 1")],
        vec![("x-a", "b\0")],
        vec![(":status", "204")],
    ];
    let count = rows.len();
    let answers: Vec<Vec<(String, String)>> = rows
        .iter()
        .map(|fields| fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
        .collect();
    let backend = RawH2Backend::new(move |connection, stream, number| match answers.get(number) {
        None => connection.ok(stream),
        Some(fields) => {
            let fields = fields.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            let all: Vec<(&str, &str)> = std::iter::once((":status", "200")).chain(fields).collect();
            connection.headers(stream, END_STREAM, &all);
        }
    });
    let folder = Folder::new();
    folder.write("app.yaml", app_with("default", "app", &[backend.address], "kubernetes.io/h2c"));
    folder.write("ingress.yaml", Ingress::new("default", "all").prefix("/", "app", 80));
    let portunus = Portunus::serve_with(&folder, &["--workers", "1"]);
    let mut wrong = Vec::new();
    for row in rows {
        let answer = Connection::open(portunus.http).ask(request("POST", "/"));
        if answer.status != 502 {
            wrong.push(format!("{row:?}: {answer:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(backend.count(), count);
    assert_eq!(Connection::open(portunus.http).ask(request("POST", "/")).status, 200);
}

#[test]
fn trailers_of_an_answer_carry_nothing_that_http_2_must_not() {
    let backend = Backend::new(|exchange| {
        exchange.read_body();
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-A, Connection, Content-Length\r\n\r\n";
        let trailers =
            "Connection: close\r\nContent-Length: 7\r\nTransfer-Encoding: chunked\r\nSet-Cookie: a=b\r\nX-A: b";
        exchange.write(format!("{head}2\r\nok\r\n0\r\n{trailers}\r\n\r\n"));
    });
    let (_folder, portunus) = one_worker(&backend);
    run(async {
        let mut connection = h2::Connection::cleartext(portunus.http).await;
        let response = connection.get("http://a.test/").await;
        let trailers = response.trailers.expect("trailers");
        assert_eq!(trailers.keys().map(http::HeaderName::as_str).collect::<Vec<_>>(), ["x-a"]);
    });
    // HTTP/2 by hand: no reset, no GOAWAY.
    let mut connection = RawH2::open(portunus.http);
    let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a.test")];
    connection.headers(1, END_STREAM, &fields);
    assert_eq!(connection.outcome(1), Outcome::Status(200));
}
