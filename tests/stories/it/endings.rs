//! Boxes that stop themselves after their training has ended, with nobody there to see it.

use std::{fs, time::Duration};

use serde_json::json;
use spotter::{
    agent_client::{AgentEvent, BackupInfo, LogPiece, LogPosition},
    provider::Provider,
    run::{State, lease::Lease, lifecycle::Goal},
    spec::{OnDone, Results},
    store::{Outcome, RunRecord},
};
use spotter_bucket::{EndedBy, Ending, ErrorKind, memory::collection};

use crate::world::{World, spec};

const RUN: &str = "story";

/// The laptop sleeps; the training ends, and after a while the box by itself, leaving these words.
async fn ended_alone(world: &World, ending: Ending) {
    world.drive_for(RUN, Duration::from_secs(60)).await;
    let attempt = world.until(RUN, 1, State::Running).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    world.boxes.script().endings.insert(1, ending);
    let instance = attempt.instance.unwrap();
    world.market.stop(instance).await.unwrap();
    world.boxes.end_container(instance);
    tokio::time::sleep(Duration::from_secs(3600)).await;
}

fn ending(exit_code: i32, unsaved_bytes: u64) -> Ending {
    let mut ending = Ending::new(1, 2, EndedBy::Exit);
    ending.exit_code = Some(exit_code);
    ending.unsaved_bytes = unsaved_bytes;
    ending
}

fn assert_trained_once(run: &RunRecord, world: &World, expected: Outcome) {
    assert_eq!(run.outcome, Some(expected));
    assert_eq!(world.boxes.script().started.len(), 1, "it trained once");
    assert_eq!(world.attempts(RUN).len(), 1, "nothing was rented for it");
    assert!(world.was_told("nobody came, and its box stopped itself"));
}

#[tokio::test(start_paused = true)]
async fn an_interruptible_box_that_stopped_itself_is_not_taken_for_one_that_was_outbid() {
    for away in [0, 5] {
        let world = World::new(3, 100);
        let mut story = spec(RUN);
        story.results = Some(Results {
            fetch: vec!["out".to_owned()],
            to: world.folder().join("results"),
        });
        world.plan(&story);
        ended_alone(&world, ending(0, 0)).await;
        world.boxes.script().bucket_away = away;
        let run = world.drive(RUN).await;
        assert_trained_once(&run, &world, Outcome::Done);
        assert!(world.copied(RUN, 1, "train").contains("step 100/100"));
        assert!(world.market.alive().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_training_with_everything_in_the_bucket_needs_no_box_to_be_done() {
    let world = World::new(3, 100);
    world.plan(&spec(RUN));
    ended_alone(&world, ending(0, 0)).await;
    let calls = world.boxes.script().calls.len();
    assert_trained_once(&world.drive(RUN).await, &world, Outcome::Done);
    assert_eq!(world.boxes.script().calls.len(), calls, "no box was asked");
    assert!(world.market.alive().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_training_that_ended_is_not_trained_again_when_its_box_has_vanished() {
    for (with_results, damaged, expected) in [
        (false, false, Outcome::Done),
        (true, false, Outcome::Done),
        (true, true, Outcome::Lost),
    ] {
        let world = World::new(3, 100);
        let mut story = spec(RUN);
        story.results = with_results.then(|| results(&world));
        world.plan(&story);
        let mut ending = ending(0, 0);
        ending.results = with_results.then(|| leave_results(&world));
        ended_alone(&world, ending).await;
        if damaged {
            let model = format!("runs/{RUN}/results/{COLLECTED}/out/final.pt");
            assert!(world.boxes.bucket().corrupt(&model));
        }
        world
            .market
            .vanish(world.attempts(RUN)[0].instance.unwrap());
        assert_trained_once(&world.drive(RUN).await, &world, expected);
        assert!(world.market.alive().is_empty());
        let home = fs::read_to_string(world.folder().join("results/out/final.pt"));
        match with_results && !damaged {
            true => assert_eq!(home.unwrap(), "model"),
            false => assert!(home.is_err()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn results_that_are_in_the_bucket_need_no_box_started_for_them() {
    let world = World::new(3, 100);
    let mut story = spec(RUN);
    story.results = Some(results(&world));
    world.plan(&story);
    let other = world.folder().join("results/out/final.pt");
    fs::create_dir_all(other.parent().unwrap()).unwrap();
    fs::write(&other, "of another run").unwrap();
    let mut ending = ending(0, 0);
    ending.results = Some(leave_results(&world));
    ended_alone(&world, ending).await;
    let calls = world.boxes.script().calls.len();
    let away = ErrorKind::Transient;
    world.boxes.bucket().fail_next("GetObject", 40, away);
    assert_trained_once(&world.drive(RUN).await, &world, Outcome::Done);
    assert_eq!(world.boxes.script().calls.len(), calls, "no box was asked");
    assert_eq!(fs::read_to_string(&other).unwrap(), "model");
    let aside = world.folder().join("results/out/final.pt.~1~");
    assert_eq!(fs::read_to_string(aside).unwrap(), "of another run");
    assert!(
        world.was_told("were not brought home"),
        "a bucket is waited for"
    );
    assert!(world.was_told("Fetched and verified 1 files, 5 bytes."));
    assert!(world.market.alive().is_empty());
}

/// Name of a collection.
const COLLECTED: &str = "000000000000-01ARZ3NDEKTSV4RRFFQ69G5FAV";

fn results(world: &World) -> Results {
    Results {
        fetch: vec!["out".to_owned()],
        to: world.folder().join("results"),
    }
}

/// Puts what a box collects when nobody is there into the bucket; answers the key of its manifest.
fn leave_results(world: &World) -> String {
    let key = format!("runs/{RUN}/results/{COLLECTED}/out/final.pt");
    let sealed = collection(RUN, COLLECTED, "out/final.pt", b"model", &key);
    let bucket = world.boxes.bucket();
    bucket.insert(&key, "model");
    let manifest_key = format!("runs/{RUN}/results/{COLLECTED}.json");
    bucket.insert(&manifest_key, sealed);
    manifest_key
}

#[tokio::test(start_paused = true)]
async fn nothing_is_destroyed_before_the_end_of_the_log_is_home() {
    let world = World::new(3, 100);
    world.plan(&spec(RUN));
    ended_alone(&world, ending(0, 0)).await;
    {
        let mut script = world.boxes.script();
        script.logs_away = 4;
        script.left_log.too_large = vec!["logs/1/train.0.9.log of 99 bytes".to_owned()];
        script.left_log.pieces = vec![LogPiece {
            position: LogPosition {
                generation: 0,
                offset: 1_000_000,
            },
            data: b"the last line\n".to_vec(),
            gap_bytes: 0,
            end: false,
        }];
    }
    assert_trained_once(&world.drive(RUN).await, &world, Outcome::Done);
    assert!(world.copied(RUN, 1, "train").contains("the last line"));
    assert!(world.was_told("was not brought home from its bucket"));
    assert!(world.was_told("Not brought home: logs/1/train.0.9.log"));
    assert!(world.market.alive().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_crash_that_nobody_saw_is_told_and_neither_carried_on_nor_destroyed() {
    let world = World::new(3, 1000);
    world.boxes.script().crash_at = Some((90, 7));
    world.plan(&spec(RUN));
    ended_alone(&world, ending(7, 12)).await;
    let run = world.drive(RUN).await;
    assert_trained_once(&run, &world, Outcome::Crashed);
    assert!(run.reason.as_ref().unwrap().contains("exited with code 7"));
    assert_eq!(world.market.gpu_charged(), 0);
    assert_eq!(
        world.market.alive().len(),
        1,
        "the disk is kept for the cause"
    );

    // Started again by hand, its old ending says nothing about what follows.
    world.boxes.script().crash_at = None;
    {
        let _lease = Lease::take(&world.store, RUN).unwrap().unwrap();
        world.lifecycle().reopen(&run, true).await.unwrap();
    }
    assert_eq!(world.drive(RUN).await.outcome, Some(Outcome::Done));
    assert_eq!(world.boxes.script().started.len(), 2);
    assert_eq!(world.attempts(RUN).len(), 1, "on its own box");
}

#[tokio::test(start_paused = true)]
async fn a_box_that_does_not_come_back_to_be_collected_keeps_its_disk() {
    let world = World::new(3, 100);
    world.plan(&spec(RUN));
    ended_alone(&world, ending(0, 4096)).await;
    world.boxes.script().dead_boxes = 99;
    let run = world.drive(RUN).await;
    assert_trained_once(&run, &world, Outcome::Failed);
    assert_eq!(world.market.alive().len(), 1, "its disk is kept");
    assert_eq!(world.market.gpu_charged(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_box_that_was_kept_running_is_stopped_by_whoever_asks() {
    let world = World::new(3, 100);
    let mut story = spec(RUN);
    story.on_done = OnDone::Keep;
    world.plan(&story);
    let run = world.drive(RUN).await;
    assert_eq!(run.outcome, Some(Outcome::Done));
    assert_eq!(world.market.gpu_charged(), 1, "it is kept as it is");
    let _lease = Lease::take(&world.store, RUN).unwrap().unwrap();
    let attempt = &world.attempts(RUN)[0];
    let lifecycle = world.lifecycle();
    lifecycle.put_to_sleep(&run, attempt).await.unwrap();
    assert_eq!(world.market.gpu_charged(), 0);
    assert_eq!(world.market.alive().len(), 1, "its disk stays");
    // And it can be looked into again.
    lifecycle.wake(&run, attempt).await.unwrap();
    assert_eq!(world.market.gpu_charged(), 1);
}

#[tokio::test(start_paused = true)]
async fn results_that_are_not_what_the_box_has_end_nothing_and_are_fetched_again() {
    let world = World::new(3, 30);
    let mut story = spec(RUN);
    let to = world.folder().join("results");
    story.results = Some(Results {
        fetch: vec!["final.pt".to_owned()],
        to: to.clone(),
    });
    world.plan(&story);
    world.boxes.script().torn_fetches = 1;

    let err = {
        let _lease = Lease::take(&world.store, RUN).unwrap().unwrap();
        let ended = world.lifecycle().drive(RUN, Goal::End).await;
        ended.expect_err("bytes that nobody has are no results")
    };
    let told = format!("{err:?}");
    assert!(told.contains("its hash is"), "{told}");
    assert!(told.contains("final.pt"), "{told}");
    let alive = world.market.alive();
    assert_eq!(alive.len(), 1, "the only whole copy lies on the box");
    assert!(alive[0].contract_running);
    assert_eq!(world.attempts(RUN)[0].state, State::Finishing);

    let run = world.drive(RUN).await;
    assert_eq!(run.outcome, Some(Outcome::Done));
    assert_eq!(std::fs::read(to.join("final.pt")).unwrap(), b"weights");
    assert_eq!(
        world.boxes.script().started.len(),
        1,
        "nothing is trained again"
    );
    assert!(world.market.alive().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_link_that_leads_out_of_the_checkpoints_keeps_the_box_and_is_named() {
    let world = World::new(3, 100);
    world.plan(&spec(RUN));
    world.boxes.script().backup = BackupInfo {
        unsaved_bytes: 4,
        at_stake: vec![("best.pt".to_owned(), 4)],
        unsaved: vec!["best.pt: it is a link to /data/best.pt".to_owned()],
        ..BackupInfo::default()
    };
    let run = world.drive(RUN).await;
    assert_eq!(run.outcome, Some(Outcome::Done));
    let named = "in no bucket is `best.pt` (4 B), because it is a link to /data/best.pt";
    assert!(world.was_told(named));
    let reason = world.attempts(RUN)[0].reason.clone().unwrap();
    assert!(reason.contains(named), "{reason}");
    let alive = world.market.alive();
    assert_eq!(alive.len(), 1, "its disk is kept");
    assert!(!alive[0].contract_running, "and its GPU is not paid");
}

#[tokio::test(start_paused = true)]
async fn what_happened_while_nobody_watched_is_told_when_somebody_is_back() {
    let world = World::new(3, 100);
    world.plan(&spec(RUN));
    ended_alone(&world, ending(0, 0)).await;
    let known = world.attempts(RUN)[0].last_event;
    let left = |seq: u64, kind: &str| AgentEvent {
        seq,
        time_us: 7,
        kind: kind.to_owned(),
        run: RUN.to_owned(),
        attempt: 1,
        detail: json!({"reason": "the training is over and nobody came for it"}),
    };
    // The oldest of what nobody saw did not fit.
    world.boxes.script().left_events = vec![
        left(known + 3, "session.ended"),
        left(known + 4, "self_stop"),
    ];
    let run = world.drive(RUN).await;
    assert_trained_once(&run, &world, Outcome::Done);
    let events = world.store.events(RUN, 0).unwrap();
    let of = |kind: &str| {
        let found: Vec<_> = events.iter().filter(|event| event.kind == kind).collect();
        assert_eq!(found.len(), 1, "{kind}");
        found[0].clone()
    };
    assert_eq!(of("self_stop").seq, known + 4);
    let gap = of("events_gap");
    assert_eq!(gap.detail, json!({"from": known + 1, "to": known + 2}));
}
