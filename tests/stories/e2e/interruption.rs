//! (b) Outbid in mid-run, with several watchers; (f) a bucket in trouble.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    happy::assert_paid_as_billed,
    json::{INTERRUPTION, WAITING, assert_has},
    world::{Training, World, on_both_tiers},
};

on_both_tiers! {
    an_outbid_run_goes_on_on_exactly_one_new_box: outbid;
    an_outbid_box_is_bid_for_and_gone_on_with: stay;
    a_run_that_goes_on_by_price_says_what_each_way_costs: by_price;
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
    // And the two were never paid for at once: the money of each is as billed.
    assert_paid_as_billed(world, &status);

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

/// Others of its kind cost little more than its own box, and nobody knows when that is back.
fn by_price(world: &World) {
    world.training(&Training::interruptible("thrifty", 120));
    let file = std::fs::read_to_string(world.work().join("thrifty.yaml")).unwrap();
    world.write(
        "thrifty.yaml",
        &file.replace("policy: elsewhere", "policy: price"),
    );
    let mut watcher = world.background(&["run", "thrifty.yaml"]);
    let first = world.until_step("thrifty", 1, 40);

    world.ctl(&["outbid", &first.to_string()]);

    assert_eq!(watcher.wait(), 0, "{}", watcher.text());
    let said = watcher.text();
    assert!(
        said.contains("`thrifty` goes on with another box: the next"),
        "{said}"
    );
    assert!(said.contains("with waiting for its box $"), "{said}");
    let status = world.status("thrifty");
    assert_eq!(status["outcome"], "done", "{status}");
    assert_eq!(status["attempts"].as_array().unwrap().len(), 2, "{status}");
    let events = world.ok(&["--json", "events", "thrifty"]).stdout;
    let events: Value = serde_json::from_str(&events).unwrap();
    let chosen: Vec<&Value> = events["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["kind"] == "way_chosen")
        .collect();
    assert_eq!(chosen.len(), 1, "{events}");
    assert_eq!(chosen[0]["detail"]["way"], "move", "{events}");
    world.assert_nothing_rented();
    assert_paid_as_billed(world, &status);
}

/// A rival bids a quarter more; two raises win the box back, with its disk and its agent.
fn stay(world: &World) {
    world.training(&Training::interruptible("stay", 150));
    let file = std::fs::read_to_string(world.work().join("stay.yaml")).unwrap();
    world.write(
        "stay.yaml",
        &file
            .replace(
                "rental: interruptible}",
                "rental: interruptible, bid: {max: 2.00}}",
            )
            .replace("policy: elsewhere", "policy: here"),
    );
    let mut watcher = world.background(&["run", "stay.yaml"]);
    let first = world.until_step("stay", 1, 40);

    world.ctl(&["outbid", &first.to_string()]);

    world.until("the wait", || {
        (world.status("stay")["state"] == "waiting").then_some(())
    });
    assert_has(&world.status("stay")["waiting"], WAITING);
    let said = world.ok(&["status", "--recorded", "stay"]);
    let waits = format!("waits        for instance {first}");
    assert!(said.stdout.contains(&waits), "{}", said.out);
    assert!(said.stdout.contains("its disk costs $"), "{}", said.out);

    assert_eq!(watcher.wait(), 0, "{}", watcher.text());
    let status = world.status("stay");
    assert_eq!(status["outcome"], "done", "{status}");
    assert_eq!(status["attempts"].as_array().unwrap().len(), 1, "{status}");
    assert_eq!(status["attempts"][0]["instance"], first, "{status}");
    let interruptions = status["interruptions"].as_array().unwrap();
    assert_eq!(interruptions.len(), 1, "{status}");
    assert_has(&interruptions[0], INTERRUPTION);
    assert_eq!(interruptions[0]["resumed_by"], 1, "{status}");
    let (step, from) = (
        interruptions[0]["step"].as_u64().unwrap(),
        interruptions[0]["resumed_step"].as_u64().unwrap(),
    );
    assert_eq!(
        interruptions[0]["steps_lost"],
        step.saturating_sub(from),
        "{status}"
    );
    assert!(from >= 10 && from.is_multiple_of(10), "{status}");
    let rented = world.ctl(&["state"])["instances"].as_array().unwrap().len();
    assert_eq!(rented, 1, "nothing was rented in its place");
    world.assert_nothing_rented();
}

/// Two checkpoints of several parts each.
const BIG: &str = r#"
mkdir -p "$SPOTTER_CHECKPOINT_DIR" out
for step in 10 20; do
  sleep 2
  echo "step $step/20 | loss 1.5"
  head -c 20000000 /dev/urandom > "$SPOTTER_CHECKPOINT_DIR/.new"
  echo "bytes of $step: $(sha256sum < "$SPOTTER_CHECKPOINT_DIR/.new")"
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
    // Parts are refused for a while, then commits, and of one checkpoint nobody hears that it is complete.
    for order in [
        r#"{"inject": {"operation": "UploadPart", "count": 12, "fault": "slow_down"}}"#,
        r#"{"inject": {"operation": "PutObject", "path": "/commits/", "count": 3, "fault": "slow_down"}}"#,
        r#"{"inject": {"operation": "*", "count": 5, "fault": "slow_down"}}"#,
        r#"{"inject": {"operation": "CompleteMultipartUpload", "count": 1, "fault": "lose_answer"}}"#,
    ] {
        world.ctl(&["s3", order]);
    }

    assert_eq!(watcher.wait(), 0, "{}", watcher.text());

    // An order is gone when its last request came: parts, commits and an answer did meet their fault.
    let switches = world.ctl(&["s3", "{}"]);
    assert_eq!(
        switches["orders"].as_array().map(Vec::len),
        Some(0),
        "every fault was met: {switches}"
    );
    let checkpoints = world.ok(&["checkpoints", "bucket", "--json"]);
    let checkpoints: Vec<Value> = serde_json::from_str(&checkpoints.stdout).unwrap();
    let steps: Vec<u64> = checkpoints
        .iter()
        .map(|row| row["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [20, 10], "each step is committed once");

    // Every byte in the bucket is the one that was written on the box, which is gone.
    let verified = world.ok(&["checkpoints", "verify", "bucket", "--json"]);
    let verified: Value = serde_json::from_str(&verified.stdout).unwrap();
    assert_eq!(verified["whole"], true, "{verified}");
    assert_eq!(verified["checkpoints"].as_array().map(Vec::len), Some(2));
    let log = world.spotter_home().join("logs/bucket/1-train.log");
    let log = std::fs::read_to_string(log).unwrap();
    let written: BTreeMap<u64, String> = log
        .lines()
        .filter_map(|line| {
            let (step, sum) = line.trim().strip_prefix("bytes of ")?.split_once(": ")?;
            Some((step.parse().ok()?, sum.split(' ').next()?.to_owned()))
        })
        .collect();
    for row in &checkpoints {
        let step = row["step"].as_u64().unwrap();
        assert_eq!(row["size_bytes"], 20_000_000, "{row}");
        let pulled = world.ok(&[
            "checkpoints",
            "pull",
            "bucket",
            row["id"].as_str().unwrap(),
            "--to",
            &format!("pulled-{step}"),
            "--json",
        ]);
        let pulled: Value = serde_json::from_str(&pulled.stdout).unwrap();
        assert_eq!(pulled["skipped"], serde_json::json!([]), "{pulled}");
        let path = world.work().join(pulled["path"].as_str().unwrap());
        let sum = world
            .program("sha256sum", &[path.to_str().unwrap()])
            .output()
            .unwrap();
        let sum = String::from_utf8(sum.stdout).unwrap();
        assert_eq!(
            sum.split(' ').next(),
            written.get(&step).map(String::as_str),
            "step {step} of {written:?}"
        );
    }
}
