//! Session affinity by a cookie: who has one stays with the endpoint that it names, in every replica and after a
//! restart, for as long as that endpoint serves; nobody else is held to anything.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use http::Request;

use crate::harness::backend::Refusing;
use crate::harness::h1::{Connection, Response};
use crate::harness::h2;
use crate::harness::manifests::{app, documents};
use crate::harness::tls::Client;
use crate::harness::websocket::{self, WebSocket, upgrade_request};
use crate::harness::*;

const NAMES: [&str; 10] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];

fn sticky(name: &str) -> Ingress {
    annotated(name, &[])
}

/// With affinity and these keys.
fn annotated(name: &str, keys: &[(&str, &str)]) -> Ingress {
    let begin = Ingress::new("default", name);
    let keys = [&[("affinity", "cookie")], keys].concat();
    keys.iter()
        .fold(begin, |ingress, (key, value)| ingress.annotation(&format!("nginx.ingress.kubernetes.io/{key}"), value))
}

/// Everything goes to these backends, by sessions.
fn folder(backends: &[Backend], keys: &[(&str, &str)]) -> Folder {
    let folder = Folder::new();
    folder.write("app.yaml", app("default", "app", &addresses(backends)));
    folder.write("ingress.yaml", annotated("all", keys).prefix("/", "app", 80));
    folder
}

fn addresses(backends: &[Backend]) -> Vec<SocketAddr> {
    backends.iter().map(Backend::address).collect()
}

fn request(cookie: &str) -> String {
    let cookie = if cookie.is_empty() { String::new() } else { format!("Cookie: {cookie}\r\n") };
    format!("GET / HTTP/1.1\r\nHost: a.test\r\n{cookie}\r\n")
}

fn ask(portunus: &Portunus, cookie: &str) -> Response {
    Connection::open(portunus.http).ask(request(cookie))
}

/// `name=value` of the one cookie that the answer sets.
#[track_caller]
fn cookie(response: &Response) -> String {
    let all = response.head.all("set-cookie");
    assert_eq!(all.len(), 1, "{response:?}");
    all[0].split(';').next().expect("a first part").to_owned()
}

#[track_caller]
fn assert_stays(response: &Response, name: &str) {
    assert_eq!((response.status, response.text().as_str()), (200, name));
    assert_eq!(response.header("set-cookie"), None, "it has the cookie already");
}

/// A new session: who answered and the cookie.
#[track_caller]
fn begin(portunus: &Portunus) -> (String, String) {
    let response = ask(portunus, "");
    assert_eq!(response.status, 200);
    (response.text(), cookie(&response))
}

/// A session with each of the backends that answer.
fn sessions(portunus: &Portunus, count: usize) -> BTreeMap<String, String> {
    eventually("a session with each endpoint", || {
        let all: BTreeMap<_, _> = (0..4 * count).map(|_| begin(portunus)).collect();
        (all.len() == count).then_some(all)
    })
}

#[test]
fn the_first_answer_sets_a_cookie_and_all_others_come_from_the_same_endpoint() {
    let backends = NAMES.map(Backend::named);
    let folder = folder(&backends, &[]);
    let portunus = Portunus::serve(&folder);
    let mut client = Connection::open(portunus.http);
    let first = client.get("a.test", "/");
    let set = first.header("set-cookie").expect("a cookie").to_owned();
    let cookie = cookie(&first);
    assert_eq!(set, format!("{cookie}; Path=/; HttpOnly"));
    let value = cookie.strip_prefix("INGRESSCOOKIE=").expect("the name");
    assert!(value.len() == 32 && value.bytes().all(|byte| byte.is_ascii_hexdigit()), "{value}");
    for _ in 0..10 {
        assert_stays(&client.ask(request(&cookie)), &first.text());
        assert_stays(&ask(&portunus, &cookie), &first.text());
    }
    // The endpoint gets the cookie too, as ingress-nginx has it.
    let home = &backends[NAMES.iter().position(|name| *name == first.text()).expect("one of them")];
    assert_eq!(home.last().header("cookie"), Some(&*cookie));
    // In one field of several, among others, and whatever stands around it.
    for cookies in [
        format!("x=1; {cookie}"),
        format!("x=1;{cookie};y=2"),
        format!("x=1\r\nCookie: {cookie}\r\nCookie: y=2"),
        format!("INGRESSCOOKIE=gone; {cookie}"),
    ] {
        assert_stays(&ask(&portunus, &cookies), &first.text());
    }
}

#[test]
fn the_cookie_has_the_attributes_of_the_annotations_and_secure_over_tls() {
    let backends = [Backend::named("a")];
    let keys = [
        ("session-cookie-name", "route"),
        ("session-cookie-path", "/shop"),
        ("session-cookie-domain", "a.test"),
        ("session-cookie-max-age", "3600"),
        ("session-cookie-expires", "3600"),
        ("session-cookie-samesite", "None"),
        ("session-cookie-conditional-samesite-none", "true"),
    ];
    let folder = folder(&backends, &keys);
    folder.write(
        "host.yaml",
        annotated("host", &[("session-cookie-secure", "true")]).host("b.test").prefix("/x", "app", 80),
    );
    let portunus = Portunus::serve(&folder);
    let attributes = |response: Response| {
        let set = response.header("set-cookie").expect("a cookie").to_owned();
        let (front, rest) = set.split_once("; Expires=").expect("a date");
        let (date, behind) = rest.split_once(" GMT; ").expect("in GMT");
        assert!(date.len() == "Sun, 06 Nov 1994 08:49:37".len(), "{set}");
        let (_, front) = front.split_once("; ").expect("attributes");
        (front.to_owned(), behind.to_owned())
    };
    let front = "Path=/shop; Domain=a.test; Max-Age=3600";
    let plain = attributes(ask(&portunus, ""));
    assert_eq!((plain.0.as_str(), plain.1.as_str()), (front, "SameSite=None; HttpOnly"));
    let (mut secure, _) = Client::new().connect(portunus.https, "a.test");
    let answer = attributes(secure.ask(request("")));
    assert_eq!((answer.0.as_str(), answer.1.as_str()), (front, "SameSite=None; Secure; HttpOnly"));
    let old = "GET / HTTP/1.1\r\nHost: a.test\r\nUser-Agent: Mozilla/5.0 Chrome/60.0.1 Safari/537.36\r\n\r\n";
    let answer = attributes(Connection::open(portunus.http).ask(old));
    assert_eq!((answer.0.as_str(), answer.1.as_str()), (front, "HttpOnly"));
    // Without a path it is the rule's.
    let set = portunus.get("b.test", "/x/y").header("set-cookie").expect("a cookie").to_owned();
    assert_eq!(set.split_once("; ").expect("attributes").1, "Path=/x; Secure; HttpOnly");
}

#[test]
fn sessions_stay_over_http2_and_crumbs_are_one_cookie() {
    let backends = NAMES.map(Backend::named);
    let folder = folder(&backends, &[]);
    let portunus = Portunus::serve(&folder);
    let (home, cookie) = begin(&portunus);
    run(async {
        let mut client = h2::Connection::cleartext(portunus.http).await;
        for _ in 0..10 {
            let request = Request::get("http://a.test/").header("cookie", "x=1").header("cookie", &cookie);
            let response = client.start(request.body(h2::empty()).expect("a request")).await.expect("an answer");
            assert_eq!(response.headers().get("set-cookie"), None);
            assert_eq!(h2::Answer::of(response).await.expect("a body").text(), home);
        }
        let request = Request::get("http://a.test/").body(h2::empty()).expect("a request");
        let response = client.start(request).await.expect("an answer");
        let set = response.headers()["set-cookie"].to_str().expect("text").to_owned();
        let home = h2::Answer::of(response).await.expect("a body").text();
        assert_stays(&ask(&portunus, set.split(';').next().expect("a pair")), &home);
    });
}

#[test]
fn every_replica_knows_the_cookies_of_the_others_and_so_does_the_next_process() {
    let backends = NAMES.map(Backend::named);
    let folder = folder(&backends, &[]);
    let one = Portunus::serve(&folder);
    let other = Portunus::serve(&folder);
    let sessions = sessions(&one, NAMES.len());
    for (home, cookie) in &sessions {
        assert_stays(&ask(&other, cookie), home);
    }
    drop((one, other));
    let next = Portunus::serve(&folder);
    for (home, cookie) in &sessions {
        assert_stays(&ask(&next, cookie), home);
    }
}

#[test]
fn the_operators_key_makes_other_cookies_and_a_bad_one_does_not_start() {
    let backends = NAMES.map(Backend::named);
    let folder = folder(&backends, &[]);
    let file = |name: &str, text: &str| {
        let path = folder.beside(name);
        std::fs::write(&path, text).expect("a key");
        path.display().to_string()
    };
    let keys = [file("one", "the key of all replicas\n"), file("two", "another key of theirs")];
    let [one, two] = keys.each_ref().map(|key| Portunus::serve_with(&folder, &["--session-key-file", key]));
    let none = Portunus::serve(&folder);
    let copy = file("copy", "the key of all replicas");
    let again = Portunus::serve_with(&folder, &["--session-key-file", &copy]);
    let (home, held) = begin(&one);
    assert_stays(&ask(&again, &held), &home);
    for other in [&two, &none] {
        assert_ne!(cookie(&ask(other, &held)), held, "it names nothing here");
    }
    let path = folder.path().display().to_string();
    let (short, long) = (file("short", "too short\n"), file("long", &"x".repeat(5000)));
    for (key, says) in [(short, "too few"), (long, "too many"), (folder.beside("gone").display().to_string(), "gone")] {
        let arguments = ["serve", "--manifests", &path, "--session-key-file", &key];
        let listen = ["--http-listen", "off", "--https-listen", "off", "--admin-listen", "127.0.0.1:0"];
        let finished = command::portunus(&[&arguments[..], &listen].concat());
        assert_eq!(finished.code, Some(2), "{finished:?}");
        assert!(finished.stderr.contains(says) && !finished.stderr.contains("too short"), "{finished:?}");
    }
}

#[test]
fn an_endpoint_that_is_gone_gives_its_sessions_to_others_with_a_new_cookie() {
    let backends = ["a", "b", "c"].map(Backend::named);
    let folder = folder(&backends, &[]);
    let portunus = Portunus::serve(&folder);
    let sessions = sessions(&portunus, 3);
    portunus.after(|| folder.write("app.yaml", app("default", "app", &addresses(&backends[..2]))));
    let moved = ask(&portunus, &sessions["c"]);
    let home = moved.text();
    assert!(["a", "b"].contains(&home.as_str()), "{home}");
    assert_eq!(cookie(&moved), sessions[&home]);
    for _ in 0..4 {
        assert_stays(&ask(&portunus, &cookie(&moved)), &home);
    }
    // It comes back, and is the one it was.
    portunus.after(|| folder.write("app.yaml", app("default", "app", &addresses(&backends))));
    for (home, cookie) in &sessions {
        assert_stays(&ask(&portunus, cookie), home);
    }
}

#[test]
fn from_1_to_10_to_3_endpoints_everyone_whose_endpoint_lives_stays() {
    for mode in ["balanced", "persistent"] {
        let backends = NAMES.map(Backend::named);
        let folder = folder(&backends[..1], &[("affinity-mode", mode)]);
        let portunus = Portunus::serve(&folder);
        let scale = |backends: &[Backend]| {
            portunus.after(|| folder.write("app.yaml", app("default", "app", &addresses(backends))));
        };
        let mut clients: Vec<(String, String)> = (0..20).map(|_| begin(&portunus)).collect();
        let stay = |clients: &[(String, String)]| {
            for (home, cookie) in clients {
                assert_stays(&ask(&portunus, cookie), home);
            }
        };
        scale(&backends);
        stay(&clients);
        clients.extend((0..80).map(|_| begin(&portunus)));
        stay(&clients);
        scale(&backends[3..6]);
        let (living, gone): (Vec<_>, Vec<_>) =
            clients.into_iter().partition(|(home, _)| ["d", "e", "f"].contains(&home.as_str()));
        assert!(living.len() >= 20 && gone.len() >= 60, "{} of 100 live on", living.len());
        stay(&living);
        let moved: Vec<_> = gone.iter().map(|(_, held)| ask(&portunus, held)).map(|r| (r.text(), cookie(&r))).collect();
        stay(&moved);
    }
}

#[test]
fn forged_cookies_name_nothing_and_do_no_harm() {
    let backends = NAMES.map(Backend::named);
    let folder = folder(&backends, &[]);
    let portunus = Portunus::serve(&folder);
    let (_, own) = begin(&portunus);
    let value = own.split_once('=').expect("a pair").1;
    let address = backends[0].address().to_string();
    let mut forged = vec![String::new(), "0".repeat(32), "f".repeat(32), "x".repeat(32), "a".repeat(10_000), address];
    forged.extend([value.to_uppercase(), value[1..].to_owned(), format!("{value}0"), format!("\"{value}\"")]);
    forged
        .extend(["%00", "=", "=;=;", "1700000000.123.45.678|0123456789abcdef", "../../etc/passwd"].map(str::to_owned));
    if value.to_uppercase() == value {
        forged.retain(|other| other != value);
    }
    for other in forged {
        let response = ask(&portunus, &format!("INGRESSCOOKIE={other}"));
        assert_eq!(response.status, 200, "{other}");
        assert_eq!(cookie(&response).len(), own.len(), "{other}: a good one is set");
    }
    let many = "INGRESSCOOKIE=0; ".repeat(2000);
    assert_eq!(ask(&portunus, &format!("{many}{own}")).header("set-cookie"), None, "the last one counts too");
}

#[test]
fn one_service_of_two_ingresses_keeps_the_sessions_of_one_only() {
    let backends = ["a", "b", "c"].map(Backend::named);
    let folder = Folder::new();
    folder.write("app.yaml", app("default", "app", &addresses(&backends)));
    folder.write("sticky.yaml", sticky("sticky").host("sticky.test").prefix("/", "app", 80).prefix("/x", "other", 80));
    folder.write("free.yaml", Ingress::new("default", "free").host("free.test").prefix("/", "app", 80));
    let other = ["x", "y"].map(Backend::named);
    folder.write("other.yaml", app("default", "other", &addresses(&other)));
    let portunus = Portunus::serve_with(&folder, &["--workers", "1"]);
    let ask = |host: &str, path: &str, cookie: &str| {
        let cookie = if cookie.is_empty() { String::new() } else { format!("Cookie: {cookie}\r\n") };
        Connection::open(portunus.http).ask(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{cookie}\r\n"))
    };
    let first = ask("sticky.test", "/", "");
    let held = cookie(&first);
    let mut free = Vec::new();
    for _ in 0..6 {
        assert_stays(&ask("sticky.test", "/", &held), &first.text());
        let response = ask("free.test", "/", &held);
        assert_eq!(response.header("set-cookie"), None);
        free.push(response.text());
    }
    free.sort();
    assert_eq!(free, ["a", "a", "b", "b", "c", "c"], "in turn, whatever cookie comes along");
    // Paths to two Services have a cookie each, and browsers send both where one path lies within the other.
    let below = ask("sticky.test", "/x", &held);
    let both = format!("{}; {held}", cookie(&below));
    for _ in 0..4 {
        assert_stays(&ask("sticky.test", "/x", &both), &below.text());
        assert_stays(&ask("sticky.test", "/", &both), &first.text());
    }
    // Taken away and given again, while everything runs.
    portunus.after(|| {
        folder.write("sticky.yaml", Ingress::new("default", "sticky").host("sticky.test").prefix("/", "app", 80));
    });
    assert_eq!(ask("sticky.test", "/", "").header("set-cookie"), None);
    portunus.after(|| folder.write("sticky.yaml", sticky("sticky").host("sticky.test").prefix("/", "app", 80)));
    assert_stays(&ask("sticky.test", "/", &held), &first.text());
}

/// Two endpoints, the second of which is ready, or serves while it terminates, or does not.
fn leaving(backends: &[Backend; 2], ready: bool, serving: bool) -> String {
    let service = Service::new("default", "app").port("", 80, "8080");
    let one = Slice::new("default", "app", "app-1").port("", backends[0].port()).ready("127.0.0.1");
    let two = Slice::new("default", "app", "app-2").port("", backends[1].port());
    documents(&[&service, &one, &two.endpoint("127.0.0.1", ready, serving, !ready)])
}

#[test]
fn an_endpoint_that_serves_while_it_terminates_keeps_its_sessions_and_gets_no_new_ones() {
    let backends = ["stays", "leaves"].map(Backend::named);
    let folder = folder(&backends, &[]);
    folder.write("app.yaml", leaving(&backends, true, true));
    let portunus = Portunus::serve_with(&folder, &["--workers", "1"]);
    let sessions = sessions(&portunus, 2);
    assert_stays(&ask(&portunus, &sessions["leaves"]), "leaves");
    let connections = backends[1].connections();
    portunus.after(|| folder.write("app.yaml", leaving(&backends, false, true)));
    for _ in 0..6 {
        assert_stays(&ask(&portunus, &sessions["leaves"]), "leaves");
        assert_stays(&ask(&portunus, &sessions["stays"]), "stays");
        assert_eq!(begin(&portunus).0, "stays");
    }
    assert_eq!(backends[1].connections(), connections, "connections are kept");
    portunus.after(|| folder.write("app.yaml", leaving(&backends, false, false)));
    let moved = ask(&portunus, &sessions["leaves"]);
    assert_eq!((moved.text().as_str(), cookie(&moved)), ("stays", sessions["stays"].clone()));
}

#[test]
fn a_session_whose_endpoint_refuses_is_answered_by_another_and_comes_back() {
    for (change, moves) in [("false", false), ("true", true)] {
        let mut backends = ["a", "b"].map(Backend::named);
        let folder = folder(&backends, &[("session-cookie-change-on-failure", change)]);
        let portunus = Portunus::serve(&folder);
        let sessions = sessions(&portunus, 2);
        let address = backends[1].address();
        backends[1].stop_listening();
        backends[1].close_connections();
        for _ in 0..3 {
            let response = ask(&portunus, &sessions["b"]);
            assert_eq!((response.status, response.text().as_str()), (200, "a"));
            let set = (!response.head.all("set-cookie").is_empty()).then(|| cookie(&response));
            assert_eq!(set.as_ref(), moves.then_some(&sessions["a"]), "change-on-failure: {change}");
        }
        let _back = Backend::on(&address.to_string(), |exchange| exchange.ok("b"));
        assert_stays(&ask(&portunus, &sessions["b"]), "b");
        // Nobody is left.
        let refusing = [Refusing::new(), Refusing::new()];
        let nobody = app("default", "app", &[refusing[0].address(), refusing[1].address()]);
        portunus.after(|| folder.write("app.yaml", nobody));
        let response = ask(&portunus, &sessions["b"]);
        assert_eq!((response.status, response.header("set-cookie")), (502, None));
    }
}

#[test]
fn a_request_that_its_endpoint_does_not_answer_is_answered_by_another() {
    let backends = [
        Backend::named("fine"),
        Backend::new(|exchange| {
            exchange.read_body();
            if exchange.head.word(1) == "/break" {
                exchange.close();
            } else {
                exchange.ok("breaks");
            }
        }),
    ];
    for (change, moves) in [("false", false), ("true", true)] {
        let folder = folder(&backends, &[("session-cookie-change-on-failure", change)]);
        let portunus = Portunus::serve(&folder);
        let sessions = sessions(&portunus, 2);
        let held = &sessions["breaks"];
        let request = |method: &str| format!("{method} /break HTTP/1.1\r\nHost: a.test\r\nCookie: {held}\r\n\r\n");
        let response = Connection::open(portunus.http).ask(request("GET"));
        assert_eq!((response.status, response.text().as_str()), (200, "fine"));
        let set = (!response.head.all("set-cookie").is_empty()).then(|| cookie(&response));
        assert_eq!(set.as_ref(), moves.then_some(&sessions["fine"]), "change-on-failure: {change}");
        // One that may not be sent twice fails, and sets nothing.
        let response = Connection::open(portunus.http).ask(request("POST"));
        assert_eq!((response.status, response.header("set-cookie")), (502, None));
        assert_stays(&ask(&portunus, held), "breaks");
    }
}

#[test]
fn websockets_stay_and_set_the_cookie_with_the_101() {
    let echoing = |name: &'static str| {
        Backend::new(move |exchange| {
            if exchange.head.has("upgrade") {
                websocket::echo(exchange);
            } else {
                exchange.ok(name);
            }
        })
    };
    let backends = NAMES.map(echoing);
    let folder = folder(&backends, &[]);
    let portunus = Portunus::serve(&folder);
    let (home, held) = begin(&portunus);
    let home = &backends[NAMES.iter().position(|name| *name == home).expect("one of them")];
    let upgrade = |cookie: &str| {
        let asks = upgrade_request("a.test", "/").replace("\r\n\r\n", &format!("\r\nCookie: {cookie}\r\n\r\n"));
        let mut connection = Connection::open(portunus.http);
        let response = connection.ask(asks);
        assert_eq!(response.status, 101);
        let mut socket = WebSocket { connection };
        socket.echo("a message");
        socket.close();
        response
    };
    for number in 2..6 {
        assert_eq!(upgrade(&held).header("set-cookie"), None);
        assert_eq!(home.count(), number, "it came to the session's endpoint");
    }
    let set = cookie(&upgrade("x=1"));
    assert_eq!(ask(&portunus, &set).header("set-cookie"), None);
}

#[test]
fn what_restricts_access_closes_sticky_routes_like_any_other() {
    let backends = [Backend::named("a")];
    let folder = folder(&backends, &[]);
    let portunus = Portunus::serve(&folder);
    let (_, held) = begin(&portunus);
    portunus
        .after(|| folder.write("ingress.yaml", annotated("all", &[("auth-url", "http://x")]).prefix("/", "app", 80)));
    let response = ask(&portunus, &held);
    assert_eq!((response.status, response.header("set-cookie")), (503, None));
    portunus.wait_problem(&["auth-url", "503"]);
}

#[test]
fn a_bad_value_is_a_problem_and_the_default_counts() {
    let backends = ["a", "b"].map(Backend::named);
    let folder = folder(&backends, &[("session-cookie-name", "no name"), ("session-cookie-max-age", "1h")]);
    let portunus = Portunus::serve(&folder);
    portunus.wait_problem(&["session-cookie-name", "`no name`"]);
    portunus.wait_problem(&["session-cookie-max-age", "write seconds"]);
    let response = ask(&portunus, "");
    let cookie = cookie(&response);
    assert_eq!(response.header("set-cookie"), Some(&*format!("{cookie}; Path=/; HttpOnly")));
    assert!(cookie.starts_with("INGRESSCOOKIE="));
}
