//! Calls that all processes of one home make together: searches are counted by key and address, and a `run` that waits, an `offers` and
//! a `top` ask with the same ones. When each went out stands in a small file, which is locked for as long as it takes to read and write it.
//!
//! Nobody is kept from the market by it: where the file cannot be had, and after as long as a period of the limit, the call goes out.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read as _, Seek as _, Write as _},
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

/// File in the home: milliseconds since the epoch, one call a line.
const FILE: &str = "searches";
/// A call takes so long to the server at most, or its answer is not waited for anyway: two may arrive closer than they went out.
const ON_ITS_WAY: Duration = Duration::from_secs(1);
/// The lock is held for microseconds; who does not get it this often goes without.
const TRIES: u32 = 20;
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(5);

/// A limit that processes share.
#[derive(Debug)]
pub(super) struct Shared {
    path: PathBuf,
    calls: usize,
    period: Duration,
}

impl Shared {
    /// So many calls in a period, by all that share `home`. A home that does not exist is not made for this.
    pub(super) fn new(home: &std::path::Path, calls: usize, period: Duration) -> Self {
        Self {
            path: home.join(FILE),
            calls,
            period: period + ON_ITS_WAY,
        }
    }

    /// Waits until a call may go out, and counts it; no longer than a period.
    pub(super) async fn wait(&self) {
        let until = Instant::now() + self.period;
        while let Some(wait) = self.take().await {
            let now = Instant::now();
            if now >= until {
                return;
            }
            tokio::time::sleep(wait.min(until - now)).await;
        }
    }

    /// Takes a place; else how long until there may be one.
    async fn take(&self) -> Option<Duration> {
        let mut file = self.locked().await?;
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        let now_ms = u64::try_from(now_ms.as_millis()).ok()?;
        let mut text = String::new();
        // What cannot be read limits nobody, and is written anew.
        let _ = file.read_to_string(&mut text);
        let mut sent_ms: Vec<u64> = text.lines().filter_map(|line| line.parse().ok()).collect();
        let period_ms = self.period.as_millis() as u64;
        let wait_ms = admit(&mut sent_ms, now_ms, self.calls, period_ms);
        if wait_ms.is_none() {
            let text: String = sent_ms.iter().map(|at_ms| format!("{at_ms}\n")).collect();
            let written = file
                .set_len(0)
                .and_then(|()| file.rewind())
                .and_then(|()| file.write_all(text.as_bytes()));
            if let Err(err) = written {
                tracing::debug!(%err, path = %self.path.display(), "searches are not counted");
            }
        }
        wait_ms.map(Duration::from_millis)
    }

    /// The file, locked until it is dropped; `None`: it cannot be had.
    async fn locked(&self) -> Option<File> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&self.path)
            .ok()?;
        for _ in 0..TRIES {
            match file.try_lock() {
                Ok(()) => return Some(file),
                Err(TryLockError::WouldBlock) => tokio::time::sleep(PAUSE).await,
                Err(TryLockError::Error(_)) => return None,
            }
        }
        None
    }
}

/// Adds a call now to those that went out, oldest first, where fewer than `calls` did so within the last period; else for how long there
/// is no place (pure). What is older, or lies in the future because a clock was set back, does not count.
fn admit(sent_ms: &mut Vec<u64>, now_ms: u64, calls: usize, period_ms: u64) -> Option<u64> {
    sent_ms.retain(|at_ms| *at_ms <= now_ms && at_ms + period_ms > now_ms);
    sent_ms.sort_unstable();
    match sent_ms.len().checked_sub(calls) {
        Some(over) => Some(sent_ms[over] + period_ms - now_ms),
        None => {
            sent_ms.push(now_ms);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_calls_go_out_in_a_period_whoever_makes_them() {
        let mut sent = Vec::new();
        let mut went = Vec::new();
        for now_ms in (0..100_000).step_by(500) {
            if admit(&mut sent, now_ms, 5, 30_000).is_none() {
                went.push(now_ms);
            }
            assert!(sent.len() <= 5);
        }
        let most = |from: u64| {
            went.iter()
                .filter(|at| (from..from + 30_000).contains(*at))
                .count()
        };
        assert_eq!((0..70_000).step_by(500).map(most).max(), Some(5));
        assert_eq!(went.len(), 20);
        for (sent, now, expected) in [
            (vec![1_000], 2_000, None),
            (vec![1_000, 2_000], 4_000, Some(7_000)),
            (vec![1_000, 2_000], 11_000, None),
            // A clock that was set back, and more than there may be.
            (vec![90_000, 2_000], 4_000, None),
            (vec![1_000, 3_000, 2_000], 4_000, Some(8_000)),
        ] {
            assert_eq!(
                admit(&mut sent.clone(), now, 2, 10_000),
                expected,
                "{sent:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn two_processes_with_one_home_wait_for_each_other_and_never_longer_than_the_limit() {
        let home = tempfile::tempdir().unwrap();
        let period = Duration::from_secs(30);
        let of = |home: &std::path::Path| Shared::new(home, 2, period);
        let (one, other) = (of(home.path()), of(home.path()));
        let waited = async |shared: &Shared| {
            let began = Instant::now();
            shared.wait().await;
            began.elapsed()
        };
        assert_eq!(waited(&one).await, Duration::ZERO);
        assert_eq!(waited(&other).await, Duration::ZERO);
        // The clock of the file stands still here: only the bound ends the wait.
        let bounded = waited(&one).await;
        let most = period + ON_ITS_WAY + Duration::from_millis(10);
        assert!(bounded >= period && bounded <= most, "{bounded:?}");
        // Somebody who holds the lock, and a home that is none, keep nobody.
        let held = one.locked().await.unwrap();
        assert!(waited(&other).await < period);
        drop(held);
        let nowhere = of(&home.path().join("none"));
        assert_eq!(waited(&nowhere).await, Duration::ZERO);
        assert!(!home.path().join("none").exists());
        std::fs::write(home.path().join(FILE), b"\xff\xfe no number").unwrap();
        assert_eq!(waited(&one).await, Duration::ZERO);
        let text = std::fs::read_to_string(home.path().join(FILE)).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}
