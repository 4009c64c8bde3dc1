//! What is done about a contradiction (pure): told, answered by a command, or ended; and ended too when nobody answers.

use serde::{Deserialize, Serialize};

/// What is done when a contradiction is found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnContradiction {
    /// It is told.
    #[default]
    Alert,
    /// The training is ended at once.
    Stop,
    /// A command runs on the box.
    Command(String),
}

/// What is done, and whether silence is a yes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// When it is found.
    pub on_contradiction: OnContradiction,
    /// Go on for ever, though nobody answers.
    pub go_on_unanswered: bool,
    /// A person has seen it and wants the training to go on.
    pub accepted: bool,
}

/// A contradiction that stands, from window to window.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// It was told.
    told: bool,
    /// It was to be ended, and is not to be asked for again.
    ended: bool,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Nothing.
    Nothing,
    /// Tell that it is found.
    Tell,
    /// Tell, and run this command.
    Run(String),
    /// Tell that it is over.
    Clear,
    /// End the training; whether because nobody answered.
    Stop {
        /// Nobody was there for a whole window after it had been told.
        unanswered: bool,
    },
}

impl Standing {
    /// At the end of a window. `watched`: somebody was there at any time in it.
    pub fn window(&mut self, contradicted: bool, watched: bool, policy: &Policy) -> Act {
        if !contradicted {
            let was = std::mem::take(self);
            return if was.told { Act::Clear } else { Act::Nothing };
        }
        if policy.accepted || self.ended {
            let first = !std::mem::replace(&mut self.told, true);
            return if first { Act::Tell } else { Act::Nothing };
        }
        if policy.on_contradiction == OnContradiction::Stop {
            self.told = true;
            self.ended = true;
            return Act::Stop { unanswered: false };
        }
        if !std::mem::replace(&mut self.told, true) {
            return match &policy.on_contradiction {
                OnContradiction::Command(command) => Act::Run(command.clone()),
                _ => Act::Tell,
            };
        }
        if watched || policy.go_on_unanswered {
            return Act::Nothing;
        }
        self.ended = true;
        Act::Stop { unanswered: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Windows as (contradicted, watched), and what is done after each.
    fn check(policy: &Policy, windows: &[(bool, bool)], expected: &[Act]) {
        let mut standing = Standing::default();
        let acts: Vec<Act> = windows
            .iter()
            .map(|(contradicted, watched)| standing.window(*contradicted, *watched, policy))
            .collect();
        assert_eq!(acts, expected, "{policy:?} {windows:?}");
    }

    #[test]
    fn silence_ends_a_contradicted_training_and_a_watcher_does_not() {
        use Act::{Clear, Nothing, Run, Stop, Tell};
        let policy = |on_contradiction| Policy {
            on_contradiction,
            ..Policy::default()
        };
        let alert = policy(OnContradiction::Alert);
        let unanswered = Stop { unanswered: true };
        check(
            &alert,
            &[(false, false), (true, false), (true, false), (true, false)],
            &[Nothing, Tell, unanswered.clone(), Nothing],
        );
        check(
            &alert,
            &[(true, false), (true, true), (true, true), (true, false)],
            &[Tell, Nothing, Nothing, unanswered.clone()],
        );
        check(
            &alert,
            &[(true, false), (false, false), (true, false), (true, false)],
            &[Tell, Clear, Tell, unanswered.clone()],
        );
        check(
            &policy(OnContradiction::Stop),
            &[(true, true)],
            &[Stop { unanswered: false }],
        );
        check(
            &policy(OnContradiction::Command("x".to_owned())),
            &[(true, false), (true, false)],
            &[Run("x".to_owned()), unanswered],
        );
        let patient = Policy {
            go_on_unanswered: true,
            ..Policy::default()
        };
        check(&patient, &[(true, false), (true, false)], &[Tell, Nothing]);
        let accepted = Policy {
            accepted: true,
            ..policy(OnContradiction::Stop)
        };
        check(&accepted, &[(true, false), (true, false)], &[Tell, Nothing]);
    }
}
