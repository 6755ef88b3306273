//! The control side: one thread, which owns everything that makes tables. It follows a folder or a cluster,
//! translates what changed, publishes, and tells those who ask.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::admin::Standing;
use crate::clock::{Moment, unix_seconds};
use crate::file::{Finding, Folder, Watch};
use crate::kubernetes::controller::{Controller, Resignation, Sources, Writing};
use crate::kubernetes::status::Look;
use crate::kubernetes::{Client, Scope, Stores, snapshot};
use crate::metrics::Metrics;
use crate::model::{Changed, ObjectName};
use crate::resolve::{Names, Resolved};
use crate::table::Publisher;
use crate::translate::{Problem, Resources, Settings, Translator};
use crate::upstream::{Checker, SessionKey};

/// How often replaced tables are looked through, and the system's time is held against the clock that nobody sets.
const HOUSEKEEPING: Duration = Duration::from_millis(200);
/// How often certificates are looked at for their first and last day, and files that could not be read again.
const EXPIRY: Duration = Duration::from_secs(10);
/// How long the API server is waited for before the snapshot file is served.
const SNAPSHOT_AFTER: Duration = Duration::from_secs(5);
/// Least time between two writes of the snapshot file.
const SNAPSHOT_PACE: Duration = Duration::from_secs(10);
/// Most Ingresses whose status is looked at one by one; if more have changed, all are.
const CHANGED_MAX: usize = 1_000;

/// Where the objects come from.
pub enum Provider {
    Folder { folder: Folder, watch: Watch },
    Cluster(Box<Cluster>),
}

/// A cluster, and what is written back to it.
pub struct Cluster {
    stores: Stores,
    controller: Option<Controller>,
    snapshot: Option<Saving>,
    /// The Ingresses that became live and have no Event yet.
    live: Rc<RefCell<BTreeSet<ObjectName>>>,
    /// The Ingresses whose status may be another one, or should be; too many are as good as all.
    changed: Rc<RefCell<BTreeSet<ObjectName>>>,
}

/// The snapshot file, and whether it is behind.
struct Saving {
    path: PathBuf,
    behind: bool,
    saved: Option<Instant>,
}

pub struct Control {
    provider: Provider,
    pub resources: Rc<RefCell<Resources>>,
    pub translator: Rc<RefCell<Translator>>,
    pub publisher: Publisher,
    /// Who serves asks endpoints whether they are well; `None` for who doesn't.
    pub checker: Option<Checker>,
    /// Says how far the system's time is off, for the test of that.
    #[cfg(debug_assertions)]
    pub clock_shift_file: Option<PathBuf>,
    /// What time it was at the last look.
    moment: Moment,
    names: Names,
    resolved: mpsc::Receiver<Resolved>,
    pub problems: Rc<RefCell<Vec<Finding>>>,
    /// Of them, those of objects.
    told: Rc<RefCell<Rc<[Problem]>>>,
    metrics: Arc<Metrics>,
    /// The snapshot file is served, and the cluster has not been seen yet.
    from_snapshot: Cell<bool>,
    /// What is different from the table in use.
    unpublished: Changed,
    /// It waits for something that was asked for just now.
    waiting: bool,
    /// Since when nothing was published because of that.
    waiting_since: Option<Instant>,
    pub standing: Rc<RefCell<Standing>>,
}

impl Provider {
    /// A cluster as far as `scope` goes. With `writing`, status and Events are written to it.
    pub fn cluster(client: &Client, scope: &Scope, snapshot: Option<PathBuf>) -> Self {
        Self::Cluster(Box::new(Cluster {
            stores: Stores::new(client, scope),
            controller: None,
            snapshot: snapshot.map(|path| Saving { path, behind: false, saved: None }),
            live: Rc::default(),
            changed: Rc::default(),
        }))
    }
}

impl Control {
    pub fn new(
        settings: Settings,
        provider: Provider,
        name_server: Option<SocketAddr>,
        key: SessionKey,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (names, resolved) = Names::new(name_server, metrics.clone());
        let outliers = settings.outliers;
        Self {
            provider,
            resources: Rc::default(),
            translator: Rc::new(RefCell::new(Translator::new(settings))),
            publisher: Publisher::new(metrics.clone(), key, outliers),
            checker: None,
            #[cfg(debug_assertions)]
            clock_shift_file: None,
            moment: Moment::now(),
            names,
            resolved,
            problems: Rc::default(),
            told: Rc::new(RefCell::new(Rc::from([]))),
            metrics,
            from_snapshot: Cell::new(false),
            unpublished: Changed::default(),
            waiting: false,
            waiting_since: None,
            standing: Rc::default(),
        }
    }

    /// Returns once the first table is in.
    pub async fn begin(&mut self) {
        let loaded = match &self.provider {
            Provider::Cluster(cluster) => cluster.load(&self.resources),
            Provider::Folder { .. } => false,
        };
        if loaded {
            // What its annotations name is watched, and what no watch is about is left out.
            self.translate();
        }
        if let Provider::Cluster(cluster) = &mut self.provider {
            cluster.stores.prune(&mut self.resources.borrow_mut());
            let mut patience = std::pin::pin!(tokio::time::sleep(SNAPSHOT_AFTER));
            while !cluster.stores.synced() {
                self.standing.borrow_mut().watches = cluster.stores.report();
                tokio::select! {
                    () = cluster.stores.changed(&self.resources) => {}
                    () = &mut patience, if loaded => {
                        tracing::warn!("the API server can't be reached; serving what the snapshot file has");
                        self.from_snapshot.set(true);
                        break;
                    }
                }
            }
        }
        self.follow();
        while self.publisher.generation() == 0 {
            if let Provider::Cluster(cluster) = &mut self.provider {
                // Nothing may arrive any more, and the wait has its end.
                let _ = tokio::time::timeout(HOUSEKEEPING, cluster.stores.changed(&self.resources)).await;
            }
            self.follow();
        }
    }

    /// Writes status and Events from now on, if the objects come from a cluster.
    pub fn write(&mut self, client: &Client, writing: &Writing) -> Option<Resignation> {
        let Provider::Cluster(cluster) = &mut self.provider else { return None };
        let (translator, statuses) = (self.translator.clone(), cluster.stores.statuses.clone());
        let (live, problems) = (cluster.live.clone(), self.told.clone());
        let (changed, noted, metrics) = (cluster.changed.clone(), live.clone(), self.metrics.clone());
        let sources = Sources {
            differing: Rc::new(move |addresses, look| {
                let (translator, statuses) = (translator.borrow(), statuses.borrow());
                let differs = |name: &ObjectName| {
                    let says = statuses.of(name);
                    (says != addresses).then(|| (name.clone(), says.is_empty()))
                };
                let changed = std::mem::take(&mut *changed.borrow_mut());
                if look == Look::All || changed.len() > CHANGED_MAX {
                    return translator.ingresses().filter_map(differs).collect();
                }
                changed.iter().filter(|name| translator.has_ingress(name)).filter_map(differs).collect()
            }),
            written: Rc::new(move |name| {
                noted.borrow_mut().insert(name);
            }),
            problems: Rc::new(move || problems.borrow().clone()),
            live: Rc::new(move || std::mem::take(&mut *live.borrow_mut())),
            leads: Rc::new(move |leads| metrics.leader.store(u64::from(leads), Ordering::Relaxed)),
        };
        let (controller, resignation) = Controller::start(client, writing, sources);
        cluster.controller = Some(controller);
        Some(resignation)
    }

    /// Follows the objects and the names for ever.
    pub async fn run(&mut self) -> std::convert::Infallible {
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        let mut expiry = tokio::time::interval(EXPIRY);
        loop {
            let changed = async {
                match &mut self.provider {
                    Provider::Folder { watch, .. } => watch.changed().await,
                    Provider::Cluster(cluster) => cluster.stores.changed(&self.resources).await,
                }
            };
            tokio::select! {
                () = changed => self.follow(),
                Some((name, addresses)) = self.resolved.recv() => {
                    self.resources.borrow_mut().resolve(&name, addresses);
                    self.update();
                }
                _ = housekeeping.tick() => {
                    self.publisher.free_retired();
                    if let Provider::Cluster(cluster) = &mut self.provider {
                        cluster.stores.recover();
                        cluster.save(&self.resources.borrow(), SNAPSHOT_PACE);
                    }
                    if self.waiting {
                        self.update();
                    }
                    self.note_standing();
                    self.note_time();
                }
                _ = expiry.tick() => {
                    if let Provider::Folder { folder, .. } = &self.provider && folder.is_incomplete() {
                        self.follow();
                    }
                    self.judge_certificates();
                }
            }
        }
    }

    fn judge_certificates(&mut self) {
        let news = self.resources.borrow_mut().judge(unix_seconds());
        if news {
            self.update();
        }
    }

    /// Tells that somebody has set the system's time. Nothing here goes by it but dates, of which those of certificates
    /// count.
    fn note_time(&mut self) {
        #[cfg(debug_assertions)]
        if let Some(seconds) = self.clock_shift_file.as_ref().and_then(|path| std::fs::read_to_string(path).ok()) {
            crate::clock::shift(seconds.trim().parse().unwrap_or(0));
        }
        let before = std::mem::replace(&mut self.moment, Moment::now());
        let Some(milliseconds) = self.moment.jump_since(before) else { return };
        let (ahead, seconds) = (milliseconds > 0, milliseconds.unsigned_abs() / 1000);
        let direction = if ahead { "ahead" } else { "back" };
        tracing::warn!(seconds, direction, "the system's clock was set; certificates are judged by it from now on");
        self.metrics.clock_jumped(ahead);
        self.judge_certificates();
    }

    /// Keeps what there is.
    pub fn stop(&mut self) {
        if let Provider::Cluster(cluster) = &mut self.provider {
            cluster.save(&self.resources.borrow(), Duration::ZERO);
        }
    }

    /// Takes up what changed.
    fn follow(&mut self) {
        match &mut self.provider {
            Provider::Folder { folder, .. } => folder.scan(&mut self.resources.borrow_mut()),
            Provider::Cluster(cluster) if cluster.stores.synced() => {
                if self.from_snapshot.replace(false) {
                    tracing::info!("the API server has been reached, and the snapshot file is no longer needed");
                }
            }
            // Half of the objects would be a table that was never meant.
            Provider::Cluster(_) if self.publisher.generation() > 0 => return self.note_standing(),
            Provider::Cluster(_) => {}
        }
        self.update();
    }

    /// Translates what changed and has what it names watched.
    fn translate(&mut self) {
        let (mut translator, mut resources) = (self.translator.borrow_mut(), self.resources.borrow_mut());
        self.unpublished.add(translator.update(&mut resources));
        self.names.want(&translator.external_names());
        if let Provider::Cluster(cluster) = &mut self.provider
            && translator.take_references_changed()
        {
            cluster.stores.follow(translator.references(), &mut resources);
        }
    }

    /// Translates what changed and publishes it; a little later if something that it names for the first time has not
    /// arrived yet: routes would be closed, or Problems told, that nobody caused.
    fn update(&mut self) {
        self.translate();
        let first = self.publisher.generation() == 0;
        self.waiting = match &self.provider {
            Provider::Cluster(cluster) => cluster.stores.synced() && cluster.stores.awaits(first),
            Provider::Folder { .. } => false,
        };
        // Whatever else is named meanwhile: endpoints that come and go don't wait for it for ever.
        let since = self.waiting_since.get_or_insert_with(Instant::now);
        self.waiting &= since.elapsed() < Stores::awaited_max(first);
        if self.waiting {
            return self.note_standing();
        }
        self.waiting_since = None;
        let changed = std::mem::take(&mut self.unpublished);
        self.publish(&changed);
        self.tell();
        let updated = self.translator.borrow_mut().take_updated();
        if let Provider::Cluster(cluster) = &mut self.provider {
            cluster.updated(updated, first, changed.is_empty());
        }
        self.note_standing();
    }

    /// Tells of what is wrong, if that may be something else than before.
    fn tell(&mut self) {
        let of_objects = self.translator.borrow_mut().take_problems_changed();
        let of_files = match &mut self.provider {
            Provider::Folder { folder, .. } => folder.take_changed(),
            Provider::Cluster(_) => false,
        };
        if !of_objects && !of_files {
            return;
        }
        let all: Rc<[Problem]> = self.translator.borrow().problems().into();
        let mut problems = match &self.provider {
            Provider::Folder { folder, .. } => [folder.findings(), folder.locate(&all)].concat(),
            Provider::Cluster(_) => all.iter().cloned().map(Finding::from).collect(),
        };
        problems.sort();
        let known = self.problems.replace(problems);
        let problems = self.problems.borrow();
        for problem in problems.iter().filter(|problem| known.binary_search(problem).is_err()) {
            tracing::warn!("{problem}");
        }
        self.metrics.problems.store(problems.len() as u64, Ordering::Relaxed);
        self.told.replace(all);
    }

    fn publish(&mut self, changed: &Changed) {
        if changed.is_empty() && self.publisher.generation() > 0 {
            return;
        }
        let generation = self.publisher.publish(self.translator.borrow().snapshot(), changed);
        let Changed { hosts, backends, certificates, default_certificate: _ } = changed;
        if let Some(checker) = &mut self.checker {
            for key in backends {
                checker.follow(key, self.publisher.upstream(key).as_deref());
            }
        }
        let (hosts, backends, certificates) = (hosts.len(), backends.len(), certificates.len());
        tracing::info!(generation, hosts, backends, certificates, "published");
    }

    fn note_standing(&self) {
        let mut standing = self.standing.borrow_mut();
        standing.generation = self.publisher.generation();
        if let Provider::Cluster(cluster) = &self.provider {
            standing.stale = self.from_snapshot.get() || cluster.stores.is_failing();
            standing.watches = cluster.stores.report();
            self.metrics.watch_failures.store(cluster.stores.failures, Ordering::Relaxed);
        }
        self.metrics.stale.store(u64::from(standing.stale), Ordering::Relaxed);
    }
}

impl Cluster {
    /// Reads the snapshot file, if there is one that can be used.
    fn load(&self, resources: &RefCell<Resources>) -> bool {
        let Some(Saving { path, .. }) = &self.snapshot else { return false };
        let loaded = match snapshot::read(path) {
            Ok(Some(bytes)) => Resources::load(&bytes, unix_seconds()).map_err(|error| error.to_string()),
            Ok(None) => return false,
            Err(error) => Err(error.to_string()),
        };
        match loaded {
            Ok(loaded) => {
                *resources.borrow_mut() = loaded;
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), error, "the snapshot file can't be used, and is not");
                return false;
            }
        }
        true
    }

    /// Writes the snapshot file if it is behind and was not written just now.
    fn save(&mut self, resources: &Resources, pace: Duration) {
        let synced = self.stores.synced();
        let Some(saving) = &mut self.snapshot else { return };
        let due = saving.saved.is_none_or(|saved| saved.elapsed() >= pace);
        if !saving.behind || !synced || !due {
            return;
        }
        (saving.behind, saving.saved) = (false, Some(Instant::now()));
        let (path, bytes) = (saving.path.clone(), resources.save());
        tokio::task::spawn_blocking(move || {
            if let Err(error) = snapshot::write(&path, &bytes) {
                tracing::warn!(path = %path.display(), %error, "the snapshot file can't be written");
            }
        });
    }

    fn updated(&mut self, ingresses: BTreeSet<ObjectName>, first: bool, unchanged: bool) {
        if let Some(saving) = &mut self.snapshot {
            saving.behind |= first || !unchanged;
        }
        let others = self.stores.statuses.borrow_mut().take_changed();
        if self.controller.is_some() {
            let mut changed = self.changed.borrow_mut();
            for ingress in ingresses.iter().cloned().chain(others) {
                // One more than too many is enough to know.
                if changed.len() > CHANGED_MAX {
                    break;
                }
                changed.insert(ingress);
            }
        }
        // Those that were there before us had their Event; if not, the first writing of their status is one.
        if !first {
            self.live.borrow_mut().extend(ingresses);
        }
        if let Some(controller) = &self.controller {
            controller.changed();
        }
    }
}
