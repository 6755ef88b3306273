//! Joins the writes of an HTTP/2 connection, of either side. Bare hyper sends each answer, and each request, as it is
//! ready; here, those that are ready within a few rounds of the event loop leave in one write and one TLS record. Under
//! light load a round comes at once, and a request that has the connection for itself never waits.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are joined: the largest TLS record.
const BUFFER_BYTES: usize = 16 * 1024;
/// Rounds of the event loop that a flush waits for more.
const ROUNDS: u64 = 4;
static TT: std::sync::OnceLock<u64> = std::sync::OnceLock::new();

/// A worker's rounds of the event loop, counted as long as somebody waits for them: by one task for all connections,
/// since an HTTP/2 connection that is asked whether it can go on takes longer than a round.
#[derive(Default)]
pub struct Rounds {
    now: Cell<u64>,
    /// Until when, and who; soonest first.
    waiting: RefCell<VecDeque<(u64, Waker)>>,
    /// Of the counting task, while it sleeps.
    counter: Cell<Option<Waker>>,
}

impl Rounds {
    /// Counts, and wakes whose round has come.
    pub async fn count(&self) {
        poll_fn(|context| {
            self.now.set(self.now.get() + 1);
            let mut waiting = self.waiting.borrow_mut();
            while let Some((_, waker)) = waiting.pop_front_if(|(until, _)| *until <= self.now.get()) {
                waker.wake();
            }
            if waiting.is_empty() {
                self.counter.set(Some(context.waker().clone()));
            } else {
                // Wakes this task after the runtime has looked at its sockets again.
                let _ = pin!(tokio::task::yield_now()).poll(context);
            }
            Poll::Pending
        })
        .await
    }

    /// Wakes this task after so many rounds, and says which that is.
    fn wait(&self, rounds: u64, context: &Context<'_>) -> u64 {
        let until = self.now.get() + rounds;
        self.waiting.borrow_mut().push_back((until, context.waker().clone()));
        if let Some(counter) = self.counter.take() {
            counter.wake();
        }
        until
    }
}

pub struct Join<T, F> {
    io: T,
    buffer: BytesMut,
    rounds: Rc<Rounds>,
    /// Whether several requests are under way, so that there may be more to write soon.
    is_shared: F,
    /// The round that a flush waits for.
    until: Option<u64>,
}

impl<T: AsyncWrite + Unpin, F: Fn() -> bool> Join<T, F> {
    pub fn new(io: T, rounds: Rc<Rounds>, is_shared: F) -> Self {
        Self { io, buffer: BytesMut::new(), rounds, is_shared, until: None }
    }

    /// Whether a flush goes through now; if not, this task is woken when it does.
    fn may_flush(&mut self, context: &Context<'_>) -> bool {
        if self.buffer.is_empty() || !(self.is_shared)() {
            return true;
        }
        let rounds = &self.rounds;
        let tt = *TT.get_or_init(|| std::env::var("PX_ROUNDS").ok().and_then(|v| v.parse().ok()).unwrap_or(ROUNDS));
        *self.until.get_or_insert_with(|| rounds.wait(tt, context)) <= rounds.now.get()
    }

    /// Writes what was joined.
    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.buffer.is_empty() {
            let count = ready!(Pin::new(&mut self.io).poll_write(context, &self.buffer))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.buffer.advance(count);
        }
        self.until = None;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin, F: Unpin> AsyncRead for Join<T, F> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin, F: Fn() -> bool + Unpin> AsyncWrite for Join<T, F> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.buffer.len() + bytes.len() > BUFFER_BYTES {
            ready!(this.poll_drain(context))?;
        }
        if bytes.len() >= BUFFER_BYTES {
            return Pin::new(&mut this.io).poll_write(context, bytes);
        }
        this.buffer.reserve(bytes.len());
        this.buffer.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.may_flush(context) {
            return Poll::Pending;
        }
        ready!(this.poll_drain(context))?;
        Pin::new(&mut this.io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(context))?;
        Pin::new(&mut this.io).poll_shutdown(context)
    }
}
