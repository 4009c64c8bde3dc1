//! `EventSink`: where every part of the agent reports what happened. The journal is the real one.

use std::sync::Mutex;

use serde_json::Value;

/// Takes note of events. Kinds and their details are documented in the contract.
pub trait EventSink: Send + Sync {
    /// Records one event. State changes are on disk when this returns.
    fn event(&self, kind: &str, detail: Value);
}

/// Keeps events in memory, for tests.
#[derive(Debug, Default)]
pub struct RecordedEvents(pub Mutex<Vec<(String, Value)>>);

impl EventSink for RecordedEvents {
    fn event(&self, kind: &str, detail: Value) {
        self.0
            .lock()
            .expect("no test panics while it holds this lock")
            .push((kind.to_owned(), detail));
    }
}
