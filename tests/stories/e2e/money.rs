//! (g) A lost answer never rents twice; two stores on one account leave each other alone.

use serde_json::{Value, json};

use crate::world::{Tier, Training, World, on, on_both_tiers};

on_both_tiers! {
    a_create_whose_answer_was_lost_rents_once: lost_create;
    two_stores_on_one_account_leave_each_others_boxes_alone: two_stores;
}

/// What the laptop does on the account is no matter of the box.
#[test]
fn gc_destroys_what_this_store_rented_and_forgot_and_nothing_else() {
    on(Tier::One, orphan);
}

fn lost_create(world: &World) {
    world.training(&Training::interruptible("lost", 20));
    world.ctl(&["faults", r#"{"lose_create_answer": 1}"#]);
    let said = world.ok(&["run", "lost.yaml"]);
    assert!(said.stderr.contains("Found instance"), "{}", said.out);
    assert_eq!(
        world.ctl(&["state"])["instances"].as_array().unwrap().len(),
        1
    );
    world.assert_nothing_rented();
}

/// Rents a small box past spotter's record, under a label.
fn rent(world: &World, label: &str) -> u64 {
    let said = world.ok(&["offers", "--gpus", "RTX 3090:1", "--disk", "10GB", "--json"]);
    let offers: Value = serde_json::from_str(&said.stdout).unwrap();
    let offer = offers["offers"][0]["id"].as_u64().expect("an offer");
    let (market, key) = world.market();
    let order = json!({"image": "ubuntu", "disk": 10, "label": label, "onstart": "true"});
    let answer = world
        .program(
            "curl",
            &[
                "-sS",
                "-X",
                "PUT",
                "-H",
                &format!("Authorization: Bearer {key}"),
                "-H",
                "Content-Type: application/json",
                "-d",
                &order.to_string(),
                &format!("{market}/api/v0/asks/{offer}/"),
            ],
        )
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&answer.stdout);
    let made: Value = serde_json::from_str(&text).unwrap_or_else(|err| panic!("{err}: {text}"));
    made["new_contract"]
        .as_u64()
        .unwrap_or_else(|| panic!("not rented: {made}"))
}

fn orphan(world: &World) {
    world.training(&Training::interruptible("mine", 3_000));
    world.ok(&["run", "mine.yaml", "--detach"]);
    let mine = world.alive()[0].clone();
    let claimed = mine["id"].as_u64().unwrap();
    let store = mine["label"].as_str().unwrap().split('/').nth(1).unwrap();
    // A box of a record that was lost, one of another laptop, and one that somebody rented by hand.
    let orphan = rent(world, &format!("spotter/{store}/ghost/1/00aa"));
    let others = rent(world, "spotter/01JZZZZZZZZZZZZZZZZZZZZZZZ/theirs/1/00bb");
    let by_hand = rent(world, "my own box");
    let alive = |world: &World| -> Vec<u64> {
        let rows = world.alive();
        let mut ids: Vec<u64> = rows.iter().map(|row| row["id"].as_u64().unwrap()).collect();
        ids.sort_unstable();
        ids
    };
    let owners = |out: &str| -> Vec<(u64, String, bool)> {
        let rows: Value = serde_json::from_str(out).unwrap();
        let mut rows: Vec<_> = rows
            .as_array()
            .unwrap()
            .iter()
            .map(|row| {
                (
                    row["instance"].as_u64().unwrap(),
                    row["owner"].as_str().unwrap().to_owned(),
                    row["destroyed"].as_bool().unwrap(),
                )
            })
            .collect();
        rows.sort_unstable();
        rows
    };
    let all = |destroyed: bool| {
        let mut rows = vec![
            (claimed, "claimed".to_owned(), false),
            (orphan, "orphan".to_owned(), destroyed),
            (others, "other store".to_owned(), false),
            (by_hand, "not spotter's".to_owned(), false),
        ];
        rows.sort_unstable();
        rows
    };

    let looked = world.ok(&["gc", "--dry-run", "--json"]);
    assert_eq!(owners(&looked.stdout), all(false));
    assert_eq!(alive(world).len(), 4, "a look destroys nothing");

    let swept = world.ok(&["gc", "--json"]);
    assert_eq!(owners(&swept.stdout), all(true));
    let mut left = vec![claimed, others, by_hand];
    left.sort_unstable();
    assert_eq!(alive(world), left, "the orphan is gone, and only it");

    // By name, boxes of others go, too; what a run here has is not given up in passing.
    let refused = world.say(&["gc", "--instance", &claimed.to_string()]);
    assert_eq!(refused.code, 1, "{}", refused.out);
    assert!(
        refused.stderr.contains("belongs to a run of this laptop"),
        "{}",
        refused.out
    );
    assert_eq!(alive(world), left);
    world.ok(&["gc", "--instance", &others.to_string()]);
    left.retain(|id| *id != others);
    assert_eq!(alive(world), left);
    let unknown = world.say(&["gc", "--instance", "1"]);
    assert_eq!(unknown.code, 2, "{}", unknown.out);
    world.ok(&["gc", "--instance", &by_hand.to_string()]);
    assert_eq!(alive(world), [claimed]);

    world.ok(&["destroy", "--lose-data", "mine"]);
    world.assert_nothing_rented();
}

fn two_stores(world: &World) {
    world.training(&Training::interruptible("mine", 600));
    world.ok(&["run", "mine.yaml", "--detach"]);
    let alive = world.alive();
    assert_eq!(alive.len(), 1);

    // Another laptop with the same account.
    let other = world.work().join("other-home");
    let gc = world
        .spotter(&["gc", "--json"])
        .env("SPOTTER_HOME", &other)
        .output()
        .unwrap();
    let rows: Value = serde_json::from_slice(&gc.stdout).unwrap();
    assert_eq!(rows[0]["owner"], "other store", "{rows}");
    assert_eq!(rows[0]["destroyed"], false);
    assert_eq!(world.alive().len(), 1);

    let mine = world.ok(&["gc", "--json"]);
    let rows: Value = serde_json::from_str(&mine.stdout).unwrap();
    assert_eq!(rows[0]["owner"], "claimed", "{rows}");
    assert_eq!(world.alive().len(), 1);

    // What is not saved holds the box; a stop saves it and lets it go.
    let refused = world.say(&["destroy", "mine"]);
    assert_eq!(refused.code, 1, "{}", refused.out);
    assert!(
        refused.stderr.contains("the training runs"),
        "{}",
        refused.out
    );
    assert_eq!(world.alive().len(), 1);
    world.ok(&["stop", "mine"]);
    assert_eq!(world.status("mine")["outcome"], "stopped");
    world.assert_nothing_rented();
}
