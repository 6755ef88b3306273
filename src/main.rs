//! Arguments, then the subcommand, then the exit code: 0 done, 1 problems found, 2 not started.

use std::process::ExitCode;

use portunus::config::{self, Command};
use portunus::{app, cli, telemetry};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let config = match config::read() {
        Ok(config) => config,
        Err(sentence) => {
            eprintln!("portunus: {sentence}");
            return ExitCode::from(2);
        }
    };
    let result = match &config.command {
        Command::Serve(serve) => {
            let logging = &serve.process.logging;
            telemetry::start(logging.log_format, &logging.log);
            config::inherited().and_then(|sockets| app::run(serve, sockets)).map(|()| ExitCode::SUCCESS)
        }
        Command::Webhook(webhook) => {
            telemetry::start(webhook.logging.log_format, &webhook.logging.log);
            cli::webhook::run(webhook).map(|()| ExitCode::SUCCESS)
        }
        Command::Check(check) => cli::check::run(check),
        Command::Echo(echo) => cli::echo::run(echo),
    };
    result.unwrap_or_else(|error| {
        eprintln!("portunus: {error:#}");
        ExitCode::from(2)
    })
}
