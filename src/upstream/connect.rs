//! Makes connections to endpoints: TCP, TLS where the backend speaks it, and hyper's client on top. An HTTP/1.1
//! connection has no task of its own: whoever uses it drives it, so that a request costs no wake-up of another
//! task. HTTP/2 connections are shared, and have one.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::io::Errno;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::io::{Flow, UpstreamIo};
use super::{Endpoint, Join, Meter, RequestBody, Rounds, Socket, Stream};
use crate::metrics::{Side, WorkerCells};
use crate::model::Protocol;
use crate::tls::EndpointTls;

/// Largest read buffer of an HTTP/1.1 connection, in bytes, for those whose [`Flow`] lets them read so much; also
/// bounds what waits to be written.
const BUFFER_BYTES_MAX: usize = 256 * 1024;
/// Largest head of an HTTP/1.1 answer, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Flow-control windows towards HTTP/2 endpoints, in bytes, and what waits for theirs. The connection's has room for
/// all streams', so that those whose clients don't read leave the others theirs.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * 128;
const SEND_BUFFER: usize = 64 * 1024;
/// Largest header list from an HTTP/2 endpoint, in bytes.
const HEADER_LIST_BYTES_MAX: u32 = 64 * 1024;

/// Why there is no connection. Nothing was sent: the request may go elsewhere.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("connect: {0}")]
    Tcp(#[source] io::Error),
    #[error("connect: {0}")]
    Exhausted(#[source] io::Error),
    #[error("TLS handshake: {0}")]
    Tls(#[source] io::Error),
    #[error("HTTP handshake: {0}")]
    Http(#[source] hyper::Error),
    #[error("no connection within {}ms", .0.as_millis())]
    TimedOut(Duration),
    #[error("the endpoint has gone meanwhile")]
    Gone,
    #[error("too many requests wait for a connection to the backend")]
    Crowded,
}

/// An HTTP/1.1 connection, driven by whoever holds it.
pub struct Http1 {
    pub sender: http1::SendRequest<RequestBody>,
    connection: Option<http1::Connection<TokioIo<UpstreamIo>, RequestBody>>,
    over: bool,
    pub flow: Rc<Flow>,
    user: Arc<User>,
    /// Of `user`.
    waker: Waker,
    open: Open,
}

/// Who waits for a connection. hyper and the socket have the same waker for as long as the connection lives, so that
/// nothing is registered anew when another request takes it; and what happens while it is driven wakes nobody, since
/// whoever drives it looks at all of it.
#[derive(Default)]
struct User {
    task: AtomicWaker,
    woken: AtomicBool,
}

impl Wake for User {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Relaxed);
        self.task.wake();
    }
}

/// A handle of a shared HTTP/2 connection.
#[derive(Clone)]
pub struct Http2 {
    pub sender: http2::SendRequest<RequestBody>,
    /// Held by every request that is on it.
    pub stream: Rc<()>,
}

pub(super) enum Connected {
    Http1(Box<Http1>),
    Http2(Http2),
}

/// Counts a connection as long as it lives.
pub struct Open(Arc<WorkerCells>);

impl Open {
    fn new(cells: &Arc<WorkerCells>) -> Self {
        cells.upstream_connections.add(1);
        Self(cells.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.upstream_connections_closed.add(1);
    }
}

impl Http1 {
    /// Lets the connection read and write; `Ready` when it is over. Nobody is woken for it until somebody waits.
    pub fn poll_drive(&mut self) -> Poll<()> {
        let Some(connection) = self.connection.as_mut().filter(|_| !self.over) else { return Poll::Ready(()) };
        self.user.task.take();
        self.user.woken.store(false, Ordering::Relaxed);
        // How it ended shows in the answer, or in its body.
        let polled = connection.poll_without_shutdown(&mut Context::from_waker(&self.waker)).map(drop);
        self.over = polled.is_ready();
        polled
    }

    /// Wakes this task when the connection can go on.
    pub fn wait(&self, context: &Context<'_>) {
        self.user.task.register(context.waker());
        // hyper does so much at a time and then asks to be called again.
        if self.user.woken.swap(false, Ordering::Relaxed) {
            context.waker().wake_by_ref();
        }
    }

    /// Nobody waits any more.
    pub fn leave(&self) {
        self.user.task.take();
    }

    /// Closes a connection that is over: a request that it did not take comes back to its sender.
    pub fn close(&mut self) {
        self.connection = None;
    }

    /// Whether the last exchange is complete and another request may be sent.
    pub fn is_ready(&self) -> bool {
        !self.over && self.sender.is_ready()
    }

    /// The socket, and what was read beyond the head of a 101.
    pub fn into_parts(self) -> Option<(UpstreamIo, bytes::Bytes, Open)> {
        let parts = self.connection?.into_parts();
        Some((parts.io.into_inner(), parts.read_buf, self.open))
    }
}

/// Connects within `timeout`.
pub(super) async fn connect(
    endpoint: &Endpoint,
    protocol: Protocol,
    tls: Option<&EndpointTls>,
    timeout: Duration,
    (rounds, cells): (&Rc<Rounds>, &Arc<WorkerCells>),
) -> Result<Connected, ConnectError> {
    let attempt = async {
        let (io, chosen) = dial(endpoint, tls).await?;
        let http2 = if tls.is_some() { chosen } else { protocol == Protocol::H2c };
        if http2 { shake_http2(io, rounds.clone(), cells).await } else { shake_http1(io, cells).await }
    };
    match tokio::time::timeout(timeout, attempt).await {
        Ok(connected) => connected,
        Err(_) => Err(ConnectError::TimedOut(timeout)),
    }
}

/// A socket that is connected, and whether the endpoint chose HTTP/2 on it.
pub(super) async fn dial(endpoint: &Endpoint, tls: Option<&EndpointTls>) -> Result<(UpstreamIo, bool), ConnectError> {
    let stream = TcpStream::connect(endpoint.address).await.map_err(not_connected)?;
    // Heads and bodies leave in whole writes; waiting for more only costs time.
    stream.set_nodelay(true).map_err(ConnectError::Tcp)?;
    let stream = Socket(stream);
    let Some(EndpointTls { config, server_name }) = tls else {
        return Ok((UpstreamIo::new(Stream::Left(stream)), false));
    };
    // Its address is not told; it only names the endpoint's sessions.
    let address = || ServerName::IpAddress(endpoint.address.ip().into());
    let name = server_name.clone().unwrap_or_else(address);
    let stream = TlsConnector::from(config.clone()).connect(name, stream).await.map_err(ConnectError::Tls)?;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    Ok((UpstreamIo::new(Stream::Right(Box::new(stream))), http2))
}

fn not_connected(error: io::Error) -> ConnectError {
    if is_exhausted(&error) { ConnectError::Exhausted(error) } else { ConnectError::Tcp(error) }
}

/// Whether the process or the system has no descriptor or memory left for a socket.
pub fn is_exhausted(error: &io::Error) -> bool {
    let ours = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|errno| ours.contains(&errno))
}

async fn shake_http1(io: UpstreamIo, cells: &Arc<WorkerCells>) -> Result<Connected, ConnectError> {
    let flow = io.flow.clone();
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(BUFFER_BYTES_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .handshake(TokioIo::new(io))
        .await
        .map_err(ConnectError::Http)?;
    let user = Arc::new(User::default());
    let waker = Waker::from(user.clone());
    let connection = Some(connection);
    let http1 = Http1 { sender, connection, over: false, flow, user, waker, open: Open::new(cells) };
    Ok(Connected::Http1(Box::new(http1)))
}

async fn shake_http2(io: UpstreamIo, rounds: Rc<Rounds>, cells: &Arc<WorkerCells>) -> Result<Connected, ConnectError> {
    let (sender, connection) = http2::Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        // No pings: gRPC servers close a connection that sends more than one in five minutes. A dead one is
        // found by the requests' own time limits.
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .handshake(TokioIo::new(Join::new(io, rounds, Meter::new(Side::Endpoint, cells))))
        .await
        .map_err(ConnectError::Http)?;
    let open = Open::new(cells);
    tokio::task::spawn_local(async move {
        // How it ended shows in the requests that were on it.
        let _ = connection.await;
        drop(open);
    });
    Ok(Connected::Http2(Http2 { sender, stream: Rc::new(()) }))
}

/// Runs hyper's tasks on the worker's own thread.
#[derive(Debug, Clone, Copy)]
pub struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        // Handed on as it is: a wrapper would hold, and move, a second copy.
        tokio::task::spawn_local(future);
    }
}
