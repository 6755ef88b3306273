//! One replica of several writes: the one that holds the Lease. It renews three times within the Lease's time;
//! one that is gone is followed by another when that time is over, by the others' own clocks.

use std::rc::Rc;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;

use crate::model::ObjectName;

/// How often a candidate looks, as a part of the Lease's time.
const LOOKS: u32 = 7;

/// Whether this replica leads: the writers learn of it, and before them who is told, so that nothing is written by
/// one of whom nobody knows that it leads.
pub struct Lead {
    leading: watch::Sender<bool>,
    told: Told,
}

/// Told whether this replica leads now.
pub type Told = Rc<dyn Fn(bool)>;

impl Lead {
    pub fn new(told: Told) -> (Self, watch::Receiver<bool>) {
        let (leading, leader) = watch::channel(false);
        (Self { leading, told }, leader)
    }

    /// Says what was true before.
    pub fn set(&self, leads: bool) -> bool {
        (self.told)(leads);
        let mut before = leads;
        self.leading.send_if_modified(|known| {
            before = std::mem::replace(known, leads);
            before != leads
        });
        before
    }

    fn is_ours(&self) -> bool {
        *self.leading.borrow()
    }
}

/// A candidate for the Lease.
pub struct Candidate {
    api: Api<Lease>,
    lease: ObjectName,
    identity: String,
    duration: Duration,
    /// Holder and time of renewal as last read, and when that was first seen.
    observed: Option<(Option<String>, Option<MicroTime>, Instant)>,
    renewed: Option<Instant>,
}

impl Candidate {
    /// `duration` is rounded up to whole seconds.
    pub fn new(client: &Client, lease: ObjectName, identity: String, duration: Duration) -> Self {
        let api = Api::namespaced(client.clone(), &lease.namespace);
        let duration = Duration::from_secs(u64::try_from(duration.as_millis().div_ceil(1000)).unwrap_or(1).max(1));
        Self { api, lease, identity, duration, observed: None, renewed: None }
    }

    /// Takes and keeps the Lease whenever it can, and says so through `lead`, for ever.
    pub async fn campaign(&mut self, lead: &Lead) {
        loop {
            let attempt = tokio::time::timeout(self.duration / 3, self.attempt()).await;
            let failure = match attempt {
                Ok(Ok(true)) => {
                    self.renewed = Some(Instant::now());
                    self.tell(lead, true);
                    None
                }
                Ok(Ok(false)) => {
                    self.renewed = None;
                    self.tell(lead, false);
                    None
                }
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("no answer".to_owned()),
            };
            if let Some(failure) = failure {
                tracing::debug!(lease = %self.lease, failure, "the Lease could not be read or written");
                // Nobody else takes it before its time is over; by then this one has stopped.
                if self.renewed.is_none_or(|renewed| renewed.elapsed() > self.duration * 2 / 3) {
                    self.tell(lead, false);
                }
            }
            let pause = if lead.is_ours() { self.duration / 3 } else { self.duration / LOOKS };
            tokio::time::sleep(pause.mul_f64(fastrand::f64().midpoint(1.0))).await;
        }
    }

    /// Lets go of the Lease, so that another need not wait; says whether nobody took it within `wait`.
    pub async fn release(&mut self, wait: Duration) -> bool {
        let Ok(Some(mut lease)) = self.api.get_opt(&self.lease.name).await else { return false };
        let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_ref() == Some(&self.identity))
        else {
            return false;
        };
        spec.holder_identity = None;
        if self.api.replace(&self.lease.name, &PostParams::default(), &lease).await.is_err() {
            return false;
        }
        tokio::time::sleep(wait).await;
        match self.api.get_opt(&self.lease.name).await {
            Ok(Some(lease)) => lease.spec.and_then(|spec| spec.holder_identity).is_none(),
            Ok(None) | Err(_) => false,
        }
    }

    /// How long the others may take to notice that the Lease is free.
    pub fn succession(&self) -> Duration {
        self.duration / LOOKS * 2
    }

    fn tell(&self, lead: &Lead, leads: bool) {
        let changed = lead.set(leads) != leads;
        if changed && leads {
            tracing::info!(lease = %self.lease, identity = self.identity, "leading: this replica writes status and Events");
        } else if changed {
            tracing::info!(lease = %self.lease, "no longer leading");
        }
    }

    /// Takes or renews the Lease if that is possible now; says whether it is ours. A write that loses a race fails
    /// by the object's version.
    async fn attempt(&mut self) -> kube::Result<bool> {
        let Some(mut lease) = self.api.get_opt(&self.lease.name).await? else {
            let metadata = ObjectMeta { name: Some(self.lease.name.to_string()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.spec(None)) };
            return won(self.api.create(&PostParams::default(), &lease).await);
        };
        let spec = lease.spec.take().unwrap_or_default();
        let ours = spec.holder_identity.as_ref() == Some(&self.identity);
        if !ours && !self.is_over(&spec) {
            return Ok(false);
        }
        lease.spec = Some(self.spec(Some(spec)));
        won(self.api.replace(&self.lease.name, &PostParams::default(), &lease).await)
    }

    /// Whether the holder has not renewed for as long as it promised. Its clock is not compared with ours.
    fn is_over(&mut self, spec: &LeaseSpec) -> bool {
        let Some(holder) = spec.holder_identity.as_ref().filter(|holder| !holder.is_empty()) else { return true };
        let seconds = u64::try_from(spec.lease_duration_seconds.unwrap_or_default()).unwrap_or_default();
        match &self.observed {
            Some((known, renewed, since)) if known.as_ref() == Some(holder) && *renewed == spec.renew_time => {
                since.elapsed() > Duration::from_secs(seconds)
            }
            _ => {
                self.observed = Some((Some(holder.clone()), spec.renew_time.clone(), Instant::now()));
                false
            }
        }
    }

    fn spec(&self, before: Option<LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let before = before.unwrap_or_default();
        let ours = before.holder_identity.as_ref() == Some(&self.identity);
        let transitions = before.lease_transitions.unwrap_or_default();
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(i32::try_from(self.duration.as_secs()).unwrap_or(i32::MAX)),
            acquire_time: if ours { before.acquire_time } else { Some(now.clone()) },
            renew_time: Some(now),
            lease_transitions: Some(if ours { transitions } else { transitions.saturating_add(1) }),
            ..LeaseSpec::default()
        }
    }
}

/// Someone else was quicker: that is an answer, and no failure.
fn won(written: kube::Result<Lease>) -> kube::Result<bool> {
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}
