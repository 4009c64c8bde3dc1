//! One round of the backup: look, choose the newest finished checkpoint, carry it over, look again.
//!
//! While the bucket is busy the directory is still watched, so that a newer checkpoint can overtake and the alarm is never late.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use spotter_bucket::Manifest;
use tokio::task;
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::alarm::{self, Facts};
use super::commit::{About, now_us};
use super::complete::{Candidate, Finding, Haste, Ready, Settle, Tracker};
use super::index::Index;
use super::journal::{self, AttemptLog};
use super::places::Places;
use super::source::{self, Source};
use super::standing::{Unanswered, chain};
use super::upload::{Area, UploadError, Uploader};
use super::{Backup, BackupError, CheckpointInfo, retention, scan};

/// Wait between two looks at the directory while the bucket is busy.
const WATCH: Duration = Duration::from_secs(1);
/// Uploads that may yield to a newer checkpoint, one after the other, before one is finished whatever comes.
const YIELDS_IN_A_ROW: u32 = 2;
/// Older checkpoints whose unchanged files are looked for.
const REUSE_FROM: usize = 16;
/// Share of the grace that an upload may be expected to take: the commit and its read-back come after it.
const GRACE_SHARE: f64 = 0.8;
/// Shortest upload whose rate means anything.
const RATE_AFTER: Duration = Duration::from_secs(1);

/// What rounds hand on to the next one.
pub(super) struct Work {
    pub(super) tracker: Tracker,
    /// Commits of the bucket; read once, then kept up to date.
    pub(super) index: Option<Index>,
    /// Attempts that were begun and not ended.
    pub(super) attempts: Vec<AttemptLog>,
    journals_loaded: bool,
    yields: u32,
    /// Failures that were already told, by candidate: an outage is one event, not one per round.
    told: HashMap<String, String>,
}

impl Work {
    pub(super) fn new(settle: Settle) -> Work {
        Work {
            tracker: Tracker::new(settle),
            index: None,
            attempts: Vec::new(),
            journals_loaded: false,
            yields: 0,
            told: HashMap::new(),
        }
    }
}

/// How the upload of one checkpoint ended.
enum Ended {
    Committed(Box<Manifest>),
    /// The bucket had it already, under this name.
    Known(String),
}

impl Backup {
    /// One round, until there is nothing left to do or `stop` is cancelled.
    pub(super) async fn round_until(
        &self,
        work: &mut Work,
        stop: &CancellationToken,
    ) -> Result<Vec<CheckpointInfo>, BackupError> {
        self.look(&mut work.tracker).await?;
        self.load_journals(work).await?;
        if !self.load_index(work, stop).await? {
            return Ok(Vec::new());
        }
        let mut committed = self.publish_sealed(work, stop).await?;
        let mut passed_over = HashSet::new();
        let mut failure = None;
        while !stop.is_cancelled() {
            let ready = work.tracker.ready();
            let Some(next) = ready
                .into_iter()
                .find(|ready| !passed_over.contains(&ready.candidate.key))
            else {
                break;
            };
            let key = next.candidate.key.clone();
            if !self.is_wanted(work, &next.candidate) {
                debug!(
                    path = next.candidate.path,
                    "newer checkpoints are saved, this one is not worth its upload"
                );
                work.tracker.give_up(&key);
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
                    work.tracker.start_over(&key);
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
        failure.map_or(Ok(committed), Err)
    }

    /// Looks at the directory: what is there, what is finished, whether we are behind.
    pub(super) async fn look(&self, tracker: &mut Tracker) -> Result<(), BackupError> {
        let dir = self.options.dir.clone();
        let (ledger, ids) = (Arc::clone(&self.ledger), Arc::clone(&self.ids));
        let unsaved = move || -> io::Result<Vec<Candidate>> {
            // Held during the scan, so that a restore cannot put files there between the scan and the question who they are.
            let ledger = ledger
                .lock()
                .expect("nothing panics while it holds the ledger");
            let ids = ids.lock().expect("nothing panics while it holds the names");
            let is_saved = |candidate: &Candidate| {
                ledger
                    .commit_of(candidate)
                    .is_some_and(|id| ids.as_ref().is_none_or(|ids| ids.contains(id)))
            };
            Ok(scan::scan(&dir)?
                .into_iter()
                .filter(|candidate| !is_saved(candidate))
                .collect())
        };
        let found = task::spawn_blocking(unsaved)
            .await
            .expect("a scan does not panic");
        let found = found.map_err(|source| BackupError::Disk {
            path: self.options.dir.clone(),
            source,
        })?;
        let haste = self.haste();
        tracker.observe(found, self.now());
        for candidate in tracker.due(self.now(), haste) {
            let (dir, looked_at) = (self.options.dir.clone(), candidate.clone());
            let finding = task::spawn_blocking(move || scan::look(&dir, &looked_at))
                .await
                .expect("a look does not panic");
            let finding = finding
                .unwrap_or_else(|err| Finding::Broken(format!("it could not be read: {err}")));
            if let Finding::Broken(reason) = &finding {
                debug!(path = candidate.path, reason, "a checkpoint is not whole");
            }
            if tracker.judge(&candidate, finding, self.now(), haste) {
                let (path, step, size_bytes) =
                    (&candidate.path, candidate.step, candidate.size_bytes());
                let detail = json!({ "path": path, "step": step, "size_bytes": size_bytes, "files": candidate.files.len() });
                self.standing.event("checkpoint.found", detail);
            }
        }
        self.tell_state(tracker);
        Ok(())
    }

    fn tell_state(&self, tracker: &Tracker) {
        let ready = tracker.ready();
        {
            let mut state = self.standing.state();
            state.pending = ready.len() as u64;
            state.unsaved_bytes = tracker.unsaved_bytes();
        }
        let facts = {
            let pace = self.pace();
            Facts {
                now: self.now(),
                every: self.options.every,
                waiting_since: ready.iter().map(|ready| ready.ready_at).min(),
                training_since: pace.training_since,
                last_commit: pace.last_commit,
            }
        };
        self.standing.set_alarm(alarm::behind(&facts));
    }

    fn haste(&self) -> Haste {
        let pace = self.pace();
        match (pace.finals, pace.flush_by) {
            (0, None) => Haste::None,
            (0, Some(_)) => Haste::Proven,
            _ => Haste::Final,
        }
    }

    async fn load_journals(&self, work: &mut Work) -> Result<(), BackupError> {
        if work.journals_loaded {
            return Ok(());
        }
        let dir = self.state_dir.clone();
        match task::spawn_blocking(move || journal::load(&dir))
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
        let loaded = match self.attend(&mut work.tracker, |_| false, &stop, load).await {
            Ok(index) => index,
            Err(Unanswered::Stopped) => return Ok(false),
            Err(Unanswered::Bucket(err)) => {
                self.standing.state().problem = chain(&err);
                return Err(BackupError::List(err));
            }
        };
        self.finish_deletes(&loaded, &stop).await;
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

    /// Does a job while the directory is watched; `overtaken` may end it in favour of something newer.
    async fn attend<T>(
        &self,
        tracker: &mut Tracker,
        overtaken: impl Fn(&Tracker) -> bool,
        stop: &CancellationToken,
        job: impl Future<Output = T>,
    ) -> T {
        let began = Instant::now();
        let begun_at = self.standing.state().uploading_done_bytes;
        let watch = async {
            loop {
                time::sleep(WATCH).await;
                if let Err(err) = self.look(tracker).await {
                    warn!(error = %chain(&err), "the checkpoint directory cannot be watched");
                }
                let (done, total) = {
                    let state = self.standing.state();
                    (state.uploading_done_bytes, state.uploading_total_bytes)
                };
                if began.elapsed() >= RATE_AFTER && done > begun_at {
                    self.pace().bytes_per_s =
                        Some((done - begun_at) as f64 / began.elapsed().as_secs_f64());
                }
                if overtaken(tracker) || !self.fits_the_grace(total.saturating_sub(done)) {
                    stop.cancel();
                }
            }
        };
        tokio::select! {
            biased;
            outcome = job => outcome,
            () = watch => unreachable!("the watch has no end"),
        }
    }

    /// Whether so many bytes can be expected to arrive before the box goes away. Without a measured rate we try.
    fn fits_the_grace(&self, bytes: u64) -> bool {
        let pace = self.pace();
        let Some(until) = pace.flush_by else {
            return true;
        };
        let left = until.saturating_duration_since(Instant::now());
        let expected = pace
            .bytes_per_s
            .map_or(0.0, |rate| bytes as f64 / rate.max(1.0));
        !left.is_zero() && expected <= left.as_secs_f64() * GRACE_SHARE
    }

    fn is_wanted(&self, work: &Work, candidate: &Candidate) -> bool {
        let newer = work
            .index
            .as_ref()
            .map_or(0, |index| index.newer_than(self.written_ms(candidate)));
        retention::kept(self.options.keep_last).is_none_or(|keep| newer < keep)
    }

    /// When a checkpoint was written, by the bucket's clock, so that boxes with different clocks agree about what is newer.
    fn written_ms(&self, candidate: &Candidate) -> u64 {
        let written_us =
            (candidate.written_ns() / 1_000).clamp(0, i64::try_from(now_us()).unwrap_or(i64::MAX));
        let offset_us = (self.bucket.clock_offset_s() * 1e6) as i64;
        u64::try_from(written_us.saturating_add(offset_us)).unwrap_or(0) / 1_000
    }

    /// Carries one checkpoint over. `Ok(None)`: there was nothing to do.
    async fn save(
        &self,
        work: &mut Work,
        ready: &Ready,
        stop: &CancellationToken,
    ) -> Result<Option<CheckpointInfo>, UploadError> {
        let began = Instant::now();
        let stop = stop.child_token();
        let candidate = &ready.candidate;
        let resumes = |log: &AttemptLog| {
            log.attempt.candidate.files == candidate.files
                && log.attempt.candidate.path == candidate.path
        };
        let mut log = work
            .attempts
            .iter()
            .position(resumes)
            .map(|at| work.attempts.remove(at));
        let known: Vec<Manifest> = work
            .index
            .iter()
            .flat_map(Index::manifests)
            .take(REUSE_FROM)
            .cloned()
            .collect();

        let may_yield = work.yields < YIELDS_IN_A_ROW;
        let total = candidate.size_bytes();
        let overtaken = |tracker: &Tracker| {
            let newest = tracker.ready().into_iter().next();
            let is_late = newest.is_some_and(|newest| {
                newest.candidate.is_newer_than(candidate) && newest.candidate.key != candidate.key
            });
            may_yield && is_late && self.standing.state().uploading_done_bytes < total / 2
        };
        {
            let mut state = self.standing.state();
            (state.uploading_done_bytes, state.uploading_total_bytes) = (0, total);
        }
        let progress = Progress(self);
        let job = self.carry_over(ready, &mut log, &known, &stop);
        let ended = self.attend(&mut work.tracker, overtaken, &stop, job).await;
        drop(progress);

        match ended {
            Ok(Ended::Committed(manifest)) => {
                let log = log.expect("a commit has an attempt");
                let info = self
                    .settle_commit(work, log, *manifest, began.elapsed())
                    .await;
                self.delete_old(work, &stop).await;
                Ok(Some(info))
            }
            Ok(Ended::Known(id)) => {
                info!(
                    id,
                    path = candidate.path,
                    "the bucket already has this checkpoint"
                );
                self.note_saved(&id, candidate).await;
                self.look(&mut work.tracker)
                    .await
                    .map_err(|_| UploadError::Changed)?;
                Ok(None)
            }
            Err(err) => {
                work.attempts.extend(log);
                if matches!(err, UploadError::Stopped) {
                    work.yields += 1;
                }
                Err(err)
            }
        }
    }

    async fn carry_over(
        &self,
        ready: &Ready,
        slot: &mut Option<AttemptLog>,
        known: &[Manifest],
        stop: &CancellationToken,
    ) -> Result<Ended, UploadError> {
        let candidate = &ready.candidate;
        let sources = source::open_all(&self.options.dir, candidate).await?;
        if slot.is_none() {
            if let Some(id) = self.twin(candidate, &sources, known).await? {
                return Ok(Ended::Known(id));
            }
            *slot = Some(self.begin(ready).await);
        }
        let log = slot.as_mut().expect("it was just filled");
        let uploader = self.uploader(known, stop);
        uploader.store_all(log, &sources).await?;
        let about = About {
            run: self.options.run.clone(),
            attempt: self.options.attempt,
            prev: known.first().map(|newest| newest.id.clone()),
        };
        let manifest = uploader.seal(log, &sources, &about).await?;
        let bytes = log.attempt.sealed.clone().expect("it was just sealed");
        uploader.publish(&manifest.id, Bytes::from(bytes)).await?;
        Ok(Ended::Committed(Box::new(manifest)))
    }

    fn uploader<'a>(&'a self, known: &'a [Manifest], stop: &'a CancellationToken) -> Uploader<'a> {
        Uploader {
            bucket: &*self.bucket,
            standing: &self.standing,
            stop,
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
        let (log, problem) = task::spawn_blocking(create)
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
        known: &[Manifest],
    ) -> Result<Option<String>, UploadError> {
        let is_likely = |manifest: &&Manifest| {
            manifest.path == candidate.path_in_manifest()
                && manifest.files.len() == candidate.files.len()
                && manifest
                    .files
                    .iter()
                    .zip(&candidate.files)
                    .all(|(theirs, ours)| {
                        theirs.path == ours.path
                            && theirs.size_bytes == ours.size_bytes
                            && theirs.mtime_ns == ours.mtime_ns
                    })
        };
        let Some(manifest) = known.iter().find(is_likely) else {
            return Ok(None);
        };
        for (source, file) in sources.iter().zip(&manifest.files) {
            if source.hash().await? != file.blake3 {
                return Ok(None);
            }
        }
        Ok(Some(manifest.id.clone()))
    }

    /// Commits that were sealed before a crash: everything is stored, only the commit may be missing.
    async fn publish_sealed(
        &self,
        work: &mut Work,
        stop: &CancellationToken,
    ) -> Result<Vec<CheckpointInfo>, BackupError> {
        let mut committed = Vec::new();
        while let Some(at) = work
            .attempts
            .iter()
            .position(|log| log.attempt.sealed.is_some())
        {
            let log = work.attempts.remove(at);
            let bytes = Bytes::from(log.attempt.sealed.clone().unwrap_or_default());
            let Ok(manifest) = Manifest::open(&bytes) else {
                warn!(
                    id = log.attempt.id,
                    "a sealed manifest in the journal is damaged; its upload begins anew"
                );
                remove(log).await;
                continue;
            };
            let began = Instant::now();
            let stop = stop.child_token();
            let uploader = self.uploader(&[], &stop);
            let publish = uploader.publish(&manifest.id, bytes);
            match self
                .attend(&mut work.tracker, |_| false, &stop, publish)
                .await
            {
                Ok(_) => committed.push(
                    self.settle_commit(work, log, manifest, began.elapsed())
                        .await,
                ),
                Err(err) => {
                    let path = log.attempt.candidate.path.clone();
                    work.attempts.push(log);
                    if matches!(err, UploadError::Stopped) {
                        break;
                    }
                    return Err(BackupError::Upload { path, source: err });
                }
            }
        }
        Ok(committed)
    }

    /// Everything that follows from a commit that was read back.
    async fn settle_commit(
        &self,
        work: &mut Work,
        log: AttemptLog,
        manifest: Manifest,
        took: Duration,
    ) -> CheckpointInfo {
        let info = CheckpointInfo::from(&manifest);
        let candidate = log.attempt.candidate.clone();
        self.note_saved(&manifest.id, &candidate).await;
        remove(log).await;
        let had_parts = manifest.files.iter().any(|file| file.part_size_bytes > 0);
        work.index.get_or_insert_default().insert(manifest);
        work.yields = 0;
        work.told.remove(&candidate.key);
        self.standing.state().problem.clear();
        self.pace().last_commit = Some(self.now());
        self.tell_index(work);
        self.standing.event(
            "checkpoint.committed",
            json!({
                "id": info.id, "step": info.step, "path": info.path, "size_bytes": info.size_bytes, "files": info.files,
                "seconds": took.as_secs_f64(),
            }),
        );
        info!(
            id = info.id,
            path = info.path,
            size_bytes = info.size_bytes,
            "checkpoint committed"
        );
        if had_parts {
            // A lost answer to CreateMultipartUpload leaves an upload that nobody knows of.
            self.abort_uploads(&info.id).await;
        }
        if let Err(err) = self.look(&mut work.tracker).await {
            warn!(error = %chain(&err), "the checkpoint directory cannot be read");
        }
        info
    }

    async fn note_saved(&self, id: &str, candidate: &Candidate) {
        let (ledger, id, candidate) = (Arc::clone(&self.ledger), id.to_owned(), candidate.clone());
        let record = move || {
            ledger
                .lock()
                .expect("nothing panics while it holds the ledger")
                .record(&id, &candidate)
        };
        if let Err(err) = task::spawn_blocking(record)
            .await
            .expect("writing the ledger does not panic")
        {
            warn!(error = %err, "the ledger of saved checkpoints cannot be written; a restart will compare them with the bucket");
        }
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

    fn tell_failed(&self, work: &mut Work, candidate: &Candidate, err: &UploadError) {
        let problem = chain(err);
        self.standing.state().problem.clone_from(&problem);
        if work.told.get(&candidate.key) != Some(&problem) {
            let detail =
                json!({ "path": candidate.path, "step": candidate.step, "problem": problem });
            self.standing.event("checkpoint.failed", detail);
            work.told.insert(candidate.key.clone(), problem);
        }
    }

    fn tell_interrupted(&self, work: &Work, ready: &Ready) {
        let candidate = &ready.candidate;
        let done = work
            .attempts
            .iter()
            .find(|log| log.attempt.candidate.key == candidate.key)
            .map_or(0, |log| log.attempt.done_bytes());
        let problem = "the box goes away before its upload can end";
        let (path, size_bytes) = (&candidate.path, candidate.size_bytes());
        let detail = json!({ "path": path, "step": candidate.step, "problem": problem, "done_bytes": done, "size_bytes": size_bytes });
        self.standing.event("checkpoint.failed", detail);
    }
}

/// While it lives, an upload is in progress.
struct Progress<'a>(&'a Backup);

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        let mut state = self.0.standing.state();
        (state.uploading_done_bytes, state.uploading_total_bytes) = (0, 0);
    }
}

async fn remove(log: AttemptLog) {
    let removed = task::spawn_blocking(move || log.remove())
        .await
        .expect("removing a journal does not panic");
    if let Err(err) = removed {
        warn!(error = %err, "a finished upload journal cannot be removed");
    }
}
