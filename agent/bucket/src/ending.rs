//! How a training ended, left in the bucket by a box that stops or destroys itself afterwards.
//!
//! A stopped box cannot be asked, and from outside it looks like one that the market took back: without this record a training
//! that had ended would be carried on elsewhere.

use serde::{Deserialize, Serialize};

/// Format version.
const VERSION: u32 = 1;
/// Larger objects are not ours, bytes.
pub const MAX_ENDING_BYTES: u64 = 64 << 10;

/// Why a training ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndedBy {
    /// By itself, with an exit code.
    Exit,
    /// By a signal that nobody of ours sent.
    Signal,
    /// By the kernel's out-of-memory killer.
    Oom,
    /// On request, or because its time was over.
    Request,
}

/// The record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    v: u32,
    /// When the training started, microseconds since the epoch by the box's clock: tells it from an earlier one on the same box.
    pub started_us: u64,
    /// When it ended, by the same clock.
    pub ended_us: u64,
    /// Why.
    pub by: EndedBy,
    /// Exit code; absent when a signal ended it.
    pub exit_code: Option<i32>,
    /// Signal that ended it.
    pub signal: Option<i32>,
    /// Bytes of checkpoints that are on the box's disk and in no commit.
    pub unsaved_bytes: u64,
    /// Why the box ended it itself; absent when it did not.
    #[serde(default)]
    pub cause: Option<Cause>,
    /// Key of the manifest of its results, which the box put into the bucket because nobody was there; absent when it did not.
    #[serde(default)]
    pub results: Option<String>,
    /// When the box left this word, by its clock, microseconds since the epoch: it stops or destroys itself then; 0: it did not say.
    #[serde(default)]
    pub left_us: u64,
    /// The box destroys itself after this word, because everything that it had is in the bucket.
    #[serde(default)]
    pub destroys: bool,
    /// Why it only stops, though it was to be destroyed once everything is saved.
    #[serde(default)]
    pub kept_because: Option<String>,
}

/// Why a box ended a training before its own end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// `max_runtime`, `no_progress`, `contradiction`, `backup` or `budget`.
    pub by: String,
    /// For people.
    pub reason: String,
}

/// A record that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EndingError {
    /// Not of this shape.
    #[error("the record of the training's end cannot be read")]
    Shape(#[from] serde_json::Error),
    /// Written by a newer spotter.
    #[error("the record of the training's end has format {0}, and this spotter reads {VERSION}")]
    Version(u32),
}

impl Ending {
    /// A record of the present format.
    pub fn new(started_us: u64, ended_us: u64, by: EndedBy) -> Self {
        Self {
            v: VERSION,
            started_us,
            ended_us,
            by,
            exit_code: None,
            signal: None,
            unsaved_bytes: 0,
            cause: None,
            results: None,
            left_us: 0,
            destroys: false,
            kept_because: None,
        }
    }

    /// Its bytes in the bucket.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("numbers and names are always JSON")
    }

    /// Reads one.
    pub fn parse(bytes: &[u8]) -> Result<Self, EndingError> {
        let ending: Self = serde_json::from_slice(bytes)?;
        match ending.v {
            VERSION => Ok(ending),
            other => Err(EndingError::Version(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ending_is_read_as_it_was_written_and_a_newer_format_is_refused() {
        let mut ending = Ending::new(5, 9, EndedBy::Exit);
        ending.exit_code = Some(3);
        ending.unsaved_bytes = 77;
        ending.cause = Some(Cause {
            by: "no_progress".to_owned(),
            reason: "no step in 600 s".to_owned(),
        });
        ending.results = Some("p/run/results/id.json".to_owned());
        ending.left_us = 12;
        ending.kept_because = Some("its log is not in the bucket".to_owned());
        assert_eq!(Ending::parse(&ending.to_bytes()).unwrap(), ending);
        let newer = String::from_utf8(ending.to_bytes())
            .unwrap()
            .replace("\"v\": 1", "\"v\": 2");
        assert!(matches!(
            Ending::parse(newer.as_bytes()),
            Err(EndingError::Version(2))
        ));
        assert!(Ending::parse(b"{}").is_err());
    }
}
