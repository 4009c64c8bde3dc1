//! Eyes on the directory: what is there, what is finished, whether we are behind, whether what we do still makes sense.
//!
//! [`Backup::look`] is one look; [`Backup::attend`] keeps looking while the bucket is busy.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::alarm::{self, Facts};
use super::candidate::Candidate;
use super::complete::{Finding, Haste, Ready, Refused, Tracker};
use super::ledger::Saved;
use super::look::{self, Context};
use super::round::Work;
use super::rules::shape::Shape;
use super::standing::chain;
use super::upload::{Area, UploadError};
use super::{Backup, BackupError, Blind, humble, hurry, index, landing, room, scan};
use crate::{now_us, tasks::spawn_blocking};

/// Wait between two looks at the directory while the bucket is busy.
const WATCH: Duration = Duration::from_secs(1);
/// How long a checkpoint is unsaved, by its own fault, before that is told: a writer may pause for a while.
const UNSAVED_AFTER: Duration = Duration::from_secs(60);
/// Share of the grace that an upload may be expected to take: the commit and its read-back come after it.
const GRACE_SHARE: f64 = 0.8;
/// Most checkpoints that the status names one by one.
const NAMED: usize = 20;
/// Shortest upload whose rate means anything.
const RATE_AFTER: Duration = Duration::from_secs(1);

/// What lies in the directory.
struct Listing {
    /// Candidates that are in no commit.
    unsaved: Vec<Candidate>,
    /// Shapes of those that are, and were written in this session.
    finished: Vec<Shape>,
    /// Shapes of all.
    there: Vec<Shape>,
    /// How many there are, and the largest, bytes.
    count: u64,
    largest_bytes: u64,
}

/// Checkpoints that are found within so long of each other belong to one save.
pub(super) const SAME_SAVE: Duration = Duration::from_secs(30);

impl Backup {
    /// Looks at the directory: what is there, what is finished, whether we are behind.
    pub(super) async fn look(&self, tracker: &mut Tracker) -> Result<(), BackupError> {
        let dir = self.options.dir.clone();
        let (ledger, ids) = (Arc::clone(&self.ledger), Arc::clone(&self.ids));
        let (began_us, first_us) = {
            let pace = self.pace();
            (pace.training_since_us, pace.first_training_us)
        };
        let when = self.options.complete_when.clone();
        let listing = move || -> io::Result<Listing> {
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
            // Those of an earlier session may have been written by another number of GPUs.
            let began_ns = began_us.map_or(i64::MIN, |us| {
                i64::try_from(us).unwrap_or(i64::MAX).saturating_mul(1_000)
            });
            let saved = ledger.saved().map(Saved::candidate);
            let finished = saved
                .filter(|candidate| candidate.written_ns() >= began_ns)
                .filter_map(|candidate| Shape::of(&candidate))
                .collect();
            let mut found = scan::scan(&dir)?;
            if let Some(when) = &when {
                found.retain(|one| one.directory || !when.is_marker(&one.path));
            }
            // Where a link led before any training, it leads to what somebody has elsewhere.
            let first_ns = first_us.map_or(i64::MAX, |us| {
                i64::try_from(us).unwrap_or(i64::MAX).saturating_mul(1_000)
            });
            found.retain(|one| !one.key.starts_with("link:") || one.written_ns() >= first_ns);
            let there = found.iter().filter_map(Shape::of).collect();
            let sizes = found.iter().map(Candidate::size_bytes);
            let (count, largest_bytes) = (found.len() as u64, sizes.max().unwrap_or(0));
            Ok(Listing {
                unsaved: found.into_iter().filter(|one| !is_saved(one)).collect(),
                finished,
                there,
                count,
                largest_bytes,
            })
        };
        let listing = spawn_blocking(listing)
            .await
            .expect("a scan does not panic");
        let listing = match listing {
            Ok(listing) => listing,
            Err(source) => {
                let path = self.options.dir.clone();
                let err = BackupError::Disk { path, source };
                self.tell_blind(chain(&err));
                return Err(err);
            }
        };
        self.tell_seen();
        let haste = self.haste();
        tracker.deaths.clone_from(&self.pace().deaths);
        tracker.observe(listing.unsaved, self.now());
        let due = tracker.due(self.now(), haste);
        let mut context = Context {
            dir: self.options.dir.clone(),
            finished: listing.finished,
            there: listing.there,
            when: self.options.complete_when.clone(),
            tripwire: self.options.tripwire,
            ranks: self.pace().ranks,
            ended: haste == Haste::Final,
            hurried: haste == Haste::Proven,
            now_ns: i64::try_from(now_us())
                .unwrap_or(i64::MAX)
                .saturating_mul(1_000),
        };
        if !due.is_empty() {
            context.finished.extend(tracker.shapes());
        }
        let context = Arc::new(context);
        let mut found_one = false;
        for candidate in due {
            let (context, looked_at) = (Arc::clone(&context), candidate.clone());
            let finding = spawn_blocking(move || look::look(&context, &looked_at))
                .await
                .expect("a look does not panic");
            let finding = finding
                .unwrap_or_else(|err| Finding::Broken(format!("it could not be read: {err}")));
            debug!(path = candidate.path, ?finding, "looked at a checkpoint");
            if tracker.judge(&candidate, finding, self.now(), haste) {
                let (path, step) = (candidate.path_in_manifest(), candidate.step);
                let size_bytes = candidate.size_bytes();
                let mut detail = json!({ "path": path, "step": step, "size_bytes": size_bytes, "files": candidate.files.len() });
                if candidate.directory && !candidate.is_flat() {
                    let (dir, name) = (self.options.dir.clone(), candidate.path.clone());
                    let left_out = spawn_blocking(move || scan::left_out(&dir, &name));
                    let left_out = left_out.await.expect("reading a directory does not panic");
                    if !left_out.is_empty() {
                        detail["left_out"] = json!(left_out);
                    }
                }
                self.standing.event("checkpoint.found", detail);
                found_one = true;
                if let Some(began_us) = began_us {
                    let written_us = u64::try_from(candidate.written_ns() / 1_000).unwrap_or(0);
                    let (cadence, path) = (Arc::clone(&self.cadence), candidate.path_in_manifest());
                    let note = move || {
                        let cadence = cadence.lock();
                        let mut cadence =
                            cadence.expect("nothing panics while it holds the cadence");
                        cadence.found(began_us, written_us, &path);
                    };
                    spawn_blocking(note)
                        .await
                        .expect("writing a note does not panic");
                }
            }
        }
        if found_one {
            let interval = self.note_found();
            self.tell_room(listing.count, listing.largest_bytes, interval)
                .await;
        }
        self.tell_state(tracker);
        Ok(())
    }

    /// Takes note of when a checkpoint was found finished, and returns how long that was after the one before it.
    fn note_found(&self) -> Option<Duration> {
        let now = self.now();
        let mut pace = self.pace();
        let interval = now.saturating_sub(pace.last_found.replace(now)?);
        // What is found so soon is more of the same save: a directory of each rank, or the best beside the last.
        if interval >= SAME_SAVE {
            pace.intervals.rotate_right(1);
            pace.intervals[0] = interval;
        }
        Some(interval)
    }

    /// Warns before the disk is too small for the checkpoints to come; called when one was found finished.
    async fn tell_room(&self, there: u64, largest_bytes: u64, interval: Option<Duration>) {
        let dir = self.options.dir.clone();
        let free = spawn_blocking(move || landing::free_bytes(&dir))
            .await
            .expect("asking for free space does not panic");
        let free_bytes = match free {
            Ok(free_bytes) => free_bytes,
            Err(err) => {
                debug!(?err, "the free space is not known");
                return;
            }
        };
        let keep = &self.options.keep;
        let behind = self.standing.state().alarm;
        let best = keep.best.as_ref().map_or(0, |best| u64::from(best.count));
        let kept = keep.newest().map(|newest| newest as u64 + best);
        let short = room::shortage(&room::Facts {
            free_bytes,
            largest_bytes,
            there,
            kept: kept.filter(|_| !behind),
            interval,
        });
        let Some(short) = short else {
            return self.standing.set_room(None);
        };
        let detail = json!({
            "free_bytes": free_bytes, "largest_bytes": largest_bytes, "there": there, "kept": kept, "fit": short.fit,
            "full_in_s": short.full_in.map(|left| left.as_secs()), "behind": behind,
        });
        self.standing.set_room(Some(detail));
    }

    /// What lies in the directory is not known any more: nothing that was said of it holds. An alarm, which may end the training, is
    /// raised as for any backup that is behind: after its interval.
    fn tell_blind(&self, problem: String) {
        let since = self.blind().as_ref().map(|blind| blind.since);
        let since = since.unwrap_or_else(|| self.now());
        {
            let mut state = self.standing.state();
            state.unseen = true;
            state.problem.clone_from(&problem);
        }
        let every = self.options.every;
        if !every.is_zero() && self.now().saturating_sub(since) > every {
            self.standing.set_alarm(Some(problem.clone()));
        }
        *self.blind() = Some(Blind { problem, since });
    }

    /// It could be read.
    fn tell_seen(&self) {
        let was = self.blind().take();
        let mut state = self.standing.state();
        if was.is_some_and(|was| was.problem == state.problem) {
            state.problem.clear();
        }
    }

    pub(super) fn tell_state(&self, tracker: &Tracker) {
        let ready = tracker.ready();
        let last_saved_ms = {
            let ids = self
                .ids
                .lock()
                .expect("nothing panics while it holds the names");
            let offset_ms = self.clock_offset_ms();
            let newest = ids
                .iter()
                .flatten()
                .filter_map(|id| index::written_ms(id))
                .max();
            newest.map(|ms| ms.saturating_add_signed(-offset_ms))
        };
        *self
            .next_look
            .lock()
            .expect("nothing panics while it holds this lock") = tracker.next_look();
        let refused = self.tell_refused(tracker, last_saved_ms);
        let blind = self.blind().is_some();
        {
            let mut state = self.standing.state();
            state.pending = ready.len() as u64;
            let mut at_stake = tracker.at_stake(last_saved_ms);
            state.unsaved_bytes = at_stake.iter().map(|(_, bytes)| bytes).sum();
            at_stake.truncate(NAMED);
            state.at_stake = at_stake;
            state.here_alone_bytes = tracker.here_alone_bytes();
            state.unseen = blind;
        }
        self.decide_rank(&ready);
        let facts = {
            let pace = self.pace();
            Facts {
                now: self.now(),
                every: self.options.every,
                waiting_since: ready.iter().map(|ready| ready.ready_at).min(),
                training_since: pace.training_since,
                last_commit: pace.last_commit,
                interval: pace.interval(),
                refused,
            }
        };
        self.standing.set_alarm(alarm::behind(&facts));
    }

    /// The training comes first while the backup keeps up, and the backup when it does not.
    fn decide_rank(&self, ready: &[Ready]) {
        let left_bytes = {
            let state = self.standing.state();
            state
                .uploading_total_bytes
                .saturating_sub(state.uploading_done_bytes)
        };
        let facts = {
            let pace = self.pace();
            hurry::Facts {
                now: self.now(),
                every: self.options.every,
                interval: pace.interval(),
                waiting: ready.len(),
                waiting_since: ready.iter().map(|ready| ready.ready_at).min(),
                left_bytes,
                bytes_per_s: pace.bytes_per_s,
                is_ending: pace.finals > 0 || pace.flush_by.is_some(),
            }
        };
        humble::set_rank(hurry::rank(&facts, humble::rank()));
    }

    /// Names what cannot be saved, once it has been so for a while or when nobody writes any more, and returns the oldest of it that
    /// matters: what is older than the newest commit was perhaps never meant to be finished. What cannot be read may be whole.
    fn tell_refused(
        &self,
        tracker: &Tracker,
        last_saved_ms: Option<u64>,
    ) -> Option<(Duration, String)> {
        let is_newest = |refused: &Refused| {
            let written_ms = u64::try_from(refused.written_ns / 1_000_000).unwrap_or(0);
            last_saved_ms.is_none_or(|saved| written_ms > saved)
        };
        let mut refused = tracker.refused();
        refused.retain(|one| one.is_unreadable || is_newest(one));
        let (now, ended) = (self.now(), self.haste() == Haste::Final);
        let is_told = |one: &&Refused| {
            one.is_final || (ended && !one.may_settle) || now >= one.since + UNSAVED_AFTER
        };
        let mut unsaved = Vec::new();
        for one in refused.iter().filter(is_told) {
            unsaved.push(format!("{}: {}", one.path, one.reason));
            self.standing.tell_unsaved(one, now);
        }
        self.standing.state().unsaved = unsaved;
        // A newer commit ends an alarm about anything.
        refused.retain(is_newest);
        alarm::oldest(&refused)
    }

    fn haste(&self) -> Haste {
        let pace = self.pace();
        match (pace.finals, pace.flush_by) {
            (0, None) => Haste::None,
            (0, Some(_)) => Haste::Proven,
            _ => Haste::Final,
        }
    }

    /// Does a job while the directory is watched; `overtaken` may end it in favour of something newer.
    pub(super) async fn attend<T>(
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
    pub(super) fn fits_the_grace(&self, bytes: u64) -> bool {
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

    pub(super) fn tell_failed(&self, work: &mut Work, candidate: &Candidate, err: &UploadError) {
        let problem = chain(err);
        self.standing.state().problem.clone_from(&problem);
        if work.told.get(&candidate.key) != Some(&problem) {
            let path = candidate.path_in_manifest();
            let detail = json!({ "path": path, "step": candidate.step, "problem": problem });
            self.standing.event("checkpoint.failed", detail);
            work.told.insert(candidate.key.clone(), problem);
        }
    }

    pub(super) fn tell_interrupted(&self, work: &Work, ready: &Ready) {
        let candidate = &ready.candidate;
        let done = work
            .attempts
            .iter()
            .find(|log| log.attempt.candidate.key == candidate.key)
            .map_or(0, |log| log.attempt.done_bytes());
        let problem = "the box goes away before its upload can end";
        let (path, size_bytes) = (candidate.path_in_manifest(), candidate.size_bytes());
        let detail = json!({ "path": path, "step": candidate.step, "problem": problem, "done_bytes": done, "size_bytes": size_bytes });
        self.standing.event("checkpoint.failed", detail);
    }
}

/// While it lives, an upload is in progress.
pub(super) struct Progress<'a>(&'a Backup, Area);

impl Progress<'_> {
    pub(super) fn of(backup: &Backup, area: Area, total_bytes: u64) -> Progress<'_> {
        let progress = Progress(backup, area);
        progress.tell(total_bytes);
        progress
    }

    fn tell(&self, total_bytes: u64) {
        let mut state = self.0.standing.state();
        let (done, total) = state.upload(self.1);
        (*done, *total) = (0, total_bytes);
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        self.tell(0);
    }
}
