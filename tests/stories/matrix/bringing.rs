//! The way back: an agent that is killed while it restores, and a `spotter checkpoints pull` that is, at every point that either
//! passes. Nothing half has a checkpoint's name then; whoever comes next reads just what is not there yet.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use nix::sys::{signal::Signal, wait::WaitStatus};
use serde_json::Value;
use spotter_bucket::{Bucket, Manifest, ManifestFile, hashes::RangeHasher, names::PARTIAL_SUFFIX};

use crate::{
    cell::Ended,
    sidecar::{KEYS, PATIENCE, Part, Passing, Place, client, restore, save},
    stage::{Process, Stage, files_below, hashes_below},
    switch::Switch,
    trainer::{self, CRITICAL},
};

/// Times that a pull is repeated by whoever typed it.
const PULLS: u32 = 5;

/// Who brings a checkpoint down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The agent, to a fresh box.
    Restore,
    /// `spotter checkpoints pull`, to a laptop.
    Pull,
}

impl By {
    pub const EACH: [By; 2] = [By::Restore, By::Pull];
}

/// Who is killed where, while what is wrong.
#[derive(Debug, Clone)]
pub struct Bringing {
    pub by: By,
    pub point: String,
    pub switch: Switch,
}

impl fmt::Display for Bringing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{}/{}", self.by, self.switch.name, self.point)
    }
}

/// The points that are passed while the checkpoint comes down and this switch is on.
pub fn trace(by: By, switch: &Switch) -> Result<Vec<String>, String> {
    let scene = Scene::set(by, switch)?;
    switch.put_on(&scene.stage.board, 0);
    let trace = scene.stage.dir.path().join("trace");
    let mut child = scene.start(&[("SPOTTER_TRACE_POINTS", trace.to_str().unwrap())]);
    match child.until_it_changes() {
        // A pull that is refused says so, and is typed again.
        WaitStatus::Exited(_, 0 | 1) => {}
        other => return Err(format!("{other:?}: {}", scene.stage.said())),
    }
    let text = fs::read_to_string(&trace).map_err(|err| err.to_string())?;
    let mut points: Vec<String> = text.lines().map(str::to_owned).collect();
    points.sort();
    points.dedup();
    Ok(points)
}

impl Bringing {
    /// Runs it to its end; the error says what did not hold.
    pub fn run(&self) -> Result<Ended, String> {
        let scene = Scene::set(self.by, &self.switch)?;
        self.switch.put_on(&scene.stage.board, 0);
        let mut child = scene.start(&[("SPOTTER_DIE_AT", &self.point)]);
        let reached = match child.until_it_changes() {
            WaitStatus::Signaled(_, Signal::SIGKILL, _) => true,
            WaitStatus::Exited(_, 0 | 1) => false,
            other => return Err(format!("{other:?}: {}", scene.stage.said())),
        };
        scene.stage.board.heal();
        scene.holds_nothing_half()?;
        let lacking = scene.lacking_bytes();
        let read = scene.again()?;
        if read != lacking {
            return Err(format!(
                "{read} bytes were read where {lacking} were lacking"
            ));
        }
        scene.is_whole()?;
        Ok(Ended {
            reached,
            was_committed: true,
        })
    }
}

/// A bucket with three checkpoints, and an empty place for the newest.
struct Scene {
    stage: Stage,
    by: By,
    place: Place,
    newest: Manifest,
}

impl Scene {
    fn set(by: By, switch: &Switch) -> Result<Scene, String> {
        let stage = Stage::set(switch)?;
        let newest = stage.handle.block_on(async {
            let backup = stage.place.start_with(stage.eyes.clone());
            save(&backup, CRITICAL).await?;
            let key = format!("team/run/commits/{}.json", backup.state().last_commit);
            let bytes = stage.eyes.get(&key, None).await;
            Manifest::open(&bytes.map_err(|err| err.to_string())?).map_err(|err| err.to_string())
        })?;
        let place = Place {
            home: stage.dir.path().join("other"),
            attempt: 2,
            ..stage.place.clone()
        };
        Ok(Scene {
            stage,
            by,
            place,
            newest,
        })
    }

    /// Where checkpoints come down.
    fn to(&self) -> PathBuf {
        self.place.checkpoints()
    }

    fn there(&self) -> PathBuf {
        self.to().join(trainer::name(CRITICAL))
    }

    fn start(&self, more: &[(&str, &str)]) -> Process {
        match self.by {
            By::Restore => self.stage.starts(Part::Restore, &self.place, more),
            By::Pull => {
                let mut pull = self.pull();
                pull.stdout(Stdio::null());
                self.stage.process(pull, more)
            }
        }
    }

    /// What a person types.
    fn pull(&self) -> Command {
        let home = self.stage.dir.path().join("laptop");
        let mut command = Command::new(stories::program("spotter"));
        command
            .args(["checkpoints", "pull", "run", "--json"])
            .args(["--bucket", "s3://runs/team"])
            .arg("--to")
            .arg(self.to())
            .env_clear()
            .env("HOME", &home)
            .env("SPOTTER_HOME", home.join("spotter"))
            .env("AWS_ACCESS_KEY_ID", KEYS.0)
            .env("AWS_SECRET_ACCESS_KEY", KEYS.1)
            .env("AWS_ENDPOINT_URL_S3", &self.stage.place.url)
            .env("AWS_REGION", "us-east-1");
        command
    }

    /// Under the name of a checkpoint there is nothing, or all of it.
    fn holds_nothing_half(&self) -> Result<(), String> {
        let there = self.there();
        if there.exists() && hashes_below(&there) != *trainer::hashes(CRITICAL) {
            return Err(format!("half of it is there: {:?}", files_below(&there)));
        }
        Ok(())
    }

    /// Bytes of the checkpoint that did not come down yet, by what lies on the disk: parts count when they are whole.
    fn lacking_bytes(&self) -> u64 {
        if self.there().exists() {
            return 0;
        }
        let partial = self
            .to()
            .join(format!("{}{PARTIAL_SUFFIX}", trainer::name(CRITICAL)));
        let lacking = |file: &ManifestFile| lacking_of(file, &partial.join(&file.path));
        self.newest.files.iter().map(lacking).sum()
    }

    /// The same again, by whoever comes next; returns the bytes that were read for it.
    fn again(&self) -> Result<u64, String> {
        match self.by {
            By::Restore => self.stage.handle.block_on(self.restore_again()),
            By::Pull => self.pull_again(),
        }
    }

    async fn restore_again(&self) -> Result<u64, String> {
        let bucket = Arc::new(Passing::new(client(&self.place.url)));
        let backup = self.place.start_with(bucket.clone());
        let restored = restore(&backup).await?;
        if restored.checkpoint.id != self.newest.id || !restored.skipped.is_empty() {
            return Err(format!("{restored:?} is not the newest"));
        }
        let read = bucket.read_bytes();
        // What came from the bucket is known to be there, whoever brought it.
        let state = backup.backup_now(PATIENCE, true).await.unwrap();
        if state.last_commit != self.newest.id || (state.pending, state.unsaved_bytes) != (0, 0) {
            return Err(format!("it was not taken for what is saved: {state:?}"));
        }
        Ok(read)
    }

    fn pull_again(&self) -> Result<u64, String> {
        let mut said = String::new();
        for _ in 0..PULLS {
            let output = self.pull().output().unwrap();
            if output.status.success() {
                let pulled: Value =
                    serde_json::from_slice(&output.stdout).map_err(|err| err.to_string())?;
                if pulled["id"] != self.newest.id.as_str() {
                    return Err(format!("{pulled} is not the newest"));
                }
                return Ok(pulled["fetched_bytes"].as_u64().unwrap());
            }
            said = String::from_utf8_lossy(&output.stderr).into_owned();
        }
        Err(said)
    }

    /// Bit by bit as it was trained, and nothing beside it.
    fn is_whole(&self) -> Result<(), String> {
        let there = hashes_below(&self.there());
        if there != *trainer::hashes(CRITICAL) {
            return Err(format!("it comes back as {there:?}"));
        }
        let names: Vec<PathBuf> = fs::read_dir(self.to())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        if names != [self.there()] {
            return Err(format!("something is left beside it: {names:?}"));
        }
        Ok(())
    }
}

/// Bytes of a file in the pieces that are not on the disk as they were committed.
fn lacking_of(file: &ManifestFile, path: &Path) -> u64 {
    let bytes = fs::read(path).unwrap_or_default();
    if bytes.len() as u64 != file.size_bytes {
        return file.size_bytes;
    }
    let whole = [file.blake3.clone()];
    let (hashes, piece_bytes) = match file.part_size_bytes {
        0 => (&whole[..], bytes.len().max(1)),
        part => (&file.parts[..], usize::try_from(part).unwrap()),
    };
    let wrong = |(number, (piece, written)): (usize, (&[u8], &String))| {
        let mut hasher = RangeHasher::like(written, (number * piece_bytes) as u64);
        hasher.update(piece);
        (hasher.finish() != *written).then_some(piece.len() as u64)
    };
    let pieces = bytes.chunks(piece_bytes).zip(hashes).enumerate();
    pieces.filter_map(wrong).sum()
}
