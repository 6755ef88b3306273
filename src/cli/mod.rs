//! One file per subcommand. Each returns the process's exit code.

pub mod check;
pub mod echo;
pub mod webhook;
