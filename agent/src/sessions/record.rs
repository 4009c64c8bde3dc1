//! What lies in a session's directory, and what it says about the session.
//!
//! `spec.json` is the daemon's wish; `start.json` and `end.json` are the shim's word; `stop.json` asks for the end.
//! Alive means that the shim holds the lock: there is no process id to be reused.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::fcntl::{FallocateFlags, Flock, FlockArg, fallocate};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::files;

const END_RESERVE_BYTES: usize = 4096;

/// What the shim shall run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Format version.
    pub v: u32,
    /// Shell text.
    pub command: String,
    /// Absolute working directory.
    pub dir: PathBuf,
    /// Longest time it may take, seconds; 0: no limit.
    pub timeout_s: u32,
    /// Whether a tmux window shows it.
    pub tmux: bool,
    /// Generation with which its log begins: above those of earlier sessions of the same name.
    pub first_generation: u64,
    /// Bytes in its log that the life before it printed; see [`super::again`].
    #[serde(default)]
    pub log_offset: u64,
    /// How many files it may have open, where the daemon that starts it may have more.
    #[serde(default)]
    pub open_files: Option<u64>,
    /// It was given a checkpoint to go on from.
    #[serde(default)]
    pub resumed: bool,
    /// GPUs that it was told to use; one process for each is usual.
    #[serde(default)]
    pub gpus: Option<u32>,
}

/// The command has started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Format version.
    pub v: u32,
    /// Process id of the command; also its process group.
    pub pid: i32,
    /// When that process started, clock ticks since boot: tells it from a later process with the same id.
    pub pid_starttime: u64,
    /// Process id of the shim.
    pub shim_pid: i32,
    /// The kernel's boot and PID 1's start: another value later means that the box was restarted.
    pub boot: String,
    /// When, microseconds since the epoch.
    pub started_us: u64,
}

/// Why a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// By itself, with an exit code.
    Exited,
    /// By a signal that nobody here sent.
    Signal,
    /// By the kernel's OOM killer.
    Oom,
    /// On request, or because its time was over.
    Stopped,
}

/// The command has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Format version.
    pub v: u32,
    /// Why.
    pub reason: EndReason,
    /// Exit code; absent when a signal ended it.
    pub exit_code: Option<i32>,
    /// Signal that ended it.
    pub signal: Option<i32>,
    /// OOM kills in the box while it ran. The counter belongs to the whole box, so another session may have been hit.
    pub oom_kills: u64,
    /// Its own time limit ended it.
    pub timed_out: bool,
    /// When, microseconds since the epoch.
    pub ended_us: u64,
    /// Bytes written to the log.
    pub log_bytes: u64,
    /// Bytes that the disk refused.
    pub log_dropped_bytes: u64,
}

/// The session shall end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// Format version.
    pub v: u32,
    /// Seconds between SIGTERM and SIGKILL.
    pub grace_s: u32,
}

/// What has been put into the journal about a session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reported {
    /// `session.started` is there.
    pub started: bool,
    /// `session.ended` is there.
    pub ended: bool,
}

/// State of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionState {
    /// Its shim holds the lock.
    Running,
    /// It ended by itself with an exit code.
    Exited,
    /// A signal that nobody here sent ended it.
    Signalled,
    /// The kernel's OOM killer ended it.
    Oom,
    /// It ended on request.
    Stopped,
    /// The shim died without an end record: killed, or the box restarted.
    Lost,
}

impl SessionState {
    /// Word for events and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Exited => "exited",
            Self::Signalled => "signalled",
            Self::Oom => "oom",
            Self::Stopped => "stopped",
            Self::Lost => "lost",
        }
    }
}

/// Everything known about a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Name, unique on the box.
    pub name: String,
    /// State.
    pub state: SessionState,
    /// What it was to run.
    pub spec: Spec,
    /// How it started.
    pub start: Start,
    /// How it ended; absent while it runs and when it is lost.
    pub end: Option<End>,
    /// When it ended; for a lost one the time of its last log byte.
    pub ended_us: u64,
    /// Bytes in its log file now.
    pub log_bytes: u64,
}

/// Path of the session's log.
pub fn log_path(dir: &Path) -> PathBuf {
    dir.join("log")
}

/// Path of the file whose lock is the session's life.
pub fn lock_path(dir: &Path) -> PathBuf {
    dir.join("lock")
}

/// Reads one of the records; `None` when it is not there.
pub fn read<T: DeserializeOwned>(dir: &Path, name: &str) -> io::Result<Option<T>> {
    match files::read_if_there(&dir.join(name))? {
        Some(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(io::Error::other),
        None => Ok(None),
    }
}

/// Writes one of the records, complete or not at all.
pub fn write<T: Serialize>(dir: &Path, name: &str, record: &T) -> io::Result<()> {
    files::write_durably(&dir.join(name), &serde_json::to_vec(record)?)
}

/// Keeps space for the end record, so that it can be written on a full disk.
pub fn reserve_end(dir: &Path) -> io::Result<File> {
    let path = dir.join(".end.reserve");
    let file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)?;
    if fallocate(&file, FallocateFlags::empty(), 0, END_RESERVE_BYTES as i64).is_err() {
        // A file system without fallocate keeps blocks that were written.
        file.write_all_at(&[0; END_RESERVE_BYTES], 0)?;
    }
    file.sync_all()?;
    Ok(file)
}

/// Overwrites the reserved block and renames it: needs no free space.
pub fn write_end(dir: &Path, reserve: &File, end: &End) -> io::Result<()> {
    let bytes = serde_json::to_vec(end)?;
    reserve.write_all_at(&bytes, 0)?;
    reserve.set_len(bytes.len() as u64)?;
    reserve.sync_all()?;
    fs::rename(dir.join(".end.reserve"), dir.join("end.json"))?;
    files::sync_dir(dir)
}

/// Whether a shim holds the lock.
pub fn is_locked(path: &Path) -> io::Result<bool> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(err) => return Err(err),
    };
    // A shared lock, so that two who ask at once do not take each other for the shim.
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_released_on_drop) => Ok(false),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(true),
        Err((_, errno)) => Err(errno.into()),
    }
}

/// What the files in `dir` say; `None` while nothing has started there.
pub fn inspect(dir: &Path) -> io::Result<Option<Session>> {
    // The lock first: a shim that ends between the two reads has written its end record before it let go.
    let alive = is_locked(&lock_path(dir))?;
    let (Some(spec), Some(start)) = (
        read::<Spec>(dir, "spec.json")?,
        read::<Start>(dir, "start.json")?,
    ) else {
        return Ok(None);
    };
    let end = read::<End>(dir, "end.json")?;
    let log = fs::metadata(log_path(dir)).ok();
    let state = match &end {
        Some(end) => match end.reason {
            EndReason::Exited => SessionState::Exited,
            EndReason::Signal => SessionState::Signalled,
            EndReason::Oom => SessionState::Oom,
            EndReason::Stopped => SessionState::Stopped,
        },
        None if alive => SessionState::Running,
        None => SessionState::Lost,
    };
    let ended_us = match (&end, state) {
        (Some(end), _) => end.ended_us,
        (None, SessionState::Lost) => log
            .as_ref()
            .and_then(modified_us)
            .unwrap_or(start.started_us),
        _ => 0,
    };
    let name = dir
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let log_bytes = log.map_or(0, |meta| meta.len());
    Ok(Some(Session {
        name,
        state,
        spec,
        start,
        end,
        ended_us,
        log_bytes,
    }))
}

fn modified_us(meta: &fs::Metadata) -> Option<u64> {
    let since = meta
        .modified()
        .ok()?
        .duration_since(std::time::UNIX_EPOCH)
        .ok()?;
    u64::try_from(since.as_micros()).ok()
}

#[cfg(test)]
impl Spec {
    /// One for tests, without a window, from the beginning of its log.
    pub fn sample() -> Spec {
        Spec {
            v: 1,
            command: "x".to_owned(),
            dir: "/".into(),
            timeout_s: 0,
            tmux: false,
            first_generation: 0,
            log_offset: 0,
            open_files: None,
            resumed: false,
            gpus: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session_dir() -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("train");
        fs::create_dir(&dir).unwrap();
        let spec = Spec::sample();
        write(&dir, "spec.json", &spec).unwrap();
        (root, dir)
    }

    fn start() -> Start {
        Start {
            v: 1,
            pid: 1,
            pid_starttime: 1,
            shim_pid: 1,
            boot: "b".into(),
            started_us: 5,
        }
    }

    fn end(reason: EndReason) -> End {
        End {
            v: 1,
            reason,
            exit_code: Some(7),
            signal: None,
            oom_kills: 0,
            timed_out: false,
            ended_us: 9,
            log_bytes: 0,
            log_dropped_bytes: 0,
        }
    }

    #[test]
    fn a_directory_without_a_start_is_no_session_yet() {
        let (_root, dir) = session_dir();
        assert_eq!(inspect(&dir).unwrap(), None);
    }

    #[test]
    fn the_state_follows_the_lock_and_the_end_record() {
        let (_root, dir) = session_dir();
        write(&dir, "start.json", &start()).unwrap();
        assert_eq!(inspect(&dir).unwrap().unwrap().state, SessionState::Lost);

        let lock = Flock::lock(
            File::create(lock_path(&dir)).unwrap(),
            FlockArg::LockExclusiveNonblock,
        )
        .unwrap();
        assert_eq!(inspect(&dir).unwrap().unwrap().state, SessionState::Running);
        drop(lock);

        for (reason, state) in [
            (EndReason::Exited, SessionState::Exited),
            (EndReason::Signal, SessionState::Signalled),
            (EndReason::Oom, SessionState::Oom),
            (EndReason::Stopped, SessionState::Stopped),
        ] {
            write(&dir, "end.json", &end(reason)).unwrap();
            let session = inspect(&dir).unwrap().unwrap();
            assert_eq!(
                (session.state, session.ended_us, session.name.as_str()),
                (state, 9, "train")
            );
        }
    }
}
