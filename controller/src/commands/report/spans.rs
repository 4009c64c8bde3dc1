//! When a run had a box, when it trained, and when it did neither (pure).

use crate::{
    ledger::Interval,
    run::{State, trained::Times},
    store::{AttemptRecord, EventRecord},
};

pub(super) use crate::run::trained::{Span, seconds};

/// When an attempt trained, and when its box, which is paid for, gave no word, by the events of its run.
pub(super) fn times(attempt: &AttemptRecord, events: &[EventRecord], now_us: i64) -> Times {
    let until_us = match attempt.state {
        State::Running => now_us,
        _ => attempt.state_us,
    };
    Times::of(attempt.number, events, Some(until_us))
}

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
    use serde_json::Value;

    use super::*;
    use crate::{ledger::CostKind, run::summary::attempt_for_tests, store::Origin};

    #[test]
    fn a_training_that_goes_on_lasts_until_now_and_one_that_does_not_until_its_attempt_ended() {
        let running = EventRecord {
            id: 1,
            attempt: 1,
            origin: Origin::Spotter,
            seq: 1,
            time_us: 10,
            kind: "running".to_owned(),
            detail: Value::Null,
        };
        for (state, until_us) in [(State::Running, 100), (State::Gone, 90)] {
            let attempt = AttemptRecord {
                state,
                state_us: 90,
                ..attempt_for_tests(1)
            };
            let found = times(&attempt, std::slice::from_ref(&running), 100);
            assert_eq!(found.trained, [(10, until_us)]);
        }
    }

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
