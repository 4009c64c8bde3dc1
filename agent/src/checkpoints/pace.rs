//! How much of a hurry the backup is in, and what it saw of the training's own pace.

use std::time::Duration;

use tokio::time::Instant;

use super::trained::Death;

/// Times between checkpoints that are remembered: the longest of them is what a trainer usually takes, since some save in turns.
pub(super) const INTERVALS: usize = 4;

/// How much of a hurry we are in. Times are since the backup was made.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// How many callers say that the session has ended.
    pub(super) finals: u32,
    /// When the box goes away.
    pub(super) flush_by: Option<Instant>,
    /// Bytes per second of the last upload that took long enough to tell.
    pub(super) bytes_per_s: Option<f64>,
    pub(super) training_since: Option<Duration>,
    /// The same by the wall clock, microseconds since the epoch.
    pub(super) training_since_us: Option<u64>,
    /// When the first session began that this backup saw.
    pub(super) first_training_us: Option<u64>,
    /// How many ranks the newest training was told to have.
    pub(super) ranks: Option<u32>,
    /// Trainings that ended in any way but well, oldest first.
    pub(super) deaths: Vec<Death>,
    pub(super) last_commit: Option<Duration>,
    /// When the newest checkpoint was found finished.
    pub(super) last_found: Option<Duration>,
    /// What lay between the last of this session, newest first; zero: there were not so many.
    pub(super) intervals: [Duration; INTERVALS],
}

impl Pace {
    /// What usually lies between two checkpoints; `None`: there were no two.
    pub(super) fn interval(&self) -> Option<Duration> {
        let longest = self.intervals.into_iter().max();
        longest.filter(|one| !one.is_zero())
    }
}
