//! Bodies of requests that are read whole before an endpoint is chosen: each in one piece of memory of its own, so
//! that what a client sends in crumbs takes no more than its bytes, and all of them within a bound of the process.

use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// What all of them may take together; without room a body streams on.
const ALL_BYTES_MAX: usize = 64 << 20;
/// A new store without a length to go by.
const STORE_BYTES: usize = 16 << 10;

/// Touched by requests of rules that ask for it, and by no others.
static ALL: Budget = Budget { used: AtomicUsize::new(0), max: ALL_BYTES_MAX };

#[derive(Debug)]
struct Budget {
    used: AtomicUsize,
    max: usize,
}

/// Bytes of the budget, until this is dropped.
#[derive(Debug)]
pub struct Room {
    budget: &'static Budget,
    bytes: usize,
}

/// A body as it is read.
#[derive(Debug)]
pub struct Store {
    data: Vec<u8>,
    room: Room,
    /// As the client says, if it does.
    length: u64,
    /// A longer body streams on.
    bytes_max: usize,
}

/// A body that was read to its end.
#[derive(Debug, Clone)]
pub struct Whole {
    data: Bytes,
    sent: bool,
    _room: Rc<Room>,
}

impl Room {
    fn grow(&mut self, bytes: usize) -> bool {
        let Budget { used, max } = self.budget;
        let taken = used.fetch_add(bytes, Ordering::Relaxed);
        if taken.saturating_add(bytes) > *max {
            used.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.bytes += bytes;
        true
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Store {
    /// For a body of this many bytes at least, and so many at the most.
    pub fn new(length: u64, bytes_max: usize) -> Self {
        Self { data: Vec::new(), room: Room { budget: &ALL, bytes: 0 }, length, bytes_max }
    }

    /// Whether the body may fit.
    pub fn is_promising(&self) -> bool {
        self.length <= self.bytes_max as u64
    }

    /// Takes a copy, unless there is no room for it.
    pub fn add(&mut self, data: &[u8]) -> bool {
        let needed = self.data.len() + data.len();
        if needed > self.bytes_max {
            return false;
        }
        if needed > self.room.bytes {
            let next = match (self.room.bytes, self.length) {
                (0, 0) => STORE_BYTES,
                (0, length) => usize::try_from(length).unwrap_or(self.bytes_max),
                (bytes, _) => 2 * bytes,
            };
            let size = next.max(needed).min(self.bytes_max);
            if !self.room.grow(size - self.room.bytes) {
                return false;
            }
            self.data.reserve_exact(size - self.data.len());
        }
        self.data.extend_from_slice(data);
        true
    }

    pub fn whole(self) -> Whole {
        Whole { data: self.data.into(), sent: false, _room: Rc::new(self.room) }
    }

    pub fn into_parts(self) -> (Bytes, Room) {
        (self.data.into(), self.room)
    }
}

impl Whole {
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// To be sent from its beginning.
    pub fn again(&self) -> Self {
        Self { sent: false, ..self.clone() }
    }

    /// What is still to be sent, in bytes.
    pub(super) fn left(&self) -> u64 {
        if self.sent { 0 } else { self.data.len() as u64 }
    }

    pub(super) fn take(&mut self) -> Option<Bytes> {
        let sent = std::mem::replace(&mut self.sent, true);
        (!sent && !self.data.is_empty()).then(|| self.data.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE_BYTES_MAX: usize = 1 << 20;

    #[test]
    fn a_body_has_room_up_to_its_limit_and_to_that_of_all_together() {
        let budget: &'static Budget = Box::leak(Box::new(Budget { used: AtomicUsize::new(0), max: 3 << 20 }));
        let store = || Store { room: Room { budget, bytes: 0 }, ..Store::new(0, WHOLE_BYTES_MAX) };
        let used = || budget.used.load(Ordering::Relaxed);
        let mut one = store();
        for _ in 0..1 << 20 {
            assert!(one.add(b"x"));
        }
        assert!(!one.add(b"x"), "it is full");
        assert_eq!((one.data.len(), one.data.capacity(), used()), (1 << 20, 1 << 20, 1 << 20));
        let others: Vec<Whole> = (0..2)
            .map(|_| {
                let mut store = store();
                assert!(store.add(&vec![0; WHOLE_BYTES_MAX]));
                store.whole()
            })
            .collect();
        assert!(!store().add(b"x"), "nothing is left");
        drop(one);
        let mut small = store();
        assert!(small.add(b"x"));
        assert_eq!(used(), (2 << 20) + STORE_BYTES);
        let copy = others[0].again();
        drop((others, small));
        assert_eq!((copy.len(), used()), (1 << 20, 1 << 20), "what may be sent once more keeps its room");
        drop(copy);
        assert_eq!(used(), 0);
    }

    #[test]
    fn a_body_is_sent_from_its_beginning_each_time() {
        let mut store = Store::new(3, 3);
        assert!(store.is_promising() && store.add(b"ab") && store.add(b"c"));
        assert_eq!(store.room.bytes, 3, "the client said so");
        let mut whole = store.whole();
        for _ in 0..2 {
            let mut again = whole.again();
            assert_eq!(
                (again.left(), again.take().as_deref(), again.take(), again.left()),
                (3, Some(&b"abc"[..]), None, 0)
            );
            whole = again;
        }
        assert!(!Store::new(WHOLE_BYTES_MAX as u64 + 1, WHOLE_BYTES_MAX).is_promising());
        assert_eq!(Store::new(0, 0).whole().take(), None);
    }
}
