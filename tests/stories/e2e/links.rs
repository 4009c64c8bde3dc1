//! (d) Agent and probe killed, (e) link cut: the training does not notice and no byte is lost or repeated.

use std::{fs, thread, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

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
    let instance = world.until("the training's first steps", || {
        let status = world.ok(&["status", "--json", "alone"]).stdout;
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let step = status["agent"]["training"]["step"].as_u64()?;
        (step >= 5).then(|| status["attempts"][0]["instance"].as_u64().unwrap())
    });
    let spotter = world.home(instance).join(".spotter");

    // Nobody is connected now. The daemon and its probe die.
    let before = processes(&spotter);
    assert!(
        !before.is_empty(),
        "the daemon of {} was not found",
        spotter.display()
    );
    for pid in &before {
        let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
    }
    world.until("a new daemon", || {
        let now = processes(&spotter);
        (!now.is_empty() && now.iter().all(|pid| !before.contains(pid))).then_some(())
    });

    assert_eq!(world.ok(&["wait", "alone"]).code, 0);
    let status = world.status("alone");
    assert_eq!(status["outcome"], "done");
    assert_eq!(status["attempts"].as_array().unwrap().len(), 1);
    // The same bytes on both sides, and each step printed once.
    let copy = fs::read(world.spotter_home().join("logs/alone/1-train.log")).unwrap();
    let original = fs::read(spotter.join("sessions/train/log")).unwrap();
    assert_eq!(blake3::hash(&copy), blake3::hash(&original));
    let log = String::from_utf8(copy).unwrap();
    for step in 1..=300 {
        assert_eq!(
            log.matches(&format!("step {step}/300 ")).count(),
            1,
            "step {step}"
        );
    }
    world.ok(&["destroy", "alone"]);
    world.assert_nothing_rented();
}

/// Daemons and probes of one box, by their command line, as this machine sees them.
fn processes(spotter: &std::path::Path) -> Vec<i32> {
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

fn cut_link(world: &World) {
    world.training(&Training::interruptible("cut", 450));
    let mut watcher = world.background(&["run", "cut.yaml"]);
    let instance = world.until_step("cut", 1, 10);

    world.ctl(&["link", &instance.to_string(), "drop"]);
    thread::sleep(Duration::from_secs(25));
    world.ctl(&["link", &instance.to_string(), "heal"]);

    assert_eq!(watcher.wait(), 0, "{}", watcher.text());
    let said = watcher.text();
    assert!(
        said.contains("No word from the box"),
        "the break was noticed:\n{said}"
    );
    assert!(said.contains("Connected again"), "{said}");
    let status = world.status("cut");
    assert_eq!(status["attempts"].as_array().unwrap().len(), 1, "{status}");
    let log = fs::read_to_string(world.spotter_home().join("logs/cut/1-train.log")).unwrap();
    for step in 1..=450 {
        assert_eq!(
            log.matches(&format!("step {step}/450 ")).count(),
            1,
            "step {step}"
        );
    }
}
