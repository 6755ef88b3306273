//! Autobahn's WebSocket suite (`scripts/suites.sh` installs it) against its own echo server, with and without Portunus
//! between them: every case has the same verdict. A proxy adds nothing to a WebSocket and takes nothing away, so
//! whatever that server does badly it does badly behind Portunus too. `make test` leaves out the cases about
//! compression, which take minutes and are bytes like others to a tunnel; `make proof` has all.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::command::{Output, wait};
use crate::harness::*;

/// Frames, pings, reserved bits, opcodes, fragments, UTF-8, closing, limits and the like.
const FEW: &[&str] = &["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"];
/// The same with big messages and permessage-deflate.
const ALL: &[&str] = &["*"];
/// Some verdicts hang on how bytes are cut into segments, also without Portunus: a case differs if no verdict is seen on
/// both sides, however often it is looked at.
const LOOKS: usize = 8;
/// The longest that the suite may take, twice the time seen at full size on a busy machine.
const SUITE: Duration = Duration::from_secs(1800);

/// One of the suite's programs.
struct Program(Child, Output);

impl Program {
    fn start(wstest: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(wstest);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("wstest");
        let stderr = Output::of(child.stderr.take().expect("stderr"));
        Self(child, stderr)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An echo server of the suite's; the port is free when it is chosen.
fn echo_server(wstest: &Path) -> (Program, SocketAddr) {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = free.local_addr().expect("an address");
    drop(free);
    let mut program = Program::start(wstest, &["-m", "echoserver", "-w", &format!("ws://{address}")]);
    eventually("the echo server", || {
        assert!(matches!(program.0.try_wait(), Ok(None)), "it ended: {}", program.1.text());
        TcpStream::connect(address).ok()
    });
    (program, address)
}

/// What the suite says of each case: how messages were treated, how the connection was closed, and its close code.
type Verdict = [String; 3];
type Verdicts = BTreeMap<String, Verdict>;

fn verdicts(index: &Value, agent: &str) -> Verdicts {
    let cases = index[agent].as_object().unwrap_or_else(|| panic!("no verdicts on {agent}: {index}"));
    let fields = ["behavior", "behaviorClose", "remoteCloseCode"];
    cases.iter().map(|(case, verdict)| (case.clone(), fields.map(|field| verdict[field].to_string()))).collect()
}

#[test]
fn all_verdicts_are_the_same_as_without_portunus() {
    let Some(tool) = suites::try_tool("autobahn") else {
        eprintln!("skipped: Autobahn's suite is for Python 2.7, and scripts/suites.sh found none");
        return;
    };
    let wstest = tool.join("wstest");
    let (_server, address) = echo_server(&wstest);
    let folder = Folder::to_addresses(&[address]);
    // It answers nobody who asks for another port than its own.
    let ingress = Ingress::new("default", "all").prefix("/", "app", 80);
    folder.write("ingress.yaml", ingress.asks(&[("upstream-vhost", &address.to_string())]));
    let portunus = Portunus::serve(&folder);
    let servers = [("direct", address), ("portunus", portunus.http)];
    let ask = |cases: &[&str]| verdicts_on(&wstest, &folder, servers, cases);
    let [direct, through] = ask(scale(FEW, ALL));
    let cases = direct.len();
    assert!(cases >= scale(240, 500) && through.len() == cases, "only {cases} and {} cases", through.len());
    let good = through.values().filter(|verdict| verdict[0].contains("OK")).count();
    println!("{cases} cases, {good} of them OK through Portunus");
    // What was seen of each case without Portunus and through it.
    let mut seen: BTreeMap<String, [BTreeSet<Verdict>; 2]> = BTreeMap::new();
    note(&mut seen, [direct, through]);
    for _ in 0..LOOKS {
        seen.retain(|_, [one, other]| one.is_disjoint(other));
        if seen.is_empty() {
            return;
        }
        println!("looked at again, without and with Portunus: {seen:?}");
        let again = ask(&seen.keys().map(String::as_str).collect::<Vec<_>>());
        note(&mut seen, again);
    }
    seen.retain(|_, [one, other]| one.is_disjoint(other));
    assert!(seen.is_empty(), "without and with Portunus: {seen:?}");
}

fn note(seen: &mut BTreeMap<String, [BTreeSet<Verdict>; 2]>, verdicts: [Verdicts; 2]) {
    for (side, verdicts) in verdicts.into_iter().enumerate() {
        for (case, verdict) in verdicts {
            seen.entry(case).or_default()[side].insert(verdict);
        }
    }
}

/// Has the suite look at both servers.
fn verdicts_on(wstest: &Path, folder: &Folder, servers: [(&str, SocketAddr); 2], cases: &[&str]) -> [Verdicts; 2] {
    let reports = folder.beside("reports");
    let server = |(agent, address): (&str, SocketAddr)| json!({ "agent": agent, "url": format!("ws://{address}") });
    let spec = json!({
        "options": { "failByDrop": false },
        "outdir": reports,
        "servers": servers.map(server),
        "cases": cases,
        "exclude-cases": [],
        "exclude-agent-cases": {},
    });
    let path = folder.beside("spec.json");
    std::fs::write(&path, spec.to_string()).expect("the spec");
    let mut client = Program::start(wstest, &["-m", "fuzzingclient", "-s", &path.display().to_string()]);
    let status = wait(&mut client.0, SUITE).unwrap_or_else(|| panic!("it takes too long: {}", client.1.text()));
    assert!(status.success(), "{status}: {}", client.1.text());
    let index = std::fs::read(reports.join("index.json")).expect("the verdicts");
    let index: Value = serde_json::from_slice(&index).expect("JSON");
    servers.map(|(agent, _)| verdicts(&index, agent))
}
