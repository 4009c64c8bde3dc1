//! Makes a file or directory of this machine a checkpoint of a run: files first, then the manifest, read back.

mod found;

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use spotter_bucket::{
    Bucket, BucketError, CommitId, CompletedPart, ErrorKind, Manifest, ManifestError, ManifestFile,
    hashes::{self, RangeHasher},
    layout::NameError,
    whole::rules::user::CompleteWhen,
};
use tokio::task;
use ulid::Ulid;

use super::Shelf;
use found::{Found, is_the_same, list, prove};

/// Smallest part of an upload, and the largest file that goes in one request.
const MIN_PART_BYTES: u64 = 8 << 20;
/// Parts of one file: the server's limit is 10,000.
const MOST_PARTS: u64 = 9_000;
/// Requests in flight: 32 MiB in memory for files of usual size.
const IN_FLIGHT: usize = 4;

/// Why it is no checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// Something that no checkpoint may hold.
    #[error("{} cannot be part of a checkpoint: {reason}", path.display())]
    Unfit {
        /// File or directory.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },
    /// Half of one: a trainer that resumes from it would fail.
    #[error("{} is no whole checkpoint: {reason}", path.display())]
    NotWhole {
        /// File or directory.
        path: PathBuf,
        /// Which file, and what is wrong with it.
        reason: String,
    },
    /// It was written to meanwhile.
    #[error("{} changed while it was read", .0.display())]
    Changed(PathBuf),
    /// The disk did not give us the bytes.
    #[error("{} could not be read", path.display())]
    Read {
        /// File or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A name that no key may have.
    #[error(transparent)]
    Name(#[from] NameError),
    /// What we made of it contradicts itself.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The bucket refused.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// What the bucket holds is not what was sent.
    #[error("{key} was not stored: {found} instead of {sent_bytes} bytes")]
    Review {
        /// Key.
        key: String,
        /// What it holds.
        found: String,
        /// What was sent.
        sent_bytes: u64,
    },
}

/// What the manifest says besides the files.
#[derive(Debug, Clone)]
pub struct About {
    /// Step.
    pub step: Option<u64>,
    /// Attempt that it counts to.
    pub attempt: u32,
    /// Rule by which its trainer wrote it.
    pub rule: String,
    /// The user's rule for when one is complete; `None`: those of the frameworks.
    pub when: Option<CompleteWhen>,
    /// Microseconds since the epoch here.
    pub now_us: u64,
    /// The same by the server's clock.
    pub server_us: u64,
}

/// Uploads and commits. Content that one of the known commits holds already is not sent again. `progress` gets bytes done and in all.
/// Returns the manifest and the bytes that were not sent.
///
/// # Errors
/// See [`PushError`]. Until the end nobody can see anything; what was sent is in the way of nothing, and `prune` removes it.
pub async fn push(
    shelf: &Shelf,
    from: &Path,
    about: &About,
    known: &[&Manifest],
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<(Manifest, u64), PushError> {
    let start = from.to_owned();
    let when = about.when.clone();
    let (directory, found) = blocking(from, move || {
        let listed = list(&start);
        Ok(listed.and_then(|(directory, found)| {
            prove(&start, directory, &found, when.as_ref())?;
            Ok((directory, found))
        }))
    })
    .await??;
    let name = from.file_name().unwrap_or_default().to_string_lossy();
    // A server's time is known to a second or so: what was written before must not count as newer for that.
    let after = known
        .iter()
        .filter_map(|manifest| manifest.id.parse::<CommitId>().ok())
        .map(|id| id.made_ms() + 1);
    let made_ms = after.fold(about.server_us / 1_000, u64::max);
    let id = CommitId {
        step: about.step.unwrap_or(0),
        ulid: Ulid::from_parts(made_ms, Ulid::generate().random()),
    };
    let older: HashMap<(u64, &str), &ManifestFile> = known
        .iter()
        .flat_map(|manifest| &manifest.files)
        .map(|file| ((file.size_bytes, file.blake3.as_str()), file))
        .collect();
    let total: u64 = found.iter().map(|file| file.size_bytes).sum();
    let (mut done, mut reused) = (0, 0);
    progress(done, total);
    let (small, large): (Vec<Found>, Vec<Found>) = found
        .into_iter()
        .partition(|file| file.size_bytes <= MIN_PART_BYTES);
    let mut files = Vec::new();
    let put = |file: Found| store_small(shelf, &id, &name, file, &older);
    let mut puts = stream::iter(small).map(put).buffer_unordered(2 * IN_FLIGHT);
    while let Some(stored) = puts.next().await {
        let (file, was_there) = stored?;
        done += file.size_bytes;
        reused += if was_there { file.size_bytes } else { 0 };
        progress(done, total);
        files.push(file);
    }
    drop(puts);
    for file in large {
        let mut tell = |bytes| progress(done + bytes, total);
        let (file, was_there) = store_large(shelf, &id, &name, file, &older, &mut tell).await?;
        done += file.size_bytes;
        reused += if was_there { file.size_bytes } else { 0 };
        progress(done, total);
        files.push(file);
    }
    for file in &files {
        review(shelf, file).await?;
    }
    let mut manifest = Manifest {
        v: Manifest::format(None, &files),
        id: id.to_string(),
        run: shelf.run.clone(),
        attempt: about.attempt,
        step: about.step,
        rule: about.rule.clone(),
        path: name.into_owned(),
        directory,
        committed_us: about.now_us,
        server_us: about.server_us,
        prev: known.first().map(|newest| newest.id.clone()),
        metric: None,
        files,
        encoding: None,
        self_blake3: String::new(),
    };
    let bytes = manifest.seal();
    manifest.check()?;
    let key = shelf.layout.commit_key(&id);
    shelf.bucket.put(&key, bytes.clone()).await?;
    let back = shelf.bucket.get(&key, None).await?;
    if back != bytes {
        return Err(PushError::Review {
            key,
            found: format!("{} other bytes", back.len()),
            sent_bytes: bytes.len() as u64,
        });
    }
    Ok((manifest, reused))
}

type Older<'a> = HashMap<(u64, &'a str), &'a ManifestFile>;

/// Sends a small file, unless its content is there. Whether it was.
async fn store_small(
    shelf: &Shelf,
    id: &CommitId,
    name: &str,
    file: Found,
    older: &Older<'_>,
) -> Result<(ManifestFile, bool), PushError> {
    let looked_at = file.clone();
    let (bytes, hash, same) = blocking(&file.path, move || {
        let bytes = fs::read(&looked_at.path)?;
        let hash = blake3::hash(&bytes).to_hex().to_string();
        let same = is_the_same(&looked_at)? && bytes.len() as u64 == looked_at.size_bytes;
        Ok((bytes, hash, same))
    })
    .await?;
    if !same {
        return Err(PushError::Changed(file.path));
    }
    if let Some(there) = reuse(shelf, &file, &hash, older).await? {
        return Ok((there, true));
    }
    let key = shelf.layout.data_key(id, in_bucket(&file, name))?;
    shelf.bucket.put(&key, bytes.into()).await?;
    Ok((entry(file, hash, key, 0, Vec::new()), false))
}

/// Sends a large file in parts, unless its content is there.
async fn store_large(
    shelf: &Shelf,
    id: &CommitId,
    name: &str,
    file: Found,
    older: &Older<'_>,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<(ManifestFile, bool), PushError> {
    // Hashed first only where an older one has this size: reading twice costs less than sending.
    if older.keys().any(|(size, _)| *size == file.size_bytes) {
        let looked_at = file.path.clone();
        let hash = blocking(&file.path, move || {
            let mut hasher = blake3::Hasher::new();
            io::copy(&mut File::open(looked_at)?, &mut hasher)?;
            Ok(hasher.finalize().to_hex().to_string())
        })
        .await?;
        if let Some(there) = reuse(shelf, &file, &hash, older).await? {
            return Ok((there, true));
        }
    }
    let key = shelf.layout.data_key(id, in_bucket(&file, name))?;
    let upload = shelf.bucket.create_upload(&key).await?;
    let sent = send_parts(shelf, &file, &key, &upload, progress).await;
    if sent.is_err() {
        // It costs money until somebody does; that it fails too changes nothing about the reason.
        if let Err(err) = shelf.bucket.abort_upload(&key, &upload).await {
            tracing::debug!(error = %err, key, "an upload could not be aborted");
        }
    }
    let (hash, part_bytes, parts) = sent?;
    Ok((entry(file, hash, key, part_bytes, parts), false))
}

async fn send_parts(
    shelf: &Shelf,
    file: &Found,
    key: &str,
    upload: &str,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<(String, u64, Vec<String>), PushError> {
    // A power of two, so that the parts' hashes make the file's.
    let least_bytes = file.size_bytes.div_ceil(MOST_PARTS);
    let part_bytes = least_bytes.next_power_of_two().max(MIN_PART_BYTES);
    let opened = {
        let path = file.path.clone();
        blocking(&file.path, move || File::open(path)).await?
    };
    let (opened, path) = (Arc::new(opened), file.path.clone());
    let size = file.size_bytes;
    let send = |number: u64| {
        let (opened, path) = (Arc::clone(&opened), &path);
        async move {
            let start = number * part_bytes;
            let length = part_bytes.min(size - start);
            let (bytes, hash) = blocking(path, move || {
                let mut bytes = vec![0; length as usize];
                opened.read_exact_at(&mut bytes, start)?;
                let mut hasher = RangeHasher::part(start);
                hasher.update(&bytes);
                Ok((Bytes::from(bytes), hasher.finish()))
            })
            .await?;
            let number = number as u32 + 1;
            let etag = shelf.bucket.upload_part(key, upload, number, bytes).await?;
            Ok::<_, PushError>((CompletedPart { number, etag }, hash, length))
        }
    };
    let numbers = stream::iter(0..size.div_ceil(part_bytes));
    let mut sends = Box::pin(numbers.map(send).buffered(IN_FLIGHT));
    let (mut parts, mut hashes, mut done) = (Vec::new(), Vec::new(), 0);
    while let Some(sent) = sends.next().await {
        let (part, hash, length) = sent?;
        parts.push(part);
        hashes.push(hash);
        done += length;
        progress(done);
    }
    drop(sends);
    let whole = hashes::whole(hashes.iter().map(String::as_str))
        .expect("a large file has two parts or more, each a subtree");
    let looked_at = file.clone();
    if !blocking(&file.path, move || is_the_same(&looked_at)).await? {
        return Err(PushError::Changed(file.path.clone()));
    }
    match shelf.bucket.complete_upload(key, upload, &parts).await {
        Ok(_) => {}
        // The answer may have been lost: what is there decides.
        Err(err) if err.kind == ErrorKind::Transient || err.kind == ErrorKind::NotFound => {
            let there = shelf.bucket.head(key).await?;
            if there.is_none_or(|there| there.size_bytes != file.size_bytes) {
                return Err(err.into());
            }
        }
        Err(err) => return Err(err.into()),
    }
    Ok((whole, part_bytes, hashes))
}

async fn reuse(
    shelf: &Shelf,
    file: &Found,
    hash: &str,
    older: &Older<'_>,
) -> Result<Option<ManifestFile>, PushError> {
    let Some(there) = older.get(&(file.size_bytes, hash)) else {
        return Ok(None);
    };
    let same_size = shelf
        .bucket
        .head(&there.key)
        .await?
        .is_some_and(|found| found.size_bytes == file.size_bytes);
    Ok(same_size.then(|| ManifestFile {
        path: file.relative.clone(),
        mode: file.mode,
        mtime_ns: file.mtime_ns,
        ..(*there).clone()
    }))
}

async fn review(shelf: &Shelf, file: &ManifestFile) -> Result<(), PushError> {
    let found = shelf.bucket.head(&file.key).await?;
    if found
        .as_ref()
        .is_some_and(|found| found.size_bytes == file.size_bytes)
    {
        return Ok(());
    }
    Err(PushError::Review {
        key: file.key.clone(),
        found: found.map_or_else(
            || "nothing".to_owned(),
            |found| format!("{} bytes", found.size_bytes),
        ),
        sent_bytes: file.size_bytes,
    })
}

fn in_bucket<'a>(file: &'a Found, name: &'a str) -> &'a str {
    if file.relative.is_empty() {
        name
    } else {
        &file.relative
    }
}

fn entry(
    file: Found,
    blake3: String,
    key: String,
    part_size_bytes: u64,
    parts: Vec<String>,
) -> ManifestFile {
    ManifestFile {
        path: file.relative,
        mode: file.mode,
        mtime_ns: file.mtime_ns,
        size_bytes: file.size_bytes,
        blake3,
        key,
        part_size_bytes,
        parts,
    }
}

fn read(path: &Path) -> impl FnOnce(io::Error) -> PushError {
    let path = path.to_owned();
    move |source| PushError::Read { path, source }
}

async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, PushError> {
    task::spawn_blocking(work)
        .await
        .expect("reading files does not panic")
        .map_err(read(path))
}
