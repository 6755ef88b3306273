//! Another path for the endpoint, made of what the rule's pattern found in the request's: nginx's
//! `rewrite "(?i)<path>" <target> break`. The whole path is replaced and the query stays. Who runs the filters checks
//! the outcome again, as what a pattern found may mean something else in its new place.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use serde::{Serialize, Serializer};

use super::{PathPattern, Request};

const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
/// Longest template, in bytes: a path is hardly longer.
const TEMPLATE_BYTES_MAX: usize = 1024;
/// Longest path that a template makes, in bytes: it may name one long capture many times. No URI is longer (`http`).
const PATH_BYTES_MAX: usize = u16::MAX as usize - 1;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rewrite {
    /// The rule's path.
    pub pattern: Arc<PathPattern>,
    pub target: Captures,
    /// `X-Forwarded-Prefix` for the endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<Captures>,
}

/// Text with captures, `$1` to `$9`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captures(Arc<[Part]>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Capture(usize),
}

impl Captures {
    /// Reads a text in which a dollar sign stands before a digit from 1 on, and nowhere else.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > TEMPLATE_BYTES_MAX {
            return None;
        }
        let mut pieces = text.split('$');
        let mut parts = vec![Part::Text(pieces.next().unwrap_or_default().into())];
        for piece in pieces {
            let number = piece.bytes().next().filter(|byte| (b'1'..=b'9').contains(byte))?;
            parts.push(Part::Capture(usize::from(number - b'0')));
            parts.push(Part::Text(piece[1..].into()));
        }
        parts.retain(|part| *part != Part::Text("".into()));
        Some(Self(parts.into()))
    }

    /// The greatest number of a capture; 0 without any.
    pub fn captures(&self) -> usize {
        let numbers = self.0.iter().map(|part| match part {
            Part::Text(_) => 0,
            Part::Capture(number) => *number,
        });
        numbers.max().unwrap_or_default()
    }

    /// The text with this in place of each capture; `None` if it is longer than any path.
    fn expand<'a>(&'a self, capture: impl Fn(usize) -> &'a str) -> Option<String> {
        let mut out = String::new();
        for part in &*self.0 {
            out += match part {
                Part::Text(text) => text,
                Part::Capture(number) => capture(*number),
            };
            if out.len() > PATH_BYTES_MAX {
                return None;
            }
        }
        Some(out)
    }
}

impl Serialize for Captures {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = |part: &Part| match part {
            Part::Text(text) => text.to_string(),
            Part::Capture(number) => format!("${number}"),
        };
        self.0.iter().map(text).collect::<String>().serialize(serializer)
    }
}

impl Rewrite {
    pub(super) fn apply(&self, request: &mut Request) {
        let needs = self.target.captures() > 0 || self.prefix.as_ref().is_some_and(|prefix| prefix.captures() > 0);
        let found = needs.then(|| self.pattern.capture(request.path));
        let capture = |number| found.as_ref().map_or("", |found| found(number));
        if let Some(prefix) = self.prefix.as_ref().and_then(|prefix| prefix.expand(capture))
            && let Ok(value) = HeaderValue::try_from(prefix)
            && !value.is_empty()
        {
            request.head.headers.insert(X_FORWARDED_PREFIX, value);
        }
        // What is too long is no path, and is refused as such.
        request.rewritten = Some(self.target.expand(capture).map_or_else(String::new, one_slash));
    }
}

/// A path begins with a slash, and not with two, behind which some would read a host (RFC 3986, 3.3).
fn one_slash(path: String) -> String {
    let rest = path.trim_start_matches('/');
    if path.len() == rest.len() + 1 { path } else { format!("/{rest}") }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn rewrite(pattern: &str, target: &str, prefix: Option<&str>, path: &str) -> (String, Option<String>) {
        let template = |text| Captures::parse(text).unwrap();
        let rewrite = Rewrite {
            pattern: Arc::new(PathPattern::new(pattern).unwrap()),
            target: template(target),
            prefix: prefix.map(template),
        };
        let (mut head, ()) = http::Request::new(()).into_parts();
        let mut request = Request {
            head: &mut head,
            host: "a.example",
            authority: &HeaderValue::from_static("a.example"),
            path,
            https: false,
            client: Ipv4Addr::LOCALHOST.into(),
            upstream_host: None,
            rewritten: None,
        };
        rewrite.apply(&mut request);
        let rewritten = request.rewritten.unwrap();
        (rewritten, head.headers.get(X_FORWARDED_PREFIX).map(|value| value.to_str().unwrap().to_owned()))
    }

    #[test]
    fn the_whole_path_is_replaced_by_what_was_found() {
        let table = [
            ("/foo(/|$)(.*)", "/$2", "/foo/bar/baz", "/bar/baz"),
            ("/foo(/|$)(.*)", "/$2", "/FOO", "/"),
            ("/foo(/|$)(.*)", "/x/$2/y", "/foo/bar", "/x/bar/y"),
            ("/(a)(b)", "/$2$1", "/ABcd", "/BA"),
            // Plain text, and what there is no capture for.
            ("/foo", "/", "/foo/bar", "/"),
            ("/foo", "/$1", "/foo/bar", "/"),
            ("/foo/(.*)", "/a/$10", "/foo/b", "/a/b0"),
            ("/(x)?foo", "/$1/a", "/foo", "/a"),
            // One slash, whatever was found.
            ("/api(.*)", "/$1", "/api/users", "/users"),
            ("/api(.*)", "$1", "/api/users", "/users"),
            ("/api/(.*)", "$1", "/api/users", "/users"),
            ("/api/(.*)", "/a//$1", "/api/users", "/a//users"),
        ];
        for (pattern, target, path, expected) in table {
            assert_eq!(rewrite(pattern, target, None, path).0, expected, "{pattern} {target} {path}");
        }
    }

    #[test]
    fn the_prefix_is_told_with_captures_too() {
        assert_eq!(rewrite("/(a)/(.*)", "/$2", Some("/$1"), "/a/b").1.as_deref(), Some("/a"));
        assert_eq!(rewrite("/(a)/(.*)", "/x", Some("/p"), "/a/b").1.as_deref(), Some("/p"));
        assert_eq!(rewrite("/(a)?b", "/x", Some("$1"), "/b").1, None);
    }

    #[test]
    fn what_gets_too_long_is_no_path() {
        let long = format!("/{}", "a".repeat(8000));
        assert_eq!(rewrite("/(.*)", &"/$1".repeat(300), None, &long).0, "");
        assert_eq!(Captures::parse(&"a".repeat(TEMPLATE_BYTES_MAX + 1)), None);
    }

    #[test]
    fn a_dollar_sign_stands_before_a_capture() {
        for text in ["$", "$0", "$a", "$host", "a$$1", "/$1$", "${1}"] {
            assert_eq!(Captures::parse(text), None, "{text}");
        }
        assert_eq!(Captures::parse("/$1/$9a").unwrap().captures(), 9);
        assert_eq!(Captures::parse("").unwrap().captures(), 0);
    }
}
