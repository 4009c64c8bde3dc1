//! `spotter fetch`: files from the box to the laptop, verified; from the bucket when the box is gone.

use std::path::{Path, PathBuf};

use serde::Serialize;
use spotter_bucket::ManifestFile;

use super::checkpoints::{Hearing, Place, failed, open};
use crate::{
    agent_client::FileHash,
    checkpoints::{
        pull::{self, PullError},
        results,
    },
    commands::{Deps, parts::no_box, watching::ConsoleReport},
    error::CommandError,
    run::{
        fetching::{leading_nowhere, not_followed},
        has_bucket,
    },
    store::RunRecord,
    ui::{Table, Ui, Unit, text},
};

/// Fetch files from a run's box and verify each by its hash
///
/// Several come at once, each over a connection of its own. What is here already and hashes right is left alone, and a file that came
/// half goes on from there. When the box is gone, from what it brought to the bucket at its end.
#[derive(Debug, Clone, clap::Args)]
pub struct FetchArgs {
    /// Run
    run: String,
    /// Files, directories and patterns such as 'out/*.pt', relative to the box's working directory; `results.fetch` when none is named
    paths: Vec<String>,
    /// Directory to put them into; `results.to` when not given
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
}

/// A file that came, for `--json`.
#[derive(Debug, Serialize)]
struct Came<'a> {
    #[serde(flatten)]
    file: &'a FileHash,
    /// Where it is here.
    to: PathBuf,
}

/// What came, and what did not.
struct Fetched {
    files: Vec<FileHash>,
    /// Paths and patterns of which there is nothing.
    missing: Vec<String>,
    /// Links on the box that lead out of its working directory.
    leading_out: Vec<String>,
    broken: Vec<String>,
    /// What to type to see what there is.
    look: String,
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
    let attempt = deps.store()?.latest_attempt(&run.name)?;
    let attempt = attempt.filter(|attempt| attempt.may_cost() && attempt.instance.is_some());
    let site = match &attempt {
        None => None,
        Some(_) => match deps.open_site(&run.name).await {
            Ok(site) => Some(site),
            // Of an ended run the bucket may hold what its stopped box does not tell.
            Err(err) if run.outcome.is_some() && has_bucket(&run) => {
                ui.warning(format_args!("{err}: looking into the bucket instead"));
                None
            }
            Err(err) => return Err(err),
        },
    };
    let fetched = match (&attempt, site) {
        (Some(attempt), Some(site)) => {
            let lifecycle = deps.lifecycle(ConsoleReport::new(ui))?;
            let (workdir, list) = lifecycle
                .fetch_from(&run, attempt, site.as_ref(), &paths, &to)
                .await
                .map_err(|err| {
                    err.about(&run.name)
                        .hint(format!("what came is kept: go on with `{}`", again(args)))
                })?;
            Fetched {
                files: list.files,
                missing: list.missing,
                leading_out: list.leading_out,
                broken: list.broken,
                look: format!(
                    "names are relative to {workdir} on the box: see what is there with `spotter ssh {} -- ls -R {workdir}`",
                    run.name
                ),
            }
        }
        _ => from_bucket(ui, deps, &run, &paths, &to, args).await?,
    };
    let at = |file: &FileHash| {
        let place = to.join(&file.path);
        std::path::absolute(&place).unwrap_or(place)
    };
    let came: Vec<Came<'_>> = (fetched.files.iter())
        .map(|file| Came { file, to: at(file) })
        .collect();
    ui.show(&came, |came| {
        let mut table = Table::new(&["SIZE>", "BLAKE3", "PATH"]);
        for Came { file, .. } in came {
            table.row([
                text::bytes(file.size_bytes),
                file.blake3.chars().take(16).collect(),
                file.path.clone(),
            ]);
        }
        table
    });
    if !fetched.files.is_empty() && !ui.is_json() {
        let bytes: u64 = fetched.files.iter().map(|file| file.size_bytes).sum();
        ui.status(format_args!(
            "Verified: {} files, {}, below {}.",
            fetched.files.len(),
            text::bytes(bytes),
            to.display()
        ));
    }
    if !fetched.leading_out.is_empty() {
        ui.warning(format_args!(
            "{}: name what they lead to where it lies in the working directory, or let the training put copies in their place",
            not_followed(&fetched.leading_out)
        ));
    }
    if !fetched.broken.is_empty() {
        ui.warning(format_args!("{}", leading_nowhere(&fetched.broken)));
    }
    let absent = match (fetched.missing.is_empty(), fetched.files.is_empty()) {
        (true, false) => return Ok(()),
        // Directories without a file in them.
        (true, true) => &paths,
        (false, _) => &fetched.missing,
    };
    let much = match fetched.files.is_empty() {
        true => "nothing",
        false => "not everything",
    };
    let what = format!(
        "{much} was fetched from `{}`: there is none of these",
        run.name
    );
    Err(CommandError::new(what)
        .because(absent.join(", "))
        .about(&run.name)
        .hint(fetched.look))
}

/// The box is gone: what it brought to the bucket at its end is still there.
async fn from_bucket(
    ui: &mut Ui,
    deps: &Deps,
    run: &RunRecord,
    paths: &[String],
    to: &Path,
    args: &FetchArgs,
) -> Result<Fetched, CommandError> {
    if !has_bucket(run) {
        return Err(no_box(run));
    }
    let (shelf, _) = open(
        deps,
        Some(ui.console()),
        Some(&run.name),
        &Place::of_the_run(),
    )
    .await?;
    let what = format!("nothing was fetched of `{}`", run.name);
    let manifest = match results::newest(&shelf).await {
        Ok(Some(Ok(manifest))) => manifest,
        Ok(Some(Err(why))) => {
            return Err(CommandError::new(what)
                .because(format!("what its box left in the bucket is damaged: {why}")));
        }
        Ok(None) => {
            return Err(no_box(run).because(format!("nor has it left results in {}", shelf.url)));
        }
        Err(err) => return Err(failed(&shelf, what, err)),
    };
    ui.status(format_args!(
        "Fetching from {} into {}.",
        shelf.url,
        to.display()
    ));
    let there: Vec<&str> = manifest
        .files
        .iter()
        .map(|file| file.path.as_str())
        .collect();
    let all = FetchArgs {
        paths: vec![".".to_owned()],
        ..args.clone()
    };
    let look = look_at(&there, &again(&all));
    let (files, missing) = results::choose(&manifest.files, paths);
    if !files.is_empty() {
        let bar = ui.progress("results", Unit::Bytes, 0);
        let hearing = Hearing::new();
        let tell = &mut |done, total| {
            hearing.came();
            bar.set(done, total);
        };
        let pulling = pull::pull_files(&shelf, &files, to, tell);
        let pulled = hearing.attend(ui.console(), &shelf.url, pulling).await;
        drop(bar);
        pulled.map_err(|err| {
            let err = match err {
                PullError::Bucket(err) => failed(&shelf, what, err),
                err => CommandError::new(what).cause(err),
            };
            let kept = match pull::remainder(to, "") {
                Some(_) => "what came is kept: go on with",
                None => "nothing came: try again with",
            };
            err.hint(format!("{kept} `{}`", again(args)))
        })?;
    }
    let hash = |file: ManifestFile| FileHash {
        path: file.path,
        size_bytes: file.size_bytes,
        blake3: file.blake3,
    };
    Ok(Fetched {
        files: files.into_iter().map(hash).collect(),
        missing,
        leading_out: Vec::new(),
        broken: Vec::new(),
        look,
    })
}

/// What was typed.
fn again(args: &FetchArgs) -> String {
    let to = args.to.as_ref().map(|to| to.to_string_lossy());
    let mut words = vec!["spotter", "fetch", &args.run];
    words.extend(args.paths.iter().map(String::as_str));
    if let Some(to) = &to {
        words.extend(["--to", to]);
    }
    shell_words::join(words)
}

/// What there is to fetch instead, and what to type for it.
fn look_at(names: &[&str], all: &str) -> String {
    const NAMED: usize = 5;
    let more = match names.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let named = names[..names.len().min(NAMED)].join(", ");
    format!("its box left {named}{more} in the bucket: fetch all of it with `{all}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_is_what_was_typed() {
        let check = |paths: &[&str], to: Option<&str>, expected: &str| {
            let args = FetchArgs {
                run: "tiny".to_owned(),
                paths: paths.iter().map(|path| (*path).to_owned()).collect(),
                to: to.map(PathBuf::from),
            };
            assert_eq!(again(&args), expected);
        };
        check(&[], None, "spotter fetch tiny");
        check(&["out/a.pt"], None, "spotter fetch tiny out/a.pt");
        check(
            &["out/*.pt", "a b"],
            Some("my results"),
            "spotter fetch tiny 'out/*.pt' 'a b' --to 'my results'",
        );
    }

    #[test]
    fn a_hint_names_a_few_of_the_files_that_are_there() {
        let check = |names: &[&str], expected: &str| {
            let hint = look_at(names, "spotter fetch r .");
            assert!(hint.starts_with(expected), "{hint}");
            assert!(hint.ends_with("`spotter fetch r .`"), "{hint}");
        };
        check(&["a"], "its box left a in the bucket");
        check(
            &["a", "b", "c", "d", "e", "f", "g"],
            "its box left a, b, c, d, e and 2 more in the bucket",
        );
    }
}
