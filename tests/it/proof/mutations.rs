//! Requests of the corpus with something changed, added, doubled or left out: whatever becomes of them, an endpoint that
//! reads by the letter finds nothing malformed, every request that it gets is one that Portunus said, and Portunus lives.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown};
use std::sync::Mutex;
use std::time::Duration;

use fastrand::Rng;

use crate::corpus::{BEHIND, connect_from, entries};
use crate::harness::strict_backend::StrictBackend;
use crate::harness::*;

/// The same mutants in every run.
const SEED: u64 = 13;
const CLIENTS: usize = 32;
/// How long a client that hears nothing waits before it says that it is done; nothing depends on it but the run's length.
const QUIET: Duration = Duration::from_millis(50);
/// Longer entries are of limits, and take their time.
const ENTRY_BYTES_MAX: usize = 2048;

/// What parsers stumble over.
const PIECES: [&[u8]; 40] = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\n\n",
    b"\0",
    b" ",
    b"\t",
    b"\x0b",
    b"\x7f",
    b"\x80",
    b"\xff",
    b":",
    b",",
    b";",
    b"-",
    b"+",
    b"0",
    b"0x",
    b"5",
    b"f",
    b"#",
    b"?",
    b"%",
    b"%0d%0a",
    b"\\",
    b"..",
    b"//",
    b"_",
    b"\"",
    b"HTTP/1.0",
    b"HTTP/1.1",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Host: a.test\r\n",
    b"Connection: close\r\n",
    b"GET /app/evil HTTP/1.1\r\nHost: a.test\r\n\r\n",
    b"Upgrade: websocket\r\n",
];

/// Of entries that are forwarded, and then of all.
fn mutant(good: &[Vec<u8>], entries: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let of = if rng.u8(..4) > 0 { good } else { entries };
    let mut bytes = of[rng.usize(..of.len())].clone();
    for _ in 0..rng.usize(1..=4) {
        let at = rng.usize(..=bytes.len());
        let until = (at + rng.usize(1..=8)).min(bytes.len());
        let piece = PIECES[rng.usize(..PIECES.len())];
        match rng.u8(..8) {
            0 => drop(bytes.drain(at..until)),
            1 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = rng.u8(..)),
            2 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << rng.u8(..8)),
            3 => drop(bytes.splice(at..until, piece.iter().copied())),
            4 => drop(bytes.splice(at..at, piece.iter().copied())),
            5 => {
                // A line twice.
                let begin = bytes[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
                let end = bytes[at..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |end| at + end + 1);
                let line = bytes[begin..end].to_vec();
                bytes.splice(begin..begin, line);
            }
            6 => {
                // Another's end.
                let other = &entries[rng.usize(..entries.len())];
                bytes.truncate(at);
                bytes.extend_from_slice(&other[rng.usize(..=other.len())..]);
            }
            _ => bytes.truncate(bytes.len() - rng.usize(..=bytes.len().min(16))),
        }
    }
    bytes
}

/// Sends it in up to three pieces and reads to the end; the number of bytes that were answered.
fn send(bytes: &[u8], source: Ipv4Addr, portunus: &Portunus, rng: &mut Rng) -> usize {
    let mut stream = connect_from(source, portunus.http);
    stream.set_read_timeout(Some(QUIET)).expect("read timeout");
    let (first, rest) = bytes.split_at(rng.usize(..=bytes.len()));
    let (second, third) = rest.split_at(rng.usize(..=rest.len()));
    let _ = [first, second, third].into_iter().try_for_each(|piece| stream.write_all(piece));
    let (mut buffer, mut count) = ([0; 4096], 0);
    let mut finished = false;
    loop {
        match stream.read(&mut buffer) {
            Ok(read @ 1..) => count += read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                assert!(!finished, "the connection stays open: {:?}", String::from_utf8_lossy(bytes));
                finished = true;
                let _ = stream.shutdown(Shutdown::Write);
                stream.set_read_timeout(Some(PATIENCE)).expect("read timeout");
            }
            Ok(0) | Err(_) => return count,
        }
    }
}

#[test]
fn mutated_requests_bring_nothing_malformed_to_an_endpoint() {
    let mutants: usize = scale(2_000, 100_000);
    let mut all = entries();
    all.retain(|entry| entry.send.0.len() <= ENTRY_BYTES_MAX);
    let good: Vec<Vec<u8>> = all.iter().filter(|entry| entry.is_good()).map(|entry| entry.send.0.clone()).collect();
    let entries: Vec<Vec<u8>> = all.into_iter().map(|entry| entry.send.0).collect();
    let backend = StrictBackend::new();
    let folder = Folder::to_addresses(&[backend.address()]);
    let mut portunus = Portunus::serve(&folder);
    let answered = Mutex::new(0);
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (good, entries, portunus, answered) = (&good, &entries, &portunus, &answered);
            scope.spawn(move || {
                let mut rng = Rng::with_seed(SEED + client as u64);
                let source = Ipv4Addr::new(127, 2, 0, client as u8 + 1);
                for _ in 0..mutants.div_ceil(CLIENTS) {
                    let mut bytes = mutant(good, entries, &mut rng);
                    bytes.extend_from_slice(BEHIND);
                    let count = send(&bytes, source, portunus, &mut rng);
                    *answered.lock().expect("answered") += usize::from(count > 0);
                }
            });
        }
    });
    assert_eq!(portunus.get("a.test", "/app/").status, 200);
    assert!(portunus.is_running());
    // Dropping it fails if its log tells of a panic.
    drop(portunus);
    let seen = backend.finish();
    let answered = answered.into_inner().expect("answered");
    println!(
        "{mutants} mutants of {} entries (seed {SEED}): {answered} answered, {} requests forwarded, {} malformed; goal: 0",
        entries.len(),
        seen.requests.len(),
        seen.violations.len()
    );
    assert!(seen.violations.is_empty(), "seed {SEED}: {:#?}", seen.violations);
    assert!(seen.requests.len() > mutants / 20, "seed {SEED}: enough of them say something");
    let known = |address: &[u8]| address.starts_with(b"127.2.0.") || address == b"127.0.0.1";
    let smuggled = seen.requests.iter().filter(|request| {
        !matches!(request.all("x-forwarded-for")[..], [address] if known(address))
            || request.all("x-request-id").len() != 1
    });
    assert_eq!(smuggled.map(|request| format!("{request:?}")).collect::<Vec<_>>(), [""; 0], "seed {SEED}");
}
