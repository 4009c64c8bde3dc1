//! What each word of the provider means for a run (pure): one row for every status in every state, with a deadline and
//! an action. Facts: the provider's documented statuses and what was observed of their transitions.

use std::time::Duration;

use crate::{
    provider::{Actual, Instance, Intended, Rental},
    run::State,
};

/// What the provider says about an instance, as far as it decides anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// What it should be.
    pub intended: Intended,
    /// What it is.
    pub actual: Actual,
    /// Waits in the queue for its GPU.
    pub scheduling: bool,
    /// Rented by bid, so that the market may take it back.
    pub is_bid: bool,
}

impl Seen {
    /// Of an instance, and how it was rented: now and then the provider does not say how, and the record always knows.
    pub fn of(instance: &Instance, rented: Rental) -> Self {
        Self {
            intended: instance.intended,
            actual: instance.actual,
            scheduling: instance.scheduling,
            is_bid: instance.is_bid.unwrap_or(rented == Rental::Interruptible),
        }
    }
}

/// What a status means for the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Meaning {
    /// The provider prepares the box for the first time; GPU time is not charged yet.
    Starting,
    /// The container runs.
    Up,
    /// The container is being started again; processes are gone, the disk is not (recycling: it is).
    Restarting,
    /// It shall run, but waits for a GPU that somebody else has.
    Queued,
    /// The container ended by itself, or the host restarted it; the GPU is charged until it is stopped.
    ContainerEnded,
    /// Paused in memory: nothing runs, the GPU is charged.
    Paused,
    /// The host sends nothing; the box may well run. Only together with a missing heartbeat this is a verdict.
    HostSilent,
    /// The market stopped it: somebody pays more.
    TakenBack,
    /// Nobody may take it back, and yet it is stopped: by hand, by its own switch, or because the account is empty.
    StoppedByHand,
    /// It is stopped, as it should be; the disk is charged.
    StoppedAsWanted,
    /// It is kept running after the end, by policy.
    Kept,
    /// It was given up, yet it runs or is about to: the market gave it back. It costs GPU time for nothing.
    Revived,
    /// Nothing was rented for this state, or it was confirmed gone, yet the provider knows the instance.
    Unexpected,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Nothing.
    Nothing,
    /// Look again; after the deadline give the box up and recover by policy.
    WaitThenRecover,
    /// Look again; after the deadline the attempt failed to start and another box is taken.
    WaitThenGiveUp,
    /// Connect, or go on with what is under way.
    GoOn,
    /// Look for the agent's heartbeat; when that is missing too until the deadline, the box is lost.
    AskHeartbeat,
    /// Record the interruption now and recover by policy.
    Recover,
    /// The run ends here, its disk is kept: whoever stopped the box meant it.
    Respect,
    /// Stop it, so that no GPU time is charged for nothing.
    Stop,
    /// Destroy it: its end was recorded already.
    Destroy,
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// What the status means.
    pub meaning: Meaning,
    /// How long it may last, counted from when it was first seen; `None`: as long as it likes, or `limits.bring_up` rules.
    pub deadline: Option<Duration>,
    /// What to do.
    pub action: Action,
    /// The same for people, as a clause.
    pub text: &'static str,
}

/// Docker stop and start on a slow host, with the image in its cache.
const RESTART: Duration = Duration::from_secs(10 * 60);
/// A container that ended by itself is seen as `exited` for some seconds in a restart, too.
const CONTAINER_ENDED: Duration = Duration::from_secs(60);
/// A queued box gets its GPU when somebody else leaves; nobody knows when.
const QUEUED: Duration = Duration::from_secs(5 * 60);
/// Nothing in the API thaws a frozen box but its owner.
const PAUSED: Duration = Duration::from_secs(5 * 60);
/// A host's heartbeat is missing for minutes when its router restarts.
const SILENT: Duration = Duration::from_secs(10 * 60);
/// `offline` is computed after a long silence already.
const OFFLINE: Duration = Duration::from_secs(5 * 60);

/// The row for what the provider says of the instance of an attempt in `state`.
pub fn row(state: State, seen: Seen) -> Row {
    match state {
        State::Planned | State::Renting => Row {
            meaning: Meaning::Unexpected,
            deadline: None,
            // The step of renting looks for it by its label; nobody else knows whether it is still being made.
            action: Action::Nothing,
            text: "it was rented, but the answer was lost",
        },
        State::Gone => Row {
            meaning: Meaning::Unexpected,
            deadline: None,
            action: Action::Destroy,
            text: "it exists though its end was confirmed",
        },
        State::Interrupted | State::Lost => given_up(seen),
        State::Waiting => waited_for(seen),
        State::Collected | State::Failed | State::Stopped => ended(seen),
        State::Loading
        | State::Preparing
        | State::Syncing
        | State::Smoke
        | State::Running
        | State::Finishing => active(state, seen),
    }
}

/// The attempt works, or is about to.
fn active(state: State, seen: Seen) -> Row {
    match seen.intended {
        Intended::Stopped if !seen.is_bid => Row {
            meaning: Meaning::StoppedByHand,
            deadline: None,
            action: Action::Respect,
            text: "it was stopped, and not by this run: by hand, or because the account has no credit",
        },
        Intended::Stopped => Row {
            meaning: Meaning::TakenBack,
            deadline: None,
            action: Action::Recover,
            text: "it was taken back",
        },
        Intended::Frozen => paused(),
        Intended::Running => match seen.actual {
            Actual::Running => Row {
                meaning: Meaning::Up,
                deadline: None,
                action: Action::GoOn,
                text: "it runs",
            },
            Actual::Provisioning | Actual::Created | Actual::Loading if state == State::Loading => {
                Row {
                    meaning: Meaning::Starting,
                    // An image of 20 GB on a slow line takes its time; `limits.bring_up` is the bound.
                    deadline: None,
                    action: Action::WaitThenGiveUp,
                    text: "it is being prepared",
                }
            }
            Actual::Provisioning | Actual::Created | Actual::Loading => restarting(),
            Actual::Rebooting | Actual::Recycling => restarting(),
            Actual::Stopped | Actual::Exited if seen.scheduling => Row {
                meaning: Meaning::Queued,
                deadline: Some(QUEUED),
                action: give_up_or_recover(state),
                text: "it waits for its GPU, which somebody else has",
            },
            Actual::Stopped | Actual::Exited => Row {
                meaning: Meaning::ContainerEnded,
                deadline: Some(CONTAINER_ENDED),
                action: give_up_or_recover(state),
                text: "its container ended",
            },
            Actual::Error => Row {
                meaning: Meaning::ContainerEnded,
                // Before anything ran nothing is gained by waiting.
                deadline: Some(match state {
                    State::Loading => Duration::ZERO,
                    _ => CONTAINER_ENDED,
                }),
                action: give_up_or_recover(state),
                text: "its container could not be started: its host calls it an error",
            },
            Actual::Frozen => paused(),
            Actual::Unknown => Row {
                meaning: Meaning::HostSilent,
                deadline: Some(SILENT),
                action: Action::AskHeartbeat,
                text: "its host has not been heard of lately",
            },
            Actual::Offline => Row {
                meaning: Meaning::HostSilent,
                deadline: Some(OFFLINE),
                action: Action::AskHeartbeat,
                text: "its host is offline",
            },
        },
    }
}

/// The attempt was interrupted or lost: the box must not run any more.
fn given_up(seen: Seen) -> Row {
    match seen.intended {
        Intended::Stopped => stopped_as_wanted(),
        // The market gives a box back by itself when the tenant above leaves.
        Intended::Running | Intended::Frozen => Row {
            meaning: Meaning::Revived,
            deadline: None,
            action: Action::Stop,
            text: "it was given back by the market and costs GPU time for nothing",
        },
    }
}

/// The market took it back, and the run waits for this very box.
fn waited_for(seen: Seen) -> Row {
    match (seen.intended, seen.actual) {
        (Intended::Running, Actual::Running) => Row {
            meaning: Meaning::Revived,
            deadline: None,
            action: Action::GoOn,
            text: "it was given back by the market",
        },
        (Intended::Running, Actual::Loading | Actual::Rebooting | Actual::Recycling) => Row {
            meaning: Meaning::Restarting,
            deadline: None,
            action: Action::Nothing,
            text: "it was given back by the market and comes up",
        },
        _ => Row {
            meaning: Meaning::Queued,
            deadline: None,
            action: Action::Nothing,
            text: "it waits for its GPU, which somebody else has",
        },
    }
}

/// The attempt ended; whether the box runs on is a matter of policy.
fn ended(seen: Seen) -> Row {
    match seen.intended {
        Intended::Stopped => stopped_as_wanted(),
        Intended::Running | Intended::Frozen => Row {
            meaning: Meaning::Kept,
            deadline: None,
            action: Action::Nothing,
            text: "it is kept after the end",
        },
    }
}

fn stopped_as_wanted() -> Row {
    Row {
        meaning: Meaning::StoppedAsWanted,
        deadline: None,
        action: Action::Nothing,
        text: "it is stopped; its disk is charged",
    }
}

fn restarting() -> Row {
    Row {
        meaning: Meaning::Restarting,
        deadline: Some(RESTART),
        action: Action::WaitThenRecover,
        text: "its container is being started again",
    }
}

fn paused() -> Row {
    Row {
        meaning: Meaning::Paused,
        deadline: Some(PAUSED),
        action: Action::WaitThenRecover,
        text: "it is paused in memory while the GPU is charged",
    }
}

/// Before anything ran there is nothing to recover: another box is simply taken.
fn give_up_or_recover(state: State) -> Action {
    if state == State::Loading {
        Action::WaitThenGiveUp
    } else {
        Action::WaitThenRecover
    }
}

#[cfg(test)]
mod tests;
