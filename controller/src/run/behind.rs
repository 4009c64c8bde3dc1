//! Whether the backup of an attempt failed, wherever its record stands, and what waits on its box: that a training is over saves nothing.

use serde::Serialize;

use super::{
    State,
    alarms::{self, OnBox},
    has_bucket,
    not_saved::NOT_SAVED,
};
use crate::{
    provider::InstanceId,
    store::{AttemptRecord, RunRecord, Store, StoreError},
};

/// A finished checkpoint on a box that does not train any more, and in no bucket yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Waits {
    /// Its attempt.
    pub attempt: u32,
    /// The box; `None`: it is gone, and the checkpoint with it.
    pub instance: Option<InstanceId>,
    /// Its step, where one is known.
    pub step: Option<u64>,
    /// Its name in the directory of checkpoints.
    pub path: String,
}

impl Waits {
    /// As a clause.
    pub fn text(&self) -> String {
        let step = self
            .step
            .map_or_else(String::new, |step| format!(" (step {step})"));
        let path = &self.path;
        let number = self.attempt;
        match self.instance {
            Some(_) => {
                format!(
                    "`{path}`{step} is finished on the box of attempt {number}, and not yet in the bucket"
                )
            }
            None => format!(
                "`{path}`{step} was finished on the box of attempt {number}, which is gone, and never reached the bucket"
            ),
        }
    }
}

/// What is wrong with the backup of an attempt, for people; `None`: nothing is, or nothing is left that it is about.
///
/// # Errors
/// When the record cannot be read.
pub fn backup(store: &Store, attempt: &AttemptRecord) -> Result<Option<String>, StoreError> {
    let (run, number) = (attempt.run.as_str(), attempt.number);
    let told = store.newest_event(run, number, NOT_SAVED)?;
    let told = told.filter(|told| {
        let what = told.detail["what"].as_str().unwrap_or_default();
        what.contains("checkpoint")
    });
    let not_saved = told.and_then(|told| Some(told.detail["reason"].as_str()?.to_owned()));
    Ok(verdict(Seen {
        state: attempt.state,
        alarm: alarms::backup(store, run, number)?,
        not_saved,
        failed: alarms::failed(store, run, number)?.pop(),
        waits: alarms::only_on_box(store, attempt)?.is_some(),
    }))
}

/// What is known of the backup of an attempt.
struct Seen {
    state: State,
    /// The newest alarm that nothing has ended.
    alarm: Option<String>,
    /// Why the last checkpoints were not saved when they were to be.
    not_saved: Option<String>,
    /// A checkpoint whose upload failed, and why.
    failed: Option<String>,
    /// The newest finished checkpoint is in no bucket.
    waits: bool,
}

/// What is wrong (pure). While it trains its box judges, which knows how long one may take; afterwards nothing more will come of itself.
fn verdict(seen: Seen) -> Option<String> {
    let refused = seen.not_saved.or(seen.alarm.clone()).or(seen.failed);
    match seen.state {
        State::Planned
        | State::Renting
        | State::Loading
        | State::Preparing
        | State::Syncing
        | State::Smoke => None,
        State::Running => seen.alarm,
        State::Finishing => refused,
        State::Collected
        | State::Gone
        | State::Interrupted
        | State::Failed
        | State::Waiting
        | State::Stopped
        | State::Lost => refused.filter(|_| seen.waits),
    }
}

/// What waits on a box of an attempt that does not train any more, or went with it; `None`: the bucket has all that was finished there,
/// or something newer. Nothing of a run without a bucket.
///
/// # Errors
/// When the record cannot be read.
pub fn waits(
    store: &Store,
    run: &RunRecord,
    attempt: &AttemptRecord,
) -> Result<Option<Waits>, StoreError> {
    let trained = attempt.started_us > 0 && attempt.state != State::Running;
    if !trained || attempt.awaits_training() || !has_bucket(run) {
        return Ok(None);
    }
    let newest = store
        .latest_attempt(&run.name)?
        .map_or(attempt.number, |newest| newest.number);
    let saved = alarms::newest_saved(store, &run.name, (attempt.number + 1..=newest).rev())?;
    let found = alarms::only_on_box(store, attempt)?;
    let is_newer =
        |found: &OnBox| found.step.is_none() || found.step > saved.and_then(|(step, _)| step);
    Ok(found.filter(is_newer).map(|found| Waits {
        attempt: attempt.number,
        instance: attempt.instance.filter(|_| attempt.may_cost()),
        step: found.step,
        path: found.path,
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{clock::Clock, run::summary::attempt_for_tests, spec::RunSpec, store::StoredEvent};

    #[test]
    fn a_backup_that_failed_is_told_wherever_the_record_stands_while_something_waits() {
        let check = |state, told: [Option<&str>; 3], waits, expected: Option<&str>| {
            let [alarm, not_saved, failed] = told.map(|word| word.map(str::to_owned));
            let found = verdict(Seen {
                state,
                alarm,
                not_saved,
                failed,
                waits,
            });
            assert_eq!(found.as_deref(), expected, "{state} {told:?} {waits}");
        };
        let (late, denied, failed) = (Some("late"), Some("denied"), Some("a.pt: denied"));
        // What is on its way while it trains is no fault, and one try that failed is the box's to judge.
        check(State::Running, [None, None, failed], true, None);
        check(State::Running, [late, None, failed], true, late);
        check(State::Finishing, [None, None, None], true, None);
        check(State::Finishing, [None, None, failed], true, failed);
        check(State::Finishing, [late, denied, failed], false, denied);
        for state in [
            State::Gone,
            State::Interrupted,
            State::Lost,
            State::Waiting,
            State::Stopped,
            State::Failed,
        ] {
            check(state, [late, None, failed], true, late);
            check(state, [None, None, failed], true, failed);
            check(state, [None, denied, None], true, denied);
            check(state, [None, None, None], true, None);
            // What it was about has reached the bucket since, or something newer has.
            check(state, [late, denied, failed], false, None);
        }
        check(State::Loading, [late, denied, failed], true, None);
    }

    #[test]
    fn what_waits_on_an_old_box_is_told_until_the_bucket_has_something_newer() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.db"), Clock::new(|| 0)).unwrap();
        let run = RunRecord {
            name: "r".to_owned(),
            spec: RunSpec::from_flags_for_tests(),
            created_us: 0,
            stop_requested: false,
            outcome: None,
            reason: None,
        };
        assert!(has_bucket(&run));
        store.create_run(&run).unwrap();
        for number in [1, 2] {
            let attempt = AttemptRecord {
                state: State::Planned,
                ..attempt_for_tests(number)
            };
            store.create_attempt(&attempt).unwrap();
        }
        let old = AttemptRecord {
            state: State::Interrupted,
            last_step: Some(410),
            gone_us: 0,
            ..attempt_for_tests(1)
        };
        let mut seq = 0;
        let mut note = |attempt: u32, kind: &str, step: u64| {
            seq += 1;
            let event = StoredEvent {
                seq,
                time_us: seq as i64,
                kind: kind.to_owned(),
                detail: json!({"path": format!("step_{step}.pt"), "step": step}),
            };
            store.append_events("r", attempt, &[event]).unwrap();
        };
        let told = |attempt: &AttemptRecord| waits(&store, &run, attempt).unwrap();
        note(1, "checkpoint.found", 300);
        note(1, "checkpoint.committed", 300);
        assert_eq!(told(&old), None);
        note(1, "checkpoint.found", 400);
        assert_eq!(
            told(&old).unwrap().text(),
            "`step_400.pt` (step 400) is finished on the box of attempt 1, and not yet in the bucket"
        );
        let running = AttemptRecord {
            state: State::Running,
            ..old.clone()
        };
        assert_eq!(told(&running), None);
        let gone = AttemptRecord {
            state: State::Gone,
            gone_us: 5,
            ..old.clone()
        };
        assert!(
            told(&gone)
                .unwrap()
                .text()
                .contains("never reached the bucket")
        );
        // The next one got further.
        note(2, "checkpoint.committed", 350);
        assert!(told(&old).is_some());
        note(2, "checkpoint.committed", 500);
        assert_eq!(told(&old), None);
    }
}
