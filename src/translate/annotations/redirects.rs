//! Redirects: to https, to the application's root, to anywhere else, and between a host and its `www.`.

use http::{HeaderValue, StatusCode, Uri};

use super::{Annotation, Values, open};
use crate::filter::{Filter, Redirect, RedirectTarget};
use crate::translate::Settings;

#[rustfmt::skip]
pub(super) const ANNOTATIONS: &[Annotation] = &[
    open("ssl-redirect", "bool", "true", "from http to https (308) on hosts that a TLS block lists or a certificate is for; `--ssl-redirect` is the default. Requests for `/.well-known/acme-challenge/` stay").example("false"),
    open("force-ssl-redirect", "bool", "false", "the same on any host, for where TLS ends before Portunus: a trusted proxy says `X-Forwarded-Proto: https`").example("true"),
    open("preserve-trailing-slash", "bool", "false", "these two keep the slash at the path's end, which they drop otherwise (not that of `/`, nor one before a query)").example("true"),
    open("app-root", "path", "", "from `/` to this path (302)").example("/app1"),
    open("permanent-redirect", "URL", "", "every request is sent there (301)").example("https://www.example.com"),
    open("permanent-redirect-code", "3xx", "301", "its status; another number than 300 to 308 counts as 301").example("308"),
    open("temporal-redirect", "URL", "", "every request is sent there (302); goes before `permanent-redirect`").example("https://www.example.com"),
    open("temporal-redirect-code", "3xx", "302", "its status; another number than 300 to 307 counts as 302").example("307"),
    open("relative-redirects", "bool", "false", "`app-root` names the path alone, and neither scheme nor host").example("true"),
    open("from-to-www-redirect", "bool", "false", "a host's `www.`, or what follows it, if nothing else is there, sends to the host (308)").example("true"),
];

/// How the requests of an Ingress get from http to https.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(in crate::translate) struct Https {
    ssl: Option<bool>,
    force: Option<bool>,
    pub(in crate::translate) preserve_trailing_slash: bool,
    /// The host with or without `www.` sends to this one.
    pub(in crate::translate) www: bool,
}

impl Https {
    /// Whether requests over http are sent to https.
    pub(in crate::translate) fn redirects(self, speaks_tls: bool, settings: &Settings) -> bool {
        self.force.unwrap_or(settings.force_ssl_redirect) || (speaks_tls && self.ssl.unwrap_or(settings.ssl_redirect))
    }
}

pub(super) fn https(values: &mut Values) -> Https {
    Https {
        ssl: values.switched("ssl-redirect"),
        force: values.switched("force-ssl-redirect"),
        preserve_trailing_slash: values.switch("preserve-trailing-slash"),
        www: values.switch("from-to-www-redirect"),
    }
}

pub(super) fn read(values: &mut Values) -> Vec<Filter> {
    let relative = values.switch("relative-redirects");
    let path = "write a path, as /app";
    let root = values.get("app-root", path, |text| is_path(text).then_some(text)).map(|path| Redirect {
        to: RedirectTarget::AppRoot { path: path.into(), relative },
        status: StatusCode::FOUND,
    });
    let temporal = to_url(values, "temporal-redirect", "temporal-redirect-code", StatusCode::FOUND, 307);
    let permanent = to_url(values, "permanent-redirect", "permanent-redirect-code", StatusCode::MOVED_PERMANENTLY, 308);
    root.into_iter().chain(temporal.or(permanent)).map(Filter::Redirect).collect()
}

/// A redirect with a status of its own, up to `last`.
fn to_url(
    values: &mut Values,
    name: &'static str,
    code: &'static str,
    default: StatusCode,
    last: u16,
) -> Option<Redirect> {
    let url = values.get(name, "write a URL, as https://www.example.com/a", url);
    let fix = format!("write a number from 300 to {last}");
    let status = values.get(code, &fix, |text| {
        let number = text.parse().ok().filter(|number| (300..=last).contains(number))?;
        StatusCode::from_u16(number).ok()
    });
    Some(Redirect { to: RedirectTarget::Url(url?), status: status.unwrap_or(default) })
}

fn url(text: &str) -> Option<HeaderValue> {
    let uri: Uri = text.parse().ok()?;
    let is_http = matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some();
    (is_http && text.is_ascii()).then(|| HeaderValue::from_str(text).ok())?
}

/// Begins with one slash: two would name another host.
fn is_path(text: &str) -> bool {
    text.starts_with('/')
        && !text.starts_with("//")
        && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
        && text.parse::<Uri>().is_ok()
}
