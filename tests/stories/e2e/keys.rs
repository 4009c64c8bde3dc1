//! (n) Which bucket keys a box gets: of its run alone and with an end, renewed while somebody watches; on its disk only by choice;
//! and what is said when they are taken away in mid-run.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use regex::Regex;
use serde_json::json;

use crate::{
    refusals::plain,
    world::{Said, Tier, Training, World, on},
};

/// The box's kernel is no matter here.
#[test]
fn a_box_works_with_keys_of_its_run_alone_that_are_renewed() {
    on(Tier::One, session);
}

#[test]
fn keys_of_a_run_open_nothing_else_and_are_overwritten_before_their_box_goes() {
    on(Tier::One, narrow_and_wiped);
}

#[test]
fn a_right_that_is_taken_away_in_mid_run_is_told_and_by_policy_ends_the_run() {
    on(Tier::One, revoked);
}

#[test]
fn keys_that_are_not_accepted_are_told_before_anything_is_rented() {
    on(Tier::One, faulty);
}

#[test]
fn keys_that_are_not_accepted_later_cost_neither_the_box_nor_another_one() {
    on(Tier::One, faulty_later);
}

#[test]
fn a_run_that_nobody_watches_is_ended_by_its_box_when_the_backup_may_not_go_on() {
    on(Tier::One, unwatched);
}

#[test]
fn keys_that_end_in_mid_run_are_told_and_others_go_on_where_they_ended() {
    on(Tier::One, ended_in_mid_run);
}

/// A run file with more keys under `checkpoints`.
fn file(world: &World, training: &Training, more: &str) -> String {
    world.training(training);
    let name = format!("{}.yaml", training.name);
    let yaml = std::fs::read_to_string(world.work().join(&name)).unwrap();
    let changed = yaml.replace("  every: 1m\n", &format!("  every: 10s\n{more}"));
    assert_ne!(changed, yaml);
    world.write(&name, &changed);
    name
}

fn session(world: &World) {
    // Short-lived, so that they have to be renewed: the training takes longer than half of their life.
    world.ctl(&["s3", r#"{"session_s": 14}"#]);
    let training = Training::interruptible("scoped", 250);
    let file = file(
        world,
        &training,
        "  credentials: session\n  persist: true\n",
    );
    let mut run = world.background(&["run", &file]);
    let instance = world.until_step("scoped", 1, 20);
    let kept = world.home(instance).join(".spotter/keys.json");
    let text = world.until("keys on the box", || std::fs::read_to_string(&kept).ok());
    let mode = std::fs::metadata(&kept).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(text.contains("\"ASIA"), "keys of a session: {text}");
    let known = world.ctl(&["s3", "{}"])["keys"].clone();
    let own = known.as_array().unwrap().iter().find_map(|key| {
        let id = key.as_str()?;
        (!id.starts_with("ASIA")).then_some(id)
    });
    assert!(!text.contains(own.unwrap()), "not the laptop's own");

    assert_eq!(run.wait(), 0, "{}", run.text());
    let said = run.text();
    assert!(
        said.contains("The box gets keys for this run's part of the bucket alone; they end "),
        "{said}"
    );
    let tokens = world.ctl(&["s3", "{}"])["counts"]["Token"]
        .as_u64()
        .unwrap();
    assert!(tokens >= 3, "asked for {tokens} times");
    let listed = world.ok(&["checkpoints", "scoped"]);
    assert!(listed.stdout.contains("step-250.txt"), "{}", listed.out);
    world.assert_nothing_rented();
}

/// Another name for the blocks of a file, which shows what becomes of them when the file is gone.
fn blocks(world: &World, kept: &Path, name: &str) -> PathBuf {
    let blocks = world.dir().join(name);
    std::fs::hard_link(kept, &blocks).unwrap();
    assert!(!is_zero(&blocks), "it holds keys now");
    blocks
}

fn is_zero(file: &Path) -> bool {
    let bytes = std::fs::read(file).unwrap();
    assert!(!bytes.is_empty(), "a file that is cut short shows nothing");
    bytes.iter().all(|byte| *byte == 0)
}

fn narrow_and_wiped(world: &World) {
    let rules = "  credentials: session\n  persist: true\n";
    let training = Training::interruptible("narrow", 3000);
    let run_file = file(world, &training, rules);
    world.ok(&["run", &run_file, "--detach"]);
    let instance = world.until_step("narrow", 1, 0);
    let kept = world.home(instance).join(".spotter/keys.json");
    let text = world.until("keys on the box", || std::fs::read_to_string(&kept).ok());
    let keys: serde_json::Value = serde_json::from_str(&text).unwrap();
    let key = |name: &str| keys[name].as_str().unwrap().to_owned();
    assert!(key("access_key_id").starts_with("ASIA"));

    // Whoever takes them from the box: what can be done with them?
    let yaml = std::fs::read_to_string(world.work().join(&run_file)).unwrap();
    let to = yaml
        .lines()
        .find_map(|line| line.trim().strip_prefix("to: s3://"))
        .unwrap();
    let doctor = |url: &str| {
        let mut command = world.spotter(&["doctor", "bucket", url, "--json"]);
        command.env("AWS_ACCESS_KEY_ID", key("access_key_id"));
        command.env("AWS_SECRET_ACCESS_KEY", key("secret_access_key"));
        command.env("AWS_SESSION_TOKEN", key("session_token"));
        let said = Said::of(command.output().unwrap());
        let report: serde_json::Value = serde_json::from_str(&said.stdout).expect(&said.out);
        (said, report)
    };
    let (said, report) = doctor(&format!("s3://{to}/narrow/data"));
    assert_eq!(
        (said.code, &report["ok"]),
        (0, &true.into()),
        "{}",
        said.out
    );
    for elsewhere in [format!("{to}/another"), to.replace("/runs", "/elsewhere")] {
        let (said, report) = doctor(&format!("s3://{elsewhere}"));
        assert_eq!(
            (said.code, &report["ok"]),
            (1, &false.into()),
            "{}",
            said.out
        );
        let refused = |name: &str| {
            let checks = report["checks"].as_array().unwrap();
            checks
                .iter()
                .any(|check| check["name"] == name && check["code"] == "AccessDenied")
        };
        assert!(refused("list") && refused("write"), "{}", said.out);
    }

    // Its training runs while it is destroyed.
    let destroyed = blocks(world, &kept, "destroyed");
    world.ok(&["destroy", "--lose-data", "narrow"]);
    assert!(is_zero(&destroyed), "destroyed by hand");

    let training = Training::interruptible("brief", 60);
    let run_file = file(world, &training, rules);
    let mut run = world.background(&["run", &run_file]);
    let instance = world.until_step("brief", 1, 1);
    let kept = world.home(instance).join(".spotter/keys.json");
    let ended = blocks(world, &kept, "ended");
    assert_eq!(run.wait(), 0, "{}", run.text());
    assert!(is_zero(&ended), "destroyed at the end");
    world.assert_nothing_rented();
}

fn revoked(world: &World) {
    let training = Training::interruptible("revoked", 3000);
    let file = file(world, &training, "  on_stale: stop\n");
    let mut run = world.background(&["run", &file]);
    world.until("a checkpoint in the bucket", || {
        let status = world.status("revoked");
        (status["checkpoints_committed"].as_u64()? > 0).then_some(())
    });
    may_only_read(world, true);
    let status = world.until("the alarm", || {
        let status = world.say(&["status", "--recorded", "revoked"]);
        status.stdout.contains("BEHIND").then_some(status)
    });
    let backup: Vec<&str> = status
        .stdout
        .lines()
        .filter(|line| line.contains("backup") || line.contains("not saved"))
        .collect();
    check(world, "revoked_status", &backup.join("\n"));
    // By policy nothing more is paid for what cannot be saved; what is on the disk stays there.
    assert_eq!(run.wait(), 15, "{}", run.text());
    let said = run.text();
    let told: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("backup") || line.contains("Finishing"))
        .collect();
    check(world, "revoked_said", &told.join("\n"));
    let end: Vec<&str> = said
        .lines()
        .skip_while(|line| !line.starts_with("error:"))
        .filter(|line| !line.starts_with("cause:"))
        .collect();
    check(world, "revoked_end", &end.join("\n"));
    may_only_read(world, false);
    world.ok(&["destroy", "--lose-data", "revoked"]);
    world.assert_nothing_rented();
}

/// Takes from the user's own key, which the box has too, the right to change anything, or gives it back.
fn may_only_read(world: &World, only: bool) {
    let (id, secret) = world.bucket_keys();
    let rights = if only { "read_only" } else { "all" };
    let key = json!({"access_key": id, "secret_key": secret, "rights": rights});
    world.ctl(&["s3", &json!({ "key": key }).to_string()]);
}

fn unwatched(world: &World) {
    let training = Training::interruptible("dark", 3000);
    let file = file(world, &training, "  on_stale: stop\n");
    world.ok(&["run", &file, "--detach"]);
    world.until("a checkpoint in the bucket", || {
        let listed = world.say(&["checkpoints", "dark", "--json"]);
        let listed: serde_json::Value = serde_json::from_str(&listed.stdout).ok()?;
        (!listed.as_array()?.is_empty()).then_some(())
    });
    let instance = world.status("dark")["attempts"][0]["instance"]
        .as_u64()
        .unwrap();
    may_only_read(world, true);
    let noted = world.home(instance).join(".spotter/ending.json");
    world.until("the box to end the training", || {
        noted.exists().then_some(())
    });
    world.until("the box to stop itself", || {
        let stopped = world.alive()[0]["cur_state"] == "stopped";
        stopped.then_some(())
    });
    let ending = std::fs::read_to_string(&noted).unwrap();
    let ending: serde_json::Value = serde_json::from_str(&ending).unwrap();
    assert_eq!(ending["by"], "backup", "{ending}");
    let reason = ending["reason"].as_str().unwrap();
    assert!(
        reason.contains("`checkpoints.on_stale` is `stop`"),
        "{reason}"
    );
    may_only_read(world, false);
    // All that was saved before is there.
    world.ok(&["checkpoints", "verify", "dark"]);
    world.ok(&["destroy", "--lose-data", "dark"]);
    world.assert_nothing_rented();
}

/// Keys as a single sign-on gives them stand in the laptop's profile, and in no variable.
fn ended_in_mid_run(world: &World) {
    let training = Training::interruptible("ends", 5000);
    let file = file(world, &training, "");
    let log_in = |id: &str| {
        let (secret, token) = (format!("secret of {id}"), format!("token of {id}"));
        world.ctl(&[
            "s3",
            &json!({"key": {"access_key": id, "secret_key": secret, "session_token": token}})
                .to_string(),
        ]);
        let profile = format!(
            "[corp]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\naws_session_token = {token}\n"
        );
        world.write("credentials", &profile);
    };
    log_in("FIRST");
    let mut command = world.spotter(&["run", &file]);
    command
        .env_remove("AWS_ACCESS_KEY_ID")
        .env_remove("AWS_SECRET_ACCESS_KEY")
        .env("AWS_PROFILE", "corp")
        .env(
            "AWS_SHARED_CREDENTIALS_FILE",
            world.work().join("credentials"),
        );
    let mut run = world.behind("run_ends", command);
    let instance = world.until_step("ends", 1, 1);
    let newest = || {
        let listed = world.ok(&["checkpoints", "ends", "--json"]);
        let rows: Vec<serde_json::Value> = serde_json::from_str(&listed.stdout).unwrap();
        rows.first().and_then(|row| row["step"].as_u64())
    };
    let saved = world.until("a checkpoint in the bucket", newest);

    let ends = json!({
        "access_key": "FIRST", "secret_key": "secret of FIRST", "session_token": "token of FIRST", "expires_in_s": 0,
    });
    world.ctl(&["s3", &json!({ "key": ends }).to_string()]);
    world.until("the alarm", || {
        run.text().contains("The backup is behind").then_some(())
    });
    let kept = newest().unwrap();
    assert!(kept >= saved);
    log_in("SECOND");
    world.ctl(&["s3", r#"{"drop_key": "FIRST"}"#]);
    world.until("a checkpoint by the new keys", || {
        newest().filter(|step| *step > kept)
    });
    std::fs::write(world.home(instance).join("enough"), "").unwrap();
    assert_eq!(run.wait(), 0, "{}", run.text());
    let said = run.text();
    let told = said
        .lines()
        .find(|line| line.contains("The backup is behind"));
    check(world, "ended_said", told.unwrap());
    assert!(
        !said.contains("secret of") && !said.contains("token of"),
        "{said}"
    );
    world.ok(&["checkpoints", "verify", "ends"]);
    world.assert_nothing_rented();
}

/// Keys that the server does not accept, however much they were allowed to do: their name, and the variables that hold them.
const FAULTS: [(&str, &str, &str); 3] = [
    ("expired", "OLD", "secret"),
    ("wrong_secret", "GOOD", "another secret"),
    ("unknown_id", "NOBODY", "secret"),
];

/// Makes the pair that has ended and the one whose secret is mistyped.
fn make_keys(world: &World) {
    for key in [
        json!({"access_key": "OLD", "secret_key": "secret", "expires_in_s": -60}),
        json!({"access_key": "GOOD", "secret_key": "secret"}),
    ] {
        world.ctl(&["s3", &json!({ "key": key }).to_string()]);
    }
}

fn with(mut command: Command, (_, id, secret): (&str, &str, &str)) -> Said {
    command.envs([("AWS_ACCESS_KEY_ID", id), ("AWS_SECRET_ACCESS_KEY", secret)]);
    Said::of(command.output().unwrap())
}

fn faulty(world: &World) {
    world.training(&Training::interruptible("late", 20));
    make_keys(world);
    for keys in FAULTS {
        let said = with(world.spotter(&["run", "late.yaml"]), keys);
        assert_eq!(said.code, 1, "{}", said.out);
        check(world, keys.0, &said.stderr);
    }
    world.assert_nothing_rented();
}

/// With the box there, and with it gone: neither may the run be lost nor a box be rented for nothing.
fn faulty_later(world: &World) {
    world.training(&Training::interruptible("later", 2000));
    make_keys(world);
    // Killed when the box is there and has not got its keys yet.
    let mut first = world.spotter(&["run", "later.yaml"]);
    first.env("SPOTTER_DIE_AT", "agent.configure.after");
    assert_eq!(Said::of(first.output().unwrap()).code, -1);
    for keys in FAULTS {
        let said = with(world.spotter(&["up", "later"]), keys);
        assert_eq!(said.code, 1, "{}", said.out);
        check(world, &format!("up_{}", keys.0), &said.stderr);
        assert_eq!(world.alive().len(), 1, "its box stays");
    }
    world.ok(&["up", "later", "--detach"]);
    // Now it has some that work, which none of these replaces.
    for keys in FAULTS {
        let said = with(world.spotter(&["up", "later", "--detach"]), keys);
        assert_eq!(said.code, 0, "{}", said.out);
        let told = said
            .stderr
            .lines()
            .find(|line| line.contains("bucket keys"));
        check(world, &format!("kept_{}", keys.0), told.expect(&said.out));
    }
    let saved = |world: &World| {
        let listed = world.say(&["checkpoints", "later", "--json"]);
        let listed: serde_json::Value = serde_json::from_str(&listed.stdout).ok()?;
        listed[0]["step"].as_u64()
    };
    let before = world.until("a checkpoint", || saved(world));
    world.until("another one by the keys that the box kept", || {
        saved(world).filter(|step| *step > before)
    });
    world.ok(&["destroy", "--lose-data", "later"]);
    world.assert_nothing_rented();
    for keys in FAULTS {
        let said = with(world.spotter(&["resume", "later"]), keys);
        assert_eq!(said.code, 1, "{}", said.out);
        check(world, &format!("resume_{}", keys.0), &said.stderr);
        world.assert_nothing_rented();
    }
}

#[track_caller]
fn check(world: &World, name: &str, text: &str) {
    let text = plain(world, text);
    // Which object it was, and how often it was tried, is a matter of the moment.
    let text = Regex::new(r"runs/(\w+)/\S+: ")
        .unwrap()
        .replace_all(&text, "runs/$1/[key]: ");
    insta::with_settings!({
        snapshot_path => Path::new("keys"),
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        insta::assert_snapshot!(name, text.trim_end());
    });
}
