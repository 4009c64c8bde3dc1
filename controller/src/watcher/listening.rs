//! One heartbeat of a box that is watched: what it says, and what is told, stored and handed over because of it.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{View, keys};
use crate::{
    agent_client::BackupInfo,
    error::CommandError,
    notify,
    run::{
        alarms, believable_step,
        bringing_up::TRAIN,
        halt::Halt,
        handing::REFUSED,
        lifecycle::Lifecycle,
        site::{Site, SiteError},
        windows,
    },
    spec::OnStale,
    store::{AttemptRecord, RunRecord},
};

impl Lifecycle {
    pub(super) async fn try_open(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        view: &mut View,
    ) -> Result<Option<Arc<dyn Site>>, Halt> {
        let Some(id) = attempt.instance else {
            return Ok(None);
        };
        self.let_us_in(run, id, false).await?;
        let place = self.place(attempt, id);
        match self.sites.open(&place, &run.spec, &|_, _| {}).await {
            Ok(site) => Ok(Some(site)),
            Err(SiteError::Local(why)) => Err(Halt::Pause(
                CommandError::new(format!("run `{}` cannot be watched", run.name)).because(why),
            )),
            Err(err) => {
                self.link_lost(run, view, &err.to_string());
                Ok(None)
            }
        }
    }

    /// One heartbeat: status, new events, keys.
    pub(super) async fn listen(
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
        self.measure(attempt, &status, &mut view.meter)?;
        self.count_traffic(attempt, &status, &view.line)?;
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
        self.link_holds(run, attempt, view)?;
        // Before its events are taken: what comes now is told from here.
        if view.hand_over <= Instant::now() {
            notify::hand_over(self, run, site).await;
            view.hand_over = Instant::now() + notify::HAND_OVER;
        }
        if status.last_event > attempt.last_event
            && let Err(err) = self.copy_events(run, attempt, site).await
        {
            tracing::debug!(%err, "events wait for the next look");
        }
        if let Some(session) = status.session(TRAIN)
            && self.adopt_restarted(run, attempt, session)?
        {
            // That restart is explained; what ends from now on ends for its own reason.
            view.restarted = false;
            view.boot = Some(status.boot.clone());
        }
        let printed = status
            .session(TRAIN)
            .is_some_and(|session| session.log_bytes > 0);
        if printed
            && let Err(err) = self
                .copy_log_in_passing(run, attempt.number, site, TRAIN)
                .await
        {
            tracing::debug!(%err, "the log waits for the next look");
        }
        self.follow_samples(run, attempt, site, &mut view.samples)
            .await;
        if let Some(backup) = &status.backup {
            self.renew_keys(run, site, backup, &mut view.keys).await;
        }
        let step = status.training.as_ref().and_then(|training| training.step);
        if let Some(training) = &status.training
            && let step @ Some(_) = believable_step(step)
            && step != view.told_step
        {
            self.report.training(&run.name, training);
            view.told_step = step;
            attempt.last_step = step;
            // The step alone; the state is not touched, so that a slow writer cannot undo anything.
            self.store
                .record_step(&run.name, attempt.number, attempt.last_step)?;
        }
        if let Some(backup) = &status.backup {
            self.tell_refusal(run, backup, view);
        }
        let alarm = status.backup.as_ref().is_some_and(|backup| backup.alarm);
        if alarm && !view.alarm {
            // The events say which file it is about; one that has not come yet leaves the agent's own word.
            let why = alarms::backup(&self.store, &run.name, attempt.number)?
                .or_else(|| status.backup.as_ref()?.problem.clone())
                .unwrap_or_else(|| "no commit in time".to_owned());
            let more = keys::advice(&run.name, &why);
            self.say(run, &format!("The backup is behind: {why}.{more}"));
            let kept = run.spec.checkpoints.as_ref();
            if let Some(kept) = kept.filter(|kept| kept.on_stale == OnStale::Stop) {
                // One more interval for what waits; then the disk is all that is paid for.
                return Err(Halt::Limit {
                    why: format!(
                        "its backup is behind, and `checkpoints.on_stale` is `stop`: {why}"
                    ),
                    left: kept.every,
                });
            }
        }
        if view.alarm && !alarm {
            self.say(run, "The backup is up to date again.");
        }
        view.alarm = alarm;
        let rare = alarms::rare(&self.store, &run.name, attempt.number)?;
        let trains = status
            .session(TRAIN)
            .is_some_and(|train| train.is_running());
        if let Some(text) = rare
            .as_ref()
            .filter(|text| trains && view.rare.as_ref() != Some(*text))
        {
            self.say(run, &format!("Careful: {text}."));
        }
        view.rare = rare;
        let disk = alarms::disk(&self.store, &run.name, attempt.number)?;
        if let Some(text) = disk
            .as_ref()
            .filter(|text| view.disk.as_ref() != Some(*text))
        {
            self.say(run, &format!("Careful: {text}."));
        }
        view.disk = disk;
        let contradiction = windows::contradiction(&self.store, attempt)?;
        if let Some(why) = contradiction.as_ref().filter(|_| !view.contradicted) {
            let newest = windows::newest(&self.store, attempt)?;
            let answer = windows::answer(&run.name, &run.spec.validate, newest.as_ref());
            self.say(
                run,
                &format!("Careful: the training contradicts its estimate: {why}; {answer}."),
            );
        }
        view.contradicted = contradiction.is_some();
        view.status = Some(status);
        Ok(())
    }

    /// Says that the bucket refuses the box as soon as the box knows: until that makes its backup late, a person may have mended it.
    fn tell_refusal(&self, run: &RunRecord, backup: &BackupInfo, view: &mut View) {
        let refusal = backup.problem.as_ref().filter(|why| why.contains(REFUSED));
        let Some(why) = refusal.filter(|_| !backup.alarm) else {
            return;
        };
        if view.refused == Some(backup.committed) {
            return;
        }
        view.refused = Some(backup.committed);
        let more = keys::advice(&run.name, why);
        self.say(run, &format!("Checkpoints wait on the box: {why}.{more}"));
    }
}
