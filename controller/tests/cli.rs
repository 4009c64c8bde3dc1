//! What the user sees: the real program in a sealed home, snapshots of both outputs and the exit code.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may hope, and tell"
)]

use std::{
    fmt::Write as _,
    path::Path,
    process::{Command, Stdio},
};

/// An empty home and an empty directory to work in; nothing of the caller's environment gets through.
struct Sealed {
    dir: tempfile::TempDir,
}

impl Sealed {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("work")).unwrap();
        Self { dir }
    }

    fn work(&self) -> std::path::PathBuf {
        self.dir.path().join("work")
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.work().join(name), text).unwrap();
    }

    /// Runs spotter and answers the exit code, stdout and stderr as one text.
    fn spotter(&self, args: &[&str]) -> String {
        self.spotter_with(args, &[])
    }

    fn spotter_with(&self, args: &[&str], env: &[(&str, &str)]) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_spotter"))
            .args(args)
            .env_clear()
            .env("HOME", self.dir.path())
            .env("SPOTTER_HOME", self.dir.path().join("spotter"))
            // Nothing listens here: a verb that must not ask the market would fail.
            .env("VAST_URL", "http://127.0.0.1:1")
            .envs(env.iter().copied())
            .current_dir(self.work())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let mut text = String::new();
        let code = output
            .status
            .code()
            .map_or("signal".to_owned(), |code| code.to_string());
        writeln!(text, "exit: {code}").unwrap();
        for (name, bytes) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
            let shown = String::from_utf8_lossy(bytes);
            let shown = shown.replace(&self.dir.path().display().to_string(), "[home]");
            if !shown.is_empty() {
                writeln!(text, "-- {name} --\n{}", shown.trim_end()).unwrap();
            }
        }
        text
    }

    fn store_exists(&self) -> bool {
        self.dir.path().join("spotter").exists()
    }
}

/// Holds `found` against `tests/cli/<name>.snap`. With `INSTA_UPDATE=always` the file is written.
#[track_caller]
fn check(name: &str, found: &str) {
    insta::with_settings!({
        snapshot_path => Path::new("cli"),
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        insta::assert_snapshot!(name, found);
    });
}

const RUN_FILE: &str = "\
name: a
resources:
  accelerators: \"RTX 4090:1\"
run: python train.py
";

#[test]
fn help_lists_every_verb() {
    let home = Sealed::new();
    check("help", &home.spotter(&["--help"]));
    check("help_short", &home.spotter(&["-h"]));
    check("no_verb", &home.spotter(&[]));
}

#[test]
fn version_is_one_line() {
    let found = Sealed::new().spotter(&["--version"]);
    assert_eq!(
        found,
        format!(
            "exit: 0\n-- stdout --\nspotter {}\n",
            env!("CARGO_PKG_VERSION")
        )
    );
}

#[test]
fn what_is_not_there_is_refused() {
    let home = Sealed::new();
    check("unknown_verb", &home.spotter(&["lauch"]));
    check("unknown_flag", &home.spotter(&["ps", "--jsn"]));
    // Planned for later, so not there at all.
    assert!(home.spotter(&["sweep"]).starts_with("exit: 2"));
    // A key would be seen by everybody on this machine.
    assert!(
        home.spotter(&["ps", "--api-key", "secret"])
            .starts_with("exit: 2")
    );
}

#[test]
fn an_empty_store_has_no_runs_and_is_not_made() {
    let home = Sealed::new();
    check("ps_empty", &home.spotter(&["ps"]));
    check("ps_empty_json", &home.spotter(&["ps", "--json"]));
    check("ps_empty_quiet", &home.spotter(&["ps", "--quiet"]));
    check("events_without_runs", &home.spotter(&["events"]));
    check("events_unknown_run", &home.spotter(&["events", "nope"]));
    assert!(!home.store_exists());
}

#[test]
fn init_writes_a_file_once() {
    let home = Sealed::new();
    check("init", &home.spotter(&["init"]));
    let first = std::fs::read_to_string(home.work().join("run.yaml")).unwrap();
    assert!(first.contains("\nname: work\n"), "{first}");
    check("init_twice", &home.spotter(&["init", "--name", "other"]));
    assert_eq!(
        std::fs::read_to_string(home.work().join("run.yaml")).unwrap(),
        first
    );
    check(
        "init_json",
        &home.spotter(&["init", "other.yaml", "--name", "x", "--json", "--quiet"]),
    );
    check(
        "init_bad_name",
        &home.spotter(&["init", "third.yaml", "--name", "a/b"]),
    );
    assert!(!home.work().join("third.yaml").exists());
}

#[test]
fn a_run_file_is_held_against_the_checklist_before_there_is_a_run() {
    let home = Sealed::new();
    home.write(
        "run.yaml",
        "name: tiny\nworkdir: .\nresources: {accelerators: \"RTX 4090:1\", offers: \"reliability>0.95\"}\nsetup: pip install \
         -r requirements.txt\nrun: python train.py\nresults: {fetch: [out], to: ./results}\nlimits: {budget: 20}\n",
    );
    home.write("requirements.txt", "torch\n");
    check("checklist", &home.spotter(&["checklist", "run.yaml"]));
    check(
        "checklist_json",
        &home.spotter(&["checklist", "run.yaml", "--json"]),
    );
    check("checklist_unknown", &home.spotter(&["checklist", "nope"]));
    check(
        "checklist_no_file",
        &home.spotter(&["checklist", "nope.yaml"]),
    );
    assert!(!home.store_exists());
}

#[test]
fn a_bad_run_file_is_refused_before_anything_else() {
    let home = Sealed::new();
    let cases = [
        (
            "unknown_key",
            format!("{RUN_FILE}chekpoints: {{to: s3://b/p}}\n"),
        ),
        ("later_key", format!("{RUN_FILE}data: [tokens]\n")),
        ("bad_size", RUN_FILE.replace("run:", "  disk: 500MB\nrun:")),
        (
            "bad_query",
            RUN_FILE.replace("run:", "  offers: relability>0.9\nrun:"),
        ),
        (
            "interruptible_without_bucket",
            RUN_FILE.replace("run:", "  rental: interruptible\nrun:"),
        ),
        (
            "literal_secret",
            format!("{RUN_FILE}envs: {{HF_TOKEN: hf_verysecret}}\n"),
        ),
        ("missing_key", "name: a\nrun: x\n".to_owned()),
        ("no_yaml", "name: \"a\nhf_verysecret: [\n".to_owned()),
    ];
    for (name, text) in cases {
        home.write("run.yaml", &text);
        let found = home.spotter(&["plan"]);
        assert!(
            found.starts_with("exit: 2\n-- stderr --\nerror: run.yaml:"),
            "{name}: {found}"
        );
        assert!(!found.contains("hf_verysecret"), "{name}: {found}");
        check(&format!("plan_{name}"), &found);
    }
    check("plan_no_file", &home.spotter(&["plan", "none.yaml"]));
    assert!(!home.store_exists());
}

#[test]
fn bad_values_of_flags_are_refused() {
    let home = Sealed::new();
    check(
        "offers_bad_gpus",
        &home.spotter(&["offers", "--gpus", "RTX 4090:0"]),
    );
    check("bid_below_nothing", &home.spotter(&["bid", "ob", "-3"]));
    check(
        "offers_bad_disk",
        &home.spotter(&["offers", "--disk", "big"]),
    );
    check(
        "resume_disk_below_nothing",
        &home.spotter(&["resume", "ob", "--disk", "-5GB"]),
    );
    check(
        "run_disk_below_nothing",
        &home.spotter(&["run", "--gpus", "RTX 4090", "--disk", "-5GB", "--", "true"]),
    );
    check(
        "resume_budget_below_nothing",
        &home.spotter(&["resume", "ob", "--budget", "-5"]),
    );
    check(
        "offers_bad_query",
        &home.spotter(&["offers", "reliability", "~", "1"]),
    );
    check(
        "key_file_missing",
        &home.spotter(&["offers", "--api-key-file", "nokey"]),
    );
    check(
        "home_missing",
        &home.spotter_with(&["ps"], &[("HOME", ""), ("SPOTTER_HOME", "")]),
    );
}

#[test]
fn colour_is_for_terminals_unless_asked_for() {
    let home = Sealed::new();
    let plain = home.spotter(&["events", "nope"]);
    assert!(!plain.contains('\x1b'), "{plain}");
    let coloured = home.spotter(&["events", "nope", "--color", "always"]);
    assert!(coloured.contains("\x1b[1;31merror:\x1b[0m"), "{coloured}");
}

#[test]
fn a_store_of_a_newer_spotter_is_named() {
    let home = Sealed::new();
    let dir = home.dir.path().join("spotter");
    std::fs::create_dir(&dir).unwrap();
    let store = rusqlite::Connection::open(dir.join("spotter.db")).unwrap();
    store.pragma_update(None, "user_version", 99).unwrap();
    drop(store);
    check("store_newer", &home.spotter(&["ps"]));
}

#[test]
fn an_error_tells_what_is_still_rented() {
    let home = Sealed::new();
    let path = home.dir.path().join("spotter/spotter.db");
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    let store = rusqlite::Connection::open(&path).unwrap();
    store
        .execute_batch(include_str!("../src/store/fixtures/schema-1.sql"))
        .unwrap();
    // Its lease ends at a date that the real clock will pass one day.
    store.execute_batch("DELETE FROM leases").unwrap();
    drop(store);
    // The market cannot be reached; the box of the interrupted run still costs its disk.
    let found = home.spotter_with(&["gc"], &[("VAST_API_KEY", "k")]);
    let money = "money: instance 1234567 of run `flightmind` still costs $0.008/h\n";
    let error = "error: the market gave no usable answer when asked to list instances\n";
    assert!(found.contains(error), "{found}");
    assert!(found.contains(money), "{found}");
    check("ps_interrupted", &home.spotter(&["ps"]));
    check("ps_interrupted_json", &home.spotter(&["ps", "--json"]));
    check(
        "checklist_interrupted",
        &home.spotter(&["checklist", "flightmind"]),
    );
    check(
        "cost_interrupted",
        &home.spotter(&["cost", "flightmind", "--recorded"]),
    );
    check(
        "events_interrupted",
        &home.spotter(&["events", "flightmind"]),
    );
    check(
        "events_interrupted_json",
        &home.spotter(&["events", "flightmind", "--json"]),
    );
}

/// Start-up reads, connects and migrates nothing that the verb does not need. The budget of 10 ms is for an optimised
/// build; here a slow machine and an unoptimised build get twenty times that.
#[test]
fn starting_is_quick() {
    let home = Sealed::new();
    let best = (0..5)
        .map(|_| {
            let start = std::time::Instant::now();
            home.spotter(&["ps"]);
            start.elapsed()
        })
        .min()
        .unwrap();
    assert!(best.as_millis() < 200, "{best:?}");
}

/// A training of a few steps with an evaluation, a bar of other work and an end by a full GPU.
const LOG: &str = "\
Loading weights: 100%|##########| 9/9 [00:00<00:00, 57.82it/s]
step 1/100 | loss: 2.50000 | lr: 3.0e-04 | dt: 500.10ms | tok/sec: 1,048,331
step 1/100 | loss: 2.50000 | lr: 3.0e-04 | dt: 500.10ms | tok/sec: 1,048,331
step 2/100 | loss: 2.25000 | lr: 3.0e-04 | dt: 499.90ms | tok/sec: 1,048,900
val loss: 2.40
step 3/100 | loss: 2.00000 | lr: 2.9e-04 | dt: 501.00ms | tok/sec: 1,046,000
Traceback (most recent call last):
  File \"train.py\", line 9, in <module>
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 23.99 GiB
";

#[test]
fn parse_shows_what_is_read_in_a_log() {
    let home = Sealed::new();
    home.write("train.log", LOG);
    check("parse", &home.spotter(&["parse", "train.log"]));
    check(
        "parse_json",
        &home.spotter(&["parse", "train.log", "--json", "--quiet"]),
    );
    check(
        "parse_summary",
        &home.spotter(&["parse", "train.log", "--summary"]),
    );
    check(
        "parse_summary_json",
        &home.spotter(&["parse", "train.log", "--summary", "--json", "--quiet"]),
    );
    home.write(
        "own.log",
        "at 5 of 20 the cost is 1.25\nstep 9: loss 9.0, lr 1.0\n",
    );
    let own = r"at (?<step>\d+) of (?<total>\d+) the cost is (?<loss>\S+)";
    check(
        "parse_regex",
        &home.spotter(&["parse", "own.log", "--regex", own]),
    );
    check(
        "parse_bad_regex",
        &home.spotter(&["parse", "own.log", "--regex", r"(?<speed>\d+)"]),
    );
    check("parse_nothing", &home.spotter(&["parse", "/dev/null"]));
    check("parse_no_file", &home.spotter(&["parse", "none.log"]));
    assert!(!home.store_exists());
}
