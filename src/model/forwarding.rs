//! How a rule's requests are sent on, where that is not as the operator's flags have it: time limits, the size of
//! bodies, when a request is sent once more, and who answers when the endpoints don't, or with an error.

use serde::Serialize;

use super::BackendKey;

/// What is left open is the operator's to say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Forwarding {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout_seconds: Option<u32>,
    /// Between two reads of an answer, its head included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_timeout_seconds: Option<u32>,
    /// Between two writes of a request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_timeout_seconds: Option<u32>,
    /// Of a request; `None` is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_bytes_max: Option<u64>,
    /// Read the request's body whole before an endpoint is chosen.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub buffers_body: bool,
    /// `None` is one more try for what an endpoint took and did not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// For the head of one answer, where that is less than between two reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub try_timeout_milliseconds: Option<u32>,
    /// From the request's head to the head of its answer, with all tries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_timeout_milliseconds: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_backend: Option<DefaultBackend>,
}

/// When a request is sent once more, and how often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Retry {
    /// After these failures; after none, if it is empty.
    pub on: Vec<Failure>,
    /// Also methods that do something each time (RFC 9110, 9.2.2).
    pub non_idempotent: bool,
    /// In all, with the first; 0 is as many as there are endpoints.
    pub tries: u32,
    /// From the first try on; none begins later.
    pub timeout_seconds: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Failure {
    /// No connection, or one that broke before the answer's head.
    Error,
    Timeout,
    /// What came is not HTTP.
    InvalidHeader,
    Status(u16),
}

impl Default for Retry {
    /// As nginx has it.
    fn default() -> Self {
        Self { on: vec![Failure::Error, Failure::Timeout], non_idempotent: false, tries: 3, timeout_seconds: None }
    }
}

/// Who answers when the rule's backend has no endpoint, or instead of an answer with one of these statuses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DefaultBackend {
    pub backend: BackendKey,
    /// Sorted, each once.
    pub errors: Vec<u16>,
    /// The endpoints' own answers are passed on, whatever their status.
    pub passes_errors: bool,
}
