//! In turn. With unequal weights a schedule is laid out once, in which heavy endpoints come up often and evenly
//! (smooth weighted round robin, as nginx does it per request).

use super::Request;

/// Longest schedule, in turns; weights that would need more are rounded to it.
const TURNS_MAX: u32 = 4096;

#[derive(Debug)]
pub(super) struct Schedule {
    turns: Vec<u16>,
}

impl Schedule {
    pub(super) fn new(weights: &[u32]) -> Self {
        let weights = reduce(weights);
        let total: i64 = weights.iter().sum();
        if weights.iter().all(|weight| *weight == 1) {
            let turns =
                (0..weights.len()).map(|index| u16::try_from(index).expect("translate keeps at most 65,535 endpoints"));
            return Self { turns: turns.collect() };
        }
        let mut current = vec![0i64; weights.len()];
        let mut turns = Vec::with_capacity(usize::try_from(total).unwrap_or(0));
        for _ in 0..total {
            for (current, weight) in current.iter_mut().zip(&weights) {
                *current += weight;
            }
            let (index, highest) = current
                .iter_mut()
                .enumerate()
                .reduce(|best, next| if *next.1 > *best.1 { next } else { best })
                .expect("a total above 0 has an endpoint");
            *highest -= total;
            turns.push(u16::try_from(index).expect("translate keeps at most 65,535 endpoints"));
        }
        Self { turns }
    }

    pub(super) fn pick(&self, request: &Request) -> Option<usize> {
        let count = self.turns.len();
        if count == 0 {
            return None;
        }
        let start = request.turn as usize % count;
        let turns = self.turns[start..].iter().chain(&self.turns[..start]);
        turns.map(|index| usize::from(*index)).find(|index| !request.tried.contains(index))
    }
}

/// The same proportions in small numbers: divided by the common divisor, then scaled to [`TURNS_MAX`].
fn reduce(weights: &[u32]) -> Vec<i64> {
    let divisor = weights.iter().copied().reduce(greatest_common_divisor).unwrap_or(1).max(1);
    let total: u64 = weights.iter().map(|weight| u64::from(weight / divisor)).sum();
    let scale = |weight: u32| {
        let weight = u64::from(weight / divisor);
        let fits = total <= u64::from(TURNS_MAX) || total == weights.len() as u64;
        let scaled = if fits { weight } else { (weight * u64::from(TURNS_MAX) / total).max(1) };
        i64::try_from(scaled).expect("at most 4096, or a weight of 1")
    };
    weights.iter().map(|weight| scale(*weight)).collect()
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heavy_endpoints_come_up_evenly() {
        assert_eq!(Schedule::new(&[5, 1, 1]).turns, [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(Schedule::new(&[20, 20]).turns, [0, 1]);
        assert!(Schedule::new(&[u32::MAX, 1, 77_777]).turns.len() <= 4100);
    }
}
