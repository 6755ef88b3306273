//! The body of a request on its way upstream: hyper's own, counted and timed. What goes wrong on the client's
//! side is noted where the forwarding side finds it, so that a client's fault is never blamed on an endpoint. Where a
//! rule asks for it, it is read whole first.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::io::Flow;
use super::whole::{Room, Store, Whole};
use crate::clock::{Clock, TICKS_PER_SECOND, Timer};

/// How long a client may be waited for before its bytes are counted against the time, in ticks: a connection that was
/// lost and found has begun again by then.
const GRACE: u64 = 5 * TICKS_PER_SECOND;

/// Fields that must be known before the body, beside those of a prefix.
const DECISIVE: [&str; 24] = [
    "authorization",
    "cache-control",
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
    "ssl-client-cert",
    "ssl-client-issuer-dn",
    "ssl-client-subject-dn",
    "ssl-client-verify",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-original-url",
    "x-real-ip",
    "x-request-id",
    "x-rewrite-url",
];

/// Why a request body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the client's request body is broken")]
    Client(#[source] hyper::Error),
    #[error("the client stopped sending its request body")]
    TimedOut,
    #[error("the request body is longer than its rule allows")]
    TooLarge,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFault {
    Broken,
    TimedOut,
    TooLarge,
}

/// How long a client may take for its body, or for its answer.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Longest time without a byte, in ticks.
    pub timeout: u64,
    /// On average, over the time that it was waited for and no other; 0 is no limit.
    pub bytes_per_second_min: u64,
}

/// What the two sides of a streaming request know of its body.
#[derive(Debug)]
pub struct BodyWatch {
    pub bytes: Cell<u64>,
    pub ended: Cell<bool>,
    /// The client was asked for more and has not sent it yet.
    pub waiting: Cell<bool>,
    pub fault: Cell<Option<BodyFault>>,
    /// Trailers came behind it.
    pub trailed: Cell<bool>,
    /// Of the HTTP/1.1 connection that it goes over.
    flow: RefCell<Option<Rc<Flow>>>,
    timer: Timer,
    /// When the client began to be waited for, and how long it was before that, in ticks.
    since: Cell<u64>,
    waited: Cell<u64>,
    pace: Pace,
    bytes_max: u64,
}

/// The body of a request that goes upstream.
#[derive(Debug)]
pub enum RequestBody {
    Empty,
    Streaming {
        incoming: Incoming,
        watch: Rc<BodyWatch>,
    },
    /// Read before an endpoint was chosen, and to be sent as often as it takes.
    Whole(Whole),
    /// Read before, as far as there was room.
    Begun(Box<Begun>),
}

/// A body of which a part was read.
#[derive(Debug)]
pub struct Begun {
    /// What was read, last first.
    read: Vec<Bytes>,
    _room: Room,
    incoming: Incoming,
    watch: Rc<BodyWatch>,
}

impl RequestBody {
    pub fn new(incoming: Incoming, clock: &Rc<Clock>, pace: Pace, bytes_max: u64) -> Self {
        if incoming.is_end_stream() {
            return Self::Empty;
        }
        let watch = BodyWatch {
            bytes: Cell::new(0),
            ended: Cell::new(false),
            waiting: Cell::new(false),
            fault: Cell::new(None),
            trailed: Cell::new(false),
            flow: RefCell::default(),
            timer: clock.timer(),
            since: Cell::new(0),
            waited: Cell::new(0),
            pace,
            bytes_max,
        };
        Self::Streaming { incoming, watch: Rc::new(watch) }
    }

    pub fn watch(&self) -> Option<Rc<BodyWatch>> {
        match self {
            Self::Empty | Self::Whole(_) => None,
            Self::Streaming { watch, .. } => Some(watch.clone()),
            Self::Begun(begun) => Some(begun.watch.clone()),
        }
    }

    /// The same, to be sent once more; `None` if it is not kept.
    pub fn again(&self) -> Option<Self> {
        match self {
            Self::Empty => Some(Self::Empty),
            Self::Whole(whole) => Some(Self::Whole(whole.again())),
            Self::Streaming { .. } | Self::Begun(_) => None,
        }
    }

    /// Reads a body that streams to its end, as long as there is room for it, at most this many bytes. What does not fit streams on behind
    /// what was read. Trailers end with the body: a whole one has a length, and nothing behind it.
    pub async fn read_whole(self, bytes_max: usize) -> Result<Self, BodyError> {
        let Self::Streaming { mut incoming, watch } = self else { return Ok(self) };
        let hint = incoming.size_hint();
        let mut store = Store::new(hint.exact().unwrap_or_else(|| hint.lower()), bytes_max);
        if !store.is_promising() {
            return Ok(Self::Streaming { incoming, watch });
        }
        loop {
            let frame = poll_fn(|context| {
                let polled = Pin::new(&mut incoming).poll_frame(context);
                watch.observe(polled, context)
            });
            let Some(frame) = frame.await.transpose()? else { return Ok(Self::Whole(store.whole())) };
            let Ok(data) = frame.into_data() else { continue };
            if !store.add(&data) {
                let (begin, room) = store.into_parts();
                return Ok(Self::Begun(Box::new(Begun { read: vec![data, begin], _room: room, incoming, watch })));
            }
        }
    }
}

impl BodyWatch {
    pub fn goes_over(&self, flow: &Rc<Flow>) {
        self.flow.replace(Some(flow.clone()));
    }

    /// Whether the endpoint is to take what it was sent, before the client is asked for more.
    fn is_held(&self) -> bool {
        let held = self.flow.borrow().as_ref().is_some_and(|flow| flow.holds());
        if held {
            // It is the endpoint that is waited for now.
            self.has_come();
        }
        held
    }

    fn observe(
        &self,
        polled: Poll<Option<Result<Frame<Bytes>, hyper::Error>>>,
        context: &Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match polled {
            Poll::Pending if self.is_late() => {
                self.fault.set(Some(BodyFault::TimedOut));
                Poll::Ready(Some(Err(BodyError::TimedOut)))
            }
            Poll::Pending => {
                self.timer.register(context);
                Poll::Pending
            }
            Poll::Ready(Some(Ok(mut frame))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    self.trailed.set(true);
                    clean_trailers(trailers);
                }
                self.has_come();
                if let Some(data) = frame.data_ref() {
                    self.bytes.set(self.bytes.get() + data.len() as u64);
                    if self.bytes.get() > self.bytes_max {
                        self.fault.set(Some(BodyFault::TooLarge));
                        return Poll::Ready(Some(Err(BodyError::TooLarge)));
                    }
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.fault.set(Some(BodyFault::Broken));
                Poll::Ready(Some(Err(BodyError::Client(error))))
            }
            Poll::Ready(None) => {
                self.has_come();
                self.ended.set(true);
                Poll::Ready(None)
            }
        }
    }

    /// The client is waited for from now on; whether it has been for long enough.
    fn is_late(&self) -> bool {
        if self.waiting.replace(true) {
            return self.timer.has_passed();
        }
        let Some(ticks) = self.pace.patience(self.bytes.get(), self.waited.get()) else { return true };
        self.since.set(self.timer.now());
        self.timer.set(ticks);
        false
    }

    /// The client is not waited for any more.
    fn has_come(&self) {
        if self.waiting.replace(false) {
            self.waited.set(self.waited.get() + self.timer.now() - self.since.get());
            self.timer.clear();
        }
    }
}

impl Pace {
    /// How long a client is waited for that sent so many bytes and was waited for so long before, in ticks; `None` if
    /// it is too slow already.
    pub fn patience(self, bytes: u64, waited: u64) -> Option<u64> {
        let Some(earned) = bytes.saturating_mul(TICKS_PER_SECOND).checked_div(self.bytes_per_second_min) else {
            return Some(self.timeout);
        };
        let left = earned.saturating_add(GRACE).checked_sub(waited).filter(|left| *left > 0)?;
        Some(left.min(self.timeout))
    }
}

/// Takes away what no trailer may decide: framing, routing, who asks and with what right (RFC 9110, 6.5.1).
fn clean_trailers(trailers: &mut HeaderMap) {
    let decides = |name: &str| {
        name.starts_with("content-")
            || name.starts_with("x-forwarded-")
            || name.starts_with("proxy-")
            || name.starts_with("if-")
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
        let (incoming, watch) = match self.get_mut() {
            Self::Empty => return Poll::Ready(None),
            Self::Whole(whole) => return Poll::Ready(whole.take().map(|data| Ok(Frame::data(data)))),
            Self::Streaming { incoming, watch } => (incoming, watch),
            Self::Begun(begun) => match begun.read.pop() {
                Some(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                None => (&mut begun.incoming, &mut begun.watch),
            },
        };
        if watch.is_held() {
            return Poll::Pending;
        }
        let polled = Pin::new(&mut *incoming).poll_frame(context);
        let observed = watch.observe(polled, context);
        if incoming.is_end_stream() {
            watch.ended.set(true);
        }
        observed
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streaming { incoming, .. } => incoming.is_end_stream(),
            Self::Whole(whole) => whole.left() == 0,
            Self::Begun(begun) => begun.read.is_empty() && begun.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Streaming { incoming, .. } => incoming.size_hint(),
            Self::Whole(whole) => SizeHint::with_exact(whole.left()),
            Self::Begun(begun) => {
                let read: u64 = begun.read.iter().map(|data| data.len() as u64).sum();
                let rest = begun.incoming.size_hint();
                let mut hint = SizeHint::new();
                hint.set_lower(rest.lower() + read);
                if let Some(upper) = rest.upper() {
                    hint.set_upper(upper + read);
                }
                hint
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_waited_for_has_to_earn_it_with_bytes() {
        let pace = |bytes_per_second_min| Pace { timeout: 600, bytes_per_second_min };
        assert_eq!(pace(0).patience(0, 1_000_000), Some(600), "without a limit");
        let slowest = pace(100);
        assert_eq!(slowest.patience(0, 0), Some(GRACE));
        assert_eq!(slowest.patience(0, GRACE - 1), Some(1));
        assert_eq!(slowest.patience(0, GRACE), None);
        assert_eq!(slowest.patience(100, GRACE), Some(TICKS_PER_SECOND));
        // A byte before each end of the other limit isn't enough for long.
        let last = (0..100).find(|byte| slowest.patience(*byte, byte * 599).is_none());
        assert_eq!(last, Some(1));
        // Who sent much may pause, but no longer than others.
        assert_eq!(slowest.patience(1 << 30, 1_000_000), Some(600));
    }
}
