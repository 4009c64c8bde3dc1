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
        let mut try_number = 1;
        while let Some(lost) = self.drop_lost(log).await? {
            if try_number == COMMIT_TRIES {
                return Err(lost);
            }
            try_number += 1;
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

    /// Forgets files whose objects lie elsewhere than with the attempt, and not, or not in their size: those of an older checkpoint that was
    /// deleted since, perhaps while this box was stopped, and what was sent to a place that was given out and is not there. They must be
    /// sent again. Returns the first of them as an error.
    async fn drop_lost(&self, log: &mut AttemptLog) -> Result<Option<UploadError>, UploadError> {
        let prefix = self.prefix_of(&log.attempt.id);
        let mut elsewhere = doubted(log, |entry| !entry.key.starts_with(&prefix));
        // One list of an older checkpoint's objects answers for all of them.
        let data = self.places.data_prefix();
        let of = |key: &str| {
            let id = key.strip_prefix(&data)?.split('/').next()?;
            Some(self.prefix_of(id))
        };
        let mut older = BTreeSet::new();
        older.extend(elsewhere.iter().filter_map(|one| of(&one.key)));
        for prefix in older {
            let listed = self
                .standing
                .ask(self.stop, || self.bucket.list(&prefix))
                .await?;
            let sizes = sizes(&listed);
            elsewhere.retain(|one| sizes.get(one.key.as_str()) != Some(&one.size_bytes));
        }
        self.drop_wrong(log, elsewhere).await
    }

    /// Compares the size of every object of the attempt with what was sent. What is missing will be sent again.
    pub async fn review_objects(&self, log: &mut AttemptLog) -> Result<(), UploadError> {
        let prefix = self.prefix_of(&log.attempt.id);
        let listed = self
            .standing
            .ask(self.stop, || self.bucket.list(&prefix))
            .await?;
        let sizes = sizes(&listed);
        let mut own = doubted(log, |entry| entry.key.starts_with(&prefix));
        own.retain(|one| sizes.get(one.key.as_str()) != Some(&one.size_bytes));
        self.drop_wrong(log, own).await?.map_or(Ok(()), Err)
    }

    /// Forgets files of whose objects the bucket does not say, after a while either, that they are there in their size. Returns the first of
    /// them as an error.
    async fn drop_wrong(
        &self,
        log: &mut AttemptLog,
        doubted: Vec<Doubted>,
    ) -> Result<Option<UploadError>, UploadError> {
        let mut first = None;
        for wrong in self.still_wrong(doubted).await? {
            let file = wrong.file;
            let err = wrong.into_error();
            tracing::warn!(error = %err, "a file is sent again");
            self.record(log, Entry::Dropped { file }).await;
            first = first.or(Some(err));
        }
        Ok(first)
    }

    /// Asks for each object that a listing does not have in its size, and after a while again for those that are still not: listings lag
    /// behind, and answers may run ahead of what a server shows. The wait is for all of them together.
    async fn still_wrong(&self, mut doubted: Vec<Doubted>) -> Result<Vec<Doubted>, UploadError> {
        for try_number in 1..=COMMIT_TRIES {
            let mut wrong = Vec::new();
            for mut one in doubted {
                let head = self
                    .standing
                    .ask(self.stop, || self.bucket.head(&one.key))
                    .await?;
                one.found_bytes = head.map(|object| object.size_bytes);
                if one.found_bytes != Some(one.size_bytes) {
                    wrong.push(one);
                }
            }
            doubted = wrong;
            if doubted.is_empty() || try_number == COMMIT_TRIES {
                break;
            }
            time::sleep(fault::wait(COMMIT_WAIT)).await;
        }
        Ok(doubted)
    }
}

/// An object that was sent, or is referred to, and of which a listing does not say that it is there in its size.
struct Doubted {
    /// Place of its file in the attempt.
    file: usize,
    key: String,
    size_bytes: u64,
    /// Its size as the bucket said last; `None`: it is not there.
    found_bytes: Option<u64>,
}

impl Doubted {
    fn into_error(self) -> UploadError {
        UploadError::Review {
            key: self.key,
            sent: format!("{} bytes", self.size_bytes),
            found: self
                .found_bytes
                .map_or_else(|| "nothing".to_owned(), |size| format!("{size} bytes")),
        }
    }
}

/// The objects of an attempt that are to be looked at.
fn doubted(log: &AttemptLog, is_one: impl Fn(&ManifestFile) -> bool) -> Vec<Doubted> {
    let stored = log.attempt.stored.iter();
    stored
        .filter(|(_, entry)| is_one(entry))
        .map(|(file, entry)| Doubted {
            file: *file,
            key: entry.key.clone(),
            size_bytes: entry.size_bytes,
            found_bytes: None,
        })
        .collect()
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
