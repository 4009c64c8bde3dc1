//! What a sight of a training means (pure). Nothing here is a verdict on one source alone: an interruption is the provider's
//! word, a lost box needs the provider's word and a missing heartbeat.

use std::time::Duration;

use crate::{
    agent_client::{SessionInfo, SessionState},
    run::{
        State,
        market_eye::{UNKNOWN, UNKNOWN_FOR},
        status::{self, Action, Meaning, Seen},
    },
};

/// A heartbeat that is older than this makes the watcher ask the provider at once.
pub(crate) const HEARTBEAT_LATE: Duration = Duration::from_secs(6);
/// A box that the provider calls silent is lost when its heartbeat has been missing this long too.
const HEARTBEAT_GONE: Duration = Duration::from_secs(120);
/// A stop of the container ends the training some seconds before the provider says so.
pub(crate) const SIGNAL_EXPLAINED: Duration = Duration::from_secs(20);

/// What has been seen of a training.
#[derive(Debug, Clone, PartialEq)]
pub struct Sight {
    /// Provider's word on the instance: `None` when it did not answer, `Some(None)` when it knows no such instance.
    pub instance: Option<Option<Seen>>,
    /// How long the provider has said the same.
    pub instance_unchanged: Duration,
    /// The training, by the agent's newest word.
    pub session: Option<SessionInfo>,
    /// Since the agent last answered.
    pub heartbeat_age: Duration,
    /// The box restarted while it was watched.
    pub restarted: bool,
    /// Since the training was first seen to have ended.
    pub ended_for: Duration,
}

/// What it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// All is well, or nothing can be said yet.
    GoOn,
    /// The training ended.
    Ended(SessionInfo),
    /// The market took the box back, or it restarted and took the training with it.
    Interrupted(String),
    /// Provider and heartbeat agree that the box is no more.
    Lost(String),
    /// Somebody stopped it who may, and it was not this run.
    StoppedByHand(String),
}

/// Says what a sight means (pure).
pub fn decide(sight: &Sight) -> Verdict {
    use SessionState::{Exited, Lost, Oom, Running, Signalled, Stopped};

    // What the agent saw end has ended, whatever happens to the box afterwards.
    if let Some(session) = &sight.session
        && matches!(session.state, Exited | Signalled | Oom | Stopped)
    {
        if !ended_by_signal(session) {
            return Verdict::Ended(session.clone());
        }
        // A container's stop ends the training with a signal, too: that is no crash.
        let row = sight
            .instance
            .flatten()
            .map(|seen| status::row(State::Running, seen));
        match row {
            Some(row) if row.meaning == Meaning::TakenBack => {
                return Verdict::Interrupted("the market took the box back".to_owned());
            }
            Some(row) if row.meaning == Meaning::StoppedByHand => {
                return Verdict::StoppedByHand(row.text.to_owned());
            }
            _ => {}
        }
        if sight.restarted {
            return Verdict::Interrupted("its host restarted the box".to_owned());
        }
        // The provider's word may come a moment after the signal; without any word there is no verdict.
        let waited = sight.ended_for >= SIGNAL_EXPLAINED && sight.instance.is_some();
        return if waited {
            Verdict::Ended(session.clone())
        } else {
            Verdict::GoOn
        };
    }
    let restarted = sight
        .session
        .as_ref()
        .is_some_and(|session| session.state == Lost);
    let otherwise = if restarted {
        Verdict::Interrupted("the box restarted and took the training with it".to_owned())
    } else {
        Verdict::GoOn
    };
    let seen = match sight.instance {
        None => return otherwise,
        // One answer may be wrong, and an agent that answers has a box.
        Some(None) => {
            let agreed =
                sight.instance_unchanged >= UNKNOWN_FOR && sight.heartbeat_age >= UNKNOWN_FOR;
            return match agreed {
                true => Verdict::Lost(UNKNOWN.to_owned()),
                false => otherwise,
            };
        }
        Some(Some(seen)) => seen,
    };
    let row = status::row(State::Running, seen);
    let overdue = row
        .deadline
        .is_some_and(|deadline| sight.instance_unchanged >= deadline);
    let runs = sight
        .session
        .as_ref()
        .is_some_and(|session| session.state == Running);
    let alive = runs && sight.heartbeat_age < HEARTBEAT_LATE;
    match row.action {
        Action::Recover => Verdict::Interrupted(row.text.to_owned()),
        Action::Respect => Verdict::StoppedByHand(row.text.to_owned()),
        // The provider's word on a container can be late; a training that answers is running.
        Action::WaitThenRecover if overdue && !alive => Verdict::Interrupted(row.text.to_owned()),
        Action::AskHeartbeat if overdue && sight.heartbeat_age >= HEARTBEAT_GONE => {
            Verdict::Lost(format!(
                "{}, and its agent has not answered for {} s",
                row.text,
                sight.heartbeat_age.as_secs()
            ))
        }
        _ => otherwise,
    }
}

/// For how long what made a box interrupted had been so before it was believed: the provider's word stood that long, and none came from the
/// box meanwhile. Nothing where it was believed at once.
pub(crate) fn waited(sight: &Sight) -> Duration {
    let row = sight
        .instance
        .flatten()
        .map(|seen| status::row(State::Running, seen));
    match row {
        Some(row) if row.action == Action::WaitThenRecover => {
            sight.instance_unchanged.min(sight.heartbeat_age)
        }
        _ => Duration::ZERO,
    }
}

/// Whether a training ended with its container, by when the present one started: one that nobody watched is found like this.
pub(crate) fn went_with_its_container(session: &SessionInfo, up_since_us: i64) -> bool {
    // The box's clock and the provider's differ a little.
    let up_since_us = up_since_us.max(0) as u64;
    let ended_us = session.ended_us.unwrap_or(u64::MAX);
    session.started_us < up_since_us && ended_us <= up_since_us.saturating_add(60_000_000)
}

/// TERM or KILL ended it, or it answered TERM with the shell's code for it.
pub(crate) fn ended_by_signal(session: &SessionInfo) -> bool {
    session.state == SessionState::Stopped
        || matches!(session.signal, Some(9 | 15))
        || matches!(session.exit_code, Some(137 | 143))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        provider::{Actual, Intended},
        run::bringing_up::TRAIN,
    };

    #[test]
    fn a_training_of_before_its_container_ended_with_the_one_before() {
        let minute = 60_000_000;
        let check = |started: u64, ended: Option<u64>, up_since: i64, expected: bool| {
            let found = SessionInfo {
                started_us: started * minute,
                ended_us: ended.map(|ended| ended * minute),
                ..signalled(15)
            };
            let went = went_with_its_container(&found, up_since * minute as i64);
            assert_eq!(went, expected, "{started} {ended:?} {up_since}");
        };
        check(10, Some(50), 5, false);
        check(10, Some(50), 60, true);
        check(10, Some(51), 50, true);
        // It ended long after that start: for another reason.
        check(10, Some(90), 60, false);
        check(10, None, 60, false);
    }

    #[test]
    fn what_was_waited_before_a_box_was_given_up_is_known() {
        let check = |seen, unchanged_s, silent_s, expected_s| {
            let sight = Sight {
                instance: Some(Some(seen)),
                instance_unchanged: Duration::from_secs(unchanged_s),
                session: None,
                heartbeat_age: Duration::from_secs(silent_s),
                restarted: false,
                ended_for: Duration::ZERO,
            };
            assert_eq!(waited(&sight), Duration::from_secs(expected_s), "{sight:?}");
        };
        let ended = Seen {
            actual: Actual::Exited,
            ..UP
        };
        check(ended, 61, 65, 61);
        // It answered after its provider had called it ended.
        check(ended, 61, 8, 8);
        check(UP, 600, 600, 0);
        // Nothing is waited for.
        check(TAKEN, 30, 40, 0);
    }

    const UP: Seen = Seen {
        intended: Intended::Running,
        actual: Actual::Running,
        scheduling: false,
        is_bid: true,
    };
    const TAKEN: Seen = Seen {
        intended: Intended::Stopped,
        actual: Actual::Running,
        scheduling: false,
        is_bid: true,
    };
    const OFFLINE: Seen = Seen {
        intended: Intended::Running,
        actual: Actual::Offline,
        scheduling: false,
        is_bid: true,
    };

    fn session(state: SessionState, exit_code: Option<i32>, signal: Option<i32>) -> SessionInfo {
        SessionInfo {
            name: TRAIN.to_owned(),
            state,
            exit_code,
            signal,
            started_us: 1,
            ended_us: None,
            pid: 1,
            log_bytes: 0,
            tmux: true,
            command: String::new(),
        }
    }

    fn exited(code: i32) -> SessionInfo {
        session(SessionState::Exited, Some(code), None)
    }

    fn signalled(signal: i32) -> SessionInfo {
        session(SessionState::Signalled, None, Some(signal))
    }

    fn running() -> SessionInfo {
        session(SessionState::Running, None, None)
    }

    fn sight(instance: Option<Option<Seen>>, session: Option<SessionInfo>) -> Sight {
        Sight {
            instance,
            instance_unchanged: Duration::ZERO,
            session,
            heartbeat_age: Duration::ZERO,
            restarted: false,
            ended_for: SIGNAL_EXPLAINED,
        }
    }

    #[test]
    fn a_training_that_ended_has_ended_and_one_that_the_market_stopped_was_interrupted() {
        for (instance, session) in [
            (Some(Some(UP)), exited(0)),
            (Some(Some(UP)), signalled(9)),
            (Some(Some(UP)), exited(143)),
            (None, exited(7)),
            (Some(Some(TAKEN)), exited(0)),
            (Some(Some(TAKEN)), exited(7)),
            (Some(Some(TAKEN)), signalled(11)),
        ] {
            assert_eq!(
                decide(&sight(instance, Some(session.clone()))),
                Verdict::Ended(session)
            );
        }
        for session in [signalled(15), signalled(9), exited(143)] {
            assert!(matches!(
                decide(&sight(Some(Some(TAKEN)), Some(session))),
                Verdict::Interrupted(_)
            ));
        }
    }

    #[test]
    fn a_training_that_a_signal_ended_waits_for_the_provider_to_explain_it() {
        let mut seen = sight(Some(Some(UP)), Some(signalled(15)));
        seen.ended_for = Duration::ZERO;
        assert_eq!(decide(&seen), Verdict::GoOn);
        seen.restarted = true;
        assert!(matches!(decide(&seen), Verdict::Interrupted(_)));
        assert_eq!(decide(&sight(None, Some(exited(143)))), Verdict::GoOn);
    }

    #[test]
    fn an_outbid_is_an_interruption_at_once_even_while_the_box_still_answers() {
        assert!(matches!(
            decide(&sight(Some(Some(TAKEN)), Some(running()))),
            Verdict::Interrupted(_)
        ));
    }

    #[test]
    fn a_box_of_ours_that_somebody_stopped_was_not_interrupted() {
        let stopped = Seen {
            is_bid: false,
            ..TAKEN
        };
        for session in [running(), signalled(15), exited(143)] {
            assert!(matches!(
                decide(&sight(Some(Some(stopped)), Some(session))),
                Verdict::StoppedByHand(_)
            ));
        }
    }

    #[test]
    fn a_box_that_restarted_took_the_training_with_it() {
        let lost = session(SessionState::Lost, None, None);
        for instance in [None, Some(Some(UP))] {
            assert!(matches!(
                decide(&sight(instance, Some(lost.clone()))),
                Verdict::Interrupted(_)
            ));
        }
    }

    #[test]
    fn a_laptop_without_a_network_judges_nothing() {
        let mut seen = sight(None, Some(running()));
        seen.heartbeat_age = Duration::from_secs(86_400);
        assert_eq!(decide(&seen), Verdict::GoOn);
        seen.instance = Some(Some(UP));
        assert_eq!(decide(&seen), Verdict::GoOn);
    }

    #[test]
    fn a_box_is_lost_only_when_provider_and_heartbeat_agree() {
        let mut seen = sight(Some(Some(OFFLINE)), Some(running()));
        seen.instance_unchanged = Duration::from_secs(3600);
        assert_eq!(decide(&seen), Verdict::GoOn);
        seen.heartbeat_age = Duration::from_secs(3600);
        assert!(matches!(decide(&seen), Verdict::Lost(_)));
        seen.instance_unchanged = Duration::from_secs(1);
        assert_eq!(decide(&seen), Verdict::GoOn);
        for (silent, unknown, lost) in [
            (Duration::ZERO, UNKNOWN_FOR, false),
            (UNKNOWN_FOR, Duration::ZERO, false),
            (UNKNOWN_FOR, UNKNOWN_FOR, true),
        ] {
            let mut seen = sight(Some(None), Some(running()));
            (seen.heartbeat_age, seen.instance_unchanged) = (silent, unknown);
            assert_eq!(matches!(decide(&seen), Verdict::Lost(_)), lost);
        }
    }
}
