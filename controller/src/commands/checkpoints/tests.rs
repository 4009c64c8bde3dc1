//! The verbs over a bucket in memory: a laptop without a box.

mod desk;
mod marked;
mod pruning;
mod refusals;

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use serde_json::Value;
use spotter_bucket::{ErrorKind, Target, memory::MemoryBucket, whole::samples};

use self::desk::{Desk, NOW_US, TO, noise};
use super::first_answer;
use crate::{
    checkpoints::Shelf,
    clock::Clock,
    ui::{Ui, UiOptions, paper::Paper},
};

#[test]
fn what_is_pushed_is_listed_shown_compared_and_pulled_bit_by_bit() {
    let mut desk = Desk::new();
    let first = desk.push(100);
    let second = desk.push(200);
    assert!(second.starts_with("000000000200-"));

    for words in [&["run"][..], &["ls", "run"]] {
        let rows = desk.json(words);
        assert_eq!(rows[0]["id"], second.as_str());
        assert_eq!(rows[1]["step"], 100);
        assert_eq!(rows[1]["pinned"], false);
        assert_eq!(rows[1]["files"], 3);
    }
    let shown = desk.json(&["show", "run"]);
    assert_eq!(shown["id"], second.as_str());
    let files = shown["files"].as_array().unwrap();
    let shared: Vec<bool> = files
        .iter()
        .map(|file| file["shared"].as_bool().unwrap())
        .collect();
    assert_eq!(
        shared,
        [false, false, true],
        "the tokenizer was not sent again"
    );

    let compared = desk.json(&["diff", "run", "100"]);
    assert_eq!(compared["before"], first.as_str());
    let changes: Vec<&str> = compared["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| file["change"].as_str().unwrap())
        .collect();
    assert_eq!(changes, ["changed", "changed", "same"]);

    let pulled = desk.json(&["pull", "run", "100", "--to", &desk.to()]);
    let there = PathBuf::from(pulled["path"].as_str().unwrap());
    assert_eq!(there, PathBuf::from(desk.to()).join("checkpoint-100"));
    assert_eq!(
        fs::read(there.join("model.dat")).unwrap(),
        noise(100, 9 << 20)
    );
    assert_eq!(
        fs::read(there.join("deep/state.json")).unwrap(),
        b"{\"step\": 100}"
    );
    assert!(
        desk.bucket
            .keys()
            .iter()
            .all(|key| !key.contains("/readers/"))
    );
    let mtime = fs::metadata(there.join("model.dat"))
        .unwrap()
        .modified()
        .unwrap();
    let since = mtime.duration_since(std::time::UNIX_EPOCH).unwrap();
    let committed = desk.manifest(&first).files[1].mtime_ns;
    assert_eq!(since, Duration::from_nanos(committed as u64));

    // Again: it is there. Something else in its place is never touched.
    let again = desk.json(&["pull", "run", "100", "--to", &desk.to()]);
    assert_eq!(again["fetched_bytes"], 0);
    fs::write(there.join("model.dat"), "mine").unwrap();
    let (code, _, err) = desk.say(&["pull", "run", "100", "--to", &desk.to()]);
    assert_eq!(code, 1);
    assert!(
        err.contains("is there already, and is not this checkpoint"),
        "{err}"
    );
    assert_eq!(fs::read(there.join("model.dat")).unwrap(), b"mine");
}

#[test]
fn verify_names_each_damaged_file_and_how_and_pull_passes_it_over_aloud() {
    let mut desk = Desk::new();
    let ids: Vec<String> = (1..=5).map(|step| desk.push(step * 10)).collect();
    let (code, out, _) = desk.say(&["verify", "run"]);
    assert_eq!((code, out.matches("whole").count()), (0, 5), "{out}");

    let model = |at: usize| desk.key(&ids[at], "model.dat");
    let state = |at: usize| desk.key(&ids[at], "deep/state.json");
    assert!(desk.bucket.corrupt(&model(4)));
    assert!(desk.bucket.remove(&model(3)));
    let whole = desk.bucket.object(&model(2)).unwrap();
    desk.bucket.insert(&model(2), whole.slice(..77));
    desk.bucket.insert(&state(1), "{\"step\": 20} and more");
    let (code, out, err) = desk.say(&["verify", "run", "--json"]);
    assert_eq!(code, 1);
    assert!(
        err.contains("error: 4 of 5 checkpoints of `run` are damaged"),
        "{err}"
    );
    let verified: Value = serde_json::from_str(&out).unwrap();
    let damage = |at: usize| {
        let files = verified["checkpoints"][at]["files"]
            .as_array()
            .unwrap()
            .clone();
        assert_eq!(files.len(), 1, "{verified}");
        files[0].clone()
    };
    // Newest first.
    assert_eq!(damage(0)["damage"], "altered");
    assert_eq!(damage(0)["path"], "model.dat");
    assert_eq!(damage(0)["key"], model(4));
    assert_eq!(damage(1)["damage"], "missing");
    assert_eq!(
        (&damage(2)["damage"], &damage(2)["found_bytes"]),
        (&"size".into(), &77.into())
    );
    assert_eq!(damage(3)["path"], "deep/state.json");
    assert_eq!(damage(3)["damage"], "size");
    assert_eq!(verified["checkpoints"][4]["files"], serde_json::json!([]));
    // Whoever only lists them sees it as well.
    let listed = desk.json(&["run"]);
    let listed: Vec<bool> = (listed.as_array().unwrap().iter())
        .map(|row| row["damaged"].as_bool().unwrap())
        .collect();
    assert_eq!(listed, [true, true, true, true, false]);
    assert_eq!(desk.say(&["run"]).1.matches("  damaged  ").count(), 4);

    // What is marked is tried last.
    let pulled = desk.json(&["pull", "run", "--to", &desk.to()]);
    assert_eq!(pulled["step"], 10);
    assert_eq!(pulled["skipped"].as_array().unwrap().len(), 4);
    for id in &ids[1..] {
        assert!(desk.bucket.remove(&format!("team/run/damaged/{id}.json")));
    }
    let pulled = desk.json(&["pull", "run", "--to", &desk.to()]);
    // A longer object still holds what was committed; a pull proves what it takes.
    assert_eq!(pulled["step"], 20);
    assert_eq!(pulled["skipped"].as_array().unwrap().len(), 3);
    let (_, _, err) = desk.say(&["pull", "run", "--to", &desk.to()]);
    assert_eq!(
        err.matches("is damaged and passed over").count(),
        3,
        "{err}"
    );
    let (code, _, err) = desk.say(&["pull", "run", "50", "--to", &desk.to()]);
    assert_eq!(code, 1);
    assert!(err.contains("its hash differs in bytes"), "{err}");
    assert!(!PathBuf::from(desk.to()).join("checkpoint-50").exists());
}

#[test]
fn a_commit_that_was_altered_is_told_and_never_believed() {
    let mut desk = Desk::new();
    desk.push(10);
    let forged = desk.push(20);
    assert!(
        desk.bucket
            .corrupt(&format!("team/run/commits/{forged}.json"))
    );
    let (code, out, err) = desk.say(&["ls", "run", "--json"]);
    assert_eq!(code, 0);
    assert!(
        err.contains(&format!("checkpoint {forged} is damaged")),
        "{err}"
    );
    assert_eq!(
        serde_json::from_str::<Value>(&out)
            .unwrap()
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(desk.say(&["verify", "run"]).0, 1);
    assert_eq!(desk.json(&["pull", "run", "--to", &desk.to()])["step"], 10);
    assert_eq!(desk.say(&["show", "run", "20"]).0, 1);
}

#[test]
fn a_checkpoint_that_is_not_there_is_a_mistake_of_the_command_line() {
    let mut desk = Desk::new();
    let (code, _, err) = desk.say(&["show", "run"]);
    assert_eq!(code, 2);
    assert!(err.contains("run `run` has no checkpoint"), "{err}");
    desk.push(7);
    let (code, _, err) = desk.say(&["pull", "run", "8"]);
    assert_eq!(code, 2);
    assert!(err.contains("there is none of step 8, only of 7"), "{err}");
    let (code, _, err) = desk.say(&["push", "run", "/nowhere/checkpoint-9"]);
    assert_eq!(code, 2);
    assert!(err.contains("No such file"), "{err}");
}

#[test]
fn links_and_hidden_names_are_no_checkpoint() {
    let mut desk = Desk::new();
    let dir = desk.checkpoint(5);
    std::os::unix::fs::symlink("/etc/passwd", dir.join("link")).unwrap();
    let (code, _, err) = desk.say(&["push", "run", dir.to_str().unwrap()]);
    assert_eq!(code, 2);
    assert!(err.contains("it is a link or no regular file"), "{err}");
    let hidden = desk.dir.path().join(".hidden");
    fs::write(&hidden, "x").unwrap();
    assert_eq!(desk.say(&["push", "run", hidden.to_str().unwrap()]).0, 2);
    assert_eq!(desk.bucket.keys(), Vec::<String>::new());
}

#[test]
fn what_is_torn_empty_or_half_written_is_never_pushed() {
    let desk = Desk::new();
    let zip = samples::zip(&[("data.pkl", b"weights")], true);
    let trainers = samples::safetensors(&[7; 64]);
    for (name, bytes, why) in [
        ("step_1.pt", &zip[..zip.len() - 30], "step_1.pt: "),
        ("step_2.pt", &[][..], "step_2.pt: 0 bytes are no checkpoint"),
        ("step_3.any", &[], "step_3.any: 0 bytes are no checkpoint"),
        (
            "save-4/model.safetensors",
            &trainers[..40],
            "model.safetensors",
        ),
        (
            "checkpoint-5/model.safetensors",
            &trainers,
            "trainer_state.json",
        ),
        (
            "checkpoint-6/.tmp-part",
            &zip,
            ".tmp-part: a temporary file is in it",
        ),
    ] {
        let path = desk.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        let top = desk.dir.path().join(name.split('/').next().unwrap());
        if top.is_dir() {
            fs::write(top.join("config.json"), "{}").unwrap();
        }
        let (code, _, err) = desk.say(&["push", "run", top.to_str().unwrap()]);
        assert_eq!(code, 2, "{name}: {err}");
        assert!(
            err.contains("is no whole checkpoint: ") && err.contains(why),
            "{name}: {err}"
        );
    }
    assert_eq!(desk.bucket.keys(), Vec::<String>::new());
    let whole = desk.dir.path().join("step_7.pt");
    fs::write(&whole, &zip).unwrap();
    let pushed = desk.json(&["push", "run", whole.to_str().unwrap()]);
    assert_eq!(pushed["step"], 7);
    // A checkpoint that is one file has that file's name wherever it is spoken of.
    let id = pushed["id"].as_str().unwrap().to_owned();
    assert_eq!(desk.json(&["show", "run"])["files"][0]["path"], "step_7.pt");
    let key = desk.manifest(&id).files[0].key.clone();
    assert!(desk.bucket.corrupt(&key));
    let (code, out, err) = desk.say(&["verify", "run"]);
    assert_eq!(code, 1);
    assert!(out.contains("step_7.pt: its hash differs"), "{out}");
    assert!(err.contains("no other one restores"), "{err}");
    let (_, _, err) = desk.say(&["pull", "run", "7", "--to", &desk.to()]);
    assert!(err.contains("\"step_7.pt\" is damaged"), "{err}");
}

#[test]
fn of_a_damaged_checkpoint_it_is_said_which_one_a_restore_takes_instead() {
    let mut desk = Desk::new();
    let ids: Vec<String> = (1..=3).map(|step| desk.push(step * 10)).collect();
    let newest = desk.key(&ids[2], "model.dat");
    assert!(desk.bucket.corrupt(&newest));
    let (code, out, err) = desk.say(&["verify", "run", "newest"]);
    assert_eq!(code, 1);
    assert!(out.contains(&ids[2]) && !out.contains(&ids[1]), "{out}");
    for part in [
        format!("error: checkpoint {} of `run` is damaged", ids[2]),
        "model.dat: its hash differs in bytes ".to_owned(),
        format!(" ({newest})"),
        format!(
            "a restore passes it over; the newest whole one is {}",
            ids[1]
        ),
    ] {
        assert!(err.contains(&part), "{part}\n{err}");
    }
    // Boxes read in the bucket that it is, and that it is mended.
    let mark = format!("team/run/damaged/{}.json", ids[2]);
    assert!(
        err.contains("marked in the bucket: within 5 min a box"),
        "{err}"
    );
    let marks = || -> Vec<String> {
        let keys = desk.bucket.keys();
        keys.into_iter()
            .filter(|key| key.contains("/damaged/"))
            .collect()
    };
    assert_eq!(marks(), [mark]);
    assert!(desk.bucket.corrupt(&newest), "the same bit again");
    assert_eq!(desk.say(&["verify", "run", "newest"]).0, 0);
    assert_eq!(marks(), Vec::<String>::new());
    assert!(desk.bucket.corrupt(&newest));
    // An older one that is damaged stands in no restore's way.
    assert!(desk.bucket.remove(&desk.key(&ids[0], "deep/state.json")));
    let (_, _, err) = desk.say(&["verify", "run", "10"]);
    assert!(
        err.contains(&format!("the newest whole one is {}", ids[1])),
        "{err}"
    );
    let (_, _, err) = desk.say(&["verify", "run"]);
    assert!(
        err.contains("error: 2 of 3 checkpoints of `run` are damaged"),
        "{err}"
    );
}

#[test]
fn a_pull_that_fails_keeps_what_came_and_leaves_nothing_where_nothing_came() {
    let mut desk = Desk::new();
    desk.push(100);
    let out = PathBuf::from(desk.to());
    let words = ["pull", "run", "100", "--to", &desk.to()];
    let again = format!(
        "`spotter checkpoints pull run 100 --to {} --bucket {TO}`",
        out.display()
    );
    // The manifest is read, and nothing else.
    desk.bucket
        .fail_after("GetObject", 1, 1000, ErrorKind::Refused);
    let (code, _, err) = desk.say(&words);
    assert_eq!(code, 1);
    assert!(
        err.contains(&format!("nothing came, and nothing is left here: {again}")),
        "{err}"
    );
    assert!(!out.exists(), "not even the directory");

    desk.bucket.heal();
    desk.bucket
        .fail_after("GetObject", 3, 1000, ErrorKind::Refused);
    let (code, _, err) = desk.say(&words);
    assert_eq!(code, 1);
    let partial = out.join("checkpoint-100.spotter-partial");
    assert!(partial.is_dir(), "{err}");
    assert!(
        err.contains(&format!(
            "what came is kept in {}: go on from there with {again}",
            partial.display()
        )),
        "{err}"
    );

    desk.bucket.heal();
    let pulled = desk.json(&words);
    assert!(pulled["reused_bytes"].as_u64() > Some(0), "{pulled}");
    assert!(!partial.exists());
    // What is damaged is no beginning of anything.
    let other = desk.push(200);
    assert!(desk.bucket.corrupt(&desk.key(&other, "model.dat")));
    assert_eq!(desk.json(&["pull", "run", "--to", &desk.to()])["step"], 100);
    let names: Vec<String> = fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names, ["checkpoint-100"]);
}

#[test]
fn many_small_files_are_pulled_and_are_what_they_were() {
    let desk = Desk::new();
    let dir = desk.dir.path().join("step-7");
    for number in 0..100_u64 {
        let below = dir.join(format!("deep-{}/er", number % 7));
        fs::create_dir_all(&below).unwrap();
        fs::write(below.join(format!("{number}.dat")), noise(number, 300)).unwrap();
    }
    desk.json(&["push", "run", dir.to_str().unwrap()]);
    let pulled = desk.json(&["pull", "run", "--to", &desk.to()]);
    let there = PathBuf::from(pulled["path"].as_str().unwrap());
    for number in 0..100_u64 {
        let path = format!("deep-{}/er/{number}.dat", number % 7);
        assert_eq!(fs::read(there.join(&path)).unwrap(), noise(number, 300));
        let modified = |path: PathBuf| fs::metadata(path).unwrap().modified().unwrap();
        assert_eq!(modified(there.join(&path)), modified(dir.join(&path)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_is_told_soon_and_not_waited_for_long() {
    let asked = async |latency: Duration, fails: u32| {
        let bucket = Arc::new(MemoryBucket::new());
        bucket.set_latency(latency);
        if fails > 0 {
            bucket.fail_next("ListObjectsV2", fails, ErrorKind::Transient);
        }
        let target = Target::parse(TO, None, None).unwrap();
        let shelf = Shelf::new(bucket, &target, "run").unwrap();
        let paper = Paper::default();
        let ui = Ui::to(
            Box::new(Paper::default()),
            Box::new(paper.clone()),
            UiOptions::default(),
        );
        let began = tokio::time::Instant::now();
        let clock = Clock::new(|| NOW_US);
        let answer = first_answer(Some(ui.console()), &shelf, shelf.adopt(&clock)).await;
        let said = paper.text();
        (answer.map(drop), said, began.elapsed().as_secs())
    };
    let (answer, said, took) = asked(Duration::ZERO, 0).await;
    assert!(answer.is_ok() && said.is_empty() && took == 0, "{said}");
    let (answer, said, took) = asked(Duration::from_secs(7), 0).await;
    assert!(answer.is_ok() && took == 7, "{took}");
    assert_eq!(
        said,
        "No answer from s3://bucket/team/run yet: it is asked for 15 s more.\n"
    );
    let (answer, _, took) = asked(Duration::from_secs(3600), 0).await;
    let err = answer.unwrap_err();
    assert_eq!(took, 20);
    assert!(err.to_string().contains("no answer in 20 s"), "{err}");
    // One that is busy, and says so, is waited for, and nobody is told that it does not answer.
    let (answer, said, _) = asked(Duration::from_secs(2), 4).await;
    assert!(answer.is_ok() && said.is_empty(), "{said}");
}
