//! How many bytes a second may be sent at which time of day (pure).

use serde::{Deserialize, Serialize};

/// Minutes of a day.
pub const DAY_MIN: u32 = 24 * 60;

/// A stretch of every day with a rate of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// First minute of the day, UTC.
    pub from_min: u32,
    /// The minute after the last one; smaller than the first when it lasts past midnight.
    pub to_min: u32,
    /// Most bytes per second; `None`: as many as go.
    pub max_bytes_per_s: Option<u64>,
}

/// Rates of a day.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rates {
    /// At all times that no window has; `None`: as many as go.
    pub max_bytes_per_s: Option<u64>,
    /// The first that holds a time counts.
    pub windows: Vec<Window>,
}

impl Rates {
    /// Most bytes per second at a time, microseconds since the epoch; `None`: as many as go.
    pub fn at(&self, now_us: u64) -> Option<u64> {
        let minute = (now_us / 60_000_000 % u64::from(DAY_MIN)) as u32;
        let holds = |window: &&Window| {
            let Window {
                from_min, to_min, ..
            } = **window;
            if from_min < to_min {
                (from_min..to_min).contains(&minute)
            } else {
                minute >= from_min || minute < to_min
            }
        };
        let rate = match self.windows.iter().find(holds) {
            Some(window) => window.max_bytes_per_s,
            None => self.max_bytes_per_s,
        };
        rate.filter(|rate| *rate > 0)
    }

    /// Whether there is any limit at any time.
    pub fn limit(&self) -> bool {
        let limits = |rate: Option<u64>| rate.is_some_and(|rate| rate > 0);
        limits(self.max_bytes_per_s)
            || self
                .windows
                .iter()
                .any(|window| limits(window.max_bytes_per_s))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_window_that_holds_a_time_counts() {
        let window = |from_min, to_min, max_bytes_per_s| Window {
            from_min,
            to_min,
            max_bytes_per_s,
        };
        let rates = Rates {
            max_bytes_per_s: Some(5),
            windows: vec![
                window(22 * 60, 6 * 60, None),
                window(12 * 60, 13 * 60 + 30, Some(9)),
                window(13 * 60, 14 * 60, Some(7)),
            ],
        };
        let check = |hour: u64, minute: u64, expected: Option<u64>| {
            let day_us = 86_400_000_000;
            let now_us = 20_000 * day_us + (hour * 60 + minute) * 60_000_000;
            assert_eq!(rates.at(now_us), expected, "{hour}:{minute:02}");
        };
        check(21, 59, Some(5));
        check(22, 0, None);
        check(23, 59, None);
        check(0, 0, None);
        check(5, 59, None);
        check(6, 0, Some(5));
        check(12, 0, Some(9));
        check(13, 29, Some(9));
        check(13, 30, Some(7));
        check(14, 0, Some(5));
        assert!(rates.limit());
        assert!(!Rates::default().limit());
        assert_eq!(Rates::default().at(0), None);
    }
}
