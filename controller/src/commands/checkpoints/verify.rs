//! `spotter checkpoints verify`.

use serde::Serialize;
use spotter_bucket::{CommitId, download::DownloadError};

use super::{Place, failed, find, open};
use crate::{
    checkpoints::{
        Shelf,
        verify::{self, Verdict},
    },
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
    let (shelf, record) = open(deps, Some(ui.console()), Some(&args.run), &args.place).await?;
    let what = format!("the checkpoints of `{}` were not verified", shelf.run);
    let all_there = shelf
        .vault()
        .read_all()
        .await
        .map_err(|err| failed(&shelf, &what, err))?;
    let mut rest = all_there.clone();
    let newest_first: Vec<CommitId> = rest.iter().map(|(id, _)| *id).collect();
    let mut wanted = Vec::new();
    for checkpoint in &args.checkpoints {
        wanted.push(find(&shelf, Some(checkpoint)).await?);
    }
    let commits: Vec<_> = rest
        .extract_if(.., |(id, _)| wanted.is_empty() || wanted.contains(id))
        .collect();
    if commits.is_empty() {
        ui.status(format_args!("No checkpoint in {}.", shelf.url));
    }
    let unread = |err| match err {
        DownloadError::Bucket(err) => failed(&shelf, &what, err),
        err => CommandError::new(&what).cause(err),
    };
    let bar = ui.progress("verifying", Unit::Bytes, 0);
    let verdicts = verify::verify(&shelf, &commits, &mut |done, total| bar.set(done, total)).await;
    drop(bar);
    let verdicts = verdicts.map_err(unread)?;
    let marks = verify::marks(&verdicts, &all_there);
    let marked = verify::leave(&shelf, &marks, shelf.server_us(&deps.clock)).await;
    super::marked(deps, &shelf, record.as_ref()).await;
    let verified = Verified {
        whole: verdicts.iter().all(Verdict::is_whole),
        checkpoints: verdicts,
    };
    ui.show(&verified, |verified| {
        let mut table = Table::new(&["STEP>", "SIZE>", "ID", "VERDICT"]);
        for one in &verified.checkpoints {
            table.row([
                text::or_dash(one.step),
                text::bytes(one.size_bytes),
                one.id.clone(),
                one.text(),
            ]);
        }
        table
    });
    if verified.whole {
        // A mark that stays costs a box one upload more than needed.
        return Ok(());
    }
    let all = &verified.checkpoints;
    let damaged: Vec<&Verdict> = all.iter().filter(|one| !one.is_whole()).collect();
    // What a restore would take is told by reading it, also when it was not asked about.
    let mut instead = None;
    for id in &newest_first {
        let name = id.to_string();
        let known = all.iter().find(|one| one.id == name).cloned();
        let verdict = match (known, rest.iter().position(|(other, _)| other == id)) {
            (Some(known), _) => Some(known),
            (None, Some(at)) => {
                let bar = ui.progress("looking for a whole one", Unit::Bytes, 0);
                let tell = &mut |done, total| bar.set(done, total);
                let read = verify::verify(&shelf, &rest[at..=at], tell).await;
                drop(bar);
                read.map_err(unread)?.pop()
            }
            (None, None) => None,
        };
        if verdict.is_some_and(|verdict| verdict.is_whole()) {
            instead = Some(name);
            break;
        }
    }
    let (what, it) = match damaged.as_slice() {
        [one] => (
            format!("checkpoint {} of `{}` is damaged", one.id, shelf.run),
            "it",
        ),
        several => (
            format!(
                "{} of {} checkpoints of `{}` are damaged",
                several.len(),
                all.len(),
                shelf.run
            ),
            "them",
        ),
    };
    let err = match instead {
        Some(whole) => CommandError::new(what).hint(format!(
            "a restore passes {it} over; the newest whole one is {whole}"
        )),
        None => CommandError::new(what)
            .hint("no other one restores: a run that resumes would begin anew"),
    };
    let err = match marked {
        Ok(_) => err.hint(format!(
            "marked in the bucket: within {} min a box that still trains for `{}` stores anew what of {it} it has, and refers to none of it",
            verify::HEARD_WITHIN.as_secs() / 60,
            shelf.run
        )),
        Err(why) => {
            ui.warning(format_args!(
                "what is damaged could not be marked in the bucket, so a box of `{}` goes on referring to it: {why}",
                shelf.run
            ));
            err
        }
    };
    let places: Vec<String> = (damaged.iter())
        .map(|one| format!("{}: {} ({})", one.id, one.text(), place(&shelf, one)))
        .collect();
    Err(err.because(places.join("\n")))
}

/// Key of the object that is damaged: of the first, where it is several.
fn place(shelf: &Shelf, verdict: &Verdict) -> String {
    let commit = |id: CommitId| shelf.layout.commit_key(&id);
    match verdict.files.first() {
        Some(file) => file.key.clone(),
        None => verdict.id.parse().map(commit).unwrap_or_default(),
    }
}
