//! Attempts in the store. Their state moves forward only, whoever writes it.

use rusqlite::{OptionalExtension, params};

use super::{AttemptRecord, Store, StoreError, collect, doing, rows, write};
use crate::{
    fault,
    provider::{InstanceId, SshAddress},
};

impl Store {
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

    /// Writes the changed attempt, the whole row, when its state may follow the one in the store, and nobody else has taken the
    /// run's lease from whoever writes.
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
        self.check_fence(&transaction, &attempt.run)?;
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

    /// Records what the GPU of an attempt was ordered or bid for, and nothing else of it: whoever watches writes all the rest, and
    /// leaves this alone once the box is rented.
    pub fn record_bid(&self, run: &str, number: u32, usd_per_hour: f64) -> Result<(), StoreError> {
        self.lock()
            .execute(
                "UPDATE attempts SET gpu_usd_per_hour = ?3 WHERE run = ?1 AND number = ?2",
                params![run, number, usd_per_hour],
            )
            .map_err(doing("record a bid"))?;
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

    /// Records where the box of an attempt answers, and nothing else of it; a box that took its place meanwhile has its own.
    pub fn record_addresses(
        &self,
        run: &str,
        number: u32,
        instance: InstanceId,
        addresses: &[SshAddress],
    ) -> Result<(), StoreError> {
        let ssh = rows::addresses(addresses);
        let instance = rows::signed(instance);
        self.lock()
            .execute(
                "UPDATE attempts SET ssh_json = ?4 WHERE run = ?1 AND number = ?2 AND instance = ?3",
                params![run, number, instance, ssh],
            )
            .map_err(doing("record where a box answers"))?;
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
}
