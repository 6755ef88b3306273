//! h2spec, the suite of RFC 9113 and 7541 as others wrote it: each of its 146 strict cases, in cleartext and over TLS.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use crate::harness::command::{finish, wait};
use crate::harness::*;

const CASES: u32 = 146;
/// Longest wait of a case, and longest run of them all; far more than they take where nothing else runs.
const SECONDS: &str = "3";
const LIMIT: Duration = Duration::from_secs(300);

fn h2spec() -> &'static str {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        let finished = finish(
            Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/h2spec.sh"))
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped()),
        );
        assert_eq!(finished.code, Some(0), "scripts/h2spec.sh: {}{}", finished.stdout, finished.stderr);
    });
    concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/h2spec")
}

/// The sum of an attribute over all suites of a report.
fn sum(report: &str, attribute: &str) -> u32 {
    let suites = report.lines().filter(|line| line.trim_start().starts_with("<testsuite "));
    let value = |line: &str| line.split(&format!(" {attribute}=\"")).nth(1)?.split('"').next()?.parse::<u32>().ok();
    suites.filter_map(value).sum()
}

#[track_caller]
fn passes(address: SocketAddr, report: &Path, flags: &[&str]) {
    let mut command = Command::new(h2spec());
    command.args(["-h", "127.0.0.1", "-p", &address.port().to_string(), "-S", "-o", SECONDS]).args(flags);
    command.arg("-j").arg(report).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
    let mut child = command.spawn().expect("h2spec");
    let Some(status) = wait(&mut child, LIMIT) else {
        let _ = child.kill();
        let _ = child.wait();
        panic!("h2spec took more than {LIMIT:?}");
    };
    let report = std::fs::read_to_string(report).expect("a report");
    let (cases, failures, errors) = (sum(&report, "tests"), sum(&report, "failures"), sum(&report, "errors"));
    assert_eq!((cases, failures, errors, status.code()), (CASES, 0, 0, Some(0)), "{report}");
}

/// Something for each method, with content that a case can wait for.
fn backend() -> Backend {
    Backend::new(|exchange| exchange.ok("hello, this is a body with some bytes"))
}

#[test]
fn all_cases_pass_in_cleartext() {
    let backend = backend();
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve(&folder);
    passes(portunus.http, &folder.beside("h2spec.xml"), &[]);
}

#[test]
fn all_cases_pass_over_tls() {
    let backend = backend();
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve(&folder);
    passes(portunus.https, &folder.beside("h2spec.xml"), &["-t", "-k"]);
}
