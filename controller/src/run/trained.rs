//! When the training of an attempt went on, by its events, and when its box gave no word any more (pure). A box that was silent until it was
//! judged lost has trained, as far as anybody knows, until its last word.

use std::time::Duration;

use crate::{
    run::{
        State,
        bringing_up::TRAIN,
        marks::COMMITTED,
        restarts::RESTARTED,
        runtime::{ENDS, RUNNING},
        silence::{HEARD, SILENT},
    },
    store::{AttemptRecord, EventRecord, Origin},
};

/// From and to, microseconds since the epoch.
pub type Span = (i64, i64);

/// What is known of the time of an attempt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Times {
    /// It trained.
    pub trained: Vec<Span>,
    /// Its box, which trained before, gave no word, and was paid for until that was known. A silence that a word ended is none: it trained.
    pub silent: Vec<Span>,
}

impl Times {
    /// The times of an attempt up to now, or up to where its record says that it ended.
    pub fn so_far(attempt: &AttemptRecord, events: &[EventRecord], now_us: i64) -> Self {
        let until_us = match attempt.state {
            State::Running => now_us,
            _ => attempt.state_us,
        };
        Self::of(attempt.number, events, Some(until_us))
    }

    /// The times of an attempt, by the events of its run in any order; up to `until_us` where no end of its newest life was told, which is
    /// left out where that is `None`.
    pub fn of(attempt: u32, events: &[EventRecord], until_us: Option<i64>) -> Self {
        let mut own: Vec<&EventRecord> = events
            .iter()
            .filter(|event| event.attempt == attempt)
            .collect();
        own.sort_by_key(|event| (event.time_us, event.id));
        let mut times = Self::default();
        let (mut since_us, mut silent_us) = (None, None);
        // The newest moment of which the box itself told, be it by what it left in the bucket.
        let mut lived_us = None;
        for event in own {
            let at_us = event.time_us;
            let kind = event.kind.as_str();
            let told_us = |key: &str| event.detail[key].as_i64();
            if event.origin == Origin::Agent || kind == COMMITTED {
                lived_us = Some(at_us);
                silent_us = silent_us.map(|silent_us: i64| silent_us.max(at_us));
            }
            if kind == RUNNING {
                since_us = since_us.or(Some(at_us));
                silent_us = None;
            } else if kind == RESTARTED {
                times.end(since_us.take(), told_us("ended_us").unwrap_or(at_us), None);
                since_us = Some(at_us);
            } else if kind == REOPENED {
                // A box that was stopped while it was silent told no end, and nobody knows more than its last word.
                times.end(since_us.take(), silent_us.take().unwrap_or(at_us), None);
            } else if kind == SILENT {
                silent_us = told_us("since_us").or(Some(at_us)).max(lived_us);
            } else if kind == HEARD {
                silent_us = None;
            } else if ENDS.contains(&kind) || is_end(event) {
                let word_us = match event.origin {
                    // It gave a word then.
                    Origin::Agent => None,
                    // What the box told of since, it lived to see.
                    Origin::Spotter => {
                        let word_us = told_us(HEARD_US).or(silent_us);
                        word_us.map(|word_us| lived_us.map_or(word_us, |us: i64| us.max(word_us)))
                    }
                };
                times.end(since_us.take(), at_us, word_us);
                silent_us = None;
            }
        }
        if let Some(until_us) = until_us {
            times.end(since_us, until_us, silent_us);
        }
        times
    }

    /// A life is over whose last word was at `word_us`; `None`: it gave words until then.
    fn end(&mut self, since_us: Option<i64>, at_us: i64, word_us: Option<i64>) {
        let Some(since_us) = since_us else { return };
        let at_us = at_us.max(since_us);
        let word_us = word_us.map_or(at_us, |word_us| word_us.clamp(since_us, at_us));
        let is_some = |(from_us, to_us): &Span| to_us > from_us;
        self.trained
            .extend(Some((since_us, word_us)).filter(is_some));
        self.silent.extend(Some((word_us, at_us)).filter(is_some));
    }
}

/// Event with which the next life of an attempt begins, after its box was stopped or came back.
const REOPENED: &str = "reopened";

/// Of an event that tells that a box is lost, or was interrupted some time before that was believed: its last word, microseconds since the
/// epoch.
pub(crate) const HEARD_US: &str = "heard_us";

/// A box that is watched is heard every few seconds: an older word than this says that nobody watched.
const UNWATCHED_US: i64 = 60_000_000;

/// The last word of a box that says since when nobody watched it (pure): only a training that runs is watched so, and what was heard before it
/// began, perhaps in an earlier life of the same box, was not its.
pub(crate) fn watched_word(attempt: &AttemptRecord, word_us: Option<i64>) -> Option<i64> {
    let word_us = word_us.filter(|_| attempt.state == State::Running);
    word_us.map(|word_us| word_us.max(attempt.started_us))
}

/// Until when a box lived that is found interrupted now, as far as anybody knows; `None`: until now. `waited`: for so long it was seen not to
/// run before that was believed; `word_us`: its last word. One that nobody watched may have been gone since then.
pub(crate) fn heard_until(now_us: i64, waited: Duration, word_us: Option<i64>) -> Option<i64> {
    let waited_us = i64::try_from(waited.as_micros()).unwrap_or(i64::MAX);
    let seen_us = now_us.saturating_sub(waited_us);
    match word_us {
        Some(word_us) if seen_us.saturating_sub(word_us) > UNWATCHED_US => Some(word_us),
        _ => (waited_us > 0).then_some(seen_us),
    }
}

/// The training's own end, as its agent saw it.
fn is_end(event: &EventRecord) -> bool {
    event.kind == "session.ended" && event.detail["session"] == TRAIN
}

/// Seconds in all.
pub fn seconds(spans: &[Span]) -> f64 {
    let lasted = |(from_us, to_us): &Span| (to_us - from_us) as f64 / 1e6;
    // An empty sum of floats is -0.
    spans.iter().map(lasted).fold(0.0, |all, one| all + one)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::run::summary::attempt_for_tests;

    /// An event of spotter's, or of the box where its kind begins with `box:`.
    fn events(told: &[(&str, i64, Value)]) -> Vec<EventRecord> {
        let event = |(kind, time_us, detail): &(&str, i64, Value)| EventRecord {
            id: 1,
            attempt: 1,
            origin: match kind.starts_with("box:") {
                true => Origin::Agent,
                false => Origin::Spotter,
            },
            seq: 1,
            time_us: *time_us,
            kind: kind.trim_start_matches("box:").to_owned(),
            detail: detail.clone(),
        };
        told.iter().map(event).collect()
    }

    #[track_caller]
    fn check(
        told: &[(&str, i64, Value)],
        until_us: Option<i64>,
        trained: &[Span],
        silent: &[Span],
    ) {
        let found = Times::of(1, &events(told), until_us);
        assert_eq!(
            (found.trained.as_slice(), found.silent.as_slice()),
            (trained, silent)
        );
    }

    #[test]
    fn a_training_lasts_from_its_start_to_whatever_ended_it() {
        let no = || json!({});
        let ended = |session: &str| json!({"session": session});
        check(&[], Some(90), &[], &[]);
        check(&[("running", 10, no())], Some(100), &[(10, 100)], &[]);
        check(&[("running", 10, no())], None, &[], &[]);
        check(
            &[
                ("box:session.ended", 5, ended("smoke")),
                ("running", 10, no()),
                ("box:session.ended", 40, ended("smoke")),
                ("box:session.ended", 50, ended("train")),
                ("interrupted", 60, no()),
            ],
            Some(90),
            &[(10, 50)],
            &[],
        );
        check(
            &[
                ("running", 10, no()),
                ("box:training.restarted", 30, json!({"ended_us": 20})),
                ("interrupted", 40, no()),
                ("running", 70, no()),
            ],
            Some(100),
            &[(10, 20), (30, 40), (70, 100)],
            &[],
        );
        // A clock that is wrong makes no time.
        check(
            &[("running", 10, no()), ("lost", 12, json!({"heard_us": 4}))],
            Some(100),
            &[],
            &[(10, 12)],
        );
    }

    #[test]
    fn a_box_that_nobody_watched_lived_until_its_last_word() {
        const S: i64 = 1_000_000;
        for (waited_s, word_us, expected) in [
            // It was heard just now.
            (0, Some(995 * S), None),
            (0, Some(940 * S), None),
            // Its container ended a minute ago, and it was heard until then.
            (60, Some(935 * S), Some(940 * S)),
            // The laptop was asleep.
            (0, Some(400 * S), Some(400 * S)),
            (60, Some(400 * S), Some(400 * S)),
            // Nobody ever wrote down that it was heard.
            (0, None, None),
            (60, None, Some(940 * S)),
        ] {
            let found = heard_until(1000 * S, Duration::from_secs(waited_s), word_us);
            assert_eq!(found, expected, "{waited_s} {word_us:?}");
        }
    }

    #[test]
    fn only_a_training_that_runs_is_watched_and_an_earlier_life_is_none_of_it() {
        for (state, started_us, word_us, expected) in [
            (State::Running, 10, Some(50), Some(50)),
            // What was heard is of an earlier life of its box.
            (State::Running, 60, Some(50), Some(60)),
            (State::Running, 10, None, None),
            // Nobody keeps the word of a box that is brought up.
            (State::Loading, 10, Some(50), None),
            (State::Preparing, 10, Some(50), None),
            (State::Syncing, 0, Some(50), None),
        ] {
            let attempt = AttemptRecord {
                state,
                started_us,
                ..attempt_for_tests(1)
            };
            let found = watched_word(&attempt, word_us);
            assert_eq!(found, expected, "{state:?} {started_us} {word_us:?}");
        }
    }

    #[test]
    fn what_a_box_did_after_its_last_word_is_no_training() {
        let no = || json!({});
        // Judged lost at 60 by whoever had heard it at 20 for the last time.
        let lost = ("lost", 60, json!({"heard_us": 20}));
        check(
            &[("running", 10, no()), lost.clone()],
            Some(90),
            &[(10, 20)],
            &[(20, 60)],
        );
        // Its container ended at 48, and a minute later it was given up; the bucket has a word of 50.
        let gone = ("interrupted", 60, json!({"heard_us": 48}));
        check(
            &[("running", 10, no()), gone.clone()],
            Some(90),
            &[(10, 48)],
            &[(48, 60)],
        );
        for kind in ["box:checkpoint.committed", COMMITTED] {
            check(
                &[("running", 10, no()), (kind, 50, no()), gone.clone()],
                Some(90),
                &[(10, 50)],
                &[(50, 60)],
            );
        }
        // An older record does not say when.
        check(
            &[("running", 10, no()), ("lost", 60, no())],
            Some(90),
            &[(10, 60)],
            &[],
        );
        let silent = ("box_silent", 30, json!({"since_us": 25}));
        check(
            &[
                ("running", 10, no()),
                silent.clone(),
                ("interrupted", 60, no()),
            ],
            Some(90),
            &[(10, 25)],
            &[(25, 60)],
        );
        // Nobody knows yet; a stop that found nobody tells no end.
        check(
            &[("running", 10, no()), silent.clone()],
            Some(90),
            &[(10, 25)],
            &[(25, 90)],
        );
        // It was stopped as silent as it was, and days later it is gone on with.
        check(
            &[
                ("running", 10, no()),
                silent.clone(),
                ("reopened", 300, no()),
                ("running", 310, no()),
                ("interrupted", 330, no()),
            ],
            Some(400),
            &[(10, 25), (310, 330)],
            &[],
        );
        // It was heard again, and had trained on.
        check(
            &[
                ("running", 10, no()),
                silent.clone(),
                ("box_heard", 40, no()),
            ],
            Some(90),
            &[(10, 90)],
            &[],
        );
        // It told of what came after, or meanwhile, though nobody wrote down that it was heard.
        for (told_at, kind) in [(40, "box:checkpoint.committed"), (28, "box:window")] {
            check(
                &[
                    ("running", 10, no()),
                    silent.clone(),
                    (kind, told_at, no()),
                    ("interrupted", 60, no()),
                ],
                Some(90),
                &[(10, told_at)],
                &[(told_at, 60)],
            );
        }
        // What it left in the bucket is a word, too.
        check(
            &[
                ("running", 10, no()),
                ("box:checkpoint.committed", 28, no()),
                silent.clone(),
                ("interrupted", 60, no()),
            ],
            Some(90),
            &[(10, 28)],
            &[(28, 60)],
        );
        // What the box itself tells of that time, it lived to see.
        check(
            &[
                ("running", 10, no()),
                silent,
                ("box:training.ending", 35, no()),
            ],
            Some(90),
            &[(10, 35)],
            &[],
        );
    }

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
            let found = Times::so_far(&attempt, std::slice::from_ref(&running), 100);
            assert_eq!(found.trained, [(10, until_us)]);
        }
    }

    #[test]
    fn spans_are_summed_up() {
        assert_eq!(seconds(&[(0, 2_000_000), (5, 1_000_005)]), 3.0);
        assert_eq!(seconds(&[]).to_string(), "0");
    }
}
