//! What the backup is told of the training: when it began, how far it is, what its log measured, how it died.
//!
//! Two things are kept on the disk. When the first training began: what is older was put there by somebody, and is never deleted. And when
//! one died: of what it was writing just then, silence says nothing.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::pace::{INTERVALS, Pace};
use super::{Backup, commit};
use crate::files;

/// Holds what is kept.
const FILE: &str = "training.json";
/// Format version.
const FORMAT: u32 = 1;
/// Deaths that are remembered.
const REMEMBERED: usize = 16;

/// A training that ended in any way but well: it may have been in the middle of a file. Times are microseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Death {
    /// When that training began.
    pub began_us: u64,
    /// When it ended, or was last seen alive.
    pub ended_us: u64,
    /// What was written until then may be its.
    pub until_us: u64,
    /// How, for people: `exit code 1`.
    pub how: String,
}

impl Death {
    /// Whether it may have been in the middle of what was written last at this time, where `silence` would have been needed to say that it
    /// was not.
    pub fn concerns(&self, written_us: u64, silence: Duration) -> bool {
        let silence_us = u64::try_from(silence.as_micros()).unwrap_or(u64::MAX);
        written_us <= self.until_us && written_us.saturating_add(silence_us) > self.ended_us
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    v: u32,
    began_us: Option<u64>,
    deaths: Vec<Death>,
}

/// What an earlier agent noted of the trainings of this run and directory.
pub(super) fn recall(state_dir: &Path) -> Pace {
    let read = files::read_if_there(&state_dir.join(FILE)).ok().flatten();
    let kept = read.and_then(|bytes| serde_json::from_slice::<Kept>(&bytes).ok());
    let kept = kept.filter(|kept| kept.v == FORMAT).unwrap_or_default();
    Pace {
        first_training_us: kept.began_us,
        deaths: kept.deaths,
        ..Pace::default()
    }
}

impl Backup {
    /// The log printed the value that decides which checkpoints are the best, after it had named this step.
    pub fn measured(&self, step: Option<u64>, time_us: u64, value: f64) {
        self.measurements().note(step, time_us, value);
    }

    /// When the training session began, microseconds since the epoch; `None` when none runs. The alarm counts from there. Blocks on the
    /// disk when it is the first.
    pub fn training(&self, since_us: Option<u64>) {
        let now = self.now();
        let since = since_us.map(|us| {
            now.saturating_sub(Duration::from_micros(commit::now_us().saturating_sub(us)))
        });
        let is_new = {
            let mut pace = self.pace();
            if pace.training_since_us != since_us {
                // Another session may have another habit.
                (pace.last_found, pace.intervals) = (None, [Duration::ZERO; INTERVALS]);
            }
            pace.training_since = since;
            pace.training_since_us = since_us;
            let before = pace.first_training_us;
            pace.first_training_us = match (before, since_us) {
                (Some(first), Some(us)) => Some(first.min(us)),
                (first, us) => first.or(us),
            };
            pace.first_training_us != before
        };
        if is_new {
            self.keep_trained();
        }
    }

    /// A training died. Told again it says nothing new. Blocks on the disk when it does.
    pub fn died(&self, death: &Death) {
        {
            let mut pace = self.pace();
            let deaths = &mut pace.deaths;
            if deaths.iter().any(|known| known.began_us == death.began_us) {
                return;
            }
            deaths.push(death.clone());
            let old = deaths.len().saturating_sub(REMEMBERED);
            deaths.drain(..old);
        }
        self.keep_trained();
    }

    fn keep_trained(&self) {
        let kept = {
            let pace = self.pace();
            Kept {
                v: FORMAT,
                began_us: pace.first_training_us,
                deaths: pace.deaths.clone(),
            }
        };
        let bytes = serde_json::to_vec(&kept).expect("numbers and strings are JSON");
        let path = self.state_dir.join(FILE);
        if let Err(err) = crate::aside(|| files::write_durably(&path, &bytes)) {
            warn!(error = %err, "when the training began cannot be noted; a restart takes what lies there for somebody's own");
        }
    }

    /// The training that runs is at this step, if its log says so: tells when more work than may be lost lies between two checkpoints. Blocks
    /// on the disk.
    pub fn progressed(&self, step: Option<u64>) {
        let Some(began_us) = self.pace().training_since_us else {
            return;
        };
        if let Some((kind, detail)) = self.cadence().look(began_us, step, commit::now_us()) {
            self.standing.event(kind, detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_death_concerns_what_had_not_been_quiet_for_long_enough() {
        let second = 1_000_000;
        let death = Death {
            began_us: 0,
            ended_us: 1_000 * second,
            until_us: 1_010 * second,
            how: String::new(),
        };
        for (written_s, expected) in [
            (970, false),
            (971, true),
            (1_000, true),
            (1_010, true),
            (1_011, false),
        ] {
            let found = death.concerns(written_s * second, Duration::from_secs(30));
            assert_eq!(found, expected, "{written_s}");
        }
    }
}
