//! (o) What a user types about the checkpoints of a run that is over, and what the screen says. The whole texts lie beside this file:
//! `INSTA_UPDATE=always` writes them anew.

use std::{fs, path::Path};

use regex::Regex;

use crate::{
    refusals::plain,
    world::{Said, Tier, Training, World, on},
};

/// A bucket is the same on every tier.
#[test]
fn checkpoints_of_a_run_are_listed_proved_brought_kept_and_thinned_out_by_the_verbs() {
    on(Tier::One, verbs);
}

/// Five checkpoints with a file that never changes; the second is the best.
const MEASURED: &str = r#"
mkdir -p "$SPOTTER_CHECKPOINT_DIR" out
for line in "10 3.5" "20 1.5" "30 2.5" "40 2.0" "50 2.25"; do
  step=${line% *}
  sleep 1.5
  echo "step $step/50 | loss 4.5"
  echo "val_loss: ${line#* }"
  dir="$SPOTTER_CHECKPOINT_DIR/checkpoint-$step"
  mkdir "$dir"
  seq 1 5000 > "$dir/frozen.txt"
  seq "$step" 4000 > "$dir/weights.txt"
  touch "$dir/DONE"
done
sleep 3
echo done > out/final.txt
"#;

fn verbs(world: &World) {
    let mut training = Training::interruptible("measured", 50);
    training.command = Some("bash measured.sh");
    world.training(&training);
    world.write("measured.sh", MEASURED);
    let yaml = fs::read_to_string(world.work().join("measured.yaml")).unwrap();
    let changed = yaml.replace(
        "  keep: {last: 3}\n",
        "  keep: {last: 2, best: {metric: val_loss}}\n  complete_when: marker DONE\n",
    );
    assert_ne!(changed, yaml);
    world.write("measured.yaml", &changed);
    world.ok(&["run", "measured.yaml"]);
    world.assert_nothing_rented();

    let screen = |name: &str, args: &[&str], code: i32| {
        let said = world.say(&[&["checkpoints"], args].concat());
        assert_eq!(said.code, code, "{name}: {}", said.out);
        check(world, name, &said);
    };
    // The box is gone, the two newest and the best are there.
    screen("ls", &["ls", "measured"], 0);
    screen("show", &["show", "measured", "20"], 0);
    screen("diff", &["diff", "measured", "20"], 0);
    screen("verify", &["verify", "measured"], 0);
    screen("pull", &["pull", "measured", "20", "--to", "pulled"], 0);
    let pulled = world.work().join("pulled/checkpoint-20");
    let weights: Vec<String> = fs::read_to_string(pulled.join("weights.txt"))
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    let written: Vec<String> = (20..=4000).map(|number| number.to_string()).collect();
    assert_eq!(weights, written);
    let again = ["pull", "measured", "20", "--to", "pulled"];
    screen("pull_again", &again, 0);

    screen("pin", &["pin", "measured", "40"], 0);
    // By the run's own rule nothing goes; by this one the best does, and what went before gives its space back.
    screen("prune_by_its_rule", &["prune", "measured", "--dry-run"], 0);
    world.ok(&["checkpoints", "unpin", "measured", "40"]);
    // The grace of those that went a moment ago.
    std::thread::sleep(std::time::Duration::from_secs(2));
    let stricter = ["prune", "measured", "--keep-best", "val_loss:0"];
    let stricter = [&stricter[..], &["--keep-last", "2", "--grace", "2s"]].concat();
    screen("prune", &stricter, 0);
    screen("ls_at_the_end", &["ls", "measured"], 0);
    screen("verify_at_the_end", &["verify", "measured"], 0);
    let pushed = ["push", "measured", "pulled/checkpoint-20"];
    screen("push", &pushed, 0);

    // What cannot be done.
    screen("no_such_step", &["pull", "measured", "33"], 2);
    world.ok(&["checkpoints", "pull", "measured", "50", "--to", "pulled"]);
    fs::write(
        world.work().join("pulled/checkpoint-50/weights.txt"),
        "mine",
    )
    .unwrap();
    let in_the_way = ["pull", "measured", "50", "--to", "pulled"];
    screen("something_in_the_way", &in_the_way, 1);
    let elsewhere = ["ls", "measured", "--bucket", "s3://not-there/runs"];
    screen("wrong_bucket", &elsewhere, 1);
    for (name, order) in [
        ("expired_key", r#", "expires_in_s": -60"#),
        ("read_only_key", r#", "rights": "read_only""#),
    ] {
        let key = format!(
            r#"{{"key": {{"access_key": "{name}", "secret_key": "secret of {name}"{order}}}}}"#
        );
        world.ctl(&["s3", &key]);
        let mut command = world.spotter(&["checkpoints", "pin", "measured", "50"]);
        command.envs([
            ("AWS_ACCESS_KEY_ID", name),
            ("AWS_SECRET_ACCESS_KEY", &format!("secret of {name}")),
        ]);
        let said = Said::of(command.output().unwrap());
        assert_eq!(said.code, 1, "{}", said.out);
        check(world, name, &said);
    }
}

#[track_caller]
fn check(world: &World, name: &str, said: &Said) {
    let text = format!(
        "exit: {}\n-- stdout --\n{}\n-- stderr --\n{}",
        said.code,
        said.stdout.trim_end(),
        said.stderr.trim_end()
    );
    // How often a bar is drawn is a matter of the moment.
    let drawn = Regex::new(r"^\w+: +\d+ % ").unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| !drawn.is_match(line)).collect();
    let text = plain(world, &lines.join("\n"));
    let text = Regex::new(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ")
        .unwrap()
        .replace_all(&text, "[time]");
    insta::with_settings!({
        snapshot_path => Path::new("checkpoints"),
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        insta::assert_snapshot!(name, text.trim_end());
    });
}
