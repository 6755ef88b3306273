//! Clients' certificates. All of it is a host's and not a rule's, as the handshake knows no path: what the oldest
//! Ingress of a host asks for counts for the whole host. Every key restricts: what can't be honoured closes.

use std::sync::Arc;

use super::{Annotation, Nature, Values, closing};
use crate::filter::Pattern;
use crate::model::{ClientCertificates, VerifyClient};

/// Longest URL of an error page, in bytes.
const URL_BYTES_MAX: usize = 2048;

pub(super) const ANNOTATIONS: &[Annotation] = &[
    closing("auth-tls-secret", "[namespace/]name of a Secret", "", "clients need a certificate of an authority in its `ca.crt`; each certificate there is believed by itself, also an intermediate one. It must be in the Ingress's namespace. For the whole host, also for its other Ingresses").example("clients-ca"),
    closing("auth-tls-verify-client", "`on`, `off`, `optional`, `optional_no_ca`", "on", "`on`: 400 without a good certificate; `optional`: requests without any pass; `optional_no_ca`: those with one that no authority has issued, too; `off`: none is asked for").example("on"),
    closing("auth-tls-verify-depth", "1 to 255", "1", "most certificates between the client's and the authority's").example("2"),
    closing("auth-tls-error-page", "URL", "", "where clients without a good certificate are sent (302), instead of 400; ingress-nginx's `@named` locations and paths are none").example("https://verona.example/no-certificate"),
    closing("auth-tls-pass-certificate-to-upstream", "bool", "false", "endpoints get the certificate in `ssl-client-cert`, PEM and percent-encoded; `ssl-client-verify`, `-subject-dn` and `-issuer-dn` they get in any case").example("true"),
    closing("auth-tls-match-cn", "`CN=` and a regex", "", "403 unless an authority vouches for the certificate, and its subject, as RFC 2253 writes it, has a part that begins with a match; `CN=juliet(,|$)` is juliet and nobody else").example("CN=juliet(,|$)"),
];

/// What an Ingress asks of its hosts' clients.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) enum ClientsAsked {
    #[default]
    Nothing,
    Certificates(Arc<ClientCertificates>),
    /// Something that can't be honoured: nobody may come in.
    Unknown,
}

pub(super) fn read(values: &mut Values) -> ClientsAsked {
    let [secret, verify, others @ ..] = ANNOTATIONS else { return ClientsAsked::Nothing };
    let faults = values.faults.len();
    let wanted = values.get("auth-tls-verify-client", "write on, off, optional or optional_no_ca", |text| match text {
        "on" => Some(Some(VerifyClient::On)),
        "optional" => Some(Some(VerifyClient::Optional)),
        "optional_no_ca" => Some(Some(VerifyClient::OptionalNoCa)),
        "off" => Some(None),
        _ => None,
    });
    if wanted == Some(None) {
        values.without_effect(std::slice::from_ref(secret), "auth-tls-verify-client: on");
        values.without_effect(others, "auth-tls-verify-client: on");
        return ClientsAsked::Nothing;
    }
    let settings = settings(values, wanted.flatten().unwrap_or(VerifyClient::On));
    if values.faults[faults..].iter().any(|fault| fault.nature != Nature::Idle) {
        return ClientsAsked::Unknown;
    }
    match settings {
        Some(settings) => ClientsAsked::Certificates(Arc::new(settings)),
        None => without_secret(values, verify, others),
    }
}

/// `None` if no Secret is named, or for a fault.
fn settings(values: &mut Values, verify: VerifyClient) -> Option<ClientCertificates> {
    let depth = values.get("auth-tls-verify-depth", "write a number from 1 to 255", |text| text.parse::<u8>().ok());
    let error_page = values.get("auth-tls-error-page", "write a URL, as https://verona.example/help", url);
    let pass_certificate = values.switch("auth-tls-pass-certificate-to-upstream");
    let subject = values.parse("auth-tls-match-cn", subject);
    let secret = values.secret("auth-tls-secret")?;
    let authorities = match secret.object.authorities.as_deref() {
        Some(Ok(authorities)) => authorities.clone(),
        Some(Err(invalid)) => {
            let what = format!("Secret {} {} {}", secret.name, invalid.field, invalid.what);
            values.broken("auth-tls-secret", what, invalid.fix);
            return None;
        }
        None => {
            let what = format!("Secret {} has no `ca.crt`", secret.name);
            values.broken("auth-tls-secret", what, "put the authorities' certificates there, as PEM");
            return None;
        }
    };
    // 0 is the default to ingress-nginx.
    let depth = depth.filter(|depth| *depth > 0).unwrap_or(1);
    Some(ClientCertificates { authorities, verify, depth, subject, error_page, pass_certificate })
}

/// Keys that say who may come in, without one that says whose certificates count, can't be honoured. To ingress-nginx
/// they mean nothing; whoever wrote them meant something.
fn without_secret(values: &mut Values, verify: &'static Annotation, others: &'static [Annotation]) -> ClientsAsked {
    let restricting = |row: &&Annotation| matches!(row.name, "auth-tls-verify-client" | "auth-tls-match-cn");
    let written: Vec<_> =
        others.iter().chain([verify]).filter(restricting).filter(|row| values.text(row).is_some()).collect();
    for row in &written {
        values.invalid(row.name, "there is no `auth-tls-secret`", "name the Secret with the authorities there");
    }
    if written.is_empty() {
        values.without_effect(others, "auth-tls-secret");
        ClientsAsked::Nothing
    } else {
        ClientsAsked::Unknown
    }
}

fn url(text: &str) -> Option<Box<str>> {
    let url: http::Uri = text.parse().ok()?;
    let valid = matches!(url.scheme_str(), Some("http" | "https")) && text.len() <= URL_BYTES_MAX;
    (valid && url.authority().is_some_and(|authority| !authority.as_str().contains('@'))).then(|| text.into())
}

fn subject(text: &str) -> Result<Pattern, (String, String)> {
    let fix = || "write `CN=` and a regular expression, as CN=juliet(,|$)".to_owned();
    if !text.starts_with("CN=") {
        return Err(("it does not begin with `CN=`".to_owned(), fix()));
    }
    Pattern::new(text).map_err(|error| (format!("the regular expression can't be used: {error}"), fix()))
}
