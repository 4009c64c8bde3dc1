//! Boxes of earlier attempts of a run that goes on: stopped while the successor comes up, destroyed once what they hold is not wanted
//! any more, or somebody let them go.

use std::time::Duration;

use serde_json::json;

use super::{State, alarms, boxes::has_bucket, claims, lifecycle::Lifecycle, next};
use crate::{
    error::CommandError,
    store::{AttemptRecord, RunRecord, Store, StoreError},
};

/// How long an interrupted box is kept while its successor comes up.
const KEPT_FOR: Duration = Duration::from_secs(30 * 60);
/// Event: a box stays, because a checkpoint is on it alone.
const KEPT: &str = "old_box_kept";
/// Event: somebody wants the box of that attempt to go, whatever is on it.
const LET_GO: &str = "old_box_let_go";

/// Writes down that the box of an earlier attempt is not wanted any more. Whoever acts for the run ends it.
///
/// # Errors
/// When the record cannot be written.
pub fn let_go(store: &Store, attempt: &AttemptRecord, now_us: i64) -> Result<(), StoreError> {
    let detail = json!({"instance": attempt.instance});
    store.note(&attempt.run, attempt.number, now_us, LET_GO, &detail)?;
    Ok(())
}

impl Lifecycle {
    /// Ends the boxes of earlier attempts that hold nothing any more. What cannot be done now is done at the next look.
    pub(crate) async fn reap_older(&self, run: &RunRecord) {
        if let Err(err) = self.try_reap_older(run).await {
            tracing::warn!(run = run.name, %err, "an older box is still there, will try again");
        }
    }

    /// Ends the box of one earlier attempt, whatever is on it.
    ///
    /// # Errors
    /// When the record cannot be read, or the provider does not end it.
    pub(crate) async fn end_older_box(
        &self,
        run: &RunRecord,
        number: u32,
    ) -> Result<(), CommandError> {
        let attempts = self.store.attempts(&run.name)?;
        let at = attempts.iter().position(|old| old.number == number);
        match at.filter(|at| attempts[*at].state != State::Gone) {
            Some(at) => {
                self.end_older(run, &attempts[at], &attempts[at + 1..])
                    .await
            }
            None => Ok(()),
        }
    }

    async fn try_reap_older(&self, run: &RunRecord) -> Result<(), CommandError> {
        let attempts = self.store.attempts(&run.name)?;
        for (index, old) in attempts.iter().enumerate() {
            let newer = &attempts[index + 1..];
            if newer.is_empty() || old.state == State::Gone {
                continue;
            }
            let left = alarms::only_on_box(&self.store, old)?;
            // Counted from the successor: an end that is days ago says nothing about whether anything took over.
            let since_us = old.state_us.max(newer[0].created_us);
            let age_us = self.clock.now_us().saturating_sub(since_us);
            let waited = age_us >= KEPT_FOR.as_micros() as i64
                && old.was_taken_back()
                && !old.is_kept_for_a_look()
                && left.is_none();
            let unsaved_step = left.as_ref().map(alarms::OnBox::order);
            let superseded = claims::is_superseded(has_bucket(run), old, newer, unsaved_step);
            let was_told = |kind| self.store.newest_event(&run.name, old.number, kind);
            if superseded || (waited && self.is_in_bucket(run)?) || was_told(LET_GO)?.is_some() {
                self.end_older(run, old, newer).await?;
            } else if let Some(left) = left
                && newer.iter().any(|newer| newer.started_us > 0)
                && was_told(KEPT)?.is_none()
            {
                self.tell_kept(run, old, &left)?;
            }
        }
        Ok(())
    }

    async fn end_older(
        &self,
        run: &RunRecord,
        old: &AttemptRecord,
        newer: &[AttemptRecord],
    ) -> Result<(), CommandError> {
        let resumed = newer.iter().rev().find_map(|newer| newer.resumed_step);
        let redone = match (old.last_step, resumed) {
            (Some(reached), Some(resumed)) => reached.saturating_sub(resumed),
            (Some(reached), None) => reached,
            _ => 0,
        };
        self.try_end_box(&mut old.clone(), None, Some(redone))
            .await
            .map_err(|halt| halt.into_error(&run.name))
    }

    /// A disk is paid for: why, until when, and how to end that, once.
    fn tell_kept(
        &self,
        run: &RunRecord,
        old: &AttemptRecord,
        left: &alarms::OnBox,
    ) -> Result<(), CommandError> {
        let (step, path) = (left.step, &left.path);
        let (of_step, until) = match step {
            Some(step) => (
                format!(" of step {step}"),
                format!("when step {step} is trained again, or "),
            ),
            None => (String::new(), String::new()),
        };
        let price = old.storage_usd_per_hour;
        let detail = json!({
            "instance": old.instance, "step": step, "path": path, "storage_usd_per_hour": price,
        });
        let now_us = self.clock.now_us();
        self.store
            .note(&run.name, old.number, now_us, KEPT, &detail)?;
        self.report.status(
            &run.name,
            &format!(
                "The box of attempt {} stays stopped, for ${price:.4}/h: its checkpoint{of_step} ({path}) never reached the bucket. It goes \
                 {until}with `{}`.",
                old.number,
                next::let_go(&old.run, old.number),
            ),
        );
        Ok(())
    }

    /// Whether the bucket is known to hold a checkpoint of the run to go on from.
    fn is_in_bucket(&self, run: &RunRecord) -> Result<bool, CommandError> {
        let events = self.store.events(&run.name, 0)?;
        let committed = events
            .iter()
            .any(|event| event.kind == "checkpoint.committed");
        Ok(has_bucket(run) && committed)
    }
}
