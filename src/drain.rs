//! How far the process is on its way out: serving, about to leave, draining, closing what is idle, or stopping now. One
//! value that everybody reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

use tokio::sync::watch;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Serving,
    /// It says that it is not ready, and serves as before until balancers have noticed.
    Leaving,
    /// What runs is finished; answers tell clients to go elsewhere.
    Draining,
    /// The drain's time is up: what is idle is closed, and WebSockets are told.
    Closing,
    /// That took long enough, or the operator asked twice.
    Stopping,
}

/// Shared by all threads. The hot path reads one atomic that is written four times in the life of the process.
#[derive(Debug)]
pub struct Drain {
    phase: AtomicU8,
    changed: watch::Sender<()>,
    /// Another process accepts from our sockets.
    handed_over: AtomicBool,
    /// Downstream connections of all workers.
    pub connections: Connections,
}

/// On cache lines of its own: workers write it, and read what stands beside it.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Connections(AtomicUsize);

impl Connections {
    /// Counts one more; returns how many there were.
    pub fn open(&self) -> usize {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    pub fn close(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drain {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            phase: AtomicU8::new(0),
            changed: watch::Sender::new(()),
            handed_over: AtomicBool::new(false),
            connections: Connections::default(),
        })
    }

    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Serving,
            1 => Phase::Leaving,
            2 => Phase::Draining,
            3 => Phase::Closing,
            _ => Phase::Stopping,
        }
    }

    /// Is ready no longer. Wakes nobody: connections ask but once to be told when draining begins.
    pub fn leave(&self) {
        self.phase.fetch_max(Phase::Leaving as u8, Ordering::Relaxed);
    }

    /// Another process has our sockets and accepts: this one stops, and drains.
    pub fn hand_over(&self) {
        self.handed_over.store(true, Ordering::Relaxed);
        self.advance(Phase::Draining);
    }

    pub fn is_handed_over(&self) -> bool {
        self.handed_over.load(Ordering::Relaxed)
    }

    /// Moves on; never back.
    pub fn advance(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::Relaxed);
        self.changed.send_replace(());
    }

    /// Returns once the phase has been reached.
    pub async fn reached(&self, phase: Phase) {
        let mut changed = self.changed.subscribe();
        while self.phase() < phase {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Returns once no connection is to be accepted any more from a socket. One of ours alone is accepted from to the
    /// end: closing it would reset those that wait in it. In one that is `kept` by a supervisor they wait for the next
    /// process, and this one would have to leave whom it accepts last.
    pub async fn ends_accepting(&self, kept: bool) {
        let last = if kept { Phase::Draining } else { Phase::Stopping };
        let mut changed = self.changed.subscribe();
        while !(self.is_handed_over() || self.phase() >= last) {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }
}
