//! Basic auth: whoever gives the right password passes, as with the real nginx beside it; checks keep nobody else
//! waiting, and neither a password nor a hash is ever told.

use crate::harness::h1::{Connection, Response};
use crate::harness::manifests::{app, base64};
use crate::harness::nginx::Nginx;
use crate::harness::websocket::{self, WebSocket, upgrade_request};
use crate::harness::*;

/// The same password by openssl and libcrypt in every way: users are called by it.
const HASHES: [(&str, &str); 10] = [
    ("y", "$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a"),
    ("b", "$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW"),
    ("a", "$2a$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW"),
    ("apr1", "$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/"),
    ("md5", "$1$abcdefgh$cHJi5PXp/ki/ktXzqlk6I1"),
    ("sha256", "$5$abcdefgh$gruCpC7VkOTspMQTTSAR8mtlO9Upms.fwqE5y16JVM."),
    ("rounds", "$5$rounds=1000$abc$Mz4DiYKTnNKbZLo/mIp3d8Y4aQBhv3uhSwxLDy55/Y8"),
    ("sha512", "$6$abcdefgh$ltjgWl6579NluT/Vi1nwEvcil.G5Nbc4NiXZaNGStk8PSwGfQv72N2CKPPrVACtLtip/cZ/1GM/O6IND4WQhG."),
    ("sha", "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ="),
    ("ssha", "{SSHA}gVK8WC9YyFT1gMsQHTGCgT3sSv5zYWx0"),
];

fn htpasswd() -> String {
    HASHES.map(|(user, hash)| format!("{user}:{hash}\n")).concat()
}

/// A Secret with these keys.
fn secret(name: &str, data: &[(&str, &str)]) -> String {
    let lines: Vec<String> =
        data.iter().map(|(key, value)| format!("  {key}: {}\n", base64(value.as_bytes()))).collect();
    let lines = lines.concat();
    format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: default}}\ndata:\n{lines}")
}

fn protected(keys: &[(&str, &str)]) -> Ingress {
    let begin = Ingress::new("default", "protected").host("a.test");
    let keys = [&[("auth-type", "basic"), ("auth-secret", "passwords")], keys].concat();
    let key = |ingress: Ingress, (key, value): &(&str, &str)| {
        ingress.annotation(&format!("nginx.ingress.kubernetes.io/{key}"), value)
    };
    keys.iter().fold(begin, key).prefix("/", "app", 80)
}

/// `a.test` is for those in the file, `open.test` for all.
fn folder(backend: &Backend, file: &str, keys: &[(&str, &str)]) -> Folder {
    let folder = Folder::new();
    folder.write("app.yaml", app("default", "app", &[backend.address()]));
    folder.write("ingress.yaml", protected(keys));
    folder.write("open.yaml", Ingress::new("default", "open").host("open.test").prefix("/", "app", 80));
    folder.write("secret.yaml", secret("passwords", &[("auth", file)]));
    folder
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64(format!("{user}:{password}").as_bytes()))
}

fn request(authorization: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a.test\r\nAuthorization: {authorization}\r\n\r\n")
}

fn ask(portunus: &Portunus, user: &str, password: &str) -> Response {
    Connection::open(portunus.http).ask(request(&basic(user, password)))
}

fn status(portunus: &Portunus, user: &str, password: &str) -> u16 {
    ask(portunus, user, password).status
}

/// A hash that takes a while: 2 to the power of `cost` rounds.
fn dear(user: &str, password: &str, cost: u32) -> String {
    let hash = bcrypt::hash_with_salt(password, cost, [7; 16]).expect("a hash");
    format!("{user}:{}\n", hash.format_for_version(bcrypt::Version::TwoY))
}

#[test]
fn answers_are_those_of_nginx_for_each_hash_and_for_what_is_no_password() {
    let files = [("htpasswd", &*htpasswd()), ("index.html", "a")];
    let nginx = Nginx::with_files(
        "server { listen 127.0.0.1:PORT; root FOLDER; \
         location / { auth_basic \"Verona, members\"; auth_basic_user_file FOLDER/htpasswd; } }",
        &files,
    );
    let backend = Backend::named("a");
    let folder = folder(&backend, &htpasswd(), &[("auth-realm", "Verona, members")]);
    let portunus = Portunus::serve(&folder);
    let same = |request: String| {
        let answer = |address| {
            let response = Connection::open(address).ask(&request);
            let challenge = response.header("www-authenticate").map(str::to_owned);
            (response.status, challenge)
        };
        let (ours, theirs) = (answer(portunus.http), answer(nginx.address()));
        assert_eq!(ours, theirs, "{request}");
        ours.0
    };
    for (user, _) in HASHES {
        assert_eq!(same(request(&basic(user, "secret"))), 200, "{user}");
        for wrong in ["Secret", "secre", "", "secret ", "secret:x"] {
            assert_eq!(same(request(&basic(user, wrong))), 401, "{user}");
        }
        assert_eq!(same(request(&basic(&user.to_uppercase(), "secret"))), 401);
    }
    let good = basic("sha", "secret");
    for malformed in [
        "",
        "Basic",
        "Basic ",
        "Basic !!!",
        "Basic c2hh",
        "Bearer c2hhOnNlY3JldA==",
        &basic("", "secret"),
        &basic("sha", ""),
        &basic("nobody", "secret"),
        &good.replace("Basic ", "Basic"),
    ] {
        assert_eq!(same(request(malformed)), 401, "{malformed}");
    }
    assert_eq!(same("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned()), 401);
    for other in [good.replace("Basic", "BASIC"), good.replace('=', ""), good.replace("Basic ", "Basic  ")] {
        assert_eq!(same(request(&other)), 200, "{other}");
    }
}

#[test]
fn the_endpoint_sees_neither_who_is_refused_nor_the_password_of_who_is_not() {
    let backend = Backend::named("a");
    let folder = folder(&backend, &htpasswd(), &[]);
    let portunus = Portunus::serve(&folder);
    let refused = ask(&portunus, "sha", "wrong");
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some("Basic realm=\"\"")));
    assert_eq!(refused.header("cache-control"), Some("no-store"));
    // What could be read in two ways is as good as nothing.
    let twice = format!("{0}\r\nAuthorization: {0}", basic("sha", "secret"));
    assert_eq!(Connection::open(portunus.http).ask(request(&twice)).status, 401);
    let long = basic("sha", &"x".repeat(4096));
    assert_eq!(Connection::open(portunus.http).ask(request(&long)).status, 401);
    assert_eq!(backend.count(), 0);
    assert_eq!(status(&portunus, "sha", "secret"), 200);
    assert_eq!(backend.only().header("authorization"), None, "as ingress-nginx has it");
    // A route without a password gets what its client says.
    Connection::open(portunus.http).ask(request("Bearer x").replace("a.test", "open.test"));
    assert_eq!(backend.last().header("authorization"), Some("Bearer x"));
}

#[test]
fn users_of_a_map_and_websockets_too() {
    let backend = Backend::new(|exchange| {
        if exchange.head.get("upgrade").is_some() {
            websocket::echo(exchange);
        } else {
            exchange.ok("a");
        }
    });
    let folder = folder(&backend, "", &[("auth-secret-type", "auth-map"), ("auth-realm", "x")]);
    folder.write("secret.yaml", secret("passwords", &[HASHES[0], ("romeo", HASHES[3].1)]));
    let portunus = Portunus::serve(&folder);
    for (user, password, expected) in [("y", "secret", 200), ("romeo", "secret", 200), ("juliet", "secret", 401)] {
        assert_eq!(status(&portunus, user, password), expected, "{user}");
    }
    let upgrade = upgrade_request("a.test", "/");
    assert_eq!(Connection::open(portunus.http).ask(&upgrade).status, 401);
    let mut connection = Connection::open(portunus.http);
    let named = upgrade.replace("\r\n\r\n", &format!("\r\nAuthorization: {}\r\n\r\n", basic("romeo", "secret")));
    assert_eq!(connection.ask(&named).status, 101);
    let mut socket = WebSocket { connection };
    socket.echo("through");
    socket.close();
}

#[test]
fn a_change_of_the_secret_counts_at_once() {
    let backend = Backend::named("a");
    let folder = folder(&backend, &dear("romeo", "old", 4), &[]);
    let portunus = Portunus::serve(&folder);
    let mut connection = Connection::open(portunus.http);
    let mut ask = |password: &str| connection.ask(request(&basic("romeo", password))).status;
    assert_eq!((ask("old"), ask("old"), ask("new")), (200, 200, 401));
    portunus.after(|| folder.write("secret.yaml", secret("passwords", &[("auth", &dear("romeo", "new", 4))])));
    assert_eq!((ask("old"), ask("new"), ask("new")), (401, 200, 200));
    // Somebody else's change changes nothing; somebody who is no longer there is nobody.
    portunus.after(|| folder.write("secret.yaml", secret("passwords", &[("auth", &dear("juliet", "new", 4))])));
    assert_eq!(ask("new"), 401);
    // Without a Secret, or with one of nobody, nobody passes.
    portunus.after(|| folder.write("secret.yaml", secret("passwords", &[("auth", "romeo:plain")])));
    portunus.wait_problem(&["auth-secret", "has no user who could log in"]);
    assert_eq!(ask("plain"), 503);
    folder.remove("secret.yaml");
    portunus.wait_problem(&["auth-secret", "there is no Secret default/passwords"]);
    assert_eq!(ask("new"), 503);
    portunus.after(|| folder.write("secret.yaml", secret("passwords", &[("auth", &dear("romeo", "new", 4))])));
    assert_eq!(ask("new"), 200);
}

#[test]
fn nobody_else_waits_while_a_password_is_checked() {
    let backend = Backend::named("a");
    let folder = folder(&backend, &dear("romeo", "secret", 11), &[]);
    let portunus = Portunus::serve_with(&folder, &["--workers", "1"]);
    // More than there are threads that check, each another.
    let mut waiting: Vec<_> = (0..12)
        .map(|number| {
            let mut connection = Connection::open(portunus.http);
            connection.send(request(&basic("romeo", &format!("wrong {number}"))));
            connection
        })
        .collect();
    for _ in 0..20 {
        assert_eq!(portunus.get("open.test", "/").status, 200);
    }
    let answered = waiting.iter().filter(|connection| has_answer(connection)).count();
    assert!(answered < waiting.len(), "all of them were checked before others had their answers");
    assert!(waiting.iter_mut().all(|connection| connection.response().status == 401));
}

fn has_answer(connection: &Connection<std::net::TcpStream>) -> bool {
    let stream = &connection.wire.stream;
    stream.set_nonblocking(true).expect("nonblocking");
    let some = stream.peek(&mut [0]).is_ok();
    stream.set_nonblocking(false).expect("blocking");
    some
}

#[test]
fn a_login_is_checked_once_for_all_who_ask_at_once_and_too_many_are_told_to_come_again() {
    let backend = Backend::named("a");
    let folder = folder(&backend, &dear("romeo", "secret", 8), &[]);
    let portunus = Portunus::serve(&folder);
    let all = |password: &dyn Fn(usize) -> String| -> Vec<Response> {
        let mut connections: Vec<_> = (0..200).map(|_| Connection::open(portunus.http)).collect();
        for (number, connection) in connections.iter_mut().enumerate() {
            connection.send(request(&basic("romeo", &password(number))));
        }
        connections.iter_mut().map(Connection::response).collect()
    };
    assert!(all(&|_| "secret".to_owned()).iter().all(|answer| answer.status == 200));
    let different = all(&|number| format!("wrong {number}"));
    let count = |status| different.iter().filter(|answer| answer.status == status).count();
    assert!(count(401) >= 16 && count(401) + count(503) == 200, "{} of 401, {} of 503", count(401), count(503));
    for busy in different.iter().filter(|answer| answer.status == 503) {
        assert_eq!(busy.header("retry-after"), Some("1"));
    }
    // Who is known passes all the same.
    assert_eq!(status(&portunus, "romeo", "secret"), 200);
}

#[test]
fn guesses_at_one_ingress_keep_nobody_from_another() {
    let backend = Backend::named("a");
    let folder = folder(&backend, &dear("romeo", "secret", 10), &[]);
    folder.write("others.yaml", secret("others", &[("auth", &dear("juliet", "secret", 4))]));
    let keys = [("auth-type", "basic"), ("auth-secret", "others")];
    let ingress = Ingress::new("default", "others").host("b.test").asks(&keys);
    folder.write("b.yaml", ingress.prefix("/", "app", 80));
    let portunus = Portunus::serve(&folder);
    let mut guesses: Vec<_> = (0..200).map(|_| Connection::open(portunus.http)).collect();
    for (number, connection) in guesses.iter_mut().enumerate() {
        connection.send(request(&basic("romeo", &format!("wrong {number}"))));
    }
    for number in 0..8 {
        let ask = request(&basic("juliet", &format!("wrong {number}"))).replace("a.test", "b.test");
        assert_eq!(Connection::open(portunus.http).ask(ask).status, 401);
    }
    let right = request(&basic("juliet", "secret")).replace("a.test", "b.test");
    assert_eq!(Connection::open(portunus.http).ask(right).status, 200);
    let statuses: Vec<u16> = guesses.iter_mut().map(|connection| connection.response().status).collect();
    assert!(statuses.contains(&401) && statuses.contains(&503), "{statuses:?}");
}

#[test]
fn neither_passwords_nor_hashes_are_told_to_anybody() {
    let backend = Backend::named("a");
    let hidden = ["open-sesame", "cGxhaW4", "abcdefghijklmnopqrstuu", "5en6G6Mez", "in-plain-text", "no-colon-here"];
    let file = format!("{}plain:in-plain-text\nno-colon-here\ndes:rqXexS6ZhobKA\n", htpasswd());
    let folder = folder(&backend, &file, &[]);
    let portunus = Portunus::serve_with(&folder, &["--access-log", "stdout"]);
    assert_eq!(status(&portunus, "sha", "secret"), 200);
    assert_eq!(status(&portunus, "sha", "open-sesame"), 401);
    assert_eq!(status(&portunus, "plain", "in-plain-text"), 401);
    portunus.wait_problem(&["user `plain` of Secret default/passwords can't log in"]);
    portunus.wait_problem(&["user `des` of Secret default/passwords can't log in"]);
    portunus.stdout.wait_for("unauthorized");
    let told = [
        portunus.stderr.text(),
        portunus.stdout.text(),
        portunus.admin("/debug/table").text(),
        portunus.admin("/debug/problems").text(),
        portunus.admin("/metrics").text(),
    ];
    assert!(told[2].contains("BasicAuth"), "{}", told[2]);
    for (text, word) in told.iter().flat_map(|text| hidden.map(|word| (text, word))) {
        assert!(!text.contains(word), "{word} is in {text}");
    }
}
