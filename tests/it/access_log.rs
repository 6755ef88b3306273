//! One JSON line for each request, whatever became of it, and never at the cost of a request.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::harness::h1::Connection;
use crate::harness::tls::Client;
use crate::harness::*;

/// The lines so far, once there are `count` of them.
#[track_caller]
fn lines(portunus: &Portunus, count: usize) -> Vec<Value> {
    eventually(&format!("{count} lines"), || {
        let lines = portunus.stdout.lines();
        (lines.len() >= count).then(|| parse(&lines))
    })
}

#[track_caller]
fn parse(lines: &[String]) -> Vec<Value> {
    lines.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

fn logging(backend: &Backend) -> (Folder, Portunus) {
    let folder = Folder::to(backend);
    let portunus = Portunus::serve_with(&folder, &["--access-log", "stdout"]);
    (folder, portunus)
}

#[test]
fn a_line_tells_who_asked_for_what_and_what_became_of_it() {
    let backend = Backend::new(Exchange::echo);
    let (_folder, portunus) = logging(&backend);
    let mut client = Connection::open(portunus.http);
    let request =
        "POST /cart?item=7 HTTP/1.1\r\nHost: Shop.test:80\r\nX-Request-ID: id-1\r\nContent-Length: 5\r\n\r\nhello";
    assert_eq!(client.ask(request).status, 200);
    let line = lines(&portunus, 1).remove(0);
    assert_eq!(line["request_id"], "id-1", "{line}");
    assert_eq!(line["client"], "127.0.0.1", "{line}");
    assert_eq!(line["method"], "POST", "{line}");
    assert!(line["host"].as_str().is_some_and(|host| host.to_ascii_lowercase().starts_with("shop.test")), "{line}");
    assert!(line["path"].as_str().is_some_and(|path| path.starts_with("/cart")), "{line}");
    assert_eq!(line["protocol"], "HTTP/1.1", "{line}");
    assert_eq!(line["route"], "default/all", "{line}");
    assert_eq!(line["upstream"], "default/app:80", "{line}");
    assert_eq!(line["endpoint"], backend.address().to_string(), "{line}");
    assert_eq!(line["status"], 200, "{line}");
    assert_eq!(line["request_bytes"], 5, "{line}");
    assert_eq!(line["response_bytes"], 5, "{line}");
    assert!(line["duration_ms"].is_number(), "{line}");
    assert!(line["time"].as_str().is_some_and(|time| time.starts_with("20") && time.ends_with('Z')), "{line}");
    assert!(line["termination"].is_string(), "{line}");
}

#[test]
fn every_request_has_a_line_and_an_id_of_its_own() {
    const REQUESTS: usize = 200;
    let backend = Backend::named("a");
    let (_folder, portunus) = logging(&backend);
    let mut clients = [Connection::open(portunus.http), Connection::open(portunus.http)];
    for number in 0..REQUESTS {
        let target = format!("/{number}");
        assert_eq!(clients[number % 2].get("a.test", &target).status, 200);
    }
    let lines = lines(&portunus, REQUESTS);
    assert_eq!(lines.len(), REQUESTS);
    let distinct = |key: &str| lines.iter().map(|line| line[key].to_string()).collect::<BTreeSet<_>>().len();
    assert_eq!((distinct("request_id"), distinct("path")), (REQUESTS, REQUESTS));
    let upstream: BTreeSet<_> =
        backend.requests().iter().map(|r| format!("{:?}", r.header("x-request-id").expect("an id"))).collect();
    assert_eq!(upstream, lines.iter().map(|line| line["request_id"].to_string()).collect());
    assert_eq!(portunus.metric("portunus_access_log_dropped_total", &[]), 0.0);
}

#[test]
fn what_portunus_answers_itself_has_its_line_too() {
    let backend = Backend::named("a");
    let folder = Folder::new();
    folder.write("app.yaml", manifests::app("default", "app", &[backend.address()]));
    let rules = Ingress::new("default", "main").host("a.test").prefix("/ok", "app", 80);
    folder.write("ingress.yaml", rules.prefix("/gone", "nobody", 80));
    let portunus = Portunus::serve_with(&folder, &["--access-log", "stdout"]);
    for (target, status) in [("/ok", 200), ("/none", 404), ("/gone", 503), ("/%5C", 400)] {
        assert_eq!(portunus.get("a.test", target).status, status);
    }
    let lines = lines(&portunus, 4);
    let line = |status: u16| lines.iter().find(|line| line["status"] == status).expect("a line");
    assert_eq!((&line(503)["route"], &line(503)["upstream"]), (&"default/main".into(), &"default/nobody:80".into()));
    for (status, key) in [(503, "endpoint"), (404, "endpoint"), (404, "route"), (404, "upstream"), (400, "route")] {
        assert!(line(status)[key].is_null(), "{key}: {}", line(status));
    }
    let ends: BTreeSet<_> = lines.iter().map(|line| line["termination"].to_string()).collect();
    assert!(ends.len() >= 3, "why each ended: {ends:?}");
}

#[test]
fn hostile_values_stay_values() {
    let backend = Backend::named("a");
    let (_folder, portunus) = logging(&backend);
    let mut client = Connection::open(portunus.http);
    let request = b"GET /\"},{\"status\":1 HTTP/1.1\r\nHost: a.test\r\nX-Request-ID: \"\\\xff\t<script>\r\n\r\n";
    let mut bytes = request.to_vec();
    bytes.retain(|byte| *byte != b'\t');
    let status = client.ask(bytes).status;
    let line = lines(&portunus, 1).remove(0);
    assert_eq!(line["status"], status, "{line}");
    assert_eq!(portunus.stdout.lines().len(), 1);
}

#[test]
fn the_line_says_over_what_the_request_came() {
    let backend = Backend::named("a");
    let (_folder, portunus) = logging(&backend);
    run(async {
        let client = Client::new().alpn(&["h2"]);
        let (mut connection, _) = h2::Connection::tls(portunus.https, &client, "a.test").await;
        assert_eq!(connection.get("https://a.test/").await.status, 200);
    });
    let line = lines(&portunus, 1).remove(0);
    assert!(line["protocol"].as_str().is_some_and(|protocol| protocol.starts_with("HTTP/2")), "{line}");
}

#[test]
fn why_a_request_ended_early_can_be_read() {
    let (held, release, cut) = (Gate::new(), Gate::new(), Gate::new());
    let gates = (held.clone(), release.clone(), cut.clone());
    let backend = Backend::new(move |exchange| match exchange.head.word(1) {
        "/held" => {
            exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
            gates.0.open();
            gates.1.wait("the end of the test");
            exchange.close();
        }
        "/cut" => {
            exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
            gates.2.wait("the client to have the half");
            exchange.close();
        }
        _ => exchange.ok("whole"),
    });
    let (_folder, portunus) = logging(&backend);
    assert_eq!(portunus.get("a.test", "/whole").status, 200);
    let mut client = Connection::open(portunus.http);
    client.send("GET /cut HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(client.response_head().word(1), "200");
    cut.open();
    assert_eq!(client.read_to_end(), b"half");
    let mut client = Connection::open(portunus.http);
    client.send("GET /held HTTP/1.1\r\nHost: a.test\r\n\r\n");
    held.wait("the request at the backend");
    assert_eq!(client.response_head().word(1), "200");
    client.reset();
    let lines = lines(&portunus, 3);
    release.open();
    let why = |path: &str| {
        let line = lines.iter().find(|line| line["path"] == path).expect("a line");
        line["termination"].as_str().expect("a reason").to_owned()
    };
    let reasons = BTreeSet::from([why("/whole"), why("/cut"), why("/held")]);
    assert_eq!(reasons.len(), 3, "{reasons:?}");
}

#[test]
fn the_log_may_go_to_a_file() {
    let backend = Backend::named("a");
    let folder = Folder::to(&backend);
    let path = folder.beside("access.log");
    let mut portunus = Portunus::serve_with(&folder, &["--access-log", &path.display().to_string()]);
    let mut client = Connection::open(portunus.http);
    for number in 0..50 {
        assert_eq!(client.get("a.test", &format!("/{number}")).status, 200);
    }
    drop(client);
    portunus.terminate();
    assert_eq!(portunus.wait_exit(), 0);
    let text = std::fs::read_to_string(&path).expect("the log");
    let lines = parse(&text.lines().map(str::to_owned).collect::<Vec<_>>());
    let mut paths: Vec<String> = lines.iter().map(|line| line["path"].as_str().expect("a path").to_owned()).collect();
    let expected: Vec<String> = (0..50).map(|number| format!("/{number}")).collect();
    assert_eq!(paths.len(), 50);
    paths.sort_by_key(|path| path[1..].parse::<u32>().expect("a number"));
    assert_eq!(paths, expected, "all is written before the end");
    assert_eq!(portunus.stdout.text(), "");
}

#[test]
fn a_log_that_nobody_reads_costs_lines_and_no_request() {
    let folder = Folder::new();
    let path = folder.beside("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo").success());
    // Both ways, so that neither end waits for the other to open it; nobody reads.
    let pipe = std::fs::File::options().read(true).write(true).open(&path).expect("the pipe");
    let portunus = Portunus::serve_with(&folder, &["--access-log", &path.display().to_string()]);
    let mut client = Connection::open(portunus.http);
    let requests = "GET /none HTTP/1.1\r\nHost: a.test\r\n\r\n".repeat(500);
    let dropped = |_| {
        client.send(&requests);
        (0..500).for_each(|_| assert_eq!(client.response().status, 404));
        portunus.metric("portunus_access_log_dropped_total", &[]) > 0.0
    };
    assert!((0..400).any(dropped), "200,000 lines went into a pipe that nobody reads");
    drop(pipe);
}

#[test]
fn a_full_disk_costs_lines_and_no_request() {
    const REQUESTS: usize = 50;
    let backend = Backend::named("a");
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve_with(&folder, &["--access-log", "/dev/full"]);
    let mut client = Connection::open(portunus.http);
    for _ in 0..REQUESTS {
        assert_eq!(client.get("a.test", "/").status, 200);
    }
    let all = |lost| lost == REQUESTS as f64;
    portunus.wait_metric("portunus_access_log_dropped_total", &["reason=\"not_written\""], all);
    portunus.stderr.wait_for("the access log can't be written");
    assert_eq!(portunus.metric("portunus_access_log_dropped_total", &["reason=\"queue_full\""]), 0.0);
    assert_eq!(client.get("a.test", "/").status, 200);
}
