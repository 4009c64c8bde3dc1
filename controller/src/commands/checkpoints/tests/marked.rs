//! What is done about a checkpoint that a mark in the bucket calls damaged.

use std::path::Path;

use super::desk::{Desk, NOW_US, TO};
use crate::{
    clock::Clock,
    run::marks::DAMAGED,
    spec,
    store::{RunRecord, Store},
};

/// Two checkpoints, the newer one marked, though its data is whole.
fn marked() -> (Desk, String, String) {
    let mut desk = Desk::new();
    let (older, newest) = (desk.push(10), desk.push(20));
    let mark = format!("team/run/damaged/{newest}.json");
    desk.bucket.insert(&mark, "{}");
    (desk, older, newest)
}

#[test]
fn a_pull_takes_one_without_a_mark_first_and_says_which_it_left() {
    let (desk, older, newest) = marked();
    let (code, out, err) = desk.say(&["pull", "run", "--to", &desk.to()]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains(&older), "{out}");
    let told = format!(
        "the newest checkpoint, {newest}, is marked in the bucket as damaged: taking {older} instead"
    );
    assert!(err.contains(&told), "{err}");

    // Named, it is tried, and what comes of it is proved.
    let (code, out, err) = desk.say(&["pull", "run", "newest", "--to", &desk.to()]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains(&newest), "{out}");
    let told = format!("checkpoint {newest} is marked in the bucket as damaged");
    assert!(err.contains(&told), "{err}");

    // Where nothing else is whole, it is tried as well.
    let (desk, older, newest) = marked();
    assert!(desk.bucket.corrupt(&desk.key(&older, "model.dat")));
    let pulled = desk.json(&["pull", "run", "--to", &desk.to()]);
    assert_eq!(pulled["id"], newest.as_str());
    assert_eq!(pulled["skipped"].as_array().unwrap().len(), 1, "{pulled}");
}

#[test]
fn one_that_is_shown_says_who_found_it_damaged_when_and_what() {
    let (desk, older, newest) = marked();
    let (_, _, err) = desk.say(&["show", "run", &newest]);
    assert!(err.contains("its data was found damaged\n"), "{err}");
    let (_, _, err) = desk.say(&["show", "run", &older]);
    assert!(!err.contains("damaged"), "{err}");
    assert!(desk.json(&["show", "run", &older])["damaged"].is_null());

    assert!(desk.bucket.remove(&desk.key(&older, "model.dat")));
    desk.say(&["verify", "run", &older]);
    let (code, _, err) = desk.say(&["show", "run", &older]);
    assert_eq!(code, 0, "{err}");
    assert!(
        err.contains("by `spotter checkpoints verify`: model.dat: its data is gone"),
        "{err}"
    );
    assert!(err.contains("its data was found damaged 20"), "{err}");
    let mark = &desk.json(&["show", "run", &older])["damaged"];
    assert_eq!(mark["by"], "verify");
    assert_eq!(mark["why"], "model.dat: its data is gone");
    assert!(mark["since_us"].as_u64() > Some(0));
}

#[test]
fn marks_go_into_the_record_of_a_run_from_its_own_bucket_alone() {
    for (to, noted) in [("s3://elsewhere/team", 0), (TO, 1)] {
        let (desk, _, _) = marked();
        let path = desk.dir.path().join("spotter.db");
        let store = Store::open(&path, Clock::new(|| NOW_US)).unwrap();
        let text = format!(
            "name: run\nrun: python train.py\nresources: {{accelerators: RTX 4090, disk: 40GB}}\n\
             checkpoints: {{dir: checkpoints, to: \"{to}\"}}\n"
        );
        let spec = spec::parse(&text, "run.yaml", Path::new("/")).unwrap();
        let run = RunRecord {
            name: "run".to_owned(),
            spec,
            created_us: NOW_US,
            stop_requested: false,
            outcome: None,
            reason: None,
        };
        store.create_run(&run).unwrap();
        let (code, _, err) = desk.say(&["ls", "run"]);
        assert_eq!(code, 0, "{err}");
        let events = store.events("run", 0).unwrap();
        let found = events.iter().filter(|event| event.kind == DAMAGED);
        assert_eq!(found.count(), noted, "{to}");
    }
}

#[test]
fn a_pin_of_a_marked_one_is_done_and_warned_about() {
    let (desk, older, newest) = marked();
    let (code, _, err) = desk.say(&["pin", "run", &newest]);
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("its data was found damaged"), "{err}");
    let hint = format!("`spotter checkpoints pin run {older}`");
    assert!(err.contains(&hint), "{err}");
    let (_, _, err) = desk.say(&["pin", "run", &older]);
    assert!(!err.contains("damaged"), "{err}");
}
