//! WebSocket frames (RFC 6455 §5.2), enough to open a tunnel and see that every message passes it
//! unchanged and in order: a client and the backend's side.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::exchange::Exchange;
use super::h1::{Connection, Response};
use super::wire::Wire;

/// The key and its answer from RFC 6455 §1.3.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

const TEXT: u8 = 1;
const CLOSE: u8 = 8;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

pub fn upgrade_request(host: &str, target: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    )
}

/// A client's open WebSocket.
pub struct WebSocket<S> {
    pub connection: Connection<S>,
}

impl WebSocket<TcpStream> {
    #[track_caller]
    pub fn open(address: SocketAddr, host: &str, target: &str) -> Self {
        Self::over(Connection::open(address), host, target)
    }
}

impl<S: Read + Write> WebSocket<S> {
    #[track_caller]
    pub fn over(mut connection: Connection<S>, host: &str, target: &str) -> Self {
        let response: Response = connection.ask(upgrade_request(host, target));
        assert_eq!(response.status, 101, "{response:?}");
        assert_eq!(response.header("sec-websocket-accept"), Some(ACCEPT));
        Self { connection }
    }

    #[track_caller]
    pub fn send(&mut self, text: &str) {
        self.connection.send(frame(TEXT, text.as_bytes(), true));
    }

    /// The kind and payload of the next frame, if there is one.
    pub fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        read_frame(&mut self.connection.wire)
    }

    /// The next message.
    #[track_caller]
    pub fn receive(&mut self) -> String {
        let (kind, payload) = read_frame(&mut self.connection.wire).expect("a frame");
        assert_eq!(kind, TEXT, "not a text frame");
        String::from_utf8(payload).expect("text")
    }

    /// Sends a message and waits for it to come back.
    #[track_caller]
    pub fn echo(&mut self, text: &str) {
        self.send(text);
        assert_eq!(self.receive(), text);
    }

    /// Closes as RFC 6455 §7 says and waits for the other side to do so.
    #[track_caller]
    pub fn close(mut self) {
        self.connection.send(frame(CLOSE, &[], true));
        assert_eq!(read_frame(&mut self.connection.wire).map(|(kind, _)| kind), Some(CLOSE));
        self.connection.assert_closed();
    }
}

/// The backend's side: takes the upgrade and sends back every message until the client closes.
/// Returns how many messages came.
pub fn echo(exchange: &mut Exchange) -> usize {
    accept(exchange);
    let mut count = 0;
    while let Some((kind, payload)) = read_frame(&mut exchange.wire) {
        exchange.write(frame(kind, &payload, false));
        if kind == CLOSE {
            break;
        }
        count += 1;
    }
    exchange.close();
    count
}

pub fn accept(exchange: &mut Exchange) {
    exchange.read_body();
    exchange.stop_recording();
    exchange.write(format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
    ));
}

pub fn frame(kind: u8, payload: &[u8], masked: bool) -> Vec<u8> {
    let mut bytes = vec![0x80 | kind];
    let mask_bit = if masked { 0x80 } else { 0 };
    match payload.len() {
        length @ 0..126 => bytes.push(mask_bit | length as u8),
        length => {
            bytes.push(mask_bit + 126);
            bytes.extend_from_slice(&u16::try_from(length).expect("a short message").to_be_bytes());
        }
    }
    if masked {
        bytes.extend_from_slice(&MASK);
    }
    let mask = if masked { MASK } else { [0; 4] };
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// The next frame's kind and unmasked payload; none at the end of the stream.
pub fn read_frame<S: Read>(wire: &mut Wire<S>) -> Option<(u8, Vec<u8>)> {
    let exactly = |wire: &mut Wire<S>, count: usize| {
        let bytes = wire.up_to(count).ok()?;
        (bytes.len() == count).then_some(bytes)
    };
    let start = exactly(wire, 2)?;
    let length = match start[1] & 0x7f {
        126 => {
            let length = exactly(wire, 2)?;
            usize::from(u16::from_be_bytes([length[0], length[1]]))
        }
        127 => panic!("a frame longer than any that a test sends"),
        length => usize::from(length),
    };
    let mask = if start[1] & 0x80 == 0 { vec![0; 4] } else { exactly(wire, 4)? };
    let mut payload = exactly(wire, length)?;
    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    Some((start[0] & 0x0f, payload))
}
