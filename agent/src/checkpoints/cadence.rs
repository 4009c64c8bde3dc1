//! When the trainer saved, kept on the disk: whether too much work is at risk is told with nobody watching, and by an agent that is new here.
//!
//! [`spotter_bucket::cadence`] judges (pure).

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use spotter_bucket::cadence::{ENDED, EVENT, Habit, REMEMBERED, at_risk};
use spotter_bucket::sorted::sort_by;

use super::watch::SAME_SAVE;
use crate::files;

/// Between two judgements, microseconds.
const LOOK_US: u64 = 60_000_000;
/// A log that speaks of a higher step speaks of something else.
const MAX_STEP: u64 = 999_999_999_999;

/// What is remembered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    /// Format version.
    v: u32,
    attempt: u32,
    /// When the session began, microseconds since the epoch; so are all times here.
    began_us: u64,
    /// When its first step was seen, and which.
    first: Option<(u64, u64)>,
    /// When the newest checkpoints were written, oldest first.
    saves_us: Vec<u64>,
    /// What the newest of them is called.
    path: String,
    /// It is told, and not over.
    told: bool,
}

/// What was seen of a training, and its file.
#[derive(Debug)]
pub struct Cadence {
    file: PathBuf,
    seen: Seen,
    looked_us: u64,
}

impl Cadence {
    /// Takes up what an earlier agent noted for this attempt; what cannot be read is forgotten.
    pub fn open(dir: &Path, attempt: u32) -> Cadence {
        let file = dir.join("cadence.json");
        let read = files::read_if_there(&file).ok().flatten();
        let seen = read.and_then(|bytes| serde_json::from_slice::<Seen>(&bytes).ok());
        let fresh = Seen {
            v: 1,
            attempt,
            ..Seen::default()
        };
        Cadence {
            file,
            seen: (seen.filter(|seen| seen.v == 1 && seen.attempt == attempt)).unwrap_or(fresh),
            looked_us: 0,
        }
    }

    /// A checkpoint was found finished that was written then, in a session that began then.
    pub fn found(&mut self, began_us: u64, written_us: u64, path: &str) {
        self.turn_to(began_us);
        let same_us = u64::try_from(SAME_SAVE.as_micros()).unwrap_or(u64::MAX);
        let saves = &mut self.seen.saves_us;
        // What was written before is another session's, and a directory of each rank is one save.
        if written_us < began_us || saves.iter().any(|at| at.abs_diff(written_us) < same_us) {
            return;
        }
        if saves.last().is_none_or(|last| *last < written_us) {
            path.clone_into(&mut self.seen.path);
        }
        saves.push(written_us);
        sort_by(saves, |one, other| one.cmp(other));
        let old = saves.len().saturating_sub(REMEMBERED);
        saves.drain(..old);
        self.keep();
    }

    /// Judges the session, once a minute at most: the kind of an event and its detail, once until it is over.
    pub fn look(
        &mut self,
        began_us: u64,
        step: Option<u64>,
        now_us: u64,
    ) -> Option<(&'static str, Value)> {
        if now_us.abs_diff(self.looked_us) < LOOK_US {
            return None;
        }
        self.looked_us = now_us;
        self.turn_to(began_us);
        let before = self.seen.clone();
        let step = step.filter(|step| *step <= MAX_STEP);
        let first = self.seen.first.or(step.map(|step| (now_us, step)));
        self.seen.first = first;
        let since = Duration::from_micros;
        let risk = at_risk(&Habit {
            began: since(began_us),
            first: first.map(|(at, step)| (since(at), step)),
            saves: self.seen.saves_us.iter().copied().map(since).collect(),
            now: (since(now_us), step),
            path: self.seen.path.clone(),
        });
        let was = std::mem::replace(&mut self.seen.told, risk.is_some());
        if self.seen != before {
            self.keep();
        }
        match risk {
            Some(risk) if !was => {
                let detail = json!({
                    "at_risk_s": risk.work.as_secs(), "every_steps": risk.steps, "setting": risk.setting, "text": risk.text(),
                });
                Some((EVENT, detail))
            }
            None if was => Some((ENDED, json!({}))),
            _ => None,
        }
    }

    /// Another session may have another habit; what was told of the one before is not over for that.
    fn turn_to(&mut self, began_us: u64) {
        if self.seen.began_us != began_us {
            self.seen = Seen {
                v: 1,
                attempt: self.seen.attempt,
                began_us,
                told: self.seen.told,
                ..Seen::default()
            };
        }
    }

    fn keep(&self) {
        let bytes = serde_json::to_vec(&self.seen).expect("words and numbers are always JSON");
        let written: io::Result<()> = files::write_durably(&self.file, &bytes);
        if let Err(err) = written {
            // This agent goes by its memory; only one after it would begin anew.
            tracing::warn!(error = %err, "when the trainer saved cannot be noted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_US: u64 = 60_000_000;

    #[test]
    fn a_habit_is_told_once_whatever_becomes_of_agents_and_until_it_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Cadence::open(dir.path(), 1);
        let began_us = 1_000 * MINUTE_US;
        let at = |minute: u64| began_us + minute * MINUTE_US;
        let look = |cadence: &mut Cadence, minute: u64| {
            cadence.look(began_us, Some(100 + minute * 20), at(minute))
        };
        // An agent a look: each goes on by what the one before it noted.
        for minute in [0, 29, 30] {
            assert_eq!(look(&mut open(), minute), None, "minute {minute}");
        }
        open().found(began_us, at(40), "checkpoint-900");
        let (kind, detail) = look(&mut open(), 41).unwrap();
        assert_eq!((kind, &detail["at_risk_s"]), (EVENT, &2400.into()));
        assert_eq!(detail["setting"], "`--save_steps 500`");
        assert_eq!(look(&mut open(), 43), None, "it is told");
        assert_eq!(look(&mut open(), 90), None);
        // It saves every five minutes now; several ranks' files of one save are one.
        for minute in (95..=125).step_by(5) {
            open().found(began_us, at(minute), "checkpoint-1");
            open().found(began_us, at(minute) + 9_000_000, "checkpoint-1-rank1");
            assert!(open().seen.saves_us.len() <= REMEMBERED);
        }
        assert_eq!(look(&mut open(), 126).unwrap().0, ENDED);
        assert_eq!(look(&mut open(), 128), None);
        assert_eq!(look(&mut open(), 160).unwrap().0, EVENT, "and stops saving");
        // A new session begins anew, and so does another attempt.
        let later_us = at(170);
        assert_eq!(
            open().look(later_us, None, later_us + MINUTE_US).unwrap().0,
            ENDED
        );
        let mut other = Cadence::open(dir.path(), 2);
        assert_eq!(other.look(began_us, None, at(31)).unwrap().0, EVENT);
    }

    #[test]
    fn one_look_a_minute_is_enough() {
        let dir = tempfile::tempdir().unwrap();
        let mut cadence = Cadence::open(dir.path(), 1);
        let began_us = 1_000 * MINUTE_US;
        assert_eq!(
            cadence.look(began_us, None, began_us + 30 * MINUTE_US),
            None
        );
        let soon = began_us + 30 * MINUTE_US + 59_000_000;
        assert_eq!(cadence.look(began_us, None, soon), None);
        let told = cadence.look(began_us, None, soon + 1_000_000);
        assert_eq!(told.unwrap().1["every_steps"], Value::Null);
    }
}
