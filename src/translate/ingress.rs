//! An Ingress, taken apart: rules by host, TLS blocks, the backends it names, what its annotations ask for, and what
//! is wrong with it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use thin_vec::ThinVec;

use super::Settings;
use super::aliases::ALIAS;
use super::annotations::{self, Behaviour, ClientsAsked, Https, Sessions};
use super::field::Field;
use super::object::{BackendSpec, Ingress, IngressPath};
use super::ownership::Claim;
use super::paths::{self, ReadPath, Written};
use super::problem::{Kind, ObjectRef, Problem};
use super::resources::Resources;
use crate::filter::{Filter, Redirect, RedirectTarget};
use crate::model::{BackendKey, BackendTls, Canary, HostPattern, InvalidHost, ObjectName, Rule};

/// One Ingress of ours, ready to be merged with others. There are many, and most have none of most things: those lists
/// take one word while they are empty.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Parts {
    pub(super) name: ObjectName,
    pub(super) created: Option<i64>,
    /// By host; those of one host in the order of the Ingress.
    pub(super) rules: Vec<(HostPattern, Located)>,
    pub(super) tls: ThinVec<Tls>,
    /// The hosts that are listed, each with the place in `tls` that lists it; sorted.
    pub(super) listed: ThinVec<(HostPattern, usize)>,
    /// Hosts of TLS blocks that leave the certificate to the operator. They are not claimed by it.
    pub(super) speaks_tls: ThinVec<HostPattern>,
    /// Each backend, and the first field that names it; sorted. Empty if its rules say the same.
    named: ThinVec<(BackendKey, Field)>,
    /// Its annotations keep somebody out.
    pub(super) restricts: bool,
    /// Its rules are alternatives of others'.
    pub(super) is_canary: bool,
    /// Sessions stay with their endpoints.
    pub(super) affinity: bool,
    /// How its requests get from http to https.
    pub(super) https: Https,
    /// More names for its hosts, sorted.
    pub(super) aliases: ThinVec<HostPattern>,
    /// What is asked of clients' certificates, for all its hosts.
    pub(super) clients: ClientsAsked,
    /// How its backends are spoken to over TLS.
    pub(super) backend_tls: Option<Arc<BackendTls>>,
    /// What annotations name, be it there or not.
    pub(super) references: ThinVec<ObjectRef>,
    pub(super) problems: ThinVec<Problem>,
    /// Problems that take nothing out of service.
    pub(super) warnings: ThinVec<Problem>,
}

/// A rule and the field it stands in.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Located {
    /// Shared with the host, where that has nothing to add.
    pub(super) rule: Arc<Rule>,
    pub(super) field: Field,
    /// Stands for rules that can't be used, so that the host is not somebody else's.
    pub(super) holds: bool,
    pub(super) written: Written,
}

impl Located {
    /// When it gets its place in the host: rules that work first, so that neither what stands for a path that can't be
    /// read nor what only holds the host takes anything from them.
    pub(super) fn turn(&self) -> u8 {
        match (self.holds, self.written.is_unread()) {
            (false, false) => 0,
            (false, true) => 1,
            (true, _) => 2,
        }
    }

    /// Stands for a host that sends to the one with `www.`, or without, if nothing else is there.
    fn only_redirects(&self) -> bool {
        let to_host =
            |filter: &Filter| matches!(filter, Filter::Redirect(Redirect { to: RedirectTarget::Host(_), .. }));
        self.holds && self.rule.filters.iter().any(to_host)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tls {
    /// Lists no host: it is for those that the certificate names.
    pub(super) by_names: bool,
    pub(super) secret: ObjectName,
    pub(super) field: Field,
}

impl Parts {
    pub(super) fn new(ingress: &Ingress, settings: &Settings, resources: &Resources) -> Self {
        let mut parts = Self {
            name: ingress.name.clone(),
            created: ingress.created,
            rules: Vec::new(),
            tls: ThinVec::new(),
            listed: ThinVec::new(),
            speaks_tls: ThinVec::new(),
            named: ThinVec::new(),
            restricts: false,
            is_canary: false,
            affinity: false,
            https: Https::default(),
            aliases: ThinVec::new(),
            clients: ClientsAsked::default(),
            backend_tls: None,
            references: ThinVec::new(),
            problems: ThinVec::new(),
            warnings: ThinVec::new(),
        };
        let behaviour = parts.read_annotations(ingress, resources, settings);
        for (index, rule) in (0..).zip(&ingress.rules) {
            let (place, field) = (index, Field::Rule(index));
            let Some(host) = parts.host(&rule.host, format!("{field}.host")) else { continue };
            let before = parts.rules.len();
            for (index, path) in (0..).zip(&rule.paths) {
                parts.path(&host, path, &behaviour, Field::Path(place, index));
            }
            // A host that was named belongs to its rule, even if no path of it can be used: nothing less exact
            // takes its requests.
            if !rule.paths.is_empty() && parts.rules.len() == before && ingress.default_backend.is_none() {
                parts.rule(host, None, None, &behaviour, field);
                parts.rules.iter_mut().last().into_iter().for_each(|(_, located)| located.holds = true);
            }
            // A rule without paths sends everything to the default backend (Ingress v1, HTTPIngressRuleValue).
            if rule.paths.is_empty() && ingress.default_backend.is_none() {
                let what = "the rule has no path and the Ingress no defaultBackend";
                parts.problem(format!("{field}.http"), what, "add a path with a backend");
            }
        }
        if let Some(backend) = &ingress.default_backend {
            parts.default_backend(ingress, backend, &behaviour);
        } else if ingress.rules.is_empty() {
            parts.problem("spec", "the Ingress has neither rules nor a defaultBackend", "add one of them");
        }
        parts.redirect_www(&behaviour, settings);
        parts.read_tls(ingress);
        if let Some(first) = parts.named_hosts().min().filter(|_| !parts.aliases.is_empty())
            && parts.named_hosts().any(|host| host != first)
        {
            let what = format!("the names are aliases of `{first}` alone, the first of the Ingress's hosts");
            parts.warning(annotations::field(ALIAS), what, "make an Ingress of each host that has aliases");
        }
        let cookies = behaviour.sessions.as_ref().is_some_and(Sessions::by_rule);
        if cookies
            && parts.rules.iter().any(|(_, located)| located.rule.pattern.is_some() && !located.written.is_unread())
        {
            let what = "paths are regular expressions, which no cookie can have as its path: it is `/`";
            parts.warning(
                annotations::field("session-cookie-path"),
                what,
                "write the path that browsers see, as /shop",
            );
        }
        // Stable, so that what comes first in the Ingress stays first in its host.
        parts.rules.sort_by(|(one, _), (other, _)| one.cmp(other));
        parts.named.sort_by(|(one, _), (other, _)| one.cmp(other));
        parts.named.dedup_by(|(later, _), (first, _)| later == first);
        if parts.named[..] == parts.backends_of_rules()[..] {
            parts.named.clear();
        }
        // There are many, and they stay.
        parts.rules.shrink_to_fit();
        parts.named.shrink_to_fit();
        parts.tls.shrink_to_fit();
        parts
    }

    /// The hosts that depend on this Ingress.
    pub(super) fn hosts(&self) -> BTreeSet<HostPattern> {
        self.rules.iter().map(|(host, _)| host).chain(self.listed.iter().map(|(host, _)| host)).cloned().collect()
    }

    /// The rules of one host; to look at all of them for each host would cost the square of a large Ingress.
    pub(super) fn rules_of(&self, host: &HostPattern) -> &[(HostPattern, Located)] {
        let begin = self.rules.partition_point(|(other, _)| other < host);
        let length = self.rules[begin..].partition_point(|(other, _)| other == host);
        &self.rules[begin..begin + length]
    }

    /// The hosts of its rules, without those that only send to another.
    pub(super) fn named_hosts(&self) -> impl Iterator<Item = &HostPattern> {
        self.rules.iter().filter(|(_, located)| !located.only_redirects()).map(|(host, _)| host)
    }

    /// Whether it has a rule for the host, and not only sends from there to another.
    pub(super) fn rules_host(&self, host: &HostPattern) -> bool {
        self.rules_of(host).iter().any(|(_, located)| !located.only_redirects())
    }

    /// The TLS blocks that list the host.
    pub(super) fn listing(&self, host: &HostPattern) -> impl Iterator<Item = &Tls> + use<'_> {
        let begin = self.listed.partition_point(|(other, _)| other < host);
        let length = self.listed[begin..].partition_point(|(other, _)| other == host);
        self.listed[begin..begin + length].iter().map(|(_, place)| &self.tls[*place])
    }

    /// The fields that name the host.
    pub(super) fn places(&self, host: &HostPattern) -> BTreeSet<String> {
        let within = |field: &str, inner: &str| match field.split_once(']') {
            Some((outer, _)) => format!("{outer}]{inner}"),
            None => field.to_owned(),
        };
        // A rule for all hosts says so by having no field.
        let inner = if *host == HostPattern::Any { "" } else { ".host" };
        let rules = self.rules_of(host).iter().map(|(_, located)| within(&located.field.to_string(), inner));
        let alias = self.aliases.contains(host).then(|| annotations::field(ALIAS));
        let listed = self.listing(host).map(|tls| within(&tls.field.to_string(), ".hosts"));
        let all: BTreeSet<String> = rules.chain(listed).chain(alias).collect();
        // The default backend names no host but through other fields, if there are any.
        let named: BTreeSet<String> = all.iter().filter(|field| field.contains(']')).cloned().collect();
        if named.is_empty() || *host == HostPattern::Any { all } else { named }
    }

    /// The first field that names the backend.
    pub(super) fn field_of(&self, key: &BackendKey) -> Field {
        let backends = self.backends();
        let at = backends.binary_search_by(|(other, _)| other.cmp(key));
        backends[at.expect("it is asked of those that name it")].1
    }

    /// Each backend, and the first field that names it; sorted.
    pub(super) fn backends(&self) -> Cow<'_, [(BackendKey, Field)]> {
        if self.named.is_empty() { self.backends_of_rules().into() } else { Cow::Borrowed(&self.named) }
    }

    fn backends_of_rules(&self) -> Vec<(BackendKey, Field)> {
        let of_rule = |(_, located): &(HostPattern, Located)| {
            let field = located.field;
            let keys = located.rule.backends.iter().flat_map(|to| [Some(&to.backend), to.secure.as_deref()]);
            keys.flatten().map(|key| (key.clone(), field)).collect::<Vec<_>>()
        };
        let mut all: Vec<_> = self.rules.iter().flat_map(of_rule).collect();
        all.sort();
        all.dedup_by(|(later, _), (first, _)| later == first);
        all
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

    fn warning(&mut self, field: impl Into<String>, what: impl Into<String>, fix: impl Into<String>) {
        self.warnings.push(Problem::new(ObjectRef::new(Kind::Ingress, &self.name), field, what, fix));
    }

    fn host(&mut self, text: &Arc<str>, field: String) -> Option<HostPattern> {
        match HostPattern::parse(text) {
            // Written as it is meant, as most are: one text for both.
            Ok(HostPattern::Exact(name)) if name == *text => Some(HostPattern::Exact(text.clone())),
            Ok(host) => Some(host),
            Err(InvalidHost { what, fix }) => {
                self.problem(field, what, fix);
                None
            }
        }
    }

    fn path(&mut self, host: &HostPattern, path: &IngressPath, behaviour: &Behaviour, field: Field) {
        let read = match paths::read(path, &behaviour.paths) {
            Ok(read) => read,
            Err((inner, what, fix)) => return self.unread_path(host, path, behaviour, field, (inner, what, fix)),
        };
        for (key, number) in read.pattern.iter().flat_map(|pattern| behaviour.paths.missing_groups(pattern)) {
            let what = format!("`${number}` stands for nothing: path `{}` has fewer groups", read.matched.value);
            self.warning(annotations::field(key), what, "put in parentheses what it is to stand for");
        }
        let backend = self.backend(&path.backend, behaviour, field);
        self.rule(host.clone(), Some(read), backend, behaviour, field);
    }

    /// A path that can't be read has no rule. If somebody is kept out of it, no other rule may let him in: what begins
    /// as it is written gets 503.
    fn unread_path(
        &mut self,
        host: &HostPattern,
        path: &IngressPath,
        behaviour: &Behaviour,
        field: Field,
        (inner, what, fix): paths::NoPath,
    ) {
        let inner = format!("{field}.{inner}");
        if self.is_canary || !self.restricts {
            return self.problem(inner, what, fix);
        }
        let ReadPath { matched, pattern, written } = paths::unread(path, &behaviour.paths);
        let fix = format!("{fix}; access is restricted there, so requests for what begins like it get 503");
        self.problem(inner, what, fix);
        let rule = Rule { pattern, ..Rule::new(self.name.clone(), Some(matched)) };
        self.rules.push((host.clone(), Located { rule: Arc::new(rule), field, holds: false, written }));
    }

    fn backend(&mut self, backend: &BackendSpec, behaviour: &Behaviour, field: Field) -> Option<BackendKey> {
        match backend {
            BackendSpec::Service { name, port } => {
                let service = ObjectName { namespace: self.name.namespace.clone(), name: name.clone() };
                let key = BackendKey { service, port: port.clone(), options: behaviour.options.clone() };
                if let Some(options) = &behaviour.secure_options {
                    let secure = BackendKey { options: Some(options.clone()), ..key.clone() };
                    self.named.push((secure, field));
                }
                self.named.push((key.clone(), field));
                Some(key)
            }
            BackendSpec::Unusable { field: inner, what } => {
                let fix = "name a Service and one of its ports; requests get 503";
                self.problem(format!("{}.{inner}", field.backend()), &**what, fix);
                None
            }
        }
    }

    /// The default backend takes what is left over of each host that the Ingress names, and of all hosts that
    /// nobody names.
    fn default_backend(&mut self, ingress: &Ingress, backend: &BackendSpec, behaviour: &Behaviour) {
        let field = Field::DefaultBackend;
        let key = self.backend(backend, behaviour, field);
        let mut hosts: BTreeSet<HostPattern> =
            ingress.rules.iter().filter_map(|rule| HostPattern::parse(&rule.host).ok()).collect();
        hosts.insert(HostPattern::Any);
        for host in hosts {
            self.rule(host, None, key.clone(), behaviour, field);
        }
    }

    /// A rule whose backend can't be used keeps its place: its requests get 503, and not another rule's answer. So do
    /// those of a rule that would be open to somebody whom an annotation wants kept out, but can't.
    fn rule(
        &mut self,
        host: HostPattern,
        path: Option<ReadPath>,
        backend: Option<BackendKey>,
        behaviour: &Behaviour,
        field: Field,
    ) {
        let open = backend.filter(|_| !behaviour.closed);
        let (path, pattern, written) = match path {
            Some(ReadPath { matched, pattern, written }) => (Some(matched), pattern, written),
            // What hosts nobody names get is no host's affair.
            None => (None, None, Written::none(behaviour.paths.use_regex && host != HostPattern::Any)),
        };
        let rewrite = pattern.as_ref().and_then(|pattern| behaviour.paths.rewrite(pattern));
        let mut filters: ThinVec<Filter> = behaviour.filters.iter().cloned().chain(rewrite).collect();
        filters.sort_by_key(Filter::phase);
        if behaviour.closed {
            filters.clear();
        }
        let backends: Vec<_> = open.into_iter().map(|backend| behaviour.send_to(backend)).collect();
        let canary = behaviour.alternative.as_ref().map(|alternative| Canary {
            source: self.name.clone(),
            choice: alternative.choice.clone(),
            backends: backends.clone(),
            sticky: alternative.sticky,
        });
        let rule = Rule {
            source: self.name.clone(),
            backends,
            filters,
            affinity: behaviour.sessions.as_ref().map(|sessions| Box::new(sessions.of(path.as_ref()))),
            forwarding: behaviour.forwarding.clone().filter(|_| !behaviour.closed),
            canary: canary.map(Box::new),
            hash_by: behaviour.hash_by.clone().map(Box::new),
            priority: behaviour.priority,
            path,
            pattern,
        };
        self.rules.push((host, Located { rule: Arc::new(rule), field, holds: false, written }));
    }

    /// The host with or without `www.` sends to this one, if nobody has a rule for it.
    fn redirect_www(&mut self, behaviour: &Behaviour, settings: &Settings) {
        if !behaviour.https.www {
            return;
        }
        let mut others: BTreeMap<HostPattern, (Box<str>, Field)> = BTreeMap::new();
        for (host, located) in &self.rules {
            let HostPattern::Exact(name) = host else { continue };
            let other = name.strip_prefix("www.").map_or_else(|| format!("www.{name}"), str::to_owned);
            others.entry(HostPattern::Exact(other.into())).or_insert_with(|| ((**name).into(), located.field));
        }
        for (other, (name, field)) in others {
            let redirect = Redirect { to: RedirectTarget::Host(name), status: settings.redirect_status };
            let mut rule = Rule::new(self.name.clone(), None);
            rule.filters.push(Filter::Redirect(redirect));
            self.rules
                .push((other, Located { rule: Arc::new(rule), field, holds: true, written: Written::none(false) }));
        }
    }

    fn read_annotations(&mut self, ingress: &Ingress, resources: &Resources, settings: &Settings) -> Behaviour {
        let annotations::Read { behaviour, references, problems, warnings } =
            annotations::read(ingress, resources, settings);
        self.references = references.into_iter().collect();
        self.clients = behaviour.clients.clone();
        self.backend_tls.clone_from(&behaviour.backend_tls);
        // A canary's backends know the sessions of the Ingress that it is the alternative of.
        self.is_canary = behaviour.alternative.is_some();
        self.restricts = behaviour.restricts();
        self.affinity = behaviour.sessions.is_some() || behaviour.alternative.is_some();
        self.https = behaviour.https;
        self.aliases = behaviour.aliases.iter().cloned().collect();
        self.problems.extend(problems);
        self.warnings.extend(warnings);
        if let Some(default) = behaviour.forwarding.as_ref().and_then(|forwarding| forwarding.default_backend.as_ref())
        {
            self.named.push((default.backend.clone(), Field::ErrorBackend));
        }
        behaviour
    }

    fn read_tls(&mut self, ingress: &Ingress) {
        for (index, tls) in (0..).zip(&ingress.tls) {
            let field = Field::Tls(index);
            let hosts: Vec<_> = tls
                .hosts
                .iter()
                .enumerate()
                .filter_map(|(index, host)| self.host(host, format!("{field}.hosts[{index}]")))
                .collect();
            // Without a secretName TLS ends with the default certificate; with hosts of which none can be read, the
            // block must not spread to other hosts.
            let Some(secret) = &tls.secret else {
                self.speaks_tls.extend(hosts);
                continue;
            };
            if hosts.is_empty() && !tls.hosts.is_empty() {
                continue;
            }
            let secret = ObjectName { namespace: self.name.namespace.clone(), name: (**secret).into() };
            let place = self.tls.len();
            self.tls.push(Tls { by_names: hosts.is_empty(), secret, field });
            self.listed.extend(hosts.into_iter().map(|host| (host, place)));
        }
        self.listed.sort();
        self.listed.dedup();
        self.listed.shrink_to_fit();
    }
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
    Some(Problem::new(ObjectRef::new(Kind::Ingress, &parts.name), tls.field.secret(), what, fix))
}
