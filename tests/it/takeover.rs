//! A process that follows another takes its listening sockets over, with whoever waits in them; and what a supervisor
//! opened is listened on. (Takeovers under load: `proof::restarts`.)

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::scope;

use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};

use crate::harness::certificates::Authority;
use crate::harness::h1::Connection;
use crate::harness::manifests::tls_secret;
use crate::harness::tls::Client;
use crate::harness::*;
use crate::proof::restarts;

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

/// A command that runs Portunus with these sockets, as systemd passes them on. bash moves them to where they belong, so
/// that none is open twice.
fn activated(sockets: &[(&str, &TcpListener)]) -> (Command, Vec<OwnedFd>) {
    // Far from those that they become; and not closed by the exec.
    let passed = sockets.iter().map(|(_, socket)| {
        let passed = fcntl_dupfd_cloexec(socket, 100).expect("a descriptor");
        fcntl_setfd(&passed, FdFlags::empty()).expect("its flags");
        passed
    });
    let passed: Vec<OwnedFd> = passed.collect();
    let moves = passed.iter().zip(3..).map(|(passed, to)| format!("{to}<&{0} {0}<&-", passed.as_raw_fd()));
    let names: Vec<&str> = sockets.iter().map(|(name, _)| *name).collect();
    let script = format!(
        "exec {}; LISTEN_PID=$$ LISTEN_FDS={} LISTEN_FDNAMES={} exec \"$0\" \"$@\"",
        moves.collect::<Vec<_>>().join(" "),
        sockets.len(),
        names.join(":")
    );
    let mut command = Command::new("bash");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_portunus")]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    (command, passed)
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

#[test]
fn sockets_of_systemd_are_listened_on_in_place_of_their_flags() {
    let backend = Backend::named("done");
    let folder = Folder::to(&backend);
    let authority = Authority::new();
    let identity = authority.leaf(&["webhook.test"]);
    folder.write("webhook.yaml", tls_secret("default", "webhook", &identity.chain_pem, &identity.key_pem));
    let opened = ["http", "https", "admin", "webhook"].map(|kind| (kind, listener()));
    // Whoever connects before anybody serves waits.
    let mut early = Connection::open(opened[0].1.1);
    early.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let (command, passed) = activated(&opened.each_ref().map(|(kind, (socket, _))| (*kind, socket)));
    let flags = ["--workers", "3", "--webhook-certificate", "default/webhook"];
    let portunus = Portunus::serve_by(command, &folder, &flags);
    drop(passed);
    for (kind, (_, address)) in &opened {
        assert_eq!(portunus.addresses(kind), [*address], "{kind}");
    }
    assert_eq!(early.response().text(), "done");
    for _ in 0..20 {
        assert_eq!(portunus.get("a.test", "/").text(), "done");
    }
    let (over_tls, _) = Client::new().get(portunus.https, "a.test", "a.test", "/");
    assert_eq!(over_tls.text(), "done");
    assert_eq!(portunus.admin("/livez").status, 200);
    let (mut webhook, _) = Client::trusting(&authority).connect(opened[3].1.1, "webhook.test");
    assert_eq!(webhook.get("webhook.test", "/validate").status, 405, "it is asked by POST");
}

#[test]
fn a_kind_of_which_systemd_passes_none_is_listened_on_as_its_flag_says() {
    let backend = Backend::named("done");
    let folder = Folder::to(&backend);
    let (socket, address) = listener();
    let (command, passed) = activated(&[("https", &socket)]);
    let portunus = Portunus::serve_by(command, &folder, &[]);
    drop(passed);
    assert_eq!((portunus.https, portunus.addresses("http").len()), (address, 1));
    assert_eq!(portunus.get("a.test", "/").text(), "done");
}

#[test]
fn a_restart_behind_sockets_that_a_supervisor_keeps_refuses_nobody() {
    let backend = Backend::named("done");
    let folder = Folder::to(&backend);
    let (plain, secure) = (listener(), listener());
    let serve = || {
        let (command, passed) = activated(&[("http", &plain.0), ("https", &secure.0)]);
        let portunus = Portunus::serve_by(command, &folder, &[]);
        drop(passed);
        portunus
    };
    let mut portunus = serve();
    let (over, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    scope(|scope| {
        let _over = Over(&over);
        let (over, asked) = (&over, &asked);
        for _ in 0..2 {
            scope.spawn(|| restarts::ask_kept(plain.1, over, asked));
            scope.spawn(|| restarts::ask_anew(plain.1, over, asked));
            scope.spawn(|| {
                let client = Client::new();
                while !over.load(Ordering::SeqCst) {
                    assert_eq!(client.get(secure.1, "a.test", "a.test", "/").0.text(), "done");
                    asked.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for _ in 0..scale(3, 20) {
            let before = asked.load(Ordering::SeqCst);
            eventually("traffic", || (asked.load(Ordering::SeqCst) > before + 50).then_some(()));
            portunus.terminate();
            assert_eq!(portunus.wait_exit(), 0);
            // Who comes now waits.
            portunus = serve();
        }
    });
    println!("{} requests while processes followed each other, none failed", asked.into_inner());
}

#[test]
fn a_socket_that_nobody_knows_what_to_do_with_is_an_error() {
    let backend = Backend::named("done");
    let folder = Folder::to(&backend);
    let (socket, _) = listener();
    let (mut command, _passed) = activated(&[("web", &socket)]);
    command.args(["serve", "--manifests", folder.path().to_str().expect("a path")]);
    let finished = command::finish(&mut command);
    assert_eq!(finished.code, Some(2));
    assert!(finished.stderr.contains("`web`") && finished.stderr.contains("FileDescriptorName"), "{}", finished.stderr);
}
