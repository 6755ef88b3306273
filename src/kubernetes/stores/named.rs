//! What annotations name: a watch for each Secret or ConfigMap, which begins and ends with the annotations, so that
//! none that nobody asked for is read. Secrets of the type `kubernetes.io/tls` have their own watch, and these here
//! never ask for that type: no object is known to two watches, and what one of them doesn't list is gone for it alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::stream::AbortHandle;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use super::{Covers, Stores, config, secret};
use crate::translate::{Kind, ObjectRef, Resources};

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

    /// Whether a named object may arrive any moment, so that a table without it would be one that nobody meant. A
    /// watch that is refused is not waited for, and none for long.
    pub fn awaits(&self, at_first: bool) -> bool {
        let limit = if at_first { AWAITED_AT_FIRST_MAX } else { AWAITED_MAX };
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
            Kind::ConfigMap => self
                .watch_one::<ConfigMap>(&client, object.kind, covers, config().fields(&one), |map| Some(map.into()))
                .into(),
            Kind::Ingress | Kind::IngressClass | Kind::Service | Kind::EndpointSlice | Kind::Namespace => None,
        }
    }
}
