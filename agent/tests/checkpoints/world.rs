//! `World`: a box with a checkpoint directory, a bucket that crashes or interferes at a chosen call, and files with a provable structure.

mod buckets;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use spotter_agent::checkpoints::{Backup, BackupOptions, CheckpointInfo};
use spotter_agent::events::RecordedEvents;
use spotter_bucket::memory::MemoryBucket;
use spotter_bucket::{Bucket, Manifest};
use tempfile::TempDir;
use tokio::time;

pub use self::buckets::{
    CrashBucket, GaugeBucket, HookBucket, KeylessBucket, LotBucket, PinlessBucket, StuckBucket,
};

pub const MIB: usize = 1 << 20;

/// Bytes that look random and depend on a seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

/// A whole npz file of one array.
pub fn npz(seed: u64, length: usize) -> Vec<u8> {
    let data = noise(seed, length);
    let size = (length as u32).to_le_bytes();
    let name = b"w.npy";
    let lengths = [name.len() as u8, 0, 0, 0];
    let mut out = b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
    for piece in [&size[..], &size, &lengths, name, &data] {
        out.extend_from_slice(piece);
    }
    let offset = (out.len() as u32).to_le_bytes();
    let mut directory = b"PK\x01\x02\x14\0\x14\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
    for piece in [&size[..], &size, &lengths, &[0; 14], name] {
        directory.extend_from_slice(piece);
    }
    let bytes = (directory.len() as u32).to_le_bytes();
    out.extend_from_slice(&directory);
    out.extend_from_slice(b"PK\x05\x06\0\0\0\0\x01\0\x01\0");
    for piece in [&bytes[..], &offset, &[0, 0]] {
        out.extend_from_slice(piece);
    }
    out
}

/// A box: a directory for checkpoints, one for notes, and a backup of run `run` to `team`.
pub struct World {
    home: Arc<TempDir>,
    pub backup: Arc<Backup>,
    events: Arc<RecordedEvents>,
    memory: Arc<MemoryBucket>,
    options: BackupOptions,
}

impl World {
    pub fn new(bucket: Arc<MemoryBucket>) -> World {
        World::with(bucket.clone(), bucket, |_| {})
    }

    pub fn with_memory(change: impl FnOnce(&mut BackupOptions)) -> World {
        let bucket = Arc::new(MemoryBucket::new());
        World::with(bucket.clone(), bucket, change)
    }

    pub fn with(
        bucket: Arc<dyn Bucket>,
        memory: Arc<MemoryBucket>,
        change: impl FnOnce(&mut BackupOptions),
    ) -> World {
        let home = Arc::new(tempfile::tempdir().unwrap());
        let dir = |name: &str| home.path().join(name);
        let mut options = BackupOptions {
            prefix: "team".into(),
            every: Duration::from_secs(600),
            ..BackupOptions::plain("run", dir("checkpoints"), "", dir("state"))
        };
        change(&mut options);
        World::start(home, options, bucket, memory)
    }

    fn start(
        home: Arc<TempDir>,
        options: BackupOptions,
        bucket: Arc<dyn Bucket>,
        memory: Arc<MemoryBucket>,
    ) -> World {
        let events = Arc::new(RecordedEvents::default());
        let backup = Backup::new(options.clone(), bucket, events.clone()).unwrap();
        World {
            home,
            backup,
            events,
            memory,
            options,
        }
    }

    /// The bucket behind it.
    pub fn bucket(&self) -> Arc<MemoryBucket> {
        self.memory.clone()
    }

    /// The same box with a new agent.
    pub fn restarted(self, bucket: Arc<MemoryBucket>) -> World {
        World::start(self.home, self.options, bucket.clone(), bucket)
    }

    /// The same box with a new agent and another bucket.
    pub fn moved_to(mut self, target: &str, bucket: Arc<MemoryBucket>) -> World {
        self.options.target = target.into();
        self.restarted(bucket)
    }

    /// The same box with a new agent that finds none of the old one's notes.
    pub fn restarted_without_notes(self, bucket: Arc<MemoryBucket>) -> World {
        fs::remove_dir_all(self.home.path().join("state")).unwrap();
        self.restarted(bucket)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() {
            self.options.dir.clone()
        } else {
            self.options.dir.join(name)
        }
    }

    /// A training began a moment ago, and is over: what is written from now on is its own.
    pub fn trained(&self) {
        let now_us = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
        let now_us = u64::try_from(now_us.as_micros()).unwrap();
        self.backup.training(Some(now_us));
        self.backup.training(None);
        std::thread::sleep(Duration::from_millis(12));
    }

    /// Writes a file of the trainer. File times advance in steps of the kernel's clock, so two writes must be a step apart.
    pub fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::thread::sleep(Duration::from_millis(12));
        fs::write(path, bytes).unwrap();
    }

    /// A large file and several small ones, of one step.
    pub fn fill(&self) {
        self.write("checkpoint-7/model.npz", &npz(7, 20 * MIB));
        self.write("checkpoint-7/rng_state.pth", &npz(8, 100));
        self.write("checkpoint-7/trainer_state.json", br#"{"global_step": 7}"#);
    }

    /// Lets what was written become quiet: one round takes note of it, then the longest settle time passes.
    pub async fn settle(&self) -> Vec<CheckpointInfo> {
        let committed = self.backup.round().await.unwrap();
        time::sleep(Duration::from_secs(31)).await;
        committed
    }

    /// Settles and runs rounds until one finds nothing to do.
    pub async fn backup_all(&self) -> Vec<CheckpointInfo> {
        let mut committed = Vec::new();
        for _ in 0..20 {
            committed.extend(self.settle().await);
            let more = self.backup.round().await.unwrap();
            if more.is_empty() {
                return committed;
            }
            committed.extend(more);
        }
        panic!("rounds do not come to an end");
    }

    /// Settles and runs one round, unless the bucket dies on it. Whether it died.
    pub async fn backup_until_death(&self, bucket: &CrashBucket) -> bool {
        let work = async {
            self.settle().await;
            self.backup.round().await.unwrap();
        };
        tokio::select! {
            () = work => false,
            () = bucket.died() => true,
        }
    }

    /// Details of all events of a kind.
    pub fn events(&self, kind: &str) -> Vec<Value> {
        let events = self.events.0.lock().unwrap();
        events
            .iter()
            .filter(|(found, _)| found == kind)
            .map(|(_, detail)| detail.clone())
            .collect()
    }

    /// Files of the checkpoint directory with the hash of their content.
    pub fn tree(&self) -> BTreeMap<String, String> {
        let mut tree = BTreeMap::new();
        for path in paths_below(&self.options.dir) {
            let full = self.options.dir.join(&path);
            if full.is_file() {
                tree.insert(
                    path,
                    blake3::hash(&fs::read(full).unwrap()).to_hex().to_string(),
                );
            }
        }
        tree
    }

    /// The part of the tree that belongs to one checkpoint.
    pub fn tree_of(&self, name: &str) -> BTreeMap<String, String> {
        self.tree()
            .into_iter()
            .filter(|(path, _)| path == name || path.starts_with(&format!("{name}/")))
            .collect()
    }

    /// Every path in the box's home but the notes.
    pub fn everything(&self) -> Vec<String> {
        paths_below(self.home.path())
            .into_iter()
            .filter(|path| !path.starts_with("state"))
            .collect()
    }

    /// Upload journals that are still there.
    pub fn notes_left(&self) -> Vec<String> {
        let notes = paths_below(&self.options.state_dir);
        notes
            .into_iter()
            .filter(|path| path.contains("attempt-") || path.contains("deletes"))
            .collect()
    }

    /// Takes from the upload journals all lines but the first so many, as a power cut does.
    pub fn cut_notes(&self, lines: usize) {
        for path in self.notes_left() {
            let path = self.options.state_dir.join(path);
            let text = fs::read_to_string(&path).unwrap();
            let kept: String = text.split_inclusive('\n').take(lines).collect();
            fs::write(path, kept).unwrap();
        }
    }

    /// What every commit in the bucket says, newest first.
    pub async fn manifests(&self) -> Vec<Manifest> {
        let mut manifests = Vec::new();
        for key in self
            .memory
            .keys()
            .iter()
            .filter(|key| key.starts_with("team/run/commits/"))
        {
            manifests.push(Manifest::open(&self.memory.object(key).unwrap()).unwrap());
        }
        manifests.sort_by(|a, b| b.id.rsplit('-').next().cmp(&a.id.rsplit('-').next()));
        manifests
    }

    /// One commit, of this step, whose restore on another box gives the files of this one.
    pub async fn assert_one_whole_commit_of(&self, step: u64) {
        let manifests = self.manifests().await;
        assert_eq!(
            manifests.iter().map(|one| one.step).collect::<Vec<_>>(),
            [Some(step)]
        );
        let other = World::new(self.memory.clone());
        let restored = other
            .backup
            .restore(None, &mut |_, _| {})
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            (restored.checkpoint.step, restored.skipped),
            (Some(step), Vec::new())
        );
        assert!(
            other.tree() == self.tree(),
            "what came back differs from what was there"
        );
    }

    /// A file as another box gets it from the newest commit.
    pub async fn restored_bytes(&self, name: &str) -> Vec<u8> {
        let other = World::new(self.memory.clone());
        other
            .backup
            .restore(None, &mut |_, _| {})
            .await
            .unwrap()
            .unwrap();
        fs::read(other.path(name)).unwrap()
    }
}

fn paths_below(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(next).into_iter().flatten().flatten() {
            found.push(
                entry
                    .path()
                    .strip_prefix(dir)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned(),
            );
            if entry.file_type().unwrap().is_dir() {
                waiting.push(entry.path());
            }
        }
    }
    found.sort();
    found
}
