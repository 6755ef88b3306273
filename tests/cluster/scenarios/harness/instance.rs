//! Portunus as a process on the node, with flags of its own, watching the cluster by a kubeconfig.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use super::h1::Response;
use super::{client, cluster, eventually, setting};

pub struct Instance {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
}

impl Instance {
    /// Starts it for the class of that name ([`Cluster::class`](super::Cluster::class)) and waits until it is ready.
    pub fn ready(class: &str, flags: &[&str]) -> Self {
        let instance = Self::start(class, flags);
        eventually("a ready Portunus", || (instance.admin("/readyz").ok()?.status == 200).then_some(()));
        instance
    }

    pub fn start(class: &str, flags: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portunus"));
        command.args(["serve", "--http-listen", "127.0.0.1:0", "--https-listen", "127.0.0.1:0"]);
        command.args(["--admin-listen", "127.0.0.1:0", "--access-log", "off"]);
        command.args(["--controller-class", &format!("scenarios/{class}"), "--ingress-class", class]);
        command.args(["--election-id", class]).args(flags);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let (stderr, lines) = (child.stderr.take().expect("piped"), log.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.lock().expect("log").push(line);
            }
        });
        Self { child, log }
    }

    pub fn http(&self) -> SocketAddr {
        self.address("http")
    }

    pub fn https(&self) -> SocketAddr {
        self.address("https")
    }

    pub fn admin(&self, path: &str) -> Result<Response, String> {
        client::get(self.address("admin"), "admin", path)
    }

    /// The value of a metric without labels.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.admin("/metrics").expect("an answer").text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().expect("a number")
    }

    /// Resident memory in MiB.
    pub fn resident(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
    }

    pub fn log(&self) -> String {
        self.log.lock().expect("log").join("\n")
    }

    /// SIGTERM; returns the exit code once it has ended.
    pub fn stop(mut self) -> Option<i32> {
        self.signal("TERM");
        let status = eventually("the end of the process", || self.child.try_wait().expect("a child"));
        status.code()
    }

    pub fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        cluster().run("kill", &["-s", signal, &id], "");
    }

    fn address(&self, kind: &str) -> SocketAddr {
        let mark = format!("listening for {kind} on ");
        let found = eventually(&format!("the address for {kind}"), || {
            let log = self.log.lock().expect("log");
            log.iter().find_map(|line| Some(line.split_once(&mark)?.1.to_owned()))
        });
        found.trim().parse().unwrap_or_else(|error| panic!("{found}: {error}"))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if std::thread::panicking() && setting("PORTUNUS_QUIET").is_none() {
            eprintln!("--- log of the process:\n{}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
