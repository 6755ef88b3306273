//! Attacks at size: several attackers that come back as soon as they are cut off, beside honest clients; and slow
//! clients by the thousand. Times are printed beside their goals, never asserted.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::scope;
use std::time::{Duration, Instant};

use crate::floods::{Target, get, stream};
use crate::harness::h1::Connection;
use crate::harness::h2_raw::{PING, RST_STREAM, RawH2, SETTINGS, WINDOW_UPDATE, frame};
use crate::harness::*;

type Round = fn(usize) -> Vec<u8>;

/// Latencies of one client's requests for so long, in milliseconds.
fn ask(portunus: &Portunus, time: Duration) -> Vec<f64> {
    let mut client = Connection::open(portunus.http);
    let begin = Instant::now();
    let mut times = Vec::new();
    while begin.elapsed() < time {
        let start = Instant::now();
        assert_eq!(client.get("honest.test", "/").text(), "honest");
        times.push(super::milliseconds(start));
    }
    times
}

#[test]
fn honest_clients_are_served_while_attackers_come_back_again_and_again() {
    let (attackers, seconds) = (scale(2, 4), scale(1, 10));
    let attacks: [(&str, Round); 4] = [
        ("rapid reset", |number| {
            [get(stream(number), "/silent", &[]), frame(RST_STREAM, 0, stream(number), &[0, 0, 0, 8])].concat()
        }),
        ("PING", |_| frame(PING, 0, 0, b"are you?").repeat(10)),
        ("SETTINGS", |_| frame(SETTINGS, 0, 0, &[])),
        ("WINDOW_UPDATE", |_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]).repeat(10)),
    ];
    for (name, round) in attacks {
        let target = Target::new(&[]);
        let portunus = &target.portunus;
        super::report(&format!("{name}: without it"), &ask(portunus, Duration::from_secs(seconds)), "ms", "none");
        let (before, threads) = (portunus.memory("RssAnon:"), portunus.threads());
        let (over, connections) = (AtomicBool::new(false), AtomicUsize::new(0));
        let times = scope(|scope| {
            let _over = Over(&over);
            for _ in 0..attackers {
                scope.spawn(|| {
                    while !over.load(Ordering::SeqCst) {
                        let mut client = RawH2::open(portunus.http);
                        let watch = client.watch();
                        connections.fetch_add(1, Ordering::SeqCst);
                        let on = |number: &usize| client.send(&round(*number)) && !watch.seen().closed;
                        let _ = (0..1_000_000).take_while(on).find(|_| over.load(Ordering::SeqCst));
                        client.close();
                    }
                });
            }
            ask(portunus, Duration::from_secs(seconds))
        });
        let spent = portunus.threads().since(&threads).others.as_secs_f64() / seconds as f64;
        let pinned = super::mebibytes(portunus.memory("RssAnon:").saturating_sub(before));
        super::report(&format!("{name} by {attackers} attackers"), &times, "ms", "p99 below 2 × that without it");
        println!(
            "{name}: {} connections were cut off, {:.0} % of a processor, {pinned:.1} MiB more than before",
            connections.into_inner(),
            100.0 * spent
        );
    }
}

#[test]
fn slow_connections_by_the_thousand() {
    crate::slow::honest_clients_are_served_beside(scale(200, 4000), scale(500, 20_000));
}
