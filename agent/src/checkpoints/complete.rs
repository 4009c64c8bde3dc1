//! Which checkpoints are finished: the states that a candidate passes through on its way to the bucket (pure).
//!
//! NEW, GROWING, QUIET, NO WRITER, STRUCTURE, READY. Listings and times come in as arguments, verdicts about writers and
//! structure too; reading them from the disk is left to `scan.rs`. Start at [`Tracker::observe`].

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long a file that looked broken is left alone before it is looked at again without having changed.
const SECOND_LOOK: Duration = Duration::from_secs(60);
/// How long a file that somebody holds open for writing is left alone, at least.
const WRITER_LOOK: Duration = Duration::from_millis(200);

/// One file as the kernel describes it. A change of any field is a change of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStat {
    /// Relative to the checkpoint's path; empty when that is the file itself.
    pub path: String,
    /// Inode number.
    pub ino: u64,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Modification time, nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Change time of the inode, nanoseconds since the epoch.
    pub ctime_ns: i64,
    /// Unix permission bits.
    pub mode: u32,
}

/// Something in the checkpoint directory that is, or becomes, a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// What stays the same while files come and change: `dir:NAME`, `file:NAME` or, for flat layouts, `step:N`.
    pub key: String,
    /// Relative to the checkpoint directory; `.` for several files of one step that lie side by side.
    pub path: String,
    /// Number in the name.
    pub step: Option<u64>,
    /// Whether `path` is a directory.
    pub directory: bool,
    /// A temporary file lies among its files: somebody is in the middle of something.
    pub unfinished: bool,
    /// Every file, sorted by path.
    pub files: Vec<FileStat>,
}

/// Rule in the manifest of files of one step that lie side by side: they go back into the checkpoint directory itself.
pub const FLAT_RULE: &str = "flat-step";

impl Candidate {
    /// Whether its files lie in the checkpoint directory itself, next to those of other steps.
    pub fn is_flat(&self) -> bool {
        self.path == "."
    }

    /// Its path as a manifest has it: side by side files get the name of a directory, which they are in the bucket.
    pub fn path_in_manifest(&self) -> String {
        match self.step {
            Some(step) if self.is_flat() => format!("step-{step}"),
            _ => self.path.clone(),
        }
    }

    /// Bytes of all files.
    pub fn size_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size_bytes).sum()
    }

    /// When it was last written, nanoseconds since the epoch: what makes one checkpoint newer than another.
    pub fn written_ns(&self) -> i64 {
        self.files
            .iter()
            .map(|file| file.mtime_ns)
            .max()
            .unwrap_or(0)
    }

    fn age_order(&self) -> (i64, Option<u64>, &str) {
        (self.written_ns(), self.step, &self.key)
    }

    /// Whether it is newer than another.
    pub fn is_newer_than(&self, other: &Candidate) -> bool {
        self.age_order() > other.age_order()
    }
}

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

    fn quick(&self, candidate: &Candidate) -> Duration {
        if candidate.unfinished {
            self.unknown
        } else if candidate.directory {
            self.directory
        } else {
            self.file
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
    /// Somebody holds one of its files open for writing, or it changed while we looked.
    Busy,
    /// A file is torn, and why.
    Broken(String),
    /// Every file is whole by its own format; the rule's name.
    Proven(String),
    /// Nothing speaks against it and nothing proves it.
    Unproven,
}

#[derive(Debug)]
enum Verdict {
    Waiting,
    Broken(String),
    Ready { rule: String },
    Unwanted,
}

#[derive(Debug)]
struct Tracked {
    candidate: Candidate,
    /// First seen in this shape.
    since: Duration,
    /// Next look at writers and structure.
    look: Duration,
    /// When it became ready.
    ready_at: Duration,
    verdict: Verdict,
}

/// A finished checkpoint that waits for its upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// The candidate as it was when it was found finished.
    pub candidate: Candidate,
    /// Rule that found it complete.
    pub rule: String,
    /// When it was found finished.
    pub ready_at: Duration,
}

/// Remembers every candidate that is in no commit yet. Times are since any fixed moment.
#[derive(Debug)]
pub struct Tracker {
    settle: Settle,
    entries: BTreeMap<String, Tracked>,
}

impl Tracker {
    /// A tracker that has seen nothing.
    pub fn new(settle: Settle) -> Tracker {
        Tracker {
            settle,
            entries: BTreeMap::new(),
        }
    }

    /// Takes note of what lies in the directory now. A candidate whose files changed starts over; one that is gone is forgotten.
    pub fn observe(&mut self, found: Vec<Candidate>, now: Duration) {
        let mut next = BTreeMap::new();
        for candidate in found {
            let entry = match self.entries.remove(&candidate.key) {
                Some(entry) if entry.candidate == candidate => entry,
                _ => {
                    let look = now + self.settle.quick(&candidate);
                    Tracked {
                        candidate,
                        since: now,
                        look,
                        ready_at: now,
                        verdict: Verdict::Waiting,
                    }
                }
            };
            next.insert(entry.candidate.key.clone(), entry);
        }
        self.entries = next;
    }

    /// Candidates that have been quiet long enough for a look at their writers and structure.
    pub fn due(&self, now: Duration, haste: Haste) -> Vec<Candidate> {
        let is_due = |entry: &&Tracked| match entry.verdict {
            Verdict::Ready { .. } | Verdict::Unwanted => false,
            Verdict::Waiting | Verdict::Broken(_) => match haste {
                Haste::None => entry.look <= now,
                Haste::Proven => entry.look <= now || !entry.candidate.unfinished,
                Haste::Final => true,
            },
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
        let rule = match finding {
            Finding::Busy => {
                entry.look = now + settle.quick(candidate).max(WRITER_LOOK);
                return false;
            }
            Finding::Broken(reason) => {
                entry.verdict = Verdict::Broken(reason);
                entry.look = now + SECOND_LOOK;
                return false;
            }
            Finding::Unproven if haste != Haste::Final && now < entry.since + settle.unknown => {
                entry.look = entry.since + settle.unknown;
                return false;
            }
            Finding::Unproven => "generic".to_owned(),
            Finding::Proven(rule) => rule,
        };
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
        ready.sort_by(|a, b| b.candidate.age_order().cmp(&a.candidate.age_order()));
        ready
    }

    /// Whether a candidate is still there, unchanged, uncommitted and wanted.
    pub fn still_waits(&self, candidate: &Candidate) -> bool {
        self.entries.get(&candidate.key).is_some_and(|entry| {
            entry.candidate.files == candidate.files && !matches!(entry.verdict, Verdict::Unwanted)
        })
    }

    /// Candidates that still have to settle or have a writer.
    pub fn unsettled(&self) -> usize {
        self.entries
            .values()
            .filter(|entry| matches!(entry.verdict, Verdict::Waiting))
            .count()
    }

    /// Torn candidates with the reason.
    pub fn broken(&self) -> Vec<(String, String)> {
        let reason = |entry: &Tracked| match &entry.verdict {
            Verdict::Broken(reason) => Some((entry.candidate.path.clone(), reason.clone())),
            _ => None,
        };
        self.entries.values().filter_map(reason).collect()
    }

    /// Bytes that are in no commit yet and still worth one: neither those that newer commits made worthless, nor torn ones that
    /// are older than the newest commit (`last_saved_ms`, by the same clock as the files).
    pub fn unsaved_bytes(&self, last_saved_ms: Option<u64>) -> u64 {
        let is_worth_it = |entry: &&Tracked| match entry.verdict {
            Verdict::Unwanted => false,
            Verdict::Waiting | Verdict::Ready { .. } => true,
            Verdict::Broken(_) => {
                let written_ms =
                    u64::try_from(entry.candidate.written_ns() / 1_000_000).unwrap_or(0);
                last_saved_ms.is_none_or(|saved| written_ms > saved)
            }
        };
        self.entries
            .values()
            .filter(is_worth_it)
            .map(|entry| entry.candidate.size_bytes())
            .sum()
    }

    /// The files changed while they were read: whatever they are now starts over.
    pub fn start_over(&mut self, key: &str) {
        self.entries.remove(key);
    }

    /// Enough newer ones are committed: it is not worth its upload, until it changes.
    pub fn give_up(&mut self, key: &str) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.verdict = Verdict::Unwanted;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, size_bytes: u64, mtime_ns: i64) -> FileStat {
        FileStat {
            path: path.into(),
            ino: 7,
            size_bytes,
            mtime_ns,
            ctime_ns: mtime_ns,
            mode: 0o644,
        }
    }

    fn single(name: &str, size_bytes: u64, mtime_ns: i64) -> Candidate {
        Candidate {
            key: format!("file:{name}"),
            path: name.into(),
            step: super::super::names::step_of(name),
            directory: false,
            unfinished: false,
            files: vec![file("", size_bytes, mtime_ns)],
        }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn proven() -> Finding {
        Finding::Proven("torch-zip".into())
    }

    #[test]
    fn a_file_that_grows_is_never_due_and_a_quiet_one_is_after_its_settle_time() {
        let mut tracker = Tracker::new(Settle::default());
        for second in 0..10 {
            tracker.observe(vec![single("a.pt", second, second as i64)], at(second));
            assert!(
                tracker.due(at(second), Haste::None).is_empty(),
                "second {second}"
            );
        }
        tracker.observe(vec![single("a.pt", 9, 9)], at(11));
        assert_eq!(tracker.due(at(11), Haste::None), [single("a.pt", 9, 9)]);
    }

    #[test]
    fn any_changed_field_starts_over() {
        let original = single("a.pt", 5, 5);
        let changes: [fn(&mut FileStat); 5] = [
            |file| file.ino += 1,
            |file| file.size_bytes += 1,
            |file| file.mtime_ns += 1,
            |file| file.ctime_ns += 1,
            |file| file.mode = 0o600,
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut tracker = Tracker::new(Settle::default());
            tracker.observe(vec![original.clone()], at(0));
            assert!(tracker.judge(&original, proven(), at(2), Haste::None));
            let mut changed = original.clone();
            change(&mut changed.files[0]);
            tracker.observe(vec![changed.clone()], at(3));
            assert!(tracker.ready().is_empty(), "change {number}");
            assert!(tracker.due(at(4), Haste::None).is_empty());
            assert_eq!(tracker.due(at(5), Haste::None), [changed]);
        }
    }

    #[test]
    fn what_nothing_proves_waits_for_the_longest_silence_and_a_writer_delays_it() {
        let mut tracker = Tracker::new(Settle::default());
        let candidate = single("a.bin", 5, 5);
        tracker.observe(vec![candidate.clone()], at(0));
        assert!(!tracker.judge(&candidate, Finding::Unproven, at(2), Haste::None));
        assert!(tracker.due(at(29), Haste::None).is_empty());
        assert!(!tracker.judge(&candidate, Finding::Busy, at(30), Haste::None));
        assert!(tracker.due(at(31), Haste::None).is_empty());
        assert!(tracker.judge(&candidate, Finding::Unproven, at(32), Haste::None));
        assert_eq!(tracker.ready()[0].rule, "generic");
    }

    #[test]
    fn haste_takes_what_is_proven_and_only_the_end_of_the_session_takes_the_rest() {
        let mut tracker = Tracker::new(Settle::default());
        let (whole, odd) = (single("a.pt", 5, 5), single("b.dat1", 5, 5));
        tracker.observe(vec![whole.clone(), odd.clone()], at(0));
        assert_eq!(tracker.due(at(0), Haste::Proven).len(), 2);
        assert!(tracker.judge(&whole, proven(), at(0), Haste::Proven));
        assert!(!tracker.judge(&odd, Finding::Unproven, at(0), Haste::Proven));
        assert!(tracker.judge(&odd, Finding::Unproven, at(0), Haste::Final));
    }

    #[test]
    fn a_torn_file_is_not_ready_and_says_why() {
        let mut tracker = Tracker::new(Settle::default());
        let candidate = single("a.pt", 5, 5);
        tracker.observe(vec![candidate.clone()], at(0));
        assert!(!tracker.judge(
            &candidate,
            Finding::Broken("no end record".into()),
            at(2),
            Haste::None
        ));
        assert_eq!(
            tracker.broken(),
            [("a.pt".to_owned(), "no end record".to_owned())]
        );
        assert_eq!(
            (tracker.unsaved_bytes(None), tracker.unsaved_bytes(Some(1))),
            (5, 0)
        );
        assert!(tracker.due(at(61), Haste::None).is_empty());
        assert_eq!(tracker.due(at(62), Haste::None).len(), 1);
    }

    #[test]
    fn the_newest_written_comes_first_whatever_its_number() {
        let mut tracker = Tracker::new(Settle::default());
        let candidates = [
            single("step_9.pt", 1, 100),
            single("step_100.pt", 1, 300),
            single("step_50.pt", 1, 200),
        ];
        tracker.observe(candidates.to_vec(), at(0));
        for candidate in &candidates {
            assert!(tracker.judge(candidate, proven(), at(2), Haste::None));
        }
        let order: Vec<_> = tracker
            .ready()
            .into_iter()
            .map(|ready| ready.candidate.step)
            .collect();
        assert_eq!(order, [Some(100), Some(50), Some(9)]);
        assert_eq!(tracker.unsaved_bytes(None), 3);
        tracker.give_up("file:step_9.pt");
        assert_eq!((tracker.ready().len(), tracker.unsaved_bytes(None)), (2, 2));
    }

    #[test]
    fn a_directory_with_a_temporary_file_waits_longest() {
        let mut tracker = Tracker::new(Settle::default());
        let mut candidate = single("checkpoint-5", 5, 5);
        (candidate.directory, candidate.unfinished) = (true, true);
        tracker.observe(vec![candidate.clone()], at(0));
        assert!(tracker.due(at(29), Haste::None).is_empty());
        assert!(tracker.due(at(5), Haste::Proven).is_empty());
        assert_eq!(tracker.due(at(30), Haste::None), [candidate]);
    }
}
