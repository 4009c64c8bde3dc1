//! Commits that a box made in its last seconds and told nobody of: whoever looks into the bucket takes them into the record, which
//! everything else goes by.

use std::collections::{HashMap, HashSet};

use serde_json::json;
use spotter_bucket::{
    CommitId, Manifest,
    vault::{Left, hidden},
};

use crate::{
    run::{State, marks::COMMITTED, summary::is_deletion},
    store::{AttemptRecord, EventRecord, Store, StoreError},
};

/// Event of the run as a whole: a commit is damaged itself (`id`, `reason`), and nothing waits that could be put in its place: nobody reads it again.
const UNREAD: &str = "checkpoint.unread";

/// Most commits that are taken into the record at one look; there are few of these.
pub const MOST: usize = 20;

/// How far the clocks of a box, a bucket and this machine may be apart, microseconds.
const APART_US: i64 = 10 * 60 * 1_000_000;

/// Whether a box can tell nothing any more.
fn is_silent(attempt: &AttemptRecord) -> bool {
    matches!(attempt.state, State::Gone | State::Lost) && attempt.started_us > 0
}

/// Whether a commit was made while an attempt was there, by the time in its name: another's may lie in the same bucket, under a number that
/// this run has too.
fn is_of_its_time(attempt: &AttemptRecord, id: &CommitId, now_us: i64) -> bool {
    let made_us = i64::try_from(id.made_ms()).unwrap_or(i64::MAX);
    let made_us = made_us.saturating_mul(1_000);
    let until_us = match (attempt.state, attempt.gone_us) {
        (State::Gone, gone_us) if gone_us > 0 => gone_us,
        _ => now_us,
    };
    (attempt.created_us - APART_US..=until_us.saturating_add(APART_US)).contains(&made_us)
}

/// Commits in the bucket of which the record says nothing, newest first, of the time in which boxes of a run were there that can tell nothing any
/// more (pure). `there` are all that the bucket has, newest first. Events of old records name no commit: while they tell of as many of one step
/// as are there, these are known.
pub fn unknown(
    events: &[EventRecord],
    attempts: &[AttemptRecord],
    there: &[CommitId],
    now_us: i64,
) -> Vec<CommitId> {
    let told = events
        .iter()
        .filter(|event| event.kind == COMMITTED || event.kind == UNREAD || is_deletion(event));
    let known: HashSet<&str> = told
        .filter_map(|event| event.detail["id"].as_str())
        .collect();
    let mut nameless: HashMap<u64, usize> = HashMap::new();
    for event in events.iter().filter(|event| is_nameless(event)) {
        let step = event.detail["step"].as_u64().unwrap_or(0);
        *nameless.entry(step).or_default() += 1;
    }
    let of_step = |step: u64| there.iter().filter(|id| id.step == step).count();
    let is_covered = |id: &CommitId| {
        let told = nameless.get(&id.step);
        told.is_some_and(|told| *told >= of_step(id.step))
    };
    let silent: Vec<&AttemptRecord> = attempts.iter().filter(|one| is_silent(one)).collect();
    let is_late = |id: &&CommitId| {
        !known.contains(id.to_string().as_str())
            && silent.iter().any(|one| is_of_its_time(one, id, now_us))
            && !is_covered(id)
    };
    there.iter().filter(is_late).copied().collect()
}

/// Whether a commit that was read as damaged stays so (pure): a box without keys may have left a copy of it, which is put in its place at the next
/// [`spotter_bucket::Vault::adopt`]. `left`: what waited before the commit was read; `None`: nobody knows.
pub fn stays_damaged(id: &CommitId, left: Option<&Left>) -> bool {
    let id = id.to_string();
    left.is_some_and(|left| {
        left.manifests.iter().all(|one| one.id != id) && hidden(&[], left).is_empty()
    })
}

/// Writes down that a commit of a box which is gone is damaged for good, so that no later look pays for reading it.
///
/// # Errors
/// When the record cannot be written.
pub fn note_unread(
    store: &Store,
    run: &str,
    id: &CommitId,
    why: &str,
    now_us: i64,
) -> Result<(), StoreError> {
    let detail = json!({"id": id.to_string(), "reason": why});
    let is_told = |event: &EventRecord| event.detail["id"] == detail["id"];
    store.note_once(run, 0, now_us, UNREAD, &detail, is_told)?;
    Ok(())
}

/// Whether it tells of a commit without its name, as old records do.
fn is_nameless(event: &EventRecord) -> bool {
    event.kind == COMMITTED && event.detail["id"].is_null()
}

/// Writes down that a box which is gone had committed this, as it would have told itself, at the time that the commit states, as far as the box was
/// there then. False: it is written down already, that box may tell it yet, or was none of the run's.
///
/// # Errors
/// When the record cannot be written.
pub fn note(
    store: &Store,
    run: &str,
    attempts: &[AttemptRecord],
    manifest: &Manifest,
    now_us: i64,
) -> Result<bool, StoreError> {
    let Ok(id) = manifest.id.parse::<CommitId>() else {
        return Ok(false);
    };
    let by = attempts.iter().find(|one| one.number == manifest.attempt);
    let is_its = |one: &&AttemptRecord| is_silent(one) && is_of_its_time(one, &id, now_us);
    let Some(by) = by.filter(is_its) else {
        return Ok(false);
    };
    let at_us = i64::try_from(manifest.committed_us).unwrap_or(i64::MAX);
    // Whoever writes to the bucket may have written any time into it.
    let at_us = at_us.min(now_us).max(by.started_us);
    let detail = json!({
        "id": manifest.id, "step": manifest.step, "path": manifest.path, "size_bytes": manifest.total_bytes(),
        "files": manifest.files.len(), "seconds": null,
    });
    let is_told = |event: &EventRecord| match is_nameless(event) {
        true => event.detail["step"] == detail["step"] && event.detail["path"] == detail["path"],
        false => event.detail["id"] == detail["id"],
    };
    store.note_once(run, manifest.attempt, at_us, COMMITTED, &detail, is_told)
}

#[cfg(test)]
mod tests {
    use spotter_bucket::Unread;
    use ulid::Ulid;

    use super::*;
    use crate::{
        clock::Clock,
        run::{summary::attempt_for_tests, trained::Times},
        store::Origin,
    };

    #[test]
    fn what_a_box_that_is_gone_did_not_tell_is_taken_into_the_record_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.db"), Clock::new(|| 0)).unwrap();
        // A second apart, in the time of an attempt that was there for an hour.
        let made_ms = |step: u64| 10_000_000 + step * 1_000;
        let ids = [30, 20, 10].map(|step| CommitId {
            step,
            ulid: Ulid::from_parts(made_ms(step), 1),
        });
        let (began_us, hour_us) = (10_000_000_000, 3_600_000_000);
        let (gone_us, now_us) = (began_us + hour_us, began_us + 24 * hour_us);
        let attempt = |state| AttemptRecord {
            state,
            created_us: began_us,
            started_us: began_us + 1,
            gone_us,
            ..attempt_for_tests(1)
        };
        let event = |kind: &str, detail: serde_json::Value| EventRecord {
            id: 1,
            attempt: 1,
            origin: Origin::Agent,
            seq: 1,
            time_us: began_us + 1,
            kind: kind.to_owned(),
            detail,
        };
        let named = |kind: &str, id: &CommitId| {
            event(kind, json!({"id": id.to_string(), "where": "bucket"}))
        };
        let told = [
            named(COMMITTED, &ids[2]),
            named("checkpoint.deleted", &ids[1]),
        ];
        for (state, expected) in [
            (State::Running, &[][..]),
            (State::Lost, &ids[..1]),
            (State::Gone, &ids[..1]),
        ] {
            assert_eq!(
                unknown(&told, &[attempt(state)], &ids, now_us),
                expected,
                "{state:?}"
            );
        }
        // An old record names none.
        let nameless = event(COMMITTED, json!({"step": 30, "path": "results"}));
        let old = [told.as_slice(), std::slice::from_ref(&nameless)].concat();
        assert_eq!(unknown(&old, &[attempt(State::Gone)], &ids, now_us), []);

        let body = spotter_bucket::memory::collection("r", &ids[0].to_string(), "a", b"a", "k");
        let mut manifest: Manifest = serde_json::from_slice(&body).unwrap();
        manifest.step = Some(30);
        // Whatever time it states.
        manifest.committed_us = u64::MAX;
        let mut foreign = manifest.clone();
        let another = CommitId {
            step: 31,
            ulid: Ulid::from_parts(made_ms(0) + 2 * 3_600_000, 1),
        };
        foreign.id = another.to_string();
        for (state, manifest, expected) in [
            (State::Running, &manifest, false),
            (State::Gone, &foreign, false),
            (State::Gone, &manifest, true),
            (State::Gone, &manifest, false),
        ] {
            let noted = note(&store, "r", &[attempt(state)], manifest, now_us).unwrap();
            assert_eq!(noted, expected, "{state:?} {}", manifest.id);
        }
        let mut events = store.events("r", 0).unwrap();
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].detail["step"], 30);
        assert_eq!(events[0].time_us, now_us);
        let gone = [attempt(State::Gone)];
        assert_eq!(unknown(&events, &gone, &ids[..1], now_us), []);
        assert_eq!(unknown(&[], &gone, &[another], now_us), []);

        // One that is damaged itself is read once.
        let read = |events: &[EventRecord]| unknown(events, &gone, &ids[1..2], now_us);
        assert_eq!(read(&events), &ids[1..2]);
        for _ in 0..2 {
            note_unread(&store, "r", &ids[1], "it was cut", now_us).unwrap();
        }
        let told = store.events_of("r", 0, UNREAD).unwrap();
        assert_eq!((told.len(), read(&told)), (1, Vec::new()));

        // It is a sign of life, at its time.
        events[0].time_us = began_us + 50;
        events.push(EventRecord {
            time_us: began_us + 10,
            ..event("running", json!({}))
        });
        events.push(EventRecord {
            time_us: began_us + 60,
            ..event("interrupted", json!({"heard_us": began_us + 20}))
        });
        events[2].origin = Origin::Spotter;
        let times = Times::of(1, &events, None);
        assert_eq!(times.trained, [(began_us + 10, began_us + 50)]);
    }

    #[test]
    fn a_damaged_commit_is_given_up_only_where_nothing_waits_that_could_mend_it() {
        let [id, other] = [30, 20].map(|step| CommitId {
            step,
            ulid: Ulid::from_parts(10_000, 1),
        });
        let copy_of = |id: &CommitId| Left {
            manifests: vec![
                serde_json::from_slice(&spotter_bucket::memory::collection(
                    "r",
                    &id.to_string(),
                    "a",
                    b"a",
                    "k",
                ))
                .unwrap(),
            ],
            unread: Vec::new(),
        };
        let unread = |why: Unread| Left {
            manifests: Vec::new(),
            unread: vec![("a".to_owned(), why)],
        };
        for (left, expected) in [
            (None, false),
            (Some(Left::default()), true),
            (Some(copy_of(&id)), false),
            (Some(copy_of(&other)), true),
            // It may be the copy.
            (Some(unread(Unread::Refused("no".to_owned()))), false),
            (Some(unread(Unread::Newer("v 9".to_owned()))), false),
            // What is torn itself mends nothing.
            (Some(unread(Unread::Damaged("cut".to_owned()))), true),
        ] {
            assert_eq!(stays_damaged(&id, left.as_ref()), expected, "{left:?}");
        }
    }

    #[test]
    fn what_an_old_record_tells_without_a_name_is_not_told_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.db"), Clock::new(|| 0)).unwrap();
        let id = CommitId {
            step: 30,
            ulid: Ulid::from_parts(10_000, 1),
        };
        let body = spotter_bucket::memory::collection("r", &id.to_string(), "a", b"a", "k");
        let mut manifest: Manifest = serde_json::from_slice(&body).unwrap();
        manifest.step = Some(30);
        let attempt = AttemptRecord {
            gone_us: 20_000_000,
            ..attempt_for_tests(1)
        };
        for (path, expected) in [("results", false), ("other", true)] {
            let detail = json!({"step": 30, "path": "results"});
            store.note("r", 1, 5, COMMITTED, &detail).unwrap();
            manifest.path = path.to_owned();
            let noted = note(
                &store,
                "r",
                std::slice::from_ref(&attempt),
                &manifest,
                30_000_000,
            )
            .unwrap();
            assert_eq!(noted, expected, "{path}");
        }
    }
}
