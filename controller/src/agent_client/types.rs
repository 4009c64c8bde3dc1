//! What the agent says and is asked, in our own words (pure). [`super::convert`] knows the contract.

use serde::{Deserialize, Serialize};
use spotter_bucket::Style;

use crate::spec::UploadWindow;

/// What an agent is and how its box is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AgentStatus {
    /// Version, semver.
    pub version: String,
    /// First 16 hex digits of the blake3 of its binary.
    pub build: String,
    /// Its clock, microseconds since the epoch.
    pub now_us: u64,
    /// When the daemon started.
    pub started_us: u64,
    /// Changes when the box restarts.
    pub boot: String,
    /// Run it works for; `None` before `configure`.
    pub run: Option<String>,
    /// Attempt it works for; 0 before `configure`.
    pub attempt: u32,
    /// Newest event.
    pub last_event: u64,
    /// Oldest event that was not acknowledged; 0: none.
    pub oldest_unacknowledged_event: u64,
    /// All sessions, newest first.
    pub sessions: Vec<SessionInfo>,
    /// Newest telemetry.
    pub sample: Option<SampleInfo>,
    /// Newest values of the training log.
    pub training: Option<TrainingInfo>,
    /// State of the backup; `None` where none was asked for.
    pub backup: Option<BackupInfo>,
    /// Why there is no GPU telemetry.
    pub gpu_problem: Option<String>,
    /// The NVIDIA driver and what is fixed about the GPUs; `None` where NVML said nothing.
    pub gpu_driver: Option<DriverInfo>,
}

impl AgentStatus {
    /// A session by its name.
    pub fn session(&self, name: &str) -> Option<&SessionInfo> {
        self.sessions.iter().find(|session| session.name == name)
    }
}

/// How a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionState {
    /// Its command runs.
    Running,
    /// Ended by itself with an exit code.
    Exited,
    /// Ended by a signal that nobody here sent.
    Signalled,
    /// Ended by the kernel for want of memory.
    Oom,
    /// Ended on request.
    Stopped,
    /// Gone without an end record: killed, or the box restarted.
    Lost,
}

/// A command in its session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SessionInfo {
    /// Name, unique on the box.
    pub name: String,
    /// How it stands.
    pub state: SessionState,
    /// Exit code, when it ended with one.
    pub exit_code: Option<i32>,
    /// Signal that ended it.
    pub signal: Option<i32>,
    /// When it started, microseconds since the epoch.
    pub started_us: u64,
    /// When it ended; `None` while it runs.
    pub ended_us: Option<u64>,
    /// Process on the box.
    pub pid: u32,
    /// Bytes of log so far.
    pub log_bytes: u64,
    /// A tmux window shows it.
    pub tmux: bool,
    /// The command line, for people.
    pub command: String,
}

impl SessionInfo {
    /// Its command runs.
    pub fn is_running(&self) -> bool {
        self.state == SessionState::Running
    }

    /// Ended by itself with code 0.
    pub fn ended_well(&self) -> bool {
        self.state == SessionState::Exited && self.exit_code == Some(0)
    }
}

/// One thing that happened on a box.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AgentEvent {
    /// Rises by one.
    pub seq: u64,
    /// When, microseconds since the epoch by the box's clock.
    pub time_us: u64,
    /// Kind, such as `session.ended`.
    pub kind: String,
    /// Run it belongs to; empty before `configure`.
    pub run: String,
    /// Attempt it belongs to.
    pub attempt: u32,
    /// Details; an object. What is not valid JSON becomes `{"text": …}`.
    pub detail: serde_json::Value,
}

/// One reading of a box.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SampleInfo {
    /// When, microseconds since the epoch by the box's clock.
    pub time_us: u64,
    /// Every GPU.
    pub gpus: Vec<GpuInfo>,
    /// The container.
    pub host: Option<HostInfo>,
    /// Seconds that it stands for, with means of what varies; 0: it is one reading.
    pub span_s: u32,
    /// The busiest processes, by CPU; none in a span.
    pub processes: Vec<ProcessInfo>,
}

/// A process of the box.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProcessInfo {
    /// Process id on the box.
    pub pid: i32,
    /// Its name, at most 15 bytes.
    pub name: String,
    /// CPU use, percent of one core.
    pub cpu_percent: f32,
    /// Memory of its own in use, bytes.
    pub memory_bytes: u64,
}

/// One GPU; what could not be read is `None`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(
    missing_docs,
    reason = "names carry the unit; the contract documents each"
)]
pub struct GpuInfo {
    pub index: u32,
    pub name: String,
    pub uuid: String,
    /// NVML error code; 0: none.
    pub error: u32,
    pub utilisation_percent: Option<u32>,
    pub memory_used_bytes: Option<u64>,
    pub memory_total_bytes: Option<u64>,
    pub power_mw: Option<u32>,
    pub temperature_c: Option<u32>,
    pub sm_clock_mhz: Option<u32>,
    pub memory_clock_mhz: Option<u32>,
    pub throttle_reasons: Option<u64>,
    pub energy_mj: Option<u64>,
    pub memory_busy_percent: Option<u32>,
    pub memory_temperature_c: Option<u32>,
    pub performance_state: Option<u32>,
    pub sm_active_percent: Option<f32>,
    pub sm_occupancy_percent: Option<f32>,
    pub tensor_active_percent: Option<f32>,
    pub dram_active_percent: Option<f32>,
    #[serde(skip_deserializing)]
    pub mig: Vec<MigInfo>,
    pub power_limit_mw: Option<u32>,
    pub fan_percent: Option<u32>,
    pub pcie_tx_bytes_per_s: Option<u64>,
    pub pcie_rx_bytes_per_s: Option<u64>,
    pub pcie_replays: Option<u64>,
    pub pcie_generation: Option<u32>,
    pub pcie_width: Option<u32>,
    pub nvlink_tx_bytes_per_s: Option<u64>,
    pub nvlink_rx_bytes_per_s: Option<u64>,
    pub nvlinks_up: Option<u32>,
    pub nvlink_errors: Option<u64>,
    pub ecc_corrected: Option<u64>,
    pub ecc_uncorrected: Option<u64>,
    pub ecc_corrected_lifetime: Option<u64>,
    pub ecc_uncorrected_lifetime: Option<u64>,
    pub remapped_rows_corrected: Option<u32>,
    pub remapped_rows_uncorrected: Option<u32>,
    pub remap_pending: Option<u32>,
    pub remap_failed: Option<u32>,
    pub recovery_action: Option<u32>,
    #[serde(skip_deserializing)]
    pub processes: Vec<GpuProcessInfo>,
    pub xid_count: u32,
    pub last_xid: u32,
    pub last_xid_us: u64,
}

/// A process on a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GpuProcessInfo {
    /// Process id on the host.
    pub pid: u32,
    /// GPU memory, where the driver tells.
    pub memory_bytes: Option<u64>,
}

/// One part of a GPU that is split by MIG.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(
    missing_docs,
    reason = "names carry the unit; the contract documents each"
)]
pub struct MigInfo {
    pub index: u32,
    pub name: String,
    pub uuid: String,
    pub memory_used_bytes: Option<u64>,
    pub memory_total_bytes: Option<u64>,
}

/// The NVIDIA driver of the box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DriverInfo {
    /// Version, such as `580.82.07`; empty when it cannot be read.
    pub version: String,
    /// Newest CUDA version it runs, 1000 x major + 10 x minor; 0 when it cannot be read.
    pub cuda: u32,
    /// NVML library that was opened.
    pub library: String,
    /// Every GPU, by index.
    pub gpus: Vec<CardInfo>,
}

/// What is fixed about one GPU; what cannot be read is empty or 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(
    missing_docs,
    reason = "names carry the unit; the contract documents each"
)]
pub struct CardInfo {
    pub index: u32,
    pub name: String,
    pub uuid: String,
    pub pci_bus_id: String,
    pub compute_capability: u32,
    pub vbios: String,
    pub max_sm_clock_mhz: u32,
    pub max_memory_clock_mhz: u32,
    pub mig: bool,
}

/// The container; what could not be read is `None`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(
    missing_docs,
    reason = "names carry the unit; the contract documents each"
)]
pub struct HostInfo {
    pub cpu_percent: Option<f32>,
    pub cpu_limit_cores: Option<f32>,
    pub memory_used_bytes: Option<u64>,
    pub memory_limit_bytes: Option<u64>,
    pub disk_free_bytes: Option<u64>,
    pub disk_total_bytes: Option<u64>,
    pub network_rx_bytes: Option<u64>,
    pub network_tx_bytes: Option<u64>,
    pub oom_kills: Option<u64>,
    pub cpu_throttled_us: Option<u64>,
    pub cpu_pressure_percent: Option<f32>,
    pub memory_pressure_percent: Option<f32>,
    pub io_pressure_percent: Option<f32>,
    pub memory_limit_hits: Option<u64>,
    pub disk_read_bytes_per_s: Option<u64>,
    pub disk_write_bytes_per_s: Option<u64>,
    pub network_rx_bytes_per_s: Option<u64>,
    pub network_tx_bytes_per_s: Option<u64>,
    pub shm_free_bytes: Option<u64>,
    pub shm_total_bytes: Option<u64>,
}

/// Newest values that were read from the training log.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(
    missing_docs,
    reason = "names carry the unit; the contract documents each"
)]
pub struct TrainingInfo {
    pub time_us: u64,
    pub step: Option<u64>,
    pub total_steps: Option<u64>,
    pub epoch: Option<f64>,
    pub loss: Option<f64>,
    pub eval_loss: Option<f64>,
    pub learning_rate: Option<f64>,
    pub tokens_per_s: Option<f64>,
    pub samples_per_s: Option<f64>,
    pub step_time_s: Option<f64>,
    pub grad_norm: Option<f64>,
}

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
    /// Links that lead out of the working directory: the box does not follow them.
    pub leading_out: Vec<String>,
}

/// What was brought to the bucket as results.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Collected {
    /// Uploaded files and missing paths.
    pub list: FileList,
    /// Key of the results manifest; `None` when there is no bucket.
    pub manifest_key: Option<String>,
}

/// One check of a box before anything expensive happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckResult {
    /// Short name, such as `gpus`.
    pub name: String,
    /// Whether it holds.
    pub ok: bool,
    /// Whether the run must not go on otherwise.
    pub required: bool,
    /// What was found, for people.
    pub detail: String,
}

/// The checks of a box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PreflightReport {
    /// Each with its verdict.
    pub checks: Vec<CheckResult>,
    /// The box can end its own instance.
    pub can_self_stop: bool,
}

/// Whether the bucket can be used from the box.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BucketProof {
    /// What failed; `None`: write, read and delete worked.
    pub problem: Option<String>,
    /// Bucket's clock minus the box's, seconds.
    pub clock_offset_s: f64,
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

/// What an agent works for.
#[derive(Debug, Clone, PartialEq)]
pub struct BoxConfig {
    /// Run's name.
    pub run: String,
    /// Attempt, from 1.
    pub attempt: u32,
    /// Directory of the code: absolute, or relative to the box's home.
    pub workdir: String,
    /// Backup; `None`: none.
    pub backup: Option<BackupConfig>,
    /// Time without a session after which the box stops itself; zero: never.
    pub bring_up: std::time::Duration,
    /// Time after the training's end, with nobody there, after which the box stops itself; `None`: never.
    pub idle_stop: Option<std::time::Duration>,
    /// Base URL of the provider's API; empty: the box's own.
    pub provider_url: String,
    /// The user's expression for the lines that show progress.
    pub progress: Option<String>,
    /// Sequences per GPU in one forward pass, for advice.
    pub micro_batch: Option<u32>,
    /// How the training is held against its estimate.
    pub validation: ValidationConfig,
    /// What is left of the time for training; `None`: no limit.
    pub max_runtime: Option<std::time::Duration>,
    /// Longest time without anything new of the training in its log; `None`: no limit.
    pub no_progress: Option<std::time::Duration>,
    /// How long the money lasts; `None`: for ever.
    pub allowance: Option<Allowance>,
    /// Where the bucket has everything, the box destroys itself in place of stopping.
    pub destroy_when_saved: bool,
}

/// How long a box may go on with the run's money when nobody tells it anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Until it ends the training.
    pub left: std::time::Duration,
    /// How long that may take, until the box has stopped itself.
    pub finish: std::time::Duration,
}

/// How a training is held against its estimate.
#[derive(Debug, Clone, PartialEq)]
pub struct ValidationConfig {
    /// Length of a window.
    pub window: std::time::Duration,
    /// `alert`, `stop` or `command ...`.
    pub on_contradiction: String,
    /// Go on though nobody answers.
    pub go_on_unanswered: bool,
    /// A person has seen it and wants the training to go on.
    pub accepted: bool,
    /// After so much training the loss must have moved.
    pub early_checkpoint: std::time::Duration,
    /// Predicted speed of all GPUs, tokens per second.
    pub predicted_tokens_per_s: Option<f64>,
    /// Tokens of all GPUs between two steps.
    pub tokens_per_step: Option<f64>,
    /// GPUs of the box.
    pub gpus: u32,
}

/// How to back checkpoints up.
#[derive(Debug, Clone, PartialEq)]
pub struct BackupConfig {
    /// Checkpoint directory, relative to the working directory unless absolute.
    pub dir: String,
    /// `s3://bucket/prefix`.
    pub target: String,
    /// Endpoint; `None`: AWS.
    pub endpoint: Option<String>,
    /// Region; `None`: us-east-1.
    pub region: Option<String>,
    /// Backup interval.
    pub every: std::time::Duration,
    /// Newest commits to keep; 0: all.
    pub keep_last: u32,
    /// The first checkpoint of each so many steps is kept for good; 0: none.
    pub keep_every_steps: u32,
    /// How long the data of a deleted checkpoint stays in the bucket.
    pub keep_grace: std::time::Duration,
    /// Which are kept for what the log says of them, if any are.
    pub keep_best: Option<spotter_bucket::Best>,
    /// The box ends the training when the backup is behind and stays so.
    pub stop_when_behind: bool,
    /// Wait with no change before a file counts as finished; `None`: the rule's own.
    pub settle: Option<std::time::Duration>,
    /// The user's rule for when a checkpoint is complete, as the contract has it; `None`: the frameworks' own.
    pub complete_when: Option<String>,
    /// Whether the kernel is asked to tell of writers.
    pub tripwire: bool,
    /// Most bytes per second to send; `None`: as many as go.
    pub max_bytes_per_s: Option<u64>,
    /// Where the bucket's name stands in URLs.
    pub style: Style,
    /// Times of the day at which another rate counts.
    pub windows: Vec<UploadWindow>,
    /// Certificates that the bucket's server is trusted by besides those that everybody trusts, PEM; empty: those alone.
    pub authorities: String,
    /// The box never gets keys: what it may do is signed for it.
    pub presigned: bool,
    /// What else goes to the bucket before the box stops itself, when the training has ended well and nobody is there.
    pub results: Vec<String>,
}

/// A command to start.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SessionRequest {
    /// Name: letters, digits, `-`, `_`.
    pub name: String,
    /// Shell text.
    pub command: String,
    /// Environment on top of the box's; values may be secrets.
    pub env: Vec<(String, String)>,
    /// Working directory; `None`: the configured one.
    pub dir: Option<String>,
    /// Longest time; `None`: no limit.
    pub timeout: Option<std::time::Duration>,
    /// How the box may start it again by itself; `None`: it may not.
    pub again: Option<Again>,
}

/// How a box may start a training again that went with a restart of its container.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Again {
    /// Shell text where there is no checkpoint to go on from.
    pub fresh: String,
    /// Shell text where there is one.
    pub resume: String,
    /// Variables whose values the box may not keep: where there are any, it does not start anything.
    pub secrets: Vec<String>,
    /// How often at most.
    pub times: u32,
}

/// A place in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct LogPosition {
    /// Rises when the file was truncated or replaced.
    pub generation: u64,
    /// Bytes from the start of that generation.
    pub offset: u64,
}

/// Where to begin reading a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStart {
    /// At a place.
    At(LogPosition),
    /// This many bytes before the end, at a line's start.
    Tail(u64),
}

/// Bytes of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPiece {
    /// Where `data` begins.
    pub position: LogPosition,
    /// The bytes as they were written.
    pub data: Vec<u8>,
    /// Bytes lost before this piece.
    pub gap_bytes: u64,
    /// The session has ended and this is the last piece.
    pub end: bool,
}

impl LogPiece {
    /// Where the next piece begins.
    pub fn next(&self) -> LogPosition {
        LogPosition {
            offset: self.position.offset + self.data.len() as u64,
            ..self.position
        }
    }
}
