//! What one worker has seen of an endpoint lately, and when that is enough to leave it alone: so many failures in a
//! row, or more failures than answers. Pure; time is told in ticks of the worker's clock.

/// Failures are in a row if no two of them are further apart: half a minute.
const ROW_TICKS: u64 = 300;
/// Over this time the success rate is looked at: ten seconds.
const WINDOW_TICKS: u64 = 100;
/// With fewer requests in it, a rate says nothing.
const REQUESTS_MIN: u32 = 20;
/// Worst success rate that an endpoint may have, in percent.
const SUCCESS_PERCENT_MIN: u32 = 50;

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Outcomes {
    /// Failures in a row, and when the last of them was.
    row: u32,
    last: u64,
    /// Since when these are counted. Nobody looks at them before a failure, so that answers cost a store.
    since: u64,
    answered: u32,
    failed: u32,
}

impl Outcomes {
    pub(super) fn answered(&mut self) {
        self.row = 0;
        self.answered = self.answered.saturating_add(1);
    }

    /// Counts a failure and says whether there have been too many: `row_max` in a row, or by the rate. Counting begins
    /// anew then.
    pub(super) fn failed(&mut self, now: u64, row_max: u32) -> bool {
        if now.saturating_sub(self.last) > ROW_TICKS {
            self.row = 0;
        }
        if now.saturating_sub(self.since) > WINDOW_TICKS {
            (self.since, self.answered, self.failed) = (now, 0, 0);
        }
        (self.row, self.failed, self.last) = (self.row + 1, self.failed.saturating_add(1), now);
        let all = self.answered.saturating_add(self.failed);
        let rate = u64::from(self.answered) * 100 / u64::from(all);
        let too_many = self.row >= row_max || (all >= REQUESTS_MIN && rate < u64::from(SUCCESS_PERCENT_MIN));
        let too_many = too_many && row_max > 0;
        if too_many {
            *self = Self { last: now, since: now, ..Self::default() };
        }
        too_many
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_are_too_many_and_an_answer_between_them_begins_a_new_one() {
        let mut outcomes = Outcomes::default();
        let fails = |outcomes: &mut Outcomes| (0..4).map(|_| outcomes.failed(1, 5)).collect::<Vec<_>>();
        assert_eq!(fails(&mut outcomes), [false; 4]);
        outcomes.answered();
        assert_eq!(fails(&mut outcomes), [false; 4]);
        assert!(outcomes.failed(1, 5));
        assert_eq!(fails(&mut outcomes), [false; 4], "who was ejected begins anew");
        assert!(!outcomes.failed(1 + ROW_TICKS + 1, 5), "the others were long ago");
        assert!((0..100).all(|_| !outcomes.failed(1, 0)), "0 is never");
    }

    #[test]
    fn more_failures_than_answers_are_too_many_if_there_are_enough_of_both() {
        let mut outcomes = Outcomes::default();
        // Two failures for an answer: never three in a row.
        let at = (1..100).find(|_| {
            outcomes.answered();
            outcomes.failed(5, 3) || outcomes.failed(5, 3)
        });
        assert_eq!(at, Some(7), "at the twentieth, or soon after");
        // As many answers as failures are no reason, however long it goes on.
        let mut outcomes = Outcomes::default();
        for now in 0..1_000 {
            outcomes.answered();
            outcomes.answered();
            assert!(!outcomes.failed(now, 3));
        }
        // What was answered before the window counts for nothing.
        let mut outcomes = Outcomes::default();
        (0..1_000).for_each(|_| outcomes.answered());
        assert!(!outcomes.failed(200, 3));
        for _ in 0..5 {
            outcomes.answered();
            assert!(!outcomes.failed(200, 3) && !outcomes.failed(200, 3));
        }
    }
}
