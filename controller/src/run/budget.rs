//! How a running box stands to `limits.budget`, while somebody watches ([`standing`]) and alone ([`alone`]) (pure).

use std::{fmt, time::Duration};

use serde::Serialize;

use crate::{agent_client::Allowance, ledger::Rates, ui::text};

/// A run is told that its money ends when that is nearer than this.
const WARN: Duration = Duration::from_secs(3600);
/// The box is finished in order this long before the money ends: a last checkpoint and results take their time.
const FINISH: Duration = Duration::from_secs(10 * 60);
/// A small budget is not spent on caution: of its whole time, at most this share is left for finishing.
const FINISH_SHARE: f64 = 0.1;

/// Whoever watches finishes a box this long before it would do so by itself: the two do not get into each other's way ...
const LEAD: Duration = Duration::from_secs(120);
/// ... and at most this part of the time that its end may take.
const LEAD_PART: u32 = 4;

/// `limits.budget`, and what of it is not there to train with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Purse {
    /// The budget, dollars.
    pub budget_usd: f64,
    /// A box that stopped itself waits for somebody, and its disk is paid for meanwhile: so many days of that are held back.
    pub storage_days: f64,
}

/// A budget of which a box would leave nothing to train with, because of what is held back for its disk.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Shortage {
    /// The budget, dollars.
    pub budget_usd: f64,
    /// What was spent of it, dollars.
    pub spent_usd: f64,
    /// What is held back, dollars ...
    pub held_usd: f64,
    /// ... for so many days ...
    pub storage_days: f64,
    /// ... of a disk at this price, $/h.
    pub disk_usd_per_hour: f64,
    /// GPU of the box for which it does not do, $/h; 0: whatever it costs.
    #[serde(skip)]
    pub gpu_usd_per_hour: f64,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = spent_words(self.spent_usd, self.budget_usd);
        if self.held_usd <= 0.0 {
            return f.write_str(&words);
        }
        let held = format!(
            "{} for {} days of its disk at {}, should it stop while nobody looks (`limits.storage_days`)",
            text::usd(self.held_usd),
            self.storage_days,
            text::usd_per_hour(self.disk_usd_per_hour)
        );
        match self.spent_usd {
            none if none <= 0.0 => write!(
                f,
                "the budget of {} leaves nothing to train with beside what is held back: {held}",
                text::usd(self.budget_usd)
            ),
            all if all >= self.budget_usd => write!(f, "{words}, and {held} would be held back"),
            _ => write!(f, "{words}, and the rest is held back: {held}"),
        }
    }
}

/// How much of a budget is spent, a clause (pure).
pub fn spent_words(spent_usd: f64, budget_usd: f64) -> String {
    let (spent, budget) = (text::usd(spent_usd), text::usd(budget_usd));
    match spent_usd > budget_usd && spent != budget {
        true => format!(
            "{spent} are spent, {} more than the budget of {budget}",
            text::usd(spent_usd - budget_usd)
        ),
        false => format!("{spent} of the budget of {budget} are spent"),
    }
}

impl Shortage {
    /// What helps, in the words of a run file. `expected_usd`: what the run is expected to cost from now on, if it goes badly; 0: nobody
    /// knows. A budget that is named holds that, too, so that nobody is told of a second one.
    pub fn remedy(&self, expected_usd: f64) -> String {
        // Nothing is held back of what is spent.
        let other = match self.held_usd > 0.0 {
            true => self.other_remedies(),
            false => String::new(),
        };
        let budget = self.enough_usd(expected_usd);
        format!("raise `limits.budget`, such as to {budget:.0}{other}")
    }

    /// A budget that does, whole dollars. `expected_usd`: as [`Self::remedy`] takes it.
    pub fn enough_usd(&self, expected_usd: f64) -> f64 {
        let purse = Purse {
            budget_usd: self.budget_usd,
            storage_days: self.storage_days,
        };
        let rates = Rates {
            gpu_usd_per_hour: self.gpu_usd_per_hour,
            disk_usd_per_hour: self.disk_usd_per_hour,
        };
        let whole_usd = self.spent_usd + self.held_usd + expected_usd;
        raised_usd(purse, self.spent_usd, rates)
            .max(whole_usd)
            .ceil()
    }

    fn other_remedies(&self) -> String {
        // Half of what there is trains, and half is held back.
        let left_usd = (self.budget_usd - self.spent_usd).max(0.0);
        let days = (left_usd / 2.0 / (self.disk_usd_per_hour * 24.0)).floor();
        format!(
            ", take a smaller `resources.disk`, or hold back less: `limits.storage_days: {days:.0}`"
        )
    }
}

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

/// Holds what was spent, and what an hour costs now, against the budget without what is held back for a disk at this price: whenever
/// the lid is closed, a box that stops then is paid for as long as was promised.
pub fn standing(
    purse: Option<Purse>,
    spent_usd: f64,
    usd_per_hour: f64,
    disk_usd_per_hour: f64,
) -> Standing {
    let Some(purse) = purse else {
        return Standing::Fine;
    };
    if spent_usd >= purse.budget_usd {
        return Standing::Finish {
            left: Duration::ZERO,
        };
    }
    if usd_per_hour <= 0.0 {
        return Standing::Fine;
    }
    let rest_usd = purse.budget_usd - spent_usd;
    let held_usd = held_back_usd(purse, disk_usd_per_hour);
    let left = lasts(rest_usd - held_usd, usd_per_hour);
    let finish = finish(purse.budget_usd, usd_per_hour);
    if left <= finish + lead(finish) {
        // A last checkpoint is worth minutes of its disk: the end is paid from what is held back where nothing else is left.
        let end = finish.min(lasts(rest_usd, usd_per_hour));
        Standing::Finish {
            left: left.max(end),
        }
    } else if left < WARN {
        Standing::Low { left }
    } else {
        Standing::Fine
    }
}

/// How long a box may train on alone; `None`: no budget, or nothing costs anything. Its end, and `storage_days` of its disk, are paid from
/// what is left then.
pub fn alone(purse: Option<Purse>, spent_usd: f64, rates: Rates) -> Option<Allowance> {
    let purse = purse?;
    let usd_per_hour = rates.total();
    if usd_per_hour <= 0.0 {
        return None;
    }
    let left_usd = purse.budget_usd - spent_usd - held_back_usd(purse, rates.disk_usd_per_hour);
    let finish = finish(purse.budget_usd, usd_per_hour);
    let left = lasts(left_usd, usd_per_hour).saturating_sub(finish);
    Some(Allowance { left, finish })
}

/// The same while somebody watches, who finishes the box in order: it is not to end before him, because of the disk of an older box that he
/// is about to destroy. `disk_usd_per_hour`: its own.
pub fn watched(
    purse: Option<Purse>,
    spent_usd: f64,
    rates: Rates,
    disk_usd_per_hour: f64,
) -> Option<Allowance> {
    let alone = alone(purse, spent_usd, rates)?;
    let left = match standing(purse, spent_usd, rates.total(), disk_usd_per_hour) {
        Standing::Finish { .. } => alone.left,
        Standing::Fine | Standing::Low { .. } => alone.left.max(lead(alone.finish)),
    };
    Some(Allowance { left, ..alone })
}

/// Why a run cannot train on a box at these prices within its budget; `None`: it can.
pub fn shortage(purse: Purse, spent_usd: f64, rates: Rates) -> Option<Shortage> {
    let disk_usd_per_hour = rates.disk_usd_per_hour;
    let standing = standing(Some(purse), spent_usd, rates.total(), disk_usd_per_hour);
    matches!(standing, Standing::Finish { .. }).then(|| Shortage {
        budget_usd: purse.budget_usd,
        spent_usd,
        held_usd: held_back_usd(purse, disk_usd_per_hour),
        storage_days: purse.storage_days,
        disk_usd_per_hour,
        gpu_usd_per_hour: rates.gpu_usd_per_hour,
    })
}

/// A budget with which a run can train on for as long again.
pub fn raised_usd(purse: Purse, spent_usd: f64, rates: Rates) -> f64 {
    let held_usd = held_back_usd(purse, rates.disk_usd_per_hour);
    (2.0 * purse.budget_usd).max(spent_usd + held_usd + rates.total().max(1.0))
}

/// What is held back for the disk of a box that is stopped, dollars.
pub fn held_back_usd(purse: Purse, disk_usd_per_hour: f64) -> f64 {
    disk_usd_per_hour * purse.storage_days * 24.0
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

/// How long before its own end whoever watches finishes a box.
fn lead(finish: Duration) -> Duration {
    LEAD.min(finish / LEAD_PART)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(budget: Option<f64>, spent: f64, rate: f64, expected: &str) {
        let nothing_held = |budget_usd| Purse {
            budget_usd,
            storage_days: 0.0,
        };
        let found = match standing(budget.map(nothing_held), spent, rate, 0.1) {
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

    /// With a week held back.
    fn purse(budget_usd: f64) -> Purse {
        Purse {
            budget_usd,
            storage_days: 7.0,
        }
    }

    fn rates(gpu_usd_per_hour: f64, disk_usd_per_hour: f64) -> Rates {
        Rates {
            gpu_usd_per_hour,
            disk_usd_per_hour,
        }
    }

    #[test]
    fn a_box_that_is_alone_stops_early_enough_to_pay_a_week_of_its_disk() {
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
            // Of a small budget the same is held back as of a large one.
            (17.8, 0.0, (0.9, 0.1), 3600 - 600, 600),
            (10.0, 0.0, (0.9, 0.1), 0, 600),
        ] {
            let rates = rates(gpu, disk);
            let found = alone(Some(purse(budget)), spent, rates).unwrap();
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
            let week = held_back_usd(purse(budget), disk);
            assert!(stopped + week <= budget + 1e-9 || left_s == 0);
        }
        assert_eq!(alone(None, 5.0, rates(1.0, 1.0)), None);
        assert_eq!(alone(Some(purse(5.0)), 0.0, rates(0.0, 0.0)), None);
        let much = alone(Some(purse(1e9)), 0.0, rates(1e-12, 0.0)).unwrap();
        assert!(much.left > Duration::from_secs(1 << 40), "{much:?}");
        let none = Purse {
            storage_days: 0.0,
            ..purse(1.0)
        };
        let found = alone(Some(none), 0.0, rates(0.9, 0.1)).unwrap();
        assert_eq!(found.left.as_secs_f64().round(), 3600.0 - 360.0);
    }

    #[test]
    fn a_used_up_budget_is_raised_to_one_that_lasts() {
        let rates = rates(0.9, 0.1);
        for (spent, is_short) in [(50.0, false), (90.0, true), (99.9, true), (300.0, true)] {
            let found = shortage(purse(100.0), spent, rates);
            assert_eq!(found.is_some(), is_short, "{spent} {found:?}");
            let raised = raised_usd(purse(100.0), spent, rates);
            assert_eq!(shortage(purse(raised), spent, rates), None, "{raised}");
        }
        assert_eq!(raised_usd(purse(0.05), 0.04, Rates::default()), 1.04);
        assert_eq!(shortage(purse(1.0), 0.5, Rates::default()), None);
        assert!(shortage(purse(1.0), 1.0, Rates::default()).is_some());
    }

    #[test]
    fn a_shortage_says_what_is_held_back_why_and_what_to_change() {
        let told = |spent, disk| {
            let found = shortage(purse(2.0), spent, rates(0.2, disk)).unwrap();
            (found.to_string(), found.remedy(0.0))
        };
        let (text, remedy) = told(0.0, 0.0125);
        assert_eq!(
            text,
            "the budget of $2.00 leaves nothing to train with beside what is held back: $2.10 for 7 days of its disk at $0.013/h, \
             should it stop while nobody looks (`limits.storage_days`)"
        );
        assert_eq!(
            remedy,
            "raise `limits.budget`, such as to 4, take a smaller `resources.disk`, or hold back less: `limits.storage_days: 3`"
        );
        // What it is expected to cost is in it, beside what is held back.
        let found = shortage(purse(2.0), 0.0, rates(0.2, 0.0125)).unwrap();
        let remedy = found.remedy(8.5);
        assert!(
            remedy.starts_with("raise `limits.budget`, such as to 11,"),
            "{remedy}"
        );
        let (text, _) = told(1.5, 0.01);
        assert_eq!(
            text,
            "$1.50 of the budget of $2.00 are spent, and the rest is held back: $1.68 for 7 days of its disk at $0.010/h, should it \
             stop while nobody looks (`limits.storage_days`)"
        );
        assert_eq!(told(2.0, 0.0).0, "$2.00 of the budget of $2.00 are spent");
        // Nothing is left of which anything could be held back.
        assert_eq!(
            told(2.5, 0.0).0,
            "$2.50 are spent, $0.50 more than the budget of $2.00"
        );
        let (text, remedy) = told(2.5, 0.01);
        assert_eq!(
            text,
            "$2.50 are spent, $0.50 more than the budget of $2.00, and $1.68 for 7 days of its disk at $0.010/h, should it stop while \
             nobody looks (`limits.storage_days`) would be held back"
        );
        assert!(remedy.starts_with("raise `limits.budget`"), "{remedy}");
    }

    #[test]
    fn whoever_watches_finishes_a_box_before_it_does_so_itself_and_leaves_its_disk_a_week() {
        let rates = rates(0.9, 0.1);
        let purse = purse(100.0);
        // 16.8 are held back: after 83.2 nothing is left to train with.
        for spent in [0.0, 50.0, 82.9, 83.0, 83.03, 83.1, 83.2, 90.0, 99.9] {
            let alone = alone(Some(purse), spent, rates).unwrap();
            let own = watched(Some(purse), spent, rates, 0.1).unwrap();
            assert_eq!(own, alone, "{spent}: what is held back is nobody's");
            let left = match standing(Some(purse), spent, 1.0, 0.1) {
                Standing::Finish { left } => left,
                _ => {
                    assert!(alone.left >= LEAD, "{spent}: {alone:?}");
                    continue;
                }
            };
            assert!(alone.left <= LEAD, "{spent}: {alone:?}");
            // Its end has its minutes, while there is any money.
            let least = FINISH.as_secs_f64().min((100.0 - spent) * 3600.0);
            assert!(left.as_secs_f64() + 1e-6 >= least, "{spent}: {left:?}");
            if !alone.left.is_zero() {
                let ended = spent + left.as_secs_f64() / 3600.0;
                assert!(ended + held_back_usd(purse, 0.1) <= 100.0 + 1e-9, "{spent}");
            }
        }
        // An older box costs its disk until its successor trains: that ends nobody who is watched.
        let two = Rates {
            disk_usd_per_hour: 0.2,
            ..rates
        };
        let found = watched(Some(purse), 80.0, two, 0.1).unwrap();
        assert_eq!(found.left, LEAD);
        assert_eq!(alone(Some(purse), 80.0, two).unwrap().left, Duration::ZERO);
    }
}
