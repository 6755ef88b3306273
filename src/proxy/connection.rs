//! One client connection, from its first byte to its last: TLS, HTTP/1.1 or HTTP/2, and its time. hyper's own
//! timers stay off; `Activity` knows what is waited for, and the worker's tick wakes the connection when that took
//! too long. What only one part of its life needs is in a box of that part: idle connections are many, and an
//! HTTP/1 connection that was idle for a second is a socket, its TLS session and little else.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};

use super::activity::Activity;
use super::client_certificate::Presented;
use super::guard::answer;
use super::headers::{Peer, is_trusted};
use super::io::ClientIo;
use super::listener::Listener;
use super::proxy_protocol;
use super::refuse::{self, Refusal};
use super::seats::{self, Full};
use super::upgrade::{self, Pending};
use super::worker::Worker;
use crate::drain::Phase;
use crate::metrics::Side;
use crate::upstream::{Join, LocalExecutor, Meter, Socket, Stream};

/// What an HTTP/2 client that knows begins with (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Largest HTTP/1 head that is read, in bytes; above the limit of a head, so that ours answers first.
const HTTP1_HEAD_BYTES: usize = 64 * 1024;
/// Most of a body that is read at once, and that waits to be written, in bytes, where either is large: buffers grow while
/// they are filled, and [`ClientIo`] and [`Activity`] bound both for the others.
const HTTP1_BUFFER_BYTES: usize = 256 * 1024;
/// Bytes that are taken at once of what comes before hyper has the connection. They lie on the stack.
const FIRST_BYTES: usize = 4096;
/// HTTP/2 limits. A client that shuts its window pins at most streams × send buffer, 6.4 MB.
const HTTP2_STREAMS: u32 = 100;
const HTTP2_STREAM_WINDOW: u32 = 64 * 1024;
const HTTP2_CONNECTION_WINDOW: u32 = 1024 * 1024;
const HTTP2_SEND_BUFFER: usize = 64 * 1024;
/// Streams that we reset because of what the client did, in the life of a connection; refused ones among them.
const HTTP2_ERROR_RESETS: usize = 256;
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(20);
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long and how much is read from a client that was answered in the middle of its request, so that the
/// answer isn't lost in a reset.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 1024 * 1024;

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
    /// What its requests' bodies that are read whole may take, in bytes.
    pub whole_bytes: Cell<usize>,
    /// What its requests' large heads may take, in KiB; only if it had such.
    pub large_heads: OnceCell<Arc<Semaphore>>,
    /// Its last request was turned away because there is too much to do: its next one is not read before the second
    /// that its client was asked to wait for is over.
    pub shed: Cell<bool>,
    /// What follows the last request over HTTP/1 can't be trusted to be another one.
    pub ends: Cell<bool>,
}

/// Serves a connection to its end.
pub async fn serve(worker: &Rc<Worker>, mut stream: TcpStream, client: SocketAddr, listener: Listener) {
    let Listener { secure, proxy_protocol, port: _, kept: _ } = listener;
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
    let _seat = match seats::take(worker, client) {
        Ok(seat) => seat,
        Err(Full) => return refuse::tell(worker, stream, secure, Refusal::Client).await,
    };
    let stream = Socket(stream);
    let Greeted { stream, server_name, presented, mut http2 } = if secure {
        match Box::pin(greet(worker, stream)).await {
            Some(greeted) => greeted,
            None => return,
        }
    } else {
        Greeted { stream: Stream::Left(stream), server_name: None, presented: None, http2: false }
    };
    let activity = Activity::new(worker);
    let mut io = ClientIo::new(stream, activity.clone());
    let connection = Rc::new(Connection {
        worker: worker.clone(),
        activity,
        peer: peer(client, trusted, secure),
        secure,
        server_name,
        presented,
        tunnel: RefCell::new(None),
        whole_bytes: Cell::new(0),
        large_heads: OnceCell::new(),
        shed: Cell::new(false),
        ends: Cell::new(false),
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
    if http2 { Box::pin(serve_http2(connection, io)).await } else { serve_http1(connection, io).await }
}

/// What a handshake leaves.
struct Greeted {
    stream: Stream<TlsStream<Socket>>,
    server_name: Option<Box<str>>,
    presented: Option<Box<Presented>>,
    http2: bool,
}

/// The handshake, if it succeeds in time.
async fn greet(worker: &Worker, stream: Socket) -> Option<Greeted> {
    let handshake = async {
        if worker.table().clients.is_empty() {
            Ok((TlsAcceptor::from(worker.tls.clone()).accept(stream).await?, false))
        } else {
            Box::pin(greet_by_name(worker, stream)).await
        }
    };
    let Ok(Ok((stream, asked))) = tokio::time::timeout(worker.settings.handshake_timeout, handshake).await else {
        worker.cells.handshakes_failed.add(1);
        return None;
    };
    let (_, session) = stream.get_ref();
    Some(Greeted {
        server_name: session.server_name().map(|name| name.to_ascii_lowercase().into()),
        presented: asked.then(|| Box::new(Presented::new(session.peer_certificates()))),
        http2: session.alpn_protocol() == Some(b"h2"),
        stream: Stream::Right(Box::new(stream)),
    })
}

/// A handshake that asks for the client's certificate if the host that it names wants one. Says whether it did.
async fn greet_by_name(worker: &Worker, stream: Socket) -> io::Result<(TlsStream<Socket>, bool)> {
    let greeted = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let name = greeted.client_hello().server_name().map(str::to_ascii_lowercase);
    let verifier = name.and_then(|name| worker.table().clients.find(&name).cloned());
    let config = match &verifier {
        None => worker.tls.clone(),
        Some(verifier) => verifier.config(&worker.tls).clone(),
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

/// Reads until it is clear which protocol the client speaks. `None`: none that we do, or it went away or took too long.
async fn read_preface(io: &mut ClientIo, activity: &Activity) -> Option<(Bytes, bool)> {
    let mut bytes = first_bytes(io, activity, || false).await?;
    loop {
        let compared = bytes.len().min(PREFACE.len());
        if bytes[..compared] != PREFACE[..compared] {
            return (!is_foreign(&bytes)).then_some((bytes, false));
        }
        if compared == PREFACE.len() {
            return Some((bytes, true));
        }
        bytes = [bytes, first_bytes(io, activity, || false).await?].concat().into();
    }
}

/// Three words of letters: no request line of any version, so that nobody expects an answer in HTTP/1. Who meant HTTP/2
/// by it gets a closed connection (RFC 9113, 3.4).
fn is_foreign(bytes: &[u8]) -> bool {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let Some(line) = line.strip_suffix(b"\r") else { return false };
    let is_word = |word: &[u8]| !word.is_empty() && word.iter().all(u8::is_ascii_alphabetic);
    let mut words = line.split(|byte| *byte == b' ');
    (0..3).all(|_| words.next().is_some_and(is_word)) && words.next().is_none()
}

/// What the client sends next; nothing is kept ready for it meanwhile. `None`: it went away or took too long, or who
/// is idle is closed.
async fn first_bytes(io: &mut ClientIo, activity: &Activity, closes: impl Fn() -> bool) -> Option<Bytes> {
    poll_fn(|context| {
        activity.register(context);
        if activity.has_passed() || closes() {
            return Poll::Ready(None);
        }
        let mut bytes = [const { MaybeUninit::uninit() }; FIRST_BYTES];
        let mut buffer = ReadBuf::uninit(&mut bytes);
        let read = ready!(Pin::new(&mut *io).poll_read(context, &mut buffer));
        let bytes = buffer.filled();
        Poll::Ready((read.is_ok() && !bytes.is_empty()).then(|| Bytes::copy_from_slice(bytes)))
    })
    .await
}

/// Breaks the circle of a connection and the tunnel that waits in it.
struct DropTunnel(Rc<Connection>);

impl Drop for DropTunnel {
    fn drop(&mut self) {
        self.0.tunnel.borrow_mut().take();
    }
}

async fn serve_http1(connection: Rc<Connection>, mut io: ClientIo) {
    let _drop_tunnel = DropTunnel(connection.clone());
    loop {
        let left;
        (io, left) = Box::pin(converse(&connection, io)).await;
        match left {
            Left::Idle if io.has_put_back() => {}
            Left::Idle => {
                let closes = || connection.worker.closes_idle.get();
                match first_bytes(&mut io, &connection.activity, closes).await {
                    Some(bytes) => io.put_back(bytes),
                    None => break,
                }
            }
            Left::Upgraded => return Box::pin(upgrade::run(&connection, io)).await,
            Left::Over => break,
        }
    }
    Box::pin(linger(io)).await;
}

/// Why hyper is through with a connection.
enum Left {
    /// Its client may say something again.
    Idle,
    /// A tunnel waits to begin.
    Upgraded,
    Over,
}

/// Serves HTTP/1 until the connection has been idle for a while, or is to be something else.
async fn converse(connection: &Rc<Connection>, io: ClientIo) -> (ClientIo, Left) {
    let worker = &connection.worker;
    let service = service_fn(|request| answer(connection.clone(), request));
    let limits = worker.settings.limits;
    let mut builder = http1::Builder::new();
    // hyper keeps its own 100 on the stack, and any number that it is told on the heap.
    if limits.header_count_max != 100 {
        builder.max_headers(limits.header_count_max.max(1));
    }
    let head_bytes_max = HTTP1_HEAD_BYTES.max(limits.header_bytes_max + limits.target_bytes_max);
    let mut http = builder
        .max_header_size(head_bytes_max)
        .max_buf_size(HTTP1_BUFFER_BYTES.max(head_bytes_max))
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(io), service);
    let activity = &connection.activity;
    let left = poll_fn(|context| {
        activity.register(context);
        if activity.has_passed() && !activity.may_rest() || worker.closes_idle.get() && activity.is_quiet() {
            return Poll::Ready(Left::Over);
        }
        if connection.shed.get() && activity.is_idle() {
            if !activity.has_passed() {
                return Poll::Pending;
            }
            connection.shed.set(false);
        }
        match Pin::new(&mut http).poll(context) {
            Poll::Ready(Ok(())) if connection.tunnel.borrow().is_some() => Poll::Ready(Left::Upgraded),
            Poll::Ready(Ok(()) | Err(_)) => Poll::Ready(Left::Over),
            Poll::Pending if activity.may_rest() && worker.keeps_spare.get() => {
                activity.keep_buffers();
                Poll::Pending
            }
            // Asked only now: hyper has read all there is, and lets go of a body that nobody wants.
            Poll::Pending if activity.may_rest() => leave(activity, || {
                Pin::new(&mut http).graceful_shutdown();
                Pin::new(&mut http).poll(context)
            }),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    let parts = http.into_parts();
    let mut io = parts.io.into_inner();
    match left {
        Left::Idle | Left::Upgraded => io.put_back(parts.read_buf),
        Left::Over => {}
    }
    (io, left)
}

/// Asks hyper to leave an idle connection. It does so at once, and the connection stays open, if it is between two
/// messages and has written all it had; else when it has finished what it is at, and the connection ends with it.
fn leave<E>(activity: &Activity, ask: impl FnOnce() -> Poll<Result<(), E>>) -> Poll<Left> {
    let (received, _) = activity.bytes();
    activity.rest_on();
    activity.stays_open.set(true);
    let asked = ask();
    activity.stays_open.set(false);
    asked.map(|left| match left {
        Ok(()) if activity.bytes().0 == received => Left::Idle,
        Ok(()) | Err(_) => Left::Over,
    })
}

/// Says that nothing more comes and reads what the client still sends: closing at once would reset the
/// connection, and the answer on its way would be lost (RFC 9112, 9.6).
pub(super) async fn linger(mut io: ClientIo) {
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
        service_fn(move |request| Box::pin(answer(connection.clone(), request)))
    };
    let limits = worker.settings.limits;
    let header_list = u32::try_from(limits.header_bytes_max).unwrap_or(u32::MAX);
    let meter = Meter::new(Side::Client, &worker.cells);
    let http = http2::Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS)
        .initial_stream_window_size(HTTP2_STREAM_WINDOW)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
        .max_send_buf_size(HTTP2_SEND_BUFFER)
        .max_local_error_reset_streams(HTTP2_ERROR_RESETS)
        .max_header_list_size(header_list)
        .keep_alive_interval(HTTP2_PING_INTERVAL)
        .keep_alive_timeout(HTTP2_PING_TIMEOUT)
        .serve_connection(TokioIo::new(Join::new(io, worker.rounds.clone(), meter)), service);
    let mut http = pin!(http);
    let activity = &connection.activity;
    activity.becomes_http2();
    let mut draining = pin!(worker.drain.reached(Phase::Draining));
    let (mut told, mut watched) = (false, false);
    poll_fn(|context| {
        activity.register(context);
        let late = activity.is_late() || worker.closes_idle.get() && activity.is_idle();
        if late && (told || !activity.is_idle()) {
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
                activity.wait_on();
            }
        }
        Pin::as_mut(&mut http).poll(context).map(drop)
    })
    .await;
}
