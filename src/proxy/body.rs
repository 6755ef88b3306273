//! The body of an answer. An endpoint's body is hyper's own, passed on frame by
//! frame; whoever reads it drives the endpoint's connection, which goes back to the pool when it is complete.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::activity::Activity;
use super::error::Error;
use super::exchange::Exchange;
use super::headers;
use super::large::Large;
use super::piece::Piece;
use crate::clock::Timer;
use crate::upstream::{Http1, Reads};

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
            Some(connection) if is_large => Large::answer(&exchange.connection, connection),
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
                    self.large = Large::answer(&exchange.connection, connection);
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

    /// Whether it takes no more of its endpoint's bytes before the client takes some.
    fn is_held(&self, context: &Context<'_>) -> bool {
        let Some(exchange) = &self.exchange else { return false };
        let activity = &exchange.connection.activity;
        match self.place {
            Some(place) => !activity.may_take(place, context),
            None => self.large.is_none() && activity.is_behind(exchange.response_bytes, context),
        }
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
        if this.is_held(context) {
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
