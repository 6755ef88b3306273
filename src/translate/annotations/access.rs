//! Who may come at all, by the client's address.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};

use super::super::Settings;
use super::{Annotation, Values, closing, list, shown};
use crate::filter::{Filter, SourceRange};

/// Ranges of one list; each is looked at for each request.
const RANGES_MAX: usize = 10_000;
/// Bits in front of an IPv4 address in an IPv6 one (RFC 4291, 2.5.5.2).
const MAPPED_PREFIX_BITS: u8 = 96;

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

/// The operator's lists count for those who say nothing themselves.
pub(super) fn read(values: &mut Values, settings: &Settings) -> Option<Filter> {
    let allow = values.parse("allowlist-source-range", ranges).unwrap_or_else(|| settings.source_ranges.allow.clone());
    let deny = values.parse("denylist-source-range", ranges).unwrap_or_else(|| settings.source_ranges.deny.clone());
    let any = !allow.is_empty() || !deny.is_empty();
    any.then_some(Filter::SourceRange(SourceRange { allow, deny }))
}

/// A list of addresses and ranges, none of which may be wrong: a list that is half understood lets others in, or
/// locks them out. It is shared by all rules that have it.
pub(in crate::translate) fn ranges(text: &str) -> Result<Arc<[IpNet]>, (String, String)> {
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

/// IPv4 addresses that are written as IPv6 ones are IPv4 addresses, as clients' are; a range that has more than them
/// is none.
fn range(item: &str) -> Option<IpNet> {
    let range = item.parse::<IpNet>().ok().or_else(|| item.parse::<IpAddr>().ok().map(IpNet::from))?;
    let IpNet::V6(mapped) = range else { return Some(range) };
    match mapped.addr().to_ipv4_mapped() {
        Some(address) => {
            let length = mapped.prefix_len().checked_sub(MAPPED_PREFIX_BITS)?;
            Ipv4Net::new(address, length).ok().map(IpNet::V4)
        }
        None => Some(range),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_are_those_that_clients_have() {
        let read = |text| ranges(text).map(|ranges| ranges.iter().map(ToString::to_string).collect::<Vec<_>>());
        let text = "::ffff:10.1.2.3, ::ffff:10.1.0.0/112, ::ffff:0:0/96, ::/0, 2001:db8::/32";
        let expected = ["10.1.2.3/32", "10.1.0.0/16", "0.0.0.0/0", "::/0", "2001:db8::/32"];
        assert_eq!(read(text), Ok(expected.map(str::to_owned).to_vec()));
        assert!(read("::ffff:10.1.2.3/95").is_err());
    }
}
