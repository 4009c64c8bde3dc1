//! `spotter fetch`: files from the box to the laptop, verified.

use std::path::PathBuf;

use crate::{
    commands::{Deps, parts::no_box, watching::ConsoleReport},
    error::CommandError,
    ui::{Table, Ui, text},
};

/// Fetch files from a run's box and verify each by its hash
#[derive(Debug, clap::Args)]
pub struct FetchArgs {
    /// Run
    run: String,
    /// Files and directories on the box, relative to its working directory; those of `results.fetch` when none is named
    paths: Vec<String>,
    /// Directory to put them into; `results.to` when not given
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
}

/// Copies and verifies.
pub async fn fetch(ui: &mut Ui, deps: &Deps, args: &FetchArgs) -> Result<(), CommandError> {
    let run = deps.load_run(Some(&args.run))?;
    let results = run.spec.results.as_ref();
    let paths = match (args.paths.is_empty(), results) {
        (false, _) => args.paths.clone(),
        (true, Some(results)) => results.fetch.clone(),
        (true, None) => {
            return Err(CommandError::usage(format!(
                "run `{}` names no results: say which files",
                run.name
            )));
        }
    };
    let to = match (&args.to, results) {
        (Some(to), _) => to.clone(),
        (None, Some(results)) => results.to.clone(),
        (None, None) => {
            return Err(CommandError::usage(
                "say where to put the files with `--to`",
            ));
        }
    };
    let attempt = deps
        .store()?
        .latest_attempt(&run.name)?
        .ok_or_else(|| no_box(&run))?;
    let site = deps.open_site(&run.name).await?;
    let lifecycle = deps.lifecycle(ConsoleReport::new(ui))?;
    let files = lifecycle
        .fetch_from(&run, &attempt, site.as_ref(), &paths, &to)
        .await?;
    ui.show(&files, |files| {
        let mut table = Table::new(&["SIZE>", "BLAKE3", "PATH"]);
        for file in files {
            table.row([
                text::bytes(file.size_bytes),
                file.blake3.chars().take(16).collect(),
                file.path.clone(),
            ]);
        }
        table
    });
    if files.is_empty() {
        let text = format!(
            "nothing was fetched from `{}`: none of these exist on its box",
            run.name
        );
        return Err(CommandError::new(text)
            .because(paths.join(", "))
            .about(&run.name));
    }
    Ok(())
}
