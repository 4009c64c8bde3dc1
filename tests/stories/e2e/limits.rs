//! (l) Limits with the laptop off: every box ends its training by itself, saves what it wrote, and stops or destroys itself at the right
//! minute; the simulator's bill shows it. All of them live beside each other, because each waits for somebody to come.

use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::Value;

use crate::world::{Tier, Training, World, on};

/// Money and dates are the market's matter, whatever boxes are made of.
#[test]
fn boxes_hold_their_limits_to_the_minute_while_nobody_looks() {
    on(Tier::One, held_alone);
}

#[test]
fn a_box_whose_end_was_refused_stops_and_says_why() {
    on(Tier::One, refused);
}

/// A box is alone for so long before it ends itself after a limit, seconds.
const ALONE_S: f64 = 30.0;
/// `limits.bring_up`, after which one that trained well ends itself, seconds.
const IDLE_S: f64 = 40.0;
/// What saving, asking and a busy machine may take beside, seconds.
const SLACK_S: f64 = 25.0;
/// Every limit and every window: a run file has none that are shorter, seconds.
const LIMIT_S: f64 = 10.0;

/// Never ends by itself, goes on to write checkpoints, and learns nothing: the step rises, the loss stays.
const STUPID: &str = "\
mkdir -p \"$SPOTTER_CHECKPOINT_DIR\"; \
for i in $(seq 100000); do \
echo \"step $i/100000 | loss 2.5000 | 100.0 ms/step\"; sleep 0.1; \
if [ $((i % 10)) = 0 ]; then echo $i > $SPOTTER_CHECKPOINT_DIR/.new; \
mv $SPOTTER_CHECKPOINT_DIR/.new $SPOTTER_CHECKPOINT_DIR/step-$i.txt; fi; done";
/// Twenty steps, and then it stands.
const STANDS: &str =
    "bash train.sh 20 | head -n 20; while true; do echo evaluating; sleep 0.2; done";

/// One run that is left alone.
struct Alone {
    name: &'static str,
    limits: String,
    command: Option<&'static str>,
    on_done: &'static str,
    /// From the training's start to the end of what its GPU costs at the earliest, seconds.
    after_s: f64,
    /// It destroys itself.
    destroyed: bool,
    /// What `wait` ends with, and says.
    code: i32,
    words: &'static str,
}

fn held_alone(world: &World) {
    let runs = [
        Alone {
            name: "idle",
            limits: String::new(),
            command: None,
            on_done: "stop",
            after_s: IDLE_S,
            destroyed: false,
            code: 0,
            words: "nobody came, and its box stopped itself.",
        },
        Alone {
            name: "done",
            limits: String::new(),
            command: None,
            on_done: "destroy",
            after_s: IDLE_S,
            destroyed: true,
            code: 0,
            words: "nobody came, and its box destroyed itself, because the bucket has everything.",
        },
        Alone {
            name: "long",
            limits: format!(", max_runtime: {LIMIT_S}s"),
            command: Some(STUPID),
            on_done: "destroy",
            after_s: LIMIT_S + ALONE_S,
            destroyed: true,
            code: 15,
            words: "`limits.max_runtime` is over",
        },
        Alone {
            name: "stuck",
            limits: format!(", no_progress: {LIMIT_S}s"),
            command: Some(STANDS),
            on_done: "stop",
            after_s: LIMIT_S + ALONE_S,
            destroyed: false,
            code: 15,
            words: "of `limits.no_progress`",
        },
        Alone {
            name: "stupid",
            limits: String::new(),
            command: Some(STUPID),
            on_done: "stop",
            // One window with a first loss, one in which it is told that it has not moved, and one more that nobody answers.
            after_s: 3.0 * LIMIT_S + ALONE_S,
            destroyed: false,
            code: 14,
            words: "nobody answered for a whole window",
        },
    ];
    for run in &runs {
        let training = Training {
            command: run.command,
            on_done: run.on_done,
            ..Training::interruptible(run.name, 15)
        };
        world.training(&training);
        let file = format!("{}.yaml", run.name);
        let yaml = fs::read_to_string(world.work().join(&file)).unwrap();
        let limits = format!(
            "limits: {{bring_up: {IDLE_S}s{}}}\nvalidate: {{window: {LIMIT_S}s, early_checkpoint: {LIMIT_S}s}}\n",
            run.limits
        );
        let changed = yaml.replace("limits: {bring_up: 3m, max_runtime: 1h}\n", &limits);
        assert_ne!(changed, yaml);
        world.write(&file, &changed);
    }
    // All at once: what is rented for one is soon taken.
    let mut started: Vec<_> = runs
        .iter()
        .map(|run| {
            world.background(&[
                "run",
                &format!("{}.yaml", run.name),
                "--no-plan",
                "--detach",
            ])
        })
        .collect();
    for start in &mut started {
        assert_eq!(start.wait(), 0, "{}", start.text());
    }
    let instances: Vec<u64> = runs
        .iter()
        .map(|run| {
            let status = world.status(run.name);
            status["attempts"][0]["instance"].as_u64().unwrap()
        })
        .collect();

    // From here on the laptop is off.
    let began_ms: Vec<u64> = runs.iter().map(|run| began_ms(world, run.name)).collect();
    for ((run, &instance), &began_ms) in runs.iter().zip(&instances).zip(&began_ms) {
        let bill = world.until(&format!("the end of `{}`", run.name), || {
            let bill = world.bill(instance);
            gpu_end_ms(&bill).is_some().then_some(bill)
        });
        let ended_ms = gpu_end_ms(&bill).unwrap() + epoch_ms(world);
        let took_s = ended_ms.saturating_sub(began_ms) as f64 / 1000.0;
        println!(
            "`{}`: its GPU was charged for {took_s:.1} s of training",
            run.name
        );
        assert!(
            (run.after_s..run.after_s + SLACK_S).contains(&took_s),
            "`{}` took {took_s} s: {bill}",
            run.name
        );
        assert_eq!(
            !bill["destroyed_ms"].is_null(),
            run.destroyed,
            "`{}`: {bill}",
            run.name
        );
    }

    // Whoever comes back is told what happened, and nothing that was written is lost.
    for (run, &instance) in runs.iter().zip(&instances) {
        // Its end is there for whoever looks, without anybody who waits for it.
        let looked = (run.name == "long").then(|| world.ok(&["ps"]));
        let said = world.say(&["wait", run.name]);
        assert_eq!(said.code, run.code, "{}", said.out);
        let told = looked.as_ref().unwrap_or(&said);
        assert!(said.stderr.contains(run.words), "{}", said.out);
        let ended = if run.destroyed {
            "destroyed itself"
        } else {
            "stopped itself"
        };
        assert!(told.stderr.contains(ended), "{}", told.out);
        if let Some(looked) = &looked {
            let row = looked.stdout.lines().find(|line| line.contains("long"));
            assert!(
                row.is_some_and(|row| row.contains("limit")),
                "{}",
                looked.out
            );
        }
        let bills = world.bills_of(run.name);
        assert_eq!(bills.len(), 1, "nothing was rented in its place: {bills:?}");
        let events = world.ok(&["events", run.name, "--json"]).stdout;
        if run.destroyed {
            assert!(events.contains("\"self_destroy\""), "{events}");
            // What it measured while nobody watched came home by the bucket.
            let measured = world.ok(&["metrics", run.name, "--json"]).stdout;
            let newest_us = newest_sample_us(&measured);
            let ended_us = gpu_end_ms(&world.bill(instance)).unwrap() + epoch_ms(world);
            let missing_s = (ended_us * 1000).saturating_sub(newest_us) / 1_000_000;
            assert!(missing_s < 60, "{missing_s} s are missing: {measured}");
            agrees(world, run.name, instance);
        }
        world.ok(&["checkpoints", "verify", run.name]);
        // The last that was written before its end.
        let log = world
            .spotter_home()
            .join(format!("logs/{}/1-train.log", run.name));
        let log = fs::read_to_string(log).unwrap();
        let steps = log
            .lines()
            .filter_map(|line| line.strip_prefix("step ")?.split_once('/'));
        let last: u64 = steps
            .filter_map(|(step, _)| step.parse().ok())
            .max()
            .unwrap();
        let saved = crate::alone::committed(world, run.name)[0];
        assert!(saved + 20 > last && saved <= last, "{saved} of {last}");
    }
    let results = world.work().join("results-done/out/final.txt");
    assert_eq!(fs::read_to_string(results).unwrap(), "final 15\n");
    for run in runs.iter().filter(|run| !run.destroyed) {
        world.say(&["destroy", "--lose-data", run.name]);
    }
    world.assert_nothing_rented();
}

/// When the training began, by the laptop's record: its box may have ended itself while others were still looked for.
fn began_ms(world: &World, run: &str) -> u64 {
    let printed = world.ok(&["events", run, "--json"]).stdout;
    let printed: Value = serde_json::from_str(&printed).unwrap();
    let mut events = printed["events"].as_array().unwrap().iter();
    let began = events.find(|event| event["kind"] == "running");
    began.unwrap()["time_us"].as_u64().unwrap() / 1000
}

/// When the last sample that is at hand was taken, microseconds since the epoch.
fn newest_sample_us(metrics: &str) -> u64 {
    let lines = metrics
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines
        .filter_map(|line| line["time_us"].as_u64())
        .max()
        .unwrap_or(0)
}

/// When the GPU was charged last, by the market's clock; `None`: it still is.
fn gpu_end_ms(bill: &Value) -> Option<u64> {
    let intervals = bill["intervals"].as_array().unwrap();
    let charged = |interval: &&Value| interval["gpu_usd_per_hour"].as_f64().unwrap_or(0.0) > 0.0;
    let last = intervals.iter().rev().find(charged)?;
    last["end_ms"].as_u64()
}

/// The date of the market's zero, milliseconds since the epoch.
fn epoch_ms(world: &World) -> u64 {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let market_ms = world.ctl(&["state"])["now_ms"].as_u64().unwrap();
    u64::try_from(now_ms.as_millis())
        .unwrap()
        .saturating_sub(market_ms)
}

/// The ledger has what the market charged, though nobody saw the end.
fn agrees(world: &World, run: &str, instance: u64) {
    let bill = world.bill(instance);
    let cost = world.ok(&["cost", run, "--json"]);
    let cost: Value = serde_json::from_str(&cost.stdout).unwrap();
    let attempt = &cost["runs"][0]["attempts"][0];
    assert_eq!(attempt["state"], "gone", "{cost}");
    for (ours, theirs) in [("gpu_usd", "gpu_usd"), ("disk_usd", "storage_usd")] {
        let (ours, theirs) = (
            attempt["ledger"][ours].as_f64().unwrap(),
            bill[theirs].as_f64().unwrap(),
        );
        // By two clocks and to a second or two.
        let room = theirs * 0.1 + 0.0002;
        assert!(
            (ours - theirs).abs() < room,
            "{ours} of {theirs}: {cost} {bill}"
        );
    }
}

fn refused(world: &World) {
    let training = Training {
        bring_up: "30s",
        ..Training::interruptible("kept", 15)
    };
    world.training(&training);
    world.ok(&["run", "kept.yaml", "--detach"]);
    world.ctl(&[
        "faults",
        r#"{"says_no": 1, "only": "DELETE /api/v0/instances"}"#,
    ]);
    world.until("the box to stop itself", || {
        let alive = world.alive();
        assert_eq!(alive.len(), 1, "it was refused");
        (alive[0]["cur_state"] == "stopped").then_some(())
    });
    let said = world.ok(&["wait", "kept"]);
    assert!(
        said.stderr
            .contains("its box stopped itself; it did not destroy itself: its end was refused: "),
        "{}",
        said.out
    );
    let final_file = world.work().join("results-kept/out/final.txt");
    assert_eq!(fs::read_to_string(final_file).unwrap(), "final 15\n");
    world.assert_nothing_rented();
}
