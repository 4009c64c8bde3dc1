//! (c) The controller killed at every point from renting to running, as the program itself enumerates them.

use std::{collections::BTreeSet, fs};

use crate::world::{Tier, Training, World, on};

#[test]
fn a_controller_killed_at_any_point_is_finished_by_up_and_never_pays_for_two_boxes() {
    on(Tier::One, |world| {
        let points = points(world);
        assert!(points.len() >= 8, "{points:?}");
        println!("{} points: {points:?}", points.len());
        for (number, point) in points.iter().enumerate() {
            let name: &'static str = Box::leak(format!("crash-{number}").into_boxed_str());
            world.training(&Training::interruptible(name, 15));
            let file = format!("{name}.yaml");
            let killed = world
                .spotter(&["run", &file, "--detach"])
                .env("SPOTTER_DIE_AT", point)
                .output()
                .unwrap();
            assert_eq!(
                killed.status.code(),
                None,
                "{point}: {}",
                String::from_utf8_lossy(&killed.stderr)
            );
            if world.status(name).is_null() {
                // Killed before the run was written down: nothing can have been rented.
                world.assert_nothing_rented();
                continue;
            }
            let said = world.say(&["up", name]);
            assert_eq!(said.code, 0, "{point}: {}\n{}", said.out, world.sim_log());
            assert_eq!(world.status(name)["outcome"], "done", "{point}");
            world.assert_nothing_rented();
        }
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
    });
}

#[test]
fn a_controller_killed_for_good_leaves_a_box_that_ends_itself() {
    on(Tier::One, |world| {
        // Once the session has started the box is doing its job, and ends with it.
        let started = ["agent.start_session.after", "store.running"];
        let mut points = points(world);
        points.retain(|point| !started.iter().any(|late| point.starts_with(late)));
        assert!(points.len() >= 6, "{points:?}");
        for (number, point) in points.iter().enumerate() {
            let name: &'static str = Box::leak(format!("dead-{number}").into_boxed_str());
            let mut training = Training::interruptible(name, 600);
            training.bring_up = "12s";
            world.training(&training);
            let file = format!("{name}.yaml");
            let killed = world
                .spotter(&["run", &file, "--detach"])
                .env("SPOTTER_DIE_AT", point)
                .output()
                .unwrap();
            assert_eq!(
                killed.status.code(),
                None,
                "{point}: {}",
                String::from_utf8_lossy(&killed.stderr)
            );
        }
        world.until("every box to stop itself", || {
            let running = world
                .alive()
                .iter()
                .filter(|row| row["cur_state"] == "running")
                .count();
            (running == 0).then_some(())
        });
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
