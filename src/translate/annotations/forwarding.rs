//! How requests are sent on: time limits, the size of bodies, when a request is sent once more, and who answers when
//! the endpoints don't, or with an error. The operator's ConfigMap has keys of the same names, which count for all
//! Ingresses that say nothing else; what neither says is as the flags have it.

use super::{Annotation, Values, list, open, resilience};
use crate::model::{BackendKey, DefaultBackend, Failure, Forwarding, ObjectName, PortRef, Retry};
use crate::translate::Settings;

pub(super) const ANNOTATIONS: &[Annotation] = &[
    open("proxy-connect-timeout", "seconds", "`--connect-timeout`", "longest time to connect to an endpoint").example("10"),
    open("proxy-send-timeout", "seconds", "`--upstream-write-timeout`", "longest time between two writes of a request").example("120"),
    open("proxy-read-timeout", "seconds", "`--upstream-read-timeout`", "longest time between two reads of an answer, and for its head; of a WebSocket, the time that it may be silent").example("3600"),
    open("proxy-next-upstream", "`off`, or a list by spaces of `error` `timeout` `invalid_header` `http_500` `http_502` `http_503` `http_504` `http_403` `http_404` `http_429` `non_idempotent`", "[one more try](forwarding.md#sent-once-more)", "failures after which a request is sent to another endpoint; without it, `error timeout` where one of the next two is written").example("error timeout http_503"),
    open("proxy-next-upstream-tries", "count", "3", "how often, with the first, up to 16 or the number of endpoints; 0 is as often as there are endpoints").example("2"),
    open("proxy-next-upstream-timeout", "seconds", "0", "no try begins later than this, and one that runs goes on; 0 is no limit").example("30"),
    open("proxy-body-size", "bytes, or with `k`, `m`, `g`", "0", "longest body of a request; beyond it 413. 0 is no limit").example("8m"),
    open("proxy-request-buffering", "`on`, `off`", "off", "a request's body is read whole before an endpoint is chosen, up to 1 MiB ([how](forwarding.md#bodies))").example("on"),
    open("proxy-buffering", "on/off", "off", "buffer response"),
    open("client-body-buffer-size", "size", "8k", "memory part of the body buffer"),
    open("proxy-buffer-size", "size", "4k", "longest head of an answer"),
    open("proxy-buffers-number", "int", "4", "buffers"),
    open("proxy-busy-buffers-size", "size", "", "busy part"),
    open("proxy-max-temp-file-size", "size", "1024m", "temp file limit"),
];

pub(super) const ERRORS: &[Annotation] = &[
    open(
        "default-backend",
        "name of a Service",
        "",
        "its first port answers when the backend has no endpoint, and for `custom-http-errors`",
    )
    .example("app"),
    open(
        "custom-http-errors",
        "list of statuses, 4xx and 5xx",
        "",
        "instead of an answer with one of these `default-backend` is asked ([how](forwarding.md#errors))",
    )
    .example("404,503"),
    open(
        "disable-proxy-intercept-errors",
        "bool",
        "false",
        "endpoints' answers are passed on; `custom-http-errors` are those of Portunus alone",
    )
    .example("true"),
];

const SECONDS: &str = "write seconds, from 1 on, as \"60\"";

/// What is asked for, if it is anything but what the flags say.
pub(super) fn read(values: &mut Values, namespace: &str, settings: &Settings) -> Option<Box<Forwarding>> {
    let general = &settings.forwarding;
    let connect = values.get("proxy-connect-timeout", SECONDS, seconds);
    let send = values.get("proxy-send-timeout", SECONDS, seconds);
    let read = values.get("proxy-read-timeout", SECONDS, seconds);
    let body = values.get("proxy-body-size", "write bytes, as \"8388608\", or 8192k, 8m, 1g; 0 is no limit", size);
    let buffers = values.get("proxy-request-buffering", "write \"on\" or \"off\"", on_or_off);
    let forwarding = Forwarding {
        connect_timeout_seconds: connect.or(general.connect_timeout_seconds),
        send_timeout_seconds: send.or(general.send_timeout_seconds),
        read_timeout_seconds: read.or(general.read_timeout_seconds),
        body_bytes_max: body.unwrap_or(general.body_bytes_max),
        buffers_body: buffers.unwrap_or(general.buffers_body),
        retry: retry(values, general.retry.as_ref()),
        try_timeout_milliseconds: resilience::try_timeout(values),
        request_timeout_milliseconds: resilience::request_timeout(values),
        default_backend: default_backend(values, namespace, &settings.custom_http_errors),
    };
    (forwarding != Forwarding::default()).then(|| Box::new(forwarding))
}

fn retry(values: &mut Values, general: Option<&Retry>) -> Option<Retry> {
    let on = values.get("proxy-next-upstream", "write off, or a list as `error timeout http_503`", failures);
    let tries = values.get("proxy-next-upstream-tries", "write a count, as \"3\"", |text| text.parse().ok());
    let timeout = values
        .get("proxy-next-upstream-timeout", "write seconds, as \"30\"; 0 is no limit", |text| text.parse::<u32>().ok());
    if on.is_none() && tries.is_none() && timeout.is_none() {
        return general.cloned();
    }
    let mut retry = general.cloned().unwrap_or_default();
    if let Some(on) = on {
        (retry.on, retry.non_idempotent) = on;
    }
    retry.tries = tries.unwrap_or(retry.tries);
    if let Some(seconds) = timeout {
        retry.timeout_seconds = (seconds > 0).then_some(seconds);
    }
    Some(retry)
}

fn default_backend(values: &mut Values, namespace: &str, general: &[u16]) -> Option<DefaultBackend> {
    let name = values.get("default-backend", "write the name of a Service of the same namespace", |text| {
        is_service_name(text).then_some(text)
    });
    let [_, errors @ ..] = ERRORS else { return None };
    let Some(name) = name else {
        values.without_effect(errors, "default-backend");
        return None;
    };
    let service = ObjectName::new(namespace, name);
    let errors = values.get("custom-http-errors", "write statuses from 400 to 599, as \"404,503\"", statuses);
    Some(DefaultBackend {
        backend: BackendKey { service, port: PortRef::First, options: None },
        errors: errors.unwrap_or_else(|| general.to_vec()),
        passes_errors: values.switch("disable-proxy-intercept-errors"),
    })
}

/// nginx takes 0 to be no time at all.
pub(in crate::translate) fn seconds(text: &str) -> Option<u32> {
    text.parse().ok().filter(|seconds| *seconds > 0)
}

/// A size as nginx writes it; `Some(None)` is none.
#[expect(clippy::option_option, reason = "no size, or a size that is none")]
pub(in crate::translate) fn size(text: &str) -> Option<Option<u64>> {
    let (digits, unit) = match text.as_bytes().last()?.to_ascii_lowercase() {
        b'k' => (&text[..text.len() - 1], 1 << 10),
        b'm' => (&text[..text.len() - 1], 1 << 20),
        b'g' => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    let bytes = digits.parse::<u64>().ok().filter(|_| plain)?.checked_mul(unit)?;
    Some((bytes > 0).then_some(bytes))
}

pub(in crate::translate) fn on_or_off(text: &str) -> Option<bool> {
    match text {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

/// The failures, and whether methods count that are not idempotent.
pub(in crate::translate) fn failures(text: &str) -> Option<(Vec<Failure>, bool)> {
    let (mut on, mut non_idempotent, mut off) = (Vec::new(), false, false);
    for word in text.split_ascii_whitespace() {
        let failure = match word {
            "error" => Failure::Error,
            "timeout" => Failure::Timeout,
            "invalid_header" => Failure::InvalidHeader,
            "http_403" | "http_404" | "http_429" | "http_500" | "http_502" | "http_503" | "http_504" => {
                Failure::Status(word["http_".len()..].parse().ok()?)
            }
            "non_idempotent" => {
                non_idempotent = true;
                continue;
            }
            "off" => {
                off = true;
                continue;
            }
            _ => return None,
        };
        if !on.contains(&failure) {
            on.push(failure);
        }
    }
    if off {
        on.clear();
    }
    (off || non_idempotent || !on.is_empty()).then_some((on, non_idempotent))
}

pub(in crate::translate) fn statuses(text: &str) -> Option<Vec<u16>> {
    let parse = |text: &str| text.parse().ok().filter(|status| (400..=599).contains(status));
    let mut all: Vec<u16> = list(text).map(parse).collect::<Option<_>>()?;
    all.sort_unstable();
    all.dedup();
    (!all.is_empty()).then_some(all)
}

/// RFC 1123, 2.1: a label.
fn is_service_name(text: &str) -> bool {
    let label = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(label) && !text.starts_with('-') && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::super::annotated;
    use super::*;
    use crate::translate::Resources;

    fn read_all(all: &[(&str, &str)]) -> (Option<Box<Forwarding>>, Vec<String>) {
        read_beside(all, &Settings::default())
    }

    fn read_beside(all: &[(&str, &str)], settings: &Settings) -> (Option<Box<Forwarding>>, Vec<String>) {
        let (ingress, resources) = (annotated(all), Resources::default());
        let mut values = Values::new(&ingress, &resources);
        let forwarding = read(&mut values, "montague", settings);
        (forwarding, values.faults.into_iter().map(|fault| fault.name.to_owned()).collect())
    }

    #[test]
    fn what_is_no_value_counts_as_not_there() {
        for (name, values) in [
            ("proxy-connect-timeout", &["", "0", "-1", "5s", "1.5", "99999999999"][..]),
            ("proxy-send-timeout", &["0", "1m"]),
            ("proxy-read-timeout", &["0", "1m"]),
            ("proxy-body-size", &["", "m", "-1", "+1", "1t", "1 m", "1.5m", "99999999999g", "8mb"]),
            ("proxy-request-buffering", &["", "true", "On"]),
            ("proxy-next-upstream", &["", "errors", "error,timeout", "http_200", "http_501"]),
            ("proxy-next-upstream-tries", &["", "-1", "many"]),
            ("proxy-next-upstream-timeout", &["", "-1", "5s"]),
            ("default-backend", &["", "a/b", "A", "-a", "a-", "a.b", "a:80"]),
        ] {
            for value in values {
                assert_eq!(read_all(&[(name, value)]), (None, vec![name.to_owned()]), "{name}: {value}");
            }
        }
        for value in ["", "200", "399", "600", "404;503", "4xx", "404 503"] {
            let (forwarding, faults) = read_all(&[("default-backend", "a"), ("custom-http-errors", value)]);
            assert_eq!(faults, ["custom-http-errors"], "{value}");
            assert_eq!(forwarding.unwrap().default_backend.unwrap().errors, [0u16; 0], "{value}");
        }
        assert_eq!(read_all(&[("custom-http-errors", "404")]), (None, vec!["custom-http-errors".to_owned()]));
        assert_eq!(read_all(&[("proxy-body-size", "0"), ("proxy-request-buffering", "off")]), (None, vec![]));
        assert_eq!(read_all(&[]), (None, vec![]));
    }

    #[test]
    fn sizes_are_nginxs() {
        for (text, bytes) in [("1000", 1000), ("100k", 102_400), ("1M", 1 << 20), ("2g", 2 << 30), ("08m", 8 << 20)] {
            assert_eq!(size(text), Some(Some(bytes)), "{text}");
        }
        assert_eq!((size("0"), size("0m")), (Some(None), Some(None)));
    }

    #[test]
    fn failures_are_a_list_by_spaces_and_off_is_none() {
        let all = "error  timeout error http_404 non_idempotent";
        let on = vec![Failure::Error, Failure::Timeout, Failure::Status(404)];
        assert_eq!(failures(all), Some((on, true)));
        assert_eq!(failures("error off"), Some((Vec::new(), false)));
        let tries = read_all(&[("proxy-next-upstream-tries", "0"), ("proxy-next-upstream-timeout", "0")]).0.unwrap();
        assert_eq!(tries.retry, Some(Retry { tries: 0, ..Retry::default() }));
    }

    #[test]
    fn an_ingress_says_what_is_other_than_the_operator_has_it_for_all() {
        let settings = Settings {
            forwarding: Forwarding {
                read_timeout_seconds: Some(5),
                body_bytes_max: Some(1000),
                buffers_body: true,
                retry: Some(Retry { tries: 7, ..Retry::default() }),
                ..Forwarding::default()
            },
            custom_http_errors: vec![500],
            ..Settings::default()
        };
        assert_eq!(*read_beside(&[], &settings).0.unwrap(), settings.forwarding);
        let own = [
            ("proxy-body-size", "0"),
            ("proxy-request-buffering", "off"),
            ("proxy-next-upstream", "off"),
            ("proxy-connect-timeout", "1"),
            ("default-backend", "b"),
        ];
        let read = *read_beside(&own, &settings).0.unwrap();
        let backend = BackendKey { service: ObjectName::new("montague", "b"), port: PortRef::First, options: None };
        let expected = Forwarding {
            connect_timeout_seconds: Some(1),
            read_timeout_seconds: Some(5),
            retry: Some(Retry { on: Vec::new(), tries: 7, ..Retry::default() }),
            default_backend: Some(DefaultBackend { backend, errors: vec![500], passes_errors: false }),
            ..Forwarding::default()
        };
        assert_eq!(read, expected);
    }
}
