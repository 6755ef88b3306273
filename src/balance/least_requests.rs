//! Power of two choices: the less busy of two taken at random, which comes close to the least busy of all
//! without looking at all (Mitzenmacher, 2001).

use super::{Request, cheaper_of_two};

pub(super) fn pick(weights: &[u32], request: &Request) -> Option<usize> {
    cheaper_of_two(weights.len(), request, |index| {
        f64::from((request.load)(index).in_flight + 1) / f64::from(weights[index])
    })
}
