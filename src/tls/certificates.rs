//! The certificate for a server name, compiled once per table: chains parsed and signing keys loaded.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::verify::provider;
use crate::model::{Certificate, HostMap, HostPattern, ObjectName};

/// Certificates by server name, and one for all other names. Cheap to clone: what is changed is copied first.
#[derive(Debug, Clone)]
pub struct Certificates {
    names: Arc<HostMap<ObjectName>>,
    loaded: Arc<HashMap<ObjectName, Arc<CertifiedKey>>>,
    default: (Option<ObjectName>, Arc<CertifiedKey>),
}

impl Certificates {
    /// `default` is what is served where no host's certificate fits.
    pub fn new(default: Arc<CertifiedKey>) -> Self {
        Self { names: Arc::default(), loaded: Arc::default(), default: (None, default) }
    }

    /// Loads a Secret's certificate.
    pub fn load(&mut self, secret: &ObjectName, certificate: &Certificate) {
        // translate has checked the pair; what rustls refuses all the same leaves the last good one in place.
        if let Some(key) = certified_key(certificate) {
            Arc::make_mut(&mut self.loaded).insert(secret.clone(), Arc::new(key));
        }
    }

    pub fn unload(&mut self, secret: &ObjectName) {
        Arc::make_mut(&mut self.loaded).remove(secret);
    }

    /// Serves a Secret's certificate for the pattern; `None` leaves it to a wildcard or the default.
    pub fn assign(&mut self, pattern: &HostPattern, secret: Option<&ObjectName>) {
        if self.names.get(pattern) == secret {
            return;
        }
        let names = Arc::make_mut(&mut self.names);
        match secret {
            Some(secret) => names.insert(pattern, secret.clone()),
            None => names.remove(pattern),
        }
    }

    /// Serves a loaded Secret's certificate for all names that have none of their own.
    pub fn assign_default(&mut self, secret: Option<&ObjectName>, self_signed: &Arc<CertifiedKey>) {
        let loaded = secret.and_then(|secret| Some((Some(secret.clone()), self.loaded.get(secret)?.clone())));
        self.default = loaded.unwrap_or_else(|| (None, self_signed.clone()));
    }

    /// The certificate for a name in lower case. A name without one of its own gets the default.
    pub fn find(&self, name: Option<&str>) -> &Arc<CertifiedKey> {
        let own = name.and_then(|name| self.loaded.get(self.names.find(name)?));
        own.unwrap_or(&self.default.1)
    }

    /// Whether a request for `host` may come over a connection whose handshake asked for `server_name`: both
    /// are served with one certificate, or the connection got the default one. Else the answer is 421
    /// (RFC 9110, 15.5.20). What counts is the Secret, so that a renewal does not matter.
    pub fn may_share(&self, server_name: Option<&str>, host: &str) -> bool {
        let Some(server_name) = server_name else { return true };
        if server_name == host {
            return true;
        }
        match self.secret(server_name) {
            None => true,
            greeted => greeted == self.default.0.as_ref() || greeted == self.secret(host),
        }
    }

    /// Whether both names are served with one certificate, be it the default one.
    pub fn are_same(&self, server_name: Option<&str>, host: &str) -> bool {
        let served = |name| self.secret(name).or(self.default.0.as_ref());
        server_name.is_some_and(|server_name| served(server_name) == served(host))
    }

    /// Whether the name is served with the default certificate.
    pub fn is_default(&self, name: &str) -> bool {
        self.secret(name).is_none_or(|secret| Some(secret) == self.default.0.as_ref())
    }

    /// The Secret that a name's own certificate comes from.
    fn secret(&self, name: &str) -> Option<&ObjectName> {
        self.names.find(name).filter(|secret| self.loaded.contains_key(*secret))
    }
}

pub(super) fn certified_key(certificate: &Certificate) -> Option<CertifiedKey> {
    let chain = certificate.chain.iter().map(|part| CertificateDer::from(part.clone())).collect();
    let key = PrivateKeyDer::try_from(certificate.key.der().to_vec()).ok()?;
    let signer = provider().key_provider.load_private_key(key).ok()?;
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
            key: crate::model::PrivateKey::new(made.signing_key.serialize_der()),
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
