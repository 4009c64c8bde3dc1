//! (p) A disk that fills with checkpoints: it is told before, and what it ended is told after.

use std::{path::Path, process::Command};

use nix::sys::statvfs::statvfs;
use regex::Regex;

use crate::{
    refusals::plain,
    world::{Tier, Training, World, on},
};

/// Only here a disk has a size.
#[test]
fn a_disk_that_fills_is_told_before_it_ends_the_training_and_after() {
    on(Tier::Two, fills);
}

/// Checkpoints of four megabytes, as many as go.
const GREEDY: &str = r#"
mkdir -p "$SPOTTER_CHECKPOINT_DIR" out
step=0
while true; do
  step=$((step + 1))
  echo "step $step/1000 | loss 2.5"
  sleep 2
  head -c 4000000 /dev/urandom > "$SPOTTER_CHECKPOINT_DIR/.new" || exit 1
  mv "$SPOTTER_CHECKPOINT_DIR/.new" "$SPOTTER_CHECKPOINT_DIR/step-$step.bin"
done
"#;

/// What is free when the training has begun, bytes.
const FREE: u64 = 22 << 20;

fn fills(world: &World) {
    let mut training = Training::interruptible("greedy", 1000);
    training.command = Some("bash greedy.sh");
    world.training(&training);
    world.write("greedy.sh", GREEDY);
    let yaml = std::fs::read_to_string(world.work().join("greedy.yaml")).unwrap();
    let changed = yaml.replace("keep: {last: 3}", "keep: {last: 20}");
    assert_ne!(changed, yaml);
    world.write("greedy.yaml", &changed);
    let mut run = world.background(&["run", "greedy.yaml"]);
    let instance = world.until_step("greedy", 1, 1);
    let home = world.home(instance);
    shrink(home.parent().unwrap());

    world.until("the warning", || {
        run.text().contains("Careful: the box's disk").then_some(())
    });
    let status = world.say(&["status", "--recorded", "greedy"]);
    assert!(status.stderr.contains("the box's disk"), "{}", status.out);
    assert_eq!(run.wait(), 10, "{}", run.text());
    let said = run.text();
    let is_told = |line: &&str| {
        line.contains("the box's disk")
            || ["error:", "cause:", "money:", "hint:"]
                .iter()
                .any(|begin| line.starts_with(begin))
    };
    let told: Vec<&str> = said.lines().filter(is_told).collect();
    check(world, &told.join("\n"));
    // What was whole is in the bucket, and restores.
    world.ok(&["checkpoints", "verify", "greedy"]);
    world.ok(&["destroy", "--lose-data", "greedy"]);
    world.assert_nothing_rented();
}

/// Leaves so much room on the disk of a box.
fn shrink(disk: &Path) {
    let stat = statvfs(disk).unwrap();
    let used = (stat.blocks() - stat.blocks_free()) * stat.fragment_size();
    let size = format!("remount,size={}k", (used + FREE) >> 10);
    let mounted = Command::new("mount")
        .args(["-o", &size])
        .arg(disk)
        .output()
        .unwrap();
    assert!(
        mounted.status.success(),
        "{}",
        String::from_utf8_lossy(&mounted.stderr)
    );
}

#[track_caller]
fn check(world: &World, text: &str) {
    let one = |text: &str, pattern: &str, by: &str| {
        Regex::new(pattern)
            .unwrap()
            .replace_all(text, by)
            .into_owned()
    };
    let text = plain(world, text);
    let text = one(&text, r"\d+\.\d [KMG]iB", "[size]");
    let text = one(
        &text,
        r"room for (one|\d+) more checkpoints?",
        "room for [n] more",
    );
    // Only who has seen two checkpoints knows how fast they come.
    let text = one(
        &text,
        r" and is full in about \d+ (min|h), which ends the training",
        "",
    );
    let text = one(&text, r"line \d+", "line [n]");
    let text = one(&text, r"space left on /\S* ", "space left on [mount] ");
    // One for each checkpoint that comes; the first is enough.
    let mut warned = false;
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.contains("Careful") || !std::mem::replace(&mut warned, true))
        .collect();
    insta::with_settings!({
        snapshot_path => Path::new("disk"),
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        insta::assert_snapshot!("full", lines.join("\n"));
    });
}
