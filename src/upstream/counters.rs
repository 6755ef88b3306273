//! What clients have asked for, for the limits of the objects that have any: exact over all workers, and kept for as
//! long as a table names the object, whatever else changes. One entry a client, in shards with a lock each; routes
//! without a limit never come here. Memory is bounded as in nginx: whoever is idle makes room, else whoever was not
//! seen for longest; clients with requests in flight are never forgotten.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use crate::filter::{Bucket, Excess, Limits, RATES_MAX};
use crate::model::ObjectName;

/// Locks of one object's clients: enough that workers rarely meet.
const SHARDS: usize = 16;
/// Most clients that are counted for one object: nginx's zone of 5 MB, as ingress-nginx makes it, has 80,000.
const CLIENTS_MAX: usize = 65_536;
/// Most clients of all objects together: 50 MB.
const CLIENTS_OF_ALL_MAX: usize = 524_288;
/// Clients that each object may count, however many the others have.
const CLIENTS_MIN: usize = 1_024;
/// Most clients that are looked at to find one that can be forgotten.
const FORGET_TRIES_MAX: usize = 16;

/// Entries whose memory a shard keeps when nobody is counted any more.
const ENTRIES_KEPT_MAX: usize = 64;

/// No entry.
const NONE: u32 = u32::MAX;

/// The counts of all objects. One of it, on the control thread.
#[derive(Debug, Default)]
pub struct Counters {
    objects: HashMap<ObjectName, Weak<Counts>>,
    clients: Arc<AtomicUsize>,
}

/// The counts of one object's clients.
pub struct Counts {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    started: Instant,
    /// Of all objects.
    clients: Arc<AtomicUsize>,
}

/// A request in flight, counted until this is dropped.
#[derive(Debug)]
pub struct Permit {
    counts: Arc<Counts>,
    shard: u8,
    /// Its entry stays where it is while it is counted.
    place: u32,
}

#[derive(Default)]
struct Shard {
    places: HashMap<IpAddr, u32>,
    entries: Vec<Entry>,
    /// Places in `entries` that nobody has.
    free: Vec<u32>,
    ends: Option<Ends>,
}

/// The clients that were seen last and longest ago.
#[derive(Clone, Copy)]
struct Ends {
    newest: u32,
    oldest: u32,
}

/// A client.
struct Entry {
    client: IpAddr,
    buckets: [Bucket; RATES_MAX],
    /// When the last request passed, in milliseconds.
    last: u64,
    in_flight: u32,
    /// Who was seen after it, and before.
    newer: u32,
    older: u32,
}

impl Counters {
    /// Those of an object: as they were, if a table still has it.
    pub fn of(&mut self, object: &ObjectName) -> Arc<Counts> {
        if let Some(counts) = self.objects.get(object).and_then(Weak::upgrade) {
            return counts;
        }
        let counts = Arc::new(Counts::new(self.clients.clone()));
        self.objects.insert(object.clone(), Arc::downgrade(&counts));
        counts
    }

    /// Lets go of objects that no table has any more.
    pub fn sweep(&mut self) {
        self.objects.retain(|_, counts| counts.strong_count() > 0);
    }
}

impl Counts {
    fn new(clients: Arc<AtomicUsize>) -> Self {
        Self { shards: Default::default(), hasher: RandomState::new(), started: Instant::now(), clients }
    }

    /// Counts a request of a client, or says why it doesn't pass. A permit comes with it if requests at once are
    /// limited.
    pub fn admit(self: &Arc<Self>, limits: &Limits, client: IpAddr) -> Result<Option<Permit>, Excess> {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.admit_at(limits, client, now)
    }

    fn admit_at(self: &Arc<Self>, limits: &Limits, client: IpAddr, now: u64) -> Result<Option<Permit>, Excess> {
        let client = client.to_canonical();
        let index = usize::try_from(self.hasher.hash_one(client)).unwrap_or_default() % SHARDS;
        let mut shard = lock(&self.shards[index]);
        let place = match shard.places.get(&client).copied() {
            Some(place) => {
                shard.touch(place);
                let entry = &mut shard.entries[place as usize];
                entry.buckets = entry.step(limits, now)?;
                // Workers read the time before they wait for each other.
                entry.last = entry.last.max(now);
                place
            }
            None => {
                self.make_room(&mut shard, limits, now)?;
                shard.insert(client, now)
            }
        };
        let Some(most) = limits.connections else { return Ok(None) };
        let entry = &mut shard.entries[place as usize];
        if entry.in_flight >= most.get() {
            return Err(Excess::Connections);
        }
        entry.in_flight += 1;
        drop(shard);
        let shard = u8::try_from(index).expect("there are fewer shards");
        Ok(Some(Permit { counts: self.clone(), shard, place }))
    }

    /// Makes sure that one more client can be counted.
    fn make_room(&self, shard: &mut Shard, limits: &Limits, now: u64) -> Result<(), Excess> {
        // Two for one, as nginx has it: what is idle goes sooner than it comes.
        for _ in 0..2 {
            let idle = shard.oldest().filter(|place| shard.entries[*place as usize].is_idle(limits, now));
            let Some(place) = idle else { break };
            self.forget(shard, place);
        }
        let mut tries = 0;
        while self.is_full(shard) {
            let Some(place) = shard.oldest().filter(|_| tries < FORGET_TRIES_MAX) else { return Err(Excess::Clients) };
            tries += 1;
            if shard.entries[place as usize].in_flight == 0 {
                self.forget(shard, place);
            } else {
                shard.touch(place);
            }
        }
        self.clients.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn is_full(&self, shard: &Shard) -> bool {
        let clients = shard.places.len();
        clients >= CLIENTS_MAX / SHARDS
            || (clients >= CLIENTS_MIN / SHARDS && self.clients.load(Ordering::Relaxed) >= CLIENTS_OF_ALL_MAX)
    }

    fn forget(&self, shard: &mut Shard, place: u32) {
        shard.remove(place);
        self.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Counts {
    fn drop(&mut self) {
        let counted = |shard: &mut Mutex<Shard>| shard.get_mut().unwrap_or_else(PoisonError::into_inner).places.len();
        self.clients.fetch_sub(self.shards.iter_mut().map(counted).sum(), Ordering::Relaxed);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        lock(&self.counts.shards[usize::from(self.shard)]).entries[self.place as usize].in_flight -= 1;
    }
}

impl fmt::Debug for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counts")
    }
}

impl Shard {
    fn oldest(&self) -> Option<u32> {
        self.ends.map(|ends| ends.oldest)
    }

    /// A client that was never seen, and is now; its first request fills nothing, as in nginx.
    fn insert(&mut self, client: IpAddr, now: u64) -> u32 {
        let buckets = Default::default();
        let entry = Entry { client, buckets, last: now, in_flight: 0, newer: NONE, older: NONE };
        let place = match self.free.pop() {
            Some(place) => {
                self.entries[place as usize] = entry;
                place
            }
            None => {
                self.entries.push(entry);
                u32::try_from(self.entries.len() - 1).expect("there are fewer clients")
            }
        };
        self.places.insert(client, place);
        self.link(place);
        place
    }

    fn remove(&mut self, place: u32) {
        self.unlink(place);
        self.places.remove(&self.entries[place as usize].client);
        self.free.push(place);
        if self.places.is_empty() && self.entries.len() > ENTRIES_KEPT_MAX {
            *self = Self::default();
        }
    }

    /// Makes it the newest.
    fn touch(&mut self, place: u32) {
        if self.ends.is_some_and(|ends| ends.newest != place) {
            self.unlink(place);
            self.link(place);
        }
    }

    fn link(&mut self, place: u32) {
        let newest = self.ends.map_or(NONE, |ends| ends.newest);
        let entry = &mut self.entries[place as usize];
        (entry.newer, entry.older) = (NONE, newest);
        if newest != NONE {
            self.entries[newest as usize].newer = place;
        }
        self.ends = Some(Ends { newest: place, oldest: self.ends.map_or(place, |ends| ends.oldest) });
    }

    fn unlink(&mut self, place: u32) {
        let Entry { newer, older, .. } = self.entries[place as usize];
        let Some(ends) = &mut self.ends else { return };
        match newer {
            NONE => ends.newest = older,
            newer => self.entries[newer as usize].older = older,
        }
        match older {
            NONE => ends.oldest = newer,
            older => self.entries[older as usize].newer = newer,
        }
        if newer == NONE && older == NONE {
            self.ends = None;
        }
    }
}

impl Entry {
    /// The buckets after one more request; if it doesn't pass one, it fills none.
    fn step(&self, limits: &Limits, now: u64) -> Result<[Bucket; RATES_MAX], Excess> {
        let elapsed = now.saturating_sub(self.last);
        let (mut buckets, mut wait) = (self.buckets, 0);
        for (bucket, rate) in buckets.iter_mut().zip(&limits.rates) {
            match rate.step(*bucket, elapsed) {
                Ok(next) => *bucket = next,
                Err(longer) => wait = wait.max(longer),
            }
        }
        if wait == 0 { Ok(buckets) } else { Err(Excess::Rate { wait }) }
    }

    /// Whether nobody would notice if it were forgotten.
    fn is_idle(&self, limits: &Limits, now: u64) -> bool {
        let elapsed = now.saturating_sub(self.last);
        let mut buckets = limits.rates.iter().zip(self.buckets);
        self.in_flight == 0 && buckets.all(|(rate, bucket)| rate.is_idle(bucket, elapsed))
    }
}

/// Every step leaves a shard whole, so that a panic elsewhere does it no harm.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::num::{NonZeroU32, NonZeroU64};

    use http::StatusCode;

    use super::*;
    use crate::filter::Rate;

    fn limits(per_minute: u64, burst: u64, connections: u32) -> Limits {
        let rate = NonZeroU64::new(per_minute).map(|per_minute| Rate { per_minute, burst });
        Limits {
            rates: rate.into_iter().collect(),
            connections: NonZeroU32::new(connections),
            allow: [].into(),
            rate_status: StatusCode::SERVICE_UNAVAILABLE,
            connections_status: StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn client(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    fn held(counts: &Counts) -> usize {
        counts.shards.iter().map(|shard| lock(shard).places.len()).sum()
    }

    #[test]
    fn threads_together_pass_no_more_than_one_would() {
        let counts = Counters::default().of(&ObjectName::new("a", "b"));
        let limits = limits(60, 99, 0);
        let pass = || (0..500).filter(|_| counts.admit_at(&limits, client(1), 0).is_ok()).count();
        let passed: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(pass)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(passed, 100);
        assert_eq!(counts.admit_at(&limits, client(2), 0).err(), None, "another client has its own count");
        assert_eq!(counts.admit_at(&limits, client(1), 999).err(), Some(Excess::Rate { wait: 1 }));
        assert!(counts.admit_at(&limits, client(1), 1000).is_ok());
    }

    #[test]
    fn a_request_is_counted_until_its_permit_is_gone_and_by_one_address_however_it_is_written() {
        let counts = Counters::default().of(&ObjectName::new("a", "b"));
        let limits = limits(0, 0, 2);
        let mapped: IpAddr = "::ffff:0.0.0.1".parse().unwrap();
        let first = counts.admit_at(&limits, client(1), 0).unwrap();
        let second = counts.admit_at(&limits, mapped, 0).unwrap();
        assert!(first.is_some() && second.is_some());
        assert_eq!(counts.admit_at(&limits, client(1), 0).err(), Some(Excess::Connections));
        drop(first);
        assert!(counts.admit_at(&limits, client(1), 0).is_ok());
    }

    #[test]
    fn what_is_refused_fills_nothing() {
        let counts = Counters::default().of(&ObjectName::new("a", "b"));
        let both = Limits { rates: vec![limits(6000, 5, 0).rates[0], limits(60, 1, 0).rates[0]], ..limits(0, 0, 0) };
        let passed = (0..9).filter(|_| counts.admit_at(&both, client(1), 0).is_ok()).count();
        assert_eq!(passed, 2);
        let place = lock(&counts.shards[usize::try_from(counts.hasher.hash_one(client(1))).unwrap() % SHARDS]);
        let full = limits(6000, 5, 0).rates[0];
        assert_eq!(place.entries[0].buckets[0], full.step(Bucket::default(), 0).unwrap());
    }

    #[test]
    fn memory_is_bounded_and_who_has_requests_in_flight_is_not_forgotten() {
        let mut all = Counters::default();
        let counts = all.of(&ObjectName::new("a", "b"));
        let limits = limits(1, 1, 1);
        let permit = counts.admit_at(&limits, client(0), 0).unwrap();
        let most = u32::try_from(CLIENTS_MAX).unwrap();
        for number in 1..3 * most {
            drop(counts.admit_at(&limits, client(number), 0).unwrap());
        }
        assert!(held(&counts) <= CLIENTS_MAX && held(&counts) > CLIENTS_MAX / 2);
        assert_eq!(counts.admit_at(&limits, client(0), 0).err(), Some(Excess::Connections));
        drop(permit);
        // Whoever is idle goes as others come.
        for number in 3 * most..3 * most + 2 * most {
            drop(counts.admit_at(&limits, client(number), 1_000_000_000).unwrap());
        }
        assert_eq!(all.clients.load(Ordering::Relaxed), held(&counts));
        drop(counts);
        assert_eq!(all.clients.load(Ordering::Relaxed), 0);
        all.sweep();
        assert!(all.objects.is_empty());
    }

    #[test]
    fn when_all_that_are_counted_have_requests_in_flight_the_next_is_refused() {
        let counts = Counters::default().of(&ObjectName::new("a", "b"));
        let limits = limits(0, 0, 1);
        let mut permits = Vec::new();
        let refused = (0..u32::try_from(2 * CLIENTS_MAX).unwrap())
            .find_map(|number| counts.admit_at(&limits, client(number), 0).map(|permit| permits.push(permit)).err());
        assert_eq!(refused, Some(Excess::Clients));
        permits.clear();
        assert!(counts.admit_at(&limits, client(u32::MAX), 0).is_ok());
    }

    #[test]
    fn when_nobody_is_counted_any_more_the_memory_is_given_back() {
        let counts = Counters::default().of(&ObjectName::new("a", "b"));
        let limits = limits(60, 1, 0);
        let most = u32::try_from(CLIENTS_MAX).unwrap();
        for number in 0..most {
            assert!(counts.admit_at(&limits, client(number), 0).is_ok());
        }
        // One comes and two go, until nobody of the many is left.
        for number in most..3 * most {
            assert!(counts.admit_at(&limits, client(number), u64::from(number) * 1_000_000).is_ok());
        }
        for shard in &counts.shards {
            let shard = lock(shard);
            assert!(shard.entries.capacity() <= 2 * ENTRIES_KEPT_MAX && shard.places.len() <= 2);
        }
    }

    #[test]
    fn counts_are_kept_for_as_long_as_somebody_has_them() {
        let (mut all, name) = (Counters::default(), ObjectName::new("a", "b"));
        let (first, second) = (all.of(&name), all.of(&name));
        assert!(Arc::ptr_eq(&first, &second) && !Arc::ptr_eq(&first, &all.of(&ObjectName::new("a", "c"))));
        let limits = limits(1, 0, 0);
        assert!(first.admit_at(&limits, client(1), 0).is_ok() && second.admit_at(&limits, client(1), 0).is_err());
        all.sweep();
        assert!(Arc::ptr_eq(&first, &all.of(&name)));
        drop((first, second));
        assert!(all.of(&name).admit_at(&limits, client(1), 0).is_ok());
    }
}
