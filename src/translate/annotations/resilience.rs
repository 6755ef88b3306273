//! Endpoints that fail, and backends that are asked too much. ingress-nginx has no names for it: these are our own.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http::uri::{Authority, PathAndQuery};

use super::{Annotation, Values, open};
use crate::model::{Check, CheckKind, Resilience};

#[rustfmt::skip]
pub(super) const ANNOTATIONS: &[Annotation] = &[
    open("portunus.dev/try-timeout", "duration, as `500ms`", "`proxy-read-timeout`", "longest time for the head of one answer; with `timeout` in `proxy-next-upstream` the request then goes to another endpoint").example("2s"),
    open("portunus.dev/request-timeout", "duration, as `5s`", "", "longest time from a request to the head of its answer, [with all tries](resilience.md#retries); beyond it 504").example("5s"),
    open("portunus.dev/outlier-failures", "count", "`--outlier-failures`", "failures in a row after which an endpoint is [left out](resilience.md#ejection) for a while; 0 is never").example("3"),
    open("portunus.dev/outlier-ejection-time", "duration", "`--outlier-ejection-time`", "how long it is left out the first time").example("5s"),
    open("portunus.dev/panic-threshold", "0 to 100", "`--panic-threshold`", "with fewer endpoints well, in percent, all are used").example("40"),
    open("portunus.dev/slow-start", "duration", "", "an endpoint that is new, or back, gets a [growing share](resilience.md#slow-start) of its requests for so long").example("30s"),
    open("portunus.dev/max-in-flight", "count from 1 on", "", "requests that the Service has at once, to the end of their answers; one more is [503](resilience.md#circuit-breaking)").example("200"),
    open("portunus.dev/max-pending", "count", "", "requests that wait for a connection at once; one more is 503").example("20"),
];

#[rustfmt::skip]
pub(super) const CHECKS: &[Annotation] = &[
    open("portunus.dev/health-check", "`http`, `grpc`, `tcp`", "", "endpoints are [asked](resilience.md#checks) whether they are well, and get no requests while they don't say so").example("http"),
    open("portunus.dev/health-check-path", "path, or for `grpc` the name of a service", "`/`, or the whole server", "what is asked").example("/healthz"),
    open("portunus.dev/health-check-host", "host", "the endpoint's address", "the `Host` of the question, for `http`").example("internal.verona.example"),
    open("portunus.dev/health-check-interval", "duration from 100ms on", "10s", "between two questions").example("5s"),
    open("portunus.dev/health-check-timeout", "duration", "2s", "for the connection and the answer").example("1s"),
    open("portunus.dev/health-check-healthy", "count from 1 on", "2", "good answers in a row until an endpoint is well again").example("2"),
    open("portunus.dev/health-check-unhealthy", "count from 1 on", "3", "bad ones until it is not").example("2"),
];

/// What is asked where nothing is said of it.
const INTERVAL_MILLISECONDS: u32 = 10_000;
const TIMEOUT_MILLISECONDS: u32 = 2_000;
const HEALTHY: u32 = 2;
const UNHEALTHY: u32 = 3;
/// Shortest interval: an endpoint has more to do than to answer for itself.
const INTERVAL_MILLISECONDS_MIN: u32 = 100;
/// Longest name of a gRPC service, in bytes.
const SERVICE_BYTES_MAX: usize = 255;

const DURATION: &str = "write a duration, as \"500ms\", \"5s\" or \"1m\"";
const COUNT: &str = "write a count, as \"5\"";
const COUNT_FROM_1: &str = "write a count from 1 on, as \"5\"";

pub(super) fn read(values: &mut Values) -> Resilience {
    Resilience {
        outlier_failures: values.get("portunus.dev/outlier-failures", COUNT, |text| text.parse().ok()),
        ejection_milliseconds: values.get("portunus.dev/outlier-ejection-time", DURATION, milliseconds),
        panic_percent: values.get("portunus.dev/panic-threshold", "write a percentage, 0 to 100", |text| {
            text.parse().ok().filter(|percent| *percent <= 100)
        }),
        slow_start_milliseconds: values.get("portunus.dev/slow-start", DURATION, milliseconds),
        in_flight_max: values.get("portunus.dev/max-in-flight", COUNT_FROM_1, from_1),
        pending_max: values.get("portunus.dev/max-pending", COUNT, |text| text.parse().ok()),
        check: check(values).map(Arc::new),
    }
}

pub(super) fn try_timeout(values: &mut Values) -> Option<u32> {
    values.get("portunus.dev/try-timeout", DURATION, milliseconds)
}

pub(super) fn request_timeout(values: &mut Values) -> Option<u32> {
    values.get("portunus.dev/request-timeout", DURATION, milliseconds)
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Http,
    Grpc,
    Tcp,
}

fn check(values: &mut Values) -> Option<Check> {
    let kind = values.get("portunus.dev/health-check", "write http, grpc or tcp", |text| match text {
        "http" => Some(Kind::Http),
        "grpc" => Some(Kind::Grpc),
        "tcp" => Some(Kind::Tcp),
        _ => None,
    });
    let [_, details @ ..] = CHECKS else { return None };
    let Some(kind) = kind else {
        values.without_effect(details, "portunus.dev/health-check");
        return None;
    };
    let path = values.get("portunus.dev/health-check-path", "write a path, as /healthz, or a gRPC service", |text| {
        let fits = match kind {
            Kind::Http => text.starts_with('/') && PathAndQuery::try_from(text).is_ok(),
            Kind::Grpc => text.len() <= SERVICE_BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_graphic()),
            Kind::Tcp => false,
        };
        fits.then_some(text)
    });
    let host = values.get("portunus.dev/health-check-host", "write a host, and http as health-check", |text| {
        let authority: Authority = text.parse().ok()?;
        let fits = kind == Kind::Http && !text.contains('@') && HeaderValue::from_str(authority.as_str()).is_ok();
        fits.then_some(text)
    });
    let fix = "write a duration from 100ms on, as \"5s\"";
    let interval = values.get("portunus.dev/health-check-interval", fix, |text| {
        milliseconds(text).filter(|interval| *interval >= INTERVAL_MILLISECONDS_MIN)
    });
    let timeout = values.get("portunus.dev/health-check-timeout", DURATION, milliseconds);
    let healthy = values.get("portunus.dev/health-check-healthy", COUNT_FROM_1, from_1);
    let unhealthy = values.get("portunus.dev/health-check-unhealthy", COUNT_FROM_1, from_1);
    Some(Check {
        kind: match kind {
            Kind::Http => CheckKind::Http { path: path.unwrap_or("/").into(), host: host.map(Into::into) },
            Kind::Grpc => CheckKind::Grpc { service: path.unwrap_or_default().into() },
            Kind::Tcp => CheckKind::Tcp,
        },
        interval_milliseconds: interval.unwrap_or(INTERVAL_MILLISECONDS),
        timeout_milliseconds: timeout.unwrap_or(TIMEOUT_MILLISECONDS),
        healthy: healthy.unwrap_or(HEALTHY),
        unhealthy: unhealthy.unwrap_or(UNHEALTHY),
    })
}

/// A duration of a millisecond at least.
fn milliseconds(text: &str) -> Option<u32> {
    let duration: Duration = humantime::parse_duration(text).ok()?;
    u32::try_from(duration.as_millis()).ok().filter(|milliseconds| *milliseconds > 0)
}

fn from_1(text: &str) -> Option<u32> {
    text.parse().ok().filter(|count| *count > 0)
}

#[cfg(test)]
mod tests {
    use super::super::annotated;
    use super::*;
    use crate::translate::Resources;

    fn read_all(all: &[(&str, &str)]) -> (Resilience, Vec<String>) {
        let (ingress, resources) = (annotated(all), Resources::default());
        let mut values = Values::new(&ingress, &resources);
        let read = read(&mut values);
        (read, values.faults.into_iter().map(|fault| fault.name.to_owned()).collect())
    }

    #[test]
    fn checks_have_their_defaults_and_each_kind_its_question() {
        let http = |path: &str, host: Option<&str>| CheckKind::Http { path: path.into(), host: host.map(Into::into) };
        let grpc = |service: &str| CheckKind::Grpc { service: service.into() };
        let (kind, path) = ("portunus.dev/health-check", "portunus.dev/health-check-path");
        for (asked, expected) in [
            (&[(kind, "http")][..], http("/", None)),
            (&[(kind, "http"), (path, "/a?b")], http("/a?b", None)),
            (&[(kind, "http"), ("portunus.dev/health-check-host", "a.test:81")], http("/", Some("a.test:81"))),
            (&[(kind, "grpc")], grpc("")),
            (&[(kind, "grpc"), (path, "a.b.C")], grpc("a.b.C")),
            (&[(kind, "tcp")], CheckKind::Tcp),
        ] {
            let (read, faults) = read_all(asked);
            let check = read.check.expect("a check");
            assert_eq!((&check.kind, faults), (&expected, vec![]));
            let numbers = (check.interval_milliseconds, check.timeout_milliseconds, check.healthy, check.unhealthy);
            assert_eq!(numbers, (10_000, 2_000, 2, 3));
        }
    }

    #[test]
    fn what_is_no_value_counts_as_not_there() {
        for (name, values) in [
            ("outlier-failures", &["", "-1", "many"][..]),
            ("outlier-ejection-time", &["", "5", "0s", "-1s", "50d"]),
            ("panic-threshold", &["", "101", "50%"]),
            ("slow-start", &["", "30"]),
            ("max-in-flight", &["", "0", "-1"]),
            ("max-pending", &["", "-1"]),
            ("health-check", &["", "HTTP", "https"]),
        ] {
            let name = format!("portunus.dev/{name}");
            for value in values {
                assert_eq!(read_all(&[(&name, value)]), (Resilience::default(), vec![name.clone()]), "{value}");
            }
        }
        let too_long = "s".repeat(256);
        for (kind, name, value) in [
            ("http", "path", "healthz"),
            ("grpc", "path", "a b"),
            ("grpc", "path", &too_long),
            ("tcp", "path", "/"),
            ("tcp", "host", "a.test"),
            ("http", "host", "a@b"),
            ("http", "interval", "99ms"),
            ("http", "timeout", "1"),
            ("http", "healthy", "0"),
            ("http", "unhealthy", "0"),
        ] {
            let name = format!("portunus.dev/health-check-{name}");
            let plain = read_all(&[("portunus.dev/health-check", kind)]).0;
            let read = read_all(&[("portunus.dev/health-check", kind), (&name, value)]);
            assert_eq!(read, (plain, vec![name.clone()]), "{kind} {value}");
            assert_eq!(read_all(&[(&name, value)]).1, [name], "it needs health-check");
        }
    }
}
