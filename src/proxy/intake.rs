//! A request's body before the request goes on: how long it may be, and whether it is read whole first. Both are a
//! rule's to say; without it a body streams, whatever its length.

use http::{HeaderValue, Request, header};
use hyper::body::{Body, Incoming};

use super::body::Exchange;
use super::error::{Error, blame};
use super::forward::Plan;
use super::send::Outgoing;
use crate::upstream::RequestBody;

/// The request's body on its way, unless it says that it is longer than it may be.
pub fn admit(incoming: Incoming, exchange: &mut Exchange) -> Result<RequestBody, Error> {
    let worker = &exchange.connection.worker;
    let bytes_max = exchange.forwarding.as_ref().and_then(|forwarding| forwarding.rule.body_bytes_max);
    let bytes_max = bytes_max.unwrap_or(u64::MAX);
    if incoming.size_hint().lower() > bytes_max {
        return Err(Error::BodyTooLarge);
    }
    let body = RequestBody::new(incoming, &worker.clock, worker.settings.request_body_timeout, bytes_max);
    exchange.watch = body.watch();
    Ok(body)
}

/// Whether the body is read before an endpoint is chosen: never where both sides talk at once.
pub fn wants_whole(plan: &Plan, request: Option<&Request<RequestBody>>, exchange: &Exchange) -> bool {
    let wanted = exchange.forwarding.as_ref().is_some_and(|forwarding| forwarding.rule.buffers_body);
    let grpc = |request: &Request<RequestBody>| {
        let kind = request.headers().get(header::CONTENT_TYPE);
        kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
    };
    wanted && plan.upgrade.is_none() && request.is_some_and(|request| !grpc(request))
}

/// Reads the body before an endpoint is chosen, as far as there is room.
pub async fn read_whole(request: &mut Outgoing, exchange: &Exchange) -> Result<(), Error> {
    let Some(mut message) = request.take() else { return Ok(()) };
    let body = std::mem::replace(message.body_mut(), RequestBody::Empty);
    let body = body.read_whole().await.map_err(|_| blame(exchange, Error::ClientBodyBroken))?;
    if let RequestBody::Whole(whole) = &body {
        message.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(whole.len()));
        message.headers_mut().remove(header::TRAILER);
    }
    *message.body_mut() = body;
    *request = Some(message);
    Ok(())
}
