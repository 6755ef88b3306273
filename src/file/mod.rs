//! Provider: a folder of manifests, watched. Its objects go the way that a cluster's go. A file that doesn't
//! parse keeps its last good objects in service; an object that doesn't, its last good version. A look at the folder
//! looks at every file, and reads and takes up those that changed.

mod objects;
mod watch;
mod yaml;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

pub use watch::Watch;

use crate::clock::unix_seconds;
use crate::translate::{Object, ObjectRef, Problem, Resources};
use objects::Found;

/// Largest manifest, in bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Deepest folder below the root.
const DEPTH_MAX: usize = 16;
/// A file that was written less than this many seconds ago is read again at the next look: clocks of file systems are
/// coarse, and what is written within one of their steps could not be told apart.
const SETTLED_SECONDS: i64 = 2;

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
    files: BTreeMap<Arc<Path>, File>,
    /// The files that an object is in, in their order; what it is in the first counts. All of them are in
    /// [`Resources`].
    holders: BTreeMap<ObjectRef, Vec<Arc<Path>>>,
    /// What is wrong with folders.
    unreadable: Vec<Finding>,
    /// What is wrong with objects that are there twice.
    twice: BTreeMap<ObjectRef, Vec<Finding>>,
    /// A folder or file could not be read the last time.
    incomplete: bool,
    /// Something that findings are about is not what it was.
    changed: bool,
    hasher: RandomState,
}

/// A file as it was last read.
#[derive(Debug, Default)]
struct File {
    /// As it looks for as long as nobody writes it. None if it has to be read to be sure.
    settled: Option<Stamp>,
    hash: u64,
    objects: Vec<Located>,
    findings: Vec<Finding>,
}

/// What a file looks like from outside. Another file in its place, be it by a symbolic link, has another inode; whoever
/// puts the time of its content back moves the time of its inode on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    /// Seconds and nanoseconds.
    content: (i64, i64),
    inode_changed: (i64, i64),
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
            holders: BTreeMap::new(),
            unreadable: Vec::new(),
            twice: BTreeMap::new(),
            incomplete: false,
            changed: true,
            hasher: RandomState::new(),
        })
    }

    /// Reads what changed in the folder and brings `resources` up to date.
    pub fn scan(&mut self, resources: &mut Resources) {
        self.scan_at(resources, unix_seconds());
    }

    /// The same at a time, in seconds since the epoch. Returns how many files were read.
    fn scan_at(&mut self, resources: &mut Resources, now: i64) -> usize {
        let (stamps, unreadable) = self.walk();
        self.incomplete = !unreadable.is_empty();
        let mut touched = BTreeSet::new();
        // What can't be looked at now is not gone.
        let stays = |path: &Path| stamps.contains_key(path) || unreadable.iter().any(|folder| path.starts_with(folder));
        let gone: Vec<Arc<Path>> = self.files.keys().filter(|path| !stays(path)).cloned().collect();
        for path in gone {
            let file = self.files.remove(&path).unwrap_or_default();
            self.release(&path, &file, &mut touched);
            self.changed = true;
        }
        let mut read = 0;
        for (path, stamp) in stamps {
            if self.files.get(&*path).is_none_or(|file| file.settled != Some(stamp)) {
                self.read(path, stamp, now, &mut touched);
                read += 1;
            }
        }
        self.apply(&touched, resources);
        read
    }

    /// What is wrong with the files, beside what translation finds in the objects.
    pub fn findings(&self) -> Vec<Finding> {
        let of_files = self.files.values().flat_map(|file| &file.findings);
        self.unreadable.iter().chain(self.twice.values().flatten()).chain(of_files).cloned().collect()
    }

    /// Whether findings, or where they are, may be others than at the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Says where each problem is; each file is read once.
    pub fn locate(&self, problems: &[Problem]) -> Vec<Finding> {
        let objects: BTreeSet<&ObjectRef> = problems.iter().map(|problem| &problem.object).collect();
        let places = self.places(&objects);
        let mut documents = Documents::default();
        let mut locate = |problem: &Problem| {
            let Some((path, located)) = places.get(&problem.object).and_then(|places| places.first()) else {
                return finding(problem, None, None);
            };
            let line = documents.line(path, located, &problem.field);
            finding(problem, Some(path.to_path_buf()), line)
        };
        problems.iter().map(&mut locate).collect()
    }

    /// Whether something could not be read, so that another look is worth while.
    pub fn is_incomplete(&self) -> bool {
        self.incomplete
    }

    pub fn objects(&self) -> usize {
        self.holders.len()
    }

    /// The manifests as they look, and the folders that could not be read.
    fn walk(&mut self) -> (BTreeMap<PathBuf, Stamp>, Vec<PathBuf>) {
        let mut stamps = BTreeMap::new();
        let (mut unreadable, mut findings) = (Vec::new(), Vec::new());
        let mut folders = vec![(self.root.clone(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) => {
                    let fix = "make it readable; what was in it stays";
                    findings.push(file_finding(&folder, None, format!("can't be read: {error}"), fix));
                    unreadable.push(folder);
                    continue;
                }
            };
            for entry in entries.flatten() {
                if entry.file_name().to_string_lossy().starts_with('.') {
                    continue;
                }
                let path = entry.path();
                let manifest = path
                    .extension()
                    .is_some_and(|extension| extension == "yaml" || extension == "yml" || extension == "json");
                match fs::metadata(&path) {
                    Ok(metadata) if metadata.is_dir() && depth < DEPTH_MAX => folders.push((path, depth + 1)),
                    Ok(metadata) if metadata.is_file() && manifest => {
                        stamps.insert(path, Stamp::new(&metadata));
                    }
                    Ok(_) | Err(_) => {}
                }
            }
        }
        self.changed |= self.unreadable != findings;
        self.unreadable = findings;
        (stamps, unreadable)
    }

    /// Reads a file that may have changed. What it looked like before it was read is what is remembered.
    fn read(&mut self, path: PathBuf, stamp: Stamp, now: i64, touched: &mut BTreeSet<ObjectRef>) {
        let (path, mut file) = self.files.remove_entry(&*path).unwrap_or_else(|| (path.into(), File::default()));
        file.settled = Some(stamp).filter(|stamp| stamp.is_settled(now));
        let text = match stamp.length {
            0..=FILE_BYTES_MAX => fs::read(&path),
            _ => Err(io::Error::other(format!("it is larger than {FILE_BYTES_MAX} bytes"))),
        };
        match text {
            Ok(bytes) => {
                let hash = self.hasher.hash_one(&bytes);
                if file.hash != hash {
                    self.release(&path, &file, touched);
                    file.hash = hash;
                    file.take_up(&path, &bytes, now);
                    self.hold(&path, &file, touched);
                    self.changed = true;
                }
            }
            Err(error) => {
                (file.hash, file.settled) = (0, None);
                let fix = "make it readable; its last good version stays";
                let findings = vec![file_finding(&path, None, format!("can't be read: {error}"), fix)];
                self.changed |= file.findings != findings;
                file.findings = findings;
                self.incomplete = true;
            }
        }
        self.files.insert(path, file);
    }

    fn hold(&mut self, path: &Arc<Path>, file: &File, touched: &mut BTreeSet<ObjectRef>) {
        for located in &file.objects {
            let holders = self.holders.entry(located.reference.clone()).or_default();
            if let Err(at) = holders.binary_search(path) {
                // Most objects are in one file.
                holders.reserve_exact(1);
                holders.insert(at, path.clone());
            }
            touched.insert(located.reference.clone());
        }
    }

    fn release(&mut self, path: &Arc<Path>, file: &File, touched: &mut BTreeSet<ObjectRef>) {
        for located in &file.objects {
            if let Some(holders) = self.holders.get_mut(&located.reference) {
                holders.retain(|holder| holder != path);
                if holders.is_empty() {
                    self.holders.remove(&located.reference);
                }
            }
            touched.insert(located.reference.clone());
        }
    }

    /// Where objects are, the place that counts first.
    fn places<'a>(
        &'a self,
        objects: &BTreeSet<&'a ObjectRef>,
    ) -> BTreeMap<&'a ObjectRef, Vec<(&'a Path, &'a Located)>> {
        let holders: BTreeSet<&Arc<Path>> =
            objects.iter().filter_map(|object| self.holders.get(*object)).flatten().collect();
        let mut places: BTreeMap<&ObjectRef, Vec<(&Path, &Located)>> = BTreeMap::new();
        for path in holders {
            for located in &self.files[path].objects {
                if objects.contains(&located.reference) {
                    places.entry(&located.reference).or_default().push((path, located));
                }
            }
        }
        places
    }

    /// Brings `resources` up to date with these objects.
    fn apply(&mut self, touched: &BTreeSet<ObjectRef>, resources: &mut Resources) {
        let mut twice = std::mem::take(&mut self.twice);
        let places = self.places(&touched.iter().collect());
        let mut documents = Documents::default();
        for reference in touched {
            twice.remove(reference);
            let Some(((first, counts), others)) = places.get(reference).and_then(|places| places.split_first()) else {
                resources.remove(reference);
                continue;
            };
            if !resources.holds(&counts.object) {
                resources.apply(counts.object.clone());
            }
            let findings = others.iter().map(|(path, located)| {
                let what = format!("the object is in {} too, which counts", first.display());
                let problem = Problem::new(reference.clone(), "metadata.name", what, "keep one of the two");
                finding(&problem, Some(path.to_path_buf()), documents.line(path, located, &problem.field))
            });
            if !others.is_empty() {
                twice.insert(reference.clone(), findings.collect());
            }
        }
        self.twice = twice;
    }
}

impl Stamp {
    fn new(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            content: (metadata.mtime(), metadata.mtime_nsec()),
            inode_changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether the file looks different after whatever is done to it from `now` on. Only the system sets this time.
    fn is_settled(&self, now: i64) -> bool {
        self.inode_changed.0.saturating_add(SETTLED_SECONDS) < now
    }
}

impl File {
    /// Takes up what is in it now; what can't be taken up leaves what was there before.
    fn take_up(&mut self, path: &Path, bytes: &[u8], now: i64) {
        self.findings.clear();
        let parsed = match std::str::from_utf8(bytes) {
            Ok(text) => yaml::read(text),
            Err(_) => Err(yaml::SyntaxError { line: 1, column: 1, what: "it is not UTF-8".to_owned() }),
        };
        match parsed {
            // A program that writes it anew empties it first.
            Ok(documents) if documents.is_empty() && !self.objects.is_empty() => {
                let fix = "write it, or delete it; its last good objects stay";
                self.findings = vec![file_finding(path, None, "is empty".to_owned(), fix)];
            }
            Ok(documents) => self.take(path, &documents, now),
            Err(error) => {
                let fix = "correct it; the last good version of its objects stays";
                let (place, what) = ((error.line, error.column), format!("is no YAML: {}", error.what));
                self.findings = vec![file_finding(path, Some(place), what, fix)];
            }
        }
    }

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

/// The documents of files as they are now, each read once; none of a file that can't be read.
#[derive(Default)]
struct Documents<'a>(HashMap<&'a Path, Vec<yaml::Document>>);

impl<'a> Documents<'a> {
    /// The line of a field of an object.
    fn line(&mut self, path: &'a Path, located: &Located, field: &str) -> Option<usize> {
        let read = |path: &Path| yaml::read(&fs::read_to_string(path).ok()?).ok();
        let documents = self.0.entry(path).or_insert_with(|| read(path).unwrap_or_default());
        documents.get(located.document).map(|document| document.line(&format!("{}{field}", located.path)))
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translate::Kind;

    fn class(name: &str, controller: &str) -> String {
        let metadata = format!("apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {{ name: {name} }}");
        format!("{metadata}\nspec: {{ controller: {controller} }}\n")
    }

    /// A folder that is looked at, by default long after all was written.
    struct World {
        root: tempfile::TempDir,
        folder: Folder,
        resources: Resources,
    }

    impl World {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let folder = Folder::open(root.path()).unwrap();
            Self { root, folder, resources: Resources::default() }
        }

        fn write(&self, file: &str, text: &str) {
            fs::write(self.root.path().join(file), text).unwrap();
        }

        /// How many files are read.
        fn look(&mut self) -> usize {
            self.folder.scan_at(&mut self.resources, unix_seconds() + 60)
        }

        fn has(&self, name: &str, controller: &str) -> bool {
            let document = yaml::read(&class(name, controller)).unwrap()[0].root.value.to_json();
            self.resources.holds(objects::find(&document, 0)[0].object.as_ref().unwrap())
        }
    }

    #[test]
    fn only_files_that_changed_are_read() {
        let mut world = World::new();
        for number in 0..100 {
            world.write(&format!("{number}.yaml"), &class(&format!("class-{number}"), "one"));
        }
        assert_eq!((world.look(), world.look()), (100, 0));
        world.write("7.yaml", &class("class-7", "two"));
        assert_eq!(world.look(), 1);
        assert!(world.has("class-7", "two") && world.has("class-8", "one"));
        // Another file in its place, with the same length.
        world.write("new", &class("class-8", "two"));
        fs::rename(world.root.path().join("new"), world.root.path().join("8.yaml")).unwrap();
        assert_eq!(world.look(), 1);
        assert!(world.has("class-8", "two"));
        // The time of its content put back.
        let path = world.root.path().join("9.yaml");
        let before = fs::metadata(&path).unwrap().modified().unwrap();
        world.write("9.yaml", &class("class-9", "two"));
        fs::File::options().write(true).open(path).unwrap().set_modified(before).unwrap();
        assert_eq!(world.look(), 1);
        assert!(world.has("class-9", "two"));
        fs::remove_file(world.root.path().join("9.yaml")).unwrap();
        assert_eq!(world.look(), 0);
        assert_eq!((world.resources.names(Kind::IngressClass).len(), world.folder.objects()), (99, 99));
    }

    #[test]
    fn a_file_that_was_written_just_now_is_read_again() {
        let mut world = World::new();
        let now = unix_seconds();
        for number in 0..50 {
            let controller = format!("number-{:02}", number % 2);
            world.write("a.yaml", &class("a", &controller));
            assert_eq!(world.folder.scan_at(&mut world.resources, now), 1);
            assert!(world.has("a", &controller), "{number}");
        }
        assert_eq!((world.look(), world.look()), (1, 0));
    }

    /// As a kubelet mounts a `ConfigMap`: files are links into `..data`, which is a link to a folder that is replaced.
    #[test]
    fn a_link_that_leads_elsewhere_is_a_change() {
        use std::os::unix::fs::symlink;
        let mut world = World::new();
        let root = world.root.path().to_owned();
        for (version, controller) in [("..one", "one"), ("..two", "two")] {
            fs::create_dir(root.join(version)).unwrap();
            world.write(&format!("{version}/a.yaml"), &class("a", controller));
        }
        symlink("..one", root.join("..data")).unwrap();
        symlink("..data/a.yaml", root.join("a.yaml")).unwrap();
        assert_eq!((world.look(), world.look()), (1, 0));
        assert!(world.has("a", "one"));
        symlink("..two", root.join("..new")).unwrap();
        fs::rename(root.join("..new"), root.join("..data")).unwrap();
        assert_eq!(world.look(), 1);
        assert!(world.has("a", "two"));
    }

    #[test]
    fn of_an_object_in_two_files_the_first_counts_as_long_as_it_is_there() {
        let mut world = World::new();
        world.write("b.yaml", &class("a", "b"));
        world.look();
        assert!(world.folder.take_changed() && world.folder.findings().is_empty() && world.has("a", "b"));
        world.write("a.yaml", &format!("{}---\n{}", class("other", "a"), class("a", "a")));
        world.write("c.yaml", &format!("{}---\n{}", class("a", "c"), class("a", "d")));
        world.look();
        assert!(world.has("a", "a") && world.folder.take_changed());
        let findings = world.folder.findings();
        let places: Vec<_> = findings.iter().map(|finding| finding.to_string().split(':').take(2).count()).collect();
        assert_eq!((places.len(), findings[1].line, findings[2].line), (3, Some(3), Some(8)), "{findings:?}");
        assert!(findings.iter().all(|finding| finding.what.ends_with("a.yaml too, which counts")));
        fs::remove_file(world.root.path().join("a.yaml")).unwrap();
        assert_eq!(world.look(), 0);
        assert!(world.has("a", "b") && world.folder.findings().len() == 2 && world.folder.take_changed());
        world.write("c.yaml", &class("c", "c"));
        assert_eq!((world.look(), world.folder.findings().len(), world.folder.objects()), (1, 0, 2));
        fs::remove_file(world.root.path().join("b.yaml")).unwrap();
        world.look();
        assert_eq!(world.resources.names(Kind::IngressClass).len(), 1);
        world.folder.take_changed();
        world.look();
        assert!(!world.folder.take_changed());
    }
}
