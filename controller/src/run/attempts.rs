//! The next attempt of a run: after an interruption by policy, or because somebody starts an ended run again.

use std::collections::BTreeSet;

use crate::{
    error::CommandError,
    run::{
        State,
        halt::Halt,
        label,
        lifecycle::Lifecycle,
        recovery::{self, Move},
    },
    store::{AttemptRecord, Outcome, RunRecord, StoreError},
};

impl Lifecycle {
    /// After an interruption or a box that never came up: another one, or the end.
    pub(crate) async fn recover(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
    ) -> Result<(), Halt> {
        if run.stop_requested {
            return Ok(self.end(run, Outcome::Stopped, None)?);
        }
        // Stopped by us, it cannot be given back by the market while its successor runs: never two GPU charges.
        if matches!(attempt.state, State::Interrupted | State::Lost)
            && let Some(id) = attempt.instance
        {
            self.store.fence(&run.name)?;
            crate::fault::point("provider.stop.before");
            match self.provider.stop(id).await {
                Ok(()) => {}
                Err(err) if attempt.state == State::Lost => {
                    tracing::warn!(%err, instance = id, "a lost box could not be told to stop");
                }
                Err(err) if !self.is_stopped(id).await => {
                    let text = format!("instance {id} could not be told to stay stopped");
                    return Err(Halt::Wait(CommandError::new(text).cause(err)));
                }
                Err(_) => {}
            }
            crate::fault::point("provider.stop.after");
        }
        self.collect_left_log(run, attempt.number).await;
        if self.runtime_left(run, attempt.number + 1) == Some(std::time::Duration::ZERO) {
            let why = "`limits.max_runtime` is over";
            self.say(run, &format!("`{}` is not carried on: {why}.", run.name));
            return Ok(self.end(run, Outcome::Limit, Some(why))?);
        }
        let attempts = self.store.attempts(&run.name)?;
        let spent_usd = self.spent_usd(&run.name)?;
        let taken = self.taken_back(&run.name)?;
        match recovery::decide(&run.spec, &attempts, &taken, spent_usd) {
            Move::Elsewhere => {
                self.new_attempt(run, attempt.number + 1)?;
                Ok(())
            }
            Move::GiveUp(why) => {
                let outcome = match attempt.state {
                    State::Lost => Outcome::Lost,
                    State::Gone if attempts.iter().all(|attempt| attempt.started_us == 0) => {
                        Outcome::Failed
                    }
                    _ => Outcome::Interrupted,
                };
                let reason = match &attempt.reason {
                    Some(reason) => format!("{reason}; not recovered: {why}"),
                    None => why.to_string(),
                };
                self.say(run, &format!("`{}` is not carried on: {why}.", run.name));
                Ok(self.end(run, outcome, Some(&reason))?)
            }
        }
    }

    /// An attempt that nothing was asked for yet.
    pub(crate) fn draft(&self, run: &RunRecord, number: u32) -> AttemptRecord {
        let nonce = format!("{:08x}", rand::random::<u32>());
        let now_us = self.clock.now_us();
        AttemptRecord {
            run: run.name.clone(),
            number,
            state: State::Planned,
            label: label::label(self.store.id(), &run.name, number, &nonce),
            rental: run.spec.resources.rental,
            instance: None,
            machine_id: None,
            gpu: String::new(),
            gpu_usd_per_hour: 0.0,
            storage_usd_per_hour: 0.0,
            ssh: Vec::new(),
            created_us: now_us,
            state_us: now_us,
            started_us: 0,
            gone_us: 0,
            resumed_step: None,
            last_step: None,
            reason: None,
            last_event: 0,
            exit_code: None,
            reopened_us: 0,
            old_session_us: 0,
        }
    }

    /// Attempts that the market took back, whether they trained or not.
    pub(crate) fn taken_back(&self, run: &str) -> Result<BTreeSet<u32>, StoreError> {
        let events = self.store.events(run, 0)?;
        Ok(events
            .iter()
            .filter(|event| event.kind == "interrupted")
            .map(|event| event.attempt)
            .collect())
    }

    /// Opens a run that has ended again: on its own box where that still exists and `here` says so, else on a new one. The caller
    /// holds its lease.
    pub async fn reopen(&self, run: &RunRecord, here: bool) -> Result<(), CommandError> {
        let attempts = self.store.attempts(&run.name)?;
        let number = attempts.last().map_or(0, |last| last.number);
        let mut old = attempts
            .into_iter()
            .next_back()
            .filter(|last| here && last.may_cost());
        if let Some(id) = old.as_ref().and_then(|old| old.instance)
            && self.provider.instance(id).await?.is_none()
        {
            self.say(run, &format!("Instance {id} does not exist any more."));
            old = None;
        }
        let now_us = self.clock.now_us();
        let next = match old.filter(|old| old.instance.is_some()) {
            Some(old) => AttemptRecord {
                state: State::Loading,
                state_us: now_us,
                reason: None,
                exit_code: None,
                reopened_us: now_us,
                old_session_us: old.started_us,
                ..old
            },
            None => self.draft(run, number + 1),
        };
        self.store.reopen_run(&run.name, &next)?;
        let place = next.instance.map_or_else(
            || "on another box".to_owned(),
            |id| format!("on instance {id}"),
        );
        self.say(run, &format!("Starting `{}` again {place}.", run.name));
        self.note(
            run,
            next.number,
            "reopened",
            serde_json::json!({"instance": next.instance}),
        )
    }

    /// Writes down a new attempt. That another process wrote it first is no error: the loop reads it.
    pub(crate) fn new_attempt(&self, run: &RunRecord, number: u32) -> Result<(), CommandError> {
        let attempt = self.draft(run, number);
        match self.store.create_attempt(&attempt) {
            Err(crate::store::StoreError::AttemptExists { .. }) => Ok(()),
            other => Ok(other?),
        }
    }
}
