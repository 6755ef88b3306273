//! Finds the rule for a path, with matchit underneath and the Ingress rules on top: prefixes match by whole
//! elements, the longest path wins, Exact goes before Prefix.
//!
//! A Prefix `/foo` is entered three times (`/foo`, `/foo/` and all below), an Exact once. Where two rules claim
//! one entry, the longer path keeps it, and at equal length the Exact one.

use std::collections::HashMap;

use crate::model::{PathKind, PathMatch};

/// The compiled paths of one host; finds the index of a rule.
#[derive(Debug)]
pub struct Paths {
    /// All but Prefix `/`. Most hosts have nothing else, and need no tree.
    tree: Option<Box<matchit::Router<usize>>>,
    /// Prefix `/`, which every path of the tree goes before.
    root: Option<usize>,
    /// Without a path match: what no path took.
    default: Option<usize>,
}

/// How strong a claim is on an entry: length of the path as it is written, then kind.
type Rank = (usize, bool);

impl Paths {
    /// Compiles matches in normal form; `None` is the default. Of two equal ones the first counts.
    pub fn new<'a>(matches: impl Iterator<Item = Option<&'a PathMatch>>) -> Self {
        let mut entries: HashMap<String, (Rank, usize)> = HashMap::new();
        let (mut root, mut default) = (None, None);
        let mut claim = |entry: String, rank: Rank, index: usize| {
            let held = entries.entry(entry).or_insert((rank, index));
            if held.0 < rank {
                *held = (rank, index);
            }
        };
        for (index, path) in matches.enumerate() {
            let Some(PathMatch { kind, value }) = path else {
                default = default.or(Some(index));
                continue;
            };
            if *kind == PathKind::Prefix && value.trim_end_matches('/').is_empty() {
                root = root.or(Some(index));
                continue;
            }
            let literal = value.replace('{', "{{").replace('}', "}}");
            match kind {
                PathKind::Exact => claim(literal, (value.len(), true), index),
                PathKind::Prefix => {
                    let base = literal.trim_end_matches('/');
                    claim(base.to_owned(), (value.len(), false), index);
                    claim(format!("{base}/"), (value.len(), false), index);
                    claim(format!("{base}/{{*rest}}"), (value.len(), false), index);
                }
                // Those of a host are all of this kind, and are not looked for here.
                PathKind::Regex => {}
            }
        }
        if entries.is_empty() {
            return Self { tree: None, root, default };
        }
        let mut tree = Box::new(matchit::Router::new());
        for (entry, (_, index)) in entries {
            tree.insert(entry, index).expect("entries are literal, but for one catch-all name, and distinct");
        }
        Self { tree: Some(tree), root, default }
    }

    /// The index of the rule for a path in normal form.
    pub fn find(&self, path: &str) -> Option<usize> {
        let found = self.tree.as_ref().and_then(|tree| tree.at(path).ok()).map(|found| *found.value);
        // Not every target is a path: `OPTIONS *`.
        found.or(self.root.filter(|_| path.starts_with('/'))).or(self.default)
    }
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
