//! (g) A lost answer never rents twice; two stores on one account leave each other alone.

use std::{cell::Cell, path::PathBuf};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::world::{Said, Tier, Training, World, on, on_both_tiers};

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
    let owners = |out: &str| -> Vec<(u64, String, bool)> {
        let rows: Value = serde_json::from_str(out).unwrap();
        assert_eq!(rows["volumes"], json!([]));
        let mut rows: Vec<_> = rows["instances"]
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
    assert_eq!(ids(world).len(), 4, "a look destroys nothing");

    let swept = world.ok(&["gc", "--json"]);
    assert_eq!(owners(&swept.stdout), all(true));
    let mut left = vec![claimed, others, by_hand];
    left.sort_unstable();
    assert_eq!(ids(world), left, "the orphan is gone, and only it");

    // By name, boxes of others go, too; what a run here has is not given up in passing.
    let refused = world.say(&["gc", "--instance", &claimed.to_string()]);
    assert_eq!(refused.code, 1, "{}", refused.out);
    assert!(
        refused.stderr.contains("belongs to a run of this laptop"),
        "{}",
        refused.out
    );
    assert_eq!(ids(world), left);
    world.ok(&["gc", "--instance", &others.to_string()]);
    left.retain(|id| *id != others);
    assert_eq!(ids(world), left);
    let unknown = world.say(&["gc", "--instance", "1"]);
    assert_eq!(unknown.code, 2, "{}", unknown.out);
    world.ok(&["gc", "--instance", &by_hand.to_string()]);
    assert_eq!(ids(world), [claimed]);

    world.ok(&["destroy", "--lose-data", "mine"]);
    world.assert_nothing_rented();
}

/// A laptop on the account of this world: `spotter` with a home of its own.
struct Laptop<'a> {
    world: &'a World,
    home: PathBuf,
    /// The box that it rented last.
    instance: Cell<u64>,
}

impl Laptop<'_> {
    fn say(&self, args: &[&str]) -> Said {
        let mut command = self.world.spotter(args);
        Said::of(command.env("SPOTTER_HOME", &self.home).output().unwrap())
    }

    fn ok(&self, args: &[&str]) -> Said {
        let said = self.say(args);
        assert_eq!(said.code, 0, "{args:?}: {}", said.out);
        said
    }

    /// Does something that rents a box, which is the only new one.
    fn rents(&self, args: &[&str]) {
        let before = ids(self.world);
        self.ok(args);
        let mut new = ids(self.world);
        new.retain(|id| !before.contains(id));
        assert_eq!(new.len(), 1, "{args:?}");
        self.instance.set(new[0]);
    }

    /// Watches for a while, and leaves.
    fn watches(&self) {
        let mut command = self.world.spotter(&["up", "mine"]);
        let mut child = command.env("SPOTTER_HOME", &self.home).spawn().unwrap();
        self.world.until("the watch", || {
            let runs: Value = serde_json::from_str(&self.ok(&["ps", "--json"]).stdout).unwrap();
            (runs["runs"][0]["watched_by_pid"] == child.id()).then_some(())
        });
        kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
        assert!(child.wait().unwrap().success());
    }

    fn status(&self) -> Value {
        let said = self.ok(&["status", "--recorded", "--json", "mine"]);
        serde_json::from_str(&said.stdout).unwrap()
    }

    /// `gc` knows its own box, if it has one, destroys nothing, and says whose the other is.
    fn sweeps(&self, own: bool, other: Option<&Laptop<'_>>) {
        let swept: Value = serde_json::from_str(&self.ok(&["gc", "--json"]).stdout).unwrap();
        let mut found: Vec<(u64, &str)> = Vec::new();
        for row in swept["instances"].as_array().unwrap() {
            assert_eq!(row["destroyed"], false, "{row}");
            let owner = row["owner"].as_str().unwrap();
            found.push((row["instance"].as_u64().unwrap(), owner));
        }
        let mut expected = Vec::new();
        if own {
            expected.push((self.instance.get(), "claimed"));
        }
        if let Some(other) = other {
            expected.push((other.instance.get(), "other store"));
        }
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected);
    }

    /// Its box runs, and its GPU and disk are charged for as before.
    fn goes_on(&self) {
        let id = self.instance.get();
        let rows = self.world.alive();
        let row = rows.iter().find(|row| row["id"] == id);
        let row = row.unwrap_or_else(|| panic!("instance {id} is gone"));
        assert_eq!(row["cur_state"], "running", "{row}");
        let before = self.world.bill(id);
        self.world.until("its bill to go on", || {
            let now = self.world.bill(id);
            let more = |key: &str| now[key].as_f64() > before[key].as_f64();
            (more("gpu_seconds") && more("storage_usd")).then_some(())
        });
        let status = self.status();
        assert_eq!(status["outcome"], Value::Null, "{status}");
        let attempts = status["attempts"].as_array().unwrap();
        let last = attempts.last().unwrap();
        assert_eq!(last["state"], "running", "{status}");
        assert_eq!(last["instance"], id, "{status}");
    }
}

/// Instances that exist.
fn ids(world: &World) -> Vec<u64> {
    let rows = world.alive();
    let mut ids: Vec<u64> = rows.iter().map(|row| row["id"].as_u64().unwrap()).collect();
    ids.sort_unstable();
    ids
}

/// Two laptops on one account, each with a run of the same name, in prefixes of their own.
fn two_stores(world: &World) {
    world.training(&Training::interruptible("mine", 3_000));
    let yaml = std::fs::read_to_string(world.work().join("mine.yaml")).unwrap();
    let theirs = yaml.replace("/runs\n", "/theirs\n");
    assert_ne!(theirs, yaml, "another prefix of the bucket");
    world.write(
        "theirs.yaml",
        &theirs.replace("results-mine", "results-theirs"),
    );
    let laptop = |home: PathBuf| Laptop {
        world,
        home,
        instance: Cell::new(0),
    };
    let a = laptop(world.spotter_home());
    let b = laptop(world.work().join("other-home"));

    a.rents(&["run", "mine.yaml", "--detach"]);
    b.rents(&["run", "theirs.yaml", "--detach"]);
    for laptop in [&a, &b] {
        laptop.watches();
    }
    a.sweeps(true, Some(&b));
    b.sweeps(true, Some(&a));
    a.goes_on();
    b.goes_on();

    // What is not saved holds the box; a stop saves it and lets it go. The other's is not asked about either.
    let refused = a.say(&["destroy", "mine"]);
    assert_eq!(refused.code, 1, "{}", refused.out);
    assert!(
        refused.stderr.contains("the training runs"),
        "{}",
        refused.out
    );
    a.goes_on();
    a.ok(&["stop", "mine"]);
    assert_eq!(a.status()["outcome"], "stopped");
    assert_eq!(ids(world), [b.instance.get()]);
    b.goes_on();
    for args in [&["up", "mine"][..], &["stop", "mine"], &["destroy", "mine"]] {
        a.say(args);
    }
    a.sweeps(false, Some(&b));
    b.goes_on();

    // And the other way about.
    a.rents(&["resume", "mine", "--elsewhere", "--detach"]);
    b.sweeps(true, Some(&a));
    b.ok(&["destroy", "--lose-data", "mine"]);
    assert_eq!(ids(world), [a.instance.get()]);
    for args in [&["up", "mine"][..], &["stop", "mine"], &["destroy", "mine"]] {
        b.say(args);
    }
    b.sweeps(false, Some(&a));
    a.goes_on();
    a.sweeps(true, None);

    assert_eq!(b.status()["attempts"].as_array().unwrap().len(), 1);
    a.ok(&["stop", "mine"]);
    world.assert_nothing_rented();
    assert_eq!(world.bills_of("mine").len(), 3, "one box for each start");
}
