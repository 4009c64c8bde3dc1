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
        let was = view.status.as_ref().and_then(|was| was.backup.as_ref());
        let Some(why) = untold_refusal(was, backup, &mut view.refused) else {
            return;
        };
        let more = keys::advice(&run.name, why);
        self.say(run, &format!("Checkpoints wait on the box: {why}.{more}"));
    }
}

/// What the bucket refuses the box.
fn refusal(backup: &BackupInfo) -> Option<&str> {
    backup
        .problem
        .as_deref()
        .filter(|why| why.contains(REFUSED))
}

/// A refusal that is to be told now: once while it stands and nothing is committed, and not before a second look in a row finds it, since the first
/// one may have handed over what the bucket takes. `was`: how the backup stood at the look before; `told`: commits of the box when one was told.
fn untold_refusal<'a>(
    was: Option<&BackupInfo>,
    now: &'a BackupInfo,
    told: &mut Option<u64>,
) -> Option<&'a str> {
    let Some(why) = refusal(now) else {
        *told = None;
        return None;
    };
    let stood = was.is_some_and(|was| refusal(was).is_some());
    if now.alarm || !stood || *told == Some(now.committed) {
        return None;
    }
    *told = Some(now.committed);
    Some(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_at_the_second_look_that_finds_it_and_once_while_it_stands() {
        let denied = || Some(format!("{REFUSED}: AccessDenied"));
        let (mut was, mut told) = (None, None);
        for (problem, committed, alarm, expected) in [
            // Its keys had ended while the laptop slept, and are renewed at this look.
            (denied(), 3, false, false),
            (None, 3, false, false),
            (denied(), 3, false, false),
            (denied(), 3, false, true),
            (denied(), 3, false, false),
            // It committed, and is refused again.
            (denied(), 4, false, true),
            // It was mended, and is refused again before anything is committed.
            (None, 4, false, false),
            (denied(), 4, false, false),
            (denied(), 4, false, true),
            // The alarm tells of it.
            (denied(), 5, true, false),
            (Some("no route to host".to_owned()), 5, false, false),
        ] {
            let now = BackupInfo {
                problem,
                committed,
                alarm,
                ..BackupInfo::default()
            };
            let tells = untold_refusal(was.as_ref(), &now, &mut told).is_some();
            assert_eq!(tells, expected, "{was:?} {now:?}");
            was = Some(now);
        }
    }
}
