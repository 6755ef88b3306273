//! Provider: a folder of manifests, watched. Its objects go the way that a cluster's go. A file that doesn't
//! parse keeps its last good objects in service; an object that doesn't, its last good version.

mod objects;
mod yaml;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::clock::unix_seconds;
use crate::translate::{Object, ObjectRef, Problem, Resources};
use objects::Found;

/// A change is read once nothing has moved for this long, so that a file is not read half written …
const QUIET: Duration = Duration::from_millis(20);
/// … but no later than this.
const QUIET_MAX: Duration = Duration::from_millis(500);
/// A file that is being written is waited for until it is closed, but no longer than this.
const WRITING_MAX: Duration = Duration::from_secs(5);
/// Largest manifest, in bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Deepest folder below the root.
const DEPTH_MAX: usize = 16;

/// What is wrong in a folder: an object's problem or a file's, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    pub file: Option<PathBuf>,
    pub line: Option<usize>,
    pub column: Option<usize>,
    /// `None` if the file itself is at fault.
    pub object: Option<ObjectRef>,
    pub field: String,
    pub what: String,
    pub fix: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}:", file.display())?;
        }
        for number in [self.line, self.column].into_iter().flatten() {
            write!(f, "{number}:")?;
        }
        if self.file.is_some() {
            write!(f, " ")?;
        }
        if let Some(object) = &self.object {
            write!(f, "{object} {}: ", self.field)?;
        }
        write!(f, "{}; {}", self.what, self.fix)
    }
}

/// A problem of an object that is in no file.
impl From<Problem> for Finding {
    fn from(problem: Problem) -> Self {
        finding(&problem, None, None)
    }
}

#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    files: BTreeMap<PathBuf, File>,
    /// What [`Resources`] has from here.
    applied: BTreeSet<ObjectRef>,
    findings: Vec<Finding>,
    /// A folder or file could not be read the last time.
    incomplete: bool,
    hasher: RandomState,
}

/// A file as it was last read.
#[derive(Debug, Default)]
struct File {
    hash: u64,
    objects: Vec<Located>,
    findings: Vec<Finding>,
}

#[derive(Debug, Clone)]
struct Located {
    reference: ObjectRef,
    object: Object,
    document: usize,
    path: String,
}

impl Folder {
    /// The folder must be there; what is in it may change.
    pub fn open(root: &Path) -> io::Result<Self> {
        fs::read_dir(root)?;
        Ok(Self {
            root: root.to_owned(),
            files: BTreeMap::new(),
            applied: BTreeSet::new(),
            findings: Vec::new(),
            incomplete: false,
            hasher: RandomState::new(),
        })
    }

    /// Reads what changed in the folder and brings `resources` up to date.
    pub fn scan(&mut self, resources: &mut Resources) {
        self.findings.clear();
        let (paths, unreadable) = self.walk();
        self.incomplete = !unreadable.is_empty();
        // What can't be looked at now is not gone.
        self.files.retain(|path, _| paths.contains(path) || unreadable.iter().any(|folder| path.starts_with(folder)));
        let now = unix_seconds();
        for path in paths {
            self.read(&path, now);
        }
        self.apply(resources);
    }

    /// What is wrong with the files, beside what translation finds in the objects.
    pub fn findings(&self) -> Vec<Finding> {
        self.findings.iter().chain(self.files.values().flat_map(|file| &file.findings)).cloned().collect()
    }

    /// Says where each problem is; each file is read once.
    pub fn locate(&self, problems: &[Problem]) -> Vec<Finding> {
        let mut places: HashMap<&ObjectRef, (&PathBuf, &Located)> = HashMap::new();
        for (path, file) in &self.files {
            for located in &file.objects {
                places.entry(&located.reference).or_insert((path, located));
            }
        }
        let mut parsed: HashMap<&PathBuf, Vec<yaml::Document>> = HashMap::new();
        let mut locate = |problem: &Problem| {
            let Some((path, located)) = places.get(&problem.object).copied() else {
                return finding(problem, None, None);
            };
            let documents = parsed.entry(path).or_insert_with(|| documents(path));
            let field = format!("{}{}", located.path, problem.field);
            let line = documents.get(located.document).map(|document| document.line(&field));
            finding(problem, Some(path.clone()), line)
        };
        problems.iter().map(&mut locate).collect()
    }

    /// Whether something could not be read, so that another look is worth while.
    pub fn is_incomplete(&self) -> bool {
        self.incomplete
    }

    pub fn objects(&self) -> usize {
        self.applied.len()
    }

    /// The manifests, and the folders that could not be read.
    fn walk(&mut self) -> (BTreeSet<PathBuf>, Vec<PathBuf>) {
        let mut paths = BTreeSet::new();
        let mut unreadable = Vec::new();
        let mut folders = vec![(self.root.clone(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) => {
                    self.findings.push(file_finding(
                        &folder,
                        None,
                        format!("can't be read: {error}"),
                        "make it readable; what was in it stays",
                    ));
                    unreadable.push(folder);
                    continue;
                }
            };
            for entry in entries.flatten() {
                let path = entry.path();
                let hidden = entry.file_name().to_string_lossy().starts_with('.');
                let manifest = path
                    .extension()
                    .is_some_and(|extension| extension == "yaml" || extension == "yml" || extension == "json");
                match fs::metadata(&path) {
                    _ if hidden => {}
                    Ok(metadata) if metadata.is_dir() && depth < DEPTH_MAX => folders.push((path, depth + 1)),
                    Ok(metadata) if metadata.is_file() && manifest => drop(paths.insert(path)),
                    Ok(_) | Err(_) => {}
                }
            }
        }
        (paths, unreadable)
    }

    fn read(&mut self, path: &Path, now: i64) {
        let text = fs::metadata(path).and_then(|metadata| match metadata.len() {
            0..=FILE_BYTES_MAX => fs::read(path),
            _ => Err(io::Error::other(format!("it is larger than {FILE_BYTES_MAX} bytes"))),
        });
        let file = self.files.entry(path.to_owned()).or_default();
        let bytes = match text {
            Ok(bytes) => bytes,
            Err(error) => {
                file.hash = 0;
                self.incomplete = true;
                file.findings = vec![file_finding(
                    path,
                    None,
                    format!("can't be read: {error}"),
                    "make it readable; its last good version stays",
                )];
                return;
            }
        };
        let hash = self.hasher.hash_one(&bytes);
        if file.hash == hash {
            return;
        }
        file.hash = hash;
        file.findings.clear();
        let parsed = match std::str::from_utf8(&bytes) {
            Ok(text) => yaml::read(text),
            Err(_) => Err(yaml::SyntaxError { line: 1, column: 1, what: "it is not UTF-8".to_owned() }),
        };
        match parsed {
            // A program that writes it anew empties it first.
            Ok(documents) if documents.is_empty() && !file.objects.is_empty() => {
                let fix = "write it, or delete it; its last good objects stay";
                file.findings = vec![file_finding(path, None, "is empty".to_owned(), fix)];
            }
            Ok(documents) => file.take(path, &documents, now),
            Err(error) => {
                let fix = "correct it; the last good version of its objects stays";
                file.findings = vec![file_finding(
                    path,
                    Some((error.line, error.column)),
                    format!("is no YAML: {}", error.what),
                    fix,
                )];
            }
        }
    }

    fn apply(&mut self, resources: &mut Resources) {
        let mut wanted: BTreeMap<ObjectRef, (&Path, &Object)> = BTreeMap::new();
        for (path, file) in &self.files {
            for located in &file.objects {
                let first = wanted.get(&located.reference).map(|(path, _)| path.to_path_buf());
                let Some(first) = first else {
                    wanted.insert(located.reference.clone(), (path, &located.object));
                    continue;
                };
                let what = format!("the object is in {} too, which counts", first.display());
                let problem = Problem::new(located.reference.clone(), "metadata.name", what, "keep one of the two");
                let line = line(path, located.document, &format!("{}metadata.name", located.path));
                self.findings.push(finding(&problem, Some(path.clone()), line));
            }
        }
        self.applied.retain(|reference| {
            let stays = wanted.contains_key(reference);
            if !stays {
                resources.remove(reference);
            }
            stays
        });
        for (reference, (_, object)) in wanted {
            if !resources.holds(object) {
                resources.apply(object.clone());
            }
            self.applied.insert(reference);
        }
    }
}

impl File {
    /// Takes the objects of a file that parsed. One that doesn't is replaced by its last good version.
    fn take(&mut self, path: &Path, documents: &[yaml::Document], now: i64) {
        let before = std::mem::take(&mut self.objects);
        for (index, document) in documents.iter().enumerate() {
            let json = document.root.value.to_json();
            if json.get("kind").and_then(Value::as_str).is_none_or(str::is_empty) {
                let place = Some((document.line(""), 1));
                let fix = "write apiVersion and kind, or take it out";
                self.findings.push(file_finding(path, place, "a document has no kind".to_owned(), fix));
                continue;
            }
            for Found { path: place, reference, object } in objects::find(&json, now) {
                let object = match object {
                    Ok(object) => Some(object),
                    Err(problem) => {
                        let line = document.line(&format!("{place}{}", problem.field));
                        self.findings.push(finding(&problem, Some(path.to_owned()), Some(line)));
                        before
                            .iter()
                            .find(|located| located.reference == reference)
                            .map(|located| located.object.clone())
                    }
                };
                self.objects.extend(object.map(|object| Located { reference, object, document: index, path: place }));
            }
        }
    }
}

/// A file's documents as it is now; none if it can't be read.
fn documents(path: &Path) -> Vec<yaml::Document> {
    fs::read_to_string(path).ok().and_then(|text| yaml::read(&text).ok()).unwrap_or_default()
}

fn line(path: &Path, document: usize, field: &str) -> Option<usize> {
    documents(path).get(document).map(|document| document.line(field))
}

fn finding(problem: &Problem, file: Option<PathBuf>, line: Option<usize>) -> Finding {
    let Problem { object, field, what, fix } = problem.clone();
    Finding { file, line, column: None, object: Some(object), field, what, fix }
}

fn file_finding(path: &Path, place: Option<(usize, usize)>, what: String, fix: &str) -> Finding {
    Finding {
        file: Some(path.to_owned()),
        line: place.map(|(line, _)| line),
        column: place.map(|(_, column)| column),
        object: None,
        field: String::new(),
        what,
        fix: fix.to_owned(),
    }
}

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
