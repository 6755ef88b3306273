//! Who may come at all, by name and password, out of a Secret: an htpasswd file, or a key for each user. A user whose
//! hash can't be taken can't come, and is named; without any the routes are closed. No hash is ever repeated.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Annotation, Values, closing, shown};
use crate::filter::{BasicAuth, Filter, Hash, Users};
use crate::translate::secret::SecretData;

/// Most users of one Secret: a megabyte has room for about as many.
const USERS_MAX: usize = 10_000;
/// Longest name, in bytes, as in htpasswd.
const NAME_BYTES_MAX: usize = 255;
/// Longest hash, in bytes: SHA-512's has some 120.
const HASH_BYTES_MAX: usize = 255;
/// Longest realm, in bytes: each refusal carries it.
const REALM_BYTES_MAX: usize = 256;
/// Most users that are named because they can't come.
const NAMED_MAX: usize = 10;

const SECRET: &str = "auth-secret";
/// The key of a Secret that is an htpasswd file.
const FILE: &str = "auth";

pub(super) const ANNOTATIONS: &[Annotation] = &[
    closing("auth-type", "`basic`", "", "clients have to give a name and a password. `digest` is not supported")
        .example("basic"),
    closing(
        SECRET,
        "name of a Secret of the same namespace, or ns/name",
        "",
        "names and hashes: bcrypt (`$2a$`, `$2b$`, `$2y$`), `$apr1$`, `$1$`, SHA-crypt (`$5$`, `$6$`), `{SHA}`, `{SSHA}`; neither plain text nor DES",
    )
    .example("passwords"),
    closing(
        "auth-secret-type",
        "`auth-file`, `auth-map`",
        "auth-file",
        "whether the Secret has an htpasswd file under `auth`, or a key for each user with the hash",
    )
    .example("auth-file"),
    closing("auth-realm", "text", "", "what browsers say is asked for").example("Verona, members only"),
];

#[derive(Clone, Copy)]
enum Layout {
    File,
    Map,
}

/// A user as it is written: name and hash.
type Written<'a> = (&'a [u8], &'a [u8]);

/// By the user's name.
type Hashes = BTreeMap<Box<[u8]>, Hash>;
/// Users, and what is wrong with their hashes.
type Refused = Vec<(String, String)>;

pub(super) fn read(values: &mut Values) -> Option<Filter> {
    let [kind, others @ ..] = ANNOTATIONS else { return None };
    if values.text(kind).is_none() {
        let [_, others @ ..] = others else { return None };
        values.without_effect(others, "auth-type: basic");
        // To ingress-nginx it means nothing; whoever wrote it meant somebody to be kept out.
        values.invalid(SECRET, "it stands without `auth-type`", "write `auth-type: basic` too, or remove it");
        return None;
    }
    let basic = values.get("auth-type", "write basic", |text| (text == "basic").then_some(()));
    let layout = values.get("auth-secret-type", "write auth-file or auth-map", |text| match text {
        "auth-file" => Some(Layout::File),
        "auth-map" => Some(Layout::Map),
        _ => None,
    });
    let challenge = values.get("auth-realm", "write ASCII, up to 256 characters", |text| {
        BasicAuth::challenge(text).filter(|_| text.len() <= REALM_BYTES_MAX)
    });
    let [named, ..] = others else { return None };
    if basic.is_some() && values.text(named).is_none() {
        // Without a Secret there is nobody to let in.
        let missing = ("there is no auth-secret beside it".to_owned(), "name a Secret with `auth-secret`".to_owned());
        return values.parse("auth-type", |_| Err(missing));
    }
    basic?;
    let (name, data) = secret(values)?;
    let users = match layout.unwrap_or(Layout::File) {
        Layout::File => file(&data).ok_or_else(|| format!("Secret {name} has no key `{FILE}`")),
        Layout::Map => Ok(map(&data)),
    };
    let users = users.and_then(|written| {
        let (users, refused) = hashes(&written);
        for (user, why) in refused {
            let what = format!("user `{user}` of Secret {name} can't log in: the hash {why}");
            values.idle(SECRET, what, "make it again with `htpasswd -B`");
        }
        Users::new(users).ok_or_else(|| format!("Secret {name} has no user who could log in"))
    });
    match users {
        Ok(users) => {
            let challenge = challenge.or_else(|| BasicAuth::challenge("")).expect("nothing can be written");
            Some(Filter::BasicAuth(Arc::new(BasicAuth { challenge, users })))
        }
        Err(what) => {
            values.broken(SECRET, what, "add one with `htpasswd -B`, or say how it is written in auth-secret-type");
            None
        }
    }
}

/// The Secret's name and what it has.
fn secret(values: &mut Values) -> Option<(String, Arc<SecretData>)> {
    let named = values.secret(SECRET)?;
    let name = named.name.to_string();
    let Some(data) = named.object.data.clone() else {
        let what = format!("Secret {name} is of type kubernetes.io/tls, which has no passwords");
        values.broken(SECRET, what, "name one of type Opaque");
        return None;
    };
    Some((name, data))
}

/// The lines of an htpasswd file: a name, a colon, a hash, and after another colon what nobody reads.
fn file(data: &SecretData) -> Option<Vec<Written<'_>>> {
    let lines = data.get(FILE)?.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    Some(
        lines
            .filter(|line| !line.is_empty() && !line.starts_with(b"#"))
            .map(|line| {
                let mut fields = line.split(|byte| *byte == b':');
                (fields.next().unwrap_or_default(), fields.next().unwrap_or_default())
            })
            .collect(),
    )
}

fn map(data: &SecretData) -> Vec<Written<'_>> {
    data.iter().map(|(user, hash)| (user.as_bytes(), hash.trim_ascii())).collect()
}

/// Users with their hashes, the first of a name, as in nginx; and who can't come, and why.
fn hashes(written: &[Written<'_>]) -> (Hashes, Refused) {
    let (mut users, mut refused) = (Hashes::new(), Refused::new());
    for (user, hash) in written {
        let read = match std::str::from_utf8(hash) {
            _ if user.is_empty() || user.len() > NAME_BYTES_MAX => Err("belongs to no name".to_owned()),
            _ if users.len() >= USERS_MAX => Err(format!("is one of more than {USERS_MAX}")),
            Ok("") => Err("is missing".to_owned()),
            Ok(text) if text.len() <= HASH_BYTES_MAX => Hash::parse(text).map_err(|error| error.to_string()),
            Ok(_) | Err(_) => Err("is none".to_owned()),
        };
        match read {
            Ok(hash) => drop(users.entry(Box::from(*user)).or_insert(hash)),
            // A line without a colon may be a password: it is not repeated.
            Err(why) if hash.is_empty() => refused.push(("…".to_owned(), why)),
            Err(why) => refused.push((shown(&String::from_utf8_lossy(user)), why)),
        }
    }
    let more = refused.len().saturating_sub(NAMED_MAX);
    refused.truncate(NAMED_MAX);
    if more > 0 {
        refused.push((format!("… and {more} more"), "can't be taken".to_owned()));
    }
    (users, refused)
}
