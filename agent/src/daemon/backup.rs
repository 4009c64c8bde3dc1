//! The backup that runs on this box: its bucket, its loop, and the proof that the bucket can be used from here.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use spotter_bucket::{
    Bucket, BucketError, Keep, Layout,
    s3::{S3Bucket, S3Options},
};
use tokio::time;
use tokio_util::sync::{CancellationToken, DropGuard};
use ulid::Ulid;

use super::{
    core::Core,
    run_file::{BackupPlan, RunFile},
};
use crate::{
    chain,
    checkpoints::{Backup, BackupOptions, backup_loop, humble},
};

/// Between two looks for finished checkpoints: one is taken within a second after its settle time.
const LOOK: Duration = Duration::from_millis(500);
/// Longest wait for the proof of a target; a person waits for it.
const PROOF_LIMIT: Duration = Duration::from_secs(60);

/// A backup with its loop, which ends when the last clone is dropped.
#[derive(Clone)]
pub struct RunningBackup {
    /// What was asked for.
    pub plan: BackupPlan,
    /// What does the work.
    pub backup: Arc<Backup>,
    /// Where it goes.
    pub bucket: Arc<dyn Bucket>,
    /// What keys of the run alone reach begins with.
    data_prefix: String,
    _loop: Arc<DropGuard>,
}

impl RunningBackup {
    /// Starts the loop. Without keys it finds and queues, and says that it wants them.
    pub fn start(core: &Arc<Core>, run: &RunFile, plan: &BackupPlan) -> anyhow::Result<Self> {
        let keys = core.credentials.clone();
        let source = Arc::new(move || keys.get());
        let bucket: Arc<dyn Bucket> = Arc::new(S3Bucket::new(
            plan.target.clone(),
            source,
            S3Options {
                hash_by: Arc::new(humble::run),
                ..S3Options::default()
            },
        )?);
        let options = BackupOptions {
            run: run.run.clone(),
            attempt: run.attempt,
            dir: plan.dir.clone(),
            prefix: plan.target.prefix.clone(),
            every: Duration::from_secs(plan.every_s.into()),
            keep: Keep {
                last: plan.keep_last,
                every_steps: plan.keep_every_steps.into(),
                best: plan.keep_best.clone(),
            },
            keep_grace: Duration::from_secs(plan.keep_grace_s.into()),
            settle: (plan.settle_ms > 0).then(|| Duration::from_millis(plan.settle_ms.into())),
            complete_when: (!plan.complete_when.is_empty())
                .then(|| plan.complete_when.parse())
                .transpose()?,
            tripwire: !plan.no_tripwire,
            max_bytes_per_s: Some(plan.max_bytes_per_s).filter(|rate| *rate > 0),
            state_dir: core.home.backup(),
        };
        let backup = Backup::new(options, bucket.clone(), core.journal.clone())?;
        let stop = CancellationToken::new();
        let looping = backup_loop(backup.clone(), LOOK, stop.clone());
        let (replaced, daemon_stops) = (stop.clone(), core.stop.clone());
        let looping = async move {
            // A round is dropped in mid-air too: what it did is in its journal, and whoever comes next goes on there.
            tokio::select! {
                () = looping => {}
                () = replaced.cancelled() => {}
                () = daemon_stops.cancelled() => {}
            }
        };
        // Beside a training, and never in its way.
        match humble::runtime() {
            Some(runtime) => core.tasks.spawn_on(looping, runtime),
            None => core.tasks.spawn(looping),
        };
        let layout = Layout::new(&plan.target.prefix, &run.run)?;
        Ok(Self {
            plan: plan.clone(),
            backup,
            bucket,
            data_prefix: layout.data_prefix(),
            _loop: Arc::new(stop.drop_guard()),
        })
    }
}

impl RunningBackup {
    /// Proves that the target can be written, read and deleted from this box; says in words what cannot.
    pub async fn prove(&self) -> Result<(), String> {
        let proof = time::timeout(PROOF_LIMIT, self.write_read_delete()).await;
        proof.unwrap_or_else(|_| {
            Err(format!(
                "{} gave no answer in {} s",
                self.plan.target.url(),
                PROOF_LIMIT.as_secs()
            ))
        })
    }

    async fn write_read_delete(&self) -> Result<(), String> {
        // Below the run's own prefix: keys that are narrowed to it reach no other place.
        let key = format!("{}.spotter-proof-{}", self.data_prefix, Ulid::generate());
        let body = Bytes::from(format!("spotter was here, and may delete this: {key}\n"));
        let said = |err: BucketError| chain(&err);
        self.bucket.put(&key, body.clone()).await.map_err(said)?;
        let read = self.bucket.get(&key, None).await;
        // Deleted also where it could not be read, so that a failed proof leaves nothing.
        let deleted = self.bucket.delete(&key).await;
        if read.map_err(said)? != body {
            return Err(format!(
                "{key} was read back with other bytes than were written"
            ));
        }
        deleted.map_err(said)
    }
}
