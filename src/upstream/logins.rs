//! Checks names and passwords, which takes long by design: on a few threads of its own, never on a worker, and once
//! for all who ask the same at once. Whoever passed is remembered, by a hash with a key of this process that says
//! nothing of the password; with another hash in the Secret it is another login, and is checked. Who doesn't pass is
//! not remembered: a wrong password costs its check each time. Whose users are asked for most is not everybody's
//! affair: each audience has a share of the queue, and they take turns.

use std::collections::{HashMap, HashSet, VecDeque};
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
/// Most of them that ask for the users of one Ingress.
const QUEUE_SHARE_MAX: usize = 16;
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
    waiting: Mutex<Waiting>,
    /// A word for each job, which wakes a thread.
    wake: OnceLock<SyncSender<()>>,
}

#[derive(Default)]
struct Waiting {
    /// Who waits for each check that is under way.
    checks: HashMap<Tag, Vec<oneshot::Sender<bool>>>,
    /// Jobs that no thread has yet, by audience, the one whose turn is next first. None is empty.
    turns: VecDeque<(usize, VecDeque<Job>)>,
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
            wake: OnceLock::new(),
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
        if let Some(others) = waiting.checks.get_mut(&tag) {
            if others.len() >= WAITING_MAX {
                return None;
            }
            others.push(sender);
            return Some(receiver);
        }
        if !waiting.has_room(&login) {
            return None;
        }
        match self.wake.get_or_init(|| self.start()).try_send(()) {
            // Whoever wakes up waits for the lock.
            Ok(()) => {
                waiting.checks.insert(tag, vec![sender]);
                waiting.add(Job { tag, login });
                Some(receiver)
            }
            Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => None,
        }
    }

    /// Starts the threads; a process without logins has none.
    fn start(self: &Arc<Self>) -> SyncSender<()> {
        let (sender, receiver) = sync_channel(QUEUE_MAX);
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..THREADS {
            let (words, logins) = (receiver.clone(), Arc::downgrade(self));
            let begin = std::thread::Builder::new().name("logins".to_owned());
            if let Err(error) = begin.spawn(move || run(&words, &logins)) {
                tracing::error!(%error, "no thread to check passwords");
            }
        }
        sender
    }

    fn work(&self, job: &Job) {
        let mut waiting = lock(&self.waiting);
        if waiting.checks.get(&job.tag).is_none_or(|all| all.iter().all(oneshot::Sender::is_closed)) {
            // All who asked have gone.
            waiting.checks.remove(&job.tag);
            return;
        }
        drop(waiting);
        // A hash that makes its crate panic lets nobody in, and nobody wait for ever.
        let passes = catch_unwind(AssertUnwindSafe(|| job.login.verify())).unwrap_or_default();
        if passes {
            lock(self.shard(&job.tag)).add(job.tag);
        }
        let all = lock(&self.waiting).checks.remove(&job.tag);
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
fn run(words: &Mutex<Receiver<()>>, logins: &Weak<Logins>) {
    loop {
        let word = lock(words).recv();
        let (Ok(()), Some(logins)) = (word, logins.upgrade()) else { return };
        let job = lock(&logins.waiting).take();
        if let Some(job) = job {
            logins.work(&job);
        }
    }
}

impl Waiting {
    /// Whether the login's audience has room in its share.
    fn has_room(&self, login: &Login) -> bool {
        let queued = self.turns.iter().find(|(audience, _)| *audience == login.audience());
        queued.is_none_or(|(_, jobs)| jobs.len() < QUEUE_SHARE_MAX)
    }

    fn add(&mut self, job: Job) {
        let audience = job.login.audience();
        match self.turns.iter_mut().find(|(other, _)| *other == audience) {
            Some((_, jobs)) => jobs.push_back(job),
            None => self.turns.push_back((audience, VecDeque::from([job]))),
        }
    }

    /// The next job, of whoever's turn it is.
    fn take(&mut self) -> Option<Job> {
        let (audience, mut jobs) = self.turns.pop_front()?;
        let job = jobs.pop_front();
        if !jobs.is_empty() {
            self.turns.push_back((audience, jobs));
        }
        job
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use http::{HeaderMap, HeaderValue, Method, Request, header};

    use super::*;
    use crate::filter::{BasicAuth, Filter, Hash, Users, Verdict};

    /// `romeo`, whose hash is this one.
    fn romeo(hash: &str) -> Arc<BasicAuth> {
        let users = BTreeMap::from([(b"romeo".to_vec().into(), Hash::parse(hash).unwrap())]);
        let challenge = BasicAuth::challenge("").unwrap();
        Arc::new(BasicAuth { challenge, users: Users::new(users).unwrap() })
    }

    #[expect(clippy::unnecessary_box_returns, reason = "it is checked in its box")]
    fn login(hash: &str, credentials: &'static str) -> Box<Login> {
        login_of(romeo(hash), credentials)
    }

    #[expect(clippy::unnecessary_box_returns, reason = "likewise")]
    fn login_of(auth: Arc<BasicAuth>, credentials: &'static str) -> Box<Login> {
        let filter = Filter::BasicAuth(auth);
        let (mut head, ()) = Request::builder().method(Method::GET).body(()).unwrap().into_parts();
        head.headers = HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static(credentials))]);
        let mut request = crate::filter::Request {
            head: &mut head,
            host: "",
            authority: &HeaderValue::from_static(""),
            path: "/",
            https: false,
            client: [127, 0, 0, 1].into(),
            upstream_host: None,
            rewritten: None,
        };
        match filter.request(&mut request) {
            Verdict::Check(login) => login,
            other => panic!("{other:?}"),
        }
    }

    const HASH: &str = "$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/";
    /// The same password with another salt.
    const OTHER: &str = "$1$abcdefgh$cHJi5PXp/ki/ktXzqlk6I1";
    const RIGHT: &str = "Basic cm9tZW86c2VjcmV0";
    const WRONG: &str = "Basic cm9tZW86d3Jvbmc=";
    const NOBODY: &str = "Basic anVsaWV0OnNlY3JldA==";

    fn run<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn only_what_passed_is_known_and_only_with_the_hash_it_passed_by() {
        let logins = Arc::new(Logins::default());
        for (credentials, expected) in [(RIGHT, Checked::Passes), (WRONG, Checked::Fails), (NOBODY, Checked::Fails)] {
            assert!(!logins.knows(&login(HASH, credentials)));
            assert_eq!(run(logins.check(login(HASH, credentials))), expected, "{credentials}");
            assert_eq!(logins.knows(&login(HASH, credentials)), expected == Checked::Passes, "{credentials}");
        }
        assert!(!logins.knows(&login(OTHER, RIGHT)));
        assert_eq!(run(logins.check(login(OTHER, RIGHT))), Checked::Passes);
        assert!(logins.knows(&login(HASH, RIGHT)) && !Logins::default().knows(&login(HASH, RIGHT)));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_who_comes_often_stays() {
        let mut remembered = Remembered::default();
        let tag = |number: u32| {
            let mut tag = [0; 32];
            tag[..4].copy_from_slice(&number.to_be_bytes());
            tag
        };
        remembered.add(tag(0));
        for number in 1..10_000 {
            remembered.add(tag(number));
            assert!(remembered.has(&tag(0)) && remembered.has(&tag(number)));
            assert!(remembered.new.len() + remembered.old.len() <= REMEMBERED_MAX / SHARDS);
        }
        assert!(!remembered.has(&tag(1)));
    }

    #[test]
    fn who_left_costs_nothing_and_who_asks_for_the_same_waits_for_the_same() {
        let logins = Arc::new(Logins::default());
        let job = || Job { tag: [1; 32], login: login(HASH, RIGHT) };
        let (sender, receiver) = oneshot::channel();
        lock(&logins.waiting).checks.insert([1; 32], vec![sender]);
        drop(receiver);
        logins.work(&job());
        assert!(lock(&logins.waiting).checks.is_empty() && !lock(logins.shard(&[1; 32])).has(&[1; 32]));

        let (senders, receivers): (Vec<_>, Vec<_>) = (0..3).map(|_| oneshot::channel()).unzip();
        lock(&logins.waiting).checks.insert([1; 32], senders);
        logins.work(&job());
        assert!(receivers.into_iter().all(|receiver| receiver.blocking_recv() == Ok(true)));
        assert!(lock(&logins.waiting).checks.is_empty() && lock(logins.shard(&[1; 32])).has(&[1; 32]));
    }

    #[test]
    fn nobody_has_more_than_a_share_of_the_queue_and_all_take_turns() {
        let mut waiting = Waiting::default();
        let (many, one, other) = (romeo(HASH), romeo(HASH), romeo(HASH));
        let job = |auth: &Arc<BasicAuth>, tag| Job { tag: [tag; 32], login: login_of(auth.clone(), WRONG) };
        for tag in 0..u8::try_from(QUEUE_SHARE_MAX).unwrap() {
            assert!(waiting.has_room(&job(&many, tag).login));
            waiting.add(job(&many, tag));
        }
        assert!(!waiting.has_room(&job(&many, 0).login) && waiting.has_room(&job(&one, 0).login));
        waiting.add(job(&one, 100));
        waiting.add(job(&other, 101));
        waiting.add(job(&one, 102));
        let order: Vec<u8> = std::iter::from_fn(|| waiting.take()).map(|job| job.tag[0]).collect();
        assert_eq!(order[..7], [0, 100, 101, 1, 102, 2, 3]);
        assert!(order.len() == QUEUE_SHARE_MAX + 3 && waiting.turns.is_empty());
    }
}
