//! Containers of which one version shares with the next what did not change. A clone costs nothing, and a change
//! copies the part that it falls into, not the whole: whoever holds the version before goes on with it.

use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// A map is split further when a shard has this many times as many entries as there are shards, so that what a change
/// copies, the list of shards and one shard, grows with the square root of the whole.
const ENTRIES_PER_SHARD: usize = 4;
/// Values that are copied together. There are tens of thousands at the most: a hundred chunks.
const CHUNK: usize = 128;

/// Values by name. The shard of a name comes from the hash that it is found by in the shard.
#[derive(Debug, Clone)]
pub struct Shards<V> {
    /// A power of two of them.
    shards: Arc<[Arc<Shard<V>>]>,
    hasher: RandomState,
    length: usize,
}

type Shard<V> = HashTable<(Arc<str>, V)>;

impl<V> Default for Shards<V> {
    fn default() -> Self {
        Self { shards: Arc::from([Arc::default()]), hasher: RandomState::default(), length: 0 }
    }
}

impl<V> Shards<V> {
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub fn get(&self, name: &str) -> Option<&V> {
        let hash = self.hasher.hash_one(name);
        let found = self.shards[place(hash, self.shards.len())].find(hash, |(other, _)| **other == *name);
        found.map(|(_, value)| value)
    }
}

impl<V: Clone> Shards<V> {
    pub fn insert(&mut self, name: &Arc<str>, value: V) {
        if self.length >= ENTRIES_PER_SHARD * self.shards.len().pow(2) {
            self.split();
        }
        let Self { shards, hasher, length } = self;
        let hash = hasher.hash_one(&**name);
        match entry(shards, hasher, hash, name) {
            Entry::Occupied(mut entry) => entry.get_mut().1 = value,
            Entry::Vacant(entry) => {
                entry.insert((name.clone(), value));
                *length += 1;
            }
        }
    }

    pub fn remove(&mut self, name: &str) {
        // What isn't there costs no copy.
        if self.get(name).is_none() {
            return;
        }
        let Self { shards, hasher, length } = self;
        let hash = hasher.hash_one(name);
        if let Entry::Occupied(entry) = entry(shards, hasher, hash, name) {
            entry.remove();
            *length -= 1;
        }
    }

    /// Twice as many shards.
    fn split(&mut self) {
        let count = 2 * self.shards.len();
        let mut shards: Vec<Shard<V>> = (0..count).map(|_| Shard::new()).collect();
        for (name, value) in self.shards.iter().flat_map(|shard| shard.iter()) {
            let hash = self.hasher.hash_one(&**name);
            let rehash = |(name, _): &(Arc<str>, V)| self.hasher.hash_one(&**name);
            shards[place(hash, count)].insert_unique(hash, (name.clone(), value.clone()), rehash);
        }
        self.shards = shards.into_iter().map(Arc::new).collect();
    }
}

/// The shard of a hash. Its lowest bits and its highest seven are used within the shard.
fn place(hash: u64, shards: usize) -> usize {
    (hash >> 32) as usize & (shards - 1)
}

/// The entry of a name, in a list of shards and a shard that nobody else holds.
fn entry<'a, V: Clone>(
    shards: &'a mut Arc<[Arc<Shard<V>>]>,
    hasher: &RandomState,
    hash: u64,
    name: &str,
) -> Entry<'a, (Arc<str>, V)> {
    let shards = Arc::make_mut(shards);
    let shard = Arc::make_mut(&mut shards[place(hash, shards.len())]);
    shard.entry(hash, |(other, _)| **other == *name, |(other, _)| hasher.hash_one(&**other))
}

/// Values by number.
#[derive(Debug, Clone)]
pub struct Chunks<V>(Arc<[Arc<[V]>]>);

impl<V> Default for Chunks<V> {
    fn default() -> Self {
        Self(Arc::from([]))
    }
}

impl<V> Chunks<V> {
    /// The value of a number, if it or a greater one was ever set.
    pub fn get(&self, index: usize) -> Option<&V> {
        self.0.get(index / CHUNK)?.get(index % CHUNK)
    }
}

impl<V: Clone + Default> Chunks<V> {
    /// Numbers below that were never set have the default.
    pub fn set(&mut self, index: usize, value: V) {
        if self.0.len() <= index / CHUNK {
            let more = (self.0.len()..=index / CHUNK).map(|_| (0..CHUNK).map(|_| V::default()).collect());
            self.0 = self.0.iter().cloned().chain(more).collect();
        }
        Arc::make_mut(&mut Arc::make_mut(&mut self.0)[index / CHUNK])[index % CHUNK] = value;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use super::*;

    #[test]
    fn shards_are_a_map_and_each_version_keeps_what_it_has() {
        let mut random = fastrand::Rng::with_seed(12);
        let (mut shards, mut map) = (Shards::default(), HashMap::new());
        let mut versions = Vec::new();
        for step in 0..20_000 {
            let name: Arc<str> = format!("{}.example", random.u32(..5_000)).into();
            if random.u8(..4) == 0 {
                shards.remove(&name);
                map.remove(&name);
            } else {
                shards.insert(&name, step);
                map.insert(name.clone(), step);
            }
            assert_eq!(shards.get(&name), map.get(&name));
            if step % 5_000 == 0 {
                versions.push((shards.clone(), map.clone()));
            }
        }
        versions.push((shards, map));
        for (shards, map) in versions {
            assert_eq!(shards.is_empty(), map.is_empty());
            assert_eq!(shards.length, map.len());
            for number in 0..5_000 {
                let name = format!("{number}.example");
                assert_eq!(shards.get(&name), map.get(&*name), "{name}");
            }
        }
    }

    #[test]
    fn a_change_copies_one_part() {
        let mut shards = Shards::default();
        let mut chunks = Chunks::default();
        for number in 0..10_000 {
            shards.insert(&number.to_string().into(), ());
            chunks.set(number, number);
        }
        let (before, chunks_before) = (shards.clone(), chunks.clone());
        shards.insert(&"new".into(), ());
        chunks.set(4_711, 0);
        let copied = shards.shards.iter().zip(&*before.shards).filter(|(one, other)| !Arc::ptr_eq(one, other));
        assert_eq!((copied.count(), before.shards.len(), before.get("new")), (1, 64, None));
        let longest = shards.shards.iter().map(|shard| shard.len()).max();
        assert!(longest < Some(300), "{longest:?}");
        let copied = chunks.0.iter().zip(&*chunks_before.0).filter(|(one, other)| !Arc::ptr_eq(one, other));
        assert_eq!((copied.count(), chunks_before.get(4_711), chunks.get(4_711)), (1, Some(&4_711), Some(&0)));
    }

    #[test]
    fn chunks_are_an_array_that_grows() {
        let mut random = fastrand::Rng::with_seed(12);
        let (mut chunks, mut map) = (Chunks::default(), BTreeMap::new());
        assert_eq!(chunks.get(0), None);
        for step in 1..2_000 {
            let index = random.usize(..step);
            chunks.set(index, step);
            map.insert(index, step);
        }
        for index in 0..2_000 {
            assert_eq!(chunks.get(index).copied().unwrap_or(0), map.get(&index).copied().unwrap_or(0), "{index}");
        }
        assert_eq!(chunks.get(10_000), None);
    }
}
