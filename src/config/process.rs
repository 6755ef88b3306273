//! Flags about the process itself: how it stops and what it logs.

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
    /// Access log, a JSON line a request: `stdout`, a file, or `off`
    #[arg(long, env = "PORTUNUS_ACCESS_LOG", default_value = "stdout", value_name = "WHERE")]
    pub access_log: String,
    /// Answers carry x-portunus-generation, the number of the table that decided them
    #[arg(long, env = "PORTUNUS_GENERATION_HEADER")]
    pub generation_header: bool,
    /// Path whose requests panic, for the test of that
    #[cfg(debug_assertions)]
    #[arg(long, hide = true, value_name = "PATH")]
    pub panic_at: Option<String>,
    #[command(flatten)]
    pub logging: Logging,
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
