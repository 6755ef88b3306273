//! The certificates of a CA bundle, as they came from a Secret and were checked there: whom to believe.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Serialize, Serializer};

/// DER of each certificate, in the order of the bundle. `Debug` shows how many, serde their fingerprints.
#[derive(Clone, PartialEq, Eq)]
pub struct Authorities(pub Arc<[Vec<u8>]>);

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authorities({})", self.0.len())
    }
}

impl Serialize for Authorities {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|der| fingerprint(der)))
    }
}

/// SHA-256 in hex, as `openssl x509 -fingerprint -sha256` has it without the colons.
fn fingerprint(der: &[u8]) -> String {
    digest(&SHA256, der).as_ref().iter().fold(String::with_capacity(64), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes all");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_written_and_no_bytes() {
        let authorities = Authorities(Arc::from([b"abc".to_vec()]));
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(serde_json::to_value(&authorities).unwrap(), serde_json::json!([abc]));
        assert_eq!(format!("{authorities:?}"), "Authorities(1)");
    }
}
