//! Certificates for tests: an authority, leaves of both kinds of key, chains and expired ones.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

/// A certificate with its chain and its key, as they stand in a Secret.
#[derive(Clone)]
pub struct Identity {
    pub chain_pem: String,
    pub key_pem: String,
    /// The leaf, as a client sees it.
    pub leaf: CertificateDer<'static>,
}

impl Identity {
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        let chain = CertificateDer::pem_slice_iter(self.chain_pem.as_bytes());
        chain.collect::<Result<_, _>>().expect("a chain")
    }

    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).expect("a key")
    }

    pub fn resolver(&self) -> SingleCertAndKey {
        let key = aws_lc_rs::default_provider().key_provider.load_private_key(self.key()).expect("a key of TLS's");
        SingleCertAndKey::from(CertifiedKey::new(self.chain(), key))
    }
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
        Self::named("root of the tests")
    }

    pub fn named(name: &str) -> Self {
        let (params, key) = (authority_params(name), key(Key::Ecdsa));
        let certificate = params.self_signed(&key).expect("a root");
        let (der, pem) = (certificate.der().clone(), certificate.pem());
        Self { issuer: Issuer::new(params, key), certificate: der, pem, chain_pem: String::new() }
    }

    pub fn intermediate(&self) -> Self {
        // Each has a name of its own, or one below another would look like its own issuer.
        let depth = self.chain_pem.matches("BEGIN").count() + 1;
        let name = format!("intermediate {depth} of the tests");
        let (params, key) = (authority_params(&name), key(Key::Ecdsa));
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

    /// One as public authorities make them: made an hour ago, and valid for so long from then on.
    pub fn brief_leaf(&self, names: &[&str], time: Duration) -> Identity {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.not_before = rcgen::date_time_ymd(1970, 1, 1) + since_1970() - Duration::from_secs(3600);
        params.not_after = params.not_before + time;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        self.signed(&params, &key(Key::Ecdsa))
    }

    /// A client's certificate: `CN=name,O=Verona`.
    pub fn client(&self, name: &str) -> Identity {
        self.signed(&client_params(name), &key(Key::Ecdsa))
    }

    pub fn expired_client(&self, name: &str) -> Identity {
        let mut params = client_params(name);
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        self.signed(&params, &key(Key::Ecdsa))
    }

    /// One that is valid for so long from now on.
    pub fn brief_client(&self, name: &str, time: Duration) -> Identity {
        let mut params = client_params(name);
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since_1970() + time;
        self.signed(&params, &key(Key::Ecdsa))
    }

    fn signed(&self, params: &CertificateParams, key: &KeyPair) -> Identity {
        let certificate = params.signed_by(key, &self.issuer).expect("a leaf");
        let chain_pem = format!("{}{}", certificate.pem(), self.chain_pem);
        Identity { chain_pem, key_pem: key.serialize_pem(), leaf: certificate.der().clone() }
    }

    fn sign(&self, names: &[&str], kind: Key, not_after_year: i32) -> Identity {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(not_after_year, 1, 1);
        self.signed(&params, &key(kind))
    }
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970")
}

fn client_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Verona");
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = rcgen::date_time_ymd(2000, 1, 1);
    params.not_after = rcgen::date_time_ymd(2200, 1, 1);
    params
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
