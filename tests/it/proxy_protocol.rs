//! The PROXY protocol: whom a load balancer in front may name as the client, and what is closed without an answer.

use crate::harness::h1::{self, Connection};
use crate::harness::tls::Client;
use crate::harness::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
const V1: &[u8] = b"PROXY TCP4 203.0.113.7 10.0.0.1 12345 443\r\n";

/// A header of version 2 with this command, family and content.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).expect("a length").to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[0x20 | command, family][..], &length, rest].concat()
}

fn v2_of(source: &str, tlvs: &[u8]) -> Vec<u8> {
    let ports = [0x30, 0x39, 1, 0xbb];
    match source.parse().expect("an address") {
        std::net::IpAddr::V4(source) => v2(1, 0x11, &[&source.octets(), &[10, 0, 0, 1][..], &ports, tlvs].concat()),
        std::net::IpAddr::V6(source) => v2(1, 0x21, &[&source.octets(), &[0; 16][..], &ports, tlvs].concat()),
    }
}

/// Every header that a load balancer may send, and the client that it names.
fn headers() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    vec![
        ("v1 TCP4", V1.to_vec(), "203.0.113.7"),
        ("v1 TCP6", b"PROXY TCP6 2001:db8::7 2001:db8::1 1 65535\r\n".to_vec(), "2001:db8::7"),
        ("v1 mapped", b"PROXY TCP6 ::ffff:203.0.113.7 ::1 1 2\r\n".to_vec(), "203.0.113.7"),
        ("v1 UNKNOWN", b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        ("v1 UNKNOWN, more", b"PROXY UNKNOWN ffff::1 ffff::2 1 2 and more\r\n".to_vec(), "127.0.0.1"),
        ("v2 IPv4", v2_of("203.0.113.7", b""), "203.0.113.7"),
        ("v2 IPv6", v2_of("2001:db8::7", b""), "2001:db8::7"),
        ("v2 TLVs", v2_of("203.0.113.7", &[0xea, 0, 3, 1, b'v', b'p', 0x04, 0, 1, 0]), "203.0.113.7"),
        ("v2 many TLVs", v2_of("203.0.113.7", &[&[0x04, 0x0f, 0x00][..], &[0; 0x0f00]].concat()), "203.0.113.7"),
        ("v2 LOCAL", v2(0, 0, b""), "127.0.0.1"),
        ("v2 LOCAL with an address", v2(0, 0x11, &[9; 12]), "127.0.0.1"),
        ("v2 unspecified", v2(1, 0, b""), "127.0.0.1"),
        ("v2 Unix", v2(1, 0x31, &[b'/'; 216]), "127.0.0.1"),
        ("v2 UDP", v2(1, 0x12, &[9; 12]), "127.0.0.1"),
    ]
}

/// Both kinds of listener take headers, from these networks.
fn served(trusted: &str, flags: &[&str]) -> (Backend, Folder, Portunus) {
    let backend = Backend::new(Exchange::echo);
    let folder = Folder::to(&backend);
    let flags = [&["--proxy-protocol", "http,https", "--trusted-proxies", trusted], flags].concat();
    let portunus = Portunus::serve_with(&folder, &flags);
    (backend, folder, portunus)
}

fn failed(portunus: &Portunus) -> f64 {
    portunus.metric("portunus_proxy_protocol_failed_total", &[])
}

/// The endpoint was told of this client.
#[track_caller]
fn assert_client(backend: &Backend, client: &str, what: &str) {
    let head = backend.last().head;
    assert_eq!((head.get("x-forwarded-for"), head.get("x-real-ip")), (Some(client), Some(client)), "{what}");
}

#[test]
fn the_client_that_a_header_names_is_the_one_that_asks() {
    let (backend, _folder, portunus) = served("127.0.0.1", &["--access-log", "stdout"]);
    for (number, (what, header, client)) in headers().into_iter().enumerate() {
        // The request is right behind the header, in one write.
        let mut connection = Connection::open(portunus.http);
        let asked = format!("GET / HTTP/1.1\r\nHost: a.test\r\nX-Request-ID: id-{number}.\r\n\r\n");
        assert_eq!(connection.ask([&header[..], asked.as_bytes()].concat()).status, 200, "{what}");
        assert_client(&backend, client, what);
        assert_eq!(backend.last().header("x-forwarded-port"), Some("80"), "what the request says, not the header");
        let line = portunus.stdout.wait_for(&format!("\"id-{number}.\""));
        assert!(line.contains(&format!("\"client\":\"{client}\"")), "{what}: {line}");
    }
    assert_eq!(failed(&portunus), 0.0);
}

#[test]
fn it_stands_before_tls() {
    let (backend, _folder, portunus) = served("127.0.0.1", &[]);
    for (what, header, client) in headers() {
        // The ClientHello is right behind the header, in one write, or each byte has its own.
        for step in [usize::MAX, 1] {
            let mut connection = Client::new().connect_behind(&header, step, portunus.https, "a.test");
            assert_eq!(connection.get("a.test", "/").status, 200, "{what}");
            assert_client(&backend, client, what);
            assert_eq!(backend.last().header("x-forwarded-proto"), Some("https"), "{what}");
        }
    }
    assert_eq!(failed(&portunus), 0.0);
}

#[test]
fn a_header_in_single_bytes_is_read_and_no_byte_behind_it_is_lost() {
    let (backend, _folder, portunus) = served("127.0.0.1", &[]);
    for (what, header, client) in headers() {
        let mut connection = Connection::open(portunus.http);
        for byte in &header {
            connection.send([*byte]);
        }
        // What looks like another header is a body like any other.
        let asked = format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {}\r\n\r\n", header.len());
        let response = connection.ask([asked.as_bytes(), &header].concat());
        assert_eq!((response.status, response.body), (200, header), "{what}");
        assert_client(&backend, client, what);
    }
}

#[test]
fn it_holds_for_every_request_of_the_connection() {
    let (backend, _folder, portunus) = served("127.0.0.1", &[]);
    let mut connection = Connection::open(portunus.http);
    connection.send([V1, GET.as_bytes(), GET.as_bytes()].concat());
    for _ in 0..2 {
        assert_eq!(connection.response().status, 200);
        assert_client(&backend, "203.0.113.7", "pipelined");
    }
    assert_eq!(connection.ask(GET).status, 200);
    assert_client(&backend, "203.0.113.7", "kept alive");
    // Once only: a second header is no request.
    assert_eq!(connection.ask(V1).status, 400);
    run(async {
        for header in [V1.to_vec(), v2_of("203.0.113.7", b"")] {
            let mut connection = h2::Connection::behind(&header, portunus.http).await;
            for _ in 0..2 {
                assert_eq!(connection.get("http://a.test/").await.status, 200);
                assert_client(&backend, "203.0.113.7", "HTTP/2");
            }
        }
    });
}

#[test]
fn what_is_no_header_is_closed_without_an_answer() {
    let (backend, _folder, portunus) = served("127.0.0.1", &[]);
    let mut wrong_version = v2_of("203.0.113.7", b"");
    wrong_version[12] = 0x11;
    let mut wrong_command = v2_of("203.0.113.7", b"");
    wrong_command[12] = 0x22;
    let too_long = v2_of("203.0.113.7", &[0; 4096]);
    let corpus: Vec<(&str, &[u8])> = vec![
        ("a request", GET.as_bytes()),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        ("a ClientHello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
        ("an empty line", b"\r\n"),
        ("lower case", b"proxy TCP4 203.0.113.7 10.0.0.1 1 2\r\n"),
        ("no protocol", b"PROXY \r\n"),
        ("another protocol", b"PROXY UDP4 203.0.113.7 10.0.0.1 1 2\r\n"),
        ("a longer UNKNOWN", b"PROXY UNKNOWNS\r\n"),
        ("LF alone", b"PROXY TCP4 203.0.113.7 10.0.0.1 1 2\n"),
        ("UNKNOWN with LF alone", b"PROXY UNKNOWN\n"),
        ("CR inside", b"PROXY TCP4\r203.0.113.7 10.0.0.1 1 2\r\n"),
        ("two spaces", b"PROXY TCP4  203.0.113.7 10.0.0.1 1 2\r\n"),
        ("a space at the end", b"PROXY TCP4 203.0.113.7 10.0.0.1 1 2 \r\n"),
        ("a port too few", b"PROXY TCP4 203.0.113.7 10.0.0.1 1\r\n"),
        ("a port too many", b"PROXY TCP4 203.0.113.7 10.0.0.1 1 2 3\r\n"),
        ("a large port", b"PROXY TCP4 203.0.113.7 10.0.0.1 65536 2\r\n"),
        ("a port with a sign", b"PROXY TCP4 203.0.113.7 10.0.0.1 +1 2\r\n"),
        ("a port with a zero", b"PROXY TCP4 203.0.113.7 10.0.0.1 01 2\r\n"),
        ("a large address", b"PROXY TCP4 203.0.113.256 10.0.0.1 1 2\r\n"),
        ("an address with a zero", b"PROXY TCP4 203.0.113.07 10.0.0.1 1 2\r\n"),
        ("a name", b"PROXY TCP4 client.test 10.0.0.1 1 2\r\n"),
        ("the other family", b"PROXY TCP6 203.0.113.7 10.0.0.1 1 2\r\n"),
        ("no UTF-8", b"PROXY TCP4 203.0.113.\xff 10.0.0.1 1 2\r\n"),
        ("too long a line", &[b'P'; 200]),
        ("too long an UNKNOWN", &[&b"PROXY UNKNOWN "[..], &[b'x'; 200]].concat()),
        ("version 1 in version 2", &wrong_version),
        ("another command", &wrong_command),
        ("another family", &v2(1, 0x41, &[9; 12])),
        ("another transport", &v2(1, 0x13, &[9; 12])),
        ("a family without a transport", &v2(1, 0x10, &[9; 12])),
        ("a transport without a family", &v2(1, 0x01, &[9; 12])),
        ("too short for IPv4", &v2(1, 0x11, &[9; 11])),
        ("too short for IPv6", &v2(1, 0x21, &[9; 35])),
        ("too many TLVs", &too_long),
        ("a broken signature", b"\r\n\r\n\0\r\nQUIT\r\x21\x11\0\x0c"),
    ]
    .into_iter()
    .map(|(what, bytes): (&str, &[u8])| (what, &*bytes.to_vec().leak()))
    .collect();
    for (number, (what, bytes)) in corpus.iter().enumerate() {
        for address in [portunus.http, portunus.https] {
            assert!(h1::raw(address, [bytes, GET.as_bytes()].concat()).is_empty(), "{what}");
        }
        let count = 2 * (number + 1);
        portunus.wait_metric("portunus_proxy_protocol_failed_total", &[], |failed| failed == count as f64);
    }
    assert_eq!(backend.count(), 0);
}

#[test]
fn half_a_header_is_not_waited_for_long() {
    let (backend, _folder, portunus) =
        served("127.0.0.1", &["--request-head-timeout", "200ms", "--tls-handshake-timeout", "200ms"]);
    let second = v2_of("203.0.113.7", b"");
    let mut closed = 0.0;
    for address in [portunus.http, portunus.https] {
        for half in [&b""[..], b"P", b"PROXY TCP4 203.0.113.7", &V1[..V1.len() - 1], &second[..14], &second[..20]] {
            let mut connection = Connection::open(address);
            connection.send(half);
            connection.assert_closed();
            // And when the other side closes before it is whole.
            let mut connection = Connection::open(address);
            connection.send(half);
            connection.finish();
            connection.assert_closed();
            closed += 2.0;
            portunus.wait_metric("portunus_proxy_protocol_failed_total", &[], |failed| failed == closed);
        }
    }
    assert_eq!(backend.count(), 0);
}

#[test]
fn strangers_are_not_even_listened_to() {
    let (backend, _folder, portunus) = served("10.0.0.0/8", &[]);
    for address in [portunus.http, portunus.https] {
        // Closed before a byte was sent.
        Connection::open(address).assert_closed();
        assert!(h1::raw(address, [V1, GET.as_bytes()].concat()).is_empty());
    }
    portunus.wait_metric("portunus_proxy_protocol_failed_total", &[], |failed| failed == 4.0);
    assert_eq!(backend.count(), 0);
}

#[test]
fn forwarding_fields_are_believed_by_the_address_in_the_header_alone() {
    let (backend, _folder, portunus) = served("127.0.0.1,198.51.100.0/24", &[]);
    let asked = "GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n\r\n";
    for (header, chain, client, proto) in [
        // The load balancer is trusted, its client is not.
        (v2_of("203.0.113.7", b""), "203.0.113.7", "203.0.113.7", "http"),
        // The client is a proxy that is trusted itself.
        (v2_of("198.51.100.9", b""), "6.6.6.6, 198.51.100.9", "6.6.6.6", "https"),
        // Nobody vouches for what comes through here.
        (v2(0, 0, b""), "127.0.0.1", "127.0.0.1", "http"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1", "127.0.0.1", "http"),
    ] {
        let mut connection = Connection::open(portunus.http);
        assert_eq!(connection.ask([&header[..], asked.as_bytes()].concat()).status, 200);
        let head = backend.last().head;
        assert_eq!(head.get("x-forwarded-for"), Some(chain));
        assert_eq!(head.get("x-real-ip"), Some(client));
        assert_eq!(head.get("x-forwarded-proto"), Some(proto));
    }
}

#[test]
fn only_the_listeners_that_are_named_take_headers() {
    // Nobody else takes ports of this address.
    let free = std::net::TcpListener::bind("127.0.0.77:0").expect("bind");
    let named = free.local_addr().expect("an address");
    drop(free);
    let backend = Backend::named("a");
    let folder = Folder::to(&backend);
    let (listen, port) = (format!("127.0.0.1:0,{named}"), named.port().to_string());
    let flags = ["--http-listen", &listen, "--trusted-proxies", "127.0.0.0/8", "--proxy-protocol", &port];
    let portunus = Portunus::serve_with(&folder, &flags);
    assert_eq!(Connection::open(named).ask([V1, GET.as_bytes()].concat()).status, 200);
    assert_client(&backend, "203.0.113.7", "the port that was named");
    assert!(h1::raw(named, GET).is_empty());
    assert_eq!(portunus.get("a.test", "/").status, 200);
    assert_client(&backend, "127.0.0.1", "another port");
    assert_eq!(Connection::open(portunus.http).ask([V1, GET.as_bytes()].concat()).status, 400);
    let (response, _) = Client::new().get(portunus.https, "a.test", "a.test", "/");
    assert_eq!(response.status, 200);
    assert_eq!(failed(&portunus), 1.0);
}
