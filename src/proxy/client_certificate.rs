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

use super::headers::{CLIENT_CERTIFICATE, CLIENT_ISSUER, CLIENT_SUBJECT, CLIENT_VERIFY};
use crate::filter::{Answer, Pattern};
use crate::model::{ClientCertificates, VerifyClient};
use crate::tls::{ClientVerifier, Names, Rejected, next_change};

/// What nginx escapes: all but what RFC 3986, 2.3, calls unreserved.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What a client presented when its handshake asked for a certificate.
pub struct Presented {
    /// Leaf first; empty if it has none.
    chain: Vec<CertificateDer<'static>>,
    found: RefCell<Option<Found>>,
}

/// What was found of a chain, under these settings, and when it holds: no earlier either, as a clock may be set back.
struct Found {
    settings: Arc<ClientCertificates>,
    since: SystemTime,
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
    /// The subject is one that is let in.
    is_named: bool,
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
            return Err(Box::new(answer(StatusCode::FORBIDDEN, text, "tls_required")));
        }
        None => Rc::new(Verdict::without_certificate(settings)),
        Some(presented) => presented.verdict(verifier, SystemTime::now()),
    };
    if let Some(text) = refusal(settings.verify, &verdict.outcome) {
        return Err(Box::new(refused(settings, text)));
    }
    if !verdict.is_named {
        return Err(Box::new(answer(StatusCode::FORBIDDEN, "client certificate unauthorized", "client_certificate")));
    }
    // Nobody else's word counts under these names, not a trusted proxy's either.
    for name in [CLIENT_VERIFY, CLIENT_SUBJECT, CLIENT_ISSUER, CLIENT_CERTIFICATE] {
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
        (VerifyClient::Optional | VerifyClient::OptionalNoCa, Outcome::None)
        | (_, Outcome::Success)
        | (VerifyClient::OptionalNoCa, Outcome::Failed(Rejected { unknown: true, .. })) => None,
        (_, Outcome::Failed(_)) => Some("The SSL certificate error"),
    }
}

fn refused(settings: &ClientCertificates, text: &'static str) -> Answer {
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

fn answer(status: StatusCode, text: &'static str, reason: &'static str) -> Answer {
    Answer { status, headers: Vec::new(), text, reason }
}

impl Presented {
    pub fn new(chain: Option<&[CertificateDer<'_>]>) -> Self {
        let chain = chain.unwrap_or_default().iter().map(|part| part.clone().into_owned()).collect();
        Self { chain, found: RefCell::new(None) }
    }

    fn verdict(&self, verifier: &Arc<ClientVerifier>, now: SystemTime) -> Rc<Verdict> {
        let holds = |found: &&Found| {
            // Hosts that ask for the same share a connection, and each has settings of its own.
            (Arc::ptr_eq(&found.settings, &verifier.settings) || found.settings == verifier.settings)
                && found.since <= now
                && found.until.is_none_or(|until| now < until)
        };
        if let Some(found) = self.found.borrow().as_ref().filter(holds) {
            return found.verdict.clone();
        }
        let verdict = Rc::new(Verdict::of(&self.chain, verifier, now));
        let settings = verifier.settings.clone();
        // An authority's time may end too; it is looked at again then.
        let until = [next_change(&self.chain, now), verifier.next_change(now)].into_iter().flatten().min();
        *self.found.borrow_mut() = Some(Found { settings, since: now, until, verdict: verdict.clone() });
        verdict
    }
}

impl Verdict {
    fn without_certificate(settings: &ClientCertificates) -> Self {
        let fields = vec![(CLIENT_VERIFY, HeaderValue::from_static("NONE"))];
        Self { outcome: Outcome::None, is_named: settings.subject.is_none(), fields }
    }

    fn of(chain: &[CertificateDer<'static>], verifier: &ClientVerifier, now: SystemTime) -> Self {
        let [leaf, ..] = chain else { return Self::without_certificate(&verifier.settings) };
        let (outcome, word) = match verifier.verify(chain, now) {
            Ok(()) => (Outcome::Success, "SUCCESS".to_owned()),
            Err(rejected) => (Outcome::Failed(rejected), format!("FAILED:{}", rejected.reason)),
        };
        let Names { subject, issuer } = Names::of(leaf);
        // What nobody vouches for is anybody's to write.
        let verified_as = |pattern: &Pattern| matches!(outcome, Outcome::Success) && names(pattern, &subject);
        let is_named = verifier.settings.subject.as_ref().is_none_or(verified_as);
        let certificate = if verifier.settings.pass_certificate { escaped(leaf) } else { String::new() };
        let fields = [
            (CLIENT_VERIFY, word),
            (CLIENT_SUBJECT, subject),
            (CLIENT_ISSUER, issuer),
            (CLIENT_CERTIFICATE, certificate),
        ];
        // What there is nothing to say of isn't said, as nginx has it.
        let said = fields.into_iter().filter(|(_, text)| !text.is_empty());
        let fields = said.filter_map(|(name, text)| Some((name, HeaderValue::try_from(text).ok()?))).collect();
        Self { outcome, is_named, fields }
    }
}

/// Whether a part of a subject, as RFC 2253 writes it, begins with what matches. What stands in the middle of a part
/// may be of its owner's choice: `CN=mallory,O=CN=juliet`.
fn names(pattern: &Pattern, subject: &str) -> bool {
    let mut parts = parts(subject);
    let mut next = parts.next();
    while let Some(begin) = next {
        match pattern.regex().find_at(subject.as_bytes(), begin) {
            Some(found) if found.start() == begin => return true,
            Some(found) => next = parts.find(|part| *part >= found.start()),
            None => return false,
        }
    }
    false
}

/// Where a subject's parts begin: behind what separates them, unless it is escaped.
fn parts(subject: &str) -> impl Iterator<Item = usize> {
    let mut escaped = false;
    let mut separates = move |byte: u8| {
        let plain = !escaped;
        escaped = plain && byte == b'\\';
        plain && matches!(byte, b',' | b'+')
    };
    let ends = subject.bytes().enumerate().filter(move |(_, byte)| separates(*byte));
    std::iter::once(0).chain(ends.map(|(at, _)| at + 1))
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
    use crate::model::Authorities;

    #[test]
    fn a_certificate_is_written_as_nginx_does() {
        let text = escaped(&CertificateDer::from(vec![0xfb; 50]));
        assert!(text.starts_with("-----BEGIN%20CERTIFICATE-----%0A%2B%2Fv7%2B%2Fv7"), "{text}");
        assert!(text.ends_with("%3D%0A-----END%20CERTIFICATE-----%0A"), "{text}");
    }

    #[test]
    fn who_is_named_is_a_part_of_the_subject() {
        let table = [
            ("CN=juliet(,|$)", "CN=juliet", true),
            ("CN=juliet(,|$)", "CN=juliet,O=Verona", true),
            ("CN=juliet(,|$)", "O=Verona,CN=juliet", true),
            ("CN=juliet(,|$)", "UID=7+CN=juliet", true),
            ("CN=juliet(,|$)", "CN=mallory,O=CN=juliet", false),
            ("CN=juliet(,|$)", "CN=mallory,O=x\\,CN=juliet", false),
            ("CN=juliet(,|$)", "CN=mallory,O=x\\+CN=juliet", false),
            ("CN=juliet(,|$)", "CN=mallory,O=x\\\\,CN=juliet", true),
            ("CN=juliet(,|$)", "CN=mallory,O=CN=juliet,CN=juliet", true),
            ("CN=juliet(,|$)", "CN=julieta", false),
            ("CN=juliet", "CN=julieta", true),
            // What begins earlier hides nothing.
            ("CN=.*juliet$", "O=CN=x,CN=juliet", true),
            ("CN=.*juliet$", "O=CN=x,OU=CN=juliet", false),
            ("CN=juliet|", "O=x", true),
            ("CN=juliet|$", "O=x", false),
            ("CN=", "", false),
        ];
        for (pattern, subject, expected) in table {
            assert_eq!(names(&Pattern::new(pattern).unwrap(), subject), expected, "{pattern} {subject}");
        }
    }

    #[test]
    fn a_verdict_holds_for_all_hosts_that_ask_for_the_same() {
        let asking = |depth| {
            let settings = ClientCertificates {
                authorities: Authorities(Arc::from([])),
                verify: VerifyClient::On,
                depth,
                subject: Some(Pattern::new("CN=juliet").unwrap()),
                error_page: None,
                pass_certificate: false,
            };
            Arc::new(ClientVerifier::new(Arc::new(settings)))
        };
        let presented = Presented::new(Some(&[CertificateDer::from(vec![0])]));
        let now = SystemTime::UNIX_EPOCH;
        let first = presented.verdict(&asking(1), now);
        assert!(Rc::ptr_eq(&first, &presented.verdict(&asking(1), now)));
        assert!(!Rc::ptr_eq(&first, &presented.verdict(&asking(2), now)));
        // Set forward, and back again: what was found of a time to come counts no more.
        let then = presented.verdict(&asking(1), now + std::time::Duration::from_secs(9));
        assert!(!Rc::ptr_eq(&then, &presented.verdict(&asking(1), now)));
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
