//! (a) From an offer to a destroyed box.

use std::{fs, path::Path};

use serde_json::Value;

use crate::world::{Training, World, gpus_charged_at_once, on_both_tiers};

on_both_tiers! {
    a_run_goes_from_offer_to_destroyed_box: happy_path;
}

fn happy_path(world: &World) {
    let run = Training::interruptible("happy", 120);
    world.training(&run);

    let offers = world.ok(&[
        "offers",
        "--gpus",
        "RTX 4090:1",
        "--interruptible",
        "--json",
    ]);
    let offers: Value = serde_json::from_str(&offers.stdout).unwrap();
    assert!(!offers["offers"].as_array().unwrap().is_empty(), "{offers}");
    world.ok(&["plan", "happy.yaml"]);
    assert!(world.alive().is_empty(), "a plan spends nothing");

    let mut running = world.background(&["run", "happy.yaml", "--json"]);
    let instance = world.until_step("happy", 1, 20);
    assert_the_bucket_s_secret_is_nowhere(world, instance);
    // Traffic costs, too, and only the provider meters it. It makes a bill of which a cent is a small part.
    world.ctl(&[
        "traffic",
        &instance.to_string(),
        "--down-gb",
        "40",
        "--up-gb",
        "15",
    ]);
    assert_eq!(running.wait(), 0, "{}\n{}", running.text(), world.sim_log());

    let said = running.text();
    let json: Vec<&str> = said.lines().filter(|line| line.starts_with('{')).collect();
    assert_eq!(json.len(), 1, "{said}");
    let summary: Value = serde_json::from_str(json[0]).unwrap();
    assert_eq!(summary["outcome"], "done", "{said}");
    assert_eq!(summary["attempts"].as_array().unwrap().len(), 1);
    assert_eq!(summary["attempts"][0]["instance"], instance);
    assert_eq!(summary["step"], 120);
    assert!(summary["checkpoints_committed"].as_u64().unwrap() >= 1);
    assert_eq!(
        fs::read_to_string(world.work().join("results-happy/out/final.txt")).unwrap(),
        "final 120\n"
    );
    world.assert_nothing_rented();

    // What it printed outlives the box, and so do its checkpoints.
    let log = fs::read_to_string(world.spotter_home().join("logs/happy/1-train.log")).unwrap();
    for step in 1..=120 {
        assert_eq!(
            log.matches(&format!("step {step}/120 ")).count(),
            1,
            "step {step} in\n{log}"
        );
    }
    let checkpoints = world.ok(&["checkpoints", "happy", "--json"]);
    let checkpoints: Value = serde_json::from_str(&checkpoints.stdout).unwrap();
    assert_eq!(checkpoints[0]["step"], 120, "{checkpoints}");

    assert_paid_as_billed(world, &summary);
    assert!(summary["charged_usd"].as_f64().unwrap() > 0.10, "{summary}");
}

/// Our own intervals, the provider's charges and the simulator's bill agree, attempt by attempt. A box that the market took back was
/// known to be gone 20 s later at most.
pub fn assert_paid_as_billed(world: &World, summary: &Value) {
    let attempts = summary["attempts"].as_array().unwrap();
    let (mut billed_usd, mut ours_usd) = (0.0, 0.0);
    for attempt in attempts {
        let bill = world.bill(attempt["instance"].as_u64().unwrap());
        let usd = |from: &Value, key: &str| {
            let found = from[key].as_f64();
            found.unwrap_or_else(|| panic!("no {key} in {from}"))
        };
        let ours = &attempt["ledger"];
        let charged = &attempt["charged"];
        let taken_back = attempt["state"] == "interrupted" || attempts.last() != Some(attempt);
        let known_after_s = if taken_back { 20.0 } else { 0.0 };
        let rate = usd(attempt, "gpu_usd_per_hour");
        for (name, theirs) in [("gpu_usd", "gpu_usd"), ("disk_usd", "storage_usd")] {
            let (ours, theirs) = (usd(ours, name), usd(&bill, theirs));
            let may_differ = (0.01 * theirs).max(1e-4) + known_after_s * rate / 3_600.0;
            println!("{name}: {ours:.6} by the ledger, {theirs:.6} by the bill");
            assert!(
                (ours - theirs).abs() <= may_differ,
                "{name}: {ours} by the ledger, {theirs} by the bill of {bill}"
            );
            assert!(theirs > 0.0 && ours > 0.0, "{name} of {bill}");
        }
        for (name, theirs) in [
            ("gpu_usd", "gpu_usd"),
            ("disk_usd", "storage_usd"),
            ("bandwidth_usd", "traffic_usd"),
        ] {
            let (charged, theirs) = (usd(charged, name), usd(&bill, theirs));
            assert!(
                (charged - theirs).abs() < 1e-6,
                "{name}: {charged} was charged, {theirs} is on the bill of {bill}"
            );
        }
        billed_usd += usd(&bill, "total_usd");
        ours_usd += ["gpu_usd", "disk_usd", "bandwidth_usd"]
            .map(|name| usd(ours, name))
            .iter()
            .sum::<f64>();
    }
    let of_run = |key: &str| summary[key].as_f64().expect("the bill is closed");
    assert!((of_run("charged_usd") - billed_usd).abs() < 1e-6);
    // On a machine that has other traffic its counters tell some that nobody bills.
    let billed = of_run("cost_usd") - of_run("unbilled_traffic_usd");
    assert!((billed - billed_usd).abs() < 1e-6);
    assert!((of_run("ledger_usd") - ours_usd).abs() < 1e-9);
    let bills = world.bills_of(summary["name"].as_str().unwrap());
    assert_eq!(bills.len(), attempts.len(), "a box for each attempt");
    assert!(!gpus_charged_at_once(&bills), "{bills:?}");
}

/// Bucket keys live in the memory of two programs: they are in no file and on no command line, of the box or of the laptop.
fn assert_the_bucket_s_secret_is_nowhere(world: &World, instance: u64) {
    let (_, secret) = world.bucket_keys();
    assert!(secret.len() >= 16, "long enough not to be found by chance");
    let secret = secret.as_bytes();
    let home = world.home(instance);
    assert!(holds_files(&home), "{} is a home", home.display());
    let found = files_with(&home, secret);
    assert!(found.is_empty(), "on the box: {found:?}");
    let laptop = world.spotter_home();
    assert!(holds_files(&laptop) && laptop.join("spotter.db").exists());
    let found = files_with(&laptop, secret);
    assert!(found.is_empty(), "on the laptop: {found:?}");
    let (mut lines, mut environments) = (0, 0);
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let of = String::from_utf8_lossy(&line).replace('\0', " ");
        lines += usize::from(!of.is_empty());
        assert!(!holds(&line, secret), "on a command line: {of}");
        // What runs on a box has this in its environment, or is the agent; the laptop's own programs were given the secret in theirs.
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let on_a_box =
            holds(&environment, b"SPOTTER_CHECKPOINT_DIR=") || of.contains("/bin/agent daemon");
        if on_a_box && !environment.is_empty() {
            environments += 1;
            assert!(!holds(&environment, secret), "in the environment of {of}");
        }
    }
    assert!(
        lines > 5 && environments >= 2,
        "{lines} command lines and {environments} environments were seen"
    );
}

fn holds(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

fn holds_files(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|entries| entries.count() > 0)
}

/// Regular files below a folder that hold these bytes. What is written while we look may be gone when its turn comes.
fn files_with(dir: &Path, wanted: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(next).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            if kind.is_dir() {
                waiting.push(entry.path());
            } else if kind.is_file() && holds(&fs::read(entry.path()).unwrap_or_default(), wanted) {
                found.push(entry.path().display().to_string());
            }
        }
    }
    found
}
