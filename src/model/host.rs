//! Host names as rules and TLS blocks write them: exact, `*.x` for exactly one label, or none for all.
//! Names are kept in lower case, without a trailing dot, as A-labels (RFC 5890).

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::{ClientCertificates, ObjectName, Rule};

/// Longest name that DNS can carry, in bytes (RFC 1035, 2.3.4).
const NAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

/// A host of a rule. The order, exact before wildcard before any, is the order of precedence. Cheap to clone: a host
/// is named in many places.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// `verona.example`
    Exact(Arc<str>),
    /// `*.verona.example`, kept as `verona.example`; one label stands for the star, no more and no less.
    Wildcard(Arc<str>),
    /// A rule without a host.
    Any,
}

/// Why a text is no host of a rule, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidHost {
    pub what: String,
    pub fix: String,
}

/// Everything that is asked of one host.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Host {
    pub pattern: HostPattern,
    /// Oldest Ingress first; no two rules have the same match.
    pub rules: Vec<Arc<Rule>>,
    /// The Secret whose certificate is served for this name; `None` is the default certificate.
    pub certificate: Option<ObjectName>,
    /// What is asked of clients' certificates; `None` asks for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificates: Option<Arc<ClientCertificates>>,
}

impl HostPattern {
    /// Reads the `host` of an Ingress rule; an absent or empty one is all hosts.
    pub fn parse(text: &str) -> Result<Self, InvalidHost> {
        if text.is_empty() {
            return Ok(Self::Any);
        }
        let (wildcard, name) = match text.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let name = canonical(name, text)?;
        Ok(if wildcard { Self::Wildcard(name) } else { Self::Exact(name) })
    }
}

fn canonical(name: &str, text: &str) -> Result<Arc<str>, InvalidHost> {
    if !name.is_ascii() {
        let fix = match idna::domain_to_ascii(name) {
            Ok(ascii) => format!("write its A-label form `{}`", text.replace(name, &ascii)),
            Err(_) => "write it as A-labels (xn--…)".to_owned(),
        };
        return Err(InvalidHost { what: format!("host `{text}` is not ASCII"), fix });
    }
    let lower = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let invalid =
        |what: &str, fix: &str| Err(InvalidHost { what: format!("host `{text}` {what}"), fix: fix.to_owned() });
    if lower.contains('*') {
        return invalid("has a star elsewhere than as its whole first label", "write `*.` and the rest of the name");
    }
    if lower.parse::<std::net::IpAddr>().is_ok() || lower.contains(':') {
        return invalid("is an address or has a port", "write a DNS name; leave the host out to match all hosts");
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= LABEL_BYTES_MAX
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if lower.len() > NAME_BYTES_MAX || !lower.split('.').all(label) {
        return invalid("is not a DNS name", "use letters, digits and hyphens in labels of 1 to 63, joined by dots");
    }
    Ok(lower.into())
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(rest) => write!(f, "*.{rest}"),
            Self::Any => f.write_str("*"),
        }
    }
}

impl Serialize for HostPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_canonical_names() {
        let exact = |name: &str| Ok(HostPattern::Exact(name.into()));
        assert_eq!(HostPattern::parse("Verona.Example."), exact("verona.example"));
        assert_eq!(HostPattern::parse("xn--bcher-kva.example"), exact("xn--bcher-kva.example"));
        assert_eq!(HostPattern::parse("*.Verona.example"), Ok(HostPattern::Wildcard("verona.example".into())));
        assert_eq!(HostPattern::parse(""), Ok(HostPattern::Any));
    }

    #[test]
    fn what_is_no_name_is_refused_with_a_fix() {
        for text in ["*", "a.*.b", "*a.b", "1.2.3.4", "::1", "a:80", "a..b", ".", "-a.b", "a b", "*.", "a/b"] {
            assert!(HostPattern::parse(text).is_err(), "{text}");
        }
        let long = format!("{}.example", "a".repeat(64));
        assert!(HostPattern::parse(&long).is_err());
        let error = HostPattern::parse("*.bücher.example").unwrap_err();
        assert_eq!(error.fix, "write its A-label form `*.xn--bcher-kva.example`");
    }
}
