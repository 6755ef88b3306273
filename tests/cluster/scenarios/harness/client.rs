//! Clients: on the node, inside of the cluster's network, and outside of it, as the internet is.

use std::fs::File;
use std::net::SocketAddr;

use nix::sched::{CloneFlags, setns};
use serde_json::Value;

use super::eventually;
use super::h1::{Connection, Response};

/// What the `echo` image says about a request.
#[derive(Debug, Clone)]
pub struct Echo(pub Value);

impl Echo {
    pub fn text(&self, field: &str) -> &str {
        self.0[field].as_str().unwrap_or_default()
    }

    /// A request header as it arrived, several joined by commas.
    pub fn header(&self, name: &str) -> String {
        let headers = self.0["headers"].as_object().expect("headers");
        let values = headers
            .iter()
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .filter_map(|(_, values)| values.as_array());
        values.flatten().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
    }
}

/// One GET on a connection of its own; no answer is an error.
pub fn get(address: SocketAddr, host: &str, target: &str) -> Result<Response, String> {
    ask(address, "GET", host, target)
}

/// One request without a body.
pub fn ask(address: SocketAddr, method: &str, host: &str, target: &str) -> Result<Response, String> {
    let stream = std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_secs(5));
    let stream = stream.map_err(|error| format!("connect: {error}"))?;
    stream.set_read_timeout(Some(std::time::Duration::from_secs(30))).map_err(|error| error.to_string())?;
    let mut connection = Connection::over(stream);
    let length = if matches!(method, "GET" | "DELETE") { "" } else { "Content-Length: 0\r\n" };
    let request = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{length}\r\n");
    connection.wire.write(request.as_bytes()).map_err(|error| format!("write: {error}"))?;
    connection.try_response(false).map_err(|error| format!("read: {error}"))
}

/// The echo's words for a GET, once it is answered with 200.
#[track_caller]
pub fn echo(address: SocketAddr, host: &str, target: &str) -> Echo {
    eventually(&format!("200 for {host}{target}"), || {
        let response = get(address, host, target).ok()?;
        (response.status == 200).then(|| Echo(response.json()))
    })
}

/// The text of the answer to a GET of `/`, once it is answered with 200.
#[track_caller]
pub fn echo_text(address: SocketAddr, host: &str) -> String {
    eventually(&format!("200 for {host}"), || {
        let response = get(address, host, "/").ok()?;
        (response.status == 200).then(|| response.text())
    })
}

/// The status of a GET.
#[track_caller]
pub fn status(address: SocketAddr, host: &str, target: &str) -> u16 {
    get(address, host, target).unwrap_or_else(|error| panic!("{host}{target}: {error}")).status
}

/// Waits until a GET is answered so.
#[track_caller]
pub fn becomes(address: SocketAddr, host: &str, target: &str, expected: u16) {
    eventually(&format!("{expected} for {host}{target}"), || {
        get(address, host, target).ok().filter(|response| response.status == expected).map(drop)
    });
}

/// Runs `work` in the network of a client outside of the cluster, 198.51.100.10.
pub fn outside<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            go_outside();
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Moves this thread there for good.
pub fn go_outside() {
    let namespace = File::open("/run/netns/client").expect("the client's network namespace");
    setns(namespace, CloneFlags::CLONE_NEWNET).expect("it can be entered");
}
