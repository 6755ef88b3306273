//! What annotations say of the endpoints: what is spoken to them, which they are, and the host that they see. Two
//! Ingresses may say different things of one Service.

use std::collections::BTreeSet;

use crate::harness::certificates::Authority;
use crate::harness::h1::Connection;
use crate::harness::hyper_backend::HyperBackend;
use crate::harness::manifests::{app, app_with};
use crate::harness::reach::*;
use crate::harness::tls::Client;
use crate::harness::*;

fn ingress(host: &str, keys: &[(&str, &str)]) -> Ingress {
    Ingress::new("default", &host.replace('.', "-")).asks(keys).host(host).prefix("/", "app", 80)
}

#[test]
fn the_annotation_says_what_is_spoken_whatever_the_service_says() {
    let identity = Authority::new().leaf(&["app.test"]);
    let h2c = HyperBackend::h2c();
    let tls = HyperBackend::tls(&identity, &["h2", "http/1.1"]);
    let folder = Folder::new();
    folder.write("h2c.yaml", app("default", "app", &[h2c.address()]));
    folder.write("grpc.yaml", ingress("grpc.test", &[("backend-protocol", "GRPC")]));
    folder.write("tls.yaml", app_with("default", "tls", &[tls.address()], "http"));
    let https = Ingress::new("default", "https").asks(&[("backend-protocol", "https")]).host("https.test");
    folder.write("https.yaml", https.prefix("/", "tls", 80));
    let portunus = Portunus::serve(&folder);
    assert_status(&portunus, "grpc.test", "/", 200);
    assert_status(&portunus, "https.test", "/", 200);
    assert_eq!(h2c.last().version, http::Version::HTTP_2);
    assert_eq!(tls.last().version, http::Version::HTTP_2);
}

#[test]
fn one_service_is_spoken_to_as_each_ingress_has_it() {
    let backend = Backend::named("app");
    let folder = Folder::new();
    folder.write("app.yaml", app("default", "app", &[backend.address()]));
    folder.write("plain.yaml", ingress("plain.test", &[]));
    // The same endpoint, which can't speak it.
    folder.write("tls.yaml", ingress("tls.test", &[("backend-protocol", "HTTPS")]));
    folder.write("auto.yaml", ingress("auto.test", &[("backend-protocol", "AUTO_HTTP")]));
    let portunus = Portunus::serve_with(&folder, &["--connect-timeout", "500ms"]);
    assert_reaches(&portunus, "plain.test", "/", "app");
    // It waits for a request, and Portunus for its part of the handshake.
    assert_status(&portunus, "tls.test", "/", 504);
    assert_reaches(&portunus, "auto.test", "/", "app");
    let (over_tls, _) = Client::new().get(portunus.https, "auto.test", "auto.test", "/");
    assert_eq!(over_tls.status, 504, "a request over TLS goes on over TLS");
    assert_reaches(&portunus, "plain.test", "/", "app");
}

#[test]
fn the_host_that_endpoints_see_is_another_and_clients_are_still_known() {
    let backend = Backend::named("app");
    let folder = Folder::new();
    folder.write("app.yaml", app("default", "app", &[backend.address()]));
    folder.write("a.yaml", ingress("a.test", &[("upstream-vhost", "internal.test:8080")]));
    let portunus = Portunus::serve(&folder);
    portunus.get("a.test:81", "/");
    let request = backend.only();
    assert_eq!(request.header("host"), Some("internal.test:8080"));
    assert_eq!(request.header("x-forwarded-host"), Some("a.test:81"));
}

#[test]
fn a_services_own_address_is_sent_to_instead_of_its_endpoints() {
    let (address, endpoint) = (Backend::named("address"), Backend::named("endpoint"));
    let folder = Folder::new();
    let service = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: app}}\nspec: {{clusterIP: 127.0.0.1, ports: [{{port: {}}}]}}\n---\n",
        address.port()
    );
    let slice = app("default", "app", &[endpoint.address()]);
    let slice = slice.split("---\n").find(|document| document.contains("EndpointSlice")).expect("a slice").to_owned();
    folder.write("app.yaml", service + &slice);
    let to = |host: &str, keys: &[(&str, &str)]| {
        Ingress::new("default", host).asks(keys).host(&format!("{host}.test")).prefix("/", "app", address.port())
    };
    folder.write("a.yaml", to("own", &[("service-upstream", "true")]));
    folder.write("b.yaml", to("endpoints", &[]));
    let portunus = Portunus::serve(&folder);
    assert_reaches(&portunus, "own.test", "/", "address");
    assert_reaches(&portunus, "endpoints.test", "/", "endpoint");
}

/// Ten endpoints, one Ingress with these keys.
fn spread(keys: &[(&str, &str)]) -> (Vec<Backend>, Folder, Portunus) {
    let backends: Vec<Backend> = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"].map(Backend::named).into();
    let folder = Folder::new();
    let addresses: Vec<_> = backends.iter().map(Backend::address).collect();
    folder.write("app.yaml", app("default", "app", &addresses));
    folder.write("a.yaml", ingress("a.test", keys));
    let portunus = Portunus::serve_with(&folder, &["--workers", "2"]);
    (backends, folder, portunus)
}

fn ask(portunus: &Portunus, target: &str, user: usize) -> String {
    let request = format!("GET {target} HTTP/1.1\r\nHost: a.test\r\nX-User: {user}\r\n\r\n");
    Connection::open(portunus.http).ask(request).text()
}

#[test]
fn requests_whose_text_is_the_same_go_to_the_same_endpoint() {
    let (_backends, folder, portunus) = spread(&[("upstream-hash-by", "$http_x_user-$arg_page")]);
    let homes: Vec<String> = (0..40).map(|user| ask(&portunus, "/?page=1", user)).collect();
    assert!(homes.iter().collect::<BTreeSet<_>>().len() >= 6, "{homes:?}");
    let again: Vec<String> = (0..40).map(|user| ask(&portunus, "/other?x=y&page=1", user)).collect();
    assert_eq!(again, homes, "whichever worker takes it");
    let pages: BTreeSet<String> = (0..20).map(|page| ask(&portunus, &format!("/?page={page}"), 7)).collect();
    assert!(pages.len() >= 4, "{pages:?}");
    // Another process, as another replica or after a restart.
    let other = Portunus::serve(&folder);
    assert_eq!((0..40).map(|user| ask(&other, "/?page=1", user)).collect::<Vec<_>>(), homes);
}

#[test]
fn a_subset_shares_what_one_endpoint_would_get() {
    let keys = [
        ("upstream-hash-by", "$http_x_user"),
        ("upstream-hash-by-subset", "true"),
        ("upstream-hash-by-subset-size", "2"),
    ];
    let (_backends, _folder, portunus) = spread(&keys);
    let mut all = BTreeSet::new();
    for user in 0..12 {
        let used: BTreeSet<String> = (0..30).map(|_| ask(&portunus, "/", user)).collect();
        assert_eq!(used.len(), 2, "{user}: {used:?}");
        all.extend(used);
    }
    assert!(all.len() >= 6, "{all:?}");
}

#[test]
fn an_ingress_chooses_how_its_requests_are_spread() {
    let release = Gate::new();
    let gate = release.clone();
    let slow = Backend::new(move |exchange| {
        gate.wait("the end of the test");
        exchange.ok("slow");
    });
    let quick = Backend::named("quick");
    let folder = Folder::new();
    folder.write("app.yaml", app("default", "app", &[slow.address(), quick.address()]));
    folder.write("a.yaml", ingress("a.test", &[("load-balance", "ewma")]));
    folder.write("b.yaml", ingress("b.test", &[]));
    let portunus = Portunus::serve_with(&folder, &["--workers", "1"]);
    let mut held = Vec::new();
    while slow.count() == 0 {
        assert!(held.len() < 200, "the slow endpoint gets nothing at all");
        let mut client = Connection::open(portunus.http);
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
        let before = held.len() + 1;
        eventually("the request at a backend", || (slow.count() + quick.count() >= before).then_some(()));
        held.push(client);
    }
    for _ in 0..50 {
        assert_eq!(portunus.get("a.test", "/").text(), "quick");
    }
    assert_eq!(slow.count(), 1);
    // The other Ingress takes turns.
    let mut client = Connection::open(portunus.http);
    client.send("GET / HTTP/1.1\r\nHost: b.test\r\n\r\n");
    let mut other = Connection::open(portunus.http);
    other.send("GET / HTTP/1.1\r\nHost: b.test\r\n\r\n");
    eventually("a turn", || (slow.count() == 2).then_some(()));
    release.open();
}
