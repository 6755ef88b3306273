//! Finds the rule for a path where paths are regular expressions, as ingress-nginx does: the longest first, ties by
//! text from its end in the alphabet, and the first that takes the path has it.
//!
//! They are tried one after the other. Each has its plain beginning compared before it is searched with, so that of
//! 100 rules with different beginnings one is searched with; a set that searches with all of them at once
//! costs more below some dozens that begin alike, and memory for all (measured with `regex` 1.13).

use std::cmp::Reverse;
use std::sync::Arc;

use crate::filter::PathPattern;
use crate::model::{PathKind, Rule};

/// The regular expressions of one host; finds the index of a rule.
#[derive(Debug)]
pub struct Regexes {
    /// In the order in which they are tried.
    patterns: Vec<(Arc<PathPattern>, usize)>,
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
        let mut patterns: Vec<_> = rules.iter().enumerate().filter_map(compiled).collect();
        patterns.sort_by(|(one, _), (other, _)| {
            let rank = |pattern: &'_ PathPattern| Reverse(pattern.as_str().len());
            rank(one).cmp(&rank(other)).then_with(|| other.as_str().cmp(one.as_str()))
        });
        Some(Self { patterns, default: rules.iter().position(|rule| rule.path.is_none()) })
    }

    /// The index of the rule for a path in normal form.
    pub fn find(&self, path: &str) -> Option<usize> {
        let found = self.patterns.iter().find(|(pattern, _)| pattern.is_match(path));
        found.map(|(_, index)| *index).or(self.default)
    }
}
