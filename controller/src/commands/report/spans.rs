//! When a run had a box, when it trained, and when it did neither (pure).

use crate::{
    ledger::Interval,
    run::{
        State,
        bringing_up::TRAIN,
        restarts::RESTARTED,
        runtime::{ENDS, RUNNING},
    },
    store::{AttemptRecord, EventRecord},
};

/// From and to, microseconds since the epoch.
pub(super) type Span = (i64, i64);

/// When an attempt trained, by its events in the order of time.
pub(super) fn trained(attempt: &AttemptRecord, events: &[EventRecord], now_us: i64) -> Vec<Span> {
    let mut spans = Vec::new();
    let mut since_us = None;
    for event in events
        .iter()
        .filter(|event| event.attempt == attempt.number)
    {
        let time_us = event.time_us;
        if event.kind == RUNNING {
            since_us = since_us.or(Some(time_us));
        } else if event.kind == RESTARTED {
            let ended_us = event.detail["ended_us"].as_i64().unwrap_or(time_us);
            spans.extend(since_us.map(|since_us| (since_us, ended_us)));
            since_us = Some(time_us);
        } else if ENDS.contains(&event.kind.as_str()) || is_end(event) {
            spans.extend(since_us.take().map(|since_us| (since_us, time_us)));
        }
    }
    if let Some(since_us) = since_us {
        let until_us = match attempt.state {
            State::Running => now_us,
            _ => attempt.state_us,
        };
        spans.push((since_us, until_us));
    }
    spans.retain(|(from_us, to_us)| to_us > from_us);
    spans
}

/// The training's own end, as its agent saw it.
fn is_end(event: &EventRecord) -> bool {
    event.kind == "session.ended" && event.detail["session"] == TRAIN
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

/// Seconds in all.
pub(super) fn seconds(spans: &[Span]) -> f64 {
    let lasted = |(from_us, to_us): &Span| (to_us - from_us) as f64 / 1e6;
    // An empty sum of floats is -0.
    spans.iter().map(lasted).fold(0.0, |all, one| all + one)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{ledger::CostKind, run::summary::attempt_for_tests, store::Origin};

    fn check(events: &[(&str, i64, Value)], state: State, expected: &[Span]) {
        let events: Vec<EventRecord> = events
            .iter()
            .map(|(kind, time_us, detail)| EventRecord {
                id: 1,
                attempt: 1,
                origin: Origin::Agent,
                seq: 1,
                time_us: *time_us,
                kind: (*kind).to_owned(),
                detail: detail.clone(),
            })
            .collect();
        let attempt = AttemptRecord {
            state,
            state_us: 90,
            ..attempt_for_tests(1)
        };
        assert_eq!(trained(&attempt, &events, 100), expected);
    }

    #[test]
    fn a_training_lasts_from_its_start_to_whatever_ended_it() {
        let no = || json!({});
        let ended = |session: &str| json!({"session": session});
        check(&[], State::Gone, &[]);
        check(&[("running", 10, no())], State::Running, &[(10, 100)]);
        check(&[("running", 10, no())], State::Gone, &[(10, 90)]);
        check(
            &[
                ("session.ended", 5, ended("smoke")),
                ("running", 10, no()),
                ("session.ended", 40, ended("smoke")),
                ("session.ended", 50, ended("train")),
                ("interrupted", 60, no()),
            ],
            State::Gone,
            &[(10, 50)],
        );
        check(
            &[
                ("running", 10, no()),
                ("training.restarted", 30, json!({"ended_us": 20})),
                ("interrupted", 40, no()),
                ("running", 70, no()),
            ],
            State::Running,
            &[(10, 20), (30, 40), (70, 100)],
        );
    }

    #[test]
    fn time_in_which_nothing_trained_is_what_is_left() {
        assert_eq!(
            between(&[(50, 60), (10, 20), (15, 30)], (0, 100)),
            [(0, 10), (30, 50), (60, 100)]
        );
        assert_eq!(between(&[(0, 100)], (0, 100)), []);
        assert_eq!(between(&[], (5, 7)), [(5, 7)]);
        assert_eq!(seconds(&[(0, 2_000_000), (5, 1_000_005)]), 3.0);
        assert_eq!(seconds(&[]).to_string(), "0");
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
