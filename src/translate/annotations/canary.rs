//! Another Ingress for the same hosts and paths, which takes some of their requests.

use http::HeaderName;

use super::{Annotation, Values, open, shown};
use crate::filter::{Canary, CanaryHeader, CanaryValue, Pattern};

const TOTAL: u32 = 100;

#[rustfmt::skip]
pub(super) const ANNOTATIONS: &[Annotation] = &[
    open("canary", "bool", "false", "the Ingress is the alternative of another's rules, of which it has host and path; all its annotations but these, `load-balance` and `upstream-hash-by…` are without effect. One alternative a rule: the oldest").example("true"),
    open("canary-by-header", "field", "", "a request whose field says `always` goes to the canary, one that says `never` doesn't, and of any other the next key decides").example("X-Canary"),
    open("canary-by-header-value", "text", "", "the value for the canary, instead of `always` and `never`").example("blue"),
    open("canary-by-header-pattern", "regex", "", "the same as a regular expression, without look-around and back-references; `canary-by-header-value` goes before it").example("^(blue|green)$"),
    open("canary-by-cookie", "cookie", "", "whose value `always` or `never` decides, after the field").example("canary"),
    open("canary-weight", "number from 0 on", "0", "of so many requests in `canary-weight-total`, after field and cookie").example("20"),
    open("canary-weight-total", "number", "100", "the total; one below 100 counts as 100, as in ingress-nginx").example("1000"),
    open("affinity-canary-behavior", "`sticky`, `legacy`", "sticky", "sessions that came to the canary stay there, if the other Ingress has affinity; `legacy`: they are asked each time").example("legacy"),
];

/// What a canary says of itself.
#[derive(Debug)]
pub(in crate::translate) struct Alternative {
    pub(in crate::translate) choice: Canary,
    pub(in crate::translate) sticky: bool,
}

pub(super) fn read(values: &mut Values) -> Option<Alternative> {
    let [_, others @ ..] = ANNOTATIONS else { return None };
    if !values.switch("canary") {
        values.without_effect(others, "canary: \"true\"");
        return None;
    }
    let name = values
        .get("canary-by-header", "write the name of a field, as X-Canary", |text| HeaderName::try_from(text).ok());
    let exact = values.get("canary-by-header-value", "write a value", |text| (!text.is_empty()).then_some(text));
    let pattern = values.parse("canary-by-header-pattern", |text| {
        Pattern::new(text).map_err(|error| {
            (format!("`{}` is no regular expression that is taken: {error}", shown(text)), "write another".to_owned())
        })
    });
    let value = match (exact, pattern) {
        (Some(exact), _) => CanaryValue::Exact(exact.into()),
        (None, Some(pattern)) => CanaryValue::Pattern(pattern),
        (None, None) => CanaryValue::AlwaysOrNever,
    };
    let token = |text: &str| HeaderName::try_from(text).is_ok();
    let cookie = values.get("canary-by-cookie", "write the name of a cookie", |text| token(text).then_some(text));
    let number = "write a number from 0 on, as \"20\"";
    let weight = values.get("canary-weight", number, |text| text.parse().ok());
    let total: Option<u32> = values.get("canary-weight-total", number, |text| text.parse().ok());
    let modes = ["sticky", "legacy"];
    let mode =
        values.get("affinity-canary-behavior", "write sticky or legacy", |text| modes.contains(&text).then_some(text));
    let choice = Canary {
        header: name.map(|name| CanaryHeader { name, value }),
        cookie: cookie.map(Into::into),
        weight: weight.unwrap_or_default(),
        total: total.unwrap_or(TOTAL).max(TOTAL),
    };
    Some(Alternative { choice, sticky: mode != Some("legacy") })
}
