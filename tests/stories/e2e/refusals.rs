//! (h) What cannot be done is refused with what, why, what it costs and what to type next, and nothing is left rented. The whole
//! texts lie beside this file, the same on every tier: `INSTA_UPDATE=always` writes them anew.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use regex::{Captures, Regex};

use crate::world::{Said, Training, World, on_both_tiers};

on_both_tiers! {
    what_cannot_be_done_is_refused_before_anything_is_rented: before_renting;
    a_long_run_without_a_plan_starts_only_when_it_is_told_to: without_a_plan;
    a_bucket_that_refuses_the_box_ends_the_box: refused_from_the_box;
    offers_that_are_gone_are_passed_over_until_one_is_left: offers_gone;
    a_bid_below_the_floor_leaves_nothing_rented: bid_below_floor;
    offers_that_are_all_gone_are_not_tried_for_ever: every_offer_gone;
    a_box_that_refuses_our_key_is_given_up_and_nothing_is_left_rented: key_refused;
    a_key_that_sshd_lets_in_late_is_waited_for_and_no_other_box_is_taken: key_late;
    a_box_that_never_opens_a_port_for_ssh_is_given_up_and_nothing_is_left_rented: no_port;
}

fn before_renting(world: &World) {
    world.training(&Training::interruptible("refused", 20));
    let yaml = std::fs::read_to_string(world.work().join("refused.yaml")).unwrap();
    let file = |name: &str, from: &str, to: &str| {
        let changed = yaml.replace(from, to);
        assert_ne!(changed, yaml, "`{from}` is in the run file");
        world.write(&format!("{name}.yaml"), &changed);
    };

    let mut wrong_key = world.spotter(&["run", "refused.yaml"]);
    wrong_key.env("VAST_API_KEY", "wrong");
    refused(world, "wrong_key", &mut wrong_key);
    let mut no_key = world.spotter(&["run", "refused.yaml"]);
    no_key.env_remove("VAST_API_KEY");
    refused(world, "no_key", &mut no_key);
    let mut half_a_pair = world.spotter(&["run", "refused.yaml"]);
    half_a_pair.env_remove("AWS_ACCESS_KEY_ID");
    refused(world, "half_of_the_bucket_keys", &mut half_a_pair);

    // Nothing but what the story itself needs to be an ordinary user.
    let nearly_nothing = world.dir().join("nearly-nothing");
    std::fs::create_dir(&nearly_nothing).unwrap();
    std::os::unix::fs::symlink("/usr/bin/setpriv", nearly_nothing.join("setpriv")).unwrap();
    let mut no_ssh = world.spotter(&["run", "refused.yaml"]);
    no_ssh.env("PATH", &nearly_nothing);
    refused(world, "no_ssh", &mut no_ssh);

    file("unknown", "checkpoints:", "chekpoints:");
    refused(
        world,
        "unknown_key",
        &mut world.spotter(&["run", "unknown.yaml"]),
    );
    file("unsafe", "  to: s3", "  # to: s3");
    refused(
        world,
        "interruptible_without_bucket",
        &mut world.spotter(&["run", "unsafe.yaml"]),
    );
    file("disk", "disk: 20GB", "disk: 60TB");
    refused(
        world,
        "disk_too_small",
        &mut world.spotter(&["run", "disk.yaml"]),
    );
    file(
        "bid",
        "rental: interruptible",
        "rental: interruptible, bid: {max: 0.001}",
    );
    refused(
        world,
        "bid_below_floor",
        &mut world.spotter(&["run", "bid.yaml"]),
    );
    file("bucket", "s3://", "s3://not-there-");
    refused(
        world,
        "no_such_bucket",
        &mut world.spotter(&["run", "bucket.yaml"]),
    );
    world.ctl(&[
        "s3",
        r#"{"inject": {"operation": "PutObject", "fault": "denied"}}"#,
    ]);
    refused(
        world,
        "bucket_refuses_writes",
        &mut world.spotter(&["run", "refused.yaml"]),
    );
    world.ctl(&["s3", r#"{"heal": true}"#]);
    refused(
        world,
        "no_such_run",
        &mut world.spotter(&["status", "nobody"]),
    );
    let rented = world.ctl(&["state"])["instances"].as_array().unwrap().len();
    assert_eq!(rented, 0, "none of this was a reason to rent");
}

fn without_a_plan(world: &World) {
    world.training(&Training::interruptible("unplanned", 15));
    let yaml = std::fs::read_to_string(world.work().join("unplanned.yaml")).unwrap();
    let unbounded = yaml.replace(", max_runtime: 1h", "");
    assert_ne!(unbounded, yaml);
    world.write("unplanned.yaml", &unbounded);
    let mut run = world.spotter(&["run", "unplanned.yaml"]);
    refused(world, "no_plan", &mut run);
    let rented = world.ctl(&["state"])["instances"].as_array().unwrap().len();
    assert_eq!(rented, 0);
    assert!(world.status("unplanned").is_null(), "its name is free");

    // Said what is trained, it passes, and what was planned is kept.
    let model = "model: {params: 124M, seq_len: 1024, micro_batch: 16, tokens: 10B}\n";
    world.write("planned.yaml", &format!("{unbounded}{model}"));
    let said = world.ok(&["run", "planned.yaml", "--name", "planned", "--detach"]);
    assert!(said.stderr.contains("Planned: "), "{}", said.out);
    let plan = world.status("planned")["plan"].clone();
    assert_eq!(
        (&plan["needed"], &plan["no_plan"]),
        (&true.into(), &false.into())
    );
    assert_eq!(plan["gates"].as_array().unwrap().len(), 5, "{plan}");
    world.ok(&["destroy", "--lose-data", "planned"]);

    let said = world.ok(&["run", "--no-plan", "unplanned.yaml"]);
    assert!(!said.stderr.contains("Planned: "), "{}", said.out);
    let plan = world.status("unplanned")["plan"].clone();
    assert_eq!(
        (&plan["needed"], &plan["no_plan"]),
        (&true.into(), &true.into())
    );
    let shown = world.ok(&["status", "--recorded", "unplanned"]);
    assert!(
        shown.stdout.contains("skipped with `--no-plan`"),
        "{}",
        shown.out
    );
    world.assert_nothing_rented();
}

fn refused_from_the_box(world: &World) {
    world.training(&Training::interruptible("denied", 20));
    // The laptop's own proof writes once; what comes after it is the box.
    world.ctl(&[
        "s3",
        r#"{"inject": {"operation": "PutObject", "after": 1, "fault": "denied"}}"#,
    ]);
    refused(
        world,
        "bucket_refuses_the_box",
        &mut world.spotter(&["run", "denied.yaml"]),
    );
    let rented = world.ctl(&["state"])["instances"].as_array().unwrap().len();
    assert_eq!(rented, 1, "the laptop could write, so a box was rented");
}

fn offers_gone(world: &World) {
    world.training(&Training::interruptible("gone", 15));
    world.ctl(&["faults", r#"{"offers_gone": 2, "offers_gone_status": 410}"#]);
    let said = world.ok(&["run", "gone.yaml"]);
    assert_eq!(
        said.stderr.matches("is gone; trying the next one").count(),
        2,
        "{}",
        said.out
    );
    world.assert_nothing_rented();
}

/// The price rises between the search and the order: the market refuses, and makes a stopped box all the same, which bills its disk.
fn bid_below_floor(world: &World) {
    let file = |name: &'static str| {
        world.training(&Training::interruptible(name, 15));
        format!("{name}.yaml")
    };
    let rise = |times: u32| world.ctl(&["faults", &format!("{{\"bids_too_low\": {times}}}")]);
    // What the refused bid left comes first, and charged no GPU; answers how many there are.
    let bills = |run: &str| {
        let bills = world.bills_of(run);
        for bill in &bills {
            assert!(!bill["destroyed_ms"].is_null(), "{bill}");
        }
        assert_eq!(bills[0]["gpu_seconds"], 0.0, "{bills:?}");
        assert!(bills[0]["storage_usd"].as_f64() > Some(0.0), "{bills:?}");
        bills
    };

    let once = file("rose");
    rise(1);
    let said = world.ok(&["run", &once]);
    assert_eq!(
        said.stderr.matches("is below the floor").count(),
        1,
        "{}",
        said.out
    );
    world.assert_nothing_rented();
    let both = bills("rose");
    assert_eq!(
        both.len(),
        2,
        "its box, and what the refused bid left: {both:?}"
    );
    assert!(both[1]["gpu_seconds"].as_f64() > Some(0.0), "{both:?}");
    let billed_usd: f64 = both
        .iter()
        .filter_map(|bill| bill["total_usd"].as_f64())
        .sum();
    let status = world.status("rose");
    let charged_usd = status["charged_usd"].as_f64().expect("both are gone");
    assert!((charged_usd - billed_usd).abs() < 1e-6, "{status} {both:?}");
    assert_eq!(status["attempts"].as_array().unwrap().len(), 1, "{status}");

    // Killed before the box that nobody wants is destroyed: it is found by its label.
    let killed = file("killed");
    rise(1);
    let died = world
        .spotter(&["run", &killed])
        .env("SPOTTER_DIE_AT", "provider.discard.before")
        .output()
        .unwrap();
    assert_eq!(died.status.code(), None, "{died:?}");
    assert_eq!(world.alive().len(), 1);
    world.ok(&["up", "killed"]);
    world.assert_nothing_rented();
    assert_eq!(bills("killed").len(), 2);

    // A price that runs away from a highest bid, on the one machine that is asked for.
    let ever = file("rises");
    let yaml = std::fs::read_to_string(world.work().join(&ever)).unwrap();
    let narrow = yaml.replace(
        "rental: interruptible",
        "rental: interruptible, offers: \"geolocation=CZ\", bid: {max: 0.30}",
    );
    assert_ne!(narrow, yaml);
    world.write(&ever, &narrow);
    rise(100);
    refused(world, "bid_refused", &mut world.spotter(&["run", &ever]));
    let left = bills("rises");
    assert!(
        left.iter().all(|bill| bill["gpu_seconds"] == 0.0),
        "{left:?}"
    );
}

/// Orders have their pace, so this takes a minute.
fn every_offer_gone(world: &World) {
    world.training(&Training::interruptible("all-gone", 15));
    world.ctl(&[
        "faults",
        r#"{"offers_gone": 100, "offers_gone_status": 410}"#,
    ]);
    refused(
        world,
        "every_offer_gone",
        &mut world.spotter(&["run", "all-gone.yaml"]),
    );
}

fn key_refused(world: &World) {
    let mut training = Training::interruptible("mute", 15);
    training.bring_up = "10s";
    world.training(&training);
    world.ctl(&["faults", r#"{"key_delay_s": 100000}"#]);
    refused(
        world,
        "key_refused",
        &mut world.spotter(&["run", "mute.yaml"]),
    );
}

/// What only takes its time is not refused.
fn key_late(world: &World) {
    world.training(&Training::interruptible("late", 15));
    world.ctl(&["faults", r#"{"key_delay_s": 12}"#]);
    let began = Instant::now();
    let said = Said::of(world.spotter(&["run", "late.yaml"]).output().unwrap());
    assert_eq!(said.code, 0, "{}\n{}", said.out, said.stderr);
    assert!(began.elapsed() >= Duration::from_secs(12), "{}", said.out);
    assert_eq!(world.bills_of("late").len(), 1);
    world.assert_nothing_rented();
}

fn no_port(world: &World) {
    let mut training = Training::interruptible("shut", 15);
    training.bring_up = "10s";
    world.training(&training);
    world.ctl(&["faults", r#"{"ports_delay_s": 100000}"#]);
    refused(world, "no_port", &mut world.spotter(&["run", "shut.yaml"]));
}

/// Runs it, holds what it says against the snapshot of that name, and looks whether anything is rented.
#[track_caller]
fn refused(world: &World, name: &str, command: &mut Command) {
    let said = Said::of(command.output().unwrap());
    assert!([1, 2].contains(&said.code), "{}", said.out);
    insta::with_settings!({
        snapshot_path => Path::new("refusals"),
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        insta::assert_snapshot!(name, format!("exit: {}\n{}", said.code, plain(world, &said.stderr)));
    });
    world.assert_nothing_rented();
}

/// What ssh may say of a box that does not let it in. Which of them it saw last is a matter of the tier and of the moment.
const WHY_SSH: [&str; 5] = [
    "connection refused",
    "no answer in time",
    "cannot be reached",
    "connection closed before login",
    "key not accepted",
];

/// What differs from one telling to the next is replaced by its name.
pub fn plain(world: &World, text: &str) -> String {
    let mut text = text.replace(&world.dir().display().to_string(), "[home]");
    let one = |text: &str, pattern: &str, by: &str| {
        Regex::new(pattern)
            .unwrap()
            .replace_all(text, by)
            .into_owned()
    };
    text = Regex::new(r"ssh \S+:\d+: ([a-z ]+)(?:\((?:[^()]|\([^()]*\))*\))?")
        .unwrap()
        .replace_all(&text, |found: &Captures<'_>| {
            assert!(WHY_SSH.contains(&found[1].trim()), "{}", &found[0]);
            "ssh [address]: [why]"
        })
        .into_owned();
    text = one(&text, r"\b(127|10)(\.\d+){3}(:\d+)?", "[address]");
    text = one(&text, r"\$\d+\.\d+", "$$[money]");
    text = one(&text, r"\b([Oo]ffer,?|[Ii]nstance) \d+", "$1 [id]");
    text = one(&text, r"\b[0-9A-HJKMNP-TV-Z]{26}\b", "[ulid]");
    // What a box is, is a matter of the machine that plays it.
    text = one(
        &text,
        r"(What its box is:)(?:\n  (?:GPUs|VRAM|driver|compute|NVLink|errors|RAM|CPU|disk) .*)+",
        "$1 [as it is]",
    );
    // A watcher says the same as often as it looked; and how large the agent is, is its own affair.
    let mut lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.contains("] agent: "))
        .collect();
    lines.dedup();
    let whole = lines.join("\n");
    Regex::new(r"\b(\d+) s\b")
        .unwrap()
        .replace_all(&whole, |_: &Captures<'_>| "[n] s")
        .into_owned()
}
