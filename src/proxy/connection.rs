//! One client connection, from its first byte to its last: TLS, HTTP/1.1 or HTTP/2, and its time. hyper's own
//! timers stay off; the connection notes what it waits for, and the worker's tick wakes it when that took too
//! long.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::server::Acceptor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};

use super::client_certificate::Presented;
use super::handle::handle;
use super::headers::{Peer, is_trusted};
use super::io::{ClientIo, Stream};
use super::listener::Listener;
use super::proxy_protocol;
use super::upgrade::{self, Pending};
use super::worker::Worker;
use crate::clock::{Clock, Timer};
use crate::drain::Phase;
use crate::upstream::{Join, LocalExecutor, Socket};

/// What an HTTP/2 client that knows begins with (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Largest HTTP/1 read buffer, in bytes; above the limit of a head, so that ours answers first.
const HTTP1_BUFFER_BYTES: usize = 64 * 1024;
/// HTTP/2 limits. A client that shuts its window pins at most streams × send buffer, 6.4 MB.
const HTTP2_STREAMS: u32 = 100;
const HTTP2_STREAM_WINDOW: u32 = 64 * 1024;
const HTTP2_CONNECTION_WINDOW: u32 = 1024 * 1024;
const HTTP2_SEND_BUFFER: usize = 64 * 1024;
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(20);
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long and how much is read from a client that was answered in the middle of its request, so that the
/// answer isn't lost in a reset.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 1024 * 1024;

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    /// The first byte of a request.
    Idle,
    /// The rest of a request's head.
    Head,
    /// Us, or an endpoint, which has time limits of its own.
    Busy,
    /// The client, to read what we have for it.
    Write,
}

/// When bytes last moved, and what is waited for.
#[derive(Debug)]
pub struct Activity {
    waits: Cell<Waits>,
    timer: Timer,
    requests: Cell<u32>,
    /// Bytes that arrive need not be a request's: they may be pings.
    http2: Cell<bool>,
    /// Bytes from the client and to it.
    received: Cell<u64>,
    sent: Cell<u64>,
    /// The bodies of HTTP/2 answers that wait for the client to take what it was offered: since which tick, or 0.
    offered: RefCell<Vec<u64>>,
    free: RefCell<Vec<usize>>,
    clock: Rc<Clock>,
    head_timeout: u64,
    idle_timeout: u64,
    write_timeout: u64,
}

impl Activity {
    fn new(worker: &Worker) -> Rc<Self> {
        let settings = &worker.settings;
        let activity = Self {
            waits: Cell::new(Waits::Idle),
            timer: worker.clock.timer(),
            requests: Cell::new(0),
            http2: Cell::new(false),
            received: Cell::new(0),
            sent: Cell::new(0),
            offered: RefCell::default(),
            free: RefCell::default(),
            clock: worker.clock.clone(),
            head_timeout: settings.request_head_timeout,
            idle_timeout: settings.idle_timeout,
            write_timeout: settings.response_write_timeout,
        };
        // A client that connects owes a request; only one that was answered may be idle for long.
        activity.wait(Waits::Head, activity.head_timeout);
        Rc::new(activity)
    }

    fn wait(&self, waits: Waits, ticks: u64) {
        self.waits.set(waits);
        self.timer.set(ticks);
    }

    pub fn read(&self, bytes: usize) {
        self.received.set(self.received.get() + bytes as u64);
        if self.waits.get() == Waits::Idle && !self.http2.get() {
            self.wait(Waits::Head, self.head_timeout);
        }
    }

    pub fn wrote(&self, bytes: usize) {
        self.sent.set(self.sent.get() + bytes as u64);
        if self.waits.get() == Waits::Write {
            self.rest();
        }
    }

    pub fn write_blocked(&self) {
        if self.waits.get() != Waits::Write {
            self.wait(Waits::Write, self.write_timeout);
        }
    }

    pub fn request_begins(&self) {
        self.requests.set(self.requests.get() + 1);
        if self.waits.get() != Waits::Write {
            self.rest();
        }
    }

    pub fn request_ends(&self) {
        self.requests.set(self.requests.get() - 1);
        if self.waits.get() != Waits::Write {
            self.rest();
        }
    }

    fn rest(&self) {
        if self.requests.get() > 0 {
            let before = self.waits.replace(Waits::Busy);
            if !self.http2.get() {
                self.timer.clear();
            } else if before != Waits::Busy {
                self.timer.set(self.write_timeout);
            }
        } else {
            self.wait(Waits::Idle, self.idle_timeout);
        }
    }

    /// Bytes from the client and to it, since the connection began.
    pub fn bytes(&self) -> (u64, u64) {
        (self.received.get(), self.sent.get())
    }

    /// A place for the body of an HTTP/2 answer. A client that shuts its window stops hyper from asking for
    /// more, and nothing else tells.
    pub fn body_begins(&self) -> Option<usize> {
        if !self.http2.get() {
            return None;
        }
        let mut offered = self.offered.borrow_mut();
        Some(self.free.borrow_mut().pop().unwrap_or_else(|| {
            offered.push(0);
            offered.len() - 1
        }))
    }

    pub fn body_ends(&self, place: usize) {
        self.body_waits(place, false);
        self.free.borrow_mut().push(place);
    }

    /// The body was asked for more, and has offered something or waits for its endpoint.
    pub fn body_waits(&self, place: usize, for_client: bool) {
        self.offered.borrow_mut()[place] = if for_client { self.clock.now().max(1) } else { 0 };
    }

    /// Whether a client has left what it was offered for too long; if not, looks again after that time.
    fn has_stalled(&self) -> bool {
        let now = self.clock.now();
        let late = |since: &u64| *since != 0 && now - since >= self.write_timeout;
        let stalled = self.offered.borrow().iter().any(late);
        if !stalled {
            self.timer.set(self.write_timeout);
        }
        stalled
    }
}

/// A client connection, as its requests see it.
pub struct Connection {
    pub worker: Rc<Worker>,
    pub activity: Rc<Activity>,
    pub peer: Peer,
    pub secure: bool,
    pub server_name: Option<Box<str>>,
    /// Only if the handshake asked for a certificate.
    pub presented: Option<Box<Presented>>,
    /// A tunnel to begin when hyper has written the 101.
    pub tunnel: RefCell<Option<Pending>>,
}

/// Serves a connection to its end.
pub async fn serve(worker: &Rc<Worker>, mut stream: TcpStream, client: SocketAddr, listener: Listener) {
    let Listener { port: _, secure, proxy_protocol } = listener;
    let client = client.ip().to_canonical();
    let (client, trusted) = if proxy_protocol {
        // Boxed: other connections are not to move what it takes.
        match Box::pin(proxy_protocol::read(worker, &mut stream, client, secure)).await {
            Some(told) => told,
            None => return,
        }
    } else {
        (client, is_trusted(client, &worker.settings.trusted_proxies))
    };
    let stream = Socket(stream);
    let mut server_name = None;
    let mut presented = None;
    let mut http2 = false;
    let stream = if secure {
        let handshake = async {
            if worker.table().clients.is_empty() {
                Ok((TlsAcceptor::from(worker.tls.clone()).accept(stream).await?, false))
            } else {
                Box::pin(greet(worker, stream)).await
            }
        };
        let Ok(Ok((stream, asked))) = tokio::time::timeout(worker.settings.handshake_timeout, handshake).await else {
            worker.cells.handshakes_failed.add(1);
            return;
        };
        let (_, session) = stream.get_ref();
        server_name = session.server_name().map(|name| name.to_ascii_lowercase().into());
        presented = asked.then(|| Box::new(Presented::new(session.peer_certificates())));
        http2 = session.alpn_protocol() == Some(b"h2");
        Stream::Tls(Box::new(stream))
    } else {
        Stream::Plain(stream)
    };
    let activity = Activity::new(worker);
    let mut io = ClientIo::new(stream, Bytes::new(), activity.clone());
    let connection = Rc::new(Connection {
        worker: worker.clone(),
        activity,
        peer: peer(client, trusted, secure),
        secure,
        server_name,
        presented,
        tunnel: RefCell::new(None),
    });
    if !secure {
        match read_preface(&mut io, &connection.activity).await {
            Some((bytes, known)) => {
                io.put_back(bytes);
                http2 = known;
            }
            None => return,
        }
    }
    if http2 { serve_http2(connection, io).await } else { serve_http1(connection, io).await }
}

/// A handshake that asks for the client's certificate if the host that it names wants one. Says whether it did.
async fn greet(worker: &Worker, stream: Socket) -> io::Result<(TlsStream<Socket>, bool)> {
    let greeted = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let name = greeted.client_hello().server_name().map(str::to_ascii_lowercase);
    let verifier = name.and_then(|name| worker.table().clients.find(&name).cloned());
    let config = match &verifier {
        None => worker.tls.clone(),
        Some(verifier) => verifier.config(&worker.tls).map_err(io::Error::other)?,
    };
    Ok((greeted.into_stream(config).await?, verifier.is_some()))
}

fn peer(address: IpAddr, trusted: bool, secure: bool) -> Peer {
    let value = HeaderValue::from_str(&address.to_string()).expect("an address is a value");
    Peer {
        address,
        value,
        proto: HeaderValue::from_static(if secure { "https" } else { "http" }),
        port: HeaderValue::from_static(if secure { "443" } else { "80" }),
        trusted,
    }
}

/// Reads until it is clear which protocol the client speaks. `None`: it went away or took too long.
async fn read_preface(io: &mut ClientIo, activity: &Activity) -> Option<(Bytes, bool)> {
    let mut bytes = BytesMut::with_capacity(4096);
    loop {
        {
            let mut reading = pin!(io.read_buf(&mut bytes));
            let read = poll_fn(|context| {
                activity.timer.register(context);
                if activity.timer.has_passed() {
                    Poll::Ready(None)
                } else {
                    reading.as_mut().poll(context).map(Result::ok)
                }
            });
            if read.await? == 0 {
                return None;
            }
        }
        let compared = bytes.len().min(PREFACE.len());
        if bytes[..compared] != PREFACE[..compared] {
            return Some((bytes.freeze(), false));
        }
        if compared == PREFACE.len() {
            return Some((bytes.freeze(), true));
        }
    }
}

/// Breaks the circle of a connection and the tunnel that waits in it.
struct DropTunnel(Rc<Connection>);

impl Drop for DropTunnel {
    fn drop(&mut self) {
        self.0.tunnel.borrow_mut().take();
    }
}

async fn serve_http1(connection: Rc<Connection>, io: ClientIo) {
    let _drop_tunnel = DropTunnel(connection.clone());
    let worker = &connection.worker;
    let service = service_fn(|request| handle(connection.clone(), request));
    let mut builder = http1::Builder::new();
    // hyper keeps its own 100 on the stack, and any number that it is told on the heap.
    if worker.settings.limits.header_count_max != 100 {
        builder.max_headers(worker.settings.limits.header_count_max.max(1));
    }
    let mut http = builder
        .max_buf_size(
            HTTP1_BUFFER_BYTES.max(worker.settings.limits.header_bytes_max + worker.settings.limits.target_bytes_max),
        )
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(io), service);
    let activity = &connection.activity;
    let ended = poll_fn(|context| {
        activity.timer.register(context);
        if activity.timer.has_passed() {
            return Poll::Ready(None);
        }
        Pin::new(&mut http).poll(context).map(Some)
    })
    .await;
    let parts = http.into_parts();
    let mut io = parts.io.into_inner();
    let tunnel = connection.tunnel.borrow_mut().take();
    match (ended, tunnel) {
        (Some(Ok(())), Some(tunnel)) => {
            io.put_back(parts.read_buf);
            upgrade::run(&connection, io, tunnel).await;
        }
        _ => linger(io).await,
    }
}

/// Says that nothing more comes and reads what the client still sends: closing at once would reset the
/// connection, and the answer on its way would be lost (RFC 9112, 9.6).
async fn linger(mut io: ClientIo) {
    let closing = async {
        io.shutdown().await.ok()?;
        let mut dropped = [0u8; 4096];
        let mut left = LINGER_BYTES;
        while left > 0 {
            let count = io.read(&mut dropped).await.ok().filter(|count| *count > 0)?;
            left = left.saturating_sub(count);
        }
        Some(())
    };
    let _ = tokio::time::timeout(LINGER, closing).await;
}

async fn serve_http2(connection: Rc<Connection>, io: ClientIo) {
    let worker = &connection.worker;
    let service = {
        let connection = connection.clone();
        // In a box: each request is a task of its own, which is moved from hyper into its place and on, with all that
        // it may ever hold.
        service_fn(move |request| Box::pin(handle(connection.clone(), request)))
    };
    let limits = worker.settings.limits;
    let header_list = u32::try_from(limits.header_bytes_max).unwrap_or(u32::MAX);
    let http = http2::Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS)
        .initial_stream_window_size(HTTP2_STREAM_WINDOW)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
        .max_send_buf_size(HTTP2_SEND_BUFFER)
        .max_header_list_size(header_list)
        .keep_alive_interval(HTTP2_PING_INTERVAL)
        .keep_alive_timeout(HTTP2_PING_TIMEOUT)
        .serve_connection(TokioIo::new(Join::new(io, worker.rounds.clone())), service);
    let mut http = pin!(http);
    let activity = &connection.activity;
    activity.http2.set(true);
    let mut draining = pin!(worker.drain.reached(Phase::Draining));
    let (mut told, mut watched) = (false, false);
    poll_fn(|context| {
        activity.timer.register(context);
        let late = activity.timer.has_passed() && (activity.waits.get() != Waits::Busy || activity.has_stalled());
        if late && (told || activity.waits.get() != Waits::Idle) {
            return Poll::Ready(());
        }
        // Asked once, to be woken; asking takes a lock that all workers share.
        if !watched {
            watched = true;
            let _ = draining.as_mut().poll(context);
        }
        if !told && (late || worker.is_draining()) {
            told = true;
            // GOAWAY: streams under way end, new ones go elsewhere.
            http.as_mut().graceful_shutdown();
            if late {
                activity.timer.set(activity.write_timeout);
            }
        }
        Pin::as_mut(&mut http).poll(context).map(drop)
    })
    .await;
}
