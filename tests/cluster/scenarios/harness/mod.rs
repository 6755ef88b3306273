//! What the scenarios share: the cluster they run in, Portunus in it, clients inside and outside, and load.

pub mod access;
pub mod client;
pub mod cluster;
pub mod instance;
pub mod load;
pub mod manifests;

#[path = "../../../it/harness/certificates.rs"]
#[allow(dead_code, reason = "shared with the socket tests, which use all of it")]
pub mod certificates;
#[path = "../../../it/harness/h1.rs"]
#[allow(dead_code, reason = "shared with the socket tests, which use all of it")]
pub mod h1;
#[path = "../../../it/harness/tls.rs"]
#[allow(dead_code, reason = "shared with the socket tests, which use all of it")]
pub mod tls;
#[path = "../../../it/harness/wire.rs"]
#[allow(dead_code, reason = "shared with the socket tests, which use all of it")]
pub mod wire;

use std::time::{Duration, Instant};

pub use client::Echo;
pub use cluster::{Cluster, Namespace, cluster};
pub use instance::Instance;
pub use load::Load;

/// The deadline of every wait; a scenario that passes never gets near it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Polls until there is an answer, and fails with `what` at the deadline.
#[track_caller]
pub fn eventually<T>(what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(answer) = poll() {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("waited {PATIENCE:?} in vain for {what}");
}

/// `full` under `PORTUNUS_SCALE=full` (`make proof`), else `small` (`make test`).
pub fn scale<T>(small: T, full: T) -> T {
    if setting("PORTUNUS_SCALE").as_deref() == Some("full") { full } else { small }
}

#[expect(clippy::disallowed_methods, reason = "where the cluster is comes from outside")]
pub fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The middle and the 99th percentile.
pub fn percentiles(mut all: Vec<Duration>) -> (Duration, Duration) {
    all.sort();
    (all[all.len() / 2], all[(all.len() * 99 / 100).min(all.len() - 1)])
}
