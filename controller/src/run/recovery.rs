//! What follows an interruption or a failed bring-up (pure): another box, or the end, with the reason in numbers.

use std::{collections::BTreeSet, fmt};

use crate::{
    spec::{RecoverPolicy, RunSpec},
    store::AttemptRecord,
    ui::text,
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
        /// Attempts whose training started, or whose box the market took back.
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
                    "{} of the budget of {} are spent",
                    text::usd(*spent_usd),
                    text::usd(*budget_usd)
                )
            }
            Self::BringUps => write!(f, "{BRING_UPS} boxes in a row did not come up"),
        }
    }
}

/// Decides whether a run whose newest attempt ended without its doing gets another one.
///
/// `attempts` are all of the run, oldest first; `taken` are the numbers of those that the market took back, trained or not;
/// `spent_usd` is what they cost so far.
pub fn decide(
    spec: &RunSpec,
    attempts: &[AttemptRecord],
    taken: &BTreeSet<u32>,
    spent_usd: f64,
) -> Move {
    // A box that never trained was not a life of the run, unless somebody outbid us for it: the policy is about interruptions.
    let was_a_life =
        |attempt: &&AttemptRecord| attempt.started_us > 0 || taken.contains(&attempt.number);
    let lives = attempts.iter().filter(was_a_life).count() as u32;
    let failed_in_a_row = attempts
        .iter()
        .rev()
        .take_while(|attempt| !was_a_life(attempt))
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
    if failed_in_a_row == 0 {
        if spec.recover.policy == RecoverPolicy::Never {
            return Move::GiveUp(GiveUp::Policy);
        }
        if lives >= spec.recover.attempts {
            return Move::GiveUp(GiveUp::Attempts { used: lives });
        }
    }
    Move::Elsewhere
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{provider::Rental, run::State};

    fn attempts(trained: &[bool]) -> Vec<AttemptRecord> {
        let attempt = |(index, trained): (usize, &bool)| AttemptRecord {
            run: "r".to_owned(),
            number: index as u32 + 1,
            state: State::Gone,
            label: String::new(),
            rental: Rental::Interruptible,
            instance: None,
            machine_id: None,
            gpu: String::new(),
            gpu_usd_per_hour: 0.0,
            storage_usd_per_hour: 0.0,
            ssh: Vec::new(),
            created_us: 0,
            state_us: 0,
            started_us: i64::from(*trained),
            gone_us: 0,
            resumed_step: None,
            last_step: None,
            reason: None,
            last_event: 0,
            exit_code: None,
            reopened_us: 0,
            old_session_us: 0,
        };
        trained.iter().enumerate().map(attempt).collect()
    }

    #[test]
    fn an_outbid_before_the_training_is_an_interruption_and_a_box_that_does_not_come_up_is_not() {
        let mut spec = RunSpec::from_flags_for_tests();
        spec.recover.attempts = 3;
        let check = |trained: &[bool], taken: &[u32], expected: Move| {
            let taken = taken.iter().copied().collect();
            assert_eq!(decide(&spec, &attempts(trained), &taken, 0.0), expected);
        };
        let no = false;
        check(&[no, no], &[], Move::Elsewhere);
        check(&[no, no, no], &[], Move::GiveUp(GiveUp::BringUps));
        check(&[no, no, no, no], &[4], Move::Elsewhere);
        check(&[no, no], &[1, 2], Move::Elsewhere);
        let used = Move::GiveUp(GiveUp::Attempts { used: 3 });
        check(&[no, no, no], &[1, 2, 3], used.clone());
        check(&[true, no, true], &[1, 2, 3], used);
        spec.recover.policy = RecoverPolicy::Never;
        let taken = [1].into_iter().collect();
        assert_eq!(
            decide(&spec, &attempts(&[no]), &taken, 0.0),
            Move::GiveUp(GiveUp::Policy)
        );
    }
}
