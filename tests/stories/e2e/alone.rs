//! (p) A box that is taken away and given back while nobody watches goes on with its training by itself; whoever comes back finds one
//! training, one box and one log.

use std::{collections::BTreeSet, fs};

use serde_json::Value;

use crate::{
    json::{INTERRUPTION, assert_has},
    world::{Tier, Training, World, on, on_both_tiers},
};

const STEPS: u64 = 200;

/// The box's kernel is no matter here.
#[test]
fn a_box_that_comes_back_while_nobody_watches_goes_on_with_its_training() {
    on(Tier::One, goes_on);
}

#[test]
fn a_box_that_comes_back_and_lacks_a_secret_says_so_and_waits() {
    on(Tier::One, waits);
}

on_both_tiers! {
    uploads_of_a_box_that_keeps_its_keys_go_on_while_nobody_watches: goes_on_uploading;
}

fn goes_on(world: &World) {
    world.training(&Training::interruptible("alone", STEPS));
    let mut watcher = world.background(&["run", "alone.yaml"]);
    let instance = world.until_step("alone", 1, 40);
    watcher.kill();

    world.ctl(&["outbid", &instance.to_string()]);
    let train = world.home(instance).join(".spotter/sessions/train");
    world.until("the training's end", || {
        train.join("end.json").exists().then_some(())
    });
    world.ctl(&["tenant-leaves", &instance.to_string()]);

    let log = train.join("log");
    let resumed = world.until("the training to go on by itself", || {
        let text = fs::read_to_string(&log).ok()?;
        let (_, rest) = text.split_once("resumed from step ")?;
        // It trains beyond where it was.
        rest.contains("\nstep ").then_some(())?;
        rest.split_whitespace().next()?.parse::<u64>().ok()
    });
    assert!(resumed >= 30 && resumed.is_multiple_of(10), "{resumed}");

    let mut up = world.background(&["up", "alone"]);
    assert_eq!(up.wait(), 0, "{}", up.text());
    let said = up.text();
    assert!(
        said.contains("its box was restarted and went on with the training by itself from step "),
        "{said}"
    );
    assert!(said.contains("uploads waited for bucket keys"), "{said}");
    let status = world.status("alone");
    assert_eq!(status["outcome"], "done", "{status}");
    let attempts = status["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 1, "{status}");
    assert_eq!(attempts[0]["instance"], instance, "{status}");
    assert_eq!(attempts[0]["from_step"], resumed, "{status}");
    let interruptions = status["interruptions"].as_array().unwrap();
    assert_eq!(interruptions.len(), 1, "{status}");
    assert_has(&interruptions[0], INTERRUPTION);
    assert_eq!(interruptions[0]["resumed_by"], 1, "{status}");
    assert_eq!(interruptions[0]["resumed_step"], resumed, "{status}");
    let rented = world.ctl(&["state"])["instances"].as_array().unwrap().len();
    assert_eq!(rented, 1, "nothing was rented in its place");

    // One log, with the very lines of a training that nobody interrupted.
    let log = world.spotter_home().join("logs/alone/1-train.log");
    let log = fs::read_to_string(log).unwrap();
    let line = |step: u64| {
        let loss = 1000 - step;
        format!("step {step}/{STEPS} | loss {loss}.5 | lr 1.00e-03 | 100.0 ms/step | 1,000 tok/s")
    };
    let expected: BTreeSet<String> = (1..=STEPS).map(line).collect();
    let printed: BTreeSet<String> = log
        .lines()
        .map(|line| line.trim_end().to_owned())
        .filter(|line| line.starts_with("step "))
        .filter(|line| line.ends_with("tok/s"))
        .collect();
    assert_eq!(printed, expected);
    assert_eq!(log.matches("resumed from step").count(), 1, "started once");
    let listed = world.ok(&["checkpoints", "alone"]);
    assert!(listed.stdout.contains("step-200.txt"), "{}", listed.out);
    world.ok(&["checkpoints", "verify", "alone"]);
    world.assert_nothing_rented();
}

/// Steps in the bucket, newest first, read as anybody may who has keys for it.
pub fn committed(world: &World, run: &str) -> Vec<u64> {
    let said = world.ok(&["checkpoints", run, "--json"]);
    let rows: Vec<Value> = serde_json::from_str(&said.stdout).unwrap();
    rows.iter().filter_map(|row| row["step"].as_u64()).collect()
}

pub fn goes_on_uploading(world: &World) {
    world.training(&Training::interruptible("kept", STEPS));
    let yaml = fs::read_to_string(world.work().join("kept.yaml")).unwrap();
    let changed = yaml.replace("  every: 1m\n", "  every: 1m\n  persist: true\n");
    assert_ne!(changed, yaml);
    world.write("kept.yaml", &changed);
    let mut watcher = world.background(&["run", "kept.yaml"]);
    let instance = world.until_step("kept", 1, 30);
    world.until("a checkpoint in the bucket", || {
        (!committed(world, "kept").is_empty()).then_some(())
    });
    watcher.kill();

    world.ctl(&["outbid", &instance.to_string()]);
    let train = world.home(instance).join(".spotter/sessions/train");
    let old = world.until("the training's end", || {
        let ended = train.join("end.json").exists();
        ended.then(|| fs::read_to_string(train.join("log")).unwrap())
    });
    let before = committed(world, "kept");
    world.ctl(&["tenant-leaves", &instance.to_string()]);

    // Nobody has asked this box for anything since, or brought it keys.
    let reached = old
        .lines()
        .filter_map(|line| line.strip_prefix("step ")?.split_once('/')?.0.parse().ok())
        .max();
    let reached: u64 = reached.expect("it printed steps");
    let after = world.until("a checkpoint beyond where it was", || {
        let now = committed(world, "kept");
        now.iter().any(|step| *step > reached).then_some(now)
    });
    assert!(after[0] > before[0], "{before:?} {after:?}");

    let mut up = world.background(&["up", "kept"]);
    assert_eq!(up.wait(), 0, "{}", up.text());
    let said = up.text();
    assert!(
        said.contains("its box was restarted and went on with the training by itself from step "),
        "{said}"
    );
    assert!(!said.contains("uploads waited for bucket keys"), "{said}");
    let status = world.status("kept");
    assert_eq!(status["outcome"], "done", "{status}");
    let attempts = status["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 1, "{status}");
    assert_eq!(committed(world, "kept")[0], STEPS);
    world.ok(&["checkpoints", "verify", "kept"]);
    world.assert_nothing_rented();
}

fn waits(world: &World) {
    world.training(&Training::interruptible("secret", STEPS));
    let name = "secret.yaml";
    let yaml = fs::read_to_string(world.work().join(name)).unwrap();
    world.write(name, &format!("{yaml}envs: {{HF_TOKEN: null}}\n"));
    let log = world.dir().join("laptop/run.log");
    let out = fs::File::create(&log).unwrap();
    let mut run = world.spotter(&["run", name]);
    run.env("HF_TOKEN", "hf_only_in_memory");
    run.stdout(out.try_clone().unwrap()).stderr(out);
    let mut watcher = run.spawn().unwrap();
    let instance = world.until_step("secret", 1, 20);
    watcher.kill().unwrap();
    watcher.wait().unwrap();

    world.ctl(&["outbid", &instance.to_string()]);
    let home = world.home(instance).join(".spotter");
    world.until("the training's end", || {
        home.join("sessions/train/end.json").exists().then_some(())
    });
    world.ctl(&["tenant-leaves", &instance.to_string()]);
    let said = world.until("the box to say why it waits", || {
        let said = world.say(&["status", "secret"]);
        let waits = said
            .out
            .contains("did not start the training again by itself: ");
        waits.then_some(said)
    });
    assert!(
        said.out.contains("it needs HF_TOKEN, which no box keeps"),
        "{}",
        said.out
    );
    let events = world.ok(&["events", "secret"]);
    assert!(
        events.stdout.contains("training.not_restarted"),
        "{}",
        events.out
    );
    world.ok(&["destroy", "--lose-data", "secret"]);
    world.assert_nothing_rented();
}
