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
    pub fn new(rules: &[Arc<Rule>]) -> Option<Self> {
        let is_regex = |rule: &Arc<Rule>| rule.path.as_ref().is_some_and(|path| path.kind == PathKind::Regex);
        if !rules.iter().any(is_regex) {
            return None;
        }
        // The path as it is written has its place, also where less than it is compared.
        let text = |index: usize| rules[index].path.as_ref().map_or("", |path| &path.value);
        let compiled = |(index, rule): (usize, &Arc<Rule>)| Some((rule.pattern.clone()?, index));
        let mut all: Vec<(Arc<PathPattern>, usize)> = rules.iter().enumerate().filter_map(compiled).collect();
        all.sort_by(|(_, one), (_, other)| {
            let rank = |index: usize| Reverse(text(index).len());
            rank(*one).cmp(&rank(*other)).then_with(|| text(*other).cmp(text(*one)))
        });
        let (patterns, indices) = all.into_iter().unzip();
        let default = rules.iter().position(|rule| rule.path.is_none());
        Some(Self { patterns: PathPatterns::new(patterns), rules: indices, default })
    }

    /// The index of the rule for a path in normal form; none for one that could take too long to find: nobody else's
    /// requests wait for it, and nothing is opened by it.
    pub fn find(&self, path: &str) -> Option<usize> {
        if self.patterns.are_too_much_for(path) {
            return None;
        }
        self.patterns.first(path).map(|place| self.rules[place]).or(self.default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ObjectName, PathMatch};

    #[test]
    fn a_path_has_its_place_by_what_is_written_also_if_less_is_compared() {
        let rule = |text: &str, pattern: PathPattern| {
            let path = Some(PathMatch::new(PathKind::Regex, text));
            Arc::new(Rule { pattern: Some(Arc::new(pattern)), ..Rule::new(ObjectName::new("verona", "shop"), path) })
        };
        let rules = [
            rule("/admin/open", PathPattern::new("/admin/open").unwrap()),
            rule("/admin(?!/public)", PathPattern::literal("/admin")),
            rule("/admin/much/longer/than/it", PathPattern::new("/admin/much/longer/than/it").unwrap()),
            rule("/", PathPattern::new("/").unwrap()),
        ];
        let regexes = Regexes::new(&rules).unwrap();
        let found = ["/admin/open", "/ADMIN", "/admin/much/longer/than/it", "/x"].map(|path| regexes.find(path));
        assert_eq!(found, [Some(1), Some(1), Some(2), Some(3)]);
    }
}
