//! `Backup`: brings finished checkpoints to the bucket, keeps the newest, and fetches them back.
//!
//! Reading order: [`names`], [`rules`] (a file per framework) and [`complete`] decide what is finished (pure); [`scan`], [`look`],
//! [`writers`] (by [`lease`]) and [`structure`] ask the disk; [`source`] (by the threads of [`humble`], as much in a [`hurry`] as it must be), [`upload`] (large files
//! by [`parts`], as fast as [`tempo`] and [`rates`] say) and [`commit`] carry one checkpoint over, noting each step in [`journal`];
//! [`round`] does one round of it while [`watch`] keeps looking.
//! [`metric`] what the log says of each, [`ledger`] remembers what is saved, [`index`] what the bucket has, [`delete`] takes away what retention lets go, [`alarm`] says whether we are
//! behind, [`room`] whether the disk will do; [`sweep`] removes what lost boxes left. [`restore`] (files by
//! [`landing`]) and [`results`] are the two other things that move files; [`local`] says what is there to go on from without a bucket.

pub mod alarm;
mod buffers;
pub mod clock;
pub mod command;
pub mod commit;
pub mod complete;
pub mod delete;
pub mod humble;
pub mod hurry;
pub mod index;
pub mod journal;
pub mod landing;
pub mod lease;
pub mod ledger;
pub mod local;
pub mod look;
pub mod metric;
pub mod parts;
pub mod places;
pub mod pointer;
pub mod rates;
pub mod restore;
pub mod results;
pub mod room;
pub mod round;
pub mod scan;
pub mod source;
pub mod standing;
pub mod sweep;
pub mod tempo;
pub mod upload;
pub mod watch;
pub mod writers;

pub use spotter_bucket::whole::{candidate, names, rules, structure};

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use spotter_bucket::layout::NameError;
use spotter_bucket::{Bucket, BucketError, Keep, Manifest};
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::events::EventSink;
use candidate::FileStat;
use hurry::Rank;
use index::Index;
use ledger::Ledger;
use metric::Measurements;
use places::Places;
use rates::Rates;
use round::Work;
use standing::{Standing, Unanswered, chain};
use tempo::Tempo;

pub use complete::Settle;
pub use restore::{RestoreError, Restored};
pub use results::{Results, ResultsError};
pub use rules::user::{CompleteWhen, NoRule};
pub use standing::BackupState;

/// Longest wait for the bucket's answer to a question that somebody waits for.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Wait between two looks while somebody waits for checkpoints to settle.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Longest wait between two rounds while something settles: then a change is seen soon, whatever the period.
const SETTLING_PERIOD: Duration = Duration::from_secs(1);
/// Shortest wait between two rounds.
const SHORTEST_PERIOD: Duration = Duration::from_millis(20);
/// Longest wait between two rounds that failed.
const LONGEST_BACKOFF: Duration = Duration::from_secs(300);
/// Longest wait for the round of a backup that another one replaces.
const RETIRES_WITHIN: Duration = Duration::from_secs(30);
/// Longest wait between two rounds while nothing is unfinished, unless the period is longer: every round lists all there is.
const QUIET_PERIOD: Duration = Duration::from_secs(5);
/// Rounds that find nothing unfinished before the wait for the next one is doubled.
const QUIET_ROUNDS: u32 = 20;
/// Times between checkpoints that are remembered: the longest of them is what a trainer usually takes, since some save in turns.
const INTERVALS: usize = 4;
/// Rounds that fail, two to the power of their number seconds apart, before a directory that cannot be read is given up.
const BLIND_ROUNDS: u32 = 5;

/// What to back up, and where to.
#[derive(Debug, Clone)]
pub struct BackupOptions {
    /// Name of the run.
    pub run: String,
    /// Attempt, from 1.
    pub attempt: u32,
    /// Directory that holds checkpoints; absolute. It need not exist yet.
    pub dir: PathBuf,
    /// Bucket and server, in any words: what was noted about another one says nothing of this one.
    pub target: String,
    /// Prefix of the target, without leading or trailing slash; may be empty. The run's name is appended by the layout.
    pub prefix: String,
    /// How often at least a finished checkpoint must reach the bucket; zero: no alarm.
    pub every: Duration,
    /// What to keep in the bucket and on the box.
    pub keep: Keep,
    /// How long the data of a deleted checkpoint stays in the bucket.
    pub keep_grace: Duration,
    /// Wait with no change before a file counts as finished; `None`: the rule's own.
    pub settle: Option<Duration>,
    /// The user's rule for when a checkpoint is complete; `None`: those of the frameworks.
    pub complete_when: Option<CompleteWhen>,
    /// Whether the kernel may be asked to tell of writers, which makes them wait until we have heard it: less than a millisecond,
    /// but as long as the agent is stopped, up to 45 s.
    pub tripwire: bool,
    /// Most bytes per second to send; `None`: as many as go.
    pub max_bytes_per_s: Option<u64>,
    /// Times of the day at which another rate counts.
    pub windows: Vec<rates::Window>,
    /// Parts in flight at first.
    pub parallel: u8,
    /// What a lost box left in the bucket goes when it is older, by the bucket's clock.
    pub sweep_grace: Duration,
    /// Directory for what must survive a crash of the agent, such as `~/.spotter/backup`; absolute, made when missing.
    pub state_dir: PathBuf,
}

/// A committed checkpoint, for people and for the contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointInfo {
    /// Name of the commit, `<step, 12 digits>-<ulid>`.
    pub id: String,
    /// Step, when its name has a number.
    pub step: Option<u64>,
    /// Attempt that wrote it.
    pub attempt: u32,
    /// When it was committed by the box's clock, microseconds since the epoch.
    pub committed_us: u64,
    /// Bytes in all.
    pub size_bytes: u64,
    /// Number of files.
    pub files: u32,
    /// Relative to the checkpoint directory; `.` for files of one step that lie side by side.
    pub path: String,
}

impl From<&Manifest> for CheckpointInfo {
    fn from(manifest: &Manifest) -> CheckpointInfo {
        CheckpointInfo {
            id: manifest.id.clone(),
            step: manifest.step,
            attempt: manifest.attempt,
            committed_us: manifest.committed_us,
            size_bytes: manifest.files.iter().map(|file| file.size_bytes).sum(),
            files: u32::try_from(manifest.files.len()).unwrap_or(u32::MAX),
            path: manifest.path.clone(),
        }
    }
}

/// Why a round did not do all its work, or a question found no answer.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The checkpoint directory, or the backup's own, could not be read.
    #[error("{} could not be read", path.display())]
    Disk {
        /// Directory in question.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The checkpoint directory could not be looked at in time, so that nobody can say what is unsaved.
    #[error("what is unsaved in {} is not known: {problem}", path.display())]
    Unseen {
        /// Directory in question.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// The bucket refused to say which checkpoints it has.
    #[error("the checkpoints in the bucket could not be listed")]
    List(#[source] BucketError),
    /// The bucket did not answer in time.
    #[error("the bucket gave no answer in {} s{}", ANSWER_WITHIN.as_secs(), if problem.is_empty() { String::new() } else { format!(": {problem}") })]
    NoAnswer {
        /// What it said instead, if anything.
        problem: String,
    },
    /// A checkpoint could not be uploaded now; it will be tried again.
    #[error("checkpoint {path} was not saved")]
    Upload {
        /// Its path in the checkpoint directory.
        path: String,
        /// Why.
        source: upload::UploadError,
    },
}

/// What a last effort before the box goes away could do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Flushed {
    /// Checkpoints that were still saved.
    pub committed: Vec<CheckpointInfo>,
    /// Finished checkpoints that were not, and are in the upload journal.
    pub unsaved: u64,
}

/// A directory that cannot be looked at.
struct Blind {
    /// Why.
    problem: String,
    /// Since when, after the start.
    since: Duration,
}

/// The backup of one run on this box. One round at a time runs; everything else may be asked at any moment.
pub struct Backup {
    options: BackupOptions,
    bucket: Arc<dyn Bucket>,
    places: Places,
    standing: Standing,
    tempo: Tempo,
    rates: Rates,
    /// Where this run's journals are: the state directory's own subdirectory per target, run and directory.
    state_dir: PathBuf,
    ledger: Arc<Mutex<Ledger>>,
    /// Commits that the bucket has, once known.
    ids: Arc<Mutex<Option<HashSet<String>>>>,
    started: Instant,
    pace: Mutex<Pace>,
    /// Milliseconds that the bucket's clock is taken to be ahead.
    clock_offset_ms: Mutex<i64>,
    /// The last look at the directory failed; `None`: it did not.
    blind: Mutex<Option<Blind>>,
    /// When the next look at something unfinished is due; `None`: nothing is.
    next_look: Mutex<Option<Duration>>,
    work: tokio::sync::Mutex<Work>,
    trouble: Mutex<delete::Trouble>,
    /// What the training's log said lately, when that decides what is kept.
    measurements: Mutex<Measurements>,
    /// Another backup takes over these directories.
    retired: CancellationToken,
    /// Two restores would write to the same files.
    restoring: tokio::sync::Mutex<()>,
    /// The files of the last collection of results, and what became of it. One at a time is collected.
    collected: tokio::sync::Mutex<Option<(Vec<FileStat>, Results)>>,
}

/// How much of a hurry we are in. Times are since the backup was made.
#[derive(Debug, Default)]
struct Pace {
    /// How many callers say that the session has ended.
    finals: u32,
    /// When the box goes away.
    flush_by: Option<Instant>,
    /// Bytes per second of the last upload that took long enough to tell.
    bytes_per_s: Option<f64>,
    training_since: Option<Duration>,
    /// The same by the wall clock, microseconds since the epoch.
    training_since_us: Option<u64>,
    last_commit: Option<Duration>,
    /// When the newest checkpoint was found finished.
    last_found: Option<Duration>,
    /// What lay between the last of this session, newest first; zero: there were not so many.
    intervals: [Duration; INTERVALS],
}

impl Pace {
    /// What usually lies between two checkpoints; `None`: there were no two.
    fn interval(&self) -> Option<Duration> {
        let longest = self.intervals.into_iter().max();
        longest.filter(|one| !one.is_zero())
    }
}

impl Backup {
    /// A backup that has looked at nothing yet. Problems with the state directory are told and survived; a run or prefix that
    /// cannot be part of a key is refused.
    pub fn new(
        options: BackupOptions,
        bucket: Arc<dyn Bucket>,
        events: Arc<dyn EventSink>,
    ) -> Result<Arc<Backup>, NameError> {
        let places = Places::new(&options.prefix, &options.run)?;
        // Another target, run or directory has nothing to do with what was noted here before.
        let identity = format!(
            "{}\n{}\n{}\n{}",
            options.target,
            options.prefix,
            options.run,
            options.dir.display()
        );
        let state_dir = options
            .state_dir
            .join(&blake3::hash(identity.as_bytes()).to_hex()[..16]);
        if let Err(err) = fs::create_dir_all(&state_dir) {
            warn!(dir = %state_dir.display(), error = %err, "the backup cannot keep its notes; a restart will begin uploads anew");
        }
        let ledger = Ledger::open(&state_dir);
        let clock_offset_ms = offset_of_notes_ms(&ledger);
        let settle = match (&options.complete_when, options.settle) {
            (Some(CompleteWhen::Quiet(wait)), _) => Settle::all(*wait),
            (_, Some(wait)) => Settle::all(wait),
            _ => Settle::default(),
        };
        let rates = Rates {
            max_bytes_per_s: options.max_bytes_per_s,
            windows: options.windows.clone(),
        };
        Ok(Arc::new(Backup {
            standing: Standing::new(events),
            tempo: Tempo::new(rates.clone(), options.parallel, commit::now_us),
            rates,
            options,
            bucket,
            places,
            state_dir,
            ids: Arc::default(),
            ledger: Arc::new(Mutex::new(ledger)),
            started: Instant::now(),
            pace: Mutex::default(),
            clock_offset_ms: Mutex::new(clock_offset_ms),
            blind: Mutex::default(),
            next_look: Mutex::default(),
            work: tokio::sync::Mutex::new(Work::new(settle)),
            trouble: Mutex::default(),
            measurements: Mutex::default(),
            retired: CancellationToken::new(),
            restoring: tokio::sync::Mutex::new(()),
            collected: tokio::sync::Mutex::default(),
        }))
    }

    /// One round: finds what is finished and uploads it, newest first. Returns what was committed.
    ///
    /// Transient failures of the bucket are outlasted, so a round may take as long as an outage. It may be dropped at any point:
    /// what it did is in the journal.
    pub async fn round(&self) -> Result<Vec<CheckpointInfo>, BackupError> {
        let mut work = self.work.lock().await;
        self.round_until(&mut work, &self.retired.child_token())
            .await
    }

    /// Ends what is under way and begins nothing any more: another backup takes over. Returns when nobody is at work, or after
    /// [`RETIRES_WITHIN`].
    pub async fn retire(&self) {
        self.retired.cancel();
        let idle = async {
            drop(self.work.lock().await);
            drop(self.collected.lock().await);
        };
        if time::timeout(RETIRES_WITHIN, idle).await.is_err() {
            warn!(
                waited_s = RETIRES_WITHIN.as_secs(),
                "the backup that is replaced is still at work"
            );
        }
    }

    /// Saves everything that is finished, or gets finished, before the deadline. With `final_`, quiet files count as finished at
    /// once: the session has ended and nobody writes any more.
    ///
    /// An error when the directory could not be looked at: a state that says nothing must not read as "everything is saved".
    pub async fn backup_now(
        &self,
        deadline: Duration,
        final_: bool,
    ) -> Result<BackupState, BackupError> {
        let until = Instant::now() + deadline;
        let _final = final_.then(|| Final::begin(self));
        let Ok(mut work) = time::timeout_at(until, self.work.lock()).await else {
            return self.seen_state();
        };
        let mut failures = 0;
        loop {
            match self.round_before(&mut work, until).await {
                Ok(_) => failures = 0,
                Err(err) => {
                    failures += 1;
                    warn!(failures, error = %chain(&err), "backup on request failed, will retry until its deadline");
                }
            }
            let state = self.state();
            let settled = if state.unseen {
                failures >= BLIND_ROUNDS
            } else {
                work.tracker.unsettled(self.now()) == 0 && state.pending == 0
            };
            let pause = if failures > 0 {
                backoff(Duration::from_secs(1), failures)
            } else {
                LOOK_AGAIN
            };
            if settled || self.retired.is_cancelled() || Instant::now() + pause >= until {
                return self.seen_state();
            }
            time::sleep(pause).await;
        }
    }

    /// The box goes away after `grace`: finishes what fits at the measured rate, notes in the journal how far the rest got.
    pub async fn flush(&self, grace: Duration) -> Flushed {
        let until = Instant::now() + grace;
        {
            let mut pace = self.pace();
            pace.flush_by = Some(until);
            // A rate that was measured under the user's limit says nothing about what goes without it.
            if self.rates.limit() {
                pace.bytes_per_s = None;
            }
        }
        self.tempo.lift();
        // At once: the next look at the directory may be a second away.
        humble::set_rank(Rank::Nice);
        let mut committed = Vec::new();
        // A round that is under way sees the deadline and ends itself in time.
        if let Ok(mut work) = time::timeout_at(until, self.work.lock()).await {
            match self.round_before(&mut work, until).await {
                Ok(saved) => committed = saved,
                Err(err) => warn!(error = %chain(&err), "the last round failed"),
            }
        }
        Flushed {
            committed,
            unsaved: self.state().pending,
        }
    }

    async fn round_before(
        &self,
        work: &mut Work,
        until: Instant,
    ) -> Result<Vec<CheckpointInfo>, BackupError> {
        let stop = self.retired.child_token();
        let round = self.round_until(work, &stop);
        tokio::pin!(round);
        tokio::select! {
            outcome = &mut round => return outcome,
            () = time::sleep_until(until) => stop.cancel(),
        }
        // It stops at its next step; dropping it would lose what it holds.
        round.await
    }

    /// The state as Status reports it.
    pub fn state(&self) -> BackupState {
        self.standing.state().clone()
    }

    /// The same, when the last look at the directory succeeded.
    fn seen_state(&self) -> Result<BackupState, BackupError> {
        let state = self.state();
        if !state.unseen {
            return Ok(state);
        }
        let problem = self.blind().as_ref().map(|blind| blind.problem.clone());
        Err(BackupError::Unseen {
            path: self.options.dir.clone(),
            problem: problem.unwrap_or_else(|| "there was no time for a look at it".to_owned()),
        })
    }

    fn blind(&self) -> MutexGuard<'_, Option<Blind>> {
        self.blind
            .lock()
            .expect("nothing panics while it holds this text")
    }

    /// New bucket keys are there: calls that wait for them are tried again at once.
    pub fn credentials_changed(&self) {
        self.standing.credentials_changed();
    }

    /// The log printed the value that decides which checkpoints are the best, after it had named this step.
    pub fn measured(&self, step: Option<u64>, time_us: u64, value: f64) {
        self.measurements().note(step, time_us, value);
    }

    /// When the training session began, microseconds since the epoch; `None` when none runs. The alarm counts from there.
    pub fn training(&self, since_us: Option<u64>) {
        let now = self.now();
        let since = since_us.map(|us| {
            now.saturating_sub(Duration::from_micros(commit::now_us().saturating_sub(us)))
        });
        let mut pace = self.pace();
        if pace.training_since_us != since_us {
            // Another session may have another habit.
            (pace.last_found, pace.intervals) = (None, [Duration::ZERO; INTERVALS]);
        }
        pace.training_since = since;
        pace.training_since_us = since_us;
    }

    /// Committed checkpoints of the run, newest first, as the bucket has them now.
    pub async fn list(&self) -> Result<Vec<CheckpointInfo>, BackupError> {
        let stop = CancellationToken::new();
        let load = Index::load(&*self.bucket, &self.standing, &stop, &self.places);
        match time::timeout(ANSWER_WITHIN, load).await {
            Ok(Ok(index)) => Ok(index.manifests().map(CheckpointInfo::from).collect()),
            Ok(Err(Unanswered::Bucket(err))) => Err(BackupError::List(err)),
            Ok(Err(Unanswered::Stopped)) | Err(_) => Err(BackupError::NoAnswer {
                problem: self.state().problem,
            }),
        }
    }

    /// How long until a look at something unfinished is due; `None`: nothing is unfinished.
    fn until_next_look(&self) -> Option<Duration> {
        let next = *self
            .next_look
            .lock()
            .expect("nothing panics while it holds this lock");
        next.map(|next| next.saturating_sub(self.now()))
    }

    /// What changes when a name appears in the directory itself, or goes; `None`: there is no directory.
    fn touched(&self) -> Option<(u64, i64, i64)> {
        let metadata = crate::aside(|| fs::metadata(&self.options.dir)).ok()?;
        Some((metadata.ino(), metadata.mtime(), metadata.mtime_nsec()))
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn measurements(&self) -> MutexGuard<'_, Measurements> {
        self.measurements
            .lock()
            .expect("nothing panics while it holds the measurements")
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace
            .lock()
            .expect("nothing panics while it holds the pace")
    }
}

/// How far ahead the bucket's clock was taken to be when this box last saved something: its names go on from there.
fn offset_of_notes_ms(ledger: &Ledger) -> i64 {
    let offset_ms = |saved: &ledger::Saved| {
        let named_ms = i64::try_from(index::written_ms(&saved.id)?).ok()?;
        let written_ms = saved.candidate().written_ns() / 1_000_000;
        (written_ms > 0).then(|| (named_ms, named_ms.saturating_sub(written_ms)))
    };
    let newest = ledger.saved().filter_map(offset_ms).max();
    newest.map_or(0, |(_, offset_ms)| offset_ms)
}

/// While it lives, quiet files count as finished.
struct Final<'a>(&'a Backup);

impl Final<'_> {
    fn begin(backup: &Backup) -> Final<'_> {
        backup.pace().finals += 1;
        Final(backup)
    }
}

impl Drop for Final<'_> {
    fn drop(&mut self) {
        self.0.pace().finals -= 1;
    }
}

/// Backs up finished checkpoints every `period` until `stop` is cancelled.
///
/// Only the wait is cancelled, never a round: half an upload is paid for and worth nothing. A round that must end with the daemon is
/// ended by [`Backup::flush`], or by dropping this future.
pub async fn backup_loop(backup: Arc<Backup>, period: Duration, stop: CancellationToken) {
    let mut failures = 0;
    let mut quiet = 0;
    let mut seen = backup.touched();
    loop {
        let next_look = backup.until_next_look();
        quiet = if next_look.is_none() { quiet + 1 } else { 0 };
        let wait = match next_look {
            // The moment at which something may count as finished is not slept through.
            Some(due) if failures == 0 => due.min(period).clamp(SHORTEST_PERIOD, SETTLING_PERIOD),
            None if failures == 0 => quiet_wait(period, quiet),
            _ => backoff(period, failures),
        };
        let until = Instant::now() + wait;
        // What is new in the directory itself is not waited for; what changes deeper down is seen at the next round.
        loop {
            let left = until.saturating_duration_since(Instant::now());
            tokio::select! {
                () = stop.cancelled() => return,
                () = time::sleep(left.min(period.max(SHORTEST_PERIOD))) => {}
            }
            if Instant::now() >= until || (failures == 0 && backup.touched() != seen) {
                break;
            }
        }
        seen = backup.touched();
        match backup.round().await {
            Ok(committed) => {
                if !committed.is_empty() || failures > 0 {
                    info!(
                        committed = committed.len(),
                        after_failures = failures,
                        "backup round done"
                    );
                }
                failures = 0;
            }
            Err(err) => {
                failures += 1;
                warn!(failures, error = %chain(&err), "backup round failed, will retry");
            }
        }
    }
}

/// The period, a little longer with every round that found nothing unfinished.
fn quiet_wait(period: Duration, quiet: u32) -> Duration {
    let doubled = period.saturating_mul(1 << (quiet / QUIET_ROUNDS).min(16));
    doubled.min(QUIET_PERIOD).max(period)
}

/// The period, doubled with every failure up to five minutes.
fn backoff(period: Duration, failures: u32) -> Duration {
    if failures == 0 {
        return period;
    }
    period
        .saturating_mul(1 << failures.min(16))
        .min(LONGEST_BACKOFF)
        .max(period)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_directory_in_which_nothing_happens_is_listed_more_rarely_and_never_later_than_every_five_seconds()
     {
        let half = Duration::from_millis(500);
        for (quiet, expected_ms) in [(0, 500), (19, 500), (20, 1_000), (40, 2_000), (80, 5_000)] {
            let expected = Duration::from_millis(expected_ms);
            assert_eq!(quiet_wait(half, quiet), expected, "after {quiet}");
        }
        let minute = Duration::from_secs(60);
        assert_eq!(quiet_wait(minute, 1_000_000), minute);
    }

    fn may_move<T: Send>(future: T) {
        drop(future);
    }

    #[test]
    fn everything_that_may_be_asked_of_a_backup_may_be_asked_from_any_task() {
        let dir = tempfile::tempdir().unwrap();
        let options = BackupOptions {
            run: "run".into(),
            attempt: 1,
            dir: dir.path().join("checkpoints"),
            target: String::new(),
            prefix: String::new(),
            every: Duration::ZERO,
            keep: Keep::default(),
            keep_grace: Duration::ZERO,
            settle: None,
            complete_when: None,
            tripwire: true,
            max_bytes_per_s: None,
            windows: Vec::new(),
            parallel: 4,
            sweep_grace: sweep::GRACE,
            state_dir: dir.path().join("state"),
        };
        let bucket = Arc::new(spotter_bucket::memory::MemoryBucket::new());
        let events = Arc::new(crate::events::RecordedEvents::default());
        let backup = Backup::new(options, bucket, events).unwrap();
        may_move(backup.round());
        may_move(backup.backup_now(Duration::ZERO, true));
        may_move(backup.flush(Duration::ZERO));
        may_move(backup.list());
        may_move(backup.restore(None, &mut |_, _| {}));
        may_move(backup.collect_results(Path::new("."), &[]));
        may_move(backup_loop(
            backup.clone(),
            Duration::ZERO,
            CancellationToken::new(),
        ));
    }
}
