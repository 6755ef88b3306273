//! A rule's default backend: it answers when there is no endpoint, and instead of answers with the statuses that the
//! rule names, whether an endpoint gives them or Portunus.

use std::net::SocketAddr;

use crate::harness::backend::Refusing;
use crate::harness::h1::{Connection, Response};
use crate::harness::manifests::app;
use crate::harness::*;

const ERRORS: &str = "404,502,503,413,403,401";

/// `default/app` has these addresses, and the rule these keys beside its default backend `default/page`.
fn ruled(addresses: &[SocketAddr], page: &Backend, keys: &[(&str, &str)]) -> (Folder, Portunus) {
    let folder = Folder::new();
    folder.write("app.yaml", app("default", "app", addresses));
    folder.write("page.yaml", app("default", "page", &[page.address()]));
    let ingress = Ingress::new("default", "all").asks(&[("default-backend", "page")]).asks(keys);
    folder.write("ingress.yaml", ingress.prefix("/", "app", 80));
    let portunus = Portunus::serve_with(&folder, &["--workers", "1"]);
    portunus.wait_no_problems();
    (folder, portunus)
}

/// Answers with the status that it is told to be the page of, as a good one does.
fn page() -> Backend {
    Backend::new(|exchange| {
        exchange.read_body();
        let code = exchange.head.get("x-code").unwrap_or("none").to_owned();
        let body = if exchange.head.word(0) == "HEAD" { "" } else { "page" };
        let status = if code == "none" { "200" } else { &code };
        exchange.write(format!("HTTP/1.1 {status} Page\r\nContent-Length: 4\r\n\r\n{body}"));
    })
}

/// Answers with the status in the path.
fn endpoint() -> Backend {
    Backend::new(|exchange| {
        exchange.read_body();
        let status = exchange.head.word(1).trim_start_matches('/').split('?').next().unwrap_or_default().to_owned();
        let challenge = if status == "401" { "WWW-Authenticate: Basic realm=\"a\"\r\n" } else { "" };
        exchange.write(format!("HTTP/1.1 {status} Text\r\n{challenge}Content-Length: 8\r\n\r\nendpoint"));
    })
}

fn ask(portunus: &Portunus, request: &str) -> Response {
    let mut connection = Connection::open(portunus.http);
    connection.send(request);
    connection.try_response(request.starts_with("HEAD")).expect("an answer")
}

#[test]
fn an_answer_with_such_a_status_is_the_default_backends() {
    let (app, page) = (endpoint(), page());
    let (_folder, portunus) = ruled(&[app.address()], &page, &[("custom-http-errors", ERRORS)]);
    let fields = "Accept: text/html\r\nX-Code: 999\r\nX-Namespace: mine\r\nCookie: a=b\r\n";
    let response = ask(&portunus, &format!("GET /404?a=b HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n"));
    assert_eq!((response.status, response.text().as_str()), (404, "page"));
    let asked = page.only();
    assert_eq!((asked.head.word(0), asked.target()), ("GET", "/"));
    for (name, value) in [
        ("x-code", "404"),
        ("x-format", "text/html"),
        ("x-original-uri", "/404?a=b"),
        ("x-namespace", "default"),
        ("x-ingress-name", "all"),
        ("x-service-name", "app"),
        ("x-service-port", "80"),
        ("host", "a.test"),
        ("cookie", "a=b"),
    ] {
        assert_eq!(asked.header(name), Some(value), "{name}");
    }
    assert_eq!(asked.header("x-request-id"), app.only().header("x-request-id"));
    assert_eq!(portunus.get("a.test", "/500").text(), "endpoint", "it is none of them");
    assert_eq!(portunus.get("a.test", "/200").text(), "endpoint");
    // The method stays, and a HEAD gets no body.
    let head = ask(&portunus, "HEAD /503 HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!((head.status, head.header("content-length"), page.last().head.word(0)), (503, Some("4"), "HEAD"));
    let post = "POST /503 HTTP/1.1\r\nHost: a.test\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nabc";
    assert_eq!(ask(&portunus, post).text(), "page");
    let asked = page.last();
    assert_eq!((asked.head.word(0), asked.body(), asked.header("content-type")), ("POST", &b""[..], None));
    // How to prove who one is must not be lost with the answer.
    let response = portunus.get("a.test", "/401");
    assert_eq!((response.text().as_str(), response.header("www-authenticate")), ("page", Some("Basic realm=\"a\"")));
    run(async {
        let mut client = h2::Connection::cleartext(portunus.http).await;
        assert_eq!(client.get("http://a.test/404").await.text(), "page");
    });
}

#[test]
fn our_own_errors_are_its_too_and_a_rule_may_have_those_alone() {
    let page = page();
    let keys = [("custom-http-errors", ERRORS), ("proxy-body-size", "1"), ("allowlist-source-range", "127.0.0.1")];
    let (refusing, app) = (Refusing::new(), endpoint());
    let (_folder, portunus) = ruled(&[refusing.address()], &page, &keys);
    let response = portunus.get("a.test", "/");
    assert_eq!((response.status, response.text().as_str()), (502, "page"));
    let post = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\nabc";
    let response = ask(&portunus, post);
    assert_eq!((response.status, response.text().as_str()), (413, "page"));
    assert_eq!(response.header("connection"), Some("close"));
    let denied = [("custom-http-errors", ERRORS), ("denylist-source-range", "127.0.0.1")];
    let (_folder, portunus) = ruled(&[app.address()], &page, &denied);
    let response = portunus.get("a.test", "/");
    assert_eq!((response.status, response.text().as_str()), (403, "page"));
    let own = [("custom-http-errors", ERRORS), ("disable-proxy-intercept-errors", "true")];
    let (folder, portunus) = ruled(&[app.address()], &page, &own);
    assert_eq!(portunus.get("a.test", "/404").text(), "endpoint");
    let refusing = Refusing::new();
    portunus.after(|| folder.write("app.yaml", manifests::app("default", "app", &[refusing.address()])));
    assert_eq!(portunus.get("a.test", "/404").text(), "page");
}

#[test]
fn without_an_endpoint_requests_go_to_the_default_backend_as_they_are() {
    let page = page();
    let (folder, portunus) = ruled(&[], &page, &[]);
    let post = "POST /a?b HTTP/1.1\r\nHost: a.test\r\nX-Original-URI: /x\r\nContent-Length: 3\r\n\r\nabc";
    let response = ask(&portunus, post);
    assert_eq!((response.status, response.text().as_str()), (503, "page"));
    let asked = page.only();
    assert_eq!((asked.head.word(0), asked.target(), asked.body()), ("POST", "/a?b", &b"abc"[..]));
    assert_eq!((asked.header("x-code"), asked.header("x-service-name")), (Some("503"), Some("app")));
    assert_eq!(asked.header("x-original-uri"), None);
    // Also without a Service, which is a Problem; and no longer when there is an endpoint.
    folder.remove("app.yaml");
    portunus.wait_problem(&["there is no Service default/app"]);
    assert_eq!(portunus.get("a.test", "/").text(), "page");
    let app = Backend::named("app");
    portunus.after(|| folder.write("app.yaml", manifests::app("default", "app", &[app.address()])));
    assert_eq!(portunus.get("a.test", "/").text(), "app");
    assert_eq!(app.only().header("x-code"), None);
}

#[test]
fn a_default_backend_that_fails_leaves_the_plain_error() {
    let (app, refusing) = (endpoint(), Refusing::new());
    let page = page();
    let (folder, portunus) = ruled(&[app.address()], &page, &[("custom-http-errors", ERRORS)]);
    portunus.after(|| folder.write("page.yaml", manifests::app("default", "page", &[refusing.address()])));
    let response = portunus.get("a.test", "/404");
    assert_eq!(response.status, 404);
    assert!(response.text().starts_with("404 Not Found"), "{}", response.text());
    let response = portunus.get("a.test", "/401");
    assert_eq!((response.status, response.header("www-authenticate")), (401, Some("Basic realm=\"a\"")));
    portunus.after(|| folder.write("app.yaml", manifests::app("default", "app", &[])));
    assert_eq!(portunus.get("a.test", "/").status, 502, "the default backend's own failure");
    portunus.after(|| folder.remove("page.yaml"));
    portunus.wait_problem(&["annotations[nginx.ingress.kubernetes.io/default-backend]", "there is no Service"]);
    assert_eq!(portunus.get("a.test", "/").status, 503);
}

#[test]
fn a_closed_ingress_is_closed_to_its_default_backend_too() {
    let page = page();
    let folder = Folder::new();
    folder.write("page.yaml", app("default", "page", &[page.address()]));
    let keys = [("default-backend", "page"), ("custom-http-errors", "503"), ("auth-url", "http://x")];
    folder.write("ingress.yaml", Ingress::new("default", "all").asks(&keys).prefix("/", "page", 80));
    let portunus = Portunus::serve(&folder);
    assert_eq!(portunus.get("a.test", "/").status, 503);
    assert_eq!(page.count(), 0);
}
