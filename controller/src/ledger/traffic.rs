//! What the bytes of a box cost (pure): its network counters, looked at again and again, times what its host takes for a GB. It holds until
//! the provider's bill is there, which lags behind by hours.

use super::{CostKind, Interval};

/// Bytes over the network of a box since its container started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Received.
    pub received: u64,
    /// Sent.
    pub sent: u64,
}

/// What a host takes for traffic, and how much of it there can be.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Line {
    /// Download, $/GB.
    pub down_usd_per_gb: f64,
    /// Upload, $/GB.
    pub up_usd_per_gb: f64,
    /// What the host says of its download, Mb/s; 0: nothing.
    pub mbps: f64,
}

/// Hosts move more than they promise, up to so many times.
const BEYOND_PROMISE: f64 = 2.0;
/// A line of which nothing is said, Mb/s.
const UNKNOWN_MBPS: f64 = 10_000.0;

impl Line {
    /// Bytes that it can have carried in some time, either way.
    fn most_bytes(&self, microseconds: i64) -> u64 {
        let mbps = match self.mbps > 0.0 {
            true => self.mbps * BEYOND_PROMISE,
            false => UNKNOWN_MBPS,
        };
        (mbps / 8.0 * microseconds.max(0) as f64) as u64
    }

    fn usd(&self, moved: Counters) -> f64 {
        let gb = |bytes: u64| bytes as f64 / 1e9;
        gb(moved.received) * self.down_usd_per_gb + gb(moved.sent) * self.up_usd_per_gb
    }
}

/// What was counted of an attempt so far.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Traffic {
    /// The first look, microseconds since the epoch.
    pub from_us: i64,
    /// The newest one.
    pub at_us: i64,
    /// What the counters said then.
    pub counters: Counters,
    /// What went over in all, whatever became of the counters.
    pub moved: Counters,
    /// What that costs, dollars.
    pub usd: f64,
}

impl Traffic {
    /// Adds a look at the counters. `up_us`: since when its container can have run, of which the first look tells.
    #[must_use]
    pub fn with(
        before: Option<&Self>,
        seen: Counters,
        line: &Line,
        up_us: i64,
        at_us: i64,
    ) -> Self {
        let since_us = before.map_or(up_us, |before| before.at_us);
        let most = line.most_bytes(at_us.saturating_sub(since_us));
        let then = before.map(|before| before.counters);
        let more = Counters {
            received: moved(then.map(|then| then.received), seen.received, most),
            sent: moved(then.map(|then| then.sent), seen.sent, most),
        };
        let so_far = before.map(|before| before.moved).unwrap_or_default();
        Self {
            from_us: before.map_or(at_us, |before| before.from_us),
            at_us,
            counters: seen,
            moved: Counters {
                received: so_far.received.saturating_add(more.received),
                sent: so_far.sent.saturating_add(more.sent),
            },
            usd: before.map_or(0.0, |before| before.usd) + line.usd(more),
        }
    }

    /// As a part of what the attempt cost.
    pub fn interval(&self, attempt: u32) -> Interval {
        // One look has no length, and costs all the same.
        let to_us = self.at_us.max(self.from_us.saturating_add(1_000_000));
        let hours = (to_us - self.from_us) as f64 / 3.6e9;
        Interval {
            attempt,
            kind: CostKind::Traffic,
            from_us: self.from_us,
            to_us: Some(to_us),
            usd_per_hour: self.usd / hours,
        }
    }
}

/// Bytes since the look before, of which there are `most`.
fn moved(before: Option<u64>, now: u64, most: u64) -> u64 {
    match before {
        Some(before) if now >= before => (now - before).min(most),
        // It counts from nothing where its container was started again, or was not looked at before. More than the line can have
        // carried since then is not the box's own: it counts for somebody else, too.
        _ if now <= most => now,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_US: i64 = 1_000_000;
    const LINE: Line = Line {
        down_usd_per_gb: 0.02,
        up_usd_per_gb: 0.05,
        mbps: 800.0,
    };

    fn look(before: Option<&Traffic>, gb: (f64, f64), at_s: i64) -> Traffic {
        let bytes = |gb: f64| (gb * 1e9) as u64;
        let seen = Counters {
            received: bytes(gb.0),
            sent: bytes(gb.1),
        };
        Traffic::with(before, seen, &LINE, 0, at_s * SECOND_US)
    }

    #[track_caller]
    fn costs(traffic: &Traffic, usd: f64) {
        assert!((traffic.usd - usd).abs() < 1e-9, "{traffic:?}");
        let interval = traffic.interval(3);
        assert!((interval.usd(i64::MAX) - usd).abs() < 1e-9, "{interval:?}");
        assert_eq!((interval.attempt, interval.kind), (3, CostKind::Traffic));
    }

    #[test]
    fn bytes_up_and_down_cost_their_price_from_the_start_of_the_container_on_and_once_each() {
        // A data set came before anybody looked.
        let first = look(None, (10.0, 1.0), 600);
        costs(&first, 0.25);
        let second = look(Some(&first), (12.0, 2.0), 1200);
        costs(&second, 0.25 + 0.04 + 0.05);
        costs(&look(Some(&second), (12.0, 2.0), 1210), 0.34);
        // Its container was started again, and the counters with it.
        let again = look(Some(&second), (1.0, 0.5), 1800);
        costs(&again, 0.34 + 0.02 + 0.025);
        assert_eq!(again.moved.received, 13_000_000_000);
        assert_eq!(
            (again.from_us, again.at_us),
            (600 * SECOND_US, 1800 * SECOND_US)
        );
    }

    #[test]
    fn no_counter_counts_more_than_the_line_can_have_carried() {
        // 1600 Mb/s are 2 GB in ten seconds. What a counter had before is somebody else's.
        let shared = look(None, (500.0, 2.0), 10);
        costs(&shared, 0.10);
        let next = look(Some(&shared), (501.0, 2.0), 20);
        costs(&next, 0.12);
        let lie = look(Some(&next), (9e9, 2.0), 30);
        costs(&lie, 0.12 + 0.04);
        // A clock that was set back moves nothing.
        costs(&look(Some(&lie), (9.1e9, 2.0), 5), 0.16);
        let unknown = Line::default();
        assert_eq!(unknown.most_bytes(SECOND_US), 1_250_000_000);
        assert_eq!(unknown.most_bytes(-1), 0);
    }
}
