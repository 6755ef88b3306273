//! Tells of changes in a folder: once nothing has moved for a moment, and nobody is writing a file any more.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// A change is read once nothing has moved for this long, so that a file is not read half written …
const QUIET: Duration = Duration::from_millis(20);
/// … but no later than this.
const QUIET_MAX: Duration = Duration::from_millis(500);
/// A file that is being written is waited for until it is closed, but no longer than this.
const WRITING_MAX: Duration = Duration::from_secs(5);

/// Tells of changes in the folder for as long as it is kept.
pub struct Watch {
    _watcher: RecommendedWatcher,
    changes: mpsc::Receiver<()>,
    /// Files that somebody has open and has written to.
    writing: Arc<Mutex<HashSet<PathBuf>>>,
    /// When the first change was noticed that has not been taken up.
    first: Option<Instant>,
}

impl Watch {
    pub fn start(root: &Path) -> notify::Result<Self> {
        let (sender, changes) = mpsc::channel(1);
        let writing: Arc<Mutex<HashSet<PathBuf>>> = Arc::default();
        let noted = writing.clone();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let Ok(event) = event else { return };
            let mut writing = noted.lock().expect("no holder panics");
            let closed = event.kind == EventKind::Access(AccessKind::Close(AccessMode::Write));
            match event.kind {
                EventKind::Modify(ModifyKind::Data(_)) => writing.extend(event.paths),
                // Reading a file is an event too, and ours to ignore.
                EventKind::Access(_) if !closed => return,
                _ => event.paths.iter().for_each(|path| drop(writing.take(path))),
            }
            // A change that waits to be taken up stands for all that follow.
            let _ = sender.try_send(());
        })?;
        watcher.watch(root, RecursiveMode::Recursive)?;
        Ok(Self { _watcher: watcher, changes, writing, first: None })
    }

    /// Returns when something has changed and then nothing for a moment. May be dropped and called again: a
    /// change that was noticed is not forgotten.
    pub async fn changed(&mut self) {
        let first = match self.first {
            Some(first) => first,
            None if self.changes.recv().await.is_none() => return std::future::pending().await,
            None => *self.first.insert(Instant::now()),
        };
        loop {
            let writing = !self.writing.lock().expect("no holder panics").is_empty();
            let left = if writing { WRITING_MAX } else { QUIET_MAX }.saturating_sub(first.elapsed());
            let quiet = tokio::time::timeout(QUIET.min(left), self.changes.recv()).await.is_err();
            if left.is_zero() || (quiet && !writing) {
                break;
            }
        }
        self.writing.lock().expect("no holder panics").clear();
        self.first = None;
    }
}
