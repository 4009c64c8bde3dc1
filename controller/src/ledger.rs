//! Seconds and prices to money (pure). An attempt's cost is a list of intervals, each with its price; what the provider
//! charged is held against it.

use serde::{Deserialize, Serialize};

use crate::provider::{Actual, Charge, Instance};

/// What is paid for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CostKind {
    /// GPU time, charged while the box runs.
    Gpu,
    /// Storage, charged from creation to destroy, running or not.
    Disk,
}

impl CostKind {
    /// Its name, as stored.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gpu => "gpu",
            Self::Disk => "disk",
        }
    }

    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Gpu, Self::Disk]
            .into_iter()
            .find(|kind| kind.name() == name)
    }
}

/// A time during which one thing cost one price.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Attempt that pays, from 1.
    pub attempt: u32,
    /// What is paid for.
    pub kind: CostKind,
    /// Start, microseconds since the epoch.
    pub from_us: i64,
    /// End; `None` while it goes on.
    pub to_us: Option<i64>,
    /// Price, $/h.
    pub usd_per_hour: f64,
}

impl Interval {
    /// Dollars up to `now_us`.
    pub fn usd(&self, now_us: i64) -> f64 {
        let lasted_us = self
            .to_us
            .unwrap_or(now_us)
            .saturating_sub(self.from_us)
            .max(0);
        lasted_us as f64 / 3.6e9 * self.usd_per_hour
    }
}

/// Money by what it was spent on, dollars.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// GPU time.
    pub gpu_usd: f64,
    /// Storage.
    pub disk_usd: f64,
    /// Traffic. Only the provider meters it, so it is 0 until its charges were read.
    pub bandwidth_usd: f64,
}

impl Cost {
    /// All of it.
    pub fn total_usd(&self) -> f64 {
        self.gpu_usd + self.disk_usd + self.bandwidth_usd
    }
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.gpu_usd += other.gpu_usd;
        self.disk_usd += other.disk_usd;
        self.bandwidth_usd += other.bandwidth_usd;
    }
}

impl From<&Charge> for Cost {
    fn from(charge: &Charge) -> Self {
        Self {
            gpu_usd: charge.gpu_usd,
            disk_usd: charge.disk_usd,
            bandwidth_usd: charge.bandwidth_usd,
        }
    }
}

/// What one attempt cost up to `now_us`, by its intervals.
pub fn attempt_cost(intervals: &[Interval], attempt: u32, now_us: i64) -> Cost {
    let mut cost = Cost::default();
    for interval in intervals
        .iter()
        .filter(|interval| interval.attempt == attempt)
    {
        match interval.kind {
            CostKind::Gpu => cost.gpu_usd += interval.usd(now_us),
            CostKind::Disk => cost.disk_usd += interval.usd(now_us),
        }
    }
    cost
}

/// How far a final bill may be from what was metered, as a share of it, and dollars.
const PLAUSIBLE_SHARE: f64 = 0.2;
const PLAUSIBLE_USD: f64 = 0.01;
/// What ended while nobody looked counts up to the first look, and where charges tell more, up to so much later than they do: they show up
/// in the provider's account that late at most.
pub const UNSEEN_US: i64 = 6 * 3_600_000_000;

/// What the provider charged for an attempt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Charged {
    /// Attempt, from 1.
    pub attempt: u32,
    /// The money.
    pub cost: Cost,
    /// It was read after the end of the box and counts in the place of our own figure. An earlier one lags behind.
    pub is_final: bool,
}

/// What a run cost up to `now_us`: for each attempt what the provider charged where that is final, else the intervals, or what was
/// charged so far where that is more, and the traffic, which only the provider meters.
pub fn run_cost(intervals: &[Interval], charges: &[Charged], now_us: i64) -> Cost {
    let mut attempts: Vec<u32> = intervals.iter().map(|interval| interval.attempt).collect();
    attempts.extend(charges.iter().map(|charged| charged.attempt));
    attempts.sort_unstable();
    attempts.dedup();

    let mut total = Cost::default();
    for attempt in attempts {
        let charged = charges.iter().find(|charged| charged.attempt == attempt);
        total += counted(intervals, attempt, charged, now_us);
    }
    total
}

/// What an attempt cost up to `now_us`, of what was metered and what was charged.
pub fn counted(
    intervals: &[Interval],
    attempt: u32,
    charged: Option<&Charged>,
    now_us: i64,
) -> Cost {
    let ours = attempt_cost(intervals, attempt, now_us);
    let Some(charged) = charged else {
        return ours;
    };
    let bill = charged.cost;
    let is_dearer = bill.gpu_usd + bill.disk_usd >= ours.gpu_usd + ours.disk_usd;
    // Of a bill that cannot be true the dearer figure counts: a budget must not be passed by anybody's mistake.
    if charged.is_final && (is_dearer || is_plausible(intervals, attempt, bill, now_us)) {
        return bill;
    }
    // It lags behind; where it is ahead, something was charged that nobody saw.
    Cost {
        gpu_usd: ours.gpu_usd.max(bill.gpu_usd),
        disk_usd: ours.disk_usd.max(bill.disk_usd),
        bandwidth_usd: bill.bandwidth_usd,
    }
}

/// Whether a final bill of an attempt can be true, held against what was metered: it is within a cent, or a fifth, of it, and below
/// that by no more than what nobody can have seen: a box that was taken while nobody looked is metered up to [`UNSEEN_US`] too long.
/// Traffic was metered by nobody else.
pub fn is_plausible(intervals: &[Interval], attempt: u32, bill: Cost, now_us: i64) -> bool {
    let ours = attempt_cost(intervals, attempt, now_us);
    let (ours_usd, bill_usd) = (ours.gpu_usd + ours.disk_usd, bill.gpu_usd + bill.disk_usd);
    let room_usd = (ours_usd * PLAUSIBLE_SHARE).max(PLAUSIBLE_USD);
    let unseen_usd: f64 = intervals
        .iter()
        .filter(|known| known.attempt == attempt && known.kind == CostKind::Gpu)
        .map(|known| {
            let to_us = known.to_us.unwrap_or(now_us);
            let most_us = to_us.saturating_sub(known.from_us).clamp(0, UNSEEN_US);
            most_us as f64 / 3.6e9 * known.usd_per_hour
        })
        .sum();
    // A box that was there cost something.
    let is_nothing = bill_usd <= 0.0 && ours_usd > PLAUSIBLE_USD;
    let (least_usd, most_usd) = (ours_usd - room_usd - unseen_usd, ours_usd + room_usd);
    !is_nothing && (least_usd..=most_usd).contains(&bill_usd)
}

/// What the open intervals cost now, $/h; of one attempt, or of all.
pub fn rate_usd_per_hour(intervals: &[Interval], attempt: Option<u32>) -> f64 {
    intervals
        .iter()
        .filter(|interval| {
            interval.to_us.is_none() && attempt.is_none_or(|number| interval.attempt == number)
        })
        .map(|interval| interval.usd_per_hour)
        // An empty sum of floats is -0.
        .fold(0.0, |sum, price| sum + price)
}

/// What a box costs by the hour.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rates {
    /// GPU, $/h.
    pub gpu_usd_per_hour: f64,
    /// Disk, $/h.
    pub disk_usd_per_hour: f64,
}

impl Rates {
    /// Both, $/h.
    pub fn total(&self) -> f64 {
        self.gpu_usd_per_hour + self.disk_usd_per_hour
    }
}

/// What the open intervals of all attempts cost now.
pub fn open_rates(intervals: &[Interval]) -> Rates {
    let mut rates = Rates::default();
    for open in intervals.iter().filter(|interval| interval.to_us.is_none()) {
        match open.kind {
            CostKind::Gpu => rates.gpu_usd_per_hour += open.usd_per_hour,
            CostKind::Disk => rates.disk_usd_per_hour += open.usd_per_hour,
        }
    }
    rates
}

/// What a box costs now: as the provider says, else as its status implies. A host that is offline charges nothing.
pub fn rates(seen: &Instance) -> Rates {
    if seen.actual == Actual::Offline {
        return Rates::default();
    }
    let past_loading = !matches!(
        seen.actual,
        Actual::Provisioning | Actual::Created | Actual::Loading | Actual::Stopped
    );
    let implied = match seen.contract_running && past_loading {
        true => seen.gpu_usd_per_hour,
        false => 0.0,
    };
    Rates {
        gpu_usd_per_hour: seen.charged_gpu_usd_per_hour.unwrap_or(implied),
        disk_usd_per_hour: seen.storage_usd_per_hour,
    }
}

/// From a moment on, one thing costs another price; 0: nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    /// What is paid for.
    pub kind: CostKind,
    /// From when, microseconds since the epoch.
    pub from_us: i64,
    /// Price, $/h.
    pub usd_per_hour: f64,
}

/// What a look at the box of an attempt changes about its intervals.
///
/// A change happened between the last look and this one. When the container came up the provider says; everything else counts
/// from the look. Prices that differ by less than a millionth are the same one, rounded elsewhere.
pub fn changes(intervals: &[Interval], attempt: u32, seen: &Instance, now_us: i64) -> Vec<Change> {
    let rates = rates(seen);
    let up_since_us = seen.up_since_s.map(|since| (since * 1e6) as i64);
    let both = [
        (CostKind::Gpu, rates.gpu_usd_per_hour, up_since_us),
        (CostKind::Disk, rates.disk_usd_per_hour, None),
    ];
    both.into_iter()
        .filter_map(|(kind, usd_per_hour, since_us)| {
            let mut own = intervals
                .iter()
                .filter(|interval| interval.attempt == attempt);
            let born_us = own.clone().map(|interval| interval.from_us).min();
            let last = own.rfind(|interval| interval.kind == kind);
            let open = last.filter(|interval| interval.to_us.is_none());
            let before = open.map_or(0.0, |interval| interval.usd_per_hour);
            if (usd_per_hour - before).abs() <= before.abs().max(usd_per_hour) * 1e-6 {
                return None;
            }
            // A container that came up after we last saw it charged is charged from its start, though not from before the box was
            // ours. An older one was not charged in between, as behind a host that was offline.
            let closed_us = last.and_then(|interval| interval.to_us);
            let from_us = since_us
                .filter(|since| open.is_none() && closed_us.is_none_or(|closed| *since > closed))
                .map_or(now_us, |since| {
                    since.max(born_us.unwrap_or(now_us)).min(now_us)
                });
            Some(Change {
                kind,
                from_us,
                usd_per_hour,
            })
        })
        .collect()
}

/// Until when the GPU of an attempt was charged, microseconds since the epoch, by the dollars that the provider charged for it in all;
/// `None`: no interval of it is open, or nothing was charged.
pub fn charged_until(intervals: &[Interval], attempt: u32, charged_usd: f64) -> Option<i64> {
    let own = intervals
        .iter()
        .filter(|known| known.attempt == attempt && known.kind == CostKind::Gpu);
    let open = own.clone().find(|known| known.to_us.is_none())?;
    let closed_usd: f64 = own.filter_map(|known| Some(known.usd(known.to_us?))).sum();
    let hours = (charged_usd - closed_usd).max(0.0) / open.usd_per_hour;
    (charged_usd > 0.0 && hours.is_finite()).then(|| open.from_us + (hours * 3.6e9) as i64)
}

/// How our figure and the provider's differ for one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Reconciliation {
    /// By our intervals.
    pub ledger: Cost,
    /// By the provider's charges.
    pub charged: Cost,
}

impl Reconciliation {
    /// Charged minus ours without traffic, which we cannot meter: positive when the provider took more than we saw.
    pub fn difference_usd(&self) -> f64 {
        self.charged.gpu_usd + self.charged.disk_usd - self.ledger.gpu_usd - self.ledger.disk_usd
    }

    /// Equal to the cent.
    pub fn agrees(&self) -> bool {
        self.difference_usd().abs() < 0.005
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_US: i64 = 3_600_000_000;

    fn interval(
        attempt: u32,
        kind: CostKind,
        from_h: i64,
        to_h: Option<i64>,
        usd_per_hour: f64,
    ) -> Interval {
        Interval {
            attempt,
            kind,
            from_us: from_h * HOUR_US,
            to_us: to_h.map(|h| h * HOUR_US),
            usd_per_hour,
        }
    }

    /// Two attempts: one interrupted after two hours whose disk stayed for three more, one that still runs.
    fn two_attempts() -> Vec<Interval> {
        vec![
            interval(1, CostKind::Gpu, 1, Some(3), 0.30),
            interval(1, CostKind::Disk, 1, Some(6), 0.01),
            interval(2, CostKind::Gpu, 4, None, 0.40),
            interval(2, CostKind::Disk, 4, None, 0.02),
        ]
    }

    #[track_caller]
    fn check(actual: f64, expected: f64) {
        assert!(
            (actual - expected).abs() < 1e-9,
            "{actual} instead of {expected}"
        );
    }

    #[test]
    fn the_end_of_a_charge_that_nobody_saw_is_where_the_providers_dollars_end() {
        let mut intervals = two_attempts();
        assert_eq!(charged_until(&intervals, 1, 5.0), None, "nothing is open");
        intervals.push(interval(1, CostKind::Gpu, 5, None, 0.50));
        // Two hours at $0.30 before, and one and a half at $0.50.
        let until_us = charged_until(&intervals, 1, 0.60 + 0.75).unwrap();
        assert!((until_us - 13 * HOUR_US / 2).abs() < 1000, "{until_us}");
        // What was not charged yet says nothing.
        assert_eq!(charged_until(&intervals, 1, 0.0), None);
        assert_eq!(charged_until(&intervals, 1, 0.30), Some(5 * HOUR_US));
    }

    #[test]
    fn an_attempt_costs_its_seconds_times_their_price() {
        let intervals = two_attempts();
        let first = attempt_cost(&intervals, 1, 10 * HOUR_US);
        check(first.gpu_usd, 0.60);
        check(first.disk_usd, 0.05);
        let second = attempt_cost(&intervals, 2, 5 * HOUR_US + 1_000_000);
        check(second.gpu_usd, 0.40 + 0.40 / 3600.0);
        check(attempt_cost(&intervals, 3, 10 * HOUR_US).total_usd(), 0.0);
    }

    #[test]
    fn a_final_bill_counts_where_it_can_be_true_and_else_the_dearer_of_the_two() {
        let gpu = |hours: i64| Interval {
            attempt: 1,
            kind: CostKind::Gpu,
            from_us: 0,
            to_us: Some(hours * HOUR_US),
            usd_per_hour: 1.0,
        };
        for (hours, charged, is_true, counts) in [
            (40, 40.0, true, 40.0),
            (40, 48.0, true, 48.0),
            (40, 48.1, false, 48.1),
            (40, 33.0, true, 33.0),
            // Six hours of it may have been somebody else's, while nobody looked.
            (40, 26.1, true, 26.1),
            (40, 25.9, false, 40.0),
            (40, 0.0, false, 40.0),
            (3, 0.1, true, 0.1),
            (3, 0.0, false, 3.0),
            (0, 0.01, true, 0.01),
            (0, 0.02, false, 0.02),
        ] {
            let bill = Cost {
                gpu_usd: charged,
                disk_usd: 0.0,
                bandwidth_usd: 0.5,
            };
            let closed = Charged {
                attempt: 1,
                cost: bill,
                is_final: true,
            };
            let (intervals, now_us) = ([gpu(hours)], 99 * HOUR_US);
            let plausible = is_plausible(&intervals, 1, bill, now_us);
            assert_eq!(plausible, is_true, "{hours} {charged}");
            let found = counted(&intervals, 1, Some(&closed), now_us);
            check(found.total_usd(), counts + 0.5);
        }
    }

    #[test]
    fn a_run_costs_its_attempts_and_a_closed_bill_beats_our_figure() {
        let intervals = two_attempts();
        check(
            run_cost(&intervals, &[], 5 * HOUR_US).total_usd(),
            0.65 + 0.42,
        );
        let bill = Cost {
            gpu_usd: 0.61,
            disk_usd: 0.05,
            bandwidth_usd: 0.10,
        };
        let closed = Charged {
            attempt: 1,
            cost: bill,
            is_final: true,
        };
        check(
            run_cost(&intervals, &[closed], 5 * HOUR_US).total_usd(),
            0.76 + 0.42,
        );
        // An open one lags behind; what it has beyond our figure was charged while nobody looked.
        let mut open = Charged {
            is_final: false,
            ..closed
        };
        check(
            run_cost(&intervals, &[open], 5 * HOUR_US).total_usd(),
            0.66 + 0.10 + 0.42,
        );
        open.cost.gpu_usd = 0.20;
        check(
            run_cost(&intervals, &[open], 5 * HOUR_US).total_usd(),
            0.65 + 0.10 + 0.42,
        );
        // A bill without intervals, as after a lost answer, counts too.
        check(run_cost(&[], &[closed], 0).total_usd(), 0.76);
    }

    #[test]
    fn the_rate_is_what_is_open_now() {
        let intervals = two_attempts();
        check(rate_usd_per_hour(&intervals, None), 0.42);
        check(rate_usd_per_hour(&intervals, Some(1)), 0.0);
        check(rate_usd_per_hour(&intervals, Some(2)), 0.42);
        check(open_rates(&intervals).gpu_usd_per_hour, 0.40);
        check(open_rates(&intervals).disk_usd_per_hour, 0.02);
    }

    #[test]
    fn a_clock_that_went_back_costs_nothing() {
        check(interval(1, CostKind::Gpu, 5, None, 1.0).usd(HOUR_US), 0.0);
    }

    #[test]
    fn a_bill_agrees_when_it_is_equal_to_the_cent_without_traffic() {
        let ledger = Cost {
            gpu_usd: 1.0,
            disk_usd: 0.1,
            bandwidth_usd: 0.0,
        };
        let near = Cost {
            gpu_usd: 1.002,
            disk_usd: 0.1,
            bandwidth_usd: 3.0,
        };
        let far = Cost {
            gpu_usd: 1.02,
            ..near
        };
        assert!(
            Reconciliation {
                ledger,
                charged: near
            }
            .agrees()
        );
        let apart = Reconciliation {
            ledger,
            charged: far,
        };
        assert!(!apart.agrees());
        check(apart.difference_usd(), 0.02);
    }
}
