//! A backend as picky as any: requests are read strictly, and what can't be read is kept as a violation.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::strict::{Request, Rules, Stop, whole};

/// What a strict backend saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub requests: Vec<Request>,
    /// What could not be read, and why; their connections were closed.
    pub violations: Vec<String>,
}

/// A backend that reads by the letter and answers every request with an empty 200.
pub struct StrictBackend {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    stopping: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<Vec<JoinHandle<()>>>>,
}

impl StrictBackend {
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let (seen, stopping) = (Arc::<Mutex<Seen>>::default(), Arc::<AtomicBool>::default());
        let (shared, stop) = (seen.clone(), stopping.clone());
        let acceptor = std::thread::spawn(move || {
            let mut connections = Vec::new();
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                let seen = shared.clone();
                connections.push(std::thread::spawn(move || serve(stream, &seen)));
            }
            connections
        });
        Self { address, seen, stopping, acceptor: Some(acceptor) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// All that came, once every connection to it has ended: whoever holds them is gone.
    pub fn finish(mut self) -> Seen {
        for connection in self.stop() {
            connection.join().expect("a connection");
        }
        std::mem::take(&mut self.seen.lock().expect("seen"))
    }

    fn stop(&mut self) -> Vec<JoinHandle<()>> {
        let Some(acceptor) = self.acceptor.take() else { return Vec::new() };
        self.stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        acceptor.join().expect("the acceptor")
    }
}

impl Drop for StrictBackend {
    fn drop(&mut self) {
        self.stop();
    }
}

fn serve(mut stream: TcpStream, seen: &Mutex<Seen>) {
    let _ = stream.set_nodelay(true);
    let mut unread = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        match whole(&unread, Rules::Strict) {
            Ok((request, length)) => {
                unread.drain(..length);
                seen.lock().expect("seen").requests.push(request);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            }
            Err(Stop::More) => match stream.read(&mut buffer) {
                Ok(count @ 1..) => unread.extend_from_slice(&buffer[..count]),
                Ok(0) | Err(_) => return,
            },
            Err(Stop::Wrong(what)) => {
                let text = format!("{what}: {:?}", String::from_utf8_lossy(&unread));
                seen.lock().expect("seen").violations.push(text);
                let _ = stream.shutdown(Shutdown::Both);
                return;
            }
        }
    }
}
