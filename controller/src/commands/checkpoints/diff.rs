//! `spotter checkpoints diff`.

use serde::Serialize;

use super::{Place, manifest, open};
use crate::{
    checkpoints::diff::{self, Change, FileDiff},
    commands::Deps,
    error::CommandError,
    ui::{Table, Ui, text},
};

/// Compare two, file by file, without reading their data
#[derive(Debug, clap::Args)]
pub(super) struct DiffArgs {
    /// Run
    run: String,
    /// Checkpoint
    before: String,
    /// The one to compare it with; the newest when none is named
    after: Option<String>,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Serialize)]
struct Shown {
    before: String,
    after: String,
    files: Vec<FileDiff>,
}

pub(super) async fn diff(ui: &mut Ui, deps: &Deps, args: &DiffArgs) -> Result<(), CommandError> {
    let (shelf, _) = open(deps, Some(ui.console()), Some(&args.run), &args.place).await?;
    let before = manifest(&shelf, Some(&args.before)).await?;
    let after = manifest(&shelf, args.after.as_deref()).await?;
    let shown = Shown {
        files: diff::diff(&before, &after),
        before: before.id,
        after: after.id,
    };
    let same = |file: &&FileDiff| file.change == Change::Same;
    ui.status(format_args!(
        "From {} to {}: {} of {} files are the same.",
        shown.before,
        shown.after,
        shown.files.iter().filter(same).count(),
        shown.files.len(),
    ));
    ui.show(&shown, |shown| {
        let mut table = Table::new(&["CHANGE", "BEFORE>", "AFTER>", "PATH"]);
        for file in shown.files.iter().filter(|file| !same(file)) {
            let change = match file.change {
                Change::Added => "added",
                Change::Removed => "removed",
                Change::Changed => "changed",
                Change::Same => "same",
            };
            table.row([
                change.to_owned(),
                text::or_dash(file.before_bytes.map(text::bytes)),
                text::or_dash(file.after_bytes.map(text::bytes)),
                file.path.clone(),
            ]);
        }
        table
    });
    Ok(())
}
