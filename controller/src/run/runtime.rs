//! How the training of an attempt is bounded and judged: what is left of its time, and what it is held against.

use std::time::Duration;

use crate::{
    agent_client::{Allowance, ValidationConfig},
    error::CommandError,
    ledger::{self, Rates},
    run::{
        budget,
        lifecycle::Lifecycle,
        past,
        prediction::prediction,
        site::{Site, SiteError},
        trained::{self, Times},
        windows,
    },
    store::{AttemptRecord, EventRecord, RunRecord},
};

/// Event with which the training of an attempt begins.
pub(crate) const RUNNING: &str = "running";

/// Events with which the training of an attempt was over, whoever tells them.
pub(crate) const ENDS: [&str; 7] = [
    "interrupted",
    "lost",
    "crashed",
    "stopped_by_hand",
    "self_stopped",
    "limit_reached",
    "training.ending",
];

impl Lifecycle {
    /// What the agent holds the training against.
    pub(crate) fn validation(&self, run: &RunRecord, attempt: &AttemptRecord) -> ValidationConfig {
        let validate = &run.spec.validate;
        // Without the record of earlier runs it is a cold estimate, which is better than none.
        let known = self.store.observations().unwrap_or_default();
        let past = past::of(&run.spec, &known);
        let predicted = prediction(&run.spec, &attempt.gpu, &past);
        ValidationConfig {
            window: validate.window,
            on_contradiction: validate.on_contradiction.clone(),
            go_on_unanswered: validate.go_on_unanswered,
            // A record that cannot be read is no permission.
            accepted: windows::is_accepted(&self.store, attempt).unwrap_or(false),
            early_checkpoint: validate.early_checkpoint,
            predicted_tokens_per_s: predicted.tokens_per_s,
            tokens_per_step: predicted.tokens_per_step,
            gpus: attempt.num_gpus(&run.spec),
        }
    }

    /// Tells the agent its assignment again, with what has changed since.
    pub async fn reassign(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        site: &dyn Site,
    ) -> Result<(), SiteError> {
        site.configure(&self.assignment(run, attempt))
            .await
            .map(drop)
    }

    /// How long the money lasts for the box of an attempt, which somebody watches now; `None` without a budget.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub(crate) fn allowance(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
    ) -> Result<Option<Allowance>, CommandError> {
        if run.spec.limits.budget_usd.is_none() {
            return Ok(None);
        }
        let open = ledger::open_rates(&self.store.intervals(&run.name)?);
        // A box that has just come up is not on record as charged.
        let rates = Rates {
            gpu_usd_per_hour: open.gpu_usd_per_hour.max(attempt.gpu_usd_per_hour),
            disk_usd_per_hour: open.disk_usd_per_hour.max(attempt.storage_usd_per_hour),
        };
        let spent_usd = self.spent_usd(&run.name)?;
        Ok(budget::watched(
            run.spec.limits.purse(),
            spent_usd,
            rates,
            attempt.storage_usd_per_hour,
        ))
    }

    /// What is left of `limits.max_runtime` for the attempt of this number; `None` without the limit.
    pub(crate) fn runtime_left(&self, run: &RunRecord, number: u32) -> Option<Duration> {
        let limit = run.spec.limits.max_runtime?;
        let records = self
            .store
            .attempts(&run.name)
            .and_then(|attempts| Ok((attempts, self.store.events(&run.name, 0)?)));
        // Where the record cannot be read now, the whole limit is nearer to the truth than none.
        let before = records.map_or(Duration::ZERO, |(attempts, events)| {
            trained_before(&attempts, &events, number)
        });
        Some(limit.saturating_sub(before))
    }
}

/// How long a run has trained before the present life of the attempt of this number (pure): the attempts before it, and what it
/// trained itself before it was started again on its own box.
pub fn trained_before(attempts: &[AttemptRecord], events: &[EventRecord], number: u32) -> Duration {
    let trained = attempts
        .iter()
        .filter(|attempt| attempt.number <= number && attempt.started_us > 0)
        .map(|attempt| {
            // Of the last life of an attempt that is over no end may have been told.
            let until_us = (attempt.number < number).then_some(attempt.state_us);
            trained::seconds(&Times::of(attempt.number, events, until_us).trained)
        });
    Duration::try_from_secs_f64(trained.sum()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::{run::summary::attempt_for_tests, store::Origin};

    #[test]
    fn the_time_of_earlier_attempts_counts_up_to_their_end_and_waiting_does_not() {
        let attempt = |number, started_us, state_us| AttemptRecord {
            started_us,
            state_us,
            ..attempt_for_tests(number)
        };
        let event = |attempt, kind: &str, time_us| EventRecord {
            id: 1,
            attempt,
            origin: Origin::Spotter,
            seq: 1,
            time_us,
            kind: kind.to_owned(),
            detail: Value::Null,
        };
        let attempts = [
            attempt(1, 1_000_000, 900_000_000),
            attempt(2, 0, 950_000_000),
            attempt(3, 1_000_000_000, 1_007_000_000),
            attempt(4, 2_500_000_000, 2_500_000_000),
        ];
        let events = [
            event(1, RUNNING, 1_000_000),
            event(1, "interrupted", 31_000_000),
            event(3, RUNNING, 1_000_000_000),
            event(4, RUNNING, 2_000_000_000),
            event(4, "training.ending", 2_002_000_000),
            event(4, "limit_reached", 2_003_000_000),
            event(4, RUNNING, 2_500_000_000),
        ];
        let table = [(1, 30), (2, 30), (3, 30), (4, 39), (5, 39)];
        for (number, expected_s) in table {
            assert_eq!(
                trained_before(&attempts, &events, number),
                Duration::from_secs(expected_s),
                "before attempt {number}"
            );
        }
    }
}
