//! A backend on hyper, for what bytes by hand can't do: HTTP/2 in cleartext and TLS.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, Version, header};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use super::certificates::{Authority, Identity};
use super::h2::Outgoing;
use super::tls::provider;

/// A request as it reached the backend.
#[derive(Clone, Debug)]
pub struct Received {
    /// The number of the connection it came on, from 0.
    pub connection: usize,
    /// What was learned of the client in the handshake.
    pub peer: Peer,
    pub method: Method,
    pub uri: Uri,
    pub version: Version,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

#[derive(Clone, Debug, Default)]
pub struct Peer {
    pub certificate: Option<CertificateDer<'static>>,
    pub server_name: Option<String>,
    pub resumed: bool,
}

/// Sends back each frame as it comes.
fn echo_frames(mut body: Incoming) -> Response<Outgoing> {
    let (sender, outgoing) = super::h2::fed();
    tokio::spawn(async move {
        while let Some(Ok(frame)) = body.frame().await {
            if sender.send(frame).await.is_err() {
                break;
            }
        }
    });
    Response::new(outgoing)
}

/// Answers 200 with what it received: the body, and the trailers if there were any.
fn answer(received: &Received) -> Response<Outgoing> {
    let data = received.body.clone();
    let Some(trailers) = received.trailers.clone() else {
        return Response::new(super::h2::full(data));
    };
    let (sender, body) = super::h2::fed();
    tokio::spawn(async move {
        let _ = sender.send(Frame::data(data)).await;
        let _ = sender.send(Frame::trailers(trailers)).await;
    });
    Response::new(body)
}

/// What a gRPC server answers that is asked for its health: a `HealthCheckResponse` with SERVING.
fn serving() -> Response<Outgoing> {
    let (sender, body) = super::h2::fed();
    tokio::spawn(async move {
        let _ = sender.send(Frame::data(Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1]))).await;
        let trailers = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
        let _ = sender.send(Frame::trailers(trailers)).await;
    });
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// A listening echo backend, with gRPC's health service; it ends with this value. On the path `/stream` it echoes frame by
/// frame and records nothing; on `/at-once` it answers, and records the request when it has all of it.
pub struct HyperBackend {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl HyperBackend {
    /// HTTP/2 in cleartext, by prior knowledge, and nothing else.
    pub fn h2c() -> Self {
        Self::start(None)
    }

    /// TLS with this certificate, choosing from these protocols.
    pub fn tls(identity: &Identity, alpn: &[&str]) -> Self {
        Self::tls_of(identity, alpn, rustls::ALL_VERSIONS, None)
    }

    /// Likewise, of these versions, and asking for a certificate of the authority's if there is one.
    pub fn tls_of(
        identity: &Identity,
        alpn: &[&str],
        versions: &[&'static SupportedProtocolVersion],
        clients: Option<&Authority>,
    ) -> Self {
        let builder =
            ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions).expect("versions");
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.certificate.clone()).expect("a root");
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider()).build();
                builder.with_client_cert_verifier(verifier.expect("a verifier"))
            }
        };
        let config = builder.with_single_cert(identity.chain(), identity.key());
        let mut config = config.expect("a configuration");
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Self::start(Some(TlsAcceptor::from(Arc::new(config))))
    }

    fn start(tls: Option<TlsAcceptor>) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        listener.set_nonblocking(true).expect("nonblocking");
        let address = listener.local_addr().expect("address");
        let received = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = oneshot::channel();
        let record = received.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("runtime").block_on(async move {
                let listener = TcpListener::from_std(listener).expect("listener");
                tokio::select! {
                    () = accept(listener, tls, record) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address, received, stop: Some(stop), thread: Some(thread) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn requests(&self) -> Vec<Received> {
        self.received.lock().expect("received").clone()
    }

    #[track_caller]
    pub fn last(&self) -> Received {
        self.requests().pop().expect("a request")
    }
}

impl Drop for HyperBackend {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, record: Arc<Mutex<Vec<Received>>>) {
    for connection in 0.. {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (tls, record) = (tls.clone(), record.clone());
        tokio::spawn(async move {
            match tls {
                None => serve(stream, true, (connection, Peer::default()), record).await,
                Some(tls) => {
                    let Ok(stream) = tls.accept(stream).await else { return };
                    let (_, session) = stream.get_ref();
                    let h2 = session.alpn_protocol() == Some(b"h2");
                    let certificate = session.peer_certificates().and_then(|chain| chain.first()).cloned();
                    let peer = Peer {
                        certificate: certificate.map(CertificateDer::into_owned),
                        server_name: session.server_name().map(str::to_owned),
                        resumed: session.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
                    };
                    serve(stream, h2, (connection, peer), record).await;
                }
            }
        });
    }
}

/// Reads a request to its end.
async fn receive(
    request: Request<Incoming>,
    (connection, peer): (usize, Peer),
    record: &Mutex<Vec<Received>>,
) -> hyper::Result<Received> {
    let (parts, body) = request.into_parts();
    let collected = body.collect().await?;
    let trailers = collected.trailers().cloned();
    let (method, uri, version) = (parts.method, parts.uri, parts.version);
    let (headers, body) = (parts.headers, collected.to_bytes());
    let received = Received { connection, peer, method, uri, version, headers, body, trailers };
    record.lock().expect("received").push(received.clone());
    Ok(received)
}

async fn serve<S>(stream: S, h2: bool, (connection, peer): (usize, Peer), record: Arc<Mutex<Vec<Received>>>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(|request: Request<Incoming>| {
        let (record, peer) = (record.clone(), peer.clone());
        async move {
            if request.uri().path() == "/stream" {
                return Ok(echo_frames(request.into_body()));
            }
            if request.uri().path() == "/at-once" {
                tokio::spawn(async move { receive(request, (connection, peer), &record).await.map(drop) });
                return Ok(Response::new(super::h2::full(Bytes::new())));
            }
            let received = receive(request, (connection, peer), &record).await?;
            if received.uri.path() == "/grpc.health.v1.Health/Check" {
                return Ok(serving());
            }
            Ok::<_, hyper::Error>(answer(&received))
        }
    });
    let io = TokioIo::new(stream);
    // That a connection ends badly is for the client to see.
    let _ = if h2 {
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        // Portunus lets pass 40 KiB.
        builder.max_header_list_size(64 << 10);
        builder.serve_connection(io, service).await
    } else {
        hyper::server::conn::http1::Builder::new().serve_connection(io, service).await
    };
}
