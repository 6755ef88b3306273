//! What follows a 101: bytes in both directions until one side is done, nothing moves for too long, or the
//! drain's time is up. A tunnel holds no table; changes of the configuration never touch it.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;

use bytes::Bytes;
use tokio::io::{AsyncWriteExt, copy_bidirectional_with_sizes};

use super::body::Exchange;
use super::connection::Connection;
use super::io::ClientIo;
use crate::upstream::{Open, UpstreamIo};

/// Buffer for each direction, in bytes.
const BUFFER_BYTES: usize = 8 * 1024;

/// A tunnel that begins when the client has the 101.
pub struct Pending {
    pub io: UpstreamIo,
    /// What the endpoint sent right behind its 101.
    pub read: Bytes,
    pub exchange: Box<Exchange>,
    /// Counts the connection to the endpoint.
    pub _open: Open,
}

/// Runs the tunnel that waits in the connection to its end.
pub async fn run(connection: &Connection, mut client: ClientIo) {
    let Some(tunnel) = connection.tunnel.take() else { return };
    let Pending { io: mut upstream, read, mut exchange, _open } = tunnel;
    let worker = &connection.worker;
    worker.cells.tunnels_opened.add(1);
    let timer = worker.clock.timer();
    let timeout = exchange.tunnel_idle_timeout();
    timer.set(timeout);
    let begun = connection.activity.bytes();
    let mut seen = begun;
    let result = {
        let mut copying = pin!(copy(&mut client, &mut upstream, &read));
        poll_fn(|context| {
            timer.register(context);
            let copied = copying.as_mut().poll(context);
            if copied.is_pending() && timer.has_passed() {
                let moved = connection.activity.bytes();
                if seen == moved {
                    return Poll::Ready(None);
                }
                seen = moved;
                timer.set(timeout);
            }
            copied.map(Some)
        })
        .await
    };
    worker.cells.tunnels_closed.add(1);
    let ended = connection.activity.bytes();
    exchange.request_bytes += ended.0 - begun.0;
    exchange.response_bytes += ended.1 - begun.1;
    match result {
        Some(Ok(_)) => exchange.complete = true,
        Some(Err(_)) => exchange.reason = Some("tunnel_broken"),
        None => exchange.reason = Some("tunnel_idle"),
    }
}

async fn copy(client: &mut ClientIo, upstream: &mut UpstreamIo, read: &[u8]) -> io::Result<(u64, u64)> {
    client.write_all(read).await?;
    client.flush().await?;
    copy_bidirectional_with_sizes(client, upstream, BUFFER_BYTES, BUFFER_BYTES).await
}
