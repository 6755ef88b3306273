//! Clients' certificates: who comes in, by what his host asks for now, whatever his connection or a session of his
//! was let in by before.

use std::time::Duration;

use rustls::version::{TLS12, TLS13};

use crate::harness::certificates::{Authority, Identity};
use crate::harness::h1::{self, Connection, Response};
use crate::harness::h2;
use crate::harness::h2::statuses;
use crate::harness::manifests::{app, base64, secret, tls_secret};
use crate::harness::nginx::Nginx;
use crate::harness::tls::Client;
use crate::harness::*;

const PREFIX: &str = "nginx.ingress.kubernetes.io/";
const HOST: &str = "a.test";
const OLD: &str = "2020-01-01T00:00:00Z";
const NEW: &str = "2021-01-01T00:00:00Z";

fn annotated(ingress: Ingress, keys: &[(&str, &str)]) -> Ingress {
    keys.iter().fold(ingress, |ingress, (key, value)| ingress.annotation(&format!("{PREFIX}{key}"), value))
}

fn ingress(name: &str, host: &str, keys: &[(&str, &str)]) -> Ingress {
    annotated(Ingress::new("default", name).host(host).prefix("/", "app", 80), keys)
}

/// The host's authorities, in the Secret `clients`.
fn bundle(authorities: &[&Authority]) -> String {
    let pem: String = authorities.iter().map(|authority| authority.pem.as_str()).collect();
    secret("default", "clients", &[("ca.crt", &pem)])
}

const ASKED: (&str, &str) = ("auth-tls-secret", "default/clients");

/// `a.test` wants certificates of this authority.
fn folder(backend: &Backend, authority: &Authority, keys: &[(&str, &str)]) -> Folder {
    let folder = Folder::new();
    folder.write("app.yaml", app("default", "app", &[backend.address()]));
    folder.write("clients.yaml", bundle(&[authority]));
    folder.write("ingress.yaml", ingress("a", HOST, &[&[ASKED], keys].concat()));
    folder
}

#[track_caller]
fn status(portunus: &Portunus, client: &Client) -> u16 {
    let (over_h1, over_h2) = statuses(portunus, client, HOST, HOST);
    assert_eq!(over_h1, over_h2);
    over_h1
}

fn ask(portunus: &Portunus, client: &Client, fields: &str) -> Response {
    let (mut connection, _) = client.connect(portunus.https, HOST);
    connection.ask(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n"))
}

#[test]
fn only_clients_with_a_good_certificate_come_in() {
    let backend = Backend::named("a");
    let (authority, other) = (Authority::named("ours"), Authority::named("another"));
    // Somebody who calls himself what ours is called.
    let impostor = Authority::named("ours");
    let folder = folder(&backend, &authority, &[]);
    let portunus = Portunus::serve(&folder);
    let (one, two) = (authority.intermediate(), authority.intermediate().intermediate());
    let server = authority.leaf(&["server.test"]);
    for version in [&TLS13, &TLS12] {
        let client = || Client::version(version);
        let reached = backend.count();
        for (who, identity) in [
            ("another's", other.client("juliet")),
            ("an impostor's", impostor.client("juliet")),
            ("expired", authority.expired_client("juliet")),
            ("too long a chain", two.client("juliet")),
        ] {
            assert_eq!(status(&portunus, &client().showing(&identity)), 400, "{who}");
        }
        assert_eq!(status(&portunus, &client()), 400, "none");
        assert_eq!(backend.count(), reached);
        let good = client().showing(&authority.client("juliet"));
        assert_eq!(status(&portunus, &good), 200);
        assert_eq!(status(&portunus, &client().showing(&one.client("juliet"))), 200);
        // A purpose is only held against whoever has another.
        assert_eq!(status(&portunus, &client().showing(&server)), 200);
        assert_eq!(backend.count(), reached + 6);
    }
    let text = |client: &Client| ask(&portunus, client, "").text();
    assert!(text(&Client::new()).contains("No required SSL certificate was sent"));
    assert!(text(&Client::new().showing(&other.client("x"))).contains("The SSL certificate error"));
    let deeper = ingress("a", HOST, &[ASKED, ("auth-tls-verify-depth", "2")]);
    portunus.after(|| folder.write("ingress.yaml", deeper));
    assert_eq!(status(&portunus, &Client::new().showing(&two.client("juliet"))), 200);
}

#[test]
fn whose_authority_is_taken_away_is_out_with_his_next_request() {
    let backend = Backend::named("a");
    let (first, second) = (Authority::named("first"), Authority::named("second"));
    let folder = folder(&backend, &first, &[]);
    folder.write("clients.yaml", bundle(&[&first, &second]));
    let portunus = Portunus::serve(&folder);
    let [one, two] = [&first, &second].map(|authority| Client::new().showing(&authority.client("juliet")));
    let (mut of_first, _) = one.connect(portunus.https, HOST);
    let (mut of_second, _) = two.connect(portunus.https, HOST);
    run(async {
        let (mut h2_first, _) = h2::Connection::tls(portunus.https, &one.clone().alpn(&["h2"]), HOST).await;
        let (mut h2_second, _) = h2::Connection::tls(portunus.https, &two.clone().alpn(&["h2"]), HOST).await;
        let url = format!("https://{HOST}/");
        let steps: [(&[&Authority], _); 4] = [
            (&[&first, &second], (200, 200)),
            (&[&second], (400, 200)),
            (&[&first], (200, 400)),
            (&[&first, &second], (200, 200)),
        ];
        for (step, (authorities, expected)) in steps.into_iter().enumerate() {
            if step > 0 {
                portunus.after(|| folder.write("clients.yaml", bundle(authorities)));
            }
            let reached = backend.count();
            assert_eq!((of_first.get(HOST, "/").status, of_second.get(HOST, "/").status), expected);
            let (over_first, over_second) = (h2_first.get(&url).await, h2_second.get(&url).await);
            assert_eq!((over_first.status.as_u16(), over_second.status.as_u16()), expected);
            let passed = [expected.0, expected.1].iter().filter(|status| **status == 200).count();
            assert_eq!(backend.count() - reached, 2 * passed);
        }
    });
    // Nor does he get in anew, whatever his client remembers.
    portunus.after(|| folder.write("clients.yaml", bundle(&[&second])));
    assert_eq!(status(&portunus, &one), 400);
}

#[test]
fn a_renewal_of_the_hosts_own_certificate_ends_no_connection_and_lets_nobody_in() {
    let backend = Backend::named("a");
    let (authority, servers) = (Authority::named("clients"), Authority::named("servers"));
    let folder = folder(&backend, &authority, &[]);
    let renew = || {
        let served = servers.leaf(&[HOST, "plain.test"]);
        folder.write("tls.yaml", tls_secret("default", "tls", &served.chain_pem, &served.key_pem));
    };
    renew();
    folder.write("ingress.yaml", ingress("a", HOST, &[ASKED]).tls(&[HOST], "tls"));
    folder.write("plain.yaml", ingress("plain", "plain.test", &[]).tls(&["plain.test"], "tls"));
    let portunus = Portunus::serve(&folder);
    let h2 = |client: Client| client.alpn(&["h2"]);
    let good = h2(Client::new().showing(&authority.client("juliet")));
    run(async {
        let (mut known, _) = h2::Connection::tls(portunus.https, &good, HOST).await;
        let (mut unknown, _) = h2::Connection::tls(portunus.https, &h2(Client::new()), HOST).await;
        let (mut plain, _) = h2::Connection::tls(portunus.https, &good, "plain.test").await;
        for renewal in 0..4 {
            if renewal > 0 {
                portunus.after(renew);
            }
            let [own, other] = [HOST, "plain.test"].map(|host| format!("https://{host}/"));
            let mut statuses = Vec::new();
            for connection in [&mut known, &mut unknown, &mut plain] {
                for url in [&own, &other] {
                    statuses.push(connection.get(url).await.status.as_u16());
                }
            }
            assert_eq!(statuses, [200, 421, 400, 421, 421, 200], "renewal {renewal}");
        }
    });
}

#[test]
fn a_certificate_that_expires_is_out_on_an_open_connection() {
    let backend = Backend::named("a");
    let authority = Authority::new();
    let folder = folder(&backend, &authority, &[]);
    let portunus = Portunus::serve(&folder);
    let brief = authority.brief_client("juliet", Duration::from_secs(3));
    let (mut connection, _) = Client::new().showing(&brief).connect(portunus.https, HOST);
    let first = connection.get(HOST, "/").status;
    assert!(first == 200 || backend.count() == 0, "{first}");
    eventually("the end of its time", || (connection.get(HOST, "/").status == 400).then_some(()));
}

#[test]
fn no_session_and_no_connection_from_before_gets_in() {
    let backend = Backend::named("a");
    let authority = Authority::new();
    let folder = folder(&backend, &authority, &[]);
    folder.write("ingress.yaml", ingress("a", HOST, &[]));
    let portunus = Portunus::serve(&folder);
    for version in [&TLS13, &TLS12] {
        let client = Client::version(version);
        assert!(!client.get(portunus.https, HOST, HOST, "/").1.resumed);
        let (response, handshake) = client.get(portunus.https, HOST, HOST, "/");
        assert_eq!((response.status, handshake.resumed), (200, true), "there is a session");
        let (mut old, _) = client.connect(portunus.https, HOST);
        assert_eq!(old.get(HOST, "/").status, 200);
        run(async {
            let (mut old_h2, _) = h2::Connection::tls(portunus.https, &client.clone().alpn(&["h2"]), HOST).await;
            let url = format!("https://{HOST}/");
            assert_eq!(old_h2.get(&url).await.status, 200);
            portunus.after(|| folder.write("ingress.yaml", ingress("a", HOST, &[ASKED])));
            let reached = backend.count();
            assert_eq!(old.get(HOST, "/").status, 421, "nobody asked it for a certificate");
            assert_eq!(old_h2.get(&url).await.status, 421);
            assert_eq!(backend.count(), reached);
        });
        let (response, handshake) = client.get(portunus.https, HOST, HOST, "/");
        assert_eq!((response.status, handshake.resumed), (400, false));
        let knows = client.clone().showing(&authority.client("juliet"));
        for _ in 0..3 {
            let (response, handshake) = knows.get(portunus.https, HOST, HOST, "/");
            assert_eq!((response.status, handshake.resumed), (200, false), "no session is kept");
        }
        // Back to where everybody may come, and does, with what a handshake for certificates left.
        portunus.after(|| folder.write("ingress.yaml", ingress("a", HOST, &[])));
        assert_eq!(client.get(portunus.https, HOST, HOST, "/").0.status, 200);
        assert_eq!(old.get(HOST, "/").status, 200);
    }
}

#[test]
fn a_host_is_only_served_to_who_was_asked_for_its_certificates() {
    let backend = Backend::named("a");
    let (authority, server) = (Authority::named("clients"), Authority::named("servers"));
    let hosts = ["a.test", "b.test", "deep.test", "plain.test"];
    let shared = server.leaf(&hosts);
    let folder = folder(&backend, &authority, &[]);
    folder.write("tls.yaml", tls_secret("default", "tls", &shared.chain_pem, &shared.key_pem));
    folder.write("own.yaml", tls_secret("default", "own", &shared.chain_pem, &shared.key_pem));
    let two = Ingress::new("default", "a").host("a.test").prefix("/", "app", 80).host("b.test").prefix("/", "app", 80);
    folder.write("ingress.yaml", annotated(two.tls(&["a.test", "b.test"], "tls"), &[ASKED]));
    let deep = ingress("deep", "deep.test", &[ASKED, ("auth-tls-verify-depth", "3")]);
    folder.write("deep.yaml", deep.tls(&["deep.test"], "tls"));
    folder.write("own-ingress.yaml", ingress("own", "own.test", &[ASKED]).tls(&["own.test"], "own"));
    folder.write("bare.yaml", ingress("bare", "bare.test", &[ASKED]));
    folder.write("plain.yaml", ingress("plain", "plain.test", &[]).tls(&["plain.test"], "tls"));
    folder.write("free.yaml", ingress("free", "free.test", &[]));
    folder.write("wild.yaml", ingress("wild", "*.wild.test", &[ASKED]));
    folder.write("open.yaml", ingress("open", "open.wild.test", &[]));
    let portunus = Portunus::serve(&folder);
    let client = Client::new().showing(&authority.client("juliet"));
    for (sni, host, status) in [
        ("a.test", "a.test", 200),
        ("a.test", "A.Test:443", 200),
        ("A.TEST", "a.test", 200),
        // One certificate and the same settings.
        ("a.test", "b.test", 200),
        // One certificate, and other settings.
        ("a.test", "deep.test", 421),
        ("deep.test", "a.test", 421),
        ("plain.test", "a.test", 421),
        ("a.test", "plain.test", 421),
        // The same settings, and another certificate.
        ("a.test", "own.test", 421),
        ("own.test", "a.test", 421),
        ("bare.test", "bare.test", 200),
        ("bare.test", "a.test", 421),
        // The default certificate is good for whoever wants none of the client's.
        ("bare.test", "free.test", 200),
        ("free.test", "bare.test", 421),
        ("unknown.test", "bare.test", 421),
        ("unknown.test", "a.test", 421),
        ("free.test", "plain.test", 200),
        ("x.wild.test", "x.wild.test", 200),
        ("x.wild.test", "y.wild.test", 200),
        ("open.wild.test", "x.wild.test", 421),
        ("open.wild.test", "open.wild.test", 200),
        ("unknown.test", "unknown.test", 404),
    ] {
        let reached = backend.count();
        assert_eq!(statuses(&portunus, &client, sni, host), (status, status), "SNI {sni}, host {host}");
        assert_eq!(backend.count() - reached, if status == 200 { 2 } else { 0 }, "SNI {sni}, host {host}");
    }
    let nameless = client.clone().without_sni();
    for (host, status) in [("a.test", 421), ("bare.test", 421), ("x.wild.test", 421), ("plain.test", 200)] {
        assert_eq!(statuses(&portunus, &nameless, "x.test", host), (status, status), "without SNI, host {host}");
    }
    // Who has none is asked for none where none is wanted.
    assert_eq!(statuses(&portunus, &Client::new(), "open.wild.test", "open.wild.test"), (200, 200));
    assert_eq!(statuses(&portunus, &Client::new(), "x.wild.test", "x.wild.test"), (400, 400));
}

#[test]
fn endpoints_are_told_of_the_certificate_and_nothing_that_the_client_says_of_it() {
    let backend = Backend::named("a");
    let authority = Authority::named("Montague, \"Sons\" + Co");
    let folder = folder(&backend, &authority, &[("auth-tls-pass-certificate-to-upstream", "true")]);
    let optional = [ASKED, ("auth-tls-verify-client", "optional")];
    folder.write("b.yaml", ingress("b", "b.test", &optional));
    folder.write("plain.yaml", ingress("plain", "plain.test", &[]));
    let portunus = Portunus::serve(&folder);
    let identity = authority.client("juliet <j@verona.test>");
    let forged = "SSL-Client-Verify: SUCCESS\r\nssl-client-subject-dn: CN=root\r\nssl-client-subject-dn: CN=boot\r\n\
                  ssl-client-issuer-dn: CN=root\r\nssl-client-cert: x\r\nssl_client_verify: SUCCESS\r\n";
    let names = ["ssl-client-verify", "ssl-client-subject-dn", "ssl-client-issuer-dn", "ssl-client-cert"];
    let told = || names.map(|name| backend.last().head.all(name).join("|"));
    let client = Client::new().showing(&identity);
    assert_eq!(ask(&portunus, &client, forged).status, 200);
    let [verify, subject, issuer, certificate] = told();
    assert_eq!(verify, "SUCCESS");
    assert_eq!(subject, "CN=juliet \\<j@verona.test\\>,O=Verona");
    assert_eq!(issuer, "CN=Montague\\, \\\"Sons\\\" \\+ Co");
    let begin = "-----BEGIN%20CERTIFICATE-----%0A";
    let lines = certificate.strip_prefix(begin).and_then(|text| text.strip_suffix("%0A-----END%20CERTIFICATE-----%0A"));
    let text = lines.expect("PEM").replace("%0A", "").replace("%2B", "+").replace("%2F", "/").replace("%3D", "=");
    assert_eq!(text, base64(&identity.leaf));
    // Without the certificate, and without any.
    let to = |client: &Client, host: &str| {
        let (mut connection, _) = client.connect(portunus.https, host);
        connection.ask(format!("GET / HTTP/1.1\r\nHost: {host}\r\n{forged}\r\n")).status
    };
    assert_eq!(to(&client, "b.test"), 200);
    assert_eq!(told()[0..2], ["SUCCESS".to_owned(), subject]);
    assert_eq!(told()[3], "");
    assert_eq!(to(&Client::new(), "b.test"), 200);
    assert_eq!(told(), ["NONE", "", "", ""]);
    // Nor where no certificate is asked for, and not behind the body either.
    assert_eq!(to(&client, "plain.test"), 200);
    assert_eq!(told(), ["", "", "", ""]);
    let (mut connection, _) = client.connect(portunus.https, "plain.test");
    connection.send("POST / HTTP/1.1\r\nHost: plain.test\r\nTransfer-Encoding: chunked\r\n");
    connection.send("Trailer: ssl-client-verify, x-sum\r\n\r\n0\r\nssl-client-verify: SUCCESS\r\nx-sum: 1\r\n\r\n");
    assert_eq!(connection.response().status, 200);
    assert_eq!(told(), ["", "", "", ""]);
}

#[test]
fn optional_certificates_must_still_be_good_and_optional_no_ca_takes_those_of_strangers() {
    let backend = Backend::named("a");
    let (authority, other) = (Authority::named("ours"), Authority::named("another"));
    let folder = folder(&backend, &authority, &[]);
    let portunus = Portunus::serve(&folder);
    let none = Client::new();
    let showing = |identity: Identity| Client::new().showing(&identity);
    let good = showing(authority.client("juliet"));
    let (stranger, expired) = (showing(other.client("paris")), showing(authority.expired_client("juliet")));
    let verdict = || backend.last().header("ssl-client-verify").map(str::to_owned);
    for (mode, expected) in
        [("on", [400, 200, 400, 400]), ("optional", [200, 200, 400, 400]), ("optional_no_ca", [200, 200, 200, 400])]
    {
        folder.write("ingress.yaml", ingress("a", HOST, &[ASKED, ("auth-tls-verify-client", mode)]));
        eventually(mode, || {
            // The change may come between the two protocols.
            let answers = |client, status| statuses(&portunus, client, HOST, HOST) == (status, status);
            (answers(&stranger, expected[2]) && answers(&none, expected[0])).then_some(())
        });
        let found = [&none, &good, &stranger, &expired].map(|client| status(&portunus, client));
        assert_eq!(found, expected, "{mode}");
    }
    assert_eq!(status(&portunus, &stranger), 200);
    assert_eq!(verdict().as_deref(), Some("FAILED:unable to verify the first certificate"));
    assert_eq!(backend.last().header("ssl-client-subject-dn"), Some("CN=paris,O=Verona"));
    // `off` asks nobody.
    portunus.after(|| folder.write("ingress.yaml", ingress("a", HOST, &[ASKED, ("auth-tls-verify-client", "off")])));
    assert_eq!(status(&portunus, &stranger), 200);
    assert_eq!(verdict(), None);
}

#[test]
fn who_has_no_good_certificate_is_sent_to_the_error_page() {
    let backend = Backend::named("a");
    let (authority, other) = (Authority::named("ours"), Authority::named("another"));
    let page = "https://help.verona.test/certificates?why=none";
    let keys = [("auth-tls-error-page", page), ("auth-tls-match-cn", "CN=(juliet|romeo)(,|$)")];
    let folder = folder(&backend, &authority, &keys);
    let portunus = Portunus::serve(&folder);
    for client in [Client::new(), Client::new().showing(&other.client("juliet"))] {
        let response = ask(&portunus, &client, "");
        assert_eq!((response.status, response.header("location")), (302, Some(page)));
    }
    // One that is good, and of somebody else, is none that a page could help with.
    for (name, expected) in [("juliet", 200), ("romeo", 200), ("julieta", 403), ("paris", 403), ("Juliet", 403)] {
        let response = ask(&portunus, &Client::new().showing(&authority.client(name)), "");
        assert_eq!((response.status, response.header("location")), (expected, None), "{name}");
    }
    assert_eq!(backend.count(), 2);
    let optional = [ASKED, ("auth-tls-verify-client", "optional"), keys[1]];
    portunus.after(|| folder.write("ingress.yaml", ingress("a", HOST, &optional)));
    assert_eq!(status(&portunus, &Client::new()), 403, "nobody is not juliet");
    let anybodys = [ASKED, ("auth-tls-verify-client", "optional_no_ca"), keys[1]];
    portunus.after(|| folder.write("ingress.yaml", ingress("a", HOST, &anybodys)));
    assert_eq!(status(&portunus, &Client::new().showing(&other.client("juliet"))), 403, "anybody may say juliet");
    assert_eq!(status(&portunus, &Client::new().showing(&authority.client("juliet"))), 200);
}

#[test]
fn nobody_comes_in_without_tls_but_who_looks_for_an_authoritys_proof() {
    let backend = Backend::named("a");
    let authority = Authority::new();
    let folder = folder(&backend, &authority, &[]);
    let challenge = "/.well-known/acme-challenge/token";
    let solver = Ingress::new("default", "solver").created(NEW).host(HOST).exact(challenge, "app", 80);
    folder.write("solver.yaml", solver);
    let portunus = Portunus::serve(&folder);
    let get = |path: &str| h1::get(portunus.http, HOST, path);
    assert_eq!(get("/").status, 403);
    assert_eq!(get("/.well-known/acme-challenge/other").status, 403);
    assert_eq!(backend.count(), 0);
    assert_eq!(get(challenge).status, 200);
    // With a certificate the way to https comes first.
    let served = authority.leaf(&[HOST]);
    folder.write("tls.yaml", tls_secret("default", "tls", &served.chain_pem, &served.key_pem));
    portunus.after(|| folder.write("ingress.yaml", ingress("a", HOST, &[ASKED]).created(OLD).tls(&[HOST], "tls")));
    let response = get("/x");
    assert_eq!((response.status, response.header("location")), (308, Some("https://a.test/x")));
    assert_eq!(get(challenge).status, 200);
    assert_eq!(backend.count(), 2);
    // Who may come without a certificate may come without TLS.
    let optional = [ASKED, ("auth-tls-verify-client", "optional"), ("ssl-redirect", "false")];
    portunus.after(|| folder.write("ingress.yaml", ingress("a", HOST, &optional)));
    let forged = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nssl-client-verify: SUCCESS\r\n\r\n");
    assert_eq!(Connection::open(portunus.http).ask(forged).status, 200);
    assert_eq!(backend.last().header("ssl-client-verify"), Some("NONE"));
}

#[test]
fn what_cannot_be_honoured_closes_the_host_until_it_can() {
    let backend = Backend::named("a");
    let authority = Authority::new();
    let folder = folder(&backend, &authority, &[]);
    folder.write("ingress.yaml", ingress("a", HOST, &[ASKED]).created(OLD));
    let other = Ingress::new("default", "other").created(NEW).host(HOST).prefix("/other", "app", 80);
    folder.write("other.yaml", other.clone());
    folder.remove("clients.yaml");
    let portunus = Portunus::serve(&folder);
    let client = Client::new().showing(&authority.client("juliet"));
    let statuses = |client: &Client| ["/", "/other"].map(|path| client.get(portunus.https, HOST, HOST, path).0.status);
    portunus.wait_problem(&["Secret default/clients", "auth-tls-secret"]);
    assert_eq!(statuses(&client), [503, 503], "the host would be open");
    assert_eq!(h1::get(portunus.http, HOST, "/other").status, 503);
    portunus.after(|| folder.write("clients.yaml", bundle(&[&authority])));
    assert_eq!((statuses(&client), statuses(&Client::new())), ([200, 200], [400, 400]));
    portunus.wait_no_problems();
    // What isn't a bundle, is none.
    for (what, text) in [
        ("ca.crt", secret("default", "clients", &[("ca.crt", "none")])),
        ("ca.crt", secret("default", "clients", &[("tls.crt", &authority.pem)])),
        ("ca.crl", secret("default", "clients", &[("ca.crt", &authority.pem), ("ca.crl", "revoked")])),
    ] {
        folder.write("clients.yaml", text);
        portunus.wait_problem(&["auth-tls-secret", what]);
        assert_eq!(statuses(&client), [503, 503], "{what}");
        portunus.after(|| folder.write("clients.yaml", bundle(&[&authority])));
        assert_eq!(statuses(&client), [200, 200]);
    }
    // The older one decides; who asks for something else is out.
    let deeper = annotated(other.clone(), &[ASKED, ("auth-tls-verify-depth", "2")]);
    portunus.after(|| folder.write("other.yaml", deeper));
    portunus.wait_problem(&["default/a", "other client certificates"]);
    assert_eq!((statuses(&client), statuses(&Client::new())), ([200, 503], [400, 400]));
    portunus.after(|| folder.write("other.yaml", annotated(other, &[ASKED])));
    assert_eq!(statuses(&client), [200, 200]);
    portunus.wait_no_problems();
}

#[test]
fn a_client_hello_may_come_in_any_pieces() {
    let backend = Backend::named("a");
    let authority = Authority::new();
    let folder = folder(&backend, &authority, &[]);
    folder.write("plain.yaml", ingress("plain", "plain.test", &[]));
    let portunus = Portunus::serve_with(&folder, &["--tls-handshake-timeout", "20s"]);
    let client = Client::new().showing(&authority.client("juliet"));
    for step in [1, 3, 100] {
        for host in [HOST, "plain.test"] {
            let mut connection = client.connect_behind(b"", step, portunus.https, host);
            assert_eq!(connection.get(host, "/").status, 200, "{host} by {step}");
        }
    }
    for bytes in
        [&b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"[..], b"\x16\x03\x01\x00\x01\x01", b"\x16\x03\x01\x40\x01\x01"]
    {
        let mut connection = Connection::open(portunus.https);
        connection.send(bytes);
        connection.finish();
        let _ = connection.read_to_end();
    }
    assert_eq!(status(&portunus, &client), 200);
}

/// What nginx knows of the client, in one line.
const KNOWN: &str = "$ssl_client_verify|$ssl_client_s_dn|$ssl_client_i_dn|$ssl_client_escaped_cert";

#[test]
fn modes_depths_and_what_endpoints_are_told_are_nginxs() {
    let backend = Backend::named("a");
    let (authority, other) = (Authority::named("Montague, \"Sons\" + Co"), Authority::named("another"));
    let served = authority.leaf(&[HOST]);
    let one = authority.intermediate();
    let two = one.intermediate();
    let folder = folder(&backend, &authority, &[]);
    let portunus = Portunus::serve(&folder);
    let clients = [
        ("none", Client::new()),
        ("good", Client::new().showing(&authority.client("juliet <j@verona.test>; ü#"))),
        ("a stranger's", Client::new().showing(&other.client("paris"))),
        ("expired", Client::new().showing(&authority.expired_client("juliet"))),
        ("a stranger's, expired", Client::new().showing(&other.expired_client("paris"))),
        ("of one between", Client::new().showing(&one.client("juliet"))),
        ("of two between", Client::new().showing(&two.client("juliet"))),
        ("a server's", Client::new().showing(&authority.leaf(&["server.test"]))),
    ];
    for mode in ["on", "optional", "optional_no_ca"] {
        let block = format!(
            "server {{ listen 127.0.0.1:PORT ssl; ssl_certificate FOLDER/tls.crt; ssl_certificate_key FOLDER/tls.key;
             ssl_client_certificate FOLDER/ca.crt; ssl_verify_client {mode}; ssl_verify_depth 1;
             location / {{ return 200 \"{KNOWN}\"; }} }}"
        );
        let files = [("tls.crt", &*served.chain_pem), ("tls.key", &*served.key_pem), ("ca.crt", &*authority.pem)];
        let nginx = Nginx::with_files(&block, &files);
        let keys = [ASKED, ("auth-tls-verify-client", mode), ("auth-tls-pass-certificate-to-upstream", "true")];
        portunus.after(|| folder.write("ingress.yaml", ingress("a", HOST, &keys)));
        for (what, client) in &clients {
            let (theirs, _) = client.get(nginx.address(), HOST, HOST, "/");
            let (ours, _) = client.get(portunus.https, HOST, HOST, "/");
            assert_eq!(ours.status, theirs.status, "{what}, {mode}");
            // Of a chain that is too long OpenSSL says where it has looked no further; we say that it is too long.
            if ours.status == 200 && *what != "of two between" {
                let told = |name: &str| backend.last().header(&format!("ssl-client-{name}")).unwrap_or("").to_owned();
                let told = ["verify", "subject-dn", "issuer-dn", "cert"].map(told).join("|");
                assert_eq!(told, theirs.text(), "{what}, {mode}");
            }
        }
    }
}
