//! Hashes of passwords as `htpasswd` and crypt(3) write them: bcrypt, apr1 and its elder MD5 crypt, SHA-crypt, and
//! the SHA-1 of `{SHA}` and `{SSHA}`. What is none of them is refused when it is read, so that a check can't fail.
//! Neither a hash nor a password is ever shown.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA1_OUTPUT_LEN};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};
use sha_crypt::{PasswordVerifier, ShaCrypt};

/// Dearest bcrypt that is computed: each step takes twice as long, and this a second or so.
const BCRYPT_COST_MAX: u32 = 14;
/// Rounds of SHA-crypt: the most are about as dear, and fewer than these there are not.
const SHA_ROUNDS: std::ops::RangeInclusive<u32> = 1_000..=500_000;
const SHA_ROUNDS_USUAL: u64 = 5_000;
/// Longest password, in bytes, as in libcrypt: some hashes take time in proportion to its square.
const PASSWORD_BYTES_MAX: usize = 512;
/// Rounds of MD5 crypt, which its hashes don't say.
const MD5_ROUNDS: usize = 1000;

/// The hash of a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Hash {
    kind: Kind,
    text: Box<str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bcrypt,
    Apr1,
    Md5,
    Sha,
    /// `{SHA}`, and with a salt `{SSHA}`.
    Sha1,
}

/// Why a text is no hash that is taken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHash {
    #[error("is neither bcrypt, apr1, SHA-crypt nor {{SHA}}: it may be the password itself, or DES")]
    Unknown,
    #[error("is cut off, or has something in it that doesn't belong there")]
    Malformed,
    #[error("takes too long to check")]
    TooDear,
}

impl Hash {
    pub fn parse(text: &str) -> Result<Self, InvalidHash> {
        let kind = match text {
            _ if ["$2a$", "$2b$", "$2y$"].iter().any(|start| text.starts_with(start)) => bcrypt_kind(text)?,
            _ if text.starts_with("$apr1$") => md5_kind(text, Kind::Apr1)?,
            _ if text.starts_with("$1$") => md5_kind(text, Kind::Md5)?,
            _ if text.starts_with("$5$") => sha_kind(text, 43)?,
            _ if text.starts_with("$6$") => sha_kind(text, 86)?,
            _ if text.starts_with("{SHA}") || text.starts_with("{SSHA}") => {
                sha1_parts(text).map(|_| Kind::Sha1).ok_or(InvalidHash::Malformed)?
            }
            _ => return Err(InvalidHash::Unknown),
        };
        Ok(Self { kind, text: text.into() })
    }

    /// Whether it is that of the password. Takes up to a second or so: no worker's affair.
    pub fn verify(&self, password: &[u8]) -> bool {
        // A C string ends at its first NUL: others would take what comes before it for the password.
        if password.len() > PASSWORD_BYTES_MAX || password.contains(&0) {
            return false;
        }
        match self.kind {
            Kind::Bcrypt => bcrypt::verify(password, &self.text).unwrap_or_default(),
            Kind::Apr1 | Kind::Md5 => verify_md5(&self.text, password),
            Kind::Sha => ShaCrypt::default().verify_password(password, &*self.text).is_ok(),
            Kind::Sha1 => sha1_parts(&self.text).is_some_and(|(expected, salt)| {
                let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
                context.update(password);
                context.update(&salt);
                verify_slices_are_equal(context.finish().as_ref(), &expected).is_ok()
            }),
        }
    }

    /// About how long a check takes, to tell the dear from the cheap.
    pub(super) fn nanoseconds(&self) -> u64 {
        match self.kind {
            Kind::Bcrypt => {
                let parts: Option<bcrypt::HashParts> = self.text.parse().ok();
                50_000 << parts.map_or(BCRYPT_COST_MAX, |parts| parts.get_cost())
            }
            Kind::Sha => {
                let rounds =
                    self.text[3..].strip_prefix("rounds=").and_then(|text| text.split('$').next()?.parse().ok());
                rounds.unwrap_or(SHA_ROUNDS_USUAL) * 500
            }
            Kind::Apr1 | Kind::Md5 => 250_000,
            Kind::Sha1 => 500,
        }
    }

    /// For what is kept of it: another hash is another text.
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({:?})", self.kind)
    }
}

fn bcrypt_kind(text: &str) -> Result<Kind, InvalidHash> {
    let parts: bcrypt::HashParts = text.parse().map_err(|_| InvalidHash::Malformed)?;
    match parts.get_cost() {
        0..4 => Err(InvalidHash::Malformed),
        4..=BCRYPT_COST_MAX => Ok(Kind::Bcrypt),
        _ => Err(InvalidHash::TooDear),
    }
}

fn md5_kind(text: &str, kind: Kind) -> Result<Kind, InvalidHash> {
    let fields = md5_fields(text).filter(|(_, salt, hash)| salt.len() <= 8 && is_crypt(hash, 22));
    fields.map(|_| kind).ok_or(InvalidHash::Malformed)
}

fn sha_kind(text: &str, length: usize) -> Result<Kind, InvalidHash> {
    let mut fields = text[3..].split('$').peekable();
    if let Some(rounds) = fields.peek().and_then(|field| field.strip_prefix("rounds=")) {
        match rounds.parse::<u32>() {
            Ok(rounds) if SHA_ROUNDS.contains(&rounds) => drop(fields.next()),
            Ok(rounds) if rounds > *SHA_ROUNDS.end() => return Err(InvalidHash::TooDear),
            Ok(_) | Err(_) => return Err(InvalidHash::Malformed),
        }
    }
    let whole = match (fields.next(), fields.next(), fields.next()) {
        (Some(salt), Some(hash), None) => (1..=16).contains(&salt.len()) && is_crypt(hash, length),
        _ => false,
    };
    if whole { Ok(Kind::Sha) } else { Err(InvalidHash::Malformed) }
}

/// In crypt's own alphabet.
fn is_crypt(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| CRYPT.contains(&byte))
}

/// Digest and salt.
fn sha1_parts(text: &str) -> Option<(Vec<u8>, Vec<u8>)> {
    let (coded, salted) = match text.strip_prefix("{SHA}") {
        Some(coded) => (coded, false),
        None => (text.strip_prefix("{SSHA}")?, true),
    };
    let mut digest = STANDARD.decode(coded).ok()?;
    let salt = if digest.len() < SHA1_OUTPUT_LEN { return None } else { digest.split_off(SHA1_OUTPUT_LEN) };
    (salt.is_empty() != salted).then_some((digest, salt))
}

const CRYPT: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// `$apr1$` or `$1$`, the salt, and the hash.
fn md5_fields(text: &str) -> Option<(&str, &str, &str)> {
    let begin = text[1..].find('$')? + 2;
    let (salt, hash) = text[begin..].split_once('$')?;
    Some((&text[..begin], salt, hash))
}

fn verify_md5(text: &str, password: &[u8]) -> bool {
    md5_fields(text).is_some_and(|(magic, salt, expected)| {
        let hash = md5_crypt(password, salt.as_bytes(), magic.as_bytes());
        verify_slices_are_equal(&hash, expected.as_bytes()).is_ok()
    })
}

/// MD5 crypt as FreeBSD made it; Apache's apr1 differs in its `magic` alone. There is no crate for it that is kept.
fn md5_crypt(password: &[u8], salt: &[u8], magic: &[u8]) -> Vec<u8> {
    let mut digest = md5(&[password, salt, password]);
    let mut first = Md5::new();
    for part in [password, magic, salt] {
        first.update(part);
    }
    for chunk in password.chunks(digest.len()) {
        first.update(&digest[..chunk.len()]);
    }
    let mut bits = password.len();
    while bits > 0 {
        first.update(if bits & 1 == 1 { &[0] } else { &password[..1] });
        bits >>= 1;
    }
    digest = first.finalize().into();
    for round in 0..MD5_ROUNDS {
        let odd = round % 2 == 1;
        digest = md5(&[
            if odd { password } else { &digest },
            if round % 3 == 0 { &[] } else { salt },
            if round % 7 == 0 { &[] } else { password },
            if odd { &digest } else { password },
        ]);
    }
    let mut text = Vec::with_capacity(22);
    for group in [[0, 6, 12], [1, 7, 13], [2, 8, 14], [3, 9, 15], [4, 10, 5]] {
        encode(group.iter().fold(0, |bits, at| bits << 8 | u32::from(digest[*at])), 4, &mut text);
    }
    encode(digest[11].into(), 2, &mut text);
    text
}

fn md5(parts: &[&[u8]]) -> [u8; 16] {
    let mut hash = Md5::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

/// Six bits a digit, the lowest first.
fn encode(mut bits: u32, digits: usize, text: &mut Vec<u8>) {
    for _ in 0..digits {
        text.push(CRYPT[(bits & 63) as usize]);
        bits >>= 6;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by openssl and by libcrypt.
    const SECRET: [&str; 10] = [
        "$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a",
        "$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW",
        "$2a$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW",
        "$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/",
        "$1$abcdefgh$cHJi5PXp/ki/ktXzqlk6I1",
        "$5$abcdefgh$gruCpC7VkOTspMQTTSAR8mtlO9Upms.fwqE5y16JVM.",
        "$5$rounds=1000$abc$Mz4DiYKTnNKbZLo/mIp3d8Y4aQBhv3uhSwxLDy55/Y8",
        "$6$abcdefgh$ltjgWl6579NluT/Vi1nwEvcil.G5Nbc4NiXZaNGStk8PSwGfQv72N2CKPPrVACtLtip/cZ/1GM/O6IND4WQhG.",
        "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=",
        "{SSHA}gVK8WC9YyFT1gMsQHTGCgT3sSv5zYWx0",
    ];

    #[test]
    fn each_kind_knows_its_password_and_no_other() {
        for text in SECRET {
            let hash = Hash::parse(text).unwrap();
            assert!(hash.verify(b"secret"), "{text}");
            for other in [&b"Secret"[..], b"secre", b"secret1", b"", b"secret\0", b"secret\0more", &[b's'; 513]] {
                assert!(!hash.verify(other), "{text} {other:?}");
            }
            let shown = format!("{hash:?}");
            assert!(shown.len() < 16 && !shown.contains('$'), "{shown}");
        }
        for (text, password) in [
            (
                "$6$rounds=1234$abc$OpSE991dW1bWoJSpkbwJUR/oCgT3rjengTLnTJZyVGf58QCY0QtGoF3GEbc8mtFa7y12RIhkz29JDgysGhDp./",
                "a much longer password than sixteen",
            ),
            ("$apr1$ab$aPXNdsX0wq8N/LJdZEZgW1", "a much longer password than sixteen"),
            ("$apr1$ab$S8K6Sgp3W8c9Jb6LxgywZ.", ""),
        ] {
            assert!(Hash::parse(text).unwrap().verify(password.as_bytes()), "{text}");
        }
    }

    #[test]
    fn what_is_no_hash_or_takes_too_long_is_refused() {
        use InvalidHash::{Malformed, TooDear, Unknown};
        for (text, expected) in [
            ("", Unknown),
            ("secret", Unknown),
            ("{PLAIN}secret", Unknown),
            ("rqXexS6ZhobKA", Unknown),
            ("$y$j9T$abc$def", Unknown),
            ("$2x$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a", Unknown),
            ("$2y$15$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a", TooDear),
            ("$2y$31$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a", TooDear),
            ("$2y$03$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a", Malformed),
            ("$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0", Malformed),
            ("$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjlé", Malformed),
            ("$apr1$", Malformed),
            ("$apr1$abc", Malformed),
            ("$apr1$abcdefghi$h9FWgUz3n9YxylKLlR5SQ/", Malformed),
            ("$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ", Malformed),
            ("$1$abcdefgh$cHJi5PXp/ki/ktXzqlk6I!", Malformed),
            ("$5$", Malformed),
            ("$5$abcdefgh$gruCpC7VkOTspMQTTSAR8mtlO9Upms.fwqE5y16JVM", Malformed),
            ("$5$$gruCpC7VkOTspMQTTSAR8mtlO9Upms.fwqE5y16JVM.", Malformed),
            ("$5$rounds=999$abc$Mz4DiYKTnNKbZLo/mIp3d8Y4aQBhv3uhSwxLDy55/Y8", Malformed),
            ("$5$rounds=500001$abc$Mz4DiYKTnNKbZLo/mIp3d8Y4aQBhv3uhSwxLDy55/Y8", TooDear),
            ("$5$rounds=99999999999$abc$Mz4DiYKTnNKbZLo/mIp3d8Y4aQBhv3uhSwxLDy55/Y8", Malformed),
            ("{SHA}5en6G6MezRroT3XKqkdPOmY/Bf", Malformed),
            ("{SHA}gVK8WC9YyFT1gMsQHTGCgT3sSv5zYWx0", Malformed),
            ("{SSHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", Malformed),
        ] {
            assert_eq!(Hash::parse(text), Err(expected), "{text}");
        }
    }
}
