//! From a sealed manifest to a commit that everybody here knows of.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use spotter_bucket::{CommitId, Manifest};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::candidate::Candidate;
use super::delete::patiently;
use super::round::{Work, remove};
use super::standing::chain;
use super::upload::{UploadError, Uploader};
use super::{Backup, BackupError, CheckpointInfo};
use crate::tasks::spawn_blocking;

/// Data that was there when a commit was sealed is there still when the commit was put within so long: a grace rarely ends just then.
const AT_ONCE: Duration = Duration::from_secs(60);

impl Backup {
    /// Commits that were sealed before a crash: everything is stored, only the commit may be missing. One that the bucket refuses
    /// stands in no other's way.
    pub(super) async fn publish_sealed(
        &self,
        work: &mut Work,
        stop: &CancellationToken,
    ) -> (Vec<CheckpointInfo>, Option<BackupError>) {
        let mut committed = Vec::new();
        let mut refused = HashSet::new();
        let mut failure = None;
        while let Some(at) = work
            .attempts
            .iter()
            .map(|log| &log.attempt)
            .position(|attempt| attempt.sealed.is_some() && !refused.contains(&attempt.id))
        {
            let bytes = Bytes::from(work.attempts[at].attempt.sealed.clone().unwrap_or_default());
            let Ok(manifest) = Manifest::open(&bytes) else {
                warn!(
                    id = work.attempts[at].attempt.id,
                    "a sealed manifest in the journal is damaged; its upload begins anew"
                );
                remove(work.attempts.remove(at)).await;
                continue;
            };
            let began = Instant::now();
            let stop = stop.child_token();
            let uploader = self.uploader(&[], &stop);
            let publish = async {
                // It may have been sealed days ago, by a box that was stopped meanwhile, and its data be swept since.
                if !uploader.is_all_there(&manifest).await? {
                    // A crash may have come between its commit and the look at its data.
                    self.withdraw(&manifest.id).await;
                    return Ok(false);
                }
                self.publish_whole(&uploader, &manifest, bytes).await
            };
            match self
                .attend(&mut work.tracker, |_| false, &stop, publish)
                .await
            {
                Ok(true) => committed.push(
                    self.settle_commit(work, at, manifest, began.elapsed())
                        .await,
                ),
                Ok(false) => {
                    if let Some(index) = &mut work.index {
                        index.remove(&manifest.id);
                    }
                    warn!(
                        id = manifest.id,
                        "the data of a sealed checkpoint is not in the bucket any more; its upload begins anew"
                    );
                    remove(work.attempts.remove(at)).await;
                }
                Err(UploadError::Stopped) => break,
                Err(source) => {
                    let attempt = &work.attempts[at].attempt;
                    refused.insert(attempt.id.clone());
                    let candidate = attempt.candidate.clone();
                    self.tell_failed(work, &candidate, &source);
                    let path = candidate.path;
                    failure.get_or_insert(BackupError::Upload { path, source });
                }
            }
        }
        (committed, failure)
    }

    /// Puts the commit of a sealed manifest, and takes it back when its data went meanwhile: whoever deletes data of older checkpoints whose
    /// grace is over, or of uploads that nobody ended, sees no commit that is on its way. Returns whether it stays.
    pub(super) async fn publish_whole(
        &self,
        uploader: &Uploader<'_>,
        manifest: &Manifest,
        bytes: Bytes,
    ) -> Result<bool, UploadError> {
        let began = Instant::now();
        uploader.publish(&manifest.id, bytes).await?;
        // Without keys nothing can be taken back.
        if began.elapsed() < AT_ONCE
            || !self.bucket.has_keys()
            || uploader.is_all_there(manifest).await?
        {
            return Ok(true);
        }
        self.withdraw(&manifest.id).await;
        Ok(false)
    }

    /// Deletes a commit whose data is not in the bucket, if it is there. What is there of its data goes after the grace, as that of any other.
    async fn withdraw(&self, id: &str) {
        let (true, Ok(id)) = (self.bucket.has_keys(), id.parse::<CommitId>()) else {
            return;
        };
        let vault = self.places.vault(&*self.bucket);
        if let Err(err) = patiently(|| vault.bury(&id, "withdrawn", self.server_us())).await {
            warn!(%id, error = %chain(&err), "a commit whose data is not in the bucket is still there");
        }
    }

    /// Everything that follows from a commit that was read back.
    pub(super) async fn settle_commit(
        &self,
        work: &mut Work,
        at: usize,
        manifest: Manifest,
        took: Duration,
    ) -> CheckpointInfo {
        let info = CheckpointInfo::from(&manifest);
        let candidate = work.attempts[at].attempt.candidate.clone();
        // Before it counts as saved: a crash leaves it for another time.
        if let Ok(Some(pinned)) = self.pinned_as(work, &candidate).await {
            self.pin_instead(&manifest.id, &pinned).await;
        }
        self.note_saved(&manifest.id, &candidate).await;
        remove(work.attempts.remove(at)).await;
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

    pub(super) async fn note_saved(&self, id: &str, candidate: &Candidate) {
        let (ledger, id, candidate) = (Arc::clone(&self.ledger), id.to_owned(), candidate.clone());
        let record = move || {
            ledger
                .lock()
                .expect("nothing panics while it holds the ledger")
                .record(&id, &candidate, false)
        };
        if let Err(err) = spawn_blocking(record)
            .await
            .expect("writing the ledger does not panic")
        {
            warn!(error = %err, "the ledger of saved checkpoints cannot be written; a restart will compare them with the bucket");
        }
    }
}
