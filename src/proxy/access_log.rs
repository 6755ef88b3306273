//! The access log: one JSON line a request, written by a thread of its own. Workers hand records over through a
//! bounded queue and never wait; what doesn't fit is dropped and counted.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Version};
use serde::Serialize;

use crate::metrics::Metrics;

/// Records that may wait to be written.
const QUEUE: usize = 16 * 1024;
/// Pause between two writes: a thread that is asleep anyway costs the workers no wake-up.
const WRITE_PAUSE: Duration = Duration::from_millis(10);
/// Pause between two warnings that the log can't be written.
const WARNING_PAUSE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    Stdout,
    File(PathBuf),
}

/// What is logged of a request, as the worker has it at hand.
#[derive(Debug)]
pub struct Record {
    pub time: SystemTime,
    pub request_id: Option<HeaderValue>,
    pub client: IpAddr,
    pub method: Method,
    pub host: Option<HeaderValue>,
    pub target: Option<PathAndQuery>,
    pub version: Version,
    pub secure: bool,
    pub route: Option<Box<str>>,
    pub upstream: Option<Box<str>>,
    pub endpoint: Option<Box<str>>,
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

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    request_id: Option<&'a str>,
    client: IpAddr,
    method: &'a str,
    host: Option<&'a str>,
    path: Option<&'a str>,
    protocol: &'a str,
    scheme: &'a str,
    route: Option<&'a str>,
    upstream: Option<&'a str>,
    endpoint: Option<&'a str>,
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

/// A worker's end of the queue.
#[derive(Debug, Clone)]
pub struct AccessLog {
    queue: SyncSender<Box<Record>>,
    metrics: Arc<Metrics>,
}

impl AccessLog {
    /// Starts the writer. It ends when the last `AccessLog` is dropped and everything is written.
    pub fn start(destination: &Destination, metrics: Arc<Metrics>) -> io::Result<(Self, JoinHandle<()>)> {
        let sink: Box<dyn Write + Send> = match destination {
            Destination::Stdout => Box::new(io::stdout()),
            Destination::File(path) => Box::new(OpenOptions::new().create(true).append(true).open(path)?),
        };
        let (queue, records) = sync_channel(QUEUE);
        let writer = std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_all(&records, BufWriter::with_capacity(64 * 1024, sink)))?;
        Ok((Self { queue, metrics }, writer))
    }

    /// Hands a record over, or drops and counts it.
    pub fn log(&self, record: Box<Record>) {
        match self.queue.try_send(record) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.metrics.log_dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

fn write_all(records: &Receiver<Box<Record>>, mut sink: BufWriter<Box<dyn Write + Send>>) {
    let mut warned: Option<SystemTime> = None;
    while let Ok(record) = records.recv() {
        let mut result = write(&record, &mut sink);
        // What has come in meanwhile goes out in the same write.
        while result.is_ok() {
            match records.try_recv() {
                Ok(record) => result = write(&record, &mut sink),
                Err(_) => break,
            }
        }
        if let Err(error) = result.and_then(|()| sink.flush()) {
            let recent = warned.and_then(|at| at.elapsed().ok()).is_some_and(|elapsed| elapsed < WARNING_PAUSE);
            if !recent {
                tracing::warn!(%error, "the access log can't be written; requests go on");
                warned = Some(SystemTime::now());
            }
        }
        std::thread::sleep(WRITE_PAUSE);
    }
}

fn write(record: &Record, sink: &mut impl Write) -> io::Result<()> {
    let text = |value: &Option<HeaderValue>| {
        value.as_ref().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let milliseconds = |duration: Duration| (duration.as_secs_f64() * 1e6).round() / 1e3;
    let time = jiff::Timestamp::try_from(record.time).map(|time| format!("{time:.3}")).unwrap_or_default();
    let (request_id, host) = (text(&record.request_id), text(&record.host));
    let line = Line {
        time,
        request_id: request_id.as_deref(),
        client: record.client,
        method: record.method.as_str(),
        host: host.as_deref(),
        path: record.target.as_ref().map(PathAndQuery::as_str),
        protocol: match record.version {
            Version::HTTP_2 => "HTTP/2",
            Version::HTTP_10 => "HTTP/1.0",
            _ => "HTTP/1.1",
        },
        scheme: if record.secure { "https" } else { "http" },
        route: record.route.as_deref(),
        upstream: record.upstream.as_deref(),
        endpoint: record.endpoint.as_deref(),
        retried: record.retried,
        status: record.status,
        request_bytes: record.request_bytes,
        response_bytes: record.response_bytes,
        duration_ms: milliseconds(record.duration),
        connect_ms: record.connect.map(milliseconds),
        upstream_head_ms: record.upstream_head.map(milliseconds),
        generation: record.generation,
        termination: record.termination,
    };
    serde_json::to_writer(&mut *sink, &line)?;
    sink.write_all(b"\n")
}
