//! Header fields between the two sides. What belongs to one connection ends here, what a client may not say is
//! dropped, and what the endpoint should know of the client is added, in this order, so that no `Connection`
//! field can take away what we add (RFC 9110, 7.6.1).

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::header::{self, Entry};
use http::{HeaderMap, HeaderName, HeaderValue, Version};
use ipnet::IpNet;

use super::error::Error;
use super::framing;

pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// What endpoints are told of the client's certificate.
pub const CLIENT_VERIFY: HeaderName = HeaderName::from_static("ssl-client-verify");
pub const CLIENT_SUBJECT: HeaderName = HeaderName::from_static("ssl-client-subject-dn");
pub const CLIENT_ISSUER: HeaderName = HeaderName::from_static("ssl-client-issuer-dn");
pub const CLIENT_CERTIFICATE: HeaderName = HeaderName::from_static("ssl-client-cert");
pub const X_GENERATION: HeaderName = HeaderName::from_static("x-portunus-generation");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const PROXY: HeaderName = HeaderName::from_static("proxy");

const UPGRADE: HeaderValue = HeaderValue::from_static("upgrade");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");

/// Longest request id that is taken over from a client, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Which fields a message has that need a closer look, found in one pass over them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Seen(u32);

impl Seen {
    const CONNECTION: Self = Self(1);
    const KEEP_ALIVE: Self = Self(1 << 1);
    const PROXY_CONNECTION: Self = Self(1 << 2);
    const TE: Self = Self(1 << 3);
    const UPGRADE: Self = Self(1 << 4);
    const HTTP2_SETTINGS: Self = Self(1 << 5);
    const TRANSFER_ENCODING: Self = Self(1 << 6);
    const CONTENT_LENGTH: Self = Self(1 << 7);
    const PROXY: Self = Self(1 << 8);
    const EXPECT: Self = Self(1 << 9);
    const FORWARDING: Self = Self(1 << 10);
    const REQUEST_ID: Self = Self(1 << 11);
    const UNDERSCORE: Self = Self(1 << 12);
    const COOKIE: Self = Self(1 << 13);
    const CLIENT_CERTIFICATE: Self = Self(1 << 14);
    const HOP_BY_HOP: Self = Self(0b111_1111);

    fn of(name: &str) -> Self {
        match name {
            "connection" => Self::CONNECTION,
            "keep-alive" => Self::KEEP_ALIVE,
            "proxy-connection" => Self::PROXY_CONNECTION,
            "te" => Self::TE,
            "upgrade" => Self::UPGRADE,
            "http2-settings" => Self::HTTP2_SETTINGS,
            "transfer-encoding" => Self::TRANSFER_ENCODING,
            "content-length" => Self::CONTENT_LENGTH,
            "proxy" => Self::PROXY,
            "expect" => Self::EXPECT,
            "forwarded" | "x-real-ip" | "x-original-url" | "x-rewrite-url" => Self::FORWARDING,
            "x-request-id" => Self::REQUEST_ID,
            "cookie" => Self::COOKIE,
            "ssl-client-verify" | "ssl-client-subject-dn" | "ssl-client-issuer-dn" | "ssl-client-cert" => {
                Self::CLIENT_CERTIFICATE
            }
            name if name.starts_with("x-forwarded-") => Self::FORWARDING,
            name if name.contains('_') => Self::UNDERSCORE,
            _ => Self::default(),
        }
    }

    fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }

    fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// Limits of a request head.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Names, values and four bytes a field for what separates them.
    pub header_bytes_max: usize,
    pub header_count_max: usize,
    pub target_bytes_max: usize,
    /// Names with an underscore pass, but those that may be taken for one that has a meaning here.
    pub keeps_underscores: bool,
}

/// What a request's fields take in memory while they are waited with, about, in bytes.
pub fn weight(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
}

/// What the endpoint is told of the client: the connection's other end, or who a PROXY protocol header says it is.
#[derive(Debug)]
pub struct Peer {
    pub address: IpAddr,
    /// The address as a field value, made once a connection.
    pub value: HeaderValue,
    pub proto: HeaderValue,
    /// The scheme's own, for requests that name none.
    pub port: HeaderValue,
    /// The address is in `--trusted-proxies`, and what it says of the client counts.
    pub trusted: bool,
}

/// Ends what belongs to the client's connection and drops what a client may not say. Returns the protocol that
/// the request wants to upgrade to.
pub fn clean_request(
    headers: &mut HeaderMap,
    version: Version,
    limits: Limits,
    trusted: bool,
) -> Result<Option<HeaderValue>, Error> {
    let mut seen = Seen::default();
    let (mut bytes, mut count, mut crumbs) = (0, 0, 0usize);
    let multiplexed = version == Version::HTTP_2;
    for (name, value) in headers.iter() {
        // Whoever reads HTTP/1.1 would take them away (RFC 9113, 8.2.1).
        if multiplexed && is_spaced(value) {
            return Err(Error::Malformed("a field has white space around its value"));
        }
        let field = Seen::of(name.as_str());
        seen.add(field);
        crumbs += usize::from(field == Seen::COOKIE);
        bytes += name.as_str().len() + value.len() + 4;
        count += 1;
    }
    // Crumbs of one cookie are one field (RFC 9113, 8.2.3).
    if bytes > limits.header_bytes_max || count - crumbs.saturating_sub(1) > limits.header_count_max {
        return Err(Error::HeadersTooLarge);
    }
    if seen == Seen::default() {
        return Ok(None);
    }
    if seen.has(Seen::TRANSFER_ENCODING) {
        framing::check_transfer_encoding(headers, version)?;
        // Chunked decides how long the body is; hyper writes the framing anew.
        headers.remove(header::CONTENT_LENGTH);
    } else if seen.has(Seen::CONTENT_LENGTH) {
        framing::check_content_length(headers)?;
    }
    let upgrade = if seen.has(Seen::UPGRADE) { wanted_upgrade(headers, version) } else { None };
    if upgrade.is_some() && (seen.has(Seen::TRANSFER_ENCODING) || framing::has_length(headers)) {
        return Err(Error::Malformed("a request to upgrade may not have a body"));
    }
    let trailers = seen.has(Seen::TE) && wants_trailers(headers);
    if seen.has(Seen::HOP_BY_HOP) {
        remove_hop_by_hop(headers, seen);
    }
    if trailers {
        headers.insert(header::TE, TRAILERS);
    }
    if crumbs > 1 {
        join_cookies(headers);
    }
    if seen.has(Seen::EXPECT) {
        // hyper answers 100-continue when the body is first read; the endpoint needs no question.
        headers.remove(header::EXPECT);
    }
    if seen.has(Seen::PROXY) {
        headers.remove(PROXY);
    }
    if seen.has(Seen::UNDERSCORE) {
        let passes = |name: &str| limits.keeps_underscores && Seen::of(&name.replace('_', "-")) == Seen::default();
        remove_named(headers, |name| name.contains('_') && !passes(name));
    }
    if seen.has(Seen::FORWARDING) && !trusted {
        remove_named(headers, |name| Seen::of(name) == Seen::FORWARDING);
    }
    if seen.has(Seen::CLIENT_CERTIFICATE) && !trusted {
        // Also where nobody's certificate is asked for: the endpoint may be behind another host, too.
        for name in [CLIENT_VERIFY, CLIENT_SUBJECT, CLIENT_ISSUER, CLIENT_CERTIFICATE] {
            headers.remove(name);
        }
    }
    // Else the proxy would be taken for its client, and pass where the proxy passes.
    if seen.has(Seen::FORWARDING)
        && trusted
        && forwarded_for(headers).next().is_some_and(|last| forwarded_address(last).is_none())
    {
        return Err(Error::Malformed("the last part of X-Forwarded-For is no address"));
    }
    Ok(upgrade)
}

fn is_spaced(value: &HeaderValue) -> bool {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    is_space(value.as_bytes().first()) || is_space(value.as_bytes().last())
}

/// The protocol of an upgrade that may be passed on: one token, asked for in `Connection`, and never `h2c`,
/// which would hide a whole connection from us.
fn wanted_upgrade(headers: &HeaderMap, version: Version) -> Option<HeaderValue> {
    if version != Version::HTTP_11 || !connection_tokens(headers).any(|token| token.eq_ignore_ascii_case("upgrade")) {
        return None;
    }
    let mut values = headers.get_all(header::UPGRADE).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    let token = value.to_str().ok()?;
    let token_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(&byte);
    let wanted = !token.is_empty() && token.bytes().all(token_byte) && !token.to_ascii_lowercase().starts_with("h2");
    wanted.then(|| value.clone())
}

fn wants_trailers(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::TE).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case("trailers"))
}

fn connection_tokens(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(header::CONNECTION).iter().map(HeaderValue::as_bytes);
    // A name beyond ASCII is that of no field; those beside it are.
    let tokens =
        values.flat_map(|value| value.split(|byte| *byte == b',')).filter_map(|token| str::from_utf8(token).ok());
    tokens.map(str::trim).filter(|token| !token.is_empty())
}

fn remove_hop_by_hop(headers: &mut HeaderMap, seen: Seen) {
    if seen.has(Seen::CONNECTION) {
        remove_told(headers);
        headers.remove(header::CONNECTION);
    }
    let fields = [
        (Seen::KEEP_ALIVE, KEEP_ALIVE),
        (Seen::PROXY_CONNECTION, PROXY_CONNECTION),
        (Seen::TE, header::TE),
        (Seen::UPGRADE, header::UPGRADE),
        (Seen::HTTP2_SETTINGS, HTTP2_SETTINGS),
        (Seen::TRANSFER_ENCODING, header::TRANSFER_ENCODING),
    ];
    for (flag, name) in fields {
        if seen.has(flag) {
            headers.remove(name);
        }
    }
}

/// Removes the fields that `Connection` names.
fn remove_told(headers: &mut HeaderMap) {
    // Most have only this, and its field goes in any case.
    let mut values = headers.get_all(header::CONNECTION).iter();
    if values.all(|value| value.as_bytes().eq_ignore_ascii_case(b"keep-alive")) {
        return;
    }
    let told = Seen(Seen::FORWARDING.0 | Seen::CLIENT_CERTIFICATE.0);
    let kept =
        |name: &HeaderName| matches!(*name, header::HOST | header::CONTENT_LENGTH) || Seen::of(name.as_str()).has(told);
    let named: Vec<HeaderName> = connection_tokens(headers)
        .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
        .filter(|name| !kept(name))
        .collect();
    for name in named {
        headers.remove(name);
    }
}

fn remove_named(headers: &mut HeaderMap, unwanted: impl Fn(&str) -> bool) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| unwanted(name.as_str())).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    let joined =
        HeaderValue::from_bytes(&crumbs.join(&b"; "[..])).expect("values joined by printable bytes are a value");
    headers.insert(header::COOKIE, joined);
}

/// Tells the endpoint who asks. Returns the client's address: the peer's, or what a trusted one says it is.
pub fn add_forwarding(headers: &mut HeaderMap, peer: &Peer, host: &HeaderValue, trusted: &[IpNet]) -> IpAddr {
    headers.reserve(7);
    let client = client_address(headers, peer, trusted);
    if peer.trusted && headers.contains_key(&X_FORWARDED_FOR) {
        extend_forwarded_for(headers, &peer.value);
        let value = HeaderValue::from_str(&client.to_string()).expect("an address is a value");
        headers.insert(X_REAL_IP, value);
    } else {
        headers.insert(X_FORWARDED_FOR, peer.value.clone());
        headers.insert(X_REAL_IP, peer.value.clone());
    }
    insert(headers, X_FORWARDED_PROTO, &peer.proto, peer.trusted);
    insert(headers, X_FORWARDED_HOST, host, peer.trusted);
    // Behind a Service or a load balancer the client knows another port than ours: the one that it asks for.
    match port(host) {
        None => insert(headers, X_FORWARDED_PORT, &peer.port, peer.trusted),
        Some(port) => insert(headers, X_FORWARDED_PORT, &port, peer.trusted),
    }
    client
}

/// The client's address: the peer's, or what a trusted one says it is.
pub fn client_address(headers: &HeaderMap, peer: &Peer, trusted: &[IpNet]) -> IpAddr {
    if peer.trusted && headers.contains_key(&X_FORWARDED_FOR) {
        read_forwarded_for(headers, peer.address, trusted)
    } else {
        peer.address
    }
}

/// Whether the client speaks TLS, with us or with a proxy in front that is trusted.
pub fn is_https(headers: &HeaderMap, peer: &Peer, secure: bool) -> bool {
    if !peer.trusted {
        return secure;
    }
    headers.get(&X_FORWARDED_PROTO).map_or(secure, |scheme| scheme.as_bytes().eq_ignore_ascii_case(b"https"))
}

/// The port that `Host` names.
fn port(host: &HeaderValue) -> Option<HeaderValue> {
    let bytes = host.as_bytes();
    let port = &bytes[bytes.iter().rposition(|byte| *byte == b':')? + 1..];
    // The last colon of a bare IPv6 address is followed by the bracket.
    let is_port = !port.is_empty() && port.iter().all(u8::is_ascii_digit);
    is_port.then(|| HeaderValue::from_bytes(port).expect("digits are a value"))
}

/// Sets a field; what a trusted peer has set stays.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: &HeaderValue, keep: bool) {
    match headers.entry(name) {
        Entry::Occupied(_) if keep => {}
        Entry::Occupied(mut entry) => drop(entry.insert(value.clone())),
        Entry::Vacant(entry) => drop(entry.insert(value.clone())),
    }
}

/// From the right, through trusted networks, to the first address that isn't one (RFC 7239, 5.2). There is one at the
/// right end: [`clean_request`] has seen to it.
fn read_forwarded_for(headers: &HeaderMap, peer: IpAddr, trusted: &[IpNet]) -> IpAddr {
    let mut client = peer;
    for part in forwarded_for(headers) {
        let Some(address) = forwarded_address(part) else { break };
        client = address;
        if !is_trusted(client, trusted) {
            break;
        }
    }
    client
}

/// The parts of all lines, from the right. Each is read by itself: what a client writes may be any bytes, and must not
/// hide what proxies have put behind it.
fn forwarded_for(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(&X_FORWARDED_FOR).into_iter().rev();
    lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','))
}

/// An address, in brackets or not, with a port or without.
fn forwarded_address(part: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(part.trim_ascii()).ok()?;
    let bracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let address = match bracketed {
        Some(address) => address.parse::<Ipv6Addr>().ok()?.into(),
        None => text.parse().or_else(|_| text.parse().map(|address: SocketAddr| address.ip())).ok()?,
    };
    Some(address.to_canonical())
}

fn extend_forwarded_for(headers: &mut HeaderMap, peer: &HeaderValue) {
    let mut all: Vec<&[u8]> = headers.get_all(&X_FORWARDED_FOR).iter().map(HeaderValue::as_bytes).collect();
    all.push(peer.as_bytes());
    let joined = HeaderValue::from_bytes(&all.join(&b", "[..])).expect("values joined by printable bytes are a value");
    headers.insert(X_FORWARDED_FOR, joined);
}

pub fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|network| network.contains(&address))
}

/// Keeps the request's id, or gives it one: 128 random bits in hexadecimal.
pub fn request_id(headers: &mut HeaderMap) -> &HeaderValue {
    match headers.entry(X_REQUEST_ID) {
        Entry::Occupied(mut entry) => {
            let id = entry.get();
            if !(1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) {
                entry.insert(new_request_id());
            } else if entry.iter().nth(1).is_some() {
                let id = id.clone();
                entry.insert(id);
            }
            entry.into_mut()
        }
        Entry::Vacant(entry) => entry.insert(new_request_id()),
    }
}

fn new_request_id() -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut random = fastrand::u128(..);
    let mut text = [0u8; 32];
    for digit in &mut text {
        *digit = DIGITS[(random & 15) as usize];
        random >>= 4;
    }
    HeaderValue::from_bytes(&text).expect("hexadecimal digits are a value")
}

/// Asks the endpoint to upgrade the connection.
pub fn ask_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(header::CONNECTION, UPGRADE);
    headers.insert(header::UPGRADE, protocol);
}

/// Ends what belongs to the endpoint's connection.
pub fn clean_response(headers: &mut HeaderMap) {
    let mut seen = Seen::default();
    for name in headers.keys() {
        seen.add(Seen::of(name.as_str()));
    }
    if seen.has(Seen::HOP_BY_HOP) {
        if seen.has(Seen::TRANSFER_ENCODING) {
            headers.remove(header::CONTENT_LENGTH);
        }
        remove_hop_by_hop(headers, seen);
    }
}

/// Takes away what no trailer of an answer may decide, and what HTTP/2 may not carry (RFC 9110, 6.5.1).
pub fn clean_trailers(trailers: &mut HeaderMap) {
    let decides = |name: &str| {
        let seen = Seen::of(name);
        seen.has(Seen::HOP_BY_HOP)
            || seen.has(Seen::CONTENT_LENGTH)
            || matches!(name, "host" | "set-cookie" | "trailer")
    };
    if trailers.keys().any(|name| decides(name.as_str())) {
        remove_named(trailers, decides);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { header_bytes_max: 1000, header_count_max: 10, target_bytes_max: 100, keeps_underscores: false };

    fn map(fields: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        fields.iter().map(pair).fold(HeaderMap::new(), |mut map, (name, value)| {
            map.append(name, value);
            map
        })
    }

    fn clean(fields: &[(&'static str, &str)]) -> (Result<Option<HeaderValue>, Error>, Vec<String>) {
        let mut headers = map(fields);
        let result = clean_request(&mut headers, Version::HTTP_11, LIMITS, false);
        (result, headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect())
    }

    #[test]
    fn what_belongs_to_one_connection_ends_here() {
        let (result, left) = clean(&[
            ("host", "a"),
            ("connection", "close, X-Private, Host, content-length"),
            ("x-private", "1"),
            ("keep-alive", "1"),
            ("proxy-connection", "keep-alive"),
            ("te", "gzip, trailers"),
            ("transfer-encoding", "Chunked"),
            ("content-length", "4"),
            ("http2-settings", "x"),
            ("upgrade", "h2c"),
        ]);
        assert_eq!(result, Ok(None));
        assert_eq!(left, ["host: a", "te: trailers"]);
    }

    #[test]
    fn what_a_client_may_not_say_is_dropped() {
        let fields = [
            ("forwarded", "for=1.2.3.4"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-prefix", "/admin"),
            ("x_forwarded_for", "1.2.3.4"),
            ("x-real-ip", "1.2.3.4"),
            ("x-original-url", "/admin"),
            ("x-rewrite-url", "/admin"),
            ("proxy", "http://evil"),
            ("accept", "*/*"),
        ];
        assert_eq!(clean(&fields).1, ["accept: */*"]);
        let fields = [
            ("ssl-client-verify", "SUCCESS"),
            ("ssl-client-verify", "SUCCESS"),
            ("ssl-client-subject-dn", "CN=root"),
            ("ssl-client-issuer-dn", "CN=root"),
            ("ssl-client-cert", "x"),
            ("connection", "ssl-client-verify"),
        ];
        assert_eq!(clean(&fields).1, [""; 0]);
        let mut headers = map(&fields);
        clean_request(&mut headers, Version::HTTP_11, LIMITS, true).unwrap();
        assert_eq!(headers.len(), 5, "a trusted proxy may have asked for the certificate");
    }

    #[test]
    fn underscores_are_kept_where_they_are_wanted_but_for_aliases() {
        let names = [
            "x_a",
            "_",
            "x_forwarded_for",
            "x-forwarded_proto",
            "x_real_ip",
            "x_original_url",
            "content_length",
            "transfer_encoding",
            "ssl_client_verify",
            "x_request_id",
        ];
        let mut headers = map(&names.map(|name| (name, "1")));
        clean_request(&mut headers, Version::HTTP_11, Limits { keeps_underscores: true, ..LIMITS }, true).unwrap();
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["_", "x_a"]);
    }

    #[test]
    fn values_over_http_2_have_no_white_space_around_them() {
        for value in [" b", "b ", "\tb", " "] {
            let read = |version| clean_request(&mut map(&[("x-a", value)]), version, LIMITS, false);
            assert!(matches!(read(Version::HTTP_2), Err(Error::Malformed(_))), "{value:?}");
            assert_eq!(read(Version::HTTP_11), Ok(None), "{value:?}");
        }
    }

    #[test]
    fn trailers_of_an_answer_decide_nothing() {
        let mut trailers =
            map(&[("grpc-status", "0"), ("content-length", "5"), ("connection", "x"), ("set-cookie", "a=b")]);
        clean_trailers(&mut trailers);
        assert_eq!(trailers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["grpc-status"]);
    }

    #[test]
    fn framing_that_could_be_read_in_two_ways_is_refused() {
        let malformed = [
            &[("transfer-encoding", "chunked, chunked")][..],
            &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
            &[("transfer-encoding", "gzip, chunked")],
            &[("transfer-encoding", ",chunked")],
            &[("content-length", "1"), ("content-length", "2")],
            &[("content-length", "+1")],
            &[("content-length", "1, 1")],
            &[("connection", "upgrade"), ("upgrade", "websocket"), ("content-length", "5")],
        ];
        for fields in malformed {
            assert!(matches!(clean(fields).0, Err(Error::Malformed(_))), "{fields:?}");
        }
        assert!(matches!(clean(&[("transfer-encoding", "gzip")]).0, Err(Error::NotImplemented(_))));
        let mut headers = map(&[("transfer-encoding", "chunked")]);
        let old = clean_request(&mut headers, Version::HTTP_10, LIMITS, false);
        assert!(matches!(old, Err(Error::Malformed(_))));
    }

    #[test]
    fn only_plain_upgrades_are_passed_on() {
        let upgrade =
            |connection: &str, protocol: &str| clean(&[("connection", connection), ("upgrade", protocol)]).0.unwrap();
        assert_eq!(upgrade("keep-alive, Upgrade", "websocket").unwrap(), "websocket");
        assert_eq!(upgrade("close", "websocket"), None);
        assert_eq!(upgrade("upgrade", "h2c"), None);
        assert_eq!(upgrade("upgrade", "H2C"), None);
        assert_eq!(upgrade("upgrade", "websocket, h2c"), None);
    }

    #[test]
    fn limits_count_fields_and_bytes_and_a_cookie_once() {
        let crumbs = vec![("cookie", "a=b"); 20];
        let (result, left) = clean(&crumbs);
        assert_eq!((result, left.len()), (Ok(None), 1));
        assert!(left[0].starts_with("cookie: a=b; a=b"));
        assert_eq!(clean(&[("accept", "x"); 11]).0, Err(Error::HeadersTooLarge));
        assert_eq!(clean(&[("accept", &"x".repeat(991))]).0, Err(Error::HeadersTooLarge));
        assert_eq!(clean(&[("accept", &"x".repeat(990))]).0, Ok(None));
    }

    #[test]
    fn the_client_is_read_from_the_right_through_trusted_networks() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let peer = |address: &str, trusted| Peer {
            address: address.parse().unwrap(),
            value: HeaderValue::from_str(address).unwrap(),
            proto: HeaderValue::from_static("http"),
            port: HeaderValue::from_static("80"),
            trusted,
        };
        let table = [
            ("10.0.0.1", true, "1.1.1.1, 2.2.2.2, 10.0.0.9", "2.2.2.2", "1.1.1.1, 2.2.2.2, 10.0.0.9, 10.0.0.1"),
            ("10.0.0.1", true, "10.0.0.7", "10.0.0.7", "10.0.0.7, 10.0.0.1"),
            ("10.0.0.1", true, "bad, 10.0.0.7", "10.0.0.7", "bad, 10.0.0.7, 10.0.0.1"),
            (
                "10.0.0.1",
                true,
                "6.6.6.6, 2.2.2.2:4711, 10.0.0.9:1",
                "2.2.2.2",
                "6.6.6.6, 2.2.2.2:4711, 10.0.0.9:1, 10.0.0.1",
            ),
            ("10.0.0.1", true, "é, 2.2.2.2", "2.2.2.2", "é, 2.2.2.2, 10.0.0.1"),
            ("10.0.0.1", true, "[2001:db8::2]:80, [fd00::1]", "2001:db8::2", "[2001:db8::2]:80, [fd00::1], 10.0.0.1"),
            ("10.0.0.1", true, "::ffff:2.2.2.2", "2.2.2.2", "::ffff:2.2.2.2, 10.0.0.1"),
            ("3.3.3.3", false, "1.1.1.1", "3.3.3.3", "3.3.3.3"),
        ];
        for (address, is_trusted, before, client, after) in table {
            let mut headers = map(&[("x-forwarded-for", before), ("x-forwarded-proto", "https")]);
            clean_request(&mut headers, Version::HTTP_11, LIMITS, is_trusted).unwrap();
            let host = HeaderValue::from_static("a.example");
            let found = add_forwarding(&mut headers, &peer(address, is_trusted), &host, &trusted);
            assert_eq!(found.to_string(), client);
            assert_eq!(headers[X_FORWARDED_FOR], after);
            assert_eq!(headers[X_REAL_IP], client);
            assert_eq!(headers[X_FORWARDED_PROTO], if is_trusted { "https" } else { "http" });
            assert_eq!(headers[X_FORWARDED_HOST], "a.example");
        }
    }

    #[test]
    fn who_is_behind_a_trusted_proxy_can_be_read_or_the_request_is_refused() {
        let asked = |lines: &[&str], trusted| {
            let mut headers = map(&lines.iter().map(|line| ("x-forwarded-for", *line)).collect::<Vec<_>>());
            clean_request(&mut headers, Version::HTTP_11, LIMITS, trusted)
        };
        for last in ["", "unknown", "é", "2.2.2.2, ", "2.2.2.2:99999", "2.2.2.2:", "[2.2.2.2]", "[::1", "fe80::1:x"] {
            assert!(matches!(asked(&["1.1.1.1", last], true), Err(Error::Malformed(_))), "{last}");
            assert_eq!(asked(&["1.1.1.1", last], false), Ok(None), "{last}");
            assert_eq!(asked(&[last, "1.1.1.1"], true), Ok(None), "{last}");
        }
    }

    #[test]
    fn a_request_has_one_id() {
        let mut headers = map(&[("x-request-id", "mine")]);
        assert_eq!(request_id(&mut headers), "mine");
        let mut headers = map(&[("x-request-id", "mine"), ("x-request-id", "another")]);
        assert_eq!(request_id(&mut headers), "mine");
        assert_eq!(headers.get_all(X_REQUEST_ID).iter().count(), 1);
        let mut headers = HeaderMap::new();
        let id = request_id(&mut headers).clone();
        assert_eq!((id.len(), &headers[X_REQUEST_ID]), (32, &id));
    }
}
