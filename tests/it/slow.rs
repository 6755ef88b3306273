//! Clients that take their time, of all kinds at once, in cleartext and over TLS: heads, bodies and handshakes that
//! come byte by byte or not at all, answers that nobody reads, connections that say nothing. Honest clients beside them
//! are answered, memory stays within a bound for each, and all of them are gone when their time limits have passed. At
//! full size (`make proof`) there are 4,000, and what honest clients wait is printed beside what they wait without.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;

use crate::floods::{ENDLESS, Way, get, stream};
use crate::harness::fair::{self, Rounds};
use crate::harness::h1::Connection;
use crate::harness::h2_raw::{
    DATA, END_HEADERS, HEADERS, INITIAL_WINDOW_SIZE, RawH2, SETTINGS, WINDOW_UPDATE, block, frame,
};
use crate::harness::manifests::app;
use crate::harness::tls::Client;
use crate::harness::websocket::{self, WebSocket};
use crate::harness::*;

/// What one slow connection may take on average, in bytes: most are a socket and little else, but every eighth is a
/// reader with an answer behind it, and every eighth an HTTP/2 connection with such streams.
pub const EACH_MAX: u64 = 128 << 10;
/// Each in cleartext and over TLS.
const KINDS: usize = 8;

/// The beginning of a handshake over TLS 1.3: a record of 512 bytes is announced.
const CLIENT_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

/// A slow client of one kind.
pub struct Slow {
    kind: usize,
    stream: Box<dyn Write + Send>,
    _raw: Option<RawH2>,
}

impl Slow {
    fn open(number: usize, portunus: &Portunus, tls: &Client) -> Self {
        let (kind, secure) = (number % KINDS, number / KINDS % 2 == 1);
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
                let way = if secure { Way::Tls } else { Way::Cleartext };
                let mut client = way.open(portunus, &[(INITIAL_WINDOW_SIZE, 1)]);
                client.send(&[1, 3, 5].map(|stream| get(stream, "/large", &[])).concat());
                return Self { kind, stream: Box::new(io::sink()), _raw: Some(client) };
            }
        };
        let mut stream: Box<dyn Write + Send> = match (kind, secure) {
            (3 | 4, _) => Box::new(h1::connect(portunus.https)),
            (_, true) => Box::new(tls.connect(portunus.https, "slow.test").0.wire.stream),
            (_, false) => Box::new(h1::connect(portunus.http)),
        };
        stream.write_all(begin).expect("the beginning");
        Self { kind, stream, _raw: None }
    }

    /// So many, of all kinds.
    pub fn many(count: usize, portunus: &Portunus) -> Vec<Self> {
        let tls = Client::new();
        (0..count).map(|number| Self::open(number, portunus, &tls)).collect()
    }

    /// A byte more, from those that send any.
    pub fn drip(&mut self) {
        if self.kind < 2 || self.kind == 3 {
            let _ = self.stream.write_all(b"x");
        }
    }
}

pub struct Server {
    pub portunus: Portunus,
    _backends: [Backend; 2],
    _folder: Folder,
}

fn backend() -> Backend {
    Backend::new(|exchange| {
        exchange.stop_recording();
        match exchange.head.word(1) {
            "/large" => {
                exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n");
                let piece = vec![b'x'; 1 << 18];
                while exchange.write(&piece) {}
                exchange.close();
            }
            "/silent" => {
                exchange.wire.rest();
                exchange.close();
            }
            "/early" => {
                exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nmore later");
                exchange.wire.rest();
                exchange.close();
            }
            _ if exchange.head.has("content-length") => {
                exchange.wire.rest();
                exchange.close();
            }
            _ => exchange.ok("slow"),
        }
    })
}

/// `slow.test` and `attack.test` have the one backend, `honest.test` has the other.
pub fn server(flags: &[&str]) -> Server {
    let slow = fair::behind_all(backend);
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

/// Has them send a little now and then until it is over; the most memory that Portunus had meanwhile.
pub fn drip(slow: &mut [Slow], portunus: &Portunus, over: &AtomicBool) -> u64 {
    fair::stand_behind_all();
    let mut peak = 0;
    while !over.load(Ordering::SeqCst) {
        slow.iter_mut().for_each(Slow::drip);
        peak = portunus.memory("RssAnon:").max(peak);
        sleep(Duration::from_millis(50));
    }
    peak
}

pub fn honest_clients_are_served_beside(count: usize, rounds: usize, time: Duration) {
    let server = server(&["--response-write-timeout", "10m", "--request-head-timeout", "10m"]);
    let portunus = &server.portunus;
    fair::gets_a_core(portunus);
    let (mut waits, mut each) = (Rounds::default(), 0);
    for _ in 0..rounds {
        let calm = fair::ask(portunus, time);
        let before = portunus.memory("RssAnon:");
        let mut slow = Slow::many(count, portunus);
        let over = AtomicBool::new(false);
        let (times, peak) = scope(|scope| {
            let guard = Over(&over);
            let (slow, over) = (&mut slow, &over);
            let peak = scope.spawn(move || drip(slow, portunus, over));
            let times = fair::ask(portunus, time);
            drop(guard);
            (times, peak.join().expect("the slow ones"))
        });
        waits.add(calm, times);
        each = each.max(peak.saturating_sub(before) / count as u64);
        drop(slow);
        portunus.wait_metric("portunus_connections", &[], |open| open == 0.0);
    }
    waits.report(&format!("{count} slow connections"));
    println!("{count} slow connections: {:.1} KiB each", each as f64 / 1024.0);
    assert!(each < EACH_MAX, "{each} bytes for each of {count}");
}

#[test]
fn honest_clients_are_served_beside_slow_ones() {
    honest_clients_are_served_beside(200, 1, Duration::from_millis(500));
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
    let slow = Slow::many(20 * KINDS, portunus);
    portunus.wait_metric("portunus_connections_accepted_total", &[], |accepted| accepted >= (20 * KINDS) as f64);
    portunus.wait_metric("portunus_connections", &[], |open| open == 0.0);
    // Of those that were answered, for the next.
    portunus.wait_metric("portunus_upstream_connections_open", &[], |open| open <= 20.0);
    drop(slow);
    assert_eq!(portunus.get("honest.test", "/").status, 200);
}

#[test]
fn bodies_that_drip_are_ended_by_the_lowest_rate() {
    let server = server(&["--request-body-rate-min", "1000"]);
    let portunus = &server.portunus;
    let begin = |path: &str, fields: &str| {
        let mut client = Connection::open(portunus.http);
        client.send(format!("POST {path} HTTP/1.1\r\nHost: slow.test\r\n{fields}\r\n"));
        let sender = client.wire.stream.try_clone().expect("a second handle");
        (client, sender)
    };
    let [(mut slow, one), (mut early, two)] = ["/", "/early"].map(|path| begin(path, "Content-Length: 1000000\r\n"));
    let (mut good, mut third) = begin("/good", "Transfer-Encoding: chunked\r\n");
    let mut http2 = RawH2::open(portunus.http);
    let watch = http2.watch();
    let (scheme, host) = ((":scheme", "http"), (":authority", "slow.test"));
    let fields = [(":method", "POST"), scheme, host, (":path", "/"), ("content-length", "1000000")];
    http2.send(&frame(HEADERS, END_HEADERS, stream(0), &block(&fields)));
    let over = AtomicBool::new(false);
    scope(|scope| {
        let guard = Over(&over);
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                // Who was answered is no longer heard.
                for mut slow in [&one, &two] {
                    drop(slow.write_all(b"x"));
                }
                http2.send(&frame(DATA, 0, stream(0), b"x"));
                third.write_all(format!("1000\r\n{}\r\n", "x".repeat(0x1000)).as_bytes()).expect("it is read");
                sleep(Duration::from_millis(100));
            }
            third.write_all(b"0\r\n\r\n").expect("it is read");
        });
        assert_eq!(slow.response().status, 408);
        slow.assert_closed();
        let cut = early.response();
        assert_eq!((cut.status, cut.complete), (200, false));
        assert!(!watch.wait("an answer over HTTP/2", |seen| seen.heads == 1).closed);
        drop(guard);
    });
    assert_eq!(good.response().text(), "slow");
    portunus.wait_metric("portunus_requests_total", &["4xx"], |count| count == 2.0);
}

/// Reads a large answer piece by piece and slowly, until it is over.
fn sip(mut stream: TcpStream, over: &AtomicBool) {
    let mut piece = [0; 16 << 10];
    while !over.load(Ordering::SeqCst) {
        let _ = stream.read(&mut piece);
        sleep(Duration::from_millis(20));
    }
}

#[test]
fn readers_that_drip_are_ended_by_the_lowest_rate() {
    // Time without any byte is none that counts here: whoever drips takes some before each end of it.
    let server = server(&["--response-write-rate-min", "20000000", "--response-write-timeout", "10m"]);
    let portunus = &server.portunus;
    let mut plain = h1::connect(portunus.http);
    plain.write_all(b"GET /large HTTP/1.1\r\nHost: slow.test\r\n\r\n").expect("a request");
    let mut http2 = h1::connect(portunus.http);
    let endless = [&INITIAL_WINDOW_SIZE.to_be_bytes()[..], &ENDLESS.to_be_bytes()].concat();
    let begin = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, &endless)].concat();
    let window = frame(WINDOW_UPDATE, 0, 0, &(ENDLESS - 65_535).to_be_bytes());
    http2.write_all(&[begin, window, get(stream(0), "/large", &[])].concat()).expect("a request");
    let mut good = Connection::open(portunus.http);
    let over = AtomicBool::new(false);
    scope(|scope| {
        let _guard = Over(&over);
        scope.spawn(|| sip(plain, &over));
        scope.spawn(|| sip(http2, &over));
        // Of others, who read what there is, nothing is asked.
        eventually("an end of both", || {
            assert_eq!(good.get("honest.test", "/").text(), "honest");
            (portunus.metric("portunus_connections", &[]) == 1.0).then_some(())
        });
    });
}

#[test]
fn windows_that_open_byte_by_byte_end_like_those_that_stay_shut() {
    let server = server(&["--response-write-timeout", "1s"]);
    let mut client = RawH2::open_with(server.portunus.http, &[(INITIAL_WINDOW_SIZE, 1)]);
    let watch = client.watch();
    client.send(&get(stream(0), "/large", &[]));
    eventually("the end of the connection", || {
        client.send(&frame(WINDOW_UPDATE, 0, stream(0), &1u32.to_be_bytes()));
        watch.seen().closed.then_some(())
    });
    assert!(watch.seen().data > 10, "{:?}", watch.seen());
}

/// The timer of a socket that is open, as `/proc/net/tcp` has it: its kind, and what is left in hundredths of a second.
fn timer(local: Option<SocketAddr>, remote: SocketAddr) -> Option<(u8, u64)> {
    let text = |address: SocketAddr| format!("0100007F:{:04X}", address.port());
    let table = fs::read_to_string("/proc/net/tcp").expect("the sockets");
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, from, to, "01", _, timer, ..] = fields[..] else { return None };
        let same = to == text(remote) && local.is_none_or(|local| from == text(local));
        let (kind, left) = timer.split_once(':').filter(|_| same)?;
        Some((u8::from_str_radix(kind, 16).ok()?, u64::from_str_radix(left, 16).ok()?))
    })
}

/// The kernel looks whether a silent peer is still there, within a minute.
#[track_caller]
fn assert_kept_alive(local: Option<SocketAddr>, remote: SocketAddr) {
    eventually("a timer that keeps the connection alive", || {
        timer(local, remote).filter(|(kind, left)| *kind == 2 && (1..=6000).contains(left))
    });
}

#[test]
fn clients_and_tunnels_that_vanish_are_noticed() {
    let backend = Backend::new(|exchange| {
        websocket::echo(exchange);
    });
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve(&folder);
    for address in [portunus.http, portunus.https, portunus.admin] {
        let silent = h1::connect(address);
        assert_kept_alive(Some(address), silent.local_addr().expect("an address"));
    }
    let mut socket = WebSocket::open(portunus.http, "a.test", "/");
    socket.echo("hello");
    assert_kept_alive(Some(portunus.http), socket.connection.wire.stream.local_addr().expect("an address"));
    assert_kept_alive(None, backend.address());
}
