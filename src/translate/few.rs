//! A sorted set that mostly has one element. There are tens of thousands of them, and a node of a `BTreeSet` has
//! room for eleven.

#[derive(Debug)]
pub(super) struct Few<T>(Vec<T>);

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Ord> Few<T> {
    pub(super) fn insert(&mut self, value: T) {
        if let Err(at) = self.0.binary_search(&value) {
            self.0.reserve_exact(usize::from(self.0.is_empty()));
            self.0.insert(at, value);
        }
    }

    pub(super) fn remove(&mut self, value: &T) {
        if let Ok(at) = self.0.binary_search(value) {
            self.0.remove(at);
        }
    }

    pub(super) fn first(&self) -> Option<&T> {
        self.0.first()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, T> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_sorted_set() {
        let mut few = Few::default();
        for value in [3, 1, 2, 1] {
            few.insert(value);
        }
        assert_eq!((few.first(), few.iter().collect::<Vec<_>>()), (Some(&1), vec![&1, &2, &3]));
        few.remove(&1);
        few.remove(&7);
        assert_eq!(few.iter().collect::<Vec<_>>(), [&2, &3]);
        for value in [2, 3] {
            few.remove(&value);
        }
        assert!(few.is_empty());
    }
}
