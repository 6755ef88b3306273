//! TLS at the edge: which certificate for which name, live renewal, resumption, and 421.

use rustls::ProtocolVersion;
use rustls::version::{TLS12, TLS13};

use crate::harness::certificates::{Authority, Identity};
use crate::harness::h1;
use crate::harness::h2::statuses;
use crate::harness::manifests::{app, tls_secret};
use crate::harness::tls::Client;
use crate::harness::*;

fn secret(name: &str, identity: &Identity) -> String {
    tls_secret("default", name, &identity.chain_pem, &identity.key_pem)
}

/// A folder with the Service `app`, and one Ingress for each host with its Secret of the same name
/// where there is an identity.
fn hosts(backend: &Backend, hosts: &[(&str, &str, Option<&Identity>)]) -> Folder {
    let folder = Folder::new();
    folder.write("app.yaml", app("default", "app", &[backend.address()]));
    for (name, host, identity) in hosts {
        let mut ingress = Ingress::new("default", name).host(host).prefix("/", "app", 80);
        if let Some(identity) = identity {
            ingress = ingress.tls(&[host], name);
            folder.write(&format!("secret-{name}.yaml"), secret(name, identity));
        }
        folder.write(&format!("ingress-{name}.yaml"), ingress);
    }
    folder
}

#[track_caller]
fn leaf(portunus: &Portunus, sni: &str) -> Vec<u8> {
    let (_, handshake) = Client::new().connect(portunus.https, sni);
    handshake.leaf().to_vec()
}

#[test]
fn the_certificate_is_chosen_by_exact_name_then_by_wildcard_then_default() {
    let backend = Backend::named("a");
    let authority = Authority::new();
    let (exact, wild) = (authority.leaf(&["juliet.verona.test"]), authority.leaf(&["*.verona.test"]));
    let folder = hosts(
        &backend,
        &[
            ("exact", "juliet.verona.test", Some(&exact)),
            ("wild", "*.verona.test", Some(&wild)),
            ("plain", "plain.test", None),
        ],
    );
    let portunus = Portunus::serve(&folder);
    let default = leaf(&portunus, "plain.test");
    assert!(default != *exact.leaf && default != *wild.leaf);
    for (sni, expected) in [
        ("juliet.verona.test", exact.leaf.to_vec()),
        ("JULIET.verona.TEST", exact.leaf.to_vec()),
        ("nurse.verona.test", wild.leaf.to_vec()),
        ("the.nurse.verona.test", default.clone()),
        ("verona.test", default.clone()),
        ("unknown.test", default.clone()),
    ] {
        assert_eq!(leaf(&portunus, sni), expected, "{sni}");
    }
    let (response, handshake) = Client::new().without_sni().get(portunus.https, "any.test", "juliet.verona.test", "/");
    assert_eq!((response.status, handshake.leaf().to_vec()), (200, default));
    for host in ["juliet.verona.test", "nurse.verona.test"] {
        let (response, _) = Client::trusting(&authority).get(portunus.https, host, host, "/");
        assert_eq!(response.text(), "a");
    }
}

#[test]
fn keys_of_both_kinds_and_both_versions_of_tls_are_served() {
    let backend = Backend::named("a");
    let authority = Authority::new();
    let (ecdsa, rsa) = (authority.leaf(&["ecdsa.test"]), authority.rsa_leaf(&["rsa.test"]));
    let folder = hosts(&backend, &[("ecdsa", "ecdsa.test", Some(&ecdsa)), ("rsa", "rsa.test", Some(&rsa))]);
    let portunus = Portunus::serve(&folder);
    for (offered, agreed) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        for (host, identity) in [("ecdsa.test", &ecdsa), ("rsa.test", &rsa)] {
            let (response, handshake) = Client::version(offered).get(portunus.https, host, host, "/");
            assert_eq!((response.status, handshake.version), (200, agreed), "{host}");
            assert_eq!(handshake.leaf(), &identity.leaf, "{host}");
        }
    }
}

#[test]
fn the_whole_chain_is_sent() {
    let backend = Backend::named("a");
    let root = Authority::new();
    let intermediate = root.intermediate();
    let identity = intermediate.leaf(&["a.test"]);
    let folder = hosts(&backend, &[("a", "a.test", Some(&identity))]);
    let portunus = Portunus::serve(&folder);
    let (response, handshake) = Client::trusting(&root).get(portunus.https, "a.test", "a.test", "/");
    assert_eq!(response.text(), "a");
    assert_eq!(handshake.chain, [identity.leaf, intermediate.certificate]);
}

#[test]
fn a_renewed_certificate_is_live_and_touches_no_connection() {
    let backend = Backend::named("a");
    let authority = Authority::new();
    let identities: Vec<Identity> = (0..4).map(|_| authority.leaf(&["a.test"])).collect();
    let folder = hosts(&backend, &[("a", "a.test", Some(&identities[0]))]);
    let portunus = Portunus::serve(&folder);
    let mut open = Vec::new();
    for identity in &identities {
        portunus_serves(&portunus, &folder, identity);
        let (connection, handshake) = Client::trusting(&authority).connect(portunus.https, "a.test");
        assert_eq!(handshake.leaf(), &identity.leaf);
        open.push(connection);
        for connection in &mut open {
            assert_eq!(connection.get("a.test", "/").text(), "a");
        }
    }
    run(async {
        let client = Client::trusting(&authority).alpn(&["h2"]);
        let (mut connection, _) = h2::Connection::tls(portunus.https, &client, "a.test").await;
        for identity in &identities {
            portunus_serves(&portunus, &folder, identity);
            assert_eq!(connection.get("https://a.test/").await.status, 200);
        }
    });
}

/// Puts the identity into the Secret `a`, and waits until it is in.
fn portunus_serves(portunus: &Portunus, folder: &Folder, identity: &Identity) {
    if leaf(portunus, "a.test") != *identity.leaf {
        portunus.after(|| folder.write("secret-a.yaml", secret("a", identity)));
    }
}

#[test]
fn a_secret_may_come_after_its_ingress() {
    let backend = Backend::named("a");
    let authority = Authority::new();
    let identity = authority.leaf(&["a.test"]);
    let folder = hosts(&backend, &[("a", "a.test", Some(&identity))]);
    folder.remove("secret-a.yaml");
    let portunus = Portunus::serve(&folder);
    assert_ne!(leaf(&portunus, "a.test"), identity.leaf.to_vec());
    portunus.wait_problem(&["Secret default/a"]);
    portunus.after(|| folder.write("secret-a.yaml", secret("a", &identity)));
    assert_eq!(leaf(&portunus, "a.test"), identity.leaf.to_vec());
    portunus.wait_no_problems();
}

#[test]
fn a_secret_that_breaks_leaves_the_last_good_certificate_in_service() {
    let backend = Backend::named("a");
    let authority = Authority::new();
    let (good, other) = (authority.leaf(&["a.test"]), authority.leaf(&["a.test"]));
    let expired = authority.expired_leaf(&["a.test"]);
    let folder = hosts(&backend, &[("a", "a.test", Some(&good))]);
    let portunus = Portunus::serve(&folder);
    for (what, text) in [
        ("not PEM", tls_secret("default", "a", "certificate", "key")),
        ("a key of another", tls_secret("default", "a", &good.chain_pem, &other.key_pem)),
        ("no certificate", tls_secret("default", "a", "", &good.key_pem)),
        ("no key", tls_secret("default", "a", &good.chain_pem, "")),
        ("expired", secret("a", &expired)),
        ("not base64", secret("a", &good).replace("tls.crt: ", "tls.crt: \"!\" #")),
    ] {
        folder.write("secret-a.yaml", text);
        // By its file, for what can't be read has no object.
        let problem = portunus.wait_problem(&["secret-a.yaml"]);
        assert!(!problem.to_string().contains(good.key_pem.lines().nth(1).expect("a line")), "{what}: {problem}");
        assert_eq!(leaf(&portunus, "a.test"), good.leaf.to_vec(), "{what}");
        let (response, _) = Client::trusting(&authority).get(portunus.https, "a.test", "a.test", "/");
        assert_eq!(response.status, 200, "{what}");
        folder.write("secret-a.yaml", secret("a", &good));
        portunus.wait_no_problems();
    }
}

#[test]
fn the_default_certificate_can_be_named_and_changes_live() {
    let backend = Backend::named("a");
    let authority = Authority::new();
    let (first, second) = (authority.leaf(&["default.test"]), authority.leaf(&["default.test"]));
    let folder = hosts(&backend, &[("plain", "plain.test", None)]);
    let write = |identity: &Identity| {
        folder.write("default.yaml", tls_secret("certs", "default", &identity.chain_pem, &identity.key_pem));
    };
    write(&first);
    let portunus = Portunus::serve_with(&folder, &["--default-tls-certificate", "certs/default"]);
    assert_eq!(leaf(&portunus, "plain.test"), first.leaf.to_vec());
    let (_, handshake) = Client::new().without_sni().connect(portunus.https, "x.test");
    assert_eq!(handshake.leaf(), &first.leaf);
    portunus.after(|| write(&second));
    assert_eq!(leaf(&portunus, "plain.test"), second.leaf.to_vec());
}

/// Enough for either worker to get several connections, but for one chance in millions.
const CONNECTIONS: usize = 24;

#[test]
fn sessions_resume_whichever_worker_takes_the_connection() {
    let backend = Backend::named("a");
    let identity = Authority::new().leaf(&["a.test"]);
    let folder = hosts(&backend, &[("a", "a.test", Some(&identity))]);
    let portunus = Portunus::serve_with(&folder, &["--workers", "2"]);
    for version in [&TLS13, &TLS12] {
        let client = Client::version(version);
        for number in 0..CONNECTIONS {
            let (response, handshake) = client.get(portunus.https, "a.test", "a.test", "/");
            assert_eq!(response.status, 200);
            assert_eq!(handshake.resumed, number > 0, "connection {number} of {:?}", version.version);
        }
    }
}

#[test]
fn a_change_of_other_certificates_does_not_end_resumption() {
    let backend = Backend::named("a");
    let authority = Authority::new();
    let (a, b) = (authority.leaf(&["a.test"]), authority.leaf(&["b.test"]));
    let folder = hosts(&backend, &[("a", "a.test", Some(&a)), ("b", "b.test", Some(&b))]);
    let portunus = Portunus::serve(&folder);
    let client = Client::new();
    assert!(!client.get(portunus.https, "a.test", "a.test", "/").1.resumed);
    portunus.after(|| folder.write("secret-b.yaml", secret("b", &authority.leaf(&["b.test"]))));
    assert!(client.get(portunus.https, "a.test", "a.test", "/").1.resumed);
}

#[test]
fn a_host_of_another_certificate_is_misdirected() {
    let backend = Backend::named("a");
    let authority = Authority::new();
    let (a, b) = (authority.leaf(&["a.test"]), authority.leaf(&["b.test"]));
    let shared = authority.leaf(&["one.shared.test", "two.shared.test"]);
    let wild = authority.leaf(&["*.wild.test"]);
    let folder = hosts(
        &backend,
        &[
            ("a", "a.test", Some(&a)),
            ("b", "b.test", Some(&b)),
            ("plain", "plain.test", None),
            ("wild", "*.wild.test", Some(&wild)),
        ],
    );
    folder.write("secret-shared.yaml", secret("shared", &shared));
    let both = Ingress::new("default", "shared").host("one.shared.test").prefix("/", "app", 80);
    let both = both.host("two.shared.test").prefix("/", "app", 80);
    folder.write("shared.yaml", both.tls(&["one.shared.test", "two.shared.test"], "shared"));
    let portunus = Portunus::serve(&folder);
    let client = Client::new();
    for (sni, host, status) in [
        ("a.test", "a.test", 200),
        ("a.test", "A.TEST", 200),
        ("a.test", "a.test:8443", 200),
        ("a.test", "b.test", 421),
        ("b.test", "a.test", 421),
        ("a.test", "plain.test", 421),
        ("a.test", "unknown.test", 421),
        ("one.shared.test", "two.shared.test", 200),
        ("two.shared.test", "a.test", 421),
        ("x.wild.test", "y.wild.test", 200),
        ("x.wild.test", "a.test", 421),
        ("unknown.test", "a.test", 200),
        ("plain.test", "a.test", 200),
        ("plain.test", "plain.test", 200),
        ("plain.test", "unknown.test", 404),
    ] {
        let reached = backend.count();
        assert_eq!(statuses(&portunus, &client, sni, host), (status, status), "SNI {sni}, host {host}");
        let requests = if status == 200 { 2 } else { 0 };
        assert_eq!(backend.count() - reached, requests, "SNI {sni}, host {host}");
    }
    let anyone = Client::new().without_sni();
    assert_eq!(statuses(&portunus, &anyone, "x.test", "a.test"), (200, 200));
    // A renewal, as seen from a connection that is older, misdirects nothing.
    let (mut old, _) = client.connect(portunus.https, "a.test");
    assert_eq!(old.get("a.test", "/").status, 200);
    portunus.after(|| folder.write("secret-a.yaml", secret("a", &authority.leaf(&["a.test"]))));
    assert_eq!(old.get("a.test", "/").status, 200);
    assert_eq!(old.get("b.test", "/").status, 421);
    assert_eq!(old.get("a.test", "/").status, 200, "421 leaves the connection open");
}

#[test]
fn a_client_hello_may_come_byte_by_byte() {
    use rustls::pki_types::ServerName;
    use std::io::{Read, Write};
    let backend = Backend::named("a");
    let identity = Authority::new().leaf(&["a.test"]);
    let folder = hosts(&backend, &[("a", "a.test", Some(&identity))]);
    let portunus = Portunus::serve(&folder);
    let name = ServerName::try_from("a.test").expect("a name");
    let mut tls = rustls::ClientConnection::new(Client::new().config, name).expect("a client");
    let mut tcp = h1::connect(portunus.https);
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).expect("a ClientHello");
    for byte in hello {
        tcp.write_all(&[byte]).expect("a byte");
    }
    while tls.is_handshaking() {
        tls.complete_io(&mut tcp).expect("the handshake");
    }
    let mut stream = rustls::StreamOwned::new(tls, tcp);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").expect("a request");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
}

#[test]
fn what_is_not_tls_is_closed_and_does_no_harm() {
    let backend = Backend::named("a");
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve_with(&folder, &["--tls-handshake-timeout", "500ms"]);
    for bytes in [&b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"[..], b"\x16\x03\x01", b"\x16\x03\x01\xff\xff\x01", b""] {
        let answer = h1::raw(portunus.https, bytes);
        assert!(!answer.starts_with(b"HTTP/1.1 2"), "{bytes:?}");
    }
    assert_eq!(backend.connections(), 0);
    assert_eq!(Client::new().get(portunus.https, "a.test", "a.test", "/").0.status, 200);
}

#[test]
fn without_a_certificate_of_its_own_a_host_is_served_with_a_self_signed_one() {
    let backend = Backend::named("a");
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve(&folder);
    let (response, handshake) = Client::new().get(portunus.https, "a.test", "a.test", "/");
    assert_eq!((response.text().as_str(), handshake.chain.len()), ("a", 1));
    assert_eq!(leaf(&portunus, "b.test"), handshake.leaf().to_vec(), "one for all");
    assert!(Client::trusting(&Authority::new()).try_connect(portunus.https, "a.test").is_err());
}
