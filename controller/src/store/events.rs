//! What happened, in the store: events of a box's agent, once each, and what spotter itself did.

use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};

use super::{Store, StoreError, collect, doing, rows::unreadable, write};
use crate::fault;

/// Who says that it happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The agent on the box.
    Agent,
    /// This program.
    Spotter,
}

impl Origin {
    fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Spotter => "spotter",
        }
    }
}

/// An event as the agent of one attempt tells it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredEvent {
    /// The agent's own sequence number, from 1.
    pub seq: u64,
    /// When, by the box's clock, microseconds since the epoch.
    pub time_us: i64,
    /// Kind in dotted lower case, such as `checkpoint.committed`.
    pub kind: String,
    /// Details, a JSON object.
    pub detail: serde_json::Value,
}

/// An event as the store has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Position in the store, rising: readers go on after it.
    pub id: i64,
    /// Attempt, from 1; 0 when it belongs to the run as a whole.
    pub attempt: u32,
    /// Who says so.
    pub origin: Origin,
    /// Number among the events of that attempt and origin, from 1.
    pub seq: u64,
    /// When, microseconds since the epoch.
    pub time_us: i64,
    /// Kind in dotted lower case.
    pub kind: String,
    /// Details, a JSON object.
    pub detail: serde_json::Value,
}

impl Store {
    /// Stores events of an attempt's agent, each once however often it arrives, and moves the attempt's `last_event`.
    ///
    /// Answers the newest sequence number stored for the attempt, up to which the agent may forget.
    pub fn append_events(
        &self,
        run: &str,
        attempt: u32,
        events: &[StoredEvent],
    ) -> Result<u64, StoreError> {
        fault::point("store.events.before");
        let mut connection = self.lock();
        let transaction = write(&mut connection)?;
        for event in events {
            insert(
                &transaction,
                run,
                attempt,
                Origin::Agent,
                event.seq,
                event.time_us,
                &event.kind,
                &event.detail,
            )?;
        }
        let last = last_seq(&transaction, run, attempt, Origin::Agent)?;
        transaction
            .execute(
                "UPDATE attempts SET last_event = max(last_event, ?3) WHERE run = ?1 AND number = ?2",
                params![run, attempt, last],
            )
            .map_err(doing("store events"))?;
        transaction.commit().map_err(doing("store events"))?;
        drop(connection);
        fault::point("store.events.after");
        Ok(u64::try_from(last).unwrap_or(0))
    }

    /// Stores something that spotter did or saw, such as `rented` or `interrupted`. Answers its number.
    ///
    /// `attempt` is 0 for what concerns the run as a whole.
    pub fn note(
        &self,
        run: &str,
        attempt: u32,
        time_us: i64,
        kind: &str,
        detail: &serde_json::Value,
    ) -> Result<u64, StoreError> {
        let mut connection = self.lock();
        let transaction = write(&mut connection)?;
        let seq = tell(&transaction, run, attempt, time_us, kind, detail)?;
        transaction.commit().map_err(doing("store an event"))?;
        drop(connection);
        fault::point(&format!("store.note.{kind}.after"));
        Ok(seq)
    }

    /// The same, unless an event of the kind is there already, whoever told it, of which `is_told` says that it tells of this. Whether it was
    /// stored.
    pub fn note_once(
        &self,
        run: &str,
        attempt: u32,
        time_us: i64,
        kind: &str,
        detail: &serde_json::Value,
        is_told: impl Fn(&EventRecord) -> bool,
    ) -> Result<bool, StoreError> {
        let mut connection = self.lock();
        let transaction = write(&mut connection)?;
        if of_kind(&transaction, run, attempt, kind)?
            .iter()
            .any(is_told)
        {
            return Ok(false);
        }
        tell(&transaction, run, attempt, time_us, kind, detail)?;
        transaction.commit().map_err(doing("store an event"))?;
        Ok(true)
    }

    /// The newest event of a kind that an attempt has, whoever says so.
    pub fn newest_event(
        &self,
        run: &str,
        attempt: u32,
        kind: &str,
    ) -> Result<Option<EventRecord>, StoreError> {
        self.lock()
            .query_row(
                "SELECT id, attempt, origin, seq, time_us, kind, detail_json FROM events
                 WHERE run = ?1 AND attempt = ?2 AND kind = ?3 ORDER BY id DESC LIMIT 1",
                params![run, attempt, kind],
                read,
            )
            .optional()
            .map_err(doing("find an event"))?
            .transpose()
    }

    /// Events of an attempt of one kind, in the order in which they were stored.
    pub fn events_of(
        &self,
        run: &str,
        attempt: u32,
        kind: &str,
    ) -> Result<Vec<EventRecord>, StoreError> {
        of_kind(&self.lock(), run, attempt, kind)
    }

    /// Events of a run whose position is after `after_id` (0: all), in the order in which they were stored.
    pub fn events(&self, run: &str, after_id: i64) -> Result<Vec<EventRecord>, StoreError> {
        collect(
            &self.lock(),
            "SELECT id, attempt, origin, seq, time_us, kind, detail_json FROM events
             WHERE run = ?1 AND id > ?2 ORDER BY id",
            params![run, after_id],
            read,
            "list the events",
        )
    }
}

fn of_kind(
    connection: &Connection,
    run: &str,
    attempt: u32,
    kind: &str,
) -> Result<Vec<EventRecord>, StoreError> {
    collect(
        connection,
        "SELECT id, attempt, origin, seq, time_us, kind, detail_json FROM events
         WHERE run = ?1 AND attempt = ?2 AND kind = ?3 ORDER BY id",
        params![run, attempt, kind],
        read,
        "list the events",
    )
}

/// Event with which a run ends; of the run as a whole.
pub const ENDED: &str = "ended";

/// Most of a JSON object that an event may carry; the agent's own bound is the same.
const MAX_DETAIL_BYTES: usize = 64 * 1024;

/// Stores something that spotter did or saw, within a transaction. Answers its number.
pub(super) fn tell(
    connection: &Connection,
    run: &str,
    attempt: u32,
    time_us: i64,
    kind: &str,
    detail: &serde_json::Value,
) -> Result<u64, StoreError> {
    let seq = u64::try_from(last_seq(connection, run, attempt, Origin::Spotter)? + 1)
        .expect("counted from 0");
    insert(
        connection,
        run,
        attempt,
        Origin::Spotter,
        seq,
        time_us,
        kind,
        detail,
    )?;
    Ok(seq)
}

#[expect(clippy::too_many_arguments, reason = "one column each")]
fn insert(
    connection: &Connection,
    run: &str,
    attempt: u32,
    origin: Origin,
    seq: u64,
    time_us: i64,
    kind: &str,
    detail: &serde_json::Value,
) -> Result<(), StoreError> {
    let mut detail = detail.to_string();
    if detail.len() > MAX_DETAIL_BYTES {
        detail = serde_json::json!({ "dropped_bytes": detail.len() }).to_string();
    }
    connection
        .execute(
            "INSERT INTO events (run, attempt, origin, seq, time_us, kind, detail_json)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING",
            params![
                run,
                attempt,
                origin.name(),
                i64::try_from(seq).unwrap_or(i64::MAX),
                time_us,
                kind,
                detail
            ],
        )
        .map_err(doing("store an event"))?;
    Ok(())
}

fn last_seq(
    connection: &Connection,
    run: &str,
    attempt: u32,
    origin: Origin,
) -> Result<i64, StoreError> {
    connection
        .query_row(
            "SELECT coalesce(max(seq), 0) FROM events WHERE run = ?1 AND attempt = ?2 AND origin = ?3",
            params![run, attempt, origin.name()],
            |row| row.get(0),
        )
        .map_err(doing("find the last event"))
}

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Result<EventRecord, StoreError>> {
    let origin: String = row.get(2)?;
    let detail: String = row.get(6)?;
    let seq: i64 = row.get(3)?;
    let record = EventRecord {
        id: row.get(0)?,
        attempt: row.get(1)?,
        origin: Origin::Agent,
        seq: u64::try_from(seq).unwrap_or(0),
        time_us: row.get(4)?,
        kind: row.get(5)?,
        detail: serde_json::Value::Null,
    };
    Ok((|| {
        let origin = [Origin::Agent, Origin::Spotter]
            .into_iter()
            .find(|known| known.name() == origin)
            .ok_or_else(|| unreadable("origin of an event", &origin))?;
        let detail =
            serde_json::from_str(&detail).map_err(|_| unreadable("detail of an event", &detail))?;
        Ok(EventRecord {
            origin,
            detail,
            ..record
        })
    })())
}
