//! What annotations name: a watch for each Secret or ConfigMap, which begins and ends with the annotations, so that
//! none that nobody asked for is read. Secrets of the type `kubernetes.io/tls` have their own watch, and these here
//! never ask for that type: no object is known to two watches, and what one of them doesn't list is gone for it alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::stream::AbortHandle;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use super::{Covers, Stores, config, secret};
use crate::translate::{Kind, Object, ObjectRef, Resources};

/// Most objects that are watched by name: each watch is a request that the API server keeps open.
const NAMED_MAX: usize = 1000;
/// How long a table waits for a watch that has begun …
const AWAITED_MAX: Duration = Duration::from_secs(1);
/// … and the first table.
const AWAITED_AT_FIRST_MAX: Duration = Duration::from_secs(30);
/// The Secrets that the watch of certificates is not about.
const OTHER_TYPES: &str = "type!=kubernetes.io/tls";

/// The watches of named objects.
#[derive(Debug, Default)]
pub(super) struct Named {
    /// By the number of their source.
    all: BTreeMap<ObjectRef, u64>,
    /// There are more objects than may be watched, and somebody has been told.
    exceeded: bool,
}

/// How a watch of a named object ends, and since when it has been waited for.
#[derive(Debug)]
pub(super) struct Follows {
    end: AbortHandle,
    begun: Instant,
}

impl Drop for Follows {
    fn drop(&mut self) {
        self.end.abort();
    }
}

impl Follows {
    pub(super) fn new(end: AbortHandle) -> Self {
        Self { end, begun: Instant::now() }
    }
}

impl Stores {
    /// Watches these objects from now on, as far as they are in reach, and no others by name.
    pub fn follow<'a>(&mut self, wanted: impl Iterator<Item = &'a ObjectRef>, resources: &mut Resources) {
        let wanted: BTreeSet<&ObjectRef> = wanted.filter(|object| self.is_in_reach(object)).collect();
        let ended: Vec<ObjectRef> = self.named.all.keys().filter(|object| !wanted.contains(object)).cloned().collect();
        for object in ended {
            let source = self.named.all.remove(&object).and_then(|number| self.sources.remove(&number));
            if source.is_some_and(|source| source.is_about(&object.name, resources)) {
                resources.remove(&object);
            }
        }
        let mut left_out = 0;
        for object in wanted {
            if self.named.all.contains_key(object) {
                continue;
            }
            if self.named.all.len() == NAMED_MAX {
                left_out += 1;
                continue;
            }
            if let Some(number) = self.begin(object) {
                self.named.all.insert(object.clone(), number);
            }
        }
        if left_out > 0 && !self.named.exceeded {
            let limit = NAMED_MAX;
            tracing::warn!(
                limit,
                left_out,
                "annotations name more Secrets and ConfigMaps than are watched; the rest counts as missing"
            );
        }
        self.named.exceeded = left_out > 0;
    }

    /// How long anybody waits for watches that have just begun, however many there are one after the other.
    pub fn awaited_max(at_first: bool) -> Duration {
        if at_first { AWAITED_AT_FIRST_MAX } else { AWAITED_MAX }
    }

    /// Whether a named object may arrive any moment, so that a table without it would be one that nobody meant. A
    /// watch that is refused is not waited for, and none for long.
    pub fn awaits(&self, at_first: bool) -> bool {
        let limit = Self::awaited_max(at_first);
        self.sources.values().any(|source| {
            let refused = source.failure.as_ref().is_some_and(|failure| failure.refused);
            !source.synced && !refused && source.follows.as_ref().is_some_and(|follows| follows.begun.elapsed() < limit)
        })
    }

    /// Whether it is in a namespace that is watched, and is not the operator's, which is watched anyhow.
    fn is_in_reach(&self, object: &ObjectRef) -> bool {
        let settings = object.kind == Kind::ConfigMap && self.scope.config_map.as_ref() == Some(&object.name);
        self.scope.covers(&object.name) && !settings
    }

    fn begin(&mut self, object: &ObjectRef) -> Option<u64> {
        let one = format!("metadata.name={}", object.name.name);
        let client = self.client.clone();
        let covers = Covers::Named(object.name.clone());
        match object.kind {
            Kind::Secret => {
                let fields = format!("{one},{OTHER_TYPES}");
                self.watch_one::<Secret>(&client, object.kind, covers, config().fields(&fields), secret).into()
            }
            Kind::ConfigMap => {
                self.watch_one::<ConfigMap>(&client, object.kind, covers, config().fields(&one), Object::from).into()
            }
            Kind::Ingress | Kind::IngressClass | Kind::Service | Kind::EndpointSlice | Kind::Namespace => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use kube::Client;
    use serde_json::{Value, json};

    use super::super::{Change, Scope, item};
    use super::*;
    use crate::model::ObjectName;

    /// Watches of a server that never answers: what arrives is what the test says.
    fn with_stores(scope: &Scope, test: impl FnOnce(Stores)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let silent = tower::service_fn(|_: http::Request<kube::client::Body>| {
                std::future::pending::<Result<http::Response<kube::client::Body>, Infallible>>()
            });
            test(Stores::new(&Client::new(silent, "default"), scope));
        });
    }

    fn read(kind: &str, data: &Value) -> Secret {
        let metadata = json!({ "namespace": "verona", "name": "users" });
        serde_json::from_value(json!({ "metadata": metadata, "type": kind, "stringData": data })).unwrap()
    }

    fn users(kind: Kind) -> ObjectRef {
        ObjectRef::new(kind, &ObjectName::new("verona", "users"))
    }

    fn number(stores: &Stores, kind: Kind, by_name: bool) -> u64 {
        let is_it = |source: &super::super::Source| source.kind == kind && source.follows.is_some() == by_name;
        *stores.sources.iter().find(|(_, source)| is_it(source)).unwrap().0
    }

    #[test]
    fn a_secret_that_becomes_another_type_is_known_to_one_watch_at_a_time() {
        let (tls, opaque) = ("kubernetes.io/tls", "Opaque");
        // Which watch tells first is chance.
        for (from, to) in [(tls, opaque), (opaque, tls)] {
            for removed_first in [true, false] {
                with_stores(&Scope::default(), |mut stores| {
                    let mut resources = Resources::default();
                    let wanted = users(Kind::Secret);
                    stores.follow([&wanted].into_iter(), &mut resources);
                    let watch = |kind: &str| number(&stores, Kind::Secret, kind != tls);
                    let (old, new) = (watch(from), watch(to));
                    let arrives = |kind| Change::Applied(item(read(kind, &json!({ "auth": "a" })), secret));
                    let is_there = |resources: &Resources| resources.names(Kind::Secret) == [wanted.name.clone()];
                    for watch in [old, new] {
                        stores.apply(watch, Change::ListBegins, &mut resources);
                        stores.apply(watch, Change::ListEnds, &mut resources);
                    }
                    stores.apply(old, arrives(from), &mut resources);
                    assert!(is_there(&resources));
                    let removal = Change::Removed(wanted.name.clone());
                    if removed_first {
                        stores.apply(old, removal, &mut resources);
                        assert!(!is_there(&resources));
                        stores.apply(new, arrives(to), &mut resources);
                    } else {
                        stores.apply(new, arrives(to), &mut resources);
                        stores.apply(old, removal, &mut resources);
                    }
                    assert!(is_there(&resources) && resources.has_tls_secret(&wanted.name) == (to == tls));
                    // A list of the one without it is no word about the other's.
                    stores.apply(old, Change::ListBegins, &mut resources);
                    stores.apply(old, Change::ListEnds, &mut resources);
                    assert!(is_there(&resources), "{from} to {to}");
                });
            }
        }
    }

    #[test]
    fn a_watch_lasts_as_long_as_somebody_names_its_object() {
        with_stores(&Scope::default(), |mut stores| {
            let mut resources = Resources::default();
            let watches = stores.sources.len();
            let (secret_wanted, map_wanted) = (users(Kind::Secret), users(Kind::ConfigMap));
            stores.follow([&secret_wanted, &map_wanted].into_iter(), &mut resources);
            assert_eq!((stores.sources.len(), stores.awaits(false)), (watches + 2, true));
            let number = number(&stores, Kind::Secret, true);
            let arrives = || Change::Applied(item(read("Opaque", &json!({ "auth": "a" })), secret));
            stores.apply(number, arrives(), &mut resources);
            stores.follow([&secret_wanted].into_iter(), &mut resources);
            assert_eq!((stores.sources.len(), resources.names(Kind::Secret).len()), (watches + 1, 1));
            stores.apply(number, Change::ListEnds, &mut resources);
            assert!(!stores.awaits(true), "it has listed");
            stores.follow([].into_iter(), &mut resources);
            stores.apply(number, arrives(), &mut resources);
            assert_eq!((stores.sources.len(), resources.names(Kind::Secret).len()), (watches, 0));
        });
    }

    #[test]
    fn what_is_refused_or_out_of_reach_or_too_much_is_not_waited_for() {
        let scope = Scope { namespaces: vec!["verona".to_owned()], ..Scope::default() };
        with_stores(&scope, |mut stores| {
            let mut resources = Resources::default();
            let watches = stores.sources.len();
            let elsewhere = ObjectRef::new(Kind::Secret, &ObjectName::new("capulet", "users"));
            stores.follow([&elsewhere].into_iter(), &mut resources);
            assert_eq!((stores.sources.len(), stores.awaits(true)), (watches, false));
            let wanted = users(Kind::ConfigMap);
            stores.follow([&wanted].into_iter(), &mut resources);
            let refusal = |refused| Change::Failed { why: "forbidden".to_owned(), refused };
            let number = number(&stores, Kind::ConfigMap, true);
            stores.apply(number, refusal(false), &mut resources);
            assert!(stores.awaits(true), "it is tried again");
            stores.apply(number, refusal(true), &mut resources);
            assert!(!stores.awaits(true));
            let name = |index| ObjectRef::new(Kind::Secret, &ObjectName::new("verona", &format!("s{index}")));
            let many: Vec<ObjectRef> = (0..NAMED_MAX + 5).map(name).collect();
            stores.follow(many.iter().rev(), &mut resources);
            assert_eq!(stores.sources.len(), watches + NAMED_MAX);
        });
    }
}
