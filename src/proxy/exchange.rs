//! A request and its answer, from the request's head to the end of the answer's body: what is known of it, and what is
//! counted and logged at its end.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;

use super::access_log::Record;
use super::connection::Connection;
use super::error_page::Page;
use super::large::Large;
use crate::clock::ticks;
use crate::metrics::RouteId;
use crate::table::Forwarding;
use crate::upstream::{BodyWatch, InFlight, Permit, SlotId};

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
    /// Its body may be read in large pieces.
    pub large: Option<Large>,
    /// Counts it among its client's requests, where those are limited.
    pub permit: Option<Permit>,
    /// What its head takes where a connection has many requests at a time, in bytes; and its part of what their large
    /// ones may take together.
    pub head_bytes: usize,
    pub turn: Option<OwnedSemaphorePermit>,
    /// What its body, which is read whole, may take of what the connection's may, in bytes.
    whole_bytes: usize,
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
            large: None,
            permit: None,
            head_bytes: 0,
            turn: None,
            whole_bytes: 0,
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

    /// Counts so many bytes, in place of those before, among its connection's that are read whole, until the exchange
    /// ends.
    pub fn holds_body(&mut self, bytes: usize) {
        let all = &self.connection.whole_bytes;
        all.set(all.get() - std::mem::replace(&mut self.whole_bytes, bytes) + bytes);
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
        self.holds_body(0);
        let worker = &self.connection.worker;
        worker.in_flight.set(worker.in_flight.get() - 1);
        self.connection.activity.request_ends();
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
