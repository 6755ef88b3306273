//! What Portunus reads out of first bytes and of heads, without a connection or a table: `fuzz/` holds it against other
//! readings of the same bytes. The hot path goes by the same functions.

use std::net::IpAddr;

use http::HeaderValue;
use http::request::Parts;

use super::error::Error;
use super::handle::{authority, check_target};
use super::headers::{Limits, clean_request};
use super::proxy_protocol::{Extent, extent, parse};
use crate::model::{HostName, PathError, normalize};

/// The host and the path of a request that would be looked up in a table; its head is then what an endpoint gets, but
/// for what is added of the client. Else what is answered to it.
pub fn request_head(head: &mut Parts, limits: Limits) -> Result<(HeaderValue, String), &'static str> {
    check_target(head, limits).map_err(Error::message)?;
    let host = authority(head).map_err(Error::message)?;
    let host = host.unwrap_or_else(|| HeaderValue::from_static(""));
    clean_request(&mut head.headers, head.version, limits, false).map_err(Error::message)?;
    let name = host.to_str().map_err(|_| "the host is not ASCII")?;
    if !name.is_empty() && HostName::parse(name).is_none() {
        return Err("the host is no name");
    }
    if head.uri.path() == "*" || head.uri.path_and_query().is_none() {
        return Err("the target has no path");
    }
    let path = normalize(head.uri.path()).map_err(PathError::message)?;
    Ok((host, path.sent.into_owned()))
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
