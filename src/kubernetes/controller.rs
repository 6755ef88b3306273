//! What is written to the cluster, and by whom: a candidate for the Lease, and behind it the writers of status
//! and Events, which work while it leads.

use std::rc::Rc;
use std::time::Duration;

use kube::Client;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::events::{self, Live, Problems, Reporter};
use super::lease::{Candidate, Lead, Told};
use super::status::{self, Address, Differing, Written};
use crate::model::ObjectName;

/// Longest wait at the end for the API server to take what is still to be written.
const RESIGNATION_MAX: Duration = Duration::from_secs(20);

/// What the operator decides of it.
#[derive(Debug, Clone)]
pub struct Writing {
    pub lease: ObjectName,
    pub lease_duration: Duration,
    /// Of this replica.
    pub identity: String,
    /// The controller's name in Events.
    pub controller: String,
    pub addresses: Addresses,
    /// Clear the status when the last replica stops.
    pub clear: bool,
}

/// Where the addresses for the status come from.
#[derive(Debug, Clone)]
pub enum Addresses {
    /// No status is written.
    None,
    Fixed(Vec<Address>),
    Service(ObjectName),
}

/// What the writers ask for.
#[derive(Clone)]
pub struct Sources {
    pub differing: Differing,
    pub written: Written,
    pub problems: Problems,
    pub live: Live,
    pub leads: Told,
}

/// The running writers.
pub struct Controller {
    changed: [Rc<Notify>; 2],
}

/// By it this replica lets another one lead.
pub struct Resignation {
    stop: watch::Sender<bool>,
    done: JoinHandle<()>,
}

impl Controller {
    /// Starts on this thread's `LocalSet`.
    pub fn start(client: &Client, writing: &Writing, sources: Sources) -> (Self, Resignation) {
        let (ours, leader) = Lead::new(sources.leads.clone());
        let (known, addresses) = watch::channel(None);
        let Sources { differing, written, problems, live, leads: _ } = sources;
        let publishes = match &writing.addresses {
            Addresses::None => false,
            Addresses::Fixed(fixed) => {
                known.send_replace(Some(fixed.clone()));
                true
            }
            Addresses::Service(service) => {
                tokio::task::spawn_local(status::follow(client.clone(), service.clone(), known));
                true
            }
        };
        let clears = (publishes && writing.clear).then(|| differing.clone());
        let (stop, stopped) = watch::channel(false);
        let candidate = Candidate::new(client, writing.lease.clone(), writing.identity.clone(), writing.lease_duration);
        let done = tokio::task::spawn_local(lead(client.clone(), candidate, ours, stopped, clears));

        let changed = [Rc::new(Notify::new()), Rc::new(Notify::new())];
        if publishes {
            let changed = changed[0].clone();
            let writer = status::write(client.clone(), leader.clone(), addresses, changed, differing, written);
            tokio::task::spawn_local(writer);
        }
        let reporter = Reporter { controller: writing.controller.clone(), instance: writing.identity.clone() };
        let writer = events::write(client.clone(), reporter, leader, changed[1].clone(), problems, live);
        tokio::task::spawn_local(writer);
        (Self { changed }, Resignation { stop, done })
    }

    /// Something that is written about may be different now.
    pub fn changed(&self) {
        self.changed.iter().for_each(|changed| changed.notify_one());
    }
}

impl Resignation {
    /// Writes nothing from now on, and frees the Lease.
    pub fn begin(&self) {
        self.stop.send_replace(true);
    }

    /// Returns once that is done, or the API server was waited for long enough.
    pub async fn done(self) {
        self.begin();
        let _ = tokio::time::timeout(RESIGNATION_MAX, self.done).await;
    }
}

/// Leads whenever it can, until it is stopped. The last replica clears the status, if the operator wants that.
async fn lead(
    client: Client,
    mut candidate: Candidate,
    ours: Lead,
    mut stopped: watch::Receiver<bool>,
    clears: Option<Differing>,
) {
    tokio::select! {
        () = candidate.campaign(&ours) => {}
        _ = stopped.wait_for(|stopped| *stopped) => {}
    }
    // The writers stop before the Lease is free.
    if !ours.set(false) {
        return;
    }
    let wait = clears.as_ref().map_or(Duration::ZERO, |_| candidate.succession());
    let last = candidate.release(wait).await;
    if let Some(differing) = clears.filter(|_| last) {
        status::clear(&client, &differing).await;
    }
}
