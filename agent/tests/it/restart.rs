//! A box whose container is restarted goes on with its training by itself; what ended otherwise stays ended.

use std::{collections::HashMap, fs, path::Path};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use spotter_proto::v1::{self, SessionState};

use crate::bed::{Bed, Window, kill_hard, until};

/// A training that says how it was started, and goes on until it is ended.
fn training(bed: &Bed, command: &str, again: v1::Again) -> v1::StartSessionRequest {
    v1::StartSessionRequest {
        env: HashMap::from([("COLOUR".to_owned(), "blue".to_owned())]),
        again: Some(again),
        ..bed.request("train", command)
    }
}

fn again(times: u32) -> v1::Again {
    v1::Again {
        fresh: "echo \"again in $COLOUR\"; sleep 600".to_owned(),
        resume: "echo resumed; sleep 600".to_owned(),
        secrets: Vec::new(),
        times,
    }
}

async fn configured(bed: &Bed) {
    let request = v1::ConfigureRequest {
        run: "r".to_owned(),
        attempt: 1,
        workdir: bed.work().display().to_string(),
        ..Default::default()
    };
    bed.client().await.configure(request).await.unwrap();
}

/// The container is gone at once, and comes up again with what `onstart` does.
async fn restart(bed: &mut Bed) {
    let daemon = bed.daemon_pid().unwrap();
    let training = bed.record("train", "start.json");
    let is_over = bed.session_dir("train").join("end.json").exists();
    kill_hard(daemon);
    if !is_over {
        kill_hard(bed.shim_pid("train"));
        let pid = i32::try_from(training["pid"].as_i64().unwrap()).unwrap();
        let _gone = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    }
    bed.wait_for_daemon(daemon).await;
    until("the daemon's lock", || {
        bed.daemon_pid().is_none().then_some(())
    })
    .await;
    bed.container_env(&[]);
    let _not_there = fs::remove_file(bed.home().join("started"));
    bed.start_daemon();
    bed.client().await;
}

fn holds(dir: &Path, text: &str) -> bool {
    fs::read_dir(dir).unwrap().flatten().any(|entry| {
        let path = entry.path();
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => holds(&path, text),
            kind if kind.is_file() => {
                let bytes = fs::read(&path).unwrap_or_default();
                bytes
                    .windows(text.len())
                    .any(|part| part == text.as_bytes())
            }
            _ => false,
        }
    })
}

#[tokio::test]
async fn a_training_that_went_with_its_container_is_started_again_as_often_as_that_is_allowed() {
    let mut bed = Bed::with_daemon(Window::None).await;
    configured(&bed).await;
    let command = "echo 'step 7/100 | loss 2.5'; printf 'step 8/1'; sleep 600";
    let first = bed
        .start_with(training(&bed, command, again(1)))
        .await
        .unwrap();
    bed.logged("train", "step 8").await;

    restart(&mut bed).await;

    // The first answer that anybody gets is of a training that runs.
    let second = bed.session("train").await;
    assert_eq!(second.state(), SessionState::Running);
    assert!(second.started_us > first.started_us);
    let told = bed.event("training.restarted").await;
    assert_eq!(told["started_us"], second.started_us);
    assert_eq!(told["old_us"], first.started_us);
    assert_eq!(told["last_step"], 7);
    assert_eq!(told["step"], serde_json::Value::Null);
    bed.logged("train", "again in blue").await;
    let log = fs::read_to_string(bed.log("train")).unwrap();
    assert!(
        log.starts_with("step 7/100 | loss 2.5\r\nstep 8/1\nagain in blue"),
        "{log:?}"
    );
    assert!(
        bed.home().join("started").exists(),
        "the switch is disarmed"
    );
    assert!(!bed.home().join("restart.json").exists());

    restart(&mut bed).await;
    let third = bed.session("train").await;
    assert_eq!(third.state(), SessionState::Lost);
    assert_eq!(third.started_us, second.started_us);
    let told = bed.event("training.not_restarted").await;
    assert_eq!(
        told["reason"],
        "all attempts of `recover.attempts` are used"
    );
}

#[tokio::test]
async fn a_start_that_was_decided_and_not_made_is_made_by_the_next_daemon() {
    let mut bed = Bed::with_daemon(Window::None).await;
    configured(&bed).await;
    bed.start_with(training(&bed, "echo one; sleep 600", again(3)))
        .await
        .unwrap();
    restart(&mut bed).await;
    let begun = bed.session("train").await.started_us;
    // As it was before the start: the intent is there, and the session is not.
    let intent = serde_json::json!({
        "v": 1, "since_us": begun + 1, "old_us": begun, "command": "echo three; sleep 600", "dir": bed.work(),
        "again": bed.record("train", "again.json"), "detail": {"session": "train", "step": 5},
    });
    fs::write(bed.home().join("restart.json"), intent.to_string()).unwrap();
    restart(&mut bed).await;
    bed.logged("train", "three").await;
    assert!(bed.session("train").await.started_us > begun);
    assert!(!bed.home().join("restart.json").exists());
}

#[tokio::test]
async fn what_ended_by_itself_or_by_a_persons_wish_is_not_started_again() {
    let mut bed = Bed::with_daemon(Window::None).await;
    configured(&bed).await;
    bed.start_with(training(&bed, "exit 3", again(3)))
        .await
        .unwrap();
    bed.ended("train").await;
    restart(&mut bed).await;
    let crashed = bed.session("train").await;
    assert_eq!(crashed.exit_code, Some(3), "{crashed:?}");

    bed.start_with(training(&bed, "sleep 600", again(3)))
        .await
        .unwrap();
    bed.end("train", 1).await;
    restart(&mut bed).await;
    assert_eq!(bed.session("train").await.state(), SessionState::Stopped);
    let kinds: Vec<String> = bed.events().await.into_iter().map(|one| one.kind).collect();
    assert!(
        !kinds.iter().any(|kind| kind.contains("restarted")),
        "{kinds:?}"
    );
}

#[tokio::test]
async fn a_container_that_is_given_time_to_end_ends_the_training_only_for_a_while() {
    let mut bed = Bed::with_daemon(Window::None).await;
    configured(&bed).await;
    let first = bed
        .start_with(training(&bed, "sleep 600", again(3)))
        .await
        .unwrap();
    let daemon = bed.daemon_pid().unwrap();
    for pid in [daemon, bed.shim_pid("train")] {
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    }
    bed.wait_for_daemon(daemon).await;
    until("the training's end", || {
        bed.session_dir("train")
            .join("end.json")
            .exists()
            .then_some(())
    })
    .await;
    bed.container_env(&[]);
    bed.start_daemon();
    let second = bed.session("train").await;
    assert_eq!(second.state(), SessionState::Running);
    assert!(second.started_us > first.started_us);
}

#[tokio::test]
async fn a_training_that_needs_a_secret_waits_for_whoever_knows_it() {
    let mut bed = Bed::with_daemon(Window::None).await;
    configured(&bed).await;
    let mut request = training(&bed, "sleep 600", again(3));
    request
        .env
        .insert("HF_TOKEN".to_owned(), "hf_very_secret".to_owned());
    request.again.as_mut().unwrap().secrets = vec!["HF_TOKEN".to_owned()];
    bed.start_with(request).await.unwrap();
    restart(&mut bed).await;
    assert_eq!(bed.session("train").await.state(), SessionState::Lost);
    let told = bed.event("training.not_restarted").await;
    assert_eq!(told["reason"], "it needs HF_TOKEN, which no box keeps");
    assert!(holds(&bed.home(), "HF_TOKEN"));
    assert!(!holds(&bed.home(), "hf_very_secret"));
}
