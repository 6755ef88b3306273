//! Who may read answers in a browser (Fetch standard, "CORS protocol").

use http::{HeaderName, HeaderValue, Method, header};

use super::{Annotation, Values, list, open, shown};
use crate::filter::{Cors, Filter, Origin, Origins};

const HEADERS: &str =
    "DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,Range,Authorization";
const METHODS: &str = "GET, PUT, POST, DELETE, PATCH, OPTIONS";
/// Seconds: 20 days.
const MAX_AGE: u32 = 1_728_000;
/// Origins of one list; each is looked at for each request.
const ORIGINS_MAX: usize = 1_000;
/// Most texts that are named because they are no origins.
const NAMED_MAX: usize = 10;

#[rustfmt::skip]
pub(super) const ANNOTATIONS: &[Annotation] = &[
    open(
        "enable-cors",
        "bool",
        "false",
        "answers say who may read them in a browser; preflights of who may are answered here (204)",
    )
    .example("true"),
    open(
        "cors-allow-origin",
        "list of `*`, `null`, `scheme://host[:port]`; a host may begin with `*.`, which stands for one label",
        "*",
        "which origins may ask",
    )
    .example("https://*.verona.example, https://verona.example:8443"),
    open("cors-allow-methods", "list", METHODS, "methods that may be used").example("GET, POST"),
    open("cors-allow-headers", "list", HEADERS, "fields that may be sent").example("Content-Type, X-Requested-With"),
    open("cors-expose-headers", "list", "", "fields of answers that may be read").example("X-Request-Id"),
    open("cors-allow-credentials", "bool", "true", "whether requests with cookies may be made").example("false"),
    open("cors-max-age", "seconds", "1728000", "for how long a preflight's answer counts").example("600"),
];

pub(super) fn read(values: &mut Values) -> Option<Filter> {
    let [_, others @ ..] = ANNOTATIONS else { return None };
    if !values.switch("enable-cors") {
        values.without_effect(others, "enable-cors: \"true\"");
        return None;
    }
    let origins = origins(values);
    let methods = values.parse("cors-allow-methods", |text| names(text, |name| Method::from_bytes(name).is_ok()));
    let is_field = |name: &[u8]| name == b"*" || HeaderName::from_bytes(name).is_ok();
    let headers = values.parse("cors-allow-headers", |text| names(text, is_field));
    let exposed = values.parse("cors-expose-headers", |text| names(text, is_field));
    let credentials = values.switched("cors-allow-credentials").unwrap_or(true);
    let age = values.get("cors-max-age", "write seconds, as \"600\"", |text| text.parse().ok()).unwrap_or(MAX_AGE);
    let fields = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, Some(methods.unwrap_or(HeaderValue::from_static(METHODS)))),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, Some(headers.unwrap_or(HeaderValue::from_static(HEADERS)))),
        (header::ACCESS_CONTROL_MAX_AGE, Some(HeaderValue::from(age))),
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed),
    ];
    let fields = fields.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    Some(Filter::Cors(Cors { origins, credentials, fields }))
}

/// The origins that may ask. One that can't be read is none; it never makes them more.
fn origins(values: &mut Values) -> Origins {
    let key = "cors-allow-origin";
    let Some(text) = values.get(key, "", Some) else { return Origins::Any };
    if list(text).any(|item| item == "*") {
        return Origins::Any;
    }
    if list(text).next().is_none() {
        values.void(key, "it names no origin".to_owned(), "write one, or `*`; nobody may ask meanwhile");
    }
    let (mut origins, mut others) = (Vec::new(), 0);
    for (item, origin) in list(text).map(|item| (item, Origin::parse(item))) {
        match origin {
            Some(origin) => origins.push(origin),
            None if others < NAMED_MAX => {
                others += 1;
                let what = format!("`{}` is no origin", shown(item));
                let fix =
                    "write scheme://host or scheme://host:port, as https://verona.example; it may not ask meanwhile";
                values.void(key, what, fix);
            }
            None => others += 1,
        }
    }
    if others > NAMED_MAX {
        values.void(key, format!("{} more are no origins", others - NAMED_MAX), "write them as the others");
    }
    if origins.len() > ORIGINS_MAX {
        let what = format!("{} origins are more than {ORIGINS_MAX}", origins.len());
        values.void(key, what, "write fewer, with `*.` for a label; those beyond may not ask meanwhile");
        origins.truncate(ORIGINS_MAX);
    }
    Origins::Some(origins.into())
}

fn names(text: &str, is_name: impl Fn(&[u8]) -> bool) -> Result<HeaderValue, (String, String)> {
    if let Some(other) = list(text).find(|name| !is_name(name.as_bytes())) {
        return Err((format!("`{}` is no name", shown(other)), "write names, with commas between them".to_owned()));
    }
    let joined = list(text).collect::<Vec<_>>().join(", ");
    let value = HeaderValue::try_from(joined).ok().filter(|value| !value.is_empty());
    value.ok_or_else(|| ("it names nothing".to_owned(), "write names, or remove it".to_owned()))
}
