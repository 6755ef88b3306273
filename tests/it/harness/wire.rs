//! HTTP/1 as bytes: reads heads and bodies from a stream and keeps what it read exactly as it
//! came. Used by the recording backend (requests) and by the client (responses).

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};

/// More than any test sends in one head; a loop that reads further is a bug.
const HEAD_BYTES_MAX: usize = 4 << 20;

/// A request's or response's head, as received and taken apart.
#[derive(Clone, Debug, Default)]
pub struct Head {
    pub raw: Vec<u8>,
    pub start: String,
    pub fields: Vec<(String, String)>,
}

impl Head {
    fn parse(raw: Vec<u8>) -> Self {
        let text = String::from_utf8_lossy(&raw).into_owned();
        let mut lines = text.split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        let fields = lines.filter(|line| !line.is_empty()).map(field).collect();
        Self { raw, start, fields }
    }

    /// The value of the only field of this name, or none; fails when there are several.
    #[track_caller]
    pub fn get(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() <= 1, "{name} is there {} times: {all:?}", all.len());
        all.first().copied()
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        let same = |field: &&(String, String)| field.0.eq_ignore_ascii_case(name);
        self.fields.iter().filter(same).map(|(_, value)| value.as_str()).collect()
    }

    pub fn has(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }

    /// The nth word of the start line.
    pub fn word(&self, index: usize) -> &str {
        self.start.split(' ').nth(index).unwrap_or_default()
    }
}

fn field(line: &str) -> (String, String) {
    let (name, value) = line.split_once(':').unwrap_or((line, ""));
    (name.to_owned(), value.trim().to_owned())
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Empty,
    Length(usize),
    Chunked,
    Close,
}

#[derive(Clone, Debug, Default)]
pub struct Body {
    pub bytes: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// False when the stream ended before the body did.
    pub complete: bool,
}

/// A stream with what was read from it and not yet used.
pub struct Wire<S> {
    pub stream: S,
    pub unread: Vec<u8>,
    pub record: Option<Arc<Mutex<Vec<u8>>>>,
}

impl<S: Write> Wire<S> {
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }
}

impl<S: Read> Wire<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, unread: Vec::new(), record: None }
    }

    /// Reads once; 0 means that the other side has finished.
    pub fn fill(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 16 << 10];
        let count = self.stream.read(&mut buffer)?;
        self.unread.extend_from_slice(&buffer[..count]);
        if let Some(record) = &self.record {
            record.lock().expect("record").extend_from_slice(&buffer[..count]);
        }
        Ok(count)
    }

    pub fn take(&mut self, count: usize) -> Vec<u8> {
        let rest = self.unread.split_off(count);
        std::mem::replace(&mut self.unread, rest)
    }

    /// Up to and including `end`; what there was when the stream ended before it.
    fn until(&mut self, end: &[u8]) -> io::Result<Result<Vec<u8>, Vec<u8>>> {
        let mut searched = 0;
        loop {
            let from = self.unread.len().min(searched);
            let found = self.unread[from..].windows(end.len()).position(|window| window == end);
            if let Some(position) = found {
                return Ok(Ok(self.take(from + position + end.len())));
            }
            assert!(self.unread.len() <= HEAD_BYTES_MAX, "no end in {HEAD_BYTES_MAX} bytes");
            searched = self.unread.len().saturating_sub(end.len() - 1);
            if self.fill()? == 0 {
                return Ok(Err(std::mem::take(&mut self.unread)));
            }
        }
    }

    /// The next head; none when the stream ended cleanly before it.
    pub fn head(&mut self) -> io::Result<Option<Head>> {
        match self.until(b"\r\n\r\n")? {
            Ok(raw) => Ok(Some(Head::parse(raw))),
            Err(rest) if rest.is_empty() => Ok(None),
            Err(rest) => {
                let rest = String::from_utf8_lossy(&rest).into_owned();
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("half a head: {rest:?}")))
            }
        }
    }

    /// `count` bytes, or fewer when the stream ends before.
    pub fn up_to(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.unread.len() < count {
            if self.fill()? == 0 {
                break;
            }
        }
        Ok(self.take(count.min(self.unread.len())))
    }

    /// Everything until the other side finishes or resets.
    pub fn rest(&mut self) -> Vec<u8> {
        while matches!(self.fill(), Ok(1..)) {}
        std::mem::take(&mut self.unread)
    }

    pub fn body(&mut self, framing: Framing) -> Body {
        match framing {
            Framing::Empty => Body { complete: true, ..Body::default() },
            Framing::Length(length) => {
                let bytes = self.up_to(length).unwrap_or_default();
                Body { complete: bytes.len() == length, bytes, trailers: Vec::new() }
            }
            Framing::Close => Body { bytes: self.rest(), complete: true, trailers: Vec::new() },
            Framing::Chunked => {
                let mut body = Body::default();
                body.complete = self.chunks(&mut body).is_some();
                body
            }
        }
    }

    fn chunks(&mut self, body: &mut Body) -> Option<()> {
        loop {
            let line = self.line()?;
            let size = line.split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(size.trim(), 16).ok()?;
            if size == 0 {
                return self.trailers(body);
            }
            let bytes = self.up_to(size).ok()?;
            let short = bytes.len() < size;
            body.bytes.extend_from_slice(&bytes);
            if short || !self.line()?.is_empty() {
                return None;
            }
        }
    }

    fn trailers(&mut self, body: &mut Body) -> Option<()> {
        loop {
            match self.line()? {
                line if line.is_empty() => return Some(()),
                line => body.trailers.push(field(&line)),
            }
        }
    }

    fn line(&mut self) -> Option<String> {
        let mut line = self.until(b"\r\n").ok()?.ok()?;
        line.truncate(line.len() - 2);
        Some(String::from_utf8_lossy(&line).into_owned())
    }
}
