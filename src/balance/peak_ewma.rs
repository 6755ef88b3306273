//! Peak EWMA (Finagle): the expected wait is the latency, which jumps to a peak at once and decays to the mean
//! over ten seconds, times the requests in flight; the lower of two taken at random gets the request.

use std::time::{Duration, Instant};

use super::{Request, cheaper_of_two};

/// Time in which an old latency loses two thirds of its weight, as in ingress-nginx and Finagle.
const DECAY: Duration = Duration::from_secs(10);
/// Wait expected of an endpoint that has not answered yet but has requests: high, so that one slow starter
/// does not collect a queue.
const UNKNOWN_MICROSECONDS: f64 = 1e6;

/// The moving latency of one endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Latency {
    microseconds: f64,
    at: Instant,
}

impl Latency {
    pub fn new(now: Instant) -> Self {
        Self { microseconds: 0.0, at: now }
    }

    /// Takes an answer's latency into account.
    pub fn observe(&mut self, latency: Duration, now: Instant) {
        let measured = latency.as_secs_f64() * 1e6;
        let kept = decay(now.saturating_duration_since(self.at));
        let mean = self.microseconds * kept + measured * (1.0 - kept);
        self.microseconds = if measured > self.microseconds { measured } else { mean };
        self.at = now;
    }

    /// Microseconds expected at `now`; an endpoint left alone is forgiven.
    pub fn microseconds(&self, now: Instant) -> f64 {
        self.microseconds * decay(now.saturating_duration_since(self.at))
    }
}

fn decay(elapsed: Duration) -> f64 {
    (-elapsed.as_secs_f64() / DECAY.as_secs_f64()).exp()
}

pub(super) fn pick(weights: &[u32], request: &Request) -> Option<usize> {
    cheaper_of_two(weights.len(), request, |index| {
        let load = (request.load)(index);
        let unknown = load.latency == 0.0 && load.in_flight > 0;
        let latency = if unknown { UNKNOWN_MICROSECONDS } else { load.latency };
        latency.max(1.0) * f64::from(load.in_flight + 1) / f64::from(weights[index])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::Load;

    #[test]
    fn a_peak_counts_at_once_and_fades() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut latency = Latency::new(start);
        latency.observe(Duration::from_millis(10), after(1));
        latency.observe(Duration::from_millis(500), after(2));
        assert!((latency.microseconds(after(2)) - 500_000.0).abs() < 1.0);
        latency.observe(Duration::from_millis(10), after(12));
        assert!((150_000.0..250_000.0).contains(&latency.microseconds(after(12))));
        assert!(latency.microseconds(after(60)) < 10_000.0);
    }

    #[test]
    fn the_slow_endpoint_is_avoided() {
        let load = |index| Load { in_flight: 1, latency: [90_000.0, 1_000.0][index] };
        for random in [0, u64::MAX, 1 << 32, 0x1234_0000_5678] {
            assert_eq!(pick(&[1, 1], &Request { turn: 0, random, key: 0, tried: &[], load: &load }), Some(1));
        }
    }
}
