//! Brings here what the newest box of a run kept while nobody watched: its log, what it measured, and what happened on it. From the
//! box while it is there, else from what it left in its bucket.

use std::time::Duration;

use crate::{
    commands::{Deps, watching::ConsoleReport},
    error::CommandError,
    run::{endings::Disk, has_bucket, lease::Lease, lifecycle::Lifecycle, own_end::Reach},
    store::{AttemptRecord, RunRecord},
    ui::Ui,
};

/// Longest time for all of it: a week of measurements and a log of 1 GB come in less over most lines.
const LIMIT: Duration = Duration::from_secs(120);

/// Brings it here where nobody else does. A page is made without it, too: what could not be had is told, and no failure.
pub(super) async fn bring(ui: &mut Ui, deps: &Deps, run: &RunRecord) -> Result<(), CommandError> {
    let store = deps.store()?;
    let attempt = store.latest_attempt(&run.name)?;
    let Some(attempt) = attempt.filter(|attempt| attempt.started_us != 0) else {
        return Ok(());
    };
    // What has ended in order was brought home then.
    if run.outcome.is_some() {
        return Ok(());
    }
    // Whoever watches copies all of it; and two that append to one copy would spoil it.
    let Some(lease) = Lease::take(&store, &run.name)? else {
        return Ok(());
    };
    ui.status(format_args!(
        "Nobody watches `{}`: looking for what its box kept meanwhile.",
        run.name
    ));
    let lifecycle = deps.lifecycle(ConsoleReport::new(ui))?;
    let coming = tokio::select! {
        coming = tokio::time::timeout(LIMIT, kept(deps, &lifecycle, run, &attempt)) => coming,
        // It is being watched again.
        () = lease.lost() => Ok(Ok(())),
    };
    let why = match coming {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(why)) => why,
        Err(_) => format!("not all of it came in {} s", LIMIT.as_secs()),
    };
    ui.warning(format_args!(
        "the page shows what was here before, and ends where it was watched last: {why}"
    ));
    Ok(())
}

/// From the box, else from the bucket; the error says why from neither.
async fn kept(
    deps: &Deps,
    lifecycle: &Lifecycle,
    run: &RunRecord,
    attempt: &AttemptRecord,
) -> Result<(), String> {
    let from_box = match found(lifecycle, attempt).await {
        Found::Gone => {
            let ended = lifecycle.take_end(run, Disk::Lost, Reach::Look).await;
            if ended.is_ok_and(|ended| ended) {
                return Ok(());
            }
            Err("its box does not run any more".to_owned())
        }
        Found::Stopped => Err("its box does not run any more".to_owned()),
        Found::There => match deps.look_at(&run.name).await {
            Ok(site) => lifecycle
                .bring_home(run, attempt, site.as_ref())
                .await
                .map_err(|err| crate::error::chain(&err)),
            Err(err) => Err(err.to_string()),
        },
    };
    let Err(why) = from_box else { return Ok(()) };
    if !has_bucket(run) {
        return Err(why);
    }
    let left = lifecycle.bring_left(run, attempt.number).await;
    left.map_err(|err| format!("{why}; and its bucket: {}", crate::error::chain(&err)))
}

/// What the market says of the box.
enum Found {
    /// It may answer.
    There,
    /// It is there and does not run, or nothing is known of one.
    Stopped,
    /// The market does not know it.
    Gone,
}

/// A provider that does not say rules nothing out.
async fn found(lifecycle: &Lifecycle, attempt: &AttemptRecord) -> Found {
    let Some(id) = attempt.instance.filter(|_| attempt.may_cost()) else {
        return Found::Stopped;
    };
    match lifecycle.provider.instance(id).await {
        Ok(Some(found)) if !found.contract_running => Found::Stopped,
        Ok(None) => Found::Gone,
        Ok(Some(_)) | Err(_) => Found::There,
    }
}
