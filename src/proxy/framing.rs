//! How long a message is has one reading, or the message goes nowhere: Transfer-Encoding and Content-Length of requests
//! and of endpoints' answers (RFC 9112, 6). hyper reads bodies by them before anybody here sees a head; what it forgives
//! and others may read differently is refused, and what may be forgiven goes on in its normal form.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Version};

use super::error::Error;

/// Exactly one `chunked`, and not from HTTP/1.0: everything else is read differently by different parsers
/// (RFC 9112, 6.1).
pub fn check_transfer_encoding(headers: &HeaderMap, version: Version) -> Result<(), Error> {
    if version != Version::HTTP_11 {
        return Err(Error::Malformed("Transfer-Encoding needs HTTP/1.1"));
    }
    if is_chunked(headers) {
        return Ok(());
    }
    let named = |value: &HeaderValue| value.as_bytes().to_ascii_lowercase().windows(7).any(|part| part == b"chunked");
    if headers.get_all(TRANSFER_ENCODING).iter().any(named) {
        Err(Error::Malformed("Transfer-Encoding must be exactly `chunked`"))
    } else {
        Err(Error::NotImplemented("the transfer coding is not implemented"))
    }
}

pub fn check_content_length(headers: &mut HeaderMap) -> Result<(), Error> {
    if has_one_length(headers) { Ok(()) } else { Err(Error::Malformed("Content-Length must be one number")) }
}

/// Whether there is a length other than 0.
pub fn has_length(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes().iter().any(|digit| *digit != b'0'))
}

/// Whether an endpoint's answer has one length at the most. Both fields at once are nobody's mistake but the endpoint's,
/// and what it says behind such an answer can't be told from the answer (RFC 9112, 6.1).
pub fn is_response_framed(headers: &mut HeaderMap) -> bool {
    if headers.contains_key(TRANSFER_ENCODING) {
        return is_chunked(headers) && !headers.contains_key(CONTENT_LENGTH);
    }
    has_one_length(headers)
}

fn is_chunked(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(TRANSFER_ENCODING).iter();
    let first = values.next().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"chunked"));
    first && values.next().is_none()
}

/// Whether there is one number, or none; a repeated one, or one with zeros in front, is put into its plain form.
fn has_one_length(headers: &mut HeaderMap) -> bool {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = values.next() else { return true };
    let Some(number) = digits(first) else { return false };
    let mut plain = number.len() == first.len();
    for other in values {
        if digits(other) != Some(number) {
            return false;
        }
        plain = false;
    }
    if !plain {
        let number = HeaderValue::from_bytes(number).expect("digits are a value");
        headers.insert(CONTENT_LENGTH, number);
    }
    true
}

/// The digits of a number without the zeros in front, which some read as octal.
fn digits(value: &HeaderValue) -> Option<&[u8]> {
    let bytes = value.as_bytes();
    if bytes.is_empty() || !bytes.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let zeros = bytes.iter().take_while(|byte| **byte == b'0').count();
    Some(&bytes[zeros.min(bytes.len() - 1)..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(http::HeaderName, &str)]) -> HeaderMap {
        fields.iter().fold(HeaderMap::new(), |mut map, (name, value)| {
            map.append(name, value.parse().unwrap());
            map
        })
    }

    #[test]
    fn one_number_in_its_plain_form_is_a_length() {
        let table: [(&[&str], Option<&str>); 12] = [
            (&["5"], Some("5")),
            (&["0"], Some("0")),
            (&["000"], Some("0")),
            (&["0010"], Some("10")),
            (&["5", "5"], Some("5")),
            (&["5", "05"], Some("5")),
            (&["5", "6"], None),
            (&["5", ""], None),
            (&["+5"], None),
            (&["5, 5"], None),
            (&[""], None),
            (&["0x5"], None),
        ];
        for (values, plain) in table {
            let mut headers = map(&values.iter().map(|value| (CONTENT_LENGTH, *value)).collect::<Vec<_>>());
            assert_eq!(check_content_length(&mut headers).is_ok(), plain.is_some(), "{values:?}");
            let left: Vec<_> = headers.get_all(CONTENT_LENGTH).iter().collect();
            assert!(plain.is_none_or(|plain| left == [plain]), "{values:?}: {left:?}");
        }
    }

    #[test]
    fn answers_have_one_length_at_the_most() {
        let (encoding, length) = (TRANSFER_ENCODING, CONTENT_LENGTH);
        let framed = |fields: &[(http::HeaderName, &str)]| is_response_framed(&mut map(fields));
        assert!(framed(&[]));
        assert!(framed(&[(encoding.clone(), "Chunked")]));
        assert!(framed(&[(length.clone(), "5"), (length.clone(), "5")]));
        assert!(!framed(&[(encoding.clone(), "chunked"), (length.clone(), "5")]));
        assert!(!framed(&[(encoding.clone(), "gzip, chunked")]));
        assert!(!framed(&[(encoding.clone(), "chunked"), (encoding, "chunked")]));
        assert!(!framed(&[(length.clone(), "5"), (length, "6")]));
    }
}
