//! What a person at a terminal sees while a box comes up, which takes minutes on the market: that something goes on, and for how
//! long it does.

use std::process::{Command, Stdio};

use crate::world::{Training, World, on_both_tiers};

on_both_tiers! {
    whoever_waits_for_a_box_sees_a_clock_run: clock;
}

fn clock(world: &World) {
    world.training(&Training::interruptible("seen", 600));
    world.ctl(&["faults", r#"{"ports_delay_s": 3}"#]);
    let spotter = world.spotter(&["run", "seen.yaml", "--detach"]);
    let words: Vec<&str> = std::iter::once(spotter.get_program())
        .chain(spotter.get_args())
        .map(|word| word.to_str().unwrap())
        .collect();
    // A terminal of its own, as wide as most are.
    let output = Command::new("script")
        .args(["-qefc", &words.join(" "), "/dev/null"])
        .env_clear()
        .envs(
            spotter
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .env("TERM", "xterm-256color")
        .env("COLUMNS", "120")
        .current_dir(spotter.get_current_dir().unwrap())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let screen = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{screen}");
    // Drawn over and over on one line, with the seconds that it took so far.
    let drawn = |second: u32| {
        screen.split(['\r', '\n']).any(|line| {
            line.contains("[seen] Instance")
                && line.contains("is being prepared by its host")
                && line.contains(&format!(" {second}s"))
        })
    };
    assert!(drawn(1) && drawn(2), "{screen:?}");
    // A terminal shows no tenths in lines of their own.
    assert!(!screen.contains("10 % ("), "{screen:?}");
    world.ok(&["destroy", "--lose-data", "seen"]);
    world.assert_nothing_rented();
}
