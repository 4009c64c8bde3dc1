//! Makes stored files a checkpoint: review, manifest, commit object, read back.
//!
//! Until [`Uploader::publish`] has put the commit, nobody can see anything; a crash before leaves only what a sweep removes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use spotter_bucket::{ErrorKind, ListedObject, Manifest, ManifestFile, manifest::Metric};
use tokio::time;

use super::candidate::FLAT_RULE;
use super::journal::{AttemptLog, Entry};
use super::source::{self, Source};
use super::standing::Unanswered;
use super::upload::{Area, UploadError, Uploader};
use crate::tasks::spawn_blocking;
use crate::{fault, now_us};

/// Times that a commit is put when what is read back differs, and that an object is asked for which the bucket should have.
const COMMIT_TRIES: u32 = 3;
/// Wait before the next of them.
const COMMIT_WAIT: Duration = Duration::from_secs(1);

/// What a manifest says besides its files.
#[derive(Debug, Clone)]
pub struct About {
    /// Run.
    pub run: String,
    /// Attempt, from 1.
    pub attempt: u32,
    /// Commit before this one.
    pub prev: Option<String>,
    /// What the training's log said of it.
    pub metric: Option<Metric>,
}

impl Uploader<'_> {
    /// Reviews what the bucket holds and writes the manifest into the journal.
    pub async fn seal(
        &self,
        log: &mut AttemptLog,
        sources: &[Arc<Source>],
        about: &About,
    ) -> Result<Manifest, UploadError> {
        if self.drop_lost_reuse(log).await? {
            self.store_all(log, sources).await?;
        }
        self.review_objects(log).await?;
        for source in sources {
            source.still_unchanged().await?;
        }
        let (dir, candidate) = (self.dir.to_owned(), log.attempt.candidate.clone());
        let is_checkpoint = self.area == Area::Data;
        let extended = move || Ok(is_checkpoint && source::was_extended(&dir, &candidate)?);
        let extended = spawn_blocking(extended)
            .await
            .expect("a scan does not panic");
        if extended.map_err(|source| UploadError::Read {
            path: self.dir.to_owned(),
            source,
        })? {
            return Err(UploadError::Changed);
        }
        let attempt = &log.attempt;
        let (rule, path) = match self.area {
            Area::Data if attempt.candidate.is_flat() => (
                format!("{FLAT_RULE}+{}", attempt.rule),
                attempt.candidate.path_in_manifest(),
            ),
            Area::Data => (attempt.rule.clone(), attempt.candidate.path_in_manifest()),
            // They lie anywhere in the working directory.
            Area::Results => (attempt.rule.clone(), attempt.rule.clone()),
        };
        let committed_us = now_us();
        let offset_us = (self.bucket.clock_offset_s() * 1e6) as i64;
        let files: Vec<ManifestFile> = attempt.stored.values().cloned().collect();
        let mut manifest = Manifest {
            v: Manifest::format(about.metric.as_ref(), &files),
            id: attempt.id.clone(),
            run: about.run.clone(),
            attempt: about.attempt,
            step: attempt.candidate.step,
            rule,
            path,
            directory: attempt.candidate.directory,
            committed_us,
            server_us: committed_us.saturating_add_signed(offset_us),
            prev: about.prev.clone(),
            metric: about.metric.clone(),
            files,
            encoding: None,
            self_blake3: String::new(),
        };
        let bytes = manifest.seal();
        // What we could not read back ourselves must not become a checkpoint: a name that no path may have, for example.
        manifest.check().map_err(UploadError::Manifest)?;
        let text = String::from_utf8(bytes.to_vec()).expect("a manifest is JSON");
        self.record(log, Entry::Sealed { manifest: text }).await;
        Ok(manifest)
    }

    /// Puts the commit and reads it back. From the moment this returns the checkpoint exists. Returns its key.
    pub async fn publish(&self, id: &str, bytes: Bytes) -> Result<String, UploadError> {
        let key = self.manifest_key(id);
        let mut found = String::new();
        for try_number in 1..=COMMIT_TRIES {
            self.standing
                .ask(self.stop, || self.bucket.put(&key, bytes.clone()))
                .await?;
            match self
                .standing
                .ask(self.stop, || self.bucket.get(&key, None))
                .await
            {
                Ok(back) if back == bytes => return Ok(key),
                Ok(back) => found = format!("{} other bytes", back.len()),
                Err(Unanswered::Bucket(err)) if err.kind == ErrorKind::NotFound => {
                    found = "nothing".to_owned()
                }
                Err(err) => return Err(err.into()),
            }
            if try_number < COMMIT_TRIES {
                time::sleep(fault::wait(COMMIT_WAIT)).await;
            }
        }
        Err(UploadError::Review {
            key,
            sent: format!("{} bytes", bytes.len()),
            found,
        })
    }

    /// Whether every object that a manifest refers to is in the bucket, in its full size.
    pub async fn is_all_there(&self, manifest: &Manifest) -> Result<bool, UploadError> {
        for file in &manifest.files {
            let head = self
                .standing
                .ask(self.stop, || self.bucket.head(&file.key))
                .await?;
            if head.map(|object| object.size_bytes) != Some(file.size_bytes) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Forgets files of which an older checkpoint's object was to serve that is not there any more: it was deleted since, perhaps while
    /// this box was stopped. Returns whether there were any; they must be sent.
    async fn drop_lost_reuse(&self, log: &mut AttemptLog) -> Result<bool, UploadError> {
        let prefix = self.prefix_of(&log.attempt.id);
        let stored = log.attempt.stored.iter();
        let mut reused: Vec<(usize, String, u64)> = stored
            .filter(|(_, entry)| !entry.key.starts_with(&prefix))
            .map(|(file, entry)| (*file, entry.key.clone(), entry.size_bytes))
            .collect();
        // One list of an older checkpoint's objects answers for all of them.
        let data = self.places.data_prefix();
        let of = |key: &str| {
            let id = key.strip_prefix(&data)?.split('/').next()?;
            Some(self.prefix_of(id))
        };
        let mut older = BTreeSet::new();
        older.extend(reused.iter().filter_map(|(_, key, _)| of(key)));
        for prefix in older {
            let listed = self
                .standing
                .ask(self.stop, || self.bucket.list(&prefix))
                .await?;
            let sizes = sizes(&listed);
            reused.retain(|(_, key, size_bytes)| sizes.get(key.as_str()) != Some(size_bytes));
        }
        let mut lost = false;
        for (file, key, size_bytes) in reused {
            // A listing may lag behind.
            let head = self
                .standing
                .ask(self.stop, || self.bucket.head(&key))
                .await?;
            if head.map(|object| object.size_bytes) != Some(size_bytes) {
                tracing::warn!(
                    key,
                    "data of an older checkpoint is gone, its files are sent again"
                );
                self.record(log, Entry::Dropped { file }).await;
                lost = true;
            }
        }
        Ok(lost)
    }

    /// Compares the size of every object of the attempt with what was sent. What is missing will be sent again.
    pub async fn review_objects(&self, log: &mut AttemptLog) -> Result<(), UploadError> {
        let prefix = self.prefix_of(&log.attempt.id);
        let listed = self
            .standing
            .ask(self.stop, || self.bucket.list(&prefix))
            .await?;
        let sizes = sizes(&listed);
        let own: Vec<(usize, ManifestFile)> = log
            .attempt
            .stored
            .iter()
            .filter(|(_, entry)| entry.key.starts_with(&prefix))
            .map(|(file, entry)| (*file, entry.clone()))
            .collect();
        for (file, entry) in own {
            let size = match sizes.get(entry.key.as_str()) {
                Some(size) => Some(*size),
                None => self.size_soon(&entry.key).await?,
            };
            if size != Some(entry.size_bytes) {
                self.record(log, Entry::Dropped { file }).await;
                let found =
                    size.map_or_else(|| "nothing".to_owned(), |size| format!("{size} bytes"));
                return Err(UploadError::Review {
                    key: entry.key,
                    sent: format!("{} bytes", entry.size_bytes),
                    found,
                });
            }
        }
        Ok(())
    }

    /// Bytes of an object that was sent and that a listing lacks: listings lag behind, and answers may run ahead of what a server shows.
    async fn size_soon(&self, key: &str) -> Result<Option<u64>, UploadError> {
        for try_number in 1..=COMMIT_TRIES {
            let head = self
                .standing
                .ask(self.stop, || self.bucket.head(key))
                .await?;
            if let Some(object) = head {
                return Ok(Some(object.size_bytes));
            }
            if try_number < COMMIT_TRIES {
                time::sleep(fault::wait(COMMIT_WAIT)).await;
            }
        }
        Ok(None)
    }
}

fn sizes(listed: &[ListedObject]) -> BTreeMap<&str, u64> {
    let mut sizes = BTreeMap::new();
    sizes.extend(
        listed
            .iter()
            .map(|object| (object.key.as_str(), object.size_bytes)),
    );
    sizes
}
