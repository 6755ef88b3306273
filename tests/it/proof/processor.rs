//! Twice as much is asked for as Portunus's own processor can do: one worker has a core, which it shares with its
//! process's control thread and with neighbours that are never idle, and all that asks and answers has the others. So
//! it is Portunus that can do no more, where those who ask need as much processor for a request as it does. About as
//! much is done as before, and the rest is told so. What a refusal costs beside an answer bounds what can be reached:
//! at twice the capacity, of which a refusal takes the share c, it is (1 - 2c) / (1 - c) of the peak if each request is
//! either.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Barrier, oneshot};
use tokio::task::LocalSet;

use super::{milliseconds, report, while_asking_livez};
use crate::harness::*;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a.test\r\nUser-Agent: load\r\nAccept: */*\r\n\r\n";
/// Longest answer that is read at once.
const BUFFER_BYTES: usize = 256 << 10;
/// How many share Portunus's core with it.
const NEIGHBOURS: usize = 5;

/// The first core that this process may use, and the others; only where there are two.
fn cores() -> Option<(CpuSet, CpuSet)> {
    let all = sched_getaffinity(Pid::from_raw(0)).expect("our cores");
    let mut usable = (0..CpuSet::count()).filter(|core| all.is_set(*core).unwrap_or(false));
    let (mut one, mut others) = (CpuSet::new(), CpuSet::new());
    one.set(usable.next()?).expect("a core");
    let count = usable.map(|core| others.set(core).expect("a core")).count();
    (count > 0).then_some((one, others))
}

/// Keeps a thread, and those that it begins, on these cores; 0 is this one.
fn pin(thread: i32, cores: &CpuSet) {
    sched_setaffinity(Pid::from_raw(thread), cores).expect("cores that there are");
}

fn pin_process(portunus: &Portunus, cores: &CpuSet) {
    for task in std::fs::read_dir(format!("/proc/{}/task", portunus.pid())).expect("threads") {
        let name = task.expect("a thread").file_name();
        pin(name.to_str().and_then(|name| name.parse().ok()).expect("a number"), cores);
    }
}

/// Threads that keep a core busy as long as this lives.
struct Neighbours {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Neighbours {
    fn start(cores: CpuSet) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let busy = move |stop: Arc<AtomicBool>| {
            pin(0, &cores);
            while !stop.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        };
        let spawn = |_| {
            let stop = stop.clone();
            std::thread::spawn(move || busy(stop))
        };
        let threads = (0..NEIGHBOURS).map(spawn).collect();
        Self { stop, threads }
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Runs this on a thread of its own, on these cores.
fn on_thread<T: Send + 'static>(
    cores: Option<CpuSet>,
    run: impl AsyncFnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    std::thread::spawn(move || {
        if let Some(cores) = cores {
            pin(0, &cores);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        LocalSet::new().block_on(&runtime, run())
    })
}

/// Answers each request with so many bytes; ends with this value.
struct Answering {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Answering {
    fn start(bytes: usize, cores: Option<CpuSet>) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        listener.set_nonblocking(true).expect("nonblocking");
        let address = listener.local_addr().expect("address");
        let (stop, stopped) = oneshot::channel();
        let thread = on_thread(cores, async move || {
            let listener = TcpListener::from_std(listener).expect("listener");
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n{}", "x".repeat(bytes));
            let answer: Rc<[u8]> = answer.into_bytes().into();
            let accepting = async {
                loop {
                    let Ok((stream, _)) = listener.accept().await else { continue };
                    tokio::task::spawn_local(respond(stream, answer.clone()));
                }
            };
            tokio::select! {
                () = accepting => {}
                _ = stopped => {}
            }
        });
        Self { address, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

async fn respond(mut stream: TcpStream, answer: Rc<[u8]>) {
    let _ = stream.set_nodelay(true);
    let (mut buffer, mut seen) = ([0; 2048], 0);
    while let Ok(count @ 1..) = stream.read(&mut buffer[seen..]).await {
        seen += count;
        if buffer[..seen].ends_with(b"\r\n\r\n") {
            seen = 0;
            if stream.write_all(&answer).await.is_err() {
                return;
            }
        }
    }
}

/// What clients were told while they asked, and how long each refusal took, in milliseconds.
#[derive(Default)]
struct Tally {
    done: usize,
    refused: Vec<f64>,
    /// Those that ended when the time was over.
    late: [usize; 2],
    /// Time on a processor that the workers had, and connections that they made to the backend.
    worker: Duration,
    connections: f64,
    took: Duration,
}

impl Tally {
    fn rate(&self) -> f64 {
        self.done as f64 / self.took.as_secs_f64()
    }
}

/// Asks with so many clients, each at this pace or as soon as it is answered, for so long.
fn ask(portunus: &Portunus, clients: usize, pace: Duration, time: Duration, cores: Option<CpuSet>) -> Tally {
    let (address, begun) = (portunus.http, Gate::new());
    let begins = begun.clone();
    let asking = on_thread(cores, async move || {
        let (tally, start) = (Rc::new(RefCell::new(Tally::default())), Rc::new(Barrier::new(clients + 1)));
        let buffer = Rc::new(RefCell::new(vec![0; BUFFER_BYTES]));
        let mut all = tokio::task::JoinSet::new();
        for number in 0..clients {
            let (tally, start, buffer) = (tally.clone(), start.clone(), buffer.clone());
            let offset = pace.mul_f64(number as f64 / clients as f64);
            all.spawn_local(async move {
                let mut stream = TcpStream::connect(address).await.expect("connect");
                stream.set_nodelay(true).expect("nodelay");
                start.wait().await;
                let begun = Instant::now();
                let mut due = begun + offset;
                while begun.elapsed() < time {
                    tokio::time::sleep_until(due.into()).await;
                    let asked = Instant::now();
                    let status = one(&mut stream, &buffer).await.expect("an answer");
                    // Whoever was kept waiting does not ask for all of it at once.
                    due = (due + pace).max(Instant::now());
                    let mut tally = tally.borrow_mut();
                    match (status, begun.elapsed() < time) {
                        (200, true) => tally.done += 1,
                        (_, true) => tally.refused.push(milliseconds(asked)),
                        (status, false) => tally.late[usize::from(status != 200)] += 1,
                    }
                }
            });
        }
        start.wait().await;
        begins.open();
        all.join_all().await;
        tally.take()
    });
    begun.wait("the clients");
    let made = || portunus.metric("portunus_upstream_connections_total", &[]);
    let (before, connections) = (portunus.threads(), made());
    std::thread::sleep(time);
    let (worker, connections) = (portunus.threads().since(&before).others, made() - connections);
    Tally { worker, connections, took: time, ..asking.join().expect("the clients") }
}

/// One exchange; the status.
async fn one(stream: &mut TcpStream, buffer: &RefCell<Vec<u8>>) -> io::Result<u16> {
    stream.write_all(REQUEST).await?;
    let (mut head, mut status, mut left) = (Vec::new(), 0, usize::MAX);
    while left > 0 {
        stream.readable().await?;
        let mut buffer = buffer.borrow_mut();
        let count = match stream.try_read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        if status != 0 {
            left -= count;
            continue;
        }
        head.extend_from_slice(&buffer[..count]);
        let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let text = std::str::from_utf8(&head[..end]).map_err(io::Error::other)?.to_ascii_lowercase();
        let field = |name: &str| text.split("\r\n").find_map(|line| line.strip_prefix(name));
        status = text[9..12].parse().map_err(io::Error::other)?;
        assert!(status == 200 || (status, field("retry-after: ")) == (503, Some("1")), "{text}");
        let length: usize = field("content-length: ").and_then(|value| value.parse().ok()).expect("a length");
        left = length + end + 4 - head.len();
    }
    Ok(status)
}

#[test]
fn beyond_what_the_processor_can_do_as_much_is_done_as_before() {
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    for bytes in [1 << 10, 256 << 10] {
        overload(bytes);
    }
}

/// What came of one after the other, since the machine has its moods.
struct Round {
    /// A few that ask without a pause.
    few: Tally,
    /// About as many clients as can be answered at their pace.
    calm: [Tally; 3],
    /// Twice as many at the same pace.
    beyond: Tally,
}

impl Round {
    fn peak(&self) -> &Tally {
        self.calm.iter().max_by(|one, other| one.rate().total_cmp(&other.rate())).expect("three")
    }
}

fn round(portunus: &Portunus, bytes: usize, [few, some]: [usize; 2], time: Duration, others: Option<CpuSet>) -> Round {
    let few = ask(portunus, few, Duration::ZERO, time, others);
    let pace = Duration::from_secs_f64(some as f64 / few.rate());
    let calm = [some * 4 / 5, some, some * 6 / 5].map(|some| ask(portunus, some, pace, time, others));
    let (beyond, health) = while_asking_livez(portunus, || ask(portunus, 2 * some, pace, time, others));
    let all = Round { few, calm, beyond };
    print(bytes, &all, &health);
    assert!(all.peak().done > 0 && all.beyond.done > 0);
    all
}

fn overload(bytes: usize) {
    let (clients, rounds, time) =
        scale(([2, 16], 1, Duration::from_millis(300)), ([64, 1024], 5, Duration::from_secs(5)));
    let (ours, others) = cores().unzip();
    let backend = Answering::start(bytes, others);
    let folder = Folder::to_addresses(&[backend.address]);
    let portunus = Portunus::serve_with(&folder, &["--workers", "1", "--overload-lag", "250ms"]);
    let _neighbours = ours.map(|ours| {
        pin_process(&portunus, &ours);
        Neighbours::start(ours)
    });
    let (mut shares, mut answered, mut refused) = (Vec::new(), 0, 0);
    for _ in 0..rounds {
        let all = round(&portunus, bytes, clients, time, others);
        shares.push(100.0 * all.beyond.rate() / all.peak().rate());
        for tally in all.calm.iter().chain([&all.few, &all.beyond]) {
            answered += tally.done + tally.late[0];
            refused += tally.refused.len() + tally.late[1];
        }
    }
    report(&format!("answers of {bytes} bytes at twice the peak"), &shares, "% of those at the peak", "90 %");
    // Each was told what was counted, and 503 was nothing else.
    for (name, labels, expected) in [
        ("portunus_requests_total", &["2xx"][..], answered),
        ("portunus_requests_total", &["5xx"], refused),
        ("portunus_requests_shed_total", &[], refused),
    ] {
        portunus.wait_metric(name, labels, |count| count == expected as f64);
    }
}

/// What was measured, beside its goal.
fn print(bytes: usize, all: &Round, health: &[f64]) {
    let (few, peak, beyond) = (all.few.rate(), all.peak(), &all.beyond);
    let share = |tally: &Tally| 100.0 * tally.worker.as_secs_f64() / tally.took.as_secs_f64();
    let asked = (beyond.done + beyond.refused.len()) as f64 / beyond.took.as_secs_f64();
    println!(
        "overload of the processor, answers of {bytes} bytes: {:.0} answers a second of {:.0} at the peak, {:.0} %, \
         {asked:.0} requests; goal: 90 % (64 that ask without a pause: {few:.0})",
        beyond.rate(),
        peak.rate(),
        100.0 * beyond.rate() / peak.rate()
    );
    let each = |tally: &Tally, count: usize| 1e6 * tally.worker.as_secs_f64() / count.max(1) as f64;
    println!(
        "  the worker had {:.0} and {:.0} % of its core, {:.1} µs for each answer and {:.1} for each of both, and made \
         {:.0} and {:.0} connections",
        share(peak),
        share(beyond),
        each(peak, peak.done),
        each(beyond, beyond.done + beyond.refused.len()),
        peak.connections,
        beyond.connections
    );
    if !beyond.refused.is_empty() {
        report("  503 under overload", &beyond.refused, "ms", "fast");
    }
    report("  /livez under overload", health, "ms", "below 100 ms");
}
