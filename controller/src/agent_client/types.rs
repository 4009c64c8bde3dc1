//! What the agent says and is asked, in our own words (pure). [`super::convert`] knows the contract.

mod backup;
mod configuration;
mod logs;
mod telemetry;

pub use self::{backup::*, configuration::*, logs::*, telemetry::*};
use serde::{Deserialize, Serialize};

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
