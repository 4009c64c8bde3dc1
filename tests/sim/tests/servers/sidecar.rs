//! The backup of a box against a real server: every clock runs, every byte crosses a socket.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::Value;
use spotter_agent::{
    checkpoints::{Backup, BackupOptions},
    events::RecordedEvents,
};
use spotter_bucket::{Best, Bucket, Keep};
use tempfile::TempDir;

use crate::{cut::Cut, fleet::Server};

const MIB: usize = 1 << 20;
/// Size of the file that never changes.
pub(crate) const FROZEN_BYTES: u64 = 9 << 20;
const TWO: Keep = Keep {
    last: 2,
    every_steps: 0,
    best: None,
};
/// Longest save of one checkpoint; seconds on an idle machine.
const SAVE_LIMIT: Duration = Duration::from_secs(300);

/// A box with a checkpoint directory.
pub(crate) struct Box {
    home: TempDir,
    events: Arc<RecordedEvents>,
}

impl Box {
    pub(crate) fn new() -> Box {
        Box {
            home: tempfile::tempdir().unwrap(),
            events: Arc::default(),
        }
    }

    fn dir(&self) -> PathBuf {
        self.home.path().join("checkpoints")
    }

    /// A file or directory in it.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.dir().join(relative)
    }

    /// Details of the events of a kind that its agents recorded.
    pub(crate) fn events(&self, kind: &str) -> Vec<Value> {
        let events = self.events.0.lock().unwrap();
        let of_kind = events.iter().filter(|(one, _)| one == kind);
        of_kind.map(|(_, detail)| detail.clone()).collect()
    }

    /// A new agent on this box, which keeps the two newest.
    pub(crate) fn agent(&self, bucket: Arc<dyn Bucket>) -> Arc<Backup> {
        self.agent_that_keeps(TWO, bucket)
    }

    /// A new agent on this box.
    pub(crate) fn agent_that_keeps(&self, keep: Keep, bucket: Arc<dyn Bucket>) -> Arc<Backup> {
        let options = BackupOptions {
            run: "run".into(),
            attempt: 1,
            dir: self.dir(),
            target: String::new(),
            prefix: "p".into(),
            every: Duration::from_secs(600),
            keep,
            keep_grace: Duration::ZERO,
            settle: None,
            complete_when: None,
            tripwire: true,
            max_bytes_per_s: None,
            windows: Vec::new(),
            parallel: 4,
            sweep_grace: spotter_agent::checkpoints::sweep::GRACE,
            state_dir: self.home.path().join("state"),
        };
        let backup = Backup::new(options, bucket, self.events.clone()).unwrap();
        // Whatever lies there was written by a training.
        backup.training(Some(1));
        backup.training(None);
        backup
    }

    /// A checkpoint of several parts and several files, with names that no key may garble. One file never changes.
    pub(crate) fn train(&self, step: u64) {
        self.write(step, "weights.dat", &noise(step, 20 * MIB));
        self.write(step, "frozen.dat", &noise(0, FROZEN_BYTES as usize));
        self.write(step, "sub dir/ä+b%20=&'(x)~.dat", &noise(step + 100, 1000));
        self.write(step, "empty.dat", b"");
    }

    /// A file of a checkpoint.
    pub(crate) fn write(&self, step: u64, name: &str, bytes: &[u8]) {
        let path = self.path(&format!("step_{step}/{name}"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Paths and hashes of all that it has there.
    pub(crate) fn tree(&self) -> BTreeMap<String, String> {
        hashes_below(&self.dir())
    }

    /// Those that begin with this.
    pub(crate) fn tree_of(&self, start: &str) -> BTreeMap<String, String> {
        let mut tree = self.tree();
        tree.retain(|path, _| path.starts_with(start));
        tree
    }
}

/// Paths, relative to the directory, and hashes of all files in it.
pub(crate) fn hashes_below(dir: &Path) -> BTreeMap<String, String> {
    let mut tree = BTreeMap::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(next).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                let hash = blake3::hash(&fs::read(&path).unwrap()).to_hex().to_string();
                tree.insert(relative(&path, dir), hash);
            }
        }
    }
    tree
}

fn relative(path: &Path, to: &Path) -> String {
    path.strip_prefix(to).unwrap().to_str().unwrap().to_owned()
}

/// Bytes that look random and depend on a seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

pub(crate) async fn save(backup: &Backup) {
    let state = backup.backup_now(SAVE_LIMIT, true).await.unwrap();
    assert_eq!(
        (state.pending, state.unsaved_bytes, state.problem.as_str()),
        (0, 0, ""),
        "{state:?}"
    );
}

pub(crate) async fn steps(backup: &Backup) -> Vec<u64> {
    let list = backup.list().await.unwrap();
    list.iter().filter_map(|one| one.step).collect()
}

pub(crate) async fn restore(backup: &Backup, id: Option<&str>) -> u64 {
    let restored = backup.restore(id, &mut |_, _| {}).await.unwrap().unwrap();
    assert_eq!(restored.skipped, Vec::<String>::new());
    restored.checkpoint.step.unwrap()
}

pub(crate) async fn saved_thinned_out_and_restored(server: &Server) {
    let (first, second) = (Box::new(), Box::new());
    let bucket = Arc::new(server.client());
    let backup = first.agent(bucket.clone());
    for step in 1..=4_u64 {
        first.train(step);
        save(&backup).await;
        let newest: Vec<u64> = (step.saturating_sub(1).max(1)..=step).rev().collect();
        assert_eq!(steps(&backup).await, newest, "two are kept");
    }
    let left: Vec<String> = first.tree().into_keys().collect();
    assert!(
        left.iter()
            .all(|path| path.starts_with("step_3/") || path.starts_with("step_4/")),
        "and two on the box: {left:?}"
    );

    let elsewhere = second.agent(bucket.clone());
    assert_eq!(restore(&elsewhere, None).await, 4);
    let older = elsewhere.list().await.unwrap()[1].id.clone();
    assert_eq!(restore(&elsewhere, Some(&older)).await, 3);
    assert_eq!(second.tree(), first.tree(), "bit by bit");
    assert_eq!(bucket.list_uploads("p/").await.unwrap(), [], "nothing half");
    second.train(5);
    save(&elsewhere).await;
    assert_eq!(steps(&elsewhere).await, [5, 4], "the run goes on there");
}

pub(crate) async fn best_kept(server: &Server) {
    let home = Box::new();
    let bucket = Arc::new(server.client());
    let best = Best {
        metric: "accuracy".into(),
        count: 1,
        highest: true,
    };
    let keep = Keep {
        best: Some(best),
        ..TWO
    };
    let backup = home.agent_that_keeps(keep, bucket.clone());
    for (step, accuracy) in [(1, 0.5), (2, 0.75), (3, 0.625), (4, 0.5), (5, 0.5)] {
        backup.measured(Some(step), u64::MAX, accuracy);
        home.train(step);
        save(&backup).await;
    }
    assert_eq!(
        steps(&backup).await,
        [5, 4, 2],
        "the newest two and the best"
    );
    let elsewhere = Box::new();
    let another = elsewhere.agent(bucket);
    let id = another.list().await.unwrap()[2].id.clone();
    assert_eq!(restore(&another, Some(&id)).await, 2, "it is whole");
    assert_eq!(elsewhere.tree(), home.tree_of("step_2/"), "bit by bit");
}

pub(crate) async fn resumed_after_a_kill(server: &Server) {
    let (first, second) = (Box::new(), Box::new());
    first.train(7);
    fs::write(first.dir().join("step_7/weights.dat"), noise(7, 60 * MIB)).unwrap();
    let dying = Cut::new(server.client(), 6);
    let agent = first.agent(dying.clone());
    tokio::select! {
        () = save(&agent) => panic!("it was to die"),
        () = dying.died() => {}
    }
    drop(agent);
    let living = Cut::new(server.client(), u64::MAX);
    save(&first.agent(living.clone())).await;
    // 8 parts of the weights and 2 of the frozen file; at most one wave of parts was on its way and not noted.
    let (before, after) = (dying.parts(), living.parts());
    assert!(
        before + after >= 10 && before + after <= 10 + 8,
        "{before} and {after} parts"
    );
    assert!(
        after < 10,
        "nothing was resumed: {before} and {after} parts"
    );
    assert_eq!(living.list_uploads("p/").await.unwrap(), []);
    let elsewhere = second.agent(living);
    assert_eq!(restore(&elsewhere, None).await, 7);
    assert_eq!(second.tree(), first.tree());
}
