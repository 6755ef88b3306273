//! A running `portunus serve`: on free ports, watched through its log and its admin port, stopped
//! by its own process id.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Child, Command};
use std::time::Duration;

use super::command::{Output, command, wait};
use super::folder::Folder;
use super::h1::{self, Response};
use super::{PATIENCE, eventually};

/// A running `portunus serve` that is ready.
pub struct Portunus {
    child: Child,
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub admin: SocketAddr,
    pub stderr: Output,
    pub stdout: Output,
    /// A test made it panic.
    pub panics: bool,
}

/// Time on a processor: of the control thread, which is the main one, and of all others, the workers'.
#[derive(Clone, Copy, Default)]
pub struct Threads {
    pub main: Duration,
    pub others: Duration,
}

impl Threads {
    pub fn since(self, before: &Self) -> Self {
        Self { main: self.main.saturating_sub(before.main), others: self.others.saturating_sub(before.others) }
    }
}

/// What every test wants, unless it says otherwise. A machine that builds meanwhile is no overload.
const USUAL: [(&str, &str); 6] = [
    ("--http-listen", "127.0.0.1:0"),
    ("--https-listen", "127.0.0.1:0"),
    ("--admin-listen", "127.0.0.1:0"),
    ("--workers", "2"),
    ("--access-log", "off"),
    ("--overload-lag", "0s"),
];

impl Portunus {
    #[track_caller]
    pub fn serve(folder: &Folder) -> Self {
        Self::serve_with(folder, &[])
    }

    #[track_caller]
    pub fn serve_with(folder: &Folder, flags: &[&str]) -> Self {
        Self::serve_by(command(), folder, flags)
    }

    /// By a command to which only the arguments are missing.
    #[track_caller]
    pub fn serve_by(command: Command, folder: &Folder, flags: &[&str]) -> Self {
        Self::start(command, &["--manifests", folder.path().to_str().expect("a path")], flags)
    }

    /// With its objects from where `source` says.
    #[track_caller]
    pub fn serve_with_flags(source: &[&str], flags: &[&str]) -> Self {
        Self::start(command(), source, flags)
    }

    #[track_caller]
    fn start(mut command: Command, source: &[&str], flags: &[&str]) -> Self {
        command.arg("serve").args(source).args(flags);
        for (flag, value) in USUAL.iter().filter(|(flag, _)| !flags.contains(flag)) {
            command.args([flag, value]);
        }
        Self::spawn(&mut command)
    }

    #[track_caller]
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("spawn");
        let stderr = Output::of(child.stderr.take().expect("stderr"));
        let stdout = Output::of(child.stdout.take().expect("stdout"));
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut this = Self { child, http: nowhere, https: nowhere, admin: nowhere, stderr, stdout, panics: false };
        this.admin = this.wait_ready();
        this.http = this.addresses("http").first().copied().unwrap_or(nowhere);
        this.https = this.addresses("https").first().copied().unwrap_or(nowhere);
        this
    }

    /// Waits for `/readyz`; returns the admin port's address.
    #[track_caller]
    fn wait_ready(&mut self) -> SocketAddr {
        eventually("/readyz", || {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("portunus ended with {status}: {}", self.stderr.text());
            }
            let admin = *self.addresses("admin").first()?;
            (h1::get(admin, "admin", "/readyz").status == 200).then_some(admin)
        })
    }

    /// The addresses of the listening sockets of one kind: http, https or admin.
    pub fn addresses(&self, kind: &str) -> Vec<SocketAddr> {
        let before = format!("listening for {kind} on ");
        let address = |line: &String| {
            let (_, rest) = line.split_once(&before)?;
            let end = rest.find(|c: char| !(c.is_ascii_hexdigit() || ".:[]".contains(c)));
            rest[..end.unwrap_or(rest.len())].parse().ok()
        };
        let text = self.stderr.text();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(str::to_owned).filter_map(|line| address(&line)).collect()
    }

    /// A GET on the HTTP port.
    #[track_caller]
    pub fn get(&self, host: &str, target: &str) -> Response {
        h1::get(self.http, host, target)
    }

    #[track_caller]
    pub fn admin(&self, target: &str) -> Response {
        h1::get(self.admin, "admin", target)
    }

    /// All samples: name with labels, as printed, to value.
    #[track_caller]
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let text = self.admin("/metrics").text();
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let sample = |line: &str| {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
            (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
        };
        samples.map(sample).collect()
    }

    /// The sum over the samples of this name whose labels contain all of `labels`.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let wanted =
            |sample: &str| sample.split('{').next() == Some(name) && labels.iter().all(|label| sample.contains(label));
        self.metrics().iter().filter(|(sample, _)| wanted(sample)).map(|(_, value)| value).sum()
    }

    #[track_caller]
    pub fn wait_metric(&self, name: &str, labels: &[&str], wanted: impl Fn(f64) -> bool) -> f64 {
        eventually(&format!("{name}{labels:?}"), || {
            let value = self.metric(name, labels);
            wanted(value).then_some(value)
        })
    }

    #[track_caller]
    pub fn generation(&self) -> u64 {
        self.metric("portunus_table_generation", &[]) as u64
    }

    /// Waits until a table newer than `generation` is in.
    #[track_caller]
    pub fn wait_generation_above(&self, generation: u64) -> u64 {
        let above = |value| value > generation as f64;
        self.wait_metric("portunus_table_generation", &[], above) as u64
    }

    /// Makes a change and waits for the table that has it.
    #[track_caller]
    pub fn after<T>(&self, change: impl FnOnce() -> T) -> T {
        let before = self.generation();
        let result = change();
        self.wait_generation_above(before);
        result
    }

    #[track_caller]
    pub fn problems(&self) -> Vec<serde_json::Value> {
        let response = self.admin("/debug/problems");
        assert_eq!(response.status, 200, "{}", response.text());
        response.json().as_array().expect("an array of problems").clone()
    }

    /// Waits for a Problem whose JSON text contains all of `parts`.
    #[track_caller]
    pub fn wait_problem(&self, parts: &[&str]) -> serde_json::Value {
        eventually(&format!("a problem with {parts:?}"), || {
            let has = |p: &serde_json::Value| parts.iter().all(|part| p.to_string().contains(part));
            self.problems().into_iter().find(has)
        })
    }

    #[track_caller]
    pub fn wait_no_problems(&self) {
        eventually("no problems", || self.problems().is_empty().then_some(()));
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A line of `/proc/PID/status` in bytes: `VmRSS:` is what is resident, `VmHWM:` its peak.
    #[track_caller]
    pub fn memory(&self, line: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("status");
        let text = status.lines().find_map(|text| text.strip_prefix(line)).expect("a line of status");
        let kib = text.trim().split(' ').next().and_then(|n| n.parse::<u64>().ok()).expect("a number");
        kib << 10
    }

    /// The time on a processor so far.
    #[track_caller]
    pub fn threads(&self) -> Threads {
        let mut threads = Threads::default();
        for task in std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("threads") {
            let path = task.expect("a thread").path();
            // A thread may end meanwhile.
            let Ok(text) = std::fs::read_to_string(path.join("schedstat")) else { continue };
            let nanoseconds = text.split(' ').next().and_then(|text| text.parse().ok()).expect("nanoseconds");
            let is_main = path.ends_with(self.pid().to_string());
            *(if is_main { &mut threads.main } else { &mut threads.others }) += Duration::from_nanos(nanoseconds);
        }
        threads
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    #[track_caller]
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status();
        assert!(status.expect("kill").success(), "kill -{name}");
    }

    /// The exit code of a process that is expected to end now.
    #[track_caller]
    pub fn wait_exit(&mut self) -> i32 {
        let status = wait(&mut self.child, PATIENCE);
        let status = status.unwrap_or_else(|| panic!("still running: {}", self.stderr.text()));
        status.code().unwrap_or_else(|| panic!("killed by a signal: {}", self.stderr.text()))
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Portunus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let log = self.stderr.text();
        if std::thread::panicking() {
            eprintln!("the log of portunus:\n{log}");
        } else {
            assert_eq!(log.contains("panicked at"), self.panics, "a panic in portunus:\n{log}");
        }
    }
}
