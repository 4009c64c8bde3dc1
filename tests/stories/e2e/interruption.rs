//! (b) Outbid in mid-run, with several watchers; (f) a bucket in trouble.

use crate::world::{Tier, Training, World, on};

#[test]
fn an_outbid_run_goes_on_on_exactly_one_new_box_tier_1() {
    on(Tier::One, outbid);
}

#[test]
fn an_outbid_run_goes_on_on_exactly_one_new_box_tier_2() {
    on(Tier::Two, outbid);
}

fn outbid(world: &World) {
    world.training(&Training::interruptible("spot", 220));
    world.ok(&["run", "spot.yaml", "--detach"]);
    let mut watchers =
        [world.background(&["wait", "spot"]), world.background(&["wait", "spot"]), world.background(&["up", "spot"])];
    let first = world.until_step("spot", 1, 40);

    world.ctl(&["outbid", &first.to_string()]);

    let second = world.until_step("spot", 2, 1);
    assert_ne!(first, second);
    for watcher in &mut watchers {
        assert_eq!(watcher.wait(), 0, "{}", watcher.text());
    }
    let status = world.status("spot");
    assert_eq!(status["outcome"], "done", "{status}");
    let attempts = status["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 2, "{status}");
    let resumed = attempts[1]["from_step"].as_u64().unwrap();
    assert!(resumed >= 10 && resumed % 10 == 0, "{status}");
    let rented = world.ctl(&["state"])["instances"].as_array().unwrap().len();
    assert_eq!(rented, 2, "exactly one new box was rented");
    world.assert_nothing_rented();

    // Every step is in the record, those between checkpoint and interruption twice.
    let log = |attempt: u32| {
        std::fs::read_to_string(world.spotter_home().join(format!("logs/spot/{attempt}-train.log"))).unwrap()
    };
    let both = log(1) + &log(2);
    for step in 1..=220 {
        assert!(both.contains(&format!("step {step}/220 ")), "step {step} is missing");
    }
}

#[test]
fn a_bucket_in_trouble_delays_a_commit_and_never_doubles_it() {
    on(Tier::One, |world| {
        world.training(&Training::interruptible("bucket", 120));
        let mut watcher = world.background(&["run", "bucket.yaml"]);
        world.until_step("bucket", 1, 15);
        // An outage of some seconds, and then the answer to a Complete or a PUT of a commit is lost.
        world.ctl(&["s3", r#"{"inject": [{"operation": "*", "count": 12, "fault": "slow_down"},
            {"operation": "PutObject", "path": "commits/", "after": 1, "count": 1, "fault": "lose_answer"}]}"#]);

        assert_eq!(watcher.wait(), 0, "{}", watcher.text());

        let status = world.status("bucket");
        assert_eq!(status["outcome"], "done", "{status}");
        let checkpoints = world.ok(&["checkpoints", "bucket", "--json"]);
        let checkpoints: Vec<serde_json::Value> = serde_json::from_str(&checkpoints.stdout).unwrap();
        let mut steps: Vec<u64> = checkpoints.iter().map(|row| row["step"].as_u64().unwrap()).collect();
        assert_eq!(steps[0], 120);
        let all = steps.len();
        steps.dedup();
        assert_eq!(steps.len(), all, "no step is committed twice: {steps:?}");
    });
}
