//! From a rented box to a running training: agent, checks, code, set-up, checkpoint, session. The way to it is in `reaching`, its checks
//! in `proving`.

use std::{sync::Arc, time::Duration};

use crate::{
    agent_client::{AgentStatus, SessionInfo, SessionRequest, SessionState},
    error::CommandError,
    run::{
        State, believable_step,
        boxes::has_bucket,
        environment::{self, Job},
        halt::{Halt, refused},
        interruptions::interruptions,
        lifecycle::Lifecycle,
        restarts,
        runtime::RUNNING,
        site::{Site, SiteError},
    },
    store::{AttemptRecord, RunRecord},
};

/// Session of `setup`.
pub const SETUP: &str = "setup";
/// Session of `smoke`.
pub const SMOKE: &str = "smoke";
/// Session of the training.
pub const TRAIN: &str = "train";
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
            self.measure_line(run, attempt, site).await?;
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
        self.forget_pause(attempt)?;
        self.move_to(attempt, State::Running)?;
        let place = attempt
            .instance
            .map_or_else(String::new, |id| format!(" on instance {id}"));
        let lost = self.steps_lost(run, attempt)?;
        let again = match lost {
            Some(lost @ 1..) => format!(" At least {lost} steps were lost by the interruption."),
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

    /// Steps that the interruptions since the last training cost at least, now that it is known where this one goes on; `None`: there was no
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
                &format!("A checkpoint that cannot be restored was passed over: {skipped}."),
            );
        }
        let Some(checkpoint) = report.restored else {
            self.say(
                run,
                "The bucket holds no checkpoint yet: the training starts from the beginning.",
            );
            return Ok(String::new());
        };
        let took = began.elapsed();
        self.measure_restore(run, attempt, &checkpoint, took)?;
        attempt.resumed_step = believable_step(checkpoint.step);
        let step = checkpoint
            .step
            .map_or_else(|| checkpoint.id.clone(), |step| format!("step {step}"));
        self.say(run, &format!("Restored checkpoint of {step}."));
        self.note(
            run,
            attempt.number,
            "restored",
            serde_json::json!({
                "id": checkpoint.id, "step": checkpoint.step, "skipped": report.skipped, "size_bytes": checkpoint.size_bytes,
                "seconds": took.as_secs_f64(),
            }),
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
