//! `spotter checkpoints verify`.

use serde::Serialize;
use spotter_bucket::download::DownloadError;

use super::{Place, failed, find, open};
use crate::{
    checkpoints::verify::{self, Verdict},
    commands::Deps,
    error::CommandError,
    ui::{Table, Ui, Unit, text},
};

/// Read everything and hold it against what was committed; exit code 1 when something is damaged
#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    /// Run
    run: String,
    /// Checkpoints; all when none is named
    checkpoints: Vec<String>,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Serialize)]
struct Verified {
    whole: bool,
    checkpoints: Vec<Verdict>,
}

pub(super) async fn verify(
    ui: &mut Ui,
    deps: &Deps,
    args: &VerifyArgs,
) -> Result<(), CommandError> {
    let (shelf, _) = open(deps, Some(&args.run), &args.place).await?;
    let what = format!("the checkpoints of `{}` were not verified", shelf.run);
    let mut commits = shelf
        .vault()
        .read_all()
        .await
        .map_err(|err| failed(&shelf, &what, err))?;
    if !args.checkpoints.is_empty() {
        let mut wanted = Vec::new();
        for checkpoint in &args.checkpoints {
            wanted.push(find(&shelf, Some(checkpoint)).await?);
        }
        commits.retain(|(id, _)| wanted.contains(id));
    }
    if commits.is_empty() {
        ui.status(format_args!("No checkpoint in {}.", shelf.url));
    }
    let bar = ui.progress("verifying", Unit::Bytes, 0);
    let verdicts = verify::verify(&shelf, &commits, &mut |done, total| bar.set(done, total)).await;
    drop(bar);
    let verdicts = verdicts.map_err(|err| match err {
        DownloadError::Bucket(err) => failed(&shelf, &what, err),
        err => CommandError::new(&what).cause(err),
    })?;
    let verified = Verified {
        whole: verdicts.iter().all(Verdict::is_whole),
        checkpoints: verdicts,
    };
    ui.show(&verified, |verified| {
        let mut table = Table::new(&["STEP>", "SIZE>", "ID", "VERDICT"]);
        for one in &verified.checkpoints {
            table.row([
                one.step.to_string(),
                text::bytes(one.size_bytes),
                one.id.clone(),
                words(one),
            ]);
        }
        table
    });
    if verified.whole {
        return Ok(());
    }
    let all = &verified.checkpoints;
    let damaged: Vec<&Verdict> = all.iter().filter(|one| !one.is_whole()).collect();
    let mut err = CommandError::new(format!(
        "{} of {} checkpoints of `{}` are damaged",
        damaged.len(),
        all.len(),
        shelf.run
    ));
    err = match all.iter().find(|one| one.is_whole()) {
        Some(whole) => err.hint(format!(
            "a restore passes them over; the newest whole one is {}",
            whole.id
        )),
        None => err.hint("none of them restores: a run that resumes would begin anew"),
    };
    Err(err.because(
        damaged
            .iter()
            .map(|one| format!("{}: {}", one.id, words(one)))
            .collect::<Vec<_>>()
            .join("\n"),
    ))
}

/// `whole`, or what is wrong with which file.
fn words(verdict: &Verdict) -> String {
    if let Some(why) = &verdict.commit {
        return why.clone();
    }
    let file = |file: &verify::DamagedFile| format!("{}: {}", file.path, file.damage);
    match verdict.files.as_slice() {
        [] => "whole".to_owned(),
        [one] => file(one),
        [first, rest @ ..] => format!("{} (and {} more files)", file(first), rest.len()),
    }
}
