//! The run file: what it may say, its defaults, and errors that name the line, the column and the nearest known key.
//!
//! Keys are named as SkyPilot's and dstack's users know them. What is parsed becomes a [`RunSpec`], in which every default is
//! filled in and every value has been checked; nothing later asks the file again.

pub mod accelerators;
mod bare;
mod checkpoints;
pub mod container;
mod file;
pub mod model;
pub mod needs;
pub mod query;
pub mod values;
mod yaml;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub use self::{
    bare::BareRun,
    checkpoints::{BucketServer, Checkpoints, KeyMode, KeyRules, OnStale, UploadWindow},
    file::{SpecError, parse, webhook_in},
    model::Model,
    needs::Need,
    values::duration,
    yaml::{YamlError, from_yaml, nearest},
};
use crate::{
    provider::{Filter, Rental, SshAddress},
    run::budget::Purse,
    ui::text,
};

/// An image whose size nobody told, GB as it travels: PyTorch with CUDA, as the market's own images have it.
pub const IMAGE_GB: f64 = 12.0;
/// Container image when none is named: the market's own PyTorch image, whose layers most hosts have already.
pub const DEFAULT_IMAGE: &str = "vastai/pytorch";
/// Disk when none is asked for, GB.
pub const DEFAULT_DISK_GB: f64 = 50.0;
/// Bid over the price to beat, as a fraction.
pub const DEFAULT_HEADROOM: f64 = 0.15;
/// The same where the way on after an interruption is chosen by price: over simulated weeks no headroom was worth what it costs, because
/// an interruption costs little then.
pub const DEFAULT_HEADROOM_BY_PRICE: f64 = 0.0;
/// From paying for a box to a started session.
pub const DEFAULT_BRING_UP: Duration = Duration::from_secs(45 * 60);
/// Backup interval.
pub const DEFAULT_EVERY: Duration = Duration::from_secs(10 * 60);
/// Newest commits to keep.
pub const DEFAULT_KEEP_LAST: u32 = 3;
/// How long the data of a deleted checkpoint stays: long enough for whoever reads it, and for an upload that builds on it.
pub const DEFAULT_KEEP_GRACE: Duration = Duration::from_secs(3600);
/// Attempts in all, the first included.
pub const DEFAULT_ATTEMPTS: u32 = 5;
/// Longest wait for a box that the market took back: by then others have taken it for good, or the market has changed.
pub const DEFAULT_WAIT: Duration = Duration::from_secs(24 * 3600);
/// Days of a stopped box's disk that a budget holds back: whoever is away for a week finds it as it was.
pub const DEFAULT_STORAGE_DAYS: f64 = 7.0;
/// Longest time of a smoke.
pub const DEFAULT_SMOKE_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// Length of a window.
pub const DEFAULT_WINDOW: Duration = Duration::from_secs(10 * 60);
/// Windows after which the loss must have moved.
pub const EARLY_WINDOWS: u32 = 3;
/// Directory of checkpoints on the box.
pub const DEFAULT_CHECKPOINT_DIR: &str = "checkpoints";

/// A run file, checked, with every default filled in. Stored with the run as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSpec {
    /// Name of the run: letters, digits, `-`, `_`, `.`; at most 63 characters.
    pub name: String,
    /// Directory that is copied to the box, absolute; `None`: no code is copied.
    pub workdir: Option<PathBuf>,
    /// What to rent.
    pub resources: Resources,
    /// What a box has to be able to do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<Need>,
    /// What is trained, for the plan.
    #[serde(default)]
    pub model: Option<Model>,
    /// Container image; empty: the template's.
    pub image: String,
    /// Its size as it travels, GB; `None`: not told. Bounds how long a host may take to fetch it.
    #[serde(default)]
    pub image_gb: Option<f64>,
    /// What its container is made with beside the image.
    #[serde(default)]
    pub container: container::ContainerSpec,
    /// Shell text that the box runs at every start, after spotter's own.
    #[serde(default)]
    pub onstart: Option<String>,
    /// Environment of the job. `None`: taken from the caller's shell at start, never stored.
    pub envs: BTreeMap<String, Option<String>>,
    /// Shell text that prepares the box, run once per attempt before `run`.
    pub setup: Option<String>,
    /// A short session that proves code and box before `run`.
    #[serde(default)]
    pub smoke: Option<Smoke>,
    /// Shell text of the training.
    pub run: String,
    /// Shell text that resumes; `None`: `run`, with `SPOTTER_CHECKPOINT` set.
    pub resume: Option<String>,
    /// Expression for the lines of the log that show progress; `None`: lines are recognised by their shape.
    #[serde(default)]
    pub progress: Option<String>,
    /// Where checkpoints are and go.
    pub checkpoints: Option<Checkpoints>,
    /// How it is held against its estimate.
    #[serde(default)]
    pub validate: Validate,
    /// What to do after an interruption.
    pub recover: Recover,
    /// Bounds on time and money.
    pub limits: Limits,
    /// What to bring home.
    pub results: Option<Results>,
    /// What happens to the box after a finished run.
    pub on_done: OnDone,
    /// How its user is told what happens to it.
    #[serde(default)]
    pub notify: Option<Notify>,
}

/// How a user is told what happens to his run while he is away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notify {
    /// Shell text, run on the laptop.
    pub command: Option<String>,
    /// Where the URL is that is told. The URL itself is a secret, and no part of what is stored.
    pub webhook: Option<WebhookFrom>,
    /// While nobody watches, the box tells it.
    #[serde(default)]
    pub from_box: bool,
}

/// Where the URL of a webhook is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WebhookFrom {
    /// In the caller's shell.
    Shell,
    /// In this run file, absolute.
    File(PathBuf),
}

/// What to rent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    /// GPU name with spaces; `None`: any.
    pub gpu_name: Option<String>,
    /// Number of GPUs.
    pub num_gpus: u32,
    /// Disk, GB.
    pub disk_gb: f64,
    /// How it is rented.
    pub rental: Rental,
    /// Further conditions, from the market's query language.
    pub filters: Vec<Filter>,
    /// Highest all-in price for the whole box, $/h.
    pub max_price_usd_per_hour: Option<f64>,
    /// Bid over the price to beat, as a fraction (0.15 = 15 %).
    pub bid_headroom: f64,
    /// Highest bid, $/h.
    pub bid_max_usd_per_hour: Option<f64>,
    /// What is paid in advance for its first box, dollars: `rental: reserved`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepay_usd: Option<f64>,
    /// Boxes that the user has already, taken instead of the market's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<SshAddress>,
}

/// A short session before the training.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Smoke {
    /// Shell text.
    pub run: String,
    /// Steps that it is meant to make: `SPOTTER_SMOKE_STEPS` in its environment.
    pub steps: Option<u64>,
    /// Longest time; one that takes longer has failed.
    pub timeout: Duration,
}

/// For a run that was recorded before the key existed.
fn wait_here() -> Duration {
    DEFAULT_WAIT
}

/// For a run that was recorded before the key existed.
fn storage_days() -> f64 {
    DEFAULT_STORAGE_DAYS
}

/// What a run that was recorded before the key existed meant.
fn yes() -> bool {
    true
}

/// After an interruption.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recover {
    /// What to do.
    pub policy: RecoverPolicy,
    /// Attempts in all, the first included; a return to the same box is one.
    pub attempts: u32,
    /// Longest time to wait for the same box.
    #[serde(default = "wait_here")]
    pub wait: Duration,
    /// The result is wanted so long after the run was begun; the choice by price goes by it, and nothing is ended for it.
    #[serde(default)]
    pub deadline: Option<Duration>,
}

/// What to do after an interruption.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecoverPolicy {
    /// Rent another box and resume there.
    Elsewhere,
    /// Wait for the same box, bidding more where that is allowed.
    Here,
    /// Wait for the same box, bid more for it or rent another one, whatever is expected to cost least.
    Price,
    /// Stop, and let a person choose.
    Ask,
    /// Stop and tell.
    Never,
}

/// Bounds on time and money.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// From paying for a box to a started session; after that the box stops itself.
    pub bring_up: Duration,
    /// Dollars for all attempts; a new attempt is not begun past it.
    pub budget_usd: Option<f64>,
    /// So many days of a stopped box's disk are held back of that.
    #[serde(default = "storage_days")]
    pub storage_days: f64,
    /// Longest time of training, all attempts together.
    #[serde(default)]
    pub max_runtime: Option<Duration>,
    /// Longest time without anything new of the training in its log.
    #[serde(default)]
    pub no_progress: Option<Duration>,
}

impl Limits {
    /// The budget, and what is held back of it; `None`: there is none.
    pub fn purse(&self) -> Option<Purse> {
        Some(Purse {
            budget_usd: self.budget_usd?,
            storage_days: self.storage_days,
        })
    }
}

/// How a training is held against its estimate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validate {
    /// Length of a window.
    pub window: Duration,
    /// What to do when a window contradicts the estimate, as the contract has it: `alert`, `stop` or `command ...`.
    pub on_contradiction: String,
    /// Go on though nobody answers; otherwise the training is ended then.
    pub go_on_unanswered: bool,
    /// After so much training the loss must have moved.
    pub early_checkpoint: Duration,
}

impl Default for Validate {
    fn default() -> Self {
        Self {
            window: DEFAULT_WINDOW,
            on_contradiction: "alert".to_owned(),
            go_on_unanswered: false,
            early_checkpoint: DEFAULT_WINDOW * EARLY_WINDOWS,
        }
    }
}

impl Validate {
    /// What becomes of a training that contradicts its estimate, for people.
    pub fn consequence(&self) -> String {
        let silence = match self.go_on_unanswered {
            true => "it goes on though nobody answers",
            false => "it is ended when nobody watches for a whole window",
        };
        match self.on_contradiction.as_str() {
            "alert" => silence.to_owned(),
            "stop" => "its box ends it, as `validate.on_contradiction` says".to_owned(),
            // A command of the run file.
            _ => format!("its box runs the command of `validate.on_contradiction`, and {silence}"),
        }
    }
}

/// What to bring home.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// Files and directories on the box, relative to the working directory.
    pub fetch: Vec<String>,
    /// Directory on the laptop, absolute.
    pub to: PathBuf,
}

/// What happens to the box after a finished run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDone {
    /// Destroy it once everything is safe.
    Destroy,
    /// Stop it; the disk goes on costing.
    Stop,
    /// Leave it running.
    Keep,
}

fn is_brought_home(checkpoints: Option<&Checkpoints>, results: Option<&Results>) -> bool {
    results.is_some() || checkpoints.is_some_and(|checkpoints| checkpoints.to.is_some())
}

impl OnDone {
    /// What happens where nothing was said: a box that holds the only copy of what was trained on it is not destroyed.
    fn of(checkpoints: Option<&Checkpoints>, results: Option<&Results>) -> Self {
        match is_brought_home(checkpoints, results) {
            true => Self::Destroy,
            false => Self::Stop,
        }
    }
}

impl RunSpec {
    /// Whether all that the training writes is on the disk of its box and nowhere else.
    pub fn brings_nothing_home(&self) -> bool {
        !is_brought_home(self.checkpoints.as_ref(), self.results.as_ref())
    }

    /// Reads and checks a run file.
    pub fn load(path: &Path) -> Result<Self, SpecError> {
        file::read(path)
    }

    /// Gives the run another name, and its results a folder of that name: a file may be run more than once.
    pub fn rename(&mut self, name: &str) -> Result<(), SpecError> {
        values::run_name(name).map_err(|message| SpecError::Flag {
            flag: "--name".to_owned(),
            message,
        })?;
        if name != self.name
            && let Some(results) = &mut self.results
        {
            results.to.push(name);
        }
        name.clone_into(&mut self.name);
        Ok(())
    }

    /// From paying for a box to its training, the smoke included: after that the box stops itself.
    pub fn bring_up(&self) -> Duration {
        let smoke = self
            .smoke
            .as_ref()
            .map_or(Duration::ZERO, |smoke| smoke.timeout);
        self.limits.bring_up + smoke
    }
}

impl Rental {
    /// The word for it in run files, tables and the store.
    pub fn name(self) -> &'static str {
        match self {
            Self::OnDemand => "on-demand",
            Self::Interruptible => "interruptible",
        }
    }
}

/// A rule that spans several keys and is broken: the key at which to say so, and why.
pub(crate) type Broken = (&'static str, String);

/// Checks what no single key can tell.
pub(crate) fn check_rules(spec: &RunSpec) -> Result<(), Broken> {
    let resources = &spec.resources;
    let interruptible = resources.rental == Rental::Interruptible;
    if interruptible
        && spec
            .checkpoints
            .as_ref()
            .is_none_or(|kept| kept.to.is_none())
    {
        let why = "an interruptible box is taken back without warning: name a bucket with `checkpoints.to`, so that \
                   checkpoints outlive it, or rent on-demand";
        return Err(("resources.rental", why.to_owned()));
    }
    if let (Some(bid), Some(price)) = (
        resources.bid_max_usd_per_hour,
        resources.max_price_usd_per_hour,
    ) && bid > price
    {
        let why = format!(
            "the highest bid of {} is above `max_price` of {}, which is all in",
            text::usd_per_hour(bid),
            text::usd_per_hour(price)
        );
        return Err(("resources.bid.max", why));
    }
    if !interruptible && resources.bid_max_usd_per_hour.is_some() {
        return Err((
            "resources.bid.max",
            "only an interruptible box has a bid".to_owned(),
        ));
    }
    if let (Some(usd), Some(budget)) = (resources.prepay_usd, spec.limits.budget_usd)
        && usd > budget
    {
        let why =
            format!("more is paid in advance than `limits.budget` of ${budget:.2} allows in all");
        return Err(("resources.prepay", why));
    }
    for filter in &resources.filters {
        let better = match filter.field.as_str() {
            "gpu_name" | "num_gpus" => "accelerators",
            "disk_space" => "disk",
            "dph_total" | "min_bid" => "max_price",
            "rentable" | "rented" => {
                let why = format!("`{}` is set by spotter", filter.field);
                return Err(("resources.offers", why));
            }
            _ => continue,
        };
        let why = format!("`{}` is said by `resources.{better}`", filter.field);
        return Err(("resources.offers", why));
    }
    if spec.run.trim().is_empty() {
        return Err(("run", "there is nothing to run".to_owned()));
    }
    Ok(())
}
