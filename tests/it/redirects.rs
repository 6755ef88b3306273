//! Redirects that annotations ask for, and the one from http to https; beside the real nginx where it has them too.

use crate::harness::certificates::Authority;
use crate::harness::h1::{Connection, Response};
use crate::harness::manifests::{app, tls_secret};
use crate::harness::reach::*;
use crate::harness::tls::Client;
use crate::harness::*;

/// A host, what its Ingress asks for, and whether it has a certificate.
type Host<'a> = (&'a str, &'a [(&'a str, &'a str)], bool);

/// One Ingress for each host with these keys; those of TLS have a certificate of their own.
fn served(hosts: &[Host], flags: &[&str]) -> (Backend, Folder, Portunus) {
    let backend = Backend::named("app");
    let folder = Folder::new();
    folder.write("app.yaml", app("default", "app", &[backend.address()]));
    let authority = Authority::new();
    for (host, keys, tls) in hosts {
        let name = host.replace('.', "-");
        let mut ingress = Ingress::new("default", &name).asks(keys).host(host).prefix("/", "app", 80);
        if *tls {
            let identity = authority.leaf(&[host]);
            folder.write(
                &format!("{name}-tls.yaml"),
                tls_secret("default", &name, &identity.chain_pem, &identity.key_pem),
            );
            ingress = ingress.tls(&[host], &name);
        }
        folder.write(&format!("{name}.yaml"), ingress);
    }
    let portunus = Portunus::serve_with(&folder, flags);
    (backend, folder, portunus)
}

fn location(response: &Response) -> (u16, Option<&str>) {
    (response.status, response.header("location"))
}

#[track_caller]
fn redirects(portunus: &Portunus, host: &str, target: &str, status: u16, to: &str) {
    let response = portunus.get(host, target);
    assert_eq!(location(&response), (status, Some(to)), "{host}{target}");
}

#[test]
fn a_host_with_a_certificate_sends_http_to_https_and_says_so_over_tls() {
    let hosts: [Host; 4] = [
        ("a.test", &[], true),
        ("kept.test", &[("preserve-trailing-slash", "true")], true),
        ("plain.test", &[], false),
        ("off.test", &[("ssl-redirect", "false")], true),
    ];
    let (backend, _folder, portunus) = served(&hosts, &[]);
    redirects(&portunus, "a.test", "/b?c=d", 308, "https://a.test/b?c=d");
    redirects(&portunus, "A.test:8080", "/b/", 308, "https://a.test/b");
    redirects(&portunus, "a.test", "/", 308, "https://a.test/");
    redirects(&portunus, "a.test", "/b/?c", 308, "https://a.test/b/?c");
    redirects(&portunus, "kept.test", "/b/", 308, "https://kept.test/b/");
    let head = Connection::open(portunus.http).ask("POST /b HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(location(&head), (308, Some("https://a.test/b")));
    assert_eq!(backend.count(), 0);
    assert_reaches(&portunus, "plain.test", "/", "app");
    assert_reaches(&portunus, "off.test", "/", "app");
    let over_tls = |host: &str| {
        let (response, _) = Client::new().get(portunus.https, host, host, "/");
        (response.status, response.header("strict-transport-security").map(str::to_owned))
    };
    let value = Some("max-age=31536000; includeSubDomains".to_owned());
    assert_eq!(over_tls("a.test"), (200, value.clone()));
    assert_eq!(over_tls("off.test"), (200, value));
    // Nobody asked for TLS there, and over http browsers would not listen.
    assert_eq!(over_tls("plain.test"), (200, None));
    assert_eq!(portunus.get("off.test", "/").header("strict-transport-security"), None);
}

#[test]
fn the_operator_decides_for_all_and_an_ingress_for_itself() {
    let hosts: [Host; 2] = [("a.test", &[], true), ("own.test", &[("ssl-redirect", "true")], true)];
    let (_backend, _folder, portunus) = served(&hosts, &["--ssl-redirect", "false", "--hsts", "false"]);
    assert_reaches(&portunus, "a.test", "/", "app");
    redirects(&portunus, "own.test", "/", 308, "https://own.test/");
    let (response, _) = Client::new().get(portunus.https, "own.test", "own.test", "/");
    assert_eq!((response.status, response.header("strict-transport-security")), (200, None));
}

#[test]
fn a_proxy_in_front_that_ended_tls_is_believed_if_it_is_trusted() {
    let forced: [Host; 1] = [("a.test", &[("force-ssl-redirect", "true")], false)];
    for (flags, status) in [(&["--trusted-proxies", "127.0.0.1"][..], 200), (&[], 308)] {
        let (_backend, _folder, portunus) = served(&forced, flags);
        redirects(&portunus, "a.test", "/b", 308, "https://a.test/b");
        let request = "GET /b HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-Proto: https\r\n\r\n";
        assert_eq!(Connection::open(portunus.http).ask(request).status, status, "{flags:?}");
    }
}

/// A cert-manager HTTP-01 solver is an Ingress of its own beside the one that it proves the host of.
#[test]
fn a_certificate_authority_gets_its_proof_beside_redirects_passwords_and_access_rules() {
    let keys = [
        ("force-ssl-redirect", "true"),
        ("allowlist-source-range", "192.0.2.0/24"),
        ("auth-type", "basic"),
        ("auth-secret", "users"),
    ];
    let (_backend, folder, portunus) = served(&[("a.test", &keys, true)], &[]);
    let users = "apiVersion: v1\nkind: Secret\nmetadata: {name: users}\n\
                 stringData: {auth: 'romeo:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ='}\n";
    portunus.after(|| folder.write("users.yaml", users));
    let solver = Backend::named("the proof");
    folder.write("solver-app.yaml", app("default", "solver", &[solver.address()]));
    let path = "/.well-known/acme-challenge/0123abcd";
    portunus.after(|| {
        folder.write(
            "solver.yaml",
            Ingress::new("default", "cm-acme-http-solver").host("a.test").exact(path, "solver", 80),
        );
    });
    assert_reaches(&portunus, "a.test", path, "the proof");
    // What only looks like it doesn't get past the others' rules.
    redirects(&portunus, "a.test", "/.well-known/acme-challenge", 308, "https://a.test/.well-known/acme-challenge");
    assert_status(&portunus, "a.test", "/.well-known/acme-challenge/other", 403);
    assert_status(&portunus, "a.test", "/.well-known/acme-challenge/%2e%2e/secret", 308);
}

#[test]
fn roots_and_urls_are_as_the_annotations_say() {
    let hosts: [Host; 5] = [
        ("root.test", &[("app-root", "/app?a=b")], false),
        ("relative.test", &[("app-root", "/app"), ("relative-redirects", "true")], false),
        ("permanent.test", &[("permanent-redirect", "https://new.test/a?b=c")], false),
        ("code.test", &[("permanent-redirect", "https://new.test"), ("permanent-redirect-code", "308")], false),
        (
            "temporal.test",
            &[("permanent-redirect", "https://new.test"), ("temporal-redirect", "http://now.test")],
            true,
        ),
    ];
    let (backend, _folder, portunus) = served(&hosts, &[]);
    redirects(&portunus, "root.test:81", "/", 302, "http://root.test:81/app?a=b");
    redirects(&portunus, "root.test", "/?x=y", 302, "http://root.test/app?a=b");
    assert_reaches(&portunus, "root.test", "/app", "app");
    redirects(&portunus, "relative.test", "/", 302, "/app");
    redirects(&portunus, "permanent.test", "/b", 301, "https://new.test/a?b=c");
    redirects(&portunus, "code.test", "/b", 308, "https://new.test");
    // A redirect to elsewhere goes before the one to https, as it does in nginx.
    redirects(&portunus, "temporal.test", "/b", 302, "http://now.test");
    assert_eq!(backend.count(), 1);
}

#[test]
fn a_host_and_its_www_are_one_unless_both_have_rules() {
    let www: &[(&str, &str)] = &[("from-to-www-redirect", "true")];
    let hosts =
        [("a.test", www, false), ("www.b.test", www, false), ("c.test", www, false), ("www.c.test", &[], false)];
    let (_backend, folder, portunus) = served(&hosts, &[]);
    redirects(&portunus, "www.a.test", "/b/?c", 308, "http://a.test/b/?c");
    redirects(&portunus, "b.test", "/", 308, "http://www.b.test/");
    for host in ["a.test", "www.b.test", "c.test", "www.c.test"] {
        assert_reaches(&portunus, host, "/", "app");
    }
    // Who gets rules later has them, and gives the name back.
    let own = Ingress::new("default", "late").host("www.a.test").prefix("/", "app", 80);
    portunus.after(|| folder.write("late.yaml", own));
    assert_reaches(&portunus, "www.a.test", "/", "app");
    portunus.after(|| folder.remove("late.yaml"));
    redirects(&portunus, "www.a.test", "/", 308, "http://a.test/");
}

/// What ingress-nginx writes into nginx's configuration for the same annotations.
#[test]
fn nginx_answers_alike() {
    let servers = "
        server { listen 127.0.0.1:PORT; server_name root.test;
          if ($uri = /) { return 302 $scheme://$http_host/app; }
          location / { return 200 app; } }
        server { listen 127.0.0.1:PORT; server_name permanent.test; location / { return 301 https://new.test/a; } }
        server { listen 127.0.0.1:PORT; server_name temporal.test; location / { return 307 https://new.test/a; } }";
    let nginx = Nginx::start(servers);
    let hosts: [Host; 3] = [
        ("root.test", &[("app-root", "/app")], false),
        ("permanent.test", &[("permanent-redirect", "https://new.test/a")], false),
        ("temporal.test", &[("temporal-redirect", "https://new.test/a"), ("temporal-redirect-code", "307")], false),
    ];
    let (_backend, _folder, portunus) = served(&hosts, &[]);
    for host in ["root.test", "root.test:8080", "permanent.test", "temporal.test"] {
        for target in ["/", "/?a=b", "//", "/.", "/a/..", "/a", "/a/", "/app", "/%61", "/?", "/index.html?a=/"] {
            let (ours, theirs) = (portunus.get(host, target), nginx.get(host, target));
            assert_eq!(location(&ours), location(&theirs), "{host}{target}");
        }
    }
}
