//! HTTP/2 on either side: by ALPN and by prior knowledge, to backends of both kinds.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Version};
use hyper::body::Frame;

use crate::harness::certificates::Authority;
use crate::harness::h2::{Answer, Connection, empty, fed, full};
use crate::harness::hyper_backend::HyperBackend;
use crate::harness::manifests::app_with;
use crate::harness::tls::Client;
use crate::harness::*;

/// A folder that sends everything to this backend by this protocol.
fn by_protocol(address: std::net::SocketAddr, protocol: &str) -> Folder {
    let folder = Folder::new();
    folder.write("app.yaml", app_with("default", "app", &[address], protocol));
    folder.write("ingress.yaml", Ingress::new("default", "all").prefix("/", "app", 80));
    folder
}

fn post(url: &str, body: impl Into<Bytes>) -> Request<h2::Outgoing> {
    Request::post(url).body(full(body)).expect("a request")
}

#[test]
fn alpn_chooses_h2_before_http_1_1() {
    let backend = Backend::new(Exchange::echo);
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve(&folder);
    for (offered, chosen) in [
        (&["h2", "http/1.1"][..], Some("h2")),
        (&["http/1.1", "h2"], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&[], None),
    ] {
        let (_connection, handshake) = Client::new().alpn(offered).connect(portunus.https, "a.test");
        assert_eq!(handshake.alpn.as_deref(), chosen, "{offered:?}");
    }
    assert!(Client::new().alpn(&["h3", "imap"]).try_connect(portunus.https, "a.test").is_err());
    run(async {
        let client = Client::new().alpn(&["h2"]);
        let (mut connection, _) = Connection::tls(portunus.https, &client, "a.test").await;
        let answer = connection.send(post("https://a.test/x?y", "hello")).await;
        assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "hello"));
    });
    let received = backend.only();
    assert_eq!(received.head.start, "POST /x?y HTTP/1.1");
    assert_eq!(received.header("host"), Some("a.test"));
    assert_eq!(received.header("x-forwarded-proto"), Some("https"));
    assert_eq!(received.header("content-length"), Some("5"));
}

#[test]
fn h2c_by_prior_knowledge_shares_the_port_with_http_1_1() {
    let backend = Backend::new(Exchange::echo);
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve(&folder);
    run(async {
        let mut connection = Connection::cleartext(portunus.http).await;
        for body in ["one", "two", "three"] {
            assert_eq!(connection.send(post("http://a.test/", body)).await.text(), body);
        }
        let answer = connection.send(Request::head("http://a.test/").body(empty()).expect("a request")).await;
        assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 0));
    });
    assert_eq!(portunus.get("a.test", "/").status, 200);
}

#[test]
fn streams_of_one_connection_go_on_at_the_same_time() {
    const STREAMS: usize = 20;
    let all = Gate::new();
    let gate = all.clone();
    let backend = Backend::new(move |exchange| {
        gate.wait("all streams");
        exchange.echo();
    });
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve(&folder);
    run(async {
        let connection = Connection::cleartext(portunus.http).await;
        let streams = (0..STREAMS).map(|number| {
            let mut connection = connection.clone();
            tokio::spawn(async move {
                let body = format!("stream {number}");
                assert_eq!(connection.send(post("http://a.test/", body.clone())).await.text(), body);
            })
        });
        let streams: Vec<_> = streams.collect();
        let opener = tokio::task::spawn_blocking({
            let (all, count) = (all.clone(), backend.count_handle());
            move || {
                eventually("all streams at the backend", || (count() == STREAMS).then_some(()));
                all.open();
            }
        });
        opener.await.expect("all streams");
        for stream in streams {
            stream.await.expect("a stream");
        }
    });
    assert_eq!(backend.connections(), STREAMS);
}

#[test]
fn a_stream_that_is_reset_leaves_the_others_alone() {
    let gone = Gate::new();
    let gate = gone.clone();
    let backend = Backend::new(move |exchange| {
        if exchange.head.word(1) != "/held" {
            return exchange.ok("fine");
        }
        exchange.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nstart\r\n");
        exchange.wire.rest();
        gate.open();
        exchange.close();
    });
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve(&folder);
    run(async {
        let mut connection = Connection::cleartext(portunus.http).await;
        let request = Request::get("http://a.test/held").body(empty()).expect("a request");
        let response = connection.start(request).await.expect("a head");
        drop(response);
        tokio::task::spawn_blocking(move || gone.wait("the end upstream")).await.expect("the end upstream");
        for _ in 0..3 {
            assert_eq!(connection.get("http://a.test/").await.text(), "fine");
        }
    });
}

#[test]
fn trailers_pass_between_http_2_and_both_kinds_of_backend() {
    let http1 = Backend::new(|exchange| {
        exchange.read_body();
        exchange.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n");
        exchange.write("2\r\nok\r\n0\r\nX-Sum: 42\r\n\r\n");
    });
    let http2 = HyperBackend::h2c();
    for folder in [Folder::to(&http1), by_protocol(http2.address(), "kubernetes.io/h2c")] {
        let portunus = Portunus::serve(&folder);
        let answer = run(async {
            let mut connection = Connection::cleartext(portunus.http).await;
            let (sender, body) = fed();
            let request = Request::post("http://a.test/").header("te", "trailers").header("trailer", "x-sum");
            let sending = async move {
                sender.send(Frame::data(Bytes::from_static(b"ok"))).await.expect("data");
                let trailers =
                    HeaderMap::from_iter([("x-sum".parse().expect("a name"), HeaderValue::from_static("42"))]);
                sender.send(Frame::trailers(trailers)).await.expect("trailers");
            };
            let request = connection.send(request.body(body).expect("a request"));
            tokio::join!(request, sending).0
        });
        assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "ok"));
        assert_eq!(answer.trailers.expect("trailers").get("x-sum").map(HeaderValue::as_bytes), Some(&b"42"[..]));
    }
    let body = http1.only().body.expect("a body");
    assert_eq!(body.bytes, b"ok");
    assert!(body.trailers.iter().any(|(name, value)| name.eq_ignore_ascii_case("x-sum") && value == "42"));
}

#[test]
fn crumbs_of_one_cookie_are_joined() {
    let backend = Backend::named("a");
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve(&folder);
    run(async {
        let mut connection = Connection::cleartext(portunus.http).await;
        let request = Request::get("http://a.test/").header("cookie", "a=1").header("cookie", "b=2");
        let request = request.header("x-between", "x").header("cookie", "c=3; d=4");
        assert_eq!(connection.send(request.body(empty()).expect("a request")).await.status, 200);
    });
    let head = backend.only().head;
    assert_eq!(head.all("cookie"), ["a=1; b=2; c=3; d=4"]);
    assert_eq!(head.get("x-between"), Some("x"));
}

#[test]
fn an_authority_and_a_host_that_differ_are_400() {
    let backend = Backend::named("a");
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve(&folder);
    run(async {
        let mut connection = Connection::cleartext(portunus.http).await;
        let with_host =
            |host: &'static str| Request::get("http://a.test/").header("host", host).body(empty()).expect("a request");
        assert_eq!(connection.send(with_host("b.test")).await.status, 400);
        assert_eq!(connection.send(with_host("a.test:81")).await.status, 400);
        assert_eq!(connection.send(with_host("a.test")).await.status, 200);
        assert_eq!(connection.get("http://a.test/%5C").await.status, 400);
        assert_eq!(connection.get("http://a.test/").await.status, 200);
    });
    assert_eq!(backend.count(), 2);
    assert!(backend.requests().iter().all(|request| request.head.all("host") == ["a.test"]));
}

#[test]
fn header_lists_over_the_limits_are_431() {
    let backend = Backend::named("a");
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve(&folder);
    run(async {
        let mut connection = Connection::cleartext(portunus.http).await;
        let cookies = Request::get("http://a.test/").header("cookie", "c".repeat(32 << 10));
        assert_eq!(connection.send(cookies.body(empty()).expect("a request")).await.status, 200);
        let crumbs = (0..150).fold(Request::get("http://a.test/"), |r, n| r.header("cookie", format!("c{n}=v")));
        assert_eq!(connection.send(crumbs.body(empty()).expect("a request")).await.status, 200);
        let fields = (0..101).fold(Request::get("http://a.test/"), |r, n| r.header(format!("x-{n}"), "v"));
        assert_eq!(connection.send(fields.body(empty()).expect("a request")).await.status, 431);
        let large = Request::get("http://a.test/").header("x-large", "v".repeat(41 << 10));
        assert_eq!(connection.send(large.body(empty()).expect("a request")).await.status, 431);
    });
    assert_eq!(backend.count(), 2);
}

#[test]
fn a_backend_may_speak_h2c() {
    let backend = HyperBackend::h2c();
    let folder = by_protocol(backend.address(), "kubernetes.io/h2c");
    let portunus = Portunus::serve_with(&folder, &["--workers", "1"]);
    let mut client = h1::Connection::open(portunus.http);
    for body in ["one", "two", "three"] {
        let length = body.len();
        let request = format!(
            "POST /x?y HTTP/1.1\r\nHost: a.test\r\nConnection: close-not, x\r\nX: 1\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        assert_eq!(client.ask(request).text(), body);
    }
    run(async {
        let mut connection = Connection::cleartext(portunus.http).await;
        assert_eq!(connection.send(post("http://a.test/x?y", "four")).await.text(), "four");
    });
    let requests = backend.requests();
    assert_eq!(requests.len(), 4);
    for received in &requests {
        assert_eq!((received.version, received.connection), (Version::HTTP_2, 0), "one connection for all");
        assert_eq!(received.uri.path_and_query().map(http::uri::PathAndQuery::as_str), Some("/x?y"));
        assert_eq!(received.uri.authority().map(http::uri::Authority::as_str), Some("a.test"));
        assert_eq!(received.headers.get("x-forwarded-for").map(HeaderValue::as_bytes), Some(&b"127.0.0.1"[..]));
        assert!(!received.headers.contains_key("x") && !received.headers.contains_key("connection"));
    }
}

#[test]
fn a_backend_may_speak_tls_with_h2_or_http_1_1() {
    let identity = Authority::new().leaf(&["backend.test"]);
    for (alpn, version) in
        [(&["h2", "http/1.1"][..], Version::HTTP_2), (&["http/1.1"], Version::HTTP_11), (&[], Version::HTTP_11)]
    {
        let backend = HyperBackend::tls(&identity, alpn);
        let folder = by_protocol(backend.address(), "https");
        let portunus = Portunus::serve(&folder);
        for body in ["one", "two"] {
            let request = format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\n{body}");
            assert_eq!(h1::Connection::open(portunus.http).ask(request).text(), body, "{alpn:?}");
        }
        let received = backend.last();
        assert_eq!(received.version, version, "{alpn:?}");
        assert_eq!(received.headers["x-forwarded-proto"], "http");
        let host = received.uri.authority().map(ToString::to_string);
        let host = host.or_else(|| received.headers.get("host").map(|host| host.to_str().expect("text").to_owned()));
        assert_eq!(host.as_deref(), Some("a.test"));
    }
}

#[test]
fn a_connection_without_a_valid_preface_does_no_harm() {
    let backend = Backend::named("a");
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve_with(&folder, &["--request-head-timeout", "10s"]);
    for preface in ["PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n not a frame, only text"] {
        let mut client = h1::Connection::open(portunus.http);
        client.send(preface);
        client.read_to_end();
    }
    assert_eq!(backend.connections(), 0);
    assert_eq!(portunus.get("a.test", "/").status, 200);
}

#[test]
fn a_download_over_http_2_arrives_whole() {
    let length = scale(8 << 20, 256 << 20);
    let backend = Backend::new(move |exchange| {
        exchange.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"));
        let piece: Vec<u8> = (0..1 << 16).map(|n| (n % 251) as u8).collect();
        (0..length / piece.len()).all(|_| exchange.write(&piece));
    });
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve(&folder);
    let answer: Answer = run(async {
        let client = Client::new().alpn(&["h2"]);
        let (mut connection, _) = Connection::tls(portunus.https, &client, "a.test").await;
        connection.get("https://a.test/").await
    });
    assert_eq!(answer.body.len(), length);
    assert!(
        answer.body.chunks(1 << 16).all(|piece| piece.iter().enumerate().all(|(n, byte)| *byte == (n % 251) as u8))
    );
}

#[test]
fn what_portunus_answers_itself_has_no_body_for_head() {
    let backend = Backend::named("a");
    let folder = Folder::new();
    folder.write("app.yaml", app_with("default", "app", &[backend.address()], "http"));
    folder.write("ingress.yaml", Ingress::new("default", "a").host("a.test").prefix("/", "app", 80));
    let portunus = Portunus::serve(&folder);
    run(async {
        let mut connection = Connection::cleartext(portunus.http).await;
        for (host, status) in [("other.test", 404), ("a.test", 200), ("other.test", 404)] {
            let request = Request::head(format!("http://{host}/")).body(empty()).expect("a request");
            let answer = connection.send(request).await;
            assert_eq!((answer.status.as_u16(), answer.body.len()), (status, 0));
        }
    });
}
