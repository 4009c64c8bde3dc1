//! A box without keys: what signs for its agent, in the same process, with the keys of a laptop.

use std::{
    sync::{Arc, LazyLock, Weak},
    time::{Duration, SystemTime},
};

use spotter::{
    agent_client::BackupInfo,
    granting::Granting,
    spec::{Checkpoints, RunSpec},
};
use spotter_agent::{checkpoints::Backup, now_us};
use spotter_bucket::{
    Batch, Bucket, CommitId, Layout, S3Bucket, Stock, s3::S3Options, s3::presign,
};
use tokio::time;

use crate::sidecar::{self, Passing, Place};

/// Between two looks of the laptop.
const LOOK: Duration = Duration::from_millis(50);
/// Looks after which all is in place and nothing more goes: of the first one, what tidies up may have been refused.
const ROUNDS: usize = 3;
/// Parts that are signed for in an upload; the model goes in two.
const PARTS: u32 = 3;
/// How long ago it was signed what has ended: more than the longest life of a signature.
const LONG_AGO: Duration = Duration::from_secs(8 * 24 * 3600);

/// How a box is signed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Supply {
    /// The laptop watches, and brings more as soon as the box needs it.
    Watched,
    /// It brought what one checkpoint takes, and then nobody watches.
    Once,
    /// What it brought first has ended for the server, though the box does not know it; it watches.
    Ended,
}

impl Supply {
    pub fn named(name: &str) -> Self {
        let all = [Self::Watched, Self::Once, Self::Ended];
        let found = all.into_iter().find(|one| format!("{one:?}") == name);
        found.expect("whoever wrote the job knows them")
    }
}

/// A client that has nothing yet.
pub fn client(url: &str) -> S3Bucket {
    let layout = Layout::new("team", "run").unwrap();
    let stock = Arc::new(Stock::new(&layout, now_us));
    S3Bucket::granted(sidecar::target(url), stock, sidecar::impatient()).unwrap()
}

/// Brings the first grants, and where somebody watches all others for as long as the agent lives.
pub async fn supply(place: &Place, how: Supply, bucket: &Arc<Passing>, backup: &Arc<Backup>) {
    let laptop = laptop(&place.url);
    if how == Supply::Ended {
        let ended = for_one(place, Some(LONG_AGO)).await;
        stock(bucket).add(Batch {
            expires_us: now_us() + presign::LONGEST.as_micros() as u64,
            ..ended
        });
    }
    if how == Supply::Once {
        while !brought(&laptop, place.attempt, &enough(), bucket).await {
            time::sleep(LOOK).await;
        }
        stock(bucket).add(for_one(place, None).await);
        return;
    }
    while !brought(&laptop, place.attempt, &told(bucket, backup), bucket).await {
        time::sleep(LOOK).await;
    }
    let (attempt, bucket, backup) = (place.attempt, bucket.clone(), Arc::downgrade(backup));
    tokio::spawn(watch(laptop, attempt, bucket, backup));
}

/// Puts in place and prunes what boxes without keys left, as whoever watches does.
pub async fn settle(url: &str) {
    let laptop = laptop(url);
    for _ in 0..ROUNDS {
        while laptop.round(9, &enough()).await.is_err() {
            time::sleep(LOOK).await;
        }
    }
}

/// What a box says of itself that needs nothing.
fn enough() -> BackupInfo {
    BackupInfo {
        checkpoints_left: Some(u32::MAX),
        keys_expire_us: Some(u64::MAX),
        ..BackupInfo::default()
    }
}

async fn watch(laptop: Granting, attempt: u32, bucket: Arc<Passing>, backup: Weak<Backup>) {
    loop {
        time::sleep(LOOK).await;
        let Some(backup) = backup.upgrade() else {
            return;
        };
        if brought(&laptop, attempt, &told(&bucket, &backup), &bucket).await {
            backup.credentials_changed();
        }
    }
}

/// What the box says of itself.
fn told(bucket: &Passing, backup: &Backup) -> BackupInfo {
    let (state, (left, expires_us)) = (backup.state(), stock(bucket).left());
    BackupInfo {
        checkpoints_left: Some(left),
        keys_expire_us: Some(expires_us).filter(|expires_us| *expires_us > 0),
        problem: Some(state.problem).filter(|problem| !problem.is_empty()),
        at_stake: state.at_stake,
        ..BackupInfo::default()
    }
}

async fn brought(laptop: &Granting, attempt: u32, info: &BackupInfo, to: &Passing) -> bool {
    // What went wrong with it is asked for again.
    let Ok(batches) = laptop.round(attempt, info).await else {
        return false;
    };
    for batch in batches {
        stock(to).add(batch);
    }
    true
}

/// Exactly what a checkpoint takes: two files, an upload and a commit; signed so long ago.
async fn for_one(place: &Place, ago: Option<Duration>) -> Batch {
    let (url, layout) = (&place.url, Layout::new("team", "run").unwrap());
    let lot = CommitId::generate(Some(place.attempt.into()));
    let owner = sidecar::client(url);
    let options = S3Options {
        clock: Arc::new(move || SystemTime::now() - ago.unwrap_or_default()),
        ..sidecar::impatient()
    };
    let signer = sidecar::client_with(url, options).presigner(presign::LONGEST);
    let signer = signer.unwrap();
    let key = |name: &str| layout.data_key(&lot, name).unwrap();
    let large = key("upload-00000");
    let upload = loop {
        match owner.create_upload(&large).await {
            Ok(upload) => break upload,
            Err(_) => time::sleep(LOOK).await,
        }
    };
    let grants = vec![
        signer.put(&key("file-00000")).unwrap(),
        signer.put(&key("file-00001")).unwrap(),
        signer.upload(&large, &upload, PARTS).unwrap(),
        signer.put(&layout.waiting_key(&lot.ulid)).unwrap(),
    ];
    signer.batch(grants).unwrap()
}

fn stock(bucket: &Passing) -> &Stock {
    bucket.to().stock().expect("it has no keys")
}

fn laptop(url: &str) -> Granting {
    Granting::new(sidecar::client(url), "run", &RULES).unwrap()
}

/// What the run file says: it keeps two, as the agents here do.
static RULES: LazyLock<Checkpoints> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run.yaml");
    let text = "name: run\nworkdir: .\nimage: any\nrun: train\nresources: {accelerators: \"RTX 4090:1\", disk: 20GB}\n\
                checkpoints: {dir: checkpoints, to: \"s3://runs/team\", every: 24h, keep: {last: 2}, credentials: presigned}\n";
    std::fs::write(&file, text).unwrap();
    RunSpec::load(&file).unwrap().checkpoints.unwrap()
});
