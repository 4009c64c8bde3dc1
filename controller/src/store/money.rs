//! Money in the store: what was charged by the hour from when to when, and what the provider says it took.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use super::{
    AttemptRecord, EventRecord, Store, StoreError, collect, doing, rows::unreadable, traffic, write,
};
use crate::{
    fault,
    ledger::{self, Charged, Cost, CostKind, Interval},
    provider::{Charge, Instance, InstanceId},
    run::State,
};

/// How long the provider may go on adding to the bill of a box that is gone: charges are put together behind the scenes, an hour
/// or a day at a time.
const BILL_CLOSES: Duration = Duration::from_secs(6 * 3600);

/// What the provider charged for an attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct ChargeRecord {
    /// Attempt, from 1.
    pub attempt: u32,
    /// Its instance.
    pub instance: u64,
    /// The money.
    pub cost: Cost,
    /// When it was read, microseconds since the epoch.
    pub read_us: i64,
    /// It was read after the instance was gone, and stands in the place of our own figure.
    pub is_whole: bool,
    /// It was read so long after the end that nothing is added any more: it need not be read again.
    pub is_final: bool,
}

/// What of charges counts in sums, beside the intervals of their run: traffic is charged later than all else, and until a bill is closed
/// what the box's counters tell counts where that is more. A sum does not fall because a box is gone.
pub fn counting(charges: &[ChargeRecord], intervals: &[Interval]) -> Vec<Charged> {
    let counts = |record: &ChargeRecord| {
        let mut cost = record.cost;
        if !record.is_final {
            let ours = ledger::attempt_cost(intervals, record.attempt, record.read_us);
            cost.bandwidth_usd = cost.bandwidth_usd.max(ours.bandwidth_usd);
        }
        Charged {
            attempt: record.attempt,
            cost,
            is_final: record.is_whole,
        }
    };
    charges.iter().map(counts).collect()
}

impl Store {
    /// Records that from `from_us` on `kind` costs `usd_per_hour` for the attempt.
    ///
    /// Repeating it changes nothing: an interval that is open at the same price goes on, one at another price ends there.
    pub fn open_interval(
        &self,
        run: &str,
        attempt: u32,
        kind: CostKind,
        from_us: i64,
        usd_per_hour: f64,
    ) -> Result<(), StoreError> {
        let mut connection = self.lock();
        let transaction = write(&mut connection)?;
        open(&transaction, run, attempt, kind, from_us, usd_per_hour)?;
        transaction.commit().map_err(doing("write the ledger"))?;
        drop(connection);
        fault::point(&format!("store.interval.{}.after", kind.name()));
        Ok(())
    }

    /// Records that `kind` costs the attempt nothing from `to_us` on. Known to be so already is fine.
    pub fn close_interval(
        &self,
        run: &str,
        attempt: u32,
        kind: CostKind,
        to_us: i64,
    ) -> Result<(), StoreError> {
        close(&self.lock(), run, attempt, kind, to_us)
    }

    /// Brings the intervals of an attempt in line with what its box costs, as it is seen now. Of one whose end is on record nothing
    /// is changed: the look is older than the end.
    pub fn meter(
        &self,
        run: &str,
        attempt: u32,
        seen: &Instance,
        now_us: i64,
    ) -> Result<(), StoreError> {
        let mut connection = self.lock();
        let transaction = write(&mut connection)?;
        let state: Option<String> = transaction
            .query_row(
                "SELECT state FROM attempts WHERE run = ?1 AND number = ?2",
                params![run, attempt],
                |row| row.get(0),
            )
            .optional()
            .map_err(doing("read the attempt"))?;
        if state.as_deref() == Some(State::Gone.name()) {
            return Ok(());
        }
        let changes = ledger::changes(&intervals(&transaction, run)?, attempt, seen, now_us);
        for change in &changes {
            let (kind, from_us) = (change.kind, change.from_us);
            match change.usd_per_hour > 0.0 {
                true => open(
                    &transaction,
                    run,
                    attempt,
                    kind,
                    from_us,
                    change.usd_per_hour,
                )?,
                false => close(&transaction, run, attempt, kind, from_us)?,
            }
        }
        transaction.commit().map_err(doing("write the ledger"))?;
        drop(connection);
        for change in changes.iter().filter(|change| change.usd_per_hour > 0.0) {
            fault::point(&format!("store.interval.{}.after", change.kind.name()));
        }
        Ok(())
    }

    /// Everything the run paid for by the hour, in the order of its attempts, and then its traffic.
    pub fn intervals(&self, run: &str) -> Result<Vec<Interval>, StoreError> {
        let connection = self.lock();
        let mut all = intervals(&connection, run)?;
        all.extend(traffic::intervals(&connection, run)?);
        Ok(all)
    }

    /// Records what the provider charged for an attempt so far, or at last when `is_final`.
    pub fn record_charge(
        &self,
        run: &str,
        attempt: u32,
        charge: &Charge,
        read_us: i64,
        is_final: bool,
    ) -> Result<(), StoreError> {
        self.lock()
            .execute(
                "INSERT INTO charges (run, attempt, instance, gpu_usd, disk_usd, bandwidth_usd, read_us, final)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
                 ON CONFLICT (run, attempt) DO UPDATE SET instance = excluded.instance, gpu_usd = excluded.gpu_usd,
                     disk_usd = excluded.disk_usd, bandwidth_usd = excluded.bandwidth_usd,
                     read_us = excluded.read_us, final = excluded.final",
                params![
                    run,
                    attempt,
                    i64::try_from(charge.instance).unwrap_or(i64::MAX),
                    charge.gpu_usd,
                    charge.disk_usd,
                    charge.bandwidth_usd,
                    read_us,
                    is_final
                ],
            )
            .map_err(doing("record the charges"))?;
        fault::point("store.charge.after");
        Ok(())
    }

    /// What the provider charged for the run, by attempt.
    pub fn charges(&self, run: &str) -> Result<Vec<ChargeRecord>, StoreError> {
        collect(
            &self.lock(),
            "SELECT c.attempt, c.instance, c.gpu_usd, c.disk_usd, c.bandwidth_usd, c.read_us, c.final,
                    c.final OR coalesce(a.state = 'gone' AND c.read_us >= a.gone_us, 0)
             FROM charges c LEFT JOIN attempts a ON a.run = c.run AND a.number = c.attempt
             WHERE c.run = ?1 ORDER BY c.attempt",
            [run],
            |row| {
                let instance: i64 = row.get(1)?;
                Ok(Ok(ChargeRecord {
                    attempt: row.get(0)?,
                    instance: u64::try_from(instance).unwrap_or(0),
                    cost: Cost {
                        gpu_usd: row.get(2)?,
                        disk_usd: row.get(3)?,
                        bandwidth_usd: row.get(4)?,
                    },
                    read_us: row.get(5)?,
                    is_final: row.get(6)?,
                    is_whole: row.get(7)?,
                }))
            },
            "read the charges",
        )
    }

    /// Instances that an attempt is billed for: its own, and those beside it that were destroyed: twins, and what refused orders
    /// left behind.
    pub fn billed_instances(&self, attempt: &AttemptRecord) -> Result<Vec<InstanceId>, StoreError> {
        let mut ids: Vec<InstanceId> = attempt.instance.into_iter().collect();
        for kind in ["twin_destroyed", "leftover_destroyed"] {
            let destroyed = self.events_of(&attempt.run, attempt.number, kind)?;
            let of = |event: &EventRecord| event.detail["instance"].as_u64();
            ids.extend(destroyed.iter().filter_map(of));
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// Records what the provider charged for an attempt, of all that it answered. The newest answer counts.
    pub fn record_bill(
        &self,
        attempt: &AttemptRecord,
        answered: &[Charge],
        now_us: i64,
    ) -> Result<(), StoreError> {
        let ids = self.billed_instances(attempt)?;
        let gone_for_us = now_us.saturating_sub(attempt.gone_us);
        let is_final =
            attempt.state == State::Gone && gone_for_us >= BILL_CLOSES.as_micros() as i64;
        let mut ours = answered
            .iter()
            .filter(|charge| ids.contains(&charge.instance));
        // What a twin cost for a minute is not the bill of a box of which nothing is charged yet.
        let is_named = |id: InstanceId| answered.iter().any(|charge| charge.instance == id);
        if !is_final && attempt.instance.is_some_and(|own| !is_named(own)) {
            return Ok(());
        }
        let Some(first) = ours.next() else {
            return Ok(());
        };
        let mut all = first.clone();
        all.instance = attempt.instance.unwrap_or(first.instance);
        for twin in ours {
            all.gpu_usd += twin.gpu_usd;
            all.disk_usd += twin.disk_usd;
            all.bandwidth_usd += twin.bandwidth_usd;
        }
        self.record_charge(&attempt.run, attempt.number, &all, now_us, is_final)
    }

    /// What of the provider's charges for the run counts, by attempt, as [`crate::ledger::run_cost`] takes it.
    pub fn charged(&self, run: &str) -> Result<Vec<Charged>, StoreError> {
        Ok(counting(&self.charges(run)?, &self.intervals(run)?))
    }

    /// Whether the bill of an attempt is closed.
    pub fn is_billed(&self, run: &str, attempt: u32) -> Result<bool, StoreError> {
        let charges = self.charges(run)?;
        Ok(charges
            .iter()
            .any(|charge| charge.attempt == attempt && charge.is_final))
    }
}

fn intervals(connection: &Connection, run: &str) -> Result<Vec<Interval>, StoreError> {
    collect(
        connection,
        "SELECT attempt, kind, from_us, to_us, usd_per_hour FROM intervals
         WHERE run = ?1 ORDER BY attempt, from_us, id",
        [run],
        |row| {
            let kind: String = row.get(1)?;
            let interval = Interval {
                attempt: row.get(0)?,
                kind: CostKind::Gpu,
                from_us: row.get(2)?,
                to_us: row.get(3)?,
                usd_per_hour: row.get(4)?,
            };
            Ok(match CostKind::from_name(&kind) {
                Some(kind) => Ok(Interval { kind, ..interval }),
                None => Err(unreadable("kind of cost", &kind)),
            })
        },
        "read the ledger",
    )
}

fn open(
    connection: &Connection,
    run: &str,
    attempt: u32,
    kind: CostKind,
    from_us: i64,
    usd_per_hour: f64,
) -> Result<(), StoreError> {
    let open: Option<(i64, f64)> = connection
        .query_row(
            "SELECT id, usd_per_hour FROM intervals
             WHERE run = ?1 AND attempt = ?2 AND kind = ?3 AND to_us IS NULL",
            params![run, attempt, kind.name()],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()
        .map_err(doing("read the ledger"))?;
    match open {
        Some((_, price)) if price == usd_per_hour => return Ok(()),
        Some((id, _)) => {
            connection
                .execute(
                    "UPDATE intervals SET to_us = max(from_us, ?2) WHERE id = ?1",
                    params![id, from_us],
                )
                .map_err(doing("write the ledger"))?;
        }
        None => {}
    }
    connection
        .execute(
            "INSERT INTO intervals (run, attempt, kind, from_us, to_us, usd_per_hour)
             VALUES (?1, ?2, ?3, ?4, NULL, ?5)",
            params![run, attempt, kind.name(), from_us, usd_per_hour],
        )
        .map_err(doing("write the ledger"))?;
    Ok(())
}

fn close(
    connection: &Connection,
    run: &str,
    attempt: u32,
    kind: CostKind,
    to_us: i64,
) -> Result<(), StoreError> {
    connection
        .execute(
            "UPDATE intervals SET to_us = max(from_us, ?4)
             WHERE run = ?1 AND attempt = ?2 AND kind = ?3 AND to_us IS NULL",
            params![run, attempt, kind.name(), to_us],
        )
        .map_err(doing("write the ledger"))?;
    Ok(())
}
