//! What the controller configured, kept in `run.json` so that it survives a restart. Holds no secrets.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use spotter_bucket::{Best, Style, Target, TargetError};
use spotter_trainlog::{Metric, MetricError, Progress, ProgressError};

use crate::{
    checkpoints::{
        CompleteWhen, NoRule,
        rates::{DAY_MIN, Window},
    },
    config::{self, Home},
    files, now_us,
    windows::{Expected, Policy},
};

const NAME_LIMIT: usize = 63;

/// The run that this box works for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunFile {
    /// Format version.
    pub v: u32,
    /// Run name.
    pub run: String,
    /// Attempt, from 1.
    pub attempt: u32,
    /// Absolute working directory.
    pub workdir: PathBuf,
    /// How checkpoints are backed up, if they are.
    pub backup: Option<BackupPlan>,
    /// Seconds after which a box without any started session stops itself; 0: never.
    pub bring_up_s: u32,
    /// Seconds after the training's end, with nobody there, after which the box stops itself; 0: never.
    #[serde(default)]
    pub idle_stop_s: u32,
    /// Base URL of the provider's API; empty: the box is not rented, and never stops itself.
    pub provider_url: String,
    /// The user's expression for the lines that show progress; empty: none.
    #[serde(default)]
    pub progress: String,
    /// Sequences per GPU in one forward pass, as far as is known.
    #[serde(default)]
    pub micro_batch: Option<u32>,
    /// How the training is held against its estimate; absent: it is not.
    #[serde(default)]
    pub validation: Option<Validation>,
    /// Longest time that this training may run, seconds; 0: no limit.
    #[serde(default)]
    pub max_runtime_s: u32,
    /// Longest time without anything new of the training in its log, seconds; 0: no limit.
    #[serde(default)]
    pub no_progress_s: u32,
    /// When the money for this box is over, microseconds since the epoch by its own clock; 0: never.
    #[serde(default)]
    pub budget_until_us: u64,
    /// How long the end of the training may take then, seconds.
    #[serde(default)]
    pub budget_finish_s: u32,
    /// Where the bucket has everything, the box destroys itself in place of stopping.
    #[serde(default)]
    pub destroy_when_saved: bool,
}

/// How the training is held against its estimate.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// Length of a window, seconds.
    pub window_s: u32,
    /// What is done about a contradiction.
    pub policy: Policy,
    /// What was predicted.
    pub expected: Expected,
}

/// How checkpoints are backed up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupPlan {
    /// Absolute directory that holds checkpoints.
    pub dir: PathBuf,
    /// Bucket and prefix, without the run's name.
    pub target: Target,
    /// How often at least a checkpoint must reach the bucket, seconds.
    pub every_s: u32,
    /// Newest commits to keep; 0: all.
    pub keep_last: u32,
    /// Wait with no change before a file counts as finished, milliseconds; 0: the rule's own.
    pub settle_ms: u32,
    /// The user's rule for when a checkpoint is complete, as the contract has it; empty: the frameworks' own.
    #[serde(default)]
    pub complete_when: String,
    /// Do not ask the kernel to tell of writers.
    #[serde(default)]
    pub no_tripwire: bool,
    /// Most bytes per second to send; 0: as many as go.
    #[serde(default)]
    pub max_bytes_per_s: u64,
    /// The first checkpoint of each so many steps is kept for good; 0: none.
    #[serde(default)]
    pub keep_every_steps: u32,
    /// How long the data of a deleted checkpoint stays in the bucket, seconds; 0: an hour.
    #[serde(default)]
    pub keep_grace_s: u32,
    /// The training is ended when the backup is behind and stays so.
    #[serde(default)]
    pub stop_when_behind: bool,
    /// Which checkpoints are kept for what the log says of them, if any are.
    #[serde(default)]
    pub keep_best: Option<Best>,
    /// Times of the day at which another rate counts.
    #[serde(default)]
    pub windows: Vec<Window>,
    /// Certificates that the bucket's server is trusted by besides those that everybody trusts, PEM; empty: those alone.
    #[serde(default)]
    pub authorities: String,
    /// The box never gets keys, but grants.
    #[serde(default)]
    pub presigned: bool,
    /// What goes to the bucket as well when the training has ended well and nobody is there: paths and patterns below the working
    /// directory.
    #[serde(default)]
    pub results: Vec<String>,
}

/// What the controller asks for, before it is checked.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// Run name.
    pub run: String,
    /// Attempt, from 1.
    pub attempt: u32,
    /// Absolute, or relative to the user's home.
    pub workdir: String,
    /// Backup, if any.
    pub backup: Option<BackupWish>,
    /// See [`RunFile::bring_up_s`].
    pub bring_up_s: u32,
    /// See [`RunFile::idle_stop_s`].
    pub idle_stop_s: u32,
    /// See [`RunFile::provider_url`].
    pub provider_url: String,
    /// See [`RunFile::progress`].
    pub progress: String,
    /// See [`RunFile::micro_batch`]; 0: unknown.
    pub micro_batch: u32,
    /// See [`RunFile::validation`].
    pub validation: Option<Validation>,
    /// See [`RunFile::max_runtime_s`].
    pub max_runtime_s: u32,
    /// See [`RunFile::no_progress_s`].
    pub no_progress_s: u32,
    /// Seconds from now until [`RunFile::budget_until_us`]; 0: there is none.
    pub budget_left_s: u32,
    /// See [`RunFile::budget_finish_s`].
    pub budget_finish_s: u32,
    /// See [`RunFile::destroy_when_saved`].
    pub destroy_when_saved: bool,
}

/// What the controller asks of the backup.
#[derive(Debug, Clone, Default)]
pub struct BackupWish {
    /// Relative to the working directory unless absolute.
    pub dir: String,
    /// `s3://bucket/prefix`.
    pub target: String,
    /// Endpoint URL; empty: AWS.
    pub endpoint: String,
    /// Region; empty: the default.
    pub region: String,
    /// See [`BackupPlan::every_s`].
    pub every_s: u32,
    /// See [`BackupPlan::keep_last`].
    pub keep_last: u32,
    /// See [`BackupPlan::settle_ms`].
    pub settle_ms: u32,
    /// See [`BackupPlan::complete_when`].
    pub complete_when: String,
    /// See [`BackupPlan::no_tripwire`].
    pub no_tripwire: bool,
    /// See [`BackupPlan::max_bytes_per_s`].
    pub max_bytes_per_s: u64,
    /// See [`BackupPlan::keep_every_steps`].
    pub keep_every_steps: u32,
    /// See [`BackupPlan::keep_grace_s`].
    pub keep_grace_s: u32,
    /// See [`BackupPlan::stop_when_behind`].
    pub stop_when_behind: bool,
    /// See [`BackupPlan::keep_best`].
    pub keep_best: Option<Best>,
    /// `path`, `virtual`, or empty: as the server is known to want it.
    pub style: String,
    /// See [`BackupPlan::windows`].
    pub windows: Vec<Window>,
    /// See [`BackupPlan::authorities`].
    pub authorities: String,
    /// See [`BackupPlan::presigned`].
    pub presigned: bool,
    /// See [`BackupPlan::results`].
    pub results: Vec<String>,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigureError {
    /// Another run's session would lose its backup and its limits.
    #[error(
        "a session of run `{0}` runs here, and a box works for one run at a time: end that run first"
    )]
    Busy(String),
    /// The run's name.
    #[error("`{0}` is no name for a run: letters, digits, `-`, `_` and `.`, at most {NAME_LIMIT}")]
    Name(String),
    /// Attempts count from one.
    #[error("attempt 0 does not exist: attempts count from 1")]
    Attempt,
    /// No working directory.
    #[error("the working directory is empty, or relative while HOME is not set")]
    Workdir,
    /// Fewer than two would leave nothing when the newest is damaged.
    #[error("keep_last is 1: keep at least 2 checkpoints, or 0 for all")]
    KeepLast,
    /// Without an interval there is nothing to hold the backup to.
    #[error("every_s is 0: say how often a checkpoint must reach the bucket")]
    Every,
    /// What says which checkpoints are best.
    #[error("the value that says which checkpoints are best is refused")]
    Metric(#[from] MetricError),
    /// Minutes of no day.
    #[error(
        "an upload window is from {from_min} to {to_min}: both are minutes of a day, and differ"
    )]
    UploadWindow {
        /// First minute.
        from_min: u32,
        /// The minute after the last.
        to_min: u32,
    },
    /// A word that is none.
    #[error("`{0}` is no addressing style: `path` or `virtual`")]
    Style(String),
    /// The user's rule for when a checkpoint is complete.
    #[error("the rule for complete checkpoints is refused")]
    CompleteWhen(#[from] NoRule),
    /// A window of no time shows nothing.
    #[error("window_s is 0: say how long a window is, or leave windows out")]
    Window,
    /// The user's expression for progress.
    #[error("the expression for the lines that show progress is refused")]
    Progress(#[from] ProgressError),
    /// The backup's target.
    #[error("the backup target is refused")]
    Target(#[from] TargetError),
    /// A directory could not be made, or the file not be written.
    #[error("{path} cannot be used")]
    Io {
        /// Directory or file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl RunFile {
    /// Checks what is asked for, resolves its paths and makes the working directory.
    pub fn decide(wish: Wish) -> Result<Self, ConfigureError> {
        if !is_run_name(&wish.run) {
            return Err(ConfigureError::Name(
                wish.run.chars().take(NAME_LIMIT + 1).collect(),
            ));
        }
        if wish.attempt == 0 {
            return Err(ConfigureError::Attempt);
        }
        let workdir = resolve(&wish.workdir, config::user_home().as_deref())
            .ok_or(ConfigureError::Workdir)?;
        if wish
            .validation
            .as_ref()
            .is_some_and(|validation| validation.window_s == 0)
        {
            return Err(ConfigureError::Window);
        }
        if !wish.progress.is_empty() {
            Progress::new(&wish.progress)?;
        }
        let backup = wish
            .backup
            .map(|backup| BackupPlan::decide(backup, &workdir))
            .transpose()?;
        fs::create_dir_all(&workdir).map_err(|source| ConfigureError::Io {
            path: workdir.clone(),
            source,
        })?;
        Ok(Self {
            v: 1,
            run: wish.run,
            attempt: wish.attempt,
            workdir,
            backup,
            bring_up_s: wish.bring_up_s,
            idle_stop_s: wish.idle_stop_s,
            provider_url: wish.provider_url,
            progress: wish.progress,
            micro_batch: Some(wish.micro_batch).filter(|count| *count > 0),
            validation: wish.validation,
            max_runtime_s: wish.max_runtime_s,
            no_progress_s: wish.no_progress_s,
            budget_until_us: in_seconds(wish.budget_left_s),
            budget_finish_s: wish.budget_finish_s,
            destroy_when_saved: wish.destroy_when_saved,
        })
    }

    /// One that asks for nothing.
    #[cfg(test)]
    pub fn for_tests() -> Self {
        Self {
            v: 1,
            run: "r".to_owned(),
            attempt: 1,
            workdir: "/".into(),
            backup: None,
            bring_up_s: 0,
            idle_stop_s: 0,
            provider_url: String::new(),
            progress: String::new(),
            micro_batch: None,
            validation: None,
            max_runtime_s: 0,
            no_progress_s: 0,
            budget_until_us: 0,
            budget_finish_s: 0,
            destroy_when_saved: false,
        }
    }

    /// The user's expression, ready for use.
    pub fn expression(&self) -> Option<Progress> {
        // It was read once already, when the run was configured.
        (!self.progress.is_empty())
            .then(|| Progress::new(&self.progress).ok())
            .flatten()
    }

    /// What is looked for in the log to tell the best checkpoints, ready for use.
    pub fn metric(&self) -> Option<Metric> {
        let best = self.backup.as_ref()?.keep_best.as_ref()?;
        // It was read once already, when the run was configured.
        Metric::new(&best.metric).ok()
    }

    /// Reads what an earlier daemon was told.
    pub fn load(home: &Home) -> io::Result<Option<Self>> {
        match files::read_if_there(&home.run_file())? {
            Some(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(io::Error::other),
            None => Ok(None),
        }
    }

    /// Keeps it for later daemons.
    pub fn save(&self, home: &Home) -> Result<(), ConfigureError> {
        let io = |source| ConfigureError::Io {
            path: home.run_file(),
            source,
        };
        let bytes = serde_json::to_vec(self).map_err(|err| io(io::Error::other(err)))?;
        files::write_durably(&home.run_file(), &bytes).map_err(io)
    }
}

impl BackupPlan {
    /// One to nowhere.
    #[cfg(test)]
    pub fn for_tests(every_s: u32) -> Self {
        let wish = BackupWish {
            target: "s3://bucket/prefix".to_owned(),
            every_s,
            ..BackupWish::default()
        };
        Self::decide(wish, Path::new("/")).expect("a bucket and an interval are enough")
    }

    fn decide(wish: BackupWish, workdir: &Path) -> Result<Self, ConfigureError> {
        if wish.keep_last == 1 {
            return Err(ConfigureError::KeepLast);
        }
        if wish.every_s == 0 {
            return Err(ConfigureError::Every);
        }
        if !wish.complete_when.is_empty() {
            wish.complete_when.parse::<CompleteWhen>()?;
        }
        if let Some(best) = &wish.keep_best {
            Metric::new(&best.metric)?;
        }
        for &Window {
            from_min, to_min, ..
        } in &wish.windows
        {
            if from_min >= DAY_MIN || to_min > DAY_MIN || from_min == to_min {
                return Err(ConfigureError::UploadWindow { from_min, to_min });
            }
        }
        let style = match wish.style.as_str() {
            "" => Style::Auto,
            word => word
                .parse()
                .map_err(|()| ConfigureError::Style(word.chars().take(NAME_LIMIT).collect()))?,
        };
        let target = Target::parse(&wish.target, Some(&wish.endpoint), Some(&wish.region))?
            .with_style(style);
        Ok(Self {
            dir: workdir.join(&wish.dir),
            target,
            every_s: wish.every_s,
            keep_last: wish.keep_last,
            settle_ms: wish.settle_ms,
            complete_when: wish.complete_when,
            no_tripwire: wish.no_tripwire,
            max_bytes_per_s: wish.max_bytes_per_s,
            keep_every_steps: wish.keep_every_steps,
            keep_grace_s: wish.keep_grace_s,
            stop_when_behind: wish.stop_when_behind,
            keep_best: wish.keep_best,
            windows: wish.windows,
            authorities: wish.authorities,
            presigned: wish.presigned,
            results: wish.results,
        })
    }
}

/// So many seconds from now, microseconds since the epoch; 0 stays 0.
pub fn in_seconds(left_s: u32) -> u64 {
    match left_s {
        0 => 0,
        left_s => now_us() + u64::from(left_s) * 1_000_000,
    }
}

fn is_run_name(name: &str) -> bool {
    let fits = (1..=NAME_LIMIT).contains(&name.len());
    // A leading dot would be a hidden directory, `..` another one.
    fits && !name.starts_with('.')
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// Absolute paths as they are, `~/` and relative ones below the user's home.
fn resolve(path: &str, user_home: Option<&Path>) -> Option<PathBuf> {
    if path.is_empty() {
        return None;
    }
    if Path::new(path).is_absolute() {
        return Some(path.into());
    }
    let below = path.strip_prefix("~/").unwrap_or(path);
    Some(user_home?.join(below))
}

#[cfg(test)]
mod tests;
