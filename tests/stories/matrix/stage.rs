//! What a cell plays on: a server, a box with checkpoints, and everything that can be seen of the bucket afterwards.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use serde_json::json;
use spotter_agent::checkpoints::Backup;
use spotter_bucket::{
    Bucket, CommitId, Layout, Manifest,
    s3::{S3Bucket, S3Options},
};
use spotter_sim::s3::{AccessKey, S3Config, S3Handle, Switchboard};
use tempfile::TempDir;
use tokio::{net::TcpListener, runtime::Handle};

use crate::{
    sidecar::{self, KEYS, Part, Place, client_with, restore, save},
    switch::Switch,
    trainer::{self, CRITICAL},
};

/// Longest time until the server's clock, which counts whole seconds, says that something is older than now.
const AGES: Duration = Duration::from_secs(20);

/// A server, a box with two checkpoints saved and a third one written.
pub struct Stage {
    /// Everything lies here.
    pub dir: TempDir,
    pub handle: Handle,
    pub board: Arc<Switchboard>,
    pub place: Place,
    /// A client that no point and no switch of ours is between.
    pub eyes: Arc<S3Bucket>,
    _server: S3Handle,
}

/// What is in the bucket.
#[derive(Default)]
pub struct Seen {
    /// Steps of whole commits.
    pub steps: BTreeSet<u64>,
    /// Whole commits.
    pub commits: usize,
    /// Whole collections of results.
    pub collections: usize,
    /// Keys that commits speak of, and those of the commits.
    spoken_for: BTreeSet<String>,
}

impl Seen {
    pub fn has(&self, step: u64) -> Result<(), String> {
        if self.steps.contains(&step) {
            return Ok(());
        }
        Err(format!(
            "step {step} was committed and is lost: there are {:?}",
            self.steps
        ))
    }
}

impl Stage {
    pub fn set(switch: &Switch) -> Result<Stage, String> {
        let dir = tempfile::Builder::new()
            .prefix("sp-matrix-")
            .tempdir()
            .unwrap();
        let handle = Handle::current();
        let listener = handle.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let config = S3Config {
            buckets: vec!["runs".to_owned()],
            keys: vec![AccessKey::new(KEYS.0, KEYS.1)],
        };
        let server = spotter_sim::s3::serve(dir.path().join("s3"), listener, config).unwrap();
        let board = server.faults();
        switch.set_clock(&board);
        let place = Place {
            url: server.url(),
            home: dir.path().join("box"),
            attempt: 1,
        };
        let stage = Stage {
            // Ours may take their time, also where six of these share two cores.
            eyes: Arc::new(client_with(&place.url, S3Options::default())),
            dir,
            handle,
            board,
            place,
            _server: server,
        };
        let backup = stage.place.start_with(stage.eyes.clone());
        for step in 1..CRITICAL {
            trainer::write(&stage.place.checkpoints(), step);
            stage.handle.block_on(save(&backup, step))?;
        }
        drop(backup);
        trainer::write(&stage.place.checkpoints(), CRITICAL);
        Ok(stage)
    }

    /// An agent that saves, in a process of its own.
    pub fn agent(&self, more: &[(&str, &str)]) -> Process {
        self.starts(Part::Save, &self.place, more)
    }

    /// A part of an agent, in a process of its own.
    pub fn starts(&self, part: Part, place: &Place, more: &[(&str, &str)]) -> Process {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", sidecar::ENTRY, "--nocapture"])
            .envs([place.job(part)])
            .stdout(Stdio::null());
        self.process(command, more)
    }

    /// A process whose errors are kept, in a group of its own.
    #[expect(
        clippy::zombie_processes,
        reason = "`Process` waits, by a call that also tells of processes that stand still"
    )]
    pub fn process(&self, mut command: Command, more: &[(&str, &str)]) -> Process {
        let said = fs::File::create(self.dir.path().join("said")).unwrap();
        let child = command
            .envs(more.iter().copied())
            .stdin(Stdio::null())
            .stderr(said)
            .process_group(0)
            .spawn()
            .unwrap();
        Process {
            pid: Pid::from_raw(i32::try_from(child.id()).unwrap()),
            gone: false,
        }
    }

    pub fn said(&self) -> String {
        fs::read_to_string(self.dir.path().join("said")).unwrap_or_default()
    }

    /// Reads every commit and every byte that they speak of. What is damaged counts as nothing where it `may_be_torn`.
    pub fn look(&self, may_be_torn: bool) -> Result<Seen, String> {
        self.handle.block_on(self.look_at_all(may_be_torn))
    }

    async fn look_at_all(&self, may_be_torn: bool) -> Result<Seen, String> {
        let layout = Layout::new("team", "run").map_err(|err| err.to_string())?;
        let list = async |prefix: String| {
            let listed = self.eyes.list(&prefix).await;
            listed.map_err(|err| err.to_string())
        };
        let mut seen = Seen::default();
        for object in list(layout.commits_prefix()).await? {
            let bytes = self.eyes.get(&object.key, None).await;
            let bytes = bytes.map_err(|err| err.to_string())?;
            let manifest = match Manifest::open(&bytes) {
                Ok(manifest) => manifest,
                Err(_) if may_be_torn => continue,
                Err(err) => return Err(format!("{} is damaged: {err}", object.key)),
            };
            seen.spoken_for.insert(object.key);
            let step = manifest.step.ok_or("a commit without a step")?;
            let hashes = self.read_all(&manifest, &mut seen).await?;
            if hashes != *trainer::hashes(step) {
                return Err(format!("step {step} is not what was written: {hashes:?}"));
            }
            seen.steps.insert(step);
            seen.commits += 1;
        }
        for object in list(layout.results_prefix()).await? {
            let name = object.key.strip_prefix(&layout.results_prefix());
            let id = name.and_then(|name| name.strip_suffix(".json"));
            if id.is_none_or(|id| id.parse::<CommitId>().is_err()) {
                continue;
            }
            let bytes = self.eyes.get(&object.key, None).await;
            let manifest = match Manifest::open(&bytes.map_err(|err| err.to_string())?) {
                Ok(manifest) => manifest,
                Err(_) if may_be_torn => continue,
                Err(err) => return Err(format!("{} is damaged: {err}", object.key)),
            };
            let hashes = self.read_all(&manifest, &mut seen).await?;
            if hashes != trainer::hashes_of_results() {
                return Err(format!("results are not what was written: {hashes:?}"));
            }
            seen.spoken_for.insert(object.key);
            seen.collections += 1;
        }
        Ok(seen)
    }

    /// Paths and hashes of what a manifest speaks of.
    async fn read_all(
        &self,
        manifest: &Manifest,
        seen: &mut Seen,
    ) -> Result<BTreeMap<String, String>, String> {
        let mut hashes = BTreeMap::new();
        for file in &manifest.files {
            let body = self.eyes.get(&file.key, None).await;
            let body = body.map_err(|err| format!("{} is not whole: {err}", manifest.id))?;
            let blake3 = blake3::hash(&body).to_hex().to_string();
            hashes.insert(file.path.clone(), blake3);
            seen.spoken_for.insert(file.key.clone());
        }
        Ok(hashes)
    }

    /// A new box gets the checkpoint of this step, bit by bit.
    pub fn restores(&self, name: &str, step: u64) -> Result<Place, String> {
        let place = Place {
            home: self.dir.path().join(name),
            attempt: 2,
            ..self.place.clone()
        };
        let backup = place.start_with(self.eyes.clone());
        let restored = self.handle.block_on(restore(&backup))?;
        if restored.checkpoint.step != Some(step) {
            return Err(format!(
                "{:?} restores where step {step} is the newest, passing over {:?}",
                restored.checkpoint.step, restored.skipped
            ));
        }
        let there = hashes_below(&place.checkpoints().join(trainer::name(step)));
        if there != *trainer::hashes(step) {
            return Err(format!("step {step} comes back as {there:?}"));
        }
        Ok(place)
    }

    /// Nothing lies in the bucket that no commit speaks of.
    pub fn has_no_litter(&self, seen: &Seen) -> Result<(), String> {
        let litter = self.litter(seen)?;
        if !litter.is_empty() {
            return Err(format!("nobody speaks of {litter:?}"));
        }
        Ok(())
    }

    /// What lies in the bucket and no commit speaks of, and what commits speak of and is not there.
    fn litter(&self, seen: &Seen) -> Result<Vec<String>, String> {
        let objects = self.handle.block_on(self.eyes.list(""));
        let objects = objects.map_err(|err| err.to_string())?;
        let objects: BTreeSet<String> = objects.into_iter().map(|object| object.key).collect();
        // What was deleted lies under a tombstone until its grace is over.
        let layout = Layout::new("team", "run").map_err(|err| err.to_string())?;
        let buried: BTreeSet<CommitId> = objects
            .iter()
            .filter_map(|key| Some(layout.tombstone_of_key(key)?.0))
            .collect();
        let is_buried = |key: &str| {
            layout.tombstone_of_key(key).is_some()
                || layout
                    .data_of_key(key)
                    .is_some_and(|(id, _)| buried.contains(&id))
        };
        let litter = objects
            .symmetric_difference(&seen.spoken_for)
            .filter(|key| seen.spoken_for.contains(*key) || !is_buried(key));
        Ok(litter.cloned().collect())
    }

    /// What a lost box left, and uploads that stayed open after a lost or denied answer, go when a later agent sweeps.
    pub fn is_swept(&self, switch: &Switch) -> Result<(), String> {
        // For a server that says it is yesterday nothing is old; when it was set right, something is.
        if switch.is_behind() {
            self.board.apply(json!({ "heal": true })).unwrap();
        }
        let began = Instant::now();
        loop {
            let backup = self.sweeper();
            let swept = self.handle.block_on(backup.round());
            swept.map_err(|err| format!("the sweep failed: {err}"))?;
            let uploads = self.handle.block_on(self.eyes.list_uploads(""));
            let uploads = uploads.map_err(|err| err.to_string())?;
            let mut litter = self.litter(&self.look(false)?)?;
            // The mark of a restore, whose removal was refused, counts for nothing after a day and goes with the next purge.
            litter.retain(|key| !key.starts_with("team/run/readers/"));
            if uploads.is_empty() && litter.is_empty() {
                return Ok(());
            }
            if began.elapsed() > AGES {
                return Err(format!("uploads {uploads:?} and {litter:?} are not swept"));
            }
            thread::sleep(Duration::from_millis(300));
        }
    }

    /// A new box without checkpoints, for which everything that is there is old.
    fn sweeper(&self) -> Arc<Backup> {
        let place = Place {
            home: self.dir.path().join("sweeper"),
            attempt: 3,
            ..self.place.clone()
        };
        fs::create_dir_all(place.checkpoints()).unwrap();
        place.start_that_sweeps_after(Duration::ZERO, self.eyes.clone())
    }

    /// No notes of uploads are left on the box.
    pub fn has_no_notes(&self) -> Result<(), String> {
        let notes = files_below(&self.place.notes());
        let left: Vec<_> = notes
            .into_iter()
            .filter(|path| path.contains("attempt-") || path.contains("deletes"))
            .collect();
        if !left.is_empty() {
            return Err(format!("notes are left: {left:?}"));
        }
        Ok(())
    }
}

/// A process that is gone when this is.
pub struct Process {
    pid: Pid,
    gone: bool,
}

impl Process {
    /// Waits until it ended or stands still.
    pub fn until_it_changes(&mut self) -> WaitStatus {
        let status = waitpid(self.pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
        self.gone = !matches!(status, WaitStatus::Stopped(..));
        status
    }

    /// Lets it go on where it stands still, and waits for its end.
    pub fn finishes(&mut self) -> WaitStatus {
        if self.gone {
            return WaitStatus::Exited(self.pid, 0);
        }
        kill(self.pid, Signal::SIGCONT).unwrap();
        self.until_it_changes()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.gone {
            // Its number stays its own until it is waited for.
            let _ended = kill(self.pid, Signal::SIGKILL);
            let _reaped = waitpid(self.pid, None);
        }
    }
}

pub fn hashes_below(dir: &Path) -> BTreeMap<String, String> {
    let hash = |name: String| {
        let bytes = fs::read(dir.join(&name)).unwrap();
        (name, blake3::hash(&bytes).to_hex().to_string())
    };
    files_below(dir).into_iter().map(hash).collect()
}

/// Paths of all files, relative to the directory.
pub fn files_below(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(next).into_iter().flatten().flatten() {
            if entry.file_type().unwrap().is_dir() {
                waiting.push(entry.path());
            } else {
                let path = entry.path();
                let relative = path.strip_prefix(dir).unwrap();
                found.push(relative.to_str().unwrap().to_owned());
            }
        }
    }
    found
}
