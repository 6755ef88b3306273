//! Paths of rules, as they are written and as they are meant. What is meant depends on the host: if one Ingress asks
//! for regular expressions there, by `use-regex` or a `rewrite-target`, the paths of all of them are such
//! (ingress-nginx, `enforceRegexModifier`), Exact and Prefix alike, and read from their text as it is written.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::annotations::Paths;
use super::ingress::{Located, Parts};
use super::object::IngressPath;
use super::problem::{Kind, ObjectRef, Problem};
use crate::filter::{InvalidPattern, PathPattern};
use crate::model::{HostPattern, PathKind, PathMatch, Rule, normalize};

/// What to write instead of a regular expression that is none.
const SYNTAX: &str = "write one in the syntax of docs.rs/regex: no look-around, no back-references";

/// How a path is written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Written {
    kind: WrittenKind,
    /// Its Ingress has it read as a regular expression.
    pub(super) regex: bool,
    /// The text, if it isn't the path's in normal form.
    text: Option<Box<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WrittenKind {
    Exact,
    Prefix,
    ImplementationSpecific,
}

impl Written {
    /// For what has no path.
    pub(super) fn none(regex: bool) -> Self {
        Self { kind: WrittenKind::ImplementationSpecific, regex, text: None }
    }
}

/// A path as its own Ingress means it.
pub(super) struct ReadPath {
    pub(super) matched: PathMatch,
    pub(super) pattern: Option<Arc<PathPattern>>,
    pub(super) written: Written,
}

/// Why a path is none: the field below it, what is wrong, what to write.
pub(super) type NoPath = (&'static str, String, &'static str);

pub(super) fn read(path: &IngressPath, paths: &Paths) -> Result<ReadPath, NoPath> {
    let kind = match path.path_type.as_str() {
        "Exact" => WrittenKind::Exact,
        "Prefix" => WrittenKind::Prefix,
        "ImplementationSpecific" => WrittenKind::ImplementationSpecific,
        other => {
            let what = format!("pathType `{other}` is unknown");
            return Err(("pathType", what, "write Exact, Prefix or ImplementationSpecific"));
        }
    };
    let text = path.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    let regex = paths.is_regex(text);
    let (matched, pattern) = if regex { read_regex(text)? } else { (read_plain(kind, text)?, None) };
    let text = (*matched.value != *text).then(|| text.into());
    Ok(ReadPath { matched, pattern, written: Written { kind, regex, text } })
}

fn read_plain(kind: WrittenKind, text: &str) -> Result<PathMatch, NoPath> {
    if text.contains(['?', '#']) {
        let what = format!("`{text}` has a query or a fragment, which no path has");
        return Err(("path", what, "write the path alone, as /a/b; for a regular expression, use-regex too"));
    }
    let kind = match kind {
        WrittenKind::Exact => PathKind::Exact,
        WrittenKind::Prefix | WrittenKind::ImplementationSpecific => PathKind::Prefix,
    };
    match normalize(text) {
        Ok(path) => Ok(PathMatch::new(kind, &path.matched)),
        Err(error) => Err(("path", format!("`{text}`: {}", error.message()), "write the plain path, as /a/b")),
    }
}

fn read_regex(text: &str) -> Result<(PathMatch, Option<Arc<PathPattern>>), NoPath> {
    if !text.starts_with('/') {
        return Err(("path", format!("`{text}`: the path does not begin with a slash"), "write it, as /a/(.*)"));
    }
    match PathPattern::new(text) {
        Ok(pattern) => Ok((PathMatch::new(PathKind::Regex, text), Some(Arc::new(pattern)))),
        Err(error) => Err(("path", format!("`{text}` is no regular expression that is taken here: {error}"), SYNTAX)),
    }
}

/// The rules of a host as they are meant there, and what is wrong with them then.
pub(super) fn read_together<'a>(
    pattern: &HostPattern,
    all: Vec<(&'a Parts, &'a Located)>,
    problems: &mut Vec<Problem>,
) -> Vec<(&'a Parts, &'a Located, Cow<'a, Rule>)> {
    // A canary is nothing but another's alternative.
    let Some((maker, _)) = all.iter().find(|(parts, located)| located.written.regex && !parts.is_canary) else {
        return all.into_iter().map(|(parts, located)| (parts, located, Cow::Borrowed(&located.rule))).collect();
    };
    let exacts = exacts(all.iter().map(|(_, located)| *located));
    let meant = |(parts, located): (&'a Parts, &'a Located)| {
        let Some((compiled, wrong)) = meant(located, &exacts) else {
            return (parts, located, Cow::Borrowed(&located.rule));
        };
        if let Some(error) = wrong {
            let what = format!(
                "Ingress {} makes the paths of host `{pattern}` regular expressions, and this is none: {error}; it is \
                 compared as text",
                maker.name
            );
            let object = ObjectRef::new(Kind::Ingress, &parts.name);
            problems.push(Problem::new(object, format!("{}.path", located.field), what, SYNTAX));
        }
        let path = Some(PathMatch::new(PathKind::Regex, compiled.as_str()));
        (parts, located, Cow::Owned(Rule { path, pattern: Some(Arc::new(compiled)), ..located.rule.clone() }))
    };
    all.into_iter().map(meant).collect()
}

/// The paths of rules that are Exact, as they are written.
pub(super) fn exacts<'a>(all: impl Iterator<Item = &'a Located>) -> BTreeSet<&'a str> {
    all.filter(|located| located.written.kind == WrittenKind::Exact).filter_map(text).collect()
}

/// A path that its Ingress writes plainly, as a regular expression; `None` for one that is so written, and for what
/// has no path. Text that can't be read as one stands for itself.
pub(super) fn meant(located: &Located, exacts: &BTreeSet<&str>) -> Option<(PathPattern, Option<InvalidPattern>)> {
    let text = text(located).filter(|_| !located.written.regex)?;
    // ingress-nginx makes `/p/` and `/p` of a Prefix `/p`, but for one with an Exact `/p` beside it.
    let below = located.written.kind == WrittenKind::Prefix && !text.ends_with('/') && exacts.contains(text);
    let text = if below { Cow::Owned(format!("{text}/")) } else { Cow::Borrowed(text) };
    let read = PathPattern::new(&text);
    let literal = |error| {
        (PathPattern::literal(&normalize(&text).map_or_else(|_| text.clone(), |path| path.matched)), Some(error))
    };
    Some(read.map_or_else(literal, |pattern| (pattern, None)))
}

fn text(located: &Located) -> Option<&str> {
    let path = located.rule.path.as_ref()?;
    Some(located.written.text.as_deref().unwrap_or(&path.value))
}
