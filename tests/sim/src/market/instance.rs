//! An instance: what was ordered, what it is, and in whose words.

use std::net::SocketAddr;

use serde::Serialize;

use crate::market::{InstanceId, Millis, Refused, bill::Bill, keys::SshKey};

/// Limits of an order, as the provider documents them.
const MAX_LABEL_CHARS: usize = 256;
const MAX_IMAGE_CHARS: usize = 1024;
const MAX_ENV_CHARS: usize = 32_768;
const MAX_SCRIPT_CHARS: usize = 4096;
const MIN_DISK_GB: f64 = 8.0;
const BID_USD_PER_HOUR: std::ops::RangeInclusive<f64> = 0.001..=128.0;

/// What a tenant orders.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Order {
    /// Container image.
    pub image: String,
    /// Name that the tenant gives it.
    pub label: Option<String>,
    /// Environment, and docker flags as keys that begin with `-`, in the order they came.
    pub env: Vec<(String, String)>,
    /// Shell text of every start.
    pub onstart: Option<String>,
    /// Disk, GB.
    pub disk_gb: f64,
    /// Bid for all GPUs, $/h; `None`: on-demand.
    pub bid_usd_per_hour: Option<f64>,
    /// How the box is reached, such as `ssh_direc ssh_proxy`.
    pub runtype: String,
    /// Arguments of the container.
    pub args: Vec<String>,
    /// Refuse rather than leave a stopped instance.
    pub cancel_unavailable: bool,
    /// The tenant wants it stopped at first.
    pub start_stopped: bool,
    /// Volume that it mounts.
    pub volume: Option<VolumeMount>,
}

/// A volume in a box.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VolumeMount {
    /// Number of the volume.
    pub volume: u64,
    /// Where the box has it.
    pub path: String,
}

impl Order {
    /// Holds the order against the documented limits and the machine's free disk.
    pub(crate) fn check(&self, free_disk_gb: f64) -> Result<(), Refused> {
        let invalid = |text: String| Err(Refused::Invalid(text));
        if self.image.is_empty() || self.image.chars().count() > MAX_IMAGE_CHARS {
            return invalid(format!(
                "image must have 1 to {MAX_IMAGE_CHARS} characters."
            ));
        }
        if self
            .label
            .as_ref()
            .is_some_and(|label| label.chars().count() > MAX_LABEL_CHARS)
        {
            return invalid(format!(
                "label must have at most {MAX_LABEL_CHARS} characters."
            ));
        }
        let env: usize = self
            .env
            .iter()
            .map(|(k, v)| k.chars().count() + v.chars().count())
            .sum();
        if env > MAX_ENV_CHARS {
            return invalid(format!(
                "env must have at most {MAX_ENV_CHARS} characters in total."
            ));
        }
        let script = self.onstart.as_ref().map_or(0, |text| text.chars().count())
            + self
                .args
                .iter()
                .map(|arg| arg.chars().count())
                .sum::<usize>();
        if script > MAX_SCRIPT_CHARS {
            return invalid(format!(
                "onstart and args must have at most {MAX_SCRIPT_CHARS} characters together."
            ));
        }
        if self.disk_gb.is_nan() || self.disk_gb < MIN_DISK_GB {
            return invalid(format!("disk must be at least {MIN_DISK_GB} GB."));
        }
        if self.disk_gb > free_disk_gb {
            return invalid(format!(
                "disk must be at most {free_disk_gb} GB on this machine."
            ));
        }
        match self.bid_usd_per_hour {
            Some(bid) if !BID_USD_PER_HOUR.contains(&bid) => Err(Refused::Price(format!(
                "price must be {} to {}.",
                BID_USD_PER_HOUR.start(),
                BID_USD_PER_HOUR.end()
            ))),
            _ => Ok(()),
        }
    }
}

/// What should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Intended {
    /// It should run.
    Running,
    /// It should not.
    Stopped,
}

impl Intended {
    /// The API's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
        }
    }
}

/// Who has the GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Contract {
    /// The instance has.
    Running,
    /// It has not.
    Stopped,
    /// It is destroyed.
    Unloaded,
}

impl Contract {
    /// The API's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Unloaded => "unloaded",
        }
    }
}

/// The container as the host last reported it; null until it has been created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Accepted by the host.
    Created,
    /// Image pull.
    Loading,
    /// Up.
    Running,
    /// Down, disk kept.
    Exited,
    /// Stopped and started again on request.
    Rebooting,
    /// Made anew from its image on request.
    Recycling,
    /// No recent heartbeat of the host.
    Unknown,
    /// The host is gone.
    Offline,
}

impl Status {
    /// The API's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Loading => "loading",
            Self::Running => "running",
            Self::Exited => "exited",
            Self::Rebooting => "rebooting",
            Self::Recycling => "recycling",
            Self::Unknown => "unknown",
            Self::Offline => "offline",
        }
    }
}

/// The real box, as far as the market was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Container {
    /// Nothing runs.
    Down,
    /// A start was ordered.
    Starting,
    /// Ssh can connect.
    Up,
    /// A stop was ordered.
    Stopping,
}

/// A restart that the tenant asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Restart {
    /// On the same disk.
    Reboot,
    /// On a new disk from a freshly pulled image.
    Recycle,
}

/// What happens to an instance by itself at its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The host has accepted it.
    Created,
    /// The image pull begins.
    Loading,
    /// The container starts.
    Start,
    /// It tries to get its GPUs back.
    Resume,
    /// Heartbeats are missed.
    Unknown,
    /// The host is given up.
    Offline,
}

/// An instance; destroyed ones stay for their bill.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    /// Its number.
    pub id: InstanceId,
    /// Who pays: index of the account.
    pub account: usize,
    /// Where: index of the machine.
    pub machine: usize,
    /// Which GPUs of the machine; the same for life.
    pub gpus: Vec<usize>,
    /// What was ordered; label and bid as they are now.
    pub order: Order,
    /// On-demand price of its GPUs when it was rented, $/h.
    pub list_usd_per_hour: f64,
    /// Price of its disk, $/h.
    pub storage_usd_per_hour: f64,
    /// What the API says should be.
    pub intended: Intended,
    /// Who has the GPUs.
    pub contract: Contract,
    /// The container; `None` while provisioning.
    pub status: Option<Status>,
    /// Free text of the host.
    pub status_msg: Option<String>,
    /// The tenant's own last word, which the market remembers through an interruption.
    pub wants_to_run: bool,
    /// The real box.
    pub container: Container,
    /// Counts starts, so that a late report of an old one is told apart.
    pub epoch: u64,
    /// Where ssh answers while it is up.
    pub address: Option<SocketAddr>,
    /// Past loading under the running contract: the GPU is charged.
    pub metered: bool,
    /// When it was rented.
    pub created_ms: Millis,
    /// When its container last came up.
    pub container_started_ms: Option<Millis>,
    /// The API says `running` until then though the container is down: its word comes late.
    pub exit_shows_ms: Millis,
    /// Its container ended by itself, which the contract does not notice.
    pub ended: bool,
    /// A restart under way.
    pub restart: Option<Restart>,
    /// When it will be deleted, because its contract has ended.
    pub delete_ms: Option<Millis>,
    /// When it was destroyed.
    pub destroyed_ms: Option<Millis>,
    /// Until when the API shows it though it is destroyed.
    pub shown_until_ms: Millis,
    /// Keys that may log in.
    pub ssh_keys: Vec<SshKey>,
    /// Key of the instance itself.
    pub api_key: String,
    /// Token that the API shows; nothing listens for it.
    pub jupyter_token: String,
    /// What it cost.
    pub bill: Bill,
    /// What happens next by itself.
    pub next: Option<(Millis, Step)>,
}

impl Instance {
    /// GPU price while it runs, $/h: its bid, or the list price.
    pub fn gpu_usd_per_hour(&self) -> f64 {
        self.order
            .bid_usd_per_hour
            .unwrap_or(self.list_usd_per_hour)
    }

    /// What the API says of the container: the end of one shows late.
    pub fn shown_status(&self, now: Millis) -> Option<Status> {
        match self.status {
            Some(Status::Exited) if now < self.exit_shows_ms => Some(Status::Running),
            status => status,
        }
    }

    /// Whether the API shows it: one that is destroyed may vanish late.
    pub fn is_shown(&self, now: Millis) -> bool {
        self.destroyed_ms.is_none() || now < self.shown_until_ms
    }

    /// Wants the GPUs and does not have them.
    pub fn waits(&self) -> bool {
        self.destroyed_ms.is_none() && self.wants_to_run && self.contract == Contract::Stopped
    }

    /// Rank in the fight for GPUs: on-demand before any bid, then the higher bid.
    pub(crate) fn rank(&self) -> f64 {
        self.order.bid_usd_per_hour.unwrap_or(f64::INFINITY)
    }
}
