//! `Backup`: brings finished checkpoints to the bucket, keeps the newest, and fetches them back.
//!
//! Reading order: [`names`], [`rules`] (a file per framework; both shared with the laptop, see [`spotter_bucket::whole`]) and
//! [`complete`] decide what is finished (pure); [`scan`], [`look`] (with [`ranks`]), [`writers`] (by [`lease`]) and [`structure`] ask the disk;
//! [`source`] (by the threads of [`humble`], as much in a [`hurry`] as it must be), [`upload`] (large files by [`parts`], as fast as
//! [`tempo`] and [`rates`] say) and [`commit`] carry one checkpoint over, noting each step in [`journal`]; [`round`] does one round of
//! it (its end in [`settling`]) while [`watch`] keeps looking, and [`looping`] says when. [`metric`] is what the log says of each, [`cadence`] how often they come;
//! [`ledger`] remembers what is saved, [`index`] what the bucket has, [`news`] what others did there, [`delete`] takes away what retention lets go and what was
//! [`skipped`], [`alarm`] says whether we are behind, [`room`] whether the disk will do; [`sweep`] removes what lost boxes left.
//! [`restore`] (files by [`landing`]) and [`results`] are the two other things that move files; [`local`] says what is there to go on
//! from without a bucket, [`trained`] what is known of the training. [`there`] asks the bucket anew before a box goes with its disk.

pub mod alarm;
mod buffers;
pub mod cadence;
pub mod clock;
pub mod command;
pub mod commit;
pub mod complete;
pub mod delete;
mod error;
pub mod humble;
pub mod hurry;
pub mod index;
pub mod journal;
pub mod landing;
pub mod lease;
pub mod ledger;
pub mod local;
pub mod look;
mod looping;
pub mod metric;
mod news;
mod options;
mod pace;
pub mod parts;
pub mod places;
pub mod pointer;
pub mod ranks;
pub mod rates;
pub mod restore;
pub mod results;
pub mod room;
pub mod round;
pub mod scan;
mod settling;
pub mod skipped;
pub mod source;
pub mod standing;
pub mod sweep;
pub mod tempo;
mod there;
mod trained;
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

use spotter_bucket::Bucket;
use spotter_bucket::layout::NameError;
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::events::EventSink;
use cadence::Cadence;
use candidate::FileStat;
use hurry::Rank;
use index::Index;
use ledger::Ledger;
use looping::backoff;
use metric::Measurements;
use pace::Pace;
use places::Places;
use rates::Rates;
use round::Work;
use standing::{Standing, Unanswered, chain};
use tempo::Tempo;

pub use complete::Settle;
pub use error::BackupError;
pub use looping::backup_loop;
pub use options::{BackupOptions, CheckpointInfo};
pub use restore::{RestoreError, Restored};
pub use results::{Results, ResultsError};
pub use rules::user::{CompleteWhen, NoRule};
pub use standing::BackupState;
pub use trained::Death;

/// Longest wait for the bucket's answer to a question that somebody waits for.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Wait between two looks while somebody waits for checkpoints to settle.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Longest wait for the round of a backup that another one replaces.
const RETIRES_WITHIN: Duration = Duration::from_secs(30);
/// Rounds that fail, two to the power of their number seconds apart, before a directory that cannot be read is given up.
const BLIND_ROUNDS: u32 = 5;

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
    /// How often the trainer saves.
    cadence: Arc<Mutex<Cadence>>,
    /// Another backup takes over these directories.
    retired: CancellationToken,
    /// Names of commits that turned out to be damaged here: they count for nothing.
    distrusted: Mutex<HashSet<String>>,
    /// Two restores would write to the same files.
    restoring: tokio::sync::Mutex<()>,
    /// The files of the last collection of results, and what became of it. One at a time is collected.
    collected: tokio::sync::Mutex<Option<(Vec<FileStat>, Results)>>,
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
        let cadence = Cadence::open(&state_dir, options.attempt);
        let clock_offset_ms = offset_of_notes_ms(&ledger);
        let pace = trained::recall(&state_dir);
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
            tempo: Tempo::new(rates.clone(), options.parallel, crate::now_us),
            rates,
            options,
            bucket,
            places,
            state_dir,
            ids: Arc::default(),
            ledger: Arc::new(Mutex::new(ledger)),
            started: Instant::now(),
            pace: Mutex::new(pace),
            clock_offset_ms: Mutex::new(clock_offset_ms),
            blind: Mutex::default(),
            next_look: Mutex::default(),
            work: tokio::sync::Mutex::new(Work::new(settle)),
            trouble: Mutex::default(),
            measurements: Mutex::default(),
            cadence: Arc::new(Mutex::new(cadence)),
            retired: CancellationToken::new(),
            distrusted: Mutex::default(),
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

    fn cadence(&self) -> MutexGuard<'_, Cadence> {
        self.cadence
            .lock()
            .expect("nothing panics while it holds the cadence")
    }

    fn distrusted(&self) -> MutexGuard<'_, HashSet<String>> {
        self.distrusted
            .lock()
            .expect("nothing panics while it holds these names")
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn may_move<T: Send>(future: T) {
        drop(future);
    }

    #[test]
    fn everything_that_may_be_asked_of_a_backup_may_be_asked_from_any_task() {
        let dir = tempfile::tempdir().unwrap();
        let options = BackupOptions::plain(
            "run",
            dir.path().join("checkpoints"),
            "",
            dir.path().join("state"),
        );
        let bucket = Arc::new(spotter_bucket::memory::MemoryBucket::new());
        let events = Arc::new(crate::events::RecordedEvents::default());
        let backup = Backup::new(options, bucket, events).unwrap();
        may_move(backup.round());
        may_move(backup.backup_now(Duration::ZERO, true));
        may_move(backup.flush(Duration::ZERO));
        may_move(backup.list());
        may_move(backup.newest_is_there());
        may_move(backup.restore(None, &mut |_, _| {}));
        may_move(backup.collect_results(Path::new("."), &[]));
        may_move(backup_loop(
            backup.clone(),
            Duration::ZERO,
            CancellationToken::new(),
        ));
    }
}
