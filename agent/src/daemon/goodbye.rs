//! The last words of a box: when its container is ended, the last checkpoint, what happened and the last lines of the log go to the
//! bucket, as far as the grace allows; when it stops itself, how its training ended and what happened.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use spotter_bucket::{Bucket, Cause, EndedBy, Ending, Layout};
use tokio::time::{self, Instant};
use tracing::{info, warn};

use super::{backup::RunningBackup, core::Core, training::TRAINING_SESSION};
use crate::{
    chain, convert,
    logs::Position,
    now_us,
    sessions::{SessionState, record::Session},
};
use spotter_bucket::sorted::sort_by;

/// A container's end leaves 10 s between SIGTERM and SIGKILL; the rest is for the goodbye.
const LIMIT: Duration = Duration::from_secs(8);
/// The training was told at the same moment, and often writes a checkpoint then: it is waited for this long.
const TRAINING_ENDS: Duration = Duration::from_secs(4);
/// Most of a log that is left behind: what a watcher read before need not go again, and a slow uplink has seconds.
const LOG_BYTES: u64 = 1 << 20;
/// Most events that are left behind, the newest: four weeks of windows.
const EVENTS: u64 = 4096;
/// The end of the log comes after the checkpoint, and may not cost it anything.
const LOGS_LIMIT: Duration = Duration::from_millis(1500);
/// A box that stops itself is in no hurry, but it is paid for: as long as a bucket may be away for a moment.
const ENDING_LIMIT: Duration = Duration::from_secs(60);
const ENDING_PAUSE: Duration = Duration::from_secs(5);
/// Of a log that goes with its disk everything is left, in pieces of so much.
const PIECE_BYTES: usize = 4 << 20;
/// Most of all logs of a box that goes with its disk: of one that printed more, the disk stays.
const WHOLE_BYTES: usize = 128 << 20;

/// Most of what was measured that is left, encoded: a week of minutes of two GPUs, half a week of eight.
const SAMPLES_BYTES: usize = 8 << 20;
/// Longest time for it: the box is paid for meanwhile, and a curve is worth little.
const SAMPLES_LIMIT: Duration = Duration::from_secs(20);
/// What was measured so long before the training began is not the run's: setting up is.
const BEFORE_US: u64 = 3600 * 1_000_000;

/// Saves what fits; the rest is noted in the backup's journal.
pub async fn say(core: &Arc<Core>) {
    let Some(running) = core.backup() else { return };
    info!("SIGTERM: saving what fits into {} s", LIMIT.as_secs());
    let until = Instant::now() + LIMIT;
    // What is whole already does not wait for what is still being written.
    let first = running.backup.round();
    let training = async {
        let patience = Instant::now() + TRAINING_ENDS;
        while Instant::now() < patience && core.is_busy().unwrap_or(false) {
            time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        // Both: the training's end is what the second look waits for.
        _ = async { tokio::join!(first, training) } => {}
        () = time::sleep(TRAINING_ENDS) => {}
    }
    let left = until
        .saturating_duration_since(Instant::now())
        .saturating_sub(LOGS_LIMIT);
    // The bound holds even where the backup itself should hang.
    match time::timeout(left + Duration::from_secs(1), running.backup.flush(left)).await {
        Ok(flushed) => {
            info!(
                committed = flushed.committed.len(),
                unsaved = flushed.unsaved,
                "the last backup is done"
            );
        }
        Err(_) => warn!("the last backup did not end in time"),
    }
    if time::timeout(LOGS_LIMIT, leave_logs(core, &running))
        .await
        .is_err()
    {
        warn!("not every log was left in the bucket in time");
    }
}

/// What a box says of itself before it ends.
#[derive(Debug, Clone, Default)]
pub struct Word {
    /// Bytes of checkpoints that are on its disk alone.
    pub unsaved_bytes: u64,
    /// Key of the manifest of its results, where all of them are in the bucket.
    pub results: Option<String>,
    /// It destroys itself.
    pub destroys: bool,
    /// Why it only stops, though it was to be destroyed.
    pub kept_because: Option<String>,
}

/// Leaves word of how the training ended: from outside, a box that stopped itself looks like one that was taken back. Answers whether it
/// is there.
pub async fn leave_ending(
    core: &Arc<Core>,
    running: &RunningBackup,
    word: &Word,
    patience: Duration,
) -> bool {
    let left = time::timeout(ENDING_LIMIT.min(patience), async {
        while let Err(why) = try_leave_ending(core, running, word).await {
            warn!(why, "the training's end is not in the bucket, will retry");
            time::sleep(ENDING_PAUSE).await;
        }
    });
    let there = left.await.is_ok();
    if !there {
        warn!(
            "the training's end is not in the bucket: who looks from outside may take this box for one that was taken back"
        );
    }
    there
}

/// Leaves all that its sessions printed, for a box that goes with its disk.
///
/// # Errors
/// Why not all of it is there, for people.
pub async fn leave_whole_logs(
    core: &Arc<Core>,
    running: &RunningBackup,
    patience: Duration,
) -> Result<(), String> {
    let run = core.run().ok_or("no run is configured")?;
    let layout = Layout::new(&running.plan.target.prefix, &run.run).map_err(|err| chain(&err))?;
    let sessions = core.sessions.list().map_err(|err| chain(&err))?;
    let all = async {
        let mut room = WHOLE_BYTES;
        for session in sessions {
            let name = &session.name;
            leave_whole_log(core, running, &layout, run.attempt, name, &mut room)
                .await
                .map_err(|why| format!("the log of its session `{name}`: {why}"))?;
        }
        Ok(())
    };
    match time::timeout(ENDING_LIMIT.min(patience), all).await {
        Ok(left) => left,
        Err(_) => Err("its logs did not get to the bucket in time".to_owned()),
    }
}

async fn leave_whole_log(
    core: &Arc<Core>,
    running: &RunningBackup,
    layout: &Layout,
    attempt: u32,
    session: &str,
    room: &mut usize,
) -> Result<(), String> {
    let dir = core.sessions.dir(session).map_err(|err| chain(&err))?;
    let mut at = core
        .logs
        .of_session(&dir)
        .map_err(|err| err.to_string())?
        .beginning();
    loop {
        let dir = dir.clone();
        let read = core.blocking(move |core| -> Result<(Position, Vec<u8>), String> {
            let log = core.logs.of_session(&dir).map_err(|err| err.to_string())?;
            let (mut start, mut data) = (at, Vec::new());
            while data.len() < PIECE_BYTES {
                let chunk = log.read(at).map_err(|err| chain(&err))?;
                if data.is_empty() {
                    start = chunk.position;
                }
                // A piece is of one generation.
                if chunk.data.is_empty() || (!data.is_empty() && chunk.position != at) {
                    break;
                }
                at = chunk.next();
                data.extend_from_slice(&chunk.data);
            }
            Ok((start, data))
        });
        let (start, data) = read.await.map_err(|err| err.to_string())??;
        if data.is_empty() {
            return Ok(());
        }
        let size = data.len();
        at = Position {
            offset: start.offset + size as u64,
            ..start
        };
        *room = room
            .checked_sub(size)
            .ok_or_else(|| format!("all of them are more than {} MiB", WHOLE_BYTES >> 20))?;
        let key = layout
            .log_key(attempt, session, start.generation, start.offset)
            .map_err(|err| chain(&err))?;
        put(running, key.clone(), data).await?;
        let there = running.bucket.head(&key).await.map_err(|err| chain(&err))?;
        if there.is_none_or(|there| there.size_bytes != size as u64) {
            return Err("the bucket does not have it as it was sent".to_owned());
        }
    }
}

async fn try_leave_ending(
    core: &Arc<Core>,
    running: &RunningBackup,
    word: &Word,
) -> Result<(), String> {
    let Some(run) = core.run() else { return Ok(()) };
    let training = core
        .sessions
        .get(TRAINING_SESSION)
        .map_err(|err| chain(&err))?;
    let by = match training.state {
        // One that went with a restart of its box did not end: it is to be carried on.
        SessionState::Running | SessionState::Lost => return Ok(()),
        SessionState::Exited => EndedBy::Exit,
        SessionState::Signalled => EndedBy::Signal,
        SessionState::Oom => EndedBy::Oom,
        SessionState::Stopped => EndedBy::Request,
    };
    let mut ending = Ending::new(training.start.started_us, training.ended_us, by);
    ending.exit_code = training.end.as_ref().and_then(|end| end.exit_code);
    ending.signal = training.end.as_ref().and_then(|end| end.signal);
    ending.unsaved_bytes = word.unsaved_bytes;
    ending.results.clone_from(&word.results);
    ending.left_us = now_us();
    ending.destroys = word.destroys;
    ending.kept_because.clone_from(&word.kept_because);
    ending.cause = super::ending::of(core)
        .filter(|cause| cause.started_us == training.start.started_us)
        .map(|cause| Cause {
            by: cause.by.as_str().to_owned(),
            reason: cause.reason,
        });
    let layout = Layout::new(&running.plan.target.prefix, &run.run).map_err(|err| chain(&err))?;
    // First, so that whoever believes the ending finds them; it must not wait for them, which may be more than this box may leave.
    match leave_events(core, running, &layout, run.attempt).await {
        // On a disk that stays they can still be read.
        Err(why) if word.destroys => return Err(why),
        Err(why) => warn!(why, "what happened was not left in the bucket"),
        Ok(()) => {}
    }
    let (key, bytes) = (layout.ending_key(run.attempt), ending.to_bytes());
    put(running, key.clone(), bytes.clone()).await?;
    if !word.destroys {
        return Ok(());
    }
    let back = running.bucket.get(&key, None).await;
    match back.map_err(|err| chain(&err))? == bytes {
        true => Ok(()),
        false => Err("the bucket does not have it as it was sent".to_owned()),
    }
}

/// The newest of what nobody has read, a line of JSON each.
async fn leave_events(
    core: &Arc<Core>,
    running: &RunningBackup,
    layout: &Layout,
    attempt: u32,
) -> Result<(), String> {
    let read = core.blocking(|core| match core.journal.oldest_unacknowledged() {
        0 => Ok(Vec::new()),
        oldest => {
            let newest = core.journal.last();
            let from = oldest.max(newest.saturating_sub(EVENTS - 1));
            core.journal.read(from, EVENTS as usize)
        }
    });
    let events = read
        .await
        .map_err(|err| err.to_string())?
        .map_err(|err| chain(&err))?;
    let mut lines = Vec::new();
    for event in &events {
        lines.extend(serde_json::to_vec(event).map_err(|err| err.to_string())?);
        lines.push(b'\n');
    }
    if lines.len() as u64 > LOG_BYTES {
        let from = lines.len() - LOG_BYTES as usize;
        // Half a line is none.
        let whole = lines[from..].iter().position(|byte| *byte == b'\n');
        lines.drain(..whole.map_or(lines.len(), |at| from + at + 1));
    }
    match lines.is_empty() {
        true => Ok(()),
        false => put(running, layout.events_key(attempt), lines).await,
    }
}

/// Leaves what was measured since the training began, and a while before: with the box goes what nobody copied. Best effort.
pub async fn leave_samples(core: &Arc<Core>, running: &RunningBackup, patience: Duration) {
    let left = time::timeout(
        SAMPLES_LIMIT.min(patience),
        try_leave_samples(core, running),
    );
    match left.await {
        Ok(Ok(())) => {}
        Ok(Err(why)) => warn!(why, "what was measured was not left in the bucket"),
        Err(_) => warn!("what was measured was not left in the bucket in time"),
    }
}

async fn try_leave_samples(core: &Arc<Core>, running: &RunningBackup) -> Result<(), String> {
    let Some(run) = core.run() else { return Ok(()) };
    let training = core.sessions.get(TRAINING_SESSION);
    let began_us = training.map_or(0, |training| training.start.started_us);
    let layout = Layout::new(&running.plan.target.prefix, &run.run).map_err(|err| chain(&err))?;
    let encoded = core.blocking(move |core| {
        let minutes = core.telemetry.minutes(began_us.saturating_sub(BEFORE_US));
        convert::left_samples(minutes, SAMPLES_BYTES)
    });
    let encoded = encoded.await.map_err(|err| err.to_string())?;
    put(running, layout.samples_key(run.attempt), encoded).await
}

async fn put(running: &RunningBackup, key: String, data: Vec<u8>) -> Result<(), String> {
    let put = running.bucket.put(&key, Bytes::from(data)).await;
    put.map(drop).map_err(|err| chain(&err))
}

/// The box may never be asked again: what happened and the ends of its logs go where the controller finds them.
async fn leave_logs(core: &Arc<Core>, running: &RunningBackup) {
    let Some(run) = core.run() else { return };
    let layout = match Layout::new(&running.plan.target.prefix, &run.run) {
        Ok(layout) => layout,
        Err(err) => {
            warn!(error = %chain(&err), "the logs were not left in the bucket");
            return;
        }
    };
    let mut sessions = core.sessions.list().unwrap_or_default();
    let is_other = |session: &Session| session.name != TRAINING_SESSION;
    sort_by(&mut sessions, |a, b| is_other(a).cmp(&is_other(b)));
    for session in sessions {
        if let Err(why) = leave_log(core, running, &layout, run.attempt, &session).await {
            warn!(
                session = session.name,
                why, "its log was not left in the bucket"
            );
        }
    }
    // After the lines that nobody has seen: a slow uplink has time for one of them.
    if let Err(why) = leave_events(core, running, &layout, run.attempt).await {
        warn!(why, "what happened was not left in the bucket");
    }
}

async fn leave_log(
    core: &Arc<Core>,
    running: &RunningBackup,
    layout: &Layout,
    attempt: u32,
    session: &Session,
) -> Result<(), String> {
    let dir = core
        .sessions
        .dir(&session.name)
        .map_err(|err| chain(&err))?;
    let read = core.blocking(move |core| -> Result<(Position, Vec<u8>), String> {
        let log = core.logs.of_session(&dir).map_err(|err| err.to_string())?;
        let start = log.tail(LOG_BYTES).map_err(|err| chain(&err))?;
        let (mut at, mut data) = (start, Vec::new());
        loop {
            let chunk = log.read(at).map_err(|err| chain(&err))?;
            // A piece is of one generation; what follows a truncation in this very moment is not there yet.
            if chunk.data.is_empty() || chunk.position != at {
                return Ok((start, data));
            }
            at = chunk.next();
            data.extend_from_slice(&chunk.data);
        }
    });
    let (start, data) = read.await.map_err(|err| err.to_string())??;
    if data.is_empty() {
        return Ok(());
    }
    let key = layout
        .log_key(attempt, &session.name, start.generation, start.offset)
        .map_err(|err| chain(&err))?;
    put(running, key, data).await
}
