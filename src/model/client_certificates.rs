//! What a host asks of its clients' certificates: whom to believe, and what becomes of those who show none.

use serde::Serialize;

use super::Authorities;
use crate::filter::Pattern;

/// Whose requests pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum VerifyClient {
    /// Those with a certificate that an authority vouches for.
    On,
    /// Those, and those without any certificate.
    Optional,
    /// Those, and those whose certificate nobody known has issued; the endpoint decides.
    OptionalNoCa,
}

/// What a host asks of its clients' certificates.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClientCertificates {
    pub authorities: Authorities,
    pub verify: VerifyClient,
    /// Most certificates between the client's and the authority's.
    pub depth: u8,
    /// The certificate's subject, as RFC 2253 writes it, must match; else 403.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<Pattern>,
    /// Where those are sent who would get 400.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_page: Option<Box<str>>,
    /// The endpoint gets the certificate itself.
    pub pass_certificate: bool,
}

impl ClientCertificates {
    /// Whether a handshake for the one does for the other too.
    pub fn same_handshake(&self, other: &Self) -> bool {
        let of = |settings: &Self| (settings.authorities.clone(), settings.verify, settings.depth);
        std::ptr::eq(self, other) || of(self) == of(other)
    }
}
