//! What lies in the checkpoint directory and is, or becomes, a checkpoint: plain data, no opinion.

use serde::{Deserialize, Serialize};

use super::{beside, export::is_export};

/// One file as the kernel describes it. A change of any field is a change of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStat {
    /// Relative to the checkpoint's path; empty when that is the file itself.
    pub path: String,
    /// Inode number.
    pub ino: u64,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Modification time, nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Change time of the inode, nanoseconds since the epoch.
    pub ctime_ns: i64,
    /// Unix permission bits.
    pub mode: u32,
}

/// Something in the checkpoint directory that is, or becomes, a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// What stays the same while files come and change: `dir:NAME`, `file:NAME`, `link:NAME` or, for flat layouts, `step:N` and, without a
    /// step, `flat:NAME`.
    pub key: String,
    /// Relative to the checkpoint directory; `.` for several files that lie side by side.
    pub path: String,
    /// Number in the name.
    pub step: Option<u64>,
    /// Whether `path` is a directory.
    pub directory: bool,
    /// Name of a temporary file that lies among its files: somebody is, or was, in the middle of something.
    pub unfinished: Option<String>,
    /// Why not all of it could be read. Then `files` holds one entry, that of the directory itself, with the bytes that were seen.
    pub unreadable: Option<String>,
    /// Every file, sorted by path.
    pub files: Vec<FileStat>,
}

/// Rule in the manifest of files that lie side by side: they go back into the checkpoint directory itself.
pub const FLAT_RULE: &str = "flat-step";

impl Candidate {
    /// Whether its files lie in the checkpoint directory itself, next to those of other steps.
    pub fn is_flat(&self) -> bool {
        self.path == "."
    }

    /// Its path as a manifest has it: side by side files get the name of a directory, which they are in the bucket.
    pub fn path_in_manifest(&self) -> String {
        match self.step {
            Some(step) if self.is_flat() => format!("step-{step}"),
            None if self.is_flat() => {
                let name = self.key.strip_prefix(beside::KEY);
                format!("{}{}", name.unwrap_or_default(), beside::SUFFIX)
            }
            _ => self.path.clone(),
        }
    }

    /// Whether it is an export rather than what a training goes on from.
    pub fn is_export(&self) -> bool {
        let files = self.files.iter().map(|file| file.path.as_str());
        is_export(&self.path_in_manifest(), self.step, files)
    }

    /// Whether it is one file that got its name, or was linked or copied with its times, after it was last written: a writer that does so
    /// is done with it. Only an inode's own time tells of that. Of several files more may be to come.
    pub fn was_renamed(&self) -> bool {
        !self.directory && self.files.iter().all(|file| file.ctime_ns > file.mtime_ns)
    }

    /// Bytes of all files.
    pub fn size_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size_bytes).sum()
    }

    /// When it was last written, nanoseconds since the epoch: what makes one checkpoint newer than another.
    pub fn written_ns(&self) -> i64 {
        self.files
            .iter()
            .map(|file| file.mtime_ns)
            .max()
            .unwrap_or(0)
    }

    /// What to sort by, oldest first.
    pub fn age_order(&self) -> (i64, Option<u64>, &str) {
        (self.written_ns(), self.step, &self.key)
    }

    /// Whether it is newer than another.
    pub fn is_newer_than(&self, other: &Candidate) -> bool {
        self.age_order() > other.age_order()
    }
}
