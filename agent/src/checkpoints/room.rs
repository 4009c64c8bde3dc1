//! Whether the disk will take the checkpoints to come (pure). A disk that is full ends a training, and often spoils its last checkpoint.

use std::time::Duration;

/// Checkpoints that must still fit where none is ever deleted.
const AHEAD: u64 = 3;

/// What the judgement rests on, when a checkpoint has just been found finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Free where checkpoints are written, bytes.
    pub free_bytes: u64,
    /// The largest checkpoint there, bytes.
    pub largest_bytes: u64,
    /// Checkpoints there.
    pub there: u64,
    /// How many stay; `None`: all, or the bucket takes none at the moment.
    pub kept: Option<u64>,
    /// Between the last two checkpoints.
    pub interval: Option<Duration>,
}

/// What is to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    /// Checkpoints that still fit.
    pub fit: u64,
    /// Until the first one that does not, if checkpoints come as they did.
    pub full_in: Option<Duration>,
}

/// Says when the disk will be too small; `None`: it is large enough.
pub fn shortage(facts: &Facts) -> Option<Shortage> {
    if facts.largest_bytes == 0 {
        return None;
    }
    let fit = facts.free_bytes / facts.largest_bytes;
    let needed = match facts.kept {
        // One more than stay, since the oldest goes when the newest is in the bucket.
        Some(kept) => (kept + 1).saturating_sub(facts.there),
        None => AHEAD,
    };
    (fit < needed).then(|| Shortage {
        fit,
        full_in: facts
            .interval
            .map(|interval| interval.saturating_mul(u32::try_from(fit + 1).unwrap_or(u32::MAX))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_disk_is_too_small_when_what_stays_and_one_more_do_not_fit() {
        let check = |free: u64, there, kept, expected: Option<u64>| {
            let facts = Facts {
                free_bytes: free * GIB,
                largest_bytes: 10 * GIB,
                there,
                kept,
                interval: None,
            };
            assert_eq!(
                shortage(&facts).map(|short| short.fit),
                expected,
                "{facts:?}"
            );
        };
        // Three stay, so there are four for a moment.
        check(30, 1, Some(3), None);
        check(29, 1, Some(3), Some(2));
        check(10, 3, Some(3), None);
        check(9, 3, Some(3), Some(0));
        check(0, 4, Some(3), None);
        check(0, 9, Some(3), None);
        // Nothing is deleted: the next three.
        check(30, 9, None, None);
        check(29, 9, None, Some(2));
        check(0, 0, None, Some(0));
    }

    #[test]
    fn it_is_full_when_the_first_one_comes_that_does_not_fit() {
        let minutes = |minutes: u64| Some(Duration::from_secs(minutes * 60));
        let facts = |interval, largest_bytes| Facts {
            free_bytes: 25 * GIB,
            largest_bytes,
            there: 1,
            kept: Some(5),
            interval,
        };
        let full_in = |facts| shortage(&facts).unwrap().full_in;
        assert_eq!(full_in(facts(minutes(10), 10 * GIB)), minutes(30));
        assert_eq!(full_in(facts(None, 10 * GIB)), None);
        assert_eq!(shortage(&facts(minutes(10), 0)), None);
    }
}
