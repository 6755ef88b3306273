//! Finds the rule for a host and a path. Compiled once from a host's rules, shared between tables as long as
//! they don't change, and read without a lock. What a rule leads to, `R`, is the table's affair.
//!
//! Precedence: exact host, then wildcard, then rules without a host; there is no way back from a host that has
//! rules to a less exact one. Within a host: the longest path, then Exact before Prefix, then the default; or the
//! first regular expression that takes the path, where a host's paths are such.

mod path;
mod regex;

use std::sync::Arc;

pub use path::Paths;
pub use regex::Regexes;

use crate::model::{Host, HostMap, Rule};

/// The compiled rules of one host.
#[derive(Debug)]
pub struct HostRoutes<R> {
    routes: Box<[R]>,
    matcher: Matcher,
}

#[derive(Debug)]
enum Matcher {
    Paths(Paths),
    /// In a box: most hosts have none.
    Regexes(Box<Regexes>),
}

impl<R> HostRoutes<R> {
    /// Compiles the rules of a host, in their order; `route` makes what each leads to.
    pub fn new(host: &Host, mut route: impl FnMut(&Rule) -> R) -> Self {
        let paths = || Paths::new(host.rules.iter().map(|rule| rule.path.as_ref()));
        let matcher =
            Regexes::new(&host.rules).map_or_else(|| Matcher::Paths(paths()), |all| Matcher::Regexes(Box::new(all)));
        Self { routes: host.rules.iter().map(|rule| route(rule)).collect(), matcher }
    }

    /// The route of a path in normal form.
    pub fn find(&self, path: &str) -> Option<&R> {
        let index = match &self.matcher {
            Matcher::Paths(paths) => paths.find(path),
            Matcher::Regexes(regexes) => regexes.find(path),
        };
        index.map(|index| &self.routes[index])
    }
}

/// All hosts that have rules.
pub type Routes<R> = HostMap<Arc<HostRoutes<R>>>;
