//! ingress-nginx's annotations: which there are ([`ANNOTATIONS`]), and what those that are honoured say, by topic.
//! A value is parsed here, so that nothing later can fail on it; one that can't be parsed is a fault, and the
//! default counts. What isn't honoured fails safe: one that restricts access takes its Ingress's routes out of
//! service (503), any other is named in a Problem, and none is passed over in silence.

mod access;
mod affinity;
mod backends;
mod cors;
mod limits;
mod redirects;
mod table;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

pub(super) use affinity::Sessions;
pub(super) use redirects::Https;
pub use table::ANNOTATIONS;

use super::Settings;
use super::object::Ingress;
use super::problem::{Kind, ObjectRef, Problem};
use crate::filter::Filter;
use crate::model::BackendOptions;

/// As much of a bad value as a Problem repeats; annotations may have 256 KiB.
const SHOWN_CHARACTERS_MAX: usize = 100;

/// Whose annotations these are.
pub const PREFIX: &str = "nginx.ingress.kubernetes.io/";

/// What is known of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Annotation {
    /// Without the prefix.
    pub name: &'static str,
    /// Older names of the same.
    pub aliases: &'static [&'static str],
    /// What may stand there.
    pub values: &'static str,
    /// What counts without it; empty for nothing.
    pub default: &'static str,
    pub summary: &'static str,
    /// A route without it could be open to somebody it should be closed to.
    pub restricts: bool,
    pub status: Status,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Honoured; with a value that could stand there.
    Supported { example: &'static str },
    /// Known by name.
    Planned,
    /// Means something in nginx alone.
    Never,
}

/// A key that is not honoured yet, and restricts nothing.
const fn open(name: &'static str, values: &'static str, default: &'static str, summary: &'static str) -> Annotation {
    Annotation { name, aliases: &[], values, default, summary, restricts: false, status: Status::Planned }
}

/// A key that restricts access and is not honoured yet.
const fn closing(name: &'static str, values: &'static str, default: &'static str, summary: &'static str) -> Annotation {
    Annotation { restricts: true, ..open(name, values, default, summary) }
}

impl Annotation {
    const fn example(self, example: &'static str) -> Self {
        Self { status: Status::Supported { example }, ..self }
    }

    const fn never(self) -> Self {
        Self { status: Status::Never, ..self }
    }

    const fn alias(self, aliases: &'static [&'static str]) -> Self {
        Self { aliases, ..self }
    }
}

/// What an Ingress's annotations ask of its rules.
#[derive(Debug, Default)]
pub(super) struct Behaviour {
    /// Somebody might get in whom an annotation wants kept out, and can't.
    pub(super) closed: bool,
    /// In their order.
    pub(super) filters: Vec<Filter>,
    pub(super) options: Option<Arc<BackendOptions>>,
    pub(super) sessions: Option<Sessions>,
    pub(super) https: Https,
}

/// All that annotations come to.
pub(super) struct Read {
    pub(super) behaviour: Behaviour,
    pub(super) problems: Vec<Problem>,
    /// Problems that take nothing out of service.
    pub(super) warnings: Vec<Problem>,
}

/// Reads the annotations of an Ingress. What is honoured is in the behaviour; what is not is said, and closes the
/// Ingress's rules if they would be open without it.
pub(super) fn read(ingress: &Ingress, settings: &Settings) -> Read {
    let mut values = Values::new(&ingress.annotations);
    let mut behaviour = Behaviour {
        closed: false,
        filters: Vec::new(),
        options: backends::options(&mut values),
        sessions: affinity::read(&mut values),
        https: redirects::https(&mut values),
    };
    let filters = &mut behaviour.filters;
    filters.extend(redirects::read(&mut values));
    filters.extend(cors::read(&mut values));
    filters.extend(limits::read(&mut values, settings));
    filters.extend(access::read(&mut values));
    filters.extend(backends::upstream_host(&mut values));
    let (mut problems, mut warnings) = (Vec::new(), Vec::new());
    let ignored = settings.ignore_unsupported_annotations;
    for Fault { name, what, fix, kind } in values.faults.into_iter().chain(unread(ingress)) {
        let closes = kind != FaultKind::NoEffect && restricts(name);
        let fix = match (closes, ignored) {
            (true, true) => format!("{fix}; the routes are open: --unsupported-annotations is `ignore`"),
            (true, false) => format!(
                "{fix}; it restricts access, so requests get 503; --unsupported-annotations ignore would let them pass"
            ),
            (false, _) if kind == FaultKind::Invalid => format!("{fix}; the default counts"),
            (false, _) => fix,
        };
        behaviour.closed |= closes && !ignored;
        let blocks = kind == FaultKind::Invalid || (closes && !ignored);
        let object = ObjectRef::new(Kind::Ingress, &ingress.name);
        let problem = Problem::new(object, format!("metadata.annotations[{PREFIX}{name}]"), what, fix);
        if blocks { problems.push(problem) } else { warnings.push(problem) }
    }
    Read { behaviour, problems, warnings }
}

/// Faults of what nobody reads.
fn unread(ingress: &Ingress) -> impl Iterator<Item = Fault<'_>> {
    ingress.annotations.iter().filter_map(|(name, _)| {
        let what = match find(name).map(|row| row.status) {
            Some(Status::Supported { .. }) => return None,
            Some(Status::Planned) => "is not supported yet",
            Some(Status::Never) => "means something to nginx alone, and is not supported",
            None => "is not known",
        };
        let fix = if restricts(name) { "remove it" } else { "remove it, or do without; the rest of the Ingress works" };
        let what = format!("`{PREFIX}{name}` {what}");
        Some(Fault { name, what, fix: fix.to_owned(), kind: FaultKind::Unsupported })
    })
}

/// The row of a key, by its name or an older one.
pub(super) fn find(name: &str) -> Option<&'static Annotation> {
    static BY_NAME: LazyLock<HashMap<&str, &Annotation>> = LazyLock::new(|| {
        let rows = ANNOTATIONS.iter().flat_map(|(_, rows)| *rows);
        rows.flat_map(|row| row.aliases.iter().chain([&row.name]).map(move |name| (*name, row))).collect()
    });
    BY_NAME.get(name).copied()
}

/// Beginnings and endings of the names of all that lets fewer requests through, or may: for names that nobody knows.
const RESTRICTING_STARTS: [&str; 7] =
    ["auth-", "limit-", "modsecurity-", "enable-modsecurity", "enable-owasp", "satisfy", "global-rate-limit"];
const RESTRICTING_ENDS: [&str; 2] = ["-source-range", "-snippet"];

/// Whether a route without this annotation could be open to somebody it should be closed to.
pub(super) fn restricts(name: &str) -> bool {
    find(name).map_or_else(|| looks_restricting(name), |row| row.restricts)
}

fn looks_restricting(name: &str) -> bool {
    RESTRICTING_STARTS.iter().any(|start| name.starts_with(start))
        || RESTRICTING_ENDS.iter().any(|end| name.ends_with(end))
}

/// Whether somebody reads the value of a key, now or in a version to come. The texts of the others can be long, and
/// there are many Ingresses.
pub(super) fn is_read(name: &str) -> bool {
    find(name).is_some_and(|row| match row.status {
        Status::Supported { .. } | Status::Planned => true,
        Status::Never => false,
    })
}

/// A key that counts for nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fault<'a> {
    /// As it is written.
    name: &'a str,
    what: String,
    fix: String,
    kind: FaultKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FaultKind {
    /// The value is none.
    Invalid,
    /// There is nothing that it could have an effect on.
    NoEffect,
    /// The key is not honoured.
    Unsupported,
}

/// The annotations of one Ingress, as topics read them.
struct Values<'a> {
    all: &'a [(Box<str>, Box<str>)],
    faults: Vec<Fault<'a>>,
}

impl<'a> Values<'a> {
    fn new(all: &'a [(Box<str>, Box<str>)]) -> Self {
        Self { all, faults: Vec::new() }
    }

    /// A key as it is written, and its text, if it is there.
    fn text(&self, row: &Annotation) -> Option<(&'a str, &'a str)> {
        let named = |name: &str| name == row.name || row.aliases.contains(&name);
        self.all.iter().find(|(name, _)| named(name)).map(|(name, value)| (&**name, value.trim()))
    }

    /// The value of a key, parsed. What can't be, is a fault that says what to write, and counts as not there.
    fn get<T>(&mut self, name: &'static str, fix: &str, parse: impl Fn(&'a str) -> Option<T>) -> Option<T> {
        self.parse(name, |text| {
            parse(text).ok_or_else(|| (format!("`{}` is no value for it", shown(text)), fix.to_owned()))
        })
    }

    /// The same, where what is wrong and what to write instead depend on the text.
    fn parse<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&'a str) -> Result<T, (String, String)>,
    ) -> Option<T> {
        let (name, text) = self.text(find(name)?)?;
        let read = parse(text);
        read.map_err(|(what, fix)| self.faults.push(Fault { name, what, fix, kind: FaultKind::Invalid })).ok()
    }

    fn switch(&mut self, name: &'static str) -> bool {
        self.switched(name).unwrap_or_default()
    }

    /// A switch with a default of its own.
    fn switched(&mut self, name: &'static str) -> Option<bool> {
        // What Go's ParseBool takes, as ingress-nginx does.
        let parse = |text| match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
            _ => None,
        };
        self.get(name, "write \"true\" or \"false\"", parse)
    }

    /// Says of keys of a topic that is not asked for that they do nothing.
    fn without_effect(&mut self, rows: &'static [Annotation], needs: &str) {
        for (name, _) in rows.iter().filter_map(|row| self.text(row)).collect::<Vec<_>>() {
            let what = format!("it has no effect without `{PREFIX}{needs}`");
            let fix = format!("write `{PREFIX}{needs}` too, or remove it");
            self.faults.push(Fault { name, what, fix, kind: FaultKind::NoEffect });
        }
    }
}

/// As much of a value as a Problem repeats.
fn shown(text: &str) -> String {
    let begin: String = text.chars().take(SHOWN_CHARACTERS_MAX).collect();
    let more = if begin.len() < text.len() { "…" } else { "" };
    begin + more
}

/// A list as ingress-nginx has them: by commas, without what is empty.
fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn what_closes_a_route_is_known_by_name() {
        for name in [
            "auth-url",
            "auth-tls-secret",
            "auth-type",
            "whitelist-source-range",
            "denylist-source-range",
            "limit-rps",
            "enable-modsecurity",
            "configuration-snippet",
            "server-snippet",
            "satisfy",
            "global-rate-limit-window",
            "auth-of-a-version-to-come",
        ] {
            assert!(restricts(name), "{name}");
        }
        for name in ["rewrite-target", "ssl-redirect", "proxy-body-size", "enable-cors", "canary-weight", "affinity"] {
            assert!(!restricts(name), "{name}");
        }
    }

    #[test]
    fn every_key_has_one_row_and_none_is_more_open_than_its_name() {
        let mut names = BTreeSet::new();
        for row in ANNOTATIONS.iter().flat_map(|(_, rows)| *rows) {
            for name in row.aliases.iter().chain([&row.name]) {
                assert!(names.insert(*name), "{name} is there twice");
                assert!(row.restricts || !looks_restricting(name), "{name}");
                assert_eq!(find(name), Some(row));
            }
            assert!(!row.summary.is_empty() && !row.values.is_empty(), "{}", row.name);
        }
        assert!(names.len() > 130, "{} names", names.len());
    }
}
