//! How much of its memory limit the process uses: what the kernel would kill it by. The limit is the cgroup's
//! (memory.max of version 2, `memory.limit_in_bytes` of version 1), or the operator's own. Of a cgroup counts what it
//! can't give back at once: all but the file pages that nobody used lately, as Kubernetes counts.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often it is looked at.
const PACE: Duration = Duration::from_millis(250);
/// Version 1 has a huge number for no limit; nobody has so much memory.
const UNLIMITED_BYTES: u64 = 1 << 60;
const ROOT: &str = "/sys/fs/cgroup";
/// No limit is known.
const NONE: u64 = u64::MAX;

/// The share in use, in percent; the workers look at it once a tick.
#[derive(Debug)]
pub struct Memory(AtomicU64);

/// Where a limit comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The operator's, for what the process has resident.
    Own {
        limit: u64,
    },
    Cgroup(Cgroup),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    folder: PathBuf,
    files: &'static Files,
}

/// What a version's files are called.
#[derive(Debug, PartialEq, Eq)]
struct Files {
    limit: &'static str,
    usage: &'static str,
    /// In `memory.stat`.
    inactive: &'static str,
}

const VERSION_1: Files =
    Files { limit: "memory.limit_in_bytes", usage: "memory.usage_in_bytes", inactive: "total_inactive_file " };
const VERSION_2: Files = Files { limit: "memory.max", usage: "memory.current", inactive: "inactive_file " };

impl Memory {
    pub fn new() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(NONE)))
    }

    /// In percent of the limit, if there is one.
    pub fn percent(&self) -> Option<u32> {
        let percent = self.0.load(Ordering::Relaxed);
        (percent != NONE).then(|| u32::try_from(percent).unwrap_or(u32::MAX))
    }

    /// Keeps looking, for ever.
    pub async fn watch(&self, source: Source, note: impl Fn(u64)) {
        loop {
            // What can't be read now, for want of a descriptor, is as it was.
            if let Some(percent) = source.percent() {
                self.0.store(percent, Ordering::Relaxed);
                note(percent);
            }
            tokio::time::sleep(PACE).await;
        }
    }
}

impl Source {
    /// The operator's limit, else that of the process's cgroup; none if neither is there.
    pub fn find(own: Option<u64>) -> Option<Self> {
        if let Some(limit) = own {
            return Some(Self::Own { limit });
        }
        let membership = fs::read_to_string("/proc/self/cgroup").ok()?;
        Cgroup::find(&membership, Path::new(ROOT)).map(Self::Cgroup)
    }

    /// In percent of the limit, which may have changed.
    fn percent(&self) -> Option<u64> {
        let (used, limit) = match self {
            Self::Own { limit } => (resident()?, *limit),
            Self::Cgroup(cgroup) => (cgroup.used()?, cgroup.limit()?),
        };
        Some(used.saturating_mul(100) / limit.max(1))
    }
}

impl Cgroup {
    /// The nearest cgroup with a limit, from `/proc/self/cgroup` and what is mounted at `root`. In a container the
    /// path may be the host's, and the files are at the root.
    fn find(membership: &str, root: &Path) -> Option<Self> {
        membership.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            let (root, files) = match controllers {
                "" => (root.to_owned(), &VERSION_2),
                _ if controllers.split(',').any(|name| name == "memory") => (root.join("memory"), &VERSION_1),
                _ => return None,
            };
            let own = root.join(path.trim_start_matches('/'));
            let folders = own.ancestors().take_while(|folder| folder.starts_with(&root));
            let mut cgroups = folders.map(|folder| Self { folder: folder.to_owned(), files });
            cgroups.find(|cgroup| cgroup.limit().is_some())
        })
    }

    fn limit(&self) -> Option<u64> {
        self.number(self.files.limit).filter(|limit| *limit < UNLIMITED_BYTES)
    }

    fn used(&self) -> Option<u64> {
        let stat = fs::read_to_string(self.folder.join("memory.stat")).unwrap_or_default();
        let inactive = stat.lines().find_map(|line| line.strip_prefix(self.files.inactive)?.trim().parse().ok());
        Some(self.number(self.files.usage)?.saturating_sub(inactive.unwrap_or(0)))
    }

    fn number(&self, file: &str) -> Option<u64> {
        fs::read_to_string(self.folder.join(file)).ok()?.trim().parse().ok()
    }
}

/// What the process has in memory.
fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kibibytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"))?;
    Some(kibibytes.parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn the_nearest_limit_counts_and_file_pages_that_nobody_used_do_not() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        write(root, "pod/memory.max", "1000\n");
        write(root, "pod/memory.current", "900\n");
        write(root, "pod/memory.stat", "anon 100\ninactive_file 400\n");
        write(root, "pod/container/memory.max", "max\n");
        let cgroup = Cgroup::find("0::/pod/container\n", root).unwrap();
        assert_eq!(cgroup.folder, root.join("pod"));
        assert_eq!(Source::Cgroup(cgroup).percent(), Some(50));
        assert_eq!(Cgroup::find("0::/other\n", root), None);
    }

    #[test]
    fn version_1_is_read_too_also_where_the_path_is_the_hosts() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        write(root, "memory/memory.limit_in_bytes", "2000");
        write(root, "memory/memory.usage_in_bytes", "1990");
        write(root, "memory/memory.stat", "inactive_file 7\ntotal_inactive_file 90\n");
        let membership = "12:cpu,cpuacct:/\n4:memory:/docker/abc\n0::/\n";
        let cgroup = Cgroup::find(membership, root).unwrap();
        assert_eq!(Source::Cgroup(cgroup).percent(), Some(95));
        write(root, "memory/memory.limit_in_bytes", "9223372036854771712");
        assert_eq!(Cgroup::find(membership, root), None, "no limit");
    }

    #[test]
    fn a_limit_of_ones_own_is_held_against_what_is_resident() {
        let resident = resident().unwrap();
        assert!(resident > 1 << 16);
        assert!(Source::Own { limit: resident / 4 }.percent().unwrap() > 200);
        assert_eq!(Source::Own { limit: u64::MAX }.percent(), Some(0));
    }
}
