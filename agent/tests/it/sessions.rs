//! Sessions through the daemon, with tmux and without: how they end, what they see, who can hurt them.

use std::{fs, path::Path, time::Duration};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use spotter_proto::v1::{self, SessionState};
use tokio::time;
use tonic::Code;

use crate::bed::{Bed, Window, is_alive, kill_hard, until};

const WINDOWS: [Window; 2] = [Window::Tmux, Window::None];

#[tokio::test]
async fn what_is_started_may_open_as_many_files_as_its_user_may_though_the_daemon_opens_more() {
    const OF_THE_USER: u64 = 700;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, OF_THE_USER, hard).unwrap();
    let bed = Bed::with_daemon(Window::None).await;
    let limits = format!("/proc/{}/limits", bed.daemon_pid().unwrap());
    let limits = fs::read_to_string(limits).unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let soft: u64 = line
        .unwrap()
        .split_whitespace()
        .nth(3)
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(soft, hard.clamp(OF_THE_USER, 8192));

    bed.start("train", "echo may open $(ulimit -Sn) of $(ulimit -Hn)")
        .await
        .unwrap();
    bed.logged("train", &format!("may open {OF_THE_USER} of"))
        .await;
}

#[tokio::test]
async fn exit_codes_and_signals_are_told_apart() {
    for window in WINDOWS {
        let bed = Bed::with_daemon(window).await;
        let commands = [
            ("seven", "exit 7", SessionState::Exited, Some(7), None),
            ("fine", "true", SessionState::Exited, Some(0), None),
            (
                "segv",
                "kill -SEGV $$",
                SessionState::Signalled,
                None,
                Some(11),
            ),
            (
                "killed",
                "kill -KILL $$",
                SessionState::Signalled,
                None,
                Some(9),
            ),
            (
                "missing",
                "no-such-command-anywhere",
                SessionState::Exited,
                Some(127),
                None,
            ),
        ];
        for (name, command, ..) in commands {
            bed.start(name, command).await.unwrap();
        }
        for (name, _, state, exit_code, signal) in commands {
            let session = bed.ended(name).await;
            assert_eq!(
                (session.state(), session.exit_code, session.signal),
                (state, exit_code, signal),
                "{window:?} {name}"
            );
            assert!(session.ended_us >= session.started_us);
        }
        let mut told = bed.ends(commands.len()).await;
        told.sort();
        told.dedup();
        assert_eq!(told.len(), commands.len(), "each end is told once");
    }
}

#[tokio::test]
async fn a_session_that_is_asked_to_end_may_save_and_is_called_stopped() {
    for window in WINDOWS {
        let bed = Bed::with_daemon(window).await;
        // The shell dies of SIGTERM at once; the training below it takes its time.
        let training = "trap 'sleep 0.5; echo saved > saved; exit 0' TERM; echo ready; while :; do sleep 0.05; done";
        fs::write(bed.work().join("train.sh"), training).unwrap();
        bed.start("train", "true; bash train.sh; echo never")
            .await
            .unwrap();
        bed.logged("train", "ready").await;
        let session = bed.end("train", 20).await;
        assert_eq!(session.state(), SessionState::Stopped, "{window:?}");
        assert_eq!(
            fs::read_to_string(bed.work().join("saved")).unwrap(),
            "saved\n",
            "{window:?}"
        );
        let again = bed.end("train", 1).await;
        assert_eq!(
            again.ended_us, session.ended_us,
            "ending twice changes nothing"
        );
    }
}

#[tokio::test]
async fn what_ignores_sigterm_is_killed_with_its_whole_tree_after_the_grace() {
    for window in WINDOWS {
        let bed = Bed::with_daemon(window).await;
        let command = "trap '' TERM; setsid bash -c 'trap \"\" TERM HUP; echo $$ > far; sleep 600; sleep 600' & \
                       while [ ! -s far ]; do sleep 0.02; done; echo ready; while :; do sleep 0.1; done";
        bed.start("train", command).await.unwrap();
        bed.logged("train", "ready").await;
        let far: i32 = fs::read_to_string(bed.work().join("far"))
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        let session = bed.end("train", 1).await;
        assert_eq!(
            (session.state(), session.signal),
            (SessionState::Stopped, Some(9)),
            "{window:?}"
        );
        assert!(
            !is_alive(far),
            "{window:?}: a process in a session of its own was left"
        );
    }
}

#[tokio::test]
async fn a_time_limit_ends_a_session_like_a_request() {
    let bed = Bed::with_daemon(Window::None).await;
    let request = v1::StartSessionRequest {
        timeout_s: 1,
        ..bed.request("smoke", "sleep 600")
    };
    bed.start_with(request).await.unwrap();
    let session = bed.ended("smoke").await;
    assert_eq!(
        (session.state(), session.signal),
        (SessionState::Stopped, Some(15))
    );
    assert_eq!(bed.event("session.ended").await["timed_out"], true);
}

#[tokio::test]
async fn the_end_of_tmux_is_not_the_end_of_the_run() {
    let bed = Bed::with_daemon(Window::Tmux).await;
    let started = bed
        .start(
            "train",
            "for i in $(seq 30); do echo line $i; sleep 0.1; done; exit 3",
        )
        .await
        .unwrap();
    assert!(started.tmux);
    bed.logged("train", "line 3").await;
    assert!(bed.tmux(&["kill-server"]).status.success());
    let session = bed.ended("train").await;
    assert_eq!(
        (session.state(), session.exit_code),
        (SessionState::Exited, Some(3))
    );
    let lines = fs::read_to_string(bed.log("train")).unwrap();
    assert_eq!(
        lines,
        (1..=30)
            .map(|i| format!("line {i}\r\n"))
            .collect::<String>()
    );
    assert!(!session.tmux);
}

#[tokio::test]
async fn a_frozen_window_does_not_stop_the_run() {
    let bed = Bed::with_daemon(Window::Tmux).await;
    // More than any terminal's buffer, so that a blocked writer would be seen.
    bed.start(
        "train",
        "echo go; sleep 1; for i in $(seq 20000); do echo line $i of many; done; echo all done",
    )
    .await
    .unwrap();
    bed.logged("train", "go").await;
    bed.tmux(&["send-keys", "-t", "=train:", "C-s"]);
    bed.tmux(&["copy-mode", "-t", "=train:"]);
    assert_eq!(bed.ended("train").await.exit_code, Some(0));
    let log = fs::read_to_string(bed.log("train")).unwrap();
    assert_eq!(
        log.lines().filter(|line| line.ends_with("of many")).count(),
        20_000
    );
    assert!(log.contains("all done"));
}

#[tokio::test]
async fn a_killed_shim_means_lost_and_nothing_is_left_running() {
    for window in WINDOWS {
        let bed = Bed::with_daemon(window).await;
        let session = bed
            .start(
                "train",
                "trap '' HUP; echo ready; while :; do sleep 0.1; done",
            )
            .await
            .unwrap();
        bed.logged("train", "ready").await;
        kill_hard(bed.shim_pid("train"));
        let lost = bed.ended("train").await;
        assert_eq!(
            (lost.state(), lost.exit_code, lost.signal),
            (SessionState::Lost, None, None),
            "{window:?}"
        );
        let detail = bed.event("session.ended").await;
        assert_eq!(
            (&detail["state"], &detail["cause"]),
            (&"lost".into(), &"its shim was killed".into())
        );
        let pid = i32::try_from(session.pid).unwrap();
        until("the orphan to be killed", || (!is_alive(pid)).then_some(())).await;
    }
}

#[tokio::test]
async fn a_restarted_box_has_lost_its_session() {
    let mut bed = Bed::new(Window::None);
    let daemon = bed.start_daemon();
    bed.start("train", "sleep 600").await.unwrap();
    bed.event("session.started").await;
    let shim = bed.shim_pid("train");
    kill_hard(shim);
    kill_hard(daemon);
    bed.wait_for_daemon(daemon).await;
    let mut start = bed.record("train", "start.json");
    start["boot"] = "another-boot".into();
    fs::write(
        bed.session_dir("train").join("start.json"),
        start.to_string(),
    )
    .unwrap();
    let _may_have_told_already = fs::remove_file(bed.session_dir("train").join("reported.json"));

    bed.start_daemon();

    assert_eq!(bed.ended("train").await.state(), SessionState::Lost);
    let detail = bed.event("session.ended").await;
    assert!(
        ["the box was restarted", "its shim was killed"]
            .contains(&detail["cause"].as_str().unwrap())
    );
    let told = bed
        .events()
        .await
        .into_iter()
        .filter(|event| event.kind == "session.ended")
        .count();
    assert_eq!(
        told, 1,
        "one end is told once, though the note of it was lost"
    );
}

#[tokio::test]
async fn a_job_sees_the_containers_environment_the_request_and_a_terminal() {
    for window in WINDOWS {
        let bed = Bed::with_daemon(window).await;
        bed.container_env(&[
            ("FROM_CONTAINER", "a b;c"),
            ("CONTAINER_API_KEY", "instance-key"),
            ("BOTH", "container"),
        ]);
        let mut request = bed.request(
            "env",
            "env -0 > env; umask > umask; stty size > size; test -t 0 && test -t 1 && pwd > tty",
        );
        request.env.insert("BOTH".into(), "request".into());
        request
            .env
            .insert("MULTI".into(), "one\ntwo=\"three\" ".into());
        bed.start_with(request).await.unwrap();
        assert_eq!(bed.ended("env").await.exit_code, Some(0), "{window:?}");

        let text = fs::read_to_string(bed.work().join("env")).unwrap();
        let get = |name: &str| {
            text.split('\0')
                .find_map(|pair| pair.strip_prefix(&format!("{name}=")))
        };
        assert_eq!(get("FROM_CONTAINER"), Some("a b;c"));
        assert_eq!(get("BOTH"), Some("request"));
        assert_eq!(get("MULTI"), Some("one\ntwo=\"three\" "));
        assert_eq!(get("CONTAINER_API_KEY"), None);
        assert_eq!(get("HOME"), bed.user_home().to_str());
        assert_eq!(get("TMUX"), None);
        assert_eq!(
            fs::read_to_string(bed.work().join("umask")).unwrap(),
            "0022\n"
        );
        assert_eq!(
            fs::read_to_string(bed.work().join("size")).unwrap(),
            "50 200\n"
        );
        assert_eq!(
            fs::read_to_string(bed.work().join("tty")).unwrap().trim(),
            bed.work().to_str().unwrap()
        );
    }
}

#[tokio::test]
async fn secrets_reach_the_process_and_no_file_or_command_line() {
    for window in WINDOWS {
        let bed = Bed::with_daemon(window).await;
        let secret = "hf_7c1e5b0a9d";
        let mut request = bed.request(
            "train",
            "test \"$HF_TOKEN\" = hf_7''c1e5b0a9d && echo right; sleep 600",
        );
        request.env.insert("HF_TOKEN".into(), secret.into());
        let session = bed.start_with(request).await.unwrap();
        bed.logged("train", "right").await;

        assert!(
            !bed.session_dir("train").join("env.fifo").exists(),
            "{window:?}"
        );
        assert_eq!(
            files_with(&bed.home(), secret),
            Vec::<String>::new(),
            "{window:?}"
        );
        let job = session.pid.to_string();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let pid = entry.file_name().into_string().unwrap();
            if pid.parse::<u32>().is_err() {
                continue;
            }
            let holds = |file: &str| {
                let text = fs::read(entry.path().join(file)).unwrap_or_default();
                text.windows(secret.len())
                    .any(|window| window == secret.as_bytes())
            };
            assert!(
                !holds("cmdline"),
                "{window:?}: process {pid} shows it in its arguments"
            );
            let parent = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let is_job = pid == job || parent.contains(&format!(" {job} "));
            assert!(
                is_job || !holds("environ"),
                "{window:?}: process {pid} has it in its environment"
            );
        }
    }
}

/// Files below `dir` that hold a text.
fn files_with(dir: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(files_with(&entry.path(), text));
        } else if kind.is_file() {
            let bytes = fs::read(entry.path()).unwrap_or_default();
            if bytes
                .windows(text.len())
                .any(|window| window == text.as_bytes())
            {
                found.push(entry.path().display().to_string());
            }
        }
    }
    found
}

#[tokio::test]
async fn a_live_name_is_refused_and_an_ended_one_begins_a_new_log() {
    let bed = Bed::with_daemon(Window::Tmux).await;
    bed.start("train", "echo first; sleep 600").await.unwrap();
    bed.logged("train", "first").await;
    let taken = bed.start("train", "echo second").await.unwrap_err();
    assert_eq!(taken.code(), Code::AlreadyExists, "{taken}");
    bed.end("train", 5).await;

    bed.start("train", "echo second").await.unwrap();
    assert_eq!(bed.ended("train").await.exit_code, Some(0));
    assert_eq!(fs::read_to_string(bed.log("train")).unwrap(), "second\r\n");
    // A reader that comes with a position of the first life is led to the second, not into its middle.
    let request = v1::LogsRequest {
        session: "train".into(),
        position: Some(v1::LogPosition {
            generation: 0,
            offset: 3,
        }),
        tail_bytes: 0,
        follow: false,
    };
    let mut stream = bed.client().await.logs(request).await.unwrap().into_inner();
    let chunk = stream.message().await.unwrap().unwrap();
    assert_eq!(
        (chunk.position.unwrap().generation, chunk.data.as_slice()),
        (1, b"second\r\n".as_slice())
    );
    assert_eq!(bed.ends(2).await, ["train", "train"]);
}

#[tokio::test]
async fn nonsense_is_refused_and_a_very_long_command_runs() {
    let bed = Bed::with_daemon(Window::Tmux).await;
    for (name, command) in [("a.b", "true"), ("", "true"), ("x", "  ")] {
        let refused = bed.start(name, command).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{name}: {refused}");
    }
    let nowhere = v1::StartSessionRequest {
        dir: "/nonexistent".into(),
        ..bed.request("x", "true")
    };
    assert_eq!(
        bed.start_with(nowhere).await.unwrap_err().code(),
        Code::InvalidArgument
    );

    // tmux takes no command above 16 KiB.
    let command = format!(": {}; exit 5", "x".repeat(40_000));
    bed.start("long", &command).await.unwrap();
    assert_eq!(bed.ended("long").await.exit_code, Some(5));
}

#[tokio::test]
async fn twenty_of_twenty_lines_arrive_with_their_semicolons() {
    let bed = Bed::with_daemon(Window::Tmux).await;
    bed.start(
        "train",
        "while IFS= read -r line; do printf 'got <%s>\\n' \"$line\"; done",
    )
    .await
    .unwrap();
    bed.start(
        "train-2",
        "while IFS= read -r line; do printf 'other <%s>\\n' \"$line\"; done",
    )
    .await
    .unwrap();
    let mut client = bed.client().await;
    for i in 1..=20 {
        let request = v1::SendLineRequest {
            session: "train".into(),
            line: format!("say {i}; and \\ \"more\" ü;"),
        };
        client.send_line(request).await.unwrap();
    }
    let log = bed.logged("train", "got <say 20;").await;
    for i in 1..=20 {
        assert_eq!(
            log.matches(&format!("got <say {i}; and \\ \"more\" ü;>\r\n"))
                .count(),
            1,
            "line {i} in:\n{log}"
        );
    }
    assert!(
        !fs::read_to_string(bed.log("train-2"))
            .unwrap()
            .contains("say")
    );

    let refused = client
        .send_line(v1::SendLineRequest {
            session: "train".into(),
            line: "a\nb".into(),
        })
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    bed.end("train", 1).await;
    let over = client
        .send_line(v1::SendLineRequest {
            session: "train".into(),
            line: "a".into(),
        })
        .await
        .unwrap_err();
    assert_eq!(over.code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_started_session_disarms_the_switch_and_survives_its_daemon() {
    let mut bed = Bed::new(Window::None);
    let daemon = bed.start_daemon();
    assert!(!bed.home().join("started").exists());
    bed.start("train", "sleep 600").await.unwrap();
    assert!(bed.home().join("started").exists());
    kill_hard(daemon);
    bed.wait_for_daemon(daemon).await;
    let back = until("the shim to start a daemon", || {
        bed.daemon_pid().filter(|pid| *pid != daemon)
    })
    .await;
    assert_eq!(bed.session("train").await.state(), SessionState::Running);
    time::sleep(Duration::from_millis(100)).await;
    assert_eq!(bed.daemon_pid(), Some(back), "one daemon, and it stays");
}
