//! Builders that write manifests as YAML, in the words of the Kubernetes API.

use std::fmt::{self, Display, Formatter, Write};
use std::net::SocketAddr;

use super::services::{Service, Slice};

/// Joins documents into one file.
pub fn documents(documents: &[&dyn Display]) -> String {
    documents.iter().flat_map(|document| ["---\n".to_owned(), document.to_string()]).collect()
}

/// A Service `name` with port 80 and one EndpointSlice for each address.
pub fn app(namespace: &str, name: &str, addresses: &[SocketAddr]) -> String {
    app_with(namespace, name, addresses, "")
}

/// Like `app`, with an `appProtocol` where it isn't empty.
pub fn app_with(namespace: &str, name: &str, addresses: &[SocketAddr], protocol: &str) -> String {
    let mut service = Service::new(namespace, name).port("", 80, "8080");
    if !protocol.is_empty() {
        service = service.app_protocol(protocol);
    }
    let slices = addresses.iter().enumerate().map(|(index, address)| {
        let slice = Slice::new(namespace, name, &format!("{name}-{index}"));
        format!("---\n{}", slice.port("", address.port()).ready(&address.ip().to_string()))
    });
    format!("---\n{service}{}", slices.collect::<String>())
}

/// A JSON string is a YAML string, whatever is in it.
pub fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a string")
}

pub fn metadata(out: &mut Formatter<'_>, api: &str, kind: &str, ns: &str, name: &str) -> fmt::Result {
    writeln!(out, "apiVersion: {api}\nkind: {kind}\nmetadata:\n  name: {}", quoted(name))?;
    writeln!(out, "  namespace: {}", quoted(ns))
}

fn port_reference(port: &str) -> String {
    match port.parse::<u16>() {
        Ok(number) => format!("{{number: {number}}}"),
        Err(_) => format!("{{name: {}}}", quoted(port)),
    }
}

/// An Ingress. Paths belong to the host named last, or to no host.
#[derive(Clone, Default)]
pub struct Ingress {
    namespace: String,
    name: String,
    created: Option<String>,
    class: Option<String>,
    annotations: String,
    default: Option<(String, String)>,
    rules: Vec<(String, String)>,
    tls: String,
}

impl Ingress {
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into(), ..Self::default() }
    }

    pub fn created(mut self, time: &str) -> Self {
        self.created = Some(time.into());
        self
    }

    pub fn class(mut self, class: &str) -> Self {
        self.class = Some(class.into());
        self
    }

    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        let _ = writeln!(self.annotations, "    {}: {}", quoted(key), quoted(value));
        self
    }

    /// ingress-nginx's annotations, without their prefix.
    pub fn asks(self, keys: &[(&str, &str)]) -> Self {
        let prefix = "nginx.ingress.kubernetes.io";
        keys.iter().fold(self, |ingress, (key, value)| ingress.annotation(&format!("{prefix}/{key}"), value))
    }

    pub fn default_backend(mut self, service: &str, port: impl ToString) -> Self {
        self.default = Some((service.into(), port.to_string()));
        self
    }

    /// Begins the rule of a host; the empty one is a rule for all hosts.
    pub fn host(mut self, host: &str) -> Self {
        self.rules.push((host.into(), String::new()));
        self
    }

    pub fn path(mut self, kind: &str, path: &str, service: &str, port: impl ToString) -> Self {
        if self.rules.is_empty() {
            self = self.host("");
        }
        let port = port_reference(&port.to_string());
        let rule = self.rules.last_mut().expect("a rule");
        let _ = writeln!(rule.1, "      - path: {}\n        pathType: {kind}", quoted(path));
        let _ = writeln!(rule.1, "        backend: {{service: {{name: {service}, port: {port}}}}}");
        self
    }

    pub fn prefix(self, path: &str, service: &str, port: impl ToString) -> Self {
        self.path("Prefix", path, service, port)
    }

    pub fn exact(self, path: &str, service: &str, port: impl ToString) -> Self {
        self.path("Exact", path, service, port)
    }

    pub fn tls(mut self, hosts: &[&str], secret: &str) -> Self {
        let hosts: Vec<String> = hosts.iter().map(|host| quoted(host)).collect();
        let _ = writeln!(self.tls, "  - hosts: [{}]\n    secretName: {secret}", hosts.join(", "));
        self
    }
}

impl Display for Ingress {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        metadata(out, "networking.k8s.io/v1", "Ingress", &self.namespace, &self.name)?;
        if let Some(created) = &self.created {
            writeln!(out, "  creationTimestamp: {}", quoted(created))?;
        }
        if !self.annotations.is_empty() {
            write!(out, "  annotations:\n{}", self.annotations)?;
        }
        out.write_str("spec:\n")?;
        if let Some(class) = &self.class {
            writeln!(out, "  ingressClassName: {}", quoted(class))?;
        }
        if let Some((service, port)) = &self.default {
            let port = port_reference(port);
            writeln!(out, "  defaultBackend: {{service: {{name: {service}, port: {port}}}}}")?;
        }
        if !self.tls.is_empty() {
            write!(out, "  tls:\n{}", self.tls)?;
        }
        if !self.rules.is_empty() {
            out.write_str("  rules:\n")?;
        }
        for (host, paths) in &self.rules {
            match host.as_str() {
                "" => out.write_str("  - http:\n")?,
                host => writeln!(out, "  - host: {}\n    http:", quoted(host))?,
            }
            write!(out, "      paths:\n{paths}")?;
        }
        Ok(())
    }
}

/// An IngressClass, the cluster's default one or not.
pub fn ingress_class(name: &str, controller: &str, default: bool) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata:\n  name: {name}\n  annotations:\n    \
         ingressclass.kubernetes.io/is-default-class: \"{default}\"\nspec:\n  controller: {controller}\n"
    )
}

/// A Secret of type `kubernetes.io/tls`.
pub fn tls_secret(namespace: &str, name: &str, certificate: &str, key: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: {name}\n  namespace: {namespace}\n\
         type: kubernetes.io/tls\ndata:\n  tls.crt: {}\n  tls.key: {}\n",
        base64(certificate.as_bytes()),
        base64(key.as_bytes()),
    )
}

/// A Secret of any type, with these files.
pub fn secret(namespace: &str, name: &str, files: &[(&str, &str)]) -> String {
    let begin = format!("apiVersion: v1\nkind: Secret\nmetadata:\n  name: {name}\n  namespace: {namespace}\ndata:\n");
    let lines = files.iter().map(|(file, text)| format!("  {file}: {}\n", base64(text.as_bytes())));
    lines.fold(begin, |all, line| all + &line)
}

pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for index in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * index)) as usize & 63];
            text.push(if index <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}
