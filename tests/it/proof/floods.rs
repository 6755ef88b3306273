//! Attacks at size: several attackers that come back as soon as they are cut off, in cleartext and over TLS, beside an
//! honest client; and slow clients by the thousand. What the honest wait is printed beside its goal (see
//! `harness::fair`), never asserted; that they are served is.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::scope;
use std::time::Duration;

use crate::floods::{Target, WAYS, Way, attacked, get, stream};
use crate::harness::fair::{self, Rounds};
use crate::harness::h2_raw::{CONTINUATION, END_STREAM, HEADERS, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame};
use crate::harness::*;

type Round = fn(usize) -> Vec<u8>;

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
                served_beside(&format!("{name}, {way:?}"), way, round);
            }
        }
    });
}

fn served_beside(name: &str, way: Way, round: Round) {
    let (attackers, rounds, time) = (scale(2, 4), scale(1, 5), Duration::from_millis(scale(300, 2000)));
    let target = Target::with(fair::behind_all(attacked));
    let portunus = &target.portunus;
    fair::gets_a_core(portunus);
    let (mut waits, connections) = (Rounds::default(), AtomicUsize::new(0));
    let (before, mut spent) = (portunus.memory("RssAnon:"), Duration::ZERO);
    for _ in 0..rounds {
        let calm = fair::ask(portunus, time);
        let (over, threads, begun) = (AtomicBool::new(false), portunus.threads(), connections.load(Ordering::SeqCst));
        let times = scope(|scope| {
            let _over = Over(&over);
            for _ in 0..attackers {
                scope.spawn(|| {
                    fair::stand_behind_all();
                    while !over.load(Ordering::SeqCst) {
                        let mut client = way.open(portunus, &[]);
                        let watch = client.watch();
                        connections.fetch_add(1, Ordering::SeqCst);
                        let on = |number: &usize| client.send(&round(*number)) && !watch.seen().closed;
                        let _ = (0..1_000_000).take_while(on).find(|_| over.load(Ordering::SeqCst));
                        client.close();
                    }
                });
            }
            eventually("the attackers", || (connections.load(Ordering::SeqCst) >= begun + attackers).then_some(()));
            fair::ask(portunus, time)
        });
        spent += portunus.threads().since(&threads).others;
        waits.add(calm, times);
    }
    waits.report(&format!("{name} by {attackers} attackers"));
    println!(
        "{name}: {} connections were cut off, {:.0} % of a processor, {:.1} MiB more than before",
        connections.into_inner(),
        100.0 * spent.as_secs_f64() / (time * rounds).as_secs_f64(),
        super::mebibytes(portunus.memory("RssAnon:").saturating_sub(before))
    );
}

#[test]
fn slow_connections_by_the_thousand() {
    let (count, rounds, seconds) = (scale(200, 4000), scale(1, 3), scale(1, 5));
    fair::apart(|| crate::slow::honest_clients_are_served_beside(count, rounds, Duration::from_secs(seconds)));
}
