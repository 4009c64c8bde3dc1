//! The next attempt of a run: after an interruption by policy, or because somebody starts an ended run again.

use std::collections::BTreeSet;

use crate::{
    error::CommandError,
    ledger::Rates,
    run::{
        State,
        halt::Halt,
        label,
        lifecycle::Lifecycle,
        recovery::{self, GiveUp, Move, Past},
        waiting,
    },
    spec::RunSpec,
    store::{AttemptRecord, Outcome, RunRecord, StoreError},
};

impl AttemptRecord {
    /// GPUs of the box that it was given, as they were ordered; before one was, those that its run asks for.
    pub(crate) fn num_gpus(&self, spec: &RunSpec) -> u32 {
        let ordered = self.gpu.rsplit_once(':');
        ordered
            .and_then(|(_, count)| count.parse().ok())
            .unwrap_or(spec.resources.num_gpus)
    }
}

impl Lifecycle {
    /// After an interruption or a box that never came up: another one, or the end.
    pub(crate) async fn recover(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
    ) -> Result<(), Halt> {
        if run.stop_requested {
            // What it left in the bucket is on record before somebody asks what would be lost with it.
            self.catch_up(run, attempt).await;
            return Ok(self.end(run, Outcome::Stopped, None)?);
        }
        let next = recovery::decide(
            &run.spec,
            &Past {
                attempts: &self.store.attempts(&run.name)?,
                taken: &self.taken_back(&run.name)?,
                returns: self.returns(&run.name)?,
                failed_here: self.failed_here(attempt)?,
                spent_usd: self.spent_usd(&run.name)?,
            },
        );
        let next = match next {
            Move::Choose => self.choose_move(run, attempt).await?,
            next => next,
        };
        // Stopped by us, it cannot be given back by the market while its successor runs: never two GPU charges.
        if next != Move::Here
            && matches!(attempt.state, State::Interrupted | State::Lost)
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
        self.bring_left_home(run, attempt).await?;
        if self.runtime_left(run, attempt.number + 1) == Some(std::time::Duration::ZERO) {
            let why = "`limits.max_runtime` is over";
            self.say(run, &format!("`{}` is not carried on: {why}.", run.name));
            return Ok(self.end(run, Outcome::Limit, Some(why))?);
        }
        match next {
            Move::Here => self.begin_waiting(run, attempt),
            Move::Elsewhere | Move::Choose => {
                self.new_attempt(run, attempt.number + 1)?;
                Ok(())
            }
            Move::GiveUp(why) => Ok(self.give_up(run, attempt, &why)?),
        }
    }

    /// Ends a run that is not carried on after the attempt that ended without its doing.
    pub(crate) fn give_up(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        why: &GiveUp,
    ) -> Result<(), CommandError> {
        let outcome = match attempt.state {
            State::Lost => Outcome::Lost,
            State::Gone if !self.has_trained(run)? => Outcome::Failed,
            _ => Outcome::Interrupted,
        };
        let reason = match &attempt.reason {
            Some(reason) => format!("{reason}; not recovered: {why}"),
            None => why.to_string(),
        };
        self.say(run, &format!("`{}` is not carried on: {why}.", run.name));
        self.end(run, outcome, Some(&reason))
    }

    /// There is nothing to go on with after all: the attempt that was to do so has no box, and what ended the one before it counts.
    pub(crate) async fn give_up_unrented(
        &self,
        run: &RunRecord,
        mut attempt: AttemptRecord,
        why: &GiveUp,
    ) -> Result<(), CommandError> {
        self.end_box_patiently(run, &mut attempt).await?;
        let attempts = self.store.attempts(&run.name)?;
        let before = attempts
            .iter()
            .rfind(|known| known.number < attempt.number)
            .unwrap_or(&attempt);
        self.give_up(run, before, why)
    }

    /// Whether any attempt of a run has trained.
    pub(crate) fn has_trained(&self, run: &RunRecord) -> Result<bool, StoreError> {
        let attempts = self.store.attempts(&run.name)?;
        Ok(attempts.iter().any(|attempt| attempt.started_us > 0))
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

    /// Opens a run that has ended again: on its own box where that still exists and `here` says so, else on a new one. A box that the
    /// market took back is waited for. The caller holds the run's lease. The record's limits hold from now on.
    ///
    /// # Errors
    /// When its limits leave no time or no money to train; then nothing was changed.
    pub async fn reopen(&self, run: &RunRecord, here: bool) -> Result<(), CommandError> {
        let attempts = self.store.attempts(&run.name)?;
        let number = attempts.last().map_or(0, |last| last.number);
        self.has_time(run, number)?;
        let mut old = attempts
            .into_iter()
            .next_back()
            .filter(|last| here && last.may_cost());
        if let Some(id) = old.as_ref().and_then(|old| old.instance)
            && self.find_box(id).await?.is_none()
        {
            self.say(run, &format!("Instance {id} does not exist any more."));
            old = None;
        }
        let old = old.filter(|old| old.instance.is_some());
        match &old {
            Some(own) => self.has_money_here(run, own)?,
            None => self.has_money_elsewhere(run).await?,
        }
        let now_us = self.clock.now_us();
        let next = match old {
            Some(old) if matches!(old.state, State::Interrupted | State::Waiting) => {
                let next = AttemptRecord {
                    state: State::Waiting,
                    state_us: now_us,
                    ..old
                };
                self.note_waiting(run, &next)?;
                self.store.update_run(run)?;
                self.store.reopen_run(&run.name, &next)?;
                let run = self.store.run(&run.name)?;
                if let Some(waiting) = waiting::of(&self.store, &run, &next)? {
                    self.say(&run, &format!("Waiting {}.", waiting.text()));
                }
                return Ok(());
            }
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
        self.store.update_run(run)?;
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

    /// Somebody does not want to wait for a box any more: it is given up, and another one is taken. The caller holds the run's lease. The
    /// record's limits and resources hold from now on.
    ///
    /// # Errors
    /// When its limits leave no time or no money to train; then nothing was changed.
    pub async fn go_elsewhere(&self, run: &RunRecord) -> Result<(), CommandError> {
        let Some(mut attempt) = self.store.latest_attempt(&run.name)? else {
            return Ok(());
        };
        self.has_time(run, attempt.number)?;
        self.has_money_elsewhere(run).await?;
        if let Some(id) = attempt.instance {
            self.provider.stop(id).await?;
        }
        self.store.update_run(run)?;
        self.move_to(&mut attempt, State::Interrupted)?;
        self.new_attempt(run, attempt.number + 1)
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

impl AttemptRecord {
    /// What its box costs while it trains.
    pub(crate) fn prices(&self) -> Rates {
        Rates {
            gpu_usd_per_hour: self.gpu_usd_per_hour,
            disk_usd_per_hour: self.storage_usd_per_hour,
        }
    }
}
