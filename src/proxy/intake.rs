//! What a request goes through between its decision and an endpoint: how long its body may be, who its client has to
//! be, and whether the body is read whole first. All of it is a rule's to say; without it a request goes on at once,
//! and its body streams, whatever its length.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::{Body, Incoming};
use tokio::sync::Semaphore;

use super::body::ResponseBody;
use super::error::{Error, blame};
use super::error_page;
use super::exchange::Exchange;
use super::forward::{Failed, Plan, forward};
use super::handle::respond;
use super::large::Large;
use super::send::Outgoing;
use super::worker::Worker;
use crate::filter::{Answer, Login};
use crate::upstream::{Checked, Reads, RequestBody};

/// What bodies of one connection that are read whole may take together, in bytes, or one of them if it may have more;
/// further ones stream. They lie beside heads, and beside answers that nobody reads.
const WHOLE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// The request's body on its way, unless it says that it is longer than it may be.
pub fn accept_body(incoming: Incoming, exchange: &mut Exchange) -> Result<RequestBody, Error> {
    let worker = &exchange.connection.worker;
    let bytes_max = exchange.forwarding.as_ref().and_then(|forwarding| forwarding.rule.body_bytes_max);
    let bytes_max = bytes_max.unwrap_or(u64::MAX);
    let long = incoming.size_hint().lower() > Reads::Medium.bytes() as u64;
    if incoming.size_hint().lower() > bytes_max {
        return Err(Error::BodyTooLarge);
    }
    let body = RequestBody::new(incoming, &worker.clock, worker.settings.request_body, bytes_max);
    exchange.watches(body.watch());
    if long && !exchange.connection.activity.is_http2() {
        exchange.large = Large::request(&exchange.connection);
    }
    Ok(body)
}

/// What the heads may take together of those requests of an HTTP/2 connection that are under way, in KiB, but for small
/// ones; further ones wait, for so long at the most. A head takes two to four times its size until its answer has ended,
/// and there may be a hundred: these bound what they take, beside bodies and answers.
const LARGE_HEADS_KIB_MAX: usize = 640;
const SMALL_HEAD_BYTES: usize = 8 * 1024;
const TURN_TIMEOUT: Duration = Duration::from_secs(10);

/// What a request waits for before it goes on.
pub struct Waits {
    has_large_head: bool,
    /// Whether the client is who he says, which takes a while to find out.
    login: Option<Box<Login>>,
    whole_body: bool,
    /// Not before, but in the end: its rule may have a page for an error.
    page: bool,
}

impl Waits {
    /// `None` for most.
    pub fn of(plan: &mut Plan, request: Option<&Request<RequestBody>>, exchange: &Exchange) -> Option<Self> {
        let logins = &exchange.connection.worker.logins;
        let login = plan.login.take().filter(|login| !logins.knows(login));
        let whole_body = wants_whole(plan, request, exchange);
        let page = exchange.page.is_some();
        let has_large_head = exchange.head_bytes > SMALL_HEAD_BYTES;
        let waits = has_large_head || login.is_some() || whole_body || page;
        waits.then_some(Self { has_large_head, login, whole_body, page })
    }

    /// Waits, and forwards by the table of then.
    pub async fn forward(
        self,
        plan: Plan,
        request: &mut Outgoing,
        wants_body: bool,
        exchange: Box<Exchange>,
    ) -> Result<Response<ResponseBody>, Failed> {
        let page = self.page;
        match self.forwarded(plan, request, wants_body, exchange).await {
            Err((error, exchange)) if page => error_page::instead(error, exchange).await,
            answered => answered,
        }
    }

    /// Nobody who isn't let in has his body read.
    async fn forwarded(
        self,
        plan: Plan,
        request: &mut Outgoing,
        wants_body: bool,
        mut exchange: Box<Exchange>,
    ) -> Result<Response<ResponseBody>, Failed> {
        let worker = exchange.connection.worker.clone();
        if self.has_large_head
            && let Err(error) = take_turn(&mut exchange).await
        {
            return Err((error, exchange));
        }
        if let Some(login) = self.login
            && let Some(answer) = check(&worker, login).await
        {
            return respond(answer, wants_body, exchange);
        }
        if self.whole_body
            && let Err(error) = read_whole(request, &mut exchange).await
        {
            return Err((error, exchange));
        }
        forward(worker.table(), plan, request, exchange).await
    }
}

/// Waits until there is room for a large head beside those of its connection that are under way.
async fn take_turn(exchange: &mut Exchange) -> Result<(), Error> {
    let all = exchange.connection.large_heads.get_or_init(|| Arc::new(Semaphore::new(LARGE_HEADS_KIB_MAX)));
    let size = u32::try_from(exchange.head_bytes.div_ceil(1024).min(LARGE_HEADS_KIB_MAX)).unwrap_or(u32::MAX);
    let limit = exchange.time_left().map_or(TURN_TIMEOUT, |left| left.min(TURN_TIMEOUT));
    let taking = all.clone().acquire_many_owned(size);
    match tokio::time::timeout(limit, taking).await {
        Ok(taken) => exchange.turn = taken.ok(),
        Err(_) if exchange.is_late() => return Err(Error::RequestTimeout),
        Err(_) => return Err(Error::Overloaded),
    }
    Ok(())
}

/// The answer to somebody who isn't who he says, or can't be looked at now.
async fn check(worker: &Worker, login: Box<Login>) -> Option<Answer> {
    let refusal = login.refusal();
    match worker.logins.check(login).await {
        Checked::Passes => None,
        Checked::Fails => Some(refusal),
        Checked::Busy => Some(Answer {
            status: StatusCode::SERVICE_UNAVAILABLE,
            headers: vec![
                (header::RETRY_AFTER, HeaderValue::from_static("1")),
                (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
            ],
            text: "too many passwords are being checked",
            reason: "overloaded",
        }),
    }
}

/// Whether the body is read before an endpoint is chosen: never where both sides talk at once.
fn wants_whole(plan: &Plan, request: Option<&Request<RequestBody>>, exchange: &Exchange) -> bool {
    let wanted = exchange.forwarding.as_ref().is_some_and(|forwarding| forwarding.rule.buffers_body);
    let grpc = |request: &Request<RequestBody>| {
        let kind = request.headers().get(header::CONTENT_TYPE);
        kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
    };
    wanted && plan.upgrade.is_none() && request.is_some_and(|request| !grpc(request))
}

/// Reads the body before an endpoint is chosen, as far as there is room.
async fn read_whole(request: &mut Outgoing, exchange: &mut Exchange) -> Result<(), Error> {
    let bytes_max = exchange.connection.worker.settings.whole_body_bytes_max;
    let left = WHOLE_BYTES_MAX.max(bytes_max).saturating_sub(exchange.connection.whole_bytes.get());
    let length = request.as_ref().and_then(|message| message.body().size_hint().exact());
    // Without a length it may have all that is left.
    let bytes_max = bytes_max.min(left);
    let room = length.map_or(bytes_max, |length| usize::try_from(length).unwrap_or(usize::MAX));
    if room > bytes_max || bytes_max == 0 {
        return Ok(());
    }
    let Some(mut message) = request.take() else { return Ok(()) };
    exchange.holds_body(room);
    let body = std::mem::replace(message.body_mut(), RequestBody::Empty);
    let reading = body.read_whole(room);
    let read = match exchange.time_left() {
        None => reading.await,
        Some(left) => tokio::time::timeout(left, reading).await.map_err(|_| Error::RequestTimeout)?,
    };
    let body = read.map_err(|_| blame(exchange, Error::ClientBodyBroken))?;
    if let RequestBody::Whole(whole) = &body {
        exchange.holds_body(whole.len());
        message.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(whole.len()));
        message.headers_mut().remove(header::TRAILER);
    }
    *message.body_mut() = body;
    *request = Some(message);
    Ok(())
}
