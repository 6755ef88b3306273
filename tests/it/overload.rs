//! When there is more to do than can be done, new requests are told so at once, by priority, and what runs is finished.
//! (How much is turned away is decided in `proxy::overload`, whose tests have the figures.)

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::h1::Connection;
use crate::harness::reach::ingress;
use crate::harness::*;

const SHED: &str = "portunus_requests_shed_total";

/// A memory limit that the process is beyond from the start. Each worker finds out for itself, at its next tick.
const LITTLE: [&str; 4] = ["--memory-limit", "1000000", "--workers", "1"];

/// A backend of two hosts, of which requests to `b.test` are of high priority.
fn with_something_important() -> (Backend, Folder) {
    let backend = Backend::named("a");
    let folder = Folder::to(&backend);
    let important = ingress("important").annotation("portunus.dev/priority", "high");
    folder.write("important.yaml", important.host("b.test").prefix("/", "app", 80));
    (backend, folder)
}

/// The same, where memory has only room for what is important, and Portunus knows it.
fn short_of_memory(flags: &[&str]) -> (Backend, Folder, Portunus) {
    let (backend, folder) = with_something_important();
    let flags = [&LITTLE[..], &["--overload-memory-close-percent", "1000000"], flags].concat();
    let portunus = Portunus::serve_with(&folder, &flags);
    eventually("a refusal", || (portunus.get("a.test", "/").status == 503).then_some(()));
    (backend, folder, portunus)
}

#[test]
fn out_of_memory_nothing_new_is_taken_and_what_runs_is_finished() {
    let backend = Backend::named("a");
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve_with(&folder, &LITTLE);
    let refused = eventually("a refusal", || {
        let response = portunus.get("a.test", "/");
        (response.status == 503).then_some(response)
    });
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert!(portunus.metric(SHED, &["priority=\"normal\""]) > 0.0);
    assert!(portunus.metric("portunus_memory_percent", &[]) > 100.0);
    let mut idle = Connection::open(portunus.http);
    assert_eq!(idle.get("a.test", "/").status, 503);
    idle.assert_closed();
    assert_eq!((portunus.admin("/livez").status, portunus.admin("/readyz").status), (200, 200));
    portunus.stderr.wait_for("new requests are turned away");
}

#[test]
fn short_of_memory_only_what_is_important_is_taken() {
    let (_backend, _folder, portunus) = short_of_memory(&[]);
    for _ in 0..20 {
        assert_eq!((portunus.get("a.test", "/").status, portunus.get("b.test", "/").status), (503, 200));
    }
    assert_eq!(portunus.metric(SHED, &["priority=\"high\""]), 0.0);
}

#[test]
fn who_was_turned_away_is_heard_again_after_the_second_that_he_was_told_to_wait() {
    let (_backend, _folder, portunus) = short_of_memory(&[]);
    let mut client = Connection::open(portunus.http);
    assert_eq!(client.get("a.test", "/").status, 503);
    let told = Instant::now();
    assert_eq!(client.get("a.test", "/").status, 503);
    assert!(told.elapsed() >= Duration::from_millis(900), "{:?}", told.elapsed());
}

#[test]
fn who_asks_through_a_trusted_proxy_does_not_wait_for_what_another_was_told() {
    let (_backend, _folder, portunus) = short_of_memory(&["--trusted-proxies", "127.0.0.0/8"]);
    let mut client = Connection::open(portunus.http);
    let begun = Instant::now();
    let statuses: Vec<_> =
        (0..60).flat_map(|_| ["a.test", "b.test"]).map(|host| client.get(host, "/").status).collect();
    assert_eq!(statuses, [503, 200].repeat(60));
    // If one of each two waited for its second, it would be a minute.
    assert!(begun.elapsed() < Duration::from_secs(45), "{:?}", begun.elapsed());
}

#[test]
fn when_a_worker_is_behind_a_part_of_what_comes_is_turned_away_and_then_all_is_taken_again() {
    let (_backend, folder) = with_something_important();
    let unimportant = ingress("unimportant").annotation("portunus.dev/priority", "low");
    folder.write("unimportant.yaml", unimportant.host("c.test").prefix("/", "app", 80));
    let flags = ["--workers", "1", "--overload-lag", "10ms", "--stall-at", "/slow"];
    let portunus = Portunus::serve_with(&folder, &flags);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stop = Over(&over);
        for _ in 0..3 {
            scope.spawn(|| {
                let mut client = Connection::open(portunus.http);
                while !over.load(Ordering::SeqCst) {
                    assert_eq!(client.get("b.test", "/slow").status, 200);
                }
            });
        }
        let refused = eventually("a refusal", || {
            let response = portunus.get("c.test", "/");
            (response.status == 503).then_some(response)
        });
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert!(portunus.metric("portunus_worker_lag_seconds", &[]) > 0.01);
        assert_eq!(portunus.metric(SHED, &["priority=\"high\""]), 0.0);
        drop(stop);
    });
    portunus.wait_metric("portunus_worker_pressure", &[], |pressure| pressure == 0.0);
    assert_eq!(portunus.get("c.test", "/").status, 200);
    portunus.stderr.wait_for("no longer overloaded");
}

#[test]
fn within_the_limit_nothing_is_turned_away() {
    let backend = Backend::named("a");
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve_with(&folder, &["--memory-limit", "100000000000"]);
    for _ in 0..20 {
        assert_eq!(portunus.get("a.test", "/").status, 200);
    }
    assert_eq!(portunus.metric(SHED, &[]), 0.0);
}
