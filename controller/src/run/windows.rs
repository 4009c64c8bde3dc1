//! The windows of an attempt, as its agent told them: the newest, what contradicts the estimate, and why a training was ended (pure over events).

use serde_json::Value;

use crate::{
    spec::Validate,
    store::{AttemptRecord, EventRecord, Store, StoreError},
};

/// Kinds of the agent's events.
pub const WINDOW: &str = "window";
pub(crate) const CONTRADICTED: &str = "window.contradicted";
const CLEARED: &str = "window.cleared";
pub(crate) const ENDING: &str = "training.ending";
/// Our own: a person wants the training to go on though it is contradicted.
pub const ACCEPTED: &str = "contradiction_accepted";

/// Why a box ended its training before its own end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoxEnding {
    /// It contradicted the estimate; otherwise a limit was reached.
    pub by_contradiction: bool,
    /// For people.
    pub reason: String,
}

/// The newest window of the training that runs, or ran last.
pub fn newest(store: &Store, attempt: &AttemptRecord) -> Result<Option<Value>, StoreError> {
    let event = of_this_training(store, attempt, WINDOW)?;
    Ok(event.map(|event| event.detail))
}

/// What contradicts the estimate now, in words; `None` when nothing does.
pub fn contradiction(store: &Store, attempt: &AttemptRecord) -> Result<Option<String>, StoreError> {
    let Some(told) = of_this_training(store, attempt, CONTRADICTED)? else {
        return Ok(None);
    };
    if of_this_training(store, attempt, CLEARED)?.is_some_and(|cleared| cleared.id > told.id) {
        return Ok(None);
    }
    // The newest window says it best; the telling one is as good where that is not here yet.
    let newest = of_this_training(store, attempt, WINDOW)?.unwrap_or(told);
    Ok(Some(words(&newest.detail)).filter(|words| !words.is_empty()))
}

/// Whether a silence of a whole window ends the training for what a window found; some of it is only worth a word.
pub fn is_grave(window: &Value) -> bool {
    window["contradictions"]
        .as_array()
        .is_some_and(|found| found.iter().any(|one| one["grave"] != false))
}

/// What a person may do about a contradiction that stands, a sentence.
pub fn answer(name: &str, validate: &Validate, window: Option<&Value>) -> String {
    let consequence = validate.consequence();
    if window.is_none_or(is_grave) {
        format!(
            "{consequence}; let it go on with `spotter accept {name}`, or end it with `spotter stop {name}`"
        )
    } else {
        format!("it goes on all the same; end it with `spotter stop {name}`")
    }
}

/// Why the box ended the training, if it did.
pub fn ending(store: &Store, attempt: &AttemptRecord) -> Result<Option<BoxEnding>, StoreError> {
    let event = of_this_training(store, attempt, ENDING)?;
    Ok(event.map(|event| BoxEnding {
        by_contradiction: event.detail["by"] == "contradiction",
        reason: event.detail["reason"]
            .as_str()
            .unwrap_or("a limit is reached")
            .to_owned(),
    }))
}

/// A person wants this training to go on: it was said of this training, or of one from which it was carried on by itself, after an
/// interruption and on the same GPUs. What a person started anew is asked about anew.
pub fn is_accepted(store: &Store, attempt: &AttemptRecord) -> Result<bool, StoreError> {
    let is_said_of = |attempt: &AttemptRecord| -> Result<bool, StoreError> {
        let event = store.newest_event(&attempt.run, attempt.number, ACCEPTED)?;
        Ok(event.is_some_and(|event| event.time_us >= attempt.started_us))
    };
    if is_said_of(attempt)? {
        return Ok(true);
    }
    for before in store.attempts(&attempt.run)?.iter().rev() {
        // One that never trained says nothing.
        if before.number >= attempt.number || before.started_us == 0 {
            continue;
        }
        if before.gpu != attempt.gpu || !was_taken(store, before)? {
            return Ok(false);
        }
        if is_said_of(before)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the market, or the end of its host, ended the training of an attempt, whatever became of its box since.
fn was_taken(store: &Store, attempt: &AttemptRecord) -> Result<bool, StoreError> {
    for kind in ["interrupted", "lost"] {
        let event = store.newest_event(&attempt.run, attempt.number, kind)?;
        if event.is_some_and(|event| event.time_us >= attempt.started_us) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The contradictions of a window, one sentence.
pub use spotter_trainlog::telling::contradictions as words;

/// One line about a window, for people.
pub fn line(window: &Value) -> String {
    let number = |key: &str| window[key].as_f64();
    let mut parts = Vec::new();
    if let Some(used) = number("gpu_utilisation_percent") {
        parts.push(format!("GPU {used:.0} %"));
    }
    if let (Some(peak), Some(total)) = (number("memory_peak_gib"), number("memory_total_gib")) {
        let mean =
            number("memory_percent").map_or_else(String::new, |mean| format!("{mean:.0} %, "));
        parts.push(format!("memory {mean}peak {peak:.1} of {total:.1} GiB"));
    }
    if let Some(speed) = number("actual_tokens_per_s") {
        let share = number("of_predicted").map_or_else(String::new, |share| {
            format!(" ({:.0} % of predicted)", share * 100.0)
        });
        parts.push(format!("{speed:.0} tokens/s{share}"));
    } else if let Some(seconds) = number("step_time_s") {
        parts.push(format!("{seconds:.2} s/step"));
    }
    if let Some(eta_s) = number("eta_s") {
        let shift = number("eta_shift_s").map_or_else(String::new, |shift| {
            format!(", {:+.0} min in this window", shift / 60.0)
        });
        parts.push(format!("{:.1} h left{shift}", eta_s / 3600.0));
    }
    if let Some(class) = window["bottleneck"]["class"].as_str() {
        parts.push(format!("held up by {class}"));
    }
    match parts.is_empty() {
        true => "nothing was seen".to_owned(),
        false => parts.join(", "),
    }
}

fn of_this_training(
    store: &Store,
    attempt: &AttemptRecord,
    kind: &str,
) -> Result<Option<EventRecord>, StoreError> {
    let event = store.newest_event(&attempt.run, attempt.number, kind)?;
    Ok(event.filter(|event| event.detail["started_us"].as_i64() == Some(attempt.started_us)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{clock::Clock, run::summary::attempt_for_tests, store::StoredEvent};

    #[test]
    fn only_what_is_grave_is_said_to_end_a_training() {
        let window =
            |grave: Value| json!({"contradictions": [{"trigger": "memory", "grave": grave}]});
        assert!(!answer("r", &Validate::default(), Some(&window(json!(false)))).contains("ended"));
        // An agent that does not say ends it for anything.
        for grave in [json!(true), Value::Null] {
            assert!(
                answer("r", &Validate::default(), Some(&window(grave)))
                    .contains("it is ended when")
            );
        }
        assert!(!is_grave(&json!({"contradictions": []})));
    }

    #[test]
    fn a_contradiction_stands_until_it_is_cleared_and_only_in_its_training() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.db"), Clock::new(|| 0)).unwrap();
        let mut attempt = attempt_for_tests(1);
        attempt.started_us = 7;
        let mut seq = 0;
        let mut tell = |kind: &str, started_us: u64, contradictions: Value| {
            seq += 1;
            let detail = json!({"started_us": started_us, "contradictions": contradictions});
            let kind = kind.to_owned();
            let event = StoredEvent {
                seq,
                time_us: 0,
                kind,
                detail,
            };
            store.append_events("r", 1, &[event]).unwrap();
        };
        let slow = json!([{"trigger": "throughput", "evidence": "slow"}]);
        let idle = json!([{"trigger": "gpu_idle", "evidence": "idle"}]);
        tell("window.contradicted", 3, slow.clone());
        assert_eq!(contradiction(&store, &attempt).unwrap(), None);
        tell("window", 7, slow.clone());
        tell("window.contradicted", 7, slow);
        assert_eq!(
            contradiction(&store, &attempt).unwrap().as_deref(),
            Some("slow")
        );
        tell("window", 7, idle);
        assert_eq!(
            contradiction(&store, &attempt).unwrap().as_deref(),
            Some("idle")
        );
        tell("window", 7, json!([]));
        tell("window.cleared", 7, json!([]));
        assert_eq!(contradiction(&store, &attempt).unwrap(), None);
        assert_eq!(ending(&store, &attempt).unwrap(), None);
    }

    #[test]
    fn a_window_is_one_line_of_what_was_seen() {
        for (window, expected) in [
            (json!({}), "nothing was seen"),
            (
                json!({"gpu_utilisation_percent": 41.2, "memory_percent": 80.0, "memory_peak_gib": 20.04, "memory_total_gib": 24.0,
                       "actual_tokens_per_s": 1180.0, "of_predicted": 0.55, "eta_s": 7200.0, "eta_shift_s": 600.0,
                       "bottleneck": {"class": "input", "evidence": "x"}}),
                "GPU 41 %, memory 80 %, peak 20.0 of 24.0 GiB, 1180 tokens/s (55 % of predicted), 2.0 h left, \
                 +10 min in this window, held up by input",
            ),
            (json!({"step_time_s": 0.5}), "0.50 s/step"),
        ] {
            assert_eq!(line(&window), expected);
        }
    }
}
