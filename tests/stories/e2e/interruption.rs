//! (b) Outbid in mid-run, with several watchers; (f) a bucket in trouble.

use crate::world::{Training, World, on_both_tiers};

on_both_tiers! {
    an_outbid_run_goes_on_on_exactly_one_new_box: outbid;
    an_outage_and_a_lost_answer_to_complete_give_one_valid_commit_each: bucket_in_trouble;
}

fn outbid(world: &World) {
    world.training(&Training::interruptible("spot", 220));
    world.ok(&["run", "spot.yaml", "--detach"]);
    let mut watchers = [
        world.background(&["wait", "spot"]),
        world.background(&["wait", "spot"]),
        world.background(&["up", "spot"]),
    ];
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
    assert!(resumed >= 10 && resumed.is_multiple_of(10), "{status}");
    let rented = world.ctl(&["state"])["instances"].as_array().unwrap().len();
    assert_eq!(rented, 2, "exactly one new box was rented");
    world.assert_nothing_rented();

    // Every step is in the record, those between checkpoint and interruption twice.
    let log = |attempt: u32| {
        std::fs::read_to_string(
            world
                .spotter_home()
                .join(format!("logs/spot/{attempt}-train.log")),
        )
        .unwrap()
    };
    let both = log(1) + &log(2);
    for step in 1..=220 {
        assert!(
            both.contains(&format!("step {step}/220 ")),
            "step {step} is missing"
        );
    }
}

/// Two checkpoints of several parts each.
const BIG: &str = r#"
mkdir -p "$SPOTTER_CHECKPOINT_DIR" out
for step in 10 20; do
  sleep 2
  echo "step $step/20 | loss 1.5"
  head -c 20000000 /dev/urandom > "$SPOTTER_CHECKPOINT_DIR/.new"
  mv "$SPOTTER_CHECKPOINT_DIR/.new" "$SPOTTER_CHECKPOINT_DIR/step-$step.bin"
done
sleep 6
echo done > out/final.txt
"#;

fn bucket_in_trouble(world: &World) {
    let mut training = Training::interruptible("bucket", 20);
    training.command = Some("bash big.sh");
    world.training(&training);
    world.write("big.sh", BIG);
    let mut watcher = world.background(&["run", "bucket.yaml"]);
    world.until("the training", || {
        (world.status("bucket")["state"] == "running").then_some(())
    });
    for order in [
        r#"{"inject": {"operation": "*", "count": 15, "fault": "slow_down"}}"#,
        r#"{"inject": {"operation": "CompleteMultipartUpload", "count": 1, "fault": "lose_answer"}}"#,
    ] {
        world.ctl(&["s3", order]);
    }

    assert_eq!(watcher.wait(), 0, "{}", watcher.text());

    let switches = world.ctl(&["s3", "{}"]);
    assert_eq!(
        switches["orders"].as_array().map(Vec::len),
        Some(0),
        "every fault was met: {switches}"
    );
    let checkpoints = world.ok(&["checkpoints", "bucket", "--json"]);
    let checkpoints: Vec<serde_json::Value> = serde_json::from_str(&checkpoints.stdout).unwrap();
    let steps: Vec<u64> = checkpoints
        .iter()
        .map(|row| row["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [20, 10], "each step is committed once");
    assert!(
        checkpoints
            .iter()
            .all(|row| row["size_bytes"] == 20_000_000)
    );
}
