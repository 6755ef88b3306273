//! Which requests go to the alternative of a rule: by a header, a cookie or a share, and in this order, as
//! ingress-nginx has it. The first that says something counts.

use http::{HeaderMap, HeaderName, header};
use serde::Serialize;

use super::{Pattern, text};

const ALWAYS: &[u8] = b"always";
const NEVER: &[u8] = b"never";

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Canary {
    pub header: Option<CanaryHeader>,
    /// A cookie that says `always` or `never`.
    pub cookie: Option<Box<str>>,
    /// Requests out of `total`; at least `total` are all.
    pub weight: u32,
    /// At least 1.
    pub total: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CanaryHeader {
    #[serde(serialize_with = "text::name")]
    pub name: HeaderName,
    pub value: CanaryValue,
}

/// What a header must say.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum CanaryValue {
    /// `always` or `never`.
    AlwaysOrNever,
    /// This, for the alternative; anything else says nothing.
    Exact(Box<str>),
    Pattern(Pattern),
}

impl Canary {
    /// Whether the request goes to the alternative; `random` is any number, new for each request.
    pub fn takes(&self, headers: &HeaderMap, random: u32) -> bool {
        let said = self.header.as_ref().and_then(|header| header.says(headers));
        said.or_else(|| self.cookie.as_ref().and_then(|name| always_or_never(cookie(headers, name)?)))
            .unwrap_or_else(|| random % self.total.max(1) < self.weight)
    }
}

impl CanaryHeader {
    fn says(&self, headers: &HeaderMap) -> Option<bool> {
        let value = headers.get(&self.name)?.as_bytes();
        match &self.value {
            CanaryValue::AlwaysOrNever => always_or_never(value),
            CanaryValue::Exact(exact) => (value == exact.as_bytes()).then_some(true),
            CanaryValue::Pattern(pattern) => pattern.regex().is_match(value).then_some(true),
        }
    }
}

fn always_or_never(value: &[u8]) -> Option<bool> {
    match value {
        ALWAYS => Some(true),
        NEVER => Some(false),
        _ => None,
    }
}

/// The value of the first cookie of this name.
pub(super) fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h [u8]> {
    let pairs = headers.get_all(header::COOKIE).iter().flat_map(|field| field.as_bytes().split(|byte| *byte == b';'));
    pairs.into_iter().find_map(|pair| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(canary: &Canary, fields: &[(&'static str, &str)], random: u32) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        canary.takes(&headers, random)
    }

    fn by_header(value: CanaryValue) -> CanaryHeader {
        CanaryHeader { name: HeaderName::from_static("x-canary"), value }
    }

    /// Fields of a request, and where it goes with a low and with a high number.
    type Row<'a> = (&'a [(&'static str, &'a str)], bool, bool);

    #[test]
    fn header_goes_before_cookie_and_cookie_before_weight() {
        let cookie = Some("canary".into());
        let all = Canary { header: Some(by_header(CanaryValue::AlwaysOrNever)), cookie, weight: 50, total: 100 };
        let table: [Row; 9] = [
            (&[], true, false),
            (&[("x-canary", "always")], true, true),
            (&[("x-canary", "never")], false, false),
            (&[("x-canary", "Always")], true, false),
            (&[("x-canary", "never"), ("cookie", "canary=always")], false, false),
            (&[("x-canary", "maybe"), ("cookie", "a=b; canary=always")], true, true),
            (&[("cookie", "canary=never")], false, false),
            (&[("cookie", "xcanary=never; canary =never; canary=")], true, false),
            (&[("cookie", "canary=always; canary=never")], true, true),
        ];
        for (fields, low, high) in table {
            assert_eq!((takes(&all, fields, 49), takes(&all, fields, 50)), (low, high), "{fields:?}");
        }
    }

    #[test]
    fn another_value_than_the_one_asked_for_says_nothing() {
        let exact =
            Canary { header: Some(by_header(CanaryValue::Exact("blue".into()))), cookie: None, weight: 0, total: 100 };
        let pattern = CanaryValue::Pattern(Pattern::new("^(blue|green)$").unwrap());
        let pattern = Canary { header: Some(by_header(pattern)), ..exact.clone() };
        for (value, by_exact, by_pattern) in
            [("blue", true, true), ("green", false, true), ("always", false, false), ("blues", false, false)]
        {
            let fields = [("x-canary", value)];
            assert_eq!((takes(&exact, &fields, 0), takes(&pattern, &fields, 0)), (by_exact, by_pattern), "{value}");
        }
        let all = Canary { weight: 200, ..exact };
        assert!((0..100).all(|random| takes(&all, &[], random)));
    }
}
