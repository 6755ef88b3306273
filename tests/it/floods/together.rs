//! What one connection pins that does several things at once: the longest heads, bodies that no endpoint takes or that
//! are read whole first, and answers that nobody reads. Its bound is that of each attack alone.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http::request::Builder;
use http_body_util::BodyExt;
use hyper::body::Frame;

use super::{STREAMS, WAYS, Way, attacked, under};
use crate::harness::h2::Outgoing;
use crate::harness::manifests::app;
use crate::harness::tls::Client;
use crate::harness::*;

const PIECE: &[u8] = &[b'x'; 16 << 10];
/// What is read whole, and what no endpoint takes, or the kernel for it.
const WHOLE_BYTES: usize = 1 << 20;
const ENDLESS_BYTES: usize = 1 << 30;
/// More of those than a connection may have.
const WHOLE: usize = 8;
/// What is read of an answer, so that all buffers on its way grow, before no more is.
const READ_BYTES: usize = 512 << 10;

/// `/large` answers without an end and reads nothing, whoever gets `/upload` takes nothing, and who is honest is served.
struct Hosts {
    portunus: Portunus,
    _backends: [Backend; 2],
    _deaf: Deaf,
    _folder: Folder,
}

impl Hosts {
    fn new(keys: &[(&str, &str)]) -> Self {
        let (backends, deaf, folder) = ([attacked(), Backend::named("honest")], Deaf::new(), Folder::new());
        folder.write("large.yaml", app("default", "large", &[backends[0].address()]));
        folder.write("honest.yaml", app("default", "honest", &[backends[1].address()]));
        folder.write("deaf.yaml", app("default", "deaf", &[deaf.address()]));
        let attacked = Ingress::new("default", "a").host("attack.test").asks(keys);
        folder.write("a.yaml", attacked.prefix("/", "large", 80).prefix("/upload", "deaf", 80));
        folder.write("h.yaml", Ingress::new("default", "h").host("honest.test").prefix("/", "honest", 80));
        let portunus = Portunus::serve_with(&folder, &["--workers", "1"]);
        Self { portunus, _backends: backends, _deaf: deaf, _folder: folder }
    }
}

async fn open(way: Way, portunus: &Portunus) -> h2::Connection {
    match way {
        Way::Cleartext => h2::Connection::cleartext(portunus.http).await,
        Way::Tls => h2::Connection::tls(portunus.https, &Client::new().alpn(&["h2"]), "attack.test").await.0,
    }
}

/// Begins an upload, and goes on for as long as it is taken.
fn upload(connection: &h2::Connection, bytes: usize, request: Builder, moved: Arc<AtomicUsize>) {
    let (sender, body) = h2::fed();
    let request = request.header("content-length", bytes).body(body).expect("a request");
    let mut connection = connection.clone();
    tokio::spawn(async move { connection.start(request).await });
    tokio::spawn(async move {
        for _ in 0..bytes / PIECE.len() {
            if sender.send(Frame::data(Bytes::from_static(PIECE))).await.is_err() {
                return;
            }
            moved.fetch_add(PIECE.len(), Ordering::SeqCst);
        }
    });
}

/// Reads the beginning of an answer, and leaves the rest.
fn download(connection: &h2::Connection, request: Request<Outgoing>, moved: Arc<AtomicUsize>) {
    let mut connection = connection.clone();
    tokio::spawn(async move {
        let Ok(mut answer) = connection.start(request).await else { return };
        let mut read = 0;
        while read < READ_BYTES {
            let Some(Ok(frame)) = answer.body_mut().frame().await else { return };
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            read += bytes;
            moved.fetch_add(bytes, Ordering::SeqCst);
        }
        std::future::pending::<()>().await;
    });
}

/// A cookie, as long as it may be; as many crumbs of one as there may be, which take more than they weigh; and one that
/// is not yet large.
const COOKIES: [(usize, usize); 3] = [(39 << 10, 1), (1, 950), (7 << 10, 1)];

/// Begins 100 requests with so many cookies of this length, some of them uploads, and waits until nothing moves any more.
fn pile_up(way: Way, keys: &[(&str, &str)], uploads: usize, (bytes, times): (usize, usize)) {
    let name =
        format!("{uploads} uploads, {} unread answers, {times} cookies of {bytes} bytes", STREAMS as usize - uploads);
    let hosts = Hosts::new(keys);
    let (portunus, moved) = (&hosts.portunus, Arc::new(AtomicUsize::new(0)));
    under(portunus, &format!("{name}, {way:?}"), || {
        run(async {
            let connection = open(way, portunus).await;
            let cookie = "c".repeat(bytes);
            for number in 0..STREAMS as usize {
                let request = (0..times).fold(Request::builder(), |request, _| request.header("cookie", &cookie));
                if number < uploads {
                    let bytes = if number < WHOLE { WHOLE_BYTES } else { ENDLESS_BYTES };
                    let request = request.method("POST").uri("http://attack.test/upload");
                    upload(&connection, bytes, request, moved.clone());
                } else {
                    let request = request.uri("http://attack.test/large").body(h2::empty()).expect("a request");
                    download(&connection, request, moved.clone());
                }
            }
            let mut before = (0, Instant::now());
            while before.1.elapsed() < Duration::from_millis(500) {
                let now = moved.load(Ordering::SeqCst);
                if now != before.0 {
                    before = (now, Instant::now());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    });
    let moved = moved.load(Ordering::SeqCst);
    println!("{name}, {way:?}: {:.1} MiB were moved", moved as f64 / f64::from(1 << 20));
    assert!(moved >= WHOLE_BYTES, "{moved} bytes were moved");
}

const ALL: [(Way, (usize, usize)); 4] =
    [(Way::Cleartext, COOKIES[0]), (Way::Tls, COOKIES[0]), (Way::Cleartext, COOKIES[1]), (Way::Cleartext, COOKIES[2])];

#[test]
fn large_heads_wait_for_those_before_them_and_are_answered() {
    let hosts = Hosts::new(&[]);
    let cookie = "c".repeat(30 << 10);
    run(async {
        let connection = open(Way::Cleartext, &hosts.portunus).await;
        let ask = |_| {
            let mut connection = connection.clone();
            let request = Request::get("http://honest.test/").header("cookie", &cookie).body(h2::empty());
            tokio::spawn(async move { connection.send(request.expect("a request")).await.text() })
        };
        let asked: Vec<_> = (0..STREAMS).map(ask).collect();
        for answer in asked {
            assert_eq!(answer.await.expect("an answer"), "honest");
        }
    });
}

#[test]
fn long_heads_and_bodies_that_nobody_takes() {
    for (way, cookies) in ALL {
        pile_up(way, &[], STREAMS as usize, cookies);
    }
}

#[test]
fn long_heads_and_whole_bodies_and_answers_that_nobody_reads() {
    let keys = [("proxy-request-buffering", "on")];
    for (way, cookies) in ALL {
        for uploads in [WHOLE, 50] {
            pile_up(way, &keys, uploads, cookies);
        }
    }
}

/// Writes for as long as any of it is taken.
fn fill(stream: &mut impl Write) -> usize {
    let mut sent = 0;
    while let Ok(count @ 1..) = stream.write(PIECE) {
        sent += count;
    }
    sent
}

#[test]
fn the_longest_head_and_a_body_that_nobody_takes_behind_an_answer_that_nobody_reads() {
    let target = format!("/large?{}", "q".repeat(15 << 10));
    let cookie = "c".repeat(39 << 10);
    let head = format!("POST {target} HTTP/1.1\r\nHost: attack.test\r\nCookie: {cookie}\r\n");
    // A body of any length; and one that ends, with another request behind it.
    for rest in ["Content-Length: 100000000000\r\n\r\n".to_owned(), format!("Content-Length: 1\r\n\r\nx{head}")] {
        for way in WAYS {
            let hosts = Hosts::new(&[]);
            let portunus = &hosts.portunus;
            let sent = under(portunus, &format!("all that one HTTP/1.1 connection can pin, {way:?}"), || {
                let bytes = format!("{head}{rest}");
                let patience = Some(Duration::from_millis(500));
                match way {
                    Way::Cleartext => {
                        let mut stream = h1::connect(portunus.http);
                        stream.write_all(bytes.as_bytes()).expect("the head");
                        stream.set_write_timeout(patience).expect("a time limit");
                        fill(&mut stream)
                    }
                    Way::Tls => {
                        let (connection, _) = Client::new().connect(portunus.https, "attack.test");
                        let mut stream = connection.wire.stream;
                        stream.write_all(bytes.as_bytes()).expect("the head");
                        stream.sock.set_write_timeout(patience).expect("a time limit");
                        fill(&mut stream)
                    }
                }
            });
            println!("{sent} bytes were taken behind the head, {way:?}");
        }
    }
}
