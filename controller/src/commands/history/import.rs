//! `spotter history import`: observations from a file, all or none.

use std::{io::Read, path::PathBuf};

use serde::Serialize;

use super::rows;
use crate::{commands::Deps, error::CommandError, ui::Ui};

/// Add observations from a table or from JSON lines, as `export` writes them; all or none
///
/// A table is tab-separated, with a heading; it needs the columns `id`, `params_total` and `gpu`, and those of the published runs are
/// understood. What is there already is not added twice.
#[derive(Debug, clap::Args)]
pub(super) struct ImportArgs {
    /// The file; `-` reads stdin
    file: PathBuf,
}

#[derive(Serialize)]
struct Imported {
    added: usize,
    known: usize,
}

/// Most bytes that are read: rows are short, and a history is at most thousands of them.
const MAX_BYTES: u64 = 64 << 20;

pub(super) fn import(ui: &mut Ui, deps: &Deps, args: &ImportArgs) -> Result<(), CommandError> {
    let shown = args.file.display();
    let text = read(args)
        .map_err(|err| CommandError::usage(format!("`{shown}` was not read")).cause(err))?;
    let found = rows::parse(&text).map_err(|why| {
        CommandError::usage(format!("{shown}:{why}")).because("nothing was imported")
    })?;
    let added = deps.store()?.add_observations(&found)?;
    let known = found.len() - added;
    let more = match known {
        0 => String::new(),
        known => format!("; {known} were there already"),
    };
    ui.status(format_args!("Added {}{more}.", super::observations(added)));
    if ui.is_json() {
        ui.json(&Imported { added, known });
    }
    Ok(())
}

fn read(args: &ImportArgs) -> std::io::Result<String> {
    let mut text = String::new();
    if args.file.as_os_str() == "-" {
        std::io::stdin()
            .lock()
            .take(MAX_BYTES)
            .read_to_string(&mut text)?;
    } else {
        std::fs::File::open(&args.file)?
            .take(MAX_BYTES)
            .read_to_string(&mut text)?;
    }
    Ok(text)
}
