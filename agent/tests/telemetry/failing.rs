//! Drivers and probes that fail: every failure is told, and sampling goes on.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use spotter_agent::events::RecordedEvents;
use spotter_agent::telemetry::{Telemetry, TelemetryConfig};
use tokio_util::sync::CancellationToken;

use crate::skip;
use crate::world::{EIGHT_GPUS, PATIENCE, World, parts, probes_of};

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
