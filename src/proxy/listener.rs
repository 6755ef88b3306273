//! Listening sockets: each worker has its own for every address, by `SO_REUSEPORT`, so that the kernel spreads
//! connections and no worker waits for another. Accepting never stops the process: when descriptors run out it
//! pauses, while what waits stays in the kernel's queue, and beyond the limit of connections a new one is refused.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use socket2::{Domain, Protocol, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::connection;
use super::guard;
use super::refuse::{self, Refusal};
use super::worker::Worker;
use crate::drain::Phase;
use crate::metrics::Side;
use crate::model::Priority;
use crate::upstream::is_exhausted;

/// Connections that wait to be accepted, per socket; the kernel bounds it by `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What all sockets of an address have in common.
#[derive(Debug, Clone, Copy)]
pub struct Listener {
    pub port: u16,
    pub secure: bool,
    /// Connections begin with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// Its supervisor keeps the socket open, for this process and the one that follows.
    pub kept: bool,
}

/// One worker's socket of a listener.
#[derive(Debug)]
pub struct Socket {
    pub socket: StdListener,
    pub listener: Listener,
}

/// Binds an address once per worker. Port 0 takes a free port, the same for all workers.
pub fn bind(address: SocketAddr, workers: usize) -> io::Result<Vec<StdListener>> {
    let mut address = address;
    let mut listeners = Vec::with_capacity(workers);
    for index in 0..workers {
        // The first socket must find the port free: with SO_REUSEPORT from the start, a second Portunus
        // would silently take half of the first one's connections.
        if index == 0 && address.port() != 0 {
            drop(socket(address, false)?);
        }
        let listener = socket(address, true)?;
        address = listener.local_addr()?;
        listeners.push(listener);
    }
    Ok(listeners)
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<StdListener> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // `[::]` takes IPv4 clients too, whatever the system's default is.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Serves all of a worker's sockets; returns once the process has drained.
pub async fn accept(worker: Rc<Worker>, sockets: Vec<Socket>) {
    let mut accepting = JoinSet::new();
    for Socket { socket, listener } in sockets {
        let socket = TcpListener::from_std(socket).expect("the socket is non-blocking and the runtime runs");
        accepting.spawn_local(accept_one(worker.clone(), socket, listener));
    }
    accepting.join_all().await;
    worker.drain.reached(Phase::Stopping).await;
}

async fn accept_one(worker: Rc<Worker>, socket: TcpListener, listener: Listener) {
    // While draining, a client that still comes here is served, unless somebody else has the socket too.
    let mut ending = pin!(worker.drain.ends_accepting(listener.kept));
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = &mut ending => return,
        };
        // A panic ends a connection, and never the accepting.
        let pauses = guard::contain(|| match accepted {
            Ok((stream, client)) => {
                admit(&worker, stream, client, listener);
                false
            }
            Err(error) => is_bad(&worker, &error),
        });
        if pauses == Some(true) {
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

/// Whether an accept failed for a reason that may stay for a while.
fn is_bad(worker: &Worker, error: &io::Error) -> bool {
    if is_of_one_connection(error) {
        return false;
    }
    if is_exhausted(error) {
        worker.note_exhausted(Side::Client, error);
    } else {
        tracing::warn!(%error, "accept failed, pausing");
    }
    true
}

/// The client went away between its handshake and our accept.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

fn admit(worker: &Rc<Worker>, stream: TcpStream, client: SocketAddr, listener: Listener) {
    let secure = listener.secure;
    let (open, before) = Open::count(worker, secure);
    #[cfg(debug_assertions)]
    guard::panic_if_told_for(worker.settings.panic_for, client);
    let refusal = if before >= worker.settings.connections_max {
        Some(Refusal::Total)
    } else {
        // A request in cleartext can be told; a handshake costs more than many a request.
        let sheds = secure && worker.pressure.get().sheds(Priority::Normal, fastrand::u32(..));
        sheds.then_some(Refusal::Overload)
    };
    if let Some(refusal) = refusal {
        drop(open);
        // Whoever has a header in front of its request can't be read here.
        let (worker, silent) = (worker.clone(), secure || listener.proxy_protocol);
        tokio::task::spawn_local(async move { refuse::tell(&worker, stream, silent, refusal).await });
        return;
    }
    // Answers leave at once; hyper already joins what belongs together.
    let _ = stream.set_nodelay(true);
    tokio::task::spawn_local(async move { connection::serve(&open.worker, stream, client, listener).await });
}

/// Counts a connection as long as it lives, however it ends.
struct Open {
    worker: Rc<Worker>,
    kind: usize,
}

impl Open {
    /// One more; and how many there were.
    fn count(worker: &Rc<Worker>, secure: bool) -> (Self, usize) {
        let kind = usize::from(secure);
        worker.cells.accepted[kind].add(1);
        let before = worker.drain.connections.open();
        (Self { worker: worker.clone(), kind }, before)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.worker.cells.closed[self.kind].add(1);
        self.worker.drain.connections.close();
    }
}
