//! What follows an interruption or a failed bring-up (pure): another box, the same one when it is back, or the end, with the reason
//! in numbers.

use std::{collections::BTreeSet, fmt, time::Duration};

use crate::{
    ledger::Rates,
    run::{
        State,
        bidding::{Bid, Rivals},
        budget::{self, Purse, Shortage},
    },
    spec::{RecoverPolicy, Resources, RunSpec},
    store::AttemptRecord,
    ui::text,
};

/// Boxes in a row that never came up before a run gives up: after three, the reason is rarely the host.
pub const BRING_UPS: u32 = 3;
/// A container that was given back runs within a minute or two; after that it is loaded like any other.
const COMING: Duration = Duration::from_secs(5 * 60);

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub enum Move {
    /// Rent another box and resume there.
    Elsewhere,
    /// Wait for the same box.
    Here,
    /// Whichever of both is expected to cost less, by the market's prices.
    Choose,
    /// End the run.
    GiveUp(GiveUp),
}

/// Why a run is not carried on.
#[derive(Debug, Clone, PartialEq)]
pub enum GiveUp {
    /// `recover.policy` is `never`.
    Policy,
    /// `recover.policy` is `ask`.
    Ask,
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
    /// Of `limits.budget` no more is left than a stopped box's disk costs until somebody comes.
    HeldBack(Shortage),
    /// [`BRING_UPS`] boxes in a row did not come up.
    BringUps,
    /// The box was back and did not come up, and only its disk holds what was trained.
    NotUp,
    /// The box was not back within `recover.wait`.
    Waited {
        /// That limit.
        limit: Duration,
    },
}

impl fmt::Display for GiveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy => f.write_str("`recover.policy` is `never`"),
            Self::Ask => f.write_str("`recover.policy` is `ask`, so where it goes on is your word"),
            Self::Attempts { used } => {
                write!(f, "all {used} attempts of `recover.attempts` are used")
            }
            Self::Budget {
                spent_usd,
                budget_usd,
            } => {
                f.write_str(&budget::spent_words(*spent_usd, *budget_usd))
            }
            Self::HeldBack(shortage) => shortage.fmt(f),
            Self::NotUp => {
                f.write_str("its box was back, but did not come up, and there is no bucket to go on from elsewhere")
            }
            Self::BringUps => write!(f, "{BRING_UPS} boxes in a row did not come up"),
            Self::Waited { limit } => write!(
                f,
                "its box was not back within `recover.wait` of {}",
                text::duration(*limit)
            ),
        }
    }
}

/// What the record tells of a run whose newest attempt ended without its doing.
#[derive(Debug, Clone, Copy)]
pub struct Past<'a> {
    /// All attempts, oldest first.
    pub attempts: &'a [AttemptRecord],
    /// Numbers of those that the market took back, trained or not.
    pub taken: &'a BTreeSet<u32>,
    /// How often a box that was taken back came back and was gone on with.
    pub returns: u32,
    /// The newest box was back, and did not come up.
    pub failed_here: bool,
    /// What all of it cost so far, dollars.
    pub spent_usd: f64,
}

/// Decides whether a run whose newest attempt ended without its doing goes on, and where.
pub fn decide(spec: &RunSpec, past: &Past<'_>) -> Move {
    // A box that never trained was not a life of the run, unless somebody outbid us for it: the policy is about interruptions.
    let was_a_life =
        |attempt: &&AttemptRecord| attempt.started_us > 0 || past.taken.contains(&attempt.number);
    let attempts = past.attempts;
    let lives = attempts.iter().filter(was_a_life).count() as u32 + past.returns;
    let failed_in_a_row = attempts
        .iter()
        .rev()
        .take_while(|attempt| !was_a_life(attempt))
        .count() as u32;
    if failed_in_a_row >= BRING_UPS {
        return Move::GiveUp(GiveUp::BringUps);
    }
    if let Some(spent) = over_budget(spec.limits.budget_usd, past.spent_usd) {
        return Move::GiveUp(spent);
    }
    if failed_in_a_row == 0 {
        match spec.recover.policy {
            RecoverPolicy::Never => return Move::GiveUp(GiveUp::Policy),
            RecoverPolicy::Ask => return Move::GiveUp(GiveUp::Ask),
            RecoverPolicy::Here | RecoverPolicy::Elsewhere | RecoverPolicy::Price => {}
        }
        if lives >= spec.recover.attempts {
            return Move::GiveUp(GiveUp::Attempts { used: lives });
        }
    }
    // Only a box that is there and has trained holds anything to wait for.
    let worth_waiting = attempts.last().is_some_and(|last| {
        last.state == State::Interrupted && last.instance.is_some() && last.started_us > 0
    });
    let has_bucket = spec
        .checkpoints
        .as_ref()
        .is_some_and(|checkpoints| checkpoints.to.is_some());
    match spec.recover.policy {
        RecoverPolicy::Here if worth_waiting && !past.failed_here => Move::Here,
        // Without a bucket its disk holds the only checkpoint: elsewhere the training would begin again.
        RecoverPolicy::Price if worth_waiting && !past.failed_here && !has_bucket => Move::Here,
        RecoverPolicy::Price if worth_waiting && !past.failed_here => Move::Choose,
        RecoverPolicy::Here | RecoverPolicy::Price if worth_waiting && !has_bucket => {
            Move::GiveUp(GiveUp::NotUp)
        }
        _ => Move::Elsewhere,
    }
}

fn over_budget(budget_usd: Option<f64>, spent_usd: f64) -> Option<GiveUp> {
    let budget_usd = budget_usd.filter(|budget_usd| spent_usd >= *budget_usd)?;
    Some(GiveUp::Budget {
        spent_usd,
        budget_usd,
    })
}

/// How a box that is waited for stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// The market does not know it any more.
    Gone,
    /// Somebody else has its GPU.
    Away,
    /// It was given back, and its container comes up.
    Coming,
    /// It can be reached.
    Back,
}

/// A run that waits for its box.
#[derive(Debug, Clone, Copy)]
pub struct Wait {
    /// How the box stands.
    pub presence: Presence,
    /// Since it was given back and comes up, where it does.
    pub coming: Duration,
    /// Since the wait began.
    pub waited: Duration,
    /// `recover.wait`.
    pub limit: Duration,
    /// What the run cost so far, dollars.
    pub spent_usd: f64,
    /// `limits.budget`, and what is held back of it.
    pub purse: Option<Purse>,
    /// What is bid, and what that has to keep to.
    pub bid: Bid,
    /// Who else wants the box.
    pub rivals: Rivals,
    /// Since the bid was raised last; `None`: not yet in this wait.
    pub since_bid: Option<Duration>,
    /// Bids in this wait.
    pub bids: usize,
}

/// What to do about a box that is waited for.
#[derive(Debug, Clone, PartialEq)]
pub enum Patience {
    /// Look again.
    Wait,
    /// Bid this much, $/h.
    Bid(f64),
    /// Go on there.
    GoOn,
    /// Another one is cheaper by now.
    Leave,
    /// It will not come back.
    Gone,
    /// End the run.
    GiveUp(GiveUp),
}

/// Decides whether to wait on for a box.
pub fn here(wait: &Wait) -> Patience {
    if wait.presence == Presence::Gone {
        return Patience::Gone;
    }
    if let Some(spent) = over_budget(wait.purse.map(|purse| purse.budget_usd), wait.spent_usd) {
        return Patience::GiveUp(spent);
    }
    match wait.presence {
        Presence::Back => return Patience::GoOn,
        // Whoever loads a box has the deadlines for one that does not come up.
        Presence::Coming if wait.coming >= COMING => return Patience::GoOn,
        Presence::Coming => return Patience::Wait,
        Presence::Gone | Presence::Away => {}
    }
    // A box that is given up stays stopped until somebody comes: a wait leaves enough for that.
    let disk = Rates {
        disk_usd_per_hour: wait.bid.storage_usd_per_hour,
        ..Rates::default()
    };
    // One that comes back in a moment costs next to nothing: it is not given up for money at once.
    if wait.waited >= COMING
        && let Some(purse) = wait.purse
        && let Some(shortage) = budget::shortage(purse, wait.spent_usd, disk)
    {
        return Patience::GiveUp(GiveUp::HeldBack(shortage));
    }
    if wait.waited >= wait.limit {
        return Patience::GiveUp(GiveUp::Waited { limit: wait.limit });
    }
    let (bid, bids) = (&wait.bid, wait.bids);
    let raised = bid.raised(wait.rivals, wait.waited, bids, wait.since_bid);
    raised.map_or(Patience::Wait, Patience::Bid)
}

/// What may be bid for a box at most, $/h, by what the run file says; `None`: it says nothing.
pub fn ceiling(resources: &Resources, storage_usd_per_hour: f64) -> Option<f64> {
    let by_price = resources
        .max_price_usd_per_hour
        .map(|max| max - storage_usd_per_hour);
    match (resources.bid_max_usd_per_hour, by_price) {
        (Some(bid), Some(price)) => Some(bid.min(price)),
        (bid, price) => bid.or(price),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempts(trained: &[bool]) -> Vec<AttemptRecord> {
        let attempt = |(index, trained): (usize, &bool)| AttemptRecord {
            instance: None,
            started_us: i64::from(*trained),
            ..crate::run::summary::attempt_for_tests(index as u32 + 1)
        };
        trained.iter().enumerate().map(attempt).collect()
    }

    fn taken_of(taken: &[u32]) -> BTreeSet<u32> {
        taken.iter().copied().collect()
    }

    #[test]
    fn an_outbid_before_the_training_is_an_interruption_and_a_box_that_does_not_come_up_is_not() {
        let mut spec = RunSpec::from_flags_for_tests();
        spec.recover.attempts = 3;
        let decided = |spec: &RunSpec, trained: &[bool], taken: &[u32], returns: u32| {
            let past = Past {
                attempts: &attempts(trained),
                taken: &taken_of(taken),
                returns,
                failed_here: false,
                spent_usd: 0.0,
            };
            decide(spec, &past)
        };
        let check = |trained: &[bool], taken: &[u32], returns: u32, expected: Move| {
            assert_eq!(decided(&spec, trained, taken, returns), expected);
        };
        let no = false;
        check(&[no, no], &[], 0, Move::Elsewhere);
        check(&[no, no, no], &[], 0, Move::GiveUp(GiveUp::BringUps));
        check(&[no, no, no, no], &[4], 0, Move::Elsewhere);
        check(&[no, no], &[1, 2], 0, Move::Elsewhere);
        let used = Move::GiveUp(GiveUp::Attempts { used: 3 });
        check(&[no, no, no], &[1, 2, 3], 0, used.clone());
        check(&[true, no, true], &[1, 2, 3], 0, used.clone());
        // A return to the same box is a life, too.
        check(&[true], &[1], 1, Move::Elsewhere);
        check(&[true], &[1], 2, used);
        for (policy, why) in [
            (RecoverPolicy::Never, GiveUp::Policy),
            (RecoverPolicy::Ask, GiveUp::Ask),
        ] {
            spec.recover.policy = policy;
            assert_eq!(decided(&spec, &[no], &[1], 0), Move::GiveUp(why));
            assert_eq!(decided(&spec, &[no], &[], 0), Move::Elsewhere);
        }
    }

    #[test]
    fn only_a_box_that_was_taken_back_and_has_trained_is_waited_for() {
        let mut spec = RunSpec::from_flags_for_tests();
        spec.recover.policy = RecoverPolicy::Here;
        spec.limits.budget_usd = Some(2.0);
        let without_bucket = {
            let mut spec = spec.clone();
            spec.checkpoints = None;
            spec
        };
        let check = |state, trained, instance, failed_here, spent_usd, expected: Move| {
            let mut attempts = attempts(&[trained]);
            attempts[0].state = state;
            attempts[0].instance = instance;
            let past = Past {
                attempts: &attempts,
                taken: &taken_of(&[1]),
                returns: 0,
                failed_here,
                spent_usd,
            };
            assert_eq!(decide(&spec, &past), expected, "{state} {trained}");
        };
        let box_ = Some(7);
        check(State::Interrupted, true, box_, false, 0.0, Move::Here);
        check(State::Interrupted, true, box_, true, 0.0, Move::Elsewhere);
        let failed = {
            let mut attempts = attempts(&[true]);
            attempts[0].state = State::Interrupted;
            attempts[0].instance = box_;
            attempts
        };
        let past = Past {
            attempts: &failed,
            taken: &taken_of(&[1]),
            returns: 0,
            failed_here: true,
            spent_usd: 0.0,
        };
        assert_eq!(decide(&without_bucket, &past), Move::GiveUp(GiveUp::NotUp));
        let priced = {
            let mut spec = spec.clone();
            spec.recover.policy = RecoverPolicy::Price;
            spec
        };
        let back = Past {
            failed_here: false,
            ..past
        };
        assert_eq!(decide(&priced, &back), Move::Choose);
        let priced_without_bucket = {
            let mut spec = priced.clone();
            spec.checkpoints = None;
            spec
        };
        assert_eq!(decide(&priced_without_bucket, &back), Move::Here);
        assert_eq!(decide(&priced, &past), Move::Elsewhere);
        check(State::Interrupted, false, box_, false, 0.0, Move::Elsewhere);
        check(State::Interrupted, true, None, false, 0.0, Move::Elsewhere);
        check(State::Lost, true, box_, false, 0.0, Move::Elsewhere);
        let spent = GiveUp::Budget {
            spent_usd: 2.5,
            budget_usd: 2.0,
        };
        check(
            State::Interrupted,
            true,
            box_,
            false,
            2.5,
            Move::GiveUp(spent),
        );
    }

    #[test]
    fn a_box_is_waited_and_bid_for_until_time_or_money_is_over() {
        use Presence::{Away, Back, Coming, Gone};
        let limit = Duration::from_secs(3600);
        let check =
            |presence, waited_s, spent_usd, bid, ceiling, rivals: Rivals, expected: Patience| {
                let wait = Wait {
                    presence,
                    coming: Duration::from_secs(if presence == Coming { waited_s } else { 0 }),
                    waited: Duration::from_secs(waited_s),
                    limit,
                    spent_usd,
                    purse: Some(Purse {
                        budget_usd: 10.0,
                        storage_days: 7.0,
                    }),
                    bid: Bid {
                        usd_per_hour: bid,
                        headroom: 0.15,
                        ceiling_usd_per_hour: ceiling,
                        left_usd: None,
                        storage_usd_per_hour: 0.005,
                    },
                    rivals,
                    since_bid: None,
                    bids: 0,
                };
                assert_eq!(here(&wait), expected, "{wait:?}");
            };
        let max = Some(0.30);
        let over = Patience::GiveUp(GiveUp::Budget {
            spent_usd: 10.0,
            budget_usd: 10.0,
        });
        let none = Rivals::Unseen;
        let beat = Rivals::Beat(0.22);
        check(Away, 0, 1.0, 0.2, max, none, Patience::Wait);
        check(Away, 0, 1.0, 0.2, max, beat, Patience::Bid(0.253));
        check(Away, 0, 1.0, 0.2, None, beat, Patience::Wait);
        check(
            Away,
            3600,
            1.0,
            0.2,
            max,
            none,
            Patience::GiveUp(GiveUp::Waited { limit }),
        );
        check(Coming, 299, 1.0, 0.2, max, none, Patience::Wait);
        check(Coming, 300, 1.0, 0.2, max, none, Patience::GoOn);
        check(Back, 7200, 1.0, 0.2, max, none, Patience::GoOn);
        check(Back, 0, 10.0, 0.2, max, none, over.clone());
        check(Away, 0, 10.0, 0.2, max, none, over);
        check(Gone, 0, 10.0, 0.2, max, none, Patience::Gone);
        // A week of its disk costs $0.84. One that is back trains with that, too: whoever watches ends it in order.
        let held = Patience::GiveUp(GiveUp::HeldBack(Shortage {
            budget_usd: 10.0,
            spent_usd: 9.2,
            held_usd: 0.005 * 7.0 * 24.0,
            storage_days: 7.0,
            disk_usd_per_hour: 0.005,
            gpu_usd_per_hour: 0.0,
        }));
        check(Away, 10, 9.2, 0.2, max, none, Patience::Wait);
        check(Away, 300, 9.2, 0.2, max, none, held);
        check(Away, 10, 9.1, 0.24, max, none, Patience::Wait);
        check(Coming, 10, 9.2, 0.2, max, none, Patience::Wait);
        check(Back, 0, 9.2, 0.2, max, none, Patience::GoOn);
    }

    #[test]
    fn the_highest_bid_is_what_both_limits_of_the_run_file_allow() {
        let mut resources = RunSpec::from_flags_for_tests().resources;
        let mut check = |bid, price, expected| {
            resources.bid_max_usd_per_hour = bid;
            resources.max_price_usd_per_hour = price;
            assert_eq!(ceiling(&resources, 0.25), expected);
        };
        check(None, None, None);
        check(Some(0.5), None, Some(0.5));
        check(None, Some(0.5), Some(0.25));
        check(Some(0.5), Some(0.5), Some(0.25));
        check(Some(0.125), Some(0.5), Some(0.125));
    }
}
