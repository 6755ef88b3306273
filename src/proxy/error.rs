//! Why a request was not answered by an endpoint: whose fault it is and which status says so, in one table.

use http::StatusCode;

use super::exchange::Exchange;
use crate::upstream::BodyFault;

/// Everything that can go wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// Not HTTP as RFC 9110 and 9112 have it, or to be read in two ways.
    Malformed(&'static str),
    TargetTooLong,
    HeadersTooLarge,
    /// CONNECT, and transfer codings other than chunked.
    NotImplemented(&'static str),
    /// The request belongs on another TLS connection.
    Misdirected,
    NoRoute,
    /// The Service is missing, or has no endpoint that takes requests.
    NoEndpoint,
    /// More requests in flight than `--max-in-flight`.
    Overloaded,
    /// The backend has as many requests as its rule allows.
    CircuitOpen,
    /// The worker is behind, or memory is short, and the request is of a priority that has to stand back.
    Shed,
    /// There is no descriptor, or no memory, for a connection to an endpoint.
    Exhausted,
    ClientBodyBroken,
    ClientBodyTimeout,
    /// The request's body is longer than its rule allows.
    BodyTooLarge,
    /// An endpoint, or a filter, answered with this status, and its answer was let go.
    Answered(StatusCode),
    /// Every endpoint that was tried refused the connection.
    ConnectFailed,
    ConnectTimeout,
    /// The connection broke, or the answer was not HTTP, before its head was complete.
    UpstreamFailed,
    /// An HTTP/2 endpoint reset the stream with this code before an answer. An HTTP/2 client gets the same
    /// reset: gRPC tells a deadline from a failure by it.
    UpstreamReset(h2::Reason),
    UpstreamTimeout,
    /// There was no answer's head within the time that the rule has for all of it.
    RequestTimeout,
}

impl Error {
    pub fn status(self) -> StatusCode {
        match self {
            Self::Malformed(_) | Self::ClientBodyBroken => StatusCode::BAD_REQUEST,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::NotImplemented(_) => StatusCode::NOT_IMPLEMENTED,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::NoEndpoint | Self::Overloaded | Self::CircuitOpen | Self::Shed | Self::Exhausted => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::ClientBodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Answered(status) => status,
            Self::ConnectFailed | Self::UpstreamFailed | Self::UpstreamReset(_) => StatusCode::BAD_GATEWAY,
            Self::ConnectTimeout | Self::UpstreamTimeout | Self::RequestTimeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// Whether the connection ends with the answer: what follows on it can't be trusted to be a request.
    pub fn closes(self) -> bool {
        match self {
            Self::Malformed(_)
            | Self::TargetTooLong
            | Self::HeadersTooLarge
            | Self::NotImplemented(_)
            | Self::ClientBodyBroken
            | Self::ClientBodyTimeout
            | Self::BodyTooLarge => true,
            Self::Misdirected
            | Self::NoRoute
            | Self::NoEndpoint
            | Self::Overloaded
            | Self::CircuitOpen
            | Self::Shed
            | Self::Exhausted
            | Self::Answered(_)
            | Self::ConnectFailed
            | Self::ConnectTimeout
            | Self::UpstreamFailed
            | Self::UpstreamReset(_)
            | Self::UpstreamTimeout
            | Self::RequestTimeout => false,
        }
    }

    /// What the client is told, in a line.
    pub fn message(self) -> &'static str {
        match self {
            Self::Malformed(what) | Self::NotImplemented(what) => what,
            Self::TargetTooLong => "the request target is too long",
            Self::HeadersTooLarge => "the request header fields are too large",
            Self::Misdirected => "this host is not served on this TLS connection",
            Self::NoRoute => "no route for this host and path",
            Self::NoEndpoint => "no endpoint available",
            Self::Overloaded => "too many requests in flight",
            Self::CircuitOpen => "too many requests to this backend",
            Self::Shed => "there is more to do than can be done",
            Self::Exhausted => "no connection to an endpoint can be made now",
            Self::ClientBodyBroken => "the request body is broken",
            Self::ClientBodyTimeout => "the request body did not arrive in time",
            Self::BodyTooLarge => "the request body is too large",
            Self::Answered(_) => "there is no page that says more",
            Self::ConnectFailed => "no endpoint could be reached",
            Self::ConnectTimeout => "no endpoint could be reached in time",
            Self::UpstreamFailed | Self::UpstreamReset(_) => "the endpoint did not answer",
            Self::UpstreamTimeout => "the endpoint did not answer in time",
            Self::RequestTimeout => "there was no answer in time",
        }
    }

    /// Why the request ended, as the access log names it.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Malformed(_) | Self::TargetTooLong | Self::HeadersTooLarge | Self::NotImplemented(_) => "refused",
            Self::Misdirected => "misdirected",
            Self::NoRoute => "no_route",
            Self::NoEndpoint => "no_endpoint",
            Self::Overloaded => "overloaded",
            Self::CircuitOpen => "circuit_open",
            Self::Shed => "shed",
            Self::Exhausted => "descriptors_exhausted",
            Self::ClientBodyBroken => "client_body_broken",
            Self::ClientBodyTimeout => "client_body_timeout",
            Self::BodyTooLarge => "client_body_too_large",
            Self::Answered(_) => "error_discarded",
            Self::ConnectFailed => "connect_failed",
            Self::ConnectTimeout => "connect_timeout",
            Self::UpstreamFailed => "upstream_failed",
            Self::UpstreamReset(_) => "upstream_reset",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::RequestTimeout => "request_timeout",
        }
    }
}

impl From<BodyFault> for Error {
    fn from(fault: BodyFault) -> Self {
        match fault {
            BodyFault::Broken => Self::ClientBodyBroken,
            BodyFault::TimedOut => Self::ClientBodyTimeout,
            BodyFault::TooLarge => Self::BodyTooLarge,
        }
    }
}

/// A client's broken body is not the endpoint's fault.
pub fn blame(exchange: &Exchange, error: Error) -> Error {
    exchange.watch.as_ref().and_then(|watch| watch.fault.get()).map_or(error, Error::from)
}
