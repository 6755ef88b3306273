//! Texts with nginx's variables in them, which a request fills in: `$remote_addr`, `${request_uri}`. Parsed once;
//! what is no variable that is known here is refused then.

use std::fmt::Write;

use http::HeaderName;
use serde::{Serialize, Serializer};

use super::Request;
use super::canary::cookie;

/// Most parts of one text.
const PARTS_MAX: usize = 32;

/// The variables that are known, as a Problem names them.
pub const VARIABLES: &str = "$request_uri, $uri, $args, $arg_NAME, $host, $http_NAME, $cookie_NAME, $remote_addr, \
                             $binary_remote_addr, $request_method or $scheme";

/// A text with variables.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    text: Box<str>,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Text(Box<str>),
    Variable(Variable),
}

#[derive(Debug, Clone, PartialEq)]
enum Variable {
    RequestUri,
    Uri,
    Args,
    Arg(Box<str>),
    Host,
    Http(HeaderName),
    Cookie(Box<str>),
    RemoteAddr,
    RequestMethod,
    Scheme,
}

impl Template {
    /// Reads a text; what can't be read is returned.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            let (before, variable) = (&rest[..at], &rest[at + 1..]);
            if !before.is_empty() {
                parts.push(Part::Text(before.into()));
            }
            let end = |text: &str| text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
            let (name, after) = match variable.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
                Some((name, after)) => (name, after),
                None => variable.split_at(end(variable)),
            };
            parts.push(Part::Variable(Variable::parse(name).ok_or_else(|| format!("${name}"))?));
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.into()));
        }
        if parts.is_empty() || parts.len() > PARTS_MAX {
            return Err(text.to_owned());
        }
        Ok(Self { text: text.into(), parts })
    }

    /// The text as the request fills it in; what the request doesn't have is empty. Bytes, as fields may have any.
    pub fn fill(&self, request: &Request) -> Vec<u8> {
        let mut filled = Vec::with_capacity(64);
        for part in &self.parts {
            match part {
                Part::Text(text) => filled.extend_from_slice(text.as_bytes()),
                Part::Variable(variable) => variable.fill(request, &mut filled),
            }
        }
        filled
    }
}

impl Variable {
    fn parse(name: &str) -> Option<Self> {
        if let Some(name) = name.strip_prefix("arg_") {
            return (!name.is_empty()).then(|| Self::Arg(name.into()));
        }
        if let Some(name) = name.strip_prefix("cookie_") {
            return (!name.is_empty()).then(|| Self::Cookie(name.into()));
        }
        Some(match name {
            "request_uri" => Self::RequestUri,
            "uri" | "document_uri" => Self::Uri,
            "args" | "query_string" => Self::Args,
            "host" => Self::Host,
            "remote_addr" | "binary_remote_addr" | "realip_remote_addr" => Self::RemoteAddr,
            "request_method" => Self::RequestMethod,
            "scheme" => Self::Scheme,
            name => Self::Http(HeaderName::try_from(name.strip_prefix("http_")?.replace('_', "-")).ok()?),
        })
    }

    fn fill(&self, request: &Request, filled: &mut Vec<u8>) {
        let query = || request.head.uri.query().unwrap_or_default();
        let value = match self {
            Self::RequestUri => request.head.uri.path_and_query().map_or("/", |target| target.as_str()).as_bytes(),
            Self::Uri => request.path.as_bytes(),
            Self::Args => query().as_bytes(),
            Self::Arg(name) => {
                let pairs = query().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
                let mut named = pairs.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
                named.next().unwrap_or_default().as_bytes()
            }
            Self::Host => request.host.as_bytes(),
            Self::Http(name) => request.head.headers.get(name).map_or(&[][..], |value| value.as_bytes()),
            Self::Cookie(name) => cookie(&request.head.headers, name).unwrap_or_default(),
            Self::RemoteAddr => {
                let mut text = String::new();
                write!(text, "{}", request.client).expect("a String takes all");
                return filled.extend_from_slice(text.as_bytes());
            }
            Self::RequestMethod => request.head.method.as_str().as_bytes(),
            Self::Scheme => if request.https { "https" } else { "http" }.as_bytes(),
        };
        filled.extend_from_slice(value);
    }
}

impl Serialize for Template {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.text.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_variable_is_filled_in() {
        let request = http::Request::builder()
            .method("PURGE")
            .uri("/a/b?x=1&Y=2&z")
            .header("x-user-id", "u7")
            .header("cookie", "a=b; session=s1")
            .body(())
            .unwrap();
        let (mut head, ()) = request.into_parts();
        let authority = http::HeaderValue::from_static("Verona.example:8080");
        let request = Request {
            head: &mut head,
            host: "verona.example",
            authority: &authority,
            path: "/a/b",
            https: true,
            client: "2001:db8::1".parse().unwrap(),
            upstream_host: None,
            rewritten: None,
        };
        for (text, filled) in [
            ("$request_uri", "/a/b?x=1&Y=2&z"),
            ("$uri", "/a/b"),
            ("$args", "x=1&Y=2&z"),
            ("$arg_x$arg_y$arg_z$arg_none", "12"),
            ("${host}-$scheme", "verona.example-https"),
            ("$http_x_user_id", "u7"),
            ("$cookie_session/$cookie_none", "s1/"),
            ("$remote_addr,$binary_remote_addr", "2001:db8::1,2001:db8::1"),
            ("$request_method", "PURGE"),
            ("text alone", "text alone"),
        ] {
            assert_eq!(String::from_utf8(Template::parse(text).unwrap().fill(&request)).unwrap(), filled, "{text}");
        }
        for text in ["", "$", "$unknown", "${request_uri", "$arg_", "$http_", "a${}b", &"$uri,".repeat(33)] {
            assert!(Template::parse(text).is_err(), "{text}");
        }
    }
}
