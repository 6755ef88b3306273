//! What an Ingress would be told if it were applied now, before it is: the pure part of the admission webhook.
//! Refused is what only this object can mend; what other objects can is a warning, as objects come in any
//! order. Nothing is translated for it: the cost is that of the candidate and of the hosts that it names.
//!
//! What others have stays theirs. A candidate is the youngest in what it adds, also when it is an old Ingress
//! that is edited, whose age would take the host or the path from a younger one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::networking::v1 as networking;

use super::annotations::ClientsAsked;
use super::few::Few;
use super::host::{clients, conflict, decider, listed_twice, no_canary, working_decider};
use super::ingress::{Parts, Tls, secret_problem};
use super::object::Object;
use super::paths::{self, Together};
use super::problem::{Kind, ObjectRef, Problem};
use super::resources::Resources;
use super::{Translator, annotations, class, service};
use crate::model::{HostPattern, PathMatch, Rule};

/// What to answer: refuse if there is a reason to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Review {
    pub refused: Vec<Problem>,
    pub warnings: Vec<Problem>,
}

/// Reviews the candidate as a new object, or as the next version of that of its name. An Ingress that isn't ours
/// is none of our business.
pub fn review(translator: &Translator, resources: &Resources, candidate: networking::Ingress) -> Review {
    let Object::Ingress(ingress) = candidate.into() else { return Review::default() };
    let mut ingress = Arc::unwrap_or_clone(ingress);
    if !class::is_ours(&ingress, resources, &translator.settings) {
        return Review::default();
    }
    let stored = resources.ingresses.get(&ingress.name);
    // What isn't there yet is the youngest; without a time it would be the oldest.
    ingress.created = stored.map_or(Some(i64::MAX), |stored| stored.created);
    let parts = Parts::new(&ingress, &translator.settings, resources);
    let before = translator.ingresses.get(&parts.name).map(|parts| &**parts);
    let mut found = judge(translator, &parts);
    // A new one is older than nobody.
    if stored.is_some() {
        found.extend(takeovers(translator, &parts, before));
        found.extend(decisions(translator, &parts));
    }
    // Who mends one thing, or only annotates, is not held up by what was wrong before.
    let mut known: BTreeMap<_, usize> = BTreeMap::new();
    for problem in before.into_iter().flat_map(|before| judge(translator, before)) {
        *known.entry(essence(&problem)).or_default() += 1;
    }
    let is_new = |problem: &Problem| match known.get_mut(&essence(problem)) {
        Some(count @ 1..) => {
            *count -= 1;
            false
        }
        Some(0) | None => true,
    };
    let (refused, old): (Vec<_>, Vec<_>) = found.into_iter().partition(is_new);
    // What nobody has named yet has not been looked for yet: it may well be there.
    let unknown = parts.references.iter().filter(|object| !translator.by_reference.contains_key(object));
    let unknown: Vec<String> = unknown.map(annotations::not_there).collect();
    let warnings = parts.warnings.iter().filter(|problem| !unknown.contains(&problem.what)).cloned();
    let others = missing(&parts, resources).into_iter().chain(shared(translator, &parts));
    Review { refused, warnings: old.into_iter().chain(warnings).chain(others).collect() }
}

/// What a problem is, wherever it moved: without the indices in its field.
fn essence(problem: &Problem) -> (String, String) {
    let digit = |character: char| character.is_ascii_digit();
    let field = problem.field.split('[').map(|part| part.trim_start_matches(digit)).collect();
    (field, problem.what.clone())
}

/// What is wrong with an Ingress that only it can mend, as things are, in the order of fields.
fn judge(translator: &Translator, parts: &Parts) -> BTreeSet<Problem> {
    let mut problems: BTreeSet<Problem> = parts.problems.iter().cloned().collect();
    for host in parts.hosts() {
        match translator.owner(&host).filter(|owner| !owner.admits(&parts.name)) {
            Some(owner) => problems.extend(owner.refusals(&host, parts)),
            None => {
                problems.extend(taken_paths(translator, parts, &host));
                problems.extend(taken_certificate(translator, parts, &host));
            }
        }
    }
    problems.extend(translator.taken_aliases(parts));
    problems
}

/// The rules whose place another rule has: in the table of now, or further up in the same Ingress. And the paths that
/// mean something else beside those of others.
fn taken_paths(translator: &Translator, parts: &Parts, host: &HostPattern) -> Vec<Problem> {
    // A canary has the place of another's rule, and takes it from nobody.
    if parts.is_canary {
        return Vec::new();
    }
    let ingresses = beside(translator, parts, host);
    let all = ingresses.iter().filter(|other| !other.is_canary);
    let located = all.flat_map(|parts| parts.rules_of(host).iter().map(move |(_, located)| (*parts, located)));
    let decider = decides(translator, parts, host, &ingresses);
    let Together { rules, mut problems, .. } = paths::read_together(host, decider, located.collect());
    problems.retain(|problem| problem.object.name == parts.name);
    // The candidate's come last.
    let mut winners: BTreeMap<Option<&PathMatch>, &Rule> = BTreeMap::new();
    // What only keeps others out has nobody's place.
    for (ingress, located, rule) in rules.iter().filter(|(_, located, _)| located.turn() == 0) {
        let winner = *winners.entry(rule.path.as_ref()).or_insert(rule);
        if ingress.name == parts.name {
            problems.extend(conflict(host, parts, located.field, rule, winner));
        }
    }
    problems
}

/// The Ingresses with a claim to the host, as they are, and the candidate as the youngest.
fn beside<'a>(translator: &'a Translator, parts: &'a Parts, host: &HostPattern) -> Vec<&'a Parts> {
    let owner = translator.owner(host);
    let claims = translator.by_host.get(host).into_iter().flat_map(Few::iter).map(|(_, name)| name);
    let others = claims.filter(|name| **name != parts.name && owner.as_ref().is_none_or(|owner| owner.admits(name)));
    let of = |name| translator.ingresses.get(name).map(|parts| &**parts);
    others.filter_map(of).chain([parts]).collect()
}

/// Who decides for the host: who does now, as long as anybody has rules for it that can be used.
fn decides<'a>(
    translator: &'a Translator,
    parts: &'a Parts,
    host: &HostPattern,
    ingresses: &[&'a Parts],
) -> Option<&'a str> {
    let before = translator.ingresses.get(&parts.name).map(|parts| &**parts);
    let before = before.filter(|before| before.rules_host(host));
    let others = ingresses.iter().copied().filter(|other| other.name != parts.name);
    let mut now: Vec<&Parts> = others.chain(before).collect();
    now.sort_by_key(|parts| parts.age());
    working_decider(host, now.into_iter()).or_else(|| decider(host, ingresses.iter().copied()))
}

/// What comes to the candidate from those that it shares its hosts with, and takes nothing from anybody else.
fn shared(translator: &Translator, parts: &Parts) -> Vec<Problem> {
    let mut problems = Vec::new();
    for host in parts.hosts() {
        if translator.owner(&host).is_some_and(|owner| !owner.admits(&parts.name)) {
            continue;
        }
        let ingresses = beside(translator, parts, &host);
        let decider = decides(translator, parts, &host, &ingresses);
        problems.extend(clients(&host, decider, &ingresses).problems);
        let located =
            ingresses.iter().flat_map(|parts| parts.rules_of(&host).iter().map(move |(_, located)| (*parts, located)));
        let Together { rules, warnings, .. } = paths::read_together(&host, decider, located.collect());
        problems.extend(warnings);
        let own = rules.iter().filter(|(other, ..)| parts.is_canary && other.name == parts.name);
        // What only holds a host is there as long as nothing else is.
        let working = rules.iter().any(|(other, located, _)| !other.is_canary && !located.holds);
        // Of two that are the candidate's own the first counts.
        let mut placed: BTreeMap<Option<&PathMatch>, &Rule> = BTreeMap::new();
        for (_, located, canary) in own {
            let same = |canary_too: bool| {
                let of_path = rules
                    .iter()
                    .filter(move |(other, _, rule)| other.is_canary == canary_too && rule.path == canary.path);
                of_path.filter(|(other, located, _)| located.holds != working && other.name != parts.name)
            };
            let mut main = same(false).map(|(.., rule)| (**rule).clone()).next();
            if let Some(main) = &mut main {
                let before = same(true).find(|(other, ..)| other.name.namespace == main.source.namespace);
                let before = before.map(|(.., rule)| &**rule).or(placed.get(&canary.path.as_ref()).copied());
                main.canary = before.and_then(|rule| rule.canary.clone());
            }
            let problem = no_canary(&host, main.as_ref(), parts, located, canary);
            if problem.is_none() {
                placed.insert(canary.path.as_ref(), canary);
            }
            problems.extend(problem);
        }
    }
    problems.retain(|problem| problem.object.name == parts.name);
    problems
}

/// The hosts of another namespace that the candidate would decide for by its age: whose paths and clients are what
/// that namespace says.
fn decisions(translator: &Translator, parts: &Parts) -> Vec<Problem> {
    let mut problems = Vec::new();
    for host in parts.hosts() {
        let mut ingresses = beside(translator, parts, &host);
        let says = |other: &&Parts| {
            let regex = |(_, located): &(HostPattern, super::ingress::Located)| located.written.regex;
            other.clients != ClientsAsked::Nothing || other.rules_of(&host).iter().any(regex)
        };
        let now = decides(translator, parts, &host, &ingresses).filter(|now| **now != *parts.name.namespace);
        let Some(now) = now.filter(|_| ingresses.iter().any(says)) else { continue };
        ingresses.sort_by_key(|parts| parts.age());
        if decider(&host, ingresses.into_iter()) == Some(now) {
            continue;
        }
        let what = format!("this Ingress would say what paths and clients of host `{host}` are in place of `{now}`");
        let fix = "put the host into an Ingress of its own, as this one is older";
        let object = ObjectRef::new(Kind::Ingress, &parts.name);
        problems.extend(
            parts.places(&host).into_iter().map(|field| Problem::new(object.clone(), field, what.clone(), fix)),
        );
    }
    problems
}

/// The TLS blocks that list a host which has its certificate from elsewhere.
fn taken_certificate(translator: &Translator, parts: &Parts, host: &HostPattern) -> Vec<Problem> {
    let mut blocks = parts.listing(host).peekable();
    if blocks.peek().is_none() {
        return Vec::new();
    }
    let owner = translator.owner(host);
    let claims = translator.by_host.get(host).into_iter().flat_map(Few::iter).map(|(_, name)| name);
    let admitted = claims.filter(|name| owner.as_ref().is_none_or(|owner| owner.admits(name)));
    let first = |parts| -> Option<(&Parts, &Tls)> { Some((parts, Parts::listing(parts, host).next()?)) };
    let winner = admitted.filter_map(|name| translator.ingresses.get(name)).find_map(|parts| first(parts));
    let Some(winner) = winner.filter(|(winner, _)| winner.name != parts.name).or_else(|| first(parts)) else {
        return Vec::new();
    };
    blocks.filter_map(|tls| listed_twice(host, parts, tls, winner)).collect()
}

/// The hosts of others that a wildcard would take which an older Ingress adds. The wildcard and the hosts that it
/// names itself are theirs who have them now, by [`judge`]; this one's age would move what is below.
fn takeovers(translator: &Translator, parts: &Parts, before: Option<&Parts>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for host in parts.hosts() {
        let HostPattern::Wildcard(rest) = &host else { continue };
        let had = before.is_some_and(|before| !before.rules_of(&host).is_empty());
        if had || parts.rules_of(&host).is_empty() {
            continue;
        }
        let taken = |below: &&HostPattern| {
            let owner = translator.owner(below);
            owner.is_some_and(|owner| !owner.admits(&parts.name) && parts.age() < *owner.claim)
        };
        let Some(below) = translator.wildcards.below(rest).find(taken) else { continue };
        let what = format!("host `{host}` would take `{below}` from another namespace, as this Ingress is older");
        let fix = "put the wildcard into an Ingress of its own; --strict-host-ownership is on";
        let object = ObjectRef::new(Kind::Ingress, &parts.name);
        let places = parts.places(&host).into_iter();
        problems.extend(places.map(|field| Problem::new(object.clone(), field, what.clone(), fix)));
    }
    problems
}

/// What the Ingress names that isn't there, and may come yet.
fn missing(parts: &Parts, resources: &Resources) -> Vec<Problem> {
    let object = ObjectRef::new(Kind::Ingress, &parts.name);
    let named = parts.backends();
    let backends = named.iter().filter_map(|(key, field)| {
        let missing = service::find(key, resources).err()?;
        Some(missing.at(&(object.clone(), *field)))
    });
    backends.chain(parts.tls.iter().filter_map(|tls| secret_problem(parts, tls, resources))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::translate::Settings;

    const OLD: &str = "2001-01-01T00:00:00Z";
    const YOUNG: &str = "2002-01-01T00:00:00Z";

    fn read(value: Value) -> networking::Ingress {
        serde_json::from_value(value).unwrap()
    }

    /// `montague/name` with these rules, each a host and a path.
    fn ingress(name: &str, created: Option<&str>, rules: &[(&str, &str)]) -> Value {
        let (namespace, name) = name.split_once('/').unwrap();
        let backend = json!({ "service": { "name": "app", "port": { "number": 80 } } });
        let path = |path: &str| json!({ "path": path, "pathType": "Prefix", "backend": backend });
        let rule = |(host, at): &(&str, &str)| json!({ "host": host, "http": { "paths": [path(at)] } });
        let rules: Vec<Value> = rules.iter().map(rule).collect();
        let metadata = json!({ "namespace": namespace, "name": name, "creationTimestamp": created });
        json!({ "metadata": metadata, "spec": { "ingressClassName": "portunus", "rules": rules } })
    }

    /// Everything that is there, and what is asked about.
    struct World(Resources, Translator);

    impl World {
        fn new(strict: bool, ingresses: &[Value]) -> Self {
            let mut resources = Resources::default();
            for value in ingresses {
                resources.apply(read(value.clone()).into());
            }
            for namespace in ["montague", "capulet"] {
                let metadata = json!({ "namespace": namespace, "name": "app" });
                let service = json!({ "metadata": metadata, "spec": { "ports": [{ "port": 80 }] } });
                resources.apply(Object::from(
                    serde_json::from_value::<k8s_openapi::api::core::v1::Service>(service).unwrap(),
                ));
            }
            let mut translator = Translator::new(Settings { strict_host_ownership: strict, ..Settings::default() });
            translator.update(&mut resources);
            Self(resources, translator)
        }

        /// What is refused and what is warned of, as `field: what`.
        fn review(&self, candidate: &Value) -> (Vec<String>, Vec<String>) {
            let Review { refused, warnings } = review(&self.1, &self.0, read(candidate.clone()));
            let lines = |problems: Vec<Problem>| {
                problems.into_iter().map(|problem| format!("{}: {}", problem.field, problem.what)).collect()
            };
            (lines(refused), lines(warnings))
        }
    }

    #[test]
    fn whoever_writes_a_path_that_nobody_can_read_is_told_what_paths_the_host_has() {
        let world = World::new(false, &[ingress("capulet/old", Some(OLD), &[("a.example", "/")])]);
        let mut candidate = ingress("montague/new", Some(YOUNG), &[("a.example", "/x")]);
        candidate["spec"]["rules"][0]["http"]["paths"][0]["pathType"] = json!("Regex");
        candidate["metadata"]["annotations"] = json!({
            "nginx.ingress.kubernetes.io/use-regex": "true",
            "nginx.ingress.kubernetes.io/whitelist-source-range": "10.0.0.0/8",
        });
        let (refused, _) = world.review(&candidate);
        assert!(refused.iter().any(|line| line.contains("are no regular expressions")), "{refused:?}");
    }

    #[test]
    fn an_alias_of_another_namespace_gives_way_to_who_names_the_host() {
        let key = "nginx.ingress.kubernetes.io/server-alias";
        let mut old = ingress("capulet/old", Some(OLD), &[("b.example", "/")]);
        old["metadata"]["annotations"] = json!({ key: "a.example" });
        let mut candidate = ingress("montague/new", Some(YOUNG), &[("c.example", "/")]);
        candidate["metadata"]["annotations"] = json!({ key: "a.example" });
        for (strict, lists, refused) in [(true, true, 0), (true, false, 1), (false, true, 1)] {
            let world = World::new(strict, &[old.clone()]);
            let hosts = if lists { json!(["a.example"]) } else { json!([]) };
            candidate["spec"]["tls"] = json!([{ "hosts": hosts, "secretName": "gone" }]);
            assert_eq!(world.review(&candidate).0.len(), refused, "strict: {strict}, listed: {lists}");
        }
    }

    #[test]
    fn of_two_canaries_of_a_path_in_one_ingress_the_second_is_told() {
        let world = World::new(false, &[ingress("montague/old", Some(OLD), &[("a.example", "/")])]);
        let mut candidate = ingress("montague/new", Some(YOUNG), &[("a.example", "/"), ("a.example", "/")]);
        candidate["metadata"]["annotations"] = json!({ "nginx.ingress.kubernetes.io/canary": "true" });
        let (refused, warnings) = world.review(&candidate);
        assert!(refused.is_empty(), "{refused:?}");
        assert!(
            warnings.iter().any(|line| line.contains("has a canary already, Ingress montague/new")),
            "{warnings:?}"
        );
    }

    #[test]
    fn what_only_the_object_can_mend_is_refused_and_what_others_can_is_a_warning() {
        let mut candidate =
            ingress("montague/new", None, &[("1.2.3.4", "/"), ("a.example", "/a%00"), ("b.example", "/")]);
        candidate["spec"]["rules"][2]["http"]["paths"][0]["pathType"] = json!("Regex");
        candidate["spec"]["defaultBackend"] = json!({ "service": { "name": "gone", "port": { "number": 80 } } });
        candidate["spec"]["tls"] = json!([{ "hosts": ["a.example"], "secretName": "gone" }]);
        candidate["metadata"]["annotations"] = json!({
            "nginx.ingress.kubernetes.io/auth-url": "x",
            "nginx.ingress.kubernetes.io/proxy-buffering": "on",
            "nginx.ingress.kubernetes.io/affinity": "cookie",
            "nginx.ingress.kubernetes.io/session-cookie-max-age": "1h",
        });
        let world = World::new(false, &[]);
        let (refused, warnings) = world.review(&candidate);
        let fields = |lines: &[String]| lines.iter().map(|line| line.split(": ").next().unwrap().to_owned()).collect();
        let refused: Vec<String> = fields(&refused);
        let auth = "metadata.annotations[nginx.ingress.kubernetes.io/auth-url]";
        let faulty = ["spec.rules[0].host", "spec.rules[1].http.paths[0].path", "spec.rules[2].http.paths[0].pathType"];
        let age = "metadata.annotations[nginx.ingress.kubernetes.io/session-cookie-max-age]";
        assert_eq!(refused, [&[auth, age][..], &faulty].concat());
        let warnings: Vec<String> = fields(&warnings);
        let size = "metadata.annotations[nginx.ingress.kubernetes.io/proxy-buffering]";
        assert_eq!(warnings, [size, "spec.defaultBackend.service.name", "spec.tls[0].secretName"]);
        candidate["spec"]["ingressClassName"] = json!("other");
        assert_eq!(world.review(&candidate), (vec![], vec![]), "not ours");
    }

    #[test]
    fn the_place_of_another_ingress_is_refused_also_to_an_older_one() {
        let held = ingress("montague/held", Some(YOUNG), &[("a.example", "/a")]);
        let old = ingress("montague/old", Some(OLD), &[("a.example", "/b")]);
        let world = World::new(false, &[held, old.clone()]);
        let taken =
            "spec.rules[0].http.paths[0]: Prefix path `/a` of host `a.example` belongs to Ingress montague/held";
        let new = ingress("montague/new", None, &[("a.example", "/a/")]);
        assert_eq!(world.review(&new).0, [taken]);
        let edited = ingress("montague/old", None, &[("a.example", "/a"), ("a.example", "/b")]);
        assert_eq!(world.review(&edited).0, [taken]);
        assert_eq!(world.review(&old).0, Vec::<String>::new());
        let free = ingress("montague/new", None, &[("a.example", "/c"), ("b.example", "/a")]);
        assert_eq!(world.review(&free).0, Vec::<String>::new());
    }

    #[test]
    fn what_was_wrong_before_does_not_hold_up_an_update() {
        let broken = ingress("montague/broken", Some(OLD), &[("1.2.3.4", "/"), ("a.example", "/")]);
        let world = World::new(false, std::slice::from_ref(&broken));
        assert_eq!(world.review(&broken).0.len(), 0);
        // The same fault elsewhere is the same fault; a second one is another.
        let moved = ingress("montague/broken", None, &[("b.example", "/"), ("1.2.3.4", "/")]);
        let (refused, warnings) = world.review(&moved);
        assert_eq!((refused.len(), warnings.len()), (0, 1), "{warnings:?}");
        let worse = ingress("montague/broken", None, &[("1.2.3.4", "/"), ("1.2.3.4", "/")]);
        assert_eq!(world.review(&worse).0.len(), 1);
        let named = ingress("montague/another", None, &[("1.2.3.4", "/")]);
        assert_eq!(world.review(&named).0.len(), 1);
    }

    #[test]
    fn hosts_of_other_namespaces_are_refused_however_old_the_candidate_is() {
        let ours = ingress("montague/ours", Some(YOUNG), &[("a.example", "/"), ("b.below.example", "/")]);
        let old = ingress("capulet/old", Some(OLD), &[("c.example", "/")]);
        let world = World::new(true, &[ours, old.clone()]);
        let belongs = |place: &str, host: &str| {
            format!(
                "{place}: host `{host}` belongs to namespace `montague`: to Ingress montague/ours, \
                 which is the oldest to name it"
            )
        };
        let new = ingress("capulet/new", None, &[("a.example", "/other"), ("d.example", "/")]);
        assert_eq!(world.review(&new).0, [belongs("spec.rules[0].host", "a.example")]);
        let edited = ingress("capulet/old", None, &[("c.example", "/"), ("a.example", "/")]);
        assert_eq!(world.review(&edited).0, [belongs("spec.rules[1].host", "a.example")]);
        let wildcard = "spec.rules[0].host: host `*.below.example` would take `b.below.example` \
                        from another namespace, as this Ingress is older";
        let edited = ingress("capulet/old", None, &[("*.below.example", "/")]);
        assert_eq!(world.review(&edited).0, [wildcard]);
        // Made new it is younger than what is below it, and takes the rest.
        let new = ingress("capulet/new", None, &[("*.below.example", "/")]);
        assert_eq!(world.review(&new).0, Vec::<String>::new());
        let same_namespace = ingress("montague/new", None, &[("a.example", "/other")]);
        assert_eq!(world.review(&same_namespace).0, Vec::<String>::new());
    }

    /// A megabyte and a half is what an object may have; rules of one host and of many, and as many TLS blocks.
    #[test]
    fn a_huge_candidate_is_looked_at_once() {
        let hosts: Vec<String> = (0..12_000).map(|index| format!("h{index}.example")).collect();
        let rules: Vec<(&str, &str)> = hosts.iter().map(|host| (host.as_str(), "/")).collect();
        let mut many = ingress("montague/many", None, &rules);
        many["spec"]["tls"] = hosts.iter().map(|host| json!({ "hosts": [host], "secretName": "gone" })).collect();
        let paths: Vec<String> = (0..12_000).map(|index| format!("/{}", index % 6_000)).collect();
        let rules: Vec<(&str, &str)> = paths.iter().map(|path| ("a.example", path.as_str())).collect();
        let world = World::new(true, &[]);
        assert_eq!(world.review(&many).1.len(), 12_000);
        let same = world.review(&ingress("montague/paths", None, &rules)).0;
        assert_eq!(same, Vec::<String>::new(), "rules that say the same twice");
    }
}
