//! The loop around the rounds of a backup: it only keeps time.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Backup;
use super::standing::chain;

/// Longest wait between two rounds while something settles: then a change is seen soon, whatever the period.
const SETTLING_PERIOD: Duration = Duration::from_secs(1);
/// Shortest wait between two rounds.
const SHORTEST_PERIOD: Duration = Duration::from_millis(20);
/// Longest wait between two rounds that failed.
const LONGEST_BACKOFF: Duration = Duration::from_secs(300);
/// Longest wait between two rounds while nothing is unfinished, unless the period is longer: every round lists all there is.
const QUIET_PERIOD: Duration = Duration::from_secs(5);
/// Rounds that find nothing unfinished before the wait for the next one is doubled.
const QUIET_ROUNDS: u32 = 20;

/// Backs up finished checkpoints every `period` until `stop` is cancelled.
///
/// Only the wait is cancelled, never a round: half an upload is paid for and worth nothing. A round that must end with the daemon is
/// ended by [`Backup::flush`], or by dropping this future.
pub async fn backup_loop(backup: Arc<Backup>, period: Duration, stop: CancellationToken) {
    let mut failures = 0;
    let mut quiet = 0;
    let mut seen = backup.touched();
    loop {
        let next_look = backup.until_next_look();
        quiet = if next_look.is_none() { quiet + 1 } else { 0 };
        let wait = match next_look {
            // The moment at which something may count as finished is not slept through.
            Some(due) if failures == 0 => due.min(period).clamp(SHORTEST_PERIOD, SETTLING_PERIOD),
            None if failures == 0 => quiet_wait(period, quiet),
            _ => backoff(period, failures),
        };
        let until = Instant::now() + wait;
        // What is new in the directory itself is not waited for; what changes deeper down is seen at the next round.
        loop {
            let left = until.saturating_duration_since(Instant::now());
            tokio::select! {
                () = stop.cancelled() => return,
                () = time::sleep(left.min(period.max(SHORTEST_PERIOD))) => {}
            }
            if Instant::now() >= until || (failures == 0 && backup.touched() != seen) {
                break;
            }
        }
        seen = backup.touched();
        match backup.round().await {
            Ok(committed) => {
                if !committed.is_empty() || failures > 0 {
                    info!(
                        committed = committed.len(),
                        after_failures = failures,
                        "backup round done"
                    );
                }
                failures = 0;
            }
            Err(err) => {
                failures += 1;
                warn!(failures, error = %chain(&err), "backup round failed, will retry");
            }
        }
    }
}

/// The period, a little longer with every round that found nothing unfinished.
fn quiet_wait(period: Duration, quiet: u32) -> Duration {
    let doubled = period.saturating_mul(1 << (quiet / QUIET_ROUNDS).min(16));
    doubled.min(QUIET_PERIOD).max(period)
}

/// The period, doubled with every failure up to five minutes.
pub(super) fn backoff(period: Duration, failures: u32) -> Duration {
    if failures == 0 {
        return period;
    }
    period
        .saturating_mul(1 << failures.min(16))
        .min(LONGEST_BACKOFF)
        .max(period)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_in_which_nothing_happens_is_listed_more_rarely_and_never_later_than_every_five_seconds()
     {
        let half = Duration::from_millis(500);
        for (quiet, expected_ms) in [(0, 500), (19, 500), (20, 1_000), (40, 2_000), (80, 5_000)] {
            let expected = Duration::from_millis(expected_ms);
            assert_eq!(quiet_wait(half, quiet), expected, "after {quiet}");
        }
        let minute = Duration::from_secs(60);
        assert_eq!(quiet_wait(minute, 1_000_000), minute);
    }
}
