//! Which checkpoints are finished: the states that a candidate passes through on its way to the bucket (pure).
//!
//! NEW, GROWING, QUIET, NO WRITER, STRUCTURE, READY. Listings and times come in as arguments, findings about rules, writers and
//! structure too; getting those from the disk is left to `scan.rs` and `look.rs`. Start at [`Tracker::observe`].

use std::collections::BTreeMap;
use std::time::Duration;

use super::candidate::Candidate;
use super::rules::Silence;
use super::rules::shape::{Doubt, Shape};
use super::trained::Death;
use spotter_bucket::sorted::sort_by;

mod found;

pub use found::{Ready, Refused};

/// How long a file that looked broken is left alone before it is looked at again without having changed.
const SECOND_LOOK: Duration = Duration::from_secs(60);
/// How long an incomplete one is left alone: what it lacks may lie beside it, where it changes nothing here.
const MARKER_LOOK: Duration = Duration::from_secs(1);
/// The same for one that has been incomplete for [`MARKER_PATIENCE`].
const LATE_MARKER_LOOK: Duration = Duration::from_secs(10);
/// How long a marker is looked for eagerly: ranks of a large model differ by minutes.
const MARKER_PATIENCE: Duration = Duration::from_secs(600);
/// How long one that is incomplete counts as being written.
const BEING_WRITTEN: Duration = Duration::from_secs(60);
/// How long a file that somebody holds open for writing is left alone, at least.
const WRITER_LOOK: Duration = Duration::from_millis(200);

/// How long nothing must change before a candidate counts as quiet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settle {
    /// One file whose structure can be proved.
    pub file: Duration,
    /// A directory of files whose structure can be proved.
    pub directory: Duration,
    /// Anything else: nothing but silence speaks for it.
    pub unknown: Duration,
}

impl Default for Settle {
    fn default() -> Settle {
        // torch.save of a large model pauses between tensors for less than a second; directories are written by several ranks.
        Settle {
            file: Duration::from_secs(2),
            directory: Duration::from_secs(5),
            unknown: Duration::from_secs(30),
        }
    }
}

impl Settle {
    /// The same wait for everything, as configured by the user.
    pub fn all(wait: Duration) -> Settle {
        Settle {
            file: wait,
            directory: wait,
            unknown: wait,
        }
    }

    /// The wait that a rule asks for.
    pub fn of(&self, silence: Silence) -> Duration {
        match silence {
            Silence::File => self.file,
            Silence::Directory | Silence::Unordered => self.directory,
            Silence::Unknown => self.unknown,
        }
    }
}

/// How long we may wait for silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Haste {
    /// As long as the settle times say.
    None,
    /// The box is going away: what can be proved whole is taken at once, anything else must settle.
    Proven,
    /// The session has ended: nobody writes any more, so what has no writer is finished.
    Final,
}

/// What a look at a quiet candidate found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Somebody holds one of its files open for writing, or it changed while we looked; in words.
    Busy(String),
    /// A file is torn, and why.
    Broken(String),
    /// By its rule something is still to come, or was taken away; what.
    Incomplete(String),
    /// Nothing speaks against it.
    Whole {
        /// Rules and formats that speak for it.
        rule: String,
        /// Wait with no change that it needs all the same.
        silence: Silence,
        /// Why it may be a part of one, after all.
        doubt: Option<Doubt>,
        /// Whether a framework's rule, which knows what must be there, or the user's own silence speaks for it.
        ruled: bool,
    },
}

#[derive(Debug)]
enum Verdict {
    /// Not looked at yet, or somebody was writing: who.
    Waiting(String),
    Broken(String),
    /// Its writer died over it, and how: nothing that is still to come will make it whole.
    Orphaned(String),
    Incomplete(String),
    Ready {
        rule: String,
    },
    Unwanted {
        /// It is on this disk alone, and somebody may miss it.
        missed: bool,
    },
}

#[derive(Debug)]
struct Tracked {
    candidate: Candidate,
    /// First seen in this shape.
    since: Duration,
    /// The same, or when somebody was last seen with it open for writing: closing a file changes nothing that a listing shows.
    quiet_since: Duration,
    /// Next look at writers and structure.
    look: Duration,
    /// When it became ready.
    ready_at: Duration,
    verdict: Verdict,
    /// It appeared while we were watching, and no file of it has gone since: it is not what a deletion left.
    grew: bool,
    /// A file that it had, when nothing but that has happened since.
    lost: Option<String>,
}

/// Remembers every candidate that is in no commit yet. Times are since any fixed moment.
#[derive(Debug)]
pub struct Tracker {
    settle: Settle,
    entries: BTreeMap<String, Tracked>,
    /// A first look at the directory was had: what appears from now on appears before our eyes.
    watching: bool,
    /// Trainings that may have left something half written.
    pub(super) deaths: Vec<Death>,
}

impl Tracker {
    /// A tracker that has seen nothing.
    pub fn new(settle: Settle) -> Tracker {
        Tracker {
            settle,
            entries: BTreeMap::new(),
            watching: false,
            deaths: Vec::new(),
        }
    }

    /// Takes note of what lies in the directory now. A candidate whose files changed starts over; one that is gone is forgotten.
    pub fn observe(&mut self, found: Vec<Candidate>, now: Duration) {
        let mut next = BTreeMap::new();
        for candidate in found {
            let entry = match self.entries.remove(&candidate.key) {
                Some(entry) if entry.candidate == candidate => entry,
                before => self.begin(candidate, before, now),
            };
            next.insert(entry.candidate.key.clone(), entry);
        }
        self.entries = next;
        self.watching = true;
    }

    fn begin(&self, candidate: Candidate, before: Option<Tracked>, now: Duration) -> Tracked {
        let has_all_of = |before: &Tracked| {
            let is_there = |path: &str| candidate.files.iter().any(|file| file.path == path);
            before
                .candidate
                .files
                .iter()
                .all(|file| is_there(&file.path))
        };
        // Half deleted by somebody, when nothing is written meanwhile.
        let lost = before.as_ref().and_then(|before| {
            let files = &before.candidate.files;
            if !candidate.files.iter().all(|file| files.contains(file)) {
                return None;
            }
            let gone = files.iter().find(|file| !candidate.files.contains(file));
            gone.map(|file| file.path.clone())
                .or_else(|| before.lost.clone())
        });
        // What was finished and loses files is being deleted, and goes on being deleted.
        let deleted = match before.as_ref().map(|before| &before.verdict) {
            Some(Verdict::Ready { .. }) if lost.is_some() => Some(true),
            Some(Verdict::Unwanted { missed }) if lost.is_some() => Some(*missed),
            _ => None,
        };
        let grew = match &before {
            Some(before) => before.grew && has_all_of(before),
            None => self.watching,
        };
        Tracked {
            candidate,
            since: now,
            quiet_since: now,
            look: now + self.settle.file,
            ready_at: now,
            verdict: match deleted {
                Some(missed) => Verdict::Unwanted { missed },
                None => Verdict::Waiting(String::new()),
            },
            grew,
            lost,
        }
    }

    /// Candidates that have been quiet long enough for a look at their writers and structure.
    pub fn due(&self, now: Duration, haste: Haste) -> Vec<Candidate> {
        let is_due = |entry: &&Tracked| match entry.verdict {
            Verdict::Ready { .. } | Verdict::Unwanted { .. } => false,
            Verdict::Waiting(_)
            | Verdict::Broken(_)
            | Verdict::Orphaned(_)
            | Verdict::Incomplete(_) => entry.look <= now || haste != Haste::None,
        };
        self.entries
            .values()
            .filter(is_due)
            .map(|entry| entry.candidate.clone())
            .collect()
    }

    /// Takes note of what a look found. Returns whether the candidate became ready.
    pub fn judge(
        &mut self,
        candidate: &Candidate,
        finding: Finding,
        now: Duration,
        haste: Haste,
    ) -> bool {
        let settle = self.settle;
        let Some(entry) = self
            .entries
            .get_mut(&candidate.key)
            .filter(|entry| entry.candidate == *candidate)
        else {
            return false;
        };
        let incomplete_look = if now < entry.since + MARKER_PATIENCE {
            MARKER_LOOK
        } else {
            LATE_MARKER_LOOK
        };
        let (rule, silence) = match finding {
            Finding::Busy(who) => {
                entry.verdict = Verdict::Waiting(who);
                entry.quiet_since = now;
                entry.look = now + settle.file.max(WRITER_LOOK);
                return false;
            }
            Finding::Broken(reason) => {
                entry.verdict = Verdict::Broken(reason);
                entry.look = now + SECOND_LOOK;
                return false;
            }
            Finding::Incomplete(reason) => {
                entry.verdict = Verdict::Incomplete(reason);
                entry.look = now + incomplete_look;
                return false;
            }
            // Smaller than the one before: on purpose, when its writer has gone on to the next one.
            Finding::Whole {
                doubt: Some(doubt), ..
            } if !(doubt.superseded && entry.grew) => {
                entry.verdict = Verdict::Incomplete(doubt.reason);
                entry.look = now + incomplete_look;
                return false;
            }
            Finding::Whole { ruled: false, .. } if entry.lost.is_some() => {
                let lost = entry.lost.as_deref().unwrap_or_default();
                entry.verdict = Verdict::Incomplete(format!("{lost} was taken away from it"));
                entry.look = now + LATE_MARKER_LOOK;
                return false;
            }
            Finding::Whole { rule, silence, .. } => (rule, silence),
        };
        if silence == Silence::Unknown && !candidate.was_renamed() {
            let written_us = u64::try_from(candidate.written_ns() / 1_000).unwrap_or(0);
            // Whoever asks for a longer silence asks for it of a writer that lives: it must not make all the work before a death doubtful.
            let silence = settle.unknown.min(Settle::default().unknown);
            let over_it = |death: &&Death| death.concerns(written_us, silence);
            if let Some(death) = self.deaths.iter().find(over_it) {
                let advice = match rule.split('+').any(|one| one == "quiet") {
                    true => "a `complete_when` by marker or command, where now it is quiet,",
                    false => "`complete_when` in the run file",
                };
                entry.verdict = Verdict::Orphaned(format!(
                    "its writer died ({}) before it had been quiet for {} s, and nothing else says that it is whole: look at it; {advice} \
                     says of such when they are",
                    death.how,
                    silence.as_secs()
                ));
                entry.look = now + SECOND_LOOK;
                return false;
            }
        }
        let wait = match haste {
            Haste::None => settle.of(silence),
            Haste::Proven if silence == Silence::Unknown => settle.unknown,
            Haste::Proven | Haste::Final => Duration::ZERO,
        };
        if now < entry.quiet_since + wait {
            entry.verdict = Verdict::Waiting(String::new());
            entry.look = entry.quiet_since + wait;
            return false;
        }
        entry.verdict = Verdict::Ready { rule };
        entry.ready_at = now;
        true
    }

    /// Finished checkpoints, newest first.
    pub fn ready(&self) -> Vec<Ready> {
        let mut ready: Vec<Ready> = self
            .entries
            .values()
            .filter_map(|entry| match &entry.verdict {
                Verdict::Ready { rule } => Some(Ready {
                    candidate: entry.candidate.clone(),
                    rule: rule.clone(),
                    ready_at: entry.ready_at,
                }),
                _ => None,
            })
            .collect();
        sort_by(&mut ready, |a, b| {
            b.candidate.age_order().cmp(&a.candidate.age_order())
        });
        ready
    }

    /// Whether a candidate is still there, unchanged, uncommitted and wanted.
    pub fn still_waits(&self, candidate: &Candidate) -> bool {
        self.entries.get(&candidate.key).is_some_and(|entry| {
            entry.candidate.files == candidate.files
                && !matches!(entry.verdict, Verdict::Unwanted { .. })
        })
    }

    /// Shapes of the finished ones, for the next to be compared with.
    pub fn shapes(&self) -> impl Iterator<Item = Shape> {
        self.entries
            .values()
            .filter(|entry| matches!(entry.verdict, Verdict::Ready { .. }))
            .filter_map(|entry| Shape::of(&entry.candidate))
    }

    /// Candidates that still have to settle, have a writer, or lack something that may be on its way.
    pub fn unsettled(&self, now: Duration) -> usize {
        let is_unsettled = |entry: &&Tracked| match entry.verdict {
            Verdict::Waiting(_) => true,
            Verdict::Incomplete(_) => now < entry.since + BEING_WRITTEN,
            _ => false,
        };
        self.entries.values().filter(is_unsettled).count()
    }

    /// When the next look at a candidate is due; `None`: at none without a change.
    pub fn next_look(&self) -> Option<Duration> {
        self.entries
            .values()
            .filter(|entry| {
                !matches!(
                    entry.verdict,
                    Verdict::Ready { .. } | Verdict::Unwanted { .. }
                )
            })
            .map(|entry| entry.look)
            .min()
    }

    /// Those that cannot be saved as they are, with the reason, oldest first.
    pub fn refused(&self) -> Vec<Refused> {
        let refused = |entry: &Tracked| {
            let reason = match &entry.verdict {
                Verdict::Broken(reason)
                | Verdict::Orphaned(reason)
                | Verdict::Incomplete(reason) => reason.clone(),
                Verdict::Waiting(who) if !who.is_empty() => who.clone(),
                _ => return None,
            };
            let mut refused = Refused::new(&entry.candidate, reason, entry.since);
            refused.is_final = matches!(entry.verdict, Verdict::Orphaned(_));
            let may_settle = matches!(entry.verdict, Verdict::Waiting(_) | Verdict::Incomplete(_));
            refused.may_settle = may_settle;
            Some(refused)
        };
        let mut refused: Vec<Refused> = self.entries.values().filter_map(refused).collect();
        sort_by(&mut refused, |a, b| {
            (a.since, &a.key).cmp(&(b.since, &b.key))
        });
        refused
    }

    /// Bytes that are in no commit yet and still worth one: neither those that newer commits made worthless, nor torn ones that
    /// are older than the newest commit (`last_saved_ms`, by the same clock as the files). What cannot be read to its end may be whole,
    /// however old it is.
    pub fn unsaved_bytes(&self, last_saved_ms: Option<u64>) -> u64 {
        self.at_stake(last_saved_ms)
            .iter()
            .map(|(_, bytes)| bytes)
            .sum()
    }

    /// The same by name, largest first.
    pub fn at_stake(&self, last_saved_ms: Option<u64>) -> Vec<(String, u64)> {
        let is_worth_it = |entry: &&Tracked| match entry.verdict {
            Verdict::Unwanted { .. } => false,
            Verdict::Waiting(_) | Verdict::Ready { .. } => true,
            _ if entry.candidate.unreadable.is_some() => true,
            Verdict::Broken(_) | Verdict::Orphaned(_) | Verdict::Incomplete(_) => {
                let written_ms =
                    u64::try_from(entry.candidate.written_ns() / 1_000_000).unwrap_or(0);
                last_saved_ms.is_none_or(|saved| written_ms > saved)
            }
        };
        let mut at_stake: Vec<(String, u64)> = self
            .entries
            .values()
            .filter(is_worth_it)
            .map(|entry| {
                let candidate = &entry.candidate;
                (candidate.path_in_manifest(), candidate.size_bytes())
            })
            .collect();
        sort_by(&mut at_stake, |a, b| (b.1, &a.0).cmp(&(a.1, &b.0)));
        at_stake
    }

    /// Bytes that would go with the disk: of everything that is in no commit, whatever it is worth, but for what newer commits of its kind
    /// overtook. Torn ones, older ones and what a deletion left count: no program can say that nobody wants them.
    pub fn here_alone_bytes(&self) -> u64 {
        let is_alone =
            |entry: &&Tracked| !matches!(entry.verdict, Verdict::Unwanted { missed: false });
        let alone = self.entries.values().filter(is_alone);
        alone.map(|entry| entry.candidate.size_bytes()).sum()
    }

    /// The files changed while they were read, or somebody opened them: whatever they are now starts over.
    pub fn start_over(&mut self, key: &str, now: Duration) {
        let settle = self.settle;
        if let Some(entry) = self.entries.get_mut(key) {
            entry.verdict = Verdict::Waiting(String::new());
            (entry.since, entry.quiet_since) = (now, now);
            entry.look = now + settle.file;
        }
    }

    /// Enough newer ones are committed: it is not worth its upload, until it changes. `missed`: it may be missed all the same, and is on
    /// this disk alone.
    pub fn give_up(&mut self, key: &str, missed: bool) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.verdict = Verdict::Unwanted { missed };
        }
    }
}

#[cfg(test)]
mod tests;
