//! What ended a training or a smoke, as the agent found it out and told as an event (pure over events).

use serde::Serialize;
use serde_json::Value;

use crate::{
    run::bringing_up::TRAIN,
    store::{AttemptRecord, EventRecord, Store, StoreError},
};

/// Kind of the agent's event.
pub(crate) const KIND: &str = "session.diagnosed";

/// What ended a session, what it means and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// `train`, `smoke` or `setup`.
    pub session: String,
    /// Class, such as `cuda_oom`; see `parse` in `docs/json.md`.
    pub class: String,
    /// The line that shows it, or what shows it where no line does.
    pub evidence: String,
    /// Number of that line in the session's log, from 1.
    pub line: Option<u64>,
    /// What happened.
    pub meaning: String,
    /// What to do next.
    pub advice: String,
}

impl Diagnosis {
    /// Its class and the line that shows it, a clause; a line that is `said` already is only pointed to.
    pub fn shown(&self, said: &[String]) -> String {
        let Self {
            class, evidence, ..
        } = self;
        let line = self
            .line
            .map_or_else(String::new, |line| format!(" (line {line} of its log)"));
        match said.iter().any(|said| said.contains(evidence.as_str())) {
            true => format!("{class}{line}"),
            false => format!("{class}{line}: {evidence}"),
        }
    }
}

/// What ended this life of an attempt; `None` while nothing did, and where nobody can tell.
pub fn of(store: &Store, attempt: &AttemptRecord) -> Result<Option<Diagnosis>, StoreError> {
    let newest = store.newest_event(&attempt.run, attempt.number, KIND)?;
    Ok(newest.and_then(|event| read(&event, attempt)))
}

/// The same from the events of a run.
pub fn among(events: &[EventRecord], attempt: &AttemptRecord) -> Option<Diagnosis> {
    events
        .iter()
        .rev()
        .find(|event| event.attempt == attempt.number && event.kind == KIND)
        .and_then(|event| read(event, attempt))
}

fn read(event: &EventRecord, attempt: &AttemptRecord) -> Option<Diagnosis> {
    let text = |key: &str| match &event.detail[key] {
        Value::String(text) => text.clone(),
        _ => String::new(),
    };
    let session = text("session");
    // The agent tells of every session, also of those of an earlier life of the box.
    let is_of_this_life = match session == TRAIN {
        true => event.detail["started_us"].as_i64() == Some(attempt.started_us),
        false => attempt.awaits_training() && event.time_us >= attempt.reopened_us,
    };
    is_of_this_life.then(|| Diagnosis {
        class: text("class"),
        evidence: text("evidence"),
        line: event.detail["line"].as_u64(),
        meaning: text("meaning"),
        advice: text("advice"),
        session,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{run::State, store::Origin};

    fn event(detail: Value) -> EventRecord {
        EventRecord {
            id: 1,
            attempt: 1,
            origin: Origin::Agent,
            seq: 1,
            time_us: 50,
            kind: KIND.to_owned(),
            detail,
        }
    }

    #[test]
    fn a_line_that_is_told_already_is_only_pointed_to() {
        let found = Diagnosis {
            session: "train".to_owned(),
            class: "python_error".to_owned(),
            evidence: "ValueError: bad".to_owned(),
            line: Some(7),
            meaning: String::new(),
            advice: String::new(),
        };
        for (said, expected) in [
            (
                "the training has exited with code 1: ValueError: bad",
                "python_error (line 7 of its log)",
            ),
            (
                "the training has exited with code 1",
                "python_error (line 7 of its log): ValueError: bad",
            ),
        ] {
            assert_eq!(found.shown(&[said.to_owned()]), expected);
        }
    }

    #[test]
    fn only_what_ended_this_life_of_an_attempt_counts() {
        let oom = |session: &str, started_us: u64| {
            event(json!({
                "session": session, "started_us": started_us, "class": "cuda_oom", "evidence": "CUDA out of memory",
                "line": 7, "meaning": "the GPU's memory was full", "advice": "halve micro_batch",
            }))
        };
        for (event, started_us, reopened_us, expected) in [
            (oom("train", 40), 40, 0, true),
            (oom("train", 30), 40, 0, false),
            (oom("smoke", 30), 0, 0, true),
            (oom("smoke", 30), 40, 0, false),
            (oom("smoke", 30), 0, 60, false),
        ] {
            let mut attempt = crate::run::summary::attempt_for_tests(1);
            attempt.state = State::Running;
            attempt.started_us = started_us;
            attempt.reopened_us = reopened_us;
            let found = among(std::slice::from_ref(&event), &attempt);
            assert_eq!(found.is_some(), expected, "{event:?} {started_us}");
            if let Some(found) = found {
                assert_eq!((found.class.as_str(), found.line), ("cuda_oom", Some(7)));
            }
        }
    }
}
