//! What outlives the agent, and what must not.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use spotter_agent::events::RecordedEvents;
use spotter_agent::telemetry::{Sample, Telemetry, TelemetryConfig};
use tokio_util::sync::CancellationToken;

use crate::world::{EIGHT_GPUS, PATIENCE, World, home, parts, probes_of, programs};

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
        .args(["--exact", "living::stand_in_for_an_agent"])
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
