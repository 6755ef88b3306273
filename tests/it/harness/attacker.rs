//! Attackers that come back as soon as they are cut off, over HTTP/2 in cleartext and over TLS, and the endpoint that
//! they ask. Each is one thread, however many connections it makes: where hundreds of threads end on an honest client's
//! core, what comes over loopback waits there for the kernel, and it looks as if it waited for Portunus. What an attack
//! sends is made once, as any attacker would, and leaves in small pieces: all that loopback does with a piece, up to
//! the other side's queue, it does within the write, and no honest client has that core meanwhile.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio_rustls::TlsConnector;

use super::fair;
use super::h2_raw::{PREFACE, SETTINGS, frame};
use super::tls::Client;

/// What is written, or read, by one system call at the most, so that it is soon over.
pub const PIECE_BYTES: usize = 16 << 10;
/// What a connection sends at the most: several times as much as any of them is cut off after.
const SCRIPT_BYTES: usize = 1 << 20;

pub struct Attacker {
    address: SocketAddr,
    tls: Option<TlsConnector>,
    script: Vec<u8>,
    /// What it writes at once.
    piece_bytes: usize,
}

impl Attacker {
    /// Sends what `round` makes of 0, 1, 2 …
    pub fn in_cleartext(address: SocketAddr, round: impl Fn(usize) -> Vec<u8>) -> Self {
        let mut script = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
        let mut rounds = (0..).map(round);
        while script.len() < SCRIPT_BYTES {
            script.extend(rounds.next().expect("no end"));
        }
        Self { address, tls: None, script, piece_bytes: PIECE_BYTES }
    }

    /// Likewise, with a whole handshake for each connection.
    pub fn over_tls(address: SocketAddr, round: impl Fn(usize) -> Vec<u8>) -> Self {
        let mut client = Client::new().alpn(&["h2"]);
        Arc::make_mut(&mut client.config).resumption = Resumption::disabled();
        Self { tls: Some(client.config.into()), ..Self::in_cleartext(address, round) }
    }

    /// Writes no more than this at once.
    pub fn by_pieces(self, piece_bytes: usize) -> Self {
        Self { piece_bytes: piece_bytes.min(PIECE_BYTES), ..self }
    }

    /// Attacks until it is over, on a new connection whenever one ends, and counts those that were cut off.
    pub fn come_back(&self, over: &AtomicBool, cut_off: &AtomicUsize) {
        fair::stand_behind_all();
        let again_and_again = async {
            loop {
                if self.attack().await.is_ok() {
                    cut_off.fetch_add(1, Ordering::SeqCst);
                }
                // Where it isn't let in, there may be nothing else to wait for.
                yield_now().await;
            }
        };
        let ends = async {
            while !over.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        on_this_thread(async {
            tokio::select! {
                () = again_and_again => {}
                () = ends => {}
            }
        });
    }

    /// Goes on until the other side ends the connection; an error if that was not let in.
    async fn attack(&self) -> io::Result<()> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else {
            self.flood(stream).await;
            return Ok(());
        };
        let name = ServerName::try_from("attack.test").expect("a name");
        let mut stream = tls.connect(name, stream).await?;
        stream.get_mut().1.set_buffer_limit(Some(PIECE_BYTES));
        self.flood(stream).await;
        Ok(())
    }

    async fn flood(&self, stream: impl AsyncRead + AsyncWrite) {
        let (mut reader, mut writer) = split(stream);
        let send = async {
            for piece in self.script.chunks(self.piece_bytes) {
                if writer.write_all(piece).await.is_err() {
                    return;
                }
            }
            let _ = writer.flush().await;
            pending::<()>().await;
        };
        tokio::select! {
            () = send => {}
            () = discard(&mut reader) => {}
        }
    }
}

/// Reads to the end of the connection, be it a good one or not.
async fn discard(stream: &mut (impl AsyncRead + Unpin)) {
    let mut piece = vec![0; PIECE_BYTES];
    while matches!(stream.read(&mut piece).await, Ok(1..)) {}
}

/// An endpoint that reads what it is sent and says nothing, by one thread for all connections; it ends with this value.
pub struct Mute {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Mute {
    pub fn new() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        listener.set_nonblocking(true).expect("nonblocking");
        let address = listener.local_addr().expect("address");
        let (stop, stopped) = oneshot::channel();
        let connections = Arc::default();
        let count = Arc::clone(&connections);
        let thread = std::thread::spawn(move || {
            on_this_thread(async {
                tokio::select! {
                    () = accept(listener, &count) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address, connections, stop: Some(stop), thread: Some(thread) }
    }

    /// How many there were.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Mute {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

async fn accept(listener: std::net::TcpListener, count: &AtomicUsize) {
    let listener = TcpListener::from_std(listener).expect("listener");
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { continue };
        count.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move { discard(&mut stream).await });
    }
}

fn on_this_thread(run: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("runtime").block_on(run);
}
