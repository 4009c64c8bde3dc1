//! What a run file says of checkpoints: where they are, where they go, and with whose keys.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use spotter_bucket::{Best, Style};

use super::{DEFAULT_KEEP_GRACE, yes};

/// Where checkpoints are on the box and where they go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checkpoints {
    /// Directory on the box, relative to the working directory.
    pub dir: String,
    /// `s3://bucket/prefix`; `None`: no backup.
    pub to: Option<String>,
    /// Backup interval.
    pub every: Duration,
    /// Newest commits to keep; at least 2.
    pub keep_last: u32,
    /// The first checkpoint of each so many steps is kept for good; 0: none.
    #[serde(default)]
    pub keep_every_steps: u32,
    /// Which are kept for what the training's log says of them, if any are.
    #[serde(default)]
    pub keep_best: Option<Best>,
    /// How long the data of a deleted checkpoint stays in the bucket.
    #[serde(default = "keep_grace")]
    pub keep_grace: Duration,
    /// Wait with no change before a file counts as finished; `None`: the rule's own.
    pub settle: Option<Duration>,
    /// The user's rule for when a checkpoint is complete, as the contract has it: `marker FILE`, `quiet 20000ms` or `command ...`;
    /// `None`: the frameworks' own.
    #[serde(default)]
    pub complete_when: Option<String>,
    /// Whether the kernel is asked to tell of writers.
    #[serde(default = "yes")]
    pub tripwire: bool,
    /// Most bytes per second to send; `None`: as many as go.
    #[serde(default)]
    pub max_bytes_per_s: Option<u64>,
    /// Which bucket keys the box gets.
    #[serde(default)]
    pub keys: KeyRules,
    /// What happens when the backup falls behind.
    #[serde(default)]
    pub on_stale: OnStale,
    /// Times of the day at which another rate counts; the first that holds a time does.
    #[serde(default)]
    pub windows: Vec<UploadWindow>,
    /// What the run file says of the bucket's server.
    #[serde(default)]
    pub server: BucketServer,
}

/// A stretch of every day with an upload rate of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadWindow {
    /// First minute of the day, UTC.
    pub from_min: u32,
    /// The minute after the last one; smaller than the first when it lasts past midnight.
    pub to_min: u32,
    /// Most bytes per second; `None`: as many as go.
    pub max_bytes_per_s: Option<u64>,
}

/// A bucket's server, as far as the run file says; the environment and AWS's files say the rest.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BucketServer {
    /// Endpoint URL.
    pub endpoint: Option<String>,
    /// Region for signing.
    pub region: Option<String>,
    /// Where the bucket's name stands in URLs.
    pub style: Option<Style>,
    /// File of certificates that it is trusted by, absolute.
    pub ca: Option<PathBuf>,
    /// What is left out here was left out by the environment as well when the run began, which later shells do not change.
    #[serde(default)]
    pub settled: bool,
}

/// Which bucket keys a box gets, and what it may do with them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRules {
    /// Whose they are.
    pub mode: KeyMode,
    /// Role whose keys are asked for, narrowed to the run; `None`: the user's own, narrowed.
    pub role: Option<String>,
    /// The box keeps them on its disk, so that it goes on by itself after a restart.
    pub persist: bool,
}

/// Whose keys a box gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyMode {
    /// Those of the run's prefix alone, with an end, where the provider is known to give such; else the user's own.
    #[default]
    Auto,
    /// Those of the run's prefix alone, or none.
    Session,
    /// The user's own.
    Keys,
    /// None: what the box may do is signed for it, request by request.
    Presigned,
}

/// What happens when the backup falls behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnStale {
    /// It is told.
    #[default]
    Alert,
    /// The training is ended in order: what cannot be saved is not paid for.
    Stop,
}

/// For a run that was recorded before the key existed.
fn keep_grace() -> Duration {
    DEFAULT_KEEP_GRACE
}
