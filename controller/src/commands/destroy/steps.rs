//! Steps of a training that would be lost with its box: those after the last commit.

use super::losses::{Loss, What};
use crate::{
    agent_client::AgentStatus,
    commands::{Deps, watching::ConsoleReport},
    error::CommandError,
    run::{alarms, believable_step, site::Site},
    store::{AttemptRecord, RunRecord, Store},
    ui::Ui,
};

/// Of a training that runs: the steps that no commit holds, by its own word and its log.
pub(super) async fn on_box(
    ui: &mut Ui,
    deps: &Deps,
    run: &RunRecord,
    attempt: &AttemptRecord,
    site: &dyn Site,
    status: &AgentStatus,
) -> Result<Option<Loss>, CommandError> {
    let lifecycle = deps.lifecycle(ConsoleReport::new(ui))?;
    // Where nobody watches, the record does not know of its last commits.
    let news = lifecycle.bring_events(run, attempt.clone(), site).await;
    if let Err(err) = news {
        tracing::debug!(%err, "what happened on the box was not brought home");
    }
    let training = status.training.as_ref();
    let told = believable_step(training.and_then(|training| training.step));
    let reached = told.max(attempt.last_step);
    let saved = saved(&lifecycle.store, run, attempt)?;
    Ok(of_steps(attempt, reached, saved))
}

/// Of a box that cannot be asked.
pub(super) fn on_record(
    store: &Store,
    run: &RunRecord,
    attempt: &AttemptRecord,
) -> Result<Option<Loss>, CommandError> {
    Ok(of_steps(
        attempt,
        attempt.last_step,
        saved(store, run, attempt)?,
    ))
}

/// The newest commit of a run up to an attempt, and its step where its name has one.
fn saved(
    store: &Store,
    run: &RunRecord,
    attempt: &AttemptRecord,
) -> Result<Option<Option<u64>>, CommandError> {
    let saved = alarms::newest_saved(store, &run.name, (1..=attempt.number).rev())?;
    Ok(saved.map(|(step, _)| step))
}

/// Steps of an attempt that are in no commit (pure). After one whose name has no step nobody can count them.
fn of_steps(
    attempt: &AttemptRecord,
    reached: Option<u64>,
    saved: Option<Option<u64>>,
) -> Option<Loss> {
    let reached = reached?;
    let from = match saved {
        Some(step) => step?,
        None => 0,
    };
    let steps = reached.checked_sub(from).filter(|steps| *steps > 0)?;
    let since = match (saved, steps) {
        (None, 1) => "1 step, and nothing is committed",
        (None, _) => "steps, and nothing is committed",
        (Some(_), 1) => "1 step since the last commit",
        (Some(_), _) => "steps since the last commit",
    };
    let count = match steps {
        1 => String::new(),
        steps => format!("{steps} "),
    };
    let name = format!(
        "{count}{since}: {} to {reached} of attempt {}",
        from + 1,
        attempt.number
    );
    Some(Loss::new(What::Steps, name, None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::summary::attempt_for_tests;

    #[test]
    fn steps_after_the_last_commit_are_counted() {
        let check = |reached, saved, expected: Option<&str>| {
            let attempt = AttemptRecord {
                last_step: reached,
                ..attempt_for_tests(2)
            };
            let found = of_steps(&attempt, attempt.last_step, saved).map(|loss| loss.name);
            assert_eq!(found.as_deref(), expected);
        };
        check(None, None, None);
        check(Some(20), Some(Some(20)), None);
        check(
            Some(137),
            Some(Some(120)),
            Some("17 steps since the last commit: 121 to 137 of attempt 2"),
        );
        check(
            Some(121),
            Some(Some(120)),
            Some("1 step since the last commit: 121 to 121 of attempt 2"),
        );
        check(
            Some(9),
            None,
            Some("9 steps, and nothing is committed: 1 to 9 of attempt 2"),
        );
        // The name of its last commit has no step.
        check(Some(9), Some(None), None);
    }
}
