//! What the failure of a watch means, and how long to wait after it.

use std::time::Duration;

use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event};

/// Pause after a watch has failed: twice as long each time, within these, and half of it by chance.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Whether the server refuses to stream a list (before Kubernetes 1.34, or by its feature gate).
pub fn is_unsupported<K>(event: &Result<Event<K>, watcher::Error>) -> bool {
    let Err(watcher::Error::WatchStartFailed(kube::Error::Api(status))) = event else { return false };
    matches!(status.code, 400 | 422)
}

/// Whether the server forbids it: to ask again soon is of no use.
pub fn is_refused(error: &watcher::Error) -> bool {
    let inner = match error {
        watcher::Error::InitialListFailed(inner)
        | watcher::Error::WatchStartFailed(inner)
        | watcher::Error::WatchFailed(inner) => inner,
        watcher::Error::WatchError(status) => return status.code == 403,
        watcher::Error::NoResourceVersion => return false,
    };
    matches!(inner, kube::Error::Api(status) if status.code == 403)
}

/// The error with its causes, once each.
pub fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// How long to wait after each failure in a row.
#[derive(Debug, Default)]
pub struct Pause(u32);

impl Iterator for Pause {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let most = PAUSE_MIN.saturating_mul(1 << self.0.min(10)).min(PAUSE_MAX);
        self.0 = self.0.saturating_add(1);
        Some(most.mul_f64(fastrand::f64().midpoint(1.0)))
    }
}

impl Backoff for Pause {
    fn reset(&mut self) {
        self.0 = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded_and_begin_anew() {
        let mut pause = Pause::default();
        let pauses: Vec<Duration> = pause.by_ref().take(100).collect();
        assert!(pauses[0] <= PAUSE_MIN && pauses[0] >= PAUSE_MIN / 2);
        assert!(pauses.iter().all(|pause| *pause <= PAUSE_MAX));
        assert!(pauses[50..].iter().all(|pause| *pause >= PAUSE_MAX / 2));
        pause.reset();
        assert!(pause.next().is_some_and(|pause| pause <= PAUSE_MIN));
    }
}
