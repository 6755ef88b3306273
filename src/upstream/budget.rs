//! How many requests a worker may send to a backend once more, so that endpoints which fail are not buried under what
//! they failed at: a share of the requests that the backend gets, and a few a second in any case. What never reached an endpoint is no
//! matter of it. Nothing is counted for it but what is counted anyway, and nobody looks before there is a retry.

/// A second, in ticks of the worker's clock.
const WINDOW_TICKS: u64 = 10;

/// What the operator allows.
#[derive(Debug, Clone, Copy)]
pub struct BudgetSettings {
    /// Of live requests: those under way, and those of the current second.
    pub percent: u32,
    /// A second, however few requests there are; of one worker.
    pub floor: u32,
}

/// The retries of the current second.
#[derive(Debug, Clone, Copy, Default)]
pub struct Budget {
    /// When it began, in ticks, and how many requests there had been.
    since: u64,
    requests_before: u64,
    retries: u64,
}

impl Budget {
    /// Takes a retry, if there is one left. `requests` is how many there have been, and `under_way` how many there are.
    pub fn take(&mut self, settings: BudgetSettings, now: u64, requests: u64, under_way: u32) -> bool {
        if now.saturating_sub(self.since) >= WINDOW_TICKS || self.requests_before > requests {
            *self = Self { since: now, requests_before: requests, retries: 0 };
        }
        let live = requests - self.requests_before + u64::from(under_way);
        let max = u64::from(settings.floor) + live.saturating_mul(settings.percent.into()) / 100;
        let left = self.retries < max;
        self.retries += u64::from(left);
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ticks;

    const USUAL: BudgetSettings = BudgetSettings { percent: 20, floor: 10 };

    fn taken(budget: &mut Budget, settings: BudgetSettings, now: u64, requests: u64, under_way: u32) -> usize {
        (0..1_000).filter(|_| budget.take(settings, now, requests, under_way)).count()
    }

    #[test]
    fn a_floor_and_a_share_of_live_requests_may_be_sent_once_more_each_second() {
        assert_eq!(WINDOW_TICKS, ticks(std::time::Duration::from_secs(1)));
        let mut budget = Budget::default();
        assert_eq!(taken(&mut budget, USUAL, 100, 5_000, 0), 10, "the floor alone: the others were before");
        assert_eq!(taken(&mut budget, USUAL, 105, 5_000, 0), 0, "the same second");
        assert_eq!(taken(&mut budget, USUAL, 106, 5_200, 0), 40, "a fifth of what came meanwhile");
        assert_eq!(taken(&mut budget, USUAL, 109, 5_200, 50), 10, "and of what waits");
        assert_eq!(taken(&mut budget, USUAL, 110, 5_200, 0), 10, "the next second");
    }

    #[test]
    fn nothing_is_allowed_where_the_operator_wants_none() {
        let none = BudgetSettings { percent: 0, floor: 0 };
        assert_eq!(taken(&mut Budget::default(), none, 1, 1_000, 1_000), 0);
        let share = BudgetSettings { percent: 100, floor: 0 };
        assert_eq!(taken(&mut Budget::default(), share, 1, 0, 7), 7);
    }
}
