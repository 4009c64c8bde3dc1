//! Files into the bucket: read a part, hash that very buffer, send it, look at the file again.
//!
//! What is stored here is not visible as a checkpoint; `commit.rs` makes it one. Every step is noted in the attempt's journal, and
//! [`Uploader::store_all`] goes on from there.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::{self, FuturesUnordered};
use spotter_bucket::layout::NameError;
use spotter_bucket::{
    Bucket, BucketError, CompletedPart, ErrorKind, Manifest, ManifestError, ManifestFile,
};
use tokio::sync::Semaphore;
use tokio::task;
use tokio_util::sync::CancellationToken;

use super::journal::{AttemptLog, Entry, PartRecord, UploadRecord};
use super::places::Places;
use super::source::{Source, SourceError};
use super::standing::{Standing, Unanswered};

/// Smallest part, and the largest file that goes in one request.
pub const MIN_PART_BYTES: u64 = 8 << 20;
/// S3 takes 10,000 parts; 9,000 leaves room for servers that count differently.
const MAX_PARTS: u64 = 9_000;
/// Parts in flight: four fill a gigabit at 200 ms, more only cost memory.
const PARTS_IN_FLIGHT: u64 = 4;
/// Bytes of one upload that are in memory at once, the part being read included.
const MEMORY_BYTES: u64 = 64 << 20;
/// Small files in flight.
const SMALL_IN_FLIGHT: usize = 16;
/// Times that one file's multipart upload may be begun anew, because the server lost it, before we give up for now.
const UPLOAD_TRIES: usize = 3;

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

/// Part size for a file: large enough for the server's limit on their number, in whole MiB.
pub fn part_size(size_bytes: u64) -> u64 {
    size_bytes
        .div_ceil(MAX_PARTS)
        .next_multiple_of(1 << 20)
        .max(MIN_PART_BYTES)
}

/// Parts that may be in flight while one more is read. From 590 GB on a single one is larger than the memory allowed.
fn parts_in_flight(part_size_bytes: u64) -> usize {
    (MEMORY_BYTES / part_size_bytes)
        .saturating_sub(1)
        .clamp(1, PARTS_IN_FLIGHT) as usize
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
    /// Names in the bucket.
    pub places: &'a Places,
    /// Where below them.
    pub area: Area,
    /// The checkpoint directory.
    pub dir: &'a Path,
    /// Older checkpoints, whose data is referred to when a file did not change.
    pub known: &'a [Manifest],
}

impl Uploader<'_> {
    /// Stores every file that is not stored yet. The journal tells what was done, also after an error.
    pub async fn store_all(
        &self,
        log: &mut AttemptLog,
        sources: &[Arc<Source>],
    ) -> Result<(), UploadError> {
        self.standing.state().uploading_done_bytes = log
            .attempt
            .stored
            .values()
            .map(|file| file.size_bytes)
            .sum();
        let missing = |index: &usize| !log.attempt.stored.contains_key(index);
        let size = |index: &usize| sources[*index].stat.size_bytes;
        let (small, large): (Vec<usize>, Vec<usize>) = (0..sources.len())
            .filter(missing)
            .partition(|index| size(index) <= MIN_PART_BYTES);
        self.store_small_files(log, sources, small).await?;
        for index in large {
            self.store_large_file(log, index, &sources[index]).await?;
        }
        Ok(())
    }

    fn object_key(&self, id: &str, relative: &str) -> Result<String, NameError> {
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

    async fn store_small_files(
        &self,
        log: &mut AttemptLog,
        sources: &[Arc<Source>],
        indices: Vec<usize>,
    ) -> Result<(), UploadError> {
        // One permit per MiB, so that sixteen small files or four of 8 MiB are in memory.
        let memory = Semaphore::new((PARTS_IN_FLIGHT * MIN_PART_BYTES >> 20) as usize);
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
        let mut stores = stream::iter(indices)
            .map(store)
            .buffer_unordered(SMALL_IN_FLIGHT);
        while let Some(stored) = stores.next().await {
            let (file, entry) = stored?;
            self.standing.state().uploading_done_bytes += entry.size_bytes;
            self.record(log, Entry::Stored { file, entry }).await;
        }
        Ok(())
    }

    async fn store_small_file(
        &self,
        id: &str,
        single: bool,
        source: &Arc<Source>,
    ) -> Result<ManifestFile, UploadError> {
        let size_bytes = source.stat.size_bytes;
        let read = source.read(0, size_bytes, blake3::Hasher::new()).await?;
        if let Some(older) = self.same_content(size_bytes, &read.part_blake3).await? {
            return Ok(manifest_file(source, read.part_blake3, older));
        }
        let key = self.object_key(id, source.name_in_bucket(single))?;
        self.standing
            .ask(self.stop, || self.bucket.put(&key, read.bytes.clone()))
            .await?;
        Ok(manifest_file(
            source,
            read.part_blake3,
            Stored {
                key,
                part_size_bytes: 0,
                parts: Vec::new(),
            },
        ))
    }

    async fn store_large_file(
        &self,
        log: &mut AttemptLog,
        file: usize,
        source: &Arc<Source>,
    ) -> Result<(), UploadError> {
        let part_size_bytes = part_size(source.stat.size_bytes);
        if !log.attempt.uploads.contains_key(&file)
            && let Some(entry) = self.reuse_large_file(source, part_size_bytes).await?
        {
            self.standing.state().uploading_done_bytes += entry.size_bytes;
            self.record(log, Entry::Stored { file, entry }).await;
            return Ok(());
        }
        let done_before = self.standing.state().uploading_done_bytes;
        let mut tries = 0;
        loop {
            tries += 1;
            self.standing.state().uploading_done_bytes = done_before;
            match self
                .store_in_parts(log, file, source, part_size_bytes)
                .await
            {
                Ok(entry) => {
                    self.record(log, Entry::Stored { file, entry }).await;
                    return Ok(());
                }
                // The server lost the upload or does not like its parts any more: another one may do.
                Err(UploadError::Bucket(err))
                    if tries < UPLOAD_TRIES && is_about_the_upload(&err) =>
                {
                    tracing::warn!(error = %err, tries, "the bucket lost an upload, beginning it anew");
                    self.drop_upload(log, file).await?;
                }
                Err(UploadError::Review { key, sent, found }) if tries < UPLOAD_TRIES => {
                    tracing::warn!(
                        key,
                        sent,
                        found,
                        tries,
                        "the bucket holds something else, beginning the upload anew"
                    );
                    self.drop_upload(log, file).await?;
                }
                Err(err) => return Err(err),
            }
        }
    }

    async fn drop_upload(&self, log: &mut AttemptLog, file: usize) -> Result<(), UploadError> {
        if let Some(upload) = log.attempt.uploads.get(&file).cloned() {
            let abort = || self.bucket.abort_upload(&upload.key, &upload.upload_id);
            match self.standing.ask(self.stop, abort).await {
                Err(Unanswered::Stopped) => return Err(UploadError::Stopped),
                // A server that will not drop it keeps it until its own sweep.
                Ok(()) | Err(Unanswered::Bucket(_)) => {}
            }
            self.record(log, Entry::Dropped { file }).await;
        }
        Ok(())
    }

    async fn store_in_parts(
        &self,
        log: &mut AttemptLog,
        file: usize,
        source: &Arc<Source>,
        part_size_bytes: u64,
    ) -> Result<ManifestFile, UploadError> {
        let size_bytes = source.stat.size_bytes;
        let (upload, mut at_server) = self
            .begin_or_resume(log, file, source, part_size_bytes)
            .await?;
        let (key, upload_id) = (upload.key.as_str(), upload.upload_id.as_str());
        let count =
            u32::try_from(size_bytes.div_ceil(part_size_bytes)).expect("at most 9,000 parts");

        let mut whole = blake3::Hasher::new();
        let mut parts: BTreeMap<u32, PartRecord> = BTreeMap::new();
        let mut in_flight = FuturesUnordered::new();
        let limit = parts_in_flight(part_size_bytes);
        for number in 1..=count {
            if self.stop.is_cancelled() {
                return Err(UploadError::Stopped);
            }
            let offset = u64::from(number - 1) * part_size_bytes;
            let length = part_size_bytes.min(size_bytes - offset);
            let read = source.read(offset, length, whole).await?;
            whole = read.whole;
            // A part that the server has is good when its bytes are still those that were sent.
            let record = at_server
                .remove(&number)
                .filter(|part| part.blake3 == read.part_blake3 && part.size_bytes == length);
            if let Some(record) = record {
                self.standing.state().uploading_done_bytes += length;
                parts.insert(number, record);
                continue;
            }
            while in_flight.len() >= limit {
                if let Some(sent) = in_flight.next().await {
                    self.note_part(log, file, &mut parts, sent).await?;
                }
            }
            in_flight.push(async move {
                let send = || {
                    self.bucket
                        .upload_part(key, upload_id, number, read.bytes.clone())
                };
                let etag = self.standing.ask(self.stop, send).await?;
                Ok::<_, UploadError>((
                    number,
                    PartRecord {
                        size_bytes: length,
                        blake3: read.part_blake3,
                        etag,
                    },
                ))
            });
        }
        while let Some(sent) = in_flight.next().await {
            self.note_part(log, file, &mut parts, sent).await?;
        }
        drop(in_flight);
        source.still_unchanged().await?;
        self.review_parts(&upload, size_bytes, &parts).await?;
        self.complete(&upload, size_bytes, &parts).await?;
        let hashes = parts.into_values().map(|part| part.blake3).collect();
        let stored = Stored {
            key: upload.key.clone(),
            part_size_bytes,
            parts: hashes,
        };
        Ok(manifest_file(
            source,
            whole.finalize().to_hex().to_string(),
            stored,
        ))
    }

    async fn note_part(
        &self,
        log: &mut AttemptLog,
        file: usize,
        parts: &mut BTreeMap<u32, PartRecord>,
        sent: Result<(u32, PartRecord), UploadError>,
    ) -> Result<(), UploadError> {
        let (number, part) = sent?;
        self.standing.state().uploading_done_bytes += part.size_bytes;
        let PartRecord {
            size_bytes,
            blake3,
            etag,
        } = part.clone();
        self.record(
            log,
            Entry::Part {
                file,
                number,
                size_bytes,
                blake3,
                etag,
            },
        )
        .await;
        parts.insert(number, part);
        Ok(())
    }

    /// The upload to go on with, and those of its parts that both the journal and the server know.
    async fn begin_or_resume(
        &self,
        log: &mut AttemptLog,
        file: usize,
        source: &Source,
        part_size_bytes: u64,
    ) -> Result<(UploadRecord, BTreeMap<u32, PartRecord>), UploadError> {
        if let Some(upload) = log.attempt.uploads.get(&file).cloned()
            && upload.part_size_bytes == part_size_bytes
        {
            let list = || self.bucket.list_parts(&upload.key, &upload.upload_id);
            match self.standing.ask(self.stop, list).await {
                Ok(listed) => {
                    let listed: BTreeMap<u32, _> =
                        listed.into_iter().map(|part| (part.number, part)).collect();
                    let mut parts = upload.parts.clone();
                    parts.retain(|number, part| {
                        listed.get(number).is_some_and(|one| {
                            one.size_bytes == part.size_bytes && one.etag == part.etag
                        })
                    });
                    return Ok((upload, parts));
                }
                Err(Unanswered::Stopped) => return Err(UploadError::Stopped),
                // Perhaps we completed it and died before the answer came: then the object is there, and Complete will find it.
                Err(Unanswered::Bucket(err)) if err.kind == ErrorKind::NotFound => {
                    let there = self
                        .standing
                        .ask(self.stop, || self.bucket.head(&upload.key))
                        .await?;
                    let sent: u64 = upload.parts.values().map(|part| part.size_bytes).sum();
                    let size_bytes = source.stat.size_bytes;
                    if sent == size_bytes
                        && there.is_some_and(|object| object.size_bytes == size_bytes)
                    {
                        let parts = upload.parts.clone();
                        return Ok((upload, parts));
                    }
                    self.record(log, Entry::Dropped { file }).await;
                }
                // A server that cannot list parts cannot resume.
                Err(Unanswered::Bucket(_)) => self.drop_upload(log, file).await?,
            }
        }
        let key = self.object_key(
            &log.attempt.id,
            source.name_in_bucket(!log.attempt.candidate.directory),
        )?;
        let upload_id = self
            .standing
            .ask(self.stop, || self.bucket.create_upload(&key))
            .await?;
        let upload = UploadRecord {
            key,
            upload_id,
            part_size_bytes,
            parts: BTreeMap::new(),
        };
        let (key, upload_id) = (upload.key.clone(), upload.upload_id.clone());
        self.record(
            log,
            Entry::Upload {
                file,
                key,
                upload_id,
                part_size_bytes,
            },
        )
        .await;
        Ok((upload, BTreeMap::new()))
    }

    /// Compares what the server says it has with what was sent, before anybody can see the object.
    async fn review_parts(
        &self,
        upload: &UploadRecord,
        size_bytes: u64,
        parts: &BTreeMap<u32, PartRecord>,
    ) -> Result<(), UploadError> {
        let wrong = |sent: String, found: String| UploadError::Review {
            key: upload.key.clone(),
            sent,
            found,
        };
        let sum: u64 = parts.values().map(|part| part.size_bytes).sum();
        if sum != size_bytes {
            return Err(wrong(
                format!("{size_bytes} bytes"),
                format!("{sum} bytes in parts"),
            ));
        }
        let listed = match self
            .standing
            .ask(self.stop, || {
                self.bucket.list_parts(&upload.key, &upload.upload_id)
            })
            .await
        {
            Ok(listed) => listed,
            Err(Unanswered::Stopped) => return Err(UploadError::Stopped),
            // Gone because it is complete already, or not listed by this server: the object's size is compared afterwards.
            Err(Unanswered::Bucket(_)) => return Ok(()),
        };
        let found: BTreeMap<u32, (u64, &str)> = listed
            .iter()
            .map(|part| (part.number, (part.size_bytes, part.etag.as_str())))
            .collect();
        for (number, part) in parts {
            match found.get(number) {
                Some(&(size, etag)) if size == part.size_bytes && etag == part.etag => {}
                Some((size, etag)) => {
                    let sent = format!(
                        "part {number} of {} bytes tagged {}",
                        part.size_bytes, part.etag
                    );
                    return Err(wrong(sent, format!("{size} bytes tagged {etag}")));
                }
                None => return Err(wrong(format!("part {number}"), "no such part".to_owned())),
            }
        }
        Ok(())
    }

    /// Completes an upload. Whatever the answer is, what counts is whether the object is there in its full size.
    async fn complete(
        &self,
        upload: &UploadRecord,
        size_bytes: u64,
        parts: &BTreeMap<u32, PartRecord>,
    ) -> Result<(), UploadError> {
        let wanted: Vec<CompletedPart> = parts
            .iter()
            .map(|(number, part)| CompletedPart {
                number: *number,
                etag: part.etag.clone(),
            })
            .collect();
        let attempt = || async {
            let answer = self
                .bucket
                .complete_upload(&upload.key, &upload.upload_id, &wanted)
                .await;
            // A lost answer, an error after the work was done, or a repeated call on a server that forgets: the object tells.
            match self.bucket.head(&upload.key).await {
                Ok(Some(object)) => Ok(object),
                Ok(None) => match answer {
                    Err(err) => Err(err),
                    Ok(_) => Err(not_there(&upload.key)),
                },
                Err(err) => Err(err),
            }
        };
        let object = self.standing.ask(self.stop, attempt).await?;
        if object.size_bytes != size_bytes {
            let (sent, found) = (
                format!("{size_bytes} bytes"),
                format!("{} bytes", object.size_bytes),
            );
            return Err(UploadError::Review {
                key: upload.key.clone(),
                sent,
                found,
            });
        }
        Ok(())
    }

    /// An older object with this very content, still there in its full size.
    async fn same_content(
        &self,
        size_bytes: u64,
        blake3: &str,
    ) -> Result<Option<Stored>, UploadError> {
        let same = |file: &&ManifestFile| file.size_bytes == size_bytes && file.blake3 == blake3;
        let Some(older) = self
            .known
            .iter()
            .flat_map(|manifest| &manifest.files)
            .find(same)
        else {
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

    /// Looks for an unchanged large file without reading all of one that changed: the first part decides.
    async fn reuse_large_file(
        &self,
        source: &Arc<Source>,
        part_size_bytes: u64,
    ) -> Result<Option<ManifestFile>, UploadError> {
        let size_bytes = source.stat.size_bytes;
        let alike = |file: &&ManifestFile| {
            file.size_bytes == size_bytes && file.part_size_bytes == part_size_bytes
        };
        let first_parts: Vec<&String> = self
            .known
            .iter()
            .flat_map(|manifest| &manifest.files)
            .filter(alike)
            .filter_map(|file| file.parts.first())
            .collect();
        if first_parts.is_empty() {
            return Ok(None);
        }
        let mut read = source
            .read(0, part_size_bytes, blake3::Hasher::new())
            .await?;
        if !first_parts.contains(&&read.part_blake3) {
            return Ok(None);
        }
        let mut offset = part_size_bytes;
        while offset < size_bytes {
            if self.stop.is_cancelled() {
                return Err(UploadError::Stopped);
            }
            read = source
                .read(offset, part_size_bytes.min(size_bytes - offset), read.whole)
                .await?;
            offset += part_size_bytes;
        }
        let blake3 = read.whole.finalize().to_hex().to_string();
        let older = self.same_content(size_bytes, &blake3).await?;
        Ok(older.map(|older| manifest_file(source, blake3, older)))
    }

    /// Notes an entry down. A full disk is told and survived: the upload then cannot be resumed, but it can be finished.
    pub async fn record(&self, log: &mut AttemptLog, entry: Entry) {
        let written = match log.record(entry) {
            Ok(Some(file)) => task::spawn_blocking(move || file.sync_data())
                .await
                .expect("a sync does not panic"),
            Ok(None) => Ok(()),
            Err(err) => Err(err),
        };
        if let Err(err) = written {
            tracing::warn!(error = %err, "the upload journal cannot be written; the upload goes on without it");
        }
    }
}

/// Where a file's bytes are in the bucket.
struct Stored {
    key: String,
    part_size_bytes: u64,
    parts: Vec<String>,
}

fn manifest_file(source: &Source, blake3: String, stored: Stored) -> ManifestFile {
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

/// Whether an error speaks of one multipart upload, so that another one may succeed.
fn is_about_the_upload(err: &BucketError) -> bool {
    err.kind == ErrorKind::NotFound
        || matches!(
            err.code.as_deref(),
            Some("NoSuchUpload" | "InvalidPart" | "InvalidPartOrder" | "EntityTooSmall")
        )
}

fn not_there(key: &str) -> BucketError {
    BucketError {
        operation: "CompleteMultipartUpload",
        key: key.to_owned(),
        // A server whose answers run ahead of its listings shows the object a moment later; asked again, it says NoSuchUpload.
        kind: ErrorKind::Transient,
        status: 200,
        code: None,
        message: "the server said done, but there is no object".to_owned(),
    }
}
