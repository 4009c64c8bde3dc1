//! The limits on time, on standing still, on money and on a backup that is behind: what is reached, and in words.

use serde_json::{Value, json};
use tokio::time::{Duration, Instant};

use super::Watched;
use crate::{
    checkpoints::BackupState,
    daemon::{
        core::Core,
        ending::{By, Ending},
        run_file::RunFile,
        training::TRAINING_SESSION,
    },
    events::EventSink,
    now_us,
    windows::{
        Reading,
        triggers::{FETCHING_MB_PER_S, STILL_PERCENT},
    },
};

/// A training that computes on CPUs uses this much of one; one that waits, and the agent itself, use less. Cores.
const COMPUTING_CORES: f64 = 0.8;
/// What is read from disks so fast may be a data set, bytes per second.
const READING_BYTES_PER_S: f64 = 1e6;
/// Most of the time that a watcher has to end what the backup cannot keep up with, before the box does.
const WATCHERS_LEAD: Duration = Duration::from_secs(30);

/// Whether a limit is reached; notes steps and the backup's standing on the way.
pub(super) fn limits(
    core: &Core,
    run: &RunFile,
    watched: &mut Watched,
    reading: &Reading,
    backup: Option<&BackupState>,
) -> Option<Ending> {
    let step = reading.training.and_then(|training| training.step);
    let mark_us = reading.training.map(|training| training.printed.moved_us);
    if mark_us != watched.mark_us {
        watched.mark_us = mark_us;
        watched.moved = Instant::now();
    }
    let seen = Seen::of(reading);
    if watched.seen.is_none_or(|before| seen.does_more(before)) {
        watched.busy = Instant::now();
    }
    watched.seen = Some(seen);
    let alarm = backup.filter(|state| state.alarm);
    watched.behind = alarm.and(watched.behind.or_else(|| Some(Instant::now())));
    if watched.ending {
        return None;
    }
    let now_us = now_us();
    let trained_s = now_us.saturating_sub(watched.started_us) / 1_000_000;
    let still = watched.moved.elapsed();
    let stands = stands_still(run, still).then_some(mark_us);
    // A log in which nothing was read may be that of a healthy training: that is told, and ends only what does nothing else either.
    let dead = (stands == Some(None)).then(|| dead(run, watched.busy.elapsed()));
    if dead == Some(None) && !watched.told_unread {
        watched.told_unread = true;
        core.journal.event("training.unread", unread(run));
    }
    let late = || {
        let behind = watched.behind?.elapsed();
        too_long_behind(run, behind, &alarm?.problem)
    };
    let (by, reason) = reached(run, trained_s, stands.flatten().map(|_| step))
        .or_else(|| dead.flatten())
        .or_else(late)
        .or_else(|| broke(run, now_us))?;
    Some(Ending::new(by, reason, watched.started_us))
}

/// Whether the training may not go on without its backup, and why in words (pure).
///
/// Whoever watches ends it at once, and has one more interval for what waits; we come a little later.
pub(super) fn too_long_behind(
    run: &RunFile,
    behind: Duration,
    problem: &str,
) -> Option<(By, String)> {
    let plan = run.backup.as_ref().filter(|plan| plan.stop_when_behind)?;
    let every = Duration::from_secs(plan.every_s.into());
    if behind < every + every.min(WATCHERS_LEAD) {
        return None;
    }
    let why = match problem {
        "" => String::new(),
        why => format!(": {why}"),
    };
    let reason = format!(
        "its backup is behind, and `checkpoints.on_stale` is `stop`: for {} s more no checkpoint got to the bucket{why}",
        behind.as_secs()
    );
    Some((By::Backup, reason))
}

/// Whether the money for this box is over, and in words (pure).
pub(super) fn broke(run: &RunFile, now_us: u64) -> Option<(By, String)> {
    let over = run.budget_until_us > 0 && now_us >= run.budget_until_us;
    over.then(|| {
        let reason = "`limits.budget` is used up, but for what its disk costs while it is stopped";
        (By::Budget, reason.to_owned())
    })
}

/// Which limit is reached, and in words (pure). `stands`: it stands still for too long, at this step where its log counts them.
pub(super) fn reached(
    run: &RunFile,
    trained_s: u64,
    stands: Option<Option<u64>>,
) -> Option<(By, String)> {
    if run.max_runtime_s > 0 && trained_s >= u64::from(run.max_runtime_s) {
        let reason = format!("`limits.max_runtime` is over: this training ran for {trained_s} s");
        return Some((By::MaxRuntime, reason));
    }
    if let Some(step) = stands {
        let at = step.map_or_else(String::new, |step| format!(": it stands at step {step}"));
        let reason = format!(
            "nothing new in its log in {} s of `limits.no_progress`{at}",
            run.no_progress_s
        );
        return Some((By::NoProgress, reason));
    }
    None
}

/// Whether a training that never came so far as to be read does nothing at all, for as long as it may stand still (pure).
pub(super) fn dead(run: &RunFile, idle: Duration) -> Option<(By, String)> {
    stands_still(run, idle).then(|| {
        let reason = format!(
            "it hangs before its first step: in {} s of `limits.no_progress` it printed nothing, its GPUs and CPUs did nothing and nothing was fetched or read",
            run.no_progress_s
        );
        (By::NoProgress, reason)
    })
}

/// What a training that prints nothing that is read shows of itself, second by second.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    time_us: u64,
    log_bytes: u64,
    received_bytes: Option<u64>,
    /// A GPU does something, or may: not all of them could be read.
    gpus_busy: bool,
    /// Something computes on CPUs or reads from disks: data is prepared before the first step, however long and without a word.
    host_busy: bool,
}

impl Seen {
    pub(super) fn of(reading: &Reading) -> Seen {
        let busy = |used: Option<f64>| used.is_none_or(|used| used >= STILL_PERCENT);
        Seen {
            time_us: reading.time_us,
            log_bytes: reading.log_bytes,
            received_bytes: reading.network_rx_bytes,
            gpus_busy: reading.gpus.is_empty()
                || reading.gpus.iter().any(|gpu| busy(gpu.utilisation_percent)),
            host_busy: reading
                .cpu_cores
                .is_some_and(|cores| cores >= COMPUTING_CORES)
                || reading
                    .disk_read_bytes_per_s
                    .is_some_and(|rate| rate >= READING_BYTES_PER_S),
        }
    }

    /// Whether anything went on since the look before (pure).
    pub(super) fn does_more(self, before: Seen) -> bool {
        let received = self.received_bytes.zip(before.received_bytes);
        let bytes = received.map_or(0, |(now, then)| now.saturating_sub(then));
        let us = self.time_us.saturating_sub(before.time_us).max(1);
        self.gpus_busy
            || self.host_busy
            || self.log_bytes != before.log_bytes
            || bytes as f64 / us as f64 >= FETCHING_MB_PER_S
    }
}

/// Whether it has not moved on for as long as it may (pure).
pub(super) fn stands_still(run: &RunFile, still: Duration) -> bool {
    run.no_progress_s > 0 && still.as_secs() >= u64::from(run.no_progress_s)
}

/// That `limits.no_progress` can hold nothing against a log in which no progress is read (pure).
pub(super) fn unread(run: &RunFile) -> Value {
    let reason = format!(
        "no step, loss or bar was read in its log in {} s of `limits.no_progress`; if it prints some, say how with `progress`",
        run.no_progress_s
    );
    json!({"session": TRAINING_SESSION, "reason": reason})
}
