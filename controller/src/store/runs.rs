//! Runs in the store: written down, read, ended.

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::json;

use super::{
    AttemptRecord, Outcome, RunRecord, Store, StoreError, collect, doing,
    events::{self, tell},
    rows, write,
};
use crate::fault;

impl Store {
    /// Writes a new run down.
    pub fn create_run(&self, run: &RunRecord) -> Result<(), StoreError> {
        self.create(run, None)
    }

    /// Writes a new run down, and what was planned for it as its first event.
    pub fn create_planned_run(
        &self,
        run: &RunRecord,
        kind: &str,
        planned: &serde_json::Value,
    ) -> Result<(), StoreError> {
        self.create(run, Some((kind, planned)))
    }

    fn create(
        &self,
        run: &RunRecord,
        event: Option<(&str, &serde_json::Value)>,
    ) -> Result<(), StoreError> {
        let spec = serde_json::to_string(&run.spec).expect("a run file is plain data");
        fault::point("store.run.before");
        let mut connection = self.lock();
        let transaction = write(&mut connection)?;
        let made = transaction
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
        if made == 0 {
            return Err(StoreError::RunExists {
                name: run.name.clone(),
            });
        }
        if let Some((kind, detail)) = event {
            tell(&transaction, &run.name, 0, run.created_us, kind, detail)?;
        }
        transaction.commit().map_err(doing("write the run down"))?;
        drop(connection);
        fault::point("store.run.after");
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

    /// Records how a run ended, once, with an event [`ENDED`](super::ENDED): the first outcome stands. Fault points: `store.run.<outcome>.before` and `.after`.
    pub fn end_run(
        &self,
        name: &str,
        outcome: Outcome,
        reason: Option<&str>,
    ) -> Result<(), StoreError> {
        fault::point(&format!("store.run.{}.before", outcome.name()));
        let mut connection = self.lock();
        let transaction = write(&mut connection)?;
        let goes_on = flag(&transaction, name, "outcome IS NULL")?;
        if goes_on {
            transaction
                .execute(
                    "UPDATE runs SET reason = ?3, outcome = ?2 WHERE name = ?1",
                    params![name, outcome.name(), reason],
                )
                .map_err(doing("record the end of the run"))?;
            let detail = json!({"outcome": outcome.name(), "reason": reason});
            tell(&transaction, name, 0, self.now_us(), events::ENDED, &detail)?;
        }
        transaction
            .commit()
            .map_err(doing("record the end of the run"))?;
        drop(connection);
        fault::point(&format!("store.run.{}.after", outcome.name()));
        Ok(())
    }

    /// Opens an ended run again with `attempt` as its newest: a new one, or the last one in a new life, whatever its state was.
    /// The only way back in the order of states, and only for a person.
    pub fn reopen_run(&self, name: &str, attempt: &AttemptRecord) -> Result<(), StoreError> {
        let mut connection = self.lock();
        let transaction = write(&mut connection)?;
        self.check_fence(&transaction, name)?;
        let known = transaction
            .query_row(
                "SELECT 1 FROM attempts WHERE run = ?1 AND number = ?2",
                params![name, attempt.number],
                |_| Ok(()),
            )
            .optional()
            .map_err(doing("read the attempt"))?;
        match known {
            Some(()) => rows::update_attempt(&transaction, attempt),
            None => rows::insert_attempt(&transaction, attempt),
        }
        .map_err(doing("open the run again"))?;
        let changed = transaction
            .execute(
                "UPDATE runs SET outcome = NULL, reason = NULL, stop_requested = 0 WHERE name = ?1",
                [name],
            )
            .map_err(doing("open the run again"))?;
        if changed == 0 {
            return Err(StoreError::NoSuchRun {
                name: name.to_owned(),
            });
        }
        transaction.commit().map_err(doing("open the run again"))
    }

    /// Records that the user wants the run to end, with an event `stop_requested`; whoever watches it sees this at the next look.
    pub fn request_stop(&self, run: &str) -> Result<(), StoreError> {
        fault::point("store.stop_requested.before");
        let mut connection = self.lock();
        let transaction = write(&mut connection)?;
        if !flag(&transaction, run, "stop_requested")? {
            transaction
                .execute("UPDATE runs SET stop_requested = 1 WHERE name = ?1", [run])
                .map_err(doing("record the wish to stop"))?;
            let detail = json!({});
            tell(
                &transaction,
                run,
                0,
                self.now_us(),
                "stop_requested",
                &detail,
            )?;
        }
        transaction
            .commit()
            .map_err(doing("record the wish to stop"))?;
        drop(connection);
        fault::point("store.stop_requested.after");
        Ok(())
    }
}

/// What the record says of a run, which must exist. `what` is an expression of ours.
fn flag(connection: &Connection, run: &str, what: &str) -> Result<bool, StoreError> {
    connection
        .query_row(
            &format!("SELECT {what} FROM runs WHERE name = ?1"),
            [run],
            |row| row.get(0),
        )
        .optional()
        .map_err(doing("read the run"))?
        .ok_or_else(|| StoreError::NoSuchRun {
            name: run.to_owned(),
        })
}
