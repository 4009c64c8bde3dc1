//! One cell of the matrix: an agent that is lost at a point while a switch is on, what the bucket holds then, and how it goes on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    hash::{DefaultHasher, Hash, Hasher},
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
use spotter_bucket::{Bucket, CommitId, Layout, Manifest, s3::S3Bucket};
use spotter_sim::s3::{AccessKey, S3Config, S3Handle, Switchboard};
use tempfile::TempDir;
use tokio::{net::TcpListener, runtime::Handle};

use crate::{
    sidecar::{self, KEYS, Part, Place, client, restore, save},
    switch::Switch,
    trainer::{self, CRITICAL},
};

/// Longest time until the server's clock, which counts whole seconds, says that something is older than now.
const AGES: Duration = Duration::from_secs(20);

/// How an agent is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// SIGKILL; its box, its files and its notes stay.
    Agent,
    /// The box is gone: the server sees a connection on which nothing comes any more. Another box takes over.
    Box,
    /// The same, but the lost box comes back when the other one has saved its first checkpoint.
    Back,
}

impl End {
    pub const EACH: [End; 3] = [End::Agent, End::Box, End::Back];
}

/// Where, while what is wrong, and how.
#[derive(Debug, Clone)]
pub struct Cell {
    pub end: End,
    pub point: String,
    pub switch: Switch,
}

/// What there is to say of a cell in which everything held.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// The point was passed, so that somebody died there.
    pub reached: bool,
    /// The checkpoint in question existed at that moment.
    pub was_committed: bool,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{}/{}", self.end, self.switch.name, self.point)
    }
}

/// The points that the agent passes while it saves the critical checkpoint and this switch is on.
pub fn trace(switch: &Switch) -> Result<Vec<String>, String> {
    let stage = Stage::set(switch)?;
    switch.put_on(&stage.board, 0);
    let trace = stage.dir.path().join("trace");
    let mut child = stage.agent(&[("SPOTTER_TRACE_POINTS", trace.to_str().unwrap())]);
    match child.until_it_changes() {
        WaitStatus::Exited(_, 0) => {}
        other => return Err(format!("{other:?}: {}", stage.said())),
    }
    let text = fs::read_to_string(&trace).map_err(|err| err.to_string())?;
    let points: BTreeSet<String> = text.lines().map(str::to_owned).collect();
    if points.len() < 40 {
        return Err(format!("only {} points: {points:?}", points.len()));
    }
    Ok(points.into_iter().collect())
}

impl Cell {
    /// Runs it to its end; the error says what did not hold.
    pub fn run(&self) -> Result<Ended, String> {
        let stage = Stage::set(&self.switch)?;
        let mut random = DefaultHasher::new();
        self.to_string().hash(&mut random);
        let draw = random.finish() as u32;
        self.switch.put_on(&stage.board, 0);
        let at = match self.end {
            End::Agent => "SPOTTER_DIE_AT",
            End::Box | End::Back => "SPOTTER_FREEZE_AT",
        };
        let mut child = stage.agent(&[(at, &self.point)]);
        let reached = match child.until_it_changes() {
            WaitStatus::Signaled(_, Signal::SIGKILL, _) | WaitStatus::Stopped(..) => true,
            WaitStatus::Exited(_, 0) => false,
            other => return Err(format!("{other:?}: {}", stage.said())),
        };
        stage.board.heal();
        let then = stage.look(self.switch.tears)?;
        then.has(2)?;
        if !then.steps.contains(&CRITICAL) {
            then.has(1)?;
        }
        self.switch.put_on(&stage.board, draw);
        match self.end {
            End::Agent => self.goes_on(&stage)?,
            End::Box => self.moves(&stage, &then, None)?,
            End::Back => self.moves(&stage, &then, Some(&mut child))?,
        }
        Ok(Ended {
            reached,
            was_committed: then.steps.contains(&CRITICAL),
        })
    }

    /// The agent starts again on its box, saves what it was saving, and the next checkpoint too.
    fn goes_on(&self, stage: &Stage) -> Result<(), String> {
        let backup = stage.place.start();
        stage.handle.block_on(save(&backup, CRITICAL))?;
        stage.board.heal();
        let now = stage.look(false)?;
        now.has(2)?;
        stage.restores("check", CRITICAL)?;
        trainer::write(&stage.place.checkpoints(), 4);
        stage.handle.block_on(save(&backup, 4))?;
        let now = stage.look(false)?;
        // Keys that were refused once do not try to delete again for an hour.
        let refuses = ["denied", "expired_token"].contains(&self.switch.name.as_str());
        let kept = BTreeSet::from([CRITICAL, 4]);
        if !(now.steps == kept || (refuses && now.steps.is_superset(&kept))) {
            return Err(format!(
                "steps {:?} are in the bucket at the end",
                now.steps
            ));
        }
        // Two of step 3, in case its commit was never seen by the agent that made it, would be one too many.
        if now.commits != now.steps.len() {
            return Err(format!(
                "{} commits of {} checkpoints",
                now.commits,
                now.steps.len()
            ));
        }
        stage.has_no_litter(&now)?;
        stage.has_no_notes()?;
        stage.is_swept(&self.switch)
    }

    /// Another box takes over: it gets the newest commit, trains, and saves the next checkpoint.
    fn moves(&self, stage: &Stage, then: &Seen, back: Option<&mut Process>) -> Result<(), String> {
        let newest = then.steps.last().copied().unwrap_or(0);
        let place = stage.restores("other", newest)?;
        trainer::write(&place.checkpoints(), 4);
        let backup = place.start();
        stage.handle.block_on(save(&backup, 4))?;
        stage.board.heal();
        if let Some(child) = back {
            match child.finishes() {
                WaitStatus::Exited(_, 0) => {}
                other => return Err(format!("came back: {other:?}: {}", stage.said())),
            }
        }
        let now = stage.look(self.switch.tears)?;
        now.has(4)?;
        // Two are kept: what a box that came back saved may take the place of what the other one began with.
        if now.steps.range(newest + 1..).count() < 2 {
            now.has(newest)?;
        }
        stage.restores("check", 4)?;
        // While a commit is torn nothing is swept: it may refer to anything.
        if self.switch.tears {
            return Ok(());
        }
        stage.is_swept(&self.switch)
    }
}

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
struct Seen {
    /// Steps of whole commits.
    steps: BTreeSet<u64>,
    /// Whole commits.
    commits: usize,
    /// Keys that commits speak of, and those of the commits.
    spoken_for: BTreeSet<String>,
}

impl Seen {
    fn has(&self, step: u64) -> Result<(), String> {
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
            eyes: Arc::new(client(&place.url)),
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
    fn agent(&self, more: &[(&str, &str)]) -> Process {
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
    fn look(&self, may_be_torn: bool) -> Result<Seen, String> {
        self.handle.block_on(self.look_at_all(may_be_torn))
    }

    async fn look_at_all(&self, may_be_torn: bool) -> Result<Seen, String> {
        let mut seen = Seen {
            steps: BTreeSet::new(),
            commits: 0,
            spoken_for: BTreeSet::new(),
        };
        let listed = self.eyes.list("team/run/commits/").await;
        for object in listed.map_err(|err| err.to_string())? {
            let bytes = self.eyes.get(&object.key, None).await;
            let bytes = bytes.map_err(|err| err.to_string())?;
            let manifest = match Manifest::open(&bytes) {
                Ok(manifest) => manifest,
                Err(_) if may_be_torn => continue,
                Err(err) => return Err(format!("{} is damaged: {err}", object.key)),
            };
            let step = manifest.step.ok_or("a commit without a step")?;
            let mut hashes = BTreeMap::new();
            for file in &manifest.files {
                let body = self.eyes.get(&file.key, None).await;
                let body = body.map_err(|err| format!("step {step} is not whole: {err}"))?;
                let blake3 = blake3::hash(&body).to_hex().to_string();
                hashes.insert(file.path.clone(), blake3);
                seen.spoken_for.insert(file.key.clone());
            }
            if hashes != *trainer::hashes(step) {
                return Err(format!("step {step} is not what was written: {hashes:?}"));
            }
            seen.steps.insert(step);
            seen.commits += 1;
            seen.spoken_for.insert(object.key);
        }
        Ok(seen)
    }

    /// A new box gets the checkpoint of this step, bit by bit.
    fn restores(&self, name: &str, step: u64) -> Result<Place, String> {
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
    fn has_no_litter(&self, seen: &Seen) -> Result<(), String> {
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
    fn is_swept(&self, switch: &Switch) -> Result<(), String> {
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
    fn has_no_notes(&self) -> Result<(), String> {
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
    fn finishes(&mut self) -> WaitStatus {
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
