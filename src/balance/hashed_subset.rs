//! Consistent hashing to a group of endpoints, and any of the group: a key keeps to a few endpoints, and no single
//! one has to bear a hot key. Groups are made of neighbours in the order of addresses, as ingress-nginx makes them;
//! the last is filled up from the first endpoints.

use std::num::NonZeroU16;

use super::Request;
use super::consistent_hash::Ring;

#[derive(Debug)]
pub(super) struct Subsets {
    ring: Ring,
    groups: Vec<Vec<usize>>,
}

impl Subsets {
    /// Of this many endpoints, `size` in a group.
    pub(super) fn new(count: usize, size: NonZeroU16) -> Self {
        let size = usize::from(size.get());
        let group = |begin: usize| (begin..begin + size.min(count)).map(|index| index % count).collect();
        let groups: Vec<Vec<usize>> = (0..count).step_by(size).map(group).collect();
        let named: Vec<(String, u32)> = (1..=groups.len()).map(|number| (format!("set{number}"), 1)).collect();
        Self { ring: Ring::new(&named), groups }
    }

    pub(super) fn pick(&self, request: &Request) -> Option<usize> {
        self.ring.clockwise(request.key).find_map(|group| {
            let untried = self.groups[group].iter().filter(|index| !request.tried.contains(index));
            let count = untried.clone().count() as u64;
            let at = request.random.checked_rem(count)?;
            untried.copied().nth(usize::try_from(at).ok()?)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::balance::Load;

    #[test]
    fn a_key_keeps_to_its_group_and_uses_all_of_it() {
        let load = |_| Load::default();
        for (count, size) in [(10, 3), (3, 3), (2, 3), (1, 1), (7, 2)] {
            let subsets = Subsets::new(count, NonZeroU16::new(size).unwrap());
            let mut all = BTreeSet::new();
            for key in 0..200 {
                let pick = |random| subsets.pick(&Request { turn: 0, random, key, tried: &[], load: &load }).unwrap();
                let used: BTreeSet<usize> = (0..60).map(pick).collect();
                assert_eq!(used.len(), usize::from(size).min(count), "{count} {size}: {used:?}");
                all.extend(used);
            }
            assert_eq!(all.len(), count);
        }
    }
}
