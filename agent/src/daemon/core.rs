//! `Core`: everything the daemon knows and owns, as the handlers ask for it.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use anyhow::Context;
use serde_json::json;
use spotter_bucket::Credentials;
use spotter_trainlog::live::Latest;
use tokio::{sync::OnceCell, task::JoinError, time};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use super::{
    FLUSH_INTERVAL,
    backup::RunningBackup,
    dead_man, death, diagnosis,
    ending::{self, Ending},
    keys::{self, CredentialSlot},
    presence::Presence,
    run_file::{self, ConfigureError, RunFile, Wish},
    telling::{self, Telling},
    training::{self, TRAINING_SESSION},
    validation,
};
use crate::tasks;
use crate::tasks::spawn_blocking;
use crate::{
    config::Home,
    events::EventSink,
    fault, files,
    journal::Journal,
    logs::Logs,
    now_us,
    self_stop::{DEFAULT_URL, OwnInstance},
    sessions::{Session, SessionState, Sessions, processes},
    telemetry::{Telemetry, TelemetryConfig},
};

/// Waits between two looks at the sessions' directories while logs grow quickly.
const REPORT_PAUSE: Duration = Duration::from_millis(200);

/// Whoever had the agent wiped destroys the box at once; one that is still there after so long was forgotten by a laptop that died.
const DESTROYED_WITHIN: Duration = Duration::from_secs(300);
/// A newer word on how long the money lasts counts when it differs by so much: a file is written for it.
const BUDGET_MOVES_US: u64 = 15_000_000;

/// The daemon's parts.
pub struct Core {
    /// Where everything lies.
    pub home: Home,
    /// When this daemon started, microseconds since the epoch.
    pub started_us: u64,
    /// Identifies this boot of the container.
    pub boot: String,
    /// What happened.
    pub journal: Arc<Journal>,
    /// What runs.
    pub sessions: Sessions,
    /// What it prints.
    pub logs: Logs,
    /// How the box is doing.
    pub telemetry: Arc<Telemetry>,
    /// Bucket keys.
    pub credentials: Arc<CredentialSlot>,
    /// Whether anybody is connected.
    pub presence: Presence,
    /// Ends every task and stream.
    pub stop: CancellationToken,
    /// Tasks that must have ended before the daemon does.
    pub tasks: TaskTracker,
    run: RwLock<Option<RunFile>>,
    backup: Mutex<Option<RunningBackup>>,
    configuring: tokio::sync::Mutex<()>,
    training: Mutex<Option<Latest>>,
    ending: Mutex<Option<Ending>>,
    undiagnosed: Mutex<diagnosis::Unnoted>,
    build: OnceCell<String>,
    wipe: Mutex<bool>,
    /// How the user is told.
    pub telling: Telling,
}

impl Core {
    /// Takes up what earlier daemons left and starts telemetry.
    pub async fn open(home: &Home) -> anyhow::Result<Arc<Self>> {
        let journal =
            Arc::new(Journal::open(&home.journal()).context("the journal cannot be opened")?);
        let run = RunFile::load(home).unwrap_or_else(|err| {
            // The controller configures again as soon as it sees an empty run; nothing else may depend on a damaged file.
            warn!(error = %err, "run.json cannot be read: the box works for no run until it is configured again");
            None
        });
        if let Some(run) = &run {
            journal.set_run(&run.run, run.attempt);
        }
        let sessions =
            Sessions::open(home, journal.clone()).context("the sessions cannot be read")?;
        let stop = CancellationToken::new();
        let workdir = run
            .as_ref()
            .map_or_else(|| home.path().to_owned(), |run| run.workdir.clone());
        let telemetry = start_telemetry(home, workdir, journal.clone(), stop.child_token());
        let boot = boot_of_container(home);
        journal.event("agent.started", json!({ "version": env!("CARGO_PKG_VERSION"), "boot": boot, "pid": std::process::id() }));
        let started_us = now_us();
        let core = Arc::new(Self {
            home: home.clone(),
            started_us,
            boot,
            journal,
            sessions,
            logs: Logs::default(),
            telemetry,
            credentials: Arc::new(CredentialSlot::open(home.keys())),
            presence: Presence::new(started_us),
            stop,
            tasks: TaskTracker::new(),
            run: RwLock::new(None),
            backup: Mutex::default(),
            configuring: tokio::sync::Mutex::default(),
            training: Mutex::default(),
            ending: Mutex::default(),
            undiagnosed: Mutex::default(),
            build: OnceCell::new(),
            wipe: Mutex::new(false),
            telling: Telling::default(),
        });
        if let Some(run) = run {
            core.adopt(run).await;
        }
        Ok(core)
    }

    /// Starts the loops that need nobody to ask.
    pub fn start_tasks(self: &Arc<Self>) {
        tasks::spawn(&self.tasks, watch_sessions(self.clone()));
        tasks::spawn(&self.tasks, training::follow(self.clone()));
        tasks::spawn(&self.tasks, dead_man::watch(self.clone()));
        tasks::spawn(&self.tasks, validation::watch(self.clone()));
        tasks::spawn(&self.tasks, ending::watch(self.clone()));
        tasks::spawn(&self.tasks, flush_journal(self.clone()));
        tasks::spawn(&self.tasks, keys::watch(self.clone()));
        tasks::spawn(&self.tasks, telling::watch(self.clone()));
    }

    /// Waits for every task, at most for `limit`.
    pub async fn end_tasks(&self, limit: Duration) {
        let backup = lock(&self.backup).take();
        if let Some(backup) = backup {
            backup.stop();
        }
        self.tasks.close();
        if time::timeout(limit, self.tasks.wait()).await.is_err() {
            warn!(
                left = self.tasks.len(),
                "tasks were still busy after {} s",
                limit.as_secs()
            );
        }
        if time::timeout(limit, self.telemetry.stopped())
            .await
            .is_err()
        {
            warn!("telemetry did not end within {} s", limit.as_secs());
        }
        self.journal.flush();
    }

    /// The run that the box works for.
    pub fn run(&self) -> Option<RunFile> {
        self.run
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Working directory: the run's, else the user's home.
    pub fn workdir(&self) -> PathBuf {
        self.run()
            .map(|run| run.workdir)
            .or_else(crate::config::user_home)
            .unwrap_or_else(|| "/".into())
    }

    /// Base URL of the provider's API; empty: the box is not rented.
    pub fn provider_url(&self) -> String {
        self.run()
            .map_or_else(|| DEFAULT_URL.to_owned(), |run| run.provider_url)
    }

    /// Takes on a run. The same one again changes nothing. Returns the absolute working directory.
    pub async fn configure(self: &Arc<Self>, wish: Wish) -> Result<PathBuf, ConfigureError> {
        let _one_at_a_time = self.configuring.lock().await;
        if let Some(before) = self.run().filter(|before| before.run != wish.run) {
            let busy = self.is_busy().map_err(|source| ConfigureError::Io {
                path: self.home.path().to_owned(),
                source,
            })?;
            if busy {
                return Err(ConfigureError::Busy(before.run));
            }
        }
        let run = RunFile::decide(wish)?;
        let workdir = run.workdir.clone();
        if self.run().as_ref() != Some(&run) {
            run.save(&self.home)?;
            info!(run = run.run, attempt = run.attempt, "configured");
            self.adopt(run).await;
        }
        Ok(workdir)
    }

    /// Takes a newer word on how long the money lasts; 0 says nothing. What is about the same is not written down again.
    pub fn renew_budget(&self, left_s: u32) {
        let until_us = run_file::in_seconds(left_s);
        let mut slot = self.run.write().unwrap_or_else(PoisonError::into_inner);
        let Some(run) = slot
            .as_mut()
            .filter(|run| left_s > 0 && run.budget_until_us.abs_diff(until_us) >= BUDGET_MOVES_US)
        else {
            return;
        };
        run.budget_until_us = until_us;
        if let Err(err) = run.save(&self.home) {
            // This daemon holds to it all the same.
            warn!(error = %err, "how long the money lasts cannot be kept");
        }
    }

    async fn adopt(self: &Arc<Self>, run: RunFile) {
        self.journal.set_run(&run.run, run.attempt);
        self.telemetry.set_workdir(run.workdir.clone());
        let before = self.run();
        let same_backup = before.is_some_and(|before| {
            (&before.run, before.attempt, &before.backup) == (&run.run, run.attempt, &run.backup)
        });
        if !same_backup {
            // The old one ends first: two would upload the same files.
            let old = lock(&self.backup).take();
            if let Some(old) = old {
                old.end().await;
            }
            let started = run
                .backup
                .as_ref()
                .map(|plan| RunningBackup::start(self, &run, plan));
            *lock(&self.backup) = started.transpose().unwrap_or_else(|err| {
                warn!(error = format!("{err:#}"), "the backup cannot run");
                None
            });
        }
        *self.run.write().unwrap_or_else(PoisonError::into_inner) = Some(run);
    }

    /// The same run under other limits, for this daemon and later ones.
    pub fn keep_run(&self, run: RunFile) -> Result<(), ConfigureError> {
        run.save(&self.home)?;
        *self.run.write().unwrap_or_else(PoisonError::into_inner) = Some(run);
        Ok(())
    }

    /// The backup, if one is configured.
    pub fn backup(&self) -> Option<RunningBackup> {
        lock(&self.backup).clone()
    }

    /// New bucket keys: what waits for them goes on at once.
    /// `persist`: they are kept on the disk, too; an error says only that they are not, they are held all the same.
    pub fn set_credentials(&self, credentials: &Credentials, persist: bool) -> std::io::Result<()> {
        let kept = self.credentials.set(credentials, persist);
        if let Some(running) = self.backup() {
            running.backup.credentials_changed();
        }
        kept
    }

    /// Newest values that the trainer printed.
    pub fn training(&self) -> Option<Latest> {
        *lock(&self.training)
    }

    /// Keeps newer values.
    pub fn set_training(&self, record: Latest) {
        *lock(&self.training) = Some(record);
    }

    /// The ending that this daemon noted last; what is on the disk may be older where that is full.
    pub fn ending(&self) -> Option<Ending> {
        lock(&self.ending).clone()
    }

    /// Keeps an ending.
    pub fn set_ending(&self, ending: Ending) {
        *lock(&self.ending) = Some(ending);
    }

    /// Sessions whose end is found out and not noted.
    pub fn undiagnosed(&self) -> MutexGuard<'_, diagnosis::Unnoted> {
        lock(&self.undiagnosed)
    }

    /// First 16 hex characters of the blake3 of this program's file; empty when it cannot be read any more.
    pub async fn build(&self) -> &str {
        let hashed = self.build.get_or_init(|| async {
            let hash = spawn_blocking(|| files::hash_file(&std::env::current_exe()?)).await;
            let hash = hash.map_err(std::io::Error::other).and_then(|hash| hash);
            hash.map(|(_, hex)| hex[..16].to_owned())
                .unwrap_or_default()
        });
        hashed.await
    }

    /// Stops the daemon soon: the answer to who asked still leaves.
    pub fn shut_down(&self, wipe: bool) {
        *lock(&self.wipe) |= wipe;
        self.stop.cancel();
    }

    /// Removes what the agent kept, when the box is about to be destroyed; and ends the box if it never is: then nothing else here
    /// would, and it is paid for.
    pub async fn wipe_if_asked(&self) -> anyhow::Result<()> {
        let asked = *lock(&self.wipe);
        if asked {
            let url = self.provider_url();
            let own = OwnInstance::find(&self.home, &url);
            // What follows removes the file in any case.
            if let Err(err) = self.credentials.wipe() {
                warn!(error = %err, "the bucket keys were not overwritten");
            }
            self.sessions.close_windows().await;
            let removed = std::fs::remove_dir_all(self.home.path())
                .with_context(|| format!("{} cannot be removed", self.home.path().display()));
            if let Ok(own) = own {
                time::sleep(fault::wait(DESTROYED_WITHIN)).await;
                own.stop_while(|| true).await;
            }
            removed?;
        }
        Ok(())
    }

    /// Whether any session runs.
    pub fn is_busy(&self) -> std::io::Result<bool> {
        Ok(self
            .sessions
            .list()?
            .iter()
            .any(|session| session.state == SessionState::Running))
    }

    /// Runs work that blocks on files beside the runtime's own threads.
    pub async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Core) -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let core = self.clone();
        spawn_blocking(move || work(&core)).await
    }
}

/// Reports starts and ends of sessions, soon after they happen and again when an event was missed.
async fn watch_sessions(core: Arc<Core>) {
    let mut ear = core.logs.ear();
    loop {
        let told = core
            .blocking(|core| {
                let sessions = core.sessions.report();
                follow_all(core, &sessions);
                diagnosis::report(core, &sessions);
                if let Some(running) = core.backup() {
                    running.backup.training(training_since(&sessions));
                    let training = sessions.iter().find(|one| one.name == TRAINING_SESSION);
                    if let Some(training) = training {
                        running.backup.ranks(training.spec.gpus);
                        death::tell_of(training, &running);
                    }
                    let newest = core.training();
                    running
                        .backup
                        .progressed(newest.and_then(|newest| newest.step));
                }
            })
            .await;
        if let Err(err) = told {
            warn!(error = %err, "the sessions were not looked at");
        }
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = ear.listen() => {}
        }
        time::sleep(REPORT_PAUSE).await;
    }
}

/// Opens the logs of live sessions, so that their end is heard and no generation is missed.
fn follow_all(core: &Core, sessions: &[Session]) {
    for session in sessions {
        if session.state != SessionState::Running {
            continue;
        }
        let Ok(dir) = core.sessions.dir(&session.name) else {
            continue;
        };
        let seen = core.logs.of_session(&dir).map_err(|err| err.to_string());
        let looked = seen.and_then(|log| log.look().map_err(|err| crate::chain(&err)));
        if let Err(problem) = looked {
            warn!(
                session = session.name,
                problem, "a log cannot be followed, will retry"
            );
        }
    }
}

fn training_since(sessions: &[Session]) -> Option<u64> {
    let session = sessions
        .iter()
        .find(|session| session.name == TRAINING_SESSION)?;
    (session.state == SessionState::Running).then_some(session.start.started_us)
}

async fn flush_journal(core: Arc<Core>) {
    loop {
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = time::sleep(FLUSH_INTERVAL) => {}
        }
        if let Err(err) = core.blocking(|core| core.journal.flush()).await {
            warn!(error = %err, "the journal was not flushed");
        }
    }
}

fn start_telemetry(
    home: &Home,
    workdir: PathBuf,
    journal: Arc<Journal>,
    stop: CancellationToken,
) -> Arc<Telemetry> {
    let mut config = TelemetryConfig::new(home.path());
    // Everything of ours lies in one directory, whatever its name.
    config.history = home.path().join("history");
    config.probe.dir = home.path().to_owned();
    config.probe.environment_file = home.container_env();
    Telemetry::start_with(config, workdir, journal, stop)
}

/// The kernel's boot, PID 1's start, and when `onstart` ran: a container can restart within one boot.
fn boot_of_container(home: &Home) -> String {
    let onstart = std::fs::metadata(home.container_env())
        .and_then(|meta| meta.modified())
        .ok();
    let text = format!("{} {onstart:?}", processes::boot());
    blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
