//! One host, put together from all Ingresses that name it: the oldest wins a conflict, the others get a Problem.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Settings;
use super::annotations::{ClientsAsked, Https};
use super::field::Field;
use super::ingress::{Located, Parts, Tls};
use super::paths::{self, Together};
use super::problem::{Kind, ObjectRef, Problem};
use super::resources::Resources;
use crate::filter::{Filter, Hsts, HttpsRedirect};
use crate::model::{ClientCertificates, Host, HostPattern, ObjectName, PathKind, PathMatch, Rule};

/// Most rules of a host whose paths are regular expressions, of the namespace that decides for it and of all others
/// together: a request may be held against all of them.
const REGEXES_MAX: usize = 1_000;
/// The last of [`Located::turn`].
const TURN_HOLDS: u8 = 2;
/// The field of what a host asks of its clients.
const SECRET_FIELD: &str = "metadata.annotations[nginx.ingress.kubernetes.io/auth-tls-secret]";

/// One host, from the Ingresses that name it, oldest first.
pub(super) fn merge(
    pattern: &HostPattern,
    ingresses: &[&Parts],
    resources: &Resources,
    settings: &Settings,
) -> (Host, Vec<Problem>) {
    let (rules, mut problems) = rules(pattern, ingresses);
    let certificate = certificate(pattern, ingresses, resources, &mut problems);
    (finish(pattern, rules, certificate, ingresses, settings), problems)
}

/// Another name for a host, whose rules are `of_host`'s; `ingresses` are those that name either. Its certificate is one
/// for its own name.
pub(super) fn alias(
    pattern: &HostPattern,
    host: &HostPattern,
    of_host: &[&Parts],
    ingresses: &[&Parts],
    resources: &Resources,
    settings: &Settings,
) -> (Host, Vec<Problem>) {
    let mut problems = Vec::new();
    let certificate = certificate(pattern, ingresses, resources, &mut problems);
    // What is wrong with the host's rules is said there.
    (finish(pattern, rules(host, of_host).0, certificate, ingresses, settings), problems)
}

/// What is the same for a host and its aliases.
struct Rules {
    /// With how their requests get to https.
    rules: Vec<(Arc<Rule>, Https)>,
    client_certificates: Option<Arc<ClientCertificates>>,
}

fn rules(pattern: &HostPattern, ingresses: &[&Parts]) -> (Rules, Vec<Problem>) {
    let decider = decider(pattern, ingresses.iter().copied());
    let all = ingresses.iter().flat_map(|parts| parts.rules_of(pattern).iter().map(|(_, located)| (*parts, located)));
    let Together { rules: all, mut shut, mut problems, warnings } =
        paths::read_together(pattern, decider, all.collect());
    problems.extend(warnings);
    let mut rules: Vec<(Arc<Rule>, Https)> = Vec::new();
    let mut winners: BTreeMap<Option<&PathMatch>, &Rule> = BTreeMap::new();
    // Others may not fill the host up.
    let (mut own, mut of_others) = (0, 0);
    let rules_of = |canary: bool| all.iter().filter(move |(parts, ..)| parts.is_canary == canary);
    for turn in 0..=TURN_HOLDS {
        for (parts, located, rule) in rules_of(false).filter(|(_, located, _)| located.turn() == turn) {
            if turn == TURN_HOLDS && !rules.is_empty() {
                continue;
            }
            let count = if decider == Some(&*parts.name.namespace) { &mut own } else { &mut of_others };
            if let Some(winner) = winners.get(&rule.path.as_ref()) {
                // Of a path that can't be read enough is said.
                let readable = !located.written.is_unread();
                problems.extend(readable.then(|| conflict(pattern, parts, located.field, rule, winner)).flatten());
            } else if rule.pattern.is_some() && *count >= REGEXES_MAX {
                problems.push(too_many(pattern, parts, located, &mut shut));
            } else {
                *count += usize::from(rule.pattern.is_some());
                winners.insert(rule.path.as_ref(), rule);
                rules.push((rule.clone(), parts.https));
            }
        }
    }
    for (parts, located, canary) in rules_of(true) {
        problems.extend(add_canary(pattern, &mut rules, parts, located, canary));
    }
    let Asked { settings, closed, problems: of_clients } = clients(pattern, decider, ingresses);
    problems.extend(of_clients);
    let is_shut = |rule: &Rule| shut.contains(&*rule.source.namespace) && is_private(rule);
    for (rule, _) in rules.iter_mut().filter(|(rule, _)| closed.has(rule) || is_shut(rule)) {
        let rule = Arc::make_mut(rule);
        rule.backends.clear();
        rule.filters.clear();
    }
    // Nobody gets past a closed rule by way of its canary.
    for (rule, _) in rules.iter_mut().filter(|(rule, _)| rule.backends.is_empty() && rule.canary.is_some()) {
        Arc::make_mut(rule).canary = None;
    }
    (Rules { rules, client_certificates: settings }, problems)
}

/// The namespace that decides what holds for all of a host, what its paths are and what its clients need: that of the
/// oldest Ingress with rules for it. Whoever else may write rules for the host can't open those of others by it.
pub(super) fn decider<'a>(
    pattern: &HostPattern,
    ingresses: impl Iterator<Item = &'a Parts> + Clone,
) -> Option<&'a str> {
    let mut all = ingresses.clone().filter(|parts| !parts.is_canary && parts.rules_host(pattern));
    working_decider(pattern, ingresses).or_else(|| all.next().map(|parts| &*parts.name.namespace))
}

/// The same, if any of the rules can be used; who only holds a host gives way.
pub(super) fn working_decider<'a>(
    pattern: &HostPattern,
    ingresses: impl Iterator<Item = &'a Parts>,
) -> Option<&'a str> {
    let works = |parts: &&Parts| parts.rules_of(pattern).iter().any(|(_, located)| located.turn() == 0);
    let mut all = ingresses.filter(|parts| !parts.is_canary && parts.rules_host(pattern));
    all.find(works).map(|parts| &*parts.name.namespace)
}

/// What to say of a regular expression that is one too many. The place of one that keeps somebody out is nobody's.
fn too_many<'a>(pattern: &HostPattern, parts: &'a Parts, located: &Located, shut: &mut BTreeSet<&'a str>) -> Problem {
    let mut fix = "write fewer that take more".to_owned();
    if parts.restricts {
        fix += "; access is restricted there, so all rules of this namespace for the host get 503";
        shut.insert(&*parts.name.namespace);
    }
    let what = format!("host `{pattern}` has {REGEXES_MAX} regular expressions already");
    Problem::new(ObjectRef::new(Kind::Ingress, &parts.name), located.field.to_string(), what, fix)
}

/// Adds to the rules what depends on whether the host speaks TLS.
fn finish(
    pattern: &HostPattern,
    Rules { rules, client_certificates }: Rules,
    certificate: Option<ObjectName>,
    ingresses: &[&Parts],
    settings: &Settings,
) -> Host {
    let speaks_tls = certificate.is_some()
        || ingresses.iter().any(|parts| parts.listing(pattern).next().is_some() || parts.speaks_tls.contains(pattern));
    let of_tls = speaks_tls.then(|| settings.hsts.value()).flatten().map(|value| Filter::Hsts(Hsts(value)));
    let with_filters = |(mut rule, https): (Arc<Rule>, Https)| {
        if rule.backends.is_empty() {
            return rule;
        }
        let redirect = https.redirects(speaks_tls, settings).then(|| {
            Filter::HttpsRedirect(HttpsRedirect {
                status: settings.redirect_status,
                preserve_trailing_slash: https.preserve_trailing_slash,
            })
        });
        let more: Vec<Filter> = redirect.into_iter().chain(of_tls.clone()).collect();
        if !more.is_empty() {
            let filters = &mut Arc::make_mut(&mut rule).filters;
            filters.extend(more);
            filters.sort_by_key(Filter::phase);
            filters.shrink_to_fit();
        }
        rule
    };
    let mut all = Vec::with_capacity(rules.len());
    all.extend(rules.into_iter().map(with_filters));
    Host { pattern: pattern.clone(), rules: all, certificate, client_certificates }
}

/// Whose rules of a host nobody may come to.
enum Closed {
    All,
    Some(Vec<ObjectName>),
}

impl Closed {
    fn has(&self, rule: &Rule) -> bool {
        match self {
            Self::All => is_private(rule),
            Self::Some(closed) => closed.contains(&rule.source),
        }
    }
}

/// What proves whose the host is, is no secret, and lets nobody in.
fn is_private(rule: &Rule) -> bool {
    !rule.path.as_ref().is_some_and(PathMatch::is_acme_challenge)
}

/// What a host asks of its clients.
pub(super) struct Asked {
    settings: Option<Arc<ClientCertificates>>,
    closed: Closed,
    pub(super) problems: Vec<Problem>,
}

/// What the oldest Ingress that asks for anything does, of the namespace that decides for the host. If that can't be
/// honoured the whole host is closed, as it would be open where it was meant to be shut. Who else asks for something
/// else is closed himself.
pub(super) fn clients(pattern: &HostPattern, decider: Option<&str>, ingresses: &[&Parts]) -> Asked {
    let asking = ingresses.iter().filter(|parts| parts.clients != ClientsAsked::Nothing && parts.rules_host(pattern));
    let (own, others): (Vec<&Parts>, Vec<&Parts>) = asking.partition(|parts| decider == Some(&*parts.name.namespace));
    let settings = match own.first().map(|first| (first, &first.clients)) {
        Some((_, ClientsAsked::Certificates(settings))) => Some(settings.clone()),
        Some((first, ClientsAsked::Nothing | ClientsAsked::Unknown)) => {
            let problems = closed_by(pattern, ingresses, first).collect();
            return Asked { settings: None, closed: Closed::All, problems };
        }
        None => None,
    };
    let differs = |parts: &&&Parts| own.first().is_none_or(|first| parts.clients != first.clients);
    let (mut closed, mut problems) = (Vec::new(), Vec::new());
    for parts in own.iter().chain(&others).filter(differs) {
        closed.push(parts.name.clone());
        let (what, fix) = match own.first().filter(|first| first.name.namespace == parts.name.namespace) {
            Some(first) => (
                format!("Ingress {} asks for other client certificates of host `{pattern}`", first.name),
                "write the same `auth-tls-` annotations in both; the older one wins, and requests of this one get 503",
            ),
            None => (
                format!(
                    "whether clients of host `{pattern}` need certificates is for namespace `{}` to say, whose Ingress \
                     is the oldest",
                    decider.unwrap_or_default()
                ),
                "ask for certificates of a host of your own; requests of this Ingress to the host get 503",
            ),
        };
        problems.push(Problem::new(ObjectRef::new(Kind::Ingress, &parts.name), SECRET_FIELD, what, fix));
    }
    Asked { settings, closed: Closed::Some(closed), problems }
}

/// What to say of other Ingresses of a host that `first` closes.
fn closed_by(pattern: &HostPattern, ingresses: &[&Parts], first: &Parts) -> impl Iterator<Item = Problem> {
    let closed = |parts: &Parts| parts.rules_of(pattern).iter().any(|(_, located)| Closed::All.has(&located.rule));
    let others = ingresses.iter().filter(move |parts| parts.name != first.name && closed(parts));
    others.map(move |parts| {
        let what =
            format!("Ingress {} asks for client certificates of host `{pattern}` that can't be told", first.name);
        let fix = "mend its `auth-tls-` annotations; requests to the host get 503";
        Problem::new(ObjectRef::new(Kind::Ingress, &parts.name), "spec.rules", what, fix)
    })
}

/// Makes the rule of an alternative that of the rule whose path it has. A tenant can have no other's requests so: both
/// are of one namespace.
fn add_canary(
    pattern: &HostPattern,
    rules: &mut [(Arc<Rule>, Https)],
    parts: &Parts,
    located: &Located,
    canary: &Rule,
) -> Option<Problem> {
    let rule = rules.iter_mut().map(|(rule, _)| rule).find(|rule| rule.path == canary.path);
    let problem = no_canary(pattern, rule.as_deref().map(|rule| &**rule), parts, located, canary);
    if let Some(rule) = rule.filter(|_| problem.is_none()) {
        Arc::make_mut(rule).canary.clone_from(&canary.canary);
    }
    problem
}

/// Why an alternative is none of `rule`, which has its path.
pub(super) fn no_canary(
    pattern: &HostPattern,
    rule: Option<&Rule>,
    parts: &Parts,
    located: &Located,
    canary: &Rule,
) -> Option<Problem> {
    let place = match &canary.path {
        Some(PathMatch { value, .. }) => format!("path `{value}` of host `{pattern}`"),
        None => format!("the default backend of host `{pattern}`"),
    };
    let (what, fix) = match rule {
        None => (
            format!("{place} is no Ingress's that this could be the canary of"),
            "write the host, path and pathType of the other Ingress, or remove the annotation `canary`",
        ),
        Some(rule) if rule.source.namespace != parts.name.namespace => (
            format!("{place} belongs to Ingress {}", rule.source),
            "have the canary in the namespace of the other Ingress",
        ),
        Some(rule) => (
            format!("{place} has a canary already, Ingress {}", rule.canary.as_ref()?.source),
            "remove one of the two; the older one counts",
        ),
    };
    Some(Problem::new(ObjectRef::new(Kind::Ingress, &parts.name), located.field.to_string(), what, fix))
}

/// What to say of a rule whose place is taken.
pub(super) fn conflict(
    pattern: &HostPattern,
    parts: &Parts,
    field: Field,
    rule: &Rule,
    winner: &Rule,
) -> Option<Problem> {
    // A rule that says the same thing twice does no harm.
    if winner == rule {
        return None;
    }
    let object = ObjectRef::new(Kind::Ingress, &parts.name);
    let what = match &rule.path {
        Some(PathMatch { kind, value }) => {
            let kind = match kind {
                PathKind::Exact => "Exact path",
                PathKind::Prefix => "Prefix path",
                PathKind::Regex => "path",
            };
            format!("{kind} `{value}` of host `{pattern}` belongs to Ingress {}", winner.source)
        }
        None => format!("the default backend of host `{pattern}` belongs to Ingress {}", winner.source),
    };
    let fix =
        if winner.source == parts.name { "keep one of the two" } else { "remove it here or there; the older one wins" };
    Some(Problem::new(object, field.to_string(), what, fix))
}

/// The Secret to serve for the host: of a TLS block that lists it, else of one whose certificate is for it, as
/// ingress-nginx has it.
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
        usable(&tls.secret).is_some_and(|certificate| match pattern {
            HostPattern::Exact(name) => certificate.covers(name),
            HostPattern::Wildcard(_) => certificate.names.iter().any(|name| **name == *pattern.to_string()),
            HostPattern::Any => tls.by_names,
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
    Some(Problem::new(ObjectRef::new(Kind::Ingress, &parts.name), tls.field.secret(), what, fix))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::networking::v1::Ingress;
    use serde_json::{Value, json};

    use super::*;

    fn ingress(namespace: &str, name: &str, year: u16, annotations: &Value, paths: &[String]) -> Ingress {
        let backend = json!({ "service": { "name": "app", "port": { "number": 80 } } });
        let path = |path| json!({ "path": path, "pathType": "ImplementationSpecific", "backend": backend });
        let paths: Vec<Value> = paths.iter().map(path).collect();
        let created = format!("{year}-01-01T00:00:00Z");
        let metadata =
            json!({ "namespace": namespace, "name": name, "creationTimestamp": created, "annotations": annotations });
        let rule = json!({ "host": "a.example", "http": { "paths": paths } });
        serde_json::from_value(json!({ "metadata": metadata, "spec": { "rules": [rule] } })).unwrap()
    }

    #[test]
    fn a_protected_path_that_is_one_too_many_opens_no_other() {
        let regex = json!({ "nginx.ingress.kubernetes.io/use-regex": "true" });
        let limited = json!({ "nginx.ingress.kubernetes.io/limit-rps": "1" });
        let mut paths: Vec<String> = (1..REGEXES_MAX).map(|number| format!("/p{number}")).collect();
        paths.push("/".to_owned());
        let mut resources = Resources::default();
        resources.apply(ingress("verona", "many", 2001, &regex, &paths).into());
        resources.apply(ingress("mantua", "other", 2002, &json!({}), &["/mantua".to_owned()]).into());
        let open = |resources: &mut Resources| {
            resources.mark_all();
            let snapshot = super::super::translate(resources, &Settings::default()).snapshot;
            let host = &snapshot.hosts[&HostPattern::Exact("a.example".into())];
            (host.rules.len(), host.rules.iter().filter(|rule| !rule.backends.is_empty()).count())
        };
        assert_eq!(open(&mut resources), (REGEXES_MAX + 1, REGEXES_MAX + 1), "others' are counted apart");
        resources.apply(ingress("verona", "limited", 2003, &limited, &["/admin".to_owned()]).into());
        assert_eq!(open(&mut resources), (REGEXES_MAX + 1, 1), "the other namespace's");
    }
}
