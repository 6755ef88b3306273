//! What the admin port says: alive, ready, metrics, problems and the table, and never a secret.

use crate::harness::certificates::Authority;
use crate::harness::h1::Connection;
use crate::harness::manifests::{app, tls_secret};
use crate::harness::*;

#[test]
fn live_and_ready_and_nothing_else() {
    let backend = Backend::named("a");
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve(&folder);
    assert_eq!(portunus.admin("/livez").status, 200);
    assert_eq!(portunus.admin("/readyz").status, 200);
    assert_eq!(portunus.admin("/nothing").status, 404);
    let post = "POST /livez HTTP/1.1\r\nHost: admin\r\nContent-Length: 0\r\n\r\n";
    assert!(matches!(Connection::open(portunus.admin).ask(post).status, 404 | 405));
    // Over HTTP/1.1 with keep-alive, as a scraper does.
    let mut scraper = Connection::open(portunus.admin);
    for _ in 0..3 {
        assert_eq!(scraper.get("admin", "/metrics").status, 200);
    }
    // The admin port's paths are nothing special on the others.
    for target in ["/metrics", "/debug/table", "/readyz"] {
        assert_eq!(portunus.get("a.test", target).text(), "a");
    }
}

#[test]
fn metrics_count_requests_by_route_and_class() {
    let backend = Backend::new(|exchange| match exchange.head.word(1) {
        "/500" => {
            exchange.read_body();
            exchange.write("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n");
        }
        _ => exchange.ok("a"),
    });
    let folder = Folder::new();
    folder.write("app.yaml", app("default", "app", &[backend.address()]));
    let ingress = |name: &str| Ingress::new("default", name).host(&format!("{name}.test"));
    folder.write("one.yaml", ingress("one").prefix("/", "app", 80));
    folder.write("two.yaml", ingress("two").prefix("/", "nobody", 80));
    let portunus = Portunus::serve(&folder);
    for (host, target, count) in
        [("one.test", "/", 5), ("one.test", "/500", 2), ("two.test", "/", 3), ("no.test", "/", 4)]
    {
        for _ in 0..count {
            portunus.get(host, target);
        }
    }
    let requests = |labels: &[&str]| portunus.metric("portunus_requests_total", labels);
    portunus.wait_metric("portunus_requests_total", &[], |count| count == 14.0);
    assert_eq!(requests(&["route=\"default/one\"", "class=\"2xx\""]), 5.0);
    assert_eq!(requests(&["route=\"default/one\"", "class=\"5xx\""]), 2.0);
    assert_eq!(requests(&["route=\"default/two\"", "class=\"5xx\""]), 3.0);
    assert_eq!(requests(&["class=\"4xx\""]), 4.0);
    assert_eq!(portunus.metric("portunus_request_duration_seconds_count", &[]), 14.0);
    assert_eq!(portunus.metric("portunus_request_duration_seconds_bucket", &["le=\"+Inf\""]), 14.0);
    assert_eq!(portunus.metric("portunus_upstream_requests_total", &[]), 7.0);
    assert_eq!(portunus.metric("portunus_problems", &[]), portunus.problems().len() as f64);
    assert!(portunus.metric("portunus_problems", &[]) >= 1.0);
}

#[test]
fn metrics_are_openmetrics_with_help_and_type() {
    let folder = Folder::new();
    let portunus = Portunus::serve(&folder);
    let response = portunus.admin("/metrics");
    let kind = response.header("content-type").expect("a content type").to_owned();
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    let text = response.text();
    assert!(text.ends_with("# EOF\n"), "{text}");
    for (name, kind) in [
        ("portunus_requests", "counter"),
        ("portunus_request_duration_seconds", "histogram"),
        ("portunus_connections", "gauge"),
        ("portunus_connections_accepted", "counter"),
        ("portunus_upstream_connections", "counter"),
        ("portunus_upstream_requests", "counter"),
        ("portunus_upstream_reused", "counter"),
        ("portunus_tunnels", "gauge"),
        ("portunus_table_generation", "gauge"),
        ("portunus_tables_alive", "gauge"),
        ("portunus_problems", "gauge"),
        ("portunus_access_log_dropped", "counter"),
    ] {
        assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "no {kind} {name} in:\n{text}");
        assert!(text.contains(&format!("# HELP {name} ")), "no help for {name}");
    }
}

#[test]
fn connections_are_counted_while_they_are_open() {
    let backend = Backend::named("a");
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve(&folder);
    let open = |kind: &str| portunus.metric("portunus_connections", &[&format!("\"{kind}")]);
    let mut clients: Vec<_> = (0..5).map(|_| Connection::open(portunus.http)).collect();
    for client in &mut clients {
        assert_eq!(client.get("a.test", "/").status, 200);
    }
    let (_tls, _) = tls::Client::new().connect(portunus.https, "a.test");
    eventually("5 connections", || (open("http\"") == 5.0 && open("https\"") == 1.0).then_some(()));
    drop(clients);
    eventually("no connection", || (open("http\"") == 0.0).then_some(()));
    assert_eq!(portunus.metric("portunus_connections_accepted_total", &["\"http\""]), 5.0);
}

#[test]
fn the_table_is_shown_as_it_matches_without_secrets() {
    let backend = Backend::named("a");
    let identity = Authority::new().leaf(&["romeo.test"]);
    let folder = Folder::new();
    folder.write("app.yaml", app("default", "app", &[backend.address()]));
    folder.write("secret.yaml", tls_secret("default", "romeo", &identity.chain_pem, &identity.key_pem));
    let ingress = Ingress::new("default", "romeo").host("romeo.test").prefix("/balcony", "app", 80);
    folder.write("ingress.yaml", ingress.tls(&["romeo.test"], "romeo"));
    let portunus = Portunus::serve(&folder);
    let response = portunus.admin("/debug/table");
    let table = response.json();
    assert_eq!(table["generation"].as_u64(), Some(portunus.generation()));
    assert!(table["hosts"].is_array() && table["certificates"].is_array(), "{table}");
    let text = response.text();
    for part in ["romeo.test", "/balcony", "default/romeo", "app", &backend.port().to_string()] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    let everything = [text, portunus.admin("/debug/problems").text(), portunus.admin("/metrics").text()];
    let everything = everything.join("\n") + &portunus.stderr.text();
    assert!(!everything.contains("PRIVATE"));
    let key_lines: Vec<&str> = identity.key_pem.lines().filter(|line| !line.starts_with('-')).collect();
    let encoded = manifests::base64(identity.key_pem.as_bytes());
    for part in key_lines.into_iter().chain([&encoded[40..80]]) {
        assert!(!everything.contains(part), "a part of the key");
    }
}

#[test]
fn problems_say_what_is_wrong_where_and_what_to_write() {
    let folder = Folder::new();
    folder.write("lost.yaml", Ingress::new("verona", "lost").host("a.test").prefix("/", "nobody", 80));
    let portunus = Portunus::serve(&folder);
    let problems = portunus.problems();
    assert_eq!(problems.len(), 1, "{problems:#?}");
    let problem = &problems[0];
    assert_eq!(problem["object"]["kind"], "Ingress", "{problem}");
    assert_eq!(problem["object"]["namespace"], "verona", "{problem}");
    assert_eq!(problem["object"]["name"], "lost", "{problem}");
    assert!(
        problem["field"].as_str().is_some_and(|field| field.starts_with("spec.rules[0].http.paths[0]")),
        "{problem}"
    );
    assert!(problem["what"].as_str().is_some_and(|what| what.contains("nobody")), "{problem}");
    assert!(problem["fix"].as_str().is_some_and(|fix| !fix.is_empty()), "{problem}");
    assert!(problem["file"].as_str().is_some_and(|file| file.ends_with("lost.yaml")), "{problem}");
    assert!(problem["line"].is_u64(), "{problem}");
    portunus.after(|| folder.remove("lost.yaml"));
    assert_eq!(portunus.problems().len(), 0);
    assert_eq!(portunus.metric("portunus_problems", &[]), 0.0);
}

#[test]
fn flags_may_come_from_the_environment_and_listeners_may_be_off() {
    let backend = Backend::named("a");
    let folder = Folder::to(&backend);
    let mut command = command::command();
    command.arg("serve");
    for (name, value) in [
        ("MANIFESTS", folder.path().display().to_string()),
        ("HTTP_LISTEN", "127.0.0.1:0".to_owned()),
        ("HTTPS_LISTEN", "off".to_owned()),
        ("ADMIN_LISTEN", "127.0.0.1:0".to_owned()),
        ("ACCESS_LOG", "off".to_owned()),
        ("WORKERS", "1".to_owned()),
        ("GENERATION_HEADER", "true".to_owned()),
    ] {
        command.env(format!("PORTUNUS_{name}"), value);
    }
    let portunus = Portunus::spawn(&mut command);
    let response = portunus.get("a.test", "/");
    assert_eq!(response.text(), "a");
    assert!(response.head.has("x-portunus-generation"));
    assert_eq!(portunus.addresses("https"), []);
}

#[test]
fn the_log_may_be_json() {
    let folder = Folder::new();
    let portunus = Portunus::serve_with(&folder, &["--log-format", "json"]);
    for line in portunus.stderr.lines() {
        let json: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(json.is_object());
    }
}
