//! Regular expressions that users write. They take linear time and bounded memory (the `regex` crate), and are
//! compared by what is written.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::RandomState;
use regex::bytes::{Regex, RegexBuilder};
use serde::{Serialize, Serializer};

/// Largest compiled program, in bytes: enough for any path that was meant, and little beside a table.
const PROGRAM_BYTES_MAX: usize = 256 * 1024;
/// Largest lazy automaton that a search may build, in bytes, in each thread.
const CACHE_BYTES_MAX: usize = 256 * 1024;

/// Patterns whose memory for searches a thread keeps.
const SEARCHERS_MAX: usize = 1024;

/// A compiled regular expression.
#[derive(Clone)]
pub struct Pattern {
    regex: Regex,
    /// Tells it from all others of the process.
    id: u64,
    ignores_case: bool,
}

/// Why a text is no regular expression that is taken here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    #[error("takes too much memory; it repeats too much")]
    TooLarge,
    /// Look-around and back-references are, too: they take more than linear time.
    #[error("{0}")]
    Syntax(String),
}

/// A number that nothing else of the process has.
pub(super) fn next_id() -> u64 {
    static IDS: AtomicU64 = AtomicU64::new(0);
    IDS.fetch_add(1, Ordering::Relaxed)
}

thread_local! {
    static SEARCHERS: RefCell<HashMap<u64, Regex, RandomState>> = RefCell::default();
}

impl Pattern {
    pub fn new(text: &str) -> Result<Self, InvalidPattern> {
        Self::build(text, false, true)
    }

    /// One to which `a` and `A` are the same.
    pub fn ignoring_case(text: &str) -> Result<Self, InvalidPattern> {
        Self::build(text, true, true)
    }

    /// The same for ASCII alone, which takes a fraction of the memory.
    pub(super) fn of_bytes(text: &str) -> Result<Self, InvalidPattern> {
        Self::build(text, true, false)
    }

    fn build(text: &str, ignores_case: bool, unicode: bool) -> Result<Self, InvalidPattern> {
        let mut builder = RegexBuilder::new(text);
        builder
            .case_insensitive(ignores_case)
            .unicode(unicode)
            .size_limit(PROGRAM_BYTES_MAX)
            .dfa_size_limit(CACHE_BYTES_MAX);
        match builder.build() {
            Ok(regex) => Ok(Self { regex, id: next_id(), ignores_case }),
            Err(regex::Error::CompiledTooBig(_)) => Err(InvalidPattern::TooLarge),
            Err(error) => {
                // The last line says what; those before it show where.
                let text = error.to_string();
                let last = text.lines().last().unwrap_or_default();
                Err(InvalidPattern::Syntax(last.trim_start_matches("error: ").to_owned()))
            }
        }
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        self.regex.as_str()
    }

    pub fn regex(&self) -> &Regex {
        &self.regex
    }

    /// Searches with a copy that is this thread's own. A `Regex` keeps the memory that searches need for the next one,
    /// and whoever uses it from several threads waits for a cache line of another's each time. There is only so much
    /// of it in a thread, however many patterns there are.
    pub fn search<T>(&self, search: impl FnOnce(&Regex) -> T) -> T {
        SEARCHERS.with_borrow_mut(|searchers| {
            if searchers.len() >= SEARCHERS_MAX && !searchers.contains_key(&self.id) {
                searchers.clear();
            }
            search(searchers.entry(self.id).or_insert_with(|| self.regex.clone()))
        })
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str() && self.ignores_case == other.ignores_case
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({:?})", self.as_str())
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.as_str().serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_more_than_linear_time_or_much_memory_is_refused() {
        assert_eq!(Pattern::new("(a{1,1000}){1,1000}"), Err(InvalidPattern::TooLarge));
        for text in [r"(a)\1", "a(?=b)", "a(", "[z-a]"] {
            let Err(InvalidPattern::Syntax(why)) = Pattern::new(text) else { panic!("{text}") };
            assert!(!why.is_empty() && !why.contains('\n'), "{why}");
        }
        assert!(Pattern::new("^/a$").unwrap() != Pattern::ignoring_case("^/a$").unwrap());
    }

    #[test]
    fn a_thread_keeps_memory_for_so_many_patterns_and_searches_with_all() {
        let patterns: Vec<_> = (0..2 * SEARCHERS_MAX).map(|n| Pattern::new(&format!("^/{n}$")).unwrap()).collect();
        for (number, pattern) in patterns.iter().enumerate().chain(patterns.iter().enumerate()) {
            assert!(pattern.search(|regex| regex.is_match(format!("/{number}").as_bytes())));
            assert!(SEARCHERS.with_borrow(HashMap::len) <= SEARCHERS_MAX);
        }
        assert_eq!(Pattern::new("a"), Pattern::new("a"), "whichever it is");
    }
}
