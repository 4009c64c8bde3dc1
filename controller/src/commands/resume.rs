//! `spotter resume`: starts a run that has ended again.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{
    commands::{Deps, watching},
    error::CommandError,
    run::{lease::Lease, lifecycle::Goal},
    spec::values,
    store::Outcome,
    ui::{self, Ui},
};

/// Start a run that crashed, was stopped or was given up again
///
/// On its own box where that is kept, with your code as it is now; else on a new one. With a bucket the training goes on from the
/// newest checkpoint. A run that still goes on is left to `spotter up`.
#[derive(Debug, clap::Args)]
pub struct ResumeArgs {
    /// Run
    run: String,
    /// Rent another box, even if its own is kept
    #[arg(long)]
    elsewhere: bool,
    /// From now on, at most so many dollars for the whole run, with what it has spent
    #[arg(long, value_name = "USD", value_parser = values::usd)]
    budget: Option<f64>,
    /// From now on, at most so much time for training, with what it has trained
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    max_runtime: Option<Duration>,
    /// Leave as soon as the training runs
    #[arg(long)]
    detach: bool,
}

/// Opens the run again, then carries it on.
pub async fn resume(
    ui: &mut Ui,
    deps: &Deps,
    args: &ResumeArgs,
    stop: CancellationToken,
) -> Result<(), CommandError> {
    let mut run = deps.load_run(Some(&args.run))?;
    let limits = &mut run.spec.limits;
    limits.budget_usd = args.budget.or(limits.budget_usd);
    limits.max_runtime = args.max_runtime.or(limits.max_runtime);
    let store = deps.store()?;
    let refused = |text: String| CommandError::usage(text).about(&run.name);
    let here = match run.outcome {
        None => {
            return Err(refused(format!("run `{}` has not ended", run.name))
                .hint(format!("go on with it: `spotter up {}`", run.name)));
        }
        Some(Outcome::Done) => {
            return Err(refused(format!("run `{}` has ended well", run.name))
                .hint("train on under another name with `spotter run --name`"));
        }
        // The market has that box, or nobody has.
        Some(Outcome::Interrupted | Outcome::Lost) => false,
        Some(
            Outcome::Crashed
            | Outcome::Stopped
            | Outcome::Failed
            | Outcome::Limit
            | Outcome::Contradicted,
        ) => !args.elsewhere,
    };
    let lifecycle = deps.lifecycle(watching::ConsoleReport::new(ui))?;
    {
        let Some(_lease) = Lease::take(&store, &run.name)? else {
            return Err(CommandError::new(format!(
                "run `{}` was not started again: another spotter acts for it",
                run.name
            ))
            .about(&run.name));
        };
        lifecycle.reopen(&run, here).await?;
    }
    let goal = if args.detach {
        Goal::Running
    } else {
        Goal::End
    };
    let Some(ended) = watching::watch(ui, deps, &run.name, goal, stop).await? else {
        return Ok(());
    };
    let summary = watching::summary(&store, &ended)?;
    ui.show(&summary, ui::attempts_table);
    watching::verdict(&store, &ended)
}
