//! What is written to the cluster, and by whom: a candidate for the Lease, and behind it the writers of status
//! and Events, which work while it leads.

use std::rc::Rc;
use std::time::Duration;

use kube::Client;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::events::{self, Live, Problems, Reporter};
use super::lease::Candidate;
use super::status::{self, Address, Differing, Written};
use crate::model::ObjectName;

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
}

pub struct Controller {
    client: Client,
    changed: [Rc<Notify>; 2],
    leader: watch::Receiver<bool>,
    stop: watch::Sender<bool>,
    candidate: JoinHandle<Candidate>,
    clears: Option<Differing>,
}

impl Controller {
    /// Starts on this thread's `LocalSet`.
    pub fn start(client: &Client, writing: &Writing, sources: Sources) -> Self {
        let (leading, leader) = watch::channel(false);
        let (stop, mut stopped) = watch::channel(false);
        let mut candidate =
            Candidate::new(client, writing.lease.clone(), writing.identity.clone(), writing.lease_duration);
        let candidate = tokio::task::spawn_local(async move {
            tokio::select! {
                () = candidate.campaign(&leading) => {}
                _ = stopped.wait_for(|stopped| *stopped) => {}
            }
            // The writers stop before the Lease is free.
            leading.send_replace(false);
            candidate
        });

        let (known, addresses) = watch::channel(None);
        let Sources { differing, written, problems, live } = sources;
        let clears = match &writing.addresses {
            Addresses::None => None,
            Addresses::Fixed(fixed) => {
                known.send_replace(Some(fixed.clone()));
                Some(differing.clone())
            }
            Addresses::Service(service) => {
                tokio::task::spawn_local(status::follow(client.clone(), service.clone(), known));
                Some(differing.clone())
            }
        };
        let changed = [Rc::new(Notify::new()), Rc::new(Notify::new())];
        if clears.is_some() {
            let changed = changed[0].clone();
            let writer = status::write(client.clone(), leader.clone(), addresses, changed, differing, written);
            tokio::task::spawn_local(writer);
        }
        let reporter = Reporter { controller: writing.controller.clone(), instance: writing.identity.clone() };
        let writer = events::write(client.clone(), reporter, leader.clone(), changed[1].clone(), problems, live);
        tokio::task::spawn_local(writer);
        let clears = clears.filter(|_| writing.clear);
        Self { client: client.clone(), changed, leader, stop, candidate, clears }
    }

    /// Something that is written about may be different now.
    pub fn changed(&self) {
        self.changed.iter().for_each(|changed| changed.notify_one());
    }

    pub fn leads(&self) -> bool {
        *self.leader.borrow()
    }

    /// Lets another replica lead; the last one clears the status, if the operator wants that.
    pub async fn stop(self) {
        let led = self.leads();
        self.stop.send_replace(true);
        let Ok(mut candidate) = self.candidate.await else { return };
        if !led {
            return;
        }
        let wait = self.clears.as_ref().map_or(Duration::ZERO, |_| candidate.succession());
        let last = candidate.release(wait).await;
        if let Some(differing) = self.clears.filter(|_| last) {
            status::clear(&self.client, &differing).await;
        }
    }
}
