//! How many connections each client has, for `--max-connections-per-client`: of the whole process, in shards with a
//! lock each, taken once when a connection begins and once when it ends. There is none of it without the flag. An
//! IPv6 client is a network of 64 bits, as it can choose any address within.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::headers::is_trusted;
use super::worker::Worker;

/// Enough that workers rarely meet.
const SHARDS: usize = 64;

#[derive(Debug)]
pub struct Seats {
    shards: [Mutex<HashMap<IpAddr, u32>>; SHARDS],
    hasher: RandomState,
    max: NonZeroU32,
}

/// A connection that is counted until this is dropped.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    client: IpAddr,
}

/// The client has as many connections as it may.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

/// Counts a connection of this client, if there is a limit. A trusted proxy brings many clients, and is none.
pub fn take(worker: &Worker, client: IpAddr) -> Result<Option<Seat>, Full> {
    match &worker.seats {
        None => Ok(None),
        Some(_) if is_trusted(client, &worker.settings.trusted_proxies) => Ok(None),
        Some(seats) => seats.take(client).map(Some),
    }
}

impl Seats {
    pub fn new(max: NonZeroU32) -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), hasher: RandomState::new(), max }
    }

    pub fn take(self: &Arc<Self>, client: IpAddr) -> Result<Seat, Full> {
        let client = network(client);
        let mut shard = self.shard(client);
        let count = shard.entry(client).or_insert(0);
        if *count >= self.max.get() {
            return Err(Full);
        }
        *count += 1;
        drop(shard);
        Ok(Seat { seats: self.clone(), client })
    }

    /// Every step leaves a shard whole, so that a panic elsewhere does it no harm.
    fn shard(&self, client: IpAddr) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        let index = usize::try_from(self.hasher.hash_one(client)).unwrap_or_default() % SHARDS;
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut shard = self.seats.shard(self.client);
        if let Some(count) = shard.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                shard.remove(&self.client);
            }
        }
    }
}

fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seats(max: u32) -> Arc<Seats> {
        Arc::new(Seats::new(NonZeroU32::new(max).unwrap()))
    }

    fn held(seats: &Seats) -> usize {
        seats.shards.iter().map(|shard| shard.lock().unwrap().len()).sum()
    }

    #[test]
    fn each_client_has_its_own_count_and_leaves_nothing_behind() {
        let seats = seats(2);
        let take = |text: &str| seats.take(text.parse().unwrap());
        let (first, second) = (take("192.0.2.1").unwrap(), take("::ffff:192.0.2.1").unwrap());
        assert_eq!(take("192.0.2.1").err(), Some(Full), "however the address is written");
        let other = take("192.0.2.2").unwrap();
        drop(first);
        let again = take("192.0.2.1").unwrap();
        assert_eq!(held(&seats), 2);
        drop((second, other, again));
        assert_eq!(held(&seats), 0);
    }

    #[test]
    fn an_ipv6_client_is_a_network() {
        let seats = seats(1);
        let take = |text: &str| seats.take(text.parse().unwrap());
        let _one = take("2001:db8::1").unwrap();
        assert_eq!(take("2001:db8::ffff:1").err(), Some(Full));
        assert!(take("2001:db8:0:1::1").is_ok());
    }

    #[test]
    fn threads_together_take_no_more_than_one_would() {
        let seats = seats(100);
        let pass = || (0..1000).filter_map(|_| seats.take("192.0.2.1".parse().unwrap()).ok()).collect::<Vec<_>>();
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(pass)).collect();
            let held: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
            held.iter().map(Vec::len).sum()
        });
        assert_eq!(taken, 100);
    }
}
