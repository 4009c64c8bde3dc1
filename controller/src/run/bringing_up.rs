//! From a rented box to a running training: agent, checks, code, set-up, checkpoint, session.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    agent_client::{BackupConfig, BoxConfig, SessionInfo, SessionRequest, SessionState},
    error::CommandError,
    run::{
        State,
        environment::{self, Job},
        lifecycle::{Halt, LOOK_AGAIN, Lifecycle, refused},
        site::{Site, SiteError},
        status::{self, Action, Meaning, Seen},
    },
    spec::OnDone,
    store::{AttemptRecord, RunRecord},
};

/// Session of `setup`.
pub const SETUP: &str = "setup";
/// Session of the training.
pub const TRAIN: &str = "train";
/// Last bytes of a log that an error shows.
const LOG_TAIL_BYTES: u64 = 2_000;

impl Lifecycle {
    /// Preparing or syncing: ends with the training session running.
    pub(crate) async fn bring_up(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
        site: &mut Option<Arc<dyn Site>>,
    ) -> Result<(), Halt> {
        if attempt.started_us == 0 && self.bring_up_left(run, attempt).is_zero() {
            let limit = self.bring_up_text(run);
            return Err(Halt::BadBox(format!(
                "its training had not started {limit}"
            )));
        }
        let site = self.site_of(run, attempt, site).await?;
        // Whatever takes long on the box, the market may take it back meanwhile: the two are raced.
        let market = attempt.clone();
        tokio::select! {
            done = self.prepare(run, attempt, site.as_ref()) => done,
            halt = self.watch_market(run, market) => Err(halt),
        }
    }

    async fn prepare(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
        site: &dyn Site,
    ) -> Result<(), Halt> {
        if attempt.state == State::Preparing {
            self.check_box(run, site).await?;
            self.still_ours(run, attempt)?;
            self.move_to(attempt, State::Syncing)?;
        }
        let workdir = self.assign(run, attempt, site).await?;
        // A crash after the start but before its record: the session is there, and it is ours.
        let status = site
            .status()
            .await
            .map_err(|err| refused("its agent did not answer", err))?;
        let mut session = status.session(TRAIN).cloned();
        if session.is_none() {
            attempt.started_us = 0;
            self.copy_code(run, site, &workdir).await?;
            let checkpoint = self.restore(run, attempt, site).await?;
            self.set_up(run, attempt, site, &workdir, &checkpoint)
                .await?;
            self.still_ours(run, attempt)?;
            let resuming = !checkpoint.is_empty();
            let command = match (&run.spec.resume, resuming) {
                (Some(resume), true) => resume,
                _ => &run.spec.run,
            };
            let plan = self.plan(run, attempt, TRAIN, command, &workdir, &checkpoint)?;
            // The intent first: from here on this box may hold a training, and is not given up lightly.
            attempt.started_us = self.clock.now_us();
            self.move_to(attempt, State::Syncing)?;
            crate::fault::point("agent.start_session.before");
            match site.start_session(&plan).await {
                Ok(started) => session = Some(started),
                Err(err) => {
                    if matches!(err, SiteError::Refused(_)) {
                        attempt.started_us = 0;
                        self.move_to(attempt, State::Syncing)?;
                    }
                    return Err(refused("its training did not start", err));
                }
            }
            crate::fault::point("agent.start_session.after");
        }
        attempt.started_us = match session {
            Some(session) if session.started_us > 0 => session.started_us as i64,
            _ => self.clock.now_us(),
        };
        self.move_to(attempt, State::Running)?;
        let place = attempt
            .instance
            .map_or_else(String::new, |id| format!(" on instance {id}"));
        self.say(run, &format!("Attempt {} trains{place}.", attempt.number));
        self.note(
            run,
            attempt.number,
            "running",
            serde_json::json!({"instance": attempt.instance, "resumed_step": attempt.resumed_step}),
        )?;
        Ok(())
    }

    /// The open way to the box, opened where it is not.
    pub(crate) async fn site_of(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        site: &mut Option<Arc<dyn Site>>,
    ) -> Result<Arc<dyn Site>, Halt> {
        match site {
            Some(site) => Ok(site.clone()),
            none => Ok(none.insert(self.open(run, attempt).await?).clone()),
        }
    }

    /// Connects and puts the agent on the box, for as long as it may take to come up.
    pub(crate) async fn open(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
    ) -> Result<Arc<dyn Site>, Halt> {
        let id = attempt
            .instance
            .ok_or_else(|| Halt::BadBox("no instance was recorded".to_owned()))?;
        let before_training = attempt.started_us == 0;
        if before_training {
            let key = self
                .sites
                .public_key()
                .await
                .map_err(|err| refused("no ssh key", err))?;
            // An account key reaches only boxes made after it; attaching is repeatable.
            if let Err(err) = self.provider.attach_key(id, &key).await {
                tracing::debug!(%err, instance = id, "the key could not be attached; the account's key may do");
            }
        }
        let mut place = self.place(attempt, id);
        let progress = |done, total| self.report.transfer("agent", done, total);
        let mut told = String::new();
        let mut unchanged: (Option<Meaning>, Instant) = (None, Instant::now());
        loop {
            self.still_ours(run, attempt)?;
            match self.sites.open(&place, &run.spec, &progress).await {
                Ok(site) => return Ok(site),
                Err(SiteError::Unreachable(why)) => {
                    if before_training && self.bring_up_left(run, attempt).is_zero() {
                        return Err(Halt::BadBox(format!(
                            "no agent answered {}: {why}",
                            self.bring_up_text(run)
                        )));
                    }
                    if why != told {
                        self.say(run, &format!("Not connected yet: {why}."));
                        told = why;
                    }
                    // Ports may change when a container restarts; and it may have been taken back.
                    match self.provider.instance(id).await {
                        Ok(Some(instance)) => {
                            let row = status::row(attempt.state, Seen::from(&instance));
                            if unchanged.0 != Some(row.meaning) {
                                unchanged = (Some(row.meaning), Instant::now());
                            }
                            let overdue = row
                                .deadline
                                .is_some_and(|deadline| unchanged.1.elapsed() >= deadline);
                            match row.action {
                                Action::Recover => {
                                    return Err(Halt::Interrupted(row.text.to_owned()));
                                }
                                Action::WaitThenRecover | Action::WaitThenGiveUp if overdue => {
                                    return Err(Halt::Interrupted(row.text.to_owned()));
                                }
                                // The host is silent, and so is the agent: that is what this loop is about.
                                Action::AskHeartbeat if overdue => {
                                    return Err(Halt::Lost(row.text.to_owned()));
                                }
                                _ => {}
                            }
                            if !instance.ssh.is_empty() {
                                place.addresses = instance.ssh;
                            }
                        }
                        Ok(None) => {
                            let why = "the provider does not know the instance any more";
                            return Err(Halt::Lost(why.to_owned()));
                        }
                        Err(err) => {
                            tracing::debug!(%err, "the provider does not answer, asking again")
                        }
                    }
                }
                Err(other) => return Err(refused("it could not be reached", other)),
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Ends when the market takes the box back, or the time to come up is over. Never ends otherwise.
    pub(crate) async fn watch_market(&self, run: &RunRecord, attempt: AttemptRecord) -> Halt {
        loop {
            tokio::time::sleep(LOOK_AGAIN * 3).await;
            let Some(id) = attempt.instance else { continue };
            match self.provider.instance(id).await {
                Ok(Some(instance)) => {
                    let row = status::row(State::Syncing, Seen::from(&instance));
                    if row.action == Action::Recover {
                        return Halt::Interrupted(row.text.to_owned());
                    }
                }
                Ok(None) => {
                    return Halt::Lost(
                        "the provider does not know the instance any more".to_owned(),
                    );
                }
                Err(err) => tracing::debug!(%err, "the provider does not answer, asking again"),
            }
            if attempt.started_us == 0 && self.bring_up_left(run, &attempt).is_zero() {
                return Halt::BadBox(format!(
                    "its training had not started {}",
                    self.bring_up_text(run)
                ));
            }
            match self.store.run(&run.name) {
                Ok(now) if now.stop_requested && !run.stop_requested => return Halt::StopRequested,
                _ => {}
            }
        }
    }

    async fn check_box(&self, run: &RunRecord, site: &dyn Site) -> Result<(), Halt> {
        let disk_bytes = (run.spec.resources.disk_gb * 1e9) as u64;
        let report = site
            .preflight(run.spec.resources.num_gpus, disk_bytes)
            .await
            .map_err(|err| refused("its checks did not run", err))?;
        for check in report.checks.iter().filter(|check| !check.ok) {
            let verdict = if check.required { "failed" } else { "warning" };
            self.say(
                run,
                &format!("Check `{}`: {verdict}: {}.", check.name, check.detail),
            );
        }
        if let Some(failed) = report
            .checks
            .iter()
            .find(|check| !check.ok && check.required)
        {
            return Err(Halt::BadBox(format!(
                "check `{}`: {}",
                failed.name, failed.detail
            )));
        }
        if !report.can_self_stop {
            self.say(
                run,
                "The box cannot stop itself: limits do not hold while this laptop is off.",
            );
        }
        Ok(())
    }

    /// Tells the agent its run and, where there is a bucket, gives it keys and lets it prove them.
    async fn assign(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        site: &dyn Site,
    ) -> Result<String, Halt> {
        let assignment = self.assignment(run, attempt);
        let workdir = site
            .configure(&assignment)
            .await
            .map_err(|err| refused("its agent took no assignment", err))?;
        if assignment.backup.is_some() {
            self.give_credentials(run, site).await?;
            site.prove_bucket()
                .await
                .map_err(|err| self.bucket_refused(run, err))?;
        }
        Ok(workdir)
    }

    /// What the agent is told about its run; telling it again is harmless.
    pub(crate) fn assignment(&self, run: &RunRecord, attempt: &AttemptRecord) -> BoxConfig {
        let backup = run.spec.checkpoints.as_ref().and_then(|checkpoints| {
            Some(BackupConfig {
                dir: checkpoints.dir.clone(),
                target: checkpoints.to.clone()?,
                endpoint: None,
                region: None,
                every: checkpoints.every,
                keep_last: checkpoints.keep_last,
                settle: checkpoints.settle,
            })
        });
        BoxConfig {
            run: run.name.clone(),
            attempt: attempt.number,
            workdir: run.name.clone(),
            backup,
            bring_up: run.spec.limits.bring_up,
            idle_stop: (run.spec.on_done != OnDone::Keep).then_some(run.spec.limits.bring_up),
            provider_url: self.provider.base_url(),
        }
    }

    /// Hands bucket keys to the agent, which keeps them in memory only.
    pub(crate) async fn give_credentials(
        &self,
        run: &RunRecord,
        site: &dyn Site,
    ) -> Result<(), Halt> {
        site.give_credentials()
            .await
            .map_err(|err| self.bucket_refused(run, err))
    }

    fn bucket_refused(&self, run: &RunRecord, err: SiteError) -> Halt {
        match err {
            SiteError::Unreachable(why) => Halt::Again(why),
            SiteError::Local(why) => Halt::Pause(
                CommandError::new(format!("run `{}` has no keys for its bucket", run.name))
                    .because(why),
            ),
            err => {
                let to = run
                    .spec
                    .checkpoints
                    .as_ref()
                    .and_then(|c| c.to.as_deref())
                    .unwrap_or_default();
                Halt::Fatal(
                    CommandError::new(format!(
                        "run `{}` did not start: `{to}` cannot be used from the box",
                        run.name
                    ))
                    .cause(err)
                    .hint("the keys need to list, read, write and delete under that prefix"),
                )
            }
        }
    }

    async fn copy_code(&self, run: &RunRecord, site: &dyn Site, workdir: &str) -> Result<(), Halt> {
        let Some(from) = &run.spec.workdir else {
            return Ok(());
        };
        self.say(run, &format!("Copying {} to the box.", from.display()));
        let progress = |done, total| self.report.transfer("code", done, total);
        site.sync(from, workdir, &progress)
            .await
            .map_err(|err| refused("code was not copied", err))
    }

    /// A later attempt gets the newest valid checkpoint; answers its path on the box, empty when there is none.
    async fn restore(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
        site: &dyn Site,
    ) -> Result<String, Halt> {
        let has_bucket = run
            .spec
            .checkpoints
            .as_ref()
            .is_some_and(|checkpoints| checkpoints.to.is_some());
        if attempt.number == 1 || !has_bucket {
            return Ok(String::new());
        }
        let progress = |done, total| self.report.transfer("checkpoint", done, total);
        let report = site
            .restore(&progress)
            .await
            .map_err(|err| refused("no checkpoint was restored", err))?;
        for skipped in &report.skipped {
            self.say(
                run,
                &format!("A damaged checkpoint was passed over: {skipped}."),
            );
        }
        let Some(checkpoint) = report.restored else {
            self.say(
                run,
                "The bucket holds no checkpoint yet: the training starts from the beginning.",
            );
            return Ok(String::new());
        };
        attempt.resumed_step = checkpoint.step;
        let step = checkpoint
            .step
            .map_or_else(|| checkpoint.id.clone(), |step| format!("step {step}"));
        self.say(run, &format!("Restored checkpoint of {step}."));
        self.note(
            run,
            attempt.number,
            "restored",
            serde_json::json!({"id": checkpoint.id, "step": checkpoint.step, "skipped": report.skipped}),
        )?;
        Ok(report.path.unwrap_or_default())
    }

    /// Runs `setup` once per box; one that has ended well on it is not run again.
    async fn set_up(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        site: &dyn Site,
        workdir: &str,
        checkpoint: &str,
    ) -> Result<(), Halt> {
        let Some(command) = &run.spec.setup else {
            return Ok(());
        };
        let status = site
            .status()
            .await
            .map_err(|err| refused("its agent did not answer", err))?;
        let mut session = status.session(SETUP).cloned();
        if session.is_none() {
            self.say(run, "Running `setup`.");
            let mut plan = self.plan(run, attempt, SETUP, command, workdir, checkpoint)?;
            plan.timeout = Some(self.bring_up_left(run, attempt).max(Duration::from_secs(1)));
            session = Some(
                site.start_session(&plan)
                    .await
                    .map_err(|err| refused("`setup` did not start", err))?,
            );
        }
        loop {
            let Some(known) = &session else {
                return Err(Halt::BadBox("the box forgot its `setup`".to_owned()));
            };
            match known.state {
                SessionState::Exited if known.exit_code == Some(0) => {
                    self.copy_log(run, attempt.number, site, SETUP)
                        .await
                        .map_err(|err| refused("the log of `setup` was not copied", err))?;
                    return Ok(());
                }
                SessionState::Running => {}
                SessionState::Lost => {
                    return Err(Halt::BadBox("the box restarted during `setup`".to_owned()));
                }
                _ => {
                    self.copy_log(run, attempt.number, site, SETUP)
                        .await
                        .map_err(|err| refused("the log of `setup` was not copied", err))?;
                    let tail = site
                        .log_tail(SETUP, LOG_TAIL_BYTES)
                        .await
                        .unwrap_or_default();
                    return Err(Halt::Fatal(
                        CommandError::new(format!("run `{}` did not start: `setup` {}", run.name, ended_text(known)))
                            .because(last_lines(&tail))
                            .hint("mend `setup` in the run file and start again under the same or another name"),
                    ));
                }
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
            let status = match site.status().await {
                Ok(status) => status,
                Err(SiteError::Unreachable(why)) => {
                    tracing::debug!(why, "no word from the agent during setup");
                    continue;
                }
                Err(err) => return Err(refused("its agent did not answer", err)),
            };
            session = status.session(SETUP).cloned();
        }
    }

    fn plan(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        name: &str,
        command: &str,
        workdir: &str,
        checkpoint: &str,
    ) -> Result<SessionRequest, Halt> {
        let job = Job {
            attempt: attempt.number,
            num_gpus: run.spec.resources.num_gpus,
            checkpoint,
            workdir,
        };
        let env =
            environment::job_env(&run.spec, &job, self.shell.as_ref()).map_err(|missing| {
                let text = format!("run `{}` did not start: variables are missing", run.name);
                let names = missing.join(", ");
                let err = CommandError::new(text).because(format!(
                    "`envs` takes {names} from your shell, where it is not set"
                ));
                Halt::Pause(err)
            })?;
        Ok(SessionRequest {
            name: name.to_owned(),
            command: command.to_owned(),
            env,
            dir: None,
            timeout: None,
        })
    }
}

/// How a session ended, as a clause.
pub fn ended_text(session: &SessionInfo) -> String {
    match session.state {
        SessionState::Running => "is running".to_owned(),
        SessionState::Exited => format!("exited with code {}", session.exit_code.unwrap_or(-1)),
        SessionState::Signalled => format!("was ended by signal {}", session.signal.unwrap_or(0)),
        SessionState::Oom => "was ended by the out-of-memory killer".to_owned(),
        SessionState::Stopped => "was stopped".to_owned(),
        SessionState::Lost => "was lost with its box".to_owned(),
    }
}

/// The last lines of a log, for an error; what a terminal would act on is left out by the printer.
pub fn last_lines(log: &[u8]) -> String {
    let text = String::from_utf8_lossy(log);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .collect();
    let from = lines.len().saturating_sub(8);
    match lines.get(from..) {
        Some(lines) if !lines.is_empty() => lines.join("\n"),
        _ => "its log is empty".to_owned(),
    }
}
