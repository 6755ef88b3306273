//! A watched folder of manifests, changed as editors and deploy tools change it.

use std::fs;
use std::path::PathBuf;

use super::backend::Backend;
use super::manifests::{Ingress, app};

/// A folder that exists as long as this value. A sibling folder on the same file system holds the
/// files that are about to be renamed into it.
pub struct Folder {
    root: tempfile::TempDir,
}

impl Folder {
    pub fn new() -> Self {
        let root = tempfile::Builder::new().prefix("portunus-it-").tempdir().expect("temp dir");
        fs::create_dir(root.path().join("manifests")).expect("manifests");
        fs::create_dir(root.path().join("staging")).expect("staging");
        Self { root }
    }

    /// The usual start of a test: every host and path goes to the Service `default/app`, which is
    /// this backend.
    pub fn to(backend: &Backend) -> Self {
        Self::to_addresses(&[backend.address()])
    }

    pub fn to_addresses(addresses: &[std::net::SocketAddr]) -> Self {
        let folder = Self::new();
        folder.write("app.yaml", app("default", "app", addresses));
        folder.write("ingress.yaml", Ingress::new("default", "all").prefix("/", "app", 80));
        folder
    }

    /// What Portunus watches.
    pub fn path(&self) -> PathBuf {
        self.root.path().join("manifests")
    }

    /// A place beside the watched folder, for logs and the like.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Creates or replaces a file at once: whoever looks sees the old or the new text, whole.
    #[track_caller]
    pub fn write(&self, name: &str, text: impl ToString) {
        let staged = self.root.path().join("staging").join(name.replace('/', "_"));
        fs::write(&staged, text.to_string()).expect("staged file");
        let target = self.path().join(name);
        fs::create_dir_all(target.parent().expect("a folder")).expect("folder of the file");
        fs::rename(staged, target).expect("rename");
    }

    /// Writes into the file that is there, as many editors do.
    #[track_caller]
    pub fn overwrite(&self, name: &str, text: impl ToString) {
        fs::write(self.path().join(name), text.to_string()).expect("overwrite");
    }

    #[track_caller]
    pub fn remove(&self, name: &str) {
        fs::remove_file(self.path().join(name)).expect("remove");
    }
}
