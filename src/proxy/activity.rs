//! What a client connection waits for, and since when. Bytes and requests tell it, for a store each; the worker's
//! tick wakes the connection when it took too long, or long enough that its buffers are given back.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};

use super::worker::Worker;
use crate::clock::{Clock, Timer};
use crate::upstream::{Pace, Reads};

/// Ticks of idleness after which an HTTP/1 connection gives its buffers back: about a second.
const BUFFERS_TICKS: u64 = 10;

/// What of its answers an HTTP/2 connection holds in memory, in bytes, before bodies that hold some of it wait. One
/// that holds nothing takes a piece, so that clients who leave some streams alone are sent the others.
const HELD_BYTES_MAX: usize = 1024 * 1024;

/// What of an answer that is read in medium pieces waits to be written over HTTP/1, in bytes, before no more is read.
const WAITING_BYTES_MAX: u64 = 64 * 1024;

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    /// The first byte of a request.
    Idle,
    /// The same, without buffers.
    Resting,
    /// The rest of a request's head.
    Head,
    /// Us, or an endpoint, which has time limits of its own.
    Busy,
    /// The client, to read what we have for it.
    Write,
}

/// The body of an HTTP/2 answer.
#[derive(Debug, Default)]
struct Offer {
    /// It waits for the client to take what it was offered: since which tick, or 0.
    since: u64,
    /// Bytes that wait for the client's windows, or to be written.
    held: usize,
    /// It has ended; its place is free when nothing of it is held.
    over: bool,
    /// It waits for bytes to be let go.
    paused: Option<Waker>,
}

/// When bytes last moved, and what is waited for.
#[derive(Debug)]
pub struct Activity {
    waits: Cell<Waits>,
    timer: Timer,
    requests: Cell<u32>,
    /// Bytes that arrive need not be a request's: they may be pings.
    http2: Cell<bool>,
    /// hyper may do with the connection what it does at its end, but for closing it.
    pub stays_open: Cell<bool>,
    /// How much is read at once over HTTP/1.
    pub reads: Cell<Reads>,
    /// An HTTP/1 answer waits until the client has taken more of it.
    behind: RefCell<Option<Waker>>,
    /// Bytes from the client and to it.
    received: Cell<u64>,
    sent: Cell<u64>,
    /// Of what was sent, that before the requests that are under way, or were last; how long their client was waited
    /// for to read, and since when it is, in ticks.
    sent_before: Cell<u64>,
    waited: Cell<u64>,
    waits_since: Cell<u64>,
    offered: RefCell<Vec<Offer>>,
    free: RefCell<Vec<usize>>,
    /// What the bodies hold together.
    held: Cell<usize>,
    /// One of them waits for bytes to be let go.
    paused: Cell<bool>,
    clock: Rc<Clock>,
    head_timeout: u64,
    /// Until an HTTP/1 connection gives its buffers back, and from then on.
    buffers_timeout: u64,
    rest_timeout: u64,
    idle_timeout: u64,
    write_pace: Pace,
}

impl Activity {
    pub fn new(worker: &Worker) -> Rc<Self> {
        let settings = &worker.settings;
        // The tick at which the first timer passes is the second one's first.
        let (buffers_timeout, rest_timeout) = match settings.idle_timeout.checked_sub(BUFFERS_TICKS + 1) {
            None | Some(0) => (settings.idle_timeout, 0),
            Some(rest) => (BUFFERS_TICKS, rest),
        };
        let activity = Self {
            waits: Cell::new(Waits::Idle),
            timer: worker.clock.timer(),
            requests: Cell::new(0),
            http2: Cell::new(false),
            stays_open: Cell::new(false),
            reads: Cell::new(Reads::Medium),
            behind: RefCell::default(),
            received: Cell::new(0),
            sent: Cell::new(0),
            sent_before: Cell::new(0),
            waited: Cell::new(0),
            waits_since: Cell::new(0),
            offered: RefCell::default(),
            free: RefCell::default(),
            held: Cell::new(0),
            paused: Cell::new(false),
            clock: worker.clock.clone(),
            head_timeout: settings.request_head_timeout,
            buffers_timeout,
            rest_timeout,
            idle_timeout: settings.idle_timeout,
            write_pace: settings.response_write,
        };
        // A client that connects owes a request; only one that was answered may be idle for long.
        activity.wait(Waits::Head, activity.head_timeout);
        Rc::new(activity)
    }

    fn wait(&self, waits: Waits, ticks: u64) {
        self.waits.set(waits);
        self.timer.set(ticks);
    }

    pub fn read(&self, bytes: usize) {
        self.received.set(self.received.get() + bytes as u64);
        if matches!(self.waits.get(), Waits::Idle | Waits::Resting) && !self.http2.get() {
            self.wait(Waits::Head, self.head_timeout);
        }
    }

    pub fn wrote(&self, bytes: usize) {
        self.sent.set(self.sent.get() + bytes as u64);
        if self.waits.get() == Waits::Write {
            self.waited.set(self.waited.get() + self.clock.now() - self.waits_since.get());
            self.rest();
        }
        if bytes > 0
            && let Some(waker) = self.behind.take()
        {
            waker.wake();
        }
    }

    /// Whether the client of an HTTP/1 answer, of which so many bytes were on their way, has to take more of it first; if
    /// so, this task is woken when it has.
    pub fn is_behind(&self, offered: u64, context: &Context<'_>) -> bool {
        let behind = offered > self.sent.get() - self.sent_before.get() + WAITING_BYTES_MAX;
        if behind {
            *self.behind.borrow_mut() = Some(context.waker().clone());
        }
        behind
    }

    pub fn write_blocked(&self) {
        if self.waits.get() != Waits::Write {
            self.waits_since.set(self.clock.now());
            let sent = self.sent.get() - self.sent_before.get();
            // Who is too slow already is late at the next tick.
            self.wait(Waits::Write, self.write_pace.patience(sent, self.waited.get()).unwrap_or(1));
        }
    }

    pub fn request_begins(&self) {
        if self.requests.get() == 0 {
            self.sent_before.set(self.sent.get());
            self.waited.set(0);
        }
        self.requests.set(self.requests.get() + 1);
        if self.waits.get() != Waits::Write {
            self.rest();
        }
    }

    pub fn request_ends(&self) {
        self.requests.set(self.requests.get() - 1);
        if self.waits.get() != Waits::Write {
            self.rest();
        }
    }

    fn rest(&self) {
        if self.requests.get() > 0 {
            let before = self.waits.replace(Waits::Busy);
            if !self.http2.get() {
                self.timer.clear();
            } else if before != Waits::Busy {
                self.timer.set(self.write_pace.timeout);
            }
        } else {
            self.wait(Waits::Idle, if self.http2.get() { self.idle_timeout } else { self.buffers_timeout });
        }
    }

    /// Bytes that arrive from now on need not be a request's.
    pub fn becomes_http2(&self) {
        self.http2.set(true);
    }

    pub fn is_http2(&self) -> bool {
        self.http2.get()
    }

    /// Wakes this task when it is time to look again.
    pub fn register(&self, context: &Context<'_>) {
        self.timer.register(context);
    }

    /// What is waited for took too long, or, if the connection is idle, long enough for something to be done.
    pub fn has_passed(&self) -> bool {
        self.timer.has_passed()
    }

    /// No request runs and none has begun to arrive.
    pub fn is_idle(&self) -> bool {
        self.waits.get() == Waits::Idle
    }

    /// The same, with buffers or without.
    pub fn is_quiet(&self) -> bool {
        matches!(self.waits.get(), Waits::Idle | Waits::Resting)
    }

    /// An HTTP/1 connection was idle for as long as it keeps its buffers, and may be idle for longer.
    pub fn may_rest(&self) -> bool {
        self.is_idle() && self.has_passed() && self.rest_timeout > 0
    }

    /// Whether a connection that is idle looks up after a second, and lives on. HTTP/2 has requests beside each other,
    /// of which none is to wait for what another one was told.
    pub fn may_wait(&self) -> bool {
        !self.is_http2() && self.rest_timeout > 0
    }

    /// Idle as before, with its buffers for once more the same time.
    pub fn keep_buffers(&self) {
        self.wait(Waits::Idle, self.buffers_timeout);
    }

    /// Idle as before, for the rest of the time.
    pub fn rest_on(&self) {
        self.wait(Waits::Resting, self.rest_timeout);
    }

    /// Waits as long as for a client that is to read.
    pub fn wait_on(&self) {
        self.timer.set(self.write_pace.timeout);
    }

    /// Bytes from the client and to it, since the connection began.
    pub fn bytes(&self) -> (u64, u64) {
        (self.received.get(), self.sent.get())
    }

    /// A place for the body of an HTTP/2 answer. A client that shuts its window stops hyper from asking for
    /// more, and nothing else tells.
    pub fn body_begins(&self) -> Option<usize> {
        if !self.is_http2() {
            return None;
        }
        let mut offered = self.offered.borrow_mut();
        Some(self.free.borrow_mut().pop().unwrap_or_else(|| {
            offered.push(Offer::default());
            offered.len() - 1
        }))
    }

    pub fn body_ends(&self, place: usize) {
        let offer = &mut self.offered.borrow_mut()[place];
        (offer.since, offer.over, offer.paused) = (0, true, None);
        self.free_if_over(place, offer);
    }

    fn free_if_over(&self, place: usize, offer: &mut Offer) {
        if offer.over && offer.held == 0 {
            offer.over = false;
            self.free.borrow_mut().push(place);
        }
    }

    pub fn holds(&self, place: usize, bytes: usize) {
        self.offered.borrow_mut()[place].held += bytes;
        self.held.set(self.held.get() + bytes);
    }

    pub fn lets_go(&self, place: usize, bytes: usize) {
        self.held.set(self.held.get() - bytes);
        let mut offered = self.offered.borrow_mut();
        offered[place].held -= bytes;
        self.free_if_over(place, &mut offered[place]);
        if self.paused.get() {
            self.wake_paused(place, &mut offered);
        }
    }

    /// The body that holds nothing any more, and one of the others if there is room for a piece: taking it, or letting
    /// go of its own, wakes the next.
    fn wake_paused(&self, place: usize, offered: &mut [Offer]) {
        if offered[place].held == 0
            && let Some(waker) = offered[place].paused.take()
        {
            waker.wake();
        }
        if self.held.get() < HELD_BYTES_MAX {
            let (before, behind) = offered.split_at_mut(place);
            match behind.iter_mut().chain(before).find_map(|offer| offer.paused.take()) {
                Some(waker) => waker.wake(),
                None => self.paused.set(false),
            }
        }
    }

    /// Whether a body may take more from its endpoint; if not, its task is woken when it is to ask again.
    pub fn may_take(&self, place: usize, context: &Context<'_>) -> bool {
        if self.held.get() < HELD_BYTES_MAX {
            return true;
        }
        let offer = &mut self.offered.borrow_mut()[place];
        if offer.held == 0 {
            return true;
        }
        self.paused.set(true);
        if !offer.paused.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            offer.paused = Some(context.waker().clone());
        }
        false
    }

    /// The body was asked for more, and has offered something or waits for its endpoint.
    pub fn body_waits(&self, place: usize, for_client: bool) {
        self.offered.borrow_mut()[place].since = if for_client { self.clock.now().max(1) } else { 0 };
    }

    /// Whether what passed is the time of a client that has left what it was offered; if not, looks again after
    /// that time. An HTTP/2 connection that waits for anything else is late.
    pub fn is_late(&self) -> bool {
        self.has_passed() && (self.waits.get() != Waits::Busy || self.has_stalled())
    }

    fn has_stalled(&self) -> bool {
        let now = self.clock.now();
        let late = |offer: &Offer| offer.since != 0 && now - offer.since >= self.write_pace.timeout;
        let stalled = self.offered.borrow().iter().any(late);
        if !stalled {
            self.timer.set(self.write_pace.timeout);
        }
        stalled
    }
}
