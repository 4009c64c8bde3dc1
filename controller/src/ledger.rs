//! Seconds and prices to money (pure). An attempt's cost is a list of intervals, each with its price; what the provider
//! charged is held against it.

pub mod traffic;

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
    /// Bytes over the network, as the box counts them: what they cost by now, spread over the time in which they went.
    Traffic,
}

impl CostKind {
    /// Its name, as stored.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gpu => "gpu",
            Self::Disk => "disk",
            Self::Traffic => "traffic",
        }
    }

    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Gpu, Self::Disk, Self::Traffic]
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
    /// Traffic, by the counters of the box, or by the provider's charges.
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
            CostKind::Traffic => cost.bandwidth_usd += interval.usd(now_us),
        }
    }
    cost
}

/// Of a sum that counts: who says it, dollars.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Parts {
    /// The provider has charged it.
    pub billed_usd: f64,
    /// Metered here, and not charged so far.
    pub reckoned_usd: f64,
    /// Of what is reckoned, traffic: by the counters of boxes, so about.
    pub unbilled_traffic_usd: f64,
}

impl Parts {
    /// Of what counts of an attempt, by what was charged for it.
    pub fn of(counted: Cost, charged: Option<Cost>) -> Self {
        let bill = charged.unwrap_or_default();
        let traffic_usd = counted.bandwidth_usd.min(bill.bandwidth_usd);
        let billed_usd =
            counted.gpu_usd.min(bill.gpu_usd) + counted.disk_usd.min(bill.disk_usd) + traffic_usd;
        Self {
            billed_usd,
            reckoned_usd: (counted.total_usd() - billed_usd).max(0.0),
            unbilled_traffic_usd: counted.bandwidth_usd - traffic_usd,
        }
    }
}

impl std::iter::Sum for Parts {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), |sum, one| Self {
            billed_usd: sum.billed_usd + one.billed_usd,
            reckoned_usd: sum.reckoned_usd + one.reckoned_usd,
            unbilled_traffic_usd: sum.unbilled_traffic_usd + one.unbilled_traffic_usd,
        })
    }
}

/// What one attempt cost until a moment, by its intervals, of which later ones are left out.
pub fn cost_until(intervals: &[Interval], attempt: u32, until_us: i64) -> Cost {
    let clipped: Vec<Interval> = intervals
        .iter()
        .map(|interval| Interval {
            to_us: Some(interval.to_us.map_or(until_us, |to_us| to_us.min(until_us))),
            ..interval.clone()
        })
        .collect();
    attempt_cost(&clipped, attempt, until_us)
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
/// charged so far where that is more.
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
        bandwidth_usd: ours.bandwidth_usd.max(bill.bandwidth_usd),
    }
}

/// Whether a final bill of an attempt can be true, held against what was metered: it is within a cent, or a fifth, of it, and below
/// that by no more than what nobody can have seen: a box that was taken while nobody looked is metered up to [`UNSEEN_US`] too long.
/// Traffic is left out: the box's counters know nothing of its image.
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
            // Nobody knows what goes over the network next.
            CostKind::Traffic => {}
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
    /// Charged minus ours without traffic, of which we do not see all: positive when the provider took more than we saw.
    pub fn difference_usd(&self) -> f64 {
        self.charged.gpu_usd + self.charged.disk_usd - self.ledger.gpu_usd - self.ledger.disk_usd
    }

    /// Equal to the cent.
    pub fn agrees(&self) -> bool {
        self.difference_usd().abs() < 0.005
    }
}

#[cfg(test)]
mod tests;
