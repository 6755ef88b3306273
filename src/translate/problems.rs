//! All that is wrong, kept by the part in which it was found: a change that finds nothing new costs nothing here,
//! however much is wrong elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use super::ingress::Parts;
use super::problem::Problem;
use crate::model::{BackendKey, HostPattern, ObjectName};

#[derive(Debug, Default)]
pub(super) struct Problems {
    /// The Ingresses that know of problems of their own.
    pub(super) troubled: BTreeSet<ObjectName>,
    hosts: BTreeMap<HostPattern, Vec<Problem>>,
    backends: BTreeMap<BackendKey, Vec<Problem>>,
    secrets: BTreeMap<ObjectName, Vec<Problem>>,
    settings: Vec<Problem>,
    /// They are what they were when they were last asked for.
    known: bool,
}

impl Problems {
    /// Takes up what an Ingress knows of itself. `after` is none if it is gone, or not ours.
    pub(super) fn of_ingress(&mut self, name: &ObjectName, before: Option<&Parts>, after: Option<&Parts>) {
        let known = |parts: Option<&Parts>| parts.is_some_and(|parts| !own(parts).is_empty());
        if known(after) {
            self.troubled.insert(name.clone());
        } else {
            self.troubled.remove(name);
        }
        self.known &= !(known(before) || known(after)) || before.map(own) == after.map(own);
    }

    pub(super) fn of_host(&mut self, host: &HostPattern, problems: Vec<Problem>) {
        self.known &= keep(&mut self.hosts, host, problems);
    }

    pub(super) fn of_backend(&mut self, key: &BackendKey, problems: Vec<Problem>) {
        self.known &= keep(&mut self.backends, key, problems);
    }

    pub(super) fn of_secret(&mut self, secret: &ObjectName, problems: Vec<Problem>) {
        self.known &= keep(&mut self.secrets, secret, problems);
    }

    pub(super) fn of_settings(&mut self, problems: Vec<Problem>) {
        self.known &= self.settings == problems;
        self.settings = problems;
    }

    /// Something that isn't kept here may make them others.
    pub(super) fn ask_again(&mut self) {
        self.known = false;
    }

    /// Whether they may be others than at the last call.
    pub(super) fn take_changed(&mut self) -> bool {
        !std::mem::replace(&mut self.known, true)
    }

    /// Those of hosts, backends, Secrets and settings.
    pub(super) fn of_others(&self) -> impl Iterator<Item = &Problem> {
        let Self { troubled: _, hosts, backends, secrets, settings, known: _ } = self;
        hosts.values().flatten().chain(backends.values().flatten()).chain(secrets.values().flatten()).chain(settings)
    }
}

/// What an Ingress knows of itself, first what takes something out of service.
pub(super) fn own(parts: &Parts) -> Vec<&Problem> {
    parts.problems.iter().chain(&parts.warnings).collect()
}

/// Says whether they are those of before.
fn keep<K: Ord + Clone>(all: &mut BTreeMap<K, Vec<Problem>>, key: &K, problems: Vec<Problem>) -> bool {
    if problems.is_empty() {
        return all.remove(key).is_none();
    }
    if all.get(key) == Some(&problems) {
        return true;
    }
    all.insert(key.clone(), problems);
    false
}
