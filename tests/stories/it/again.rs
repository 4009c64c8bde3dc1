//! A short session before the training, and runs that are started again after their end.

use std::time::Duration;

use spotter::{
    cli::Verb,
    commands::resume,
    run::{State, lease::Lease},
    spec::{OnDone, RecoverPolicy, Smoke},
    store::{Outcome, RunRecord},
};
use tokio_util::sync::CancellationToken;

use crate::world::{World, spec};

const RUN: &str = "story";

fn with_smoke(timeout_s: u64) -> spotter::spec::RunSpec {
    let mut story = spec(RUN);
    story.smoke = Some(Smoke {
        run: "short".to_owned(),
        steps: Some(100),
        timeout: Duration::from_secs(timeout_s),
    });
    story
}

/// `spotter resume RUN`, as the verb does it.
async fn resume(world: &World, here: bool) {
    let run = world.store.run(RUN).unwrap();
    let _lease = Lease::take(&world.store, RUN).unwrap().unwrap();
    world.lifecycle().reopen(&run, here).await.unwrap();
}

fn assert_crashed(run: &RunRecord, world: &World) {
    assert_eq!(run.outcome, Some(Outcome::Crashed));
    assert!(
        world.boxes.script().started.is_empty(),
        "the training never began"
    );
    assert!(world.was_told("ValueError"), "its last lines are shown");
    assert_eq!(world.market.gpu_charged(), 0);
    assert_eq!(
        world.market.alive().len(),
        1,
        "the disk is kept for the cause"
    );
}

#[tokio::test(start_paused = true)]
async fn a_smoke_runs_before_the_training_with_checkpoints_of_its_own() {
    let world = World::new(3, 100);
    world.boxes.script().lasts.insert("smoke", (40, 0));
    world.plan(&with_smoke(900));
    let (run, ()) = tokio::join!(world.drive(RUN), async {
        world.until(RUN, 1, State::Smoke).await;
        assert!(world.boxes.script().started.is_empty());
        world.until(RUN, 1, State::Running).await;
    });
    assert_eq!(run.outcome, Some(Outcome::Done));
    let requests = world.boxes.script().requests.clone();
    let names: Vec<&str> = requests
        .iter()
        .map(|request| request.name.as_str())
        .collect();
    assert_eq!(names, ["smoke", "train"]);
    let value = |request: usize, name: &str| {
        let env = &requests[request].env;
        env.iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.clone())
    };
    assert_eq!(value(0, "SPOTTER_SMOKE_STEPS").as_deref(), Some("100"));
    assert_ne!(
        value(0, "SPOTTER_CHECKPOINT_DIR"),
        value(1, "SPOTTER_CHECKPOINT_DIR")
    );
    assert_eq!(requests[0].timeout, Some(Duration::from_secs(900)));
    assert!(world.copied(RUN, 1, "smoke").contains("smoke ended"));
}

#[tokio::test(start_paused = true)]
async fn a_smoke_that_crashes_or_takes_too_long_ends_the_run_like_a_crash() {
    for (lasts, text) in [
        ((20, 3), "exited with code 3"),
        ((5_000, 0), "`smoke.timeout` of 60 s"),
    ] {
        let world = World::new(3, 100);
        world.boxes.script().lasts.insert("smoke", lasts);
        world.plan(&with_smoke(60));
        let run = world.drive(RUN).await;
        assert_crashed(&run, &world);
        assert!(run.reason.unwrap().contains(text));
        assert!(world.copied(RUN, 1, "smoke").contains("smoke begins"));
    }
    let world = World::new(3, 100);
    world.boxes.script().lasts.insert("smoke", (20, 3));
    let mut story = with_smoke(60);
    story.on_done = OnDone::Keep;
    world.plan(&story);
    assert_eq!(world.drive(RUN).await.outcome, Some(Outcome::Crashed));
    assert_eq!(world.market.gpu_charged(), 1, "it is kept as it is");
}

#[tokio::test(start_paused = true)]
async fn a_controller_killed_at_any_moment_of_a_smoke_is_followed_by_one_that_goes_on() {
    for (lasts, expected) in [((40, 0), Outcome::Done), ((40, 3), Outcome::Crashed)] {
        for killed_after in (30..90).step_by(4) {
            let world = World::new(3, 50);
            world.boxes.script().lasts.insert("smoke", lasts);
            world.plan(&with_smoke(900));
            world
                .drive_for(RUN, Duration::from_secs(killed_after))
                .await;
            tokio::time::sleep(Duration::from_secs(20)).await;
            let run = world.drive(RUN).await;
            assert_eq!(run.outcome, Some(expected), "{killed_after} s");
            let requests = world.boxes.script().requests.clone();
            let smokes = requests.iter().filter(|request| request.name == "smoke");
            assert_eq!(smokes.count(), 1, "{killed_after} s");
            assert_eq!(world.attempts(RUN).len(), 1, "{killed_after} s");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_crashed_run_is_started_again_on_its_own_box() {
    let world = World::new(3, 100);
    world.boxes.script().crash_at = Some((35, 7));
    world.plan(&spec(RUN));
    assert_eq!(world.drive(RUN).await.outcome, Some(Outcome::Crashed));
    let before = world.attempts(RUN)[0].clone();
    tokio::time::sleep(Duration::from_secs(5 * 3600)).await;
    world.boxes.script().crash_at = None;

    resume(&world, true).await;
    let run = world.drive(RUN).await;

    assert_eq!(run.outcome, Some(Outcome::Done));
    let attempts = world.attempts(RUN);
    assert_eq!(attempts.len(), 1);
    assert_eq!(attempts[0].instance, before.instance);
    let started: Vec<u64> = world
        .boxes
        .script()
        .started
        .iter()
        .map(|(_, step)| *step)
        .collect();
    assert_eq!(started, [0, 30], "from the newest checkpoint");
    let copied = world.copied(RUN, 1, "train");
    assert!(copied.contains("step 35/100") && copied.contains("step 100/100"));
    let (ours, theirs) = world.money(RUN).await;
    assert!((ours - theirs).abs() < 0.005, "{ours} {theirs}");
    assert!(world.market.alive().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_training_that_ended_well_before_its_box_stopped_itself_is_collected_and_not_run_again() {
    let world = World::new(3, 100);
    let mut story = spec(RUN);
    story.resources.rental = spotter::provider::Rental::OnDemand;
    world.plan(&story);
    world.drive_for(RUN, Duration::from_secs(60)).await;
    let attempt = world.until(RUN, 1, State::Running).await;
    // The laptop sleeps; the training ends, and after a while the box by itself.
    tokio::time::sleep(Duration::from_secs(3600)).await;
    world.outbid(attempt.instance);
    assert_eq!(world.drive(RUN).await.outcome, Some(Outcome::Stopped));

    resume(&world, true).await;
    let run = world.drive(RUN).await;

    assert_eq!(run.outcome, Some(Outcome::Done));
    assert_eq!(world.boxes.script().started.len(), 1, "it trained once");
    assert_eq!(world.attempts(RUN).len(), 1);
    assert!(world.copied(RUN, 1, "train").contains("step 100/100"));
    assert!(world.market.alive().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stop_without_a_bucket_keeps_the_disk_that_holds_the_checkpoints() {
    let world = World::new(3, 100);
    let mut story = spec(RUN);
    story.resources.rental = spotter::provider::Rental::OnDemand;
    story.checkpoints.as_mut().unwrap().to = None;
    world.plan(&story);
    let (run, ()) = tokio::join!(world.drive(RUN), async {
        world.until(RUN, 1, State::Running).await;
        world.store.request_stop(RUN).unwrap();
    });
    assert_eq!(run.outcome, Some(Outcome::Stopped));
    assert_eq!(world.market.alive().len(), 1, "its disk is kept");
    assert_eq!(world.market.gpu_charged(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_box_with_the_only_copy_of_what_was_trained_is_kept_when_its_training_ends_well() {
    for (with_dir, on_done, kept) in [
        (true, OnDone::Destroy, true),
        (false, OnDone::Stop, true),
        // Nobody named anything worth keeping, and somebody asked for its end.
        (false, OnDone::Destroy, false),
    ] {
        let world = World::new(3, 100);
        let mut story = spec(RUN);
        story.resources.rental = spotter::provider::Rental::OnDemand;
        story.on_done = on_done;
        match with_dir {
            true => story.checkpoints.as_mut().unwrap().to = None,
            false => story.checkpoints = None,
        }
        world.plan(&story);
        assert_eq!(world.drive(RUN).await.outcome, Some(Outcome::Done));
        assert_eq!(world.market.gpu_charged(), 0);
        assert_eq!(
            world.market.alive().len(),
            usize::from(kept),
            "{with_dir} {on_done:?}"
        );
        assert_eq!(world.was_told("what it wrote is on this disk only"), kept);
        assert_eq!(world.was_told("spotter ssh --start story"), kept);
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_started_again_crashes_again_when_its_cause_is_still_there() {
    let world = World::new(3, 100);
    world.boxes.script().lasts.insert("smoke", (20, 3));
    world.plan(&with_smoke(60));
    assert_eq!(world.drive(RUN).await.outcome, Some(Outcome::Crashed));
    resume(&world, true).await;
    assert_crashed(&world.drive(RUN).await, &world);
    let smokes = world.boxes.script().requests.len();
    assert_eq!(smokes, 2, "the smoke ran again");
    world.boxes.script().lasts.insert("smoke", (20, 0));
    resume(&world, true).await;
    assert_eq!(world.drive(RUN).await.outcome, Some(Outcome::Done));
    assert_eq!(world.attempts(RUN).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_crashed_run_whose_box_is_gone_or_not_wanted_goes_on_elsewhere() {
    for here in [true, false] {
        let world = World::new(3, 100);
        world.boxes.script().crash_at = Some((35, 7));
        world.plan(&spec(RUN));
        assert_eq!(world.drive(RUN).await.outcome, Some(Outcome::Crashed));
        world.boxes.script().crash_at = None;
        if here {
            world
                .market
                .vanish(world.attempts(RUN)[0].instance.unwrap());
        }
        resume(&world, here).await;
        assert_eq!(world.drive(RUN).await.outcome, Some(Outcome::Done));
        assert_eq!(world.attempts(RUN).len(), 2);
        assert_eq!(world.boxes.script().started[1].1, 30);
        assert!(world.market.alive().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_box_that_does_not_come_up_again_keeps_what_it_holds() {
    let world = World::new(3, 100);
    world.boxes.script().crash_at = Some((35, 7));
    let mut story = spec(RUN);
    story.resources.rental = spotter::provider::Rental::OnDemand;
    world.plan(&story);
    assert_eq!(world.drive(RUN).await.outcome, Some(Outcome::Crashed));
    world.boxes.script().dead_boxes = 99;
    resume(&world, true).await;
    let run = world.drive(RUN).await;
    assert_eq!(run.outcome, Some(Outcome::Failed));
    assert_eq!(world.market.alive().len(), 1, "its disk is kept");
    assert_eq!(world.market.gpu_charged(), 0);
    // And once more, when it does.
    world.boxes.script().dead_boxes = 0;
    world.boxes.script().crash_at = None;
    resume(&world, true).await;
    assert_eq!(world.drive(RUN).await.outcome, Some(Outcome::Done));
    assert_eq!(world.attempts(RUN).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_run_started_again_and_stopped_before_its_training_keeps_what_it_holds() {
    let world = World::new(3, 100);
    world.boxes.script().crash_at = Some((35, 7));
    world.plan(&spec(RUN));
    assert_eq!(world.drive(RUN).await.outcome, Some(Outcome::Crashed));
    resume(&world, true).await;
    world.store.request_stop(RUN).unwrap();
    let run = world.drive(RUN).await;
    assert_eq!(run.outcome, Some(Outcome::Stopped));
    assert_eq!(world.market.alive().len(), 1);
    assert_eq!(world.market.gpu_charged(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_run_goes_on_with_another_number_of_gpus_when_somebody_says_so() {
    let world = World::new(3, 200);
    world.market.add_machines(2, 2);
    let mut story = spec(RUN);
    story.resources.num_gpus = 2;
    story.recover.policy = RecoverPolicy::Ask;
    story.run = "torchrun --nproc_per_node=$SPOTTER_NUM_GPUS train.py".to_owned();
    let again = "torchrun --nproc_per_node=$SPOTTER_NUM_GPUS train.py --resume $SPOTTER_CHECKPOINT";
    story.resume = Some(again.to_owned());
    world.plan(&story);
    let (run, ()) = tokio::join!(world.drive(RUN), async {
        let first = world.until(RUN, 1, State::Running).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        world.outbid(first.instance);
    });
    assert_eq!(run.outcome, Some(Outcome::Interrupted));

    // Named as `run` names it.
    let words = [
        "spotter",
        "resume",
        RUN,
        "--gpus",
        "rtx_4090:1",
        "--no-plan",
    ];
    let try_resume = async |words: &[&str]| {
        let (mut ui, deps, verb, paper) = world.typed(words);
        let Verb::Resume(args) = &verb else {
            panic!("`resume` is resume");
        };
        let resumed = resume::resume(&mut ui, &deps, args, CancellationToken::new()).await;
        (resumed, paper.text())
    };
    // Nothing bounds it, and of other hardware nothing was planned.
    let (refused, _) = try_resume(&words[..5]).await;
    assert_eq!(refused.unwrap_err().exit_code(), 2);
    let run = world.store.run(RUN).unwrap();
    assert_eq!(run.outcome, Some(Outcome::Interrupted));
    assert_eq!(run.spec.resources.num_gpus, 2, "it is left as it was");
    let (resumed, text) = try_resume(&words).await;
    assert!(resumed.is_ok(), "{text}");

    let run = world.store.run(RUN).unwrap();
    assert_eq!(run.outcome, Some(Outcome::Done));
    assert_eq!(run.spec.resources.num_gpus, 1, "and so does what follows");
    let planned = world.store.newest_event(RUN, 0, "planned").unwrap();
    assert_eq!(planned.unwrap().detail["no_plan"], true);
    let gpus: Vec<String> = world
        .attempts(RUN)
        .iter()
        .map(|attempt| attempt.gpu.clone())
        .collect();
    assert_eq!(gpus, ["RTX 4090:2", "RTX 4090:1"]);
    let script = world.boxes.script();
    let value = |request: usize, name: &str| {
        let env = &script.requests[request].env;
        let found = env.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.clone())
    };
    for name in [
        "SPOTTER_NUM_GPUS",
        "SKYPILOT_NUM_GPUS_PER_NODE",
        "DSTACK_GPUS_NUM",
        "DSTACK_GPUS_PER_NODE",
    ] {
        assert_eq!(value(0, name).as_deref(), Some("2"), "{name}");
        assert_eq!(value(1, name).as_deref(), Some("1"), "{name}");
    }
    assert_eq!(value(0, "NCCL_NVLS_ENABLE").as_deref(), Some("0"));
    assert_eq!(value(1, "NCCL_NVLS_ENABLE"), None, "one GPU talks to none");
    assert_eq!(value(0, "SPOTTER_CHECKPOINT").as_deref(), Some(""));
    let restored = value(1, "SPOTTER_CHECKPOINT").unwrap();
    assert!(restored.contains("/step-"), "{restored}");
    assert_eq!(script.requests[0].command, story.run);
    assert_eq!(script.requests[1].command, again);
    let judged: Vec<u32> = script
        .configs
        .iter()
        .map(|config| config.validation.gpus)
        .collect();
    assert_eq!((judged.first(), judged.last()), (Some(&2), Some(&1)));
    drop(script);
    assert!(world.market.alive().is_empty());
}

/// A small run is never held up; one that becomes large is, as if it had begun so.
#[tokio::test(start_paused = true)]
async fn limits_are_not_raised_past_the_launch_gate_without_a_word() {
    let world = World::new(3, 200);
    let mut story = spec(RUN);
    story.recover.policy = RecoverPolicy::Ask;
    story.limits.budget_usd = Some(0.5);
    story.limits.storage_days = 0.0;
    world.plan(&story);
    let (run, ()) = tokio::join!(world.drive(RUN), async {
        let first = world.until(RUN, 1, State::Running).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        world.outbid(first.instance);
    });
    assert_eq!(run.outcome, Some(Outcome::Interrupted));
    let try_resume = async |more: &[&str]| {
        let words = [&["spotter", "resume", RUN], more].concat();
        let (mut ui, deps, verb, _paper) = world.typed(&words);
        let Verb::Resume(args) = &verb else {
            panic!("`resume` is resume");
        };
        resume::resume(&mut ui, &deps, args, CancellationToken::new()).await
    };
    let refused = try_resume(&["--budget", "500"]).await.unwrap_err();
    assert_eq!(refused.exit_code(), 2, "{refused:?}");
    assert!(refused.hints().join(" ").contains("--no-plan"));
    let run = world.store.run(RUN).unwrap();
    assert_eq!(run.outcome, Some(Outcome::Interrupted));
    assert_eq!(
        run.spec.limits.budget_usd,
        Some(0.5),
        "it is left as it was"
    );
    // It is small all the same.
    let resumed = try_resume(&["--budget", "0.6"]).await;
    assert!(resumed.is_ok(), "{resumed:?}");
    assert_eq!(world.store.run(RUN).unwrap().outcome, Some(Outcome::Done));
}
