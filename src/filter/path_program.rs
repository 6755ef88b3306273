//! What a path is compiled to. There may be one for each of ten thousand Ingresses, so it is small: an automaton
//! alone, which is followed with backtracking (1.2 KiB for `/app(/|$)(.*)`, where a `regex::bytes::Regex` takes 11).
//! Captures are found as fast, what only matches in 370 ns instead of 50. It takes linear time: no place is looked
//! at twice in one state. All patterns of a thread search in the same memory.

use std::cell::RefCell;

use regex_automata::nfa::thompson::backtrack::{self, BoundedBacktracker, Cache};
use regex_automata::nfa::thompson::pikevm::PikeVM;
use regex_automata::nfa::thompson::{Compiler, Config};
use regex_automata::util::captures::Captures;
use regex_syntax::ParserBuilder;

use super::InvalidPattern;

/// Largest program, in bytes: usual ones take 1.2 KiB, and what a request costs grows with it.
const PROGRAM_BYTES_MAX: usize = 32 * 1024;
/// Memory for what a search has looked at, in bytes of one bit for each state and place: a usual pattern and a path of
/// 8 KiB. It bounds what a thread keeps, and what is made zero for a search.
const VISITED_BYTES_MAX: usize = 32 * 1024;

/// A compiled pattern that ignores case, in ASCII alone.
pub(super) struct Program(BoundedBacktracker);

thread_local! {
    static MEMORY: RefCell<Option<Cache>> = const { RefCell::new(None) };
}

impl Program {
    pub(super) fn new(text: &str) -> Result<Self, InvalidPattern> {
        let mut parser = ParserBuilder::new().case_insensitive(true).unicode(false).utf8(false).build();
        let read = parser.parse(text).map_err(|error| InvalidPattern::syntax(&error))?;
        let config = Config::new().utf8(false).nfa_size_limit(Some(PROGRAM_BYTES_MAX));
        // What can be read has no other fault than its size.
        let automaton = Compiler::new().configure(config).build_from_hir(&read);
        let automaton = automaton.map_err(|_| InvalidPattern::TooLarge)?;
        let search = backtrack::Config::new().visited_capacity(VISITED_BYTES_MAX);
        let program = BoundedBacktracker::builder().configure(search).build_from_nfa(automaton);
        program.map(Self).map_err(|_| InvalidPattern::TooLarge)
    }

    /// How many `$1`, `$2`, … there are.
    pub(super) fn captures(&self) -> usize {
        self.0.get_nfa().group_info().all_group_len() - 1
    }

    /// States of the automaton: a search looks at each of them at each place of a path, at worst.
    pub(super) fn states(&self) -> usize {
        self.0.get_nfa().states().len()
    }

    pub(super) fn is_match(&self, path: &str) -> bool {
        let found = self.with_memory(|memory| self.0.try_is_match(memory, path));
        found.unwrap_or_else(|_| self.frugal(|program| program.is_match(&mut program.create_cache(), path)))
    }

    /// What was found where; nothing of a path that doesn't match.
    pub(super) fn find(&self, path: &str) -> Captures {
        let mut found = self.0.create_captures();
        if self.with_memory(|memory| self.0.try_captures(memory, path, &mut found)).is_err() {
            self.frugal(|program| program.captures(&mut program.create_cache(), path, &mut found));
        }
        found
    }

    fn with_memory<T>(&self, search: impl FnOnce(&mut Cache) -> T) -> T {
        MEMORY.with_borrow_mut(|memory| {
            let memory = memory.get_or_insert_with(|| self.0.create_cache());
            memory.reset(&self.0);
            search(memory)
        })
    }

    /// For a pattern and a path that are too long together: takes longer, and memory for the pattern alone.
    fn frugal<T>(&self, search: impl FnOnce(&PikeVM) -> T) -> T {
        search(&PikeVM::new_from_nfa(self.0.get_nfa().clone()).expect("the automaton has captures, as all have"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usual_path_takes_little_memory() {
        let program = Program::new("^/app-123(/|$)(.*)").unwrap();
        let bytes = program.0.get_nfa().memory_usage();
        assert!(bytes < 2048, "{bytes} bytes");
    }

    #[test]
    fn a_path_that_is_too_long_for_the_memory_comes_to_the_same() {
        let program = Program::new("^/(a|b){200}(.*)$").unwrap();
        let path = format!("/{}", "b".repeat(8000));
        assert!(program.0.max_haystack_len() < path.len());
        assert!(program.is_match(&path) && !program.is_match(&path.replace('b', "c")));
        let found = program.find(&path);
        assert_eq!((program.captures(), found.get_group(2).map(|place| place.len())), (2, Some(7800)));
        assert_eq!(program.find("/x").get_group(0), None);
    }
}
