//! What happens to boxes that a run does not need any more: kept while they hold something, stopped, destroyed, and paid for until
//! the provider confirms their end.

use std::sync::Arc;

use crate::{
    error::CommandError,
    provider::{InstanceId, Intended, ProviderError, hosts::is_host},
    run::{
        State, alarms, claims,
        halt::Halt,
        lifecycle::{LOOK_AGAIN, Lifecycle},
        next,
        site::Site,
    },
    spec::{KeyMode, OnDone},
    store::{AttemptRecord, Outcome, RunRecord, StoreError},
};

/// Begins the reason of an attempt whose box is stopped, not destroyed, because something was not as ordered.
pub(crate) const KEPT: &str = "kept for a look: ";
/// Looks at a destroyed instance, [`LOOK_AGAIN`] apart, until it is told that it still exists.
const END_LOOKS: u32 = 40;

impl Lifecycle {
    /// Destroys the box of an attempt, waits until the provider confirms it, and closes its account.
    pub(crate) async fn end_box(&self, attempt: &mut AttemptRecord) -> Result<(), CommandError> {
        let run = attempt.run.clone();
        self.try_end_box(attempt, None, None)
            .await
            .map_err(|halt| halt.into_error(&run))
    }

    /// The same, for as long as it takes: nobody else will do it.
    pub(crate) async fn end_box_patiently(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
    ) -> Result<(), CommandError> {
        let mut told = String::new();
        loop {
            let ended = self.try_end_box(attempt, None, None).await;
            if self.done_or_wait(run, ended, &mut told).await?.is_some() {
                return Ok(());
            }
        }
    }

    /// The one place that ends a box of an attempt. `site` is the open way to it, if there is one; `steps_redone`: what its successor
    /// trained again, where it has one.
    pub(super) async fn try_end_box(
        &self,
        attempt: &mut AttemptRecord,
        site: Option<Arc<dyn Site>>,
        steps_redone: Option<u64>,
    ) -> Result<(), Halt> {
        self.store.fence(&attempt.run)?;
        let mut ours = attempt.instance;
        if ours.is_none() && attempt.state != State::Planned {
            // Nothing was adopted, but a create may be on its way: it is looked for as long as it may still appear.
            ours = self.look_for_label(&attempt.label, &|_| {}).await?;
        }
        if let Some(id) = ours {
            self.wipe_before_destroy(attempt, id, site).await;
            crate::fault::point("provider.destroy.before");
            self.provider.destroy(id).await?;
            crate::fault::point("provider.destroy.after");
            let mut free_us = self.clock.now_us();
            // Only the provider's word makes it gone.
            let mut looks = 0;
            while self.provider.instance(id).await?.is_some() {
                looks += 1;
                if looks % 10 == 0 {
                    self.provider.destroy(id).await?;
                }
                if looks > END_LOOKS {
                    let text =
                        format!("instance {id} still exists two minutes after it was destroyed");
                    return Err(Halt::Fatal(
                        CommandError::new(text)
                            .about(&attempt.run)
                            .hint("look again with `spotter gc`"),
                    ));
                }
                tokio::time::sleep(LOOK_AGAIN).await;
                free_us = self.clock.now_us();
            }
            attempt.instance = Some(id);
            // Since then it has cost nothing, however long the looks before and after this took.
            self.charges_end(attempt, free_us)?;
            // A create that was carried out after its answer was given up made a second one under the same label.
            for twin in self.labelled(&attempt.label).await? {
                if twin != id {
                    self.provider.destroy(twin).await?;
                    // Its bill is the attempt's, too.
                    let detail = serde_json::json!({"instance": twin});
                    self.store.note(
                        &attempt.run,
                        attempt.number,
                        self.clock.now_us(),
                        "twin_destroyed",
                        &detail,
                    )?;
                }
            }
            self.sites.forget(&self.place(attempt, id));
            self.destroyed(attempt, id, steps_redone)?;
        }
        attempt.gone_us = self.clock.now_us();
        self.charges_end(attempt, attempt.gone_us)?;
        self.move_to(attempt, State::Gone)?;
        self.reconcile(attempt).await;
        Ok(())
    }

    /// Tells once that the provider confirmed the end of a box.
    fn destroyed(
        &self,
        attempt: &AttemptRecord,
        id: InstanceId,
        steps_redone: Option<u64>,
    ) -> Result<(), StoreError> {
        const KIND: &str = "box_destroyed";
        let (run, number) = (&attempt.run, attempt.number);
        if self.store.newest_event(run, number, KIND)?.is_none() {
            let mut detail = serde_json::json!({"instance": id});
            if let Some(steps) = steps_redone {
                detail["steps_redone"] = steps.into();
            }
            self.store
                .note(run, number, self.clock.now_us(), KIND, &detail)?;
        }
        Ok(())
    }

    /// Instances that carry a label, the oldest first.
    pub(crate) async fn labelled(&self, label: &str) -> Result<Vec<u64>, ProviderError> {
        let instances = self.provider.instances().await?;
        let mut ids: Vec<u64> = instances
            .iter()
            .filter(|instance| instance.label.as_deref() == Some(label))
            .map(|instance| instance.id)
            .collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// Whether the provider says that an instance is stopped, or does not exist.
    pub(crate) async fn is_stopped(&self, id: u64) -> bool {
        match self.provider.instance(id).await {
            Ok(found) => found.is_none_or(|instance| {
                instance.intended == Intended::Stopped && !instance.contract_running
            }),
            Err(_) => false,
        }
    }

    /// A run has ended: its boxes are destroyed, stopped or kept, by outcome and policy.
    pub(crate) async fn settle(
        &self,
        run: &RunRecord,
        site: Option<Arc<dyn Site>>,
    ) -> Result<(), Halt> {
        let attempts = self.store.attempts(&run.name)?;
        for (index, attempt) in attempts.iter().enumerate() {
            let newer = &attempts[index + 1..];
            self.settle_box(run, attempt, newer, site.clone()).await?;
        }
        Ok(())
    }

    /// The same for its newest box alone, by somebody who only looks: the others are for whoever acts for the run.
    pub(crate) async fn settle_newest(&self, run: &RunRecord) -> Result<(), Halt> {
        match self.store.latest_attempt(&run.name)? {
            Some(newest) => self.settle_box(run, &newest, &[], None).await,
            None => Ok(()),
        }
    }

    /// One box of it; `newer` are the attempts after that.
    async fn settle_box(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        newer: &[AttemptRecord],
        site: Option<Arc<dyn Site>>,
    ) -> Result<(), Halt> {
        if attempt.state == State::Gone {
            if self.is_bill_open(attempt)? {
                self.reconcile(attempt).await;
            }
            return Ok(());
        }
        let mut attempt = attempt.clone();
        let unsaved_step = alarms::only_on_box(&self.store, &attempt)?.map(|left| left.order());
        match disposal(run, &attempt, newer, unsaved_step) {
            OnDone::Destroy => {
                // The open link is one to the newest box.
                let site = site.filter(|_| newer.is_empty());
                self.try_end_box(&mut attempt, site, None).await?;
                if let Some(id) = attempt.instance {
                    let end = match is_host(id) {
                        true => "free again; what the run left on it is its working directory",
                        false => "destroyed; it costs nothing any more",
                    };
                    let number = attempt.number;
                    self.say(run, &format!("The box of attempt {number} is {end}."));
                }
            }
            OnDone::Stop => self.stop_box(run, &attempt).await?,
            OnDone::Keep => {}
        }
        Ok(())
    }

    pub(crate) async fn stop_box(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
    ) -> Result<(), Halt> {
        let Some(id) = attempt.instance else {
            return Ok(());
        };
        self.store.fence(&run.name)?;
        let instance = self.provider.instance(id).await?;
        let already = instance.as_ref().is_none_or(|instance| {
            instance.intended == Intended::Stopped && !instance.contract_running
        });
        // One that the market took back is given back by the market, unless it is told that nobody wants it.
        if already && instance.is_some_and(|instance| instance.is_bid != Some(false)) {
            self.provider.stop(id).await?;
        }
        if already && attempt.was_taken_back() {
            let destroy = next::destroy(&self.store, run)?;
            self.say(
                run,
                &format!(
                    "Instance {id} of attempt {} stays stopped, because not all on it is known to be saved; its disk costs \
                     ${:.4}/h until `{destroy}`.",
                    attempt.number, attempt.storage_usd_per_hour
                ),
            );
        }
        if !already {
            crate::fault::point("provider.stop.before");
            self.provider.stop(id).await?;
            crate::fault::point("provider.stop.after");
            let detail = serde_json::json!({
                "instance": id, "storage_usd_per_hour": attempt.storage_usd_per_hour,
            });
            self.note(run, attempt.number, "box_stopped", detail)?;
            let destroy = next::destroy(&self.store, run)?;
            let text = match is_host(id) {
                true => format!(
                    "Nothing runs on your host any more; it is kept for the run until `{destroy}`."
                ),
                false => format!(
                    "Instance {id} is stopped; its disk still costs ${:.4}/h until `{destroy}`.",
                    attempt.storage_usd_per_hour
                ),
            };
            self.say(run, &text);
        }
        Ok(self.gpu_charge_ends(attempt)?)
    }
}

/// Whether its boxes get no bucket keys.
pub(crate) fn is_presigned(run: &RunRecord) -> bool {
    let checkpoints = run.spec.checkpoints.as_ref();
    checkpoints.is_some_and(|kept| kept.keys.mode == KeyMode::Presigned)
}

/// Whether checkpoints of a run outlive its boxes.
pub(crate) fn has_bucket(run: &RunRecord) -> bool {
    run.spec
        .checkpoints
        .as_ref()
        .is_some_and(|checkpoints| checkpoints.to.is_some())
}

impl AttemptRecord {
    /// Whether the market, or the end of its host, took its box away.
    pub(crate) fn was_taken_back(&self) -> bool {
        matches!(
            self.state,
            State::Interrupted | State::Waiting | State::Lost
        )
    }

    /// Whether its box holds what was not saved, so that a person should look before it goes.
    pub(crate) fn is_kept_for_a_look(&self) -> bool {
        self.reason
            .as_ref()
            .is_some_and(|reason| reason.starts_with(KEPT))
    }
}

/// What happens to a box of an ended run (pure). `newer` are the attempts after it; `unsaved_step`: the newest checkpoint that is on
/// it alone.
fn disposal(
    run: &RunRecord,
    attempt: &AttemptRecord,
    newer: &[AttemptRecord],
    unsaved_step: Option<u64>,
) -> OnDone {
    let Some(outcome) = run.outcome else {
        return OnDone::Keep;
    };
    let kept = attempt.is_kept_for_a_look();
    // Of several boxes the one that trained last holds what is worth keeping; a box before it only what nobody trained again.
    if newer.iter().any(|newer| newer.started_us > 0) {
        let over = outcome == Outcome::Done
            || claims::is_superseded(has_bucket(run), attempt, newer, unsaved_step);
        return if over { OnDone::Destroy } else { OnDone::Stop };
    }
    match outcome {
        // The cause comes first: the disk is kept for it, the GPU is not paid.
        Outcome::Crashed if newer.is_empty() && run.spec.on_done == OnDone::Keep => OnDone::Keep,
        Outcome::Crashed if newer.is_empty() => OnDone::Stop,
        // Nothing was trained: there is nothing to look at and nothing to lose.
        _ if attempt.started_us == 0 => OnDone::Destroy,
        // Something was not as ordered: the disk is kept for a look.
        Outcome::Done | Outcome::Stopped | Outcome::Limit | Outcome::Contradicted
            if kept && run.spec.on_done == OnDone::Destroy =>
        {
            OnDone::Stop
        }
        // It crashed, or was taken back before anything could be saved from it, and its successor never trained. In the market's
        // queue it would come back, and go on with what was ended.
        Outcome::Stopped | Outcome::Limit | Outcome::Contradicted
            if attempt.was_taken_back()
                || (attempt.state == State::Failed && run.spec.on_done == OnDone::Destroy) =>
        {
            OnDone::Stop
        }
        Outcome::Done | Outcome::Stopped | Outcome::Limit | Outcome::Contradicted => {
            run.spec.on_done
        }
        Outcome::Crashed | Outcome::Interrupted | Outcome::Lost | Outcome::Failed => OnDone::Stop,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{provider::Rental, spec::RunSpec};

    fn run(outcome: Outcome, on_done: OnDone) -> RunRecord {
        let mut spec = RunSpec::from_flags_for_tests();
        spec.on_done = on_done;
        RunRecord {
            name: "r".to_owned(),
            spec,
            created_us: 0,
            stop_requested: false,
            outcome: Some(outcome),
            reason: None,
        }
    }

    fn attempt(started_us: i64, last_step: Option<u64>, reason: Option<&str>) -> AttemptRecord {
        AttemptRecord {
            run: "r".to_owned(),
            number: 1,
            state: State::Stopped,
            label: String::new(),
            rental: Rental::Interruptible,
            instance: Some(7),
            machine_id: None,
            gpu: String::new(),
            gpu_usd_per_hour: 0.0,
            storage_usd_per_hour: 0.0,
            ssh: Vec::new(),
            created_us: 0,
            state_us: 0,
            started_us,
            gone_us: 0,
            resumed_step: None,
            last_step,
            reason: reason.map(str::to_owned),
            last_event: 0,
            exit_code: None,
            reopened_us: 0,
            old_session_us: 0,
        }
    }

    #[test]
    fn the_last_box_that_trained_is_kept_for_its_cause_and_one_that_never_did_goes() {
        use OnDone::{Destroy, Keep, Stop};
        let kept = format!("{KEPT}x");
        for (outcome, on_done, started_us, reason, expected) in [
            (Outcome::Done, Destroy, 1, None, Destroy),
            (Outcome::Done, Keep, 1, None, Keep),
            (Outcome::Done, Destroy, 1, Some(kept.as_str()), Stop),
            (Outcome::Done, Keep, 1, Some(kept.as_str()), Keep),
            (Outcome::Stopped, Destroy, 1, None, Destroy),
            (Outcome::Stopped, Keep, 0, None, Destroy),
            (Outcome::Limit, Stop, 1, None, Stop),
            (Outcome::Crashed, Destroy, 1, None, Stop),
            (Outcome::Crashed, Keep, 1, None, Keep),
            // A smoke that crashed is a crash.
            (Outcome::Crashed, Destroy, 0, None, Stop),
            (Outcome::Interrupted, Destroy, 1, None, Stop),
            (Outcome::Interrupted, Destroy, 0, None, Destroy),
            (Outcome::Failed, Stop, 0, None, Destroy),
            // It was started again and did not come up.
            (Outcome::Failed, Destroy, 1, Some(kept.as_str()), Stop),
        ] {
            let found = disposal(
                &run(outcome, on_done),
                &attempt(started_us, None, reason),
                &[],
                None,
            );
            assert_eq!(
                found, expected,
                "{outcome:?} {on_done:?} {started_us} {reason:?}"
            );
        }
    }

    #[test]
    fn a_box_whose_training_did_not_end_well_outlives_a_stop_before_its_successor_trained() {
        let drafted = AttemptRecord {
            instance: None,
            ..attempt(0, None, None)
        };
        let kept = disposal(
            &run(Outcome::Stopped, OnDone::Keep),
            &AttemptRecord {
                state: State::Interrupted,
                ..attempt(1, Some(5), None)
            },
            &[],
            None,
        );
        assert_eq!(
            kept,
            OnDone::Stop,
            "nobody would stop it when it is given back"
        );
        for (state, expected) in [
            (State::Failed, OnDone::Stop),
            (State::Interrupted, OnDone::Stop),
            (State::Lost, OnDone::Stop),
            (State::Stopped, OnDone::Destroy),
        ] {
            let old = AttemptRecord {
                state,
                ..attempt(1, Some(5), None)
            };
            let found = disposal(
                &run(Outcome::Stopped, OnDone::Destroy),
                &old,
                std::slice::from_ref(&drafted),
                None,
            );
            assert_eq!(found, expected, "{state}");
        }
    }

    #[test]
    fn an_older_box_goes_only_when_the_run_is_done_or_its_steps_were_trained_again() {
        let check = |outcome, newer: AttemptRecord, expected| {
            let run = run(outcome, OnDone::Destroy);
            let found = disposal(&run, &attempt(1, Some(500), None), &[newer], None);
            assert_eq!(found, expected, "{outcome:?}");
        };
        check(Outcome::Done, attempt(1, Some(900), None), OnDone::Destroy);
        check(Outcome::Stopped, attempt(1, Some(100), None), OnDone::Stop);
        check(
            Outcome::Stopped,
            attempt(1, Some(600), None),
            OnDone::Destroy,
        );
        check(Outcome::Interrupted, attempt(0, None, None), OnDone::Stop);
        // The smoke of the second box crashed: the first one holds the training.
        check(Outcome::Crashed, attempt(0, None, None), OnDone::Stop);
    }
}
