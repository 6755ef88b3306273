//! TLS to endpoints. What is asked decides whether their certificates are verified and whom they are to be; unless it
//! is asked, they are not (ingress-nginx's `proxy-ssl-verify: off`), which protects against listeners, not against
//! impostors. Each configuration has sessions of its own, so that none outlives the settings it was made under.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme, SupportedProtocolVersion};
use webpki::{EndEntityCert, KeyUsage};

use super::certificates::certified_key;
use super::verify::{Anchors, algorithms, provider};
use crate::model::{Authorities, BackendTls, ObjectName, TlsVersions};

/// How to speak to a backend's endpoints.
#[derive(Debug, Clone)]
pub struct EndpointTls {
    pub config: Arc<ClientConfig>,
    /// Who they are told that they are meant to be; else they are told nothing.
    pub server_name: Option<ServerName<'static>>,
}

impl EndpointTls {
    /// For the endpoints of a Service; `http2` offers HTTP/2 before HTTP/1.1.
    pub fn new(service: &ObjectName, tls: Option<&BackendTls>, http2: bool) -> Self {
        let name = name(service, tls);
        let versions: &[&SupportedProtocolVersion] = match tls.map_or(TlsVersions::All, |tls| tls.options.versions) {
            TlsVersions::All => &[&TLS13, &TLS12],
            TlsVersions::Only12 => &[&TLS12],
            TlsVersions::Only13 => &[&TLS13],
        };
        let verified = tls.filter(|tls| tls.options.verify).map(|tls| {
            // Without an authority nobody is believed.
            let nobody = || Authorities(Arc::from([]));
            let anchors = Anchors::new(&tls.authorities.clone().unwrap_or_else(nobody));
            Verified { anchors, depth: tls.options.depth, name: name.clone() }
        });
        let builder = ClientConfig::builder_with_provider(provider().clone())
            .with_protocol_versions(versions)
            .expect("the provider has suites for TLS 1.2 and 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier(verified)));
        let identity = tls.and_then(|tls| certified_key(tls.identity.as_ref()?));
        let mut config = match identity {
            Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
            None => builder.with_no_client_auth(),
        };
        let server_name = name.filter(|_| tls.is_some_and(|tls| tls.options.server_name));
        config.enable_sni = server_name.is_some();
        config.alpn_protocols =
            if http2 { vec![b"h2".to_vec(), b"http/1.1".to_vec()] } else { vec![b"http/1.1".to_vec()] };
        Self { config: Arc::new(config), server_name }
    }
}

/// Who endpoints are. `None` only for names that are none, which verification then refuses.
fn name(service: &ObjectName, tls: Option<&BackendTls>) -> Option<ServerName<'static>> {
    let options = &tls?.options;
    let text = match &options.name {
        Some(name) => name.to_string(),
        None => format!("{}.{}.svc", service.name, service.namespace),
    };
    ServerName::try_from(text).ok()
}

/// Whom to believe endpoints to be.
#[derive(Debug)]
struct Verified {
    anchors: Anchors,
    depth: u8,
    name: Option<ServerName<'static>>,
}

/// `None` takes any certificate; the handshake's signature must still be made with its key.
#[derive(Debug)]
struct Verifier(Option<Verified>);

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let refused = |error: webpki::Error| rustls::Error::General(format!("the certificate is refused: {error}"));
        let Some(Verified { anchors, depth, name }) = &self.0 else { return Ok(ServerCertVerified::assertion()) };
        let leaf = EndEntityCert::try_from(leaf).map_err(refused)?;
        anchors.verify(&leaf, others, *depth, KeyUsage::server_auth(), now).map_err(refused)?;
        let name = name.as_ref().ok_or_else(|| refused(webpki::Error::MalformedDnsIdentifier))?;
        leaf.verify_is_valid_for_subject_name(name).map_err(refused)?;
        Ok(ServerCertVerified::assertion())
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
