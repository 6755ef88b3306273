//! The process's own log, to stderr: text for people, JSON lines for collectors. Requests are not logged here;
//! the access log is.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Starts logging; `filter` is of the form `info` or `portunus=debug,warn`.
pub fn start(format: LogFormat, filter: &str) {
    // Watches that fail are told of here, in one sentence each; kube says the same at each try.
    let quiet = |filter: &str| format!("kube_runtime=error,kube_client=error,{filter}");
    let filter = EnvFilter::try_new(quiet(filter)).unwrap_or_else(|_| EnvFilter::new(quiet("info")));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    match format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().init(),
    }
}
