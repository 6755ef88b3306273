//! Whether endpoints are well, as all workers know it: ejected because they failed too often, failing their checks, or
//! back and not yet warm. It is rarely written. While all endpoints of a backend are well, a request pays one relaxed
//! load for it; else [`Upstream::advise`] says whom to pass over, whatever the policy.
//!
//! An ejected endpoint comes back through a trial: when its time is over, one request goes there, and its outcome
//! decides for all. Each ejection in a row is longer by the first one's length. Never more than a share of a backend's
//! endpoints is out by ejection, and never the last.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use super::{Endpoint, Upstream};
use crate::metrics::Metrics;

/// Longest that an endpoint is left out, unless the first time is longer already: five minutes.
const EJECTION_MILLISECONDS_MAX: u64 = 300_000;
/// Share of its requests that an endpoint has from the start of its slow start on.
const WARM_SHARE_MIN: f64 = 0.1;

static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
/// Numbers for changes; no two are the same.
static CHANGES: AtomicU64 = AtomicU64::new(1);

/// Milliseconds of the process, the same in all threads; never 0.
pub(super) fn now() -> u64 {
    u64::try_from(BEGUN.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
}

/// What the endpoints of a backend share, for as long as it lives.
#[derive(Debug)]
pub(super) struct Ward {
    /// 0 while all are well; else another number for each change.
    unrest: AtomicU64,
    /// Somebody decides on an ejection now: two at once could be one too many.
    ejecting: AtomicBool,
    metrics: Arc<Metrics>,
}

impl Ward {
    pub(super) fn new(metrics: &Arc<Metrics>) -> Arc<Self> {
        let (unrest, ejecting) = (AtomicU64::new(0), AtomicBool::new(false));
        Arc::new(Self { unrest, ejecting, metrics: metrics.clone() })
    }

    /// Has everybody look, from the next pick on.
    fn disturb(&self) {
        self.unrest.store(CHANGES.fetch_add(1, Ordering::Relaxed), Ordering::Release);
    }
}

/// The health of one endpoint.
#[derive(Debug)]
pub struct Health {
    /// When an ejection is over, in milliseconds; 0 if there is none.
    ejected_until: AtomicU64,
    /// Ejections in a row.
    ejections: AtomicU32,
    /// Its checks say that it is not well.
    failing: AtomicBool,
    /// When it became new, or well again; 0 if it always was.
    since: AtomicU64,
    ward: Arc<Ward>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Standing {
    Well,
    /// It takes this share of the requests that it would get.
    Warming(f64),
    /// Its ejection is over, and a request may find out.
    OnTrial,
    Out,
}

/// Whom a request passes over for reasons of health.
#[derive(Debug, Default)]
pub struct Advice {
    pub avoid: Vec<usize>,
    /// This request is the one that finds out whether the endpoint is well again.
    pub trial: Option<usize>,
    /// So few are well that all are used.
    pub panics: bool,
}

impl Health {
    /// `warms` is whether it begins slowly.
    pub(super) fn new(ward: Arc<Ward>, warms: bool) -> Self {
        let since = if warms { now() } else { 0 };
        if warms {
            ward.disturb();
        }
        Self {
            ejected_until: AtomicU64::new(0),
            ejections: AtomicU32::new(0),
            failing: AtomicBool::new(false),
            since: AtomicU64::new(since),
            ward,
        }
    }

    fn standing(&self, now: u64, slow_start: u64) -> Standing {
        if self.failing.load(Ordering::Relaxed) {
            return Standing::Out;
        }
        match self.ejected_until.load(Ordering::Relaxed) {
            0 => match self.since.load(Ordering::Relaxed) {
                0 => Standing::Well,
                since => warmth(now.saturating_sub(since), slow_start).map_or(Standing::Well, Standing::Warming),
            },
            until if until > now => Standing::Out,
            _ => Standing::OnTrial,
        }
    }

    /// Whether it is out for more than a moment, or would be but for a trial.
    fn is_out(&self) -> bool {
        self.failing.load(Ordering::Relaxed) || self.ejected_until.load(Ordering::Relaxed) != 0
    }

    /// Takes the one trial that there is. Whoever has it answers by [`Self::passed`], or an ejection; if he does
    /// neither, another has it after the same time.
    fn claim(&self, now: u64, length: u64) -> bool {
        let until = self.ejected_until.load(Ordering::Relaxed);
        let due = until != 0 && until <= now;
        let next = now + length.max(1);
        due && self.ejected_until.compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// The trial went well.
    pub fn passed(&self) {
        if self.ejected_until.swap(0, Ordering::Relaxed) != 0 {
            self.since.store(now(), Ordering::Relaxed);
            self.ward.metrics.endpoints_ejected.fetch_sub(1, Ordering::Relaxed);
            self.ward.disturb();
        }
    }

    /// Leaves it out; returns for how many milliseconds.
    fn eject(&self, first: u64) -> u64 {
        let now = now();
        let max = EJECTION_MILLISECONDS_MAX.max(first);
        let before = self.ejections.load(Ordering::Relaxed);
        // One that has been well for longer than it could have been out begins anew.
        let out = self.ejected_until.load(Ordering::Relaxed) != 0;
        let forgiven = !out && now.saturating_sub(self.since.load(Ordering::Relaxed)) > max;
        let ejections = if forgiven { 1 } else { before.saturating_add(1) };
        let length = (first * u64::from(ejections)).min(max);
        self.ejections.store(ejections, Ordering::Relaxed);
        let metrics = &self.ward.metrics;
        metrics.ejections.fetch_add(1, Ordering::Relaxed);
        if self.ejected_until.swap(now + length, Ordering::Relaxed) == 0 {
            metrics.endpoints_ejected.fetch_add(1, Ordering::Relaxed);
        }
        self.ward.disturb();
        length
    }

    /// What its checks say now; returns whether that is news.
    pub(super) fn checked(&self, healthy: bool) -> bool {
        let news = self.failing.swap(!healthy, Ordering::Relaxed) == healthy;
        if news {
            let gauge = &self.ward.metrics.endpoints_failing;
            if healthy {
                gauge.fetch_sub(1, Ordering::Relaxed);
                self.since.store(now(), Ordering::Relaxed);
            } else {
                gauge.fetch_add(1, Ordering::Relaxed);
            }
            self.ward.disturb();
        }
        news
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        let metrics = &self.ward.metrics;
        if *self.ejected_until.get_mut() != 0 {
            metrics.endpoints_ejected.fetch_sub(1, Ordering::Relaxed);
        }
        if *self.failing.get_mut() {
            metrics.endpoints_failing.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Upstream {
    /// Whether all endpoints are well, so that nobody needs advice.
    pub fn is_at_rest(&self) -> bool {
        self.ward.unrest.load(Ordering::Relaxed) == 0
    }

    /// How many endpoints are in their slow start.
    pub fn warming(&self) -> u64 {
        if self.is_at_rest() {
            return 0;
        }
        let now = now();
        let warms =
            |endpoint: &&Arc<Endpoint>| matches!(endpoint.health.standing(now, self.slow_start), Standing::Warming(_));
        self.all_endpoints().filter(warms).count() as u64
    }

    /// Whom to pass over, beside those that were `passed` already.
    pub fn advise(&self, passed: &[usize]) -> Advice {
        let now = now();
        let unrest = self.ward.unrest.load(Ordering::Acquire);
        let standing = |endpoint: &Endpoint| endpoint.health.standing(now, self.slow_start);
        let standings: Vec<Standing> = self.endpoints.iter().map(|endpoint| standing(endpoint)).collect();
        if self.all_endpoints().all(|endpoint| standing(endpoint) == Standing::Well) {
            // Nobody is left out by what changed meanwhile: that has another number.
            let _ = self.ward.unrest.compare_exchange(unrest, 0, Ordering::Relaxed, Ordering::Relaxed);
            return Advice::default();
        }
        let due = |at: usize| standings[at] == Standing::OnTrial && !passed.contains(&at);
        let claimed = (0..standings.len()).filter(|at| due(*at)).find(|at| self.try_out(&self.endpoints[*at], now));
        if claimed.is_some() {
            return Advice { trial: claimed, ..Advice::default() };
        }
        if panics(&standings, self.outliers.panic_percent) {
            return Advice { panics: true, ..Advice::default() };
        }
        let avoid = (0..standings.len()).filter(|at| match standings[*at] {
            Standing::Well => false,
            Standing::Warming(share) => fastrand::f64() >= share,
            Standing::OnTrial | Standing::Out => true,
        });
        Advice { avoid: avoid.collect(), ..Advice::default() }
    }

    /// Whether an endpoint takes a request that is meant for it, and whether that is its trial.
    pub fn takes(&self, endpoint: &Endpoint) -> (bool, bool) {
        if self.is_at_rest() {
            return (true, false);
        }
        let now = now();
        match endpoint.health.standing(now, self.slow_start) {
            Standing::Well | Standing::Warming(_) => (true, false),
            Standing::OnTrial if self.try_out(endpoint, now) => (true, true),
            Standing::OnTrial | Standing::Out => {
                let all: Vec<Standing> =
                    self.endpoints.iter().map(|endpoint| endpoint.health.standing(now, self.slow_start)).collect();
                (panics(&all, self.outliers.panic_percent), false)
            }
        }
    }

    fn try_out(&self, endpoint: &Endpoint, now: u64) -> bool {
        endpoint.health.claim(now, self.outliers.ejection_milliseconds.into())
    }

    /// Leaves an endpoint alone for a while, which failed too often or on its trial, unless too many are out.
    pub(super) fn eject(&self, endpoint: &Endpoint, on_trial: bool) {
        let ward = &*self.ward;
        if ward.ejecting.swap(true, Ordering::Acquire) {
            return;
        }
        let out = self.endpoints.iter().filter(|endpoint| endpoint.health.is_out()).count();
        let allowed = on_trial
            || (!endpoint.health.is_out() && may_eject(self.endpoints.len(), out, self.outliers.ejected_percent_max));
        if allowed {
            let milliseconds = endpoint.health.eject(self.outliers.ejection_milliseconds.into());
            tracing::info!(backend = %self.label, endpoint = %endpoint.label, milliseconds, "ejected: it failed");
        }
        ward.ejecting.store(false, Ordering::Release);
    }
}

/// The share of its requests that an endpoint gets so long after it became new; `None` is all.
#[expect(clippy::cast_precision_loss, reason = "a share need not be exact")]
fn warmth(age: u64, slow_start: u64) -> Option<f64> {
    (age < slow_start).then(|| (age as f64 / slow_start as f64).max(WARM_SHARE_MIN))
}

/// Whether so few are well that all are used. Without any there is no choice.
fn panics(standings: &[Standing], percent: u32) -> bool {
    let well = standings.iter().filter(|standing| matches!(standing, Standing::Well | Standing::Warming(_))).count();
    well == 0 || well * 100 < standings.len() * percent as usize
}

/// Whether one more of so many endpoints may be out: one always, if there is another, and never the last.
fn may_eject(endpoints: usize, out: usize, percent: u32) -> bool {
    let share = (endpoints * percent as usize / 100).max(1);
    out < share.min(endpoints.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> Health {
        Health::new(Ward::new(&Metrics::new()), false)
    }

    #[test]
    fn an_ejected_endpoint_comes_back_by_one_trial() {
        let health = health();
        assert_eq!((health.standing(now(), 0), health.is_out()), (Standing::Well, false));
        let length = health.eject(1_000);
        let over = health.ejected_until.load(Ordering::Relaxed);
        assert_eq!(
            (length, health.standing(over - 1, 0), health.standing(over, 0)),
            (1_000, Standing::Out, Standing::OnTrial)
        );
        assert!(!health.claim(over - 1, 500));
        assert!(health.claim(over, 500) && !health.claim(over, 500), "there is one");
        assert_eq!((health.standing(over, 0), health.standing(over + 500, 0)), (Standing::Out, Standing::OnTrial));
        health.passed();
        assert_eq!(health.standing(now(), 0), Standing::Well);
        assert!(matches!(health.standing(now(), 60_000), Standing::Warming(_)));
        let metrics = health.ward.metrics.clone();
        assert_eq!(metrics.endpoints_ejected.load(Ordering::Relaxed), 0);
        health.eject(1_000);
        assert_eq!(metrics.endpoints_ejected.load(Ordering::Relaxed), 1);
        drop(health);
        assert_eq!(metrics.endpoints_ejected.load(Ordering::Relaxed), 0, "one that is gone is not ejected");
    }

    #[test]
    fn ejections_in_a_row_are_longer_each_time_up_to_a_limit() {
        let health = health();
        let lengths: Vec<u64> = (0..5).map(|_| health.eject(90_000)).collect();
        assert_eq!(lengths, [90_000, 180_000, 270_000, 300_000, 300_000]);
        health.passed();
        assert_eq!(health.eject(10_000), 60_000, "well for a moment is not well");
        health.passed();
        assert_eq!(self::health().eject(400_000), 400_000);
    }

    #[test]
    fn checks_and_ejections_are_two_things() {
        let health = health();
        assert!(!health.checked(true) && health.checked(false) && !health.checked(false));
        health.eject(1);
        assert!(health.checked(true));
        assert!(health.is_out());
        health.passed();
        assert!(!health.is_out());
    }

    #[test]
    fn never_too_many_are_ejected_and_never_the_last() {
        let most = |endpoints, percent| (0..=endpoints).find(|out| !may_eject(endpoints, *out, percent)).unwrap();
        for (endpoints, percent, expected) in
            [(0, 50, 0), (1, 100, 0), (2, 50, 1), (2, 10, 1), (3, 50, 1), (4, 50, 2), (10, 100, 9), (10, 0, 1)]
        {
            assert_eq!(most(endpoints, percent), expected, "{endpoints} at {percent} %");
        }
    }

    #[test]
    fn panic_begins_below_its_threshold() {
        use Standing::{Out, Warming, Well};
        assert!(!panics(&[Well, Out, Out], 25) && panics(&[Well, Out, Out], 50) && !panics(&[Well, Out], 50));
        assert!(panics(&[Out, Out], 0), "there is no choice");
        assert!(!panics(&[Warming(0.1), Out], 50) && panics(&[], 0));
    }

    #[test]
    fn an_endpoint_warms_up_over_its_slow_start() {
        let warm = |age| warmth(age, 10_000);
        assert_eq!([warm(0), warm(500), warm(5_000), warm(10_000)], [Some(0.1), Some(0.1), Some(0.5), None]);
        assert_eq!(warmth(0, 0), None);
    }
}
