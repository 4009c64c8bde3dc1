//! A user who is away is told what happens, by a command and by a webhook, once each however many watch; the URL stays a secret.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
};

use serde_json::Value;

use crate::world::{Said, Tier, Training, World, on};

#[test]
fn an_interruption_and_the_end_are_told_once_by_command_and_webhook() {
    on(Tier::One, told_while_away);
}

/// What the box is made of is no matter here.
#[test]
fn a_box_that_ends_itself_tells_the_user_and_nobody_tells_him_again() {
    on(Tier::One, told_by_the_box);
}

/// What stands in the URL and nowhere else.
const SECRET: &str = "hush-T0B1C2D3";

/// Listens like somebody's chat: the first message is refused for a moment.
struct Listener {
    url: String,
    heard: Arc<Mutex<Vec<Value>>>,
}

impl Listener {
    fn new() -> Listener {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/{SECRET}", listener.local_addr().unwrap());
        let heard = Arc::new(Mutex::new(Vec::new()));
        let ears = Arc::clone(&heard);
        // It ends with the test's process.
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().flatten().enumerate() {
                let message = answer(stream, number == 0);
                ears.lock().unwrap().extend(message);
            }
        });
        Listener { url, heard }
    }

    fn heard(&self) -> Vec<Value> {
        self.heard.lock().unwrap().clone()
    }
}

fn answer(stream: TcpStream, refuse: bool) -> Option<Value> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 || line == "\r\n" {
            break;
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    assert!(
        head.starts_with(&format!("POST /{SECRET} HTTP/1.1")),
        "{head}"
    );
    let status = if refuse { "503 Busy" } else { "204 No Content" };
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    reader.get_mut().write_all(answer.as_bytes()).ok()?;
    let message = serde_json::from_slice(&body).ok()?;
    (!refuse).then_some(message)
}

/// A run file with `notify`.
fn file(world: &World, training: &Training, notify: &str) -> String {
    world.training(training);
    let name = format!("{}.yaml", training.name);
    let yaml = fs::read_to_string(world.work().join(&name)).unwrap();
    world.write(&name, &format!("{yaml}notify: {notify}\n"));
    name
}

fn wanted(message: &Value) -> bool {
    ["interrupted", "running", "ended"].contains(&message["event"].as_str().unwrap())
}

fn kinds(messages: &[Value]) -> Vec<&str> {
    messages
        .iter()
        .map(|message| message["event"].as_str().unwrap())
        .collect()
}

/// No file below holds the secret.
fn assert_nowhere(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let kind = fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_dir() {
            assert_nowhere(&path);
        } else if kind.is_file() {
            let bytes = fs::read(&path).unwrap();
            let found = bytes
                .windows(SECRET.len())
                .any(|at| at == SECRET.as_bytes());
            assert!(!found, "{} holds the URL", path.display());
        }
    }
}

fn told_while_away(world: &World) {
    let listener = Listener::new();
    // Where the run file leaves the URL to the shell, and the shell lacks it, nothing is rented.
    let training = Training::interruptible("away", 150);
    let left = file(
        world,
        &training,
        "{command: 'cat >> told.jsonl; echo \"$SPOTTER_RUN $SPOTTER_EVENT\" >> told.env', webhook: null}",
    );
    let refused = world.say(&["run", &left]);
    assert_eq!(refused.code, 2, "{}", refused.out);
    assert!(
        refused.stderr.contains("SPOTTER_WEBHOOK"),
        "{}",
        refused.out
    );
    world.assert_nothing_rented();

    let mut command = world.spotter(&["run", &left, "--detach"]);
    command.env("SPOTTER_WEBHOOK", &listener.url);
    let started = Said::of(command.output().unwrap());
    assert_eq!(started.code, 0, "{}", started.out);
    let watchers: Vec<_> = (0..2)
        .map(|_| {
            let mut command = world.spotter(&["wait", "away"]);
            command.env("SPOTTER_WEBHOOK", &listener.url);
            std::thread::spawn(move || Said::of(command.output().unwrap()))
        })
        .collect();
    let instance = world.until_step("away", 1, 30);
    world.ctl(&["outbid", &instance.to_string()]);
    for watcher in watchers {
        let said = watcher.join().unwrap();
        assert_eq!(said.code, 0, "{}", said.out);
        assert!(!said.out.contains(SECRET), "{}", said.out);
        assert!(!said.out.contains("notification failed"), "{}", said.out);
    }
    let all = listener.heard();
    // A busy machine may have more to tell, such as a backup that is behind.
    let heard: Vec<Value> = all
        .iter()
        .filter(|message| wanted(message))
        .cloned()
        .collect();
    assert_eq!(
        kinds(&heard),
        ["interrupted", "running", "ended"],
        "{heard:?}"
    );
    let ids: BTreeMap<i64, &Value> = all
        .iter()
        .map(|message| (message["id"].as_i64().unwrap(), message))
        .collect();
    assert_eq!(ids.len(), all.len(), "each once");
    assert!(all.iter().all(|message| message["run"] == "away"));
    let text = heard[1]["text"].as_str().unwrap();
    assert!(
        text.starts_with("`away`: it trains again, attempt 2 from step "),
        "{text}"
    );
    assert_eq!(heard[2]["text"], "`away`: it is over: done");
    // The command was told the same.
    let written = fs::read_to_string(world.work().join("told.jsonl")).unwrap();
    let written: Vec<Value> = written
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(written, all);
    let env = fs::read_to_string(world.work().join("told.env")).unwrap();
    let expected: String = kinds(&all)
        .iter()
        .map(|kind| format!("away {kind}\n"))
        .collect();
    assert_eq!(env, expected);

    // The URL in the run file, which goes on being read there; and a command that fails.
    let mut training = Training::interruptible("crashes", 10);
    training.command = Some("bash -c 'echo starting; sleep 2; exit 7'");
    let kept = file(
        world,
        &training,
        &format!(
            "{{command: 'echo no way >&2; exit 3', webhook: \"{}\"}}",
            listener.url
        ),
    );
    let crashed = world.say(&["run", &kept]);
    assert_eq!(crashed.code, 10, "{}", crashed.out);
    assert!(!crashed.out.contains(SECRET), "{}", crashed.out);
    let complaint = "A notification failed, which does the run no harm: the command of `notify.command` ended with exit \
                     status: 3: no way.";
    assert_eq!(crashed.out.matches(complaint).count(), 1, "{}", crashed.out);
    let heard = listener.heard().split_off(all.len());
    let kinds = kinds(&heard);
    assert!(kinds.contains(&"crashed"), "{heard:?}");
    assert_eq!(kinds.last(), Some(&"ended"), "{heard:?}");
    assert!(heard.iter().all(|message| message["run"] == "crashes"));
    let instance = world.alive()[0]["id"].as_u64().unwrap();
    assert_nowhere(&world.home(instance));
    world.ok(&["destroy", "--lose-data", "crashes"]);
    assert_eq!(
        listener.heard().len(),
        all.len() + heard.len(),
        "the end was told"
    );

    assert_nowhere(&world.spotter_home());
    world.assert_nothing_rented();
}

fn told_by_the_box(world: &World) {
    let listener = Listener::new();
    let mut training = Training::interruptible("alone", 100_000);
    training.on_done = "stop";
    let name = file(world, &training, "{webhook: null, from_box: true}");
    let yaml = fs::read_to_string(world.work().join(&name)).unwrap();
    let limited = yaml.replace("max_runtime: 1h", "max_runtime: 10s");
    assert_ne!(limited, yaml);
    world.write(&name, &limited);
    let mut command = world.spotter(&["run", &name, "--detach"]);
    command.env("SPOTTER_WEBHOOK", &listener.url);
    let started = Said::of(command.output().unwrap());
    assert_eq!(started.code, 0, "{}", started.out);

    // The laptop is off.
    world.until("the box to stop itself", || {
        (world.alive()[0]["cur_state"] == "stopped").then_some(())
    });
    let by_box = listener.heard();
    assert_eq!(
        kinds(&by_box),
        ["training.ending", "self_stop"],
        "{by_box:?}"
    );
    assert!(
        by_box.iter().all(|message| message["by"] == "box"),
        "{by_box:?}"
    );
    let text = by_box[0]["text"].as_str().unwrap();
    assert!(
        text.starts_with("`alone`: its box ends the training: `limits.max_runtime` is over"),
        "{text}"
    );
    let instance = world.alive()[0]["id"].as_u64().unwrap();
    assert_nowhere(&world.home(instance));

    let mut command = world.spotter(&["wait", "alone"]);
    command.env("SPOTTER_WEBHOOK", &listener.url);
    let said = Said::of(command.output().unwrap());
    assert_eq!(said.code, 15, "{}", said.out);
    let after = listener.heard().split_off(by_box.len());
    assert_eq!(kinds(&after), ["ended"], "{after:?}");
    assert!(after[0]["by"].is_null(), "{after:?}");
    world.ok(&["destroy", "--lose-data", "alone"]);
    assert_nowhere(&world.spotter_home());
    world.assert_nothing_rented();
}
