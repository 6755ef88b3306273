//! A TLS client that says what it saw: the certificate, the protocol, whether it resumed.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, ProtocolVersion, RootCertStore,
    SignatureScheme, StreamOwned, SupportedProtocolVersion,
};

use super::certificates::{Authority, Identity};
use super::h1::{self, Connection};

pub type Stream = StreamOwned<ClientConnection, TcpStream>;

pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// What a handshake agreed on.
#[derive(Clone, Debug)]
pub struct Handshake {
    /// The certificates that the server sent, the leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    pub alpn: Option<String>,
    pub version: ProtocolVersion,
    pub resumed: bool,
}

impl Handshake {
    pub fn of(connection: &rustls::CommonState) -> Self {
        let chain = connection.peer_certificates().unwrap_or_default();
        Self {
            chain: chain.iter().map(|certificate| certificate.clone().into_owned()).collect(),
            alpn: connection.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
            version: connection.protocol_version().expect("a version"),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
        }
    }

    pub fn leaf(&self) -> &CertificateDer<'static> {
        self.chain.first().expect("a certificate")
    }
}

/// Settings of connections that share one store of sessions.
#[derive(Clone)]
pub struct Client {
    pub config: Arc<ClientConfig>,
}

impl Client {
    /// Takes any certificate, offers TLS 1.2 and 1.3 and no ALPN, resumes when it can.
    pub fn new() -> Self {
        Self::with(rustls::ALL_VERSIONS, None)
    }

    pub fn version(version: &'static SupportedProtocolVersion) -> Self {
        Self::with(&[version], None)
    }

    /// Takes only what leads to this root, for the name that is asked for.
    pub fn trusting(authority: &Authority) -> Self {
        Self::with(rustls::ALL_VERSIONS, Some(authority))
    }

    fn with(versions: &[&'static SupportedProtocolVersion], root: Option<&Authority>) -> Self {
        let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions);
        let builder = builder.expect("versions").dangerous();
        let verifier: Arc<dyn ServerCertVerifier> = match root {
            None => Arc::new(Anyone(provider())),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.certificate.clone()).expect("a root");
                let builder = WebPkiServerVerifier::builder_with_provider(roots.into(), provider());
                builder.build().expect("a verifier")
            }
        };
        let mut config = builder.with_custom_certificate_verifier(verifier).with_no_client_auth();
        config.resumption = Resumption::in_memory_sessions(1024);
        Self { config: Arc::new(config) }
    }

    pub fn alpn(mut self, protocols: &[&str]) -> Self {
        let protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::make_mut(&mut self.config).alpn_protocols = protocols;
        self
    }

    /// Shows this certificate to servers that ask for one, whosever they ask for.
    pub fn showing(mut self, identity: &Identity) -> Self {
        Arc::make_mut(&mut self.config).client_auth_cert_resolver = Arc::new(identity.resolver());
        self
    }

    pub fn without_sni(mut self) -> Self {
        Arc::make_mut(&mut self.config).enable_sni = false;
        self
    }

    /// Connects and completes the handshake.
    #[track_caller]
    pub fn connect(&self, address: SocketAddr, name: &str) -> (Connection<Stream>, Handshake) {
        self.try_connect(address, name).unwrap_or_else(|e| panic!("TLS with {name}: {e}"))
    }

    pub fn try_connect(&self, address: SocketAddr, name: &str) -> io::Result<(Connection<Stream>, Handshake)> {
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let mut tls = ClientConnection::new(self.config.clone(), name).map_err(io::Error::other)?;
        let mut tcp = h1::connect(address);
        while tls.is_handshaking() {
            tls.complete_io(&mut tcp)?;
        }
        let handshake = Handshake::of(&tls);
        Ok((Connection::over(StreamOwned::new(tls, tcp)), handshake))
    }

    /// Like `connect`, with these bytes before the handshake's; both are sent in pieces of `step` bytes.
    #[track_caller]
    pub fn connect_behind(&self, header: &[u8], step: usize, address: SocketAddr, name: &str) -> Connection<Stream> {
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let mut tls = ClientConnection::new(self.config.clone(), name).expect("a client");
        let mut tcp = h1::connect(address);
        let mut first = header.to_vec();
        tls.write_tls(&mut first).expect("a ClientHello");
        for piece in first.chunks(step) {
            tcp.write_all(piece).expect("send");
        }
        while tls.is_handshaking() {
            tls.complete_io(&mut tcp).expect("TLS");
        }
        Connection::over(StreamOwned::new(tls, tcp))
    }

    /// One GET on a connection of its own, which also takes in the session tickets.
    #[track_caller]
    pub fn get(&self, address: SocketAddr, name: &str, host: &str, target: &str) -> (h1::Response, Handshake) {
        let (mut connection, handshake) = self.connect(address, name);
        (connection.get(host, target), handshake)
    }
}

/// A connection in cleartext or over TLS that one thread may read while another writes, however long either waits.
pub enum Socket {
    Plain(TcpStream),
    Tls(Tls),
}

/// Neither half waits for the network with the session in hand.
#[derive(Clone)]
pub struct Tls {
    session: Arc<Mutex<ClientConnection>>,
    stream: Arc<TcpStream>,
    /// Held from a record's making to its end, so that they leave in order.
    turn: Arc<Mutex<()>>,
    /// What was received and the session had no room for.
    received: Vec<u8>,
}

impl Socket {
    pub fn secure(stream: Stream) -> Self {
        let (session, stream) = stream.into_parts();
        let (session, stream) = (Arc::new(Mutex::new(session)), Arc::new(stream));
        Self::Tls(Tls { session, stream, turn: Arc::default(), received: Vec::new() })
    }

    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Plain(stream) => Self::Plain(stream.try_clone()?),
            Self::Tls(tls) => Self::Tls(tls.clone()),
        })
    }

    pub fn shutdown(&self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.shutdown(Shutdown::Both),
            Self::Tls(tls) => tls.stream.shutdown(Shutdown::Both),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let tls = match self {
            Self::Plain(stream) => return stream.read(buffer),
            Self::Tls(tls) => tls,
        };
        loop {
            match tls.session.lock().expect("the session").reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
            if tls.received.is_empty() {
                let mut bytes = [0; 4096];
                let count = (&*tls.stream).read(&mut bytes)?;
                if count == 0 {
                    return Ok(0);
                }
                tls.received.extend_from_slice(&bytes[..count]);
            }
            let mut session = tls.session.lock().expect("the session");
            // As much as it has room for, and then what that was is read first.
            let count = session.read_tls(&mut &tls.received[..])?;
            tls.received.drain(..count);
            session.process_new_packets().map_err(io::Error::other)?;
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let tls = match self {
            Self::Plain(stream) => return stream.write(bytes),
            Self::Tls(tls) => tls,
        };
        let _turn = tls.turn.lock().expect("a turn");
        let mut records = Vec::new();
        let mut session = tls.session.lock().expect("the session");
        let count = session.writer().write(bytes)?;
        while session.wants_write() {
            session.write_tls(&mut records)?;
        }
        drop(session);
        (&*tls.stream).write_all(&records)?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Accepts any certificate whose key signed the handshake.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, leaf, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, leaf, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
