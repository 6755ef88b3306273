//! A path as nginx reads it in `location ~* "^<path>"`: a regular expression that ignores case and is anchored at its
//! start only. Most have words at their start, and many nothing else: those are compared first, so that of a host's
//! many patterns few are ever searched with, and what is only words costs no memory for a program.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};

use foldhash::fast::RandomState;
use regex::bytes::{RegexSet, RegexSetBuilder};
use regex_syntax::ast::{self, Ast, LiteralKind};
use serde::{Serialize, Serializer};

use super::InvalidPattern;
use super::path_program::Program;

/// Longest text, in bytes; reading one takes a hundred times as much memory. nginx takes no longer one either.
const TEXT_BYTES_MAX: usize = 4096;
/// Characters that no path has: they are escaped in all that is matched.
const ESCAPED_IN_PATHS: &[u8] = b" \"<>`";

/// Paths of a host up to which trying one after the other is cheaper than searching with all at once: 8 that begin
/// differently take 80 ns and together 110 ns, 64 take 520 ns and 150 ns, and 64 that begin alike 6 µs and 150 ns.
const ONE_BY_ONE_MAX: usize = 8;
/// Most steps that one request may cost, one a state and byte of the path: some 50 ms at worst. 2,000 states, of 50
/// patterns that are no usual ones, are too much for a path of 4 KiB.
const STEPS_MAX: usize = 8 * 1024 * 1024;
/// Largest program of a host's patterns together, in bytes: 1,000 usual ones take 1 MiB.
const SET_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Largest lazy automaton of a host's patterns, in bytes, in each thread: 1,000 usual ones take 1.5 MiB, and a
/// thousand times as long where there is too little.
const SET_CACHE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Hosts whose memory for searches a thread keeps: 64 MiB at the most.
const SEARCHERS_MAX: usize = 32;

/// A compiled path.
pub struct PathPattern {
    text: Box<str>,
    /// What every path begins with that it takes.
    prefix: Box<str>,
    rest: Rest,
}

/// What follows the prefix. Most paths that are written are one of the first four, and need no program.
enum Rest {
    /// Anything.
    Any,
    /// `(.*)`
    Captured,
    /// `/?(.*)`
    BehindAnySlash,
    /// `(/|$)(.*)`
    BehindASlashOrNothing,
    Program(Program),
}

/// What was found in a path.
enum Found<'p> {
    Rest([&'p str; 2]),
    Program(regex_automata::util::captures::Captures),
}

impl PathPattern {
    /// Reads a path as it is written in a rule.
    pub fn new(text: &str) -> Result<Self, InvalidPattern> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(InvalidPattern::TooLarge);
        }
        let escaped = |character: &char| !character.is_ascii() || ESCAPED_IN_PATHS.contains(&(*character as u8));
        if let Some(character) = text.chars().find(escaped) {
            let bytes: Vec<String> = character.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect();
            let bytes = bytes.concat();
            return Err(InvalidPattern::Syntax(format!("paths have `{bytes}` in place of `{character}`")));
        }
        if let Some(other) = never_sent(text) {
            return Err(InvalidPattern::Syntax(format!("no path has `{other}`, as paths are read in one form")));
        }
        let usual = [
            ("(/|$)(.*)", Rest::BehindASlashOrNothing),
            ("/?(.*)", Rest::BehindAnySlash),
            ("(.*)", Rest::Captured),
            ("", Rest::Any),
        ];
        for (suffix, rest) in usual {
            if let Some((plain, true)) = text.strip_suffix(suffix).map(prefix) {
                return Ok(Self { text: text.into(), prefix: plain.into(), rest });
            }
        }
        let rest = Rest::Program(Program::new(&format!("^{text}"))?);
        Ok(Self { text: text.into(), prefix: prefix(text).0.into(), rest })
    }

    /// One that takes what begins with this text, whatever it is.
    pub fn literal(text: &str) -> Self {
        Self { text: regex::escape(text).into(), prefix: text.into(), rest: Rest::Any }
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// How many `$1`, `$2`, … there are.
    pub fn captures(&self) -> usize {
        match &self.rest {
            Rest::Any => 0,
            Rest::Captured | Rest::BehindAnySlash => 1,
            Rest::BehindASlashOrNothing => 2,
            Rest::Program(program) => program.captures(),
        }
    }

    /// What it takes to hold a path against it, for each byte of the path.
    pub fn states(&self) -> usize {
        match &self.rest {
            Rest::Program(program) => program.states(),
            Rest::Any | Rest::Captured | Rest::BehindAnySlash | Rest::BehindASlashOrNothing => 0,
        }
    }

    pub fn is_match(&self, path: &str) -> bool {
        let Some(rest) = self.behind_prefix(path) else { return false };
        match &self.rest {
            Rest::Any | Rest::Captured | Rest::BehindAnySlash => true,
            Rest::BehindASlashOrNothing => rest.is_empty() || rest.starts_with('/'),
            Rest::Program(program) => program.is_match(path),
        }
    }

    fn behind_prefix<'p>(&self, path: &'p str) -> Option<&'p str> {
        let (begin, rest) = path.split_at_checked(self.prefix.len())?;
        begin.eq_ignore_ascii_case(&self.prefix).then_some(rest)
    }

    /// What `$1`, `$2`, … stand for in a path that matches.
    pub(super) fn capture<'p>(&self, path: &'p str) -> impl Fn(usize) -> &'p str + use<'p> {
        let rest = self.behind_prefix(path).unwrap_or_default();
        let found = match &self.rest {
            Rest::Any => Found::Rest(["", ""]),
            Rest::Captured => Found::Rest([rest, ""]),
            Rest::BehindAnySlash => Found::Rest([rest.strip_prefix('/').unwrap_or(rest), ""]),
            Rest::BehindASlashOrNothing => {
                let (slash, rest) = rest.split_at(usize::from(rest.starts_with('/')));
                Found::Rest([slash, rest])
            }
            Rest::Program(program) => Found::Program(program.find(path)),
        };
        move |number| match &found {
            Found::Rest(all) => all.get(number.wrapping_sub(1)).copied().unwrap_or_default(),
            Found::Program(found) => {
                let place = found.get_group(number);
                place.and_then(|place| path.get(place.range())).unwrap_or_default()
            }
        }
    }
}

/// By what is written: it says all.
impl PartialEq for PathPattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for PathPattern {}

impl fmt::Debug for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PathPattern({:?})", self.text)
    }
}

/// Patterns in the order in which they are tried: the first that takes a path has it.
#[derive(Debug)]
pub struct PathPatterns {
    all: Vec<Arc<PathPattern>>,
    /// Of all of them.
    states: usize,
    /// All of them together, where there are many.
    set: Option<Arc<RegexSet>>,
}

/// A thread's own copy, and whether there is still somebody else who has the set.
type Searcher = (Weak<RegexSet>, RegexSet);

thread_local! {
    /// A set keeps the memory that searches need for the next one, and whoever uses it from several threads waits for
    /// a cache line of another's each time. So a thread searches with copies of its own, by the set's address.
    static SEARCHERS: RefCell<HashMap<usize, Searcher, RandomState>> = RefCell::default();
}

/// Lets go of this thread's copies of patterns that no table has any more.
pub fn sweep_searchers() {
    SEARCHERS.with_borrow_mut(|searchers| searchers.retain(|_, (set, _)| set.strong_count() > 0));
}

impl PathPatterns {
    pub fn new(all: Vec<Arc<PathPattern>>) -> Self {
        let texts = || all.iter().map(|pattern| format!("^{}", pattern.text));
        let mut builder = RegexSetBuilder::new((all.len() > ONE_BY_ONE_MAX).then(texts).into_iter().flatten());
        builder.case_insensitive(true).unicode(false).size_limit(SET_BYTES_MAX).dfa_size_limit(SET_CACHE_BYTES_MAX);
        // What is too large together is tried one by one.
        let set = builder.build().ok().filter(|set| !set.is_empty()).map(Arc::new);
        Self { states: all.iter().map(|pattern| pattern.states()).sum(), all, set }
    }

    /// Whether it could take too long to hold the path against them.
    pub fn are_too_much_for(&self, path: &str) -> bool {
        self.states.saturating_mul(path.len()) > STEPS_MAX
    }

    /// The place of the first that takes the path.
    pub fn first(&self, path: &str) -> Option<usize> {
        let Some(set) = &self.set else { return self.all.iter().position(|pattern| pattern.is_match(path)) };
        // No other set has the address while the copy is here.
        let address = Arc::as_ptr(set).addr();
        SEARCHERS.with_borrow_mut(|searchers| {
            if searchers.len() >= SEARCHERS_MAX && !searchers.contains_key(&address) {
                searchers.clear();
            }
            let copy = || (Arc::downgrade(set), RegexSet::clone(set));
            searchers.entry(address).or_insert_with(copy).1.matches(path.as_bytes()).iter().next()
        })
    }
}

impl Serialize for PathPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.text.serialize(serializer)
    }
}

/// What a text asks for that no path has in its one form: a character that is written as an escape and needs none, and
/// two slashes.
fn never_sent(text: &str) -> Option<&str> {
    let unreserved = |code: &str| {
        let byte = u8::from_str_radix(code, 16).ok();
        byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
    };
    let escapes = text.match_indices('%').filter_map(|(at, _)| text.get(at..at + 3));
    let mut slashes = text.match_indices("//").filter(|(at, _)| !text[at + 2..].starts_with(['?', '*', '+', '{', '/']));
    escapes.into_iter().find(|escape| unreserved(&escape[1..])).or_else(|| slashes.next().map(|(_, found)| found))
}

/// The plain characters that a pattern begins with, and whether there is nothing else. What can't be read has none.
fn prefix(text: &str) -> (String, bool) {
    let Ok(ast) = ast::parse::Parser::new().parse(text) else { return (String::new(), false) };
    let parts = match &ast {
        Ast::Concat(concat) => &concat.asts[..],
        other => std::slice::from_ref(other),
    };
    let plain = |part: &Ast| match part {
        // Another kind may say a byte in another way, as `\xE9` does.
        Ast::Literal(literal) if matches!(literal.kind, LiteralKind::Verbatim | LiteralKind::Meta) => Some(literal.c),
        _ => None,
    };
    let prefix: String = parts.iter().map_while(plain).collect();
    let whole = prefix.len() == parts.len();
    (prefix, whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ignores_case_and_is_anchored_at_its_start_only() {
        // Path of the rule, path of the request, whether it takes it.
        let table = [
            ("/", "/", true),
            ("/", "/a", true),
            ("/foo", "/FOO", true),
            ("/foo", "/foobar", true),
            ("/foo", "/fo", false),
            ("/foo", "/a/foo", false),
            ("/foo/", "/foo", false),
            ("/foo(/|$)(.*)", "/foo", true),
            ("/foo(/|$)(.*)", "/Foo/bar", true),
            ("/foo(/|$)(.*)", "/foobar", false),
            ("/a?b", "/b", true),
            ("/a?b", "/ab", true),
            ("/a*b", "/aab", true),
            (r"/a\.b", "/a.b", true),
            (r"/a\.b", "/axb", false),
            ("/a.b", "/axb", true),
            // As nginx has it: `^` is the first alternative's.
            ("/a|/b", "/a", true),
            ("/a|/b", "/x/b", true),
            ("/a|/b", "/x/a", false),
            (r"/\w+/x", "/ab/x", true),
            ("/(?-i)foo", "/FOO", false),
            ("/[a-c]{2}", "/CB", true),
        ];
        for (rule, path, expected) in table {
            assert_eq!(PathPattern::new(rule).unwrap().is_match(path), expected, "{rule} {path}");
        }
        assert!(PathPattern::literal("/a(b").is_match("/A(bc"));
    }

    #[test]
    fn what_no_path_can_have_is_no_pattern() {
        for text in ["/%7Ea", "/a%41/(.*)", "//admin", "/a//b", "/a(/|$)//(.*)"] {
            assert!(matches!(PathPattern::new(text), Err(InvalidPattern::Syntax(_))), "{text}");
        }
        for text in ["/a//?b", "/a//*b", "/a//+b", "/%2Fa", "/a%20b", "/[a/]/b"] {
            assert!(PathPattern::new(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn what_could_take_too_long_is_known_before() {
        let slow = |count: usize| {
            let pattern = |number| Arc::new(PathPattern::new(&format!("/[^z]{{0,100}}z{number}")).unwrap());
            PathPatterns::new((0..count).map(pattern).collect())
        };
        assert!(!slow(1).are_too_much_for(&"a".repeat(8192)));
        assert!(slow(150).are_too_much_for(&"a".repeat(8192)) && !slow(150).are_too_much_for("/a"));
        let usual = (0..1000).map(|number| Arc::new(PathPattern::new(&format!("/{number}(/|$)(.*)")).unwrap()));
        assert!(!PathPatterns::new(usual.collect()).are_too_much_for(&"a".repeat(16384)));
        assert_eq!(PathPattern::new("/([^z]{0,4000}z){9}"), Err(InvalidPattern::TooLarge));
    }

    /// The usual ones and the program that each would be come to the same.
    #[test]
    fn what_needs_no_program_is_read_as_one_would_read_it() {
        for text in ["/", "/a", "/a.b", "/(.*)", "/a(.*)", "/a/(.*)", "/a/?(.*)", "/a(/|$)(.*)", r"/a\.b(/|$)(.*)"] {
            let pattern = PathPattern::new(text).unwrap();
            let program = Program::new(&format!("^{text}")).unwrap();
            assert_eq!(pattern.captures(), program.captures(), "{text}");
            for path in ["/", "/a", "/A", "/a/", "/ab", "/a/b", "/a//b/", "/a.b", "/a.B/c", "/aXb/c", "/é/a", "/b"] {
                assert_eq!(pattern.is_match(path), program.is_match(path), "{text} {path}");
                if pattern.is_match(path) {
                    let (found, by_program) = (pattern.capture(path), program.find(path));
                    for number in 1..4 {
                        let place = by_program.get_group(number).map_or("", |place| &path[place.range()]);
                        assert_eq!(found(number), place, "{text} {path} ${number}");
                    }
                }
            }
        }
    }

    #[test]
    fn many_are_searched_with_together_and_come_to_the_same() {
        let texts =
            ["/foo/x", "/fo+/.*", "/a|/b", "/(svc-1)(/|$)", "/svc-[0-9]", "/(?-i)S", r"/a\.b", "/f", "/.$", "/zz", "/"];
        let all: Vec<_> = texts.iter().map(|text| Arc::new(PathPattern::new(text).unwrap())).collect();
        let together = PathPatterns::new(all.clone());
        assert!(together.set.is_some());
        for path in
            ["/foo/x", "/FOO/y", "/x/b", "/svc-1", "/svc-12", "/s", "/S", "/a.b", "/axb", "/f", "/", "/y", "/yy"]
        {
            let one_by_one = all.iter().position(|pattern| pattern.is_match(path));
            assert_eq!((together.first(path), one_by_one.is_some()), (one_by_one, true), "{path}");
        }
    }

    #[test]
    fn a_thread_keeps_what_it_searches_with_for_as_long_as_somebody_has_the_patterns() {
        let host = |number: usize| {
            let texts = (0..=ONE_BY_ONE_MAX).map(|path| format!("/{number}/{path}$"));
            PathPatterns::new(texts.map(|text| Arc::new(PathPattern::new(&text).unwrap())).collect())
        };
        let held = || SEARCHERS.with_borrow(HashMap::len);
        let mut hosts: Vec<PathPatterns> = (0..3 * SEARCHERS_MAX).map(host).collect();
        for (number, host) in hosts.iter().enumerate().chain(hosts.iter().enumerate()) {
            assert_eq!(host.first(&format!("/{number}/7")), Some(7));
            assert!(held() <= SEARCHERS_MAX);
        }
        let before = held();
        sweep_searchers();
        assert_eq!(held(), before, "the tables still have them");
        hosts.drain(1..);
        hosts[0].first("/0/1");
        sweep_searchers();
        assert_eq!(held(), 1);
        hosts.clear();
        sweep_searchers();
        assert_eq!(held(), 0);
    }

    #[test]
    fn plain_text_has_no_program_and_the_rest_a_prefix() {
        let table = [
            ("/foo", "/foo", true),
            (r"/a\.b", "/a.b", true),
            ("/foo/(.*)", "/foo/", false),
            ("/foo?", "/fo", false),
            ("/a|/b", "", false),
            ("(/a)", "", false),
            ("(?i)/a", "", false),
        ];
        for (text, expected, whole) in table {
            let pattern = PathPattern::new(text).unwrap();
            assert_eq!((&*pattern.prefix, matches!(pattern.rest, Rest::Any)), (expected, whole), "{text}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in ["/a(", "/a)", "/(?=a)", r"/(a)\1", "/a{1,1000}{1,1000}", "/é", "/a b", r"/\p{Greek}"] {
            assert!(PathPattern::new(text).is_err(), "{text}");
        }
        let Err(InvalidPattern::Syntax(why)) = PathPattern::new("/é") else { panic!() };
        assert_eq!(why, "paths have `%C3%A9` in place of `é`");
    }
}
