//! Which endpoint takes the next request. Pure: a [`Balancer`] is compiled from a backend's weights once, and
//! [`Balancer::pick`] answers from what the worker tells it; counts and latencies live with the worker.

mod consistent_hash;
mod hashed_subset;
mod least_requests;
mod peak_ewma;
mod round_robin;

use std::hash::Hasher;
use std::num::NonZeroU16;

use serde::Serialize;
use siphasher::sip::SipHasher13;

pub use peak_ewma::Latency;

/// How requests are spread over a backend's endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
pub enum Policy {
    /// In turn, in proportion to the weights; each worker starts at a place of its own.
    #[default]
    RoundRobin,
    /// The one with fewer requests in flight of two taken at random.
    LeastRequests,
    /// The one with the lower expected wait of two taken at random: latency that follows peaks at once and
    /// forgets them slowly, times requests in flight.
    PeakEwma,
    /// The same endpoint for the same key as long as it lives and isn't overloaded (bounded loads).
    ConsistentHash,
    /// One of so many endpoints, taken at random, that are the same for the same key.
    HashedSubset(NonZeroU16),
}

/// What one endpoint is busy with, as one worker sees it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Load {
    pub in_flight: u32,
    /// Expected latency now, in microseconds; 0 before the first answer.
    pub latency: f64,
}

/// All that a choice depends on.
pub struct Request<'a> {
    /// Counts up by one for each request to the backend; wraps around.
    pub turn: u32,
    /// 64 random bits.
    pub random: u64,
    /// What [`Policy::ConsistentHash`] and [`Policy::HashedSubset`] hash.
    pub key: u64,
    /// Endpoints that this request has already failed at; never picked again.
    pub tried: &'a [usize],
    pub load: &'a dyn Fn(usize) -> Load,
}

/// A key out of what a request is hashed by, the same in every worker and every replica.
pub fn key(bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(bytes);
    hasher.finish()
}

/// A policy compiled for the endpoints of one backend, which it names by their index.
#[derive(Debug)]
pub struct Balancer {
    weights: Vec<u32>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    RoundRobin(round_robin::Schedule),
    LeastRequests,
    PeakEwma,
    ConsistentHash(consistent_hash::Ring),
    HashedSubset(hashed_subset::Subsets),
}

impl Balancer {
    /// `endpoints` are name and weight of each; the name places an endpoint on the hash ring.
    pub fn new(policy: Policy, endpoints: &[(String, u32)]) -> Self {
        let weights: Vec<u32> = endpoints.iter().map(|(_, weight)| (*weight).max(1)).collect();
        let kind = match policy {
            Policy::RoundRobin => Kind::RoundRobin(round_robin::Schedule::new(&weights)),
            Policy::LeastRequests => Kind::LeastRequests,
            Policy::PeakEwma => Kind::PeakEwma,
            Policy::ConsistentHash => Kind::ConsistentHash(consistent_hash::Ring::new(endpoints)),
            Policy::HashedSubset(size) => Kind::HashedSubset(hashed_subset::Subsets::new(endpoints.len(), size)),
        };
        Self { weights, kind }
    }

    /// The index of an endpoint that was not tried; `None` if all were, or there are none.
    pub fn pick(&self, request: &Request) -> Option<usize> {
        match &self.kind {
            Kind::RoundRobin(schedule) => schedule.pick(request),
            Kind::LeastRequests => least_requests::pick(&self.weights, request),
            Kind::PeakEwma => peak_ewma::pick(&self.weights, request),
            Kind::ConsistentHash(ring) => ring.pick(&self.weights, request),
            Kind::HashedSubset(subsets) => subsets.pick(request),
        }
    }

    /// Whether [`Load::latency`] is looked at; if not, nobody needs to measure it.
    pub fn wants_latency(&self) -> bool {
        matches!(self.kind, Kind::PeakEwma)
    }
}

/// The cheaper of two endpoints taken at random; of all that were not tried if both were.
fn cheaper_of_two(count: usize, request: &Request, cost: impl Fn(usize) -> f64) -> Option<usize> {
    let cheaper = |a: usize, b: usize| if cost(b) < cost(a) { b } else { a };
    match count {
        0 => return None,
        1 => return (!request.tried.contains(&0)).then_some(0),
        _ => {}
    }
    let (high, low) = ((request.random >> 32) as usize, (request.random & 0xffff_ffff) as usize);
    let first = high % count;
    let second = (first + 1 + low % (count - 1)) % count;
    match (request.tried.contains(&first), request.tried.contains(&second)) {
        (false, false) => Some(cheaper(first, second)),
        (false, true) => Some(first),
        (true, false) => Some(second),
        (true, true) => (0..count).filter(|index| !request.tried.contains(index)).reduce(cheaper),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(weights: &[u32]) -> Vec<(String, u32)> {
        weights.iter().enumerate().map(|(index, weight)| (format!("10.0.0.{index}:80"), *weight)).collect()
    }

    const SUBSET: Policy = Policy::HashedSubset(NonZeroU16::new(3).unwrap());
    const POLICIES: [Policy; 4] = [Policy::RoundRobin, Policy::LeastRequests, Policy::PeakEwma, Policy::ConsistentHash];

    #[test]
    fn every_policy_tries_every_endpoint_once_and_then_gives_up() {
        for policy in POLICIES.into_iter().chain([SUBSET]) {
            for count in 0..5 {
                let balancer = Balancer::new(policy, &endpoints(&vec![1; count]));
                let mut tried = Vec::new();
                let load = |_| Load::default();
                while let Some(index) = balancer.pick(&Request {
                    turn: 7,
                    random: 0x1234_5678_9abc_def0,
                    key: 3,
                    tried: &tried,
                    load: &load,
                }) {
                    assert!(!tried.contains(&index), "{policy:?}");
                    tried.push(index);
                }
                assert_eq!(tried.len(), count, "{policy:?}");
            }
        }
    }

    /// Requests that stay in flight, spread over weights 1, 2 and 5.
    fn spread(policy: Policy) -> Vec<u32> {
        let balancer = Balancer::new(policy, &endpoints(&[1, 2, 5]));
        let counts = std::cell::RefCell::new(vec![0u32; 3]);
        let mut random = fastrand::Rng::with_seed(1);
        for turn in 0..8000 {
            let load = |index: usize| Load { in_flight: counts.borrow()[index], latency: 1000.0 };
            let request = Request { turn, random: random.u64(..), key: random.u64(..), tried: &[], load: &load };
            let index = balancer.pick(&request).unwrap();
            counts.borrow_mut()[index] += 1;
        }
        counts.into_inner()
    }

    #[test]
    fn every_policy_follows_the_weights() {
        assert_eq!(spread(Policy::RoundRobin), [1000, 2000, 5000]);
        for policy in POLICIES {
            for (count, fair) in spread(policy).into_iter().zip([1000.0, 2000.0, 5000.0]) {
                let ratio = f64::from(count) / fair;
                assert!((0.7..1.3).contains(&ratio), "{policy:?}: {ratio}");
            }
        }
    }
}
