//! A backend as picky as any: HTTP/1.1 requests read by the letter of RFC 9112, by none of our code and with nothing
//! forgiven. What it can't read is what a proxy must never send.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

pub type Fields = Vec<(String, Vec<u8>)>;

#[derive(Clone, Debug, Default)]
pub struct Request {
    pub method: String,
    pub target: String,
    /// Names in lower case.
    pub fields: Fields,
    pub body: Vec<u8>,
    pub trailers: Fields,
}

impl Request {
    pub fn all(&self, name: &str) -> Vec<&[u8]> {
        self.fields.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_slice()).collect()
    }
}

/// The request at the beginning and its length in bytes; none if it isn't whole yet.
pub fn request(bytes: &[u8]) -> Result<Option<(Request, usize)>, String> {
    let mut reader = Reader { bytes, at: 0 };
    Ok(reader.request()?.map(|request| (request, reader.at)))
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn request(&mut self) -> Result<Option<Request>, String> {
        let Some(start) = self.line()? else { return Ok(None) };
        let (method, target) = start_line(start)?;
        let mut request = Request { method, target, ..Request::default() };
        let Some(fields) = self.fields()? else { return Ok(None) };
        request.fields = fields;
        let (hosts, lengths) = (request.all("host"), request.all("content-length"));
        if hosts.len() != 1 {
            return Err(format!("{} Host fields", hosts.len()));
        }
        match (&request.all("transfer-encoding")[..], &lengths[..]) {
            ([], []) => {}
            ([coding], []) if *coding == b"chunked" => {
                let Some((body, trailers)) = self.chunks()? else { return Ok(None) };
                (request.body, request.trailers) = (body, trailers);
            }
            ([], [length]) => {
                let Some(body) = self.take(number(length)?) else { return Ok(None) };
                request.body = body.to_vec();
            }
            other => return Err(format!("framing to be read in two ways: {other:?}")),
        }
        Ok(Some(request))
    }

    /// A line without its CRLF; neither byte may stand alone.
    fn line(&mut self) -> Result<Option<&'a [u8]>, String> {
        let rest = &self.bytes[self.at..];
        let Some(end) = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else { return Ok(None) };
        match (rest[end], rest.get(end + 1)) {
            (b'\n', _) => Err("LF without CR".to_owned()),
            (_, None) => Ok(None),
            (_, Some(b'\n')) => {
                self.at += end + 2;
                Ok(Some(&rest[..end]))
            }
            (_, Some(_)) => Err("CR without LF".to_owned()),
        }
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let bytes = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(bytes)
    }

    fn fields(&mut self) -> Result<Option<Fields>, String> {
        let mut fields = Fields::new();
        loop {
            match self.line()? {
                None => return Ok(None),
                Some(b"") => return Ok(Some(fields)),
                Some(line) => fields.push(field(line)?),
            }
        }
    }

    fn chunks(&mut self) -> Result<Option<(Vec<u8>, Fields)>, String> {
        let mut body = Vec::new();
        loop {
            let Some(line) = self.line()? else { return Ok(None) };
            let text = String::from_utf8_lossy(line);
            let digits = (1..=15).contains(&line.len()) && line.iter().all(u8::is_ascii_hexdigit);
            let size = usize::from_str_radix(&text, 16).ok().filter(|_| digits);
            let size = size.ok_or_else(|| format!("a chunk of size {text:?}"))?;
            if size == 0 {
                return Ok(self.fields()?.map(|trailers| (body, trailers)));
            }
            let Some(data) = self.take(size) else { return Ok(None) };
            body.extend_from_slice(data);
            match self.take(2) {
                None => return Ok(None),
                Some(b"\r\n") => {}
                Some(other) => return Err(format!("{other:?} behind a chunk")),
            }
        }
    }
}

/// Method and target, in origin form, of HTTP/1.1.
fn start_line(line: &[u8]) -> Result<(String, String), String> {
    let wrong = |what: &str| format!("{what} in {:?}", String::from_utf8_lossy(line));
    let parts: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let [method, target, b"HTTP/1.1"] = parts[..] else { return Err(wrong("not three words")) };
    if !is_token(method) {
        return Err(wrong("no method"));
    }
    let target = std::str::from_utf8(target).map_err(|_| wrong("no text"))?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let escapes =
        path.split('%').skip(1).all(|rest| rest.len() >= 2 && rest.bytes().take(2).all(|b| b.is_ascii_hexdigit()));
    let of_path = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:@[]".contains(&byte);
    if !path.starts_with('/') || !escapes || !path.bytes().all(of_path) {
        return Err(wrong("no path"));
    }
    // A query passes as it came, so that signatures over it hold.
    if query.bytes().any(|byte| byte <= b' ' || byte == 0x7f || byte == b'#') {
        return Err(wrong("no query"));
    }
    Ok((String::from_utf8_lossy(method).into_owned(), target.to_owned()))
}

fn is_token(bytes: &[u8]) -> bool {
    let of_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !bytes.is_empty() && bytes.iter().all(of_token)
}

fn field(line: &[u8]) -> Result<(String, Vec<u8>), String> {
    let wrong = |what: &str| format!("{what} in {:?}", String::from_utf8_lossy(line));
    let colon = line.iter().position(|byte| *byte == b':').ok_or_else(|| wrong("no colon"))?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if !is_token(name) {
        return Err(wrong("no name"));
    }
    if value.iter().any(|byte| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f) {
        return Err(wrong("a control byte"));
    }
    Ok((String::from_utf8_lossy(name).to_lowercase(), value.trim_ascii().to_vec()))
}

fn number(value: &[u8]) -> Result<usize, String> {
    let text = String::from_utf8_lossy(value);
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit) && (value.len() == 1 || value[0] != b'0');
    text.parse().ok().filter(|_| digits).ok_or_else(|| format!("a length of {text:?}"))
}

/// What a strict backend saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub requests: Vec<Request>,
    /// What could not be read, and why; their connections were closed.
    pub violations: Vec<String>,
}

/// A backend that reads by the letter and answers every request with an empty 200.
pub struct StrictBackend {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    stopping: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<Vec<JoinHandle<()>>>>,
}

impl StrictBackend {
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let (seen, stopping) = (Arc::<Mutex<Seen>>::default(), Arc::<AtomicBool>::default());
        let (shared, stop) = (seen.clone(), stopping.clone());
        let acceptor = std::thread::spawn(move || {
            let mut connections = Vec::new();
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                let seen = shared.clone();
                connections.push(std::thread::spawn(move || serve(stream, &seen)));
            }
            connections
        });
        Self { address, seen, stopping, acceptor: Some(acceptor) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// All that came, once every connection to it has ended: whoever holds them is gone.
    pub fn finish(mut self) -> Seen {
        for connection in self.stop() {
            connection.join().expect("a connection");
        }
        std::mem::take(&mut self.seen.lock().expect("seen"))
    }

    fn stop(&mut self) -> Vec<JoinHandle<()>> {
        let Some(acceptor) = self.acceptor.take() else { return Vec::new() };
        self.stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        acceptor.join().expect("the acceptor")
    }
}

impl Drop for StrictBackend {
    fn drop(&mut self) {
        self.stop();
    }
}

fn serve(mut stream: TcpStream, seen: &Mutex<Seen>) {
    let _ = stream.set_nodelay(true);
    let mut unread = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        match request(&unread) {
            Ok(Some((request, length))) => {
                unread.drain(..length);
                seen.lock().expect("seen").requests.push(request);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            }
            Ok(None) => match stream.read(&mut buffer) {
                Ok(count @ 1..) => unread.extend_from_slice(&buffer[..count]),
                Ok(0) | Err(_) => return,
            },
            Err(what) => {
                let text = format!("{what}: {:?}", String::from_utf8_lossy(&unread));
                seen.lock().expect("seen").violations.push(text);
                let _ = stream.shutdown(Shutdown::Both);
                return;
            }
        }
    }
}

#[test]
fn nothing_is_forgiven() {
    let whole = |text: &str| request(text.as_bytes()).map(|read| read.map(|(request, length)| (request.body, length)));
    let head = "POST /a?b HTTP/1.1\r\nhost: a\r\n";
    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n");
    let good = format!("{chunked}5\r\nhello\r\n0\r\nx: y\r\n\r\n");
    assert_eq!(whole(&good), Ok(Some((b"hello".to_vec(), good.len()))));
    for end in 0..good.len() {
        assert_eq!(whole(&good[..end]), Ok(None), "{end}");
    }
    for bad in [
        "GET / HTTP/1.0\r\nhost: a\r\n\r\n".to_owned(),
        "GET  / HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
        "GET http://a/ HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
        "GET /%z0 HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\nhost: a\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        format!("{head}host: a\r\n\r\n"),
        format!("{head}x : y\r\n\r\n"),
        format!("{head} x: y\r\n\r\n"),
        format!("{head}x: \0\r\n\r\n"),
        format!("{head}content-length: +5\r\n\r\n"),
        format!("{head}content-length: 05\r\n\r\n"),
        format!("{head}content-length: 5\r\ncontent-length: 5\r\n\r\n"),
        format!("{head}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n"),
        format!("{head}transfer-encoding: gzip, chunked\r\n\r\n"),
        format!("{chunked}5 \r\nhello\r\n"),
        format!("{chunked}5;a\r\nhello\r\n"),
        format!("{chunked}5\r\nhelloXX"),
    ] {
        assert!(whole(&bad).is_err(), "{bad:?}");
    }
}
