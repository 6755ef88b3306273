//! An HTTP/2 client: in cleartext by prior knowledge, and over TLS by ALPN.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::tls::{Client, Handshake};

pub type Outgoing = UnsyncBoxBody<Bytes, Infallible>;

pub fn empty() -> Outgoing {
    UnsyncBoxBody::new(Empty::new())
}

pub fn full(bytes: impl Into<Bytes>) -> Outgoing {
    UnsyncBoxBody::new(Full::new(bytes.into()))
}

/// A body that the test feeds, frame by frame; it ends when the sender is dropped.
pub fn fed() -> (mpsc::Sender<Frame<Bytes>>, Outgoing) {
    let (sender, receiver) = mpsc::channel(1);
    (sender, UnsyncBoxBody::new(Fed(receiver)))
}

struct Fed(mpsc::Receiver<Frame<Bytes>>);

impl Body for Fed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|frame| frame.map(Ok))
    }
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    /// Reads a body to its end.
    pub async fn of(response: Response<Incoming>) -> Result<Self, hyper::Error> {
        let (parts, body) = response.into_parts();
        let collected = body.collect().await?;
        let trailers = collected.trailers().cloned();
        let body = collected.to_bytes();
        Ok(Self { status: parts.status, body, trailers })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// An HTTP/2 connection. Clones share it.
#[derive(Clone)]
pub struct Connection {
    pub sender: http2::SendRequest<Outgoing>,
}

impl Connection {
    /// In cleartext, by prior knowledge.
    pub async fn cleartext(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("connect");
        stream.set_nodelay(true).expect("nodelay");
        Self::over(stream).await
    }

    /// Over TLS, for which the client must offer `h2`.
    pub async fn tls(address: SocketAddr, client: &Client, name: &str) -> (Self, Handshake) {
        let stream = TcpStream::connect(address).await.expect("connect");
        stream.set_nodelay(true).expect("nodelay");
        let connector = tokio_rustls::TlsConnector::from(client.config.clone());
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let stream = connector.connect(name, stream).await.expect("TLS");
        let handshake = Handshake::of(stream.get_ref().1);
        assert_eq!(handshake.alpn.as_deref(), Some("h2"));
        (Self::over(stream).await, handshake)
    }

    /// In cleartext, by prior knowledge, behind these bytes.
    pub async fn behind(header: &[u8], address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).await.expect("connect");
        stream.write_all(header).await.expect("what comes first");
        Self::over(stream).await
    }

    async fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (sender, connection) = handshake.expect("an HTTP/2 connection");
        tokio::spawn(connection);
        Self { sender }
    }

    pub async fn start(&mut self, request: Request<Outgoing>) -> Result<Response<Incoming>, hyper::Error> {
        self.sender.ready().await?;
        self.sender.send_request(request).await
    }

    /// One exchange to its end.
    pub async fn send(&mut self, request: Request<Outgoing>) -> Answer {
        let response = self.start(request).await.expect("an answer");
        Answer::of(response).await.expect("a whole answer")
    }

    pub async fn get(&mut self, url: &str) -> Answer {
        self.send(Request::get(url).body(empty()).expect("a request")).await
    }
}

/// The status of a GET for `host` on a connection with this SNI, over HTTP/1.1 and over HTTP/2.
#[track_caller]
pub fn statuses(portunus: &super::Portunus, client: &Client, sni: &str, host: &str) -> (u16, u16) {
    let (response, _) = client.get(portunus.https, sni, host, "/");
    let client = client.clone().alpn(&["h2"]);
    let over_h2 = super::run(async {
        let (mut connection, _) = Connection::tls(portunus.https, &client, sni).await;
        connection.get(&format!("https://{host}/")).await.status.as_u16()
    });
    (response.status, over_h2)
}
