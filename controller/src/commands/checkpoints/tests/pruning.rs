//! What `prune` lets go, and what it never does.

use serde_json::Value;

use super::desk::Desk;

#[test]
fn prune_keeps_the_newest_and_the_pinned_and_frees_data_after_the_grace() {
    let mut desk = Desk::new();
    for step in 1..=5 {
        desk.push(step);
    }
    assert_eq!(desk.json(&["pin", "run", "1"])["pinned"], true);
    let prune = ["prune", "run", "--keep-last", "2", "--grace", "1h"];
    let before = desk.bucket.keys();
    let dry = desk.json(&[&prune[..], &["--dry-run"]].concat());
    assert_eq!(desk.bucket.keys(), before);
    let deleted = |pruned: &Value| -> Vec<u64> {
        let rows = pruned["deleted"].as_array().unwrap();
        rows.iter()
            .map(|row| row["step"].as_u64().unwrap())
            .collect()
    };
    assert_eq!(deleted(&dry), [2, 3]);
    let pruned = desk.json(&prune);
    assert_eq!(deleted(&pruned), [2, 3]);
    assert_eq!(pruned["waiting"].as_array().unwrap().len(), 2);
    let steps = |desk: &Desk| -> Vec<u64> {
        let rows = desk.json(&["run"]);
        rows.as_array()
            .unwrap()
            .iter()
            .map(|row| row["step"].as_u64().unwrap())
            .collect()
    };
    assert_eq!(steps(&desk), [5, 4, 1]);
    assert_eq!(desk.json(&["run"])[2]["pinned"], true);
    let objects = desk.bucket.keys().len();

    desk.now_us += 3_600_000_000;
    let purged = desk.json(&prune);
    assert_eq!(purged["purged"].as_array().unwrap().len(), 2);
    assert_eq!(purged["purged"][0]["objects"], 2, "the tokenizer stays");
    assert_eq!(desk.bucket.keys().len(), objects - 2 * 3);
    assert_eq!(desk.say(&["verify", "run"]).0, 0);

    desk.json(&["unpin", "run", "1"]);
    desk.bucket
        .remove(&desk.key(desk.json(&["run"])[0]["id"].as_str().unwrap(), "model.dat"));
    let (code, _, err) = desk.say(&prune);
    assert_eq!(code, 1, "what would stay is damaged: nothing goes");
    assert!(err.contains("the data of \"model.dat\" is gone"), "{err}");
    assert_eq!(steps(&desk), [5, 4, 1]);
}

#[test]
fn prune_counts_nothing_that_is_marked_as_damaged() {
    let mut desk = Desk::new();
    let ids: Vec<String> = (1..=3).map(|step| desk.push(step)).collect();
    for id in &ids[1..] {
        assert!(desk.bucket.corrupt(&desk.key(id, "model.dat")));
    }
    assert_eq!(desk.say(&["verify", "run"]).0, 1);
    let prune = ["prune", "run", "--keep-last", "2", "--grace", "0s"];
    let deleted = |desk: &Desk| desk.json(&prune)["deleted"].as_array().unwrap().len();
    assert_eq!(deleted(&desk), 0, "it is the only whole one");
    assert_eq!(desk.json(&["pull", "run", "--to", &desk.to()])["step"], 1);
    // Newer ones that are whole let go of those that are not, and of their marks.
    desk.push(4);
    assert_eq!(deleted(&desk), 0);
    desk.push(5);
    assert_eq!(deleted(&desk), 3);
    let keys = desk.bucket.keys();
    assert!(
        !keys.iter().any(|key| key.contains("/damaged/")),
        "{keys:?}"
    );
    assert_eq!(desk.say(&["verify", "run"]).0, 0);
}

#[test]
fn a_checkpoint_of_a_newer_spotter_keeps_all_data_and_is_told_with_what_to_do() {
    let mut desk = Desk::new();
    let ids: Vec<String> = (1..=4).map(|step| desk.push(step)).collect();
    let newer = format!("team/run/commits/{}.json", ids[3]);
    let body = desk.bucket.object(&newer).unwrap();
    let text = String::from_utf8(body.to_vec()).unwrap();
    let of_the_future = text.replacen("\"v\":", "\"v\":9", 1);
    assert_ne!(text, of_the_future);
    desk.bucket.insert(&newer, of_the_future);

    let (code, _, err) = desk.say(&["ls", "run"]);
    assert_eq!(code, 0, "{err}");
    let told = format!("checkpoint {} is not shown: manifest has format 9", ids[3]);
    assert!(err.contains(&told), "{err}");
    assert!(
        err.contains("hint: install the spotter that wrote it, or a newer one, then"),
        "{err}"
    );
    assert!(!err.contains("is damaged"), "{err}");
    let (code, _, err) = desk.say(&["show", "run", &ids[3]]);
    assert_eq!(code, 1);
    assert!(err.contains("a newer one is needed"), "{err}");
    let (code, _, err) = desk.say(&["pull", "run", &ids[3], "--to", &desk.to()]);
    assert_eq!(code, 1);
    for told in [
        "it is not read by this spotter",
        "written by a newer spotter",
    ] {
        assert!(err.contains(told), "{err}");
    }
    assert!(!err.contains("is damaged"), "{err}");

    let data = |desk: &Desk| -> Vec<String> {
        let keys = desk.bucket.keys();
        keys.into_iter()
            .filter(|key| key.starts_with("team/run/data/"))
            .collect()
    };
    let before = data(&desk);
    let prune = ["prune", "run", "--keep-last", "2", "--grace", "1h"];
    assert_eq!(desk.say(&prune).0, 0);
    desk.now_us += 2 * 3_600_000_000;
    let (code, _, err) = desk.say(&prune);
    assert_eq!(code, 0, "{err}");
    let told = format!("checkpoint {} is of a newer spotter", ids[3]);
    assert!(err.contains(&told), "{err}");
    assert!(
        err.contains("or a newer one, then `spotter checkpoints prune run`"),
        "{err}"
    );
    assert_eq!(data(&desk), before);
    let pruned = desk.json(&prune);
    assert_eq!(pruned["newer"][0], ids[3].as_str());
    assert_eq!(pruned["purged"].as_array().unwrap().len(), 0);

    // The one that can be read lets it go.
    desk.bucket.insert(&newer, text);
    let purged = desk.json(&prune);
    assert_eq!(purged["purged"].as_array().unwrap().len(), 1);
    assert!(data(&desk).len() < before.len());
}
