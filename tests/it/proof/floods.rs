//! Attacks at size: several attackers that come back as soon as they are cut off, in cleartext and over TLS, beside an
//! honest client; slow clients by the thousand; and all of it at once. What the honest wait is printed beside its goal
//! (see `harness::fair`), never asserted; that they are served is.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::scope;
use std::time::Duration;

use crate::floods::{PINNED_MAX, WAYS, Way, beside, get, stream};
use crate::harness::attacker::{Attacker, Mute, PIECE_BYTES};
use crate::harness::fair::{self, Rounds};
use crate::harness::h1::Connection;
use crate::harness::h2_raw::{CONTINUATION, END_STREAM, HEADERS, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame};
use crate::harness::manifests::app;
use crate::harness::tls::Client;
use crate::harness::*;
use crate::slow::{self, Slow};

type Round = fn(usize) -> Vec<u8>;

/// Cuts rapid resets so that many a request is there before its reset is: those are accepted, and sent to the endpoint.
const RESET_PIECE_BYTES: usize = 90;

const ATTACKS: [(&str, Round); 5] = [
    ("rapid reset", |number| {
        [get(stream(number), "/silent", &[]), frame(RST_STREAM, 0, stream(number), &[0, 0, 0, 8])].concat()
    }),
    ("CONTINUATION", |number| match number {
        0 => frame(HEADERS, END_STREAM, 1, b"\x82"),
        _ => frame(CONTINUATION, 0, 1, &[]).repeat(10),
    }),
    ("PING", |_| frame(PING, 0, 0, b"are you?").repeat(10)),
    ("SETTINGS", |_| frame(SETTINGS, 0, 0, &[])),
    ("WINDOW_UPDATE", |_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]).repeat(10)),
];

#[test]
fn honest_clients_are_served_while_attackers_come_back_again_and_again() {
    fair::apart(|| {
        for (name, round) in ATTACKS {
            for way in WAYS {
                served_beside(&format!("{name}, {way:?}"), way, round, PIECE_BYTES);
            }
        }
        let (name, resets) = ATTACKS[0];
        for way in WAYS {
            served_beside(&format!("{name} by pieces, {way:?}"), way, resets, RESET_PIECE_BYTES);
        }
    });
}

fn served_beside(name: &str, way: Way, round: Round, piece_bytes: usize) {
    let (attackers, rounds, time) = (scale(2, 4), scale(1, 5), Duration::from_millis(scale(300, 2000)));
    let mute = fair::behind_all(Mute::new);
    let (_folder, _honest, portunus) = beside(&app("default", "attacked", &[mute.address]));
    fair::gets_a_core(&portunus);
    let attacker = attacker(&portunus, way, round).by_pieces(piece_bytes);
    let (mut waits, cut_off) = (Rounds::default(), AtomicUsize::new(0));
    let (before, mut spent) = (portunus.memory("RssAnon:"), Duration::ZERO);
    for _ in 0..rounds {
        let calm = fair::ask(&portunus, time);
        let (over, threads, begun) = (AtomicBool::new(false), portunus.threads(), cut_off.load(Ordering::SeqCst));
        let times = scope(|scope| {
            let _over = Over(&over);
            for _ in 0..attackers {
                scope.spawn(|| attacker.come_back(&over, &cut_off));
            }
            eventually("attackers to be cut off", || {
                (cut_off.load(Ordering::SeqCst) >= begun + attackers).then_some(())
            });
            fair::ask(&portunus, time)
        });
        spent += portunus.threads().since(&threads).others;
        waits.add(calm, times);
    }
    waits.report(&format!("{name} by {attackers} attackers"));
    println!(
        "{name}: {} connections were cut off, {} requests reached the endpoint, {:.0} % of a processor, \
         {:.1} MiB more than before",
        cut_off.into_inner(),
        mute.connections(),
        100.0 * spent.as_secs_f64() / (time * rounds).as_secs_f64(),
        super::mebibytes(portunus.memory("RssAnon:").saturating_sub(before))
    );
}

fn attacker(portunus: &Portunus, way: Way, round: Round) -> Attacker {
    match way {
        Way::Cleartext => Attacker::in_cleartext(portunus.http, round),
        Way::Tls => Attacker::over_tls(portunus.https, round),
    }
}

#[test]
fn slow_connections_by_the_thousand() {
    let (count, rounds, seconds) = (scale(200, 4000), scale(1, 3), scale(1, 5));
    fair::apart(|| slow::honest_clients_are_served_beside(count, rounds, Duration::from_secs(seconds)));
}

/// What an idle connection may take, in bytes, also before it has given its buffers back.
const IDLE_MAX: u64 = 64 << 10;

/// Connections that were answered and then say nothing, every other over TLS.
struct Idle(Vec<Connection<TcpStream>>, Vec<Connection<tls::Stream>>);

impl Idle {
    fn many(count: usize, portunus: &Portunus) -> Self {
        let client = Client::new();
        let open = |_| (Connection::open(portunus.http), client.connect(portunus.https, "honest.test").0);
        let (plain, secure) = (0..count / 2).map(open).unzip();
        let mut this = Self(plain, secure);
        this.ask(1);
        this
    }

    /// Every so manieth is answered.
    fn ask(&mut self, step: usize) {
        for (plain, secure) in self.0.iter_mut().zip(&mut self.1).step_by(step) {
            assert_eq!((plain.get("honest.test", "/").status, secure.get("honest.test", "/").status), (200, 200));
        }
    }
}

/// Comes again and again where there are as many connections as there may be. Says whether one was turned away; while
/// an attacker is away there may be a place.
fn comes_beyond(portunus: &Portunus) -> bool {
    let mut client = Connection::open(portunus.http);
    let sent = client.wire.write(b"GET / HTTP/1.1\r\nHost: honest.test\r\n\r\n");
    let answer = sent.and_then(|()| client.try_response(false));
    !answer.is_ok_and(|answer| answer.status == 200)
}

#[test]
fn all_of_it_at_once() {
    fair::apart(|| {
        let (slow, idle, rounds, seconds) = (scale(80, 800), scale(100, 10_000), scale(1, 3), scale(1, 5));
        let _ = rlimit::increase_nofile_limit(u64::MAX);
        // Those, two attackers, who is honest, and nobody else.
        let max = (slow + idle + 3).to_string();
        let long = ["--request-head-timeout", "10m", "--response-write-timeout", "10m", "--idle-timeout", "10m"];
        let flags = [&long[..], &["--tls-handshake-timeout", "10m", "--max-connections", &max]].concat();
        let server = slow::server(&flags);
        let portunus = &server.portunus;
        fair::gets_a_core(portunus);
        let mut client = Connection::open(portunus.http);
        let mut waits = Rounds::default();
        for _ in 0..rounds {
            let calm = fair::ask_on(&mut client, Duration::from_secs(seconds));
            let before = portunus.memory("RssAnon:");
            let mut idle = Idle::many(idle, portunus);
            let mut slow = Slow::many(slow, portunus);
            let (times, peak) = beside_all(portunus, &mut client, &mut slow, Duration::from_secs(seconds));
            waits.add(calm, times);
            let pinned = peak.saturating_sub(before);
            let allowed = slow.len() as u64 * slow::EACH_MAX + 2 * idle.0.len() as u64 * IDLE_MAX + 2 * PINNED_MAX;
            println!("all of it at once: {:.1} MiB more than before", super::mebibytes(pinned));
            assert!(pinned < allowed, "{pinned} bytes, and {allowed} are allowed");
            idle.ask(20);
            drop((slow, idle));
            portunus.wait_metric("portunus_connections", &[], |open| open == 1.0);
        }
        waits.report("all of it at once");
    });
}

/// What an honest client waits beside slow ones, attackers, and those for whom there is no place; and the most that
/// Portunus has in memory meanwhile.
fn beside_all(
    portunus: &Portunus,
    client: &mut Connection<TcpStream>,
    slow: &mut [Slow],
    time: Duration,
) -> (Vec<f64>, u64) {
    let (over, cut_off, beyond) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let floods = portunus.metric("portunus_http2_floods_total", &[]);
    let [(_, resets), _, (_, pings), ..] = ATTACKS;
    let attackers = [attacker(portunus, Way::Cleartext, resets), attacker(portunus, Way::Tls, pings)];
    let result = scope(|scope| {
        let guard = Over(&over);
        for attacker in &attackers {
            scope.spawn(|| attacker.come_back(&over, &cut_off));
        }
        scope.spawn(|| {
            fair::stand_behind_all();
            while !over.load(Ordering::SeqCst) {
                beyond.fetch_add(usize::from(comes_beyond(portunus)), Ordering::SeqCst);
            }
        });
        let peak = scope.spawn(|| slow::drip(slow, portunus, &over));
        eventually("two attackers, and somebody beyond them", || {
            (cut_off.load(Ordering::SeqCst) >= 2 && beyond.load(Ordering::SeqCst) > 0).then_some(())
        });
        let times = fair::ask_on(client, time);
        drop(guard);
        (times, peak.join().expect("the slow ones"))
    });
    println!(
        "all of it at once: {} connections of attackers were cut off, {} by the meter, {} of others turned away",
        cut_off.into_inner(),
        portunus.metric("portunus_http2_floods_total", &[]) - floods,
        beyond.into_inner()
    );
    result
}
