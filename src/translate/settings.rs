//! What the operator decides for all objects: by flags, and for some of it by a ConfigMap that is watched.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, StatusCode, header};
use ipnet::IpNet;

use super::annotations::{access, forwarding};
use super::problem::{Kind, ObjectRef, Problem};
use super::resources::Resources;
use crate::balance::Policy;
use crate::filter::SourceRange;
use crate::model::{Forwarding, Normalization, ObjectName, Outliers, Retry};

/// What the operator decides for all objects.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the operator's")]
pub struct Settings {
    /// Controller name of our IngressClasses.
    pub controller: String,
    /// Class that is ours by its name alone.
    pub class: String,
    /// Take Ingresses without a class, whatever classes there are.
    pub without_class: bool,
    /// Take Ingresses without a class as long as there is no IngressClass at all (a folder of manifests).
    pub without_any_class: bool,
    pub allow_external_names: bool,
    /// Leave out endpoints that are this machine, its link, or the API server.
    pub deny_local_endpoints: bool,
    /// Where the API server is, as far as the objects don't say so.
    pub api_server: Option<SocketAddr>,
    /// What is done about paths that backends read apart.
    pub normalization: Normalization,
    pub policy: Policy,
    /// When endpoints are left out because they fail, where an Ingress doesn't say.
    pub outliers: Outliers,
    pub default_certificate: Option<ObjectName>,
    /// Serve an Ingress whose annotations restrict access even though they are not honoured.
    pub ignore_unsupported_annotations: bool,
    /// From http to https on hosts that speak TLS, if their Ingress says nothing else.
    pub ssl_redirect: bool,
    /// The same on all hosts.
    pub force_ssl_redirect: bool,
    /// Of redirects to https, and between a host and its `www.`.
    pub redirect_status: StatusCode,
    /// `Strict-Transport-Security` on hosts that speak TLS.
    pub hsts: Hsts,
    /// Of answers to clients that ask for more than their limit allows: too often, and too much at once.
    pub limit_rate_status: StatusCode,
    pub limit_connections_status: StatusCode,
    /// How requests are sent on, if their Ingress says nothing else. It names no default backend: that is an
    /// Ingress's own.
    pub forwarding: Forwarding,
    /// Statuses that Ingresses with a `default-backend` have it answer for, if they name no others. Sorted.
    pub custom_http_errors: Vec<u16>,
    /// Which clients pass, where an Ingress doesn't say.
    pub source_ranges: SourceRange,
    /// The ConfigMap would keep somebody out, and can't.
    pub restriction_unread: bool,
    /// A host belongs to one namespace, that of the oldest Ingress that names it.
    pub strict_host_ownership: bool,
    /// Take Ingresses of the known namespaces only.
    pub select_namespaces: bool,
    /// Fields that Ingresses may set in answers.
    pub allowed_response_headers: Vec<HeaderName>,
    /// The ConfigMap that has some of these settings.
    pub config_map: Option<ObjectName>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            controller: "portunus.dev/ingress-controller".to_owned(),
            class: "portunus".to_owned(),
            without_class: false,
            without_any_class: true,
            allow_external_names: false,
            deny_local_endpoints: false,
            api_server: None,
            normalization: Normalization::default(),
            policy: Policy::default(),
            outliers: Outliers::default(),
            default_certificate: None,
            ignore_unsupported_annotations: false,
            ssl_redirect: true,
            force_ssl_redirect: false,
            redirect_status: StatusCode::PERMANENT_REDIRECT,
            hsts: Hsts::default(),
            limit_rate_status: StatusCode::SERVICE_UNAVAILABLE,
            limit_connections_status: StatusCode::SERVICE_UNAVAILABLE,
            forwarding: Forwarding::default(),
            custom_http_errors: Vec::new(),
            source_ranges: SourceRange { allow: [].into(), deny: [].into() },
            restriction_unread: false,
            strict_host_ownership: false,
            select_namespaces: false,
            allowed_response_headers: Vec::new(),
            config_map: None,
        }
    }
}

/// What `Strict-Transport-Security` says (RFC 6797), as ingress-nginx has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hsts {
    pub on: bool,
    /// Seconds.
    pub max_age: u32,
    pub include_subdomains: bool,
    pub preload: bool,
}

impl Default for Hsts {
    fn default() -> Self {
        Self { on: true, max_age: 31_536_000, include_subdomains: true, preload: false }
    }
}

impl Hsts {
    pub(super) fn value(&self) -> Option<HeaderValue> {
        // Thousands of hosts have it, and no memory for it.
        if *self == Self::default() {
            return Some(HeaderValue::from_static("max-age=31536000; includeSubDomains"));
        }
        let subdomains = if self.include_subdomains { "; includeSubDomains" } else { "" };
        let preload = if self.preload { "; preload" } else { "" };
        let text = format!("max-age={}{subdomains}{preload}", self.max_age);
        self.on.then(|| HeaderValue::try_from(text).expect("digits and words are a value"))
    }
}

impl Settings {
    /// These settings with what the ConfigMap says instead. What is wrong there counts as not said.
    pub(super) fn with_config_map(&self, resources: &Resources) -> (Self, Vec<Problem>) {
        let mut settings = self.clone();
        let Some(name) = &self.config_map else { return (settings, Vec::new()) };
        let object = ObjectRef::new(Kind::ConfigMap, name);
        let Some(data) = resources.config_maps.get(name) else {
            let what = "there is no such ConfigMap, the flags count";
            return (
                settings,
                vec![Problem::new(object, "metadata.name", what, "create it, or leave out --configmap")],
            );
        };
        let wrong = settings.take(data);
        let restricts = if settings.closes() {
            "it restricts access, so all requests get 503; `unsupported-annotations: ignore` would let them pass"
        } else {
            "all routes are open: `unsupported-annotations` is `ignore`"
        };
        let problem = |(key, what, fix, closes): (&String, String, &str, bool)| {
            let counts = if closes { restricts } else { "the flag counts" };
            Problem::new(object.clone(), format!("data[{key}]"), what, format!("{fix}; {counts}"))
        };
        let problems = wrong.into_iter().map(problem).collect();
        (settings, problems)
    }

    /// Whether no route may be open, as somebody might get in whom the operator wants kept out.
    pub(super) fn closes(&self) -> bool {
        self.restriction_unread && !self.ignore_unsupported_annotations
    }

    fn take<'a>(&mut self, data: &'a BTreeMap<String, String>) -> Vec<(&'a String, String, &'static str, bool)> {
        let mut wrong = Vec::new();
        for (key, text) in data {
            let (what, fix, closes) = match self.set(key, text.trim()) {
                Ok(()) => continue,
                Err(Wrong::Key) => {
                    ("is no setting that is known here".to_owned(), "remove it, or start with a flag", false)
                }
                Err(Wrong::Value(fix)) => (format!("`{}` is no value for it", text.trim()), fix, false),
                Err(Wrong::Closes(what, fix)) => (what, fix, true),
            };
            self.restriction_unread |= closes;
            wrong.push((key, what, fix, closes));
        }
        wrong
    }

    fn set(&mut self, key: &str, text: &str) -> Result<(), Wrong> {
        match key {
            "load-balance" => self.policy = policy(text)?,
            "default-tls-certificate" | "default-ssl-certificate" => {
                let name = text.parse().map_err(|_| Wrong::Value("write NAMESPACE/NAME of a Secret"))?;
                self.default_certificate = Some(name);
            }
            "allow-external-names" => self.allow_external_names = switch(text)?,
            "global-allowed-response-headers" => {
                let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
                let names: Result<_, String> = names.map(response_header).collect();
                let fix = "write names of header fields with commas between, none that frame an answer";
                self.allowed_response_headers = names.map_err(|_| Wrong::Value(fix))?;
            }
            "watch-ingress-without-class" => self.without_class = switch(text)?,
            "ssl-redirect" => self.ssl_redirect = switch(text)?,
            "force-ssl-redirect" => self.force_ssl_redirect = switch(text)?,
            "http-redirect-code" => {
                let code = text.parse().ok().filter(|code| matches!(code, 301 | 302 | 307 | 308));
                let status = code.and_then(|code| StatusCode::from_u16(code).ok());
                self.redirect_status = status.ok_or(Wrong::Value("write 301, 302, 307 or 308"))?;
            }
            "limit-req-status-code" => self.limit_rate_status = refusal(text)?,
            "limit-conn-status-code" => self.limit_connections_status = refusal(text)?,
            "hsts" => self.hsts.on = switch(text)?,
            "hsts-max-age" => self.hsts.max_age = text.parse().map_err(|_| Wrong::Value("write seconds"))?,
            "hsts-include-subdomains" => self.hsts.include_subdomains = switch(text)?,
            "hsts-preload" => self.hsts.preload = switch(text)?,
            "unsupported-annotations" => {
                self.ignore_unsupported_annotations = match text {
                    "close" => false,
                    "ignore" => true,
                    _ => return Err(Wrong::Value("write close or ignore")),
                }
            }
            "whitelist-source-range" => self.source_ranges.allow = ranges(text)?,
            "denylist-source-range" => self.source_ranges.deny = ranges(text)?,
            // What is empty keeps nobody out.
            "block-cidrs" | "block-user-agents" | "block-referers" | "global-auth-url" if text.is_empty() => {}
            "block-cidrs" => {
                return Err(Wrong::Closes(NOT_SUPPORTED.to_owned(), "write `denylist-source-range` in place of it"));
            }
            "block-user-agents" | "block-referers" | "global-auth-url" => {
                return Err(Wrong::Closes(NOT_SUPPORTED.to_owned(), "remove it"));
            }
            _ => return self.set_forwarding(key, text),
        }
        Ok(())
    }

    /// The keys that annotations of the same names go before.
    fn set_forwarding(&mut self, key: &str, text: &str) -> Result<(), Wrong> {
        let seconds = || forwarding::seconds(text).map(Some).ok_or(Wrong::Value("write seconds, from 1 on"));
        let general = &mut self.forwarding;
        match key {
            "proxy-connect-timeout" => general.connect_timeout_seconds = seconds()?,
            "proxy-send-timeout" => general.send_timeout_seconds = seconds()?,
            "proxy-read-timeout" => general.read_timeout_seconds = seconds()?,
            "proxy-body-size" => {
                general.body_bytes_max = forwarding::size(text).ok_or(Wrong::Value("write a size, as 8m, or 0"))?;
            }
            "proxy-request-buffering" => {
                general.buffers_body = forwarding::on_or_off(text).ok_or(Wrong::Value("write on or off"))?;
            }
            "proxy-next-upstream" => {
                let wrong = Wrong::Value("write off, or a list as `error timeout http_503`");
                let (on, non_idempotent) = forwarding::failures(text).ok_or(wrong)?;
                let retry = general.retry.get_or_insert_default();
                (retry.on, retry.non_idempotent) = (on, non_idempotent);
            }
            "proxy-next-upstream-tries" => {
                let tries = text.parse().map_err(|_| Wrong::Value("write a count"))?;
                general.retry.get_or_insert_default().tries = tries;
            }
            "proxy-next-upstream-timeout" => {
                let seconds: u32 = text.parse().map_err(|_| Wrong::Value("write seconds"))?;
                general.retry.get_or_insert_default().timeout_seconds = (seconds > 0).then_some(seconds);
            }
            "custom-http-errors" => {
                let wrong = Wrong::Value("write statuses from 400 to 599, as 404,503");
                self.custom_http_errors = forwarding::statuses(text).ok_or(wrong)?;
            }
            _ => return Err(Wrong::Key),
        }
        Ok(())
    }
}

enum Wrong {
    Key,
    /// And what to write.
    Value(&'static str),
    /// What is wrong, and what to write: somebody would get in who is to be kept out.
    Closes(String, &'static str),
}

const NOT_SUPPORTED: &str = "is not supported";

fn ranges(text: &str) -> Result<Arc<[IpNet]>, Wrong> {
    if text.is_empty() {
        return Ok([].into());
    }
    let fix = "write addresses and CIDRs with commas between them, as 10.0.0.0/8, 2001:db8::1";
    access::ranges(text).map_err(|(what, _)| Wrong::Closes(what, fix))
}

/// The status of a refusal: what nginx takes for one.
fn refusal(text: &str) -> Result<StatusCode, Wrong> {
    let status = text.parse().ok().filter(|code| (400..=599).contains(code));
    status.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Wrong::Value("write a status from 400 to 599"))
}

/// Failures after which a request is sent once more, as the annotation `proxy-next-upstream` has them.
pub fn next_upstream(text: &str) -> Result<Retry, String> {
    let failures = forwarding::failures(text);
    let wrong = || format!("`{text}` is neither off nor a list of failures, as `error timeout http_503`");
    let (on, non_idempotent) = failures.ok_or_else(wrong)?;
    Ok(Retry { on, non_idempotent, ..Retry::default() })
}

/// The name of a field that Ingresses may set in answers: none of those that say where an answer ends.
pub fn response_header(text: &str) -> Result<HeaderName, String> {
    let name: HeaderName = text.parse().map_err(|_| format!("`{text}` is no name of a header field"))?;
    let framing = [header::CONNECTION, header::CONTENT_LENGTH, header::TE, header::TRAILER, header::TRANSFER_ENCODING];
    if framing.contains(&name) || name == header::UPGRADE || name == "keep-alive" || name == "proxy-connection" {
        return Err(format!("`{text}` is a connection's affair, and no Ingress's"));
    }
    Ok(name)
}

fn switch(text: &str) -> Result<bool, Wrong> {
    text.parse().map_err(|_| Wrong::Value("write true or false"))
}

fn policy(text: &str) -> Result<Policy, Wrong> {
    match text {
        "round_robin" => Ok(Policy::RoundRobin),
        "least_requests" => Ok(Policy::LeastRequests),
        "ewma" => Ok(Policy::PeakEwma),
        "consistent_hash" => Ok(Policy::ConsistentHash),
        _ => Err(Wrong::Value("write round_robin, least_requests, ewma or consistent_hash")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translate::Object;

    fn resources(data: &[(&str, &str)]) -> Resources {
        let mut resources = Resources::default();
        let data = data.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        resources.apply(Object::ConfigMap(ObjectName::new("edge", "settings"), data));
        resources
    }

    #[test]
    fn a_config_map_counts_before_the_flags_and_what_is_wrong_in_it_does_not() {
        let flags = Settings { config_map: Some(ObjectName::new("edge", "settings")), ..Settings::default() };
        let good = resources(&[("load-balance", "ewma"), ("allow-external-names", "true")]);
        let (settings, problems) = flags.with_config_map(&good);
        assert!(problems.is_empty() && settings.policy == Policy::PeakEwma && settings.allow_external_names);

        let bad =
            resources(&[("load-balance", "fastest"), ("worker-processes", "4"), ("default-ssl-certificate", "x")]);
        let (settings, problems) = flags.with_config_map(&bad);
        assert_eq!(settings, flags);
        let shown: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "ConfigMap edge/settings data[default-ssl-certificate]: `x` is no value for it; write NAMESPACE/NAME of \
                 a Secret; the flag counts",
                "ConfigMap edge/settings data[load-balance]: `fastest` is no value for it; write round_robin, \
                 least_requests, ewma or consistent_hash; the flag counts",
                "ConfigMap edge/settings data[worker-processes]: is no setting that is known here; remove it, or start \
                 with a flag; the flag counts",
            ]
        );
        let (settings, problems) = flags.with_config_map(&Resources::default());
        assert!(settings == flags && problems.len() == 1);
    }

    #[test]
    fn keys_that_keep_somebody_out_are_honoured_or_close_everything() {
        let flags = Settings { config_map: Some(ObjectName::new("edge", "settings")), ..Settings::default() };
        let read = |data: &[_]| flags.with_config_map(&resources(data));
        let (settings, problems) =
            read(&[("whitelist-source-range", "10.0.0.0/8"), ("denylist-source-range", ""), ("block-cidrs", " ")]);
        assert_eq!((settings.source_ranges.allow.len(), settings.source_ranges.deny.len(), problems), (1, 0, vec![]));
        for bad in [
            ("whitelist-source-range", "10.0.0.0/8, x"),
            ("denylist-source-range", "10.0.0.0/33"),
            ("block-cidrs", "10.0.0.0/8"),
            ("block-user-agents", "curl"),
            ("block-referers", "~*"),
            ("global-auth-url", "https://a.example"),
        ] {
            let (settings, problems) = read(&[bad]);
            assert!(settings.closes() && problems[0].fix.contains("all requests get 503"), "{bad:?}");
            let (settings, problems) = read(&[bad, ("unsupported-annotations", "ignore")]);
            assert!(!settings.closes() && problems[0].fix.contains("all routes are open"), "{bad:?}");
        }
    }

    #[test]
    fn fields_that_answers_may_get_are_a_list_of_names() {
        let flags = Settings { config_map: Some(ObjectName::new("edge", "settings")), ..Settings::default() };
        let read = |text| flags.with_config_map(&resources(&[("global-allowed-response-headers", text)]));
        let (settings, problems) = read(" X-Frame-Options,content-security-policy ,,");
        assert_eq!(settings.allowed_response_headers, ["x-frame-options", "content-security-policy"]);
        assert_eq!((problems, read("").1), (vec![], vec![]));
        for bad in ["a b", "x-a;x-b", "x-a, Content-Length", "Connection", "ü"] {
            let (settings, problems) = read(bad);
            assert_eq!((settings, problems.len()), (flags.clone(), 1), "{bad}");
        }
    }
}
