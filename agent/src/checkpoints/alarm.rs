//! Whether the backup is behind (pure).

use std::time::Duration;

/// What the judgement rests on. Times are since any fixed moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Now.
    pub now: Duration,
    /// How often at least a finished checkpoint must reach the bucket.
    pub every: Duration,
    /// When the oldest finished checkpoint that still waits was found finished.
    pub waiting_since: Option<Duration>,
    /// When the training session began, while it runs.
    pub training_since: Option<Duration>,
    /// Newest commit by this agent.
    pub last_commit: Option<Duration>,
    /// Since when the oldest checkpoint that cannot be saved is as it is, and which and why.
    pub refused: Option<(Duration, String)>,
}

/// Why the backup is behind; `None` when it is not.
pub fn behind(facts: &Facts) -> Option<String> {
    if facts.every.is_zero() {
        return None;
    }
    if let Some(since) = facts.waiting_since {
        let waited = facts.now.saturating_sub(since);
        if waited > facts.every {
            return Some(format!(
                "a finished checkpoint has waited {} s for its upload, {} s are allowed",
                waited.as_secs(),
                facts.every.as_secs()
            ));
        }
    }
    if let Some((since, what)) = &facts.refused {
        let waited = facts.now.saturating_sub(*since);
        if waited > facts.every {
            return Some(format!(
                "a checkpoint could not be saved for {} s, {} s are allowed: {what}",
                waited.as_secs(),
                facts.every.as_secs()
            ));
        }
    }
    let began = facts.training_since?;
    let none_since = facts.last_commit.is_none_or(|commit| commit < began);
    let trained = facts.now.saturating_sub(began);
    if none_since && trained > facts.every * 2 {
        return Some(format!(
            "no checkpoint was saved in the first {} s of the session, {} s are allowed",
            trained.as_secs(),
            (facts.every * 2).as_secs()
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backup_is_behind_when_a_checkpoint_waits_or_none_ever_came() {
        let at = |seconds: Option<u64>| seconds.map(Duration::from_secs);
        let check = |now: u64,
                     waiting: Option<u64>,
                     training: Option<u64>,
                     commit: Option<u64>,
                     expected: Option<&str>| {
            let facts = Facts {
                now: Duration::from_secs(now),
                every: Duration::from_secs(600),
                waiting_since: at(waiting),
                training_since: at(training),
                last_commit: at(commit),
                refused: None,
            };
            let found = behind(&facts);
            assert_eq!(found.is_some(), expected.is_some(), "{facts:?}");
            assert!(
                found
                    .unwrap_or_default()
                    .contains(expected.unwrap_or_default()),
                "{facts:?}"
            );
        };
        check(10_000, None, None, None, None);
        check(1_000, Some(400), None, None, None);
        check(1_001, Some(400), None, Some(300), Some("waited 601 s"));
        check(1_300, None, Some(100), None, None);
        check(
            1_301,
            None,
            Some(100),
            None,
            Some("no checkpoint was saved"),
        );
        check(9_000, None, Some(100), Some(200), None);
        check(
            1_401,
            None,
            Some(200),
            Some(100),
            Some("no checkpoint was saved"),
        );
    }

    #[test]
    fn a_checkpoint_that_cannot_be_saved_is_named_with_its_reason() {
        let check = |now: u64, expected: Option<&str>| {
            let facts = Facts {
                now: Duration::from_secs(now),
                every: Duration::from_secs(600),
                waiting_since: None,
                training_since: None,
                last_commit: None,
                refused: Some((
                    Duration::from_secs(100),
                    "ckpt.pt (no zip end record)".into(),
                )),
            };
            assert_eq!(behind(&facts).as_deref(), expected, "at {now}");
        };
        check(700, None);
        let told = "a checkpoint could not be saved for 601 s, 600 s are allowed: ckpt.pt (no zip end record)";
        check(701, Some(told));
    }
}
