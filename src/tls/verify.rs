//! Whether a chain of certificates leads to one of the authorities that somebody named, on both sides: webpki finds
//! the path, and two things are asked beside. Between the leaf and the authority there are no more certificates than
//! the depth (OpenSSL's count, as nginx has it), and the authority's own time is not over.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rustls::DistinguishedName;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath, anchor_from_trusted_cert};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::model::Authorities;

/// Largest list of names that a handshake carries, in bytes; TLS has room for 64 KiB.
const NAMES_BYTES_MAX: usize = 16 * 1024;

/// What TLS is made of, on both sides.
pub(super) fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    &PROVIDER
}

/// How signatures are verified, of certificates and of handshakes.
pub(super) fn algorithms() -> &'static WebPkiSupportedAlgorithms {
    &provider().signature_verification_algorithms
}

/// Authorities, compiled.
#[derive(Debug)]
pub(super) struct Anchors {
    anchors: Vec<TrustAnchor<'static>>,
    /// From when on and until when each of them counts, in seconds since the epoch.
    pub(super) validity: Vec<(i64, i64)>,
}

impl Anchors {
    /// What can't be an authority is left out: it vouches for nobody.
    pub(super) fn new(authorities: &Authorities) -> Self {
        let read = |der: &Vec<u8>| {
            let certificate = CertificateDer::from(der.as_slice());
            Some((anchor_from_trusted_cert(&certificate).ok()?.to_owned(), validity(der)?))
        };
        let (anchors, validity) = authorities.0.iter().filter_map(read).unzip();
        Self { anchors, validity }
    }

    /// The authorities' names, for who asks for certificates of theirs; none, which is all, if they are too many.
    pub(super) fn names(&self) -> Arc<[DistinguishedName]> {
        let bytes: usize = self.anchors.iter().map(|anchor| anchor.subject.len()).sum();
        let all = self.anchors.iter().filter(|_| bytes <= NAMES_BYTES_MAX);
        all.map(|anchor| DistinguishedName::in_sequence(&anchor.subject)).collect()
    }

    /// Whether the leaf, for this use, leads to one of them over at most `depth` others.
    pub(super) fn verify(
        &self,
        leaf: &EndEntityCert,
        others: &[CertificateDer],
        depth: u8,
        usage: KeyUsage,
        now: UnixTime,
    ) -> Result<(), webpki::Error> {
        let fits = |path: &VerifiedPath| {
            if path.intermediate_certificates().count() > usize::from(depth) {
                return Err(webpki::Error::MaximumPathDepthExceeded);
            }
            self.counts(path.anchor(), now)
        };
        leaf.verify_for_usage(algorithms().all, &self.anchors, others, now, usage, None, Some(&fits)).map(drop)
    }

    /// Whether an authority's time is now. It may stand there more than once: renewed, with the same key.
    fn counts(&self, anchor: &TrustAnchor, now: UnixTime) -> Result<(), webpki::Error> {
        let same = self.anchors.iter().zip(&self.validity).filter(|(known, _)| *known == anchor);
        let mut fault = webpki::Error::UnknownIssuer;
        for (_, &(not_before, not_after)) in same {
            let (not_before, not_after) = (time(not_before), time(not_after));
            if now > not_after {
                fault = webpki::Error::CertExpired { time: now, not_after };
            } else if now < not_before {
                fault = webpki::Error::CertNotValidYet { time: now, not_before };
            } else {
                return Ok(());
            }
        }
        Err(fault)
    }
}

fn time(seconds: i64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(seconds).unwrap_or_default()))
}

/// From when on and until when a certificate is valid, in seconds since the epoch.
pub(super) fn validity(der: &[u8]) -> Option<(i64, i64)> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let validity = certificate.validity();
    Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
}
