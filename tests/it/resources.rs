//! What runs out comes back: descriptors. Who is connected goes on, who comes waits or is told, nobody spins, and it
//! is said and counted.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::h1::Connection;
use crate::harness::*;

/// A command for a process that may have so many descriptors.
fn limited(descriptors: usize) -> Command {
    let mut command = Command::new("sh");
    let script = format!("ulimit -n {descriptors}; exec \"$0\" \"$@\"");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_portunus")]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// `/held` is answered when the gate opens.
fn holding() -> (Backend, Gate) {
    let release = Gate::new();
    let gate = release.clone();
    let backend = Backend::new(move |exchange| {
        if exchange.head.word(1) == "/held" {
            gate.wait("the release");
        }
        exchange.ok("done");
    });
    (backend, release)
}

const EXHAUSTED: &str = "portunus_descriptors_exhausted_total";

#[test]
fn without_descriptors_what_is_open_goes_on_and_all_comes_back_by_itself() {
    let (backend, release) = holding();
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve_by(limited(96), &folder, &["--workers", "1"]);
    let mut held = Connection::open(portunus.http);
    held.send("GET /held HTTP/1.1\r\nHost: a.test\r\n\r\n");
    backend.wait_count(1);
    // The first of them are accepted and take all descriptors; the rest wait in the kernel's queue.
    let mut clients: Vec<_> = (0..120).map(|_| Connection::open(portunus.http)).collect();
    // The admin port is left alone: each of its connections takes a descriptor, and gives one back.
    portunus.stderr.wait_for("no descriptor");
    let refused = clients[0].get("a.test", "/");
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert!(portunus.metric(EXHAUSTED, &["side=\"endpoint\""]) > 0.0);

    // It tries again now and then, and does not spin.
    let (before, begun) = (portunus.metric(EXHAUSTED, &["side=\"client\""]), portunus.threads());
    portunus.wait_metric(EXHAUSTED, &["side=\"client\""], |failures| failures >= before + 20.0);
    let spent = portunus.threads().since(&begun).others;
    assert!(spent < Duration::from_millis(500), "{spent:?} for twenty tries");
    assert_eq!(portunus.admin("/livez").status, 200);

    release.open();
    assert_eq!(held.response().text(), "done", "a request that runs has what it needs");
    let kept = clients.split_off(118);
    drop(clients);
    for mut client in kept {
        assert_eq!(client.get("a.test", "/").status, 200, "who waited is served");
    }
    assert_eq!(portunus.get("a.test", "/").status, 200);
    let warnings = portunus.stderr.lines().iter().filter(|line| line.contains("no descriptor")).count();
    assert!(warnings <= 3, "{warnings} lines");
}
