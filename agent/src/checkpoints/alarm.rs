//! Whether the backup is behind (pure).

use std::time::Duration;

use super::complete::Refused;

/// What is taken for usual between two checkpoints where only one was seen.
const UNKNOWN_PACE: Duration = Duration::from_secs(3 * 3600);

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
    /// What usually lies between two checkpoints of this session; `None`: there were no two.
    pub interval: Option<Duration>,
    /// Since when the oldest checkpoint that cannot be saved is as it is, and which and why.
    pub refused: Option<(Duration, String)>,
}

/// Since when the oldest checkpoint that cannot be saved is as it is, and which and why. A final loss is none of these: it was told at once,
/// the training that runs has no part in it, and no checkpoint to come would end an alarm about it.
pub fn oldest(refused: &[Refused]) -> Option<(Duration, String)> {
    let oldest = refused.iter().find(|one| !one.is_final)?;
    Some((oldest.since, format!("{} ({})", oldest.path, oldest.reason)))
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
    let newest = facts.last_commit.filter(|commit| *commit >= began);
    // A trainer that saves more rarely than that does so by habit; one that has gone twice without has stopped.
    let usual = match (newest, facts.interval) {
        (Some(_), Some(interval)) => interval,
        // What is usual is not known, perhaps because this agent is new here: hours pass before anybody is called.
        (Some(_), None) => facts.every.max(UNKNOWN_PACE),
        (None, _) => facts.every,
    };
    let allowed = facts.every.max(usual * 2);
    let age = facts.now.saturating_sub(newest.unwrap_or(began));
    if age <= allowed {
        return None;
    }
    let (age, allowed) = (age.as_secs(), allowed.as_secs());
    Some(match newest {
        None => format!(
            "no checkpoint was saved in the first {age} s of the session, {allowed} s are allowed"
        ),
        Some(_) => {
            format!("the newest checkpoint was saved {age} s ago, {allowed} s are allowed")
        }
    })
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
                interval: None,
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
        check(1_400, None, Some(100), Some(200), None);
        check(9_000, None, None, Some(200), None);
        check(
            1_401,
            None,
            Some(200),
            Some(100),
            Some("no checkpoint was saved"),
        );
    }

    #[test]
    fn a_trainer_that_has_stopped_saving_is_told_from_one_that_saves_rarely() {
        // Seconds since the newest commit, usual seconds between two, seconds that are allowed when that is too long.
        for (age, interval, expected) in [
            // Saved once, or seen to by an agent that is new here: nobody knows yet what is usual.
            (21_600, None, None),
            (21_601, None, Some(21_600)),
            // More often than it must.
            (600, Some(60), None),
            (601, Some(60), Some(600)),
            (601, Some(300), Some(600)),
            // Every hour: an alarm at each of them would be one for ever.
            (3_600, Some(3_600), None),
            (7_200, Some(3_600), None),
            (7_201, Some(3_600), Some(7_200)),
        ] {
            let facts = |training: bool| Facts {
                now: Duration::from_secs(50_000),
                every: Duration::from_secs(600),
                waiting_since: None,
                training_since: training.then_some(Duration::from_secs(100)),
                last_commit: Some(Duration::from_secs(50_000 - age)),
                interval: interval.map(Duration::from_secs),
                refused: None,
            };
            let told = expected.map(|allowed: u64| {
                format!("the newest checkpoint was saved {age} s ago, {allowed} s are allowed")
            });
            assert_eq!(behind(&facts(true)), told, "{age} s, {interval:?}");
            assert_eq!(behind(&facts(false)), None, "nothing is trained");
        }
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
                interval: None,
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

    #[test]
    fn what_a_dead_writer_left_is_no_fault_of_the_training_that_runs() {
        let one = |path: &str, is_final: bool| Refused {
            key: format!("file:{path}"),
            path: path.into(),
            step: None,
            size_bytes: 1,
            reason: "why".into(),
            since: Duration::from_secs(100),
            written_ns: 1,
            is_final,
            may_settle: false,
            is_unreadable: false,
        };
        for (refused, expected) in [
            (vec![], None),
            (vec![one("a.xyz", true)], None),
            (
                vec![one("b.pt", false), one("c.pt", false)],
                Some("b.pt (why)"),
            ),
            (
                vec![one("a.xyz", true), one("b.pt", false)],
                Some("b.pt (why)"),
            ),
        ] {
            let expected = expected.map(|what| (Duration::from_secs(100), what.to_owned()));
            assert_eq!(oldest(&refused), expected, "{refused:?}");
        }
    }
}
