//! A box that ends its training itself: the run ends with what the box says, and nothing is lost or started again.

use std::time::Duration;

use serde_json::json;
use spotter::{
    agent_client::SampleInfo,
    cli::Verb,
    commands::resume,
    provider::Provider,
    run::{State, windows},
    store::Outcome,
};
use spotter_bucket::{Cause, EndedBy, Ending};
use tokio_util::sync::CancellationToken;

use crate::world::{World, spec};

const RUN: &str = "story";

/// The agent tells of something about the training of a box.
fn tell(world: &World, instance: u64, kind: &str, mut detail: serde_json::Value) {
    let attempt = world.attempts(RUN).pop().unwrap();
    detail["started_us"] = json!(attempt.started_us);
    world.boxes.script().tell(instance, kind, detail);
}

#[tokio::test(start_paused = true)]
async fn a_training_that_its_box_ended_ends_the_run_with_the_reason() {
    for (by, outcome) in [
        ("contradiction", Outcome::Contradicted),
        ("max_runtime", Outcome::Limit),
        ("no_progress", Outcome::Limit),
        ("backup", Outcome::Limit),
    ] {
        let world = World::new(3, 100_000);
        world.plan(&spec(RUN));
        let (run, ()) = tokio::join!(world.drive(RUN), async {
            let attempt = world.until(RUN, 1, State::Running).await;
            let instance = attempt.instance.unwrap();
            tokio::time::sleep(Duration::from_secs(95)).await;
            tell(
                &world,
                instance,
                "training.ending",
                json!({"by": by, "reason": "the GPUs were busy 12 %"}),
            );
            world.boxes.end_session(instance);
        });
        assert_eq!(run.outcome, Some(outcome), "{by}");
        assert_eq!(run.reason.as_deref(), Some("the GPUs were busy 12 %"));
        assert!(world.was_told("The box ended the training: the GPUs were busy 12 %"));
        assert_eq!(world.attempts(RUN).len(), 1, "nothing is started again");
        assert!(
            world
                .boxes
                .script()
                .calls
                .iter()
                .any(|(call, _)| *call == "backup_now")
        );
        assert!(world.market.alive().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_contradicted_run_tells_what_it_will_take_now_before_it_spends_again() {
    let world = World::new(3, 100_000);
    world.plan(&spec(RUN));
    let (run, ()) = tokio::join!(world.drive(RUN), async {
        let attempt = world.until(RUN, 1, State::Running).await;
        let instance = attempt.instance.unwrap();
        let slow = json!({
            "actual_tokens_per_s": 500.0, "predicted_tokens_per_s": 1000.0, "eta_s": 36_000.0,
        });
        for kind in ["window", "window"] {
            tokio::time::sleep(Duration::from_secs(30)).await;
            tell(&world, instance, kind, slow.clone());
        }
        tokio::time::sleep(Duration::from_secs(30)).await;
        tell(
            &world,
            instance,
            "training.ending",
            json!({"by": "contradiction", "reason": "half of the predicted speed"}),
        );
        world.boxes.end_session(instance);
    });
    assert_eq!(run.outcome, Some(Outcome::Contradicted));

    let words = ["spotter", "resume", RUN, "--elsewhere", "--detach"];
    let (mut ui, deps, verb, paper) = world.typed(&words);
    let Verb::Resume(args) = &verb else {
        panic!("`resume` is resume");
    };
    let resumed = resume::resume(&mut ui, &deps, args, CancellationToken::new()).await;
    let text = paper.text();
    assert!(resumed.is_ok(), "{text}");
    let told: Vec<&str> = text.lines().take(2).collect();
    assert!(
        told[0].contains("did 500 tokens/s, 50 % of the predicted 1000"),
        "first of all: {text}"
    );
    assert!(
        told[1].contains("about 10.0 h (9.0 to 11.0) and $"),
        "{text}"
    );
    assert_eq!(world.attempts(RUN).len(), 2);
    let kept = world.store.newest_event(RUN, 0, "resume.forecast").unwrap();
    assert_eq!(kept.unwrap().detail["to_come"]["hours"]["base"], 10.0);
}

#[tokio::test(start_paused = true)]
async fn a_contradiction_is_told_once_while_it_stands_and_a_person_may_accept_it() {
    let world = World::new(3, 400);
    world.plan(&spec(RUN));
    let (run, ()) = tokio::join!(world.drive(RUN), async {
        let attempt = world.until(RUN, 1, State::Running).await;
        let instance = attempt.instance.unwrap();
        let slow = json!({"contradictions": [{"trigger": "throughput", "evidence": "half of the predicted speed"}]});
        for kind in ["window", "window.contradicted", "window"] {
            tokio::time::sleep(Duration::from_secs(20)).await;
            tell(&world, instance, kind, slow.clone());
        }
        tokio::time::sleep(Duration::from_secs(20)).await;
        let attempt = &world.attempts(RUN)[0];
        let found = windows::contradiction(&world.store, attempt).unwrap();
        assert_eq!(found.as_deref(), Some("half of the predicted speed"));
        assert!(!windows::is_accepted(&world.store, attempt).unwrap());
        let now_us = world.clock().now_us();
        world
            .store
            .note(RUN, 1, now_us, windows::ACCEPTED, &json!({}))
            .unwrap();
        assert!(windows::is_accepted(&world.store, attempt).unwrap());
    });
    assert_eq!(run.outcome, Some(Outcome::Done));
    let told = world.told.0.lock().unwrap();
    let careful = told
        .iter()
        .filter(|line| line.contains("contradicts its estimate"))
        .count();
    assert_eq!(careful, 1, "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn what_was_accepted_is_so_after_an_interruption_too_and_not_for_what_a_person_starts_anew() {
    let world = World::new(3, 400);
    world.plan(&spec(RUN));
    let (run, ()) = tokio::join!(world.drive(RUN), async {
        let first = world.until(RUN, 1, State::Running).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        let now_us = world.clock().now_us();
        let note = |kind| world.store.note(RUN, 1, now_us, kind, &json!({}));
        note(windows::ACCEPTED).unwrap();
        world.outbid(first.instance);
        let second = world.until(RUN, 2, State::Running).await;
        assert_eq!(second.gpu, first.gpu);
        assert!(windows::is_accepted(&world.store, &second).unwrap());
    });
    assert_eq!(run.outcome, Some(Outcome::Done));
    let mut second = world.attempts(RUN)[1].clone();
    second.gpu = "H100 SXM:8".to_owned();
    assert!(
        !windows::is_accepted(&world.store, &second).unwrap(),
        "other GPUs, another forecast"
    );
    // The second one ended by itself: what follows is a person's wish.
    let mut third = world.attempts(RUN)[1].clone();
    third.number = 3;
    assert!(!windows::is_accepted(&world.store, &third).unwrap());
}

#[tokio::test(start_paused = true)]
async fn time_that_earlier_attempts_trained_is_gone_and_when_all_is_none_is_rented() {
    let world = World::new(3, 100_000);
    let mut story = spec(RUN);
    story.limits.max_runtime = Some(Duration::from_secs(600));
    world.plan(&story);
    let (run, ()) = tokio::join!(world.drive(RUN), async {
        let first = world.until(RUN, 1, State::Running).await;
        tokio::time::sleep(Duration::from_secs(200)).await;
        world.outbid(first.instance);
        let second = world.until(RUN, 2, State::Running).await;
        let left = world
            .boxes
            .script()
            .configs
            .last()
            .unwrap()
            .max_runtime
            .unwrap();
        assert!((380..=405).contains(&left.as_secs()), "{left:?}");
        tokio::time::sleep(Duration::from_secs(450)).await;
        world.outbid(second.instance);
    });
    assert_eq!(run.outcome, Some(Outcome::Limit));
    assert_eq!(run.reason.as_deref(), Some("`limits.max_runtime` is over"));
    assert_eq!(world.attempts(RUN).len(), 2);
    assert_eq!(world.market.gpu_charged(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_box_that_ended_its_training_and_stopped_itself_is_believed_when_the_laptop_is_back() {
    for (by, outcome) in [
        ("contradiction", Outcome::Contradicted),
        ("no_progress", Outcome::Limit),
    ] {
        let world = World::new(3, 100_000);
        world.plan(&spec(RUN));
        world.drive_for(RUN, Duration::from_secs(60)).await;
        let attempt = world.until(RUN, 1, State::Running).await;
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let mut ending = Ending::new(attempt.started_us as u64, 2, EndedBy::Request);
        ending.cause = Some(Cause {
            by: by.to_owned(),
            reason: "it stands at step 7".to_owned(),
        });
        world.boxes.script().endings.insert(1, ending);
        let instance = attempt.instance.unwrap();
        world.market.stop(instance).await.unwrap();
        world.boxes.end_container(instance);
        tokio::time::sleep(Duration::from_secs(3600)).await;

        let run = world.drive(RUN).await;
        assert_eq!(run.outcome, Some(outcome), "{by}");
        assert_eq!(run.reason.as_deref(), Some("it stands at step 7"));
        assert_eq!(world.attempts(RUN).len(), 1, "nothing was rented for it");
        assert_eq!(world.market.gpu_charged(), 0);
        assert_eq!(world.market.alive().len(), 1, "its disk is kept for a look");
    }
}

#[tokio::test(start_paused = true)]
async fn a_box_that_destroyed_itself_is_paid_up_to_its_last_word_and_its_run_ends_with_what_it_says()
 {
    for (by, outcome) in [(None, Outcome::Done), (Some("max_runtime"), Outcome::Limit)] {
        let world = World::new(3, 100_000);
        world.plan(&spec(RUN));
        world.drive_for(RUN, Duration::from_secs(60)).await;
        let attempt = world.until(RUN, 1, State::Running).await;
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let now_us = world.clock().now_us() as u64;
        let ended_by = by.map_or(EndedBy::Exit, |_| EndedBy::Request);
        let mut ending = Ending::new(attempt.started_us as u64, now_us, ended_by);
        ending.exit_code = by.is_none().then_some(0);
        ending.cause = by.map(|by| Cause {
            by: by.to_owned(),
            reason: "its time is over".to_owned(),
        });
        ending.left_us = now_us;
        ending.destroys = true;
        world.boxes.script().endings.insert(1, ending);
        world.boxes.script().left_samples = left_samples(attempt.started_us as u64);
        let instance = attempt.instance.unwrap();
        world.market.destroy(instance).await.unwrap();
        world.boxes.end_container(instance);
        tokio::time::sleep(Duration::from_secs(3 * 3600)).await;

        let run = world.drive(RUN).await;
        assert_eq!(run.outcome, Some(outcome), "{by:?}");
        assert!(
            world.was_told("its box destroyed itself, because the bucket has everything"),
            "{by:?}"
        );
        let attempts = world.attempts(RUN);
        assert_eq!(attempts.len(), 1, "nothing was rented in its place");
        assert_eq!(attempts[0].state, State::Gone, "{by:?}");
        // What it measured while nobody watched came home by the bucket.
        let mut minutes = Vec::new();
        let logbook = world.lifecycle().logbook;
        let read = logbook.each_minute(RUN, 1, &mut |minute| minutes.push(minute));
        read.unwrap();
        assert_eq!(minutes.len(), 50, "{by:?}");
        // Hours went by before anybody looked.
        let (ours, bill) = world.money(RUN).await;
        assert!((ours - bill).abs() < 0.001, "{by:?}: {ours} of {bill}");
    }
}

/// What a box measured in fifty minutes, one sample for each.
fn left_samples(from_us: u64) -> Vec<SampleInfo> {
    (1..=50)
        .map(|minute| SampleInfo {
            time_us: from_us + minute * 60_000_000,
            span_s: 60,
            gpus: Vec::new(),
            host: None,
            processes: Vec::new(),
        })
        .collect()
}
