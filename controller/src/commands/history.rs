//! `spotter history`: what earlier attempts were seen to do, which later plans go by. A file for each thing to do.

mod add;
mod edit;
mod export;
mod figures;
mod import;
mod ls;
mod machines;
mod rows;
#[cfg(test)]
mod tests;

use clap::Subcommand;

use crate::{
    commands::Deps,
    error::CommandError,
    logbook::Logbook,
    run::observing,
    store::{ObservationRecord, Store},
    ui::Ui,
};

/// List, add, change, export and import what earlier attempts were seen to do; machines that are avoided
///
/// Each attempt that trained or was smoked leaves its speed, memory, use of the GPUs and paid time before training. `plan` and `run`
/// go by the closest one of the same code: the same `workdir` (or the same command without one), or the same name of the run, and the
/// same `model`. Without a further word they are listed.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct HistoryArgs {
    #[command(subcommand)]
    verb: Option<HistoryVerb>,
    #[command(flatten)]
    ls: ls::LsArgs,
}

#[derive(Debug, Subcommand)]
enum HistoryVerb {
    Ls(ls::LsArgs),
    Add(Box<add::AddArgs>),
    Edit(Box<edit::EditArgs>),
    Rm(edit::RmArgs),
    Export(export::ExportArgs),
    Import(import::ImportArgs),
    Machines(machines::MachinesArgs),
    Forgive(machines::ForgiveArgs),
}

/// Does what was asked.
pub fn history(ui: &mut Ui, deps: &Deps, args: &HistoryArgs) -> Result<(), CommandError> {
    match &args.verb {
        None => ls::ls(ui, deps, &args.ls),
        Some(HistoryVerb::Ls(args)) => ls::ls(ui, deps, args),
        Some(HistoryVerb::Add(args)) => add::add(ui, deps, args),
        Some(HistoryVerb::Edit(args)) => edit::edit(ui, deps, args),
        Some(HistoryVerb::Rm(args)) => edit::rm(ui, deps, args),
        Some(HistoryVerb::Export(args)) => export::export(ui, deps, args),
        Some(HistoryVerb::Import(args)) => import::import(ui, deps, args),
        Some(HistoryVerb::Machines(args)) => machines::machines(ui, deps, args),
        Some(HistoryVerb::Forgive(args)) => machines::forgive(ui, deps, args),
    }
}

/// Observations of a run, or of all. Attempts that were over before anybody looked are observed first.
fn known(deps: &Deps, run: Option<&str>) -> Result<Vec<ObservationRecord>, CommandError> {
    let Some(store) = deps.existing_store()? else {
        return Ok(Vec::new());
    };
    observe_all(deps, &store)?;
    let mut all = store.observations()?;
    if let Some(run) = run {
        all.retain(|record| record.seen.run == run);
    }
    Ok(all)
}

fn observe_all(deps: &Deps, store: &Store) -> Result<(), CommandError> {
    let logbook = Logbook::new(deps.config.home());
    for run in store.runs()? {
        observing::observe_run(store, &logbook, &run, deps.clock.now_us())?;
    }
    Ok(())
}

/// There is no observation of that number.
fn unknown(id: i64) -> CommandError {
    CommandError::usage(format!("there is no observation {id}"))
        .hint("see what there is with `spotter history`")
}

/// So many observations, in words.
fn observations(count: usize) -> String {
    match count {
        1 => "1 observation".to_owned(),
        count => format!("{count} observations"),
    }
}
