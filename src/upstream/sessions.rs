//! What names the sessions of an endpoint: a keyed hash (HMAC-SHA-256, RFC 2104) of its address, the same in every
//! replica and after a restart, from which nobody without the key learns the address. All of a backend's are made
//! when it is compiled, so that a request only looks one up.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::hmac;

use super::Endpoint;
use crate::model::{ObjectName, Seed};

/// 128 bits: none is met by chance.
const TOKEN_BYTES: usize = 16;
const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// What a session's cookie says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(u128);

impl Token {
    /// Reads 32 lower-case hexadecimal digits, and nothing else.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let digits: &[u8; 2 * TOKEN_BYTES] = text.try_into().ok()?;
        let mut value = 0;
        for digit in digits {
            let digit = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return None,
            };
            value = value << 4 | u128::from(digit);
        }
        Some(Self(value))
    }

    /// What [`Self::parse`] reads.
    pub fn digits(self) -> [u8; 2 * TOKEN_BYTES] {
        let mut digits = [0; 2 * TOKEN_BYTES];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(self.0.to_be_bytes()) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        digits
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.digits()).expect("digits are ASCII"))
    }
}

/// The operator's key, if there is one. `Debug` doesn't show it.
#[derive(Clone, Default)]
pub struct SessionKey(Option<hmac::Key>);

impl SessionKey {
    /// Any number of bytes; what they hold of chance is what protects the addresses.
    pub fn new(bytes: &[u8]) -> Self {
        Self(Some(hmac::Key::new(hmac::HMAC_SHA256, bytes)))
    }

    /// What the tokens of one Service are made with. Without the operator's key it is the Service's seed.
    pub(super) fn of(&self, service: &ObjectName, seed: &Seed) -> ServiceKey {
        let key = self.0.clone().unwrap_or_else(|| hmac::Key::new(hmac::HMAC_SHA256, seed.0.as_bytes()));
        // Services that share Pods have different tokens for them, so that nobody can tell.
        ServiceKey(hmac::Key::new(hmac::HMAC_SHA256, sign(&key, service).as_ref()))
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey(secret)")
    }
}

pub(super) struct ServiceKey(hmac::Key);

impl ServiceKey {
    fn token(&self, endpoint: &Endpoint) -> Token {
        let tag = sign(&self.0, &endpoint.address);
        let (bytes, _) = tag.as_ref().split_first_chunk::<TOKEN_BYTES>().expect("SHA-256 has 32 bytes");
        Token(u128::from_be_bytes(*bytes))
    }
}

fn sign(key: &hmac::Key, text: &impl fmt::Display) -> hmac::Tag {
    hmac::sign(key, text.to_string().as_bytes())
}

/// The sessions of one backend.
#[derive(Debug)]
pub(super) struct Sessions {
    /// Of the backend's endpoints, in their order, and of the leaving ones behind them.
    pub(super) tokens: Vec<Token>,
    /// Places in `tokens`, by token.
    by_token: Vec<(Token, u32)>,
    /// Endpoints that keep their sessions and get no new ones, sorted by address.
    pub(super) leaving: Vec<Arc<Endpoint>>,
}

impl Sessions {
    pub(super) fn new(key: &ServiceKey, endpoints: &[Arc<Endpoint>], leaving: Vec<Arc<Endpoint>>) -> Self {
        let tokens: Vec<Token> = endpoints.iter().chain(&leaving).map(|endpoint| key.token(endpoint)).collect();
        let mut by_token: Vec<(Token, u32)> = tokens.iter().copied().zip(0..).collect();
        by_token.sort_unstable();
        Self { tokens, by_token, leaving }
    }

    /// The place of the endpoint that the token names.
    pub(super) fn find(&self, token: Token) -> Option<usize> {
        let place = self.by_token.binary_search_by_key(&token, |(token, _)| *token).ok()?;
        usize::try_from(self.by_token[place].1).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::upstream::health::Ward;
    use crate::upstream::{Health, Slots};

    fn endpoint(address: &str) -> Arc<Endpoint> {
        let address = address.parse().unwrap();
        let (slot, ward) = (Arc::new(Slots::default()).take(), Ward::new(&Metrics::new()));
        Arc::new(Endpoint { address, label: "".into(), slot, health: Health::new(ward, false) })
    }

    fn token(key: &SessionKey, service: &str, seed: &str, address: &str) -> Token {
        key.of(&ObjectName::new("verona", service), &Seed(seed.into())).token(&endpoint(address))
    }

    #[test]
    fn a_token_is_the_same_wherever_it_is_made_and_another_for_all_that_differs() {
        let (none, key) = (SessionKey::default(), SessionKey::new(b"sixteen bytes or more"));
        // By Python's hmac; another in a later version would end every session with an update.
        let known = token(&key, "juliet", "", "10.0.0.1:80");
        assert_eq!(known.to_string(), "2b85c542af66c4b7df8c7832f786f76d");
        assert_eq!(known, token(&key, "juliet", "the operator's key counts alone", "10.0.0.1:80"));
        let all = [
            known,
            token(&key, "juliet", "", "10.0.0.1:81"),
            token(&key, "juliet", "", "10.0.0.2:80"),
            token(&key, "romeo", "", "10.0.0.1:80"),
            token(&SessionKey::new(b"another key of some length"), "juliet", "", "10.0.0.1:80"),
            token(&none, "juliet", "", "10.0.0.1:80"),
            token(&none, "juliet", "1e5b4a1c-3d3c-4a57-9a0e-0c5f5b5f0001", "10.0.0.1:80"),
        ];
        let different: std::collections::BTreeSet<Token> = all.into_iter().collect();
        assert_eq!(different.len(), all.len(), "{all:?}");
    }

    #[test]
    fn a_token_is_read_as_it_is_written_and_in_no_other_way() {
        let token = Token(0x00ff_0000_0000_0000_0000_0000_dead_beef);
        let text = token.to_string();
        assert_eq!(Token::parse(text.as_bytes()), Some(token));
        let upper = text.to_uppercase();
        for other in
            ["", "0", &upper, &text[1..], &format!("{text}0"), &text.replace('d', "g"), &text.replace('d', "é")]
        {
            assert_eq!(Token::parse(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn each_endpoint_is_found_by_its_token_and_nothing_by_others() {
        let key = SessionKey::default().of(&ObjectName::new("verona", "juliet"), &Seed("".into()));
        let all: Vec<_> = (0..200).map(|last| endpoint(&format!("10.0.0.{last}:80"))).collect();
        let sessions = Sessions::new(&key, &all[..150], all[150..].to_vec());
        for (index, endpoint) in all.iter().enumerate() {
            assert_eq!(sessions.find(key.token(endpoint)), Some(index));
        }
        assert_eq!(sessions.find(Token(0)), None);
        assert_eq!(sessions.find(Token(u128::MAX)), None);
    }

    #[test]
    fn keys_are_not_shown() {
        let text = format!("{:?} {:?}", SessionKey::new(b"the key itself"), Seed("the seed itself".into()));
        assert_eq!(text, "SessionKey(secret) Seed(secret)");
    }
}
