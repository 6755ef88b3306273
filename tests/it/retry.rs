//! A request that an endpoint took and did not answer: sent once more where that does no harm, and never twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::harness::h1::{Connection, Response};
use crate::harness::h2_raw::RawH2Backend;
use crate::harness::manifests::{app, app_with};
use crate::harness::reach::one_worker;
use crate::harness::*;

const INTERNAL_ERROR: u32 = 2;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;

/// Reads each request and closes.
fn breaking() -> Backend {
    Backend::new(|exchange| {
        exchange.read_body();
        exchange.close();
    })
}

fn two(one: &Backend, other: &Backend, flags: &[&str]) -> (Folder, Portunus) {
    let folder = Folder::to_addresses(&[one.address(), other.address()]);
    // Who fails is asked again: what becomes of him is told in `health`.
    let flags = [&["--workers", "1", "--outlier-failures", "0"], flags].concat();
    let portunus = Portunus::serve_with(&folder, &flags);
    (folder, portunus)
}

fn request(method: &str, body: &str) -> String {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    format!("{method} /a?b HTTP/1.1\r\nHost: a.test\r\nX-Two: 1\r\nX-Two: 2\r\n{length}\r\n{body}")
}

/// Asks until the backend `at` got one more, and returns the answer to that request; turns are taken.
#[track_caller]
fn ask_at(portunus: &Portunus, at: &Backend, request: &str) -> Response {
    let before = at.count();
    for _ in 0..4 {
        let mut client = Connection::open(portunus.http);
        client.send(request);
        let response = client.try_response(request.starts_with("HEAD")).expect("an answer");
        if at.count() > before {
            assert_eq!(at.count(), before + 1, "{request}");
            return response;
        }
    }
    panic!("no request came to {}", at.address());
}

fn retries(portunus: &Portunus) -> f64 {
    portunus.metric("portunus_upstream_retries_total", &[])
}

#[test]
fn an_idempotent_request_that_was_not_answered_is_answered_by_another_endpoint() {
    let (broken, fine) = (breaking(), Backend::named("fine"));
    let (_folder, portunus) = two(&broken, &fine, &["--access-log", "stdout"]);
    for (number, method) in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"].into_iter().enumerate() {
        let response = ask_at(&portunus, &broken, &request(method, ""));
        assert_eq!(response.status, 200, "{method}");
        assert_eq!(broken.last().head.raw, fine.last().head.raw, "{method}: both got the same");
        assert_eq!(broken.last().head.all("x-two"), ["1", "2"]);
        assert_eq!(retries(&portunus), (number + 1) as f64, "{method}");
    }
    let id = broken.last().header("x-request-id").expect("an id").to_owned();
    let line: serde_json::Value = serde_json::from_str(&portunus.stdout.wait_for(&id)).expect("a line");
    assert_eq!((&line["retried"], &line["status"]), (&true.into(), &200.into()), "{line}");
    assert_eq!(line["endpoint"], fine.address().to_string(), "the one that answered: {line}");
}

#[test]
fn other_methods_and_requests_with_a_body_are_sent_once() {
    let (broken, fine) = (breaking(), Backend::named("fine"));
    let (_folder, portunus) = two(&broken, &fine, &[]);
    let chunked = "PUT / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n";
    let requests = [
        request("POST", ""),
        request("POST", "x"),
        request("PATCH", ""),
        request("PATCH", "x"),
        request("PURGE", ""),
        request("PUT", "x"),
        request("DELETE", "x"),
        request("GET", "x"),
        chunked.to_owned(),
    ];
    for request in requests {
        assert_eq!(ask_at(&portunus, &broken, &request).status, 502, "{request}");
    }
    assert_eq!(retries(&portunus), 0.0);
}

#[test]
fn nothing_is_sent_a_third_time() {
    let (one, other) = (breaking(), breaking());
    let (_folder, portunus) = two(&one, &other, &[]);
    assert_eq!(portunus.get("a.test", "/").status, 502);
    assert_eq!((one.count(), other.count()), (1, 1));
    let alone = breaking();
    let (_folder, portunus) = one_worker(&alone);
    assert_eq!(portunus.get("a.test", "/").status, 502);
    assert_eq!((alone.count(), alone.connections()), (2, 2));
}

/// Breaks the connection at these requests, counted from 0, and answers the others.
fn breaking_at(numbers: &'static [usize]) -> Backend {
    let count = AtomicUsize::new(0);
    Backend::new(move |exchange| {
        if numbers.contains(&count.fetch_add(1, Ordering::SeqCst)) {
            exchange.reset();
        } else {
            exchange.ok("fine");
        }
    })
}

#[test]
fn the_only_endpoint_gets_it_over_a_fresh_connection() {
    let backend = breaking_at(&[0, 3]);
    let (_folder, portunus) = one_worker(&backend);
    assert_eq!(portunus.get("a.test", "/").text(), "fine");
    assert_eq!((backend.count(), backend.connections()), (2, 2), "the connection had been new");
    assert_eq!(portunus.get("a.test", "/").text(), "fine");
    assert_eq!((backend.count(), backend.connections()), (3, 2));
    assert_eq!(portunus.get("a.test", "/").text(), "fine");
    assert_eq!((backend.count(), backend.connections()), (5, 3), "the connection had been kept alive");
    assert_eq!(retries(&portunus), 2.0);
}

#[test]
fn when_the_others_refuse_connections_the_same_endpoint_is_asked_again() {
    let refusing = backend::Refusing::new();
    let backend = breaking_at(&[0]);
    let folder = Folder::to_addresses(&[refusing.address(), backend.address()]);
    let portunus = Portunus::serve_with(&folder, &["--workers", "1"]);
    assert_eq!(portunus.get("a.test", "/").text(), "fine");
    assert_eq!((backend.count(), backend.connections()), (2, 2));
}

#[test]
fn an_answer_that_has_begun_or_is_not_http_and_silence_are_no_reason() {
    let over = Gate::new();
    let gate = over.clone();
    let odd = Backend::new(move |exchange| {
        match exchange.head.word(1) {
            "/garbage" => exchange.write("SSH-2.0-OpenSSH_9.2\r\n\r\n"),
            "/begun" => exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"),
            _ => {
                gate.wait("the test");
                true
            }
        };
        exchange.close();
    });
    let fine = Backend::named("fine");
    let (_folder, portunus) = two(&odd, &fine, &["--upstream-read-timeout", "300ms"]);
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(ask_at(&portunus, &odd, &get("/garbage")).status, 502);
    assert_eq!(ask_at(&portunus, &odd, &get("/silence")).status, 504);
    over.open();
    let before = odd.count();
    while odd.count() == before {
        let mut client = Connection::open(portunus.http);
        client.send(get("/begun"));
        let whole = client.try_response(false).is_ok_and(|answer| answer.complete);
        assert_eq!(whole, odd.count() == before, "half an answer is passed on as half an answer");
    }
    assert_eq!(retries(&portunus), 0.0);
}

#[test]
fn half_a_head_is_no_answer() {
    let half = Backend::new(|exchange| {
        exchange.write("HTTP/1.1 200 OK\r\nContent-Le");
        exchange.close();
    });
    let fine = Backend::named("fine");
    let (_folder, portunus) = two(&half, &fine, &[]);
    assert_eq!(ask_at(&portunus, &half, &request("GET", "")).text(), "fine");
}

#[test]
fn a_request_over_http_2_is_sent_once_more_too() {
    let backend = breaking_at(&[0]);
    let (_folder, portunus) = one_worker(&backend);
    run(async {
        let mut connection = h2::Connection::cleartext(portunus.http).await;
        assert_eq!(connection.get("http://a.test/").await.text(), "fine");
    });
    assert_eq!(backend.count(), 2);
}

/// Everything goes to these by HTTP/2 in cleartext, through one worker.
fn to_http2(backends: &[&RawH2Backend]) -> (Folder, Portunus) {
    to_http2_by(backends, Ingress::new("default", "all"))
}

fn to_http2_by(backends: &[&RawH2Backend], ingress: Ingress) -> (Folder, Portunus) {
    let folder = Folder::new();
    let addresses: Vec<_> = backends.iter().map(|backend| backend.address).collect();
    folder.write("app.yaml", app_with("default", "app", &addresses, "kubernetes.io/h2c"));
    folder.write("ingress.yaml", ingress.prefix("/", "app", 80));
    // As many may be sent once more as are lost together.
    let flags = ["--workers", "1", "--retry-floor", "1000", "--outlier-failures", "0"];
    let portunus = Portunus::serve_with(&folder, &flags);
    (folder, portunus)
}

#[test]
fn an_http_2_endpoint_that_closes_or_refuses_is_asked_again_over_another_connection() {
    type Fault = fn(&mut h2_raw::RawH2, u32);
    let closes: Fault = |connection, _| connection.close();
    let refuses: Fault = |connection, stream| connection.reset(stream, REFUSED_STREAM);
    let goes_away: Fault = |connection, _| connection.go_away(0, 0);
    let takes_it_along: Fault = |connection, stream| {
        connection.go_away(stream, 0);
        connection.close();
    };
    // Whether a POST may follow: only where the endpoint says that it did nothing with it.
    for (name, fault, post) in [
        ("close", closes, 502),
        ("refused", refuses, 200),
        ("GOAWAY before it", goes_away, 200),
        ("GOAWAY behind it", takes_it_along, 502),
    ] {
        for (method, status) in [("GET", 200), ("POST", post)] {
            let backend = RawH2Backend::new(move |connection, stream, number| match number {
                0 => fault(connection, stream),
                _ => connection.ok(stream),
            });
            let (_folder, portunus) = to_http2(&[&backend]);
            let asked = request(method, "");
            assert_eq!(Connection::open(portunus.http).ask(asked).status, status, "{name}, {method}");
            let tries = if status == 200 { 2 } else { 1 };
            assert_eq!((backend.count(), backend.connections()), (tries, tries), "{name}, {method}");
            assert_eq!(retries(&portunus), (tries - 1) as f64);
        }
    }
}

#[test]
fn a_request_that_http_2_endpoints_refuse_twice_is_refused() {
    let refusing = || RawH2Backend::new(|connection, stream, _| connection.reset(stream, REFUSED_STREAM));
    let (one, other) = (refusing(), refusing());
    let (_folder, portunus) = to_http2(&[&one, &other]);
    assert_eq!(portunus.get("a.test", "/").status, 502);
    assert_eq!((one.count(), other.count()), (1, 1));
}

#[test]
fn a_stream_that_is_reset_for_another_reason_is_not_repeated() {
    let backend = RawH2Backend::new(|connection, stream, _| connection.reset(stream, CANCEL));
    let (_folder, portunus) = to_http2(&[&backend]);
    assert_eq!(portunus.get("a.test", "/").status, 502);
    assert_eq!((backend.count(), retries(&portunus)), (1, 0.0));
}

#[test]
fn a_stream_that_is_reset_is_tried_elsewhere_where_a_rule_says_so() {
    for code in [CANCEL, INTERNAL_ERROR] {
        let resets = RawH2Backend::new(move |connection, stream, _| connection.reset(stream, code));
        let fine = RawH2Backend::new(|connection, stream, _| connection.ok(stream));
        let (backends, rule) = ([&resets, &fine], Ingress::new("default", "all"));
        let (_folder, portunus) = to_http2_by(&backends, rule.asks(&[("proxy-next-upstream", "error")]));
        for _ in 0..4 {
            assert_eq!(portunus.get("a.test", "/").status, 200, "{code}");
        }
        assert!(resets.count() > 0, "{code}");
        assert_eq!((fine.count(), retries(&portunus)), (4, resets.count() as f64), "{code}");
        // Nobody sends a POST twice that an endpoint had.
        let mut statuses: Vec<u16> =
            (0..2).map(|_| Connection::open(portunus.http).ask(request("POST", "")).status).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 502], "{code}");
        let (_folder, portunus) =
            to_http2_by(&backends, Ingress::new("default", "all").asks(&[("proxy-next-upstream", "timeout")]));
        let mut statuses: Vec<u16> = (0..2).map(|_| portunus.get("a.test", "/").status).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 502], "{code}: another cause");
    }
}

#[test]
fn requests_that_lose_their_shared_connection_together_share_the_next_one() {
    const STREAMS: usize = 20;
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    let backend = RawH2Backend::new(move |connection, stream, number| {
        count.fetch_add(1, Ordering::SeqCst);
        match number {
            0..STREAMS => {
                if number == STREAMS - 1 {
                    connection.close();
                }
            }
            _ => connection.ok(stream),
        }
    });
    let (_folder, portunus) = to_http2(&[&backend]);
    let mut clients: Vec<_> = (0..STREAMS).map(|_| Connection::open(portunus.http)).collect();
    for client in &mut clients {
        client.send(request("GET", ""));
    }
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
    assert_eq!((seen.load(Ordering::SeqCst), backend.connections()), (2 * STREAMS, 2));
}

/// A rule with these keys, to these backends, through one worker.
fn ruled(addresses: &[std::net::SocketAddr], keys: &[(&str, &str)]) -> (Folder, Portunus) {
    ruled_with(addresses, keys, &["--retry-floor", "1000"])
}

/// Keys with a slash are whole ones.
fn ruled_with(addresses: &[std::net::SocketAddr], keys: &[(&str, &str)], flags: &[&str]) -> (Folder, Portunus) {
    let folder = Folder::to_addresses(addresses);
    let (whole, asked): (Vec<_>, Vec<_>) = keys.iter().copied().partition(|(key, _)| key.contains('/'));
    let ingress = Ingress::new("default", "all").asks(&asked).prefix("/", "app", 80);
    let ingress = whole.iter().fold(ingress, |ingress, (key, value)| ingress.annotation(key, value));
    folder.write("ingress.yaml", ingress);
    let portunus = Portunus::serve_with(&folder, &[&["--workers", "1", "--outlier-failures", "0"], flags].concat());
    portunus.wait_no_problems();
    (folder, portunus)
}

/// Answers with this status each time.
fn answering(status: u16) -> Backend {
    Backend::new(move |exchange| {
        exchange.read_body();
        exchange.write(format!("HTTP/1.1 {status} Text\r\nContent-Length: 4\r\n\r\nfrom"));
    })
}

fn counts(backends: &[Backend]) -> Vec<usize> {
    let mut counts: Vec<usize> = backends.iter().map(Backend::count).collect();
    counts.sort_unstable();
    counts
}

fn addresses(backends: &[Backend]) -> Vec<std::net::SocketAddr> {
    backends.iter().map(Backend::address).collect()
}

#[test]
fn a_rule_has_statuses_tried_elsewhere_and_passes_the_last_on() {
    let backends = [503, 503, 503, 503].map(answering);
    let status = ("proxy-next-upstream", "http_503");
    for (keys, tries) in [
        (&[status][..], 3),
        (&[status, ("proxy-next-upstream-tries", "1")], 1),
        (&[status, ("proxy-next-upstream-tries", "0")], 4),
        (&[("proxy-next-upstream", "http_502 error")], 1),
        (&[("proxy-next-upstream", "off")], 1),
        (&[], 1),
    ] {
        let (_folder, portunus) = ruled(&addresses(&backends), keys);
        let before: usize = counts(&backends).iter().sum();
        let mut client = Connection::open(portunus.http);
        let response = client.ask(request("GET", ""));
        assert_eq!((response.status, response.text().as_str()), (503, "from"), "{keys:?}");
        let after: usize = counts(&backends).iter().sum();
        assert_eq!((after - before, retries(&portunus)), (tries, (tries - 1) as f64), "{keys:?}");
        // Nobody tries again what does something each time.
        assert_eq!(client.ask(request("POST", "")).status, 503);
        assert_eq!(counts(&backends).iter().sum::<usize>(), after + 1, "{keys:?}");
    }
}

#[test]
fn no_endpoint_is_asked_twice_while_there_are_others() {
    let backends = [503, 503, 200].map(answering);
    let keys = [("proxy-next-upstream", "http_503")];
    let (_folder, portunus) = ruled(&addresses(&backends), &keys);
    for _ in 0..9 {
        assert_eq!(portunus.get("a.test", "/").status, 200);
    }
    assert_eq!(backends[2].count(), 9);
    let alone = [503].map(answering);
    let (_folder, portunus) = ruled(&addresses(&alone), &keys);
    assert_eq!(portunus.get("a.test", "/").status, 503);
    assert_eq!(alone[0].count(), 3, "there are no others");
    assert_eq!(alone[0].connections(), 1, "its connection was fine");
}

#[test]
fn a_rule_may_have_anything_sent_again_but_a_body_that_streams() {
    let (broken, fine) = (breaking(), Backend::named("fine"));
    let keys = [("proxy-next-upstream", "error non_idempotent")];
    let (_folder, portunus) = ruled(&[broken.address(), fine.address()], &keys);
    assert_eq!(ask_at(&portunus, &broken, &request("POST", "")).status, 200);
    assert_eq!(ask_at(&portunus, &broken, &request("POST", "x")).status, 502);
    let (_folder, portunus) = ruled(&[broken.address(), fine.address()], &[keys[0], ("proxy-request-buffering", "on")]);
    assert_eq!(ask_at(&portunus, &broken, &request("POST", "x")).status, 200);
}

#[test]
fn silence_and_what_is_not_http_are_tried_elsewhere_where_a_rule_says_so() {
    let over = Gate::new();
    let gate = over.clone();
    let odd = Backend::new(move |exchange| {
        match exchange.head.word(1) {
            "/garbage" => drop(exchange.write("SSH-2.0-OpenSSH_9.2\r\n\r\n")),
            _ => gate.wait("the test"),
        }
        exchange.close();
    });
    let fine = Backend::named("fine");
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n\r\n");
    for (failures, garbage, silence) in [("timeout", 502, 200), ("invalid_header", 200, 504)] {
        let keys = [("proxy-next-upstream", failures), ("proxy-read-timeout", "1")];
        let (_folder, portunus) = ruled(&[odd.address(), fine.address()], &keys);
        assert_eq!(ask_at(&portunus, &odd, &get("/garbage")).status, garbage, "{failures}");
        assert_eq!(ask_at(&portunus, &odd, &get("/silence")).status, silence, "{failures}");
    }
    // No try begins when the time for all of them is over.
    let keys = [("proxy-next-upstream", "timeout"), ("proxy-read-timeout", "2"), ("proxy-next-upstream-timeout", "1")];
    let (_folder, portunus) = ruled(&[odd.address(), fine.address()], &keys);
    assert_eq!(ask_at(&portunus, &odd, &get("/silence")).status, 504);
    over.open();
}

#[test]
fn a_rule_counts_endpoints_that_can_not_be_reached() {
    let refusing = [(); 2].map(|()| backend::Refusing::new());
    let fine = Backend::named("fine");
    let all: Vec<_> = refusing.iter().map(backend::Refusing::address).chain([fine.address()]).collect();
    let (_folder, portunus) = ruled(&all[1..], &[("proxy-next-upstream", "off")]);
    let statuses: Vec<u16> = (0..4).map(|_| portunus.get("a.test", "/").status).collect();
    assert!(statuses.contains(&200) && statuses.contains(&502), "{statuses:?}");
    let (_folder, portunus) = ruled(&all, &[("proxy-next-upstream-tries", "3")]);
    for _ in 0..4 {
        assert_eq!(Connection::open(portunus.http).ask(request("POST", "x")).status, 200, "nothing was sent before");
    }
}

#[test]
fn without_a_budget_nothing_is_sent_once_more_but_what_was_not_sent_goes_on() {
    let (broken, fine) = (breaking(), Backend::named("fine"));
    let none = ["--retry-budget", "0", "--retry-floor", "0"];
    let (_folder, portunus) = two(&broken, &fine, &none);
    for _ in 0..3 {
        assert_eq!(ask_at(&portunus, &broken, &request("GET", "")).status, 502);
    }
    let exhausted = || portunus.metric("portunus_retry_budget_exhausted_total", &[]);
    assert_eq!((retries(&portunus), exhausted()), (0.0, 3.0));
    let refusing = backend::Refusing::new();
    let all = [refusing.address(), fine.address()];
    let (_folder, portunus) = ruled_with(&all, &[], &none);
    for _ in 0..4 {
        assert_eq!(Connection::open(portunus.http).ask(request("POST", "x")).status, 200);
    }
    // An answer that would have been let go is passed on.
    let (one, other) = (answering(503), answering(503));
    let keys = [("proxy-next-upstream", "http_503")];
    let (_folder, portunus) = ruled_with(&[one.address(), other.address()], &keys, &none);
    assert_eq!(portunus.get("a.test", "/").text(), "from");
    assert_eq!(one.count() + other.count(), 1);
}

#[test]
fn a_backend_that_fails_gets_nothing_of_the_budget_of_a_busy_one() {
    let (fine, broken) = (Backend::named("fine"), [(); 2].map(|()| breaking()));
    let folder = Folder::to(&fine);
    folder.write("broken.yaml", app("default", "broken", &addresses(&broken)));
    folder.write("b.yaml", Ingress::new("default", "b").host("b.test").prefix("/", "broken", 80));
    let portunus = Portunus::serve_with(&folder, &["--workers", "1", "--retry-floor", "0", "--outlier-failures", "0"]);
    let mut busy = Connection::open(portunus.http);
    for round in 1..=3 {
        for _ in 0..30 {
            assert_eq!(busy.get("a.test", "/").text(), "fine");
        }
        assert_eq!(portunus.get("b.test", "/").status, 502);
        let exhausted = portunus.metric("portunus_retry_budget_exhausted_total", &[]);
        assert_eq!((retries(&portunus), exhausted), (0.0, f64::from(round)));
    }
}

#[test]
fn the_operator_says_what_is_sent_once_more_where_an_ingress_does_not() {
    let backends = [503, 503, 503, 503].map(answering);
    let flags = ["--proxy-next-upstream", "http_503", "--proxy-next-upstream-tries", "2"];
    for (keys, tries) in [(&[][..], 2), (&[("proxy-next-upstream", "off")][..], 1)] {
        let (_folder, portunus) = ruled_with(&addresses(&backends), keys, &flags);
        let before: usize = counts(&backends).iter().sum();
        assert_eq!(portunus.get("a.test", "/").text(), "from");
        assert_eq!(counts(&backends).iter().sum::<usize>() - before, tries, "{keys:?}");
    }
}

#[test]
fn the_operator_says_how_long_others_are_tried() {
    let over = Gate::new();
    let gate = over.clone();
    let silent = Backend::new(move |_| gate.wait("the test"));
    let fine = Backend::named("fine");
    let flags = ["--proxy-next-upstream", "timeout", "--upstream-read-timeout", "1100ms"];
    for (timeout, status) in [("0s", 200), ("1s", 504)] {
        let flags = [&flags[..], &["--proxy-next-upstream-timeout", timeout]].concat();
        let (_folder, portunus) = ruled_with(&[silent.address(), fine.address()], &[], &flags);
        assert_eq!(ask_at(&portunus, &silent, &request("GET", "")).status, status, "{timeout}");
    }
    over.open();
}

#[test]
fn the_floor_of_the_budget_counts_by_the_second_and_comes_back() {
    let (broken, fine) = (breaking(), Backend::named("fine"));
    let (_folder, portunus) = two(&broken, &fine, &["--retry-budget", "0", "--retry-floor", "1"]);
    let ask = || ask_at(&portunus, &broken, &request("GET", "")).status;
    assert_eq!(ask(), 200);
    eventually("the end of this second's", || (ask() == 502).then_some(()));
    eventually("the next second's", || (ask() == 200).then_some(()));
}

#[test]
fn one_try_may_be_shorter_than_the_time_for_an_answer() {
    let over = Gate::new();
    let gate = over.clone();
    let silent = Backend::new(move |_| gate.wait("the test"));
    let fine = Backend::named("fine");
    let keys = [("proxy-next-upstream", "timeout"), ("portunus.dev/try-timeout", "200ms")];
    let (_folder, portunus) = ruled(&[silent.address(), fine.address()], &keys);
    assert_eq!(ask_at(&portunus, &silent, &request("GET", "")).text(), "fine");
    assert_eq!(ask_at(&portunus, &silent, &request("POST", "")).status, 504, "nobody sends it twice");
    over.open();
}

#[test]
fn a_body_is_kept_to_be_sent_once_more_up_to_the_limit() {
    let (broken, fine) = (breaking(), Backend::new(Exchange::echo));
    let keys = [("proxy-next-upstream", "error non_idempotent"), ("proxy-request-buffering", "on")];
    let flags = ["--request-buffer-bytes-max", "4"];
    let (_folder, portunus) = ruled_with(&[broken.address(), fine.address()], &keys, &flags);
    assert_eq!(ask_at(&portunus, &broken, &request("POST", "four")).text(), "four");
    assert_eq!(ask_at(&portunus, &broken, &request("POST", "fives")).status, 502);
}
