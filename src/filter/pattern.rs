//! Regular expressions that users write. They take linear time and bounded memory (the `regex` crate), and are
//! compared by what is written.

use std::fmt;

use regex::bytes::{Regex, RegexBuilder};
use serde::{Serialize, Serializer};

/// Largest compiled program, in bytes: enough for whatever was meant, and little beside a table.
const PROGRAM_BYTES_MAX: usize = 256 * 1024;
/// Largest lazy automaton that a search may build, in bytes.
const CACHE_BYTES_MAX: usize = 256 * 1024;

/// A compiled regular expression.
#[derive(Clone)]
pub struct Pattern {
    regex: Regex,
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

impl InvalidPattern {
    /// The last line of an error says what; those before it show where.
    pub(super) fn syntax(error: &impl fmt::Display) -> Self {
        let text = error.to_string();
        let last = text.lines().last().unwrap_or_default();
        Self::Syntax(last.trim_start_matches("error: ").to_owned())
    }
}

impl Pattern {
    pub fn new(text: &str) -> Result<Self, InvalidPattern> {
        Self::build(text, false)
    }

    /// One to which `a` and `A` are the same.
    pub fn ignoring_case(text: &str) -> Result<Self, InvalidPattern> {
        Self::build(text, true)
    }

    fn build(text: &str, ignores_case: bool) -> Result<Self, InvalidPattern> {
        let mut builder = RegexBuilder::new(text);
        builder.case_insensitive(ignores_case).size_limit(PROGRAM_BYTES_MAX).dfa_size_limit(CACHE_BYTES_MAX);
        match builder.build() {
            Ok(regex) => Ok(Self { regex, ignores_case }),
            Err(regex::Error::CompiledTooBig(_)) => Err(InvalidPattern::TooLarge),
            Err(error) => Err(InvalidPattern::syntax(&error)),
        }
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        self.regex.as_str()
    }

    pub fn regex(&self) -> &Regex {
        &self.regex
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
}
