//! What the Ingresses say of themselves. It is kept beside the objects: it is read to be compared, and changes nothing
//! in translation.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::kubernetes::status::Address;
use crate::model::ObjectName;

/// What the status of each Ingress says: its addresses. Most say the same, and one that says nothing isn't here.
#[derive(Debug, Default)]
pub struct Statuses {
    pub(super) all: BTreeMap<ObjectName, Rc<[Address]>>,
    last: Rc<[Address]>,
    /// Those that say something else than when they were last taken.
    changed: Vec<ObjectName>,
}

impl Statuses {
    pub fn of(&self, ingress: &ObjectName) -> &[Address] {
        self.all.get(ingress).map_or(&[], |addresses| addresses)
    }

    /// The Ingresses that say something else since the last call.
    pub fn take_changed(&mut self) -> Vec<ObjectName> {
        std::mem::take(&mut self.changed)
    }

    pub(super) fn set(&mut self, ingress: ObjectName, addresses: &[Address]) {
        if self.of(&ingress) == addresses {
            return;
        }
        self.changed.push(ingress.clone());
        if addresses.is_empty() {
            self.all.remove(&ingress);
            return;
        }
        if *self.last != *addresses {
            self.last = addresses.into();
        }
        self.all.insert(ingress, self.last.clone());
    }
}
