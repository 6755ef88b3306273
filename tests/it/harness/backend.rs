//! A backend that records every byte it gets. What it does is a closure that gets each request's
//! head and then reads, writes, waits, closes or resets as the test needs it: real sockets, one
//! thread for each connection.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::eventually;
use super::exchange::Exchange;
use super::wire::{Body, Head, Wire};

/// A request as it reached the backend.
#[derive(Clone, Debug)]
pub struct Received {
    pub head: Head,
    /// None until it was read.
    pub body: Option<Body>,
}

impl Received {
    pub fn target(&self) -> &str {
        self.head.word(1)
    }

    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.get(name)
    }

    #[track_caller]
    pub fn body(&self) -> &[u8] {
        &self.body.as_ref().expect("a body that was read").bytes
    }
}

type Bytes = Arc<Mutex<Vec<u8>>>;
type Behaviour = dyn Fn(&mut Exchange) + Send + Sync;

#[derive(Default)]
struct State {
    stopping: AtomicBool,
    open: AtomicUsize,
    requests: Mutex<Vec<Received>>,
    /// Every connection accepted so far: its stream while it is open, and what it sent.
    connections: Mutex<Vec<(Option<TcpStream>, Bytes)>>,
}

/// A listening backend; it and its connections end with this value.
pub struct Backend {
    address: SocketAddr,
    state: Arc<State>,
    acceptor: Option<std::thread::JoinHandle<()>>,
}

impl Backend {
    pub fn new(behaviour: impl Fn(&mut Exchange) + Send + Sync + 'static) -> Self {
        Self::on("127.0.0.1:0", behaviour)
    }

    pub fn on(address: &str, behaviour: impl Fn(&mut Exchange) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).unwrap_or_else(|e| panic!("bind {address}: {e}"));
        let address = listener.local_addr().expect("address");
        let state = Arc::new(State::default());
        let (shared, behaviour) = (state.clone(), Arc::new(behaviour) as Arc<Behaviour>);
        let acceptor = std::thread::spawn(move || accept(&listener, &shared, &behaviour));
        Self { address, state, acceptor: Some(acceptor) }
    }

    /// Answers 200 with its name as the body.
    pub fn named(name: &'static str) -> Self {
        Self::new(move |exchange| exchange.ok(name))
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn requests(&self) -> Vec<Received> {
        self.state.requests.lock().expect("requests").clone()
    }

    pub fn count(&self) -> usize {
        self.state.requests.lock().expect("requests").len()
    }

    /// The count, to be read from another task or thread.
    pub fn count_handle(&self) -> impl Fn() -> usize + Send + 'static {
        let state = self.state.clone();
        move || state.requests.lock().expect("requests").len()
    }

    /// The only request so far.
    #[track_caller]
    pub fn only(&self) -> Received {
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:#?}");
        requests.into_iter().next().expect("one")
    }

    #[track_caller]
    pub fn last(&self) -> Received {
        self.requests().pop().expect("a request")
    }

    #[track_caller]
    pub fn wait_count(&self, count: usize) {
        eventually(&format!("{count} requests"), || (self.count() >= count).then_some(()));
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> usize {
        self.state.connections.lock().expect("connections").len()
    }

    /// How many of them are open.
    pub fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// Every byte of each connection, as received.
    pub fn bytes(&self) -> Vec<Vec<u8>> {
        let connections = self.state.connections.lock().expect("connections");
        connections.iter().map(|(_, bytes)| bytes.lock().expect("bytes").clone()).collect()
    }

    /// Stops listening and leaves the connections as they are; afterwards the address refuses
    /// connections until someone else takes it.
    pub fn stop_listening(&mut self) {
        let Some(acceptor) = self.acceptor.take() else { return };
        self.state.stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(5));
        let _ = acceptor.join();
    }

    /// Closes the connections that are open now, as a backend does with idle ones.
    pub fn close_connections(&self) {
        for (stream, _) in self.state.connections.lock().expect("connections").iter() {
            let _ = stream.as_ref().map(|stream| stream.shutdown(Shutdown::Both));
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop_listening();
        self.close_connections();
    }
}

/// An address that refuses connections for as long as this value lives: bound, never listening.
pub struct Refusing(socket2::Socket);

impl Refusing {
    pub fn new() -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("socket");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bind");
        Self(socket)
    }

    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("address").as_socket().expect("an IP address")
    }
}

/// An endpoint whose queue for one connection is taken: further ones are not answered at all.
pub struct Silent {
    address: SocketAddr,
    _listener: socket2::Socket,
    _taken: TcpStream,
}

impl Silent {
    pub fn new() -> Self {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("socket");
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bind");
        listener.listen(0).expect("listen");
        let address = listener.local_addr().expect("address").as_socket().expect("an IP address");
        let taken = TcpStream::connect(address).expect("the one place");
        Self { address, _listener: listener, _taken: taken }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// An endpoint whose connections nobody reads from, with small buffers in the kernel.
pub struct Deaf(socket2::Socket);

impl Deaf {
    pub fn new() -> Self {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("socket");
        listener.set_recv_buffer_size(4096).expect("a small buffer");
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bind");
        listener.listen(1024).expect("listen");
        Self(listener)
    }

    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("address").as_socket().expect("an IP address")
    }
}

fn accept(listener: &TcpListener, state: &Arc<State>, behaviour: &Arc<Behaviour>) {
    for stream in listener.incoming() {
        if state.stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let (Ok(()), Ok(copy)) = (stream.set_nodelay(true), stream.try_clone()) else { continue };
        let record = Arc::new(Mutex::new(Vec::new()));
        let number = {
            let mut connections = state.connections.lock().expect("connections");
            connections.push((Some(copy), record.clone()));
            connections.len() - 1
        };
        let (state, behaviour) = (state.clone(), behaviour.clone());
        state.open.fetch_add(1, Ordering::SeqCst);
        let thread = std::thread::Builder::new().stack_size(256 << 10);
        let thread = thread.spawn(move || {
            let _open = Open { state: state.clone(), number };
            let mut wire = Wire::new(stream);
            wire.record = Some(record);
            serve(wire, &state, &behaviour);
        });
        thread.expect("a thread");
    }
}

/// A connection that is open; when this ends, also by a panic, so does the connection.
struct Open {
    state: Arc<State>,
    number: usize,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.state.connections.lock().expect("connections")[self.number].0 = None;
        self.state.open.fetch_sub(1, Ordering::SeqCst);
    }
}

fn serve(mut wire: Wire<TcpStream>, state: &Arc<State>, behaviour: &Arc<Behaviour>) {
    while let Ok(Some(head)) = wire.head() {
        let index = {
            let mut requests = state.requests.lock().expect("requests");
            requests.push(Received { head: head.clone(), body: None });
            requests.len() - 1
        };
        let state = state.clone();
        let record = move |body| state.requests.lock().expect("requests")[index].body = Some(body);
        let mut exchange = Exchange::new(wire, head, Box::new(record));
        behaviour(&mut exchange);
        match exchange.finish() {
            Some(rest) => wire = rest,
            None => break,
        }
    }
}
