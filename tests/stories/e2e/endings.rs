//! A box whose training is over and for which nobody comes stops itself; what it left says that it was not taken back.

use crate::world::{Training, World, on_both_tiers};

on_both_tiers! {
    a_training_that_ended_while_nobody_looked_is_collected_and_not_trained_again: ended_well;
    a_crash_that_nobody_saw_is_told_and_its_disk_kept: crashed;
}

/// Starts a run, leaves it alone, and waits until its box has stopped itself.
fn left_alone(world: &World, training: &Training) {
    world.training(training);
    world.ok(&["run", &format!("{}.yaml", training.name), "--detach"]);
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
    training.bring_up = "20s";
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
    world.assert_nothing_rented();
}

fn crashed(world: &World) {
    let mut training = Training::interruptible("broken", 15);
    training.bring_up = "20s";
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
