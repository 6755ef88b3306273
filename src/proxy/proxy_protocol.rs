//! The PROXY protocol, versions 1 and 2: what a load balancer in front says of a connection's client, before its
//! first byte (HAProxy's proxy-protocol.txt). Only trusted peers may say it. The header is looked at where it lies,
//! in the socket, and exactly its bytes are taken: what follows, a request or a handshake, is read as if nothing
//! had been before it.

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::task::Poll;

use ppp::{v1, v2};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::headers::is_trusted;
use super::worker::Worker;
use crate::clock::ticks;

/// Longest header of version 1 in bytes, with its CR LF (section 2.1).
const V1_BYTES_MAX: usize = 107;
/// Longest header of version 2 in bytes, with its TLVs, which nobody here reads: as much as nginx takes. The
/// addresses need 52; certificates' names and the identifiers of clouds stand behind them.
const V2_BYTES_MAX: usize = 4096;
/// Of version 2: signature, version and command, family and protocol, length (section 2.2).
const V2_FIXED_BYTES: usize = 16;
const V1_SIGNATURE: &[u8] = b"PROXY ";
/// Bytes that are looked at at once; more than a header without TLVs has.
const LOOK_BYTES: usize = 256;

/// Why a connection is closed before its first byte was read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("the peer is not one of --trusted-proxies")]
    Untrusted,
    #[error("what comes first is no PROXY protocol header")]
    Malformed,
    #[error("the header did not come in time")]
    TimedOut,
    #[error("the connection ended before its header")]
    Ended,
    #[error("reading the header: {0}")]
    Broken(#[from] io::Error),
}

/// How far a header goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Extent {
    Whole(usize),
    More,
    Malformed,
}

/// Reads the header. Returns the client's address and whether what it says of others is believed; `None` if the
/// connection is to be closed.
pub async fn read(worker: &Worker, stream: &mut TcpStream, peer: IpAddr, secure: bool) -> Option<(IpAddr, bool)> {
    let trusted_proxies = &worker.settings.trusted_proxies;
    let told =
        if is_trusted(peer, trusted_proxies) { source(worker, stream, secure).await } else { Err(Fault::Untrusted) };
    match told {
        // Whether that address is a trusted proxy's counts, not that its load balancer is one: nobody between them
        // has looked at what the client wrote.
        Ok(Some(client)) => Some((client, is_trusted(client, trusted_proxies))),
        // The load balancer's own connection, or one that it can't describe. Nobody vouches for its fields.
        Ok(None) => Some((peer, false)),
        Err(error) => {
            tracing::debug!(%peer, %error, "a connection without a PROXY protocol header was closed");
            worker.cells.proxy_protocol_failed.add(1);
            None
        }
    }
}

/// The address that the header names, within the time for a handshake or for a request's head.
async fn source(worker: &Worker, stream: &mut TcpStream, secure: bool) -> Result<Option<IpAddr>, Fault> {
    let settings = &worker.settings;
    let timer = worker.clock.timer();
    timer.set(if secure { ticks(settings.handshake_timeout) } else { settings.request_head_timeout });
    let mut taking = pin!(take(stream));
    let taken = poll_fn(|context| {
        timer.register(context);
        if timer.has_passed() { Poll::Ready(Err(Fault::TimedOut)) } else { taking.as_mut().poll(context) }
    });
    parse(&taken.await?)
}

/// Takes the header's bytes from the socket, and no other.
async fn take(stream: &mut TcpStream) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    let mut taken = 0;
    loop {
        bytes.resize(taken + LOOK_BYTES, 0);
        let seen = stream.peek(&mut bytes[taken..]).await?;
        if seen == 0 {
            return Err(Fault::Ended);
        }
        let (end, whole) = match extent(&bytes[..taken + seen]) {
            Extent::Whole(length) => (length, true),
            Extent::More => (taken + seen, false),
            Extent::Malformed => return Err(Fault::Malformed),
        };
        stream.read_exact(&mut bytes[taken..end]).await?;
        taken = end;
        if whole {
            bytes.truncate(taken);
            return Ok(bytes);
        }
    }
}

pub(super) fn extent(bytes: &[u8]) -> Extent {
    let begins = |signature: &[u8]| bytes.iter().zip(signature).all(|(byte, wanted)| byte == wanted);
    if begins(v2::PROTOCOL_PREFIX) {
        let Some(&[high, low]) = bytes.get(V2_FIXED_BYTES - 2..V2_FIXED_BYTES) else { return Extent::More };
        match V2_FIXED_BYTES + usize::from(u16::from_be_bytes([high, low])) {
            length if length > V2_BYTES_MAX => Extent::Malformed,
            length if length > bytes.len() => Extent::More,
            length => Extent::Whole(length),
        }
    } else if begins(V1_SIGNATURE) {
        match bytes.iter().take(V1_BYTES_MAX).position(|byte| *byte == b'\n') {
            Some(position) => Extent::Whole(position + 1),
            None if bytes.len() >= V1_BYTES_MAX => Extent::Malformed,
            None => Extent::More,
        }
    } else {
        Extent::Malformed
    }
}

/// The client's address in a whole header, if it names one.
pub(super) fn parse(header: &[u8]) -> Result<Option<IpAddr>, Fault> {
    let address = if header.starts_with(V1_SIGNATURE) { parse_v1(header)? } else { parse_v2(header)? };
    Ok(address.map(|address| address.to_canonical()))
}

fn parse_v1(header: &[u8]) -> Result<Option<IpAddr>, Fault> {
    let line = header.strip_suffix(b"\r\n").ok_or(Fault::Malformed)?;
    // What stands behind UNKNOWN is to be ignored (section 2.1).
    if line == b"PROXY UNKNOWN" || line.starts_with(b"PROXY UNKNOWN ") {
        return Ok(None);
    }
    // Rust's numbers may have a sign; ports have none. A CR within would end the line for others.
    if line.contains(&b'+') || line.contains(&b'\r') {
        return Err(Fault::Malformed);
    }
    match v1::Header::try_from(header).map_err(|_| Fault::Malformed)?.addresses {
        v1::Addresses::Tcp4(addresses) => Ok(Some(addresses.source_address.into())),
        v1::Addresses::Tcp6(addresses) => Ok(Some(addresses.source_address.into())),
        v1::Addresses::Unknown => Ok(None),
    }
}

fn parse_v2(header: &[u8]) -> Result<Option<IpAddr>, Fault> {
    // LOCAL: whatever the rest says is to be ignored (section 2.2).
    if header.get(V2_FIXED_BYTES - 4) == Some(&0x20) {
        return Ok(None);
    }
    let parsed = v2::Header::try_from(header).map_err(|_| Fault::Malformed)?;
    match (parsed.protocol, parsed.addresses) {
        (v2::Protocol::Stream, v2::Addresses::IPv4(addresses)) => Ok(Some(addresses.source_address.into())),
        (v2::Protocol::Stream, v2::Addresses::IPv6(addresses)) => Ok(Some(addresses.source_address.into())),
        // Valid, and no TCP: to be taken like an unknown client (section 2.2).
        (v2::Protocol::Unspecified, v2::Addresses::Unspecified)
        | (v2::Protocol::Stream | v2::Protocol::Datagram, v2::Addresses::Unix(_))
        | (v2::Protocol::Datagram, v2::Addresses::IPv4(_) | v2::Addresses::IPv6(_)) => Ok(None),
        (v2::Protocol::Unspecified, _) | (_, v2::Addresses::Unspecified) => Err(Fault::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version_2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [v2::PROTOCOL_PREFIX, &[command, family], &length, rest].concat()
    }

    #[test]
    fn headers_name_a_client_or_none() {
        let v4 = [203, 0, 113, 7, 10, 0, 0, 1, 0x30, 0x39, 1, 0xbb];
        let mut v6 = [0; 36];
        v6[..16].copy_from_slice(&"2001:db8::7".parse::<std::net::Ipv6Addr>().unwrap().octets());
        let mut mapped = [0; 36];
        mapped[..16].copy_from_slice(&"::ffff:203.0.113.7".parse::<std::net::Ipv6Addr>().unwrap().octets());
        let with_tlvs = [&v4[..], &[0x04, 0, 2, 1, 2]].concat();
        for (header, client) in [
            (b"PROXY TCP4 203.0.113.7 10.0.0.1 12345 443\r\n".to_vec(), "203.0.113.7"),
            (b"PROXY TCP6 2001:db8::7 ::1 1 2\r\n".to_vec(), "2001:db8::7"),
            (b"PROXY TCP6 ::ffff:203.0.113.7 ::1 1 2\r\n".to_vec(), "203.0.113.7"),
            (b"PROXY UNKNOWN\r\n".to_vec(), ""),
            (b"PROXY UNKNOWN what ever it is that stands here \xff\r\n".to_vec(), ""),
            (version_2(0x21, 0x11, &v4), "203.0.113.7"),
            (version_2(0x21, 0x11, &with_tlvs), "203.0.113.7"),
            (version_2(0x21, 0x21, &v6), "2001:db8::7"),
            (version_2(0x21, 0x21, &mapped), "203.0.113.7"),
            (version_2(0x20, 0x00, &[]), ""),
            (version_2(0x20, 0xff, &v4), ""),
            (version_2(0x21, 0x00, &[]), ""),
            (version_2(0x21, 0x12, &v4), ""),
            (version_2(0x21, 0x31, &[0; 216]), ""),
        ] {
            let client = (!client.is_empty()).then(|| client.parse().unwrap());
            assert_eq!(parse(&header).unwrap(), client, "{header:?}");
            for split in 0..header.len() {
                assert_eq!(extent(&header[..split]), Extent::More, "{split} of {header:?}");
            }
            let followed = [&header[..], b"GET / HTTP/1.1\r\n"].concat();
            assert_eq!(extent(&followed), Extent::Whole(header.len()));
        }
    }

    #[test]
    fn what_is_too_long_is_not_waited_for() {
        let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(V1_BYTES_MAX - 16));
        assert_eq!(extent(longest.as_bytes()), Extent::Whole(V1_BYTES_MAX));
        let longer = longest.replace('\r', "x\r");
        assert_eq!(extent(&longer.as_bytes()[..V1_BYTES_MAX]), Extent::Malformed);
        let longest = version_2(0x21, 0x00, &vec![0; V2_BYTES_MAX - V2_FIXED_BYTES]);
        assert_eq!(extent(&longest), Extent::Whole(V2_BYTES_MAX));
        let longer = version_2(0x21, 0x00, &vec![0; V2_BYTES_MAX - V2_FIXED_BYTES + 1]);
        assert_eq!(extent(&longer[..V2_FIXED_BYTES]), Extent::Malformed);
    }
}
