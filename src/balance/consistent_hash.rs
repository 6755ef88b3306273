//! Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam, 2017): a key goes to the next
//! endpoint on a ring, but past one that has more than its share and a quarter of what is in flight. The ring
//! depends on names and weights only, so that all workers and replicas agree.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use super::Request;

/// Points on the ring for an endpoint of weight 1; 160 keep shares within about 10 %.
const POINTS: u32 = 160;
/// Most points of a ring, for its memory: 16 bytes each.
const POINTS_MAX: u64 = 65_536;
/// How far above its share an endpoint may be loaded.
const BOUND: f64 = 1.25;

#[derive(Debug)]
pub(super) struct Ring {
    /// Place on the ring and endpoint, by place.
    points: Vec<(u64, u16)>,
}

impl Ring {
    pub(super) fn new(endpoints: &[(String, u32)]) -> Self {
        let total: u64 = endpoints.iter().map(|(_, weight)| u64::from((*weight).max(1))).sum();
        let mut points = Vec::new();
        for (index, (name, weight)) in endpoints.iter().enumerate() {
            let index = u16::try_from(index).expect("translate keeps at most 65,535 endpoints");
            let wanted = u64::from((*weight).max(1)) * u64::from(POINTS);
            let bounded = if total * u64::from(POINTS) > POINTS_MAX {
                wanted * POINTS_MAX / (total * u64::from(POINTS))
            } else {
                wanted
            };
            points.extend((0..bounded.max(1)).map(|point| (place(name.as_bytes(), point), index)));
        }
        points.sort_unstable();
        Self { points }
    }

    pub(super) fn pick(&self, weights: &[u32], request: &Request) -> Option<usize> {
        let in_flight: u32 = (0..weights.len()).map(|index| (request.load)(index).in_flight).sum();
        let share = BOUND * f64::from(in_flight + 1) / weights.iter().map(|weight| f64::from(*weight)).sum::<f64>();
        let fits =
            |index: usize| f64::from((request.load)(index).in_flight) < (share * f64::from(weights[index])).ceil();
        let mut first = None;
        for index in self.clockwise(request.key).filter(|index| !request.tried.contains(index)) {
            if fits(index) {
                return Some(index);
            }
            first = first.or(Some(index));
        }
        first
    }

    /// Whose points follow the key's place, in turn; most come up many times.
    pub(super) fn clockwise(&self, key: u64) -> impl Iterator<Item = usize> {
        let start = self.points.partition_point(|(place, _)| *place < spread(key));
        self.points[start..].iter().chain(&self.points[..start]).map(|(_, index)| usize::from(*index))
    }
}

fn place(name: &[u8], point: u64) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(name);
    hasher.write_u64(point);
    hasher.finish()
}

/// Keys come from any hash; this one spreads even a counter over the ring.
fn spread(key: u64) -> u64 {
    place(&[], key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::Load;

    fn names(range: std::ops::Range<u32>) -> Vec<(String, u32)> {
        range.map(|index| (format!("10.0.0.{index}:80"), 1)).collect()
    }

    fn pick(ring: &Ring, count: usize, key: u64, load: &dyn Fn(usize) -> Load) -> usize {
        ring.pick(&vec![1; count], &Request { turn: 0, random: 0, key, tried: &[], load }).unwrap()
    }

    #[test]
    fn a_key_stays_when_others_come_and_go() {
        let (ten, nine) = (Ring::new(&names(0..10)), Ring::new(&names(0..9)));
        let idle = |_| Load::default();
        for key in 0..1000 {
            let before = pick(&ten, 10, key, &idle);
            if before < 9 {
                assert_eq!(pick(&nine, 9, key, &idle), before, "{key}");
            }
        }
    }

    #[test]
    fn a_hot_key_spills_over_at_the_bound() {
        let ring = Ring::new(&names(0..4));
        let in_flight = std::cell::RefCell::new([0u32; 4]);
        for _ in 0..400 {
            let load = |index: usize| Load { in_flight: in_flight.borrow()[index], latency: 0.0 };
            let index = pick(&ring, 4, 42, &load);
            in_flight.borrow_mut()[index] += 1;
        }
        assert!(in_flight.borrow().iter().all(|count| *count <= 126), "{in_flight:?}");
    }
}
