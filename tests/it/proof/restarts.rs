//! Processes that follow each other, each taking the sockets over from the one before (`--takeover-socket`): nobody is
//! refused, and no request is lost.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::harness::h1::{self, Connection};
use crate::harness::*;

fn says_close(response: &h1::Response) -> bool {
    response.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
}

/// One after the other on connections that are kept for as long as they may be, until it is over.
pub fn ask_kept(address: std::net::SocketAddr, over: &AtomicBool, asked: &AtomicUsize) {
    while !over.load(Ordering::SeqCst) {
        let mut client = Connection::open(address);
        loop {
            let response = client.get("a.test", "/");
            assert_eq!((response.status, response.text().as_str()), (200, "done"));
            asked.fetch_add(1, Ordering::SeqCst);
            if says_close(&response) || over.load(Ordering::SeqCst) {
                break;
            }
        }
    }
}

/// A connection for each.
pub fn ask_anew(address: std::net::SocketAddr, over: &AtomicBool, asked: &AtomicUsize) {
    while !over.load(Ordering::SeqCst) {
        let response = Connection::open(address).get("a.test", "/");
        assert_eq!((response.status, response.text().as_str()), (200, "done"));
        asked.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn processes_follow_each_other_under_load_and_nobody_notices() {
    let backend = Backend::named("done");
    let folder = Folder::to(&backend);
    let socket = folder.beside("takeover");
    let socket = socket.to_str().expect("a path");
    let serve = |workers: &str| {
        Portunus::serve_with(&folder, &["--takeover-socket", socket, "--workers", workers, "--pre-stop-delay", "10m"])
    };
    let mut first = serve("2");
    let (address, admin) = (first.http, first.admin);
    let (over, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let _over = Over(&over);
        for _ in 0..4 {
            scope.spawn(|| ask_kept(address, &over, &asked));
            scope.spawn(|| ask_anew(address, &over, &asked));
        }
        for workers in ["3", "1", "2", "4", "2"].iter().cycle().take(scale(3, 20)) {
            let before = asked.load(Ordering::SeqCst);
            let mut second = serve(workers);
            assert_eq!((second.http, second.admin), (address, admin));
            assert_eq!(first.wait_exit(), 0, "without a signal, and without the delay");
            first.stderr.wait_for("another process has taken over");
            eventually("traffic", || (asked.load(Ordering::SeqCst) > before + 50).then_some(()));
            assert!(second.is_running());
            first = second;
        }
    });
    println!("{} requests while processes followed each other, none failed", asked.load(Ordering::SeqCst));
}
