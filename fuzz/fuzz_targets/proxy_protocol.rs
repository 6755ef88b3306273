//! The PROXY protocol: a header is found at the same place however many of its bytes are there, never panics, and says
//! what a second, plainer reading says. What one of the two refuses may not be a client's address for the other.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libfuzzer_sys::fuzz_target;
use portunus::proxy::reading::proxy_header;

const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fuzz_target!(|bytes: &[u8]| {
    let whole = proxy_header(bytes);
    let length = match &whole {
        Ok(Some((length, _))) => *length,
        Ok(None) | Err(_) => bytes.len(),
    };
    assert!(length <= bytes.len() && length <= 4096);
    for end in 0..length {
        match proxy_header(&bytes[..end]) {
            Ok(None) => {}
            Ok(Some(_)) => panic!("a header ends at {end}, and then at {length}"),
            Err(_) => assert!(whole.is_err(), "{end} bytes are refused, and {length} are not"),
        }
    }
    if let Ok(Some((length, client))) = whole {
        let header = &bytes[..length];
        let told = if header.starts_with(b"PROXY ") { version_1(header) } else { version_2(header) };
        assert_eq!(client, told.map(|address| address.to_canonical()), "{:?}", String::from_utf8_lossy(header));
    }
});

/// Section 2.1.
fn version_1(header: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(header.strip_suffix(b"\r\n").expect("a line")).ok()?;
    let words: Vec<&str> = text.split(' ').collect();
    let [_, family, source, destination, ports @ ..] = &words[..] else { return None };
    let port =
        |text: &&str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok();
    if *family == "UNKNOWN" {
        return None;
    }
    assert!(ports.len() == 2 && ports.iter().all(port), "{text}");
    let (source, destination): (IpAddr, IpAddr) = (source.parse().expect(text), destination.parse().expect(text));
    assert!(
        match *family {
            "TCP4" => source.is_ipv4() && destination.is_ipv4(),
            "TCP6" => source.is_ipv6() && destination.is_ipv6(),
            _ => false,
        },
        "{text}"
    );
    Some(source)
}

/// Section 2.2.
fn version_2(header: &[u8]) -> Option<IpAddr> {
    assert!(header.starts_with(V2) && header[12] >> 4 == 2, "{header:?}");
    let (command, family, rest) = (header[12] & 15, header[13], &header[16..]);
    assert_eq!(usize::from(u16::from_be_bytes([header[14], header[15]])), rest.len());
    match (command, family) {
        (1, 0x11) => Some(Ipv4Addr::from(<[u8; 4]>::try_from(&rest[..4]).expect("4 bytes")).into()),
        (1, 0x21) => Some(Ipv6Addr::from(<[u8; 16]>::try_from(&rest[..16]).expect("16 bytes")).into()),
        (0 | 1, _) => None,
        _ => panic!("a command that there is not: {command}"),
    }
}
