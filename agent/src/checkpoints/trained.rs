//! What the backup is told of the training: when it began, how far it is, what its log measured, how it died.
//!
//! Two things are kept on the disk. When the first training began: what is older was put there by somebody, and is never deleted. And when
//! one died: of what it was writing just then, silence says nothing.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::pace::{INTERVALS, Pace};
use super::{Backup, scan};
use crate::{files, now_us};

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

/// When a checkpoint in the directory was last written, microseconds since the epoch: until then whoever wrote it lived. What bears a later
/// time than this one bears a wrong one, and what a link leads to may be anybody's.
fn last_written_us(dir: &Path, until_us: u64) -> Option<u64> {
    let candidates = scan::scan(dir).unwrap_or_default();
    candidates
        .iter()
        .filter(|one| !one.key.starts_with("link:"))
        .flat_map(|one| &one.files)
        .filter_map(|file| u64::try_from(file.mtime_ns / 1_000).ok())
        .filter(|written_us| *written_us <= until_us)
        .max()
}

/// The next training began: what is written from then on is its own, and no dead one's. Whether that is news.
fn cut_short(deaths: &mut [Death], since_us: u64) -> bool {
    let mut is_news = false;
    for death in deaths {
        if death.ended_us < since_us && since_us < death.until_us {
            death.until_us = since_us;
            is_news = true;
        }
    }
    is_news
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

    /// How many ranks the training has, by what it was told as it started; `None`: nothing said it.
    pub fn ranks(&self, ranks: Option<u32>) {
        self.pace().ranks = ranks;
    }

    /// When the training session began, microseconds since the epoch; `None` when none runs. The alarm counts from there. Blocks on the
    /// disk when it is the first.
    pub fn training(&self, since_us: Option<u64>) {
        let now = self.now();
        let since = since_us
            .map(|us| now.saturating_sub(Duration::from_micros(now_us().saturating_sub(us))));
        let is_new = {
            let mut pace = self.pace();
            let mut is_cut = false;
            if pace.training_since_us != since_us {
                // Another session may have another habit.
                (pace.last_found, pace.intervals) = (None, [Duration::ZERO; INTERVALS]);
                is_cut = since_us.is_some_and(|us| cut_short(&mut pace.deaths, us));
            }
            pace.training_since = since;
            pace.training_since_us = since_us;
            let before = pace.first_training_us;
            pace.first_training_us = match (before, since_us) {
                (Some(first), Some(us)) => Some(first.min(us)),
                (first, us) => first.or(us),
            };
            is_cut || pace.first_training_us != before
        };
        if is_new {
            self.keep_trained();
        }
    }

    /// Whether it was told that the training died that began then.
    pub fn knows_death_of(&self, began_us: u64) -> bool {
        let pace = self.pace();
        pace.deaths.iter().any(|known| known.began_us == began_us)
    }

    /// When a checkpoint was last written, as far as that is no later than now. Blocks on the disk.
    pub fn last_written_us(&self, now_us: u64) -> Option<u64> {
        last_written_us(&self.options.dir, now_us)
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
        if let Some((kind, detail)) = self.cadence().look(began_us, step, now_us()) {
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

    #[test]
    fn what_is_written_once_the_next_training_has_begun_is_no_dead_ones() {
        for (since_us, expected) in [
            // The one that died, told again by a restarted daemon, and one that began with its end.
            (100, (1_010, false)),
            (1_000, (1_010, false)),
            (1_001, (1_001, true)),
            (1_009, (1_009, true)),
            (1_010, (1_010, false)),
            (2_000, (1_010, false)),
        ] {
            let mut deaths = [Death {
                began_us: 100,
                ended_us: 1_000,
                until_us: 1_010,
                how: String::new(),
            }];
            let is_news = cut_short(&mut deaths, since_us);
            assert_eq!((deaths[0].until_us, is_news), expected, "{since_us}");
        }
    }

    #[test]
    fn a_training_that_nobody_saw_end_lived_until_it_last_wrote_a_checkpoint() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("checkpoints");
        assert_eq!(last_written_us(&dir, u64::MAX), None, "nothing is there");
        std::fs::create_dir(&dir).unwrap();
        let write = |path: &Path, written_s| {
            let file = std::fs::File::create(path).unwrap();
            file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(written_s))
                .unwrap();
        };
        write(&dir.join("step_1.msgpack"), 1_000);
        write(&dir.join("step_2.msgpack"), 2_000);
        // Of a wrong clock.
        write(&dir.join("step_9.msgpack"), 9_000);
        let elsewhere = root.path().join("elsewhere.msgpack");
        write(&elsewhere, 2_500);
        std::os::unix::fs::symlink(&elsewhere, dir.join("step_3.msgpack")).unwrap();
        assert_eq!(last_written_us(&dir, 3_000_000_000), Some(2_000_000_000));
    }
}
