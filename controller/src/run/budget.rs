//! How a running box stands to `limits.budget`, while somebody watches ([`standing`]) and alone ([`alone`]) (pure).

use std::time::Duration;

use crate::{agent_client::Allowance, ledger::Rates, ui::text};

/// A run is told that its money ends when that is nearer than this.
const WARN: Duration = Duration::from_secs(3600);
/// The box is finished in order this long before the money ends: a last checkpoint and results take their time.
const FINISH: Duration = Duration::from_secs(10 * 60);
/// A small budget is not spent on caution: of its whole time, at most this share is left for finishing.
const FINISH_SHARE: f64 = 0.1;

/// A box that stopped itself waits for somebody, and its disk is paid for meanwhile: so much of that is held back, hours.
const HELD_BACK_HOURS: f64 = 7.0 * 24.0;
/// Of a small budget at most this share is held back: it is there to train with.
const HELD_BACK_SHARE: f64 = 0.25;
/// What a box that is watched may go on for when its watcher goes away: it is told anew every few seconds.
const WATCHED: Duration = Duration::from_secs(120);
/// It is paid from what is held back, and takes at most this share of that.
const WATCHED_SHARE: u32 = 4;

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Standing {
    /// No budget, or plenty of it.
    Fine,
    /// It ends soon.
    Low {
        /// In this time at the present price.
        left: Duration,
    },
    /// The box must be finished now.
    Finish {
        /// Time until the money is over at the present price; zero when it is over.
        left: Duration,
    },
}

/// Holds what was spent, and what an hour costs now, against the budget.
pub fn standing(budget_usd: Option<f64>, spent_usd: f64, usd_per_hour: f64) -> Standing {
    let Some(budget_usd) = budget_usd else {
        return Standing::Fine;
    };
    if spent_usd >= budget_usd {
        return Standing::Finish {
            left: Duration::ZERO,
        };
    }
    if usd_per_hour <= 0.0 {
        return Standing::Fine;
    }
    let left = lasts(budget_usd - spent_usd, usd_per_hour);
    if left <= finish(budget_usd, usd_per_hour) {
        Standing::Finish { left }
    } else if left < WARN {
        Standing::Low { left }
    } else {
        Standing::Fine
    }
}

/// How long a box may train on alone; `None`: no budget, or nothing costs anything. Its end, and seven days of its disk, are paid from what
/// is left then.
pub fn alone(budget_usd: Option<f64>, spent_usd: f64, rates: Rates) -> Option<Allowance> {
    let budget_usd = budget_usd?;
    let usd_per_hour = rates.total();
    if usd_per_hour <= 0.0 {
        return None;
    }
    let held_usd = held_usd(budget_usd, rates);
    let finish = finish(budget_usd, usd_per_hour);
    let left = lasts(budget_usd - spent_usd - held_usd, usd_per_hour).saturating_sub(finish);
    Some(Allowance { left, finish })
}

/// The same while somebody watches, who finishes the box in order and spends what is held back: it is not to end before him.
pub fn watched(budget_usd: Option<f64>, spent_usd: f64, rates: Rates) -> Option<Allowance> {
    let alone = alone(budget_usd, spent_usd, rates)?;
    let held = lasts(held_usd(budget_usd?, rates), rates.total());
    let left = match standing(budget_usd, spent_usd, rates.total()) {
        Standing::Finish { .. } => alone.left,
        Standing::Fine | Standing::Low { .. } => alone.left.max(WATCHED.min(held / WATCHED_SHARE)),
    };
    Some(Allowance { left, ..alone })
}

/// Why a run cannot train on within its budget, in words; `None`: it can.
pub fn used_up(budget_usd: f64, spent_usd: f64, rates: Rates) -> Option<String> {
    let (spent, budget) = (text::usd(spent_usd), text::usd(budget_usd));
    let text = format!("{spent} are spent of `limits.budget` of {budget}");
    if let Standing::Finish { .. } = standing(Some(budget_usd), spent_usd, rates.total()) {
        return Some(text);
    }
    let alone = alone(Some(budget_usd), spent_usd, rates)?;
    alone.left.is_zero().then(|| {
        format!("{text}, and the rest is held back for what its disk costs while it is stopped")
    })
}

/// A budget with which a run can train on for as long again.
pub fn raised_usd(budget_usd: f64, spent_usd: f64) -> f64 {
    (2.0 * budget_usd).max(spent_usd + 1.0)
}

/// What is held back for the disk of a box that is stopped, dollars: a week of it, and a quarter of the budget at most.
pub fn held_back_usd(budget_usd: f64, disk_usd_per_hour: f64) -> f64 {
    (disk_usd_per_hour * HELD_BACK_HOURS).min(budget_usd * HELD_BACK_SHARE)
}

fn held_usd(budget_usd: f64, rates: Rates) -> f64 {
    held_back_usd(budget_usd, rates.disk_usd_per_hour)
}

/// How long so much money lasts.
fn lasts(usd: f64, usd_per_hour: f64) -> Duration {
    // A budget for a year and more is no matter of minutes.
    Duration::try_from_secs_f64(usd.max(0.0) / usd_per_hour * 3600.0).unwrap_or(Duration::MAX)
}

/// How long the end of a box may take.
fn finish(budget_usd: f64, usd_per_hour: f64) -> Duration {
    FINISH.min(lasts(budget_usd * FINISH_SHARE, usd_per_hour))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(budget: Option<f64>, spent: f64, rate: f64, expected: &str) {
        let found = match standing(budget, spent, rate) {
            Standing::Fine => "fine".to_owned(),
            Standing::Low { left } => format!("low {}", left.as_secs()),
            Standing::Finish { left } => format!("finish {}", left.as_secs()),
        };
        assert_eq!(found, expected, "{budget:?} {spent} {rate}");
    }

    #[test]
    fn a_box_is_warned_about_and_finished_before_its_money_is_over() {
        check(None, 1e9, 1.0, "fine");
        check(Some(10.0), 1.0, 1.0, "fine");
        check(Some(10.0), 9.5, 1.0, "low 1800");
        check(Some(10.0), 9.875, 1.0, "finish 450");
        check(Some(10.0), 10.0, 1.0, "finish 0");
        check(Some(10.0), 9.99, 0.0, "fine");
        // A tenth of a small budget, not ten minutes of it.
        check(Some(0.25), 0.125, 1.0, "low 450");
        check(Some(0.25), 0.2265625, 1.0, "finish 84");
        check(Some(1e6), 0.0, 1e-12, "fine");
    }

    #[test]
    fn a_box_that_is_alone_stops_early_enough_to_pay_a_week_of_its_disk() {
        let rates = |gpu_usd_per_hour, disk_usd_per_hour| Rates {
            gpu_usd_per_hour,
            disk_usd_per_hour,
        };
        let day = 24 * 3600;
        for (budget, spent, (gpu, disk), left_s, finish_s) in [
            // 16.8 of 100 are held back, 10 minutes are for the end: 83.2 h.
            (100.0, 0.0, (0.9, 0.1), 83 * 3600 + 720 - 600, 600),
            (100.0, 50.0, (0.9, 0.1), 33 * 3600 + 720 - 600, 600),
            (100.0, 83.0, (0.9, 0.1), 720 - 600, 600),
            (100.0, 84.0, (0.9, 0.1), 0, 600),
            (100.0, 200.0, (0.9, 0.1), 0, 600),
            // A disk that costs nothing holds nothing back.
            (24.0, 0.0, (1.0, 0.0), day - 600, 600),
            // A quarter of a small budget, and a tenth for the end.
            (1.0, 0.0, (0.9, 0.1), 2700 - 360, 360),
        ] {
            let found = alone(Some(budget), spent, rates(gpu, disk)).unwrap();
            // Floats: to the second.
            let seconds = |time: Duration| time.as_secs_f64().round() as u64;
            assert_eq!(
                (seconds(found.left), seconds(found.finish)),
                (left_s, finish_s),
                "{budget} {spent} {gpu} {disk}"
            );
            // What it may spend alone never reaches the budget, a week later.
            let hours = (found.left + found.finish).as_secs_f64() / 3600.0;
            let stopped = spent + hours * (gpu + disk);
            let week = held_usd(budget, rates(gpu, disk));
            assert!(stopped + week <= budget + 1e-9 || left_s == 0);
        }
        assert_eq!(alone(None, 5.0, rates(1.0, 1.0)), None);
        assert_eq!(alone(Some(5.0), 0.0, rates(0.0, 0.0)), None);
        let much = alone(Some(1e9), 0.0, rates(1e-12, 0.0)).unwrap();
        assert!(much.left > Duration::from_secs(1 << 40), "{much:?}");
    }

    #[test]
    fn a_used_up_budget_is_raised_to_one_that_lasts() {
        let rates = Rates {
            gpu_usd_per_hour: 0.9,
            disk_usd_per_hour: 0.1,
        };
        for (spent, expected) in [
            (50.0, None),
            (90.0, Some("held back")),
            (99.9, Some("are spent")),
        ] {
            let found = used_up(100.0, spent, rates);
            assert_eq!(found.is_some(), expected.is_some(), "{spent} {found:?}");
            assert!(found.is_none_or(|text| text.contains(expected.unwrap())));
            let raised = raised_usd(100.0, spent);
            assert_eq!(used_up(raised, spent, rates), None, "{raised}");
        }
        assert_eq!(raised_usd(0.05, 0.04), 1.04);
    }

    #[test]
    fn whoever_watches_spends_what_is_held_back() {
        let rates = Rates {
            gpu_usd_per_hour: 0.9,
            disk_usd_per_hour: 0.1,
        };
        for (spent, left_s) in [(83.0, 120), (90.0, 120), (99.5, 120), (99.9, 0), (101.0, 0)] {
            let found = watched(Some(100.0), spent, rates).unwrap();
            assert_eq!(found.left.as_secs_f64().round() as u64, left_s, "{spent}");
        }
        // It lasts 108 s; 27 of them are held back, and a quarter of these is the watcher's.
        let little = watched(Some(0.03), 0.0299, rates).unwrap();
        assert_eq!(little.left, Duration::ZERO);
        let little = watched(Some(0.03), 0.0240, rates).unwrap();
        assert_eq!(little.left.as_millis(), 6750);
        let plenty = watched(Some(100.0), 0.0, rates).unwrap();
        assert_eq!(plenty, alone(Some(100.0), 0.0, rates).unwrap());
    }
}
