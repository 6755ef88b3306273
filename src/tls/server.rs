//! What is accepted from clients: TLS 1.2 with AEAD and ECDHE and TLS 1.3, HTTP/2 and HTTP/1.1 by ALPN, and
//! session tickets whose keys all workers share, so that a session resumes wherever its next connection lands.

use std::fmt;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::certificates::certified_key;
use super::verify::provider;
use crate::model::Certificate;

/// Chooses the certificate for a server name, in lower case, from the table of now.
pub type FindCertificate = Box<dyn Fn(Option<&str>) -> Arc<CertifiedKey> + Send + Sync>;

struct Resolver(FindCertificate);

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls hands the name over in lower case and without a trailing dot.
        Some((self.0)(hello.server_name()))
    }
}

/// One configuration for all HTTPS listeners and workers.
pub fn server_config(find: FindCertificate) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider().clone())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Resolver(find)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    // Tickets carry the session to the client; a cache here would be a lock that all workers take.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 2;
    Ok(Arc::new(config))
}

/// A configuration for one certificate and HTTP/1.1, whatever name is asked for. Sessions don't resume: who comes
/// stays connected. `None` if the certificate can't be used.
pub fn single_config(certificate: &Certificate) -> Option<Arc<ServerConfig>> {
    let key = certified_key(certificate)?;
    let mut config = ServerConfig::builder_with_provider(provider().clone())
        .with_safe_default_protocol_versions()
        .ok()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Some(Arc::new(config))
}

/// A self-signed certificate, for names that no Secret is for. Made new in each process.
pub fn default_certificate() -> Arc<CertifiedKey> {
    let made = rcgen::generate_simple_self_signed(["portunus.invalid".to_owned()])
        .expect("the name is valid and a P-256 key can always be made");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let signer = provider().key_provider.load_private_key(key).expect("rcgen writes keys that rustls reads");
    Arc::new(CertifiedKey::new(vec![made.cert.der().clone()], signer))
}
