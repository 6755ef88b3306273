//! The client's socket, plain or TLS, with the bytes that were read to tell its protocol put back in front. It
//! tells the connection when bytes move, which is all that timeouts need to know.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, Take};
use tokio_rustls::server::TlsStream;

use super::activity::Activity;
use crate::upstream::{Socket, Stream};

#[derive(Debug)]
pub struct ClientIo {
    stream: Take<Stream<TlsStream<Socket>>>,
    /// Read before, and still to be delivered.
    prefix: Bytes,
    activity: Rc<Activity>,
}

impl ClientIo {
    pub fn new(stream: Stream<TlsStream<Socket>>, activity: Rc<Activity>) -> Self {
        Self { stream: stream.take(0), prefix: Bytes::new(), activity }
    }

    pub fn has_put_back(&self) -> bool {
        !self.prefix.is_empty()
    }

    /// Puts bytes back in front of what is still to be read.
    pub fn put_back(&mut self, bytes: Bytes) {
        debug_assert!(self.prefix.is_empty() || bytes.is_empty(), "bytes would be read out of order");
        if !bytes.is_empty() {
            self.prefix = bytes;
        }
    }

    fn wrote(&self, polled: &Poll<io::Result<usize>>) {
        match polled {
            Poll::Ready(result) => self.activity.wrote(*result.as_ref().unwrap_or(&0)),
            Poll::Pending => self.activity.write_blocked(),
        }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.prefix.is_empty() {
            let count = this.prefix.len().min(buffer.remaining());
            buffer.put_slice(&this.prefix[..count]);
            this.prefix.advance(count);
            if this.prefix.is_empty() {
                // It would hold its memory as long as the connection lives.
                this.prefix = Bytes::new();
            }
            this.activity.read(count);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        this.stream.set_limit(this.activity.reads.get().bytes() as u64);
        let polled = Pin::new(&mut this.stream).poll_read(context, buffer);
        if polled.is_ready() {
            this.activity.read(buffer.filled().len() - before);
        }
        polled
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(this.stream.get_mut()).poll_write(context, bytes);
        this.wrote(&polled);
        polled
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(this.stream.get_mut()).poll_write_vectored(context, slices);
        this.wrote(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.get_ref().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(this.stream.get_mut()).poll_flush(context);
        // Over TLS it is the flush that finds the socket full, and that finds it open again.
        match polled {
            Poll::Pending => this.activity.write_blocked(),
            Poll::Ready(_) => this.activity.wrote(0),
        }
        polled
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.activity.stays_open.get() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(this.stream.get_mut()).poll_shutdown(context)
    }
}
