//! Carries a run from state to state. Every step is recorded before and after it is taken and may be taken again, so that any
//! later command finds a half-done run where the record stands and goes on.
//!
//! The steps are in the files beside this one: renting, bringing up, watching (in [`crate::watcher`]), finishing.

use std::{sync::Arc, time::Duration};

use crate::{
    agent_client::TrainingInfo,
    clock::Clock,
    error::CommandError,
    ledger::{self, CostKind},
    logbook::Logbook,
    provider::{Provider, ProviderError},
    run::{
        State, label,
        recovery::{self, Move},
        site::{Place, Site, SiteError, Sites},
    },
    store::{AttemptRecord, Outcome, RunRecord, Store, StoreError},
};

/// How long an interrupted box is kept while its successor comes up.
const OLD_BOX_KEPT: Duration = Duration::from_secs(30 * 60);
/// Pause before the next look at something that a provider or a box needs time for.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(3);

/// Told what is going on, for people.
pub trait Report: Send + Sync {
    /// A sentence about a run.
    fn status(&self, run: &str, text: &str);
    /// Bytes of something that takes a while.
    fn transfer(&self, what: &str, done_bytes: u64, total_bytes: u64);
    /// What the training printed last.
    fn training(&self, run: &str, training: &TrainingInfo);
}

/// How far to carry a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Until its training runs.
    Running,
    /// Until it has ended and its boxes are dealt with.
    End,
}

/// Why a step stopped short.
#[derive(Debug)]
pub(crate) enum Halt {
    /// The market took the box back.
    Interrupted(String),
    /// Provider and heartbeat agree that the box is no more.
    Lost(String),
    /// This box does not come up; another one may.
    BadBox(String),
    /// Another box would not help.
    Fatal(CommandError),
    /// The user asked for the end of the run.
    StopRequested,
    /// Another process acts for this run, or the record has moved on: read it again.
    Superseded,
    /// The link broke, which says nothing about the box: take the step again, over a new link.
    Again(String),
    /// Something on this laptop or at the provider is in the way. The run stays as it stands; `up` goes on.
    Pause(CommandError),
}

impl From<CommandError> for Halt {
    fn from(err: CommandError) -> Self {
        Self::Fatal(err)
    }
}

impl From<crate::store::StoreError> for Halt {
    fn from(err: crate::store::StoreError) -> Self {
        match err {
            // Somebody else has moved the record on: what we meant to write is out of date.
            StoreError::BadMove { .. } => Self::Superseded,
            err => Self::Pause(err.into()),
        }
    }
}

impl From<ProviderError> for Halt {
    fn from(err: ProviderError) -> Self {
        match err {
            ProviderError::OfferGone { .. }
            | ProviderError::BidTooLow { .. }
            | ProviderError::NoCredit { .. }
            | ProviderError::Refused { status: ..500, .. } => Self::Fatal(err.into()),
            // A missing key, a rate or a broken network says nothing about the run.
            _ => Self::Pause(err.into()),
        }
    }
}

/// Answers for variables of the caller's shell by name.
pub type Shell = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// What the steps need.
pub struct Lifecycle {
    /// The record.
    pub store: Arc<Store>,
    /// The market.
    pub provider: Arc<dyn Provider>,
    /// The way to boxes.
    pub sites: Arc<dyn Sites>,
    /// The date.
    pub clock: Clock,
    /// Copies of logs.
    pub logbook: Logbook,
    /// Told what is going on.
    pub report: Arc<dyn Report>,
    /// Values of variables that the run file leaves to the caller's shell.
    pub shell: Shell,
}

impl Lifecycle {
    /// Carries a run on until `goal`. The caller holds the run's lease.
    pub async fn drive(&self, name: &str, goal: Goal) -> Result<RunRecord, CommandError> {
        let mut site: Option<Arc<dyn Site>> = None;
        loop {
            let run = self.store.run(name)?;
            if run.outcome.is_some() {
                self.settle(&run, site.take()).await?;
                return Ok(self.store.run(name)?);
            }
            self.reap_older(&run).await;
            let Some(mut attempt) = self.store.latest_attempt(name)? else {
                self.new_attempt(&run, 1)?;
                continue;
            };
            if goal == Goal::Running && attempt.state == State::Running {
                return Ok(run);
            }
            let step = self.step(&run, &mut attempt, &mut site).await;
            if let Err(halt) = step {
                // A tunnel belongs to one box and one link; whatever follows opens its own.
                if !matches!(halt, Halt::StopRequested | Halt::Superseded) {
                    site = None;
                }
                self.halted(&run, attempt, halt, &mut site).await?;
            }
        }
    }

    async fn step(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
        site: &mut Option<Arc<dyn Site>>,
    ) -> Result<(), Halt> {
        if run.stop_requested && attempt.state.is_active() && attempt.state != State::Running {
            return Err(Halt::StopRequested);
        }
        match attempt.state {
            State::Planned | State::Renting => self.rent(run, attempt).await,
            State::Loading => self.load(run, attempt).await,
            State::Preparing | State::Syncing => self.bring_up(run, attempt, site).await,
            State::Running => self.watch(run, attempt, site).await,
            State::Finishing => self.finish(run, attempt, site).await,
            State::Collected => Ok(self.end(run, Outcome::Done, None)?),
            State::Interrupted | State::Lost | State::Gone => self.recover(run, attempt).await,
            // These two are recorded together with their outcome; a crash in between left only the state.
            State::Failed => {
                let outcome = if attempt.started_us > 0 {
                    Outcome::Crashed
                } else {
                    Outcome::Failed
                };
                Ok(self.end(run, outcome, attempt.reason.as_deref())?)
            }
            State::Stopped => Ok(self.end(run, Outcome::Stopped, None)?),
        }
    }

    /// Records why a step stopped short and prepares what follows.
    async fn halted(
        &self,
        run: &RunRecord,
        mut attempt: AttemptRecord,
        halt: Halt,
        site: &mut Option<Arc<dyn Site>>,
    ) -> Result<(), CommandError> {
        match halt {
            Halt::Superseded => Ok(()),
            Halt::Again(why) => {
                tracing::debug!(run = run.name, why, "the link broke; taking the step again");
                tokio::time::sleep(LOOK_AGAIN).await;
                Ok(())
            }
            Halt::Pause(err) => Err(err
                .about(&run.name)
                .hint(format!("go on with `spotter up {}`", run.name))),
            Halt::Interrupted(why) => {
                self.say(
                    run,
                    &format!("Attempt {} was interrupted: {why}.", attempt.number),
                );
                let detail = serde_json::json!({"reason": why, "step": attempt.last_step});
                self.note(run, attempt.number, "interrupted", detail)?;
                self.box_went(attempt, State::Interrupted, why)
            }
            Halt::Lost(why) => {
                self.say(
                    run,
                    &format!("The box of attempt {} is lost: {why}.", attempt.number),
                );
                let detail = serde_json::json!({"reason": why, "step": attempt.last_step});
                self.note(run, attempt.number, "lost", detail)?;
                self.box_went(attempt, State::Lost, why)
            }
            // It holds a training, and whether that is saved nobody can say: only a person ends it.
            Halt::BadBox(why) if attempt.started_us > 0 => {
                let text = format!(
                    "the box of `{}` cannot be used and was kept: it holds a training",
                    run.name
                );
                Err(CommandError::new(text)
                    .because(why)
                    .about(&run.name)
                    .hint(format!("try again with `spotter up {}`", run.name))
                    .hint(format!(
                        "or give it up with `spotter destroy --lose-data {}`",
                        run.name
                    )))
            }
            Halt::BadBox(why) => {
                self.say(
                    run,
                    &format!(
                        "The box of attempt {} did not come up: {why}.",
                        attempt.number
                    ),
                );
                self.note(
                    run,
                    attempt.number,
                    "bring_up_failed",
                    serde_json::json!({"reason": why}),
                )?;
                attempt.reason = Some(why);
                self.end_box(&mut attempt).await
            }
            Halt::StopRequested => {
                if attempt.started_us > 0 {
                    return self.stop_training(run, &mut attempt, site).await;
                }
                attempt.reason = Some("stopped before the training started".to_owned());
                if attempt.state == State::Renting && attempt.instance.is_none() {
                    // Whether it was rented is not known yet; only its end makes that sure.
                    self.end_box(&mut attempt).await?;
                } else {
                    self.move_to(&mut attempt, State::Stopped)?;
                }
                self.end(run, Outcome::Stopped, attempt.reason.as_deref())
            }
            Halt::Fatal(err) => self.failed(run, attempt, err).await,
        }
    }

    /// Records that a box is no longer ours, and that its GPU is not charged any more.
    fn box_went(
        &self,
        mut attempt: AttemptRecord,
        state: State,
        why: String,
    ) -> Result<(), CommandError> {
        attempt.reason = Some(why);
        self.gpu_charge_ends(&attempt)?;
        match self.move_to(&mut attempt, state) {
            // Somebody else was faster; the loop reads what they wrote.
            Err(StoreError::BadMove { .. }) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Another box would not help. Where nothing was ever trained the run is over and nothing is left to pay; otherwise
    /// everything that holds a training stays as it is.
    async fn failed(
        &self,
        run: &RunRecord,
        mut attempt: AttemptRecord,
        err: CommandError,
    ) -> Result<(), CommandError> {
        let trained = self
            .store
            .attempts(&run.name)?
            .iter()
            .any(|attempt| attempt.started_us > 0);
        if trained {
            if attempt.started_us == 0 && attempt.instance.is_some() {
                self.end_box(&mut attempt).await?;
            }
            return Err(err
                .about(&run.name)
                .hint(format!("go on with `spotter up {}`", run.name)));
        }
        let reason = std::iter::once(err.message())
            .chain(err.causes().iter().map(String::as_str))
            .collect::<Vec<_>>()
            .join(": ");
        attempt.reason = Some(reason.clone());
        if attempt.state.may_follow(State::Failed) {
            self.move_to(&mut attempt, State::Failed)?;
        }
        self.end(run, Outcome::Failed, Some(&reason))?;
        let settled = self.settle(&self.store.run(&run.name)?, None).await;
        Err(match settled {
            Ok(()) => err.about(&run.name),
            Err(settle) => err.because(settle.to_string()).about(&run.name),
        })
    }

    /// After an interruption or a box that never came up: another one, or the end.
    async fn recover(&self, run: &RunRecord, attempt: &mut AttemptRecord) -> Result<(), Halt> {
        if run.stop_requested {
            return Ok(self.end(run, Outcome::Stopped, None)?);
        }
        // Stopped by us, it cannot be given back by the market while its successor runs: never two GPU charges.
        if matches!(attempt.state, State::Interrupted | State::Lost)
            && let Some(id) = attempt.instance
        {
            crate::fault::point("provider.stop.before");
            match self.provider.stop(id).await {
                Ok(()) => {}
                Err(err) if attempt.state == State::Lost => {
                    tracing::warn!(%err, instance = id, "a lost box could not be told to stop");
                }
                Err(err) => {
                    self.say(
                        run,
                        &format!(
                            "Instance {id} could not be told to stay stopped: {err}. Trying again."
                        ),
                    );
                    tokio::time::sleep(LOOK_AGAIN * 3).await;
                    return Ok(());
                }
            }
            crate::fault::point("provider.stop.after");
        }
        self.collect_left_log(run, attempt.number).await;
        let attempts = self.store.attempts(&run.name)?;
        let spent_usd = self.spent_usd(&run.name)?;
        match recovery::decide(&run.spec, &attempts, spent_usd) {
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
        }
    }

    /// Writes down a new attempt. That another process wrote it first is no error: the loop reads it.
    fn new_attempt(&self, run: &RunRecord, number: u32) -> Result<(), CommandError> {
        let attempt = self.draft(run, number);
        match self.store.create_attempt(&attempt) {
            Err(crate::store::StoreError::AttemptExists { .. }) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Boxes of earlier attempts: stopped while the successor comes up, destroyed once it runs.
    pub(crate) async fn reap_older(&self, run: &RunRecord) {
        if let Err(err) = self.try_reap_older(run).await {
            tracing::warn!(run = run.name, %err, "an older box is still there, will try again");
        }
    }

    async fn try_reap_older(&self, run: &RunRecord) -> Result<(), CommandError> {
        let attempts = self.store.attempts(&run.name)?;
        let Some((latest, older)) = attempts.split_last() else {
            return Ok(());
        };
        for old in older.iter().filter(|old| old.state != State::Gone) {
            let age_us = self.clock.now_us().saturating_sub(old.state_us);
            let waited = age_us >= OLD_BOX_KEPT.as_micros() as i64;
            let trains = latest.started_us > 0 && latest.state != State::Syncing;
            if !trains && !waited {
                continue;
            }
            let mut old = old.clone();
            self.end_box(&mut old).await?;
            let redone = match (old.last_step, latest.resumed_step) {
                (Some(reached), Some(resumed)) => reached.saturating_sub(resumed),
                (Some(reached), None) => reached,
                _ => 0,
            };
            self.note(
                run,
                old.number,
                "box_destroyed",
                serde_json::json!({"instance": old.instance, "steps_redone": redone}),
            )?;
        }
        Ok(())
    }

    /// Destroys the box of an attempt, waits until the provider confirms it, and closes its account.
    pub(crate) async fn end_box(&self, attempt: &mut AttemptRecord) -> Result<(), CommandError> {
        let mut ours: Vec<u64> = attempt.instance.into_iter().collect();
        if attempt.instance.is_none() && attempt.state != State::Planned {
            // Nothing was adopted, but a create may be on its way: it is looked for as long as it may still appear.
            ours.extend(self.look_for_label(&attempt.label, &|_| {}).await?);
        }
        if let Some(id) = ours.first().copied() {
            crate::fault::point("provider.destroy.before");
            self.provider.destroy(id).await?;
            crate::fault::point("provider.destroy.after");
            // Only the provider's word makes it gone.
            let mut looks = 0;
            while self.provider.instance(id).await?.is_some() {
                looks += 1;
                if looks % 10 == 0 {
                    self.provider.destroy(id).await?;
                }
                if looks > 40 {
                    let text =
                        format!("instance {id} still exists two minutes after it was destroyed");
                    return Err(CommandError::new(text)
                        .about(&attempt.run)
                        .hint("look again with `spotter gc`"));
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            // A create that was carried out after its answer was given up made a second one under the same label.
            for twin in self.provider.instances().await? {
                if twin.label.as_deref() == Some(&attempt.label) && twin.id != id {
                    self.provider.destroy(twin.id).await?;
                }
            }
            attempt.instance = Some(id);
            self.sites.forget(&self.place(attempt, id));
        }
        attempt.gone_us = self.clock.now_us();
        self.charges_end(attempt)?;
        self.move_to(attempt, State::Gone)?;
        self.reconcile(attempt).await;
        Ok(())
    }

    /// Reads what the provider charged for an attempt and stores it beside our own figure.
    pub(crate) async fn reconcile(&self, attempt: &AttemptRecord) {
        let Some(id) = attempt.instance else { return };
        match self
            .provider
            .charges(attempt.created_us as f64 / 1e6, &[id])
            .await
        {
            Ok(charges) => {
                if let Some(charge) = charges.iter().find(|charge| charge.instance == id) {
                    let is_final = attempt.state == State::Gone;
                    if let Err(err) = self.store.record_charge(
                        &attempt.run,
                        attempt.number,
                        charge,
                        self.clock.now_us(),
                        is_final,
                    ) {
                        tracing::warn!(%err, "charges were read but not stored");
                    }
                }
            }
            Err(err) => {
                tracing::warn!(%err, "charges could not be read; the ledger's own figure stands")
            }
        }
    }

    /// Records how a run ended. Its box is dealt with afterwards, by [`Self::settle`].
    pub(crate) fn end(
        &self,
        run: &RunRecord,
        outcome: Outcome,
        reason: Option<&str>,
    ) -> Result<(), CommandError> {
        self.store.end_run(&run.name, outcome, reason)?;
        Ok(())
    }

    /// Records a state, if it may follow the recorded one.
    pub(crate) fn move_to(
        &self,
        attempt: &mut AttemptRecord,
        state: State,
    ) -> Result<(), StoreError> {
        attempt.state = state;
        attempt.state_us = self.clock.now_us();
        self.store.update_attempt(attempt)
    }

    /// Stores an event of our own.
    pub(crate) fn note(
        &self,
        run: &RunRecord,
        attempt: u32,
        kind: &str,
        detail: serde_json::Value,
    ) -> Result<(), CommandError> {
        self.store
            .note(&run.name, attempt, self.clock.now_us(), kind, &detail)?;
        Ok(())
    }

    pub(crate) fn say(&self, run: &RunRecord, text: &str) {
        self.report.status(&run.name, text);
    }

    /// What a run cost up to now, dollars.
    pub fn spent_usd(&self, run: &str) -> Result<f64, CommandError> {
        let intervals = self.store.intervals(run)?;
        let charges = self.store.final_charges(run)?;
        Ok(ledger::run_cost(&intervals, &charges, self.clock.now_us()).total_usd())
    }

    /// The GPU is charged from now on; known to be so already is fine.
    pub(crate) fn gpu_charge_starts(&self, attempt: &AttemptRecord) -> Result<(), CommandError> {
        let price = attempt.gpu_usd_per_hour;
        self.store.open_interval(
            &attempt.run,
            attempt.number,
            CostKind::Gpu,
            self.clock.now_us(),
            price,
        )?;
        Ok(())
    }

    /// The GPU is not charged any more.
    pub(crate) fn gpu_charge_ends(&self, attempt: &AttemptRecord) -> Result<(), CommandError> {
        self.store.close_interval(
            &attempt.run,
            attempt.number,
            CostKind::Gpu,
            self.clock.now_us(),
        )?;
        Ok(())
    }

    fn charges_end(&self, attempt: &AttemptRecord) -> Result<(), CommandError> {
        self.gpu_charge_ends(attempt)?;
        self.store.close_interval(
            &attempt.run,
            attempt.number,
            CostKind::Disk,
            self.clock.now_us(),
        )?;
        Ok(())
    }

    pub(crate) fn place(&self, attempt: &AttemptRecord, instance: u64) -> Place {
        Place {
            provider: self.provider.name(),
            instance,
            run: attempt.run.clone(),
            addresses: attempt.ssh.clone(),
        }
    }

    /// The instance that carries a label; `None` when the provider lists none.
    pub(crate) async fn find_by_label(&self, label: &str) -> Result<Option<u64>, ProviderError> {
        let instances = self.provider.instances().await?;
        Ok(instances
            .iter()
            .find(|instance| instance.label.as_deref() == Some(label))
            .map(|instance| instance.id))
    }
}

/// A box that refused is at fault; a broken link is nobody's fault; the laptop's own trouble is for a person to mend.
pub(crate) fn refused(what: &str, err: SiteError) -> Halt {
    match err {
        SiteError::Local(why) => Halt::Pause(CommandError::new(what).because(why)),
        SiteError::Unreachable(why) => Halt::Again(format!("{what}: {why}")),
        SiteError::Refused(why) => Halt::BadBox(format!("{what}: {why}")),
    }
}
