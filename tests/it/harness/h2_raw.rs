//! HTTP/2 by hand, for what no client library sends: frames and header blocks of any content, and
//! just enough reading to see how the other side took them (RFC 9113 §4, RFC 7541).

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::tls::{Client, Socket};
use super::wire::Wire;
use super::{eventually, h1};

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const PRIORITIZED: u8 = 32;
const ACK: u8 = 1;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// What a client's connection begins with, a SETTINGS frame behind it (RFC 9113, 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const INITIAL_WINDOW_SIZE: u16 = 4;
/// What every peer takes (RFC 9113, 4.2).
const FRAME_BYTES_MAX: usize = 16_384;

/// How the other side answered a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Status(u16),
    /// The stream was reset, with this error code.
    Reset(u32),
    /// The connection was given up, with this error code.
    GoAway(u32),
    Closed,
}

pub struct RawH2 {
    wire: Wire<Socket>,
}

impl RawH2 {
    #[track_caller]
    pub fn open(address: SocketAddr) -> Self {
        Self::open_with(address, &[])
    }

    /// With these settings.
    #[track_caller]
    pub fn open_with(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        Self::begin(Socket::Plain(h1::connect(address)), settings)
    }

    /// Over TLS, by ALPN.
    #[track_caller]
    pub fn open_tls(address: SocketAddr, name: &str, settings: &[(u16, u32)]) -> Self {
        let (connection, handshake) = Client::new().alpn(&["h2"]).connect(address, name);
        assert_eq!(handshake.alpn.as_deref(), Some("h2"));
        Self::begin(Socket::secure(connection.wire.stream), settings)
    }

    fn begin(socket: Socket, settings: &[(u16, u32)]) -> Self {
        let mut this = Self { wire: Wire::new(socket) };
        this.send(PREFACE);
        let payload = settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat());
        this.frame(SETTINGS, 0, 0, &payload.collect::<Vec<u8>>());
        this
    }

    /// The server's side of a connection.
    fn accept(stream: TcpStream) -> Self {
        let mut this = Self { wire: Wire::new(Socket::Plain(stream)) };
        let _ = this.wire.up_to(PREFACE.len());
        this.frame(SETTINGS, 0, 0, &[]);
        this
    }

    /// Failures to write are left to `outcome`.
    pub fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.send(&frame(kind, flags, stream, payload));
    }

    /// Any bytes; false when the other side takes none any more.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.wire.write(bytes).is_ok()
    }

    /// Reads what comes from now on, in a thread of its own, and keeps account of it.
    pub fn watch(&self) -> Watch {
        let stream = self.wire.stream.try_clone().expect("a second handle");
        let mut this = Self { wire: Wire { stream, unread: self.wire.unread.clone(), record: None } };
        let seen = Arc::new(Mutex::new(Seen::default()));
        let noted = seen.clone();
        std::thread::spawn(move || {
            while let Some((kind, _, _, payload)) = this.read_frame() {
                let mut seen = noted.lock().expect("seen");
                match kind {
                    HEADERS => seen.heads += 1,
                    DATA => seen.data += payload.len(),
                    RST_STREAM => seen.resets += 1,
                    PING => seen.pings += 1,
                    GOAWAY => seen.go_away = Some(u32::from_be_bytes(payload[4..8].try_into().expect("4 bytes"))),
                    _ => {}
                }
            }
            noted.lock().expect("seen").closed = true;
        });
        Watch(seen)
    }

    /// A header block, in as few frames as it fits into; `flags` may say that the stream ends with it.
    pub fn headers(&mut self, stream: u32, flags: u8, fields: &[(&str, &str)]) {
        let block = block(fields);
        let mut frames = block.chunks(FRAME_BYTES_MAX).peekable();
        let mut kind = (HEADERS, flags);
        while let Some(payload) = frames.next() {
            let end = if frames.peek().is_none() { END_HEADERS } else { 0 };
            self.frame(kind.0, kind.1 | end, stream, payload);
            kind = (CONTINUATION, 0);
        }
    }

    pub fn data(&mut self, stream: u32, flags: u8, bytes: &[u8]) {
        self.frame(DATA, flags, stream, bytes);
    }

    /// Answers 200 without a body.
    pub fn ok(&mut self, stream: u32) {
        self.frame(HEADERS, END_HEADERS | END_STREAM, stream, &[0x88]);
    }

    pub fn reset(&mut self, stream: u32, code: u32) {
        self.frame(RST_STREAM, 0, stream, &code.to_be_bytes());
    }

    /// Says that no stream behind `last` was looked at.
    pub fn go_away(&mut self, last: u32, code: u32) {
        self.frame(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat());
    }

    pub fn close(&mut self) {
        let _ = self.wire.stream.shutdown();
    }

    /// Waits for a GOAWAY; the last stream that it names.
    #[track_caller]
    pub fn going_away(&mut self) -> u32 {
        loop {
            let (kind, _, _, payload) = self.read_frame().expect("a GOAWAY before the end");
            if kind == GOAWAY {
                return u32::from_be_bytes(payload[..4].try_into().expect("4 bytes"));
            }
        }
    }

    /// The stream of the next request; none when the connection has ended.
    fn request(&mut self) -> Option<u32> {
        loop {
            let (kind, flags, stream, payload) = self.read_frame()?;
            match kind {
                HEADERS => return Some(stream),
                SETTINGS if flags & ACK == 0 => self.frame(SETTINGS, ACK, 0, &[]),
                PING if flags & ACK == 0 => self.frame(PING, ACK, 0, &payload),
                _ => {}
            }
        }
    }

    /// The first thing that settles what became of this stream.
    #[track_caller]
    pub fn outcome(&mut self, stream: u32) -> Outcome {
        loop {
            let Some((kind, flags, on, payload)) = self.read_frame() else { return Outcome::Closed };
            let code = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().expect("4 bytes"));
            match kind {
                HEADERS if on == stream => return Outcome::Status(status(&payload)),
                RST_STREAM if on == stream => return Outcome::Reset(code(0)),
                GOAWAY if code(4) != 0 => return Outcome::GoAway(code(4)),
                SETTINGS if flags & ACK == 0 => self.frame(SETTINGS, ACK, 0, &[]),
                PING if flags & ACK == 0 => self.frame(PING, ACK, 0, &payload),
                _ => {}
            }
        }
    }

    pub fn read_frame(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let head = self.wire.up_to(9).ok().filter(|head| head.len() == 9)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        let payload = self.wire.up_to(length).ok().filter(|payload| payload.len() == length)?;
        Some((head[3], head[4], stream, payload))
    }
}

/// What came over a connection so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub heads: usize,
    /// Bytes of content.
    pub data: usize,
    pub resets: usize,
    /// Those that answer ours, too.
    pub pings: usize,
    pub go_away: Option<u32>,
    pub closed: bool,
}

/// Reads a connection as long as it is open.
pub struct Watch(Arc<Mutex<Seen>>);

impl Watch {
    pub fn seen(&self) -> Seen {
        *self.0.lock().expect("seen")
    }

    #[track_caller]
    pub fn wait(&self, what: &str, wanted: impl Fn(&Seen) -> bool) -> Seen {
        eventually(what, || Some(self.seen()).filter(&wanted))
    }
}

/// What a backend by hand does with a request: the connection, its stream, and its number of all, from 0.
type Behaviour = dyn Fn(&mut RawH2, u32, usize) + Send + Sync;

/// A backend that speaks HTTP/2 by hand, in cleartext; it and its connections end with this value.
pub struct RawH2Backend {
    pub address: SocketAddr,
    stopping: Arc<AtomicBool>,
    requests: Arc<AtomicUsize>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
    acceptor: Option<std::thread::JoinHandle<()>>,
}

impl RawH2Backend {
    pub fn new(behaviour: impl Fn(&mut RawH2, u32, usize) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let (stopping, requests, streams) = (Arc::default(), Arc::default(), Arc::default());
        let mut this = Self { address, stopping, requests, streams, acceptor: None };
        let (stopping, requests, streams) = (this.stopping.clone(), this.requests.clone(), this.streams.clone());
        let behaviour: Arc<Behaviour> = Arc::new(behaviour);
        this.acceptor = Some(std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopping.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let _ = stream.set_nodelay(true);
                streams.lock().expect("streams").push(stream.try_clone().expect("a second handle"));
                let (requests, behaviour) = (requests.clone(), behaviour.clone());
                std::thread::spawn(move || {
                    let mut connection = RawH2::accept(stream);
                    while let Some(stream) = connection.request() {
                        behaviour(&mut connection, stream, requests.fetch_add(1, Ordering::SeqCst));
                    }
                });
            }
        }));
        this
    }

    pub fn count(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    pub fn connections(&self) -> usize {
        self.streams.lock().expect("streams").len()
    }
}

impl Drop for RawH2Backend {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        let _ = self.acceptor.take().map(std::thread::JoinHandle::join);
        for stream in self.streams.lock().expect("streams").iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// A frame's bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Every field as a literal that is never indexed, without Huffman coding (RFC 7541 §6.2.3).
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0x10);
        string(&mut bytes, name.as_bytes());
        string(&mut bytes, value.as_bytes());
    }
    bytes
}

/// A field that goes to the peer's table, to be named by [`INDEXED`] right behind (RFC 7541 §6.2.1).
pub fn remembered(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0x40];
    string(&mut bytes, name.as_bytes());
    string(&mut bytes, value.as_bytes());
    bytes
}

/// The newest field of the peer's table.
pub const INDEXED: u8 = 0x80 + 62;

fn string(bytes: &mut Vec<u8>, text: &[u8]) {
    match text.len() {
        length @ 0..127 => bytes.push(length as u8),
        length => {
            bytes.push(127);
            let mut rest = length - 127;
            while rest >= 128 {
                bytes.push((rest % 128) as u8 | 128);
                rest /= 128;
            }
            bytes.push(rest as u8);
        }
    }
    bytes.extend_from_slice(text);
}

/// The `:status` that a response's block begins with.
fn status(block: &[u8]) -> u16 {
    let block = &block[block.iter().take_while(|byte| *byte & 0xe0 == 0x20).count()..];
    match block[0] {
        indexed @ 0x88..=0x8e => [200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)],
        0x48 | 0x08 | 0x18 => {
            let (huffman, length) = (block[1] & 0x80 != 0, usize::from(block[1] & 0x7f));
            let text = &block[2..2 + length];
            if huffman { digits(text) } else { std::str::from_utf8(text).expect("ASCII").parse().expect("a status") }
        }
        other => panic!("no :status begins with {other:#x}"),
    }
}

/// Three digits in Huffman code (RFC 7541, appendix B): 0 to 2 have 5 bits, the others 6.
fn digits(bytes: &[u8]) -> u16 {
    let bits: Vec<u16> =
        bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| u16::from(byte >> bit & 1))).collect();
    let (mut at, mut number) = (0, 0);
    for _ in 0..3 {
        let value = |count: usize| bits[at..at + count].iter().fold(0, |value, bit| value << 1 | bit);
        let (digit, count) = if value(5) <= 2 { (value(5), 5) } else { (value(6) - 0b01_1001 + 3, 6) };
        number = number * 10 + digit;
        at += count;
    }
    number
}
