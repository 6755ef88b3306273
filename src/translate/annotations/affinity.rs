//! Session affinity by a cookie. `affinity-mode` is read and decides nothing: no session leaves an endpoint that
//! serves, whichever it is.

use super::{Annotation, Values, open};
use crate::model::{Affinity, PathKind, PathMatch, SameSite};

/// Longest name, path or domain, in bytes: they go to each client.
const TEXT_BYTES_MAX: usize = 1024;

#[rustfmt::skip]
pub(super) const ANNOTATIONS: &[Annotation] = &[
        open("affinity", "`cookie`", "", "a session stays with the endpoint that first answered it, by a cookie").example("cookie"),
        open("affinity-mode", "`balanced`, `persistent`", "balanced", "both mean: no session leaves an endpoint that serves. ingress-nginx moves some under `balanced` when a Service grows").example("persistent"),
        open("session-cookie-name", "name", "INGRESSCOOKIE", "name of the cookie").example("route"),
        open("session-cookie-path", "path", "the rule's path", "its `Path`: where browsers send it").example("/shop"),
        open("session-cookie-domain", "host", "", "its `Domain`: which hosts browsers send it to").example("verona.example"),
        open("session-cookie-max-age", "seconds", "", "its `Max-Age`; without one it ends with the browser's session").example("3600"),
        open("session-cookie-expires", "seconds", "", "the same as a date, `Expires`").example("3600"),
        open("session-cookie-samesite", "`None`, `Lax`, `Strict`", "", "its `SameSite`").example("Lax"),
        open("session-cookie-conditional-samesite-none", "bool", "false", "no `SameSite=None` for browsers that misread it").example("true"),
        open("session-cookie-secure", "bool", "false", "`Secure` also where TLS ends before Portunus; over TLS it always is").example("true"),
        open("session-cookie-change-on-failure", "bool", "false", "when the endpoint can't be reached the session moves to the one that answers, instead of coming back").example("true"),
];

/// What an Ingress says of its sessions.
#[derive(Debug)]
pub(in crate::translate) struct Sessions {
    affinity: Affinity,
    /// The cookie's path is that of each rule.
    by_rule: bool,
}

impl Sessions {
    /// Whether each rule has a cookie of its own path.
    pub(in crate::translate) fn by_rule(&self) -> bool {
        self.by_rule
    }

    /// The affinity of a rule with this path.
    pub(in crate::translate) fn of(&self, path: Option<&PathMatch>) -> Affinity {
        let mut affinity = self.affinity.clone();
        if self.by_rule {
            // Browsers compare paths, and know no regular expressions.
            let plain = path.filter(|path| path.kind != PathKind::Regex);
            affinity.path = cookie_path(plain.map_or("/", |path| &path.value)).into();
        }
        affinity
    }
}

/// What is asked for, if it is.
pub(super) fn read(values: &mut Values) -> Option<Sessions> {
    let wanted = values.get("affinity", "write cookie", |text| (text == "cookie").then_some(()));
    let [_, attributes @ ..] = ANNOTATIONS else { return None };
    if wanted.is_none() {
        values.without_effect(attributes, "affinity: cookie");
        return None;
    }
    let modes = ["balanced", "persistent"];
    values.get("affinity-mode", "write balanced or persistent", |text| modes.contains(&text).then_some(()));
    let token = "write letters, digits and !#$%&'*+-.^_`|~";
    let name = values.get("session-cookie-name", token, |text| is_token(text).then_some(text));
    let path = values.get("session-cookie-path", "write a path, as /shop", |text| is_path(text).then_some(text));
    let domain = values.get("session-cookie-domain", "write a host name", |text| is_domain(text).then_some(text));
    let affinity = Affinity {
        cookie: name.unwrap_or("INGRESSCOOKIE").into(),
        path: path.unwrap_or("/").into(),
        domain: domain.map(Into::into),
        max_age: seconds(values, "session-cookie-max-age"),
        expires: seconds(values, "session-cookie-expires"),
        secure: values.switch("session-cookie-secure"),
        same_site: values.get("session-cookie-samesite", "write None, Lax or Strict", same_site),
        conditional_none: values.switch("session-cookie-conditional-samesite-none"),
        change_on_failure: values.switch("session-cookie-change-on-failure"),
    };
    Some(Sessions { affinity, by_rule: path.is_none() })
}

/// A cookie of no time at all, or less, would keep no session.
fn seconds(values: &mut Values, name: &'static str) -> Option<u32> {
    values.get(name, "write seconds, from 1 on, as \"3600\"", |text| text.parse().ok().filter(|seconds| *seconds > 0))
}

fn same_site(text: &str) -> Option<SameSite> {
    [SameSite::None, SameSite::Lax, SameSite::Strict]
        .into_iter()
        .find(|value| text.eq_ignore_ascii_case(value.as_str()))
}

/// RFC 6265, 4.1.1: a cookie's name is a token (RFC 9110, 5.6.2).
fn is_token(text: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    (1..=TEXT_BYTES_MAX).contains(&text.len()) && text.bytes().all(token)
}

fn is_path(text: &str) -> bool {
    text.starts_with('/') && text.len() <= TEXT_BYTES_MAX && text.bytes().all(is_path_byte)
}

/// RFC 6265, 4.1.1: anything but controls and `;`. Spaces are left out, as no URL has them.
fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b';'
}

fn is_domain(text: &str) -> bool {
    let name = text.strip_prefix('.').unwrap_or(text);
    let label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    name.len() <= TEXT_BYTES_MAX && name.split('.').all(label)
}

/// The longest path of a cookie that takes all of a rule's path.
fn cookie_path(path: &str) -> &str {
    let end = path.bytes().take(TEXT_BYTES_MAX).position(|byte| !is_path_byte(byte));
    match end.or((path.len() > TEXT_BYTES_MAX).then_some(TEXT_BYTES_MAX)) {
        None => path,
        Some(end) => path[..end].rfind('/').map_or("/", |slash| if slash == 0 { "/" } else { &path[..slash] }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::annotated;
    use super::*;
    use crate::translate::Resources;

    fn read_all(all: &[(&str, &str)]) -> (Option<Affinity>, Vec<String>) {
        let (ingress, resources) = (annotated(all), Resources::default());
        let mut values = Values::new(&ingress, &resources);
        let sessions = read(&mut values);
        let affinity = sessions.map(|sessions| sessions.of(Some(&PathMatch::new(PathKind::Prefix, "/shop/"))));
        (affinity, values.faults.into_iter().map(|fault| fault.name.to_owned()).collect())
    }

    #[test]
    fn without_attributes_it_is_a_cookie_of_the_rules_path() {
        let (affinity, faults) = read_all(&[("affinity", "cookie")]);
        let expected = Affinity {
            cookie: "INGRESSCOOKIE".into(),
            path: "/shop".into(),
            domain: None,
            expires: None,
            max_age: None,
            secure: false,
            same_site: None,
            conditional_none: false,
            change_on_failure: false,
        };
        assert_eq!((affinity, faults), (Some(expected), vec![]));
    }

    #[test]
    fn every_example_and_every_attribute_is_read() {
        let rows = ANNOTATIONS.iter().map(|row| match row.status {
            super::super::Status::Supported { example } => (row.name, example),
            other => panic!("{}: {other:?}", row.name),
        });
        let (affinity, faults) = read_all(&rows.collect::<Vec<_>>());
        let expected = Affinity {
            cookie: "route".into(),
            path: "/shop".into(),
            domain: Some("verona.example".into()),
            expires: Some(3600),
            max_age: Some(3600),
            secure: true,
            same_site: Some(SameSite::Lax),
            conditional_none: true,
            change_on_failure: true,
        };
        assert_eq!((affinity, faults), (Some(expected), vec![]));
    }

    #[test]
    fn what_is_no_value_counts_as_not_there() {
        let plain = read_all(&[("affinity", "cookie")]).0;
        for (name, values) in [
            ("affinity-mode", &["sticky", "", "Balanced"][..]),
            ("session-cookie-name", &["", "a b", "a=b", "a;b", "ü", "a,b", "\"a\""]),
            ("session-cookie-path", &["", "shop", "/a;b", "/a b", "/ü", "/a\r\nSet-Cookie: b=c"]),
            ("session-cookie-domain", &["", ".", "a b", "a;b", "a..b", "ü.example", "a.example; Secure"]),
            ("session-cookie-max-age", &["", "-1", "0", "1h", "1.5", "99999999999"]),
            ("session-cookie-expires", &["", "-1", "0", "1h", "1.5", "99999999999"]),
            ("session-cookie-secure", &["", "yes", "on", "2"]),
            ("session-cookie-samesite", &["", "Any", "None; Secure"]),
            ("session-cookie-conditional-samesite-none", &["yes"]),
            ("session-cookie-change-on-failure", &["yes"]),
        ] {
            for value in values {
                let read = read_all(&[("affinity", "cookie"), (name, value)]);
                assert_eq!(read, (plain.clone(), vec![name.to_owned()]), "{name}: {value}");
            }
        }
        for value in ["", "Cookie", "sourceip", "true"] {
            let read = read_all(&[("affinity", value), ("session-cookie-name", "a")]);
            assert_eq!(read, (None, vec!["affinity".to_owned(), "session-cookie-name".to_owned()]), "{value}");
        }
        assert_eq!(read_all(&[("session-cookie-name", "a")]), (None, vec!["session-cookie-name".to_owned()]));
        assert_eq!(read_all(&[]), (None, vec![]));
    }

    #[test]
    fn a_cookies_path_is_as_much_of_the_rules_as_can_be_written() {
        let long = format!("/a/{}", "b".repeat(TEXT_BYTES_MAX));
        for (path, expected) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b;c/d", "/a"),
            ("/;", "/"),
            ("/a b", "/"),
            ("/a/é", "/a"),
            (&long, "/a"),
        ] {
            assert_eq!(cookie_path(path), expected, "{path}");
        }
    }
}
