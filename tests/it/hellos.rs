//! What TLS begins with: which versions and suites are spoken and which are not, that nothing is negotiated twice, and
//! that no first message of a client's, however mangled, harms anybody else.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::process::{Command, Stdio};

use fastrand::Rng;
use rustls::pki_types::ServerName;

use crate::harness::certificates::{Authority, Identity};
use crate::harness::command::Output;
use crate::harness::hello::{Answer, Hello, TLS12, TLS13, greet};
use crate::harness::manifests::{app, secret, tls_secret};
use crate::harness::tls::Client;
use crate::harness::*;

const HOST: &str = "a.test";

/// RFC 8446, B.4.
const SUITES_13: [u16; 3] = [0x1301, 0x1302, 0x1303];
/// ECDHE with AES-GCM or ChaCha20-Poly1305 (RFC 5289, RFC 7905), for keys of either kind.
const SUITES_ECDSA: [u16; 3] = [0xc02b, 0xc02c, 0xcca9];
const SUITES_RSA: [u16; 3] = [0xc02f, 0xc030, 0xcca8];
/// As many as one record has room for.
const SUITES_AT_ONCE: usize = 8000;

fn folder(backend: &Backend, identity: &Identity) -> Folder {
    let folder = Folder::new();
    folder.write("app.yaml", app("default", "app", &[backend.address()]));
    folder.write("secret.yaml", tls_secret("default", "tls", &identity.chain_pem, &identity.key_pem));
    let ingress = Ingress::new("default", "a").host(HOST).prefix("/", "app", 80);
    folder.write("ingress.yaml", ingress.tls(&[HOST], "tls"));
    folder
}

/// Every suite that is agreed on in this version, out of all that there could be.
fn agreed(address: SocketAddr, versions: &[u16], expected: &[u16]) -> BTreeSet<u16> {
    let greet = |suites: &[u16]| Hello { name: HOST, version: TLS12, versions, suites }.greet(address);
    let others: Vec<u16> = (0..=u16::MAX).filter(|suite| !expected.contains(suite)).collect();
    let mut found = BTreeSet::new();
    for suites in others.chunks(SUITES_AT_ONCE).chain(expected.chunks(1)) {
        match greet(suites) {
            Answer::Agreed { version, suite } => {
                assert_eq!(version, versions.first().copied().unwrap_or(TLS12), "{suite:04x}");
                found.insert(suite);
            }
            Answer::Alert(_) | Answer::Closed => {}
        }
    }
    found
}

#[test]
fn tls_1_3_and_1_2_with_ecdhe_and_aead_are_spoken_and_nothing_else() {
    let backend = Backend::named("a");
    let authority = Authority::new();
    for (identity, expected) in [(authority.leaf(&[HOST]), SUITES_ECDSA), (authority.rsa_leaf(&[HOST]), SUITES_RSA)] {
        let folder = folder(&backend, &identity);
        let portunus = Portunus::serve(&folder);
        assert_eq!(agreed(portunus.https, &[], &expected), expected.into());
        assert_eq!(agreed(portunus.https, &[TLS13], &SUITES_13), SUITES_13.into());
        // What old clients offer, as they offer it: RSA key exchange, CBC, DHE, 3DES and RC4 beside what is spoken.
        let old = [0x002f, 0x0035, 0x003c, 0x009c, 0x009e, 0x000a, 0x0005, 0xc013, 0xc014, 0xc027, 0xc009, 0x0033];
        let suites = [&old[..], &expected, &SUITES_13].concat();
        for version in [0x0002, 0x0200, 0x0300, 0x0301, 0x0302] {
            for versions in [&[][..], &[version], &[0x0302, 0x0301, 0x0300]] {
                let answer = Hello { name: HOST, version, versions, suites: &suites }.greet(portunus.https);
                assert!(!matches!(answer, Answer::Agreed { .. }), "{version:04x} {versions:04x?}: {answer:?}");
            }
        }
        // SSL 2.0 has a hello of its own (RFC 6101, E).
        let ssl2 = [&[0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10][..], &[1, 0, 0x80].repeat(7), &[7; 16]].concat();
        assert!(!matches!(greet(portunus.https, &ssl2), Answer::Agreed { .. }));
    }
    assert_eq!(backend.connections(), 0);
}

/// Sends `R` to a running `openssl s_client`, which has it ask for new keys, and returns all that it said.
fn renegotiate(address: SocketAddr) -> Option<String> {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-tls1_2", "-servername", HOST, "-connect", &address.to_string()]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().ok()?;
    let stdout = Output::of(child.stdout.take().expect("stdout"));
    let stderr = Output::of(child.stderr.take().expect("stderr"));
    stdout.wait_for("Verify return code");
    let mut stdin = child.stdin.take().expect("stdin");
    stdin.write_all(b"R\n").expect("a line");
    stderr.wait_for("RENEGOTIATING");
    let ended = command::wait(&mut child, PATIENCE);
    let _ = child.kill();
    let _ = child.wait();
    assert!(ended.is_some(), "{}", stderr.text());
    eventually("its error", || stderr.text().contains("error:").then_some(()));
    Some(stderr.text())
}

#[test]
fn nothing_is_negotiated_twice() {
    let backend = Backend::named("a");
    let folder = folder(&backend, &Authority::new().leaf(&[HOST]));
    let portunus = Portunus::serve(&folder);
    match renegotiate(portunus.https) {
        Some(said) => assert!(said.contains("no renegotiation"), "{said}"),
        None => println!("skipped: there is no openssl here"),
    }
}

/// Changes some bytes, takes some away, or adds some, mostly where lengths and kinds are.
fn mangle(rng: &mut Rng, bytes: &mut Vec<u8>) {
    for _ in 0..rng.u8(1..=4) {
        let end = if rng.bool() { bytes.len().min(64) } else { bytes.len() };
        let at = rng.usize(..end.max(1)).min(bytes.len().saturating_sub(1));
        match rng.u8(0..7) {
            _ if bytes.is_empty() => bytes.push(rng.u8(..)),
            0 => bytes[at] = rng.u8(..),
            1 => bytes[at] ^= 1 << rng.u8(..8),
            2 => bytes[at] = *rng.choice(&[0, 1, 0x7f, 0x80, 0xff]).expect("there are some"),
            3 => drop(bytes.drain(at..bytes.len().min(at + rng.usize(1..=8)))),
            4 => bytes.insert(at, rng.u8(..)),
            5 => bytes.truncate(at),
            _ => {
                let piece = bytes[at..bytes.len().min(at + rng.usize(1..=64))].to_vec();
                drop(bytes.splice(at..at, piece));
            }
        }
    }
}

/// The same message over several records, which is allowed (RFC 8446, 5.1), if it is one record with one message.
fn in_records(record: &[u8], bytes_each: usize) -> Vec<u8> {
    let message = record.get(5..).unwrap_or_default();
    let piece = |piece: &[u8]| [&[0x16, 3, 1][..], &(piece.len() as u16).to_be_bytes(), piece].concat();
    message.chunks(bytes_each).flat_map(piece).collect()
}

/// What clients begin with: rustls as a browser would, and our own.
fn hellos() -> Vec<Vec<u8>> {
    let of = |client: Client| {
        let name = ServerName::try_from(HOST).expect("a name");
        let mut tls = rustls::ClientConnection::new(client.config, name).expect("a client");
        let mut hello = Vec::new();
        tls.write_tls(&mut hello).expect("a ClientHello");
        hello
    };
    let suites = [&SUITES_13[..], &SUITES_ECDSA].concat();
    let own = |versions: &[u16]| Hello { name: HOST, version: TLS12, versions, suites: &suites }.record();
    vec![of(Client::new().alpn(&["h2", "http/1.1"])), of(Client::new().without_sni()), own(&[]), own(&[TLS13, TLS12])]
}

/// Sends it in pieces and reads what comes; whatever that is, the connection ends.
fn send(rng: &mut Rng, address: SocketAddr, bytes: &[u8]) {
    let mut stream = h1::connect(address);
    let step = *rng.choice(&[1, 7, 100, usize::MAX]).expect("there are some");
    let sent = bytes.chunks(step).try_for_each(|piece| stream.write_all(piece));
    let _ = sent.and_then(|()| stream.shutdown(Shutdown::Write));
    let mut rest = Vec::new();
    if let Err(error) = stream.read_to_end(&mut rest) {
        let late = [std::io::ErrorKind::WouldBlock, std::io::ErrorKind::TimedOut];
        assert!(!late.contains(&error.kind()), "the connection stays open for {bytes:02x?}");
    }
}

#[test]
fn no_mangled_client_hello_harms_anybody() {
    let backend = Backend::named("a");
    let authority = Authority::new();
    let folder = folder(&backend, &authority.leaf(&[HOST]));
    let seeds = hellos();
    // With and without a host that asks for certificates: two ways to read a hello.
    for asks in [false, true] {
        if asks {
            folder.write("clients.yaml", secret("default", "clients", &[("ca.crt", &authority.pem)]));
            let ingress = Ingress::new("default", "mtls").host("mtls.test").prefix("/", "app", 80);
            folder.write("mtls.yaml", ingress.asks(&[("auth-tls-secret", "default/clients")]));
        }
        let portunus = Portunus::serve(&folder);
        let address = portunus.https;
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let seeds = &seeds;
                scope.spawn(move || {
                    let mut rng = Rng::with_seed(thread);
                    for number in 0..scale(500, 25_000) {
                        let mut hello = rng.choice(seeds).expect("there are some").clone();
                        if rng.u8(..4) == 0 {
                            hello = in_records(&hello, rng.usize(1..=64));
                        }
                        mangle(&mut rng, &mut hello);
                        send(&mut rng, address, &hello);
                        if number % 50 == 0 {
                            assert_eq!(Client::new().get(address, HOST, HOST, "/").0.status, 200);
                        }
                    }
                });
            }
        });
        assert!(portunus.metric("portunus_tls_handshakes_failed_total", &[]) > 1000.0);
        eventually("no connection", || (portunus.metric("portunus_connections", &["https"]) == 0.0).then_some(()));
    }
}

#[test]
fn a_hello_may_come_over_any_number_of_records() {
    let backend = Backend::named("a");
    let folder = folder(&backend, &Authority::new().leaf(&[HOST]));
    let portunus = Portunus::serve(&folder);
    let suites = [&SUITES_13[..], &SUITES_ECDSA].concat();
    let hello = Hello { name: HOST, version: TLS12, versions: &[TLS13], suites: &suites }.record();
    for bytes_each in [1, 2, 3, 4, 5, 40] {
        let answer = greet(portunus.https, &in_records(&hello, bytes_each));
        assert!(matches!(answer, Answer::Agreed { version: TLS13, .. }), "{bytes_each}: {answer:?}");
    }
}
