//! The bucket's clock as this box knows it: what is newer, and what is old, is told by the one clock that all boxes share.

use super::Backup;
use super::candidate::Candidate;
use crate::now_us;

/// What two readings of the bucket's clock may differ by: a second of its own, and slow answers.
const CLOCK_NOISE_MS: u64 = 5_000;

impl Backup {
    /// When a checkpoint was written, by the bucket's clock, so that boxes with different clocks agree about what is newer.
    pub(super) fn written_ms(&self, candidate: &Candidate) -> u64 {
        let written_us =
            (candidate.written_ns() / 1_000).clamp(0, i64::try_from(now_us()).unwrap_or(i64::MAX));
        let offset_us = self.clock_offset_ms().saturating_mul(1_000);
        u64::try_from(written_us.saturating_add(offset_us)).unwrap_or(0) / 1_000
    }

    /// Milliseconds that the bucket's clock is ahead. What was taken for it once is kept while it is about right: answers tell
    /// whole seconds and take their time, which must not put two checkpoints of one box into the wrong order.
    pub(super) fn clock_offset_ms(&self) -> i64 {
        let measured_ms = (self.bucket.clock_offset_s() * 1e3) as i64;
        let mut held_ms = self
            .clock_offset_ms
            .lock()
            .expect("nothing panics while it holds this number");
        // Exactly zero: nothing was heard of the bucket yet.
        if measured_ms != 0 && measured_ms.abs_diff(*held_ms) >= CLOCK_NOISE_MS {
            *held_ms = measured_ms;
        }
        *held_ms
    }

    /// Microseconds since the epoch, by the bucket's clock.
    pub(super) fn server_us(&self) -> u64 {
        now_us().saturating_add_signed((self.bucket.clock_offset_s() * 1e6) as i64)
    }
}
