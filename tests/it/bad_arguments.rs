//! Bad flags, addresses and folders end in one sentence and code 2, with nothing half started.

use crate::harness::command::portunus;
use crate::harness::*;

/// Ended with code 2 and one sentence that has all of `parts`; nothing was started.
#[track_caller]
fn assert_one_sentence(arguments: &[&str], parts: &[&str]) {
    let finished = portunus(arguments);
    assert_eq!(finished.code, Some(2), "{arguments:?}: {finished:?}");
    let sentences: Vec<&str> = finished.stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    assert_eq!(sentences.len(), 1, "{arguments:?}: {finished:?}");
    for part in parts {
        assert!(sentences[0].contains(part), "{arguments:?}: no {part:?} in {finished:?}");
    }
    assert!(!finished.stderr.contains("panicked") && finished.stdout.is_empty(), "{finished:?}");
}

#[test]
fn bad_arguments_end_with_one_sentence_and_code_2() {
    let folder = Folder::new();
    let path = folder.path().display().to_string();
    let none = folder.beside("none").display().to_string();
    let serve = |flags: &[&'static str]| [&["serve", "--manifests", &path], flags].concat();
    assert_one_sentence(&["serve", "--manifests", &none], &[&none]);
    assert_one_sentence(&["check", &none], &[&none]);
    assert_one_sentence(&serve(&["--no-such-flag"]), &["--no-such-flag"]);
    assert_one_sentence(&["no-such-command"], &["no-such-command"]);
    assert_one_sentence(&["serve"], &["--manifests"]);
    for (flag, value) in [
        ("--http-listen", "localhost"),
        ("--https-listen", "127.0.0.1:65536"),
        ("--admin-listen", "127.0.0.1"),
        ("--workers", "0"),
        ("--workers", "many"),
        ("--trusted-proxies", "10.0.0.0/33"),
        ("--idle-timeout", "5 parsecs"),
        ("--load-balance", "sometimes"),
        ("--default-tls-certificate", "no-slash"),
        ("--header-count-max", "lots"),
        ("--log-format", "xml"),
        ("--proxy-protocol", "admin"),
        ("--proxy-protocol", "0"),
        ("--pre-stop-delay", "soon"),
        ("--drain-timeout", "0s"),
    ] {
        assert_one_sentence(&serve(&[flag, value]), &[flag, value]);
    }
}

#[test]
fn the_proxy_protocol_needs_peers_to_trust_and_listeners_that_are_there() {
    let folder = Folder::new();
    let path = folder.path().display().to_string();
    let serve = |flags: &[&'static str]| {
        let listen = ["--http-listen", "127.0.0.1:0", "--https-listen", "off", "--admin-listen", "127.0.0.1:0"];
        [&["serve", "--manifests", &path], &listen[..], flags].concat()
    };
    assert_one_sentence(&serve(&["--proxy-protocol", "http"]), &["--proxy-protocol", "--trusted-proxies"]);
    for nobody in ["https", "1"] {
        let flags = ["--trusted-proxies", "127.0.0.1", "--proxy-protocol", nobody];
        assert_one_sentence(&serve(&flags), &["--proxy-protocol", nobody, "nobody listens"]);
    }
}

#[test]
fn bad_environment_ends_with_one_sentence_and_code_2() {
    let folder = Folder::new();
    let mut command = command::command();
    command.args(["serve", "--http-listen", "127.0.0.1:0", "--https-listen", "off", "--admin-listen", "127.0.0.1:0"]);
    command.env("PORTUNUS_MANIFESTS", folder.path()).env("PORTUNUS_WORKERS", "some");
    let finished = command::finish(&mut command);
    assert_eq!(finished.code, Some(2), "{finished:?}");
    assert!(finished.stderr.contains("some"), "{finished:?}");
}

#[test]
fn an_address_in_use_ends_with_one_sentence_and_code_2() {
    let folder = Folder::new();
    let path = folder.path().display().to_string();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let taken = taken.local_addr().expect("address").to_string();
    for kind in ["--http-listen", "--https-listen", "--admin-listen"] {
        let listeners = ["--http-listen", "--https-listen", "--admin-listen"];
        let addresses = listeners.map(|flag| if flag == kind { taken.as_str() } else { "127.0.0.1:0" });
        let flags: Vec<&str> = listeners.iter().zip(&addresses).flat_map(|(flag, address)| [*flag, *address]).collect();
        assert_one_sentence(&[&["serve", "--manifests", path.as_str()], &flags[..]].concat(), &[&taken, "in use"]);
    }
}

#[test]
fn a_second_portunus_on_the_same_address_does_not_share_it_by_accident() {
    let folder = Folder::new();
    let first = Portunus::serve(&folder);
    let (path, taken) = (folder.path().display().to_string(), first.http.to_string());
    let flags = ["--http-listen", &taken, "--https-listen", "off", "--admin-listen", "127.0.0.1:0"];
    assert_one_sentence(&[&["serve", "--manifests", &path], &flags[..]].concat(), &[&taken, "in use"]);
}
