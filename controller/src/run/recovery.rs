//! What follows an interruption or a failed bring-up (pure): another box, or the end, with the reason in numbers.

use std::fmt;

use crate::{
    spec::{RecoverPolicy, RunSpec},
    store::AttemptRecord,
};

/// Boxes in a row that never came up before a run gives up: after three, the reason is rarely the host.
pub const BRING_UPS: u32 = 3;

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub enum Move {
    /// Rent another box and resume there.
    Elsewhere,
    /// End the run.
    GiveUp(GiveUp),
}

/// Why a run is not carried on.
#[derive(Debug, Clone, PartialEq)]
pub enum GiveUp {
    /// `recover.policy` is `never`.
    Policy,
    /// `recover.attempts` is used up.
    Attempts {
        /// Attempts whose training started.
        used: u32,
    },
    /// `limits.budget` is used up.
    Budget {
        /// Dollars spent.
        spent_usd: f64,
        /// Dollars allowed.
        budget_usd: f64,
    },
    /// [`BRING_UPS`] boxes in a row did not come up.
    BringUps,
}

impl fmt::Display for GiveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy => f.write_str("`recover.policy` is `never`"),
            Self::Attempts { used } => {
                write!(f, "all {used} attempts of `recover.attempts` are used")
            }
            Self::Budget {
                spent_usd,
                budget_usd,
            } => {
                write!(
                    f,
                    "${spent_usd:.2} of the budget of ${budget_usd:.2} are spent"
                )
            }
            Self::BringUps => write!(f, "{BRING_UPS} boxes in a row did not come up"),
        }
    }
}

/// Decides whether a run whose newest attempt ended without its doing gets another one.
///
/// `attempts` are all of the run, oldest first; `spent_usd` is what they cost so far.
pub fn decide(spec: &RunSpec, attempts: &[AttemptRecord], spent_usd: f64) -> Move {
    let started = attempts
        .iter()
        .filter(|attempt| attempt.started_us > 0)
        .count() as u32;
    let failed_in_a_row = attempts
        .iter()
        .rev()
        .take_while(|attempt| attempt.started_us == 0)
        .count() as u32;
    if failed_in_a_row >= BRING_UPS {
        return Move::GiveUp(GiveUp::BringUps);
    }
    if let Some(budget_usd) = spec.limits.budget_usd
        && spent_usd >= budget_usd
    {
        return Move::GiveUp(GiveUp::Budget {
            spent_usd,
            budget_usd,
        });
    }
    // A box that never trained was not a life of the run: the policy is about interruptions.
    if failed_in_a_row == 0 {
        if spec.recover.policy == RecoverPolicy::Never {
            return Move::GiveUp(GiveUp::Policy);
        }
        if started >= spec.recover.attempts {
            return Move::GiveUp(GiveUp::Attempts { used: started });
        }
    }
    Move::Elsewhere
}
