//! Who may come at all, by name and password (RFC 7617). Finding out takes long, by design of the hashes: a filter
//! only takes the credentials from the request, and says whom to ask; the check is done elsewhere. Whoever isn't
//! known costs as much as whoever is, and gets the same answer.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::{Serialize, Serializer};
use zeroize::Zeroizing;

use super::password::Hash;
use super::{Answer, text};

/// Longest credentials, in bytes of the field: more than any name and password that is taken has.
const CREDENTIALS_BYTES_MAX: usize = 2048;

/// RFC 4648, 4, with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BasicAuth {
    /// `WWW-Authenticate`.
    #[serde(serialize_with = "text::value")]
    pub challenge: HeaderValue,
    pub users: Users,
}

/// Names with their hashes; at least one. Shown is how many there are.
#[derive(Clone, PartialEq, Eq)]
pub struct Users {
    all: BTreeMap<Box<[u8]>, Hash>,
    /// What the password of somebody unknown is held against, so that it takes as long.
    stand_in: Hash,
}

/// A request's name and password, and whose word counts.
pub struct Login {
    auth: Arc<BasicAuth>,
    user: Box<[u8]>,
    /// Overwritten when it has been checked.
    password: Zeroizing<Box<[u8]>>,
}

impl BasicAuth {
    /// `Basic` with the realm (RFC 7617, 2), if it has nothing in it that no field may have.
    pub fn challenge(realm: &str) -> Option<HeaderValue> {
        let quoted = realm.replace('\\', "\\\\").replace('"', "\\\"");
        let text = realm.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        text.then(|| HeaderValue::try_from(format!("Basic realm=\"{quoted}\"")).ok()).flatten()
    }

    /// Takes the credentials out of a request, as ingress-nginx does: they are none of the endpoint's affairs. What
    /// can't be read, or could be read in two ways, is as good as nothing.
    pub(super) fn login(self: &Arc<Self>, headers: &mut HeaderMap) -> Result<Login, Answer> {
        let mut fields = headers.get_all(header::AUTHORIZATION).iter();
        let read = match (fields.next(), fields.next()) {
            (Some(field), None) => credentials(field),
            _ => None,
        };
        let Some((user, password)) = read else { return Err(self.refusal()) };
        headers.remove(header::AUTHORIZATION);
        Ok(Login { auth: self.clone(), user, password })
    }

    fn refusal(&self) -> Answer {
        Answer {
            status: StatusCode::UNAUTHORIZED,
            headers: vec![
                (header::WWW_AUTHENTICATE, self.challenge.clone()),
                (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
            ],
            text: "a name and a password are needed",
            reason: "unauthorized",
        }
    }
}

/// Name and password; both may be any bytes.
type Credentials = (Box<[u8]>, Zeroizing<Box<[u8]>>);

fn credentials(field: &HeaderValue) -> Option<Credentials> {
    let bytes = field.as_bytes();
    let scheme = bytes.get(..6)?.eq_ignore_ascii_case(b"basic ");
    if !scheme || bytes.len() > CREDENTIALS_BYTES_MAX {
        return None;
    }
    let both = Zeroizing::new(BASE64.decode(bytes[6..].trim_ascii()).ok()?);
    let colon = both.iter().position(|byte| *byte == b':').filter(|colon| *colon > 0)?;
    Some((both[..colon].into(), Zeroizing::new(both[colon + 1..].into())))
}

impl Users {
    /// `None` of none. The dearest hash stands in for those that there are not: a cheap one would tell of them.
    pub fn new(all: BTreeMap<Box<[u8]>, Hash>) -> Option<Self> {
        let stand_in = all.values().max_by_key(|hash| hash.nanoseconds())?.clone();
        Some(Self { all, stand_in })
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Users({})", self.all.len())
    }
}

impl Serialize for Users {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.all.len().serialize(serializer)
    }
}

impl Login {
    /// Whether the password is the user's. Takes long, whoever it is.
    pub fn verify(&self) -> bool {
        let known = self.auth.users.all.get(&self.user);
        let right = known.unwrap_or(&self.auth.users.stand_in).verify(&self.password);
        right && known.is_some()
    }

    /// All that [`Self::verify`] depends on: with another hash it is another login.
    pub fn parts(&self) -> [&[u8]; 3] {
        let hash = self.auth.users.all.get(&self.user).map_or(&[][..], Hash::as_bytes);
        [&self.user, hash, &self.password]
    }

    /// A number for whose users it is about, while one of their logins is there.
    pub fn audience(&self) -> usize {
        Arc::as_ptr(&self.auth).addr()
    }

    pub fn refusal(&self) -> Answer {
        self.auth.refusal()
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `romeo` with the password `secret`.
    fn auth() -> Arc<BasicAuth> {
        let hash = Hash::parse("$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/").unwrap();
        let users = Users::new(BTreeMap::from([(b"romeo".to_vec().into(), hash)])).unwrap();
        Arc::new(BasicAuth { challenge: BasicAuth::challenge("Verona").unwrap(), users })
    }

    fn login(field: &str) -> Result<Login, Answer> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, field.parse().unwrap());
        let login = auth().login(&mut headers);
        assert_eq!(headers.contains_key(header::AUTHORIZATION), login.is_err());
        login
    }

    fn basic(text: &str) -> String {
        format!("Basic {}", STANDARD.encode(text))
    }

    use base64::engine::general_purpose::STANDARD;

    #[test]
    fn only_the_right_password_of_somebody_known_passes() {
        for (text, passes) in [
            ("romeo:secret", true),
            ("romeo:secret ", false),
            ("romeo:", false),
            ("Romeo:secret", false),
            ("juliet:secret", false),
            ("romeo:secret:more", false),
        ] {
            assert_eq!(login(&basic(text)).unwrap().verify(), passes, "{text}");
        }
        for field in [basic("romeo:secret").replace("Basic", "bAsIc"), basic("romeo:secret").replace('=', "")] {
            assert!(login(&field).unwrap().verify(), "{field}");
        }
    }

    #[test]
    fn somebody_unknown_costs_as_much_as_whoever_costs_most() {
        let hashes = [
            "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=",
            "$2b$12$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW",
            "$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW",
            "$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/",
            "$5$rounds=1000$abc$Mz4DiYKTnNKbZLo/mIp3d8Y4aQBhv3uhSwxLDy55/Y8",
            "$5$abcdefgh$gruCpC7VkOTspMQTTSAR8mtlO9Upms.fwqE5y16JVM.",
        ];
        let hash = |at: usize| Hash::parse(hashes[at]).unwrap();
        let users = |all: &[usize]| {
            let all = all.iter().map(|at| (at.to_string().into_bytes().into(), hash(*at)));
            Users::new(all.collect()).unwrap()
        };
        for (all, dearest) in [(&[0, 1, 2, 3, 4, 5][..], 1), (&[0, 2, 3, 4, 5], 5), (&[0, 3, 4], 4), (&[0], 0)] {
            assert!(users(all).stand_in == hash(dearest), "{all:?}");
        }
    }

    #[test]
    fn what_are_no_credentials_is_refused_at_once() {
        let long = basic(&format!("romeo:{}", "x".repeat(CREDENTIALS_BYTES_MAX)));
        for field in [
            "",
            "Basic",
            "Basic ",
            "Basic !",
            "Bearer abc",
            &basic("romeo"),
            &basic(":secret"),
            &basic(""),
            &long,
            "Basic cm9tZW86c2VjcmV0 cm9tZW86c2VjcmV0",
            "Basic cm9tZW86c2VjcmV0, Basic cm9tZW86c2VjcmV0",
        ] {
            let refusal = login(field).unwrap_err();
            assert_eq!(
                (refusal.status, refusal.headers[0].1.as_bytes()),
                (StatusCode::UNAUTHORIZED, &b"Basic realm=\"Verona\""[..])
            );
        }
        let mut twice = HeaderMap::new();
        twice.append(header::AUTHORIZATION, basic("romeo:secret").parse().unwrap());
        twice.append(header::AUTHORIZATION, basic("romeo:secret").parse().unwrap());
        assert!(auth().login(&mut twice).is_err());
    }

    #[test]
    fn realms_are_quoted_and_nothing_is_shown() {
        assert_eq!(BasicAuth::challenge(r#"a "b" \c"#).unwrap(), r#"Basic realm="a \"b\" \\c""#);
        assert_eq!(BasicAuth::challenge("").unwrap(), "Basic realm=\"\"");
        assert!(["a\r\nb: c", "ü", "a\tb"].into_iter().all(|realm| BasicAuth::challenge(realm).is_none()));
        assert_eq!(format!("{:?}", auth().users), "Users(1)");
        assert_eq!(format!("{:?}", login(&basic("romeo:secret")).unwrap()), "Login");
    }
}
