//! The real binary and others as commands: started, waited for with a limit, their outputs read.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{PATIENCE, eventually};

/// What a process wrote so far to one of its outputs.
#[derive(Clone, Default)]
pub struct Output(Arc<Mutex<String>>);

impl Output {
    pub fn of(source: impl Read + Send + 'static) -> Self {
        let output = Self::default();
        let text = output.0.clone();
        std::thread::spawn(move || {
            let mut source = BufReader::new(source);
            let mut line = Vec::new();
            while source.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                text.lock().expect("output").push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        });
        output
    }

    pub fn text(&self) -> String {
        self.0.lock().expect("output").clone()
    }

    pub fn lines(&self) -> Vec<String> {
        self.text().lines().map(str::to_owned).collect()
    }

    /// Waits for a whole line that contains `part`.
    #[track_caller]
    pub fn wait_for(&self, part: &str) -> String {
        eventually(&format!("a line with {part:?}"), || {
            let text = self.text();
            let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
            whole.lines().find(|line| line.contains(part)).map(str::to_owned)
        })
    }
}

/// A command that is expected to end by itself.
#[derive(Debug)]
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// The real binary, out of reach of the settings in the tests' own environment.
#[expect(clippy::disallowed_methods, reason = "to keep the environment out")]
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portunus"));
    let ours = |(name, _): &(String, String)| name.starts_with("PORTUNUS_");
    for (name, _) in std::env::vars().filter(ours) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs `portunus` with these arguments until it ends by itself.
#[track_caller]
pub fn portunus(arguments: &[&str]) -> Finished {
    finish(command().args(arguments))
}

#[track_caller]
pub fn finish(command: &mut Command) -> Finished {
    finish_within(PATIENCE, command)
}

/// Likewise, of one that takes longer.
#[track_caller]
pub fn finish_within(limit: Duration, command: &mut Command) -> Finished {
    let mut child = command.spawn().expect("spawn");
    let stdout = reader(child.stdout.take().expect("stdout"));
    let stderr = reader(child.stderr.take().expect("stderr"));
    let status = wait(&mut child, limit);
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let (stdout, stderr) = (stdout.join().expect("stdout"), stderr.join().expect("stderr"));
    let Some(status) = status else { panic!("{command:?} did not end: {stdout}{stderr}") };
    Finished { code: status.code(), stdout, stderr }
}

fn reader(mut source: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = source.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// How it ended, if it does so within `limit`.
pub fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().expect("wait") {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(4));
    }
    None
}
