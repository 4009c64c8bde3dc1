//! Watches a training: `decide` from what was seen (pure), then act. Nothing here is a verdict on one source alone: an
//! interruption is the provider's word, a lost box needs the provider's word and a missing heartbeat.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    agent_client::{AgentStatus, SessionInfo, SessionState},
    provider::{Instance, ProviderError},
    run::{
        State,
        bringing_up::{TRAIN, ended_text},
        lifecycle::{Halt, Lifecycle},
        site::{Site, SiteError},
        status::{self, Action, Meaning, Seen},
    },
    store::{AttemptRecord, RunRecord, StoredEvent},
};

/// Between two looks at the agent.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// Between two looks at the provider while all is well. An outbid is known within 15 s; the link usually tells sooner.
const MARKET: Duration = Duration::from_secs(10);
/// A heartbeat that is older than this makes the watcher ask the provider at once.
const HEARTBEAT_LATE: Duration = Duration::from_secs(6);
/// A box that the provider calls silent is lost when its heartbeat has been missing this long too.
const HEARTBEAT_GONE: Duration = Duration::from_secs(120);
/// A stop of the container ends the training some seconds before the provider says so.
const SIGNAL_EXPLAINED: Duration = Duration::from_secs(20);
/// Between two tries to end boxes of earlier attempts.
const REAP: Duration = Duration::from_secs(60);
/// Bucket keys are handed over again this often: temporary ones expire, and a restarted agent has none.
const CREDENTIALS: Duration = Duration::from_secs(10 * 60);

/// What has been seen of a training.
#[derive(Debug, Clone, PartialEq)]
pub struct Sight {
    /// Provider's word on the instance: `None` when it did not answer, `Some(None)` when it knows no such instance.
    pub instance: Option<Option<Seen>>,
    /// How long the provider has said the same.
    pub instance_unchanged: Duration,
    /// The training, by the agent's newest word.
    pub session: Option<SessionInfo>,
    /// Since the agent last answered.
    pub heartbeat_age: Duration,
    /// The box restarted while it was watched.
    pub restarted: bool,
    /// Since the training was first seen to have ended.
    pub ended_for: Duration,
}

/// What it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// All is well, or nothing can be said yet.
    GoOn,
    /// The training ended.
    Ended(SessionInfo),
    /// The market took the box back, or it restarted and took the training with it.
    Interrupted(String),
    /// Provider and heartbeat agree that the box is no more.
    Lost(String),
}

/// Says what a sight means (pure).
pub fn decide(sight: &Sight) -> Verdict {
    use SessionState::{Exited, Lost, Oom, Running, Signalled, Stopped};

    // What the agent saw end has ended, whatever happens to the box afterwards.
    if let Some(session) = &sight.session
        && matches!(session.state, Exited | Signalled | Oom | Stopped)
    {
        // A container's stop ends the training with a signal, too: that is the market's doing, not a crash.
        let taken = sight
            .instance
            .flatten()
            .is_some_and(|seen| status::row(State::Running, seen).meaning == Meaning::TakenBack);
        if !ended_by_signal(session) {
            return Verdict::Ended(session.clone());
        }
        if taken {
            return Verdict::Interrupted("the market took the box back".to_owned());
        }
        if sight.restarted {
            return Verdict::Interrupted("its host restarted the box".to_owned());
        }
        // The provider's word may come a moment after the signal; without any word there is no verdict.
        let waited = sight.ended_for >= SIGNAL_EXPLAINED && sight.instance.is_some();
        return if waited {
            Verdict::Ended(session.clone())
        } else {
            Verdict::GoOn
        };
    }
    let restarted = sight
        .session
        .as_ref()
        .is_some_and(|session| session.state == Lost);
    let otherwise = if restarted {
        Verdict::Interrupted("the box restarted and took the training with it".to_owned())
    } else {
        Verdict::GoOn
    };
    let seen = match sight.instance {
        None => return otherwise,
        Some(None) => {
            return Verdict::Lost("the provider does not know the instance any more".to_owned());
        }
        Some(Some(seen)) => seen,
    };
    let row = status::row(State::Running, seen);
    let overdue = row
        .deadline
        .is_some_and(|deadline| sight.instance_unchanged >= deadline);
    let runs = sight
        .session
        .as_ref()
        .is_some_and(|session| session.state == Running);
    let alive = runs && sight.heartbeat_age < HEARTBEAT_LATE;
    match row.action {
        Action::Recover => Verdict::Interrupted(row.text.to_owned()),
        // The provider's word on a container can be late; a training that answers is running.
        Action::WaitThenRecover if overdue && !alive => Verdict::Interrupted(row.text.to_owned()),
        Action::AskHeartbeat if overdue && sight.heartbeat_age >= HEARTBEAT_GONE => {
            Verdict::Lost(format!(
                "{}, and its agent has not answered for {} s",
                row.text,
                sight.heartbeat_age.as_secs()
            ))
        }
        _ => otherwise,
    }
}

/// TERM or KILL ended it, or it answered TERM with the shell's code for it.
fn ended_by_signal(session: &SessionInfo) -> bool {
    session.state == SessionState::Stopped
        || matches!(session.signal, Some(9 | 15))
        || matches!(session.exit_code, Some(137 | 143))
}

/// What the watcher knows between two looks.
struct View {
    status: Option<AgentStatus>,
    heard: Instant,
    instance: Option<Option<Seen>>,
    instance_since: Instant,
    asked: Option<Instant>,
    link_lost: bool,
    credentials_given: Instant,
    boot: Option<String>,
    restarted: bool,
    ended: Option<Instant>,
    reaped: Instant,
    told_step: Option<u64>,
    alarm: bool,
}

impl Lifecycle {
    /// Running: ends when the training has ended, or the box is not ours any more.
    pub(crate) async fn watch(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
        site: &mut Option<Arc<dyn Site>>,
    ) -> Result<(), Halt> {
        let id = attempt
            .instance
            .ok_or_else(|| Halt::Lost("no instance was recorded".to_owned()))?;
        let now = Instant::now();
        let mut view = View {
            status: None,
            heard: now,
            instance: None,
            instance_since: now,
            asked: None,
            link_lost: false,
            // A fresh start has just given them; an older run gets them at once.
            credentials_given: now.checked_sub(CREDENTIALS).unwrap_or(now),
            boot: None,
            restarted: false,
            ended: None,
            reaped: now,
            told_step: None,
            alarm: false,
        };
        loop {
            self.still_ours(run, attempt)?;
            if self.store.run(&run.name)?.stop_requested {
                return Err(Halt::StopRequested);
            }
            if view.reaped.elapsed() >= REAP {
                view.reaped = Instant::now();
                self.reap_older(run).await;
            }
            self.look_at_market(&mut view, id).await?;
            // Opening a tunnel to a box that was taken back takes long and leads nowhere.
            if view.status.is_none()
                && matches!(
                    decide(&sight(&view)),
                    Verdict::Interrupted(_) | Verdict::Lost(_)
                )
            {
                return self.act(run, attempt, site, decide(&sight(&view))).await;
            }
            if site.is_none() {
                *site = self.try_open(run, attempt, &mut view).await?;
            }
            if let Some(open) = site.clone() {
                self.listen(run, attempt, open.as_ref(), &mut view).await?;
            }
            // A training that ended by a signal may have been stopped with its container: the provider knows which.
            let session = view
                .status
                .as_ref()
                .and_then(|status| status.session(TRAIN));
            if session.is_some_and(|session| !session.is_running()) {
                view.asked = None;
                self.look_at_market(&mut view, id).await?;
            }
            match decide(&sight(&view)) {
                Verdict::GoOn => {}
                verdict => return self.act(run, attempt, site, verdict).await,
            }
            tokio::time::sleep(HEARTBEAT).await;
        }
    }

    async fn act(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
        site: &mut Option<Arc<dyn Site>>,
        verdict: Verdict,
    ) -> Result<(), Halt> {
        match verdict {
            Verdict::GoOn => Ok(()),
            Verdict::Interrupted(why) => Err(Halt::Interrupted(why)),
            Verdict::Lost(why) => Err(Halt::Lost(why)),
            Verdict::Ended(session) if session.ended_well() => {
                attempt.exit_code = Some(0);
                self.say(run, "The training ended well.");
                Ok(self.move_to(attempt, State::Finishing)?)
            }
            // Somebody ended the session on the box itself: that is a person's decision, too.
            Verdict::Ended(session) if session.state == SessionState::Stopped => {
                self.store.request_stop(&run.name)?;
                Err(Halt::StopRequested)
            }
            Verdict::Ended(session) => {
                let open = match site {
                    Some(site) => site.clone(),
                    none => none.insert(self.open(run, attempt).await?).clone(),
                };
                tracing::debug!(how = ended_text(&session), "the training ended");
                self.crashed(run, attempt, open.as_ref(), &session).await
            }
        }
    }

    async fn look_at_market(&self, view: &mut View, id: u64) -> Result<(), Halt> {
        let late = view.heard.elapsed() >= HEARTBEAT_LATE || view.link_lost;
        // With the heartbeat missing the provider is the only source: it is asked as often as its rate allows.
        let pause = if late { HEARTBEAT } else { MARKET };
        if view.asked.is_some_and(|asked| asked.elapsed() < pause) {
            return Ok(());
        }
        view.asked = Some(Instant::now());
        let answer: Result<Option<Instance>, ProviderError> = self.provider.instance(id).await;
        match answer {
            Ok(instance) => {
                let seen = Some(instance.as_ref().map(Seen::from));
                if seen != view.instance {
                    view.instance = seen;
                    view.instance_since = Instant::now();
                }
                Ok(())
            }
            Err(err @ (ProviderError::Unauthorized { .. } | ProviderError::NoKey { .. })) => {
                Err(err.into())
            }
            // The laptop may be offline: that says nothing about the box.
            Err(err) => {
                tracing::debug!(%err, "the provider does not answer");
                Ok(())
            }
        }
    }

    async fn try_open(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        view: &mut View,
    ) -> Result<Option<Arc<dyn Site>>, Halt> {
        let Some(id) = attempt.instance else {
            return Ok(None);
        };
        let place = self.place(attempt, id);
        match self.sites.open(&place, &run.spec, &|_, _| {}).await {
            Ok(site) => Ok(Some(site)),
            Err(SiteError::Local(why)) => Err(Halt::Pause(
                crate::error::CommandError::new(format!("run `{}` cannot be watched", run.name))
                    .because(why),
            )),
            Err(err) => {
                self.link_lost(run, view, &err.to_string());
                Ok(None)
            }
        }
    }

    fn link_lost(&self, run: &RunRecord, view: &mut View, why: &str) {
        if !view.link_lost {
            view.link_lost = true;
            self.say(
                run,
                &format!(
                    "No word from the box: {why}. The training goes on without us; reconnecting."
                ),
            );
        }
    }

    /// One heartbeat: status, new events, keys.
    async fn listen(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
        site: &dyn Site,
        view: &mut View,
    ) -> Result<(), Halt> {
        let status = match tokio::time::timeout(Duration::from_secs(20), site.status()).await {
            Ok(Ok(status)) => status,
            Ok(Err(err)) => {
                self.link_lost(run, view, &err.to_string());
                return Ok(());
            }
            Err(_) => {
                self.link_lost(run, view, "no answer in 20 s");
                return Ok(());
            }
        };
        view.heard = Instant::now();
        view.restarted |= view.boot.as_ref().is_some_and(|boot| *boot != status.boot);
        view.boot.get_or_insert_with(|| status.boot.clone());
        let ended = status
            .session(TRAIN)
            .is_some_and(|session| !session.is_running());
        view.ended = if ended {
            view.ended.or(Some(view.heard))
        } else {
            None
        };
        if view.link_lost {
            view.link_lost = false;
            self.say(run, "Connected again.");
        }
        if status.last_event > attempt.last_event
            && let Err(err) = self.copy_events(run, attempt, site).await
        {
            tracing::debug!(%err, "events wait for the next look");
        }
        let printed = status
            .session(TRAIN)
            .is_some_and(|session| session.log_bytes > 0);
        if printed && let Err(err) = self.copy_log(run, attempt.number, site, TRAIN).await {
            tracing::debug!(%err, "the log waits for the next look");
        }
        let wants_keys = status
            .backup
            .as_ref()
            .is_some_and(|backup| backup.problem.is_some());
        if status.backup.is_some()
            && (wants_keys || view.credentials_given.elapsed() >= CREDENTIALS)
        {
            match site.give_credentials().await {
                Ok(()) => view.credentials_given = Instant::now(),
                Err(err) => tracing::warn!(%err, "bucket keys were not handed over"),
            }
        }
        if let Some(training) = &status.training
            && training.step.is_some()
            && training.step != view.told_step
        {
            self.report.training(&run.name, training);
            view.told_step = training.step;
            attempt.last_step = training.step;
            // The step alone; the state is not touched, so that a slow writer cannot undo anything.
            self.store
                .record_step(&run.name, attempt.number, attempt.last_step)?;
        }
        let alarm = status.backup.as_ref().is_some_and(|backup| backup.alarm);
        if alarm && !view.alarm {
            let why = status
                .backup
                .as_ref()
                .and_then(|backup| backup.problem.as_deref());
            self.say(
                run,
                &format!(
                    "The backup is behind: {}.",
                    why.unwrap_or("no commit in time")
                ),
            );
        }
        view.alarm = alarm;
        view.status = Some(status);
        Ok(())
    }

    /// Copies what a session printed since the last look, to its end.
    pub(crate) async fn copy_log(
        &self,
        run: &RunRecord,
        attempt: u32,
        site: &dyn Site,
        session: &str,
    ) -> Result<(), SiteError> {
        let local = |err: std::io::Error| SiteError::Local(format!("a log was not copied: {err}"));
        let mut copy = self
            .logbook
            .open(&run.name, attempt, session)
            .map_err(local)?;
        loop {
            let pieces = site.log(session, copy.position()).await?;
            let bytes: usize = pieces.iter().map(|piece| piece.data.len()).sum();
            for piece in &pieces {
                copy.append(piece).map_err(local)?;
            }
            if bytes == 0 {
                return Ok(());
            }
        }
    }

    /// What the box left in the bucket of the log when it was taken back: appended to what was copied before.
    pub(crate) async fn collect_left_log(&self, run: &RunRecord, attempt: u32) {
        let collected = async {
            let pieces = self
                .sites
                .left_log(&run.spec, attempt, TRAIN)
                .await
                .map_err(|err| err.to_string())?;
            if pieces.is_empty() {
                return Ok(());
            }
            let mut copy = self
                .logbook
                .open(&run.name, attempt, TRAIN)
                .map_err(|err| err.to_string())?;
            for piece in &pieces {
                copy.append(piece).map_err(|err| err.to_string())?;
            }
            Ok::<(), String>(())
        };
        if let Err(why) = collected.await {
            tracing::warn!(
                run = run.name,
                attempt,
                why,
                "the last lines of the log were not collected from the bucket"
            );
        }
    }

    /// Copies all new events of the agent into the store and lets the agent drop them.
    pub(crate) async fn copy_events(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
        site: &dyn Site,
    ) -> Result<(), SiteError> {
        loop {
            let events = site.events(attempt.last_event + 1).await?;
            if events.is_empty() {
                return Ok(());
            }
            let stored: Vec<StoredEvent> = events
                .into_iter()
                .map(|event| StoredEvent {
                    seq: event.seq,
                    time_us: event.time_us as i64,
                    detail: event.detail,
                    kind: event.kind,
                })
                .collect();
            let last = self
                .store
                .append_events(&run.name, attempt.number, &stored)
                .map_err(|err| SiteError::Local(crate::error::chain(&err)))?;
            // An answer that brings nothing new would be asked for for ever.
            if last <= attempt.last_event {
                return Ok(());
            }
            attempt.last_event = last;
            site.acknowledge(last).await?;
        }
    }
}

fn sight(view: &View) -> Sight {
    Sight {
        instance: view.instance,
        instance_unchanged: view.instance_since.elapsed(),
        session: view
            .status
            .as_ref()
            .and_then(|status| status.session(TRAIN))
            .cloned(),
        heartbeat_age: view.heard.elapsed(),
        restarted: view.restarted,
        ended_for: view.ended.map_or(Duration::ZERO, |ended| ended.elapsed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::{Actual, Intended};

    const UP: Seen = Seen {
        intended: Intended::Running,
        actual: Actual::Running,
        scheduling: false,
    };
    const TAKEN: Seen = Seen {
        intended: Intended::Stopped,
        actual: Actual::Running,
        scheduling: false,
    };
    const OFFLINE: Seen = Seen {
        intended: Intended::Running,
        actual: Actual::Offline,
        scheduling: false,
    };

    fn session(state: SessionState, exit_code: Option<i32>, signal: Option<i32>) -> SessionInfo {
        SessionInfo {
            name: TRAIN.to_owned(),
            state,
            exit_code,
            signal,
            started_us: 1,
            ended_us: None,
            pid: 1,
            log_bytes: 0,
            tmux: true,
            command: String::new(),
        }
    }

    fn exited(code: i32) -> SessionInfo {
        session(SessionState::Exited, Some(code), None)
    }

    fn signalled(signal: i32) -> SessionInfo {
        session(SessionState::Signalled, None, Some(signal))
    }

    fn running() -> SessionInfo {
        session(SessionState::Running, None, None)
    }

    fn sight(instance: Option<Option<Seen>>, session: Option<SessionInfo>) -> Sight {
        Sight {
            instance,
            instance_unchanged: Duration::ZERO,
            session,
            heartbeat_age: Duration::ZERO,
            restarted: false,
            ended_for: SIGNAL_EXPLAINED,
        }
    }

    #[test]
    fn a_training_that_ended_has_ended_and_one_that_the_market_stopped_was_interrupted() {
        for (instance, session) in [
            (Some(Some(UP)), exited(0)),
            (Some(Some(UP)), signalled(9)),
            (Some(Some(UP)), exited(143)),
            (None, exited(7)),
            (Some(Some(TAKEN)), exited(0)),
            (Some(Some(TAKEN)), exited(7)),
            (Some(Some(TAKEN)), signalled(11)),
        ] {
            assert_eq!(
                decide(&sight(instance, Some(session.clone()))),
                Verdict::Ended(session)
            );
        }
        for session in [signalled(15), signalled(9), exited(143)] {
            assert!(matches!(
                decide(&sight(Some(Some(TAKEN)), Some(session))),
                Verdict::Interrupted(_)
            ));
        }
    }

    #[test]
    fn a_training_that_a_signal_ended_waits_for_the_provider_to_explain_it() {
        let mut seen = sight(Some(Some(UP)), Some(signalled(15)));
        seen.ended_for = Duration::ZERO;
        assert_eq!(decide(&seen), Verdict::GoOn);
        seen.restarted = true;
        assert!(matches!(decide(&seen), Verdict::Interrupted(_)));
        assert_eq!(decide(&sight(None, Some(exited(143)))), Verdict::GoOn);
    }

    #[test]
    fn an_outbid_is_an_interruption_at_once_even_while_the_box_still_answers() {
        assert!(matches!(
            decide(&sight(Some(Some(TAKEN)), Some(running()))),
            Verdict::Interrupted(_)
        ));
    }

    #[test]
    fn a_box_that_restarted_took_the_training_with_it() {
        let lost = session(SessionState::Lost, None, None);
        for instance in [None, Some(Some(UP))] {
            assert!(matches!(
                decide(&sight(instance, Some(lost.clone()))),
                Verdict::Interrupted(_)
            ));
        }
    }

    #[test]
    fn a_laptop_without_a_network_judges_nothing() {
        let mut seen = sight(None, Some(running()));
        seen.heartbeat_age = Duration::from_secs(86_400);
        assert_eq!(decide(&seen), Verdict::GoOn);
        seen.instance = Some(Some(UP));
        assert_eq!(decide(&seen), Verdict::GoOn);
    }

    #[test]
    fn a_box_is_lost_only_when_provider_and_heartbeat_agree() {
        let mut seen = sight(Some(Some(OFFLINE)), Some(running()));
        seen.instance_unchanged = Duration::from_secs(3600);
        assert_eq!(decide(&seen), Verdict::GoOn);
        seen.heartbeat_age = Duration::from_secs(3600);
        assert!(matches!(decide(&seen), Verdict::Lost(_)));
        seen.instance_unchanged = Duration::from_secs(1);
        assert_eq!(decide(&seen), Verdict::GoOn);
        assert!(matches!(decide(&sight(Some(None), None)), Verdict::Lost(_)));
    }
}
