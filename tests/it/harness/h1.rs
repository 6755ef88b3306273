//! An HTTP/1 client that sends exactly the bytes it is given and reads answers one by one.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::PATIENCE;
use super::wire::{Body, Framing, Head, Wire};

/// One answer, as it came.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub head: Head,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    pub framing: Framing,
    /// False when the connection ended before the body did.
    pub complete: bool,
}

impl Response {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.get(name)
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("not JSON: {e}: {}", self.text()))
    }
}

/// A client's side of one connection.
pub struct Connection<S> {
    pub wire: Wire<S>,
}

impl Connection<TcpStream> {
    #[track_caller]
    pub fn open(address: SocketAddr) -> Self {
        Self::over(connect(address))
    }

    /// Says that nothing more will be sent.
    pub fn finish(&mut self) {
        self.wire.stream.shutdown(std::net::Shutdown::Write).expect("shutdown");
    }

    /// Closes with a reset, as a client that dies does.
    pub fn reset(self) {
        let _ = socket2::SockRef::from(&self.wire.stream).set_linger(Some(std::time::Duration::ZERO));
    }
}

/// A TCP connection whose reads and writes end at `PATIENCE`.
#[track_caller]
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap_or_else(|e| panic!("connect to {address}: {e}"));
    stream.set_nodelay(true).expect("nodelay");
    stream.set_read_timeout(Some(PATIENCE)).expect("read timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("write timeout");
    stream
}

/// A connection from this address of the loopback network.
#[track_caller]
pub fn connect_from(address: [u8; 4], to: SocketAddr) -> Connection<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("socket");
    socket.bind(&SocketAddr::from((address, 0)).into()).expect("bind");
    socket.connect(&to.into()).expect("connect");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).expect("read timeout");
    Connection::over(stream)
}

impl<S: Read + Write> Connection<S> {
    pub fn over(stream: S) -> Self {
        Self { wire: Wire::new(stream) }
    }

    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.wire.write(bytes.as_ref()).expect("send");
    }

    /// The next answer to anything but a HEAD.
    #[track_caller]
    pub fn response(&mut self) -> Response {
        self.try_response(false).expect("an answer")
    }

    #[track_caller]
    pub fn response_to_head(&mut self) -> Response {
        self.try_response(true).expect("an answer")
    }

    /// Only the head; the body is left on the wire.
    #[track_caller]
    pub fn response_head(&mut self) -> Head {
        self.wire.head().expect("an answer").expect("an answer before the end")
    }

    pub fn try_response(&mut self, to_head: bool) -> io::Result<Response> {
        let head = self.wire.head()?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let status = head.word(1).parse().map_err(|_| io::Error::other(format!("{:?}", head.start)))?;
        let framing = framing(&head, status, to_head);
        let Body { bytes: body, trailers, complete } = self.wire.body(framing);
        Ok(Response { status, head, body, trailers, framing, complete })
    }

    /// Asserts that the other side closes without another byte.
    #[track_caller]
    pub fn assert_closed(&mut self) {
        let rest = self.read_to_end();
        assert!(rest.is_empty(), "more bytes before the end: {:?}", String::from_utf8_lossy(&rest));
    }

    /// What comes until the other side closes (or resets). Fails if it stays open.
    #[track_caller]
    pub fn read_to_end(&mut self) -> Vec<u8> {
        loop {
            match self.wire.fill() {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    let late = [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut];
                    assert!(!late.contains(&error.kind()), "the connection was not closed");
                    break;
                }
            }
        }
        std::mem::take(&mut self.wire.unread)
    }

    /// One exchange on this connection.
    #[track_caller]
    pub fn ask(&mut self, request: impl AsRef<[u8]>) -> Response {
        self.send(request);
        self.response()
    }

    #[track_caller]
    pub fn get(&mut self, host: &str, target: &str) -> Response {
        self.ask(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
    }
}

fn framing(head: &Head, status: u16, to_head: bool) -> Framing {
    let chunked = head.get("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked"));
    match head.get("content-length") {
        _ if to_head || status < 200 || status == 204 || status == 304 => Framing::Empty,
        _ if chunked => Framing::Chunked,
        Some(length) => Framing::Length(length.parse().expect("a content-length")),
        None => Framing::Close,
    }
}

/// One GET on a connection of its own.
#[track_caller]
pub fn get(address: SocketAddr, host: &str, target: &str) -> Response {
    Connection::open(address).get(host, target)
}

/// One raw request on a connection of its own, in pieces of `step` bytes; the connection must be
/// closed by the other side after the last answer. A peer that stops reading early is no failure:
/// its answer counts.
#[track_caller]
pub fn raw_in_steps(address: SocketAddr, bytes: &[u8], step: usize) -> Vec<u8> {
    let mut connection = Connection::open(address);
    for piece in bytes.chunks(step.max(1)) {
        if connection.wire.write(piece).is_err() {
            break;
        }
    }
    connection.read_to_end()
}

#[track_caller]
pub fn raw(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    raw_in_steps(address, bytes.as_ref(), usize::MAX)
}

/// Takes apart what `raw` returned; it must be one or more whole answers.
#[track_caller]
pub fn responses(bytes: &[u8]) -> Vec<Response> {
    let mut connection = Connection::over(io::Cursor::new(bytes.to_vec()));
    let mut all = Vec::new();
    loop {
        match connection.try_response(false) {
            Ok(response) => all.push(response),
            Err(error) if error.get_ref().is_none() => return all,
            Err(error) => panic!("not an answer: {error}"),
        }
    }
}
