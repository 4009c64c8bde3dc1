//! What an agent is told about its run (pure).

use spotter_bucket::Style;

use crate::spec::UploadWindow;

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
