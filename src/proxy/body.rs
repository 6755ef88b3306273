//! The body of an answer, and the end of its exchange. An endpoint's body is hyper's own, passed on frame by
//! frame; whoever reads it drives the endpoint's connection, which goes back to the pool when it is complete.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::access_log::Record;
use super::activity::Activity;
use super::connection::Connection;
use super::error::Error;
use super::error_page::Page;
use super::headers;
use super::piece::Piece;
use crate::clock::{Timer, ticks};
use crate::metrics::RouteId;
use crate::table::Forwarding;
use crate::upstream::{BodyWatch, Http1, InFlight, Permit, Reads, SlotId};

/// What is known of a request and its answer. Dropping it ends the exchange: it is counted and logged, once.
pub struct Exchange {
    pub connection: Rc<Connection>,
    pub started: Instant,
    pub route: RouteId,
    pub status: u16,
    /// Beside those of a body: a tunnel's.
    pub request_bytes: u64,
    pub response_bytes: u64,
    /// The endpoint that has the request.
    pub endpoint: Option<SlotId>,
    pub watch: Option<Rc<BodyWatch>>,
    /// There is a body that nobody watches, and that is not read to its end.
    pub unread: bool,
    /// Counts it among its client's requests, where those are limited.
    pub permit: Option<Permit>,
    /// Its body is among the connection's that are read whole.
    whole_body: bool,
    /// Its place among its backend's requests, where those are limited.
    pub circuit: Option<InFlight>,
    /// What the rule says of it; nothing for most.
    pub forwarding: Option<Arc<Forwarding>>,
    /// What to ask the rule's default backend with, if it may come to that.
    pub page: Option<Box<Page>>,
    /// Only if there is an access log.
    pub record: Option<Box<Record>>,
    /// Why it ended, unless the answer was complete.
    pub reason: Option<&'static str>,
    pub complete: bool,
}

impl Exchange {
    /// In a box: it goes from hand to hand until the answer's body has ended.
    pub fn begin(connection: &Rc<Connection>, has_body: bool) -> Box<Self> {
        let worker = &connection.worker;
        worker.in_flight.set(worker.in_flight.get() + 1);
        connection.activity.request_begins();
        Box::new(Self {
            connection: connection.clone(),
            started: Instant::now(),
            route: RouteId::OTHER,
            status: 0,
            request_bytes: 0,
            response_bytes: 0,
            endpoint: None,
            watch: None,
            unread: has_body,
            permit: None,
            whole_body: false,
            circuit: None,
            forwarding: None,
            page: None,
            record: None,
            reason: None,
            complete: false,
        })
    }

    /// Longest time to connect to an endpoint, now.
    pub fn connect_timeout(&self) -> Duration {
        let own = self.forwarding.as_ref().and_then(|forwarding| forwarding.rule.connect_timeout_seconds);
        let usual = self.connection.worker.settings.pools.connect_timeout;
        let limit = own.map_or(usual, |seconds| Duration::from_secs(seconds.into()));
        self.time_left().map_or(limit, |left| limit.min(left))
    }

    /// Longest time from the request's head to the answer's, if the rule has one.
    pub fn request_timeout(&self) -> Option<Duration> {
        let own = self.forwarding.as_ref()?.rule.request_timeout_milliseconds?;
        Some(Duration::from_millis(own.into()))
    }

    /// What is left of it.
    pub fn time_left(&self) -> Option<Duration> {
        Some(self.request_timeout()?.saturating_sub(self.started.elapsed()))
    }

    pub fn is_late(&self) -> bool {
        self.time_left().is_some_and(|left| left.is_zero())
    }

    /// Longest time between two reads of the answer, in ticks.
    pub fn read_timeout(&self) -> u64 {
        let own = self.forwarding.as_ref().and_then(|forwarding| forwarding.rule.read_timeout_seconds);
        own.map_or(self.connection.worker.settings.upstream_read_timeout, seconds_in_ticks)
    }

    /// Longest time for the answer's head, in ticks: that of one try, if the rule has another for it.
    pub fn head_timeout(&self) -> u64 {
        let own = self.forwarding.as_ref().and_then(|forwarding| forwarding.rule.try_timeout_milliseconds);
        let own = own.map(|milliseconds| ticks(Duration::from_millis(milliseconds.into())));
        own.map_or_else(|| self.read_timeout(), |own| own.min(self.read_timeout()))
    }

    /// Longest time between two writes of the request, in ticks.
    pub fn write_timeout(&self) -> u64 {
        let own = self.forwarding.as_ref().and_then(|forwarding| forwarding.rule.send_timeout_seconds);
        own.map_or(self.connection.worker.settings.upstream_write_timeout, seconds_in_ticks)
    }

    /// Longest time that a tunnel may be silent, in ticks.
    pub fn tunnel_idle_timeout(&self) -> u64 {
        let own = self.forwarding.as_ref().and_then(|forwarding| forwarding.rule.read_timeout_seconds);
        own.map_or(self.connection.worker.settings.tunnel_idle_timeout, seconds_in_ticks)
    }

    /// Counts the body among its connection's that are read whole, until the exchange ends.
    pub fn holds_body(&mut self) {
        self.whole_body = true;
        let bodies = &self.connection.whole_bodies;
        bodies.set(bodies.get() + 1);
    }

    /// Has the request's body watched from now on.
    pub fn watches(&mut self, watch: Option<Rc<BodyWatch>>) {
        (self.watch, self.unread) = (watch, false);
    }

    /// Whether an HTTP/1 client's connection is to end with this exchange. What is left of a body would be taken for a
    /// request by somebody. And hyper takes an empty line that LF ends for the last of the trailers, and throws away
    /// what stands between it and the next one that CRLF ends: whoever reads that for a request is to hear that it was
    /// none.
    pub fn ends_connection(&self) -> bool {
        let watched = |watch: &Rc<BodyWatch>| !watch.ended.get() || watch.trailed.get();
        !self.connection.activity.is_http2() && (self.unread || self.watch.as_ref().is_some_and(watched))
    }

    /// The endpoint is done with the request.
    pub fn leave_endpoint(&mut self) {
        if let Some(endpoint) = self.endpoint.take() {
            let answered = self.status != 0 && !is_failure(self.status);
            self.connection.worker.pools.end(endpoint, answered);
        }
    }
}

/// Whether a status says that the endpoint could not answer (RFC 9110, 15.6.3 to 15.6.5).
pub fn is_failure(status: u16) -> bool {
    matches!(status, 502..=504)
}

fn seconds_in_ticks(seconds: u32) -> u64 {
    ticks(Duration::from_secs(seconds.into()))
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.leave_endpoint();
        if self.ends_connection() {
            self.connection.ends.set(true);
        }
        let worker = &self.connection.worker;
        worker.in_flight.set(worker.in_flight.get() - 1);
        self.connection.activity.request_ends();
        if self.whole_body {
            let bodies = &self.connection.whole_bodies;
            bodies.set(bodies.get() - 1);
        }
        let duration = self.started.elapsed();
        let status = match self.status {
            0 if std::thread::panicking() => 500,
            // A client that left before there was an answer; nginx's number for it, counted among 4xx.
            0 => 499,
            status => status,
        };
        worker.cells.request(self.route, status, duration);
        let request_bytes = self.request_bytes + self.watch.as_ref().map_or(0, |watch| watch.bytes.get());
        worker.cells.request_bytes.add(request_bytes);
        worker.cells.response_bytes.add(self.response_bytes);
        if let (Some(mut record), Some(log)) = (self.record.take(), &worker.log) {
            let facts = &mut record.facts;
            facts.status = status;
            facts.duration = duration;
            facts.request_bytes = request_bytes;
            facts.response_bytes = self.response_bytes;
            let termination = if self.complete { "complete" } else { "client_left" };
            facts.termination = self.reason.unwrap_or(if std::thread::panicking() { "panicked" } else { termination });
            log.log(record);
        }
    }
}

/// Why a body ended early; the client's connection is closed, so that it can tell.
#[derive(Debug, thiserror::Error)]
pub enum ResponseError {
    #[error("the endpoint's answer broke off")]
    Upstream(#[source] hyper::Error),
    #[error("the endpoint stopped sending its answer")]
    TimedOut,
}

/// Data frames below this many bytes are joined with those behind them, and how many are.
const SMALL_BYTES: usize = 1024;
const JOINED_FRAMES_MAX: usize = 256;

/// Answers that a worker may read in large pieces at the same time; the others are read in medium ones, so that all who
/// leave what they asked for pin no more than this many large pieces, twice.
const LARGE_MAX: u32 = 64;

/// One of them.
struct Large(Rc<Connection>);

impl Large {
    fn take(client: &Rc<Connection>, connection: &Http1) -> Option<Self> {
        let count = &client.worker.large_answers;
        if count.get() >= LARGE_MAX {
            return None;
        }
        count.set(count.get() + 1);
        connection.flow.read(Reads::Large);
        Some(Self(client.clone()))
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        let count = &self.0.worker.large_answers;
        count.set(count.get() - 1);
    }
}

/// The body of an answer.
pub struct ResponseBody {
    source: Source,
    /// `None` for a 101, whose exchange goes on in the tunnel.
    exchange: Option<Box<Exchange>>,
    /// Its place among the bodies of an HTTP/2 connection.
    place: Option<usize>,
    /// It may be read in large pieces.
    large: Option<Large>,
    /// What came behind small frames that were joined.
    next: Option<Box<Result<Frame<Bytes>, ResponseError>>>,
}

enum Source {
    /// One of our own, or an endpoint's without content.
    Whole(Bytes),
    Endpoint {
        incoming: Incoming,
        connection: Option<Box<Http1>>,
        _stream: Option<Rc<()>>,
        timer: Timer,
        timeout: u64,
    },
}

impl ResponseBody {
    pub fn whole(bytes: Bytes, exchange: Option<Box<Exchange>>) -> Self {
        Self { source: Source::Whole(bytes), exchange, place: None, large: None, next: None }
    }

    /// An endpoint's; `connection` is the HTTP/1.1 connection it still comes over, or its place on a shared one, and `timeout` the longest
    /// time between two reads, in ticks.
    pub fn endpoint(
        incoming: Incoming,
        (connection, stream): (Option<Box<Http1>>, Option<Rc<()>>),
        timer: Timer,
        timeout: u64,
        mut exchange: Box<Exchange>,
    ) -> Self {
        timer.clear();
        // hyper never asks for a body that is known to be empty.
        exchange.complete = incoming.is_end_stream();
        let place = exchange.connection.activity.body_begins();
        let is_large = place.is_none() && incoming.size_hint().lower() > Reads::Medium.bytes() as u64;
        let large = match &connection {
            Some(connection) if is_large => Large::take(&exchange.connection, connection),
            Some(_) | None => None,
        };
        Self {
            source: Source::Endpoint { incoming, connection, _stream: stream, timer, timeout },
            exchange: Some(exchange),
            place,
            large,
            next: None,
        }
    }

    /// Whether it is already clear that an HTTP/1 client's connection ends with it: an endpoint may answer a request
    /// whose body is on its way, which then may come to its end as it should.
    pub fn ends_connection(&self) -> bool {
        let Some(exchange) = &self.exchange else { return false };
        match &self.source {
            Source::Whole(_) => exchange.ends_connection(),
            Source::Endpoint { .. } => exchange.watch.as_ref().is_some_and(|watch| watch.trailed.get()),
        }
    }

    /// The whole body has gone by: the connection is free, and the exchange complete. Behind trailers, of which hyper
    /// reads more than others would, nothing is trusted to be the next answer.
    fn complete(&mut self, trailed: bool) {
        let Some(exchange) = &mut self.exchange else { return };
        exchange.complete = true;
        if let Source::Endpoint { connection, .. } = &mut self.source
            && let Some(connection) = connection.take()
            && let Some(endpoint) = exchange.endpoint.filter(|_| !trailed)
        {
            exchange.connection.worker.pools.release(endpoint, connection);
        }
        exchange.leave_endpoint();
    }

    fn fail(
        &mut self,
        reason: &'static str,
        error: ResponseError,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseError>>> {
        if let Some(exchange) = &mut self.exchange {
            let fault = exchange.watch.as_ref().and_then(|watch| watch.fault.get());
            exchange.reason = Some(fault.map_or(reason, |fault| Error::from(fault).reason()));
        }
        Poll::Ready(Some(Err(error)))
    }

    fn poll_one(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ResponseError>>> {
        let Source::Endpoint { incoming, connection, timer, timeout, .. } = &mut self.source else {
            return self.poll_whole();
        };
        let polled = match connection {
            Some(connection) => {
                if connection.poll_drive().is_ready() {
                    connection.close();
                }
                // The body comes out of this connection, which wakes whoever waits for it.
                let polled = Pin::new(&mut *incoming).poll_frame(&mut Context::from_waker(Waker::noop()));
                if polled.is_pending() {
                    connection.wait(context);
                }
                polled
            }
            None => Pin::new(&mut *incoming).poll_frame(context),
        };
        let ended = incoming.is_end_stream();
        match polled {
            Poll::Pending if timer.has_passed() => self.fail("upstream_body_timeout", ResponseError::TimedOut),
            Poll::Pending => {
                if !timer.is_set() {
                    timer.set(*timeout);
                }
                timer.register(context);
                self.waits(false);
                Poll::Pending
            }
            Poll::Ready(Some(Ok(mut frame))) => {
                timer.clear();
                if let Some(connection) = connection
                    && connection.flow.overfills(Reads::Medium)
                    && let Some(exchange) = &self.exchange
                {
                    self.large = Large::take(&exchange.connection, connection);
                }
                if let Some(trailers) = frame.trailers_mut() {
                    headers::clean_trailers(trailers);
                }
                if let (Some(exchange), Some(data)) = (&mut self.exchange, frame.data_ref()) {
                    exchange.response_bytes += data.len() as u64;
                }
                // hyper asks for nothing behind the trailers.
                if ended || frame.is_trailers() {
                    self.complete(frame.is_trailers());
                }
                self.waits(true);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => self.fail("upstream_body_broken", ResponseError::Upstream(error)),
            Poll::Ready(None) => {
                self.complete(false);
                Poll::Ready(None)
            }
        }
    }

    /// Small data, and what is here already of the small data behind it: each frame is a write otherwise, and a chunk.
    fn join(&mut self, first: Bytes, context: &mut Context<'_>) -> Bytes {
        let mut joined = BytesMut::new();
        for _ in 1..JOINED_FRAMES_MAX {
            if self.is_end_stream() {
                break;
            }
            match self.poll_one(context) {
                Poll::Ready(Some(Ok(frame))) if frame.data_ref().is_some_and(is_small) => {
                    if joined.is_empty() {
                        joined.extend_from_slice(&first);
                    }
                    joined.extend_from_slice(&frame.into_data().unwrap_or_default());
                }
                Poll::Ready(Some(other)) => {
                    self.next = Some(Box::new(other));
                    break;
                }
                Poll::Ready(None) => break,
                Poll::Pending => {
                    // Whoever has something to write does not wait for the endpoint yet.
                    if let Source::Endpoint { timer, .. } = &self.source {
                        timer.clear();
                    }
                    self.waits(true);
                    break;
                }
            }
        }
        if joined.is_empty() { first } else { joined.freeze() }
    }

    fn poll_whole(&mut self) -> Poll<Option<Result<Frame<Bytes>, ResponseError>>> {
        let Source::Whole(bytes) = &mut self.source else { return Poll::Ready(None) };
        let bytes = std::mem::take(bytes);
        if let Some(exchange) = &mut self.exchange {
            exchange.response_bytes += bytes.len() as u64;
            exchange.complete = true;
        }
        Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
    }

    /// Notes whom the body waits for.
    fn waits(&self, for_client: bool) {
        if let Some((place, activity)) = self.place() {
            activity.body_waits(place, for_client);
        }
    }

    fn place(&self) -> Option<(usize, &Rc<Activity>)> {
        self.place.zip(self.exchange.as_ref()).map(|(place, exchange)| (place, &exchange.connection.activity))
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ResponseError>>> {
        if let Some(next) = self.next.take() {
            return Poll::Ready(Some(*next));
        }
        let polled = self.poll_one(context);
        match polled {
            Poll::Ready(Some(Ok(frame))) if frame.data_ref().is_some_and(is_small) && !self.is_end_stream() => {
                let data = frame.into_data().unwrap_or_default();
                Poll::Ready(Some(Ok(Frame::data(self.join(data, context)))))
            }
            polled => polled,
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if let Some((place, activity)) = self.place() {
            activity.body_ends(place);
        }
    }
}

fn is_small(data: &Bytes) -> bool {
    data.len() < SMALL_BYTES
}

impl Body for ResponseBody {
    type Data = Piece;
    type Error = ResponseError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, ResponseError>>> {
        let this = self.get_mut();
        if this.place().is_some_and(|(place, activity)| !activity.may_take(place, context)) {
            return Poll::Pending;
        }
        let next = this.poll_next(context);
        next.map_ok(|frame| frame.map_data(|data| Piece::new(data, this.place())))
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Whole(bytes) => bytes.is_empty(),
            Source::Endpoint { incoming, .. } => self.next.is_none() && incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Endpoint { incoming, .. } => incoming.size_hint(),
        }
    }
}
