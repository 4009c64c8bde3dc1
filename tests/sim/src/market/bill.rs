//! What an instance costs: intervals of constant rates, to the millisecond, and traffic.

use serde::Serialize;

use crate::market::Millis;

const MS_PER_HOUR: f64 = 3_600_000.0;

/// A stretch of time with constant rates.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Interval {
    /// Start.
    pub start_ms: Millis,
    /// End; `None`: still running.
    pub end_ms: Option<Millis>,
    /// `actual_status` during it; `provisioning` where the API says null.
    pub state: &'static str,
    /// GPU rate, $/h; 0 when not charged.
    pub gpu_usd_per_hour: f64,
    /// Storage rate, $/h; 0 when not charged.
    pub storage_usd_per_hour: f64,
}

impl Interval {
    /// Length in milliseconds of the part between the bounds.
    pub fn millis_within(&self, from: Millis, to: Millis) -> Millis {
        (self.end_ms.unwrap_or(to).min(to) - self.start_ms.max(from)).max(0)
    }

    /// GPU dollars between the bounds.
    pub fn gpu_usd(&self, from: Millis, to: Millis) -> f64 {
        self.gpu_usd_per_hour * self.millis_within(from, to) as f64 / MS_PER_HOUR
    }

    /// Storage dollars between the bounds.
    pub fn storage_usd(&self, from: Millis, to: Millis) -> f64 {
        self.storage_usd_per_hour * self.millis_within(from, to) as f64 / MS_PER_HOUR
    }
}

/// Bytes that went in or out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Traffic {
    /// When it was counted.
    pub at_ms: Millis,
    /// Downloaded, GB.
    pub down_gb: f64,
    /// Uploaded, GB.
    pub up_gb: f64,
    /// Price.
    pub usd: f64,
}

/// Everything one instance ever cost.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Bill {
    /// Intervals, oldest first, without gaps until the instance is destroyed.
    pub intervals: Vec<Interval>,
    /// Traffic, oldest first.
    pub traffic: Vec<Traffic>,
}

impl Bill {
    /// Goes on with these rates from `now`; a new interval begins only when something changed.
    pub fn meter(
        &mut self,
        now: Millis,
        state: &'static str,
        gpu_usd_per_hour: f64,
        storage_usd_per_hour: f64,
    ) {
        if let Some(open) = self.intervals.last().filter(|last| last.end_ms.is_none()) {
            let same = open.state == state
                && open.gpu_usd_per_hour == gpu_usd_per_hour
                && open.storage_usd_per_hour == storage_usd_per_hour;
            if same {
                return;
            }
        }
        self.close(now);
        self.intervals.push(Interval {
            start_ms: now,
            end_ms: None,
            state,
            gpu_usd_per_hour,
            storage_usd_per_hour,
        });
    }

    /// Ends the open interval; one that had no time to cost anything is dropped.
    pub fn close(&mut self, now: Millis) {
        if let Some(open) = self
            .intervals
            .last_mut()
            .filter(|last| last.end_ms.is_none())
        {
            open.end_ms = Some(now);
            if open.start_ms >= now {
                self.intervals.pop();
            }
        }
    }

    /// Notes traffic.
    pub fn add_traffic(&mut self, at_ms: Millis, down_gb: f64, up_gb: f64, usd: f64) {
        self.traffic.push(Traffic {
            at_ms,
            down_gb,
            up_gb,
            usd,
        });
    }

    /// GPU dollars until `now`.
    pub fn gpu_usd(&self, now: Millis) -> f64 {
        self.intervals
            .iter()
            .map(|interval| interval.gpu_usd(Millis::MIN, now))
            .sum()
    }

    /// Storage dollars until `now`.
    pub fn storage_usd(&self, now: Millis) -> f64 {
        self.intervals
            .iter()
            .map(|interval| interval.storage_usd(Millis::MIN, now))
            .sum()
    }

    /// Traffic dollars.
    pub fn traffic_usd(&self) -> f64 {
        self.traffic.iter().map(|traffic| traffic.usd).sum()
    }

    /// Everything until `now`.
    pub fn total_usd(&self, now: Millis) -> f64 {
        self.gpu_usd(now) + self.storage_usd(now) + self.traffic_usd()
    }

    /// Milliseconds with a GPU charge until `now`.
    pub fn gpu_millis(&self, now: Millis) -> Millis {
        self.intervals
            .iter()
            .filter(|interval| interval.gpu_usd_per_hour > 0.0)
            .map(|interval| interval.millis_within(Millis::MIN, now))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_rate_times_time_and_unchanged_rates_make_no_new_interval() {
        let mut bill = Bill::default();
        bill.meter(0, "loading", 0.0, 0.01);
        bill.meter(0, "running", 0.4, 0.01);
        bill.meter(1_000, "running", 0.4, 0.01);
        bill.meter(1_800_000, "exited", 0.0, 0.01);
        bill.close(3_600_000);
        assert_eq!(bill.intervals.len(), 2, "{:?}", bill.intervals);
        assert_eq!(bill.gpu_usd(3_600_000), 0.2);
        assert_eq!(bill.storage_usd(3_600_000), 0.01);
        assert_eq!(bill.gpu_millis(9_999_999), 1_800_000);
    }

    #[test]
    fn an_open_interval_is_charged_until_now_and_bounds_cut_it() {
        let mut bill = Bill::default();
        bill.meter(1_000, "running", 3.6, 0.0);
        assert_eq!(bill.gpu_usd(2_000), 0.001);
        assert_eq!(bill.intervals[0].gpu_usd(1_500, 2_000), 0.0005);
        assert_eq!(bill.intervals[0].gpu_usd(5_000, 4_000), 0.0);
    }

    #[test]
    fn traffic_is_added_to_the_total() {
        let mut bill = Bill::default();
        bill.add_traffic(5, 10.0, 1.0, 0.023);
        assert_eq!(bill.total_usd(10), 0.023);
    }
}
