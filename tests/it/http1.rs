//! HTTP/1.1 as its clients see it: connections that stay, framing, trailers, time limits.

use crate::harness::h1::{self, Connection};
use crate::harness::reach::one_worker;
use crate::harness::wire::Framing;
use crate::harness::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

fn post(target: &str, body: &str) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: a.test\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn connections_are_kept_and_used_again_on_both_sides() {
    let backend = Backend::new(Exchange::echo);
    let (_folder, portunus) = one_worker(&backend);
    let mut client = Connection::open(portunus.http);
    for number in 0..10 {
        let body = format!("number {number}");
        assert_eq!(client.ask(post("/", &body)).text(), body);
    }
    assert_eq!((backend.count(), backend.connections()), (10, 1));
    assert_eq!(portunus.metric("portunus_upstream_connections_total", &[]), 1.0);
    assert_eq!(portunus.metric("portunus_upstream_requests_total", &[]), 10.0);
    assert_eq!(portunus.metric("portunus_upstream_reused_total", &[]), 9.0);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let slow = Gate::new();
    let gate = slow.clone();
    let backend = Backend::new(move |exchange| {
        if exchange.head.word(1) == "/0" {
            gate.wait("the slow one");
        }
        let name = exchange.head.word(1).to_owned();
        exchange.ok(&name);
    });
    let (_folder, portunus) = one_worker(&backend);
    let mut client = Connection::open(portunus.http);
    let requests = [0, 1, 2, 3, 4, 5, 6, 7].map(|n| format!("GET /{n} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
    client.send(requests.concat());
    backend.wait_count(1);
    slow.open();
    for number in 0..8 {
        assert_eq!(client.response().text(), format!("/{number}"));
    }
}

#[test]
fn a_pipelined_request_behind_a_body_is_not_part_of_it() {
    let backend = Backend::new(Exchange::echo);
    let (_folder, portunus) = one_worker(&backend);
    let mut client = Connection::open(portunus.http);
    let chunked = "POST /c HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    client.send(format!("{}{chunked}{GET}", post("/l", "12345")));
    assert_eq!(client.response().text(), "12345");
    assert_eq!(client.response().text(), "abc");
    assert_eq!(client.response().text(), "");
    assert_eq!(backend.count(), 3);
}

#[test]
fn bodies_pass_chunked_both_ways() {
    let backend = Backend::new(|exchange| {
        let body = exchange.read_body();
        exchange.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for piece in body.chunks(3) {
            exchange.write(format!("{:x};name=value\r\n", piece.len()));
            exchange.write([piece, b"\r\n"].concat());
        }
        exchange.write("0\r\n\r\n");
    });
    let (_folder, portunus) = one_worker(&backend);
    let mut client = Connection::open(portunus.http);
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: ChunKed\r\n\r\n");
    for piece in ["5\r\nromeo\r\n", "1\r\n", " \r\n", "00a;x=\"y\"\r\nand juliet\r\n", "0\r\n\r\n"] {
        client.send(piece);
    }
    let response = client.response();
    assert_eq!((response.text().as_str(), response.framing), ("romeo and juliet", Framing::Chunked));
    assert!(response.complete);
    let received = backend.only();
    assert_eq!(received.body(), b"romeo and juliet");
    assert_eq!(received.header("transfer-encoding"), Some("chunked"));
    assert_eq!(received.header("content-length"), None);
}

#[test]
fn trailers_pass_both_ways() {
    let backend = Backend::new(|exchange| {
        exchange.read_body();
        exchange.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Down, X-Sum\r\n\r\n");
        exchange.write("2\r\nok\r\n0\r\nX-Down: 1\r\nX-Sum: 2\r\n\r\n");
    });
    let (_folder, portunus) = one_worker(&backend);
    let mut client = Connection::open(portunus.http);
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nTE: trailers\r\nConnection: TE\r\n");
    client.send("Transfer-Encoding: chunked\r\nTrailer: X-Up\r\n\r\n2\r\nhi\r\n0\r\nX-Up: yes\r\n\r\n");
    let response = client.response();
    let trailers: Vec<_> = response.trailers.iter().map(|(n, v)| (n.to_ascii_lowercase(), v.as_str())).collect();
    assert_eq!(trailers, [("x-down".to_owned(), "1"), ("x-sum".to_owned(), "2")]);
    let received = backend.only();
    let body = received.body.expect("a body");
    assert_eq!(body.trailers.len(), 1, "{body:?}");
    assert!(body.trailers[0].0.eq_ignore_ascii_case("x-up") && body.trailers[0].1 == "yes");
    assert_eq!(received.head.get("te"), Some("trailers"));
}

#[test]
fn trailers_never_carry_fields_that_decide() {
    let backend = Backend::new(Exchange::echo);
    let (_folder, portunus) = one_worker(&backend);
    let mut client = Connection::open(portunus.http);
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nTE: trailers\r\nConnection: TE\r\n");
    client.send("Trailer: X-Up, X-Forwarded-For, Host, Content-Length, X-Real-IP\r\n");
    client.send("Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Up: yes\r\nX-Forwarded-For: 6.6.6.6\r\n");
    client.send("Host: b.test\r\nContent-Length: 3\r\nX-Real-IP: 6.6.6.6\r\n\r\n");
    assert_eq!(client.response().status, 200);
    let body = backend.only().body.expect("a body");
    let names: Vec<_> = body.trailers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    assert_eq!(names, ["x-up"]);
}

#[test]
fn a_client_that_expects_100_continue_gets_it() {
    let backend = Backend::new(Exchange::echo);
    let (_folder, portunus) = one_worker(&backend);
    let mut client = Connection::open(portunus.http);
    for body in ["first", "second"] {
        let length = body.len();
        client.send(format!(
            "PUT / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        ));
        let interim = client.response();
        assert_eq!((interim.status, interim.head.fields.len()), (100, 0));
        client.send(body);
        let response = client.response();
        assert_eq!((response.status, response.text().as_str()), (200, body));
    }
}

#[test]
fn a_refusal_spares_the_client_that_expects_100_continue_its_body() {
    let backend = Backend::new(Exchange::echo);
    let (_folder, portunus) = one_worker(&backend);
    let mut client = Connection::open(portunus.http);
    client.send("PUT /%00 HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(client.response().status, 400);
    assert_eq!(backend.count(), 0);
}

#[test]
fn answers_to_head_and_those_without_a_body_have_none() {
    let backend = Backend::new(|exchange| {
        let status = match exchange.head.word(1) {
            "/204" => "204 No Content\r\n",
            "/304" => "304 Not Modified\r\nContent-Length: 1234\r\n",
            _ => "200 OK\r\nContent-Length: 1234\r\n",
        };
        exchange.write(format!("HTTP/1.1 {status}ETag: \"x\"\r\n\r\n"));
    });
    let (_folder, portunus) = one_worker(&backend);
    let mut client = Connection::open(portunus.http);
    client.send("HEAD / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let response = client.response_to_head();
    assert_eq!((response.status, response.header("content-length")), (200, Some("1234")));
    for status in [204, 304, 204] {
        let response = client.get("a.test", &format!("/{status}"));
        assert_eq!((response.status, response.body.len()), (status, 0));
        assert_eq!(response.header("etag"), Some("\"x\""));
    }
    assert_eq!(backend.connections(), 1, "no answer was taken for a body");
}

#[test]
fn interim_answers_of_the_backend_are_consumed() {
    let backend = Backend::new(|exchange| {
        exchange.write("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n");
        exchange.write("HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n");
        exchange.ok("final");
    });
    let (_folder, portunus) = one_worker(&backend);
    let mut client = Connection::open(portunus.http);
    for _ in 0..3 {
        let response = client.get("a.test", "/");
        assert_eq!((response.status, response.text().as_str()), (200, "final"));
        assert!(!response.head.has("link"));
    }
}

#[test]
fn http_1_0_clients_are_served_as_they_understand_it() {
    let backend = Backend::new(|exchange| {
        if exchange.head.word(1) == "/chunked" {
            exchange.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
        } else {
            exchange.ok("abc");
        }
    });
    let (_folder, portunus) = one_worker(&backend);
    for target in ["/", "/chunked"] {
        let mut client = Connection::open(portunus.http);
        let response = client.ask(format!("GET {target} HTTP/1.0\r\nHost: a.test\r\n\r\n"));
        assert_eq!((response.status, response.text().as_str()), (200, "abc"));
        assert!(!response.head.has("transfer-encoding"), "{:?}", response.head);
        client.assert_closed();
    }
    let mut client = Connection::open(portunus.http);
    for _ in 0..2 {
        let response = client.ask("GET / HTTP/1.0\r\nHost: a.test\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!((response.text().as_str(), response.framing), ("abc", Framing::Length(3)));
    }
    assert!(backend.requests().iter().all(|request| request.head.word(2) == "HTTP/1.1"));
}

#[test]
fn connection_close_is_honoured() {
    let backend = Backend::named("a");
    let (_folder, portunus) = one_worker(&backend);
    let mut client = Connection::open(portunus.http);
    let response = client.ask("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n");
    assert_eq!(response.text(), "a");
    assert_eq!(response.header("connection").map(str::to_ascii_lowercase).as_deref(), Some("close"));
    client.assert_closed();
}

#[test]
fn time_limits_of_the_client_side_close_the_connection() {
    let backend = Backend::named("a");
    let folder = Folder::to(&backend);
    let flags = ["--request-head-timeout", "300ms", "--idle-timeout", "300ms", "--request-body-timeout", "300ms"];
    let portunus = Portunus::serve_with(&folder, &flags);
    // Half a head.
    let mut client = Connection::open(portunus.http);
    client.send("GET / HTTP/1.1\r\nHost: a.t");
    let answers = h1::responses(&client.read_to_end());
    assert!(answers.iter().all(|answer| answer.status == 408), "{answers:?}");
    // Nothing at all, and nothing after an answer.
    Connection::open(portunus.http).assert_closed();
    let mut client = Connection::open(portunus.http);
    assert_eq!(client.get("a.test", "/").text(), "a");
    client.assert_closed();
    // Half a body.
    let mut client = Connection::open(portunus.http);
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\nhalf");
    let answers = h1::responses(&client.read_to_end());
    assert_eq!(answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), [408]);
}
