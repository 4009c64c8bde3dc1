//! One round of the backup: look, choose the newest finished checkpoint, carry it over, look again.
//!
//! While the bucket is busy the directory is still watched, so that a newer checkpoint can overtake and the alarm is never late.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use spotter_bucket::manifest::Metric;
use spotter_bucket::whole::row::Row;
use spotter_bucket::{Manifest, ManifestFile};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::candidate::Candidate;
use super::commit::About;
use super::complete::{Ready, Settle, Tracker};
use super::index::Index;
use super::journal::{self, AttemptLog};
use super::metric::Made;
use super::places::Places;
use super::source::{self, Source};
use super::standing::{Unanswered, chain};
use super::upload::{Area, UploadError, Uploader};
use super::watch::Progress;
use super::{Backup, BackupError, CheckpointInfo};
use crate::tasks::spawn_blocking;

/// Uploads that may yield to a newer checkpoint, one after the other, before one is finished whatever comes.
const YIELDS_IN_A_ROW: u32 = 2;
/// Older checkpoints whose unchanged files are looked for.
const REUSE_FROM: usize = 16;

/// What rounds hand on to the next one.
pub(super) struct Work {
    pub(super) tracker: Tracker,
    /// Commits of the bucket; read once, then kept up to date.
    pub(super) index: Option<Index>,
    /// Attempts that were begun and not ended.
    pub(super) attempts: Vec<AttemptLog>,
    journals_loaded: bool,
    /// When what lost boxes left is looked for again.
    pub(super) sweep_at: Option<Instant>,
    pub(super) yields: u32,
    /// When data of deleted checkpoints is looked for again.
    purge_at: Option<Instant>,
    /// When it is looked again what others did in the bucket.
    pub(super) news_at: Option<Instant>,
    /// Names of commits that are marked there as damaged.
    pub(super) marked: HashSet<String>,
    /// Failures that were already told, by candidate: an outage is one event, not one per round.
    pub(super) told: HashMap<String, String>,
}

impl Work {
    pub(super) fn new(settle: Settle) -> Work {
        Work {
            tracker: Tracker::new(settle),
            index: None,
            attempts: Vec::new(),
            journals_loaded: false,
            sweep_at: None,
            yields: 0,
            purge_at: None,
            news_at: None,
            marked: HashSet::new(),
            told: HashMap::new(),
        }
    }
}

impl Backup {
    /// One round, until there is nothing left to do or `stop` is cancelled.
    pub(super) async fn round_until(
        &self,
        work: &mut Work,
        stop: &CancellationToken,
    ) -> Result<Vec<CheckpointInfo>, BackupError> {
        // A backup that is replaced has no notes any more: they are another one's.
        if self.retired.is_cancelled() {
            return Ok(Vec::new());
        }
        self.look(&mut work.tracker).await?;
        self.load_journals(work).await?;
        if !self.load_index(work, stop).await? {
            return Ok(Vec::new());
        }
        self.hear_news(work, stop).await;
        let (mut committed, mut failure) = self.publish_sealed(work, stop).await;
        if work.purge_at.is_none_or(|at| Instant::now() >= at) {
            let stop = stop.child_token();
            let purge = self.purge(&stop);
            let next = self.attend(&mut work.tracker, |_| false, &stop, purge);
            work.purge_at = Some(next.await);
        }
        let mut passed_over = HashSet::new();
        while !stop.is_cancelled() {
            let ready = work.tracker.ready();
            let Some(next) = ready
                .into_iter()
                .find(|ready| !passed_over.contains(&ready.candidate.key))
            else {
                break;
            };
            let key = next.candidate.key.clone();
            if !self.is_wanted(work, &next.candidate)
                && matches!(self.pinned_as(work, &next.candidate).await, Ok(None))
            {
                debug!(
                    path = next.candidate.path,
                    "newer ones of its row are saved, this one is not worth its upload"
                );
                let missed = self.delete_skipped(work, &next.candidate).await;
                work.tracker.give_up(&key, missed);
                self.tell_state(&work.tracker);
                continue;
            }
            if !self.fits_the_grace(next.candidate.size_bytes()) {
                break;
            }
            match self.save(work, &next, stop).await {
                Ok(Some(info)) => committed.push(info),
                Ok(None) => {}
                Err(UploadError::Stopped) => {
                    if self.pace().flush_by.is_some() {
                        self.tell_interrupted(work, &next);
                        break;
                    }
                }
                Err(UploadError::Changed) => {
                    info!(
                        path = next.candidate.path,
                        "a checkpoint changed during its upload; what it is now starts over"
                    );
                    work.tracker.start_over(&key, self.now());
                    passed_over.insert(key);
                }
                Err(err) => {
                    self.tell_failed(work, &next.candidate, &err);
                    passed_over.insert(key);
                    failure.get_or_insert(BackupError::Upload {
                        path: next.candidate.path.clone(),
                        source: err,
                    });
                }
            }
            self.look(&mut work.tracker).await?;
        }
        self.drop_dead_attempts(work, stop).await;
        if failure.is_none() {
            self.sweep(work, stop).await;
        }
        failure.map_or(Ok(committed), Err)
    }

    async fn load_journals(&self, work: &mut Work) -> Result<(), BackupError> {
        if work.journals_loaded {
            return Ok(());
        }
        let dir = self.state_dir.clone();
        match spawn_blocking(move || journal::load(&dir))
            .await
            .expect("reading journals does not panic")
        {
            Ok(attempts) => work.attempts = attempts,
            Err(err) => {
                warn!(dir = %self.state_dir.display(), error = %err, "upload journals cannot be read; uploads begin anew")
            }
        }
        work.journals_loaded = true;
        Ok(())
    }

    /// Reads the bucket's commits once. Returns whether they are known.
    async fn load_index(
        &self,
        work: &mut Work,
        stop: &CancellationToken,
    ) -> Result<bool, BackupError> {
        if work.index.is_some() {
            return Ok(true);
        }
        let stop = stop.child_token();
        let load = Index::load(&*self.bucket, &self.standing, &stop, &self.places);
        // Both at once: before a box that goes away each answer counts.
        let load = async { tokio::join!(load, self.marked(&stop)) };
        let (loaded, marked) = self.attend(&mut work.tracker, |_| false, &stop, load).await;
        if let Some(marked) = marked {
            self.note_marked(work, marked);
        }
        let loaded = match loaded {
            Ok(index) => index,
            Err(Unanswered::Stopped) => return Ok(false),
            Err(Unanswered::Bucket(err)) => {
                self.standing.state().problem = chain(&err);
                return Err(BackupError::List(err));
            }
        };
        work.index = Some(loaded);
        self.standing.state().problem.clear();
        self.tell_index(work);
        // What the ledger calls saved may not be in this bucket.
        self.look(&mut work.tracker).await?;
        Ok(true)
    }

    pub(super) fn tell_index(&self, work: &Work) {
        let Some(index) = &work.index else { return };
        *self
            .ids
            .lock()
            .expect("nothing panics while it holds the names") = Some(index.ids());
        let mut state = self.standing.state();
        state.committed = index.manifests().count() as u64;
        let newest = index.manifests().next();
        state.last_step = newest.and_then(|newest| newest.step);
        state.last_commit_us = newest.map_or(0, |newest| newest.committed_us);
        state.last_commit = newest.map_or_else(String::new, |newest| newest.id.clone());
    }

    fn is_wanted(&self, work: &Work, candidate: &Candidate) -> bool {
        let newer = self.newer_than(work, candidate);
        // One that every so many steps is kept for good is worth its upload however late; and the best may be any.
        let keep = &self.options.keep;
        keep.every_steps > 0 || keep.best.is_some() || keep.newest().is_none_or(|keep| newer < keep)
    }

    /// Whole commits that were written after a candidate, and succeed it.
    fn newer_than(&self, work: &Work, candidate: &Candidate) -> usize {
        let (written_ms, row) = (self.written_ms(candidate), Row::of_candidate(candidate));
        (work.index.as_ref()).map_or(0, |index| index.newer_than(written_ms, &row))
    }

    /// What the training's log said of a checkpoint, when that decides what is kept.
    fn metric_of(&self, candidate: &Candidate, known: &[&Manifest]) -> Option<Metric> {
        let best = self.options.keep.best.as_ref()?;
        let of = |step: Option<u64>, written_ns: i64| Made {
            step,
            written_us: u64::try_from(written_ns / 1_000).unwrap_or(0),
        };
        let made = of(candidate.step, candidate.written_ns());
        let before = known
            .iter()
            .map(|manifest| {
                let written_ns = manifest.files.iter().map(|file| file.mtime_ns).max();
                of(manifest.step, written_ns.unwrap_or(0))
            })
            .find(|before| match (before.step, made.step) {
                (Some(before), Some(step)) => before < step,
                _ => before.written_us < made.written_us,
            });
        let value = self.measurements().of(made, before)?;
        Metric::new(&best.metric, value)
    }

    /// Carries one checkpoint over. `Ok(None)`: the bucket had it already.
    async fn save(
        &self,
        work: &mut Work,
        ready: &Ready,
        stop: &CancellationToken,
    ) -> Result<Option<CheckpointInfo>, UploadError> {
        let began = Instant::now();
        let stop = stop.child_token();
        let candidate = &ready.candidate;
        let sources = source::open_all(&self.options.dir, candidate, self.options.tripwire).await?;
        let known: Vec<&Manifest> = work.index.iter().flat_map(Index::manifests).collect();
        // What is stored anew is as good as it was, also when the log said so to an agent that is no more.
        let again = work.index.iter().flat_map(Index::doubted);
        let best = self.options.keep.best.as_ref();
        let is_asked = |metric: &&Metric| best.is_some_and(|best| best.metric == metric.name);
        let metric = again
            .filter(|one| looks_like(one, candidate))
            .find_map(|one| one.metric.as_ref().filter(is_asked).cloned());
        let is_doubted = |file: &&ManifestFile| {
            let index = work.index.as_ref();
            index.is_some_and(|index| index.is_doubted(&file.key))
        };
        let mut reused: Vec<&ManifestFile> = (known.iter().take(REUSE_FROM))
            .flat_map(|manifest| &manifest.files)
            .collect();
        reused.retain(|file| !is_doubted(file));

        let resumes = |log: &AttemptLog| {
            log.attempt.candidate.files == candidate.files
                && log.attempt.candidate.path == candidate.path
        };
        let at = match work.attempts.iter().position(resumes) {
            Some(at) => at,
            None => {
                if let Some(id) = self.twin(candidate, &sources, &known).await? {
                    info!(
                        id,
                        path = candidate.path,
                        "the bucket already has this checkpoint"
                    );
                    self.note_saved(&id, candidate).await;
                    return Ok(None);
                }
                work.attempts.push(self.begin(ready).await);
                work.attempts.len() - 1
            }
        };
        let may_yield = work.yields < YIELDS_IN_A_ROW;
        let total = candidate.size_bytes();
        let overtaken = |tracker: &Tracker| {
            let newest = tracker.ready().into_iter().next();
            let is_late = newest.is_some_and(|newest| {
                newest.candidate.is_newer_than(candidate) && newest.candidate.key != candidate.key
            });
            may_yield && is_late && self.standing.state().uploading_done_bytes < total / 2
        };
        // The attempt stays among the others, so that nothing is forgotten when this future is dropped.
        let log = &mut work.attempts[at];
        let job = self.carry_over(log, &sources, &known, &reused, metric, &stop);
        let progress = Progress::of(self, Area::Data, total);
        let ended = self.attend(&mut work.tracker, overtaken, &stop, job).await;
        drop(progress);
        match ended {
            Ok(manifest) => {
                let info = self
                    .settle_commit(work, at, manifest, began.elapsed())
                    .await;
                if let Some(index) = &mut work.index {
                    let delete = self.delete_old(index, &stop);
                    self.attend(&mut work.tracker, |_| false, &stop, delete)
                        .await;
                }
                self.tell_index(work);
                Ok(Some(info))
            }
            Err(err) => {
                if matches!(err, UploadError::Stopped) {
                    work.yields += 1;
                }
                Err(err)
            }
        }
    }

    async fn carry_over(
        &self,
        log: &mut AttemptLog,
        sources: &[Arc<Source>],
        known: &[&Manifest],
        reused: &[&ManifestFile],
        metric: Option<Metric>,
        stop: &CancellationToken,
    ) -> Result<Manifest, UploadError> {
        let uploader = self.uploader(reused, stop);
        uploader.store_all(log, sources).await?;
        let about = About {
            run: self.options.run.clone(),
            attempt: self.options.attempt,
            prev: known.first().map(|newest| newest.id.clone()),
            metric: metric.or_else(|| self.metric_of(&log.attempt.candidate, known)),
        };
        let manifest = uploader.seal(log, sources, &about).await?;
        let bytes = log.attempt.sealed.clone().expect("it was just sealed");
        let published = self.publish_whole(&uploader, &manifest, Bytes::from(bytes));
        if published.await? {
            Ok(manifest)
        } else {
            Err(UploadError::Withdrawn)
        }
    }

    pub(super) fn uploader<'a>(
        &'a self,
        known: &'a [&'a ManifestFile],
        stop: &'a CancellationToken,
    ) -> Uploader<'a> {
        Uploader {
            bucket: &*self.bucket,
            standing: &self.standing,
            stop,
            tempo: &self.tempo,
            places: &self.places,
            area: Area::Data,
            dir: &self.options.dir,
            known,
        }
    }

    async fn begin(&self, ready: &Ready) -> AttemptLog {
        let id = Places::new_id(ready.candidate.step, self.written_ms(&ready.candidate));
        let (dir, rule, candidate) = (
            self.state_dir.clone(),
            ready.rule.clone(),
            ready.candidate.clone(),
        );
        let create = move || AttemptLog::create(&dir, &id, &rule, &candidate);
        let (log, problem) = spawn_blocking(create)
            .await
            .expect("making a journal does not panic");
        if let Some(err) = problem {
            warn!(error = %err, "the upload journal cannot be written; the upload goes on without it");
        }
        log
    }

    /// The commit that holds these very files already, when times and sizes make it likely and every hash agrees. So it is
    /// after our notes were lost, or when a restart gave the files new inodes.
    async fn twin(
        &self,
        candidate: &Candidate,
        sources: &[Arc<Source>],
        known: &[&Manifest],
    ) -> Result<Option<String>, UploadError> {
        let Some(manifest) = known.iter().find(|one| looks_like(one, candidate)) else {
            return Ok(None);
        };
        for (source, file) in sources.iter().zip(&manifest.files) {
            if source.hash().await? != file.blake3 {
                return Ok(None);
            }
        }
        Ok(Some(manifest.id.clone()))
    }

    /// Attempts whose files are gone or changed will never be finished: their parts and objects go.
    async fn drop_dead_attempts(&self, work: &mut Work, stop: &CancellationToken) {
        let mut alive = Vec::new();
        for log in std::mem::take(&mut work.attempts) {
            if log.attempt.sealed.is_some()
                || work.tracker.still_waits(&log.attempt.candidate)
                || stop.is_cancelled()
            {
                alive.push(log);
            } else if self.delete_attempt(&log.attempt.id).await {
                remove(log).await;
            } else {
                alive.push(log);
            }
        }
        work.attempts = alive;
    }
}

/// Whether a commit may hold these very files: names, sizes and times agree.
pub(super) fn looks_like(manifest: &Manifest, candidate: &Candidate) -> bool {
    let mut pairs = manifest.files.iter().zip(&candidate.files);
    manifest.path == candidate.path_in_manifest()
        && manifest.files.len() == candidate.files.len()
        && pairs.all(|(theirs, ours)| {
            theirs.path == ours.path
                && theirs.size_bytes == ours.size_bytes
                && theirs.mtime_ns == ours.mtime_ns
        })
}

pub(super) async fn remove(log: AttemptLog) {
    let removed = spawn_blocking(move || log.remove())
        .await
        .expect("removing a journal does not panic");
    if let Err(err) = removed {
        warn!(error = %err, "a finished upload journal cannot be removed");
    }
}
