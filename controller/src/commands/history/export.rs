//! `spotter history export`: the observations for other machines and programs.

use std::{io::Write, path::PathBuf};

use super::rows;
use crate::{commands::Deps, error::CommandError, ui::Ui};

/// Write the observations as a table that `import` and `plan --evaluate` read, or with --json as JSON lines
///
/// The table has tab-separated columns under a heading, those of the published runs first. It holds what names a model; JSON lines
/// hold everything.
#[derive(Debug, clap::Args)]
pub(super) struct ExportArgs {
    /// File to write; stdout without one
    file: Option<PathBuf>,
    /// Of this run alone
    #[arg(long)]
    run: Option<String>,
}

pub(super) fn export(ui: &mut Ui, deps: &Deps, args: &ExportArgs) -> Result<(), CommandError> {
    let all = super::known(deps, args.run.as_deref())?;
    let (text, written) = match ui.is_json() {
        true => (rows::json_lines(&all), all.len()),
        false => rows::table(&all),
    };
    match &args.file {
        None => ui.bytes(text.as_bytes()),
        Some(path) => {
            let failed =
                |err| CommandError::new(format!("`{}` was not written", path.display())).cause(err);
            // Never over something that is there.
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(path)
                .map_err(failed)?;
            file.write_all(text.as_bytes()).map_err(failed)?;
            ui.status(format_args!(
                "Wrote {written} observations to {}.",
                path.display()
            ));
        }
    }
    if written < all.len() {
        ui.warning(format_args!(
            "{} observations without `model` are not in the table; `--json` writes them, too",
            all.len() - written
        ));
    }
    Ok(())
}
