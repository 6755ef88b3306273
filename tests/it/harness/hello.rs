//! What clients begin TLS with, written by hand (RFC 8446, 4.1.2), and what a server says to them: for what no library offers any
//! more, and for hellos that no library would write.

use std::io::Write;
use std::net::{Shutdown, SocketAddr};

use super::h1::{self, Connection};

pub const TLS12: u16 = 0x0303;
pub const TLS13: u16 = 0x0304;

/// A hello that offers these.
pub struct Hello<'a> {
    pub name: &'a str,
    /// The one in its own field.
    pub version: u16,
    /// `supported_versions`; none leaves it out.
    pub versions: &'a [u16],
    pub suites: &'a [u16],
}

/// What a server says first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Agreed { version: u16, suite: u16 },
    Alert(u8),
    Closed,
}

fn vector8(bytes: &[u8]) -> Vec<u8> {
    [&[u8::try_from(bytes.len()).expect("a short vector")], bytes].concat()
}

fn vector16(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).expect("a vector").to_be_bytes()[..], bytes].concat()
}

fn numbers(all: &[u16]) -> Vec<u8> {
    all.iter().flat_map(|number| number.to_be_bytes()).collect()
}

impl Hello<'_> {
    /// One record with the whole of it.
    pub fn record(&self) -> Vec<u8> {
        // x25519's base point is a share like any other.
        let mut share = vec![0; 32];
        share[0] = 9;
        let name = [&[0][..], &vector16(self.name.as_bytes())].concat();
        let mut extensions = vec![
            (0u16, vector16(&name)),
            (10, vector16(&numbers(&[0x001d, 0x0017, 0x0018]))),
            (11, vector8(&[0])),
            (13, vector16(&numbers(&[0x0403, 0x0503, 0x0603, 0x0804, 0x0805, 0x0806, 0x0401, 0x0501, 0x0203, 0x0201]))),
            (23, vec![]),
            (51, vector16(&[&numbers(&[0x001d])[..], &vector16(&share)].concat())),
            (0xff01, vector8(&[])),
        ];
        if !self.versions.is_empty() {
            extensions.push((43, vector8(&numbers(self.versions))));
        }
        let extension = |(kind, body): (u16, Vec<u8>)| [&kind.to_be_bytes()[..], &vector16(&body)].concat();
        let extensions: Vec<u8> = extensions.into_iter().flat_map(extension).collect();
        let body = [
            &self.version.to_be_bytes()[..],
            &[7; 32],
            &vector8(&[]),
            &vector16(&numbers(self.suites)),
            &vector8(&[0]),
            &vector16(&extensions),
        ]
        .concat();
        let length = u32::try_from(body.len()).expect("a message").to_be_bytes();
        let message = [&[1][..], &length[1..], &body].concat();
        [&[0x16, 3, 1][..], &vector16(&message)].concat()
    }

    #[track_caller]
    pub fn greet(&self, address: SocketAddr) -> Answer {
        greet(address, &self.record())
    }
}

/// Sends these bytes, and nothing more; the server must have closed the connection in the end.
#[track_caller]
pub fn greet(address: SocketAddr, bytes: &[u8]) -> Answer {
    let mut stream = h1::connect(address);
    // Who is refused in the middle may be cut off there.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    answer(&Connection::over(stream).read_to_end())
}

fn answer(bytes: &[u8]) -> Answer {
    let number = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    let read = || match (bytes.first()?, bytes.get(5)?) {
        (0x15, _) => bytes.get(6).map(|description| Answer::Alert(*description)),
        // Record, message, version, random; then the session, the suite, the compression and the extensions.
        (0x16, 2) => {
            let suite_at = 5 + 4 + 2 + 32 + 1 + usize::from(*bytes.get(43)?);
            let (suite, mut at) = (number(suite_at)?, suite_at + 5);
            let end = at + usize::from(number(suite_at + 3)?);
            let mut version = number(9)?;
            while at < end {
                if number(at)? == 43 {
                    version = number(at + 4)?;
                }
                at += 4 + usize::from(number(at + 2)?);
            }
            Some(Answer::Agreed { version, suite })
        }
        _ => None,
    };
    read().unwrap_or(Answer::Closed)
}
