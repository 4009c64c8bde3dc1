//! (g) A lost answer never rents twice; two stores on one account leave each other alone.

use crate::world::{Training, World, on_both_tiers};

on_both_tiers! {
    a_create_whose_answer_was_lost_rents_once: lost_create;
    two_stores_on_one_account_leave_each_others_boxes_alone: two_stores;
}

fn lost_create(world: &World) {
    world.training(&Training::interruptible("lost", 20));
    world.ctl(&["faults", r#"{"lose_create_answer": 1}"#]);
    let said = world.ok(&["run", "lost.yaml"]);
    assert!(said.stderr.contains("Found instance"), "{}", said.out);
    assert_eq!(
        world.ctl(&["state"])["instances"].as_array().unwrap().len(),
        1
    );
    world.assert_nothing_rented();
}

fn two_stores(world: &World) {
    world.training(&Training::interruptible("mine", 600));
    world.ok(&["run", "mine.yaml", "--detach"]);
    let alive = world.alive();
    assert_eq!(alive.len(), 1);

    // Another laptop with the same account.
    let other = world.work().join("other-home");
    let gc = world
        .spotter(&["gc", "--json"])
        .env("SPOTTER_HOME", &other)
        .output()
        .unwrap();
    let rows: serde_json::Value = serde_json::from_slice(&gc.stdout).unwrap();
    assert_eq!(rows[0]["owner"], "other store", "{rows}");
    assert_eq!(rows[0]["destroyed"], false);
    assert_eq!(world.alive().len(), 1);

    let mine = world.ok(&["gc", "--json"]);
    let rows: serde_json::Value = serde_json::from_str(&mine.stdout).unwrap();
    assert_eq!(rows[0]["owner"], "claimed", "{rows}");
    assert_eq!(world.alive().len(), 1);

    // What is not saved holds the box; a stop saves it and lets it go.
    let refused = world.say(&["destroy", "mine"]);
    assert_eq!(refused.code, 1, "{}", refused.out);
    assert!(
        refused.stderr.contains("the training runs"),
        "{}",
        refused.out
    );
    assert_eq!(world.alive().len(), 1);
    world.ok(&["stop", "mine"]);
    assert_eq!(world.status("mine")["outcome"], "stopped");
    world.assert_nothing_rented();
}
