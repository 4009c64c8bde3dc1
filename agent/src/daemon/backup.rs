//! The backup that runs on this box: its bucket, its loop, and the proof that the bucket can be used from here.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::json;
use spotter_bucket::{
    Bucket, BucketError, Keep, Layout, Payload, Stock, Target,
    profile::{self, Whose},
    s3::{S3Bucket, S3Options},
};
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use ulid::Ulid;

use super::{
    core::Core,
    run_file::{BackupPlan, RunFile},
};
use crate::tasks::{Task, spawn_blocking};
use crate::{
    chain,
    checkpoints::{Backup, BackupOptions, backup_loop, humble, sweep},
    events::EventSink,
    files,
    line::{self, Line},
    now_us,
};

/// Between two looks for finished checkpoints: one is taken within a second after its settle time.
const LOOK: Duration = Duration::from_millis(500);
/// Longest wait for the proof of a target; a person waits for it.
const PROOF_LIMIT: Duration = Duration::from_secs(60);
/// Longest look at what the server checks.
const PROBE_LIMIT: Duration = Duration::from_secs(30);
/// Longest measurement of the line, with what is tidied up after it.
const LINE_LIMIT: Duration = Duration::from_secs(30);
/// Where it is kept what the server was found to check.
const SERVER_FILE: &str = "server.json";

/// How long the data of a deleted checkpoint stays where nothing says so: as long as whoever reads it just then may need.
const KEEP_GRACE: Duration = Duration::from_secs(3600);

/// What was asked for; an older controller does not ask, which must not mean "at once".
fn keep_grace(asked_s: u32) -> Duration {
    match asked_s {
        0 => KEEP_GRACE,
        asked_s => Duration::from_secs(asked_s.into()),
    }
}

/// A backup with its loop. Its slot ends it before another one takes its place.
#[derive(Clone)]
pub struct RunningBackup {
    /// What was asked for.
    pub plan: BackupPlan,
    /// What does the work.
    pub backup: Arc<Backup>,
    /// Where it goes.
    pub bucket: Arc<S3Bucket>,
    /// What keys of the run alone reach begins with.
    data_prefix: String,
    /// Where it is kept what the server was found to check.
    notes: PathBuf,
    events: Arc<dyn EventSink>,
    stop: CancellationToken,
}

impl RunningBackup {
    /// Starts the loop. Without keys it finds and queues, and says that it wants them.
    pub fn start(core: &Arc<Core>, run: &RunFile, plan: &BackupPlan) -> anyhow::Result<Self> {
        let layout = Layout::new(&plan.target.prefix, &run.run)?;
        let client = S3Options {
            hash_by: Arc::new(humble::run),
            ..S3Options::default()
        };
        let bucket = if plan.presigned {
            let stock = Arc::new(Stock::new(&layout, now_us));
            S3Bucket::granted(plan.target.clone(), stock, client)?
        } else {
            let keys = core.credentials.clone();
            S3Bucket::new(plan.target.clone(), Arc::new(move || keys.get()), client)?
        };
        let bucket = Arc::new(bucket);
        if !plan.authorities.is_empty() {
            bucket.trust(plan.authorities.as_bytes())?;
        }
        let notes = core.home.backup().join(SERVER_FILE);
        bucket.set_payload(noted_payload(&notes, &plan.target));
        let options = BackupOptions {
            run: run.run.clone(),
            attempt: run.attempt,
            dir: plan.dir.clone(),
            target: format!("{:?} {}", plan.target.endpoint, plan.target.bucket),
            prefix: plan.target.prefix.clone(),
            every: Duration::from_secs(plan.every_s.into()),
            keep: Keep {
                last: plan.keep_last,
                every_steps: plan.keep_every_steps.into(),
                best: plan.keep_best.clone(),
            },
            keep_grace: keep_grace(plan.keep_grace_s),
            settle: (plan.settle_ms > 0).then(|| Duration::from_millis(plan.settle_ms.into())),
            complete_when: (!plan.complete_when.is_empty())
                .then(|| plan.complete_when.parse())
                .transpose()?,
            tripwire: !plan.no_tripwire,
            max_bytes_per_s: Some(plan.max_bytes_per_s).filter(|rate| *rate > 0),
            windows: plan.windows.clone(),
            parallel: profile::of(plan.target.endpoint.as_deref()).parallel,
            sweep_grace: sweep::GRACE,
            state_dir: core.home.backup(),
        };
        let backup = Backup::new(options, bucket.clone(), core.journal.clone())?;
        let stop = CancellationToken::new();
        let looping = backup_loop(backup.clone(), LOOK, stop.clone());
        let (replaced, daemon_stops) = (stop.clone(), core.stop.clone());
        let looping: Task = Box::pin(async move {
            // A round is dropped in mid-air too: what it did is in its journal, and whoever comes next goes on there.
            tokio::select! {
                () = looping => {}
                () = replaced.cancelled() => {}
                () = daemon_stops.cancelled() => {}
            }
        });
        // Beside a training, and never in its way.
        match humble::runtime() {
            Some(runtime) => core.tasks.spawn_on(looping, runtime),
            None => core.tasks.spawn(looping),
        };
        Ok(Self {
            plan: plan.clone(),
            backup,
            bucket,
            data_prefix: layout.data_prefix(),
            notes,
            events: core.journal.clone(),
            stop,
        })
    }
}

impl RunningBackup {
    /// Ends the loop, and whatever else is at work: two backups would upload the same files, and write to the same notes.
    pub async fn end(self) {
        self.stop.cancel();
        self.backup.retire().await;
    }

    /// Ends the loop; what is under way ends with the daemon.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Proves that the target can be written, read and deleted from this box; says in words what cannot.
    pub async fn prove(&self) -> Result<(), String> {
        let proof = time::timeout(PROOF_LIMIT, self.write_read_delete()).await;
        // What the server checks of signed bodies is no matter where none is signed.
        if matches!(proof, Ok(Ok(()))) && self.bucket.has_keys() {
            self.probe().await;
        }
        proof.unwrap_or_else(|_| {
            Err(format!(
                "{} gave no answer in {} s",
                self.plan.target.url(),
                PROOF_LIMIT.as_secs()
            ))
        })
    }

    /// Measures the line of this box to the bucket, where that says something of it; why not, in words.
    pub async fn measure_line(&self, enough_bytes_per_s: f64) -> Result<(Line, Whose), String> {
        let whose = profile::whose(self.plan.target.endpoint.as_deref());
        if whose == Whose::Near {
            return Err("the bucket's server is in a private network".to_owned());
        }
        if !self.bucket.has_keys() {
            return Err("this box has no keys of the bucket".to_owned());
        }
        let measured = line::measure(&*self.bucket, &self.data_prefix, enough_bytes_per_s);
        match time::timeout(LINE_LIMIT, measured).await {
            Ok(Ok(line)) => Ok((line, whose)),
            Ok(Err(err)) => Err(chain(&err)),
            Err(_) => Err(format!("it took more than {} s", LINE_LIMIT.as_secs())),
        }
    }

    /// Finds out what the server honours, and keeps that for later daemons. What cannot be found out changes nothing: the way that
    /// every server takes is the one until then.
    async fn probe(&self) {
        let target = &self.plan.target;
        let found = match time::timeout(PROBE_LIMIT, self.bucket.probe(&self.data_prefix)).await {
            Ok(Ok(found)) => found,
            Ok(Err(err)) => {
                warn!(error = %chain(&err), "what the bucket's server checks could not be found out");
                return;
            }
            Err(_) => {
                warn!(limit = ?PROBE_LIMIT, "what the bucket's server checks was not found out in time");
                return;
            }
        };
        let verdict = found.verdict(self.bucket.is_private());
        self.bucket.set_payload(verdict.payload);
        let profile = profile::of(target.endpoint.as_deref()).name;
        let detail = json!({
            "profile": profile, "found": found, "payload": verdict.payload, "warnings": verdict.warnings,
        });
        self.events.event("bucket.probed", detail);
        let note = ServerNote {
            target: target.clone(),
            payload: verdict.payload,
        };
        let bytes = serde_json::to_vec(&note).expect("names are JSON");
        let path = self.notes.clone();
        let written = spawn_blocking(move || files::write_durably(&path, &bytes)).await;
        if let Err(err) = written.expect("writing a file does not panic") {
            warn!(error = %err, "what the bucket's server checks could not be noted; the next daemon signs every byte");
        }
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

/// What was found out about a server.
#[derive(Serialize, Deserialize)]
struct ServerNote {
    target: Target,
    payload: Payload,
}

/// How an earlier daemon found that payloads may go to this very target.
fn noted_payload(path: &Path, target: &Target) -> Payload {
    let read = files::read_if_there(path).ok().flatten();
    let note = read.and_then(|bytes| serde_json::from_slice::<ServerNote>(&bytes).ok());
    note.filter(|note| note.target == *target)
        .map_or(Payload::Signed, |note| note.payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_of_deleted_checkpoints_stays_for_a_while_where_nobody_says_for_how_long() {
        assert_eq!(keep_grace(0), Duration::from_secs(3600));
        assert_eq!(keep_grace(60), Duration::from_secs(60));
    }

    #[test]
    fn what_was_found_out_counts_for_that_very_server() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SERVER_FILE);
        let target = Target::parse("s3://runs/a", Some("https://minio.lab"), None).unwrap();
        assert_eq!(noted_payload(&path, &target), Payload::Signed, "no note");
        let note = ServerNote {
            target: target.clone(),
            payload: Payload::Checksum,
        };
        std::fs::write(&path, serde_json::to_vec(&note).unwrap()).unwrap();
        assert_eq!(noted_payload(&path, &target), Payload::Checksum);
        let other = Target::parse("s3://runs/a", Some("http://minio.lab"), None).unwrap();
        assert_eq!(noted_payload(&path, &other), Payload::Signed);
        std::fs::write(&path, "{").unwrap();
        assert_eq!(noted_payload(&path, &target), Payload::Signed, "damaged");
    }
}
