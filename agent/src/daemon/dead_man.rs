//! The dead-man's switch: a box on which no training ever starts, or whose training is over and nobody comes for it, costs
//! money for nothing, so it stops itself. Its disk stays.
//!
//! `onstart` carries the first half for the time before the agent is there. It is disarmed by the file `started`, which
//! a shim makes and `onstart` removes, so that a restarted box is armed again.

use std::{fs, sync::Arc, time::Duration};

use serde_json::json;
use tokio::time::{self, Instant};
use tracing::warn;

use super::{
    backup::RunningBackup, core::Core, ending, goodbye, presence, training::TRAINING_SESSION,
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
            end_box(&core, &run.provider_url, &reason, &mut told, still).await
        } else if let Some(over) = ending::is_over(&core) {
            let still = || ending::is_over(&core).is_some();
            let patience = ending::patience(&core, &over);
            save(&core, ENDED_LIMIT.min(patience), patience).await;
            let reason = format!("the training was ended: {}", over.reason);
            if !still() {
                continue;
            }
            end_box(&core, &run.provider_url, &reason, &mut told, still).await
        } else {
            let still = || idle_is_due(&core, run.idle_stop_s);
            if !still() {
                continue;
            }
            let limit = Duration::from_secs(run.idle_stop_s.into());
            save(&core, limit, Duration::MAX).await;
            let reason = format!(
                "the training is over and nobody came for it within {} s",
                run.idle_stop_s
            );
            if !still() {
                continue;
            }
            end_box(&core, &run.provider_url, &reason, &mut told, still).await
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

/// What can be saved goes to the bucket before the box stops, checkpoints before results, for at most this long; then the word that the
/// training is over, for which the bucket is given as much `patience` as it usually is, or less.
async fn save(core: &Arc<Core>, limit: Duration, patience: Duration) {
    let Some(running) = core.backup() else { return };
    let until = Instant::now() + limit;
    let unsaved_bytes = match running.backup.backup_now(limit, true).await {
        Ok(state) => {
            if state.pending > 0 {
                warn!(
                    pending = state.pending,
                    "checkpoints stay on this disk only: the bucket did not take them in time"
                );
            }
            state.unsaved_bytes
        }
        Err(err) => {
            warn!(error = %chain(&err), "what stays on this disk only is not known");
            // Nobody knows how many, and none would be read as nothing to lose.
            1
        }
    };
    let results = time::timeout_at(until, collect(core, &running)).await;
    let results = results.unwrap_or_else(|_| {
        warn!("the results stay on this disk only: the bucket did not take them in time");
        None
    });
    goodbye::leave_ending(core, &running, unsaved_bytes, results, patience).await;
}

/// Brings the results of a training that ended well to the bucket: the key of their manifest, when all of them are there.
async fn collect(core: &Core, running: &RunningBackup) -> Option<String> {
    let training = core.sessions.get(TRAINING_SESSION).ok()?;
    let exit_code = training.end.and_then(|end| end.exit_code);
    let ended_well = training.state == SessionState::Exited && exit_code == Some(0);
    if !ended_well || running.plan.results.is_empty() {
        return None;
    }
    let (backup, paths) = (&running.backup, &running.plan.results);
    let kept = backup.collect_results(&core.workdir(), paths).await;
    let kept = kept.inspect_err(|err| {
        warn!(error = %chain(err), "the results stay on this disk only");
    });
    let key = kept.ok()?.manifest_key;
    (!key.is_empty()).then_some(key)
}

/// What became of the wish to be stopped.
enum Asked {
    /// The provider agreed, or the daemon ends.
    Agreed,
    /// Somebody came meanwhile.
    Withdrawn,
    /// This box has no key to ask with.
    Cannot,
}

/// Asks to be stopped for as long as that is still wanted. `told`: the reason that is in the journal already.
async fn end_box(
    core: &Core,
    provider_url: &str,
    reason: &str,
    told: &mut Option<String>,
    still: impl Fn() -> bool + Sync,
) -> Asked {
    warn!(reason, "the box stops itself");
    match OwnInstance::find(&core.home, provider_url) {
        Ok(own) => {
            if told.as_deref() != Some(reason) {
                core.journal.event("self_stop", json!({ "reason": reason }));
                *told = Some(reason.to_owned());
            }
            let stopped = tokio::select! {
                () = core.stop.cancelled() => true,
                stopped = own.stop_while(still) => stopped,
            };
            if stopped {
                return Asked::Agreed;
            }
            core.journal
                .event("self_stop.withdrawn", json!({ "reason": "somebody came" }));
            Asked::Withdrawn
        }
        Err(err) => {
            let problem = chain(&err);
            warn!(problem, "the box should stop itself and cannot");
            core.journal
                .event("self_stop", json!({ "reason": reason, "problem": problem }));
            Asked::Cannot
        }
    }
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
