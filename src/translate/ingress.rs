//! An Ingress, taken apart: rules by host, TLS blocks, the backends it names, and what is wrong with it. Then
//! one host, put together from all Ingresses that name it: the oldest wins a conflict, the others get a
//! Problem.

use std::collections::{BTreeMap, BTreeSet};

use http::{HeaderName, HeaderValue};

use super::Settings;
use super::annotations::{self, Fault, Nature, Status, Values, affinity};
use super::object::{BackendSpec, Ingress, IngressPath};
use super::ownership::Claim;
use super::problem::{Kind, ObjectRef, Problem};
use super::resources::Resources;
use crate::model::{
    BackendKey, BackendRef, Host, HostPattern, InvalidHost, ObjectName, PathKind, PathMatch, Rule, normalize,
};

/// One Ingress of ours, ready to be merged with others.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Parts {
    pub(super) name: ObjectName,
    pub(super) created: Option<i64>,
    /// By host; those of one host in the order of the Ingress.
    pub(super) rules: Vec<(HostPattern, Located)>,
    pub(super) tls: Vec<Tls>,
    /// The places in `tls` that list a host, in order.
    pub(super) listed: BTreeMap<HostPattern, Vec<usize>>,
    /// Each backend, and the first field that names it; sorted.
    pub(super) backends: Vec<(BackendKey, String)>,
    /// Sessions stay with their endpoints.
    pub(super) affinity: bool,
    /// Fields that answers get, by an annotation.
    pub(super) response_headers: Vec<(HeaderName, HeaderValue)>,
    /// What annotations name, be it there or not.
    pub(super) references: BTreeSet<ObjectRef>,
    pub(super) problems: Vec<Problem>,
    /// Problems that take nothing out of service.
    pub(super) warnings: Vec<Problem>,
}

/// A rule and the field it stands in.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Located {
    pub(super) rule: Rule,
    pub(super) field: String,
    /// Stands for rules that can't be used, so that the host is not somebody else's.
    pub(super) holds: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tls {
    /// Lists no host: it is for those that the certificate names.
    by_names: bool,
    pub(super) secret: ObjectName,
    field: String,
}

impl Parts {
    pub(super) fn new(ingress: &Ingress, settings: &Settings, resources: &Resources) -> Self {
        let mut parts = Self {
            name: ingress.name.clone(),
            created: ingress.created,
            rules: Vec::new(),
            tls: Vec::new(),
            listed: BTreeMap::new(),
            backends: Vec::new(),
            affinity: false,
            response_headers: Vec::new(),
            references: BTreeSet::new(),
            problems: Vec::new(),
            warnings: Vec::new(),
        };
        for (index, rule) in ingress.rules.iter().enumerate() {
            let field = format!("spec.rules[{index}]");
            let Some(host) = parts.host(&rule.host, format!("{field}.host")) else { continue };
            let before = parts.rules.len();
            for (index, path) in rule.paths.iter().enumerate() {
                parts.path(&host, path, format!("{field}.http.paths[{index}]"));
            }
            // A host that was named belongs to its rule, even if no path of it can be used: nothing less exact
            // takes its requests.
            if !rule.paths.is_empty() && parts.rules.len() == before && ingress.default_backend.is_none() {
                parts.rule(host, None, None, field.clone());
                parts.rules.iter_mut().last().into_iter().for_each(|(_, located)| located.holds = true);
            }
            // A rule without paths sends everything to the default backend (Ingress v1, HTTPIngressRuleValue).
            if rule.paths.is_empty() && ingress.default_backend.is_none() {
                let what = "the rule has no path and the Ingress no defaultBackend";
                parts.problem(format!("{field}.http"), what, "add a path with a backend");
            }
        }
        if let Some(backend) = &ingress.default_backend {
            parts.default_backend(ingress, backend);
        } else if ingress.rules.is_empty() {
            parts.problem("spec", "the Ingress has neither rules nor a defaultBackend", "add one of them");
        }
        parts.read_tls(ingress);
        parts.read_annotations(ingress, settings, resources);
        // Stable, so that what comes first in the Ingress stays first in its host.
        parts.rules.sort_by(|(one, _), (other, _)| one.cmp(other));
        parts.backends.sort_by(|(one, _), (other, _)| one.cmp(other));
        parts.backends.dedup_by(|(later, _), (first, _)| later == first);
        // There are many, and they stay.
        parts.rules.shrink_to_fit();
        parts.backends.shrink_to_fit();
        parts.tls.shrink_to_fit();
        parts
    }

    /// The hosts that depend on this Ingress.
    pub(super) fn hosts(&self) -> BTreeSet<HostPattern> {
        self.rules.iter().map(|(host, _)| host).chain(self.listed.keys()).cloned().collect()
    }

    /// The rules of one host; to look at all of them for each host would cost the square of a large Ingress.
    pub(super) fn rules_of(&self, host: &HostPattern) -> &[(HostPattern, Located)] {
        let begin = self.rules.partition_point(|(other, _)| other < host);
        let length = self.rules[begin..].partition_point(|(other, _)| other == host);
        &self.rules[begin..begin + length]
    }

    /// The TLS blocks that list the host.
    pub(super) fn listing(&self, host: &HostPattern) -> impl Iterator<Item = &Tls> + use<'_> {
        self.listed.get(host).into_iter().flatten().map(|index| &self.tls[*index])
    }

    /// The fields that name the host.
    pub(super) fn places(&self, host: &HostPattern) -> BTreeSet<String> {
        let within = |field: &str, inner: &str| match field.split_once(']') {
            Some((outer, _)) => format!("{outer}]{inner}"),
            None => field.to_owned(),
        };
        // A rule for all hosts says so by having no field.
        let inner = if *host == HostPattern::Any { "" } else { ".host" };
        let rules = self.rules_of(host).iter().map(|(_, located)| within(&located.field, inner));
        let all: BTreeSet<String> = rules.chain(self.listing(host).map(|tls| within(&tls.field, ".hosts"))).collect();
        // The default backend names no host but through other fields, if there are any.
        let named: BTreeSet<String> = all.iter().filter(|field| field.contains(']')).cloned().collect();
        if named.is_empty() || *host == HostPattern::Any { all } else { named }
    }

    /// The first field that names the backend.
    pub(super) fn field_of(&self, key: &BackendKey) -> &str {
        let at = self.backends.binary_search_by(|(other, _)| other.cmp(key));
        &self.backends[at.expect("it is asked of those that name it")].1
    }

    pub(super) fn secrets(&self) -> impl Iterator<Item = &ObjectName> {
        self.tls.iter().map(|tls| &tls.secret)
    }

    /// Oldest first; what has no age is oldest.
    pub(super) fn age(&self) -> Claim {
        (self.created, self.name.clone())
    }

    fn problem(&mut self, field: impl Into<String>, what: impl Into<String>, fix: impl Into<String>) {
        self.problems.push(Problem::new(ObjectRef::new(Kind::Ingress, &self.name), field, what, fix));
    }

    fn host(&mut self, text: &str, field: String) -> Option<HostPattern> {
        match HostPattern::parse(text) {
            Ok(host) => Some(host),
            Err(InvalidHost { what, fix }) => {
                self.problem(field, what, fix);
                None
            }
        }
    }

    fn path(&mut self, host: &HostPattern, path: &IngressPath, field: String) {
        let Some(matched) = self.path_match(path, &field) else { return };
        let backend = self.backend(&path.backend, format!("{field}.backend"));
        self.rule(host.clone(), Some(matched), backend, field);
    }

    fn path_match(&mut self, path: &IngressPath, field: &str) -> Option<PathMatch> {
        let kind = match path.path_type.as_str() {
            "Exact" => PathKind::Exact,
            "Prefix" | "ImplementationSpecific" => PathKind::Prefix,
            other => {
                let what = format!("pathType `{other}` is unknown");
                self.problem(format!("{field}.pathType"), what, "write Exact, Prefix or ImplementationSpecific");
                return None;
            }
        };
        let text = path.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
        if text.contains(['?', '#']) {
            let what = format!("`{text}` has a query or a fragment, which no path has");
            self.problem(format!("{field}.path"), what, "write the path alone, as /a/b");
            return None;
        }
        match normalize(text) {
            Ok(path) => Some(PathMatch::new(kind, &path.matched)),
            Err(error) => {
                self.problem(
                    format!("{field}.path"),
                    format!("`{text}`: {}", error.message()),
                    "write the plain path, as /a/b",
                );
                None
            }
        }
    }

    fn backend(&mut self, backend: &BackendSpec, field: String) -> Option<BackendKey> {
        match backend {
            BackendSpec::Service { name, port } => {
                let service = ObjectName { namespace: self.name.namespace.clone(), name: name.as_str().into() };
                let key = BackendKey { service, port: port.clone() };
                self.backends.push((key.clone(), field));
                Some(key)
            }
            BackendSpec::Unusable { field: inner, what } => {
                let fix = "name a Service and one of its ports; requests get 503";
                self.problem(format!("{field}.{inner}"), what, fix);
                None
            }
        }
    }

    /// The default backend takes what is left over of each host that the Ingress names, and of all hosts that
    /// nobody names.
    fn default_backend(&mut self, ingress: &Ingress, backend: &BackendSpec) {
        let field = "spec.defaultBackend";
        let key = self.backend(backend, field.to_owned());
        let mut hosts: BTreeSet<HostPattern> =
            ingress.rules.iter().filter_map(|rule| HostPattern::parse(&rule.host).ok()).collect();
        hosts.insert(HostPattern::Any);
        for host in hosts {
            self.rule(host, None, key.clone(), field.to_owned());
        }
    }

    /// A rule whose backend can't be used keeps its place: its requests get 503, and not another rule's answer.
    fn rule(&mut self, host: HostPattern, path: Option<PathMatch>, backend: Option<BackendKey>, field: String) {
        let backends = backend.into_iter().map(|backend| BackendRef { backend, weight: 1 }).collect();
        let rule = Rule { source: self.name.clone(), path, backends, affinity: None };
        self.rules.push((host, Located { rule, field, holds: false }));
    }

    /// What is honoured changes the rules; what is not is said, and closes them if they would be open without it.
    fn read_annotations(&mut self, ingress: &Ingress, settings: &Settings, resources: &Resources) {
        let mut values = Values::new(ingress, resources);
        if let Some(sessions) = affinity::read(&mut values) {
            self.affinity = true;
            for (_, Located { rule, .. }) in &mut self.rules {
                rule.affinity = Some(Box::new(sessions.of(rule.path.as_ref())));
            }
        }
        self.references = values.references;
        for Fault { name, what, fix, nature } in values.faults {
            let object = ObjectRef::new(Kind::Ingress, &self.name);
            let field = format!("metadata.annotations[{}{name}]", annotations::PREFIX);
            // What others can mend is no reason to refuse this object.
            let problems = match nature {
                Nature::Invalid => &mut self.problems,
                Nature::Missing | Nature::Idle => &mut self.warnings,
            };
            problems.push(Problem::new(object, field, what, fix));
        }
        for (name, _) in &ingress.annotations {
            let row = annotations::find(name);
            let what = match row.map(|row| row.status) {
                Some(Status::Supported { .. }) => continue,
                Some(Status::Planned) => "is not supported yet",
                Some(Status::Never) => "means something to nginx alone, and is not supported",
                None => "is not known",
            };
            let key = format!("{}{name}", annotations::PREFIX);
            let field = format!("metadata.annotations[{key}]");
            let what = format!("`{key}` {what}");
            let object = ObjectRef::new(Kind::Ingress, &self.name);
            if !annotations::restricts(name) {
                let fix = "remove it, or do without; the rest of the Ingress works";
                self.warnings.push(Problem::new(object, field, what, fix));
            } else if settings.ignore_unsupported_annotations {
                let fix = "the routes are open: --unsupported-annotations is `ignore`";
                self.warnings.push(Problem::new(object, field, what, fix));
            } else {
                let fix = "it restricts access, so requests get 503; remove it, or start with --unsupported-annotations ignore";
                self.problem(field, what, fix);
                self.rules.iter_mut().for_each(|(_, located)| located.rule.backends.clear());
            }
        }
    }

    fn read_tls(&mut self, ingress: &Ingress) {
        for (index, tls) in ingress.tls.iter().enumerate() {
            let field = format!("spec.tls[{index}]");
            let hosts: Vec<_> = tls
                .hosts
                .iter()
                .enumerate()
                .filter_map(|(index, host)| self.host(host, format!("{field}.hosts[{index}]")))
                .collect();
            // Without a secretName TLS ends with the default certificate, which needs nothing of us; with
            // hosts of which none can be read, the block must not spread to other hosts.
            let Some(secret) = &tls.secret else { continue };
            if hosts.is_empty() && !tls.hosts.is_empty() {
                continue;
            }
            let secret = ObjectName { namespace: self.name.namespace.clone(), name: secret.as_str().into() };
            let place = self.tls.len();
            self.tls.push(Tls { by_names: hosts.is_empty(), secret, field: format!("{field}.secretName") });
            for host in hosts {
                let places = self.listed.entry(host).or_default();
                if places.last() != Some(&place) {
                    places.push(place);
                }
            }
        }
    }
}

/// One host, from the Ingresses that name it, oldest first.
pub(super) fn merge(pattern: &HostPattern, ingresses: &[&Parts], resources: &Resources) -> (Host, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut rules: Vec<Rule> = Vec::new();
    let mut winners: BTreeMap<Option<&PathMatch>, &Rule> = BTreeMap::new();
    let all =
        || ingresses.iter().flat_map(|parts| parts.rules_of(pattern).iter().map(|(_, located)| (*parts, located)));
    // What only holds a host comes last: it takes nothing from a rule that works.
    for holds in [false, true] {
        for (parts, located) in all().filter(|(_, located)| located.holds == holds) {
            if holds && !rules.is_empty() {
                continue;
            }
            if let Some(winner) = winners.get(&located.rule.path.as_ref()) {
                problems.extend(conflict(pattern, parts, located, winner));
            } else {
                winners.insert(located.rule.path.as_ref(), &located.rule);
                rules.push(located.rule.clone());
            }
        }
    }
    rules.shrink_to_fit();
    let certificate = certificate(pattern, ingresses, resources, &mut problems);
    (Host { pattern: pattern.clone(), rules, certificate, client_certificates: None }, problems)
}

/// What to say of a rule whose place is taken.
pub(super) fn conflict(pattern: &HostPattern, parts: &Parts, located: &Located, winner: &Rule) -> Option<Problem> {
    // A rule that says the same thing twice does no harm.
    if *winner == located.rule {
        return None;
    }
    let object = ObjectRef::new(Kind::Ingress, &parts.name);
    let what = match &located.rule.path {
        Some(PathMatch { kind, value }) => {
            format!("{kind:?} path `{value}` of host `{pattern}` belongs to Ingress {}", winner.source)
        }
        None => format!("the default backend of host `{pattern}` belongs to Ingress {}", winner.source),
    };
    let fix =
        if winner.source == parts.name { "keep one of the two" } else { "remove it here or there; the older one wins" };
    Some(Problem::new(object, located.field.clone(), what, fix))
}

/// The Secret to serve for the host: of a TLS block that lists it, else of one whose certificate is for it.
fn certificate(
    pattern: &HostPattern,
    ingresses: &[&Parts],
    resources: &Resources,
    problems: &mut Vec<Problem>,
) -> Option<ObjectName> {
    let usable = |secret: &ObjectName| resources.tls_secret(secret).and_then(|secret| secret.certificate.as_ref());
    let listed = listing(ingresses, pattern);
    if let Some((first, others)) = listed.split_first() {
        problems.extend(others.iter().filter_map(|(parts, tls)| listed_twice(pattern, parts, tls, *first)));
    }
    let wildcard = match pattern {
        HostPattern::Exact(name) => name.split_once('.').map(|(_, rest)| HostPattern::Wildcard(rest.into())),
        HostPattern::Wildcard(_) | HostPattern::Any => None,
    };
    let above = wildcard.map(|wildcard| listing(ingresses, &wildcard)).unwrap_or_default();
    if let Some((_, tls)) = listed.iter().chain(&above).find(|(_, tls)| usable(&tls.secret).is_some()) {
        return Some(tls.secret.clone());
    }
    let by_names = |tls: &&Tls| {
        tls.by_names
            && usable(&tls.secret).is_some_and(|certificate| match pattern {
                HostPattern::Exact(name) => certificate.covers(name),
                HostPattern::Wildcard(_) => certificate.names.iter().any(|name| **name == *pattern.to_string()),
                HostPattern::Any => true,
            })
    };
    ingresses.iter().flat_map(|parts| &parts.tls).find(by_names).map(|tls| tls.secret.clone())
}

/// The TLS blocks that list the host, oldest first.
fn listing<'a>(ingresses: &[&'a Parts], host: &HostPattern) -> Vec<(&'a Parts, &'a Tls)> {
    ingresses.iter().flat_map(|parts| parts.listing(host).map(|tls| (*parts, tls))).collect()
}

/// What to say of a TLS block that lists a host which `first` lists already, with another Secret.
pub(super) fn listed_twice(
    pattern: &HostPattern,
    parts: &Parts,
    tls: &Tls,
    (winner, first): (&Parts, &Tls),
) -> Option<Problem> {
    if first.secret == tls.secret {
        return None;
    }
    let what = format!("host `{pattern}` has its certificate from Ingress {} ({})", winner.name, first.secret);
    let fix = "name the same Secret, or list the host once; the older one wins";
    Some(Problem::new(ObjectRef::new(Kind::Ingress, &parts.name), tls.field.clone(), what, fix))
}

/// What is wrong with the Secret that a TLS block of the Ingress names.
pub(super) fn secret_problem(parts: &Parts, tls: &Tls, resources: &Resources) -> Option<Problem> {
    let (what, fix) = match resources.tls_secret(&tls.secret) {
        None => (
            format!("there is no Secret {} of type kubernetes.io/tls", tls.secret),
            "create it; the default certificate is served meanwhile",
        ),
        Some(secret) if secret.certificate.is_none() => {
            (format!("Secret {} is broken", tls.secret), "mend it; the default certificate is served meanwhile")
        }
        Some(_) => return None,
    };
    Some(Problem::new(ObjectRef::new(Kind::Ingress, &parts.name), tls.field.clone(), what, fix))
}
