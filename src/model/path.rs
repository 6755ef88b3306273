//! One meaning for a request's path. What is matched is what is sent, so that no spelling reaches a backend
//! that the rules did not see (RFC 3986, 6.2.2):
//!
//! - what a URI may not have unescaped (RFC 3986, 2), as `é` or `{`, is escaped
//! - dot segments are resolved; above the root there is nothing, so `/..` is refused
//! - escapes of unreserved characters are decoded, other escapes are written in upper case
//! - a run of slashes counts as one for matching; it is sent as received unless dot segments were resolved, or the
//!   path begins with it: behind two slashes some read a host
//! - `%2F`, `;` and what else is data to some and not to others is [`Normalization`]'s
//! - a backslash, `%5C`, `%00`, control bytes, bad and overlong escapes and `..;` are refused: backends read them apart

use std::borrow::Cow;

/// What becomes of a path that is data to some backends and something else to others: `%2F`, parameters (`;` and
/// `%3B`), `%3F`, `%23`, and escapes of escapes (`%252F`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Normalization {
    /// It is data, matched and sent as it is, if all of [`NormalizedPath::readings`] reach the same rule.
    #[default]
    Strict,
    /// The same, but `%2F` is a slash, in requests and in the paths of rules.
    DecodeSlashes,
    /// It is refused, whatever the rules.
    Reject,
}

/// Why a path is refused, with 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathError {
    Relative,
    Forbidden,
    BadEscape,
    AboveRoot,
    Hidden,
    Doubtful,
}

impl PathError {
    pub fn message(self) -> &'static str {
        match self {
            Self::Relative => "the path does not begin with a slash",
            Self::Forbidden => "the path has a backslash, NUL or control byte, plain or escaped",
            Self::BadEscape => "the path has a percent sign without two hexadecimal digits, or overlong UTF-8",
            Self::AboveRoot => "the path climbs above the root",
            Self::Hidden => "the path begins with an escaped slash, or has dots behind one, or either in a parameter",
            Self::Doubtful => "the path has a parameter, an escaped slash, ? or #, or an escape that is escaped",
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
    doubtful: bool,
}

impl NormalizedPath<'_> {
    /// The other ways in which backends may read the path; none of most. A request whose readings reach different
    /// rules is ambiguous and is refused, as is one of which a reading is no path at all.
    pub fn readings(&self) -> Result<Vec<String>, PathError> {
        let mut all = Vec::new();
        if self.doubtful {
            other_readings(&self.matched, &mut all);
            if let Some(again) = decoded_again(&self.matched) {
                let again = normalize(&again)?.matched;
                other_readings(&again, &mut all);
                all.push(again.into_owned());
            }
        }
        Ok(all)
    }
}

/// The path with its escaped slashes as slashes, without its parameters, up to an escaped `?` or `#`, and all of it.
fn other_readings(path: &str, all: &mut Vec<String>) {
    let slashes = |path: &str| merge_slashes(&path.replace("%2F", "/"));
    let bare = |path: &str| {
        let segments = path.split('/').map(without_parameters);
        merge_slashes(&segments.collect::<Vec<_>>().join("/"))
    };
    let cut = |path: &str| {
        let end = ["%3F", "%23"].iter().filter_map(|mark| path.find(mark)).min();
        path[..end.unwrap_or(path.len())].to_owned()
    };
    for reading in [slashes(path), bare(path), cut(path), bare(&slashes(&cut(path)))] {
        if reading != path && !all.contains(&reading) {
            all.push(reading);
        }
    }
}

/// The path with those escapes decoded that are escaped themselves, once; `None` without one.
fn decoded_again(path: &str) -> Option<String> {
    let escaped = |at: usize| path[at..].starts_with("%25") && is_hexadecimal(path.as_bytes().get(at + 3..at + 5));
    let mut again = String::with_capacity(path.len());
    let mut from = 0;
    for (at, _) in path.match_indices('%').filter(|(at, _)| escaped(*at)) {
        again.push_str(&path[from..=at]);
        from = at + 3;
    }
    again.push_str(&path[from..]);
    (from > 0).then_some(again)
}

fn is_hexadecimal(bytes: Option<&[u8]>) -> bool {
    bytes.is_some_and(|bytes| bytes.iter().all(u8::is_ascii_hexdigit))
}

/// Tomcat and others drop what stands behind a semicolon, some also behind an escaped one.
fn without_parameters(segment: &str) -> &str {
    let end = [segment.find(';'), segment.find("%3B")].into_iter().flatten().min();
    &segment[..end.unwrap_or(segment.len())]
}

/// What a byte of a path asks for. Most paths are `Plain` throughout and are borrowed as they are.
const PLAIN: u8 = 0;
const SLASH: u8 = 1;
const DOT: u8 = 2;
const PERCENT: u8 = 3;
const FORBIDDEN: u8 = 4;
const UNESCAPED: u8 = 5;
const SEMICOLON: u8 = 6;

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
    class[b';' as usize] = SEMICOLON;
    class
};

/// Brings a path into its one meaning, strictly.
pub fn normalize(path: &str) -> Result<NormalizedPath<'_>, PathError> {
    Normalization::Strict.apply(path)
}

impl Normalization {
    /// Brings the path of a request, without its query, or of a rule into its one meaning.
    pub fn apply(self, path: &str) -> Result<NormalizedPath<'_>, PathError> {
        let bytes = path.as_bytes();
        if bytes.first() != Some(&b'/') {
            return Err(PathError::Relative);
        }
        let mut previous = PLAIN;
        let (mut unusual, mut parameter) = (false, false);
        for &byte in bytes {
            let class = CLASS[byte as usize];
            match class {
                FORBIDDEN => return Err(PathError::Forbidden),
                PERCENT | UNESCAPED => unusual = true,
                SEMICOLON => parameter = true,
                SLASH | DOT => unusual |= previous == SLASH,
                _ => {}
            }
            previous = class;
        }
        if unusual {
            return self.apply_to_unusual(path);
        }
        self.with_doubt(NormalizedPath { matched: path.into(), sent: path.into(), doubtful: parameter })
    }

    fn apply_to_unusual(self, path: &str) -> Result<NormalizedPath<'_>, PathError> {
        let decoded = decode(path, self == Self::DecodeSlashes)?;
        for segment in decoded.split('/') {
            // Some decode %2F first, and some drop parameters first: behind one, a slash would have two meanings.
            let dots = segment.split("%2F").any(|part| is_dots(without_parameters(part)));
            let parameters = &segment[without_parameters(segment).len()..];
            if (dots && !is_dots(segment)) || parameters.contains("%2F") {
                return Err(PathError::Hidden);
            }
        }
        let resolved = if decoded.split('/').any(is_dots) { resolve_dots(&merge_slashes(&decoded))? } else { decoded };
        let matched = if resolved.contains("//") { merge_slashes(&resolved) } else { resolved.clone() };
        // Behind two slashes some read a host.
        if matched.starts_with("/%2F") {
            return Err(PathError::Hidden);
        }
        let begin = resolved.len() - resolved.trim_start_matches('/').len() - 1;
        let sent = if begin > 0 { resolved[begin..].to_owned() } else { resolved };
        let doubtful = is_doubtful(&matched);
        self.with_doubt(NormalizedPath { matched: matched.into(), sent: sent.into(), doubtful })
    }

    fn with_doubt(self, path: NormalizedPath<'_>) -> Result<NormalizedPath<'_>, PathError> {
        if self == Self::Reject && path.doubtful { Err(PathError::Doubtful) } else { Ok(path) }
    }
}

fn is_dots(segment: &str) -> bool {
    matches!(segment, "." | "..")
}

fn is_doubtful(path: &str) -> bool {
    let escape = |at: usize| match &path[at..at + 3] {
        "%2F" | "%3B" | "%3F" | "%23" => true,
        "%25" => is_hexadecimal(path.as_bytes().get(at + 3..at + 5)),
        _ => false,
    };
    path.contains(';') || path.match_indices('%').any(|(at, _)| escape(at))
}

/// Decodes escapes of unreserved characters (RFC 3986, 2.3), of slashes if they are to be such, and of nothing else.
fn decode(path: &str, slashes: bool) -> Result<String, PathError> {
    let bytes = path.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    // The byte before, if it was escaped.
    let mut before = 0;
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] != b'%' {
            if CLASS[bytes[at] as usize] == UNESCAPED {
                out.extend(format!("%{:02X}", bytes[at]).into_bytes());
            } else {
                out.push(bytes[at]);
            }
            (at, before) = (at + 1, 0);
            continue;
        }
        let digit = |offset: usize| bytes.get(at + offset).and_then(|byte| (*byte as char).to_digit(16));
        let (Some(high), Some(low)) = (digit(1), digit(2)) else { return Err(PathError::BadEscape) };
        let value = u8::try_from(high * 16 + low).expect("two hexadecimal digits are at most 255");
        match value {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(value),
            0..=0x1f | 0x7f | b'\\' => return Err(PathError::Forbidden),
            b'/' if slashes => out.push(value),
            _ if is_overlong(before, value) => return Err(PathError::BadEscape),
            _ => out.extend(bytes[at..at + 3].iter().map(u8::to_ascii_uppercase)),
        }
        (at, before) = (at + 3, value);
    }
    Ok(String::from_utf8(out).expect("whatever is not ASCII was escaped"))
}

/// Whether UTF-8 would have fewer bytes for the character that begins so. Careless decoders read `.` in `%C0%AE`.
fn is_overlong(first: u8, second: u8) -> bool {
    match first {
        0xc0 | 0xc1 => (0x80..=0xbf).contains(&second),
        0xe0 => (0x80..=0x9f).contains(&second),
        0xf0 => (0x80..=0x8f).contains(&second),
        _ => false,
    }
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
            ("//a///b", "/a/b", "/a///b"),
            ("///", "/", "/"),
            ("//..a", "/..a", "/..a"),
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
            ("/a/..;/b", PathError::Hidden),
            ("/a/..;x=1/b", PathError::Hidden),
            ("/a/.;/b", PathError::Hidden),
            ("/a/..%3b/b", PathError::Hidden),
            ("/a%2F../b", PathError::Hidden),
            ("/..%2fadmin", PathError::Hidden),
            ("/x/%2e%2e%2fadmin", PathError::Hidden),
            ("/%2Fx/admin", PathError::Hidden),
            ("//%2fx/admin", PathError::Hidden),
            ("/a;/../%2fx", PathError::Hidden),
            ("/admin;%2F..", PathError::Hidden),
            ("/x;%2fy/admin", PathError::Hidden),
            ("/x%3B%2Fy/admin", PathError::Hidden),
            ("/a/%c0%ae%C0%AE/b", PathError::BadEscape),
            ("/a%e0%80%afb", PathError::BadEscape),
            ("/a%f0%80%80%afb", PathError::BadEscape),
        ];
        for (received, error) in table {
            assert_eq!(normalize(received), Err(error), "{received}");
        }
    }

    #[test]
    fn what_may_be_data_has_other_readings() {
        let table: [(&str, &[&str]); 12] = [
            ("/a/b", &[]),
            ("/a%20b%25c", &[]),
            ("/@scope%2fname", &["/@scope/name"]),
            ("/x/%2Fadmin", &["/x/admin"]),
            ("/admin;v=1/x;w", &["/admin/x"]),
            ("/;/admin", &["/admin"]),
            ("/admin%3bv", &["/admin"]),
            ("/admin%3Fx", &["/admin"]),
            ("/admin%23/x", &["/admin"]),
            ("/%2561dmin", &["/admin"]),
            ("/x%2Fadmin;v", &["/x/admin;v", "/x%2Fadmin", "/x/admin"]),
            ("/x%252Fadmin", &["/x/admin", "/x%2Fadmin"]),
        ];
        for (path, expected) in table {
            assert_eq!(normalize(path).unwrap().readings().unwrap(), expected, "{path}");
        }
        for path in ["/x/%252e%252e/%252e%252e", "/a%255Cb", "/a%2500", "/x%252F..%252Fadmin"] {
            assert!(normalize(path).unwrap().readings().is_err(), "{path}");
        }
    }

    #[test]
    fn others_may_be_chosen() {
        let table = [
            ("/a/b", Ok("/a/b"), Ok("/a/b")),
            ("/a%20b%25", Ok("/a%20b%25"), Ok("/a%20b%25")),
            ("/a%2fb", Ok("/a/b"), Err(PathError::Doubtful)),
            ("/%2F/a", Ok("/a"), Err(PathError::Hidden)),
            ("/x%2F..%2Fadmin", Ok("/admin"), Err(PathError::Hidden)),
            ("/..%2Fadmin", Err(PathError::AboveRoot), Err(PathError::Hidden)),
            ("/a;v/b", Ok("/a;v/b"), Err(PathError::Doubtful)),
            ("/a%3Bv", Ok("/a%3Bv"), Err(PathError::Doubtful)),
            ("/a%3F", Ok("/a%3F"), Err(PathError::Doubtful)),
            ("/a%252F", Ok("/a%252F"), Err(PathError::Doubtful)),
            ("/a%5Cb", Err(PathError::Forbidden), Err(PathError::Forbidden)),
        ];
        for (path, decoded, rejected) in table {
            let matched = |how: Normalization| how.apply(path).map(|path| path.matched.into_owned());
            assert_eq!(matched(Normalization::DecodeSlashes), decoded.map(str::to_owned), "{path}");
            assert_eq!(matched(Normalization::Reject), rejected.map(str::to_owned), "{path}");
        }
    }

    #[test]
    fn an_unremarkable_path_is_borrowed() {
        let path = normalize("/api/v1/users.json").unwrap();
        assert!(matches!((path.matched, path.sent), (Cow::Borrowed(_), Cow::Borrowed(_))));
    }
}
