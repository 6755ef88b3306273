//! Upgrades: tunnels that carry every byte both ways, outlive tables, and are counted.

use std::net::TcpStream;

use crate::harness::h1::Connection;
use crate::harness::manifests::app_with;
use crate::harness::tls::Client;
use crate::harness::websocket::{self, WebSocket, upgrade_request};
use crate::harness::*;

fn echoing() -> Backend {
    Backend::new(|exchange| {
        if exchange.head.has("upgrade") {
            websocket::echo(exchange);
        } else {
            exchange.ok("plain");
        }
    })
}

const TUNNELS: &str = "portunus_tunnels";

#[test]
fn messages_pass_a_tunnel_both_ways_and_it_is_counted() {
    let backend = echoing();
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve(&folder);
    assert_eq!(portunus.metric(TUNNELS, &[]), 0.0);
    let mut first = WebSocket::open(portunus.http, "a.test", "/chat?room=1");
    let mut second = WebSocket::open(portunus.http, "a.test", "/chat");
    for number in 0..100 {
        first.echo(&format!("message {number}"));
        second.echo(&"long ".repeat(number * 100));
    }
    portunus.wait_metric(TUNNELS, &[], |tunnels| tunnels == 2.0);
    let head = &backend.requests()[0].head;
    assert_eq!(head.start, "GET /chat?room=1 HTTP/1.1");
    assert_eq!(head.get("upgrade"), Some("websocket"));
    assert!(head.get("connection").is_some_and(|value| value.to_ascii_lowercase().contains("upgrade")));
    assert_eq!(head.get("sec-websocket-key"), Some(websocket::KEY));
    assert_eq!(head.get("x-forwarded-for"), Some("127.0.0.1"));
    first.close();
    portunus.wait_metric(TUNNELS, &[], |tunnels| tunnels == 1.0);
    second.close();
    portunus.wait_metric(TUNNELS, &[], |tunnels| tunnels == 0.0);
}

#[test]
fn a_websocket_works_over_tls_and_with_its_app_protocol() {
    let backend = echoing();
    let folder = Folder::new();
    folder.write("app.yaml", app_with("default", "app", &[backend.address()], "kubernetes.io/ws"));
    folder.write("ingress.yaml", Ingress::new("default", "all").prefix("/", "app", 80));
    let portunus = Portunus::serve(&folder);
    let (connection, _) = Client::new().alpn(&["http/1.1"]).connect(portunus.https, "a.test");
    let mut socket = WebSocket::over(connection, "a.test", "/");
    for number in 0..20 {
        socket.echo(&format!("message {number}"));
    }
    socket.close();
}

#[test]
fn what_is_sent_right_behind_the_upgrade_arrives() {
    let backend = echoing();
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve(&folder);
    let mut connection = Connection::open(portunus.http);
    let early = websocket::frame(1, b"early", true);
    connection.send([upgrade_request("a.test", "/").as_bytes(), &early].concat());
    assert_eq!(connection.response().status, 101);
    let mut socket = WebSocket { connection };
    assert_eq!(socket.receive(), "early");
    socket.echo("late");
}

#[test]
fn what_the_backend_sends_with_its_101_arrives() {
    let backend = Backend::new(|exchange| {
        exchange.read_body();
        let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
        let accept = format!("Sec-WebSocket-Accept: {}\r\n\r\n", websocket::ACCEPT);
        exchange.write([head.as_bytes(), accept.as_bytes(), &websocket::frame(1, b"first", false)].concat());
        exchange.wire.rest();
        exchange.close();
    });
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve(&folder);
    let mut socket = WebSocket::open(portunus.http, "a.test", "/");
    assert_eq!(socket.receive(), "first");
}

#[test]
fn other_protocols_tunnel_too_and_half_closed_sides_are_heard_out() {
    let backend = Backend::new(|exchange| {
        exchange.read_body();
        exchange.write("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: lines/1\r\n\r\n");
        let all = exchange.wire.rest();
        exchange.write(format!("{} bytes", all.len()));
        exchange.close();
    });
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve(&folder);
    let mut client = Connection::<TcpStream>::open(portunus.http);
    let request = "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: lines/1\r\n\r\n";
    let response = client.ask(request);
    assert_eq!((response.status, response.header("upgrade")), (101, Some("lines/1")));
    let piece = vec![b'x'; 1 << 16];
    for _ in 0..64 {
        client.send(&piece);
    }
    client.finish();
    assert_eq!(client.read_to_end(), format!("{} bytes", 64 << 16).as_bytes());
}

#[test]
fn an_upgrade_that_the_backend_refuses_is_an_answer_like_any_other() {
    let backend = Backend::new(|exchange| {
        exchange.read_body();
        exchange.write("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
    });
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve(&folder);
    let mut client = Connection::open(portunus.http);
    for _ in 0..2 {
        let response = client.ask(upgrade_request("a.test", "/"));
        assert_eq!((response.status, response.text().as_str()), (403, "no"));
    }
    assert_eq!(portunus.metric(TUNNELS, &[]), 0.0);
}

#[test]
fn a_switch_that_nobody_asked_for_is_502() {
    let backend = Backend::new(|exchange| {
        exchange.read_body();
        let protocol = if exchange.head.has("upgrade") { "other" } else { "websocket" };
        exchange
            .write(format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n"));
        exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled");
        exchange.wire.rest();
        exchange.close();
    });
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve(&folder);
    let mut client = Connection::open(portunus.http);
    assert_eq!(client.get("a.test", "/").status, 502);
    assert_eq!(client.get("a.test", "/").status, 502, "nothing of the first is left");
    let mut client = Connection::open(portunus.http);
    assert_eq!(client.ask(upgrade_request("a.test", "/")).status, 502);
}

#[test]
fn a_tunnel_ends_when_the_backend_goes() {
    let backend = echoing();
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve(&folder);
    let mut socket = WebSocket::open(portunus.http, "a.test", "/");
    socket.echo("hello");
    backend.close_connections();
    socket.connection.assert_closed();
    drop(socket);
    portunus.wait_metric(TUNNELS, &[], |tunnels| tunnels == 0.0);
}

#[test]
fn an_idle_tunnel_ends_at_its_limit() {
    let backend = echoing();
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve_with(&folder, &["--tunnel-idle-timeout", "300ms"]);
    let mut socket = WebSocket::open(portunus.http, "a.test", "/");
    socket.echo("hello");
    socket.connection.assert_closed();
}

#[test]
fn open_tunnels_do_not_wait_for_each_other() {
    let backend = echoing();
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve_with(&folder, &["--workers", "1"]);
    let mut sockets: Vec<_> = (0..20).map(|_| WebSocket::open(portunus.http, "a.test", "/")).collect();
    for (number, socket) in sockets.iter_mut().enumerate() {
        socket.send(&format!("socket {number}"));
    }
    for (number, socket) in sockets.iter_mut().enumerate().rev() {
        assert_eq!(socket.receive(), format!("socket {number}"));
    }
    assert_eq!(portunus.get("a.test", "/").text(), "plain");
}
