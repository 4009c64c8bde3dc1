//! A piece of a log and where it stands (pure).

use serde::{Deserialize, Serialize};

/// A place in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct LogPosition {
    /// Rises when the file was truncated or replaced.
    pub generation: u64,
    /// Bytes from the start of that generation.
    pub offset: u64,
}

/// Where to begin reading a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStart {
    /// At a place.
    At(LogPosition),
    /// This many bytes before the end, at a line's start.
    Tail(u64),
}

/// Bytes of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPiece {
    /// Where `data` begins.
    pub position: LogPosition,
    /// The bytes as they were written.
    pub data: Vec<u8>,
    /// Bytes lost before this piece.
    pub gap_bytes: u64,
    /// The session has ended and this is the last piece.
    pub end: bool,
}

impl LogPiece {
    /// Where the next piece begins.
    pub fn next(&self) -> LogPosition {
        LogPosition {
            offset: self.position.offset + self.data.len() as u64,
            ..self.position
        }
    }
}
