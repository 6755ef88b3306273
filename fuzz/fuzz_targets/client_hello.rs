//! What comes first on a TLS connection, before anybody is known. In whatever pieces the bytes arrive, they are
//! understood alike and nothing panics (RUSTSEC-2024-0399 was such a panic); the server name is what a second, plain
//! reading finds, and it can be looked up; and the handshake goes on from there to an answer or an end.
#![no_main]

use std::io::Read;
use std::sync::{Arc, OnceLock};

use libfuzzer_sys::{Corpus, fuzz_target};
use portunus::model::HostName;
use portunus::tls;
use rustls::ServerConfig;
use rustls::server::{Accepted, Acceptor};

/// More than any handshake's first flight has; Portunus's limit is rustls's own.
const BYTES_MAX: usize = 64 * 1024;

fn config() -> Arc<ServerConfig> {
    static CONFIG: OnceLock<Arc<ServerConfig>> = OnceLock::new();
    let make = || {
        let certificate = tls::default_certificate();
        tls::server_config(Box::new(move |_| certificate.clone())).expect("a configuration")
    };
    CONFIG.get_or_init(make).clone()
}

/// Offers the bytes in pieces. What is left of them when the hello is whole comes along.
fn accept(mut bytes: &[u8], step: usize) -> Option<(Accepted, &[u8])> {
    let mut acceptor = Acceptor::default();
    while !bytes.is_empty() {
        let count = acceptor.read_tls(&mut bytes.take(step as u64)).ok().filter(|count| *count > 0)?;
        bytes = &bytes[count..];
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => return Some((accepted, bytes)),
            Err((_, mut alert)) => {
                let _ = alert.write_all(&mut Vec::new());
                return None;
            }
        }
    }
    None
}

fuzz_target!(|data: &[u8]| -> Corpus {
    let [form, step, bytes @ ..] = data else { return Corpus::Reject };
    let wrapped;
    let bytes = if form & 1 == 0 {
        bytes
    } else {
        wrapped = records(bytes, usize::from(*form));
        &wrapped[..]
    };
    if bytes.len() > BYTES_MAX {
        return Corpus::Reject;
    }
    let step = usize::from(*step).max(1);
    let name = |accepted: &Accepted| accepted.client_hello().server_name().map(str::to_owned);
    let at_once = accept(bytes, usize::MAX).map(|(accepted, _)| name(&accepted));
    let Some((accepted, mut rest)) = accept(bytes, step) else {
        assert_eq!(at_once, None, "understood at once, and not in pieces of {step}");
        return Corpus::Keep;
    };
    let name = name(&accepted);
    assert_eq!(at_once, Some(name.clone()), "understood otherwise at once");
    if let Some(name) = &name {
        let lower = name.to_ascii_lowercase();
        assert!(HostName::parse(&lower).is_some(), "a name that can't be looked up: {lower:?}");
        assert!(contains(bytes, name.as_bytes()), "a name that nobody wrote: {name:?}");
    }
    if let Ok(mut connection) = accepted.into_connection(config()) {
        while !rest.is_empty() {
            let Ok(count @ 1..) = connection.read_tls(&mut rest) else { break };
            let _ = count;
            if connection.process_new_packets().is_err() {
                break;
            }
            let _ = connection.reader().read(&mut [0; 256]);
            let _ = connection.write_tls(&mut Vec::new());
        }
        assert!(!connection.is_handshaking() || connection.peer_certificates().is_none());
    }
    Corpus::Keep
});

/// A handshake message of these bytes as a ClientHello, in records of at most so many bytes.
fn records(hello: &[u8], piece: usize) -> Vec<u8> {
    let length = u32::try_from(hello.len()).unwrap_or(u32::MAX).to_be_bytes();
    let message = [&[1, length[1], length[2], length[3]], hello].concat();
    let mut records = Vec::new();
    for part in message.chunks(piece * 8) {
        let length = u16::try_from(part.len()).expect("at most 2040").to_be_bytes();
        records.extend([0x16, 3, 1]);
        records.extend(length);
        records.extend(part);
    }
    records
}

/// Whether the name stands in the bytes, record by record put together.
fn contains(bytes: &[u8], name: &[u8]) -> bool {
    let (mut rest, mut message) = (bytes, Vec::new());
    while let [_, _, _, high, low, part @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(part.len());
        message.extend_from_slice(&part[..length]);
        rest = &part[length..];
    }
    message.windows(name.len().max(1)).any(|window| window.eq_ignore_ascii_case(name))
}
