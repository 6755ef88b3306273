//! The corpus of raw requests (tests/corpus): each entry is sent as it stands, in pieces of one and of three bytes, over
//! TLS, and with an endpoint that speaks HTTP/2. The answers, the connection's end, and what reached the endpoint, read
//! by a strict parser, must be those that the entry names; a request behind each entry shows where it was taken to end.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use serde::{Deserialize, Deserializer};

use crate::harness::h1::Connection;
use crate::harness::hyper_backend::{self, HyperBackend};
use crate::harness::manifests::app_with;
use crate::harness::strict::{Fields, Request};
use crate::harness::strict_backend::StrictBackend;
use crate::harness::*;

const FILES: [&str; 7] = ["lengths", "chunks", "hosts", "targets", "fields", "hops", "ends"];

/// Sent behind each entry, and answered only if the entry leaves the connection to it.
pub const BEHIND: &[u8] = b"GET /app/behind HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
/// Entries at once.
const AT_ONCE: usize = 16;
/// Fields of which an HTTP/2 endpoint has none.
const OF_ONE_HOP: [&str; 3] = ["connection", "upgrade", "transfer-encoding"];

/// Bytes as a text of their code points; `{{text*count}}` repeats.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = Vec::new();
        let mut rest = text.as_str();
        while let Some((before, after)) = rest.split_once("{{") {
            let (inner, after) = after.split_once("}}").expect("}} behind {{");
            let (part, count) = inner.rsplit_once('*').expect("a count");
            bytes.extend(latin(before));
            let part: Vec<u8> = latin(part).collect();
            bytes.extend(part.repeat(count.parse().expect("a number")));
            rest = after;
        }
        bytes.extend(latin(rest));
        Ok(Self(bytes))
    }
}

fn latin(text: &str) -> impl Iterator<Item = u8> {
    text.chars().map(|character| u8::try_from(u32::from(character)).expect("a byte"))
}

/// How a connection goes on: an answer of this status, or its end without one.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Outcome {
    Status(u16),
    Word(String),
}

/// What the endpoint must see of one request.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    method: String,
    target: String,
    #[serde(default)]
    body: Bytes,
    #[serde(default)]
    has: BTreeMap<String, Bytes>,
    #[serde(default)]
    lacks: Vec<String>,
    /// Bytes that stand nowhere in it.
    #[serde(default)]
    never: Vec<String>,
    /// Trailers that it may have.
    #[serde(default)]
    may: BTreeMap<String, Bytes>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub name: String,
    rfc: String,
    pub send: Bytes,
    refused: Option<Outcome>,
    #[serde(default)]
    forwarded: Vec<Message>,
    then: Option<Outcome>,
    /// The status that may follow instead of a word, where that depends on how many bytes come at once.
    or: Option<u16>,
    #[serde(default)]
    ends: bool,
    /// Nothing is sent behind it.
    #[serde(default)]
    cut: bool,
    /// What the RFC allows others to do.
    #[serde(default, rename = "also")]
    _also: Vec<Outcome>,
    #[serde(default, rename = "note")]
    _note: Option<String>,
}

pub fn entries() -> Vec<Entry> {
    let read = |name| {
        let path = format!("{}/tests/corpus/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        serde_saphyr::from_str::<Vec<Entry>>(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    FILES.into_iter().flat_map(read).collect()
}

/// An address of its own for each entry: what it sent is told by `X-Forwarded-For`.
fn source(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 1, (index / 250) as u8, (index % 250 + 1) as u8)
}

impl Entry {
    /// The bytes, with a request behind them.
    fn bytes(&self) -> Vec<u8> {
        let behind: &[u8] = if self.cut { b"" } else { BEHIND };
        [&self.send.0, behind].concat()
    }

    /// Whether all of it is forwarded.
    pub fn is_good(&self) -> bool {
        self.refused.is_none() && self.then.is_none()
    }

    fn goes_on(&self) -> bool {
        self.is_good() && !self.ends && !self.cut
    }

    /// The answers' statuses.
    fn statuses(&self) -> Vec<u16> {
        let mut statuses = vec![200; self.forwarded.len()];
        for outcome in [&self.refused, &self.then].into_iter().flatten() {
            match outcome {
                Outcome::Status(status) => statuses.push(*status),
                Outcome::Word(word) => assert_eq!(word, "closed", "{}", self.name),
            }
        }
        if self.goes_on() {
            statuses.push(200);
        }
        statuses
    }

    fn accepts(&self, statuses: &[u16]) -> bool {
        let usual = self.statuses();
        statuses == usual || self.or.is_some_and(|status| statuses == [&usual[..], &[status]].concat())
    }

    /// Why what reached the endpoint is not what should have.
    fn unlike(&self, seen: &[&Request], source: Ipv4Addr, http2: bool) -> Vec<String> {
        let behind = usize::from(self.goes_on());
        if seen.len() != self.forwarded.len() + behind {
            return vec![format!("{} requests reached the endpoint: {seen:?}", seen.len())];
        }
        let mut wrong = Vec::new();
        for (message, request) in self.forwarded.iter().zip(seen) {
            wrong.extend(message.unlike(request, http2));
        }
        if behind == 1 && seen[seen.len() - 1].target != "/app/behind" {
            wrong.push(format!("the last is not the one behind: {:?}", seen[seen.len() - 1]));
        }
        for request in seen {
            wrong.extend(ours(request, source));
        }
        wrong
    }
}

/// What is said of every request, by Portunus alone.
fn ours(request: &Request, source: Ipv4Addr) -> Vec<String> {
    let mut wrong = Vec::new();
    let address = source.to_string();
    for name in ["x-forwarded-for", "x-real-ip"] {
        if request.all(name) != [address.as_bytes()] {
            wrong.push(format!("{name}: {:?}", request.all(name)));
        }
    }
    for name in ["x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-request-id"] {
        if request.all(name).len() != 1 {
            wrong.push(format!("{} times {name}", request.all(name).len()));
        }
    }
    for (name, value) in request.fields.iter().chain(&request.trailers) {
        let value = String::from_utf8_lossy(value);
        let hop = name == "connection" && !["te", "upgrade"].contains(&&*value) || name == "te" && value != "trailers";
        if hop || name.contains('_') || ["proxy", "keep-alive", "proxy-connection"].contains(&name.as_str()) {
            wrong.push(format!("{name}: {value} passed"));
        }
    }
    wrong
}

impl Message {
    fn unlike(&self, request: &Request, http2: bool) -> Vec<String> {
        let mut wrong = Vec::new();
        if (&request.method, &request.target) != (&self.method, &self.target) {
            wrong.push(format!("{} {}", request.method, request.target));
        }
        if request.body != self.body.0 {
            wrong.push(format!("the body is {:?}", String::from_utf8_lossy(&request.body)));
        }
        let kept = |name: &&String| !(http2 && OF_ONE_HOP.contains(&name.as_str()));
        for name in self.has.keys().filter(kept) {
            if request.all(name) != [self.has[name].0.as_slice()] {
                wrong.push(format!("{name} is {:?}", request.all(name)));
            }
        }
        for name in self.lacks.iter().filter(|name| !request.all(name).is_empty()) {
            wrong.push(format!("{name} is there"));
        }
        let contains = |value: &[u8], part: &str| value.windows(part.len()).any(|window| window == part.as_bytes());
        for part in &self.never {
            let all = request.fields.iter().chain(&request.trailers);
            wrong.extend(all.filter(|(_, value)| contains(value, part)).map(|(name, _)| format!("{part} in {name}")));
        }
        let unexpected = |(name, value): &&(String, Vec<u8>)| self.may.get(name).is_none_or(|may| may.0 != *value);
        for (name, _) in request.trailers.iter().filter(unexpected) {
            wrong.push(format!("the trailer {name} is there"));
        }
        wrong
    }
}

/// A connection from this address.
pub fn connect_from(source: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("socket");
    socket.bind(&SocketAddr::new(IpAddr::V4(source), 0).into()).expect("bind");
    socket.connect(&to.into()).expect("connect");
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true).expect("nodelay");
    stream.set_read_timeout(Some(PATIENCE)).expect("read timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("write timeout");
    stream
}

#[derive(Clone, Copy)]
enum Way {
    Pieces(usize),
    Tls,
}

/// The first bytes in pieces of `step`; what is longer than any limit goes on in larger ones.
fn pieces(bytes: &[u8], step: usize) -> impl Iterator<Item = &[u8]> {
    let (begin, rest) = bytes.split_at(bytes.len().min(3000));
    begin.chunks(step).chain(rest.chunks(step.max(977)))
}

/// What is answered until the end of the connection.
fn converse(entry: &Entry, source: Ipv4Addr, portunus: &Portunus, way: Way) -> Vec<u8> {
    let bytes = entry.bytes();
    // That Portunus stops reading early is no failure: its answer counts.
    match way {
        Way::Pieces(step) => {
            let mut connection = Connection::over(connect_from(source, portunus.http));
            let _ = pieces(&bytes, step).try_for_each(|piece| connection.wire.write(piece));
            if entry.cut {
                let _ = connection.wire.stream.shutdown(Shutdown::Write);
            }
            connection.read_to_end()
        }
        Way::Tls => {
            let mut tcp = connect_from(source, portunus.https);
            let config = tls::Client::new().without_sni().config;
            let mut tls =
                ClientConnection::new(config, ServerName::try_from("a.test").expect("a name")).expect("a client");
            while tls.is_handshaking() {
                tls.complete_io(&mut tcp).expect("a handshake");
            }
            let mut connection = Connection::over(StreamOwned::new(tls, tcp));
            let _ = connection.wire.write(&bytes);
            if entry.cut {
                let stream = &mut connection.wire.stream;
                stream.conn.send_close_notify();
                let _ = stream.conn.write_tls(&mut stream.sock);
                let _ = stream.sock.shutdown(Shutdown::Write);
            }
            connection.read_to_end()
        }
    }
}

/// The statuses of final answers; those to HEAD have no body.
fn statuses(entry: &Entry, bytes: Vec<u8>) -> Result<Vec<u16>, String> {
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let mut connection = Connection::over(std::io::Cursor::new(bytes));
    let mut statuses = Vec::new();
    loop {
        let to_head = entry.forwarded.get(statuses.len()).is_some_and(|message| message.method == "HEAD");
        match connection.try_response(to_head) {
            Ok(interim) if interim.status < 200 => {}
            Ok(whole) if whole.complete => statuses.push(whole.status),
            Ok(_) => return Err(format!("half an answer: {text:?}")),
            Err(error) if error.get_ref().is_none() => return Ok(statuses),
            Err(error) => return Err(format!("{error}: {text:?}")),
        }
    }
}

/// Sends all entries, several at once; what was wrong with the answers.
fn send_all(entries: &[Entry], portunus: &Portunus, way: Way) -> Vec<String> {
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((index, entry)) =
                    Some(next.fetch_add(1, Ordering::SeqCst)).and_then(|index| Some((index, entries.get(index)?)))
                {
                    let answered = statuses(entry, converse(entry, source(index), portunus, way));
                    if !answered.as_ref().is_ok_and(|statuses| entry.accepts(statuses)) {
                        let text = format!("{}: answered {answered:?}, not {:?}", entry.name, entry.statuses());
                        wrong.lock().expect("wrong").push(text);
                    }
                }
            });
        }
    });
    wrong.into_inner().expect("wrong")
}

/// Compares what the endpoint saw with what each entry wants.
fn compare(entries: &[Entry], seen: &[Request], http2: bool) -> Vec<String> {
    let mut by_source: BTreeMap<Vec<u8>, Vec<&Request>> = BTreeMap::new();
    for request in seen {
        by_source.entry(request.all("x-forwarded-for").concat()).or_default().push(request);
    }
    let mut wrong = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let seen = by_source.remove(source(index).to_string().as_bytes()).unwrap_or_default();
        let unlike = entry.unlike(&seen, source(index), http2);
        wrong.extend(unlike.into_iter().map(|what| format!("{}: {what}", entry.name)));
    }
    wrong.extend(by_source.into_values().flatten().map(|request| format!("nobody sent {request:?}")));
    wrong
}

/// Everything goes to this endpoint, but for what `ends` is about.
fn folder(endpoint: SocketAddr, protocol: &str) -> Folder {
    let folder = Folder::new();
    folder.write("app.yaml", app_with("default", "app", &[endpoint], protocol));
    let ingress = |name, keys: &[_], host| Ingress::new("default", name).asks(keys).host(host);
    folder.write("ingress.yaml", ingress("all", &[], "").prefix("/", "app", 80));
    folder.write("none.yaml", ingress("none", &[], "none.test").exact("/nothing", "app", 80));
    let moves = [("permanent-redirect", "http://a.test/moved"), ("permanent-redirect-code", "308")];
    folder.write("moved.yaml", ingress("moved", &moves, "moved.test").prefix("/", "app", 80));
    folder
}

#[track_caller]
fn all_as_required(way: Way) {
    let entries = entries();
    let backend = StrictBackend::new();
    let folder = folder(backend.address(), "");
    let portunus = Portunus::serve(&folder);
    let mut wrong = send_all(&entries, &portunus, way);
    // Its connections to the endpoint end with it.
    drop(portunus);
    let seen = backend.finish();
    wrong.extend(seen.violations);
    wrong.extend(compare(&entries, &seen.requests, false));
    assert!(wrong.is_empty(), "{} are wrong: {wrong:#?}", wrong.len());
}

#[test]
fn each_request_is_what_it_should_be() {
    all_as_required(Way::Pieces(usize::MAX));
}

#[test]
fn byte_by_byte_it_is_the_same() {
    all_as_required(Way::Pieces(1));
}

#[test]
fn in_pieces_of_three_bytes_it_is_the_same() {
    all_as_required(Way::Pieces(3));
}

#[test]
fn over_tls_it_is_the_same() {
    all_as_required(Way::Tls);
}

#[test]
fn to_an_http_2_endpoint_it_is_the_same() {
    let entries = entries();
    let backend = HyperBackend::h2c();
    let folder = folder(backend.address(), "kubernetes.io/h2c");
    let portunus = Portunus::serve(&folder);
    let mut wrong = send_all(&entries, &portunus, Way::Pieces(usize::MAX));
    drop(portunus);
    let seen: Vec<Request> = backend.requests().iter().map(as_request).collect();
    wrong.extend(compare(&entries, &seen, true));
    assert!(wrong.is_empty(), "{} are wrong: {wrong:#?}", wrong.len());
}

/// A request over HTTP/2 in the words of the other one.
fn as_request(received: &hyper_backend::Received) -> Request {
    let fields = |map: &http::HeaderMap| -> Fields {
        map.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect()
    };
    let mut request = Request {
        method: received.method.to_string(),
        target: received.uri.path_and_query().expect("a path").as_str().to_owned(),
        fields: fields(&received.headers),
        body: received.body.to_vec(),
        trailers: received.trailers.as_ref().map(fields).unwrap_or_default(),
    };
    let authority = received.uri.authority().map(|authority| authority.as_str().as_bytes().to_vec());
    request.fields.extend(authority.map(|authority| ("host".to_owned(), authority)));
    request
}

#[test]
fn the_corpus_is_in_order() {
    let entries = entries();
    assert!(entries.len() >= 200, "{}", entries.len());
    let names: BTreeSet<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names.len(), entries.len(), "each has a name of its own");
    for entry in &entries {
        assert!(entry.refused.is_some() == entry.forwarded.is_empty(), "{}: refused or forwarded", entry.name);
        assert!(entry.rfc.starts_with(|character: char| character.is_ascii_digit()), "{}: {}", entry.name, entry.rfc);
    }
}
