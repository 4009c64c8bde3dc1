//! `report`: a run as one page that stands alone, or as Markdown, made of what is on this machine: the record, copies of logs and of
//! what boxes measured. It works while the run goes on, and when its boxes are gone.
//!
//! [`home`] brings here what a box kept while nobody watched; [`gather`] reads; [`model`] with [`spans`], [`tables`], [`plots`], [`notes`] and [`curve`] makes of it what is to be said; [`html`] with
//! [`svg`] and [`markup`], and [`markdown`], say it. All but the first two are pure.

mod chart;
mod curve;
mod gather;
mod home;
mod html;
mod markdown;
mod markup;
mod model;
mod notes;
mod plots;
mod spans;
mod svg;
mod tables;

use std::{
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use serde::Serialize;

use self::model::Figures;
use crate::{
    commands::Deps,
    error::CommandError,
    ui::{Ui, text},
};

/// Make a page of a run: curves, attempts, windows, checkpoints, money, events
///
/// One HTML file that stands alone, named RUN-report.html, or Markdown on stdout. Made of what is on this machine: it works while
/// the run goes on, and when its boxes are gone. Of a run that nobody watches it is first brought here what its box kept meanwhile,
/// or left in its bucket.
#[derive(Debug, clap::Args)]
pub struct ReportArgs {
    /// The run [default: the only one that goes on]
    run: Option<String>,
    /// As Markdown, for a pull request
    #[arg(long)]
    markdown: bool,
    /// Where to write it; `-` is stdout [default: RUN-report.html, or stdout for Markdown]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Only what is on this machine; neither box nor bucket is asked
    #[arg(long)]
    recorded: bool,
    /// Overwrite a file that is no report
    #[arg(long)]
    force: bool,
}

/// What was written, as JSON.
#[derive(Serialize)]
struct Written<'a> {
    run: &'a str,
    path: &'a Path,
    format: &'static str,
    #[serde(flatten)]
    figures: Figures,
}

/// Bytes of a file in which a report says that it is one.
const MARK_WITHIN: u64 = 1024;

/// Runs the verb.
pub async fn report(ui: &mut Ui, deps: &Deps, args: &ReportArgs) -> Result<(), CommandError> {
    let to_stdout = match &args.output {
        Some(path) => path.as_os_str() == "-",
        None => args.markdown,
    };
    if to_stdout && ui.is_json() {
        return Err(CommandError::usage(
            "the report and `--json` cannot both go to stdout: name a file with `-o FILE`",
        ));
    }
    let run = deps.load_run(args.run.as_deref())?;
    let name = run.name.clone();
    let default = || PathBuf::from(format!("{name}-report.html"));
    let path = args.output.clone().unwrap_or_else(default);
    if !to_stdout && !args.force {
        refuse_others(&path)?;
    }
    if !args.recorded {
        home::bring(ui, deps, &run).await?;
        deps.read_bucket(&run).await;
    }
    // Its end may have come home with the rest.
    let known = gather::gather(deps, deps.load_run(Some(&name))?)?;
    let report = model::report(&known);
    let made = format!(
        "made by spotter {} at {}",
        env!("CARGO_PKG_VERSION"),
        text::time(known.now_us)
    );
    let (page, format) = match args.markdown {
        true => (markdown::page(&report, &made), "markdown"),
        false => (html::page(&report, &made), "html"),
    };
    if to_stdout {
        ui.bytes(page.as_bytes());
        return Ok(());
    }
    write(&path, page.as_bytes()).map_err(|err| {
        CommandError::new(format!("`{}` was not written", path.display())).cause(err)
    })?;
    if ui.is_json() {
        ui.json(&Written {
            run: &name,
            path: &path,
            format,
            figures: report.figures,
        });
        return Ok(());
    }
    ui.line(format_args!("{}", path.display()));
    Ok(())
}

/// A file that somebody else made is not overwritten; an older report is.
fn refuse_others(path: &Path) -> Result<(), CommandError> {
    // A pipe or a terminal holds nothing that could be lost, and would be waited for.
    if fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        return Ok(());
    }
    let mut beginning = Vec::new();
    let read = fs::File::open(path).and_then(|file| {
        file.take(MARK_WITHIN).read_to_end(&mut beginning)?;
        Ok(())
    });
    match read {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(err) => {
            let text = format!("`{}` was not written", path.display());
            return Err(CommandError::new(text).cause(err));
        }
        Ok(()) => {}
    }
    let beginning = String::from_utf8_lossy(&beginning);
    let is_ours = beginning.is_empty()
        || beginning.contains(html::MARK)
        || beginning.starts_with(markdown::MARK);
    match is_ours {
        true => Ok(()),
        false => Err(CommandError::new(format!(
            "`{}` was not written: there is a file of that name that is no report",
            path.display()
        ))
        .hint("name another with `-o FILE`, or overwrite it with `--force`")),
    }
}

/// Writes it aside, then puts it in place: whoever looks sees all of it or what was there before.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // A link is followed, and what is no file, such as a pipe, cannot be replaced.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if fs::metadata(&target).is_ok_and(|known| !known.is_file()) {
        return fs::write(&target, bytes);
    }
    let parent = target.parent().filter(|dir| !dir.as_os_str().is_empty());
    let mut aside = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(parent.unwrap_or(Path::new(".")))?;
    aside.write_all(bytes)?;
    aside.persist(&target)?;
    Ok(())
}

#[cfg(test)]
mod tests;
