//! What each interruption of a run cost in steps (pure): the steps between the furthest one that was seen and the one from which the
//! training went on.

use serde::Serialize;
use serde_json::Value;

use crate::{
    run::{
        believable_step,
        marks::{self, Written},
        restarts::RESTARTED,
    },
    store::EventRecord,
};

/// One interruption.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Interruption {
    /// Attempt that was interrupted.
    pub attempt: u32,
    /// When it was seen, microseconds since the epoch.
    pub time_us: i64,
    /// Why, for people.
    pub reason: String,
    /// Newest step that was seen before it; `null`: none was.
    pub step: Option<u64>,
    /// Step of the newest checkpoint then known to be in the bucket; `null`: none was, or its name has no number.
    pub saved_step: Option<u64>,
    /// Attempt with which the training went on; `null` until it did.
    pub resumed_by: Option<u32>,
    /// Step from which it went on: 0 from the beginning; `null` until it did.
    pub resumed_step: Option<u64>,
    /// Steps to be trained again; before the training has gone on, as many as the newest checkpoint says. `null`: no step was seen, or the
    /// name of that checkpoint has no number.
    pub steps_lost: Option<u64>,
}

impl Interruption {
    /// The same in one clause.
    pub fn text(&self) -> String {
        let at = self.step.map_or_else(
            || "before its first step".to_owned(),
            |step| format!("at step {step}"),
        );
        let lost = match (self.steps_lost, self.resumed_by) {
            (None, _) if self.step.is_none() => "no step was seen".to_owned(),
            (None, _) => {
                "those after the newest checkpoint that is known, whose name has no step".to_owned()
            }
            (Some(lost), Some(_)) => format!(
                "{lost} steps lost, went on from {}",
                self.resumed_step.unwrap_or(0)
            ),
            (Some(lost), None) => format!(
                "at most {lost} steps, after the newest checkpoint that is known, of step {}",
                self.saved_step.unwrap_or(0)
            ),
        };
        format!("attempt {} {at}: {lost} ({})", self.attempt, self.reason)
    }

    /// What of it is to be trained again, before it goes on: a sentence with a blank in front; `None` where no step was seen.
    pub fn cost(&self) -> Option<String> {
        let step = self.step?;
        let Some(lost) = self.steps_lost else {
            return Some(format!(
                " It was at step {step}: what it trained after the newest checkpoint that is known, whose name has no step, is to be \
                 trained again."
            ));
        };
        Some(match self.saved_step {
            None => format!(" It was at step {step}, and no checkpoint is known to be saved."),
            Some(saved) if lost == 0 => {
                format!(" It was at step {step}, which the checkpoint of step {saved} holds.")
            }
            Some(saved) => format!(
                " It was at step {step}: of the {lost} steps after the newest checkpoint that is known, of step {saved}, those are to be trained again that the box did not save since."
            ),
        })
    }
}

/// Whether [`interruptions`] reads events of this kind.
pub fn counts(kind: &str) -> bool {
    matches!(
        kind,
        "checkpoint.committed" | "interrupted" | "lost" | RESTARTED | "running"
    )
}

/// Every interruption of a run, oldest first. `events` are all of it, in their order.
pub fn interruptions(events: &[EventRecord]) -> Vec<Interruption> {
    let mut found: Vec<Interruption> = Vec::new();
    let mut newest: Option<Written> = None;
    for event in events {
        let saved = newest.map(step_in);
        match event.kind.as_str() {
            "checkpoint.committed" => {
                newest = newest.max(Some(marks::written(event)));
                let saved = newest.map(step_in);
                // What a box could still save in its last seconds counts for the interruption that ended it.
                for open in found.iter_mut().filter(|open| open.resumed_by.is_none()) {
                    open.saved_step = saved.flatten();
                    open.steps_lost = lost(open.step, saved);
                }
            }
            "interrupted" | "lost" => {
                let step = event.detail["step"].as_u64();
                found.push(Interruption {
                    attempt: event.attempt,
                    time_us: event.time_us,
                    reason: word(&event.detail, "reason"),
                    step,
                    saved_step: saved.flatten(),
                    resumed_by: None,
                    resumed_step: None,
                    steps_lost: lost(step, saved),
                });
            }
            // The box went on by itself: an interruption of which nobody else may know.
            RESTARTED => {
                let resumed_step = event.detail["step"].as_u64().unwrap_or(0);
                let step = believable_step(event.detail["last_step"].as_u64());
                if found.iter().all(|known| known.resumed_by.is_some()) {
                    found.push(Interruption {
                        attempt: event.attempt,
                        time_us: event.detail["ended_us"].as_i64().unwrap_or(event.time_us),
                        reason: "its box was restarted".to_owned(),
                        step,
                        saved_step: saved.flatten(),
                        resumed_by: None,
                        resumed_step: None,
                        steps_lost: None,
                    });
                }
                for open in found.iter_mut().filter(|open| open.resumed_by.is_none()) {
                    open.step = open.step.max(step);
                    open.resumed_by = Some(event.attempt);
                    open.resumed_step = Some(resumed_step);
                    open.steps_lost = lost(open.step, Some(Some(resumed_step)));
                }
            }
            "running" => {
                let resumed_step = event.detail["resumed_step"].as_u64().unwrap_or(0);
                for open in found.iter_mut().filter(|open| open.resumed_by.is_none()) {
                    open.resumed_by = Some(event.attempt);
                    open.resumed_step = Some(resumed_step);
                    open.steps_lost = lost(open.step, Some(Some(resumed_step)));
                }
            }
            _ => {}
        }
    }
    found
}

fn step_in((.., step, _): Written) -> Option<u64> {
    step
}

/// Steps between where it was and what it goes on from: the beginning, or a checkpoint, whose name may have no step.
fn lost(step: Option<u64>, from: Option<Option<u64>>) -> Option<u64> {
    let from = from.unwrap_or(Some(0))?;
    step.map(|step| step.saturating_sub(from))
}

fn word(detail: &Value, key: &str) -> String {
    detail[key].as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::Origin;

    fn check(events: &[(u32, &str, Value)], expected: &[&str]) {
        let events: Vec<EventRecord> = events
            .iter()
            .enumerate()
            .map(|(index, (attempt, kind, detail))| EventRecord {
                id: index as i64 + 1,
                attempt: *attempt,
                origin: Origin::Spotter,
                seq: index as u64 + 1,
                time_us: index as i64,
                kind: (*kind).to_owned(),
                detail: detail.clone(),
            })
            .collect();
        let found: Vec<String> = interruptions(&events)
            .iter()
            .map(Interruption::text)
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_an_interruption_cost_is_told_when_it_happens() {
        let check = |step, saved: Option<Option<u64>>, expected: Option<&str>| {
            let found = Interruption {
                attempt: 1,
                time_us: 0,
                reason: "outbid".to_owned(),
                step,
                saved_step: saved.flatten(),
                resumed_by: None,
                resumed_step: None,
                steps_lost: lost(step, saved),
            };
            assert_eq!(found.cost().as_deref(), expected, "{step:?} {saved:?}");
        };
        check(None, Some(Some(5)), None);
        check(
            Some(137),
            Some(Some(120)),
            Some(
                " It was at step 137: of the 17 steps after the newest checkpoint that is known, of step 120, those are to be trained again that the box did not save since.",
            ),
        );
        check(
            Some(120),
            Some(Some(120)),
            Some(" It was at step 120, which the checkpoint of step 120 holds."),
        );
        check(
            Some(9),
            None,
            Some(" It was at step 9, and no checkpoint is known to be saved."),
        );
        check(
            Some(9),
            Some(None),
            Some(
                " It was at step 9: what it trained after the newest checkpoint that is known, whose name has no step, is to be trained again.",
            ),
        );
    }

    #[test]
    fn an_interruption_costs_the_steps_between_where_it_was_and_where_it_went_on() {
        let running = |from: Option<u64>| json!({"instance": 1, "resumed_step": from});
        let taken = |step: Option<u64>| json!({"reason": "outbid", "step": step});
        let saved = |step: u64| json!({"step": step});
        check(&[(1, "running", running(None))], &[]);
        check(
            &[
                (1, "running", running(None)),
                (1, "checkpoint.committed", saved(120)),
                (1, "interrupted", taken(Some(137))),
            ],
            &[
                "attempt 1 at step 137: at most 17 steps, after the newest checkpoint that is known, of step 120 (outbid)",
            ],
        );
        check(
            &[
                (1, "running", running(None)),
                (1, "checkpoint.committed", saved(120)),
                (1, "interrupted", taken(Some(137))),
                // Its last seconds were enough for one more.
                (1, "checkpoint.committed", saved(130)),
                // Taken again before anything trained.
                (2, "interrupted", taken(None)),
                (3, "running", running(Some(130))),
                (3, "lost", json!({"reason": "gone", "step": 131})),
                (4, "running", running(None)),
            ],
            &[
                "attempt 1 at step 137: 7 steps lost, went on from 130 (outbid)",
                "attempt 2 before its first step: no step was seen (outbid)",
                "attempt 3 at step 131: 131 steps lost, went on from 0 (gone)",
            ],
        );
        // A box that goes on by itself: whether the interruption was seen or not, it is one.
        let alone = |from: u64, last: u64| json!({"step": from, "last_step": last, "ended_us": 7});
        check(
            &[
                (1, "running", running(None)),
                (1, "checkpoint.committed", saved(20)),
                (1, "training.restarted", alone(20, 27)),
                (1, "interrupted", taken(Some(40))),
                (1, "training.restarted", alone(30, 43)),
                (1, "running", running(Some(30))),
            ],
            &[
                "attempt 1 at step 27: 7 steps lost, went on from 20 (its box was restarted)",
                "attempt 1 at step 43: 13 steps lost, went on from 30 (outbid)",
            ],
        );
        // The newest is what was last written: one without a step, and then one of a training that was begun again from an older step.
        let named = |written_ms, step: Option<u64>| {
            let ulid = ulid::Ulid::from_parts(written_ms, 1);
            let id = spotter_bucket::CommitId {
                step: step.unwrap_or(0),
                ulid,
            };
            json!({"id": id.to_string(), "step": step})
        };
        check(
            &[
                (1, "running", running(None)),
                (1, "checkpoint.committed", named(10, Some(120))),
                (1, "checkpoint.committed", named(20, None)),
                (1, "interrupted", taken(Some(137))),
            ],
            &[
                "attempt 1 at step 137: those after the newest checkpoint that is known, whose name has no step (outbid)",
            ],
        );
        check(
            &[
                (1, "running", running(None)),
                (1, "checkpoint.committed", named(10, Some(500))),
                (2, "running", running(Some(300))),
                (2, "checkpoint.committed", named(20, Some(350))),
                (2, "interrupted", taken(Some(380))),
            ],
            &[
                "attempt 2 at step 380: at most 30 steps, after the newest checkpoint that is known, of step 350 (outbid)",
            ],
        );
        // Two lives on one box.
        check(
            &[
                (1, "running", running(None)),
                (1, "interrupted", taken(Some(9))),
                (1, "running", running(None)),
                (1, "checkpoint.committed", saved(20)),
                (1, "interrupted", taken(Some(25))),
                (1, "running", running(Some(20))),
            ],
            &[
                "attempt 1 at step 9: 9 steps lost, went on from 0 (outbid)",
                "attempt 1 at step 25: 5 steps lost, went on from 20 (outbid)",
            ],
        );
    }
}
