//! How much a backend is asked at once, over all workers, where its rule sets a limit: what is beyond it is refused at
//! once, so that a slow backend holds up nobody but its own clients. Only such backends have one, and touch it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::model::Resilience;

/// On cache lines of its own: workers write it.
#[derive(Debug)]
#[repr(align(128))]
pub struct Circuit {
    in_flight: Limit,
    pending: Limit,
}

#[derive(Debug)]
struct Limit {
    taken: AtomicU32,
    max: u32,
}

/// A request's place, from being sent to its answer's end.
#[derive(Debug)]
pub struct InFlight(Arc<Circuit>);

/// A request's place while it waits for a connection.
#[derive(Debug)]
pub struct Pending<'a>(&'a Circuit);

impl Circuit {
    /// `None` where nothing is limited.
    pub(super) fn new(asked: Option<&Resilience>) -> Option<Arc<Self>> {
        let Resilience { in_flight_max, pending_max, .. } = asked?;
        let limit = |max: Option<u32>| Limit { taken: AtomicU32::new(0), max: max.unwrap_or(u32::MAX) };
        let asks = in_flight_max.is_some() || pending_max.is_some();
        asks.then(|| Arc::new(Self { in_flight: limit(*in_flight_max), pending: limit(*pending_max) }))
    }

    pub fn enter(self: &Arc<Self>) -> Option<InFlight> {
        self.in_flight.take().then(|| InFlight(self.clone()))
    }

    pub fn wait(&self) -> Option<Pending<'_>> {
        // Not made unless it is taken: it gives back what it has not.
        self.pending.take().then(|| Pending(self))
    }
}

impl Limit {
    fn take(&self) -> bool {
        let free = self.taken.fetch_add(1, Ordering::Relaxed) < self.max;
        if !free {
            self.give_back();
        }
        free
    }

    fn give_back(&self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.give_back();
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.pending.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_limited_and_given_back() {
        let limited = Resilience { in_flight_max: Some(2), pending_max: Some(1), ..Resilience::default() };
        let circuit = Circuit::new(Some(&limited)).unwrap();
        let taken = [circuit.enter(), circuit.enter()];
        assert!(taken.iter().all(Option::is_some) && circuit.enter().is_none() && circuit.enter().is_none());
        let waits = circuit.wait();
        assert!(waits.is_some(), "the one has nothing to do with the other");
        assert!((0..3).all(|_| circuit.wait().is_none()), "who is refused gives nothing back");
        drop(waits);
        assert!(circuit.wait().is_some());
        drop(taken);
        assert!(circuit.enter().is_some());
        assert!(Circuit::new(None).is_none() && Circuit::new(Some(&Resilience::default())).is_none());
    }
}
