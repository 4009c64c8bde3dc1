//! From the end of a training to nothing left to lose and nothing left to pay: last checkpoints, results, the box, the bill.

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    agent_client::SessionInfo,
    error::CommandError,
    run::{
        State, believable_step,
        boxes::{KEPT, has_bucket, is_presigned},
        bringing_up::TRAIN,
        halt::Halt,
        handing::{Hands, Held},
        lifecycle::{LOOK_AGAIN, Lifecycle},
        not_saved::{unsavable, unsaved},
        site::{Site, SiteError},
        windows::BoxEnding,
    },
    spec::OnDone,
    store::{AttemptRecord, Outcome, RunRecord},
};

/// How long the last checkpoints may take to reach the bucket before the user is asked to decide.
pub(super) const LAST_BACKUP: Duration = Duration::from_secs(30 * 60);
/// Between two looks at how far an upload is.
const UPLOAD_LOOK: Duration = Duration::from_secs(1);
/// The box is given keys anew this often while it saves the last: where nothing is wrong, and where something is.
const KEYS_LAST: Duration = Duration::from_secs(10 * 60);
const KEYS_AGAIN: Duration = Duration::from_secs(60);
/// Between SIGTERM and SIGKILL when a training is stopped on request; enough to write a checkpoint.
const STOP_GRACE: Duration = Duration::from_secs(120);
/// A box whose money is over gets this long to be finished in order, then it is stopped as it is.
const LIMIT_GRACE: Duration = Duration::from_secs(60);

/// Why a training is ended before its own end.
#[derive(Debug)]
pub(crate) enum Ending {
    /// Somebody asked for it.
    Asked,
    /// A limit of the run file is reached; which one.
    Limit(String),
    /// It contradicts its estimate; by what.
    Contradiction(String),
}

impl Ending {
    /// Why, for people.
    pub(crate) fn reason(&self) -> &str {
        match self {
            Self::Asked => "stopped on request",
            Self::Limit(why) | Self::Contradiction(why) => why,
        }
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::Asked => Outcome::Stopped,
            Self::Limit(_) => Outcome::Limit,
            Self::Contradiction(_) => Outcome::Contradicted,
        }
    }
}

impl From<BoxEnding> for Ending {
    fn from(ending: BoxEnding) -> Self {
        match ending.by_contradiction {
            true => Self::Contradiction(ending.reason),
            false => Self::Limit(ending.reason),
        }
    }
}

impl Lifecycle {
    /// The training ended with exit code 0: everything is brought to safety.
    pub(crate) async fn finish(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
        site: &mut Option<Arc<dyn Site>>,
    ) -> Result<(), Halt> {
        let site = self.site_of(run, attempt, site).await?;
        let market = attempt.clone();
        tokio::select! {
            saved = self.save_everything(run, attempt, site.as_ref()) => saved?,
            halt = self.watch_market(run, market, site.as_ref()) => return Err(halt),
        }
        // Whoever names a directory of checkpoints wants them, and whoever names nothing at all did not say that he does not.
        let unwanted = run.spec.checkpoints.is_none() && run.spec.on_done == OnDone::Destroy;
        if run.spec.brings_nothing_home() && !unwanted {
            let why = "what it wrote is on this disk only, because the run names neither a bucket nor `results`";
            self.keep_for_a_look(run, attempt, why);
            let (name, price) = (&run.name, attempt.storage_usd_per_hour);
            self.say(
                run,
                &format!(
                    "The disk costs ${price:.4}/h. Start its box with `spotter ssh --start {name}`, fetch from it with `spotter \
                     fetch {name} PATH --to DIR`, then end it with `spotter destroy --lose-data {name}`."
                ),
            );
        }
        self.move_to(attempt, State::Collected)?;
        Ok(())
    }

    /// Waits for something that the agent uploads, and tells how far it is: tens of gigabytes take half an hour.
    pub(super) async fn shown<T>(
        &self,
        run: &RunRecord,
        site: &dyn Site,
        what: &str,
        work: impl Future<Output = T>,
    ) -> T {
        tokio::select! {
            done = work => done,
            never = self.show_upload(run, site, what) => match never {},
        }
    }

    async fn show_upload(&self, run: &RunRecord, site: &dyn Site, what: &str) -> Infallible {
        let mut told = None;
        let mut keys_given = Instant::now();
        let mut hands = Hands::default();
        loop {
            tokio::time::sleep(UPLOAD_LOOK).await;
            let backup = site.status().await.ok().and_then(|status| status.backup);
            let Some(backup) = backup else { continue };
            // They may end in the middle of it, and whoever watched brings no others by now.
            let keys_last = match backup.problem {
                Some(_) => KEYS_AGAIN,
                None => KEYS_LAST,
            };
            if keys_given.elapsed() >= keys_last {
                keys_given = Instant::now();
                let held = Held::of(&backup, self.clock.now_us());
                if let Err(err) = self.hand_over(run, site, held, &mut hands).await {
                    tracing::debug!(%err, "the bucket keys of the box were not renewed, will retry");
                }
            }
            if backup.uploading_total_bytes > 0 {
                let (done, total) = (backup.uploading_done_bytes, backup.uploading_total_bytes);
                self.report.transfer(&run.name, what, done, total);
            }
            // The box is paid for while somebody looks at a line that does not move: it says why.
            if let Some(problem) = backup.problem
                && told.as_ref() != Some(&problem)
            {
                self.say(
                    run,
                    &format!("Careful: the bucket does not take it yet: {problem}."),
                );
                told = Some(problem);
            }
        }
    }

    /// Last checkpoints to the bucket, results to bucket and laptop, all events to the store.
    async fn save_everything(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
        site: &dyn Site,
    ) -> Result<(), Halt> {
        let has_bucket = has_bucket(run);
        if has_bucket {
            self.hand_over_last(run, attempt.number, site).await?;
            self.say(run, "Saving the last checkpoints.");
            let saving = site.backup_now(LAST_BACKUP, true);
            let backup = match self.shown(run, site, "checkpoint", saving).await {
                Ok(backup) => Some(backup),
                Err(err) => {
                    let status = site.status().await;
                    let backup = status.ok().and_then(|status| status.backup);
                    if !backup.is_some_and(|backup| backup.unseen) {
                        return Err(self.not_saved(run, attempt.number, "last checkpoints", err));
                    }
                    // No waiting makes it readable: the disk is kept for a look, the GPU is not paid.
                    let why = format!("its checkpoint directory could not be looked at ({err})");
                    self.keep_for_a_look(run, attempt, &why);
                    None
                }
            };
            let (pending, unsaved_bytes) = backup
                .as_ref()
                .map_or((0, 0), |backup| (backup.pending, backup.unsaved_bytes));
            if pending == 0 && unsaved_bytes > 0 {
                // No waiting makes it one that can be saved: the disk is kept for a look, the GPU is not paid.
                let why = backup.as_ref().map(unsavable).unwrap_or_default();
                self.keep_for_a_look(run, attempt, &why);
            } else if pending > 0 {
                let text = format!(
                    "run `{}` has {unsaved_bytes} bytes of checkpoints that did not reach the bucket",
                    run.name
                );
                return Err(Halt::Fatal(
                    CommandError::new(text)
                        .because(
                            backup
                                .and_then(|backup| backup.problem)
                                .unwrap_or_else(|| "the time for it is over".to_owned()),
                        )
                        .hint(format!("try again with `spotter up {}`", run.name))
                        .hint(format!(
                            "or give them up with `spotter destroy --lose-data {}`",
                            run.name
                        )),
                ));
            }
        }
        if let Some(results) = &run.spec.results {
            let workdir = match site.configure(&self.assignment(run, attempt)).await {
                Ok(workdir) => workdir,
                Err(err) => return Err(self.not_saved(run, attempt.number, "results", err)),
            };
            self.say(
                run,
                &format!("Fetching results to {}.", results.to.display()),
            );
            // A box without keys has nothing signed for results: they come from it alone.
            if has_bucket && !is_presigned(run) {
                let collecting = site.collect_results(&results.fetch);
                self.shown(run, site, "results to the bucket", collecting)
                    .await
                    .map_err(|err| self.not_saved(run, attempt.number, "results", err))?;
            }
            let absent = self
                .fetch_results(run, attempt.number, site, &workdir, results)
                .await?;
            match absent {
                // A training that was stopped half-way has no results yet.
                Some(absent) if run.stop_requested => self.say(run, &format!("Careful: {absent}.")),
                // A mistyped path must not cost the model that lies beside it.
                Some(absent) => self.keep_for_a_look(run, attempt, &absent),
                None => {}
            }
        }
        self.take_record(run, attempt, site).await
    }

    /// What the box printed and did goes with it: nothing is destroyed before it is here.
    pub(super) async fn take_record(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
        site: &dyn Site,
    ) -> Result<(), Halt> {
        let taken = async {
            let status = site.status().await?;
            let step = status.training.as_ref().and_then(|training| training.step);
            if let Some(step) = believable_step(step) {
                attempt.last_step = Some(step);
            }
            if status.session(TRAIN).is_some() {
                self.copy_log(run, attempt.number, site, TRAIN).await?;
                let copy = self.logbook.open(&run.name, attempt.number, TRAIN);
                copy.and_then(|copy| copy.settle()).map_err(|err| {
                    SiteError::Local(format!("a log is not on this disk for good: {err}"))
                })?;
            }
            self.copy_events(run, attempt, site).await
        };
        taken
            .await
            .map_err(|err| self.not_saved(run, attempt.number, "log and events", err))?;
        self.copy_last_samples(run, attempt, site).await;
        Ok(())
    }

    /// Something is not as ordered: the box is stopped rather than destroyed at the end.
    pub(super) fn keep_for_a_look(&self, run: &RunRecord, attempt: &mut AttemptRecord, why: &str) {
        let what = match run.spec.on_done {
            OnDone::Keep => "The box is kept as it is, and costs what it costs now",
            _ => "The box will be stopped and its disk kept",
        };
        self.say(run, &format!("Careful: {why}. {what}."));
        let before = attempt
            .reason
            .take()
            .filter(|reason| reason.starts_with(KEPT));
        attempt.reason = Some(match before {
            Some(before) => format!("{before}; {why}"),
            None => format!("{KEPT}{why}"),
        });
    }

    /// The training is ended before its own end: last checkpoint, end of the session, results.
    pub(crate) async fn stop_training(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
        site: &mut Option<Arc<dyn Site>>,
        ending: &Ending,
    ) -> Result<(), CommandError> {
        let run = &RunRecord {
            stop_requested: true,
            ..run.clone()
        };
        let stopped = async {
            let (site, status) = self.reach_to_stop(run, attempt, site, ending).await?;
            // One that has ended, or whose start never came through, has nothing to end.
            if status.session(TRAIN).is_some_and(SessionInfo::is_running) {
                self.say(run, "Stopping the training.");
                if let Err(err) = site.end_session(TRAIN, STOP_GRACE).await {
                    return Err(unsaved(run, err));
                }
            }
            self.save_everything(run, attempt, site.as_ref()).await
        };
        match stopped.await {
            // Half a training is in its checkpoints, and these have nowhere else to be.
            Ok(())
                if run.spec.checkpoints.is_some() && !has_bucket(run) && attempt.started_us > 0 =>
            {
                let why = "its checkpoints are on this disk only, because `checkpoints.to` names no bucket";
                self.keep_for_a_look(run, attempt, why);
            }
            Ok(()) => {}
            Err(Halt::Fatal(err) | Halt::Pause(err) | Halt::Wait(err)) => {
                return Err(err.about(&run.name));
            }
            Err(Halt::BadBox(why)) => {
                let text = format!(
                    "run `{}` was not stopped: what it trained could not be saved",
                    run.name
                );
                return Err(CommandError::new(text)
                    .because(why)
                    .about(&run.name)
                    .hint(format!("try again with `spotter stop {}`", run.name))
                    .hint(format!(
                        "or give it up with `spotter destroy --lose-data {}`",
                        run.name
                    )));
            }
            Err(Halt::Again(why)) => {
                tracing::debug!(
                    run = run.name,
                    why,
                    "the link broke while the training was stopped"
                );
                *site = None;
                tokio::time::sleep(LOOK_AGAIN).await;
                return Ok(());
            }
            Err(Halt::Lost(why)) if matches!(ending, Ending::Asked) => {
                return self.stop_silent(run, attempt, &why);
            }
            // The box went while it was being stopped: what was committed is in the bucket.
            Err(Halt::Interrupted { why, .. } | Halt::Lost(why) | Halt::StoppedByHand(why)) => {
                self.keep_for_a_look(
                    run,
                    attempt,
                    &format!("the box went while the training was stopped: {why}"),
                );
                self.gpu_charge_ends(attempt)?;
            }
            Err(
                Halt::Superseded
                | Halt::StopRequested
                | Halt::GiveUp(_)
                | Halt::Limit { .. }
                | Halt::EndedByBox(_),
            ) => return Ok(()),
        }
        self.stopped(run, attempt, ending)
    }

    /// Records that a box ended its training itself and then stopped: what was not saved is on its disk.
    pub(crate) fn ended_by_box(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
        ended: BoxEnding,
    ) -> Result<(), CommandError> {
        self.keep_for_a_look(run, attempt, &ended.reason);
        self.stopped(run, attempt, &ended.into())
    }

    /// Records the end of a training that did not end by itself.
    pub(crate) fn stopped(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
        ending: &Ending,
    ) -> Result<(), CommandError> {
        let outcome = ending.outcome();
        if !is_kept(attempt) {
            attempt.reason = Some(ending.reason().to_owned());
        }
        match self.move_to(attempt, State::Stopped) {
            // Somebody else has moved it on.
            Err(crate::store::StoreError::Superseded { .. }) => return Ok(()),
            other => other?,
        }
        let reason = match ending {
            Ending::Asked => attempt.reason.clone().filter(|_| is_kept(attempt)),
            other => Some(other.reason().to_owned()),
        };
        self.end(run, outcome, reason.as_deref())
    }

    /// A limit is reached: the box is finished in order while there is money for it, and stopped as it is when that is over.
    pub(crate) async fn stop_for_limit(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
        site: &mut Option<Arc<dyn Site>>,
        why: &str,
        left: Duration,
    ) -> Result<(), CommandError> {
        let left = self.limit_left(run, attempt, why, left)?;
        let ending = Ending::Limit(why.to_owned());
        let mut told = String::new();
        let in_order = async {
            // What stands in the way of an end in order may pass, and the money goes on meanwhile.
            while let Err(err) = self.stop_training(run, attempt, site, &ending).await {
                self.wait(run, &err, &mut told).await;
            }
        };
        if tokio::time::timeout(left, in_order).await.is_ok() {
            return Ok(());
        }
        let late = format!("{why}, and its box could not be finished in time");
        self.keep_for_a_look(run, attempt, &late);
        loop {
            let stopped = self.stop_box(run, attempt).await;
            if self.done_or_wait(run, stopped, &mut told).await?.is_some() {
                break;
            }
        }
        self.stopped(run, attempt, &ending)
    }

    /// What is left of the time to finish in order, counted from when the limit was first seen in this life of the attempt: a link
    /// that breaks again and again does not prolong it.
    fn limit_left(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        why: &str,
        left: Duration,
    ) -> Result<Duration, CommandError> {
        let left = left.max(LIMIT_GRACE);
        let first = self.store.events(&run.name, 0)?.into_iter().find(|event| {
            event.attempt == attempt.number
                && event.kind == "limit_reached"
                && event.time_us >= attempt.reopened_us
        });
        let Some(first) = first else {
            self.say(run, &format!("Finishing `{}`: {why}.", run.name));
            let detail = serde_json::json!({"reason": why, "left_s": left.as_secs()});
            self.note(run, attempt.number, "limit_reached", detail)?;
            return Ok(left);
        };
        let given = Duration::from_secs(first.detail["left_s"].as_u64().unwrap_or_default());
        let passed_us = self.clock.now_us().saturating_sub(first.time_us);
        Ok(given.saturating_sub(Duration::from_micros(passed_us.max(0) as u64)))
    }
}

fn is_kept(attempt: &AttemptRecord) -> bool {
    attempt
        .reason
        .as_ref()
        .is_some_and(|reason| reason.starts_with(KEPT))
}
