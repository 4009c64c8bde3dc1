//! `spotter checkpoints ls`.

use serde::Serialize;

use super::{Metric, Place, failed, marked, open};
use crate::{
    commands::Deps,
    error::CommandError,
    ui::{Table, Ui, text},
};

/// List them, newest first
#[derive(Debug, clap::Args)]
pub(super) struct LsArgs {
    /// Run; the only one that goes on, if there is one
    run: Option<String>,
    #[command(flatten)]
    place: Place,
}

/// A row of the listing.
#[derive(Debug, Serialize)]
struct Row {
    id: String,
    step: Option<u64>,
    attempt: u32,
    committed_us: u64,
    size_bytes: u64,
    files: usize,
    path: String,
    pinned: bool,
    /// A verification or a restore found its data damaged.
    damaged: bool,
    /// Value by which the best are kept, where its commit holds one.
    metric: Option<Metric>,
}

/// Reads every commit; a damaged one is told, not shown.
pub(super) async fn ls(ui: &mut Ui, deps: &Deps, args: &LsArgs) -> Result<(), CommandError> {
    let (shelf, record) = open(deps, Some(ui.console()), args.run.as_deref(), &args.place).await?;
    let unlisted = |err| {
        let what = format!("the checkpoints of `{}` were not listed", shelf.run);
        failed(&shelf, what, err)
    };
    let vault = shelf.vault();
    let commits = vault.read_all().await.map_err(unlisted)?;
    let now_ms = shelf.server_us(&deps.clock) / 1_000;
    let pinned = vault.holds(now_ms).await.map_err(unlisted)?.pinned;
    let damaged = marked(deps, &shelf, record.as_ref()).await;
    let (mut rows, mut newer) = (Vec::new(), false);
    for (id, commit) in commits {
        match commit {
            Ok(manifest) => rows.push(Row {
                pinned: pinned.contains(&manifest.id),
                damaged: manifest.id.parse().is_ok_and(|id| damaged.contains(&id)),
                size_bytes: manifest.total_bytes(),
                metric: manifest.metric.as_ref().map(Metric::from),
                files: manifest.files.len(),
                id: manifest.id,
                step: manifest.step,
                attempt: manifest.attempt,
                committed_us: manifest.committed_us,
                path: manifest.path,
            }),
            Err(why) if why.may_be_whole() => {
                newer = true;
                ui.warning(format_args!("checkpoint {id} is not shown: {why}"));
            }
            Err(why) => ui.warning(format_args!("checkpoint {id} is damaged: {why}")),
        }
    }
    if newer {
        ui.hint(format_args!(
            "install the spotter that wrote it, or a newer one, then `spotter checkpoints ls {}`",
            shelf.run
        ));
    }
    if rows.is_empty() {
        ui.status(format_args!("No checkpoint in {}.", shelf.url));
    }
    ui.show(&rows, |rows| {
        let measured = rows.iter().any(|row| row.metric.is_some());
        let mut columns = vec!["STEP>", "ATTEMPT>", "COMMITTED", "SIZE>", "FILES>", "PIN"];
        columns.extend(measured.then_some("METRIC"));
        let marked = rows.iter().any(|row| row.damaged);
        columns.extend(marked.then_some("DATA"));
        columns.extend(["PATH", "ID"]);
        let mut table = Table::new(&columns);
        for row in rows {
            let mut cells = vec![
                text::or_dash(row.step),
                row.attempt.to_string(),
                text::time(row.committed_us as i64),
                text::bytes(row.size_bytes),
                row.files.to_string(),
                if row.pinned { "yes" } else { "" }.to_owned(),
            ];
            if measured {
                let metric = row.metric.as_ref();
                cells.push(text::or_dash(
                    metric.map(|metric| format!("{} {}", metric.name, metric.value)),
                ));
            }
            if marked {
                cells.push(if row.damaged { "damaged" } else { "" }.to_owned());
            }
            cells.extend([row.path.clone(), row.id.clone()]);
            table.row(cells);
        }
        table
    });
    Ok(())
}
