//! Flags about endpoints that fail: what is sent once more, and who is left out.

use std::time::Duration;

use clap::Args;

use super::values::{duration, percent, whole_seconds};
use crate::model::{Outliers, Retry};
use crate::translate::next_upstream;

/// What an Ingress without further word gets.
#[derive(Debug, Args)]
pub struct Ejection {
    /// Failures in a row after which an endpoint is left out for a while; 0 is never
    #[arg(long, env = "PORTUNUS_OUTLIER_FAILURES", default_value_t = 5, value_name = "COUNT")]
    pub outlier_failures: u32,
    /// How long it is left out the first time; each time in a row is longer by as much, up to 5 minutes
    #[arg(long, env = "PORTUNUS_OUTLIER_EJECTION_TIME", default_value = "10s", value_parser = duration)]
    pub outlier_ejection_time: Duration,
    /// Most endpoints of a Service that are left out at once, in percent: one at the least, and never the last
    #[arg(long, env = "PORTUNUS_OUTLIER_EJECTED_MAX", default_value_t = 50, value_name = "PERCENT", value_parser = percent)]
    pub outlier_ejected_max: u32,
    /// With fewer of a Service's endpoints well, in percent, all are used
    #[arg(long, env = "PORTUNUS_PANIC_THRESHOLD", default_value_t = 25, value_name = "PERCENT", value_parser = percent)]
    pub panic_threshold: u32,
}

impl Ejection {
    pub fn outliers(&self) -> Outliers {
        Outliers {
            failures: self.outlier_failures,
            ejection_milliseconds: u32::try_from(self.outlier_ejection_time.as_millis()).unwrap_or(u32::MAX),
            ejected_percent_max: self.outlier_ejected_max,
            panic_percent: self.panic_threshold,
        }
    }
}

/// When a request is sent once more, where an Ingress doesn't say.
#[derive(Debug, Args)]
pub struct NextUpstream {
    /// Failures after which a request goes to another endpoint, as in `error timeout http_503`, or `off`
    /// [default: one more try]
    #[arg(long, env = "PORTUNUS_PROXY_NEXT_UPSTREAM", value_name = "FAILURES", value_parser = next_upstream)]
    pub proxy_next_upstream: Option<Retry>,
    /// Tries of such a request, with the first; 0 is as many as there are endpoints
    #[arg(
        long,
        env = "PORTUNUS_PROXY_NEXT_UPSTREAM_TRIES",
        default_value_t = 3,
        value_name = "COUNT",
        requires = "proxy_next_upstream"
    )]
    pub proxy_next_upstream_tries: u32,
    /// Time from the first try of such a request on, after which none begins, in whole seconds; 0s is no limit
    #[arg(
        long,
        env = "PORTUNUS_PROXY_NEXT_UPSTREAM_TIMEOUT",
        default_value = "0s",
        value_parser = whole_seconds,
        requires = "proxy_next_upstream"
    )]
    pub proxy_next_upstream_timeout: u32,
}

impl NextUpstream {
    pub fn retry(&self) -> Option<Retry> {
        let timeout = self.proxy_next_upstream_timeout;
        self.proxy_next_upstream.clone().map(|retry| Retry {
            tries: self.proxy_next_upstream_tries,
            timeout_seconds: (timeout > 0).then_some(timeout),
            ..retry
        })
    }
}

#[derive(Debug, Args)]
pub struct Retries {
    /// Requests to a backend that may be sent once more, in percent of those under way and of the current second
    #[arg(long, env = "PORTUNUS_RETRY_BUDGET", default_value_t = 20, value_name = "PERCENT", value_parser = percent)]
    pub retry_budget: u32,
    /// Requests a second to a backend that may be sent once more in any case, by all workers together
    #[arg(long, env = "PORTUNUS_RETRY_FLOOR", default_value_t = 10, value_name = "COUNT")]
    pub retry_floor: u32,
    /// Bytes of a request's body that is read before an endpoint is chosen, so that it can be sent once more, where
    /// an Ingress has `proxy-request-buffering`; a longer one streams
    #[arg(long, env = "PORTUNUS_REQUEST_BUFFER_BYTES_MAX", default_value_t = 1024 * 1024, value_name = "BYTES")]
    pub request_buffer_bytes_max: usize,
}
