//! CORS: who may read answers in a browser, on every answer, and preflights.

use crate::harness::h1::{Connection, Response};
use crate::harness::manifests::app;
use crate::harness::*;

const ALL: [&str; 6] = [
    "access-control-allow-origin",
    "access-control-allow-credentials",
    "access-control-allow-methods",
    "access-control-allow-headers",
    "access-control-expose-headers",
    "access-control-max-age",
];

/// What an endpoint may say of itself.
const ANSWER: &str = "HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nAccess-Control-Allow-Credentials: true\r\nVary: accept\r\nContent-Length: 3\r\n\r\napp";

fn served(keys: &[(&str, &str)], backend: &Backend) -> (Folder, Portunus) {
    let folder = Folder::new();
    folder.write("app.yaml", app("default", "app", &[backend.address()]));
    let keys = [&[("enable-cors", "true")], keys].concat();
    let ingress = Ingress::new("default", "a").asks(&keys).host("a.test").prefix("/", "app", 80);
    folder.write("a.yaml", ingress.prefix("/nothing", "missing", 80));
    let portunus = Portunus::serve(&folder);
    (folder, portunus)
}

fn ask(portunus: &Portunus, method: &str, target: &str, origin: &str) -> Response {
    let origin = if origin.is_empty() { String::new() } else { format!("Origin: {origin}\r\n") };
    Connection::open(portunus.http).ask(format!("{method} {target} HTTP/1.1\r\nHost: a.test\r\n{origin}\r\n"))
}

fn fields(response: &Response) -> Vec<Option<&str>> {
    ALL.iter().map(|name| response.header(name)).collect()
}

#[test]
fn without_more_anybody_may_ask_as_in_ingress_nginx() {
    let backend = Backend::named("app");
    let (_folder, portunus) = served(&[], &backend);
    let methods = Some("GET, PUT, POST, DELETE, PATCH, OPTIONS");
    let headers = Some(
        "DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,Range,Authorization",
    );
    let all = vec![Some("*"), Some("true"), methods, headers, None, Some("1728000")];
    let response = ask(&portunus, "GET", "/", "https://b.test");
    assert_eq!((response.status, fields(&response)), (200, all.clone()));
    let preflight = ask(&portunus, "OPTIONS", "/", "https://b.test");
    assert_eq!((preflight.status, preflight.text().as_str(), fields(&preflight)), (204, "", all.clone()));
    assert_eq!(preflight.header("content-length"), None);
    assert_eq!(backend.count(), 1, "a preflight is answered here");
    // An answer of our own too, or a browser would not show why.
    let failed = ask(&portunus, "GET", "/nothing", "https://b.test");
    assert_eq!((failed.status, fields(&failed)), (503, all));
}

#[test]
fn origins_that_are_named_may_ask_and_no_others() {
    let backend = Backend::new(|exchange| {
        exchange.write(ANSWER);
    });
    let keys = [
        ("cors-allow-origin", "https://*.b.test, https://c.test:8443"),
        ("cors-allow-methods", "GET,POST"),
        ("cors-allow-headers", "X-One"),
        ("cors-expose-headers", "X-Two, X-Three"),
        ("cors-allow-credentials", "false"),
        ("cors-max-age", "60"),
    ];
    let (_folder, portunus) = served(&keys, &backend);
    for origin in ["https://x.b.test", "https://c.test:8443"] {
        let response = ask(&portunus, "GET", "/", origin);
        let named = fields(&response);
        assert_eq!(
            named,
            [Some(origin), None, Some("GET, POST"), Some("X-One"), Some("X-Two, X-Three"), Some("60")],
            "{origin}"
        );
        assert_eq!(response.head.all("vary"), ["accept", "origin"]);
        assert_eq!(ask(&portunus, "OPTIONS", "/", origin).status, 204, "{origin}");
    }
    let before = backend.count();
    for origin in ["https://b.test", "https://evil.test", "http://x.b.test", ""] {
        let response = ask(&portunus, "OPTIONS", "/", origin);
        // Whatever the backend says.
        assert_eq!((response.status, fields(&response)), (200, vec![None; 6]), "{origin}");
        assert_eq!(response.head.all("vary"), ["accept", "origin"]);
    }
    assert_eq!(backend.count(), before + 4);
}
