//! The certificate for a server name, compiled once per table: chains parsed and signing keys loaded.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::model::{Certificate, HostMap, HostPattern, ObjectName};

/// A certificate in service.
#[derive(Debug)]
pub struct Served {
    /// The Secret it comes from; `None` for the self-signed one of the process. Names that are served from one
    /// Secret share a certificate, whichever version of it a connection was greeted with.
    pub secret: Option<ObjectName>,
    pub key: Arc<CertifiedKey>,
}

/// Certificates by server name, and one for all other names.
#[derive(Debug, Clone)]
pub struct Certificates {
    names: HostMap<Arc<Served>>,
    default: Arc<Served>,
    by_secret: HashMap<ObjectName, (Arc<Certificate>, Arc<Served>)>,
}

impl Certificates {
    /// `default` is what is served where no host's certificate fits.
    pub fn new(default: Arc<CertifiedKey>) -> Self {
        let default = Arc::new(Served { secret: None, key: default });
        Self { names: HostMap::default(), default, by_secret: HashMap::new() }
    }

    /// Loads a Secret's certificate, unless the very same is loaded already.
    pub fn load(&mut self, secret: &ObjectName, certificate: &Arc<Certificate>) {
        if self.by_secret.get(secret).is_some_and(|(loaded, _)| Arc::ptr_eq(loaded, certificate)) {
            return;
        }
        // translate has checked the pair; what rustls refuses all the same leaves the last good one in place.
        if let Some(key) = certified_key(certificate) {
            let served = Arc::new(Served { secret: Some(secret.clone()), key: Arc::new(key) });
            self.by_secret.insert(secret.clone(), (certificate.clone(), served));
        }
    }

    pub fn unload(&mut self, secret: &ObjectName) {
        self.by_secret.remove(secret);
    }

    /// Serves a loaded Secret's certificate for the pattern; without one, or with one that isn't loaded, the
    /// pattern gets none of its own.
    pub fn assign(&mut self, pattern: &HostPattern, secret: Option<&ObjectName>) {
        match secret.and_then(|secret| self.by_secret.get(secret)) {
            Some((_, served)) => self.names.insert(pattern, served.clone()),
            None => self.names.remove(pattern),
        }
    }

    /// Serves a loaded Secret's certificate for all names that have none of their own.
    pub fn assign_default(&mut self, secret: Option<&ObjectName>, self_signed: &Arc<CertifiedKey>) {
        let loaded = secret.and_then(|secret| self.by_secret.get(secret));
        self.default = match loaded {
            Some((_, served)) => served.clone(),
            None => Arc::new(Served { secret: None, key: self_signed.clone() }),
        };
    }

    /// The certificate for a name in lower case. A name without one of its own gets the default.
    pub fn find(&self, name: Option<&str>) -> &Arc<Served> {
        name.and_then(|name| self.names.find(name)).unwrap_or(&self.default)
    }

    /// Whether a request for `host` may come over a connection whose handshake asked for `server_name`: both
    /// are served with one certificate, or the connection got the default one. Else the answer is 421
    /// (RFC 9110, 15.5.20).
    pub fn may_share(&self, server_name: Option<&str>, host: &str) -> bool {
        let Some(server_name) = server_name else { return true };
        if server_name == host {
            return true;
        }
        let greeted = self.find(Some(server_name));
        let is_default = Arc::ptr_eq(greeted, &self.default);
        is_default || greeted.secret == self.find(Some(host)).secret
    }
}

fn certified_key(certificate: &Certificate) -> Option<CertifiedKey> {
    let chain = certificate.chain.iter().map(|part| CertificateDer::from(part.clone())).collect();
    let key = PrivateKeyDer::try_from(certificate.key.0.to_vec()).ok()?;
    let signer = default_provider().key_provider.load_private_key(key).ok()?;
    Some(CertifiedKey::new(chain, signer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::default_certificate;

    #[test]
    fn names_share_a_connection_when_they_share_a_certificate() {
        let made = rcgen::generate_simple_self_signed(["x.example".to_owned()]).unwrap();
        let certificate = Arc::new(Certificate {
            chain: Arc::from([made.cert.der().to_vec()]),
            key: crate::model::PrivateKey(Arc::from(made.signing_key.serialize_der())),
            names: vec![],
            not_before: 0,
            not_after: 0,
        });
        let mut certificates = Certificates::new(default_certificate());
        let (one, two) = (ObjectName::new("a", "one"), ObjectName::new("a", "two"));
        certificates.load(&one, &certificate);
        certificates.load(&two, &certificate);
        for (host, secret) in [("a.example", &one), ("b.example", &one), ("c.example", &two), ("*.w.example", &two)] {
            certificates.assign(&HostPattern::parse(host).unwrap(), Some(secret));
        }
        let table = [
            (Some("a.example"), "a.example", true),
            (Some("a.example"), "b.example", true),
            (Some("a.example"), "c.example", false),
            (Some("c.example"), "x.w.example", true),
            (Some("a.example"), "unknown.example", false),
            (Some("unknown.example"), "a.example", true),
            (None, "a.example", true),
        ];
        for (server_name, host, expected) in table {
            assert_eq!(certificates.may_share(server_name, host), expected, "{server_name:?} {host}");
        }
    }
}
