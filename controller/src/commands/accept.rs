//! `spotter accept`: lets a training go on though its windows contradict its estimate.

use serde::Serialize;

use crate::{
    commands::{Deps, watching},
    error::CommandError,
    run::{State, windows},
    ui::{Table, Ui},
};

/// Let a training go on though it contradicts its estimate
///
/// Without it, a contradiction that stands for a whole window in which nobody watches ends the training.
#[derive(Debug, clap::Args)]
pub struct AcceptArgs {
    /// Run; the only one that goes on, if there is one
    run: Option<String>,
}

/// What was accepted.
#[derive(Debug, Serialize)]
struct Accepted {
    run: String,
    attempt: u32,
    contradiction: Option<String>,
}

/// Writes it down, and tells the box.
pub async fn accept(ui: &mut Ui, deps: &Deps, args: &AcceptArgs) -> Result<(), CommandError> {
    let run = deps.load_run(args.run.as_deref())?;
    let store = deps.store()?;
    let attempt = store
        .latest_attempt(&run.name)?
        .filter(|attempt| attempt.state == State::Running && run.outcome.is_none())
        .ok_or_else(|| {
            CommandError::new(format!("run `{}` has no training that goes on", run.name))
                .about(&run.name)
        })?;
    let contradiction = windows::contradiction(&store, &attempt)?;
    let detail = serde_json::json!({ "contradiction": contradiction });
    store.note(
        &run.name,
        attempt.number,
        deps.clock.now_us(),
        windows::ACCEPTED,
        &detail,
    )?;
    let lifecycle = deps.lifecycle(watching::ConsoleReport::new(ui))?;
    let site = deps.open_site(&run.name).await?;
    lifecycle
        .reassign(&run, &attempt, site.as_ref())
        .await
        .map_err(|err| {
            CommandError::new(format!("the box of `{}` was not told", run.name))
                .cause(err)
                .about(&run.name)
                .hint(format!("try again with `spotter accept {}`", run.name))
        })?;
    ui.status(format_args!(
        "`{}` goes on, whatever its windows say.",
        run.name
    ));
    let accepted = Accepted {
        run: run.name,
        attempt: attempt.number,
        contradiction,
    };
    ui.show(&accepted, |accepted| {
        let mut table = Table::new(&["RUN", "TRY>", "CONTRADICTION"]);
        let words = accepted
            .contradiction
            .clone()
            .unwrap_or_else(|| "none".to_owned());
        table.row([accepted.run.clone(), accepted.attempt.to_string(), words]);
        table
    });
    Ok(())
}
