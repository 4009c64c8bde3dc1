//! What is remembered on the laptop: runs, attempts, events, money, in one SQLite file (WAL), shared by every `spotter`
//! process. Nothing is rented that is not in here first. No secret is ever stored.

use serde::{Deserialize, Serialize};

use crate::{
    provider::{InstanceId, Rental, SshAddress},
    run::State,
    spec::RunSpec,
};

/// A run: one training effort under one name.
#[derive(Debug, Clone, PartialEq)]
pub struct RunRecord {
    /// Its name, unique in the store.
    pub name: String,
    /// Its file, checked.
    pub spec: RunSpec,
    /// When it was written down, microseconds since the epoch.
    pub created_us: i64,
    /// The user asked for its end (`stop` or `destroy`); nothing restarts it.
    pub stop_requested: bool,
    /// How it ended; `None` while it goes on.
    pub outcome: Option<Outcome>,
    /// Why, for people.
    pub reason: Option<String>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The training ended with exit code 0 and everything is safe.
    Done,
    /// The training ended with another exit code or a signal of its own.
    Crashed,
    /// Interrupted and not recovered: by policy, budget or attempts.
    Interrupted,
    /// The box is no more and nothing could be recovered.
    Lost,
    /// Ended on request.
    Stopped,
    /// A step before the training failed.
    Failed,
}

/// One life of a run on one box.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptRecord {
    /// Its run.
    pub run: String,
    /// From 1.
    pub number: u32,
    /// Where it stands.
    pub state: State,
    /// Unique label of the instance: `spotter/<store id>/<run>/<attempt>/<nonce>`.
    pub label: String,
    /// How it is rented.
    pub rental: Rental,
    /// Instance, once known.
    pub instance: Option<InstanceId>,
    /// Machine, once known.
    pub machine_id: Option<u64>,
    /// What GPU, for people.
    pub gpu: String,
    /// GPU price, $/h.
    pub gpu_usd_per_hour: f64,
    /// Storage price, $/h.
    pub storage_usd_per_hour: f64,
    /// Addresses, the one that works first.
    pub ssh: Vec<SshAddress>,
    /// When the attempt was written down, microseconds since the epoch.
    pub created_us: i64,
    /// When the state last changed.
    pub state_us: i64,
    /// When the training session started; 0 before.
    pub started_us: i64,
    /// When the attempt's instance was confirmed gone; 0 before.
    pub gone_us: i64,
    /// Step of the checkpoint it resumed from.
    pub resumed_step: Option<u64>,
    /// Newest step that was seen.
    pub last_step: Option<u64>,
    /// Why it ended, for people.
    pub reason: Option<String>,
    /// Last event of its agent that is stored here.
    pub last_event: u64,
    /// Exit code of the training.
    pub exit_code: Option<i32>,
}
