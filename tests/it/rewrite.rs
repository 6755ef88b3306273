//! rewrite-target and x-forwarded-prefix: the path that an endpoint gets in place of the client's, and what never
//! reaches one by it.

use crate::harness::h1::{Connection, Response};
use crate::harness::*;

const KEY: &str = "nginx.ingress.kubernetes.io/";

/// Portunus before one backend, with a rule for each path and these annotations.
fn serve(annotations: &[(&str, &str)], paths: &[&str]) -> (Backend, Folder, Portunus) {
    let backend = Backend::named("app");
    let folder = Folder::new();
    folder.write("app.yaml", manifests::app("default", "app", &[backend.address()]));
    let ingress = annotations.iter().fold(Ingress::new("default", "all"), |ingress, (key, value)| {
        ingress.annotation(&format!("{KEY}{key}"), value)
    });
    let ingress = paths
        .iter()
        .fold(ingress.host("a.test"), |ingress, path| ingress.path("ImplementationSpecific", path, "app", 80));
    folder.write("ingress.yaml", ingress);
    let portunus = Portunus::serve(&folder);
    (backend, folder, portunus)
}

#[track_caller]
fn assert_sent(backend: &Backend, answer: &Response, expected: &str) {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(backend.last().target(), expected);
}

#[test]
fn the_endpoint_gets_the_target_with_what_the_groups_found_and_the_query() {
    let (backend, _folder, portunus) = serve(&[("rewrite-target", "/app/$2")], &["/shop(/|$)(.*)"]);
    for (request, expected) in [
        ("/shop", "/app/"),
        ("/shop/", "/app/"),
        ("/shop/a/b", "/app/a/b"),
        ("/SHOP/a?x=1&y=%2F", "/app/a?x=1&y=%2F"),
        ("/shop/a/../b", "/app/b"),
        ("/shop//a", "/app/a"),
        ("/shop/a%20b%C3%A9", "/app/a%20b%C3%A9"),
        ("/shop/%61", "/app/a"),
        ("/shop/a?", "/app/a?"),
    ] {
        assert_sent(&backend, &portunus.get("a.test", request), expected);
    }
    assert_eq!(portunus.get("a.test", "/shopping").status, 404);
    assert_eq!(portunus.get("a.test", "/a/shop").status, 404);
}

#[test]
fn a_plain_path_is_replaced_as_a_whole() {
    let (backend, _folder, portunus) = serve(&[("rewrite-target", "/")], &["/shop"]);
    for request in ["/shop", "/shop/a", "/shopping"] {
        assert_sent(&backend, &portunus.get("a.test", request), "/");
    }
}

#[test]
fn the_prefix_is_told_and_what_a_client_says_of_it_does_not_count() {
    let keys = [("rewrite-target", "/$2"), ("x-forwarded-prefix", "/$1")];
    let (backend, _folder, portunus) = serve(&keys, &["/(shop|cart)/(.*)"]);
    assert_sent(&backend, &portunus.get("a.test", "/cart/a"), "/a");
    assert_eq!(backend.last().header("x-forwarded-prefix"), Some("/cart"));
    let mut client = Connection::open(portunus.http);
    client.send("GET /shop/a HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-Prefix: /admin\r\n\r\n");
    assert_eq!(client.response().status, 200);
    assert_eq!(backend.last().header("x-forwarded-prefix"), Some("/shop"));
}

#[test]
fn no_rewrite_makes_a_path_that_means_something_else() {
    let (backend, _folder, portunus) = serve(&[("rewrite-target", "/files/$1")], &["/x(.*)"]);
    // What was found would be a dot segment in its new place.
    for request in ["/x..", "/x../admin", "/x.", "/x..;a"] {
        let answer = portunus.get("a.test", request);
        assert_eq!(answer.status, 400, "{request}: {}", answer.text());
    }
    assert_eq!(backend.count(), 0);
    assert_sent(&backend, &portunus.get("a.test", "/x..a"), "/files/..a");
    // Half an escape is none.
    let (backend, _folder, portunus) = serve(&[("rewrite-target", "/$1")], &["/(.*%).*"]);
    assert_eq!(portunus.get("a.test", "/a%20").status, 400);
    assert_eq!(backend.count(), 0);
}

#[test]
fn no_rewrite_names_a_host() {
    let (backend, _folder, portunus) = serve(&[("rewrite-target", "/$1")], &["/x(.*)"]);
    assert_sent(&backend, &portunus.get("a.test", "/x/evil.example/a"), "/evil.example/a");
    assert_sent(&backend, &portunus.get("a.test", "/x//evil.example/a"), "/evil.example/a");
}

#[test]
fn an_escaped_slash_is_data_and_both_readings_must_find_the_same_rule() {
    let (backend, _folder, portunus) = serve(&[("rewrite-target", "/$1")], &["/a/([^/]*)", "/b/(.*)", "/b/admin/(.*)"]);
    assert_sent(&backend, &portunus.get("a.test", "/a/x%2fy"), "/x%2Fy");
    assert_sent(&backend, &portunus.get("a.test", "/b/x%2Fy"), "/x%2Fy");
    assert_eq!(portunus.get("a.test", "/b%2Fadmin/x").status, 404);
    assert_eq!(portunus.get("a.test", "/b/admin%2Fx").status, 400, "two rules by two readings");
}

#[test]
fn a_session_of_a_regular_expression_has_a_cookie_that_browsers_send_back() {
    let (_backend, _folder, portunus) = serve(&[("rewrite-target", "/$1"), ("affinity", "cookie")], &["/shop/(.*)"]);
    let answer = portunus.get("a.test", "/shop/a");
    let cookie = answer.header("set-cookie").expect("a cookie");
    assert!(cookie.ends_with("; Path=/; HttpOnly"), "{cookie}");
    portunus.wait_problem(&["session-cookie-path"]);
}
