//! How the process ends: a signal begins it, with a delay in which balancers notice, or the next process, which has
//! taken over; then what runs is finished, for as long as the operator allows, and at last what is idle is closed.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::task;

use crate::config::Process;
use crate::drain::{Drain, Phase};

/// How often a draining process looks whether it is done.
const DRAIN_POLL: Duration = Duration::from_millis(20);
/// How long WebSockets have at the drain's end to say goodbye, and whoever is idle to be closed.
const CLOSING: Duration = Duration::from_secs(2);

/// SIGTERM and SIGINT, told apart from nothing else.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub fn new() -> Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    pub async fn any(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Returns when the process is to end: at a signal, or when the next one serves.
pub async fn begins(drain: &Drain, signals: &mut Signals) {
    tokio::select! {
        () = signals.any() => {}
        () = drain.reached(Phase::Draining) => {}
    }
}

/// Leaves the sockets to the next process once it serves. What listens here for the control side ends at once, so
/// that whoever asks is answered by the one that stays.
pub fn follow(drain: &Arc<Drain>, taken: Arc<Notify>, listening: Vec<task::JoinHandle<()>>) {
    let drain = drain.clone();
    task::spawn_local(async move {
        taken.notified().await;
        tracing::info!("another process has taken over the sockets");
        listening.iter().for_each(task::JoinHandle::abort);
        drain.hand_over();
    });
}

/// Lets running requests end, for as long as the operator allows, and stops the workers. Before that, everything
/// is served as if nothing had happened, until whoever balances over replicas has read that this one isn't ready.
pub async fn drain_all(drain: &Drain, process: &Process, signals: &mut Signals, threads: Vec<JoinHandle<()>>) {
    let (delay, timeout) = (process.pre_stop_delay, process.drain_timeout);
    let ending = async {
        if !delay.is_zero() && !drain.is_handed_over() {
            tracing::info!(?delay, "not ready any more, and serving on; a second signal stops at once");
            drain.leave();
            // Nobody has to notice anything once another process has the sockets.
            let _ = tokio::time::timeout(delay, drain.reached(Phase::Draining)).await;
        }
        drained(drain, timeout).await;
    };
    tokio::select! {
        () = ending => {}
        () = signals.any() => tracing::info!("stopping at once"),
    }
    drain.advance(Phase::Stopping);
    let joined = task::spawn_blocking(|| threads.into_iter().for_each(|thread| drop(thread.join())));
    let _ = joined.await;
}

/// Returns when no connection is left, or after that time; then WebSockets have been told and idle ones closed.
async fn drained(drain: &Drain, timeout: Duration) {
    let connections = drain.connections.count();
    tracing::info!(connections, ?timeout, "draining; a second signal stops at once");
    drain.advance(Phase::Draining);
    let empty = async || {
        while drain.connections.count() > 0 {
            tokio::time::sleep(DRAIN_POLL).await;
        }
    };
    if tokio::time::timeout(timeout, empty()).await.is_ok() {
        tracing::info!("drained");
        return;
    }
    tracing::info!(connections = drain.connections.count(), "the drain's time is up");
    drain.advance(Phase::Closing);
    let _ = tokio::time::timeout(CLOSING, empty()).await;
}
