//! No spelling of a protected path gets past its rule. Thousands are made up of what parsers are known to read apart,
//! and sent through Portunus to servers in several languages, which answer with all paths that they, or others of
//! their kind, would serve. Whoever would serve what is protected must not have been asked.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use fastrand::Rng;

use crate::harness::h1::{Connection, Response};
use crate::harness::manifests::app;
use crate::harness::program::Program;
use crate::harness::*;

const SEED: u64 = 0x5eed;
const KINDS: [&str; 4] = ["nginx", "go", "node", "python"];

/// What may stand before the name: empty elements, dots, parameters, and what some cut off or read a host in.
const BEFORE: &[&str] = &[
    "/",
    "//",
    "///",
    "/./",
    "/.//",
    "/x/../",
    "/x/%2e%2e/",
    "/x/.%2E/",
    "/x/y/../../",
    "/%2F",
    "/%2f%2F",
    "//x/",
    "///x/",
    "/%2Fx/",
    "/x%2f",
    "/x%2f../",
    "/x%2F..%2F",
    "/x%2f%2e%2e%2f",
    "/..%2f",
    "/../",
    "/%2e%2e/",
    "/..;/",
    "/x/..;/",
    "/x/..;a=b/",
    "/x/..%3b/",
    "/.;/",
    "/;/",
    "/;a/",
    "/;a=b/",
    "/%3B/",
    "/x;/../",
    "/x;a/",
    "/\\",
    "/%5C",
    "/%5c",
    "/x\\..\\",
    "/x%5c..%5c",
    "/x/..\\",
    "/%252F",
    "/x%252f",
    "/x%252f..%252f",
    "/x/%252e%252e/",
    "/%252e/",
    "/..%252f",
    "/%c0%af",
    "/%c0%ae%c0%ae/",
    "/x/%c0%ae%c0%ae/",
    "/%e0%80%af",
    "/%ef%bc%8f",
    "/%u002f",
    "/%u2215",
    "/%00",
    "/%09",
    "/\t",
    "/%0d%0a",
    "/%20",
    "/?/../",
    "/x?/../",
    "/#/../",
    "/%3F/../",
    "/x%3f/../",
    "/%23/../",
    "/admin/public/../",
    "/admin/public/..%2f",
    "/admin/public/%2e%2e/",
    "/admin/public;/../",
    "/admin/public/..;/",
    "/admin/public%2f../",
    "/@/",
    "//@x/",
    "//user@x/",
    "//x:80/",
    "/:80/",
    "/x:y/",
    "/a b/../",
    "/é/../",
    "/{x}/../",
    "/public/%2e%2e%3b/",
    "/x/;/../",
    "/x/;%2f../",
    "/x;%2f",
    "/x%3b%2f",
    "x/",
    "",
    "\\",
    "%2f",
    ";/",
    "./",
    "../",
];
/// What may stand between the name and what is below it.
const BETWEEN: &[&str] = &[
    "/",
    "//",
    "/./",
    "/x/../",
    "%2F",
    "%2f",
    "%2f%2f",
    "\\",
    "%5C",
    "%5c",
    ";/",
    ";a=b/",
    ";a=b;c/",
    "%3B/",
    "%3ba/",
    ";%2f",
    ";a%2Fb/",
    "%3b%2f",
    "%252F",
    "%252f",
    "%253B/",
    "?",
    "?/",
    "%3F",
    "%3f/",
    "#",
    "%23",
    "%23/",
    "/..;/",
    "/.;/",
    "/;/",
    "/%2e/",
    "/%2e%2e/admin/",
    "%00/",
    "%00",
    "%09/",
    "%20/",
    "%0a",
    "/..%2fadmin/",
    "%c0%af",
    "%252e/",
    "%25",
    "%25%32%46",
    "%u002f",
    "/public/../",
    "/public/..%2f",
    "/public%2f../",
    "/public/..;/",
    "/public;/../",
    ".",
    "/.",
    "",
];
/// What may stand at the end.
const AFTER: &[&str] = &[
    "",
    "",
    "",
    "/",
    "//",
    "/.",
    "/..",
    "/x/..",
    ";",
    ";a=b",
    "%3B",
    "?",
    "?x",
    "?/../..",
    "?x=/admin",
    "#",
    "#x",
    "%23x",
    "%3Fx",
    "%2F",
    "%5C",
    "%00",
    "%20",
    "%09",
    "%252F",
    "%2e",
    "/%2e",
    "/..;",
    "/;",
    "&x",
    "%26",
    "~",
    "%7e",
    "/..%2f..",
];

/// One letter, in one of the ways that somebody may write it.
fn letter(rng: &mut Rng, letter: u8) -> String {
    match rng.u8(0..24) {
        0 => format!("%{letter:02x}"),
        1 => format!("%{letter:02X}"),
        2 => format!("%25{letter:02x}"),
        3 => format!(
            "%25%{:02x}%{:02x}",
            b'0' + (letter >> 4),
            if letter & 15 < 10 { b'0' + (letter & 15) } else { b'a' + (letter & 15) - 10 }
        ),
        4 => format!("%{:02x}%{:02x}", 0xc0 | (letter >> 6), 0x80 | (letter & 0x3f)),
        5 if rng.u8(0..4) == 0 => format!("%u00{letter:02x}"),
        6 if rng.u8(0..4) == 0 => format!("%{letter:X}{}", rng.choice(["%", "%2", "%zz"]).expect("there are some")),
        _ => char::from(letter).to_string(),
    }
}

/// A target that some reader may take for `/admin`, or for what is below it. `HOST` stands for the host.
fn spelling(rng: &mut Rng) -> String {
    let pick = |rng: &mut Rng, all: &[&'static str]| rng.choice(all.iter().copied()).expect("there are some");
    let mut target = String::new();
    for _ in 0..rng.u8(1..=2) {
        target += pick(rng, BEFORE);
    }
    target.extend(b"admin".map(|byte| letter(rng, byte)));
    if rng.bool() {
        target += pick(rng, BETWEEN);
        target += &letter(rng, b'x');
    }
    target += pick(rng, AFTER);
    match rng.u8(0..16) {
        0 => format!("http://HOST{target}"),
        1 => format!("http://HOST:80{target}"),
        2 => format!("HTTP://HOST/{target}"),
        3 => format!("http:{target}"),
        _ => target,
    }
}

/// Whether somebody serves what is protected when he reads this path.
fn is_protected(reading: &str) -> bool {
    let elements: Vec<&str> = reading.split('/').filter(|element| !element.is_empty()).collect();
    matches!(elements[..], ["admin", ..]) && !matches!(elements[..], ["admin", "public", ..])
}

fn start(kind: &str) -> Program {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/paths");
    match kind {
        "node" => Program::start(Command::new("node").arg("--no-deprecation").arg(folder.join("backend.js"))),
        "python" => Program::start(Command::new("python3").arg(folder.join("backend.py"))),
        "go" => {
            let binary = Path::new(env!("CARGO_TARGET_TMPDIR")).join("paths-backend");
            let mut build = Command::new("go");
            build.args(["build", "-o"]).arg(&binary).arg(".").current_dir(folder.join("go"));
            let output = build.output().expect("the tests need the Go toolchain (`go` in PATH)");
            assert!(output.status.success(), "go build: {}", String::from_utf8_lossy(&output.stderr));
            Program::start(&mut Command::new(binary))
        }
        other => panic!("{other} is no program of ours"),
    }
}

/// For each kind of server a host whose paths are plain, and one whose paths are regular expressions. `/admin` lets
/// nobody in who asks here, but for `/admin/public`.
fn folder(kind: &str, address: SocketAddr, folder: &Folder) {
    let key = |key: &str| format!("nginx.ingress.kubernetes.io/{key}");
    folder.write(&format!("{kind}.yaml"), app("default", kind, &[address]));
    for (prefix, regex) in [("", "false"), ("regex.", "true")] {
        let host = format!("{prefix}{kind}.test");
        let open = Ingress::new("default", &format!("open-{host}")).host(&host).prefix("/", kind, 80);
        let open = open.prefix("/x", kind, 80).prefix("/admin/public", kind, 80);
        folder.write(&format!("open-{host}.yaml"), open.annotation(&key("use-regex"), regex));
        let closed = Ingress::new("default", &format!("closed-{host}")).host(&host).prefix("/admin", kind, 80);
        let closed = closed.annotation(&key("whitelist-source-range"), "192.0.2.0/24");
        folder.write(&format!("closed-{host}.yaml"), closed.annotation(&key("use-regex"), regex));
    }
}

/// A client that comes again when it was turned away.
struct Client {
    address: SocketAddr,
    connection: Option<Connection<TcpStream>>,
}

impl Client {
    /// `None` if the connection was closed without an answer.
    fn ask(&mut self, host: &str, target: &str) -> Option<Response> {
        let mut connection = self.connection.take().unwrap_or_else(|| Connection::open(self.address));
        let target = target.replace("HOST", host);
        connection.wire.write(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).ok()?;
        let answered: io::Result<Response> = connection.try_response(false);
        let response = answered.ok()?;
        if response.header("connection") != Some("close") {
            self.connection = Some(connection);
        }
        Some(response)
    }
}

#[derive(Default, Debug)]
struct Outcome {
    served: usize,
    kept_out: usize,
    refused: usize,
    bypasses: Vec<String>,
}

fn try_all(address: SocketAddr, kind: &str, spellings: &[String]) -> Outcome {
    let mut client = Client { address, connection: None };
    let mut outcome = Outcome::default();
    for (host, target) in spellings.iter().flat_map(|target| ["", "regex."].map(|prefix| (prefix, target))) {
        let host = format!("{host}{kind}.test");
        match client.ask(&host, target) {
            Some(response) if response.status == 403 => outcome.kept_out += 1,
            Some(response) if response.status == 200 => {
                outcome.served += 1;
                let text = response.text();
                if let Some(reading) = text.lines().find(|reading| is_protected(reading)) {
                    outcome.bypasses.push(format!("{host}: {target:?} is read as {reading:?}"));
                }
            }
            Some(_) | None => outcome.refused += 1,
        }
    }
    outcome
}

#[test]
fn no_spelling_of_a_protected_path_gets_past_its_rule() {
    let programs = ["go", "node", "python"].map(|kind| (kind, start(kind)));
    let nginx = Nginx::start("server { listen 127.0.0.1:PORT; location / { return 200 \"$uri\\n\"; } }");
    let manifests = Folder::new();
    folder("nginx", nginx.address(), &manifests);
    for (kind, program) in &programs {
        folder(kind, program.address, &manifests);
    }
    let mut rng = Rng::with_seed(SEED);
    for (mode, count) in
        [("strict", scale(2000, 50_000)), ("decode-slashes", scale(700, 25_000)), ("reject", scale(300, 10_000))]
    {
        let spellings: Vec<String> = (0..count).map(|_| spelling(&mut rng)).collect();
        let portunus = Portunus::serve_with(&manifests, &["--path-normalization", mode]);
        portunus.wait_no_problems();
        let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
            let (address, spellings) = (portunus.http, &spellings);
            let all = KINDS.map(|kind| scope.spawn(move || try_all(address, kind, spellings)));
            all.map(|thread| thread.join().expect("a thread")).into()
        });
        for (kind, outcome) in KINDS.iter().zip(outcomes) {
            let Outcome { served, kept_out, refused, bypasses } = outcome;
            println!("{mode}, {kind}: {served} served, {kept_out} kept out, {refused} refused");
            assert!(bypasses.is_empty(), "{mode}, {}: {:#?}", bypasses.len(), &bypasses[..bypasses.len().min(20)]);
            // Else nothing was tried.
            assert!(served > count / 100 && kept_out > count / 100 && refused > count / 100, "{mode}, {kind}");
        }
    }
}
