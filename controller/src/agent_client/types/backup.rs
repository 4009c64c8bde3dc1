//! The backup of checkpoints and results, as the agent tells it (pure).

use serde::Serialize;

/// How the backup stands.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct BackupInfo {
    /// Committed checkpoints known to the agent.
    pub committed: u64,
    /// Finished checkpoints not yet committed.
    pub pending: u64,
    /// Step of the newest commit.
    pub last_step: Option<u64>,
    /// When the newest commit was completed, microseconds since the epoch.
    pub last_commit_us: Option<u64>,
    /// Name of the newest commit.
    pub last_commit: Option<String>,
    /// Bytes done of the upload in progress.
    pub uploading_done_bytes: u64,
    /// Its size; 0: none.
    pub uploading_total_bytes: u64,
    /// Why it makes no progress.
    pub problem: Option<String>,
    /// It is behind.
    pub alarm: bool,
    /// Bytes of checkpoints on the box that are in no commit.
    pub unsaved_bytes: u64,
    /// Checkpoints that cannot be saved as they are, each with the reason.
    pub unsaved: Vec<String>,
    /// The checkpoint directory could not be looked at: `pending` and `unsaved_bytes` say nothing.
    pub unseen: bool,
    /// When the bucket keys of the box end, or have ended, microseconds since the epoch; `None`: nothing says so.
    pub keys_expire_us: Option<u64>,
    /// Checkpoints like the last one that can still be stored by what was signed for the box; `None`: it works with keys.
    pub checkpoints_left: Option<u32>,
    /// The largest of those that are in no commit yet, each with its bytes.
    pub at_stake: Vec<(String, u64)>,
}

impl BackupInfo {
    /// Why a checkpoint cannot be saved as it is; `None`: nothing says that it cannot.
    pub fn why_unsaved(&self, path: &str) -> Option<&str> {
        let of_it = |line: &&String| line.starts_with(path);
        let mut told = self.unsaved.iter().filter(of_it);
        told.find_map(|line| line.get(path.len()..)?.strip_prefix(": "))
    }
}

/// A committed checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckpointInfo {
    /// Name of its commit.
    pub id: String,
    /// Step, if its name has one.
    pub step: Option<u64>,
    /// Attempt that wrote it.
    pub attempt: u32,
    /// When it was committed, microseconds since the epoch.
    pub committed_us: u64,
    /// Bytes in all.
    pub size_bytes: u64,
    /// Files.
    pub files: u32,
    /// Path relative to the checkpoint directory.
    pub path: String,
}

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct RestoreReport {
    /// What was restored; `None` when the bucket holds no commit.
    pub restored: Option<CheckpointInfo>,
    /// Absolute path on the box, when something was.
    pub path: Option<String>,
    /// Damaged commits that were passed over, with the reason.
    pub skipped: Vec<String>,
}

/// A file on the box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileHash {
    /// Relative to the working directory.
    pub path: String,
    /// Bytes.
    pub size_bytes: u64,
    /// blake3, hex.
    pub blake3: String,
}

/// Files found under the paths asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct FileList {
    /// Sorted by path.
    pub files: Vec<FileHash>,
    /// Paths and patterns of which there is nothing.
    pub missing: Vec<String>,
    /// Files and directories that the paths and patterns mean; empty with an agent that knows no patterns.
    pub meant: Vec<String>,
    /// Links that lead to what is not among these files, in the working directory or out of it: the box does not follow them.
    pub leading_out: Vec<String>,
    /// Links that lead to nothing; unknown to an older agent.
    pub broken: Vec<String>,
}

/// What was brought to the bucket as results.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Collected {
    /// Uploaded files and missing paths.
    pub list: FileList,
    /// Key of the results manifest; `None` when there is no bucket.
    pub manifest_key: Option<String>,
}

/// What the line between a box and its bucket was seen to carry.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct LineInfo {
    /// From the box to the bucket, bytes per second; `None`: not measured.
    pub up_bytes_per_s: Option<f64>,
    /// From the bucket to the box, bytes per second; `None`: not measured.
    pub down_bytes_per_s: Option<f64>,
    /// Why nothing was measured.
    pub not_measured: Option<String>,
    /// The server is somebody's own, and may be the slower end.
    pub own_server: bool,
}
