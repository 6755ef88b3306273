//! Finds the rule for a path where paths are regular expressions, as ingress-nginx does: the longest first, ties by
//! text from the end of the alphabet, and the first that takes the path has it.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::filter::{PathPattern, PathPatterns};
use crate::model::{PathKind, Rule};

/// The regular expressions of one host; finds the index of a rule.
#[derive(Debug)]
pub struct Regexes {
    patterns: PathPatterns,
    /// The rule of each.
    rules: Vec<usize>,
    /// The rule without a path: what no path took.
    default: Option<usize>,
}

impl Regexes {
    /// Takes the rules of a host whose paths are regular expressions; `None` if they aren't.
    pub fn new(rules: &[Rule]) -> Option<Self> {
        let is_regex = |rule: &Rule| rule.path.as_ref().is_some_and(|path| path.kind == PathKind::Regex);
        if !rules.iter().any(is_regex) {
            return None;
        }
        let compiled = |(index, rule): (usize, &Rule)| Some((rule.pattern.clone()?, index));
        let mut all: Vec<(Arc<PathPattern>, usize)> = rules.iter().enumerate().filter_map(compiled).collect();
        all.sort_by(|(one, _), (other, _)| {
            let rank = |pattern: &PathPattern| Reverse(pattern.as_str().len());
            rank(one).cmp(&rank(other)).then_with(|| other.as_str().cmp(one.as_str()))
        });
        let (patterns, indices) = all.into_iter().unzip();
        let default = rules.iter().position(|rule| rule.path.is_none());
        Some(Self { patterns: PathPatterns::new(patterns), rules: indices, default })
    }

    /// The index of the rule for a path in normal form.
    pub fn find(&self, path: &str) -> Option<usize> {
        self.patterns.first(path).map(|place| self.rules[place]).or(self.default)
    }
}
