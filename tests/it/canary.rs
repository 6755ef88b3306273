//! An Ingress that is the alternative of another: by header, cookie and weight, in this order, and with sessions.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::harness::h1::{Connection, Response};
use crate::harness::manifests::app;
use crate::harness::*;

struct Pair {
    stable: Backend,
    canary: Backend,
    folder: Folder,
    portunus: Portunus,
}

/// A host, and its alternative with these keys.
fn pair(main: &[(&str, &str)], keys: &[(&str, &str)], flags: &[&str]) -> Pair {
    let (stable, canary) = (Backend::named("stable"), Backend::named("canary"));
    let folder = Folder::new();
    folder.write("stable.yaml", app("default", "stable", &[stable.address()]));
    folder.write("canary.yaml", app("default", "canary", &[canary.address()]));
    folder.write("main.yaml", Ingress::new("default", "main").asks(main).host("a.test").prefix("/", "stable", 80));
    folder.write("other.yaml", alternative(keys));
    let portunus = Portunus::serve_with(&folder, flags);
    Pair { stable, canary, folder, portunus }
}

fn alternative(keys: &[(&str, &str)]) -> Ingress {
    let keys = [&[("canary", "true")], keys].concat();
    Ingress::new("default", "other").asks(&keys).host("a.test").prefix("/", "canary", 80)
}

impl Pair {
    fn ask(&self, fields: &str) -> Response {
        Connection::open(self.portunus.http).ask(format!("GET / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n"))
    }

    fn text(&self, fields: &str) -> String {
        self.ask(fields).text()
    }
}

#[test]
fn a_header_goes_before_a_cookie_and_a_cookie_before_the_weight() {
    for (weight, rest) in [("0", "stable"), ("100", "canary")] {
        let keys = [("canary-by-header", "X-Canary"), ("canary-by-cookie", "canary"), ("canary-weight", weight)];
        let pair = pair(&[], &keys, &[]);
        for (fields, expected) in [
            ("", rest),
            ("X-Canary: always\r\n", "canary"),
            ("X-Canary: never\r\nCookie: canary=always\r\n", "stable"),
            ("X-Canary: maybe\r\nCookie: a=b; canary=always\r\n", "canary"),
            ("Cookie: canary=never\r\n", "stable"),
            ("Cookie: canary=perhaps\r\n", rest),
        ] {
            assert_eq!(pair.text(fields), expected, "{weight} {fields}");
        }
    }
}

#[test]
fn a_value_or_a_pattern_of_the_header_chooses() {
    let exact = pair(&[], &[("canary-by-header", "X-Group"), ("canary-by-header-value", "blue")], &[]);
    let pattern = pair(&[], &[("canary-by-header", "X-Group"), ("canary-by-header-pattern", "^(blue|green)$")], &[]);
    for (value, by_exact, by_pattern) in
        [("blue", "canary", "canary"), ("green", "stable", "canary"), ("always", "stable", "stable")]
    {
        let fields = format!("X-Group: {value}\r\n");
        assert_eq!((exact.text(&fields).as_str(), pattern.text(&fields).as_str()), (by_exact, by_pattern), "{value}");
    }
}

/// A share holds over all workers: requests of several connections, which land on different ones.
#[test]
fn a_weight_is_a_share_of_the_requests() {
    let requests = scale(20_000, 100_000);
    let pair = pair(&[], &[("canary-weight", "200"), ("canary-weight-total", "1000")], &["--workers", "2"]);
    let (counted, connections) = (AtomicUsize::new(0), 8);
    std::thread::scope(|scope| {
        for _ in 0..connections {
            scope.spawn(|| {
                let mut connection = Connection::open(pair.portunus.http);
                for _ in 0..requests / connections {
                    if connection.get("a.test", "/").text() == "canary" {
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let share = counted.load(Ordering::Relaxed) as f64 / requests as f64;
    if scale(false, true) {
        println!(
            "proof: share of a canary of 20 % over {requests} requests and two workers: {:.2} %, goal 19 to 21 %",
            100.0 * share
        );
    }
    // Six standard deviations of that many requests; within 1 % of all at the full size.
    let bound = 6.0 * (0.2 * 0.8 / requests as f64).sqrt();
    assert!((share - 0.2).abs() < bound, "{share}");
    assert_eq!(pair.stable.count() + pair.canary.count(), requests);
}

#[test]
fn what_else_the_alternative_says_doesnt_count_and_the_other_ingress_does() {
    let keys = [("canary-weight", "100"), ("permanent-redirect", "https://b.test"), ("auth-url", "https://c.test")];
    let pair = pair(&[("denylist-source-range", "192.0.2.1")], &keys, &["--trusted-proxies", "127.0.0.1"]);
    assert_eq!(pair.text(""), "canary");
    assert_eq!(pair.ask("X-Forwarded-For: 192.0.2.1\r\n").status, 403);
}

#[test]
fn without_endpoints_the_alternative_takes_nothing_and_comes_back_with_them() {
    let pair = pair(&[], &[("canary-weight", "100")], &[]);
    assert_eq!(pair.text(""), "canary");
    pair.portunus.after(|| pair.folder.write("canary.yaml", app("default", "canary", &[])));
    assert_eq!(pair.text(""), "stable");
    pair.portunus.after(|| pair.folder.write("canary.yaml", app("default", "canary", &[pair.canary.address()])));
    assert_eq!(pair.text(""), "canary");
    pair.portunus.after(|| pair.folder.remove("other.yaml"));
    assert_eq!(pair.text("X-Canary: always\r\n"), "stable");
}

/// `name=value` of the cookie that an answer sets.
fn cookie(response: &Response) -> Option<String> {
    Some(format!("Cookie: {}\r\n", response.header("set-cookie")?.split(';').next()?))
}

#[test]
fn sessions_stay_on_the_side_where_they_began() {
    let half = [("canary-by-header", "X-Canary")];
    let pair = pair(&[("affinity", "cookie")], &half, &[]);
    let (stable, canary) = (pair.ask(""), pair.ask("X-Canary: always\r\n"));
    assert_eq!((stable.text().as_str(), canary.text().as_str()), ("stable", "canary"));
    let (stable, canary) = (cookie(&stable).expect("a session"), cookie(&canary).expect("a session"));
    // Whatever the header says now.
    assert_eq!(pair.text(&format!("{stable}X-Canary: always\r\n")), "stable");
    assert_eq!(pair.text(&format!("{canary}X-Canary: never\r\n")), "canary");
    assert_eq!(pair.text(&canary), "canary");
    let legacy = [half[0], ("affinity-canary-behavior", "legacy")];
    pair.portunus.after(|| pair.folder.write("other.yaml", alternative(&legacy)));
    let canary = pair.ask("X-Canary: always\r\n");
    assert_eq!((canary.text().as_str(), cookie(&canary)), ("canary", None), "the canary has no sessions");
    assert_eq!(pair.text(&format!("{stable}X-Canary: always\r\n")), "stable");
}
