//! Something wrong in a user's object. It names the object, the field, what is wrong and what to write instead,
//! and never stops anything else.

use std::fmt;

use serde::{Serialize, Serializer, ser::SerializeStruct};

use crate::model::ObjectName;

/// The kinds of objects that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Kind {
    Ingress,
    IngressClass,
    Service,
    EndpointSlice,
    Secret,
    ConfigMap,
    Namespace,
}

impl Kind {
    pub const ALL: [Self; 7] = [
        Self::Ingress,
        Self::IngressClass,
        Self::Service,
        Self::EndpointSlice,
        Self::Secret,
        Self::ConfigMap,
        Self::Namespace,
    ];
}

/// One object. Cluster-scoped ones have an empty namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    pub kind: Kind,
    pub name: ObjectName,
}

impl ObjectRef {
    pub fn new(kind: Kind, name: &ObjectName) -> Self {
        Self { kind, name: name.clone() }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ObjectRef { kind, name } = self;
        if name.namespace.is_empty() { write!(f, "{kind:?} {}", name.name) } else { write!(f, "{kind:?} {name}") }
    }
}

impl Serialize for ObjectRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("object", 3)?;
        object.serialize_field("kind", &self.kind)?;
        object.serialize_field("namespace", &*self.name.namespace)?;
        object.serialize_field("name", &*self.name.name)?;
        object.end()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    pub object: ObjectRef,
    /// A path as `kubectl explain` writes it, with indices: `spec.rules[0].http.paths[1].path`.
    pub field: String,
    pub what: String,
    pub fix: String,
}

impl Problem {
    pub fn new(object: ObjectRef, field: impl Into<String>, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { object, field: field.into(), what: what.into(), fix: fix.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}; {}", self.object, self.field, self.what, self.fix)
    }
}
