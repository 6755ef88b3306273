//! Everything at once, for long: HTTP/1, HTTP/2, TLS with sessions new and resumed, WebSockets, streams, uploads and
//! downloads, while routes, endpoints and certificates change, endpoints misbehave, and others attack. Who is honest is
//! answered, every time; nothing leaks and nothing panics. A minute in `make test`; half an hour in `make soak`, which
//! prints how memory went.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use http::{HeaderMap, HeaderValue};

use super::*;
use crate::echo::Echo;
use crate::harness::backend::Refusing;
use crate::harness::h2_raw::RawH2;
use crate::harness::manifests::documents;

/// Bytes of an upload: more than any buffer or window on the way.
const UPLOAD: usize = 3 << 20;
const DOWNLOAD: usize = 2 << 20;
/// What counts as noise whatever else was seen: an allocator's habits, and tables that wait to be freed.
const NOISE: f64 = (4 << 20) as f64;
/// Connections that attackers hold open at a time.
const HELD: usize = 50;

/// What runs beside each other, and how often it was done.
struct Soak<'a> {
    portunus: &'a Portunus,
    authority: &'a Authority,
    done: AtomicBool,
    counts: Mutex<Vec<(&'static str, &'static AtomicU64)>>,
}

impl Soak<'_> {
    /// Does something over and over, with a pause in between that leaves the others time.
    fn repeat(&self, what: &'static str, pause: Duration, mut act: impl FnMut(usize)) {
        let count: &'static AtomicU64 = Box::leak(Box::default());
        self.counts.lock().expect("counts").push((what, count));
        for number in 0.. {
            if self.done.load(Ordering::SeqCst) {
                return;
            }
            act(number);
            count.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(pause);
        }
    }

    fn http1(&self) {
        let mut client = Connection::open(self.portunus.http);
        self.repeat("HTTP/1.1 requests", Duration::from_millis(2), |number| {
            if number % 200 == 199 {
                client = Connection::open(self.portunus.http);
            }
            let target = if number % 3 == 0 { "/coming" } else { "/" };
            if number % 2 == 0 {
                assert_eq!(client.get("a.test", target).status, 200, "GET {target}, {number}");
                return;
            }
            let length = number * 7 % 20_000;
            let head = format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {length}\r\n\r\n");
            let response = client.ask([head.as_bytes(), &vec![b'x'; length]].concat());
            assert_eq!((response.status, &response.json()["body_bytes"]), (200, &length.into()), "{number}");
        });
    }

    fn tls(&self) {
        let mut client = Client::trusting(self.authority);
        self.repeat("TLS connections", Duration::from_millis(10), |number| {
            // One session new, three resumed.
            if number % 4 == 0 {
                client = Client::trusting(self.authority);
            }
            let (response, _) = client.get(self.portunus.https, "a.test", "a.test", "/");
            assert_eq!(response.status, 200, "{number}");
        });
    }

    fn http2(&self) {
        let client = Client::new().alpn(&["h2"]);
        self.repeat("HTTP/2 connections of 50 requests", Duration::from_millis(20), |_| {
            run(async {
                let (connection, _) = h2::Connection::tls(self.portunus.https, &client, "a.test").await;
                let ask = |number: usize| {
                    let mut connection = connection.clone();
                    async move {
                        let body = h2::full(vec![b'x'; number * 100]);
                        let request = Request::post("https://a.test/coming").body(body).expect("a request");
                        let answer = connection.send(request).await;
                        assert_eq!(answer.status, 200, "{number}");
                    }
                };
                futures_util::future::join_all((0..50).map(ask)).await;
            });
        });
    }

    fn websockets(&self) {
        self.repeat("WebSockets of 20 messages", Duration::from_millis(20), |number| {
            let mut socket = WebSocket::open(self.portunus.http, "a.test", "/chat");
            (0..20).for_each(|turn| socket.echo(&format!("{number} {turn} {}", "long ".repeat(turn * 50))));
            if number % 2 == 0 {
                socket.close();
            }
        });
    }

    /// As gRPC's: messages both ways in turn, and trailers at the end.
    fn streams(&self) {
        let client = Client::new().alpn(&["h2"]);
        self.repeat("streams of 20 messages", Duration::from_millis(20), |number| {
            run(async {
                let (mut connection, _) = h2::Connection::tls(self.portunus.https, &client, "a.test").await;
                let (sender, body) = h2::fed();
                let request = Request::post("https://a.test/stream").body(body).expect("a request");
                let mut answer = connection.start(request).await.expect("a head").into_body();
                for turn in 0..20 {
                    let message = format!("stream {number}, message {turn}");
                    sender.send(Frame::data(message.clone().into())).await.expect("a message");
                    let mut back = Vec::new();
                    while back.len() < message.len() {
                        let frame = answer.frame().await.expect("a frame").expect("a good frame");
                        back.extend_from_slice(frame.data_ref().expect("data"));
                    }
                    assert_eq!(back, message.as_bytes());
                }
                let trailers = HeaderMap::from_iter([("grpc-status".parse().expect("a name"), HeaderValue::from(0))]);
                sender.send(Frame::trailers(trailers.clone())).await.expect("trailers");
                drop(sender);
                assert_eq!(answer.collect().await.expect("the end").trailers(), Some(&trailers));
            });
        });
    }

    fn bulk(&self) {
        self.repeat("uploads and downloads", Duration::from_millis(50), |number| {
            let mut client = Connection::open(self.portunus.http);
            if number % 2 == 0 {
                client.send("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n");
                for piece in vec![b'x'; UPLOAD].chunks(50_000) {
                    client.send([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat());
                }
                client.send("0\r\n\r\n");
                let response = client.response();
                assert_eq!((response.status, &response.json()["body_bytes"]), (200, &UPLOAD.into()));
            } else {
                let response = client.get("a.test", &format!("/?bytes={DOWNLOAD}"));
                assert_eq!((response.status, response.body.len()), (200, DOWNLOAD));
            }
        });
    }

    /// The endpoint does one bad thing after the other: its client sees an error or a short answer, never a good one.
    fn faults(&self) {
        self.repeat("requests to a faulty endpoint", Duration::from_millis(20), |_| {
            let mut client = Connection::open(self.portunus.http);
            client.send("POST /faulty HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nhi");
            match client.try_response(false) {
                Ok(response) if response.status == 200 => assert!(!response.complete, "half an answer is whole"),
                Ok(response) => assert!(matches!(response.status, 502..=504), "{}", response.status),
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "{error}"),
            }
        });
    }

    fn attacks(&self) {
        let http = self.portunus.http;
        let mut held = std::collections::VecDeque::new();
        self.repeat("attacks", Duration::from_millis(10), |number| match number % 8 {
            0 => is_refused(http, "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5, 6\r\n\r\nhello!"),
            1 => is_refused(
                http,
                "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
            ),
            2 => is_refused(http, &format!("GET / HTTP/1.1\r\nHost: a.test\r\nX: {}\r\n\r\n", "x".repeat(50_000))),
            3 => is_refused(http, "GET /a/..;/b HTTP/1.1\r\nHost: a.test\r\n\r\n"),
            // Half a head, half a handshake: left as they are for a while.
            4 | 5 => {
                let address = if number % 8 == 4 { http } else { self.portunus.https };
                let mut connection = Connection::open(address);
                let half: &[u8] = if number % 8 == 4 { b"GET / HTTP/1.1\r\nHos" } else { b"\x16\x03\x01\x02\x00\x01" };
                connection.send(half);
                held.push_back(connection);
                if held.len() > HELD {
                    held.pop_front();
                }
            }
            6 => {
                let mut connection = RawH2::open(http);
                let fields = [(":method", "GET"), (":scheme", "http"), (":authority", "a.test"), (":path", "/")];
                for stream in (1..200).step_by(2) {
                    connection.headers(stream, h2_raw::END_STREAM, &fields);
                    connection.reset(stream, 8);
                }
                connection.close();
            }
            // An upload that breaks off.
            _ => {
                let mut connection = Connection::open(http);
                connection.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100000\r\n\r\nhello");
                connection.reset();
            }
        });
    }

    /// What resident memory is, in bytes, with the second at which it was.
    fn memory(&self) -> Vec<(f64, f64)> {
        let (start, mut samples) = (Instant::now(), Vec::new());
        while !self.done.load(Ordering::SeqCst) {
            samples.push((start.elapsed().as_secs_f64(), self.portunus.memory("VmRSS:") as f64));
            std::thread::sleep(Duration::from_millis(500));
        }
        samples
    }
}

#[track_caller]
fn is_refused(address: std::net::SocketAddr, request: &str) {
    let answer = h1::responses(&h1::raw(address, request));
    assert!(answer.len() <= 1 && answer.iter().all(|answer| matches!(answer.status, 400 | 431)), "{answer:?}");
}

/// One bad thing after the other.
fn faulty() -> Backend {
    let turn = AtomicUsize::new(0);
    Backend::new(move |exchange| {
        exchange.stop_recording();
        exchange.read_body();
        match turn.fetch_add(1, Ordering::SeqCst) % 5 {
            0 => exchange.close(),
            1 => exchange.reset(),
            2 => drop(exchange.write("\u{1}\u{2}\u{3} not HTTP\r\n\r\n")),
            3 => drop(exchange.write("HTTP/1.1 200 OK\r\nContent-Le")),
            _ => drop(exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")),
        }
        exchange.close();
    })
}

/// A route, endpoints, a certificate, a file that is none.
fn change(folder: &Folder, number: usize, echoes: &[Echo; 2], refusing: &Refusing, identities: &[Identity]) {
    match number % 4 {
        0 => {
            let ingress = Ingress::new("default", "changing").host(&format!("h{number}.test"));
            folder.write("changing.yaml", ingress.prefix("/", "app", 80));
        }
        // An endpoint that nobody listens at is passed over.
        1 => {
            let (echo, refusing) = (echoes[number / 4 % 2].address, refusing.address());
            let addresses = if number % 8 == 1 { vec![echo, refusing] } else { vec![echo] };
            folder.write("coming.yaml", app("default", "coming", &addresses));
        }
        2 => {
            let identity = &identities[number / 4 % identities.len()];
            folder.write("secret.yaml", tls_secret("default", "a", &identity.chain_pem, &identity.key_pem));
        }
        _ => folder.write("bad.yaml", if number % 8 == 3 { "kind: [" } else { "# nothing" }),
    }
}

fn manifests(folder: &Folder, echoes: &[Echo; 2], http2: &HyperBackend, faulty: &Backend) {
    let addresses = [echoes[0].address, echoes[1].address];
    folder.write("app.yaml", app("default", "app", &addresses));
    folder.write("coming.yaml", app("default", "coming", &addresses[..1]));
    folder.write("http2.yaml", app_with("default", "http2", &[http2.address()], "kubernetes.io/h2c"));
    folder.write("faulty.yaml", app("default", "faulty", &[faulty.address()]));
    let ingress = |name| {
        let ingress = Ingress::new("default", name).host("a.test");
        ingress.annotation("nginx.ingress.kubernetes.io/ssl-redirect", "false")
    };
    let good = ingress("good").prefix("/", "app", 80).prefix("/stream", "http2", 80).prefix("/coming", "coming", 80);
    // Its answers are counted by themselves.
    let bad = ingress("bad").prefix("/faulty", "faulty", 80);
    folder.write("ingress.yaml", documents(&[&good.tls(&["a.test"], "a"), &bad]));
}

/// How fast memory grows, in bytes a second, and by how much samples are off that line (standard deviation).
fn slope(samples: &[(f64, f64)]) -> (f64, f64) {
    let count = samples.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| samples.iter().map(of).sum::<f64>() / count;
    let (time, bytes) = (mean(|sample| sample.0), mean(|sample| sample.1));
    let sum = |of: &dyn Fn(&(f64, f64)) -> f64| samples.iter().map(of).sum::<f64>();
    let slope = sum(&|(x, y)| (x - time) * (y - bytes)) / sum(&|(x, _)| (x - time).powi(2));
    let off = sum(&|(x, y)| (y - bytes - slope * (x - time)).powi(2)) / count;
    (slope, off.sqrt())
}

fn open_files(portunus: &Portunus) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", portunus.pid())).expect("open files").count()
}

/// Memory grew no more than noise does, in the last two thirds.
fn assert_no_leak(samples: &[(f64, f64)]) {
    let settled = &samples[samples.len() / 3..];
    let (slope, off) = slope(settled);
    let seconds = settled.last().expect("samples").0 - settled[0].0;
    let (grown, noise) = (slope * seconds, (3.0 * off).max(NOISE));
    let mebi = |bytes: f64| bytes / f64::from(1 << 20);
    for (second, bytes) in samples.iter().step_by((samples.len() / 20).max(1)) {
        println!("  after {second:5.0} s: {:.1} MiB", mebi(*bytes));
    }
    println!(
        "memory: {:.2} KiB a minute over the last {seconds:.0} s, {:.2} MiB in all; noise: {:.2} MiB",
        slope * 60.0 / 1024.0,
        mebi(grown),
        mebi(noise)
    );
    assert!(grown < noise, "memory grows by {grown} bytes in {seconds} s");
}

#[test]
fn soak() {
    let length = scale(Duration::from_secs(60), Duration::from_secs(30 * 60));
    let echoes = [Echo::start(&["--name", "a"]), Echo::start(&["--name", "b"])];
    let (http2, faulty, refusing) = (HyperBackend::h2c(), faulty(), Refusing::new());
    let authority = Authority::new();
    let identities: Vec<_> = (0..4).map(|_| authority.leaf(&["a.test"])).collect();
    let folder = Folder::new();
    manifests(&folder, &echoes, &http2, &faulty);
    change(&folder, 2, &echoes, &refusing, &identities);
    let mut portunus = Portunus::serve(&folder);
    let files = open_files(&portunus);
    let soak =
        Soak { portunus: &portunus, authority: &authority, done: AtomicBool::new(false), counts: Mutex::default() };
    let acts =
        [Soak::http1, Soak::tls, Soak::http2, Soak::websockets, Soak::streams, Soak::bulk, Soak::faults, Soak::attacks];
    let samples = std::thread::scope(|scope| {
        let over = Over(&soak.done);
        let running: Vec<_> = acts.iter().map(|act| scope.spawn(|| act(&soak))).collect();
        scope.spawn(|| {
            let pause = Duration::from_millis(200);
            soak.repeat("changes", pause, |number| change(&folder, number, &echoes, &refusing, &identities));
        });
        let memory = scope.spawn(|| soak.memory());
        let end = Instant::now() + length;
        while Instant::now() < end && !running.iter().any(std::thread::ScopedJoinHandle::is_finished) {
            std::thread::sleep(Duration::from_millis(100));
        }
        drop(over);
        for act in running {
            act.join().expect("an honest client, or one that isn't");
        }
        memory.join().expect("the samples")
    });
    println!("in {} s:", length.as_secs());
    for (what, count) in &*soak.counts.lock().expect("counts") {
        println!("  {} {what}", count.load(Ordering::SeqCst));
    }
    assert_no_leak(&samples);
    assert_all_is_let_go(&portunus, files);
    let failed = |labels: &[&str]| portunus.metric("portunus_requests_total", &[&["class=\"5xx\""], labels].concat());
    let (all, of_faulty) = (failed(&[]), failed(&["route=\"default/bad\""]));
    println!("5xx: {all}, all of them of the faulty endpoint");
    assert_eq!(all, of_faulty, "an error that no endpoint explains");
    assert!(portunus.is_running());
}

/// Tunnels, tables, connections and files are as few as before.
fn assert_all_is_let_go(portunus: &Portunus, files: usize) {
    portunus.wait_metric("portunus_tunnels", &[], |tunnels| tunnels == 0.0);
    portunus.wait_metric("portunus_tables_alive", &[], |tables| tables <= 2.0);
    portunus.wait_metric("portunus_connections", &[], |connections| connections == 0.0);
    eventually("files to be closed", || {
        // Connections to endpoints are kept for a while, and each look at a metric is a connection.
        let kept = portunus.metric("portunus_upstream_connections_open", &[]) as usize;
        (open_files(portunus) <= files + kept + 4).then_some(())
    });
}
