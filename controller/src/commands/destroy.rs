//! `spotter destroy`: ends a run's box, unless something on it is not saved.

mod losses;
mod steps;

use std::{sync::Arc, time::Duration};

use serde::Serialize;

use self::losses::{Loss, What, in_words, on_box, on_record, table};
use crate::{
    agent_client::SessionInfo,
    commands::{Deps, watching, watching::ConsoleReport},
    error::CommandError,
    notify,
    provider::Intended,
    run::{
        State, alarms, behind, bringing_up::TRAIN, has_bucket, lease::Lease, next, older_boxes,
        summary::RunSummary,
    },
    store::{AttemptRecord, Outcome, RunRecord, Store},
    ui::{Table, Ui, text},
};

/// Longest time to wait for another spotter to let go of the run: an order of its may be on its way, and take minutes.
const LEASE_LIMIT: Duration = Duration::from_secs(180);
/// The same for one that watches a training: it has nothing on its way, and whatever it waits for is not wanted any more.
const GIVE_WAY: Duration = Duration::from_secs(60);
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
    /// Only the box of this earlier attempt; the run goes on
    #[arg(long, value_name = "NUMBER")]
    attempt: Option<u32>,
}

/// What was ended, for `--json`.
#[derive(Debug, Serialize)]
struct Destroyed {
    run: String,
    attempt: u32,
    instance: Option<u64>,
}

/// What was not ended and why, for `--json`.
#[derive(Debug, Serialize)]
struct Refused {
    run: String,
    attempt: u32,
    instance: Option<u64>,
    reason: String,
    would_lose: Vec<Loss>,
}

/// Asks the box what would be lost, then ends it.
pub async fn destroy(ui: &mut Ui, deps: &Deps, args: &DestroyArgs) -> Result<(), CommandError> {
    let run = deps.load_run(args.run.as_deref())?;
    let store = deps.store()?;
    let attempts = store.attempts(&run.name)?;
    if let Some(number) = args.attempt {
        return destroy_older(ui, deps, &run, &attempts, number, args.lose_data).await;
    }
    if !args.lose_data {
        for (index, attempt) in attempts.iter().enumerate() {
            let newest = index + 1 == attempts.len();
            if attempt.state != State::Gone {
                refuse_loss(ui, deps, &run, attempt, newest).await?;
            }
        }
    }
    // Whoever watches must not take the end of the box for an interruption. One that brings the end of a training home is let do so.
    let finishing = attempts
        .last()
        .is_some_and(|last| matches!(last.state, State::Finishing | State::Collected));
    let end = || {
        store.request_stop(&run.name)?;
        // Whether its box is gone by now, its attempt says.
        store.end_run(&run.name, Outcome::Stopped, Some("given up with `destroy`"))
    };
    if run.outcome.is_none() && !finishing {
        end()?;
    }
    // They see that, deal with the box and let go; then nobody rents behind our back.
    let _lease = take_lease(ui, &store, &run.name, args.lose_data).await?;
    if store.run(&run.name)?.outcome.is_none() {
        end()?;
    }
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
    // What the boxes could still save in their last seconds, nobody may have heard from them.
    deps.read_bucket(&run).await;
    notify::rest(&lifecycle, &run.name).await;
    if ended.is_empty() && !ui.is_json() {
        let summary = watching::summary(&store, &store.run(&run.name)?)?;
        ui.line(format_args!("{}", no_box_left(&summary)));
        return Ok(());
    }
    show_ended(ui, &ended);
    Ok(())
}

fn show_ended(ui: &mut Ui, ended: &[Destroyed]) {
    ui.show(&ended, |ended| {
        let mut table = Table::new(&["RUN", "ATTEMPT>", "INSTANCE>"]);
        for row in *ended {
            table.row([
                row.run.clone(),
                row.attempt.to_string(),
                text::or_dash(row.instance),
            ]);
        }
        table
    });
}

/// Ends the box of an attempt that has a successor, and leaves the run alone.
async fn destroy_older(
    ui: &mut Ui,
    deps: &Deps,
    run: &RunRecord,
    attempts: &[AttemptRecord],
    number: u32,
    lose_data: bool,
) -> Result<(), CommandError> {
    let name = &run.name;
    let refused = |why: String| CommandError::usage(why).about(name);
    let Some(attempt) = attempts.iter().find(|attempt| attempt.number == number) else {
        let count = attempts.len();
        return Err(refused(format!(
            "`--attempt {number}`: run `{name}` has {count}"
        )));
    };
    if attempt.state == State::Gone {
        ui.line(format_args!(
            "The box of attempt {number} of `{name}` is gone already, and costs nothing."
        ));
        return Ok(());
    }
    if attempts.last().is_some_and(|last| last.number == number) {
        return Err(refused(format!(
            "`--attempt {number}` is the newest one of `{name}`: its box is the run's"
        ))
        .hint(format!("end the run with `spotter destroy {name}`")));
    }
    if !lose_data {
        refuse_loss(ui, deps, run, attempt, false).await?;
    }
    let store = deps.store()?;
    older_boxes::let_go(&store, attempt, deps.clock.now_us())?;
    let lifecycle = deps.lifecycle(ConsoleReport::new(ui))?;
    let limit = tokio::time::Instant::now() + LEASE_LIMIT;
    let is_gone = || -> Result<bool, CommandError> {
        let now = store.attempts(name)?;
        let now = now.iter().find(|attempt| attempt.number == number);
        Ok(now.is_none_or(|attempt| attempt.state == State::Gone))
    };
    // Who acts for the run ends it at the next look; where nobody does, we act.
    while !is_gone()? {
        if let Some(_lease) = Lease::take(&store, name)? {
            lifecycle.end_older_box(run, number).await?;
        } else if tokio::time::Instant::now() >= limit {
            let why = format!("the box of attempt {number} of `{name}` is still there");
            return Err(CommandError::new(why).about(name).because(
                "another spotter acts for the run, and will end it at its next look".to_owned(),
            ));
        } else {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
    show_ended(
        ui,
        &[Destroyed {
            run: name.clone(),
            attempt: number,
            instance: attempt.instance,
        }],
    );
    Ok(())
}

/// Waits for whoever acts for the run to let go.
async fn take_lease(
    ui: &mut Ui,
    store: &Arc<Store>,
    run: &str,
    lose_data: bool,
) -> Result<Lease, CommandError> {
    let limit = tokio::time::Instant::now() + LEASE_LIMIT;
    let patience = tokio::time::Instant::now() + GIVE_WAY;
    let mut told = false;
    loop {
        if let Some(lease) = Lease::take(store, run)? {
            return Ok(lease);
        }
        let Some(acting) = store.lease(run)? else {
            continue;
        };
        if !told {
            told = true;
            ui.status(format_args!(
                "Another spotter, pid {}, acts for `{run}`: waiting until it lets go.",
                acting.pid
            ));
        }
        if tokio::time::Instant::now() >= patience
            && may_be_overruled(store, run, lose_data)?
            && let Some(lease) = Lease::take_over(store, run)?
        {
            ui.status(format_args!(
                "Pid {} did not let go within {} s: it is overruled.",
                acting.pid,
                GIVE_WAY.as_secs()
            ));
            return Ok(lease);
        }
        if tokio::time::Instant::now() >= limit {
            let pid = acting.pid;
            let text = format!(
                "the box of `{run}` was not destroyed: another spotter, pid {pid}, acts for the run"
            );
            return Err(CommandError::new(text)
                .about(run)
                .hint(format!("end that one with `kill {pid}`, then try again")));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Whoever watches a training, or one that has ended, has rented nothing that is not on record.
fn may_be_overruled(store: &Store, run: &str, lose_data: bool) -> Result<bool, CommandError> {
    let latest = store.latest_attempt(run)?;
    Ok(latest.is_some_and(|latest| match latest.state {
        State::Running | State::Stopped | State::Failed | State::Lost | State::Gone => true,
        // What it brings home is not wanted any more.
        State::Finishing | State::Collected => lose_data,
        _ => false,
    }))
}

/// What can be had from a box that is not destroyed just so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// It answers.
    Here,
    /// It is stopped, and may be started.
    Stopped,
    /// It is meant to run and gives no word.
    Silent,
}

/// Refuses when something would be lost, or when nobody can say whether it would; what, is shown by name and size.
async fn refuse_loss(
    ui: &mut Ui,
    deps: &Deps,
    run: &RunRecord,
    attempt: &AttemptRecord,
    newest: bool,
) -> Result<(), CommandError> {
    let store = deps.store()?;
    if next::is_saved(&store, run, attempt)? {
        return Ok(());
    }
    let Some((reach, reason, would_lose)) = at_stake(ui, deps, run, attempt, newest).await? else {
        return Ok(());
    };
    let refused = Refused {
        run: run.name.clone(),
        attempt: attempt.number,
        instance: attempt.instance,
        reason,
        would_lose,
    };
    if ui.is_json() || !refused.would_lose.is_empty() {
        ui.show(&refused, |refused| table(&refused.would_lose));
    }
    let name = &run.name;
    let text = format!("the box of `{name}` was not destroyed: something on it may not be saved");
    let err = CommandError::new(text).because(refused.reason).about(name);
    // What the bucket refuses now it refuses of whoever stops the run as well.
    let told = match run.outcome {
        None => [
            behind::backup(&store, attempt)?,
            alarms::refused(&store, attempt)?,
        ],
        Some(_) => [None, None],
    };
    let err = mend_keys(name, told)
        .into_iter()
        .fold(err, CommandError::hint);
    let err = match (run.outcome, reach) {
        (None, Reach::Silent) => err.hint(format!(
            "stop it as it is, and keep its disk, with `spotter stop {name}`"
        )),
        (None, _) => err.hint(format!("save it with `spotter stop {name}`")),
        (Some(_), Reach::Silent) => err,
        (Some(_), _) => err.hint(format!("look into it with `spotter ssh --start {name}`")),
    };
    let results = |loss: &Loss| loss.what == What::Result;
    let err = match refused.would_lose.iter().any(results) {
        true if reach != Reach::Silent => {
            err.hint(format!("bring results home with `spotter fetch {name}`"))
        }
        _ => err,
    };
    let destroy = match (newest, run.outcome) {
        (false, None) => next::let_go(&attempt.run, attempt.number),
        _ => format!("spotter destroy --lose-data {name}"),
    };
    Err(err.hint(format!("or give it up with `{destroy}`")))
}

/// What to do about a bucket that refuses, by the first of these words that names a fault of keys (pure).
fn mend_keys(run: &str, told: [Option<String>; 2]) -> Option<String> {
    let mut told = told.into_iter().flatten();
    told.find_map(|why| alarms::mend_keys(run, &why))
}

/// Why a box is not ended just so, and what would be lost with it; `None`: nothing would.
async fn at_stake(
    ui: &mut Ui,
    deps: &Deps,
    run: &RunRecord,
    attempt: &AttemptRecord,
    newest: bool,
) -> Result<Option<(Reach, String, Vec<Loss>)>, CommandError> {
    let store = deps.store()?;
    let unheard = |reach, why: String| {
        let why = match attempt
            .reason
            .as_ref()
            .filter(|_| attempt.is_kept_for_a_look())
        {
            Some(kept) => format!("{why}; it was {kept}"),
            None => why,
        };
        Ok::<_, CommandError>(Some((reach, why, on_record(&store, run, attempt)?)))
    };
    if !newest {
        let number = attempt.number;
        let why = format!("attempt {number} trained on a box that is stopped and cannot be asked");
        return unheard(Reach::Stopped, why);
    }
    let boxes = deps.market_boxes().await.unwrap_or_default();
    let found = attempt.instance.and_then(|id| boxes.get(&id));
    if found.is_some_and(|found| found.intended == Intended::Stopped) {
        catch_up(ui, deps, run, attempt).await?;
        let why = "its box is stopped and cannot be asked".to_owned();
        return unheard(Reach::Stopped, why);
    }
    ui.status(format_args!("Asking the box what is saved."));
    let asked = tokio::time::timeout(ASK, async {
        let site = deps.open_site(&run.name).await?;
        let status = site
            .status()
            .await
            .map_err(|err| CommandError::from_error(&err))?;
        Ok::<_, CommandError>((site, status))
    });
    let (site, status) = match asked.await {
        Ok(Ok(answer)) => answer,
        failed => {
            let why = match failed {
                Ok(Err(err)) => format!("its box cannot be asked: {err}"),
                _ => format!("its box did not answer in {} s", ASK.as_secs()),
            };
            catch_up(ui, deps, run, attempt).await?;
            return unheard(Reach::Silent, why);
        }
    };
    if let Some(backup) = status.backup.as_ref().filter(|backup| backup.unseen) {
        let problem = backup.problem.as_deref();
        let why = format!(
            "its checkpoint directory could not be looked at: {}",
            problem.unwrap_or("no look at it was had yet")
        );
        return unheard(Reach::Here, why);
    }
    let losses = on_box(ui, deps, run, attempt, site.as_ref(), &status).await?;
    let trains = status.session(TRAIN).is_some_and(SessionInfo::is_running);
    let at_stake = match (trains, losses.is_empty()) {
        (true, true) => Some(("the training runs".to_owned(), losses)),
        (true, false) => {
            let lost = in_words(&losses);
            Some((format!("the training runs; lost would be {lost}"), losses))
        }
        (false, false) => Some((in_words(&losses), losses)),
        // What it was kept for need not be among what it can list.
        (false, true) if attempt.is_kept_for_a_look() => {
            Some((attempt.reason.clone().unwrap_or_default(), losses))
        }
        (false, true) if !has_bucket(run) => {
            let reason = "the run has no bucket: what it wrote may be on this disk only";
            Some((reason.to_owned(), losses))
        }
        (false, true) => None,
    };
    Ok(at_stake.map(|(reason, losses)| (Reach::Here, reason, losses)))
}

/// A box that went may have left more in the bucket than the record knows.
async fn catch_up(
    ui: &mut Ui,
    deps: &Deps,
    run: &RunRecord,
    attempt: &AttemptRecord,
) -> Result<(), CommandError> {
    if let Some(_lease) = Lease::take(&deps.store()?, &run.name)? {
        let lifecycle = deps.lifecycle(ConsoleReport::new(ui))?;
        lifecycle.catch_up(run, attempt).await;
    }
    Ok(())
}

/// What is told about a run whose boxes are all gone.
fn no_box_left(summary: &RunSummary) -> String {
    let name = &summary.name;
    let Some(last) = summary.attempts.last() else {
        return format!("`{name}` never had a box: there is nothing to destroy.");
    };
    let which = last.instance.map_or_else(
        || format!("attempt {} never got one", last.number),
        |id| format!("instance {id} of attempt {} is gone", last.number),
    );
    let cost = text::usd(summary.cost_usd);
    format!("`{name}` has no box any more: {which}. It cost {cost} in all, and costs nothing now.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_bucket_refuses_is_to_be_mended_before_a_backup_is_late_too() {
        let refused = || Some("the bucket refuses our keys: no (AccessDenied)".to_owned());
        let late = || Some("a finished checkpoint has waited 601 s".to_owned());
        for (told, expected) in [
            ([None, None], false),
            ([None, refused()], true),
            ([refused(), None], true),
            ([late(), None], false),
            ([late(), refused()], true),
        ] {
            let hint = mend_keys("r", told.clone());
            let is_told = hint.is_some_and(|hint| hint.ends_with("then `spotter up r`"));
            assert_eq!(is_told, expected, "{told:?}");
        }
    }
}
