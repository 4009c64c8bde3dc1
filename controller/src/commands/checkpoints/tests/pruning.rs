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
