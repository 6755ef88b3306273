//! Finds the rule for a path: prefixes match by whole elements, the longest path wins, Exact goes before Prefix. Most
//! hosts have few paths, which are compared one after the other. Many are in a tree, with matchit underneath and the
//! Ingress rules on top.
//!
//! A Prefix `/foo` is entered there three times (`/foo`, `/foo/` and all below), an Exact once. Where two rules claim
//! one entry, the longer path keeps it, and at equal length the Exact one.

use std::cmp::Reverse;
use std::collections::HashMap;

use crate::model::{PathKind, PathMatch};

/// Most paths that are compared one by one: about as fast as the tree then, and a twentieth of its size.
const FEW: usize = 8;

/// The compiled paths of one host; finds the index of a rule.
#[derive(Debug)]
pub struct Paths {
    /// All but Prefix `/`.
    matcher: Matcher,
    /// Prefix `/`, which all others go before.
    root: Option<u32>,
    /// Without a path match: what no path took.
    default: Option<u32>,
}

#[derive(Debug)]
enum Matcher {
    /// In the order of precedence.
    Few(Box<[Entry]>),
    Many(Box<matchit::Router<u32>>),
}

#[derive(Debug)]
struct Entry {
    path: Box<str>,
    exact: bool,
    index: u32,
}

/// How strong a claim is on a path: length of the rule's path as it is written, then kind.
type Rank = (usize, bool);

impl Entry {
    fn matches(&self, path: &str) -> bool {
        match path.as_bytes().strip_prefix(self.path.as_bytes()) {
            Some([]) => true,
            Some([b'/', ..]) => !self.exact,
            Some(_) | None => false,
        }
    }

    fn rank(&self) -> Rank {
        (self.path.len(), self.exact)
    }
}

impl Paths {
    /// Compiles matches in normal form; `None` is the default. Of two equal ones the first counts.
    pub fn new<'a>(paths: impl Iterator<Item = Option<&'a PathMatch>>) -> Self {
        let mut entries = Vec::new();
        let (mut root, mut default) = (None, None);
        for (index, path) in (0..).zip(paths) {
            match path {
                None => default = default.or(Some(index)),
                Some(PathMatch { kind: PathKind::Prefix, value }) if value.trim_end_matches('/').is_empty() => {
                    root = root.or(Some(index));
                }
                Some(PathMatch { kind: kind @ (PathKind::Exact | PathKind::Prefix), value }) => {
                    entries.push(Entry { path: value.clone(), exact: *kind == PathKind::Exact, index });
                }
                // Those of a host are all of this kind, and are not looked for here.
                Some(PathMatch { kind: PathKind::Regex, .. }) => {}
            }
        }
        let matcher = if entries.len() <= FEW {
            // Stable, so that the first of equals stays first.
            entries.sort_by_key(|entry| Reverse(entry.rank()));
            Matcher::Few(entries.into())
        } else {
            Matcher::Many(Box::new(tree(&entries)))
        };
        Self { matcher, root, default }
    }

    /// The index of the rule for a path in normal form.
    pub fn find(&self, path: &str) -> Option<usize> {
        let found = match &self.matcher {
            Matcher::Few(entries) => entries.iter().find(|entry| entry.matches(path)).map(|entry| entry.index),
            Matcher::Many(tree) => tree.at(path).ok().map(|found| *found.value),
        };
        // Not every target is a path: `OPTIONS *`.
        found.or(self.root.filter(|_| path.starts_with('/'))).or(self.default).map(|index| index as usize)
    }
}

fn tree(entries: &[Entry]) -> matchit::Router<u32> {
    let mut claims: HashMap<String, (Rank, u32)> = HashMap::new();
    for entry in entries {
        let mut claim = |text: String| {
            let held = claims.entry(text).or_insert((entry.rank(), entry.index));
            if held.0 < entry.rank() {
                *held = (entry.rank(), entry.index);
            }
        };
        let literal = entry.path.replace('{', "{{").replace('}', "}}");
        if entry.exact {
            claim(literal);
        } else {
            claim(format!("{literal}/"));
            claim(format!("{literal}/{{*rest}}"));
            claim(literal);
        }
    }
    let mut tree = matchit::Router::new();
    for (text, (_, index)) in claims {
        tree.insert(text, index).expect("entries are literal, but for one catch-all name, and distinct");
    }
    tree
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::normalize;

    const EXACT: PathKind = PathKind::Exact;
    const PREFIX: PathKind = PathKind::Prefix;

    /// Rules, a request, and the index of the rule that takes it.
    type Row = (&'static [(PathKind, &'static str)], &'static str, Option<usize>);

    fn normal(path: &str) -> String {
        normalize(path).unwrap().matched.into_owned()
    }

    fn find(rules: &[(PathKind, &str)], request: &str) -> Option<usize> {
        let matches: Vec<_> = rules.iter().map(|(kind, path)| PathMatch::new(*kind, &normal(path))).collect();
        Paths::new(matches.iter().map(Some)).find(&normal(request))
    }

    /// Kubernetes documentation, "Ingress", table "Examples" under "Path types", row by row. The index of the
    /// rule that takes the request, or none.
    #[test]
    fn the_table_of_the_ingress_documentation() {
        #[rustfmt::skip]
        let table: &[Row] = &[
            (&[(PREFIX, "/")], "/", Some(0)),
            (&[(PREFIX, "/")], "/any/path", Some(0)),
            (&[(EXACT, "/foo")], "/foo", Some(0)),
            (&[(EXACT, "/foo")], "/bar", None),
            (&[(EXACT, "/foo")], "/foo/", None),
            (&[(EXACT, "/foo/")], "/foo", None),
            (&[(PREFIX, "/foo")], "/foo", Some(0)),
            (&[(PREFIX, "/foo")], "/foo/", Some(0)),
            (&[(PREFIX, "/foo/")], "/foo", Some(0)),
            (&[(PREFIX, "/foo/")], "/foo/", Some(0)),
            (&[(PREFIX, "/aaa/bb")], "/aaa/bbb", None),
            (&[(PREFIX, "/aaa/bbb")], "/aaa/bbb", Some(0)),
            (&[(PREFIX, "/aaa/bbb/")], "/aaa/bbb", Some(0)),
            (&[(PREFIX, "/aaa/bbb")], "/aaa/bbb/", Some(0)),
            (&[(PREFIX, "/aaa/bbb")], "/aaa/bbb/ccc", Some(0)),
            (&[(PREFIX, "/aaa/bbb")], "/aaa/bbbxyz", None),
            (&[(PREFIX, "/"), (PREFIX, "/aaa")], "/aaa/ccc", Some(1)),
            (&[(PREFIX, "/"), (PREFIX, "/aaa"), (PREFIX, "/aaa/bbb")], "/aaa/bbb", Some(2)),
            (&[(PREFIX, "/"), (PREFIX, "/aaa"), (PREFIX, "/aaa/bbb")], "/ccc", Some(0)),
            (&[(PREFIX, "/aaa")], "/ccc", None),
            (&[(PREFIX, "/foo"), (EXACT, "/foo")], "/foo", Some(1)),
        ];
        for (rules, request, expected) in table {
            assert_eq!(find(rules, request), *expected, "{rules:?} {request}");
        }
    }

    #[test]
    fn longest_first_then_exact_and_never_a_dead_end() {
        let table: &[Row] = &[
            (&[(EXACT, "/foo"), (PREFIX, "/foo")], "/foo", Some(0)),
            (&[(EXACT, "/foo"), (PREFIX, "/foo")], "/foo/", Some(1)),
            (&[(EXACT, "/foo/"), (PREFIX, "/foo")], "/foo/", Some(0)),
            (&[(EXACT, "/foo"), (PREFIX, "/foo/")], "/foo", Some(0)),
            (&[(PREFIX, "/foo"), (EXACT, "/foo/bar/baz")], "/foo/bar/qux", Some(0)),
            (&[(PREFIX, "/foo"), (PREFIX, "/foo/bar/baz")], "/foo/bar/bazz", Some(0)),
            (&[(PREFIX, "/"), (PREFIX, "/a/b/c"), (PREFIX, "/a")], "/a/b/d", Some(2)),
            (&[(PREFIX, "/{x}/{*y}")], "/{x}/{*y}/z", Some(0)),
            (&[(PREFIX, "/{x}")], "/abc", None),
            (&[(EXACT, "/a//b")], "/a/b", Some(0)),
            (&[(PREFIX, "/a")], "//a///b", Some(0)),
        ];
        for (rules, request, expected) in table {
            assert_eq!(find(rules, request), *expected, "{rules:?} {request}");
        }
    }

    /// The specification itself, as slowly as it reads.
    fn reference(rules: &[PathMatch], path: &str) -> Option<usize> {
        let matches = |rule: &PathMatch| match rule.kind {
            PathKind::Exact => *rule.value == *path,
            PathKind::Prefix => {
                let elements =
                    |path: &str| path.split('/').filter(|e| !e.is_empty()).map(str::to_owned).collect::<Vec<_>>();
                elements(path).starts_with(&elements(&rule.value))
            }
            PathKind::Regex => false,
        };
        let rank = |rule: &PathMatch| (rule.value.len(), rule.kind == PathKind::Exact);
        let all = rules.iter().enumerate().filter(|(_, rule)| matches(rule));
        all.reduce(|best, next| if rank(next.1) > rank(best.1) { next } else { best }).map(|(index, _)| index)
    }

    proptest! {
        #[test]
        fn agrees_with_the_specification(
            rules in prop::collection::vec((any::<bool>(), "(/[ab{}*]{0,2}){1,4}/?"), 0..12),
            requests in prop::collection::vec("(/[ab{}*]{0,2}){1,5}/?", 1..20),
        ) {
            let rules: Vec<PathMatch> = rules
                .iter()
                .map(|(exact, path)| PathMatch::new(if *exact { EXACT } else { PREFIX }, &normal(path)))
                .collect();
            let paths = Paths::new(rules.iter().map(Some));
            for request in requests {
                let request = normal(&request);
                prop_assert_eq!(paths.find(&request), reference(&rules, &request), "{:?} {}", rules, request);
            }
        }
    }
}
