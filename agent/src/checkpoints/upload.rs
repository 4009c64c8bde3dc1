//! Files into the bucket: read, hash that very buffer, send it, look at the file again. Large ones go by `parts.rs`.
//!
//! What is stored here is not visible as a checkpoint; `commit.rs` makes it one. Every step is noted in the attempt's journal, and
//! [`Uploader::store_all`] goes on from there.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use spotter_bucket::hashes::RangeHasher;
use spotter_bucket::layout::NameError;
use spotter_bucket::{Bucket, BucketError, ErrorKind, ManifestError, ManifestFile};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::buffers;
use super::journal::{AttemptLog, Entry};
use super::places::Places;
use super::source::{Source, SourceError};
use super::standing::{Standing, Unanswered};
use super::tempo::Tempo;
use crate::fault;
use crate::tasks::spawn_blocking;

/// Smallest part, and the largest file that goes in one request.
pub const MIN_PART_BYTES: u64 = 8 << 20;
/// Bytes of small files in flight.
const SMALL_BYTES: u64 = 32 << 20;
/// Most small files in flight.
const SMALL_IN_FLIGHT: usize = 16;

/// Why an upload did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// Something more urgent came, or the deadline.
    #[error("the upload was interrupted")]
    Stopped,
    /// The trainer wrote to the files meanwhile: what they are now is another checkpoint.
    #[error("its files changed during the upload")]
    Changed,
    /// The disk did not give us the bytes.
    #[error("{} could not be read", path.display())]
    Read {
        /// File in question.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The bucket refused.
    #[error("the bucket refused it")]
    Bucket(#[source] BucketError),
    /// A file is called as no key may be.
    #[error("a file's name cannot be kept in the bucket")]
    Name(#[from] NameError),
    /// The checkpoint cannot be described so that it could be restored.
    #[error("the checkpoint cannot be described")]
    Manifest(#[source] ManifestError),
    /// What it refers to was deleted while its commit was on its way; the commit was taken back.
    #[error(
        "data that it refers to was deleted from the bucket while its commit was on its way; it is sent again"
    )]
    Withdrawn,
    /// What the bucket holds is not what was sent.
    #[error("the bucket holds {found} where {sent} was sent: {key}")]
    Review {
        /// Object in question.
        key: String,
        /// What we sent, such as `8388608 bytes`.
        sent: String,
        /// What the bucket says that it has.
        found: String,
    },
}

impl From<Unanswered> for UploadError {
    fn from(err: Unanswered) -> UploadError {
        match err {
            Unanswered::Stopped => UploadError::Stopped,
            Unanswered::Bucket(err) => UploadError::Bucket(err),
        }
    }
}

impl From<SourceError> for UploadError {
    fn from(err: SourceError) -> UploadError {
        match err {
            SourceError::Changed => UploadError::Changed,
            SourceError::Read { path, source } => UploadError::Read { path, source },
        }
    }
}

/// Which part of the run's prefix an upload goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Area {
    /// Checkpoints.
    Data,
    /// Everything else that is worth keeping.
    Results,
}

/// What an upload works with.
#[derive(Clone, Copy)]
pub struct Uploader<'a> {
    /// Where to.
    pub bucket: &'a dyn Bucket,
    /// Retries and progress.
    pub standing: &'a Standing,
    /// Cancelled when the upload is to yield.
    pub stop: &'a CancellationToken,
    /// How fast.
    pub tempo: &'a Tempo,
    /// Names in the bucket.
    pub places: &'a Places,
    /// Where below them.
    pub area: Area,
    /// The checkpoint directory.
    pub dir: &'a Path,
    /// Files that the bucket has, whose data is referred to when one did not change.
    pub known: &'a [&'a ManifestFile],
}

impl Uploader<'_> {
    /// Stores every file that is not stored yet. The journal tells what was done, also after an error.
    pub async fn store_all(
        &self,
        log: &mut AttemptLog,
        sources: &[Arc<Source>],
    ) -> Result<(), UploadError> {
        self.set_done(
            log.attempt
                .stored
                .values()
                .map(|file| file.size_bytes)
                .sum(),
        );
        let missing = |index: &usize| !log.attempt.stored.contains_key(index);
        let size = |index: &usize| sources[*index].stat.size_bytes;
        let (small, large): (Vec<usize>, Vec<usize>) = (0..sources.len())
            .filter(missing)
            .partition(|index| size(index) <= MIN_PART_BYTES);
        {
            let _kept_until_their_end = buffers::keep();
            self.store_small_files(log, sources, small).await?;
        }
        for index in large {
            self.store_large_file(log, index, &sources[index]).await?;
        }
        Ok(())
    }

    pub(super) fn object_key(&self, id: &str, relative: &str) -> Result<String, NameError> {
        match self.area {
            Area::Data => self.places.data_key(id, relative),
            Area::Results => self.places.results_key(&format!("{id}/{relative}")),
        }
    }

    /// What the keys of one attempt begin with.
    pub fn prefix_of(&self, id: &str) -> String {
        match self.area {
            Area::Data => self.places.data_prefix_of(id),
            Area::Results => self.places.results_prefix_of(id),
        }
    }

    /// Where the object goes that makes the attempt's files visible as one thing.
    pub fn manifest_key(&self, id: &str) -> String {
        match self.area {
            Area::Data => self.places.commit_key(id),
            Area::Results => self.places.results_manifest_key(id),
        }
    }

    /// Sends so many bytes, as fast as we may, and learns from how that went.
    pub(super) async fn send<T, F>(
        &self,
        bytes: u64,
        mut call: impl FnMut() -> F,
    ) -> Result<T, Unanswered>
    where
        F: Future<Output = Result<T, BucketError>>,
    {
        let paced = || {
            let call = call();
            async move {
                self.tempo.take(bytes).await;
                let answer = call.await;
                let refused = answer.as_ref().err();
                self.tempo
                    .answered(refused.is_none_or(|err| err.kind != ErrorKind::Transient));
                answer
            }
        };
        self.standing.ask(self.stop, paced).await
    }

    pub(super) fn set_done(&self, bytes: u64) {
        *self.standing.state().upload(self.area).0 = bytes;
    }

    pub(super) fn add_done(&self, bytes: u64) {
        *self.standing.state().upload(self.area).0 += bytes;
    }

    async fn store_small_files(
        &self,
        log: &mut AttemptLog,
        sources: &[Arc<Source>],
        indices: Vec<usize>,
    ) -> Result<(), UploadError> {
        // One permit per MiB, so that sixteen small files or four of 8 MiB are in memory.
        let memory = Semaphore::new((SMALL_BYTES >> 20) as usize);
        let id = log.attempt.id.clone();
        let single = !log.attempt.candidate.directory;
        let store = |index: usize| {
            let (memory, source, id) = (&memory, &sources[index], &id);
            async move {
                let permits = (source.stat.size_bytes.div_ceil(1 << 20)).max(1) as u32;
                let _permit = memory
                    .acquire_many(permits)
                    .await
                    .expect("the semaphore is never closed");
                self.store_small_file(id, single, source)
                    .await
                    .map(|entry| (index, entry))
            }
        };
        let mut in_flight = FuturesUnordered::new();
        let mut waiting = indices.into_iter();
        loop {
            while in_flight.len() < self.tempo.parallel(SMALL_IN_FLIGHT)
                && let Some(index) = waiting.next()
            {
                in_flight.push(store(index));
            }
            let Some(stored) = in_flight.next().await else {
                return Ok(());
            };
            let (file, entry) = stored?;
            self.add_done(entry.size_bytes);
            self.record(log, Entry::Stored { file, entry }).await;
        }
    }

    async fn store_small_file(
        &self,
        id: &str,
        single: bool,
        source: &Arc<Source>,
    ) -> Result<ManifestFile, UploadError> {
        let size_bytes = source.stat.size_bytes;
        let read = source.read(0, size_bytes, RangeHasher::alone()).await?;
        if let Some(older) = self.same_content(size_bytes, &read.hash).await? {
            return Ok(manifest_file(source, read.hash, older));
        }
        let key = self.object_key(id, source.name_in_bucket(single))?;
        self.send(size_bytes, || self.bucket.put(&key, read.bytes.clone()))
            .await?;
        Ok(manifest_file(
            source,
            read.hash,
            Stored {
                key: self.bucket.stored_as(&key),
                part_size_bytes: 0,
                parts: Vec::new(),
            },
        ))
    }

    /// An older object with this very content, still there in its full size.
    pub(super) async fn same_content(
        &self,
        size_bytes: u64,
        blake3: &str,
    ) -> Result<Option<Stored>, UploadError> {
        let same = |file: &&&ManifestFile| file.size_bytes == size_bytes && file.blake3 == blake3;
        let Some(older) = self.known.iter().find(same) else {
            return Ok(None);
        };
        let there = self
            .standing
            .ask(self.stop, || self.bucket.head(&older.key))
            .await?;
        Ok(there
            .filter(|object| object.size_bytes == size_bytes)
            .map(|_| Stored {
                key: older.key.clone(),
                part_size_bytes: older.part_size_bytes,
                parts: older.parts.clone(),
            }))
    }

    /// Notes an entry down. A full disk is told and survived: the upload then cannot be resumed, but it can be finished.
    pub async fn record(&self, log: &mut AttemptLog, entry: Entry) {
        let written = match log.record(entry) {
            Ok(Some(file)) => spawn_blocking(move || file.sync_data())
                .await
                .expect("a sync does not panic"),
            Ok(None) => Ok(()),
            Err(err) => Err(err),
        };
        fault::point("journal", "noted");
        if let Err(err) = written {
            tracing::warn!(error = %err, "the upload journal cannot be written; the upload goes on without it");
        }
    }
}

/// Where a file's bytes are in the bucket.
pub(super) struct Stored {
    pub(super) key: String,
    pub(super) part_size_bytes: u64,
    pub(super) parts: Vec<String>,
}

pub(super) fn manifest_file(source: &Source, blake3: String, stored: Stored) -> ManifestFile {
    ManifestFile {
        path: source.stat.path.clone(),
        mode: source.stat.mode,
        mtime_ns: source.stat.mtime_ns,
        size_bytes: source.stat.size_bytes,
        blake3,
        key: stored.key,
        part_size_bytes: stored.part_size_bytes,
        parts: stored.parts,
    }
}
