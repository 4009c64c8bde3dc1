//! `spotter destroy`: ends a run's box, unless something on it is not saved.

use std::{sync::Arc, time::Duration};

use serde::Serialize;

use crate::{
    agent_client::BackupInfo,
    commands::{Deps, watching::ConsoleReport},
    error::CommandError,
    run::{State, lease::Lease},
    store::{AttemptRecord, Outcome, RunRecord, Store},
    ui::{Table, Ui, text},
};

/// Longest time to wait for another spotter to let go of the run: an order of its may be on its way, and take minutes.
const LEASE_LIMIT: Duration = Duration::from_secs(180);
/// Longest time to wait for the box's own word on what is saved.
const ASK: Duration = Duration::from_secs(40);

/// End a run's box for good; refused while something on it is not saved
#[derive(Debug, clap::Args)]
pub struct DestroyArgs {
    /// Run; the only one that goes on, if there is one
    run: Option<String>,
    /// End it even if checkpoints or results are lost by that
    #[arg(long)]
    lose_data: bool,
}

/// What was ended, for `--json`.
#[derive(Debug, Serialize)]
struct Destroyed {
    run: String,
    attempt: u32,
    instance: Option<u64>,
}

/// Asks the box what would be lost, then ends it.
pub async fn destroy(ui: &mut Ui, deps: &Deps, args: &DestroyArgs) -> Result<(), CommandError> {
    let run = deps.load_run(args.run.as_deref())?;
    let store = deps.store()?;
    let attempts = store.attempts(&run.name)?;
    if !args.lose_data {
        for (index, attempt) in attempts.iter().enumerate() {
            let newest = index + 1 == attempts.len();
            if attempt.state != State::Gone {
                refuse_loss(ui, deps, &run, attempt, newest).await?;
            }
        }
    }
    // Whoever watches must not take the end of the box for an interruption.
    if run.outcome.is_none() {
        store.request_stop(&run.name)?;
        store.end_run(&run.name, Outcome::Stopped, Some("destroyed on request"))?;
    }
    // They see that, deal with the box and let go; then nobody rents behind our back.
    let _lease = take_lease(ui, &store, &run.name).await?;
    let lifecycle = deps.lifecycle(ConsoleReport::new(ui))?;
    let mut ended = Vec::new();
    for mut attempt in store.attempts(&run.name)? {
        if attempt.state == State::Gone {
            continue;
        }
        lifecycle.end_box(&mut attempt).await?;
        ended.push(Destroyed {
            run: run.name.clone(),
            attempt: attempt.number,
            instance: attempt.instance,
        });
    }
    if ended.is_empty() {
        ui.status(format_args!("`{}` has no box any more.", run.name));
    }
    ui.show(&ended, |ended| {
        let mut table = Table::new(&["RUN", "ATTEMPT>", "INSTANCE>"]);
        for row in ended {
            table.row([
                row.run.clone(),
                row.attempt.to_string(),
                text::or_dash(row.instance),
            ]);
        }
        table
    });
    Ok(())
}

/// Waits for whoever acts for the run to let go.
async fn take_lease(ui: &mut Ui, store: &Arc<Store>, run: &str) -> Result<Lease, CommandError> {
    let limit = tokio::time::Instant::now() + LEASE_LIMIT;
    let mut told = false;
    loop {
        if let Some(lease) = Lease::take(store, run)? {
            return Ok(lease);
        }
        if !told {
            told = true;
            ui.status(format_args!(
                "Another spotter acts for `{run}`: waiting until it lets go."
            ));
        }
        if tokio::time::Instant::now() >= limit {
            let text =
                format!("the box of `{run}` was not destroyed: another spotter acts for the run");
            return Err(CommandError::new(text)
                .about(run)
                .hint("end that one, then try again"));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Refuses when something would be lost, or when nobody can say whether it would.
async fn refuse_loss(
    ui: &mut Ui,
    deps: &Deps,
    run: &RunRecord,
    attempt: &AttemptRecord,
    newest: bool,
) -> Result<(), CommandError> {
    // Nothing was ever trained on it, or everything was fetched and verified.
    if attempt.started_us == 0 || attempt.state == State::Collected {
        return Ok(());
    }
    if matches!(
        run.outcome,
        Some(Outcome::Done | Outcome::Stopped | Outcome::Limit | Outcome::Contradicted)
    ) && attempt.state != State::Running
        && !attempt.is_kept_for_a_look()
    {
        return Ok(());
    }
    // After a crash the last backup said what was left; without an answer of the box that stands.
    if attempt.state == State::Failed && crash_left_nothing(deps, run, attempt)? {
        return Ok(());
    }
    let refuse = |why: String| {
        let text = format!(
            "the box of `{}` was not destroyed: something on it may not be saved",
            run.name
        );
        let err = CommandError::new(text).because(why).about(&run.name);
        let err = match run.outcome {
            None => err.hint(format!("save it with `spotter stop {}`", run.name)),
            Some(_) => err.hint(format!(
                "look into it with `spotter ssh --start {}`",
                run.name
            )),
        };
        err.hint(format!(
            "or give it up with `spotter destroy --lose-data {}`",
            run.name
        ))
    };
    if !newest {
        let number = attempt.number;
        return Err(refuse(format!(
            "attempt {number} trained on a box that is stopped and cannot be asked"
        )));
    }
    ui.status(format_args!("Asking the box what is saved."));
    let asked = tokio::time::timeout(ASK, async {
        let site = deps.open_site(&run.name).await?;
        let status = site
            .status()
            .await
            .map_err(|err| CommandError::from_error(&err))?;
        Ok::<_, CommandError>(status)
    });
    let status = match asked.await {
        Ok(Ok(status)) => status,
        Ok(Err(err)) => return Err(refuse(format!("its box cannot be asked: {err}"))),
        Err(_) => {
            return Err(refuse(format!(
                "its box did not answer in {} s",
                ASK.as_secs()
            )));
        }
    };
    if status
        .sessions
        .iter()
        .any(|session| session.name == "train" && session.is_running())
    {
        return Err(refuse("the training runs".to_owned()));
    }
    match &status.backup {
        Some(backup) if backup.unsaved_bytes > 0 || backup.pending > 0 => {
            Err(refuse(at_stake(backup)))
        }
        None if run.spec.checkpoints.is_some() => {
            Err(refuse("its checkpoints have no backup".to_owned()))
        }
        _ => match &run.spec.results {
            Some(results) => Err(refuse(format!(
                "its results were not fetched: {}",
                results.fetch.join(", ")
            ))),
            None => Ok(()),
        },
    }
}

/// What would be lost, by name and size.
fn at_stake(backup: &BackupInfo) -> String {
    let mut lines = vec![format!(
        "{} of checkpoints are in no bucket ({} waiting)",
        text::bytes(backup.unsaved_bytes),
        backup.pending
    )];
    let named: u64 = backup.at_stake.iter().map(|(_, bytes)| bytes).sum();
    for (path, bytes) in &backup.at_stake {
        lines.push(format!("{path}: {}", text::bytes(*bytes)));
    }
    if !backup.at_stake.is_empty() && named < backup.unsaved_bytes {
        let rest = text::bytes(backup.unsaved_bytes - named);
        lines.push(format!("others: {rest}"));
    }
    lines.join("\n")
}

/// The crash was recorded together with an empty list of what was not saved.
fn crash_left_nothing(
    deps: &Deps,
    run: &RunRecord,
    attempt: &AttemptRecord,
) -> Result<bool, CommandError> {
    let events = deps.store()?.events(&run.name, 0)?;
    let crash = events
        .iter()
        .rev()
        .find(|event| event.kind == "crashed" && event.attempt == attempt.number);
    Ok(crash.is_some_and(|crash| crash.detail["unsaved_bytes"] == 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_lost_is_listed_by_name_and_size() {
        let mut backup = BackupInfo {
            unsaved_bytes: 3 << 30,
            pending: 1,
            at_stake: vec![
                ("step_20.pt".into(), 2 << 30),
                ("step_10.pt".into(), 1 << 30),
            ],
            ..BackupInfo::default()
        };
        let listed = "3.0 GiB of checkpoints are in no bucket (1 waiting)\nstep_20.pt: 2.0 GiB\nstep_10.pt: 1.0 GiB";
        assert_eq!(at_stake(&backup), listed);
        backup.at_stake.pop();
        assert!(at_stake(&backup).ends_with("step_20.pt: 2.0 GiB\nothers: 1.0 GiB"));
    }
}
