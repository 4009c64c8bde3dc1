//! How a run stands for whoever only looks: the record, and the end of a training that its box told of and nobody has collected (pure).

use crate::{
    lookout::facts::Facts,
    run::{
        bringing_up::TRAIN,
        ended_alone::{self, TrainingEnd},
    },
};

impl Facts {
    /// How its training ended while nobody watches, by its box, else by what is on record, as `ps` and `status` have it; `None`: it did
    /// not, as far as is known.
    pub fn training_end(&self) -> Option<TrainingEnd> {
        let recorded = &self.recorded;
        if recorded.is_over || recorded.watched {
            return None;
        }
        let told = self.live.session(TRAIN).zip(recorded.newest.as_ref());
        let now = told.and_then(|(session, newest)| ended_alone::of_box(session, newest));
        now.or_else(|| recorded.training_end.clone())
    }

    /// Its newest attempt trains.
    pub fn trains(&self) -> bool {
        self.recorded.trains && self.training_end().is_none()
    }

    /// What is wrong, or must be known, a sentence each, the gravest first.
    pub fn alerts(&self) -> Vec<String> {
        let recorded = &self.recorded;
        let mut alerts = recorded.alerts.clone();
        if recorded.is_over || recorded.watched || recorded.newest.is_none() {
            return alerts;
        }
        let name = &recorded.name;
        match self.training_end() {
            Some(end) => alerts.insert(
                0,
                format!("{}; collect it with `spotter up {name}`", end.words()),
            ),
            None => alerts.push(format!(
                "nobody watches: an interruption is not recovered until `spotter up {name}`"
            )),
        }
        alerts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        agent_client::{SessionInfo, SessionState},
        run::{
            State,
            ended_alone::{Billing, How},
            summary::attempt_for_tests,
        },
        store::AttemptRecord,
        top::examples,
    };

    #[test]
    fn an_end_is_told_as_soon_as_the_box_or_the_record_knows_it_and_nobody_watches() {
        let end = |how, text: &str| TrainingEnd {
            how,
            text: text.to_owned(),
            ended_us: 9,
            billing: Billing::Running,
        };
        let finished = Some(end(How::Finished, "has ended with exit code 0"));
        let stopped = Some(end(How::Stopped, "was ended on its box"));
        for (watched, of_box, on_record, expected) in [
            (false, SessionState::Running, None, None),
            (
                false,
                SessionState::Stopped,
                None,
                Some("the training was ended on its box"),
            ),
            (
                false,
                SessionState::Running,
                finished.clone(),
                Some("the training has ended with exit code 0"),
            ),
            // The box has the last word.
            (
                false,
                SessionState::Stopped,
                finished,
                Some("the training was ended on its box"),
            ),
            // Whoever watches collects it.
            (true, SessionState::Stopped, stopped, None),
        ] {
            let mut facts = examples::live(1);
            let recorded = &mut facts.recorded;
            recorded.newest = Some(AttemptRecord {
                state: State::Running,
                gone_us: 0,
                ..attempt_for_tests(2)
            });
            (recorded.watched, recorded.training_end) = (watched, on_record);
            let status = facts.live.status.as_mut().unwrap();
            status.sessions.push(SessionInfo {
                name: TRAIN.to_owned(),
                state: of_box,
                exit_code: None,
                signal: None,
                started_us: 5,
                ended_us: None,
                pid: 1,
                log_bytes: 0,
                tmux: false,
                command: String::new(),
            });
            let alerts = facts.alerts();
            let found = alerts.first().filter(|alert| alert.contains("collect it"));
            assert_eq!(
                found.map(|alert| alert.split(';').next().unwrap_or_default()),
                expected,
                "{watched} {of_box:?}"
            );
            assert_eq!(facts.trains(), expected.is_none());
            let alone = alerts.iter().any(|alert| alert.contains("nobody watches"));
            assert_eq!(alone, !watched && expected.is_none());
        }
    }
}
