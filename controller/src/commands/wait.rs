//! `spotter wait`: blocks until runs have ended.

use std::time::Duration;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::{
    commands::{Deps, watching},
    error::{CommandError, ErrorKind},
    run::{
        diagnosis::{self, Diagnosis},
        interruptions::Interruption,
        lifecycle::Goal,
    },
    spec::duration,
    store::{Outcome, RunRecord},
    ui::{Table, Ui},
};

/// Wait until runs have ended; exits with what became of the worst
///
/// 0 done or stopped, 10 crashed, 11 the time for waiting is over, 12 interrupted and not recovered, 13 lost, 14
/// ended by a contradiction, 15 ended by a limit. While it waits it
/// recovers the runs from interruptions, unless another spotter does already.
#[derive(Debug, clap::Args)]
pub struct WaitArgs {
    /// Runs; the only one that goes on, if there is one
    runs: Vec<String>,
    /// Give up waiting after this long, such as 90m
    #[arg(long, value_parser = duration)]
    timeout: Option<Duration>,
}

/// How one run ended, for `--json`.
#[derive(Debug, Serialize)]
struct Waited {
    run: String,
    outcome: Option<Outcome>,
    reason: Option<String>,
    diagnosis: Option<Diagnosis>,
    interruptions: Vec<Interruption>,
    steps_lost: u64,
}

/// Waits for every run at once.
pub async fn wait(
    ui: &mut Ui,
    deps: &Deps,
    args: &WaitArgs,
    stop: CancellationToken,
) -> Result<(), CommandError> {
    let mut runs: Vec<RunRecord> = Vec::new();
    for name in &args.runs {
        runs.push(deps.load_run(Some(name))?);
    }
    if runs.is_empty() {
        runs.push(deps.load_run(None)?);
    }
    let lifecycle = deps.lifecycle(watching::ConsoleReport::new(ui))?;
    let all = futures::future::join_all(
        runs.iter()
            .map(|run| crate::run::vigil::keep(&lifecycle, &run.name, Goal::End)),
    );
    let limit = async {
        match args.timeout {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = all => {
            let mut records = Vec::new();
            for run in ended {
                records.push(run?);
            }
            let store = deps.store()?;
            let mut rows = Vec::new();
            for run in &records {
                let attempt = store.latest_attempt(&run.name)?;
                let summary = watching::summary(&store, run)?;
                rows.push(Waited {
                    run: run.name.clone(),
                    outcome: run.outcome,
                    reason: run.reason.clone(),
                    diagnosis: attempt.map(|attempt| diagnosis::of(&store, &attempt)).transpose()?.flatten(),
                    interruptions: summary.interruptions,
                    steps_lost: summary.steps_lost,
                });
            }
            ui.show(&rows, |rows| {
                let mut table = Table::new(&["RUN", "OUTCOME", "INTERRUPTED>", "STEPS LOST>", "REASON"]);
                for row in rows {
                    let outcome = row.outcome.map_or("-", Outcome::name);
                    table.row([
                        row.run.clone(),
                        outcome.to_owned(),
                        row.interruptions.len().to_string(),
                        row.steps_lost.to_string(),
                        row.reason.clone().unwrap_or_default(),
                    ]);
                }
                table
            });
            // Of several the worst decides: the one with the highest exit code.
            let worst = records.iter().filter_map(|run| watching::verdict(&store, run).err()).max_by_key(CommandError::exit_code);
            worst.map_or(Ok(()), Err)
        }
        () = limit => {
            let names: Vec<_> = runs.iter().map(|run| format!("`{}`", run.name)).collect();
            Err(CommandError::new(format!("{} had not ended in time", names.join(", "))).kind(ErrorKind::TimedOut))
        }
        () = stop.cancelled() => {
            ui.status(format_args!("Not waiting any more; the runs go on."));
            Ok(())
        }
    }
}
