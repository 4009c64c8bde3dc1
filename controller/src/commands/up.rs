//! `spotter up`: picks a run up where its record stands.

use tokio_util::sync::CancellationToken;

use crate::{
    commands::{Deps, watching},
    error::CommandError,
    run::lifecycle::Goal,
    ui::Ui,
};

/// Go on with a run where its record stands, and watch over it
///
/// After a crash of spotter or a closed laptop: what was half done is found and finished. Another spotter that acts for the run
/// already is left to it; its box gets the bucket keys of this shell, where they work.
#[derive(Debug, clap::Args)]
pub struct UpArgs {
    /// Run; the only one that goes on, if there is one
    run: Option<String>,
    /// Leave as soon as the training runs
    #[arg(long)]
    detach: bool,
}

/// Carries the run on.
pub async fn up(
    ui: &mut Ui,
    deps: &Deps,
    args: &UpArgs,
    stop: CancellationToken,
) -> Result<(), CommandError> {
    let run = deps.load_run(args.run.as_deref())?;
    if deps.store()?.lease(&run.name)?.is_some() {
        let lifecycle = deps.lifecycle(watching::ConsoleReport::new(ui))?;
        tokio::select! {
            given = lifecycle.hand_over_beside(&run.name) => given?,
            () = stop.cancelled() => {}
        }
    }
    let goal = if args.detach {
        Goal::Running
    } else {
        Goal::End
    };
    watching::watch_and_show(ui, deps, &run.name, goal, stop).await
}
