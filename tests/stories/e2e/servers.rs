//! (s) A run file names the bucket's server itself: the box finds out what that server checks, and every verb finds the bucket by it,
//! whatever the environment says. Whole runs on servers of other people, and on one that only its owner vouches for.

use std::{collections::BTreeMap, fs};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    alone::committed,
    links::daemons,
    others::{Certified, Other},
    world::{Said, Tier, Training, World, at, on},
};

/// The box's kernel is no matter here.
#[test]
fn the_server_that_a_run_file_names_counts_over_the_environment() {
    on(Tier::One, named);
}

#[test]
fn an_outbid_run_recovers_bit_by_bit_on_ministack() {
    at(Other::Ministack, None, outbid);
}

#[test]
fn an_outbid_run_recovers_bit_by_bit_on_rclone() {
    at(Other::Rclone, None, outbid);
}

/// Two tests of a story: on ministack, and on rclone's server.
macro_rules! on_other_servers {
    ($($name:ident: $story:path;)+) => {$(
        mod $name {
            use super::{Other, at};

            #[test]
            fn ministack() {
                at(Other::Ministack, None, $story);
            }

            #[test]
            fn rclone() {
                at(Other::Rclone, None, $story);
            }
        }
    )+};
}

on_other_servers! {
    five_interruptions_lose_no_checkpoint_and_no_bit: crate::interruptions::five;
    what_was_signed_for_is_all_that_a_box_needs: crate::presigned::presigned;
    results_outlive_their_box: crate::results::patterns;
    uploads_go_on_while_nobody_watches: crate::alone::goes_on_uploading;
}

#[test]
fn a_box_that_trusts_nobody_reaches_a_server_that_its_owner_vouches_for() {
    let certified = Certified::new();
    at(Other::Rclone, Some(&certified), |world| {
        vouched_for(world, &certified.authority);
    });
}

/// The box's kernel is no matter here either.
#[test]
fn the_server_that_the_first_shell_named_is_found_from_every_other() {
    on(Tier::One, from_other_shells);
}

fn from_other_shells(world: &World) {
    world.training(&Training::interruptible("kept", 30));
    world.ok(&["run", "kept.yaml", "--detach"]);
    // One in which nobody listens where the environment points, and one in which it points nowhere.
    let say = |args: &[&str], url: Option<&str>| {
        let mut command = world.spotter(args);
        match url {
            Some(url) => command.env("AWS_ENDPOINT_URL_S3", url),
            None => command.env_remove("AWS_ENDPOINT_URL_S3"),
        };
        let said = Said::of(command.output().unwrap());
        assert_eq!(said.code, 0, "{args:?}\n{}\n{}", said.out, world.sim_log());
        said.stdout
    };
    let nobody = Some("http://127.0.0.1:1");
    say(&["wait", "kept"], nobody);
    let listed = say(&["checkpoints", "kept"], None);
    assert!(listed.contains("step-30.txt"), "{listed}");
    say(&["checkpoints", "verify", "kept"], nobody);
    world.assert_nothing_rented();
}

fn named(world: &World) {
    let training = Training::interruptible("named", 40);
    world.training(&training);
    let yaml = std::fs::read_to_string(world.work().join("named.yaml")).unwrap();
    // The bucket is in the host's name, which is no name of an address.
    let server = format!(
        "  server: {{endpoint: \"{}\", region: us-east-1, style: virtual}}\n",
        world.s3_url().replace("127.0.0.1", "localhost")
    );
    let upload = "  upload: {max: 40MB/s, schedule: [\"00:00-12:00 full\", \"12:00-24:00 50MB/s\"], zone: \"+02:00\"}\n";
    let changed = yaml.replace("  every: 1m\n", &format!("  every: 1m\n{server}{upload}"));
    assert_ne!(changed, yaml);
    world.write("named.yaml", &changed);
    // Nobody listens where the environment points.
    let say = |args: &[&str]| {
        let mut command = world.spotter(args);
        command.env("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1");
        let said = Said::of(command.output().unwrap());
        assert_eq!(said.code, 0, "{args:?}\n{}\n{}", said.out, world.sim_log());
        said.stdout
    };
    say(&["run", "named.yaml"]);
    let events = say(&["events", "named"]);
    assert!(events.contains("bucket.probed"), "{events}");
    let listed = say(&["checkpoints", "named"]);
    assert!(listed.contains("step-40.txt"), "{listed}");
    say(&["checkpoints", "verify", "named"]);
    say(&["doctor", "bucket", "named"]);
    world.assert_nothing_rented();
}

/// Checkpoints of two files, one of them in parts, with their sum in the log; so is the sum of what came back.
const SUMS: &str = r#"
total=$1
step=0
sum() { cat "$1/weights.bin" "$1/step.txt" | sha256sum | cut -d' ' -f1; }
if [ -n "${SPOTTER_CHECKPOINT:-}" ]; then
  step=$(cat "$SPOTTER_CHECKPOINT/step.txt")
  echo "resumed $step: $(sum "$SPOTTER_CHECKPOINT")"
fi
mkdir -p "$SPOTTER_CHECKPOINT_DIR" out
while [ "$step" -lt "$total" ]; do
  step=$((step + 1))
  sleep 0.1
  echo "step $step/$total | loss $((1000 - step)).5"
  if [ $((step % 15)) = 0 ]; then
    new="$SPOTTER_CHECKPOINT_DIR/.new"
    mkdir -p "$new"
    head -c 9000000 /dev/urandom > "$new/weights.bin"
    echo "$step" > "$new/step.txt"
    echo "saved $step: $(sum "$new")"
    mv "$new" "$SPOTTER_CHECKPOINT_DIR/step-$step"
  fi
done
echo "final $step" > out/final.txt
"#;

/// Steps and sums of the lines of a log that begin with this word.
fn sums(log: &str, word: &str) -> BTreeMap<u64, String> {
    let pair = |line: &str| {
        let (step, sum) = line.trim().strip_prefix(word)?.split_once(": ")?;
        Some((step.trim().parse().ok()?, sum.to_owned()))
    };
    log.lines().filter_map(pair).collect()
}

fn outbid(world: &World) {
    let mut training = Training::interruptible("far", 75);
    training.command = Some("bash sums.sh 75");
    world.training(&training);
    world.write("sums.sh", SUMS);
    let mut watcher = world.background(&["run", "far.yaml"]);
    let first = world.until_step("far", 1, 20);
    world.until("a checkpoint in the bucket", || {
        (!committed(world, "far").is_empty()).then_some(())
    });

    world.ctl(&["outbid", &first.to_string()]);

    assert_eq!(watcher.wait(), 0, "{}", watcher.text());
    let status = world.status("far");
    assert_eq!(status["outcome"], "done", "{status}");
    assert_eq!(status["attempts"].as_array().unwrap().len(), 2, "{status}");
    let log = |attempt: u32| {
        let path = format!("logs/far/{attempt}-train.log");
        fs::read_to_string(world.spotter_home().join(path)).unwrap()
    };
    let saved = sums(&log(1), "saved");
    let resumed = sums(&log(2), "resumed");
    assert_eq!(resumed.len(), 1, "{resumed:?}");
    for (step, sum) in &resumed {
        assert_eq!(saved.get(step), Some(sum), "{saved:?}");
    }
    assert_eq!(committed(world, "far")[0], 75);
    world.ok(&["checkpoints", "verify", "far"]);
    let results = fs::read_to_string(world.work().join("results-far/out/final.txt")).unwrap();
    assert_eq!(results, "final 75\n");
    world.assert_nothing_rented();
}

fn vouched_for(world: &World, authority: &str) {
    world.training(&Training::interruptible("lab", 150));
    world.write("ca.pem", authority);
    let yaml = fs::read_to_string(world.work().join("lab.yaml")).unwrap();
    let server = format!(
        "  persist: true\n  server: {{endpoint: \"{}\", region: us-east-1, ca: ca.pem}}\n",
        world.s3_url()
    );
    assert!(world.s3_url().starts_with("https://"));
    let changed = yaml.replace("  every: 1m\n", &format!("  every: 1m\n{server}"));
    assert_ne!(changed, yaml);
    let bare =
        "onstart: \"echo 'export SSL_CERT_FILE=/dev/null SSL_CERT_DIR=/nowhere' >> ~/.bashrc\"\n";
    world.write("lab.yaml", &format!("{changed}{bare}"));
    let mut watcher = world.background(&["run", "lab.yaml"]);
    let instance = world.until_step("lab", 1, 20);
    let before = world.until("a checkpoint in the bucket", || {
        committed(world, "lab").first().copied()
    });
    let spotter = world.home(instance).join(".spotter");
    let running = daemons(&spotter);
    assert_eq!(running.len(), 1, "daemons of {}", spotter.display());
    // What a daemon was started with is hidden from its own user.
    if nix::unistd::geteuid().is_root() {
        let environment = fs::read(format!("/proc/{}/environ", running[0])).unwrap();
        let environment = String::from_utf8_lossy(&environment).into_owned();
        assert!(
            environment.contains("SSL_CERT_FILE=/dev/null"),
            "{environment}"
        );
    }
    watcher.kill();

    // A new daemon, which nobody tells anything: what it knows of the server it has from its disk.
    kill(Pid::from_raw(running[0]), Signal::SIGKILL).unwrap();
    world.until("a new daemon", || {
        world.ok(&["status", "lab"]);
        daemons(&spotter)
            .iter()
            .any(|pid| !running.contains(pid))
            .then_some(())
    });
    world.until("a checkpoint beyond those of the old one", || {
        let newest = committed(world, "lab").first().copied()?;
        (newest > before + 20).then_some(())
    });

    let mut up = world.background(&["up", "lab"]);
    assert_eq!(up.wait(), 0, "{}", up.text());
    assert_eq!(committed(world, "lab")[0], 150);
    world.ok(&["checkpoints", "verify", "lab"]);
    world.assert_nothing_rented();
}
