//! What the box is doing, once a second: one [`Sample`] of every GPU and of the container.
//!
//! GPUs are read by a child process (see [`probe`]) and the sampling loop never waits for it: it takes the newest frame
//! that arrived ([`gpu`]), reads the host ([`host`]) and puts both into a week of files ([`history`]). Start at
//! [`Telemetry::start`].

pub mod gpu;
pub mod history;
pub mod host;
pub mod probe;
mod sample;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nvml_probe::Hello;
use tokio::sync::broadcast;
use tokio::task::{self, JoinHandle};
use tokio::time::{self, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::config;
use crate::events::EventSink;
use crate::now_us;
use crate::tasks::{Task, spawn_blocking};
use gpu::GpuBoard;
use history::{History, Samples};
use host::{Disk, HostReader, ProcessReader};
use probe::{ProbeConfig, ProbeSupervisor};

pub use sample::{GpuSample, HostSample, ProcessSample, Sample};

/// Samples a slow subscriber may fall behind before it loses the oldest: four minutes at 1 Hz.
const SUBSCRIBER_LAG: usize = 256;

/// How often to sample and how the probe is run; the default is what a box needs.
#[derive(Debug, Clone)]
pub struct TelemetryConfig {
    /// Time between two samples.
    pub interval: Duration,
    /// Where samples are kept.
    pub history: PathBuf,
    /// How to find, start and judge the probe.
    pub probe: ProbeConfig,
}

impl TelemetryConfig {
    /// 1 Hz unless the environment says otherwise, and the probe's own defaults; `dir` is the agent's own directory, `~/.spotter`.
    pub fn new(dir: &Path) -> Self {
        Self {
            interval: config::sample_interval(),
            history: dir.join("history"),
            probe: ProbeConfig::new(dir),
        }
    }
}

/// The eyes of the agent: samples in the background until its stop signal comes.
pub struct Telemetry {
    gpus: Arc<GpuBoard>,
    workdir: Mutex<PathBuf>,
    latest: Mutex<Option<Sample>>,
    history: PathBuf,
    has_probe: bool,
    subscribers: broadcast::Sender<Sample>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Telemetry {
    /// Starts sampling with the defaults. `dir` is the agent's own directory, `~/.spotter`: the probe is kept there and finds
    /// NVML by its `container.env`. `workdir` is the directory whose file system is watched.
    ///
    /// Must be called inside a tokio runtime.
    pub fn start(
        dir: &Path,
        workdir: PathBuf,
        events: Arc<dyn EventSink>,
        stop: CancellationToken,
    ) -> Arc<Self> {
        Self::start_with(TelemetryConfig::new(dir), workdir, events, stop)
    }

    /// Like [`Telemetry::start`], with every choice in the caller's hand.
    pub fn start_with(
        config: TelemetryConfig,
        workdir: PathBuf,
        events: Arc<dyn EventSink>,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let (subscribers, _) = broadcast::channel(SUBSCRIBER_LAG);
        let gpus = Arc::new(GpuBoard::new(events, config.interval));
        let telemetry = Arc::new(Self {
            gpus: gpus.clone(),
            workdir: Mutex::new(workdir),
            latest: Mutex::new(None),
            history: config.history,
            has_probe: config.probe.has_program(),
            subscribers,
            tasks: Mutex::new(Vec::new()),
        });

        let sampling: Task = Box::pin(sample_loop(
            telemetry.clone(),
            config.interval,
            stop.clone(),
        ));
        let mut tasks = vec![tokio::spawn(sampling)];
        match ProbeSupervisor::start(config.probe, config.interval, gpus.clone()) {
            Ok(supervisor) => {
                let ending: Task = Box::pin(async move {
                    stop.cancelled().await;
                    // The supervisor's thread ends its child and itself; joining it is bounded by its own deadline.
                    let joined = spawn_blocking(move || supervisor.stop()).await;
                    if joined.is_err() {
                        warn!("the thread that supervises the NVML probe panicked");
                    }
                });
                tasks.push(tokio::spawn(ending));
            }
            Err(err) => gpus.set_problem(&format!(
                "the thread that runs the NVML probe could not be started: {err}"
            )),
        }
        *lock(&telemetry.tasks) = tasks;
        telemetry
    }

    /// The newest sample, if one was taken.
    pub fn latest(&self) -> Option<Sample> {
        lock(&self.latest).clone()
    }

    /// Samples taken after a time (microseconds since the epoch; 0: all) and not after another, oldest first; coarser where
    /// they are old.
    ///
    /// They are read from files as the iterator is driven, so that a week does not cost memory: it blocks on the disk.
    pub fn between(&self, after_us: u64, until_us: u64) -> Samples {
        history::read(&self.history, after_us, until_us)
    }

    /// Like [`Telemetry::between`], up to now.
    pub fn since(&self, after_us: u64) -> Samples {
        self.between(after_us, u64::MAX)
    }

    /// Samples taken after a time, a mean for each minute, oldest first; of the newest minute its readings. Blocks on the disk.
    pub fn minutes(&self, after_us: u64) -> impl Iterator<Item = Sample> + use<> {
        history::minutes(&self.history, after_us)
    }

    /// New samples as they are taken. A receiver that lags more than 256 samples loses the oldest and is told how many.
    pub fn subscribe(&self) -> broadcast::Receiver<Sample> {
        self.subscribers.subscribe()
    }

    /// Whether there is a program that reads GPUs: the build may have left it out.
    pub fn has_probe(&self) -> bool {
        self.has_probe
    }

    /// Why there is no GPU telemetry, or no complete one; empty when every GPU is read, and until the probe had its chance.
    pub fn gpu_problem(&self) -> String {
        self.gpus.problem()
    }

    /// What NVML said of driver and GPUs; `None` before it said anything.
    pub fn driver(&self) -> Option<Arc<Hello>> {
        self.gpus.driver()
    }

    /// Watches the file system of another directory from the next sample on.
    pub fn set_workdir(&self, workdir: PathBuf) {
        *lock(&self.workdir) = workdir;
    }

    /// Waits until every background task has ended; call it after the stop signal.
    pub async fn stopped(&self) {
        let tasks = std::mem::take(&mut *lock(&self.tasks));
        for task in tasks {
            if task.await.is_err() {
                warn!("a telemetry task panicked");
            }
        }
    }

    fn publish(&self, sample: Sample) {
        *lock(&self.latest) = Some(sample.clone());
        // An error only means that nobody listens.
        let _ = self.subscribers.send(sample);
    }
}

/// Takes one sample per tick until `stop`. A tick that comes late is skipped, never made up for.
async fn sample_loop(telemetry: Arc<Telemetry>, interval: Duration, stop: CancellationToken) {
    /// Between two looks at all processes: there may be hundreds.
    const PROCESSES: Duration = Duration::from_secs(10);
    let mut ticks = time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut host = HostReader::default();
    let mut disk = DiskWatch::default();
    let mut keeper = Keeper::new(telemetry.history.clone());
    let (mut reader, mut processes) = (ProcessReader::default(), Vec::new());
    let mut looked: Option<Instant> = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        let mut figures = host.read();
        if let Some(found) = disk.read(&telemetry.workdir).await {
            figures.disk_free_bytes = Some(found.free_bytes);
            figures.disk_total_bytes = Some(found.total_bytes);
        }
        if looked.is_none_or(|then| then.elapsed() >= PROCESSES) {
            let now = Instant::now();
            processes = reader.read(now);
            looked = Some(now);
        }
        figures.processes_blocked = Some(reader.blocked());
        let sample = Sample {
            time_us: now_us(),
            span_s: 0,
            gpus: telemetry.gpus.samples(),
            host: Some(figures),
            processes: processes.clone(),
        };
        // Kept before it is told of: who listens and then reads the history misses nothing.
        keeper.keep(&sample).await;
        telemetry.publish(sample);
    }
    keeper.close().await;
}

/// Puts samples into the history without ever waiting long for a disk that hangs: at most one is on its way, and what comes
/// meanwhile is not kept.
struct Keeper {
    history: Arc<Mutex<History>>,
    open: Option<JoinHandle<io::Result<()>>>,
    failing: bool,
}

impl Keeper {
    /// Longest wait in one tick.
    const PATIENCE: Duration = Duration::from_millis(100);

    fn new(dir: PathBuf) -> Self {
        Self {
            history: Arc::new(Mutex::new(History::new(dir))),
            open: None,
            failing: false,
        }
    }

    async fn keep(&mut self, sample: &Sample) {
        let open = self.open.get_or_insert_with(|| {
            let (history, sample) = (self.history.clone(), sample.clone());
            task::spawn_blocking(move || lock(&history).push(&sample))
        });
        let Ok(joined) = time::timeout(Self::PATIENCE, open).await else {
            return;
        };
        self.open = None;
        let outcome = joined.unwrap_or_else(|err| Err(io::Error::other(err)));
        match outcome {
            Ok(()) => self.failing = false,
            Err(err) if !self.failing => {
                self.failing = true;
                warn!(error = %err, "samples cannot be kept; they are still told to who follows");
            }
            Err(_) => {}
        }
    }

    async fn close(self) {
        let history = self.history.clone();
        let closing = spawn_blocking(move || lock(&history).close());
        // What is lost then is a part of a mean.
        if let Ok(Ok(Err(err))) = time::timeout(Duration::from_secs(1), closing).await {
            warn!(error = %err, "the history was not closed");
        }
    }
}

/// Asks a file system for its free space without ever waiting for a hung network mount: at most one question is open, and
/// the last answer is kept only until the next question is overdue.
#[derive(Default)]
struct DiskWatch {
    open: Option<JoinHandle<Option<Disk>>>,
}

impl DiskWatch {
    async fn read(&mut self, workdir: &Mutex<PathBuf>) -> Option<Disk> {
        /// A local file system answers in microseconds; beyond this the sample goes without.
        const PATIENCE: Duration = Duration::from_millis(100);
        let question = self.open.get_or_insert_with(|| {
            let workdir = lock(workdir).clone();
            task::spawn_blocking(move || host::disk(&workdir))
        });
        let answer = time::timeout(PATIENCE, question).await.ok()?;
        self.open = None;
        answer.ok().flatten()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .expect("nothing panics while it holds a telemetry lock")
}
