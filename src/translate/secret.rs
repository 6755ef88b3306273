//! What is in a Secret: a certificate chain and its key (PEM, and a key that belongs to the leaf), the certificates of a
//! CA bundle, and the rest as it is, for those whose type doesn't say what they hold. What fails here never reaches a
//! handshake. Dates are another matter: a certificate is judged by them as long as it is there, as clocks are set.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1 as core;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use zeroize::{Zeroize, Zeroizing};

use crate::model::{Authorities, Certificate, PrivateKey};

/// Why a Secret can't be served. Says nothing about the key beyond its shape.
#[derive(Debug, Clone, PartialEq)]
pub struct InvalidSecret {
    pub field: &'static str,
    pub what: String,
    pub fix: &'static str,
}

const TLS_TYPE: &str = "kubernetes.io/tls";
const CERTIFICATE: &str = "data[tls.crt]";
const KEY: &str = "data[tls.key]";
const AUTHORITIES: &str = "data[ca.crt]";
/// Most certificates of a CA bundle: a public one, of all that browsers believe, has 150.
const AUTHORITIES_MAX: usize = 256;
/// Most data of a Secret that is kept as it is, in bytes: as much as an API server stores.
const DATA_BYTES_MAX: usize = 1024 * 1024;
/// The last second that X.509 can name, and our text too: the end of the year 9999.
const SECONDS_MAX: u64 = 253_402_300_799;

/// A Secret as it arrives, read.
#[derive(Debug, Clone, PartialEq)]
pub struct Content {
    /// It is of type `kubernetes.io/tls`.
    pub tls: bool,
    /// Whatever its dates; `None` if it is of another type and has neither half.
    pub pair: Option<Result<Certificate, InvalidSecret>>,
    /// `None` without `ca.crt`.
    pub authorities: Option<Box<Result<Authorities, InvalidSecret>>>,
    /// What a Secret of another type has, unless it is more than [`DATA_BYTES_MAX`].
    pub data: Option<Arc<SecretData>>,
    /// When it arrived, in seconds since the epoch.
    pub now: i64,
}

/// The keys of a Secret and their bytes. `Debug` shows the keys' names; the bytes are overwritten in the end.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretData(pub(super) BTreeMap<String, Vec<u8>>);

impl SecretData {
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.0.get(key).map(Vec::as_slice)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_slice()))
    }
}

impl Drop for SecretData {
    fn drop(&mut self) {
        self.0.values_mut().for_each(Zeroize::zeroize);
    }
}

impl fmt::Debug for SecretData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Content {
    /// `now` is in seconds since the epoch.
    pub fn new(secret: core::Secret, now: i64) -> Self {
        let tls = secret.type_.as_deref() == Some(TLS_TYPE);
        let own = secret.string_data.unwrap_or_default().into_iter().map(|(key, text)| (key, text.into_bytes()));
        let coded = secret.data.unwrap_or_default().into_iter().map(|(key, ByteString(bytes))| (key, bytes));
        // `stringData` is written over `data` (Secret v1).
        Self::of(tls, coded.chain(own).collect(), now)
    }

    pub(super) fn of(tls: bool, data: BTreeMap<String, Vec<u8>>, now: i64) -> Self {
        let data = SecretData(data);
        let part = |key: &str| data.get(key);
        let (certificate, key) = (part("tls.crt"), part("tls.key"));
        let has_pair = tls || certificate.is_some() || key.is_some();
        let pair = has_pair.then(|| read(certificate, key));
        // Who issues without a CA of his own may leave the key there and empty.
        let bundle = part("ca.crt").filter(|pem| !pem.is_empty());
        let revoked = part("ca.crl").is_some_and(|pem| !pem.is_empty());
        let authorities = bundle.map(|pem| Box::new(read_authorities(pem).and_then(|all| unrevoked(all, revoked))));
        let kept = !tls && data.0.values().map(Vec::len).sum::<usize>() <= DATA_BYTES_MAX;
        Self { tls, pair, authorities, data: kept.then(|| Arc::new(data)), now }
    }
}

/// Reads and checks both halves, but for the dates.
pub fn read(certificate: Option<&[u8]>, key: Option<&[u8]>) -> Result<Certificate, InvalidSecret> {
    let invalid = |field, what: String, fix| InvalidSecret { field, what, fix };
    let missing = |field| invalid(field, "is missing".to_owned(), "add it, base64-encoded PEM");
    let chain_pem = certificate.ok_or_else(|| missing(CERTIFICATE))?;
    let key_pem = key.ok_or_else(|| missing(KEY))?;

    let chain = CertificateDer::pem_slice_iter(chain_pem)
        .collect::<Result<Vec<_>, _>>()
        .ok()
        .filter(|chain| !chain.is_empty())
        .ok_or_else(|| invalid(CERTIFICATE, "has no PEM certificate".to_owned(), "put the chain there, leaf first"))?;
    let key = PrivateKeyDer::from_pem_slice(key_pem)
        .map_err(|_| invalid(KEY, "has no PEM private key".to_owned(), "put the key there, unencrypted"))?;
    check(&chain, &Zeroizing::new(key))
}

/// The same of DER, as [`Certificate`] holds both.
pub fn read_der(chain: Vec<Vec<u8>>, key: Vec<u8>) -> Result<Certificate, InvalidSecret> {
    let chain: Vec<CertificateDer<'static>> = chain.into_iter().map(CertificateDer::from).collect();
    match PrivateKeyDer::try_from(key) {
        Ok(key) if !chain.is_empty() => check(&chain, &Zeroizing::new(key)),
        Ok(_) | Err(_) => {
            let what = "is no private key with a chain".to_owned();
            Err(InvalidSecret { field: KEY, what, fix: "store both" })
        }
    }
}

fn check(chain: &[CertificateDer<'_>], key: &PrivateKeyDer<'_>) -> Result<Certificate, InvalidSecret> {
    let invalid = |field, what: String, fix| InvalidSecret { field, what, fix };
    let signer = default_provider().key_provider.load_private_key(key.clone_key()).map_err(|_| {
        invalid(KEY, "is no key that TLS can use".to_owned(), "use RSA (2048 bit or more), ECDSA or Ed25519")
    })?;
    let owned = chain.iter().map(|part| part.clone().into_owned()).collect();
    match CertifiedKey::new(owned, signer).keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
        Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) => {
            return Err(invalid(
                KEY,
                "does not belong to the certificate".to_owned(),
                "store the key that the certificate was issued for",
            ));
        }
        Err(error) => {
            return Err(invalid(CERTIFICATE, format!("can't be used: {error}"), "store a valid X.509 certificate"));
        }
    }
    let mut certificate = leaf(&chain[0])
        .ok_or_else(|| invalid(CERTIFICATE, "is no X.509 certificate".to_owned(), "store a valid X.509 certificate"))?;
    certificate.chain = chain.iter().map(|part| part.to_vec()).collect();
    certificate.key = PrivateKey::new(key.secret_der().to_vec());
    Ok(certificate)
}

/// What is wrong with a certificate that is not for this time, in seconds since the epoch.
pub fn untimely(certificate: &Certificate, now: i64) -> Option<InvalidSecret> {
    let (what, fix) = if certificate.not_after < now {
        (format!("expired on {}", date(certificate.not_after)), "renew the certificate")
    } else if certificate.not_before > now {
        let what = format!("is valid only from {} on", date(certificate.not_before));
        (what, "set the clock, or wait for the certificate's time")
    } else {
        return None;
    };
    Some(InvalidSecret { field: CERTIFICATE, what, fix })
}

fn date(seconds: i64) -> String {
    let seconds = u64::try_from(seconds).unwrap_or(0).min(SECONDS_MAX);
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
}

/// Authorities beside a list of what they have revoked are of no use to who can't read the list: those on it would be
/// believed.
fn unrevoked(authorities: Authorities, revoked: bool) -> Result<Authorities, InvalidSecret> {
    let what = || "holds a revocation list, and none is read".to_owned();
    let fix = "remove the list, and whose certificates it is about from `ca.crt`";
    if revoked { Err(InvalidSecret { field: "data[ca.crl]", what: what(), fix }) } else { Ok(authorities) }
}

/// Every certificate of a bundle. One that is none takes the others with it: nobody knows whom it stood for.
fn read_authorities(pem: &[u8]) -> Result<Authorities, InvalidSecret> {
    let invalid = |what: String, fix| InvalidSecret { field: AUTHORITIES, what, fix };
    let none = || invalid("has no PEM certificate".to_owned(), "put the CA's certificates there, each as PEM");
    let all = CertificateDer::pem_slice_iter(pem).take(AUTHORITIES_MAX + 1);
    let all: Vec<Vec<u8>> = all.map(|der| der.map(|der| der.to_vec())).collect::<Result<_, _>>().map_err(|_| none())?;
    if all.is_empty() {
        return Err(none());
    }
    if all.len() > AUTHORITIES_MAX {
        return Err(invalid(
            format!("has more than {AUTHORITIES_MAX} certificates"),
            "leave out those that nobody needs",
        ));
    }
    let is_one = |der: &Vec<u8>| X509Certificate::from_der(der).is_ok_and(|(rest, _)| rest.is_empty());
    if let Some(at) = all.iter().position(|der| !is_one(der)) {
        let what = format!("certificate {} is no X.509 certificate", at + 1);
        return Err(invalid(what, "store valid X.509 certificates"));
    }
    Ok(Authorities(all.into()))
}

/// Names and dates of a leaf; its chain and key are still to be filled in.
fn leaf(der: &CertificateDer<'_>) -> Option<Certificate> {
    let (_, leaf) = X509Certificate::from_der(der).ok()?;
    let mut names: Vec<Box<str>> = Vec::new();
    if let Ok(Some(alternative)) = leaf.subject_alternative_name() {
        for name in &alternative.value.general_names {
            if let GeneralName::DNSName(name) = name {
                names.push(name.to_ascii_lowercase().into());
            }
        }
    }
    let validity = leaf.validity();
    Some(Certificate {
        chain: Arc::from([]),
        key: PrivateKey::new(Vec::new()),
        names,
        not_before: validity.not_before.timestamp(),
        not_after: validity.not_after.timestamp(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str) -> (String, String) {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    /// Certificate, key, and the field and words of the fault.
    type Row<'a> = (Option<&'a [u8]>, Option<&'a [u8]>, &'a str, &'a str);

    const NOW: i64 = 1_800_000_000;

    #[test]
    fn a_good_pair_is_read() {
        let (certificate, key) = pair("Verona.example");
        let read = read(Some(certificate.as_bytes()), Some(key.as_bytes())).unwrap();
        assert_eq!(read.names, ["verona.example".into()]);
        assert!(read.covers("verona.example") && !read.covers("a.verona.example"));
        let shown = format!("{read:?} {:?}", read.key);
        assert!(shown.contains("verona.example") && shown.ends_with("PrivateKey(secret)"), "{shown}");
    }

    #[test]
    fn each_fault_is_named() {
        let (certificate, key) = pair("a.example");
        let (other, _) = pair("b.example");
        let (c, k, o) = (Some(certificate.as_bytes()), Some(key.as_bytes()), Some(other.as_bytes()));
        let cut = Some(&certificate.as_bytes()[..100]);
        let table: [Row; 6] = [
            (None, k, CERTIFICATE, "is missing"),
            (c, None, KEY, "is missing"),
            (Some(b"hello"), k, CERTIFICATE, "has no PEM certificate"),
            (cut, k, CERTIFICATE, "has no PEM certificate"),
            (c, Some(b"hello"), KEY, "has no PEM private key"),
            (o, k, KEY, "does not belong to the certificate"),
        ];
        for (certificate, key, field, what) in table {
            let invalid = read(certificate, key).unwrap_err();
            assert_eq!(invalid.field, field, "{what}");
            assert!(invalid.what.starts_with(what), "{}", invalid.what);
        }
    }

    #[test]
    fn a_certificate_has_its_time_both_ends_of_it_included() {
        let (certificate, key) = pair("a.example");
        let read = read(Some(certificate.as_bytes()), Some(key.as_bytes())).unwrap();
        let at = |not_before, not_after, now| {
            let certificate = Certificate { not_before, not_after, ..read.clone() };
            untimely(&certificate, now).map(|invalid| invalid.what)
        };
        let (from, to) = (1_000_000_000, 1_800_000_000);
        assert_eq!(at(from, to, from - 1).unwrap(), "is valid only from 2001-09-09T01:46:40Z on");
        assert_eq!((at(from, to, from), at(from, to, to)), (None, None));
        assert_eq!(at(from, to, to + 1).unwrap(), "expired on 2027-01-15T08:00:00Z");
        assert_eq!(at(i64::MAX, i64::MAX, 0).unwrap(), "is valid only from 9999-12-31T23:59:59Z on");
        assert_eq!(at(i64::MIN, i64::MIN, 0).unwrap(), "expired on 1970-01-01T00:00:00Z");
    }

    fn content(tls: bool, parts: &[(&str, &[u8])]) -> Content {
        Content::of(tls, parts.iter().map(|(key, value)| ((*key).to_owned(), value.to_vec())).collect(), NOW)
    }

    #[test]
    fn a_bundle_is_read_whole_or_not_at_all() {
        let (one, key) = pair("a.example");
        let (other, _) = pair("b.example");
        let read = |pem: &str| content(false, &[("ca.crt", pem.as_bytes())]).authorities.map(|read| *read);
        let count = |pem: &str| read(pem).unwrap().map(|authorities| authorities.0.len()).unwrap();
        assert_eq!(
            (count(&one), count(&format!("# Verona's\n{one}{other}")), count(&format!("{one}{key}"))),
            (1, 2, 1)
        );
        assert_eq!(count(&one.repeat(AUTHORITIES_MAX)), AUTHORITIES_MAX);
        assert_eq!((read(""), content(true, &[]).authorities), (None, None));
        let no_der = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (pem, what) in [
            ("hello", "has no PEM certificate"),
            (&key, "has no PEM certificate"),
            (&one[..100], "has no PEM certificate"),
            (&format!("{one}{no_der}"), "certificate 2 is no X.509 certificate"),
            (&one.repeat(AUTHORITIES_MAX + 1), "has more than 256 certificates"),
        ] {
            let invalid = read(pem).unwrap().unwrap_err();
            assert_eq!((invalid.field, invalid.what.as_str()), (AUTHORITIES, what));
        }
    }

    #[test]
    fn what_a_secret_has_depends_on_its_type() {
        let (certificate, key) = pair("a.example");
        let (certificate, key) = (certificate.as_bytes(), key.as_bytes());
        let both = [("tls.crt", certificate), ("tls.key", key)];
        let opaque = content(false, &both);
        assert!(opaque.pair.is_some_and(|pair| pair.is_ok()) && opaque.data.is_some_and(|data| data.0.len() == 2));
        let tls = content(true, &both);
        assert!(tls.pair.is_some_and(|pair| pair.is_ok()) && tls.data.is_none() && tls.authorities.is_none());
        assert!(content(true, &[]).pair.is_some_and(|pair| pair.is_err()));
        assert!(content(false, &both[..1]).pair.is_some_and(|pair| pair.is_err()));
        let users = content(false, &[("auth", b"romeo:secret")]);
        assert!(users.pair.is_none());
        assert_eq!(users.data.as_ref().unwrap().get("auth"), Some(&b"romeo:secret"[..]));
        let shown = format!("{users:?}");
        assert!(shown.contains("auth") && !shown.contains("romeo"), "{shown}");
        assert_eq!(content(false, &[("auth", &vec![b'a'; DATA_BYTES_MAX + 1])]).data, None);
    }
}
