//! Bodies over HTTP/1 that are read in large pieces: a read costs much the same whatever it brings. Few at a time, so
//! that all who leave what they asked for, or send what nobody takes, pin little; the others are read in medium pieces.

use std::rc::Rc;

use super::connection::Connection;
use crate::upstream::{Http1, Reads};

/// Of a worker, requests' and answers' together.
const LARGE_MAX: u32 = 64;

/// One of them.
pub struct Large {
    connection: Rc<Connection>,
    /// It is a request's.
    comes: bool,
}

impl Large {
    /// The answer that comes over this connection.
    pub fn answer(client: &Rc<Connection>, endpoint: &Http1) -> Option<Self> {
        let large = Self::take(client, false)?;
        endpoint.flow.read(Reads::Large);
        Some(large)
    }

    /// The request whose body begins to come.
    pub fn request(client: &Rc<Connection>) -> Option<Self> {
        let large = Self::take(client, true)?;
        client.activity.reads.set(Reads::Large);
        Some(large)
    }

    fn take(client: &Rc<Connection>, comes: bool) -> Option<Self> {
        let count = &client.worker.large_bodies;
        if count.get() >= LARGE_MAX {
            return None;
        }
        count.set(count.get() + 1);
        Some(Self { connection: client.clone(), comes })
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        let count = &self.connection.worker.large_bodies;
        count.set(count.get() - 1);
        if self.comes {
            self.connection.activity.reads.set(Reads::Medium);
        }
    }
}
