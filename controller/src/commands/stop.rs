//! `spotter stop`: a last checkpoint, the end of the session, then `on_done`.

use tokio_util::sync::CancellationToken;

use crate::{
    commands::{Deps, watching},
    error::CommandError,
    run::lifecycle::Goal,
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
        return Ok(());
    };
    let summary = watching::summary(&store, &ended)?;
    ui.show(&summary, ui::attempts_table);
    Ok(())
}
