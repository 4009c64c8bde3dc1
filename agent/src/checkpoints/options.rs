//! What a backup is asked for, and what it tells of a checkpoint.

use std::path::PathBuf;
use std::time::Duration;

use spotter_bucket::{Keep, Manifest};

use super::rules::user::CompleteWhen;
use super::{rates, sweep};

/// What to back up, and where to.
#[derive(Debug, Clone)]
pub struct BackupOptions {
    /// Name of the run.
    pub run: String,
    /// Attempt, from 1.
    pub attempt: u32,
    /// Directory that holds checkpoints; absolute. It need not exist yet.
    pub dir: PathBuf,
    /// Bucket and server, in any words: what was noted about another one says nothing of this one.
    pub target: String,
    /// Prefix of the target, without leading or trailing slash; may be empty. The run's name is appended by the layout.
    pub prefix: String,
    /// How often at least a finished checkpoint must reach the bucket; zero: no alarm.
    pub every: Duration,
    /// What to keep in the bucket and on the box.
    pub keep: Keep,
    /// How long the data of a deleted checkpoint stays in the bucket.
    pub keep_grace: Duration,
    /// Wait with no change before a file counts as finished; `None`: the rule's own.
    pub settle: Option<Duration>,
    /// The user's rule for when a checkpoint is complete; `None`: those of the frameworks.
    pub complete_when: Option<CompleteWhen>,
    /// Whether the kernel may be asked to tell of writers, which makes them wait until we have heard it: less than a millisecond,
    /// but as long as the agent is stopped, up to 45 s.
    pub tripwire: bool,
    /// Most bytes per second to send; `None`: as many as go.
    pub max_bytes_per_s: Option<u64>,
    /// Times of the day at which another rate counts.
    pub windows: Vec<rates::Window>,
    /// Parts in flight at first.
    pub parallel: u8,
    /// What a lost box left in the bucket goes when it is older, by the bucket's clock.
    pub sweep_grace: Duration,
    /// Directory for what must survive a crash of the agent, such as `~/.spotter/backup`; absolute, made when missing.
    pub state_dir: PathBuf,
}

/// A committed checkpoint, for people and for the contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointInfo {
    /// Name of the commit, `<step, 12 digits>-<ulid>`.
    pub id: String,
    /// Step, when its name has a number.
    pub step: Option<u64>,
    /// Attempt that wrote it.
    pub attempt: u32,
    /// When it was committed by the box's clock, microseconds since the epoch.
    pub committed_us: u64,
    /// Bytes in all.
    pub size_bytes: u64,
    /// Number of files.
    pub files: u32,
    /// Relative to the checkpoint directory; `.` for files of one step that lie side by side.
    pub path: String,
}

impl BackupOptions {
    /// The first attempt of a run, to the root of a target, with nothing said: no alarm, nothing deleted, no limits.
    pub fn plain(run: &str, dir: PathBuf, target: &str, state_dir: PathBuf) -> BackupOptions {
        BackupOptions {
            run: run.to_owned(),
            attempt: 1,
            dir,
            target: target.to_owned(),
            prefix: String::new(),
            every: Duration::ZERO,
            keep: Keep::default(),
            keep_grace: Duration::ZERO,
            settle: None,
            complete_when: None,
            tripwire: true,
            max_bytes_per_s: None,
            windows: Vec::new(),
            parallel: 4,
            sweep_grace: sweep::GRACE,
            state_dir,
        }
    }
}

impl From<&Manifest> for CheckpointInfo {
    fn from(manifest: &Manifest) -> CheckpointInfo {
        CheckpointInfo {
            id: manifest.id.clone(),
            step: manifest.step,
            attempt: manifest.attempt,
            committed_us: manifest.committed_us,
            size_bytes: manifest.files.iter().map(|file| file.size_bytes).sum(),
            files: u32::try_from(manifest.files.len()).unwrap_or(u32::MAX),
            path: manifest.path.clone(),
        }
    }
}
