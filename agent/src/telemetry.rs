//! What the box is doing, once a second: one [`Sample`] of every GPU and of the container.
//!
//! GPUs are read by a child process (see [`probe`]) and the sampling loop never waits for it: it takes the newest frame
//! that arrived ([`gpu`]), reads the host ([`host`]) and puts both into an hour of memory ([`history`]). Start at
//! [`Telemetry::start`].

pub mod gpu;
pub mod history;
pub mod host;
pub mod probe;
mod sample;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nvml_probe::Hello;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio::time::{self, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::events::EventSink;
use gpu::GpuBoard;
use history::{History, Since};
use host::{Disk, HostReader};
use probe::{ProbeConfig, ProbeSupervisor};

pub use sample::{GpuSample, HostSample, Sample};

/// Samples a slow subscriber may fall behind before it loses the oldest: four minutes at 1 Hz.
const SUBSCRIBER_LAG: usize = 256;

/// How often to sample and how the probe is run; the default is what a box needs.
#[derive(Debug, Clone)]
pub struct TelemetryConfig {
    /// Time between two samples.
    pub interval: Duration,
    /// How to find, start and judge the probe.
    pub probe: ProbeConfig,
}

impl TelemetryConfig {
    /// 1 Hz, and the probe's own defaults; `dir` is the agent's own directory, `~/.spotter`.
    pub fn new(dir: &Path) -> Self {
        Self {
            interval: Duration::from_secs(1),
            probe: ProbeConfig::new(dir),
        }
    }
}

/// The eyes of the agent: samples in the background until its stop signal comes.
pub struct Telemetry {
    gpus: Arc<GpuBoard>,
    workdir: Mutex<PathBuf>,
    history: Mutex<History>,
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
            history: Mutex::new(History::default()),
            subscribers,
            tasks: Mutex::new(Vec::new()),
        });

        let mut tasks = vec![tokio::spawn(sample_loop(
            telemetry.clone(),
            config.interval,
            stop.clone(),
        ))];
        match ProbeSupervisor::start(config.probe, config.interval, gpus.clone()) {
            Ok(supervisor) => tasks.push(tokio::spawn(async move {
                stop.cancelled().await;
                // The supervisor's thread ends its child and itself; joining it is bounded by its own deadline.
                let joined = tokio::task::spawn_blocking(move || supervisor.stop()).await;
                if joined.is_err() {
                    warn!("the thread that supervises the NVML probe panicked");
                }
            })),
            Err(err) => gpus.set_problem(&format!(
                "the thread that runs the NVML probe could not be started: {err}"
            )),
        }
        *lock(&telemetry.tasks) = tasks;
        telemetry
    }

    /// The newest sample, if one was taken.
    pub fn latest(&self) -> Option<Sample> {
        lock(&self.history).latest()
    }

    /// Samples of the last hour taken after a time (microseconds since the epoch; 0: all), oldest first.
    ///
    /// They are decoded as the iterator is driven, so that a reader of the whole hour does not double the agent's memory.
    pub fn since(&self, after_us: u64) -> Since {
        lock(&self.history).since(after_us)
    }

    /// New samples as they are taken. A receiver that lags more than 256 samples loses the oldest and is told how many.
    pub fn subscribe(&self) -> broadcast::Receiver<Sample> {
        self.subscribers.subscribe()
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

    fn record(&self, sample: Sample) {
        lock(&self.history).push(&sample);
        // An error only means that nobody listens.
        let _ = self.subscribers.send(sample);
    }
}

/// Takes one sample per tick until `stop`. A tick that comes late is skipped, never made up for.
async fn sample_loop(telemetry: Arc<Telemetry>, interval: Duration, stop: CancellationToken) {
    let mut ticks = time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut host = HostReader::default();
    let mut disk = DiskWatch::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let mut figures = host.read();
        if let Some(found) = disk.read(&telemetry.workdir).await {
            figures.disk_free_bytes = Some(found.free_bytes);
            figures.disk_total_bytes = Some(found.total_bytes);
        }
        telemetry.record(Sample {
            time_us: now_us(),
            gpus: telemetry.gpus.samples(),
            host: Some(figures),
        });
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
            tokio::task::spawn_blocking(move || host::disk(&workdir))
        });
        let answer = time::timeout(PATIENCE, question).await.ok()?;
        self.open = None;
        answer.ok().flatten()
    }
}

/// Microseconds since the epoch; 0 on a clock before 1970.
fn now_us() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_micros() as u64)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .expect("nothing panics while it holds a telemetry lock")
}
