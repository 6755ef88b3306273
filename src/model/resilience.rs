//! What becomes of a backend's endpoints that fail, and of requests that are too many for it: what a rule asks, and
//! what the operator has for all that ask nothing. Times are in milliseconds.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// What a rule asks for its backends; what is left open is the operator's to say, or isn't done.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Resilience {
    /// Failures in a row after which an endpoint is ejected; 0 is never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outlier_failures: Option<u32>,
    /// How long it is left out the first time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ejection_milliseconds: Option<u32>,
    /// With fewer healthy endpoints, in percent, all are used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub panic_percent: Option<u32>,
    /// How long an endpoint that is new, or back, gets less than its share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start_milliseconds: Option<u32>,
    /// Requests at once, from being sent to the end of their answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_flight_max: Option<u32>,
    /// Requests that wait for a connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending_max: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<Arc<Check>>,
}

/// How endpoints are asked whether they are well.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Check {
    pub kind: CheckKind,
    pub interval_milliseconds: u32,
    pub timeout_milliseconds: u32,
    /// Checks in a row that must pass until an endpoint counts as healthy, and fail until it doesn't.
    pub healthy: u32,
    pub unhealthy: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum CheckKind {
    /// A connection is enough.
    Tcp,
    /// A status of 2xx or 3xx.
    Http { path: Box<str>, host: Option<Box<str>> },
    /// `grpc.health.v1.Health/Check` answers SERVING for this service; the empty one is the whole server.
    Grpc { service: Box<str> },
}

/// What counts where a rule says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outliers {
    /// Failures in a row after which an endpoint is ejected; 0 is never.
    pub failures: u32,
    /// How long it is left out the first time.
    pub ejection_milliseconds: u32,
    /// Most endpoints of a backend that are ejected at once, in percent; never the last one.
    pub ejected_percent_max: u32,
    /// With fewer healthy endpoints, in percent, all are used.
    pub panic_percent: u32,
}

impl Default for Outliers {
    fn default() -> Self {
        Self { failures: 5, ejection_milliseconds: 10_000, ejected_percent_max: 50, panic_percent: 25 }
    }
}

impl Outliers {
    /// These, where a rule says nothing else.
    #[must_use]
    pub fn with(self, asked: Option<&Resilience>) -> Self {
        let Some(asked) = asked else { return self };
        Self {
            failures: asked.outlier_failures.unwrap_or(self.failures),
            ejection_milliseconds: asked.ejection_milliseconds.unwrap_or(self.ejection_milliseconds),
            ejected_percent_max: self.ejected_percent_max,
            panic_percent: asked.panic_percent.unwrap_or(self.panic_percent),
        }
    }
}

impl Resilience {
    /// `None` if nothing is asked.
    pub fn any(self) -> Option<Arc<Self>> {
        (self != Self::default()).then(|| Arc::new(self))
    }
}

impl fmt::Display for Resilience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers = [
            ("failures", self.outlier_failures),
            ("ejection ms", self.ejection_milliseconds),
            ("panic %", self.panic_percent),
            ("slow start ms", self.slow_start_milliseconds),
            ("in flight", self.in_flight_max),
            ("pending", self.pending_max),
        ];
        let said = numbers.into_iter().filter_map(|(name, number)| Some(format!("{name} {}", number?)));
        let check = self.check.as_ref().map(|check| format!("checked by {check}"));
        f.write_str(&said.chain(check).collect::<Vec<_>>().join(", "))
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            CheckKind::Tcp => write!(f, "TCP")?,
            CheckKind::Http { path, host: None } => write!(f, "HTTP {path}")?,
            CheckKind::Http { path, host: Some(host) } => write!(f, "HTTP {host}{path}")?,
            CheckKind::Grpc { service } => write!(f, "gRPC {service:?}")?,
        }
        let Self { interval_milliseconds, timeout_milliseconds, healthy, unhealthy, kind: _ } = self;
        write!(f, " every {interval_milliseconds} ms within {timeout_milliseconds} ms, +{healthy} -{unhealthy}")
    }
}
