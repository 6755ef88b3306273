//! One host, put together from all Ingresses that name it: the oldest wins a conflict, the others get a Problem.

use std::collections::BTreeMap;

use super::Settings;
use super::ingress::{Located, Parts, Tls};
use super::problem::{Kind, ObjectRef, Problem};
use super::resources::Resources;
use crate::filter::{Filter, Hsts, HttpsRedirect};
use crate::model::{Host, HostPattern, ObjectName, PathMatch, Rule};

/// One host, from the Ingresses that name it, oldest first.
pub(super) fn merge(
    pattern: &HostPattern,
    ingresses: &[&Parts],
    resources: &Resources,
    settings: &Settings,
) -> (Host, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut rules: Vec<Rule> = Vec::new();
    let mut https = Vec::new();
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
                https.push(&parts.https);
            }
        }
    }
    rules.shrink_to_fit();
    let certificate = certificate(pattern, ingresses, resources, &mut problems);
    let speaks_tls = certificate.is_some() || ingresses.iter().any(|parts| parts.listed.contains_key(pattern));
    for (rule, https) in rules.iter_mut().zip(https) {
        if rule.backends.is_empty() {
            continue;
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
    }
    (Host { pattern: pattern.clone(), rules, certificate }, problems)
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
