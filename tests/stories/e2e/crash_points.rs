//! (c) The controller killed at every point from renting to running, as the program itself enumerates them.

use std::{collections::BTreeSet, fs};

use crate::world::{Training, World, on_both_tiers};

on_both_tiers! {
    a_controller_killed_at_any_point_is_finished_by_up_and_never_pays_for_two_boxes: killed_then_up;
    a_controller_killed_for_good_leaves_a_box_that_ends_itself: killed_for_good;
}

/// Runs at once: each mostly waits for its box, and one account may have many.
const AT_ONCE: usize = 4;

fn killed_then_up(world: &World) {
    let points = points(world);
    assert!(points.len() >= 8, "{points:?}");
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
    let instances = world.ctl(&["state"])["instances"]
        .as_array()
        .unwrap()
        .clone();
    assert!(
        instances.len() <= points.len() + 1,
        "{} boxes for {} runs",
        instances.len(),
        points.len() + 1
    );
}

fn killed_for_good(world: &World) {
    let points = points(world);
    assert!(points.len() >= 8, "{points:?}");
    each(&points, |number, point| {
        // Where the session has started already, the box does its job first.
        kill_at(world, point, &format!("dead-{number}"), 60, "25s");
    });
    world.until("every box to stop itself", || {
        let running = world
            .alive()
            .iter()
            .filter(|row| row["cur_state"] == "running")
            .count();
        (running == 0).then_some(())
    });
    let gpu_seconds = || -> Vec<serde_json::Value> {
        let bill = world.ctl(&["bill"]);
        let rows = bill["instances"].as_array().unwrap();
        rows.iter().map(|row| row["gpu_seconds"].clone()).collect()
    };
    let then = gpu_seconds();
    assert!(then.iter().all(serde_json::Value::is_number), "{then:?}");
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(then, gpu_seconds(), "no GPU is charged any more");
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
    let mut training = Training::interruptible(name, steps);
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

/// Does this for every point, some at once.
fn each(points: &BTreeSet<String>, work: impl Fn(usize, &str) + Sync) {
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

/// The points that a run passes from its start until its training runs, in the program's own words.
fn points(world: &World) -> BTreeSet<String> {
    world.training(&Training::interruptible("trace", 15));
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
    let points = fs::read_to_string(&trace)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    world.ok(&["wait", "trace"]);
    points
}
