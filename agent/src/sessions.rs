//! Sessions: one command each, owned by its shim ([`shim`]) and shown by tmux ([`tmux`]) where the box has it.
//!
//! The daemon only starts them, reads what their directories say ([`record`]) and reports that once; it may die at any time.

pub mod again;
mod asked;
pub mod environment;
pub mod fifo;
pub mod processes;
pub mod program;
pub mod record;
mod report;
pub mod running;
pub mod shim;
pub mod shim_log;
pub mod tmux;
pub mod window;

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{sync::Mutex, time};
use tracing::warn;

pub use asked::{NewSession, SessionError};
pub use record::{Session, SessionState};

use self::{
    asked::{check, check_name},
    record::{Spec, Stop},
    tmux::Tmux,
};
use crate::open_files;
use crate::tasks::spawn_blocking;
use crate::{
    config::Home,
    journal::Journal,
    logs::{generations, table_path},
};
use spotter_bucket::sorted::sort_by;

/// How long a shim may take to start the command; a loaded box takes seconds, not this.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long beyond the grace a session may take to end: the shim kills the whole tree and drains the terminal.
const END_SLACK: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(10);
/// Earlier lives of sessions whose name was taken again.
const PREVIOUS: &str = ".previous";
/// Variable that tells the trainer what to go on from; empty: nothing.
pub const CHECKPOINT: &str = "SPOTTER_CHECKPOINT";
/// Holds how many GPUs the training is to use.
const NUM_GPUS: &str = "SPOTTER_NUM_GPUS";

/// All sessions of the box.
pub struct Sessions {
    home: Home,
    journal: Arc<Journal>,
    tmux: Option<Tmux>,
    starting: Mutex<()>,
    reporting: std::sync::Mutex<report::Unnoted>,
}

impl Sessions {
    /// Takes up what earlier daemons left. Blocks on files.
    pub fn open(home: &Home, journal: Arc<Journal>) -> io::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(home.sessions())?;
        let sessions = Self {
            home: home.clone(),
            journal,
            tmux: Tmux::find(home),
            starting: Mutex::default(),
            reporting: std::sync::Mutex::default(),
        };
        sessions.repair_reports()?;
        Ok(sessions)
    }

    /// Whether the box has tmux.
    pub fn has_tmux(&self) -> bool {
        self.tmux.is_some()
    }

    /// Directory of a session, whether it exists or not. The name must have been checked.
    pub fn dir(&self, name: &str) -> Result<PathBuf, SessionError> {
        check_name(name)?;
        Ok(self.home.sessions().join(name))
    }

    /// Starts a command. Returns when it runs and that is on record.
    pub async fn start(&self, new: NewSession) -> Result<Session, SessionError> {
        check(&new)?;
        let dir = self.dir(&new.name)?;
        let _one_at_a_time = self.starting.lock().await;
        let io = |source| SessionError::Io {
            name: new.name.clone(),
            source,
        };
        let cleared = self.clear(&new.name, &dir)?;
        fs::DirBuilder::new().mode(0o700).create(&dir).map_err(io)?;
        let continued = new
            .continues_us
            .map(|us| again::continue_log(&self.previous(&new.name, us), &dir));
        let (first_generation, log_offset) = match continued {
            Some(Ok(continued)) => continued,
            Some(Err(err)) => {
                warn!(session = new.name, error = %err, "the log before the restart stays apart");
                (cleared, 0)
            }
            None => (cleared, 0),
        };
        let spec = Spec {
            v: 1,
            command: new.command.clone(),
            dir: new.dir.clone(),
            timeout_s: new.timeout_s,
            tmux: self.tmux.is_some(),
            first_generation,
            log_offset,
            open_files: open_files::before(),
            resumed: new.env.get(CHECKPOINT).is_some_and(|path| !path.is_empty()),
            gpus: new.env.get(NUM_GPUS).and_then(|number| number.parse().ok()),
        };
        record::write(&dir, "spec.json", &spec).map_err(io)?;
        if let Some(again) = &new.again {
            record::write(&dir, again::FILE, again).map_err(io)?;
        }
        let pipe = dir.join("env.fifo");
        fifo::create(&pipe).map_err(io)?;

        let started = self.bring_up(&new, &dir, &pipe).await;
        fifo::remove(&pipe).map_err(io)?;
        let session = started?;
        self.report();
        Ok(session)
    }

    async fn bring_up(
        &self,
        new: &NewSession,
        dir: &Path,
        pipe: &Path,
    ) -> Result<Session, SessionError> {
        let name = &new.name;
        let io = |source| SessionError::Io {
            name: name.clone(),
            source,
        };
        let program = std::env::current_exe().map_err(io)?;
        let args = [
            OsStr::new("--home"),
            self.home.path().as_os_str(),
            OsStr::new("shim"),
            dir.as_os_str(),
        ];
        match &self.tmux {
            Some(tmux) => tmux
                .new_session(name, &program, &args)
                .await
                .map_err(|source| SessionError::Tmux {
                    name: name.clone(),
                    source,
                })?,
            None => tmux::start_without_window(&program, &args).map_err(io)?,
        }

        let env = new
            .env
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        let bytes = environment::encode(&env);
        let to = pipe.to_owned();
        let sending = spawn_blocking(move || fifo::send(&to, &bytes, START_LIMIT));
        let mut sending = pin!(sending);
        let mut sent = false;
        let deadline = Instant::now() + START_LIMIT;
        let not_started = |reason: String| SessionError::NotStarted {
            name: name.clone(),
            reason,
        };
        loop {
            if let Some(session) = record::inspect(dir).map_err(io)? {
                return Ok(session);
            }
            if let Some(reason) = crate::files::read_if_there(&dir.join("failed")).map_err(io)? {
                return Err(not_started(String::from_utf8_lossy(&reason).into_owned()));
            }
            if Instant::now() > deadline {
                return Err(not_started(format!(
                    "its shim wrote nothing in {} s",
                    START_LIMIT.as_secs()
                )));
            }
            tokio::select! {
                outcome = &mut sending, if !sent => {
                    sent = true;
                    let outcome = outcome.map_err(|err| not_started(err.to_string()))?;
                    // A shim that failed on its own says why; its silence is explained by the deadline.
                    if let Err(err) = outcome {
                        warn!(session = name, error = %err, "the environment could not be handed over");
                    }
                }
                () = time::sleep(POLL) => {}
            }
        }
    }

    /// Where an earlier life of a session lies.
    fn previous(&self, name: &str, started_us: u64) -> PathBuf {
        let previous = self.home.sessions().join(PREVIOUS);
        previous.join(format!("{name}-{started_us}"))
    }

    /// Whether there are earlier lives of sessions, whose logs are by no session's name any more.
    pub fn has_earlier(&self) -> io::Result<bool> {
        match fs::read_dir(self.home.sessions().join(PREVIOUS)) {
            Ok(mut earlier) => Ok(earlier.next().is_some()),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(err) => Err(err),
        }
    }

    /// Makes room for a new session and returns its log's first generation.
    fn clear(&self, name: &str, dir: &Path) -> Result<u64, SessionError> {
        let io = |source| SessionError::Io {
            name: name.to_owned(),
            source,
        };
        if !dir.exists() {
            return Ok(0);
        }
        match record::inspect(dir).map_err(io)? {
            Some(session) if session.state == SessionState::Running => {
                Err(SessionError::Taken(name.to_owned()))
            }
            Some(session) => {
                self.report();
                let first = generations::next_first_generation(
                    &table_path(dir),
                    session.spec.first_generation,
                )
                .map_err(io)?;
                fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(self.home.sessions().join(PREVIOUS))
                    .map_err(io)?;
                fs::rename(dir, self.previous(name, session.start.started_us)).map_err(io)?;
                Ok(first)
            }
            None if record::is_locked(&record::lock_path(dir)).map_err(io)? => {
                Err(SessionError::Taken(name.to_owned()))
            }
            None => {
                let spec = record::read::<Spec>(dir, "spec.json").map_err(io)?;
                fs::remove_dir_all(dir).map_err(io)?;
                Ok(spec.map_or(0, |spec| spec.first_generation))
            }
        }
    }

    /// One session, by name.
    pub fn get(&self, name: &str) -> Result<Session, SessionError> {
        let dir = self.dir(name)?;
        let found = record::inspect(&dir).map_err(|source| SessionError::Io {
            name: name.to_owned(),
            source,
        })?;
        found.ok_or_else(|| SessionError::Missing(name.to_owned()))
    }

    /// All sessions, newest first; what has not started yet is left out.
    pub fn list(&self) -> io::Result<Vec<Session>> {
        let mut sessions = Vec::new();
        for entry in fs::read_dir(self.home.sessions())? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with('.') {
                continue;
            }
            match record::inspect(&entry.path()) {
                Ok(session) => sessions.extend(session),
                Err(err) => {
                    warn!(dir = %entry.path().display(), error = %err, "a session's files cannot be read")
                }
            }
        }
        sort_by(&mut sessions, |a, b| {
            b.start.started_us.cmp(&a.start.started_us)
        });
        Ok(sessions)
    }

    /// Names of the sessions that a tmux window shows now.
    pub async fn windows(&self) -> Vec<String> {
        match &self.tmux {
            Some(tmux) => tmux.windows().await,
            None => Vec::new(),
        }
    }

    /// Closes every window and ends tmux, when the box is given back. Sessions would go on.
    pub async fn close_windows(&self) {
        if let Some(tmux) = &self.tmux {
            tmux.end().await;
        }
    }

    /// Ends a session: SIGTERM, then SIGKILL to its whole tree after the grace. The shim does both, whatever becomes of us.
    pub async fn end(&self, name: &str, grace: Duration) -> Result<Session, SessionError> {
        let dir = self.dir(name)?;
        let session = self.get(name)?;
        if session.state != SessionState::Running {
            return Ok(session);
        }
        let stop = Stop {
            v: 1,
            grace_s: u32::try_from(grace.as_secs()).unwrap_or(u32::MAX),
        };
        let io = |source| SessionError::Io {
            name: name.to_owned(),
            source,
        };
        record::write(&dir, "stop.json", &stop).map_err(io)?;
        // ESRCH: it ended in this instant, and its record says how.
        let _gone = kill(Pid::from_raw(session.start.shim_pid), Signal::SIGTERM);
        let limit = grace + END_SLACK;
        let deadline = Instant::now() + limit;
        loop {
            let session = self.get(name)?;
            if session.state != SessionState::Running {
                self.report();
                return Ok(session);
            }
            if Instant::now() > deadline {
                return Err(SessionError::NotEnded {
                    name: name.to_owned(),
                    waited_s: limit.as_secs(),
                });
            }
            time::sleep(POLL).await;
        }
    }

    /// Types a line into the session's window and presses Enter.
    pub async fn send_line(&self, name: &str, line: &str) -> Result<(), SessionError> {
        let session = self.get(name)?;
        if line.chars().any(|c| c.is_control() && c != '\t') {
            return Err(SessionError::Invalid(
                "a line to send holds no control characters, line ends included".to_owned(),
            ));
        }
        if session.state != SessionState::Running {
            return Err(SessionError::NotNow(format!(
                "session `{name}` has ended: {}",
                session.state.as_str()
            )));
        }
        let Some(tmux) = &self.tmux else {
            return Err(SessionError::NotNow(format!(
                "session `{name}` has no window to type into: there is no tmux on this box"
            )));
        };
        tmux.send_line(name, line)
            .await
            .map_err(|source| SessionError::Tmux {
                name: name.to_owned(),
                source,
            })
    }
}
