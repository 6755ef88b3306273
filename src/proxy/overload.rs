//! How much new work a worker turns away, and when: while its event loop is behind, or memory nears its limit, before
//! the kernel kills anything. What runs is finished; of what comes, low priority goes first, and high last. All of it
//! is decided once a tick from two numbers; a request looks at one cell of its own worker.

use std::time::Duration;

use crate::model::Priority;

/// Ticks whose least lateness counts: a burst that is worked off meanwhile is no overload.
const WINDOW: usize = 5;
/// What a task waits for its turn in a worker that is behind: what seems to be idle there may wait to be read.
const BEHIND: Duration = Duration::from_millis(25);
/// Shedding grows by this for each time that the lateness is the allowed one, as far as [`GROWTH_MAX`], and goes
/// back slowly, so that what was turned away doesn't come back all at once.
const GROWTH: u16 = 20;
const GROWTH_MAX: u16 = 100;
const DECAY: u16 = 50;
/// All of a priority's requests.
const WHOLE: u16 = 1000;
/// By how much of the limit memory has to fall below a threshold until that counts as left, in percent.
const MEMORY_SLACK: u32 = 3;

/// From when on a worker sheds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// How long a task that is ready waits for its turn; nothing is shed for it at zero.
    pub lag: Duration,
    /// Use of the memory limit in percent from which only requests of high priority are taken, and from which none.
    pub memory_percent: u32,
    pub memory_close_percent: u32,
}

/// How much is turned away: the first thousand are the share of low priority's requests, the second that of normal
/// ones, the third of high ones, each in thousandths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pressure(u16);

impl Pressure {
    const ALL_BUT_HIGH: Self = Self(2 * WHOLE);
    const ALL: Self = Self(3 * WHOLE);

    pub fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Whether this request is turned away; `draw` is any number.
    pub fn sheds(self, priority: Priority, draw: u32) -> bool {
        let below = match priority {
            Priority::Low => 0,
            Priority::Normal => WHOLE,
            Priority::High => 2 * WHOLE,
        };
        draw % u32::from(WHOLE) < u32::from(self.0.saturating_sub(below))
    }

    /// In thousandths of all three.
    pub fn thousandths(self) -> u64 {
        u64::from(self.0)
    }
}

/// A worker's view of how loaded it is.
#[derive(Debug, Default)]
pub struct Load {
    lags: [Duration; WINDOW],
    next: usize,
    /// What lateness asks for, and what memory does.
    by_lag: Pressure,
    memory: Memory,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Memory {
    #[default]
    Fine,
    Short,
    Out,
}

/// What a tick comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    pub pressure: Pressure,
    /// Idle connections give their memory back.
    pub closes_idle: bool,
    /// Buffers and connections that nobody has used for a moment are kept: there is memory, and to make them anew is
    /// more work where there is too much.
    pub keeps_spare: bool,
}

impl Load {
    /// Takes note of how late a tick was, and of how much of the memory limit is used, in percent, if there is one.
    pub fn observe(&mut self, thresholds: &Thresholds, lag: Duration, memory: Option<u32>) -> Verdict {
        self.lags[self.next] = lag;
        self.next = (self.next + 1) % WINDOW;
        let standing = self.lags.iter().min().copied().unwrap_or_default();
        self.by_lag = by_lag(self.by_lag, thresholds.lag, standing);
        self.memory = memory.map_or(Memory::Fine, |percent| by_memory(self.memory, thresholds, percent));
        let by_memory = match self.memory {
            Memory::Fine => Pressure::default(),
            Memory::Short => Pressure::ALL_BUT_HIGH,
            Memory::Out => Pressure::ALL,
        };
        Verdict {
            pressure: self.by_lag.max(by_memory),
            closes_idle: self.memory == Memory::Out,
            keeps_spare: standing >= BEHIND && self.memory == Memory::Fine,
        }
    }
}

fn by_lag(Pressure(before): Pressure, allowed: Duration, lag: Duration) -> Pressure {
    if allowed.is_zero() {
        return Pressure::default();
    }
    if lag <= allowed {
        // Between half of it and all of it nothing changes, so that it doesn't swing.
        return Pressure(if lag < allowed / 2 { before.saturating_sub(DECAY) } else { before });
    }
    let times = u16::try_from(lag.as_millis() / allowed.as_millis().max(1)).unwrap_or(u16::MAX);
    let growth = times.saturating_mul(GROWTH).min(GROWTH_MAX);
    Pressure(before.saturating_add(growth)).min(Pressure::ALL)
}

fn by_memory(before: Memory, thresholds: &Thresholds, percent: u32) -> Memory {
    let reached = |threshold: u32, state: Memory| {
        percent >= threshold.saturating_sub(if before >= state { MEMORY_SLACK } else { 0 })
    };
    if reached(thresholds.memory_close_percent, Memory::Out) {
        Memory::Out
    } else if reached(thresholds.memory_percent, Memory::Short) {
        Memory::Short
    } else {
        Memory::Fine
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THRESHOLDS: Thresholds =
        Thresholds { lag: Duration::from_millis(100), memory_percent: 95, memory_close_percent: 98 };

    fn lag(load: &mut Load, milliseconds: u64) -> u16 {
        load.observe(&THRESHOLDS, Duration::from_millis(milliseconds), None).pressure.0
    }

    #[test]
    fn a_burst_is_no_overload_and_a_standing_queue_is() {
        let mut load = Load::default();
        for _ in 0..20 {
            assert_eq!([900, 900, 900, 900, 0].map(|late| lag(&mut load, late)), [0; 5]);
        }
        let grown: Vec<u16> = (0..8).map(|_| lag(&mut load, 250)).collect();
        assert_eq!(grown, [0, 0, 0, 0, 40, 80, 120, 160], "two times the lag, from the fifth tick on");
    }

    #[test]
    fn it_goes_back_slowly_and_stands_between_half_the_lag_and_all_of_it() {
        let mut load = Load::default();
        (0..40).for_each(|_| {
            lag(&mut load, 10_000);
        });
        assert_eq!(lag(&mut load, 10_000), Pressure::ALL.0);
        assert_eq!([60, 60, 60].map(|late| lag(&mut load, late)), [Pressure::ALL.0; 3]);
        assert_eq!([10, 10, 10].map(|late| lag(&mut load, late)), [2950, 2900, 2850]);
        (0..60).for_each(|_| {
            lag(&mut load, 0);
        });
        assert_eq!(lag(&mut load, 0), 0);
    }

    #[test]
    fn low_priority_goes_first_and_high_last() {
        let shed = |pressure: u16| {
            [Priority::Low, Priority::Normal, Priority::High]
                .map(|priority| (0..1000).filter(|draw| Pressure(pressure).sheds(priority, *draw)).count())
        };
        assert_eq!(shed(0), [0, 0, 0]);
        assert_eq!(shed(400), [400, 0, 0]);
        assert_eq!(shed(1300), [1000, 300, 0]);
        assert_eq!(shed(2000), [1000, 1000, 0]);
        assert_eq!(shed(2500), [1000, 1000, 500]);
        assert_eq!(shed(3000), [1000, 1000, 1000]);
    }

    #[test]
    fn memory_has_two_thresholds_and_leaves_each_some_way_below() {
        let mut load = Load::default();
        let mut at = |percent: u32| {
            let verdict = load.observe(&THRESHOLDS, Duration::ZERO, Some(percent));
            (verdict.pressure.0, verdict.closes_idle)
        };
        assert_eq!([94, 95, 97].map(&mut at), [(0, false), (2000, false), (2000, false)]);
        assert_eq!([98, 96, 95].map(&mut at), [(3000, true), (3000, true), (3000, true)]);
        assert_eq!([94, 92, 91, 94].map(&mut at), [(2000, false), (2000, false), (0, false), (0, false)]);
    }

    #[test]
    fn who_is_behind_keeps_what_is_spare_if_there_is_memory() {
        let mut load = Load::default();
        let mut keeps =
            |late, percent| load.observe(&THRESHOLDS, Duration::from_millis(late), Some(percent)).keeps_spare;
        assert_eq!([30; 6].map(|late| keeps(late, 50)), [false, false, false, false, true, true]);
        assert!(!keeps(30, 95));
        assert!(keeps(30, 50) && !keeps(24, 50));
    }

    #[test]
    fn nothing_is_shed_where_nothing_was_asked_for() {
        let mut load = Load::default();
        let off = Thresholds { lag: Duration::ZERO, ..THRESHOLDS };
        for _ in 0..10 {
            assert!(load.observe(&off, Duration::from_secs(60), None).pressure.is_none());
        }
    }
}
