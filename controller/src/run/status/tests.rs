//! What each pair of a record and of the market's word means, and what is done.

use super::*;
use crate::provider::memory;

const ACTUAL: [Actual; 12] = [
    Actual::Provisioning,
    Actual::Created,
    Actual::Loading,
    Actual::Running,
    Actual::Stopped,
    Actual::Frozen,
    Actual::Exited,
    Actual::Rebooting,
    Actual::Recycling,
    Actual::Unknown,
    Actual::Offline,
    Actual::Error,
];
const INTENDED: [Intended; 3] = [Intended::Running, Intended::Stopped, Intended::Frozen];

fn every_case() -> impl Iterator<Item = (State, Seen, Row)> {
    State::ALL.into_iter().flat_map(|state| {
        INTENDED.into_iter().flat_map(move |intended| {
            ACTUAL.into_iter().flat_map(move |actual| {
                [(false, false), (false, true), (true, false), (true, true)]
                    .into_iter()
                    .map(move |(scheduling, is_bid)| {
                        let seen = Seen {
                            intended,
                            actual,
                            scheduling,
                            is_bid,
                        };
                        (state, seen, row(state, seen))
                    })
            })
        })
    })
}

#[track_caller]
fn check(state: State, intended: Intended, actual: Actual, meaning: Meaning, action: Action) {
    let found = row(
        state,
        Seen {
            intended,
            actual,
            scheduling: false,
            is_bid: true,
        },
    );
    assert_eq!(
        (found.meaning, found.action),
        (meaning, action),
        "{state} {intended:?} {actual:?}"
    );
}

#[test]
fn every_wait_has_a_deadline_or_the_bring_up_limit() {
    for (state, seen, row) in every_case() {
        let waits = matches!(
            row.action,
            Action::WaitThenRecover | Action::WaitThenGiveUp | Action::AskHeartbeat
        );
        let bounded = row.deadline.is_some() || row.meaning == Meaning::Starting;
        assert!(!waits || bounded, "{state} {seen:?}");
        assert!(!row.text.is_empty());
    }
}

#[test]
fn a_box_that_was_given_up_never_costs_gpu_time_silently() {
    for (state, seen, row) in every_case() {
        if matches!(state, State::Interrupted | State::Lost | State::Gone) {
            let harmless = seen.intended == Intended::Stopped && state != State::Gone;
            let ends = matches!(row.action, Action::Stop | Action::Destroy);
            assert_eq!(ends, !harmless, "{state} {seen:?}");
        }
    }
}

#[test]
fn only_the_intention_of_the_provider_is_an_interruption_at_once() {
    for (state, seen, row) in every_case() {
        let working = state.is_active() && !matches!(state, State::Planned | State::Renting);
        let stopped = working && seen.intended == Intended::Stopped;
        let (taken, by_hand) = (stopped && seen.is_bid, stopped && !seen.is_bid);
        assert_eq!(row.action == Action::Recover, taken, "{state} {seen:?}");
        assert_eq!(row.action == Action::Respect, by_hand, "{state} {seen:?}");
    }
}

#[test]
fn a_box_of_which_the_provider_does_not_say_how_it_was_rented_is_what_the_record_rented() {
    for (said, rented, expected) in [
        (None, Rental::OnDemand, Action::Respect),
        (None, Rental::Interruptible, Action::Recover),
        (Some(false), Rental::Interruptible, Action::Respect),
        (Some(true), Rental::OnDemand, Action::Recover),
    ] {
        let stopped = Instance {
            intended: Intended::Stopped,
            is_bid: said,
            ..memory::instance(1)
        };
        let found = row(State::Running, Seen::of(&stopped, rented));
        assert_eq!(found.action, expected, "{said:?} {rented:?}");
    }
}

#[test]
fn a_silent_host_is_never_a_verdict_without_the_heartbeat() {
    for actual in [Actual::Unknown, Actual::Offline] {
        for state in [
            State::Loading,
            State::Preparing,
            State::Running,
            State::Finishing,
        ] {
            check(
                state,
                Intended::Running,
                actual,
                Meaning::HostSilent,
                Action::AskHeartbeat,
            );
        }
    }
}

#[test]
fn rows_that_were_measured() {
    use {Action::*, Meaning::*};
    let running = Intended::Running;
    check(
        State::Loading,
        running,
        Actual::Provisioning,
        Starting,
        WaitThenGiveUp,
    );
    check(State::Loading, running, Actual::Running, Up, GoOn);
    check(State::Running, running, Actual::Running, Up, GoOn);
    check(
        State::Running,
        running,
        Actual::Loading,
        Restarting,
        WaitThenRecover,
    );
    check(
        State::Running,
        running,
        Actual::Exited,
        ContainerEnded,
        WaitThenRecover,
    );
    check(
        State::Loading,
        running,
        Actual::Error,
        ContainerEnded,
        WaitThenGiveUp,
    );
    check(
        State::Running,
        running,
        Actual::Error,
        ContainerEnded,
        WaitThenRecover,
    );
    // Right after an interruption the container still shows `running` for 10 to 30 s.
    check(
        State::Running,
        Intended::Stopped,
        Actual::Running,
        TakenBack,
        Recover,
    );
    check(State::Interrupted, running, Actual::Exited, Revived, Stop);
    check(State::Waiting, running, Actual::Running, Revived, GoOn);
    check(
        State::Waiting,
        Intended::Stopped,
        Actual::Running,
        Queued,
        Nothing,
    );
    check(State::Failed, running, Actual::Running, Kept, Nothing);
    check(
        State::Stopped,
        Intended::Stopped,
        Actual::Exited,
        StoppedAsWanted,
        Nothing,
    );
    check(
        State::Renting,
        running,
        Actual::Provisioning,
        Unexpected,
        Nothing,
    );
}
