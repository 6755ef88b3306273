//! What becomes of a request by its client's certificate. The handshake asked for it, for the host that the client
//! named there; here it is held against what the request's host asks for now, so that whoever's authority is taken
//! away, or whose time ends, is out with his next request. What was found counts until one of them changes.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use pem::{EncodeConfig, LineEnding, Pem};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::pki_types::CertificateDer;

use crate::filter::Answer;
use crate::model::{ClientCertificates, VerifyClient};
use crate::tls::{ClientVerifier, Names, Rejected, next_change};

const VERIFY: HeaderName = HeaderName::from_static("ssl-client-verify");
const SUBJECT: HeaderName = HeaderName::from_static("ssl-client-subject-dn");
const ISSUER: HeaderName = HeaderName::from_static("ssl-client-issuer-dn");
const CERTIFICATE: HeaderName = HeaderName::from_static("ssl-client-cert");
/// What nginx escapes: all but what RFC 3986, 2.3, calls unreserved.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What a client presented when its handshake asked for a certificate.
pub struct Presented {
    /// Leaf first; empty if it has none.
    chain: Vec<CertificateDer<'static>>,
    found: RefCell<Option<Found>>,
}

/// What was found of a chain, under these settings, and until when it holds.
struct Found {
    settings: Arc<ClientCertificates>,
    until: Option<SystemTime>,
    verdict: Rc<Verdict>,
}

enum Outcome {
    None,
    Failed(Rejected),
    Success,
}

struct Verdict {
    outcome: Outcome,
    subject: String,
    /// What the endpoint is told.
    fields: Vec<(HeaderName, HeaderValue)>,
}

/// Takes the request in, and has the endpoint told of its client, or says what to answer. `presented` is `None` in
/// cleartext: a handshake that did not ask leads to 421 before.
pub fn admit(
    verifier: &Arc<ClientVerifier>,
    presented: Option<&Presented>,
    headers: &mut HeaderMap,
) -> Result<(), Box<Answer>> {
    let settings = &verifier.settings;
    let verdict = match presented {
        None if settings.verify == VerifyClient::On => {
            let text = "this host is served over TLS only, to clients that have a certificate";
            return Err(answer(StatusCode::FORBIDDEN, text, "tls_required"));
        }
        None => Rc::new(Verdict::without_certificate()),
        Some(presented) => presented.verdict(verifier, SystemTime::now()),
    };
    if let Some(text) = refusal(settings.verify, &verdict.outcome) {
        return Err(refused(settings, text));
    }
    let matches = settings.subject.as_ref().is_none_or(|subject| subject.regex().is_match(verdict.subject.as_bytes()));
    if !matches {
        return Err(answer(StatusCode::FORBIDDEN, "client certificate unauthorized", "client_certificate"));
    }
    // What the client says of itself under these names doesn't count.
    for name in [VERIFY, SUBJECT, ISSUER, CERTIFICATE] {
        headers.remove(name);
    }
    for (name, value) in &verdict.fields {
        headers.insert(name.clone(), value.clone());
    }
    Ok(())
}

/// What is wrong with what the client presented, as nginx puts it.
fn refusal(verify: VerifyClient, outcome: &Outcome) -> Option<&'static str> {
    match (verify, outcome) {
        (VerifyClient::On, Outcome::None) => Some("No required SSL certificate was sent"),
        (VerifyClient::Optional | VerifyClient::OptionalNoCa, Outcome::None) | (_, Outcome::Success) => None,
        (VerifyClient::OptionalNoCa, Outcome::Failed(Rejected { unknown: true, .. })) => None,
        (_, Outcome::Failed(_)) => Some("The SSL certificate error"),
    }
}

fn refused(settings: &ClientCertificates, text: &'static str) -> Box<Answer> {
    let page = settings.error_page.as_deref().and_then(|page| HeaderValue::from_str(page).ok());
    match page {
        None => answer(StatusCode::BAD_REQUEST, text, "client_certificate"),
        Some(page) => {
            let mut found = answer(StatusCode::FOUND, text, "client_certificate");
            found.headers.push((header::LOCATION, page));
            found
        }
    }
}

fn answer(status: StatusCode, text: &'static str, reason: &'static str) -> Box<Answer> {
    Box::new(Answer { status, headers: Vec::new(), text, reason })
}

impl Presented {
    pub fn new(chain: Option<&[CertificateDer<'_>]>) -> Self {
        let chain = chain.unwrap_or_default().iter().map(|part| part.clone().into_owned()).collect();
        Self { chain, found: RefCell::new(None) }
    }

    fn verdict(&self, verifier: &Arc<ClientVerifier>, now: SystemTime) -> Rc<Verdict> {
        let holds = |found: &&Found| {
            Arc::ptr_eq(&found.settings, &verifier.settings) && found.until.is_none_or(|until| now < until)
        };
        if let Some(found) = self.found.borrow().as_ref().filter(holds) {
            return found.verdict.clone();
        }
        let verdict = Rc::new(Verdict::of(&self.chain, verifier, now));
        let settings = verifier.settings.clone();
        // An authority's time may end too; it is looked at again then.
        let until = [next_change(&self.chain, now), verifier.next_change(now)].into_iter().flatten().min();
        *self.found.borrow_mut() = Some(Found { settings, until, verdict: verdict.clone() });
        verdict
    }
}

impl Verdict {
    fn without_certificate() -> Self {
        let fields = vec![(VERIFY, HeaderValue::from_static("NONE"))];
        Self { outcome: Outcome::None, subject: String::new(), fields }
    }

    fn of(chain: &[CertificateDer<'static>], verifier: &ClientVerifier, now: SystemTime) -> Self {
        let [leaf, ..] = chain else { return Self::without_certificate() };
        let (outcome, verified) = match verifier.verify(chain, now) {
            Ok(()) => (Outcome::Success, "SUCCESS".to_owned()),
            Err(rejected) => (Outcome::Failed(rejected), format!("FAILED:{}", rejected.reason)),
        };
        let Names { subject, issuer } = Names::of(leaf);
        let certificate = verifier.settings.pass_certificate.then(|| escaped(leaf)).unwrap_or_default();
        let fields = [(VERIFY, verified), (SUBJECT, subject.clone()), (ISSUER, issuer), (CERTIFICATE, certificate)];
        // What there is nothing to say of isn't said, as nginx has it.
        let said = fields.into_iter().filter(|(_, text)| !text.is_empty());
        let fields = said.filter_map(|(name, text)| Some((name, HeaderValue::try_from(text).ok()?))).collect();
        Self { outcome, subject, fields }
    }
}

/// PEM in a field's value, as nginx's `$ssl_client_escaped_cert`.
fn escaped(certificate: &CertificateDer<'_>) -> String {
    let pem = Pem::new("CERTIFICATE", certificate.to_vec());
    let text = pem::encode_config(&pem, EncodeConfig::new().set_line_ending(LineEnding::LF));
    utf8_percent_encode(&text, ESCAPED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_written_as_nginx_does() {
        let text = escaped(&CertificateDer::from(vec![0xfb; 50]));
        assert!(text.starts_with("-----BEGIN%20CERTIFICATE-----%0A%2B%2Fv7%2B%2Fv7"), "{text}");
        assert!(text.ends_with("%3D%0A-----END%20CERTIFICATE-----%0A"), "{text}");
    }

    #[test]
    fn whose_requests_pass() {
        let failed = |unknown| Outcome::Failed(Rejected { reason: "", unknown });
        let table = [
            (VerifyClient::On, [false, false, false, true]),
            (VerifyClient::Optional, [true, false, false, true]),
            (VerifyClient::OptionalNoCa, [true, true, false, true]),
        ];
        for (verify, expected) in table {
            let outcomes = [Outcome::None, failed(true), failed(false), Outcome::Success];
            assert_eq!(outcomes.map(|outcome| refusal(verify, &outcome).is_none()), expected, "{verify:?}");
        }
    }
}
