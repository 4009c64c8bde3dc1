//! `spotter wait`: blocks until runs have ended.

use std::time::Duration;

use futures::{StreamExt, stream::FuturesUnordered};
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    commands::{Deps, watching},
    error::{CommandError, ErrorKind},
    ledger,
    run::{
        diagnosis::{self, Diagnosis},
        interruptions::{self, Interruption},
        lifecycle::Goal,
        vigil,
    },
    spec::duration,
    store::{Outcome, RunRecord, Store},
    ui::{Table, Ui, text},
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
    /// Give up waiting after this long, such as 90m; hours that this machine sleeps count
    #[arg(long, value_parser = duration)]
    timeout: Option<Duration>,
}

/// How one run ended, for `--json`.
#[derive(Debug, Serialize)]
struct Waited {
    run: String,
    /// `null`: it goes on.
    outcome: Option<Outcome>,
    reason: Option<String>,
    diagnosis: Option<Diagnosis>,
    interruptions: Vec<Interruption>,
    steps_lost: u64,
    /// Why it is not watched any more; `null`: it was watched to its end, or to the end of the time for waiting.
    error: Option<String>,
    /// What its boxes cost now.
    usd_per_hour: f64,
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
    let mut watched: FuturesUnordered<_> = runs
        .iter()
        .enumerate()
        .map(|(index, run)| {
            let kept = vigil::keep(&lifecycle, &run.name, Goal::End);
            async move { (index, kept.await) }
        })
        .collect();
    let limit = async {
        match args.timeout {
            Some(limit) => over(&deps.clock, limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(limit);
    let mut results: Vec<Option<Result<RunRecord, CommandError>>> =
        runs.iter().map(|_| None).collect();
    let mut left = false;
    loop {
        tokio::select! {
            ended = watched.next() => {
                let Some((index, result)) = ended else { break };
                // Of several each is told as it comes: the others may take days.
                if runs.len() > 1 {
                    tell(ui, &runs[index].name, &result);
                }
                results[index] = Some(result);
            }
            () = &mut limit => break,
            () = stop.cancelled() => {
                ui.status(format_args!("Not waiting any more; the runs go on."));
                left = true;
                break;
            }
        }
    }
    drop(watched);
    let store = deps.store()?;
    let mut rows = Vec::new();
    for (run, result) in runs.iter().zip(&results) {
        rows.push(row(&store, &run.name, result.as_ref())?);
    }
    if left {
        if ui.is_json() {
            ui.json(&rows);
        }
        return Ok(());
    }
    ui.show(&rows, |rows| {
        let mut table = Table::new(&[
            "RUN",
            "OUTCOME",
            "INTERRUPTED>",
            "STEPS LOST>",
            "NOW>",
            "REASON",
        ]);
        for row in rows {
            table.row([
                row.run.clone(),
                row.outcome.map_or("-", Outcome::name).to_owned(),
                row.interruptions.len().to_string(),
                interruptions::figure(row.steps_lost, &row.interruptions),
                text::usd_per_hour(row.usd_per_hour),
                row.error
                    .clone()
                    .or_else(|| row.reason.clone())
                    .unwrap_or_default(),
            ]);
        }
        table
    });
    let late: Vec<&str> = runs
        .iter()
        .zip(&results)
        .filter(|(_, result)| result.is_none())
        .map(|(run, _)| run.name.as_str())
        .collect();
    // Of several the worst decides: the one with the highest exit code. One that goes on hides none that was lost.
    let worst = results
        .into_iter()
        .flatten()
        .filter_map(|result| match result {
            Ok(run) => watching::verdict(&store, &run).err(),
            Err(err) => Some(err),
        })
        .chain((!late.is_empty()).then(|| timed_out(deps, &late)))
        .max_by_key(CommandError::exit_code);
    worst.map_or(Ok(()), Err)
}

/// Between two looks at the date: so late is noticed at most that a laptop has slept past the end of the time.
const DATE: Duration = Duration::from_secs(30);

/// Ends when so much time is over by the timer or by the date, whichever ran further: the one stands still while the laptop sleeps,
/// the other may be set back.
async fn over(clock: &Clock, limit: Duration) {
    let (began, began_us) = (Instant::now(), clock.now_us());
    loop {
        let by_date = u64::try_from(clock.now_us().saturating_sub(began_us)).unwrap_or(0);
        let passed = began.elapsed().max(Duration::from_micros(by_date));
        let left = limit.saturating_sub(passed);
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(DATE)).await;
    }
}

/// Says what became of one of several runs.
fn tell(ui: &mut Ui, name: &str, result: &Result<RunRecord, CommandError>) {
    match result {
        Ok(run) => {
            let outcome = run.outcome.map_or("it goes on", Outcome::name);
            ui.status(format_args!("`{name}` is over: {outcome}."));
        }
        Err(err) => {
            ui.warning(format_args!(
                "`{name}` is not watched any more: {}",
                in_one_line(err)
            ));
            for hint in err.hints() {
                ui.hint(format_args!("{hint}"));
            }
        }
    }
}

fn in_one_line(err: &CommandError) -> String {
    std::iter::once(err.message())
        .chain(err.causes().iter().map(String::as_str))
        .collect::<Vec<_>>()
        .join(": ")
}

fn row(
    store: &Store,
    name: &str,
    result: Option<&Result<RunRecord, CommandError>>,
) -> Result<Waited, CommandError> {
    let run = store.run(name)?;
    let attempt = store.latest_attempt(name)?;
    let diagnosis = attempt.map(|attempt| diagnosis::of(store, &attempt));
    let error = result.and_then(|result| result.as_ref().err());
    let summary = watching::summary(store, &run)?;
    Ok(Waited {
        run: run.name,
        outcome: run.outcome,
        reason: summary.reason,
        diagnosis: diagnosis.transpose()?.flatten(),
        interruptions: summary.interruptions,
        steps_lost: summary.steps_lost,
        error: error.map(in_one_line),
        usd_per_hour: ledger::rate_usd_per_hour(&store.intervals(name)?, None),
    })
}

/// The time for waiting is over; what goes on costs money.
fn timed_out(deps: &Deps, late: &[&str]) -> CommandError {
    let names: Vec<_> = late.iter().map(|name| format!("`{name}`")).collect();
    let err = CommandError::new(format!("{} had not ended in time", names.join(", ")))
        .kind(ErrorKind::TimedOut)
        .hint(format!(
            "nothing was ended: wait again with `spotter wait {}`",
            late.join(" ")
        ));
    match late {
        // The money of one run is told with the error about it.
        [name] => err.about(*name),
        _ => late
            .iter()
            .flat_map(|name| {
                let lines = deps.money(Some(name));
                lines
                    .into_iter()
                    .map(move |line| format!("`{name}`: {line}"))
            })
            .fold(err, |err, line| err.because(line)),
    }
}
