//! (d) Agent and probe killed, (e) link cut: the training does not notice and no byte is lost or repeated.

use std::{fs, path::Path, thread, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::world::{Training, World, on_both_tiers};

on_both_tiers! {
    a_killed_agent_comes_back_by_itself_and_no_log_byte_is_lost: killed_agent;
    a_link_that_is_cut_for_25_seconds_is_mended_and_nothing_restarts: cut_link;
}

fn killed_agent(world: &World) {
    let mut training = Training::interruptible("alone", 300);
    training.on_done = "stop";
    world.training(&training);
    world.ok(&["run", "alone.yaml", "--detach"]);
    let instance = world.until(
        "the training's first steps, and a reading of its GPU",
        || {
            let status = live(world, "alone");
            let step = status["agent"]["training"]["step"].as_u64()?;
            let sampled = read_gpu_at_us(&status).is_some();
            (step >= 5 && sampled).then(|| status["attempts"][0]["instance"].as_u64().unwrap())
        },
    );
    let spotter = world.home(instance).join(".spotter");
    let before = live(world, "alone");

    // Nobody is connected now. The daemon and its probe die, the probe first: it would end with the daemon anyway.
    let daemons = daemons(&spotter);
    assert_eq!(daemons.len(), 1, "daemons of {}", spotter.display());
    let probe = probe_of(daemons[0]).expect("the daemon has a probe");
    for pid in [probe, daemons[0]] {
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }
    let (daemon, new_probe) = world.until("a new daemon with a new probe", || {
        let now = self::daemons(&spotter);
        let daemon = *now.iter().find(|pid| !daemons.contains(pid))?;
        Some((daemon, probe_of(daemon)?))
    });
    assert_ne!(daemon, daemons[0]);
    assert_ne!(new_probe, probe);
    let after = world.until("a reading of the GPU by the new probe", || {
        let status = live(world, "alone");
        let started_us = status["agent"]["started_us"].as_u64()?;
        (read_gpu_at_us(&status)? > started_us).then_some(status)
    });
    assert!(
        after["agent"]["started_us"].as_u64() > before["agent"]["started_us"].as_u64(),
        "{after}"
    );
    assert_same_training(&before, &after);

    assert_eq!(world.ok(&["wait", "alone"]).code, 0);
    let status = world.status("alone");
    assert_eq!(status["outcome"], "done");
    assert_eq!(status["attempts"].as_array().unwrap().len(), 1);
    assert_log_is_the_box_s(world, "alone", &spotter, 300);
    world.ok(&["destroy", "alone"]);
    world.assert_nothing_rented();
}

/// `status` with what the agent says.
fn live(world: &World, run: &str) -> Value {
    serde_json::from_str(&world.ok(&["status", "--json", run]).stdout).unwrap()
}

/// When a GPU was read last.
fn read_gpu_at_us(status: &Value) -> Option<u64> {
    let sample = &status["agent"]["sample"];
    let gpus = sample["gpus"].as_array()?;
    (!gpus.is_empty()).then(|| sample["time_us"].as_u64())?
}

/// Numbers of the agent's events that are on record, in their order.
fn agent_events(world: &World, run: &str) -> Vec<u64> {
    let said = world.ok(&["events", run, "--json"]);
    let printed: Value = serde_json::from_str(&said.stdout).unwrap();
    let events = printed["events"].as_array().unwrap();
    let mut of_agent: Vec<u64> = events
        .iter()
        .filter(|event| event["origin"] == "agent")
        .map(|event| event["seq"].as_u64().unwrap())
        .collect();
    of_agent.sort_unstable();
    of_agent
}

/// Its process, and when that started: the same before and after.
#[track_caller]
fn assert_same_training(before: &Value, after: &Value) {
    let session = |status: &Value| {
        let sessions = status["agent"]["sessions"].as_array().unwrap();
        let train = sessions.iter().find(|session| session["name"] == "train");
        let train = train.expect("the training has a session").clone();
        assert_eq!(train["state"], "running", "{train}");
        (train["pid"].as_u64().unwrap(), train["started_us"].clone())
    };
    assert!(session(before).0 > 1);
    assert_eq!(session(before), session(after));
}

/// The same bytes on both sides, and each step printed once.
fn assert_log_is_the_box_s(world: &World, run: &str, spotter: &Path, steps: u64) {
    let copy = fs::read(world.spotter_home().join(format!("logs/{run}/1-train.log"))).unwrap();
    let original = fs::read(spotter.join("sessions/train/log")).unwrap();
    assert_eq!(blake3::hash(&copy), blake3::hash(&original));
    let log = String::from_utf8(copy).unwrap();
    for step in 1..=steps {
        assert_eq!(
            log.matches(&format!("step {step}/{steps} ")).count(),
            1,
            "step {step}"
        );
    }
}

/// Daemons of one box, by their command line, as this machine sees them.
pub fn daemons(spotter: &Path) -> Vec<i32> {
    let lock = fs::metadata(spotter.join("daemon.lock"));
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let daemon = line.contains(" daemon") && line.contains(".spotter/bin/agent");
        // The daemon of this box holds this box's lock file open.
        let ours = daemon
            && lock.as_ref().is_ok_and(|lock| {
                let fds = fs::read_dir(entry.path().join("fd"));
                fds.into_iter().flatten().flatten().any(|fd| {
                    use std::os::unix::fs::MetadataExt;
                    fs::metadata(fd.path())
                        .is_ok_and(|open| open.ino() == lock.ino() && open.dev() == lock.dev())
                })
            });
        if ours {
            found.push(pid);
        }
    }
    found
}

/// The probe that a daemon started: its child of that name.
fn probe_of(daemon: i32) -> Option<i32> {
    fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // `pid (name) state parent ...`
        let (head, tail) = stat.rsplit_once(')')?;
        let parent: i32 = tail.split_whitespace().nth(1)?.parse().ok()?;
        (parent == daemon && head.ends_with("(nvml-probe")).then_some(pid)
    })
}

fn cut_link(world: &World) {
    let mut training = Training::interruptible("cut", 450);
    training.on_done = "stop";
    world.training(&training);
    let mut watcher = world.background(&["run", "cut.yaml"]);
    let instance = world.until_step("cut", 1, 10);
    let spotter = world.home(instance).join(".spotter");
    let before = live(world, "cut");
    let known = agent_events(world, "cut");

    world.ctl(&["link", &instance.to_string(), "drop"]);
    thread::sleep(Duration::from_secs(25));
    world.ctl(&["link", &instance.to_string(), "heal"]);

    // As it was: the same daemon, the same training.
    let after = world.until("an answer of the agent", || {
        let status = live(world, "cut");
        status["agent"].is_object().then_some(status)
    });
    assert_eq!(
        before["agent"]["started_us"], after["agent"]["started_us"],
        "the daemon went on"
    );
    assert_eq!(before["agent"]["boot"], after["agent"]["boot"]);
    assert_same_training(&before, &after);

    assert_eq!(watcher.wait(), 0, "{}", watcher.text());
    let said = watcher.text();
    assert!(
        said.contains("No word from the box"),
        "the break was noticed:\n{said}"
    );
    assert!(said.contains("Connected again"), "{said}");
    let status = world.status("cut");
    assert_eq!(status["attempts"].as_array().unwrap().len(), 1, "{status}");
    assert_log_is_the_box_s(world, "cut", &spotter, 450);
    // The agent's own numbers: every event came, and none twice.
    let events = agent_events(world, "cut");
    let all: Vec<u64> = (1..=events.len() as u64).collect();
    assert_eq!(events, all);
    assert!(known.len() < events.len() && events.starts_with(&known));
    world.ok(&["destroy", "cut"]);
    world.assert_nothing_rented();
}
