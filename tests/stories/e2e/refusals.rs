//! (h) What cannot be done is refused with what, why, what it costs and what to type next, and nothing is left rented.

use crate::world::{Said, Tier, Training, World, on};

/// What a story's refusal must look like.
fn check(world: &World, said: &Said, code: i32, words: &[&str]) {
    assert_eq!(said.code, code, "{}", said.out);
    let first = said.stderr.lines().find(|line| line.starts_with("error: "));
    assert!(first.is_some(), "no error line in\n{}", said.out);
    for word in words {
        assert!(
            said.stderr.contains(word),
            "`{word}` is not in\n{}",
            said.out
        );
    }
    world.assert_nothing_rented();
}

#[test]
fn every_refusal_says_what_and_why_and_leaves_nothing_rented() {
    on(Tier::One, |world| {
        let good = Training::interruptible("refused", 20);
        world.training(&good);
        let yaml = std::fs::read_to_string(world.work().join("refused.yaml")).unwrap();

        let wrong_key = world
            .spotter(&["run", "refused.yaml"])
            .env("VAST_API_KEY", "wrong")
            .output()
            .unwrap();
        check(
            world,
            &said(wrong_key),
            1,
            &["refused the API key", "hint: "],
        );
        let no_key = world
            .spotter(&["run", "refused.yaml"])
            .env_remove("VAST_API_KEY")
            .output()
            .unwrap();
        check(world, &said(no_key), 1, &["no API key", "VAST_API_KEY"]);

        world.write("unknown.yaml", &yaml.replace("checkpoints:", "chekpoints:"));
        check(
            world,
            &world.say(&["run", "unknown.yaml"]),
            2,
            &["unknown.yaml:", "chekpoints", "`checkpoints`"],
        );
        world.write("unsafe.yaml", &yaml.replace("  to: s3", "  # to: s3"));
        check(
            world,
            &world.say(&["run", "unsafe.yaml"]),
            2,
            &["unsafe.yaml:", "checkpoints.to", "interruptible"],
        );
        world.write("disk.yaml", &yaml.replace("disk: 20GB", "disk: 60TB"));
        check(
            world,
            &world.say(&["run", "disk.yaml"]),
            1,
            &["no offer", "hint: "],
        );
        world.write(
            "bid.yaml",
            &yaml.replace(
                "rental: interruptible",
                "rental: interruptible, bid: {max: 0.001}",
            ),
        );
        check(
            world,
            &world.say(&["run", "bid.yaml", "--name", "bid"]),
            1,
            &["resources.bid.max", "price to beat"],
        );
        world.write("bucket.yaml", &yaml.replace("s3://", "s3://not-there-"));
        check(
            world,
            &world.say(&["run", "bucket.yaml", "--name", "bucket"]),
            1,
            &["bucket", "cannot be used"],
        );
        let no_keys = world
            .spotter(&["run", "refused.yaml"])
            .env_remove("AWS_ACCESS_KEY_ID")
            .output()
            .unwrap();
        check(world, &said(no_keys), 1, &["AWS_ACCESS_KEY_ID is not"]);
        check(
            world,
            &world.say(&["status", "nobody"]),
            2,
            &["there is no run `nobody`"],
        );
    });
}

#[test]
fn offers_that_are_gone_are_passed_over_until_one_is_left() {
    on(Tier::One, |world| {
        world.training(&Training::interruptible("gone", 15));
        world.ctl(&["faults", r#"{"offers_gone": 2, "offers_gone_status": 410}"#]);
        let said = world.ok(&["run", "gone.yaml"]);
        assert_eq!(
            said.stderr.matches("is gone or was outbid").count(),
            2,
            "{}",
            said.out
        );
        world.assert_nothing_rented();
    });
}

#[test]
fn a_box_without_ssh_is_given_up_and_nothing_is_left_rented() {
    on(Tier::One, |world| {
        let mut training = Training::interruptible("mute", 15);
        training.bring_up = "15s";
        world.training(&training);
        world.ctl(&["faults", r#"{"key_delay_s": 100000}"#]);
        let said = world.say(&["run", "mute.yaml"]);
        check(
            world,
            &said,
            1,
            &["did not start", "boxes in a row did not come up"],
        );
    });
}

fn said(output: std::process::Output) -> Said {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Said {
        code: output.status.code().unwrap_or(-1),
        out: format!("{stdout}{stderr}"),
        stdout,
        stderr,
    }
}
