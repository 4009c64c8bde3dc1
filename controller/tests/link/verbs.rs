//! `ssh` and `logs` as a user types them, against a real box with a real agent.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use spotter::{
    agent_client::{LogPiece, LogPosition, SessionRequest},
    bootstrap::{AgentBinary, Seat, bootstrap},
    clock::Clock,
    logbook::Logbook,
    provider::Rental,
    run::State,
    spec::RunSpec,
    store::{AttemptRecord, RunRecord, Store},
};

use crate::sshd::{HOST, TestBox, address, agent_path};

/// A run that is on record, its box, and a session with 200 lines on it.
struct Scene {
    test_box: TestBox,
}

impl Scene {
    async fn new(command: &str) -> Scene {
        let test_box = TestBox::new();
        let tunnel = test_box.connect().await;
        let agent = AgentBinary::find(Some(&agent_path()), "/nowhere".as_ref()).unwrap();
        let ready = bootstrap(&tunnel, &agent, Seat::Person, &|_, _| {})
            .await
            .unwrap();
        let request = SessionRequest {
            name: "train".to_owned(),
            command: command.to_owned(),
            dir: Some("/".to_owned()),
            ..Default::default()
        };
        ready.client.start_session(&request).await.unwrap();
        tunnel.close().await;
        fs::create_dir_all(test_box.path("user/.ssh")).unwrap();
        fs::copy(
            test_box.path("user_config"),
            test_box.path("user/.ssh/config"),
        )
        .unwrap();
        let scene = Scene { test_box };
        let store = scene.store();
        let spec = RunSpec::from_flags_for_tests();
        let run = RunRecord {
            name: "my-run".to_owned(),
            spec,
            created_us: 1,
            stop_requested: false,
            outcome: None,
            reason: None,
        };
        store.create_run(&run).unwrap();
        store.create_attempt(&attempt()).unwrap();
        scene
    }

    fn store(&self) -> Store {
        Store::open(&self.test_box.path("laptop/spotter.db"), Clock::system()).unwrap()
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_spotter"));
        command
            .args(words)
            .env_clear()
            .env("PATH", "/usr/bin:/bin:/usr/sbin")
            .env("HOME", self.test_box.path("user"))
            .env("SPOTTER_HOME", self.test_box.path("laptop"))
            .stdin(Stdio::null());
        command
    }

    fn spotter(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// Stdout of a verb that must succeed.
    fn stdout(&self, words: &[&str]) -> String {
        let output = self.spotter(words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn log(&self) -> PathBuf {
        self.test_box.home().join(".spotter/sessions/train/log")
    }

    async fn until_ended(&self) {
        let end = self.log().with_file_name("end.json");
        self.test_box
            .until("the end of the session", || end.exists())
            .await;
    }
}

fn attempt() -> AttemptRecord {
    AttemptRecord {
        run: "my-run".to_owned(),
        number: 1,
        state: State::Running,
        label: "spotter/store/my-run/1/nonce".to_owned(),
        rental: Rental::OnDemand,
        instance: Some(7),
        machine_id: None,
        gpu: "RTX 4090".to_owned(),
        gpu_usd_per_hour: 0.4,
        storage_usd_per_hour: 0.01,
        ssh: vec![address(HOST, 22)],
        created_us: 1,
        state_us: 1,
        started_us: 1,
        gone_us: 0,
        resumed_step: None,
        last_step: None,
        reason: None,
        last_event: 0,
        exit_code: None,
        reopened_us: 0,
        old_session_us: 0,
    }
}

const LINES: &str = "i=0; while [ $i -lt 200 ]; do i=$((i+1)); echo \"line $i\"; sleep 0.02; done";

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_followed_to_its_end_through_a_broken_link() {
    let scene = Scene::new(LINES).await;
    let follower = scene
        .command(&["logs", "my-run", "--follow"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let log = scene.log();
    let half = || fs::metadata(&log).is_ok_and(|meta| meta.len() > 800);
    scene.test_box.until("half of the log", half).await;
    // The master connections of that program are the only ssh here: sshd has another name.
    let masters = scene.test_box.processes().into_iter().filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with(b"ssh\0") && line.windows(4).any(|word| word == b"\0-M\0")
    });
    let mut killed = 0;
    for pid in masters {
        killed += u32::from(kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok());
    }
    assert_eq!(killed, 1, "there is one connection to break");
    let output = tokio::task::spawn_blocking(|| follower.wait_with_output())
        .await
        .unwrap()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("The link is lost") && said.contains("The link is back."),
        "{said}"
    );
    assert!(
        output.stdout == fs::read(scene.log()).unwrap(),
        "what was shown is not the log"
    );
    scene.until_ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_shown_whole_in_part_and_as_json() {
    let scene = Scene::new("printf 'one\\ntwo\\n\\033]0;title\\007three\\n'; exit 4").await;
    scene.until_ended().await;
    let all = scene.stdout(&["logs", "my-run"]);
    assert_eq!(all.as_bytes(), fs::read(scene.log()).unwrap());
    assert_eq!(
        all.replace('\r', ""),
        "one\ntwo\n\u{1b}]0;title\u{7}three\n"
    );
    // The only run that goes on needs no name.
    let tail = scene.stdout(&["logs", "--tail", "2"]);
    assert!(tail.starts_with("two") && all.ends_with(&tail), "{tail}");
    let row: serde_json::Value = serde_json::from_str(&scene.stdout(&["logs", "--json"])).unwrap();
    assert_eq!(row["session"], "train");
    assert_eq!(row["position"]["offset"], 0);
    assert_eq!(row["text"], all.as_str());

    let output = scene.spotter(&["logs", "my-run", "--session", "nobody"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.starts_with("error: the log of `my-run` could not be read\n"),
        "{said}"
    );
    assert!(said.contains("money: instance 7"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_outlives_its_box() {
    let scene = Scene::new("true").await;
    let book = Logbook::new(&scene.test_box.path("laptop"));
    let position = LogPosition::default();
    let piece = LogPiece {
        position,
        data: b"copied\n".to_vec(),
        gap_bytes: 0,
        end: true,
    };
    book.open("my-run", 1, "train")
        .unwrap()
        .append(&piece)
        .unwrap();
    scene
        .store()
        .update_attempt(&AttemptRecord {
            state: State::Gone,
            gone_us: 5,
            ..attempt()
        })
        .unwrap();
    assert_eq!(scene.stdout(&["logs", "my-run"]), "copied\n");
    let output = scene.spotter(&["ssh", "my-run", "--", "true"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "error: run `my-run` has no box\n\
         cause: none is rented yet, or it is being replaced\n\
         hint: see where it stands with `spotter status my-run`\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_on_the_box_and_its_exit_code_is_the_verbs() {
    let scene = Scene::new("true").await;
    let home = scene.stdout(&["ssh", "my-run", "--", "echo", "$HOME"]);
    assert_eq!(home, format!("{}\n", scene.test_box.home().display()));
    let output = scene.spotter(&["ssh", "my-run", "--", "exit 9"]);
    assert_eq!(output.status.code(), Some(9));
    let line = scene.stdout(&["ssh", "--config"]);
    let config = scene.test_box.path("laptop/ssh/config");
    assert_eq!(line, format!("Include \"{}\"\n", config.display()));
    assert!(config.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_attached_to_and_left_while_it_goes_on() {
    let scene = Scene::new("echo hello from the box; sleep 1000").await;
    let log = scene.log();
    let printed = || fs::read(&log).is_ok_and(|text| text.starts_with(b"hello"));
    scene.test_box.until("the first line", printed).await;
    // `script` gives the program a terminal of its own.
    let spotter = env!("CARGO_BIN_EXE_spotter");
    let screen = scene.test_box.path("screen");
    let mut attached = Command::new("script");
    attached
        .args(["-qefc", &format!("{spotter} attach my-run")])
        .arg(&screen)
        .env_clear();
    for (name, value) in scene.command(&[]).get_envs() {
        attached.env(name, value.unwrap());
    }
    let mut attached = attached
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let shown = || {
        String::from_utf8_lossy(&fs::read(&screen).unwrap_or_default())
            .contains("hello from the box")
    };
    scene.test_box.until("the window", shown).await;
    let mut keys = attached.stdin.take().unwrap();
    std::io::Write::write_all(&mut keys, b"\x02d").unwrap();
    std::io::Write::flush(&mut keys).unwrap();
    let mut status = None;
    let ended = || {
        status = attached.try_wait().unwrap();
        status.is_some()
    };
    scene.test_box.until("the end of the window", ended).await;
    assert!(
        status.unwrap().success(),
        "{}",
        fs::read_to_string(&screen).unwrap()
    );
    assert!(
        !log.with_file_name("end.json").exists(),
        "the session ended with its window"
    );
}
