//! Flags about the process itself: how it stops, how it is followed by the next, what it does when it has too much to
//! do, and what it logs.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::values::{duration, duration_or_none};
use crate::telemetry::LogFormat;

#[derive(Debug, Args)]
pub struct Process {
    /// How long everything is served as before after SIGTERM, with /readyz at 503, before draining begins
    #[arg(long, env = "PORTUNUS_PRE_STOP_DELAY", default_value = "0s", value_parser = duration_or_none)]
    pub pre_stop_delay: Duration,
    /// Longest time that running requests are waited for after SIGTERM; a second signal stops at once
    #[arg(long, env = "PORTUNUS_DRAIN_TIMEOUT", default_value = "25s", value_parser = duration)]
    pub drain_timeout: Duration,
    /// Unix socket by which the next process takes over this one's listening sockets [default: none]
    #[arg(long, env = "PORTUNUS_TAKEOVER_SOCKET", value_name = "FILE")]
    pub takeover_socket: Option<PathBuf>,
    #[command(flatten)]
    pub overload: Overload,
    /// Access log, a JSON line a request: `stdout`, a file, or `off`
    #[arg(long, env = "PORTUNUS_ACCESS_LOG", default_value = "stdout", value_name = "WHERE")]
    pub access_log: String,
    /// Answers carry x-portunus-generation, the number of the table that decided them
    #[arg(long, env = "PORTUNUS_GENERATION_HEADER")]
    pub generation_header: bool,
    /// File with the seconds that the system's time is off, for the test of that; it is read again and again
    #[cfg(debug_assertions)]
    #[arg(long, hide = true, value_name = "FILE")]
    pub clock_shift_file: Option<PathBuf>,
    /// Path whose requests panic, for the test of that
    #[cfg(debug_assertions)]
    #[arg(long, hide = true, value_name = "PATH")]
    pub panic_at: Option<String>,
    /// Address of a client whose connections panic as they are accepted, likewise
    #[cfg(debug_assertions)]
    #[arg(long, hide = true, value_name = "ADDR")]
    pub panic_for: Option<std::net::IpAddr>,
    /// Path whose requests keep their worker from everything else for a while, for the tests of overload
    #[cfg(debug_assertions)]
    #[arg(long, hide = true, value_name = "PATH")]
    pub stall_at: Option<String>,
    #[command(flatten)]
    pub logging: Logging,
}

/// When new work is turned away, so that what runs can be finished.
#[derive(Debug, Args)]
pub struct Overload {
    /// How long what is ready may wait in a worker before a part of new requests is answered 503; 0s never does
    #[arg(long, env = "PORTUNUS_OVERLOAD_LAG", default_value = "250ms", value_parser = duration_or_none)]
    pub overload_lag: Duration,
    /// Share of the memory limit from which only requests of high priority are taken
    #[arg(long, env = "PORTUNUS_OVERLOAD_MEMORY_PERCENT", default_value_t = 95, value_name = "PERCENT")]
    pub overload_memory_percent: u32,
    /// Share of the memory limit from which no request is taken, and idle connections are closed
    #[arg(long, env = "PORTUNUS_OVERLOAD_MEMORY_CLOSE_PERCENT", default_value_t = 98, value_name = "PERCENT")]
    pub overload_memory_close_percent: u32,
    /// Memory that the process may use, in bytes [default: the limit of its cgroup]
    #[arg(long, env = "PORTUNUS_MEMORY_LIMIT", value_name = "BYTES")]
    pub memory_limit: Option<u64>,
}

/// The process's own log.
#[derive(Debug, Args)]
pub struct Logging {
    /// Form of the process's own log, which goes to stderr
    #[arg(long, env = "PORTUNUS_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// What is logged: error, warn, info or debug, also by module
    #[arg(long, env = "PORTUNUS_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
}
