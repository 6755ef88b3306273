//! Checks names and passwords, which takes long by design: on a few threads of its own, never on a worker, and once
//! for all who ask the same at once. Whoever passed is remembered, by a hash with a key of this process that says
//! nothing of the password; with another hash in the Secret it is another login, and is checked. Who doesn't pass is
//! not remembered: a wrong password costs its check each time.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use aws_lc_rs::{hmac, rand};
use tokio::sync::oneshot;

use crate::filter::Login;

/// Threads that check; there are as many workers as cores, and these take their time from them.
const THREADS: usize = 2;
/// Most checks that wait for a thread. Who comes then is told to come again.
const QUEUE_MAX: usize = 64;
/// Most requests that wait for one check.
const WAITING_MAX: usize = 1024;
/// Most logins that are remembered, 32 bytes each; the older half goes when it gets full.
const REMEMBERED_MAX: usize = 16_384;
/// Locks of what is remembered: enough that workers rarely meet.
const SHARDS: usize = 16;

/// What is remembered of a login: HMAC-SHA-256 (RFC 2104) of its parts.
type Tag = [u8; 32];

/// The logins of all workers.
pub struct Logins {
    key: hmac::Key,
    passed: [Mutex<Remembered>; SHARDS],
    /// Who waits for each check that is under way.
    waiting: Mutex<HashMap<Tag, Vec<oneshot::Sender<bool>>>>,
    queue: OnceLock<SyncSender<Job>>,
}

/// What becomes of a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    Passes,
    Fails,
    /// There are too many others.
    Busy,
}

struct Job {
    tag: Tag,
    login: Box<Login>,
}

/// Those that were met since the last turn, and those of the turn before.
#[derive(Default)]
struct Remembered {
    new: HashSet<Tag>,
    old: HashSet<Tag>,
}

impl Default for Logins {
    fn default() -> Self {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &rand::SystemRandom::new());
        Self {
            key: key.expect("the system has randomness"),
            passed: Default::default(),
            waiting: Mutex::default(),
            queue: OnceLock::new(),
        }
    }
}

impl Logins {
    /// Whether this login has passed already.
    pub fn knows(&self, login: &Login) -> bool {
        let tag = self.tag(login);
        lock(self.shard(&tag)).has(&tag)
    }

    /// Finds out whether it is somebody, elsewhere.
    pub async fn check(self: &Arc<Self>, login: Box<Login>) -> Checked {
        let tag = self.tag(&login);
        let Some(answer) = self.enqueue(tag, login) else { return Checked::Busy };
        match answer.await {
            Ok(true) => Checked::Passes,
            Ok(false) => Checked::Fails,
            // There is no thread.
            Err(_) => Checked::Busy,
        }
    }

    /// Where the answer will come, unless there are too many others.
    fn enqueue(self: &Arc<Self>, tag: Tag, login: Box<Login>) -> Option<oneshot::Receiver<bool>> {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = lock(&self.waiting);
        if let Some(others) = waiting.get_mut(&tag) {
            if others.len() >= WAITING_MAX {
                return None;
            }
            others.push(sender);
            return Some(receiver);
        }
        match self.queue.get_or_init(|| self.start()).try_send(Job { tag, login }) {
            Ok(()) => {
                waiting.insert(tag, vec![sender]);
                Some(receiver)
            }
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => None,
        }
    }

    /// Starts the threads; a process without logins has none.
    fn start(self: &Arc<Self>) -> SyncSender<Job> {
        let (sender, receiver) = sync_channel(QUEUE_MAX);
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..THREADS {
            let (jobs, logins) = (receiver.clone(), Arc::downgrade(self));
            let begin = std::thread::Builder::new().name("logins".to_owned());
            if let Err(error) = begin.spawn(move || run(&jobs, &logins)) {
                tracing::error!(%error, "no thread to check passwords");
            }
        }
        sender
    }

    fn work(&self, job: Job) {
        let mut waiting = lock(&self.waiting);
        if waiting.get(&job.tag).is_none_or(|all| all.iter().all(oneshot::Sender::is_closed)) {
            // All who asked have gone.
            waiting.remove(&job.tag);
            return;
        }
        drop(waiting);
        // A hash that makes its crate panic lets nobody in, and nobody wait for ever.
        let passes = catch_unwind(AssertUnwindSafe(|| job.login.verify())).unwrap_or_default();
        if passes {
            lock(self.shard(&job.tag)).add(job.tag);
        }
        let all = lock(&self.waiting).remove(&job.tag);
        for one in all.into_iter().flatten() {
            let _ = one.send(passes);
        }
    }

    fn shard(&self, tag: &Tag) -> &Mutex<Remembered> {
        &self.passed[usize::from(tag[0]) % SHARDS]
    }

    fn tag(&self, login: &Login) -> Tag {
        let mut context = hmac::Context::with_key(&self.key);
        for part in login.parts() {
            // With its length, or the end of one could be the beginning of another.
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
        context.sign().as_ref().try_into().expect("SHA-256 has 32 bytes")
    }
}

/// Works until nobody can ask any more.
fn run(jobs: &Mutex<Receiver<Job>>, logins: &Weak<Logins>) {
    loop {
        let next = lock(jobs).recv();
        let (Ok(job), Some(logins)) = (next, logins.upgrade()) else { return };
        logins.work(job);
    }
}

impl Remembered {
    fn has(&mut self, tag: &Tag) -> bool {
        if self.new.contains(tag) {
            return true;
        }
        let found = self.old.remove(tag);
        if found {
            self.add(*tag);
        }
        found
    }

    fn add(&mut self, tag: Tag) {
        if self.new.len() >= REMEMBERED_MAX / 2 / SHARDS {
            self.old = std::mem::take(&mut self.new);
        }
        self.new.insert(tag);
    }
}

impl fmt::Debug for Logins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Logins")
    }
}

/// Every step leaves it whole, so that a panic elsewhere does it no harm.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
