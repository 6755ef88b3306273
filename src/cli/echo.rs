//! `portunus echo`: a backend that answers with what it received, as JSON. HTTP/1.1 and HTTP/2 on one port, and
//! WebSockets that say everything back. Its query asks for other answers: `status=503`, `bytes=1024`,
//! `chunks=5`, `delay_ms=50`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::LocalSet;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::config::{Echo, addresses};
use crate::upstream::LocalExecutor;
use crate::{proxy, tls};

/// Largest answer that may be asked for, in bytes.
const BYTES_MAX: usize = 1024 * 1024 * 1024;
/// Longest delay that may be asked for.
const DELAY_MAX: Duration = Duration::from_secs(60);

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Runs until it is killed.
pub fn run(config: &Echo) -> Result<ExitCode> {
    let mut listeners = Vec::new();
    for address in addresses(&config.listen) {
        let bound = proxy::bind(address, 1).with_context(|| format!("can't listen on {address}"))?;
        listeners.extend(bound);
    }
    let certificate = tls::default_certificate();
    let tls = if config.tls { Some(tls::server_config(Box::new(move |_| certificate.clone()))?) } else { None };
    let name: Rc<str> = config.name.as_str().into();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let mut serving = tokio::task::JoinSet::new();
        for listener in listeners {
            let listener = TcpListener::from_std(listener)?;
            eprintln!("listening for echo on {}", listener.local_addr()?);
            serving.spawn_local(accept(listener, name.clone(), tls.clone().map(TlsAcceptor::from)));
        }
        serving.join_all().await;
        Ok(ExitCode::SUCCESS)
    })
}

async fn accept(listener: TcpListener, name: Rc<str>, tls: Option<TlsAcceptor>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let (name, tls) = (name.clone(), tls.clone());
        tokio::task::spawn_local(async move {
            match tls {
                None => serve(stream, name).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(stream, name).await;
                    }
                }
            }
        });
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, name: Rc<str>) {
    let builder = auto::Builder::new(LocalExecutor);
    let service = service_fn(|request| answer(request, name.clone()));
    // A client that leaves in the middle is its own affair.
    let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
}

async fn answer(mut request: Request<Incoming>, name: Rc<str>) -> Result<Answer, Infallible> {
    let wanted = Wanted::read(request.uri().query().unwrap_or_default());
    tokio::time::sleep(wanted.delay).await;
    if let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY).cloned() {
        return Ok(websocket(&mut request, &key));
    }
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return Ok(whole(StatusCode::BAD_REQUEST, "the body broke off")) };
    let trailers = body.trailers().cloned().unwrap_or_default();
    let bytes = body.to_bytes().len();
    let mut response = match (wanted.bytes, wanted.chunks) {
        (Some(bytes), Some(chunks)) => chunked(bytes, chunks),
        (Some(bytes), None) => whole(StatusCode::OK, "x".repeat(bytes)),
        (None, _) => {
            let description = json!({
                "name": &*name,
                "method": head.method.as_str(),
                "target": head.uri.path_and_query().map_or("", |target| target.as_str()),
                "version": version(head.version),
                "authority": head.uri.authority().map(http::uri::Authority::as_str),
                "headers": listed(&head.headers),
                "body_bytes": bytes,
                "trailers": listed(&trailers),
            });
            let mut response = whole(StatusCode::OK, format!("{description:#}\n"));
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
    };
    *response.status_mut() = wanted.status;
    Ok(response)
}

/// What the query asks for.
struct Wanted {
    status: StatusCode,
    bytes: Option<usize>,
    chunks: Option<usize>,
    delay: Duration,
}

impl Wanted {
    fn read(query: &str) -> Self {
        let value = |name: &str| {
            query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse::<u64>().ok())
        };
        let size =
            |name: &str| value(name).and_then(|value| usize::try_from(value).ok()).map(|value| value.min(BYTES_MAX));
        let status = value("status").and_then(|status| StatusCode::from_u16(u16::try_from(status).ok()?).ok());
        Self {
            status: status.filter(|status| status.as_u16() >= 200).unwrap_or(StatusCode::OK),
            bytes: size("bytes"),
            chunks: size("chunks"),
            delay: Duration::from_millis(value("delay_ms").unwrap_or(0)).min(DELAY_MAX),
        }
    }
}

fn whole(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()).boxed_unsync());
    *response.status_mut() = status;
    response
}

fn chunked(bytes: usize, chunks: usize) -> Answer {
    let chunk = Bytes::from("x".repeat(bytes));
    let frames = (0..chunks).map(move |_| Ok(Frame::data(chunk.clone())));
    Response::new(StreamBody::new(Frames(frames)).boxed_unsync())
}

/// Frames that are ready all along, as a stream.
struct Frames<I>(I);

impl<I: Iterator<Item = Result<Frame<Bytes>, Infallible>> + Unpin> futures_core::Stream for Frames<I> {
    type Item = Result<Frame<Bytes>, Infallible>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        std::task::Poll::Ready(self.0.next())
    }
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

fn listed(fields: &HeaderMap) -> BTreeMap<&str, Vec<String>> {
    let mut all: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, value) in fields {
        all.entry(name.as_str()).or_default().push(String::from_utf8_lossy(value.as_bytes()).into_owned());
    }
    all
}

/// Accepts a WebSocket and says every message back.
fn websocket(request: &mut Request<Incoming>, key: &HeaderValue) -> Answer {
    let upgrade = hyper::upgrade::on(request);
    tokio::task::spawn_local(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        echo_messages(socket).await;
    });
    let mut response = whole(StatusCode::SWITCHING_PROTOCOLS, "");
    let fields = response.headers_mut();
    fields.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    fields.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
        fields.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

async fn echo_messages<S: AsyncRead + AsyncWrite + Unpin>(socket: WebSocketStream<S>) {
    use futures_util::{SinkExt, StreamExt};
    let (mut out, mut messages) = socket.split();
    while let Some(Ok(message)) = messages.next().await {
        if (message.is_text() || message.is_binary()) && out.send(message).await.is_err() {
            return;
        }
    }
}
