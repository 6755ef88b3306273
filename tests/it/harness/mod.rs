//! What the socket tests share: a folder of manifests, the real binary, backends that record
//! every byte, and clients that send exact bytes. Nothing here sleeps for correctness: a wait
//! polls or blocks for an event and gives up at `PATIENCE`.
#![allow(clippy::needless_pass_by_value, reason = "builders take what is at hand: a text, a number, a builder")]

pub mod api_server;
pub mod attacker;
pub mod backend;
pub mod certificates;
pub mod command;
pub mod exchange;
pub mod fair;
pub mod folder;
pub mod h1;
pub mod h2;
pub mod h2_raw;
pub mod hello;
pub mod hyper_backend;
pub mod manifests;
pub mod nginx;
pub mod process;
pub mod program;
pub mod reach;
pub mod services;
pub mod strict;
pub mod strict_backend;
pub mod suites;
pub mod tls;
pub mod websocket;
pub mod wire;

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

pub use backend::{Backend, Deaf};
pub use exchange::Exchange;
pub use folder::Folder;
pub use manifests::Ingress;
pub use nginx::Nginx;
pub use process::Portunus;
pub use services::{Service, Slice};

/// The deadline of every wait. Long, because two cores may be busy with a build meanwhile; a test
/// that passes never gets near it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Polls until there is an answer, and fails with `what` at the deadline.
#[track_caller]
pub fn eventually<T>(what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(answer) = poll() {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(4));
    }
    panic!("waited {PATIENCE:?} in vain for {what}");
}

/// `full` under `PORTUNUS_SCALE=full` (`make proof`), else `small` (`make test`).
#[expect(clippy::disallowed_methods, reason = "the scale of the tests comes from outside")]
pub fn scale<T>(small: T, full: T) -> T {
    match std::env::var("PORTUNUS_SCALE").as_deref() {
        Ok("full") => full,
        _ => small,
    }
}

/// Runs a future to its end on a runtime of its own, within `PATIENCE`.
pub fn run<F: Future>(future: F) -> F::Output {
    run_within(PATIENCE, future)
}

/// Like `run`, for the scenarios that take longer at full size.
pub fn run_within<F: Future>(limit: Duration, future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(async {
        tokio::time::timeout(limit, future).await.unwrap_or_else(|_| panic!("not done in {limit:?}"))
    })
}

/// Says to the threads of a scope that it is over, also when the test fails.
pub struct Over<'a>(pub &'a std::sync::atomic::AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}

/// A door that a test opens for a backend's thread, or the other way round.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn open(&self) {
        *self.0.0.lock().expect("gate") = true;
        self.0.1.notify_all();
    }

    pub fn is_open(&self) -> bool {
        *self.0.0.lock().expect("gate")
    }

    #[track_caller]
    pub fn wait(&self, what: &str) {
        let guard = self.0.0.lock().expect("gate");
        let (_guard, timeout) = self.0.1.wait_timeout_while(guard, PATIENCE, |open| !*open).expect("gate");
        assert!(!timeout.timed_out(), "waited {PATIENCE:?} in vain for {what}");
    }
}
