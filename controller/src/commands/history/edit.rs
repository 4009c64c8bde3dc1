//! `spotter history edit` and `rm`: mends figures that are wrong, and throws away what says nothing of later runs.

use serde::Serialize;

use super::figures::Figures;
use crate::{commands::Deps, error::CommandError, store::Store, ui::Ui};

/// Change figures of an observation; what you changed is not written over later
#[derive(Debug, clap::Args)]
pub(super) struct EditArgs {
    /// Number of the observation
    id: i64,
    #[command(flatten)]
    figures: Figures,
}

/// Throw observations away; an attempt's comes not back
#[derive(Debug, clap::Args)]
pub(super) struct RmArgs {
    /// Numbers of the observations
    #[arg(required = true)]
    ids: Vec<i64>,
}

#[derive(Serialize)]
struct Removed<'a> {
    removed: &'a [i64],
}

pub(super) fn edit(ui: &mut Ui, deps: &Deps, args: &EditArgs) -> Result<(), CommandError> {
    if args.figures.are_empty() {
        return Err(
            CommandError::usage("nothing to change: no figure was given")
                .hint("give what it should say, such as `--tokens-per-s 142k`"),
        );
    }
    let store = existing(deps, args.id)?;
    let found = store.observation(args.id)?;
    let mut record = found.ok_or_else(|| super::unknown(args.id))?;
    args.figures.put_into(&mut record.seen)?;
    record.edited = true;
    if !store.edit_observation(args.id, &record.seen)? {
        return Err(super::unknown(args.id));
    }
    let whose = record.seen.whose();
    ui.status(format_args!("Changed observation {} ({whose}).", args.id));
    if ui.is_json() {
        ui.json(&record);
    }
    Ok(())
}

pub(super) fn rm(ui: &mut Ui, deps: &Deps, args: &RmArgs) -> Result<(), CommandError> {
    let mut ids = args.ids.clone();
    ids.sort_unstable();
    ids.dedup();
    let store = existing(deps, ids[0])?;
    if let Some(missing) = store.remove_observations(&ids)? {
        return Err(super::unknown(missing).because("none was removed"));
    }
    ui.status(format_args!("Removed {}.", super::observations(ids.len())));
    if ui.is_json() {
        ui.json(&Removed { removed: &ids });
    }
    Ok(())
}

fn existing(deps: &Deps, id: i64) -> Result<std::sync::Arc<Store>, CommandError> {
    deps.existing_store()?.ok_or_else(|| super::unknown(id))
}
