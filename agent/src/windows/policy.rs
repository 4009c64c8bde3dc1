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

/// What a window found, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing that contradicts the estimate.
    Nothing,
    /// Only what is worth a word: a silence is no yes to a training's end.
    Light,
    /// The training does not do what was predicted.
    Grave,
}

/// A contradiction that stands, from window to window.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// It was told.
    told: bool,
    /// One that may end the training was told, in the window before.
    #[serde(default)]
    warned: bool,
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
    pub fn window(&mut self, found: Found, watched: bool, policy: &Policy) -> Act {
        if found == Found::Nothing {
            let was = std::mem::take(self);
            return if was.told { Act::Clear } else { Act::Nothing };
        }
        let was_told = std::mem::replace(&mut self.told, true);
        if policy.accepted || self.ended {
            return if was_told { Act::Nothing } else { Act::Tell };
        }
        if policy.on_contradiction == OnContradiction::Stop {
            self.ended = true;
            return Act::Stop { unanswered: false };
        }
        let was_warned = std::mem::replace(&mut self.warned, found == Found::Grave);
        if !was_told || self.warned && !was_warned {
            return match &policy.on_contradiction {
                OnContradiction::Command(command) => Act::Run(command.clone()),
                _ => Act::Tell,
            };
        }
        if watched || policy.go_on_unanswered || !self.warned {
            return Act::Nothing;
        }
        self.ended = true;
        Act::Stop { unanswered: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Windows as (what was found, watched), and what is done after each.
    fn check(policy: &Policy, windows: &[(Found, bool)], expected: &[Act]) {
        let mut standing = Standing::default();
        let acts: Vec<Act> = windows
            .iter()
            .map(|(found, watched)| standing.window(*found, *watched, policy))
            .collect();
        assert_eq!(acts, expected, "{policy:?} {windows:?}");
    }

    #[test]
    fn silence_ends_a_contradicted_training_and_a_watcher_does_not() {
        use Act::{Clear, Nothing, Run, Stop, Tell};
        use Found::Grave;
        let policy = |on_contradiction| Policy {
            on_contradiction,
            ..Policy::default()
        };
        let alert = policy(OnContradiction::Alert);
        let unanswered = Stop { unanswered: true };
        check(
            &alert,
            &[
                (Found::Nothing, false),
                (Grave, false),
                (Grave, false),
                (Grave, false),
            ],
            &[Nothing, Tell, unanswered.clone(), Nothing],
        );
        check(
            &alert,
            &[(Grave, false), (Grave, true), (Grave, true), (Grave, false)],
            &[Tell, Nothing, Nothing, unanswered.clone()],
        );
        check(
            &alert,
            &[
                (Grave, false),
                (Found::Nothing, false),
                (Grave, false),
                (Grave, false),
            ],
            &[Tell, Clear, Tell, unanswered.clone()],
        );
        check(
            &policy(OnContradiction::Stop),
            &[(Grave, true)],
            &[Stop { unanswered: false }],
        );
        check(
            &policy(OnContradiction::Command("x".to_owned())),
            &[(Grave, false), (Grave, false)],
            &[Run("x".to_owned()), unanswered],
        );
        let patient = Policy {
            go_on_unanswered: true,
            ..Policy::default()
        };
        check(
            &patient,
            &[(Grave, false), (Grave, false)],
            &[Tell, Nothing],
        );
        let accepted = Policy {
            accepted: true,
            ..policy(OnContradiction::Stop)
        };
        check(
            &accepted,
            &[(Grave, false), (Grave, false)],
            &[Tell, Nothing],
        );
    }

    #[test]
    fn what_is_only_worth_a_word_never_ends_a_training_that_nobody_watches() {
        use Act::{Nothing, Stop, Tell};
        use Found::{Grave, Light};
        let alert = Policy::default();
        check(
            &alert,
            &[(Light, false), (Light, false), (Light, false)],
            &[Tell, Nothing, Nothing],
        );
        // What comes to it is told, and has a whole window of its own to be answered.
        check(
            &alert,
            &[
                (Light, false),
                (Grave, false),
                (Light, false),
                (Grave, false),
                (Grave, false),
            ],
            &[Tell, Tell, Nothing, Tell, Stop { unanswered: true }],
        );
        let stop = Policy {
            on_contradiction: OnContradiction::Stop,
            ..Policy::default()
        };
        check(&stop, &[(Light, true)], &[Stop { unanswered: false }]);
    }
}
