//! A run as people and programs want to see it (pure): attempts, steps redone, checkpoints, money by our ledger and by the
//! provider's charges.

use std::collections::HashSet;

use serde::Serialize;

use crate::{
    ledger::{self, Cost, Interval, Reconciliation},
    provider::InstanceId,
    run::{
        State,
        diagnosis::{self, Diagnosis},
        ended_alone::{self, TrainingEnd},
        interruptions::{self, Interruption, interruptions},
        marks::{self, COMMITTED, Doubt},
        prepaying,
    },
    store::{AttemptRecord, ChargeRecord, EventRecord, Outcome, RunRecord, counting},
};

/// A run. The shape of `status --json`, documented in `docs/json.md`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunSummary {
    /// Its name.
    pub name: String,
    /// Where its newest attempt stands; `None` before the first.
    pub state: Option<State>,
    /// How it ended; `None` while it goes on.
    pub outcome: Option<Outcome>,
    /// Why it ended.
    pub reason: Option<String>,
    /// How its training ended, by its box, while `state` still calls it running and nobody watches; `None`: it did not, as far as is known.
    pub training_end: Option<TrainingEnd>,
    /// Newest step that was seen.
    pub step: Option<u64>,
    /// Every attempt, oldest first.
    pub attempts: Vec<AttemptSummary>,
    /// Steps trained more than once, over all attempts.
    pub steps_redone: u64,
    /// Every interruption, oldest first, and what it cost in steps.
    pub interruptions: Vec<Interruption>,
    /// Steps that they cost, all together.
    pub steps_lost: u64,
    /// Checkpoints that were committed, over all attempts.
    pub checkpoints_committed: u64,
    /// Those of them that are in the bucket now, as far as it was told who was deleted.
    pub checkpoints_kept: u64,
    /// Step of the newest commit; `null`: there is none, or its name has no step.
    pub last_checkpoint_step: Option<u64>,
    /// The newest in the bucket, where a mark there says that its data is damaged; `null`: none does, as far as was read.
    pub newest_damaged: Option<Doubt>,
    /// Dollars so far: the provider's closed bills, else our own figure, and what was paid in advance for boxes that are gone and was not
    /// used up.
    pub cost_usd: f64,
    /// Of that, traffic that nobody has billed so far: by the counters of boxes, so about.
    pub unbilled_traffic_usd: f64,
    /// Dollars by our own figure alone.
    pub ledger_usd: f64,
    /// Dollars by the provider's closed bills; `None` while any is open.
    pub charged_usd: Option<f64>,
    /// What it costs now, $/h.
    pub usd_per_hour: f64,
    /// What its newest box may cost though nothing is known to be charged, $/h; `None`: it is gone, or never was.
    #[serde(skip)]
    pub at_most_usd_per_hour: Option<f64>,
    /// Somebody watches it.
    pub watched: bool,
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AttemptSummary {
    /// From 1.
    pub number: u32,
    /// Where it stands.
    pub state: State,
    /// Instance.
    pub instance: Option<InstanceId>,
    /// GPU and count.
    pub gpu: String,
    /// GPU price, $/h.
    pub gpu_usd_per_hour: f64,
    /// Step it began at: the checkpoint's, or 0.
    pub from_step: Option<u64>,
    /// Newest step that was seen.
    pub to_step: Option<u64>,
    /// Of these, steps that were trained before: by an earlier attempt, or by an earlier life on this box.
    pub steps_redone: u64,
    /// Steps that its interruptions cost; `None`: it had none, or no step was seen.
    pub steps_lost: Option<u64>,
    /// Checkpoints it committed.
    pub checkpoints_committed: u64,
    /// Money by our own figure.
    pub ledger: Cost,
    /// Money by the provider's bill, once the box is gone.
    pub charged: Option<Cost>,
    /// What counts of the two.
    #[serde(skip)]
    pub counted: Cost,
    /// Why it ended.
    pub reason: Option<String>,
    /// What ended its training, or its smoke, by the agent's own look at log and box.
    pub diagnosis: Option<Diagnosis>,
}

/// Whether an event of this kind goes into a summary or a list of checkpoints, however old it is: whoever keeps some keeps these.
pub fn counts(kind: &str) -> bool {
    matches!(kind, "checkpoint.committed" | "checkpoint.deleted")
        || marks::counts(kind)
        || kind == diagnosis::KIND
        || ended_alone::counts(kind)
        || interruptions::counts(kind)
        || prepaying::counts(kind)
}

/// Why the newest box of an ended run is kept; `None`: it is not.
fn kept(run: &RunRecord, attempts: &[AttemptRecord]) -> Option<String> {
    let newest = attempts.last().filter(|_| run.outcome.is_some())?;
    let kept = newest.may_cost() && newest.is_kept_for_a_look();
    newest.reason.clone().filter(|_| kept)
}

/// Puts a run's records together. `now_us` closes what is still open.
pub fn summarise(
    run: &RunRecord,
    attempts: &[AttemptRecord],
    intervals: &[Interval],
    charges: &[ChargeRecord],
    events: &[EventRecord],
    watched: bool,
    now_us: i64,
) -> RunSummary {
    let commits = commits(events);
    let newest = commits.iter().max_by_key(|event| marks::written(event));
    let interruptions = interruptions(events);
    let counting = counting(charges, intervals);
    let mut reached: Option<u64> = None;
    let mut rows = Vec::new();
    for attempt in attempts {
        let trained = attempt.started_us > 0;
        let from_step = if trained {
            Some(attempt.resumed_step.unwrap_or(0))
        } else {
            None
        };
        // What lies between the checkpoint and the furthest step before it is trained a second time.
        let steps_redone = match (from_step, reached) {
            (Some(from), Some(furthest)) => furthest
                .saturating_sub(from)
                .min(attempt.last_step.unwrap_or(from).saturating_sub(from)),
            _ => 0,
        };
        let redone_here: u64 = interruptions
            .iter()
            .filter(|found| {
                found.attempt == attempt.number && found.resumed_by == Some(found.attempt)
            })
            .filter_map(|found| {
                let since = attempt.last_step?.saturating_sub(found.resumed_step?);
                Some(found.steps_lost?.min(since))
            })
            .sum();
        reached = reached.max(attempt.last_step);
        let charge = charges
            .iter()
            .find(|charge| charge.attempt == attempt.number && charge.is_whole);
        rows.push(AttemptSummary {
            number: attempt.number,
            state: attempt.state,
            instance: attempt.instance,
            gpu: attempt.gpu.clone(),
            gpu_usd_per_hour: attempt.gpu_usd_per_hour,
            from_step,
            to_step: attempt.last_step,
            steps_redone: steps_redone + redone_here,
            steps_lost: interruptions
                .iter()
                .filter(|found| found.attempt == attempt.number)
                .filter_map(|found| found.steps_lost)
                .reduce(|all, one| all + one),
            checkpoints_committed: commits
                .iter()
                .filter(|event| event.attempt == attempt.number)
                .count() as u64,
            ledger: ledger::attempt_cost(intervals, attempt.number, now_us),
            charged: charge.map(|charge| charge.cost),
            counted: ledger::counted(
                intervals,
                attempt.number,
                counting
                    .iter()
                    .find(|counts| counts.attempt == attempt.number),
                now_us,
            ),
            reason: attempt.reason.clone(),
            diagnosis: diagnosis::among(events, attempt),
        });
    }
    let spent = prepaying::spent(attempts, events, intervals, charges, now_us);
    let all_charged = rows
        .iter()
        .all(|row| row.charged.is_some() || row.instance.is_none());
    RunSummary {
        name: run.name.clone(),
        state: attempts.last().map(|attempt| attempt.state),
        outcome: run.outcome,
        // A run that ended well has no reason; that its box is kept has one.
        reason: run.reason.clone().or_else(|| kept(run, attempts)),
        training_end: attempts
            .last()
            .filter(|newest| run.outcome.is_none() && newest.state == State::Running)
            // Whoever watches collects it.
            .filter(|_| !watched)
            .and_then(|newest| ended_alone::among(events, newest)),
        step: reached,
        steps_redone: rows.iter().map(|row| row.steps_redone).sum(),
        steps_lost: rows.iter().filter_map(|row| row.steps_lost).sum(),
        interruptions,
        checkpoints_committed: commits.len() as u64,
        checkpoints_kept: in_bucket(events),
        last_checkpoint_step: newest.and_then(|event| event.detail["step"].as_u64()),
        newest_damaged: marks::newest_damaged(events),
        cost_usd: spent.total_usd,
        unbilled_traffic_usd: spent.of_it.unbilled_traffic_usd,
        ledger_usd: ledger::run_cost(intervals, &[], now_us).total_usd(),
        charged_usd: all_charged.then(|| {
            let closed = charges.iter().filter(|charge| charge.is_whole);
            closed.map(|charge| charge.cost.total_usd()).sum()
        }),
        usd_per_hour: ledger::rate_usd_per_hour(intervals, None),
        at_most_usd_per_hour: attempts
            .last()
            .filter(|newest| newest.may_cost() && newest.instance.is_some())
            .map(AttemptRecord::at_most_usd_per_hour),
        watched,
        attempts: rows,
    }
}

/// Kind of the event that tells that a checkpoint was deleted: from the bucket, or from a box.
pub const DELETED: &str = "checkpoint.deleted";

/// Checkpoints that were committed and not deleted from the bucket since, by the events of a run.
pub fn in_bucket(events: &[EventRecord]) -> u64 {
    let deleted: HashSet<&str> = events
        .iter()
        .filter(|event| is_deletion(event))
        .filter_map(|event| event.detail["id"].as_str())
        .collect();
    let is_there = |event: &&EventRecord| {
        !event.detail["id"]
            .as_str()
            .is_some_and(|id| deleted.contains(id))
    };
    commits(events).into_iter().filter(is_there).count() as u64
}

/// What tells of each commit, once: of the last ones of a box its bucket may have told before the box did.
fn commits(events: &[EventRecord]) -> Vec<&EventRecord> {
    let mut told = HashSet::new();
    let committed = events.iter().filter(|event| event.kind == COMMITTED);
    committed
        .filter(|event| {
            let id = event.detail["id"].as_str();
            id.is_none_or(|id| told.insert(id))
        })
        .collect()
}

/// Tells that a checkpoint is in the bucket no more; from a box it may go and stay there.
pub fn is_deletion(event: &EventRecord) -> bool {
    event.kind == DELETED && event.detail["where"] == "bucket"
}

impl AttemptSummary {
    /// How our figure and the provider's compare, once its bill is closed.
    pub fn reconciliation(&self) -> Option<Reconciliation> {
        self.charged.map(|charged| Reconciliation {
            ledger: self.ledger,
            charged,
        })
    }
}

/// An attempt that has ended and is gone.
#[cfg(test)]
pub(crate) fn attempt_for_tests(number: u32) -> AttemptRecord {
    AttemptRecord {
        run: "r".to_owned(),
        number,
        state: State::Gone,
        label: format!("l{number}"),
        rental: crate::provider::Rental::Interruptible,
        instance: Some(u64::from(number)),
        machine_id: None,
        gpu: "RTX 4090:1".to_owned(),
        gpu_usd_per_hour: 0.2,
        storage_usd_per_hour: 0.01,
        ssh: Vec::new(),
        created_us: 0,
        state_us: 0,
        started_us: 1,
        gone_us: 2,
        resumed_step: None,
        last_step: None,
        reason: None,
        last_event: 0,
        exit_code: None,
        reopened_us: 0,
        old_session_us: 0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ledger::CostKind;

    fn attempt(number: u32, resumed_step: Option<u64>, last_step: Option<u64>) -> AttemptRecord {
        AttemptRecord {
            resumed_step,
            last_step,
            ..attempt_for_tests(number)
        }
    }

    #[test]
    fn steps_between_the_checkpoint_and_the_interruption_are_counted_as_redone_once() {
        let attempts = [
            attempt(1, None, Some(137)),
            attempt(2, Some(120), Some(125)),
            attempt(3, Some(120), Some(400)),
        ];
        let run = RunRecord {
            name: "r".to_owned(),
            spec: crate::spec::RunSpec::from_flags_for_tests(),
            created_us: 0,
            stop_requested: false,
            outcome: Some(Outcome::Done),
            reason: None,
        };
        let intervals = [Interval {
            attempt: 1,
            kind: CostKind::Gpu,
            from_us: 0,
            to_us: Some(3_600_000_000),
            usd_per_hour: 0.2,
        }];
        let summary = summarise(&run, &attempts, &intervals, &[], &[], false, 7_200_000_000);
        let redone: Vec<u64> = summary
            .attempts
            .iter()
            .map(|attempt| attempt.steps_redone)
            .collect();
        assert_eq!(redone, [0, 5, 17]);
        assert_eq!(summary.steps_redone, 22);
        assert_eq!(summary.step, Some(400));
        assert!((summary.cost_usd - 0.2).abs() < 1e-9);
        assert_eq!(summary.charged_usd, None);
    }

    #[test]
    fn an_end_that_nobody_collects_is_told_while_nobody_watches() {
        let run = RunRecord {
            name: "r".to_owned(),
            spec: crate::spec::RunSpec::from_flags_for_tests(),
            created_us: 0,
            stop_requested: false,
            outcome: None,
            reason: None,
        };
        let running = AttemptRecord {
            state: State::Running,
            gone_us: 0,
            ..attempt(1, None, Some(400))
        };
        let ended = EventRecord {
            id: 1,
            attempt: 1,
            origin: crate::store::Origin::Agent,
            seq: 1,
            time_us: 5,
            kind: "session.ended".to_owned(),
            detail: json!({"session": "train", "state": "exited", "exit_code": 0, "started_us": 1}),
        };
        for (watched, told) in [(false, true), (true, false)] {
            let (attempts, events) = (std::slice::from_ref(&running), std::slice::from_ref(&ended));
            let found = summarise(&run, attempts, &[], &[], events, watched, 9);
            assert_eq!(found.training_end.is_some(), told, "{watched}");
        }
    }

    #[test]
    fn what_was_deleted_from_the_bucket_is_not_in_it_and_what_left_a_box_is() {
        let mut events = Vec::new();
        let mut check = |kind: &str, detail: serde_json::Value, expected: u64| {
            events.push(EventRecord {
                id: events.len() as i64 + 1,
                attempt: 1,
                origin: crate::store::Origin::Agent,
                seq: 0,
                time_us: 0,
                kind: kind.to_owned(),
                detail,
            });
            assert_eq!(in_bucket(&events), expected);
        };
        check("checkpoint.committed", json!({"id": "a"}), 1);
        check("checkpoint.committed", json!({"id": "b"}), 2);
        check("checkpoint.deleted", json!({"id": "a", "where": "box"}), 2);
        check(
            "checkpoint.deleted",
            json!({"id": "a", "where": "bucket"}),
            1,
        );
        check(
            "checkpoint.deleted",
            json!({"path": "c", "where": "box", "skipped": true}),
            1,
        );
        // An older box told no id.
        check("checkpoint.committed", json!({"step": 3}), 2);
        // Its bucket told it first.
        check("checkpoint.committed", json!({"id": "b"}), 2);
    }
}
