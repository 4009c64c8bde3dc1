//! Deletes what may go: old checkpoints on the box and in the bucket, and what dead attempts left behind.
//!
//! On the box first, while the commit still exists. In the bucket in two phases (see [`spotter_bucket::vault`]): the commit now, its data
//! when the grace is over. What fails here is told and tried again; saving never waits for it, not even for keys that may not delete.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use serde_json::json;
use spotter_bucket::{BucketError, CommitId, ErrorKind, Manifest, retention};
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::candidate::Candidate;
use super::complete::Refused;
use super::index::{self, Index};
use super::ledger::{Ledger, Saved};
use super::round::{Work, looks_like};
use super::standing::chain;
use super::{Backup, scan, skipped};
use crate::fault;
use crate::tasks::spawn_blocking;

/// Longest and shortest wait between two looks for data whose grace is over.
const PURGE_EVERY: (Duration, Duration) = (Duration::from_secs(3600), Duration::from_secs(60));

/// Wait after keys turned out not to be allowed to delete: what each try puts in the bucket stays there.
const DENIED_WAIT: Duration = Duration::from_secs(3600);

/// Times that an upload nobody wants is asked for, and the wait after the first.
const SWEEP_TRIES: u32 = 5;
const SWEEP_WAIT: Duration = Duration::from_secs(1);

/// What keeps old checkpoints from being deleted.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    /// As it was told last; empty: nothing.
    told: String,
    /// No new try before.
    until: Option<Instant>,
}

impl Backup {
    /// Deletes what retention lets go. Only called after a newer commit was read back.
    pub(super) async fn delete_old(&self, index: &mut Index, stop: &CancellationToken) {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            deleted = self.bury_old(index) => match deleted {
                Ok(true) => *self.trouble() = Trouble::default(),
                Ok(false) => {}
                Err(err) => self.tell_trouble(&err),
            }
        }
    }

    /// Whether anything was deleted.
    async fn bury_old(&self, index: &mut Index) -> Result<bool, BucketError> {
        // As on the box, so in the bucket: what was put here before the training stays in both.
        let mut stay = self.put_here();
        let (doomed, overtaken) = self.may_go(index, &stay);
        if (doomed.is_empty() && overtaken.is_empty()) || self.must_not_delete() {
            return Ok(false);
        }
        let vault = self.places.vault(&*self.bucket);
        let pinned = vault.holds(self.server_us() / 1_000).await?.pinned;
        for (whole, damaged) in index.stand_ins(&pinned) {
            // Its pin failed, or nobody could say that it needs one: it stays all the same, and is pinned before anything goes.
            if !pinned.contains(&whole) && self.bucket.has_keys() {
                self.pin_instead(&whole, &damaged).await;
            }
            stay.insert(whole);
        }
        stay.extend(pinned);
        let (doomed, overtaken) = self.may_go(index, &stay);
        let mut ids: HashSet<String> = doomed.iter().map(CommitId::to_string).collect();
        if self.options.keep.is_by_age() {
            ids.extend(overtaken.iter().map(CommitId::to_string));
        }
        // Else what is damaged in the bucket may be whole here, and wanted for good.
        self.delete_on_the_box(ids).await;
        for id in doomed.into_iter().chain(overtaken.iter().copied()) {
            let name = id.to_string();
            if !self.bucket.has_keys() {
                // In the bucket that is for whoever has keys.
                index.let_go(&name);
                continue;
            }
            let buried = vault.bury(&id, "retention", self.server_us()).await?;
            if overtaken.contains(&id) {
                vault.unmark_damaged(&id).await?;
            }
            index.remove(&name);
            if buried {
                let detail = json!({ "id": name, "step": id.step, "where": "bucket" });
                self.standing.event("checkpoint.deleted", detail);
            }
        }
        Ok(true)
    }

    /// Commits that retention lets go: whole ones, and such as a mark calls damaged.
    fn may_go(&self, index: &Index, stay: &HashSet<String>) -> (Vec<CommitId>, Vec<CommitId>) {
        let keep = &self.options.keep;
        let doomed = retention::doomed(index.commits(), keep, stay);
        let mut overtaken = retention::overtaken(index.doubted(), index.commits(), keep, &doomed);
        overtaken.retain(|manifest| !stay.contains(&manifest.id));
        let ids = |manifests: Vec<&Manifest>| {
            let ids = manifests.into_iter().map(|manifest| manifest.id.parse());
            ids.filter_map(Result::ok).collect()
        };
        (ids(doomed), ids(overtaken))
    }

    /// Commits of what somebody put into the directory before any training.
    fn put_here(&self) -> HashSet<String> {
        let began_us = self.pace().first_training_us;
        let ledger = self.ledger.lock();
        let ledger = ledger.expect("nothing panics while it holds the ledger");
        ledger
            .put_here(began_us)
            .map(|saved| saved.id.clone())
            .collect()
    }

    /// Deletes data whose grace is over, now and then. Returns when to look again.
    pub(super) async fn purge(&self, stop: &CancellationToken) -> Instant {
        let now_ms = self.server_us() / 1_000;
        let grace = self.options.keep_grace;
        let purge = async {
            let vault = self.places.vault(&*self.bucket);
            let due = vault.next_purge_ms(grace).await?;
            if due.is_none_or(|due| due > now_ms) {
                return Ok(());
            }
            for purged in vault.purge(grace, now_ms, false).await? {
                let detail = json!({ "id": purged.id, "objects": purged.objects, "size_bytes": purged.size_bytes });
                self.standing.event("checkpoint.purged", detail);
            }
            Ok(())
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            purged = purge => {
                if let Err(err) = purged {
                    self.tell_trouble(&err);
                }
            }
        }
        Instant::now() + (grace / 4).min(PURGE_EVERY.0).max(PURGE_EVERY.1)
    }

    /// Old checkpoints that stay cost money: that is an event, once for each reason.
    fn tell_trouble(&self, err: &BucketError) {
        let mut trouble = self.trouble();
        if err.kind == ErrorKind::Denied {
            trouble.until = Some(Instant::now() + DENIED_WAIT);
        }
        // Without the key, which differs each time.
        let told = format!("{} {:?} {}", err.operation, err.kind, err.message);
        if trouble.told == told {
            return;
        }
        trouble.told = told;
        let problem = chain(err);
        warn!(
            problem,
            "old checkpoints could not be deleted, will try again"
        );
        self.standing
            .event("retention.failed", json!({ "problem": problem }));
    }

    fn must_not_delete(&self) -> bool {
        let until = self.trouble().until;
        until.is_some_and(|until| Instant::now() < until)
    }

    fn trouble(&self) -> MutexGuard<'_, Trouble> {
        self.trouble
            .lock()
            .expect("nothing panics while it holds this")
    }

    async fn delete_on_the_box(&self, ids: HashSet<String>) {
        let (dir, ledger) = (self.options.dir.clone(), Arc::clone(&self.ledger));
        let delete = move || {
            let mut ledger = ledger
                .lock()
                .expect("nothing panics while it holds the ledger");
            delete_saved(&dir, &mut ledger, &ids)
        };
        match spawn_blocking(delete)
            .await
            .expect("deleting files does not panic")
        {
            Ok(deleted) => {
                for saved in deleted {
                    let detail = json!({ "id": saved.id, "path": saved.path, "where": "box" });
                    self.standing.event("checkpoint.deleted", detail);
                }
            }
            Err(err) => warn!(error = %err, "old checkpoints on the box could not be deleted"),
        }
    }

    /// Deletes a checkpoint on the box that was skipped in favour of newer ones, when it may go. Returns whether it stays, is nowhere else,
    /// and may be missed.
    pub(super) async fn delete_skipped(&self, work: &Work, candidate: &Candidate) -> bool {
        let written_ms = self.written_ms(candidate);
        let manifests = || work.index.iter().flat_map(Index::manifests);
        let overtakes = |newer: &&Manifest| {
            let is_newer = index::written_ms(&newer.id).is_some_and(|ms| ms > written_ms);
            is_newer && skipped::overtakes(newer, candidate)
        };
        let facts = skipped::Facts {
            written: Duration::from_nanos(u64::try_from(candidate.written_ns()).unwrap_or(0)),
            began: self.pace().first_training_us.map(Duration::from_micros),
            newer: manifests().filter(overtakes).count(),
            kept: self.options.keep.newest(),
            looks_committed: manifests()
                .chain(work.index.iter().flat_map(Index::doubted))
                .any(|one| looks_like(one, candidate)),
            unfinished: candidate.unfinished.is_some(),
        };
        if !skipped::may_go(&facts) {
            if !facts.looks_committed {
                let now = self.now();
                let reason = "as many newer ones of its kind as are kept were in the bucket before it: it was not uploaded, is on this disk only and stays there";
                self.standing
                    .tell_unsaved(&Refused::new(candidate, reason.to_owned(), now), now);
            }
            return !facts.looks_committed;
        }
        let (dir, going) = (self.options.dir.clone(), candidate.clone());
        let delete = move || {
            let there = scan::scan(&dir)?;
            // One that changed since is another one.
            let found = there.iter().find(|found| **found == going);
            found.map_or(Ok(false), |found| remove_files(&dir, found).map(|()| true))
        };
        match spawn_blocking(delete)
            .await
            .expect("deleting files does not panic")
        {
            Ok(false) => true,
            Ok(true) => {
                let (path, step) = (candidate.path_in_manifest(), candidate.step);
                let detail = json!({
                    "path": path, "step": step, "size_bytes": candidate.size_bytes(), "where": "box", "skipped": true,
                });
                self.standing.event("checkpoint.deleted", detail);
                false
            }
            Err(err) => {
                warn!(path = candidate.path, error = %err, "a checkpoint that was skipped could not be deleted");
                // It was not worth its place.
                false
            }
        }
    }

    /// Removes everything an attempt left in the bucket, unless it turns out to be committed. Whether nothing is left.
    pub(super) async fn delete_attempt(&self, id: &str) -> bool {
        match self.try_delete_attempt(id).await {
            Ok(()) => true,
            Err(err) => {
                warn!(id, error = %chain(&err), "what an abandoned upload left in the bucket is still there");
                false
            }
        }
    }

    async fn try_delete_attempt(&self, id: &str) -> Result<(), BucketError> {
        if self
            .bucket
            .head(&self.places.commit_key(id))
            .await?
            .is_some()
        {
            return Ok(());
        }
        self.abort_uploads(id).await;
        for object in self.bucket.list(&self.places.data_prefix_of(id)).await? {
            self.bucket.delete(&object.key).await?;
        }
        Ok(())
    }

    /// Aborts every upload of an attempt that the server still knows. Servers that cannot list uploads keep them until their own sweep.
    pub(super) async fn abort_uploads(&self, id: &str) {
        let prefix = self.places.data_prefix_of(id);
        let uploads = patiently(|| self.bucket.list_uploads(&prefix)).await;
        for upload in uploads.unwrap_or_default() {
            let abort = || self.bucket.abort_upload(&upload.key, &upload.upload_id);
            if let Err(err) = patiently(abort).await {
                warn!(key = upload.key, error = %chain(&err), "an abandoned upload could not be aborted");
            }
        }
    }
}

/// Asks a few times where the answer may be another one. Not for ever: a key may lack the right, and nothing waits for the answer.
pub(super) async fn patiently<T, F>(mut call: impl FnMut() -> F) -> Result<T, BucketError>
where
    F: Future<Output = Result<T, BucketError>>,
{
    for number in 1..SWEEP_TRIES {
        match call().await {
            Err(err) if err.kind == ErrorKind::Transient => {
                time::sleep(fault::wait(SWEEP_WAIT * number)).await;
            }
            answer => return answer,
        }
    }
    call().await
}

/// Deletes what lies on the box of the named commits, where it is still exactly what was committed.
fn delete_saved(dir: &Path, ledger: &mut Ledger, ids: &HashSet<String>) -> io::Result<Vec<Saved>> {
    let going: Vec<Saved> = ledger
        .saved()
        .filter(|saved| ids.contains(&saved.id))
        .cloned()
        .collect();
    if going.is_empty() {
        return Ok(going);
    }
    let there = scan::scan(dir)?;
    let mut deleted = Vec::new();
    for saved in going {
        let found = there.iter().find(|candidate| candidate.key == saved.key);
        let is_saved = |found: &&_| {
            ledger.commit_of(found) == Some(saved.id.as_str()) && found.unfinished.is_none()
        };
        if let Some(found) = found.filter(is_saved) {
            remove_files(dir, found)?;
            deleted.push(saved.clone());
        }
        ledger.forget(&saved.key)?;
    }
    Ok(deleted)
}

fn remove_files(dir: &Path, found: &Candidate) -> io::Result<()> {
    for file in &found.files {
        fault::point("box.remove", "before");
        remove_if_there(&scan::file_path(dir, &found.path, &file.path))?;
    }
    if found.directory && !found.is_flat() {
        fault::point("box.remove_dir", "before");
        fs::remove_dir_all(dir.join(&found.path))?;
    }
    fault::point("box.removed", "after");
    Ok(())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    fs::remove_file(path).or_else(|err| {
        if err.kind() == io::ErrorKind::NotFound {
            Ok(())
        } else {
            Err(err)
        }
    })
}
