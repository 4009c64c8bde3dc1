//! A large file into the bucket, in parts that survive a crash.
//!
//! Parts are read in order, hashed, and sent several at a time; their hashes make that of the file. Before the object becomes visible the server's
//! list is compared with what was sent; afterwards the object itself is looked at, with all others of the checkpoint or, where the answer to
//! Complete was no plain yes, at once.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use spotter_bucket::hashes::{self, RangeHasher};
use spotter_bucket::{BucketError, CompletedPart, ErrorKind, ManifestFile};

use super::buffers;
use super::journal::{AttemptLog, Entry, PartRecord, UploadRecord};
use super::source::Source;
use super::standing::Unanswered;
use super::tempo;
use super::upload::{MIN_PART_BYTES, Stored, UploadError, Uploader, manifest_file};

/// S3 takes 10,000 parts; 9,000 leaves room for servers that count differently.
const MAX_PARTS: u64 = 9_000;
/// Bytes of one upload that are in memory at once, the part being read included: with the rest of the agent, 64 MiB.
const MEMORY_BYTES: u64 = 48 << 20;
/// Times that one file's multipart upload may be begun anew, because the server lost it, before we give up for now.
const UPLOAD_TRIES: usize = 3;

/// Part size for a file: large enough for the server's limit on their number, and a power of two, so that its parts make its hash.
pub fn part_size(size_bytes: u64) -> u64 {
    size_bytes
        .div_ceil(MAX_PARTS)
        .next_power_of_two()
        .max(MIN_PART_BYTES)
}

/// Parts for which there is memory while one more is read. From 302 GB on a single one is larger than what is allowed.
fn parts_in_memory(part_size_bytes: u64) -> usize {
    (MEMORY_BYTES / part_size_bytes)
        .saturating_sub(1)
        .clamp(1, tempo::MOST as u64) as usize
}

impl Uploader<'_> {
    pub(super) async fn store_large_file(
        &self,
        log: &mut AttemptLog,
        file: usize,
        source: &Arc<Source>,
    ) -> Result<(), UploadError> {
        let part_size_bytes = part_size(source.stat.size_bytes);
        if !log.attempt.uploads.contains_key(&file)
            && let Some(entry) = self.reuse_large_file(source, part_size_bytes).await?
        {
            self.add_done(entry.size_bytes);
            self.record(log, Entry::Stored { file, entry }).await;
            return Ok(());
        }
        let done_before = *self.standing.state().upload(self.area).0;
        let _kept_until_its_end = buffers::keep();
        let mut tries = 0;
        loop {
            tries += 1;
            self.set_done(done_before);
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

        let mut parts: BTreeMap<u32, PartRecord> = BTreeMap::new();
        let mut in_flight = FuturesUnordered::new();
        let most = parts_in_memory(part_size_bytes);
        for number in 1..=count {
            if self.stop.is_cancelled() {
                return Err(UploadError::Stopped);
            }
            let offset = u64::from(number - 1) * part_size_bytes;
            let length = part_size_bytes.min(size_bytes - offset);
            let mut reading = pin!(source.read(offset, length, RangeHasher::part(offset)));
            // What is in flight goes on meanwhile.
            let read = loop {
                tokio::select! {
                    biased;
                    Some(sent) = in_flight.next() => self.note_part(log, file, &mut parts, sent).await?,
                    read = &mut reading => break read?,
                }
            };
            // A part that the server has is good when its bytes are still those that were sent.
            let record = at_server
                .remove(&number)
                .filter(|part| part.blake3 == read.hash && part.size_bytes == length);
            if let Some(record) = record {
                self.add_done(length);
                parts.insert(number, record);
                continue;
            }
            while in_flight.len() >= self.tempo.parallel(most) {
                if let Some(sent) = in_flight.next().await {
                    self.note_part(log, file, &mut parts, sent).await?;
                }
            }
            in_flight.push(async move {
                let send = || {
                    self.bucket
                        .upload_part(key, upload_id, number, read.bytes.clone())
                };
                let etag = self.send(length, send).await?;
                Ok::<_, UploadError>((
                    number,
                    PartRecord {
                        size_bytes: length,
                        blake3: read.hash,
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
        let hashes: Vec<String> = parts.into_values().map(|part| part.blake3).collect();
        let whole = hashes::whole(hashes.iter().map(String::as_str))
            .expect("a large file has two parts or more, each a subtree");
        let stored = Stored {
            key: self.bucket.stored_as(&upload.key),
            part_size_bytes,
            parts: hashes,
        };
        Ok(manifest_file(source, whole, stored))
    }

    async fn note_part(
        &self,
        log: &mut AttemptLog,
        file: usize,
        parts: &mut BTreeMap<u32, PartRecord>,
        sent: Result<(u32, PartRecord), UploadError>,
    ) -> Result<(), UploadError> {
        let (number, part) = sent?;
        self.add_done(part.size_bytes);
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
                    let mut by_number = BTreeMap::new();
                    by_number.extend(listed.iter().map(|part| (part.number, part)));
                    let mut parts = upload.parts.clone();
                    parts.retain(|number, part| {
                        by_number.get(number).is_some_and(|one| {
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
        let parts = source.stat.size_bytes.div_ceil(part_size_bytes) as usize;
        let upload_id = self
            .standing
            .ask(self.stop, || self.bucket.create_upload_of(&key, parts))
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
        let mut found = BTreeMap::new();
        found.extend(listed.iter().map(|part| (part.number, part)));
        for (number, part) in parts {
            match found.get(number).map(|one| (one.size_bytes, &one.etag)) {
                Some((size, etag)) if size == part.size_bytes && *etag == part.etag => {}
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

    /// Completes an upload. Of an object that the bucket says it has, the size is compared with all others of the checkpoint before that
    /// is committed: some servers read all of it to answer a question about one.
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
            let Err(err) = self
                .bucket
                .complete_upload(&upload.key, &upload.upload_id, &wanted)
                .await
            else {
                return Ok(None);
            };
            // A lost answer, an error after the work was done, or a repeated call on a server that forgets: the object tells.
            match self.bucket.head(&upload.key).await? {
                Some(object) => Ok(Some(object)),
                None => Err(err),
            }
        };
        match self.standing.ask(self.stop, attempt).await? {
            Some(object) if object.size_bytes != size_bytes => Err(UploadError::Review {
                key: upload.key.clone(),
                sent: format!("{size_bytes} bytes"),
                found: format!("{} bytes", object.size_bytes),
            }),
            _ => Ok(()),
        }
    }

    /// Looks for an unchanged large file without reading all of one that changed: the first part decides.
    async fn reuse_large_file(
        &self,
        source: &Arc<Source>,
        part_size_bytes: u64,
    ) -> Result<Option<ManifestFile>, UploadError> {
        let size_bytes = source.stat.size_bytes;
        let alike = |file: &&&ManifestFile| {
            file.size_bytes == size_bytes && file.part_size_bytes == part_size_bytes
        };
        let first_parts: Vec<&String> = self
            .known
            .iter()
            .filter(alike)
            .filter_map(|file| file.parts.first())
            .collect();
        if first_parts.is_empty() {
            return Ok(None);
        }
        let read = source.read(0, part_size_bytes, RangeHasher::part(0));
        let mut parts = vec![read.await?.hash];
        if !first_parts.contains(&&parts[0]) {
            return Ok(None);
        }
        let mut offset = part_size_bytes;
        while offset < size_bytes {
            if self.stop.is_cancelled() {
                return Err(UploadError::Stopped);
            }
            let length = part_size_bytes.min(size_bytes - offset);
            let read = source.read(offset, length, RangeHasher::part(offset));
            parts.push(read.await?.hash);
            offset += part_size_bytes;
        }
        let blake3 = hashes::whole(parts.iter().map(String::as_str))
            .expect("a large file has two parts or more, each a subtree");
        let older = self.same_content(size_bytes, &blake3).await?;
        Ok(older.map(|older| manifest_file(source, blake3, older)))
    }
}

/// Whether an error speaks of one multipart upload, so that another one may succeed.
fn is_about_the_upload(err: &BucketError) -> bool {
    err.kind == ErrorKind::NotFound
        // A server that streams parts to their end cannot take one again with other bytes.
        || (err.operation == "UploadPart" && err.status == 501)
        || matches!(
            err.code.as_deref(),
            Some("NoSuchUpload" | "InvalidPart" | "InvalidPartOrder" | "EntityTooSmall")
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_stay_within_the_servers_limit_and_our_memory() {
        let check = |size_bytes: u64, part_mib: u64, in_flight: usize| {
            let part = part_size(size_bytes);
            assert_eq!(
                (part >> 20, parts_in_memory(part)),
                (part_mib, in_flight),
                "{size_bytes} bytes"
            );
            assert!(size_bytes.div_ceil(part) <= MAX_PARTS);
            if part <= MEMORY_BYTES / 2 {
                assert!((in_flight as u64 + 1) * part <= MEMORY_BYTES);
            }
        };
        check(9 << 20, 8, 5);
        check(70 << 30, 8, 5);
        check(72 << 30, 16, 2);
        check(200 << 30, 32, 1);
        check(1 << 40, 128, 1);
        check(5 << 40, 1024, 1);
    }
}
