//! Who is left out because it fails, or says that it is not well, and how it comes back; and how much a backend is
//! asked at once.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::harness::backend::{Refusing, Silent};
use crate::harness::certificates::Authority;
use crate::harness::h1::{Connection, Response};
use crate::harness::h2_raw::{END_STREAM, RawH2Backend};
use crate::harness::hyper_backend::HyperBackend;
use crate::harness::manifests::{app, app_with, secret};
use crate::harness::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// Everything goes to the Service `app`, with these annotations.
fn ingress(keys: &[(&str, &str)]) -> Ingress {
    let begin = Ingress::new("default", "all").host("a.test").prefix("/", "app", 80);
    keys.iter().fold(begin, |ingress, (key, value)| ingress.annotation(key, value))
}

fn served(addresses: &[SocketAddr], keys: &[(&str, &str)], flags: &[&str]) -> (Folder, Portunus) {
    let folder = Folder::new();
    folder.write("app.yaml", app("default", "app", addresses));
    folder.write("ingress.yaml", ingress(keys));
    let portunus = Portunus::serve_with(&folder, flags);
    portunus.wait_no_problems();
    (folder, portunus)
}

fn ejected(portunus: &Portunus) -> f64 {
    portunus.metric("portunus_endpoints_ejected", &[])
}

fn failing(portunus: &Portunus, count: f64) {
    portunus.wait_metric("portunus_endpoints_failing_checks", &[], |value| value == count);
}

/// A request of a client of its own, for those who balance by clients.
fn ask(portunus: &Portunus, client: usize) -> Response {
    let request = format!(
        "POST / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 203.0.113.{}\r\nContent-Length: 1\r\n\r\nx",
        client % 250
    );
    Connection::open(portunus.http).ask(request)
}

fn answering(status: u16) -> Backend {
    Backend::new(move |exchange| {
        exchange.read_body();
        exchange.write(format!("HTTP/1.1 {status} Text\r\nContent-Length: 4\r\n\r\nfrom"));
    })
}

#[test]
fn an_endpoint_that_can_not_be_reached_is_left_out_under_every_policy() {
    for policy in ["round_robin", "least_requests", "ewma", "consistent_hash"] {
        let (refusing, fine) = (Refusing::new(), ["a", "b"].map(Backend::named));
        let all = [fine[0].address(), refusing.address(), fine[1].address()];
        let flags = ["--load-balance", policy, "--trusted-proxies", "127.0.0.1", "--outlier-ejection-time", "1h"];
        let (_folder, portunus) = served(&all, &[], &flags);
        let mut client = 0;
        eventually("the ejection", || {
            client += 1;
            assert_eq!(ask(&portunus, client).status, 200, "{policy}: what was not sent goes on");
            (ejected(&portunus) == 1.0).then_some(())
        });
        let failures = || portunus.metric("portunus_upstream_connect_failures_total", &[]);
        let before = failures();
        (0..100).for_each(|client| assert_eq!(ask(&portunus, client).status, 200, "{policy}"));
        assert_eq!(failures(), before, "{policy}: nobody tries any more");
        assert!(fine.iter().all(|backend| backend.count() > 10), "{policy}");
    }
}

#[test]
fn an_endpoint_that_answers_again_comes_back_by_a_trial() {
    let (stays, mut goes) = (Backend::named("stays"), Backend::named("goes"));
    let address = goes.address();
    let flags = ["--outlier-failures", "2", "--outlier-ejection-time", "500ms"];
    let (_folder, portunus) = served(&[stays.address(), address], &[], &flags);
    goes.stop_listening();
    goes.close_connections();
    eventually("the ejection", || {
        assert_eq!(ask(&portunus, 0).text(), "stays");
        (ejected(&portunus) == 1.0).then_some(())
    });
    let _back = Backend::on(&address.to_string(), |exchange| exchange.ok("back"));
    eventually("its return", || {
        let answer = ask(&portunus, 0);
        assert_eq!(answer.status, 200);
        (answer.text() == "back").then_some(())
    });
    assert_eq!(ejected(&portunus), 0.0);
    let answers: Vec<String> = (0..20).map(|client| ask(&portunus, client).text()).collect();
    assert!(answers.iter().any(|answer| answer == "back") && answers.iter().any(|answer| answer == "stays"));
}

#[test]
fn each_trial_is_one_request_and_a_failure_ejects_again_for_longer() {
    const FIRST: Duration = Duration::from_millis(200);
    let asked: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let noted = asked.clone();
    let bad = Backend::new(move |exchange| {
        noted.lock().expect("times").push(Instant::now());
        exchange.read_body();
        exchange.write("HTTP/1.1 503 Text\r\nContent-Length: 4\r\n\r\nfrom");
    });
    let good = Backend::named("good");
    let flags = ["--workers", "1", "--outlier-failures", "2", "--outlier-ejection-time", "200ms"];
    let (_folder, portunus) = served(&[bad.address(), good.address()], &[], &flags);
    let mut trials = 0;
    eventually("three trials", || {
        let status = ask(&portunus, 0).status;
        assert!([200, 503].contains(&status));
        if status == 503 {
            let ejections = portunus.metric("portunus_endpoint_ejections_total", &[]);
            assert_eq!(ejections, (bad.count() - 1) as f64, "the first is after two failures");
            trials = bad.count().saturating_sub(2);
        }
        (trials == 3).then_some(())
    });
    // From the second failure on each ejects: for 200 ms, 400 ms and 600 ms at the least, by a clock of milliseconds.
    let asked = asked.lock().expect("times");
    let gaps: Vec<Duration> = asked.windows(2).skip(1).map(|pair| pair[1] - pair[0]).collect();
    for (gap, times) in gaps.iter().zip(1..) {
        assert!(*gap + Duration::from_millis(2) >= FIRST * times, "{gaps:?}");
    }
    assert_eq!(gaps.len(), 3);
}

#[test]
fn the_last_endpoint_is_never_ejected_and_none_for_answers_of_its_own() {
    let both = [answering(502), answering(504)];
    let flags = ["--workers", "1", "--outlier-ejection-time", "1h", "--outlier-ejected-max", "100"];
    let (_folder, portunus) = served(&both.each_ref().map(Backend::address), &[], &flags);
    (0..40).for_each(|client| assert!([502, 504].contains(&ask(&portunus, client).status)));
    assert_eq!(ejected(&portunus), 1.0);
    let counts = both.each_ref().map(Backend::count);
    assert!(counts.contains(&5) && counts.iter().sum::<usize>() == 40, "{counts:?}");
    // An endpoint that says 500, or 404, is there.
    let both = [answering(500), answering(404)];
    let (_folder, portunus) = served(&both.each_ref().map(Backend::address), &[], &flags);
    (0..40).for_each(|client| assert!([500, 404].contains(&ask(&portunus, client).status)));
    assert_eq!(ejected(&portunus), 0.0);
    // And so is one for which the Ingress, or the operator, wants none of it.
    let (rule, operator) = ([("portunus.dev/outlier-failures", "0")], ["--outlier-failures", "0"]);
    for (keys, flags) in [(&rule[..], &[][..]), (&[][..], &operator[..])] {
        let both = [answering(503), Backend::named("fine")];
        let (_folder, portunus) = served(&both.each_ref().map(Backend::address), keys, flags);
        (0..40).for_each(|client| drop(ask(&portunus, client)));
        assert_eq!(ejected(&portunus), 0.0);
    }
}

#[test]
fn sessions_of_an_ejected_endpoint_are_served_by_another_and_come_back() {
    let (one, mut other) = (Backend::named("one"), Backend::named("other"));
    let address = other.address();
    let keys = [("nginx.ingress.kubernetes.io/affinity", "cookie"), ("portunus.dev/outlier-failures", "2")];
    let flags = ["--workers", "1", "--outlier-ejection-time", "500ms"];
    let (_folder, portunus) = served(&[one.address(), address], &keys, &flags);
    let cookie = eventually("a session with the other", || {
        let answer = Connection::open(portunus.http).ask(GET);
        let cookie = answer.header("set-cookie").expect("a cookie").split(';').next().map(str::to_owned);
        cookie.filter(|_| answer.text() == "other")
    });
    let ask = || {
        let request = format!("GET / HTTP/1.1\r\nHost: a.test\r\nCookie: {cookie}\r\n\r\n");
        let answer = Connection::open(portunus.http).ask(request);
        assert_eq!((answer.status, answer.header("set-cookie")), (200, None));
        answer.text()
    };
    assert_eq!(ask(), "other");
    other.stop_listening();
    other.close_connections();
    eventually("the ejection", || {
        assert_eq!(ask(), "one");
        (ejected(&portunus) == 1.0).then_some(())
    });
    let _back = Backend::on(&address.to_string(), |exchange| exchange.ok("back"));
    eventually("the session's return", || (ask() == "back").then_some(()));
    assert_eq!(ask(), "back");
}

#[test]
fn a_new_endpoint_begins_with_a_small_share() {
    let backends = ["a", "b", "new"].map(Backend::named);
    let all = backends.each_ref().map(Backend::address);
    let (folder, portunus) = served(&all[..2], &[("portunus.dev/slow-start", "1h")], &[]);
    (0..100).for_each(|client| assert_eq!(ask(&portunus, client).status, 200));
    let first = backends[0].count();
    assert!((40..=60).contains(&first), "those of the first table are all alike: {first}");
    let warming = || portunus.metric("portunus_endpoints_warming", &[]);
    assert_eq!(warming(), 0.0);
    portunus.after(|| folder.write("app.yaml", app("default", "app", &all)));
    (0..600).for_each(|client| assert_eq!(ask(&portunus, client).status, 200));
    let new = backends[2].count();
    assert!((1..=60).contains(&new), "a tenth of 200, more or less: {new}");
    assert_eq!(warming(), 1.0);
    portunus.after(|| folder.write("app.yaml", app("default", "app", &all[..2])));
    assert_eq!(warming(), 0.0, "who is gone is not new");
}

/// Answers when the gate is open.
fn held(gate: &Gate) -> Backend {
    let gate = gate.clone();
    Backend::new(move |exchange| {
        gate.wait("the test");
        exchange.ok("late");
    })
}

#[test]
fn a_backend_has_no_more_requests_at_once_than_its_rule_allows() {
    let gate = Gate::new();
    let (backend, other) = (held(&gate), Backend::named("other"));
    let folder = Folder::new();
    folder.write("app.yaml", app("default", "app", &[backend.address()]));
    folder.write("other.yaml", app("default", "other", &[other.address()]));
    folder.write("ingress.yaml", ingress(&[("portunus.dev/max-in-flight", "2")]));
    folder.write("free.yaml", Ingress::new("default", "free").host("free.test").prefix("/", "app", 80));
    folder.write("others.yaml", Ingress::new("default", "others").host("other.test").prefix("/", "other", 80));
    let portunus = Portunus::serve(&folder);
    let mut clients: Vec<_> = (0..2).map(|_| Connection::open(portunus.http)).collect();
    for client in &mut clients {
        client.send(GET);
    }
    backend.wait_count(2);
    for _ in 0..10 {
        let mut client = Connection::open(portunus.http);
        let refused = client.ask(GET);
        assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
        assert_eq!(client.get("other.test", "/").text(), "other", "and the connection stays");
    }
    assert_eq!(portunus.metric("portunus_circuit_refused_total", &[]), 10.0);
    assert_eq!(backend.count(), 2);
    // What another Ingress sends there is another matter.
    let mut free = Connection::open(portunus.http);
    free.send("GET / HTTP/1.1\r\nHost: free.test\r\n\r\n");
    backend.wait_count(3);
    gate.open();
    for client in &mut clients {
        assert_eq!(client.response().text(), "late");
        assert_eq!(client.ask(GET).text(), "late", "its place is free again");
    }
}

#[test]
fn no_more_wait_for_a_connection_than_a_rule_allows() {
    let silent = Silent::new();
    let flags = ["--workers", "1", "--connect-timeout", "2s"];
    let (_folder, portunus) = served(&[silent.address()], &[("portunus.dev/max-pending", "1")], &flags);
    let mut clients: Vec<_> = (0..3).map(|_| Connection::open(portunus.http)).collect();
    for client in &mut clients {
        client.send(GET);
    }
    let mut statuses: Vec<u16> = clients.iter_mut().map(|client| client.response().status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [503, 503, 504]);
}

/// Is well as long as the switch says so, and answers everything but its checks in any case.
fn checked(name: &'static str, well: &Arc<AtomicBool>) -> Backend {
    let well = well.clone();
    Backend::new(move |exchange| match (exchange.head.word(1), well.load(Ordering::SeqCst)) {
        ("/healthz", true) => exchange.ok("well"),
        ("/healthz", false) => drop(exchange.write("HTTP/1.1 500 Unwell\r\nContent-Length: 0\r\n\r\n")),
        _ => exchange.ok(name),
    })
}

const CHECKS: [(&str, &str); 4] = [
    ("portunus.dev/health-check", "http"),
    ("portunus.dev/health-check-path", "/healthz"),
    ("portunus.dev/health-check-interval", "100ms"),
    ("portunus.dev/health-check-timeout", "5s"),
];

#[test]
fn an_endpoint_whose_checks_fail_gets_nothing_until_they_pass() {
    let (well, always) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(true)));
    let (one, other) = (checked("one", &well), checked("other", &always));
    let (folder, portunus) = served(&[one.address(), other.address()], &CHECKS, &["--workers", "1"]);
    let answers = || -> Vec<String> { (0..20).map(|client| ask(&portunus, client).text()).collect() };
    let from = |answers: &[String], name: &str| answers.iter().filter(|answer| *answer == name).count();
    eventually("a check", || one.requests().iter().any(|request| request.target() == "/healthz").then_some(()));
    let asked = one.requests().into_iter().find(|request| request.target() == "/healthz").expect("a check");
    assert_eq!(asked.header("host"), Some(&*one.address().to_string()));
    assert_eq!(from(&answers(), "one"), 10);
    well.store(false, Ordering::SeqCst);
    failing(&portunus, 1.0);
    assert_eq!(from(&answers(), "other"), 20);
    well.store(true, Ordering::SeqCst);
    failing(&portunus, 0.0);
    assert_eq!(from(&answers(), "one"), 10);
    assert!(portunus.metric("portunus_health_checks_total", &[]) > 5.0);
    // Nobody asks any more when nobody wants it.
    well.store(false, Ordering::SeqCst);
    failing(&portunus, 1.0);
    portunus.after(|| folder.write("ingress.yaml", ingress(&[])));
    failing(&portunus, 0.0);
    assert_eq!(from(&answers(), "one"), 10);
}

#[test]
fn an_endpoint_that_no_connection_can_be_made_to_fails_its_checks() {
    let (stays, mut goes) = (Backend::named("stays"), Backend::named("goes"));
    let keys = [CHECKS[2], ("portunus.dev/health-check", "tcp"), ("portunus.dev/health-check-unhealthy", "1")];
    let (_folder, portunus) = served(&[stays.address(), goes.address()], &keys, &[]);
    portunus.wait_metric("portunus_health_checks_total", &[], |count| count >= 4.0);
    failing(&portunus, 0.0);
    goes.stop_listening();
    goes.close_connections();
    failing(&portunus, 1.0);
    let before = portunus.metric("portunus_upstream_connect_failures_total", &[]);
    (0..10).for_each(|client| assert_eq!(ask(&portunus, client).text(), "stays"));
    assert_eq!(portunus.metric("portunus_upstream_connect_failures_total", &[]), before);
}

#[test]
fn a_grpc_endpoint_says_by_the_health_protocol_whether_it_serves() {
    const SERVING: u8 = 1;
    const NOT_SERVING: u8 = 2;
    let status = Arc::new(AtomicU8::new(SERVING));
    let says = status.clone();
    let backend = RawH2Backend::new(move |connection, stream, _| {
        connection.headers(stream, 0, &[(":status", "200"), ("content-type", "application/grpc")]);
        connection.data(stream, 0, &[0, 0, 0, 0, 2, 8, says.load(Ordering::SeqCst)]);
        connection.headers(stream, END_STREAM, &[("grpc-status", "0")]);
    });
    let folder = Folder::new();
    folder.write("app.yaml", app_with("default", "app", &[backend.address], "grpc"));
    folder.write("ingress.yaml", ingress(&[CHECKS[2], ("portunus.dev/health-check", "grpc")]));
    let portunus = Portunus::serve(&folder);
    portunus.wait_metric("portunus_health_checks_total", &[], |count| count >= 3.0);
    assert_eq!(portunus.metric("portunus_health_checks_failed_total", &[]), 0.0);
    status.store(NOT_SERVING, Ordering::SeqCst);
    failing(&portunus, 1.0);
    status.store(SERVING, Ordering::SeqCst);
    failing(&portunus, 0.0);
}

#[test]
fn checks_over_tls_prove_their_endpoint_as_requests_do() {
    const NAME: &str = "app.default.svc";
    let (authority, other) = (Authority::named("ours"), Authority::named("another"));
    let (ours, expired) = (authority.leaf(&[NAME]), authority.expired_leaf(&[NAME]));
    let (theirs, elsewhere) = (other.leaf(&[NAME]), authority.leaf(&["app.other.svc"]));
    let (http1, h2, both) = (&["http/1.1"][..], &["h2"][..], &["h2", "http/1.1"][..]);
    for (what, identity, alpn, protocol, kind, passes) in [
        ("HTTP/1.1", &ours, http1, "https", "http", true),
        ("HTTP/2", &ours, h2, "https", "http", true),
        ("either", &ours, both, "https", "http", true),
        ("HTTP/1.1 only", &ours, both, "kubernetes.io/wss", "http", true),
        ("another's", &theirs, both, "https", "http", false),
        ("expired", &expired, both, "https", "http", false),
        ("of another name", &elsewhere, both, "https", "http", false),
        ("gRPC", &ours, h2, "grpcs", "grpc", true),
        ("gRPC, another's", &theirs, h2, "grpcs", "grpc", false),
        ("gRPC, of another name", &elsewhere, h2, "grpcs", "grpc", false),
        ("gRPC without HTTP/2", &ours, http1, "grpcs", "grpc", false),
    ] {
        let backend = HyperBackend::tls(identity, alpn);
        let folder = Folder::new();
        folder.write("app.yaml", app_with("default", "app", &[backend.address()], protocol));
        folder.write("secret.yaml", secret("default", "app-tls", &[("ca.crt", &authority.pem)]));
        let keys = [CHECKS[2], CHECKS[3], ("portunus.dev/health-check-unhealthy", "1")];
        let tls = [("proxy-ssl-secret", "default/app-tls"), ("proxy-ssl-verify", "on")];
        let ingress = ingress(&keys).annotation("portunus.dev/health-check", kind).asks(&tls);
        folder.write("ingress.yaml", ingress);
        let portunus = Portunus::serve(&folder);
        portunus.wait_no_problems();
        if passes {
            portunus.wait_metric("portunus_health_checks_total", &[], |count| count >= 3.0);
            assert_eq!(portunus.metric("portunus_health_checks_failed_total", &[]), 0.0, "{what}");
            let path = if kind == "grpc" { "/grpc.health.v1.Health/Check" } else { "/" };
            assert_eq!(backend.last().uri.path(), path, "{what}");
        } else {
            failing(&portunus, 1.0);
            assert!(backend.requests().is_empty(), "{what}: who proves nothing is asked nothing");
        }
    }
}

/// An endpoint whose answers' heads are these.
fn heads(fields: &'static [(&'static str, &'static str)]) -> RawH2Backend {
    RawH2Backend::new(move |connection, stream, _| {
        connection.headers(stream, END_STREAM, &[&[(":status", "200")], fields].concat());
    })
}

#[test]
fn a_grpc_endpoint_that_says_in_its_head_that_it_is_unavailable_has_failed() {
    const GRPC: (&str, &str) = ("content-type", "application/grpc+proto");
    for (fields, failed) in [
        (&[GRPC, ("grpc-status", "14")][..], true),
        (&[GRPC, ("grpc-status", "5")], false),
        (&[("content-type", "text/plain"), ("grpc-status", "14")], false),
        (&[GRPC], false),
    ] {
        let (one, other) = (heads(fields), heads(&[GRPC, ("grpc-status", "0")]));
        let folder = Folder::new();
        folder.write("app.yaml", app_with("default", "app", &[one.address, other.address], "grpc"));
        folder.write("ingress.yaml", ingress(&[]));
        let flags = ["--workers", "1", "--outlier-failures", "3", "--outlier-ejection-time", "1h"];
        let portunus = Portunus::serve_with(&folder, &flags);
        for client in 0..20 {
            assert_eq!(ask(&portunus, client).status, 200, "it is passed on as it is");
        }
        assert_eq!(ejected(&portunus), f64::from(u8::from(failed)), "{fields:?}");
        assert_eq!(one.count(), if failed { 3 } else { 10 }, "{fields:?}");
    }
    // Behind a message it is the call's failure, and over HTTP/1.1 it is a field like any other.
    let plain = || {
        Backend::new(|exchange| {
            exchange.read_body();
            exchange.write(
                "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nGrpc-Status: 14\r\nContent-Length: 0\r\n\r\n",
            );
        })
    };
    let plain = [plain(), plain()];
    let (_folder, portunus) = served(&plain.each_ref().map(Backend::address), &[], &["--outlier-failures", "1"]);
    (0..10).for_each(|client| assert_eq!(ask(&portunus, client).status, 200));
    assert_eq!(ejected(&portunus), 0.0);
}

#[test]
fn with_too_few_that_are_well_all_are_used() {
    for (threshold, reached) in [("50", 3), ("30", 1)] {
        let wells = [true, false, false].map(|well| Arc::new(AtomicBool::new(well)));
        let backends = [0, 1, 2].map(|at| checked(["a", "b", "c"][at], &wells[at]));
        let keys = [&CHECKS[..], &[("portunus.dev/panic-threshold", threshold)]].concat();
        let (_folder, portunus) = served(&backends.each_ref().map(Backend::address), &keys, &[]);
        failing(&portunus, 2.0);
        let answers: std::collections::BTreeSet<String> = (0..30).map(|client| ask(&portunus, client).text()).collect();
        assert_eq!(answers.len(), reached, "{threshold} %");
        let panics = portunus.metric("portunus_panic_picks_total", &[]);
        assert_eq!(panics > 0.0, reached == 3, "{threshold} %: {panics}");
    }
}

#[test]
fn a_rate_of_failures_ejects_where_no_row_of_them_does() {
    let count = AtomicUsize::new(0);
    // Two failures and an answer, again and again.
    let flaky = Backend::new(move |exchange| {
        exchange.read_body();
        let status = if count.fetch_add(1, Ordering::SeqCst) % 3 == 2 { 200 } else { 503 };
        exchange.write(format!("HTTP/1.1 {status} Text\r\nContent-Length: 4\r\n\r\nfrom"));
    });
    let fine = Backend::named("fine");
    let flags = ["--workers", "1", "--outlier-ejection-time", "1h"];
    let (_folder, portunus) = served(&[flaky.address(), fine.address()], &[], &flags);
    eventually("the ejection", || {
        ask(&portunus, 0);
        (ejected(&portunus) == 1.0).then_some(())
    });
    assert!(flaky.count() >= 20, "a few say nothing: {}", flaky.count());
}

#[test]
fn a_client_that_stalls_is_no_failure_of_the_endpoint_that_has_enough_of_it() {
    let backends = [(); 2].map(|()| Backend::new(Exchange::close));
    let addresses: Vec<_> = backends.iter().map(Backend::address).collect();
    let (_folder, portunus) = served(&addresses, &[], &["--workers", "1", "--outlier-failures", "3"]);
    for _ in 0..12 {
        let half = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\nhalf";
        assert_eq!(Connection::open(portunus.http).ask(half).status, 502);
    }
    let ejections = || portunus.metric("portunus_endpoint_ejections_total", &[]);
    assert_eq!(ejections(), 0.0);
    // One that sent everything was failed.
    for client in 0..12 {
        assert_eq!(ask(&portunus, client).status, 502);
    }
    assert!(ejections() > 0.0);
}
