//! Something per host: exact names and wildcards in hash maps, so that a look-up costs the same among ten hosts
//! and a hundred thousand, and a change does almost. Also reads host names as requests carry them.

use std::borrow::Cow;

use super::{HostPattern, Shards};

/// A value for each host pattern. Cheap to clone: what is changed is copied first.
#[derive(Debug, Clone)]
pub struct HostMap<V> {
    exact: Shards<V>,
    wildcard: Shards<V>,
    any: Option<V>,
}

impl<V> Default for HostMap<V> {
    fn default() -> Self {
        Self { exact: Shards::default(), wildcard: Shards::default(), any: None }
    }
}

impl<V: Clone> HostMap<V> {
    pub fn insert(&mut self, pattern: &HostPattern, value: V) {
        match pattern {
            HostPattern::Exact(name) => self.exact.insert(name, value),
            HostPattern::Wildcard(rest) => self.wildcard.insert(rest, value),
            HostPattern::Any => self.any = Some(value),
        }
    }

    pub fn remove(&mut self, pattern: &HostPattern) {
        match pattern {
            HostPattern::Exact(name) => self.exact.remove(name),
            HostPattern::Wildcard(rest) => self.wildcard.remove(rest),
            HostPattern::Any => self.any = None,
        }
    }
}

impl<V> HostMap<V> {
    /// The value of the pattern itself.
    pub fn get(&self, pattern: &HostPattern) -> Option<&V> {
        match pattern {
            HostPattern::Exact(name) => self.exact.get(name),
            HostPattern::Wildcard(rest) => self.wildcard.get(rest),
            HostPattern::Any => self.any.as_ref(),
        }
    }

    /// The value of the most exact pattern that the name, in lower case, matches.
    pub fn find(&self, name: &str) -> Option<&V> {
        if let Some(value) = self.exact.get(name) {
            return Some(value);
        }
        self.find_wildcard(name).or(self.any.as_ref())
    }

    /// A wildcard stands for exactly one label.
    fn find_wildcard(&self, name: &str) -> Option<&V> {
        if self.wildcard.is_empty() {
            return None;
        }
        let (label, rest) = name.split_once('.')?;
        if label.is_empty() { None } else { self.wildcard.get(rest) }
    }
}

/// A host name out of `Host`, `:authority` or SNI: lower case, without port and trailing dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostName<'a>(Cow<'a, str>);

impl<'a> HostName<'a> {
    /// Reads `host [":" port]` (RFC 9110, 7.2); `None` if it is not of that form.
    pub fn parse(authority: &'a str) -> Option<Self> {
        if is_plain(authority) {
            return Some(Self(authority.into()));
        }
        let (host, port) = split_port(authority)?;
        // A number may be written with a sign, a port may not.
        let is_port = |port: &str| port.len() <= 5 && !port.starts_with('+') && port.parse::<u16>().is_ok();
        if port.is_some_and(|port| !port.is_empty() && !is_port(port)) {
            return None;
        }
        Self::from_name(host)
    }

    /// Reads a name without a port, as SNI has it.
    pub fn from_name(name: &'a str) -> Option<Self> {
        let name = if name.len() > 1 { name.strip_suffix('.').unwrap_or(name) } else { name };
        let mut upper = false;
        for byte in name.bytes() {
            match byte {
                b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b':' | b'[' | b']' | b'~' => {}
                b'A'..=b'Z' => upper = true,
                _ => return None,
            }
        }
        if name.is_empty() || name.len() > 255 {
            return None;
        }
        Some(Self(if upper { name.to_ascii_lowercase().into() } else { name.into() }))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether it is a name as it stands, as most are.
fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_');
    (1..=255).contains(&name.len()) && !name.ends_with('.') && name.bytes().all(plain)
}

fn split_port(authority: &str) -> Option<(&str, Option<&str>)> {
    if authority.starts_with('[') {
        let end = authority.find(']')?;
        authority[1..end].parse::<std::net::Ipv6Addr>().ok()?;
        let (address, rest) = authority.split_at(end + 1);
        return match rest.strip_prefix(':') {
            Some(port) => Some((address, Some(port))),
            None if rest.is_empty() => Some((address, None)),
            None => None,
        };
    }
    match authority.split_once(':') {
        Some((host, port)) => Some((host, Some(port))),
        None if authority.contains(['[', ']']) => None,
        None => Some((authority, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_beats_wildcard_beats_none() {
        let mut hosts = HostMap::default();
        assert_eq!(hosts.find("a.example"), None);
        for pattern in ["a.example", "*.example", "*.b.example", ""] {
            hosts.insert(&HostPattern::parse(pattern).unwrap(), pattern);
        }
        let table = [
            ("a.example", "a.example"),
            ("c.example", "*.example"),
            ("c.a.example", ""),
            ("x.b.example", "*.b.example"),
            ("b.example", "*.example"),
            ("example", ""),
            (".example", ""),
        ];
        for (name, found) in table {
            assert_eq!(hosts.find(name), Some(&found), "{name}");
        }
        hosts.remove(&HostPattern::Any);
        assert_eq!(hosts.find("example"), None);
    }

    #[test]
    fn names_are_read_as_requests_write_them() {
        let table = [
            ("Verona.Example", Some("verona.example")),
            ("verona.example:8080", Some("verona.example")),
            ("verona.example.", Some("verona.example")),
            ("verona.example.:80", Some("verona.example")),
            ("verona.example:", Some("verona.example")),
            ("127.0.0.1:80", Some("127.0.0.1")),
            ("[::1]:80", Some("[::1]")),
            ("[::1]", Some("[::1]")),
            ("", None),
            (":80", None),
            ("a:b", None),
            ("a:80:80", None),
            ("a:65536", None),
            ("a:000080", None),
            ("a:+80", None),
            ("user@a", None),
            ("a b", None),
            ("a/b", None),
            ("[::1", None),
            ("[x]", None),
            ("[::1]x", None),
            ("a]", None),
            ("bücher.example", None),
        ];
        for (text, name) in table {
            assert_eq!(HostName::parse(text).as_ref().map(HostName::as_str), name, "{text}");
        }
    }
}
