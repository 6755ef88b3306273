//! How much one client may ask of a rule: requests in a time, as a leaky bucket like nginx's `limit_req` with
//! `nodelay`, and requests at once, as its `limit_conn`. Here is what a limit is and what one request does to a
//! bucket, by the time that it is given; who keeps the buckets is `upstream`'s affair.

use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;

use http::{HeaderValue, StatusCode, header};
use ipnet::IpNet;
use serde::Serialize;

use super::{Answer, text};

/// What one request adds to a bucket. A bucket of one request a minute loses one unit each millisecond, so that no
/// rate is rounded.
const REQUEST_UNITS: u64 = 60_000;
const MILLISECONDS: u64 = 1_000;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Limits {
    /// Each of them counts.
    pub rates: Vec<Rate>,
    /// Requests at once; a tunnel is one for as long as it lives.
    pub connections: Option<NonZeroU32>,
    /// Clients that aren't counted.
    pub allow: Arc<[IpNet]>,
    #[serde(serialize_with = "text::status")]
    pub rate_status: StatusCode,
    #[serde(serialize_with = "text::status")]
    pub connections_status: StatusCode,
}

/// Most rates of one rule: by the second and by the minute.
pub const RATES_MAX: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Rate {
    /// Requests a minute.
    pub per_minute: NonZeroU64,
    /// Requests beyond the rate that pass at once.
    pub burst: u64,
}

/// What a client has asked for lately. A new one is empty.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bucket(u64);

/// Why a request doesn't pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excess {
    /// The first request that would pass comes after so many milliseconds.
    Rate { wait: u64 },
    /// There are as many requests at once as there may be.
    Connections,
    /// There are too many clients to count one more.
    Clients,
}

impl Limits {
    /// Whether the requests of this client are counted.
    pub fn concern(&self, client: IpAddr) -> bool {
        !self.allow.iter().any(|range| range.contains(&client))
    }

    /// The answer to a request that doesn't pass.
    pub fn answer(&self, excess: Excess) -> Answer {
        let (status, text, reason) = match excess {
            Excess::Rate { .. } => (self.rate_status, "too many requests from this address", "rate_limited"),
            Excess::Connections => {
                (self.connections_status, "too many requests at once from this address", "connections_limited")
            }
            Excess::Clients => (self.rate_status, "too many clients", "clients_limited"),
        };
        // What is refused now may pass in a moment, whatever the status says of caching.
        let mut headers = vec![(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
        if let Excess::Rate { wait } = excess {
            headers.push((header::RETRY_AFTER, HeaderValue::from(wait.div_ceil(MILLISECONDS).max(1))));
        }
        Answer { status, headers, text, reason }
    }
}

impl Rate {
    /// The bucket after one more request, `elapsed` milliseconds after the last that passed; if it doesn't pass, how
    /// many milliseconds are to go until one does.
    pub fn step(self, bucket: Bucket, elapsed: u64) -> Result<Bucket, u64> {
        let full = self.full();
        let next = (self.level(bucket).saturating_add(REQUEST_UNITS)).saturating_sub(self.leaked(elapsed));
        if next > full { Err((next - full).div_ceil(self.per_minute.get())) } else { Ok(Bucket(next)) }
    }

    /// Whether nobody can tell the bucket from a new one.
    pub fn is_idle(self, bucket: Bucket, elapsed: u64) -> bool {
        self.level(bucket).saturating_add(REQUEST_UNITS) <= self.leaked(elapsed)
    }

    fn full(self) -> u64 {
        self.burst.saturating_mul(REQUEST_UNITS)
    }

    /// What was filled under another limit may be more than this one holds, and would take hours to leak.
    fn level(self, bucket: Bucket) -> u64 {
        bucket.0.min(self.full())
    }

    fn leaked(self, elapsed: u64) -> u64 {
        self.per_minute.get().saturating_mul(elapsed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(per_minute: u64, burst: u64) -> Rate {
        Rate { per_minute: NonZeroU64::new(per_minute).unwrap(), burst }
    }

    /// A client that asks at these times, and which of its requests pass.
    fn passes(rate: Rate, times: &[u64]) -> Vec<bool> {
        let mut client = Client::default();
        times.iter().map(|now| client.asks(rate, *now)).collect()
    }

    #[derive(Default)]
    struct Client(Option<(Bucket, u64)>);

    impl Client {
        fn asks(&mut self, rate: Rate, now: u64) -> bool {
            let next = match self.0 {
                None => Ok(Bucket::default()),
                Some((bucket, last)) => rate.step(bucket, now - last),
            };
            next.map(|bucket| self.0 = Some((bucket, now))).is_ok()
        }
    }

    #[test]
    fn the_burst_and_one_pass_at_once_and_then_the_rate() {
        // 2 a second, burst of 3.
        let (two, at) = (rate(120, 3), |times: &[u64]| passes(rate(120, 3), times));
        assert_eq!(at(&[0; 6]), [true, true, true, true, false, false]);
        assert_eq!(at(&[0, 0, 0, 0, 499, 500, 500, 999, 1000])[4..], [false, true, false, false, true]);
        assert_eq!(two.step(Bucket(3 * REQUEST_UNITS), 0), Err(500));
        assert_eq!(two.step(Bucket(3 * REQUEST_UNITS), 499), Err(1));
        // Without a burst nobody may come earlier than the rate has it.
        assert_eq!(passes(rate(60, 0), &[0, 0, 999, 1000, 1999, 2000]), [true, false, false, true, false, true]);
    }

    #[test]
    fn a_bucket_that_was_filled_under_a_higher_limit_is_just_full_under_a_lower_one() {
        let (before, now) = (rate(6000, 30_000), rate(60, 300));
        let full = Bucket(30_000 * REQUEST_UNITS);
        assert!(before.step(full, 10).is_ok());
        assert_eq!(now.step(full, 0), Err(1000), "the next second, not in eight hours");
        assert_eq!(now.step(full, 1000), Ok(Bucket(300 * REQUEST_UNITS)));
        assert!(now.is_idle(full, 301_000));
    }

    #[test]
    fn numbers_as_large_as_can_be_do_no_harm() {
        let most = rate(u64::MAX, u64::MAX);
        assert!(most.step(Bucket(u64::MAX), 0).is_ok() && most.step(Bucket(0), u64::MAX).is_ok());
        assert!(rate(1, 0).step(Bucket(u64::MAX), 1).is_err());
    }

    proptest! {
        #[test]
        fn never_more_than_the_burst_and_the_rate_allow(
            per_minute in 1..10_000u64, burst in 0..50u64, steps in proptest::collection::vec(0..3_000u64, 1..400),
        ) {
            let rate = rate(per_minute, burst);
            let (mut client, mut now, mut passed) = (Client::default(), 0, 0);
            for step in steps {
                now += step;
                passed += u64::from(client.asks(rate, now));
                prop_assert!(passed * REQUEST_UNITS <= (burst + 1) * REQUEST_UNITS + per_minute * now);
            }
        }

        #[test]
        fn an_idle_bucket_is_a_new_one(per_minute in 1..10_000u64, level in 0..10_000_000u64, elapsed in 0..100_000u64) {
            let rate = rate(per_minute, u64::MAX);
            let next = rate.step(Bucket(level), elapsed);
            prop_assert_eq!(rate.is_idle(Bucket(level), elapsed), next == Ok(Bucket::default()));
        }

        #[test]
        fn whoever_waits_as_long_as_told_passes(per_minute in 1..10_000u64, burst in 0..50u64, over in 0..1_000_000u64) {
            let rate = rate(per_minute, burst);
            let bucket = Bucket((burst * REQUEST_UNITS).saturating_sub(over));
            if let Err(wait) = rate.step(bucket, 0) {
                prop_assert!(rate.step(bucket, wait).is_ok());
                prop_assert!(rate.step(bucket, wait - 1).is_err());
            }
        }
    }
}
