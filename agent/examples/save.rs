//! Saves what lies in a directory by the agent's own engine, once, and ends: what `scripts/bench.sh upload` measures.
//!
//! `save DIR ENDPOINT BUCKET [checksum]`; keys are in `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`. With `checksum`, parts are
//! vouched for by a checksum, as the agent does where the server was seen to compare it; otherwise their hash is signed.

use std::{env, fs, path::PathBuf, process, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use spotter_agent::{
    checkpoints::{Backup, BackupOptions, humble},
    events::RecordedEvents,
};
use spotter_bucket::{
    Credentials, Payload, Target,
    s3::{S3Bucket, S3Options},
};

/// Nobody waits longer for a benchmark.
const LIMIT: Duration = Duration::from_secs(600);

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (dir, endpoint, bucket, payload) = match arguments.as_slice() {
        [dir, endpoint, bucket] => (dir, endpoint, bucket, Payload::Signed),
        [dir, endpoint, bucket, word] if word == "checksum" => {
            (dir, endpoint, bucket, Payload::Checksum)
        }
        _ => bail!("save DIR ENDPOINT BUCKET [checksum]"),
    };
    // As the daemon has it.
    let runtime = humble::runtime().context("no threads of low priority")?;
    let notes = env::temp_dir().join(format!("spotter-save-{}", process::id()));
    let run = format!("run-{}", process::id());
    let options = BackupOptions {
        settle: Some(Duration::ZERO),
        ..BackupOptions::plain(&run, PathBuf::from(dir), endpoint, notes.clone())
    };
    let (endpoint, bucket) = (endpoint.clone(), bucket.clone());
    let saving = runtime.spawn(async move { save(options, &endpoint, &bucket, payload).await });
    let saved = runtime.block_on(saving).context("the program has a bug")?;
    fs::remove_dir_all(&notes).context("the notes cannot be removed")?;
    saved
}

async fn save(
    options: BackupOptions,
    endpoint: &str,
    bucket: &str,
    payload: Payload,
) -> anyhow::Result<()> {
    let key = |name: &str| env::var(name).with_context(|| format!("{name} is not set"));
    let keys = Credentials {
        access_key_id: key("AWS_ACCESS_KEY_ID")?,
        secret_access_key: key("AWS_SECRET_ACCESS_KEY")?,
        session_token: None,
        expires_us: None,
    };
    let target = Target::parse(&format!("s3://{bucket}"), Some(endpoint), None)?;
    let client = S3Options {
        hash_by: Arc::new(humble::run),
        ..S3Options::default()
    };
    let bucket = S3Bucket::new(target, Arc::new(move || Some(keys.clone())), client)?;
    bucket.set_payload(payload);
    let backup = Backup::new(
        options,
        Arc::new(bucket),
        Arc::new(RecordedEvents::default()),
    )?;
    let state = backup.backup_now(LIMIT, true).await?;
    if state.committed == 0 || state.pending > 0 || state.unsaved_bytes > 0 {
        bail!("not everything is saved: {state:?}");
    }
    Ok(())
}
