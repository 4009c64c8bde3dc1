//! What went over the networks of boxes, in the store.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{Store, StoreError, collect, doing};
use crate::ledger::{
    Interval,
    traffic::{Counters, Traffic},
};

const COLUMNS: &str =
    "attempt, from_us, at_us, counted_received, counted_sent, received, sent, usd";

impl Store {
    /// What was counted of an attempt; `None`: nothing yet.
    pub fn traffic(&self, run: &str, attempt: u32) -> Result<Option<Traffic>, StoreError> {
        self.lock()
            .query_row(
                &format!("SELECT {COLUMNS} FROM traffic WHERE run = ?1 AND attempt = ?2"),
                params![run, attempt],
                |row| Ok(traffic(row)?.1),
            )
            .optional()
            .map_err(doing("read what went over the network"))
    }

    /// Writes down what was counted of an attempt, in the place of what was before.
    pub fn record_traffic(
        &self,
        run: &str,
        attempt: u32,
        counted: &Traffic,
    ) -> Result<(), StoreError> {
        // SQLite has signed numbers; nothing carries eight exabytes.
        let bytes = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.lock()
            .execute(
                &format!(
                    "INSERT INTO traffic (run, {COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
                     ON CONFLICT (run, attempt) DO UPDATE SET at_us = excluded.at_us,
                         counted_received = excluded.counted_received, counted_sent = excluded.counted_sent,
                         received = excluded.received, sent = excluded.sent, usd = excluded.usd"
                ),
                params![
                    run,
                    attempt,
                    counted.from_us,
                    counted.at_us,
                    bytes(counted.counters.received),
                    bytes(counted.counters.sent),
                    bytes(counted.moved.received),
                    bytes(counted.moved.sent),
                    counted.usd
                ],
            )
            .map_err(doing("write down what went over the network"))?;
        Ok(())
    }
}

/// What the traffic of each attempt of a run cost.
pub(super) fn intervals(connection: &Connection, run: &str) -> Result<Vec<Interval>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM traffic WHERE run = ?1 AND usd > 0 ORDER BY attempt");
    collect(
        connection,
        &sql,
        [run],
        |row| traffic(row).map(|(attempt, counted)| Ok(counted.interval(attempt))),
        "read what went over the network",
    )
}

fn traffic(row: &Row<'_>) -> rusqlite::Result<(u32, Traffic)> {
    let bytes = |column: usize| -> rusqlite::Result<u64> {
        let count: i64 = row.get(column)?;
        Ok(u64::try_from(count).unwrap_or(0))
    };
    let counted = Traffic {
        from_us: row.get(1)?,
        at_us: row.get(2)?,
        counters: Counters {
            received: bytes(3)?,
            sent: bytes(4)?,
        },
        moved: Counters {
            received: bytes(5)?,
            sent: bytes(6)?,
        },
        usd: row.get(7)?,
    };
    Ok((row.get(0)?, counted))
}
