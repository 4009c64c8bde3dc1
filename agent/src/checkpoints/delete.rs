//! Deletes what may go: old checkpoints on the box and in the bucket, and what dead attempts left behind.
//!
//! On the box first, while the commit still exists; in the bucket the commit before its data. What was decided is noted down before
//! the first deletion, so that a crash in between leaves no orphan for ever.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream;
use serde::{Deserialize, Serialize};
use serde_json::json;
use spotter_bucket::{BucketError, Manifest};
use tokio::task;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::index::Index;
use super::ledger::{Ledger, Saved};
use super::standing::{Unanswered, chain};
use super::{Backup, retention, scan};
use crate::files;

/// Data that is to go after its commit.
#[derive(Debug, Serialize, Deserialize)]
struct Deletes {
    data_keys: Vec<String>,
}

const FILE: &str = "deletes.json";
/// Deletions in flight.
const DELETES_IN_FLIGHT: usize = 8;

impl Backup {
    /// Deletes what retention lets go. Only called after a newer commit was read back.
    pub(super) async fn delete_old(&self, index: &mut Index, stop: &CancellationToken) {
        let doomed = retention::doomed(
            index.commits(),
            self.options.keep_last,
            &self.places.data_prefix(),
        );
        if doomed.is_empty() {
            return;
        }
        let ids: HashSet<String> = doomed.iter().map(|one| one.id.clone()).collect();
        self.delete_on_the_box(ids).await;
        let data_keys: Vec<String> = doomed
            .iter()
            .flat_map(|one| one.data_keys.clone())
            .collect();
        self.note_deletes(&data_keys).await;
        for one in &doomed {
            match self.delete_commit(&one.id, &one.data_keys, stop).await {
                Ok(()) => {
                    index.remove(&one.id);
                    self.standing.event(
                        "checkpoint.deleted",
                        json!({ "id": one.id, "where": "bucket" }),
                    );
                }
                Err(Unanswered::Stopped) => return,
                Err(Unanswered::Bucket(err)) => {
                    warn!(id = one.id, error = %chain(&err), "an old checkpoint could not be deleted; the next commit tries again");
                    return;
                }
            }
        }
        self.forget_deletes().await;
    }

    async fn delete_commit(
        &self,
        id: &str,
        data_keys: &[String],
        stop: &CancellationToken,
    ) -> Result<(), Unanswered> {
        let key = self.places.commit_key(id);
        self.standing.ask(stop, || self.bucket.delete(&key)).await?;
        self.delete_data(data_keys, stop).await
    }

    async fn delete_data(
        &self,
        keys: &[String],
        stop: &CancellationToken,
    ) -> Result<(), Unanswered> {
        let delete =
            |key: String| async move { self.standing.ask(stop, || self.bucket.delete(&key)).await };
        let mut deletes = stream::iter(keys.to_vec())
            .map(delete)
            .buffer_unordered(DELETES_IN_FLIGHT);
        while let Some(deleted) = deletes.next().await {
            deleted?;
        }
        Ok(())
    }

    /// Finishes deletions that a crash interrupted, unless a commit refers to the data now.
    pub(super) async fn finish_deletes(&self, index: &Index, stop: &CancellationToken) {
        let path = self.state_dir.join(FILE);
        let read = task::spawn_blocking(move || files::read_if_there(&path))
            .await
            .expect("reading a file does not panic");
        let Ok(Some(bytes)) = read else { return };
        let Ok(deletes) = serde_json::from_slice::<Deletes>(&bytes) else {
            return;
        };
        let manifests: Vec<&Manifest> = index.manifests().collect();
        let spoken_for = retention::keys(&manifests);
        let prefix = self.places.data_prefix();
        let orphans: Vec<String> = deletes
            .data_keys
            .iter()
            .filter(|key| key.starts_with(&prefix) && !spoken_for.contains(key.as_str()))
            .cloned()
            .collect();
        if let Err(err) = self.delete_data(&orphans, stop).await {
            warn!(error = %chain(&err), "data of a deleted checkpoint could not be removed; the next start tries again");
            return;
        }
        self.forget_deletes().await;
    }

    async fn note_deletes(&self, data_keys: &[String]) {
        let path = self.state_dir.join(FILE);
        let deletes = Deletes {
            data_keys: data_keys.to_vec(),
        };
        let bytes = serde_json::to_vec(&deletes).expect("a list of strings is JSON");
        let write = move || files::write_durably(&path, &bytes);
        if let Err(err) = task::spawn_blocking(write)
            .await
            .expect("writing a file does not panic")
        {
            warn!(error = %err, "deletions could not be noted down; a crash during them would leave data in the bucket");
        }
    }

    async fn forget_deletes(&self) {
        let path = self.state_dir.join(FILE);
        let removed = task::spawn_blocking(move || fs::remove_file(path))
            .await
            .expect("removing a file does not panic");
        if let Err(err) = removed.or_else(|err| {
            if err.kind() == io::ErrorKind::NotFound {
                Ok(())
            } else {
                Err(err)
            }
        }) {
            warn!(error = %err, "the note of finished deletions could not be removed");
        }
    }

    async fn delete_on_the_box(&self, ids: HashSet<String>) {
        let (dir, ledger) = (self.options.dir.clone(), Arc::clone(&self.ledger));
        let delete = move || {
            let mut ledger = ledger
                .lock()
                .expect("nothing panics while it holds the ledger");
            delete_saved(&dir, &mut ledger, &ids)
        };
        match task::spawn_blocking(delete)
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
        let uploads = self
            .bucket
            .list_uploads(&self.places.data_prefix_of(id))
            .await
            .unwrap_or_default();
        for upload in uploads {
            if let Err(err) = self
                .bucket
                .abort_upload(&upload.key, &upload.upload_id)
                .await
            {
                warn!(key = upload.key, error = %chain(&err), "an abandoned upload could not be aborted");
            }
        }
    }
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
            for file in &found.files {
                remove_if_there(&scan::file_path(dir, &found.path, &file.path))?;
            }
            if found.directory && found.path != "." {
                fs::remove_dir_all(dir.join(&found.path))?;
            }
            deleted.push(saved.clone());
        }
        ledger.forget(&saved.key)?;
    }
    Ok(deleted)
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
