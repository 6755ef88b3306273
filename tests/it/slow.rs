//! Clients that take their time, of all kinds at once: heads, bodies and handshakes that come byte by byte or not at
//! all, answers that nobody reads, connections that say nothing. Honest clients beside them are answered, memory stays
//! within a bound for each, and all of them are gone when their time limits have passed. At full size (`make proof`)
//! there are 4,000, and what honest clients wait is printed beside what they wait without.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use crate::harness::h1::Connection;
use crate::harness::h2_raw::{INITIAL_WINDOW_SIZE, RawH2};
use crate::harness::manifests::app;
use crate::harness::*;

/// What one slow connection may take on average, in bytes: most are a socket and little else, but every eighth is a
/// reader with an answer behind it, and every eighth an HTTP/2 connection with such streams.
const EACH_MAX: u64 = 128 << 10;
const KINDS: usize = 8;

/// The beginning of a handshake over TLS 1.3: a record of 512 bytes is announced.
const CLIENT_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

/// A slow client of one kind.
struct Slow {
    kind: usize,
    stream: TcpStream,
    _raw: Option<RawH2>,
}

impl Slow {
    fn open(kind: usize, http: SocketAddr, https: SocketAddr) -> Self {
        let secure = matches!(kind, 3 | 4);
        let mut stream = h1::connect(if secure { https } else { http });
        let mut raw = None;
        let begin: &[u8] = match kind {
            // A head that never ends, and a body.
            0 => b"GET / HTTP/1.1\r\nHost: slow.test\r\nX-Slow: ",
            1 => b"POST / HTTP/1.1\r\nHost: slow.test\r\nContent-Length: 1000000\r\n\r\n",
            // An answer that nobody reads.
            2 => b"GET /large HTTP/1.1\r\nHost: slow.test\r\n\r\n",
            // A handshake that stops, and one that doesn't begin.
            3 => CLIENT_HELLO,
            4 | 5 => b"",
            // Idle after a request.
            6 => b"GET / HTTP/1.1\r\nHost: slow.test\r\n\r\n",
            // Streams whose window is shut.
            _ => {
                let mut client = RawH2::open_with(http, &[(INITIAL_WINDOW_SIZE, 1)]);
                client.send(&[1, 3, 5].map(|stream| super::floods::get(stream, "/large", &[])).concat());
                raw = Some(client);
                b""
            }
        };
        stream.write_all(begin).expect("the beginning");
        Self { kind, stream, _raw: raw }
    }

    /// A byte more, from those that send any.
    fn drip(&mut self) {
        if self.kind < 2 || self.kind == 3 {
            let _ = self.stream.write_all(b"x");
        }
    }
}

struct Server {
    portunus: Portunus,
    _backends: [Backend; 2],
    _folder: Folder,
}

fn server(flags: &[&str]) -> Server {
    let slow = Backend::new(|exchange| {
        exchange.stop_recording();
        if exchange.head.word(1) == "/large" {
            exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n");
            let piece = vec![b'x'; 1 << 18];
            while exchange.write(&piece) {}
            exchange.close();
        } else if exchange.head.has("content-length") {
            exchange.wire.rest();
            exchange.close();
        } else {
            exchange.ok("slow");
        }
    });
    let honest = Backend::named("honest");
    let folder = Folder::new();
    folder.write("slow.yaml", app("default", "slow", &[slow.address()]));
    folder.write("honest.yaml", app("default", "honest", &[honest.address()]));
    for host in ["slow.test", "attack.test"] {
        folder.write(&format!("{host}.yaml"), Ingress::new("default", host).host(host).prefix("/", "slow", 80));
    }
    folder.write("h.yaml", Ingress::new("default", "h").host("honest.test").prefix("/", "honest", 80));
    let portunus = Portunus::serve_with(&folder, &[&["--workers", "2"], flags].concat());
    Server { portunus, _backends: [slow, honest], _folder: folder }
}

/// Latencies of requests on two connections, in milliseconds, sorted.
fn ask(address: SocketAddr, requests: usize) -> Vec<f64> {
    let mut clients = [Connection::open(address), Connection::open(address)];
    let mut times: Vec<f64> = (0..requests)
        .map(|number| {
            let start = Instant::now();
            assert_eq!(clients[number % 2].get("honest.test", "/").text(), "honest");
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times
}

pub fn honest_clients_are_served_beside(count: usize, requests: usize) {
    let server = server(&["--response-write-timeout", "10m", "--request-head-timeout", "10m"]);
    let portunus = &server.portunus;
    let calm = ask(portunus.http, requests);
    let before = portunus.memory("RssAnon:");
    let mut slow: Vec<Slow> =
        (0..count).map(|number| Slow::open(number % KINDS, portunus.http, portunus.https)).collect();
    let over = AtomicBool::new(false);
    let (times, peak) = scope(|scope| {
        let guard = Over(&over);
        let (slow, over) = (&mut slow, &over);
        let peak = scope.spawn(move || {
            let mut peak = 0;
            while !over.load(Ordering::SeqCst) {
                slow.iter_mut().for_each(Slow::drip);
                peak = portunus.memory("RssAnon:").max(peak);
                sleep(Duration::from_millis(50));
            }
            peak
        });
        let times = ask(portunus.http, requests);
        drop(guard);
        (times, peak.join().expect("the slow ones"))
    });
    let at = |times: &[f64], share: f64| times[((times.len() - 1) as f64 * share) as usize];
    let each = peak.saturating_sub(before) / count as u64;
    println!(
        "{count} slow connections: {:.1} KiB each; {requests} honest requests: median {:.2} ms, p99 {:.2} ms; \
         without them {:.2} ms and {:.2} ms; goal: p99 below 2 ×",
        each as f64 / 1024.0,
        at(&times, 0.5),
        at(&times, 0.99),
        at(&calm, 0.5),
        at(&calm, 0.99)
    );
    assert!(each < EACH_MAX, "{each} bytes for each of {count}");
}

#[test]
fn honest_clients_are_served_beside_slow_ones() {
    honest_clients_are_served_beside(200, 500);
}

#[test]
fn slow_clients_are_gone_when_their_time_is_over() {
    let server = server(&[
        "--request-head-timeout",
        "500ms",
        "--tls-handshake-timeout",
        "500ms",
        "--request-body-timeout",
        "500ms",
        "--response-write-timeout",
        "500ms",
        "--idle-timeout",
        "1s",
    ]);
    let portunus = &server.portunus;
    let slow: Vec<Slow> = (0..10 * KINDS).map(|n| Slow::open(n % KINDS, portunus.http, portunus.https)).collect();
    // All but those that are still read to their end, which takes two seconds more.
    portunus.wait_metric("portunus_connections_accepted_total", &[], |accepted| accepted >= (10 * KINDS) as f64);
    portunus.wait_metric("portunus_connections", &[], |open| open == 0.0);
    portunus.wait_metric("portunus_upstream_connections_open", &[], |open| open <= 10.0);
    drop(slow);
    assert_eq!(portunus.get("honest.test", "/").status, 200);
}
