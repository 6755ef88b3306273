//! Fields that answers get: `custom-headers` names a ConfigMap whose keys are names of fields and whose values are
//! theirs. Only names that the operator allows are set, as browsers take fields of a host for all of it: one tenant
//! would speak for another. A field that can't be set is a fault, and the others are.

use http::{HeaderName, HeaderValue};

use super::{Annotation, Values, open, shown};
use crate::filter::{Filter, ResponseHeaders};
use crate::translate::Settings;

/// Most fields of one ConfigMap.
const FIELDS_MAX: usize = 64;
/// Longest value, in bytes: every answer carries it.
const VALUE_BYTES_MAX: usize = 4096;

const CUSTOM: &str = "custom-headers";

#[rustfmt::skip]
pub(super) const ANNOTATIONS: &[Annotation] = &[
        open(CUSTOM, "name of a ConfigMap of the same namespace, or ns/name", "", "fields that answers get: the keys of the ConfigMap with their values. Names must be in the operator's `--global-allowed-response-headers`; `$variables` are not filled in").example("shop-headers"),
];

pub(super) fn read(values: &mut Values, settings: &Settings) -> Option<Filter> {
    let fields = fields(values, settings);
    (!fields.is_empty()).then(|| Filter::ResponseHeaders(ResponseHeaders(fields)))
}

/// The fields that are asked for and allowed, in the order of names.
fn fields(values: &mut Values, settings: &Settings) -> Vec<(HeaderName, HeaderValue)> {
    let Some(named) = values.config_map(CUSTOM) else { return Vec::new() };
    if named.object.len() > FIELDS_MAX {
        let what = format!("ConfigMap {} has more than {FIELDS_MAX} keys", named.name);
        values.broken(CUSTOM, what, "take some out; the first are set");
    }
    let mut fields: Vec<(HeaderName, HeaderValue)> = Vec::new();
    for (key, text) in named.object.iter().take(FIELDS_MAX) {
        let twice = |name: &HeaderName| fields.iter().any(|(other, _)| other == name);
        match field(key, text.trim(), settings) {
            Ok((name, _)) if twice(&name) => {
                let what = format!("ConfigMap {} has `{}` twice", named.name, shown(key));
                values.broken(CUSTOM, what, "keep one: capitals make no other name");
            }
            Ok(field) => fields.push(field),
            Err((what, fix)) => {
                let what = format!("data[{}] of ConfigMap {} {what}", shown(key), named.name);
                values.broken(CUSTOM, what, format!("{fix}; the field is not set"));
            }
        }
    }
    fields
}

/// A field, or what is wrong with it and what to do. Repeats no value: it may be a password's.
fn field(
    key: &str,
    text: &str,
    settings: &Settings,
) -> Result<(HeaderName, HeaderValue), (&'static str, &'static str)> {
    let Ok(name) = HeaderName::try_from(key) else {
        return Err(("is no name of a header field", "write letters, digits and `-`"));
    };
    if !settings.allowed_response_headers.contains(&name) {
        return Err(("is not allowed", "have the operator add it to --global-allowed-response-headers, or remove it"));
    }
    if text.is_empty() {
        return Err(("is empty", "write a value"));
    }
    if text.len() > VALUE_BYTES_MAX {
        return Err(("is longer than 4096 bytes", "write less"));
    }
    if names_variable(text) {
        return Err(("names an nginx variable, which is not filled in", "write the text itself"));
    }
    let value = HeaderValue::from_str(text).ok().filter(|_| text.is_ascii());
    value.map(|value| (name, value)).ok_or(("is no value of a header field", "write ASCII on one line"))
}

/// Whether nginx would put something else there: `$name` or `${name}`.
fn names_variable(text: &str) -> bool {
    let begins = |rest: &str| rest.starts_with(|first: char| first.is_ascii_alphanumeric() || "_{".contains(first));
    text.split('$').skip(1).any(begins)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::annotated;
    use super::*;
    use crate::model::ObjectName;
    use crate::translate::{Kind, Object, ObjectRef, Resources};

    /// The fields and the faults, with a ConfigMap `verona/fields` of this data.
    fn read_all(reference: &str, data: &[(&str, &str)], allowed: &[&str]) -> (Vec<String>, Vec<String>) {
        let mut resources = Resources::default();
        let data = data.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        resources.apply(Object::ConfigMap(ObjectName::new("verona", "fields"), data));
        let allowed = allowed.iter().map(|name| name.parse().unwrap()).collect();
        let settings = Settings { allowed_response_headers: allowed, ..Settings::default() };
        let ingress = annotated(&[(CUSTOM, reference)]);
        let mut values = Values::new(&ingress, &resources);
        let fields = fields(&mut values, &settings);
        let fields = fields.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        (fields, values.faults.into_iter().map(|fault| fault.what).collect())
    }

    #[test]
    fn fields_that_are_allowed_are_set_whatever_their_capitals() {
        let data = [("X-Frame-Options", "DENY"), ("content-security-policy", "default-src 'self' cost$\n")];
        let allowed = ["x-frame-options", "content-security-policy", "x-other"];
        let set =
            vec!["x-frame-options: DENY".to_owned(), "content-security-policy: default-src 'self' cost$".to_owned()];
        for reference in ["fields", "verona/fields", " fields "] {
            assert_eq!(read_all(reference, &data, &allowed), (set.clone(), vec![]), "{reference}");
        }
        let (set, faults) = read_all("fields", &data, &["x-frame-options"]);
        assert_eq!(set, ["x-frame-options: DENY"]);
        assert_eq!(faults, ["data[content-security-policy] of ConfigMap verona/fields is not allowed"]);
        assert_eq!(read_all("fields", &data, &[]).0, Vec::<String>::new(), "nothing is, unless somebody says so");
    }

    #[test]
    fn a_bad_field_is_left_out_and_takes_no_other_with_it() {
        let long = "a".repeat(VALUE_BYTES_MAX + 1);
        for value in ["", " ", "a\nb: c", "ü", "\0", "$remote_addr", "a ${host}", &long] {
            let (set, faults) = read_all("fields", &[("x-bad", value), ("x-good", "a")], &["x-bad", "x-good"]);
            assert_eq!((set, faults.len()), (vec!["x-good: a".to_owned()], 1), "{value}");
            assert!(value.is_empty() || !faults[0].contains(value) || value == " ", "{faults:?}");
        }
        let (set, faults) = read_all("fields", &[("a b", "a"), ("", "a"), ("X-A", "1"), ("x-a", "2")], &["x-a"]);
        assert_eq!((set, faults.len()), (vec!["x-a: 1".to_owned()], 3));
        let many: BTreeMap<String, String> = (0..100).map(|index| (format!("x-{index:03}"), "a".to_owned())).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let allowed: Vec<&str> = many.iter().map(|(key, _)| *key).collect();
        let (set, faults) = read_all("fields", &many, &allowed);
        assert_eq!((set.len(), faults.len()), (FIELDS_MAX, 1));
    }

    #[test]
    fn what_is_named_is_looked_for_in_the_ingresss_namespace_only() {
        for (reference, what) in [
            ("gone", "there is no ConfigMap verona/gone"),
            ("capulet/fields", "the ConfigMap is in namespace `capulet`, the Ingress in `verona`"),
            ("", "`` is no value for it"),
            ("a/b/c", "`a/b/c` is no value for it"),
            ("/fields", "`/fields` is no value for it"),
            ("fields,metadata.namespace!=a", "`fields,metadata.namespace!=a` is no value for it"),
            ("Fields", "`Fields` is no value for it"),
            ("-a", "`-a` is no value for it"),
        ] {
            assert_eq!(read_all(reference, &[("x-a", "a")], &["x-a"]), (vec![], vec![what.to_owned()]), "{reference}");
        }
        let ingress = annotated(&[(CUSTOM, "gone")]);
        let resources = Resources::default();
        let mut values = Values::new(&ingress, &resources);
        fields(&mut values, &Settings::default());
        let gone = ObjectRef::new(Kind::ConfigMap, &ObjectName::new("verona", "gone"));
        assert_eq!(values.references.into_iter().collect::<Vec<_>>(), [gone]);
    }
}
