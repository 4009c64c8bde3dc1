//! The dead-man's switch: a box on which no training ever starts, or whose training is over and nobody comes for it, costs
//! money for nothing, so it stops itself. Its disk stays, unless the run wants its box destroyed and the bucket has everything.
//!
//! `onstart` carries the first half for the time before the agent is there. It is disarmed by the file `started`, which
//! a shim makes and `onstart` removes, so that a restarted box is armed again.

use std::{fs, sync::Arc, time::Duration};

use serde_json::json;
use tokio::time::{self, Instant};
use tracing::warn;

use super::{
    backup::RunningBackup,
    core::Core,
    death,
    disposal::{self, Collected, Disposal, End, Facts},
    ending::{self, By},
    goodbye::{self, Word},
    presence,
    run_file::RunFile,
    telling,
    training::TRAINING_SESSION,
};
use crate::{
    chain, config::Home, events::EventSink, fault, now_us, self_stop::OwnInstance,
    sessions::SessionState,
};

const POLL: Duration = Duration::from_secs(1);
/// Before a box that was told to stop, and is still there, asks again: the provider takes a minute or two.
const ASK_AGAIN: Duration = Duration::from_secs(5 * 60);
/// How long what a limit ended may be saved once more; most of it is in the bucket by then.
const ENDED_LIMIT: Duration = Duration::from_secs(60);
/// How long the bucket is told anew that a box only stops: it is paid for meanwhile.
const REFUSED_LIMIT: Duration = Duration::from_secs(15);

/// Waits until the switch is due, then ends the box.
pub async fn watch(core: Arc<Core>) {
    let mut pause = POLL;
    let mut told = None;
    loop {
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = time::sleep(pause) => {}
        }
        pause = POLL;
        let Some(run) = core.run() else { continue };
        let asked = if !core.home.started().exists() {
            // `onstart` came after a training that was started again in this very container.
            let trains = core.sessions.get(TRAINING_SESSION);
            if trains.is_ok_and(|session| session.state == SessionState::Running) {
                if let Err(err) = fs::write(core.home.started(), b"") {
                    warn!(error = %err, "the dead-man's switch cannot be disarmed, will retry");
                }
                continue;
            }
            let since_us = container_started_us(&core.home, core.started_us);
            if !is_due(since_us, run.bring_up_s, now_us()) {
                continue;
            }
            let reason = format!(
                "no session started within {} s of the container's start",
                run.bring_up_s
            );
            let still = || !core.home.started().exists();
            let parting = Parting::default();
            end_box(&core, &run, &reason, parting, &mut told, still).await
        } else if let Some(over) = ending::is_over(&core) {
            let still = || ending::is_over(&core).is_some();
            let patience = ending::patience(&core, &over);
            let limit = ENDED_LIMIT.min(patience);
            let reason = format!("the training was ended: {}", over.reason);
            let parting = part(&core, &run, &reason, limit, patience, Some(over.by)).await;
            end_box(&core, &run, &reason, parting, &mut told, still).await
        } else {
            let still = || idle_is_due(&core, run.idle_stop_s);
            if !still() {
                continue;
            }
            let limit = Duration::from_secs(run.idle_stop_s.into());
            let reason = format!(
                "the training is over and nobody came for it within {} s",
                run.idle_stop_s
            );
            let parting = part(&core, &run, &reason, limit, Duration::MAX, None).await;
            end_box(&core, &run, &reason, parting, &mut told, still).await
        };
        match asked {
            // Its word is not its deed: whoever reads this is still paid for.
            Asked::Agreed => pause = fault::wait(ASK_AGAIN),
            Asked::Withdrawn => told = None,
            Asked::Cannot => return,
        }
    }
}

/// Whether the training is over, nothing else runs, and nobody was there for this long.
fn idle_is_due(core: &Core, idle_stop_s: u32) -> bool {
    let (Ok(false), Ok(training)) = (core.is_busy(), core.sessions.get(TRAINING_SESSION)) else {
        return false;
    };
    let Some(alone_us) = core.presence.alone_since_us() else {
        return false;
    };
    training.state != SessionState::Running
        && is_due(alone_us.max(training.ended_us), idle_stop_s, now_us())
        && !presence::is_logged_in()
}

/// What was left behind before the box ends itself.
struct Parting {
    disposal: Disposal,
    /// What was said of it; absent: there is no bucket to say it in.
    word: Option<Word>,
}

impl Default for Parting {
    fn default() -> Self {
        Self {
            disposal: Disposal::Stop { kept_because: None },
            word: None,
        }
    }
}

/// What can be saved goes to the bucket before the box ends, checkpoints before results, for at most this long; then the word that the
/// training is over, for which the bucket is given as much `patience` as it usually is, or less. `by`: what ended the training, where that
/// was this box.
async fn part(
    core: &Arc<Core>,
    run: &RunFile,
    reason: &str,
    limit: Duration,
    patience: Duration,
    by: Option<By>,
) -> Parting {
    let until = Instant::now() + limit;
    let Some(running) = core.backup() else {
        return Parting {
            disposal: match run.destroy_when_saved {
                true => Disposal::kept("no bucket has what it trained"),
                false => Disposal::Stop { kept_because: None },
            },
            word: None,
        };
    };
    let training = core.sessions.get(TRAINING_SESSION).ok();
    let began_us = training
        .as_ref()
        .map_or(u64::MAX, |training| training.start.started_us);
    let end = training.map_or(End::Otherwise, |training| disposal::end_of(&training, by));
    crate::aside(|| death::tell(core, &running));
    let state = match running.backup.backup_now(limit, true).await {
        Ok(state) => {
            if state.pending > 0 {
                warn!(
                    pending = state.pending,
                    "checkpoints stay on this disk only: the bucket did not take them in time"
                );
            }
            Some(state)
        }
        Err(err) => {
            warn!(error = %chain(&err), "what stays on this disk only is not known");
            None
        }
    };
    let wanted = end == End::Well || (end == End::Ended && run.destroy_when_saved);
    let results = match wanted && !running.plan.results.is_empty() {
        true => time::timeout_at(until, collect(core, &running))
            .await
            .unwrap_or_else(|_| {
                warn!("the results stay on this disk only: the bucket did not take them in time");
                Collected::No
            }),
        false if wanted => Collected::NotWanted,
        false => Collected::No,
    };
    let own = OwnInstance::find(&core.home, &run.provider_url);
    let mut disposal = disposal::disposal(&Facts {
        wanted: run.destroy_when_saved,
        proved: own.is_ok_and(|own| own.is_proved(&core.home)),
        end,
        began_us,
        backup: state.as_ref(),
        results: &results,
    });
    if disposal == Disposal::Destroy
        && let Err(why) = leave_nothing(core, &running, patience).await
    {
        disposal = Disposal::kept(why);
    }
    let destroys = disposal == Disposal::Destroy;
    if destroys {
        // Before it is left in the bucket with all else that happened.
        core.journal
            .event("self_destroy", json!({ "reason": reason }));
        telling::rest(core).await;
    }
    let word = Word {
        // Where nobody knows how many, none would be read as nothing to lose.
        unsaved_bytes: state.map_or(1, |state| state.unsaved_bytes),
        results: match results {
            Collected::Home { manifest_key, .. } => Some(manifest_key),
            Collected::NotWanted | Collected::No => None,
        }
        .filter(|key| !key.is_empty()),
        destroys,
        kept_because: disposal.kept_because(),
    };
    goodbye::leave_samples(core, &running, patience).await;
    if !goodbye::leave_ending(core, &running, &word, patience).await && destroys {
        disposal = Disposal::kept("its last word is not in the bucket");
    }
    Parting {
        disposal,
        word: Some(word),
    }
}

/// Before the disk goes: what is no checkpoint and no result goes to the bucket, too, and the bucket is asked whether it has the newest.
async fn leave_nothing(
    core: &Arc<Core>,
    running: &RunningBackup,
    patience: Duration,
) -> Result<(), String> {
    if core.sessions.has_earlier().unwrap_or(true) {
        return Err("logs of earlier starts are on its disk only".to_owned());
    }
    time::timeout(patience, running.backup.newest_is_there())
        .await
        .map_err(|_| {
            "there was no time to ask the bucket for its newest checkpoint".to_owned()
        })??;
    goodbye::leave_whole_logs(core, running, patience).await
}

/// Whether all that holds still, right before the disk goes: what was left above took its time.
async fn is_saved_still(core: &Core) -> Result<(), String> {
    let running = core.backup().ok_or("its backup is there no more")?;
    let state = running.backup.backup_now(REFUSED_LIMIT, true).await;
    let state = state.map_err(|err| chain(&err))?;
    disposal::why_unsaved(&state).map_or(Ok(()), Err)
}

/// Brings the results to the bucket.
async fn collect(core: &Core, running: &RunningBackup) -> Collected {
    let (backup, paths) = (&running.backup, &running.plan.results);
    match backup.collect_results(&core.workdir(), paths).await {
        Ok(kept) => Collected::Home {
            manifest_key: kept.manifest_key,
            missing: kept.missing,
            passed_over: kept.passed_over,
        },
        Err(err) => {
            warn!(error = %chain(&err), "the results stay on this disk only");
            Collected::No
        }
    }
}

/// What became of the wish to be ended.
enum Asked {
    /// The provider agreed, or the daemon ends.
    Agreed,
    /// Somebody came meanwhile.
    Withdrawn,
    /// This box has no key to ask with.
    Cannot,
}

/// Asks to be destroyed or stopped for as long as that is still wanted; to be stopped where the other is refused. `told`: the reason that is
/// in the journal already.
async fn end_box(
    core: &Arc<Core>,
    run: &RunFile,
    reason: &str,
    parting: Parting,
    told: &mut Option<String>,
    still: impl Fn() -> bool + Sync,
) -> Asked {
    let Parting { disposal, word } = parting;
    let mut kept_because = disposal.kept_because();
    // What was saved above took its time.
    if !still() {
        if disposal == Disposal::Destroy {
            take_back(core, word).await;
        }
        return Asked::Withdrawn;
    }
    let own = match OwnInstance::find(&core.home, &run.provider_url) {
        Ok(own) => own,
        Err(err) => {
            let problem = chain(&err);
            warn!(problem, reason, "the box should stop itself and cannot");
            let mut detail = json!({ "reason": reason, "problem": problem });
            detail["kept_because"] = json!(kept_because);
            core.journal.event("self_stop", detail);
            return Asked::Cannot;
        }
    };
    if disposal == Disposal::Destroy {
        let saved = is_saved_still(core).await;
        // That took its time, too.
        if !still() {
            take_back(core, word).await;
            return Asked::Withdrawn;
        }
        let why = match saved {
            Err(why) => why,
            Ok(()) => {
                warn!(reason, "the box destroys itself: the bucket has everything");
                // A freed block may be read by the next tenant of the disk.
                let kept = core
                    .credentials
                    .get()
                    .filter(|_| core.credentials.is_kept());
                if let Err(err) = core.credentials.wipe_file() {
                    warn!(error = %err, "the bucket keys on this disk were not overwritten");
                }
                let asked = tokio::select! {
                    () = core.stop.cancelled() => None,
                    asked = own.destroy_while(&still) => Some(asked),
                };
                if matches!(asked, Some(Ok(true))) {
                    return Asked::Agreed;
                }
                // It stays, or may: it must go on alone after a restart, as somebody chose. Whoever had the keys wiped meanwhile has them
                // wiped here, too.
                let same = kept.is_some() && core.credentials.get() == kept;
                if same && let Err(err) = core.credentials.keep_again() {
                    warn!(error = %err, "the bucket keys are in memory only from now on");
                }
                match asked {
                    None => return Asked::Agreed,
                    // Nor is it stopped under the hands of somebody who came while an answer was waited for.
                    Some(Err(err)) if still() => format!("its end was refused: {}", chain(&err)),
                    Some(_) => {
                        take_back(core, word).await;
                        return Asked::Withdrawn;
                    }
                }
            }
        };
        warn!(why, "the box stops itself instead");
        if let (Some(running), Some(mut word)) = (core.backup(), word) {
            (word.destroys, word.kept_because) = (false, Some(why.clone()));
            goodbye::leave_ending(core, &running, &word, REFUSED_LIMIT).await;
        }
        kept_because = Some(why);
    }
    warn!(reason, "the box stops itself");
    if told.as_deref() != Some(reason) {
        let mut detail = json!({ "reason": reason });
        if let Some(why) = &kept_because {
            detail["kept_because"] = json!(why);
        }
        core.journal.event("self_stop", detail);
        telling::rest(core).await;
        *told = Some(reason.to_owned());
    }
    let stopped = tokio::select! {
        () = core.stop.cancelled() => true,
        stopped = own.stop_while(still) => stopped,
    };
    if stopped {
        return Asked::Agreed;
    }
    withdraw(core);
    Asked::Withdrawn
}

/// Takes an end back that is in the bucket already: whoever reads that the box destroys itself must not believe it.
async fn take_back(core: &Arc<Core>, word: Option<Word>) {
    withdraw(core);
    if let (Some(running), Some(mut word)) = (core.backup(), word) {
        (word.destroys, word.kept_because) = (false, Some("somebody came".to_owned()));
        goodbye::leave_ending(core, &running, &word, REFUSED_LIMIT).await;
    }
}

fn withdraw(core: &Core) {
    core.journal
        .event("self_stop.withdrawn", json!({ "reason": "somebody came" }));
}

/// When the container started: when `onstart` saved its environment; where it did not, when this daemon started.
pub(super) fn container_started_us(home: &Home, daemon_started_us: u64) -> u64 {
    let saved = fs::metadata(home.container_env()).and_then(|meta| meta.modified());
    let since = saved
        .ok()
        .and_then(|saved| saved.duration_since(std::time::UNIX_EPOCH).ok());
    since
        .and_then(|since| u64::try_from(since.as_micros()).ok())
        .unwrap_or(daemon_started_us)
}

/// Whether so many seconds are over; 0 means for ever.
fn is_due(since_us: u64, limit_s: u32, now_us: u64) -> bool {
    limit_s > 0 && now_us.saturating_sub(since_us) >= u64::from(limit_s) * 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_switch_is_due_after_the_time_and_never_without_one() {
        assert!(!is_due(1_000_000, 10, 10_999_999));
        assert!(is_due(1_000_000, 10, 11_000_000));
        assert!(!is_due(0, 0, u64::MAX));
        assert!(!is_due(5_000_000, 10, 1_000_000), "a clock that went back");
    }
}
