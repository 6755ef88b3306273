//! More names for a host (`server-alias`). An alias has the rules of a host that its Ingress names: all of them, also
//! those of other Ingresses. It claims nothing: a rule's host goes before, and where hosts have owners it needs the
//! owner's leave like any other. Of two Ingresses the older one has it.

use std::collections::BTreeSet;

use super::Translator;
use super::annotations;
use super::few::Few;
use super::ingress::Parts;
use super::ownership::claims;
use super::problem::{Kind, ObjectRef, Problem};
use crate::model::{HostPattern, ObjectName};

/// The key.
pub(super) const ALIAS: &str = "server-alias";

impl Translator {
    /// The aliases of whoever names one of these hosts.
    pub(super) fn aliases_of(&self, hosts: &BTreeSet<HostPattern>) -> Vec<HostPattern> {
        if self.by_alias.is_empty() {
            return Vec::new();
        }
        let claims = hosts.iter().filter_map(|host| self.by_host.get(host)).flat_map(Few::iter);
        claims.flat_map(|(_, name)| &self.ingresses[name].aliases).cloned().collect()
    }

    /// The host whose rules this one has too, as an alias; `named` are those that name it.
    pub(super) fn alias_of(
        &self,
        alias: &HostPattern,
        named: &[&Parts],
        problems: &mut Vec<Problem>,
    ) -> Option<HostPattern> {
        let owner = self.owner(alias);
        let ruler = named.iter().find(|parts| parts.rules_host(alias));
        let mut winner: Option<(&Parts, &HostPattern)> = None;
        for (_, name) in self.by_alias.get(alias).into_iter().flat_map(Few::iter) {
            let parts = &self.ingresses[name];
            if parts.rules_host(alias) {
                continue;
            }
            if let Some(owner) = owner.as_ref().filter(|owner| !owner.admits(name)) {
                problems.extend(owner.refusals(alias, parts));
                continue;
            }
            if let Some(ruler) = ruler {
                problems.push(taken(alias, parts, &format!("Ingress {}, which has a rule for it", ruler.name)));
                continue;
            }
            // Where its own hosts are all somebody else's, that is said already.
            let Some(host) = self.first_host(parts) else { continue };
            match winner {
                None => winner = Some((parts, host)),
                Some((_, first)) if first == host => {}
                Some((winner, _)) => {
                    problems.push(taken(alias, parts, &format!("Ingress {}, whose alias it is", winner.name)));
                }
            }
        }
        winner.map(|(_, host)| host.clone())
    }

    /// What of a candidate's aliases others have, for the admission webhook: what they have stays theirs, however old
    /// the candidate is.
    pub(super) fn taken_aliases(&self, parts: &Parts) -> Vec<Problem> {
        let mut problems = Vec::new();
        for alias in parts.aliases.iter().filter(|alias| !parts.rules_host(alias)) {
            if let Some(owner) = self.owner(alias).filter(|owner| !owner.admits(&parts.name)) {
                problems.extend(owner.refusals(alias, parts));
                continue;
            }
            let (named, _) = self.admitted(alias);
            let mut named = named.into_iter().filter(|other| other.name != parts.name);
            // An alias claims nothing: whoever names the host leaves none to those of other namespaces.
            let is_owned = self.owner(alias).is_some() || self.settings.strict_host_ownership && claims(parts, alias);
            let stays = |name: &ObjectName| !is_owned || name.namespace == parts.name.namespace;
            let others = self.by_alias.get(alias).into_iter().flat_map(Few::iter);
            let mut others = others.filter(|(_, name)| *name != parts.name && stays(name));
            let by = if let Some(ruler) = named.find(|other| other.rules_host(alias)) {
                format!("Ingress {}, which has a rule for it", ruler.name)
            } else if let Some((_, other)) = others.find(|(_, name)| {
                // Whose own hosts are all somebody else's, to him that is said already.
                let hosts = (self.first_host(&self.ingresses[name]), self.first_host(parts));
                matches!(hosts, (Some(other), Some(own)) if other != own)
            }) {
                format!("Ingress {other}, whose alias it is")
            } else {
                continue;
            };
            problems.push(taken(alias, parts, &by));
        }
        problems
    }

    fn first_host<'a>(&self, parts: &'a Parts) -> Option<&'a HostPattern> {
        let admitted = |host: &&HostPattern| self.owner(host).is_none_or(|owner| owner.admits(&parts.name));
        parts.named_hosts().find(admitted)
    }
}

fn taken(alias: &HostPattern, parts: &Parts, by: &str) -> Problem {
    let object = ObjectRef::new(Kind::Ingress, &parts.name);
    let what = format!("host `{alias}` belongs to {by}");
    Problem::new(object, annotations::field(ALIAS), what, "take the name out here, or the other one there")
}
