//! Servers that are programs of their own, in other languages: started, waited for until they say where they listen,
//! and ended by their process id when the value is dropped.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use super::command::Output;

/// A running program that has said `listening on ADDRESS`.
pub struct Program {
    pub address: SocketAddr,
    child: Child,
}

impl Program {
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}; scripts/setup.sh installs it"));
        let line = Output::of(child.stdout.take().expect("stdout")).wait_for("listening on ");
        let address = line.rsplit(' ').next().and_then(|address| address.parse().ok()).expect("an address");
        Self { address, child }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
