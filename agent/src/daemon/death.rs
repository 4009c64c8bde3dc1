//! Tells the backup of a training that did not end well: it may have died in the middle of a checkpoint.

use super::{backup::RunningBackup, core::Core, training::TRAINING_SESSION};
use crate::{
    checkpoints::Death,
    now_us,
    sessions::{SessionState, record::Session},
};

/// What a training started may outlive it by so much, and write.
const SURVIVORS_US: u64 = 10_000_000;

/// How a session died; `None`: it runs, or it ended well. `now_us`: of one that was lost nobody knows until when it wrote. `written_us`: it
/// lived at least so long, whatever its log says: many a training prints to a file of its own.
fn of(session: &Session, now_us: u64, written_us: Option<u64>) -> Option<Death> {
    let end = session.end.as_ref();
    let how = match (session.state, end.and_then(|end| end.exit_code)) {
        (SessionState::Running, _) | (_, Some(0)) => return None,
        (SessionState::Oom, _) => "out of memory".to_owned(),
        (SessionState::Lost, _) => "it was lost".to_owned(),
        (_, Some(code)) => format!("exit code {code}"),
        (state, None) => match end.and_then(|end| end.signal) {
            Some(signal) => format!("signal {signal}"),
            None => state.as_str().to_owned(),
        },
    };
    Some(Death {
        began_us: session.start.started_us,
        ended_us: match session.state {
            SessionState::Lost => session.ended_us.max(written_us.unwrap_or(0)),
            _ => session.ended_us,
        },
        until_us: match session.state {
            SessionState::Lost => now_us,
            _ => session.ended_us.saturating_add(SURVIVORS_US),
        },
        how,
    })
}

/// Tells it, if it is so: before anybody takes what lies there for finished. Blocks on files.
pub fn tell(core: &Core, running: &RunningBackup) {
    let Ok(training) = core.sessions.get(TRAINING_SESSION) else {
        return;
    };
    tell_of(&training, running);
}

/// The same of this training. Blocks on files.
pub fn tell_of(training: &Session, running: &RunningBackup) {
    let backup = &running.backup;
    if backup.knows_death_of(training.start.started_us) {
        return;
    }
    let now_us = now_us();
    let is_lost = training.state == SessionState::Lost;
    let written_us = is_lost.then(|| backup.last_written_us(now_us)).flatten();
    if let Some(death) = of(training, now_us, written_us) {
        backup.died(&death);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sessions::record::{End, EndReason, Spec, Start};

    #[test]
    fn only_an_exit_with_zero_is_no_death() {
        let check = |state, exit_code, signal, expected: Option<(&str, u64)>| {
            let end = End {
                v: 1,
                reason: EndReason::Exited,
                exit_code,
                signal,
                oom_kills: 0,
                timed_out: false,
                ended_us: 5,
                log_bytes: 0,
                log_dropped_bytes: 0,
            };
            let is_over = !matches!(state, SessionState::Running | SessionState::Lost);
            let session = Session {
                name: "train".to_owned(),
                state,
                spec: Spec::sample(),
                start: Start {
                    v: 1,
                    pid: 1,
                    pid_starttime: 1,
                    shim_pid: 1,
                    boot: String::new(),
                    started_us: 3,
                },
                end: is_over.then_some(end),
                ended_us: 5,
                log_bytes: 0,
            };
            let found = of(&session, 99, Some(70));
            let found_words = found
                .as_ref()
                .map(|death| (death.how.as_str(), death.until_us));
            assert_eq!(found_words, expected, "{state:?}");
            // Its log was quiet, and it saved a checkpoint later; of one whose end was seen that says nothing.
            let lived_us = if state == SessionState::Lost { 70 } else { 5 };
            let ended_us = found.map(|death| death.ended_us);
            assert_eq!(ended_us, expected.map(|_| lived_us), "{state:?}");
            if state == SessionState::Lost {
                for written_us in [None, Some(3)] {
                    let death = of(&session, 99, written_us).unwrap();
                    assert_eq!(death.ended_us, 5, "{written_us:?}");
                }
            }
        };
        check(SessionState::Running, None, None, None);
        check(SessionState::Exited, Some(0), None, None);
        check(SessionState::Stopped, Some(0), None, None);
        check(
            SessionState::Exited,
            Some(1),
            None,
            Some(("exit code 1", 10_000_005)),
        );
        check(
            SessionState::Stopped,
            None,
            Some(15),
            Some(("signal 15", 10_000_005)),
        );
        check(
            SessionState::Signalled,
            None,
            Some(9),
            Some(("signal 9", 10_000_005)),
        );
        check(
            SessionState::Oom,
            None,
            Some(9),
            Some(("out of memory", 10_000_005)),
        );
        check(SessionState::Lost, None, None, Some(("it was lost", 99)));
    }
}
