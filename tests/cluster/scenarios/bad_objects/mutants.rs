//! Random changes of good objects. The seed is always the same, so what fails once fails again.

use std::iter::repeat_with;

use fastrand::Rng;
use serde_json::{Value, json};

use crate::harness::certificates::{Authority, Identity};
use crate::harness::manifests::{ingress, slice, tls_secret};

/// Versions and kinds of the mutants.
pub const KINDS: [(&str, &str); 4] = [
    ("networking.k8s.io/v1", "Ingress"),
    ("v1", "Service"),
    ("discovery.k8s.io/v1", "EndpointSlice"),
    ("v1", "Secret"),
];
/// A label that all mutants have.
pub const LABEL: &str = "portunus.test/mutant";
/// Names that mutants have, so that they are changed too, and find each other.
pub const NAMES: usize = 20;

const SEED: u64 = 10;
const HOSTS: &[&str] = &[
    "*.mutants.test",
    "*.test",
    "a.b.mutants.test",
    "mutants.test",
    "xn--bcher-kva.mutants.test",
    "xn--a.mutants.test",
    "xn--.test",
    "1.2.3",
    "0x7f.1",
    "a--b.test",
    "localhost",
    "",
];
const PATHS: &[&str] = &[
    "/",
    "//",
    "/a/../b",
    "/a/%2e%2e/%2E%2e/c",
    "/%",
    "/%zz",
    "/%00",
    "/a%2Fb",
    "/a?b=c#d",
    "/é/ü/{x}",
    "/{*rest}",
    "/{",
    "/*",
    "/:id/*any",
    "/;a=b/..;/c",
    "/\\",
    "/ ",
    "/\u{7f}\u{1}",
    "",
];
const ANNOTATIONS: &[&str] = &[
    "nginx.ingress.kubernetes.io/rewrite-target",
    "nginx.ingress.kubernetes.io/auth-url",
    "nginx.ingress.kubernetes.io/configuration-snippet",
    "nginx.ingress.kubernetes.io/",
    "kubernetes.io/ingress.class",
    "portunus.dev/no-such-thing",
];
const STRINGS: &[&str] =
    &["", "0", "-1", "null", "app", "..", "http", "https", "\u{202e}evil", "a b\r\nc", "{{ . }}", "${x}", "*", "🦀"];
const NUMBERS: &[i64] = &[0, 1, 80, 443, 8080, 65_535, 65_536, -1, 2_147_483_647];
const APP_PROTOCOLS: &[&str] =
    &["http", "https", "grpc", "kubernetes.io/h2c", "kubernetes.io/wss", "no.such/protocol", "redis"];
const EXTERNAL_NAMES: &[&str] =
    &["elsewhere.external.test", "no.such.name.test", "a", "mutant-1.bad-objects-mutants.svc.cluster.local", "test."];
const SECRET_TYPES: &[&str] = &["Opaque", "kubernetes.io/tls", "example.org/odd", "bootstrap.kubernetes.io/token"];

pub fn host(number: usize) -> String {
    format!("mutant-{number}.mutants.test")
}

fn name(number: usize) -> String {
    format!("mutant-{number}")
}

pub struct Mutants {
    rng: Rng,
    namespace: &'static str,
    class: &'static str,
    /// Good, expired, and for another name.
    identities: [Identity; 4],
}

impl Mutants {
    pub fn new(namespace: &'static str, class: &'static str, authority: &Authority) -> Self {
        let good = authority.leaf(&["*.mutants.test"]);
        let identities = [
            authority.rsa_leaf(&["mutants.test"]),
            authority.expired_leaf(&["*.mutants.test"]),
            authority.leaf(&["elsewhere.example"]),
            good,
        ];
        Self { rng: Rng::with_seed(SEED), namespace, class, identities }
    }

    /// Another one. The API server may well refuse it.
    pub fn next_one(&mut self) -> Value {
        let mut object = match self.rng.u8(..4) {
            0 => self.ingress(),
            1 => self.service(),
            2 => self.slice(),
            _ => self.secret(),
        };
        object["metadata"]["labels"][LABEL] = json!("yes");
        for _ in 0..self.rng.usize(..3) {
            self.change_anything(&mut object);
        }
        object
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.rng.usize(..all.len())]
    }

    fn number(&mut self) -> usize {
        self.rng.usize(..NAMES)
    }

    fn chance(&mut self, one_in: usize) -> bool {
        self.rng.usize(..one_in) == 0
    }

    fn odd_text(&mut self) -> String {
        match self.rng.u8(..8) {
            0 => "x".repeat(self.one_of(&[63, 253, 254, 1024, 70_000])),
            1 => repeat_with(|| self.rng.char(..)).take(20).collect(),
            2 => name(self.number()),
            _ => self.one_of(STRINGS).to_owned(),
        }
    }

    fn host(&mut self) -> String {
        match self.rng.u8(..8) {
            0 => format!("{}.mutants.test", vec!["a".repeat(60); 3].join(".")),
            1..4 => self.one_of(HOSTS).to_owned(),
            _ => host(self.number()),
        }
    }

    fn path(&mut self) -> Value {
        let path = match self.rng.u8(..12) {
            0 => format!("/{}", "a".repeat(self.one_of(&[1000, 8000, 100_000]))),
            1 => "/a".repeat(2000),
            2 => format!("/{}", self.odd_text()),
            _ => self.one_of(PATHS).to_owned(),
        };
        let kind = self.one_of(&["Exact", "Prefix", "ImplementationSpecific"]);
        let backend = self.backend();
        json!({ "path": path, "pathType": kind, "backend": backend })
    }

    fn backend(&mut self) -> Value {
        let port = match self.rng.u8(..4) {
            0 => json!({ "name": self.one_of(&["http", "other", "no-such", "x"]) }),
            _ => json!({ "number": self.one_of(&[80, 81, 443, 65_535]) }),
        };
        match self.rng.u8(..10) {
            0 => json!({ "resource": { "apiGroup": "example.org", "kind": "Bucket", "name": "static" } }),
            1 => json!({ "service": { "name": "app", "port": port } }),
            2 => json!({ "service": { "name": "no-such-service", "port": port } }),
            _ => json!({ "service": { "name": name(self.number()), "port": port } }),
        }
    }

    fn ingress(&mut self) -> Value {
        let number = self.number();
        let mut object = ingress(self.namespace, &name(number), self.class, &[]);
        let first = json!({ "path": "/", "pathType": "Prefix", "backend": {
            "service": { "name": name(number), "port": { "number": 80 } },
        } });
        let mut rules = vec![json!({ "host": host(number), "http": { "paths": [first] } })];
        for _ in 0..self.rng.usize(..4) {
            let paths: Vec<Value> = (0..self.rng.usize(1..6)).map(|_| self.path()).collect();
            rules.push(match self.rng.u8(..8) {
                0 => json!({ "host": self.host() }),
                1 => json!({ "http": { "paths": paths } }),
                _ => json!({ "host": self.host(), "http": { "paths": paths } }),
            });
        }
        if self.chance(4) {
            rules.push(rules[0].clone());
        }
        object["spec"]["rules"] = json!(rules);
        if self.chance(3) {
            object["spec"]["defaultBackend"] = self.backend();
        }
        if self.chance(2) {
            let hosts: Vec<String> = (0..self.rng.usize(..4)).map(|_| self.host()).collect();
            let secret = if self.chance(5) { self.odd_text() } else { name(self.number()) };
            object["spec"]["tls"] = json!([{ "hosts": hosts, "secretName": secret }, { "hosts": [host(number)] }, {}]);
        }
        if self.chance(4) {
            let key = self.one_of(ANNOTATIONS);
            object["metadata"]["annotations"] = json!({ key: self.odd_text() });
        }
        object
    }

    fn service(&mut self) -> Value {
        let port = |name: &str, number: i64| json!({ "name": name, "port": number, "targetPort": 8080 });
        let mut ports = vec![port("http", 80)];
        for extra in 0..self.rng.usize(..4) {
            let mut port = port(&format!("p-{extra}"), self.one_of(NUMBERS));
            port["protocol"] = json!(self.one_of(&["TCP", "TCP", "UDP", "SCTP"]));
            port["targetPort"] = match self.rng.u8(..3) {
                0 => json!(self.one_of(NUMBERS)),
                1 => json!(self.one_of(&["http", "no-such-port"])),
                _ => Value::Null,
            };
            ports.push(port);
        }
        if self.chance(3) {
            ports[0]["appProtocol"] = json!(self.one_of(APP_PROTOCOLS));
        }
        let mut spec = match self.rng.u8(..6) {
            0 => json!({ "type": "ExternalName", "externalName": self.one_of(EXTERNAL_NAMES) }),
            1 => json!({ "clusterIP": "None", "selector": { "app": "app" } }),
            2 => {
                json!({ "selector": { "app": "app" }, "publishNotReadyAddresses": true, "sessionAffinity": "ClientIP" })
            }
            3 => json!({ "type": "NodePort", "externalIPs": ["192.0.2.7"] }),
            _ => json!({}),
        };
        if !self.chance(8) {
            spec["ports"] = json!(ports);
        }
        let metadata = json!({ "namespace": self.namespace, "name": name(self.number()) });
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec })
    }

    fn slice(&mut self) -> Value {
        let kind = self.one_of(&["IPv4", "IPv4", "IPv6", "FQDN"]);
        let mut endpoints: Vec<Value> = (0..self.rng.usize(..5)).map(|_| self.endpoint(kind)).collect();
        if self.chance(12) {
            let many =
                |number: u16| json!({ "addresses": [format!("10.244.{}.{}", 100 + number / 250, number % 250)] });
            endpoints = (0..1000).map(many).collect();
        }
        if let Some(last) = endpoints.last().filter(|_| self.rng.u8(..3) == 0).cloned() {
            endpoints.push(last);
        }
        let number = self.number();
        let mut object = slice(self.namespace, &name(number), &json!(endpoints));
        object["metadata"]["name"] = json!(name(self.number()));
        object["addressType"] = json!(kind);
        object["ports"] = match self.rng.u8(..6) {
            0 => Value::Null,
            1 => json!([{ "name": "http" }]),
            2 => json!([{ "name": "", "port": 8080 }, { "name": "http", "port": self.one_of(NUMBERS) }]),
            3 => json!([{ "name": "other", "port": 8080, "protocol": "UDP" }]),
            _ => object["ports"].take(),
        };
        if self.chance(6) {
            object["metadata"]["labels"] = json!({});
        }
        object
    }

    fn endpoint(&mut self, kind: &str) -> Value {
        let addresses: &[&str] = match kind {
            "IPv4" => &["10.244.1.250", "192.0.2.1", "255.255.255.255", "10.96.0.10", "198.51.100.10"],
            "IPv6" => &["2001:db8::1", "fd00::1", "::ffff:192.0.2.1", "2001:DB8:0:0::1"],
            _ => &["elsewhere.external.test", "a.b", "no.such.name"],
        };
        let conditions = match self.rng.u8(..5) {
            0 => json!({ "ready": false, "serving": true, "terminating": true }),
            1 => json!({ "ready": false }),
            2 => json!({ "serving": false, "terminating": true }),
            _ => json!({}),
        };
        let mut endpoint = json!({ "addresses": [self.one_of(addresses)], "conditions": conditions });
        if self.chance(3) {
            endpoint["addresses"] = json!([self.one_of(addresses), self.one_of(addresses)]);
        }
        if self.chance(4) {
            endpoint["zone"] = json!(self.odd_text());
            endpoint["weight"] = json!(self.one_of(NUMBERS));
        }
        endpoint
    }

    fn secret(&mut self) -> Value {
        let number = self.number();
        let (certificate, key) = (self.rng.usize(..4), self.rng.usize(..4));
        let (mut certificate, mut key) =
            (self.identities[certificate].chain_pem.clone(), self.identities[key].key_pem.clone());
        match self.rng.u8(..8) {
            0 => certificate.truncate(certificate.len() / 2),
            1 => key = key.replace("PRIVATE", "PUBLIC"),
            2 => certificate = certificate.replace('M', "N"),
            3 => std::mem::swap(&mut certificate, &mut key),
            4 => certificate = certificate.repeat(self.one_of(&[2, 50, 500])),
            5 => key = self.odd_text(),
            6 => certificate.insert_str(0, "\u{feff}-----BEGIN NOTHING-----\n"),
            _ => {}
        }
        let mut object = tls_secret(self.namespace, &name(number), &certificate, &key);
        if self.chance(5) {
            object["type"] = json!(self.one_of(SECRET_TYPES));
        }
        if self.chance(8) {
            // No text at all.
            object["data"] = json!({ "tls.crt": "/////w==", "ca.crt": "AAAA" });
            object["stringData"].as_object_mut().expect("an object").remove("tls.crt");
        }
        object
    }

    /// Changes one value somewhere in the object: another of its type, none, or twice the same in a list.
    fn change_anything(&mut self, object: &mut Value) {
        let mut all = Vec::new();
        for part in ["spec", "endpoints", "ports", "addressType", "metadata/annotations", "stringData", "type"] {
            pointers(object, &format!("/{part}"), &mut all);
        }
        if all.is_empty() {
            return;
        }
        let pointer = all.swap_remove(self.rng.usize(..all.len()));
        let (parent, last) = pointer.rsplit_once('/').expect("a pointer");
        let inside = !parent.is_empty();
        match self.rng.u8(..6) {
            0 if inside => match object.pointer_mut(parent).expect("it is there") {
                Value::Object(fields) => drop(fields.remove(&last.replace("~1", "/"))),
                Value::Array(items) => drop(items.remove(last.parse().expect("an index"))),
                _ => {}
            },
            1 => {
                if let Some(Value::Array(items)) = object.pointer_mut(parent) {
                    let again = items[last.parse::<usize>().expect("an index")].clone();
                    let times = self.one_of(&[1, 1, 2, 50]);
                    items.extend(std::iter::repeat_n(again, times));
                }
            }
            _ => {
                let odd = match object.pointer(&pointer).expect("it is there") {
                    Value::Bool(value) => json!(!value),
                    Value::Number(_) => json!(self.one_of(NUMBERS)),
                    Value::String(_) if last == "host" => json!(self.host()),
                    Value::String(_) if last == "path" => self.path()["path"].take(),
                    Value::String(_) => json!(self.odd_text()),
                    Value::Null | Value::Array(_) | Value::Object(_) => return,
                };
                *object.pointer_mut(&pointer).expect("it is there") = odd;
            }
        }
    }
}

/// The pointers of all values from `at` on. Long lists are alike, so their first values stand for all.
fn pointers(object: &Value, at: &str, all: &mut Vec<String>) {
    let Some(value) = object.pointer(at) else { return };
    all.push(at.to_owned());
    match value {
        Value::Object(fields) => {
            for key in fields.keys() {
                pointers(object, &format!("{at}/{}", key.replace('/', "~1")), all);
            }
        }
        Value::Array(items) => {
            for index in 0..items.len().min(8) {
                pointers(object, &format!("{at}/{index}"), all);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
