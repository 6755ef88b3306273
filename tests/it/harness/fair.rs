//! What honest clients wait while others attack, on a machine with few cores. At full size Portunus has the first core
//! for itself; the test, its honest clients and their backend have the last, where attackers and what they ask run only
//! when nobody else wants to. So what is measured is how long an honest request waits in a worker that is being
//! attacked, and not how the kernel shares a core. Rounds with and without the attack take turns: what else the machine
//! does meets both. At small size nothing is measured, and everybody runs where the kernel wants.

use std::fs::read_dir;
use std::net::TcpStream;
use std::panic::resume_unwind;
use std::process::Command;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::{Pid, gettid};

use super::h1::Connection;
use super::process::Portunus;
use super::scale;

/// From an honest client's request to its next: the core is free for attackers in between.
const PACE: Duration = Duration::from_millis(1);
const THIS_THREAD: Pid = Pid::from_raw(0);

/// Runs a measurement, and all threads that it begins, on the last core.
pub fn apart<T: Send>(measure: impl FnOnce() -> T + Send) -> T {
    on_its_own_thread(|| {
        let cores = cores();
        if let [_, .., last] = cores[..] {
            pin(THIS_THREAD, last);
        } else if scale(false, true) {
            println!("there is one core for all: what is measured is how the kernel shares it, too");
        }
        measure()
    })
}

/// Makes what attacks, or is attacked: it, and all threads that it begins, run when nobody else wants to.
pub fn behind_all<T: Send>(make: impl FnOnce() -> T + Send) -> T {
    on_its_own_thread(|| {
        stand_behind_all();
        make()
    })
}

/// Likewise of this thread.
pub fn stand_behind_all() {
    if scale(true, false) {
        return;
    }
    let done = Command::new("chrt").args(["--idle", "--pid", "0", &gettid().to_string()]).status();
    assert!(done.is_ok_and(|status| status.success()), "chrt, which util-linux has");
}

/// Gives Portunus the first core.
pub fn gets_a_core(portunus: &Portunus) {
    let [first, _, ..] = cores()[..] else { return };
    for task in read_dir(format!("/proc/{}/task", portunus.pid())).expect("its threads").flatten() {
        let id = task.file_name().to_string_lossy().parse().expect("a number");
        pin(Pid::from_raw(id), first);
    }
}

fn on_its_own_thread<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    scope(|scope| scope.spawn(run).join()).unwrap_or_else(|panic| resume_unwind(panic))
}

/// Those that there are for this process; none at small size.
fn cores() -> Vec<usize> {
    let allowed = sched_getaffinity(Pid::this()).expect("the cores of this process");
    let is_there = |core: &usize| allowed.is_set(*core).unwrap_or_default();
    (0..CpuSet::count()).filter(|core| is_there(core) && scale(false, true)).collect()
}

fn pin(thread: Pid, core: usize) {
    let mut set = CpuSet::new();
    set.set(core).expect("a core");
    sched_setaffinity(thread, &set).expect("a core of ours");
}

/// What an honest client waits for each answer, in milliseconds, asking for so long.
pub fn ask(portunus: &Portunus, time: Duration) -> Vec<f64> {
    ask_on(&mut Connection::open(portunus.http), time)
}

/// The same on a connection that is open.
pub fn ask_on(client: &mut Connection<TcpStream>, time: Duration) -> Vec<f64> {
    let begin = Instant::now();
    let mut times = Vec::new();
    while begin.elapsed() < time {
        let start = Instant::now();
        assert_eq!(client.get("honest.test", "/").text(), "honest");
        times.push(start.elapsed().as_secs_f64() * 1e3);
        sleep(PACE);
    }
    times
}

/// Of each round, the median and the 99th percentile.
#[derive(Default)]
pub struct Rounds {
    calm: Vec<[f64; 2]>,
    attacked: Vec<[f64; 2]>,
    requests: usize,
}

impl Rounds {
    pub fn add(&mut self, calm: Vec<f64>, attacked: Vec<f64>) {
        assert!(!attacked.is_empty(), "nobody honest was served");
        self.requests += attacked.len();
        for (rounds, times) in [(&mut self.calm, calm), (&mut self.attacked, attacked)] {
            let times = sorted(times);
            rounds.push([0.5, 0.99].map(|share| times[((times.len() - 1) as f64 * share).round() as usize]));
        }
    }

    pub fn report(&self, attack: &str) {
        let middle = |rounds: &[[f64; 2]], which: usize| {
            let all = sorted(rounds.iter().map(|round| round[which]).collect());
            (all[all.len() / 2], format!("{:.2} ms ({:.2} to {:.2})", all[all.len() / 2], all[0], all[all.len() - 1]))
        };
        let [(calm, of_calm), (attacked, of_attacked)] = [middle(&self.calm, 1), middle(&self.attacked, 1)];
        println!(
            "{attack}: p99 {of_attacked}, without it {of_calm}: {:.2} ×; goal: below 2 ×; medians {:.2} and {:.2} ms; \
             {} rounds, {} honest requests meanwhile",
            attacked / calm,
            middle(&self.attacked, 0).0,
            middle(&self.calm, 0).0,
            self.calm.len(),
            self.requests
        );
    }
}

fn sorted(mut times: Vec<f64>) -> Vec<f64> {
    times.sort_by(f64::total_cmp);
    times
}
