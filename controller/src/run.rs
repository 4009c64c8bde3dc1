//! States of a run and which may follow which, and what each word of the provider means in each of them (pure).
//! [`lifecycle`] carries a run along the states, [`recovery`] decides what follows an interruption.

pub mod alarms;
mod attempts;
mod bandwidth;
pub mod behind;
pub mod bidding;
mod bills;
mod boxes;
pub mod bringing_up;
pub mod budget;
pub mod busy;
pub mod causes;
pub mod choosing;
pub mod claims;
pub mod container;
mod crashing;
mod deadline;
pub mod diagnosis;
pub mod ended_alone;
pub(crate) mod endings;
pub mod environment;
pub(crate) mod fetching;
pub mod finishing;
pub mod foresight;
pub(crate) mod halt;
pub(crate) mod handing;
pub mod interruptions;
pub mod judge;
pub mod known;
pub mod label;
pub mod late;
pub mod lease;
pub mod lifecycle;
mod line;
mod loading;
pub mod machines;
pub(crate) mod market_eye;
pub mod marks;
pub(crate) mod metering;
mod never_up;
pub mod next;
pub mod not_saved;
pub mod observing;
pub mod offering;
pub mod older_boxes;
pub(crate) mod own_end;
pub mod past;
pub mod planned;
pub mod prediction;
mod preparing;
pub mod prepaying;
pub mod pricing;
mod proving;
mod pulling;
pub(crate) mod reaching;
pub mod readiness;
mod rebidding;
pub mod recovery;
pub mod renting;
pub mod restarts;
mod room;
pub mod runtime;
pub(crate) mod searching;
pub mod siblings;
pub mod silence;
pub mod site;
pub mod status;
pub mod summary;
mod tending;
pub mod to_come;
pub mod trained;
pub mod vigil;
pub mod volumes;
pub mod waiting;
mod waking;
pub(crate) mod way_on;
pub mod windows;
mod wiping;

use std::fmt;

pub(crate) use boxes::has_bucket;

use serde::{Deserialize, Serialize};

/// Highest step that is believed: names of commits have twelve digits. What prints more is not counting steps.
pub const MAX_STEP: u64 = 999_999_999_999;

/// A step as a box tells it, which may be anything.
pub fn believable_step(step: Option<u64>) -> Option<u64> {
    step.filter(|step| *step <= MAX_STEP)
}

/// Where an attempt stands. Recorded before and after each step, so that any later command picks it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Written down; nothing was asked of the provider.
    Planned,
    /// The intent to rent, with its label, is stored; a request may be on its way.
    Renting,
    /// Rented; the provider prepares it.
    Loading,
    /// Reachable by ssh; the agent is put on it and the box is checked.
    Preparing,
    /// Code is copied, setup runs, a checkpoint is restored.
    Syncing,
    /// A short session proves code and box before the training.
    Smoke,
    /// The training session runs.
    Running,
    /// The session ended well; last checkpoints and results are brought to safety.
    Finishing,
    /// Results are verified; the box may go.
    Collected,
    /// The provider confirmed that the instance does not exist. An end.
    Gone,
    /// The market took the box back. Its disk may still cost storage until it is destroyed.
    Interrupted,
    /// The session or a step failed; the box is kept, stopped or gone by policy.
    Failed,
    /// The market took the box back, and it is waited for: its disk holds the training.
    Waiting,
    /// Ended on request; the box is kept, stopped or gone by policy.
    Stopped,
    /// Provider and heartbeat agree that the box is no more.
    Lost,
}

impl State {
    /// Every state, in the order of a good run, then the ways in which it ends otherwise.
    pub const ALL: [State; 15] = [
        Self::Planned,
        Self::Renting,
        Self::Loading,
        Self::Preparing,
        Self::Syncing,
        Self::Smoke,
        Self::Running,
        Self::Finishing,
        Self::Collected,
        Self::Gone,
        Self::Interrupted,
        Self::Waiting,
        Self::Failed,
        Self::Stopped,
        Self::Lost,
    ];

    /// Its name, as stored, printed and used in fault points.
    pub fn name(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Renting => "renting",
            Self::Loading => "loading",
            Self::Preparing => "preparing",
            Self::Syncing => "syncing",
            Self::Smoke => "smoke",
            Self::Running => "running",
            Self::Finishing => "finishing",
            Self::Collected => "collected",
            Self::Gone => "gone",
            Self::Interrupted => "interrupted",
            Self::Waiting => "waiting",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
            Self::Lost => "lost",
        }
    }

    /// The state of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// On the way from planned to collected: the attempt has work to do.
    pub fn is_active(self) -> bool {
        matches!(
            self,
            Self::Planned
                | Self::Renting
                | Self::Loading
                | Self::Preparing
                | Self::Syncing
                | Self::Smoke
                | Self::Running
                | Self::Finishing
        )
    }

    /// On the way to a training session, which does not run yet.
    pub fn is_bring_up(self) -> bool {
        self.is_active() && !matches!(self, Self::Running | Self::Finishing)
    }

    /// Nothing follows: the instance is known not to exist.
    pub fn is_end(self) -> bool {
        self == Self::Gone
    }

    /// Whether `next` may be recorded after this state. A state may be recorded again, because every step may be repeated.
    pub fn may_follow(self, next: Self) -> bool {
        use State::*;
        if self == next {
            return true;
        }
        match (self, next) {
            // Nothing was rented, or the provider confirmed the end: there is no way back.
            (Gone, _) => false,
            (_, Planned) => false,
            // One step forward. A restart of the container sends an attempt back from nothing: it is interrupted.
            (Planned, Renting)
            | (Renting, Loading)
            | (Loading, Preparing)
            | (Preparing, Syncing)
            | (Syncing, Smoke | Running)
            | (Smoke, Running)
            | (Running, Finishing)
            | (Finishing, Collected) => true,
            // Anything that is under way can be ended by the market, by a failure, by a person or by the host.
            (from, Interrupted) => (from.is_active() && from != Planned) || from == Waiting,
            (from, Failed | Stopped | Lost) => {
                from.is_active() || matches!(from, Interrupted | Waiting)
            }
            // The same box is waited for, and comes up again when the market gives it back.
            (Interrupted, Waiting) | (Waiting, Loading) => true,
            // The box may be found gone, or be ended, from anywhere.
            (_, Gone) => true,
            _ => false,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::State::{self, *};

    fn check(from: State, next: State, expected: bool) {
        assert_eq!(from.may_follow(next), expected, "{from} -> {next}");
    }

    #[test]
    fn a_good_run_goes_forward_one_step_at_a_time() {
        let way = [
            Planned, Renting, Loading, Preparing, Syncing, Smoke, Running, Finishing, Collected,
            Gone,
        ];
        for (i, from) in way.iter().enumerate() {
            for (j, next) in way.iter().enumerate() {
                // Gone is reachable from everywhere: the box can be found missing at any time. Not every run has a smoke.
                let skips = (*from, *next) == (Syncing, Running);
                let expected = j == i || j == i + 1 || skips || (*next == Gone && *from != Gone);
                check(*from, *next, expected);
            }
        }
    }

    #[test]
    fn nothing_follows_gone() {
        for next in State::ALL {
            check(Gone, next, next == Gone);
        }
    }

    #[test]
    fn what_is_under_way_can_be_interrupted_failed_stopped_or_lost() {
        for from in State::ALL {
            let rented = from.is_active() && from != Planned;
            let went = matches!(from, Interrupted | Waiting);
            check(from, Interrupted, rented || went);
            check(from, Waiting, went);
            for next in [Failed, Stopped, Lost] {
                check(from, next, from.is_active() || went || from == next);
            }
        }
    }

    #[test]
    fn no_ended_attempt_runs_again() {
        for from in [Collected, Gone, Interrupted, Failed, Stopped, Lost] {
            for next in [
                Planned, Renting, Loading, Preparing, Syncing, Smoke, Running,
            ] {
                check(from, next, false);
            }
        }
    }

    #[test]
    fn names_lead_back_to_their_state() {
        for state in State::ALL {
            assert_eq!(State::from_name(state.name()), Some(state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.name());
        }
        assert_eq!(State::from_name("paused"), None);
    }
}
