//! What the box of a run told the user itself while nobody watched (pure): nobody tells it again.

use std::collections::{BTreeMap, BTreeSet};

use crate::store::{EventRecord, Origin};

/// Event of a box: it told, or is about to tell, of its event `seq`.
const NOTIFIED: &str = "notified";
/// Event of a box: it could not.
const FAILED: &str = "notify.failed";
/// Events of a box that ends itself, which whoever comes back tells as `self_stopped`.
const ENDS: [&str; 2] = ["self_stop", "self_destroy"];

/// What boxes told, of all events of a run.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Attempt and number of what was told.
    told: BTreeSet<(u32, u64)>,
    /// Attempts whose box told of its own end.
    ends: BTreeSet<u32>,
    /// What was to be told and was not.
    failed: Vec<EventRecord>,
}

/// Who tells of an event.
#[derive(Debug, PartialEq)]
pub(super) enum Turn {
    /// Whoever watches.
    Ours,
    /// The box has.
    Told,
    /// Whoever watches, of this one: the box could not.
    Again(EventRecord),
}

/// Gathers it.
pub(super) fn told(events: &[EventRecord]) -> Told {
    let of_box = |event: &&EventRecord| event.origin == Origin::Agent;
    // A box tries again what was not taken: its last word on an event counts.
    let mut words = BTreeMap::new();
    for event in events.iter().filter(of_box) {
        let seq = event.detail["seq"].as_u64();
        let is_told = event.kind == NOTIFIED;
        if let Some(seq) = seq.filter(|_| is_told || event.kind == FAILED) {
            let last = words
                .entry((event.attempt, seq))
                .or_insert((event.seq, is_told));
            *last = (*last).max((event.seq, is_told));
        }
    }
    let of = |wanted: bool| -> BTreeSet<_> {
        let words = words.iter().filter(|(_, (_, told))| *told == wanted);
        words.map(|(at, _)| *at).collect()
    };
    let (told, failed) = (of(true), of(false));
    let at = |event: &EventRecord| (event.attempt, event.seq);
    let ends = events
        .iter()
        .filter(of_box)
        .filter(|event| told.contains(&at(event)) && ENDS.contains(&event.kind.as_str()));
    Told {
        ends: ends.map(|event| event.attempt).collect(),
        failed: (events.iter().filter(of_box))
            .filter(|event| failed.contains(&at(event)))
            .cloned()
            .collect(),
        told,
    }
}

impl Told {
    /// Whose turn it is to tell of an event.
    pub(super) fn turn(&self, event: &EventRecord) -> Turn {
        let at = (event.attempt, event.seq);
        let is_told = match event.origin {
            // One that failed is told where that is said.
            Origin::Agent if event.kind == FAILED => {
                let seq = event.detail["seq"].as_u64();
                if seq.is_some_and(|seq| self.told.contains(&(event.attempt, seq))) {
                    return Turn::Told;
                }
                let original = self
                    .failed
                    .iter()
                    .find(|failed| failed.attempt == event.attempt && Some(failed.seq) == seq);
                return original.map_or(Turn::Ours, |event| Turn::Again(event.clone()));
            }
            Origin::Agent => {
                self.told.contains(&at)
                    || self
                        .failed
                        .iter()
                        .any(|failed| (failed.attempt, failed.seq) == at)
            }
            Origin::Spotter => event.kind == "self_stopped" && self.ends.contains(&event.attempt),
        };
        match is_told {
            true => Turn::Told,
            false => Turn::Ours,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn event(id: i64, origin: Origin, seq: u64, kind: &str, detail: Value) -> EventRecord {
        EventRecord {
            id,
            attempt: 1,
            origin,
            seq,
            time_us: 0,
            kind: kind.to_owned(),
            detail,
        }
    }

    #[test]
    fn each_event_is_told_by_the_box_or_by_whoever_watches_and_never_by_both() {
        let of_box = |id, seq, kind, detail| event(id, Origin::Agent, seq, kind, detail);
        let alarm = of_box(1, 1, "backup.alarm", json!({}));
        let seen_here = of_box(2, 2, "window.contradicted", json!({}));
        let unheard = of_box(4, 4, "training.ending", json!({}));
        let end = of_box(7, 7, "self_stop", json!({}));
        let failed = of_box(6, 6, FAILED, json!({"seq": 4}));
        let home = event(9, Origin::Spotter, 1, "self_stopped", json!({}));
        let over = event(10, Origin::Spotter, 2, "ended", json!({}));
        // Told at last.
        let late = of_box(11, 11, "backup.alarm", json!({}));
        let late_failed = of_box(13, 13, FAILED, json!({"seq": 11}));
        let mut all = vec![
            alarm.clone(),
            seen_here.clone(),
            of_box(3, 3, NOTIFIED, json!({"seq": 1})),
            unheard.clone(),
            of_box(5, 5, NOTIFIED, json!({"seq": 4})),
            failed.clone(),
            end.clone(),
            of_box(8, 8, NOTIFIED, json!({"seq": 7})),
            home.clone(),
            over.clone(),
            late.clone(),
            of_box(12, 12, NOTIFIED, json!({"seq": 11})),
            late_failed.clone(),
            of_box(14, 14, NOTIFIED, json!({"seq": 11})),
        ];
        let known = told(&all);
        for (event, expected) in [
            (&alarm, Turn::Told),
            (&seen_here, Turn::Ours),
            // Told where it is said that it was not.
            (&unheard, Turn::Told),
            (&failed, Turn::Again(unheard.clone())),
            (&end, Turn::Told),
            (&home, Turn::Told),
            (&over, Turn::Ours),
            (&late, Turn::Told),
            (&late_failed, Turn::Told),
        ] {
            assert_eq!(known.turn(event), expected, "{event:?}");
        }
        // Of a box that told nothing whoever comes back tells everything.
        all.retain(|event| event.kind != NOTIFIED && event.kind != FAILED);
        let known = told(&all);
        assert!(all.iter().all(|event| known.turn(event) == Turn::Ours));
    }
}
