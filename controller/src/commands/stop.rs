//! `spotter stop`: a last checkpoint, the end of the session, then `on_done`.

use tokio_util::sync::CancellationToken;

use crate::{
    commands::{Deps, watching},
    error::CommandError,
    run::{lease::Lease, lifecycle::Goal},
    store::{AttemptRecord, RunRecord},
    ui::{self, Ui},
};

/// Save a last checkpoint, end the training, then do with the box what `on_done` says
#[derive(Debug, clap::Args)]
pub struct StopArgs {
    /// Run; the only one that goes on, if there is one
    run: Option<String>,
}

/// Records the wish and carries it out, or looks on while another spotter does.
pub async fn stop(
    ui: &mut Ui,
    deps: &Deps,
    args: &StopArgs,
    leave: CancellationToken,
) -> Result<(), CommandError> {
    let run = deps.load_run(args.run.as_deref())?;
    let store = deps.store()?;
    if run.outcome.is_none() {
        store.request_stop(&run.name)?;
    } else {
        ui.status(format_args!("`{}` has ended already.", run.name));
    }
    let Some(ended) = watching::watch(ui, deps, &run.name, Goal::End, leave).await? else {
        return watching::show_left(ui, &store, &run.name);
    };
    if run.outcome.is_some() {
        stop_kept(ui, deps, &ended).await?;
    }
    let summary = watching::summary(&store, &ended)?;
    ui.show(&summary, ui::attempts_table);
    if let Some(closing) = watching::closing(&summary, ended.spec.results.as_ref()) {
        ui.status(format_args!("{closing}"));
    }
    Ok(())
}

/// The box of an ended run may have been kept running, by policy or for a look: whoever types `stop` does not want to pay for it.
async fn stop_kept(ui: &mut Ui, deps: &Deps, run: &RunRecord) -> Result<(), CommandError> {
    let store = deps.store()?;
    let latest = store.latest_attempt(&run.name)?;
    let Some(latest) = latest.filter(AttemptRecord::may_cost) else {
        return Ok(());
    };
    let Some(_lease) = Lease::take(&store, &run.name)? else {
        let text = format!(
            "the box of `{}` was not stopped: another spotter acts for the run",
            run.name
        );
        return Err(CommandError::new(text).about(&run.name));
    };
    deps.lifecycle(watching::ConsoleReport::new(ui))?
        .put_to_sleep(run, &latest)
        .await
}
