//! The body of a request on its way upstream: hyper's own, counted and timed. What goes wrong on the client's
//! side is noted where the forwarding side finds it, so that a client's fault is never blamed on an endpoint.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::clock::{Clock, Timer};

/// Fields that must be known before the body, beside those of a prefix.
const DECISIVE: [&str; 17] = [
    "authorization",
    "connection",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "max-forwards",
    "proxy",
    "range",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-real-ip",
    "x-request-id",
];

/// Why a request body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the client's request body is broken")]
    Client(#[source] hyper::Error),
    #[error("the client stopped sending its request body")]
    TimedOut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFault {
    Broken,
    TimedOut,
}

/// What the two sides of a streaming request know of its body.
#[derive(Debug)]
pub struct BodyWatch {
    pub bytes: Cell<u64>,
    pub ended: Cell<bool>,
    /// The client was asked for more and has not sent it yet.
    pub waiting: Cell<bool>,
    pub fault: Cell<Option<BodyFault>>,
    timer: Timer,
    /// Longest time between two reads, in ticks.
    timeout: u64,
}

/// The body of a request that goes upstream.
#[derive(Debug)]
pub enum RequestBody {
    Empty,
    Streaming { incoming: Incoming, watch: Rc<BodyWatch> },
}

impl RequestBody {
    /// `timeout` is the longest time between two reads from the client, in ticks.
    pub fn new(incoming: Incoming, clock: &Rc<Clock>, timeout: u64) -> Self {
        if incoming.is_end_stream() {
            return Self::Empty;
        }
        let watch = BodyWatch {
            bytes: Cell::new(0),
            ended: Cell::new(false),
            waiting: Cell::new(false),
            fault: Cell::new(None),
            timer: clock.timer(),
            timeout,
        };
        Self::Streaming { incoming, watch: Rc::new(watch) }
    }

    pub fn watch(&self) -> Option<Rc<BodyWatch>> {
        match self {
            Self::Empty => None,
            Self::Streaming { watch, .. } => Some(watch.clone()),
        }
    }
}

impl BodyWatch {
    fn observe(
        &self,
        polled: Poll<Option<Result<Frame<Bytes>, hyper::Error>>>,
        context: &Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match polled {
            Poll::Pending if self.timer.has_passed() => {
                self.fault.set(Some(BodyFault::TimedOut));
                Poll::Ready(Some(Err(BodyError::TimedOut)))
            }
            Poll::Pending => {
                self.waiting.set(true);
                if !self.timer.is_set() {
                    self.timer.set(self.timeout);
                }
                self.timer.register(context);
                Poll::Pending
            }
            Poll::Ready(Some(Ok(mut frame))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    clean_trailers(trailers);
                }
                self.waiting.set(false);
                self.timer.clear();
                if let Some(data) = frame.data_ref() {
                    self.bytes.set(self.bytes.get() + data.len() as u64);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.fault.set(Some(BodyFault::Broken));
                Poll::Ready(Some(Err(BodyError::Client(error))))
            }
            Poll::Ready(None) => {
                self.waiting.set(false);
                self.timer.clear();
                self.ended.set(true);
                Poll::Ready(None)
            }
        }
    }
}

/// Takes away what no trailer may decide: framing, routing, who asks and with what right (RFC 9110, 6.5.1).
fn clean_trailers(trailers: &mut HeaderMap) {
    let decides = |name: &str| {
        name.starts_with("content-")
            || name.starts_with("x-forwarded-")
            || name.starts_with("proxy-")
            || name.contains('_')
            || DECISIVE.contains(&name)
    };
    let names: Vec<HeaderName> = trailers.keys().filter(|name| decides(name.as_str())).cloned().collect();
    for name in names {
        trailers.remove(name);
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Streaming { incoming, watch } => {
                let polled = Pin::new(&mut *incoming).poll_frame(context);
                let observed = watch.observe(polled, context);
                if incoming.is_end_stream() {
                    watch.ended.set(true);
                }
                observed
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streaming { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Streaming { incoming, .. } => incoming.size_hint(),
        }
    }
}
