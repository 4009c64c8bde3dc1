//! Sessions that run on a box before its training: `setup` prepares it, `smoke` proves code and box.

use std::time::Duration;

use crate::{
    agent_client::{SessionInfo, SessionRequest, SessionState},
    error::CommandError,
    run::{
        State,
        bringing_up::{SETUP, SMOKE, ended_text, last_lines},
        halt::{Halt, refused},
        lifecycle::Lifecycle,
        observing::Meter,
        site::{Site, SiteError},
    },
    spec::Smoke,
    store::{AttemptRecord, Outcome, RunRecord},
    watcher::{SIGNAL_EXPLAINED, ended_by_signal},
};

/// Last bytes of a log that an error shows.
const LOG_TAIL_BYTES: u64 = 2_000;
/// Between two looks at a session that prepares.
const LOOK: Duration = Duration::from_millis(500);

impl Lifecycle {
    /// Runs `setup` once per box; one that has ended well on it is not run again.
    pub(crate) async fn set_up(
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
        let began = self.began(run, attempt, SETUP)?;
        let mut session = session_of(site, SETUP)
            .await?
            .filter(|session| began || session.ended_well());
        if session.is_none() {
            self.say(run, "Running `setup`.");
            let mut plan = self.plan(run, attempt, SETUP, command, workdir, checkpoint)?;
            plan.timeout = Some(self.bring_up_left(run, attempt).max(Duration::from_secs(1)));
            session = Some(self.begin(run, attempt, site, &plan).await?);
        }
        let ended = self.until_ended(attempt, site, SETUP, session).await?;
        self.copy_log(run, attempt.number, site, SETUP)
            .await
            .map_err(|err| refused("the log of `setup` was not copied", err))?;
        if ended.ended_well() {
            return Ok(());
        }
        let tail = site
            .log_tail(SETUP, LOG_TAIL_BYTES)
            .await
            .unwrap_or_default();
        let text = format!(
            "run `{}` did not start: `setup` {}",
            run.name,
            ended_text(&ended)
        );
        Err(Halt::Fatal(
            CommandError::new(text).because(last_lines(&tail)).hint(
                "mend `setup` in the run file and start again under the same or another name",
            ),
        ))
    }

    /// Runs `smoke` once per life of a box. False: it crashed, and the run has ended by that.
    pub(crate) async fn smoke(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
        site: &dyn Site,
        workdir: &str,
    ) -> Result<bool, Halt> {
        let Some(smoke) = &run.spec.smoke else {
            return Ok(true);
        };
        let began = self.began(run, attempt, SMOKE)?;
        self.move_to(attempt, State::Smoke)?;
        let mut session = session_of(site, SMOKE).await?.filter(|_| began);
        if session.is_none() {
            self.say(run, "Running `smoke`.");
            let plan = self.smoke_plan(run, attempt, smoke, workdir)?;
            session = Some(self.begin(run, attempt, site, &plan).await?);
        }
        let ended = self.until_ended(attempt, site, SMOKE, session).await?;
        self.copy_log(run, attempt.number, site, SMOKE)
            .await
            .map_err(|err| refused("the log of `smoke` was not copied", err))?;
        if ended.ended_well() {
            return Ok(true);
        }
        let tail = site
            .log_tail(SMOKE, LOG_TAIL_BYTES)
            .await
            .map_err(|err| refused("the log of `smoke` was not read", err))?;
        self.copy_events(run, attempt, site)
            .await
            .map_err(|err| refused("the events of the box were not copied", err))?;
        let how = match timed_out(&ended, smoke) {
            true => format!(
                "had not ended within `smoke.timeout` of {} s",
                smoke.timeout.as_secs()
            ),
            false => ended_text(&ended),
        };
        let lines = last_lines(&tail);
        self.say(run, &format!("`smoke` {how}. Its last lines:\n{lines}"));
        // One that was ended for its time has no cause of its own.
        let found = match timed_out(&ended, smoke) {
            true => None,
            false => self.diagnosed(run, attempt, site).await?,
        };
        let detail = serde_json::json!({"session": SMOKE, "how": how, "last_lines": lines, "unsaved_bytes": 0});
        self.note(run, attempt.number, "crashed", detail)?;
        attempt.exit_code = ended.exit_code;
        attempt.reason = Some(match found {
            Some(found) => format!("`smoke` {how}: {}", found.meaning),
            None => format!("`smoke` {how}"),
        });
        self.move_to(attempt, State::Failed)?;
        self.end(run, Outcome::Crashed, attempt.reason.as_deref())?;
        Ok(false)
    }

    /// What the short session is: its checkpoints are no checkpoints of the run, so they go elsewhere.
    fn smoke_plan(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        smoke: &Smoke,
        workdir: &str,
    ) -> Result<SessionRequest, Halt> {
        let mut plan = self.plan(run, attempt, SMOKE, &smoke.run, workdir, "")?;
        plan.env
            .retain(|(name, _)| name != "SPOTTER_CHECKPOINT_DIR");
        plan.env.push((
            "SPOTTER_CHECKPOINT_DIR".to_owned(),
            format!("{workdir}/.spotter-smoke"),
        ));
        if let Some(steps) = smoke.steps {
            plan.env
                .push(("SPOTTER_SMOKE_STEPS".to_owned(), steps.to_string()));
        }
        plan.timeout = Some(smoke.timeout);
        Ok(plan)
    }

    /// Whether this life of the attempt began the session: another one's is over.
    fn began(&self, run: &RunRecord, attempt: &AttemptRecord, session: &str) -> Result<bool, Halt> {
        let newest = |kind: &str| self.store.newest_event(&run.name, attempt.number, kind);
        let begun = newest(&begun(session))?.map_or(0, |event| event.id);
        let reopened = newest("reopened")?.map_or(-1, |event| event.id);
        Ok(begun > reopened)
    }

    async fn begin(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        site: &dyn Site,
        plan: &SessionRequest,
    ) -> Result<SessionInfo, Halt> {
        // The intent first: after a crash in between, a session that is there is known to be ours.
        let detail = serde_json::json!({});
        self.note(run, attempt.number, &begun(&plan.name), detail)?;
        let started = site
            .start_session(plan)
            .await
            .map_err(|err| refused(&format!("`{}` did not start", plan.name), err))?;
        crate::fault::point(&format!("agent.start_{}.after", plan.name));
        Ok(started)
    }

    /// Looks until a session has ended by itself; the market's word, should it have ended the box, comes from elsewhere.
    async fn until_ended(
        &self,
        attempt: &AttemptRecord,
        site: &dyn Site,
        name: &str,
        mut session: Option<SessionInfo>,
    ) -> Result<SessionInfo, Halt> {
        let mut explained = false;
        let mut meter = Meter::default();
        loop {
            let Some(known) = &session else {
                return Err(Halt::BadBox(format!("the box forgot its `{name}`")));
            };
            match known.state {
                SessionState::Running => tokio::time::sleep(LOOK).await,
                SessionState::Lost => {
                    return Err(Halt::BadBox(format!("the box restarted during `{name}`")));
                }
                // A container's stop ends it, too: the provider's word comes a moment later.
                _ if ended_by_signal(known) && !explained => {
                    explained = true;
                    tokio::time::sleep(SIGNAL_EXPLAINED).await;
                }
                _ => return Ok(known.clone()),
            }
            session = match site.status().await {
                Ok(status) => {
                    self.measure(attempt, &status, &mut meter)?;
                    status.session(name).cloned()
                }
                Err(SiteError::Unreachable(why)) => {
                    tracing::debug!(why, name, "no word from the agent");
                    tokio::time::sleep(LOOK).await;
                    continue;
                }
                Err(err) => return Err(refused("its agent did not answer", err)),
            };
        }
    }
}

async fn session_of(site: &dyn Site, name: &str) -> Result<Option<SessionInfo>, Halt> {
    let status = site
        .status()
        .await
        .map_err(|err| refused("its agent did not answer", err))?;
    Ok(status.session(name).cloned())
}

/// Kind of the event that says that a session is about to be started.
fn begun(session: &str) -> String {
    format!("{session}_begun")
}

/// The agent ends a session whose time is over as if it had been asked to.
fn timed_out(session: &SessionInfo, smoke: &Smoke) -> bool {
    let lasted_us = session
        .ended_us
        .map_or(0, |ended_us| ended_us.saturating_sub(session.started_us));
    session.state == SessionState::Stopped
        && u128::from(lasted_us) + 1_000_000 >= smoke.timeout.as_micros()
}
