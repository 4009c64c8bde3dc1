//! A training that has ended on its box while the record still calls it running: its end as the box told it, for whoever only looks.

use serde::Serialize;

use super::{State, bringing_up::TRAIN, restarts::RESTARTED};
use crate::{
    agent_client::{SessionInfo, SessionState},
    provider::hosts::is_host,
    store::{AttemptRecord, EventRecord, RunRecord, Store, StoreError},
};

/// How a training ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// With exit code 0.
    Finished,
    /// With another one, by a signal, or for want of memory.
    Failed,
    /// It was ended: by its box, or by somebody on it.
    Stopped,
    /// It went with a restart of its box, and was not started again.
    Interrupted,
}

impl How {
    /// The same as a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
            Self::Interrupted => "interrupted",
        }
    }
}

/// The end of a training that nobody has collected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TrainingEnd {
    /// How it ended.
    pub how: How,
    /// Its exit code or signal, as a clause.
    pub text: String,
    /// When, by the clock of its box, microseconds since the epoch.
    pub ended_us: i64,
    /// Its box is rented, and paid for until somebody comes.
    pub billing: bool,
}

impl TrainingEnd {
    /// Where the run stands, in a word or two.
    pub fn standing(&self) -> String {
        match self.billing {
            true => format!("{}, still billing", self.how.word()),
            false => format!("{}, not collected", self.how.word()),
        }
    }

    /// What is told of it, a sentence without its stop.
    pub fn words(&self) -> String {
        let rest = match self.billing {
            true => "nobody has collected it, and its box is still paid for",
            false => "nobody has collected it",
        };
        format!("the training {}; {rest}", self.text)
    }
}

/// The end that the newest box of a run told of; `None`: it trains as far as is known, or the record knows of its end.
///
/// # Errors
/// When the record cannot be read.
pub fn of(
    store: &Store,
    run: &RunRecord,
    attempt: &AttemptRecord,
) -> Result<Option<TrainingEnd>, StoreError> {
    if run.outcome.is_some() || attempt.state != State::Running {
        return Ok(None);
    }
    let mut told = Vec::new();
    for kind in KINDS {
        told.extend(store.events_of(&run.name, attempt.number, kind)?);
    }
    Ok(among(&told, attempt))
}

/// The same by what its box says now, which tells no event where its disk is full.
pub fn of_box(session: &SessionInfo, attempt: &AttemptRecord) -> Option<TrainingEnd> {
    let state = match session.state {
        SessionState::Running => return None,
        SessionState::Stopped => "stopped",
        SessionState::Lost => "lost",
        SessionState::Oom => "oom",
        SessionState::Exited | SessionState::Signalled => "",
    };
    let started_us = session.started_us.cast_signed();
    let is_now = attempt.state == State::Running && started_us >= attempt.started_us;
    let (how, text) = how(
        state,
        session.exit_code.map(i64::from),
        session.signal.map(i64::from),
    );
    is_now.then(|| TrainingEnd {
        how,
        text,
        ended_us: session.ended_us.unwrap_or_default().cast_signed(),
        billing: !attempt.instance.is_some_and(is_host),
    })
}

/// Events that tell of it.
const KINDS: [&str; 3] = ["session.started", ENDED, RESTARTED];
const ENDED: &str = "session.ended";

/// Whether an event of this kind decides it: whoever keeps some of the events keeps these.
pub fn counts(kind: &str) -> bool {
    KINDS.contains(&kind)
}

/// The same by the events of a run in any order (pure).
pub fn among(events: &[EventRecord], attempt: &AttemptRecord) -> Option<TrainingEnd> {
    let is_training = |event: &EventRecord| event.detail["session"] == TRAIN;
    let told = events.iter().filter(|event| {
        event.attempt == attempt.number
            && counts(&event.kind)
            && (event.kind == RESTARTED || is_training(event))
    });
    let newest = told.max_by_key(|event| event.id)?;
    let detail = &newest.detail;
    let is_old = detail["started_us"]
        .as_i64()
        .is_some_and(|started_us| started_us < attempt.started_us);
    if newest.kind != ENDED || is_old {
        return None;
    }
    let (how, text) = how(
        detail["state"].as_str().unwrap_or_default(),
        detail["exit_code"].as_i64(),
        detail["signal"].as_i64(),
    );
    Some(TrainingEnd {
        how,
        text,
        ended_us: detail["ended_us"].as_i64().unwrap_or(newest.time_us),
        billing: !attempt.instance.is_some_and(is_host),
    })
}

/// How a session ended, by the words of its box.
fn how(state: &str, exit_code: Option<i64>, signal: Option<i64>) -> (How, String) {
    match (state, exit_code, signal) {
        ("stopped", ..) => (How::Stopped, "was ended on its box".to_owned()),
        ("lost", ..) => (
            How::Interrupted,
            "went with a restart of its box".to_owned(),
        ),
        ("oom", ..) => (
            How::Failed,
            "was ended by the out-of-memory killer".to_owned(),
        ),
        (_, Some(0), _) => (How::Finished, "has ended with exit code 0".to_owned()),
        (_, Some(code), _) => (How::Failed, format!("has ended with exit code {code}")),
        (_, None, Some(signal)) => (How::Failed, format!("was ended by signal {signal}")),
        (_, None, None) => (How::Failed, "has ended".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{run::summary::attempt_for_tests, store::Origin};

    /// What is told of an attempt whose training began at 100.
    #[track_caller]
    fn check(told: &[(&str, Value)], expected: Option<(How, &str)>) {
        let event = |(at, (kind, detail)): (usize, &(&str, Value))| EventRecord {
            id: at as i64,
            attempt: 1,
            origin: Origin::Agent,
            seq: at as u64,
            time_us: 500,
            kind: (*kind).to_owned(),
            detail: detail.clone(),
        };
        let events: Vec<EventRecord> = told.iter().enumerate().map(event).collect();
        let attempt = AttemptRecord {
            state: State::Running,
            started_us: 100,
            gone_us: 0,
            ..attempt_for_tests(1)
        };
        let found = among(&events, &attempt);
        let found = found.as_ref().map(|end| (end.how, end.text.as_str()));
        assert_eq!(found, expected, "{told:?}");
    }

    #[test]
    fn the_end_that_a_box_told_of_counts_whatever_the_record_says() {
        let started = |at: i64| {
            (
                "session.started",
                json!({"session": "train", "started_us": at}),
            )
        };
        let ended = |state: &str, code: Option<i64>, signal: Option<i64>| {
            (
                "session.ended",
                json!({"session": "train", "started_us": 100, "ended_us": 400, "state": state,
                       "exit_code": code, "signal": signal}),
            )
        };
        check(&[], None);
        check(&[started(100)], None);
        let well = ended("exited", Some(0), None);
        let finished = Some((How::Finished, "has ended with exit code 0"));
        check(&[started(100), well.clone()], finished);
        // Who watched from the laptop may have missed its start.
        check(std::slice::from_ref(&well), finished);
        for (end, expected) in [
            (
                ended("exited", Some(3), None),
                (How::Failed, "has ended with exit code 3"),
            ),
            (
                ended("signalled", None, Some(9)),
                (How::Failed, "was ended by signal 9"),
            ),
            (
                ended("oom", None, Some(9)),
                (How::Failed, "was ended by the out-of-memory killer"),
            ),
            (
                ended("stopped", None, Some(15)),
                (How::Stopped, "was ended on its box"),
            ),
            (
                ended("lost", None, None),
                (How::Interrupted, "went with a restart of its box"),
            ),
        ] {
            check(&[started(100), end], Some(expected));
        }
        // Another session, one of an earlier life, and one that the box started again.
        check(&[("session.ended", json!({"session": "setup"}))], None);
        let old = (
            "session.ended",
            json!({"session": "train", "started_us": 50}),
        );
        check(&[old], None);
        check(&[well.clone(), started(450)], None);
        let again = (RESTARTED, json!({"started_us": 450}));
        check(&[ended("lost", None, None), again], None);
    }

    #[test]
    fn what_is_told_says_whether_it_is_paid_for() {
        let end = |billing| TrainingEnd {
            how: How::Finished,
            text: "has ended with exit code 0".to_owned(),
            ended_us: 0,
            billing,
        };
        assert_eq!(end(true).standing(), "finished, still billing");
        assert_eq!(end(false).standing(), "finished, not collected");
        assert_eq!(
            end(true).words(),
            "the training has ended with exit code 0; nobody has collected it, and its box is still paid for"
        );
    }
}
