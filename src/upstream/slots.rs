//! Small numbers for things that each worker keeps an array of. A number is used again only when nothing that
//! was ever published names it any more; an epoch tells its lives apart.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

#[derive(Debug, Default)]
pub struct Slots {
    next: AtomicU32,
    epoch: AtomicU64,
    free: Mutex<Vec<u32>>,
}

/// A number that is taken until this is dropped.
#[derive(Debug)]
pub struct Slot {
    pub index: usize,
    pub epoch: u64,
    slots: Arc<Slots>,
}

/// Names a slot in one of its lives, without keeping it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotId {
    pub index: usize,
    pub epoch: u64,
}

impl Slot {
    pub fn id(&self) -> SlotId {
        SlotId { index: self.index, epoch: self.epoch }
    }
}

impl Slots {
    pub fn take(self: &Arc<Self>) -> Slot {
        let free = self.free.lock().expect("no holder panics").pop();
        let index = free.unwrap_or_else(|| self.next.fetch_add(1, Ordering::Relaxed)) as usize;
        // Epoch 0 is a slot that a worker has never seen.
        Slot { index, epoch: self.epoch.fetch_add(1, Ordering::Relaxed) + 1, slots: self.clone() }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let index = u32::try_from(self.index).expect("it was made from a u32");
        self.slots.free.lock().expect("no holder panics").push(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_used_again_in_another_epoch() {
        let slots = Arc::new(Slots::default());
        let (one, two) = (slots.take(), slots.take());
        assert_eq!((one.index, two.index), (0, 1));
        let epoch = one.epoch;
        drop(one);
        let three = slots.take();
        assert_eq!(three.index, 0);
        assert!(three.epoch > epoch);
    }
}
