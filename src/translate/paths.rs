//! Paths of rules, as they are written and as they are meant. What is meant depends on the host: if one Ingress asks
//! for regular expressions there, by `use-regex` or a `rewrite-target`, the paths of all of them are such
//! (ingress-nginx, `enforceRegexModifier`), Exact and Prefix alike, and read from their text as it is written. Only the
//! namespace that decides for the host may ask for it: others would change whom its paths let in.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::annotations::Paths;
use super::ingress::{Located, Parts};
use super::object::{IngressPath, PathType};
use super::problem::{Kind, ObjectRef, Problem};
use crate::filter::{InvalidPattern, PathPattern};
use crate::model::{HostPattern, Normalization, PathKind, PathMatch, Rule};

/// What to write instead of a regular expression that is none.
const SYNTAX: &str = "write one in the syntax of docs.rs/regex: no look-around, no back-references";

/// How a path is written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Written {
    kind: WrittenKind,
    normalization: Normalization,
    /// Its Ingress has it read as a regular expression.
    pub(super) regex: bool,
    /// None for most.
    apart: Option<Box<Apart>>,
}

/// What makes a path differ from how it is written.
#[derive(Debug, Clone, PartialEq)]
struct Apart {
    /// The text, if it isn't the path's in normal form.
    text: Option<Box<str>>,
    /// For a path that can't be read, and that somebody is kept out of: what it begins with.
    beginning: Option<Arc<PathPattern>>,
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
        let (kind, normalization) = (WrittenKind::ImplementationSpecific, Normalization::default());
        Self { kind, normalization, regex, apart: None }
    }

    fn apart(self, text: Option<Box<str>>, beginning: Option<Arc<PathPattern>>) -> Self {
        let differs = text.is_some() || beginning.is_some();
        Self { apart: differs.then(|| Box::new(Apart { text, beginning })), ..self }
    }

    pub(super) fn is_unread(&self) -> bool {
        self.beginning().is_some()
    }

    fn beginning(&self) -> Option<&Arc<PathPattern>> {
        self.apart.as_ref()?.beginning.as_ref()
    }

    fn text(&self) -> Option<&str> {
        self.apart.as_ref()?.text.as_deref()
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
    let kind = match &path.path_type {
        PathType::Exact => WrittenKind::Exact,
        PathType::Prefix => WrittenKind::Prefix,
        PathType::ImplementationSpecific => WrittenKind::ImplementationSpecific,
        PathType::Unknown(other) => {
            let what = format!("pathType `{other}` is unknown");
            return Err(("pathType", what, "write Exact, Prefix or ImplementationSpecific"));
        }
    };
    let text = path.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    let regex = paths.is_regex(text);
    let normalization = paths.normalization;
    let (matched, pattern) = if regex { read_regex(text)? } else { (read_plain(kind, text, normalization)?, None) };
    let text = (*matched.value != *text).then(|| text.into());
    let written = Written { kind, normalization, regex, apart: None }.apart(text, None);
    Ok(ReadPath { matched, pattern, written })
}

fn read_plain(kind: WrittenKind, text: &str, normalization: Normalization) -> Result<PathMatch, NoPath> {
    if text.contains(['?', '#']) {
        let what = format!("`{text}` has a query or a fragment, which no path has");
        return Err(("path", what, "write the path alone, as /a/b; for a regular expression, use-regex too"));
    }
    let kind = match kind {
        WrittenKind::Exact => PathKind::Exact,
        WrittenKind::Prefix | WrittenKind::ImplementationSpecific => PathKind::Prefix,
    };
    match normalization.apply(text) {
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

/// What stands for a path that can't be read, so that nobody comes by another rule where he was to be kept out: all that
/// begins as it is written.
pub(super) fn unread(path: &IngressPath, paths: &Paths) -> ReadPath {
    let text = path.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    let regex = paths.is_regex(text);
    let normalization = paths.normalization;
    let beginning = Arc::new(beginning(text, normalization));
    let matched = if regex {
        PathMatch::new(PathKind::Regex, text)
    } else {
        let plain = text.split(['?', '#', '%', '\\']).next().unwrap_or_default();
        PathMatch::new(PathKind::Prefix, &in_normal_form(plain, normalization))
    };
    let text = (*matched.value != *text).then(|| text.into());
    let pattern = regex.then(|| beginning.clone());
    let kind = WrittenKind::ImplementationSpecific;
    let written = Written { kind, normalization, regex, apart: None }.apart(text, Some(beginning));
    ReadPath { matched, pattern, written }
}

/// What every path begins with that a regular expression would take, if it were one.
fn beginning(text: &str, normalization: Normalization) -> PathPattern {
    let end = text.find(|character| r"\^$.|?*+()[]{}#%".contains(character)).unwrap_or(text.len());
    let (begin, rest) = text.split_at(end);
    let mut characters = begin.chars();
    // The last character may be there or not.
    if rest.starts_with(['?', '*', '{']) {
        characters.next_back();
    }
    let begin = if has_alternatives(rest) { "" } else { characters.as_str() };
    PathPattern::literal(&in_normal_form(begin, normalization))
}

/// Whether something may stand behind a `|` that is in no parentheses, and begin in its own way. Where brackets or
/// escapes make it hard to say, it does.
fn has_alternatives(text: &str) -> bool {
    let mut depth = 0;
    let outside = text.chars().any(|character| {
        depth += i32::from(character == '(') - i32::from(character == ')');
        character == '|' && depth <= 0
    });
    outside || (text.contains('|') && text.contains(['[', '\\']))
}

/// The beginning of a path as requests have it; of what is none, all.
fn in_normal_form(text: &str, normalization: Normalization) -> String {
    let text = if text.starts_with('/') { Cow::Borrowed(text) } else { Cow::Owned(format!("/{text}")) };
    normalization.apply(&text).map_or_else(|_| "/".to_owned(), |path| path.matched.into_owned())
}

/// The rules of a host as they are meant there, and what is wrong with them then.
pub(super) struct Together<'a> {
    pub(super) rules: Vec<(&'a Parts, &'a Located, Arc<Rule>)>,
    /// The namespaces of which a protected path has no place here. None of their rules is open: it might be found
    /// instead.
    pub(super) shut: BTreeSet<&'a str>,
    pub(super) problems: Vec<Problem>,
    /// What takes nothing out of service.
    pub(super) warnings: Vec<Problem>,
}

/// Reads the rules of a host together; `decider` is the namespace that may say what paths are.
pub(super) fn read_together<'a>(
    pattern: &HostPattern,
    decider: Option<&str>,
    all: Vec<(&'a Parts, &'a Located)>,
) -> Together<'a> {
    // A canary is nothing but another's alternative.
    let asks = |(parts, located): &&(&Parts, &Located)| {
        located.written.regex && !parts.is_canary && decider == Some(&*parts.name.namespace)
    };
    let Some(maker) = all.iter().find(asks).map(|(parts, _)| *parts) else {
        return read_plainly(pattern, decider.unwrap_or_default(), all);
    };
    let exacts = exacts(all.iter().map(|(_, located)| *located));
    let (mut problems, mut warnings) = (Vec::new(), Vec::new());
    let meant = |(parts, located): (&'a Parts, &'a Located)| {
        if let Some(beginning) = located.written.beginning() {
            return (parts, located, Arc::new(closed(located, beginning.clone())));
        }
        let Some((compiled, wrong)) = meant(located, &exacts) else {
            return (parts, located, located.rule.clone());
        };
        if let Some(error) = wrong {
            let becomes = if parts.restricts { "what begins like it gets 503" } else { "it is compared as text" };
            let what = format!(
                "Ingress {} makes the paths of host `{pattern}` regular expressions, and this is none: {error}; \
                 {becomes}",
                maker.name
            );
            let object = ObjectRef::new(Kind::Ingress, &parts.name);
            problems.push(Problem::new(object, format!("{}.path", located.field), what, SYNTAX));
            if parts.restricts {
                let normalization = located.written.normalization;
                let beginning = Arc::new(beginning(text(located).unwrap_or_default(), normalization));
                return (parts, located, Arc::new(closed(located, beginning)));
            }
        } else if located.written.kind == WrittenKind::Exact {
            warnings.extend(takes_more(pattern, parts, located, maker));
        }
        let path = Some(PathMatch::new(PathKind::Regex, compiled.as_str()));
        let rule = Rule { path, pattern: Some(Arc::new(compiled)), ..(*located.rule).clone() };
        (parts, located, Arc::new(rule))
    };
    let rules = all.into_iter().map(meant).collect();
    Together { rules, shut: BTreeSet::new(), problems, warnings }
}

/// The rules of a host whose paths are plain: regular expressions of whoever does not decide that have no place.
fn read_plainly<'a>(pattern: &HostPattern, decider: &str, all: Vec<(&'a Parts, &'a Located)>) -> Together<'a> {
    let (mut rules, mut problems, mut shut) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (parts, located) in all {
        let is_regex = located.rule.path.as_ref().is_some_and(|path| path.kind == PathKind::Regex);
        if !is_regex || parts.is_canary {
            rules.push((parts, located, located.rule.clone()));
            continue;
        }
        let mut fix =
            "write plain paths without `use-regex` and `rewrite-target`, or have a host of your own".to_owned();
        if parts.restricts {
            fix += "; access is restricted there, so all rules of this namespace for the host get 503";
            shut.insert(&*parts.name.namespace);
        }
        let what = format!(
            "the paths of host `{pattern}` are no regular expressions: that is for namespace `{decider}` to say, whose \
             Ingress is the oldest"
        );
        let object = ObjectRef::new(Kind::Ingress, &parts.name);
        problems.push(Problem::new(object, format!("{}.path", located.field), what, fix));
    }
    Together { rules, shut, problems, warnings: Vec::new() }
}

/// A rule for all that begins so, which lets nobody in. Its path is the one that is written: that has its place among
/// the others.
fn closed(located: &Located, beginning: Arc<PathPattern>) -> Rule {
    let path = text(located).map(|text| PathMatch::new(PathKind::Regex, text));
    Rule { pattern: Some(beginning), ..Rule::new(located.rule.source.clone(), path) }
}

/// What to say of an Exact path that is a regular expression now.
fn takes_more(pattern: &HostPattern, parts: &Parts, located: &Located, maker: &Parts) -> Option<Problem> {
    let text = text(located).filter(|text| !text.ends_with('$'))?;
    // A solver's path is nobody's to mend, and gone in a moment.
    if located.rule.path.as_ref().is_some_and(PathMatch::is_acme_challenge) {
        return None;
    }
    let what = format!(
        "Ingress {} makes the paths of host `{pattern}` regular expressions: `{text}` takes all that begins with it, in \
         small letters and in capitals",
        maker.name
    );
    let fix = format!("for this path alone, write `{text}$` in an Ingress with `use-regex`");
    let object = ObjectRef::new(Kind::Ingress, &parts.name);
    Some(Problem::new(object, format!("{}.pathType", located.field), what, fix))
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
    let normal = located.written.normalization.apply(&text).map_or_else(|_| text.clone(), |path| path.matched);
    let literal = |error| (PathPattern::literal(&normal), error);
    // What requests are compared in is that form; text of another would take none.
    if normal != text {
        return Some(literal(None));
    }
    Some(PathPattern::new(&text).map_or_else(|error| literal(Some(error)), |pattern| (pattern, None)))
}

fn text(located: &Located) -> Option<&str> {
    let path = located.rule.path.as_ref()?;
    Some(located.written.text().unwrap_or(&path.value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_path_begins_with_is_never_more_than_it_takes() {
        let table = [
            ("/admin(?!/public)", "/admin"),
            ("/files?(?=x)", "/file"),
            ("/a*(?=x)", "/"),
            ("/a+(?=x)", "/a"),
            ("/a.b(?=x)", "/a"),
            ("/a(b|c)(?!d)", "/a"),
            ("/a(?!b)|/c", "/"),
            ("/a[(]|/b(", "/"),
            (r"/a\(|/b(", "/"),
            ("admin(?!x)", "/admin"),
            // Dots are any characters.
            ("/a/../b/(?=x)", "/a/"),
            ("/../a(", "/"),
            ("/%zz", "/"),
            ("/é(", "/%C3%A9"),
            ("", "/"),
        ];
        for (text, expected) in table {
            assert_eq!(beginning(text, Normalization::Strict), PathPattern::literal(expected), "{text}");
        }
    }
}
