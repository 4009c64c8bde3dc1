//! A box with telemetry: the probe as a child process, on a library with the NVML ABI that answers from a file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use spotter_agent::events::RecordedEvents;
use spotter_agent::telemetry::{Sample, Telemetry, TelemetryConfig};
use tempfile::TempDir;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

/// How long a condition may take on a busy machine before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(40);

pub const EIGHT_GPUS: &str = "\
sys count 8
* util.gpu 97
* mem.used_mib 61234
* power_w 612
* temp 63
* clock.sm 1755
* clock.mem 2619
* throttle 4
* energy_mj 123456789
3 util.gpu 5
3 power_w 70.5
";

/// Where cargo puts the workspace's programs: beside `deps`, which holds this test.
pub fn programs() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.parent().and_then(Path::parent).unwrap().to_path_buf()
}

/// The host-built probe and the fake library. Another package's programs are not built for a test, so cargo is asked when
/// they are older than their source.
pub fn parts() -> (PathBuf, PathBuf) {
    let (probe, library) = (
        programs().join("nvml-probe"),
        programs().join("libfake_nvml.so"),
    );
    let modified = |path: &Path| {
        fs::metadata(path)
            .and_then(|found| found.modified())
            .unwrap_or(SystemTime::UNIX_EPOCH)
    };
    let agent = Path::new(env!("CARGO_MANIFEST_DIR"));
    let newest = |dir: &str| {
        let files = fs::read_dir(agent.join(dir)).unwrap().flatten();
        files.map(|entry| modified(&entry.path())).max().unwrap()
    };
    if modified(&probe) < newest("nvml-probe/src").max(newest("nvml-probe/src/gpu"))
        || modified(&library) < newest("../tests/fake-nvml/src")
    {
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .current_dir(agent)
            .args(["build", "--quiet", "-p", "nvml-probe", "-p", "fake-nvml"]);
        if programs().ends_with("release") {
            cargo.arg("--release");
        }
        assert!(
            cargo.status().unwrap().success(),
            "the probe and the fake NVML do not build"
        );
    }
    (probe, library)
}

/// A box with telemetry: its home, what the fake plays, and what was recorded.
pub struct World {
    pub home: TempDir,
    pub events: Arc<RecordedEvents>,
    pub stop: CancellationToken,
    pub telemetry: Arc<Telemetry>,
}

impl World {
    /// `library` is what NVML_LIB of the container's environment names.
    pub fn start(scenario: &str, library: &Path, patience: Duration) -> Self {
        Self::at(home(scenario, library), patience)
    }

    pub fn at(home: TempDir, patience: Duration) -> Self {
        Self::with(home, patience, |_| {})
    }

    pub fn with(
        home: TempDir,
        patience: Duration,
        change: impl FnOnce(&mut TelemetryConfig),
    ) -> Self {
        let mut config = TelemetryConfig::new(&home.path().join(".spotter"));
        config.interval = Duration::from_millis(100);
        config.probe.program = Some(parts().0);
        config.probe.slow = Duration::from_millis(200);
        config.probe.smi = Some(home.path().join("nvidia-smi"));
        config.probe.first_frame = patience;
        config.probe.next_frame = patience;
        config.probe.shortest_backoff = Duration::from_millis(50);
        change(&mut config);
        let (events, stop) = (
            Arc::new(RecordedEvents::default()),
            CancellationToken::new(),
        );
        let telemetry = Telemetry::start_with(
            config,
            home.path().join("work"),
            events.clone(),
            stop.clone(),
        );
        Self {
            home,
            events,
            stop,
            telemetry,
        }
    }

    /// Exchanges the scenario in one step, so that the fake never sees half of it.
    pub fn play(&self, scenario: &str) {
        let aside = self.home.path().join("scenario.new");
        fs::write(&aside, scenario).unwrap();
        fs::rename(aside, self.home.path().join("scenario")).unwrap();
    }

    /// Waits for a sample that fits.
    pub async fn sample(&self, fits: impl Fn(&Sample) -> bool) -> Sample {
        let mut samples = self.telemetry.subscribe();
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                match samples.recv().await {
                    Ok(sample) if fits(&sample) => return sample,
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(err) => panic!("no more samples: {err}"),
                }
            }
        });
        found.await.unwrap_or_else(|_| {
            panic!(
                "no such sample; problem: {:?}",
                self.telemetry.gpu_problem()
            )
        })
    }

    pub async fn problem(&self, fits: impl Fn(&str) -> bool) -> String {
        let started = Instant::now();
        loop {
            let problem = self.telemetry.gpu_problem();
            if fits(&problem) {
                return problem;
            }
            assert!(
                started.elapsed() < PATIENCE,
                "the problem stays {problem:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn problems(&self) -> Vec<String> {
        let events = self.events.0.lock().unwrap();
        let problems = events.iter().filter(|(kind, _)| kind == "gpu.problem");
        problems
            .map(|(_, detail)| detail["problem"].as_str().unwrap().to_owned())
            .collect()
    }

    pub async fn end(self) {
        self.stop.cancel();
        self.telemetry.stopped().await;
        assert_eq!(
            probes_of(self.home.path()),
            [] as [i32; 0],
            "the probe ends with the telemetry"
        );
    }
}

/// A home whose container environment names a library and a scenario.
pub fn home(scenario: &str, library: &Path) -> TempDir {
    let home = tempfile::tempdir().unwrap();
    let (dir, file) = (home.path().join(".spotter"), home.path().join("scenario"));
    fs::create_dir(&dir).unwrap();
    fs::write(&file, scenario).unwrap();
    let environment = format!(
        "PATH=/bin\0NVML_LIB={}\0FAKE_NVML_SCENARIO={}\0",
        library.display(),
        file.display()
    );
    fs::write(dir.join("container.env"), environment).unwrap();
    home
}

/// Living probes that play the scenario of this home.
pub fn probes_of(home: &Path) -> Vec<i32> {
    let marker = home.join("scenario").display().to_string();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| {
            let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
            // A zombie has no environment any more.
            read("comm") == b"nvml-probe\n"
                && String::from_utf8_lossy(&read("environ")).contains(&marker)
        })
        .collect()
}
