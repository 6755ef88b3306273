//! TLS to endpoints as `proxy-ssl-…` asks for it: whom they must be, who we are to them, and that no connection and no
//! session outlives the settings under which it was made.

use rustls::pki_types::CertificateDer;
use rustls::version::{TLS12, TLS13};

use crate::harness::certificates::{Authority, Identity};
use crate::harness::h1::{self, Connection};
use crate::harness::hyper_backend::{HyperBackend, Received};
use crate::harness::manifests::{app_with, secret};
use crate::harness::*;

const PREFIX: &str = "nginx.ingress.kubernetes.io/";
/// What the endpoints of `app` are called, unless it is said otherwise.
const NAME: &str = "app.default.svc";

fn ingress(keys: &[(&str, &str)]) -> Ingress {
    let begin = Ingress::new("default", "app").prefix("/", "app", 80);
    keys.iter().fold(begin, |ingress, (key, value)| ingress.annotation(&format!("{PREFIX}{key}"), value))
}

/// The Secret `app-tls`, with whom to believe and who we are.
fn tls(authority: Option<&Authority>, identity: Option<&Identity>) -> String {
    let bundle = authority.map(|authority| ("ca.crt", authority.pem.as_str()));
    let pair = identity.map(|identity| [("tls.crt", &*identity.chain_pem), ("tls.key", &*identity.key_pem)]);
    let files: Vec<_> = bundle.into_iter().chain(pair.into_iter().flatten()).collect();
    secret("default", "app-tls", &files)
}

const SECRET: (&str, &str) = ("proxy-ssl-secret", "default/app-tls");
const VERIFY: (&str, &str) = ("proxy-ssl-verify", "on");

fn folder(backend: &HyperBackend, secret: &str, keys: &[(&str, &str)]) -> Folder {
    let folder = Folder::new();
    folder.write("app.yaml", app_with("default", "app", &[backend.address()], "https"));
    folder.write("secret.yaml", secret);
    folder.write("ingress.yaml", ingress(keys));
    folder
}

fn status(portunus: &Portunus) -> u16 {
    h1::get(portunus.http, "a.test", "/").status
}

fn certificate(received: &Received) -> Option<&CertificateDer<'static>> {
    received.peer.certificate.as_ref()
}

#[test]
fn only_an_endpoint_that_can_prove_who_it_is_gets_requests() {
    let (authority, other) = (Authority::named("ours"), Authority::named("another"));
    let (one, two) = (authority.intermediate(), authority.intermediate().intermediate());
    let deeper = ("proxy-ssl-verify-depth", "2");
    let named = ("proxy-ssl-name", "juliet.verona.test");
    for (what, identity, keys, expected) in [
        ("good", authority.leaf(&[NAME]), &[][..], 200),
        ("another's", other.leaf(&[NAME]), &[], 502),
        ("an impostor's", Authority::named("ours").leaf(&[NAME]), &[], 502),
        ("expired", authority.expired_leaf(&[NAME]), &[], 502),
        ("of another name", authority.leaf(&["app.other.svc"]), &[], 502),
        ("of a client", authority.client(NAME), &[], 502),
        ("by one between", one.leaf(&[NAME]), &[], 200),
        ("by two between", two.leaf(&[NAME]), &[], 502),
        ("by two between, as allowed", two.leaf(&[NAME]), &[deeper], 200),
        ("of the name that is asked for", authority.leaf(&["*.verona.test"]), &[named], 200),
        ("of the Service, when another is asked for", authority.leaf(&[NAME]), &[named], 502),
    ] {
        for alpn in [&["h2", "http/1.1"][..], &["http/1.1"]] {
            let backend = HyperBackend::tls(&identity, alpn);
            let folder = folder(&backend, &tls(Some(&authority), None), &[&[SECRET, VERIFY], keys].concat());
            let portunus = Portunus::serve(&folder);
            assert_eq!(status(&portunus), expected, "{what}");
            assert_eq!(backend.requests().len(), usize::from(expected == 200), "{what}");
        }
    }
}

#[test]
fn nothing_is_verified_unless_it_is_asked_for() {
    let (authority, other) = (Authority::named("ours"), Authority::named("another"));
    let backend = HyperBackend::tls(&other.expired_leaf(&["other.test"]), &["http/1.1"]);
    let folder = folder(&backend, &tls(Some(&authority), None), &[SECRET]);
    let portunus = Portunus::serve(&folder);
    assert_eq!(status(&portunus), 200);
    // Neither a connection that was not verified, nor a session of one, is used when it is to be.
    for _ in 0..3 {
        Connection::open(portunus.http).get("a.test", "/");
    }
    let reached = backend.requests().len();
    portunus.after(|| folder.write("ingress.yaml", ingress(&[SECRET, VERIFY])));
    assert_eq!((status(&portunus), status(&portunus)), (502, 502));
    assert_eq!(backend.requests().len(), reached);
    portunus.after(|| folder.write("ingress.yaml", ingress(&[SECRET])));
    assert_eq!(status(&portunus), 200);
}

#[test]
fn an_endpoint_whose_authority_is_taken_away_gets_nothing_more() {
    let (authority, other) = (Authority::named("ours"), Authority::named("another"));
    for alpn in ["h2", "http/1.1"] {
        let backend = HyperBackend::tls(&authority.leaf(&[NAME]), &[alpn]);
        let folder = folder(&backend, &tls(Some(&authority), None), &[SECRET, VERIFY]);
        let portunus = Portunus::serve_with(&folder, &["--workers", "1"]);
        let mut client = Connection::open(portunus.http);
        assert_eq!((client.get("a.test", "/").status, client.get("a.test", "/").status), (200, 200));
        assert_eq!(backend.last().connection, 0, "connections are kept");
        portunus.after(|| folder.write("secret.yaml", tls(Some(&other), None)));
        assert_eq!((client.get("a.test", "/").status, status(&portunus)), (502, 502));
        assert_eq!(backend.requests().len(), 2);
        portunus.after(|| folder.write("secret.yaml", tls(Some(&authority), None)));
        assert_eq!(client.get("a.test", "/").status, 200);
        assert!(!backend.last().peer.resumed, "no session is from before");
    }
}

#[test]
fn endpoints_that_ask_get_our_certificate_of_now() {
    let (servers, clients) = (Authority::named("servers"), Authority::named("clients"));
    let (first, second) = (clients.client("first"), clients.client("second"));
    let (stranger, expired) = (servers.client("stranger"), clients.expired_client("expired"));
    for versions in [&[&TLS12][..], &[&TLS13]] {
        let server = servers.leaf(&[NAME]);
        let backend = HyperBackend::tls_of(&server, &["h2", "http/1.1"], versions, Some(&clients));
        let folder = folder(&backend, &tls(Some(&servers), Some(&first)), &[SECRET, VERIFY]);
        let portunus = Portunus::serve(&folder);
        assert_eq!(status(&portunus), 200);
        assert_eq!(certificate(&backend.last()), Some(&first.leaf));
        portunus.after(|| folder.write("secret.yaml", tls(Some(&servers), Some(&second))));
        assert_eq!(status(&portunus), 200);
        assert_eq!(certificate(&backend.last()), Some(&second.leaf), "not on a connection of the first");
        let reached = backend.requests().len();
        for identity in [Some(&stranger), None] {
            portunus.after(|| folder.write("secret.yaml", tls(Some(&servers), identity)));
            assert_eq!(status(&portunus), 502);
        }
        assert_eq!(backend.requests().len(), reached);
        // One that has expired is a Problem of its Secret, and no reason to go without.
        folder.write("secret.yaml", tls(Some(&servers), Some(&expired)));
        eventually("an answer by it", || (status(&portunus) == 502).then_some(()));
        portunus.after(|| folder.write("secret.yaml", tls(Some(&servers), Some(&first))));
        assert_eq!(status(&portunus), 200);
    }
}

#[test]
fn two_services_of_one_name_have_connections_of_their_own() {
    let (servers, clients) = (Authority::named("servers"), Authority::named("clients"));
    let backend = HyperBackend::tls_of(&servers.leaf(&[NAME]), &["http/1.1"], rustls::ALL_VERSIONS, Some(&clients));
    let identity = clients.client("first");
    let folder = folder(&backend, &tls(Some(&servers), Some(&identity)), &[SECRET]);
    // The same Service, without what the other Ingress asks for.
    folder.write("bare.yaml", Ingress::new("default", "bare").host("bare.test").prefix("/", "app", 80));
    let portunus = Portunus::serve_with(&folder, &["--workers", "1"]);
    for _ in 0..3 {
        assert_eq!(status(&portunus), 200);
        assert_eq!(h1::get(portunus.http, "bare.test", "/").status, 502, "it has no certificate to show");
    }
    assert_eq!(backend.requests().len(), 3);
}

#[test]
fn endpoints_are_told_the_name_if_it_is_asked_for() {
    let authority = Authority::new();
    let backend = HyperBackend::tls(&authority.leaf(&[NAME, "juliet.verona.test"]), &["http/1.1"]);
    let folder = folder(&backend, &tls(Some(&authority), None), &[]);
    let portunus = Portunus::serve(&folder);
    let (on, name) = (("proxy-ssl-server-name", "on"), ("proxy-ssl-name", "juliet.verona.test"));
    let mut first = true;
    for (keys, told) in [
        (&[][..], None),
        (&[SECRET, VERIFY], None),
        (&[SECRET, VERIFY, name], None),
        (&[SECRET, VERIFY, on], Some(NAME)),
        (&[SECRET, VERIFY, on, name], Some("juliet.verona.test")),
        (&[on, name], Some("juliet.verona.test")),
        (&[on, ("proxy-ssl-name", "127.0.0.1")], None),
    ] {
        if !std::mem::take(&mut first) {
            portunus.after(|| folder.write("ingress.yaml", ingress(keys)));
        }
        assert_eq!(status(&portunus), 200, "{keys:?}");
        assert_eq!(backend.last().peer.server_name.as_deref(), told, "{keys:?}");
    }
}

#[test]
fn versions_are_those_that_are_asked_for() {
    let authority = Authority::new();
    for (offered, expected) in [("TLSv1.2", [200, 502]), ("TLSv1.3", [502, 200]), ("TLSv1.3 TLSv1.2", [200, 200])] {
        for (version, status_wanted) in [&TLS12, &TLS13].into_iter().zip(expected) {
            let backend = HyperBackend::tls_of(&authority.leaf(&[NAME]), &["http/1.1"], &[version], None);
            let folder = folder(&backend, &tls(None, None), &[("proxy-ssl-protocols", offered)]);
            let portunus = Portunus::serve(&folder);
            assert_eq!(status(&portunus), status_wanted, "{offered} to {:?}", version.version);
        }
    }
}

#[test]
fn what_cannot_be_verified_as_asked_is_not_sent() {
    let authority = Authority::new();
    let backend = HyperBackend::tls(&authority.leaf(&[NAME]), &["http/1.1"]);
    let folder = folder(&backend, &tls(Some(&authority), None), &[SECRET, VERIFY]);
    let portunus = Portunus::serve(&folder);
    assert_eq!(status(&portunus), 200);
    let reached = backend.requests().len();
    for (problem, secret, keys) in [
        ("no Secret default/app-tls", None, &[SECRET, VERIFY][..]),
        ("no Secret default/app-tls", None, &[SECRET]),
        ("no `ca.crt`", Some(secret("default", "app-tls", &[])), &[SECRET, VERIFY]),
        ("ca.crt", Some(secret("default", "app-tls", &[("ca.crt", "none")])), &[SECRET]),
        ("tls.key", Some(secret("default", "app-tls", &[("tls.crt", &authority.pem)])), &[SECRET]),
        ("no `proxy-ssl-secret`", None, &[VERIFY]),
        ("namespace `other`", None, &[("proxy-ssl-secret", "other/app-tls")]),
        ("`yes`", Some(tls(Some(&authority), None)), &[SECRET, ("proxy-ssl-verify", "yes")]),
    ] {
        match &secret {
            Some(text) => folder.write("secret.yaml", text),
            None => folder.remove("secret.yaml"),
        }
        folder.write("ingress.yaml", ingress(keys));
        portunus.wait_problem(&["proxy-ssl-", problem]);
        eventually(problem, || (status(&portunus) == 503).then_some(()));
        assert_eq!(backend.requests().len(), reached, "{problem}");
        folder.write("secret.yaml", tls(Some(&authority), None));
        folder.write("ingress.yaml", ingress(&[]));
        portunus.wait_no_problems();
    }
}
