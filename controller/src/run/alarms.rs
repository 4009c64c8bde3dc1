//! Whether the backup of an attempt is behind, by the events that its agent told: which file, and why.

use serde_json::Value;
use spotter_bucket::cadence;
use spotter_trainlog::telling;

use crate::{
    doctor::diagnosis::KeyFault,
    run::{State, handing::REFUSED, marks},
    store::{AttemptRecord, EventRecord, Store, StoreError},
};

/// What is wrong with the backup now, for people; `None` when nothing is.
pub fn backup(store: &Store, run: &str, attempt: u32) -> Result<Option<String>, StoreError> {
    let newest = |kind: &str| store.newest_event(run, attempt, kind);
    let Some(alarm) = newest("backup.alarm")? else {
        return Ok(None);
    };
    if newest("backup.recovered")?.is_some_and(|recovered| recovered.id > alarm.id) {
        return Ok(None);
    }
    let committed = newest("checkpoint.committed")?.map_or(0, |event| event.id);
    let failed = newest("checkpoint.failed")?.filter(|failed| failed.id > committed);
    Ok(Some(text(&alarm, failed.as_ref())))
}

/// Why the bucket refuses the keys of the box of an attempt that trains now, long before that makes its backup late; `None`: it does not, as far
/// as was told. An agent of an older release tells of nothing that it takes again but by what it commits. That its grants are used up is no word
/// of the bucket.
pub fn refused(store: &Store, attempt: &AttemptRecord) -> Result<Option<String>, StoreError> {
    let newest = |kind: &str| store.newest_event(&attempt.run, attempt.number, kind);
    let Some(wanted) = newest("credentials.wanted")?.filter(|_| attempt.state == State::Running)
    else {
        return Ok(None);
    };
    for settles in [
        "credentials.accepted",
        "checkpoint.committed",
        "bucket.probed",
    ] {
        if newest(settles)?.is_some_and(|event| event.id > wanted.id) {
            return Ok(None);
        }
    }
    Ok(word(&wanted.detail, "problem").filter(|why| why.contains(REFUSED)))
}

/// Checkpoints on the box that are in no bucket, each with the reason, as far as the agent told: those that cannot be saved as they
/// are, and one whose upload failed.
pub fn unsaved(store: &Store, run: &str, attempt: u32) -> Result<Vec<String>, StoreError> {
    left(
        store,
        run,
        attempt,
        &["checkpoint.unsaved", "checkpoint.failed"],
    )
}

/// Those of them whose upload failed, the newest last.
pub(super) fn failed(store: &Store, run: &str, attempt: u32) -> Result<Vec<String>, StoreError> {
    left(store, run, attempt, &["checkpoint.failed"])
}

/// What was told by events of these kinds, as long as nothing has settled it.
fn left(store: &Store, run: &str, attempt: u32, kinds: &[&str]) -> Result<Vec<String>, StoreError> {
    let mut told = Vec::new();
    for kind in kinds {
        told.extend(store.events_of(run, attempt, kind)?);
    }
    let mut settled = store.events_of(run, attempt, "checkpoint.committed")?;
    settled.extend(store.events_of(run, attempt, "checkpoint.deleted")?);
    told.sort_by_key(|event| event.id);
    let mut left: Vec<(String, String)> = Vec::new();
    for event in told {
        let Some(path) = word(&event.detail, "path") else {
            continue;
        };
        left.retain(|(known, _)| *known != path);
        let after = |other: &&EventRecord| {
            other.id > event.id && word(&other.detail, "path").as_ref() == Some(&path)
        };
        if settled.iter().find(after).is_none() {
            let why = word(&event.detail, "reason").or_else(|| word(&event.detail, "problem"));
            left.push((
                path,
                why.unwrap_or_else(|| "no reason was given".to_owned()),
            ));
        }
    }
    Ok(left
        .into_iter()
        .map(|(path, why)| format!("{path}: {why}"))
        .collect())
}

/// The newest checkpoint that finished on the box of an attempt and that no bucket is known to have, as its agent told; `None`: there
/// is none, or the bucket has a newer one of what this attempt trained. A commit of an earlier attempt beyond the step at which this one
/// went on is no such one: it was passed over, because it is damaged. A name without a number is overtaken by none, and counts as the
/// furthest step that was seen, or as further than any where none was.
pub fn only_on_box(store: &Store, attempt: &AttemptRecord) -> Result<Option<OnBox>, StoreError> {
    let run = &attempt.run;
    let mut saved_step = None;
    for number in 1..=attempt.number {
        for event in store.events_of(run, number, "checkpoint.committed")? {
            let step = event.detail["step"].as_u64();
            if number == attempt.number || step <= attempt.resumed_step {
                saved_step = saved_step.max(step);
            }
        }
    }
    let mut settled = store.events_of(run, attempt.number, "checkpoint.committed")?;
    settled.extend(store.events_of(run, attempt.number, "checkpoint.deleted")?);
    let found = store.events_of(run, attempt.number, "checkpoint.found")?;
    let left = found.into_iter().filter_map(|event| {
        let path = word(&event.detail, "path")?;
        let is_settled = |other: &EventRecord| {
            other.id > event.id && word(&other.detail, "path").as_ref() == Some(&path)
        };
        let named = event.detail["step"].as_u64();
        let is_newer = named.is_none() || named > saved_step;
        // A log may be behind what is saved.
        let seen = attempt.last_step;
        let seen = seen.map(|seen| seen.max(saved_step.unwrap_or(0)));
        let step = named.or(seen);
        (!settled.iter().any(is_settled) && is_newer).then_some(OnBox { step, path })
    });
    Ok(left.max_by_key(OnBox::order))
}

/// A checkpoint that is on a box and nowhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnBox {
    /// Its step, where one is known.
    pub step: Option<u64>,
    /// Its name in the directory of checkpoints.
    pub path: String,
}

impl OnBox {
    /// The step at which it is trained again: never, where nobody knows which it is.
    pub fn order(&self) -> u64 {
        self.step.unwrap_or(u64::MAX)
    }
}

/// The newest checkpoint that reached the bucket, which is what was last written, as [`marks::written`] orders them: its step, if its
/// name has one, and when it got there.
pub fn newest_saved(
    store: &Store,
    run: &str,
    attempts: impl Iterator<Item = u32>,
) -> Result<Option<(Option<u64>, i64)>, StoreError> {
    for attempt in attempts {
        let committed = store.events_of(run, attempt, "checkpoint.committed")?;
        let newest = committed.into_iter().max_by_key(marks::written);
        if let Some(event) = newest {
            return Ok(Some((event.detail["step"].as_u64(), event.time_us)));
        }
    }
    Ok(None)
}

/// What is told of a training that saves too rarely, and what to set.
pub fn rare(store: &Store, run: &str, attempt: u32) -> Result<Option<String>, StoreError> {
    let ended = store.newest_event(run, attempt, cadence::ENDED)?;
    let ended = ended.map_or(0, |event| event.id);
    let event = store.newest_event(run, attempt, cadence::EVENT)?;
    let event = event.filter(|event| event.id > ended);
    Ok(event.and_then(|event| word(&event.detail, "text")))
}

/// That the disk of the box will be too small for the checkpoints to come, and what to do; `None` while it is large enough.
pub fn disk(store: &Store, run: &str, attempt: u32) -> Result<Option<String>, StoreError> {
    let newest = |kind: &str| store.newest_event(run, attempt, kind);
    let Some(filling) = newest("disk.filling")? else {
        return Ok(None);
    };
    if newest("disk.enough")?.is_some_and(|enough| enough.id > filling.id) {
        return Ok(None);
    }
    Ok(Some(telling::filling(run, &filling.detail)))
}

/// What to do about keys that a bucket refuses, by the words of an alarm or of the box; `None`: they name no fault of keys.
pub fn mend_keys(run: &str, refusal: &str) -> Option<String> {
    let fault = KeyFault::of_answer(refusal)?;
    Some(fault.hint(None, &format!("`spotter up {run}`")))
}

fn word(detail: &Value, key: &str) -> Option<String> {
    let word = detail[key].as_str().filter(|word| !word.is_empty());
    word.map(str::to_owned)
}

/// The alarm's reason, and the file that is in its way where one is.
fn text(alarm: &EventRecord, failed: Option<&EventRecord>) -> String {
    let reason = word(&alarm.detail, "reason").unwrap_or_else(|| "no commit in time".to_owned());
    let file = failed.and_then(|failed| {
        let path = word(&failed.detail, "path")?;
        Some(match word(&failed.detail, "problem") {
            Some(problem) => format!("{path}: {problem}"),
            None => path,
        })
    });
    match file.or_else(|| word(&alarm.detail, "problem")) {
        Some(more) => format!("{reason} ({more})"),
        None => reason,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{clock::Clock, store::StoredEvent};

    #[test]
    fn a_refusal_of_the_bucket_is_told_until_something_settles_it() {
        for settles in [
            "credentials.accepted",
            "checkpoint.committed",
            "bucket.probed",
        ] {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(&dir.path().join("store.db"), Clock::new(|| 0)).unwrap();
            let mut seq = 0;
            let mut told = |state: State, kind: &str, problem: &str| {
                seq += 1;
                let event = StoredEvent {
                    seq,
                    time_us: 1,
                    kind: kind.to_owned(),
                    detail: json!({"problem": problem}),
                };
                store.append_events("r", 1, &[event]).unwrap();
                let attempt = AttemptRecord {
                    state,
                    ..crate::run::summary::attempt_for_tests(1)
                };
                refused(&store, &attempt).unwrap()
            };
            let used_up = "the grants of this box are used up";
            let refusal = "the bucket refuses our keys: 403";
            for (state, kind, problem, expected) in [
                (State::Running, "checkpoint.committed", "", None),
                // Nobody asked the bucket.
                (State::Running, "credentials.wanted", used_up, None),
                (State::Running, "credentials.wanted", refusal, Some(refusal)),
                (State::Running, "checkpoint.found", "", Some(refusal)),
                (State::Finishing, "checkpoint.found", "", None),
                (State::Running, settles, "", None),
                (State::Running, "credentials.wanted", refusal, Some(refusal)),
            ] {
                let found = told(state, kind, problem);
                assert_eq!(
                    found.as_deref(),
                    expected,
                    "{settles} {state} {kind} {problem}"
                );
            }
        }
    }

    #[test]
    fn a_disk_that_fills_is_told_with_when_why_and_what_to_do() {
        for (detail, expected) in [
            (
                json!({"free_bytes": 35_u64 << 30, "largest_bytes": 30_u64 << 30, "fit": 1, "kept": 3, "full_in_s": 1190, "behind": false}),
                "the box's disk has room for one more checkpoint and is full in about 20 min, which ends the training: 35.0 GiB are free, \
                 one has 30.0 GiB, and `checkpoints.keep` holds 3 of them there; make room with `spotter ssh r`, or `spotter stop r` and \
                 rent more with `resources.disk`",
            ),
            (
                json!({"free_bytes": 600_u64 << 20, "largest_bytes": 30_u64 << 30, "fit": 0, "kept": 3, "full_in_s": null, "behind": true}),
                "the box's disk has no room for the next checkpoint: 600.0 MiB are free, one has 30.0 GiB, and none is deleted while the \
                 backup is behind; make room with `spotter ssh r`, or `spotter stop r` and rent more with `resources.disk`",
            ),
        ] {
            assert_eq!(telling::filling("r", &detail), expected);
        }
    }

    #[test]
    fn an_alarm_names_its_file_and_its_reason_until_the_backup_has_recovered() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.db"), Clock::new(|| 0)).unwrap();
        let mut seq = 0;
        let mut check = |kind: &str, detail: Value, expected: Option<&str>| {
            seq += 1;
            let event = StoredEvent {
                seq,
                time_us: 0,
                kind: kind.to_owned(),
                detail,
            };
            store.append_events("r", 1, &[event]).unwrap();
            assert_eq!(backup(&store, "r", 1).unwrap().as_deref(), expected);
        };
        let refused = json!({"path": "step-20.pt", "step": 20, "problem": "access denied"});
        check("checkpoint.failed", refused.clone(), None);
        let late = json!({"reason": "a finished checkpoint has waited 601 s", "problem": ""});
        let named = "a finished checkpoint has waited 601 s (step-20.pt: access denied)";
        check("backup.alarm", late.clone(), Some(named));
        check("backup.recovered", json!({}), None);
        check("checkpoint.committed", json!({"step": 20}), None);
        let plain = "a finished checkpoint has waited 601 s";
        check("backup.alarm", late, Some(plain));
    }

    #[test]
    fn what_is_in_no_bucket_is_named_until_it_is_or_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.db"), Clock::new(|| 0)).unwrap();
        let mut seq = 0;
        let mut check = |kind: &str, path: &str, reason: &str, expected: &[&str]| {
            seq += 1;
            let event = StoredEvent {
                seq,
                time_us: i64::try_from(seq).unwrap(),
                kind: kind.to_owned(),
                detail: json!({"path": path, "reason": reason, "step": seq}),
            };
            store.append_events("r", 1, &[event]).unwrap();
            assert_eq!(unsaved(&store, "r", 1).unwrap(), expected);
        };
        check(
            "checkpoint.unsaved",
            "a.pt",
            "cut short",
            &["a.pt: cut short"],
        );
        check("checkpoint.committed", "b.pt", "", &["a.pt: cut short"]);
        check(
            "checkpoint.failed",
            "c.pt",
            "denied",
            &["a.pt: cut short", "c.pt: denied"],
        );
        check(
            "checkpoint.unsaved",
            "a.pt",
            "still open",
            &["c.pt: denied", "a.pt: still open"],
        );
        check("checkpoint.committed", "c.pt", "", &["a.pt: still open"]);
        check("checkpoint.deleted", "a.pt", "", &[]);
        let saved = newest_saved(&store, "r", [2, 1].into_iter()).unwrap();
        assert_eq!(saved, Some((Some(5), 5)));
        assert_eq!(newest_saved(&store, "r", std::iter::empty()).unwrap(), None);
    }

    #[test]
    fn the_newest_that_is_saved_is_what_was_last_written_and_not_the_highest_step() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.db"), Clock::new(|| 0)).unwrap();
        let mut seq = 0;
        let mut check = |written_ms, step: Option<u64>, expected| {
            seq += 1;
            let ulid = ulid::Ulid::from_parts(written_ms, 1);
            let id = spotter_bucket::CommitId {
                step: step.unwrap_or(0),
                ulid,
            };
            let event = StoredEvent {
                seq,
                time_us: i64::try_from(seq).unwrap(),
                kind: "checkpoint.committed".to_owned(),
                detail: json!({"id": id.to_string(), "step": step}),
            };
            store.append_events("r", 1, &[event]).unwrap();
            let newest = newest_saved(&store, "r", std::iter::once(1)).unwrap();
            assert_eq!(newest, Some(expected), "{written_ms} {step:?}");
        };
        check(10, Some(500), (Some(500), 1));
        // A final model without a step.
        check(30, None, (None, 2));
        // The last ones of a box are sent newest first.
        check(20, Some(600), (None, 2));
        // A training that was begun again from an older step.
        check(40, Some(400), (Some(400), 4));
    }

    #[test]
    fn a_commit_that_was_passed_over_as_damaged_saves_nothing_of_what_was_trained_since() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.db"), Clock::new(|| 0)).unwrap();
        let mut seq = 0;
        let mut note = |attempt: u32, kind: &str, step: u64| {
            seq += 1;
            let event = StoredEvent {
                seq,
                time_us: i64::try_from(seq).unwrap(),
                kind: kind.to_owned(),
                detail: json!({"path": format!("step_{step}.pt"), "step": step}),
            };
            store.append_events("r", attempt, &[event]).unwrap();
        };
        // The second one went on at 300, although the first had committed 500.
        note(1, "checkpoint.committed", 300);
        note(1, "checkpoint.committed", 500);
        note(2, "checkpoint.found", 280);
        let attempt = AttemptRecord {
            run: "r".to_owned(),
            resumed_step: Some(300),
            last_step: Some(380),
            ..crate::run::summary::attempt_for_tests(2)
        };
        assert_eq!(only_on_box(&store, &attempt).unwrap(), None);
        note(2, "checkpoint.found", 350);
        let left = only_on_box(&store, &attempt).unwrap().unwrap();
        assert_eq!((left.step, left.path.as_str()), (Some(350), "step_350.pt"));
        note(2, "checkpoint.committed", 350);
        assert_eq!(only_on_box(&store, &attempt).unwrap(), None);
        // A box that restarted by itself went on from what no bucket has.
        note(2, "checkpoint.found", 370);
        let again = AttemptRecord {
            resumed_step: Some(370),
            ..attempt
        };
        let left = only_on_box(&store, &again).unwrap().unwrap();
        assert_eq!(left.step, Some(370));
    }

    #[test]
    fn a_final_model_without_a_step_is_overtaken_by_no_step_that_is_saved() {
        for (last_step, expected) in [
            (Some(1000), Some(1000)),
            (Some(1200), Some(1200)),
            // The log was behind.
            (Some(990), Some(1000)),
            (None, None),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(&dir.path().join("store.db"), Clock::new(|| 0)).unwrap();
            let mut seq = 0;
            let mut note = |kind: &str, detail: Value| {
                seq += 1;
                let event = StoredEvent {
                    seq,
                    time_us: i64::try_from(seq).unwrap(),
                    kind: kind.to_owned(),
                    detail,
                };
                store.append_events("r", 1, &[event]).unwrap();
            };
            let attempt = AttemptRecord {
                last_step,
                ..crate::run::summary::attempt_for_tests(1)
            };
            let numbered = json!({"path": "step_1000.pt", "step": 1000});
            note("checkpoint.found", numbered.clone());
            note(
                "checkpoint.found",
                json!({"path": "final.pt", "step": null}),
            );
            note("checkpoint.committed", numbered);
            note(
                "checkpoint.failed",
                json!({"path": "final.pt", "step": null, "problem": "denied"}),
            );
            let left = only_on_box(&store, &attempt).unwrap().unwrap();
            assert_eq!((left.step, left.path.as_str()), (expected, "final.pt"));
            let told = crate::run::behind::backup(&store, &attempt).unwrap();
            assert_eq!(told.as_deref(), Some("final.pt: denied"), "{last_step:?}");
            note(
                "checkpoint.committed",
                json!({"path": "final.pt", "step": null}),
            );
            assert_eq!(only_on_box(&store, &attempt).unwrap(), None);
            assert_eq!(crate::run::behind::backup(&store, &attempt).unwrap(), None);
        }
    }
}
