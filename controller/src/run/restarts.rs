//! A training that its box started again by itself, after a restart of its container while nobody watched: how it may, and how whoever
//! comes back takes it over. The agent acts first, so nobody here starts a second one.

use spotter_trainlog::telling;

use crate::{
    agent_client::{Again, SessionInfo},
    run::{believable_step, halt::Halt, lifecycle::Lifecycle},
    spec::{RecoverPolicy, RunSpec},
    store::{AttemptRecord, EventRecord, RunRecord, Store, StoreError},
};

/// Event of the agent: it started the training again.
pub(crate) const RESTARTED: &str = "training.restarted";
/// Event of the agent: it did not, and why.
const NOT_RESTARTED: &str = "training.not_restarted";

/// How the box may start the training of a run again by itself (pure); `None`: where it goes on is a person's word. `lives` are those
/// that the run has had, this one included.
pub(crate) fn again(spec: &RunSpec, lives: u32) -> Option<Again> {
    match spec.recover.policy {
        RecoverPolicy::Never | RecoverPolicy::Ask => return None,
        RecoverPolicy::Here | RecoverPolicy::Elsewhere | RecoverPolicy::Price => {}
    }
    let from_shell = spec.envs.iter().filter(|(_, value)| value.is_none());
    Some(Again {
        fresh: spec.run.clone(),
        resume: spec.resume.clone().unwrap_or_else(|| spec.run.clone()),
        secrets: from_shell.map(|(name, _)| name.clone()).collect(),
        times: spec.recover.attempts.saturating_sub(lives),
    })
}

/// Why the box did not start the training of an attempt again, in words; `None`: it did not have to, or nothing is known.
///
/// # Errors
/// When the record cannot be read.
pub fn why_not(store: &Store, attempt: &AttemptRecord) -> Result<Option<String>, StoreError> {
    let event = store.newest_event(&attempt.run, attempt.number, NOT_RESTARTED)?;
    Ok(event
        .filter(|event| event.detail["started_us"].as_i64() == Some(attempt.started_us))
        .and_then(|event| Some(event.detail["reason"].as_str()?.to_owned())))
}

impl Lifecycle {
    /// Takes over the training of an attempt that its box started again by itself. Returns whether it did so now.
    pub(crate) fn adopt_restarted(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
        session: &SessionInfo,
    ) -> Result<bool, Halt> {
        let started_us = session.started_us as i64;
        if started_us == attempt.started_us {
            return Ok(false);
        }
        let is_it = |event: &EventRecord| event.detail["started_us"].as_i64() == Some(started_us);
        let told = self
            .store
            .newest_event(&run.name, attempt.number, RESTARTED)?;
        let Some(told) = told.filter(is_it) else {
            return Ok(false);
        };
        attempt.started_us = started_us;
        attempt.resumed_step = believable_step(told.detail["step"].as_u64());
        self.store.update_attempt(attempt)?;
        self.say(
            run,
            &format!(
                "Attempt {}: {}.",
                attempt.number,
                telling::restarted(&told.detail)
            ),
        );
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_box_starts_a_training_again_as_often_as_the_policy_allows_and_never_with_secrets() {
        let mut spec = RunSpec::from_flags_for_tests();
        spec.run = "train".to_owned();
        spec.recover.attempts = 3;
        let check = |spec: &RunSpec, lives, expected: Option<(&str, &[&str], u32)>| {
            let again = again(spec, lives);
            let found = again.as_ref().map(|again| {
                let secrets: Vec<&str> = again.secrets.iter().map(String::as_str).collect();
                (again.resume.as_str(), secrets, again.times)
            });
            let expected = expected.map(|(resume, names, times)| (resume, names.to_vec(), times));
            assert_eq!(found, expected);
        };
        check(&spec, 1, Some(("train", &[], 2)));
        check(&spec, 4, Some(("train", &[], 0)));
        spec.resume = Some("go on".to_owned());
        spec.envs.insert("EPOCHS".to_owned(), Some("3".to_owned()));
        spec.envs.insert("HF_TOKEN".to_owned(), None);
        check(&spec, 1, Some(("go on", &["HF_TOKEN"], 2)));
        for policy in [RecoverPolicy::Ask, RecoverPolicy::Never] {
            spec.recover.policy = policy;
            check(&spec, 1, None);
        }
    }

    #[test]
    fn what_a_box_did_alone_is_told_with_what_it_cost() {
        let check =
            |detail: Value, expected: &str| assert_eq!(telling::restarted(&detail), expected);
        check(
            json!({"step": 120, "last_step": 137, "uploads_wait": true}),
            "its box was restarted and went on with the training by itself from step 120, 17 steps were lost; uploads waited for \
             bucket keys, which no box keeps through a restart",
        );
        check(
            json!({"step": null, "last_step": null, "uploads_wait": false}),
            "its box was restarted and went on with the training by itself from the beginning",
        );
    }
}
