//! A box whose training is over and for which nobody comes stops itself; what it left says that it was not taken back.

use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    links,
    world::{Tier, Training, World, on, on_both_tiers},
};

on_both_tiers! {
    a_training_that_ended_while_nobody_looked_is_collected_and_not_trained_again: ended_well;
    a_crash_that_nobody_saw_is_told_and_its_disk_kept: crashed;
    a_box_whose_agent_is_killed_after_the_training_stops_itself_all_the_same: unguarded;
}

/// What is taken with a machine is the market's matter, too.
#[test]
fn results_of_a_training_that_ended_while_nobody_looked_outlive_the_disk_of_its_box() {
    on(Tier::One, disk_taken);
}

fn disk_taken(world: &World) {
    let mut training = Training::interruptible("taken", 15);
    training.bring_up = "30s";
    training.on_done = "stop";
    left_alone(world, &training);
    let instance = world.alive()[0]["id"].as_u64().unwrap();
    let (market, key) = world.market();
    let deleted = world.program(
        "curl",
        &[
            "-sS",
            "--fail",
            "-X",
            "DELETE",
            "-H",
            &format!("Authorization: Bearer {key}"),
            "-H",
            "Content-Type: application/json",
            "-d",
            "{}",
            &format!("{market}/api/v0/instances/{instance}/"),
        ],
    );
    let deleted = { deleted }.output().unwrap();
    assert!(deleted.status.success(), "{deleted:?}");
    world.until("the disk to be gone", || {
        world.alive().is_empty().then_some(())
    });

    let said = world.ok(&["wait", "taken"]);
    assert!(said.stderr.contains("from the bucket"), "{}", said.out);
    let status = world.status("taken");
    assert_eq!(status["outcome"], "done", "{status}");
    assert_eq!(rented(world), 1, "nothing was rented in its place");
    let final_file = world.work().join("results-taken/out/final.txt");
    assert_eq!(fs::read_to_string(&final_file).unwrap(), "final 15\n");
    // And whoever lost them here has them again.
    fs::remove_file(&final_file).unwrap();
    world.ok(&["fetch", "taken"]);
    assert_eq!(fs::read_to_string(&final_file).unwrap(), "final 15\n");
    world.assert_nothing_rented();
}

/// Money is the market's matter, whatever boxes are made of.
#[test]
fn a_box_whose_money_is_over_stops_itself_within_the_budget_while_nobody_looks() {
    on(Tier::One, broke);
}

/// What the budget pays for at the price of the box, seconds: about a quarter is held back for its disk, a tenth is for its end.
const PAID_S: f64 = 170.0;

fn broke(world: &World) {
    let mut training = Training::interruptible("broke", 100_000);
    training.on_done = "stop";
    world.training(&training);
    let planned = world.say(&["plan", "broke.yaml", "--json"]);
    let plan: Value = serde_json::from_str(&planned.stdout).unwrap();
    let usd_per_hour = plan["offers"][0]["running_usd_per_hour"].as_f64();
    let budget = usd_per_hour.expect("an offer") * PAID_S / 3600.0;
    let file = fs::read_to_string(world.work().join("broke.yaml")).unwrap();
    // Half an hour of its disk is a quarter of so small a budget.
    let limits = format!("limits: {{budget: {budget:.6}, storage_days: 0.0227, ");
    let changed = file.replace("limits: {", &limits);
    assert_ne!(changed, file);
    world.write("broke.yaml", &changed);
    world.ok(&["run", "broke.yaml", "--detach"]);

    let instance = world.alive()[0]["id"].as_u64().unwrap();
    let kept = fs::read(world.home(instance).join(".spotter/run.json")).unwrap();
    let kept: Value = serde_json::from_slice(&kept).unwrap();
    let until_ms = kept["budget_until_us"].as_u64().unwrap() / 1000;
    let now_ms = || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        u64::try_from(now.as_millis()).unwrap()
    };
    world.until("the end of the money", || {
        (now_ms() >= until_ms).then_some(())
    });
    world.until("the box to stop itself", || {
        (world.alive()[0]["cur_state"] == "stopped").then_some(())
    });
    let stopped_ms = now_ms();
    assert!(stopped_ms >= until_ms, "not before its time");
    let bill = world.bill(instance);
    let total = bill["total_usd"].as_f64().unwrap();
    assert!(total <= budget, "{total} of {budget}: {bill}");
    let gpu = bill["intervals"].as_array().unwrap().iter();
    let charged = |interval: &&Value| interval["gpu_usd_per_hour"].as_f64() > Some(0.0);
    assert!(
        { gpu }
            .filter(charged)
            .all(|interval| !interval["end_ms"].is_null()),
        "no GPU is charged any more: {bill}"
    );

    // Whoever comes back is told why, and how it goes on.
    let said = world.say(&["wait", "broke"]);
    assert_eq!(said.code, 15, "{}", said.out);
    assert!(
        said.stderr.contains("`limits.budget` is used up"),
        "{}",
        said.out
    );
    assert!(
        said.stderr.contains("`spotter resume broke --budget "),
        "{}",
        said.out
    );
    let status = world.status("broke");
    assert_eq!(status["outcome"], "limit", "{status}");
    assert_eq!(rented(world), 1, "nothing was rented in its place");
    // And what happened meanwhile, though the box cannot be asked any more.
    let events = world.ok(&["events", "broke", "--json"]);
    let told = |kind: &str| events.stdout.contains(&format!("\"{kind}\""));
    assert!(told("training.ending"), "{}", events.out);
    assert!(told("checkpoint.committed"), "{}", events.out);
    let again = world.say(&["resume", "broke", "--detach"]);
    assert_eq!(again.code, 2, "{}", again.out);
    world.ok(&["destroy", "--lose-data", "broke"]);
    world.assert_nothing_rented();
}

/// Starts a run, leaves it alone, and waits until its box has stopped itself.
fn left_alone(world: &World, training: &Training) {
    world.training(training);
    world.ok(&["run", &format!("{}.yaml", training.name), "--detach"]);
    stops_itself(world);
}

fn stops_itself(world: &World) {
    world.until("the box to stop itself", || {
        let alive = world.alive();
        assert_eq!(alive.len(), 1);
        (alive[0]["cur_state"] == "stopped").then_some(())
    });
}

fn rented(world: &World) -> usize {
    world.ctl(&["state"])["instances"].as_array().unwrap().len()
}

fn ended_well(world: &World) {
    let mut training = Training::interruptible("alone", 15);
    training.bring_up = "30s";
    training.on_done = "stop";
    left_alone(world, &training);
    let said = world.ok(&["wait", "alone"]);
    assert!(
        said.stderr
            .contains("nobody came, and its box stopped itself"),
        "{}",
        said.out
    );
    let status = world.status("alone");
    assert_eq!(status["outcome"], "done", "{status}");
    assert_eq!(status["attempts"].as_array().unwrap().len(), 1);
    assert_eq!(rented(world), 1, "nothing was rented in its place");
    world.ok(&["destroy", "alone"]);
    world.assert_nothing_rented();
}

/// With its session the shim is gone, too, which kept the daemon alive.
fn unguarded(world: &World) {
    let mut training = Training::interruptible("alone", 15);
    training.bring_up = "30s";
    training.command = Some("sleep 3; exit 3");
    world.training(&training);
    world.ok(&["run", "alone.yaml", "--detach"]);
    let instance = world.alive()[0]["id"].as_u64().unwrap();
    let spotter = world.home(instance).join(".spotter");
    world.until("the end of the training", || {
        let end = fs::metadata(spotter.join("sessions/train/end.json"));
        end.is_ok_and(|end| end.len() > 0).then_some(())
    });
    let daemons = links::daemons(&spotter);
    assert!(!daemons.is_empty(), "no daemon of {}", spotter.display());
    for daemon in daemons {
        // One that only looked whether another one runs has left by now.
        let _gone = kill(Pid::from_raw(daemon), Signal::SIGKILL);
    }

    stops_itself(world);
    world.ok(&["destroy", "--lose-data", "alone"]);
    world.assert_nothing_rented();
}

fn crashed(world: &World) {
    let mut training = Training::interruptible("broken", 15);
    training.bring_up = "30s";
    training.command = Some("sleep 5; echo ValueError in layer 7; exit 3");
    left_alone(world, &training);
    let said = world.say(&["wait", "broken"]);
    assert_eq!(said.code, 10, "{}", said.out);
    let events = world.ok(&["events", "broken", "--json"]);
    assert!(
        events.stdout.contains("ValueError in layer 7"),
        "{}",
        events.out
    );
    assert_eq!(rented(world), 1);
    assert_eq!(world.alive().len(), 1, "its disk is kept");

    // Whoever wants to look is told how, and what it costs.
    let refused = world.say(&["ssh", "broken", "--", "true"]);
    assert_eq!(refused.code, 1, "{}", refused.out);
    assert!(refused.stderr.contains("is stopped"), "{}", refused.out);
    assert!(
        refused.stderr.contains("spotter ssh --start broken"),
        "{}",
        refused.out
    );
    let looked = world.ok(&["ssh", "--start", "broken", "--", "echo", "here"]);
    assert!(looked.stdout.trim_end().ends_with("here"), "{}", looked.out);
    let ps = world.ok(&["ps"]);
    assert!(ps.stdout.contains("box runs on"), "{}", ps.out);
    world.ok(&["stop", "broken"]);
    assert_eq!(world.alive()[0]["cur_state"], "stopped");
    // Nothing on it is unsaved, so it goes without a word of force.
    world.ok(&["destroy", "broken"]);
    world.assert_nothing_rented();
}
