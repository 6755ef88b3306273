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

/// Has every panic counted, and logged by its place. What it says may hold what a client sent or a key, unless it is a
/// text of the program's own.
pub fn note_panics(count: impl Fn() + Send + Sync + 'static) {
    std::panic::set_hook(Box::new(move |panic| {
        count();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let what = panic.payload().downcast_ref::<&'static str>().copied().unwrap_or("a text with values in it");
        tracing::error!(what, "panicked at {place}");
    }));
}
