//! What became of candidates, for whoever asks: refused or finished.

use std::time::Duration;

use super::super::candidate::Candidate;

/// A checkpoint that cannot be saved as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Key of the candidate.
    pub key: String,
    /// Its path, for people.
    pub path: String,
    /// Number in its name.
    pub step: Option<u64>,
    /// Bytes of all its files.
    pub size_bytes: u64,
    /// Why.
    pub reason: String,
    /// When it was first seen as it is.
    pub since: Duration,
    /// When it was last written, nanoseconds since the epoch.
    pub written_ns: i64,
    /// Waiting will change nothing.
    pub is_final: bool,
    /// Somebody may still be writing it.
    pub may_settle: bool,
    /// It cannot be read to its end: it may be whole, however old it is.
    pub is_unreadable: bool,
}

impl Refused {
    /// Of a candidate that has been as it is since then.
    pub fn new(candidate: &Candidate, reason: String, since: Duration) -> Refused {
        Refused {
            key: candidate.key.clone(),
            path: candidate.path_in_manifest(),
            step: candidate.step,
            size_bytes: candidate.size_bytes(),
            reason,
            since,
            written_ns: candidate.written_ns(),
            is_final: false,
            may_settle: false,
            is_unreadable: candidate.unreadable.is_some(),
        }
    }
}

/// A finished checkpoint that waits for its upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// The candidate as it was when it was found finished.
    pub candidate: Candidate,
    /// Rule that found it complete.
    pub rule: String,
    /// When it was found finished.
    pub ready_at: Duration,
}
