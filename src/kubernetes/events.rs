//! Events on users' objects: a Warning for every Problem, and `Normal Sync` when an Ingress is live. Each has a
//! name that its text decides, so that the same Event again is counted and not written anew, whoever leads.

use std::collections::{BTreeSet, HashSet};
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ObjectReference, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::json;
use siphasher::sip::SipHasher13;
use tokio::sync::{Notify, watch};

use crate::model::ObjectName;
use crate::translate::{Kind, ObjectRef, Problem};

/// Least time between two writes: 20 a second.
const PACE: Duration = Duration::from_millis(50);
/// What could not be written is tried again after this long.
const AGAIN: Duration = Duration::from_secs(10);
/// Within this time after a leader is gone another one leads.
const SUCCESSION: Duration = Duration::from_secs(60);
/// Longest note (events.k8s.io/v1), in bytes.
const NOTE_MAX: usize = 1024;
/// Longest action, in bytes.
const ACTION_MAX: usize = 128;
/// Most Problems with an Event; a cluster with more is told by log and metrics.
const PROBLEMS_MAX: usize = 10_000;

/// All that is wrong now; the same list as long as that doesn't change.
pub type Problems = Rc<dyn Fn() -> Rc<[Problem]>>;
/// The Ingresses that became live since the last call.
pub type Live = Rc<dyn Fn() -> BTreeSet<ObjectName>>;

/// Who writes.
#[derive(Debug, Clone)]
pub struct Reporter {
    pub controller: String,
    pub instance: String,
}

/// Writes Events while this replica leads, until the process ends.
pub async fn write(
    client: Client,
    reporter: Reporter,
    mut leader: watch::Receiver<bool>,
    changed: Rc<Notify>,
    problems: Problems,
    live: Live,
) {
    let mut warnings = Warnings::default();
    let mut waiting: Vec<(Instant, BTreeSet<ObjectName>)> = Vec::new();
    loop {
        waiting.push((Instant::now(), live()));
        // A replica that doesn't lead stays silent, and speaks of all that is wrong when it does; what became live
        // longer ago has been told by another.
        waiting.retain(|(since, ingresses)| since.elapsed() < SUCCESSION && !ingresses.is_empty());
        if *leader.borrow_and_update() {
            let live: BTreeSet<ObjectName> = waiting.drain(..).flat_map(|(_, ingresses)| ingresses).collect();
            let news = warnings.news(&problems()).into_iter().chain(live.iter().map(Note::of_sync));
            publish_all(&client, &reporter, &leader, news.collect(), &mut warnings.told).await;
        } else {
            warnings = Warnings::default();
        }
        let wait = async {
            tokio::select! {
                () = changed.notified() => {}
                _ = leader.changed() => {}
            }
        };
        let _ = tokio::time::timeout(AGAIN, wait).await;
    }
}

async fn publish_all(
    client: &Client,
    reporter: &Reporter,
    leader: &watch::Receiver<bool>,
    notes: Vec<Note>,
    told: &mut HashSet<u64>,
) {
    let mut away = false;
    for note in notes {
        // What isn't told now is news the next time.
        if away || !*leader.borrow() {
            told.remove(&note.hash);
            continue;
        }
        if let Err(error) = publish(client, reporter, &note).await {
            tracing::debug!(object = %note.object, %error, "an Event can't be written");
            away = !matches!(&error, kube::Error::Api(status) if status.code < 500);
            if away {
                told.remove(&note.hash);
            }
        }
        tokio::time::sleep(PACE).await;
    }
}

/// One Event to write.
struct Note {
    object: ObjectRef,
    kind: &'static str,
    reason: &'static str,
    action: String,
    text: String,
    hash: u64,
}

/// What is wrong, and what of it has been told.
#[derive(Default)]
struct Warnings {
    problems: Option<Rc<[Problem]>>,
    /// Of each problem, the hash of its note.
    hashes: Vec<u64>,
    /// How many of them are different.
    all: usize,
    told: HashSet<u64>,
}

impl Warnings {
    /// What has not been told yet. Problems that are gone are forgotten: they are news when they come back. Nothing is
    /// looked through as long as there is nothing new in it: changes come by the hundred, and so may problems.
    fn news(&mut self, problems: &Rc<[Problem]>) -> Vec<Note> {
        let Self { problems: known, hashes, all, told } = self;
        if known.as_ref().is_none_or(|known| !Rc::ptr_eq(known, problems)) {
            *hashes = problems.iter().take(PROBLEMS_MAX).map(|problem| Note::of_problem(problem).hash).collect();
            let now: HashSet<u64> = hashes.iter().copied().collect();
            told.retain(|hash| now.contains(hash));
            (*all, *known) = (now.len(), Some(problems.clone()));
        }
        if told.len() == *all {
            return Vec::new();
        }
        let fresh = hashes.iter().zip(&**problems).filter(|(hash, _)| told.insert(**hash));
        fresh.map(|(_, problem)| Note::of_problem(problem)).collect()
    }
}

impl Note {
    fn of_problem(problem: &Problem) -> Self {
        let Problem { object, field, what, fix } = problem;
        let text = cut(&format!("{field}: {what}; {fix}"), NOTE_MAX);
        let hash = hash(object, &text);
        let action = cut(if field.is_empty() { "Translate" } else { field }, ACTION_MAX);
        Self { object: object.clone(), kind: "Warning", reason: "Problem", action, text, hash }
    }

    fn of_sync(ingress: &ObjectName) -> Self {
        let object = ObjectRef::new(Kind::Ingress, ingress);
        let text = "its routes are live".to_owned();
        let hash = hash(&object, &text);
        Self { object, kind: "Normal", reason: "Sync", action: "Publish".to_owned(), text, hash }
    }

    /// `name.hash`, within the length of a name.
    fn name(&self, uid: &str) -> String {
        format!("{}.{:016x}", cut(&self.object.name.name, 200), hash(uid, self.hash))
    }
}

/// The same in every replica and at every start.
fn hash(first: impl Hash, second: impl Hash) -> u64 {
    let mut hasher = SipHasher13::new();
    first.hash(&mut hasher);
    second.hash(&mut hasher);
    hasher.finish()
}

fn cut(text: &str, most: usize) -> String {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

async fn publish(client: &Client, reporter: &Reporter, note: &Note) -> kube::Result<()> {
    // An object that isn't there, such as a Secret that is missed, can't have Events; its referrers have theirs.
    let Some(regarding) = reference(client, &note.object).await? else { return Ok(()) };
    let namespace = if note.object.name.namespace.is_empty() { "default" } else { &*note.object.name.namespace };
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    let name = note.name(regarding.uid.as_deref().unwrap_or_default());
    let now = MicroTime(Timestamp::now());
    let event = Event {
        metadata: ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() },
        type_: Some(note.kind.to_owned()),
        reason: Some(note.reason.to_owned()),
        action: Some(note.action.clone()),
        note: Some(note.text.clone()),
        regarding: Some(regarding),
        reporting_controller: Some(reporter.controller.clone()),
        reporting_instance: Some(cut(&reporter.instance, 128)),
        event_time: Some(now.clone()),
        ..Event::default()
    };
    match api.create(&PostParams::default(), &event).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        created => return created.map(drop),
    }
    let known = api.get(&name).await?;
    let count = known.series.map_or(1, |series| series.count).saturating_add(1);
    let series = json!({ "series": { "count": count, "lastObservedTime": now } });
    api.patch(&name, &PatchParams::default(), &Patch::Merge(series)).await.map(drop)
}

/// The object as an Event refers to it, with the uid that `kubectl describe` asks for.
async fn reference(client: &Client, object: &ObjectRef) -> kube::Result<Option<ObjectReference>> {
    match object.kind {
        Kind::Ingress => namespaced::<Ingress>(client, object).await,
        Kind::IngressClass => cluster::<IngressClass>(client, object).await,
        Kind::Service => namespaced::<Service>(client, object).await,
        Kind::EndpointSlice => namespaced::<EndpointSlice>(client, object).await,
        Kind::Secret => namespaced::<Secret>(client, object).await,
        Kind::ConfigMap => namespaced::<ConfigMap>(client, object).await,
        Kind::Namespace => cluster::<Namespace>(client, object).await,
    }
}

async fn namespaced<K>(client: &Client, object: &ObjectRef) -> kube::Result<Option<ObjectReference>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned,
{
    refer(&Api::<K>::namespaced(client.clone(), &object.name.namespace), object).await
}

async fn cluster<K>(client: &Client, object: &ObjectRef) -> kube::Result<Option<ObjectReference>>
where
    K: Resource<DynamicType = (), Scope = ClusterResourceScope> + Clone + std::fmt::Debug + DeserializeOwned,
{
    refer(&Api::<K>::all(client.clone()), object).await
}

async fn refer<K>(api: &Api<K>, object: &ObjectRef) -> kube::Result<Option<ObjectReference>>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let found = api.get_metadata_opt(&object.name.name).await?;
    Ok(found.map(|found| ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        namespace: found.metadata.namespace,
        name: found.metadata.name,
        uid: found.metadata.uid,
        resource_version: found.metadata.resource_version,
        ..ObjectReference::default()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(field: &str) -> Problem {
        Problem::new(ObjectRef::new(Kind::Ingress, &ObjectName::new("a", "b")), field, "is wrong", "mend it")
    }

    #[test]
    fn a_problem_is_told_once_and_again_when_it_comes_back() {
        let mut warnings = Warnings::default();
        let mut count = |problems: &Rc<[Problem]>| warnings.news(problems).len();
        let both: Rc<[Problem]> = Rc::from([problem("x"), problem("y"), problem("x")]);
        assert_eq!((count(&both), count(&both)), (2, 0));
        assert_eq!(count(&Rc::from([problem("x"), problem("y")])), 0);
        assert_eq!(count(&Rc::from([problem("y")])), 0);
        assert_eq!((count(&both), count(&both)), (1, 0));
        // What could not be told is told again, though nothing has changed.
        let hash = Note::of_problem(&both[0]).hash;
        assert!(warnings.told.remove(&hash));
        assert_eq!(warnings.news(&both).len(), 1);
    }

    #[test]
    fn texts_keep_to_their_limits() {
        let long = "é".repeat(2000);
        let note = Note::of_problem(&problem(&long));
        assert!(note.text.len() <= NOTE_MAX && note.action.len() <= ACTION_MAX && note.action.len() > 100);
        assert_eq!(note.name("uid"), note.name("uid"));
        assert_ne!(note.name("uid"), note.name("another"));
    }
}
