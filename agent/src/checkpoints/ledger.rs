//! Which files on this box are in which commit, so that nothing is uploaded twice and nothing unsaved is deleted.
//!
//! A file of JSON lines, the last line of a path counts. Losing it costs time, never a checkpoint: the upload then finds the same
//! content in the bucket and takes that.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::candidate::{Candidate, FileStat};
use super::names;
use crate::fault;

/// Lines in the file after which it is written anew.
const COMPACT_LINES: usize = 1_000;

/// Files of a path as they were when they were committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// The commit.
    pub id: String,
    /// Key of the candidate.
    pub key: String,
    /// Path of the checkpoint, relative to the checkpoint directory.
    pub path: String,
    /// Its files; none when they were deleted here.
    pub files: Vec<FileStat>,
    /// A restore brought them here.
    #[serde(default)]
    pub restored: bool,
}

impl Saved {
    /// The candidate as it was when it was committed.
    pub fn candidate(&self) -> Candidate {
        Candidate {
            key: self.key.clone(),
            path: self.path.clone(),
            step: names::step_of(self.key.split_once(':').map_or("", |(_, name)| name)),
            directory: self.key.starts_with("dir:") || self.path == ".",
            unfinished: None,
            unreadable: None,
            files: self.files.clone(),
        }
    }
}

/// The ledger and its file.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    /// By candidate key.
    saved: BTreeMap<String, Saved>,
    lines: usize,
}

impl Ledger {
    /// Reads the ledger in a directory; a missing or unreadable one is empty, a torn last line is dropped.
    pub fn open(dir: &Path) -> Ledger {
        let path = dir.join("committed.jsonl");
        let text = fs::read(&path).unwrap_or_else(|err| {
            if err.kind() != io::ErrorKind::NotFound {
                tracing::warn!(path = %path.display(), error = %err, "the ledger of saved checkpoints cannot be read");
            }
            Vec::new()
        });
        let mut saved = BTreeMap::new();
        let mut lines = 0;
        for line in text.split_inclusive(|&byte| byte == b'\n') {
            lines += 1;
            // A torn line stands alone, because the next writer begins a new one.
            if let Ok(entry) = serde_json::from_slice::<Saved>(line) {
                saved.insert(entry.key.clone(), entry);
            }
        }
        Ledger { path, saved, lines }
    }

    /// Notes that a candidate's files are in a commit, and whether a restore took them from it; on disk when this returns.
    pub fn record(&mut self, id: &str, candidate: &Candidate, restored: bool) -> io::Result<()> {
        let (key, path, files) = (
            candidate.key.clone(),
            candidate.path.clone(),
            candidate.files.clone(),
        );
        let entry = Saved {
            id: id.to_owned(),
            key: key.clone(),
            path,
            files,
            restored,
        };
        let mut line = b"\n".to_vec();
        serde_json::to_writer(&mut line, &entry).map_err(io::Error::other)?;
        line.push(b'\n');
        self.saved.insert(key, entry);
        self.lines += 2;
        if self.lines > COMPACT_LINES {
            return self.compact();
        }
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&self.path)?;
        fault::point("ledger.record", "before");
        file.write_all(&line)?;
        fault::point("ledger.record", "written");
        file.sync_data()
    }

    /// Forgets a candidate whose files were deleted here.
    pub fn forget(&mut self, key: &str) -> io::Result<()> {
        self.saved.remove(key);
        self.compact()
    }

    fn compact(&mut self) -> io::Result<()> {
        let aside = self.path.with_extension("tmp");
        let mut text = Vec::new();
        for entry in self.saved.values() {
            serde_json::to_writer(&mut text, entry).map_err(io::Error::other)?;
            text.push(b'\n');
        }
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&aside)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fault::point("ledger.compact", "aside");
        fs::rename(&aside, &self.path)?;
        fault::point("ledger.compact", "renamed");
        self.lines = self.saved.len();
        if let Some(dir) = self.path.parent() {
            File::open(dir)?.sync_all()?;
        }
        Ok(())
    }

    /// The commit that holds a candidate as it is now. Files that are gone since do not matter: a trainer that deletes a checkpoint
    /// bit by bit has not made a new one.
    pub fn commit_of(&self, candidate: &Candidate) -> Option<&str> {
        let saved = self
            .saved
            .get(&candidate.key)
            .filter(|saved| saved.path == candidate.path)?;
        let is_saved = |file: &FileStat| {
            saved
                .files
                .binary_search_by(|one| one.path.cmp(&file.path))
                .is_ok_and(|at| saved.files[at] == *file)
        };
        candidate
            .files
            .iter()
            .all(is_saved)
            .then_some(saved.id.as_str())
    }

    /// Whether a candidate is saved as it is now, to the last file.
    pub fn holds(&self, candidate: &Candidate) -> bool {
        self.saved
            .get(&candidate.key)
            .is_some_and(|saved| saved.path == candidate.path && saved.files == candidate.files)
    }

    /// Whether a restore brought what is noted under this key.
    pub fn is_restored(&self, key: &str) -> bool {
        self.saved.get(key).is_some_and(|saved| saved.restored)
    }

    /// Commits of what lay here before the first training began (`None`: none has), and was not restored: somebody put it there.
    pub fn put_here(&self, began_us: Option<u64>) -> impl Iterator<Item = &Saved> {
        let is_older = move |saved: &Saved| {
            let written = saved.files.iter().map(|file| file.mtime_ns).max();
            let written_us = u64::try_from(written.unwrap_or(0) / 1_000).unwrap_or(0);
            began_us.is_none_or(|began_us| written_us < began_us)
        };
        let saved = self.saved.values();
        saved.filter(move |saved| !saved.restored && is_older(saved))
    }

    /// Everything that is saved, by candidate key.
    pub fn saved(&self) -> impl Iterator<Item = &Saved> {
        self.saved.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(paths: &[&str], mtime_ns: i64) -> Candidate {
        let stat = |path: &&str| FileStat {
            path: (*path).into(),
            ino: 1,
            size_bytes: 3,
            mtime_ns,
            ctime_ns: 5,
            mode: 0o644,
        };
        Candidate {
            key: "dir:checkpoint-5".into(),
            path: "checkpoint-5".into(),
            step: Some(5),
            directory: true,
            unfinished: None,
            unreadable: None,
            files: paths.iter().map(stat).collect(),
        }
    }

    #[test]
    fn what_is_saved_is_known_after_a_restart_until_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(dir.path());
        ledger
            .record("first", &candidate(&["a", "b"], 1), false)
            .unwrap();
        fs::OpenOptions::new()
            .append(true)
            .open(&ledger.path)
            .unwrap()
            .write_all(b"{\"id\":\"torn")
            .unwrap();
        let mut ledger = Ledger::open(dir.path());
        assert_eq!(ledger.commit_of(&candidate(&["a", "b"], 1)), Some("first"));
        assert_eq!(
            ledger.commit_of(&candidate(&["b"], 1)),
            Some("first"),
            "half deleted is not new"
        );
        assert!(ledger.holds(&candidate(&["a", "b"], 1)));
        assert!(!ledger.holds(&candidate(&["b"], 1)), "half deleted");
        assert_eq!(ledger.commit_of(&candidate(&["a", "b", "c"], 1)), None);
        assert_eq!(ledger.commit_of(&candidate(&["a", "b"], 2)), None);
        ledger
            .record("second", &candidate(&["a"], 2), false)
            .unwrap();
        assert_eq!(
            Ledger::open(dir.path()).commit_of(&candidate(&["a"], 2)),
            Some("second")
        );
        ledger.forget("dir:checkpoint-5").unwrap();
        assert_eq!(Ledger::open(dir.path()).saved().count(), 0);
    }

    #[test]
    fn the_file_stays_short_however_often_one_path_is_saved() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(dir.path());
        for step in 0..600 {
            ledger
                .record(&format!("{step}"), &candidate(&["a"], step), false)
                .unwrap();
        }
        assert!(fs::read_to_string(&ledger.path).unwrap().lines().count() <= COMPACT_LINES);
        assert_eq!(
            Ledger::open(dir.path()).commit_of(&candidate(&["a"], 599)),
            Some("599")
        );
    }
}
