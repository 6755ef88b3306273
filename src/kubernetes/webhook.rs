//! The validating admission webhook: the API server asks by `POST /validate`, over TLS, whether an Ingress may be
//! stored, and gets what [`translate::review`](crate::translate::review) says of it (`admission.k8s.io/v1`). It
//! changes nothing, so that a dry run is a run like any other. What can't be answered is no refusal but an error
//! of HTTP, upon which the `failurePolicy` decides.
//!
//! Anybody in the cluster may connect, and the server runs on the control thread: everything has a limit.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::TcpListener as StdListener;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use k8s_openapi::api::networking::v1::Ingress;
use kube::core::DynamicObject;
use kube::core::admission::{
    AdmissionRequest, AdmissionResponse, AdmissionReview, META_API_VERSION_V1, META_KIND, Operation,
};
use kube::core::response::{Status, StatusSummary};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::model::Certificate;
use crate::tls;
use crate::translate::{Problem, Review};

/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Bytes of the message of a refusal, which `kubectl` prints; what is over is counted.
const MESSAGE_BYTES_MAX: usize = 8 << 10;
/// Characters of a warning, and all of them together, of which the API server passes on no more
/// (`k8s.io/apiserver/pkg/endpoints/filters/warning.go`).
const WARNING_CHARACTERS_MAX: usize = 256;
const WARNINGS_CHARACTERS_MAX: usize = 4 << 10;
const PATH: &str = "/validate";

/// Says what is wrong with an Ingress; `None` as long as not all objects are known.
pub type ReviewIngress = Rc<dyn Fn(Ingress) -> Option<Review>>;
/// The certificate to serve, asked for at each connection; the same `Arc` until there is another.
pub type CurrentCertificate = Rc<dyn Fn() -> Option<Arc<Certificate>>>;

/// What is allowed to those who connect. The API server itself waits 10 s for an answer, and 30 s at most.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub connections_max: usize,
    /// Of a review; the API server takes no object beyond 3 MiB.
    pub body_bytes_max: usize,
    pub handshake_timeout: Duration,
    /// For a head, and between two requests.
    pub head_timeout: Duration,
    pub body_timeout: Duration,
    /// Of a connection, so that none is held for ever.
    pub age_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 64,
            body_bytes_max: 3 << 20,
            handshake_timeout: Duration::from_secs(10),
            head_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(10),
            age_max: Duration::from_secs(600),
        }
    }
}

/// Serves one socket until the process ends.
pub async fn serve(listener: StdListener, limits: Limits, review: ReviewIngress, certificate: CurrentCertificate) {
    let listener = TcpListener::from_std(listener).expect("the socket is non-blocking and the runtime runs");
    let mut served = Served::default();
    let open = Rc::new(());
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        if Rc::strong_count(&open) > limits.connections_max {
            continue;
        }
        let Some(config) = served.config(certificate()) else { continue };
        let (review, open) = (review.clone(), open.clone());
        tokio::task::spawn_local(async move {
            connection(stream, config, limits, review).await;
            drop(open);
        });
    }
}

/// The certificate in service, made ready for handshakes once.
#[derive(Default)]
struct Served {
    certificate: Option<Arc<Certificate>>,
    config: Option<Arc<ServerConfig>>,
    /// The log has said that there is none.
    said: bool,
}

impl Served {
    fn config(&mut self, certificate: Option<Arc<Certificate>>) -> Option<Arc<ServerConfig>> {
        let same = match (&self.certificate, &certificate) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new) || old == new,
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if !same {
            self.config = certificate.as_deref().and_then(tls::single_config);
            self.certificate = certificate;
        }
        if self.config.is_none() && !self.said {
            tracing::warn!("the admission webhook has no certificate to serve; --webhook-certificate names its Secret");
        }
        self.said = self.config.is_none();
        self.config.clone()
    }
}

async fn connection(stream: TcpStream, config: Arc<ServerConfig>, limits: Limits, review: ReviewIngress) {
    let handshake = timeout(limits.handshake_timeout, TlsAcceptor::from(config).accept(stream));
    let stream = match handshake.await {
        Ok(Ok(stream)) => stream,
        // Whose authority is not the caBundle's shows here, as the client breaks off.
        Ok(Err(error)) => return tracing::debug!("a handshake with the admission webhook failed: {error}"),
        Err(_) => return tracing::debug!("a handshake with the admission webhook took too long"),
    };
    let service = service_fn(|request| {
        let review = review.clone();
        async move { Ok::<_, Infallible>(answer(request, limits, &*review).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // A client that leaves in the middle is of no interest.
    if timeout(limits.age_max, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(limits.body_timeout, connection).await;
    }
}

async fn answer(
    request: Request<Incoming>,
    limits: Limits,
    review: &dyn Fn(Ingress) -> Option<Review>,
) -> Response<Full<Bytes>> {
    if request.uri().path() != PATH {
        return sentence(StatusCode::NOT_FOUND, "only /validate is here");
    }
    if request.method() != Method::POST {
        let mut response = sentence(StatusCode::METHOD_NOT_ALLOWED, "a review is asked for by POST");
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    if !is_json(request.headers().get(header::CONTENT_TYPE)) {
        return sentence(StatusCode::UNSUPPORTED_MEDIA_TYPE, "a review is application/json");
    }
    let too_large = || sentence(StatusCode::PAYLOAD_TOO_LARGE, "the review is too large");
    if request.body().size_hint().lower() > limits.body_bytes_max as u64 {
        return too_large();
    }
    let body = Limited::new(request.into_body(), limits.body_bytes_max).collect();
    let body = match timeout(limits.body_timeout, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return too_large(),
        Ok(Err(_)) => return sentence(StatusCode::BAD_REQUEST, "the body broke off"),
        Err(_) => return sentence(StatusCode::REQUEST_TIMEOUT, "the body took too long"),
    };
    match reply(&body, review) {
        Ok(reply) => match serde_json::to_vec(&reply.into_review()) {
            Ok(json) => respond(StatusCode::OK, "application/json", json),
            Err(_) => sentence(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be written"),
        },
        Err(Unanswered::Malformed(what)) => sentence(StatusCode::BAD_REQUEST, &what),
        Err(Unanswered::NotReady) => sentence(StatusCode::SERVICE_UNAVAILABLE, "not all objects are known yet"),
    }
}

fn is_json(content_type: Option<&HeaderValue>) -> bool {
    let text = content_type.and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

fn sentence(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", format!("{text}\n"))
}

fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Why there is no review.
#[derive(Debug)]
enum Unanswered {
    Malformed(String),
    NotReady,
}

/// The review of an Ingress that is made or changed. All else is allowed: other kinds, subresources, deletions, and
/// objects that are being deleted, whose finalizers must go.
fn reply(body: &[u8], review: &dyn Fn(Ingress) -> Option<Review>) -> Result<AdmissionResponse, Unanswered> {
    let malformed = |what: String| Unanswered::Malformed(cut(&what, WARNING_CHARACTERS_MAX));
    let asked: AdmissionReview<DynamicObject> =
        serde_json::from_slice(body).map_err(|error| malformed(format!("the body is no AdmissionReview: {error}")))?;
    if asked.types.kind != META_KIND || asked.types.api_version != META_API_VERSION_V1 {
        return Err(malformed(format!("only {META_KIND} of {META_API_VERSION_V1} is read")));
    }
    let mut request: AdmissionRequest<DynamicObject> =
        asked.try_into().map_err(|_| malformed("the AdmissionReview has no request".to_owned()))?;
    let object = request.object.take();
    let mut response = AdmissionResponse::from(&request);
    let kind = (request.kind.group.as_str(), request.kind.version.as_str(), request.kind.kind.as_str());
    let whole = request.sub_resource.as_deref().is_none_or(str::is_empty);
    let stores = match request.operation {
        Operation::Create | Operation::Update => true,
        Operation::Delete | Operation::Connect => false,
    };
    if kind != ("networking.k8s.io", "v1", "Ingress") || !whole || !stores {
        return Ok(response);
    }
    let object = object.ok_or_else(|| malformed("the request has no object".to_owned()))?;
    if object.metadata.deletion_timestamp.is_some() {
        return Ok(response);
    }
    let mut ingress: Ingress =
        object.try_parse().map_err(|error| malformed(format!("the object is no Ingress: {error}")))?;
    ingress.metadata.namespace = ingress.metadata.namespace.or(request.namespace);
    let Review { refused, warnings } = review(ingress).ok_or(Unanswered::NotReady)?;
    if !refused.is_empty() {
        tracing::info!(problems = refused.len(), "refused {}: {}", refused[0].object, refused[0].what);
        response.allowed = false;
        response.result = refusal(&refused);
    }
    response.warnings = Some(warned(&warnings)).filter(|warnings| !warnings.is_empty());
    Ok(response)
}

/// What `kubectl` prints, a line for each Problem.
fn refusal(problems: &[Problem]) -> Status {
    let mut message = String::new();
    for (index, Problem { field, what, fix, .. }) in problems.iter().enumerate() {
        let line = cut(&format!("{field}: {what}; {fix}"), 4 * WARNING_CHARACTERS_MAX);
        if message.len() + line.len() > MESSAGE_BYTES_MAX {
            let _ = write!(message, "\nand {} more", problems.len() - index);
            break;
        }
        message.push_str(if index == 0 { "" } else { "\n" });
        message.push_str(&line);
    }
    Status {
        status: Some(StatusSummary::Failure),
        code: StatusCode::UNPROCESSABLE_ENTITY.as_u16(),
        message,
        reason: "Invalid".to_owned(),
        ..Status::default()
    }
}

fn warned(problems: &[Problem]) -> Vec<String> {
    let line =
        |Problem { field, what, fix, .. }: &Problem| cut(&format!("{field}: {what}; {fix}"), WARNING_CHARACTERS_MAX);
    problems.iter().map(line).take(WARNINGS_CHARACTERS_MAX / WARNING_CHARACTERS_MAX).collect()
}

/// At most so many characters, on one line: what users write comes back in a header field, and in terminals.
fn cut(text: &str, characters_max: usize) -> String {
    let mut characters = text.chars().map(|character| if character.is_control() { ' ' } else { character });
    let mut cut: String = characters.by_ref().take(characters_max - 1).collect();
    match (characters.next(), characters.next()) {
        (Some(last), None) => cut.push(last),
        (Some(_), Some(_)) => cut.push('…'),
        (None, _) => {}
    }
    cut
}
