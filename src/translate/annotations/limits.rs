//! How much one client may ask of an Ingress: as ingress-nginx counts, over all rules of the Ingress together, and
//! each replica by itself.

use std::num::{NonZeroU32, NonZeroU64};

use super::super::Settings;
use super::access::ranges;
use super::{Annotation, Values, closing, open};
use crate::filter::{Filter, Limits, Rate};
use crate::model::Priority;

/// Largest limit; with the largest multiplier its burst is still a number.
const LIMIT_MAX: u32 = 1_000_000;
const MULTIPLIER_MAX: u32 = 1_000;
/// A burst is five times the rate, if nothing else is said.
const MULTIPLIER: u32 = 5;

pub(super) const ANNOTATIONS: &[Annotation] = &[
    closing(
        "limit-rps",
        "0 to 1000000",
        "0",
        "requests a second of one client (its whole address, IPv6 too) to all rules of the Ingress, in one replica; beyond it and the burst they get `limit-req-status-code` with `Retry-After`. 0 is no limit",
    )
    .example("10"),
    closing("limit-rpm", "0 to 1000000", "0", "the same by the minute; both count").example("300"),
    closing(
        "limit-connections",
        "0 to 1000000",
        "0",
        "requests at once of one client, counted until the answer's end; a WebSocket is one. Beyond it they get `limit-conn-status-code`. 0 is no limit",
    )
    .example("20"),
    closing(
        "limit-burst-multiplier",
        "1 to 1000",
        "5",
        "times the rate: as many requests beyond it pass at once, without delay",
    )
    .example("3"),
    closing("limit-allowlist", "list of addresses and CIDRs", "", "clients that are not counted")
        .alias(&["limit-whitelist"])
        .example("10.0.0.0/8, 2001:db8::/32"),
    closing("limit-rate", "KiB/s", "", "speed of an answer"),
    closing("limit-rate-after", "KiB", "", "from which size on"),
];

/// Keys that ingress-nginx doesn't have.
pub(super) const PRIORITY: &[Annotation] = &[open(
    "portunus.dev/priority",
    "`low`, `normal`, `high`",
    "normal",
    "whose requests are turned away first, with 503, when a worker or the memory is [overloaded](operations.md#overload): `low` before any other, `high` after all others",
)
.example("high")];

pub(super) fn priority(values: &mut Values) -> Priority {
    values.get("portunus.dev/priority", "write low, normal or high", Priority::parse).unwrap_or_default()
}

pub(super) fn read(values: &mut Values, settings: &Settings) -> Option<Filter> {
    let per_second = limit(values, "limit-rps");
    let per_minute = limit(values, "limit-rpm");
    let connections = limit(values, "limit-connections");
    let multiplier = values.get("limit-burst-multiplier", "write a number from 1 to 1000, as \"5\"", |text| {
        text.parse().ok().filter(|number| (1..=MULTIPLIER_MAX).contains(number))
    });
    let allow = values.parse("limit-allowlist", ranges);
    let multiplier = u64::from(multiplier.unwrap_or(MULTIPLIER));
    let rate = |requests: NonZeroU32, minutes: u64| Rate {
        per_minute: NonZeroU64::from(requests).saturating_mul(NonZeroU64::new(minutes).expect("it is no zero")),
        burst: u64::from(requests.get()) * multiplier,
    };
    let rates: Vec<Rate> =
        per_second.map(|requests| rate(requests, 60)).into_iter().chain(per_minute.map(|it| rate(it, 1))).collect();
    if rates.is_empty() && connections.is_none() {
        let [_, _, _, others @ .., _, _] = ANNOTATIONS else { return None };
        values.without_effect(others, "limit-rps");
        return None;
    }
    Some(Filter::Limits(Limits {
        rates,
        connections,
        allow: allow.unwrap_or_default(),
        rate_status: settings.limit_rate_status,
        connections_status: settings.limit_connections_status,
    }))
}

/// A limit, if there is one.
fn limit(values: &mut Values, name: &'static str) -> Option<NonZeroU32> {
    let fix = "write a number up to 1000000, as \"10\"; 0 is no limit";
    let number = values.get(name, fix, |text| text.parse().ok().filter(|number: &u32| *number <= LIMIT_MAX))?;
    NonZeroU32::new(number)
}
