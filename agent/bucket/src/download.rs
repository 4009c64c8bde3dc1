//! Brings the files of a manifest down, or proves them where they are: several requests at a time, every byte held against its hash.
//!
//! [`download`] goes on from what lies on the disk already and hashes right, however it came there; [`examine`] writes nothing. Names
//! are the caller's business: each file comes with the path that it goes to.

mod disk;

use std::{
    io,
    ops::Range,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, future::BoxFuture, stream};
use serde::Serialize;
use tokio::{sync::Semaphore, task, time};

use disk::{Piece, Place, pieces, survey};
pub use disk::{is_there, make_room};

use crate::{
    bucket::{Bucket, BucketError, ErrorKind},
    hashes::RangeHasher,
    manifest::ManifestFile,
};

/// Bytes of one request. Pieces of files below 70 GiB are not longer, so that a piece is one request.
const CHUNK_BYTES: u64 = 8 << 20;
/// Bytes that are hashed and then written while they are still in a core's cache.
const BLOCK_BYTES: usize = 128 << 10;
/// Pieces, and so requests, in flight: 64 MiB in memory at most.
const CHUNKS_IN_FLIGHT: usize = 8;
/// Files looked after at once; small ones are a matter of round trips.
const FILES_IN_FLIGHT: usize = 16;
/// Files hashed at once.
const HASHES_IN_FLIGHT: usize = 2;
/// Times that bytes which hash wrong are asked for: they may have been changed on their way.
const TRIES: u32 = 2;
/// Longest wait for any answer.
const STALLED: Duration = Duration::from_secs(600);
/// How the data of a file is not what was committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "damage", rename_all = "snake_case")]
pub enum Damage {
    /// There is no such object.
    #[error("its data is gone")]
    Missing,
    /// The object is shorter or longer.
    #[error("its data has {found_bytes} bytes instead of {expected_bytes}")]
    Size {
        /// Size that was committed.
        expected_bytes: u64,
        /// Size of the object.
        found_bytes: u64,
    },
    /// Other bytes of the right number.
    #[error("its hash differs in bytes {from_byte} to {to_byte}")]
    Altered {
        /// First byte of what was hashed together.
        from_byte: u64,
        /// Last byte of it.
        to_byte: u64,
    },
}

/// Why a download did not come to its end. What came down so far stays for the next try.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// The bucket does not hold what was committed.
    #[error("{path:?} is damaged: {damage}")]
    Damaged {
        /// The file, as the manifest has it; one that is the whole checkpoint as its object is called.
        path: String,
        /// How.
        damage: Damage,
    },
    /// The disk refused.
    #[error("{} could not be written", path.display())]
    Disk {
        /// File in question.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The bucket refused.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// No answer at all.
    #[error("the bucket gave nothing in {} s", STALLED.as_secs())]
    Stalled,
}

/// Answers a range of an object's bytes: a bucket, with as much patience as the caller has.
pub trait Read: Send + Sync {
    /// Reads `range` (`start..end`, end exclusive) of the object at `key`; `buffer` as for [`Bucket::get_into`].
    fn read<'a>(
        &'a self,
        key: &'a str,
        range: Range<u64>,
        buffer: BytesMut,
    ) -> BoxFuture<'a, Result<Bytes, BucketError>>;
}

/// A bucket as it is: without patience beyond its own.
impl<B: Bucket> Read for B {
    fn read<'a>(
        &'a self,
        key: &'a str,
        range: Range<u64>,
        buffer: BytesMut,
    ) -> BoxFuture<'a, Result<Bytes, BucketError>> {
        Box::pin(self.get_into(key, range, buffer))
    }
}

/// A file and where it comes down.
#[derive(Debug, Clone)]
pub struct Job {
    /// What it is.
    pub file: ManifestFile,
    /// Where it goes; its directory exists.
    pub path: PathBuf,
}

/// What a download found and did, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Brought {
    /// Was there and hashed right.
    pub reused_bytes: u64,
    /// Came from the bucket.
    pub fetched_bytes: u64,
}

struct Work<'a> {
    read: &'a dyn Read,
    /// One for each piece that is read; whoever writes holds it until that is done.
    chunks: Arc<Semaphore>,
    hashes: Semaphore,
    /// Memory of chunks that are dealt with, for the next ones.
    spare: Mutex<Vec<BytesMut>>,
    done: AtomicU64,
    fetched: AtomicU64,
}

impl<'a> Work<'a> {
    fn new(read: &'a dyn Read) -> Work<'a> {
        Work {
            read,
            chunks: Arc::new(Semaphore::new(CHUNKS_IN_FLIGHT)),
            hashes: Semaphore::new(HASHES_IN_FLIGHT),
            spare: Mutex::default(),
            done: AtomicU64::new(0),
            fetched: AtomicU64::new(0),
        }
    }

    /// Reads a range; `Err(Ok(..))` says how it is damaged.
    async fn chunk(
        &self,
        file: &ManifestFile,
        range: Range<u64>,
    ) -> Result<Result<Bytes, Damage>, DownloadError> {
        let length = range.end - range.start;
        let buffer = self.spare().pop().unwrap_or_default();
        let read = self.read.read(&file.key, range.clone(), buffer);
        let asked = time::timeout(STALLED, read).await;
        match asked.map_err(|_| DownloadError::Stalled)? {
            Ok(bytes) if bytes.len() as u64 == length => Ok(Ok(bytes)),
            Ok(bytes) => Ok(Err(Damage::Size {
                expected_bytes: file.size_bytes,
                found_bytes: range.start + bytes.len() as u64,
            })),
            Err(err) if err.kind == ErrorKind::NotFound => Ok(Err(Damage::Missing)),
            Err(err) if err.status == 416 => Ok(Err(Damage::Size {
                expected_bytes: file.size_bytes,
                found_bytes: self.size(file, range.start).await,
            })),
            Err(err) => Err(err.into()),
        }
    }

    /// One byte of an object.
    async fn look(&self, file: &ManifestFile, at: u64) -> Result<Bytes, BucketError> {
        self.read.read(&file.key, at..at + 1, BytesMut::new()).await
    }

    fn spare(&self) -> std::sync::MutexGuard<'_, Vec<BytesMut>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until all that came is written: whoever is told of a failure looks at what is there, or removes it.
    async fn settle(&self) {
        let all = self.chunks.acquire_many(CHUNKS_IN_FLIGHT as u32).await;
        drop(all.expect("the semaphore is never closed"));
    }

    /// Keeps the memory of a chunk for the next one: at most as many as are in flight.
    fn keep(&self, bytes: Bytes) {
        if let Ok(mut buffer) = bytes.try_into_mut() {
            buffer.clear();
            let mut spare = self.spare();
            if spare.len() < CHUNKS_IN_FLIGHT {
                spare.push(buffer);
            }
        }
    }

    /// How long the object is, for people, when it ends before `below`.
    async fn size(&self, file: &ManifestFile, below: u64) -> u64 {
        let (mut low, mut high) = (0, below);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.look(file, middle).await {
                Ok(bytes) if bytes.len() == 1 => low = middle + 1,
                _ => high = middle,
            }
        }
        low
    }

    /// Reads a piece, hashes it as it comes and, when it has a place `to` go, writes it there. `None`: it is whole.
    async fn piece(
        &self,
        file: &ManifestFile,
        piece: &Piece,
        to: Option<&Arc<Place>>,
    ) -> Result<Option<Damage>, DownloadError> {
        let mut permit = Arc::clone(&self.chunks)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let mut hasher = RangeHasher::like(&piece.hash, piece.range.start);
        for chunk in chunks_of(piece.range.clone()) {
            let bytes = match self.chunk(file, chunk.clone()).await? {
                Ok(bytes) => bytes,
                Err(damage) => return Ok(Some(damage)),
            };
            let length = bytes.len() as u64;
            let place = to.cloned();
            // While the bytes are at hand: what was written is not read again.
            let keep = move || {
                let mut at = chunk.start;
                for block in bytes.chunks(BLOCK_BYTES) {
                    hasher.update(block);
                    if let Some(place) = &place {
                        place.write(block, at)?;
                    }
                    at += block.len() as u64;
                }
                if let Some(place) = &place {
                    place.wrote(bytes.len() as u64)?;
                }
                Ok((hasher, bytes, permit))
            };
            let bytes;
            (hasher, bytes, permit) =
                blocking(keep).await.map_err(|source| DownloadError::Disk {
                    path: to.map_or_else(PathBuf::new, |place| place.path.clone()),
                    source,
                })?;
            self.keep(bytes);
            self.fetched.fetch_add(length, Ordering::Relaxed);
            self.done.fetch_add(length, Ordering::Relaxed);
        }
        let same = hasher.finish() == piece.hash;
        Ok((!same).then(|| Damage::Altered {
            from_byte: piece.range.start,
            to_byte: piece.range.end - 1,
        }))
    }

    async fn survey(&self, job: &Job) -> Result<(Place, Vec<Piece>), DownloadError> {
        let _permit = self
            .hashes
            .acquire()
            .await
            .expect("the semaphore is never closed");
        let looked_at = job.clone();
        blocking(move || survey(&looked_at))
            .await
            .map_err(|source| DownloadError::Disk {
                path: job.path.clone(),
                source,
            })
    }

    /// Until every piece hashes right. Returns the bytes that did so from the start.
    async fn bring(&self, job: &Job) -> Result<u64, DownloadError> {
        let (place, mut missing) = self.survey(job).await?;
        let place = Arc::new(place);
        let missing_bytes: u64 = missing.iter().map(Piece::length).sum();
        let reused = job.file.size_bytes - missing_bytes;
        self.done.fetch_add(reused, Ordering::Relaxed);
        for tries_left in (0..TRIES).rev() {
            let mut brought = stream::iter(missing)
                .map(|piece| {
                    let place = Arc::clone(&place);
                    async move {
                        let damage = self.piece(&job.file, &piece, Some(&place)).await?;
                        Ok::<_, DownloadError>((piece, damage))
                    }
                })
                .buffer_unordered(CHUNKS_IN_FLIGHT);
            let mut wrong = Vec::new();
            while let Some(one) = brought.next().await {
                match one? {
                    (_, None) => {}
                    (piece, Some(Damage::Altered { .. })) if tries_left > 0 => {
                        self.done.fetch_sub(piece.length(), Ordering::Relaxed);
                        wrong.push(piece);
                    }
                    (_, Some(damage)) => return Err(damaged(&job.file, damage)),
                }
            }
            drop(brought);
            missing = wrong;
        }
        Ok(reused)
    }

    async fn examine(&self, file: &ManifestFile) -> Result<Option<Damage>, DownloadError> {
        let mut looks = stream::iter(pieces(file))
            .map(|piece| async move { self.piece(file, &piece, None).await })
            .buffered(CHUNKS_IN_FLIGHT);
        while let Some(looked) = looks.next().await {
            if let Some(damage) = looked? {
                return Ok(Some(damage));
            }
        }
        Ok(None)
    }
}

fn chunks_of(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let end = range.end;
    range
        .step_by(CHUNK_BYTES as usize)
        .map(move |start| start..(start + CHUNK_BYTES).min(end))
}

fn damaged(file: &ManifestFile, damage: Damage) -> DownloadError {
    let name = match file.path.as_str() {
        "" => file.key.rsplit('/').next().unwrap_or_default(),
        path => path,
    };
    DownloadError::Damaged {
        path: name.to_owned(),
        damage,
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    task::spawn_blocking(work)
        .await
        .expect("reading and writing files does not panic")
}

/// Brings every file to its path and proves it there. `progress` gets bytes done and in all.
///
/// # Errors
/// See [`DownloadError`]. What came down stays, and the next call goes on from there.
pub async fn download(
    read: &dyn Read,
    jobs: Vec<Job>,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<Brought, DownloadError> {
    let total: u64 = jobs.iter().map(|job| job.file.size_bytes).sum();
    let work = Arc::new(Work::new(read));
    progress(0, total);
    let mut brought = Brought::default();
    let mut failed = None;
    {
        let bring = |job: Job| {
            let work = Arc::clone(&work);
            async move { work.bring(&job).await }
        };
        let mut brings = stream::iter(jobs)
            .map(bring)
            .buffer_unordered(FILES_IN_FLIGHT);
        loop {
            // A large file takes long, and people want to see it move.
            match time::timeout(Duration::from_millis(250), brings.next()).await {
                Ok(Some(Ok(reused))) => brought.reused_bytes += reused,
                Ok(Some(Err(err))) => {
                    failed = Some(err);
                    break;
                }
                Ok(None) => break,
                Err(_) => {}
            }
            progress(work.done.load(Ordering::Relaxed), total);
        }
    }
    if let Some(err) = failed {
        work.settle().await;
        return Err(err);
    }
    brought.fetched_bytes = work.fetched.load(Ordering::Relaxed);
    progress(total, total);
    Ok(brought)
}

/// Reads all data of a file in the bucket and holds it against what was committed. `None`: it is whole.
///
/// # Errors
/// When the bucket gives no answer that says either.
pub async fn examine(
    bucket: &dyn Bucket,
    read: &dyn Read,
    file: &ManifestFile,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<Option<Damage>, DownloadError> {
    // A longer object would read right in all the ranges that we ask for.
    match bucket.head(&file.key).await? {
        None => return Ok(Some(Damage::Missing)),
        Some(found) if found.size_bytes != file.size_bytes => {
            return Ok(Some(Damage::Size {
                expected_bytes: file.size_bytes,
                found_bytes: found.size_bytes,
            }));
        }
        Some(_) => {}
    }
    let work = Work::new(read);
    let examine = work.examine(file);
    tokio::pin!(examine);
    loop {
        match time::timeout(Duration::from_millis(250), &mut examine).await {
            Ok(found) => {
                progress(work.done.load(Ordering::Relaxed));
                return found;
            }
            Err(_) => progress(work.done.load(Ordering::Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests;
