//! What each interruption of a run cost in steps (pure): the steps between the furthest one that is known and the one from which the
//! training went on. Nobody sees the last seconds of a box that is taken: unless it told where it ended, that is the least it cost.

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
    /// Newest step that is known to have been trained before it: seen in the log, or told by a checkpoint that was found in the bucket later;
    /// `null`: none is.
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
    /// `steps_lost` is the least: it may have trained past `step` unseen. False: its box told where it ended.
    pub at_least: bool,
}

impl Interruption {
    /// The same in one clause.
    pub fn text(&self) -> String {
        // What it went on from was trained before: the last step that was seen may be an older one.
        let at = match (self.step, self.resumed_step) {
            (None, _) => "before its first step".to_owned(),
            (Some(step), Some(from)) if from > step => format!("at step {from} at least"),
            (Some(step), _) => format!("at step {step}"),
        };
        let lost = match (self.steps_lost, self.resumed_by) {
            (None, _) if self.step.is_none() => "no step was seen".to_owned(),
            (None, _) => {
                "those after the newest checkpoint that is known, whose name has no step".to_owned()
            }
            (Some(lost), Some(_)) => format!(
                "{} lost, went on from {}",
                steps(lost, self.at_least),
                self.resumed_step.unwrap_or(0)
            ),
            (Some(lost), None) => {
                let saved = self.saved_step.map_or_else(
                    || "no checkpoint is known to be saved".to_owned(),
                    |saved| format!("the newest checkpoint that is known is of step {saved}"),
                );
                format!("{lost} steps seen that may be lost, {saved}")
            }
        };
        format!("attempt {} {at}: {lost} ({})", self.attempt, self.reason)
    }

    /// What of it is to be trained again, before it goes on: a sentence with a blank in front; `None` where no step was seen.
    pub fn cost(&self) -> Option<String> {
        let step = self.step?;
        let Some(lost) = self.steps_lost else {
            return Some(format!(
                " It was seen at step {step}: what it trained after the newest checkpoint that is known, whose name has no step, is to be \
                 trained again."
            ));
        };
        Some(match self.saved_step {
            None => format!(" It was seen at step {step}, and no checkpoint is known to be saved."),
            Some(saved) if saved > step => {
                format!(" It was at step {saved} at least, of which there is a checkpoint.")
            }
            Some(saved) if lost == 0 => {
                format!(" It was seen at step {step}, which the checkpoint of step {saved} holds.")
            }
            Some(saved) => format!(
                " It was seen at step {step}: of the {lost} steps after the newest checkpoint that is known, of step {saved}, those are to be trained again that the box did not save since, and what it trained unseen."
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
                // Whoever saved a step had trained it, whenever that becomes known. A later life on that box is another matter.
                let told = believable_step(event.detail["step"].as_u64());
                let mut latest = found.iter_mut().rev();
                if let Some(of_it) = latest.find(|known| known.attempt == event.attempt)
                    && of_it.resumed_by != Some(event.attempt)
                {
                    of_it.step = of_it.step.max(told);
                    if of_it.resumed_by.is_some() {
                        of_it.steps_lost = lost(of_it.step, Some(of_it.resumed_step));
                    }
                }
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
                    at_least: true,
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
                        at_least: true,
                    });
                }
                for open in found.iter_mut().filter(|open| open.resumed_by.is_none()) {
                    open.step = open.step.max(step);
                    open.at_least = step.is_none() || open.attempt != event.attempt;
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

/// So many steps, in words; `at_least`: nobody saw the last ones.
pub fn steps(lost: u64, at_least: bool) -> String {
    match (lost, at_least) {
        (0, true) => "no step that was seen was".to_owned(),
        (lost, true) => format!("at least {lost} steps"),
        (lost, false) => format!("{lost} steps"),
    }
}

/// The steps of several together, as a figure: `at least 24` where one of them may have cost more.
pub fn figure(lost: u64, of: &[Interruption]) -> String {
    match of.iter().any(|one| one.at_least) {
        true => format!("at least {lost}"),
        false => lost.to_string(),
    }
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

    #[test]
    fn a_step_that_was_saved_was_reached_though_nobody_saw_it() {
        for (saved_step, resumed_step, text, cost) in [
            (
                620,
                Some(620),
                "attempt 1 at step 622: 2 steps lost, went on from 620 (outbid)",
                " It was seen at step 622: of the 2 steps",
            ),
            (
                622,
                Some(622),
                "attempt 1 at step 622: 0 steps lost, went on from 622 (outbid)",
                " It was seen at step 622, which the checkpoint of step 622 holds.",
            ),
            (
                644,
                Some(644),
                "attempt 1 at step 644 at least: 0 steps lost, went on from 644 (outbid)",
                " It was at step 644 at least, of which there is a checkpoint.",
            ),
        ] {
            let found = Interruption {
                attempt: 1,
                time_us: 0,
                reason: "outbid".to_owned(),
                step: Some(622),
                saved_step: Some(saved_step),
                resumed_by: Some(2),
                resumed_step,
                steps_lost: Some(622_u64.saturating_sub(saved_step)),
                at_least: false,
            };
            assert_eq!(found.text(), text);
            let told = found.cost().unwrap();
            assert!(told.starts_with(cost), "{told}");
        }
    }

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
                at_least: true,
            };
            assert_eq!(found.cost().as_deref(), expected, "{step:?} {saved:?}");
        };
        check(None, Some(Some(5)), None);
        check(
            Some(137),
            Some(Some(120)),
            Some(
                " It was seen at step 137: of the 17 steps after the newest checkpoint that is known, of step 120, those are to be trained again that the box did not save since, and what it trained unseen.",
            ),
        );
        check(
            Some(120),
            Some(Some(120)),
            Some(" It was seen at step 120, which the checkpoint of step 120 holds."),
        );
        check(
            Some(9),
            None,
            Some(" It was seen at step 9, and no checkpoint is known to be saved."),
        );
        check(
            Some(9),
            Some(None),
            Some(
                " It was seen at step 9: what it trained after the newest checkpoint that is known, whose name has no step, is to be trained again.",
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
                "attempt 1 at step 137: 17 steps seen that may be lost, the newest checkpoint that is known is of step 120 (outbid)",
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
                "attempt 1 at step 137: at least 7 steps lost, went on from 130 (outbid)",
                "attempt 2 before its first step: no step was seen (outbid)",
                "attempt 3 at step 131: at least 131 steps lost, went on from 0 (gone)",
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
        // What the bucket tells later of a box that is gone had been trained there, whether it goes on by then or not.
        let late = |step: u64| (1, "checkpoint.committed", saved(step));
        let gone = (1, "lost", json!({"reason": "gone", "step": 16}));
        check(
            &[(1, "running", running(None)), gone.clone(), late(30)],
            &[
                "attempt 1 at step 30: 0 steps seen that may be lost, the newest checkpoint that is known is of step 30 (gone)",
            ],
        );
        check(
            &[
                (1, "running", running(None)),
                gone.clone(),
                (2, "running", running(Some(10))),
                late(30),
                (2, "checkpoint.committed", saved(40)),
            ],
            &["attempt 1 at step 30: at least 20 steps lost, went on from 10 (gone)"],
        );
        check(
            &[
                (1, "running", running(None)),
                (1, "lost", json!({"reason": "gone", "step": null})),
                late(10),
                (2, "running", running(Some(10))),
            ],
            &["attempt 1 at step 10: no step that was seen was lost, went on from 10 (gone)"],
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
                "attempt 2 at step 380: 30 steps seen that may be lost, the newest checkpoint that is known is of step 350 (outbid)",
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
                "attempt 1 at step 9: at least 9 steps lost, went on from 0 (outbid)",
                "attempt 1 at step 25: at least 5 steps lost, went on from 20 (outbid)",
            ],
        );
    }
}
