//! A piece of an answer's body on its way to the client. hyper takes pieces ahead of an HTTP/2 client's windows, for
//! each of its streams; so the connection knows what of its answers lies in memory, and takes more only within a bound.

use std::rc::Rc;

use bytes::{Buf, Bytes};

use super::activity::Activity;

pub struct Piece {
    bytes: Bytes,
    held: Option<Held>,
}

/// Counts among what the connection holds, until it is dropped.
struct Held {
    activity: Rc<Activity>,
    place: usize,
    bytes: usize,
}

impl Piece {
    /// `place` is the body's among those of an HTTP/2 connection.
    pub fn new(bytes: Bytes, place: Option<(usize, &Rc<Activity>)>) -> Self {
        let held = place.map(|(place, activity)| {
            activity.holds(place, bytes.len());
            Held { activity: activity.clone(), place, bytes: bytes.len() }
        });
        Self { bytes, held }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.activity.lets_go(self.place, self.bytes);
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        if self.bytes.is_empty() {
            // Whoever has read it to its end may keep what is left of it for a while.
            self.held = None;
            self.bytes = Bytes::new();
        }
    }
}
