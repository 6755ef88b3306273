//! Certificates for tests: an authority, leaves of both kinds of key, chains and expired ones.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PKCS_RSA_SHA256,
};
use rustls::pki_types::CertificateDer;

/// A certificate with its chain and its key, as they stand in a Secret.
#[derive(Clone)]
pub struct Identity {
    pub chain_pem: String,
    pub key_pem: String,
    /// The leaf, as a client sees it.
    pub leaf: CertificateDer<'static>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Key {
    Ecdsa,
    Rsa,
}

/// A certificate authority, root or intermediate.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub certificate: CertificateDer<'static>,
    pub pem: String,
    /// The certificates between this one and the root, this one first; empty for a root.
    chain_pem: String,
}

impl Authority {
    pub fn new() -> Self {
        let (params, key) = (authority_params("root of the tests"), key(Key::Ecdsa));
        let certificate = params.self_signed(&key).expect("a root");
        let (der, pem) = (certificate.der().clone(), certificate.pem());
        Self { issuer: Issuer::new(params, key), certificate: der, pem, chain_pem: String::new() }
    }

    pub fn intermediate(&self) -> Self {
        let (params, key) = (authority_params("intermediate of the tests"), key(Key::Ecdsa));
        let certificate = params.signed_by(&key, &self.issuer).expect("an intermediate");
        let (der, pem) = (certificate.der().clone(), certificate.pem());
        let chain_pem = format!("{pem}{}", self.chain_pem);
        Self { issuer: Issuer::new(params, key), certificate: der, pem, chain_pem }
    }

    /// A valid ECDSA certificate for these names.
    pub fn leaf(&self, names: &[&str]) -> Identity {
        self.sign(names, Key::Ecdsa, 2200)
    }

    pub fn rsa_leaf(&self, names: &[&str]) -> Identity {
        self.sign(names, Key::Rsa, 2200)
    }

    pub fn expired_leaf(&self, names: &[&str]) -> Identity {
        self.sign(names, Key::Ecdsa, 2001)
    }

    fn sign(&self, names: &[&str], kind: Key, not_after_year: i32) -> Identity {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(not_after_year, 1, 1);
        let key = key(kind);
        let certificate = params.signed_by(&key, &self.issuer).expect("a leaf");
        let chain_pem = format!("{}{}", certificate.pem(), self.chain_pem);
        Identity { chain_pem, key_pem: key.serialize_pem(), leaf: certificate.der().clone() }
    }
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params
}

fn key(kind: Key) -> KeyPair {
    let algorithm = match kind {
        Key::Ecdsa => &PKCS_ECDSA_P256_SHA256,
        Key::Rsa => &PKCS_RSA_SHA256,
    };
    KeyPair::generate_for(algorithm).expect("a key")
}
