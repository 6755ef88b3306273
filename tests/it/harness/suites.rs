//! Suites of others, which `scripts/suites.sh` gets into `target/tools`.

use std::path::PathBuf;

/// The folder of a suite. Fails where it isn't there.
#[track_caller]
pub fn tool(name: &str) -> PathBuf {
    try_tool(name).unwrap_or_else(|| panic!("target/tools/{name} is not there: scripts/suites.sh gets it"))
}

/// Likewise, of one that not every machine can have.
pub fn try_tool(name: &str) -> Option<PathBuf> {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools")).join(name);
    // Written last.
    folder.join("version").exists().then_some(folder)
}
