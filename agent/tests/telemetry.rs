//! Telemetry with real parts: the probe as a child process, on a library with the NVML ABI that answers from a file.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may hope, and tell"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use nvml_probe::GpuProcess;
use spotter_agent::events::RecordedEvents;
use spotter_agent::telemetry::{GpuSample, Sample, Telemetry, TelemetryConfig};
use tempfile::TempDir;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

#[path = "../../tests/skip.rs"]
mod skip;

/// How long a condition may take on a busy machine before a test gives up.
const PATIENCE: Duration = Duration::from_secs(40);

const EIGHT_GPUS: &str = "\
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
fn programs() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.parent().and_then(Path::parent).unwrap().to_path_buf()
}

/// The host-built probe and the fake library. Another package's programs are not built for a test, so cargo is asked when
/// they are older than their source.
fn parts() -> (PathBuf, PathBuf) {
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
struct World {
    home: TempDir,
    events: Arc<RecordedEvents>,
    stop: CancellationToken,
    telemetry: Arc<Telemetry>,
}

impl World {
    /// `library` is what NVML_LIB of the container's environment names.
    fn start(scenario: &str, library: &Path, patience: Duration) -> Self {
        Self::at(home(scenario, library), patience)
    }

    fn at(home: TempDir, patience: Duration) -> Self {
        Self::with(home, patience, |_| {})
    }

    fn with(home: TempDir, patience: Duration, change: impl FnOnce(&mut TelemetryConfig)) -> Self {
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
    fn play(&self, scenario: &str) {
        let aside = self.home.path().join("scenario.new");
        fs::write(&aside, scenario).unwrap();
        fs::rename(aside, self.home.path().join("scenario")).unwrap();
    }

    /// Waits for a sample that fits.
    async fn sample(&self, fits: impl Fn(&Sample) -> bool) -> Sample {
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

    async fn problem(&self, fits: impl Fn(&str) -> bool) -> String {
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

    fn problems(&self) -> Vec<String> {
        let events = self.events.0.lock().unwrap();
        let problems = events.iter().filter(|(kind, _)| kind == "gpu.problem");
        problems
            .map(|(_, detail)| detail["problem"].as_str().unwrap().to_owned())
            .collect()
    }

    async fn end(self) {
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
fn home(scenario: &str, library: &Path) -> TempDir {
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
fn probes_of(home: &Path) -> Vec<i32> {
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

#[tokio::test(flavor = "multi_thread")]
async fn eight_gpus_are_sampled_with_their_values() {
    let world = World::start(EIGHT_GPUS, &parts().1, PATIENCE);
    let sample = world.sample(|sample| sample.gpus.len() == 8).await;

    for (index, gpu) in sample.gpus.iter().enumerate() {
        assert_eq!((gpu.index as usize, gpu.error), (index, 0));
        assert_eq!(&*gpu.name, "NVIDIA H100 80GB HBM3");
        assert_eq!(
            gpu.uuid.to_string(),
            format!("GPU-00000000-fa4e-0000-0000-{index:012}")
        );
        assert_eq!(gpu.memory_used_bytes, Some(61_234 << 20));
        assert_eq!(gpu.memory_total_bytes, Some(81_559 << 20));
        assert_eq!(
            (gpu.temperature_c, gpu.sm_clock_mhz, gpu.memory_clock_mhz),
            (Some(63), Some(1755), Some(2619))
        );
        assert_eq!(
            (gpu.throttle_reasons, gpu.energy_mj),
            (Some(4), Some(123_456_789))
        );
    }
    let load = |index: usize| {
        (
            sample.gpus[index].utilisation_percent,
            sample.gpus[index].power_mw,
        )
    };
    assert_eq!(
        (load(0), load(3)),
        ((Some(97), Some(612_000)), (Some(5), Some(70_500)))
    );

    let host = sample.host.as_ref().unwrap();
    assert!(
        host.memory_limit_bytes > Some(0)
            && host.disk_total_bytes > Some(0)
            && host.cpu_limit_cores > Some(0.0)
    );
    assert_eq!(
        (world.telemetry.gpu_problem(), world.problems()),
        (String::new(), vec![])
    );
    assert!(
        world.telemetry.since(0).any(|held| held == sample),
        "the history holds it"
    );
    assert!(
        world
            .telemetry
            .since(sample.time_us)
            .all(|held| held.time_us > sample.time_us)
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_drivers_are_asked_by_the_old_names_and_only_once_by_the_new() {
    let no_field_values = "* err.nvmlDeviceGetFieldValues NOT_SUPPORTED\n";
    let old = format!(
        "{no_field_values}\
* util.gpu 50
* mem.used_mib 100
* mem.reserved_mib 50
* power_w 250
* temp 40
* throttle 1
* err.nvmlDeviceGetMemoryInfo_v2 FUNCTION_NOT_FOUND
* err.nvmlDeviceGetTemperatureV FUNCTION_NOT_FOUND
* err.nvmlDeviceGetCurrentClocksEventReasons NOT_SUPPORTED
* err.nvmlDeviceGetTotalEnergyConsumption NOT_SUPPORTED
"
    );
    let world = World::start(&old, &parts().1, PATIENCE);
    let gpu = world
        .sample(|sample| sample.gpus.len() == 1)
        .await
        .gpus
        .remove(0);
    assert_eq!(
        gpu.memory_used_bytes,
        Some(150 << 20),
        "the first version counts the driver's reserve as used"
    );
    assert_eq!(
        (gpu.power_mw, gpu.temperature_c, gpu.throttle_reasons),
        (Some(250_000), Some(40), Some(1))
    );
    assert_eq!(
        (gpu.energy_mj, gpu.sm_clock_mhz, gpu.error),
        (None, None, 0)
    );

    world.play(&(old.replace(no_field_values, "* field.186 999000\n") + "* util.gpu 51\n"));
    let later = world
        .sample(|sample| sample.gpus[0].utilisation_percent == Some(51))
        .await;
    assert_eq!(
        later.gpus[0].power_mw,
        Some(250_000),
        "a call that was not supported is not made again"
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slow_tier_has_limits_links_errors_and_processes() {
    let full = format!(
        "{EIGHT_GPUS}\
* util.mem 41
* pstate 0
* power_limit_w 700
* fan 30
* field.82 71
* pcie.replays 2
* pcie.generation 5
* pcie.width 16
* nvlinks 18
* nvlink.3 0
* field.38 1
* field.45 2
* field.138 ramp 0 100000000 100
* field.139 ramp 0 50000000 100
* field.197 ramp 0 100000000000 100
* field.198 ramp 0 100000000000 100
* field.230 1
* ecc.corrected 3
* ecc.uncorrected 1
* ecc.corrected.lifetime 30
* ecc.uncorrected.lifetime 10
* remap 1 2 1 0
6 proc 4242:1073741824 4300:-
"
    );
    let world = World::start(&full, &parts().1, PATIENCE);
    let sample = world
        .sample(|sample| {
            let rates = |gpu: &GpuSample| gpu.pcie_tx_bytes_per_s.and(gpu.nvlink_tx_bytes_per_s);
            sample.gpus.len() == 8 && sample.gpus.iter().all(|gpu| rates(gpu).is_some())
        })
        .await;
    let gpu = &sample.gpus[6];
    assert_eq!(
        (
            gpu.memory_busy_percent,
            gpu.performance_state,
            gpu.memory_temperature_c
        ),
        (Some(41), Some(0), Some(71))
    );
    assert_eq!(
        (gpu.power_limit_mw, gpu.fan_percent),
        (Some(700_000), Some(30))
    );
    assert_eq!(
        (gpu.pcie_replays, gpu.pcie_generation, gpu.pcie_width),
        (Some(2), Some(5), Some(16))
    );
    assert_eq!((gpu.nvlinks_up, gpu.nvlink_errors), (Some(17), Some(3)));
    assert_eq!((gpu.ecc_corrected, gpu.ecc_uncorrected), (Some(3), Some(1)));
    assert_eq!(
        (gpu.ecc_corrected_lifetime, gpu.ecc_uncorrected_lifetime),
        (Some(30), Some(10))
    );
    assert_eq!(
        (gpu.remapped_rows_corrected, gpu.remapped_rows_uncorrected),
        (Some(1), Some(2))
    );
    assert_eq!(
        (gpu.remap_pending, gpu.remap_failed, gpu.recovery_action),
        (Some(1), Some(0), Some(1))
    );
    let process = |pid, memory_bytes| GpuProcess { pid, memory_bytes };
    assert_eq!(
        gpu.processes,
        [process(4242, Some(1 << 30)), process(4300, None)]
    );
    assert!(sample.gpus[5].processes.is_empty());
    // 1 GB/s and 1,000,000 KiB/s by the scenario's ramps; the clock of a busy machine makes it more or less.
    let near = |rate: Option<u64>, wanted: f64| {
        let rate = rate.unwrap() as f64;
        assert!(
            rate > wanted * 0.3 && rate < wanted * 3.0,
            "{rate} for {wanted}"
        );
    };
    near(gpu.pcie_rx_bytes_per_s, 1e9);
    near(gpu.nvlink_tx_bytes_per_s, 1.024e9);
    near(gpu.nvlink_rx_bytes_per_s, 0.512e9);
    assert_eq!((gpu.sm_active_percent, gpu.xid_count), (None, 0));

    let driver = world.telemetry.driver().unwrap();
    let card = &driver.gpus[6];
    assert_eq!((driver.driver.as_str(), driver.cuda), ("580.82.07", 13_000));
    assert_eq!(
        (card.pci_bus_id.as_str(), card.compute_capability, card.mig),
        ("00000000:16:00.0", 90, false)
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_without_ecc_links_or_counters_gives_what_it_has_and_is_asked_slowly_for_pcie() {
    let card = "* util.gpu 99\n* fan 61\n* pcie.tx_kbps 2000\n* pcie.rx_kbps 9000\n";
    let world = World::start(card, &parts().1, PATIENCE);
    let sample = world.sample(|sample| sample.gpus.len() == 1).await;
    let gpu = &sample.gpus[0];
    assert_eq!(
        (
            gpu.fan_percent,
            gpu.pcie_tx_bytes_per_s,
            gpu.pcie_rx_bytes_per_s
        ),
        (Some(61), Some(2_000_000), Some(9_000_000))
    );
    assert_eq!(
        (gpu.nvlinks_up, gpu.nvlink_tx_bytes_per_s, gpu.ecc_corrected),
        (None, None, None)
    );
    assert_eq!((gpu.remap_pending, gpu.error), (None, 0));

    // What it does not have is not asked for again, even when it would answer now.
    world.play(&format!(
        "{card}* ecc.corrected 5\n* ecc.uncorrected 0\n* fan 62\n"
    ));
    let later = world
        .sample(|sample| sample.gpus[0].fan_percent == Some(62))
        .await;
    assert_eq!(later.gpus[0].ecc_corrected, None);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_monitor_of_hopper_tells_what_the_cores_did_and_can_be_left_alone() {
    let hopper = "* gpm 1\n* util.gpu 100\n* nvlinks 2\n* gpm.2 87.5\n* gpm.3 40\n* gpm.5 55.25\n* gpm.10 61\n\
        * gpm.20 1024\n* gpm.21 2048\n* gpm.61 10\n* gpm.60 20\n";
    let world = World::start(hopper, &parts().1, PATIENCE);
    let active = |sample: &Sample| sample.gpus.first().and_then(|gpu| gpu.sm_active_percent);
    let sample = world.sample(|sample| active(sample).is_some()).await;
    let gpu = &sample.gpus[0];
    assert_eq!(
        (gpu.sm_active_percent, gpu.sm_occupancy_percent),
        (Some(87.5), Some(40.0))
    );
    assert_eq!(
        (gpu.tensor_active_percent, gpu.dram_active_percent),
        (Some(55.25), Some(61.0))
    );
    assert_eq!(
        (gpu.pcie_tx_bytes_per_s, gpu.pcie_rx_bytes_per_s),
        (Some(1 << 30), Some(2 << 30))
    );
    assert_eq!(
        (gpu.nvlink_tx_bytes_per_s, gpu.nvlink_rx_bytes_per_s),
        (Some(10 << 20), Some(20 << 20))
    );
    world.end().await;

    let home = home(hopper, &parts().1);
    let environment = home.path().join(".spotter/container.env");
    let mut text = fs::read(&environment).unwrap();
    text.extend_from_slice(b"SPOTTER_NO_GPM=1\0");
    fs::write(&environment, text).unwrap();
    let world = World::at(home, PATIENCE);
    let utilised = |sample: &Sample| sample.gpus.first().and_then(|gpu| gpu.utilisation_percent);
    for _ in 0..3 {
        let sample = world.sample(|sample| utilised(sample) == Some(100)).await;
        assert_eq!(active(&sample), None);
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn xid_errors_are_events_with_the_right_gpu_even_when_it_is_lost() {
    let world = World::start(EIGHT_GPUS, &parts().1, PATIENCE);
    world.sample(|sample| sample.gpus.len() == 8).await;
    world.play(&format!(
        "{EIGHT_GPUS}2 xid 31 a\n5 xid 79 b\n5 err GPU_IS_LOST\n"
    ));
    let sample = world
        .sample(|sample| sample.gpus.len() == 8 && sample.gpus[5].xid_count == 1)
        .await;
    assert_eq!(
        (
            sample.gpus[5].last_xid,
            sample.gpus[2].last_xid,
            sample.gpus[0].last_xid
        ),
        (79, 31, 0)
    );
    assert!(sample.gpus[5].last_xid_us > 0);
    world
        .sample(|sample| sample.gpus[5].error == 15 && sample.gpus[5].last_xid == 79)
        .await;
    let told: Vec<_> = {
        let events = world.events.0.lock().unwrap();
        let xids = events.iter().filter(|(kind, _)| kind == "gpu.xid");
        xids.map(|(_, detail)| {
            (
                detail["gpu"].as_u64(),
                detail["xid"].as_u64(),
                detail["uuid"].clone(),
            )
        })
        .collect()
    };
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told.contains(&(
            Some(5),
            Some(79),
            "GPU-00000000-fa4e-0000-0000-000000000005".into()
        )),
        "{told:?}"
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_that_lets_nobody_hear_xids_is_read_all_the_same() {
    let deaf = format!("{EIGHT_GPUS}* err.nvmlDeviceRegisterEvents NO_PERMISSION\n0 xid 79 a\n");
    let world = World::start(&deaf, &parts().1, PATIENCE);
    let sample = world.sample(|sample| sample.gpus.len() == 8).await;
    assert_eq!((sample.gpus[0].xid_count, sample.gpus[0].error), (0, 0));
    assert_eq!(world.telemetry.gpu_problem(), "");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parts_of_a_split_gpu_are_read_where_the_whole_one_may_not_be() {
    let split = "\
0 mig 0 2
0 temp 40
0 err.nvmlDeviceGetMemoryInfo_v2 NO_PERMISSION
0 err.nvmlDeviceGetMemoryInfo NO_PERMISSION
0.0 name NVIDIA H100 80GB HBM3 MIG 1g.10gb
0.0 mem.total_mib 9856
0.0 mem.used_mib 512
0.2 uuid MIG-2
";
    let world = World::start(split, &parts().1, PATIENCE);
    let sample = world.sample(|sample| sample.gpus.len() == 1).await;
    let gpu = &sample.gpus[0];
    assert_eq!(
        (gpu.memory_used_bytes, gpu.temperature_c, gpu.error),
        (None, Some(40), 0)
    );
    assert_eq!(gpu.mig.len(), 2);
    assert_eq!(gpu.mig[0].name, "NVIDIA H100 80GB HBM3 MIG 1g.10gb");
    assert_eq!(
        (gpu.mig[0].memory_used_bytes, gpu.mig[0].memory_total_bytes),
        (Some(512 << 20), Some(9856 << 20))
    );
    assert_eq!((gpu.mig[1].index, gpu.mig[1].uuid.as_str()), (2, "MIG-2"));
    assert!(world.telemetry.driver().unwrap().gpus[0].mig);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_that_is_lost_gives_its_error_while_the_others_go_on_and_comes_back() {
    let world = World::start(EIGHT_GPUS, &parts().1, PATIENCE);
    world.sample(|sample| sample.gpus.len() == 8).await;

    world.play(&format!("{EIGHT_GPUS}5 err GPU_IS_LOST\n0 util.gpu 12\n"));
    let sample = world
        .sample(|sample| sample.gpus.get(5).is_some_and(|gpu| gpu.error != 0))
        .await;
    assert_eq!((sample.gpus[5].error, sample.gpus[5].power_mw), (15, None));
    assert_eq!(sample.gpus[4].power_mw, Some(612_000));
    world
        .sample(|sample| sample.gpus[0].utilisation_percent == Some(12))
        .await;
    let problem = world.problem(|problem| !problem.is_empty()).await;
    assert_eq!(
        problem,
        "GPU 5 cannot be read: it fell off the bus (NVML error 15)"
    );

    world.play(EIGHT_GPUS);
    world
        .sample(|sample| sample.gpus.get(5).is_some_and(|gpu| gpu.error == 0))
        .await;
    world.problem(str::is_empty).await;
    assert_eq!(world.problems(), [problem.as_str(), ""]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_hangs_is_killed_and_started_again_while_sampling_goes_on() {
    let world = World::start(EIGHT_GPUS, &parts().1, Duration::from_secs(2));
    world.sample(|sample| sample.gpus.len() == 8).await;
    let first = probes_of(world.home.path());
    assert_eq!(first.len(), 1);

    let before = world.telemetry.latest().unwrap().time_us;
    world.play(&format!(
        "{EIGHT_GPUS}2 delay.nvmlDeviceGetUtilizationRates 3600000\n"
    ));
    world
        .problem(|problem| problem.contains("was killed: the driver hangs"))
        .await;
    let held = world.telemetry.since(before).count();
    assert!(
        held >= 5,
        "the box itself was sampled {held} times while the probe hung"
    );

    world.play(EIGHT_GPUS);
    world.problem(str::is_empty).await;
    world.sample(|sample| sample.gpus.len() == 8).await;
    let second = probes_of(world.home.path());
    assert!(
        second.len() == 1 && second != first,
        "{first:?} then {second:?}"
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_is_killed_is_started_again() {
    let world = World::start(EIGHT_GPUS, &parts().1, PATIENCE);
    world.sample(|sample| sample.gpus.len() == 8).await;
    let first = probes_of(world.home.path());
    kill(Pid::from_raw(first[0]), Signal::SIGKILL).unwrap();
    let started = Instant::now();
    while !world
        .problems()
        .iter()
        .any(|problem| problem.contains("was ended by signal 9"))
    {
        assert!(started.elapsed() < PATIENCE, "{:?}", world.problems());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.problem(str::is_empty).await;
    assert_ne!(probes_of(world.home.path()), first);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nvml_refuses_is_told_in_words() {
    for (scenario, words) in [
        (
            "sys init DRIVER_NOT_LOADED\n",
            "the NVIDIA driver is not loaded, or its devices are not in the container",
        ),
        (
            "sys init LIB_RM_VERSION_MISMATCH\n",
            "the host was upgraded without a restart",
        ),
        ("sys init NO_PERMISSION\n", "the GPUs may not be opened"),
        ("sys init UNKNOWN\n", "NVML cannot be initialised"),
        ("sys count 0\n", "the NVIDIA driver works but sees no GPU"),
    ] {
        let world = World::start(scenario, &parts().1, PATIENCE);
        let problem = world.problem(|problem| !problem.is_empty()).await;
        assert!(problem.contains(words), "{scenario:?}: {problem}");
        assert_eq!(world.problems(), [problem]);
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_library_the_problem_says_so_and_the_box_is_still_sampled() {
    if Path::new("/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1").exists() {
        return skip::excuse("this machine has a real NVML");
    }
    let world = World::start("", Path::new("/nonexistent/libnvidia-ml.so.1"), PATIENCE);
    let problem = world.problem(|problem| !problem.is_empty()).await;
    assert!(
        problem.starts_with("no libnvidia-ml.so.1 can be loaded on this box (set NVML_LIB"),
        "{problem}"
    );
    assert!(
        problem.contains("/nonexistent/libnvidia-ml.so.1"),
        "{problem}"
    );
    let sample = world.sample(|sample| sample.host.is_some()).await;
    assert!(sample.gpus.is_empty() && sample.host.unwrap().memory_used_bytes > Some(0));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_no_probe_is_a_problem_not_a_crash() {
    let home = tempfile::tempdir().unwrap();
    let babbler = home.path().join("babbler");
    fs::write(
        &babbler,
        "#!/bin/sh\nprintf '\\377\\377\\377\\377\\377\\377\\377\\377\\377\\377\\377'\n",
    )
    .unwrap();
    fs::set_permissions(&babbler, fs::Permissions::from_mode(0o700)).unwrap();
    for (program, words) in [
        (
            babbler.to_str().unwrap(),
            "sent nonsense: the bytes are no frame",
        ),
        ("/bin/true", "the NVML probe ended"),
        (
            "/nonexistent/nvml-probe",
            "the NVML probe cannot be started: /nonexistent/nvml-probe",
        ),
        ("/bin/false", "ended with exit code 1"),
    ] {
        let mut config = TelemetryConfig::new(&home.path().join(".spotter"));
        config.probe.program = Some(program.into());
        let (events, stop) = (
            Arc::new(RecordedEvents::default()),
            CancellationToken::new(),
        );
        let telemetry = Telemetry::start_with(config, home.path().into(), events, stop.clone());
        let started = Instant::now();
        while !telemetry.gpu_problem().contains(words) {
            assert!(
                started.elapsed() < PATIENCE,
                "{program}: {}",
                telemetry.gpu_problem()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stop.cancel();
        telemetry.stopped().await;
    }
}

/// Stands in for `nvidia-smi`: checks how it is asked, then prints these lines at every tick.
fn script_smi(home: &Path, lines: &str) {
    let path = home.join("nvidia-smi");
    let script = format!(
        "#!/bin/sh\ncase \"$1$2$3\" in --query-gpu=index,uuid,name,*--format=csv,noheader,nounits-lms) ;; *) exit 9;; esac\n\
         while :; do\ncat <<'END'\n{lines}END\nsleep 0.1\ndone\n"
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
}

const SMI_LINES: &str = "\
0, GPU-a, NVIDIA A10, 00000000:1B:00.0, 535.161.08, 97, 41, 23028, 20000, 148.21, 150.00, 63, 1695, 6251, P0, [N/A]
1, GPU-b, NVIDIA A10, 00000000:1C:00.0, 535.161.08, [GPU is lost], [N/A], 23028, 20000, [N/A], 150.00, 63, 1695, 6251, P0, 30
";

#[tokio::test(flavor = "multi_thread")]
async fn where_no_library_is_found_nvidia_smi_is_read_instead() {
    let home = home("", Path::new("/nonexistent/libnvidia-ml.so.1"));
    if Path::new("/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1").exists() {
        return skip::excuse("this machine has a real NVML");
    }
    script_smi(home.path(), SMI_LINES);
    let world = World::at(home, PATIENCE);
    let sample = world.sample(|sample| sample.gpus.len() == 2).await;
    let gpu = &sample.gpus[0];
    assert_eq!((&*gpu.name, &*gpu.uuid), ("NVIDIA A10", "GPU-a"));
    assert_eq!(
        (gpu.utilisation_percent, gpu.power_mw, gpu.memory_used_bytes),
        (Some(97), Some(148_210), Some(20_000 << 20))
    );
    assert_eq!(sample.gpus[1].error, 15);
    world
        .problem(|problem| problem.starts_with("GPU 1 cannot be read"))
        .await;
    let told = {
        let events = world.events.0.lock().unwrap();
        let fallback = events.iter().find(|(kind, _)| kind == "gpu.fallback");
        fallback.unwrap().1.clone()
    };
    let reason = told["reason"].as_str().unwrap();
    assert!(
        reason.contains("no libnvidia-ml.so.1 can be loaded"),
        "{reason}"
    );
    assert_eq!(world.telemetry.driver().unwrap().driver, "535.161.08");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_dies_again_and_again_is_replaced_by_nvidia_smi() {
    let home = home(EIGHT_GPUS, &parts().1);
    script_smi(
        home.path(),
        SMI_LINES
            .lines()
            .next()
            .map(|line| line.to_owned() + "\n")
            .unwrap()
            .as_str(),
    );
    let world = World::with(home, PATIENCE, |config| {
        config.probe.program = Some("/bin/false".into())
    });
    let sample = world.sample(|sample| sample.gpus.len() == 1).await;
    assert_eq!(&*sample.gpus[0].uuid, "GPU-a");
    world.problem(str::is_empty).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_nvidia_smi_that_ends_soon_is_told_once_and_not_started_in_a_hurry() {
    let home = home(EIGHT_GPUS, &parts().1);
    let starts = home.path().join("starts");
    let line = SMI_LINES.lines().next().unwrap();
    let script = format!(
        "#!/bin/sh\necho x >> {}\necho '{line}'\necho '{line}'\n",
        starts.display()
    );
    let path = home.path().join("nvidia-smi");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    let world = World::with(home, PATIENCE, |config| {
        config.probe.program = Some("/bin/false".into())
    });
    world
        .problem(|problem| problem.contains("nvidia-smi ends soon after it begins"))
        .await;
    let deadline = std::time::Instant::now() + PATIENCE;
    while fs::read_to_string(&starts).unwrap().lines().count() < 3 {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let told = {
        let events = world.events.0.lock().unwrap();
        events
            .iter()
            .filter(|(kind, _)| kind == "gpu.fallback")
            .count()
    };
    assert_eq!(told, 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nvidia_smi_gives_nothing_the_problem_has_both_reasons() {
    for (script, words) in [
        (
            "#!/bin/sh\necho NVIDIA-SMI has failed: no driver\nexit 9\n",
            "; nvidia-smi: it says: NVIDIA-SMI has failed: no driver",
        ),
        ("#!/bin/sh\nexit 1\n", "; nvidia-smi: it ended"),
    ] {
        let home = home("sys init UNKNOWN\n", &parts().1);
        let path = home.path().join("nvidia-smi");
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        let world = World::at(home, PATIENCE);
        let problem = world.problem(|problem| !problem.is_empty()).await;
        assert!(
            problem.starts_with("NVML cannot be initialised") && problem.ends_with(words),
            "{problem}"
        );
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_box_without_gpus_the_history_goes_on_and_outlives_the_agent() {
    let world = World::start("sys count 0\n", &parts().1, PATIENCE);
    world.problem(|problem| !problem.is_empty()).await;
    let mut samples = world.telemetry.subscribe();
    let first = samples.recv().await.unwrap().time_us;
    while samples.recv().await.unwrap().time_us < first + 1_000_000 {}
    let last = world.telemetry.latest().unwrap().time_us;
    let held = world.telemetry.between(first - 1, last).count();
    assert!(held >= 3, "{held} samples of a second");
    let World {
        home,
        stop,
        telemetry,
        ..
    } = world;
    stop.cancel();
    telemetry.stopped().await;
    let before: Vec<Sample> = telemetry.since(0).collect();
    drop(telemetry);

    let again = World::at(home, PATIENCE);
    again.sample(|sample| sample.time_us > last).await;
    let after: Vec<Sample> = again.telemetry.since(0).collect();
    assert_eq!(after[..before.len()], before[..]);
    assert!(after.len() > before.len());
    again.end().await;
}

/// Not a test by itself: the process that the next test kills. It samples until then.
#[tokio::test(flavor = "multi_thread")]
async fn stand_in_for_an_agent() {
    let Some(home) = std::env::var_os("SPOTTER_TEST_AGENT_HOME").map(PathBuf::from) else {
        return;
    };
    let mut config = TelemetryConfig::new(&home.join(".spotter"));
    config.interval = Duration::from_millis(100);
    config.probe.program = Some(programs().join("nvml-probe"));
    let events = Arc::new(RecordedEvents::default());
    let telemetry = Telemetry::start_with(config, home.clone(), events, CancellationToken::new());
    loop {
        if telemetry
            .latest()
            .is_some_and(|sample| sample.gpus.len() == 8)
        {
            fs::write(home.join("sampling"), "").unwrap();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn the_probe_dies_with_an_agent_that_is_killed() {
    let home = home(EIGHT_GPUS, &parts().1);
    let mut agent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "stand_in_for_an_agent"])
        .env("SPOTTER_TEST_AGENT_HOME", home.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let until = |what: &str, done: &dyn Fn() -> bool| {
        let started = Instant::now();
        while !done() {
            assert!(started.elapsed() < PATIENCE, "{what} did not happen");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    until("sampling", &|| home.path().join("sampling").exists());
    assert_eq!(probes_of(home.path()).len(), 1);

    agent.kill().unwrap();
    assert_eq!(agent.wait().unwrap().signal(), Some(9));
    until("the probe's death", &|| probes_of(home.path()).is_empty());
}
