//! A certificate's subject and issuer as text, by RFC 2253 as OpenSSL and therefore nginx write it (`$ssl_client_s_dn`):
//! the last part first, joined by commas, what would be misread escaped, and nothing but ASCII.

use std::fmt::Write as _;

use x509_parser::asn1_rs::{Any, Tag, ToDer};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// OpenSSL's short names. An attribute without one is written by its number, and its value in hexadecimal digits.
const NAMES: [(&str, &str); 19] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "street"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "title"),
    ("2.5.4.13", "description"),
    ("2.5.4.15", "businessCategory"),
    ("2.5.4.17", "postalCode"),
    ("2.5.4.42", "GN"),
    ("2.5.4.43", "initials"),
    ("2.5.4.46", "dnQualifier"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
];

/// The whole name.
pub(super) fn rfc2253(name: &X509Name) -> String {
    let mut text = String::new();
    let parts: Vec<_> = name.iter_rdn().collect();
    for part in parts.into_iter().rev() {
        let attributes: Vec<_> = part.iter().collect();
        for (at, attribute) in attributes.into_iter().rev().enumerate() {
            if !text.is_empty() {
                text.push(if at == 0 { ',' } else { '+' });
            }
            write(&mut text, attribute);
        }
    }
    text
}

fn write(text: &mut String, attribute: &AttributeTypeAndValue) {
    let number = attribute.attr_type().to_id_string();
    let known = NAMES.iter().find(|(known, _)| *known == number);
    text.push_str(known.map_or(&number, |(_, name)| name));
    text.push('=');
    match known.and_then(|_| characters(attribute.attr_value())) {
        Some(value) => escape(text, &value),
        None => dump(text, attribute.attr_value()),
    }
}

/// The value of a string type; `None` for any other.
fn characters(value: &Any) -> Option<String> {
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::NumericString | Tag::Ia5String | Tag::VisibleString => {
            String::from_utf8(value.data.to_vec()).ok()
        }
        // In practice it is Latin-1.
        Tag::TeletexString => Some(value.data.iter().map(|byte| char::from(*byte)).collect()),
        Tag::BmpString => {
            let units = value.data.chunks(2).map(|pair| pair.iter().fold(0, |unit, byte| unit << 8 | u16::from(*byte)));
            String::from_utf16(&units.collect::<Vec<_>>()).ok()
        }
        _ => None,
    }
}

/// RFC 2253, 2.4, and everything that is not printable ASCII by its bytes.
fn escape(text: &mut String, value: &str) {
    let last = value.len().saturating_sub(1);
    for (at, byte) in value.bytes().enumerate() {
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => text.extend(['\\', char::from(byte)]),
            b' ' if at == 0 || at == last => text.push_str("\\ "),
            b'#' if at == 0 => text.push_str("\\#"),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => write!(text, "\\{byte:02X}").expect("a String takes all"),
        }
    }
}

fn dump(text: &mut String, value: &Any) {
    text.push('#');
    for byte in value.to_der_vec().unwrap_or_default() {
        write!(text, "{byte:02X}").expect("a String takes all");
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair};
    use x509_parser::prelude::{FromDer, X509Certificate};

    use super::*;

    fn written(parts: &[(DnType, DnValue)]) -> String {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in parts {
            params.distinguished_name.push(kind.clone(), value.clone());
        }
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let (_, read) = X509Certificate::from_der(certificate.der()).unwrap();
        rfc2253(read.subject())
    }

    #[test]
    fn the_last_part_comes_first_and_nothing_can_be_misread() {
        let utf8 = |text: &str| DnValue::Utf8String(text.to_owned());
        let parts = [
            (DnType::CountryName, DnValue::PrintableString("IT".try_into().unwrap())),
            (DnType::OrganizationName, utf8("Capulet, Sons + \"Co\" <x>; \\")),
            (DnType::OrganizationalUnitName, utf8("#1 Straße\r\n ")),
            (
                DnType::CustomDnType(vec![1, 2, 840, 113_549, 1, 9, 1]),
                DnValue::Ia5String("j@verona.example".try_into().unwrap()),
            ),
            (DnType::CustomDnType(vec![1, 2, 3, 4]), utf8("x")),
            (DnType::CommonName, utf8(" juliet#")),
        ];
        let expected = "CN=\\ juliet#,1.2.3.4=#0C0178,emailAddress=j@verona.example,\
                        OU=\\#1 Stra\\C3\\9Fe\\0D\\0A\\ ,\
                        O=Capulet\\, Sons \\+ \\\"Co\\\" \\<x\\>\\; \\\\,C=IT";
        assert_eq!(written(&parts), expected);
        assert_eq!(written(&[]), "");
    }
}
