//! `portunus echo`, the backend to try things with.

use std::net::SocketAddr;
use std::process::Child;

use crate::harness::command::{Output, command};
use crate::harness::h1::{self, Connection};
use crate::harness::websocket::WebSocket;
use crate::harness::*;

/// A running `portunus echo`.
pub struct Echo {
    child: Child,
    pub address: SocketAddr,
}

impl Echo {
    pub fn start(flags: &[&str]) -> Self {
        let mut child = command().args(["echo", "--listen", "127.0.0.1:0"]).args(flags).spawn().expect("spawn");
        let line = Output::of(child.stderr.take().expect("stderr")).wait_for("listening for echo on ");
        let address = line.split("listening for echo on ").nth(1).and_then(|rest| rest.trim().parse().ok());
        Self { child, address: address.expect("an address") }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn it_answers_with_what_it_received() {
    let echo = Echo::start(&["--name", "juliet"]);
    let mut client = Connection::open(echo.address);
    let request = "POST /a/b?c=d HTTP/1.1\r\nHost: a.test\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: 5\r\n\r\nhello";
    let answer = client.ask(request);
    assert_eq!(answer.status, 200);
    let json = answer.json();
    assert_eq!((&json["name"], &json["method"]), (&"juliet".into(), &"POST".into()), "{json}");
    assert_eq!((&json["target"], &json["version"]), (&"/a/b?c=d".into(), &"HTTP/1.1".into()), "{json}");
    assert_eq!(json["headers"]["x-a"], serde_json::json!(["1", "2"]), "{json}");
    assert_eq!(json["body_bytes"], 5, "{json}");
}

#[test]
fn it_answers_as_the_query_asks() {
    let echo = Echo::start(&[]);
    let get = |target: &str| h1::get(echo.address, "a.test", target);
    assert_eq!(get("/?status=503").status, 503);
    assert_eq!(get("/?bytes=1024").body, [b'x'; 1024]);
    let chunked = get("/?chunks=5&bytes=100&delay_ms=1");
    assert_eq!((chunked.framing, chunked.body.len()), (wire::Framing::Chunked, 500));
}

#[test]
fn it_speaks_h2c_and_websockets_on_the_same_port_also_behind_portunus() {
    let echo = Echo::start(&[]);
    let folder = Folder::to_addresses(&[echo.address]);
    let portunus = Portunus::serve(&folder);
    for address in [echo.address, portunus.http] {
        run(async {
            let answer = h2::Connection::cleartext(address).await.get("http://a.test/x").await;
            assert_eq!(answer.status, 200);
            assert!(answer.text().contains("\"target\""), "{}", answer.text());
        });
        let mut socket = WebSocket::open(address, "a.test", "/any");
        (0..20).for_each(|number| socket.echo(&format!("message {number}")));
        socket.close();
    }
}
