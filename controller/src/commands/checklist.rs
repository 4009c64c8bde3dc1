//! `checklist`: the checklist of a production run, each line as it truly stands, with what shows it and what to type next.
//!
//! [`gather`] reads: the record, the box, and through [`copies`] what was copied of logs and measurements. [`facts`] is what was read, [`line`] the lines and their order;
//! [`before`], [`selection`], [`deployment`], [`execution`], [`monitoring`] and [`after`] judge them (pure).

mod after;
mod before;
mod copies;
mod deployment;
mod execution;
mod facts;
mod gather;
mod line;
mod monitoring;
mod selection;

use std::path::Path;

use serde::Serialize;

use self::{
    facts::Facts,
    line::{Line, Standing},
};
use crate::{
    commands::Deps,
    error::CommandError,
    spec::RunSpec,
    ui::{Table, Ui, text},
};

/// Show the production checklist of a run: each line done, still to come or wrong, and what shows it
///
/// Each line goes by a fact of the record, of what was copied here or of what the box says now; what spotter cannot know is told as
/// unknown. Before there is a run, a run file is checked as far as it says. Exits with 1 when a line is wrong.
#[derive(Debug, clap::Args)]
pub struct ChecklistArgs {
    /// The run, or a run file [default: the only run that goes on]
    #[arg(value_name = "RUN|FILE")]
    what: Option<String>,
    /// Only what is on this machine; the box is not asked
    #[arg(long)]
    recorded: bool,
}

/// The checklist, as JSON.
#[derive(Serialize)]
struct Checklist<'a> {
    run: &'a str,
    /// The run file, where there is no run of it.
    file: Option<&'a str>,
    /// Lines that are wrong.
    wrong: usize,
    lines: &'a [Line],
}

/// Runs the verb.
pub async fn checklist(ui: &mut Ui, deps: &Deps, args: &ChecklistArgs) -> Result<(), CommandError> {
    let facts = read(ui, deps, args).await?;
    let lines = line::lines(&facts);
    let wrong: Vec<&Line> = lines
        .iter()
        .filter(|line| line.state == Standing::Wrong)
        .collect();
    let shown = Checklist {
        run: facts.name(),
        file: facts.file.as_deref(),
        wrong: wrong.len(),
        lines: &lines,
    };
    ui.show(&shown, |shown| table(shown.lines));
    let Some(first) = wrong.first() else {
        return Ok(());
    };
    let text = match wrong.len() {
        1 => format!("1 line of the checklist of `{}` is wrong", facts.name()),
        count => format!(
            "{count} lines of the checklist of `{}` are wrong",
            facts.name()
        ),
    };
    let err = CommandError::new(text)
        .because(format!("{}: {}", first.what, first.evidence))
        .about(facts.name());
    Err(match &first.next {
        Some(next) => err.hint(next),
        None => err,
    })
}

/// A name that is no run's, and is or looks like a file, is a run file.
async fn read(ui: &mut Ui, deps: &Deps, args: &ChecklistArgs) -> Result<Facts, CommandError> {
    if let Some(what) = args.what.as_deref().filter(|what| is_file(what)) {
        let known = match deps.existing_store()? {
            Some(store) => store.find_run(what)?.is_some(),
            None => false,
        };
        if !known {
            let spec = RunSpec::load(Path::new(what))?;
            return Ok(gather::of_file(deps, what, spec));
        }
    }
    gather::of_run(ui, deps, args.what.as_deref(), args.recorded).await
}

fn is_file(text: &str) -> bool {
    let path = Path::new(text);
    let yaml = path
        .extension()
        .is_some_and(|ending| ending == "yaml" || ending == "yml");
    yaml || text.contains('/') || path.is_file()
}

fn table(lines: &[Line]) -> Table {
    let mut table = Table::new(&["PART", "LINE", "STATE", "SEEN", "AT", "NEXT"]);
    let mut before = "";
    for line in lines {
        let section = match line.section == before {
            true => "",
            false => line.section,
        };
        before = line.section;
        table.row([
            section.to_owned(),
            line.what.to_owned(),
            line.state.words().to_owned(),
            line.evidence.clone(),
            text::or_dash(line.at_us.map(text::time)),
            text::or_dash(line.next.as_deref()),
        ]);
    }
    table
}

#[cfg(test)]
mod tests;
