//! `spotter checkpoints show`.

use serde::Serialize;
use spotter_bucket::{Manifest, vault::DamageMark};

use super::{Metric, Place, manifest, open};
use crate::{
    checkpoints::Shelf,
    commands::Deps,
    error::CommandError,
    ui::{Table, Ui, text},
};

/// Show what one holds: its files with size, hash and place in the bucket
#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    /// Run
    run: String,
    /// Checkpoint; the newest when none is named
    checkpoint: Option<String>,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Serialize)]
struct Shown {
    id: String,
    step: Option<u64>,
    attempt: u32,
    committed_us: u64,
    rule: String,
    path: String,
    prev: Option<String>,
    metric: Option<Metric>,
    /// What the mark says by which its data was found damaged.
    damaged: Option<DamageMark>,
    size_bytes: u64,
    files: Vec<File>,
}

#[derive(Debug, Serialize)]
struct File {
    path: String,
    size_bytes: u64,
    mode: u32,
    mtime_ns: i64,
    blake3: String,
    key: String,
    /// Its data lies with an older checkpoint, because it did not change.
    shared: bool,
}

pub(super) async fn show(ui: &mut Ui, deps: &Deps, args: &ShowArgs) -> Result<(), CommandError> {
    let (shelf, _) = open(deps, Some(ui.console()), Some(&args.run), &args.place).await?;
    let manifest = manifest(&shelf, args.checkpoint.as_deref()).await?;
    let own = format!("{}{}/", shelf.layout.data_prefix(), manifest.id);
    let file = |file: &spotter_bucket::ManifestFile| File {
        path: manifest.name_of(file).to_owned(),
        size_bytes: file.size_bytes,
        mode: file.mode,
        mtime_ns: file.mtime_ns,
        blake3: file.blake3.clone(),
        shared: !file.key.starts_with(&own),
        key: file.key.clone(),
    };
    let shown = Shown {
        size_bytes: manifest.total_bytes(),
        files: manifest.files.iter().map(file).collect(),
        id: manifest.id.clone(),
        step: manifest.step,
        attempt: manifest.attempt,
        committed_us: manifest.committed_us,
        rule: manifest.rule.clone(),
        path: manifest.path.clone(),
        prev: manifest.prev.clone(),
        metric: manifest.metric.as_ref().map(Metric::from),
        damaged: mark_of(&shelf, &manifest).await,
    };
    ui.status(format_args!(
        "{} of step {}, {} in {} files, committed {} by attempt {}, complete by `{}`{}.",
        shown.id,
        text::or_dash(shown.step),
        text::bytes(shown.size_bytes),
        shown.files.len(),
        text::time(shown.committed_us as i64),
        shown.attempt,
        shown.rule,
        shown.metric.as_ref().map_or_else(String::new, |metric| {
            format!(", {} {}", metric.name, metric.value)
        }),
    ));
    if let Some(mark) = &shown.damaged {
        ui.warning(format_args!("{}", told(mark)));
        ui.hint(format_args!(
            "a restore takes it last; see what is whole with `spotter checkpoints verify {}`",
            shelf.run
        ));
    }
    ui.show(&shown, |shown| {
        let mut table = Table::new(&["SIZE>", "MODIFIED", "BLAKE3", "SHARED", "PATH"]);
        for file in &shown.files {
            table.row([
                text::bytes(file.size_bytes),
                text::time(file.mtime_ns / 1_000),
                file.blake3.chars().take(16).collect(),
                if file.shared { "yes" } else { "" }.to_owned(),
                file.path.clone(),
            ]);
        }
        table
    });
    Ok(())
}

/// What may not be read is not known, and no reason to show nothing.
async fn mark_of(shelf: &Shelf, manifest: &Manifest) -> Option<DamageMark> {
    let id = manifest.id.parse().ok()?;
    shelf.vault().damage_of(&id).await.ok().flatten()
}

/// Who found it damaged, when, and what was found.
fn told(mark: &DamageMark) -> String {
    let by = match mark.by.as_str() {
        "" => String::new(),
        "restore" => " by the restore of a box".to_owned(),
        "verify" => " by `spotter checkpoints verify`".to_owned(),
        other => format!(" by {other}"),
    };
    let when = match mark.since_us {
        0 => String::new(),
        since_us => format!(" {}", text::time(since_us as i64)),
    };
    let why = match mark.why.as_str() {
        "" => String::new(),
        why => format!(": {why}"),
    };
    format!("its data was found damaged{when}{by}{why}")
}
