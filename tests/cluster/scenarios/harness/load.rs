//! Load of a bounded rate, by keep-alive connections as clients have them, that counts every request that fails.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::client::go_outside;
use super::h1::Connection;

/// Longest load, whatever happens to the scenario.
const LONGEST: Duration = Duration::from_secs(600);
/// Failures that are told in full.
const TOLD: usize = 10;

/// Requests under way until it is stopped.
pub struct Load {
    over: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Tally>>,
}

#[derive(Debug, Default)]
pub struct Tally {
    pub requests: u64,
    pub failed: u64,
    /// The first of them, in words.
    pub failures: Vec<String>,
    pub slowest: Duration,
}

/// What is asked for, and from where.
#[derive(Clone)]
pub struct Target {
    pub address: SocketAddr,
    pub host: String,
    pub path: String,
    /// From outside of the cluster.
    pub outside: bool,
}

impl Load {
    /// `connections` at once, each with a pause between two requests; returns once each was answered once.
    pub fn start(target: &Target, connections: usize, pause: Duration) -> Self {
        Self::begin(target, connections, pause, true)
    }

    /// Likewise, with a new connection for each request.
    pub fn anew(target: &Target, clients: usize, pause: Duration) -> Self {
        Self::begin(target, clients, pause, false)
    }

    fn begin(target: &Target, connections: usize, pause: Duration, keeps: bool) -> Self {
        let (over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let start = |_| {
            let (target, over, answered) = (target.clone(), over.clone(), answered.clone());
            std::thread::spawn(move || run(&target, pause, keeps, &over, &answered))
        };
        let threads = (0..connections).map(start).collect();
        let load = Self { over, answered, threads };
        load.wait(connections as u64);
        load
    }

    /// Waits for that many answers more.
    pub fn wait(&self, answers: u64) {
        let until = self.answered.load(Ordering::Relaxed) + answers;
        super::eventually("answers under load", || (self.answered.load(Ordering::Relaxed) >= until).then_some(()));
    }

    /// Lets time pass in which it goes on.
    pub fn go_on(&self, time: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < time {
            self.wait(1);
        }
    }

    pub fn stop(mut self) -> Tally {
        self.over.store(true, Ordering::Relaxed);
        let mut sum = Tally::default();
        for thread in self.threads.drain(..) {
            let tally = thread.join().expect("a client doesn't panic");
            sum.requests += tally.requests;
            sum.failed += tally.failed;
            sum.failures.extend(tally.failures);
            sum.slowest = sum.slowest.max(tally.slowest);
        }
        sum
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

impl Tally {
    #[track_caller]
    pub fn assert_none_failed(&self) {
        assert!(self.failed == 0, "{} of {} requests failed: {:#?}", self.failed, self.requests, self.failures);
    }
}

fn run(target: &Target, pause: Duration, keeps: bool, over: &AtomicBool, answered: &AtomicU64) -> Tally {
    if target.outside {
        go_outside();
    }
    let begun = Instant::now();
    let mut tally = Tally::default();
    let mut connection = None;
    while !over.load(Ordering::Relaxed) && begun.elapsed() < LONGEST {
        let asked = Instant::now();
        tally.requests += 1;
        match ask(target, &mut connection) {
            Ok(()) => drop(answered.fetch_add(1, Ordering::Relaxed)),
            Err(failure) => {
                connection = None;
                tally.failed += 1;
                if tally.failures.len() < TOLD {
                    tally.failures.push(format!("after {:?}: {failure}", begun.elapsed()));
                }
            }
        }
        if !keeps {
            connection = None;
        }
        tally.slowest = tally.slowest.max(asked.elapsed());
        std::thread::sleep(pause);
    }
    tally
}

fn ask(target: &Target, connection: &mut Option<Connection<TcpStream>>) -> Result<(), String> {
    let Target { address, host, path, .. } = target;
    let reused = connection.is_some();
    let words = |what: &str, error: std::io::Error| {
        format!("{what} on a {} connection: {error}", if reused { "used" } else { "new" })
    };
    if connection.is_none() {
        let stream =
            TcpStream::connect_timeout(address, Duration::from_secs(10)).map_err(|error| words("connect", error))?;
        stream.set_read_timeout(Some(Duration::from_secs(30))).map_err(|error| words("set", error))?;
        stream.set_nodelay(true).map_err(|error| words("set", error))?;
        *connection = Some(Connection::over(stream));
    }
    let open = connection.as_mut().expect("made just now");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    open.wire.write(request.as_bytes()).map_err(|error| words("write", error))?;
    let response = open.try_response(false).map_err(|error| words("read", error))?;
    if response.status != 200 || !response.complete {
        return Err(format!("{} {}", response.status, response.text()));
    }
    if response.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
        *connection = None;
    }
    Ok(())
}
