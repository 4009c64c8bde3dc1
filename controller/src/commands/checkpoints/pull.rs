//! `spotter checkpoints pull`.

use std::{collections::HashSet, path::PathBuf};

use serde::Serialize;
use spotter_bucket::{CommitId, Manifest, Unread};

use super::{Hearing, Place, failed, find, marked, open};
use crate::{
    checkpoints::{
        Shelf,
        pull::{self, PullError, Pulled},
    },
    commands::Deps,
    error::CommandError,
    ui::{Table, Ui, Unit, text},
};

/// What is said of one that was found damaged before.
const MARKED: &str = "marked in the bucket as damaged";

/// Bring one here, proved byte by byte; when the newest is damaged, say so and take the one before
///
/// What lies there already and hashes right is not read again, so an interrupted one is simply repeated: what came of it waits
/// beside it, in NAME.spotter-partial.
#[derive(Debug, clap::Args)]
pub(super) struct PullArgs {
    /// Run
    run: String,
    /// Checkpoint; the newest whole one when none is named
    checkpoint: Option<String>,
    /// Directory to put it into
    #[arg(long, value_name = "DIR", default_value = ".")]
    to: PathBuf,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Serialize)]
struct Shown {
    id: String,
    step: Option<u64>,
    path: PathBuf,
    size_bytes: u64,
    fetched_bytes: u64,
    reused_bytes: u64,
    /// Newer ones that are damaged, with the reason.
    skipped: Vec<String>,
}

pub(super) async fn pull(ui: &mut Ui, deps: &Deps, args: &PullArgs) -> Result<(), CommandError> {
    ui.status(format_args!(
        "Looking for checkpoints of `{}` in its bucket.",
        args.run
    ));
    let (shelf, record) = open(deps, Some(ui.console()), Some(&args.run), &args.place).await?;
    let first = find(&shelf, args.checkpoint.as_deref()).await?;
    let damaged = marked(deps, &shelf, record.as_ref()).await;
    let mut ids = vec![first];
    if args.checkpoint.is_none() {
        let all = shelf.vault().ids().await.map_err(|err| {
            let what = format!("the checkpoints of `{}` were not listed", shelf.run);
            failed(&shelf, what, err)
        })?;
        ids.extend(all.into_iter().filter(|id| *id != first));
    } else if damaged.contains(&first) {
        ui.warning(format_args!(
            "checkpoint {first} is {MARKED}; what of it comes is proved all the same"
        ));
    }
    let ordered = in_order(&ids, &damaged);
    if ordered[0] != first {
        ui.warning(format_args!(
            "the newest checkpoint, {first}, is {MARKED}: taking {} instead",
            ordered[0]
        ));
    }
    let mut skipped = Vec::new();
    for id in &ordered {
        match pull_marked(ui, deps, &shelf, id, args).await? {
            Ok((manifest, pulled)) => {
                let newer = ids.iter().take_while(|newer| *newer != id);
                let untried = newer.filter(|newer| {
                    damaged.contains(*newer)
                        && !skipped
                            .iter()
                            .any(|told: &String| told.starts_with(&newer.to_string()))
                });
                let untried: Vec<String> = untried.map(|id| format!("{id}: {MARKED}")).collect();
                skipped.splice(0..0, untried);
                show(ui, &manifest, pulled, skipped);
                return Ok(());
            }
            Err(why) if args.checkpoint.is_some() => {
                return Err(CommandError::new(format!(
                    "checkpoint {id} of `{}` did not come: it {}",
                    shelf.run,
                    what_it_is(&why)
                ))
                .because(why.to_string())
                .hint(format!(
                    "see which are whole with `spotter checkpoints verify {}`",
                    shelf.run
                )));
            }
            Err(why) => {
                ui.warning(format_args!(
                    "checkpoint {id} {} and passed over: {why}",
                    what_it_is(&why)
                ));
                skipped.push(format!("{id}: {why}"));
            }
        }
    }
    Err(CommandError::new(format!(
        "no checkpoint of `{}` could be brought here",
        shelf.run
    ))
    .because(skipped.join("\n")))
}

/// What one is that does not come; a sentence that begins with it or its name.
fn what_it_is(why: &Unread) -> &'static str {
    if why.may_be_whole() {
        "is not read by this spotter"
    } else {
        "is damaged"
    }
}

/// The order in which they are tried (pure): those without a mark first, and of both the newest.
fn in_order(newest_first: &[CommitId], damaged: &HashSet<CommitId>) -> Vec<CommitId> {
    let mut ids = newest_first.to_vec();
    ids.sort_by_key(|id| damaged.contains(id));
    ids
}

/// One checkpoint, marked as being read so that nobody deletes its data; the inner error says how it is damaged, or why it is not read.
async fn pull_marked(
    ui: &mut Ui,
    deps: &Deps,
    shelf: &Shelf,
    id: &CommitId,
    args: &PullArgs,
) -> Result<Result<(Manifest, Pulled), Unread>, CommandError> {
    let what = format!("checkpoint {id} of `{}` did not come", shelf.run);
    let vault = shelf.vault();
    // Keys that may only read will do: then the grace of deleted data must be long enough.
    let mark = vault
        .begin_reading(id, "pull", shelf.server_us(&deps.clock))
        .await
        .ok();
    let manifest = match vault.read(id).await {
        Ok(Some(Ok(manifest))) => manifest,
        Ok(Some(Err(why))) => return Ok(Err(why)),
        Ok(None) => return Ok(Err(Unread::Damaged("it was deleted just now".to_owned()))),
        Err(err) => return Err(failed(shelf, what, err)),
    };
    let bar = ui.progress("pulling", Unit::Bytes, manifest.total_bytes());
    let hearing = Hearing::new();
    let tell = &mut |done, total| {
        hearing.came();
        bar.set(done, total);
    };
    let pulling = pull::pull(shelf, &manifest, &args.to, tell);
    let pulled = hearing.attend(ui.console(), &shelf.url, pulling).await;
    drop(bar);
    if let Some(mark) = mark {
        use spotter_bucket::Bucket;
        // One that stays is taken for over after a day.
        let _ = shelf.bucket.delete(&mark).await;
    }
    let err = match pulled {
        Ok(pulled) => return Ok(Ok((manifest, pulled))),
        Err(PullError::Damaged(why)) => return Ok(Err(Unread::Damaged(why))),
        Err(err @ PullError::InTheWay(_)) => {
            return Err(CommandError::new(what)
                .cause(err)
                .hint("nothing was touched: name another directory with `--to DIR`"));
        }
        Err(PullError::Bucket(err)) => failed(shelf, what, err),
        Err(err) => CommandError::new(what).cause(err),
    };
    let again = again(args);
    Err(match pull::remainder(&args.to, &manifest.path) {
        Some(partial) => err.hint(format!(
            "what came is kept in {}: go on from there with `{again}`",
            partial.display()
        )),
        None => err.hint(format!("nothing came, and nothing is left here: `{again}`")),
    })
}

/// What was typed.
fn again(args: &PullArgs) -> String {
    let mut words = vec!["spotter", "checkpoints", "pull", &args.run];
    words.extend(args.checkpoint.as_deref());
    let to = args.to.to_string_lossy();
    if to != "." {
        words.extend(["--to", &to]);
    }
    if let Some(bucket) = &args.place.bucket {
        words.extend(["--bucket", bucket]);
    }
    shell_words::join(words)
}

fn show(ui: &mut Ui, manifest: &Manifest, pulled: Pulled, skipped: Vec<String>) {
    let shown = Shown {
        id: manifest.id.clone(),
        step: manifest.step,
        size_bytes: manifest.total_bytes(),
        path: pulled.path,
        fetched_bytes: pulled.brought.fetched_bytes,
        reused_bytes: pulled.brought.reused_bytes,
        skipped,
    };
    ui.show(&shown, |shown| {
        let mut table = Table::new(&["STEP>", "SIZE>", "FETCHED>", "PATH", "ID"]);
        table.row([
            text::or_dash(shown.step),
            text::bytes(shown.size_bytes),
            text::bytes(shown.fetched_bytes),
            shown.path.display().to_string(),
            shown.id.clone(),
        ]);
        table
    });
}
