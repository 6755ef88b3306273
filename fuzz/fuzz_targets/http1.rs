//! HTTP/1 messages, read twice. The bytes go through hyper's server and Portunus's own checks, set up as for a client's
//! connection, and through the plain reader of `strict`. Whatever Portunus would send on the plain reader has read
//! too, in the same place, with the same method, target and body; and what is then written for an endpoint is, read
//! without any patience, exactly that one message.
#![no_main]

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::service::service_fn;
use libfuzzer_sys::{Corpus, fuzz_target};
use portunus::proxy::{Limits, reading};
use portunus_fuzz::strict::{self, Rules};

/// As `--max-header-bytes` and its like are by default.
const LIMITS: Limits = Limits {
    header_bytes_max: 40 * 1024,
    header_count_max: 100,
    target_bytes_max: 16 * 1024,
    keeps_underscores: false,
};
/// More polls than any input of libFuzzer's length needs.
const POLLS_MAX: usize = 100_000;

/// What Portunus made of one request.
struct Understood {
    method: Method,
    /// As it was received, in origin form; `uri` is what is sent.
    target: String,
    host: HeaderValue,
    uri: Uri,
    headers: HeaderMap,
    chunked: bool,
    body: Vec<u8>,
    complete: bool,
}

/// A client that has sent all its bytes, which arrive in pieces, and reads nothing.
struct Client<'a> {
    bytes: &'a [u8],
    step: usize,
}

impl Read for Client<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut into: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        let count = self.bytes.len().min(self.step).min(into.remaining());
        into.put_slice(&self.bytes[..count]);
        self.bytes = &self.bytes[count..];
        Poll::Ready(Ok(()))
    }
}

impl Write for Client<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// An endpoint that keeps what it gets and never answers.
#[derive(Clone, Default)]
struct Endpoint(Rc<RefCell<Vec<u8>>>);

impl Read for Endpoint {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: ReadBufCursor<'_>) -> Poll<std::io::Result<()>> {
        Poll::Pending
    }
}

impl Write for Endpoint {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Portunus's reading, up to the first request that it refuses.
fn understand(bytes: &[u8], step: usize) -> Vec<Understood> {
    let all = RefCell::new(Vec::<Understood>::new());
    let refused = Cell::new(false);
    let service = service_fn(|request| answer(request, &all, &refused));
    // As in proxy/connection.rs.
    let connection = hyper::server::conn::http1::Builder::new()
        .max_header_size(64 * 1024)
        .max_buf_size(64 * 1024)
        .header_read_timeout(None)
        .serve_connection(Client { bytes, step }, service);
    {
        let mut connection = pin!(connection);
        let mut context = Context::from_waker(Waker::noop());
        let mut polls = 0;
        while connection.as_mut().poll(&mut context).is_pending() {
            polls += 1;
            assert!(polls < POLLS_MAX, "the connection never ends");
        }
    }
    all.into_inner()
}

/// What a request is for Portunus. Its body is taken as long as it comes.
async fn answer(
    request: Request<Incoming>,
    all: &RefCell<Vec<Understood>>,
    refused: &Cell<bool>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    assert!(!refused.get(), "a request is read behind one that closed the connection");
    let (mut head, mut incoming) = request.into_parts();
    let chunked = head.headers.contains_key(header::TRANSFER_ENCODING);
    let target = target(&head.uri);
    let Ok(host) = reading::request_head(&mut head, LIMITS) else {
        refused.set(true);
        let response = Response::builder().status(StatusCode::BAD_REQUEST).header(header::CONNECTION, "close");
        return Ok(response.body(Full::new(Bytes::new())).expect("an answer"));
    };
    let Parts { method, uri, headers, .. } = head;
    let index = all.borrow().len();
    let (body, complete) = (Vec::new(), false);
    all.borrow_mut().push(Understood { method, target, host, uri, headers, chunked, body, complete });
    while let Some(frame) = incoming.frame().await {
        let frame = frame.inspect_err(|_| refused.set(true))?;
        if let Ok(mut data) = frame.into_data() {
            let bytes = data.copy_to_bytes(data.remaining());
            all.borrow_mut()[index].body.extend_from_slice(&bytes);
        }
    }
    all.borrow_mut()[index].complete = true;
    Ok(Response::new(Full::new(Bytes::new())))
}

/// The target as it was read, without the fragment that hyper drops.
fn target(uri: &Uri) -> String {
    let target = uri.path_and_query().map_or("", |target| target.as_str());
    // A target in absolute form may have no path.
    if target.starts_with('?') { format!("/{target}") } else { target.to_owned() }
}

/// The path and query of a target as it was written.
fn path_of(target: &str) -> String {
    let target = target.split('#').next().unwrap_or_default();
    if target.starts_with('/') || target == "*" {
        return target.to_owned();
    }
    let Some((_, rest)) = target.split_once("://") else { return String::new() };
    match rest.find(['/', '?']) {
        Some(slash) if rest[slash..].starts_with('/') => rest[slash..].to_owned(),
        Some(query) => format!("/{}", &rest[query..]),
        None => "/".to_owned(),
    }
}

/// A plain reading of all requests, to the first that isn't whole; each with whether it is.
fn read_all(mut bytes: &[u8]) -> Vec<(strict::Request, bool)> {
    let mut all = Vec::new();
    while let Ok((request, length)) = strict::begun(bytes, Rules::Patient) {
        all.push((request, length.is_ok()));
        let Ok(length) = length else { break };
        bytes = &bytes[length..];
    }
    all
}

/// What is written for an endpoint.
fn forward(request: &Understood) -> Vec<u8> {
    let endpoint = Endpoint::default();
    let handshake = pin!(hyper::client::conn::http1::handshake(endpoint.clone()));
    let mut context = Context::from_waker(Waker::noop());
    let Poll::Ready(Ok((mut sender, connection))) = handshake.poll(&mut context) else { panic!("no handshake") };
    let mut connection = pin!(connection);
    let _ = connection.as_mut().poll(&mut context);
    let sending = pin!(sender.send_request(outgoing(request)));
    let _ = sending.poll(&mut context);
    for _ in 0..4 {
        let _ = connection.as_mut().poll(&mut context);
    }
    endpoint.0.take()
}

/// As proxy/forward.rs and proxy/send.rs have it, without what is added of the client.
fn outgoing(request: &Understood) -> Request<Once> {
    let bytes = Bytes::from(request.body.clone());
    let length_known = !request.chunked;
    let body = Once { bytes: Some(bytes).filter(|bytes| !bytes.is_empty()), length_known };
    let mut outgoing = Request::new(body);
    *outgoing.method_mut() = request.method.clone();
    *outgoing.uri_mut() = request.uri.clone();
    *outgoing.headers_mut() = request.headers.clone();
    outgoing.headers_mut().insert(header::HOST, request.host.clone());
    if request.chunked && matches!(request.method, Method::GET | Method::HEAD) {
        outgoing.headers_mut().insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    outgoing
}

/// A body of one piece, whose length is known before or not.
struct Once {
    bytes: Option<Bytes>,
    length_known: bool,
}

impl Body for Once {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.bytes.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.length_known && self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let length = self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
        if self.length_known { SizeHint::with_exact(length) } else { SizeHint::default() }
    }
}

fuzz_target!(|data: &[u8]| -> Corpus {
    let Some((step, bytes)) = data.split_first() else { return Corpus::Reject };
    let step = if *step == 0 { usize::MAX } else { usize::from(*step) };
    let ours = understand(bytes, step);
    let theirs = read_all(bytes);
    assert!(ours.len() <= theirs.len(), "{} requests are read, and there are {}", ours.len(), theirs.len());
    for (ours, (theirs, whole)) in ours.iter().zip(&theirs) {
        assert_eq!(ours.method.as_str(), theirs.method);
        assert_eq!(ours.target, path_of(&theirs.target), "the target");
        assert!(theirs.body.starts_with(&ours.body), "the body");
        assert!(!ours.complete || (*whole && ours.body == theirs.body), "the end of the body");
        if !ours.complete {
            continue;
        }
        let written = forward(ours);
        let text = String::from_utf8_lossy(&written);
        let (read, length) = strict::whole(&written, Rules::Strict).unwrap_or_else(|stop| panic!("{stop:?}: {text:?}"));
        assert_eq!(length, written.len(), "not one request: {text:?}");
        assert_eq!((&read.method, &read.body), (&theirs.method, &ours.body), "{text:?}");
        let query = |target: &str| target.split_once('?').map(|(_, query)| query.to_owned());
        let received = query(&ours.target).filter(|query| query.is_ascii());
        assert!(received.is_none() || received == query(&read.target), "another query: {text:?}");
    }
    Corpus::Keep
});
