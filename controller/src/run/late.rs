//! Commits that a box made in its last seconds and told nobody of: whoever looks into the bucket takes them into the record, which
//! everything else goes by.

use std::collections::HashSet;

use serde_json::json;
use spotter_bucket::{CommitId, Manifest};

use crate::{
    run::{State, marks::COMMITTED, summary::is_deletion},
    store::{AttemptRecord, EventRecord, Store, StoreError},
};

/// Most commits that are read at one look; there are few of these.
const MOST: usize = 20;

/// Whether a box can tell nothing any more.
fn is_silent(attempt: &AttemptRecord) -> bool {
    matches!(attempt.state, State::Gone | State::Lost) && attempt.started_us > 0
}

/// Commits in the bucket of which the record says nothing, newest first, where the boxes of a run told less than they did (pure). `there` are all
/// that the bucket has, newest first.
pub fn unknown(
    events: &[EventRecord],
    attempts: &[AttemptRecord],
    there: &[CommitId],
) -> Vec<CommitId> {
    if !attempts.iter().any(is_silent) {
        return Vec::new();
    }
    let known: HashSet<&str> = events
        .iter()
        .filter(|event| event.kind == COMMITTED || is_deletion(event))
        .filter_map(|event| event.detail["id"].as_str())
        .collect();
    let is_unknown = |id: &&CommitId| !known.contains(id.to_string().as_str());
    there
        .iter()
        .filter(is_unknown)
        .take(MOST)
        .copied()
        .collect()
}

/// Writes down that a box which is gone had committed this, as it would have told itself. False: that box may tell it yet, or was none of
/// the run's.
///
/// # Errors
/// When the record cannot be written.
pub fn note(
    store: &Store,
    run: &str,
    attempts: &[AttemptRecord],
    manifest: &Manifest,
) -> Result<bool, StoreError> {
    let by = attempts.iter().find(|one| one.number == manifest.attempt);
    if !by.is_some_and(is_silent) {
        return Ok(false);
    }
    let at_us = i64::try_from(manifest.committed_us).unwrap_or(i64::MAX);
    let detail = json!({
        "id": manifest.id, "step": manifest.step, "path": manifest.path, "size_bytes": manifest.total_bytes(),
        "files": manifest.files.len(), "seconds": null,
    });
    store.note(run, manifest.attempt, at_us, COMMITTED, &detail)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use ulid::Ulid;

    use super::*;
    use crate::{clock::Clock, run::summary::attempt_for_tests, store::Origin};

    #[test]
    fn what_a_box_that_is_gone_did_not_tell_is_taken_into_the_record_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.db"), Clock::new(|| 0)).unwrap();
        let ids = [30, 20, 10].map(|step| CommitId {
            step,
            ulid: Ulid::from_parts(step, 1),
        });
        let attempt = |state| AttemptRecord {
            state,
            started_us: 1,
            ..attempt_for_tests(1)
        };
        let event = |kind: &str, id: &CommitId| EventRecord {
            id: 1,
            attempt: 1,
            origin: Origin::Agent,
            seq: 1,
            time_us: 1,
            kind: kind.to_owned(),
            detail: json!({"id": id.to_string(), "where": "bucket"}),
        };
        let told = [
            event(COMMITTED, &ids[2]),
            event("checkpoint.deleted", &ids[1]),
        ];
        for (state, expected) in [
            (State::Running, &[][..]),
            (State::Lost, &ids[..1]),
            (State::Gone, &ids[..1]),
        ] {
            assert_eq!(
                unknown(&told, &[attempt(state)], &ids),
                expected,
                "{state:?}"
            );
        }

        let body = spotter_bucket::memory::collection("r", &ids[0].to_string(), "a", b"a", "k");
        let mut manifest: Manifest = serde_json::from_slice(&body).unwrap();
        manifest.step = Some(30);
        for (state, expected) in [(State::Running, false), (State::Gone, true)] {
            let noted = note(&store, "r", &[attempt(state)], &manifest).unwrap();
            assert_eq!(noted, expected, "{state:?}");
        }
        let events = store.events("r", 0).unwrap();
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].detail["step"], 30);
        assert_eq!(unknown(&events, &[attempt(State::Gone)], &ids[..1]), []);
    }
}
