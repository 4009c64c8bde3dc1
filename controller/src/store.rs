//! What is remembered on the laptop: runs, attempts, events, money, in one SQLite file (WAL), shared by every `spotter`
//! process. Nothing is rented that is not in here first. No secret is ever stored.
//!
//! Every write is one transaction and on disk when the call returns. Calls are short and synchronous.

mod attempts;
mod events;
mod leases;
mod money;
mod observations;
mod rows;
mod runs;
mod schema;
mod traffic;

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use serde::{Deserialize, Serialize};

pub use self::{
    events::{ENDED, EventRecord, Origin, StoredEvent},
    leases::Lease,
    money::{ChargeRecord, counting},
    observations::{Measured, Observation, ObservationRecord, Source},
};
use crate::{
    clock::Clock,
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
    /// Ended because a limit of the run file was reached.
    Limit,
    /// Ended because what it did contradicted its estimate.
    Contradicted,
}

impl Outcome {
    /// Whether a person or a rule of the run file ended it.
    pub fn is_by_order(self) -> bool {
        matches!(self, Self::Stopped | Self::Limit | Self::Contradicted)
    }

    /// Its name, as stored and printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Crashed => "crashed",
            Self::Interrupted => "interrupted",
            Self::Lost => "lost",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Limit => "limit",
            Self::Contradicted => "contradicted",
        }
    }

    /// The outcome of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [
            Self::Done,
            Self::Crashed,
            Self::Interrupted,
            Self::Lost,
            Self::Stopped,
            Self::Failed,
            Self::Limit,
            Self::Contradicted,
        ]
        .into_iter()
        .find(|outcome| outcome.name() == name)
    }
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
    /// When somebody started it again on its box, microseconds since the epoch; 0: never.
    pub reopened_us: i64,
    /// [`Self::started_us`] of the session before that.
    pub old_session_us: i64,
}

impl AttemptRecord {
    /// An instance exists, or may exist, that somebody pays for.
    pub fn may_cost(&self) -> bool {
        self.gone_us == 0
            && !self.state.is_end()
            && (self.instance.is_some() || self.state == State::Renting)
    }

    /// What its box costs at most while nothing is known to be charged for it, as behind a host that is silent, $/h.
    pub fn at_most_usd_per_hour(&self) -> f64 {
        let stopped = matches!(
            self.state,
            State::Interrupted | State::Waiting | State::Stopped | State::Lost
        );
        let gpu = match stopped {
            true => 0.0,
            false => self.gpu_usd_per_hour,
        };
        gpu + self.storage_usd_per_hour
    }

    /// No training session was asked for in this life of its box.
    pub fn awaits_training(&self) -> bool {
        self.started_us == self.old_session_us
    }
}

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened or made.
    #[error("the run store `{}` cannot be opened", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A newer spotter wrote it.
    #[error(
        "the run store `{}` has schema {found}, this spotter knows up to {known}: use the newer spotter",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// The name is taken.
    #[error("there is a run `{name}` already")]
    RunExists {
        /// The name.
        name: String,
    },
    /// Nobody has that name.
    #[error("there is no run `{name}`")]
    NoSuchRun {
        /// The name.
        name: String,
    },
    /// The run has no attempt of that number.
    #[error("run `{run}` has no attempt {number}")]
    NoSuchAttempt {
        /// The run.
        run: String,
        /// The number.
        number: u32,
    },
    /// The run has an attempt of that number, or another one has its label.
    #[error("attempt {number} of run `{run}`, or its label `{label}`, is in the store already")]
    AttemptExists {
        /// The run.
        run: String,
        /// The number.
        number: u32,
        /// The label.
        label: String,
    },
    /// The record moved on in the meantime, or a step was left out.
    #[error("attempt {number} of run `{run}` is {from}: {to} may not follow")]
    BadMove {
        /// The run.
        run: String,
        /// The number.
        number: u32,
        /// What the store has.
        from: State,
        /// What was to be written.
        to: State,
    },
    /// Another process acts for the run by now.
    #[error("another spotter acts for run `{run}`")]
    Superseded {
        /// The run.
        run: String,
    },
    /// A stored value makes no sense to this program.
    #[error("the run store holds a {what} that cannot be read: `{value}`")]
    Unreadable {
        /// Kind of value.
        what: &'static str,
        /// The value, shortened.
        value: String,
    },
    /// SQLite's own error.
    #[error("the run store did not {operation}")]
    Sqlite {
        /// What was asked.
        operation: &'static str,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
}

/// The run store. Cheap to share: one connection behind a lock, used for microseconds at a time.
#[derive(Debug)]
pub struct Store {
    connection: Mutex<Connection>,
    path: PathBuf,
    id: String,
    clock: Clock,
    /// Leases that were taken through this handle, by run: whoever lost one may not write on.
    held: Mutex<HashMap<String, String>>,
}

/// How long a write waits for another `spotter` that writes.
const BUSY: Duration = Duration::from_secs(15);

impl Store {
    /// Opens the store, and makes it (0600, its directory 0700) where there is none. Brings an older schema up to date.
    pub fn open(path: &Path, clock: Clock) -> Result<Self, StoreError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| StoreError::Open {
            path: path.to_owned(),
            source,
        };
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .map_err(|err| failed(Box::new(err)))?;
        }
        // SQLite would make the file with the umask's mode; its WAL and shared memory take the mode of the file.
        fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
            .map_err(|err| failed(Box::new(err)))?;

        let mut connection = Connection::open(path).map_err(|err| failed(Box::new(err)))?;
        schema::prepare(&mut connection, path, &clock).map_err(|err| match err {
            err @ StoreError::Newer { .. } => err,
            err => failed(Box::new(err)),
        })?;
        let id = connection
            .query_row("SELECT value FROM meta WHERE key = 'store_id'", [], |row| {
                row.get(0)
            })
            .map_err(|err| failed(Box::new(err)))?;
        Ok(Self {
            connection: Mutex::new(connection),
            path: path.to_owned(),
            id,
            clock,
            held: Mutex::default(),
        })
    }

    /// Opens the store if there is one: a look at nothing makes nothing.
    pub fn open_existing(path: &Path, clock: Clock) -> Result<Option<Self>, StoreError> {
        if path.exists() {
            Self::open(path, clock).map(Some)
        } else {
            Ok(None)
        }
    }

    /// The store's own id, a ULID made at its creation: tells its instances from those of another laptop.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The store's clock, microseconds since the epoch.
    pub fn now_us(&self) -> i64 {
        self.clock.now_us()
    }

    /// A value kept under a name.
    pub fn meta(&self, key: &str) -> Result<Option<String>, StoreError> {
        self.lock()
            .query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| {
                row.get(0)
            })
            .optional()
            .map_err(doing("read a setting"))
    }

    /// Keeps a value under a name. Never a secret.
    pub fn set_meta(&self, key: &str, value: &str) -> Result<(), StoreError> {
        crate::fault::point("store.meta.before");
        self.lock()
            .execute(
                "INSERT INTO meta (key, value) VALUES (?1, ?2)
                 ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                [key, value],
            )
            .map_err(doing("keep a setting"))?;
        crate::fault::point("store.meta.after");
        Ok(())
    }

    /// All names that begin so, with their values, in order.
    pub fn metas(&self, prefix: &str) -> Result<Vec<(String, String)>, StoreError> {
        collect(
            &self.lock(),
            "SELECT key, value FROM meta WHERE substr(key, 1, length(?1)) = ?1 ORDER BY key",
            [prefix],
            |row| Ok(Ok((row.get(0)?, row.get(1)?))),
            "list settings",
        )
    }

    /// Forgets what is kept under a name. False: nothing was.
    pub fn forget_meta(&self, key: &str) -> Result<bool, StoreError> {
        let gone = self
            .lock()
            .execute("DELETE FROM meta WHERE key = ?1", [key])
            .map_err(doing("forget a setting"))?;
        Ok(gone > 0)
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic in another thread left no half transaction behind: dropping one rolls it back.
        self.connection
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A transaction that holds the right to write from its start, so that what it reads cannot change under it.
fn write(connection: &mut Connection) -> Result<Transaction<'_>, StoreError> {
    connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(doing("begin to write"))
}

/// Names the operation that SQLite refused.
fn doing(operation: &'static str) -> impl FnOnce(rusqlite::Error) -> StoreError {
    move |source| StoreError::Sqlite { operation, source }
}

/// Reads all rows of a query.
fn collect<T>(
    connection: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
    read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<Result<T, StoreError>>,
    operation: &'static str,
) -> Result<Vec<T>, StoreError> {
    let mut statement = connection.prepare(sql).map_err(doing(operation))?;
    let rows = statement
        .query_map(params, read)
        .map_err(doing(operation))?;
    rows.map(|row| row.map_err(doing(operation))?).collect()
}

#[cfg(test)]
mod tests;
