//! Whom the process trusts with what: nobody needs to be root, nobody else can ask the admin port by default, and
//! neither it nor a log ever has a key, a password or what clients prove themselves by.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use clap::Parser;
use portunus::config::{self, Config, addresses};

use serde_json::{Value, json};

use crate::harness::api_server::ApiServer;
use crate::harness::certificates::{Authority, Identity};
use crate::harness::h1::Connection;
use crate::harness::manifests::{app, base64, secret, tls_secret};
use crate::harness::tls::Client;
use crate::harness::*;

#[test]
fn the_admin_port_is_on_loopback_unless_it_is_told_otherwise() {
    for arguments in [&["serve"][..], &["serve", "--manifests", "."], &["webhook"]] {
        let listen = match Config::parse_from([&["portunus"][..], arguments].concat()).command {
            config::Command::Serve(serve) => serve.admin_listen,
            config::Command::Webhook(webhook) => webhook.admin_listen,
            other => panic!("{other:?}"),
        };
        let listen: Vec<_> = addresses(&listen).collect();
        assert!(!listen.is_empty() && listen.iter().all(|address| address.ip().is_loopback()), "{listen:?}");
    }
}

/// A password's hash, by openssl, of `correct horse`.
const HASH: &str = "$apr1$abcdefgh$sIQmFnT1CuEXAsyjuXjUX/";
const SESSION_KEY: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";
const COOKIE: &str = "session=cookie-of-the-client";
const SET_COOKIE: &str = "answer=cookie-of-the-endpoint";
const TOKEN: &str = "Bearer token-of-the-client";

/// Hosts with all that has secrets: a certificate, client certificates, passwords, an identity for endpoints.
fn hosts_with_secrets(backend: &Backend, authority: &Authority, served: &Identity, own: &Identity) -> Folder {
    let folder = Folder::new();
    folder.write("app.yaml", app("default", "app", &[backend.address()]));
    folder.write("tls.yaml", tls_secret("default", "tls", &served.chain_pem, &served.key_pem));
    folder.write("clients.yaml", secret("default", "clients", &[("ca.crt", &authority.pem)]));
    let identity = [("ca.crt", &*authority.pem), ("tls.crt", &*own.chain_pem), ("tls.key", &*own.key_pem)];
    folder.write("own.yaml", secret("default", "own", &identity));
    let users = format!("juliet:{HASH}\nx:{TOKEN}\n");
    folder.write("passwords.yaml", secret("default", "passwords", &[("auth", &users)]));
    let host = |name: &str| Ingress::new("default", name).host(name).prefix("/", "app", 80);
    let sticky = [("affinity", "cookie"), ("ssl-redirect", "false")];
    folder.write("a.yaml", host("a.test").tls(&["a.test"], "tls").asks(&sticky));
    folder.write("b.yaml", host("b.test").asks(&[("auth-type", "basic"), ("auth-secret", "passwords")]));
    folder.write("c.yaml", host("c.test").asks(&[("auth-tls-secret", "default/clients")]));
    let verified = [("backend-protocol", "HTTPS"), ("proxy-ssl-secret", "default/own"), ("proxy-ssl-verify", "on")];
    folder.write("d.yaml", host("d.test").asks(&verified));
    folder
}

fn basic(password: &str) -> String {
    format!("Basic {}", base64(format!("juliet:{password}").as_bytes()))
}

/// Asks for everything with cookies and credentials, in cleartext and over TLS, rightly and wrongly.
fn ask_with_secrets(portunus: &Portunus, client: &Client) {
    for host in ["a.test", "b.test", "c.test", "d.test", "none.test"] {
        for authorization in [TOKEN, &basic("correct horse"), &basic("wrong battery")] {
            for target in ["/", "/broken", "/%", "/x y"] {
                let fields = format!("Host: {host}\r\nCookie: {COOKIE}\r\nAuthorization: {authorization}\r\n");
                let request = format!("GET {target} HTTP/1.1\r\n{fields}\r\n");
                let mut connection = Connection::open(portunus.http);
                connection.send(&request);
                let _ = connection.try_response(false);
                let (mut connection, _) = client.connect(portunus.https, host);
                connection.send(&request);
                let _ = connection.try_response(false);
            }
        }
    }
    run(async {
        let tls = Client::new().alpn(&["h2"]);
        let (mut connection, _) = h2::Connection::tls(portunus.https, &tls, "a.test").await;
        let request = http::Request::get("https://a.test/").header("cookie", COOKIE).header("authorization", TOKEN);
        let _ = connection.send(request.body(h2::empty()).expect("a request")).await;
    });
}

#[test]
fn no_secret_is_shown_or_logged_however_much_is_logged() {
    let backend = Backend::new(|exchange| match exchange.head.word(1) {
        "/broken" => drop(exchange.write("HTTP/1.1 200 OK\r\nbroken\0\r\n\r\n")),
        _ => drop(exchange.write(format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nSet-Cookie: {SET_COOKIE}\r\n\r\n"))),
    });
    let authority = Authority::new();
    let [served, other, own] = ["a.test", "b.test", "own.test"].map(|name| authority.leaf(&[name]));
    let client = authority.client("juliet");
    let folder = hosts_with_secrets(&backend, &authority, &served, &own);
    let key_file = folder.beside("session.key");
    std::fs::write(&key_file, SESSION_KEY).expect("a session key");
    let key_file = key_file.to_str().expect("a path");
    // To what speaks no TLS none is spoken for long.
    let waits = ["--connect-timeout", "200ms"];
    let flags = [&["--log", "debug", "--access-log", "stdout", "--session-key-file", key_file][..], &waits].concat();
    let mut portunus = Portunus::serve_with(&folder, &flags);
    ask_with_secrets(&portunus, &Client::new().showing(&client));
    // Broken ones too: a key of another's, and passwords that are none.
    folder.write("tls.yaml", tls_secret("default", "tls", &served.chain_pem, &other.key_pem));
    folder.write("passwords.yaml", secret("default", "passwords", &[("auth", "juliet:correct horse\n")]));
    portunus.wait_problem(&["data[tls.key]"]);
    portunus.wait_problem(&["auth-secret"]);

    let pages = ["/", "/livez", "/readyz?verbose", "/metrics", "/debug/problems", "/debug/table", "/debug"];
    let pages = pages.map(|page| portunus.admin(page).text()).join("\n");
    portunus.terminate();
    portunus.wait_exit();
    let (log, access) = (portunus.stderr.text(), portunus.stdout.text());
    assert!(log.contains("DEBUG") && access.contains("a.test") && pages.contains("a.test"));
    let keys = [&served, &other, &own, &client].map(|identity| {
        let lines = identity.key_pem.lines().filter(|line| !line.starts_with('-')).map(str::to_owned);
        lines.chain([base64(identity.key_pem.as_bytes())[40..100].to_owned()]).collect::<Vec<_>>()
    });
    let others = ["PRIVATE KEY", HASH, &HASH[15..], SESSION_KEY, "correct horse", "wrong battery", "-of-the-client"];
    let others = others.into_iter().chain([COOKIE, SET_COOKIE, TOKEN]).map(str::to_owned);
    let logins = [basic("correct horse"), basic("wrong battery")].map(|text| text["Basic ".len()..].to_owned());
    for secret in keys.into_iter().flatten().chain(others).chain(logins) {
        for (place, text) in [("the log", &log), ("the access log", &access), ("the admin port", &pages)] {
            let line = text.lines().find(|line| line.contains(&secret));
            assert!(line.is_none(), "{secret} is in {place}: {line:?}");
        }
    }
}

/// A Service, its EndpointSlice with this address, and an Ingress for `NAME.test`, as an API server has them.
fn objects(name: &str, address: &str, port: u16) -> [Value; 3] {
    let metadata = |name: &str| json!({ "namespace": "default", "name": name });
    let mut slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata(&format!("{name}-1")),
        "addressType": "IPv4", "ports": [{ "port": port }], "endpoints": [{ "addresses": [address] }],
    });
    slice["metadata"]["labels"] = json!({ "kubernetes.io/service-name": name });
    let backend = json!({ "service": { "name": name, "port": { "number": 80 } } });
    let path = json!({ "path": "/", "pathType": "Prefix", "backend": backend });
    let rule = json!({ "host": format!("{name}.test"), "http": { "paths": [path] } });
    let spec = json!({ "ingressClassName": "portunus", "rules": [rule] });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata(name), "spec": { "ports": [{ "port": 80 }] },
    });
    let ingress = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": metadata(name), "spec": spec,
    });
    [service, slice, ingress]
}

#[test]
fn objects_of_an_api_server_lead_to_nothing_on_this_machine_unless_the_operator_says_so() {
    let backend = Backend::named("here");
    let api = ApiServer::new();
    api.put(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": { "name": "portunus" },
        "spec": { "controller": "portunus.dev/ingress-controller" },
    }));
    for (name, address) in [("loopback", "127.0.0.1"), ("mapped", "::ffff:127.0.0.1"), ("metadata", "169.254.169.254")]
    {
        for object in objects(name, address, backend.port()) {
            api.put(object);
        }
    }
    let kubeconfig = api.kubeconfig();
    let serve = |flags: &[&str]| Portunus::serve_with_flags(&["--kubeconfig", &kubeconfig], flags);
    let portunus = serve(&[]);
    for (name, nature) in [("loopback", "a loopback"), ("mapped", "a loopback"), ("metadata", "a link-local")] {
        portunus.wait_problem(&[&format!("{name}-1"), "endpoints[0].addresses[0]", nature, "--deny-local-endpoints"]);
        assert_eq!(portunus.get(&format!("{name}.test"), "/").status, 503, "{name}");
    }
    assert_eq!(backend.connections(), 0);
    let portunus = serve(&["--deny-local-endpoints=false"]);
    assert_eq!(portunus.get("loopback.test", "/").text(), "here");
    assert_eq!(portunus.get("mapped.test", "/").text(), "here");
}

/// A command that runs as nobody, without any capability; none where the tests themselves are not root's, or where
/// nobody else may come to the binary.
fn as_nobody() -> Option<Command> {
    let binary = env!("CARGO_BIN_EXE_portunus");
    let setpriv = || {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]);
        command.arg("--no-new-privs");
        command
    };
    let can = setpriv().args(["test", "-x", binary]).stderr(Stdio::null()).status();
    can.is_ok_and(|status| status.success()).then(|| {
        let mut command = setpriv();
        command.arg(binary).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    })
}

#[test]
fn the_process_needs_no_root() {
    let Some(command) = as_nobody() else {
        println!("skipped: who runs the tests can't become somebody else");
        return;
    };
    let backend = Backend::named("a");
    let folder = Folder::to(&backend);
    let manifests = folder.path();
    for path in [manifests.parent().expect("its folder"), &manifests] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("permissions");
    }
    let portunus = Portunus::serve_by(command, &folder, &[]);
    let status = std::fs::read_to_string(format!("/proc/{}/status", portunus.pid())).expect("status");
    for line in ["Uid:\t65534\t65534\t65534\t65534", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(status.contains(line), "{status}");
    }
    assert_eq!(portunus.get("a.test", "/").text(), "a");
    assert_eq!(Client::new().get(portunus.https, "a.test", "a.test", "/").0.text(), "a");
    portunus.after(|| folder.write("more.yaml", Ingress::new("default", "b").host("b.test").prefix("/", "none", 80)));
    assert_eq!(portunus.get("b.test", "/").status, 503);
}

#[test]
fn what_is_deployed_has_no_rights_that_it_does_not_need() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in ["deploy/base/deployment.yaml", "deploy/helm/portunus/templates/workload.yaml"] {
        let text = std::fs::read_to_string(root.join(file)).expect("a manifest");
        for line in [
            "runAsNonRoot: true",
            "allowPrivilegeEscalation: false",
            "readOnlyRootFilesystem: true",
            "drop: [ALL]",
            "type: RuntimeDefault",
        ] {
            assert!(text.contains(line), "{file} has no {line}");
        }
        for word in ["hostPID", "hostIPC", "privileged: true", "add: ["] {
            assert!(!text.contains(word), "{file} has {word}");
        }
    }
    let image = std::fs::read_to_string(root.join("Dockerfile")).expect("the Dockerfile");
    assert!(image.lines().any(|line| line == "USER 65532:65532"), "{image}");
}
