//! (c) The controller killed at every point from renting to running, as the program itself enumerates them.
//!
//! Every point has its turn on tier 1. What differs on tier 2 is the box and not the controller, so there one of three is drawn by a
//! seed (`SPOTTER_CRASH_SEED` draws others), and likewise for those after which nobody comes back.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use serde_json::Value;

use crate::world::{Tier, Training, World, gpus_charged_at_once, on_both_tiers};

on_both_tiers! {
    a_controller_killed_at_any_point_is_finished_by_up_and_never_pays_for_two_boxes: killed_then_up;
    a_controller_killed_for_good_leaves_a_box_that_ends_itself: killed_for_good;
}

/// Runs at once: each mostly waits for its box, and one account may have many.
const AT_ONCE: usize = 4;
/// Passes of one point that have their turn: what comes again and again is a loop that waits.
const PASSES: u32 = 2;

fn killed_then_up(world: &World) {
    let all = points(world);
    let points = match world.tier() {
        Tier::One => all,
        Tier::Two => drawn(all),
    };
    println!("{} points: {points:?}", points.len());
    each(&points, |number, point| {
        let name = kill_at(world, point, &format!("crash-{number}"), 15, "3m");
        if world.status(name).is_null() {
            // Killed before the run was written down: nothing can have been rented for it.
            return;
        }
        let said = world.say(&["up", name]);
        assert_eq!(said.code, 0, "{point}: {}\n{}", said.out, world.sim_log());
        assert_eq!(world.status(name)["outcome"], "done", "{point}");
    });
    world.assert_nothing_rented();
    for (number, point) in points.iter().enumerate() {
        let bills = world.bills_of(&format!("crash-{number}"));
        let finished = !world.status(&format!("crash-{number}")).is_null();
        assert_eq!(
            bills.len(),
            usize::from(finished),
            "boxes that were rented for the run killed at {point}: {bills:?}"
        );
        assert!(!gpus_charged_at_once(&bills), "{point}: {bills:?}");
    }
}

fn killed_for_good(world: &World) {
    let points = drawn(points(world));
    println!("{} points: {points:?}", points.len());
    each(&points, |number, point| {
        // Where the session has started already, the box does its job first.
        kill_at(world, point, &format!("dead-{number}"), 60, "45s");
    });
    // Before the order there is no box; after it there is one, whatever the controller had heard of it.
    let left = world.alive();
    let expected = points.iter().filter(|point| is_after_the_order(point));
    let expected = expected.count();
    assert!(expected > 2, "{points:?}");
    assert!(
        (expected..=points.len()).contains(&left.len()),
        "{} boxes are left after {points:?}",
        left.len()
    );
    for number in 0..points.len() {
        let run = format!("dead-{number}");
        let of_run = left.iter().filter(|row| run_of(row) == run).count();
        assert!(of_run <= 1, "{of_run} boxes are left of {run}");
        let bills = world.bills_of(&run);
        assert!(!gpus_charged_at_once(&bills), "{bills:?}");
    }
    let ended = world.until("every box to stop itself", || {
        let rows = world.alive();
        let running = rows.iter().filter(|row| row["cur_state"] == "running");
        (running.count() == 0).then_some(rows)
    });
    // By their own hand: nobody destroyed one, and the market took none back.
    assert_eq!(ended.len(), left.len());
    for row in &ended {
        assert_eq!(row["cur_state"], "stopped", "{row}");
        assert_eq!(row["intended_status"], "stopped", "{row}");
    }
    let gpu_seconds = || -> Vec<Value> {
        let bill = world.ctl(&["bill"]);
        let rows = bill["instances"].as_array().unwrap();
        rows.iter().map(|row| row["gpu_seconds"].clone()).collect()
    };
    let then = gpu_seconds();
    assert!(then.iter().all(Value::is_number), "{then:?}");
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(then, gpu_seconds(), "no GPU is charged any more");
}

/// Run that an instance was rented for.
fn run_of(row: &Value) -> &str {
    let label = row["label"].as_str().unwrap_or_default();
    label.split('/').nth(2).unwrap_or_default()
}

/// Points that are passed only when there is a box.
fn is_after_the_order(point: &str) -> bool {
    let (name, _) = point.split_once('#').unwrap();
    let states = ["loading", "preparing", "syncing", "running"];
    name == "provider.rent.after"
        || name.starts_with("agent.")
        || name.starts_with("store.interval.")
        || states
            .iter()
            .any(|state| name.starts_with(&format!("store.{state}.")))
}

/// Starts a run that is killed at this point, and returns its name.
fn kill_at(
    world: &World,
    point: &str,
    name: &str,
    steps: u64,
    bring_up: &'static str,
) -> &'static str {
    let name: &'static str = Box::leak(name.to_owned().into_boxed_str());
    let mut training = training(name, steps);
    training.bring_up = bring_up;
    world.training(&training);
    let killed = world
        .spotter(&["run", &format!("{name}.yaml"), "--detach"])
        .env("SPOTTER_DIE_AT", point)
        .output()
        .unwrap();
    assert_eq!(
        killed.status.code(),
        None,
        "{point}: {}",
        String::from_utf8_lossy(&killed.stderr)
    );
    name
}

/// One that passes every kind of point.
fn training(name: &'static str, steps: u64) -> Training {
    let mut training = Training::interruptible(name, steps);
    training.setup = Some("sleep 0.2");
    training
}

/// Does this for every point, some at once.
fn each(points: &[String], work: impl Fn(usize, &str) + Sync) {
    let next = std::sync::Mutex::new(points.iter().enumerate());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let taken = next.lock().unwrap().next();
                    let Some((number, point)) = taken else { return };
                    work(number, point);
                }
            });
        }
    });
}

/// One of three, from the seed on; the order and what starts the training are always among them.
fn drawn(points: Vec<String>) -> Vec<String> {
    let seed = std::env::var("SPOTTER_CRASH_SEED").map_or(1_usize, |text| text.parse().unwrap());
    let always = ["provider.rent.after#1", "agent.start_session.after#1"];
    points
        .into_iter()
        .enumerate()
        .filter(|(number, point)| {
            (number + seed).is_multiple_of(3) || always.contains(&point.as_str())
        })
        .map(|(_, point)| point)
        .collect()
}

/// The points that a run passes from its start until its training runs, in the program's own words and in their order.
fn points(world: &World) -> Vec<String> {
    world.training(&training("trace", 15));
    let trace = world.work().join("trace.txt");
    let traced = world
        .spotter(&["run", "trace.yaml", "--detach"])
        .env("SPOTTER_TRACE_POINTS", &trace)
        .output()
        .unwrap();
    assert!(
        traced.status.success(),
        "{}",
        String::from_utf8_lossy(&traced.stderr)
    );
    let mut seen = BTreeSet::new();
    let mut passes: BTreeMap<String, u32> = BTreeMap::new();
    let points: Vec<String> = fs::read_to_string(&trace)
        .unwrap()
        .lines()
        .filter(|point| {
            let (name, _) = point.split_once('#').unwrap();
            let nth = passes.entry(name.to_owned()).or_default();
            *nth += 1;
            *nth <= PASSES && seen.insert((*point).to_owned())
        })
        .map(str::to_owned)
        .collect();
    world.ok(&["wait", "trace"]);
    // Each call that changes something outside, and each write of the record.
    for name in [
        "store.run.before",
        "store.lease.after",
        "store.renting.after",
        "provider.rent.before",
        "provider.rent.after",
        "store.loading.after",
        "provider.attach_key.after",
        "agent.preflight.after",
        "agent.configure.after",
        "agent.credentials.after",
        "agent.prove.after",
        "agent.sync.after",
        "agent.start_setup.after",
        "agent.start_session.before",
        "agent.start_session.after",
        "store.interval.gpu.after",
        "store.interval.disk.after",
        "store.running.after",
    ] {
        assert!(
            passes.contains_key(name),
            "`{name}` is not among {points:?}"
        );
    }
    points
}
