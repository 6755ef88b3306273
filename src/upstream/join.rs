//! Joins the writes of an HTTP/2 connection, of either side. Bare hyper sends each answer, and each request, as it is
//! ready; here, those that are ready within a few rounds of the event loop leave in one write and one TLS record. Under
//! light load a round comes at once, and a connection on which there is nothing to join stops waiting for it. All that
//! passes is metered: a peer that floods is told so, and its connection ends.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::meter::Meter;

/// Bytes that are joined: the largest TLS record.
const BUFFER_BYTES: usize = 16 * 1024;
/// Rounds of the event loop that a flush waits for more.
const ROUNDS: u64 = 4;
/// Waits in vain until there are none for a while, and flushes without one until the next is tried.
const PATIENCE: u8 = 8;
const AT_ONCE: u8 = 16;

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
            Poll::<()>::Pending
        })
        .await;
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

pub struct Join<T> {
    io: T,
    buffer: BytesMut,
    meter: Meter,
    rounds: Rc<Rounds>,
    /// The round that a flush waits for, and what there was to write when it began to.
    until: Option<(u64, usize)>,
    /// In vain so often, waits are left out for a while.
    patience: u8,
    /// Flushes that go through at once.
    at_once: u8,
}

impl<T: AsyncWrite + Unpin> Join<T> {
    pub fn new(io: T, rounds: Rc<Rounds>, meter: Meter) -> Self {
        Self { io, buffer: BytesMut::new(), meter, rounds, until: None, patience: 1, at_once: 0 }
    }

    /// Whether what is here leaves now; if not, this task is woken when it does.
    fn may_flush(&mut self, context: &Context<'_>) -> bool {
        let Some((until, before)) = self.until else {
            if self.buffer.is_empty() {
                return true;
            }
            if self.at_once > 0 {
                self.at_once -= 1;
                return true;
            }
            self.until = Some((self.rounds.wait(ROUNDS, context), self.buffer.len()));
            return false;
        };
        if until > self.rounds.now.get() {
            return false;
        }
        self.has_waited(self.buffer.len() > before);
        true
    }

    /// Notes whether there was anything to join.
    fn has_waited(&mut self, joined: bool) {
        if joined {
            self.patience = PATIENCE;
        } else if self.patience > 1 {
            self.patience -= 1;
        } else {
            self.at_once = AT_ONCE;
        }
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

    /// Tells a peer that flooded, if it can be told at once.
    fn say_why(&mut self, context: &mut Context<'_>) {
        if let Some(frame) = self.meter.go_away() {
            self.buffer.extend_from_slice(&frame);
            let _ = self.poll_drain(context);
            let _ = Pin::new(&mut self.io).poll_flush(context);
        }
    }
}

impl<T: AsyncRead + Unpin> Join<T> {
    /// Reads what there is, or as much of it as the peer may be served at once.
    fn poll_read_some(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (room, bytes_max) = (buffer.remaining(), self.meter.read_bytes_max());
        if room <= bytes_max {
            return Pin::new(&mut self.io).poll_read(context, buffer);
        }
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(bytes_max));
        ready!(Pin::new(&mut self.io).poll_read(context, &mut part))?;
        let count = part.filled().len();
        buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Join<T> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.meter.is_others_turn() {
            // Woken at once, it would have turn after turn until the runtime looks at its sockets again, where others
            // wait: 31 tasks later. So it is woken behind that.
            let _ = pin!(tokio::task::yield_now()).poll(context);
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(this.poll_read_some(context, buffer))?;
        let metered = this.meter.received(&buffer.filled()[before..]);
        if metered.is_err() {
            this.say_why(context);
        }
        Poll::Ready(metered)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Join<T> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.buffer.len() + bytes.len() > BUFFER_BYTES {
            ready!(this.poll_drain(context))?;
        }
        if bytes.len() >= BUFFER_BYTES {
            let count = ready!(Pin::new(&mut this.io).poll_write(context, bytes))?;
            this.meter.sent(&bytes[..count]);
            return Poll::Ready(Ok(count));
        }
        this.meter.sent(bytes);
        this.buffer.reserve(bytes.len());
        this.buffer.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.may_flush(context) {
            // h2 would take no further frame before this one has left; whoever drives it comes back in that round.
            return Poll::Ready(Ok(()));
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;
    use tokio::runtime::{Builder, LocalOptions};
    use tokio::task::{spawn_local, yield_now};

    use super::*;
    use crate::metrics::Side;

    /// The sizes of the writes that reach it.
    #[derive(Clone, Default)]
    struct Sink(Rc<RefCell<Vec<usize>>>);

    impl AsyncWrite for Sink {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.0.borrow_mut().push(bytes.len());
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Runs a test beside a task that counts rounds.
    fn run<F: Future<Output = ()> + 'static>(test: impl FnOnce(Join<Sink>, Sink) -> F) {
        let runtime = Builder::new_current_thread().enable_io().build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async {
            let (rounds, sink) = (Rc::new(Rounds::default()), Sink::default());
            let join = Join::new(sink.clone(), rounds.clone(), Meter::new(Side::Client, &Arc::default()));
            spawn_local(async move { rounds.count().await });
            spawn_local(test(join, sink)).await.unwrap();
        });
    }

    async fn send(join: &mut Join<Sink>, bytes: usize) {
        join.write_all(&vec![0; bytes]).await.unwrap();
        join.flush().await.unwrap();
    }

    /// Lets rounds go by, in each of which the connection is asked to go on.
    async fn wait(join: &mut Join<Sink>, rounds: u64) {
        for _ in 0..rounds {
            yield_now().await;
            join.flush().await.unwrap();
        }
    }

    #[test]
    fn what_comes_within_a_few_rounds_leaves_together() {
        run(|mut join, sink| async move {
            for bytes in [10, 20, 30] {
                send(&mut join, bytes).await;
                yield_now().await;
            }
            assert!(sink.0.borrow().is_empty());
            wait(&mut join, 2 * ROUNDS).await;
            assert_eq!(*sink.0.borrow(), [60]);
            // What fills a record does not wait.
            send(&mut join, BUFFER_BYTES - 1).await;
            send(&mut join, 2).await;
            assert_eq!(*sink.0.borrow(), [60, BUFFER_BYTES - 1]);
            join.shutdown().await.unwrap();
            assert_eq!(*sink.0.borrow(), [60, BUFFER_BYTES - 1, 2]);
        });
    }

    #[test]
    fn a_connection_with_nothing_to_join_stops_waiting() {
        run(|mut join, sink| async move {
            send(&mut join, 1).await;
            wait(&mut join, 2 * ROUNDS).await;
            for sent in 0..AT_ONCE {
                send(&mut join, 1).await;
                assert_eq!(sink.0.borrow().len(), usize::from(sent) + 2, "it leaves at once");
            }
            // Once in a while it tries again.
            send(&mut join, 1).await;
            send(&mut join, 1).await;
            wait(&mut join, 2 * ROUNDS).await;
            assert_eq!(sink.0.borrow().last(), Some(&2));
        });
    }

    /// Sends small frames of content as fast as they are read.
    struct Flood;

    impl AsyncRead for Flood {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            let frame = [0, 0, 1, 0, 0, 0, 0, 0, 1, b'x'];
            let count = buffer.remaining() / frame.len();
            buffer.put_slice(&frame.repeat(count));
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Flood {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn who_sends_much_has_one_turn_and_then_those_whose_sockets_are_ready() {
        let runtime = Builder::new_current_thread().enable_io().build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async {
            let (client, mut server) = std::os::unix::net::UnixStream::pair().unwrap();
            client.set_nonblocking(true).unwrap();
            let mut client = UnixStream::from_std(client).unwrap();
            let mut join = Join::new(Flood, Rc::default(), Meter::new(Side::Endpoint, &Arc::default()));
            let turns = Rc::new(Cell::new(0));
            let taken = turns.clone();
            spawn_local(async move {
                let mut buffer = vec![0; 8192];
                loop {
                    join.read_exact(&mut buffer[..8190]).await.unwrap();
                    taken.set(taken.get() + 1);
                    if taken.get() == 1 {
                        io::Write::write_all(&mut server, b"x").unwrap();
                    }
                }
            });
            client.read_u8().await.unwrap();
            assert!(turns.get() < 4, "{} turns", turns.get());
        });
    }
}
