//! `spotter checkpoints`: what is in the bucket.

use spotter_bucket::{Bucket, Manifest};

use crate::{
    agent_client::CheckpointInfo,
    commands::Deps,
    error::CommandError,
    machine,
    ui::{Table, Ui, text},
};

/// List a run's checkpoints in the bucket, newest first
///
/// Read from the bucket itself, so it works after the box is gone.
#[derive(Debug, clap::Args)]
pub struct CheckpointsArgs {
    /// Run; the only one that goes on, if there is one
    run: Option<String>,
}

/// Reads every commit; a damaged one is told, not shown.
pub async fn checkpoints(
    ui: &mut Ui,
    deps: &Deps,
    args: &CheckpointsArgs,
) -> Result<(), CommandError> {
    let run = deps.load_run(args.run.as_deref())?;
    let failed = |why: &dyn std::error::Error| {
        let mut err =
            CommandError::new(format!("the checkpoints of `{}` were not listed", run.name));
        err = err.because(crate::error::chain(why));
        err
    };
    let Some((bucket, layout)) = machine::bucket_of(&run.spec).map_err(|err| failed(&err))? else {
        return Err(CommandError::usage(format!(
            "run `{}` has no bucket: `checkpoints.to` is not set",
            run.name
        )));
    };
    let listed = bucket
        .list(&layout.commits_prefix())
        .await
        .map_err(|err| failed(&err))?;
    let mut rows = Vec::new();
    for id in layout.newest_first(&listed) {
        let key = layout.commit_key(&id);
        let bytes = bucket.get(&key, None).await.map_err(|err| failed(&err))?;
        match Manifest::open(&bytes) {
            Ok(manifest) => rows.push(CheckpointInfo {
                id: manifest.id.clone(),
                step: manifest.step,
                attempt: manifest.attempt,
                committed_us: manifest.committed_us,
                size_bytes: manifest.files.iter().map(|file| file.size_bytes).sum(),
                files: manifest.files.len() as u32,
                path: manifest.path.clone(),
            }),
            Err(err) => ui.warning(format_args!("commit {key} is damaged: {err}")),
        }
    }
    ui.show(&rows, |rows| {
        let mut table = Table::new(&[
            "STEP>",
            "ATTEMPT>",
            "COMMITTED",
            "SIZE>",
            "FILES>",
            "PATH",
            "ID",
        ]);
        for row in rows {
            table.row([
                text::or_dash(row.step),
                row.attempt.to_string(),
                text::time(row.committed_us as i64),
                text::bytes(row.size_bytes),
                row.files.to_string(),
                row.path.clone(),
                row.id.clone(),
            ]);
        }
        table
    });
    Ok(())
}
