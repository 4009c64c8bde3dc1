//! (a) From an offer to a destroyed box.

use std::fs;

use crate::world::{Training, World, on_both_tiers};

on_both_tiers! {
    a_run_goes_from_offer_to_destroyed_box: happy_path;
}

fn happy_path(world: &World) {
    let run = Training::interruptible("happy", 40);
    world.training(&run);

    let offers = world.ok(&[
        "offers",
        "--gpus",
        "RTX 4090:1",
        "--interruptible",
        "--json",
    ]);
    let offers: serde_json::Value = serde_json::from_str(&offers.stdout).unwrap();
    assert!(!offers["offers"].as_array().unwrap().is_empty(), "{offers}");
    world.ok(&["plan", "happy.yaml"]);
    assert!(world.alive().is_empty(), "a plan spends nothing");

    let said = world.ok(&["run", "happy.yaml", "--json"]);

    let summary: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(summary["outcome"], "done", "{}", said.out);
    assert_eq!(summary["attempts"].as_array().unwrap().len(), 1);
    assert_eq!(summary["step"], 40);
    assert!(summary["checkpoints_committed"].as_u64().unwrap() >= 1);
    assert_eq!(
        fs::read_to_string(world.work().join("results-happy/out/final.txt")).unwrap(),
        "final 40\n"
    );
    world.assert_nothing_rented();

    // What it printed outlives the box, and so do its checkpoints.
    let log = fs::read_to_string(world.spotter_home().join("logs/happy/1-train.log")).unwrap();
    for step in 1..=40 {
        assert_eq!(
            log.matches(&format!("step {step}/40 ")).count(),
            1,
            "step {step} in\n{log}"
        );
    }
    let checkpoints = world.ok(&["checkpoints", "happy", "--json"]);
    let checkpoints: serde_json::Value = serde_json::from_str(&checkpoints.stdout).unwrap();
    assert_eq!(checkpoints[0]["step"], 40, "{checkpoints}");

    // The ledger, the provider's charges and the simulator's own bill agree to the cent.
    let instance = summary["attempts"][0]["instance"].as_u64().unwrap();
    let charged = summary["charged_usd"].as_f64().expect("the bill is closed");
    assert!((charged - world.bill_usd(instance)).abs() < 0.005);
    assert!((charged - summary["ledger_usd"].as_f64().unwrap()).abs() < 0.005);
}
