//! Who may come at all, by the client's address.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::{Annotation, Values, closing, list, shown};
use crate::filter::{Filter, SourceRange};

/// Ranges of one list; each is looked at for each request.
const RANGES_MAX: usize = 10_000;

#[rustfmt::skip]
pub(super) const ANNOTATIONS: &[Annotation] = &[
    closing(
        "allowlist-source-range",
        "list of addresses and CIDRs",
        "",
        "clients of other addresses get 403. The client's address is the connection's, or what a trusted proxy says",
    )
    .alias(&["whitelist-source-range"])
    .example("10.0.0.0/8, 2001:db8::/32"),
    closing(
        "denylist-source-range",
        "list of addresses and CIDRs",
        "",
        "clients of these addresses get 403, also if they are in the other list",
    )
    .example("10.1.2.3"),
];

pub(super) fn read(values: &mut Values) -> Option<Filter> {
    let allow = values.parse("allowlist-source-range", ranges);
    let deny = values.parse("denylist-source-range", ranges);
    if allow.is_none() && deny.is_none() {
        return None;
    }
    Some(Filter::SourceRange(SourceRange { allow: allow.unwrap_or_default(), deny: deny.unwrap_or_default() }))
}

/// A list of addresses and ranges, none of which may be wrong: a list that is half understood lets others in, or
/// locks them out.
pub(super) fn ranges(text: &str) -> Result<Arc<[IpNet]>, (String, String)> {
    let range = |item: &str| item.parse::<IpNet>().ok().or_else(|| item.parse::<IpAddr>().ok().map(IpNet::from));
    let mut ranges = Vec::new();
    for item in list(text) {
        let found = range(item).ok_or_else(|| {
            let fix = "write addresses and CIDRs with commas between them, as 10.0.0.0/8, 2001:db8::1";
            (format!("`{}` is no address and no CIDR", shown(item)), fix.to_owned())
        });
        ranges.push(found?);
    }
    match ranges.len() {
        0 => Err(("it names no address".to_owned(), "write one, as 10.0.0.0/8, or remove it".to_owned())),
        1..=RANGES_MAX => Ok(ranges.into()),
        more => Err((format!("{more} ranges are more than {RANGES_MAX}"), "join them to larger ranges".to_owned())),
    }
}
