//! The path is normalised once, strictly; what was matched is what is sent.

use crate::harness::manifests::app;
use crate::harness::*;

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n\r\n")
}

/// Sends each target on a connection of its own and returns what the backend got, or the status.
#[track_caller]
fn assert_sent(portunus: &Portunus, backend: &Backend, target: &str, expected: Result<&str, u16>) {
    let before = backend.count();
    let response = h1::Connection::open(portunus.http).ask(get(target));
    match expected {
        Ok(sent) => {
            assert_eq!(response.status, 200, "{target}");
            assert_eq!(backend.last().target(), sent, "{target}");
            assert_eq!(backend.count(), before + 1, "{target}");
        }
        Err(status) => {
            assert_eq!(response.status, status, "{target}");
            assert_eq!(backend.count(), before, "{target} reached the backend");
        }
    }
}

#[test]
fn what_was_matched_is_what_is_sent() {
    let backend = Backend::named("a");
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve(&folder);
    for (target, sent) in [
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/a/b/", "/a/b/"),
        ("/a?", "/a?"),
        // Dot segments, plain and escaped (RFC 3986 §5.2.4).
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/a/b/..", "/a/"),
        ("/a/b/.", "/a/b/"),
        ("/a/%2e%2e/b", "/b"),
        ("/a/.%2E/b", "/b"),
        ("/a/%2E/b", "/a/b"),
        ("/a/b/../..", "/"),
        ("/a/...", "/a/..."),
        ("/a/..b", "/a/..b"),
        ("/.a/b", "/.a/b"),
        // Unreserved characters have no need of an escape (RFC 3986 §2.3).
        ("/%7Eromeo/%61%2D%5F%2e", "/~romeo/a-_."),
        ("/%41%5a%30", "/AZ0"),
        // All others keep theirs, in upper case (§6.2.2.1).
        ("/%20%3f%23%25%c3%A9", "/%20%3F%23%25%C3%A9"),
        ("/a%2fb", "/a%2Fb"),
        ("/!$&'()*+,;=:@", "/!$&'()*+,;=:@"),
        // Runs of slashes are sent as received, unless there were dot segments too, but for the first: behind it some
        // read a host.
        ("/a///b//", "/a///b//"),
        ("//a///b//", "/a///b//"),
        ("///", "/"),
        // What may be read in another way, and reaches the same rule then.
        ("/a%252fb%2561", "/a%252fb%2561"),
        ("/a;v=1/b%3Bc", "/a;v=1/b%3Bc"),
        ("/a%3Fb%23c", "/a%3Fb%23c"),
        ("//a//../b", "/b"),
        ("/a//./b", "/a/b"),
        // The query is nobody's business.
        ("/a/../b?c=/../%2e%5C//d&%00", "/b?c=/../%2e%5C//d&%00"),
        ("/a?b?c", "/a?b?c"),
        ("http://a.test?a=b", "/?a=b"),
        ("http://a.test?a=b#c", "/?a=b"),
        ("http://a.test", "/"),
        ("http://a.test#c", "/"),
        ("http://a.test/#c", "/"),
        ("http://a.test/?#c", "/?"),
    ] {
        assert_sent(&portunus, &backend, target, Ok(sent));
    }
}

/// The query percent-encode set of the URL standard is what browsers escape in a query.
#[test]
fn a_query_has_what_browsers_leave_in_one() {
    let backend = Backend::named("a");
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve(&folder);
    for byte in 0x21..0x7f_u8 {
        let byte = char::from(byte);
        let target = format!("/a?b{byte}c");
        let expected = match byte {
            '"' | '<' | '>' => Err(400),
            // It begins a fragment.
            '#' => Ok("/a?b"),
            _ => Ok(&*target),
        };
        assert_sent(&portunus, &backend, &target, expected);
    }
    assert_sent(&portunus, &backend, "/a?\u{e9}={\u{20ac}}%c3", Ok("/a?%C3%A9={%E2%82%AC}%c3"));
    assert_sent(&portunus, &backend, "/\u{e9}?\u{e9}", Ok("/%C3%A9?%C3%A9"));
    assert_sent(&portunus, &backend, "/a?b\u{7f}", Err(400));
}

#[test]
fn a_path_that_someone_may_read_in_two_ways_is_400() {
    let backend = Backend::named("a");
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve(&folder);
    for target in [
        "/a\\b",
        "/a\\..\\b",
        "/a%5Cb",
        "/a%5cb",
        "/a%00b",
        "/%00",
        "/a%0d%0ab",
        "/..",
        "/a/../../b",
        "/..;/a",
        "/a/..;/b",
        "/a/..;x=1/b",
        "/a/%2e%2e;/b",
        "/a/..;",
        "/a%",
        "/a%2",
        "/a%zz",
        "/%u0041",
        "/%2Fa/b",
        "/a;b%2Fc",
        "/a%c0%af",
        "/a/%252e%252e/%252e%252e",
        "/a%255Cb",
        "/a%2500",
    ] {
        assert_sent(&portunus, &backend, target, Err(400));
    }
    assert_eq!(backend.connections(), 0);
}

/// A host with a rule for `/`, and one for `/admin`.
fn open_and_admin() -> (Backend, Backend, Folder) {
    let (open, admin) = (Backend::named("open"), Backend::named("admin"));
    let folder = Folder::new();
    folder.write("open.yaml", app("default", "open", &[open.address()]));
    folder.write("admin.yaml", app("default", "admin", &[admin.address()]));
    let rules = Ingress::new("default", "main").host("a.test").prefix("/", "open", 80);
    folder.write("ingress.yaml", rules.prefix("/admin", "admin", 80));
    (open, admin, folder)
}

#[test]
fn an_escaped_slash_never_leads_around_a_rule() {
    let (open, admin, folder) = open_and_admin();
    let portunus = Portunus::serve(&folder);
    assert_sent(&portunus, &open, "/files/x%2Fy", Ok("/files/x%2Fy"));
    assert_sent(&portunus, &admin, "/admin/x%2Fy", Ok("/admin/x%2Fy"));
    for target in [
        "/admin%2Fusers",
        "/%2Fadmin",
        "/x/..%2Fadmin",
        "/x%2F..%2Fadmin",
        "/x%2F%2E%2E%2Fadmin/y",
        "/admin/..%2Fx",
        "/admin%2F..%2Fx/../admin",
    ] {
        let counts = (open.count(), admin.count());
        assert_eq!(h1::Connection::open(portunus.http).ask(get(target)).status, 400, "{target}");
        assert_eq!((open.count(), admin.count()), counts, "{target} reached a backend");
    }
}

#[test]
fn no_other_reading_leads_around_a_rule() {
    let (open, admin, folder) = open_and_admin();
    let portunus = Portunus::serve(&folder);
    // Some drop parameters, decode twice, or decode before they cut the query off.
    for target in
        ["/admin;v", "/admin;v=1/x", "/;/admin", "/admin%3Bv/x", "/%2561dmin", "/x/%252e%252e/admin", "/admin%3F"]
    {
        assert_sent(&portunus, &open, target, Err(400));
        assert_eq!(admin.count(), 0, "{target}");
    }
    assert_sent(&portunus, &open, "/x;admin/%2561", Ok("/x;admin/%2561"));
    assert_sent(&portunus, &admin, "/admin/x;v=1", Ok("/admin/x;v=1"));
    // Behind two slashes, a host; and what it is asked for.
    assert_sent(&portunus, &open, "//x/admin", Ok("/x/admin"));
}

#[test]
fn the_operator_may_choose_what_becomes_of_escaped_slashes_and_the_like() {
    let (open, admin, folder) = open_and_admin();
    let decodes = Portunus::serve_with(&folder, &["--path-normalization", "decode-slashes"]);
    assert_sent(&decodes, &open, "/files/x%2fy", Ok("/files/x/y"));
    assert_sent(&decodes, &open, "/files%2F%2Fx//y", Ok("/files//x//y"));
    for target in ["/admin%2Fx", "/%2Fadmin/x", "/x%2F..%2Fadmin%2Fx", "//x/%2e%2e%2Fadmin/x"] {
        assert_sent(&decodes, &admin, target, Ok("/admin/x"));
    }
    for target in ["/..%2Fadmin", "/admin;v", "/x%252Fadmin;v/..;", "/a%5Cb", "/%252561%00"] {
        assert_sent(&decodes, &open, target, Err(400));
    }
    let rejects = Portunus::serve_with(&folder, &["--path-normalization", "reject"]);
    assert_sent(&rejects, &open, "/a%20b%25/%C3%A9", Ok("/a%20b%25/%C3%A9"));
    for target in ["/a%2Fb", "/a;v", "/a%3Bv", "/a%3F", "/a%23", "/a%2520b"] {
        assert_sent(&rejects, &open, target, Err(400));
    }
}

#[test]
fn dot_segments_reach_the_rule_that_they_lead_to() {
    let backend = Backend::named("a");
    let folder = Folder::new();
    folder.write("app.yaml", app("default", "app", &[backend.address()]));
    let rules = Ingress::new("default", "main").host("a.test").prefix("/public", "app", 80);
    folder.write("ingress.yaml", rules);
    let portunus = Portunus::serve(&folder);
    assert_sent(&portunus, &backend, "/secret/../public/x", Ok("/public/x"));
    assert_sent(&portunus, &backend, "/public/../secret", Err(404));
    assert_sent(&portunus, &backend, "/public/%2e%2e/secret", Err(404));
    assert_sent(&portunus, &backend, "/public/../public", Ok("/public"));
}
