//! Which clients pass, by their address. Who is denied is denied, whoever is allowed.

use std::net::IpAddr;
use std::sync::Arc;

use http::StatusCode;
use ipnet::IpNet;
use serde::Serialize;

use super::Answer;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SourceRange {
    /// Empty: all that aren't denied.
    pub allow: Arc<[IpNet]>,
    pub deny: Arc<[IpNet]>,
}

impl SourceRange {
    pub(super) fn answer(&self, client: IpAddr) -> Option<Answer> {
        let within = |ranges: &[IpNet]| ranges.iter().any(|range| range.contains(&client));
        let passes = !within(&self.deny) && (self.allow.is_empty() || within(&self.allow));
        (!passes).then(|| Answer {
            status: StatusCode::FORBIDDEN,
            headers: Vec::new(),
            text: "this address may not ask for it",
            reason: "denied",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_denied_are_denied_and_the_others_by_who_is_allowed() {
        let ranges = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Arc<[IpNet]>>();
        let table: [(&[&str], &[&str], &str, bool); 7] = [
            (&["10.0.0.0/8"], &[], "10.1.2.3", true),
            (&["10.0.0.0/8"], &[], "11.1.2.3", false),
            (&["10.0.0.0/8"], &["10.1.0.0/16"], "10.1.2.3", false),
            (&[], &["10.1.0.0/16"], "10.2.2.3", true),
            (&["10.0.0.0/8"], &[], "2001:db8::1", false),
            (&["2001:db8::/32"], &[], "2001:db8::1", true),
            (&["0.0.0.0/0"], &[], "2001:db8::1", false),
        ];
        for (allow, deny, client, passes) in table {
            let range = SourceRange { allow: ranges(allow), deny: ranges(deny) };
            assert_eq!(range.answer(client.parse().unwrap()).is_none(), passes, "{allow:?} {deny:?} {client}");
        }
    }
}
