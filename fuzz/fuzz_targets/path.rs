//! One meaning for a path: bringing it into normal form twice is bringing it there once; what is sent has nothing left
//! that a backend could resolve, by its own plain reading, to another place than the one that was matched; and which
//! rule takes a path is what the Ingress rules say, however many rules there are, and the same for what is sent.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use portunus::model::{NormalizedPath, PathKind, PathMatch, normalize};
use portunus::router::Paths;

#[derive(Arbitrary, Debug)]
struct Input {
    path: String,
    rules: Vec<(bool, String)>,
}

fuzz_target!(|input: Input| {
    let Ok(path) = normalize(&input.path) else { return };
    is_stable(&path);
    leaves_nothing(&path);
    let rules: Vec<PathMatch> = input.rules.iter().filter_map(rule).collect();
    // With so many that they are in a tree, and alone.
    let fillers: Vec<PathMatch> = (0..9).map(|n| PathMatch::new(PathKind::Exact, &format!("/\u{1}{n}"))).collect();
    let few = Paths::new(rules.iter().map(Some));
    let many = Paths::new(rules.iter().chain(&fillers).map(Some));
    let expected = find(&rules, &path.matched);
    assert_eq!(few.find(&path.matched), expected, "{path:?} among {rules:?}");
    assert_eq!(many.find(&path.matched), expected, "{path:?} among {rules:?} and more");
    let sent = normalize(&path.sent).expect("it is in normal form");
    assert_eq!(few.find(&sent.matched), expected, "what is sent has another rule: {path:?} among {rules:?}");
});

/// As translation makes it, which brings the paths of rules into normal form too.
fn rule((exact, path): &(bool, String)) -> Option<PathMatch> {
    let kind = if *exact { PathKind::Exact } else { PathKind::Prefix };
    Some(PathMatch::new(kind, &normalize(path).ok()?.matched))
}

fn is_stable(path: &NormalizedPath<'_>) {
    let again = normalize(&path.matched).expect("it is in normal form");
    assert_eq!((&again.matched, &again.sent), (&path.matched, &path.matched), "{path:?}");
    let again = normalize(&path.sent).expect("it is in normal form");
    assert_eq!((&again.matched, &again.sent), (&path.matched, &path.sent), "{path:?}");
    for other in path.readings().into_iter().flatten() {
        assert!(other.starts_with('/'), "{path:?} is read as {other:?}");
    }
}

/// What the rules of Ingress say, one after the other: the longest path, then Exact before Prefix, then the first.
fn find(rules: &[PathMatch], path: &str) -> Option<usize> {
    let takes = |rule: &PathMatch| match rule.kind {
        PathKind::Exact => path == &*rule.value,
        PathKind::Prefix => {
            let prefix = rule.value.trim_end_matches('/');
            path == &*rule.value
                || path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        PathKind::Regex => false,
    };
    let rank = |rule: &PathMatch| match (rule.kind, &*rule.value) {
        (PathKind::Prefix, "/") => (0, false),
        (kind, value) => (value.len(), kind == PathKind::Exact),
    };
    let taking = rules.iter().enumerate().filter(|(_, rule)| takes(rule));
    taking.rev().max_by_key(|(_, rule)| rank(rule)).map(|(index, _)| index)
}

/// A backend that decodes, merges slashes and resolves dots, in this order, and one that drops `;…` before that, end
/// where matching began.
fn leaves_nothing(path: &NormalizedPath<'_>) {
    assert!(path.sent.is_ascii() && path.sent.starts_with('/'), "{path:?}");
    assert!(!path.sent.bytes().any(|byte| byte <= b' ' || byte == 0x7f || byte == b'\\'), "{path:?}");
    let place = |path: &str| resolve(&decode(path));
    assert_eq!(place(&path.sent), segments(&decode(&path.matched)), "{path:?}");
    for segment in decode(&path.sent).split(|byte| *byte == b'/') {
        let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
        assert!(!matches!(name, b"." | b".."), "{path:?}");
    }
}

fn decode(path: &str) -> Vec<u8> {
    let bytes = path.as_bytes();
    let (mut out, mut at) = (Vec::new(), 0);
    while let Some(byte) = bytes.get(at) {
        let escaped = (*byte == b'%').then(|| u8::from_str_radix(&path[at + 1..at + 3], 16).expect("two digits"));
        out.push(escaped.unwrap_or(*byte));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    out
}

fn segments(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/').filter(|segment| !segment.is_empty()).map(<[u8]>::to_vec).collect()
}

fn resolve(path: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for segment in segments(path) {
        match &segment[..] {
            b"." => {}
            b".." => drop(all.pop()),
            _ => all.push(segment),
        }
    }
    all
}
