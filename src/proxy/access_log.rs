//! The access log: one JSON line a request, written by a thread of its own. A worker copies what is to be said into a
//! batch of its own, and hands that over when it is full or at the worker's tick, so that a request pays for no
//! allocation, no lock and no cache line of another thread's. Batches come back to be filled again; a worker that has
//! too many under way drops and counts what it would log, and never waits. What can't be written, to a full disk or a
//! pipe that nobody reads, is counted too, and the next batch is tried anew.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use http::Version;
use serde::Serialize;

use crate::metrics::{Dropped, Metrics};

/// Records in a batch, and the bytes of text behind which it is full with fewer.
const BATCH_RECORDS: usize = 256;
const BATCH_TEXT_BYTES: usize = 64 * 1024;
/// Batches of a worker that may wait to be written: 16,384 records.
const BATCHES_MAX: usize = 64;
/// Empty batches that a worker keeps. Two go back and forth; more are there only after the disk was slow.
const BATCHES_KEPT: usize = 2;
/// Records that a worker keeps for requests to come, and how many bytes of text each keeps room for.
const RECORDS_KEPT: usize = 256;
const RECORD_TEXT_BYTES: usize = 1024;
/// Pause between two warnings that the log can't be written.
const WARNING_PAUSE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    Stdout,
    File(PathBuf),
}

/// What is logged of a request, as it becomes known.
#[derive(Debug)]
pub struct Record {
    pub facts: Facts,
    spans: [Span; TEXTS],
    texts: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
pub struct Facts {
    pub started: Instant,
    pub client: IpAddr,
    pub version: Version,
    pub secure: bool,
    pub retried: bool,
    pub status: u16,
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub duration: Duration,
    pub connect: Option<Duration>,
    pub upstream_head: Option<Duration>,
    pub generation: u64,
    pub termination: &'static str,
}

/// A text of a record's, which may be missing.
#[derive(Debug, Clone, Copy)]
pub enum Text {
    RequestId,
    Method,
    Host,
    Path,
    Route,
    Upstream,
    Endpoint,
}

const TEXTS: usize = Text::Endpoint as usize + 1;

/// Where a text stands among its record's.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: u32,
    end: u32,
}

/// Ends before it starts, so that there is nothing to be found.
const MISSING: Span = Span { start: 1, end: 0 };

impl Facts {
    fn of(started: Instant) -> Self {
        Self {
            started,
            client: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            version: Version::HTTP_11,
            secure: false,
            retried: false,
            status: 0,
            request_bytes: 0,
            response_bytes: 0,
            duration: Duration::ZERO,
            connect: None,
            upstream_head: None,
            generation: 0,
            termination: "",
        }
    }
}

impl Record {
    fn begin(&mut self, started: Instant) {
        self.facts = Facts::of(started);
        self.spans = [MISSING; TEXTS];
        self.texts.clear();
    }

    /// Copies a text, in place of what was there for it.
    pub fn set(&mut self, text: Text, bytes: &[u8]) {
        self.set_parts(text, &[bytes]);
    }

    /// Likewise, one part behind the other.
    pub fn set_parts(&mut self, text: Text, parts: &[&[u8]]) {
        let position = |texts: &Vec<u8>| u32::try_from(texts.len()).unwrap_or(u32::MAX);
        let start = position(&self.texts);
        for part in parts {
            self.texts.extend_from_slice(part);
        }
        self.spans[text as usize] = Span { start, end: position(&self.texts) };
    }
}

/// What a worker hands over.
#[derive(Debug)]
struct Batch {
    entries: Vec<Entry>,
    texts: Vec<u8>,
    /// The same moment by both clocks: a request knows when it began by the one that nobody sets.
    now: (Instant, SystemTime),
    /// Where it goes when it has been read.
    home: Sender<Batch>,
}

/// A record in a batch, with the place of its texts there.
#[derive(Debug)]
struct Entry {
    facts: Facts,
    spans: [Span; TEXTS],
    base: usize,
}

impl Batch {
    fn new(home: Sender<Self>) -> Self {
        Self { entries: Vec::with_capacity(BATCH_RECORDS), texts: Vec::new(), now: now(), home }
    }

    fn is_full(&self) -> bool {
        self.entries.len() >= BATCH_RECORDS || self.texts.len() >= BATCH_TEXT_BYTES
    }

    fn push(&mut self, record: &Record) {
        self.entries.push(Entry { facts: record.facts, spans: record.spans, base: self.texts.len() });
        self.texts.extend_from_slice(&record.texts);
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.texts.clear();
        // One with a very long target in it has grown.
        self.texts.shrink_to(2 * BATCH_TEXT_BYTES);
    }
}

fn now() -> (Instant, SystemTime) {
    (Instant::now(), SystemTime::now())
}

/// The process's log, of which every worker takes an end.
#[derive(Debug, Clone)]
pub struct AccessLog {
    queue: Sender<Batch>,
    metrics: Arc<Metrics>,
}

impl AccessLog {
    /// Starts the writer. It ends when the log and its last end are dropped and everything is written.
    pub fn start(destination: &Destination, metrics: Arc<Metrics>) -> io::Result<(Self, JoinHandle<()>)> {
        let file = match destination {
            // Not through the buffer of `io::stdout`, which would keep what it couldn't write.
            Destination::Stdout => File::from(io::stdout().as_fd().try_clone_to_owned()?),
            Destination::File(path) => OpenOptions::new().create(true).append(true).open(path)?,
        };
        let mut sink = Sink::new(file);
        let counted = metrics.clone();
        // Each worker holds itself to BATCHES_MAX.
        let (queue, batches) = channel();
        let thread = std::thread::Builder::new().name("access-log".to_owned());
        let writer = thread.spawn(move || write_all(&batches, &mut sink, &counted))?;
        Ok((Self { queue, metrics }, writer))
    }

    fn dropped(&self, records: usize) {
        count(&self.metrics, Dropped::QueueFull, records);
    }

    /// An end of the log for one worker.
    pub fn worker(&self) -> WorkerLog {
        let (home, returned) = channel();
        WorkerLog {
            log: self.clone(),
            batch: RefCell::new(Batch::new(home)),
            under_way: Cell::new(0),
            returned,
            empty: RefCell::default(),
            records: RefCell::default(),
        }
    }
}

/// A worker's end of the log. Dropping it hands over what is left.
pub struct WorkerLog {
    log: AccessLog,
    /// The one that is being filled.
    batch: RefCell<Batch>,
    under_way: Cell<usize>,
    returned: Receiver<Batch>,
    empty: RefCell<Vec<Batch>>,
    #[expect(clippy::vec_box, reason = "a request holds its record in a box, which is kept with what is in it")]
    records: RefCell<Vec<Box<Record>>>,
}

impl WorkerLog {
    /// A record for a request that began then.
    pub fn begin(&self, started: Instant) -> Box<Record> {
        let kept = self.records.borrow_mut().pop();
        let Some(mut record) = kept else {
            let texts = Vec::with_capacity(RECORD_TEXT_BYTES);
            return Box::new(Record { facts: Facts::of(started), spans: [MISSING; TEXTS], texts });
        };
        record.begin(started);
        record
    }

    /// Puts a record into the batch, or drops and counts it.
    pub fn log(&self, record: Box<Record>) {
        if self.batch.borrow().is_full() && !self.hand_over() {
            self.log.dropped(1);
        } else {
            self.batch.borrow_mut().push(&record);
        }
        let mut records = self.records.borrow_mut();
        if records.len() < RECORDS_KEPT && record.texts.capacity() <= RECORD_TEXT_BYTES {
            records.push(record);
        }
    }

    /// Hands over what there is, so that a line waits no longer than from tick to tick; but one such batch at a time,
    /// so that a slow disk doesn't fill the queue with small ones.
    pub fn tick(&self) {
        self.take_returned();
        if self.under_way.get() == 0 && !self.batch.borrow().entries.is_empty() {
            self.hand_over();
        }
    }

    fn hand_over(&self) -> bool {
        self.take_returned();
        if self.under_way.get() >= BATCHES_MAX {
            return false;
        }
        let mut batch = self.batch.borrow_mut();
        let empty = self.empty.borrow_mut().pop().unwrap_or_else(|| Batch::new(batch.home.clone()));
        let mut full = std::mem::replace(&mut *batch, empty);
        full.now = now();
        // The writer outlives its queue.
        if self.log.queue.send(full).is_ok() {
            self.under_way.set(self.under_way.get() + 1);
        }
        true
    }

    fn take_returned(&self) {
        let mut empty = self.empty.borrow_mut();
        while let Ok(batch) = self.returned.try_recv() {
            self.under_way.set(self.under_way.get() - 1);
            if empty.len() < BATCHES_KEPT {
                empty.push(batch);
            }
        }
    }
}

impl Drop for WorkerLog {
    fn drop(&mut self) {
        let left = self.batch.borrow().entries.len();
        if left > 0 && !self.hand_over() {
            self.log.dropped(left);
        }
    }
}

#[derive(Serialize)]
struct Line<'a> {
    time: &'a str,
    request_id: Option<Cow<'a, str>>,
    client: IpAddr,
    method: Option<Cow<'a, str>>,
    host: Option<Cow<'a, str>>,
    path: Option<Cow<'a, str>>,
    protocol: &'a str,
    scheme: &'a str,
    route: Option<Cow<'a, str>>,
    upstream: Option<Cow<'a, str>>,
    endpoint: Option<Cow<'a, str>>,
    retried: bool,
    status: u16,
    request_bytes: u64,
    response_bytes: u64,
    duration_ms: f64,
    connect_ms: Option<f64>,
    upstream_head_ms: Option<f64>,
    generation: u64,
    termination: &'a str,
}

fn count(metrics: &Metrics, why: Dropped, lines: usize) {
    metrics.log_dropped[why as usize].fetch_add(lines as u64, Ordering::Relaxed);
}

fn write_all<W: Write>(batches: &Receiver<Batch>, sink: &mut Sink<W>, metrics: &Metrics) {
    let (mut lines, mut time) = (Vec::new(), Time::default());
    let mut warned: Option<Instant> = None;
    let mut lost = 0;
    while let Ok(mut batch) = batches.recv() {
        batch.write(&mut lines, &mut time);
        batch.clear();
        // Its worker may be gone.
        let _ = batch.home.clone().send(batch);
        match sink.write_lines(&lines) {
            Ok(()) if lost > 0 => {
                tracing::info!(lost, "the access log can be written again");
                (lost, warned) = (0, None);
            }
            Ok(()) => {}
            Err(Unwritten { lines, error }) => {
                lost += lines;
                count(metrics, Dropped::NotWritten, lines);
                if warned.is_none_or(|at| at.elapsed() >= WARNING_PAUSE) {
                    tracing::warn!(%error, lost, "the access log can't be written; requests go on");
                    warned = Some(Instant::now());
                }
            }
        }
        lines.clear();
    }
}

/// Where lines go. One that was written in part is ended before the next.
struct Sink<W> {
    to: W,
    torn: bool,
}

/// How many lines are missing, and why.
#[derive(Debug)]
struct Unwritten {
    lines: usize,
    error: io::Error,
}

impl<W: Write> Sink<W> {
    fn new(to: W) -> Self {
        Self { to, torn: false }
    }

    fn write_lines(&mut self, lines: &[u8]) -> Result<(), Unwritten> {
        let missing = |rest: &[u8]| rest.split(|byte| *byte == b'\n').count() - 1;
        if self.torn {
            self.to.write_all(b"\n").map_err(|error| Unwritten { lines: missing(lines), error })?;
            self.torn = false;
        }
        let mut at = 0;
        while at < lines.len() {
            let error = match self.to.write(&lines[at..]) {
                Ok(0) => io::ErrorKind::WriteZero.into(),
                Ok(count) => {
                    at += count;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            self.torn = at > 0 && lines[at - 1] != b'\n';
            return Err(Unwritten { lines: missing(&lines[at..]), error });
        }
        Ok(())
    }
}

/// A time as text. Many lines have the same millisecond.
#[derive(Default)]
struct Time {
    millisecond: i64,
    text: String,
}

impl Time {
    fn text(&mut self, time: SystemTime) -> &str {
        let time = jiff::Timestamp::try_from(time).unwrap_or_default();
        if self.text.is_empty() || self.millisecond != time.as_millisecond() {
            self.millisecond = time.as_millisecond();
            self.text = format!("{time:.3}");
        }
        &self.text
    }
}

impl Batch {
    fn write(&self, lines: &mut Vec<u8>, time: &mut Time) {
        for entry in &self.entries {
            let line = entry.line(self, time);
            serde_json::to_writer(&mut *lines, &line)
                .expect("a line has nothing that JSON doesn't, and memory takes it");
            lines.push(b'\n');
        }
    }
}

impl Entry {
    fn line<'a>(&self, batch: &'a Batch, time: &'a mut Time) -> Line<'a> {
        let facts = &self.facts;
        let text = |text: Text| {
            let Span { start, end } = self.spans[text as usize];
            let bytes = batch.texts.get(self.base + start as usize..self.base + end as usize);
            bytes.map(String::from_utf8_lossy)
        };
        let milliseconds = |duration: Duration| (duration.as_secs_f64() * 1e6).round() / 1e3;
        let age = batch.now.0.saturating_duration_since(facts.started);
        Line {
            time: time.text(batch.now.1 - age),
            request_id: text(Text::RequestId),
            client: facts.client,
            method: text(Text::Method),
            host: text(Text::Host),
            path: text(Text::Path),
            protocol: match facts.version {
                Version::HTTP_2 => "HTTP/2",
                Version::HTTP_10 => "HTTP/1.0",
                _ => "HTTP/1.1",
            },
            scheme: if facts.secure { "https" } else { "http" },
            route: text(Text::Route),
            upstream: text(Text::Upstream),
            endpoint: text(Text::Endpoint),
            retried: facts.retried,
            status: facts.status,
            request_bytes: facts.request_bytes,
            response_bytes: facts.response_bytes,
            duration_ms: milliseconds(facts.duration),
            connect_ms: facts.connect.map(milliseconds),
            upstream_head_ms: facts.upstream_head.map(milliseconds),
            generation: facts.generation,
            termination: facts.termination,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with room for so many bytes.
    struct Disk {
        room: usize,
        written: Vec<u8>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.room);
            if count == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.room -= count;
            self.written.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_a_full_disk_does_not_take_are_counted_and_what_follows_stands_on_its_own() {
        let mut sink = Sink::new(Disk { room: 9, written: Vec::new() });
        let missing = |result: Result<(), Unwritten>| result.err().map_or(0, |unwritten| unwritten.lines);
        assert_eq!(missing(sink.write_lines(b"one\ntwo\nthree\nfour\n")), 2, "three was begun, four was not");
        assert_eq!(missing(sink.write_lines(b"five\nsix\n")), 2);
        sink.to.room = 100;
        assert_eq!(missing(sink.write_lines(b"seven\n")), 0);
        assert_eq!(String::from_utf8_lossy(&sink.to.written), "one\ntwo\nt\nseven\n");
        sink.to.room = 6;
        assert_eq!(missing(sink.write_lines(b"eight\nnine\n")), 1);
        sink.to.room = 100;
        assert_eq!(missing(sink.write_lines(b"ten\n")), 0);
        assert!(sink.to.written.ends_with(b"seven\neight\nten\n"), "no line was torn");
    }

    /// A clock that is set changes when a request is said to have begun, and not how long it took.
    #[test]
    fn any_time_can_be_written() {
        let mut time = Time::default();
        let texts = [SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH - Duration::from_secs(3600), SystemTime::now()]
            .map(|moment| time.text(moment).to_owned());
        assert_eq!(texts[..2], ["1970-01-01T00:00:00.000Z", "1969-12-31T23:00:00.000Z"]);
        assert!(texts[2].starts_with("20"));
    }
}
