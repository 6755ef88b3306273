//! Clients' certificates. A host that wants them has them asked for in the handshake, which takes any chain and none:
//! only that the client has the key is settled there. Whether the chain will do is decided for each request, by what
//! the host asks for then ([`ClientVerifier::verify`]), so that a change counts for connections that are open. Nothing
//! of such a handshake is ever resumed: a session would bring back a chain that nobody asked for again.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::subject::rfc2253;
use super::verify::{Anchors, algorithms, validity};
use crate::model::{ClientCertificates, Host, HostMap, HostPattern};

/// Most certificates that a client may show: more than any authority has between itself and a client.
const CHAIN_MAX: usize = 10;
/// Longest chain, in bytes. Each is kept for as long as its connection, and looked through for each host that asks.
const CHAIN_BYTES_MAX: usize = 32 * 1024;

/// What one host asks of its clients, compiled.
#[derive(Debug)]
pub struct ClientVerifier {
    pub settings: Arc<ClientCertificates>,
    anchors: Anchors,
    names: Arc<[DistinguishedName]>,
    config: OnceLock<Arc<ServerConfig>>,
}

/// Why a chain will not do, in OpenSSL's words, which endpoints may know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejected {
    pub reason: &'static str,
    /// It leads to nobody who is known; nothing else is wrong with it.
    pub unknown: bool,
}

/// Of all hosts, those that ask for certificates. Cheap to clone: what is changed is copied first.
#[derive(Debug, Clone, Default)]
pub struct ClientVerifiers {
    /// Every host that has rules, as soon as one of them asks: one that doesn't is not taken by a wildcard that does.
    hosts: Arc<HostMap<Option<Arc<ClientVerifier>>>>,
    asking: usize,
}

/// What a certificate says of its owner, as endpoints are told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    pub subject: String,
    pub issuer: String,
}

impl ClientVerifier {
    pub fn new(settings: Arc<ClientCertificates>) -> Self {
        let anchors = Anchors::new(&settings.authorities);
        Self { names: anchors.names(), anchors, settings, config: OnceLock::new() }
    }

    /// A configuration that is `base` but for asking the client for its certificate, and for sessions. Made once: all
    /// handshakes have the same base.
    pub fn config(&self, base: &ServerConfig) -> &Arc<ServerConfig> {
        self.config.get_or_init(|| {
            let asking = Arc::new(Asking { names: self.names.clone() });
            let mut config = ServerConfig::builder_with_provider(base.crypto_provider().clone())
                .with_safe_default_protocol_versions()
                .expect("the base has the same provider and versions")
                .with_client_cert_verifier(asking)
                .with_cert_resolver(base.cert_resolver.clone());
            config.alpn_protocols.clone_from(&base.alpn_protocols);
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
            Arc::new(config)
        })
    }

    /// Whether the chain, leaf first, leads to one of the authorities now.
    pub fn verify(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<(), Rejected> {
        let [first, others @ ..] = chain else { return Err(rejected(&webpki::Error::BadDer)) };
        let leaf = EndEntityCert::try_from(first).map_err(|error| rejected(&error))?;
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(since);
        let verified = self.anchors.verify(&leaf, others, self.settings.depth, KeyUsage::client_auth(), now);
        verified.map_err(|error| rejected(&error))
    }

    /// When next an authority's time begins or ends.
    pub fn next_change(&self, now: SystemTime) -> Option<SystemTime> {
        next(self.anchors.validity.iter().copied(), now)
    }
}

impl ClientVerifiers {
    /// Whether no host asks at all.
    pub fn is_empty(&self) -> bool {
        self.asking == 0
    }

    /// What the host of this name, in lower case, asks for.
    pub fn find(&self, name: &str) -> Option<&Arc<ClientVerifier>> {
        if self.is_empty() { None } else { self.hosts.find(name)?.as_ref() }
    }

    /// Takes up the hosts that changed. What a host goes on to ask for stays what it is.
    pub fn update(&mut self, all: &BTreeMap<HostPattern, Arc<Host>>, changed: &[HostPattern]) {
        let wanted = |pattern: &HostPattern| all.get(pattern).filter(|host| !host.rules.is_empty());
        let asks = |pattern: &&HostPattern| wanted(pattern).is_some_and(|host| host.client_certificates.is_some());
        if self.is_empty() && !changed.iter().any(|pattern| asks(&pattern)) {
            return;
        }
        let begins = self.is_empty();
        let hosts = Arc::make_mut(&mut self.hosts);
        let changed: Vec<&HostPattern> = if begins { all.keys().collect() } else { changed.iter().collect() };
        for pattern in changed {
            let before = hosts.get(pattern).cloned().flatten();
            let now = wanted(pattern).map(|host| compiled(host.client_certificates.as_ref(), before.as_ref()));
            self.asking -= usize::from(before.is_some());
            self.asking += usize::from(now.as_ref().is_some_and(Option::is_some));
            match now {
                Some(verifier) => hosts.insert(pattern, verifier),
                None => hosts.remove(pattern),
            }
        }
        if self.asking == 0 {
            *self = Self::default();
        }
    }
}

fn compiled(
    settings: Option<&Arc<ClientCertificates>>,
    before: Option<&Arc<ClientVerifier>>,
) -> Option<Arc<ClientVerifier>> {
    let settings = settings?;
    let same = before.filter(|before| before.settings == *settings);
    Some(same.cloned().unwrap_or_else(|| Arc::new(ClientVerifier::new(settings.clone()))))
}

impl Names {
    /// Nothing for what is no certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        let read = X509Certificate::from_der(certificate);
        let names =
            |(_, read): (_, X509Certificate)| Self { subject: rfc2253(read.subject()), issuer: rfc2253(read.issuer()) };
        read.map(names).unwrap_or_default()
    }
}

/// When next a certificate of the chain begins to be valid or ceases to be; `None` if none ever does.
pub fn next_change(chain: &[CertificateDer<'_>], now: SystemTime) -> Option<SystemTime> {
    next(chain.iter().filter_map(|certificate| validity(certificate)), now)
}

fn next(validities: impl Iterator<Item = (i64, i64)>, now: SystemTime) -> Option<SystemTime> {
    let second = |seconds: i64| {
        let since = Duration::from_secs(u64::try_from(seconds).ok()?);
        SystemTime::UNIX_EPOCH.checked_add(since)
    };
    // It is valid for the whole of its last second.
    let changes = validities.flat_map(|(begin, end)| [second(begin), second(end.saturating_add(1))]);
    changes.flatten().filter(|time| *time > now).min()
}

fn rejected(error: &webpki::Error) -> Rejected {
    use webpki::Error;
    let reason = match error {
        Error::CertExpired { .. } => "certificate has expired",
        Error::CertNotValidYet { .. } => "certificate is not yet valid",
        // Either nobody of the name is known, or somebody else has taken it.
        Error::UnknownIssuer | Error::InvalidSignatureForPublicKey => "unable to verify the first certificate",
        Error::MaximumPathDepthExceeded => "certificate chain too long",
        Error::RequiredEkuNotFoundContext(_) => "unsuitable certificate purpose",
        Error::NameConstraintViolation => "permitted subtree violation",
        Error::PathLenConstraintViolated => "path length constraint exceeded",
        Error::EndEntityUsedAsCa => "invalid CA certificate",
        // Somebody else's enum, and it grows.
        _ => "certificate can't be verified",
    };
    // To nginx a chain that is too long is one whose end is not known.
    let unknown =
        matches!(error, Error::UnknownIssuer | Error::InvalidSignatureForPublicKey | Error::MaximumPathDepthExceeded);
    Rejected { reason, unknown }
}

/// Asks for a certificate and takes any, or none; but not a chain that is dear to look at.
struct Asking {
    names: Arc<[DistinguishedName]>,
}

impl fmt::Debug for Asking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Asking({})", self.names.len())
    }
}

impl ClientCertVerifier for Asking {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.names
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let bytes = leaf.len() + others.iter().map(|other| other.len()).sum::<usize>();
        if others.len() >= CHAIN_MAX || bytes > CHAIN_BYTES_MAX {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Authorities, ObjectName, Rule, VerifyClient};

    fn host(pattern: &str, depth: Option<u8>) -> (HostPattern, Arc<Host>) {
        let pattern = HostPattern::parse(pattern).unwrap();
        let settings = depth.map(|depth| {
            Arc::new(ClientCertificates {
                authorities: Authorities(Arc::from([])),
                verify: VerifyClient::On,
                depth,
                subject: None,
                error_page: None,
                pass_certificate: false,
            })
        });
        let rules = vec![Arc::new(Rule::new(ObjectName::new("a", "b"), None))];
        (pattern.clone(), Arc::new(Host { pattern, rules, certificate: None, client_certificates: settings }))
    }

    #[test]
    fn a_chain_that_is_dear_to_look_at_ends_the_handshake() {
        let asking = Asking { names: Arc::from([]) };
        let takes = |certificates: usize, bytes: usize| {
            let one = CertificateDer::from(vec![0; bytes]);
            let now = UnixTime::since_unix_epoch(Duration::ZERO);
            asking.verify_client_cert(&one, &vec![one.clone(); certificates - 1], now).is_ok()
        };
        assert!(takes(1, CHAIN_BYTES_MAX) && takes(CHAIN_MAX, 3000));
        assert!(!takes(1, CHAIN_BYTES_MAX + 1) && !takes(CHAIN_MAX + 1, 1) && !takes(CHAIN_MAX, 4000));
    }

    #[test]
    fn a_host_asks_for_what_it_asks_for_itself() {
        let mut all: BTreeMap<_, _> = [host("plain.w.test", None), host("other.test", None)].into();
        let mut verifiers = ClientVerifiers::default();
        let change = |all: &mut BTreeMap<_, _>, verifiers: &mut ClientVerifiers, (pattern, host)| {
            all.insert(HostPattern::clone(&pattern), host);
            verifiers.update(all, &[pattern]);
        };
        verifiers.update(&all, &all.keys().cloned().collect::<Vec<_>>());
        assert!(verifiers.is_empty());
        change(&mut all, &mut verifiers, host("*.w.test", Some(1)));
        let depth = |verifiers: &ClientVerifiers, name| verifiers.find(name).map(|found| found.settings.depth);
        for (name, expected) in [("a.w.test", Some(1)), ("plain.w.test", None), ("other.test", None), ("w.test", None)]
        {
            assert_eq!(depth(&verifiers, name), expected, "{name}");
        }
        // One that comes later, and asks for nothing, is not taken by the wildcard either.
        change(&mut all, &mut verifiers, host("late.w.test", None));
        change(&mut all, &mut verifiers, host("deep.w.test", Some(2)));
        assert_eq!((depth(&verifiers, "late.w.test"), depth(&verifiers, "deep.w.test")), (None, Some(2)));
        let before = verifiers.find("a.w.test").unwrap().clone();
        change(&mut all, &mut verifiers, host("*.w.test", Some(1)));
        assert!(Arc::ptr_eq(&before, verifiers.find("a.w.test").unwrap()), "what says the same stays");
        for pattern in ["*.w.test", "deep.w.test"] {
            assert!(!verifiers.is_empty());
            change(&mut all, &mut verifiers, host(pattern, None));
        }
        assert!(verifiers.is_empty());
    }
}
