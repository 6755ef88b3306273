//! One request at the recording backend, in the hands of the test's closure.

use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use super::wire::{Body, Framing, Head, Wire};

pub struct Exchange {
    pub wire: Wire<TcpStream>,
    pub head: Head,
    record: Box<dyn Fn(Body)>,
    read: bool,
    closed: bool,
}

impl Exchange {
    /// `record` gets the body as soon as it was read.
    pub fn new(wire: Wire<TcpStream>, head: Head, record: Box<dyn Fn(Body)>) -> Self {
        Self { wire, head, record, read: false, closed: false }
    }

    /// Reads what is left of the body. The connection, if it goes on.
    pub fn finish(mut self) -> Option<Wire<TcpStream>> {
        self.read_body();
        (!self.closed).then_some(self.wire)
    }

    /// Reads the request's body to its end, and records it.
    pub fn read_body(&mut self) -> Vec<u8> {
        if self.read || self.closed {
            return Vec::new();
        }
        self.read = true;
        let framing = if self.head.has("transfer-encoding") {
            Framing::Chunked
        } else {
            let length = self.head.get("content-length").map(|v| v.parse().expect("a length"));
            length.map_or(Framing::Empty, Framing::Length)
        };
        let body = self.wire.body(framing);
        let bytes = body.bytes.clone();
        (self.record)(body);
        bytes
    }

    /// Sends these bytes; that the other side is gone is no failure of the backend.
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.wire.write(bytes.as_ref()).is_ok()
    }

    /// Reads the body and answers 200 with this one.
    pub fn ok(&mut self, body: &str) {
        self.read_body();
        let length = body.len();
        self.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"));
    }

    /// Reads the body and answers with it.
    pub fn echo(&mut self) {
        let body = self.read_body();
        self.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()));
        self.write(body);
    }

    pub fn close(&mut self) {
        self.closed = true;
        let _ = self.wire.stream.shutdown(Shutdown::Both);
    }

    /// Closes with a reset.
    pub fn reset(&mut self) {
        self.closed = true;
        let _ = socket2::SockRef::from(&self.wire.stream).set_linger(Some(Duration::ZERO));
    }

    /// No more bytes of this connection are kept: for bodies that are too long to keep.
    pub fn stop_recording(&mut self) {
        self.wire.record = None;
    }

    /// Reads a body of this length piece by piece and keeps nothing of it. Returns how many bytes
    /// came.
    pub fn discard(&mut self, length: u64) -> u64 {
        self.stop_recording();
        self.read = true;
        let mut count = 0;
        loop {
            let piece = (self.wire.unread.len() as u64).min(length - count);
            self.wire.take(piece as usize);
            count += piece;
            if count == length || !matches!(self.wire.fill(), Ok(1..)) {
                return count;
            }
        }
    }
}
