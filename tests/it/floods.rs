//! What a hostile HTTP/2 peer may cost. Each attack runs over one connection, in cleartext and over TLS, beside a
//! client that goes on asking the same worker: that one is answered throughout, the attack's connection ends where it
//! is a flood, and Portunus's memory stays within 16 MiB of what it was. Time on the processor is printed, not asserted.
//! docs/security/floods.md has what was measured. What does several of it at once is in `together`; the same at size is
//! in proof/floods.rs.

mod together;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::Frame;

use crate::harness::h1::Connection;
use crate::harness::h2_raw::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, INDEXED, INITIAL_WINDOW_SIZE, PADDED, PING,
    PRIORITIZED, PRIORITY, RST_STREAM, RawH2, RawH2Backend, SETTINGS, Seen, WINDOW_UPDATE, Watch, block, frame,
    remembered,
};
use crate::harness::hyper_backend::HyperBackend;
use crate::harness::manifests::{app, app_with};
use crate::harness::*;

/// What one connection may pin above what there was before.
pub const PINNED_MAX: u64 = 16 << 20;
/// How a connection ends (RFC 9113, 7).
const NO_ERROR: u32 = 0;
const PROTOCOL_ERROR: u32 = 1;
const CALM: u32 = 11;
const CANCEL: [u8; 4] = 8u32.to_be_bytes();
/// A window that never ends.
pub const ENDLESS: u32 = (1 << 31) - 1;
/// Most streams that a client may have open.
const STREAMS: u32 = 100;

fn fields(path: &'static str) -> [(&'static str, &'static str); 4] {
    [(":method", "GET"), (":scheme", "http"), (":authority", "attack.test"), (":path", path)]
}

/// A request without a body, with these bytes at the end of its header block.
pub fn get(stream: u32, path: &'static str, more: &[u8]) -> Vec<u8> {
    let block = [&block(&fields(path))[..], more].concat();
    let (first, rest) = block.split_at(block.len().min(16_384));
    let flags = if rest.is_empty() { END_HEADERS } else { 0 };
    let mut bytes = frame(HEADERS, END_STREAM | flags, stream, first);
    let count = rest.len().div_ceil(16_384);
    for (number, piece) in rest.chunks(16_384).enumerate() {
        bytes.extend(frame(CONTINUATION, if number + 1 == count { END_HEADERS } else { 0 }, stream, piece));
    }
    bytes
}

/// The head of a request with a body.
fn post(stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
    let fields = [&fields("/silent")[..], more].concat();
    frame(HEADERS, END_HEADERS, stream, &block(&fields))
}

/// Client-initiated streams by their number.
pub fn stream(number: usize) -> u32 {
    2 * number as u32 + 1
}

fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

/// How an attacker comes.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    Cleartext,
    Tls,
}

pub const WAYS: [Way; 2] = [Way::Cleartext, Way::Tls];

impl Way {
    pub fn open(self, portunus: &Portunus, settings: &[(u16, u32)]) -> RawH2 {
        match self {
            Self::Cleartext => RawH2::open_with(portunus.http, settings),
            Self::Tls => RawH2::open_tls(portunus.https, "attack.test", settings),
        }
    }
}

/// Backends for attackers and honest clients, behind one worker.
pub struct Target {
    pub portunus: Portunus,
    pub attacked: Backend,
    _honest: Backend,
    _folder: Folder,
}

/// `/silent` is read and never answered, `/large` has no end, everything else is small.
fn attacked() -> Backend {
    Backend::new(|exchange| {
        exchange.stop_recording();
        let path = exchange.head.word(1).split('?').next();
        match path.unwrap_or_default() {
            "/silent" => {
                exchange.wire.rest();
                exchange.close();
            }
            "/large" => {
                exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n");
                let piece = vec![b'x'; 1 << 20];
                while exchange.write(&piece) {}
                exchange.close();
            }
            _ => exchange.ok("attacked"),
        }
    })
}

impl Target {
    pub fn new() -> Self {
        let attacked = attacked();
        let (folder, honest, portunus) = beside(&app("default", "attacked", &[attacked.address()]));
        Self { portunus, attacked, _honest: honest, _folder: folder }
    }
}

/// What `attack.test` is served by, and an honest backend, behind one worker.
pub fn beside(attacked: &str) -> (Folder, Backend, Portunus) {
    let honest = Backend::named("honest");
    let folder = Folder::new();
    folder.write("attacked.yaml", attacked);
    folder.write("honest.yaml", app("default", "honest", &[honest.address()]));
    folder.write("a.yaml", Ingress::new("default", "a").host("attack.test").prefix("/", "attacked", 80));
    folder.write("h.yaml", Ingress::new("default", "h").host("honest.test").prefix("/", "honest", 80));
    let portunus = Portunus::serve_with(&folder, &["--workers", "1"]);
    (folder, honest, portunus)
}

/// Runs an attack beside an honest client and a look at memory, and says what it cost.
#[track_caller]
pub fn under<T>(portunus: &Portunus, name: &str, attack: impl FnOnce() -> T) -> T {
    let mut client = Connection::open(portunus.http);
    (0..20).for_each(|_| assert_eq!(client.get("honest.test", "/").text(), "honest"));
    let (calm, threads) = (portunus.memory("RssAnon:"), portunus.threads());
    let (over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (result, peak) = scope(|scope| {
        let guard = Over(&over);
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                assert_eq!(client.get("honest.test", "/").text(), "honest");
                answered.fetch_add(1, Ordering::SeqCst);
            }
        });
        let peak = scope.spawn(|| {
            let mut peak = 0;
            while !over.load(Ordering::SeqCst) {
                peak = portunus.memory("RssAnon:").max(peak);
                sleep(Duration::from_millis(2));
            }
            peak
        });
        let result = attack();
        let before = answered.load(Ordering::SeqCst);
        eventually("answers to honest clients", || (answered.load(Ordering::SeqCst) > before + 5).then_some(()));
        drop(guard);
        (result, peak.join().expect("the look at memory"))
    });
    let (pinned, cost) = (peak.saturating_sub(calm), portunus.threads().since(&threads).others);
    let (pinned_mib, answered) = (pinned as f64 / f64::from(1 << 20), answered.into_inner());
    println!("{name}: {pinned_mib:.1} MiB above calm, {cost:.0?} of processor, {answered} honest answers meanwhile");
    assert!(pinned < PINNED_MAX, "{name}: {pinned} bytes above calm");
    result
}

/// Sends what `round` makes, again and again, until the connection has ended; how often, and how it ended.
#[track_caller]
fn flood(target: &Target, way: Way, first: &[u8], rounds: usize, round: impl Fn(usize) -> Vec<u8>) -> (usize, Seen) {
    let mut client = way.open(&target.portunus, &[]);
    let watch = client.watch();
    client.send(first);
    let sent = (0..rounds).take_while(|number| client.send(&round(*number)) && !watch.seen().closed).count();
    let seen = eventually("the end of the connection", || Some(watch.seen()).filter(|seen| seen.closed));
    (sent, seen)
}

/// Ends with a GOAWAY of this code, however it comes.
#[track_caller]
fn assert_ends(name: &str, code: u32, first: &[u8], round: impl Fn(usize) -> Vec<u8>) {
    for way in WAYS {
        let seen = ends(name, way, first, 200_000, &round);
        assert_eq!(seen.go_away, Some(code), "{name}, {way:?}: {seen:?}");
    }
}

/// How a flood ends.
#[track_caller]
fn ends(name: &str, way: Way, first: &[u8], rounds: usize, round: impl Fn(usize) -> Vec<u8>) -> Seen {
    let (name, target) = (format!("{name}, {way:?}"), Target::new());
    let (sent, seen) = under(&target.portunus, &name, || flood(&target, way, first, rounds, round));
    println!("{name}: ended after {sent} rounds: {seen:?}");
    seen
}

#[test]
fn rapid_resets() {
    let pair = |number| [get(stream(number), "/silent", &[]), frame(RST_STREAM, 0, stream(number), &CANCEL)].concat();
    assert_ends("rapid reset, as fast as it goes", CALM, &[], pair);
    WAYS.into_iter().for_each(resets_one_by_one);
}

/// Answers are read before more is asked: a GOAWAY behind many that wait is lost when the connection is closed with
/// bytes of its client's unread, and the reset overtakes it.
fn pings_and_their_answers(way: Way) {
    const ROUND: usize = 100;
    let target = Target::new();
    under(&target.portunus, &format!("PING, {way:?}"), || {
        let mut client = way.open(&target.portunus, &[]);
        let watch = client.watch();
        let mut sent = 0;
        while !watch.seen().closed {
            client.send(&frame(PING, 0, 0, b"are you?").repeat(ROUND));
            sent += ROUND;
            watch.wait("their answers", |seen| seen.pings >= sent || seen.closed);
            assert!(sent < 1_000_000, "no end");
        }
        println!("PING: ended after {sent}: {:?}", watch.seen());
        assert_eq!(watch.seen().go_away, Some(CALM));
    });
}

/// Each is accepted, sent upstream and cancelled before the next.
fn resets_one_by_one(way: Way) {
    let target = Target::new();
    under(&target.portunus, &format!("rapid reset, one by one, {way:?}"), || {
        let mut client = way.open(&target.portunus, &[]);
        let watch = client.watch();
        let mut sent = 0;
        while !watch.seen().closed {
            let ping = frame(PING, 0, 0, b"are you?");
            client.send(&[get(stream(sent), "/silent", &[]), ping].concat());
            watch.wait("a pong", |seen| seen.pings > sent || seen.closed);
            client.send(&frame(RST_STREAM, 0, stream(sent), &CANCEL));
            sent += 1;
            assert!(sent < 50_000, "no end");
        }
        println!("rapid reset, one by one: ended after {sent}: {:?}", watch.seen());
        assert_eq!(watch.seen().go_away, Some(CALM));
    });
    target.portunus.wait_metric("portunus_http2_floods_total", &["client"], |floods| floods == 1.0);
}

#[test]
fn made_you_reset() {
    let with = |number: usize, more: Vec<u8>| [get(stream(number), "/silent", &[]), more].concat();
    assert_ends("a window that overflows", CALM, &[], |number| with(number, window_update(stream(number), ENDLESS)));
    assert_ends("an increment of nothing", PROTOCOL_ERROR, &[], |number| {
        with(number, window_update(stream(number), 0))
    });
    assert_ends("content behind the end", PROTOCOL_ERROR, &[], |number| {
        with(number, frame(DATA, 0, stream(number), b"more"))
    });
    assert_ends("a head behind the end", PROTOCOL_ERROR, &[], |number| {
        with(number, get(stream(number), "/silent", &[]))
    });
    assert_ends("a stream that depends on itself", CALM, &[], |number| {
        let own = stream(number).to_be_bytes();
        with(number, frame(PRIORITY, 0, stream(number), &[&own[..], &[0]].concat()))
    });
    assert_ends("a head that depends on itself", CALM, &[], |number| {
        let payload = [&stream(number).to_be_bytes()[..], &[0], &block(&fields("/silent"))].concat();
        frame(HEADERS, END_STREAM | END_HEADERS | PRIORITIZED, stream(number), &payload)
    });
    assert_ends("content longer than its length", CALM, &[], |number| {
        let head = post(stream(number), &[("content-length", "3")]);
        [head, frame(DATA, 0, stream(number), b"four")].concat()
    });
    assert_ends("a malformed head", PROTOCOL_ERROR, &[], |number| {
        frame(HEADERS, END_STREAM | END_HEADERS, stream(number), &block(&[("X-UPPER", "x")]))
    });
    assert_ends("a head of nothing", CALM, &[], |number| frame(HEADERS, END_STREAM | END_HEADERS, stream(number), &[]));
    assert_ends("more streams than there may be", CALM, &[], |number| get(stream(number), "/silent", &[]));
}

#[test]
fn continuations() {
    let begin = frame(HEADERS, END_STREAM, 1, &block(&fields("/")));
    let field = block(&[("x", "y")]);
    let large = block(&[("x", &"y".repeat(16_000))]);
    assert_ends("CONTINUATION without content", CALM, &begin, |_| frame(CONTINUATION, 0, 1, &[]));
    assert_ends("CONTINUATION with a field", CALM, &begin, |_| frame(CONTINUATION, 0, 1, &field));
    assert_ends("CONTINUATION with 16 KB", CALM, &begin, |_| frame(CONTINUATION, 0, 1, &large));
    // A string that says it goes on and on.
    let endless = [0x10, 1, b'x', 127, 0xff, 0xff, 0x7f];
    let begin = frame(HEADERS, END_STREAM, 1, &[&block(&fields("/"))[..], &endless].concat());
    assert_ends("CONTINUATION of one string", CALM, &begin, |_| frame(CONTINUATION, 0, 1, &[b'y'; 16_000]));
}

#[test]
fn frames_of_content_without_content() {
    let begin = post(1, &[]);
    assert_ends("empty DATA", CALM, &begin, |_| frame(DATA, 0, 1, &[]));
    assert_ends("DATA of padding", CALM, &begin, |_| frame(DATA, PADDED, 1, &[0]));
    // Nobody reads it: the endpoint's buffers fill first.
    let begin: Vec<u8> = (0..STREAMS as usize).flat_map(|number| post(stream(number), &[])).collect();
    for way in WAYS {
        let target = Target::new();
        under(&target.portunus, &format!("DATA of one byte, on 100 streams, {way:?}"), || {
            let mut client = way.open(&target.portunus, &[]);
            let watch = client.watch();
            client.send(&begin);
            for _ in 0..scale(60, 600) {
                let burst = (0..STREAMS as usize).flat_map(|number| frame(DATA, 0, stream(number), b"x").repeat(100));
                if !client.send(&burst.collect::<Vec<u8>>()) || watch.seen().closed {
                    break;
                }
            }
            println!("DATA of one byte, {way:?}: {:?}", watch.seen());
        });
    }
}

#[test]
fn frames_that_only_cost_work() {
    assert_ends("SETTINGS", CALM, &[], |_| frame(SETTINGS, 0, 0, &[]).repeat(10));
    let streams: Vec<u8> = (0..STREAMS as usize).flat_map(|number| get(stream(number), "/silent", &[])).collect();
    assert_ends("SETTINGS that change 100 windows", CALM, &streams, |number| {
        let window = 65_535 + number as u32 % 2;
        frame(SETTINGS, 0, 0, &[&INITIAL_WINDOW_SIZE.to_be_bytes()[..], &window.to_be_bytes()].concat())
    });
    WAYS.into_iter().for_each(pings_and_their_answers);
    assert_ends("PING that answers nothing", CALM, &[], |_| frame(PING, 1, 0, b"I am....").repeat(100));
    assert_ends("WINDOW_UPDATE", CALM, &[], |_| window_update(0, 1).repeat(100));
    assert_ends("WINDOW_UPDATE of a stream", CALM, &get(1, "/silent", &[]), |_| window_update(1, 1).repeat(100));
    assert_ends("PRIORITY", CALM, &[], |number| {
        (0..100).flat_map(|more| frame(PRIORITY, 0, stream(100 * number + more), &[0, 0, 0, 0, 7])).collect()
    });
    assert_ends("frames of no known kind", CALM, &[], |_| frame(0xfa, 0, 0, b"what?").repeat(100));
    assert_ends("large frames of no known kind", CALM, &[], |_| frame(0xfa, 0, 0, &[0; 16_000]));
    assert_ends("RST_STREAM of a stream that has ended", CALM, &get(1, "/", &[]), |_| frame(RST_STREAM, 0, 1, &CANCEL));
    assert_ends("GOAWAY", NO_ERROR, &[], |_| frame(GOAWAY, 0, 0, &[0; 8]).repeat(100));
}

#[test]
fn header_blocks_that_grow() {
    let large = remembered("x", &"y".repeat(4000));
    let bomb = [large, vec![INDEXED; 12_000]].concat();
    assert_ends("a field of 4 KB, 12,000 times by one byte each", CALM, &[], |number| get(stream(number), "/", &bomb));
    // Just within the limit of a list, as often as streams may be open, and nobody reads the answers.
    let crumbs = [remembered("cookie", "a"), vec![INDEXED; 950]].concat();
    let names: Vec<String> = (0..1100).map(|n| format!("x{}{}", base36(n / 36), base36(n % 36))).collect();
    let tiny: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    let cookie = "c".repeat(39 << 10);
    // What is large waits until there is room for it beside the others.
    for (name, path, more, begun) in [
        ("950 crumbs of a cookie by one byte each", "/large", crumbs, 17),
        ("1,100 fields with tiny names", "/large", block(&tiny), STREAMS as usize),
        ("a cookie of 39 KB", "/silent", block(&[("cookie", &cookie)]), 16),
    ] {
        for way in WAYS {
            pile_up(name, way, path, &more, begun);
        }
    }
}

/// Begins 100 requests with such a head and no window, and does no more. So many come to their endpoint.
fn pile_up(name: &str, way: Way, path: &'static str, more: &[u8], begun: usize) {
    let target = Target::new();
    under(&target.portunus, &format!("{name}, on 100 streams, {way:?}"), || {
        let mut client = way.open(&target.portunus, &[(INITIAL_WINDOW_SIZE, 0)]);
        let watch = client.watch();
        for number in 0..STREAMS as usize {
            client.send(&get(stream(number), path, more));
        }
        match path {
            "/silent" => target.attacked.wait_count(begun),
            _ => drop(watch.wait("heads", |seen| seen.heads + seen.resets >= begun)),
        }
        settle(&watch);
    });
}

fn base36(digit: usize) -> char {
    char::from_digit(digit as u32, 36).expect("a digit")
}

/// Lets what was begun pile up: there is nothing that tells when it has.
fn settle(watch: &Watch) {
    let mut before = (0, Instant::now());
    while before.1.elapsed() < Duration::from_millis(500) {
        let data = watch.seen().data;
        if data != before.0 {
            before = (data, Instant::now());
        }
        sleep(Duration::from_millis(20));
    }
}

/// Begins 100 streams of large answers with such a window, and does no more.
fn shut(target: &Target, way: Way, (name, window): (&str, u32), warm: bool) {
    under(&target.portunus, &format!("{name}, {way:?}"), || {
        let mut client = way.open(&target.portunus, &[(INITIAL_WINDOW_SIZE, window)]);
        let watch = client.watch();
        client.send(&window_update(0, ENDLESS - 65_535));
        client.send(&(0..STREAMS as usize).flat_map(|number| get(stream(number), "/large", &[])).collect::<Vec<_>>());
        watch.wait("100 heads", |seen| seen.heads == STREAMS as usize);
        if warm {
            // What reads from endpoints grows its buffers; then the window shuts.
            watch.wait("much of each", |seen| seen.data >= STREAMS as usize * window as usize);
        }
        settle(&watch);
    });
}

#[test]
fn windows_that_stay_shut() {
    for (case, warm) in [
        (("no window, large answers on 100 streams", 0), false),
        (("a window of one byte, likewise", 1), false),
        (("a window of 512 KiB and then none, likewise", 1 << 19), true),
    ] {
        for way in WAYS {
            shut(&Target::new(), way, case, warm);
        }
    }
    // Connections to endpoints that have seen much, and then the same once more.
    let target = Target::new();
    shut(&target, Way::Cleartext, ("a window of 512 KiB", 1 << 19), true);
    shut(&target, Way::Cleartext, ("a window of 512 KiB again", 1 << 19), true);
}

#[test]
fn answers_that_nobody_reads() {
    let gets: Vec<u8> = (0..STREAMS as usize).flat_map(|number| get(stream(number), "/large", &[])).collect();
    for way in WAYS {
        let target = Target::new();
        under(&target.portunus, &format!("100 streams with endless windows, and no byte read, {way:?}"), || {
            let mut client = way.open(&target.portunus, &[(INITIAL_WINDOW_SIZE, ENDLESS)]);
            client.send(&window_update(0, ENDLESS - 65_535));
            client.send(&gets);
            target.attacked.wait_count(STREAMS as usize);
            // Until all buffers on the way are full; nothing tells when.
            sleep(Duration::from_secs(1));
        });
    }
}

/// What clients send faster than an endpoint takes it waits with them.
#[test]
fn uploads_that_no_endpoint_takes() {
    let deaf = Deaf::new();
    let (_folder, _honest, portunus) = beside(&app("default", "attacked", &[deaf.address()]));
    let sent = Arc::new(AtomicUsize::new(0));
    under(&portunus, "100 uploads that the endpoint does not take", || {
        run(async {
            let connection = h2::Connection::cleartext(portunus.http).await;
            for _ in 0..STREAMS {
                let (sender, body) = h2::fed();
                let (mut connection, sent) = (connection.clone(), sent.clone());
                let request = http::Request::post("http://attack.test/").body(body).expect("a request");
                tokio::spawn(async move { connection.start(request).await });
                tokio::spawn(async move {
                    while sender.send(Frame::data(Bytes::from_static(&[b'x'; 16_384]))).await.is_ok() {
                        sent.fetch_add(16_384, Ordering::SeqCst);
                    }
                });
            }
            let mut before = (0, Instant::now());
            while before.1.elapsed() < Duration::from_millis(500) {
                let now = sent.load(Ordering::SeqCst);
                if now != before.0 {
                    before = (now, Instant::now());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    });
    let sent = sent.load(Ordering::SeqCst);
    println!("{:.1} MiB were sent", sent as f64 / f64::from(1 << 20));
    assert!(sent > STREAMS as usize * 65_536, "{sent} bytes were sent");
}

/// In cleartext.
fn over_http2(address: SocketAddr) -> String {
    app_with("default", "attacked", &[address], "kubernetes.io/h2c")
}

#[test]
fn answers_that_nobody_reads_leave_others_their_share_of_an_endpoint_s_connection() {
    // As many as share a connection to an endpoint, but for one.
    let streams = STREAMS as usize - 1;
    let backend = RawH2Backend::new(move |connection, stream, number| {
        if number >= streams {
            return connection.ok(stream);
        }
        connection.frame(HEADERS, END_HEADERS, stream, &block(&[(":status", "200")]));
        // All that the stream's window allows.
        (0..4).for_each(|_| connection.data(stream, 0, &[b'x'; 16_000]));
    });
    let (_folder, _honest, portunus) = beside(&over_http2(backend.address));
    under(&portunus, "99 streams to one HTTP/2 endpoint, and no window", || {
        let mut client = RawH2::open_with(portunus.http, &[(INITIAL_WINDOW_SIZE, 0)]);
        let watch = client.watch();
        client.send(&(0..streams).flat_map(|number| get(stream(number), "/", &[])).collect::<Vec<_>>());
        watch.wait("their heads", |seen| seen.heads == streams);
        settle(&watch);
        assert_eq!(Connection::open(portunus.http).get("attack.test", "/").status, 200);
    });
    assert_eq!(backend.connections(), 1);
}

/// What an HTTP/2 endpoint does instead of an answer; false when nobody listens any more.
type Misdeed = fn(&mut RawH2, u32) -> bool;

fn again(connection: &mut RawH2, bytes: &[u8], times: usize) -> bool {
    (0..times).all(|_| connection.send(bytes))
}

#[test]
fn endpoints_that_flood() {
    let misdeeds: [(&str, Misdeed); 9] = [
        ("resets", |connection, stream| {
            connection.reset(stream, 2);
            true
        }),
        ("PING", |connection, _| again(connection, &frame(PING, 0, 0, b"are you?"), 40_000)),
        ("SETTINGS", |connection, _| again(connection, &frame(SETTINGS, 0, 0, &[]), 40_000)),
        ("WINDOW_UPDATE", |connection, _| again(connection, &window_update(0, 1), 40_000)),
        ("frames of no known kind", |connection, _| again(connection, &frame(0xfa, 0, 0, b"what?"), 40_000)),
        ("103 Early Hints", |connection, stream| {
            let head = frame(HEADERS, END_HEADERS, stream, &block(&[(":status", "103"), ("link", "</a>")]));
            again(connection, &head, 40_000)
        }),
        ("empty DATA", |connection, stream| {
            connection.frame(HEADERS, END_HEADERS, stream, &block(&[(":status", "200")]));
            again(connection, &frame(DATA, 0, stream, &[]), 40_000)
        }),
        ("CONTINUATION", |connection, stream| {
            connection.frame(HEADERS, 0, stream, &block(&[(":status", "200")]));
            again(connection, &frame(CONTINUATION, 0, stream, &block(&[("x", "y")])), 40_000)
        }),
        ("a head that grows", |connection, stream| {
            let bomb = [block(&[(":status", "200")]), remembered("x", &"y".repeat(4000)), vec![INDEXED; 12_000]];
            connection.frame(HEADERS, END_HEADERS, stream, &bomb.concat());
            true
        }),
    ];
    for (name, misdeed) in misdeeds {
        let backend = RawH2Backend::new(move |connection, stream, _| {
            misdeed(connection, stream);
        });
        let (_folder, _honest, portunus) = beside(&over_http2(backend.address));
        let requests = if name == "resets" { scale(200, 5000) } else { 3 };
        under(&portunus, &format!("an endpoint: {name}"), || {
            for _ in 0..requests {
                // An answer whose head had come is cut off.
                let mut client = Connection::open(portunus.http);
                client.send("GET / HTTP/1.1\r\nHost: attack.test\r\n\r\n");
                let answer = client.try_response(false);
                let told = answer.as_ref().is_ok_and(|answer| answer.status == 502 || !answer.complete);
                assert!(told || answer.is_err(), "{name}: {answer:?}");
            }
        });
    }
}

#[test]
fn clients_that_answer_each_frame_are_no_flood() {
    let messages = scale(20_000, 200_000);
    let backend = HyperBackend::h2c();
    let folder = Folder::new();
    folder.write("app.yaml", app_with("default", "app", &[backend.address()], "kubernetes.io/h2c"));
    folder.write("ingress.yaml", Ingress::new("default", "a").prefix("/", "app", 80));
    let portunus = Portunus::serve_with(&folder, &["--workers", "1"]);
    let mut client = RawH2::open(portunus.http);
    client.send(&frame(HEADERS, END_HEADERS, 1, &block(&fields("/stream"))));
    let (mut sent, mut back) = (0, 0);
    while back < 5 * messages {
        // Many small messages in one write: h2 allows for some 2,000 that their endpoint hasn't read yet.
        if sent == back / 5 {
            let burst = 1500.min(messages - sent);
            assert!(client.send(&frame(DATA, 0, 1, b"hello").repeat(burst)), "after {sent} messages");
            sent += burst;
        }
        let (kind, flags, _, payload) =
            client.read_frame().unwrap_or_else(|| panic!("the end after {sent} messages, {back} bytes back"));
        match kind {
            DATA => {
                back += payload.len();
                let increment = payload.len() as u32;
                let ping = frame(PING, 0, 0, b"how far?");
                client.send(&[window_update(0, increment), window_update(1, increment), ping].concat());
            }
            SETTINGS if flags == 0 => drop(client.send(&frame(SETTINGS, 1, 0, &[]))),
            GOAWAY | RST_STREAM => panic!("after {sent} messages, {back} bytes back: {payload:?}"),
            _ => {}
        }
    }
    assert_eq!(portunus.metric("portunus_http2_floods_total", &[]), 0.0);
}

#[test]
fn requests_that_are_answered_and_then_cancelled_are_no_flood() {
    let requests = scale(5_000, 50_000);
    let target = Target::new();
    let mut client = RawH2::open(target.portunus.http);
    let watch = client.watch();
    for number in 0..requests {
        client.send(&get(stream(number), "/", &[]));
        watch.wait("an answer", |seen| seen.heads > number || seen.closed);
        assert!(client.send(&frame(RST_STREAM, 0, stream(number), &CANCEL)), "after {number}: {:?}", watch.seen());
    }
    assert!(!watch.seen().closed && watch.seen().go_away.is_none(), "{:?}", watch.seen());
}

#[test]
fn a_large_upload_is_no_flood() {
    let length = scale(32 << 20, 1 << 30);
    let backend = Backend::new(move |exchange| {
        let count = exchange.discard(length as u64);
        exchange.ok(&count.to_string());
    });
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve_with(&folder, &["--workers", "1"]);
    let answer = run(async {
        let mut connection = h2::Connection::cleartext(portunus.http).await;
        let (sender, body) = h2::fed();
        let request = http::Request::post("http://a.test/").header("content-length", length.to_string());
        let sending = tokio::spawn(async move {
            // Pieces from one byte to 64 KiB.
            let (mut left, mut size) = (length, 1);
            while left > 0 {
                let piece = Bytes::from(vec![b'x'; size.min(left)]);
                left -= piece.len();
                size = if size == 1 << 16 { 1 } else { size * 2 };
                sender.send(Frame::data(piece)).await.expect("a piece");
            }
        });
        let answer = connection.send(request.body(body).expect("a request")).await;
        sending.await.expect("the pieces");
        answer
    });
    assert_eq!(answer.text(), length.to_string());
}
