//! Active checks: endpoints whose rules ask for it are asked whether they are well, by one task each on the control
//! thread, and not by each worker. What they answer goes into the same health that workers read. An endpoint counts as
//! healthy until its checks have failed: whoever lists it says that it is ready.

use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::{HeaderValue, Method, Request, Response, Version, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, spawn_local};

use super::connect::{LocalExecutor, dial};
use super::{Endpoint, Tls, Upstream};
use crate::metrics::Metrics;
use crate::model::{BackendKey, Check, CheckKind, Protocol};

/// Most checks under way at once.
const CHECKS_MAX: usize = 64;
/// Longest answer that is read, in bytes: a `HealthCheckResponse` has two.
const ANSWER_BYTES_MAX: usize = 1024;
const AGENT: HeaderValue = HeaderValue::from_static("portunus-health-check");
const GRPC_PATH: &str = "/grpc.health.v1.Health/Check";

/// The endpoints that are being checked.
#[derive(Debug)]
pub struct Checker {
    running: HashMap<BackendKey, Vec<Running>>,
    gate: Rc<Semaphore>,
    metrics: Arc<Metrics>,
}

/// Checks of one endpoint in one of its lives; they end with this.
#[derive(Debug)]
struct Running {
    epoch: u64,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Checker {
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { running: HashMap::new(), gate: Rc::new(Semaphore::new(CHECKS_MAX)), metrics }
    }

    /// Checks the endpoints that a backend has now, if it asks for it, and no others.
    pub fn follow(&mut self, key: &BackendKey, upstream: Option<&Upstream>) {
        let mut before = self.running.remove(key).unwrap_or_default();
        let Some((upstream, check)) = upstream.and_then(|upstream| Some((upstream, upstream.check.as_ref()?))) else {
            return;
        };
        let running = upstream.all_endpoints().map(|endpoint| {
            let known = before.iter().position(|running| running.epoch == endpoint.slot.epoch);
            known.map_or_else(|| self.begin(endpoint, upstream, check), |at| before.swap_remove(at))
        });
        let running: Vec<Running> = running.collect();
        self.running.insert(key.clone(), running);
    }

    fn begin(&self, endpoint: &Arc<Endpoint>, upstream: &Upstream, check: &Arc<Check>) -> Running {
        let target = Target {
            endpoint: endpoint.clone(),
            backend: upstream.label.clone(),
            protocol: upstream.protocol,
            tls: upstream.tls.clone(),
            check: check.clone(),
        };
        let task = spawn_local(target.follow(self.gate.clone(), self.metrics.clone()));
        Running { epoch: endpoint.slot.epoch, task: task.abort_handle() }
    }
}

/// Who is asked, and how.
struct Target {
    endpoint: Arc<Endpoint>,
    backend: Arc<str>,
    protocol: Protocol,
    tls: Option<Tls>,
    check: Arc<Check>,
}

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
enum Unwell {
    #[error(transparent)]
    Connect(#[from] super::ConnectError),
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error("{0}")]
    Answer(String),
    #[error("no answer in time")]
    TimedOut,
}

impl Target {
    async fn follow(self, gate: Rc<Semaphore>, metrics: Arc<Metrics>) {
        let milliseconds = |milliseconds: u32| Duration::from_millis(milliseconds.into());
        let (interval, timeout) =
            (milliseconds(self.check.interval_milliseconds), milliseconds(self.check.timeout_milliseconds));
        let mut streak = Streak::default();
        // Not all at once, when many come together.
        tokio::time::sleep(interval.mul_f64(fastrand::f64())).await;
        loop {
            let place = gate.acquire().await;
            let asked = tokio::time::timeout(timeout, self.ask()).await.unwrap_or(Err(Unwell::TimedOut));
            drop(place);
            metrics.health_checks.fetch_add(1, Ordering::Relaxed);
            if asked.is_err() {
                metrics.health_checks_failed.fetch_add(1, Ordering::Relaxed);
            }
            let healthy = streak.note(asked.is_ok(), &self.check);
            if self.endpoint.health.checked(healthy) {
                let (backend, endpoint) = (&self.backend, &self.endpoint.label);
                match asked {
                    Ok(()) => tracing::info!(%backend, %endpoint, "its health checks pass"),
                    Err(error) => tracing::warn!(%backend, %endpoint, %error, "its health checks fail"),
                }
            }
            tokio::time::sleep(interval).await;
        }
    }

    async fn ask(&self) -> Result<(), Unwell> {
        match &self.check.kind {
            // TLS too would be a handshake each time; who wants it asks for an answer.
            CheckKind::Tcp => {
                dial(&self.endpoint, None).await?;
                Ok(())
            }
            CheckKind::Http { path, host } => {
                let host = host.as_deref().unwrap_or(&self.endpoint.label);
                let request = Request::builder().method(Method::GET).header(header::USER_AGENT, AGENT);
                let (response, _driven) = self.send(request, (host, path), Bytes::new(), false).await?;
                let status = response.status();
                let well = status.is_success() || status.is_redirection();
                if well { Ok(()) } else { Err(Unwell::Answer(format!("it answered {status}"))) }
            }
            CheckKind::Grpc { service } => {
                let request = Request::builder()
                    .method(Method::POST)
                    .header(header::USER_AGENT, AGENT)
                    .header(header::TE, "trailers")
                    .header(header::CONTENT_TYPE, "application/grpc");
                let message = grpc_request(service);
                let (response, _driven) = self.send(request, (&self.endpoint.label, GRPC_PATH), message, true).await?;
                let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
                let body = body.map_err(|error| Unwell::Answer(error.to_string()))?.to_bytes();
                let serves = is_serving(&body);
                if serves { Ok(()) } else { Err(Unwell::Answer("it does not say that it serves".to_owned())) }
            }
        }
    }

    /// Sends over a connection of its own, which ends with the task: an endpoint that takes no new ones is not well.
    async fn send(
        &self,
        request: http::request::Builder,
        (host, path): (&str, &str),
        body: Bytes,
        needs_http2: bool,
    ) -> Result<(Response<Incoming>, Task), Unwell> {
        // As for requests, TLS endpoints choose, but for those that are to speak HTTP/1.1.
        let only_http1 = self.protocol == Protocol::TlsHttp1 && !needs_http2;
        let tls = self.tls.as_ref().map(|tls| if only_http1 { &tls.http1 } else { &tls.any });
        let (io, chosen) = dial(&self.endpoint, tls).await?;
        let io = TokioIo::new(io);
        let invalid = |error: http::Error| Unwell::Answer(error.to_string());
        if chosen || tls.is_none() && (needs_http2 || self.protocol == Protocol::H2c) {
            let scheme = if tls.is_some() { "https" } else { "http" };
            let request = request.uri(format!("{scheme}://{host}{path}")).version(Version::HTTP_2);
            let request = request.body(Full::new(body)).map_err(invalid)?;
            let (mut sender, connection) = http2::handshake(LocalExecutor, io).await?;
            let driven = Task(spawn_local(connection).abort_handle());
            return Ok((sender.send_request(request).await?, driven));
        }
        if needs_http2 {
            return Err(Unwell::Connect(super::ConnectError::Tcp(io::Error::other("it does not speak HTTP/2"))));
        }
        let request = request.uri(path).header(header::HOST, host).body(Full::new(body)).map_err(invalid)?;
        let (mut sender, connection) = http1::handshake(io).await?;
        let driven = Task(spawn_local(connection).abort_handle());
        Ok((sender.send_request(request).await?, driven))
    }
}

/// A task that ends with whoever began it.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What an endpoint answered lately.
#[derive(Debug, Default)]
struct Streak {
    unwell: bool,
    /// Answers in a row that say otherwise.
    row: u32,
}

impl Streak {
    /// Whether the endpoint counts as healthy now.
    fn note(&mut self, passed: bool, check: &Check) -> bool {
        let enough = if self.unwell { check.healthy } else { check.unhealthy };
        self.row = if passed == self.unwell { self.row + 1 } else { 0 };
        if self.row >= enough {
            (self.unwell, self.row) = (!self.unwell, 0);
        }
        !self.unwell
    }
}

/// A gRPC message (five bytes of prefix) of a `HealthCheckRequest`, whose first field is the service's name.
fn grpc_request(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        message.extend(varint(service.len()));
        message.extend(service.bytes());
    }
    let length = u32::try_from(message.len()).expect("an annotation has less than 4 GB");
    [&[0][..], &length.to_be_bytes(), &message].concat().into()
}

/// A number as protobuf has it: seven bits a byte, the lowest first, with a mark on all but the last.
fn varint(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
    bytes
}

/// Whether a gRPC message is a `HealthCheckResponse` whose first field is SERVING, 1.
fn is_serving(mut message: &[u8]) -> bool {
    let prefixed = message.len() >= 5 && message.get_u8() == 0;
    prefixed && message.get_u32() as usize == message.len() && message.starts_with(&[0x08, 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_answers_in_a_row_change_what_an_endpoint_counts_as() {
        let check =
            Check { kind: CheckKind::Tcp, interval_milliseconds: 1, timeout_milliseconds: 1, healthy: 2, unhealthy: 3 };
        let mut streak = Streak::default();
        let mut note = |answers: &str| answers.chars().map(|it| streak.note(it == '+', &check)).collect::<Vec<_>>();
        assert_eq!(note("+--+--"), [true; 6]);
        assert_eq!(note("-"), [false]);
        assert_eq!(note("+-+"), [false; 3]);
        assert_eq!(note("+--"), [true; 3]);
    }

    #[test]
    fn grpc_messages_are_as_protobuf_has_them() {
        assert_eq!(&grpc_request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&grpc_request("a.B")[..], b"\x00\x00\x00\x00\x05\x0a\x03a.B");
        for (length, coded) in [(127, &[0x7f][..]), (128, &[0x80, 1]), (300, &[0xac, 2]), (16_384, &[0x80, 0x80, 1])] {
            let (service, message) = ("s".repeat(length), grpc_request(&"s".repeat(length)));
            let (prefix, message) = message.split_at(5);
            assert_eq!(prefix[1..], u32::try_from(message.len()).unwrap().to_be_bytes(), "{length}");
            assert_eq!(message, [&[0x0a], coded, service.as_bytes()].concat(), "{length}");
        }
        assert!(is_serving(&[0, 0, 0, 0, 2, 8, 1]));
        for other in [&[][..], &[0; 4], &[0; 5], &[0, 0, 0, 0, 2, 8, 2], &[0, 0, 0, 0, 3, 8, 1], &[1, 0, 0, 0, 2, 8, 1]]
        {
            assert!(!is_serving(other), "{other:?}");
        }
    }
}
