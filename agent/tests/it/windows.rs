//! Windows and limits on a real box: what a training does is told every window, and a training that stands still is ended.

use serde_json::{Value, json};
use spotter_proto::v1;
use tokio::time::{self, Instant};

use crate::bed::{Bed, PATIENCE, Window};

fn configure(bed: &Bed) -> v1::ConfigureRequest {
    v1::ConfigureRequest {
        run: "r".into(),
        attempt: 1,
        workdir: bed.work().display().to_string(),
        ..Default::default()
    }
}

async fn details(bed: &Bed, kind: &str) -> Vec<Value> {
    let events = bed.events().await.into_iter();
    events
        .filter(|event| event.kind == kind)
        .map(|event| serde_json::from_str(&event.detail_json).unwrap())
        .collect()
}

/// Waits for this many events of a kind.
async fn told(bed: &Bed, kind: &str, count: usize) -> Vec<Value> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = details(bed, kind).await;
        if found.len() >= count {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "{kind}: {found:?}\n{}",
            bed.daemon_log()
        );
        time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

/// A step every tenth of a second, at a tenth of the predicted speed.
const SLOW: &str = "for i in $(seq 100000); do echo \"step $i/100000 | loss 2.5 | 100.0 ms/step | 100 tok/s\"; sleep 0.1; done";

#[tokio::test]
async fn windows_are_told_and_a_slow_training_contradicts_them_but_goes_on_while_somebody_is_there()
{
    let bed = Bed::with_daemon(Window::None).await;
    let mut client = bed.client().await;
    let request = v1::ConfigureRequest {
        validation: Some(v1::ValidationConfig {
            window_s: 2,
            on_contradiction: "command echo \"$SPOTTER_CONTRADICTIONS\" > found".into(),
            predicted_tokens_per_s: 1_000.0,
            gpus: 1,
            ..Default::default()
        }),
        ..configure(&bed)
    };
    client.configure(request).await.unwrap();
    bed.start("train", SLOW).await.unwrap();

    let windows = told(&bed, "window", 3).await;
    assert_eq!(
        windows[0]["contradictions"],
        json!([]),
        "one slow window is none"
    );
    // Where the machine stood still for a window, nothing was printed in it.
    let seen = |window: &&Value| !window["actual_tokens_per_s"].is_null();
    let window = windows.iter().find(seen).expect("something was printed");
    assert_eq!(window["predicted_tokens_per_s"], 1_000.0, "{window}");
    assert_eq!(window["actual_tokens_per_s"], 100.0, "{window}");
    assert_eq!(window["step_time_s"], 0.1, "{window}");
    assert!(window["eta_s"].as_f64().unwrap() > 1_000.0, "{window}");
    let found = told(&bed, "window.contradicted", 1).await;
    assert_eq!(
        found[0]["contradictions"][0]["trigger"], "throughput",
        "{found:?}"
    );
    // The command ran on the box, with what was found.
    let deadline = Instant::now() + PATIENCE;
    while std::fs::read_to_string(bed.work().join("found")).unwrap_or_default() != "throughput\n" {
        assert!(Instant::now() < deadline, "{}", bed.daemon_log());
        time::sleep(std::time::Duration::from_millis(50)).await;
    }
    told(&bed, "window", 5).await;
    assert_eq!(details(&bed, "training.ending").await, Vec::<Value>::new());
    assert_eq!(
        bed.session("train").await.state(),
        v1::SessionState::Running
    );
}

#[tokio::test]
async fn what_prints_anything_new_makes_progress_and_what_was_never_read_is_only_told() {
    let bed = Bed::with_daemon(Window::None).await;
    let mut client = bed.client().await;
    let limited = |bed: &Bed| v1::ConfigureRequest {
        no_progress_s: 5,
        ..configure(bed)
    };
    // Losses without steps, as a trainer prints them that was told to draw no bar.
    let losses =
        "for i in $(seq 10 50); do echo \"{'loss': 2.$i, 'epoch': 0.$i}\"; sleep 0.2; done";
    // A loader that no recogniser knows.
    let silent = "for i in $(seq 1 9); do echo working; sleep 1; done";
    for command in [losses, silent] {
        client.configure(limited(&bed)).await.unwrap();
        bed.start("train", command).await.unwrap();
        let ended = bed.ended("train").await;
        assert_eq!(ended.state(), v1::SessionState::Exited, "{command}");
        client.configure(configure(&bed)).await.unwrap();
    }
    assert_eq!(details(&bed, "training.ending").await.len(), 0);
    let unread = told(&bed, "training.unread", 1).await;
    assert_eq!(unread.len(), 1, "once, and of the second alone: {unread:?}");
    // One that repeats its last line has stopped to learn.
    client.configure(limited(&bed)).await.unwrap();
    let stuck = "while true; do echo \"{'loss': 2.5, 'epoch': 0.5}\"; sleep 0.2; done";
    bed.start("train", stuck).await.unwrap();
    assert_eq!(bed.ended("train").await.state(), v1::SessionState::Stopped);
    let ending = told(&bed, "training.ending", 1).await;
    assert_eq!(ending[0]["by"], "no_progress");
}

#[tokio::test]
async fn a_training_that_stands_still_or_runs_too_long_is_ended_with_its_reason() {
    let bed = Bed::with_daemon(Window::None).await;
    let mut client = bed.client().await;
    for (limit, command, by, words) in [
        (
            v1::ConfigureRequest {
                no_progress_s: 2,
                ..configure(&bed)
            },
            "echo 'step 7/100 | loss 2.5'; while true; do echo evaluating; sleep 0.2; done",
            "no_progress",
            "it stands at step 7",
        ),
        (
            v1::ConfigureRequest {
                max_runtime_s: 2,
                ..configure(&bed)
            },
            SLOW,
            "max_runtime",
            "`limits.max_runtime` is over",
        ),
        (
            v1::ConfigureRequest {
                budget_left_s: 2,
                ..configure(&bed)
            },
            SLOW,
            "budget",
            "`limits.budget` is used up",
        ),
    ] {
        client.configure(limit).await.unwrap();
        bed.start("train", command).await.unwrap();
        let ended = bed.ended("train").await;
        assert_eq!(ended.state(), v1::SessionState::Stopped, "{by}");
        let endings = told(&bed, "training.ending", 1).await;
        let ending = endings.last().unwrap();
        assert_eq!(ending["by"], by, "{endings:?}");
        assert_eq!(ending["started_us"], ended.started_us);
        assert!(
            ending["reason"].as_str().unwrap().contains(words),
            "{ending}"
        );
        client.configure(configure(&bed)).await.unwrap();
    }
    assert_eq!(
        details(&bed, "training.ending").await.len(),
        3,
        "each is told once"
    );
    assert_eq!(
        details(&bed, "session.diagnosed").await,
        Vec::<Value>::new()
    );
}

#[tokio::test]
async fn a_newer_word_on_how_long_the_money_lasts_counts_and_no_word_changes_nothing() {
    let bed = Bed::with_daemon(Window::None).await;
    let mut client = bed.client().await;
    let plenty = v1::ConfigureRequest {
        budget_left_s: 100_000,
        budget_finish_s: 600,
        ..configure(&bed)
    };
    client.configure(plenty).await.unwrap();
    bed.start("train", SLOW).await.unwrap();
    let until_us = || {
        let bytes = std::fs::read(bed.home().join("run.json")).unwrap();
        let kept: Value = serde_json::from_slice(&bytes).unwrap();
        kept["budget_until_us"].as_u64().unwrap()
    };
    let first = until_us();
    for (budget_left_s, changes) in [(0, false), (100_005, false), (50_000, true)] {
        let request = v1::StatusRequest {
            budget_left_s,
            ..Default::default()
        };
        client.status(request).await.unwrap();
        assert_eq!(until_us() != first, changes, "{budget_left_s}");
    }
    client
        .status(v1::StatusRequest {
            budget_left_s: 1,
            ..Default::default()
        })
        .await
        .unwrap();
    let ended = bed.ended("train").await;
    assert_eq!(ended.state(), v1::SessionState::Stopped);
    assert_eq!(told(&bed, "training.ending", 1).await[0]["by"], "budget");
}

#[tokio::test]
async fn an_ending_that_another_daemon_left_half_done_is_carried_out() {
    let bed = Bed::with_daemon(Window::None).await;
    bed.client().await.configure(configure(&bed)).await.unwrap();
    bed.start("train", "exit 3").await.unwrap();
    let ended = bed.ended("train").await;
    // As a daemon leaves it that is replaced during the last save: the training is over, its end is not.
    let left = json!({
        "v": 1, "by": "no_progress", "reason": "no step", "started_us": ended.started_us, "saved": false,
    });
    let file = bed.home().join("ending.json");
    std::fs::write(&file, left.to_string()).unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let bytes = std::fs::read(&file).unwrap();
        let kept: Value = serde_json::from_slice(&bytes).unwrap();
        if kept["saved"] == true {
            assert_eq!(
                (&kept["by"], &kept["reason"]),
                (&left["by"], &left["reason"])
            );
            break;
        }
        assert!(Instant::now() < deadline, "{}", bed.daemon_log());
        time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
