//! Containers of which one version shares with the next what did not change. A clone costs nothing, and a change
//! copies the part that it falls into, not the whole: whoever holds the version before goes on with it.

use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::RandomState;

/// A map is split further when a shard has this many times as many entries as there are shards, so that what a change
/// copies, the list of shards and one shard, grows with the square root of the whole.
const ENTRIES_PER_SHARD: usize = 4;
/// Least number of places in a shard.
const PLACES_MIN: usize = 4;
/// Values that are copied together. There are tens of thousands at the most: a hundred chunks.
const CHUNK: usize = 128;

/// Values by name. A shard is open-addressed (linear probing, at most three quarters full), and the list of shards leads
/// to its places directly: a look-up reads no more memory than in one large hash map.
#[derive(Debug, Clone)]
pub struct Shards<V> {
    /// A power of two of them.
    all: Arc<[Shard<V>]>,
    /// How many entries each has.
    lengths: Arc<[usize]>,
    hasher: RandomState,
    length: usize,
}

/// A power of two of places, of which some are free.
type Shard<V> = Arc<[Option<Entry<V>>]>;

#[derive(Debug, Clone)]
struct Entry<V> {
    hash: u64,
    name: Arc<str>,
    value: V,
}

impl<V> Default for Shards<V> {
    fn default() -> Self {
        Self { all: Arc::from([free()]), lengths: Arc::from([0]), hasher: RandomState::default(), length: 0 }
    }
}

impl<V> Shards<V> {
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub fn get(&self, name: &str) -> Option<&V> {
        let hash = self.hasher.hash_one(name);
        let shard = &*self.all[self.shard_of(hash)];
        shard[find(shard, hash, name)].as_ref().map(|entry| &entry.value)
    }

    /// Its place within the shard is decided by the lowest bits.
    fn shard_of(&self, hash: u64) -> usize {
        (hash >> 32) as usize & (self.all.len() - 1)
    }
}

impl<V: Clone> Shards<V> {
    pub fn insert(&mut self, name: &Arc<str>, value: V) {
        if self.length >= ENTRIES_PER_SHARD * self.all.len().pow(2) {
            self.split();
        }
        self.put(Entry { hash: self.hasher.hash_one(&**name), name: name.clone(), value });
    }

    pub fn remove(&mut self, name: &str) {
        let hash = self.hasher.hash_one(name);
        let index = self.shard_of(hash);
        let shard = &self.all[index];
        let at = find(shard, hash, name);
        // What isn't there costs no copy.
        if shard[at].is_none() {
            return;
        }
        // Those that had to go past it come nearer.
        let others = shard.iter().enumerate().filter(|(place, _)| *place != at).filter_map(|(_, entry)| entry.clone());
        let made = filled(shard.len(), others);
        Arc::make_mut(&mut self.all)[index] = made;
        Arc::make_mut(&mut self.lengths)[index] -= 1;
        self.length -= 1;
    }

    fn put(&mut self, entry: Entry<V>) {
        let index = self.shard_of(entry.hash);
        let shards = Arc::make_mut(&mut self.all);
        let shard = &mut shards[index];
        let mut at = find(shard, entry.hash, &entry.name);
        if shard[at].is_none() {
            if (self.lengths[index] + 1) * 4 > shard.len() * 3 {
                *shard = filled(2 * shard.len(), shard.iter().flatten().cloned());
                at = find(shard, entry.hash, &entry.name);
            }
            Arc::make_mut(&mut self.lengths)[index] += 1;
            self.length += 1;
        }
        Arc::make_mut(shard)[at] = Some(entry);
    }

    /// Twice as many shards.
    fn split(&mut self) {
        let count = 2 * self.all.len();
        let before = std::mem::replace(&mut self.all, (0..count).map(|_| free()).collect());
        self.lengths = vec![0; count].into();
        self.length = 0;
        before.iter().flat_map(|shard| shard.iter().flatten()).for_each(|entry| self.put(entry.clone()));
    }
}

fn free<V>() -> Shard<V> {
    (0..PLACES_MIN).map(|_| None).collect()
}

/// The place of a name, or the free one where it would be. There always is a free one.
fn find<V>(places: &[Option<Entry<V>>], hash: u64, name: &str) -> usize {
    let mask = places.len() - 1;
    let mut at = usize::try_from(hash & u64::from(u32::MAX)).unwrap_or_default() & mask;
    while places[at].as_ref().is_some_and(|entry| entry.hash != hash || *entry.name != *name) {
        at = (at + 1) & mask;
    }
    at
}

fn filled<V: Clone>(places: usize, entries: impl Iterator<Item = Entry<V>>) -> Shard<V> {
    let mut shard = vec![None; places];
    for entry in entries {
        let at = find(&shard, entry.hash, &entry.name);
        shard[at] = Some(entry);
    }
    shard.into()
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

    pub fn iter(&self) -> impl Iterator<Item = &V> {
        self.0.iter().flat_map(|chunk| chunk.iter())
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
        let copied = shards.all.iter().zip(&*before.all).filter(|(one, other)| !Arc::ptr_eq(one, other));
        assert_eq!((copied.count(), before.all.len(), before.get("new")), (1, 64, None));
        let longest = shards.lengths.iter().max();
        assert!(longest < Some(&300), "{longest:?}");
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
