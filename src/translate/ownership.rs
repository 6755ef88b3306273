//! Whose is a host, with `--strict-host-ownership`: that namespace's whose Ingress is the oldest to name it. A
//! wildcard in a rule claims the names that it takes, which are those one label below it; one that stands only
//! in a TLS block claims itself, as tenants of one domain each list the domain's wildcard. What names no host
//! claims what nobody names, and no more. Ingresses of other namespaces are refused for the host, and for no
//! other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::ingress::Parts;
use super::problem::{Kind, ObjectRef, Problem};
use crate::model::{HostPattern, ObjectName};

/// When an Ingress was made, and its name: the order in which Ingresses have what they claim.
pub(super) type Claim = (Option<i64>, ObjectName);

/// The wildcards in rules, and the exact hosts that they take. Kept by the name behind the star.
#[derive(Debug, Default)]
pub(super) struct Wildcards {
    claims: BTreeMap<Arc<str>, BTreeSet<Claim>>,
    below: BTreeMap<Arc<str>, BTreeSet<HostPattern>>,
}

/// The oldest claim of each wildcard that an update touches, as it was before.
pub(super) type Before = BTreeMap<Arc<str>, Option<Claim>>;

/// Who has a host.
pub(super) struct Owner<'a> {
    pub(super) claim: &'a Claim,
    /// By its wildcard above the host.
    above: bool,
}

impl Wildcards {
    /// Enters what the Ingress claims, or takes it out.
    pub(super) fn index(&mut self, parts: &Parts, present: bool, before: &mut Before) {
        for host in parts.hosts().into_iter().chain(parts.aliases.iter().cloned()) {
            match &host {
                HostPattern::Exact(name) if present => {
                    let Some((_, rest)) = name.split_once('.') else { continue };
                    self.below.entry(rest.into()).or_default().insert(host);
                }
                HostPattern::Wildcard(rest) if !parts.rules_of(&host).is_empty() => {
                    let claims = self.claims.entry(rest.clone()).or_default();
                    before.entry(rest.clone()).or_insert_with(|| claims.first().cloned());
                    if present {
                        claims.insert(parts.age())
                    } else {
                        claims.remove(&parts.age())
                    };
                    if claims.is_empty() {
                        self.claims.remove(rest);
                    }
                }
                HostPattern::Exact(_) | HostPattern::Wildcard(_) | HostPattern::Any => {}
            }
        }
    }

    /// Nobody names the host any more.
    pub(super) fn forget(&mut self, host: &HostPattern) {
        let HostPattern::Exact(name) = host else { return };
        let Some((_, rest)) = name.split_once('.') else { return };
        if let Some(hosts) = self.below.get_mut(rest) {
            hosts.remove(host);
            if hosts.is_empty() {
                self.below.remove(rest);
            }
        }
    }

    /// The hosts below wildcards whose oldest claim is another one now.
    pub(super) fn moved(&self, before: &Before) -> impl Iterator<Item = &HostPattern> {
        let other = before.iter().filter(|(rest, before)| self.oldest(rest) != before.as_ref());
        other.flat_map(|(rest, _)| self.below(rest))
    }

    /// The exact hosts that somebody names, one label below.
    pub(super) fn below(&self, rest: &str) -> impl Iterator<Item = &HostPattern> {
        self.below.get(rest).into_iter().flatten()
    }

    fn oldest(&self, rest: &str) -> Option<&Claim> {
        self.claims.get(rest)?.first()
    }

    /// Who has the host, among those that name it and those that have a wildcard above it.
    pub(super) fn owner<'a>(&'a self, host: &HostPattern, named: Option<&'a Claim>) -> Option<Owner<'a>> {
        let above = match host {
            HostPattern::Exact(name) => name.split_once('.').and_then(|(_, rest)| self.oldest(rest)),
            HostPattern::Wildcard(_) | HostPattern::Any => None,
        };
        match (named, above) {
            (Some(named), Some(above)) if above < named => Some(Owner { claim: above, above: true }),
            (Some(named), _) => Some(Owner { claim: named, above: false }),
            (None, Some(above)) => Some(Owner { claim: above, above: true }),
            (None, None) => None,
        }
    }
}

/// Whether an Ingress claims the host, by its name or by a wildcard above it.
pub(super) fn claims(parts: &Parts, host: &HostPattern) -> bool {
    let above = match host {
        HostPattern::Exact(name) => name.split_once('.').map(|(_, rest)| HostPattern::Wildcard(rest.into())),
        HostPattern::Wildcard(_) | HostPattern::Any => None,
    };
    parts.hosts().contains(host) || above.is_some_and(|above| !parts.rules_of(&above).is_empty())
}

impl Owner<'_> {
    pub(super) fn admits(&self, ingress: &ObjectName) -> bool {
        self.claim.1.namespace == ingress.namespace
    }

    /// What to say to an Ingress of another namespace, at each place where it names the host.
    pub(super) fn refusals(&self, host: &HostPattern, parts: &Parts) -> Vec<Problem> {
        let owner = &self.claim.1;
        let (by, fix) = match (self.above, host) {
            (true, _) => ("whose wildcard takes it", "take the host out, or have that namespace give it up"),
            (false, HostPattern::Any) => {
                ("which is the oldest to take what nobody names", "write rules with hosts of your own")
            }
            (false, HostPattern::Exact(_) | HostPattern::Wildcard(_)) => {
                ("which is the oldest to name it", "take the host out, or have that namespace give it up")
            }
        };
        let what = format!("host `{host}` belongs to namespace `{}`: to Ingress {owner}, {by}", owner.namespace);
        let fix = format!("{fix}; --strict-host-ownership is on");
        let object = ObjectRef::new(Kind::Ingress, &parts.name);
        let places = parts.places(host).into_iter();
        places.map(|field| Problem::new(object.clone(), field, what.clone(), fix.clone())).collect()
    }
}
