//! A process that follows another takes its listening sockets over, with whoever waits in them; and what a supervisor
//! opened is listened on. (Under load: `proof::restarts`.)

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use crate::harness::h1::Connection;
use crate::harness::*;

#[test]
fn a_process_that_cannot_serve_leaves_the_one_before_it_as_it_was() {
    let backend = Backend::named("done");
    let folder = Folder::to(&backend);
    let socket = folder.beside("takeover");
    let socket = socket.to_str().expect("a path");
    let mut first = Portunus::serve_with(&folder, &["--takeover-socket", socket]);
    let manifests = folder.path();
    let second = command::portunus(&[
        "serve",
        "--manifests",
        manifests.to_str().expect("a path"),
        "--takeover-socket",
        socket,
        "--session-key-file",
        "/nowhere",
        "--http-listen",
        "127.0.0.1:0",
        "--https-listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
    ]);
    assert_eq!(second.code, Some(2), "{}", second.stderr);
    first.stderr.wait_for("a process that would take over did not");
    for _ in 0..20 {
        assert_eq!(first.get("a.test", "/").status, 200);
    }
    assert!(first.is_running());
    // And the next one may.
    let second = Portunus::serve_with(&folder, &["--takeover-socket", socket]);
    assert_eq!(first.wait_exit(), 0);
    assert_eq!(second.get("a.test", "/").text(), "done");
}

#[test]
fn sockets_of_systemd_are_listened_on_in_place_of_the_flag() {
    let backend = Backend::named("done");
    let folder = Folder::to(&backend);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    // Whoever connects before anybody serves waits.
    let mut early = Connection::open(address);
    early.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let mut command = Command::new("sh");
    let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=http exec \"$0\" \"$@\"";
    command.args(["-c", script, env!("CARGO_BIN_EXE_portunus")]);
    command.stdin(OwnedFd::from(listener)).stdout(Stdio::piped()).stderr(Stdio::piped());
    let portunus = Portunus::serve_by(command, &folder, &["--workers", "3"]);
    assert_eq!(portunus.addresses("http"), [address]);
    assert_eq!(portunus.addresses("https").len(), 1, "as its flag says");
    assert_eq!(early.response().text(), "done");
    for _ in 0..20 {
        assert_eq!(portunus.get("a.test", "/").text(), "done");
    }
}

#[test]
fn a_socket_that_nobody_knows_what_to_do_with_is_an_error() {
    let backend = Backend::named("done");
    let folder = Folder::to(&backend);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut command = Command::new("sh");
    let script = "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_FDNAMES=web exec \"$0\" serve --manifests \"$1\"";
    command.args(["-c", script, env!("CARGO_BIN_EXE_portunus"), folder.path().to_str().expect("a path")]);
    command.stdin(OwnedFd::from(listener)).stdout(Stdio::piped()).stderr(Stdio::piped());
    let finished = command::finish(&mut command);
    assert_eq!(finished.code, Some(2));
    assert!(finished.stderr.contains("`web`") && finished.stderr.contains("FileDescriptorName"), "{}", finished.stderr);
}
