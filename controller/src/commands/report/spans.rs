//! When a run had a box, and what lies between the times in which it trained (pure).

use crate::{ledger::Interval, store::AttemptRecord};

pub(super) use crate::run::trained::{Span, seconds};

/// When an attempt had a box that was paid for; from its beginning to its end where nothing was.
pub(super) fn rented(attempt: &AttemptRecord, intervals: &[Interval], now_us: i64) -> Span {
    let own = || {
        let mine = |interval: &&Interval| interval.attempt == attempt.number;
        intervals.iter().filter(mine)
    };
    let from_us = own().map(|interval| interval.from_us).min();
    let to_us = own().map(|interval| interval.to_us.unwrap_or(now_us)).max();
    let over_us = match (attempt.gone_us, attempt.state.is_active()) {
        (gone_us @ 1.., _) => gone_us,
        (_, true) => now_us,
        (_, false) => attempt.state_us,
    };
    let from_us = from_us.unwrap_or(attempt.created_us);
    (from_us, to_us.unwrap_or(over_us).max(from_us))
}

/// What lies between spans, from a beginning to an end.
pub(super) fn between(spans: &[Span], (from_us, to_us): Span) -> Vec<Span> {
    let mut spans = spans.to_vec();
    spans.sort_unstable();
    let mut free = Vec::new();
    let mut at_us = from_us;
    for (begin_us, end_us) in spans {
        if begin_us > at_us {
            free.push((at_us, begin_us.min(to_us)));
        }
        at_us = at_us.max(end_us);
    }
    if at_us < to_us {
        free.push((at_us, to_us));
    }
    free.retain(|(begin_us, end_us)| end_us > begin_us);
    free
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ledger::CostKind, run::summary::attempt_for_tests};

    #[test]
    fn time_in_which_nothing_trained_is_what_is_left() {
        assert_eq!(
            between(&[(50, 60), (10, 20), (15, 30)], (0, 100)),
            [(0, 10), (30, 50), (60, 100)]
        );
        assert_eq!(between(&[(0, 100)], (0, 100)), []);
        assert_eq!(between(&[], (5, 7)), [(5, 7)]);
    }

    #[test]
    fn a_box_is_there_while_it_is_paid_for() {
        let attempt = attempt_for_tests(1);
        assert_eq!(rented(&attempt, &[], 100), (0, 2));
        let interval = |from_us, to_us| Interval {
            attempt: 1,
            kind: CostKind::Disk,
            from_us,
            to_us,
            usd_per_hour: 1.0,
        };
        let paid = [interval(7, Some(20)), interval(10, None)];
        assert_eq!(rented(&attempt, &paid, 100), (7, 100));
    }
}
