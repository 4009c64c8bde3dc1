//! Carries a run from state to state. Every step is recorded before and after it is taken and may be taken again, so that any
//! later command finds a half-done run where the record stands and goes on.
//!
//! The steps are in the files beside this one: renting, bringing up, watching (in [`crate::watcher`]), finishing. What happens to
//! boxes that are not wanted any more is in `boxes`.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    agent_client::{AgentStatus, TrainingInfo},
    clock::Clock,
    error::CommandError,
    logbook::Logbook,
    provider::Provider,
    run::{
        State,
        halt::Halt,
        observing::{self, Meter},
        prepaying,
        site::{Place, Site, Sites},
        waiting::Looks,
    },
    store::{AttemptRecord, Outcome, RunRecord, Store, StoreError},
};

/// Between two looks for boxes that belong to nobody.
pub(crate) const TEND: Duration = Duration::from_secs(60);
/// Pause before the next look at something that a provider or a box needs time for.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(3);

/// Told what is going on, for people.
pub trait Report: Send + Sync {
    /// A sentence about a run.
    fn status(&self, run: &str, text: &str);
    /// Bytes of something of a run that takes a while.
    fn transfer(&self, run: &str, what: &str, done_bytes: u64, total_bytes: u64);
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
    /// What was seen of boxes that are waited for.
    pub looks: Looks,
}

impl Lifecycle {
    /// Figures for later plans: no run is held up for them.
    pub(super) fn observe(&self, run: &RunRecord) {
        let now_us = self.clock.now_us();
        if let Err(err) = observing::observe_run(&self.store, &self.logbook, run, now_us) {
            tracing::debug!(%err, "what the run was seen to do is not written down");
        }
        if let Err(err) = self.judge_bandwidth(run) {
            tracing::debug!(%err, "a host's line was not judged");
        }
    }

    /// Carries a run on until `goal`. The caller holds the run's lease.
    pub async fn drive(&self, name: &str, goal: Goal) -> Result<RunRecord, CommandError> {
        let mut site: Option<Arc<dyn Site>> = None;
        let mut told = String::new();
        let mut tended: Option<Instant> = None;
        let mut moved_on = false;
        self.read_bills(name).await?;
        loop {
            let run = self.store.run(name)?;
            if tended.is_none_or(|at| at.elapsed() >= TEND) {
                tended = Some(Instant::now());
                self.tend().await;
                self.observe(&run);
            }
            if run.outcome.is_some() {
                self.observe(&run);
                self.settle_patiently(&run, site.take()).await?;
                return Ok(self.store.run(name)?);
            }
            self.reap_older(&run).await;
            let Some(mut attempt) = self.store.latest_attempt(name)? else {
                self.new_attempt(&run, 1)?;
                continue;
            };
            let is_there = goal == Goal::Running && attempt.state == State::Running;
            if is_there && moved_on {
                return Ok(run);
            }
            let stepped = match is_there {
                true => self.look_in(&run, &mut attempt, &mut site).await,
                false => self.step(&run, &mut attempt, &mut site).await,
            };
            let Err(halt) = stepped else {
                if is_there && attempt.state == State::Running {
                    return Ok(run);
                }
                moved_on = true;
                told.clear();
                continue;
            };
            // A tunnel belongs to one box and one link; whatever follows opens its own.
            if !matches!(
                halt,
                Halt::StopRequested | Halt::Superseded | Halt::Limit { .. } | Halt::EndedByBox(_)
            ) {
                site = None;
            }
            match halt {
                Halt::Wait(err) if may_wait(&attempt) => self.wait(&run, &err, &mut told).await,
                halt => self.halted(&run, attempt, halt, &mut site).await?,
            }
        }
    }

    /// Tells once what is waited for, and waits a little.
    pub(crate) async fn wait(&self, run: &RunRecord, err: &CommandError, told: &mut String) {
        let why = std::iter::once(err.message())
            .chain(err.causes().iter().map(String::as_str))
            .collect::<Vec<_>>()
            .join(": ");
        if *told != why {
            self.say(run, &format!("Waiting: {why}. Trying again."));
            *told = why;
        }
        tokio::time::sleep(LOOK_AGAIN * 3).await;
    }

    /// For something that must be done: `None` when only the provider's answer was missing, after a pause. Do it again then.
    pub(crate) async fn done_or_wait<T>(
        &self,
        run: &RunRecord,
        result: Result<T, Halt>,
        told: &mut String,
    ) -> Result<Option<T>, CommandError> {
        match result {
            Ok(done) => Ok(Some(done)),
            Err(Halt::Wait(err)) => {
                self.wait(run, &err, told).await;
                Ok(None)
            }
            Err(halt) => Err(halt.into_error(&run.name)),
        }
    }

    /// Deals with the boxes of an ended run, for as long as that takes: nobody else will do it.
    pub(crate) async fn settle_patiently(
        &self,
        run: &RunRecord,
        site: Option<Arc<dyn Site>>,
    ) -> Result<(), CommandError> {
        let mut told = String::new();
        loop {
            let settled = self.settle(run, site.clone()).await;
            if self.done_or_wait(run, settled, &mut told).await?.is_some() {
                return Ok(());
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
            State::Preparing | State::Syncing | State::Smoke => {
                self.bring_up(run, attempt, site).await
            }
            State::Running => self.watch(run, attempt, site).await,
            State::Finishing => self.finish(run, attempt, site).await,
            State::Collected => Ok(self.end(run, Outcome::Done, None)?),
            State::Interrupted | State::Lost | State::Gone => self.recover(run, attempt).await,
            State::Waiting => self.wait_here(run, attempt).await,
            // These two are recorded together with their outcome; a crash in between left only the state.
            State::Failed => {
                let crashed = self
                    .store
                    .newest_event(&run.name, attempt.number, "crashed")?
                    .is_some();
                let outcome = if crashed {
                    Outcome::Crashed
                } else {
                    Outcome::Failed
                };
                Ok(self.end(run, outcome, attempt.reason.as_deref())?)
            }
            State::Stopped => Ok(self.end(run, Outcome::Stopped, None)?),
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

    /// Keeps the most of what looks at a box show.
    pub(crate) fn measure(
        &self,
        attempt: &AttemptRecord,
        status: &AgentStatus,
        meter: &mut Meter,
    ) -> Result<(), StoreError> {
        if let Some(sample) = &status.sample {
            meter.add(sample);
        }
        match meter.news() {
            Some(most) => self
                .store
                .record_measured(&attempt.run, attempt.number, &most),
            None => Ok(()),
        }
    }

    /// What a run cost up to now, dollars.
    pub fn spent_usd(&self, run: &str) -> Result<f64, CommandError> {
        Ok(prepaying::spent_usd(&self.store, run, self.clock.now_us())?)
    }

    pub(crate) fn place(&self, attempt: &AttemptRecord, instance: u64) -> Place {
        Place {
            provider: self.provider.name(),
            instance,
            run: attempt.run.clone(),
            addresses: attempt.ssh.clone(),
        }
    }
}

/// Whether a missing answer of the provider is waited for. A run that was just typed tells its user at once.
fn may_wait(attempt: &AttemptRecord) -> bool {
    attempt.number > 1
        || attempt.instance.is_some()
        || !matches!(attempt.state, State::Planned | State::Renting)
}
