//! Paths as regular expressions, what becomes of them on their way to the endpoint, and more names for a host.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Annotation, Fault, Nature, Values, list, open, shown};
use crate::filter::{Captures, Filter, PathPattern, Rewrite};
use crate::model::{HostPattern, InvalidHost, Normalization, normalize};
use crate::translate::Settings;

/// Names of one Ingress; each is a host with all the rules of another.
const ALIASES_MAX: usize = 100;

pub(super) const ANNOTATIONS: &[Annotation] = &[
    open("use-regex", "bool", "false", "paths are [regular expressions](routing.md#regular-expressions), those of the Ingress's hosts in other Ingresses too").example("true"),
    open("rewrite-target", "path with `$1` to `$9`", "", "the path that endpoints get, with what the path's groups found; makes the paths of the Ingress's hosts regular expressions, unless it is the path itself").example("/$2"),
    open("x-forwarded-prefix", "text with `$1` to `$9`", "", "`X-Forwarded-Prefix` for endpoints; only with `rewrite-target`").example("/$1"),
    open("server-alias", "list of names and `*.name`", "", "more names for the Ingress's host; a host that a rule names goes before").example("www.verona.example, *.old.verona.example"),
];

/// What an Ingress's annotations say of its paths.
#[derive(Debug, Default)]
pub(in crate::translate) struct Paths {
    pub(in crate::translate) use_regex: bool,
    /// There is a target that can't be read: paths are as they were meant, and go to the endpoint as they come.
    unread_target: bool,
    rewriting: Option<Rewriting>,
    pub(in crate::translate) normalization: Normalization,
}

#[derive(Debug)]
struct Rewriting {
    text: Box<str>,
    target: Captures,
    prefix: Option<Captures>,
}

impl Paths {
    /// Whether a path, as it is written, is a regular expression.
    pub(in crate::translate) fn is_regex(&self, path: &str) -> bool {
        self.use_regex || self.unread_target || self.rewriting_of(path).is_some()
    }

    /// What is done with requests for a path.
    pub(in crate::translate) fn rewrite(&self, pattern: &Arc<PathPattern>) -> Option<Filter> {
        let Rewriting { target, prefix, .. } = self.rewriting_of(pattern.as_str())?;
        Some(Filter::Rewrite(Rewrite { pattern: pattern.clone(), target: target.clone(), prefix: prefix.clone() }))
    }

    /// The keys that name more groups than a path has: key, greatest number.
    pub(in crate::translate) fn missing_groups(&self, pattern: &PathPattern) -> Vec<(&'static str, usize)> {
        let Some(Rewriting { target, prefix, .. }) = self.rewriting_of(pattern.as_str()) else { return Vec::new() };
        let all = [("rewrite-target", Some(target)), ("x-forwarded-prefix", prefix.as_ref())];
        let named = all.into_iter().filter_map(|(key, template)| Some((key, template?.captures())));
        named.filter(|(_, number)| *number > pattern.captures()).collect()
    }

    /// A path that is its own target stays as it is.
    fn rewriting_of(&self, path: &str) -> Option<&Rewriting> {
        self.rewriting.as_ref().filter(|rewriting| *rewriting.text != *path)
    }
}

pub(super) fn read(values: &mut Values, settings: &Settings) -> Paths {
    let normalization = settings.normalization;
    let use_regex = values.switch("use-regex");
    let target = values.parse("rewrite-target", |text| Ok((text, target(text)?)));
    let [_, _, prefix, _] = ANNOTATIONS else { return Paths::default() };
    let Some((text, target)) = target else {
        values.without_effect(std::slice::from_ref(prefix), "rewrite-target");
        let unread_target = super::find("rewrite-target").is_some_and(|row| values.text(row).is_some());
        return Paths { use_regex, unread_target, rewriting: None, normalization };
    };
    let fix = "write a path, as /shop, with $1 to $9 for what the path's groups find";
    let prefix = values.get("x-forwarded-prefix", fix, |text| is_template(text).then(|| Captures::parse(text))?);
    let rewriting = Some(Rewriting { text: text.into(), target, prefix });
    Paths { use_regex, unread_target: false, rewriting, normalization }
}

fn target(text: &str) -> Result<Captures, (String, String)> {
    let fix = |fix: &str| (format!("`{}` is no value for it", shown(text)), fix.to_owned());
    if text.contains("://") {
        return Err(fix("write a path; permanent-redirect and temporal-redirect send to URLs"));
    }
    // The path that comes of it must mean one thing, whatever is found.
    let one_meaning = || normalize(&text.replace('$', "x")).is_ok_and(|path| path.sent == text.replace('$', "x"));
    let template = Captures::parse(text).filter(|_| is_template(text));
    let template = template.filter(|_| text.starts_with('$') || (text.starts_with('/') && one_meaning()));
    template.ok_or_else(|| fix("write a path, as /shop/$1, with $1 to $9 for what the path's groups find"))
}

/// As ingress-nginx has it.
fn is_template(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~/:$".contains(&byte))
}

pub(super) fn aliases(values: &mut Values) -> Vec<HostPattern> {
    let Some((name, text)) = super::find("server-alias").and_then(|row| values.text(row)) else { return Vec::new() };
    for regex in list(text).filter(|item| item.starts_with('~')) {
        let what = format!("`{}` is a regular expression, which is not supported", shown(regex));
        let fix = "write names, as www.verona.example or *.verona.example".to_owned();
        values.faults.push(Fault { name, what, fix, nature: Nature::Unsupported });
    }
    let names = || list(text).filter(|item| !item.starts_with('~'));
    let read = |_| {
        let all = names().map(HostPattern::parse).collect::<Result<BTreeSet<_>, _>>();
        let all = all.map_err(|InvalidHost { what, fix }| (what, fix))?;
        if all.len() > ALIASES_MAX {
            let what = format!("{} names are more than {ALIASES_MAX}", all.len());
            return Err((what, "write rules, or a wildcard".to_owned()));
        }
        Ok(all.into_iter().collect())
    };
    values.parse("server-alias", read).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_path_with_captures() {
        for text in ["/", "/$1", "/a/$2/b-c._~:d", "$1", "/a//b", "/$10", "/a."] {
            assert!(target(text).is_ok(), "{text}");
        }
        for text in
            ["", "a", "/a b", "/a?b=c", "/$host", "/$", "https://a.example/$1", "/a/../b", "/./a", "/é", "/a%20b"]
        {
            assert!(target(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_target_that_is_the_path_itself_changes_nothing() {
        let template = |text| Captures::parse(text).unwrap();
        let rewriting = Rewriting { text: "/a".into(), target: template("/a"), prefix: Some(template("/$3")) };
        let paths = Paths { rewriting: Some(rewriting), ..Paths::default() };
        assert!(!paths.is_regex("/a") && paths.is_regex("/b"));
        let pattern = |text| Arc::new(PathPattern::new(text).unwrap());
        assert!(paths.rewrite(&pattern("/a")).is_none() && paths.rewrite(&pattern("/b")).is_some());
        assert_eq!(paths.missing_groups(&pattern("/(b)")), [("x-forwarded-prefix", 3)]);
        assert_eq!(paths.missing_groups(&pattern("/(b)(c)(d)")), []);
    }
}
