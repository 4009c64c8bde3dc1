//! What an upload has done so far, on disk, so that kill -9 costs seconds and not the upload.
//!
//! One file of JSON lines per attempt; it is removed when the commit has been read back. A torn last line is what a crash leaves
//! and is cut off. Start at [`AttemptLog::create`] and [`load`].

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use spotter_bucket::ManifestFile;

use super::candidate::{Candidate, FileStat};
use crate::fault;
use spotter_bucket::sorted::sort_by;

/// Version of the journal's format.
const FORMAT: u32 = 1;
const PREFIX: &str = "attempt-";
const SUFFIX: &str = ".jsonl";

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Entry {
    /// An attempt begins; always the first line.
    Began {
        /// Version of the format.
        v: u32,
        /// Name that the commit will have.
        id: String,
        /// Key of the candidate in its tracker.
        key: String,
        /// Path of the checkpoint, relative to the checkpoint directory.
        path: String,
        /// Step, when the name has one.
        step: Option<u64>,
        /// Whether `path` is a directory.
        directory: bool,
        /// Rule by which it was found complete.
        rule: String,
        /// Every file as it was when it was opened.
        files: Vec<FileStat>,
    },
    /// The server gave a multipart upload for a file (by its place in `files`).
    Upload {
        /// Place in `files`.
        file: usize,
        /// Key of the object.
        key: String,
        /// The server's id of it.
        upload_id: String,
        /// Size of every part but the last.
        part_size_bytes: u64,
    },
    /// The server has a part.
    Part {
        /// Place in `files`.
        file: usize,
        /// From 1.
        number: u32,
        /// Size in bytes.
        size_bytes: u64,
        /// Hash of the bytes that were sent, as [`spotter_bucket::hashes`] writes it.
        blake3: String,
        /// The server's tag for it.
        etag: String,
    },
    /// What was stored or begun of a file is of no use any more.
    Dropped {
        /// Place in `files`.
        file: usize,
    },
    /// A file is stored, whole and reviewed.
    Stored {
        /// Place in `files`.
        file: usize,
        /// As it will stand in the manifest.
        entry: ManifestFile,
    },
    /// Every file is stored: these bytes are the manifest, to be put under the commit's name.
    Sealed {
        /// The manifest's bytes.
        manifest: String,
    },
}

impl Entry {
    /// What crash points call it.
    fn point(&self) -> &'static str {
        match self {
            Entry::Began { .. } => "journal.began",
            Entry::Upload { .. } => "journal.upload",
            Entry::Part { .. } => "journal.part",
            Entry::Dropped { .. } => "journal.dropped",
            Entry::Stored { .. } => "journal.stored",
            Entry::Sealed { .. } => "journal.sealed",
        }
    }
}

/// A part that the server confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartRecord {
    /// Size in bytes.
    pub size_bytes: u64,
    /// Hash of its bytes, as [`spotter_bucket::hashes`] writes it.
    pub blake3: String,
    /// The server's tag.
    pub etag: String,
}

/// A multipart upload that was begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadRecord {
    /// Key of the object.
    pub key: String,
    /// The server's id.
    pub upload_id: String,
    /// Size of every part but the last.
    pub part_size_bytes: u64,
    /// Parts by number.
    pub parts: BTreeMap<u32, PartRecord>,
}

/// An attempt as its journal tells it.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    /// Name that the commit will have.
    pub id: String,
    /// What is uploaded.
    pub candidate: Candidate,
    /// Rule by which it was found complete.
    pub rule: String,
    /// Multipart uploads by the file's place.
    pub uploads: BTreeMap<usize, UploadRecord>,
    /// Stored files by their place.
    pub stored: BTreeMap<usize, ManifestFile>,
    /// The manifest's bytes, once every file is stored.
    pub sealed: Option<String>,
}

impl Attempt {
    fn began(entry: Entry) -> Option<Attempt> {
        let Entry::Began {
            v: FORMAT,
            id,
            key,
            path,
            step,
            directory,
            rule,
            files,
        } = entry
        else {
            return None;
        };
        let candidate = Candidate {
            key,
            path,
            step,
            directory,
            unfinished: None,
            unreadable: None,
            files,
        };
        Some(Attempt {
            id,
            candidate,
            rule,
            uploads: BTreeMap::new(),
            stored: BTreeMap::new(),
            sealed: None,
        })
    }

    fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Began { .. } => {}
            Entry::Upload {
                file,
                key,
                upload_id,
                part_size_bytes,
            } => {
                self.uploads.insert(
                    file,
                    UploadRecord {
                        key,
                        upload_id,
                        part_size_bytes,
                        parts: BTreeMap::new(),
                    },
                );
            }
            Entry::Part {
                file,
                number,
                size_bytes,
                blake3,
                etag,
            } => {
                if let Some(upload) = self.uploads.get_mut(&file) {
                    upload.parts.insert(
                        number,
                        PartRecord {
                            size_bytes,
                            blake3,
                            etag,
                        },
                    );
                }
            }
            Entry::Dropped { file } => {
                self.uploads.remove(&file);
                self.stored.remove(&file);
            }
            Entry::Stored { file, entry } => {
                self.uploads.remove(&file);
                self.stored.insert(file, entry);
            }
            Entry::Sealed { manifest } => self.sealed = Some(manifest),
        }
    }

    /// Bytes that the server is known to have.
    pub fn done_bytes(&self) -> u64 {
        let stored: u64 = self.stored.values().map(|file| file.size_bytes).sum();
        let parts = self
            .uploads
            .values()
            .flat_map(|upload| upload.parts.values());
        stored + parts.map(|part| part.size_bytes).sum::<u64>()
    }
}

/// An attempt together with its file. When the disk refuses the file, the attempt goes on from memory: a full disk must not keep a
/// checkpoint from the bucket.
#[derive(Debug)]
pub struct AttemptLog {
    /// State as of the last entry.
    pub attempt: Attempt,
    path: PathBuf,
    file: Option<Arc<File>>,
}

impl AttemptLog {
    /// Begins an attempt and notes it down. The second value says why it could not be noted down.
    pub fn create(
        dir: &Path,
        id: &str,
        rule: &str,
        candidate: &Candidate,
    ) -> (AttemptLog, Option<io::Error>) {
        let began = Entry::Began {
            v: FORMAT,
            id: id.to_owned(),
            key: candidate.key.clone(),
            path: candidate.path.clone(),
            step: candidate.step,
            directory: candidate.directory,
            rule: rule.to_owned(),
            files: candidate.files.clone(),
        };
        let attempt = Attempt::began(began.clone()).expect("it was just made as a beginning");
        let path = dir.join(format!("{PREFIX}{id}{SUFFIX}"));
        let opened = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&path);
        let (file, problem) =
            match opened.and_then(|file| File::open(dir)?.sync_all().map(|()| file)) {
                Ok(file) => (Some(Arc::new(file)), None),
                Err(err) => (None, Some(err)),
            };
        fault::point("journal", "made");
        let mut log = AttemptLog {
            attempt,
            path,
            file,
        };
        let problem = problem.or_else(|| log.write(&began).and_then(|()| log.sync()).err());
        (log, problem)
    }

    /// Notes an entry down. Returns the file when the entry must be on disk before anything else happens.
    ///
    /// Parts, and files that went in one request, can be sent again: what a power cut takes of their notes costs that, and no more, since a
    /// journal is believed up to its first torn line. [`Entry::Sealed`] brings to the disk what is before it.
    pub fn record(&mut self, entry: Entry) -> io::Result<Option<Arc<File>>> {
        let durable = match &entry {
            Entry::Part { .. } => false,
            Entry::Stored { entry, .. } => entry.part_size_bytes > 0,
            _ => true,
        };
        self.attempt.apply(entry.clone());
        self.write(&entry)?;
        Ok(self.file.clone().filter(|_| durable))
    }

    fn write(&mut self, entry: &Entry) -> io::Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let mut line = serde_json::to_vec(entry).map_err(io::Error::other)?;
        line.push(b'\n');
        fault::point(entry.point(), "before");
        let written = file.as_ref().write_all(&line);
        fault::point(entry.point(), "written");
        if written.is_err() {
            // Half a line would hide every later one; the attempt can still end well from memory.
            self.file = None;
        }
        written
    }

    fn sync(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), |file| file.sync_data())
    }

    /// The attempt is over, well or not: nothing of it is needed any more.
    pub fn remove(self) -> io::Result<()> {
        fault::point("journal.remove", "before");
        match fs::remove_file(&self.path) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
            _ => Ok(()),
        }
    }
}

/// Names of the attempts that were begun and not ended.
pub fn ids(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).into_iter().flatten().flatten();
    let id = |name: &str| Some(name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.to_owned());
    names
        .filter_map(|entry| id(entry.file_name().to_str()?))
        .collect()
}

/// Every attempt that was begun and not ended, oldest first. A journal that does not even hold a beginning is removed.
pub fn load(dir: &Path) -> io::Result<Vec<AttemptLog>> {
    let mut logs = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if !name.starts_with(PREFIX) || !name.ends_with(SUFFIX) {
            continue;
        }
        let bytes = fs::read(&path)?;
        let (attempt, valid) = replay(&bytes);
        let Some(attempt) = attempt else {
            fs::remove_file(&path)?;
            continue;
        };
        let file = OpenOptions::new().append(true).open(&path)?;
        file.set_len(valid as u64)?;
        logs.push(AttemptLog {
            attempt,
            path,
            file: Some(Arc::new(file)),
        });
    }
    sort_by(&mut logs, |a, b| a.attempt.id.cmp(&b.attempt.id));
    Ok(logs)
}

/// Reads whole lines up to the first that makes no sense. Returns the bytes that were good.
fn replay(bytes: &[u8]) -> (Option<Attempt>, usize) {
    let mut attempt: Option<Attempt> = None;
    let mut valid = 0;
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        if line.last() != Some(&b'\n') {
            break;
        }
        let Ok(entry) = serde_json::from_slice::<Entry>(line) else {
            break;
        };
        match &mut attempt {
            None => attempt = Attempt::began(entry),
            Some(attempt) => attempt.apply(entry),
        }
        if attempt.is_none() {
            break;
        }
        valid += line.len();
    }
    (attempt, valid)
}

#[cfg(test)]
mod tests;
