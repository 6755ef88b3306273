//! Bodies stream both ways under back-pressure: whoever reads slowly makes the sender wait, not
//! Portunus remember.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::harness::h1::Connection;
use crate::harness::reach::one_worker;
use crate::harness::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

#[test]
fn a_body_streams_while_it_is_sent() {
    let (first, second) = (Gate::new(), Gate::new());
    let gates = (first.clone(), second.clone());
    let backend = Backend::new(move |exchange| {
        exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst");
        let start = exchange.wire.up_to(5).unwrap_or_default();
        assert_eq!(start, b"begin");
        gates.0.open();
        gates.1.wait("the client's sign");
        exchange.write("later");
        exchange.wire.up_to(3).unwrap_or_default();
        exchange.close();
    });
    let (_folder, portunus) = one_worker(&backend);
    let mut client = Connection::open(portunus.http);
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 8\r\n\r\nbegin");
    first.wait("the start of the body at the backend");
    assert_eq!(client.response_head().word(1), "200");
    assert_eq!(client.wire.up_to(5).expect("bytes"), b"first");
    second.open();
    assert_eq!(client.wire.up_to(5).expect("bytes"), b"later");
}

#[test]
fn small_chunks_that_come_together_leave_together() {
    let backend = Backend::new(|exchange| {
        let chunks = "1\r\nx\r\n".repeat(300);
        exchange.write(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n"));
    });
    let (_folder, portunus) = one_worker(&backend);
    let mut client = Connection::open(portunus.http);
    for _ in 0..3 {
        assert_eq!(client.ask(GET).body, b"x".repeat(300));
    }
    assert_eq!(backend.connections(), 1, "nothing is left of it");
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n");
    let head = client.response_head();
    assert_eq!(head.word(1), "200");
    let chunked = client.read_to_end();
    assert!(chunked.len() < 300 + 100, "{} bytes for 300 in {}", chunked.len(), String::from_utf8_lossy(&chunked));
}

/// Far more than what both kernels and Portunus may hold for one connection.
fn body_bytes() -> u64 {
    scale(64 << 20, 4 << 30)
}

/// Generous: what a bounded number of bounded buffers may come to.
const MEMORY_BYTES_MAX: u64 = 48 << 20;

fn peak(portunus: &Portunus) -> u64 {
    portunus.memory("VmHWM:")
}

/// Waits until a counter stands still, so that whoever overruns a slow reader has had the time to.
fn settle(counter: &AtomicU64) {
    let mut last = (u64::MAX, 0);
    for _ in 0..1000 {
        let now = counter.load(Ordering::SeqCst);
        last = if now == last.0 { (now, last.1 + 1) } else { (now, 0) };
        if last.1 >= 20 && now > 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_download_waits_for_its_client_and_takes_little_memory() {
    let sent = Arc::new(AtomicU64::new(0));
    let (count, length) = (sent.clone(), body_bytes());
    let backend = Backend::new(move |exchange| {
        exchange.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"));
        let piece = vec![b'x'; 1 << 16];
        while count.load(Ordering::SeqCst) < length && exchange.write(&piece) {
            count.fetch_add(piece.len() as u64, Ordering::SeqCst);
        }
    });
    let (_folder, portunus) = one_worker(&backend);
    let before = peak(&portunus);
    let mut client = Connection::open(portunus.http);
    client.send(GET);
    settle(&sent);
    assert!(sent.load(Ordering::SeqCst) < length, "nobody waited for the client");
    client.response_head();
    let mut received = 0;
    while received < length {
        received += client.wire.unread.len() as u64;
        client.wire.unread.clear();
        assert!(received == length || client.wire.fill().is_ok_and(|count| count > 0), "{received}");
    }
    assert_eq!(received, length);
    assert!(peak(&portunus) - before < MEMORY_BYTES_MAX, "{} bytes", peak(&portunus) - before);
}

#[test]
fn an_upload_waits_for_its_backend_and_takes_little_memory() {
    let (start, length) = (Gate::new(), body_bytes());
    let gate = start.clone();
    let backend = Backend::new(move |exchange| {
        gate.wait("the start of reading");
        let received = exchange.discard(length);
        exchange.ok(&received.to_string());
    });
    let (_folder, portunus) = one_worker(&backend);
    let before = peak(&portunus);
    let mut client = Connection::open(portunus.http);
    let sent = AtomicU64::new(0);
    client.send(format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {length}\r\n\r\n"));
    let mut uploading = client.wire.stream.try_clone().expect("a handle");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let piece = vec![b'x'; 1 << 16];
            while sent.load(Ordering::SeqCst) < length {
                std::io::Write::write_all(&mut uploading, &piece).expect("the upload");
                sent.fetch_add(piece.len() as u64, Ordering::SeqCst);
            }
        });
        settle(&sent);
        let waited = sent.load(Ordering::SeqCst) < length;
        start.open();
        assert!(waited, "nobody waited for the backend");
    });
    assert_eq!(client.response().text(), length.to_string());
    assert!(peak(&portunus) - before < MEMORY_BYTES_MAX, "{} bytes", peak(&portunus) - before);
}
