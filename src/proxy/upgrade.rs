//! What follows a 101: bytes in both directions until one side is done, nothing moves for too long, or the
//! drain's time is up. Then a WebSocket's client is told to go elsewhere by a close frame (1001; RFC 6455, 7.4.1),
//! as soon as the frame is over that is on its way to it. A tunnel holds no table; changes of the configuration
//! never touch it.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, copy_bidirectional_with_sizes};

use super::connection::{Connection, linger};
use super::exchange::Exchange;
use super::frames::Frames;
use super::io::ClientIo;
use crate::drain::Phase;
use crate::upstream::{Open, UpstreamIo};

/// Buffer for each direction, in bytes.
const BUFFER_BYTES: usize = 8 * 1024;
/// A close frame with the status 1001, "going away".
const GOING_AWAY: [u8; 4] = [0x88, 2, 0x03, 0xe9];

/// A tunnel that begins when the client has the 101.
pub struct Pending {
    pub io: UpstreamIo,
    /// What the endpoint sent right behind its 101.
    pub read: Bytes,
    pub exchange: Box<Exchange>,
    pub websocket: bool,
    /// Counts the connection to the endpoint.
    pub _open: Open,
}

/// How a tunnel ends.
enum End {
    Over(io::Result<(u64, u64)>),
    Idle,
    /// The process goes, and no frame is under way to the client.
    Leaving,
}

/// Runs the tunnel that waits in the connection to its end.
pub async fn run(connection: &Connection, mut client: ClientIo) {
    let Some(tunnel) = connection.tunnel.take() else { return };
    let Pending { io: mut upstream, read, mut exchange, websocket, _open } = tunnel;
    let worker = &connection.worker;
    worker.cells.tunnels_opened.add(1);
    // The client's socket has it from the one that it was accepted from. Without it there is the time limit.
    let _ = upstream.keep_alive();
    let timer = worker.clock.timer();
    let timeout = exchange.tunnel_idle_timeout();
    timer.set(timeout);
    let begun = connection.activity.bytes();
    let mut seen = begun;
    let sent = Sent::default();
    let end = {
        let mut client = Outward { client: &mut client, sent: websocket.then_some(&sent) };
        let mut copying = pin!(copy(&mut client, &mut upstream, &read));
        poll_fn(|context| {
            timer.register(context);
            // The worker wakes all at the drain's end.
            if websocket && worker.drain.phase() >= Phase::Closing {
                sent.stops.set(true);
            }
            let copied = copying.as_mut().poll(context);
            if copied.is_pending() && sent.stops.get() && sent.frames.get().is_between() {
                return Poll::Ready(End::Leaving);
            }
            if copied.is_pending() && timer.has_passed() {
                let moved = connection.activity.bytes();
                if seen == moved {
                    return Poll::Ready(End::Idle);
                }
                seen = moved;
                timer.set(timeout);
            }
            copied.map(End::Over)
        })
        .await
    };
    worker.cells.tunnels_closed.add(1);
    let ended = connection.activity.bytes();
    exchange.request_bytes += ended.0 - begun.0;
    exchange.response_bytes += ended.1 - begun.1;
    match end {
        End::Over(Ok(_)) => exchange.complete = true,
        End::Over(Err(_)) => exchange.reason = Some("tunnel_broken"),
        End::Idle => exchange.reason = Some("tunnel_idle"),
        End::Leaving => {
            exchange.reason = Some("tunnel_drained");
            drop((exchange, upstream));
            // An endpoint that has closed already has said why.
            if sent.frames.get().is_closed() || client.write_all(&GOING_AWAY).await.is_ok() {
                linger(client).await;
            }
        }
    }
}

async fn copy(client: &mut Outward<'_>, upstream: &mut UpstreamIo, read: &[u8]) -> io::Result<(u64, u64)> {
    client.write_all(read).await?;
    client.flush().await?;
    copy_bidirectional_with_sizes(client, upstream, BUFFER_BYTES, BUFFER_BYTES).await
}

/// What a WebSocket's client was sent.
#[derive(Debug, Default)]
struct Sent {
    frames: Cell<Frames>,
    /// No further frame is begun.
    stops: Cell<bool>,
}

/// The client's side of a tunnel, which knows where frames end that it is sent.
struct Outward<'c> {
    client: &'c mut ClientIo,
    /// Of a WebSocket; other protocols have no frames that we know.
    sent: Option<&'c Sent>,
}

impl AsyncRead for Outward<'_> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().client).poll_read(context, buffer)
    }
}

impl AsyncWrite for Outward<'_> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let client = Pin::new(&mut *this.client);
        let Some(sent) = this.sent else { return client.poll_write(context, bytes) };
        let mut frames = sent.frames.get();
        let bytes = if sent.stops.get() { &bytes[..frames.rest(bytes)] } else { bytes };
        if bytes.is_empty() {
            // Whoever drives the tunnel sees that it stands between two frames.
            return Poll::Pending;
        }
        let polled = client.poll_write(context, bytes);
        if let Poll::Ready(Ok(count)) = polled {
            frames.pass(&bytes[..count]);
            sent.frames.set(frames);
        }
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().client).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().client).poll_shutdown(context)
    }
}
