//! The admission webhook, over real TLS: what the API server asks, and what anybody else may send.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use portunus::kubernetes::webhook::{self, Limits};
use portunus::model::{Certificate, ObjectName};
use portunus::translate::{Object, Resources, Settings, Translator, review};
use serde_json::{Value, json};
use tokio::task::LocalSet;

use crate::harness::certificates::{Authority, Identity};
use crate::harness::h1::Response;
use crate::harness::tls::Client;
use crate::harness::*;

const NAME: &str = "portunus-webhook.portunus.svc";
const VALIDATE: &str = "/validate";

/// A webhook in a thread of its own, as `app` runs it on the control thread.
struct Webhook {
    address: SocketAddr,
    client: Client,
    certificate: Arc<Mutex<Option<Arc<Certificate>>>>,
    ready: Arc<AtomicBool>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Webhook {
    fn start() -> Self {
        Self::with(&Authority::new(), Limits::default())
    }

    fn with(authority: &Authority, limits: Limits) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("non-blocking");
        let address = listener.local_addr().expect("an address");
        let certificate = Arc::new(Mutex::new(Some(certificate(&authority.leaf(&[NAME])))));
        let ready = Arc::new(AtomicBool::new(true));
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let shared = (certificate.clone(), ready.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let (certificate, ready) = shared;
            let control = Rc::new(RefCell::new(control()));
            let review = Rc::new(move |ingress| {
                let control = control.borrow();
                ready.load(Ordering::SeqCst).then(|| review(&control.1, &control.0, ingress))
            });
            let certificate = Rc::new(move || certificate.lock().expect("certificate").clone());
            LocalSet::new().block_on(&runtime, async {
                tokio::select! {
                    () = webhook::serve(listener, limits, review, certificate) => {}
                    _ = stopped => {}
                }
            });
        });
        let client = Client::trusting(authority).alpn(&["h2", "http/1.1"]);
        Self { address, client, certificate, ready, stop: Some(stop), thread: Some(thread) }
    }

    #[track_caller]
    fn post(&self, body: impl AsRef<str>) -> Response {
        let (mut connection, _) = self.client.connect(self.address, NAME);
        connection.ask(post(body.as_ref()))
    }

    /// What is answered to a review of this request.
    #[track_caller]
    fn review(&self, request: &Value) -> Value {
        let response = self.post(asked(request).to_string());
        assert_eq!(response.status, 200, "{}", response.text());
        assert_eq!(response.header("content-type"), Some("application/json"));
        let review = response.json();
        assert_eq!(
            (&review["kind"], &review["apiVersion"]),
            (&json!("AdmissionReview"), &json!("admission.k8s.io/v1"))
        );
        assert_eq!(review["response"]["uid"], "705ab4f5-6393-11e8-b7cc-42010a800002");
        review["response"].clone()
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

/// `montague/held` has `a.test/`.
fn control() -> (Resources, Translator) {
    let mut resources = Resources::default();
    let mut held = ingress("held", &[("a.test", "/")]);
    held["metadata"]["creationTimestamp"] = json!("2001-01-01T00:00:00Z");
    resources.apply(serde_json::from_value::<k8s_openapi::api::networking::v1::Ingress>(held).expect("Ingress").into());
    let service =
        json!({ "metadata": { "namespace": "montague", "name": "app" }, "spec": { "ports": [{ "port": 80 }] } });
    resources.apply(serde_json::from_value::<k8s_openapi::api::core::v1::Service>(service).expect("Service").into());
    let mut translator = Translator::new(Settings::default());
    translator.update(&mut resources);
    (resources, translator)
}

/// As it comes out of a Secret.
fn certificate(identity: &Identity) -> Arc<Certificate> {
    let secret = json!({
        "metadata": { "namespace": "portunus", "name": "webhook" },
        "type": "kubernetes.io/tls",
        "stringData": { "tls.crt": identity.chain_pem, "tls.key": identity.key_pem },
    });
    let mut resources = Resources::default();
    let secret = serde_json::from_value(secret).expect("a Secret");
    resources.apply(Object::from_secret(secret, 1_577_836_800));
    resources.certificate(&ObjectName::new("portunus", "webhook")).expect("a good certificate")
}

fn ingress(name: &str, rules: &[(&str, &str)]) -> Value {
    let backend = json!({ "service": { "name": "app", "port": { "number": 80 } } });
    let path = |path: &str| json!({ "path": path, "pathType": "Prefix", "backend": backend });
    let rule = |(host, at): &(&str, &str)| json!({ "host": host, "http": { "paths": [path(at)] } });
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": { "namespace": "montague", "name": name },
        "spec": { "rules": rules.iter().map(rule).collect::<Vec<_>>() },
    })
}

/// A request to store the object, as the API server sends it.
fn create(object: &Value) -> Value {
    json!({
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "kind": { "group": "networking.k8s.io", "version": "v1", "kind": "Ingress" },
        "resource": { "group": "networking.k8s.io", "version": "v1", "resource": "ingresses" },
        "requestKind": { "group": "networking.k8s.io", "version": "v1", "kind": "Ingress" },
        "name": object["metadata"]["name"],
        "namespace": "montague",
        "operation": "CREATE",
        "userInfo": { "username": "romeo", "groups": ["system:authenticated"] },
        "object": object,
        "oldObject": null,
        "dryRun": true,
        "options": { "kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1" },
    })
}

fn asked(request: &Value) -> Value {
    json!({ "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request })
}

fn post(body: &str) -> String {
    let length = body.len();
    format!(
        "POST {VALIDATE}?timeout=10s HTTP/1.1\r\nHost: {NAME}\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

#[test]
fn a_good_ingress_is_allowed_and_what_is_missing_is_a_warning() {
    let webhook = Webhook::start();
    let response = webhook.review(&create(&ingress("new", &[("b.test", "/")])));
    assert_eq!(response["allowed"], true);
    assert_eq!(response["warnings"], Value::Null);

    let mut object = ingress("new", &[("b.test", "/")]);
    object["spec"]["tls"] = json!([{ "hosts": ["b.test"], "secretName": "gone" }]);
    object["metadata"]["annotations"] = json!({ format!("nginx.ingress.kubernetes.io/{}", "x".repeat(500)): "" });
    let response = webhook.review(&create(&object));
    assert_eq!(response["allowed"], true);
    let warnings = response["warnings"].as_array().expect("warnings");
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    let long = warnings[0].as_str().expect("a text");
    assert_eq!((long.chars().count(), long.chars().last()), (256, Some('…')));
    let gone = "spec.tls[0].secretName: there is no Secret montague/gone of type kubernetes.io/tls; \
                create it; the default certificate is served meanwhile";
    assert_eq!(warnings[1], gone);
}

#[test]
fn a_refusal_lists_every_problem() {
    let webhook = Webhook::start();
    let response = webhook.review(&create(&ingress("new", &[("a.test", "/"), ("a\nb", "/"), ("c.test", "/%00")])));
    assert_eq!(response["allowed"], false);
    let status = &response["status"];
    assert_eq!(
        (&status["status"], &status["code"], &status["reason"]),
        (&json!("Failure"), &json!(422), &json!("Invalid"))
    );
    let message = status["message"].as_str().expect("a message");
    let lines: Vec<&str> = message.lines().collect();
    assert_eq!(lines.len(), 3, "{message}");
    assert_eq!(
        lines[0],
        "spec.rules[0].http.paths[0]: Prefix path `/` of host `a.test` belongs to Ingress montague/held; \
         remove it here or there; the older one wins"
    );
    assert!(lines[1].starts_with("spec.rules[1].host: host `a b` is not a DNS name; use"), "{message}");
    assert!(lines[2].starts_with("spec.rules[2].http.paths[0].path: `/%00`"), "{message}");

    let many: Vec<(&str, &str)> = (0..1000).map(|_| ("1.2.3.4", "/")).collect();
    let response = webhook.review(&create(&ingress("new", &many)));
    let message = response["status"]["message"].as_str().expect("a message");
    assert!(message.len() < 9_000, "{} bytes", message.len());
    let (lines, rest) = (message.lines().count() - 1, message.lines().last().expect("a line"));
    assert_eq!(rest, format!("and {} more", 1000 - lines));
}

#[test]
fn what_is_none_of_its_business_is_allowed() {
    let webhook = Webhook::start();
    let bad = || create(&ingress("new", &[("1.2.3.4", "/")]));
    assert_eq!(webhook.review(&bad())["allowed"], false);
    let mut deletion = bad();
    deletion["operation"] = json!("DELETE");
    deletion["object"] = Value::Null;
    let mut status = bad();
    status["subResource"] = json!("status");
    let mut pod = bad();
    pod["kind"] = json!({ "group": "", "version": "v1", "kind": "Pod" });
    pod["object"] = json!({ "kind": "Pod", "apiVersion": "v1", "metadata": { "name": "romeo" }, "spec": {} });
    let mut options = bad();
    options["kind"] = json!({ "group": "", "version": "v1", "kind": "PodExecOptions" });
    options["operation"] = json!("CONNECT");
    options["object"] = json!({ "kind": "PodExecOptions", "apiVersion": "v1", "stdin": true });
    let mut class = bad();
    class["object"]["spec"]["ingressClassName"] = json!("nginx");
    let mut leaving = bad();
    leaving["operation"] = json!("UPDATE");
    leaving["object"]["metadata"]["deletionTimestamp"] = json!("2001-01-01T00:00:00Z");
    for request in [deletion, status, pod, options, class, leaving] {
        let response = webhook.review(&request);
        assert_eq!((&response["allowed"], &response["warnings"]), (&json!(true), &Value::Null), "{request}");
    }
}

#[test]
fn what_can_not_be_answered_is_left_to_the_failure_policy() {
    let webhook = Webhook::start();
    webhook.ready.store(false, Ordering::SeqCst);
    let body = asked(&create(&ingress("new", &[("b.test", "/")]))).to_string();
    let response = webhook.post(&body);
    assert_eq!((response.status, response.text().as_str()), (503, "not all objects are known yet\n"));
    assert_eq!(response.header("retry-after"), None, "the API server would wait");
    webhook.ready.store(true, Ordering::SeqCst);
    assert_eq!(webhook.post(&body).status, 200);

    let without_request = json!({ "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1" });
    let mut other_version = asked(&create(&ingress("new", &[])));
    other_version["apiVersion"] = json!("admission.k8s.io/v1beta1");
    let mut no_object = create(&Value::Null);
    no_object["name"] = json!("new");
    let mut wrong = create(&ingress("new", &[]));
    wrong["object"]["spec"]["rules"] = json!("x".repeat(10_000));
    let table = [
        (String::new(), "the body is no AdmissionReview: "),
        ("{".to_owned(), "the body is no AdmissionReview: "),
        ("\u{0}\u{7}".to_owned(), "the body is no AdmissionReview: "),
        (without_request.to_string(), "the AdmissionReview has no request"),
        (other_version.to_string(), "only AdmissionReview of admission.k8s.io/v1 is read"),
        (asked(&no_object).to_string(), "the request has no object"),
        (asked(&wrong).to_string(), "the object is no Ingress: "),
    ];
    for (body, sentence) in table {
        let response = webhook.post(&body);
        assert_eq!(response.status, 400, "{body:.80}");
        assert!(response.text().starts_with(sentence) && response.body.len() < 800, "{}", response.text());
    }
}

#[test]
fn only_post_of_json_to_its_path_is_answered() {
    let webhook = Webhook::start();
    let (mut connection, handshake) = webhook.client.connect(webhook.address, NAME);
    assert_eq!(handshake.alpn.as_deref(), Some("http/1.1"));
    let mut ask = |head: &str| {
        let response = connection.ask(format!("{head}\r\nHost: {NAME}\r\nContent-Length: 2\r\n\r\n{{}}"));
        (response.status, response.header("allow").map(str::to_owned))
    };
    let json = "Content-Type: application/json";
    assert_eq!(ask(&format!("POST / HTTP/1.1\r\n{json}")), (404, None));
    assert_eq!(ask(&format!("POST /validate/ HTTP/1.1\r\n{json}")), (404, None));
    assert_eq!(ask(&format!("PUT /validate HTTP/1.1\r\n{json}")), (405, Some("POST".to_owned())));
    assert_eq!(ask("POST /validate HTTP/1.1"), (415, None));
    assert_eq!(ask("POST /validate HTTP/1.1\r\nContent-Type: application/yaml"), (415, None));
    assert_eq!(ask("POST /validate HTTP/1.1\r\nContent-Type: Application/JSON; charset=utf-8"), (400, None));
    // All of it was one connection, which still serves.
    let response = connection.ask(post(&asked(&create(&ingress("new", &[("b.test", "/")]))).to_string()));
    assert_eq!(response.json()["response"]["allowed"], true);
}

#[test]
fn a_renewed_certificate_is_served_to_the_next_connection() {
    let authority = Authority::new();
    let webhook = Webhook::with(&authority, Limits::default());
    let (mut open, first) = webhook.client.connect(webhook.address, NAME);
    let renewed = authority.leaf(&[NAME]);
    *webhook.certificate.lock().expect("certificate") = Some(certificate(&renewed));
    let (_, second) = webhook.client.connect(webhook.address, NAME);
    assert!(first.leaf() != &renewed.leaf && second.leaf() == &renewed.leaf);
    assert!(!second.resumed);
    let body = asked(&create(&ingress("new", &[("b.test", "/")]))).to_string();
    assert_eq!(open.ask(post(&body)).status, 200, "the open connection goes on");

    *webhook.certificate.lock().expect("certificate") = None;
    assert!(webhook.client.try_connect(webhook.address, NAME).is_err());
    *webhook.certificate.lock().expect("certificate") = Some(certificate(&renewed));
    assert_eq!(webhook.post(&body).status, 200);
}

#[test]
fn bodies_are_bounded_whether_they_say_their_length_or_not() {
    let webhook = Webhook::with(&Authority::new(), Limits { body_bytes_max: 1 << 16, ..Limits::default() });
    let head = format!("POST {VALIDATE} HTTP/1.1\r\nHost: {NAME}\r\nContent-Type: application/json\r\n");
    let (mut connection, _) = webhook.client.connect(webhook.address, NAME);
    assert_eq!(connection.ask(format!("{head}Content-Length: 65537\r\n\r\n")).status, 413);
    let (mut connection, _) = webhook.client.connect(webhook.address, NAME);
    let chunk = format!("10001\r\n{}\r\n", " ".repeat(65_537));
    assert_eq!(connection.ask(format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunk}")).status, 413);
    let body = asked(&create(&ingress("new", &[("b.test", "/")]))).to_string();
    let fits = format!("{body}{}", " ".repeat(65_536 - body.len()));
    assert_eq!(webhook.post(fits).status, 200);
}

#[test]
fn who_is_slow_is_let_go() {
    let short = Duration::from_millis(50);
    let slow = |limits: Limits| Webhook::with(&Authority::new(), limits);

    let webhook = slow(Limits { body_timeout: short, ..Limits::default() });
    let (mut connection, _) = webhook.client.connect(webhook.address, NAME);
    let head = format!("POST {VALIDATE} HTTP/1.1\r\nHost: {NAME}\r\nContent-Type: application/json\r\n");
    assert_eq!(connection.ask(format!("{head}Content-Length: 10\r\n\r\n{{")).status, 408);

    let webhook = slow(Limits { head_timeout: short, ..Limits::default() });
    let (mut connection, _) = webhook.client.connect(webhook.address, NAME);
    connection.send("POST /validate HTTP/1.1\r\n");
    let rest = String::from_utf8_lossy(&connection.read_to_end()).into_owned();
    assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 408"), "{rest}");

    let webhook = slow(Limits { handshake_timeout: short, ..Limits::default() });
    h1::Connection::open(webhook.address).assert_closed();

    let webhook = slow(Limits { age_max: short, ..Limits::default() });
    let (mut connection, _) = webhook.client.connect(webhook.address, NAME);
    connection.assert_closed();
}

#[test]
fn connections_are_bounded() {
    let webhook = Webhook::with(&Authority::new(), Limits { connections_max: 2, ..Limits::default() });
    let mut open: Vec<_> = (0..2).map(|_| webhook.client.connect(webhook.address, NAME).0).collect();
    assert!(webhook.client.try_connect(webhook.address, NAME).is_err());
    let body = asked(&create(&ingress("new", &[("b.test", "/")]))).to_string();
    assert_eq!(open[0].ask(post(&body)).status, 200);
    open.pop();
    eventually("a place for another", || webhook.client.try_connect(webhook.address, NAME).ok());
}
