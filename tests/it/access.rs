//! Ranges of addresses that may ask, and that may not, by the real client's address.

use crate::harness::h1::Connection;
use crate::harness::manifests::app;
use crate::harness::*;

const LISTS: [(&str, &[(&str, &str)]); 5] = [
    ("allow.test", &[("allowlist-source-range", "10.0.0.0/8,2001:db8::/32, 127.0.0.1")]),
    ("old.test", &[("whitelist-source-range", "10.1.0.0/16")]),
    ("deny.test", &[("denylist-source-range", "10.1.0.0/16, 2001:db8:1::/48")]),
    ("both.test", &[("denylist-source-range", "10.1.0.0/16"), ("allowlist-source-range", "10.0.0.0/8")]),
    ("broken.test", &[("allowlist-source-range", "10.0.0.0/8, office")]),
];

fn served(flags: &[&str]) -> (Backend, Folder, Portunus) {
    let backend = Backend::named("app");
    let folder = Folder::new();
    folder.write("app.yaml", app("default", "app", &[backend.address()]));
    for (host, keys) in LISTS {
        let name = host.replace('.', "-");
        folder.write(
            &format!("{name}.yaml"),
            Ingress::new("default", &name).asks(keys).host(host).prefix("/", "app", 80),
        );
    }
    let portunus = Portunus::serve_with(&folder, flags);
    (backend, folder, portunus)
}

fn status(address: std::net::SocketAddr, host: &str, client: &str) -> u16 {
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-For: {client}\r\n\r\n");
    Connection::open(address).ask(request).status
}

#[test]
fn who_is_outside_gets_403_and_a_list_that_cant_be_read_closes_its_route() {
    let (_backend, _folder, portunus) = served(&["--trusted-proxies", "127.0.0.1"]);
    for (host, client, expected) in [
        ("allow.test", "10.2.3.4", 200),
        ("allow.test", "2001:db8:1::1", 200),
        ("allow.test", "::ffff:10.2.3.4", 200),
        ("allow.test", "11.2.3.4", 403),
        ("allow.test", "10.2.3.4, 11.2.3.4", 403),
        ("old.test", "10.1.3.4", 200),
        ("old.test", "10.2.3.4", 403),
        ("deny.test", "10.1.3.4", 403),
        ("deny.test", "2001:db8:1::1", 403),
        ("deny.test", "10.2.3.4", 200),
        ("both.test", "10.2.3.4", 200),
        ("both.test", "10.1.3.4", 403),
        ("both.test", "11.1.3.4", 403),
        ("broken.test", "10.2.3.4", 503),
    ] {
        assert_eq!(status(portunus.http, host, client), expected, "{host} {client}");
    }
    portunus.wait_problem(&["allowlist-source-range", "`office` is no address", "503"]);
}

#[test]
fn a_client_cant_say_that_it_is_somebody_else() {
    let (_backend, _folder, portunus) = served(&[]);
    assert_eq!(status(portunus.http, "old.test", "10.1.3.4"), 403);
    // Its own address counts.
    assert_eq!(status(portunus.http, "allow.test", "11.2.3.4"), 200);
}

#[test]
fn nginx_lets_the_same_clients_in() {
    let (_backend, _folder, portunus) = served(&["--trusted-proxies", "127.0.0.1"]);
    let server = |host: &str, rules: &str| {
        format!(
            "server {{ listen 127.0.0.1:PORT; server_name {host}; set_real_ip_from 127.0.0.1; \
             real_ip_header X-Forwarded-For; real_ip_recursive on; location / {{ {rules} root FOLDER; try_files /a =500; }} }}"
        )
    };
    let servers = [
        server("allow.test", "allow 10.0.0.0/8; allow 2001:db8::/32; allow 127.0.0.1; deny all;"),
        server("old.test", "allow 10.1.0.0/16; deny all;"),
        server("deny.test", "deny 10.1.0.0/16; deny 2001:db8:1::/48;"),
        server("both.test", "deny 10.1.0.0/16; allow 10.0.0.0/8; deny all;"),
    ];
    let nginx = Nginx::with_files(&servers.concat(), &[("a", "app")]);
    let clients = [
        "10.0.0.0",
        "10.0.255.255",
        "10.1.0.0",
        "10.1.255.255",
        "10.2.0.0",
        "9.255.255.255",
        "11.0.0.0",
        "127.0.0.1",
        "127.0.0.2",
        "2001:db8::",
        "2001:db8:1::1",
        "2001:db8:1:ffff::1",
        "2001:db8:2::1",
        "2001:db9::1",
        "::1",
        "10.1.0.1, 10.2.0.1",
        "10.2.0.1, 10.1.0.1",
        "10.2.0.1, 127.0.0.1",
    ];
    for (host, _) in &LISTS[..4] {
        for client in clients {
            let (ours, theirs) = (status(portunus.http, host, client), status(nginx.address(), host, client));
            assert_eq!(ours, theirs, "{host} {client}");
        }
    }
}
