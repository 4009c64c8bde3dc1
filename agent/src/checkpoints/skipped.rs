//! Which checkpoints may leave the box though they never reached the bucket (pure): those that were skipped because newer ones went first.
//!
//! An outage leaves more on the disk than is kept. What is not worth its upload any more is worth no place either, and a full disk
//! ends a training. What is in a commit is [`super::delete`]'s by its commit, and stays as long as that.

use std::time::Duration;

/// What the judgement rests on. Such a checkpoint was found whole, and is in no commit as far as this agent knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// When it was last written, after the epoch by the box's clock.
    pub written: Duration,
    /// When the first session began that this agent saw; `None`: it saw none.
    pub began: Option<Duration>,
    /// Whole commits in the bucket that were written later.
    pub newer: usize,
    /// How many newest commits stay; `None`: all.
    pub kept: Option<usize>,
    /// It is called and measures as what a commit says: that one's retention decides, and it may be pinned.
    pub looks_committed: bool,
}

/// Whether it may be deleted: as many newer ones are in the bucket as ever stay, so that neither a restore nor its fallback wants it.
///
/// What was there before the training was put there by somebody, perhaps to begin from, and stays.
pub fn may_go(facts: &Facts) -> bool {
    let superseded = facts.kept.is_some_and(|kept| facts.newer >= kept);
    let ours = facts.began.is_some_and(|began| facts.written >= began);
    superseded && ours && !facts.looks_committed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_skipped_goes_when_nobody_can_want_it_any_more() {
        let check = |written, began: Option<u64>, newer, kept, looks_committed, expected| {
            let facts = Facts {
                written: Duration::from_secs(written),
                began: began.map(Duration::from_secs),
                newer,
                kept,
                looks_committed,
            };
            assert_eq!(may_go(&facts), expected, "{facts:?}");
        };
        check(200, Some(100), 2, Some(2), false, true);
        check(100, Some(100), 9, Some(3), false, true);
        // A restore of the newest, or its fallback, may want it.
        check(200, Some(100), 1, Some(2), false, false);
        check(200, Some(100), 0, Some(2), false, false);
        // All are kept.
        check(200, Some(100), 99, None, false, false);
        // Put there before the training, or nobody knows when that began.
        check(99, Some(100), 9, Some(2), false, false);
        check(200, None, 9, Some(2), false, false);
        // Its notes are lost, and its commit stays: pinned, or one of the best.
        check(200, Some(100), 9, Some(2), true, false);
    }
}
