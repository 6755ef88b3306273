//! TLS to endpoints: whom to believe them to be, and who we say we are. What should be verified and can't be is not
//! sent at all.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Annotation, Values, closing, open};
use crate::model::{Authorities, BackendTls, BackendTlsOptions, Certificate, HostPattern, ObjectName, TlsVersions};

pub(super) const ANNOTATIONS: &[Annotation] = &[
    closing("proxy-ssl-secret", "[namespace/]name of a Secret", "", "`tls.crt` and `tls.key` are shown to endpoints that ask for a certificate; `ca.crt` is whom `proxy-ssl-verify` believes. It must be in the Ingress's namespace").example("app-tls"),
    closing("proxy-ssl-verify", "on, off", "off", "endpoints must have a certificate of an authority in the Secret's `ca.crt`, for `proxy-ssl-name`; else 502").example("on"),
    open("proxy-ssl-verify-depth", "1 to 255", "1", "most certificates between the endpoint's and the authority's").example("2"),
    open("proxy-ssl-name", "host or address", "`service.namespace.svc`", "whom endpoints must be, and what they are told with `proxy-ssl-server-name`").example("app.verona.example"),
    open("proxy-ssl-server-name", "on, off", "off", "endpoints are told the name (SNI)").example("on"),
    open("proxy-ssl-protocols", "list of TLSv1.2, TLSv1.3", "TLSv1.2 TLSv1.3", "versions of TLS; older ones do not exist here").example("TLSv1.3"),
    open("proxy-ssl-ciphers", "OpenSSL's list", "", "taken, and without effect: suites are those with ECDHE and AEAD").example("HIGH:!aNULL"),
];

/// Whether a key is one of these.
pub(super) fn has(name: &str) -> bool {
    ANNOTATIONS.iter().any(|row| row.name == name)
}

/// What is asked of the TLS to the Ingress's backends, if anything is. What can't be done and may not be done without
/// is a fault of a key that closes.
pub(super) fn read(values: &mut Values) -> Option<Arc<BackendTls>> {
    if ANNOTATIONS.iter().all(|row| values.text(row).is_none()) {
        return None;
    }
    let verify = values.get("proxy-ssl-verify", "write on or off", on_off).unwrap_or_default();
    let (secret, authorities, identity) = match secret(values, verify) {
        Some((name, authorities, identity)) => (Some(name), authorities, identity),
        None => (None, None, None),
    };
    let depth = values.get("proxy-ssl-verify-depth", "write a number from 1 to 255", |text| text.parse::<u8>().ok());
    let options = BackendTlsOptions {
        secret,
        verify,
        // 0 is the default to ingress-nginx.
        depth: depth.filter(|depth| verify && *depth > 0).unwrap_or(1),
        name: values.get("proxy-ssl-name", "write a DNS name or an address", name),
        server_name: values.get("proxy-ssl-server-name", "write on or off", on_off).unwrap_or_default(),
        versions: values.get("proxy-ssl-protocols", "write TLSv1.2, TLSv1.3 or both", versions).unwrap_or_default(),
    };
    let known = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+:_-!@=. ".contains(&byte));
    values.get("proxy-ssl-ciphers", "write it as OpenSSL reads it, or remove it", |text| known(text).then_some(()));
    Some(Arc::new(BackendTls { options, authorities, identity }))
}

/// What the Secret has. `None` if none is named, or for a fault.
fn secret(values: &mut Values, verify: bool) -> Option<(ObjectName, Option<Authorities>, Option<Arc<Certificate>>)> {
    let key = "proxy-ssl-secret";
    let named = ANNOTATIONS.iter().any(|row| row.name == key && values.text(row).is_some());
    if !named && verify {
        values.invalid("proxy-ssl-verify", "there is no `proxy-ssl-secret`", "name a Secret with a `ca.crt` there");
    }
    let secret = values.secret(key)?;
    let authorities = match secret.object.authorities.as_deref() {
        Some(Ok(authorities)) => Some(authorities.clone()),
        Some(Err(invalid)) => {
            values.broken(key, format!("Secret {} {} {}", secret.name, invalid.field, invalid.what), invalid.fix);
            return None;
        }
        None if verify => {
            let what = format!("Secret {} has no `ca.crt` to verify by", secret.name);
            values.broken("proxy-ssl-verify", what, "put the authorities' certificates there, as PEM");
            return None;
        }
        None => None,
    };
    // One that has expired is shown all the same: there is none better, and the endpoint may not mind.
    if let (Some(invalid), None) = (&secret.object.invalid, &secret.object.certificate) {
        values.broken(key, format!("Secret {} {} {}", secret.name, invalid.field, invalid.what), invalid.fix);
        return None;
    }
    Some((secret.name, authorities, secret.object.certificate.clone()))
}

fn on_off(text: &str) -> Option<bool> {
    match text {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

fn name(text: &str) -> Option<Box<str>> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_string().into());
    }
    match HostPattern::parse(text) {
        Ok(HostPattern::Exact(name)) => Some((*name).into()),
        Ok(HostPattern::Wildcard(_) | HostPattern::Any) | Err(_) => None,
    }
}

fn versions(text: &str) -> Option<TlsVersions> {
    let (mut has12, mut has13) = (false, false);
    for version in text.split_whitespace() {
        match version {
            "TLSv1.2" => has12 = true,
            "TLSv1.3" => has13 = true,
            _ => return None,
        }
    }
    match (has12, has13) {
        (true, true) => Some(TlsVersions::All),
        (true, false) => Some(TlsVersions::Only12),
        (false, true) => Some(TlsVersions::Only13),
        (false, false) => None,
    }
}
