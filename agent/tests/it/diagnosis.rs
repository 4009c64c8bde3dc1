//! What ended a session: found out once, from log and end together, and silent where nothing went wrong.

use std::fs;

use serde_json::{Value, json};
use tokio::time::{self, Duration, Instant};

use crate::bed::{Bed, PATIENCE, Window, kill_hard, until};

const STEPS: &str = "for i in 1 2 3 4 5; do echo \"step $i/100 | loss 2.5 | lr 1e-3\"; done";

/// The details of all events of this kind that speak of a session.
async fn told(bed: &Bed, session: &str) -> Vec<Value> {
    let mut found = Vec::new();
    for event in bed.events().await {
        let detail: Value = serde_json::from_str(&event.detail_json).unwrap();
        if event.kind == "session.diagnosed" && detail["session"] == session {
            found.push(detail);
        }
    }
    found
}

/// Waits until a session was looked at.
async fn looked_at(bed: &Bed, session: &str) {
    let note = bed.session_dir(session).join("diagnosis.json");
    until(&format!("a look at {session}"), || {
        note.exists().then_some(())
    })
    .await;
}

#[tokio::test]
async fn each_end_is_explained_once_and_a_good_one_not_at_all() {
    let bed = Bed::with_daemon(Window::None).await;
    let traceback = |exception: &str| {
        format!(
            "printf '%s\\n' 'Traceback (most recent call last):' '  File \"train.py\", line 10, in <module>' \"{exception}\""
        )
    };
    let oom = traceback(
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.99 GiB",
    );
    let module = traceback("ModuleNotFoundError: No module named 'einops'");
    let value = traceback("[rank1]: ValueError: bad shape");
    let nan = "for i in 6 7 8 9; do echo \"step $i/100 | loss nan | lr 1e-3\"; done";
    for (name, command, expected) in [
        ("oom", format!("{STEPS}; {oom}; exit 1"), "cuda_oom"),
        ("module", format!("{module}; exit 1"), "missing_module"),
        ("nan", format!("{STEPS}; {nan}; exit 1"), "nan_loss"),
        ("nan-well", format!("{STEPS}; {nan}; exit 0"), "nan_loss"),
        // The launcher ends the others and is ended itself: the first failure is the cause.
        (
            "launcher",
            format!(
                "{STEPS}; {value}; echo 'W0101 elastic/api.py:858] Sending process 12 closing signal SIGTERM'; kill -TERM $$"
            ),
            "traceback_other",
        ),
        ("silent", "exit 3".to_owned(), "exit_code"),
        ("told-to-end", "kill -TERM $$".to_owned(), "preempted"),
        (
            "retried",
            format!(
                "echo 'WARNING urllib3: Connection reset by peer, will retry'; echo 'CUDA out of memory, skipping batch'; {STEPS}"
            ),
            "none",
        ),
        (
            "names",
            "echo '| step | loss | nan_count |'; echo '| 5 | 2.0 | 0 |'; echo 'class_error: 100.0'"
                .to_owned(),
            "none",
        ),
    ] {
        bed.start(name, &command).await.unwrap();
        bed.ended(name).await;
        looked_at(&bed, name).await;
        let told = told(&bed, name).await;
        let classes: Vec<&str> = told
            .iter()
            .map(|detail| detail["class"].as_str().unwrap())
            .collect();
        let expected: &[&str] = if expected == "none" { &[] } else { &[expected] };
        assert_eq!(classes, expected, "{name}: {told:?}");
        for detail in &told {
            assert!(!detail["meaning"].as_str().unwrap().is_empty(), "{detail}");
            assert!(!detail["advice"].as_str().unwrap().is_empty(), "{detail}");
        }
    }
    let oom = &told(&bed, "oom").await[0];
    assert_eq!(oom["line"], 8, "{oom}");
    assert!(
        oom["evidence"]
            .as_str()
            .unwrap()
            .starts_with("torch.OutOfMemoryError"),
        "{oom}"
    );
    assert!(
        oom["meaning"]
            .as_str()
            .unwrap()
            .contains("2.00 GiB more were wanted"),
        "{oom}"
    );
}

#[tokio::test]
async fn what_was_ended_on_request_has_no_cause() {
    let bed = Bed::with_daemon(Window::None).await;
    bed.start("train", "echo Killed; sleep 600").await.unwrap();
    bed.logged("train", "Killed").await;
    bed.end("train", 0).await;
    looked_at(&bed, "train").await;
    assert_eq!(told(&bed, "train").await, Vec::<Value>::new());
}

#[tokio::test]
async fn the_kernels_count_explains_a_kill_and_no_restart_tells_it_again() {
    let mut bed = Bed::new(Window::None);
    // What the shim of a training leaves that the kernel ended: its shell answers 137, and the counter has risen.
    let dir = bed.session_dir("train");
    fs::create_dir_all(&dir).unwrap();
    let write = |name: &str, value: Value| fs::write(dir.join(name), value.to_string()).unwrap();
    write(
        "spec.json",
        json!({"v": 1, "command": "python train.py", "dir": bed.work(), "timeout_s": 0, "tmux": false, "first_generation": 0}),
    );
    write(
        "start.json",
        json!({"v": 1, "pid": 999_999, "pid_starttime": 1, "shim_pid": 999_998, "boot": "b", "started_us": 5_000_000}),
    );
    write(
        "end.json",
        json!({"v": 1, "reason": "oom", "exit_code": 137, "signal": null, "oom_kills": 2, "timed_out": false,
               "ended_us": 9_000_000, "log_bytes": 40, "log_dropped_bytes": 0}),
    );
    fs::write(
        dir.join("log"),
        "step 1/100 | loss 2.5\nstep 2/100 | loss 2.4\n",
    )
    .unwrap();
    let daemon = bed.start_daemon();
    let detail = bed.event("session.diagnosed").await;
    assert_eq!(detail["class"], "host_oom", "{detail}");
    assert_eq!(
        detail["evidence"],
        "the kernel ended a process of the container 2 times for want of memory"
    );
    looked_at(&bed, "train").await;

    kill_hard(daemon);
    bed.wait_for_daemon(daemon).await;
    bed.start_daemon();
    let deadline = Instant::now() + PATIENCE;
    // Its second start is on record, and a look at its sessions came after it.
    while bed
        .events()
        .await
        .iter()
        .filter(|event| event.kind == "agent.started")
        .count()
        < 2
    {
        assert!(Instant::now() < deadline);
        time::sleep(Duration::from_millis(20)).await;
    }
    bed.start("other", "exit 4").await.unwrap();
    bed.ended("other").await;
    looked_at(&bed, "other").await;
    assert_eq!(told(&bed, "train").await.len(), 1);
}

#[tokio::test]
async fn a_disk_that_refuses_notes_does_not_repeat_what_happened() {
    let bed = Bed::with_daemon(Window::None).await;
    bed.start(
        "job",
        "sleep 1; echo 'ModuleNotFoundError: No module named x'; exit 1",
    )
    .await
    .unwrap();
    // A directory stands where the notes are written aside: as good as a full disk, also for root.
    for name in [".reported.json.tmp", ".diagnosis.json.tmp"] {
        std::fs::create_dir_all(bed.session_dir("job").join(name)).unwrap();
    }
    bed.event("session.diagnosed").await;
    // Several looks at the sessions: each of them would tell it again.
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    let events = bed.events().await;
    for kind in ["session.started", "session.ended", "session.diagnosed"] {
        let told = events.iter().filter(|event| event.kind == kind).count();
        assert_eq!(told, 1, "{kind}");
    }
    assert!(
        bed.daemon_log().contains("cannot be noted"),
        "nothing was refused"
    );
}
