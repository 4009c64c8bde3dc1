//! `spotter checkpoints show`.

use serde::Serialize;

use super::{Metric, Place, manifest, open};
use crate::{
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
