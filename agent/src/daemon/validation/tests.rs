//! What a look holds, and which limit is reached when.

use nvml_probe::Gpu;

use tokio::time::Duration;

use super::{limits::*, *};
use crate::daemon::run_file::BackupPlan;
use crate::telemetry::{GpuSample, HostSample};

#[test]
fn a_reading_holds_every_figure_that_telemetry_delivers() {
    let gpu = Gpu {
        utilisation_percent: Some(80),
        memory_busy_percent: Some(40),
        power_mw: Some(150_000),
        power_limit_mw: Some(300_000),
        pcie_tx_bytes_per_s: Some(2_000),
        pcie_rx_bytes_per_s: Some(5_000),
        throttle_reasons: Some(4),
        ..Gpu::default()
    };
    let sample = |reading: Gpu| Sample {
        time_us: 7,
        gpus: vec![GpuSample {
            reading,
            ..GpuSample::default()
        }],
        ..Sample::default()
    };
    let expected = GpuReading {
        utilisation_percent: Some(80.0),
        memory_busy_percent: Some(40.0),
        power_share: Some(0.5),
        pcie_bytes_per_s: Some(7_000.0),
        throttle_reasons: 4,
        ..GpuReading::default()
    };
    assert_eq!(reading(&sample(gpu.clone()), 9, None).gpus, [expected]);
    let failed = Gpu { error: 15, ..gpu };
    assert_eq!(reading(&sample(failed), 9, None).gpus, []);
    let waits = Sample {
        host: Some(HostSample {
            io_pressure_percent: Some(50.0),
            processes_blocked: Some(2),
            disk_read_bytes_per_s: Some(9),
            ..HostSample::default()
        }),
        ..Sample::default()
    };
    let got = reading(&waits, 9, None);
    let got = (
        got.io_pressure_percent,
        got.disk_blocked,
        got.disk_read_bytes_per_s,
    );
    assert_eq!(got, (Some(50.0), Some(true), Some(9.0)));
    // What the whole machine waits for and reads may be its neighbours'.
    let mut shared = waits;
    if let Some(host) = &mut shared.host {
        (host.pressure_of_machine, host.disks_of_machine) = (Some(true), Some(true));
    }
    let got = reading(&shared, 9, None);
    let got = (
        got.io_pressure_percent,
        got.disk_blocked,
        got.disk_read_bytes_per_s,
    );
    assert_eq!(got, (None, Some(true), None));
}

#[test]
fn the_memory_of_a_gpu_that_is_split_is_that_of_its_fullest_part() {
    let part = |used, total| nvml_probe::MigDevice {
        memory_used_bytes: Some(used),
        memory_total_bytes: Some(total),
        ..nvml_probe::MigDevice::default()
    };
    let whole = Gpu {
        memory_used_bytes: Some(12),
        memory_total_bytes: Some(80),
        ..Gpu::default()
    };
    let split = |mig| Gpu {
        mig,
        ..whole.clone()
    };
    for (gpu, expected) in [
        (whole.clone(), (Some(12), Some(80))),
        (
            split(vec![part(9, 40), part(9, 10), part(0, 5)]),
            (Some(9), Some(10)),
        ),
        (
            Gpu {
                memory_used_bytes: None,
                ..split(vec![part(3, 10)])
            },
            (Some(3), Some(10)),
        ),
        // Its parts tell nothing.
        (
            split(vec![nvml_probe::MigDevice::default()]),
            (Some(12), Some(80)),
        ),
    ] {
        let sample = Sample {
            gpus: vec![GpuSample {
                reading: gpu,
                ..GpuSample::default()
            }],
            ..Sample::default()
        };
        let got = reading(&sample, 9, None).gpus[0];
        assert_eq!((got.memory_used_bytes, got.memory_total_bytes), expected);
    }
}

#[test]
fn limits_are_held_on_time_and_on_steps_and_only_where_they_are_set() {
    let run = |max_runtime_s, no_progress_s| RunFile {
        max_runtime_s,
        no_progress_s,
        ..RunFile::for_tests()
    };
    let second = Duration::from_secs(1);
    // The mark of what was printed last, and the step of it.
    for (run, trained_s, still_s, printed, expected) in [
        (run(0, 0), u64::MAX, 1_000_000, Some(None), None),
        (run(100, 0), 99, 99, None, None),
        (run(100, 0), 100, 0, Some(Some(5)), Some(By::MaxRuntime)),
        (run(0, 60), 1_000, 59, Some(Some(5)), None),
        (run(0, 60), 1_000, 60, Some(Some(5)), Some(By::NoProgress)),
        (run(0, 60), 1_000, 60, Some(None), Some(By::NoProgress)),
        // Nothing was ever read in its log.
        (run(0, 60), 60, 1_000, None, None),
    ] {
        let stands = printed.filter(|_| stands_still(&run, second * still_s));
        let got = reached(&run, trained_s, stands);
        assert_eq!(got.as_ref().map(|(by, _)| *by), expected, "{got:?}");
    }
    let paid_until = |budget_until_us| RunFile {
        budget_until_us,
        ..RunFile::for_tests()
    };
    for (until_us, now_us, over) in [(0, u64::MAX, false), (7, 6, false), (7, 7, true)] {
        let got = broke(&paid_until(until_us), now_us);
        assert_eq!(got.map(|(by, _)| by), over.then_some(By::Budget));
    }
    let plan = |stop_when_behind, every_s| RunFile {
        backup: Some(BackupPlan {
            stop_when_behind,
            ..BackupPlan::for_tests(every_s)
        }),
        ..RunFile::for_tests()
    };
    for (run, behind_s, expected) in [
        (run(0, 0), 1_000_000, false),
        (plan(false, 600), 1_000_000, false),
        (plan(true, 600), 629, false),
        (plan(true, 600), 630, true),
        (plan(true, 5), 9, false),
        (plan(true, 5), 10, true),
    ] {
        let got = too_long_behind(&run, second * behind_s, "access denied");
        assert_eq!(got.is_some(), expected, "{behind_s} s: {got:?}");
        if let Some((by, reason)) = got {
            assert_eq!(by, By::Backup);
            assert!(
                reason.ends_with("got to the bucket: access denied"),
                "{reason}"
            );
        }
    }
    // One that never came so far as to be read: it must do nothing else either.
    for (run, idle_s, expected) in [
        (run(0, 60), 59, None),
        (run(0, 60), 60, Some(By::NoProgress)),
        (run(0, 0), 1_000_000, None),
    ] {
        let got = dead(&run, second * idle_s);
        assert_eq!(got.map(|(by, _)| by), expected, "{idle_s}");
    }
    let (_, words) = reached(&run(0, 60), 60, Some(Some(7))).unwrap();
    assert!(words.ends_with("it stands at step 7"), "{words}");
    let words = unread(&run(0, 60))["reason"].to_string();
    assert!(words.contains("say how with `progress`"), "{words}");
}

#[test]
fn what_prints_computes_fetches_or_reads_does_something_and_what_cannot_be_seen_may() {
    let look = |log_bytes, received: u64, used: &[Option<f64>]| {
        Seen::of(&Reading {
            time_us: 1_000_000,
            log_bytes,
            network_rx_bytes: Some(received),
            gpus: (used.iter())
                .map(|used| GpuReading {
                    utilisation_percent: *used,
                    ..GpuReading::default()
                })
                .collect(),
            ..Reading::default()
        })
    };
    let idle: &[Option<f64>] = &[Some(0.0), Some(4.0)];
    // A second of nothing, but for some hundred bytes of the network.
    let then = Seen::of(&Reading {
        network_rx_bytes: Some(0),
        log_bytes: 7,
        ..Reading::default()
    });
    for (name, now, expected) in [
        ("nothing", (7, 300, idle), false),
        ("prints", (8, 300, idle), true),
        ("computes", (7, 300, &[Some(0.0), Some(60.0)][..]), true),
        (
            "a GPU that cannot be read",
            (7, 300, &[Some(0.0), None][..]),
            true,
        ),
        ("no GPU at all", (7, 300, &[][..]), true),
        ("fetches", (7, 9_000_000, idle), true),
    ] {
        let (log_bytes, received, gpus) = now;
        let does_more = look(log_bytes, received, gpus).does_more(then);
        assert_eq!(does_more, expected, "{name}");
    }
    // Before its first step a training may prepare its data for an hour, on CPUs and from a disk.
    for (name, cpu_cores, disk_read_bytes_per_s, expected) in [
        ("nobody knows", None, None, false),
        ("waits", Some(0.7), Some(900_000.0), false),
        ("tokenises", Some(0.8), None, true),
        ("reads", Some(0.1), Some(1_000_000.0), true),
    ] {
        let now = Seen::of(&Reading {
            time_us: 1_000_000,
            log_bytes: 7,
            network_rx_bytes: Some(300),
            gpus: vec![GpuReading {
                utilisation_percent: Some(0.0),
                ..GpuReading::default()
            }],
            cpu_cores,
            disk_read_bytes_per_s,
            ..Reading::default()
        });
        assert_eq!(now.does_more(then), expected, "{name}");
    }
}
