//! A box that stopped or destroyed itself after its training had ended, with nobody there to see it. From outside it looks like one that the
//! market took back; what it left in the bucket says what it was. Its run is collected, or its crash told, and nothing is
//! trained twice.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
    time::Duration,
};

use spotter_bucket::{EndedBy, Ending};

use crate::{
    agent_client::{SessionInfo, SessionState},
    error::CommandError,
    ledger::CostKind,
    run::{
        State,
        boxes::{KEPT, has_bucket},
        bringing_up::{TRAIN, ended_text},
        diagnosis,
        fetching::absent,
        halt::Halt,
        lifecycle::Lifecycle,
        site::SiteError,
        windows,
    },
    store::{AttemptRecord, Outcome, RunRecord},
    watcher::ended_by_signal,
};

/// For what a box left in the bucket, where somebody waits at the keyboard.
const CATCH_UP: Duration = Duration::from_secs(20);
/// Of a crash's log, shown.
const TAIL_BYTES: u64 = 2_000;

/// What became of the disk of a box that does not run any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disk {
    /// It is there and can be started again.
    Kept,
    /// Nobody can reach it: what was in no bucket is lost with it.
    Lost,
}

impl Lifecycle {
    /// Deals with a stopped box that nobody of ours stopped, when its training had ended before. False: it had not, as far as
    /// anybody knows.
    pub(crate) async fn had_ended(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
        disk: Disk,
    ) -> Result<bool, Halt> {
        let Some(ending) = self.left_ending(run, attempt).await? else {
            return Ok(false);
        };
        let training = session(&ending);
        let how = ended_text(&training);
        let destroyed = ending.destroys && disk == Disk::Lost;
        let why = ending.kept_because.as_ref().filter(|_| !destroyed);
        self.say(
            run,
            &format!(
                "The training of attempt {} {how}; nobody came, and its box {}.",
                attempt.number,
                itself(destroyed, why.map(String::as_str))
            ),
        );
        let mut detail = serde_json::json!({"how": how, "unsaved_bytes": ending.unsaved_bytes});
        if destroyed {
            detail["destroyed"] = true.into();
        }
        if let Some(why) = why {
            detail["kept_because"] = why.as_str().into();
        }
        self.charges_ended(attempt, &ending, destroyed)?;
        if destroyed {
            self.wiped_itself(run, attempt)?;
        }
        // First what the box says, such as that it told its user of this.
        self.bring_left_home(run, attempt).await?;
        self.note(run, attempt.number, "self_stopped", detail)?;
        attempt.exit_code = ending.exit_code;
        if training.ended_well() {
            self.collect_later(run, attempt, &ending, disk).await?;
        } else if let Some(cause) = ending.cause.clone() {
            let ended = windows::BoxEnding {
                by_contradiction: cause.by == "contradiction",
                reason: cause.reason,
            };
            if destroyed {
                if let Some(key) = &ending.results {
                    self.bring_left_results(run, attempt, key).await?;
                }
                self.stopped(run, attempt, &ended.into())?;
            } else {
                self.ended_by_box(run, attempt, ended)?;
            }
        } else if ending.by == EndedBy::Request {
            self.keep_stopped(run, attempt, "its training was stopped on the box")?;
        } else {
            let log = self.logbook.path(&run.name, attempt.number, TRAIN);
            let tail = tail(&log).unwrap_or_default();
            let found = diagnosis::of(&self.store, attempt)?;
            self.record_crash(
                run,
                attempt,
                &training,
                &tail,
                Some(ending.unsaved_bytes),
                found,
            )?;
        }
        Ok(true)
    }

    /// Nobody saw the box end itself: its own word says when, as far as that can be true.
    fn charges_ended(
        &self,
        attempt: &AttemptRecord,
        ending: &Ending,
        destroyed: bool,
    ) -> Result<(), CommandError> {
        let to_us = charged_until_us(ending, attempt.started_us, self.clock.now_us());
        let kinds = [Some(CostKind::Gpu), destroyed.then_some(CostKind::Disk)];
        for kind in kinds.into_iter().flatten() {
            self.store
                .close_interval(&attempt.run, attempt.number, kind, to_us)?;
        }
        Ok(())
    }

    /// What the box left, if it speaks of the training that the record speaks of. Waits for a bucket that is away: without its
    /// word nobody can tell an end from an interruption.
    async fn left_ending(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
    ) -> Result<Option<Ending>, Halt> {
        if !has_bucket(run) || attempt.started_us == 0 {
            return Ok(None);
        }
        let text = "its bucket does not say whether the training had ended";
        let mut told = String::new();
        loop {
            match self.sites.left_ending(&run.spec, attempt.number).await {
                Ok(ending) => return Ok(ending.filter(|ending| is_last_word(ending, attempt))),
                Err(SiteError::Local(why)) => {
                    let err = CommandError::new(format!("run `{}` is not carried on", run.name));
                    return Err(Halt::Pause(err.because(text).because(why)));
                }
                Err(err) => {
                    self.still_ours(run, attempt)?;
                    let err = CommandError::new(text).cause(err);
                    self.wait(run, &err, &mut told).await;
                }
            }
        }
    }

    /// What a box that went left in the bucket, brought home before anything of it is given up. Waits for a bucket that is away.
    pub(crate) async fn bring_left_home(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
    ) -> Result<(), Halt> {
        if !has_bucket(run) || attempt.started_us == 0 {
            return Ok(());
        }
        let text = format!(
            "the end of the log of attempt {} was not brought home from its bucket",
            attempt.number
        );
        let mut told = String::new();
        loop {
            match self.collect_left(run, attempt.number).await {
                Ok(()) => return Ok(()),
                Err(SiteError::Local(why)) => {
                    let err = CommandError::new(format!("run `{}` is not carried on", run.name));
                    return Err(Halt::Pause(err.because(text).because(why)));
                }
                Err(err) => {
                    self.still_ours(run, attempt)?;
                    let err = CommandError::new(&text).cause(err);
                    self.wait(run, &err, &mut told).await;
                }
            }
        }
    }

    /// The same where nobody waits long for it, and nothing hangs on it. The caller holds the run's lease.
    pub async fn catch_up(&self, run: &RunRecord, attempt: &AttemptRecord) {
        if !has_bucket(run) || attempt.started_us == 0 {
            return;
        }
        let home = tokio::time::timeout(CATCH_UP, self.collect_left(run, attempt.number));
        match home.await {
            Ok(Ok(())) => {}
            Ok(Err(err)) => tracing::debug!(%err, "what a box left was not brought home"),
            Err(_) => tracing::debug!("the bucket did not tell in time what a box left"),
        }
    }

    /// A training that ended well: what is in the bucket already needs no box, the rest is fetched from it.
    async fn collect_later(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
        ending: &Ending,
        disk: Disk,
    ) -> Result<(), Halt> {
        let left = match &ending.results {
            Some(key) => self.bring_left_results(run, attempt, key).await?,
            None => None,
        };
        let is_home = run.spec.results.is_none() || left.is_some();
        if is_home && ending.unsaved_bytes == 0 && attempt.state.may_follow(State::Finishing) {
            self.move_to(attempt, State::Finishing)?;
            match left.filter(|missing| !missing.is_empty()) {
                Some(missing) if disk == Disk::Lost => {
                    self.say(run, &format!("Careful: {}.", absent(&missing)));
                }
                Some(missing) => self.keep_for_a_look(run, attempt, &absent(&missing)),
                None => {}
            }
            return Ok(self.move_to(attempt, State::Collected)?);
        }
        if disk == Disk::Lost {
            let results = if is_home { "" } else { "its results, and " };
            let reason = format!(
                "its training ended well, but its box is lost, and with it what was in no bucket: {results}{} bytes of checkpoints",
                ending.unsaved_bytes
            );
            attempt.reason = Some(reason.clone());
            self.move_to(attempt, State::Lost)?;
            return Ok(self.end(run, Outcome::Lost, Some(&reason))?);
        }
        self.keep_stopped(
            run,
            attempt,
            "its training ended well, and what it left is on its disk",
        )?;
        // Once: a box that does not come back is for a person to decide about.
        let within_budget = run.spec.limits.budget_usd.is_none_or(|budget_usd| {
            self.spent_usd(&run.name)
                .is_ok_and(|spent| spent < budget_usd)
        });
        if attempt.reopened_us == 0 && within_budget && !self.store.run(&run.name)?.stop_requested {
            self.reopen(&self.store.run(&run.name)?, true).await?;
        }
        Ok(())
    }

    fn keep_stopped(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
        why: &str,
    ) -> Result<(), Halt> {
        let reason = format!("{KEPT}{why}");
        attempt.reason = Some(reason.clone());
        self.move_to(attempt, State::Stopped)?;
        Ok(self.end(run, Outcome::Stopped, Some(&reason))?)
    }
}

/// What a box did with itself, for people (pure). `kept_because`: why it was not destroyed, though the run wanted that.
fn itself(destroyed: bool, kept_because: Option<&str>) -> String {
    match (destroyed, kept_because) {
        (true, _) => "destroyed itself, because the bucket has everything".to_owned(),
        (false, Some(why)) => format!("stopped itself; it did not destroy itself: {why}"),
        (false, None) => "stopped itself".to_owned(),
    }
}

/// When a box that ended itself was charged last, by its own word (pure). The end of its training is the earliest that can be true, now the
/// latest.
fn charged_until_us(ending: &Ending, started_us: i64, now_us: i64) -> i64 {
    match i64::try_from(ending.left_us) {
        Ok(left_us @ 1..) => left_us.clamp(started_us.min(now_us), now_us),
        _ => now_us,
    }
}

/// Whether an ending is that of the newest training on the box: a box that was started again may hold one of before.
fn is_last_word(ending: &Ending, attempt: &AttemptRecord) -> bool {
    let training = session(ending);
    // The stop of a container ends a training by a signal, too, and the box may have been given back since.
    if ending.by != EndedBy::Request && ended_by_signal(&training) {
        return false;
    }
    let same = attempt.old_session_us == 0 && ending.started_us as i64 == attempt.started_us;
    // After one that ended well nothing else trains on that box.
    attempt.reopened_us == 0 || training.ended_well() || same
}

fn session(ending: &Ending) -> SessionInfo {
    SessionInfo {
        name: TRAIN.to_owned(),
        state: match ending.by {
            EndedBy::Exit => SessionState::Exited,
            EndedBy::Signal => SessionState::Signalled,
            EndedBy::Oom => SessionState::Oom,
            EndedBy::Request => SessionState::Stopped,
        },
        exit_code: ending.exit_code,
        signal: ending.signal,
        started_us: ending.started_us,
        ended_us: Some(ending.ended_us),
        pid: 0,
        log_bytes: 0,
        tmux: false,
        command: String::new(),
    }
}

fn tail(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::Rental;

    fn attempt(started_us: i64, reopened_us: i64, old_session_us: i64) -> AttemptRecord {
        AttemptRecord {
            run: "r".to_owned(),
            number: 1,
            state: State::Running,
            label: String::new(),
            rental: Rental::Interruptible,
            instance: Some(7),
            machine_id: None,
            gpu: String::new(),
            gpu_usd_per_hour: 0.0,
            storage_usd_per_hour: 0.0,
            ssh: Vec::new(),
            created_us: 0,
            state_us: 0,
            started_us,
            gone_us: 0,
            resumed_step: None,
            last_step: None,
            reason: None,
            last_event: 0,
            exit_code: None,
            reopened_us,
            old_session_us,
        }
    }

    #[test]
    fn a_box_is_charged_until_its_own_word_where_that_can_be_true() {
        let mut ending = Ending::new(50, 60, EndedBy::Exit);
        for (left_us, expected) in [
            (0, 900),
            (70, 100),
            (500, 500),
            (5_000, 900),
            (u64::MAX, 900),
        ] {
            ending.left_us = left_us;
            assert_eq!(charged_until_us(&ending, 100, 900), expected, "{left_us}");
        }
    }

    #[test]
    fn an_ending_counts_unless_a_signal_made_it_or_another_training_followed() {
        let ending = |by, exit_code, signal| {
            let mut ending = Ending::new(50, 60, by);
            ending.exit_code = exit_code;
            ending.signal = signal;
            ending
        };
        let well = ending(EndedBy::Exit, Some(0), None);
        let crash = ending(EndedBy::Exit, Some(3), None);
        let fresh = attempt(49, 0, 0);
        let again = attempt(50, 9, 50);
        let trained_again = attempt(70, 9, 0);
        let crashed_again = attempt(50, 9, 0);
        for (ending, attempt, expected) in [
            (&well, &fresh, true),
            (&crash, &fresh, true),
            (&well, &again, true),
            (&crash, &again, false),
            (&crash, &trained_again, false),
            (&crash, &crashed_again, true),
            (&ending(EndedBy::Signal, None, Some(15)), &fresh, false),
            (&ending(EndedBy::Exit, Some(143), None), &fresh, false),
            (&ending(EndedBy::Signal, None, Some(11)), &fresh, true),
            (&ending(EndedBy::Oom, None, Some(9)), &fresh, false),
            (&ending(EndedBy::Request, None, Some(15)), &fresh, true),
        ] {
            assert_eq!(
                is_last_word(ending, attempt),
                expected,
                "{ending:?} {attempt:?}"
            );
        }
    }
}
