//! Restores the newest checkpoint of a run by the agent's own engine, once, and ends: what `scripts/bench.sh restore` measures.
//!
//! `restore DIR ENDPOINT BUCKET RUN`; keys are in `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`.

use std::{env, fs, path::PathBuf, process, sync::Arc};

use anyhow::{Context, bail};
use spotter_agent::{
    checkpoints::{Backup, BackupOptions},
    events::RecordedEvents,
};
use spotter_bucket::{
    Credentials, Target,
    s3::{S3Bucket, S3Options},
};

/// Threads of the daemon, which a restore has to itself: nothing trains yet.
const WORKER_THREADS: usize = 2;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [dir, endpoint, bucket, run] = arguments.as_slice() else {
        bail!("restore DIR ENDPOINT BUCKET RUN");
    };
    let key = |name: &str| env::var(name).with_context(|| format!("{name} is not set"));
    let keys = Credentials {
        access_key_id: key("AWS_ACCESS_KEY_ID")?,
        secret_access_key: key("AWS_SECRET_ACCESS_KEY")?,
        session_token: None,
        expires_us: None,
    };
    let notes = env::temp_dir().join(format!("spotter-restore-{}", process::id()));
    let options = BackupOptions {
        attempt: 2,
        ..BackupOptions::plain(run, PathBuf::from(dir), endpoint, notes.clone())
    };
    let target = Target::parse(&format!("s3://{bucket}"), Some(endpoint), None)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build()?;
    let restored = runtime.block_on(async {
        let bucket = S3Bucket::new(
            target,
            Arc::new(move || Some(keys.clone())),
            S3Options::default(),
        )?;
        let backup = Backup::new(
            options,
            Arc::new(bucket),
            Arc::new(RecordedEvents::default()),
        )?;
        anyhow::Ok(backup.restore(None, &mut |_, _| {}).await?)
    });
    fs::remove_dir_all(&notes).context("the notes cannot be removed")?;
    let restored = restored?.context("the bucket holds no checkpoint of that run")?;
    if !restored.skipped.is_empty() {
        bail!("damaged: {}", restored.skipped.join("; "));
    }
    Ok(())
}
