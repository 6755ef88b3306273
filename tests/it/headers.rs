//! Which header fields reach the backend and the client, and which are ours to say.

use crate::harness::h1::Connection;
use crate::harness::*;

/// Sends a GET with these lines and returns what the backend got.
#[track_caller]
fn forwarded(portunus: &Portunus, backend: &Backend, lines: &[&str]) -> wire::Head {
    let before = backend.count();
    let lines: String = lines.iter().flat_map(|line| [*line, "\r\n"]).collect();
    let response = Connection::open(portunus.http).ask(format!("GET /x HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n"));
    assert_eq!((response.status, backend.count()), (200, before + 1), "{lines}");
    backend.last().head
}

fn served(flags: &[&str]) -> (Backend, Folder, Portunus) {
    let backend = Backend::named("a");
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve_with(&folder, flags);
    (backend, folder, portunus)
}

#[test]
fn the_backend_learns_who_asked_and_for_what() {
    let (backend, _folder, portunus) = served(&[]);
    let head = forwarded(&portunus, &backend, &["User-Agent: romeo"]);
    assert_eq!(head.get("host"), Some("a.test"));
    assert_eq!(head.get("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(head.get("x-real-ip"), Some("127.0.0.1"));
    assert_eq!(head.get("x-forwarded-proto"), Some("http"));
    assert_eq!(head.get("x-forwarded-host"), Some("a.test"));
    assert_eq!(head.get("x-forwarded-port"), Some("80"));
    assert_eq!(head.get("user-agent"), Some("romeo"));
    assert_eq!((head.word(0), head.word(1), head.word(2)), ("GET", "/x", "HTTP/1.1"));
}

#[test]
fn over_tls_the_backend_learns_that() {
    let (backend, _folder, portunus) = served(&[]);
    let (response, _) = tls::Client::new().get(portunus.https, "a.test", "a.test", "/");
    assert_eq!(response.status, 200);
    let head = backend.only().head;
    assert_eq!(head.get("x-forwarded-proto"), Some("https"));
    assert_eq!(head.get("x-forwarded-port"), Some("443"));
}

#[test]
fn host_is_kept_as_it_was_sent() {
    let (backend, _folder, portunus) = served(&[]);
    for (host, port) in
        [("a.test:8080", "8080"), ("A.Test", "80"), ("a.test.", "80"), ("[::1]:81", "81"), ("[::1]", "80")]
    {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(Connection::open(portunus.http).ask(request).status, 200);
        assert_eq!(backend.last().header("host"), Some(host));
        // The port is the one that the client knows, whatever is between it and us.
        assert_eq!(backend.last().header("x-forwarded-port"), Some(port));
    }
}

#[test]
fn what_strangers_say_about_forwarding_is_replaced_or_dropped() {
    let (backend, _folder, portunus) = served(&[]);
    let head = forwarded(
        &portunus,
        &backend,
        &[
            "X-Forwarded-For: 6.6.6.6",
            "X-Forwarded-For: 7.7.7.7, 8.8.8.8",
            "X-Forwarded-Proto: https",
            "X-Forwarded-Host: evil.test",
            "X-Forwarded-Port: 443",
            "X-Forwarded-Prefix: /evil",
            "X-Forwarded-Server: evil",
            "X-Forwarded-Scheme: https",
            "X-Real-IP: 6.6.6.6",
            "Forwarded: for=6.6.6.6;proto=https",
            // Some frameworks take the path from these.
            "X-Original-URL: /admin",
            "X-Rewrite-URL: /admin",
            "Connection: X-Forwarded-For, X-Rewrite-URL",
        ],
    );
    assert_eq!(head.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(head.all("x-forwarded-proto"), ["http"]);
    assert_eq!(head.all("x-forwarded-host"), ["a.test"]);
    assert_eq!(head.all("x-forwarded-port"), ["80"]);
    assert_eq!(head.all("x-real-ip"), ["127.0.0.1"]);
    let dropped = ["forwarded", "x-forwarded-prefix", "x-forwarded-server", "x-forwarded-scheme"];
    for name in dropped.into_iter().chain(["x-original-url", "x-rewrite-url"]) {
        assert!(!head.has(name), "{name}");
    }
    let text = String::from_utf8_lossy(&head.raw).to_lowercase();
    assert!(!text.contains("6.6.6.6") && !text.contains("evil"), "{text}");
}

#[test]
fn trusted_proxies_are_believed_and_extended() {
    let (backend, _folder, portunus) = served(&["--trusted-proxies", "127.0.0.0/8,10.0.0.0/8"]);
    let head = forwarded(
        &portunus,
        &backend,
        &[
            "X-Forwarded-For: 6.6.6.6, 203.0.113.7",
            "X-Forwarded-For: 10.1.2.3",
            "X-Forwarded-Proto: https",
            "X-Forwarded-Host: public.test",
            "X-Forwarded-Port: 443",
            "X-Original-URL: /as/asked",
        ],
    );
    assert_eq!(head.get("x-original-url"), Some("/as/asked"));
    let chain = head.all("x-forwarded-for").join(", ");
    assert_eq!(chain, "6.6.6.6, 203.0.113.7, 10.1.2.3, 127.0.0.1");
    assert_eq!(head.get("x-real-ip"), Some("203.0.113.7"), "read from the right through trusted networks only");
    assert_eq!(head.get("x-forwarded-proto"), Some("https"));
    assert_eq!(head.get("x-forwarded-host"), Some("public.test"));
    assert_eq!(head.get("x-forwarded-port"), Some("443"));
    assert_eq!(head.get("host"), Some("a.test"));
    // Without a word from it, the trusted proxy is the client.
    let head = forwarded(&portunus, &backend, &[]);
    assert_eq!(head.get("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(head.get("x-real-ip"), Some("127.0.0.1"));
    assert_eq!(head.get("x-forwarded-proto"), Some("http"));
}

#[test]
fn what_a_client_writes_before_its_address_does_not_hide_it() {
    let (backend, _folder, portunus) = served(&["--trusted-proxies", "127.0.0.0/8"]);
    let ask = |forwarded_for: &[u8]| {
        let head = b"GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: ";
        Connection::open(portunus.http).ask([head, forwarded_for, b"\r\n\r\n"].concat()).status
    };
    for forwarded_for in [&b"\xff, 203.0.113.9"[..], b"\xff, 203.0.113.9:4711", b"\xff\r\nX-Forwarded-For: 203.0.113.9"]
    {
        assert_eq!(ask(forwarded_for), 200);
        assert_eq!(backend.last().header("x-real-ip"), Some("203.0.113.9"));
    }
    let before = backend.count();
    for forwarded_for in [&b"203.0.113.9, \xff"[..], b"unknown", b""] {
        assert_eq!(ask(forwarded_for), 400);
    }
    assert_eq!(backend.count(), before, "nobody is taken for the proxy");
}

#[test]
fn a_trust_in_others_is_no_trust_in_this_peer() {
    let (backend, _folder, portunus) = served(&["--trusted-proxies", "10.0.0.0/8"]);
    let head = forwarded(&portunus, &backend, &["X-Forwarded-For: 10.0.0.1", "X-Real-IP: 10.0.0.1"]);
    assert_eq!(head.get("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(head.get("x-real-ip"), Some("127.0.0.1"));
}

#[test]
fn a_request_id_is_made_or_kept() {
    let (backend, _folder, portunus) = served(&[]);
    let mut made: Vec<String> =
        (0..4).map(|_| forwarded(&portunus, &backend, &[]).get("x-request-id").expect("an id").to_owned()).collect();
    assert!(made.iter().all(|id| id.len() >= 16), "{made:?}");
    made.sort();
    made.dedup();
    assert_eq!(made.len(), 4);
    let head = forwarded(&portunus, &backend, &["X-Request-ID: from-the-client-1"]);
    assert_eq!(head.get("x-request-id"), Some("from-the-client-1"));
}

#[test]
fn hop_by_hop_fields_stay_on_their_hop() {
    let (backend, _folder, portunus) = served(&[]);
    let head = forwarded(
        &portunus,
        &backend,
        &[
            "Connection: keep-alive, X-Private",
            "Connection: x-also-private,, ",
            "X-Private: 1",
            "X-Also-Private: 2",
            "X-Public: 3",
            "Keep-Alive: timeout=5",
            "Proxy-Connection: keep-alive",
            "TE: gzip, trailers;q=0.5",
            "Upgrade: h2c",
            "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
        ],
    );
    for name in ["x-private", "x-also-private", "keep-alive", "proxy-connection", "upgrade", "http2-settings"] {
        assert!(!head.has(name), "{name}: {head:?}");
    }
    assert_eq!(head.get("x-public"), Some("3"));
    assert!(matches!(head.get("te"), None | Some("trailers")), "{head:?}");
    let connection = head.get("connection").unwrap_or_default().to_lowercase();
    assert!(!connection.contains("private") && !connection.contains("upgrade"), "{connection}");
}

#[test]
fn connection_removes_nothing_that_is_ours_to_say() {
    let (backend, _folder, portunus) = served(&[]);
    let mut client = Connection::open(portunus.http);
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nX-Forwarded-For: 6.6.6.6\r\n");
    client.send("Connection: Host, Content-Length, X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host, ");
    client.send("X-Forwarded-Port, X-Real-IP, X-Request-ID, Transfer-Encoding\r\n\r\nhello");
    assert_eq!(client.response().status, 200);
    let received = backend.only();
    assert_eq!(received.header("host"), Some("a.test"));
    assert_eq!(received.header("content-length"), Some("5"));
    assert_eq!(received.body(), b"hello");
    for name in ["x-forwarded-for", "x-real-ip"] {
        assert_eq!(received.header(name), Some("127.0.0.1"), "{name}");
    }
    for name in ["x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-request-id"] {
        assert!(received.header(name).is_some(), "{name}");
    }
}

#[test]
fn fields_that_frameworks_mistake_for_others_are_dropped() {
    let (backend, _folder, portunus) = served(&[]);
    let aliases = [
        "X_Forwarded_For",
        "x-forwarded_for",
        "X_Forwarded-Proto",
        "X_FORWARDED_HOST",
        "X_Forwarded_Port",
        "X_Real_IP",
        "x-real_ip",
        "Proxy",
    ];
    let lines: Vec<String> = aliases.iter().map(|name| format!("{name}: 6.6.6.6")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let head = forwarded(&portunus, &backend, &lines);
    for name in aliases {
        assert!(!head.has(name), "{name}: {head:?}");
    }
}

#[test]
fn underscores_pass_where_they_are_wanted_but_for_aliases() {
    let (backend, _folder, portunus) =
        served(&["--underscores-in-headers", "keep", "--trusted-proxies", "127.0.0.0/8"]);
    let aliases = ["X_Forwarded_For", "X-Forwarded_Proto", "X_Real_IP", "Content_Length", "SSL_Client_Verify"];
    let lines: Vec<String> = aliases.iter().map(|name| format!("{name}: 6.6.6.6")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).chain(["App_Key: 1", "_: 2"]).collect();
    let head = forwarded(&portunus, &backend, &lines);
    assert_eq!((head.get("app_key"), head.get("_")), (Some("1"), Some("2")));
    assert!(!String::from_utf8_lossy(&head.raw).contains("6.6.6.6"), "{head:?}");
}

#[test]
fn other_fields_pass_in_order_and_byte_by_byte() {
    let backend = Backend::new(|exchange| {
        exchange.read_body();
        let head = "HTTP/1.1 200 Fine By Me\r\nServer: own\r\nDate: Tue, 15 Nov 1994 08:12:31 GMT\r\n";
        let cookies = "Set-Cookie: a=1; Path=/\r\nSet-Cookie: b=2\r\nSet-Cookie: c=3\r\nX-Latin: caf";
        exchange.write([head.as_bytes(), cookies.as_bytes(), b"\xe9\r\nContent-Length: 0\r\n\r\n"].concat());
    });
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve(&folder);
    let mut client = Connection::open(portunus.http);
    client.send(b"GET / HTTP/1.1\r\nHost: a.test\r\nAccept: a\r\nX-Latin: caf\xe9\r\nAccept: b\r\nX-Empty:\r\n\r\n");
    let response = client.response();
    assert_eq!(response.head.all("set-cookie"), ["a=1; Path=/", "b=2", "c=3"]);
    assert_eq!(response.header("server"), Some("own"));
    assert_eq!(response.header("date"), Some("Tue, 15 Nov 1994 08:12:31 GMT"));
    let has = |raw: &[u8], part: &[u8]| raw.windows(part.len()).any(|window| window == part);
    assert!(has(&response.head.raw, b": caf\xe9\r\n"));
    let head = backend.only().head;
    assert_eq!(head.all("accept"), ["a", "b"]);
    assert_eq!(head.get("x-empty"), Some(""));
    assert!(has(&head.raw, b": caf\xe9\r\n"));
}

#[test]
fn hop_by_hop_fields_of_the_backend_stay_on_their_hop() {
    let backend = Backend::new(|exchange| {
        exchange.read_body();
        exchange.write("HTTP/1.1 200 OK\r\nConnection: x-private\r\nX-Private: 1\r\nKeep-Alive: timeout=5\r\n");
        exchange.write("Upgrade: h2c\r\nProxy-Connection: close\r\nX-Public: 1\r\nContent-Length: 2\r\n\r\nok");
    });
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve(&folder);
    let response = portunus.get("a.test", "/");
    assert_eq!((response.status, response.text().as_str()), (200, "ok"));
    for name in ["x-private", "keep-alive", "upgrade", "proxy-connection"] {
        assert!(!response.head.has(name), "{name}");
    }
    assert_eq!(response.header("x-public"), Some("1"));
}

#[test]
fn cookies_of_32_kib_pass_and_what_is_over_the_limit_is_431() {
    let (backend, _folder, portunus) = served(&[]);
    let cookie = format!("Cookie: session={}", "c".repeat(32 << 10));
    let head = forwarded(&portunus, &backend, &[&cookie]);
    assert_eq!(head.get("cookie").map(str::len), Some((32 << 10) + "session=".len()));
    let many = format!("{}: v", "X-Many");
    let lines = vec![many.as_str(); 90];
    assert_eq!(forwarded(&portunus, &backend, &lines).all("x-many").len(), 90);
}

/// The values of a field of an answer.
fn answered(portunus: &Portunus, name: &str) -> Vec<String> {
    let response = portunus.get("a.test", "/");
    assert_eq!(response.status, 200);
    response.head.all(name).into_iter().map(str::to_owned).collect()
}

#[test]
fn answers_get_the_fields_of_the_config_map_that_the_ingress_names_as_it_comes_changes_and_goes() {
    let backend = Backend::new(|exchange| {
        exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Verona: theirs\r\nX-Other: theirs\r\n\r\n");
    });
    let folder = Folder::to(&backend);
    let ingress = Ingress::new("default", "all").prefix("/", "app", 80);
    folder.write("ingress.yaml", ingress.annotation("nginx.ingress.kubernetes.io/custom-headers", "fields"));
    let portunus = Portunus::serve_with(&folder, &["--global-allowed-response-headers", "x-verona,x-new"]);
    let fields = |data: &str| {
        let head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: fields}\ndata:";
        portunus.after(|| folder.write("fields.yaml", format!("{head} {data}\n")));
    };
    assert_eq!(answered(&portunus, "x-verona"), ["theirs"]);
    fields("{X-Verona: ours, x-new: '1', x-other: '1'}");
    assert_eq!(
        (answered(&portunus, "x-verona"), answered(&portunus, "x-new")),
        (vec!["ours".into()], vec!["1".into()])
    );
    assert_eq!(answered(&portunus, "x-other"), ["theirs"], "not allowed");
    fields("{x-new: '2'}");
    assert_eq!(answered(&portunus, "x-verona"), ["theirs"]);
    assert_eq!(answered(&portunus, "x-new"), ["2"]);
    portunus.after(|| folder.remove("fields.yaml"));
    assert_eq!(answered(&portunus, "x-new"), Vec::<String>::new());
}
