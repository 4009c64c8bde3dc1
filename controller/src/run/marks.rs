//! Which checkpoints of a run were found damaged, as its bucket marks them: whoever reads the marks writes down what is new, and everything
//! else goes by the record.

use std::collections::{BTreeSet, HashSet};

use serde::Serialize;
use serde_json::json;
use spotter_bucket::CommitId;

use crate::{
    run::summary::{DELETED, is_deletion},
    store::{EventRecord, Store, StoreError},
};

/// Event of the run as a whole: a mark in the bucket says that the data of a checkpoint is damaged (`id`).
pub const DAMAGED: &str = "checkpoint.damaged";
/// Event of the run as a whole: that mark is there no more; the checkpoint was found whole since, or was deleted (`id`).
pub const UNMARKED: &str = "checkpoint.unmarked";

/// Event of a box: a checkpoint is in the bucket.
pub(crate) const COMMITTED: &str = "checkpoint.committed";

/// The newest checkpoint in a bucket, where it was found damaged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Doubt {
    /// Its id.
    pub id: String,
    /// Its step; `None`: its name has none.
    pub step: Option<u64>,
    /// The newest that was not found damaged; `None`: there is none.
    pub whole_id: Option<String>,
    /// Its step; `None`: there is none, or its name has no step.
    pub whole_step: Option<u64>,
}

impl Doubt {
    /// The same for people, a clause.
    pub fn text(&self) -> String {
        let of = |step: Option<u64>| step.map(|step| format!("of step {step}"));
        let which = of(self.step).map_or_else(|| self.id.clone(), |of| format!("{of},"));
        let whole = match (&self.whole_id, self.whole_step) {
            (None, _) => "none before it is in the bucket".to_owned(),
            (Some(_), Some(step)) => format!("the newest that was not is of step {step}"),
            (Some(id), None) => format!("the newest that was not is {id}"),
        };
        format!("the newest checkpoint in the bucket, {which} was found damaged; {whole}")
    }
}

/// Whether an event of this kind says something of marks.
pub fn counts(kind: &str) -> bool {
    kind == DAMAGED || kind == UNMARKED
}

/// Ids that are marked, by the events of a run (pure).
pub fn marked(events: &[EventRecord]) -> BTreeSet<&str> {
    let mut told: Vec<&EventRecord> = events.iter().filter(|event| counts(&event.kind)).collect();
    told.sort_by_key(|event| event.id);
    let mut marked = BTreeSet::new();
    for event in told {
        let Some(id) = event.detail["id"].as_str() else {
            continue;
        };
        match event.kind == DAMAGED {
            true => marked.insert(id),
            false => marked.remove(id),
        };
    }
    marked
}

/// Where a commit stands among those of its run: when its checkpoint was written, the attempt, the step, and when it was committed.
pub type Written = (Option<u64>, u32, Option<u64>, i64);

/// The order of commits, by the event of one (pure). Newest is what was last written, which the name tells: `final/` has no step. Only of
/// one time the rest counts; the last ones of a box are sent newest first.
pub fn written(event: &EventRecord) -> Written {
    let id = event.detail["id"].as_str();
    let made_ms = id.and_then(|id| Some(id.parse::<CommitId>().ok()?.made_ms()));
    let step = event.detail["step"].as_u64();
    (made_ms, event.attempt, step, event.time_us)
}

/// The newest checkpoint that is in the bucket by the events of a run, where it is marked (pure).
pub fn newest_damaged(events: &[EventRecord]) -> Option<Doubt> {
    let marked = marked(events);
    if marked.is_empty() {
        return None;
    }
    let deleted: HashSet<&str> = events
        .iter()
        .filter(|event| is_deletion(event))
        .filter_map(|event| event.detail["id"].as_str())
        .collect();
    let mut there: Vec<(Written, &str)> = events
        .iter()
        .filter(|event| event.kind == COMMITTED)
        .filter_map(|event| Some((written(event), event.detail["id"].as_str()?)))
        .filter(|(_, id)| !deleted.contains(id))
        .collect();
    there.sort_unstable();
    let ((.., step, _), id) = there.pop().filter(|(_, id)| marked.contains(id))?;
    let whole = there.iter().rev().find(|(_, id)| !marked.contains(id));
    Some(Doubt {
        id: id.to_owned(),
        step,
        whole_id: whole.map(|(_, id)| (*id).to_owned()),
        whole_step: whole.and_then(|((.., step, _), _)| *step),
    })
}

/// The same by the record.
///
/// # Errors
/// When the record cannot be read.
pub fn of_run(
    store: &Store,
    run: &str,
    attempts: impl Iterator<Item = u32>,
) -> Result<Option<Doubt>, StoreError> {
    let mut events = told(store, run)?;
    if events.is_empty() {
        return Ok(None);
    }
    for attempt in attempts.chain([0]) {
        for kind in [COMMITTED, DELETED] {
            events.extend(store.events_of(run, attempt, kind)?);
        }
    }
    Ok(newest_damaged(&events))
}

/// Writes down what is new about marks: `damaged` are all that the bucket has.
///
/// # Errors
/// When the record cannot be read or written.
pub fn note(
    store: &Store,
    run: &str,
    damaged: &HashSet<CommitId>,
    now_us: i64,
) -> Result<(), StoreError> {
    let damaged: BTreeSet<String> = damaged.iter().map(CommitId::to_string).collect();
    let events = told(store, run)?;
    let known = marked(&events);
    let new = damaged.iter().filter(|id| !known.contains(id.as_str()));
    let gone = known.iter().filter(|id| !damaged.contains(**id));
    let news = new
        .map(|id| (DAMAGED, id.as_str()))
        .chain(gone.map(|id| (UNMARKED, *id)));
    for (kind, id) in news {
        store.note(run, 0, now_us, kind, &json!({ "id": id }))?;
    }
    Ok(())
}

fn told(store: &Store, run: &str) -> Result<Vec<EventRecord>, StoreError> {
    let mut events = store.events_of(run, 0, DAMAGED)?;
    if !events.is_empty() {
        events.extend(store.events_of(run, 0, UNMARKED)?);
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use ulid::Ulid;

    use super::*;
    use crate::store::Origin;

    fn events(told: &[(u32, &str, &str, Option<u64>)]) -> Vec<EventRecord> {
        let event = |(at, (attempt, kind, id, step)): (usize, &(u32, &str, &str, Option<u64>))| {
            EventRecord {
                id: at as i64,
                attempt: *attempt,
                origin: Origin::Agent,
                seq: at as u64,
                time_us: at as i64,
                kind: (*kind).to_owned(),
                detail: json!({"id": id, "step": step, "where": "bucket"}),
            }
        };
        told.iter().enumerate().map(event).collect()
    }

    #[test]
    fn only_a_mark_on_the_newest_that_is_still_there_is_a_doubt_and_names_what_is_whole() {
        let step = |step: u64| Some(step);
        let mut told = vec![
            (1, COMMITTED, "a", step(10)),
            (1, COMMITTED, "c", step(30)),
            // The last ones are sent newest first.
            (1, COMMITTED, "b", step(20)),
            (0, DAMAGED, "b", None),
        ];
        assert_eq!(newest_damaged(&events(&told)), None);
        told.push((0, DAMAGED, "c", None));
        let doubt = newest_damaged(&events(&told)).unwrap();
        assert_eq!((doubt.id.as_str(), doubt.step), ("c", Some(30)));
        assert_eq!(
            doubt.text(),
            "the newest checkpoint in the bucket, of step 30, was found damaged; the newest that was not is of step 10"
        );
        told.push((1, DELETED, "a", None));
        let doubt = newest_damaged(&events(&told)).unwrap();
        assert_eq!(doubt.whole_id, None);
        assert!(doubt.text().ends_with("none before it is in the bucket"));
        // A box stored it anew.
        let mut again = told.clone();
        again.push((1, COMMITTED, "d", step(30)));
        assert_eq!(newest_damaged(&events(&again)), None);
        told.push((0, UNMARKED, "c", None));
        assert_eq!(newest_damaged(&events(&told)), None);
    }

    #[test]
    fn a_final_model_without_a_step_is_newer_than_the_steps_before_it() {
        let id = |step, made_ms| {
            let ulid = Ulid::from_parts(made_ms, 1);
            CommitId { step, ulid }.to_string()
        };
        let (before, last) = (id(500, 1_000), id(0, 2_000));
        let mut told = vec![
            (1, COMMITTED, before.as_str(), Some(500)),
            (1, COMMITTED, last.as_str(), None),
            (0, DAMAGED, last.as_str(), None),
        ];
        let doubt = newest_damaged(&events(&told)).unwrap();
        assert_eq!((doubt.id.as_str(), doubt.step), (last.as_str(), None));
        assert_eq!(doubt.whole_id.as_deref(), Some(before.as_str()));
        assert_eq!(doubt.whole_step, Some(500));
        // And it is the newest that is whole, once it is.
        told[2].2 = before.as_str();
        assert_eq!(newest_damaged(&events(&told)), None);
    }
}
