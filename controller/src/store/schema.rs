//! The schema of the store, and how an older one becomes the present one.

use std::{path::Path, thread, time::Duration};

use rusqlite::{Connection, ErrorCode};

use super::{BUSY, StoreError, doing, write};
use crate::clock::Clock;

/// Every schema this spotter knows: its number and what leads to it from the one before.
pub(super) const MIGRATIONS: &[(u32, &str)] = &[
    (1, include_str!("v1.sql")),
    (2, include_str!("v2.sql")),
    (3, include_str!("v3.sql")),
    (4, include_str!("v4.sql")),
];

/// Sets the connection up and brings the schema up to date.
pub(super) fn prepare(
    connection: &mut Connection,
    path: &Path,
    clock: &Clock,
) -> Result<(), StoreError> {
    connection
        .busy_timeout(BUSY)
        .map_err(doing("set its time-out"))?;
    // An acknowledged event is gone from the box, and a forgotten intent is a box that nobody ends: nothing may be lost to
    // a power cut.
    connection
        .execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;")
        .map_err(doing("set its durability"))?;
    let version = version(connection)?;
    let newest = MIGRATIONS.last().expect("there is a first schema").0;
    if version > newest {
        return Err(StoreError::Newer {
            path: path.to_owned(),
            found: version,
            known: newest,
        });
    }
    if version < newest {
        use_wal(connection)?;
        migrate(connection, MIGRATIONS, clock)?;
    }
    Ok(())
}

/// Brings the schema to the last of `migrations`, in one transaction. Several processes may try at once.
pub(super) fn migrate(
    connection: &mut Connection,
    migrations: &[(u32, &str)],
    clock: &Clock,
) -> Result<(), StoreError> {
    let transaction = write(connection)?;
    // Somebody else may have done it while we waited for the lock.
    let from = version(&transaction)?;
    for (number, sql) in migrations.iter().filter(|(number, _)| *number > from) {
        transaction
            .execute_batch(sql)
            .map_err(doing("bring its schema up to date"))?;
        transaction
            .execute(
                "INSERT INTO migrations (version, applied_us, by_version) VALUES (?1, ?2, ?3)",
                rusqlite::params![number, clock.now_us(), env!("CARGO_PKG_VERSION")],
            )
            .map_err(doing("bring its schema up to date"))?;
        transaction
            .pragma_update(None, "user_version", number)
            .map_err(doing("bring its schema up to date"))?;
    }
    if from == 0 {
        transaction
            .execute(
                "INSERT INTO meta (key, value) VALUES ('store_id', ?1)",
                [ulid::Ulid::generate().to_string().to_lowercase()],
            )
            .map_err(doing("name itself"))?;
    }
    transaction
        .commit()
        .map_err(doing("bring its schema up to date"))
}

/// Readers beside a writer. SQLite does not wait for the lock that this change needs, so we do.
fn use_wal(connection: &Connection) -> Result<(), StoreError> {
    const PAUSE: Duration = Duration::from_millis(20);
    let mut tries_left = BUSY.as_millis() / PAUSE.as_millis();
    loop {
        match connection.pragma_update(None, "journal_mode", "wal") {
            Err(rusqlite::Error::SqliteFailure(err, _))
                if matches!(
                    err.code,
                    ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked
                ) && tries_left > 0 =>
            {
                tries_left -= 1;
                thread::sleep(PAUSE);
            }
            result => return result.map_err(doing("use a write-ahead log")),
        }
    }
}

fn version(connection: &Connection) -> Result<u32, StoreError> {
    connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(doing("tell its schema"))
}
