//! Steps of a training that would be lost with its box: those after the last commit.

use spotter_bucket::names::counts_epochs;

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

/// What the name of the newest commit says of steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Saved {
    /// There is no commit.
    Nothing,
    /// It is of this step.
    Step(u64),
    /// It is of this epoch.
    Epoch(u64),
    /// It has no number.
    Unknown,
}

/// The newest commit of a run up to an attempt.
fn saved(store: &Store, run: &RunRecord, attempt: &AttemptRecord) -> Result<Saved, CommandError> {
    let newest_first = (1..=attempt.number).rev();
    let Some((step, time_us)) = alarms::newest_saved(store, &run.name, newest_first.clone())?
    else {
        return Ok(Saved::Nothing);
    };
    let Some(step) = step else {
        return Ok(Saved::Unknown);
    };
    for number in newest_first {
        for event in store.events_of(&run.name, number, "checkpoint.committed")? {
            let is_it = event.time_us == time_us && event.detail["step"].as_u64() == Some(step);
            if is_it && event.detail["path"].as_str().is_some_and(counts_epochs) {
                return Ok(Saved::Epoch(step));
            }
        }
    }
    Ok(Saved::Step(step))
}

/// Steps of an attempt that are in no commit (pure). After one whose name has no step, or an epoch, nobody can count them.
fn of_steps(attempt: &AttemptRecord, reached: Option<u64>, saved: Saved) -> Option<Loss> {
    let reached = reached?;
    let from = match saved {
        Saved::Nothing => 0,
        Saved::Step(step) => step,
        // Some logs count epochs, too.
        Saved::Epoch(epoch) if epoch >= reached => return None,
        Saved::Epoch(epoch) => {
            let name = format!(
                "steps since the last commit, of epoch {epoch}: up to {reached} of attempt {}",
                attempt.number
            );
            return Some(Loss::new(What::Steps, name, None));
        }
        Saved::Unknown => return None,
    };
    let steps = reached.checked_sub(from).filter(|steps| *steps > 0)?;
    let since = match (saved, steps) {
        (Saved::Nothing, 1) => "1 step, and nothing is committed",
        (Saved::Nothing, _) => "steps, and nothing is committed",
        (_, 1) => "1 step since the last commit",
        _ => "steps since the last commit",
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
        check(None, Saved::Nothing, None);
        check(Some(20), Saved::Step(20), None);
        check(
            Some(137),
            Saved::Step(120),
            Some("17 steps since the last commit: 121 to 137 of attempt 2"),
        );
        check(
            Some(121),
            Saved::Step(120),
            Some("1 step since the last commit: 121 to 121 of attempt 2"),
        );
        check(
            Some(9),
            Saved::Nothing,
            Some("9 steps, and nothing is committed: 1 to 9 of attempt 2"),
        );
        // The name of its last commit has no step.
        check(Some(9), Saved::Unknown, None);
        // It has its epoch.
        check(
            Some(30_000),
            Saved::Epoch(3),
            Some("steps since the last commit, of epoch 3: up to 30000 of attempt 2"),
        );
        check(Some(3), Saved::Epoch(3), None);
    }
}
