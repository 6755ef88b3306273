//! One request over one connection: written as the connection's protocol needs it, sent, and waited for until
//! the head of its answer is there.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use http::uri::{Authority, Scheme};
use http::{HeaderValue, Method, Request, Response, Uri, Version, header};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;

use super::exchange::Exchange;
use super::framing;
use crate::clock::{Timer, ticks};
use crate::upstream::{Acquired, Http1, Http2, Reads, RequestBody};

/// A request until it is sent. It stays in one place, by reference: futures are moved, and with them all they hold.
pub type Outgoing = Option<Request<RequestBody>>;

/// An answer's head, and the connection that its body still comes over.
pub struct Answer {
    pub response: Response<Incoming>,
    pub connection: Option<Box<Http1>>,
    /// The place on a shared connection, taken until the body ends.
    pub stream: Option<Rc<()>>,
}

/// How sending failed.
pub enum SendError {
    /// Nothing was sent: the request is where it was.
    Unsent,
    /// It was sent, and the endpoint says that it did nothing with it (RFC 9113, 8.7).
    Refused,
    /// The connection broke before the answer's head was complete.
    Broken,
    Reset(h2::Reason),
    /// What came is not HTTP.
    Invalid,
    TimedOut,
}

/// Sends the request and waits for the head of its answer.
pub async fn send(
    acquired: Acquired,
    request: &mut Outgoing,
    timer: &Timer,
    exchange: &Exchange,
) -> Result<Answer, SendError> {
    match acquired {
        Acquired::Http1 { connection, .. } => send_http1(connection, request, timer, exchange).await,
        Acquired::Http2 { connection, .. } => send_http2(connection, request, timer, exchange).await,
    }
}

/// Sends over a connection that nobody else drives: each time this task is woken, the connection reads and
/// writes what it can.
async fn send_http1(
    mut connection: Box<Http1>,
    request: &mut Outgoing,
    timer: &Timer,
    exchange: &Exchange,
) -> Result<Answer, SendError> {
    let wait = Wait::begin(timer, exchange);
    if let Some(request) = request {
        to_http1(request);
    }
    let message = request.take().expect("a request is sent once, or comes back");
    let flow = connection.flow.clone();
    flow.begin(if exchange.connection.activity.is_http2() { Reads::Small } else { Reads::Medium });
    if let Some(watch) = &exchange.watch {
        watch.goes_over(&flow);
    }
    // Nobody but ourselves completes it, so that nobody has to wake us for it.
    let mut quiet = Context::from_waker(Waker::noop());
    let mut sending = pin!(connection.sender.try_send_request(message));
    let sent = poll_fn(|context| {
        let over = connection.poll_drive().is_ready();
        let mut polled = sending.as_mut().poll(&mut quiet);
        if over && polled.is_pending() {
            // hyper keeps a request that it has not begun to write until its connection is dropped.
            connection.close();
            polled = sending.as_mut().poll(&mut quiet);
        }
        if polled.is_pending() {
            connection.wait(context);
            if !tokio::task::coop::has_budget_remaining() {
                context.waker().wake_by_ref();
            }
        }
        wait.or_over(polled, context)
    })
    .await;
    match sent {
        None => Err(SendError::TimedOut),
        Some(Ok(mut response)) => {
            flow.has_head();
            // Otherwise the connection ends here: nobody can tell where the answer does.
            let framed = framing::is_response_framed(response.headers_mut());
            framed.then_some(Answer { response, connection: Some(connection), stream: None }).ok_or(SendError::Invalid)
        }
        Some(Err(_)) if flow.is_flooded() => Err(SendError::Invalid),
        Some(Err(error)) => Err(unsent_or_failed(error, request)),
    }
}

async fn send_http2(
    mut connection: Http2,
    request: &mut Outgoing,
    timer: &Timer,
    exchange: &Exchange,
) -> Result<Answer, SendError> {
    let wait = Wait::begin(timer, exchange);
    let ready = poll_fn(|context| wait.or_over(connection.sender.poll_ready(context), context));
    match ready.await {
        None => return Err(SendError::TimedOut),
        Some(Err(_)) => return Err(SendError::Unsent),
        Some(Ok(())) => {}
    }
    if let Some(request) = request {
        to_http2(request, exchange.connection.secure);
    }
    let message = request.take().expect("a request is sent once, or comes back");
    let mut sending = pin!(connection.sender.try_send_request(message));
    let sent = poll_fn(|context| wait.or_over(sending.as_mut().poll(context), context)).await;
    match sent {
        None => Err(SendError::TimedOut),
        Some(Ok(mut response)) => {
            let framed = framing::is_response_framed(response.headers_mut());
            let stream = Some(connection.stream.clone());
            framed.then_some(Answer { response, connection: None, stream }).ok_or(SendError::Invalid)
        }
        Some(Err(error)) => {
            let failed = unsent_or_failed(error, request);
            if let (SendError::Refused | SendError::Broken, Some(endpoint)) = (&failed, exchange.endpoint) {
                // No other request is to find out the same; those that are on it keep it.
                exchange.connection.worker.pools.forget_http2(endpoint, Some(&connection));
            }
            Err(failed)
        }
    }
}

fn unsent_or_failed(mut error: TrySendError<Request<RequestBody>>, request: &mut Outgoing) -> SendError {
    if let Some(message) = error.take_message() {
        *request = Some(message);
        return SendError::Unsent;
    }
    tracing::debug!(error = %error.error(), "the endpoint did not answer");
    if error.error().is_parse() {
        return SendError::Invalid;
    }
    let source = std::error::Error::source(error.error()).and_then(|source| source.downcast_ref::<h2::Error>());
    match source {
        // Told by a GOAWAY, a request is one that came behind the last that is answered.
        Some(error) if error.is_remote() && (error.is_go_away() || is_refused(error)) => SendError::Refused,
        // What came was no answer, and the stream or the connection was given up for it here.
        Some(error) if error.is_library() => SendError::Invalid,
        Some(error) if error.is_reset() => error.reason().map_or(SendError::Broken, SendError::Reset),
        Some(_) | None => SendError::Broken,
    }
}

fn is_refused(error: &h2::Error) -> bool {
    error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM)
}

/// Writes what HTTP/1.1 needs: a request that came back from HTTP/2 has its host in the target, and hyper gives
/// a GET no body unless it is told of one.
fn to_http1(request: &mut Request<RequestBody>) {
    if let Some(authority) = request.uri().authority() {
        let host = HeaderValue::from_str(authority.as_str()).expect("it was a field's value before");
        request.headers_mut().insert(header::HOST, host);
        *request.uri_mut() = request.uri().path_and_query().cloned().map_or_else(Uri::default, Uri::from);
        *request.version_mut() = Version::HTTP_11;
    }
    let without_body = matches!(*request.method(), Method::GET | Method::HEAD);
    if without_body && !request.body().is_end_stream() && !request.headers().contains_key(header::CONTENT_LENGTH) {
        request.headers_mut().insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// HTTP/2 has the host in `:authority` and the scheme beside it.
fn to_http2(request: &mut Request<RequestBody>, secure: bool) {
    request.headers_mut().remove(header::CONNECTION);
    request.headers_mut().remove(header::TRANSFER_ENCODING);
    let Some(host) = request.headers_mut().remove(header::HOST) else { return };
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    // HTTP/1.0 may name no host, and HTTP/2 has to: one that is nobody's (RFC 6761, 6.4).
    let host = if host.is_empty() { b"none.invalid" } else { host.as_bytes() };
    if let Ok(authority) = Authority::try_from(host) {
        parts.scheme = Some(if secure { Scheme::HTTPS } else { Scheme::HTTP });
        parts.authority = Some(authority);
    }
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    *request.version_mut() = Version::HTTP_2;
}

/// The wait for an answer's head. A request body on its way puts it off, as long as it moves.
struct Wait<'a> {
    timer: &'a Timer,
    exchange: &'a Exchange,
    read_timeout: u64,
    write_timeout: u64,
    seen: std::cell::Cell<u64>,
}

impl<'a> Wait<'a> {
    fn begin(timer: &'a Timer, exchange: &'a Exchange) -> Self {
        let wait = Self {
            timer,
            exchange,
            read_timeout: exchange.head_timeout(),
            write_timeout: exchange.write_timeout(),
            seen: std::cell::Cell::new(0),
        };
        timer.set(wait.timeout());
        wait
    }

    fn sending(&self) -> bool {
        self.exchange.watch.as_ref().is_some_and(|watch| !watch.ended.get())
    }

    fn timeout(&self) -> u64 {
        let usual = if self.sending() { self.write_timeout } else { self.read_timeout };
        self.exchange.time_left().map_or(usual, |left| usual.min(ticks(left)))
    }

    /// What was waited for, or `None` when it takes too long.
    fn or_over<T>(&self, polled: Poll<T>, context: &Context<'_>) -> Poll<Option<T>> {
        match polled {
            Poll::Ready(ready) => Poll::Ready(Some(ready)),
            Poll::Pending if self.is_over(context) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_over(&self, context: &Context<'_>) -> bool {
        self.timer.register(context);
        if !self.timer.has_passed() {
            return false;
        }
        if let Some(watch) = self.exchange.watch.as_ref().filter(|_| !self.exchange.is_late()) {
            let bytes = watch.bytes.get();
            let moved = self.seen.replace(bytes) != bytes;
            // While the client is asked for more, its own time limit counts.
            if moved || (self.sending() && watch.waiting.get()) {
                self.timer.set(self.timeout());
                return false;
            }
        }
        true
    }
}
