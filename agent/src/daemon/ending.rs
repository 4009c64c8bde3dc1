//! Ends the training before its own end, because a limit is reached or nobody answered a contradiction: what is whole goes to the
//! bucket first, then the session is told to end, then what it wrote last is saved. The box stops itself when nobody is there.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time;
use tracing::{error, warn};

use super::{core::Core, death, presence, training::TRAINING_SESSION};
use crate::{chain, events::EventSink, files, now_us, sessions::SessionState};

/// How long finished checkpoints may take to reach the bucket before the training is told to end.
const FLUSH_LIMIT: Duration = Duration::from_secs(10 * 60);
/// Between SIGTERM and SIGKILL: enough to write a checkpoint.
const GRACE: Duration = Duration::from_secs(120);
/// How long the last checkpoints may take.
const LAST_LIMIT: Duration = Duration::from_secs(30 * 60);
/// Most that is waited for a backup that was behind for long already: each second is paid for what could not be saved before.
const BEHIND_LIMIT: Duration = Duration::from_secs(60);
/// What the time for an end whose money is over is shared by: two saves, the grace between them, and a save and a word before the stop.
const BUDGET_SHARES: u32 = 5;
/// Least of that for each: no checkpoint is worth less.
const BUDGET_LEAST_S: u32 = 10;
/// Between two looks for an ending that is on record and not carried out.
const LOOK: Duration = Duration::from_secs(1);
/// Before one that could not be carried out is tried again: what does not end on SIGKILL waits for the kernel.
const AGAIN: Duration = Duration::from_secs(30);
/// A watcher whose link broke comes back within this; then nobody is there.
const ALONE_US: u64 = 30_000_000;

/// Why a training is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// `limits.max_runtime`.
    MaxRuntime,
    /// `limits.no_progress`.
    NoProgress,
    /// A window contradicts the estimate.
    Contradiction,
    /// The backup is behind, and the run may not go on without one.
    Backup,
    /// `limits.budget`.
    Budget,
}

impl By {
    /// Its name in events and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MaxRuntime => "max_runtime",
            Self::NoProgress => "no_progress",
            Self::Contradiction => "contradiction",
            Self::Backup => "backup",
            Self::Budget => "budget",
        }
    }

    /// Whether the box stays up for somebody who is at a shell on it. Not where the money is over: a shell costs as much as a training.
    fn waits_for_logins(self) -> bool {
        self != Self::Budget
    }
}

/// A training that is to end; kept in a file, so that a daemon that is killed on the way goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    v: u32,
    /// Why.
    pub by: By,
    /// The same for people.
    pub reason: String,
    /// When the training started, microseconds since the epoch: tells it from later ones.
    pub started_us: u64,
    /// Everything that could be saved is.
    #[serde(default)]
    saved: bool,
}

impl Ending {
    /// An ending of the present format.
    pub fn new(by: By, reason: String, started_us: u64) -> Self {
        Self {
            v: 1,
            by,
            reason,
            started_us,
            saved: false,
        }
    }
}

/// Notes the ending and tells it; [`watch`] carries it out.
pub fn begin(core: &Arc<Core>, ending: Ending) {
    warn!(
        by = ending.by.as_str(),
        reason = ending.reason,
        "the training is ended"
    );
    note(core, ending.clone());
    core.journal.event(
        "training.ending",
        json!({
            "session": TRAINING_SESSION,
            "started_us": ending.started_us,
            "by": ending.by.as_str(),
            "reason": ending.reason,
        }),
    );
}

/// Keeps an ending, for later daemons too.
fn note(core: &Core, ending: Ending) {
    let bytes = serde_json::to_vec(&ending).expect("words and numbers are always JSON");
    if let Err(err) = files::write_durably(&core.home.ending_file(), &bytes) {
        // It is ended all the same; only a daemon after this one would not know why.
        error!(error = %err, "the reason for the training's end cannot be kept");
    }
    core.set_ending(ending);
}

/// Carries out what is on record, whoever began it, until it is done: a daemon may be replaced on the way, and a process that
/// the kernel holds ends late.
pub async fn watch(core: Arc<Core>) {
    let work = async {
        loop {
            let pause = match unsaved(&core) {
                Some(ending) if carry_out(&core, &ending).await => LOOK,
                Some(_) => AGAIN,
                None => LOOK,
            };
            time::sleep(pause).await;
        }
    };
    tokio::select! {
        () = core.stop.cancelled() => {}
        () = work => unreachable!("it has no end"),
    }
}

/// The ending that is to be carried out: it is about the newest training, and its last words are not saved.
fn unsaved(core: &Core) -> Option<Ending> {
    let ending = of(core).filter(|ending| !ending.saved)?;
    is_about(core, &ending).then_some(ending)
}

fn is_about(core: &Core, ending: &Ending) -> bool {
    core.sessions
        .get(TRAINING_SESSION)
        .is_ok_and(|session| session.start.started_us == ending.started_us)
}

/// Returns whether there is nothing left to do.
async fn carry_out(core: &Arc<Core>, ending: &Ending) -> bool {
    let patience = patience(core, ending);
    let runs = core
        .sessions
        .get(TRAINING_SESSION)
        .is_ok_and(|session| session.state == SessionState::Running);
    if runs {
        save(core, FLUSH_LIMIT.min(patience), false).await;
    }
    // Another one may have been started while this one was saved.
    if !is_about(core, ending) {
        return true;
    }
    let grace = match ending.by {
        By::Budget => GRACE.min(patience),
        _ => GRACE,
    };
    if let Err(err) = core.sessions.end(TRAINING_SESSION, grace).await {
        error!(error = %chain(&err), "the training did not end, will retry");
        return false;
    }
    save(core, LAST_LIMIT.min(patience), true).await;
    if is_about(core, ending) {
        let saved = Ending {
            saved: true,
            ..ending.clone()
        };
        note(core, saved);
    }
    true
}

/// Longest wait for the bucket at any one step of an ending.
pub fn patience(core: &Core, ending: &Ending) -> Duration {
    let Some(run) = core.run() else {
        return Duration::MAX;
    };
    match (ending.by, run.backup) {
        (By::Backup, Some(plan)) => Duration::from_secs(plan.every_s.into()).min(BEHIND_LIMIT),
        (By::Budget, _) => {
            let share_s = run.budget_finish_s / BUDGET_SHARES;
            Duration::from_secs(share_s.max(BUDGET_LEAST_S).into())
        }
        _ => Duration::MAX,
    }
}

async fn save(core: &Core, limit: Duration, last: bool) {
    let Some(running) = core.backup() else { return };
    crate::aside(|| death::tell(core, &running));
    match running.backup.backup_now(limit, last).await {
        Ok(state) if state.pending > 0 => warn!(
            pending = state.pending,
            last, "checkpoints did not reach the bucket in time"
        ),
        Ok(_) => {}
        Err(err) => warn!(error = %chain(&err), last, "checkpoints were not saved"),
    }
}

/// The ending on record, whichever training it is about.
pub fn of(core: &Core) -> Option<Ending> {
    if let Some(ending) = core.ending() {
        return Some(ending);
    }
    let bytes = files::read_if_there(&core.home.ending_file()).ok()??;
    serde_json::from_slice(&bytes).ok()
}

/// The ending that the box may stop itself by now: carried out, and nobody is there.
pub fn is_over(core: &Core) -> Option<Ending> {
    let ending = of(core)?;
    let training = core.sessions.get(TRAINING_SESSION).ok()?;
    let alone_us = core.presence.alone_since_us()?;
    let since_us = match ending.by {
        // Whoever was away before it ended does not come for it, and there is no money to wait with.
        By::Budget => alone_us,
        _ => alone_us.max(training.ended_us),
    };
    let over = training.start.started_us == ending.started_us
        && training.state != SessionState::Running
        && ending.saved
        && !core.is_busy().unwrap_or(true)
        && now_us().saturating_sub(since_us) >= ALONE_US
        && !(ending.by.waits_for_logins() && presence::is_logged_in());
    over.then_some(ending)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_keeps_a_box_up_unless_its_money_is_over() {
        for (by, waits) in [
            (By::MaxRuntime, true),
            (By::NoProgress, true),
            (By::Contradiction, true),
            (By::Backup, true),
            (By::Budget, false),
        ] {
            assert_eq!(by.waits_for_logins(), waits, "{by:?}");
        }
    }
}
