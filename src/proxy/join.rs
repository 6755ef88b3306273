//! Joins the writes of an HTTP/2 connection. Bare hyper sends each answer as it is ready; here, answers that are
//! ready in the same turns of the event loop leave in one write and one TLS record. A flush waits for the next
//! turn, which under light load comes at once, and a few times at the most.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::io::ClientIo;

/// Bytes that are joined: the largest TLS record.
const BUFFER_BYTES: usize = 16 * 1024;
/// Turns of the event loop that a flush waits for more.
const TURNS: u8 = 2;

#[derive(Debug)]
pub struct Join {
    io: ClientIo,
    buffer: BytesMut,
    waited: u8,
}

impl Join {
    pub fn new(io: ClientIo) -> Self {
        Self { io, buffer: BytesMut::new(), waited: 0 }
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
        self.waited = 0;
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Join {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(context, buffer)
    }
}

impl AsyncWrite for Join {
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
        if !this.buffer.is_empty() && this.waited < TURNS {
            this.waited += 1;
            // Wakes this task after the runtime has looked at its sockets again.
            let _ = pin!(tokio::task::yield_now()).poll(context);
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
