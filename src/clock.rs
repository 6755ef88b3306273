//! A worker's coarse clock. Deadlines are numbers that the worker's tick compares, so that setting one costs a
//! store, and no request registers a timer. Lives on one thread. Beside it the system's time, which anybody may set.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
#[cfg(debug_assertions)]
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often a worker looks at its deadlines: the precision of every timeout.
pub const TICK: Duration = Duration::from_millis(100);
/// Of them.
pub const TICKS_PER_SECOND: u64 = 10;
/// What the system's time may be off between two looks, in milliseconds; daemons that keep it right stay below.
const JUMP_MILLISECONDS_MIN: i64 = 2_000;

/// Counts ticks, and wakes whoever's deadline has passed.
#[derive(Debug, Default)]
pub struct Clock {
    now: Cell<u64>,
    deadlines: RefCell<Vec<Rc<Deadline>>>,
    /// Places of deadlines that nobody holds, to be used again.
    free: RefCell<Vec<usize>>,
}

#[derive(Debug, Default)]
struct Deadline {
    /// Tick after which it has passed; 0 is never.
    at: Cell<u64>,
    passed: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// One deadline at a time, for a task that is woken when it has passed.
#[derive(Debug)]
pub struct Timer {
    deadline: Rc<Deadline>,
    place: usize,
    clock: Rc<Clock>,
}

/// Both clocks at one time.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    unix_milliseconds: i64,
    /// Nobody sets this one.
    steady: Instant,
}

impl Moment {
    pub fn now() -> Self {
        Self { unix_milliseconds: unix_milliseconds(), steady: Instant::now() }
    }

    /// By how many milliseconds the system's time was set since then, ahead or (negative) back; `None` if it went on
    /// as the other clock did.
    pub fn jump_since(self, before: Self) -> Option<i64> {
        let passed = self.steady.saturating_duration_since(before.steady).as_millis();
        let passed = i64::try_from(passed).unwrap_or(i64::MAX);
        let jump = self.unix_milliseconds.saturating_sub(before.unix_milliseconds).saturating_sub(passed);
        (jump.saturating_abs() >= JUMP_MILLISECONDS_MIN).then_some(jump)
    }
}

/// The system's time in seconds since the epoch, as certificates have it.
pub fn unix_seconds() -> i64 {
    unix_milliseconds().div_euclid(1000)
}

/// 0 before the epoch.
fn unix_milliseconds() -> i64 {
    let age = SystemTime::now().duration_since(UNIX_EPOCH);
    let milliseconds = age.map_or(0, |age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
    #[cfg(debug_assertions)]
    let milliseconds = milliseconds.saturating_add(SHIFT_MILLISECONDS.load(Ordering::Relaxed));
    milliseconds
}

/// What a test has the system's time be off.
#[cfg(debug_assertions)]
static SHIFT_MILLISECONDS: AtomicI64 = AtomicI64::new(0);

/// Has the system's time be off by so many seconds, as a test sees it.
#[cfg(debug_assertions)]
pub fn shift(seconds: i64) {
    SHIFT_MILLISECONDS.store(seconds.saturating_mul(1000), Ordering::Relaxed);
}

/// A duration in ticks, rounded up; at least one.
pub fn ticks(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis().div_ceil(TICK.as_millis())).unwrap_or(u64::MAX / 2).max(1)
}

impl Clock {
    /// Ticks since the worker began.
    pub fn now(&self) -> u64 {
        self.now.get()
    }

    /// Moves on by one tick and wakes the tasks whose deadline has passed.
    pub fn tick(&self) {
        let now = self.now.get() + 1;
        self.now.set(now);
        for deadline in self.deadlines.borrow().iter() {
            let at = deadline.at.get();
            if at != 0 && at < now {
                deadline.at.set(0);
                deadline.passed.set(true);
                if let Some(waker) = deadline.waker.borrow().as_ref() {
                    waker.wake_by_ref();
                }
            }
        }
    }

    /// Has everybody who holds a timer look up, whatever the time.
    pub fn wake_all(&self) {
        for deadline in self.deadlines.borrow().iter() {
            if let Some(waker) = deadline.waker.borrow().as_ref() {
                waker.wake_by_ref();
            }
        }
    }

    pub fn timer(self: &Rc<Self>) -> Timer {
        let mut deadlines = self.deadlines.borrow_mut();
        let place = self.free.borrow_mut().pop().unwrap_or_else(|| {
            deadlines.push(Rc::default());
            deadlines.len() - 1
        });
        Timer { deadline: deadlines[place].clone(), place, clock: self.clone() }
    }
}

impl Timer {
    /// Sets the deadline to so many ticks from now, in place of the one before.
    pub fn set(&self, ticks: u64) {
        self.deadline.at.set(self.clock.now().saturating_add(ticks).max(1));
        self.deadline.passed.set(false);
    }

    pub fn clear(&self) {
        self.deadline.at.set(0);
        self.deadline.passed.set(false);
    }

    /// Ticks of its clock.
    pub fn now(&self) -> u64 {
        self.clock.now()
    }

    pub fn is_set(&self) -> bool {
        self.deadline.at.get() != 0
    }

    pub fn has_passed(&self) -> bool {
        self.deadline.passed.get()
    }

    /// Wakes this task at the deadline, and no other.
    pub fn register(&self, context: &Context<'_>) {
        let mut waker = self.deadline.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.clear();
        self.deadline.waker.borrow_mut().take();
        self.clock.free.borrow_mut().push(self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_is_noticed_and_one_that_goes_is_not() {
        let begun = Instant::now();
        let at =
            |unix_milliseconds, passed| Moment { unix_milliseconds, steady: begun + Duration::from_millis(passed) };
        let before = at(1_800_000_000_000, 0);
        for (unix_milliseconds, passed, jump) in [
            (1_800_000_000_200, 200, None),
            // However long the thread was held up meanwhile, and a little faster or slower.
            (1_800_003_600_000, 3_600_000, None),
            (1_800_000_002_199, 200, None),
            (1_799_999_998_201, 200, None),
            (1_800_000_002_200, 200, Some(2_000)),
            (1_799_999_998_200, 200, Some(-2_000)),
            (1_800_003_600_200, 200, Some(3_600_000)),
            (0, 200, Some(-1_800_000_000_200)),
            (i64::MAX, 200, Some(i64::MAX - 1_800_000_000_200)),
        ] {
            assert_eq!(at(unix_milliseconds, passed).jump_since(before), jump, "{unix_milliseconds} after {passed} ms");
        }
    }

    #[test]
    fn a_deadline_passes_once_and_never_early() {
        let clock = Rc::new(Clock::default());
        let (early, late) = (clock.timer(), clock.timer());
        early.set(ticks(Duration::from_millis(150)));
        late.set(5);
        let passed = |ticks: u32| {
            (0..ticks).for_each(|_| clock.tick());
            (early.has_passed(), late.has_passed())
        };
        assert_eq!(passed(2), (false, false));
        assert_eq!(passed(1), (true, false));
        late.clear();
        assert_eq!(passed(9), (true, false));
        drop(early);
        let again = clock.timer();
        assert!(!again.has_passed() && !again.is_set());
    }
}
