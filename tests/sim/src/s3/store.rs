//! Objects and unfinished uploads as files: written aside, renamed when whole, remembered in an index.
//!
//! An object is one file with a name of its own: content, then its description as JSON, then the length of that and a mark, so that
//! one rename makes both visible. Keys never become file names.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::SystemTime,
};

use anyhow::Context as _;
use md5::{Digest as _, Md5};
use tempfile::TempPath;
use ulid::Ulid;

mod files;
mod kinds;
#[cfg(test)]
mod tests;

use files::{describe, load_bucket, load_upload, part_name};
pub use kinds::{Begun, Description, MIN_PART_BYTES, Part, Precondition, StoreError, Wanted};

/// Completes that are remembered, so that a repeated one is answered as AWS does.
const MAX_FINISHED: usize = 10_000;

/// Everything stored below one directory.
pub struct Store {
    dir: PathBuf,
    index: Mutex<Index>,
}

#[derive(Default)]
struct Index {
    buckets: BTreeMap<String, BTreeMap<String, Stored>>,
    uploads: BTreeMap<String, Upload>,
    finished: HashMap<String, (String, Description)>,
}

#[derive(Clone)]
struct Stored {
    description: Arc<Description>,
    file: PathBuf,
}

struct Upload {
    begun: Begun,
    parts: BTreeMap<u32, Part>,
}

impl Store {
    /// Opens what is below `dir` and makes these buckets, if they are not there.
    pub fn open(dir: &Path, buckets: &[String]) -> anyhow::Result<Self> {
        let mut index = Index::default();
        for name in ["objects", "uploads", "tmp"] {
            fs::create_dir_all(dir.join(name))
                .with_context(|| format!("cannot make {}", dir.join(name).display()))?;
        }
        // Whatever was being written when the last server ended.
        for leftover in fs::read_dir(dir.join("tmp"))? {
            fs::remove_file(leftover?.path())?;
        }
        for bucket in buckets {
            fs::create_dir_all(dir.join("objects").join(bucket))?;
        }
        for bucket in fs::read_dir(dir.join("objects"))? {
            let bucket = bucket?;
            let name = bucket.file_name().to_string_lossy().into_owned();
            index.buckets.insert(name, load_bucket(&bucket.path())?);
        }
        for upload in fs::read_dir(dir.join("uploads"))? {
            let upload = upload?;
            let id = upload.file_name().to_string_lossy().into_owned();
            if let Some(loaded) = load_upload(&upload.path())? {
                index.uploads.insert(id, loaded);
            }
        }
        Ok(Self {
            dir: dir.to_owned(),
            index: Mutex::new(index),
        })
    }

    /// A new file to write into; it is gone when it was not stored.
    pub fn scratch(&self) -> io::Result<(File, TempPath)> {
        Ok(tempfile::NamedTempFile::new_in(self.dir.join("tmp"))?.into_parts())
    }

    /// Names of all buckets.
    pub fn buckets(&self) -> Vec<String> {
        self.index().buckets.keys().cloned().collect()
    }

    /// Makes a bucket; whether it was new.
    pub fn create_bucket(&self, bucket: &str) -> io::Result<bool> {
        let mut index = self.index();
        if index.buckets.contains_key(bucket) {
            return Ok(false);
        }
        fs::create_dir_all(self.dir.join("objects").join(bucket))?;
        index.buckets.insert(bucket.to_owned(), BTreeMap::new());
        Ok(true)
    }

    /// Stores what was written to a scratch file (`description.size_bytes` of content) under its key.
    pub fn put(
        &self,
        bucket: &str,
        description: Description,
        scratch: TempPath,
        condition: &Precondition,
    ) -> Result<(), StoreError> {
        describe(&scratch, &description)?;
        let mut index = self.index();
        let objects = index
            .buckets
            .get_mut(bucket)
            .ok_or(StoreError::NoSuchBucket)?;
        check(objects.get(&description.key), condition)?;
        // Names grow with time: of two files for one key, the later counts when a crash left both.
        let file = self
            .dir
            .join("objects")
            .join(bucket)
            .join(Ulid::generate().to_string());
        scratch.persist(&file).map_err(|err| err.error)?;
        let key = description.key.clone();
        let replaced = objects.insert(
            key,
            Stored {
                description: Arc::new(description),
                file,
            },
        );
        if let Some(replaced) = replaced {
            fs::remove_file(replaced.file)?;
        }
        Ok(())
    }

    /// What is known of an object.
    pub fn describe(&self, bucket: &str, key: &str) -> Result<Arc<Description>, StoreError> {
        let index = self.index();
        let objects = index.buckets.get(bucket).ok_or(StoreError::NoSuchBucket)?;
        objects
            .get(key)
            .map(|stored| stored.description.clone())
            .ok_or(StoreError::NoSuchKey)
    }

    /// An object's description and its opened file, content first; it stays whole even when it is replaced meanwhile.
    pub fn read(&self, bucket: &str, key: &str) -> Result<(Arc<Description>, File), StoreError> {
        let index = self.index();
        let objects = index.buckets.get(bucket).ok_or(StoreError::NoSuchBucket)?;
        let stored = objects.get(key).ok_or(StoreError::NoSuchKey)?;
        Ok((stored.description.clone(), File::open(&stored.file)?))
    }

    /// Deletes an object, if it is there.
    pub fn delete(
        &self,
        bucket: &str,
        key: &str,
        condition: &Precondition,
    ) -> Result<(), StoreError> {
        let mut index = self.index();
        let objects = index
            .buckets
            .get_mut(bucket)
            .ok_or(StoreError::NoSuchBucket)?;
        check(objects.get(key), condition)?;
        if let Some(stored) = objects.remove(key) {
            fs::remove_file(stored.file)?;
        }
        Ok(())
    }

    /// Descriptions of a bucket's objects from `from` on (inclusive), in key order, as long as `wanted` says so.
    pub fn scan(
        &self,
        bucket: &str,
        from: &str,
        mut wanted: impl FnMut(&Arc<Description>) -> bool,
    ) -> Result<(), StoreError> {
        let index = self.index();
        let objects = index.buckets.get(bucket).ok_or(StoreError::NoSuchBucket)?;
        for stored in objects.range(from.to_owned()..).map(|(_, stored)| stored) {
            if !wanted(&stored.description) {
                break;
            }
        }
        Ok(())
    }

    /// Flips one bit in the middle of an object, behind the back of everything; whether there was one to flip.
    pub fn corrupt(&self, bucket: &str, key: &str) -> Result<bool, StoreError> {
        let index = self.index();
        let objects = index.buckets.get(bucket).ok_or(StoreError::NoSuchBucket)?;
        let Some(stored) = objects
            .get(key)
            .filter(|stored| stored.description.size_bytes > 0)
        else {
            return Ok(false);
        };
        let mut file = File::options().read(true).write(true).open(&stored.file)?;
        let middle = SeekFrom::Start(stored.description.size_bytes / 2);
        let mut byte = [0];
        file.seek(middle)?;
        file.read_exact(&mut byte)?;
        file.seek(middle)?;
        file.write_all(&[byte[0] ^ 1])?;
        Ok(true)
    }

    /// Begins an upload and returns its id.
    pub fn begin(&self, begun: Begun) -> Result<String, StoreError> {
        let mut index = self.index();
        if !index.buckets.contains_key(&begun.bucket) {
            return Err(StoreError::NoSuchBucket);
        }
        let id = Ulid::generate().to_string();
        let dir = self.dir.join("uploads").join(&id);
        fs::create_dir(&dir)?;
        fs::write(
            dir.join("upload.json"),
            serde_json::to_vec(&begun).map_err(io::Error::other)?,
        )?;
        index.uploads.insert(
            id.clone(),
            Upload {
                begun,
                parts: BTreeMap::new(),
            },
        );
        Ok(id)
    }

    /// What is known of an open upload.
    pub fn begun(&self, bucket: &str, key: &str, id: &str) -> Result<Begun, StoreError> {
        open(&mut self.index(), bucket, key, id).map(|upload| upload.begun.clone())
    }

    /// Keeps what was written to a scratch file as a part; one of the same number is replaced.
    pub fn put_part(
        &self,
        (bucket, key, id): (&str, &str, &str),
        number: u32,
        (size_bytes, md5, crc32): (u64, String, Option<String>),
        scratch: TempPath,
    ) -> Result<(), StoreError> {
        let mut index = self.index();
        let upload = open(&mut index, bucket, key, id)?;
        if upload.begun.crc32 != crc32.is_some() {
            let crc32 = upload.begun.crc32;
            return Err(StoreError::OtherChecksum { number, crc32 });
        }
        let file =
            self.dir
                .join("uploads")
                .join(id)
                .join(part_name(number, &md5, crc32.as_deref()));
        scratch.persist(&file).map_err(|err| err.error)?;
        let part = Part {
            size_bytes,
            md5,
            crc32,
            modified: SystemTime::now(),
            file: file.clone(),
        };
        if let Some(replaced) = upload
            .parts
            .insert(number, part)
            .filter(|replaced| replaced.file != file)
        {
            fs::remove_file(replaced.file)?;
        }
        Ok(())
    }

    /// Parts of an open upload with a higher number than `after`.
    pub fn parts(
        &self,
        bucket: &str,
        key: &str,
        id: &str,
        after: u32,
    ) -> Result<Vec<(u32, Part)>, StoreError> {
        let mut index = self.index();
        let upload = open(&mut index, bucket, key, id)?;
        let later = upload.parts.range(after.saturating_add(1)..);
        Ok(later
            .map(|(number, part)| (*number, part.clone()))
            .collect())
    }

    /// Open uploads of a bucket, by key, then by id.
    pub fn uploads(&self, bucket: &str) -> Result<Vec<(String, Begun)>, StoreError> {
        let index = self.index();
        if !index.buckets.contains_key(bucket) {
            return Err(StoreError::NoSuchBucket);
        }
        let of_bucket = index
            .uploads
            .iter()
            .filter(|(_, upload)| upload.begun.bucket == bucket);
        let mut uploads: Vec<_> = of_bucket
            .map(|(id, upload)| (id.clone(), upload.begun.clone()))
            .collect();
        uploads.sort_by(|(id_a, a), (id_b, b)| (&a.key, id_a).cmp(&(&b.key, id_b)));
        Ok(uploads)
    }

    /// Drops an upload and its parts.
    pub fn abort(&self, bucket: &str, key: &str, id: &str) -> Result<(), StoreError> {
        let mut index = self.index();
        open(&mut index, bucket, key, id)?;
        index.uploads.remove(id);
        fs::remove_dir_all(self.dir.join("uploads").join(id))?;
        Ok(())
    }

    /// Puts the named parts together and makes the object visible. Blocks while it copies. Asked again, it answers the same.
    pub fn complete(
        &self,
        (bucket, key, id): (&str, &str, &str),
        wanted: &[Wanted],
        condition: &Precondition,
    ) -> Result<Description, StoreError> {
        let (begun, parts) = {
            let mut index = self.index();
            match index.finished.get(id) {
                Some((of_bucket, done)) if of_bucket == bucket && done.key == key => {
                    return Ok(done.clone());
                }
                _ => {}
            }
            let upload = open(&mut index, bucket, key, id)?;
            let parts = chosen(upload, wanted)?;
            // Opened under the lock: a part that is replaced meanwhile stays as it was chosen.
            let opened: io::Result<Vec<File>> =
                parts.iter().map(|part| File::open(&part.file)).collect();
            (
                upload.begun.clone(),
                parts.into_iter().zip(opened?).collect::<Vec<_>>(),
            )
        };
        let (mut file, scratch) = self.scratch()?;
        let mut tags = Md5::new();
        let mut size_bytes = 0;
        for (part, mut content) in parts {
            tags.update(hex::decode(&part.md5).map_err(io::Error::other)?);
            size_bytes += io::copy(&mut content, &mut file)?;
        }
        let description = Description {
            key: key.to_owned(),
            size_bytes,
            etag: format!("{}-{}", hex::encode(tags.finalize()), wanted.len()),
            modified_ms: now_ms(),
            content_type: begun.content_type,
            metadata: begun.metadata,
        };
        self.put(bucket, description.clone(), scratch, condition)?;
        let mut index = self.index();
        if index.finished.len() >= MAX_FINISHED {
            index.finished.clear();
        }
        index
            .finished
            .insert(id.to_owned(), (bucket.to_owned(), description.clone()));
        if index.uploads.remove(id).is_some() {
            fs::remove_dir_all(self.dir.join("uploads").join(id))?;
        }
        Ok(description)
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Milliseconds since the epoch.
pub fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn open<'a>(
    index: &'a mut Index,
    bucket: &str,
    key: &str,
    id: &str,
) -> Result<&'a mut Upload, StoreError> {
    if !index.buckets.contains_key(bucket) {
        return Err(StoreError::NoSuchBucket);
    }
    let upload = index
        .uploads
        .get_mut(id)
        .filter(|upload| upload.begun.bucket == bucket && upload.begun.key == key);
    upload.ok_or(StoreError::NoSuchUpload)
}

fn chosen(upload: &Upload, wanted: &[Wanted]) -> Result<Vec<Part>, StoreError> {
    if wanted.is_empty()
        || !wanted
            .windows(2)
            .all(|pair| pair[0].number < pair[1].number)
    {
        return Err(StoreError::InvalidPartOrder);
    }
    let mut parts = Vec::with_capacity(wanted.len());
    for (at, one) in wanted.iter().enumerate() {
        let number = one.number;
        let part = upload.parts.get(&number);
        // An upload with checksums wants them named, each, as AWS does.
        let summed = upload.begun.crc32;
        let part = part.filter(|part| part.md5 == one.etag && (!summed || part.crc32 == one.crc32));
        let part = part.ok_or(StoreError::InvalidPart(number))?;
        if at + 1 < wanted.len() && part.size_bytes < MIN_PART_BYTES {
            return Err(StoreError::EntityTooSmall(number));
        }
        parts.push(part.clone());
    }
    Ok(parts)
}

fn check(current: Option<&Stored>, condition: &Precondition) -> Result<(), StoreError> {
    match (current, condition) {
        (Some(_), Precondition { absent: true, .. }) => Err(StoreError::PreconditionFailed),
        (None, Precondition { etag: Some(_), .. }) => Err(StoreError::NoSuchKey),
        (
            Some(stored),
            Precondition {
                etag: Some(etag), ..
            },
        ) if stored.description.etag != *etag => Err(StoreError::PreconditionFailed),
        _ => Ok(()),
    }
}
