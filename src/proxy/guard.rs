//! Keeps a panic to the request that it happened in: that one is answered 500, and the worker goes on with the others.
//! One outside of requests costs its connection: the runtime keeps it to the connection's task, and here it is kept
//! from the task that accepts. A panic is a bug of ours. The process's hook counts it and logs its place; what it was
//! about may be a secret.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;

use super::body::ResponseBody;
use super::connection::Connection;
use super::handle::{Unanswered, handle};

/// Answers a request, whatever happens. What a request holds is let go when it panics, as if its client had left, and
/// nothing that other requests see is held across a wait: so it may be called safe.
pub async fn answer(
    connection: Rc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Unanswered> {
    let mut handling = pin!(handle(connection, request));
    std::future::poll_fn(|context| {
        let polled = catch_unwind(AssertUnwindSafe(|| handling.as_mut().poll(context)));
        polled.unwrap_or_else(|_| Poll::Ready(Ok(failed())))
    })
    .await
}

/// The answer to a request that panicked. What is left of it on an HTTP/1 connection is not read.
fn failed() -> Response<ResponseBody> {
    let text = Bytes::from_static(b"500 Internal Server Error: the request could not be handled\n");
    let length = HeaderValue::from(text.len());
    let mut response = Response::new(ResponseBody::whole(text, None));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_LENGTH, length);
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Does something about one connection; nothing if that panics.
pub fn contain<T>(act: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(act)).ok()
}

/// The path that a test told to panic at.
#[cfg(debug_assertions)]
pub fn panic_if_told(told: Option<&str>, request: &http::request::Parts) {
    assert!(told != Some(request.uri.path()), "told to panic by {:?}", request.headers);
}

/// The path that a test told to be slow at: nothing else happens on this thread meanwhile.
#[cfg(debug_assertions)]
pub fn stall_if_told(told: Option<&str>, request: &http::request::Parts) {
    if told == Some(request.uri.path()) {
        std::thread::sleep(2 * crate::clock::TICK);
    }
}

/// The client that a test told to panic for.
#[cfg(debug_assertions)]
pub fn panic_if_told_for(told: Option<std::net::IpAddr>, client: std::net::SocketAddr) {
    assert!(told != Some(client.ip()), "told to panic for {client}");
}
