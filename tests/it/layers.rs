//! The direction of imports, as ARCHITECTURE.md has it, and what else is kept out of where: Kubernetes' types
//! out of all but the providers and `translate`, tokio and hyper out of what is pure, the environment out of all
//! but `config`, globs of the crate's root out of everything, and more than 400 lines of code out of a file.
//! Sources are read as tokens, so that nested `use` trees and paths within code count, and comments and strings
//! don't. If a border proves wrong: change ARCHITECTURE.md, this table and the code in one commit, and say why.

use std::fs;
use std::path::{Path, PathBuf};

/// Each module and what it may import beside itself.
const MODULES: [(&str, &[&str]); 26] = [
    ("filter", &[]),
    ("balance", &[]),
    ("metrics", &[]),
    ("clock", &[]),
    ("memory", &[]),
    ("drain", &[]),
    ("telemetry", &[]),
    ("model", &["filter", "balance"]),
    ("translate", &["model", "filter", "balance"]),
    ("router", &["model", "filter", "balance"]),
    ("tls", &["model"]),
    ("upstream", &["model", "balance", "filter", "tls", "metrics", "clock"]),
    ("table", &["model", "filter", "router", "tls", "upstream", "metrics"]),
    (
        "proxy",
        &["table", "router", "filter", "upstream", "tls", "drain", "model", "balance", "metrics", "clock", "memory"],
    ),
    ("kubernetes", &["translate", "tls", "model", "clock"]),
    ("file", &["translate", "model", "clock"]),
    ("resolve", &["translate", "model", "metrics"]),
    ("config", &["balance", "model", "telemetry", "translate"]),
    ("control", TOP),
    ("sockets", TOP),
    ("takeover", TOP),
    ("ending", TOP),
    ("admin", TOP),
    ("cli", TOP),
    ("app", TOP),
    ("main", TOP),
];

/// Everything but `main`.
const TOP: &[&str] = &[
    "filter",
    "balance",
    "metrics",
    "clock",
    "memory",
    "drain",
    "telemetry",
    "model",
    "translate",
    "router",
    "tls",
    "upstream",
    "table",
    "proxy",
    "kubernetes",
    "file",
    "resolve",
    "config",
    "control",
    "sockets",
    "takeover",
    "ending",
    "admin",
    "cli",
    "app",
];

const KUBERNETES: [&str; 2] = ["kube", "k8s_openapi"];
const SPEAKS_KUBERNETES: [&str; 3] = ["translate", "kubernetes", "file"];
const SOCKETS: [&str; 8] =
    ["tokio", "tokio_rustls", "tokio_tungstenite", "hyper", "hyper_util", "http_body", "http_body_util", "socket2"];
const PURE: [&str; 5] = ["balance", "filter", "model", "router", "translate"];
const CODE_LINES_MAX: usize = 400;

#[test]
fn imports_go_down_and_nothing_is_where_it_must_not_be() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    collect(&root.join("src"), &mut files);
    assert!(files.len() > 20, "only {} files in src", files.len());
    let mut faults = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a source");
        let path = file.strip_prefix(root).expect("below the root");
        faults.extend(check(path, &text));
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
}

/// What is wrong with a source, as `file:line: sentence`.
fn check(file: &Path, text: &str) -> Vec<String> {
    let place = place(file);
    let module = place.first().map_or("lib", String::as_str);
    let tokens = tokens(text);
    let mut faults = Vec::new();
    for (line, path) in paths(&tokens, &place) {
        if let Some(fault) = fault(module, &path) {
            faults.push(format!("{}:{line}: {fault}", file.display()));
        }
    }
    faults.dedup();
    let lines = code_lines(&tokens);
    if lines > CODE_LINES_MAX {
        faults.push(format!("{}:1: {lines} lines of code are more than {CODE_LINES_MAX}; split it", file.display()));
    }
    faults
}

/// The module that a file is, from the root: `src/router/path.rs` is `router`, `path`; `src/lib.rs` is nothing.
fn place(file: &Path) -> Vec<String> {
    let below = file.strip_prefix("src").expect("a source").with_extension("");
    let mut place: Vec<String> = below.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if place.last().is_some_and(|last| last == "mod") || place == ["lib"] {
        place.pop();
    }
    place
}

fn fault(module: &str, path: &[&str]) -> Option<String> {
    match path {
        ["crate", "*", ..] => Some("no module may import all of the root; name what is used".to_owned()),
        ["crate" | "portunus", other, ..] => import_fault(module, other),
        ["std", "env", ..] if module != "config" => Some(format!("{module} may not read the environment; config does")),
        [external, ..] if KUBERNETES.contains(external) && !SPEAKS_KUBERNETES.contains(&module) => {
            Some(format!("{module} may not know Kubernetes ({external}); translate and its providers do"))
        }
        [external, ..] if SOCKETS.contains(external) && PURE.contains(&module) => {
            Some(format!("{module} may not use {external}; it is pure"))
        }
        _ => None,
    }
}

fn import_fault(module: &str, other: &str) -> Option<String> {
    if module == other || module == "lib" {
        return None;
    }
    let known = |name: &str| MODULES.iter().find(|(known, _)| *known == name);
    let Some((_, allowed)) = known(module) else {
        return Some(format!("{module} has no layer; give it one in ARCHITECTURE.md and tests/it/layers.rs"));
    };
    if allowed.contains(&other) { None } else { Some(format!("{module} may not import {other}")) }
}

/// A word, `::`, or any other sign but white space. Comments, strings, characters and lifetimes are none.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Token<'a> {
    line: usize,
    text: &'a str,
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < text.len() {
        let rest = &text[at..];
        let (length, token) = lex(rest);
        if token {
            tokens.push(Token { line, text: &rest[..length] });
        } else if rest.starts_with(['"', 'b', 'c', 'r', '\'']) {
            // A literal is code on each of its lines, though it says nothing.
            let count = rest[..length].matches('\n').count();
            tokens.extend((0..=count).map(|below| Token { line: line + below, text: "" }));
        }
        line += rest[..length].matches('\n').count();
        at += length;
    }
    tokens
}

/// The length of what comes first, and whether it is a token.
fn lex(rest: &str) -> (usize, bool) {
    let first = rest.chars().next().expect("there is a rest");
    let until = |end: &str| rest.find(end).map_or(rest.len(), |at| at + end.len());
    if rest.starts_with("//") {
        return (rest.find('\n').unwrap_or(rest.len()), false);
    }
    if rest.starts_with("/*") {
        return (block_comment(rest), false);
    }
    if let Some(length) = string(rest) {
        return (length, false);
    }
    if first == '\'' {
        return character_or_lifetime(rest);
    }
    if first.is_alphabetic() || first == '_' {
        let word = |character: char| character.is_alphanumeric() || character == '_';
        return (rest.find(|character| !word(character)).unwrap_or(rest.len()), true);
    }
    if rest.starts_with("::") {
        return (until("::"), true);
    }
    (first.len_utf8(), !first.is_whitespace())
}

/// Block comments nest.
fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        let here = &rest[at..];
        let step = here.chars().next().map_or(1, char::len_utf8);
        match here {
            _ if here.starts_with("/*") => (depth, at) = (depth + 1, at + 2),
            _ if here.starts_with("*/") => (depth, at) = (depth - 1, at + 2),
            _ => at += step,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// The length of a string with or without prefix, raw or not.
fn string(rest: &str) -> Option<usize> {
    let quoted = rest.trim_start_matches(['b', 'c']);
    if rest.len() - quoted.len() > 1 {
        return None;
    }
    if let Some(raw) = quoted.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        let body = raw[hashes..].strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(hashes));
        let body = body.find(&end).map_or(body.len(), |at| at + end.len());
        return Some(rest.len() - raw.len() + hashes + 1 + body);
    }
    let body = quoted.strip_prefix('"')?;
    let mut escaped = false;
    let end = body.find(|character| {
        let ends = character == '"' && !escaped;
        escaped = character == '\\' && !escaped;
        ends
    });
    Some(rest.len() - body.len() + end.map_or(body.len(), |end| end + 1))
}

fn character_or_lifetime(rest: &str) -> (usize, bool) {
    let mut characters = rest.char_indices().skip(1);
    let (_, first) = characters.next().unwrap_or((1, ' '));
    let (after, second) = characters.next().unwrap_or((rest.len(), ' '));
    if first == '\\' {
        // The escaped character may itself be a quote.
        let begin = after + second.len_utf8();
        return (rest[begin..].find('\'').map_or(rest.len(), |at| begin + at + 1), false);
    }
    if second == '\'' { (after + 1, false) } else { (1, true) }
}

/// Every path in the code, with the line that it ends in, from the crate's root if it leads there by `super`.
fn paths<'a>(tokens: &[Token<'a>], place: &[String]) -> Vec<(usize, Vec<&'a str>)> {
    let tokens: Vec<Token<'_>> = tokens.iter().copied().filter(|token| !token.text.is_empty()).collect();
    let mut all = Vec::new();
    // For each brace that is open, whether it is that of a module.
    let mut braces: Vec<bool> = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        match tokens[at].text {
            "{" => braces.push(at >= 2 && tokens[at - 2].text == "mod"),
            "}" => drop(braces.pop()),
            text if is_word(text) => {
                let depth = place.len() + braces.iter().filter(|module| **module).count();
                let mut found = Vec::new();
                at = path(&tokens, at, &mut Vec::new(), &mut found);
                all.extend(found.into_iter().map(|(line, path)| (line, from_root(path, depth))));
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    all
}

fn is_word(text: &str) -> bool {
    text.starts_with(|character: char| character.is_alphabetic() || character == '_')
}

/// Reads `a::b`, `a::*` and `a::{b, c::d}` from `at` on, and says where the path ends.
fn path<'a>(
    tokens: &[Token<'a>],
    mut at: usize,
    above: &mut Vec<&'a str>,
    found: &mut Vec<(usize, Vec<&'a str>)>,
) -> usize {
    let height = above.len();
    let is = |at: usize, text: &str| tokens.get(at).is_some_and(|token| token.text == text);
    loop {
        if is(at, "{") {
            at += 1;
            while at < tokens.len() && !is(at, "}") {
                at = if is(at, "as") {
                    at + 2
                } else if is_word(tokens[at].text) || is(at, "*") || is(at, "{") {
                    path(tokens, at, above, found)
                } else {
                    at + 1
                };
            }
            above.truncate(height);
            return at + 1;
        }
        let Some(token) = tokens.get(at) else { break };
        if !is_word(token.text) && token.text != "*" {
            break;
        }
        above.push(token.text);
        at += 1;
        let goes_on =
            is(at, "::") && tokens.get(at + 1).is_some_and(|next| is_word(next.text) || "{*".contains(next.text));
        if !goes_on {
            break;
        }
        at += 1;
    }
    found.push((tokens[at - 1].line, above.clone()));
    above.truncate(height);
    at
}

/// `super::super::model`, two modules deep, is `crate::model`.
fn from_root(path: Vec<&str>, depth: usize) -> Vec<&str> {
    let path = match path.strip_prefix(&["self"]) {
        Some(rest) if rest.first() == Some(&"super") => rest.to_vec(),
        _ => path,
    };
    let up = path.iter().take_while(|part| **part == "super").count();
    if up == 0 || up < depth {
        return path;
    }
    [&["crate"], &path[up..]].concat()
}

/// Lines with code on them, without the module of tests.
fn code_lines(tokens: &[Token<'_>]) -> usize {
    let tests = ["#", "[", "cfg", "(", "test", ")", "]", "mod"];
    let begins = |at: usize| {
        tests.iter().enumerate().all(|(offset, text)| tokens.get(at + offset).is_some_and(|token| token.text == *text))
    };
    let (mut at, mut count, mut last) = (0, 0, 0);
    while at < tokens.len() {
        if begins(at) {
            at = skip_block(tokens, at);
            continue;
        }
        if tokens[at].line != last {
            count += 1;
            last = tokens[at].line;
        }
        at += 1;
    }
    count
}

/// Behind the braces that open next, or behind the semicolon if that comes first.
fn skip_block(tokens: &[Token<'_>], mut at: usize) -> usize {
    let mut depth = 0;
    while at < tokens.len() {
        match tokens[at].text {
            "{" => depth += 1,
            "}" if depth == 1 => return at + 1,
            "}" => depth -= 1,
            ";" if depth == 0 => return at + 1,
            _ => {}
        }
        at += 1;
    }
    at
}

#[test]
fn the_table_has_layers() {
    for (index, (module, allowed)) in MODULES.iter().enumerate() {
        for other in *allowed {
            let below = MODULES.iter().position(|(known, _)| known == other);
            assert!(
                below.is_some_and(|below| below < index || *allowed == TOP),
                "{module} may import {other}, which is not below"
            );
        }
    }
}

/// A file below `src`, what stands in it, and the faults by line.
type Row = (&'static str, &'static str, &'static [(usize, &'static str)]);

const GLOB: &str = "no module may import all of the root; name what is used";
const ROWS: &[Row] = &[
    ("router/mod.rs", "use crate::proxy::Body;", &[(1, "router may not import proxy")]),
    ("router/mod.rs", "use crate::model::{Host, Rule};\nuse crate::router::Paths;", &[]),
    (
        "router/mod.rs",
        "use crate::{\n    model::Host,\n    table::{self, Table},\n};",
        &[(3, "router may not import table")],
    ),
    ("router/mod.rs", "pub(crate) fn f(x: &crate::tls::Server) {}", &[(1, "router may not import tls")]),
    ("router/path.rs", "use super::super::translate;", &[(1, "router may not import translate")]),
    ("router/path.rs", "use super::{Paths, super::{file, model}};", &[(1, "router may not import file")]),
    (
        "router/path.rs",
        "mod tests {\n    use super::*;\n    use super::super::super::app;\n}",
        &[(3, "router may not import app")],
    ),
    (
        "table.rs",
        "use super::proxy;\nuse self::super::file;",
        &[(1, "table may not import proxy"), (2, "table may not import file")],
    ),
    (
        "translate/mod.rs",
        "// use crate::file;\n/* crate::file /* */ crate::file */ const A: &str = \"crate::file\";",
        &[],
    ),
    (
        "translate/mod.rs",
        "const A: &str = r#\"\n\"crate::file\"#; const B: char = '\"'; fn f<'a>() { crate::file::f() } // \"",
        &[(2, "translate may not import file")],
    ),
    (
        "translate/mod.rs",
        "const A: [char; 2] = ['\\'', '\\u{1f}']; const B: &[u8] = b\"\\\"\"; use crate::tls;",
        &[(1, "translate may not import tls")],
    ),
    ("metrics.rs", "use crate::model::Host;", &[(1, "metrics may not import model")]),
    ("config/mod.rs", "use crate::app;\nuse crate::balance::Policy;", &[(1, "config may not import app")]),
    ("router/mod.rs", "use crate::{model as m, model::{Rule as R, Host}};", &[]),
    ("app.rs", "use crate::config::Config;\nuse crate::{admin, proxy};", &[]),
    ("main.rs", "use portunus::{app, cli};", &[]),
    ("lib.rs", "pub use crate::model::Host;", &[]),
    (
        "novel.rs",
        "use crate::model;",
        &[(1, "novel has no layer; give it one in ARCHITECTURE.md and tests/it/layers.rs")],
    ),
    (
        "table.rs",
        "use k8s_openapi::api::core::v1::Secret;",
        &[(1, "table may not know Kubernetes (k8s_openapi); translate and its providers do")],
    ),
    (
        "resolve.rs",
        "fn f() { ::kube::client() }",
        &[(1, "resolve may not know Kubernetes (kube); translate and its providers do")],
    ),
    ("file/mod.rs", "use k8s_openapi::api::core::v1::Secret;\nuse tokio::sync::mpsc;", &[]),
    (
        "model/host.rs",
        "use tokio::sync::mpsc;\nuse {hyper::body, std::fmt};",
        &[(1, "model may not use tokio; it is pure"), (2, "model may not use hyper; it is pure")],
    ),
    ("filter/cors.rs", "fn f() -> http_body_util::Full { }", &[(1, "filter may not use http_body_util; it is pure")]),
    ("proxy/mod.rs", "use hyper::body::Incoming;", &[]),
    ("app.rs", "use crate::*;\nuse crate::{*};", &[(1, GLOB), (2, GLOB)]),
    ("clock.rs", "use super::*;", &[(1, GLOB)]),
    (
        "app.rs",
        "fn f() { std::env::var(\"A\"); }\nuse std::{env, fs};",
        &[(1, "app may not read the environment; config does"), (2, "app may not read the environment; config does")],
    ),
    ("config/values.rs", "use std::env::var;", &[]),
    ("app.rs", "const VERSION: &str = env!(\"CARGO_PKG_VERSION\");", &[]),
];

#[test]
fn each_rule_is_held() {
    for (file, text, expected) in ROWS {
        let faults: Vec<String> = expected.iter().map(|(line, fault)| format!("src/{file}:{line}: {fault}")).collect();
        assert_eq!(check(&Path::new("src").join(file), text), faults, "{text}");
    }
}

#[test]
fn lines_of_code_are_those_that_say_something() {
    let count = |text: &str| code_lines(&tokens(text));
    assert_eq!(count("//! Head.\n\nfn f() {\n    // Why.\n    g(); // so\n}\n/* a\nb */\n"), 3);
    assert_eq!(count("const A: &str = \"a\n// b\n\";\n"), 3);
    assert_eq!(count("fn f() {}\n#[cfg(test)]\nmod tests {\n    fn g() {\n        h();\n    }\n}\nfn i() {}\n"), 2);
    assert_eq!(count("#[cfg(test)]\nuse a::b;\nfn f() {}\n"), 3);
    let long = |lines: usize| check(Path::new("src/app.rs"), &"f();\n// Why.\n".repeat(lines));
    assert_eq!(long(400), Vec::<String>::new());
    assert_eq!(long(401), ["src/app.rs:1: 401 lines of code are more than 400; split it"]);
}
