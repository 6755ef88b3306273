//! What Portunus reads out of first bytes and of heads, before any connection or table comes into it. The hot path goes
//! by it, and `fuzz/` holds it against other readings of the same bytes.

use std::borrow::Cow;
use std::net::IpAddr;

use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Uri, Version, header};
use percent_encoding::{CONTROLS, utf8_percent_encode};

use super::error::Error;
use super::headers::{Limits, clean_request};
use super::proxy_protocol::{Extent, extent, parse};
use crate::model::{HostName, Normalization, NormalizedPath};

/// A request's head as `decide` reads it, without the table: it is then what an endpoint gets, but for what is added of
/// the client. The host, or what is answered instead.
pub fn request_head(head: &mut Parts, limits: Limits) -> Result<HeaderValue, &'static str> {
    let read = |head: &mut Parts| -> Result<Option<HeaderValue>, Error> {
        let (host, _) = check(head, limits, false)?;
        host_name(host.as_ref())?;
        let sent = path(&head.uri, Normalization::Strict)?.sent;
        if let Some(target) = target(&head.uri, sent)? {
            head.uri = target;
        }
        Ok(host)
    };
    let host = read(head).map_err(Error::message)?;
    Ok(host.unwrap_or_else(|| HeaderValue::from_static("")))
}

/// All that is looked at before the host's name: takes from the head what an endpoint may not get. The host as the
/// client wrote it, and the protocol that it wants to upgrade to.
pub(super) fn check(
    head: &mut Parts,
    limits: Limits,
    trusted: bool,
) -> Result<(Option<HeaderValue>, Option<HeaderValue>), Error> {
    check_target(head, limits)?;
    let host = authority(head)?;
    let upgrade = clean_request(&mut head.headers, head.version, limits, trusted)?;
    Ok((host, upgrade))
}

fn check_target(head: &Parts, limits: Limits) -> Result<(), Error> {
    if head.method == Method::CONNECT {
        return Err(Error::NotImplemented("CONNECT is not implemented"));
    }
    let target = head.uri.path_and_query().map_or("", PathAndQuery::as_str);
    if target.len() > limits.target_bytes_max {
        return Err(Error::TargetTooLong);
    }
    if head.version == Version::HTTP_2 && !target.starts_with('/') {
        return Err(Error::Malformed("the path does not begin with a slash"));
    }
    // What a gateway to something else may do with it is not ours to guess (RFC 9110, 7.4).
    let scheme = head.uri.scheme_str();
    if scheme.is_some_and(|scheme| !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https")) {
        return Err(Error::Malformed("the scheme is neither http nor https"));
    }
    Ok(())
}

/// The one host that the request is for. HTTP/1.1: exactly one `Host`, and an absolute target that agrees with
/// it (RFC 9112, 3.2); HTTP/2: `:authority`, and a `Host` that agrees with it if there is one (RFC 9113, 8.3.1).
pub(super) fn authority(head: &Parts) -> Result<Option<HeaderValue>, Error> {
    let mut fields = head.headers.get_all(header::HOST).iter();
    let field = fields.next();
    if fields.next().is_some() {
        return Err(Error::Malformed("there is more than one Host"));
    }
    match (head.uri.authority(), field) {
        (Some(authority), _) if authority.as_str().contains('@') => {
            Err(Error::Malformed("the authority has user information"))
        }
        (Some(authority), Some(field)) if !same_authority(head.uri.scheme_str(), authority.as_str(), field) => {
            Err(Error::Malformed("Host and the request's authority differ"))
        }
        (Some(_), None) if head.version == Version::HTTP_11 => Err(Error::Malformed("there is no Host")),
        (Some(authority), _) => {
            let value = HeaderValue::from_str(authority.as_str());
            value.map(Some).map_err(|_| Error::Malformed("the authority is not ASCII"))
        }
        (None, Some(field)) => Ok(Some(field.clone())),
        (None, None) if head.version == Version::HTTP_10 => Ok(None),
        (None, None) => Err(Error::Malformed("there is no Host")),
    }
}

/// Whether both name the same host and port; the scheme's own port may be left out.
fn same_authority(scheme: Option<&str>, authority: &str, field: &HeaderValue) -> bool {
    let default = if scheme == Some("https") { ":443" } else { ":80" };
    let plain = |text: &str| text.strip_suffix(default).unwrap_or(text).to_ascii_lowercase();
    field.to_str().is_ok_and(|field| field == authority || plain(field) == plain(authority))
}

/// The name that routes and certificates are looked up by.
pub(super) fn host_name(host: Option<&HeaderValue>) -> Result<HostName<'_>, Error> {
    match host {
        Some(host) => {
            let text = host.to_str().map_err(|_| Error::Malformed("the host is not ASCII"))?;
            HostName::parse(text).ok_or(Error::Malformed("the host is not a name with an optional port"))
        }
        // HTTP/1.0 may leave it out.
        None => Ok(HostName::parse("none.invalid").expect("it is a name")),
    }
}

/// The path in its one meaning.
pub(super) fn path(received: &Uri, normalization: Normalization) -> Result<NormalizedPath<'_>, Error> {
    if received.path() == "*" || received.path_and_query().is_none() {
        return Err(Error::Malformed("the request target has no path"));
    }
    normalization.apply(received.path()).map_err(|error| Error::Malformed(error.message()))
}

/// The target that an endpoint gets, in origin form; `None` if it is the one that was received. Of a query nothing but
/// bytes beyond ASCII is changed: they are escaped, as browsers do. What else [`Uri`] takes in one is what browsers
/// leave as it is (the URL standard's query percent-encode set), and an endpoint that checks signatures gets it so.
pub(super) fn target(received: &Uri, path: Cow<'_, str>) -> Result<Option<Uri>, Error> {
    let Some(whole) = received.path_and_query() else { return Ok(None) };
    let query = received.query();
    // The path of an absolute target may be left out, also before a query.
    let is_whole = whole.as_str().starts_with('/');
    if is_whole && path == received.path() && query.is_none_or(str::is_ascii) {
        // What was left out reads as `/`, but isn't written as one.
        let origin = || if whole.as_str() == "/" { PathAndQuery::from_static("/") } else { whole.clone() };
        return Ok(received.authority().map(|_| Uri::from(origin())));
    }
    let target = match query {
        Some(query) => format!("{path}?{}", utf8_percent_encode(query, CONTROLS)),
        None => path.into_owned(),
    };
    let target = PathAndQuery::try_from(target).map_err(|_| Error::Malformed("the target is none of a URI"))?;
    Ok(Some(Uri::from(target)))
}

/// A PROXY protocol header at the beginning of these bytes: its length, and the client that it names, if any. `None`
/// as long as it isn't whole.
pub fn proxy_header(bytes: &[u8]) -> Result<Option<(usize, Option<IpAddr>)>, String> {
    match extent(bytes) {
        Extent::Whole(length) => {
            let client = parse(&bytes[..length]).map_err(|error| error.to_string())?;
            Ok(Some((length, client)))
        }
        Extent::More => Ok(None),
        Extent::Malformed => Err("no header".to_owned()),
    }
}
