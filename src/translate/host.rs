//! One host, put together from all Ingresses that name it: the oldest wins a conflict, the others get a Problem.

use std::collections::BTreeMap;

use super::Settings;
use super::annotations::Https;
use super::ingress::{Parts, Tls};
use super::paths;
use super::problem::{Kind, ObjectRef, Problem};
use super::resources::Resources;
use crate::filter::{Filter, Hsts, HttpsRedirect};
use crate::model::{Host, HostPattern, ObjectName, PathKind, PathMatch, Rule};

/// Most rules of a host whose paths are regular expressions: a request may be held against all of them.
const REGEXES_MAX: usize = 1_000;

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
    let own = certificate(pattern, ingresses, resources, &mut problems);
    // What is wrong with the host itself is said there.
    let shared =
        || certificate(host, of_host, resources, &mut Vec::new()).filter(|secret| covers(secret, pattern, resources));
    let certificate = own.or_else(shared);
    (finish(pattern, rules(host, of_host).0, certificate, ingresses, settings), problems)
}

/// Rules, and how their requests get to https.
type Rules = Vec<(Rule, Https)>;

fn rules(pattern: &HostPattern, ingresses: &[&Parts]) -> (Rules, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut rules: Rules = Vec::new();
    let all = ingresses.iter().flat_map(|parts| parts.rules_of(pattern).iter().map(|(_, located)| (*parts, located)));
    let all = paths::read_together(pattern, all.collect(), &mut problems);
    let mut winners: BTreeMap<Option<&PathMatch>, &Rule> = BTreeMap::new();
    // What only holds a host comes last: it takes nothing from a rule that works.
    for holds in [false, true] {
        for (parts, located, rule) in all.iter().filter(|(_, located, _)| located.holds == holds) {
            if holds && !rules.is_empty() {
                continue;
            }
            if let Some(winner) = winners.get(&rule.path.as_ref()) {
                problems.extend(conflict(pattern, parts, &located.field, rule, winner));
            } else if rule.pattern.is_some() && rules.len() >= REGEXES_MAX {
                let what = format!("host `{pattern}` has {REGEXES_MAX} regular expressions already");
                let object = ObjectRef::new(Kind::Ingress, &parts.name);
                problems.push(Problem::new(object, located.field.clone(), what, "write fewer that take more"));
            } else {
                winners.insert(rule.path.as_ref(), rule);
                rules.push((rule.clone().into_owned(), parts.https));
            }
        }
    }
    (rules, problems)
}

/// Adds to the rules what depends on whether the host speaks TLS.
fn finish(
    pattern: &HostPattern,
    rules: Rules,
    certificate: Option<ObjectName>,
    ingresses: &[&Parts],
    settings: &Settings,
) -> Host {
    let speaks_tls = certificate.is_some() || ingresses.iter().any(|parts| parts.listed.contains_key(pattern));
    let with_filters = |(mut rule, https): (Rule, Https)| {
        if rule.backends.is_empty() {
            return rule;
        }
        let of_tls = speaks_tls.then(|| settings.hsts.value()).flatten().map(|value| Filter::Hsts(Hsts(value)));
        let redirect = https.redirects(speaks_tls, settings).then(|| {
            Filter::HttpsRedirect(HttpsRedirect {
                status: settings.redirect_status,
                preserve_trailing_slash: https.preserve_trailing_slash,
            })
        });
        rule.filters.extend(redirect.into_iter().chain(of_tls));
        rule.filters.sort_by_key(Filter::phase);
        rule.filters.shrink_to_fit();
        rule
    };
    let mut all = Vec::with_capacity(rules.len());
    all.extend(rules.into_iter().map(with_filters));
    Host { pattern: pattern.clone(), rules: all, certificate }
}

/// What to say of a rule whose place is taken.
pub(super) fn conflict(
    pattern: &HostPattern,
    parts: &Parts,
    field: &str,
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
    Some(Problem::new(object, field, what, fix))
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
    let by_names = |tls: &&Tls| tls.by_names && covers(&tls.secret, pattern, resources);
    ingresses.iter().flat_map(|parts| &parts.tls).find(by_names).map(|tls| tls.secret.clone())
}

/// Whether the Secret has a certificate for the host.
fn covers(secret: &ObjectName, pattern: &HostPattern, resources: &Resources) -> bool {
    let certificate = resources.tls_secret(secret).and_then(|secret| secret.certificate.as_ref());
    certificate.is_some_and(|certificate| match pattern {
        HostPattern::Exact(name) => certificate.covers(name),
        HostPattern::Wildcard(_) => certificate.names.iter().any(|name| **name == *pattern.to_string()),
        HostPattern::Any => true,
    })
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
