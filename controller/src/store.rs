//! What is remembered on the laptop: runs, attempts, events, money, in one SQLite file (WAL), shared by every `spotter`
//! process. Nothing is rented that is not in here first. No secret is ever stored.
//!
//! Every write is one transaction and on disk when the call returns. Calls are short and synchronous.

mod events;
mod leases;
mod money;
mod rows;
mod schema;

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use serde::{Deserialize, Serialize};

pub use self::{
    events::{EventRecord, Origin, StoredEvent},
    leases::Lease,
    money::ChargeRecord,
};
use crate::{
    clock::Clock,
    fault,
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

impl Outcome {
    /// Its name, as stored and printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Crashed => "crashed",
            Self::Interrupted => "interrupted",
            Self::Lost => "lost",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
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
}

impl AttemptRecord {
    /// An instance exists, or may exist, that somebody pays for.
    pub fn may_cost(&self) -> bool {
        self.gone_us == 0
            && !self.state.is_end()
            && (self.instance.is_some() || self.state == State::Renting)
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
        schema::prepare(&mut connection, path, &clock)?;
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

    /// Writes a new run down.
    pub fn create_run(&self, run: &RunRecord) -> Result<(), StoreError> {
        let spec = serde_json::to_string(&run.spec).expect("a run file is plain data");
        fault::point("store.run.before");
        let made = self
            .lock()
            .execute(
                "INSERT INTO runs (name, spec_json, created_us, stop_requested, outcome, reason)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (name) DO NOTHING",
                params![
                    run.name,
                    spec,
                    run.created_us,
                    run.stop_requested,
                    run.outcome.map(Outcome::name),
                    run.reason
                ],
            )
            .map_err(doing("write the run down"))?;
        fault::point("store.run.after");
        if made == 0 {
            return Err(StoreError::RunExists {
                name: run.name.clone(),
            });
        }
        Ok(())
    }

    /// The run of that name, which must exist.
    pub fn run(&self, name: &str) -> Result<RunRecord, StoreError> {
        self.find_run(name)?.ok_or_else(|| StoreError::NoSuchRun {
            name: name.to_owned(),
        })
    }

    /// The run of that name, if there is one.
    pub fn find_run(&self, name: &str) -> Result<Option<RunRecord>, StoreError> {
        let sql = format!("SELECT {} FROM runs WHERE name = ?1", rows::RUN);
        self.lock()
            .query_row(&sql, [name], rows::run)
            .optional()
            .map_err(doing("read the run"))?
            .transpose()
    }

    /// All runs, the newest first.
    pub fn runs(&self) -> Result<Vec<RunRecord>, StoreError> {
        let sql = format!(
            "SELECT {} FROM runs ORDER BY created_us DESC, name",
            rows::RUN
        );
        collect(&self.lock(), &sql, [], rows::run, "list the runs")
    }

    /// Writes the changed run. A request to stop is never taken back by somebody who read the run before it was made.
    pub fn update_run(&self, run: &RunRecord) -> Result<(), StoreError> {
        let spec = serde_json::to_string(&run.spec).expect("a run file is plain data");
        let changed = self
            .lock()
            .execute(
                "UPDATE runs SET spec_json = ?2, stop_requested = max(stop_requested, ?3), outcome = ?4, reason = ?5
                 WHERE name = ?1",
                params![
                    run.name,
                    spec,
                    run.stop_requested,
                    run.outcome.map(Outcome::name),
                    run.reason
                ],
            )
            .map_err(doing("change the run"))?;
        if changed == 0 {
            return Err(StoreError::NoSuchRun {
                name: run.name.clone(),
            });
        }
        Ok(())
    }

    /// Records how a run ended, once: the first outcome stands. Fault points: `store.run.<outcome>.before` and `.after`.
    pub fn end_run(
        &self,
        name: &str,
        outcome: Outcome,
        reason: Option<&str>,
    ) -> Result<(), StoreError> {
        fault::point(&format!("store.run.{}.before", outcome.name()));
        let known = self
            .lock()
            .execute(
                "UPDATE runs SET reason = iif(outcome IS NULL, ?3, reason), outcome = coalesce(outcome, ?2)
                 WHERE name = ?1",
                params![name, outcome.name(), reason],
            )
            .map_err(doing("record the end of the run"))?;
        fault::point(&format!("store.run.{}.after", outcome.name()));
        if known == 0 {
            return Err(StoreError::NoSuchRun {
                name: name.to_owned(),
            });
        }
        Ok(())
    }

    /// Records that the user wants the run to end; whoever watches it sees this at the next look.
    pub fn request_stop(&self, run: &str) -> Result<(), StoreError> {
        fault::point("store.stop_requested.before");
        let changed = self
            .lock()
            .execute("UPDATE runs SET stop_requested = 1 WHERE name = ?1", [run])
            .map_err(doing("record the wish to stop"))?;
        fault::point("store.stop_requested.after");
        if changed == 0 {
            return Err(StoreError::NoSuchRun {
                name: run.to_owned(),
            });
        }
        Ok(())
    }

    /// Writes a new attempt down. Its number and its label must be new.
    pub fn create_attempt(&self, attempt: &AttemptRecord) -> Result<(), StoreError> {
        fault::point(&format!("store.{}.before", attempt.state));
        let mut connection = self.lock();
        let transaction = write(&mut connection)?;
        let known = transaction
            .query_row("SELECT 1 FROM runs WHERE name = ?1", [&attempt.run], |_| {
                Ok(())
            })
            .optional()
            .map_err(doing("read the run"))?;
        if known.is_none() {
            return Err(StoreError::NoSuchRun {
                name: attempt.run.clone(),
            });
        }
        match rows::insert_attempt(&transaction, attempt) {
            Err(rusqlite::Error::SqliteFailure(err, _))
                if err.code == rusqlite::ErrorCode::ConstraintViolation =>
            {
                return Err(StoreError::AttemptExists {
                    run: attempt.run.clone(),
                    number: attempt.number,
                    label: attempt.label.clone(),
                });
            }
            result => result.map_err(doing("write the attempt down"))?,
        }
        transaction
            .commit()
            .map_err(doing("write the attempt down"))?;
        drop(connection);
        fault::point(&format!("store.{}.after", attempt.state));
        Ok(())
    }

    /// Writes the changed attempt, the whole row, when its state may follow the one in the store.
    ///
    /// `last_event` never goes back: events arrive on their own way. Fault points: `store.<state>.before` and `.after`.
    pub fn update_attempt(&self, attempt: &AttemptRecord) -> Result<(), StoreError> {
        fault::point(&format!("store.{}.before", attempt.state));
        let mut connection = self.lock();
        let transaction = write(&mut connection)?;
        let from: Option<String> = transaction
            .query_row(
                "SELECT state FROM attempts WHERE run = ?1 AND number = ?2",
                params![attempt.run, attempt.number],
                |row| row.get(0),
            )
            .optional()
            .map_err(doing("read the attempt"))?;
        let Some(from) = from else {
            return Err(StoreError::NoSuchAttempt {
                run: attempt.run.clone(),
                number: attempt.number,
            });
        };
        let from = rows::state(&from)?;
        if !from.may_follow(attempt.state) {
            return Err(StoreError::BadMove {
                run: attempt.run.clone(),
                number: attempt.number,
                from,
                to: attempt.state,
            });
        }
        rows::update_attempt(&transaction, attempt).map_err(doing("change the attempt"))?;
        transaction.commit().map_err(doing("change the attempt"))?;
        drop(connection);
        fault::point(&format!("store.{}.after", attempt.state));
        Ok(())
    }

    /// Records the newest step that was seen, and nothing else of the attempt.
    pub fn record_step(&self, run: &str, number: u32, step: Option<u64>) -> Result<(), StoreError> {
        self.lock()
            .execute(
                "UPDATE attempts SET last_step = ?3 WHERE run = ?1 AND number = ?2",
                params![
                    run,
                    number,
                    step.map(|step| i64::try_from(step).unwrap_or(i64::MAX))
                ],
            )
            .map_err(doing("record a step"))?;
        Ok(())
    }

    /// All attempts of a run, from the first.
    pub fn attempts(&self, run: &str) -> Result<Vec<AttemptRecord>, StoreError> {
        let sql = format!(
            "SELECT {} FROM attempts WHERE run = ?1 ORDER BY number",
            rows::ATTEMPT
        );
        collect(
            &self.lock(),
            &sql,
            [run],
            rows::attempt,
            "list the attempts",
        )
    }

    /// All attempts of all runs, by run and number.
    pub fn all_attempts(&self) -> Result<Vec<AttemptRecord>, StoreError> {
        let sql = format!(
            "SELECT {} FROM attempts ORDER BY run, number",
            rows::ATTEMPT
        );
        collect(&self.lock(), &sql, [], rows::attempt, "list the attempts")
    }

    /// The newest attempt of a run.
    pub fn latest_attempt(&self, run: &str) -> Result<Option<AttemptRecord>, StoreError> {
        let sql = format!(
            "SELECT {} FROM attempts WHERE run = ?1 ORDER BY number DESC LIMIT 1",
            rows::ATTEMPT
        );
        self.lock()
            .query_row(&sql, [run], rows::attempt)
            .optional()
            .map_err(doing("read the newest attempt"))?
            .transpose()
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
        self.lock()
            .execute(
                "INSERT INTO meta (key, value) VALUES (?1, ?2)
                 ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                [key, value],
            )
            .map_err(doing("keep a setting"))?;
        Ok(())
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
