//! A file of a checkpoint, opened before its upload begins: rotation cannot take it away, and a change does not go unnoticed.
//!
//! A lease tells before a byte changes. Where none can be had, size and times before and after every read do: the file had been
//! silent for its settle time, so that even a coarse clock shows a later write.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use spotter_bucket::hashes::{self, RangeHasher};

use super::candidate::{Candidate, FileStat};
use super::lease::{self, Lease, NoLease};
use super::scan;
use super::{buffers, humble};
use crate::open_files;
use crate::tasks::spawn_blocking;

/// What is read and hashed at a time. It is in the processor's own cache when it is hashed: the memory that a training shares with us is
/// gone through once for both.
const STEP_BYTES: usize = 256 << 10;

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It is not what it was when it was found finished.
    #[error("the file changed")]
    Changed,
    /// The system refused.
    #[error("{} could not be read", path.display())]
    Read {
        /// File in question.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// One file of a finished checkpoint.
#[derive(Debug)]
pub struct Source {
    /// As it was when the checkpoint was found finished.
    pub stat: FileStat,
    path: PathBuf,
    tripwire: bool,
    held: Mutex<Option<Held>>,
}

#[derive(Debug, Clone)]
struct Held {
    file: Arc<File>,
    links: u64,
    /// Goes off before somebody writes; `None` where the file system has none, or nobody wants them.
    lease: Option<Arc<Lease>>,
}

/// Bytes of a file with their hash.
pub struct Read {
    /// The bytes, as they will be sent.
    pub bytes: Bytes,
    /// Their hash as [`spotter_bucket::hashes`] writes it.
    pub hash: String,
}

/// Opens every file of a candidate, unless one of them changed. With `tripwire`, the kernel is asked to tell of writers.
///
/// As many are held open as the system's limit allows. Those beyond are opened again when they are read: one that was taken away by
/// then is a change, and the checkpoint is given up.
pub async fn open_all(
    dir: &Path,
    candidate: &Candidate,
    tripwire: bool,
) -> Result<Vec<Arc<Source>>, SourceError> {
    open_holding(dir, candidate, tripwire, open_files::to_hold()).await
}

async fn open_holding(
    dir: &Path,
    candidate: &Candidate,
    tripwire: bool,
    held_open: usize,
) -> Result<Vec<Arc<Source>>, SourceError> {
    let (dir, candidate) = (dir.to_owned(), candidate.clone());
    let open = move || {
        let mut sources = Vec::with_capacity(candidate.files.len());
        for (number, stat) in candidate.files.iter().enumerate() {
            let path = scan::file_path(&dir, &candidate.path, &stat.path);
            let source = Source {
                stat: stat.clone(),
                path,
                tripwire,
                held: Mutex::new(None),
            };
            let held = source.open()?;
            if number < held_open {
                *source
                    .held
                    .lock()
                    .expect("nothing panics while it holds this lock") = Some(held);
            }
            sources.push(Arc::new(source));
        }
        Ok(sources)
    };
    spawn_blocking(open)
        .await
        .expect("opening files does not panic")
}

impl Source {
    fn open(&self) -> Result<Held, SourceError> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Err(SourceError::Changed),
            Err(err) => return Err(self.refused(err)),
        };
        let file = Arc::new(file);
        // Before the look at size and times, so that nothing happens between the two.
        let lease = match self.tripwire.then(|| lease::take(&file)) {
            Some(Ok(lease)) => Some(Arc::new(lease)),
            Some(Err(NoLease::Writer)) => return Err(SourceError::Changed),
            Some(Err(NoLease::Unavailable(_))) | None => None,
        };
        let metadata = file.metadata().map_err(|err| self.refused(err))?;
        if !metadata.is_file() || scan::stat_of(&self.stat.path, &metadata) != self.stat {
            return Err(SourceError::Changed);
        }
        Ok(Held {
            file,
            links: metadata.nlink(),
            lease,
        })
    }

    fn held(&self) -> Result<Held, SourceError> {
        let held = self
            .held
            .lock()
            .expect("nothing panics while it holds this lock")
            .clone();
        held.map_or_else(|| self.open(), Ok)
    }

    fn refused(&self, source: io::Error) -> SourceError {
        SourceError::Read {
            path: self.path.clone(),
            source,
        }
    }

    /// Path of its object below the attempt's own prefix. A checkpoint of one file is called as on the box.
    pub fn name_in_bucket(&self, single: bool) -> &str {
        if single {
            self.path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or("file")
        } else {
            &self.stat.path
        }
    }

    /// Reads bytes and hashes them, then looks whether the file is still the one that was found.
    pub async fn read(
        self: &Arc<Self>,
        offset: u64,
        length: u64,
        mut hasher: RangeHasher,
    ) -> Result<Read, SourceError> {
        let source = Arc::clone(self);
        let read = move || {
            let held = source.held()?;
            let mut buffer =
                buffers::take(usize::try_from(length).expect("a part fits into memory"));
            let mut at = offset;
            for step in buffer.as_mut().chunks_mut(STEP_BYTES) {
                match held.file.read_exact_at(step, at) {
                    Ok(()) => {}
                    Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => {
                        return Err(SourceError::Changed);
                    }
                    Err(err) => return Err(source.refused(err)),
                }
                hasher.update(step);
                at += step.len() as u64;
            }
            source.compare(&held)?;
            Ok(Read {
                bytes: Bytes::from_owner(buffer),
                hash: hasher.finish(),
            })
        };
        spawn_blocking(|| humble::run(read))
            .await
            .expect("reading a file does not panic")
    }

    /// blake3 of the whole file, hex.
    pub async fn hash(self: &Arc<Self>) -> Result<String, SourceError> {
        const STEP: u64 = 8 << 20;
        let size_bytes = self.stat.size_bytes;
        if size_bytes <= STEP {
            return Ok(self.read(0, size_bytes, RangeHasher::alone()).await?.hash);
        }
        let (mut offset, mut parts) = (0, Vec::new());
        while offset < size_bytes {
            let length = STEP.min(size_bytes - offset);
            let read = self.read(offset, length, RangeHasher::part(offset)).await?;
            parts.push(read.hash);
            offset += length;
        }
        Ok(hashes::whole(parts.iter().map(String::as_str))
            .expect("they are subtrees, at least two"))
    }

    /// Looks at the open file once more.
    pub async fn still_unchanged(self: &Arc<Self>) -> Result<(), SourceError> {
        let source = Arc::clone(self);
        let compare = move || source.held().and_then(|held| source.compare(&held));
        spawn_blocking(compare)
            .await
            .expect("looking at a file does not panic")
    }

    /// Whether the open file is still as it was found. Removing or linking it moves only the inode's own time.
    fn compare(&self, held: &Held) -> Result<(), SourceError> {
        if held.lease.as_ref().is_some_and(|lease| lease.is_broken()) {
            return Err(SourceError::Changed);
        }
        let metadata = held.file.metadata().map_err(|err| self.refused(err))?;
        let now = scan::stat_of(&self.stat.path, &metadata);
        let links_changed = metadata.nlink() != held.links;
        let same = now.size_bytes == self.stat.size_bytes
            && now.mtime_ns == self.stat.mtime_ns
            && (now.ctime_ns == self.stat.ctime_ns || links_changed);
        if same {
            Ok(())
        } else {
            Err(SourceError::Changed)
        }
    }
}

/// Whether files were added to the checkpoint, or replaced, since it was found finished. Files that are gone do not matter: they
/// are open.
pub fn was_extended(dir: &Path, candidate: &Candidate) -> io::Result<bool> {
    let Some(now) = scan::scan(dir)?
        .into_iter()
        .find(|now| now.key == candidate.key)
    else {
        return Ok(false);
    };
    let is_old = |file: &FileStat| {
        let at = candidate
            .files
            .binary_search_by(|old| old.path.cmp(&file.path));
        at.is_ok_and(|at| {
            candidate.files[at].ino == file.ino && candidate.files[at].mtime_ns == file.mtime_ns
        })
    };
    // The path changes when a second file of the same step appears beside the first.
    Ok(now.path != candidate.path || !now.files.iter().all(is_old))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn only_candidate(dir: &Path) -> Candidate {
        scan::scan(dir).unwrap().remove(0)
    }

    async fn outcome(source: &Arc<Source>) -> Result<Vec<u8>, SourceError> {
        source
            .read(0, source.stat.size_bytes, RangeHasher::alone())
            .await
            .map(|read| read.bytes.to_vec())
    }

    #[tokio::test]
    async fn a_removed_file_is_read_to_its_end_and_a_rewritten_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ckpt.pt");
        fs::write(&path, b"first bytes").unwrap();
        let source = open_all(dir.path(), &only_candidate(dir.path()), true)
            .await
            .unwrap()
            .remove(0);
        assert_eq!(outcome(&source).await.unwrap(), b"first bytes");
        fs::remove_file(&path).unwrap();
        assert_eq!(outcome(&source).await.unwrap(), b"first bytes");

        fs::write(&path, b"other bytes").unwrap();
        let candidate = only_candidate(dir.path());
        let source = open_all(dir.path(), &candidate, true)
            .await
            .unwrap()
            .remove(0);
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::write(&path, b"newer bytes").unwrap();
        assert!(matches!(outcome(&source).await, Err(SourceError::Changed)));
        assert!(matches!(
            source.still_unchanged().await,
            Err(SourceError::Changed)
        ));
        assert!(matches!(
            open_all(dir.path(), &candidate, true).await,
            Err(SourceError::Changed)
        ));
    }

    #[tokio::test]
    async fn of_more_files_than_may_be_open_those_taken_away_have_changed_and_the_others_are_read()
    {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("checkpoint-5");
        fs::create_dir(&inner).unwrap();
        for number in 0..4 {
            fs::write(inner.join(format!("{number}.bin")), b"bytes").unwrap();
        }
        let candidate = only_candidate(dir.path());
        let sources = open_holding(dir.path(), &candidate, true, 2).await.unwrap();
        for source in &sources {
            assert_eq!(outcome(source).await.unwrap(), b"bytes");
        }
        fs::remove_dir_all(&inner).unwrap();
        for (number, source) in sources.iter().enumerate() {
            let outcome = outcome(source).await;
            match number {
                0 | 1 => assert_eq!(outcome.unwrap(), b"bytes"),
                _ => assert!(matches!(outcome, Err(SourceError::Changed)), "{number}"),
            }
        }
    }

    #[tokio::test]
    async fn a_truncated_file_has_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ckpt.pt");
        fs::write(&path, b"first bytes").unwrap();
        let source = open_all(dir.path(), &only_candidate(dir.path()), true)
            .await
            .unwrap()
            .remove(0);
        File::create(&path).unwrap();
        assert!(matches!(outcome(&source).await, Err(SourceError::Changed)));
    }

    #[test]
    fn a_file_added_to_the_checkpoint_is_noticed_and_a_removed_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("checkpoint-5");
        fs::create_dir(&inner).unwrap();
        fs::write(inner.join("model.pt"), b"m").unwrap();
        fs::write(inner.join("rng.pth"), b"r").unwrap();
        let candidate = only_candidate(dir.path());
        assert!(!was_extended(dir.path(), &candidate).unwrap());
        fs::remove_file(inner.join("rng.pth")).unwrap();
        assert!(!was_extended(dir.path(), &candidate).unwrap());
        fs::write(inner.join("scheduler.pt"), b"s").unwrap();
        assert!(was_extended(dir.path(), &candidate).unwrap());
        fs::remove_dir_all(&inner).unwrap();
        assert!(!was_extended(dir.path(), &candidate).unwrap());
    }
}
