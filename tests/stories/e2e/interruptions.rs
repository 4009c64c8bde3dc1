//! (b) Outbid again and again, at moments that nobody chose: each box goes on from bytes that are those of a training that nobody
//! interrupted, and no checkpoint that was committed is lost.

use std::{
    fs,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;

use crate::world::{Tier, Training, World, on};

/// Boxes that are taken away.
const OUTBIDS: u64 = 5;
/// Steps that a box is given at least and at most before that.
const STEPS: (u64, u64) = (3, 14);
/// Size of a checkpoint after its first line, bytes.
const BULK: usize = 60_000;

/// What a box computes follows from every step before; a checkpoint holds that, and bytes that follow from it. It trains until a file
/// says that it is enough.
const CHAIN: &str = r#"
step=0
state=7
mkdir -p "$SPOTTER_CHECKPOINT_DIR" out
if [ -n "${SPOTTER_CHECKPOINT:-}" ]; then
  read -r step state < "$SPOTTER_CHECKPOINT"
  echo "resumed from $step in state $state, $(cksum < "$SPOTTER_CHECKPOINT")"
fi
save() {
  { echo "$step $state"; yes "$state" | head -c 60000; } > "$SPOTTER_CHECKPOINT_DIR/.new"
  sleep 0.01
  mv "$SPOTTER_CHECKPOINT_DIR/.new" "$SPOTTER_CHECKPOINT_DIR/step-$step.txt"
}
while [ ! -e "$HOME/enough" ]; do
  step=$((step + 1))
  state=$(((state * 1103515245 + step) % 2147483648))
  sleep 0.1
  echo "step $step/5000 | loss $((5000 - step)).5 | lr 1.00e-03 | 100.0 ms/step | 1,000 tok/s"
  if [ $((step % 5)) = 0 ]; then save; fi
done
save
echo "$step $state" > out/final.txt
"#;

/// The box's kernel is no matter here.
#[test]
fn five_interruptions_at_any_moment_lose_no_checkpoint_and_no_bit() {
    on(Tier::One, five);
}

/// The checkpoint of a step, computed without any box.
fn expected(step: u64) -> Vec<u8> {
    let state = (1..=step).fold(7u64, |state, step| {
        (state * 1_103_515_245 + step) % (1 << 31)
    });
    let mut bytes = format!("{step} {state}\n").into_bytes();
    let line = format!("{state}\n").into_bytes();
    bytes.extend(line.iter().cycle().take(BULK));
    bytes
}

/// The next of numbers that look random: up to `below`.
fn next(seed: &mut u64, below: u64) -> u64 {
    let mut hash = blake3::Hasher::new();
    hash.update(&seed.to_le_bytes());
    *seed = u64::from_le_bytes(hash.finalize().as_bytes()[..8].try_into().unwrap());
    *seed % below
}

/// Steps and ids that are committed, newest first.
fn committed(world: &World) -> Vec<(u64, String)> {
    let said = world.ok(&["checkpoints", "often", "--json"]);
    let rows: Vec<Value> = serde_json::from_str(&said.stdout).unwrap();
    let row = |row: &Value| {
        let id = row["id"].as_str().unwrap().to_owned();
        (row["step"].as_u64().unwrap(), id)
    };
    rows.iter().map(row).collect()
}

pub fn five(world: &World) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let mut seed = now.as_nanos() as u64;
    println!("seed {seed}");
    let mut training = Training::interruptible("often", 5000);
    training.command = Some("bash chain.sh");
    world.training(&training);
    world.write("chain.sh", CHAIN);
    let yaml = fs::read_to_string(world.work().join("often.yaml")).unwrap();
    let changed = yaml
        .replace("keep: {last: 3}", "keep: {last: 1000}")
        .replace("attempts: 5", "attempts: 9");
    world.write("often.yaml", &changed);
    let mut run = world.background(&["run", "often.yaml"]);

    let mut seen: Vec<(u64, String)> = Vec::new();
    let mut boxes = Vec::new();
    for attempt in 1..=OUTBIDS {
        let from = seen.first().map_or(0, |(step, _)| *step);
        let steps = STEPS.0 + next(&mut seed, STEPS.1 - STEPS.0);
        let instance = world.until_step("often", attempt, from + steps);
        std::thread::sleep(Duration::from_millis(next(&mut seed, 600)));
        // What is committed by now must outlive the box.
        let before = committed(world);
        world.ctl(&["outbid", &instance.to_string()]);
        println!(
            "box {instance} is taken away after step {}, {} checkpoints are there",
            from + steps,
            before.len()
        );
        for old in &seen {
            assert!(before.contains(old), "{old:?} is lost: {before:?}");
        }
        seen = before;
        boxes.push(instance);
    }
    let last = world.until_step("often", OUTBIDS + 1, 1);
    assert!(!boxes.contains(&last), "{boxes:?} {last}");
    fs::write(world.home(last).join("enough"), "").unwrap();
    assert_eq!(run.wait(), 0, "{}", run.text());

    let status = world.status("often");
    assert_eq!(status["outcome"], "done", "{status}");
    let attempts = status["attempts"].as_array().unwrap();
    assert_eq!(attempts.len() as u64, OUTBIDS + 1, "{status}");
    let there = committed(world);
    for old in &seen {
        assert!(there.contains(old), "{old:?} is lost: {there:?}");
    }
    let verified = world.ok(&["checkpoints", "verify", "often", "--json"]);
    let verified: Value = serde_json::from_str(&verified.stdout).unwrap();
    assert_eq!(verified["whole"], true, "{verified}");

    // Every box but the first went on from the very bytes.
    let sums = |bytes: &[u8]| {
        fs::write(world.work().join("sum"), bytes).unwrap();
        let sum = world.program("cksum", &["sum"]).output().unwrap();
        let sum = String::from_utf8(sum.stdout).unwrap();
        sum.trim().trim_end_matches(" sum").to_owned()
    };
    let mut resumed_from = 0;
    for attempt in &attempts[1..] {
        let number = &attempt["number"];
        let log = world
            .spotter_home()
            .join(format!("logs/often/{number}-train.log"));
        let log = fs::read_to_string(log).unwrap();
        let Some((_, rest)) = log.split_once("resumed from ") else {
            // It was taken away before the first checkpoint was there.
            assert_eq!(resumed_from, 0, "{log}");
            continue;
        };
        let line = rest.lines().next().unwrap().trim();
        let step: u64 = line.split(' ').next().unwrap().parse().unwrap();
        assert_eq!(attempt["from_step"], step, "{status}");
        assert!(step >= resumed_from, "{resumed_from} {line}");
        resumed_from = step;
        let bytes = expected(step);
        let state = String::from_utf8_lossy(&bytes[..40]);
        let state = state.lines().next().unwrap().split(' ').nth(1).unwrap();
        let sum = sums(&bytes);
        assert_eq!(line, format!("{step} in state {state}, {sum}"));
    }
    // And so is what the last of them left.
    let (step, id) = &there[0];
    let pulled = world.ok(&[
        "checkpoints",
        "pull",
        "often",
        id,
        "--to",
        "pulled",
        "--json",
    ]);
    let pulled: Value = serde_json::from_str(&pulled.stdout).unwrap();
    let file = world.work().join(pulled["path"].as_str().unwrap());
    assert!(fs::read(file).unwrap() == expected(*step), "step {step}");
    world.assert_nothing_rented();
}
