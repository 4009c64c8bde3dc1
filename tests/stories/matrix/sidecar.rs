//! The agent's backup as the daemon runs it, in this process or in one that can be killed.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};
use spotter_agent::{
    checkpoints::{Backup, BackupOptions, CompleteWhen, Restored, backup_loop, humble, sweep},
    events::RecordedEvents,
    fault,
};
use spotter_bucket::{
    Bucket, BucketError, CompletedPart, Credentials, Keep, ListedObject, ListedPart, ListedUpload,
    ObjectInfo, Target,
    s3::{S3Bucket, S3Options},
};
use tokio::time;
use tokio_util::sync::CancellationToken;

use crate::trainer::{self, CRITICAL, MARKER};

/// Waits between two tries are so much shorter than on a box.
pub const WAITS_DIVIDED_BY: u32 = 500;
/// How long anything may take before we say that it will never end.
pub const PATIENCE: Duration = Duration::from_secs(100);
/// Times that a restore is asked for.
const RESTORES: u32 = 5;
/// Times that results are asked for.
const COLLECTIONS: u32 = 10;
/// Where a process finds what it is to do.
const JOB: &str = "SPOTTER_MATRIX_SIDECAR";

/// Keys of the server.
pub const KEYS: (&str, &str) = ("MATRIXKEY", "matrix-secret");

/// A box's disk and the server that it can reach.
#[derive(Debug, Clone)]
pub struct Place {
    pub url: String,
    pub home: PathBuf,
    pub attempt: u32,
}

impl Place {
    pub fn checkpoints(&self) -> PathBuf {
        self.home.join("checkpoints")
    }

    pub fn notes(&self) -> PathBuf {
        self.home.join("notes")
    }

    /// An agent that just started here and knows nothing of the server yet.
    pub fn start(&self) -> Arc<Backup> {
        self.start_with(Arc::new(Passing::new(client(&self.url))))
    }

    /// The same with a client that is in use already: making one takes as long as sending a checkpoint.
    pub fn start_with(&self, bucket: Arc<dyn Bucket>) -> Arc<Backup> {
        self.start_that_sweeps_after(sweep::GRACE, bucket)
    }

    /// The same where whatever is older than this counts as left by a lost box.
    pub fn start_that_sweeps_after(
        &self,
        sweep_grace: Duration,
        bucket: Arc<dyn Bucket>,
    ) -> Arc<Backup> {
        let options = BackupOptions {
            run: "run".to_owned(),
            attempt: self.attempt,
            dir: self.checkpoints(),
            target: String::new(),
            prefix: "team".to_owned(),
            every: Duration::from_secs(600),
            keep: Keep {
                last: 2,
                ..Keep::default()
            },
            keep_grace: Duration::ZERO,
            settle: Some(Duration::from_millis(30)),
            complete_when: Some(CompleteWhen::Marker(MARKER.to_owned())),
            tripwire: true,
            max_bytes_per_s: None,
            windows: Vec::new(),
            parallel: 4,
            sweep_grace,
            state_dir: self.notes(),
        };
        let backup = Backup::new(options, bucket, Arc::new(RecordedEvents::default())).unwrap();
        // Whatever lies there was written by a training.
        backup.training(Some(1));
        backup.training(None);
        backup
    }

    /// What a process of its own is told.
    pub fn job(&self, part: Part) -> (&'static str, String) {
        let part = format!("{part:?}");
        let job =
            json!({ "part": part, "url": self.url, "home": self.home, "attempt": self.attempt });
        (JOB, job.to_string())
    }
}

/// The client of the agent.
pub fn client(url: &str) -> S3Bucket {
    client_with(url, impatient())
}

pub fn client_with(url: &str, options: S3Options) -> S3Bucket {
    let keys = Credentials {
        access_key_id: KEYS.0.to_owned(),
        secret_access_key: KEYS.1.to_owned(),
        session_token: None,
        expires_us: None,
    };
    S3Bucket::new(target(url), Arc::new(move || Some(keys.clone())), options).unwrap()
}

pub fn target(url: &str) -> Target {
    Target::parse("s3://runs/team", Some(url), None).unwrap()
}

/// As the agent has them, a little less patient.
pub fn impatient() -> S3Options {
    S3Options {
        base_timeout: Duration::from_secs(1),
        floor_bytes_per_s: 8 << 20,
        hash_by: Arc::new(humble::run),
        ..S3Options::default()
    }
}

/// Lets the agent do its rounds until the checkpoint of a step is the newest commit and nothing is left to do.
pub async fn save(backup: &Arc<Backup>, step: u64) -> Result<(), String> {
    let stop = CancellationToken::new();
    let rounds = backup_loop(backup.clone(), Duration::from_millis(20), stop.clone());
    let saved = async {
        loop {
            let state = backup.state();
            // Another box may have saved something newer meanwhile.
            if state.last_step >= Some(step) && state.pending == 0 && state.unsaved_bytes == 0 {
                stop.cancel();
                return std::future::pending::<()>().await;
            }
            time::sleep(Duration::from_millis(5)).await;
        }
    };
    // Both in one task: a round that is under way when all is saved comes to its end.
    let both = async {
        tokio::select! {
            () = rounds => {}
            () = saved => {}
        }
    };
    let ended = time::timeout(PATIENCE, both).await;
    ended.map_err(|_| {
        format!(
            "step {step} is not saved after {PATIENCE:?}: {:?}",
            backup.state()
        )
    })
}

/// What an agent does in a process of its own until it is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Save,
    Restore,
    Collect,
}

/// The test by which such a process begins; it calls [`play`] before anything else.
pub const ENTRY: &str = "no_end_of_the_agent_or_its_box_loses_a_checkpoint_or_makes_half_of_one";

/// Does the part that this process was started for. `false`: for none, it is the matrix itself.
pub fn play(runtime: &tokio::runtime::Runtime) -> bool {
    let Ok(job) = std::env::var(JOB) else {
        return false;
    };
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).unwrap();
    let job: Value = serde_json::from_str(&job).unwrap();
    let place = Place {
        url: job["url"].as_str().unwrap().to_owned(),
        home: Path::new(job["home"].as_str().unwrap()).to_owned(),
        attempt: u32::try_from(job["attempt"].as_u64().unwrap()).unwrap(),
    };
    runtime.block_on(async {
        let backup = place.start();
        match job["part"].as_str().unwrap() {
            "Save" => save(&backup, CRITICAL).await.unwrap(),
            "Restore" => drop(restore(&backup).await.unwrap()),
            "Collect" => drop(collect(&backup, &place).await.unwrap()),
            part => panic!("{part} is no part of an agent"),
        }
    });
    true
}

/// Restores the newest checkpoint. A plain no of the server is told at once; whoever asked asks again.
pub async fn restore(backup: &Backup) -> Result<Restored, String> {
    let mut refused = String::new();
    for _ in 0..RESTORES {
        let restored = time::timeout(PATIENCE, backup.restore(None, &mut |_, _| {})).await;
        match restored.map_err(|_| "a restore does not end".to_owned())? {
            Ok(Some(restored)) => return Ok(restored),
            Ok(None) => return Err("there is nothing to restore".to_owned()),
            Err(err) => refused = format!("nothing restores: {err}"),
        }
    }
    Err(refused)
}

/// Collects the results of a box; returns the key of their manifest. A plain no of the server is told at once; whoever asked asks again.
pub async fn collect(backup: &Backup, place: &Place) -> Result<String, String> {
    let paths = [trainer::RESULTS.to_owned()];
    let mut refused = String::new();
    for _ in 0..COLLECTIONS {
        let collected = time::timeout(PATIENCE, backup.collect_results(&place.home, &paths)).await;
        match collected.map_err(|_| "a collection does not end".to_owned())? {
            Ok(results) => return Ok(results.manifest_key),
            Err(err) => refused = format!("nothing is collected: {err}"),
        }
    }
    Err(refused)
}

/// A bucket before and after whose every call is a point at which the agent may die.
pub struct Passing {
    to: S3Bucket,
    /// Bytes that were read of checkpoints' data.
    read_bytes: AtomicU64,
}

impl Passing {
    pub fn new(to: S3Bucket) -> Passing {
        Passing {
            to,
            read_bytes: AtomicU64::new(0),
        }
    }

    /// Bytes of checkpoints' data that came through so far.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::SeqCst)
    }
}

/// One call between its two points.
macro_rules! passing {
    ($operation:literal, $call:expr) => {{
        fault::point(concat!("bucket.", $operation), "before");
        let answer = $call.await;
        fault::point(concat!("bucket.", $operation), "after");
        answer
    }};
}

#[async_trait]
impl Bucket for Passing {
    async fn put(&self, key: &str, body: Bytes) -> Result<String, BucketError> {
        passing!("PutObject", self.to.put(key, body))
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, BucketError> {
        let is_data = range.is_some();
        let answer = passing!("GetObject", self.to.get(key, range))?;
        if is_data {
            let length = answer.len() as u64;
            self.read_bytes.fetch_add(length, Ordering::SeqCst);
        }
        Ok(answer)
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectInfo>, BucketError> {
        passing!("HeadObject", self.to.head(key))
    }

    async fn delete(&self, key: &str) -> Result<(), BucketError> {
        passing!("DeleteObject", self.to.delete(key))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ListedObject>, BucketError> {
        passing!("ListObjectsV2", self.to.list(prefix))
    }

    async fn create_upload(&self, key: &str) -> Result<String, BucketError> {
        passing!("CreateMultipartUpload", self.to.create_upload(key))
    }

    async fn create_upload_of(&self, key: &str, parts: usize) -> Result<String, BucketError> {
        passing!(
            "CreateMultipartUpload",
            self.to.create_upload_of(key, parts)
        )
    }

    async fn upload_part(
        &self,
        key: &str,
        upload_id: &str,
        number: u32,
        body: Bytes,
    ) -> Result<String, BucketError> {
        passing!(
            "UploadPart",
            self.to.upload_part(key, upload_id, number, body)
        )
    }

    async fn list_parts(&self, key: &str, upload_id: &str) -> Result<Vec<ListedPart>, BucketError> {
        passing!("ListParts", self.to.list_parts(key, upload_id))
    }

    async fn complete_upload(
        &self,
        key: &str,
        upload_id: &str,
        parts: &[CompletedPart],
    ) -> Result<String, BucketError> {
        passing!(
            "CompleteMultipartUpload",
            self.to.complete_upload(key, upload_id, parts)
        )
    }

    async fn abort_upload(&self, key: &str, upload_id: &str) -> Result<(), BucketError> {
        passing!("AbortMultipartUpload", self.to.abort_upload(key, upload_id))
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<ListedUpload>, BucketError> {
        passing!("ListMultipartUploads", self.to.list_uploads(prefix))
    }

    fn stored_as(&self, key: &str) -> String {
        self.to.stored_as(key)
    }

    fn has_keys(&self) -> bool {
        self.to.has_keys()
    }

    fn clock_offset_s(&self) -> f64 {
        self.to.clock_offset_s()
    }
}
