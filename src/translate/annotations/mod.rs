//! ingress-nginx's annotations: which there are ([`ANNOTATIONS`]), and what those that are honoured say, by topic.
//! A value is parsed here, so that nothing later can fail on it; one that can't be parsed is a fault, and the
//! default counts. What isn't honoured fails safe: one that restricts access takes its Ingress's routes out of
//! service (503), any other is named in a Problem, and none is passed over in silence.

pub(super) mod access;
mod affinity;
mod backend_tls;
mod backends;
mod basic_auth;
mod canary;
mod client_certificates;
mod cors;
pub(super) mod forwarding;
mod headers;
mod limits;
mod paths;
mod redirects;
mod resilience;
mod table;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, LazyLock};

pub(super) use affinity::Sessions;
pub(super) use canary::Alternative;
pub(super) use client_certificates::ClientsAsked;
pub(super) use paths::Paths;
pub(super) use redirects::Https;
pub use table::ANNOTATIONS;

use super::Settings;
use super::object::Ingress;
use super::problem::{Kind, ObjectRef, Problem};
use super::resources::{Resources, Secret};
use crate::filter::{Filter, Template};
use crate::model::{BackendKey, BackendOptions, BackendRef, BackendTls, Forwarding, HostPattern, ObjectName, Priority};

/// As much of a bad value as a Problem repeats; annotations may have 256 KiB.
const SHOWN_CHARACTERS_MAX: usize = 100;
/// Longest name of an object, in bytes (Kubernetes documentation, "Object Names and IDs").
const NAME_BYTES_MAX: usize = 253;

/// Whose annotations these are.
pub const PREFIX: &str = "nginx.ingress.kubernetes.io/";
/// Ours, for what ingress-nginx has no name for. Rows and Ingresses have their names with it.
pub const OWN_PREFIX: &str = "portunus.dev/";

/// A key as it is written, of its name without ingress-nginx's prefix.
pub(super) fn key(name: &str) -> String {
    if name.starts_with(OWN_PREFIX) { name.to_owned() } else { format!("{PREFIX}{name}") }
}

/// What is known of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Annotation {
    /// Without ingress-nginx's prefix.
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
    /// As it is written.
    pub fn key(&self) -> String {
        key(self.name)
    }

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
    /// The options for requests that came over TLS, if they are others.
    pub(super) secure_options: Option<Arc<BackendOptions>>,
    pub(super) hash_by: Option<Template>,
    /// The Ingress is the alternative of another.
    pub(super) alternative: Option<Alternative>,
    pub(super) sessions: Option<Sessions>,
    pub(super) https: Https,
    pub(super) paths: Paths,
    /// More names for its hosts, sorted.
    pub(super) aliases: Vec<HostPattern>,
    pub(super) clients: ClientsAsked,
    pub(super) backend_tls: Option<Arc<BackendTls>>,
    pub(super) forwarding: Option<Box<Forwarding>>,
    pub(super) priority: Priority,
}

impl Behaviour {
    /// Whether somebody is kept out.
    pub(super) fn restricts(&self) -> bool {
        let keeps_out =
            |filter: &Filter| matches!(filter, Filter::Limits(_) | Filter::SourceRange(_) | Filter::BasicAuth(_));
        self.closed || self.clients != ClientsAsked::Nothing || self.filters.iter().any(keeps_out)
    }

    /// All of a rule's requests go to this backend, or its other form.
    pub(super) fn send_to(&self, backend: BackendKey) -> BackendRef {
        let key = |options: &Arc<BackendOptions>| BackendKey { options: Some(options.clone()), ..backend.clone() };
        let secure = self.secure_options.as_ref().map(key).map(Box::new);
        BackendRef { backend, weight: 1, secure }
    }
}

/// All that annotations come to.
pub(super) struct Read {
    pub(super) behaviour: Behaviour,
    /// What they name, be it there or not.
    pub(super) references: BTreeSet<ObjectRef>,
    pub(super) problems: Vec<Problem>,
    /// Problems that take nothing out of service.
    pub(super) warnings: Vec<Problem>,
}

/// Reads the annotations of an Ingress. What is honoured is in the behaviour; what is not is said, and closes the
/// Ingress's rules if they would be open without it.
pub(super) fn read(ingress: &Ingress, resources: &Resources, settings: &Settings) -> Read {
    let mut values = Values::new(ingress, resources);
    values.written_twice();
    let backend_tls = backend_tls::read(&mut values);
    let resilience = resilience::read(&mut values);
    let asked = backends::read(&mut values, backend_tls.as_deref(), resilience.any());
    let mut behaviour = Behaviour {
        closed: false,
        filters: Vec::new(),
        options: asked.options.any(),
        secure_options: asked.secure.and_then(BackendOptions::any),
        hash_by: asked.hash_by,
        alternative: canary::read(&mut values),
        sessions: affinity::read(&mut values),
        https: redirects::https(&mut values),
        paths: paths::read(&mut values, settings),
        aliases: paths::aliases(&mut values),
        clients: client_certificates::read(&mut values),
        backend_tls,
        forwarding: forwarding::read(&mut values, &ingress.name.namespace, settings),
        priority: limits::priority(&mut values),
    };
    let filters = &mut behaviour.filters;
    filters.extend(redirects::read(&mut values));
    filters.extend(cors::read(&mut values));
    filters.extend(limits::read(&mut values, settings));
    filters.extend(access::read(&mut values, settings));
    filters.extend(basic_auth::read(&mut values));
    filters.extend(backends::upstream_host(&mut values));
    filters.extend(headers::read(&mut values, settings));
    let (mut problems, mut warnings) = (Vec::new(), Vec::new());
    behaviour.closed = settings.closes();
    for fault in values.faults.into_iter().chain(unread(ingress)) {
        // Who is kept out of a canary is for the other Ingress to say, but not whom its own endpoints must be.
        let closes = fault.closes() && (behaviour.alternative.is_none() || backend_tls::has(fault.name));
        let Fault { name, what, fix, nature } = fault;
        // A Secret that somebody deletes must not open what it was to keep shut.
        let ignored = settings.ignore_unsupported_annotations && nature != Nature::Missing;
        let fix = match (closes, ignored) {
            (true, true) => format!("{fix}; the routes are open: --unsupported-annotations is `ignore`"),
            (true, false) if nature == Nature::Missing => format!("{fix}; it restricts access, so requests get 503"),
            (true, false) => format!(
                "{fix}; it restricts access, so requests get 503; --unsupported-annotations ignore would let them pass"
            ),
            (false, _) if nature == Nature::Invalid => format!("{fix}; the default counts"),
            (false, _) => fix,
        };
        behaviour.closed |= closes && !ignored;
        // What others can mend is no reason to refuse this object.
        let blocks = match nature {
            Nature::Invalid | Nature::Void => true,
            Nature::Unsupported => closes && !ignored,
            Nature::Missing | Nature::Idle => false,
        };
        let object = ObjectRef::new(Kind::Ingress, &ingress.name);
        let problem = Problem::new(object, field(name), what, fix);
        if blocks { problems.push(problem) } else { warnings.push(problem) }
    }
    let ignored = settings.ignore_unsupported_annotations && !behaviour.closed;
    if behaviour.alternative.is_some() || (behaviour.clients == ClientsAsked::Unknown && ignored) {
        behaviour.clients = ClientsAsked::Nothing;
    }
    if behaviour.alternative.is_some() {
        behaviour.aliases.clear();
    }
    Read { behaviour, references: values.references, problems, warnings }
}

/// Where a key stands.
pub(super) fn field(name: &str) -> String {
    format!("metadata.annotations[{}]", key(name))
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
        let what = format!("`{}` {what}", key(name));
        Some(Fault { name, what, fix: fix.to_owned(), nature: Nature::Unsupported })
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
    nature: Nature,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nature {
    /// The value is none, and only the Ingress can mend it.
    Invalid,
    /// The same, and no default counts instead.
    Void,
    /// What it names isn't there or is of no use, and others can mend it.
    Missing,
    /// It could be read, and has no effect.
    Idle,
    /// The key is not honoured.
    Unsupported,
}

impl Fault<'_> {
    /// Whether something was asked for that isn't done, so that a key that restricts would leave its routes open.
    fn closes(&self) -> bool {
        match self.nature {
            Nature::Invalid | Nature::Void | Nature::Missing | Nature::Unsupported => restricts(self.name),
            Nature::Idle => false,
        }
    }
}

/// An object that an annotation names.
struct Named<'a, T> {
    name: ObjectName,
    object: &'a T,
}

/// The annotations of one Ingress, as topics read them, and the objects that they name.
struct Values<'a> {
    ingress: &'a Ingress,
    resources: &'a Resources,
    faults: Vec<Fault<'a>>,
    /// What was looked for, whether or not it is there: when it comes, changes or goes, the Ingress is read again.
    references: BTreeSet<ObjectRef>,
}

impl<'a> Values<'a> {
    fn new(ingress: &'a Ingress, resources: &'a Resources) -> Self {
        Self { ingress, resources, faults: Vec::new(), references: BTreeSet::new() }
    }

    /// A key as it is written, and its text, if it is there.
    fn text(&self, row: &Annotation) -> Option<(&'a str, &'a str)> {
        let named = |name: &str| name == row.name || row.aliases.contains(&name);
        self.ingress.annotations.iter().find(|(name, _)| named(name)).map(|(name, value)| (&**name, value.trim()))
    }

    /// Says of keys that are there under two names that only one of the values could count.
    fn written_twice(&mut self) {
        for row in ANNOTATIONS.iter().flat_map(|(_, rows)| *rows).filter(|row| !row.aliases.is_empty()) {
            let Some((first, value)) = self.text(row) else { continue };
            let named = |name: &str| name != first && (name == row.name || row.aliases.contains(&name));
            let others = self.ingress.annotations.iter().filter(|(name, other)| named(name) && other.trim() != value);
            for (name, _) in others {
                let what = format!("`{}` is another name of it, and has another value", key(first));
                let fix = format!("write all of it under `{}`", row.key());
                self.faults.push(Fault { name, what, fix, nature: Nature::Void });
            }
        }
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
        read.map_err(|(what, fix)| self.faults.push(Fault { name, what, fix, nature: Nature::Invalid })).ok()
    }

    /// The Secret that a key names, of whatever type. If it isn't there, or is another namespace's, it is a fault.
    fn secret(&mut self, name: &'static str) -> Option<Named<'a, Secret>> {
        let named = self.reference(name, Kind::Secret)?;
        let object = self.resources.secrets.get(&named);
        if object.is_some_and(|secret| !secret.tls && secret.data.is_none()) {
            self.broken(name, format!("Secret {named} has more than a megabyte of data"), "take something out of it");
            return None;
        }
        self.found(name, Kind::Secret, named, object)
    }

    /// The ConfigMap that a key names; likewise.
    fn config_map(&mut self, name: &'static str) -> Option<Named<'a, BTreeMap<String, String>>> {
        let named = self.reference(name, Kind::ConfigMap)?;
        let object = self.resources.config_maps.get(&named);
        self.found(name, Kind::ConfigMap, named, object)
    }

    /// Says that a key can't be honoured as the Ingress stands.
    fn invalid(&mut self, name: &'static str, what: &str, fix: &str) {
        let Some((name, _)) = find(name).and_then(|row| self.text(row)) else { return };
        self.faults.push(Fault { name, what: what.to_owned(), fix: fix.to_owned(), nature: Nature::Invalid });
    }

    /// Says that what a key names is there, but can't be used.
    fn broken(&mut self, name: &'static str, what: impl Into<String>, fix: impl Into<String>) {
        let Some((name, _)) = find(name).and_then(|row| self.text(row)) else { return };
        self.faults.push(Fault { name, what: what.into(), fix: fix.into(), nature: Nature::Missing });
    }

    /// Says that a part of what a key names does nothing; the rest counts.
    fn idle(&mut self, name: &'static str, what: impl Into<String>, fix: impl Into<String>) {
        let Some((name, _)) = find(name).and_then(|row| self.text(row)) else { return };
        self.faults.push(Fault { name, what: what.into(), fix: fix.into(), nature: Nature::Idle });
    }

    /// The name of an object, as `[NAMESPACE/]NAME`. Whoever writes an Ingress may have its namespace's objects
    /// used, and nobody else's.
    fn reference(&mut self, name: &'static str, kind: Kind) -> Option<ObjectName> {
        let (written, text) = self.text(find(name)?)?;
        let own = &self.ingress.name.namespace;
        let (namespace, object) = text.split_once('/').unwrap_or((own, text));
        let mut invalid = |what, fix| {
            self.faults.push(Fault { name: written, what, fix, nature: Nature::Invalid });
            None
        };
        if !is_object_name(object) || !is_object_name(namespace) {
            let what = format!("`{}` is no value for it", shown(text));
            return invalid(what, format!("write the name of a {kind:?}, as NAME or NAMESPACE/NAME"));
        }
        if *namespace != **own {
            let what = format!("the {kind:?} is in namespace `{}`, the Ingress in `{own}`", shown(namespace));
            return invalid(what, format!("name a {kind:?} of the Ingress's own namespace; no other is read"));
        }
        let object = ObjectName { namespace: own.clone(), name: object.into() };
        self.references.insert(ObjectRef::new(kind, &object));
        Some(object)
    }

    fn found<T>(
        &mut self,
        key: &'static str,
        kind: Kind,
        name: ObjectName,
        object: Option<&'a T>,
    ) -> Option<Named<'a, T>> {
        let Some(object) = object else {
            self.broken(key, not_there(&ObjectRef::new(kind, &name)), "create it, or remove the annotation");
            return None;
        };
        Some(Named { name, object })
    }

    /// Says that a part of a value is none, and that nothing counts instead.
    fn void(&mut self, name: &'static str, what: String, fix: &str) {
        let Some((name, _)) = find(name).and_then(|row| self.text(row)) else { return };
        self.faults.push(Fault { name, what, fix: fix.to_owned(), nature: Nature::Void });
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
            let needs = key(needs);
            let what = format!("it has no effect without `{needs}`");
            let fix = format!("write `{needs}` too, or remove it");
            self.faults.push(Fault { name, what, fix, nature: Nature::Idle });
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

/// What to say of an object that isn't there.
pub(super) fn not_there(object: &ObjectRef) -> String {
    format!("there is no {object}")
}

/// A DNS subdomain (RFC 1123), as names of objects are. Names are written into queries to the API server, so nothing
/// else may pass.
fn is_object_name(text: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let label = |label: &str| {
        let ends = [label.bytes().next(), label.bytes().last()];
        let inner = |byte: u8| alphanumeric(byte) || byte == b'-';
        ends.iter().all(|end| end.is_some_and(alphanumeric)) && label.bytes().all(inner)
    };
    text.len() <= NAME_BYTES_MAX && text.split('.').all(label)
}

/// An Ingress `verona/shop` with these annotations, for tests.
#[cfg(test)]
fn annotated(all: &[(&str, &str)]) -> Ingress {
    Ingress {
        name: ObjectName::new("verona", "shop"),
        created: None,
        class: None,
        legacy_class: None,
        annotations: all.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        default_backend: None,
        rules: [].into(),
        tls: [].into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translate::Object;
    use crate::translate::secret::Content;

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

    #[test]
    fn a_secret_of_any_type_is_found_by_its_name() {
        let mut resources = Resources::default();
        let mut put = |name: &str, tls: bool, bytes: usize| {
            let data = BTreeMap::from([("auth".to_owned(), vec![b'a'; bytes])]);
            resources.apply(Object::Secret(ObjectName::new("verona", name), Content::of(tls, data, 0)));
        };
        put("users", false, 10);
        put("pair", true, 10);
        put("huge", false, 2 * 1024 * 1024);
        for (value, what) in [
            ("users", None),
            ("verona/pair", None),
            ("huge", Some("Secret verona/huge has more than a megabyte of data")),
            ("gone", Some("there is no Secret verona/gone")),
            ("capulet/users", Some("the Secret is in namespace `capulet`, the Ingress in `verona`")),
        ] {
            let ingress = annotated(&[("auth-secret", value)]);
            let mut values = Values::new(&ingress, &resources);
            let found = values.secret("auth-secret").map(|Named { name, object }| (name.to_string(), object.tls));
            assert_eq!(found.is_some(), what.is_none(), "{value}");
            let fault = values.faults.first();
            assert_eq!(fault.map(|fault| fault.what.as_str()), what);
            assert!(fault.is_none_or(Fault::closes), "who may pass is not known");
            assert_eq!(values.references.len(), usize::from(!value.starts_with("capulet")));
        }
        let ingress = annotated(&[]);
        let mut values = Values::new(&ingress, &resources);
        assert!(values.secret("auth-secret").is_none() && values.faults.is_empty() && values.references.is_empty());
    }
}
