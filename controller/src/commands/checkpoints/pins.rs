//! `spotter checkpoints pin` and `unpin`.

use serde::Serialize;

use super::{Place, failed, find, marked, open};
use crate::{
    commands::Deps,
    error::CommandError,
    ui::{Table, Ui},
};

/// Keep one for good, whatever `keep` of the run file says
#[derive(Debug, clap::Args)]
pub(super) struct PinArgs {
    /// Run
    run: String,
    /// Checkpoint
    checkpoint: String,
    #[command(flatten)]
    place: Place,
}

/// Let `keep` of the run file have one again
#[derive(Debug, clap::Args)]
pub(super) struct UnpinArgs {
    /// Run
    run: String,
    /// Checkpoint
    checkpoint: String,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Serialize)]
struct Pinned {
    id: String,
    pinned: bool,
}

pub(super) async fn pin(ui: &mut Ui, deps: &Deps, args: &PinArgs) -> Result<(), CommandError> {
    let (shelf, record) = open(deps, Some(ui.console()), Some(&args.run), &args.place).await?;
    let id = find(&shelf, Some(&args.checkpoint)).await?;
    let damaged = marked(deps, &shelf, record.as_ref()).await;
    let now_us = shelf.server_us(&deps.clock);
    shelf
        .vault()
        .pin(&id, "checkpoints pin", now_us)
        .await
        .map_err(|err| {
            let what = format!("checkpoint {id} of `{}` was not pinned", shelf.run);
            failed(&shelf, what, err)
        })?;
    show(ui, id.to_string(), true);
    if damaged.contains(&id) {
        ui.warning(format_args!(
            "checkpoint {id} is marked in the bucket: its data was found damaged, and is kept as it is"
        ));
        let ids = shelf.vault().ids().await.unwrap_or_default();
        let run = &shelf.run;
        match ids.iter().find(|id| !damaged.contains(*id)) {
            Some(whole) => ui.hint(format_args!(
                "keep the newest without such a mark: `spotter checkpoints pin {run} {whole}`"
            )),
            None => ui.hint(format_args!(
                "see what is damaged with `spotter checkpoints verify {run}`"
            )),
        }
    }
    Ok(())
}

pub(super) async fn unpin(ui: &mut Ui, deps: &Deps, args: &UnpinArgs) -> Result<(), CommandError> {
    let (shelf, _) = open(deps, Some(ui.console()), Some(&args.run), &args.place).await?;
    let id = find(&shelf, Some(&args.checkpoint)).await?;
    shelf.vault().unpin(&id).await.map_err(|err| {
        let what = format!("checkpoint {id} of `{}` was not unpinned", shelf.run);
        failed(&shelf, what, err)
    })?;
    show(ui, id.to_string(), false);
    Ok(())
}

fn show(ui: &mut Ui, id: String, pinned: bool) {
    ui.show(&Pinned { id, pinned }, |row| {
        let mut table = Table::new(&["ID", "PIN"]);
        let pin = if row.pinned { "yes" } else { "no" };
        table.row([row.id.clone(), pin.to_owned()]);
        table
    });
}
