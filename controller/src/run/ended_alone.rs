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

/// What the box of a training that has ended costs until somebody comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Billing {
    /// It runs: what it cost while it trained.
    Running,
    /// It is stopped: its disk alone.
    Disk,
    /// It is gone, or a host of one's own.
    Nothing,
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
    /// What its box costs until somebody comes.
    pub billing: Billing,
}

impl TrainingEnd {
    /// Where the run stands, in a word or two.
    pub fn standing(&self) -> String {
        let cost = match self.billing {
            Billing::Running => "still billing",
            Billing::Disk => "box stopped",
            Billing::Nothing => "not collected",
        };
        format!("{}, {cost}", self.how.word())
    }

    /// What is told of it, a sentence without its stop.
    pub fn words(&self) -> String {
        let rest = match self.billing {
            Billing::Running => "nobody has collected it, and its box is still paid for",
            Billing::Disk => {
                "nobody has collected it; its box is stopped, and its disk is still paid for"
            }
            Billing::Nothing => "nobody has collected it",
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
    for kind in KINDS.iter().chain(&BOX_ENDS) {
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
        // It answers.
        billing: billing(None, attempt),
    })
}

/// Events that tell of it.
const KINDS: [&str; 3] = ["session.started", ENDED, RESTARTED];
const ENDED: &str = "session.ended";
/// Events of a box that ends itself afterwards, the last one that it does not after all.
const BOX_ENDS: [&str; 3] = [STOPS, DESTROYS, "self_stop.withdrawn"];
const STOPS: &str = "self_stop";
const DESTROYS: &str = "self_destroy";

/// Whether an event of this kind decides it: whoever keeps some of the events keeps these.
pub fn counts(kind: &str) -> bool {
    KINDS.contains(&kind) || BOX_ENDS.contains(&kind)
}

/// The same by the events of a run in any order (pure).
pub fn among(events: &[EventRecord], attempt: &AttemptRecord) -> Option<TrainingEnd> {
    let is_training = |event: &EventRecord| event.detail["session"] == TRAIN;
    let told = events.iter().filter(|event| {
        event.attempt == attempt.number
            && KINDS.contains(&event.kind.as_str())
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
    // What it did in an earlier life says nothing of this one.
    let box_ends = events.iter().filter(|event| {
        event.attempt == attempt.number
            && event.time_us >= attempt.started_us
            && BOX_ENDS.contains(&event.kind.as_str())
    });
    let (how, text) = how(
        detail["state"].as_str().unwrap_or_default(),
        detail["exit_code"].as_i64(),
        detail["signal"].as_i64(),
    );
    Some(TrainingEnd {
        how,
        text,
        ended_us: detail["ended_us"].as_i64().unwrap_or(newest.time_us),
        billing: billing(box_ends.max_by_key(|event| event.id), attempt),
    })
}

/// What the box of an attempt costs after what it told last of an end of its own (pure).
fn billing(told: Option<&EventRecord>, attempt: &AttemptRecord) -> Billing {
    if attempt.instance.is_some_and(is_host) {
        return Billing::Nothing;
    }
    match told.map(|event| (event.kind.as_str(), &event.detail)) {
        Some((DESTROYS, _)) => Billing::Nothing,
        // It has no key to ask with.
        Some((STOPS, detail)) if detail["problem"].is_string() => Billing::Running,
        Some((STOPS, _)) => Billing::Disk,
        _ => Billing::Running,
    }
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
    use crate::{
        provider::hosts::{number, parse},
        run::summary::attempt_for_tests,
        store::Origin,
    };

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
        for (billing, standing, rest) in [
            (
                Billing::Running,
                "finished, still billing",
                ", and its box is still paid for",
            ),
            (
                Billing::Disk,
                "finished, box stopped",
                "; its box is stopped, and its disk is still paid for",
            ),
            (Billing::Nothing, "finished, not collected", ""),
        ] {
            let end = TrainingEnd {
                how: How::Finished,
                text: "has ended with exit code 0".to_owned(),
                ended_us: 0,
                billing,
            };
            let words = "the training has ended with exit code 0; nobody has collected it";
            assert_eq!(end.standing(), standing);
            assert_eq!(end.words(), format!("{words}{rest}"));
        }
    }

    #[test]
    fn a_box_that_ended_itself_is_not_told_as_billing() {
        let stops = (STOPS, json!({"reason": "done"}));
        let withdrawn = (BOX_ENDS[2], json!({"reason": "somebody came"}));
        let destroys = (DESTROYS, json!({"reason": "done"}));
        let cannot = (STOPS, json!({"reason": "done", "problem": "no key"}));
        let refused = (STOPS, json!({"reason": "done", "kept_because": "refused"}));
        for (instance, time_us, told, expected) in [
            (7, 500, vec![], Billing::Running),
            (7, 500, vec![stops.clone()], Billing::Disk),
            (7, 500, vec![destroys.clone()], Billing::Nothing),
            (7, 500, vec![cannot], Billing::Running),
            (7, 500, vec![destroys.clone(), refused], Billing::Disk),
            (7, 500, vec![destroys, withdrawn], Billing::Running),
            // In an earlier life of the box.
            (7, 99, vec![stops.clone()], Billing::Running),
            (
                number(&parse("me@box").unwrap()),
                500,
                vec![stops],
                Billing::Nothing,
            ),
        ] {
            let end =
                json!({"session": TRAIN, "state": "exited", "exit_code": 0, "started_us": 100});
            let event = |id: usize, time_us, kind: &str, detail: &Value| EventRecord {
                id: id as i64,
                attempt: 1,
                origin: Origin::Agent,
                seq: id as u64,
                time_us,
                kind: kind.to_owned(),
                detail: detail.clone(),
            };
            let mut events = vec![event(0, 400, ENDED, &end)];
            for (at, (kind, detail)) in told.iter().enumerate() {
                events.push(event(at + 1, time_us, kind, detail));
            }
            let attempt = AttemptRecord {
                state: State::Running,
                instance: Some(instance),
                started_us: 100,
                gone_us: 0,
                ..attempt_for_tests(1)
            };
            let found = among(&events, &attempt).unwrap();
            assert_eq!(found.billing, expected, "{time_us} {told:?}");
        }
    }
}
