//! Who may read a route's answers in a browser (Fetch standard, "CORS protocol"). Preflights are answered here; every
//! other answer says the same, also one that tells of a failure, as a browser would not show it otherwise.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use serde::Serialize;

use super::{Answer, text};

const ORIGIN: HeaderValue = HeaderValue::from_static("origin");
const ANY: HeaderValue = HeaderValue::from_static("*");
const TRUE: HeaderValue = HeaderValue::from_static("true");

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cors {
    pub origins: Origins,
    pub credentials: bool,
    /// `Access-Control-Allow-Methods`, `-Allow-Headers`, `-Max-Age` and, if there is any, `-Expose-Headers`.
    #[serde(serialize_with = "text::fields")]
    pub fields: Vec<(HeaderName, HeaderValue)>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum Origins {
    /// Whoever asks.
    Any,
    Some(Arc<[Origin]>),
}

/// An origin that may ask.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum Origin {
    Exact(Box<str>),
    /// One label between the two: `https://*.verona.example`.
    OneLabel(Box<str>, Box<str>),
}

impl Origin {
    /// Reads `scheme://host`, `scheme://host:port` or `null`, where the host may begin with `*.`; `None` if it is
    /// none of them.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "null" {
            return Some(Self::Exact(text.into()));
        }
        let (scheme, rest) = text.split_once("://")?;
        let host_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        let (wild, host) = rest.strip_prefix('*').map_or((false, rest), |host| (true, host));
        let (name, port) = host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
        let valid = !scheme.is_empty()
            && scheme.bytes().all(|byte| byte.is_ascii_lowercase())
            && !name.is_empty()
            && name.bytes().all(host_byte)
            && name.starts_with('.') == wild
            && port.is_none_or(|port| port.parse::<u16>().is_ok());
        let exact = || Self::Exact(text.into());
        valid.then(|| if wild { Self::OneLabel(format!("{scheme}://").into(), host.into()) } else { exact() })
    }

    fn matches(&self, origin: &str) -> bool {
        match self {
            Self::Exact(known) => known.eq_ignore_ascii_case(origin),
            Self::OneLabel(scheme, rest) => {
                let (Some(begin), Some(at)) = (origin.get(..scheme.len()), origin.len().checked_sub(rest.len())) else {
                    return false;
                };
                let label = origin.get(scheme.len()..at).unwrap_or_default();
                begin.eq_ignore_ascii_case(scheme)
                    && origin.get(at..).is_some_and(|end| end.eq_ignore_ascii_case(rest))
                    && !label.is_empty()
                    && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            }
        }
    }
}

impl Cors {
    /// The answer to a preflight of an origin that may ask.
    pub(super) fn preflight(&self, method: &Method, headers: &HeaderMap) -> Option<Answer> {
        if *method != Method::OPTIONS {
            return None;
        }
        self.allowed(headers.get(header::ORIGIN))?;
        Some(Answer { status: StatusCode::NO_CONTENT, headers: Vec::new(), text: "", reason: "preflight" })
    }

    /// Says on an answer who may read it; what the endpoint says of it doesn't count.
    pub(super) fn response(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        if let Origins::Some(_) = self.origins {
            // Else a cache would give one origin what another may read (Fetch, "CORS protocol and HTTP caches").
            headers.append(header::VARY, ORIGIN);
        }
        headers.remove(header::ACCESS_CONTROL_ALLOW_ORIGIN);
        headers.remove(header::ACCESS_CONTROL_ALLOW_CREDENTIALS);
        let Some(allowed) = self.allowed(origin) else { return };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        if self.credentials {
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        }
        for (name, value) in &self.fields {
            headers.insert(name.clone(), value.clone());
        }
    }

    /// `Access-Control-Allow-Origin` for who asks.
    fn allowed(&self, origin: Option<&HeaderValue>) -> Option<HeaderValue> {
        match &self.origins {
            Origins::Any => Some(ANY),
            Origins::Some(all) => {
                let origin = origin?;
                let text = origin.to_str().ok()?;
                all.iter().any(|known| known.matches(text)).then(|| origin.clone())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_whole_and_a_star_is_one_label() {
        let table = [
            ("https://verona.example", "https://verona.example", true),
            ("https://verona.example", "HTTPS://Verona.example", true),
            ("https://verona.example", "http://verona.example", false),
            ("https://verona.example", "https://verona.example:8443", false),
            ("https://verona.example", "evilhttps://verona.example", false),
            ("https://verona.example", "https://a.verona.example", false),
            ("https://*.verona.example", "https://a.verona.example", true),
            ("https://*.verona.example", "https://a.b.verona.example", false),
            ("https://*.verona.example", "https://.verona.example", false),
            ("https://*.verona.example", "https://verona.example", false),
            ("https://*.verona.example", "https://evil.example/a.verona.example", false),
            ("https://*.verona.example:8443", "https://a.verona.example:8443", true),
            ("https://*.verona.example:8443", "https://a.verona.example", false),
            ("null", "null", true),
            ("https://*.verona.example", "é", false),
        ];
        for (known, origin, expected) in table {
            assert_eq!(Origin::parse(known).unwrap().matches(origin), expected, "{known} {origin}");
        }
    }

    #[test]
    fn whom_the_endpoint_lets_in_does_not_count() {
        let some = Origins::Some(Arc::new([Origin::parse("https://a.example").unwrap()]));
        for (origins, origin, expected) in
            [(some.clone(), "https://a.example", Some("https://a.example")), (some, "https://b.example", None)]
        {
            let cors = Cors { origins, credentials: false, fields: Vec::new() };
            let mut headers = HeaderMap::new();
            for value in ["https://b.example", "*"] {
                headers.append(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static(value));
            }
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
            cors.response(Some(&HeaderValue::from_static(origin)), &mut headers);
            let said = headers.get_all(header::ACCESS_CONTROL_ALLOW_ORIGIN).iter().collect::<Vec<_>>();
            assert_eq!(said, expected.into_iter().collect::<Vec<_>>());
            assert_eq!(headers.get(header::ACCESS_CONTROL_ALLOW_CREDENTIALS), None);
        }
    }

    #[test]
    fn what_is_no_origin_is_not_read() {
        for text in [
            "",
            "*",
            "verona.example",
            "https://",
            "https://*",
            "https://*verona.example",
            "https://a.*.example",
            "https://a.example/",
            "https://a.example:",
            "https://a.example:99999",
            "https://a b",
            "Https://a.example",
        ] {
            assert_eq!(Origin::parse(text), None, "{text}");
        }
    }
}
