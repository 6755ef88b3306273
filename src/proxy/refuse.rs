//! What a connection beyond a limit is told: where HTTP is spoken in cleartext, 503 with `Retry-After`, so that its
//! client knows that it may come back; over TLS, whose handshake would be the greater part of the work, nothing. Few
//! are told at once, and each within a second; the others are closed.

use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::worker::Worker;

/// Connections of a worker that are told at once.
const TOLD_MAX: u32 = 64;
/// From the connection's beginning until it is closed.
const TIME: Duration = Duration::from_secs(1);
/// What an HTTP/2 client begins with, who could not read the answer.
const HTTP2: &[u8] = b"PRI * HTTP/2.0";

const ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    retry-after: 1\r\n\
    connection: close\r\n\
    cache-control: no-store\r\n\
    content-type: text/plain; charset=utf-8\r\n\
    content-length: 46\r\n\
    \r\n\
    503 Service Unavailable: too many connections\n";

/// Why a connection is refused: an index of [`crate::metrics::WorkerCells::refused`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There are as many as `--max-connections`.
    Total,
    /// Its client has as many as `--max-connections-per-client`.
    Client,
    /// The worker is behind, and a handshake is work.
    Overload,
}

/// Counts and ends a connection; `silent` is whether an answer would not be understood there.
pub async fn tell(worker: &Rc<Worker>, stream: TcpStream, silent: bool, refusal: Refusal) {
    worker.cells.refused[refusal as usize].add(1);
    let told = &worker.told;
    if silent || told.get() >= TOLD_MAX {
        return;
    }
    told.set(told.get() + 1);
    let _ = tokio::time::timeout(TIME, Box::pin(answer(stream))).await;
    told.set(told.get() - 1);
}

/// Answers the first request, and reads on until the client has closed: closing first could reset the connection,
/// and the answer would be lost (RFC 9112, 9.6).
async fn answer(mut stream: TcpStream) -> Option<()> {
    let mut bytes = [0; 2048];
    let count = stream.read(&mut bytes).await.ok()?;
    if count == 0 || bytes[..count].starts_with(HTTP2) {
        return None;
    }
    stream.write_all(ANSWER).await.ok()?;
    stream.shutdown().await.ok()?;
    while stream.read(&mut bytes).await.ok()? > 0 {}
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_as_long_as_it_says() {
        let text = std::str::from_utf8(ANSWER).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("content-length: {}", body.len())), "{}", body.len());
    }
}
