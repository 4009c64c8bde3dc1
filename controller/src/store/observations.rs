//! What attempts were seen to do, in the store: one observation for each attempt that trained, and those that people added.

use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};

use super::{Store, StoreError, collect, doing, rows::unreadable, write};
use crate::spec::Model;

/// Where an observation comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A training of ours.
    Trained,
    /// A smoke of ours; its training never ran, or said less.
    Smoked,
    /// Somebody typed it in.
    Typed,
    /// It was read from a file.
    Imported,
}

impl Source {
    /// Its name, as stored and printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Trained => "trained",
            Self::Smoked => "smoked",
            Self::Typed => "typed",
            Self::Imported => "imported",
        }
    }
}

/// What one attempt was seen to do. What is not known is `None`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// Where it comes from.
    pub source: Source,
    /// Name of the run.
    pub run: String,
    /// Number of the attempt.
    pub attempt: Option<u32>,
    /// When it was written down, microseconds since the epoch.
    pub observed_us: i64,
    /// Tells code apart: a hash of its directory, or of its command.
    pub code: Option<String>,
    /// What was trained.
    pub model: Option<Model>,
    /// The GPU's name.
    pub gpu: String,
    /// How many.
    pub num_gpus: Option<u32>,
    /// The machine, by the market's number.
    pub machine_id: Option<u64>,
    /// Tokens per second of all GPUs, median.
    pub tokens_per_s: Option<f64>,
    /// What was predicted of that.
    pub predicted_tokens_per_s: Option<f64>,
    /// Steps per second, median.
    pub steps_per_s: Option<f64>,
    /// Use of the GPUs, percent, mean of medians.
    pub gpu_utilisation_percent: Option<f64>,
    /// Most memory of one GPU, GiB.
    pub peak_vram_gib: Option<f64>,
    /// Most memory of the host, GB.
    pub peak_ram_gb: Option<f64>,
    /// Paid time before the training began, seconds.
    pub setup_s: Option<f64>,
    /// Paid time of a training that came to nothing, seconds.
    pub debug_s: Option<f64>,
    /// Time that it trained, seconds.
    pub trained_s: Option<f64>,
    /// Fastest download that was seen, Mb/s.
    pub down_mbps: Option<f64>,
    /// What the market said of it, Mb/s.
    pub advertised_down_mbps: Option<f64>,
    /// Fastest upload that was seen, Mb/s.
    pub up_mbps: Option<f64>,
    /// What the market said of it, Mb/s.
    pub advertised_up_mbps: Option<f64>,
    /// What somebody wants to remember of it.
    pub note: Option<String>,
}

impl Observation {
    /// An observation of which only the machine is known.
    pub fn new(source: Source, run: &str, gpu: &str, observed_us: i64) -> Self {
        Self {
            source,
            run: run.to_owned(),
            attempt: None,
            observed_us,
            code: None,
            model: None,
            gpu: gpu.to_owned(),
            num_gpus: None,
            machine_id: None,
            tokens_per_s: None,
            predicted_tokens_per_s: None,
            steps_per_s: None,
            gpu_utilisation_percent: None,
            peak_vram_gib: None,
            peak_ram_gb: None,
            setup_s: None,
            debug_s: None,
            trained_s: None,
            down_mbps: None,
            advertised_down_mbps: None,
            up_mbps: None,
            advertised_up_mbps: None,
            note: None,
        }
    }

    /// What ran it, for people: `2 x RTX 4090`.
    pub fn gpus(&self) -> String {
        match self.num_gpus {
            Some(count) => format!("{count} x {}", self.gpu),
            None => self.gpu.clone(),
        }
    }

    /// Whose it is, for people: attempt 2 of `gpt2`, or `gpt2` alone.
    pub fn whose(&self) -> String {
        match self.attempt {
            Some(attempt) => format!("attempt {attempt} of `{}`", self.run),
            None => format!("`{}`", self.run),
        }
    }
}

/// An observation as the store has it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ObservationRecord {
    /// Its number, by which people name it.
    pub id: i64,
    /// Somebody changed it.
    pub edited: bool,
    /// What was seen.
    #[serde(flatten)]
    pub seen: Observation,
}

/// The most that was seen of an attempt's box, and what was promised of it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Measured {
    /// Memory of one GPU in use, GiB.
    pub vram_gib: Option<f64>,
    /// Memory of the host in use, GB.
    pub ram_gb: Option<f64>,
    /// Bytes that came over its network, GB.
    pub received_gb: Option<f64>,
    /// Download, Mb/s.
    pub down_mbps: Option<f64>,
    /// Upload, Mb/s.
    pub up_mbps: Option<f64>,
    /// What the market said of its download, Mb/s.
    pub advertised_down_mbps: Option<f64>,
    /// What the market said of its upload, Mb/s.
    pub advertised_up_mbps: Option<f64>,
}

const COLUMNS: &str = "id, edited, detail_json";

impl Store {
    /// Writes down what an attempt of ours was seen to do, in the place of what was written of it before. What somebody edited
    /// or removed stays so.
    pub fn observe(&self, seen: &Observation) -> Result<(), StoreError> {
        self.lock()
            .execute(
                "INSERT INTO observations (run, attempt, detail_json) VALUES (?1, ?2, ?3)
                 ON CONFLICT (run, attempt) DO UPDATE SET detail_json = excluded.detail_json
                 WHERE edited = 0 AND removed = 0",
                params![seen.run, seen.attempt, json(seen)],
            )
            .map_err(doing("keep an observation"))?;
        Ok(())
    }

    /// Adds observations that were not made here, all or none; what is there already is not added twice. Answers how many were.
    pub fn add_observations(&self, all: &[Observation]) -> Result<usize, StoreError> {
        let mut connection = self.lock();
        let transaction = write(&mut connection)?;
        let known = list(&transaction)?;
        let mut added = 0;
        for seen in all {
            let same = |known: &ObservationRecord| {
                let known = &known.seen;
                (&known.run, known.attempt, &known.gpu) == (&seen.run, seen.attempt, &seen.gpu)
                    && known.observed_us == seen.observed_us
                    && known.tokens_per_s == seen.tokens_per_s
                    && known.peak_vram_gib == seen.peak_vram_gib
            };
            if known.iter().any(same) {
                continue;
            }
            // The column is for attempts of this store; the number stays in the detail.
            transaction
                .execute(
                    "INSERT INTO observations (run, attempt, detail_json) VALUES (?1, NULL, ?2)",
                    params![seen.run, json(seen)],
                )
                .map_err(doing("keep an observation"))?;
            added += 1;
        }
        transaction.commit().map_err(doing("keep an observation"))?;
        Ok(added)
    }

    /// All observations, the oldest first.
    pub fn observations(&self) -> Result<Vec<ObservationRecord>, StoreError> {
        list(&self.lock())
    }

    /// The observation of that number, if there is one.
    pub fn observation(&self, id: i64) -> Result<Option<ObservationRecord>, StoreError> {
        self.lock()
            .query_row(
                &format!("SELECT {COLUMNS} FROM observations WHERE id = ?1 AND removed = 0"),
                [id],
                read,
            )
            .optional()
            .map_err(doing("find an observation"))?
            .transpose()
    }

    /// When an attempt of ours was observed, microseconds since the epoch, whatever became of it since.
    pub fn observed_us(&self, run: &str, attempt: u32) -> Result<Option<i64>, StoreError> {
        let detail: Option<String> = self
            .lock()
            .query_row(
                "SELECT detail_json FROM observations WHERE run = ?1 AND attempt = ?2",
                params![run, attempt],
                |row| row.get(0),
            )
            .optional()
            .map_err(doing("find an observation"))?;
        detail
            .map(|detail| parse(&detail).map(|seen| seen.observed_us))
            .transpose()
    }

    /// Changes what is written of an observation. False: there is none of that number.
    pub fn edit_observation(&self, id: i64, seen: &Observation) -> Result<bool, StoreError> {
        let changed = self
            .lock()
            .execute(
                "UPDATE observations SET edited = 1, detail_json = ?2 WHERE id = ?1 AND removed = 0",
                params![id, json(seen)],
            )
            .map_err(doing("change an observation"))?;
        Ok(changed > 0)
    }

    /// Takes observations away, all or none. Answers the first number that there is none of.
    pub fn remove_observations(&self, ids: &[i64]) -> Result<Option<i64>, StoreError> {
        let mut connection = self.lock();
        let transaction = write(&mut connection)?;
        for id in ids {
            let changed = transaction
                .execute(
                    "UPDATE observations SET removed = 1 WHERE id = ?1 AND removed = 0",
                    [id],
                )
                .map_err(doing("remove an observation"))?;
            if changed == 0 {
                return Ok(Some(*id));
            }
        }
        transaction
            .commit()
            .map_err(doing("remove an observation"))?;
        Ok(None)
    }

    /// Keeps the most that was seen of an attempt's box.
    pub fn record_measured(
        &self,
        run: &str,
        attempt: u32,
        most: &Measured,
    ) -> Result<(), StoreError> {
        // `max` of SQLite is nothing where one of the two is.
        let greatest = |name: &str| {
            format!(
                "{name} = max(coalesce(excluded.{name}, {name}), coalesce({name}, excluded.{name}))"
            )
        };
        let newest = |name: &str| format!("{name} = coalesce(excluded.{name}, {name})");
        let sql = format!(
            "INSERT INTO measured (run, attempt, vram_gib, ram_gb, received_gb, down_mbps, up_mbps, advertised_down_mbps,
             advertised_up_mbps) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
             ON CONFLICT (run, attempt) DO UPDATE SET {}, {}, {}, {}, {}, {}, {}",
            greatest("vram_gib"),
            greatest("ram_gb"),
            greatest("received_gb"),
            greatest("down_mbps"),
            greatest("up_mbps"),
            newest("advertised_down_mbps"),
            newest("advertised_up_mbps"),
        );
        self.lock()
            .execute(
                &sql,
                params![
                    run,
                    attempt,
                    most.vram_gib,
                    most.ram_gb,
                    most.received_gb,
                    most.down_mbps,
                    most.up_mbps,
                    most.advertised_down_mbps,
                    most.advertised_up_mbps
                ],
            )
            .map_err(doing("keep what was measured"))?;
        Ok(())
    }

    /// The most that was seen of an attempt's box.
    pub fn measured(&self, run: &str, attempt: u32) -> Result<Measured, StoreError> {
        let found = self
            .lock()
            .query_row(
                "SELECT vram_gib, ram_gb, received_gb, down_mbps, up_mbps, advertised_down_mbps, advertised_up_mbps
                 FROM measured WHERE run = ?1 AND attempt = ?2",
                params![run, attempt],
                |row| {
                    Ok(Measured {
                        vram_gib: row.get(0)?,
                        ram_gb: row.get(1)?,
                        received_gb: row.get(2)?,
                        down_mbps: row.get(3)?,
                        up_mbps: row.get(4)?,
                        advertised_down_mbps: row.get(5)?,
                        advertised_up_mbps: row.get(6)?,
                    })
                },
            )
            .optional()
            .map_err(doing("read what was measured"))?;
        Ok(found.unwrap_or_default())
    }
}

fn list(connection: &Connection) -> Result<Vec<ObservationRecord>, StoreError> {
    collect(
        connection,
        &format!("SELECT {COLUMNS} FROM observations WHERE removed = 0 ORDER BY id"),
        [],
        read,
        "list the observations",
    )
}

fn json(seen: &Observation) -> String {
    serde_json::to_string(seen).expect("an observation is plain data")
}

fn parse(detail: &str) -> Result<Observation, StoreError> {
    serde_json::from_str(detail).map_err(|_| unreadable("observation", detail))
}

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Result<ObservationRecord, StoreError>> {
    let (id, edited) = (row.get(0)?, row.get(1)?);
    let detail: String = row.get(2)?;
    Ok(parse(&detail).map(|seen| ObservationRecord { id, edited, seen }))
}
