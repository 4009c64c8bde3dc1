//! From a rented box to a running training: agent, checks, code, set-up, checkpoint, session.

use std::{sync::Arc, time::Duration};

use spotter_bucket::Style;

use crate::{
    agent_client::{
        AgentStatus, BackupConfig, BoxConfig, SessionInfo, SessionRequest, SessionState,
    },
    error::CommandError,
    provider::hosts::is_host,
    run::{
        State, believable_step,
        boxes::{has_bucket, is_presigned},
        deadline,
        environment::{self, Job},
        halt::{Halt, refused},
        interruptions::interruptions,
        lifecycle::{LOOK_AGAIN, Lifecycle},
        market_eye::{self, Eye, UNKNOWN, UNKNOWN_FOR},
        restarts,
        runtime::RUNNING,
        site::{Site, SiteError},
        status::Action,
    },
    spec::{OnDone, OnStale},
    store::{AttemptRecord, RunRecord},
};

/// Session of `setup`.
pub const SETUP: &str = "setup";
/// Session of `smoke`.
pub const SMOKE: &str = "smoke";
/// Session of the training.
pub const TRAIN: &str = "train";
/// Check by which an agent tells that itself is at fault.
const OWN_CHECK: &str = "agent";
/// Longest time for what a box that is given up may still tell.
const LAST_WORDS: Duration = Duration::from_secs(20);

impl Lifecycle {
    /// Preparing or syncing: ends with the training session running.
    pub(crate) async fn bring_up(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
        site: &mut Option<Arc<dyn Site>>,
    ) -> Result<(), Halt> {
        if attempt.awaits_training() && self.bring_up_left(run, attempt).is_zero() {
            let limit = self.bring_up_text(run);
            return Err(Halt::BadBox(format!(
                "its training had not started {limit}"
            )));
        }
        let site = self.site_of(run, attempt, site).await?;
        // Whatever takes long on the box, the market may take it back meanwhile: the two are raced.
        let market = attempt.clone();
        let halt = tokio::select! {
            done = self.prepare(run, attempt, site.as_ref()) => match done {
                Ok(()) => return Ok(()),
                Err(halt) => halt,
            },
            halt = self.watch_market(run, market, site.as_ref()) => halt,
        };
        if matches!(halt, Halt::BadBox(_) | Halt::Fatal(_) | Halt::StopRequested) {
            let told = self.last_words(run, attempt, site.as_ref());
            if tokio::time::timeout(LAST_WORDS, told).await.is_err() {
                tracing::debug!("a box that is given up did not tell its last lines in time");
            }
        }
        Err(halt)
    }

    /// What a box printed and did before it is given up: it goes with the box. There may be nothing any more.
    async fn last_words(&self, run: &RunRecord, attempt: &mut AttemptRecord, site: &dyn Site) {
        let Ok(status) = site.status().await else {
            return;
        };
        for session in [SETUP, SMOKE] {
            let printed = status
                .session(session)
                .is_some_and(|session| session.log_bytes > 0);
            if printed && let Err(err) = self.copy_log(run, attempt.number, site, session).await {
                tracing::debug!(%err, session, "the last lines of a session were not copied");
            }
        }
        if let Err(err) = self.copy_events(run, attempt, site).await {
            tracing::debug!(%err, "the last events of a box were not copied");
        }
    }

    async fn prepare(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
        site: &dyn Site,
    ) -> Result<(), Halt> {
        if attempt.state == State::Preparing {
            self.check_box(run, attempt, site).await?;
            self.still_ours(run, attempt)?;
            self.move_to(attempt, State::Syncing)?;
        }
        let workdir = self.assign(run, attempt, site).await?;
        // A crash after the start but before its record: the session is there, and it is ours.
        let status = site
            .status()
            .await
            .map_err(|err| refused("its agent did not answer", err))?;
        let mut session = this_life(&status, attempt);
        if session.is_none() {
            // What the record holds of an earlier life stays, until this one begins.
            attempt.started_us = attempt.old_session_us;
            self.copy_code(run, site, &workdir).await?;
            let checkpoint = self.restore(run, attempt, site, &workdir).await?;
            self.set_up(run, attempt, site, &workdir, &checkpoint)
                .await?;
            if !self.smoke(run, attempt, site, &workdir).await? {
                return Ok(());
            }
            self.still_ours(run, attempt)?;
            let resuming = !checkpoint.is_empty();
            let command = match (&run.spec.resume, resuming) {
                (Some(resume), true) => resume,
                _ => &run.spec.run,
            };
            let mut plan = self.plan(run, attempt, TRAIN, command, &workdir, &checkpoint)?;
            plan.again = restarts::again(&run.spec, attempt.number + self.returns(&run.name)?);
            // The intent first: from here on this box may hold a training, and is not given up lightly.
            let before = attempt.started_us;
            attempt.started_us = self.clock.now_us();
            self.move_to(attempt, attempt.state)?;
            crate::fault::point("agent.start_session.before");
            match site.start_session(&plan).await {
                Ok(started) => session = Some(started),
                Err(err) => {
                    if matches!(err, SiteError::Refused(_) | SiteError::Fault(_)) {
                        attempt.started_us = before;
                        self.move_to(attempt, attempt.state)?;
                    }
                    return Err(refused("its training did not start", err));
                }
            }
            crate::fault::point("agent.start_session.after");
        } else if let Err(err) = self.copy_events(run, attempt, site).await {
            tracing::debug!(%err, "how the training came to run is told later");
        }
        if let Some(session) = &session {
            self.adopt_restarted(run, attempt, session)?;
        }
        // Whichever session it is, it is this life's now.
        attempt.old_session_us = 0;
        attempt.started_us = match session {
            Some(session) if session.started_us > 0 => session.started_us as i64,
            _ => self.clock.now_us(),
        };
        self.move_to(attempt, State::Running)?;
        let place = attempt
            .instance
            .map_or_else(String::new, |id| format!(" on instance {id}"));
        let lost = self.steps_lost(run, attempt)?;
        let again = match lost {
            Some(lost @ 1..) => format!(" {lost} steps were lost by the interruption."),
            _ => String::new(),
        };
        self.say(
            run,
            &format!("Attempt {} trains{place}.{again}", attempt.number),
        );
        self.note(
            run,
            attempt.number,
            RUNNING,
            serde_json::json!({
                "instance": attempt.instance, "resumed_step": attempt.resumed_step, "steps_lost": lost,
            }),
        )?;
        Ok(())
    }

    /// Steps that the interruptions since the last training cost, now that it is known where this one goes on; `None`: there was no
    /// interruption, or no step was seen before it.
    fn steps_lost(&self, run: &RunRecord, attempt: &AttemptRecord) -> Result<Option<u64>, Halt> {
        let events = self.store.events(&run.name, 0)?;
        let from = attempt.resumed_step.unwrap_or(0);
        Ok(interruptions(&events)
            .iter()
            .filter(|found| found.resumed_by.is_none())
            .filter_map(|found| found.step)
            .max()
            .map(|step| step.saturating_sub(from)))
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
        let before_training = attempt.awaits_training();
        self.let_us_in(run, id, before_training).await?;
        let mut place = self.place(attempt, id);
        let progress = |done, total| self.report.transfer(&run.name, "agent", done, total);
        let mut told = String::new();
        let mut eye = Eye::default();
        let mut silent: Option<tokio::time::Instant> = None;
        let mut rebooted = false;
        let mut unknown: Option<tokio::time::Instant> = None;
        let mut deaf: Option<tokio::time::Instant> = None;
        loop {
            self.still_ours(run, attempt)?;
            let asked = tokio::time::Instant::now();
            match self.sites.open(&place, &run.spec, &progress).await {
                Ok(site) => return Ok(site),
                Err(err @ (SiteError::Unreachable(_) | SiteError::NoAnswer(_))) => {
                    // Whatever refuses or hangs up is there, and lets us in soon; where nothing ever answers the network is broken.
                    match err {
                        SiteError::NoAnswer(_) => _ = deaf.get_or_insert(asked),
                        _ => deaf = None,
                    }
                    let why = err.to_string();
                    if before_training && self.bring_up_left(run, attempt).is_zero() {
                        return Err(Halt::BadBox(format!(
                            "no agent answered {}: {why}",
                            self.bring_up_text(run)
                        )));
                    }
                    if why != told {
                        self.say(run, &format!("Not connected yet: {why}."));
                        told = why.clone();
                    }
                    // Ports may change when a container restarts; and it may have been taken back.
                    match self.provider.instance(id).await {
                        Ok(Some(instance)) => {
                            unknown = None;
                            // The provider answers, so it is not this laptop's network.
                            let since = *silent.get_or_insert_with(tokio::time::Instant::now);
                            if before_training
                                && deaf.is_some_and(|since| since.elapsed() >= deadline::ANSWER)
                            {
                                let seconds = deadline::ANSWER.as_secs();
                                return Err(Halt::BadBox(format!(
                                    "its network is broken: nothing answered ssh for {seconds} s, not even to refuse it: {why}"
                                )));
                            }
                            if before_training && since.elapsed() >= deadline::SSH {
                                let seconds = deadline::SSH.as_secs();
                                return Err(Halt::BadBox(format!(
                                    "ssh did not let us in within {seconds} s: {why}"
                                )));
                            }
                            // What starts sshd runs again at every start of the container, and nothing is lost by one now.
                            if before_training
                                && !rebooted
                                && since.elapsed() >= deadline::REBOOT
                                && !is_host(id)
                            {
                                rebooted = true;
                                self.reboot_silent(run, attempt, id, &why).await?;
                            }
                            let (row, overdue) = eye.look(attempt.state, &instance);
                            match row.action {
                                Action::Recover => {
                                    return Err(Halt::Interrupted(row.text.to_owned()));
                                }
                                Action::Respect => {
                                    return Err(Halt::StoppedByHand(row.text.to_owned()));
                                }
                                Action::WaitThenRecover | Action::WaitThenGiveUp if overdue => {
                                    return Err(market_eye::ended(attempt, &row));
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
                            let since = *unknown.get_or_insert_with(tokio::time::Instant::now);
                            if since.elapsed() >= UNKNOWN_FOR {
                                return Err(Halt::Lost(UNKNOWN.to_owned()));
                            }
                        }
                        Err(err) => {
                            unknown = None;
                            silent = None;
                            deaf = None;
                            tracing::debug!(%err, "the provider does not answer, asking again");
                        }
                    }
                }
                Err(other) => return Err(refused("it could not be reached", other)),
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// The first remedy for a container that runs and lets nobody in.
    async fn reboot_silent(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        id: u64,
        why: &str,
    ) -> Result<(), Halt> {
        let minutes = deadline::REBOOT.as_secs() / 60;
        match self.provider.reboot(id).await {
            Ok(()) => {
                self.say(
                    run,
                    &format!("ssh has let nobody in for {minutes} min: restarting the container."),
                );
                let detail = serde_json::json!({"instance": id, "reason": why});
                self.note(run, attempt.number, "rebooted", detail)?;
            }
            Err(err) => tracing::debug!(%err, instance = id, "it could not be restarted"),
        }
        Ok(())
    }

    /// Makes the box know our key. One that was replaced since the box was rented is told, and let in as well.
    pub(crate) async fn let_us_in(
        &self,
        run: &RunRecord,
        id: u64,
        is_new: bool,
    ) -> Result<(), Halt> {
        let key = self
            .sites
            .public_key()
            .await
            .map_err(|err| refused("no ssh key", err))?;
        let (name, stamp) = (key_name(id), key_stamp(&key));
        let known = self.store.meta(&name)?;
        let replaced = known.as_ref().is_some_and(|known| *known != stamp);
        if replaced {
            self.say(
                run,
                "The ssh key of this home was replaced since the box was rented: letting the new one in.",
            );
        }
        // An account key reaches only boxes made after it; attaching is repeatable.
        if is_new || replaced {
            crate::fault::point("provider.attach_key.before");
            match self.provider.attach_key(id, &key).await {
                Ok(()) => {
                    crate::fault::point("provider.attach_key.after");
                    self.store.set_meta(&name, &stamp)?;
                    // Whoever has the old one is not let in any more, here and on boxes to come.
                    if let Some(old) = known.filter(|_| replaced) {
                        let is_old = move |text: &str| key_stamp(text) == old;
                        match self.provider.forget_keys(id, &is_old).await {
                            Ok(gone) => tracing::debug!(gone, "old keys were taken away"),
                            Err(err) => {
                                tracing::warn!(%err, instance = id, "the old key still opens the box");
                            }
                        }
                    }
                }
                Err(err) => {
                    tracing::debug!(%err, instance = id, "the key could not be attached; the account's key may do");
                }
            }
        }
        Ok(())
    }

    async fn check_box(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        site: &dyn Site,
    ) -> Result<(), Halt> {
        let disk_bytes = (run.spec.resources.disk_gb * 1e9) as u64;
        let report = site
            .preflight(attempt.num_gpus(&run.spec), disk_bytes)
            .await
            .map_err(|err| refused("its checks did not run", err))?;
        crate::fault::point("agent.preflight.after");
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
            // The agent's word on itself: the next box would get the same one.
            if failed.name == OWN_CHECK {
                let text = format!(
                    "run `{}` did not start: this spotter's agent cannot do its work on any box",
                    run.name
                );
                let err = CommandError::new(text).because(failed.detail.as_str());
                return Err(Halt::Fatal(err.hint(
                    "no other box was tried; name a whole agent in SPOTTER_AGENT, or build one: `scripts/build-agent.sh`",
                )));
            }
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
        crate::fault::point("agent.configure.after");
        if assignment.backup.is_some() {
            self.hand_over_first(run, site).await?;
            crate::fault::point("agent.prove.after");
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
                keep_every_steps: checkpoints.keep_every_steps,
                keep_grace: checkpoints.keep_grace,
                keep_best: checkpoints.keep_best.clone(),
                stop_when_behind: checkpoints.on_stale == OnStale::Stop,
                settle: checkpoints.settle,
                complete_when: checkpoints.complete_when.clone(),
                tripwire: checkpoints.tripwire,
                max_bytes_per_s: checkpoints.max_bytes_per_s,
                style: Style::Auto,
                windows: checkpoints.windows.clone(),
                authorities: String::new(),
                presigned: is_presigned(run),
                // A box without keys has nothing signed for results.
                results: match &run.spec.results {
                    Some(results) if !is_presigned(run) => results.fetch.clone(),
                    _ => Vec::new(),
                },
            })
        });
        BoxConfig {
            run: run.name.clone(),
            attempt: attempt.number,
            workdir: run.name.clone(),
            backup,
            bring_up: run.spec.bring_up(),
            idle_stop: (run.spec.on_done != OnDone::Keep).then_some(run.spec.limits.bring_up),
            // A host may itself be a box that its user rented: not ours to stop.
            provider_url: match attempt.instance.is_some_and(is_host) {
                true => String::new(),
                false => self.provider.base_url(),
            },
            progress: run.spec.progress.clone(),
            micro_batch: run.spec.model.as_ref().and_then(|model| model.micro_batch),
            validation: self.validation(run, attempt),
            max_runtime: self.runtime_left(run, attempt.number),
            no_progress: run.spec.limits.no_progress,
            // What cannot be read now is told by whoever watches.
            allowance: self.allowance(run, attempt).ok().flatten(),
        }
    }

    async fn copy_code(&self, run: &RunRecord, site: &dyn Site, workdir: &str) -> Result<(), Halt> {
        let Some(from) = &run.spec.workdir else {
            return Ok(());
        };
        self.say(run, &format!("Copying {} to the box.", from.display()));
        let progress = |done, total| self.report.transfer(&run.name, "code", done, total);
        site.sync(from, workdir, &progress)
            .await
            .map_err(|err| refused("code was not copied", err))?;
        crate::fault::point("agent.sync.after");
        Ok(())
    }

    /// A later attempt gets the newest valid checkpoint; answers its path on the box, empty when there is none.
    async fn restore(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
        site: &dyn Site,
        workdir: &str,
    ) -> Result<String, Halt> {
        let is_first = attempt.number == 1 && attempt.reopened_us == 0;
        if is_first || !has_bucket(run) {
            return Ok(String::new());
        }
        self.copy_from_sibling(run, attempt, workdir).await?;
        let progress = |done, total| self.report.transfer(&run.name, "checkpoint", done, total);
        let began = tokio::time::Instant::now();
        let report = site
            .restore(&progress)
            .await
            .map_err(|err| refused("no checkpoint was restored", err))?;
        crate::fault::point("agent.restore.after");
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
        self.measure_restore(run, attempt, &checkpoint, began)?;
        attempt.resumed_step = believable_step(checkpoint.step);
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

    pub(crate) fn plan(
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
            num_gpus: attempt.num_gpus(&run.spec),
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
            again: None,
        })
    }
}

/// The training session, unless it is that of an earlier life of the attempt, which somebody wants to go on after. One that
/// ended well while nobody looked is what they want: the box stopped itself after it, and it is only to be collected.
fn this_life(status: &AgentStatus, attempt: &AttemptRecord) -> Option<SessionInfo> {
    let session = status.session(TRAIN)?;
    let old = attempt.reopened_us > 0 && session.started_us as i64 == attempt.old_session_us;
    let ended_well = session.state == SessionState::Exited && session.exit_code == Some(0);
    (!old || ended_well).then(|| session.clone())
}

/// Under which name the store keeps what key an instance knows.
pub(crate) fn key_name(instance: u64) -> String {
    format!("ssh_key/{instance}")
}

/// What tells one public key from another.
pub(crate) fn key_stamp(key: &str) -> String {
    blake3::hash(key.trim().as_bytes()).to_hex()[..16].to_owned()
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
