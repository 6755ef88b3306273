//! A certificate chain with its private key, as it came from a Secret and was checked there.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use zeroize::Zeroizing;

/// DER of a private key (PKCS #8, PKCS #1 or SEC1). Neither `Debug` nor serde ever show it, and it is overwritten when
/// the last one who holds it lets go.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey(Arc<Zeroizing<Vec<u8>>>);

impl PrivateKey {
    pub fn new(der: Vec<u8>) -> Self {
        Self(Arc::new(Zeroizing::new(der)))
    }

    pub fn der(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(secret)")
    }
}

/// A chain and a key that belong together. `Debug` shows names and dates.
#[derive(Clone, PartialEq)]
pub struct Certificate {
    /// DER, leaf first.
    pub chain: Arc<[Vec<u8>]>,
    pub key: PrivateKey,
    /// The DNS names of the leaf, lower case, wildcards as `*.x`.
    pub names: Vec<Box<str>>,
    /// The leaf's validity, seconds since the epoch.
    pub not_before: i64,
    pub not_after: i64,
}

impl Certificate {
    /// Whether the leaf is for `host`: exactly, or by a wildcard for exactly one label (RFC 6125, 6.4.3).
    pub fn covers(&self, host: &str) -> bool {
        let wildcard = host.split_once('.').map(|(_, rest)| rest);
        self.names
            .iter()
            .any(|name| &**name == host || name.strip_prefix("*.").is_some_and(|rest| wildcard == Some(rest)))
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { chain: _, key: _, names, not_before, not_after } = self;
        write!(f, "Certificate({names:?}, {not_before} to {not_after})")
    }
}

impl Serialize for Certificate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(&self.names)
    }
}
