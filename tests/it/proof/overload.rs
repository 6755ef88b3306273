//! Twice as much is asked for as can be done: about as much is done as before, and the rest is told so at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::{milliseconds, report, while_asking_livez};
use crate::harness::h1::Connection;
use crate::harness::*;

/// How long the backend works on a request, and how many clients keep it busy without a queue.
const WORK: Duration = Duration::from_millis(10);
const CLIENTS: usize = 128;

/// A backend that works on so many requests at once, each for the same time; the others wait.
fn backend(at_once: usize) -> Backend {
    let free = Arc::new((Mutex::new(at_once), Condvar::new()));
    Backend::new(move |exchange| {
        let (count, changed) = &*free;
        let mut left = changed.wait_while(count.lock().expect("lock"), |left| *left == 0).expect("lock");
        *left -= 1;
        drop(left);
        std::thread::sleep(WORK);
        *count.lock().expect("lock") += 1;
        changed.notify_one();
        exchange.ok("done");
    })
}

/// What clients were told, in milliseconds each.
#[derive(Default)]
struct Tally {
    done: AtomicUsize,
    refused: Mutex<Vec<f64>>,
}

/// Asks with so many clients, each at this pace or as soon as it is answered, one after the other; returns the tally
/// and how long it took.
fn ask(portunus: &Portunus, clients: usize, pace: Duration, time: Duration) -> (Tally, Duration) {
    let (tally, start) = (Tally::default(), Barrier::new(clients + 1));
    let mut begun = Instant::now();
    std::thread::scope(|scope| {
        for number in 0..clients {
            let (tally, start) = (&tally, &start);
            scope.spawn(move || {
                let mut client = Connection::open(portunus.http);
                start.wait();
                let begun = Instant::now();
                let mut due = begun + pace.mul_f64(number as f64 / clients as f64);
                while begun.elapsed() < time {
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    // Whoever was kept waiting does not ask for all of it at once.
                    due = (due + pace).max(Instant::now());
                    let asked = Instant::now();
                    let response = client.get("a.test", "/");
                    if response.status == 200 {
                        tally.done.fetch_add(1, Ordering::SeqCst);
                    } else {
                        assert_eq!((response.status, response.header("retry-after")), (503, Some("1")));
                        tally.refused.lock().expect("tally").push(milliseconds(asked));
                    }
                }
            });
        }
        start.wait();
        begun = Instant::now();
    });
    (tally, begun.elapsed())
}

#[test]
fn under_twice_the_load_as_much_is_done_and_the_rest_is_told_at_once() {
    let (at_once, time) = scale((4, Duration::from_secs(1)), (16, Duration::from_secs(20)));
    let backend = backend(at_once);
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve_with(&folder, &["--max-in-flight", &(2 * at_once).to_string()]);
    let rate = |(tally, took): &(Tally, Duration)| tally.done.load(Ordering::SeqCst) as f64 / took.as_secs_f64();
    let peak = rate(&ask(&portunus, at_once, Duration::ZERO, time));
    // The backend can't do more, whatever was measured.
    let capacity = at_once as f64 / WORK.as_secs_f64();
    let pace = Duration::from_secs_f64(CLIENTS as f64 / (2.0 * capacity));
    let (beyond, health) = while_asking_livez(&portunus, || ask(&portunus, CLIENTS, pace, time));
    let refused = beyond.0.refused.lock().expect("tally").clone();
    let goodput = rate(&beyond);
    println!(
        "overload at 2 × capacity: {goodput:.0} answers a second of {peak:.0} at the peak, {:.0} %; goal: 90 %",
        100.0 * goodput / peak
    );
    assert!(goodput > 0.0 && !refused.is_empty(), "{} refused", refused.len());
    report("503 under overload", &refused, "ms", "fast");
    report("/livez under overload", &health, "ms", "below 100 ms");
}
