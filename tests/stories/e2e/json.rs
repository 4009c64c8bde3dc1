//! `--json` on every verb that has data: one JSON value on stdout and nothing else, or one per line where something is followed; and
//! every key that `controller/docs/json.md` promises of it.

mod cases;
mod documented;

use std::{collections::BTreeSet, process::Stdio};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use self::cases::{AFTERWARDS, Case, ENDED, Form, LOSSES, ON_DEMAND, WHILE_IT_RUNS};
pub use self::cases::{INTERRUPTION, WAITING};
use crate::world::{Tier, Training, World, on};

#[test]
fn every_verb_prints_the_json_that_is_documented() {
    on(Tier::One, every_verb);
}

/// What only goes with a box that is rented on demand.
fn on_demand(world: &World, documented: &str) {
    let mut training = Training::interruptible("demand", 3_000);
    training.rental = "on-demand";
    world.training(&training);
    world.ok(&["run", "demand.yaml", "--detach"]);
    let id = world.alive()[0]["id"].to_string();
    for case in ON_DEMAND {
        check(world, case, &id, documented);
    }
    world.ok(&["destroy", "--lose-data", "demand"]);
    world.assert_nothing_rented();
}

fn every_verb(world: &World) {
    let documented =
        std::fs::read_to_string(stories::workspace().join("controller/docs/json.md")).unwrap();
    let mut training = Training::interruptible("json", 30);
    training.on_done = "stop";
    // Three checkpoints that stay, and a box that does until it is stopped.
    training.command = Some("bash train.sh 30; [ -n \"$SPOTTER_CHECKPOINT\" ] || sleep 600");
    world.training(&training);
    let published = stories::workspace().join("controller/data/published-runs.tsv");
    let published = std::fs::read_to_string(published).unwrap();
    let (head, rows) = published.split_once('\n').unwrap();
    // Those first that state both a speed and a peak: their rows have all the keys.
    let mut rows: Vec<&str> = rows.lines().collect();
    let column = |name: &str| head.split('\t').position(|column| column == name).unwrap();
    let stated = ["tokens_per_s_total", "peak_vram_gb_per_gpu"].map(column);
    rows.sort_by_key(|row| {
        let cells: Vec<&str> = row.split('\t').collect();
        stated.iter().any(|column| cells[*column].is_empty())
    });
    world.write("published.tsv", &format!("{head}\n{}\n", rows.join("\n")));
    world.write("step-900.txt", "900\n");
    world.write(
        "printed.log",
        "step 1/9 | loss 2.5 | lr 1.00e-03 | 100.0 ms/step | 1,000 tok/s\nstep 2/9 | loss 2.25\n",
    );
    world.write(
        "failed.log",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n",
    );
    let yaml = std::fs::read_to_string(world.work().join("json.yaml")).unwrap();
    world.write(
        "model.yaml",
        &format!("{yaml}model: {{params: 124M, tokens: 10M}}\n"),
    );
    world.ok(&["run", "json.yaml", "--detach"]);
    let id = world.until("three checkpoints in the bucket", || {
        let said = world.say(&["checkpoints", "json", "--json"]);
        let rows: Value = serde_json::from_str(&said.stdout).ok()?;
        Some(rows[2]["id"].as_str()?.to_owned())
    });

    for verb in ["up", "wait"] {
        left(world, verb);
    }
    would_lose(world);
    for case in WHILE_IT_RUNS {
        check(world, case, &id, &documented);
    }
    for case in AFTERWARDS {
        check(world, case, &id, &documented);
    }
    world.say(&["destroy", "--lose-data", "json"]);
    world.assert_nothing_rented();
    on_demand(world, &documented);

    // A verb that is new has its place here, or says nothing that a program would read.
    // What `serve` prints is tried where it serves.
    let without_data = BTreeSet::from(["help", "checkpoints", "doctor", "run", "serve", "top"]);
    let known: BTreeSet<&str> = WHILE_IT_RUNS
        .iter()
        .chain(AFTERWARDS)
        .chain(ON_DEMAND)
        .filter_map(|case| case.args.split(' ').next())
        .chain(without_data)
        .collect();
    let help = world.ok(&["--help"]).stdout;
    let (_, verbs) = help.split_once("Commands:\n").unwrap();
    let (verbs, _) = verbs.split_once("\n\n").unwrap();
    for verb in verbs.lines().filter_map(|line| {
        let name = line.strip_prefix("  ")?;
        (!name.starts_with(' ')).then(|| name.split(' ').next())?
    }) {
        assert!(known.contains(verb), "`{verb} --json` is tried nowhere");
    }
}

/// Ctrl-C: who leaves is told where the run stands, and nothing happens to it.
fn left(world: &World, verb: &str) {
    let watched = || {
        let runs: Value = serde_json::from_str(&world.ok(&["ps", "--json"]).stdout).unwrap();
        runs["runs"][0]["watched_by_pid"].is_number()
    };
    assert!(!watched());
    let child = world
        .spotter(&[verb, "json", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    world.until("somebody watches", || watched().then_some(()));
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{verb}: {output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(printed.lines().count(), 1, "{verb}: {printed}");
    let value: Value = serde_json::from_str(&printed).unwrap();
    let run = value.get(0).unwrap_or(&value);
    assert_eq!(run["outcome"], Value::Null, "{verb}: {printed}");
}

/// One verb: what it prints, and what was promised.
fn check(world: &World, case: &Case, id: &str, documented: &str) {
    let args: Vec<&str> = case
        .args
        .split(' ')
        .map(|word| if word == "ID" { id } else { word })
        .chain(["--json"])
        .collect();
    let said = world.ok(&args);
    let (_, printed) = said.out.split_once('\n').unwrap();
    let values: Vec<Value> = said
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|err| panic!("{err}: {printed}")))
        .collect();
    assert!(!values.is_empty(), "{args:?} printed nothing: {printed}");
    if case.form == Form::One {
        assert_eq!(values.len(), 1, "{args:?} printed more: {printed}");
    }
    let section = documented::section(documented, case.section);
    for (at, keys) in case.keys {
        let may_be_none = at.ends_with('?');
        let at = at.trim_end_matches('?');
        for value in &values {
            let found = value
                .pointer(at)
                .unwrap_or_else(|| panic!("{args:?}: nothing at `{at}` of {value}"));
            let objects: Vec<&Value> = match found {
                Value::Array(rows) => rows.iter().collect(),
                Value::Null => Vec::new(),
                one => vec![one],
            };
            assert!(
                may_be_none || !objects.is_empty(),
                "{args:?}: nothing to try at `{at}` of {value}"
            );
            for object in objects {
                assert_has(object, keys);
            }
        }
        for key in keys.split_whitespace() {
            let told =
                section.contains(&format!("`{key}`")) || section.contains(&format!("\"{key}\""));
            assert!(told, "`{key}` of `{}` is not documented", case.args);
        }
    }
}

/// Every one of these keys is there, whatever its value.
#[track_caller]
pub fn assert_has(object: &Value, keys: &str) {
    for key in keys.split_whitespace() {
        assert!(object.get(key).is_some(), "`{key}` is missing in {object}");
    }
}

/// A refusal is data as well: the box trains, and its result is nowhere else.
fn would_lose(world: &World) {
    let refused = world.say(&["destroy", "json", "--json"]);
    assert_eq!(refused.code, 1, "{}", refused.out);
    let value: Value = serde_json::from_str(&refused.stdout).unwrap();
    assert_has(&value, LOSSES.0);
    let losses = value["would_lose"].as_array().unwrap();
    assert!(!losses.is_empty(), "{value}");
    for loss in losses {
        assert_has(loss, LOSSES.1);
    }
}
