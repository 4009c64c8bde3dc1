//! `spotter checkpoints push`.

use std::path::PathBuf;

use serde::Serialize;
use spotter_bucket::{Manifest, names};

use super::{Place, failed, open};
use crate::{
    checkpoints::push::{self, About, PushError},
    commands::Deps,
    error::CommandError,
    run::State,
    store::RunRecord,
    ui::{Table, Ui, Unit, text},
};

/// Commit a file or directory of this machine as the run's newest checkpoint: its next start resumes from it
#[derive(Debug, clap::Args)]
pub(super) struct PushArgs {
    /// Run
    run: String,
    /// File or directory, named as its trainer would name it
    path: PathBuf,
    /// Its step; the one that its name speaks of when not given
    #[arg(long)]
    step: Option<u64>,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Serialize)]
struct Shown {
    id: String,
    step: Option<u64>,
    path: String,
    size_bytes: u64,
    files: usize,
    reused_bytes: u64,
}

pub(super) async fn push(ui: &mut Ui, deps: &Deps, args: &PushArgs) -> Result<(), CommandError> {
    let (shelf, record) = open(deps, Some(ui.console()), Some(&args.run), &args.place).await?;
    let from = args.path.canonicalize().map_err(|err| {
        CommandError::usage(format!("{} was not pushed", args.path.display())).cause(err)
    })?;
    let kept = (record.as_ref()).and_then(|run| run.spec.checkpoints.as_ref());
    let when = kept
        .and_then(|kept| kept.complete_when.as_deref())
        .and_then(|when| when.parse().ok());
    if is_training(deps, record.as_ref())? {
        ui.status(format_args!(
            "`{0}` is training: its agent commits what it saves by itself, and this is put beside that. The training that runs does not read \
             it; the next start of `{0}` resumes from whichever was committed last.",
            shelf.run
        ));
    }
    let what = format!("{} was not pushed", from.display());
    let commits = shelf
        .vault()
        .commits()
        .await
        .map_err(|err| failed(&shelf, &what, err))?;
    let known: Vec<&Manifest> = commits
        .iter()
        .filter_map(|commit| commit.manifest.as_ref())
        .collect();
    let name = from.file_name().unwrap_or_default().to_string_lossy();
    let about = About {
        step: args.step.or_else(|| names::step_of(&name)),
        attempt: known.first().map_or(1, |newest| newest.attempt),
        rule: rule(&known, &name),
        when,
        now_us: u64::try_from(deps.clock.now_us()).unwrap_or(0),
        server_us: shelf.server_us(&deps.clock),
    };
    let bar = ui.progress("pushing", Unit::Bytes, 0);
    let tell = &mut |done, total| bar.set(done, total);
    let pushed = push::push(&shelf, &from, &about, &known, tell).await;
    drop(bar);
    let (manifest, reused_bytes) = pushed.map_err(|err| match err {
        PushError::Bucket(err) => failed(&shelf, &what, err),
        err @ PushError::NotWhole { .. } => CommandError::usage(&what).cause(err).hint(
            "push one whose save came to its end, with all that its trainer wrote beside it: the next start of the run would fail on half of one",
        ),
        err @ (PushError::Unfit { .. } | PushError::Name(_)) => {
            CommandError::usage(&what).cause(err)
        }
        err => CommandError::new(&what).cause(err),
    })?;
    let shown = Shown {
        size_bytes: manifest.total_bytes(),
        files: manifest.files.len(),
        id: manifest.id,
        step: manifest.step,
        path: manifest.path,
        reused_bytes,
    };
    ui.show(&shown, |shown| {
        let mut table = Table::new(&["STEP>", "SIZE>", "FILES>", "REUSED>", "PATH", "ID"]);
        table.row([
            text::or_dash(shown.step),
            text::bytes(shown.size_bytes),
            shown.files.to_string(),
            text::bytes(shown.reused_bytes),
            shown.path.clone(),
            shown.id.clone(),
        ]);
        table
    });
    Ok(())
}

/// Whether a box of the run trains, as far as the record knows.
fn is_training(deps: &Deps, run: Option<&RunRecord>) -> Result<bool, CommandError> {
    let (Some(run), Some(store)) = (run, deps.existing_store()?) else {
        return Ok(false);
    };
    let newest = store.latest_attempt(&run.name)?;
    Ok(newest.is_some_and(|attempt| attempt.state == State::Running))
}

/// The rule of the newest checkpoint with such a name: by it a restore knows what else its trainer wants to find.
fn rule(known: &[&Manifest], name: &str) -> String {
    let shape = |name: &str| name.replace(|c: char| c.is_ascii_digit(), "");
    let like = known
        .iter()
        .find(|manifest| shape(&manifest.path) == shape(name));
    like.map_or_else(|| "pushed".to_owned(), |manifest| manifest.rule.clone())
}
