//! Rows of the store to records and back.

use rusqlite::{Connection, Row, named_params};

use super::{AttemptRecord, Outcome, RunRecord, StoreError};
use crate::{
    provider::{Rental, SshAddress},
    run::State,
};

/// Columns of a run, in the order in which [`run`] reads them.
pub(super) const RUN: &str = "name, spec_json, created_us, stop_requested, outcome, reason";

/// Columns of an attempt, in the order in which [`attempt`] reads them.
pub(super) const ATTEMPT: &str = "run, number, state, label, rental, instance, machine_id, gpu, gpu_usd_per_hour, \
     storage_usd_per_hour, ssh_json, created_us, state_us, started_us, gone_us, resumed_step, last_step, reason, \
     last_event, exit_code, reopened_us, old_session_us";

/// The value of a column that another version of spotter may have written.
pub(super) fn unreadable(what: &'static str, value: &str) -> StoreError {
    StoreError::Unreadable {
        what,
        value: value.chars().take(80).collect(),
    }
}

pub(super) fn state(name: &str) -> Result<State, StoreError> {
    State::from_name(name).ok_or_else(|| unreadable("state", name))
}

fn rental(name: &str) -> Result<Rental, StoreError> {
    [Rental::OnDemand, Rental::Interruptible]
        .into_iter()
        .find(|rental| rental.name() == name)
        .ok_or_else(|| unreadable("kind of rental", name))
}

/// SQLite's integers are signed. Numbers of instances and steps stay far below 2^63.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// Reads a run. The outer error is SQLite's, the inner one is about what a value means.
pub(super) fn run(row: &Row<'_>) -> rusqlite::Result<Result<RunRecord, StoreError>> {
    let name: String = row.get(0)?;
    let spec: String = row.get(1)?;
    let created_us = row.get(2)?;
    let stop_requested = row.get(3)?;
    let outcome: Option<String> = row.get(4)?;
    let reason = row.get(5)?;
    Ok((|| {
        let spec = serde_json::from_str(&spec)
            .map_err(|err| unreadable("run file", &format!("{name}: {err}")))?;
        let outcome = outcome
            .map(|name| Outcome::from_name(&name).ok_or_else(|| unreadable("outcome", &name)))
            .transpose()?;
        Ok(RunRecord {
            name,
            spec,
            created_us,
            stop_requested,
            outcome,
            reason,
        })
    })())
}

/// Reads an attempt, likewise.
pub(super) fn attempt(row: &Row<'_>) -> rusqlite::Result<Result<AttemptRecord, StoreError>> {
    let state_name: String = row.get(2)?;
    let rental_name: String = row.get(4)?;
    let ssh_json: String = row.get(10)?;
    let record = AttemptRecord {
        run: row.get(0)?,
        number: row.get(1)?,
        state: State::Planned,
        label: row.get(3)?,
        rental: Rental::OnDemand,
        instance: row.get::<_, Option<i64>>(5)?.map(unsigned),
        machine_id: row.get::<_, Option<i64>>(6)?.map(unsigned),
        gpu: row.get(7)?,
        gpu_usd_per_hour: row.get(8)?,
        storage_usd_per_hour: row.get(9)?,
        ssh: Vec::new(),
        created_us: row.get(11)?,
        state_us: row.get(12)?,
        started_us: row.get(13)?,
        gone_us: row.get(14)?,
        resumed_step: row.get::<_, Option<i64>>(15)?.map(unsigned),
        last_step: row.get::<_, Option<i64>>(16)?.map(unsigned),
        reason: row.get(17)?,
        last_event: unsigned(row.get(18)?),
        exit_code: row.get(19)?,
        reopened_us: row.get(20)?,
        old_session_us: row.get(21)?,
    };
    Ok((|| {
        Ok(AttemptRecord {
            state: state(&state_name)?,
            rental: rental(&rental_name)?,
            ssh: serde_json::from_str(&ssh_json)
                .map_err(|_| unreadable("list of addresses", &ssh_json))?,
            ..record
        })
    })())
}

pub(super) fn insert_attempt(
    connection: &Connection,
    attempt: &AttemptRecord,
) -> rusqlite::Result<()> {
    let sql = format!(
        "INSERT INTO attempts ({ATTEMPT}) VALUES (:run, :number, :state, :label, :rental, :instance, :machine_id, :gpu, \
         :gpu_usd_per_hour, :storage_usd_per_hour, :ssh_json, :created_us, :state_us, :started_us, :gone_us, \
         :resumed_step, :last_step, :reason, :last_event, :exit_code, :reopened_us, :old_session_us)"
    );
    execute(connection, &sql, attempt)
}

pub(super) fn update_attempt(
    connection: &Connection,
    attempt: &AttemptRecord,
) -> rusqlite::Result<()> {
    let sql = "UPDATE attempts SET state = :state, label = :label, rental = :rental, instance = :instance, \
         machine_id = :machine_id, gpu = :gpu, \
         gpu_usd_per_hour = iif(:state = 'renting', :gpu_usd_per_hour, gpu_usd_per_hour), \
         storage_usd_per_hour = :storage_usd_per_hour, ssh_json = :ssh_json, created_us = :created_us, \
         state_us = :state_us, started_us = :started_us, gone_us = :gone_us, resumed_step = :resumed_step, \
         last_step = :last_step, reason = :reason, last_event = max(last_event, :last_event), exit_code = :exit_code, \
         reopened_us = :reopened_us, old_session_us = :old_session_us \
         WHERE run = :run AND number = :number";
    execute(connection, sql, attempt)
}

/// Addresses as they are stored.
pub(super) fn addresses(ssh: &[SshAddress]) -> String {
    serde_json::to_string(ssh).expect("addresses are plain data")
}

fn execute(connection: &Connection, sql: &str, attempt: &AttemptRecord) -> rusqlite::Result<()> {
    let ssh = addresses(&attempt.ssh);
    connection.execute(
        sql,
        named_params! {
            ":run": attempt.run,
            ":number": attempt.number,
            ":state": attempt.state.name(),
            ":label": attempt.label,
            ":rental": attempt.rental.name(),
            ":instance": attempt.instance.map(signed),
            ":machine_id": attempt.machine_id.map(signed),
            ":gpu": attempt.gpu,
            ":gpu_usd_per_hour": attempt.gpu_usd_per_hour,
            ":storage_usd_per_hour": attempt.storage_usd_per_hour,
            ":ssh_json": ssh,
            ":created_us": attempt.created_us,
            ":state_us": attempt.state_us,
            ":started_us": attempt.started_us,
            ":gone_us": attempt.gone_us,
            ":resumed_step": attempt.resumed_step.map(signed),
            ":last_step": attempt.last_step.map(signed),
            ":reason": attempt.reason,
            ":last_event": signed(attempt.last_event),
            ":exit_code": attempt.exit_code,
            ":reopened_us": attempt.reopened_us,
            ":old_session_us": attempt.old_session_us,
        },
    )?;
    Ok(())
}
