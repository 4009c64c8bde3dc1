//! How a running box stands to `limits.budget` (pure).

use std::time::Duration;

/// A run is told that its money ends when that is nearer than this.
const WARN: Duration = Duration::from_secs(3600);
/// The box is finished in order this long before the money ends: a last checkpoint and results take their time.
const FINISH: Duration = Duration::from_secs(10 * 60);
/// A small budget is not spent on caution: of its whole time, at most this share is left for finishing.
const FINISH_SHARE: f64 = 0.1;

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
    let time = |usd: f64| {
        // A budget for a year and more is no matter of minutes.
        Duration::try_from_secs_f64(usd / usd_per_hour * 3600.0).unwrap_or(Duration::MAX)
    };
    let left = time(budget_usd - spent_usd);
    let finish = FINISH.min(time(budget_usd * FINISH_SHARE));
    if left <= finish {
        Standing::Finish { left }
    } else if left < WARN {
        Standing::Low { left }
    } else {
        Standing::Fine
    }
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
}
