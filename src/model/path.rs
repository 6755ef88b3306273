//! One meaning for a request's path. What is matched is what is sent, so that no spelling reaches a backend
//! that the rules did not see (RFC 3986, 6.2.2):
//!
//! - what a URI may not have unescaped (RFC 3986, 2), as `é` or `{`, is escaped
//! - dot segments are resolved; above the root there is nothing, so `/..` is refused
//! - escapes of unreserved characters are decoded, other escapes are written in upper case
//! - a run of slashes counts as one for matching; it is sent as received unless dot segments were resolved
//! - `%2F` is data: matched and sent as it is; [`NormalizedPath::slash_reading`] is the other way to read it
//! - a backslash, `%5C`, `%00`, control bytes, bad escapes and `..;` are refused: backends read them apart

use std::borrow::Cow;

/// Why a path is refused, with 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathError {
    Relative,
    Forbidden,
    BadEscape,
    AboveRoot,
    HiddenDots,
}

impl PathError {
    pub fn message(self) -> &'static str {
        match self {
            Self::Relative => "the path does not begin with a slash",
            Self::Forbidden => "the path has a backslash, NUL or control byte, plain or escaped",
            Self::BadEscape => "the path has a percent sign without two hexadecimal digits",
            Self::AboveRoot => "the path climbs above the root",
            Self::HiddenDots => "the path has a dot segment with a parameter or behind an escaped slash",
        }
    }
}

/// A path in its one meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NormalizedPath<'a> {
    /// What rules are compared with.
    pub matched: Cow<'a, str>,
    /// What goes upstream; differs from `matched` only in runs of slashes.
    pub sent: Cow<'a, str>,
    escaped_slash: bool,
}

impl NormalizedPath<'_> {
    /// The path as a backend reads it that takes `%2F` for a slash; `None` without one. A request whose two
    /// readings reach different rules is ambiguous and is refused.
    pub fn slash_reading(&self) -> Option<String> {
        self.escaped_slash.then(|| merge_slashes(&self.matched.replace("%2F", "/")))
    }
}

/// What a byte of a path asks for. Most paths are `Plain` throughout and are borrowed as they are.
const PLAIN: u8 = 0;
const SLASH: u8 = 1;
const DOT: u8 = 2;
const PERCENT: u8 = 3;
const FORBIDDEN: u8 = 4;
const UNESCAPED: u8 = 5;

/// ASCII that a path may not have as it is, and that some clients send all the same.
const NOT_OF_A_URI: &[u8] = b" \"<>^`{|}";

const CLASS: [u8; 256] = {
    let mut class = [PLAIN; 256];
    let mut byte = 0;
    while byte < 0x20 {
        class[byte] = FORBIDDEN;
        byte += 1;
    }
    class[0x7f] = FORBIDDEN;
    byte = 0x80;
    while byte < 256 {
        class[byte] = UNESCAPED;
        byte += 1;
    }
    let mut index = 0;
    while index < NOT_OF_A_URI.len() {
        class[NOT_OF_A_URI[index] as usize] = UNESCAPED;
        index += 1;
    }
    class[b'\\' as usize] = FORBIDDEN;
    class[b'/' as usize] = SLASH;
    class[b'.' as usize] = DOT;
    class[b'%' as usize] = PERCENT;
    class
};

/// Brings the path of a request, without its query, or of a rule into its one meaning.
pub fn normalize(path: &str) -> Result<NormalizedPath<'_>, PathError> {
    let bytes = path.as_bytes();
    if bytes.first() != Some(&b'/') {
        return Err(PathError::Relative);
    }
    let mut previous = PLAIN;
    let mut unusual = false;
    for &byte in bytes {
        let class = CLASS[byte as usize];
        match class {
            FORBIDDEN => return Err(PathError::Forbidden),
            PERCENT | UNESCAPED => unusual = true,
            SLASH | DOT => unusual |= previous == SLASH,
            _ => {}
        }
        previous = class;
    }
    if !unusual {
        return Ok(NormalizedPath { matched: path.into(), sent: path.into(), escaped_slash: false });
    }
    normalize_unusual(path)
}

fn normalize_unusual(path: &str) -> Result<NormalizedPath<'_>, PathError> {
    let (decoded, escaped_slash) = decode(path)?;
    for segment in decoded.split('/') {
        // Tomcat and others drop `;…` before they resolve dots, and some decode %2F first.
        let named =
            |part: &str| matches!(part.split(';').next().and_then(|part| part.split("%3B").next()), Some("." | ".."));
        let hidden = segment.split("%2F").any(named);
        if hidden && !matches!(segment, "." | "..") {
            return Err(PathError::HiddenDots);
        }
    }
    let dots = decoded.split('/').any(|segment| matches!(segment, "." | ".."));
    let resolved = if dots { resolve_dots(&merge_slashes(&decoded))? } else { decoded };
    let merged = if resolved.contains("//") { merge_slashes(&resolved) } else { resolved.clone() };
    Ok(NormalizedPath { matched: merged.into(), sent: resolved.into(), escaped_slash })
}

/// Decodes escapes of unreserved characters (RFC 3986, 2.3) and of nothing else.
fn decode(path: &str) -> Result<(String, bool), PathError> {
    let bytes = path.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut escaped_slash = false;
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] != b'%' {
            if CLASS[bytes[at] as usize] == UNESCAPED {
                out.extend(format!("%{:02X}", bytes[at]).into_bytes());
            } else {
                out.push(bytes[at]);
            }
            at += 1;
            continue;
        }
        let digit = |offset: usize| bytes.get(at + offset).and_then(|byte| (*byte as char).to_digit(16));
        let (Some(high), Some(low)) = (digit(1), digit(2)) else { return Err(PathError::BadEscape) };
        let value = u8::try_from(high * 16 + low).expect("two hexadecimal digits are at most 255");
        match value {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(value),
            0..=0x1f | 0x7f | b'\\' => return Err(PathError::Forbidden),
            _ => {
                escaped_slash |= value == b'/';
                out.extend(bytes[at..at + 3].iter().map(u8::to_ascii_uppercase));
            }
        }
        at += 3;
    }
    let text = String::from_utf8(out).expect("whatever is not ASCII was escaped");
    Ok((text, escaped_slash))
}

fn merge_slashes(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for character in path.chars() {
        if character != '/' || !out.ends_with('/') {
            out.push(character);
        }
    }
    out
}

/// RFC 3986, 5.2.4, but climbing above the root is an error.
fn resolve_dots(path: &str) -> Result<String, PathError> {
    let mut segments: Vec<&str> = Vec::new();
    let mut directory = false;
    for segment in path.split('/').skip(1) {
        directory = matches!(segment, "." | ".." | "");
        match segment {
            "." | "" => {}
            ".." => drop(segments.pop().ok_or(PathError::AboveRoot)?),
            _ => segments.push(segment),
        }
    }
    let mut out = String::with_capacity(path.len());
    for segment in &segments {
        out.push('/');
        out.push_str(segment);
    }
    if directory || segments.is_empty() {
        out.push('/');
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_spelling_has_one_meaning() {
        // (received, matched, sent)
        let table = [
            ("/", "/", "/"),
            ("/foo/bar.html", "/foo/bar.html", "/foo/bar.html"),
            ("/.well-known/x", "/.well-known/x", "/.well-known/x"),
            ("/a/./b", "/a/b", "/a/b"),
            ("/a/../b", "/b", "/b"),
            ("/a/b/..", "/a/", "/a/"),
            ("/a/.", "/a/", "/a/"),
            ("/a/..", "/", "/"),
            ("/%2e%2E/../a".trim_start_matches("/%2e%2E/.."), "/a", "/a"),
            ("/a/%2e%2e/b", "/b", "/b"),
            ("/%61dmin", "/admin", "/admin"),
            ("/%7euser", "/~user", "/~user"),
            ("//a///b", "/a/b", "//a///b"),
            ("//a/./b//c", "/a/b/c", "/a/b/c"),
            ("/a//../b", "/b", "/b"),
            ("/a%2fb", "/a%2Fb", "/a%2Fb"),
            ("/a%20b%3f", "/a%20b%3F", "/a%20b%3F"),
            ("/a;v=1/b", "/a;v=1/b", "/a;v=1/b"),
            ("/é", "/%C3%A9", "/%C3%A9"),
            ("/%c3%a9", "/%C3%A9", "/%C3%A9"),
            ("/{id}", "/%7Bid%7D", "/%7Bid%7D"),
            ("/...", "/...", "/..."),
            ("/..a", "/..a", "/..a"),
        ];
        for (received, matched, sent) in table {
            let path = normalize(received).unwrap_or_else(|error| panic!("{received}: {error:?}"));
            assert_eq!((&*path.matched, &*path.sent), (matched, sent), "{received}");
            let again = normalize(&path.matched).unwrap();
            assert_eq!(again.matched, path.matched, "{received} is not stable");
        }
    }

    #[test]
    fn what_backends_read_apart_is_refused() {
        let table = [
            ("", PathError::Relative),
            ("a", PathError::Relative),
            ("/a\\b", PathError::Forbidden),
            ("/a%5cb", PathError::Forbidden),
            ("/a%00", PathError::Forbidden),
            ("/a%0a", PathError::Forbidden),
            ("/a\u{7f}", PathError::Forbidden),
            ("/a%", PathError::BadEscape),
            ("/a%2", PathError::BadEscape),
            ("/a%zz", PathError::BadEscape),
            ("/..", PathError::AboveRoot),
            ("/a/../../b", PathError::AboveRoot),
            ("/a/..;/b", PathError::HiddenDots),
            ("/a/..;x=1/b", PathError::HiddenDots),
            ("/a/.;/b", PathError::HiddenDots),
            ("/a/..%3b/b", PathError::HiddenDots),
            ("/a%2F../b", PathError::HiddenDots),
            ("/..%2fadmin", PathError::HiddenDots),
            ("/x/%2e%2e%2fadmin", PathError::HiddenDots),
        ];
        for (received, error) in table {
            assert_eq!(normalize(received), Err(error), "{received}");
        }
    }

    #[test]
    fn an_escaped_slash_has_a_second_reading() {
        assert_eq!(normalize("/a/b").unwrap().slash_reading(), None);
        assert_eq!(normalize("/@scope%2fname").unwrap().slash_reading().as_deref(), Some("/@scope/name"));
        assert_eq!(normalize("/%2Fadmin").unwrap().slash_reading().as_deref(), Some("/admin"));
    }

    #[test]
    fn an_unremarkable_path_is_borrowed() {
        let path = normalize("/api/v1/users.json").unwrap();
        assert!(matches!((path.matched, path.sent), (Cow::Borrowed(_), Cow::Borrowed(_))));
    }
}
