//! The socket of an upstream connection, and how much of its endpoint's bytes may lie in memory: what is read at once
//! depends on who waits for it, and no more of a request is taken from its client than the endpoint takes.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, Take};
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use super::{Socket, Stream, keep_alive};

/// Most that is read of an HTTP/1.1 endpoint for the head of one answer, with all 1xx answers before it, in bytes. More
/// than hyper reads at once, as the beginning of the body may come with the head.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// How much is read at once. hyper doubles a buffer that was filled: a byte less than a power of two keeps it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// For a client that may have a hundred answers under way, and leave all of them.
    Small,
    Medium,
    /// For few at a time.
    Large,
}

impl Reads {
    pub const fn bytes(self) -> usize {
        match self {
            Self::Small => 32 * 1024 - 1,
            Self::Medium => 64 * 1024 - 1,
            Self::Large => 256 * 1024,
        }
    }
}

/// What bounds the bytes of a connection; shared by its socket and whoever uses it.
#[derive(Debug)]
pub struct Flow {
    reads: Cell<Reads>,
    /// A read got all that it might.
    filled: Cell<bool>,
    /// What may still be read before the head of an answer is there; `None` while none is waited for.
    head_bytes_left: Cell<Option<usize>>,
    /// The endpoint does not take what it was sent.
    blocked: Cell<bool>,
    /// A request's body waits for it to do so.
    held: Cell<bool>,
}

impl Flow {
    /// For the next request: until there is an answer's head, the connection may read so much and no more.
    pub fn begin(&self, reads: Reads) {
        self.read(reads);
        self.head_bytes_left.set(Some(ANSWER_BYTES_MAX));
    }

    pub fn has_head(&self) {
        self.head_bytes_left.set(None);
    }

    /// Whether the endpoint sent more than an answer's head may have, as by 1xx answers without an end.
    pub fn is_flooded(&self) -> bool {
        self.head_bytes_left.get() == Some(0)
    }

    pub fn read(&self, reads: Reads) {
        self.reads.set(reads);
        self.filled.set(false);
    }

    /// Whether the endpoint has more than fits into reads of this size.
    pub fn overfills(&self, reads: Reads) -> bool {
        self.filled.get() && self.reads.get() == reads
    }

    /// Whether a request's body is to wait: its task is woken when the endpoint has taken something.
    pub fn holds(&self) -> bool {
        self.held.set(self.blocked.get());
        self.blocked.get()
    }

    fn wrote(&self, polled: &Poll<io::Result<usize>>, context: &Context<'_>) {
        self.blocked.set(polled.is_pending());
        if polled.is_ready() && self.held.take() {
            context.waker().wake_by_ref();
        }
    }
}

#[derive(Debug)]
pub struct UpstreamIo {
    stream: Take<Stream<TlsStream<Socket>>>,
    pub(super) flow: Rc<Flow>,
}

impl UpstreamIo {
    pub(super) fn new(stream: Stream<TlsStream<Socket>>) -> Self {
        let flow = Flow {
            reads: Cell::new(Reads::Medium),
            filled: Cell::new(false),
            head_bytes_left: Cell::new(None),
            blocked: Cell::new(false),
            held: Cell::new(false),
        };
        Self { stream: stream.take(0), flow: Rc::new(flow) }
    }

    /// For a connection that may be silent for long.
    pub fn keep_alive(&self) -> io::Result<()> {
        keep_alive(match self.stream.get_ref() {
            Either::Left(Socket(socket)) => socket,
            Either::Right(tls) => &tls.get_ref().0.0,
        })
    }
}

impl AsyncRead for UpstreamIo {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, flow } = self.get_mut();
        let before = buffer.filled().len();
        stream.set_limit(flow.reads.get().bytes() as u64);
        let polled = Pin::new(&mut *stream).poll_read(context, buffer);
        if stream.limit() == 0 {
            flow.filled.set(true);
        }
        if let Some(left) = flow.head_bytes_left.get() {
            let left = left.saturating_sub(buffer.filled().len() - before);
            flow.head_bytes_left.set(Some(left));
            if left == 0 {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "the answer's head has no end")));
            }
        }
        polled
    }
}

impl AsyncWrite for UpstreamIo {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self { stream, flow } = self.get_mut();
        let polled = Pin::new(stream.get_mut()).poll_write(context, bytes);
        flow.wrote(&polled, context);
        polled
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { stream, flow } = self.get_mut();
        let polled = Pin::new(stream.get_mut()).poll_write_vectored(context, parts);
        flow.wrote(&polled, context);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.get_ref().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().stream.get_mut()).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().stream.get_mut()).poll_shutdown(context)
    }
}
