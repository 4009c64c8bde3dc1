//! The switches of the bucket: failures by operation and count, clocks that are off, keys that change, and what was counted.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    keys::AccessKey,
    likeness::Like,
    store::{Store, StoreError},
};

/// What goes wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// 503 SlowDown.
    SlowDown,
    /// 500 InternalError.
    InternalError,
    /// Any other status, with a code.
    Status {
        /// HTTP status.
        status: u16,
        /// Error code.
        code: String,
    },
    /// 403 AccessDenied.
    Denied,
    /// 400 ExpiredToken.
    ExpiredToken,
    /// Nothing happens for so long, then all is well. Milliseconds.
    StallMs(u64),
    /// The connection is reset when the head of the request is there.
    ResetBeforeBody,
    /// The connection is reset when the whole request is there; nothing was done.
    ResetAfterBody,
    /// It is done, and the connection is reset instead of an answer.
    LoseAnswer,
    /// Half of the answer's body comes, then the connection ends.
    CutAnswer,
    /// Both bodies flow at this rate, bytes per second.
    BytesPerS(u64),
    /// Half of the body is stored, and the answer says that all is well.
    Torn,
    /// The server's disk is full.
    NoSpace,
}

impl Fault {
    /// One of each kind. Delays are a little over a second, for clients that wait for one.
    pub fn each() -> Vec<Self> {
        // A match without a wildcard: a new kind does not compile until it has its place here.
        let next = |fault: &Self| {
            Some(match fault {
                Self::SlowDown => Self::InternalError,
                Self::InternalError => Self::Status {
                    status: 400,
                    code: "InvalidRequest".to_owned(),
                },
                Self::Status { .. } => Self::Denied,
                Self::Denied => Self::ExpiredToken,
                Self::ExpiredToken => Self::StallMs(1_300),
                Self::StallMs(_) => Self::ResetBeforeBody,
                Self::ResetBeforeBody => Self::ResetAfterBody,
                Self::ResetAfterBody => Self::LoseAnswer,
                Self::LoseAnswer => Self::CutAnswer,
                Self::CutAnswer => Self::BytesPerS(16 << 20),
                Self::BytesPerS(_) => Self::Torn,
                Self::Torn => Self::NoSpace,
                Self::NoSpace => return None,
            })
        };
        std::iter::successors(Some(Self::SlowDown), next).collect()
    }
}

/// What a fault makes the store do; travels with the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Injected {
    /// Store half of it.
    Torn,
    /// Say that the disk is full.
    NoSpace,
}

/// A fault and when it comes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Operation such as `UploadPart`; `*`: any.
    pub operation: String,
    /// What the path of the request has to contain.
    #[serde(default)]
    pub path: Option<String>,
    /// Requests that go well before it comes.
    #[serde(default)]
    pub after: u32,
    /// How often it comes; without: until healed.
    #[serde(default)]
    pub count: Option<u32>,
    /// What goes wrong.
    pub fault: Fault,
}

impl Order {
    /// A fault that comes the next `count` times.
    pub fn next(operation: &str, count: u32, fault: Fault) -> Self {
        Self {
            operation: operation.to_owned(),
            path: None,
            after: 0,
            count: Some(count),
            fault,
        }
    }
}

/// Switches to change, as JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct Changes {
    /// Takes all orders back and sets both clocks right; before anything else of the same change.
    heal: bool,
    /// Forgets what was counted.
    reset_counts: bool,
    /// Adds an order.
    inject: Option<Order>,
    /// `Date` headers lie by so many seconds.
    date_offset_s: Option<i64>,
    /// The server's clock is off by so many seconds, in its headers and in what it accepts.
    clock_offset_s: Option<i64>,
    /// Adds an access key, or replaces the one of the same id.
    key: Option<AccessKey>,
    /// Keys that the token service gives last at most so many seconds; 0: as long as they are asked for.
    session_s: Option<u64>,
    /// Removes an access key.
    drop_key: Option<String>,
    /// Flips a bit of an object.
    corrupt: Option<Place>,
    /// Whose server it is like from now on.
    like: Option<Like>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    bucket: String,
    key: String,
}

/// All switches and counters of one server.
pub struct Switchboard {
    store: Arc<Store>,
    state: Mutex<State>,
    parts: Arc<AtomicUsize>,
}

/// A part of an upload that is on its way.
pub(super) struct Part {
    parts: Arc<AtomicUsize>,
    /// How many were on their way as it came, itself included.
    pub number: usize,
}

impl Drop for Part {
    fn drop(&mut self) {
        self.parts.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Default)]
struct State {
    orders: Vec<Order>,
    keys: BTreeMap<String, AccessKey>,
    date_offset_s: i64,
    clock_offset_s: i64,
    session_s: u64,
    like: Like,
    counts: BTreeMap<String, u64>,
    bytes_in: u64,
    bytes_out: u64,
}

impl Switchboard {
    pub(super) fn new(store: Arc<Store>, keys: Vec<AccessKey>) -> Self {
        let keys = keys
            .into_iter()
            .map(|key| (key.access_key.clone(), key))
            .collect();
        Self {
            store,
            state: Mutex::new(State {
                keys,
                ..State::default()
            }),
            parts: Arc::default(),
        }
    }

    /// Changes switches and answers all of them. An object with any of: `inject` (an order), `heal`, `date_offset_s`,
    /// `clock_offset_s`, `key`, `drop_key`, `session_s`, `corrupt` (`{bucket, key}`), `like` (`aws`, `r2`, `b2` or `gcs`), `reset_counts`.
    ///
    /// # Errors
    /// When the JSON is not of that shape, or names what is not there; then nothing was changed.
    pub fn apply(&self, changes: Value) -> anyhow::Result<Value> {
        let changes: Changes = serde_json::from_value(changes)
            .context("switches of the bucket are not as expected")?;
        if let Some(id) = &changes.drop_key
            && self.state().keys.remove(id).is_none()
        {
            bail!("there is no access key {id:?}");
        }
        if let Some(Place { bucket, key }) = &changes.corrupt {
            match self.store.corrupt(bucket, key) {
                Ok(true) => {}
                Ok(false) | Err(StoreError::NoSuchKey) => {
                    bail!("there is nothing to corrupt at {key:?}")
                }
                Err(err) => return Err(err).with_context(|| format!("{key:?} was not corrupted")),
            }
        }
        let mut state = self.state();
        if changes.heal {
            state.orders.clear();
            (state.date_offset_s, state.clock_offset_s) = (0, 0);
        }
        if changes.reset_counts {
            state.counts.clear();
            (state.bytes_in, state.bytes_out) = (0, 0);
        }
        state.orders.extend(changes.inject);
        state.date_offset_s = changes.date_offset_s.unwrap_or(state.date_offset_s);
        state.clock_offset_s = changes.clock_offset_s.unwrap_or(state.clock_offset_s);
        state.session_s = changes.session_s.unwrap_or(state.session_s);
        state.like = changes.like.unwrap_or(state.like);
        if let Some(key) = changes.key {
            state.keys.insert(key.access_key.clone(), key);
        }
        Ok(json!({
            "orders": state.orders,
            "date_offset_s": state.date_offset_s,
            "clock_offset_s": state.clock_offset_s,
            "session_s": state.session_s,
            "like": state.like,
            "keys": state.keys.keys().collect::<Vec<_>>(),
            "counts": state.counts,
            "bytes_in": state.bytes_in,
            "bytes_out": state.bytes_out,
        }))
    }

    /// Adds an order.
    pub fn inject(&self, order: Order) {
        self.state().orders.push(order);
    }

    /// Takes all orders back.
    pub fn heal(&self) {
        self.state().orders.clear();
    }

    /// Adds an access key, or replaces the one of the same id.
    pub fn set_key(&self, key: AccessKey) {
        self.state().keys.insert(key.access_key.clone(), key);
    }

    /// How often an operation was asked since the counters were reset, whatever came of it.
    pub fn count(&self, operation: &str) -> u64 {
        self.state().counts.get(operation).copied().unwrap_or(0)
    }

    /// Takes from now on what that server takes.
    pub fn set_like(&self, like: Like) {
        self.state().like = like;
    }

    /// Whose server it is like.
    pub(super) fn like(&self) -> Like {
        self.state().like
    }

    /// The key of an id.
    pub(super) fn key(&self, access_key: &str) -> Option<AccessKey> {
        self.state().keys.get(access_key).cloned()
    }

    /// Longest life of keys that the token service gives, where it is bounded.
    pub(super) fn longest_session(&self) -> Option<Duration> {
        let seconds = self.state().session_s;
        (seconds > 0).then(|| Duration::from_secs(seconds))
    }

    /// Counts a request and says what is to go wrong with it.
    pub(super) fn arrived(&self, operation: &str, path: &str) -> Option<Fault> {
        let mut state = self.state();
        *state.counts.entry(operation.to_owned()).or_default() += 1;
        let mut due = None;
        for order in &mut state.orders {
            let meant = order.operation == "*" || order.operation == operation;
            if !meant || !order.path.as_deref().is_none_or(|part| path.contains(part)) {
                continue;
            }
            if order.after > 0 {
                order.after -= 1;
            } else if due.is_none() {
                order.count = order.count.map(|count| count.saturating_sub(1));
                due = Some(order.fault.clone());
            }
        }
        state.orders.retain(|order| order.count != Some(0));
        due
    }

    /// A part comes; it is gone when the answer is dropped.
    pub(super) fn part(&self) -> Part {
        Part {
            parts: self.parts.clone(),
            number: self.parts.fetch_add(1, Ordering::SeqCst) + 1,
        }
    }

    pub(super) fn carried(&self, bytes_in: u64, bytes_out: u64) {
        let mut state = self.state();
        state.bytes_in += bytes_in;
        state.bytes_out += bytes_out;
    }

    /// What the `Date` header says.
    pub(super) fn date(&self) -> SystemTime {
        let offset_s = self.state().date_offset_s;
        moved(self.clock(), offset_s)
    }

    /// The server's clock.
    pub(super) fn clock(&self) -> SystemTime {
        moved(SystemTime::now(), self.state().clock_offset_s)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn moved(time: SystemTime, offset_s: i64) -> SystemTime {
    let by = Duration::from_secs(offset_s.unsigned_abs());
    let moved = if offset_s < 0 {
        time.checked_sub(by)
    } else {
        time.checked_add(by)
    };
    moved.unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board() -> (tempfile::TempDir, Switchboard) {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path(), &["runs".to_owned()]).unwrap());
        (dir, Switchboard::new(store, Vec::new()))
    }

    #[test]
    fn an_order_comes_in_its_place_and_as_often_as_ordered() {
        let (_dir, board) = board();
        board.apply(json!({"inject": {"operation": "UploadPart", "after": 1, "count": 2, "path": "/k", "fault": "slow_down"}})).unwrap();
        let came: Vec<bool> = (0..5)
            .map(|_| board.arrived("UploadPart", "/runs/k").is_some())
            .collect();
        assert_eq!(came, [false, true, true, false, false]);
        board
            .apply(json!({"inject": {"operation": "*", "fault": {"stall_ms": 5}}}))
            .unwrap();
        for _ in 0..3 {
            assert_eq!(
                board.arrived("GetObject", "/"),
                Some(Fault::StallMs(5)),
                "until healed"
            );
        }
        board.apply(json!({"heal": true})).unwrap();
        assert_eq!(board.arrived("GetObject", "/"), None);
        assert_eq!(
            (board.count("UploadPart"), board.count("GetObject")),
            (5, 4)
        );
    }

    #[test]
    fn the_answer_shows_all_switches_and_no_secret() {
        let (_dir, board) = board();
        let key = json!({"access_key": "AK", "secret_key": "hush", "session_token": "whisper", "expires_in_s": 60});
        let answer = board
            .apply(json!({"key": key, "date_offset_s": 3600}))
            .unwrap();
        assert_eq!(
            (&answer["keys"], &answer["date_offset_s"]),
            (&json!(["AK"]), &json!(3600))
        );
        let text = answer.to_string();
        assert!(
            !text.contains("hush") && !text.contains("whisper"),
            "{text}"
        );
        assert_eq!(
            board.apply(json!({"drop_key": "AK"})).unwrap()["keys"],
            json!([])
        );
    }

    #[test]
    fn what_is_not_a_switch_is_refused() {
        let (_dir, board) = board();
        for wrong in [
            json!({"inject": {"operation": "UploadPart", "fault": "explode"}}),
            json!({"injekt": 1}),
            json!({"drop_key": "nobody"}),
            json!({"corrupt": {"bucket": "runs", "key": "nothing"}}),
            json!([1]),
        ] {
            assert!(board.apply(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
