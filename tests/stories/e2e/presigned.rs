//! (o) A box that never gets a bucket key: checkpoints go by what was signed for it, also while nobody watches; what runs low is told;
//! the run goes on elsewhere from what the box left.

use std::{fs, path::Path};

use crate::world::{Tier, Training, World, on};

/// The box's kernel is no matter here.
#[test]
fn a_run_whose_boxes_hold_no_key_is_saved_alone_and_goes_on_elsewhere() {
    on(Tier::One, presigned);
}

/// The file below a directory that holds this text, if one does.
fn holds(dir: &Path, text: &str) -> Option<String> {
    for entry in fs::read_dir(dir).ok()?.flatten() {
        let path = entry.path();
        // Files come and go meanwhile.
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() {
            if let Some(found) = holds(&path, text) {
                return Some(found);
            }
        } else if kind.is_file() {
            let bytes = fs::read(&path).unwrap_or_default();
            let found = bytes
                .windows(text.len())
                .any(|part| part == text.as_bytes());
            if found {
                return Some(path.display().to_string());
            }
        }
    }
    None
}

/// Whether a process that belongs to a directory has this text in its environment.
fn in_an_environment(dir: &Path, text: &str) -> bool {
    let dir = dir.display().to_string();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|process| fs::read(process.path().join("environ")).ok())
        .map(|environment| String::from_utf8_lossy(&environment).into_owned())
        .any(|environment| environment.contains(&dir) && environment.contains(text))
}

pub fn presigned(world: &World) {
    let mut training = Training::interruptible("signed", 1200);
    // More than a part, so that there is an upload among what is saved.
    training.setup =
        Some("mkdir -p checkpoints && head -c 9000000 /dev/urandom > checkpoints/step-1.bin");
    world.training(&training);
    let yaml = fs::read_to_string(world.work().join("signed.yaml")).unwrap();
    let yaml = yaml.replace("  every: 1m\n", "  every: 1h\n  credentials: presigned\n");
    world.write("signed.yaml", &yaml);

    let mut watcher = world.background(&["run", "signed.yaml"]);
    let first = world.until_step("signed", 1, 20);
    let said = watcher.text();
    let told = "The box gets no bucket keys: 32 checkpoints are signed for, and more while somebody watches.";
    assert!(said.contains(told), "{said}");
    watcher.kill();

    // Nobody watches, until what was signed for is used up.
    let home = world.home(first);
    world.until("the alarm of the box", || {
        holds(&home.join(".spotter"), r#""kind":"grants.low""#)
    });
    let (id, secret) = world.bucket_keys();
    assert_eq!(
        holds(&home, secret),
        None,
        "the secret is on the disk of the box"
    );
    assert_eq!(
        holds(&home, id),
        None,
        "the id of the key is on the disk of the box"
    );
    assert!(!in_an_environment(&home, secret));
    let status = world.ok(&["status", "signed"]);
    assert!(
        status
            .stdout
            .contains("signed for   no more checkpoints, LOW"),
        "{}",
        status.out
    );
    let events = world.ok(&["events", "signed"]);
    assert!(events.stdout.contains("grants.low"), "{}", events.out);
    let big = events
        .stdout
        .lines()
        .any(|line| line.contains("checkpoint.committed") && line.contains("step-1.bin"));
    assert!(big, "{}", events.out);
    let listed = world.ok(&["checkpoints", "signed", "--json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed.stdout).unwrap();
    let saved = listed.as_array().unwrap().len();
    assert!(saved > 20, "{saved} checkpoints were left by the box alone");

    // Somebody is back: it goes on by itself, and is tidy again.
    let mut watcher = world.background(&["up", "signed"]);
    world.until("more to be signed for", || {
        let status = world.say(&["status", "signed"]);
        (status
            .stdout
            .contains(" more checkpoints; the signatures end in"))
        .then_some(())
    });
    world.until("old checkpoints to be deleted", || {
        let listed = world.say(&["checkpoints", "signed", "--json"]);
        let listed: serde_json::Value = serde_json::from_str(&listed.stdout).ok()?;
        (listed.as_array()?.len() < saved).then_some(())
    });
    world.ctl(&["outbid", &first.to_string()]);
    let second = world.until_step("signed", 2, 1);
    assert_ne!(first, second);
    assert_eq!(holds(&world.home(second), secret), None);
    assert_eq!(watcher.wait(), 0, "{}", watcher.text());

    let status = world.status("signed");
    assert_eq!(status["outcome"], "done", "{status}");
    let resumed = status["attempts"][1]["from_step"].as_u64().unwrap();
    assert!(resumed >= 200 && resumed.is_multiple_of(10), "{status}");
    let results = fs::read_to_string(world.work().join("results-signed/out/final.txt")).unwrap();
    assert_eq!(results, "final 1200\n");
    let listed = world.ok(&["checkpoints", "signed"]);
    assert!(listed.stdout.contains("step-1200.txt"), "{}", listed.out);
    world.ok(&["checkpoints", "verify", "signed"]);
    world.assert_nothing_rented();
}

#[test]
fn what_a_revoked_key_signed_is_signed_anew_with_the_key_that_there_is() {
    on(Tier::One, revoked);
}

fn revoked(world: &World) {
    let key = r#"{"key": {"access_key": "FIRST", "secret_key": "hush"}}"#;
    world.ctl(&["s3", key]);
    world.training(&Training::interruptible("rotated", 350));
    let yaml = fs::read_to_string(world.work().join("rotated.yaml")).unwrap();
    let yaml = yaml.replace("  every: 1m\n", "  every: 1h\n  credentials: presigned\n");
    world.write("rotated.yaml", &yaml);
    let log = fs::File::create(world.dir().join("laptop/first.log")).unwrap();
    let mut first = world
        .spotter(&["run", "rotated.yaml"])
        .env("AWS_ACCESS_KEY_ID", "FIRST")
        .env("AWS_SECRET_ACCESS_KEY", "hush")
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    world.until("a checkpoint in the bucket", || {
        let status = world.status("rotated");
        (status["checkpoints_committed"].as_u64()? > 0).then_some(())
    });
    first.kill().unwrap();
    first.wait().unwrap();

    world.ctl(&["s3", r#"{"drop_key": "FIRST"}"#]);
    let instance = world.status("rotated")["attempts"][0]["instance"]
        .as_u64()
        .unwrap();
    let journal = world.home(instance).join(".spotter/journal");
    world.until("the box to tell that it is refused", || {
        holds(&journal, r#""kind":"credentials.wanted""#)
    });

    // Whoever comes back has another key.
    let mut up = world.background(&["up", "rotated"]);
    assert_eq!(up.wait(), 0, "{}", up.text());
    let events = world.ok(&["events", "rotated"]);
    let told = events
        .stdout
        .lines()
        .find(|line| line.contains("credentials.wanted"));
    let told = told.unwrap_or_else(|| panic!("{}", events.out));
    assert!(told.contains("InvalidAccessKeyId"), "{told}");
    let listed = world.ok(&["checkpoints", "rotated"]);
    assert!(listed.stdout.contains("step-350.txt"), "{}", listed.out);
    world.ok(&["checkpoints", "verify", "rotated"]);
    assert_eq!(world.status("rotated")["outcome"], "done");
    world.assert_nothing_rented();
}
