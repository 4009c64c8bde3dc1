//! `spotter top` in a real terminal: tmux on a socket of its own, whose screen is read as a person sees it.

use std::process::Command;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::world::{Tier, Training, World, on};

#[test]
fn a_screen_shows_runs_that_go_on_and_ones_that_are_over_and_harms_none() {
    on(Tier::One, screens);
}

#[test]
fn without_a_terminal_top_names_the_verb_to_use_and_prints_one_frame() {
    on(Tier::One, no_terminal);
}

#[test]
fn a_run_whose_box_cannot_be_reached_is_shown_from_what_was_copied() {
    on(Tier::One, unreachable);
}

/// Runs a program that tells its process id, then says how it ended and how it left the terminal.
const AND_AFTERWARDS: &str = r#"
sh -c 'echo $$ > "$0"; exec "$@"' "$0" "$@"
echo "ended with $?"
case "$(stty -a)" in *-icanon*|*-echo\ *) echo "left raw" ;; *) echo "left as it was" ;; esac
exec cat
"#;

/// A terminal that nobody sits at.
struct Terminal<'w> {
    world: &'w World,
    socket: String,
}

impl<'w> Terminal<'w> {
    /// Runs `spotter` in one of this size.
    fn run(world: &'w World, name: &str, size: (u16, u16), args: &[&str]) -> Terminal<'w> {
        let socket = world.work().join(format!("{name}.tmux"));
        let socket = socket.to_str().unwrap().to_owned();
        let pid_file = format!("{name}.pid");
        world.write(
            "tmux.conf",
            "set -s set-clipboard on\nset -s escape-time 0\nset -g status off\n",
        );
        let spotter = world.programs().join("spotter");
        let (columns, rows) = (size.0.to_string(), size.1.to_string());
        let mut words = vec![
            "-u",
            "-S",
            &socket,
            "-f",
            "tmux.conf",
            "new-session",
            "-d",
            "-s",
            "top",
            "-x",
            &columns,
            "-y",
            &rows,
            "--",
            "sh",
            "-c",
            AND_AFTERWARDS,
            &pid_file,
        ];
        words.push(spotter.to_str().unwrap());
        words.extend(args);
        let said = world
            .program("tmux", &words)
            .env("TERM", "xterm-256color")
            .env_remove("NO_COLOR")
            .output()
            .unwrap();
        assert!(
            said.status.success(),
            "{}",
            String::from_utf8_lossy(&said.stderr)
        );
        Terminal { world, socket }
    }

    fn tmux(&self, args: &[&str]) -> String {
        let mut words = vec!["-u", "-S", self.socket.as_str()];
        words.extend(args);
        let said = self.world.program("tmux", &words).output().unwrap();
        assert!(
            said.status.success(),
            "tmux {args:?}: {}",
            String::from_utf8_lossy(&said.stderr)
        );
        String::from_utf8(said.stdout).unwrap()
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-t", "top"])
    }

    fn press(&self, key: &str) {
        self.tmux(&["send-keys", "-t", "top", key]);
    }

    fn resize(&self, columns: u16, rows: u16) {
        let (columns, rows) = (columns.to_string(), rows.to_string());
        self.tmux(&["resize-window", "-t", "top", "-x", &columns, "-y", &rows]);
    }

    /// Waits until all of these are on the screen at once.
    fn shows(&self, wanted: &[&str]) -> String {
        let mut last = String::new();
        let seen = self.world.try_until(|| {
            last = self.screen();
            wanted.iter().all(|text| last.contains(text))
        });
        assert!(seen, "waited for {wanted:?}, and there is\n{last}");
        last
    }

    /// The process of `spotter`.
    fn pid(&self) -> Pid {
        let file = self.socket.replace(".tmux", ".pid");
        let text = std::fs::read_to_string(file).unwrap();
        Pid::from_raw(text.trim().parse().unwrap())
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        let words = ["-S", self.socket.as_str(), "kill-server"];
        let _ = self.world.program("tmux", &words).output();
    }
}

fn screens(world: &World) {
    if Command::new("tmux").arg("-V").output().is_err() {
        return stories::skip::skip("tmux is not installed: apt-get install tmux");
    }
    world.training(&Training::interruptible("small", 15));
    world.ok(&["run", "small.yaml"]);
    world.assert_nothing_rented();
    for name in ["first", "second"] {
        world.training(&Training::interruptible(name, 100_000));
        world.ok(&["run", &format!("{name}.yaml"), "--detach"]);
    }

    // All of them, the newest first; what has ended is below.
    let top = Terminal::run(world, "all", (120, 36), &["top"]);
    let list = top.shows(&["3 runs", "second", "first", "small", "RUNNING", "DONE"]);
    let line = |name: &str| list.lines().position(|line| line.contains(name)).unwrap();
    assert!(
        line(" second ") < line(" first ") && line(" first ") < line(" small "),
        "{list}"
    );

    // Its GPUs, curves, log and what happened, as they come.
    top.press("Enter");
    let seen = top.shows(&[
        "second  RUNNING",
        "run 1 of 3",
        "live",
        "GPU 0",
        "memory",
        "of 100,000",
        "left (",
        "$",
        "so far",
        "in the bucket",
        "limit 60s",
        "loss ",
        "1000 tokens/s",
        "[log]",
        "| loss ",
        "box 1 checkpoint.",
        "no window is closed so far",
        "nobody watches",
    ]);
    let newest = |screen: &str| {
        let steps = screen.lines().filter_map(|line| {
            let (_, rest) = line.split_once("step ")?;
            rest.split('/').next()?.parse::<u64>().ok()
        });
        steps.max()
    };
    let before = newest(&seen).expect("steps in the log");
    world.until("the log to go on", || {
        newest(&top.screen()).filter(|now| *now > before + 5)
    });

    // The smallest that is usable has all of it still, and one that is not says so.
    top.resize(80, 24);
    let small = top.shows(&[
        "second  RUNNING",
        "GPU 0",
        "loss ",
        "[log]",
        "| loss",
        "q leave",
    ]);
    assert!(small.lines().count() <= 24, "{small}");
    assert!(
        small.lines().all(|line| line.chars().count() <= 80),
        "{small}"
    );
    top.press("2");
    top.shows(&["[events]", "box 1 checkpoint."]);
    top.press("4");
    top.shows(&["[attempts]", "attempt 1 running"]);
    top.resize(40, 10);
    top.shows(&["too small: 40 x 10, needs 60 x 16"]);
    top.resize(100, 30);
    top.press("?");
    top.shows(&["OSC 52", "leave; nothing happens to any run"]);
    // An escape and a key at once would be another key.
    top.press("x");
    top.shows(&["[attempts]"]);

    // A filter, a marked line, and its copy.
    top.press("1");
    top.shows(&["[log]", "| loss"]);
    for key in ["/", "p", " ", "1", "Enter"] {
        top.press(key);
    }
    top.shows(&["filter `p 1`", "step 1"]);
    top.press("Home");
    top.press("c");
    top.shows(&["characters to the terminal's clipboard"]);
    let copied = world.until("the copy", || {
        let said = top.tmux(&["list-buffers", "-F", "#{buffer_sample}"]);
        (!said.trim().is_empty()).then(|| top.tmux(&["show-buffer"]))
    });
    assert!(
        copied.starts_with("step 1") && copied.contains("| 1,000 tok/s"),
        "{copied}"
    );
    top.press("Escape");
    top.shows(&["Tab pane"]);

    // The next run, and one that is over: from what is on record.
    top.press("Right");
    top.shows(&["first  RUNNING", "run 2 of 3", "live", "GPU 0", "| loss"]);
    top.press("Right");
    top.shows(&[
        "small  DONE",
        "from the record",
        "old",
        "step 15 of 15",
        "| loss 985.5",
        "GPU",
        "$0.000/h now",
    ]);

    // Leaving changes nothing: two boxes, whose trainings go on, and nobody took a lease.
    top.press("q");
    top.shows(&["ended with 0", "left as it was"]);
    assert_eq!(world.alive().len(), 2);
    for name in ["first", "second"] {
        let status = world.status(name);
        assert_eq!(status["watched"], false, "{status}");
        assert_eq!(status["state"], "running", "{status}");
        assert_eq!(status["outcome"], serde_json::Value::Null, "{status}");
    }

    // A signal leaves the terminal as it was.
    let top = Terminal::run(world, "one", (80, 24), &["top", "first"]);
    let seen = top.shows(&["first  RUNNING", "live", "| loss"]);
    assert!(!seen.contains("run 1 of"), "{seen}");
    kill(top.pid(), Signal::SIGTERM).unwrap();
    top.shows(&["ended with 0", "left as it was"]);

    for name in ["first", "second"] {
        world.ok(&["destroy", "--lose-data", name]);
    }
    world.assert_nothing_rented();
}

fn no_terminal(world: &World) {
    let none = world.say(&["top"]);
    assert_eq!(none.code, 2, "{}", none.out);
    world.training(&Training::interruptible("one", 100_000));
    world.ok(&["run", "one.yaml", "--detach"]);
    let said = world.say(&["top", "one"]);
    assert_eq!(said.code, 2, "{}", said.out);
    assert!(
        said.stderr.contains("`spotter status one --json`")
            && said.stderr.contains("`spotter top one --once`"),
        "{}",
        said.out
    );
    assert_eq!(world.say(&["top", "one", "--json"]).code, 2);
    let frame = world.ok(&["top", "one", "--once"]).stdout;
    for wanted in ["one  RUNNING", "live", "GPU 0", "| loss", "[log]"] {
        assert!(frame.contains(wanted), "{wanted} in\n{frame}");
    }
    assert!(!frame.contains('\x1b'), "{frame:?}");
    world.ok(&["destroy", "--lose-data", "one"]);
    world.assert_nothing_rented();
}

fn unreachable(world: &World) {
    if Command::new("tmux").arg("-V").output().is_err() {
        return stories::skip::skip("tmux is not installed: apt-get install tmux");
    }
    world.training(&Training::interruptible("away", 100_000));
    let mut watcher = world.background(&["run", "away.yaml"]);
    let instance = world.until_step("away", 1, 20);
    // What it measured is copied every quarter of a minute, a minute at a time, and the rest of it when whoever copies leaves.
    let copied = world.spotter_home().join("logs/away/1-train.log");
    world.until("a copy of its log", || {
        let log = std::fs::read_to_string(&copied).ok()?;
        log.contains("step 20/").then_some(())
    });
    kill(watcher.id(), Signal::SIGINT).unwrap();
    watcher.wait();
    world.ctl(&["link", &instance.to_string(), "drop"]);

    // The record and the copies are there at once; whether the box answers shows later.
    let top = Terminal::run(world, "away", (120, 36), &["top", "away"]);
    top.shows(&[
        "away  RUNNING",
        "from the record",
        "of 100,000",
        "| loss ",
        "[log]",
        "so far",
    ]);
    let lost = top.shows(&["! no link for", "| loss "]);
    assert!(!lost.contains(" live "), "{lost}");
    top.press("2");
    top.shows(&["[events]", "box 1 checkpoint."]);
    top.press("4");
    top.shows(&["[attempts]", "attempt 1 running"]);
    top.press("q");
    top.shows(&["ended with 0", "left as it was"]);

    world.ctl(&["link", &instance.to_string(), "heal"]);
    world.ok(&["destroy", "--lose-data", "away"]);
    world.assert_nothing_rented();
}
